//! Work on snapshots that somebody who died has left on record.

use std::rc::Rc;

use actix::Addr;
use maqet_protocol::control::SnapshotDone;
use maqet_protocol::refusal::Refusal;
use maqet_spec::VmSpec;
use maqet_state::disk::DiskRecords;
use maqet_state::health::Health;
use maqet_state::snapshot::{SnapshotAction, SnapshotKind, SnapshotWork};

use super::between::torn;
use super::engine::Engine;
use super::files::{Files, Owner};
use super::plan::{self, End};
use super::record;
use crate::launch::Plan;
use crate::maintenance::Bench;
use crate::messages::RecordSnapshot;
use crate::vm::VmActor;

/// Settles what is left of work that was cut off; called before the VM starts.
///
/// # Errors
/// The refusal of the step that failed; the work stays recorded.
pub(crate) async fn finish_before_start(work: &SnapshotWork, plan: &Plan) -> Result<(), Refusal> {
    let of = Owner {
        id: plan.id.clone(),
        vm: plan.spec.name.to_string(),
        health: plan.health.clone(),
        recorder: plan.owner.clone(),
        shared: Rc::clone(&plan.shared),
    };
    finish_at_rest(work, (&plan.spec, &plan.files), of).await
}

async fn finish_at_rest(
    work: &SnapshotWork,
    (spec, files): (&VmSpec, &DiskRecords),
    of: Owner,
) -> Result<(), Refusal> {
    let owner = of.recorder.clone();
    let engine = Engine::Files(Files::open(spec, files, of).await?);
    match finish_recorded(work, &engine, &owner).await? {
        Left::Between => Err(torn(spec.name.as_str(), &work.name)),
        Left::Done(_) | Left::Nothing => Ok(()),
    }
}

/// Work on snapshots that was cut off, and what is known against the disks, of a VM that rests and whose disks are about to be
/// worked on.
#[derive(Clone, Debug)]
pub(crate) struct Leftover {
    pub(crate) work: Option<Box<SnapshotWork>>,
    pub(crate) health: Health,
    pub(crate) owner: Addr<VmActor>,
}

impl Leftover {
    /// Settles it, so that each disk is what one moment has left.
    ///
    /// # Errors
    /// As for [`finish_before_start`]; `disk-damaged` for disks that may hold different moments.
    pub(crate) async fn settle(&self, bench: &Bench) -> Result<(), Refusal> {
        let vm = bench.spec.name.as_str();
        let mut disks = bench.spec.disks.iter();
        if let Some(load) = disks.find_map(|disk| self.health.between(&disk.path)) {
            return Err(torn(vm, &load.snapshot));
        }
        let Some(work) = &self.work else {
            return Ok(());
        };
        let of = Owner {
            id: bench.id.clone(),
            vm: vm.to_owned(),
            health: self.health.clone(),
            recorder: self.owner.clone(),
            shared: Rc::clone(&bench.shared),
        };
        finish_at_rest(work, (&bench.spec, &bench.files), of).await
    }
}

/// What has become of it.
#[derive(Debug)]
pub(super) enum Left {
    /// What was wanted.
    Done(SnapshotDone),
    /// Nothing, or less.
    Nothing,
    /// The disks may hold different moments.
    Between,
}

/// The same, by whoever `engine` says.
///
/// # Errors
/// As for [`finish_before_start`].
pub(super) async fn finish_recorded(
    work: &SnapshotWork,
    engine: &Engine,
    owner: &Addr<VmActor>,
) -> Result<Left, Refusal> {
    let end = ended(work, engine).await?;
    tracing::info!(work = ?work, ?end, "work on a snapshot that was cut off is settled");
    let done = match end {
        Some(End::Reached) => Some(done(work, engine).await?),
        Some(End::Before | End::KeptAs) | None => None,
    };
    let kept_as = (end == Some(End::KeptAs)).then(|| work.keeper());
    let told = RecordSnapshot::Recovered {
        done: done.clone().map(Box::new),
        kept_as,
    };
    record(owner, told).await?;
    Ok(match (done, end) {
        (Some(done), _) => Left::Done(done),
        (None, None) => Left::Between,
        (None, Some(_)) => Left::Nothing,
    })
}

/// How it came to its end; `None` when that is not known.
async fn ended(work: &SnapshotWork, engine: &Engine) -> Result<Option<End>, Refusal> {
    if work.is_load_by_qemu() {
        // It is never repeated.
        let between = engine.is_between(false).await?;
        return Ok((!between).then_some(End::Reached));
    }
    engine.mend().await?;
    settle(work, engine).await.map(Some)
}

async fn settle(work: &SnapshotWork, engine: &Engine) -> Result<End, Refusal> {
    match engine.settle(work).await {
        Err(refusal) if work.action == SnapshotAction::Load && !work.live => {
            let back = engine.retreat(work).await;
            back.map_err(|second| refusal.cause(second.message))?;
            Ok(End::Before)
        }
        // A disk that is damaged, and that a person wants used as it is: what is left of the work stays in it.
        Err(refusal) if engine.has_accepted_damage() => {
            tracing::warn!(work = ?work, %refusal, causes = ?refusal.causes, "work on a snapshot that was cut off is given up");
            Ok(End::Before)
        }
        Err(refusal) if work.replaces_memory() => {
            let end = engine.take_back(work).await;
            end.map_err(|second| refusal.cause(second.message))
        }
        settled => settled,
    }
}

/// What whoever asked for it is told, should they ask again.
async fn done(work: &SnapshotWork, engine: &Engine) -> Result<SnapshotDone, Refusal> {
    let has_memory = plan::has_memory(&engine.list().await?, &work.disks, &work.name);
    Ok(SnapshotDone {
        vm: engine.vm().to_owned(),
        action: work.action,
        name: work.name.clone(),
        disks: work.disks.clone(),
        live: work.live,
        memory: work.memory,
        memory_left_out: work.action == SnapshotAction::Load && has_memory && !work.memory,
        took_ms: 0,
        kind: SnapshotKind::Internal,
    })
}
