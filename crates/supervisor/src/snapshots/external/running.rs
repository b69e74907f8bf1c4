//! Images on top of the disks of a VM that runs: QEMU is put on them, at one moment for all disks.
//!
//! That it is about to be is recorded before it is told, with the images, which are whole and blank then. Only QEMU knows whether
//! it was; it is asked. A QEMU that has ended is not needed to tell: see [`ExternalStep::Switching`].

use std::time::Duration;

use maqet_process::point::{Point, pass};
use maqet_protocol::control::SnapshotDone;
use maqet_protocol::refusal::{Refusal, RefusalCode};
use maqet_protocol::runner::{ListTops, NewTop, OpenedFile, StackImages, Tops};
use maqet_spec::VmSpec;
use maqet_spec::vm::Disk;
use maqet_state::disk::Opened;
use maqet_state::external::{ExternalSnapshot, ExternalStep, Layer, Switch, raised};
use maqet_state::snapshot::{SnapshotAction, SnapshotKind};

use super::{Desk, Job, Work};
use crate::leases::Leases;
use crate::link::RunnerLink;
use crate::messages::RecordExternal;
use crate::snapshots::live::of_this_version;

/// Time to open the images and to switch. Writes that are under way are waited for.
const SWITCH_LIMIT: Duration = Duration::from_mins(5);
/// Time for a question.
const ASK_LIMIT: Duration = Duration::from_secs(20);

/// Whether QEMU can be put on new images for these disks.
///
/// # Errors
/// `wrong-state` for a disk that no device has, and for a runner of an earlier version.
pub(super) async fn can_stack(link: &RunnerLink, spec: &VmSpec, disks: &[Disk]) -> Result<(), Refusal> {
    let names: Vec<String> = disks.iter().map(|disk| disk.name.clone()).collect();
    let tops = tops(link, spec.name.as_str(), &names).await?.tops;
    let attached = |disk: &&String| tops.iter().any(|top| top.disk == **disk && top.attached);
    let Some(without) = names.iter().find(|disk| !attached(disk)) else {
        return Ok(());
    };
    let vm = &spec.name;
    let message =
        format!("disk `{without}` of `{vm}` has no device: QEMU cannot be put on another image for it");
    Err(Refusal::new(RefusalCode::WrongState, message)
        .state("running")
        .hint(format!(
            "name the others one by one with --disk, or maqet stop {vm} first"
        )))
}

/// What QEMU has for these disks.
///
/// # Errors
/// As for [`RunnerLink::call`]; `wrong-state` for a runner of an earlier version.
pub(super) async fn tops(link: &RunnerLink, vm: &str, disks: &[String]) -> Result<Tops, Refusal> {
    let disks = disks.to_vec();
    let asked = link.call(&ListTops { disks }, ASK_LIMIT).await;
    asked.map_err(|refusal| of_this_version(vm, refusal))
}

/// The node that QEMU writes to for a disk.
///
/// # Errors
/// As for [`RunnerLink::call`].
pub(crate) async fn top_of(link: &RunnerLink, vm: &str, disk: &str) -> Result<String, Refusal> {
    match tops(link, vm, &[disk.to_owned()]).await {
        Ok(told) => Ok(told
            .tops
            .into_iter()
            .next()
            .map_or_else(|| disk.to_owned(), |top| top.node)),
        // One of an earlier version puts QEMU on no other image.
        Err(refusal) if refusal.code == RefusalCode::WrongState => Ok(disk.to_owned()),
        Err(refusal) => Err(refusal),
    }
}

/// What has become of a switch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Became {
    /// All disks are on the new images.
    Done,
    /// None is.
    Nothing,
}

/// Asks QEMU what has become of a switch.
async fn became(link: &RunnerLink, vm: &str, switch: &Switch) -> Result<Became, Refusal> {
    let layers = &switch.snapshot.layers;
    let names: Vec<String> = layers.iter().map(|layer| layer.disk().to_owned()).collect();
    let tops = tops(link, vm, &names).await?.tops;
    let grown = |(layer, before): &(&Layer, &usize)| {
        let of = tops.iter().find(|top| top.disk == layer.disk());
        of.is_some_and(|top| top.images == **before + 1)
    };
    // They come together or not at all.
    let all = layers.iter().zip(&switch.images).all(|pair| grown(&pair));
    Ok(if all { Became::Done } else { Became::Nothing })
}

