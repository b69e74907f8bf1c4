//! What QEMU reports, and what it means for the VM.

use maqet_process::identity::ProcessIdentity;
use maqet_protocol::runner::{RunnerFact, StopQemu};
use maqet_qmp::{Event, Incoming, QmpError, RunState};
use serde_json::Value;

use super::start::up;
use super::{Live, News, Session, Stage};
use crate::ending::Intent;
use crate::ladder::{Guest, Input};
use crate::mail::Up;
use crate::monitor;
use crate::place::Place;

/// A guest that is over is not asked for anything, so nothing of this order but its existence counts.
const FINISH: StopQemu = StopQemu {
    budget_ms: 0,
    hard: true,
    force: false,
    kill_on_timeout: false,
};

/// Longest text kept about a guest's panic, bytes.
const PANIC_BYTES_MAX: usize = 1024;

impl Session {
    pub(super) fn event(&mut self, incoming: Incoming) {
        match incoming {
            Incoming::Event(event) => {
                self.publish(&RunnerFact::QmpEvent {
                    name: event.name.clone(),
                    data: event.data.clone(),
                });
                self.silence(false);
                self.disk_event(&event);
                self.consider(&event);
            }
            Incoming::Lagged(lost) => {
                tracing::warn!(lost, "events of QEMU were lost");
                self.ask_run_state();
            }
        }
    }

    fn consider(&mut self, event: &Event) {
        match event.name.as_str() {
            "SHUTDOWN" if event.data.get("guest") == Some(&Value::Bool(true)) => {
                let intent = match event.data.get("reason").and_then(Value::as_str) {
                    Some("guest-reset") => Intent::GuestReset,
                    Some("guest-panic") => Intent::GuestPanic(None),
                    Some(_) | None => Intent::GuestShutdown,
                };
                self.run_state(&RunState::Shutdown);
                self.guest_ended(intent, Guest::Over);
            }
            "GUEST_PANICKED" if event.data.get("action").and_then(Value::as_str) != Some("run") => {
                let detail = event.data.get("info").map(|info| excerpt(&info.to_string()));
                self.run_state(&RunState::GuestPanicked);
                self.guest_ended(Intent::GuestPanic(detail), Guest::AtRest);
            }
            "STOP" | "RESUME" | "RESET" | "SUSPEND" | "WAKEUP" | "WATCHDOG" | "BLOCK_IO_ERROR" => {
                self.ask_run_state();
            }
            _ => {}
        }
    }

    /// The guest will not run again: QEMU is ended, unless that is under way.
    fn guest_ended(&mut self, intent: Intent, guest: Guest) {
        match &mut self.ending {
            Some(ending) => {
                if matches!(intent, Intent::GuestPanic(_)) {
                    ending.intent = intent;
                }
                self.climb(Input::Halted(guest));
            }
            None => self.begin(FINISH, intent, guest),
        }
    }

    /// Takes in a run state that was told or asked for.
    fn run_state(&mut self, run_state: &RunState) {
        let Stage::Up(live) = &mut self.stage else { return };
        if live.run_state == *run_state {
            return;
        }
        live.run_state = run_state.clone();
        self.publish(&RunnerFact::RunState {
            run_state: run_state.to_string(),
        });
    }

    /// Asks QEMU how it is doing; a question during the question is asked after it.
    pub(super) fn ask_run_state(&mut self) {
        let Stage::Up(live) = &mut self.stage else { return };
        let Some(qmp) = live.qmp.clone() else { return };
        if live.asking.is_some() {
            live.asking = Some(true);
            return;
        }
        live.asking = Some(false);
        self.expect(async move { News::RunState(monitor::run_state(&qmp).await) });
    }

    pub(super) fn run_state_known(&mut self, result: Result<RunState, QmpError>) {
        let Stage::Up(live) = &mut self.stage else { return };
        let again = live.asking.take() == Some(true);
        match result {
            Ok(run_state) => {
                self.silence(false);
                self.run_state(&run_state);
                self.disks_after(&run_state);
                self.settle();
            }
            Err(QmpError::Deadline { .. }) => self.silence(true),
            Err(error) => tracing::debug!(%error, "QEMU did not tell its run state"),
        }
        if again {
            self.ask_run_state();
        }
    }

