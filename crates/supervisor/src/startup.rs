//! From a command line to a supervisor that answers, and from a signal to its end.

use std::collections::BTreeMap;
use std::env;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use actix::{Actor, Addr};
use anyhow::Context as _;
use maqet_process::point::{Point, pass};
use maqet_state::change::Change;
use maqet_state::error::StoreError;
use maqet_state::journal::JournalLimits;
use maqet_state::mirror::Mirror;
use maqet_state::secret::Secret;
use maqet_state::store::Store;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Notify, mpsc};
use tracing_subscriber::EnvFilter;

use crate::args::{Args, Places, default_config};
use crate::events::EventBus;
use crate::instance::Instance;
use crate::ipc::{self, Desk, Listening};
use crate::messages::{Beckon, Shutdown, StartEnabled};
use crate::readiness::Readiness;
use crate::recovery::Recorded;
use crate::salvage::Task;
use crate::settings::Settings;
use crate::shared::Shared;
use crate::store::StateActor;
use crate::supervisor::{SupervisorActor, rebuild};

/// Commits that were queued when the end came get this long.
const LAST_COMMITS_DEADLINE: Duration = Duration::from_secs(5);

/// Takes the data directory, reconciles, serves, ends.
pub(crate) fn run(args: &Args, readiness: &mut Readiness) -> anyhow::Result<()> {
    if readiness.is_awaited() {
        maqet_process::spawn::become_session_leader()?;
    }
    let places = Places::resolve(args)?;
    let runner_program = runner_program()?;
    let config = args.config.clone().or_else(default_config);
    let settings = Settings::load(config.as_deref())?;
    if readiness.is_awaited() {
        // Whoever started us stands in a directory that somebody may want to unmount.
        env::set_current_dir("/")?;
    }
    drop(maqet_process::directory::open_private(&places.data)?);
    let instance = Instance::of_data(&places.data)?;
    drop(maqet_process::directory::open_private(&places.runtime)?);
    let runtime = Instance::of_runtime(&places.runtime)?;
    log_to_stderr();
    crate::panics::log_all();
    maqet_process::spawn::become_subreaper()?;
    maqet_process::spawn::raise_nofile_limit()?;
    let key = crate::control_key::load_or_create(&places.data)?;
    let limits = JournalLimits {
        entries_max: settings.journal.entries_max,
        ..JournalLimits::default()
    };
    if let Some(task) = Task::of(args)? {
        return crate::salvage::perform(&task, &places, limits);
    }
    let opened = crate::salvage::open(&places, limits)?;
    let system = actix_rt::System::new();
    let served = system.block_on(serve(
        Parts {
            places,
            settings,
            held: runtime,
            key,
            store: opened.store,
            read_only: opened.read_only,
            pending: opened.pending,
            runner_program,
        },
        readiness,
    ));
    drop(instance);
    served
}

/// What `serve` is made of.
struct Parts {
    places: Places,
    settings: Settings,
    /// The lock of the runtime directory.
    held: Instance,
    key: Secret,
    store: Store,
    /// Why the store takes no changes, if it does not.
    read_only: Option<StoreError>,
    /// What it should say and does not.
    pending: Vec<Change>,
    runner_program: PathBuf,
}

/// Nobody else makes images in this library: what is unfinished in it is left of makings that were cut off.
fn sweep(shared: &Shared) {
    match shared.library.sweep() {
        Ok(0) => {}
        Ok(count) => tracing::info!(count, "unfinished images were taken away"),
        Err(error) => {
            tracing::warn!(error = crate::link::chain(&error), "unfinished images are left");
        }
    }
}

async fn serve(parts: Parts, readiness: &mut Readiness) -> anyhow::Result<()> {
    let Parts {
        places,
        settings,
        held,
        key,
        store,
        read_only,
        pending,
        runner_program,
    } = parts;
    let recorded = load(&store, &pending)?;
    refresh_directories(&store, &recorded);
    pass(Point::RecoveryBegun);
    let bus = EventBus::default().start();
    let state = StateActor::new(store, bus.clone(), read_only.as_ref(), pending).start();
    let boot_id = maqet_process::identity::boot_id()?;
    let shared = Rc::new(Shared::new(places, settings, state, runner_program, boot_id)?);
    let settling = recorded.into_iter().map(|recorded| rebuild(recorded, &shared));
    let settled = futures_util::future::join_all(settling.collect::<Vec<_>>()).await;
    let records: Vec<_> = settled
        .iter()
        .map(|(settled, _secret)| settled.record())
        .collect();
    crate::ledger::put_in_order(&records, &shared).await;
    pass(Point::RecoverySettled);
    let (gone, lost) = mpsc::unbounded_channel();
    let ended = Rc::new(Notify::new());
    let supervisor = SupervisorActor::new(settled, Rc::clone(&shared), gone, Rc::clone(&ended)).start();
    actix_rt::spawn(SupervisorActor::hear_of_lost(lost, supervisor.clone()));
    actix_rt::spawn(tell_of_signals(supervisor.clone(), Rc::clone(&shared)));
    sweep(&shared);
    let listening = ipc::listen(&shared.places.runtime)?;
    let desk = Desk::new(supervisor.clone(), bus, Rc::clone(&shared));
    readiness.ready();
    actix_rt::spawn(SupervisorActor::tell(Some(supervisor), StartEnabled));
    tracing::info!(data = %shared.places.data.display(), runtime = %shared.places.runtime.display(), "ready");
    let attending = attend(held, listening, &key, &shared, &desk);
    let attended = tokio::select! {
        attended = attending => attended,
        () = ended.notified() => Ok(()),
    };
    shared.starts.close();
    last_commits(&shared).await;
    tracing::info!("ended");
    attended
}

