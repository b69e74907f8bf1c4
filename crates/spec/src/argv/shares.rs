//! Shared directories on QEMU's command line.

use std::path::PathBuf;

use crate::argv::{Wiring, WiringError, Words};
use crate::machine::Family;
use crate::vm::VmSpec;

/// A directory that a process has open, as a path of that process: it leads to that directory, whatever has become of its name.
pub fn opened(fd: i32) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{fd}"))
}

/// Every share as file system and device. QEMU opens the directory it was handed, and walks from there without following
/// symbolic links.
pub(super) fn shares(
    words: &mut Words,
    spec: &VmSpec,
    wiring: &Wiring,
    family: Family,
) -> Result<(), WiringError> {
    let transport = if family == Family::Microvm {
        "device"
    } else {
        "pci"
    };
    for share in &spec.shares {
        let (name, tag, security) = (&share.name, &share.tag, share.security);
        let wired = wiring.shares.iter().find(|wired| wired.name == *name);
        let wired = wired.ok_or_else(|| WiringError::Share(name.clone()))?;
        let readonly = if share.readonly { ",readonly=on" } else { "" };
        words.pair(
            "-fsdev",
            format!(
                "local,id=share.{name},path={},security_model={security},multidevs=remap{readonly}",
                opened(wired.fd).display()
            ),
        );
        words.pair(
            "-device",
            format!("virtio-9p-{transport},fsdev=share.{name},mount_tag={tag}"),
        );
    }
    Ok(())
}
