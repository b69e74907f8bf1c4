//! `maqet events`.

use maqet_protocol::control::{Events, SupervisorInfo};

use crate::args::vm::EventsArgs;
use crate::error::CliError;
use crate::journal::Journal;
use crate::session::Session;

/// Prints the journal, one JSON object on each line, whatever form was asked for.
///
/// # Errors
/// The refusal, or [`CliError::Lost`] when the supervisor went away for good.
pub(crate) async fn run(session: &Session<'_>, args: &EventsArgs) -> Result<(), CliError> {
    let query = Events {
        since: args.since,
        vm: args.vm.clone(),
        follow: args.follow,
    };
    if let Some(since) = args.since {
        let end = session.ask(&SupervisorInfo {}).await?.cursor;
        if since > end {
            let words = format!("nothing comes after {since}: the journal ends at {end}");
            session.output.say(&words)?;
        }
    }
    let mut journal = Journal::open(session, query).await?.only_watching();
    while let Some(event) = journal.next().await? {
        let line = serde_json::to_string(&event).map_err(CliError::Encode)?;
        session.output.data(&line)?;
    }
    Ok(())
}
