//! The event bus: live subscribers only. What they missed is in the journal.

use actix::{Actor, Context, Handler};
use maqet_state::journal::JournalEntry;
use tokio::sync::mpsc;

use crate::messages::{Publish, Subscribe};

/// Entries one subscriber may lag behind before it is dropped and has to read from the journal.
const SUBSCRIBER_ENTRIES_MAX: usize = 256;

/// Batches of entries that may wait for the bus.
const MAILBOX_CAPACITY: usize = 4096;

/// Tells subscribers what has become durable.
#[derive(Debug, Default)]
pub(crate) struct EventBus {
    subscribers: Vec<mpsc::Sender<JournalEntry>>,
}

impl Actor for EventBus {
    type Context = Context<Self>;

    fn started(&mut self, context: &mut Self::Context) {
        context.set_mailbox_capacity(MAILBOX_CAPACITY);
    }
}

impl Handler<Publish> for EventBus {
    type Result = ();

    fn handle(&mut self, Publish(entries): Publish, _context: &mut Self::Context) {
        self.subscribers.retain(|subscriber| {
            entries
                .iter()
                .all(|entry| subscriber.try_send(entry.clone()).is_ok())
        });
    }
}

impl Handler<Subscribe> for EventBus {
    type Result = actix::MessageResult<Subscribe>;

    fn handle(&mut self, _message: Subscribe, _context: &mut Self::Context) -> Self::Result {
        self.subscribers.retain(|subscriber| !subscriber.is_closed());
        let (sender, receiver) = mpsc::channel(SUBSCRIBER_ENTRIES_MAX);
        self.subscribers.push(sender);
        actix::MessageResult(receiver)
    }
}
