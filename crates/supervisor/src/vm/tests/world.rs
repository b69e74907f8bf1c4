//! What is really so: processes, and what was done to them. The product does not know this; the model goes by it.

use std::cell::{Cell, RefCell};
use std::path::PathBuf;
use std::rc::Rc;

use maqet_process::error::ProcessError;
use maqet_process::identity::{FileId, ProcessIdentity, Role};
use maqet_process::spawn::{Child, Spawn};
use maqet_state::id::VmId;
use maqet_state::lifecycle::Cause;
use maqet_state::record::Launch as Stored;
use maqet_state::secret::Secret;
use maqet_state::store::Store;
use tokio::sync::Notify;

use super::body::Body;
use super::runner::Runner;
use super::step::{End, Guest, Starts};

thread_local! {
    /// The world of the script that is played on this thread.
    static WORLD: RefCell<Option<Rc<World>>> = const { RefCell::new(None) };
}

/// The program behind every process here.
pub(super) const SHELL: &str = "/bin/sh";

/// One VM's world.
pub(super) struct World {
    pub(super) vm: VmId,
    pub(super) secret: Secret,
    pub(super) store: Store,
    /// What a runner and a gate show, and what a QEMU shows: copies of the shell.
    pub(super) programs: [PathBuf; 2],
    pub(super) launches: RefCell<Vec<Rc<Launch>>>,
    /// Runners do nothing.
    pub(super) frozen: Cell<bool>,
    /// Things that frozen runners may do.
    pub(super) stirs: Cell<u32>,
    pub(super) thawed: Notify,
    pub(super) spawns: Cell<bool>,
    pub(super) guest: Cell<Guest>,
    pub(super) starts: Cell<Starts>,
    /// What clients wait for could end a launch.
    pub(super) wanted: Cell<Wanted>,
    /// What must not have happened.
    pub(super) wrong: RefCell<Vec<String>>,
}

/// Which ends somebody asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Wanted {
    /// By the ladder.
    pub(super) stop: bool,
    /// By force.
    pub(super) force: bool,
}

impl Wanted {
    pub(super) fn or(self, other: Self) -> Self {
        Self {
            stop: self.stop || other.stop,
            force: self.force || other.force,
        }
    }

    pub(super) fn any(self) -> bool {
        self.stop || self.force
    }
}

/// One launch, as it really is.
pub(super) struct Launch {
    pub(super) id: String,
    pub(super) generation: Cell<u64>,
    pub(super) runners: RefCell<Vec<Rc<Runner>>>,
    pub(super) qemu: RefCell<Option<Rc<Qemu>>>,
    /// Somebody was told that it runs.
    pub(super) acknowledged: Cell<bool>,
    /// Who asked for its end.
    pub(super) wanted: Cell<Wanted>,
    /// Its runner was told to end it.
    pub(super) ordered: Cell<bool>,
    /// Its owner, or the supervisor, was lost while it was there.
    pub(super) bereft: Cell<bool>,
    /// A runner of it was lost.
    pub(super) lost: Cell<bool>,
    /// What its runner noted.
    pub(super) noted: Cell<Option<Cause>>,
    /// The runner was frozen at some time: what it says may come too late.
    pub(super) late: Cell<bool>,
}

/// A gate, and the QEMU it becomes.
pub(super) struct Qemu {
    pub(super) body: Body,
    pub(super) identity: ProcessIdentity,
    pub(super) released: Cell<bool>,
    pub(super) end: Cell<Option<End>>,
}

impl World {
    /// A world in which nothing was done yet.
    pub(super) fn new(vm: VmId, secret: Secret, store: Store, programs: [PathBuf; 2]) -> Self {
        Self {
            vm,
            secret,
            store,
            programs,
            launches: RefCell::default(),
            frozen: Cell::default(),
            stirs: Cell::default(),
            thawed: Notify::new(),
            spawns: Cell::new(true),
            guest: Cell::default(),
            starts: Cell::default(),
            wanted: Cell::default(),
            wrong: RefCell::default(),
        }
    }

    /// The present world of this thread.
    pub(super) fn enter(self: &Rc<Self>) {
        WORLD.with(|world| *world.borrow_mut() = Some(Rc::clone(self)));
    }

    /// Leaves it; its processes end.
    pub(super) fn leave() {
        WORLD.with(|world| world.borrow_mut().take());
    }

    pub(super) fn blame(&self, what: impl Into<String>) {
        self.wrong.borrow_mut().push(what.into());
    }

    pub(super) fn launch(&self, id: &str) -> Option<Rc<Launch>> {
        self.launches
            .borrow()
            .iter()
            .find(|launch| launch.id == id)
            .cloned()
    }

    /// The newest launch.
    pub(super) fn newest(&self) -> Option<Rc<Launch>> {
        self.launches.borrow().last().cloned()
    }

    /// Every runner that ever was.
    pub(super) fn runners(&self) -> Vec<Rc<Runner>> {
        let launches = self.launches.borrow();
        launches
            .iter()
            .flat_map(|launch| launch.runners.borrow().clone())
            .collect()
    }

