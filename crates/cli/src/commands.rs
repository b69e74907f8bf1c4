//! The verbs: one file each.

pub(crate) mod add;
pub(crate) mod audit;
pub(crate) mod cleanup;
pub(crate) mod completion;
pub(crate) mod config;
pub(crate) mod disable;
pub(crate) mod doctor;
pub(crate) mod each;
pub(crate) mod enable;
pub(crate) mod events;
pub(crate) mod image;
pub(crate) mod info;
pub(crate) mod inspect;
pub(crate) mod logs;
pub(crate) mod ls;
pub(crate) mod man;
pub(crate) mod pause;
pub(crate) mod qmp;
pub(crate) mod reset;
pub(crate) mod restart;
pub(crate) mod resume;
pub(crate) mod rm;
pub(crate) mod snapshot;
pub(crate) mod start;
pub(crate) mod state;
pub(crate) mod status;
pub(crate) mod stop;
pub(crate) mod storage;
pub(crate) mod supervisor;
pub(crate) mod wait;
pub(crate) mod why;

use std::pin::Pin;

use crate::args::image::ImageVerb;
use crate::args::state::{AuditVerb, StateVerb};
use crate::args::storage::StorageVerb;
use crate::args::verb::{ConfigVerb, QmpVerb, SupervisorVerb};
use crate::args::{Global, Verb};
use crate::error::CliError;
use crate::output::Output;
use crate::session::Session;
use crate::settings::Settings;

/// A verb at work.
pub(crate) type Work<'a> = Pin<Box<dyn Future<Output = Result<(), CliError>> + 'a>>;

/// Carries out the verbs that need nobody else; hands the others back.
///
/// # Errors
/// Those of the verb.
pub(crate) fn run_alone(verb: Verb, global: &Global, output: &Output) -> Result<Option<Verb>, CliError> {
    // Without a home directory there is no place of maqet's own, and a file may still be checked.
    let disks = || Settings::resolve(global).ok().map(|settings| settings.disks());
    match verb {
        Verb::Completion(args) => completion::run(&args, output).map(|()| None),
        Verb::Man(args) => man::run(&args, output).map(|()| None),
        Verb::Config(ConfigVerb::Check(args)) => config::check(&args, disks(), output).map(|()| None),
        Verb::Config(ConfigVerb::Render(args)) => config::render(&args, disks(), output).map(|()| None),
        Verb::Add(_)
        | Verb::Start(_)
        | Verb::Stop(_)
        | Verb::Kill(_)
        | Verb::Restart(_)
        | Verb::Reset(_)
        | Verb::Pause(_)
        | Verb::Resume(_)
        | Verb::Rm(_)
        | Verb::Enable(_)
        | Verb::Disable(_)
        | Verb::Ls(_)
        | Verb::Status(_)
        | Verb::Info(_)
        | Verb::Inspect(_)
        | Verb::Why(_)
        | Verb::Wait(_)
        | Verb::Logs(_)
        | Verb::Events(_)
        | Verb::Qmp(_)
        | Verb::Snapshot(_)
        | Verb::Cleanup(_)
        | Verb::Doctor(_)
        | Verb::Storage(_)
        | Verb::StorageInfo(_)
        | Verb::Image(_)
        | Verb::State(_)
        | Verb::Audit(_)
        | Verb::Supervisor(_) => Ok(Some(verb)),
    }
}

/// Carries out a verb that asks the supervisor.
///
/// # Errors
/// Those of the verb.
pub(crate) fn run<'a>(verb: &'a Verb, session: &'a Session<'a>) -> Work<'a> {
    match verb {
        Verb::Add(args) => Box::pin(add::run(session, args)),
        Verb::Start(args) => Box::pin(start::run(session, args)),
        Verb::Stop(args) => Box::pin(stop::run(session, args)),
        Verb::Kill(args) => Box::pin(stop::kill(session, args)),
        Verb::Restart(args) => Box::pin(restart::run(session, args)),
        Verb::Reset(args) => Box::pin(reset::run(session, args)),
        Verb::Pause(args) | Verb::Qmp(QmpVerb::Pause(args)) => Box::pin(pause::run(session, args)),
        Verb::Resume(args) | Verb::Qmp(QmpVerb::Resume(args)) => Box::pin(resume::run(session, args)),
        Verb::Rm(args) => Box::pin(rm::run(session, args)),
        Verb::Enable(args) => Box::pin(enable::run(session, args)),
        Verb::Disable(args) => Box::pin(disable::run(session, args)),
        Verb::Ls(args) => Box::pin(ls::run(session, args)),
        Verb::Status(args) => Box::pin(status::run(session, args)),
        Verb::Info(args) => Box::pin(info::run(session, args)),
        Verb::Inspect(args) => Box::pin(inspect::run(session, args)),
        Verb::Why(args) => Box::pin(why::run(session, args)),
        Verb::Wait(args) => Box::pin(wait::run(session, args)),
        Verb::Logs(args) => Box::pin(logs::run(session, args)),
        Verb::Events(args) => Box::pin(events::run(session, args)),
        Verb::Qmp(QmpVerb::Run(args)) => Box::pin(qmp::run(session, args)),
        Verb::Snapshot(args) => Box::pin(snapshot::run(session, args)),
        Verb::Cleanup(args) => Box::pin(cleanup::run(session, args)),
        Verb::Doctor(args) => Box::pin(doctor::run(session, args)),
        Verb::Storage(StorageVerb::Info(args)) | Verb::StorageInfo(args) => {
            Box::pin(storage::info(session, args))
        }
        Verb::Storage(StorageVerb::Verify(args)) => Box::pin(storage::verify(session, args)),
        Verb::Storage(StorageVerb::Orphaned) => Box::pin(storage::orphaned(session)),
        Verb::Storage(StorageVerb::Resize(args)) => Box::pin(storage::resize(session, args)),
        Verb::Storage(StorageVerb::Attach(args)) => Box::pin(storage::attach(session, args)),
        Verb::Storage(StorageVerb::Clone(args)) => Box::pin(storage::clone(session, args)),
        Verb::Storage(StorageVerb::Accept(args)) => Box::pin(storage::accept(session, args)),
        Verb::Image(ImageVerb::Import(args)) => Box::pin(image::import(session, args)),
        Verb::Image(ImageVerb::Ls) => Box::pin(image::ls(session)),
        Verb::Image(ImageVerb::Rm(args)) => Box::pin(image::rm(session, args)),
        Verb::Image(ImageVerb::Verify(args)) => Box::pin(image::verify(session, args)),
        Verb::State(StateVerb::Backup(args)) => Box::pin(state::backup(session, args)),
        Verb::State(StateVerb::Restore(args)) => Box::pin(state::restore(session, args)),
        Verb::State(StateVerb::Dump(args)) => Box::pin(state::dump::run(session, args)),
        Verb::State(StateVerb::Verify(args)) => Box::pin(state::verify::run(session, args)),
        Verb::Audit(AuditVerb::Verify(args)) => Box::pin(audit::verify(session, args)),
        Verb::Supervisor(SupervisorVerb::Status) => Box::pin(supervisor::status(session)),
        Verb::Supervisor(SupervisorVerb::Stop(args)) => Box::pin(supervisor::stop(session, args)),
        Verb::Completion(_) | Verb::Man(_) | Verb::Config(_) => Box::pin(std::future::ready(Ok(()))),
    }
}
