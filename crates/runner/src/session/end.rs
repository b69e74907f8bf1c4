//! The end: of QEMU, or of a launch that was never let run.

use std::time::Duration;

use maqet_process::pidfd::{ExitStatus, ProcessHandle};
use maqet_process::point::{Point, pass};
use maqet_protocol::control::StopHow;
use maqet_protocol::refusal::{Refusal, RefusalCode};
use maqet_protocol::runner::{Ended, ExitNote, RunnerFact};
use maqet_state::clock;
use maqet_state::lifecycle::LastExit;
use tokio::time::{Instant, timeout};

use super::{Connection, GRACE, Gate, Session, Stage, Starting, give};
use crate::confinement;
use crate::ending::{Intent, Remains, in_words};
use crate::ladder::{Action, Input, Verdict, Way};
use crate::notes::{self, LaunchNote};
use crate::place::{QEMU_SOCKETS, RUNNER_SOCKET};
use crate::qemu::Qemu;
use crate::virtiofsd::{self, Helper, Standing};

/// A gate that was dropped is gone within milliseconds.
const GATE_GONE: Duration = Duration::from_secs(2);

impl Session {
    /// A client is gone. One that had a gate made takes the gate with it.
    pub(super) fn left(&mut self, client: Connection) {
        self.clients.remove(&client);
        match &self.stage {
            Stage::Fresh if self.clients.is_empty() => self.stage = Stage::Over,
            Stage::Gated { owner, .. } if *owner == client => self.abandon(),
            // A gate being made is abandoned when it stands; a QEMU that runs needs no clients.
            Stage::Fresh
            | Stage::Gating { .. }
            | Stage::Gated { .. }
            | Stage::Starting(_)
            | Stage::Adopting { .. }
            | Stage::Up(_)
            | Stage::Over => {}
        }
    }

    /// Gives up a launch that was not let run.
    pub(super) fn abandon(&mut self) {
        if let Stage::Gated { gate, .. } = std::mem::replace(&mut self.stage, Stage::Over) {
            let Gate {
                gated, qemu, helpers, ..
            } = *gate;
            drop(gated);
            self.leaving
                .extend(helpers.into_iter().filter_map(Standing::give_up));
            self.dropped = Some(qemu.handle);
        }
    }

    /// QEMU is gone.
    pub(super) fn gone(&mut self) {
        match std::mem::replace(&mut self.stage, Stage::Over) {
            Stage::Starting(starting) => self.failed_to_start(*starting),
            Stage::Adopting { qemu, answer, stops } => {
                let remains = remains(&qemu, None, None);
                let how = how(remains.status, None);
                let exit = remains.classify();
                self.record(&qemu, exit.clone());
                self.waiters.extend(stops.into_iter().map(|(_, answer)| answer));
                self.tell(how, &exit);
                let words = format!("the QEMU of `{}` is gone", self.place.name);
                give(
                    answer,
                    Err(self.place.refusal(RefusalCode::WrongState, words).state("ended")),
                );
            }
            Stage::Up(mut live) => {
                // What QEMU said last is still on its way.
                live.dead_until = Some(Instant::now() + GRACE);
                let listening = live.listening;
                self.stage = Stage::Up(live);
                if !listening {
                    self.conclude();
                }
            }
            other @ (Stage::Fresh | Stage::Gating { .. } | Stage::Gated { .. } | Stage::Over) => {
                self.stage = other;
            }
        }
    }

    fn failed_to_start(&mut self, starting: Starting) {
        let Starting {
            qemu,
            answer,
            failure,
        } = starting;
        let stopped = !self.waiters.is_empty();
        let intent = if stopped { Intent::Stop } else { Intent::Start };
        let way = stopped.then_some(Way {
            killed: true,
            flushed: true,
            by_guest: false,
        });
        let remains = remains(&qemu, Some(intent), way);
        let refusal = failure.unwrap_or_else(|| self.start_failed(&qemu, &remains));
        let exit = remains.classify();
        self.record(&qemu, exit.clone());
        self.tell(StopHow::Killed, &exit);
        give(answer, Err(refusal));
    }

