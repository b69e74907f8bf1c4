//! What a stored VM really is: the record against the kernel.
//!
//! [`Recorded`] → [`Observed`] → [`Settled`]. No step can be skipped, and nothing is answered before every stored VM is
//! settled. Nothing is signalled here but processes of a start that was never acknowledged.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use maqet_process::identity::{FileId, Liveness, ProcessIdentity};
use maqet_process::pidfd::ProcessHandle;
use maqet_protocol::endpoint::client::ReplyStream;
use maqet_protocol::refusal::RefusalCode;
use maqet_protocol::runner::{Query, RunnerState, Running, Watch};
use maqet_state::clock;
use maqet_state::lifecycle::{Cause, Fact, LastExit};
use maqet_state::record::{Intent, Launch, VmRecord};
use maqet_state::secret::Secret;
use rand::RngExt;

use crate::launch::{end, sweep};
use crate::link::RunnerLink;
use crate::shared::Shared;
use crate::virtiofsd;

/// A living runner answers from memory, within a few milliseconds, a hundred of them within a tenth of a second. The
/// first answer of a supervisor waits so long for one that is frozen.
const QUERY_DEADLINE: Duration = Duration::from_millis(700);

/// A VM as the store has it.
#[derive(Debug)]
pub(crate) struct Recorded {
    /// Its record.
    pub(crate) record: VmRecord,
    /// Its secret.
    pub(crate) secret: Arc<Secret>,
}

/// What the kernel says of the processes on record.
#[derive(Debug)]
pub(crate) struct Observed {
    recorded: Recorded,
    launch: Launch,
    runner: Liveness,
    /// `None` when no gate was recorded.
    qemu: Option<Liveness>,
}

/// What a VM is.
#[derive(Debug)]
pub(crate) enum Settled {
    /// Nothing of it runs, or nobody can tell (then its record still says `running`, and nothing is touched).
    Resting(Box<VmRecord>),
    /// It runs, and its runner answers.
    Attached {
        record: Box<VmRecord>,
        running: Box<Running>,
        link: Rc<RunnerLink>,
        runner: ProcessHandle,
        qemu: ProcessHandle,
        watch: Box<ReplyStream<Watch>>,
    },
    /// It runs; its runner lives and does not answer.
    Frozen {
        record: Box<VmRecord>,
        link: Rc<RunnerLink>,
        runner: ProcessHandle,
        qemu: ProcessHandle,
    },
    /// It runs; its runner is gone.
    Orphaned {
        record: Box<VmRecord>,
        link: Rc<RunnerLink>,
        qemu: ProcessHandle,
    },
}

impl Settled {
    /// The record, brought up to date.
    pub(crate) fn record(&self) -> &VmRecord {
        match self {
            Self::Resting(record)
            | Self::Attached { record, .. }
            | Self::Frozen { record, .. }
            | Self::Orphaned { record, .. } => record,
        }
    }

    /// Numbers of the processes it holds; whoever owns it collects them.
    pub(crate) fn pids(&self) -> Vec<i32> {
        match self {
            Self::Resting(_) => Vec::new(),
            Self::Attached { runner, qemu, .. } | Self::Frozen { runner, qemu, .. } => {
                vec![runner.pid(), qemu.pid()]
            }
            Self::Orphaned { qemu, .. } => vec![qemu.pid()],
        }
    }
}

impl Recorded {
    /// Settles the VM. Ends that are found are applied to the record, which the caller makes durable.
    pub(crate) async fn settle(mut self, shared: &Rc<Shared>) -> Settled {
        self.record.upkeep = std::mem::take(&mut self.record.upkeep).in_boot(&shared.boot_id);
        match self.observe() {
            Ok(observed) => {
                let helpers = observed.launch.helpers.clone();
                let settled = Box::pin(observed.settle(shared)).await;
                if settled.record().state.launch().is_none() {
                    virtiofsd::see_off(&helpers, shared).await;
                }
                settled
            }
            Err(recorded) => Settled::Resting(Box::new(recorded.record)),
        }
    }

    /// Asks the kernel. A VM that is not expected alive has nothing to observe.
    fn observe(self) -> Result<Box<Observed>, Box<Self>> {
        let Some(launch) = self.record.state.launch().cloned() else {
            return Err(Box::new(self));
        };
        let runner = look_for(&launch.runner);
        let qemu = launch.qemu.as_ref().map(look_for);
        Ok(Box::new(Observed {
            recorded: self,
            launch,
            runner,
            qemu,
        }))
    }
}

