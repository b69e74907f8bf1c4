//! Files of disks around a start: which are expected, which are missing and made first.

use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

use maqet_process::identity::FileMark;
use maqet_process::point::{Point, pass};
use maqet_protocol::refusal::{Refusal, RefusalCode};
use maqet_protocol::runner::ExpectedFile;
use maqet_spec::ImageName;
use maqet_spec::size::Size;
use maqet_spec::vm::Disk;
use maqet_state::disk::DiskRecords;
use maqet_storage::PathPolicy;
use maqet_storage::error::StorageError;
use maqet_storage::image::{self, Chain, Draft};

use crate::launch::{Plan, record};
use crate::library::Claim;
use crate::link::chain;
use crate::messages::RecordStep;

/// Makes every image that is missing and has a size. Each is on record as the VM's own before it has its name, so that it is
/// whatever comes between. Tells which files the runner must find.
///
/// # Errors
/// `conflict` for a file that a QEMU had before and that is gone: an empty one in its place would hide the loss.
/// `start-failed` for an image that cannot be made.
pub(crate) async fn create_missing(plan: &Plan) -> Result<Vec<ExpectedFile>, Refusal> {
    let mut made = Vec::new();
    for disk in &plan.spec.disks {
        match plan.files.get(&disk.path) {
            _ if is_there(plan, disk).await? => {}
            Some(known) if known.used => return Err(gone(plan.spec.name.as_str(), disk)),
            Some(_) | None => {
                let file = create(plan, disk).await?;
                made.extend(file.map(|file| (disk.path.clone(), file)));
            }
        }
    }
    let is_made = |path: &Path| made.iter().any(|(made, _)| made == path);
    let on_record = plan.files.iter().filter(|known| !is_made(&known.path));
    let on_record = on_record.filter_map(|known| {
        Some(ExpectedFile {
            path: known.path.clone(),
            file: known.file?,
            same_boot: known.boot_id == plan.shared.boot_id,
        })
    });
    let mut expected: Vec<_> = on_record.collect();
    expected.extend(made.into_iter().map(|(path, file)| ExpectedFile {
        path,
        file,
        same_boot: true,
    }));
    Ok(expected)
}

async fn is_there(plan: &Plan, disk: &Disk) -> Result<bool, Refusal> {
    let path = disk.path.clone();
    plan.shared.asides.of(&plan.id).run(move || path.exists()).await
}

/// Opens a disk's chain outside of a start: it must be made of the files on record, as a start insists. Blocks.
///
/// # Errors
/// `conflict` for another file, or none; `wrong-state` for one that is yet to be made; `invalid-spec` for what cannot be used.
pub(crate) fn open_known(
    vm: &str,
    disk: &Disk,
    readonly: bool,
    files: &DiskRecords,
    (boot_id, policy): (&str, &PathPolicy),
) -> Result<Chain, Refusal> {
    let name = &disk.name;
    let unusable = |why: String| {
        let message = format!("disk `{name}` of `{vm}` cannot be opened");
        Refusal::new(RefusalCode::InvalidSpec, message).vm(vm).cause(why)
    };
    if is_gone(disk, files) {
        return Err(gone(vm, disk));
    }
    if disk.is_makeable() && !disk.path.exists() {
        return Err(unmade(vm, disk));
    }
    let opened = image::open_chain(&disk.path, disk.format, readonly, policy);
    let opened = opened.map_err(|error| match error.hint() {
        Some(hint) => unusable(chain(&error)).hint(hint),
        None => unusable(chain(&error)),
    })?;
    let below = opened.below.iter();
    let below = below.map(|layer| (layer.named.as_path(), &layer.image));
    let marks = std::iter::once((disk.path.as_path(), &opened.top)).chain(below);
    let marks: Result<Vec<_>, _> = marks
        .map(|(path, image)| FileMark::of_fd(&image.fd).map(|mark| (path, mark)))
        .collect();
    let marks = marks.map_err(|error| unusable(error.to_string()))?;
    let found = marks.iter().map(|(path, mark)| (*path, mark));
    let Some(exchanged) = files.exchanged(found, boot_id) else {
        return Ok(opened);
    };
    let is = if exchanged.record.path == disk.path {
        "is"
    } else {
        "stands on"
    };
    let message = format!("disk `{name}` of `{vm}` {is} another file than the one on record");
    let refusal = Refusal::new(RefusalCode::Conflict, message).vm(vm);
    let cause = format!("`{}` is {}", exchanged.record.path.display(), exchanged.found);
    let hint = format!("if it is the right one: maqet storage accept {vm} {name}");
    Err(refusal.cause(cause).hint(hint))
}

/// A QEMU had the file of this disk, and there is none.
pub(crate) fn gone(vm: &str, disk: &Disk) -> Refusal {
    let name = &disk.name;
    let message = format!("disk `{name}` of `{vm}` is gone");
    let path = disk.path.display();
    Refusal::new(RefusalCode::Conflict, message)
        .vm(vm)
        .cause(format!("`{path}` is on record, and there is no file"))
        .hint(format!(
            "put it back; if it is lost for good: maqet storage accept {vm} {name}"
        ))
}