    fn start_failed(&self, qemu: &Qemu, remains: &Remains) -> Refusal {
        let words = format!("QEMU ended during its start with {}", in_words(remains.status));
        let mut refusal = self.place.refusal(RefusalCode::StartFailed, words);
        let ended = |helper: &&Helper| helper.handle.as_ref().is_some_and(ProcessHandle::has_exited);
        for helper in qemu.helpers.iter().filter(ended) {
            let account = helper.account(&qemu.logs);
            refusal = refusal.cause(format!("share `{}`: {account}", helper.share));
            if helper.ended_badly() {
                refusal = refusal.hint(format!("maqet logs {} --virtiofsd", self.place.name));
            }
        }
        for line in remains.last_words.iter().flat_map(|words| words.lines()) {
            refusal = refusal.cause(line);
            if let Some(hint) = confinement::hint(line) {
                refusal = refusal.hint(hint);
            }
        }
        refusal
    }

    /// Works out how a running QEMU ended, puts it down, tells everybody.
    pub(super) fn conclude(&mut self) {
        let Stage::Up(live) = std::mem::replace(&mut self.stage, Stage::Over) else {
            return;
        };
        let now = self.now_ms();
        let (intent, way) = match self.ending.take() {
            Some(mut ending) => (Some(ending.intent), way(&ending.ladder.step(Input::Gone, now))),
            None => (None, None),
        };
        let remains = remains(&live.qemu, intent, way);
        let how = how(remains.status, way);
        let exit = remains.classify();
        tracing::info!(cause = ?exit.cause, ?how, "QEMU is gone");
        self.record(&live.qemu, exit.clone());
        self.tell(how, &exit);
    }

    /// Puts the end down before anybody is told of it.
    fn record(&mut self, qemu: &Qemu, exit: LastExit) {
        pass(Point::EndSeen);
        let helpers = qemu.helpers.iter().filter_map(|helper| helper.handle.as_ref());
        self.leaving
            .extend(helpers.filter_map(|handle| handle.try_clone().ok()));
        let note = ExitNote {
            launch_id: qemu.identity.launch_id.clone(),
            exit,
        };
        if let Err(error) = notes::leave(&self.place.directory(), &note) {
            tracing::error!(%error, "the end of QEMU cannot be noted");
        }
        pass(Point::EndNoted);
        self.sweep();
        self.exit = Some(note.exit);
    }

    /// Takes away what only a living QEMU, or a gate, needs.
    pub(super) fn sweep(&self) {
        LaunchNote::remove(&self.place.directory());
        for name in QEMU_SOCKETS {
            notes::remove(&self.place.directory(), name);
        }
    }

    fn tell(&mut self, how: StopHow, exit: &LastExit) {
        self.publish(&RunnerFact::QemuExited { exit: exit.clone() });
        for waiter in std::mem::take(&mut self.waiters) {
            let exit = exit.clone();
            give(waiter, Ok(Ended { how, exit }));
        }
    }

    /// Leaves the runtime directory as it was found, less what a living QEMU needs.
    pub(super) async fn leave(mut self) {
        if let Some(gate) = self.dropped.take() {
            see_off(&gate).await;
            self.sweep();
        }
        virtiofsd::see_off(self.leaving).await;
        pass(Point::RunnerLeaves);
        notes::remove(&self.place.directory(), RUNNER_SOCKET);
    }
}

fn way(actions: &[Action]) -> Option<Way> {
    match actions {
        [Action::Finish(Verdict::Gone(way))] => Some(*way),
        _ => None,
    }
}

async fn see_off(gate: &ProcessHandle) {
    match timeout(GATE_GONE, gate.exited()).await {
        Ok(Ok(())) => {
            let status = gate.exit_status();
            tracing::info!(?status, "the gate was not needed");
        }
        Ok(Err(error)) => tracing::error!(%error, "the gate cannot be watched"),
        Err(_elapsed) => super::start::end_it(gate),
    }
}

fn remains(qemu: &Qemu, intent: Option<Intent>, way: Option<Way>) -> Remains {
    Remains {
        status: qemu.handle.exit_status(),
        intent,
        way,
        oom: qemu.kills.blame(),
        last_words: qemu.logs.last_words(qemu.words_from),
        at: clock::now(),
    }
}

/// How a stop is said to have ended QEMU.
fn how(status: Option<ExitStatus>, way: Option<Way>) -> StopHow {
    match (status, way) {
        (_, Some(way)) if way.killed => StopHow::Killed,
        (Some(ExitStatus::Signal(_)), _) => StopHow::Killed,
        (_, Some(way)) if way.by_guest => StopHow::Guest,
        (Some(ExitStatus::Code(_)) | None, _) => StopHow::Quit,
    }
}
