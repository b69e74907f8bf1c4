//! `maqet config`.

use std::path::PathBuf;

use serde_json::json;

use crate::args::Format;
use crate::args::vm::SpecArgs;
use crate::error::CliError;
use crate::output::Output;
use crate::specification;

/// Says whether `add` would take these files.
///
/// # Errors
/// [`CliError::InvalidSpec`] when it would not.
pub(crate) fn check(args: &SpecArgs, disks: Option<PathBuf>, output: &Output) -> Result<(), CliError> {
    specification::require_files(args, "maqet config check FILE…")?;
    let spec = specification::build(args, disks.clone())?;
    let denied = specification::to_be_allowed(&spec, disks);
    if output.format() == Format::Table {
        let provided =
            denied.map(|denied| format!(", if the supervisor's configuration allows it: {denied}"));
        return output.say(&format!("{}: valid{}", spec.name, provided.unwrap_or_default()));
    }
    let name = spec.name.to_string();
    let provided = denied.map(|denied| denied.to_string());
    output.answer(
        &json!({"valid": true, "name": name, "to_be_allowed": provided}),
        String::new,
        || name.clone(),
    )
}

/// Prints what these files make together, every default written out.
///
/// # Errors
/// [`CliError::InvalidSpec`].
pub(crate) fn render(args: &SpecArgs, disks: Option<PathBuf>, output: &Output) -> Result<(), CliError> {
    specification::require_files(args, "maqet config render FILE…")?;
    let spec = specification::build(args, disks)?;
    match output.format() {
        Format::Table | Format::Yaml => output.data(&maqet_spec::to_yaml(&spec)),
        Format::Json | Format::Name => output.answer(&spec, String::new, || spec.name.to_string()),
    }
}
