//! What every VM's actor uses and none of them owns.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use actix::Addr;
use maqet_process::error::ProcessError;
use maqet_process::identity::ProcessIdentity;
use maqet_process::spawn::{Child, Spawn};
use maqet_state::record::Helper;
use maqet_storage::binary::Binaries;
use maqet_storage::error::StorageError;
use maqet_storage::kvm::Kvm;
use maqet_storage::library::Library;
use maqet_storage::policy::PathPolicy;
use maqet_storage::probe::Probes;
use tokio::sync::Semaphore;

use crate::args::Places;
use crate::aside::Asides;
use crate::board::Board;
use crate::leases::Leases;
use crate::library::Claims;
use crate::reaper::Reaper;
use crate::settings::Settings;
use crate::store::StateActor;
use crate::supervisor::SupervisorActor;

/// Surroundings of all VM actors, which live on one thread.
#[derive(Debug)]
pub(crate) struct Shared {
    /// Directories.
    pub(crate) places: Places,
    /// Settings.
    pub(crate) settings: Settings,
    /// The state actor.
    pub(crate) state: Addr<StateActor>,
    /// One permit per start under way: as many as there are cores; the rest queue.
    pub(crate) starts: Semaphore,
    /// QEMU programs by name.
    pub(crate) binaries: Binaries,
    /// What those programs can do.
    pub(crate) probes: Probes,
    /// Whether KVM runs guests.
    pub(crate) kvm: Kvm,
    /// Where images may be made.
    pub(crate) policy: PathPolicy,
    /// Images that disks stand on.
    pub(crate) library: Library,
    /// Which of them disks are being made on, and which are going.
    pub(crate) claims: Claims,
    /// Who uses which image.
    pub(crate) leases: Leases,
    /// Where people's file systems are waited for.
    pub(crate) asides: Asides,
    /// Processes that may not command the supervisor.
    pub(crate) confined: Arc<Confined>,
    /// The runner program.
    pub(crate) runner_program: PathBuf,
    /// How runners are started; tests play them.
    pub(crate) spawn_runner: fn(Spawn) -> Result<Child, ProcessError>,
    /// What `ls` shows.
    pub(crate) board: Board,
    /// This boot of the host; restarts and stops are about one.
    pub(crate) boot_id: String,
    /// Who waits for which child.
    pub(crate) reaper: Reaper,
    /// The root actor, once it runs.
    pub(crate) supervisor: RefCell<Option<Addr<SupervisorActor>>>,
}

impl Shared {
    /// The surroundings of a supervisor that has no VMs yet.
    ///
    /// # Errors
    /// When the host's mounts cannot be read.
    pub(crate) fn new(
        places: Places,
        settings: Settings,
        state: Addr<StateActor>,
        runner_program: PathBuf,
        boot_id: String,
    ) -> Result<Self, StorageError> {
        let roots = places.writable(&settings.storage.roots);
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        Ok(Self {
            library: Library::new(places.images()),
            claims: Claims::default(),
            places,
            settings,
            state,
            starts: Semaphore::new(cores),
            binaries: Binaries::new(),
            probes: Probes::new(),
            kvm: Kvm::new(),
            policy: PathPolicy::for_host(roots)?,
            leases: Leases::default(),
            asides: Asides::default(),
            confined: Arc::default(),
            runner_program,
            spawn_runner: Spawn::spawn,
            board: Board::default(),
            boot_id,
            reaper: Reaper::default(),
            supervisor: RefCell::default(),
        })
    }
}

/// QEMUs and their helpers, by pidfd inode: a guest that broke out of one has our user id and must still not command us.
#[derive(Debug, Default)]
pub(crate) struct Confined {
    inodes: Mutex<BTreeSet<u64>>,
}

impl Confined {
    /// A QEMU is about to run.
    pub(crate) fn enter(&self, qemu: &ProcessIdentity, helpers: &[Helper]) {
        if let Ok(mut inodes) = self.inodes.lock() {
            inodes.extend(inodes_of(qemu, helpers));
        }
    }

    /// A QEMU is gone. The kernel never gives its inode to another process.
    pub(crate) fn leave(&self, qemu: &ProcessIdentity, helpers: &[Helper]) {
        if let Ok(mut inodes) = self.inodes.lock() {
            for inode in inodes_of(qemu, helpers) {
                inodes.remove(&inode);
            }
        }
    }

    /// Whether this process is one of them. A poisoned lock says so of everybody.
    pub(crate) fn holds(&self, inode: u64) -> bool {
        self.inodes.lock().map_or(true, |inodes| inodes.contains(&inode))
    }
}

fn inodes_of<'a>(qemu: &'a ProcessIdentity, helpers: &'a [Helper]) -> impl Iterator<Item = u64> + 'a {
    let helpers = helpers.iter().map(|helper| &helper.identity);
    std::iter::once(qemu)
        .chain(helpers)
        .filter_map(|identity| identity.pidfs_inode)
}
