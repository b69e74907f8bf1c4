//! `maqet man`.

use crate::args;
use crate::args::verb::ManArgs;
use crate::error::CliError;
use crate::output::Output;

/// Prints maqet(1) as roff, or writes one page per verb.
///
/// # Errors
/// [`CliError::Stdout`], [`CliError::Io`].
pub(crate) fn run(args: &ManArgs, output: &Output) -> Result<(), CliError> {
    if let Some(directory) = &args.dir {
        std::fs::create_dir_all(directory).map_err(CliError::io("make the directory", directory))?;
        return clap_mangen::generate_to(args::command(), directory)
            .map_err(CliError::io("write man pages into", directory));
    }
    let mut page = Vec::new();
    let rendered = clap_mangen::Man::new(args::command()).render(&mut page);
    rendered.map_err(CliError::Stdout)?;
    output.bytes(&page)
}
