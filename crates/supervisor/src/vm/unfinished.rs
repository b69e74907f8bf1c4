//! A stop whose intent is durable and which nobody carries out: the supervisor, or its part that looks after this VM, was
//! lost in the middle. Whoever had asked asks again, or has gone as well; then the intent alone is left.

use std::time::Duration;

use actix::{AsyncContext, Context};
use maqet_state::change::Change;
use maqet_state::lifecycle::{Activity, Fact};
use maqet_state::record::Intent;

use super::VmActor;
use crate::messages::{StopBy, StopVm};

/// A client that lives asks again as soon as there is somebody to ask; one that has not by then has gone.
const ASKING_AGAIN: Duration = Duration::from_secs(10);

impl VmActor {
    /// What was taken over may be meant to stop: unless somebody says more about it, that is carried out.
    pub(super) fn resume_intended(&self, context: &mut Context<Self>) {
        if self.is_meant_to_stop().is_some() {
            let generation = self.record.generation;
            context.run_later(ASKING_AGAIN, move |actor, context| {
                actor.stop_as_intended(generation, context);
            });
        }
    }

    fn stop_as_intended(&mut self, generation: u64, context: &mut Context<Self>) {
        let undisturbed = self.activity == Activity::Idle && self.record.generation == generation;
        let Some(force) = self.is_meant_to_stop().filter(|_| undisturbed) else {
            return;
        };
        let by = if self.record.upkeep.stopped {
            StopBy::Person
        } else {
            StopBy::Exit
        };
        let (timeout_ms, key) = (None, None);
        let stop = StopVm {
            timeout_ms,
            force,
            key,
            by,
        };
        if let Err(refusal) = self.stop(stop, context) {
            tracing::warn!(vm = self.name(), %refusal, "a stop that was intended is not carried out");
        }
    }

    /// Whether it is to be stopped, and then whether by force.
    pub(super) fn is_meant_to_stop(&self) -> Option<bool> {
        match self.record.state.launch()?.intent {
            Intent::Stop => Some(false),
            Intent::StopForced => Some(true),
            Intent::Run | Intent::HostShutdown | Intent::RunnerLost => None,
        }
    }

    /// The intent to stop it is taken back.
    pub(super) fn withdraw_stop(&mut self, because: &str) -> Option<Change> {
        self.record.upkeep.stopped = false;
        let withdrawn = Fact::StopIntended {
            generation: self.record.generation,
            intent: Intent::Run,
        };
        self.apply(withdrawn).ok()?;
        let event = self.event("vm.stop-failed").with("message", because);
        Some(Change::update(self.record.clone()).event(event))
    }
}
