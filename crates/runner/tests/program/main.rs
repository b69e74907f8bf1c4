//! The program as the supervisor meets it: real runners, real QEMUs, the tiny guest.
#![expect(clippy::unwrap_used, reason = "a test may panic, in its helpers too")]

mod adopt;
mod end;
mod plug;
mod scene;
mod start;
mod stop;
