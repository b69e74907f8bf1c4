//! Arguments of the verbs that look after the installation.

use clap::Args;

/// `maqet doctor`.
#[derive(Debug, Args)]
pub(crate) struct DoctorArgs {
    /// Make the store anew from the VMs' own directories; the present one is set aside, VMs go on
    #[arg(long, required = true)]
    pub(crate) rebuild: bool,
}
