//! QEMU is killed: how long until everybody knows.

use std::io::{BufRead, BufReader, Lines};
use std::process::{Child, ChildStdout, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use maqet_process::{ProcessHandle, Sent, Signal};
use serde_json::Value;

use crate::programs::Programs;

/// A running `bench`, its QEMU held.
fn running(programs: &Programs) -> Result<ProcessHandle> {
    programs.maqet(&["start", "bench"])?;
    let pid = programs.json(&["status", "bench"])?["pid"]
        .as_i64()
        .context("no pid")?;
    ProcessHandle::open(i32::try_from(pid)?)?.context("QEMU is gone already")
}

fn kill(qemu: &ProcessHandle) -> Result<Instant> {
    let begun = Instant::now();
    ensure!(
        qemu.signal(Signal::Kill)? == Sent::Delivered,
        "QEMU is gone already"
    );
    Ok(begun)
}

/// From SIGKILL to the end of the first `ls` that shows `failed`, and how many `ls` that took. None that was begun after
/// the kernel had declared QEMU dead may say *running*.
pub(crate) fn until_listed(programs: &Programs) -> Result<(Duration, usize)> {
    let qemu = running(programs)?;
    let begun = kill(&qemu)?;
    for looks in 1.. {
        let dead = qemu.has_exited();
        let line = &programs.json(&["ls"])?[0];
        let took = begun.elapsed();
        if line["status"] == "failed" {
            ensure!(
                line["last_exit"]["cause"] == "qemu-killed",
                "another cause: {line}"
            );
            return Ok((took, looks));
        }
        ensure!(!dead, "QEMU was dead, and `ls` says {line}");
        ensure!(took < Duration::from_secs(10), "still {line}");
    }
    unreachable!("an endless range ended")
}

/// Somebody who follows the journal.
#[derive(Debug)]
pub(crate) struct Subscriber {
    maqet: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Subscriber {
    /// Follows, and has seen that something comes.
    pub(crate) fn new(programs: &Programs) -> Result<Self> {
        let mut maqet = programs
            .command(&["events", "-f", "--since", "0", "-o", "json"])
            .stdout(Stdio::piped())
            .spawn()
            .context("follow events")?;
        let lines = BufReader::new(maqet.stdout.take().context("no stdout")?).lines();
        Ok(Self { maqet, lines })
    }

    /// Reads on until an event of this kind about this generation of ours comes.
    fn read_until(&mut self, kind: &str, pid: Option<i32>) -> Result<()> {
        for line in self.lines.by_ref() {
            let event: Value = serde_json::from_str(&line?)?;
            let ours = pid.is_none_or(|pid| event["pid"] == pid || event["data"]["pid"] == pid);
            if event["kind"] == kind && ours {
                return Ok(());
            }
        }
        anyhow::bail!("the stream of events ended")
    }

    /// From SIGKILL to the line that tells of it.
    pub(crate) fn until_told(&mut self, programs: &Programs) -> Result<Duration> {
        let qemu = running(programs)?;
        self.read_until("vm.running", Some(qemu.pid()))?;
        let begun = kill(&qemu)?;
        self.read_until("vm.failed", None)?;
        Ok(begun.elapsed())
    }
}

impl Drop for Subscriber {
    #[expect(
        clippy::disallowed_methods,
        reason = "its own child, not reaped yet: the number is still its own"
    )]
    fn drop(&mut self) {
        // Nothing can be done about a failure here, and the times are printed already.
        self.maqet.kill().ok();
        self.maqet.wait().ok();
    }
}