/// Serves for as long as it is polled. A control socket that was deleted is bound again, its directory made anew.
async fn attend(
    mut held: Instance,
    mut listening: Listening,
    key: &Secret,
    shared: &Shared,
    desk: &Desk,
) -> anyhow::Result<()> {
    let runtime = &shared.places.runtime;
    loop {
        tokio::select! {
            () = ipc::serve(&listening, key, Arc::clone(&shared.confined), desk.clone()) => return Ok(()),
            () = listening.lost() => {}
        }
        tracing::warn!(runtime = %runtime.display(), "the control socket was gone; it is bound again");
        drop(listening);
        drop(maqet_process::directory::open_private(runtime)?);
        held = held.renew_runtime(runtime)?;
        listening = ipc::listen(runtime)?;
        SupervisorActor::tell(Some(desk.supervisor.clone()), Beckon).await;
    }
}

/// Whatever was queued becomes durable before the process ends.
async fn last_commits(shared: &Shared) {
    let (done, durable) = tokio::sync::oneshot::channel();
    let barrier = crate::messages::Persist {
        change: Box::default(),
        done,
    };
    let flushed = async {
        if shared.state.send(barrier).await.is_ok() {
            drop(durable.await);
        }
    };
    if tokio::time::timeout(LAST_COMMITS_DEADLINE, flushed)
        .await
        .is_err()
    {
        tracing::error!("the last commits did not end in time");
    }
}

/// Every VM, as the store has it and as it should have it.
fn load(store: &Store, pending: &[Change]) -> anyhow::Result<Vec<Recorded>> {
    let stored = store.vms()?.into_iter();
    let mut records: BTreeMap<_, _> = stored.map(|record| (record.id.clone(), record)).collect();
    let known_better = pending.iter().filter_map(|change| change.upsert.clone());
    records.extend(known_better.map(|record| (record.id.clone(), record)));
    let secrets: BTreeMap<_, _> = pending
        .iter()
        .filter_map(|change| change.secret.clone())
        .collect();
    let mut recorded = Vec::new();
    for record in records.into_values() {
        let secret = match secrets.get(&record.id) {
            Some(secret) => Some(secret.clone()),
            None => store.secret(&record.id)?,
        };
        let secret = secret.with_context(|| format!("VM `{}` has no secret in the store", record.name()))?;
        recorded.push(Recorded {
            record,
            secret: Arc::new(secret),
        });
    }
    Ok(recorded)
}

/// Every VM's directory says what the store says, whatever happened to either while nobody served them.
fn refresh_directories(store: &Store, recorded: &[Recorded]) {
    let records: Vec<_> = recorded.iter().map(|recorded| recorded.record.clone()).collect();
    for (id, error) in Mirror::beside(store).refresh(&records) {
        tracing::warn!(%id, %error, "the VM's own directory is behind the store");
    }
}

/// SIGTERM and SIGINT end the supervisor, SIGCHLD has orphans collected.
async fn tell_of_signals(supervisor: Addr<SupervisorActor>, shared: Rc<Shared>) {
    let streams = (
        signal(SignalKind::terminate()),
        signal(SignalKind::interrupt()),
        signal(SignalKind::child()),
    );
    let (Ok(mut terminate), Ok(mut interrupt), Ok(mut child)) = streams else {
        tracing::error!("signals cannot be received");
        return;
    };
    loop {
        let asked = Shutdown { keep_vms: false };
        tokio::select! {
            _ = terminate.recv() => SupervisorActor::tell(Some(supervisor.clone()), asked).await,
            _ = interrupt.recv() => SupervisorActor::tell(Some(supervisor.clone()), asked).await,
            _ = child.recv() => shared.reaper.sweep(),
        }
    }
}

fn log_to_stderr() {
    let filter = EnvFilter::try_from_env("MAQET_LOG").unwrap_or_else(|_unset| EnvFilter::new("info"));
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        // A log that cannot be written, on a full disk for instance, would be complained of by `eprintln!`, which
        // panics when stderr is that same log.
        .log_internal_errors(false)
        .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()));
    if let Err(error) = subscriber.try_init() {
        tracing::debug!(%error, "logging was set up before");
    }
}

/// `MAQET_RUNNER_BIN`, else beside this program, else on PATH.
fn runner_program() -> anyhow::Result<PathBuf> {
    const NAME: &str = "maqet-runner";
    if let Some(program) = env::var_os("MAQET_RUNNER_BIN") {
        return Ok(std::path::absolute(PathBuf::from(program))?);
    }
    let beside = env::current_exe()?.with_file_name(NAME);
    let on_path = env::var_os("PATH").unwrap_or_default();
    let candidates = std::iter::once(beside).chain(env::split_paths(&on_path).map(|dir| dir.join(NAME)));
    candidates
        .into_iter()
        .find(|path| is_program(path))
        .with_context(|| format!("no `{NAME}` beside this program or on PATH; `MAQET_RUNNER_BIN` names one"))
}

fn is_program(path: &Path) -> bool {
    rustix::fs::access(path, rustix::fs::Access::EXEC_OK).is_ok() && path.is_file()
}
