//! The steps of a start, each a type the next one is made from: nothing is executed before its identity is durable.
//!
//! [`Plan`] → [`Preflight`] (files) → [`GatedRunner`] (commit 1) → [`ReadyRunner`] → [`PreparedQemu`] (commit 2) →
//! [`Launched`]. Any death in between collapses what was not yet released: the runner ends with the descriptor it
//! waits on, the gate with its runner.

mod gated;
mod preflight;

use std::fs;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use actix::Addr;
use maqet_process::identity::{Liveness, ProcessIdentity};
use maqet_process::pidfd::ProcessHandle;
use maqet_process::point::{Point, pass};
use maqet_protocol::CallError;
use maqet_protocol::control::PortStatus;
use maqet_protocol::endpoint::client::{Client, ReplyStream};
use maqet_protocol::method::Method;
use maqet_protocol::refusal::{Refusal, RefusalCode};
use maqet_protocol::runner::{OpenedFile, Prepare, Prepared, Release, Running, Watch};
use maqet_spec::VmSpec;
use maqet_state::clock;
use maqet_state::disk::DiskRecords;
use maqet_state::external::Externals;
use maqet_state::health::Health;
use maqet_state::id::VmId;
use maqet_state::record::{Helper, Launch};
use maqet_state::secret::Secret;
use maqet_state::snapshot::SnapshotWork;

pub(crate) use self::gated::{GatedRunner, RunnerOrder};
pub(crate) use self::preflight::News;
use self::preflight::Preflight;
use crate::link::{RunnerLink, chain};
use crate::messages::{CheckWritable, RecordStep};
use crate::shared::Shared;
use crate::virtiofsd;
use crate::vm::VmActor;

/// Opening disks and spawning the gate.
const PREPARE_DEADLINE: Duration = Duration::from_mins(1);

/// QEMU's own start: greeting, capabilities, `cont`. The runner has tighter deadlines of its own inside.
const RELEASE_DEADLINE: Duration = Duration::from_mins(1);

/// What is to be launched.
#[derive(Debug)]
pub(crate) struct Plan {
    /// The VM.
    pub(crate) id: VmId,
    /// What it should be.
    pub(crate) spec: VmSpec,
    /// What is known of its disks' files.
    pub(crate) files: DiskRecords,
    /// Work on its snapshots that was cut off.
    pub(crate) unfinished: Option<Box<SnapshotWork>>,
    /// Its snapshots that are files of their own.
    pub(crate) externals: Externals,
    /// What is known against them.
    pub(crate) health: Health,
    /// The start counter of this launch.
    pub(crate) generation: u64,
    /// Random id of this launch.
    pub(crate) launch_id: String,
    /// Secret of the VM's runner socket.
    pub(crate) secret: Arc<Secret>,
    /// Who records the steps.
    pub(crate) owner: Addr<VmActor>,
    /// Surroundings.
    pub(crate) shared: Rc<Shared>,
}

/// A QEMU that runs, with all the ways to it.
#[derive(Debug)]
pub(crate) struct Launched {
    /// The way to the runner.
    pub(crate) link: Rc<RunnerLink>,
    /// The runner.
    pub(crate) runner: ProcessHandle,
    /// QEMU.
    pub(crate) qemu: ProcessHandle,
    /// What the runner knows of it.
    pub(crate) running: Running,
    /// What the runner will tell.
    pub(crate) watch: ReplyStream<Watch>,
    /// For the journal.
    pub(crate) news: News,
}

/// A launch that failed. What it made is in [`Processes`], to be ended.
#[derive(Debug)]
pub(crate) struct Failure {
    /// For whoever asked.
    pub(crate) refusal: Refusal,
}

/// Processes made so far; they are ended when a launch fails.
#[derive(Debug, Default)]
pub(crate) struct Processes {
    runner: Option<ProcessHandle>,
    qemu: Option<ProcessHandle>,
    helpers: Vec<ProcessHandle>,
}

