//! Files that are damaged, foreign or too new: refused in words, and left as they are.

use std::path::Path;

use maqet_state::error::StoreError;
use maqet_state::journal::JournalEntry;
use maqet_state::record::VmRecord;
use maqet_state::store::{SCHEMA_VERSION, Store};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use redb::{Database, TableDefinition};

use crate::support::{Place, addition, commit, id};

type Content = (Vec<VmRecord>, Vec<JournalEntry>);

fn content(store: &Store) -> Content {
    (store.vms().unwrap(), store.events(None, 1000).unwrap())
}

fn filled(place: &Place) -> Content {
    let store = place.open();
    for number in 1..40 {
        commit(&store, addition(number, &format!("vm-{number}"))).unwrap();
    }
    content(&store)
}

fn refused_as_corrupt(path: &Path) -> String {
    let before = std::fs::read(path).unwrap();
    let error = Store::open(path).unwrap_err();
    assert!(matches!(error, StoreError::Corrupt { .. }), "{error:?}");
    assert_eq!(std::fs::read(path).unwrap(), before, "the file was touched");
    error.to_string()
}

#[test]
fn foreign_files_are_refused() {
    let place = Place::new();
    for foreign in ["", "hello", "name: web\nmemory: 512M\n"] {
        std::fs::write(place.path(), foreign).unwrap();
        let text = refused_as_corrupt(&place.path());
        assert!(
            text.starts_with(&format!("store `{}` is damaged: ", place.path().display())),
            "{text}"
        );
    }
    std::fs::write(place.path(), vec![0x5a; 200_000]).unwrap();
    refused_as_corrupt(&place.path());
}

#[test]
fn truncated_files_are_refused() {
    let place = Place::new();
    filled(&place);
    let whole = std::fs::read(place.path()).unwrap();
    for percent in [0, 1, 10, 50, 90, 99] {
        std::fs::write(place.path(), &whole[..whole.len() * percent / 100]).unwrap();
        refused_as_corrupt(&place.path());
    }
}

#[test]
fn damaged_bytes_never_become_wrong_answers() {
    let seed = rand::random();
    println!("seed {seed}");
    let mut rng = StdRng::seed_from_u64(seed);
    let place = Place::new();
    let right = filled(&place);
    let whole = std::fs::read(place.path()).unwrap();
    let mut refused = 0;
    for round in 0..60 {
        let mut damaged = whole.clone();
        let start = rng.random_range(0..damaged.len() - 16);
        rng.fill(&mut damaged[start..start + 16]);
        std::fs::write(place.path(), &damaged).unwrap();
        match Store::open(&place.path()) {
            Ok(opened) => assert_eq!(
                content(&opened.store),
                right,
                "seed {seed}, round {round}, byte {start}"
            ),
            Err(StoreError::Corrupt { .. }) => refused += 1,
            Err(other) => panic!("seed {seed}, round {round}, byte {start}: {other:?}"),
        }
    }
    assert!(refused > 0, "seed {seed}: no damage was noticed");
}

#[test]
fn a_newer_schema_is_refused_and_kept() {
    let place = Place::new();
    let right = filled(&place);
    set_schema(&place.path(), "7");
    let error = Store::open(&place.path()).unwrap_err();
    assert!(matches!(
        error,
        StoreError::SchemaTooNew {
            found: 7,
            supported: SCHEMA_VERSION,
            ..
        }
    ));
    let path = place.path();
    assert_eq!(
        error.to_string(),
        format!(
            "store `{}` has schema 7, this maqet knows up to 2",
            path.display()
        )
    );
    assert_eq!(place.files(), ["state.redb"]);
    set_schema(&place.path(), "2");
    assert_eq!(content(&place.open()), right);
}

#[test]
fn a_schema_that_never_was_is_refused() {
    let place = Place::new();
    filled(&place);
    set_schema(&place.path(), "0");
    assert!(matches!(
        Store::open(&place.path()),
        Err(StoreError::Corrupt { .. })
    ));
    assert_eq!(place.files(), ["state.redb"]);
}

#[test]
fn another_program_s_database_is_refused() {
    let place = Place::new();
    drop(Database::create(place.path()).unwrap());
    let error = Store::open(&place.path()).unwrap_err();
    assert!(matches!(error, StoreError::Corrupt { .. }), "{error:?}");
    assert!(error.to_string().ends_with("it does not say which schema it has"));
}

#[test]
fn values_that_cannot_be_read_are_named() {
    let place = Place::new();
    filled(&place);
    write(&place.path(), "secrets", id(1).as_str(), b"short");
    write(&place.path(), "vms", id(2).as_str(), b"{}");
    write(&place.path(), "names", "vm-3", b"\"web\"");
    let store = place.open();
    let texts = [
        store.secret(&id(1)).unwrap_err().to_string(),
        store.vm(&id(2)).unwrap_err().to_string(),
        store.vms().unwrap_err().to_string(),
        store.id_of("vm-3").unwrap_err().to_string(),
    ];
    let expected = [
        format!("`{}` of table `secrets` has 5 bytes", id(1)),
        format!("read `{}` of table `vms`", id(2)),
        format!("read `{}` of table `vms`", id(2)),
        "read `vm-3` of table `names`".to_owned(),
    ];
    assert_eq!(texts, expected);
    drop(store);
    write(&place.path(), "meta", "schema", b"two");
    let error = Store::open(&place.path()).unwrap_err();
    assert_eq!(error.to_string(), "read `schema` of table `meta`");
}

fn set_schema(path: &Path, version: &str) {
    write(path, "meta", "schema", version.as_bytes());
}

/// Writes a value behind maqet's back.
fn write(path: &Path, table: &str, key: &str, value: &[u8]) {
    let db = Database::open(path).unwrap();
    let txn = db.begin_write().unwrap();
    let table = TableDefinition::<&str, &[u8]>::new(table);
    txn.open_table(table).unwrap().insert(key, value).unwrap();
    txn.commit().unwrap();
}