    /// Every gate or QEMU that ever was, with its launch.
    pub(super) fn qemus(&self) -> Vec<(Rc<Launch>, Rc<Qemu>)> {
        let launches = self.launches.borrow();
        let of = |launch: &Rc<Launch>| Some((Rc::clone(launch), launch.qemu.borrow().clone()?));
        launches.iter().filter_map(of).collect()
    }

    pub(super) fn living_runners(&self) -> usize {
        self.runners().iter().filter(|runner| runner.body.lives()).count()
    }

    pub(super) fn living_qemus(&self) -> Vec<(Rc<Launch>, Rc<Qemu>)> {
        let mut qemus = self.qemus();
        qemus.retain(|(_, qemu)| qemu.body.lives());
        qemus
    }

    /// Whether the process with this number is one of this world, and lives.
    pub(super) fn lives(&self, pid: i32) -> bool {
        let runners = self.runners();
        let qemus = self.living_qemus();
        let runners = runners.iter().map(|runner| &runner.body);
        let mut bodies = runners.chain(qemus.iter().map(|(_, qemu)| &qemu.body));
        bodies.any(|body| body.handle.pid() == pid && body.lives())
    }

    /// How many processes have ended.
    pub(super) fn dead(&self) -> usize {
        let all = self.runners().len() + self.qemus().len();
        all - self.living_runners() - self.living_qemus().len()
    }

    /// Nothing is on its way to any process.
    pub(super) fn rest(&self) {
        self.runners().iter().for_each(|runner| runner.body.rest());
        self.qemus().iter().for_each(|(_, qemu)| qemu.body.rest());
    }

    /// Returns when a runner may act: at once, unless they are frozen.
    pub(super) async fn turn(&self) {
        while self.frozen.get() {
            if let Some(left) = self.stirs.get().checked_sub(1) {
                self.stirs.set(left);
                return;
            }
            self.thawed.notified().await;
        }
    }

    /// The launch that is on record, as durable as can be.
    pub(super) fn stored(&self) -> Option<Stored> {
        let record = self.store.vm(&self.vm).ok()??;
        record.state.launch().cloned()
    }

    fn launch_or_new(&self, id: &str) -> Rc<Launch> {
        self.launch(id).unwrap_or_else(|| {
            let launch = Rc::new(Launch {
                id: id.to_owned(),
                generation: Cell::default(),
                runners: RefCell::default(),
                qemu: RefCell::default(),
                acknowledged: Cell::default(),
                wanted: Cell::new(self.wanted.get()),
                ordered: Cell::default(),
                bereft: Cell::default(),
                lost: Cell::default(),
                noted: Cell::default(),
                late: Cell::new(self.frozen.get()),
            });
            self.launches.borrow_mut().push(Rc::clone(&launch));
            launch
        })
    }

    /// A gate for a launch.
    pub(super) fn gate(&self, launch: &Rc<Launch>, generation: u64) -> Rc<Qemu> {
        if !self.living_qemus().is_empty() {
            self.blame(format!(
                "a gate of launch {generation} beside a QEMU or gate that lives"
            ));
        }
        launch.generation.set(generation);
        let body = Body::new(&self.programs[0], &["qemu".into(), launch.id.clone().into()]).unwrap();
        let images = self
            .programs
            .each_ref()
            .map(|path| FileId::of_path(path).unwrap());
        let identity =
            ProcessIdentity::take(&body.handle, Role::Qemu, &launch.id, generation, images.to_vec()).unwrap();
        let qemu = Rc::new(Qemu {
            body,
            identity,
            released: Cell::default(),
            end: Cell::default(),
        });
        if launch.qemu.replace(Some(Rc::clone(&qemu))).is_some() {
            self.blame("a second gate of one launch");
        }
        qemu
    }
}

impl Qemu {
    /// It ends like this, as far as the kernel sees it. What has ended already stays as it is.
    pub(super) fn ends(&self, end: End) {
        if !self.body.lives() {
            return;
        }
        match end {
            End::Killed => self.body.kill(),
            End::Crashed => self.body.crash(),
            End::Exited(code) => self.body.exit(code),
            End::ShutDown | End::Panicked => self.body.exit(0),
            End::Event | End::Silent(_) => return,
        }
        self.end.set(Some(end));
    }
}

/// Starts a runner that is played: the process is real and does nothing, what a runner does is done here.
pub(super) fn spawn_runner(mut order: Spawn) -> Result<Child, ProcessError> {
    let world = WORLD.with(|world| world.borrow().clone()).unwrap();
    if !world.spawns.get() {
        return Err(ProcessError::Spawn {
            program: order.program,
            source: std::io::Error::from_raw_os_error(11),
        });
    }
    if world.living_runners() > 0 {
        world.blame("a runner beside another one that lives");
    }
    let (channel, _number) = order.fds.remove(0);
    let words: Vec<String> = order
        .args
        .iter()
        .map(|word| word.to_string_lossy().into_owned())
        .collect();
    let launch = world.launch_or_new(&words[5]);
    let body = Body::new(&world.programs[0], &order.args)?;
    let handle = body.handle.try_clone()?;
    let runner = Runner::new(&world, &launch, words[7].clone().into(), body);
    launch.runners.borrow_mut().push(Rc::clone(&runner));
    runner.begin(channel);
    Ok(Child { handle })
}
