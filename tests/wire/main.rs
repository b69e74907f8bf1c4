//! Both real sockets, the supervisor's and a runner's, before strangers with raw bytes, before a foreign varlink
//! client, and before clients that lose their connection.
#![expect(clippy::unwrap_used, reason = "a test says by panicking what went wrong")]

mod foreign;
mod keys;
mod place;
mod raw;
mod strangers;
