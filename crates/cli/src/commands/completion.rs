//! `maqet completion`.

use crate::args;
use crate::args::verb::CompletionArgs;
use crate::error::CliError;
use crate::output::Output;

/// Prints the completion script of a shell.
///
/// # Errors
/// [`CliError::Stdout`].
pub(crate) fn run(args: &CompletionArgs, output: &Output) -> Result<(), CliError> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut args::command(), "maqet", &mut script);
    output.bytes(&script)
}
