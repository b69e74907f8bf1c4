//! The VMs' own directories beside the store.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use maqet_process::identity::{ProcessIdentity, Role};
use maqet_state::change::Change;
use maqet_state::journal::NewEvent;
use maqet_state::lifecycle::Fact;
use maqet_state::mirror::{FILE, Mirror};
use maqet_state::record::{Launch, VmRecord};
use maqet_state::store::Store;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::support::{CHILD_STORE, Place, addition, at, commit, id, in_child, record, secret};

/// A store with its directories.
struct House {
    place: Place,
    store: Store,
    mirror: Mirror,
}

impl House {
    fn new() -> Self {
        let place = Place::new();
        let store = place.open();
        let mirror = Mirror::beside(&store);
        Self { place, store, mirror }
    }

    /// Commits without any trouble beside it; tells whether each change was taken.
    fn commit(&self, changes: Vec<Change>) -> Vec<bool> {
        let mirrored = self.mirror.commit(&self.store, changes);
        assert!(mirrored.trouble.is_empty(), "{:?}", mirrored.trouble);
        mirrored.result.unwrap().iter().map(Result::is_ok).collect()
    }

    fn vms(&self) -> PathBuf {
        self.place.path().with_file_name("vms")
    }

    fn description(&self, number: u64) -> PathBuf {
        self.vms().join(id(number).as_str()).join(FILE)
    }

    /// The directories say what the store says, no more and no less.
    #[track_caller]
    fn assert_in_step(&self) {
        let found = Mirror::read_all(&self.vms()).unwrap();
        assert!(found.unreadable.is_empty(), "{:?}", found.unreadable);
        assert_eq!(found.records, self.store.vms().unwrap());
    }
}

/// The record with a launch under way.
pub(crate) fn launching(record: &VmRecord) -> VmRecord {
    let identity = ProcessIdentity {
        role: Role::Runner,
        boot_id: "boot".to_owned(),
        pidns_inode: 1,
        pid: 2,
        pidfs_inode: Some(3),
        pidfs_handle: None,
        start_ticks: 4,
        executables: Vec::new(),
        launch_id: "ab".repeat(16),
        generation: record.generation + 1,
    };
    let launch = Launch::new("ab".repeat(16), record.generation + 1, identity, at(9));
    record.apply(Fact::Launching(Box::new(launch)), at(9)).unwrap()
}

#[test]
fn directories_follow_every_change() {
    let house = House::new();
    house.commit(vec![addition(1, "web"), addition(2, "db")]);
    house.assert_in_step();
    let mode = fs::metadata(house.description(1)).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let text = fs::read_to_string(house.description(1)).unwrap();
    let stored = format!("{:?}", secret(7).as_bytes());
    assert!(!text.contains(stored.trim_matches(['[', ']'])), "{text}");

    house.commit(vec![Change::update(launching(&record(1, "web")))]);
    house.assert_in_step();
    house.commit(vec![Change::remove(id(2))]);
    house.assert_in_step();
    assert!(!house.description(2).parent().unwrap().exists());
}

#[test]
fn a_change_that_is_rejected_leaves_the_directory_as_the_store_is() {
    let house = House::new();
    house.commit(vec![addition(1, "web"), addition(2, "db")]);
    let mut taken = record(2, "db");
    taken.spec.name = "web".parse().unwrap();
    // A name that is taken, a VM that is gone, a new VM with a taken name.
    let rejected = vec![
        Change::update(taken),
        Change::update(record(3, "gone")),
        addition(4, "web"),
    ];
    assert_eq!(house.commit(rejected), [false, false, false]);
    house.assert_in_step();
    assert_eq!(fs::read_dir(house.vms()).unwrap().count(), 2);
}

#[test]
fn made_changed_and_removed_in_one_commit() {
    let house = House::new();
    house.commit(vec![
        addition(1, "web"),
        Change::update(launching(&record(1, "web"))),
        addition(2, "db"),
        Change::remove(id(2)),
    ]);
    house.assert_in_step();
    assert_eq!(house.store.vms().unwrap()[0].generation, 1);
}

const TEST: &str = "mirror::an_update_is_in_the_directory_though_its_commit_failed";

