//! Snapshots as files of their own: an image stays what it was, and a new one on top of it takes what is written.
//!
//! What is about to be made is recorded first. Nobody writes to a new image before the spec names it, which one commit
//! does for all disks; so whoever finds work that was cut off deletes what there is of it. See decision 36.

mod files;
pub(crate) mod merging;
pub(crate) mod running;

use maqet_process::point::{Point, pass};
use maqet_protocol::control::{SnapshotDone, SnapshotInfo};
use maqet_protocol::refusal::{Refusal, RefusalCode};
use maqet_spec::vm::Disk;
use maqet_state::clock;
use maqet_state::disk::Opened;
use maqet_state::external::{Discarded, ExternalSnapshot, ExternalStep, ExternalWork, Externals, Layer};
use maqet_state::snapshot::{SnapshotAction, SnapshotKind};

pub(crate) use self::files::Desk;
use super::{Job, scope};
use crate::leases::Leases;
use crate::messages::RecordExternal;
use crate::operation::Done;

/// What is asked, if it is about a snapshot that is a file of its own; `None` where it is a matter of the images.
///
/// # Errors
/// The refusal; nothing has changed then, or what has is on record.
pub(super) async fn carry_out(job: &Job) -> Result<Option<Done>, Refusal> {
    let externals = tidied(job).await?;
    let known = externals.get(&job.order.name);
    let action = match (job.order.action, known) {
        (Some(SnapshotAction::Create), None) if job.order.external => SnapshotAction::Create,
        (Some(SnapshotAction::Create), Some(_)) => return Err(exists(job)),
        (Some(action), Some(_)) => action,
        (Some(_) | None, _) => return Ok(None),
    };
    let work = Work::new(job, externals).await?;
    let done = match action {
        SnapshotAction::Create => work.create().await,
        SnapshotAction::Load => work.load().await,
        SnapshotAction::Delete => work.delete().await,
    };
    done.map(|done| Some(Done::Snapshot(done)))
}

/// The snapshots there are, once nothing is left of work that was cut off.
async fn tidied(job: &Job) -> Result<Externals, Refusal> {
    let mut externals = job.externals.clone();
    if externals.work.is_none() {
        return Ok(externals);
    }
    Leases::take(&job.id, &job.spec, &job.shared).await?;
    match Desk::of(job).tidy(&externals).await {
        Ok(true) => externals.work = None,
        Ok(false) => {}
        // What is left is in nobody's way but that of the next such work, which would have it forgotten.
        Err(refusal) if job.order.action.is_none() => {
            tracing::warn!(vm = job.name(), %refusal, causes = ?refusal.causes, "images that nothing needs are left for now");
        }
        Err(refusal) => return Err(refusal),
    }
    Ok(externals)
}

/// What `list` shows of these. `all` is the number of disks that can have any.
pub(super) fn summaries(externals: &Externals, disk: Option<&str>, all: usize) -> Vec<SnapshotInfo> {
    let wanted = |layer: &&Layer| disk.is_none_or(|disk| layer.disk() == disk);
    let shown = |snapshot: &ExternalSnapshot| SnapshotInfo {
        name: snapshot.name.clone(),
        disks: snapshot
            .layers
            .iter()
            .filter(wanted)
            .map(|layer| layer.disk().to_owned())
            .collect(),
        complete: snapshot.layers.len() == all && !externals.is_merging(&snapshot.name),
        at: snapshot.at,
        vm_state_bytes: 0,
        vm_clock_ms: 0,
        kind: SnapshotKind::External,
        below: None,
    };
    let listed = externals.snapshots.iter().map(shown);
    listed.filter(|info| !info.disks.is_empty()).collect()
}

/// One piece of such work. The leases are held.
struct Work<'j> {
    job: &'j Job,
    desk: Desk,
    externals: Externals,
}

impl<'j> Work<'j> {
    async fn new(job: &'j Job, externals: Externals) -> Result<Self, Refusal> {
        if job.order.memory {
            let message = "memory is not kept in a file of its own";
            return Err(Refusal::new(RefusalCode::InvalidCall, message)
                .parameter("memory")
                .hint("leave out --memory or --external"));
        }
        if job.link.is_some() && job.order.action == Some(SnapshotAction::Load) {
            return Err(running(job));
        }
        Leases::take(&job.id, &job.spec, &job.shared).await?;
        if let Some(name) = externals.merging()
            && (name != job.order.name || job.order.action != Some(SnapshotAction::Delete))
        {
            return Err(unfinished(job, name));
        }
        Ok(Self {
            job,
            desk: Desk::of(job),
            externals,
        })
    }

