//! Having the store made anew: the supervisor is ended, a run of its program does the work, and a new supervisor settles
//! the result with the living processes. VMs go on through all of it.

use std::ffi::OsString;
use std::path::PathBuf;

use maqet_protocol::control::{List, VmSummary};
use maqet_protocol::rebuild::{Origin, RebuildReport, RestoredVm};
use serde::Serialize;

use crate::backoff::Backoff;
use crate::commands::supervisor;
use crate::connect::autostart::{self, Remade};
use crate::connect::{ATTEMPTS_MAX, PAUSES};
use crate::error::CliError;
use crate::progress;
use crate::render::table;
use crate::session::Session;

/// What the new store is made from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// The VMs' own directories alone.
    Directories,
    /// This copy of a store, with the directories merged over it. Absolute.
    Copy(PathBuf),
}

/// The answer.
#[derive(Debug, Serialize)]
struct Answer {
    /// What was found.
    #[serde(flatten)]
    report: RebuildReport,
    /// How the VMs are doing now; `None` when no supervisor was to be started.
    vms: Option<Vec<VmSummary>>,
}

/// Makes the store anew and shows what came of it.
///
/// # Errors
/// [`CliError::Remake`], [`CliError::SecondSupervisor`] for one that cannot be reached to be ended, and those of starting
/// a supervisor.
pub(crate) async fn run(session: &Session<'_>, source: &Source) -> Result<(), CliError> {
    let report = progress::during(session.output, "making the store anew", remake(session, source)).await?;
    let vms = if session.settings.autostart {
        Some(session.ask(&List { status: None }).await?.vms)
    } else {
        None
    };
    let answer = Answer { report, vms };
    remark(session, &answer.report)?;
    session
        .output
        .answer(&answer, || block(&answer), || names(&answer))
}

/// Somebody may start another supervisor at any moment: then that one is ended, too.
async fn remake(session: &Session<'_>, source: &Source) -> Result<RebuildReport, CliError> {
    let mut backoff = Backoff::new(PAUSES.0, PAUSES.1);
    let mut said = Vec::new();
    for _ in 0..ATTEMPTS_MAX {
        supervisor::end(session, true).await?;
        match autostart::remake(session.settings, session.output, words(source)).await? {
            Remade::Done(report) => return Ok(*report),
            Remade::Held(words) => said = words,
        }
        backoff.wait().await;
    }
    Err(CliError::SecondSupervisor {
        socket: session.settings.socket(),
        causes: said,
    })
}

fn words(source: &Source) -> Vec<OsString> {
    match source {
        Source::Directories => vec!["--rebuild".into()],
        Source::Copy(file) => vec!["--restore".into(), file.clone().into_os_string()],
    }
}

/// What needs a person's eye.
fn remark(session: &Session<'_>, report: &RebuildReport) -> Result<(), CliError> {
    for vm in &report.unreadable {
        let path = vm.path.display();
        session
            .output
            .say(&format!("not restored: `{path}`: {}", vm.reason))?;
    }
    for vm in &report.left_out {
        let told = format!(
            "not restored: `{}` ({}): it has no directory any more",
            vm.name, vm.id
        );
        session.output.say(&told)?;
    }
    for stray in &report.strays {
        let (pid, what, vm) = (stray.pid, &stray.what, &stray.vm);
        session.output.say(&format!(
            "left alone: process {pid}, a {what} of the unknown VM {vm}"
        ))?;
    }
    Ok(())
}

fn block(answer: &Answer) -> String {
    let report = &answer.report;
    let path = |path: &Option<PathBuf>, without: &str| {
        path.as_ref()
            .map_or_else(|| without.to_owned(), |path| path.display().to_string())
    };
    let restored = report.restored.iter();
    let restored = restored.map(|vm| line(vm, answer.vms.as_deref()));
    let restored: Vec<_> = std::iter::once(report.restored.len().to_string())
        .chain(restored)
        .collect();
    table::block(&[
        ("made from", path(&report.source, "the VMs' directories")),
        ("reason", report.reason.clone()),
        ("old store", path(&report.set_aside, "there was none")),
        ("restored", restored.join("\n")),
    ])
}

fn line(vm: &RestoredVm, now: Option<&[VmSummary]>) -> String {
    let origin = match vm.origin {
        Origin::Directory => "from its directory",
        Origin::Backup => "from the copy",
    };
    let status = now
        .and_then(|now| now.iter().find(|known| known.id == vm.id))
        .map_or_else(String::new, |known| format!(", {}", known.status.as_str()));
    let renamed = vm
        .renamed_from
        .as_ref()
        .map_or_else(String::new, |name| format!(", was `{name}`"));
    format!("{} ({origin}{status}{renamed})", vm.name)
}

fn names(answer: &Answer) -> String {
    let names: Vec<&str> = answer.report.restored.iter().map(|vm| vm.name.as_str()).collect();
    names.join("\n")
}
