//! Facts: what the runner tells, what the kernel tells, and how the end of a VM is settled between them.

use std::future::Future;
use std::rc::Rc;
use std::time::Duration;

use actix::{ActorFutureExt, AsyncContext, Context, WeakAddr, WrapFuture};
use maqet_process::pidfd::{ExitStatus, ProcessHandle};
use maqet_protocol::endpoint::client::ReplyStream;
use maqet_protocol::refusal::Refusal;
use maqet_protocol::runner::{RunnerFact, Watch};
use maqet_state::change::Change;
use maqet_state::clock;
use maqet_state::lifecycle::{Cause, Command, Decision, Fact, LastExit};
use maqet_state::record::Intent;

use serde_json::Value;

use super::news::end_of;
use super::silence::Who;
use super::{Live, VmActor};
use crate::launch::{collect, sweep};
use crate::leases::Leases;
use crate::messages::{QemuExited, RunnerExited, RunnerSaid};
use crate::virtiofsd;

/// QEMU's end is seen here and by the runner, which knows more and tells at once; one that is frozen is not waited for.
const RUNNERS_WORD_DEADLINE: Duration = Duration::from_secs(2);

impl VmActor {
    /// Follows a running QEMU: its runner's stream, and both processes.
    pub(super) fn attach(&mut self, live: Live, watch: ReplyStream<Watch>, context: &mut Context<Self>) {
        if let Some(runner) = &live.runner {
            Self::watch_runner(&live.launch_id, runner, context);
        }
        self.attach_without_stream(live, context);
        self.follow(watch, context);
    }

    /// Follows a QEMU whose runner does not tell anything now.
    pub(super) fn attach_without_stream(&mut self, live: Live, context: &mut Context<Self>) {
        Self::watch_qemu(&live.launch_id, &live.qemu, context);
        Self::watch_silence(&live, context);
        self.shared.board.runs(&self.record.id, &live.qemu);
        let (id, spec) = (self.record.id.clone(), self.record.spec_at_most());
        actix_rt::spawn(Leases::restore(id, spec, Rc::clone(&self.shared)));
        self.live = Some(live);
        self.show();
    }

    /// Passes on what the runner tells, for as long as it tells.
    pub(super) fn follow(&self, watch: ReplyStream<Watch>, context: &mut Context<Self>) {
        let Some(launch_id) = self.live.as_ref().map(|live| live.launch_id.clone()) else {
            return;
        };
        actix_rt::spawn(pass_on(launch_id, watch, context.address().downgrade()));
    }

    pub(super) fn watch_runner(launch_id: &str, runner: &ProcessHandle, context: &mut Context<Self>) {
        let (launch_id, pid, address) = (launch_id.to_owned(), runner.pid(), context.address().downgrade());
        let Ok(runner) = runner.try_clone() else { return };
        actix_rt::spawn(async move {
            let exited = runner.exited().await;
            tracing::debug!(pid, ?exited, "a runner is gone");
            if let Some(address) = address.upgrade() {
                let heard = address.send(RunnerExited { launch_id, pid }).await;
                tracing::debug!(pid, ?heard, "told of the runner's end");
            }
        });
    }

    fn watch_qemu(launch_id: &str, qemu: &ProcessHandle, context: &mut Context<Self>) {
        let (launch_id, address) = (launch_id.to_owned(), context.address().downgrade());
        let Ok(qemu) = qemu.try_clone() else { return };
        actix_rt::spawn(async move {
            let exited = qemu.exited().await;
            tracing::debug!(pid = qemu.pid(), ?exited, "a QEMU is gone");
            if let Some(address) = address.upgrade() {
                let heard = address.send(QemuExited { launch_id }).await;
                tracing::debug!(?heard, "told of QEMU's end");
            }
        });
    }

    pub(super) fn is_live(&self, launch_id: &str) -> bool {
        self.live.as_ref().is_some_and(|live| live.launch_id == launch_id)
    }

