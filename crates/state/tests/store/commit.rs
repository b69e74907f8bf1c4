//! What commits store, refuse, and leave alone.

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use maqet_process::identity::{FileId, FileMark};
use maqet_state::change::{Change, Rejected};
use maqet_state::error::StoreError;
use maqet_state::id::VmId;
use maqet_state::ledger::{LedgerEdit, LedgerEntry, LedgerKind};
use maqet_state::secret::Secret;
use maqet_state::store::Store;
use serde_json::json;

use crate::support::{Place, addition, at, commit, id, record, secret};

fn mark() -> FileMark {
    let id = FileId { dev: 1, inode: 2 };
    FileMark { id, born_ns: Some(3) }
}

fn names(store: &Store) -> Vec<String> {
    store
        .vms()
        .unwrap()
        .iter()
        .map(|vm| vm.name().to_owned())
        .collect()
}

#[test]
fn stored_values_survive_reopening() {
    let place = Place::new();
    let store = place.open();
    let mut vm = record(1, "web");
    vm.files = vm
        .files
        .made(PathBuf::from("/srv/web.qcow2"), mark(), "boot", at(1));
    commit(
        &store,
        Change::create(vm.clone(), secret(3)).answering("k1", json!({"id": 1})),
    )
    .unwrap();
    drop(store);

    let store = place.open();
    assert_eq!(store.vms().unwrap(), [vm.clone()]);
    assert_eq!(store.vm(&id(1)).unwrap(), Some(vm));
    assert_eq!(store.vm(&id(2)).unwrap(), None);
    assert_eq!(store.id_of("web").unwrap(), Some(id(1)));
    assert_eq!(store.id_of("db").unwrap(), None);
    assert_eq!(
        store.secret(&id(1)).unwrap().unwrap().as_bytes(),
        secret(3).as_bytes()
    );
    assert!(store.secret(&id(2)).unwrap().is_none());
    assert_eq!(store.answer("k1").unwrap(), Some(json!({"id": 1})));
    assert_eq!(store.answer("k2").unwrap(), None);
}

