//! A script on the stage: real actors on a real store, clients that ask, and time that passes when the script says so.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use actix::{Actor, Addr, Context, Handler, MailboxError};

use maqet_spec::vm::{OnRunnerLoss, OnTimeout, RestartWhen};
use maqet_spec::{LoadOptions, Source, VmSpec};
use maqet_state::change::Change;
use maqet_state::clock;
use maqet_state::id::VmId;
use maqet_state::journal::NewEvent;
use maqet_state::record::VmRecord;
use maqet_state::secret::Secret;
use maqet_state::store::Store;
use maqet_state::store::faults::Faults;
use tokio::sync::{Notify, mpsc};
use tokio::time::Instant;

use super::super::Panic;
use super::client::Client;
use super::images;
use super::runner::Runner;
use super::step::{Disk, End, Fate, Guest, Policy, Starts, Step, Wish};
use super::world::{Launch, SHELL, Wanted, World, spawn_runner};
use crate::args::Places;
use crate::events::EventBus;
use crate::messages::FindVm;
use crate::recovery::Recorded;
use crate::settings::Settings;
use crate::shared::Shared;
use crate::store::StateActor;
use crate::supervisor::{SupervisorActor, rebuild};
use crate::vm::VmActor;

/// How far the clock goes at a time, while little happens and while much may: an exchange over a socket takes a dozen
/// such steps, and must not take anybody's deadline.
const STRIDE: Duration = Duration::from_millis(40);
const STEP: Duration = Duration::from_millis(1);

/// Steps after which nothing is left to do that needs no time.
const STEPS_TO_REST: u32 = 48;

/// One script's stage.
pub(super) struct Play {
    pub(super) world: Rc<World>,
    pub(super) places: Places,
    pub(super) policy: Policy,
    pub(super) clients: RefCell<Vec<Rc<Client>>>,
    /// A commit may have failed.
    pub(super) wore: Cell<bool>,
    /// Processes that had ended when it was last looked.
    dead: Cell<usize>,
    faults: Faults,
    house: RefCell<Option<House>>,
}

/// One life of a supervisor.
#[derive(Clone)]
pub(super) struct House {
    pub(super) supervisor: Addr<SupervisorActor>,
    pub(super) shared: Rc<Shared>,
    pub(super) state: Addr<StateActor>,
}

impl Play {
    /// A stage with one VM that was never started.
    pub(super) async fn new(dir: &Path, policy: Policy) -> Rc<Self> {
        let places = Places {
            data: dir.join("data"),
            runtime: dir.join("run"),
        };
        std::fs::create_dir(&places.data).unwrap();
        let programs = ["maqet-runner", "qemu"].map(|name| program(dir.join(name)));
        drop(Store::open(&places.store()).unwrap());
        let faults = Faults::under(&places.store()).unwrap();
        let store = Store::open(&places.store()).unwrap().store;
        let secret = Secret::random().unwrap();
        let mut record = VmRecord::new(VmId::random(), spec(policy), clock::now());
        record.files = images::make(&places, &record);
        let vm = record.id.clone();
        let event = NewEvent::new("vm.added", clock::now()).about(&record);
        let added = store
            .commit(vec![Change::create(record, secret.clone()).event(event)])
            .unwrap();
        assert!(added[0].is_ok());
        let world = Rc::new(World::new(vm, secret, store, programs));
        world.enter();
        let play = Rc::new(Self {
            world,
            places,
            policy,
            clients: RefCell::default(),
            wore: Cell::default(),
            dead: Cell::default(),
            faults,
            house: RefCell::default(),
        });
        play.open().await;
        play
    }

    /// A supervisor comes.
    async fn open(self: &Rc<Self>) {
        let opening = actix_rt::spawn(open(Rc::clone(&self.world), self.places.clone()));
        while !opening.is_finished() {
            self.tick(STEP).await;
        }
        *self.house.borrow_mut() = Some(opening.await.unwrap());
        // It has not looked for dead children yet.
        self.dead.set(usize::MAX);
    }

    pub(super) fn house(&self) -> House {
        self.house.borrow().clone().unwrap()
    }

    /// The VM's owner, while it has one.
    pub(super) async fn owner(&self) -> Option<Addr<VmActor>> {
        let id = self.world.vm.as_str().to_owned();
        let found = self.house().supervisor.send(FindVm(id)).await;
        let owner = found.unwrap().ok()?.vm;
        owner.connected().then_some(owner)
    }

    /// One step of the clock, once nothing is on its way to any process.
    async fn tick(&self, step: Duration) {
        self.world.rest();
        let dead = self.world.dead();
        if let (true, Some(house)) = (self.dead.replace(dead) != dead, &*self.house.borrow()) {
            // As for every SIGCHLD.
            house.shared.reaper.sweep();
        }
        tokio::time::sleep_until(Instant::now() + step).await;
    }

