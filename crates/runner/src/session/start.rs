//! Bringing QEMU up: the gate, its release, the first answer; or taking over one that runs.

use maqet_process::identity::{Liveness, ProcessIdentity};
use maqet_process::pidfd::ProcessHandle;
use maqet_process::point::{Point, pass};
use maqet_process::signal::Signal;
use maqet_protocol::refusal::{Refusal, RefusalCode};
use maqet_protocol::runner::{Adopt, Prepare, Prepared, RunnerFact, Running};
use maqet_qmp::{Events, RunState};
use maqet_state::record::Helper;

use super::{Answer, Connection, Gate, Live, Mail, News, Session, Stage, Starting, give};
use crate::launch;
use crate::logs::Logs;
use crate::mail::{Up, post};
use crate::monitor::{self, MonitorError};
use crate::notes::LaunchNote;
use crate::place::Place;
use crate::ports::HeldPorts;
use crate::qemu::Qemu;
use crate::troubles::Troubles;
use crate::virtiofsd::Standing;

impl Session {
    pub(super) fn prepare(&mut self, owner: Connection, order: Prepare, answer: Answer<Prepared>) {
        if !matches!(self.stage, Stage::Fresh) {
            return give(answer, Err(self.out_of_turn("prepare")));
        }
        if *order.launch_id != *self.place.launch_id {
            let words = "this runner was started for another launch";
            return give(answer, Err(self.place.refusal(RefusalCode::InvalidCall, words)));
        }
        guard_logs(Logs::new(order.log_dir.clone(), order.log_bytes_max));
        self.grounds.learn(&order.roots, &order.own);
        let place = self.place.clone();
        self.expect(async move { News::Gated(launch::gate(place, order).await.map(Box::new)) });
        self.stage = Stage::Gating { owner, answer };
    }

    /// The gate stands or could not be made.
    pub(super) fn gated(&mut self, result: Result<Box<Gate>, Refusal>) {
        let Stage::Gating { owner, answer } = std::mem::replace(&mut self.stage, Stage::Fresh) else {
            return tracing::error!("a gate nobody waits for");
        };
        match result {
            Ok(gate) => {
                let helpers: Vec<Helper> = gate.helpers.iter().map(Standing::record).collect();
                self.barred.bar(&gate.qemu.identity, &helpers);
                let prepared = Prepared {
                    qemu: gate.qemu.identity.clone(),
                    ports: gate.qemu.ports.clone(),
                    files: gate.files.clone(),
                    helpers,
                };
                self.stage = Stage::Gated { owner, gate };
                give(answer, Ok(prepared));
            }
            Err(refusal) => {
                self.sweep();
                give(answer, Err(refusal));
            }
        }
        if !self.clients.contains(&owner) || self.terminating {
            self.abandon();
        }
    }

    pub(super) fn release(&mut self, client: Connection, answer: Answer<Running>) {
        let owned = matches!(&self.stage, Stage::Gated { owner, .. } if *owner == client);
        let before = if owned {
            std::mem::replace(&mut self.stage, Stage::Over)
        } else {
            Stage::Over
        };
        let Stage::Gated { gate, .. } = before else {
            return give(answer, Err(self.out_of_turn("release")));
        };
        let Gate {
            gated,
            mut qemu,
            helpers,
            ..
        } = *gate;
        pass(Point::ReleaseAsked);
        self.leave_note(&qemu);
        pass(Point::LaunchNoted);
        // Whoever serves a share is there before QEMU, which asks it while it begins.
        let helpers = helpers.into_iter().map(Standing::release);
        let released = helpers.collect::<Result<Vec<_>, _>>().and_then(|helpers| {
            qemu.helpers = helpers;
            gated.release()
        });
        if let Err(error) = released {
            self.sweep();
            let words = "QEMU could not be let run";
            let refusal = self.place.refusal_from(RefusalCode::StartFailed, words, &error);
            return give(answer, Err(refusal));
        }
        pass(Point::GateOpened);
        self.attend(&qemu.handle);
        self.attend_helpers(&qemu);
        let (place, identity) = (self.place.clone(), qemu.identity.clone());
        let handle = qemu.handle.try_clone();
        self.expect(async move {
            let result = bring_up(&place, &identity).await;
            if let (Err(error), Ok(handle)) = (&result, handle)
                && error.is_hangup()
            {
                monitor::linger(&handle).await;
            }
            News::Up(result)
        });
        self.stage = Stage::Starting(Box::new(Starting {
            qemu,
            answer,
            failure: None,
        }));
    }

