//! Arguments of `maqet enable`.

use std::time::Duration;

use clap::Args;

use super::duration;
use super::vm::EachArgs;

/// `maqet enable`.
#[derive(Debug, Args)]
pub(crate) struct EnableArgs {
    /// Which VMs
    #[command(flatten)]
    pub(crate) each: EachArgs,
    /// Lower ones start first, equal ones together; without it as before, at first 0
    #[arg(long, value_name = "N")]
    pub(crate) order: Option<u32>,
    /// Pause after its start before VMs of the next order; without it as before, at first none
    #[arg(long, value_name = "DUR", value_parser = duration)]
    pub(crate) delay: Option<Duration>,
}
