//! Disk images, opened once for one start and handed to QEMU as descriptors.

use std::io;
use std::os::fd::OwnedFd;

use maqet_protocol::refusal::{Refusal, RefusalCode};
use maqet_spec::argv::{DiskWiring, LayerWiring};
use maqet_spec::vm::Disk;
use maqet_storage::image::{self, Chain, Image, Layer};
use maqet_storage::{PathPolicy, StorageError};

use crate::place::Place;

/// Opens the image of a disk and all that it stands on. Each start opens its own: a shared description would defeat QEMU's
/// image locks. One that is written to must be where the policy allows it, wherever the symbolic links of its path lead.
///
/// # Errors
/// `invalid-spec`, which names the disk, its path and what is wrong.
pub(crate) fn open(place: &Place, disk: &Disk, policy: &PathPolicy) -> Result<Chain, Refusal> {
    match image::open_chain(&disk.path, disk.format, disk.readonly, policy) {
        Ok(chain) => Ok(chain),
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

/// Numbers the descriptors of a disk's images for QEMU and puts them among those that are `passed`.
pub(crate) fn wire(
    disk: &Disk,
    chain: Chain,
    passed: &mut Vec<(OwnedFd, i32)>,
    next: &mut impl FnMut() -> i32,
) -> DiskWiring {
    let mut pass = |image: Image| {
        let number = next();
        passed.push((image.fd, number));
        number
    };
    let fd = pass(chain.top);
    let layer = |layer: Layer| LayerWiring {
        fd: pass(layer.image),
        format: layer.format,
    };
    DiskWiring {
        name: disk.name.clone(),
        fd,
        below: chain.below.into_iter().map(layer).collect(),
    }
}

fn is_missing(error: &StorageError) -> bool {
    let source = std::error::Error::source(error).and_then(|source| source.downcast_ref::<io::Error>());
    source.is_some_and(|source| source.kind() == io::ErrorKind::NotFound)
}
