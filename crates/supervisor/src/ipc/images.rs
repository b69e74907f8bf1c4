//! Calls about the library of images.

use std::future::Future;
use std::path::PathBuf;

use maqet_protocol::ProtocolError;
use maqet_protocol::control::{
    DamagedImage, FollowWork, ImageImport, ImageImported, ImageInfo, ImageList, ImageRemove, ImageRemoved,
    ImageVerdict, ImageVerified, ImageVerify, ImagesListed, Progress, WorkProgress,
};
use maqet_protocol::endpoint::server::{IncomingCall, ServerConnection};
use maqet_protocol::method::Method;
use maqet_protocol::refusal::{Refusal, RefusalCode};
use maqet_spec::ImageName;
use maqet_state::clock::{self, Timestamp};
use maqet_storage::error::StorageError;
use maqet_storage::image::Checksum;
use maqet_storage::library::{Import, LibraryImage};
use maqet_storage::meter::{self, Meter, Step};
use serde::Serialize;
use tokio::sync::watch;

use super::dispatch::{Reply, ask, find, value};
use super::{Desk, snapshots};
use crate::library::{Uses, refusal};
use crate::messages::{FollowDisks, ReadVms};

/// Carries out one of them.
pub(super) async fn carry_out(call: &IncomingCall, desk: &Desk) -> Reply {
    match call.method.as_str() {
        ImageList::NAME => {
            call.parse::<ImageList>()?;
            value(&list(desk).await?)
        }
        ImageRemove::NAME => value(&remove(call.parse()?, desk).await?),
        _ => snapshots::carry_out(call, desk).await,
    }
}

/// Answers `ImageImport`. A client that hangs up ends the work, which then leaves nothing.
pub(super) async fn import(
    connection: &mut ServerConnection,
    call: &IncomingCall,
    desk: &Desk,
) -> Result<(), ProtocolError> {
    let order = match call.parse().and_then(order) {
        Ok(order) => order,
        Err(refusal) => return connection.refuse(&refusal).await,
    };
    let shared = &desk.shared;
    let (meter, seen) = Meter::new();
    let work = shared
        .library
        .import(&order, &shared.policy, &shared.binaries, &meter);
    let told = |progress| ImageImported {
        progress: Some(progress),
        image: None,
    };
    let done = told_on(connection, work, seen, told).await?;
    match done {
        Ok(image) => {
            tracing::info!(name = %image.name, source = %image.source.display(), "an image was imported");
            let image = Some(describe(image, desk, &Uses::default()));
            connection
                .reply(&ImageImported {
                    progress: None,
                    image,
                })
                .await
        }
        Err(error) => connection.refuse(&refusal(&error)).await,
    }
}

fn order(call: ImageImport) -> Result<Import, Refusal> {
    let invalid = |message: String, parameter: &str| {
        Refusal::new(RefusalCode::InvalidCall, message).parameter(parameter)
    };
    if !call.file.is_absolute() {
        return Err(invalid("an import needs an absolute path".to_owned(), "file"));
    }
    let checksum = call.checksum.map(|text| text.parse::<Checksum>()).transpose();
    Ok(Import {
        file: call.file,
        name: call.name,
        format: call.format,
        checksum: checksum.map_err(|error| invalid(error.to_string(), "checksum"))?,
        at_ms: clock::now().0,
    })
}

/// Answers `ImageVerify`.
pub(super) async fn verify(
    connection: &mut ServerConnection,
    call: &IncomingCall,
    desk: &Desk,
) -> Result<(), ProtocolError> {
    let library = &desk.shared.library;
    let names = call.parse().and_then(|ImageVerify { names }| {
        if names.is_empty() {
            return library.names().map_err(|error| refusal(&error));
        }
        Ok(names)
    });
    let names = match names {
        Ok(names) => names,
        Err(refusal) => return connection.refuse(&refusal).await,
    };
    for name in names {
        let (meter, seen) = Meter::new();
        let told = |progress| ImageVerified {
            progress: Some(progress),
            verdict: None,
        };
        let verified = told_on(connection, library.verify(&name, &meter), seen, told).await?;
        let problems = match verified {
            Ok(verified) => verified.problems,
            Err(error) => return connection.refuse(&refusal(&error)).await,
        };
        let verdict = Some(ImageVerdict {
            name,
            sound: problems.is_empty(),
            problems,
        });
        let progress = None;
        connection
            .reply_more(&ImageVerified { progress, verdict })
            .await?;
    }
    connection.reply(&ImageVerified::default()).await
}

/// Answers `FollowWork`.
pub(super) async fn follow(
    connection: &mut ServerConnection,
    call: &IncomingCall,
    desk: &Desk,
) -> Result<(), ProtocolError> {
    let seen = match work_of(call, desk).await {
        Ok(seen) => seen,
        Err(refusal) => return connection.refuse(&refusal).await,
    };
    if let Some(seen) = seen {
        let mut ended = seen.clone();
        // It has ended when nobody tells of it any more.
        let work = async move {
            while ended.changed().await.is_ok() {}
            Ok(())
        };
        let told = |progress| WorkProgress {
            progress: Some(progress),
        };
        // Nothing in it can fail.
        drop(told_on(connection, work, seen, told).await?);
    }
    connection.reply(&WorkProgress::default()).await
}

async fn work_of(
    call: &IncomingCall,
    desk: &Desk,
) -> Result<Option<watch::Receiver<meter::Progress>>, Refusal> {
    let FollowWork { vm } = call.parse()?;
    ask(&find(&vm, desk).await?, FollowDisks).await
}

