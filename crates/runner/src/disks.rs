//! Disk images, opened once for one start and handed to QEMU as descriptors.

use std::os::fd::OwnedFd;

use maqet_process::identity::FileMark;
use maqet_protocol::refusal::{Refusal, RefusalCode};
use maqet_protocol::runner::{ExpectedFile, OpenedFile};
use maqet_spec::argv::{DiskWiring, LayerWiring};
use maqet_spec::vm::Disk;
use maqet_storage::PathPolicy;
use maqet_storage::image::{self, Chain, Image, Layer};

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
            let hint = if error.is_missing() && !disk.is_makeable() {
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

/// The file that was opened for a disk, which must be the one on record if one is: what is compared is what QEMU gets.
///
/// # Errors
/// `conflict`, which names the disk, its path and both files.
pub(crate) fn recognize(
    place: &Place,
    disk: &Disk,
    image: &Image,
    expected: &[ExpectedFile],
) -> Result<OpenedFile, Refusal> {
    let file = FileMark::of_fd(&image.fd).map_err(|error| {
        let words = format!("disk `{}` cannot be looked at", disk.name);
        place.refusal_from(RefusalCode::StartFailed, words, &error)
    })?;
    let recorded = expected.iter().find(|expected| expected.path == disk.path);
    if let Some(recorded) = recorded
        && !recorded.file.is_file(&file, recorded.same_boot)
    {
        let (name, vm, path) = (&disk.name, &place.name, disk.path.display());
        let words = format!("disk `{name}` of `{vm}` is another file than the one on record");
        let found = format!("`{path}` is {file}; on record is {}", recorded.file);
        let hint = format!("if it is the right one: maqet storage accept {vm} {name}");
        return Err(place
            .refusal(RefusalCode::Conflict, words)
            .cause(found)
            .hint(hint));
    }
    let path = disk.path.clone();
    Ok(OpenedFile { path, file })
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
