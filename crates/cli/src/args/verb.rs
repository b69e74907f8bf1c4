//! The verbs. One variant per verb; the file of the same name in `commands` carries it out.

use clap::{Args, Subcommand};
use clap_complete::Shell;

use super::autostart::EnableArgs;
use super::doctor::{CleanupArgs, DoctorArgs};
use super::image::ImageVerb;
use super::snapshot::SnapshotArgs;
use super::state::{AuditVerb, StateVerb};
use super::storage::StorageVerb;
use super::vm::{
    AddArgs, EachArgs, EventsArgs, KillArgs, LogsArgs, LsArgs, OneArgs, QmpRunArgs, ResetArgs, RestartArgs,
    RmArgs, SpecArgs, StartArgs, StopArgs, WaitArgs,
};

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Validate a VM's files, merge them left to right and store the VM; prints its id
    #[command(visible_alias = "create")]
    Add(AddArgs),
    /// Start VMs; returns when QEMU runs
    Start(StartArgs),
    /// Shut VMs down; returns when QEMU is gone and says how it ended
    Stop(StopArgs),
    /// End VMs at once; the same as `stop --force`
    Kill(KillArgs),
    /// Stop VMs, then start them
    Restart(RestartArgs),
    /// Press the reset button of VMs
    Reset(ResetArgs),
    /// Pause the CPUs of VMs
    Pause(EachArgs),
    /// Let the CPUs of paused VMs run again
    Resume(EachArgs),
    /// Forget VMs
    Rm(RmArgs),
    /// Start VMs whenever a supervisor starts; one that somebody stopped stays down until the host has booted anew
    Enable(EnableArgs),
    /// Leave VMs alone when a supervisor starts
    Disable(EachArgs),
    /// List VMs
    #[command(visible_aliases = ["list", "ps"])]
    Ls(LsArgs),
    /// Show how a VM is doing
    Status(OneArgs),
    /// Show the stored specification of a VM
    Info(OneArgs),
    /// Show everything about a VM: status, specification, history
    Inspect(OneArgs),
    /// Tell the chain of events behind a VM's present state
    Why(OneArgs),
    /// Wait for conditions: running, stopped, failed, exit, serial=REGEX, port=N, file=PATH, event=NAME
    Wait(WaitArgs),
    /// Show what the guest, QEMU or the runner of a VM wrote
    Logs(LogsArgs),
    /// Show the journal, one JSON object on each line
    Events(EventsArgs),
    /// Talk to QEMU's monitor
    #[command(subcommand)]
    Qmp(QmpVerb),
    /// Make, load, delete or list snapshots of a VM's disks; picks live or offline by itself
    Snapshot(SnapshotArgs),
    /// Check or show the files of a VM without storing it
    #[command(subcommand)]
    Config(ConfigVerb),
    /// Take away what is left over
    Cleanup(CleanupArgs),
    /// Examine the installation
    Doctor(DoctorArgs),
    /// Look after the disks of VMs
    #[command(subcommand)]
    Storage(StorageVerb),
    /// The same as `storage info`
    #[command(hide = true)]
    StorageInfo(OneArgs),
    /// Look after the library: images that disks stand on
    #[command(subcommand)]
    Image(ImageVerb),
    /// Look after the store
    #[command(subcommand)]
    State(StateVerb),
    /// Prove that the journal is whole
    #[command(subcommand)]
    Audit(AuditVerb),
    /// Look at or end the supervisor
    #[command(subcommand)]
    Supervisor(SupervisorVerb),
    /// Print the completion script of a shell
    Completion(CompletionArgs),
    /// Print the man page, or write one page per verb
    Man(ManArgs),
}

/// `maqet qmp …`.
#[derive(Debug, Subcommand)]
pub(crate) enum QmpVerb {
    /// Run one QMP command and print what QEMU returned
    Run(QmpRunArgs),
    /// Pause the CPUs of VMs; the same as `maqet pause`
    Pause(EachArgs),
    /// Let the CPUs of paused VMs run again; the same as `maqet resume`
    Resume(EachArgs),
}

/// `maqet config …`.
#[derive(Debug, Subcommand)]
pub(crate) enum ConfigVerb {
    /// Say whether `add` would take these files
    Check(SpecArgs),
    /// Print the specification that these files make together
    Render(SpecArgs),
}

/// `maqet supervisor …`.
#[derive(Debug, Subcommand)]
pub(crate) enum SupervisorVerb {
    /// Show the running supervisor; never starts one
    Status,
    /// End the supervisor and return when it is gone; VMs go on unless it is configured otherwise
    Stop(SupervisorStopArgs),
}

/// `maqet supervisor stop`.
#[derive(Debug, Args)]
pub(crate) struct SupervisorStopArgs {
    /// Exit with 3 when none is running
    #[arg(long)]
    pub(crate) strict: bool,
}

/// `maqet completion`.
#[derive(Debug, Args)]
pub(crate) struct CompletionArgs {
    /// The shell
    #[arg(value_enum)]
    pub(crate) shell: Shell,
}

/// `maqet man`.
#[derive(Debug, Args)]
pub(crate) struct ManArgs {
    /// Write one page per verb into this directory instead
    #[arg(long, value_name = "DIR")]
    pub(crate) dir: Option<std::path::PathBuf>,
}