/// Tells on a connection how far some work is until it is done. When the client hangs up, the work is given up.
async fn told_on<T, R: Serialize>(
    connection: &mut ServerConnection,
    work: impl Future<Output = Result<T, StorageError>>,
    mut seen: watch::Receiver<meter::Progress>,
    told: impl Fn(Progress) -> R,
) -> Result<Result<T, StorageError>, ProtocolError> {
    let mut work = std::pin::pin!(work);
    let mut percent = None;
    loop {
        let progress = tokio::select! {
            done = &mut work => return Ok(done),
            gone = connection.closed() => {
                gone?;
                return Err(ProtocolError::Closed);
            }
            Ok(()) = seen.changed() => *seen.borrow_and_update(),
        };
        let now = (progress.step, per_cent(progress));
        if percent.replace(now) != Some(now) {
            connection.reply_more(&told(words(progress))).await?;
        }
    }
}

/// More often than this nobody wants to hear.
fn per_cent(progress: meter::Progress) -> u64 {
    let hundredth = (progress.total / 100).max(1);
    progress.done / hundredth
}

fn words(progress: meter::Progress) -> Progress {
    let what = match progress.step {
        Step::Waiting => "waiting",
        Step::Hashing => "hashing",
        Step::Copying => "copying",
        Step::Merging => "merging",
        Step::Checking => "checking",
    };
    Progress {
        what: what.to_owned(),
        done: progress.done,
        total: progress.total,
        unit: "bytes".to_owned(),
    }
}

async fn list(desk: &Desk) -> Result<ImagesListed, Refusal> {
    let library = &desk.shared.library;
    let uses = uses(desk).await?;
    let (mut images, mut damaged) = (Vec::new(), Vec::new());
    for name in library.names().map_err(|error| refusal(&error))? {
        match library.find(&name) {
            Ok(image) => images.push(describe(image, desk, &uses)),
            // Deleted a moment ago.
            Err(StorageError::NoImage { .. }) => {}
            Err(error) => {
                let reason = error.to_string();
                damaged.push(DamagedImage { name, reason });
            }
        }
    }
    Ok(ImagesListed { images, damaged })
}

async fn remove(ImageRemove { name }: ImageRemove, desk: &Desk) -> Result<ImageRemoved, Refusal> {
    refuse_used(&name, desk).await?;
    let claim = desk
        .shared
        .claims
        .take_away(&name)
        .ok_or_else(|| in_hand(&name))?;
    // A VM that was added meanwhile may have made a disk on it. From now on none does.
    refuse_used(&name, desk).await?;
    let (library, gone) = (desk.shared.library.clone(), name.clone());
    let removing = move || {
        // As long as this goes on, whether or not somebody waits for it.
        let _claim = claim;
        match library.overlays(&gone)? {
            left if left.is_empty() => library.remove(&gone).map(|()| left),
            left => Ok(left),
        }
    };
    let left = desk.shared.asides.all.run(removing).await?;
    let left = left.map_err(|error| refusal(&error))?;
    if !left.is_empty() {
        return Err(kept_under(&name, &left));
    }
    tracing::info!(%name, "an image was deleted");
    Ok(ImageRemoved { name })
}

/// Disks of VMs would be lost with the image.
async fn refuse_used(name: &ImageName, desk: &Desk) -> Result<(), Refusal> {
    let users = uses(desk).await?.of(name);
    if users.is_empty() {
        return Ok(());
    }
    let message = format!("disks stand on image `{name}`");
    let refusal = Refusal::new(RefusalCode::Conflict, message);
    let refusal = users.iter().fold(refusal, |refusal, user| {
        refusal.cause(format!("`{user}` has one"))
    });
    Err(refusal.hint("remove those VMs and their disks first: maqet rm --delete-storage VM"))
}

fn in_hand(name: &ImageName) -> Refusal {
    let message = format!("a disk is being made on image `{name}`, or it is being deleted already");
    Refusal::new(RefusalCode::Conflict, message).hint("maqet image ls tells what became of it")
}

/// Disks that a VM left behind, snapshots in them included, would be lost with the image.
fn kept_under(name: &ImageName, left: &[PathBuf]) -> Refusal {
    let refusal = Refusal::new(RefusalCode::Conflict, format!("files stand on image `{name}`"));
    let refusal = left.iter().fold(refusal, |refusal, path| {
        refusal.cause(format!("`{}` would lose what it stands on", path.display()))
    });
    refusal.hint("delete them, or copy what they hold: qemu-img convert -O qcow2 FILE COPY")
}

async fn uses(desk: &Desk) -> Result<Uses, Refusal> {
    let records = ask(&desk.state, ReadVms).await??;
    let (library, policy) = (desk.shared.library.clone(), desk.shared.policy.clone());
    let looking = move || Uses::look(&records, &library, &policy);
    desk.shared.asides.all.run(looking).await
}

fn describe(image: LibraryImage, desk: &Desk, uses: &Uses) -> ImageInfo {
    let path: PathBuf = desk.shared.library.path_of(&image.name);
    let used_by = uses.of(&image.name);
    ImageInfo {
        path,
        format: image.format,
        virtual_bytes: image.virtual_bytes,
        file_bytes: image.file_bytes,
        checksum: image.blake3.to_string(),
        file: image.file,
        source: image.source,
        source_format: image.source_format,
        source_checksum: image.source_checksum.map(|sum| sum.to_string()),
        imported: Timestamp(image.imported_ms),
        used_by,
        name: image.name,
    }
}
