//! What is stored about one VM.

use std::path::PathBuf;

use maqet_process::identity::ProcessIdentity;
use maqet_spec::VmSpec;
use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;
use crate::disk::DiskRecords;
use crate::external::{Externals, raised, with_images};
use crate::health::Health;
use crate::id::VmId;
use crate::lifecycle::{Activity, Fact, FactKind, ImpossibleFact, LastExit, Status, View, apply};
use crate::plug::Plug;
use crate::removal::Removal;
use crate::snapshot::SnapshotWork;
use crate::upkeep::{Autostart, Upkeep, Verdict};

/// What a runner said of a running QEMU: kept as it came, the wire type is `org.maqet.Runner`'s `Running`.
pub type Running = serde_json::Value;

/// State of a VM; each state owns the data that only it has. Only [`apply`] makes a new one.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(tag = "status", rename_all = "kebab-case")]
pub enum VmState {
    /// Never started.
    #[default]
    Created,
    /// Expected alive.
    Running(Box<Launch>),
    /// Ended as somebody meant it to.
    Stopped,
    /// Ended otherwise.
    Failed,
}

impl VmState {
    /// Its bare name.
    pub const fn status(&self) -> Status {
        match self {
            Self::Created => Status::Created,
            Self::Running(_) => Status::Running,
            Self::Stopped => Status::Stopped,
            Self::Failed => Status::Failed,
        }
    }

    /// The status to show: while a start is under way, the one before it, because the kernel has confirmed nothing
    /// yet; else the stored one.
    pub const fn shown(&self, activity: Activity) -> Status {
        match (self, activity) {
            (Self::Running(launch), Activity::Starting) => launch.previous,
            (
                Self::Running(_),
                Activity::Idle
                | Activity::Stopping
                | Activity::Snapshotting
                | Activity::Maintaining
                | Activity::Removing,
            )
            | (
                Self::Created | Self::Stopped | Self::Failed,
                Activity::Idle
                | Activity::Starting
                | Activity::Stopping
                | Activity::Snapshotting
                | Activity::Maintaining
                | Activity::Removing,
            ) => self.status(),
        }
    }

    /// The launch under way, if expected alive.
    pub fn launch(&self) -> Option<&Launch> {
        match self {
            Self::Running(launch) => Some(launch),
            Self::Created | Self::Stopped | Self::Failed => None,
        }
    }
}

/// What the one who owns a VM wants of its present launch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Intent {
    /// Go on.
    #[default]
    Run,
    /// End by the stop ladder.
    Stop,
    /// End by SIGKILL.
    StopForced,
    /// End because the host shuts down.
    HostShutdown,
    /// End by the stop ladder because the runner was lost (`on_runner_loss: stop`).
    RunnerLost,
}

/// A process that serves a share of a VM by virtiofs: its virtiofsd.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Helper {
    /// Name of the share.
    pub share: String,
    /// Identity of the process.
    pub identity: ProcessIdentity,
}

/// One run of a VM, from the spawn of its runner to the end of QEMU.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Launch {
    /// Random id, 32 hexadecimal digits; also on QEMU's and the runner's command line.
    pub launch_id: String,
    /// Start counter of the VM; 1 is the first launch.
    pub generation: u64,
    /// Status before this launch; filled in by [`apply`].
    pub previous: Status,
    /// When the launch began.
    pub at: Timestamp,
    /// Identity of the runner; of the newest one after an adoption.
    pub runner: ProcessIdentity,
    /// Identity of QEMU; `None` until its gate was spawned.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub qemu: Option<ProcessIdentity>,
    /// Helpers that QEMU was given; they live as long as it does.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub helpers: Vec<Helper>,
    /// What the runner said once the guest was let run; `None` until then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub running: Option<Running>,
    /// What is wanted of it.
    #[serde(default)]
    pub intent: Intent,
}

impl Launch {
    /// A launch whose runner was spawned just now.
    pub fn new(
        launch_id: impl Into<String>,
        generation: u64,
        runner: ProcessIdentity,
        at: Timestamp,
    ) -> Self {
        Self {
            launch_id: launch_id.into(),
            generation,
            previous: Status::Created,
            at,
            runner,
            qemu: None,
            helpers: Vec::new(),
            running: None,
            intent: Intent::Run,
        }
    }

    /// QEMU answered once, and the guest was let run.
    pub const fn is_confirmed(&self) -> bool {
        self.running.is_some()
    }
}

/// What is stored about one VM. Its secret is stored apart, see [`crate::secret::Secret`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct VmRecord {
    /// Version of this shape, [`VmRecord::VERSION`].
    pub v: u32,
    /// Id; never changes.
    pub id: VmId,
    /// What it should be.
    pub spec: VmSpec,
    /// What it is.
    pub state: VmState,
    /// When its status was entered.
    pub since: Timestamp,
    /// Launches so far.
    pub generation: u64,
    /// How it ended last; kept while it runs again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_exit: Option<LastExit>,
    /// When it was added.
    pub created_at: Timestamp,
    /// What is known of the files of its disks; earlier versions wrote the paths of those that maqet made.
    #[serde(default, alias = "owned_files", skip_serializing_if = "DiskRecords::is_empty")]
    pub files: DiskRecords,
    /// Work on its snapshots that has begun and is not known to have ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshot: Option<Box<SnapshotWork>>,
    /// Snapshots that are kept as files of their own.
    #[serde(default, skip_serializing_if = "Externals::is_none")]
    pub externals: Externals,
    /// A disk that the QEMU which runs is being given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plug: Option<Box<Plug>>,
    /// A removal that has begun to delete images, or is about to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub removal: Option<Box<Removal>>,
    /// Started whenever a supervisor starts; `None` when not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub autostart: Option<Autostart>,
    /// What keeps it up without a person.
    #[serde(default)]
    pub upkeep: Upkeep,
    /// Whether its disks may be written.
    #[serde(default, skip_serializing_if = "Health::is_good")]
    pub health: Health,
}