    pub(super) fn leave_note(&self, qemu: &Qemu) {
        if let Err(error) = qemu.note().write(&self.place.directory()) {
            tracing::warn!(%error, "a later runner will not know ports and sandbox of this QEMU");
        }
    }

    pub(super) fn adopt(&mut self, order: Adopt, answer: Answer<Running>) {
        if !matches!(self.stage, Stage::Fresh) {
            return give(answer, Err(self.out_of_turn("adopt")));
        }
        pass(Point::AdoptAsked);
        let handle = match order.qemu.verify() {
            Liveness::Alive(handle) => handle,
            Liveness::Dead => {
                let words = format!("the QEMU of `{}` is gone", self.place.name);
                return give(
                    answer,
                    Err(self.place.refusal(RefusalCode::WrongState, words).state("ended")),
                );
            }
            Liveness::Unknown(why) => {
                let words = format!(
                    "nobody can tell whether the QEMU of `{}` is alive",
                    self.place.name
                );
                return give(
                    answer,
                    Err(self.place.refusal(RefusalCode::NotAnswering, words).cause(why)),
                );
            }
        };
        guard_logs(Logs::new(order.log_dir.clone(), order.log_bytes_max));
        self.barred.bar(&order.qemu, &order.helpers);
        self.grounds.learn(&order.roots, &order.own);
        self.attend(&handle);
        let (place, identity) = (self.place.clone(), order.qemu.clone());
        self.expect(async move {
            let up = async { up(monitor::adopt(&place, &identity).await?).await };
            News::Up(up.await)
        });
        let qemu = Box::new(adopted(&self.place, order, handle));
        self.attend_helpers(&qemu);
        let stops = Vec::new();
        self.stage = Stage::Adopting { qemu, answer, stops };
    }

    /// A released or adopted QEMU answers, or does not.
    pub(super) fn came_up(&mut self, result: Result<Box<Up>, MonitorError>) {
        match std::mem::replace(&mut self.stage, Stage::Over) {
            Stage::Starting(starting) => self.started(starting, result),
            Stage::Adopting { qemu, answer, stops } => {
                let stranger = self.taken_over(*qemu, answer, result);
                for (order, answer) in stops {
                    match &stranger {
                        Some(refusal) => give(answer, Err(refusal.clone())),
                        None => self.stop(order, answer),
                    }
                }
            }
            other @ (Stage::Fresh
            | Stage::Gating { .. }
            | Stage::Gated { .. }
            | Stage::Up(_)
            | Stage::Over) => {
                tracing::debug!("an answer of a QEMU that is given up");
                self.stage = other;
            }
        }
    }

    fn started(&mut self, mut starting: Box<Starting>, result: Result<Box<Up>, MonitorError>) {
        match result {
            Ok(up) if starting.failure.is_none() => {
                let Starting { mut qemu, answer, .. } = *starting;
                qemu.held = HeldPorts::default();
                let live = self.live(qemu, *up);
                self.up(live, answer);
            }
            Ok(_) => self.stage = Stage::Starting(starting),
            Err(error) => {
                // Of a QEMU that is gone the end tells more than this does.
                if !starting.qemu.handle.has_exited() {
                    let words = "QEMU did not come up";
                    let refusal = self.place.refusal_from(RefusalCode::StartFailed, words, &error);
                    starting.failure.get_or_insert(refusal);
                    end_it(&starting.qemu.handle);
                }
                self.stage = Stage::Starting(starting);
            }
        }
    }

    /// A QEMU that does not answer now is taken over all the same: somebody must be able to end it. Returns why it was
    /// not, if it was not.
    fn taken_over(
        &mut self,
        qemu: Qemu,
        answer: Answer<Running>,
        result: Result<Box<Up>, MonitorError>,
    ) -> Option<Refusal> {
        pass(Point::AdoptDone);
        let live = match result {
            Ok(up) => self.live(qemu, *up),
            Err(error @ MonitorError::Stranger { .. }) => {
                let words = format!("the QEMU of `{}` cannot be taken over", self.place.name);
                let refusal = self.place.refusal_from(RefusalCode::NotAnswering, words, &error);
                give(answer, Err(refusal.clone()));
                return Some(refusal);
            }
            Err(error) => {
                tracing::warn!(%error, "the adopted QEMU does not answer");
                self.reconnect(qemu.identity.clone());
                Live {
                    troubles: Troubles::of(&qemu.images),
                    qemu,
                    qmp: None,
                    version: String::new(),
                    run_state: RunState::Other("unknown".to_owned()),
                    silent: true,
                    listening: false,
                    asking: None,
                    dead_until: None,
                }
            }
        };
        self.up(live, answer);
        None
    }