/// The kernel's word on a recorded process, held against what that process shows: whoever can edit the store can make
/// its records name any process.
pub(crate) fn look_for(identity: &ProcessIdentity) -> Liveness {
    let liveness = identity.verify();
    let belied = matches!(&liveness, Liveness::Alive(handle) if identity.is_belied_by(handle));
    if belied {
        let pid = identity.pid;
        return Liveness::Unknown(format!(
            "process {pid} is on record and shows nothing of that launch"
        ));
    }
    liveness
}

impl Observed {
    async fn settle(self, shared: &Rc<Shared>) -> Settled {
        let Self {
            recorded,
            launch,
            runner,
            qemu,
        } = self;
        match (qemu, runner) {
            (Some(Liveness::Unknown(why)), _) | (None, Liveness::Unknown(why)) => {
                tracing::warn!(
                    vm = recorded.record.name(),
                    why,
                    "cannot tell whether this VM runs; leaving it alone"
                );
                Settled::Resting(Box::new(recorded.record))
            }
            (None, runner) => {
                end_all([alive(runner)], shared).await;
                recorded.ended(interrupted(), shared)
            }
            (Some(Liveness::Dead), runner) => {
                if let Liveness::Alive(runner) = &runner {
                    last_words(runner).await;
                }
                let exit = end_of(&recorded.record, &launch, shared);
                end_all([alive(runner)], shared).await;
                recorded.ended(exit, shared)
            }
            (Some(Liveness::Alive(qemu)), Liveness::Alive(runner)) => {
                recorded.with_runner(&launch, runner, qemu, shared).await
            }
            (Some(Liveness::Alive(qemu)), Liveness::Dead | Liveness::Unknown(_)) => {
                recorded.without_runner(&launch, qemu, shared).await
            }
        }
    }
}

impl Recorded {
    /// QEMU (or its gate) and runner live.
    async fn with_runner(
        self,
        launch: &Launch,
        runner: ProcessHandle,
        qemu: ProcessHandle,
        shared: &Rc<Shared>,
    ) -> Settled {
        let Some(link) = self.link(shared) else {
            return Settled::Resting(Box::new(self.record));
        };
        match ask(&link).await {
            Ok((
                RunnerState {
                    running: Some(running),
                    exit: None,
                    ..
                },
                watch,
            )) => {
                shared.reaper.await_by_owner(runner.pid(), &self.record.id);
                let record = Box::new(self.record);
                Settled::Attached {
                    record,
                    running: Box::new(running),
                    link,
                    runner,
                    qemu,
                    watch: Box::new(watch),
                }
            }
            Ok((RunnerState { exit: Some(exit), .. }, _)) => {
                end_all([Some(qemu), Some(runner)], shared).await;
                self.ended(exit, shared)
            }
            // Whoever wanted the start may have been told of it, a moment before that was durable.
            Err(Unanswered::Silent) if has_become_qemu(launch, &qemu, shared) => Settled::Frozen {
                record: Box::new(self.record),
                link,
                runner,
                qemu,
            },
            Ok(_) | Err(Unanswered::Stranger) if launch.is_confirmed() => {
                // A runner that was itself still taking over, for a supervisor that is gone; or one that was told
                // another secret, because the store was made anew since. A new one knows ours.
                end_all([Some(runner)], shared).await;
                self.without_runner(launch, qemu, shared).await
            }
            Ok(_) | Err(_) => {
                // The start was never acknowledged, and whoever wanted it is gone.
                end_all([Some(qemu), Some(runner)], shared).await;
                self.ended(interrupted(), shared)
            }
        }
    }

    /// QEMU (or its gate) lives, its runner does not.
    async fn without_runner(self, launch: &Launch, qemu: ProcessHandle, shared: &Rc<Shared>) -> Settled {
        if !has_become_qemu(launch, &qemu, shared) {
            // A gate whose runner is gone ends by itself, never having become QEMU.
            end_all([Some(qemu)], shared).await;
            return self.ended(interrupted(), shared);
        }
        match self.link(shared) {
            Some(link) => Settled::Orphaned {
                record: Box::new(self.record),
                link,
                qemu,
            },
            None => Settled::Resting(Box::new(self.record)),
        }
    }

    fn link(&self, shared: &Shared) -> Option<Rc<RunnerLink>> {
        let id = &self.record.id;
        match maqet_process::directory::open_private(&shared.places.vm_runtime(id)) {
            Ok(_ours) => Some(Rc::new(RunnerLink::new(
                id.clone(),
                shared.places.vm_runtime(id),
                Arc::clone(&self.secret),
            ))),
            Err(error) => {
                tracing::error!(vm = self.record.name(), %error, "the VM's runtime directory cannot be used");
                None
            }
        }
    }

