//! Handles on processes.

use std::fmt;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, WaitId, WaitIdOptions, WaitIdStatus, pidfd_open, waitid};
use serde::{Deserialize, Serialize};

use crate::error::ProcessError;
use crate::{kernel, procfs};

/// A pidfd: names one process for as long as it is held, whatever becomes of its number.
///
/// Holding one keeps nothing alive and blocks nothing. Dropping one does nothing to the process.
#[derive(Debug)]
pub struct ProcessHandle {
    fd: OwnedFd,
    pid: i32,
    /// Reaping tells the status once; every clone remembers it.
    ended: Arc<Mutex<Option<ExitStatus>>>,
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ExitStatus {
    /// It exited with this code, 0 to 255.
    Code(i32),
    /// This signal ended it.
    Signal(i32),
}

impl ExitStatus {
    /// Reads a wait status as `wait(2)` encodes it.
    fn from_wait_status(status: i32) -> Self {
        match status & 0x7f {
            0 => Self::Code((status >> 8) & 0xff),
            signal => Self::Signal(signal),
        }
    }

    fn from_waitid(status: &WaitIdStatus) -> Option<Self> {
        let code = status.exit_status().map(Self::Code);
        code.or_else(|| status.terminating_signal().map(Self::Signal))
    }
}

impl fmt::Display for ExitStatus {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Code(code) => write!(formatter, "exit code {code}"),
            Self::Signal(signal) => write!(formatter, "signal {signal}"),
        }
    }
}

impl ProcessHandle {
    /// Opens the process that has this number now; `None` when there is none.
    ///
    /// The number may have been reused since the caller learned it: compare identities before acting.
    ///
    /// # Errors
    /// [`ProcessError::Call`] when the kernel refuses for another reason.
    pub fn open(pid: i32) -> Result<Option<Self>, ProcessError> {
        let Some(number) = (pid > 0).then(|| Pid::from_raw(pid)).flatten() else {
            return Ok(None);
        };
        match pidfd_open(number, PidfdFlags::empty()) {
            Ok(fd) => Ok(Some(Self::new(fd, pid))),
            // EINVAL and, since 6.15, ENOENT: the number is that of a thread, not of a process.
            Err(Errno::SRCH | Errno::INVAL | Errno::NOENT) => Ok(None),
            Err(error) => Err(ProcessError::call("open a pidfd")(error)),
        }
    }

    /// Takes over a pidfd, for example one received over a socket.
    ///
    /// # Errors
    /// [`ProcessError::Gone`] when its process was reaped or is not visible in this PID namespace;
    /// [`ProcessError::Malformed`] when it is not a pidfd.
    pub fn from_fd(fd: OwnedFd) -> Result<Self, ProcessError> {
        let pid = procfs::pid_of(fd.as_fd())?;
        if pid <= 0 {
            return Err(ProcessError::Gone { pid });
        }
        Ok(Self::new(fd, pid))
    }

    /// A handle on this process.
    ///
    /// # Errors
    /// [`ProcessError::Call`] when the kernel refuses.
    pub fn current() -> Result<Self, ProcessError> {
        let pid = rustix::process::getpid();
        let fd = pidfd_open(pid, PidfdFlags::empty()).map_err(ProcessError::call("open a pidfd"))?;
        Ok(Self::new(fd, pid.as_raw_nonzero().get()))
    }

    fn new(fd: OwnedFd, pid: i32) -> Self {
        Self {
            fd,
            pid,
            ended: Arc::default(),
        }
    }

    /// Number of the process. Meaningless once it is gone; never signal it.
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// Inode on pidfs, unique within a boot; `None` before Linux 6.9.
    pub fn inode(&self) -> Option<u64> {
        if !kernel::is_pidfs(&self.fd) {
            return None;
        }
        rustix::fs::fstat(&self.fd).ok().map(|stat| stat.st_ino)
    }