impl Work<'_> {
    /// Puts QEMU on the images that were made.
    pub(super) async fn switch(
        &self,
        link: &RunnerLink,
        snapshot: ExternalSnapshot,
        made: Vec<Opened>,
        done: SnapshotDone,
    ) -> Result<SnapshotDone, Refusal> {
        let layers = snapshot.layers.clone();
        let switch = match self.intended(snapshot, made).await {
            Ok(switch) => switch,
            Err(refusal) => return Err(self.take_back(&layers, refusal).await),
        };
        pass(Point::LayersMade);
        let told = link.call(&order(&switch), SWITCH_LIMIT + ASK_LIMIT).await;
        let Err(refusal) = told else {
            return self.switched(&switch, done).await;
        };
        self.not_told(link, &switch, (refusal, done)).await
    }

    /// Nobody said that QEMU has done it: it is asked.
    async fn not_told(
        &self,
        link: &RunnerLink,
        switch: &Switch,
        (refusal, done): (Refusal, SnapshotDone),
    ) -> Result<SnapshotDone, Refusal> {
        let refusal = match became(link, self.job.name(), switch).await {
            Ok(Became::Done) => return self.switched(switch, done).await,
            Ok(Became::Nothing) => match self.desk.record(RecordExternal::NotSwitched).await {
                Ok(()) => self.take_back(&switch.snapshot.layers, refusal).await,
                // QEMU has ended meanwhile, and the disks are on the new images by that.
                Err(second) => refusal.cause(second.message),
            },
            // It stays on record; whoever comes next asks, and the end of QEMU settles it.
            Err(second) => self.failed(refusal.cause(second.message), false).await,
        };
        Err(refusal)
    }

    async fn intended(&self, snapshot: ExternalSnapshot, made: Vec<Opened>) -> Result<Switch, Refusal> {
        let mut images = Vec::new();
        for layer in &snapshot.layers {
            images.push(self.desk.images_of(layer).await?);
        }
        let boot_id = self.job.shared.boot_id.clone();
        let switch = Switch {
            snapshot,
            made,
            images,
            boot_id,
            key: self.job.order.key.clone(),
        };
        let step = ExternalStep::Switching(Box::new(switch.clone()));
        self.begin(SnapshotAction::Create, step).await?;
        Ok(switch)
    }

    async fn switched(&self, switch: &Switch, done: SnapshotDone) -> Result<SnapshotDone, Refusal> {
        let told = RecordExternal::Switched {
            done: Box::new(done.clone()),
            key: self.job.order.key.clone(),
        };
        self.desk.record(told).await?;
        pass(Point::LayersRecorded);
        lease(self.job, switch).await;
        Ok(done)
    }
}

/// Settles a switch that was cut off, of a VM that runs. What has come about is the answer to the call that asked for it, when that
/// is repeated.
///
/// # Errors
/// The refusal of QEMU or its runner; the work stays on record.
pub(crate) async fn settle(
    job: &Job,
    link: &RunnerLink,
    switch: &Switch,
) -> Result<Option<SnapshotDone>, Refusal> {
    let desk = Desk::of(job);
    let became = became(link, job.name(), switch).await?;
    tracing::info!(
        vm = job.name(),
        snapshot = switch.snapshot.name,
        ?became,
        "a snapshot that was cut off is settled"
    );
    match became {
        Became::Done => {
            let done = done_of(job, switch);
            let told = RecordExternal::Switched {
                done: Box::new(done.clone()),
                key: switch.key.clone(),
            };
            desk.record(told).await?;
            lease(job, switch).await;
            let own = switch.key.is_some() && switch.key == job.order.key;
            Ok(own.then_some(done))
        }
        Became::Nothing => {
            desk.record(RecordExternal::NotSwitched).await?;
            desk.take_back(&switch.snapshot.layers).await?;
            desk.record(RecordExternal::Struck { gone: Vec::new() }).await?;
            Ok(None)
        }
    }
}

fn done_of(job: &Job, switch: &Switch) -> SnapshotDone {
    let layers = &switch.snapshot.layers;
    SnapshotDone {
        vm: job.name().to_owned(),
        action: SnapshotAction::Create,
        name: switch.snapshot.name.clone(),
        disks: layers.iter().map(|layer| layer.disk().to_owned()).collect(),
        live: true,
        memory: false,
        memory_left_out: false,
        took_ms: 0,
        kind: SnapshotKind::External,
    }
}

/// The images on top are the VM's from now on.
async fn lease(job: &Job, switch: &Switch) {
    let spec = raised(job.spec.clone(), &switch.snapshot.layers);
    if let Err(refusal) = Leases::take(&job.id, &spec, &job.shared).await {
        tracing::warn!(vm = job.name(), %refusal, "new images of a VM that runs are not leased");
    }
}

fn order(switch: &Switch) -> StackImages {
    let layers = switch.snapshot.layers.iter();
    let made = switch.made.iter().zip(&switch.images);
    let new = |(layer, (image, images)): (&Layer, (&Opened, &usize))| NewTop {
        disk: layer.before.clone(),
        image: OpenedFile {
            path: image.path.clone(),
            file: image.file,
        },
        images: *images,
    };
    StackImages {
        disks: layers.zip(made).map(new).collect(),
        timeout_ms: u64::try_from(SWITCH_LIMIT.as_millis()).unwrap_or(u64::MAX),
    }
}