impl VmRecord {
    /// Version of the stored shape.
    pub const VERSION: u32 = 1;

    /// A VM that was never started.
    pub const fn new(id: VmId, spec: VmSpec, at: Timestamp) -> Self {
        Self {
            v: Self::VERSION,
            id,
            spec,
            state: VmState::Created,
            since: at,
            generation: 0,
            last_exit: None,
            created_at: at,
            files: DiskRecords::new(),
            snapshot: None,
            externals: Externals::none(),
            plug: None,
            removal: None,
            autostart: None,
            upkeep: Upkeep {
                boot_id: String::new(),
                restarts: Vec::new(),
                next_at: None,
                gave_up: None,
                unattended: false,
                stopped: false,
            },
            health: Health::good(),
        }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        self.spec.name.as_str()
    }

    /// Stored status.
    pub const fn status(&self) -> Status {
        self.state.status()
    }

    /// What [`crate::lifecycle::decide`] looks at.
    pub const fn view(&self, activity: Activity) -> View {
        View {
            status: self.status(),
            activity,
            half_removed: self.removal.is_some(),
        }
    }

    /// The record after `fact`, which was noticed at `at`.
    ///
    /// # Errors
    /// [`ImpossibleFact`], also for a launch whose generation is not above the last one; the record stays what it is.
    pub fn apply(&self, fact: Fact, at: Timestamp) -> Result<Self, ImpossibleFact> {
        let generation = self.generation_after(&fact)?;
        let exit = fact.exit().cloned();
        let state = apply(&self.state, fact)?;
        let since = if state.status() == self.status() && exit.is_none() {
            self.since
        } else {
            at
        };
        let ended = exit.is_some();
        let after = Self {
            state,
            since,
            generation,
            health: match &exit {
                Some(exit) => self.health.clone().ended(exit.cause),
                None => self.health.clone(),
            },
            last_exit: exit.or_else(|| self.last_exit.clone()),
            // It has ended, or was never let run: it has no disk that it was being given.
            plug: self.plug.clone().filter(|_| !ended),
            ..self.clone()
        };
        Ok(if ended {
            after.switched(at).cut_off(at)
        } else {
            after
        })
    }

    /// The record with its disks on the images that a QEMU was being put on, if one was: it has been, or has ended.
    #[must_use]
    pub fn switched(mut self, at: Timestamp) -> Self {
        if let Some(switch) = self.externals.switching().cloned() {
            self.spec = raised(self.spec, &switch.snapshot.layers);
            self.files = with_images(self.files, &switch.made, &switch.boot_id, at);
            self.externals = self.externals.stacked(switch.snapshot);
        }
        self
    }

    /// The record where a QEMU that was loading a snapshot has ended: how far it came is not known, nor how long a guest ran
    /// afterwards.
    #[must_use]
    pub fn cut_off(mut self, at: Timestamp) -> Self {
        if let Some(work) = self.snapshot.take_if(|work| work.is_load_by_qemu()) {
            let paths = self.paths_of(&work.disks);
            self.health = self.health.cut_off(paths, &work.name, at);
        }
        self
    }

    /// Name of the snapshot whose load was cut off, where that may have left disks of different moments.
    pub fn load_cut_off(&self) -> Option<&str> {
        let mut disks = self.spec.disks.iter();
        let load = disks.find_map(|disk| self.health.between(&disk.path))?;
        Some(&load.snapshot)
    }

    /// Where the images of these disks are.
    pub fn paths_of(&self, disks: &[String]) -> Vec<PathBuf> {
        let named = self.spec.disks.iter().filter(|disk| disks.contains(&disk.name));
        named.map(|disk| disk.path.clone()).collect()
    }

    /// The record after an end, with what its restart policy makes of it.
    ///
    /// # Errors
    /// As [`Self::apply`].
    pub fn end(&self, fact: Fact, at: Timestamp, jitter: f64) -> Result<Self, ImpossibleFact> {
        let intent = self.state.launch().map_or(Intent::Run, |launch| launch.intent);
        let fact = fact.for_intent(intent);
        let cause = fact.exit().map(|exit| exit.cause);
        let ended = self.apply(fact, at)?;
        let policy = self.spec.restart;
        let verdict = cause.map_or(Verdict::Rest, |cause| {
            self.upkeep.judge(policy, (cause, intent), at, jitter)
        });
        Ok(Self {
            upkeep: ended.upkeep.clone().judged(verdict, at),
            ..ended
        })
    }

    fn generation_after(&self, fact: &Fact) -> Result<u64, ImpossibleFact> {
        match fact {
            Fact::Launching(launch) if launch.generation <= self.generation => {
                Err(ImpossibleFact::OtherLaunch {
                    fact: FactKind::Launching,
                    found: launch.generation,
                    current: self.generation,
                })
            }
            Fact::Launching(launch) => Ok(launch.generation),
            Fact::LaunchFailed { .. }
            | Fact::QemuRecorded { .. }
            | Fact::Confirmed { .. }
            | Fact::StopIntended { .. }
            | Fact::RunnerReplaced { .. }
            | Fact::Ended { .. } => Ok(self.generation),
        }
    }
}
