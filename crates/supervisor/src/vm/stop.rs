//! Stopping: the ladder is the runner's; here is who asks for it, and what follows.

use std::rc::Rc;
use std::time::Instant;

use actix::{ActorFutureExt, AsyncContext, Context, WrapFuture};
use maqet_process::pidfd::ProcessHandle;
use maqet_process::point::{Point, pass};
use maqet_protocol::control::{StopHow, StopReport};
use maqet_protocol::refusal::{Refusal, RefusalCode};
use maqet_protocol::runner::{Ended, StopQemu};
use maqet_spec::vm::OnTimeout;
use maqet_state::change::Change;
use maqet_state::lifecycle::{Activity, Cause, Command, Decision, Effect, Fact, LastExit};
use maqet_state::record::Intent;

use super::parked::unattended;
use super::start::{StartOrder, millis, see_off};
use super::walk::Walk;
use super::{StartBy, Then, VmActor};
use crate::messages::{RestartVm, StopBy, StopVm};
use crate::operation::{Accepted, Done};
use crate::shared::Shared;

/// What a stop was asked with.
#[derive(Debug)]
pub(super) struct StopOrder {
    pub(super) order: StopQemu,
    key: Option<String>,
    pub(super) asked: Instant,
    /// Key of the restart this stop is the first half of.
    restart_key: Option<String>,
    pub(super) by: StopBy,
}

impl StopOrder {
    /// One that nobody asked for.
    pub(super) fn after_loss(order: StopQemu, asked: Instant) -> Self {
        Self {
            order,
            key: None,
            asked,
            restart_key: None,
            by: StopBy::Loss,
        }
    }
}

impl VmActor {
    /// `stop` and `kill`.
    pub(super) fn stop(&mut self, message: StopVm, context: &mut Context<Self>) -> Result<Accepted, Refusal> {
        let command = if message.force {
            Command::Kill
        } else {
            Command::Stop
        };
        let asked = Instant::now();
        let decision = self.meet(command, context);
        let news = matches!(decision, Decision::Do(_) | Decision::Join | Decision::AlreadyDone)
            .then(|| self.stay_down(message.by, context))
            .flatten();
        match decision {
            Decision::AlreadyDone => Ok(self.already_stopped_durably(news)),
            Decision::Do(Effect::CancelStart) => self.stop_starting(message, news, context),
            Decision::Do(Effect::EscalateKill) => self.hurry(self.ladder_order(None, true), context),
            Decision::Do(Effect::WalkLadder | Effect::Kill) => {
                let order = self.ladder_order(message.timeout_ms, message.force);
                self.walk(
                    StopOrder {
                        order,
                        key: message.key,
                        asked,
                        restart_key: None,
                        by: message.by,
                    },
                    Then::Rest,
                    context,
                )
            }
            // A budget of one's own is hard: it shortens the one the stop under way was given.
            Decision::Join if message.timeout_ms.is_some() => {
                self.hurry(self.ladder_order(message.timeout_ms, message.force), context)
            }
            Decision::Join => {
                self.drop_restart();
                self.claim_stop(context);
                self.join().ok_or_else(|| self.defect("nothing to join"))
            }
            Decision::Deny(denial) => Err(self.deny(denial)),
            Decision::Do(_) => Err(self.defect("a stop with another effect")),
        }
    }

    /// `restart`.
    pub(super) fn restart(
        &mut self,
        message: RestartVm,
        context: &mut Context<Self>,
    ) -> Result<Accepted, Refusal> {
        let asked = Instant::now();
        match self.meet(Command::Restart, context) {
            Decision::Do(Effect::Launch) => {
                self.take_charge(context);
                Ok(self.start_now(message.key, StartBy::Person, context))
            }
            Decision::Do(Effect::StopThenLaunch) => {
                self.take_charge(context);
                let order = self.ladder_order(message.timeout_ms, false);
                let order = StopOrder {
                    order,
                    key: None,
                    asked,
                    restart_key: message.key,
                    by: StopBy::Person,
                };
                self.walk(order, Then::Launch, context)
            }
            Decision::Deny(denial) => Err(self.deny(denial)),
            Decision::Join | Decision::AlreadyDone | Decision::Do(_) => {
                Err(self.defect("a restart with another effect"))
            }
        }
    }

