//! Work on snapshots that somebody who died has left on record.

use actix::Addr;
use maqet_protocol::refusal::Refusal;
use maqet_state::snapshot::{SnapshotAction, SnapshotWork};

use super::between::torn;
use super::engine::Engine;
use super::files::Files;
use super::record;
use crate::launch::Plan;
use crate::messages::RecordSnapshot;
use crate::vm::VmActor;

/// Settles what is left of work that was cut off; called before the VM starts.
///
/// # Errors
/// The refusal of the step that failed; the work stays recorded.
pub(crate) async fn finish_before_start(work: &SnapshotWork, plan: &Plan) -> Result<(), Refusal> {
    let files = Files::open(&plan.id, &plan.spec, &plan.files, &plan.shared);
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
    let achieved = match engine.settle(work).await {
        Err(refusal) if work.action == SnapshotAction::Load && !work.live => {
            engine
                .retreat(work)
                .await
                .map_err(|second| refusal.cause(second.message))?;
            false
        }
        settled => settled?,
    };
    tracing::info!(work = ?work, achieved, "work on a snapshot that was cut off is settled");
    record(owner, RecordSnapshot::Recovered { achieved }).await?;
    Ok(false)
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
