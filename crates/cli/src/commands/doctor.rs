//! `maqet doctor`.

use crate::args::doctor::DoctorArgs;
use crate::error::CliError;
use crate::rebuild::{self, Source};
use crate::session::Session;

/// Examines the installation, or makes its store anew.
///
/// # Errors
/// As [`rebuild::run`].
pub(crate) async fn run(session: &Session<'_>, _args: &DoctorArgs) -> Result<(), CliError> {
    rebuild::run(session, &Source::Directories).await
}
