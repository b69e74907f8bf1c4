//! What an examination finds, and that looking changes nothing.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use maqet_state::error::StoreError;
use maqet_state::ledger::{LedgerEdit, LedgerEntry, LedgerKind};
use maqet_state::store::{SCHEMA_VERSION, Store};
use redb::{Database, TableDefinition};
use serde_json::json;

use crate::support::{Place, addition, at, commit, id, secret};

type Text = TableDefinition<'static, &'static str, &'static [u8]>;

/// A store with something in every table.
fn full() -> Place {
    let place = Place::new();
    let store = place.open();
    let line = LedgerEntry {
        kind: LedgerKind::File,
        what: "/disk".to_owned(),
        id: Some(id(1)),
        at: at(1),
        identity: None,
    };
    let first = addition(1, "web")
        .ledger(LedgerEdit::Enter(line))
        .answering("call", json!({"id": 1}));
    commit(&store, first).unwrap();
    commit(&store, addition(2, "db")).unwrap();
    place
}

/// Writes one value behind the store's back; `None` takes the row out.
fn tamper(path: &Path, table: &'static str, key: &'static str, value: Option<&[u8]>) {
    let db = Database::open(path).unwrap();
    let txn = db.begin_write().unwrap();
    {
        let mut table = txn.open_table(Text::new(table)).unwrap();
        match value {
            Some(value) => table.insert(key, value).map(drop).unwrap(),
            None => table.remove(key).map(drop).unwrap(),
        }
    }
    txn.commit().unwrap();
}

/// `table key: what` of everything that was found.
fn findings(path: &Path) -> Vec<String> {
    let examined = Store::view(path).unwrap().store.examine().unwrap();
    let lines = examined
        .findings
        .iter()
        .map(|found| format!("{} {}: {}", found.table, found.key, found.what));
    lines.collect()
}

#[test]
fn a_sound_store_has_no_findings() {
    let place = full();
    let store = place.open();
    store.check_pages().unwrap();
    let examined = store.examine().unwrap();
    assert_eq!(examined.findings, []);
    assert_eq!((examined.schema, examined.vms), (SCHEMA_VERSION, 2));
    assert_eq!((examined.ledger, examined.answers), (1, 1));
    let proof = store.verify_journal().unwrap();
    assert_eq!(examined.journal.hash, proof.hash);
    assert_eq!((examined.journal.cursor, examined.journal.broken_at), (2, None));
    assert_eq!(store.walk_journal().unwrap(), examined.journal);
}

#[test]
fn whatever_does_not_fit_is_found() {
    let one = "00000000000000000000000000000001";
    let two = "00000000000000000000000000000002";
    let three = "\"00000000000000000000000000000003\"".as_bytes();
    let cases: [(&str, &str, Option<&[u8]>, &str); 8] = [
        ("vms", one, Some(b"{"), "cannot be read"),
        ("vms", two, None, "which is not stored"),
        ("names", "web", None, "its name `web` does not lead to it"),
        ("names", "more", Some(three), "which is not stored"),
        ("secrets", one, None, "has no secret"),
        ("secrets", one, Some(b"short"), "has 5 bytes"),
        ("answers", "call", None, "has 1 places for 0 answers"),
        ("ledger", "file:/disk", Some(b"7"), "cannot be read"),
    ];
    for (table, key, value, wanted) in cases {
        let place = full();
        tamper(&place.path(), table, key, value);
        let found = findings(&place.path());
        assert!(found[0].contains(wanted), "{table} {key}: {found:?}");
    }
}

#[test]
fn an_entry_that_was_changed_breaks_the_chain_where_it_stands() {
    let place = full();
    let number = TableDefinition::<u64, &[u8]>::new("journal");
    let db = Database::open(place.path()).unwrap();
    let txn = db.begin_write().unwrap();
    let entry = json!({"v": 1, "cursor": 9, "at": "2026-01-01T00:00:00Z", "vm": null, "id": null, "kind": "x", "data": {}});
    txn.open_table(number)
        .unwrap()
        .insert(2, entry.to_string().as_bytes())
        .unwrap();
    txn.commit().unwrap();
    drop(db);
    let found = findings(&place.path());
    assert_eq!(found[0], "journal 2: says that it is entry 9");
    assert!(
        found[1].starts_with("journal 2: the chain is broken"),
        "{found:?}"
    );
    let walk = place.open().walk_journal().unwrap();
    assert_eq!((walk.cursor, walk.broken_at), (1, Some(2)));
}