    /// A forced stop whose end is followed by something else.
    pub(super) fn kill_then(&mut self, then: Then, context: &mut Context<Self>) -> Result<Accepted, Refusal> {
        let order = self.ladder_order(None, true);
        self.walk(
            StopOrder {
                order,
                key: None,
                asked: Instant::now(),
                restart_key: None,
                by: StopBy::Person,
            },
            then,
            context,
        )
    }

    pub(super) fn ladder_order(&self, timeout_ms: Option<u64>, force: bool) -> StopQemu {
        let policy = self.record.spec.stop;
        StopQemu {
            budget_ms: timeout_ms.unwrap_or_else(|| millis(policy.timeout)),
            hard: timeout_ms.is_some(),
            force,
            kill_on_timeout: policy.on_timeout == OnTimeout::Kill,
        }
    }

    pub(super) fn already_stopped(&self) -> Done {
        self.stopped(StopHow::Already, Instant::now())
    }

    pub(super) fn stopped(&self, how: StopHow, asked: Instant) -> Done {
        Done::Stopped(StopReport {
            vm: self.name().to_owned(),
            status: self.record.status(),
            how,
            took_ms: millis(asked.elapsed()),
        })
    }

    /// A `kill`, or a `stop` in more of a hurry, during a `stop`: the runner shortens its ladder; all get the same
    /// answer.
    fn hurry(&mut self, order: StopQemu, context: &mut Context<Self>) -> Result<Accepted, Refusal> {
        self.drop_restart();
        let accepted = self.join().ok_or_else(|| self.defect("no stop to hurry"))?;
        let forced = order.force;
        let Some(walk) = self.walk_of(order) else {
            return Ok(accepted);
        };
        let generation = self.record.generation;
        if forced {
            let intent = Intent::StopForced;
            self.apply(Fact::StopIntended { generation, intent })?;
            self.persist_later(Change::update(self.record.clone()), context);
        }
        let hurried = walk
            .run()
            .into_actor(self)
            .map(move |result, actor, context| match result {
                Ok(ended) => {
                    // The VM may have been started again since.
                    if let Some(live) = &mut actor.live
                        && live.generation == generation
                    {
                        live.exit.get_or_insert(ended.exit);
                    }
                    actor.resume_stop(context);
                }
                Err(refusal) => tracing::warn!(%refusal, "a stop could not be hurried"),
            });
        context.spawn(hurried);
        Ok(accepted)
    }

    /// Whoever stops a restarting VM means it to stay down.
    fn drop_restart(&mut self) {
        if let Some(work) = &mut self.work
            && matches!(work.then, Then::Launch)
        {
            work.then = Then::Rest;
        }
    }

    pub(super) fn walk_of(&self, order: StopQemu) -> Option<Walk> {
        let live = self.live.as_ref()?;
        Some(Walk {
            name: self.name().to_owned(),
            link: Rc::clone(&live.link),
            qemu: live.qemu.try_clone().ok()?,
            runner: live.runner.as_ref().and_then(|runner| runner.try_clone().ok()),
            order,
        })
    }

    /// Records the intent, then has the ladder walked.
    pub(super) fn walk(
        &mut self,
        stop: StopOrder,
        then: Then,
        context: &mut Context<Self>,
    ) -> Result<Accepted, Refusal> {
        let Some(walk) = self.walk_of(stop.order) else {
            return Err(self.unconfirmed());
        };
        let intent = match (stop.by, stop.order.force) {
            (StopBy::Loss, _) => Intent::RunnerLost,
            (StopBy::Person | StopBy::Exit, true) => Intent::StopForced,
            (StopBy::Person | StopBy::Exit, false) => Intent::Stop,
        };
        self.apply(Fact::StopIntended {
            generation: self.record.generation,
            intent,
        })?;
        let event = self.event("vm.stopping").with("force", stop.order.force);
        let event = event.with("by", stop.by.as_str());
        let intended = self.persist_fact(Change::update(self.record.clone()).event(event));
        let accepted = self.begin(Activity::Stopping);
        if let Some(work) = &mut self.work {
            work.then = then;
        }
        if !stop.order.force && self.lacks_runner() {
            self.park(stop, unattended(), context);
            return Ok(accepted);
        }
        let work = async move {
            // A full disk must not keep anybody from stopping a VM: the intent is a help for recovery, not a condition.
            if let Err(refusal) = intended.await {
                tracing::error!(%refusal, "the intent to stop is not durable yet");
            }
            pass(Point::StopIntended);
            walk.run().await
        };
        let done = work
            .into_actor(self)
            .map(move |result, actor, context| actor.walk_ended(result, stop, context));
        context.spawn(done);
        Ok(accepted)
    }

