//! QEMU without maqet: the least that has to happen.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::programs;

/// A stopped QEMU that answers QMP; killed when dropped.
pub(crate) struct Bare {
    qemu: Child,
    qmp: BufReader<UnixStream>,
}

impl Bare {
    /// Spawns QEMU and returns when its monitor takes commands. QEMU connects to us, so nothing is polled for.
    #[expect(
        clippy::disallowed_methods,
        reason = "its own child, not reaped yet: the number is still its own"
    )]
    pub(crate) fn start(directory: &Path) -> Result<Self> {
        let path = directory.join("bare");
        let listener = UnixListener::bind(&path).context("bind the socket for the bare QEMU")?;
        let mut qemu = Command::new("qemu-system-x86_64")
            .args([
                "-machine",
                "none",
                "-accel",
                "tcg",
                "-nodefaults",
                "-display",
                "none",
                "-qmp",
            ])
            .arg(format!("unix:{}", path.display()))
            .stdin(Stdio::null())
            .spawn()
            .context("run qemu-system-x86_64")?;
        let stream = match listener.accept() {
            Ok((stream, _)) => stream,
            Err(error) => {
                qemu.kill().context("end a QEMU that did not connect")?;
                return Err(error).context("accept the bare QEMU");
            }
        };
        std::fs::remove_file(&path).context("remove the socket of the bare QEMU")?;
        let mut bare = Self {
            qemu,
            qmp: BufReader::new(stream),
        };
        bare.line().context("read the greeting")?;
        bare.command("qmp_capabilities")?;
        Ok(bare)
    }

    /// One command without arguments.
    pub(crate) fn command(&mut self, name: &str) -> Result<()> {
        writeln!(self.qmp.get_mut(), r#"{{"execute":"{name}"}}"#).context("write to QMP")?;
        loop {
            let line = self.line()?;
            ensure!(!line.contains(r#""error""#), "QEMU refused `{name}`: {line}");
            if line.contains(r#""return""#) {
                return Ok(());
            }
        }
    }

    /// Kills QEMU and returns when the kernel says that it is gone; tells how long that took.
    pub(crate) fn killed(mut self) -> Result<Duration> {
        let pid = i32::try_from(self.qemu.id()).context("the number of the bare QEMU")?;
        let took = programs::kill(pid)?;
        self.qemu.wait().context("collect the bare QEMU")?;
        Ok(took)
    }

    /// Ends QEMU and returns when it is gone.
    pub(crate) fn quit(&mut self) -> Result<()> {
        self.command("quit")?;
        let status = self.qemu.wait().context("wait for QEMU")?;
        ensure!(status.success(), "QEMU ended with {status}");
        Ok(())
    }

    fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        let read = self.qmp.read_line(&mut line).context("read from QMP")?;
        ensure!(read > 0, "QEMU closed its monitor");
        Ok(line)
    }
}

impl Drop for Bare {
    #[expect(
        clippy::disallowed_methods,
        reason = "its own child, not reaped yet: the number is still its own"
    )]
    fn drop(&mut self) {
        // Gone already after `quit`: then both report the past and change nothing.
        self.qemu.kill().ok();
        self.qemu.wait().ok();
    }
}
