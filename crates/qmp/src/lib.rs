//! What QEMU says: a client for the QEMU Machine Protocol.
//!
//! [`Qmp::connect`] reads the greeting, leaves negotiation mode and starts two small tasks on the current tokio
//! runtime, single-threaded or not. The handle is cheap to clone and may be used from many places at once; what
//! QEMU reports by itself arrives through [`Events`].
//!
//! - **One vocabulary for QEMU 7.2 to today.** Replies are read field by field as we need them; unknown events,
//!   enum values and error classes are kept, never fatal. Whether a command exists is asked with [`Qmp::schema`],
//!   not guessed from a version number.
//! - **Replies are matched by id.** A QEMU that outlived its previous client still delivers that client's replies;
//!   a reply without an id of this connection is discarded and counted.
//! - **Everything has a bound.** Lines, the queue of commands, the queue of events, and the time of each command.
//! - **QEMU reads byte by byte**, about 2 µs each, so what is sent is compact and ids are short.
//!
//! **Invariant:** nothing in this crate retries. A command whose deadline passed after its first byte was written
//! may still be carried out by QEMU.

mod client;
mod codec;
pub mod command;
mod connection;
mod error;
mod event;
mod message;
mod schema;

pub use client::{Qmp, Version};
pub use codec::LINE_BYTES_MAX;
pub use command::{Command, RunState};
pub use connection::{PENDING_COMMANDS_MAX, QUEUED_BYTES_MAX};
pub use error::QmpError;
pub use event::{EVENT_BYTES_MAX, EVENT_QUEUE_MAX, Event, Events, Incoming};
pub use schema::{Argument, Schema};

#[cfg(test)]
mod tests;
