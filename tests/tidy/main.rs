//! The rules of the repository that a program can check.
#![expect(clippy::unwrap_used, reason = "a test may panic, in its helpers too")]

mod arrows;
mod config;
mod documents;
mod sources;
mod tree;
