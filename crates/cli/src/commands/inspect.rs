//! `maqet inspect`.

use maqet_protocol::control::{Event, VmStatus};
use maqet_spec::VmSpec;
use serde::Serialize;

use super::{info, status, why};
use crate::args::vm::OneArgs;
use crate::error::CliError;
use crate::journal;
use crate::session::Session;

/// Everything that is known about a VM.
#[derive(Debug, Serialize)]
struct Inspection {
    status: VmStatus,
    spec: VmSpec,
    events: Vec<Event>,
}

/// Shows status, specification and history of a VM.
///
/// # Errors
/// The refusal.
pub(crate) async fn run(session: &Session<'_>, args: &OneArgs) -> Result<(), CliError> {
    let status = status::describe(session, &args.vm).await?;
    let vm = status.summary.id.as_str();
    let spec = info::ask(session, vm).await?.spec;
    let events = journal::history(session, vm).await?;
    let inspection = Inspection { status, spec, events };
    session.output.answer(
        &inspection,
        || text(&inspection),
        || inspection.status.summary.name.clone(),
    )
}

fn text(inspection: &Inspection) -> String {
    let spec = maqet_spec::to_yaml(&inspection.spec);
    let events: Vec<String> = inspection.events.iter().map(why::event_line).collect();
    [
        status::block(&inspection.status),
        format!("\nspecification:\n{}", indent(&spec)),
        format!("\nhistory:\n{}", indent(&events.join("\n"))),
    ]
    .join("\n")
}

fn indent(text: &str) -> String {
    text.lines()
        .map(|line| format!("  {line}"))
        .collect::<Vec<_>>()
        .join("\n")
}