    /// Everything of the launch is gone: what lies about goes too.
    fn ended(self, exit: LastExit, shared: &Shared) -> Settled {
        sweep(&shared.places.vm_runtime(&self.record.id));
        let generation = self.record.generation;
        let ended = Fact::Ended { generation, exit };
        match self.record.end(ended, clock::now(), rand::rng().random()) {
            Ok(record) => Settled::Resting(Box::new(record)),
            Err(error) => {
                tracing::error!(vm = self.record.name(), %error, "an end does not fit the record");
                Settled::Resting(Box::new(self.record))
            }
        }
    }
}

/// Whether a gate was released. One that was confirmed is QEMU, whatever /proc lets us see of it.
fn has_become_qemu(launch: &Launch, qemu: &ProcessHandle, shared: &Shared) -> bool {
    let shows = FileId::of_path(format!("/proc/{}/exe", qemu.pid()).as_ref()).ok();
    let gate = FileId::of_path(&shared.runner_program).ok();
    launch.is_confirmed() || (shows.is_some() && shows != gate)
}

/// What keeps a runner from being asked.
#[derive(Debug)]
enum Unanswered {
    /// It does not answer.
    Silent,
    /// It does not know our secret.
    Stranger,
}

/// The stream first, so that nothing is missed between the answer and the stream.
async fn ask(link: &RunnerLink) -> Result<(RunnerState, ReplyStream<Watch>), Unanswered> {
    let asking = async {
        let watch = link.watch().await?;
        let state = link.call(&Query {}, QUERY_DEADLINE).await?;
        Ok::<_, maqet_protocol::refusal::Refusal>((state, watch))
    };
    match tokio::time::timeout(QUERY_DEADLINE, asking).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(refusal)) if refusal.code == RefusalCode::AuthenticationFailed => Err(Unanswered::Stranger),
        Ok(Err(refusal)) => {
            tracing::debug!(%refusal, causes = ?refusal.causes, "a runner does not answer");
            Err(Unanswered::Silent)
        }
        Err(_elapsed) => Err(Unanswered::Silent),
    }
}

fn alive(liveness: Liveness) -> Option<ProcessHandle> {
    match liveness {
        Liveness::Alive(handle) => Some(handle),
        Liveness::Dead | Liveness::Unknown(_) => None,
    }
}

/// A runner whose QEMU is gone notes how, and exits; one that does not within the time is frozen.
async fn last_words(runner: &ProcessHandle) {
    if tokio::time::timeout(QUERY_DEADLINE, runner.exited())
        .await
        .is_err()
    {
        tracing::warn!(pid = runner.pid(), "a runner does not say how its QEMU ended");
    }
}

async fn end_all<const N: usize>(handles: [Option<ProcessHandle>; N], shared: &Shared) {
    for handle in handles.into_iter().flatten() {
        end(&handle, shared).await;
    }
}

fn interrupted() -> LastExit {
    LastExit {
        cause: Cause::StartFailed,
        at: clock::now(),
        exit_code: None,
        signal: None,
        detail: Some(
            "the supervisor, or its part that looks after this VM, ended during the start".to_owned(),
        ),
    }
}

/// How a QEMU ended that nobody watched: another boot, the runner's note, the recorded intent, or honesty.
fn end_of(record: &VmRecord, launch: &Launch, shared: &Shared) -> LastExit {
    let noted = crate::exit_note::read(&shared.places.vm_runtime(&record.id), &launch.launch_id);
    if let Some(exit) = noted {
        return exit;
    }
    let rebooted = maqet_process::identity::boot_id().is_ok_and(|boot| boot != launch.runner.boot_id);
    let (cause, detail) = match (rebooted, launch.intent) {
        (true, Intent::Run | Intent::Stop | Intent::StopForced | Intent::RunnerLost) => {
            (Cause::HostRebooted, "the host has rebooted since")
        }
        (_, Intent::HostShutdown) => (Cause::HostShutdown, "the host was shutting down"),
        (false, Intent::Stop) => (
            Cause::Stop,
            "it was being stopped when supervisor and runner ended",
        ),
        (false, Intent::StopForced) => (
            Cause::StopForced,
            "it was being stopped by force when supervisor and runner ended",
        ),
        (false, Intent::RunnerLost) => (
            Cause::RunnerLost,
            "it was being stopped because its runner was lost",
        ),
        // Nobody was told that it runs, and what was not yet released has collapsed.
        (false, Intent::Run) if !launch.is_confirmed() => return interrupted(),
        (false, Intent::Run) => (
            Cause::RunnerLost,
            "runner and QEMU ended while no supervisor was there",
        ),
    };
    LastExit {
        cause,
        at: clock::now(),
        exit_code: None,
        signal: None,
        detail: Some(detail.to_owned()),
    }
}
