//! Signals: sent through handles only, and the mask of this process.

use nix::sys::signal::{SigSet, SigmaskHow, Signal as Number, pthread_sigmask};
use rustix::io::Errno;
use rustix::process::pidfd_send_signal;

use crate::error::ProcessError;
use crate::pidfd::ProcessHandle;

/// Signals that maqet sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Signal {
    /// Ask to end.
    Term,
    /// Interrupt from a terminal.
    Int,
    /// The terminal went away.
    Hup,
    /// End without being asked.
    Kill,
    /// Freeze.
    Stop,
    /// Thaw.
    Cont,
    /// Look up: a runner puts its socket back where it belongs. Ignored by whoever does not know it.
    Urgent,
}

impl Signal {
    fn number(self) -> rustix::process::Signal {
        match self {
            Self::Term => rustix::process::Signal::TERM,
            Self::Int => rustix::process::Signal::INT,
            Self::Hup => rustix::process::Signal::HUP,
            Self::Kill => rustix::process::Signal::KILL,
            Self::Stop => rustix::process::Signal::STOP,
            Self::Cont => rustix::process::Signal::CONT,
            Self::Urgent => rustix::process::Signal::URG,
        }
    }
}

/// What became of a signal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Sent {
    /// The kernel took it. A zombie takes signals too: wait for the exit, do not infer life.
    Delivered,
    /// The process was gone already.
    AlreadyGone,
}

impl ProcessHandle {
    /// Sends a signal to exactly this process.
    ///
    /// # Errors
    /// [`ProcessError::Call`] when the kernel refuses, for example for another user's process.
    pub fn signal(&self, signal: Signal) -> Result<Sent, ProcessError> {
        match pidfd_send_signal(self, signal.number()) {
            Ok(()) => Ok(Sent::Delivered),
            Err(Errno::SRCH) => Ok(Sent::AlreadyGone),
            Err(error) => Err(ProcessError::call("send a signal")(error)),
        }
    }
}

/// Blocks SIGTERM, SIGINT and SIGHUP for this thread and for what it execs.
///
/// QEMU exits 0 at once on a stray SIGTERM, a power cut that looks like success.
///
/// # Errors
/// [`ProcessError::Call`] when the kernel refuses.
pub fn block_termination() -> Result<(), ProcessError> {
    let mut set = SigSet::empty();
    for signal in [Number::SIGTERM, Number::SIGINT, Number::SIGHUP] {
        set.add(signal);
    }
    pthread_sigmask(SigmaskHow::SIG_BLOCK, Some(&set), None).map_err(ProcessError::call("block signals"))
}

/// Unblocks every signal for this thread, whatever it inherited.
///
/// # Errors
/// [`ProcessError::Call`] when the kernel refuses.
pub fn reset_mask() -> Result<(), ProcessError> {
    pthread_sigmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None)
        .map_err(ProcessError::call("unblock signals"))
}
