//! Arguments of `maqet state`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

/// `maqet state …`.
#[derive(Debug, Subcommand)]
pub(crate) enum StateVerb {
    /// Make the store anew from a copy and the VMs' own directories; the present one is set aside, VMs go on
    Restore(RestoreArgs),
}

/// `maqet state restore`.
#[derive(Debug, Args)]
pub(crate) struct RestoreArgs {
    /// The copy, as `backups/` holds them; checked in full before anything is done
    #[arg(value_name = "FILE")]
    pub(crate) file: PathBuf,
}
