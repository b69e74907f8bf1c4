//! Arguments of the verbs that are about VMs.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};
use maqet_state::lifecycle::Status;

use super::condition::Condition;
use super::duration;

/// Files that make one specification.
#[derive(Clone, Debug, Default, PartialEq, Eq, Args)]
pub(crate) struct SpecArgs {
    /// YAML files, merged left to right; `-` reads stdin
    #[arg(value_name = "FILE")]
    pub(crate) files: Vec<PathBuf>,
    /// The same as FILE
    #[arg(long, value_name = "FILE", num_args = 1.., action = clap::ArgAction::Append)]
    pub(crate) vm_config: Vec<PathBuf>,
    /// Name of the VM; wins over the files
    #[arg(long)]
    pub(crate) name: Option<String>,
    /// Set one value, as `cpus=4` or `disks.root.size=20G`; after the files, left to right
    #[arg(long, value_name = "PATH=VALUE")]
    pub(crate) set: Vec<String>,
}

impl SpecArgs {
    /// Every file, those of `--vm-config` after the plain ones.
    pub(crate) fn all_files(&self) -> Vec<PathBuf> {
        self.files.iter().chain(&self.vm_config).cloned().collect()
    }
}

/// `maqet add`.
#[derive(Debug, Args)]
pub(crate) struct AddArgs {
    /// The specification.
    #[command(flatten)]
    pub(crate) spec: SpecArgs,
    /// Add a VM without any file: all defaults
    #[arg(long, conflicts_with_all = ["files", "vm_config"])]
    pub(crate) empty: bool,
    /// Start it at once
    #[arg(long)]
    pub(crate) start: bool,
}

/// `maqet start`.
#[derive(Debug, Args)]
pub(crate) struct StartArgs {
    /// VMs
    #[arg(value_name = "VM", required = true)]
    pub(crate) vms: Vec<String>,
    /// Return when this holds as well: serial=REGEX, port=N, event=NAME, ...; may be repeated
    #[arg(long, value_name = "COND")]
    pub(crate) wait: Vec<Condition>,
    /// Give up after this long with exit code 124; the VM goes on
    #[arg(long, value_name = "DUR", value_parser = duration)]
    pub(crate) timeout: Option<Duration>,
    /// Exit with 3 when it was running already
    #[arg(long)]
    pub(crate) strict: bool,
}

/// `maqet stop`.
#[derive(Debug, Args)]
pub(crate) struct StopArgs {
    /// VMs
    #[arg(value_name = "VM", required = true)]
    pub(crate) vms: Vec<String>,
    /// Time the guest gets to shut down, never extended; then its disks are flushed and QEMU ends. One that answers
    /// nothing is left running, with exit code 124
    #[arg(long, value_name = "DUR", value_parser = duration)]
    pub(crate) timeout: Option<Duration>,
    /// End it now, with SIGKILL after two seconds; the guest may lose what it has not written out
    #[arg(long)]
    pub(crate) force: bool,
    /// Exit with 3 when it was not running
    #[arg(long)]
    pub(crate) strict: bool,
}

/// `maqet kill`.
#[derive(Debug, Args)]
pub(crate) struct KillArgs {
    /// VMs
    #[arg(value_name = "VM", required = true)]
    pub(crate) vms: Vec<String>,
    /// Exit with 3 when it was not running
    #[arg(long)]
    pub(crate) strict: bool,
}

/// `maqet restart`.
#[derive(Debug, Args)]
pub(crate) struct RestartArgs {
    /// VMs
    #[arg(value_name = "VM", required = true)]
    pub(crate) vms: Vec<String>,
    /// Time the guest gets to shut down, as for `stop`
    #[arg(long, value_name = "DUR", value_parser = duration)]
    pub(crate) timeout: Option<Duration>,
}

/// `maqet reset`.
#[derive(Debug, Args)]
pub(crate) struct ResetArgs {
    /// VMs
    #[arg(value_name = "VM", required = true)]
    pub(crate) vms: Vec<String>,
}

/// VMs, and whether "already so" is a failure.
#[derive(Debug, Args)]
pub(crate) struct EachArgs {
    /// VMs
    #[arg(value_name = "VM", required = true)]
    pub(crate) vms: Vec<String>,
    /// Exit with 3 when it was so already
    #[arg(long)]
    pub(crate) strict: bool,
}

