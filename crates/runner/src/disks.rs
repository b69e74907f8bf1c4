//! Disk images, opened once for one start and handed to QEMU as descriptors.

use std::io;
use std::os::fd::OwnedFd;

use maqet_protocol::refusal::{Refusal, RefusalCode};
use maqet_spec::vm::Disk;
use maqet_storage::{StorageError, image};

use crate::place::Place;

/// Opens the image of a disk. Each start opens its own: a shared description would defeat QEMU's image locks.
///
/// # Errors
/// `invalid-spec`, which names the disk, its path and what is wrong.
pub(crate) fn open(place: &Place, disk: &Disk) -> Result<OwnedFd, Refusal> {
    match image::open(&disk.path, disk.readonly) {
        Ok(image) => Ok(image.fd),
        Err(error) => {
            let words = format!("disk `{}` cannot be opened", disk.name);
            let refusal = place.refusal_from(RefusalCode::InvalidSpec, words, &error);
            let hint = if is_missing(&error) && disk.size.is_none() {
                Some("give the disk a `size:` to have its image created".to_owned())
            } else {
                error.hint()
            };
            Err(match hint {
                Some(hint) => refusal.hint(hint),
                None => refusal,
            })
        }
    }
}

fn is_missing(error: &StorageError) -> bool {
    let source = std::error::Error::source(error).and_then(|source| source.downcast_ref::<io::Error>());
    source.is_some_and(|source| source.kind() == io::ErrorKind::NotFound)
}
