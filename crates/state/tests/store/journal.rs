//! Cursors, reading, pruning, and what the chain notices.

use std::time::Duration;

use maqet_state::change::Change;
use maqet_state::error::StoreError;
use maqet_state::journal::{JournalLimits, NewEvent, RESERVED_KEYS};
use maqet_state::store::Store;
use redb::{Database, ReadableTable, TableDefinition};
use serde_json::{Map, Value, json};

use crate::support::{Place, addition, at, commit, id, record};

const JOURNAL: TableDefinition<'static, u64, &'static [u8]> = TableDefinition::new("journal");
const CHAIN: TableDefinition<'static, u64, &'static [u8]> = TableDefinition::new("chain");

fn tick(number: u64) -> Change {
    Change::default().event(NewEvent::new("tick", at(number)).with("number", number))
}

fn cursors(store: &Store, since: Option<u64>, limit: usize) -> Vec<u64> {
    let events = store.events(since, limit).unwrap();
    events.iter().map(|event| event.cursor).collect()
}

#[test]
fn cursors_rise_by_one_and_survive_reopening() {
    let place = Place::new();
    let store = place.open();
    assert_eq!(store.cursor().unwrap(), 0);
    let first = commit(&store, tick(1).event(NewEvent::new("tock", at(2)))).unwrap();
    assert_eq!(
        first.events.iter().map(|event| event.cursor).collect::<Vec<_>>(),
        [1, 2]
    );
    drop(store);
    let store = place.open();
    assert_eq!(commit(&store, tick(3)).unwrap().events[0].cursor, 3);
    assert_eq!(store.cursor().unwrap(), 3);
    assert_eq!(cursors(&store, None, 10), [1, 2, 3]);
    assert_eq!(cursors(&store, Some(1), 10), [2, 3]);
    assert_eq!(cursors(&store, Some(0), 2), [1, 2]);
    assert!(cursors(&store, Some(3), 10).is_empty());
    assert!(cursors(&store, Some(u64::MAX), 10).is_empty());
}

#[test]
fn entries_come_back_as_they_were_committed() {
    let place = Place::new();
    let store = place.open();
    let vm = record(1, "web");
    let event = NewEvent::new("vm.stopped", at(5))
        .about(&vm)
        .with("cause", "stop")
        .with("exit_code", 0);
    let change = addition(1, "web").event(event);
    let committed = commit(&store, change).unwrap();
    commit(&store, tick(6)).unwrap();
    assert_eq!(store.events(None, 2).unwrap(), committed.events);
    assert_eq!(store.events_of(&id(1), None, 10).unwrap(), committed.events);
    assert_eq!(
        store.events_of(&id(1), Some(1), 10).unwrap(),
        committed.events[1..]
    );
    assert!(store.events_of(&id(2), None, 10).unwrap().is_empty());
    let entry = &committed.events[1];
    assert_eq!(
        (entry.vm.as_deref(), entry.id.as_ref()),
        (Some("web"), Some(&id(1)))
    );
    assert_eq!(
        Value::Object(entry.data.clone()),
        json!({"cause": "stop", "exit_code": 0})
    );
}

#[test]
fn data_cannot_shadow_the_fields_of_an_entry() {
    let data: Map<_, _> = RESERVED_KEYS
        .iter()
        .map(|key| ((*key).to_owned(), json!("x")))
        .collect();
    let place = Place::new();
    let store = place.open();
    let event = NewEvent::new("qmp.MEMORY_DEVICE_SIZE_CHANGE", at(1))
        .with_all(data)
        .with("size", 1);
    let committed = commit(&store, Change::default().event(event)).unwrap();
    let keys: Vec<_> = committed.events[0].data.keys().cloned().collect();
    assert_eq!(keys.len(), 6);
    assert!(RESERVED_KEYS.iter().all(|key| !keys.contains(&(*key).to_owned())));
}

#[test]
fn too_many_entries_are_pruned_to_a_checkpoint() {
    let place = Place::new();
    let limits = JournalLimits {
        entries_max: 5,
        ..JournalLimits::default()
    };
    let store = Store::open_with(&place.path(), limits).unwrap().store;
    for number in 1..=12 {
        commit(&store, tick(number)).unwrap();
    }
    assert_eq!(cursors(&store, None, 100), [8, 9, 10, 11, 12]);
    let proof = store.verify_journal().unwrap();
    assert_eq!((proof.pruned, proof.cursor), (7, 12));
    drop(store);
    let store = Store::open_with(&place.path(), limits).unwrap().store;
    assert_eq!(store.verify_journal().unwrap(), proof);
}

