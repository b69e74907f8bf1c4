//! Who is alive.

pub mod identity;
