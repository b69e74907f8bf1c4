//! The one task that owns what is known of QEMU: letters come in one by one, everything slow is done elsewhere and
//! comes back as a letter.
//!
//! A session begins fresh, has a gate made, lets it become QEMU (or adopts a QEMU), and is over when QEMU is gone or
//! was never let run.

mod disks;
mod end;
mod events;
mod shares;
mod start;
mod stop;

use std::future::Future;
use std::time::Duration;

use maqet_process::ProcessHandle;
use maqet_protocol::refusal::{Refusal, RefusalCode};
use maqet_protocol::runner::{Ended, Prepared, RunnerFact, RunnerState, Running, StopQemu};
use maqet_qmp::{Qmp, RunState};
use maqet_state::lifecycle::LastExit;
use tokio::sync::mpsc::Receiver;
use tokio::time::{Instant, sleep_until};

use crate::barred::Barred;
use crate::grounds::Grounds;
use crate::launch::Gate;
use crate::mail::{Answer, Ask, Connection, Desk, Mail, News, post};
use crate::place::Place;
use crate::qemu::Qemu;
use crate::troubles::Troubles;
use crate::watchers::Watchers;
pub(crate) use start::end_it;
use stop::Ending;

/// Time a fresh runner waits for somebody to work for.
const LONELY: Duration = Duration::from_secs(30);

/// Time the last events of a dead QEMU get to arrive; they are in the socket already.
const GRACE: Duration = Duration::from_millis(200);

/// What the session knows.
#[derive(Debug)]
pub(crate) struct Session {
    place: Place,
    desk: Desk,
    barred: Barred,
    grounds: Grounds,
    began: Instant,
    /// Clients that have authenticated themselves.
    clients: std::collections::BTreeSet<Connection>,
    watchers: Watchers,
    stage: Stage,
    ending: Option<Ending>,
    /// Who waits for the end.
    waiters: Vec<Answer<Ended>>,
    /// The runner was told to end.
    terminating: bool,
    exit: Option<LastExit>,
    /// A gate that was dropped and is on its way out.
    dropped: Option<ProcessHandle>,
    /// Helpers of a QEMU that is gone.
    leaving: Vec<ProcessHandle>,
}

/// How far it has come.
#[derive(Debug)]
enum Stage {
    /// Nothing was asked for.
    Fresh,
    /// The gate is being made.
    Gating {
        owner: Connection,
        answer: Answer<Prepared>,
    },
    /// The gate stands.
    Gated { owner: Connection, gate: Box<Gate> },
    /// QEMU was let run and has not answered yet.
    Starting(Box<Starting>),
    /// A running QEMU is being taken over.
    Adopting {
        qemu: Box<Qemu>,
        answer: Answer<Running>,
        /// What came meanwhile, to be carried out on the QEMU that was taken over.
        stops: Vec<(StopQemu, Answer<Ended>)>,
    },
    /// QEMU runs.
    Up(Box<Live>),
    /// There is nothing left to do.
    Over,
}

/// A QEMU that was let run and has not answered yet.
#[derive(Debug)]
struct Starting {
    qemu: Qemu,
    answer: Answer<Running>,
    /// Why it was given up, if it was.
    failure: Option<Refusal>,
}

/// A QEMU that runs.
#[derive(Debug)]
struct Live {
    qemu: Qemu,
    /// The way to it; `None` while the connection is lost.
    qmp: Option<Qmp>,
    version: String,
    run_state: RunState,
    /// It let a deadline pass.
    silent: bool,
    /// Its events are still being read.
    listening: bool,
    /// A question about its run state is under way; `true` when another one is due after it.
    asking: Option<bool>,
    /// What is wrong with its disks.
    troubles: Troubles,
    /// It is dead, and its last events have until then.
    dead_until: Option<Instant>,
}

impl Session {
    /// A session for a place; letters go to `desk`, QEMU's inode to `barred`, where it may write to `grounds`.
    pub(crate) fn new(place: Place, desk: Desk, barred: Barred, grounds: Grounds) -> Self {
        Self {
            place,
            desk,
            barred,
            grounds,
            began: Instant::now(),
            clients: std::collections::BTreeSet::new(),
            watchers: Watchers::default(),
            stage: Stage::Fresh,
            ending: None,
            waiters: Vec::new(),
            terminating: false,
            exit: None,
            dropped: None,
            leaving: Vec::new(),
        }
    }

    /// Works until there is nothing left to do.
    pub(crate) async fn run(mut self, mut inbox: Receiver<Mail>) {
        while !matches!(self.stage, Stage::Over) {
            let due = self.due();
            tokio::select! {
                letter = inbox.recv() => match letter {
                    Some(mail) => self.read(mail),
                    None => break,
                },
                () = moment(due) => self.tick(),
            }
        }
        self.leave().await;
    }

    fn read(&mut self, mail: Mail) {
        match mail {
            Mail::Came(client) => {
                self.clients.insert(client);
            }
            Mail::Left(client) => self.left(client),
            Mail::Ask(client, ask) => self.asked(client, ask),
            Mail::News(news) => self.heard(news),
        }
    }

