//! Starts without a person: the restart policy after an end, and enabled VMs when the supervisor starts.
//!
//! What is due is in the record, see [`maqet_state::upkeep`]; here is the one timer that carries it out.

use std::time::Duration;

use actix::{ActorFutureExt, AsyncContext, Context, Handler, ResponseActFuture, WrapFuture};
use maqet_protocol::control::AutostartSet;
use maqet_protocol::refusal::Refusal;
use maqet_state::change::Change;
use maqet_state::clock::{self, Timestamp};
use maqet_state::journal::NewEvent;
use maqet_state::lifecycle::{Command, Decision, Effect, Fact};
use maqet_state::record::VmRecord;
use maqet_state::upkeep::{Autostart, Upkeep};
use rand::RngExt;

use super::view::told;
use super::{StartBy, VmActor};
use crate::messages::{Enabling, SetAutostart, StartEnabledVm, StopBy};
use crate::operation::Accepted;

impl VmActor {
    /// A person starts the VM: what the policy did before is forgotten, what was due is not done.
    pub(super) fn take_charge(&mut self, context: &mut Context<Self>) {
        self.disarm(context);
        let fresh = Upkeep::new(&self.shared.boot_id);
        let before = std::mem::replace(&mut self.record.upkeep, fresh);
        if before.next_at.is_some() {
            // Whether the start succeeds or not: what was due is this person's business now.
            self.persist_later(Change::update(self.record.clone()), context);
        }
    }

    /// A stop: what keeps the VM down, if that is news.
    pub(super) fn stay_down(&mut self, by: StopBy, context: &mut Context<Self>) -> Option<Change> {
        self.disarm(context);
        if by != StopBy::Person {
            return None;
        }
        let before = self.record.upkeep.clone();
        self.record.upkeep = before.clone().in_boot(&self.shared.boot_id).stopped();
        if before == self.record.upkeep {
            return None;
        }
        self.show();
        let change = Change::update(self.record.clone());
        Some(match before.next_at {
            Some(_) => change.event(self.event("vm.restart-cancelled")),
            None => change,
        })
    }

    /// A start that is on record, or was refused before it could be.
    pub(super) fn count(&mut self, by: StartBy) {
        let upkeep = self.record.upkeep.clone().in_boot(&self.shared.boot_id);
        self.record.upkeep = match by {
            StartBy::Person => upkeep,
            StartBy::Policy => upkeep.restarted(self.record.spec.restart, clock::now()),
            StartBy::Autostart => Upkeep {
                unattended: true,
                ..upkeep
            },
        };
    }

    /// Applies an end, with what the policy makes of it.
    pub(super) fn end(&mut self, fact: Fact) -> Result<(), Refusal> {
        let upkeep = std::mem::take(&mut self.record.upkeep);
        self.record.upkeep = upkeep.in_boot(&self.shared.boot_id);
        let ended = self.record.end(fact, clock::now(), rand::rng().random());
        self.become_next(ended)
    }

    /// Adds to the change of an end what follows from it.
    pub(super) fn telling_what_follows(&self, mut change: Change) -> Change {
        change.events.extend(follows(&self.record, clock::now()));
        change
    }

    /// Sets the timer for what is due, if anything is.
    pub(super) fn arm(&mut self, context: &mut Context<Self>) {
        let Some(at) = self.record.upkeep.next_at else {
            return;
        };
        // Never longer than a pause can be, whatever has become of the clock.
        let wait = at.since(clock::now()).min(self.record.spec.restart.backoff_max);
        self.wait_for_restart(wait, context);
    }

    fn wait_for_restart(&mut self, wait: Duration, context: &mut Context<Self>) {
        self.disarm(context);
        self.due = Some(context.run_later(wait, |actor, context| {
            actor.due = None;
            actor.restart_by_policy(context);
        }));
    }

    /// A due restart that could not even begin, because the supervisor had no room for it, comes later.
    pub(super) fn postpone(&mut self, context: &mut Context<Self>) {
        if self.record.upkeep.next_at.is_some() {
            self.wait_for_restart(self.record.spec.restart.backoff_max, context);
        }
    }

    /// Takes back the timer.
    pub(super) fn disarm(&mut self, context: &mut Context<Self>) {
        if let Some(due) = self.due.take() {
            context.cancel_future(due);
        }
    }

    fn restart_by_policy(&mut self, context: &mut Context<Self>) {
        if self.record.upkeep.next_at.is_some() && self.may_launch() {
            // Nobody waits for it; how it went is in the record and the journal.
            drop(self.start_now(None, StartBy::Policy, context));
        }
    }

    fn may_launch(&self) -> bool {
        self.decide(Command::Start) == Decision::Do(Effect::Launch)
    }

    /// Whether an enabled VM is to be started now. A person's stop holds for this boot of the host, and a VM that is
    /// being restarted or was given up is the policy's.
    fn wants_autostart(&self) -> bool {
        let upkeep = self.record.upkeep.clone().in_boot(&self.shared.boot_id);
        let free = !upkeep.stopped && upkeep.next_at.is_none() && upkeep.gave_up.is_none();
        self.record.autostart.is_some() && free && self.may_launch()
    }
}

/// What follows from an end, for the journal: the restart that is due, or that there will be none.
pub(crate) fn follows(record: &VmRecord, now: Timestamp) -> Option<NewEvent> {
    let (policy, upkeep) = (record.spec.restart, &record.upkeep);
    let tries = upkeep.tries(policy, now);
    if let Some(at) = upkeep.next_at {
        let event = NewEvent::new("vm.restarting", now).about(record);
        let pause = super::start::millis(at.since(now));
        let event = event.with("pause_ms", pause).with("due_at", at.to_string());
        return Some(
            event
                .with("try", tries.saturating_add(1))
                .with("tries", policy.tries),
        );
    }
    upkeep.gave_up.map(|_since| {
        let event = NewEvent::new("vm.crash-loop", now).about(record);
        event
            .with("tries", tries)
            .with("window_s", policy.window.as_secs())
    })
}

impl Handler<StartEnabledVm> for VmActor {
    type Result = Option<Accepted>;

    fn handle(&mut self, _message: StartEnabledVm, context: &mut Context<Self>) -> Self::Result {
        self.wants_autostart()
            .then(|| self.start_now(None, StartBy::Autostart, context))
    }
}

impl Handler<SetAutostart> for VmActor {
    type Result = ResponseActFuture<Self, Result<AutostartSet, Refusal>>;

    fn handle(&mut self, SetAutostart(enabling): SetAutostart, _context: &mut Context<Self>) -> Self::Result {
        let before = self.record.autostart;
        self.record.autostart = autostart_after(before, enabling);
        let already = before == self.record.autostart;
        let kind = if self.record.autostart.is_some() {
            "vm.enabled"
        } else {
            "vm.disabled"
        };
        let change = Change::update(self.record.clone()).event(self.event(kind));
        let durable = self.persist(if already { Change::default() } else { change });
        self.show();
        Box::pin(durable.into_actor(self).map(move |durable, actor, _context| {
            if durable.is_err() {
                actor.record.autostart = before;
                actor.show();
            }
            durable.map(|()| AutostartSet {
                vm: actor.name().to_owned(),
                already,
                autostart: actor.record.autostart.map(told),
            })
        }))
    }
}

fn autostart_after(before: Option<Autostart>, enabling: Enabling) -> Option<Autostart> {
    match enabling {
        Enabling::On { order, delay } => {
            let before = before.unwrap_or_default();
            Some(Autostart {
                order: order.unwrap_or(before.order),
                delay: delay.unwrap_or(before.delay),
            })
        }
        Enabling::Off => None,
    }
}
