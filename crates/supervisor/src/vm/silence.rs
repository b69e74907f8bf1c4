//! Who does not answer, since when, and how that is noticed.
//!
//! Nobody is asked whether he is still there. Silence is noticed when a call passes its deadline: of a QEMU by its runner,
//! which tells; of a runner here, by any call, `status` among them. From then on the runner is asked with growing pauses,
//! until it answers or is gone; nobody else is kept waiting meanwhile.

use std::rc::Rc;
use std::time::Duration;

use actix::{ActorFutureExt, AsyncContext, Context, Handler, WeakAddr, WrapFuture};
use maqet_process::signal::Signal;
use maqet_protocol::refusal::{Refusal, RefusalCode};
use maqet_protocol::runner::{Query, RunQmp};
use maqet_state::change::Change;
use maqet_state::clock::{self, Timestamp};
use maqet_state::lifecycle::Activity;
use tokio::sync::mpsc;

use super::adopt::pause;
use super::{Live, VmActor};
use crate::link::RunnerLink;
use crate::messages::{Beckon, RunnerUnheard};

/// A runner answers from memory; one that takes this long is frozen.
pub(super) const QUERY_DEADLINE: Duration = Duration::from_secs(3);

/// QEMU answers within a millisecond, on a crowded host within a hundred; one that takes this long is silent.
const PROBE_DEADLINE_MS: u64 = 2_000;

/// Room for the wire beside the deadline QEMU is given.
const WIRE_MARGIN: Duration = Duration::from_millis(500);

/// Who lets calls pass unanswered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Who {
    /// The runner, or there is none: it is being replaced.
    Runner,
    /// QEMU, says its runner.
    Qemu,
}

/// Who is silent, and since when somebody is.
#[derive(Debug, Default)]
pub(super) struct Silence {
    runner: bool,
    qemu: bool,
    since: Option<Timestamp>,
}

impl Silence {
    /// Since when; `None` while everybody answers.
    pub(super) fn since(&self) -> Option<Timestamp> {
        self.since
    }

    fn of(&mut self, who: Who) -> &mut bool {
        match who {
            Who::Runner => &mut self.runner,
            Who::Qemu => &mut self.qemu,
        }
    }

    /// Takes note; whether that makes a difference to those who look from outside.
    fn note(&mut self, who: Who, silent: bool, now: Timestamp) -> bool {
        *self.of(who) = silent;
        let somebody = self.runner || self.qemu;
        if somebody == self.since.is_some() {
            return false;
        }
        self.since = somebody.then_some(now);
        true
    }
}

impl VmActor {
    /// Somebody fell silent, or is heard again.
    pub(super) fn silent(&mut self, who: Who, silent: bool, context: &mut Context<Self>) {
        let Some(live) = &mut self.live else { return };
        if !live.silence.note(who, silent, clock::now()) {
            return;
        }
        self.show();
        let event = self.event(if silent { "vm.silent" } else { "vm.answering" });
        self.persist_later(Change::default().event(event), context);
        if !silent {
            self.resume_disks(context);
        }
    }

    /// Hears of calls that the runner let pass, for as long as there is this way to it.
    pub(super) fn watch_silence(live: &Live, context: &mut Context<Self>) {
        let Some(silence) = live.link.silence() else {
            return;
        };
        actix_rt::spawn(pass_on(
            live.launch_id.clone(),
            silence,
            context.address().downgrade(),
        ));
    }

    /// A call got no answer from the runner.
    pub(super) fn runner_unheard(&mut self, message: &RunnerUnheard, context: &mut Context<Self>) {
        if !self.is_live(&message.launch_id) {
            return;
        }
        let Some(live) = &mut self.live else { return };
        // A dead one is not silent: its end is told, and it is replaced.
        let Some(runner) = live.runner.as_ref().filter(|runner| !runner.has_exited()) else {
            return;
        };
        let pid = runner.pid();
        if !std::mem::replace(live.silence.of(Who::Runner), true) {
            tracing::warn!(vm = self.name(), pid, "a runner does not answer");
            self.silent(Who::Runner, true, context);
            self.ask_again(pid, 0, context);
        }
    }

