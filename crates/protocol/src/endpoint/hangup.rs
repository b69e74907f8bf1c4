//! Noticing that the peer has left, without reading what it may have sent before.
#![expect(unsafe_code, reason = "registering a descriptor with the reactor")]

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// A watch on one connected unix stream.
#[derive(Debug)]
pub(super) struct Hangup(AsyncFd<OwnedFd>);

impl Hangup {
    /// A watch through a second descriptor, because the first is registered for data. Registered for urgent data,
    /// which unix streams do not have, epoll reports only what it always reports: that both directions are closed.
    pub(super) fn watch(stream: &impl AsFd) -> io::Result<Self> {
        let copy = stream.as_fd().try_clone_to_owned()?;
        // SAFETY: an `OwnedFd` reports the same open descriptor for as long as it lives, and it lives inside.
        let watch = unsafe { AsyncFd::register_with_interest(copy, Interest::PRIORITY) };
        Ok(Self(watch.map_err(io::Error::from)?))
    }

    /// Resolves once the peer has closed the socket, at once when it already has.
    pub(super) async fn seen(&self) -> io::Result<()> {
        // The guard goes without clearing the readiness: once gone, the peer stays gone.
        self.0.ready(Interest::PRIORITY).await.map(drop)
    }
}
