//! How far a long work is, for whoever wants to see it.

use tokio::sync::watch;

/// What is being done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Step {
    /// Nothing has begun.
    #[default]
    Waiting,
    /// A file is read for its checksum.
    Hashing,
    /// An image is written.
    Copying,
    /// An image is written into the one below it.
    Merging,
    /// An image is examined.
    Checking,
}

/// How far it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// What is being done.
    pub step: Step,
    /// Bytes done of this step.
    pub done: u64,
    /// Bytes there are in this step; 0 when that is not known.
    pub total: u64,
}

/// Where progress is told. Only the newest is kept: whoever looks seldom holds up nobody.
#[derive(Clone, Debug)]
pub struct Meter(watch::Sender<Progress>);

impl Meter {
    /// A meter, and where it can be read; that ends when the last meter is dropped.
    pub fn new() -> (Self, watch::Receiver<Progress>) {
        let (sender, receiver) = watch::channel(Progress::default());
        (Self(sender), receiver)
    }

    /// A meter that nobody reads.
    pub fn unread() -> Self {
        Self::new().0
    }

    pub(crate) fn tell(&self, step: Step, done: u64, total: u64) {
        self.0.send_replace(Progress { step, done, total });
    }
}