    /// Lets everything happen that needs no time.
    pub(super) async fn rest(&self) {
        for _ in 0..STEPS_TO_REST {
            self.tick(STEP).await;
        }
    }

    /// Lets time pass.
    pub(super) async fn pass(&self, time: Duration) {
        let until = Instant::now() + time;
        while Instant::now() < until {
            self.tick(STRIDE).await;
        }
    }

    /// Waits for something that the actors do, and lets time pass for it.
    pub(super) async fn done<T: 'static>(&self, work: impl Future<Output = T> + 'static) -> T {
        let work = actix_rt::spawn(work);
        while !work.is_finished() {
            self.tick(STEP).await;
        }
        work.await.unwrap()
    }

    /// One step of the script.
    pub(super) async fn step(self: &Rc<Self>, step: Step) {
        match step {
            Step::Ask(wish) => self.ask(wish),
            Step::Runner(fate) => self.runner(fate),
            Step::Qemu(end) => self.qemu(end),
            Step::Guest(guest) => self.world.guest.set(guest),
            Step::Starts(starts) => self.world.starts.set(starts),
            Step::Disk(disk) => self.disk(disk),
            Step::Panic => self.panic().await,
            Step::Kill => self.kill().await,
            Step::Pass(time) => self.pass(Duration::from_millis(time)).await,
            Step::Turns(turns) => {
                for _ in 0..turns {
                    tokio::task::yield_now().await;
                }
            }
        }
    }

    fn ask(self: &Rc<Self>, wish: Wish) {
        let client = Client::new(wish, self.clients.borrow().len());
        self.clients.borrow_mut().push(Rc::clone(&client));
        self.note_wishes();
        actix_rt::spawn(client.ask(Rc::clone(self), self.house().supervisor));
    }

    /// Which ends are wanted now: a launch that begins meanwhile may get one of them.
    pub(super) fn note_wishes(&self) {
        let clients = self.clients.borrow();
        let pending = clients.iter().filter(|client| !client.is_answered());
        let wanted = pending.fold(Wanted::default(), |wanted, client| wanted.or(client.wanted()));
        self.world.wanted.set(wanted);
        if let Some(launch) = self.world.newest() {
            launch.wanted.set(launch.wanted.get().or(wanted));
        }
    }

    fn runner(&self, fate: Fate) {
        let world = &self.world;
        match fate {
            Fate::Freezes => {
                world.frozen.set(true);
                world.newest().inspect(|launch| launch.late.set(true));
            }
            Fate::Stirs => {
                world.stirs.set(world.stirs.get() + u32::from(world.frozen.get()));
                world.thawed.notify_one();
            }
            Fate::Thaws => {
                world.frozen.set(false);
                world.stirs.set(0);
                world.thawed.notify_waiters();
            }
            Fate::Dies => self.each_runner(Runner::dies),
            Fate::HangsUp => self.each_runner(Runner::hangs_up),
            Fate::CannotBe => world.spawns.set(false),
            Fate::CanBe => world.spawns.set(true),
        }
    }

    fn each_runner(&self, what: impl Fn(&Runner)) {
        let runners = self.world.runners();
        runners
            .iter()
            .filter(|runner| runner.body.lives())
            .for_each(|runner| what(runner));
    }

    fn qemu(&self, end: End) {
        let mut living = self.world.living_qemus().into_iter();
        let Some((launch, qemu)) = living.rfind(|(_, qemu)| qemu.released.get()) else {
            return;
        };
        let fact = match end {
            End::Event => maqet_protocol::runner::RunnerFact::QmpEvent {
                name: "RESUME".to_owned(),
                data: serde_json::Value::Null,
            },
            End::Silent(silent) => maqet_protocol::runner::RunnerFact::Silent { silent },
            // Only a runner that is there sees a guest end; without one, QEMU stays paused.
            End::ShutDown | End::Panicked if !is_minded(&launch) => return,
            End::Killed | End::Crashed | End::Exited(_) | End::ShutDown | End::Panicked => {
                return qemu.ends(end);
            }
        };
        self.each_runner(|runner| runner.tell(&fact));
    }

    fn disk(&self, disk: Disk) {
        self.wore.set(true);
        match disk {
            Disk::Fails(nth) => self.faults.plan(nth, 1),
            Disk::Full => self.faults.plan(1, u64::MAX),
            Disk::Room => self.faults.plan(0, 0),
        }
    }

    async fn panic(&self) {
        if let Some(owner) = self.owner().await {
            self.bereave();
            assert_eq!(owner.send(Panic).await, Err(MailboxError::Closed));
        }
    }

    async fn kill(self: &Rc<Self>) {
        let owner = self.owner().await;
        let house = self.house();
        self.bereave();
        drop(house.supervisor.try_send(Panic));
        owner.inspect(|owner| drop(owner.try_send(Panic)));
        drop(house.state.try_send(Panic));
        while house.state.connected() || house.supervisor.connected() {
            tokio::task::yield_now().await;
        }
        drop(house);
        // The clock stands still while a commit is under way: it is durable before the next supervisor looks, or never.
        self.tick(STEP).await;
        self.open().await;
    }

    /// Whoever waits for an answer may not get one, and whoever knew how a launch ended is gone.
    fn bereave(&self) {
        self.clients.borrow().iter().for_each(|client| client.bereave());
        self.world
            .launches
            .borrow()
            .iter()
            .for_each(|launch| launch.bereft.set(true));
    }

    /// How the clients were answered, in the order in which they asked.
    pub(super) fn answers(&self) -> Vec<String> {
        let clients = self.clients.borrow();
        clients.iter().map(|client| client.answer()).collect()
    }

    /// The script is over: nothing of it stays.
    pub(super) fn strike(&self) {
        self.disk(Disk::Room);
        self.world.runners().iter().for_each(|runner| runner.body.kill());
        self.world.qemus().iter().for_each(|(_, qemu)| qemu.body.kill());
        self.house.borrow_mut().take();
    }

    /// Whatever was in the way is not any more.
    pub(super) async fn relieve(&self) {
        self.runner(Fate::Thaws);
        self.runner(Fate::CanBe);
        self.world.guest.set(Guest::default());
        self.world.starts.set(Starts::default());
        self.disk(Disk::Room);
        self.rest().await;
        // A runner that had noticed a silence asks until it is over, and tells.
        self.qemu(End::Silent(false));
        self.rest().await;
    }
}

