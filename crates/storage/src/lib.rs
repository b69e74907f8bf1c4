//! Bytes on disk: where maqet and QEMU may write, images made without races, and what the QEMU programs of this
//! host can do.
//!
//! [`policy`] says which paths are off limits. [`image`] creates, opens and inspects disk images, [`share`] opens
//! directories for guests, always through descriptors: a path is resolved once, then forgotten. [`binary`] finds programs, [`probe`] asks a QEMU what it
//! knows, [`kvm`] finds out whether KVM really runs a guest.
//!
//! **Invariant:** no step of creating an image opens anything by a path that an earlier step looked at.
//! **Invariant:** every program started here has a deadline, an empty environment and no input.

pub mod binary;
pub mod error;
pub mod image;
pub mod kvm;
pub mod library;
pub mod meter;
mod place;
pub mod policy;
pub mod probe;
pub mod share;
mod tool;
pub mod virtiofsd;

pub use binary::{Binaries, Binary};
pub use error::StorageError;
pub use policy::PathPolicy;
