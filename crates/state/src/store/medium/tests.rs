//! Disks that fail: at every write and every flush, once or for good.

use std::path::{Path, PathBuf};

use super::faults::Faults;
use super::*;
use crate::change::Change;
use crate::clock::Timestamp;
use crate::error::StoreError;
use crate::journal::NewEvent;
use crate::store::Store;

/// Commits of one round.
const COMMITS: u64 = 5;

fn event(kind: &str) -> Change {
    let text = "x".repeat(3000);
    Change::default().event(NewEvent::new(kind, Timestamp(1)).with("text", text))
}

fn commit(store: &Store, kind: &str) -> Result<(), StoreError> {
    let answers = store.commit(vec![event(kind)])?;
    assert!(answers.iter().all(Result::is_ok), "{answers:?}");
    Ok(())
}

fn kinds(store: &Store) -> Vec<String> {
    store.verify_journal().unwrap();
    let events = store.events(None, 1000).unwrap();
    events.into_iter().map(|event| event.kind).collect()
}

/// A closed store with one entry, on a disk whose failures can be planned.
fn place(directory: &Path) -> (PathBuf, Faults) {
    let path = directory.join("state.redb");
    let store = Store::open(&path).unwrap().store;
    commit(&store, "before").unwrap();
    drop(store);
    let faults = Faults::under(&path).unwrap();
    (path, faults)
}

/// Writes and flushes that the commits of one round take.
fn moments() -> u64 {
    let directory = tempfile::tempdir().unwrap();
    let (path, faults) = place(directory.path());
    let store = Store::open(&path).unwrap().store;
    faults.plan(0, 0);
    for number in 0..COMMITS {
        commit(&store, &number.to_string()).unwrap();
    }
    faults.seen()
}

/// What was acknowledged before and during a failure, and what was refused.
fn round(path: &Path, faults: &Faults, first: u64, count: u64) -> (Vec<String>, Vec<String>) {
    let store = Store::open(path).unwrap().store;
    let (mut acknowledged, mut refused) = (vec!["before".to_owned()], Vec::new());
    faults.plan(first, count);
    for number in 0..COMMITS {
        let kind = number.to_string();
        match commit(&store, &kind) {
            Ok(()) => acknowledged.push(kind),
            Err(error) => {
                assert!(error.is_of_the_disk(), "{error:?}");
                refused.push(kind);
            }
        }
        // Whatever the disk does to writers, readers are served.
        let seen = kinds(&store);
        assert!(
            acknowledged.iter().all(|kind| seen.contains(kind)),
            "{first}: {seen:?}"
        );
    }
    faults.plan(0, 0);
    commit(&store, "after").unwrap();
    acknowledged.push("after".to_owned());
    (acknowledged, refused)
}

#[test]
fn a_disk_that_fails_once_loses_and_invents_nothing() {
    let moments = moments();
    assert!(moments > 3 * COMMITS, "{moments}");
    for first in 1..=moments {
        let directory = tempfile::tempdir().unwrap();
        let (path, faults) = place(directory.path());
        let (acknowledged, _refused) = round(&path, &faults, first, 1);
        assert_eq!(
            kinds(&Store::open(&path).unwrap().store),
            acknowledged,
            "moment {first}"
        );
    }
}

#[test]
fn a_disk_that_goes_on_failing_is_read_and_loses_nothing() {
    let mut in_doubt = 0;
    for first in 1..=moments() {
        let directory = tempfile::tempdir().unwrap();
        let (path, faults) = place(directory.path());
        let (acknowledged, refused) = round(&path, &faults, first, u64::MAX);
        assert!(!refused.is_empty(), "moment {first}");
        let mut left = kinds(&Store::open(&path).unwrap().store);
        // Only of a batch whose very last flush failed can nobody tell, until the disk works again, whether it is there.
        let before = left.len();
        left.retain(|kind| !refused.contains(kind));
        assert!(before - left.len() <= 1, "moment {first}");
        in_doubt += before - left.len();
        assert_eq!(left, acknowledged, "moment {first}");
    }
    assert!(in_doubt < usize::try_from(2 * COMMITS).unwrap(), "{in_doubt}");
}

#[test]
fn a_store_on_a_failing_disk_opens_to_be_read() {
    let directory = tempfile::tempdir().unwrap();
    let (path, faults) = place(directory.path());
    let whole = std::fs::read(&path).unwrap();
    faults.plan(1, u64::MAX);
    let opened = Store::open(&path).unwrap();
    assert!(
        opened.read_only.as_ref().is_some_and(StoreError::is_of_the_disk),
        "{opened:?}"
    );
    assert_eq!(kinds(&opened.store), ["before"]);
    assert!(matches!(Store::open(&path), Err(StoreError::AlreadyOpen { .. })));
    commit(&opened.store, "refused").unwrap_err();
    assert_eq!(kinds(&opened.store), ["before"]);
    let copy = path.with_extension("copy");
    opened.store.backup_to_new(&copy).unwrap();
    assert_eq!(kinds(&Store::open(&copy).unwrap().store), ["before"]);
    assert!(opened.store.backup_to_new(&copy).is_err());
    assert_eq!(
        std::fs::read(&path).unwrap(),
        whole,
        "a file that was only read was written"
    );
    faults.plan(0, 0);
    commit(&opened.store, "after").unwrap();
    assert_eq!(kinds(&opened.store), ["before", "after"]);
}

#[test]
fn damage_is_told_from_a_failing_disk() {
    let directory = tempfile::tempdir().unwrap();
    let (path, faults) = place(directory.path());
    let mut bytes = std::fs::read(&path).unwrap();
    bytes.truncate(bytes.len() / 2);
    std::fs::write(&path, bytes).unwrap();
    faults.plan(1, u64::MAX);
    let error = Store::open(&path).unwrap_err();
    assert!(!matches!(error, StoreError::AlreadyOpen { .. }), "{error:?}");
    faults.plan(0, 0);
    assert!(matches!(Store::open(&path), Err(StoreError::Corrupt { .. })));
}

#[test]
fn what_is_not_written_is_read_back_and_the_file_stays() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("file");
    let original: Vec<u8> = (0..10_000_u32).map(|number| number.to_le_bytes()[0]).collect();
    std::fs::write(&path, &original).unwrap();
    let medium = Medium::only_read(File::open(&path).unwrap(), true).unwrap();
    let mut model = original.clone();
    let write = |model: &mut Vec<u8>, at: usize, data: &[u8]| {
        medium.write(u64::try_from(at).unwrap(), data).unwrap();
        model[at..at + data.len()].copy_from_slice(data);
    };
    write(&mut model, 0, b"head");
    write(&mut model, 4090, b"across a border");
    medium.set_len(20_000).unwrap();
    model.resize(20_000, 0);
    write(&mut model, 15_000, &[7; 5000]);
    medium.set_len(9000).unwrap();
    medium.set_len(12_000).unwrap();
    model.truncate(9000);
    model.resize(12_000, 0);
    let mut seen = vec![1; 12_000];
    medium.read(0, &mut seen).unwrap();
    assert_eq!(seen, model);
    let mut middle = vec![1; 5000];
    medium.read(4091, &mut middle).unwrap();
    assert_eq!(middle, model[4091..9091]);
    assert!(medium.read(11_999, &mut [0; 2]).is_err());
    assert!(medium.write(11_999, &[0; 2]).is_err());
    assert_eq!(medium.len().unwrap(), 12_000);
    medium.sync_data().unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), original);
}
