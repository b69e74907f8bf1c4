//! What `add` must know before it accepts a VM: nothing is stored that `start` would refuse for a reason known now.

use std::path::{Path, PathBuf};
use std::rc::Rc;

use maqet_protocol::refusal::{Refusal, RefusalCode};
use maqet_spec::shell::word;
use maqet_spec::validate::Finding;
use maqet_spec::vm::Accel;
use maqet_spec::yaml;
use maqet_spec::{Size, VmSpec};
use maqet_storage::PathPolicy;
use maqet_storage::binary::Binary;
use maqet_storage::error::StorageError;

use crate::aside::Aside;
use crate::link::chain;
use crate::shared::Shared;
use crate::standing;

/// Checks a spec against its own rules (a client may have made it by hand), this host and its QEMU.
pub(crate) async fn check(spec: &VmSpec, shared: &Rc<Shared>) -> Result<(), Refusal> {
    refuse_first(spec, maqet_spec::validate(spec))?;
    // Before anybody looks what is there: what is forbidden is, whether it exists or not.
    check_paths(spec, &shared.policy)?;
    let (host, policy, own) = (spec.clone(), shared.policy.clone(), shared.places.own());
    let (disks, library) = (shared.places.disks(), shared.places.images());
    let looking = move || {
        let bad = bad_share(&host, &policy, &own);
        if let Some(denied) = bad.as_ref().filter(|bad| bad.denied) {
            return Err(denied.refusal.clone());
        }
        refuse_first(&host, maqet_spec::check_host_beside(&host, Some(&disks)))?;
        standing::refuse_library(host.name.as_str(), &host.disks, &library)?;
        bad.map_or(Ok(()), |bad| Err(bad.refusal))
    };
    // A VM that is not stored yet has no thread of its own.
    Aside::default().run(looking).await??;
    check_images(spec, shared)?;
    crate::virtiofsd::program(spec, shared, RefusalCode::InvalidSpec)?;
    check_qemu(spec, shared).await
}

/// The same for a VM that is new: where maqet chose the place of a disk, no image of an earlier VM is taken for it.
pub(crate) async fn check_new(spec: &VmSpec, shared: &Rc<Shared>) -> Result<(), Refusal> {
    check(spec, shared).await?;
    let own = shared.places.disks();
    let disks = spec.disks.iter();
    let chosen = disks.filter(|disk| disk.from.is_some() && disk.path.starts_with(&own));
    let chosen: Vec<_> = chosen
        .map(|disk| (disk.name.clone(), disk.path.clone()))
        .collect();
    let looking = move || {
        chosen
            .into_iter()
            .find(|(_, path)| path.symlink_metadata().is_ok())
    };
    match Aside::default().run(looking).await? {
        None => Ok(()),
        Some((disk, path)) => Err(left_behind(spec, &disk, &path)),
    }
}

fn left_behind(spec: &VmSpec, disk: &str, path: &Path) -> Refusal {
    let (vm, shown, written) = (&spec.name, path.display(), yaml::word(path));
    let message = format!("disk `{disk}` of `{vm}` cannot be made: there is one of an earlier `{vm}`");
    Refusal::new(RefusalCode::Conflict, message)
        .vm(vm.as_str())
        .cause(format!("`{shown}` is there"))
        .hint(format!(
            "delete it, or write `path: {written}` without `from` to use it as it is"
        ))
}

fn refuse_first(spec: &VmSpec, findings: Vec<Finding>) -> Result<(), Refusal> {
    let Some(finding) = findings.into_iter().next() else {
        return Ok(());
    };
    let refusal = invalid(spec, format!("{}: {}", finding.field, finding.message));
    Err(match finding.hint {
        Some(hint) => refusal.hint(hint),
        None => refusal,
    })
}

/// Images are only made where the policy lets maqet write.
fn check_paths(spec: &VmSpec, policy: &PathPolicy) -> Result<(), Refusal> {
    for disk in spec.disks.iter().filter(|disk| !disk.readonly) {
        policy.check(&disk.path).map_err(|denied| {
            let refusal = invalid(
                spec,
                format!("disk `{}` is in a place maqet does not write to", disk.name),
            );
            let hint = denied.hint();
            refusal.cause(chain(&denied)).hint(hint)
        })?;
    }
    for path in &spec.sandbox_paths.write {
        policy.check(path).map_err(|denied| {
            let refusal = invalid(spec, "sandbox.write: QEMU does not write there".to_owned());
            let hint = denied.hint();
            refusal.cause(chain(&denied)).hint(hint)
        })?;
    }
    Ok(())
}

