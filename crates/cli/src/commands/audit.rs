//! `maqet audit`.

use maqet_protocol::control::AuditVerify;
use maqet_state::examination::JournalWalk;

use super::state::{Teller, teller, unreadable, verify};
use crate::args::state::LookArgs;
use crate::error::CliError;
use crate::progress;
use crate::render::table;
use crate::session::{OPERATION_DEADLINE, Session};

/// Walks the journal's chain.
///
/// # Errors
/// [`CliError::Unhealthy`] when it is broken; those of [`teller`]; the refusal.
pub(crate) async fn verify(session: &Session<'_>, args: &LookArgs) -> Result<(), CliError> {
    let walk = match teller(session, args.file.as_deref()).await? {
        Teller::Supervisor => {
            let walking = session.repeat(&AuditVerify {}, OPERATION_DEADLINE);
            progress::during(session.output, "walking the journal", walking).await?
        }
        Teller::File(viewed) => {
            let walked = viewed.store.walk_journal();
            walked.map_err(|error| unreadable(viewed.store.path().to_owned(), error))?
        }
    };
    session
        .output
        .answer(&walk, || text(&walk), || walk.cursor.to_string())?;
    match walk.broken_at {
        None => Ok(()),
        Some(cursor) => Err(CliError::Unhealthy {
            what: format!("the journal's chain is broken at entry {cursor}"),
            hint: Some(format!("maqet events --since {}", cursor.saturating_sub(2))),
        }),
    }
}

fn text(walk: &JournalWalk) -> String {
    let rows = [
        ("journal", verify::journal(walk)),
        ("pruned", walk.pruned.to_string()),
        ("cursor", walk.cursor.to_string()),
        ("hash", walk.hash.clone()),
    ];
    table::block(&rows)
}
