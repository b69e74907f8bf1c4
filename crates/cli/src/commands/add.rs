//! `maqet add`.

use maqet_protocol::control::{Add, Added, Start, Started};
use maqet_spec::SpecError;
use serde::Serialize;

use super::start;
use crate::args::Format;
use crate::args::vm::AddArgs;
use crate::error::CliError;
use crate::progress;
use crate::session::{OPERATION_DEADLINE, QUESTION_DEADLINE, Session, key};
use crate::specification;

#[derive(Debug, Serialize)]
struct Answer {
    #[serde(flatten)]
    added: Added,
    #[serde(skip_serializing_if = "Option::is_none")]
    started: Option<Started>,
}

/// Stores a VM and prints its id; starts it when asked to.
///
/// # Errors
/// [`CliError::InvalidSpec`], or the refusal. A VM that did not start stays stored.
pub(crate) async fn run(session: &Session<'_>, args: &AddArgs) -> Result<(), CliError> {
    if !args.empty {
        specification::require_files(&args.spec, "maqet add FILE…, or `maqet add --empty --name NAME`")?;
    }
    let (spec, finding) = specification::read(&args.spec, Some(session.settings.disks()))?;
    let method = Add {
        spec,
        key: Some(key()),
    };
    // Missing disk images are made now, and a host may take its time over that.
    let deadline = QUESTION_DEADLINE.saturating_mul(10);
    let added = session.repeat(&method, deadline);
    let added = progress::during(session.output, "adding", added).await;
    let added = added.map_err(|error| weightier(error, finding))?;
    if !args.start {
        return answer(session, added, None);
    }
    if session.output.format() == Format::Table {
        answer(session, added.clone(), None)?;
    }
    let method = Start {
        vm: added.id.to_string(),
        key: Some(key()),
    };
    let starting = session.repeat(&method, OPERATION_DEADLINE);
    let started = progress::during(session.output, &format!("starting {}", added.name), starting).await;
    match (started, session.output.format()) {
        (Ok(started), Format::Table) => session.output.say(&start::line(&started)),
        (Err(error), Format::Table) => Err(error),
        (Ok(started), Format::Json | Format::Yaml | Format::Name) => answer(session, added, Some(started)),
        (Err(error), Format::Json | Format::Yaml | Format::Name) => {
            answer(session, added, None).and(Err(error))
        }
    }
}

/// What the supervisor refuses for a reason of its own, such as a place where nothing may be, weighs more than what this host
/// lacks there. What both have found is told with its line.
fn weightier(error: CliError, finding: Option<SpecError>) -> CliError {
    match (error, finding) {
        (CliError::Refused(refusal), Some(finding)) if !refusal.message.ends_with(finding.message()) => {
            CliError::Refused(refusal)
        }
        (_, Some(finding)) => CliError::InvalidSpec(finding),
        (error, None) => error,
    }
}

fn answer(session: &Session<'_>, added: Added, started: Option<Started>) -> Result<(), CliError> {
    let id = added.id.to_string();
    let name = added.name.clone();
    session.output.answer(&Answer { added, started }, || id, || name)
}