    async fn create(&self) -> Result<SnapshotDone, Refusal> {
        let disks = self.chosen()?;
        if let Some(link) = &self.job.link {
            running::can_stack(link, &self.job.spec, &disks).await?;
        }
        self.job.check_soundness(&scope::names(disks.iter())).await?;
        let listed = self.job.engine().await?.list().await?;
        let mut internal = listed.into_values().flatten();
        if internal.any(|entry| entry.name == self.job.order.name) {
            return Err(exists(self.job));
        }
        let layers = self.desk.layers_on(disks, &self.job.order.name).await?;
        let snapshot = self.snapshot(layers);
        self.stack(snapshot, SnapshotAction::Create, Vec::new()).await
    }

    /// Throws away what was written since.
    async fn load(&self) -> Result<SnapshotDone, Refusal> {
        let old = self.layers()?;
        old.iter().try_for_each(|layer| self.is_on_top(layer))?;
        self.may_be_touched(&old).await?;
        let discard = self.desk.to_discard(&old);
        let disks = old.into_iter().map(|layer| layer.before).collect();
        let layers = self.desk.layers_on(disks, &self.job.order.name).await?;
        let snapshot = self.snapshot(layers);
        self.stack(snapshot, SnapshotAction::Load, discard).await
    }

    /// Keeps what was written since, and forgets what was before.
    async fn delete(&self) -> Result<SnapshotDone, Refusal> {
        let layers = self.layers()?;
        let disks: Vec<String> = layers.iter().map(|layer| layer.disk().to_owned()).collect();
        self.job.check_soundness(&disks).await?;
        self.may_be_touched(&layers).await?;
        let superfluous = self.externals.superfluous().to_vec();
        let step = ExternalStep::Merging {
            disks: disks.clone(),
            discard: superfluous.clone(),
        };
        self.begin(SnapshotAction::Delete, step).await?;
        pass(Point::LayersIntended);
        if let Some(link) = &self.job.link {
            return self.merge_running(link, layers, superfluous).await;
        }
        if let Err(refusal) = self.merge_all(&layers).await {
            return Err(self.failed(refusal, false).await);
        }
        let done = self.done(SnapshotAction::Delete, disks);
        let discard = [superfluous, self.desk.to_discard(&layers)].concat();
        let merged = RecordExternal::Merged {
            discard: discard.clone(),
            done: Box::new(done.clone()),
            key: self.job.order.key.clone(),
        };
        self.desk.record(merged).await?;
        pass(Point::LayersRecorded);
        self.desk.discard(discard).await;
        Ok(done)
    }

    /// Nothing but these disks depends on what their images hold.
    async fn may_be_touched(&self, layers: &[Layer]) -> Result<(), Refusal> {
        for layer in layers {
            self.desk.holds_no_snapshots(layer).await?;
        }
        self.desk.nobody_else_stands_on(layers).await
    }

    async fn merge_all(&self, layers: &[Layer]) -> Result<(), Refusal> {
        for layer in layers {
            self.merge(layer).await?;
            pass(Point::LayerDone);
        }
        Ok(())
    }

    async fn merge(&self, layer: &Layer) -> Result<(), Refusal> {
        self.desk.merge(layer).await?;
        match self.externals.above(layer) {
            Some((_snapshot, above)) => self.desk.stand_on(above, layer).await,
            None => Ok(()),
        }
    }

    /// Makes the images of `snapshot`, then has one commit put them on top.
    async fn stack(
        &self,
        snapshot: ExternalSnapshot,
        action: SnapshotAction,
        discard: Vec<Discarded>,
    ) -> Result<SnapshotDone, Refusal> {
        let layers = snapshot.layers.clone();
        let step = ExternalStep::Making {
            layers: layers.clone(),
        };
        self.begin(action, step).await?;
        pass(Point::LayersIntended);
        let made = match self.make(&layers).await {
            Ok(made) => made,
            Err(refusal) => return Err(self.take_back(&layers, refusal).await),
        };
        let disks = layers.iter().map(|layer| layer.disk().to_owned()).collect();
        let done = self.done(action, disks);
        if let Some(link) = &self.job.link {
            return self.switch(link, snapshot, made, done).await;
        }
        let stacked = RecordExternal::Stacked {
            snapshot: Box::new(snapshot),
            made,
            discard: discard.clone(),
            done: Box::new(done.clone()),
            key: self.job.order.key.clone(),
        };
        if let Err(refusal) = self.desk.record(stacked).await {
            return Err(self.take_back(&layers, refusal).await);
        }
        pass(Point::LayersRecorded);
        self.desk.discard(discard).await;
        Ok(done)
    }

