//! A runner that is played: it speaks the real protocol over the real socket, and does to its QEMU what a runner does.

use std::cell::{Cell, RefCell};
use std::fs;
use std::future::Future;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use maqet_protocol::control::{PortStatus, QmpReturn, SandboxStatus, StopHow};
use maqet_protocol::endpoint::server::{IncomingCall, ServerConnection, ServerIdentity};
use maqet_protocol::interface::RUNNER_INTERFACES;
use maqet_protocol::method::Method;
use maqet_protocol::refusal::{Refusal, RefusalCode};
use maqet_protocol::runner::{
    Adopt, Ended, ExitNote, FactReply, Prepare, Prepared, Query, Release, RunQmp, RunnerFact, RunnerState,
    Running, StopQemu, Watch,
};
use maqet_protocol::{ProtocolError, SocketRole};
use maqet_state::clock;
use maqet_state::lifecycle::{Cause, LastExit};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{mpsc, watch};
use tokio::task::AbortHandle;
use tokio::time::{Instant, timeout};

use super::body::Body;
use super::step::{End, Guest, Starts};
use super::world::{Launch, Qemu, World};

/// A runner to which nobody comes within this time leaves.
const LONELY: Duration = Duration::from_secs(30);

/// One version byte and the secret.
const GO_BYTES: usize = 33;

/// How far it is with its QEMU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Nobody told it anything.
    Fresh,
    /// A gate stands, for this connection.
    Gated(u32),
    /// QEMU runs, started by it, or taken over.
    Up {
        /// It did not start it, and does not learn how it ends.
        adopted: bool,
    },
    /// It is about to exit.
    Over,
}

/// A runner.
pub(super) struct Runner {
    world: Rc<World>,
    launch: Rc<Launch>,
    runtime: PathBuf,
    pub(super) body: Body,
    stage: Cell<Stage>,
    run_state: Cell<&'static str>,
    exit: RefCell<Option<LastExit>>,
    /// A stop was ordered; by force.
    ordered: Cell<Option<bool>>,
    ended: watch::Sender<Option<Ended>>,
    watchers: RefCell<Vec<mpsc::UnboundedSender<RunnerFact>>>,
    /// Connections that are there.
    clients: Cell<u32>,
    connections: RefCell<Vec<AbortHandle>>,
    tasks: RefCell<Vec<AbortHandle>>,
}

type Served = Result<(), ProtocolError>;

impl Runner {
    pub(super) fn new(world: &Rc<World>, launch: &Rc<Launch>, runtime: PathBuf, body: Body) -> Rc<Self> {
        Rc::new(Self {
            world: Rc::clone(world),
            launch: Rc::clone(launch),
            runtime,
            body,
            stage: Cell::new(Stage::Fresh),
            run_state: Cell::new("running"),
            exit: RefCell::default(),
            ordered: Cell::default(),
            ended: watch::Sender::new(None),
            watchers: RefCell::default(),
            clients: Cell::default(),
            connections: RefCell::default(),
            tasks: RefCell::default(),
        })
    }

    /// Lives from now on.
    pub(super) fn begin(self: &Rc<Self>, channel: OwnedFd) {
        self.spawn(Rc::clone(self).live(channel));
        let runner = Rc::clone(self);
        self.spawn(async move {
            drop(runner.body.handle.exited().await);
            runner.fallen();
        });
    }

    fn spawn(&self, task: impl Future<Output = ()> + 'static) {
        let task = actix_rt::spawn(task).abort_handle();
        self.tasks.borrow_mut().push(task);
    }

    /// It is killed.
    pub(super) fn dies(&self) {
        self.body.kill();
        self.fallen();
    }

    /// It is no more; a gate it had made ends with it.
    fn fallen(&self) {
        let qemu = self.launch.qemu.borrow().clone();
        let unreleased = qemu.filter(|qemu| !qemu.released.get());
        if let (Stage::Gated(_), Some(gate)) = (self.stage.replace(Stage::Over), unreleased) {
            gate.body.exit(0);
        }
        self.launch.lost.set(true);
        self.hangs_up();
        self.tasks.borrow_mut().drain(..).for_each(|task| task.abort());
    }

    /// Its connections break.
    pub(super) fn hangs_up(&self) {
        self.connections
            .borrow_mut()
            .drain(..)
            .for_each(|task| task.abort());
        self.clients.set(0);
        self.watchers.borrow_mut().clear();
    }

