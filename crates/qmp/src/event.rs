//! What QEMU reports by itself.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::Value;
use tokio::sync::Notify;

/// Events kept for a reader that does not read; older ones are dropped and reported as [`Incoming::Lagged`].
pub const EVENT_QUEUE_MAX: usize = 256;

/// Text of events kept for a reader that does not read, bytes as they came over the wire.
pub const EVENT_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Something that happened in QEMU.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    /// QEMU's name for it, for example `SHUTDOWN`; any name is possible.
    pub name: String,
    /// What QEMU says about it; `Null` when nothing.
    pub data: Value,
    /// When, counted from the Unix epoch by QEMU's clock; `None` when QEMU could not tell.
    pub at: Option<Duration>,
}

/// One item of the event stream.
#[derive(Clone, Debug, PartialEq)]
pub enum Incoming {
    /// QEMU reported something.
    Event(Event),
    /// So many events were dropped here because nobody read them in time: look again at what they would have told.
    Lagged(u64),
}

/// Stream of events of one connection, in order.
#[derive(Debug)]
pub struct Events {
    queue: Arc<EventQueue>,
}

impl Events {
    pub(crate) fn new(queue: Arc<EventQueue>) -> Self {
        Self { queue }
    }

    /// The next event; `None` once the connection has ended and everything was read. Cancelling loses nothing.
    pub async fn next(&mut self) -> Option<Incoming> {
        loop {
            // Registered before looking, so that an event between look and wait is not missed.
            let news = self.queue.news.notified();
            if let Some(taken) = self.queue.take() {
                return taken;
            }
            news.await;
        }
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        let mut state = self.queue.lock();
        state.unread = true;
        state.waiting = VecDeque::new();
        state.bytes = 0;
    }
}

/// Bounded queue between the connection and [`Events`].
#[derive(Debug, Default)]
pub(crate) struct EventQueue {
    state: Mutex<QueueState>,
    news: Notify,
}

#[derive(Debug, Default)]
struct QueueState {
    waiting: VecDeque<(Event, usize)>,
    bytes: usize,
    lost: u64,
    ended: bool,
    /// The reader is gone.
    unread: bool,
}

impl EventQueue {
    fn lock(&self) -> MutexGuard<'_, QueueState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds an event of `size` bytes on the wire, dropping the oldest ones when there is no room.
    pub(crate) fn push(&self, event: Event, size: usize) {
        let mut state = self.lock();
        if state.unread {
            return;
        }
        state.waiting.push_back((event, size));
        state.bytes = state.bytes.saturating_add(size);
        while state.waiting.len() > EVENT_QUEUE_MAX || state.bytes > EVENT_BYTES_MAX {
            let Some((_, dropped)) = state.waiting.pop_front() else {
                break;
            };
            state.bytes = state.bytes.saturating_sub(dropped);
            state.lost = state.lost.saturating_add(1);
        }
        drop(state);
        self.news.notify_one();
    }

    /// No more events will come.
    pub(crate) fn end(&self) {
        self.lock().ended = true;
        self.news.notify_one();
    }

    /// What `next` should return now, if anything.
    #[expect(
        clippy::option_option,
        reason = "`Some(None)` is the end of the stream, `None` is not yet"
    )]
    fn take(&self) -> Option<Option<Incoming>> {
        let mut state = self.lock();
        if state.lost > 0 {
            return Some(Some(Incoming::Lagged(std::mem::take(&mut state.lost))));
        }
        if let Some((event, size)) = state.waiting.pop_front() {
            state.bytes = state.bytes.saturating_sub(size);
            return Some(Some(Incoming::Event(event)));
        }
        state.ended.then_some(None)
    }
}
