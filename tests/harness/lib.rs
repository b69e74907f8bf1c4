//! What tests of the real programs stand on.
//!
//! [`Sandbox`] is a world of its own for one test: directories, environment, and the programs built from `programs/`.
//! When it goes, every process that belongs to it has to be gone too; a test that leaves one behind fails. [`wait`]
//! waits for conditions, [`truth`] holds the list to
//! the kernel, [`filters`] makes snapshots the same on every machine, [`guest`] writes descriptions of VMs, [`qemu_img`]
//! makes images and looks into them.
#![expect(
    clippy::missing_panics_doc,
    clippy::unwrap_used,
    reason = "the harness tells a test that something is wrong by panicking"
)]

pub mod filters;
pub mod guest;
pub mod held;
pub mod leftovers;
pub mod linux;
pub mod monitor;
pub mod namespace;
pub mod numbered;
pub mod program;
pub mod qemu_img;
pub mod sandbox;
pub mod truth;
pub mod wait;

pub use guest::Guest;
pub use held::Held;
pub use numbered::{Does, Numbered};
pub use program::{Output, Running, built};
pub use sandbox::Sandbox;
