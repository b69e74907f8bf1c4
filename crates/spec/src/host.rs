//! Rules about a spec that need a look at the host's files.
//!
//! Kept apart from loading, so that a file can be checked on another machine than the one it is for. QEMU itself is
//! not asked here.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Read};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::fs::{Access, access};

use crate::machine::{Family, architecture, qemu_architecture};
use crate::shell::word;
use crate::validate::Finding;
use crate::vm::{Accel, Aio, Disk, DiskFormat, Share, VmSpec};

/// What a PC's firmware image is a multiple of, bytes: QEMU maps it below 4 GiB in such steps.
const FIRMWARE_STEP_BYTES: u64 = 64 << 10;
/// First bytes of every qcow2 image.
const QCOW2_MAGIC: [u8; 4] = *b"QFI\xfb";

/// What stands in the way of starting the VM on this host as far as its files tell; empty when nothing does.
/// Reads the first bytes of disk images, creates and changes nothing.
pub fn check_host(spec: &VmSpec) -> Vec<Finding> {
    check_host_beside(spec, None)
}

/// As [`check_host`]; of disks that stand on an image of the library and are in `own`, nothing need be there yet: maqet makes
/// the directory too.
pub fn check_host_beside(spec: &VmSpec, own: Option<&Path>) -> Vec<Finding> {
    let is_own = |disk: &Disk| disk.from.is_some() && own.is_some_and(|own| disk.path.starts_with(own));
    let mut findings = Vec::new();
    if let Some(kernel) = &spec.kernel {
        findings.extend(readable(&["kernel", "image"], &kernel.image));
        findings.extend(
            kernel
                .initrd
                .as_deref()
                .and_then(|path| readable(&["kernel", "initrd"], path)),
        );
    }
    if let Some(firmware) = &spec.firmware {
        findings.extend(readable(&["firmware"], firmware).or_else(|| firmware_size(spec, firmware)));
    }
    let disks = spec.disks.iter().filter(|disk| !is_own(disk));
    findings.extend(disks.filter_map(disk));
    findings.extend(one_file_twice(&spec.disks));
    findings.extend(io_uring(spec));
    findings.extend(spec.shares.iter().filter_map(share));
    findings.extend(accelerator(spec));
    findings
}

/// KVM runs guests of the host's own architecture.
fn accelerator(spec: &VmSpec) -> Option<Finding> {
    let host = qemu_architecture(std::env::consts::ARCH);
    let guest = architecture(&spec.binary)?;
    let same = guest == host || (guest, host) == ("i386", "x86_64");
    let finding = Finding::new(&["accel"], format!("KVM on {host} cannot run a guest of {guest}"));
    (spec.accel == Accel::Kvm && !same).then(|| finding.hint("write `accel: auto`"))
}

/// A regular file that this user may read.
fn readable(field: &[&str], path: &Path) -> Option<Finding> {
    let told = |message: String| Some(Finding::new(field, message));
    match fs::metadata(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            told(format!("`{}` does not exist", path.display()))
        }
        Err(error) => told(format!("cannot look at `{}`: {error}", path.display())),
        Ok(metadata) if !metadata.is_file() => told(format!("`{}` is not a regular file", path.display())),
        Ok(_) => File::open(path)
            .err()
            .and_then(|error| told(format!("cannot read `{}`: {error}", path.display()))),
    }
}

fn firmware_size(spec: &VmSpec, path: &Path) -> Option<Finding> {
    let family = Family::of(&spec.machine);
    let bytes = fs::metadata(path).ok()?.len();
    let wrong = bytes == 0 || !bytes.is_multiple_of(FIRMWARE_STEP_BYTES);
    let steps = family.is_pc() || matches!(family, Family::Microvm | Family::Isapc);
    let message = format!(
        "firmware `{}` is {bytes} bytes long, not a multiple of 64 KiB",
        path.display()
    );
    (steps && wrong).then(|| Finding::new(&["firmware"], message))
}

fn disk(disk: &Disk) -> Option<Finding> {
    let field = ["disks", disk.name.as_str(), "path"];
    let told = |message: String| Some(Finding::new(&field, message));
    match fs::metadata(&disk.path) {
        Err(error) if error.kind() == ErrorKind::NotFound => missing(disk, &field),
        Err(error) => told(format!("cannot look at `{}`: {error}", disk.path.display())),
        Ok(metadata) if !metadata.is_file() => {
            told(format!("`{}` is not a regular file", disk.path.display()))
        }
        Ok(_) => existing(disk, &field),
    }
}

