//! Disk images, opened once for one start and handed to QEMU as descriptors.

use std::os::fd::OwnedFd;
use std::path::Path;

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

/// The files that were opened for a disk, which must be those on record if any are: what is compared is what QEMU gets.
///
/// # Errors
/// `conflict`, which names the disk, the path and both files.
pub(crate) fn recognize(
    place: &Place,
    disk: &Disk,
    chain: &Chain,
    expected: &[ExpectedFile],
) -> Result<Vec<OpenedFile>, Refusal> {
    let top = (disk.path.as_path(), &chain.top);
    let below = chain.below.iter();
    let below = below.map(|layer| (layer.named.as_path(), &layer.image));
    let files = std::iter::once(top).chain(below);
    files
        .map(|(path, image)| recognize_one(place, disk, (path, image), expected))
        .collect()
}

fn recognize_one(
    place: &Place,
    disk: &Disk,
    (path, image): (&Path, &Image),
    expected: &[ExpectedFile],
) -> Result<OpenedFile, Refusal> {
    let file = FileMark::of_fd(&image.fd).map_err(|error| {
        let words = format!("disk `{}` cannot be looked at", disk.name);
        place.refusal_from(RefusalCode::StartFailed, words, &error)
    })?;
    let recorded = expected.iter().find(|expected| expected.path == path);
    if let Some(recorded) = recorded
        && !recorded.file.is_file(&file, recorded.same_boot)
    {
        let (name, vm) = (&disk.name, &place.name);
        let is = if path == disk.path { "is" } else { "stands on" };
        let words = format!("disk `{name}` of `{vm}` {is} another file than the one on record");
        let found = format!("`{}` is {file}; on record is {}", path.display(), recorded.file);
        let hint = format!("if it is the right one: maqet storage accept {vm} {name}");
        return Err(place
            .refusal(RefusalCode::Conflict, words)
            .cause(found)
            .hint(hint));
    }
    let path = path.to_owned();
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
