//! The control socket: authenticated varlink; one method call is one actor message.

mod dispatch;
mod events;
mod images;
mod server;
mod snapshots;
mod storage;
mod store;

pub(crate) use self::server::{Desk, Listening, SOCKET, listen, serve};
