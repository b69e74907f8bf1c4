//! Disk images, opened once for one start and handed to QEMU as descriptors.

use std::os::fd::OwnedFd;

use maqet_protocol::refusal::{Refusal, RefusalCode};
use maqet_spec::vm::Disk;
use rustix::fs::{CWD, FileType, Mode, OFlags, fstat, openat};
use rustix::io::Errno;

use crate::place::Place;

/// Opens the image of a disk. Each start opens its own: a shared description would defeat QEMU's image locks.
///
/// # Errors
/// `invalid-spec`, which names the disk, its path and what is wrong.
pub(crate) fn open(place: &Place, disk: &Disk) -> Result<OwnedFd, Refusal> {
    let access = if disk.readonly {
        OFlags::RDONLY
    } else {
        OFlags::RDWR
    };
    // A FIFO in the image's place must not block the runner; QEMU never asks for the flag on files and devices.
    let flags = access | OFlags::CLOEXEC | OFlags::NOCTTY | OFlags::NONBLOCK;
    let fd = openat(CWD, &disk.path, flags, Mode::empty()).map_err(|errno| unusable(place, disk, errno))?;
    let stat = fstat(&fd).map_err(|errno| unusable(place, disk, errno))?;
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile | FileType::BlockDevice => Ok(fd),
        FileType::Directory
        | FileType::Symlink
        | FileType::Fifo
        | FileType::Socket
        | FileType::CharacterDevice
        | FileType::Unknown => {
            let words = format!("disk `{}` is neither a file nor a block device", disk.name);
            Err(place
                .refusal(RefusalCode::InvalidSpec, words)
                .cause(format!("`{}`", disk.path.display())))
        }
    }
}

fn unusable(place: &Place, disk: &Disk, errno: Errno) -> Refusal {
    let words = format!("disk `{}` cannot be opened", disk.name);
    let refusal = place
        .refusal(RefusalCode::InvalidSpec, words)
        .cause(format!("`{}`: {errno}", disk.path.display()));
    if errno == Errno::NOENT && disk.size.is_none() {
        return refusal.hint("give the disk a `size:` to have its image created");
    }
    refusal
}
