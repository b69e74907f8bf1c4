//! A checked-in store of every released schema, opened by the present one.
//!
//! `golden/schema-1.redb` was written by [`write_schema_1`]. To write it again (only before a release; afterwards the
//! file is history): `MAQET_WRITE_GOLDEN=1 cargo test -p maqet-state --test store golden`.

use std::path::{Path, PathBuf};

use maqet_state::change::Change;
use maqet_state::lifecycle::Status;
use maqet_state::store::{Migration, Store};
use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition, TableError, TableHandle};
use serde_json::{Value, json};

use crate::support::{Place, addition, commit, id, record, secret};

type Text = TableDefinition<'static, &'static str, &'static [u8]>;
type Number = TableDefinition<'static, u64, &'static [u8]>;

const SECRETS: Text = TableDefinition::new("secrets");

fn golden(schema: u32) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/golden/schema-{schema}.redb"))
}

fn identity(role: &str, pid: i32) -> Value {
    json!({
        "role": role, "boot_id": "00000000-0000-0000-0000-000000000001", "pidns_inode": 4_026_531_836_u64,
        "pid": pid, "pidfs_inode": null, "pidfs_handle": null, "start_ticks": 100,
        "executables": [{"dev": 1, "inode": 2}], "launch_id": "0123456789abcdef0123456789abcdef", "generation": 3,
    })
}

/// Three records as schema 1 had them: never started, running, failed.
fn records_of_schema_1() -> Vec<Value> {
    let time = "2027-01-15T08:00:00.000Z";
    let base = |number: u64, name: &str, state: Value| {
        json!({
            "v": 1, "id": id(number), "state": state, "since": time, "generation": 3, "created_at": time,
            "spec": {
                "name": name, "binary": "qemu-system-x86_64", "machine": "q35", "accel": "tcg",
                "memory": 536_870_912, "cpus": 2, "serial": {"log": true}, "on_reboot": "reset",
                "stop": {"timeout": "30s", "on_timeout": "keep"}, "restart": {"policy": "never"}, "sandbox": "auto",
            },
        })
    };
    let running = json!({
        "status": "running", "launch_id": "0123456789abcdef0123456789abcdef", "generation": 3, "previous": "stopped",
        "at": time, "runner": identity("runner", 100), "qemu": identity("qemu", 101),
    });
    let mut failed = base(3, "mail", json!({"status": "failed"}));
    failed["last_exit"] = json!({
        "cause": "qemu-crashed", "at": time, "exit_code": null, "signal": 11, "detail": "segmentation fault",
    });
    vec![
        base(1, "web", json!({"status": "created"})),
        base(2, "db", running),
        failed,
    ]
}

/// Writes a store of schema 1, which had no table `secrets`.
fn write_schema_1(path: &Path) {
    let db = Database::create(path).unwrap();
    let txn = db.begin_write().unwrap();
    {
        let text = |name: &'static str| txn.open_table(Text::new(name)).unwrap();
        let number = |name: &'static str| txn.open_table(Number::new(name)).unwrap();
        let (mut meta, mut vms, mut names) = (text("meta"), text("vms"), text("names"));
        let (mut journal, mut chain) = (number("journal"), number("chain"));
        drop((text("answers"), text("ledger"), number("answer_order")));
        let mut hash = blake3::Hash::from_bytes([0; 32]);
        for (record, cursor) in records_of_schema_1().iter().zip(1..) {
            let (vm, name) = (
                record["id"].as_str().unwrap(),
                record["spec"]["name"].as_str().unwrap(),
            );
            vms.insert(vm, record.to_string().as_bytes()).unwrap();
            names.insert(name, json!(vm).to_string().as_bytes()).unwrap();
            let entry = json!({
                "v": 1, "cursor": cursor, "at": record["since"], "vm": name, "id": vm, "kind": "vm.added", "data": {},
            });
            let entry = entry.to_string();
            hash = blake3::hash(&[hash.as_bytes().as_slice(), entry.as_bytes()].concat());
            journal.insert(cursor, entry.as_bytes()).unwrap();
            chain.insert(cursor, hash.as_bytes().as_slice()).unwrap();
        }
        let head = json!({"cursor": 3, "hash": hash.to_string()}).to_string();
        let checkpoint = json!({"cursor": 0, "hash": "0".repeat(64)}).to_string();
        meta.insert("schema", b"1".as_slice()).unwrap();
        meta.insert("journal_head", head.as_bytes()).unwrap();
        meta.insert("journal_checkpoint", checkpoint.as_bytes()).unwrap();
    }
    txn.commit().unwrap();
}

