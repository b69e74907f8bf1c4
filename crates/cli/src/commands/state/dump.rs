//! `maqet state dump`.

use maqet_protocol::control::StateDump;
use maqet_protocol::error::CallError;
use maqet_state::examination::Row;
use maqet_state::store::Store;

use super::{Teller, teller, unreadable};
use crate::args::state::LookArgs;
use crate::error::CliError;
use crate::session::{Session, protocol, refused};

/// Rows of the journal read at a time.
const PAGE_ROWS: usize = 512;

/// Prints every row, one JSON object on each line, whatever form was asked for.
///
/// # Errors
/// Those of [`teller`]; the refusal; [`CliError::Lost`] when the supervisor died in the middle of it.
pub(crate) async fn run(session: &Session<'_>, args: &LookArgs) -> Result<(), CliError> {
    match teller(session, args.file.as_deref()).await? {
        Teller::Supervisor => ask(session).await,
        Teller::File(viewed) => read(session, &viewed.store),
    }
}

async fn ask(session: &Session<'_>) -> Result<(), CliError> {
    let mut stream = session.stream(&StateDump {}).await?;
    while let Some(reply) = stream.next().await {
        let reply = reply.map_err(|error| match error {
            CallError::Refused(refusal) => refused(refusal),
            CallError::Protocol(error) => protocol::<StateDump>(error),
        })?;
        show(session, &reply.rows)?;
    }
    Ok(())
}

fn read(session: &Session<'_>, store: &Store) -> Result<(), CliError> {
    let failed = |error| unreadable(store.path().to_owned(), error);
    let mut page = (store.rows().map_err(failed)?, 0);
    while !page.0.is_empty() {
        show(session, &page.0)?;
        page = store.journal_rows(page.1, PAGE_ROWS).map_err(failed)?;
    }
    Ok(())
}

fn show(session: &Session<'_>, rows: &[Row]) -> Result<(), CliError> {
    let lines = rows.iter().map(serde_json::to_string);
    let lines: Vec<String> = lines.collect::<Result<_, _>>().map_err(CliError::Encode)?;
    session.output.data(&lines.join("\n"))
}
