//! A stop whose runner was lost: it waits for the one that takes over, within its budget.

use std::time::Duration;

use actix::{ActorFutureExt, AsyncContext, Context, WrapFuture};
use maqet_process::pidfd::ProcessHandle;
use maqet_protocol::refusal::{Refusal, RefusalCode};

use super::VmActor;
use super::start::millis;
use super::stop::StopOrder;
use crate::messages::StopBy;

impl VmActor {
    /// A runner was lost, and the one that takes over is not there yet.
    pub(super) fn lacks_runner(&self) -> bool {
        let lost = |runner: &Option<ProcessHandle>| runner.as_ref().is_none_or(ProcessHandle::has_exited);
        self.live.as_ref().is_some_and(|live| lost(&live.runner))
    }

    /// Keeps a stop until a new runner has taken over, within the budget of the stop.
    pub(super) fn park(&mut self, stop: StopOrder, refusal: Refusal, context: &mut Context<Self>) {
        let (asked, budget) = (stop.asked, Duration::from_millis(stop.order.budget_ms));
        self.parked = Some(stop);
        context.run_later(
            budget.saturating_sub(asked.elapsed()),
            move |actor, context| match actor.parked.take_if(|parked| parked.asked == asked) {
                Some(stop) if stop.by == StopBy::Loss => actor.end_unattended(stop, context),
                Some(_) => actor.give_up(refusal, context),
                None => {}
            },
        );
    }

    /// A new runner has taken over, or QEMU has ended: a stop that waited for either goes on.
    pub(super) fn resume_stop(&mut self, context: &mut Context<Self>) {
        let Some(mut stop) = self.parked.take() else {
            return;
        };
        let left = Duration::from_millis(stop.order.budget_ms).saturating_sub(stop.asked.elapsed());
        stop.order.budget_ms = millis(left);
        match self.walk_of(stop.order) {
            Some(walk) if self.exit_if_gone().is_none() => {
                let done = walk
                    .run()
                    .into_actor(self)
                    .map(move |result, actor, context| actor.walk_ended(result, stop, context));
                context.spawn(done);
            }
            Some(_) | None => self.walk_ended(Err(unattended()), stop, context),
        }
    }
}

/// Why a stop has to wait.
pub(super) fn unattended() -> Refusal {
    Refusal::new(RefusalCode::NotAnswering, "the VM's runner is being replaced")
}