#[test]
fn pruning_does_not_change_the_chain() {
    let (whole, pruned) = (Place::new(), Place::new());
    let limits = JournalLimits {
        entries_max: 1,
        age_max: Duration::from_secs(1),
    };
    let (whole, pruned) = (
        whole.open(),
        Store::open_with(&pruned.path(), limits).unwrap().store,
    );
    for number in 1..=9 {
        commit(&whole, tick(number)).unwrap();
        commit(&pruned, tick(number)).unwrap();
    }
    let (whole, pruned) = (whole.verify_journal().unwrap(), pruned.verify_journal().unwrap());
    assert_eq!(whole.hash, pruned.hash);
    assert_eq!((whole.pruned, pruned.pruned), (0, 8));
}

#[test]
fn old_entries_are_pruned_but_never_the_newest() {
    let place = Place::new();
    let limits = JournalLimits {
        age_max: Duration::from_secs(10),
        ..JournalLimits::default()
    };
    let store = Store::open_with(&place.path(), limits).unwrap().store;
    for seconds in [0, 4, 8, 12, 15] {
        commit(&store, tick(seconds * 1000)).unwrap();
    }
    assert_eq!(cursors(&store, None, 100), [3, 4, 5]);
    commit(&store, tick(1_000_000)).unwrap();
    assert_eq!(cursors(&store, None, 100), [6]);
    // A clock that went back prunes nothing.
    commit(&store, tick(0)).unwrap();
    assert_eq!(cursors(&store, None, 100), [6, 7]);
    store.verify_journal().unwrap();
}

#[test]
fn a_lowered_limit_is_reached_in_bounded_steps() {
    let place = Place::new();
    let store = place.open();
    store.commit((0..3000).map(tick).collect()).unwrap();
    drop(store);
    let limits = JournalLimits {
        entries_max: 1,
        ..JournalLimits::default()
    };
    let store = Store::open_with(&place.path(), limits).unwrap().store;
    let mut left = Vec::new();
    for number in 0..4 {
        commit(&store, tick(number)).unwrap();
        left.push(cursors(&store, None, 10_000).len());
        store.verify_journal().unwrap();
    }
    assert_eq!(left, [1977, 954, 1, 1]);
}

/// Alters a closed store behind maqet's back and says what the walk found.
fn tamper(
    alter: impl FnOnce(&mut redb::Table<'_, u64, &'static [u8]>, &mut redb::Table<'_, u64, &'static [u8]>),
) -> u64 {
    let place = Place::new();
    let store = place.open();
    for number in 1..=6 {
        commit(&store, tick(number)).unwrap();
    }
    store.verify_journal().unwrap();
    drop(store);
    let db = Database::open(place.path()).unwrap();
    let txn = db.begin_write().unwrap();
    alter(
        &mut txn.open_table(JOURNAL).unwrap(),
        &mut txn.open_table(CHAIN).unwrap(),
    );
    txn.commit().unwrap();
    drop(db);
    match place.open().verify_journal() {
        Err(StoreError::ChainBroken { cursor }) => cursor,
        other => panic!("not noticed: {other:?}"),
    }
}

#[test]
fn altered_entries_are_noticed() {
    assert_eq!(
        tamper(|journal, _| {
            let text = String::from_utf8(journal.get(3).unwrap().unwrap().value().to_vec()).unwrap();
            let forged = text.replace("\"number\":3", "\"number\":4");
            assert_ne!(text, forged);
            journal.insert(3, forged.as_bytes()).unwrap();
        }),
        3
    );
}

#[test]
fn dropped_entries_are_noticed() {
    assert_eq!(
        tamper(|journal, chain| {
            journal.remove(2).unwrap();
            chain.remove(2).unwrap();
        }),
        2
    );
    assert_eq!(
        tamper(|journal, chain| {
            journal.remove(6).unwrap();
            chain.remove(6).unwrap();
        }),
        6
    );
    assert_eq!(
        tamper(|_, chain| {
            chain.remove(4).unwrap();
        }),
        4
    );
}

#[test]
fn added_entries_are_noticed() {
    assert_eq!(
        tamper(|journal, _| {
            journal.insert(7, b"{}".as_slice()).unwrap();
        }),
        7
    );
    assert_eq!(
        tamper(|_, chain| {
            chain.insert(7, [0; 32].as_slice()).unwrap();
        }),
        7
    );
}

#[test]
fn an_unreadable_entry_is_named() {
    let place = Place::new();
    let store = place.open();
    commit(&store, tick(1)).unwrap();
    drop(store);
    let db = Database::open(place.path()).unwrap();
    let txn = db.begin_write().unwrap();
    txn.open_table(JOURNAL)
        .unwrap()
        .insert(1, b"{".as_slice())
        .unwrap();
    txn.commit().unwrap();
    drop(db);
    let error = place.open().events(None, 1).unwrap_err();
    assert_eq!(error.to_string(), "read `1` of table `journal`");
}