    async fn live(self: Rc<Self>, channel: OwnedFd) {
        let channel = std::os::unix::net::UnixStream::from(channel);
        channel.set_nonblocking(true).unwrap();
        let mut channel = UnixStream::from_std(channel).unwrap();
        if channel.read_exact(&mut [0; GO_BYTES]).await.is_err() {
            return self.leave().await;
        }
        let stored = self.world.stored();
        if stored.is_none_or(|stored| stored.runner.pid != self.body.handle.pid()) {
            self.world.blame("GO for a runner that is not in the store");
        }
        self.world.turn().await;
        let path = self.runtime.join("runner.sock");
        drop(fs::remove_file(&path));
        let Ok(listener) = UnixListener::bind(&path) else {
            return self.leave().await;
        };
        // Not only closed: a child that another test has just forked may hold it open for a moment.
        channel.shutdown().await.unwrap();
        drop(channel);
        self.spawn(Rc::clone(&self).wait_for_somebody());
        let mut number = 0;
        while let Ok((stream, _)) = listener.accept().await {
            number += 1;
            self.clients.set(self.clients.get() + 1);
            let task = actix_rt::spawn(Rc::clone(&self).attend(stream, number));
            self.connections.borrow_mut().push(task.abort_handle());
        }
    }

    async fn wait_for_somebody(self: Rc<Self>) {
        tokio::time::sleep_until(Instant::now() + LONELY).await;
        self.world.turn().await;
        self.leave_if_useless().await;
    }

    async fn leave_if_useless(&self) {
        if self.stage.get() == Stage::Fresh && self.clients.get() == 0 {
            self.leave().await;
        }
    }

    async fn attend(self: Rc<Self>, stream: UnixStream, number: u32) {
        self.world.turn().await;
        let role = SocketRole::Runner(self.world.vm.clone());
        let identity = Arc::new(ServerIdentity::new(role, self.world.secret.clone()));
        let mut connection = ServerConnection::accept(stream, identity, RUNNER_INTERFACES);
        while let Ok(Some(call)) = connection.next_call().await {
            self.world.turn().await;
            if self.serve(&mut connection, &call, number).await.is_err() {
                break;
            }
        }
        self.world.turn().await;
        self.left(number).await;
    }

    /// A connection is gone, and with it the gate that was made for it.
    async fn left(&self, number: u32) {
        self.clients.set(self.clients.get() - 1);
        if self.stage.get() == Stage::Gated(number) {
            self.launch.qemu.borrow().as_ref().unwrap().body.exit(0);
            return self.leave().await;
        }
        self.leave_if_useless().await;
    }

    async fn serve(
        self: &Rc<Self>,
        connection: &mut ServerConnection,
        call: &IncomingCall,
        number: u32,
    ) -> Served {
        match call.method.as_str() {
            Watch::NAME => self.watch(connection).await,
            Query::NAME => connection.reply(&self.state()).await,
            Prepare::NAME => answer(connection, self.prepare(call, number)).await,
            Release::NAME => answer(connection, self.release()).await,
            Adopt::NAME => {
                let adopted = self.adopt();
                answer(connection, adopted).await
            }
            StopQemu::NAME => {
                let stopped = self.stop(call.parse().unwrap()).await;
                answer(connection, stopped).await
            }
            RunQmp::NAME => answer(connection, self.run(&call.parse().unwrap())).await,
            other => panic!("`{other}` is not played"),
        }
    }

    fn state(&self) -> RunnerState {
        let qemu = self.launch.qemu.borrow().clone();
        RunnerState {
            qemu: qemu.map(|qemu| qemu.identity.clone()),
            running: matches!(self.stage.get(), Stage::Up { .. }).then(|| self.running()),
            exit: self.exit.borrow().clone(),
        }
    }

    fn running(&self) -> Running {
        Running {
            run_state: self.run_state.get().to_owned(),
            qemu_version: "0".to_owned(),
            accel: "tcg".to_owned(),
            ports: vec![port()],
            sandbox: SandboxStatus::default(),
        }
    }

    fn prepare(self: &Rc<Self>, call: &IncomingCall, number: u32) -> Result<Prepared, Refusal> {
        let order: Prepare = call.parse()?;
        if self.world.starts.get() == Starts::Unprepared {
            return Err(Refusal::new(RefusalCode::StartFailed, "no port is free"));
        }
        let gate = self.world.gate(&self.launch, order.generation);
        self.stage.set(Stage::Gated(number));
        Ok(Prepared {
            qemu: gate.identity.clone(),
            ports: vec![port()],
            files: Vec::new(),
            helpers: Vec::new(),
        })
    }

