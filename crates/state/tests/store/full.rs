//! A file system that takes no more: nothing acknowledged is lost, and the store works again once there is room.

use std::path::Path;

use maqet_state::change::Change;
use maqet_state::error::StoreError;
use maqet_state::journal::NewEvent;
use maqet_state::store::Store;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::support::{CHILD_STORE, addition, at, commit, in_child};

const TEST: &str = "full::a_full_disk_stops_commits_until_there_is_room";

#[test]
fn a_full_disk_stops_commits_until_there_is_room() {
    if let Some(path) = std::env::var_os(CHILD_STORE) {
        return fill_up(Path::new(&path));
    }
    // The limit on the size of files holds for a whole process, so this needs one of its own.
    let place = in_child(TEST);
    let store = place.open();
    assert_eq!(store.vms().unwrap().len(), 2);
    store.verify_journal().unwrap();
    assert_eq!(store.events(None, 10_000).unwrap().last().unwrap().kind, "room");
}

fn fill_up(path: &Path) {
    let store = Store::open(path).unwrap().store;
    commit(&store, addition(1, "web")).unwrap();
    let unlimited = getrlimit(Resource::Fsize);
    let room = path.metadata().unwrap().len();
    limit(Rlimit {
        current: Some(room),
        maximum: unlimited.maximum,
    });

    let mut durable = 0;
    let error = loop {
        match store.commit(vec![bulky()]) {
            Ok(_answers) => durable += 1,
            Err(error) => break error,
        }
    };
    assert!(matches!(error, StoreError::Database { .. }), "{error:?}");
    // It stays full: every attempt says so, and what was acknowledged can be read.
    for _ in 0..3 {
        store.commit(vec![bulky()]).unwrap_err();
        assert_eq!(store.vms().unwrap().len(), 1);
        assert_eq!(store.cursor().unwrap(), 1 + durable);
        store.verify_journal().unwrap();
    }

    limit(unlimited);
    commit(&store, addition(2, "db")).unwrap();
    let committed = commit(&store, Change::default().event(NewEvent::new("room", at(9)))).unwrap();
    assert_eq!(committed.events[0].cursor, 3 + durable);
}

fn limit(rlimit: Rlimit) {
    setrlimit(Resource::Fsize, rlimit).unwrap();
}

fn bulky() -> Change {
    Change::default().event(NewEvent::new("bulk", at(1)).with("text", "x".repeat(20_000)))
}