/// Walks all steps.
pub(crate) async fn launch(plan: &Plan, made: &mut Processes) -> Result<Launched, Failure> {
    let _permit = plan
        .shared
        .starts
        .acquire()
        .await
        .map_err(|_closed| shutting_down())?;
    // Known beforehand, a store that takes nothing leaves the VM as it is, and no image is made.
    check_writable(&plan.shared).await?;
    let preflight = Preflight::check(plan).await?;
    pass(Point::StartBegun);
    let gated = GatedRunner::spawn(&RunnerOrder::from(plan), made)?;
    pass(Point::RunnerSpawned);
    let launch = Launch::new(
        plan.launch_id.clone(),
        plan.generation,
        gated.identity.clone(),
        clock::now(),
    );
    record(plan, RecordStep::Launching(Box::new(launch))).await?;
    pass(Point::LaunchRecorded);
    let ready = gated.go(&plan.secret).await?;
    pass(Point::RunnerReady);
    let prepared = ready.prepare(plan, preflight, made).await?;
    pass(Point::GateNamed);
    // The stream is opened while the commit is under way: before the release, so that nothing the guest does is missed.
    let step = RecordStep::QemuRecorded {
        qemu: prepared.identity.clone(),
        ports: prepared.ports.clone(),
        files: prepared.files.clone(),
        helpers: prepared.helpers.clone(),
    };
    let durable = record(plan, step);
    let (durable, watch) = futures_util::future::join(durable, prepared.ready.link.watch()).await;
    durable?;
    pass(Point::QemuRecorded);
    let launched = prepared.release(watch?).await?;
    pass(Point::StartAnswered);
    Ok(launched)
}

/// Refuses while the store takes no changes.
pub(crate) async fn check_writable(shared: &Shared) -> Result<(), Refusal> {
    match shared.state.send(CheckWritable).await {
        Ok(result) => result,
        Err(error) => Err(Refusal::new(RefusalCode::StoreFailed, "the state actor is gone")
            .cause(error.to_string())
            .hint("look at the supervisor's log")),
    }
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        Self { refusal }
    }
}

/// Has one step made durable by the VM's owner.
pub(crate) async fn record(plan: &Plan, step: RecordStep) -> Result<(), Refusal> {
    match plan.owner.send(step).await {
        Ok(result) => result,
        Err(error) => {
            Err(Refusal::new(RefusalCode::Internal, "the VM's owner is gone").cause(error.to_string()))
        }
    }
}

fn shutting_down() -> Refusal {
    Refusal::new(RefusalCode::Busy, "the supervisor is shutting down").hint("try again")
}

impl Processes {
    /// Ends what a failed launch made and waits until it is gone.
    pub(crate) async fn collapse(self, shared: &Shared) {
        for handle in [self.qemu, self.runner].into_iter().flatten() {
            end(&handle, shared).await;
        }
        for helper in self.helpers {
            virtiofsd::end(&helper, Duration::ZERO, shared).await;
        }
    }
}

/// Ends one process for good and collects it.
pub(crate) async fn end(handle: &ProcessHandle, shared: &Shared) {
    if let Err(error) = handle.signal(maqet_process::signal::Signal::Kill) {
        tracing::error!(pid = handle.pid(), %error, "cannot end a process of a failed launch");
        return;
    }
    if let Err(error) = handle.exited().await {
        tracing::error!(pid = handle.pid(), %error, "cannot wait for a process of a failed launch");
    }
    collect(handle, shared);
}

/// Takes the sockets of a runner and a QEMU that are gone out of their directory. The note of the end stays.
pub(crate) fn sweep(directory: &Path) {
    // A launch that failed early has no directory yet.
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let is_socket = entry.file_type().is_ok_and(|kind| kind.is_socket());
        if is_socket && let Err(error) = fs::remove_file(entry.path()) {
            tracing::warn!(path = %entry.path().display(), %error, "a socket nobody listens on stays");
        }
    }
}

