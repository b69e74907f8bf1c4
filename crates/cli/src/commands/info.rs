//! `maqet info`.

use maqet_protocol::control::{Info, VmInfo};

use crate::args::Format;
use crate::args::vm::OneArgs;
use crate::error::CliError;
use crate::session::Session;

/// Shows the stored specification: as a file that `add` would take, or as JSON.
///
/// # Errors
/// The refusal.
pub(crate) async fn run(session: &Session<'_>, args: &OneArgs) -> Result<(), CliError> {
    let info = ask(session, &args.vm).await?;
    match session.output.format() {
        Format::Table | Format::Yaml => session.output.data(&maqet_spec::to_yaml(&info.spec)),
        Format::Json | Format::Name => session
            .output
            .answer(&info, String::new, || info.spec.name.to_string()),
    }
}

/// Asks for the specification.
///
/// # Errors
/// The refusal.
pub(crate) async fn ask(session: &Session<'_>, vm: &str) -> Result<VmInfo, CliError> {
    session.ask(&Info { vm: vm.to_owned() }).await
}
