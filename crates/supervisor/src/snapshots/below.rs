//! Snapshots inside images that external snapshots keep: nobody can work on them before the external one is gone, and nobody is
//! to think that they are lost.

use maqet_protocol::control::{SnapshotEntry, SnapshotInfo};
use maqet_protocol::refusal::{Refusal, RefusalCode};
use maqet_spec::vm::DiskFormat;
use maqet_state::external::{ExternalSnapshot, Layer};
use maqet_storage::error::StorageError;
use maqet_storage::image::snapshot::SnapshotFile;

use super::Job;
use super::files::entry;
use super::plan::{self, Found};
use super::scope::capable;
use crate::link::chain;

/// What `list` shows of these.
pub(super) async fn summaries(job: &Job) -> Vec<SnapshotInfo> {
    let mut infos = Vec::new();
    for snapshot in &job.externals.snapshots {
        let found = found_in(job, snapshot).await;
        let disks: Vec<_> = found.keys().cloned().collect();
        let held = plan::summaries(&found, &disks, capable(&job.spec).count());
        infos.extend(held.into_iter().map(|info| SnapshotInfo {
            below: Some(snapshot.name.clone()),
            ..info
        }));
    }
    infos
}

/// Of a snapshot that there is none of, where it is.
pub(super) async fn told<T>(job: &Job, result: Result<T, Refusal>) -> Result<T, Refusal> {
    match result {
        Err(refusal) if refusal.code == RefusalCode::SnapshotNotFound => Err(explained(job, refusal).await),
        result => result,
    }
}

async fn explained(job: &Job, refusal: Refusal) -> Refusal {
    let held = summaries(job).await;
    let named = held.into_iter().rev().find(|info| info.name == job.order.name);
    let Some(external) = named.and_then(|info| info.below) else {
        return refusal;
    };
    let vm = job.name();
    refusal
        .cause(format!(
            "images that the external snapshot `{external}` keeps hold one of that name"
        ))
        .hint(format!(
            "maqet snapshot delete {vm} {external} keeps what was written since, and makes it one that can be worked on"
        ))
}

async fn found_in(job: &Job, snapshot: &ExternalSnapshot) -> Found {
    let wanted = |layer: &&Layer| job.order.disk.as_deref().is_none_or(|disk| layer.disk() == disk);
    let mut found = Found::new();
    for layer in snapshot.layers.iter().filter(wanted) {
        if layer.before.format == DiskFormat::Qcow2 {
            match entries(job, layer).await {
                Ok(entries) => {
                    found.insert(layer.disk().to_owned(), entries);
                }
                Err(refusal) => {
                    let (vm, disk) = (job.name(), layer.disk());
                    tracing::warn!(vm, disk, %refusal, causes = ?refusal.causes, "snapshots below are not told");
                }
            }
        }
    }
    found
}

async fn entries(job: &Job, layer: &Layer) -> Result<Vec<SnapshotEntry>, Refusal> {
    let fail = |error: StorageError| {
        let message = format!("the image `{}` cannot be looked at", layer.base().display());
        Refusal::new(RefusalCode::StorageFailed, message).cause(chain(&error))
    };
    let (path, policy) = (layer.base().to_owned(), job.shared.policy.clone());
    let opening = move || SnapshotFile::open(&path, &policy);
    let file = job.shared.asides.of(&job.id).run(opening).await?.map_err(fail)?;
    let held = file.list(&job.shared.binaries).await.map_err(fail)?;
    Ok(held
        .into_iter()
        .map(|snapshot| entry(layer.disk(), snapshot))
        .collect())
}
