//! Carries out what the stop ladder decides.

use std::time::Duration;

use maqet_process::point::{Point, pass};
use maqet_process::signal::{Sent, Signal};
use maqet_protocol::refusal::{Refusal, RefusalCode};
use maqet_protocol::runner::{Ended, StopQemu};
use maqet_qmp::command::{Quit, Stop, SystemPowerdown};
use maqet_qmp::{Qmp, QmpError};
use tokio::time::Instant;

use super::events::guest_in;
use super::start::end_it;
use super::{Answer, News, Session, Stage, give};
use crate::ending::Intent;
use crate::ladder::{Action, Answer as Outcome, Guest, Input, Ladder, Verdict};
use crate::logs::SERIAL_LOG;
use crate::monitor;

/// A press that is not taken within this time is withdrawn; the ladder has drawn its conclusions long before.
const PRESS: Duration = Duration::from_mins(1);

/// The end of QEMU under way.
#[derive(Debug)]
pub(super) struct Ending {
    pub(super) ladder: Ladder,
    pub(super) intent: Intent,
}

impl Ending {
    /// When the ladder wants to be asked.
    pub(super) fn due(&self, began: Instant) -> Option<Instant> {
        self.ladder.wake_at().map(|at| began + Duration::from_millis(at))
    }
}

impl Session {
    pub(super) fn stop(&mut self, order: StopQemu, answer: Answer<Ended>) {
        match &mut self.stage {
            Stage::Up(live) => {
                pass(Point::StopAsked);
                let guest = guest_in(&live.run_state);
                self.waiters.push(answer);
                if self.ending.is_some() {
                    self.climb(Input::Joined(order));
                } else {
                    self.begin(order, Intent::Stop, guest);
                }
            }
            Stage::Starting(starting) if order.force => {
                end_it(&starting.qemu.handle);
                self.waiters.push(answer);
            }
            // Taken over, it can be asked to flush; taking over does not wait for a QEMU that does not answer.
            Stage::Adopting { stops, .. } => stops.push((order, answer)),
            Stage::Starting(_) | Stage::Gating { .. } | Stage::Gated { .. } => {
                let words = format!("`{}` is starting", self.place.name);
                give(
                    answer,
                    Err(self.place.refusal(RefusalCode::Busy, words).state("starting")),
                );
            }
            Stage::Fresh | Stage::Over => {
                let words = format!("`{}` does not run", self.place.name);
                give(answer, Err(self.place.refusal(RefusalCode::WrongState, words)));
            }
        }
    }

    /// The runner is told to end: QEMU is brought to its end first, but never by force.
    pub(super) fn terminate(&mut self) {
        self.terminating = true;
        match &self.stage {
            Stage::Fresh | Stage::Gated { .. } => self.abandon(),
            Stage::Up(live) if self.ending.is_none() => {
                let order = StopQemu {
                    budget_ms: u64::try_from(live.qemu.stop.timeout.as_millis()).unwrap_or(u64::MAX),
                    hard: false,
                    force: false,
                    kill_on_timeout: false,
                };
                let guest = guest_in(&live.run_state);
                self.begin(order, Intent::HostShutdown, guest);
            }
            // What is under way comes back to `terminating` when it is done.
            Stage::Up(_)
            | Stage::Gating { .. }
            | Stage::Starting(_)
            | Stage::Adopting { .. }
            | Stage::Over => {}
        }
    }

    /// Sets the ladder up.
    pub(super) fn begin(&mut self, order: StopQemu, intent: Intent, guest: Guest) {
        tracing::info!(?intent, ?guest, "QEMU is brought to its end");
        let (ladder, actions) = Ladder::new(order, guest, self.now_ms());
        self.ending = Some(Ending { ladder, intent });
        self.carry_out(actions);
    }

    /// Tells the ladder what happened and does what it wants.
    pub(super) fn climb(&mut self, input: Input) {
        let now = self.now_ms();
        if let Some(ending) = &mut self.ending {
            let actions = ending.ladder.step(input, now);
            self.carry_out(actions);
        }
    }

