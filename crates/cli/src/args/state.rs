//! Arguments of `maqet state` and `maqet audit`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

/// `maqet state …`.
#[derive(Debug, Subcommand)]
pub(crate) enum StateVerb {
    /// Copy the store to a new file, mode 0600, while everything goes on; it holds the VMs' secrets
    Backup(BackupArgs),
    /// Make the store anew from a copy and the VMs' own directories; the present one is set aside, VMs go on
    Restore(RestoreArgs),
    /// Print every row of the store, one JSON object on each line; of secrets a fingerprint
    Dump(LookArgs),
    /// Check every page of the store, and whether all in it fits together; exit with 1 when something does not
    Verify(LookArgs),
}

/// `maqet audit …`.
#[derive(Debug, Subcommand)]
pub(crate) enum AuditVerb {
    /// Walk the journal's chain; exit with 1 and name the first entry that was changed, dropped or added
    Verify(LookArgs),
}

/// `maqet state backup`.
#[derive(Debug, Args)]
pub(crate) struct BackupArgs {
    /// The copy; what is there is never replaced
    #[arg(value_name = "FILE")]
    pub(crate) file: PathBuf,
}

/// `maqet state restore`.
#[derive(Debug, Args)]
pub(crate) struct RestoreArgs {
    /// The copy, as `backups/` holds them; checked in full before anything is done
    #[arg(value_name = "FILE")]
    pub(crate) file: PathBuf,
}

/// `maqet state dump`, `maqet state verify`, `maqet audit verify`.
#[derive(Debug, Args)]
pub(crate) struct LookArgs {
    /// A copy, which is only read, without a supervisor; the present store without it
    #[arg(value_name = "FILE")]
    pub(crate) file: Option<PathBuf>,
}
