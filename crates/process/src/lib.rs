//! Who is alive: identities that survive the reuse of a process number, and everything done to processes.
//!
//! A process is only ever referred to by a [`ProcessHandle`] (a pidfd). [`ProcessIdentity`] is what is written
//! to disk; [`ProcessIdentity::verify`] turns it back into a handle, or says that the process is gone, or that
//! nobody can tell. Signals go through handles, exits are seen as readiness of handles.
//!
//! [`spawn`] starts programs with an exact set of descriptors. [`gate`] starts one that waits, with its number
//! already fixed, until its identity is durable. [`socket`] and [`directory`] are the private places where the
//! started processes meet, [`private`] the files in them.
//!
//! **Invariant:** nothing here sends a signal to a number.
//! **Invariant:** children are reaped only by [`ProcessHandle::exit_status`]. A process that uses this crate
//! must not ignore SIGCHLD, wait for "any child", or start children by means that do so.

pub mod census;
pub mod confine;
pub mod directory;
pub mod enclosure;
pub mod error;
pub mod gate;
pub mod identity;
mod kernel;
pub mod offers;
pub mod pidfd;
pub mod point;
pub mod ports;
pub mod presence;
pub mod private;
mod procfs;
pub mod signal;
pub mod socket;
pub mod spawn;

pub use error::ProcessError;
pub use identity::{Liveness, ProcessIdentity, Role};
pub use pidfd::{ExitStatus, ProcessHandle};
pub use signal::{Sent, Signal};
