//! The gate: a process that is there, with its number fixed, before the program it will become may run.
//!
//! The starter calls [`spawn_gate`], writes the gate's identity to disk, and only then calls
//! [`Gated::release`]. The gate execs the program in its own process, so number and pidfs inode stay. Whatever
//! happens to the starter before that, the gate reads end-of-file and is gone: there is never a program
//! running that nobody knew of.
//!
//! The gate calls `listen()` on the sockets itself, because the credentials a client sees are those of the
//! process that did. Numbers in the gate: 3 is the pipe it is released through, 4 the pipe it reports on,
//! 5 and up are what was passed.

mod inside;

use std::ffi::OsString;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::pipe::{PipeFlags, pipe_with};
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe::Receiver;

use crate::confine::Confinement;
use crate::enclosure::Enclosure;
use crate::error::ProcessError;
use crate::pidfd::ProcessHandle;
use crate::point;
use crate::spawn::Spawn;

pub use inside::{GateArgs, GateEnd, run};

/// Number of the pipe the gate is released through.
const GO_NUMBER: i32 = 3;
/// Number of the pipe the gate reports on.
const REPORT_NUMBER: i32 = 4;
/// Lowest number free for descriptors that are passed on.
pub const PASSED_NUMBER_MIN: i32 = 5;
/// What the gate reads when it may go on.
const GO: u8 = b'G';
/// What the gate writes when it listens: ASCII ACK, which starts no error text.
const LISTENING: u8 = 0x06;
/// Longest error text taken from a gate, bytes.
const MESSAGE_BYTES_MAX: usize = 4096;
/// Waiting connections per socket: maqet itself and a few strangers.
const BACKLOG: i32 = 4;

/// What a gate is to become.
#[derive(Debug)]
pub struct GateOrder {
    /// The program; absolute path.
    pub program: PathBuf,
    /// Its arguments, without the program's own name.
    pub args: Vec<OsString>,
    /// Its whole environment.
    pub env: Vec<(OsString, OsString)>,
    /// Bound sockets that the gate is to listen on, then pass on; numbers from [`PASSED_NUMBER_MIN`].
    pub listen: Vec<(OwnedFd, i32)>,
    /// Further descriptors passed on; numbers from [`PASSED_NUMBER_MIN`].
    pub pass: Vec<(OwnedFd, i32)>,
    /// One of those becomes the program's own place instead of being passed on.
    pub enclosure: Option<Enclosure>,
    /// Standard output and error: a file opened for appending.
    pub output: OwnedFd,
    /// What the program may touch; `None` confines nothing.
    pub confinement: Option<Confinement>,
}

/// A started gate that waits. Dropping it lets the gate end without having run anything.
#[derive(Debug)]
pub struct Gated {
    /// Handle on the gate, and after release on the program.
    pub handle: ProcessHandle,
    go: OwnedFd,
    report: Report,
}

#[derive(Debug)]
enum Report {
    Fresh(OwnedFd),
    Watched(Receiver),
    Closed,
}

/// Starts a gate: runs `self_exe gate …` whose `main` is expected to call [`GateArgs::parse`] and [`run`].
///
/// The parent's copies of all passed descriptors are closed on return, whatever the outcome.
///
/// # Errors
/// [`ProcessError::Spawn`] and [`ProcessError::DescriptorTaken`] as for [`Spawn::spawn`].
pub fn spawn_gate(self_exe: &Path, order: GateOrder) -> Result<Gated, ProcessError> {
    let (go_read, go) = pipe_with(PipeFlags::CLOEXEC).map_err(ProcessError::call("make a pipe"))?;
    let (report, report_write) = pipe_with(PipeFlags::CLOEXEC).map_err(ProcessError::call("make a pipe"))?;
    let mut spawn = Spawn::new(self_exe);
    spawn.args.push("gate".into());
    spawn.args.extend(GateArgs::of(&order).to_words());
    spawn.env_clear = true;
    spawn.env = order.env;
    spawn.env.extend(point::handed_on());
    spawn.workdir = Some(PathBuf::from("/"));
    let copy = order
        .output
        .try_clone()
        .map_err(ProcessError::call("duplicate a descriptor"))?;
    spawn.stdout = Some(copy);
    spawn.stderr = Some(order.output);
    spawn.fds = vec![(go_read, GO_NUMBER), (report_write, REPORT_NUMBER)];
    spawn.fds.extend(order.listen);
    spawn.fds.extend(order.pass);
    let child = spawn.spawn()?;
    Ok(Gated {
        handle: child.handle,
        go,
        report: Report::Fresh(report),
    })
}

impl Gated {
    /// Returns once the gate listens on its sockets. Needs a tokio runtime with I/O. May be dropped and called
    /// again.
    ///
    /// # Errors
    /// [`ProcessError::Gate`] with the gate's own words when it gave up.
    pub async fn listening(&mut self) -> Result<(), ProcessError> {
        let mut text = Vec::new();
        let Some(receiver) = self.report.watch()? else {
            return Ok(());
        };
        let mut buffer = [0_u8; 512];
        while text.len() < MESSAGE_BYTES_MAX {
            let count = receiver
                .read(&mut buffer)
                .await
                .map_err(ProcessError::call("read the gate's report"))?;
            text.extend(buffer.iter().take(count));
            if text.first() == Some(&LISTENING) {
                self.report = Report::Closed;
                return Ok(());
            }
            if count == 0 {
                break;
            }
        }
        // The pipe closes while the gate exits; its status is there a moment later.
        self.handle.exited().await?;
        Err(ProcessError::Gate {
            message: String::from_utf8_lossy(&text).into_owned(),
            status: self.handle.exit_status(),
        })
    }

    /// Lets the gate become its program. Returns when it was told, not when it has done so: a failed exec shows
    /// as exit code 127 (no such program) or 126, with the reason in the output file.
    ///
    /// # Errors
    /// [`ProcessError::Gone`] when the gate has ended.
    pub fn release(self) -> Result<ProcessHandle, ProcessError> {
        match rustix::io::retry_on_intr(|| rustix::io::write(&self.go, &[GO])) {
            Ok(_) => Ok(self.handle),
            Err(rustix::io::Errno::PIPE) => Err(ProcessError::Gone {
                pid: self.handle.pid(),
            }),
            Err(error) => Err(ProcessError::call("release the gate")(error)),
        }
    }
}

impl Report {
    /// The watched end of the pipe; `None` once the gate has reported.
    fn watch(&mut self) -> Result<Option<&mut Receiver>, ProcessError> {
        if let Self::Fresh(fd) = self {
            let watched = fd.try_clone().and_then(Receiver::from_owned_fd);
            *self = Self::Watched(watched.map_err(ProcessError::call("watch the gate's report"))?);
        }
        match self {
            Self::Watched(receiver) => Ok(Some(receiver)),
            Self::Closed => Ok(None),
            Self::Fresh(_) => Err(ProcessError::call("watch the gate's report")(
                io::ErrorKind::Other,
            )),
        }
    }
}