    async fn begin(&self, action: SnapshotAction, step: ExternalStep) -> Result<(), Refusal> {
        let name = self.job.order.name.clone();
        let work = ExternalWork { action, name, step };
        self.desk.record(RecordExternal::Begun(work)).await
    }

    async fn make(&self, layers: &[Layer]) -> Result<Vec<Opened>, Refusal> {
        let mut made = Vec::new();
        for layer in layers {
            made.push(self.desk.make(layer).await?);
            pass(Point::LayerDone);
        }
        Ok(made)
    }

    async fn take_back(&self, layers: &[Layer], refusal: Refusal) -> Refusal {
        match self.desk.take_back(layers).await {
            Ok(()) => self.failed(refusal, true).await,
            // It stays on record, and whoever comes next tries again.
            Err(second) => self.failed(refusal.cause(second.message), false).await,
        }
    }

    async fn failed(&self, refusal: Refusal, settled: bool) -> Refusal {
        let told = RecordExternal::Failed {
            settled,
            refusal: Box::new(refusal.clone()),
        };
        match self.desk.record(told).await {
            Ok(()) => refusal,
            Err(second) => refusal.cause(second.message),
        }
    }

    /// The disks it is about, which are those that the guest writes to.
    fn chosen(&self) -> Result<Vec<Disk>, Refusal> {
        let spec = &self.job.spec;
        let names = match &self.job.order.disk {
            Some(wanted) => vec![scope::outside(spec, wanted)?.name.clone()],
            None => scope::all_outside(spec)?,
        };
        let chosen = scope::writable(spec).filter(|disk| names.contains(&disk.name));
        Ok(chosen.cloned().collect())
    }

    /// The layers that the snapshot has on the disks it is about. A deletion that was cut off is about all that it had begun
    /// with: none of their bases is what it was any more.
    fn layers(&self) -> Result<Vec<Layer>, Refusal> {
        let (wanted, begun) = (self.job.order.disk.as_deref(), self.externals.merging_disks());
        let is_meant = |disk: &str| {
            wanted.is_none_or(|wanted| wanted == disk) || begun.iter().any(|begun| begun == disk)
        };
        let snapshot = self.externals.get(&self.job.order.name);
        let layers = snapshot.into_iter().flat_map(|snapshot| &snapshot.layers);
        let layers: Vec<Layer> = layers.filter(|layer| is_meant(layer.disk())).cloned().collect();
        if layers.is_empty() {
            return Err(self.job.no_such());
        }
        Ok(layers)
    }

    fn is_on_top(&self, layer: &Layer) -> Result<(), Refusal> {
        let Some((newer, _layer)) = self.externals.above(layer) else {
            return Ok(());
        };
        let (vm, name, newer) = (self.job.name(), &self.job.order.name, &newer.name);
        let message = format!("snapshot `{newer}` of `{vm}` is newer than `{name}` and stands on it");
        Err(Refusal::new(RefusalCode::Conflict, message).hint(format!(
            "maqet snapshot load {vm} {newer}, then maqet snapshot delete {vm} {newer}"
        )))
    }

    fn snapshot(&self, layers: Vec<Layer>) -> ExternalSnapshot {
        ExternalSnapshot {
            name: self.job.order.name.clone(),
            at: clock::now(),
            layers,
        }
    }

    fn done(&self, action: SnapshotAction, disks: Vec<String>) -> SnapshotDone {
        SnapshotDone {
            vm: self.job.name().to_owned(),
            action,
            name: self.job.order.name.clone(),
            disks,
            live: self.job.link.is_some(),
            memory: false,
            memory_left_out: false,
            took_ms: u64::try_from(self.job.asked.elapsed().as_millis()).unwrap_or(u64::MAX),
            kind: SnapshotKind::External,
        }
    }
}

fn exists(job: &Job) -> Refusal {
    let (vm, name) = (job.name(), &job.order.name);
    let message = format!("`{vm}` has a snapshot `{name}` already");
    Refusal::new(RefusalCode::Conflict, message).hint(format!(
        "another name, or maqet snapshot delete {vm} {name}; a snapshot of another kind is not replaced"
    ))
}

fn running(job: &Job) -> Refusal {
    let vm = job.name();
    let message = format!("`{vm}` is running: its disks cannot be changed under it");
    Refusal::new(RefusalCode::WrongState, message)
        .state("running")
        .hint(format!("maqet stop {vm} first"))
}

fn unfinished(job: &Job, name: &str) -> Refusal {
    let vm = job.name();
    let message = format!("the deletion of snapshot `{name}` of `{vm}` was cut off");
    Refusal::new(RefusalCode::Conflict, message).hint(format!("finish it: maqet snapshot delete {vm} {name}"))
}
