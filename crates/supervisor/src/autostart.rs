//! Enabled VMs, started in order when the supervisor starts.

use std::time::Duration;

use actix::Addr;
use futures_util::future::join_all;
use maqet_protocol::control::AutostartStatus;
use tokio::time::{Instant, sleep_until};

use crate::messages::StartEnabledVm;
use crate::vm::VmActor;

/// Starts VMs by their order: equal ones together, the next ones once these run or have failed, and their longest delay
/// has passed. One that need not be started holds nobody up.
pub(crate) async fn start_in_order(mut enabled: Vec<(AutostartStatus, Addr<VmActor>)>) {
    enabled.sort_by_key(|(place, _vm)| place.order);
    for together in enabled.chunk_by(|(one, _), (other, _)| one.order == other.order) {
        let delays = join_all(together.iter().map(start)).await;
        if let Some(delay) = delays.into_iter().flatten().max() {
            sleep_until(Instant::now() + delay).await;
        }
    }
}

/// The delay to keep after a start; `None` when there was none.
async fn start((place, vm): &(AutostartStatus, Addr<VmActor>)) -> Option<Duration> {
    let started = vm.send(StartEnabledVm).await.ok()??;
    if let Err(refusal) = started.outcome().await {
        tracing::error!(%refusal, causes = ?refusal.causes, "an enabled VM is not started");
    }
    Some(Duration::from_millis(place.delay_ms))
}