/// Collects an ended child, so that no zombie stays.
pub(crate) fn collect(handle: &ProcessHandle, shared: &Shared) {
    let status = handle.exit_status();
    tracing::debug!(pid = handle.pid(), ?status, "collected");
    shared.reaper.collected(handle.pid());
}

/// A runner that answers.
#[derive(Debug)]
pub(crate) struct ReadyRunner {
    /// The way to it.
    pub(crate) link: Rc<RunnerLink>,
    /// It.
    pub(crate) handle: ProcessHandle,
    /// The connection whose end is the end of an unreleased launch.
    pub(crate) owner: Client,
    shared: Rc<Shared>,
}

impl ReadyRunner {
    /// Sockets, disks, gate; then checks that the gate is who the runner says.
    async fn prepare(
        mut self,
        plan: &Plan,
        preflight: Preflight,
        made: &mut Processes,
    ) -> Result<PreparedQemu, Refusal> {
        let prepare = Prepare {
            roots: plan.shared.places.writable(&plan.shared.settings.storage.roots),
            own: plan.shared.places.own(),
            spec: preflight.spec,
            files: preflight.files,
            binary: preflight.binary,
            virtiofsd: preflight.virtiofsd,
            launch_id: plan.launch_id.clone(),
            generation: plan.generation,
            log_dir: self.shared.places.vm_data(&plan.id),
            log_bytes_max: self.shared.settings.logs.bytes_max,
        };
        let Prepared {
            qemu: identity,
            ports,
            files,
            helpers,
        } = call(&mut self.owner, &prepare, PREPARE_DEADLINE).await?;
        let qemu = match identity.verify() {
            Liveness::Alive(handle) => handle,
            Liveness::Dead => return Err(not_itself("it is gone already")),
            Liveness::Unknown(why) => return Err(not_itself(&why)),
        };
        made.qemu = qemu.try_clone().ok();
        for helper in &helpers {
            match helper.identity.verify() {
                Liveness::Alive(handle) => made.helpers.push(handle),
                Liveness::Dead => return Err(not_itself("a helper of it is gone already")),
                Liveness::Unknown(why) => return Err(not_itself(&why)),
            }
        }
        Ok(PreparedQemu {
            ready: self,
            qemu,
            identity,
            ports,
            files,
            helpers,
            news: preflight.news,
        })
    }
}

fn not_itself(why: &str) -> Refusal {
    Refusal::new(
        RefusalCode::StartFailed,
        "QEMU's gate is not the process the runner named",
    )
    .cause(why)
}

/// A gate that becomes QEMU when released.
#[derive(Debug)]
pub(crate) struct PreparedQemu {
    ready: ReadyRunner,
    qemu: ProcessHandle,
    /// Who it is, before and after.
    pub(crate) identity: ProcessIdentity,
    /// Host ports held for it.
    pub(crate) ports: Vec<PortStatus>,
    /// Files it gets for its disks.
    pub(crate) files: Vec<OpenedFile>,
    /// Its helpers' gates.
    pub(crate) helpers: Vec<Helper>,
    news: News,
}

impl PreparedQemu {
    /// Its identity is durable: QEMU is executed and the guest let run.
    async fn release(self, watch: ReplyStream<Watch>) -> Result<Launched, Refusal> {
        let ReadyRunner {
            link,
            handle,
            mut owner,
            ..
        } = self.ready;
        let running = call(&mut owner, &Release {}, RELEASE_DEADLINE).await?;
        link.keep(owner);
        Ok(Launched {
            link,
            runner: handle,
            qemu: self.qemu,
            running,
            watch,
            news: self.news,
        })
    }
}

/// One call on one connection.
pub(crate) async fn call<M: Method>(
    client: &mut Client,
    method: &M,
    deadline: Duration,
) -> Result<M::Reply, Refusal> {
    client
        .call(method, Some(deadline))
        .await
        .map_err(|error| match error {
            CallError::Refused(refusal) => refusal,
            CallError::Protocol(error) => {
                Refusal::new(RefusalCode::StartFailed, "the runner went away during the start")
                    .cause(chain(&error))
            }
        })
}
