//! Arguments of `maqet storage`.

use clap::{Args, Subcommand};

/// `maqet storage …`.
#[derive(Debug, Subcommand)]
pub(crate) enum StorageVerb {
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
