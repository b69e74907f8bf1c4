//! maqet's programs as they were built, with a data directory of their own.

use std::env;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use tempfile::TempDir;

/// A QEMU that does nothing, so that what is measured is maqet.
const SPEC: &str = "name: bench\nmachine: none\naccel: tcg\nmemory: 1M\n";

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
        std::fs::write(directory.path().join("bench.yaml"), SPEC).context("write the specification")?;
        let programs = Self {
            maqet: Path::new(&bin).join("maqet"),
            directory,
        };
        let spec = programs.directory().join("bench.yaml");
        programs.maqet(&[OsStr::new("add"), spec.as_os_str()])?;
        Ok(programs)
    }

    pub(crate) fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Runs `maqet` with these arguments; the time of a whole process is what a user pays.
    pub(crate) fn maqet(&self, arguments: &[impl AsRef<OsStr>]) -> Result<()> {
        let output = Command::new(&self.maqet)
            .args(arguments)
            .env("MAQET_DATA_DIR", self.directory().join("data"))
            .env("MAQET_RUNTIME_DIR", self.directory().join("run"))
            .env_remove("MAQET_CONFIG")
            .stdin(Stdio::null())
            .output()
            .with_context(|| format!("run `{}`", self.maqet.display()))?;
        let words = String::from_utf8_lossy(&output.stderr);
        ensure!(
            output.status.success(),
            "maqet ended with {}: {words}",
            output.status
        );
        Ok(())
    }
}

impl Drop for Programs {
    fn drop(&mut self) {
        // Before the directory goes. Nothing can be done about a failure here, and the times are printed already.
        self.maqet(&["rm", "--force", "--yes", "bench"]).ok();
        self.maqet(&["supervisor", "stop"]).ok();
    }
}

/// The floor of every command: a process that starts and ends.
pub(crate) fn nothing() -> Result<()> {
    let status = Command::new("true").status().context("run `true`")?;
    ensure!(status.success(), "`true` ended with {status}");
    Ok(())
}