/// The first start is to make this disk, and there was none.
pub(crate) fn unmade(vm: &str, disk: &Disk) -> Refusal {
    let message = format!("disk `{}` of `{vm}` has no image yet", disk.name);
    let refusal = Refusal::new(RefusalCode::WrongState, message).vm(vm);
    refusal.hint(format!("maqet start {vm}"))
}

/// Whether a disk is gone: not one that the first start is to make.
pub(crate) fn is_gone(disk: &Disk, files: &DiskRecords) -> bool {
    files.get(&disk.path).is_some_and(|known| known.used) && !disk.path.exists()
}

/// Makes an image that has a size; `None` when it has none, or somebody else made the file meanwhile: then it is used like
/// any file that was there, and is not ours.
async fn create(plan: &Plan, disk: &Disk) -> Result<Option<FileMark>, Refusal> {
    let content = match (&disk.from, disk.size) {
        (None, None) => return Ok(None),
        (None, Some(size)) => Content::Empty(size),
        (Some(image), size) => Content::Of(image, size),
    };
    // Until the disk has its name: whoever deletes the image finds it from then on.
    let _claim = disk
        .from
        .as_ref()
        .map(|image| claim(plan, disk, image))
        .transpose()?;
    let draft = match draft(plan, disk, content).await {
        Ok(draft) => draft,
        Err(error) => return refuse(plan, disk, &error).map(|()| None),
    };
    let file = match draft.mark() {
        Ok(file) => file,
        Err(error) => return refuse(plan, disk, &error).map(|()| None),
    };
    let path = disk.path.clone();
    record(plan, RecordStep::MakingFile { path, file }).await?;
    let named = draft.named().await;
    let path = disk.path.clone();
    match named {
        Ok(_created) => {
            record(plan, RecordStep::FileMade(path)).await?;
            Ok(Some(file))
        }
        Err(error) => {
            record(plan, RecordStep::FileNotMade(path)).await?;
            refuse(plan, disk, &error).map(|()| None)
        }
    }
}

/// The image stays while a disk is made on it.
fn claim(plan: &Plan, disk: &Disk, image: &ImageName) -> Result<Claim, Refusal> {
    plan.shared.claims.make_on(image).ok_or_else(|| {
        let name = plan.spec.name.as_str();
        let cause = format!("disk `{}` of `{name}` was to be made on it", disk.name);
        Refusal::new(RefusalCode::Conflict, format!("image `{image}` is being deleted"))
            .vm(name)
            .cause(cause)
            .hint(format!(
                "import it again when it is gone: maqet image import FILE --name {image}"
            ))
    })
}

/// What a new image is to show.
enum Content<'d> {
    /// Nothing, and so large.
    Empty(Size),
    /// An image of the library; as large as that, or as said.
    Of(&'d ImageName, Option<Size>),
}

async fn draft(plan: &Plan, disk: &Disk, content: Content<'_>) -> Result<Draft, StorageError> {
    let (policy, binaries) = (&plan.shared.policy, &plan.shared.binaries);
    let library = &plan.shared.library;
    match content {
        Content::Empty(size) => image::draft(&disk.path, disk.format, size, policy, binaries).await,
        Content::Of(name, size) => {
            let image = library.find(name)?;
            let size = size.unwrap_or(Size(image.virtual_bytes));
            let base = library.path_of(name);
            let (noting, noted, path) = (library.clone(), name.clone(), disk.path.clone());
            let own = plan.shared.places.disks();
            let noted = tokio::task::spawn_blocking(move || {
                make_place(&path, &own)?;
                noting.note_overlay(&noted, &path)
            });
            noted.await.map_err(|panic| StorageError::File {
                action: "note an overlay of",
                path: base.clone(),
                source: std::io::Error::other(panic),
            })??;
            pass(Point::DiskNoted);
            image::draft_overlay(&disk.path, (&base, image.format), size, policy, binaries).await
        }
    }
}

/// The directory of a disk whose place maqet chose. All others are people's to make.
fn make_place(path: &Path, own: &Path) -> Result<(), StorageError> {
    let Some(parent) = path.parent().filter(|parent| parent.starts_with(own)) else {
        return Ok(());
    };
    let made = DirBuilder::new().recursive(true).mode(0o700).create(parent);
    made.map_err(|source| StorageError::File {
        action: "make directory",
        path: parent.to_owned(),
        source,
    })
}

fn refuse(plan: &Plan, disk: &Disk, error: &StorageError) -> Result<(), Refusal> {
    if matches!(error, StorageError::Exists { .. }) {
        return Ok(());
    }
    let name = plan.spec.name.as_str();
    let message = format!("disk `{}` of `{name}` cannot be created", disk.name);
    let refusal = Refusal::new(RefusalCode::StartFailed, message)
        .vm(name)
        .cause(chain(error));
    Err(match error.hint() {
        Some(hint) => refusal.hint(hint),
        None => refusal,
    })
}
