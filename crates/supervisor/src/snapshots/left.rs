//! Work on snapshots that somebody who died has left on record.

use std::rc::Rc;

use actix::Addr;
use maqet_protocol::refusal::Refusal;
use maqet_state::snapshot::{SnapshotAction, SnapshotWork};

use super::between::torn;
use super::engine::Engine;
use super::files::{Files, Owner};
use super::record;
use crate::launch::Plan;
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
    let files = Files::open(&plan.spec, &plan.files, of);
    let engine = Engine::Files(files.await?);
    if finish_recorded(work, &engine, &plan.owner).await? {
        return Err(torn(plan.spec.name.as_str(), &work.name));
    }
    Ok(())
}

/// The same, by whoever `engine` says; whether the disks may hold different moments then.
///
/// # Errors
/// As for [`finish_before_start`].
pub(super) async fn finish_recorded(
    work: &SnapshotWork,
    engine: &Engine,
    owner: &Addr<VmActor>,
) -> Result<bool, Refusal> {
    if work.is_load_by_qemu() {
        return ask_after_load(work, engine, owner).await;
    }
    engine.mend().await?;
    let achieved = settle(work, engine).await?;
    tracing::info!(work = ?work, achieved, "work on a snapshot that was cut off is settled");
    record(owner, RecordSnapshot::Recovered { achieved }).await?;
    Ok(false)
}

/// Whether what was wanted has come about.
async fn settle(work: &SnapshotWork, engine: &Engine) -> Result<bool, Refusal> {
    match engine.settle(work).await {
        Err(refusal) if work.action == SnapshotAction::Load && !work.live => {
            let back = engine.retreat(work).await;
            back.map_err(|second| refusal.cause(second.message))?;
            Ok(false)
        }
        // A disk that is damaged, and that a person wants used as it is: what is left of the work stays in it.
        Err(refusal) if engine.has_accepted_damage() => {
            tracing::warn!(work = ?work, %refusal, causes = ?refusal.causes, "work on a snapshot that was cut off is given up");
            Ok(false)
        }
        settled => settled,
    }
}

/// How a load by QEMU ended; it is never repeated.
async fn ask_after_load(
    work: &SnapshotWork,
    engine: &Engine,
    owner: &Addr<VmActor>,
) -> Result<bool, Refusal> {
    let between = engine.is_between(false).await?;
    tracing::info!(work = ?work, between, "a load that was cut off is settled");
    let achieved = !between;
    record(owner, RecordSnapshot::Recovered { achieved }).await?;
    Ok(between)
}
