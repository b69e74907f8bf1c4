//! Shared directories on QEMU's command line.

use std::path::PathBuf;

use crate::argv::{Wiring, WiringError, Words};
use crate::machine::Family;
use crate::share::{Share, ShareKind};
use crate::vm::VmSpec;

/// A directory that a process has open, as a path of that process: it leads to that directory, whatever has become of its name.
pub fn opened(fd: i32) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{fd}"))
}

/// The guest's memory, where another process has to see it: a virtiofsd puts what the guest reads right there. The word for
/// `-machine` that makes it the guest's.
pub(super) fn memory(words: &mut Words, spec: &VmSpec) -> &'static str {
    if !spec.shares.iter().any(|share| share.kind == ShareKind::Virtiofs) {
        return "";
    }
    words.pair(
        "-object",
        format!(
            "memory-backend-memfd,id=shared-ram,share=on,size={}",
            spec.memory.0
        ),
    );
    ",memory-backend=shared-ram"
}

/// Every share as file system and device.
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
        let wired = wiring.shares.iter().find(|wired| wired.name == share.name);
        let wired = wired.ok_or_else(|| WiringError::Share(share.name.clone()))?;
        match share.kind {
            ShareKind::Plan9 => by_9p(words, share, wired.fd, transport),
            ShareKind::Virtiofs => by_virtiofs(words, share, wired.fd, transport),
        }
    }
    Ok(())
}

/// QEMU opens the directory it was handed, and walks from there without following symbolic links.
fn by_9p(words: &mut Words, share: &Share, fd: i32, transport: &str) {
    let (name, tag, security) = (&share.name, &share.tag, share.security);
    let readonly = if share.readonly { ",readonly=on" } else { "" };
    words.pair(
        "-fsdev",
        format!(
            "local,id=share.{name},path={},security_model={security},multidevs=remap{readonly}",
            opened(fd).display()
        ),
    );
    words.pair(
        "-device",
        format!("virtio-9p-{transport},fsdev=share.{name},mount_tag={tag}"),
    );
}

/// QEMU is connected already, and never sees the directory.
fn by_virtiofs(words: &mut Words, share: &Share, fd: i32, transport: &str) {
    let (name, tag) = (&share.name, &share.tag);
    words.pair("-chardev", format!("socket,id=share.{name},fd={fd}"));
    words.pair(
        "-device",
        format!("vhost-user-fs-{transport},chardev=share.{name},tag={tag}"),
    );
}