/// Every row of every table, readable, in order.
fn dump(path: &Path) -> Vec<String> {
    let db = Database::open(path).unwrap();
    let txn = db.begin_read().unwrap();
    let mut rows = Vec::new();
    for table in txn.list_tables().unwrap() {
        let name = table.name();
        match txn.open_table(TableDefinition::<&str, &[u8]>::new(name)) {
            Ok(table) => rows.extend(table.iter().unwrap().map(|row| {
                let (key, value) = row.unwrap();
                format!(
                    "{name} {} {}",
                    key.value(),
                    String::from_utf8_lossy(value.value())
                )
            })),
            Err(TableError::TableTypeMismatch { .. }) => {
                let table = txn.open_table(TableDefinition::<u64, &[u8]>::new(name)).unwrap();
                rows.extend(table.iter().unwrap().map(|row| {
                    let (key, value) = row.unwrap();
                    format!(
                        "{name} {} {}",
                        key.value(),
                        String::from_utf8_lossy(value.value())
                    )
                }));
            }
            Err(other) => panic!("{name}: {other}"),
        }
    }
    rows.sort();
    rows
}

fn copy_of_golden(place: &Place) {
    std::fs::copy(golden(1), place.path()).unwrap();
}

#[test]
fn the_checked_in_file_is_what_its_generator_writes() {
    if std::env::var_os("MAQET_WRITE_GOLDEN").is_some() {
        std::fs::create_dir_all(golden(1).parent().unwrap()).unwrap();
        drop(std::fs::remove_file(golden(1)));
        write_schema_1(&golden(1));
    }
    let (generated, copied) = (Place::new(), Place::new());
    write_schema_1(&generated.path());
    copy_of_golden(&copied);
    assert_eq!(dump(&copied.path()), dump(&generated.path()));
}

#[test]
fn schema_1_is_migrated_with_a_backup_beside_it() {
    let place = Place::new();
    copy_of_golden(&place);
    let before = dump(&place.path());
    let opened = Store::open(&place.path()).unwrap();
    let backup = place.path().with_file_name("state.redb.v1.bak");
    assert_eq!(
        opened.migrated,
        Some(Migration {
            from: 1,
            to: 2,
            backup: backup.clone()
        })
    );
    assert!(!opened.created);
    assert_eq!(place.files(), ["state.redb", "state.redb.v1.bak"]);
    assert_eq!(dump(&backup), before);
}

#[test]
fn every_migrated_vm_has_a_secret_of_its_own_and_works() {
    let place = Place::new();
    copy_of_golden(&place);
    let store = place.open();
    let vms = store.vms().unwrap();
    let statuses: Vec<_> = vms.iter().map(|vm| (vm.name(), vm.status())).collect();
    assert_eq!(
        statuses,
        [
            ("web", Status::Created),
            ("db", Status::Running),
            ("mail", Status::Failed)
        ]
    );
    let mut secrets: Vec<_> = vms
        .iter()
        .map(|vm| *store.secret(&vm.id).unwrap().unwrap().as_bytes())
        .collect();
    secrets.sort_unstable();
    secrets.dedup();
    assert_eq!(secrets.len(), 3);
    assert_eq!(store.verify_journal().unwrap().cursor, 3);
    commit(&store, Change::update(record(1, "web"))).unwrap();
    assert_eq!(commit(&store, addition(4, "new")).unwrap().events[0].cursor, 4);
    store.verify_journal().unwrap();
}

#[test]
fn opening_a_migrated_store_again_changes_nothing() {
    let place = Place::new();
    copy_of_golden(&place);
    drop(place.open());
    let migrated = dump(&place.path());
    let opened = Store::open(&place.path()).unwrap();
    assert_eq!(opened.migrated, None);
    drop(opened);
    assert_eq!(dump(&place.path()), migrated);
}

#[test]
fn a_migration_that_was_interrupted_is_carried_out_by_the_next_open() {
    let place = Place::new();
    copy_of_golden(&place);
    // Killed after the backup's draft was begun, and after some secrets were drawn by hand.
    std::fs::write(place.path().with_file_name("state.redb.v1.bak.tmp"), b"half").unwrap();
    std::fs::write(place.path().with_file_name("state.redb.v1.bak"), b"older").unwrap();
    let db = Database::open(place.path()).unwrap();
    let txn = db.begin_write().unwrap();
    let known = secret(5);
    txn.open_table(SECRETS)
        .unwrap()
        .insert(id(1).as_str(), known.as_bytes().as_slice())
        .unwrap();
    txn.commit().unwrap();
    drop(db);
    let store = place.open();
    assert_eq!(
        store.secret(&id(1)).unwrap().unwrap().as_bytes(),
        known.as_bytes()
    );
    assert!(store.secret(&id(3)).unwrap().is_some());
    assert_eq!(place.files(), ["state.redb", "state.redb.v1.bak"]);
    drop(store);
    let opened = Store::open(&place.path().with_file_name("state.redb.v1.bak")).unwrap();
    assert_eq!(opened.store.vms().unwrap().len(), 3);
}
