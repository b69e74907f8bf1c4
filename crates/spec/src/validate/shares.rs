//! Rules about shared directories.

use std::path::Path;

use super::devices::named;
use crate::machine::Family;
use crate::share::{Share, ShareKind, ShareSecurity};
use crate::validate::Finding;
use crate::vm::VmSpec;

/// Longest tag, bytes: what virtio has room for.
const TAG_BYTES_MAX: usize = 31;

pub(super) fn shares(spec: &VmSpec, family: Family, findings: &mut Vec<Finding>) {
    for (index, share) in spec.shares.iter().enumerate() {
        let before = spec.shares.get(..index).unwrap_or_default();
        findings.extend(one(share, before));
        findings.extend(machine(share, &spec.machine, family));
        findings.extend(holds(share, spec));
    }
}

fn one(share: &Share, before: &[Share]) -> Vec<Finding> {
    let at = |field: &'static str, message: String| Finding::new(&["shares", &share.name, field], message);
    let mut findings = Vec::from_iter(named("shares", &share.name));
    if let Some(other) = before.iter().find(|other| other.name == share.name) {
        let message = format!("the name `{}` is used twice", other.name);
        findings.push(Finding::new(&["shares", &share.name], message));
    }
    if !share.path.is_absolute() {
        let message = format!("`{}` is not an absolute path", share.path.display());
        findings.push(at("path", message));
    }
    if share.kind == ShareKind::Virtiofs && share.security != ShareSecurity::Passthrough {
        let message = format!(
            "`{}` is for 9p: virtiofs passes owners and modes through",
            share.security
        );
        findings.push(at("security", message).hint("leave `security` out, or write `type: 9p`"));
    }
    let ok = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    if share.tag.is_empty() || share.tag.len() > TAG_BYTES_MAX || !share.tag.chars().all(ok) {
        let shown: String = share.tag.chars().flat_map(char::escape_debug).collect();
        let finding = at("tag", format!("`{shown}` is not a tag for a share"));
        findings.push(finding.hint("tags are 1 to 31 of A-Z a-z 0-9 . _ -"));
    } else if let Some(other) = before.iter().find(|other| other.tag == share.tag) {
        let message = format!("share `{}` already has the tag `{}`", other.name, share.tag);
        findings.push(at("tag", message));
    }
    findings
}

fn machine(share: &Share, machine: &str, family: Family) -> Option<Finding> {
    matches!(family, Family::None | Family::Isapc).then(|| {
        let message = format!("machine `{machine}` has no virtio devices to share directories by");
        Finding::new(&["shares", &share.name], message).hint("write `machine: q35` or `machine: pc`")
    })
}

/// A guest must not get at what its own QEMU is made of.
fn holds(share: &Share, spec: &VmSpec) -> Option<Finding> {
    let kernel = spec.kernel.as_ref();
    let boot = [
        kernel.map(|kernel| kernel.image.as_path()),
        kernel.and_then(|kernel| kernel.initrd.as_deref()),
        spec.firmware.as_deref(),
    ];
    let mut files = spec
        .disks
        .iter()
        .map(|disk| disk.path.as_path())
        .chain(boot.into_iter().flatten());
    let held: &Path = files.find(|path| !share.readonly && path.starts_with(&share.path))?;
    let message = format!(
        "`{}` holds `{}`, and the guest could change it from below",
        share.path.display(),
        held.display()
    );
    let finding = Finding::new(&["shares", &share.name, "path"], message);
    Some(finding.hint("share a directory of its own, or write `readonly: true`"))
}
