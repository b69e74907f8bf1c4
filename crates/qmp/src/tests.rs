//! The client against a QEMU that misbehaves on purpose, and against the real one.

mod bounds;
mod fake;
mod misbehaving;
mod real;