/// A copy of the shell that can be executed: a child that another test has just forked may hold it open for a moment.
fn program(path: PathBuf) -> PathBuf {
    std::fs::copy(SHELL, &path).unwrap();
    loop {
        match Command::new(&path).args(["-c", ":"]).status() {
            Err(busy) if busy.kind() == ErrorKind::ExecutableFileBusy => std::thread::yield_now(),
            ended => break assert!(ended.unwrap().success()),
        }
    }
    path
}

fn is_minded(launch: &Launch) -> bool {
    let runners = launch.runners.borrow();
    runners.iter().any(|runner| runner.body.lives() && runner.is_up())
}

/// As a supervisor begins: everything on record is settled before anybody is answered.
async fn open(world: Rc<World>, places: Places) -> House {
    let bus = EventBus::default().start();
    let state = StateActor::new(world.store.clone(), bus, None, Vec::new()).start();
    let program = world.programs[0].clone();
    let boot_id = maqet_process::identity::boot_id().unwrap();
    let shared = Shared::new(places, Settings::default(), state.clone(), program, boot_id).unwrap();
    let shared = Rc::new(Shared {
        spawn_runner,
        ..shared
    });
    let mut settled = Vec::new();
    for record in world.store.vms().unwrap() {
        let secret = Arc::new(world.store.secret(&record.id).unwrap().unwrap());
        settled.push(rebuild(Recorded { record, secret }, &shared).await);
    }
    let records: Vec<_> = settled.iter().map(|(settled, _)| settled.record()).collect();
    crate::ledger::put_in_order(&records, &shared).await;
    let (gone, lost) = mpsc::unbounded_channel();
    let ended = Rc::new(Notify::new());
    let supervisor = SupervisorActor::new(settled, Rc::clone(&shared), gone, ended).start();
    actix_rt::spawn(SupervisorActor::hear_of_lost(lost, supervisor.clone()));
    House {
        supervisor,
        shared,
        state,
    }
}

fn spec(policy: Policy) -> VmSpec {
    let text = "name: web\nmachine: none\naccel: tcg\nmemory: 16M\n";
    let mut spec = maqet_spec::load(
        &[Source::new("test.yaml", "/", text)],
        &[],
        &LoadOptions::default(),
    )
    .unwrap();
    spec.binary = SHELL.to_owned();
    if policy.restarts {
        spec.restart.policy = RestartWhen::OnFailure;
    }
    if policy.ends_on_loss {
        spec.on_runner_loss = OnRunnerLoss::Stop;
    }
    if policy.kills {
        spec.stop.on_timeout = OnTimeout::Kill;
    }
    spec
}

impl Handler<Panic> for SupervisorActor {
    type Result = ();

    fn handle(&mut self, _message: Panic, _context: &mut Context<Self>) {
        panic!("a defect, on purpose");
    }
}

impl Handler<Panic> for StateActor {
    type Result = ();

    fn handle(&mut self, _message: Panic, _context: &mut Context<Self>) {
        panic!("a defect, on purpose");
    }
}
