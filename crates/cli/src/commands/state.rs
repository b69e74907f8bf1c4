//! `maqet state`.

use crate::args::state::RestoreArgs;
use crate::error::CliError;
use crate::rebuild::{self, Source};
use crate::session::Session;

/// Makes the store anew from a copy.
///
/// # Errors
/// As [`rebuild::run`]; [`CliError::Io`] when there is no such file.
pub(crate) async fn restore(session: &Session<'_>, args: &RestoreArgs) -> Result<(), CliError> {
    // Looked at before the supervisor is ended for it.
    let file = std::fs::canonicalize(&args.file).map_err(CliError::io("read", &args.file))?;
    rebuild::run(session, &Source::Copy(file)).await
}
