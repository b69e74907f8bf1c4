//! The two ends of a connection.

pub mod client;
mod hangup;
pub mod server;

#[cfg(test)]
mod tests;