/// A directory that is not shared.
struct BadShare {
    /// By the policy, whatever there is.
    denied: bool,
    refusal: Refusal,
}

/// The first directory that cannot be shared, or that the policy keeps guests out of. Blocks.
fn bad_share(spec: &VmSpec, policy: &PathPolicy, own: &[PathBuf]) -> Option<BadShare> {
    spec.shares.iter().find_map(|share| {
        let error = maqet_storage::share::open(&share.path, policy, own).err()?;
        let message = format!("share `{}` cannot be handed to a guest", share.name);
        let refusal = invalid(spec, message).cause(chain(&error));
        Some(BadShare {
            denied: matches!(error, StorageError::Denied(_)),
            refusal: match error.hint() {
                Some(hint) => refusal.hint(hint),
                None => refusal,
            },
        })
    })
}

/// Images that disks are to stand on are in the library, and no larger than the disks.
fn check_images(spec: &VmSpec, shared: &Shared) -> Result<(), Refusal> {
    for disk in &spec.disks {
        let Some(name) = &disk.from else { continue };
        let image = shared
            .library
            .find(name)
            .map_err(|error| crate::library::refusal(&error).vm(spec.name.as_str()))?;
        if let Some(size) = disk.size.filter(|size| size.0 < image.virtual_bytes) {
            let message = format!(
                "disks.{}.size: {size} is less than image `{name}` has, {}",
                disk.name,
                Size(image.virtual_bytes)
            );
            return Err(invalid(spec, message).hint("leave `size` out, or write a larger one"));
        }
    }
    Ok(())
}

/// The QEMU program exists, and knows the machine and the options asked for.
async fn check_qemu(spec: &VmSpec, shared: &Shared) -> Result<(), Refusal> {
    let binary = shared.binaries.lookup(&spec.binary).map_err(|error| {
        invalid(spec, "the QEMU program cannot be used".to_owned())
            .cause(chain(&error))
            .hint("apt install qemu-system-x86, or set `binary:` to QEMU's path")
    })?;
    let abilities = shared.probes.of(&binary).await.map_err(|error| {
        invalid(
            spec,
            format!("`{}` does not tell what it can do", binary.path.display()),
        )
        .cause(chain(&error))
    })?;
    // Options may follow the name: `q35,smm=off`.
    let machine = spec.machine.split(',').next().unwrap_or_default();
    if !abilities.has_machine(machine) {
        let message = format!(
            "machine: `{}` knows no machine `{}`",
            binary.path.display(),
            machine
        );
        return Err(invalid(spec, message).hint(format!("{} -machine help", word(&binary.path))));
    }
    let unknown = spec
        .extra_args
        .iter()
        .find(|word| is_option(word) && !abilities.has_option(word));
    if let Some(option) = unknown {
        let message = format!("args: `{}` knows no option `{option}`", binary.path.display());
        return Err(invalid(spec, message).hint(format!("{} -help", word(&binary.path))));
    }
    check_kvm(spec, &binary, shared).await
}

/// Whoever insists on KVM is told now that it does not run guests here, not at the start.
async fn check_kvm(spec: &VmSpec, binary: &Binary, shared: &Shared) -> Result<(), Refusal> {
    if spec.accel != Accel::Kvm {
        return Ok(());
    }
    let usable = shared.kvm.usable(binary, &shared.probes).await;
    usable.map_err(|trouble| {
        invalid(spec, "accel: KVM does not run guests on this host".to_owned())
            .cause(chain(&trouble))
            .hint("write `accel: auto`, which takes KVM where it works")
    })
}

/// A value may begin with a dash too, as a number or alone.
fn is_option(word: &str) -> bool {
    let name = word.trim_start_matches('-');
    word.starts_with('-') && name.starts_with(|first: char| first.is_ascii_alphabetic())
}

fn invalid(spec: &VmSpec, message: String) -> Refusal {
    Refusal::new(RefusalCode::InvalidSpec, message).vm(spec.name.as_str())
}