    /// The runner told something.
    pub(super) fn runner_said(&mut self, message: RunnerSaid, context: &mut Context<Self>) {
        if !self.is_live(&message.launch_id) {
            return;
        }
        match message.fact {
            RunnerFact::Watching => self.nothing_is_wrong_yet(),
            RunnerFact::Disk { disk, trouble, again } => self.disk_in_trouble(&disk, trouble, again, context),
            RunnerFact::ShareLost { share, loss, again } => self.share_lost(share, loss, again, context),
            RunnerFact::QmpEvent { name, data } => {
                let mut event = self.event(&format!("qmp.{name}"));
                event = match data {
                    Value::Object(data) => event.with_all(data),
                    Value::Null => event,
                    data @ (Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_)) => {
                        event.with("data", data)
                    }
                };
                self.persist_later(Change::default().event(event), context);
            }
            RunnerFact::RunState { run_state } => {
                if let Some(running) = self.live.as_mut().and_then(|live| live.running.as_mut()) {
                    running.run_state = run_state;
                }
                self.show();
            }
            RunnerFact::Silent { silent } => self.silent(Who::Qemu, silent, context),
            RunnerFact::QemuExited { exit } => self.qemu_ended(exit, context),
        }
    }

    /// The end is known. A stop under way takes it from here; otherwise it is recorded at once.
    pub(super) fn qemu_ended(&mut self, exit: LastExit, context: &mut Context<Self>) {
        let Some(live) = &mut self.live else { return };
        live.exit.get_or_insert(exit.clone());
        if self.records_ends() {
            self.end_later(exit, context);
        } else {
            self.resume_stop(context);
        }
    }

    fn end_later(&mut self, exit: LastExit, context: &mut Context<Self>) {
        let recorded = self.record_end(exit);
        let logged = recorded.into_actor(self).map(|durable, actor, context| {
            if let Err(refusal) = durable {
                tracing::error!(vm = actor.name(), %refusal, causes = ?refusal.causes, "an end is not durable yet");
            }
            actor.arm(context);
        });
        context.spawn(logged);
    }

    /// The kernel told that QEMU is gone; the runner is given a moment to say how.
    pub(super) fn qemu_exited(&mut self, message: QemuExited, context: &mut Context<Self>) {
        if !self.is_live(&message.launch_id) || self.live.as_ref().is_some_and(|live| live.exit.is_some()) {
            return;
        }
        if self.live.as_ref().is_some_and(|live| live.runner.is_none()) {
            return self.settle_unaided(context);
        }
        self.show();
        context.run_later(RUNNERS_WORD_DEADLINE, move |actor, context| {
            if actor.is_live(&message.launch_id) {
                actor.settle_unaided(context);
            }
        });
    }

    /// The kernel told that a runner is gone.
    pub(super) fn runner_exited(&mut self, message: &RunnerExited, context: &mut Context<Self>) {
        let own = |handle: &ProcessHandle| handle.pid() == message.pid;
        if let Some(leaving) = self.leaving.take_if(|leaving| own(leaving)) {
            collect(&leaving, &self.shared);
            self.sweep();
            return self.strike_left(context);
        }
        if self.leaving.is_none() && !self.is_live(&message.launch_id) {
            // A start that came to nothing has seen it off.
            return self.strike_left(context);
        }
        if !self.is_live(&message.launch_id) {
            return;
        }
        let Some(live) = &mut self.live else { return };
        let Some(runner) = live.runner.take_if(|runner| own(runner)) else {
            return;
        };
        collect(&runner, &self.shared);
        if live.qemu.has_exited() {
            self.settle_unaided(context);
        } else {
            self.replace_runner(context);
        }
    }

    /// QEMU is gone and nobody has told how: the runner's note, then the kernel, then honesty.
    fn settle_unaided(&mut self, context: &mut Context<Self>) {
        if let Some(exit) = self.exit_unaided() {
            self.qemu_ended(exit, context);
        }
    }

    /// What a command meets. A QEMU that is dead and of which nobody has told is settled first, so that no command is
    /// decided upon as if it ran.
    pub(super) fn meet(&mut self, command: Command, context: &mut Context<Self>) -> Decision {
        let untold = |live: &Live| live.exit.is_none() && live.qemu.has_exited();
        if self.records_ends() && self.live.as_ref().is_some_and(untold) {
            self.settle_unaided(context);
        }
        self.decide(command)
    }

    /// How the QEMU ended that nobody has told about; `None` without one.
    pub(super) fn exit_unaided(&self) -> Option<LastExit> {
        let live = self.live.as_ref()?;
        let noted = crate::exit_note::read(&self.shared.places.vm_runtime(&self.record.id), &live.launch_id);
        let known = live.exit.clone().or(noted);
        Some(known.unwrap_or_else(|| {
            let exit = exit_by_kernel(&live.qemu);
            let intent = self.record.state.launch().map(|launch| launch.intent);
            if exit.cause == Cause::QemuKilled && intent == Some(Intent::StopForced) {
                let cause = Cause::StopForced;
                return LastExit { cause, ..exit };
            }
            exit
        }))
    }

    fn sweep(&self) {
        sweep(&self.shared.places.vm_runtime(&self.record.id));
    }

    /// Nothing runs any more. The end comes back with what only the one who collects QEMU gets to know.
    fn let_go(&mut self, live: Live, exit: LastExit) -> LastExit {
        let exit = completed(exit, &live.qemu);
        // After its runner's death QEMU is the supervisor's child; for another's child this does nothing.
        if live.qemu.has_exited() {
            collect(&live.qemu, &self.shared);
        }
        self.leaving = live.runner;
        self.shared.board.ended(&self.record.id);
        // A runner that is there cleans up by itself; one that was killed could not.
        if self.leaving.is_none() {
            self.sweep();
        }
        exit
    }

    /// QEMU is gone. Its runner sees to its helpers, if there is one.
    fn see_off_helpers(&self) {
        let helpers = self.helpers().to_vec();
        if let Some(qemu) = self.record.state.launch().and_then(|launch| launch.qemu.as_ref()) {
            self.shared.confined.leave(qemu, &helpers);
        }
        if !helpers.is_empty() {
            let shared = Rc::clone(&self.shared);
            actix_rt::spawn(async move { virtiofsd::see_off(&helpers, &shared).await });
        }
    }

    /// Records the end of the present launch. The future ends when it is durable.
    pub(super) fn record_end(
        &mut self,
        exit: LastExit,
    ) -> impl Future<Output = Result<(), Refusal>> + 'static {
        let exit = match self.live.take() {
            Some(live) => self.let_go(live, exit),
            None => exit,
        };
        self.see_off_helpers();
        let mut change = Change::default();
        let mut applied = Ok(());
        if let Some(launch) = self.record.state.launch().cloned() {
            let struck = self.strike_launch(&launch, Change::default());
            let generation = self.record.generation;
            applied = self.end(Fact::Ended { generation, exit });
            let event = end_of(&self.record, clock::now());
            let upsert = Some(self.record.clone());
            change = self.telling_what_follows(Change { upsert, ..struck }.event(event));
        }
        let durable = self.persist_fact(change);
        async move {
            applied?;
            durable.await
        }
    }
}