    fn live(&self, mut qemu: Qemu, up: Up) -> Live {
        if let Some(accel) = up.accel {
            accel.clone_into(&mut qemu.accel);
        }
        self.listen(up.monitor.events);
        Live {
            troubles: Troubles::of(&qemu.images),
            qemu,
            version: up.monitor.qmp.version().to_string(),
            qmp: Some(up.monitor.qmp),
            run_state: up.run_state,
            silent: false,
            listening: true,
            asking: None,
            dead_until: None,
        }
    }

    fn up(&mut self, live: Live, answer: Answer<Running>) {
        let (running, run_state) = (live.running(), live.run_state.clone());
        tracing::info!(run_state = running.run_state, accel = running.accel, "QEMU is up");
        self.publish(&RunnerFact::RunState {
            run_state: running.run_state.clone(),
        });
        if live.silent {
            self.publish(&RunnerFact::Silent { silent: true });
        }
        self.stage = Stage::Up(Box::new(live));
        self.tell_losses();
        give(answer, Ok(running));
        self.settle();
        self.disks_after(&run_state);
        if self.terminating {
            self.terminate();
        }
    }

    /// Reads QEMU's events until the connection ends.
    pub(super) fn listen(&self, mut events: Events) {
        let desk = self.desk.clone();
        self.expect(async move {
            let mut read = true;
            while let (true, Some(incoming)) = (read, events.next().await) {
                read = post(&desk, Mail::News(News::Event(incoming))).await;
            }
            News::Hungup
        });
    }

    /// Has the end of QEMU told.
    fn attend(&self, handle: &ProcessHandle) {
        match handle.try_clone() {
            Ok(handle) => self.expect(async move {
                monitor::gone(&handle).await;
                News::Gone
            }),
            Err(error) => tracing::error!(%error, "QEMU's end cannot be watched"),
        }
    }

    fn out_of_turn(&self, what: &str) -> Refusal {
        let words = format!("`{what}` is out of turn for the runner of `{}`", self.place.name);
        self.place.refusal(RefusalCode::WrongState, words)
    }
}

/// From a released gate to a guest that runs.
async fn bring_up(place: &Place, qemu: &ProcessIdentity) -> Result<Box<Up>, MonitorError> {
    let monitor = monitor::greet(place, qemu).await?;
    monitor::cont(&monitor.qmp).await?;
    pass(Point::GuestRuns);
    // `cont` has succeeded and the accelerator was ordered by name: asking for either would only cost time.
    Ok(Box::new(Up {
        monitor,
        run_state: RunState::Running,
        accel: None,
    }))
}

/// Asks a QEMU that has just greeted how it is doing.
pub(super) async fn up(monitor: monitor::Monitor) -> Result<Box<Up>, MonitorError> {
    let run_state = monitor::run_state(&monitor.qmp)
        .await
        .map_err(MonitorError::Talk)?;
    let accel = monitor::accel(&monitor.qmp).await.ok();
    Ok(Box::new(Up {
        monitor,
        run_state,
        accel,
    }))
}

/// What a later runner can know of a QEMU: what the earlier one noted, else what the spec says.
fn adopted(place: &Place, order: Adopt, handle: ProcessHandle) -> Qemu {
    let note = LaunchNote::read(&place.directory(), &order.qemu.launch_id).unwrap_or_else(|error| {
        tracing::warn!(%error, "the note about QEMU's start cannot be read");
        None
    });
    Qemu::adopted(order, handle, note)
}

/// SIGKILL to a QEMU whose guest has never run.
pub(crate) fn end_it(handle: &ProcessHandle) {
    match handle.signal(Signal::Kill) {
        Ok(sent) => tracing::info!(?sent, "a QEMU that did not come up is ended"),
        Err(error) => tracing::error!(%error, "a QEMU that did not come up cannot be ended"),
    }
}

fn guard_logs(logs: Logs) {
    tokio::spawn(async move {
        if let Err(error) = logs.guard().await {
            tracing::error!(%error, "the logs are no longer kept below their bound");
        }
    });
}