fn share(share: &Share) -> Option<Finding> {
    let told = |message: String| Some(Finding::new(&["shares", &share.name, "path"], message));
    let shown = share.path.display();
    let asked = if share.readonly {
        Access::READ_OK | Access::EXEC_OK
    } else {
        Access::READ_OK | Access::WRITE_OK | Access::EXEC_OK
    };
    match fs::metadata(&share.path) {
        Err(error) => {
            let finding = told(format!("cannot look at `{shown}`: {error}"))?;
            Some(finding.hint(format!("mkdir -p {}", word(&share.path))))
        }
        Ok(metadata) if !metadata.is_dir() => told(format!("`{shown}` is not a directory")),
        Ok(_) => access(&share.path, asked)
            .err()
            .and_then(|error| told(format!("cannot share `{shown}`: {error}"))),
    }
}

/// Two disks whose paths lead to one file, which one of them writes to.
fn one_file_twice(disks: &[Disk]) -> Option<Finding> {
    let file = |disk: &Disk| {
        fs::metadata(&disk.path)
            .ok()
            .map(|found| (found.dev(), found.ino()))
    };
    disks.iter().enumerate().find_map(|(number, disk)| {
        let found = file(disk)?;
        let mut before = disks.iter().take(number);
        let other = before.find(|other| file(other) == Some(found) && !(other.readonly && disk.readonly))?;
        let message = format!(
            "`{}` is the file of disk `{}` as well",
            disk.path.display(),
            other.name
        );
        let finding = Finding::new(&["disks", &disk.name, "path"], message);
        Some(finding.hint("give each disk a file of its own"))
    })
}

/// A host where nobody may use `io_uring`. Where only some may, QEMU finds out.
fn io_uring(spec: &VmSpec) -> Option<Finding> {
    /// `kernel.io_uring_disabled`: for everybody.
    const DISABLED: &str = "2";
    let disk = spec.disks.iter().find(|disk| disk.aio == Aio::IoUring)?;
    let setting = fs::read_to_string("/proc/sys/kernel/io_uring_disabled").ok()?;
    (setting.trim() == DISABLED).then(|| {
        let message = "this host does not let anybody use io_uring (`kernel.io_uring_disabled` is 2)";
        Finding::new(&["disks", &disk.name, "aio"], message).hint("write `aio: threads`")
    })
}

fn existing(disk: &Disk, field: &[&str]) -> Option<Finding> {
    let shown = disk.path.display();
    let opened = OpenOptions::new()
        .read(true)
        .write(!disk.readonly)
        .open(&disk.path);
    let mut file = match opened {
        Ok(file) => file,
        Err(error) => {
            let how = if disk.readonly { "read" } else { "write" };
            let finding = Finding::new(field, format!("cannot {how} `{shown}`: {error}"));
            return Some(if disk.readonly {
                finding
            } else {
                finding.hint("write `readonly: true` beside it, or let this user write to it")
            });
        }
    };
    let mut magic = [0; 4];
    let is_qcow2 = file.read_exact(&mut magic).is_ok() && magic == QCOW2_MAGIC;
    match disk.format {
        DiskFormat::Qcow2 if !is_qcow2 => {
            let finding = Finding::new(field, format!("`{shown}` is not a qcow2 image"));
            Some(finding.hint("write `format: raw` if it holds plain bytes"))
        }
        // The guest would see the image's own tables, and write over them.
        DiskFormat::Raw if is_qcow2 && !disk.readonly => {
            let finding = Finding::new(field, format!("`{shown}` is a qcow2 image, not a raw one"));
            Some(finding.hint("write `format: qcow2`"))
        }
        DiskFormat::Qcow2 | DiskFormat::Raw => None,
    }
}

/// An image that is to be created needs a size and a directory to be created in.
fn missing(disk: &Disk, field: &[&str]) -> Option<Finding> {
    let shown = disk.path.display();
    if !disk.is_makeable() {
        let finding = Finding::new(field, format!("`{shown}` does not exist"));
        let made = "write `size: 10G` to have it created at the first start";
        return Some(if disk.readonly {
            finding
        } else {
            finding.hint(made)
        });
    }
    if fs::symlink_metadata(&disk.path).is_ok() {
        return Some(Finding::new(
            field,
            format!("`{shown}` is a link that leads nowhere"),
        ));
    }
    let parent = disk.path.parent()?;
    match fs::metadata(parent) {
        Ok(metadata) if metadata.is_dir() => {
            access(parent, Access::WRITE_OK | Access::EXEC_OK)
                .err()
                .map(|error| {
                    Finding::new(
                        field,
                        format!("`{shown}` cannot be created: its directory is not writable ({error})"),
                    )
                })
        }
        Ok(_) => Some(Finding::new(
            field,
            format!("`{}` is not a directory", parent.display()),
        )),
        Err(error) => Some(
            Finding::new(
                field,
                format!("`{shown}` cannot be created: its directory: {error}"),
            )
            .hint(format!("mkdir -p {}", word(parent))),
        ),
    }
}

#[cfg(test)]
mod tests;