    /// Memory that the process holds, bytes: in RAM, swapped out, and in huge pages. `None` when it has ended, or the kernel
    /// does not tell.
    pub fn memory_bytes(&self) -> Option<u64> {
        let held = procfs::memory_bytes(self.pid).ok()?;
        // The number was its own while it was looked at.
        (!self.has_exited()).then_some(held)
    }

    /// Whether the whole process has ended, reaped or not.
    ///
    /// A failing poll counts as "not": nothing is ever declared dead by an error.
    pub fn has_exited(&self) -> bool {
        let mut fds = [PollFd::new(&self.fd, PollFlags::IN)];
        let ready = rustix::io::retry_on_intr(|| poll(&mut fds, Some(&Timespec::default())));
        ready.is_ok_and(|count| count > 0)
    }

    /// Returns once the process has ended, at once when it already has. Needs a tokio runtime with I/O.
    ///
    /// May be called any number of times at once, and dropped at any point. Does not reap.
    ///
    /// # Errors
    /// [`ProcessError::Call`] when descriptors or epoll space ran out.
    pub async fn exited(&self) -> Result<(), ProcessError> {
        let fd = self
            .fd
            .try_clone()
            .map_err(ProcessError::call("duplicate a pidfd"))?;
        let ready = kernel::watch(fd).map_err(ProcessError::call("watch a pidfd"))?;
        loop {
            let mut guard = ready
                .readable()
                .await
                .map_err(ProcessError::call("watch a pidfd"))?;
            if self.has_exited() {
                return Ok(());
            }
            guard.clear_ready();
        }
    }

    /// A second handle on the same process; both know the exit status once one has learned it.
    ///
    /// # Errors
    /// [`ProcessError::Call`] when descriptors ran out.
    pub fn try_clone(&self) -> Result<Self, ProcessError> {
        let fd = self
            .fd
            .try_clone()
            .map_err(ProcessError::call("duplicate a pidfd"))?;
        Ok(Self {
            fd,
            pid: self.pid,
            ended: Arc::clone(&self.ended),
        })
    }

    /// How the process ended. Reaps it when it is a child of ours, or was adopted by us as subreaper.
    ///
    /// `None` while it lives, and for another's child where the kernel does not tell: an unreaped one whose
    /// `/proc/PID/stat` is hidden, or a reaped one before Linux 6.15.
    pub fn exit_status(&self) -> Option<ExitStatus> {
        let mut ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
        // Asked before it ended and answered after, the kernel would have us take a child for a stranger's.
        if ended.is_none() && self.has_exited() {
            *ended = self.reap().or_else(|| self.foreign_status());
        }
        *ended
    }

    fn reap(&self) -> Option<ExitStatus> {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
        let result = rustix::io::retry_on_intr(|| waitid(WaitId::PidFd(self.fd.as_fd()), options));
        result.ok().flatten().as_ref().and_then(ExitStatus::from_waitid)
    }

    /// Status of an ended process that is not our child. Its parent may reap it between the two looks, hence the third.
    fn foreign_status(&self) -> Option<ExitStatus> {
        let recorded = || kernel::recorded_wait_status(self.as_fd()).map(ExitStatus::from_wait_status);
        recorded().or_else(|| self.zombie_status()).or_else(recorded)
    }

    /// Status of a zombie from `/proc/PID/stat`, which is about this process only if it is still unreaped.
    fn zombie_status(&self) -> Option<ExitStatus> {
        let stat = procfs::stat(self.pid).ok()?;
        // Zero is also what the kernel shows to those it hides the field from.
        let known = stat.wait_status != 0 || procfs::may_inspect(self.pid);
        let unreaped = !self.is_reaped().ok()?;
        (unreaped && known && stat.state == 'Z').then(|| ExitStatus::from_wait_status(stat.wait_status))
    }

    /// Whether the process was reaped, so that its number may belong to another.
    pub(crate) fn is_reaped(&self) -> Result<bool, ProcessError> {
        Ok(procfs::pid_of(self.as_fd())? != self.pid)
    }
}

impl AsFd for ProcessHandle {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
