//! Arguments of `maqet storage`.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use maqet_spec::size::Size;

use super::vm::OneArgs;

/// `maqet storage …`.
#[derive(Debug, Subcommand)]
pub(crate) enum StorageVerb {
    /// Show every disk of a VM: its file, sizes, what it stands on, who made it and who has it
    Info(OneArgs),
    /// Check the disks of a VM: files, chains and, when it does not run, the images' tables; exit with 1 when something is
    /// wrong
    Verify(VerifyArgs),
    /// List images below the data directory and `storage.roots` that no VM has; nothing is deleted
    Orphaned,
    /// Make a disk larger, running or not; smaller only with `--shrink`
    Resize(ResizeArgs),
    /// Give a VM, running or not, a disk whose image is there already; with FILE a new VM is made of it
    Attach(AttachArgs),
    /// Copy a disk, with all it stands on, into a new image that stands alone
    Clone(CloneArgs),
    /// Say that the file now at a disk's path is the right one, although another is on record, or that the disk is lost
    Accept(DiskArgs),
}

/// One disk of a VM.
#[derive(Debug, Args)]
pub(crate) struct DiskArgs {
    /// The VM
    #[arg(value_name = "VM")]
    pub(crate) vm: String,
    /// Name of the disk
    #[arg(value_name = "DISK")]
    pub(crate) disk: String,
}

/// `maqet storage verify`.
#[derive(Debug, Args)]
pub(crate) struct VerifyArgs {
    /// The VM
    #[arg(value_name = "VM")]
    pub(crate) vm: String,
    /// Repair what can be repaired; the VM must not run
    #[arg(long)]
    pub(crate) repair: bool,
}

/// `maqet storage resize`.
#[derive(Debug, Args)]
pub(crate) struct ResizeArgs {
    /// Which disk
    #[command(flatten)]
    pub(crate) disk: DiskArgs,
    /// Size the guest is to see, as `20G`; `+1G` adds to the present one
    #[arg(value_name = "SIZE", value_parser = new_size)]
    pub(crate) size: NewSize,
    /// Make it smaller: what the guest keeps behind the new end is lost
    #[arg(long)]
    pub(crate) shrink: bool,
}

/// `maqet storage attach`.
#[derive(Debug, Args)]
pub(crate) struct AttachArgs {
    /// The VM: one that is stored, or with FILE the name of a new one
    #[arg(value_name = "NAME")]
    pub(crate) vm: String,
    /// The image
    #[arg(value_name = "PATH")]
    pub(crate) path: PathBuf,
    /// What the new VM is, as for `maqet add`
    #[arg(value_name = "FILE")]
    pub(crate) file: Option<PathBuf>,
    /// Name of the disk; else `root`, or `disk2`, `disk3`, ...
    #[arg(long, value_name = "DISK")]
    pub(crate) disk: Option<String>,
    /// Format of the image; never guessed
    #[arg(long, value_parser = ["qcow2", "raw"], default_value = "qcow2")]
    pub(crate) format: String,
    /// Bus the guest sees
    #[arg(long, value_parser = ["virtio", "scsi", "sata", "ide", "nvme", "none"], default_value = "virtio")]
    pub(crate) interface: String,
    /// The guest cannot write
    #[arg(long)]
    pub(crate) readonly: bool,
}

/// `maqet storage clone`.
#[derive(Debug, Args)]
pub(crate) struct CloneArgs {
    /// Which disk
    #[command(flatten)]
    pub(crate) disk: DiskArgs,
    /// The new image; what is there is never replaced
    #[arg(value_name = "FILE")]
    pub(crate) file: PathBuf,
    /// Its format; else the disk's
    #[arg(long, value_parser = ["qcow2", "raw"])]
    pub(crate) format: Option<String>,
}

/// How large a disk is to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NewSize {
    /// Bytes.
    pub(crate) bytes: u64,
    /// They are added.
    pub(crate) add: bool,
}

/// Reads `20G` or `+1G`.
fn new_size(text: &str) -> Result<NewSize, String> {
    let (text, add) = match text.strip_prefix('+') {
        Some(more) => (more, true),
        None => (text, false),
    };
    let size: Size = text
        .parse()
        .map_err(|error: maqet_spec::size::InvalidSize| format!("{error}; {}", error.hint()))?;
    let bytes = size.bytes();
    Ok(NewSize { bytes, add })
}

#[cfg(test)]
mod tests {
    use super::{NewSize, new_size};

    #[test]
    fn sizes_are_binary_and_may_be_added() {
        let of = |bytes, add| Ok(NewSize { bytes, add });
        assert_eq!(new_size("2G"), of(2 << 30, false));
        assert_eq!(new_size("+512M"), of(512 << 20, true));
        let refused = new_size("10GB").unwrap_err();
        assert!(refused.contains("write `10G`"), "{refused}");
        assert!(new_size("-1G").is_err() && new_size("++1G").is_err() && new_size("10").is_err());
    }
}