    fn asked(&mut self, client: Connection, ask: Ask) {
        match ask {
            Ask::Prepare(order, answer) => self.prepare(client, *order, answer),
            Ask::Release(answer) => self.release(client, answer),
            Ask::Adopt(order, answer) => self.adopt(*order, answer),
            Ask::Query(answer) => give(answer, Ok(self.state())),
            Ask::Stop(order, answer) => self.stop(order, answer),
            Ask::Qmp(answer) => give(answer, self.qmp()),
            Ask::Disks(answer) => give(answer, Ok(self.disk_names())),
            Ask::Held(answer) => give(answer, Ok(self.is_held())),
            Ask::Watch(answer) => {
                let mut known = self.troubles_told();
                known.extend(self.losses());
                give(answer, Ok(self.watchers.join(&known)));
            }
        }
    }

    fn heard(&mut self, news: News) {
        match news {
            News::Gated(result) => self.gated(result),
            News::Up(result) => self.came_up(result),
            News::Event(incoming) => self.event(incoming),
            News::Hungup => self.hungup(),
            News::Reconnected(up) => self.reconnected(*up),
            News::RunState(result) => self.run_state_known(result),
            News::Blocks(blocks) => self.blocks_known(blocks),
            News::LookedForRoom(let_run) => self.looked_for_room(let_run),
            News::Held(held) => self.held(held),
            News::Plugged { place, disk, path } => self.plugged(place, disk, path),
            News::Silent(silent) => self.silence(silent),
            News::Ladder(input) => self.climb(input),
            News::HelperGone { share, ended_first } => self.helper_gone(&share, ended_first),
            News::Gone => self.gone(),
            News::Moved => self.moved(),
            News::Terminate => self.terminate(),
        }
    }

    /// A later runner looks in the new directory for what it has to know.
    fn moved(&self) {
        let qemu = match &self.stage {
            Stage::Starting(starting) => &starting.qemu,
            Stage::Adopting { qemu, .. } => qemu,
            Stage::Up(live) => &live.qemu,
            Stage::Fresh | Stage::Gating { .. } | Stage::Gated { .. } | Stage::Over => return,
        };
        self.leave_note(qemu);
    }

    /// When [`Self::tick`] is due.
    fn due(&self) -> Option<Instant> {
        let ladder = self.ending.as_ref().and_then(|ending| ending.due(self.began));
        let stage = match &self.stage {
            Stage::Fresh if self.clients.is_empty() => Some(self.began + LONELY),
            Stage::Up(live) => live.dead_until.into_iter().chain(live.troubles.due_at()).min(),
            Stage::Fresh
            | Stage::Gating { .. }
            | Stage::Gated { .. }
            | Stage::Starting(_)
            | Stage::Adopting { .. }
            | Stage::Over => None,
        };
        ladder.into_iter().chain(stage).min()
    }

    fn tick(&mut self) {
        self.tick_disks();
        let now = Instant::now();
        match &self.stage {
            Stage::Fresh if self.clients.is_empty() && now >= self.began + LONELY => {
                tracing::warn!("nobody came");
                self.stage = Stage::Over;
            }
            Stage::Up(live) if live.dead_until.is_some_and(|until| now >= until) => self.conclude(),
            Stage::Fresh
            | Stage::Gating { .. }
            | Stage::Gated { .. }
            | Stage::Starting(_)
            | Stage::Adopting { .. }
            | Stage::Up(_)
            | Stage::Over => self.climb(crate::ladder::Input::Tick),
        }
    }

    fn state(&self) -> RunnerState {
        let (qemu, running) = match &self.stage {
            Stage::Fresh | Stage::Gating { .. } | Stage::Over => (None, None),
            Stage::Gated { gate, .. } => (Some(&gate.qemu), None),
            Stage::Starting(starting) => (Some(&starting.qemu), None),
            Stage::Adopting { qemu, .. } => (Some(&**qemu), None),
            Stage::Up(live) => (Some(&live.qemu), Some(live.running())),
        };
        RunnerState {
            qemu: qemu.map(|qemu| qemu.identity.clone()),
            running,
            exit: self.exit.clone(),
        }
    }

    fn qmp(&self) -> Result<Qmp, Refusal> {
        let name = &self.place.name;
        match &self.stage {
            Stage::Up(live) => live.qmp.clone().ok_or_else(|| {
                self.place.refusal(
                    RefusalCode::NotAnswering,
                    format!("the QEMU of `{name}` does not answer"),
                )
            }),
            Stage::Fresh
            | Stage::Gating { .. }
            | Stage::Gated { .. }
            | Stage::Starting(_)
            | Stage::Adopting { .. }
            | Stage::Over => Err(self
                .place
                .refusal(RefusalCode::WrongState, format!("`{name}` does not run yet"))),
        }
    }

    fn publish(&mut self, fact: &RunnerFact) {
        self.watchers.publish(fact);
    }

    /// Has something done elsewhere; what comes of it arrives as a letter.
    fn expect(&self, work: impl Future<Output = News> + Send + 'static) {
        let desk = self.desk.clone();
        tokio::spawn(async move { post(&desk, Mail::News(work.await)).await });
    }
}

impl Live {
    fn running(&self) -> Running {
        Running {
            run_state: self.run_state.to_string(),
            qemu_version: self.version.clone(),
            accel: self.qemu.accel.clone(),
            ports: self.qemu.ports.clone(),
            sandbox: self.qemu.sandbox.clone(),
        }
    }
}

/// Answers; a client that did not wait for it is no concern.
fn give<T>(answer: Answer<T>, result: Result<T, Refusal>) {
    if answer.send(result).is_err() {
        tracing::debug!("a client left before its answer");
    }
}

async fn moment(due: Option<Instant>) {
    match due {
        Some(at) => sleep_until(at).await,
        None => std::future::pending().await,
    }
}
