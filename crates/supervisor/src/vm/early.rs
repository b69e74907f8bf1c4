//! What is so already, and stops of a VM that does not run yet.

use std::future::Future;
use std::time::Instant;

use actix::{ActorFutureExt, AsyncContext, Context, WrapFuture};
use maqet_protocol::control::StopHow;
use maqet_protocol::refusal::Refusal;
use maqet_state::change::Change;

use super::VmActor;
use super::start::was_cancelled;
use crate::messages::StopVm;
use crate::operation::{Accepted, Done, Operation};

impl VmActor {
    /// There is nothing to end; what the stop changes about the future is durable before it is answered.
    pub(super) fn already_stopped_durably(&self, news: Option<Change>) -> Accepted {
        let Some(change) = news else {
            return Accepted::ended(Ok(self.already_stopped()));
        };
        self.so_already(change, self.already_stopped())
    }

    /// It runs; that it is not to be stopped any more, where it was, is durable before it is answered.
    pub(super) fn already_running_durably(&mut self) -> Accepted {
        let done = Done::Started(self.started(true, Instant::now()));
        let meant_to_stop = self.is_meant_to_stop().is_some();
        let withdrawn = meant_to_stop.then(|| self.withdraw_stop("it is to run after all"));
        match withdrawn.flatten() {
            Some(change) => self.so_already(change, done),
            None => Accepted::ended(Ok(done)),
        }
    }

    fn so_already(&self, change: Change, done: Done) -> Accepted {
        let noted = told_if_not(self.persist_fact(change));
        let operation = Operation::new(self.name());
        let accepted = operation.follow();
        actix_rt::spawn(async move {
            noted.await;
            operation.finish(Ok(done));
        });
        accepted
    }

    /// A stop of a starting VM gives the start up.
    pub(super) fn stop_starting(
        &mut self,
        message: StopVm,
        news: Option<Change>,
        context: &mut Context<Self>,
    ) -> Result<Accepted, Refusal> {
        let asked = Instant::now();
        let noted = told_if_not(self.persist_fact(news.unwrap_or_default()));
        let start = self
            .cancel_start()
            .ok_or_else(|| self.defect("no start to cancel"))?;
        let operation = Operation::new(self.name());
        let accepted = operation.follow();
        let answered = start
            .outcome()
            .into_actor(self)
            .map(move |outcome, actor, context| {
                // The start may have won: then this is a stop like any other.
                let result = match outcome {
                    Ok(_running) => actor.stop(message, context),
                    Err(_) if was_cancelled(&outcome) => {
                        Ok(Accepted::ended(Ok(actor.stopped(StopHow::Killed, asked))))
                    }
                    Err(_) => Ok(Accepted::ended(Ok(actor.already_stopped()))),
                };
                let passed_on = async move {
                    noted.await;
                    let outcome = match result {
                        Ok(accepted) => accepted.outcome().await,
                        Err(refusal) => Err(refusal),
                    };
                    operation.finish(outcome);
                };
                // The actor may be removed before its own futures are polled again.
                actix_rt::spawn(passed_on);
            });
        context.spawn(answered);
        Ok(accepted)
    }
}

/// A full disk must not keep anybody from stopping: the store keeps the fact until it can be written.
async fn told_if_not(durable: impl Future<Output = Result<(), Refusal>>) {
    if let Err(refusal) = durable.await {
        tracing::warn!(%refusal, "that a VM is to stay down is not durable yet");
    }
}
