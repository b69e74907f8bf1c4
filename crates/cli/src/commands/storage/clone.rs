//! `maqet storage clone`.

use maqet_protocol::control::StorageClone;
use maqet_spec::vm::DiskFormat;

use crate::args::storage::CloneArgs;
use crate::error::CliError;
use crate::progress;
use crate::render::units;
use crate::session::{OPERATION_DEADLINE, Session};
use crate::specification;

/// Copies a disk into a new image.
///
/// # Errors
/// The refusal; [`CliError::Io`] without a working directory.
pub(crate) async fn run(session: &Session<'_>, args: &CloneArgs) -> Result<(), CliError> {
    let path = specification::path(&args.file)?;
    let method = StorageClone {
        vm: args.disk.vm.clone(),
        disk: args.disk.disk.clone(),
        path,
        format: args.format.as_deref().map(|format| match format {
            "raw" => DiskFormat::Raw,
            _ => DiskFormat::Qcow2,
        }),
    };
    let label = format!("cloning {}", method.disk);
    let cloning = session.once(&method, OPERATION_DEADLINE);
    let cloned = progress::following(session, &method.vm, &label, cloning).await?;
    let path = cloned.path.display();
    session.output.answer(
        &cloned,
        || {
            let size = units::size(cloned.virtual_bytes);
            format!("{path}: {size} for the guest, {} ms", cloned.took_ms)
        },
        || path.to_string(),
    )
}
