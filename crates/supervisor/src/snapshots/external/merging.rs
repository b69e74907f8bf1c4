//! Snapshots that are merged away while the VM runs: QEMU writes what is on top into what is below.
//!
//! An image in the middle is QEMU's to merge, and the record follows. Of the image on top QEMU says that both hold the same,
//! with the guest halted; then the record is moved, and only then QEMU is told to go on with the one below. So the record is
//! right whenever QEMU ends. See decision 40.

use std::time::Duration;

use maqet_process::point::{Point, pass};
use maqet_protocol::control::SnapshotDone;
use maqet_protocol::refusal::{Refusal, RefusalCode};
use maqet_protocol::runner::{EndMerge, MergeImage, Merging, OpenedFile};
use maqet_state::disk::Opened;
use maqet_state::external::{Discarded, Layer};
use maqet_state::snapshot::SnapshotAction;

use super::files::failed;
use super::running::tops;
use super::{Desk, Job, Work};
use crate::link::RunnerLink;
use crate::messages::{AskDisks, RecordExternal};
use crate::snapshots::live::of_this_version;

/// Time to merge one image.
const MERGE_LIMIT: Duration = Duration::from_hours(6);
/// Room for the wire beside the runner's own deadline.
const WIRE_MARGIN: Duration = Duration::from_secs(30);
/// Time to have a disk go on.
const END_LIMIT: Duration = Duration::from_mins(2);

impl Work<'_> {
    /// Merges the images on top of these, one disk after the other.
    pub(super) async fn merge_running(
        &self,
        link: &RunnerLink,
        layers: Vec<Layer>,
        mut discard: Vec<Discarded>,
    ) -> Result<SnapshotDone, Refusal> {
        let disks: Vec<String> = layers.iter().map(|layer| layer.disk().to_owned()).collect();
        let done = self.done(SnapshotAction::Delete, disks.clone());
        for (layer, number) in layers.iter().zip(1..) {
            let merging = match self.merge_one(link, layer).await {
                Ok(merging) => merging,
                Err(refusal) => return Err(self.failed(refusal, false).await),
            };
            pass(Point::LayerDone);
            discard.extend(self.desk.to_discard(std::slice::from_ref(layer)));
            let rest = disks.get(number..).unwrap_or_default();
            let recorded = self.desk.record(self.step(layer, &discard, rest, &done)).await;
            pass(Point::LayersRecorded);
            // Whichever the record has: the guest is let run.
            if merging.waits {
                go_on(&self.desk, link, layer.disk()).await?;
            }
            recorded?;
        }
        self.desk.discard(discard).await;
        Ok(done)
    }

    fn step(
        &self,
        layer: &Layer,
        discard: &[Discarded],
        rest: &[String],
        done: &SnapshotDone,
    ) -> RecordExternal {
        let discard = discard.to_vec();
        if rest.is_empty() {
            let (done, key) = (Box::new(done.clone()), self.job.order.key.clone());
            return RecordExternal::Merged { discard, done, key };
        }
        RecordExternal::MergedOne {
            disk: layer.disk().to_owned(),
            discard,
            rest: rest.to_vec(),
        }
    }

    async fn merge_one(&self, link: &RunnerLink, layer: &Layer) -> Result<Merging, Refusal> {
        if let Some(short) = self.desk.short_of_room(layer).await? {
            return Err(failed(layer.disk(), &short));
        }
        let order = self.order(layer).await?;
        let merged = link.call(&order, MERGE_LIMIT + WIRE_MARGIN).await;
        merged.map_err(|refusal| of_this_version(self.job.name(), refusal))
    }

    async fn order(&self, layer: &Layer) -> Result<MergeImage, Refusal> {
        let now = self.job.spec.disks.iter().find(|disk| disk.name == layer.disk());
        let disk = now.cloned().unwrap_or_else(|| layer.before.clone());
        let chain = self.desk.chain_of(&disk).await?;
        let overlay = self.desk.known(&layer.overlay);
        let depth = chain
            .iter()
            .position(|image| overlay.is_some_and(|mark| mark.id == image.file.id));
        let base = depth.and_then(|depth| chain.get(depth + 1));
        let (Some(depth), Some(base)) = (depth, base) else {
            let (vm, name) = (self.job.name(), layer.disk());
            let message = format!("disk `{name}` of `{vm}` does not stand on the images on record");
            return Err(
                Refusal::new(RefusalCode::Conflict, message).hint(format!("maqet storage verify {vm}"))
            );
        };
        let above = depth.checked_sub(1).and_then(|above| chain.get(above));
        Ok(MergeImage {
            images: chain.len(),
            depth,
            base: opened(base),
            above: above.map(opened),
            timeout_ms: u64::try_from(MERGE_LIMIT.as_millis()).unwrap_or(u64::MAX),
            disk,
        })
    }
}

fn opened(image: &Opened) -> OpenedFile {
    OpenedFile {
        path: image.path.clone(),
        file: image.file,
    }
}

/// Ends what merges that were cut off have left in QEMU: each disk goes on with what it has on record.
///
/// # Errors
/// The refusal of QEMU or its runner.
pub(crate) async fn end_all(job: &Job, link: &RunnerLink) -> Result<(), Refusal> {
    let names: Vec<String> = job.spec.disks.iter().map(|disk| disk.name.clone()).collect();
    let desk = Desk::of(job);
    for disk in tops(link, job.name(), &names).await?.merging {
        tracing::info!(vm = job.name(), disk, "a merge that was cut off is ended");
        go_on(&desk, link, &disk).await?;
    }
    Ok(())
}

/// Has a disk go on with the images that are on record now.
async fn go_on(work: &Desk, link: &RunnerLink, disk: &str) -> Result<(), Refusal> {
    let now = work.owner.send(AskDisks).await;
    let now = now.map_err(|gone| {
        Refusal::new(RefusalCode::Internal, "the VM's owner is gone").cause(gone.to_string())
    })?;
    let Some(on_record) = now.spec.disks.iter().find(|known| known.name == disk) else {
        return Ok(());
    };
    let order = EndMerge {
        disk: disk.to_owned(),
        images: work.chain_of(on_record).await?.len(),
    };
    link.call(&order, END_LIMIT).await.map(drop)
}