    fn release(self: &Rc<Self>) -> Result<Running, Refusal> {
        let failed = |words: &str| Refusal::new(RefusalCode::StartFailed, words);
        let qemu = self.launch.qemu.borrow().clone();
        let Some(qemu) = qemu.filter(|_| matches!(self.stage.get(), Stage::Gated(_))) else {
            return Err(failed("no gate stands"));
        };
        let stored = self.world.stored().and_then(|stored| stored.qemu);
        if stored.as_ref() != Some(&qemu.identity) {
            self.world.blame("a gate was released that is not in the store");
        }
        if !qemu.body.lives() {
            return Err(failed("the gate is gone"));
        }
        qemu.released.set(true);
        qemu.body.become_program(&self.world.programs[1], &self.launch.id);
        self.stage.set(Stage::Up { adopted: false });
        if self.world.starts.get() == Starts::Fail {
            qemu.ends(End::Exited(1));
            self.note(LastExit {
                exit_code: Some(1),
                ..exit(Cause::StartFailed)
            });
            self.stage.set(Stage::Over);
            return Err(failed("QEMU ended during its start with exit code 1"));
        }
        self.mind(qemu);
        Ok(self.running())
    }

    fn adopt(self: &Rc<Self>) -> Result<Running, Refusal> {
        self.stage.set(Stage::Up { adopted: true });
        let qemu = self.launch.qemu.borrow().clone().unwrap();
        let lives = qemu.body.lives();
        self.mind(qemu);
        if lives {
            return Ok(self.running());
        }
        Err(Refusal::new(RefusalCode::WrongState, "the QEMU is gone").state("ended"))
    }

    /// Waits for the end of QEMU, whoever brings it about.
    fn mind(self: &Rc<Self>, qemu: Rc<Qemu>) {
        let runner = Rc::clone(self);
        self.spawn(async move {
            drop(qemu.body.handle.exited().await);
            runner.world.turn().await;
            runner.conclude(&qemu).await;
        });
    }

    /// QEMU is gone: noted, told, and that was it.
    async fn conclude(self: Rc<Self>, qemu: &Qemu) {
        let adopted = self.stage.replace(Stage::Over) == Stage::Up { adopted: true };
        let exit = self.classify(qemu.end.get(), adopted);
        let how = if matches!(exit.cause, Cause::GuestShutdown | Cause::GuestPanic) {
            StopHow::Guest
        } else if exit.cause == Cause::Stop {
            StopHow::Quit
        } else {
            StopHow::Killed
        };
        self.note(exit.clone());
        for watcher in self.watchers.borrow_mut().drain(..) {
            drop(watcher.send(RunnerFact::QemuExited { exit: exit.clone() }));
        }
        self.ended.send_replace(Some(Ended { how, exit }));
        self.leave().await;
    }

    fn classify(&self, end: Option<End>, adopted: bool) -> LastExit {
        let cause = match (end, self.ordered.get()) {
            (Some(End::ShutDown), None) => Cause::GuestShutdown,
            (Some(End::ShutDown), Some(false)) => Cause::Stop,
            (Some(End::ShutDown | End::Killed), Some(true)) => Cause::StopForced,
            (Some(End::Panicked), _) => Cause::GuestPanic,
            _ if adopted => Cause::EndedUnknown,
            (Some(End::Crashed), _) => Cause::QemuCrashed,
            (Some(End::Exited(_)), _) => Cause::QemuExited,
            _ => Cause::QemuKilled,
        };
        let exit_code = match end {
            Some(End::Exited(code)) if !adopted => Some(code),
            _ => None,
        };
        LastExit {
            exit_code,
            ..exit(cause)
        }
    }

    fn note(&self, exit: LastExit) {
        self.launch.noted.set(Some(exit.cause));
        let note = ExitNote {
            launch_id: self.launch.id.clone(),
            exit: exit.clone(),
        };
        let bytes = serde_json::to_vec(&note).unwrap();
        drop(fs::write(self.runtime.join(ExitNote::FILE), bytes));
        *self.exit.borrow_mut() = Some(exit);
    }

