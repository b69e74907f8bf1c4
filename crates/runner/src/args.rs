//! What the runner is told on its command line. Written by the supervisor, read by people in `ps`.

use std::path::PathBuf;

use clap::Parser;
use maqet_state::id::VmId;

/// One VM's runner. Started by `maqet-supervisor`; of no use by hand.
#[derive(Debug, Parser)]
#[command(name = "maqet-runner", version)]
pub(crate) struct Args {
    /// Id of the VM.
    #[arg(long)]
    pub(crate) vm: VmId,
    /// Its name.
    #[arg(long)]
    pub(crate) name: String,
    /// Id of this launch, 32 hexadecimal digits.
    #[arg(long)]
    pub(crate) launch_id: String,
    /// The VM's own runtime directory; exists, for its owner only.
    #[arg(long)]
    pub(crate) runtime_dir: PathBuf,
}