/// The watch stream as mail, until either end of it is gone.
async fn pass_on(launch_id: String, mut watch: ReplyStream<Watch>, address: WeakAddr<VmActor>) {
    while let Some(Ok(reply)) = watch.next().await {
        let Some(address) = address.upgrade() else { return };
        let said = RunnerSaid {
            launch_id: launch_id.clone(),
            fact: reply.fact,
        };
        if address.send(said).await.is_err() {
            return;
        }
    }
}

/// A runner that did not start QEMU itself may not get to know its exit status; whoever collects it does.
fn completed(exit: LastExit, qemu: &ProcessHandle) -> LastExit {
    if exit.cause == Cause::EndedUnknown && qemu.has_exited() {
        LastExit {
            detail: exit.detail,
            ..exit_by_kernel(qemu)
        }
    } else {
        exit
    }
}

/// What the kernel knows of an end that no runner told.
fn exit_by_kernel(qemu: &ProcessHandle) -> LastExit {
    let (cause, exit_code, signal) = match qemu.exit_status() {
        Some(ExitStatus::Code(code)) => (Cause::QemuExited, Some(code), None),
        Some(ExitStatus::Signal(signal)) if is_crash(signal) => (Cause::QemuCrashed, None, Some(signal)),
        Some(ExitStatus::Signal(signal)) => (Cause::QemuKilled, None, Some(signal)),
        None => (Cause::EndedUnknown, None, None),
    };
    let detail = Some("seen by the supervisor; the runner told nothing".to_owned());
    LastExit {
        cause,
        at: clock::now(),
        exit_code,
        signal,
        detail,
    }
}

/// Signals a program raises on itself.
fn is_crash(signal: i32) -> bool {
    use nix::sys::signal::Signal::{SIGABRT, SIGBUS, SIGFPE, SIGILL, SIGSEGV, SIGSYS, SIGTRAP};
    nix::sys::signal::Signal::try_from(signal).is_ok_and(|signal| {
        matches!(
            signal,
            SIGABRT | SIGBUS | SIGFPE | SIGILL | SIGSEGV | SIGSYS | SIGTRAP
        )
    })
}