    /// Asks a silent runner until it answers or is replaced.
    fn ask_again(&mut self, pid: i32, attempt: u32, context: &mut Context<Self>) {
        let Some(live) = self.live.as_ref().filter(|_| self.has_runner(pid)) else {
            return;
        };
        let link = Rc::clone(&live.link);
        let asked = async move { link.call(&Query {}, QUERY_DEADLINE).await };
        let done = asked.into_actor(self).map(move |answer, actor, context| {
            if !actor.has_runner(pid) {
                return;
            }
            if answer.is_ok() {
                return actor.silent(Who::Runner, false, context);
            }
            actor.beckon();
            context.run_later(pause(attempt), move |actor, context| {
                actor.ask_again(pid, attempt.saturating_add(1), context);
            });
        });
        context.spawn(done);
    }

    /// Its socket may have been deleted under a runner that is as well as ever.
    pub(super) fn beckon(&self) {
        if let Some(runner) = self.live.as_ref().and_then(|live| live.runner.as_ref())
            && let Err(error) = runner.signal(Signal::Urgent)
        {
            tracing::debug!(vm = self.name(), %error, "a runner cannot be beckoned");
        }
    }

    /// The way to a QEMU of which nobody knows yet that it does not answer.
    pub(super) fn probed(&self) -> Option<Rc<RunnerLink>> {
        let live = self.live.as_ref().filter(|_| self.activity == Activity::Idle)?;
        let heard = live.runner.is_some() && live.silence.since().is_none() && !live.qemu.has_exited();
        heard.then(|| Rc::clone(&live.link))
    }

    /// What a probe has shown.
    pub(super) fn probe_ended(&mut self, result: Result<(), Refusal>, context: &mut Context<Self>) {
        let Err(refusal) = result else { return };
        if self.live.as_ref().is_some_and(|live| live.qemu.has_exited()) {
            return;
        }
        let launch_id = self.live.as_ref().map(|live| live.launch_id.clone());
        match (refusal.code, launch_id) {
            (RefusalCode::Timeout, Some(_)) => self.silent(Who::Qemu, true, context),
            (RefusalCode::NotAnswering, Some(launch_id)) => {
                self.runner_unheard(&RunnerUnheard { launch_id }, context);
            }
            (_, _) => tracing::debug!(vm = self.name(), %refusal, "a probe was not answered"),
        }
    }
}

impl Handler<Beckon> for VmActor {
    type Result = ();

    fn handle(&mut self, _beckon: Beckon, _context: &mut Context<Self>) {
        self.beckon();
    }
}

async fn pass_on(launch_id: String, mut silence: mpsc::Receiver<()>, address: WeakAddr<VmActor>) {
    while silence.recv().await.is_some() {
        let Some(address) = address.upgrade() else { return };
        let launch_id = launch_id.clone();
        if address.send(RunnerUnheard { launch_id }).await.is_err() {
            return;
        }
    }
}

/// Asks QEMU, through its runner, for a sign of life.
pub(super) async fn probe(link: &RunnerLink) -> Result<(), Refusal> {
    let question = RunQmp {
        command: "query-status".to_owned(),
        arguments: None,
        timeout_ms: PROBE_DEADLINE_MS,
    };
    let deadline = Duration::from_millis(PROBE_DEADLINE_MS) + WIRE_MARGIN;
    link.call(&question, deadline).await.map(|_status| ())
}

#[cfg(test)]
mod tests {
    use super::{Silence, Timestamp, Who};

    #[test]
    fn it_lasts_from_the_first_who_falls_silent_to_the_last_who_is_heard_again() {
        let mut silence = Silence::default();
        assert!(silence.note(Who::Qemu, true, Timestamp(1)));
        assert!(!silence.note(Who::Runner, true, Timestamp(2)));
        assert!(!silence.note(Who::Qemu, false, Timestamp(3)));
        assert_eq!(silence.since(), Some(Timestamp(1)));
        assert!(silence.note(Who::Runner, false, Timestamp(4)));
        assert!(!silence.note(Who::Runner, false, Timestamp(5)));
        assert_eq!(silence.since(), None);
    }
}