#[test]
fn findings_are_bounded() {
    let place = Place::new();
    let store = place.open();
    let many = 150;
    store
        .commit(
            (0..many)
                .map(|number| addition(number, &format!("vm-{number}")))
                .collect(),
        )
        .unwrap();
    drop(store);
    let db = Database::open(place.path()).unwrap();
    let txn = db.begin_write().unwrap();
    txn.delete_table(Text::new("secrets")).unwrap();
    drop(txn.open_table(Text::new("secrets")).unwrap());
    txn.commit().unwrap();
    drop(db);
    let examined = place.open().examine().unwrap();
    assert_eq!((examined.findings.len(), examined.left_out), (100, 50));
}

#[test]
fn looking_at_a_file_leaves_it_as_it_is() {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/schema-1.redb");
    let place = Place::new();
    fs::copy(golden, place.path()).unwrap();
    for mode in [0o600, 0o400] {
        fs::set_permissions(place.path(), fs::Permissions::from_mode(mode)).unwrap();
        let bytes = fs::read(place.path()).unwrap();
        let viewed = Store::view(&place.path()).unwrap();
        assert_eq!(viewed.schema, 1);
        let vms = viewed.store.vms().unwrap();
        assert!(viewed.store.secret(&vms[0].id).unwrap().is_some());
        assert_eq!(viewed.store.examine().unwrap().findings, []);
        assert!(viewed.store.commit(vec![addition(1, "web")]).is_err());
        // Reading goes on after that, and the file is as it was.
        assert_eq!(viewed.store.vms().unwrap(), vms);
        drop(viewed);
        assert!(fs::read(place.path()).unwrap() == bytes, "the file was touched");
        assert_eq!(place.files(), ["state.redb"]);
    }
}

fn refusal(place: &Place) -> StoreError {
    Store::view(&place.path()).unwrap_err()
}

#[test]
fn what_is_in_use_is_told() {
    let place = full();
    let open = place.open();
    let error = refusal(&place);
    assert!(matches!(error, StoreError::AlreadyOpen { .. }), "{error:?}");
    drop(open);
    assert_eq!(findings(&place.path()), Vec::<String>::new());
}

#[test]
fn what_is_no_store_is_told() {
    let place = full();
    let mut bytes = fs::read(place.path()).unwrap();
    bytes.iter_mut().skip(4096).for_each(|byte| *byte ^= 0x5a);
    for content in [bytes, b"no store".to_vec(), Vec::new()] {
        fs::write(place.path(), content).unwrap();
        let error = refusal(&place);
        assert!(matches!(error, StoreError::Corrupt { .. }), "{error:?}");
    }
    fs::remove_file(place.path()).unwrap();
    let error = refusal(&place);
    assert!(matches!(error, StoreError::Io { .. }), "{error:?}");
    assert_eq!(place.files(), Vec::<String>::new());
}

#[test]
fn damage_under_an_open_store_is_noticed_and_stays() {
    let place = full();
    let store = place.open();
    store.check_pages().unwrap();
    commit(&store, addition(3, "mail")).unwrap();
    let mut bytes = fs::read(place.path()).unwrap();
    for byte in bytes.iter_mut().skip(4096) {
        *byte ^= 0x5a;
    }
    fs::write(place.path(), &bytes).unwrap();
    let error = store.check_pages().unwrap_err();
    assert!(matches!(error, StoreError::Corrupt { .. }), "{error:?}");
    assert!(store.commit(vec![addition(4, "late")]).is_err());
    assert!(store.vms().is_err());
    drop(store);
    // Nothing was made of it: it is set aside as it is.
    let error = Store::open(&place.path()).unwrap_err();
    assert!(matches!(error, StoreError::Corrupt { .. }), "{error:?}");
}

#[test]
fn rows_show_everything_but_secrets() {
    let place = full();
    let rows = place.open().rows().unwrap();
    let tables: std::collections::BTreeSet<&str> = rows.iter().map(|row| row.table.as_str()).collect();
    let wanted = [
        "answer_order",
        "answers",
        "ledger",
        "meta",
        "names",
        "secrets",
        "vms",
    ];
    assert!(tables.iter().eq(wanted.iter()), "{tables:?}");
    let shown: Vec<_> = rows.iter().filter(|row| row.table == "secrets").collect();
    // Both VMs have the same secret here, and it shows.
    assert_eq!(shown[0].value, shown[1].value);
    let text = serde_json::to_string(&rows).unwrap();
    let bytes = serde_json::to_string(secret(7).as_bytes()).unwrap();
    assert!(
        !text.contains(&bytes) && !text.contains(&"07".repeat(8)),
        "{text}"
    );
    assert!(text.contains("fingerprint:"), "{text}");
}