    /// Lets the last words out, then exits.
    async fn leave(&self) {
        for _ in 0..32 {
            tokio::task::yield_now().await;
        }
        self.stage.set(Stage::Over);
        drop(fs::remove_file(self.runtime.join("runner.sock")));
        self.body.exit(0);
        self.hangs_up();
        self.tasks.borrow_mut().drain(..).for_each(|task| task.abort());
    }

    async fn watch(&self, connection: &mut ServerConnection) -> Served {
        let (sender, mut facts) = mpsc::unbounded_channel();
        drop(sender.send(RunnerFact::Watching));
        self.watchers.borrow_mut().push(sender);
        while let Some(fact) = facts.recv().await {
            let reply = FactReply { fact };
            if matches!(reply.fact, RunnerFact::QemuExited { .. }) {
                return connection.reply(&reply).await;
            }
            connection.reply_more(&reply).await?;
        }
        Err(ProtocolError::Closed)
    }

    /// Tells everybody something, unless it is frozen.
    pub(super) fn tell(&self, fact: &RunnerFact) {
        if !self.world.frozen.get() {
            self.watchers
                .borrow_mut()
                .retain(|watcher| watcher.send(fact.clone()).is_ok());
        }
    }

    /// Whether this one minds a QEMU.
    pub(super) fn is_up(&self) -> bool {
        matches!(self.stage.get(), Stage::Up { .. })
    }

    async fn stop(&self, order: StopQemu) -> Result<Ended, Refusal> {
        let qemu = self.launch.qemu.borrow().clone();
        let Some(qemu) = qemu.filter(|_| self.is_up()) else {
            return Err(Refusal::new(RefusalCode::WrongState, "it does not run"));
        };
        let forced = order.force || self.ordered.get() == Some(true);
        self.ordered.set(Some(forced));
        self.launch.ordered.set(true);
        let mut ended = self.ended.subscribe();
        match self.world.guest.get() {
            _ if forced => qemu.ends(End::Killed),
            Guest::Obeys => qemu.ends(End::ShutDown),
            Guest::Dawdles | Guest::Mute => self.outlast(&qemu, order).await?,
        }
        let ended = ended.wait_for(Option::is_some).await;
        Ok(ended.unwrap().clone().unwrap())
    }

    /// Waits as long as the budget goes; then QEMU is quit, if it answers, else killed, if that was ordered.
    async fn outlast(&self, qemu: &Qemu, order: StopQemu) -> Result<(), Refusal> {
        let budget = Duration::from_millis(order.budget_ms);
        let mut ended = self.ended.subscribe();
        if timeout(budget, ended.wait_for(Option::is_some)).await.is_ok() {
            return Ok(());
        }
        if self.world.guest.get() != Guest::Mute {
            qemu.ends(End::ShutDown);
        } else if order.kill_on_timeout {
            self.ordered.set(Some(true));
            qemu.ends(End::Killed);
        } else {
            self.ordered.set(None);
            return Err(Refusal::new(RefusalCode::Timeout, "QEMU does not answer"));
        }
        Ok(())
    }

    fn run(&self, order: &RunQmp) -> Result<QmpReturn, Refusal> {
        if !self.is_up() {
            return Err(Refusal::new(RefusalCode::WrongState, "it does not run"));
        }
        if self.world.guest.get() == Guest::Mute {
            return Err(Refusal::new(RefusalCode::Timeout, "QEMU does not answer"));
        }
        let run_state = match order.command.as_str() {
            "stop" => "paused",
            "cont" => "running",
            _ => self.run_state.get(),
        };
        self.run_state.set(run_state);
        self.tell(&RunnerFact::RunState {
            run_state: run_state.to_owned(),
        });
        Ok(QmpReturn {
            value: json!({"status": run_state}),
        })
    }
}

async fn answer<T: serde::Serialize>(
    connection: &mut ServerConnection,
    result: Result<T, Refusal>,
) -> Served {
    match result {
        Ok(reply) => connection.reply(&reply).await,
        Err(refusal) => connection.refuse(&refusal).await,
    }
}

fn port() -> PortStatus {
    PortStatus {
        protocol: "tcp".to_owned(),
        host_address: "127.0.0.1".to_owned(),
        host_port: 2222,
        guest_port: 22,
    }
}

fn exit(cause: Cause) -> LastExit {
    LastExit {
        cause,
        at: clock::now(),
        exit_code: None,
        signal: None,
        detail: None,
    }
}
