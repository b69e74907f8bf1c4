//! `maqet storage attach`.

use std::path::{Path, PathBuf};

use maqet_protocol::control::{Add, DiskAttached, Info, StorageAttach};
use maqet_spec::vm::Disk;
use serde_json::json;

use crate::args::storage::AttachArgs;
use crate::args::vm::SpecArgs;
use crate::error::CliError;
use crate::session::{OPERATION_DEADLINE, QUESTION_DEADLINE, Session, key};
use crate::specification;

/// Gives a stored VM a disk, or stores a new VM that has it.
///
/// # Errors
/// The refusal; [`CliError::InvalidSpec`] of the new VM's file; [`CliError::Io`] without a working directory.
pub(crate) async fn run(session: &Session<'_>, args: &AttachArgs) -> Result<(), CliError> {
    let path = specification::path(&args.path)?;
    match &args.file {
        Some(file) => to_new(session, args, path, file.clone()).await,
        None => to_stored(session, args, path).await,
    }
}

async fn to_stored(session: &Session<'_>, args: &AttachArgs, path: PathBuf) -> Result<(), CliError> {
    let stored = session.ask(&Info { vm: args.vm.clone() }).await?;
    let method = StorageAttach {
        vm: String::from(stored.id),
        disk: disk(args, &path, &stored.spec.disks)?,
        key: Some(key()),
    };
    let attached = session.repeat(&method, OPERATION_DEADLINE).await?;
    session
        .output
        .answer(&attached, || line(&attached), || attached.disk.clone())
}

fn line(attached: &DiskAttached) -> String {
    let (vm, disk, path) = (&attached.vm, &attached.disk, attached.path.display());
    let live = if attached.live {
        ", and its guest has it now"
    } else {
        ""
    };
    format!("{vm}: `{path}` is disk {disk}{live}")
}

/// As `maqet add` does, with one disk more.
async fn to_new(
    session: &Session<'_>,
    args: &AttachArgs,
    path: PathBuf,
    file: PathBuf,
) -> Result<(), CliError> {
    let words = SpecArgs {
        files: vec![file],
        name: Some(args.vm.clone()),
        ..SpecArgs::default()
    };
    let mut spec = specification::build(&words, Some(session.settings.disks()))?;
    spec.disks.push(disk(args, &path, &spec.disks)?);
    let method = Add {
        spec,
        key: Some(key()),
    };
    let added = session
        .repeat(&method, QUESTION_DEADLINE.saturating_mul(10))
        .await?;
    session
        .output
        .answer(&added, || added.id.to_string(), || added.name.clone())
}

/// The new disk; its words were checked when they were read.
fn disk(args: &AttachArgs, path: &Path, others: &[Disk]) -> Result<Disk, CliError> {
    let name = args.disk.clone().unwrap_or_else(|| free_name(others));
    let disk = json!({
        "name": name, "path": path, "format": args.format, "interface": args.interface, "readonly": args.readonly,
    });
    serde_json::from_value(disk).map_err(|error| CliError::usage(error.to_string(), None))
}

/// `root`, `disk2`, `disk3`, ...
fn free_name(others: &[Disk]) -> String {
    let taken = |name: &str| others.iter().any(|disk| disk.name == name);
    let names = std::iter::once("root".to_owned()).chain((2..).map(|number| format!("disk{number}")));
    let mut free = names.filter(|name| !taken(name));
    free.next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_free_name_is_taken() {
        let disk = |name: &str| -> Disk {
            let disk = json!({"name": name, "path": "/vm/x", "format": "raw", "interface": "virtio"});
            serde_json::from_value(disk).unwrap()
        };
        assert_eq!(free_name(&[]), "root");
        assert_eq!(free_name(&[disk("root")]), "disk2");
        assert_eq!(free_name(&[disk("data"), disk("root"), disk("disk2")]), "disk3");
    }
}