    /// Acts on the run state: a guest that ended unheard is finished, a guest at rest is not waited for.
    pub(super) fn settle(&mut self) {
        let Stage::Up(live) = &self.stage else { return };
        let guest = guest_in(&live.run_state);
        match (guest, &self.ending) {
            (Guest::Over | Guest::AtRest, Some(_)) => self.climb(Input::Halted(guest)),
            (Guest::Over, None) => self.begin(FINISH, Intent::GuestShutdown, Guest::Over),
            (Guest::AtRest, None) if live.run_state == RunState::GuestPanicked => {
                self.begin(FINISH, Intent::GuestPanic(None), Guest::AtRest);
            }
            (Guest::AtRest, None) | (Guest::Running, _) => {}
        }
    }

    /// QEMU let a deadline pass, or gave a sign of life.
    pub(super) fn silence(&mut self, silent: bool) {
        let Stage::Up(live) = &mut self.stage else { return };
        if live.silent == silent {
            return;
        }
        live.silent = silent;
        if let (true, Some(qmp)) = (silent, live.qmp.clone()) {
            tracing::warn!("QEMU does not answer");
            // One question that waits for as long as it takes: nobody has to ask again and again.
            self.expect(async move {
                match monitor::back(&qmp).await {
                    Some(run_state) => News::RunState(Ok(run_state)),
                    None => News::RunState(Err(QmpError::Closed)),
                }
            });
        }
        self.publish(&RunnerFact::Silent { silent });
    }

    /// The monitor's connection has ended: QEMU is dead, or the connection is made anew.
    pub(super) fn hungup(&mut self) {
        let Stage::Up(live) = &mut self.stage else { return };
        live.listening = false;
        live.qmp = None;
        live.asking = None;
        if live.dead_until.is_some() {
            return self.conclude();
        }
        if !live.qemu.handle.has_exited() {
            tracing::warn!("QEMU closed the monitor's connection");
            let qemu = live.qemu.identity.clone();
            self.reconnect(qemu);
        }
    }

    /// Connects anew however long it takes.
    pub(super) fn reconnect(&self, qemu: ProcessIdentity) {
        let place = self.place.clone();
        let desk = self.desk.clone();
        self.expect(async move {
            tokio::select! {
                up = anew(&place, &qemu) => News::Reconnected(up),
                () = desk.closed() => News::Hungup,
            }
        });
    }

    pub(super) fn reconnected(&mut self, up: Up) {
        self.listen(up.monitor.events);
        let Stage::Up(live) = &mut self.stage else { return };
        let live: &mut Live = live;
        live.version = up.monitor.qmp.version().to_string();
        live.qmp = Some(up.monitor.qmp);
        live.listening = true;
        self.silence(false);
        self.run_state(&up.run_state);
        self.disks_after(&up.run_state);
        self.settle();
    }
}

async fn anew(place: &Place, qemu: &ProcessIdentity) -> Box<Up> {
    loop {
        let monitor = monitor::reconnect(place, qemu).await;
        match up(monitor).await {
            Ok(up) => return up,
            Err(error) => tracing::warn!(%error, "QEMU's monitor was lost again"),
        }
    }
}

/// What a run state means for the guest.
pub(super) fn guest_in(run_state: &RunState) -> Guest {
    match run_state {
        RunState::Running => Guest::Running,
        RunState::Shutdown => Guest::Over,
        RunState::Colo
        | RunState::Debug
        | RunState::FinishMigrate
        | RunState::GuestPanicked
        | RunState::Inmigrate
        | RunState::InternalError
        | RunState::IoError
        | RunState::Paused
        | RunState::Postmigrate
        | RunState::Prelaunch
        | RunState::RestoreVm
        | RunState::SaveVm
        | RunState::Suspended
        | RunState::Watchdog
        | RunState::Other(_) => Guest::AtRest,
    }
}

fn excerpt(text: &str) -> String {
    let mut end = text.len().min(PANIC_BYTES_MAX);
    while !text.is_char_boundary(end) {
        end = end.saturating_sub(1);
    }
    text.get(..end).unwrap_or_default().to_owned()
}
