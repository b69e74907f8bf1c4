//! Facts the store did not take: kept in memory, in order and within bounds, until it does.

use std::collections::BTreeSet;

use maqet_state::change::Change;
use maqet_state::id::VmId;
use maqet_state::ledger::{LedgerEdit, LedgerEntry, LedgerKind};
use maqet_state::record::VmRecord;
use maqet_state::secret::Secret;
use serde_json::Value;

/// Journal entries kept. A disk may stay full for days, and every VM goes on telling.
const EVENTS_MAX: usize = 4096;

/// Answers kept for repeated calls.
const ANSWERS_MAX: usize = 256;

/// What QEMU reports goes first when there is too much.
const CHATTER: &str = "qmp.";

/// Facts that wait for the store, oldest first. Of each VM only the newest record is kept, of each line of the ledger
/// the newest edit, and of the journal every entry up to a bound.
#[derive(Debug, Default)]
pub(crate) struct Backlog {
    changes: Vec<Change>,
    lost: u64,
}

impl Backlog {
    /// Keeps one more.
    pub(crate) fn keep(&mut self, mut change: Change) {
        if let Some(record) = &change.upsert {
            let is_of_it = |older: &VmRecord| older.id == record.id;
            let mut older = self.changes.iter_mut();
            match older.find(|older| older.upsert.as_ref().is_some_and(is_of_it)) {
                // A new VM is one that comes with its secret: its record stays there.
                Some(new) if new.secret.is_some() => new.upsert = change.upsert.take(),
                Some(older) => older.upsert = None,
                None => {}
            }
        }
        let edited: BTreeSet<_> = change.ledger.iter().filter_map(line).collect();
        for older in &mut self.changes {
            older
                .ledger
                .retain(|edit| line(edit).is_none_or(|line| !edited.contains(&line)));
        }
        self.changes.push(change);
        self.bound();
        self.changes.retain(says_something);
    }

    fn bound(&mut self) {
        let events: usize = self.changes.iter().map(|change| change.events.len()).sum();
        for _ in EVENTS_MAX..events {
            self.drop_one();
        }
        let keys = self.changes.iter().filter(|change| change.key.is_some()).count();
        let with_key = self.changes.iter_mut().filter(|change| change.key.is_some());
        for change in with_key.take(keys.saturating_sub(ANSWERS_MAX)) {
            change.key = None;
        }
    }

    /// Lets the entry go that will be missed least.
    fn drop_one(&mut self) {
        let is_chatter = |change: &Change| {
            change
                .events
                .iter()
                .any(|event| event.kind().starts_with(CHATTER))
        };
        let chatty = self.changes.iter().position(is_chatter);
        let oldest = self.changes.iter().position(|change| !change.events.is_empty());
        let change = chatty.or(oldest).and_then(|at| self.changes.get_mut(at));
        let Some(change) = change else { return };
        let spoken = change
            .events
            .iter()
            .position(|event| event.kind().starts_with(CHATTER));
        change.events.remove(spoken.unwrap_or_default());
        self.lost += 1;
    }

    /// All of it, to be committed.
    pub(crate) fn changes(&self) -> Vec<Change> {
        self.changes.clone()
    }

    /// How many changes wait.
    pub(crate) const fn len(&self) -> usize {
        self.changes.len()
    }

    /// Journal entries there was no room for.
    pub(crate) const fn lost(&self) -> u64 {
        self.lost
    }

    /// It is written.
    pub(crate) fn clear(&mut self) {
        *self = Self::default();
    }

    /// The newest record of a VM, newer than the stored one.
    pub(crate) fn record(&self, id: &VmId) -> Option<&VmRecord> {
        let mut records = self.changes.iter().filter_map(|change| change.upsert.as_ref());
        records.find(|record| record.id == *id)
    }

    /// The ledger as it will be, from the lines that are written.
    pub(crate) fn ledger(&self, mut lines: Vec<LedgerEntry>) -> Vec<LedgerEntry> {
        for edit in self.changes.iter().flat_map(|change| &change.ledger) {
            edit.apply(&mut lines);
        }
        lines
    }

    /// The secret of a VM that the store does not have.
    pub(crate) fn secret(&self, id: &VmId) -> Option<&Secret> {
        let mut secrets = self.changes.iter().filter_map(|change| change.secret.as_ref());
        secrets.find(|(of, _)| of == id).map(|(_, secret)| secret)
    }

    /// What the call with this key was answered.
    pub(crate) fn answer(&self, key: &str) -> Option<&Value> {
        let mut answers = self.changes.iter().filter_map(|change| change.key.as_ref());
        answers.find(|(asked, _)| asked == key).map(|(_, answer)| answer)
    }
}

fn line(edit: &LedgerEdit) -> Option<(LedgerKind, String)> {
    match edit {
        LedgerEdit::Enter(entry) => Some((entry.kind, entry.what.clone())),
        LedgerEdit::Strike { kind, what } | LedgerEdit::StrikeOwn { kind, what, .. } => {
            Some((*kind, what.clone()))
        }
        LedgerEdit::StrikeAll(_) => None,
    }
}

