//! `maqet doctor`.

pub(crate) mod boot;
mod checks;
mod leaks;

use crate::args::doctor::DoctorArgs;
use crate::error::CliError;
use crate::rebuild::{self, Source};
use crate::session::Session;

/// Examines the installation, or makes its store anew.
///
/// # Errors
/// The refusal; [`CliError::Unhealthy`] when something is wrong; as [`rebuild::run`].
pub(crate) async fn run(session: &Session<'_>, args: &DoctorArgs) -> Result<(), CliError> {
    if args.rebuild {
        return rebuild::run(session, &Source::Directories).await;
    }
    if args.leaks {
        return leaks::run(session, args.fix).await;
    }
    if args.boot {
        return boot::run(session).await;
    }
    checks::run(session).await
}
