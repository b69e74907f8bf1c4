//! maqet's programs as they were built, with a data directory of their own.

use std::env;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use maqet_process::{ProcessHandle, Sent, Signal};
use maqet_tests::wait;
use serde_json::Value;
use tempfile::TempDir;

/// A QEMU that does nothing, so that what is measured is maqet.
const SPEC: &str = "machine: none\naccel: tcg\nmemory: 1M\n";

/// The programs, one running supervisor, one VM named `bench`.
pub(crate) struct Programs {
    maqet: PathBuf,
    directory: TempDir,
}

impl Programs {
    /// Starts the supervisor and adds the VM.
    pub(crate) fn set_up() -> Result<Self> {
        let bin = env::var_os("MAQET_BENCH_BIN").context("MAQET_BENCH_BIN is not set: use scripts/bench")?;
        let directory = tempfile::tempdir().context("make a directory")?;
        let programs = Self {
            maqet: Path::new(&bin).join("maqet"),
            directory,
        };
        programs.add("bench")?;
        Ok(programs)
    }

    /// Adds a VM of this name.
    pub(crate) fn add(&self, name: &str) -> Result<()> {
        let spec = self.directory().join(format!("{name}.yaml"));
        std::fs::write(&spec, format!("name: {name}\n{SPEC}")).context("write the specification")?;
        self.maqet(&[OsStr::new("add"), spec.as_os_str()])
    }

    pub(crate) fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// A command of `maqet` with the surroundings of this bench.
    pub(crate) fn command(&self, arguments: &[impl AsRef<OsStr>]) -> Command {
        let mut command = Command::new(&self.maqet);
        command
            .args(arguments)
            .env("MAQET_DATA_DIR", self.directory().join("data"))
            .env("MAQET_RUNTIME_DIR", self.directory().join("run"))
            .env_remove("MAQET_CONFIG")
            .stdin(Stdio::null());
        command
    }

    /// What `maqet` answers to these arguments, as JSON.
    pub(crate) fn json(&self, arguments: &[&str]) -> Result<Value> {
        let output = self.run(&[arguments, &["-o", "json"]].concat())?;
        serde_json::from_slice(&output.stdout).context("read what maqet answered")
    }

    /// Runs `maqet` with these arguments; the time of a whole process is what a user pays.
    pub(crate) fn maqet(&self, arguments: &[impl AsRef<OsStr>]) -> Result<()> {
        self.run(arguments).map(|_output| ())
    }

    fn run(&self, arguments: &[impl AsRef<OsStr>]) -> Result<Output> {
        let output = self
            .command(arguments)
            .output()
            .with_context(|| format!("run `{}`", self.maqet.display()))?;
        let words = String::from_utf8_lossy(&output.stderr);
        ensure!(
            output.status.success(),
            "maqet ended with {}: {words}",
            output.status
        );
        Ok(output)
    }
}

impl Drop for Programs {
    fn drop(&mut self) {
        // Before the directory goes. Nothing can be done about a failure here, and the times are printed already.
        self.maqet(&["rm", "--all", "--force", "--yes"]).ok();
        self.maqet(&["supervisor", "stop"]).ok();
    }
}

/// Ends a process and returns when the kernel says that it is gone; tells how long that took.
pub(crate) fn kill(pid: i32) -> Result<Duration> {
    let process = ProcessHandle::open(pid)?.context("no such process")?;
    let begun = Instant::now();
    let sent = process.signal(Signal::Kill)?;
    ensure!(sent == Sent::Delivered, "the process was gone already");
    ensure!(wait::exited(&process, wait::PATIENCE), "it survives SIGKILL");
    Ok(begun.elapsed())
}

/// The floor of every command: a process that starts and ends.
pub(crate) fn nothing() -> Result<()> {
    let status = Command::new("true").status().context("run `true`")?;
    ensure!(status.success(), "`true` ended with {status}");
    Ok(())
}