fn says_something(change: &Change) -> bool {
    change.remove.is_some()
        || change.upsert.is_some()
        || change.secret.is_some()
        || change.key.is_some()
        || !change.events.is_empty()
        || !change.ledger.is_empty()
}

#[cfg(test)]
mod tests {
    use maqet_spec::{LoadOptions, Source};
    use maqet_state::clock::Timestamp;
    use maqet_state::journal::NewEvent;

    use super::*;

    fn record(name: &str, generation: u64) -> VmRecord {
        let text = format!("name: {name}\nmachine: none\naccel: tcg\nmemory: 16M\n");
        let source = Source::new("test.yaml", "/", text);
        let spec = maqet_spec::load(&[source], &[], &LoadOptions::default()).unwrap();
        let id = format!("{:032x}", name.len()).parse().unwrap();
        let mut record = VmRecord::new(id, spec, Timestamp(1));
        record.generation = generation;
        record
    }

    fn event(kind: &str) -> NewEvent {
        NewEvent::new(kind, Timestamp(1))
    }

    fn kinds(backlog: &Backlog) -> Vec<String> {
        let changes = backlog.changes();
        let events = changes.iter().flat_map(|change| &change.events);
        events.map(|event| event.kind().to_owned()).collect()
    }

    #[test]
    fn the_newest_record_wins_and_every_entry_stays_in_order() {
        let mut backlog = Backlog::default();
        for generation in 1..4 {
            let kind = format!("step.{generation}");
            backlog.keep(Change::update(record("web", generation)).event(event(&kind)));
        }
        backlog.keep(Change::update(record("db-1", 9)));
        backlog.keep(Change::update(record("db-1", 10)));
        assert_eq!(kinds(&backlog), ["step.1", "step.2", "step.3"]);
        let records: Vec<_> = backlog
            .changes()
            .into_iter()
            .filter_map(|change| change.upsert)
            .collect();
        assert_eq!(records, [record("web", 3), record("db-1", 10)]);
        assert_eq!(backlog.record(&record("web", 0).id), Some(&record("web", 3)));
        assert_eq!(backlog.record(&record("mail-server", 0).id), None);
        assert_eq!(backlog.len(), 4);
        backlog.clear();
        assert_eq!(backlog.len(), 0);
    }

    #[test]
    fn a_new_vm_keeps_its_secret_beside_its_newest_record() {
        let mut backlog = Backlog::default();
        let id = record("web", 1).id;
        backlog
            .keep(Change::create(record("web", 1), Secret::from_bytes([7; 32])).event(event("vm.restored")));
        backlog.keep(Change::update(record("web", 2)).event(event("vm.stopped")));
        let changes = backlog.changes();
        assert_eq!(changes[0].upsert, Some(record("web", 2)));
        assert_eq!(changes[1].upsert, None);
        assert!(changes[0].secret.is_some() && backlog.secret(&id).is_some());
        assert_eq!(backlog.record(&id), Some(&record("web", 2)));
        assert_eq!(kinds(&backlog), ["vm.restored", "vm.stopped"]);
    }

    #[test]
    fn a_line_of_the_ledger_is_edited_once() {
        let strike = || LedgerEdit::Strike {
            kind: LedgerKind::File,
            what: "/disk".to_owned(),
        };
        let enter = LedgerEdit::Enter(LedgerEntry {
            kind: LedgerKind::File,
            what: "/disk".to_owned(),
            id: None,
            at: Timestamp(1),
            identity: None,
        });
        let mut backlog = Backlog::default();
        backlog.keep(Change::default().ledger(enter));
        assert_eq!(backlog.ledger(Vec::new()).len(), 1);
        backlog.keep(Change::default().ledger(strike()));
        assert_eq!(backlog.ledger(Vec::new()), []);
        let edits: Vec<_> = backlog
            .changes()
            .into_iter()
            .flat_map(|change| change.ledger)
            .collect();
        assert_eq!(edits, [strike()]);
    }

    #[test]
    fn chatter_goes_first_when_there_is_too_much() {
        let mut backlog = Backlog::default();
        backlog.keep(Change::default().event(event("vm.stopped")));
        for _ in 0..EVENTS_MAX {
            backlog.keep(Change::default().event(event("qmp.RTC_CHANGE")));
        }
        assert_eq!((kinds(&backlog).len(), backlog.lost()), (EVENTS_MAX, 1));
        for _ in 0..EVENTS_MAX {
            backlog.keep(Change::default().event(event("vm.silent")));
        }
        assert!(!kinds(&backlog).iter().any(|kind| kind.starts_with("qmp.")));
        assert_eq!(kinds(&backlog).len(), EVENTS_MAX);
        assert_eq!(backlog.lost(), u64::try_from(EVENTS_MAX).unwrap() + 1);
    }

    #[test]
    fn answers_are_found_and_bounded() {
        let mut backlog = Backlog::default();
        for number in 0..=ANSWERS_MAX {
            backlog.keep(Change::default().answering(number.to_string(), Value::from(number)));
        }
        assert_eq!(backlog.answer("0"), None);
        assert_eq!(backlog.answer("1"), Some(&Value::from(1)));
        assert_eq!(backlog.len(), ANSWERS_MAX);
    }
}
