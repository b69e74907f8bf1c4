//! A store that takes another one's place, and what it is made of.

use std::fs;

use maqet_state::change::Change;
use maqet_state::error::StoreError;
use maqet_state::journal::{JournalLimits, NewEvent};
use maqet_state::merge::{Origin, Restored, merge};
use maqet_state::record::VmRecord;
use maqet_state::removal::Removal;
use maqet_state::store::Draft;

use crate::mirror::launching;
use crate::support::{Place, addition, at, commit, id, record, secret};

fn restored(records: Vec<VmRecord>) -> Vec<Restored> {
    merge(Vec::new(), records)
}

fn limits() -> JournalLimits {
    JournalLimits::default()
}

fn names(vms: &[Restored]) -> Vec<(&str, Origin, Option<&str>)> {
    vms.iter()
        .map(|vm| (vm.record.name(), vm.origin, vm.renamed_from.as_deref()))
        .collect()
}

#[test]
fn a_new_store_takes_the_place_of_anything() {
    for before in [None, Some("not a store")] {
        let place = Place::new();
        if let Some(text) = before {
            fs::write(place.path(), text).unwrap();
        }
        let draft = Draft::empty(&place.path(), limits()).unwrap();
        let event = NewEvent::new("store.rebuilt", at(1));
        draft
            .fill(&restored(vec![record(1, "web"), record(2, "db")]), vec![event])
            .unwrap();
        let aside = draft.place().unwrap();
        assert_eq!(aside.is_some(), before.is_some());
        let kept = aside.map(|path| fs::read_to_string(path).unwrap());
        assert_eq!(kept.as_deref(), before);

        let store = place.open();
        assert_eq!(store.vms().unwrap().len(), 2);
        assert!(store.secret(&id(1)).unwrap().is_some());
        let events = store.events(None, 10).unwrap();
        assert_eq!((events[0].cursor, events[0].kind.as_str()), (1, "store.rebuilt"));
        store.verify_journal().unwrap();
        assert_eq!(place.files().len(), 1 + usize::from(before.is_some()));
    }
}

#[test]
fn a_directory_in_the_way_is_moved_aside() {
    let place = Place::new();
    fs::create_dir(place.path()).unwrap();
    let draft = Draft::empty(&place.path(), limits()).unwrap();
    let aside = draft.place().unwrap().unwrap();
    assert!(aside.is_dir());
    assert!(place.open().vms().unwrap().is_empty());
}

#[test]
fn a_copy_keeps_secrets_and_journal_and_leaves_its_source_alone() {
    let source = Place::new();
    let store = source.open();
    commit(&store, addition(1, "web")).unwrap();
    commit(&store, addition(2, "db")).unwrap();
    drop(store);
    let bytes = fs::read(source.path()).unwrap();

    let place = Place::new();
    let draft = Draft::copy_of(&source.path(), &place.path(), limits()).unwrap();
    draft.verify_journal().unwrap();
    // Names swapped since the copy was made, and one VM more.
    let now = vec![record(1, "db"), record(2, "web"), record(3, "new")];
    let event = NewEvent::new("store.restored", at(1));
    draft
        .fill(&merge(draft.vms().unwrap(), now), vec![event])
        .unwrap();
    assert_eq!(draft.place().unwrap(), None);
    assert!(
        fs::read(source.path()).unwrap() == bytes,
        "the source was touched"
    );

    let store = place.open();
    assert_eq!(store.id_of("db").unwrap(), Some(id(1)));
    assert_eq!(store.id_of("web").unwrap(), Some(id(2)));
    assert_eq!(store.id_of("new").unwrap(), Some(id(3)));
    let kept = store.secret(&id(1)).unwrap().unwrap();
    assert_eq!(kept.as_bytes(), secret(7).as_bytes());
    let fresh = store.secret(&id(3)).unwrap().unwrap();
    assert_ne!(fresh.as_bytes(), secret(7).as_bytes());
    assert_eq!(store.verify_journal().unwrap().cursor, 3);
}

#[test]
fn what_is_no_store_is_no_source_and_nothing_is_replaced() {
    let place = Place::new();
    commit(&place.open(), addition(1, "web")).unwrap();
    let bytes = fs::read(place.path()).unwrap();
    let mut damaged = bytes.clone();
    for byte in damaged.iter_mut().skip(4096) {
        *byte ^= 0x5a;
    }
    let source = Place::new();
    for content in [b"no store".to_vec(), Vec::new(), damaged] {
        fs::write(source.path(), content).unwrap();
        let error = Draft::copy_of(&source.path(), &place.path(), limits()).unwrap_err();
        assert!(matches!(error, StoreError::Corrupt { .. }), "{error:?}");
    }
    assert!(fs::read(place.path()).unwrap() == bytes);
    // What the attempts left is taken away by the next one.
    Draft::empty(&place.path(), limits()).unwrap().place().unwrap();
    assert_eq!(place.files().len(), 2, "{:?}", place.files());
}

#[test]
fn the_newer_record_wins_and_nothing_is_lost() {
    let web = record(1, "web");
    let started = launching(&web);
    let backup = vec![web.clone(), launching(&record(2, "db")), record(3, "old")];
    let directories = vec![started.clone(), record(2, "db"), record(4, "new")];
    let merged = merge(backup, directories);
    assert_eq!(
        names(&merged),
        [
            ("web", Origin::Directory, None),
            ("db", Origin::Backup, None),
            ("old", Origin::Backup, None),
            ("new", Origin::Directory, None),
        ]
    );
    assert_eq!(merged[0].record, started);
    assert_eq!(merged[1].record.generation, 1);
}

/// A directory says what was about to be committed, perhaps in vain; a copy says what was so once.
#[test]
fn nothing_is_deleted_on_the_word_of_a_copy_or_a_directory() {
    let mut begun = record(1, "web");
    begun.removal = Some(Box::new(Removal {
        at: at(1),
        images: vec!["/vm/root".into()],
        gone: Vec::new(),
        delete_storage: true,
        keep_snapshots: false,
        key: None,
    }));
    for merged in [merge(vec![begun.clone()], Vec::new()), restored(vec![begun])] {
        assert_eq!(merged[0].record, record(1, "web"));
    }
}

#[test]
fn of_two_with_one_name_the_living_one_keeps_it() {
    let merged = merge(
        vec![launching(&record(1, "web"))],
        vec![
            record(2, "web"),
            launching(&record(3, "web")),
            record(4, "web-00000002"),
        ],
    );
    let web = Some("web");
    assert_eq!(
        names(&merged),
        [
            ("web-00000001", Origin::Backup, web),
            ("web-0000000000000002", Origin::Directory, web),
            ("web", Origin::Directory, None),
            ("web-00000002", Origin::Directory, None),
        ]
    );
}

#[test]
fn a_change_of_its_own_can_follow() {
    let place = Place::new();
    let draft = Draft::empty(&place.path(), limits()).unwrap();
    draft.fill(&restored(vec![record(1, "web")]), Vec::new()).unwrap();
    draft.place().unwrap();
    let store = place.open();
    commit(&store, Change::update(launching(&record(1, "web")))).unwrap();
    assert_eq!(store.vms().unwrap()[0].generation, 1);
}