    pub(super) fn now_ms(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn carry_out(&mut self, actions: Vec<Action>) {
        for action in actions {
            tracing::debug!(?action, "stop ladder");
            match action {
                Action::PressButton => self.press(),
                Action::Sample => self.sample(),
                Action::Stop { within_ms } => self.command(within_ms, Input::Stopped, flush),
                Action::Quit { within_ms } => self.command(within_ms, Input::Quit, quit),
                Action::Kill => self.kill(),
                Action::Finish(verdict) => self.finish(verdict),
            }
        }
    }

    fn live_qmp(&self) -> Option<Qmp> {
        match &self.stage {
            Stage::Up(live) => live.qmp.clone(),
            Stage::Fresh
            | Stage::Gating { .. }
            | Stage::Gated { .. }
            | Stage::Starting(_)
            | Stage::Adopting { .. }
            | Stage::Over => None,
        }
    }

    fn press(&self) {
        let Some(qmp) = self.live_qmp() else { return };
        self.expect(async move {
            match qmp.execute(&SystemPowerdown, PRESS).await {
                Ok(_) | Err(QmpError::Refused { .. }) => News::Ladder(Input::ButtonAnswered),
                Err(error) => {
                    tracing::debug!(%error, "the power button was not taken");
                    News::Silent(true)
                }
            }
        });
    }

    fn sample(&self) {
        let (Some(qmp), Stage::Up(live)) = (self.live_qmp(), &self.stage) else {
            return;
        };
        let logs = live.qemu.logs.clone();
        self.expect(async move {
            let disks = monitor::written_bytes(&qmp).await;
            let all = disks.map(|bytes| bytes.saturating_add(logs.size(SERIAL_LOG)));
            News::Ladder(Input::Progress(all))
        });
    }

    /// Runs one command for the ladder and tells it the outcome. A QEMU that has hung up is most likely about to be gone,
    /// told to by a runner that is itself gone by now: its end, if it comes, is the better answer.
    fn command<F, W>(&self, within_ms: u64, input: fn(Outcome) -> Input, run: F)
    where
        F: FnOnce(Qmp, Duration) -> W,
        W: Future<Output = Result<(), QmpError>> + Send + 'static,
    {
        let work = self
            .live_qmp()
            .map(|qmp| run(qmp, Duration::from_millis(within_ms)));
        let qemu = match &self.stage {
            Stage::Up(live) => live.qemu.handle.try_clone().ok(),
            Stage::Fresh
            | Stage::Gating { .. }
            | Stage::Gated { .. }
            | Stage::Starting(_)
            | Stage::Adopting { .. }
            | Stage::Over => None,
        };
        self.expect(async move {
            let result = match work {
                Some(work) => work.await,
                None => Err(QmpError::Closed),
            };
            let hung_up = matches!(result, Err(QmpError::Closed | QmpError::Io(_)));
            if let (true, Some(qemu)) = (hung_up, qemu) {
                monitor::linger(&qemu).await;
            }
            News::Ladder(input(outcome(result)))
        });
    }

    fn kill(&mut self) {
        let Stage::Up(live) = &self.stage else { return };
        // A zombie takes signals too; one that was dead before was not killed by this one.
        if live.qemu.handle.has_exited() {
            return;
        }
        match live.qemu.handle.signal(Signal::Kill) {
            Ok(Sent::Delivered) => self.climb(Input::Killed),
            Ok(Sent::AlreadyGone) => {}
            Err(error) => tracing::error!(%error, "QEMU cannot be killed"),
        }
    }

    fn finish(&mut self, verdict: Verdict) {
        let refusal = match verdict {
            // The session concludes by itself: it knows of the end first.
            Verdict::Gone(_) => return,
            Verdict::StillRunning => self.still_running("QEMU does not answer; VM is still running"),
            Verdict::Unkillable => self.still_running("QEMU was killed but the kernel does not let it go"),
        };
        self.ending = None;
        tracing::warn!(%refusal, "the stop ladder ended");
        self.silence(true);
        for waiter in std::mem::take(&mut self.waiters) {
            give(waiter, Err(refusal.clone()));
        }
    }

    fn still_running(&self, words: &str) -> Refusal {
        self.place
            .refusal(RefusalCode::Timeout, words)
            .state("running")
            .hint(format!("maqet stop --force {}", self.place.name))
    }
}

/// Stops the guest's CPUs and flushes every disk.
async fn flush(qmp: Qmp, within: Duration) -> Result<(), QmpError> {
    qmp.execute(&Stop, within).await.map(drop)
}

/// Ends QEMU; it may be gone before it answers.
async fn quit(qmp: Qmp, within: Duration) -> Result<(), QmpError> {
    pass(Point::QuitDue);
    match qmp.execute(&Quit, within).await {
        Ok(_) | Err(QmpError::Closed) => Ok(()),
        Err(error) => Err(error),
    }
}

fn outcome(result: Result<(), QmpError>) -> Outcome {
    match result {
        Ok(()) => Outcome::Done,
        Err(QmpError::Refused {
            command, description, ..
        }) => {
            tracing::warn!(command, description, "QEMU refused");
            Outcome::Refused
        }
        Err(error) => {
            tracing::warn!(%error, "no answer for the stop ladder");
            Outcome::Silent
        }
    }
}
