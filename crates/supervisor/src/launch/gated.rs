//! A runner between its spawn and its first answer.

use std::fs::{self, File};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use maqet_process::identity::{FileId, ProcessIdentity, Role};
use maqet_process::pidfd::ProcessHandle;
use maqet_process::private::{self, Access};
use maqet_process::spawn::Spawn;
use maqet_protocol::refusal::{Refusal, RefusalCode};
use maqet_protocol::runner::ExitNote;
use maqet_state::id::VmId;
use maqet_state::secret::Secret;

use super::{Plan, Processes, ReadyRunner};
use crate::link::{RunnerLink, chain};
use crate::shared::Shared;

/// A runner binds its socket within milliseconds of GO; this bounds a host that is thrashing.
const LISTENING_DEADLINE: Duration = Duration::from_secs(20);

/// What a runner is spawned with, to launch or to adopt.
#[derive(Debug)]
pub(crate) struct RunnerOrder<'a> {
    /// The VM.
    pub(crate) id: &'a VmId,
    /// Its name, shown on the runner's command line.
    pub(crate) name: &'a str,
    /// Launch id on the command line.
    pub(crate) launch_id: &'a str,
    /// Start counter.
    pub(crate) generation: u64,
    /// Surroundings.
    pub(crate) shared: &'a Rc<Shared>,
    /// QEMU lives; its sockets stay.
    pub(crate) takes_over: bool,
}

impl<'a> From<&'a Plan> for RunnerOrder<'a> {
    fn from(plan: &'a Plan) -> Self {
        Self {
            id: &plan.id,
            name: plan.spec.name.as_str(),
            launch_id: &plan.launch_id,
            generation: plan.generation,
            shared: &plan.shared,
            takes_over: false,
        }
    }
}

/// A runner that waits for GO and does nothing before.
#[derive(Debug)]
pub(crate) struct GatedRunner {
    id: VmId,
    shared: Rc<Shared>,
    handle: ProcessHandle,
    /// Who it is.
    pub(crate) identity: ProcessIdentity,
    channel: UnixStream,
}

impl GatedRunner {
    /// Spawns the runner with one end of a socket pair as descriptor 3.
    pub(crate) fn spawn(order: &RunnerOrder<'_>, made: &mut Processes) -> Result<Self, Refusal> {
        let failed = |what: &str, error: &dyn std::error::Error| {
            Refusal::new(
                RefusalCode::StartFailed,
                format!("{what} of `{}` cannot be made", order.name),
            )
            .vm(order.name)
            .cause(chain(error))
        };
        let places = &order.shared.places;
        let runtime = places.vm_runtime(order.id);
        if !order.takes_over {
            clear_runtime(&runtime).map_err(|error| failed("the runtime directory", &error))?;
        }
        let log = open_log(&places.vm_data(order.id)).map_err(|error| failed("the runner's log", &error))?;
        let (channel, inherited) =
            UnixStream::pair().map_err(|error| failed("the runner's channel", &error))?;
        let spawn = runner_command(order, &runtime, log, inherited.into())
            .map_err(|error| failed("the runner's log", &error))?;
        let child = (order.shared.spawn_runner)(spawn).map_err(|error| failed("the runner", &error))?;
        let reaper = &order.shared.reaper;
        reaper.await_by_owner(child.handle.pid(), order.id);
        let executables = FileId::of_path(&order.shared.runner_program)
            .into_iter()
            .collect();
        let identity = ProcessIdentity::take(
            &child.handle,
            Role::Runner,
            order.launch_id,
            order.generation,
            executables,
        );
        made.runner = child.handle.try_clone().ok();
        let identity = identity.map_err(|error| failed("the runner's identity", &error))?;
        let shared = Rc::clone(order.shared);
        Ok(Self {
            id: order.id.clone(),
            shared,
            handle: child.handle,
            identity,
            channel,
        })
    }

    /// Its identity is durable: hands over the secret and waits until it listens.
    pub(crate) async fn go(self, secret: &Arc<Secret>) -> Result<ReadyRunner, Refusal> {
        let failed = |error: &dyn std::error::Error| {
            Refusal::new(RefusalCode::StartFailed, "the runner did not come up").cause(chain(error))
        };
        hand_over(self.channel, secret)
            .await
            .map_err(|error| failed(&error))?;
        let runtime = self.shared.places.vm_runtime(&self.id);
        let link = Rc::new(RunnerLink::new(self.id, runtime, Arc::clone(secret)));
        let owner = link.connect().await?;
        Ok(ReadyRunner {
            link,
            handle: self.handle,
            owner,
            shared: self.shared,
        })
    }
}

/// GO is one version byte and the secret; the runner closes its end once it listens.
async fn hand_over(channel: UnixStream, secret: &Secret) -> std::io::Result<()> {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    channel.set_nonblocking(true)?;
    let mut channel = tokio::net::UnixStream::from_std(channel)?;
    let handing = async {
        channel.write_all(&[1]).await?;
        channel.write_all(secret.as_bytes()).await?;
        channel.read(&mut [0_u8]).await
    };
    match tokio::time::timeout(LISTENING_DEADLINE, handing).await {
        Ok(result) => result.map(|_end| ()),
        Err(elapsed) => Err(elapsed.into()),
    }
}

fn runner_command(
    order: &RunnerOrder<'_>,
    runtime: &Path,
    log: File,
    channel: OwnedFd,
) -> std::io::Result<Spawn> {
    let mut spawn = Spawn::new(&order.shared.runner_program);
    spawn.args = [
        "--vm",
        order.id.as_str(),
        "--name",
        order.name,
        "--launch-id",
        order.launch_id,
        "--runtime-dir",
    ]
    .into_iter()
    .map(Into::into)
    .collect();
    spawn.args.push(runtime.as_os_str().to_owned());
    spawn.stdout = Some(log.try_clone()?.into());
    spawn.stderr = Some(log.into());
    spawn.fds = vec![(channel, 3)];
    Ok(spawn)
}

/// Sockets of an earlier launch would be taken for this one's. The note of its end stays: it names its launch, and may
/// know the end of one that a full disk keeps out of the store.
fn clear_runtime(runtime: &Path) -> std::io::Result<()> {
    let directory = maqet_process::directory::open_private(runtime).map_err(std::io::Error::other)?;
    drop(directory);
    for entry in fs::read_dir(runtime)? {
        let entry = entry?;
        if entry.file_name() != ExitNote::FILE {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

fn open_log(vm_data: &Path) -> std::io::Result<File> {
    let directory = maqet_process::directory::open_private(vm_data).map_err(std::io::Error::other)?;
    drop(directory);
    private::open(&vm_data.join("runner.log"), Access::Append)
}