#[test]
fn a_new_store_is_private_and_alone_in_its_directory() {
    let place = Place::new();
    let opened = Store::open(&place.path()).unwrap();
    assert!(opened.created);
    assert_eq!(opened.migrated, None);
    assert_eq!(place.files(), ["state.redb"]);
    let mode = std::fs::metadata(place.path()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    drop(opened);
    assert!(!Store::open(&place.path()).unwrap().created);
}

#[test]
fn a_second_handle_is_told_that_the_store_is_open() {
    let place = Place::new();
    let fresh = place.open();
    assert!(
        matches!(Store::open(&place.path()), Err(StoreError::AlreadyOpen { path }) if path == place.path())
    );
    drop(fresh);
    let reopened = place.open();
    let error = Store::open(&place.path()).unwrap_err();
    assert_eq!(
        error.to_string(),
        format!("store `{}` is already open", place.path().display())
    );
    drop(reopened);
    place.open();
}

#[test]
fn many_openers_make_one_store() {
    let place = Place::new();
    let path = place.path();
    let outcomes: Vec<_> = std::thread::scope(|scope| {
        let openers: Vec<_> = (0..8).map(|_| scope.spawn(|| Store::open(&path))).collect();
        openers.into_iter().map(|opener| opener.join().unwrap()).collect()
    });
    for outcome in &outcomes {
        assert!(
            matches!(outcome, Ok(_) | Err(StoreError::AlreadyOpen { .. })),
            "{outcome:?}"
        );
    }
    assert!(
        outcomes
            .iter()
            .filter_map(|outcome| outcome.as_ref().ok())
            .filter(|opened| opened.created)
            .count()
            <= 1
    );
    drop(outcomes);
    assert_eq!(place.files(), ["state.redb"]);
}

#[test]
fn a_missing_directory_is_an_io_error() {
    let place = Place::new();
    let path = place.path().join("nowhere").join("state.redb");
    assert!(matches!(Store::open(&path), Err(StoreError::Io { .. })));
}

#[test]
fn a_taken_name_spoils_only_its_own_change() {
    let place = Place::new();
    let store = place.open();
    let answers = store
        .commit(vec![addition(1, "web"), addition(2, "web"), addition(3, "db")])
        .unwrap();
    assert!(answers[0].is_ok());
    assert!(
        matches!(&answers[1], Err(Rejected::NameTaken { name, holder }) if name == "web" && *holder == id(1))
    );
    assert!(answers[2].is_ok());
    assert_eq!(names(&store), ["web", "db"]);
    assert!(store.secret(&id(2)).unwrap().is_none());
    assert_eq!(store.cursor().unwrap(), 2);
}

#[test]
fn a_removed_vm_cannot_be_updated_back_to_life() {
    let place = Place::new();
    let store = place.open();
    commit(&store, addition(1, "web")).unwrap();
    let answers = store
        .commit(vec![
            Change::remove(id(1)),
            Change::update(record(1, "web")),
            Change::remove(id(1)),
        ])
        .unwrap();
    assert!(answers[0].is_ok());
    assert!(matches!(&answers[1], Err(Rejected::VmGone { id: gone }) if *gone == id(1)));
    assert!(matches!(&answers[2], Err(Rejected::VmGone { .. })));
    assert!(names(&store).is_empty());
    assert_eq!(store.id_of("web").unwrap(), None);
    assert!(store.secret(&id(1)).unwrap().is_none());
    commit(&store, addition(2, "web")).unwrap();
}

#[test]
fn a_secret_needs_its_vm() {
    let place = Place::new();
    let store = place.open();
    let lonely = Change {
        secret: Some((id(9), secret(1))),
        ..Change::default()
    };
    assert!(matches!(commit(&store, lonely), Err(Rejected::VmGone { .. })));

    commit(&store, addition(1, "web")).unwrap();
    let renewed = Change {
        secret: Some((id(1), secret(9))),
        ..Change::default()
    };
    commit(&store, renewed).unwrap();
    assert_eq!(
        store.secret(&id(1)).unwrap().unwrap().as_bytes(),
        secret(9).as_bytes()
    );

    let foreign = Change {
        secret: Some((id(1), secret(9))),
        ..Change::update(record(2, "db"))
    };
    assert!(matches!(commit(&store, foreign), Err(Rejected::VmGone { id: gone }) if gone == id(2)));
}

#[test]
fn a_renamed_vm_frees_its_old_name() {
    let place = Place::new();
    let store = place.open();
    commit(&store, addition(1, "web")).unwrap();
    commit(&store, Change::update(record(1, "www"))).unwrap();
    assert_eq!(store.id_of("web").unwrap(), None);
    assert_eq!(store.id_of("www").unwrap(), Some(id(1)));
    commit(&store, addition(2, "web")).unwrap();
}

#[test]
fn one_change_may_hand_a_name_over() {
    let place = Place::new();
    let store = place.open();
    commit(&store, addition(1, "web")).unwrap();
    let swap = Change {
        remove: Some(id(1)),
        ..Change::create(record(2, "web"), secret(2))
    };
    commit(&store, swap).unwrap();
    assert_eq!(store.id_of("web").unwrap(), Some(id(2)));
    assert_eq!(names(&store), ["web"]);
}

#[test]
fn a_repeated_key_does_nothing_and_gets_the_first_answer() {
    let place = Place::new();
    let store = place.open();
    let answers = store
        .commit(vec![
            addition(1, "web").answering("call", json!("first")),
            addition(2, "db").answering("call", json!("second")),
        ])
        .unwrap();
    assert!(answers[0].is_ok());
    assert!(
        matches!(&answers[1], Err(Rejected::Answered { key, answer }) if key == "call" && answer == "first")
    );
    assert_eq!(names(&store), ["web"]);
    assert_eq!(store.answer("call").unwrap(), Some(json!("first")));
}

#[test]
fn only_the_newest_answers_are_kept() {
    let place = Place::new();
    let store = place.open();
    let calls = (0..4100).map(|call| Change::default().answering(format!("call-{call}"), json!(call)));
    store.commit(calls.collect()).unwrap();
    assert_eq!(store.answer("call-3").unwrap(), None);
    assert_eq!(store.answer("call-4").unwrap(), Some(json!(4)));
    assert_eq!(store.answer("call-4099").unwrap(), Some(json!(4099)));
    // A forgotten key may be used again.
    commit(&store, Change::default().answering("call-0", json!("again"))).unwrap();
    assert_eq!(store.answer("call-4").unwrap(), None);
}

#[test]
fn a_value_that_is_no_json_spoils_only_its_own_change() {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;

    let place = Place::new();
    let store = place.open();
    let mut vm = record(1, "web");
    let path = PathBuf::from(OsStr::from_bytes(b"/srv/\xff"));
    vm.files = vm.files.made(path, mark(), "boot", at(1));
    let answers = store
        .commit(vec![Change::create(vm, secret(1)), addition(2, "db")])
        .unwrap();
    assert!(matches!(
        &answers[0],
        Err(Rejected::Encode { what: "a record", .. })
    ));
    assert!(answers[1].is_ok());
    assert_eq!(names(&store), ["db"]);
}

#[test]
fn nothing_to_do_is_no_error() {
    let place = Place::new();
    let store = place.open();
    assert!(store.commit(Vec::new()).unwrap().is_empty());
    commit(&store, Change::default()).unwrap();
}

fn line(kind: LedgerKind, what: &str, vm: Option<VmId>) -> LedgerEntry {
    LedgerEntry {
        kind,
        what: what.to_owned(),
        id: vm,
        at: at(1),
        identity: None,
    }
}

#[test]
fn the_ledger_holds_what_was_entered_and_not_struck() {
    let place = Place::new();
    let store = place.open();
    let lines = [
        line(LedgerKind::Directory, "/run/maqet/1", Some(id(1))),
        line(LedgerKind::File, "/srv/web.qcow2", Some(id(1))),
        line(LedgerKind::Port, "tcp:127.0.0.1:2222", Some(id(2))),
        line(LedgerKind::Process, "abc/qemu", Some(id(1))),
        line(LedgerKind::Socket, "/run/maqet/control", None),
    ];
    let change = lines
        .iter()
        .cloned()
        .map(LedgerEdit::Enter)
        .fold(Change::default(), Change::ledger);
    commit(&store, change).unwrap();
    assert_eq!(store.ledger().unwrap(), lines);

    let strike = LedgerEdit::Strike {
        kind: LedgerKind::File,
        what: "/srv/web.qcow2".to_owned(),
    };
    let unknown = LedgerEdit::Strike {
        kind: LedgerKind::Socket,
        what: "/srv/web.qcow2".to_owned(),
    };
    commit(&store, Change::default().ledger(strike).ledger(unknown)).unwrap();
    assert_eq!(store.ledger().unwrap().len(), 4);

    commit(&store, Change::default().ledger(LedgerEdit::StrikeAll(id(1)))).unwrap();
    assert_eq!(store.ledger().unwrap(), [lines[2].clone(), lines[4].clone()]);
}

#[test]
fn what_has_become_another_vms_is_not_struck() {
    let place = Place::new();
    let store = place.open();
    let [first, second] = [1, 2].map(|vm| line(LedgerKind::Port, "tcp:127.0.0.1:2222", Some(id(vm))));
    for entry in [&first, &second] {
        commit(&store, Change::default().ledger(LedgerEdit::Enter(entry.clone()))).unwrap();
    }
    let mut lines = vec![second.clone()];
    for (edit, left) in [(first.strike(), 1), (second.strike(), 0), (second.strike(), 0)] {
        edit.apply(&mut lines);
        commit(&store, Change::default().ledger(edit)).unwrap();
        assert_eq!(store.ledger().unwrap(), lines);
        assert_eq!(lines.len(), left);
    }
}

#[test]
fn removing_a_vm_leaves_its_ledger_lines_until_they_are_struck() {
    let place = Place::new();
    let store = place.open();
    let entry = line(LedgerKind::Directory, "/run/maqet/1", Some(id(1)));
    commit(
        &store,
        addition(1, "web").ledger(LedgerEdit::Enter(entry.clone())),
    )
    .unwrap();
    commit(&store, Change::remove(id(1))).unwrap();
    assert_eq!(store.ledger().unwrap(), [entry]);
}

#[test]
fn a_backup_taken_while_commits_go_on_is_whole() {
    let place = Place::new();
    let store = place.open();
    commit(&store, addition(1, "web")).unwrap();
    let copy = place.path().with_extension("copy");
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            for number in 2..40 {
                commit(&store, addition(number, &format!("vm-{number}"))).unwrap();
            }
        });
        for _ in 0..4 {
            store.backup(&copy).unwrap();
            let copied = Store::open(&copy).unwrap().store;
            let proof = copied.verify_journal().unwrap();
            assert_eq!(u64::try_from(copied.vms().unwrap().len()).unwrap(), proof.cursor);
        }
        writer.join().unwrap();
    });
    let mode = std::fs::metadata(&copy).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    assert_eq!(place.files(), ["state.copy", "state.redb"]);
    assert_eq!(store.path(), place.path());
    assert_eq!(
        format!("{store:?}"),
        format!("Store {{ path: {:?}, .. }}", place.path())
    );
}

#[test]
fn changes_and_stores_cross_threads() {
    fn crosses<T: Send + 'static>() {}
    fn is_shared<T: Send + Sync + Clone + 'static>() {}
    crosses::<Change>();
    crosses::<Rejected>();
    crosses::<StoreError>();
    is_shared::<Store>();
    is_shared::<Secret>();
}

#[test]
fn secrets_differ_and_show_nothing() {
    let (one, two) = (Secret::random().unwrap(), Secret::random().unwrap());
    assert_ne!(one.as_bytes(), two.as_bytes());
    assert_eq!(format!("{one:?}"), "Secret(..)");
    assert!(!format!("{:?}", Change::create(record(1, "web"), secret(0xab))).contains("171"));
}