/// `maqet rm`.
#[derive(Debug, Args)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is one flag of the command line"
)]
pub(crate) struct RmArgs {
    /// VMs
    #[arg(value_name = "VM", required_unless_present = "all", conflicts_with = "all")]
    pub(crate) vms: Vec<String>,
    /// Every VM
    #[arg(long)]
    pub(crate) all: bool,
    /// Stop running ones first, by force
    #[arg(long)]
    pub(crate) force: bool,
    /// Delete the disk images that maqet created for it, unless another VM uses them or they are other files by now
    #[arg(long)]
    pub(crate) delete_storage: bool,
    /// Keep images that hold snapshots, and what they stand on
    #[arg(long, requires = "delete_storage")]
    pub(crate) keep_snapshots: bool,
    /// Do not ask
    #[arg(short, long)]
    pub(crate) yes: bool,
}

/// `maqet ls`.
#[derive(Debug, Args)]
pub(crate) struct LsArgs {
    /// Only those with this status
    #[arg(long, value_enum)]
    pub(crate) status: Option<StatusArg>,
}

/// Status by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum StatusArg {
    /// Never started.
    Created,
    /// Running.
    Running,
    /// Ended as somebody meant it to.
    Stopped,
    /// Ended otherwise.
    Failed,
}

impl From<StatusArg> for Status {
    fn from(status: StatusArg) -> Self {
        match status {
            StatusArg::Created => Self::Created,
            StatusArg::Running => Self::Running,
            StatusArg::Stopped => Self::Stopped,
            StatusArg::Failed => Self::Failed,
        }
    }
}

/// One VM.
#[derive(Debug, Args)]
pub(crate) struct OneArgs {
    /// VM
    #[arg(value_name = "VM")]
    pub(crate) vm: String,
}

/// `maqet wait`.
#[derive(Debug, Args)]
pub(crate) struct WaitArgs {
    /// VMs, then conditions: running, stopped, failed, exit, serial=REGEX, port=N, file=PATH, event=NAME
    #[arg(value_name = "VM|COND", required = true)]
    pub(crate) words: Vec<String>,
    /// One condition is enough; without it all must have held
    #[arg(long)]
    pub(crate) any: bool,
    /// Give up after this long with exit code 124
    #[arg(long, value_name = "DUR", value_parser = duration)]
    pub(crate) timeout: Option<Duration>,
}

/// `maqet logs`.
#[derive(Debug, Args)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is one flag of the command line"
)]
pub(crate) struct LogsArgs {
    /// VM
    #[arg(value_name = "VM")]
    pub(crate) vm: String,
    /// Stay and show what is written from now on
    #[arg(short, long)]
    pub(crate) follow: bool,
    /// The guest's first serial port; the default
    #[arg(long, group = "source")]
    pub(crate) serial: bool,
    /// QEMU's stdout and stderr
    #[arg(long, group = "source")]
    pub(crate) qemu: bool,
    /// The runner's own log
    #[arg(long, group = "source")]
    pub(crate) runner: bool,
    /// What the programs wrote that serve shares by virtiofs
    #[arg(long, group = "source")]
    pub(crate) virtiofsd: bool,
}

/// `maqet events`.
#[derive(Debug, Args)]
pub(crate) struct EventsArgs {
    /// Stay and show those to come; without `--since`, only those
    #[arg(short, long)]
    pub(crate) follow: bool,
    /// Only those after this cursor
    #[arg(long, value_name = "CURSOR")]
    pub(crate) since: Option<u64>,
    /// Only those of this VM
    #[arg(long, value_name = "VM")]
    pub(crate) vm: Option<String>,
}

/// `maqet qmp run`.
#[derive(Debug, Args)]
pub(crate) struct QmpRunArgs {
    /// VM
    #[arg(value_name = "VM")]
    pub(crate) vm: String,
    /// QMP command, for example `query-status`
    #[arg(value_name = "COMMAND")]
    pub(crate) command: String,
    /// Arguments: KEY=VALUE (dots nest, values are JSON where they can be), or one JSON object
    #[arg(value_name = "KEY=VALUE|JSON")]
    pub(crate) arguments: Vec<String>,
    /// Give up after this long with exit code 124; default 30s
    #[arg(long, value_name = "DUR", value_parser = duration)]
    pub(crate) timeout: Option<Duration>,
}
