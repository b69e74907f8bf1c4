//! Arguments of the verbs that look after the installation.

use clap::Args;

/// `maqet doctor`.
#[derive(Debug, Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of its own")]
pub(crate) struct DoctorArgs {
    /// Compare what is on record with what there is: processes, sockets, directories, files; exit with 1 when something
    /// is left that nobody has
    #[arg(long)]
    pub(crate) leaks: bool,
    /// Take away what is provably maqet's and dead, and report what is left after that
    #[arg(long, requires = "leaks")]
    pub(crate) fix: bool,
    /// Boot the built-in tiny guest through the whole stack with each accelerator; tell what works, and how fast
    #[arg(long, conflicts_with = "leaks")]
    pub(crate) boot: bool,
    /// Make the store anew from the VMs' own directories; the present one is set aside, VMs go on
    #[arg(long, conflicts_with_all = ["leaks", "fix", "boot"])]
    pub(crate) rebuild: bool,
}

/// `maqet cleanup`.
#[derive(Debug, Args)]
pub(crate) struct CleanupArgs {
    /// Only show what is left over
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Do not ask
    #[arg(long)]
    pub(crate) force: bool,
}
