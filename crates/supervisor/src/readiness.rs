//! Telling whoever started the supervisor that it answers, or why it never will.

use std::fs::File;
use std::io::Write;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};

/// The way to tell; a descriptor when started by `maqet`, the service manager's socket when started by it.
#[derive(Debug)]
pub(crate) struct Readiness {
    pipe: Option<File>,
}

impl Readiness {
    /// Takes over the descriptor named on the command line.
    #[expect(
        unsafe_code,
        reason = "a descriptor number from the command line becomes an owner"
    )]
    pub(crate) fn new(fd: Option<RawFd>) -> Self {
        let owned = fd.filter(|fd| *fd > 2).map(|fd| {
            // SAFETY: whoever passed the number on our command line handed the descriptor over to us with it; nothing
            // else in this program, which has just started, knows it.
            unsafe { OwnedFd::from_raw_fd(fd) }
        });
        let pipe = owned.filter(|fd| rustix::io::fcntl_setfd(fd, rustix::io::FdFlags::CLOEXEC).is_ok());
        Self {
            pipe: pipe.map(File::from),
        }
    }

    /// Somebody waits on the descriptor, and nobody for this process.
    pub(crate) fn is_awaited(&self) -> bool {
        self.pipe.is_some()
    }

    /// It answers.
    pub(crate) fn ready(&mut self) {
        self.write("ready\n");
        if let Err(error) = sd_notify::notify(&[sd_notify::NotifyState::Ready]) {
            tracing::debug!(%error, "no service manager to tell");
        }
    }

    /// It will not.
    pub(crate) fn failed(&mut self, text: &str) {
        self.write(text);
    }

    /// Writes and closes. Whoever stopped waiting does not need to know.
    fn write(&mut self, text: &str) {
        if let Some(mut pipe) = self.pipe.take() {
            drop(pipe.write_all(text.as_bytes()));
        }
    }
}
