//! Those who follow what happens: any number, each with a bounded queue of its own.

use maqet_protocol::runner::RunnerFact;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::mpsc::{Receiver, Sender, channel};

/// Facts a watcher may be behind; one that falls further back is dropped and has to ask anew.
const BACKLOG: usize = 256;

/// Everybody who watches.
#[derive(Debug, Default)]
pub(crate) struct Watchers(Vec<Sender<RunnerFact>>);

impl Watchers {
    /// Lets one more watch; its first fact is that it does, the next ones are those that are `known`.
    pub(crate) fn join(&mut self, known: &[RunnerFact]) -> Receiver<RunnerFact> {
        let (sender, receiver) = channel(BACKLOG);
        self.0.push(sender);
        if let Some(fresh) = self.0.last() {
            deliver(fresh, &RunnerFact::Watching);
            for fact in known {
                deliver(fresh, fact);
            }
        }
        receiver
    }

    /// Tells everybody. Who left or fell behind is forgotten.
    pub(crate) fn publish(&mut self, fact: &RunnerFact) {
        self.0.retain(|watcher| deliver(watcher, fact));
    }
}

fn deliver(watcher: &Sender<RunnerFact>, fact: &RunnerFact) -> bool {
    match watcher.try_send(fact.clone()) {
        Ok(()) => true,
        Err(TrySendError::Full(_)) => {
            tracing::warn!("a watcher fell behind and is dropped");
            false
        }
        Err(TrySendError::Closed(_)) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everybody_hears_the_same() {
        let mut watchers = Watchers::default();
        let mut one = watchers.join(&[]);
        let mut two = watchers.join(&[]);
        watchers.publish(&RunnerFact::Silent { silent: true });
        for watcher in [&mut one, &mut two] {
            assert_eq!(watcher.try_recv(), Ok(RunnerFact::Watching));
            assert_eq!(watcher.try_recv(), Ok(RunnerFact::Silent { silent: true }));
        }
    }

    #[test]
    fn the_slow_and_the_gone_are_forgotten() {
        let mut watchers = Watchers::default();
        let mut slow = watchers.join(&[]);
        drop(watchers.join(&[]));
        for _ in 0..BACKLOG {
            watchers.publish(&RunnerFact::Silent { silent: true });
        }
        assert!(watchers.0.is_empty());
        let mut seen = 0;
        while slow.try_recv().is_ok() {
            seen += 1;
        }
        assert_eq!(seen, BACKLOG);
        assert!(slow.is_closed());
    }
}
