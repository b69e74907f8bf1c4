//! supervisor.

pub mod guest;