    pub(super) fn walk_ended(
        &mut self,
        result: Result<Ended, Refusal>,
        stop: StopOrder,
        context: &mut Context<Self>,
    ) {
        pass(Point::StopWalked);
        let ended = match (result, self.exit_if_gone()) {
            (Ok(ended), _) => ended,
            (Err(_), Some(exit)) => Ended {
                how: how(&exit),
                exit,
            },
            (Err(refusal), None) if self.live.is_some() => {
                if !stop.order.force && self.lacks_runner() {
                    return self.park(stop, refusal, context);
                }
                return self.give_up(refusal, context);
            }
            (Err(_), None) => return self.after_stop(StopHow::Already, stop, context),
        };
        let how = ended.how;
        let recorded = self.record_end(ended.exit);
        let gone = leave(self.leaving.take(), Rc::clone(&self.shared));
        let recorded = async move { futures_util::future::join(recorded, gone).await.0 };
        let done = recorded.into_actor(self).map(move |durable, actor, context| {
            // It is stopped, whatever the disk says; until that takes the end, recovery finds it in the runner's note.
            if let Err(refusal) = durable {
                tracing::error!(vm = actor.name(), %refusal, causes = ?refusal.causes, "an end is not durable yet");
            }
            actor.after_stop(how, stop, context);
        });
        context.spawn(done);
    }

    /// How QEMU ended, told or not; `None` while it runs.
    pub(super) fn exit_if_gone(&self) -> Option<LastExit> {
        let live = self.live.as_ref()?;
        if live.exit.is_some() || live.qemu.has_exited() {
            self.exit_unaided()
        } else {
            None
        }
    }

    /// QEMU is still there: the intent is taken back.
    pub(super) fn give_up(&mut self, refusal: Refusal, context: &mut Context<Self>) {
        if let Some(change) = self.withdraw_stop(&refusal.message) {
            self.persist_later(change, context);
        }
        let state = self.record.state.shown(self.activity).as_str();
        let refusal = refusal.vm(self.name()).state(state);
        self.finish(Err(refusal));
    }

    fn after_stop(&mut self, how: StopHow, stop: StopOrder, context: &mut Context<Self>) {
        pass(Point::StopRecorded);
        // A runner that was killed could not clean up.
        crate::launch::sweep(&self.shared.places.vm_runtime(&self.record.id));
        let then = self
            .work
            .as_mut()
            .map(|work| std::mem::take(&mut work.then))
            .unwrap_or_default();
        match then {
            Then::Rest => {
                let done = self.stopped(how, stop.asked);
                if let (Some(key), Done::Stopped(report)) = (stop.key, &done) {
                    let answer = serde_json::to_value(report).unwrap_or_default();
                    self.persist_later(Change::default().answering(key, answer), context);
                }
                self.finish(Ok(done));
                self.arm(context);
            }
            Then::Launch => {
                self.activity = Activity::Starting;
                self.show();
                self.launch(
                    StartOrder {
                        key: stop.restart_key,
                        asked: stop.asked,
                        by: StartBy::Person,
                    },
                    context,
                );
            }
            Then::Forget(order) => self.forget(order, context),
        }
    }

    fn unconfirmed(&self) -> Refusal {
        Refusal::new(
            RefusalCode::NotAnswering,
            format!("cannot tell whether `{}` runs", self.name()),
        )
        .vm(self.name())
        .hint(format!("maqet status {}", self.name()))
    }
}

/// Waits for the runner of a QEMU that is gone: when `stop` returns, nothing of the launch is left.
async fn leave(runner: Option<ProcessHandle>, shared: Rc<Shared>) {
    if let Some(runner) = runner {
        see_off(&runner, &shared).await;
    }
}

/// How a stop ended that the VM outran.
fn how(exit: &LastExit) -> StopHow {
    match exit.cause {
        Cause::GuestShutdown | Cause::GuestReset | Cause::GuestPanic => StopHow::Guest,
        Cause::StopForced | Cause::QemuKilled | Cause::QemuCrashed => StopHow::Killed,
        Cause::Stop
        | Cause::StartFailed
        | Cause::QemuExited
        | Cause::HostShutdown
        | Cause::HostRebooted
        | Cause::RunnerLost
        | Cause::HelperLost
        | Cause::EndedUnknown => StopHow::Quit,
    }
}
