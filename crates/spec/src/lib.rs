//! What a VM should be.

pub mod duration;
pub mod name;
pub mod size;
pub mod vm;

pub use vm::VmSpec;
