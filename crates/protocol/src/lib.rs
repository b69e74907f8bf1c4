//! What crosses a socket.

pub mod control;
pub mod method;
pub mod refusal;
pub mod runner;
