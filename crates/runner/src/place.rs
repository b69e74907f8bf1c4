//! Where and for whom this runner works.

use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};

use maqet_protocol::refusal::{Refusal, RefusalCode};
use maqet_state::id::VmId;

/// Socket the supervisor talks to.
pub(crate) const RUNNER_SOCKET: &str = "runner.sock";
/// QEMU's monitor for the runner.
pub(crate) const CONTROL_MONITOR: &str = "qmp0.sock";
/// QEMU's monitor for recovery and diagnosis; the runner never connects to it.
pub(crate) const SPARE_MONITOR: &str = "qmp1.sock";
/// The guest's first serial port.
pub(crate) const SERIAL_SOCKET: &str = "serial.sock";

/// Socket of a virtiofsd, there until the runner has connected to it.
pub(crate) const HELPER_SOCKET: &str = "virtiofsd.sock";

/// Sockets that live and die with QEMU, or were given up before it.
pub(crate) const QEMU_SOCKETS: [&str; 4] = [CONTROL_MONITOR, SPARE_MONITOR, SERIAL_SOCKET, HELPER_SOCKET];

/// Where and for whom this runner works. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    /// The VM.
    pub(crate) vm: VmId,
    /// Its name.
    pub(crate) name: Arc<str>,
    /// Id of the launch this runner was started for.
    pub(crate) launch_id: Arc<str>,
    /// The VM's runtime directory.
    pub(crate) directory: Directory,
}

/// A directory that may be taken away and made again. Every copy leads to the newest one.
#[derive(Clone, Debug)]
pub(crate) struct Directory(Arc<Mutex<Arc<OwnedFd>>>);

impl Directory {
    /// The directory as it is opened now.
    pub(crate) fn new(opened: OwnedFd) -> Self {
        Self(Arc::new(Mutex::new(Arc::new(opened))))
    }

    /// The newest one.
    pub(crate) fn present(&self) -> Arc<OwnedFd> {
        Arc::clone(&self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// It was made again.
    pub(crate) fn replace(&self, opened: OwnedFd) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(opened);
    }
}

impl Place {
    /// The VM's runtime directory.
    pub(crate) fn directory(&self) -> Arc<OwnedFd> {
        self.directory.present()
    }

    /// A refusal about this VM.
    pub(crate) fn refusal(&self, code: RefusalCode, message: impl Into<String>) -> Refusal {
        Refusal::new(code, message).vm(&*self.name)
    }

    /// A refusal about this VM that came from an error.
    pub(crate) fn refusal_from(
        &self,
        code: RefusalCode,
        message: impl Into<String>,
        error: &dyn std::error::Error,
    ) -> Refusal {
        because(self.refusal(code, message), error)
    }
}

/// A refusal with an error, and all that is behind that, as causes.
pub(crate) fn because(refusal: Refusal, error: &dyn std::error::Error) -> Refusal {
    let mut refusal = refusal.cause(error.to_string());
    let mut source = error.source();
    while let Some(cause) = source {
        refusal = refusal.cause(cause.to_string());
        source = cause.source();
    }
    refusal
}
