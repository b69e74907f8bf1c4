//! `on_runner_loss: stop`: a QEMU whose runner is gone is brought to its end.
//!
//! It is a stop like any other that lost its runner: it waits for the new runner, which walks the ladder. The intent is
//! its own, so that recovery goes on with it and the end is told as `runner-lost`.

use std::time::Instant;

use actix::Context;
use maqet_protocol::runner::StopQemu;
use maqet_spec::vm::OnRunnerLoss;
use maqet_state::change::Change;
use maqet_state::lifecycle::{Activity, Fact};
use maqet_state::record::Intent;

use super::stop::StopOrder;
use super::{Then, VmActor};

impl VmActor {
    /// The runner was lost, or this was found out later: QEMU is ended if the spec says so and nobody does it already.
    pub(super) fn end_after_loss(&mut self, context: &mut Context<Self>) {
        let wanted = self.record.spec.on_runner_loss == OnRunnerLoss::Stop;
        if !wanted || self.exit_if_gone().is_some() {
            return;
        }
        if self.activity != Activity::Idle {
            // What is being done to its disks comes to its end first.
            self.bereaved = Some(self.record.generation);
            return;
        }
        let order = StopQemu {
            // Nobody is there to escalate.
            kill_on_timeout: true,
            ..self.ladder_order(None, false)
        };
        let stop = StopOrder::after_loss(order, Instant::now());
        if let Err(refusal) = self.walk(stop, Then::Rest, context) {
            tracing::error!(vm = self.name(), %refusal, "a QEMU without its runner is not stopped");
        }
    }

    /// Something has come to its end in the middle of which the runner was lost.
    pub(super) fn end_after_work(&mut self, context: &mut Context<Self>) {
        if self.bereaved.take() == Some(self.record.generation) {
            self.end_after_loss(context);
        }
    }

    /// A stop after a loss that the supervisor before this one did not see the end of.
    pub(super) fn resume_after_loss(&mut self, context: &mut Context<Self>) {
        if self
            .record
            .state
            .launch()
            .is_some_and(|launch| launch.intent == Intent::RunnerLost)
        {
            self.end_after_loss(context);
        }
    }

    /// No new runner came within the budget: QEMU is ended without one.
    pub(super) fn end_unattended(&mut self, mut stop: StopOrder, context: &mut Context<Self>) {
        stop.order.force = true;
        self.parked = Some(stop);
        self.resume_stop(context);
    }

    /// A person joins a stop: from now on it is theirs.
    pub(super) fn claim_stop(&mut self, context: &mut Context<Self>) {
        let lost = self
            .record
            .state
            .launch()
            .is_some_and(|launch| launch.intent == Intent::RunnerLost);
        let generation = self.record.generation;
        let intent = Intent::Stop;
        if lost && self.apply(Fact::StopIntended { generation, intent }).is_ok() {
            self.persist_later(Change::update(self.record.clone()), context);
        }
    }
}