#[test]
fn an_update_is_in_the_directory_though_its_commit_failed() {
    if let Some(path) = std::env::var_os(CHILD_STORE) {
        return fill_up(Path::new(&path));
    }
    // The limit on the size of files holds for a whole process, so this needs one of its own.
    let place = in_child(TEST);
    let found = Mirror::read_all(&place.path().with_file_name("vms")).unwrap();
    assert_eq!(found.records[0].generation, 1);
    assert_eq!(place.open().vms().unwrap()[0].generation, 0);
}

fn fill_up(path: &Path) {
    let store = Store::open(path).unwrap().store;
    let mirror = Mirror::beside(&store);
    mirror.commit(&store, vec![addition(1, "web")]).result.unwrap();
    let room = path.metadata().unwrap().len();
    let maximum = getrlimit(Resource::Fsize).maximum;
    let current = Some(room);
    setrlimit(Resource::Fsize, Rlimit { current, maximum }).unwrap();
    let bulky = |text: &str| NewEvent::new("bulk", at(1)).with("text", text.repeat(20_000));
    while store.commit(vec![Change::default().event(bulky("x"))]).is_ok() {}
    let update = Change::update(launching(&record(1, "web"))).event(bulky("y"));
    let mirrored = mirror.commit(&store, vec![update]);
    mirrored.result.unwrap_err();
    assert!(mirrored.trouble.is_empty(), "{:?}", mirrored.trouble);
}

#[test]
fn a_directory_that_cannot_be_written_is_no_reason_to_fail_and_is_tried_again() {
    let house = House::new();
    house.commit(vec![addition(1, "web")]);
    let directory = house.vms().join(id(1).as_str());
    fs::remove_dir_all(&directory).unwrap();
    fs::write(&directory, "in the way").unwrap();
    let launched = launching(&record(1, "web"));
    let mirrored = house
        .mirror
        .commit(&house.store, vec![Change::update(launched.clone())]);
    assert!(mirrored.result.unwrap()[0].is_ok());
    assert!(!mirrored.trouble.is_empty());
    assert_eq!(house.store.vms().unwrap(), [launched]);

    fs::remove_file(&directory).unwrap();
    house.commit(vec![addition(2, "db")]);
    house.assert_in_step();
}

#[test]
fn what_maqet_did_not_write_is_not_believed() {
    let house = House::new();
    let numbers = 1..=7;
    house.commit(
        numbers
            .clone()
            .map(|number| addition(number, &format!("vm{number}")))
            .collect(),
    );
    let path = |number| house.description(number);
    fs::set_permissions(path(1), fs::Permissions::from_mode(0o666)).unwrap();
    fs::write(path(2), "").unwrap();
    fs::write(path(3), fs::read(path(4)).unwrap()).unwrap();
    fs::write(
        path(5),
        fs::read_to_string(path(5))
            .unwrap()
            .replacen("\"v\":1", "\"v\":9", 1),
    )
    .unwrap();
    fs::remove_file(path(6)).unwrap();
    fs::rename(path(7), house.vms().join("elsewhere")).unwrap();
    symlink(house.vms().join("elsewhere"), path(7)).unwrap();
    fs::create_dir(house.vms().join("not an id")).unwrap();

    let found = Mirror::read_all(&house.vms()).unwrap();
    let names: Vec<_> = found.records.iter().map(VmRecord::name).collect();
    assert_eq!(names, ["vm4"]);
    let reasons: Vec<_> = found.unreadable.iter().map(|vm| vm.reason.as_str()).collect();
    assert_eq!(reasons.len(), 6, "{reasons:?}");
    assert!(reasons[0].contains("others may write it"), "{reasons:?}");
    assert!(reasons[2].contains("describes the VM"), "{reasons:?}");
    assert!(reasons[3].contains("version 9"), "{reasons:?}");
    assert!(reasons[4].contains("no vm.json"), "{reasons:?}");
}

#[test]
fn nothing_is_described_where_there_is_nothing() {
    let place = Place::new();
    let found = Mirror::read_all(&place.path().with_file_name("vms")).unwrap();
    assert!(found.records.is_empty() && found.unreadable.is_empty());
    let store = place.open();
    commit(&store, addition(1, "web")).unwrap();
    let mirror = Mirror::beside(&store);
    assert!(mirror.refresh(&store.vms().unwrap()).is_empty());
    let found = Mirror::read_all(&place.path().with_file_name("vms")).unwrap();
    assert_eq!(found.records, store.vms().unwrap());
}
