//! The store is gone, damaged or edited: VMs go on, nothing is deleted, and nobody innocent is touched.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use maqet_process::identity::{ProcessIdentity, Role};
use maqet_state::change::Change;
use maqet_state::record::{Launch, VmRecord, VmState};
use maqet_state::store::Store;
use maqet_tests::{Guest, Running, Sandbox};
use serde_json::Value;

use crate::scene::{Scene, damaged, events, kill, kinds, store_path};

/// Overwrites everything behind the first page.
fn damage(path: &Path) -> Vec<u8> {
    let bytes = damaged(fs::read(path).unwrap());
    fs::write(path, &bytes).unwrap();
    bytes
}

/// Files that were the store once.
fn set_aside(sandbox: &Sandbox) -> Vec<PathBuf> {
    let entries = fs::read_dir(sandbox.data_dir()).unwrap();
    entries
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.to_string_lossy().contains("set-aside"))
        .collect()
}

/// The first event of that kind.
fn event(sandbox: &Sandbox, kind: &str) -> Value {
    let events = events(sandbox);
    let found = events.iter().find(|event| event["kind"] == kind);
    found.unwrap_or_else(|| panic!("no {kind} in {events:?}")).clone()
}

#[test]
fn a_store_that_was_deleted_is_made_anew_from_the_directories() {
    let scene = Scene::new();
    Guest::tiny("idle").add(&scene.sandbox);
    let (runner, qemu) = scene.processes();
    kill(&[&scene.supervisor()]);
    fs::remove_file(store_path(&scene.sandbox)).unwrap();

    scene.assert_taken_over(&runner, &qemu);
    assert_eq!(scene.sandbox.status("idle")["status"], "created");
    assert_eq!(set_aside(&scene.sandbox), Vec::<PathBuf>::new());
    assert_eq!(kinds(&scene.sandbox)[..2], ["store.rebuilt", "vm.restored"]);
    let told = event(&scene.sandbox, "store.rebuilt");
    assert_eq!(told["restored"].as_array().unwrap().len(), 2, "{told}");
    assert_eq!(told["reason"], "the store was gone");
    scene.assert_stops();
}

#[test]
fn a_damaged_store_is_set_aside_and_made_anew() {
    let scene = Scene::new();
    let (runner, qemu) = scene.processes();
    kill(&[&scene.supervisor()]);
    let damaged = damage(&store_path(&scene.sandbox));

    scene.assert_taken_over(&runner, &qemu);
    let aside = set_aside(&scene.sandbox);
    assert_eq!(aside.len(), 1, "{aside:?}");
    assert!(
        fs::read(&aside[0]).unwrap() == damaged,
        "the old store was touched"
    );
    let told = event(&scene.sandbox, "store.rebuilt");
    assert_eq!(told["set_aside"], aside[0].to_str().unwrap(), "{told}");
    scene.assert_stops();
    scene.sandbox.maqet(&["start", "web"]).expect(0);
    scene.assert_stops();
}

#[test]
fn the_newest_good_backup_is_the_base_and_directories_say_what_is_newer() {
    let scene = Scene::new();
    Guest::tiny("removed").add(&scene.sandbox);
    kill(&[&scene.supervisor()]);
    let backups = scene.sandbox.data_dir().join("backups");
    fs::create_dir(&backups).unwrap();
    let store = Store::open(&store_path(&scene.sandbox)).unwrap().store;
    store.backup(&backups.join("1.redb")).unwrap();
    store.backup(&backups.join("2.redb")).unwrap();
    drop(store);
    damage(&backups.join("2.redb"));
    scene.sandbox.maqet(&["rm", "removed", "--yes"]).expect(0);
    Guest::tiny("later").add(&scene.sandbox);
    let (runner, qemu) = scene.processes();
    kill(&[&scene.supervisor()]);
    damage(&store_path(&scene.sandbox));

    // The secrets are those of before, so the runner goes on.
    scene.assert_answering();
    assert_eq!(scene.processes().0.pid(), runner.pid());
    assert_eq!(scene.processes().1.pid(), qemu.pid());
    let listed = scene.sandbox.json(&["ls"]);
    let names: Vec<_> = listed.as_array().unwrap().iter().map(|vm| &vm["name"]).collect();
    assert_eq!(names, ["later", "web"], "{listed}");
    let told = event(&scene.sandbox, "store.restored");
    assert!(told["source"].to_string().contains("1.redb"), "{told}");
    assert_eq!(told["left_out"][0]["name"], "removed", "{told}");
    // The journal goes on where the backup ends.
    assert_eq!(kinds(&scene.sandbox)[0], "vm.added");
    scene.assert_stops();
}

#[test]
fn a_damaged_store_with_nothing_beside_it_is_refused_and_left_alone() {
    let sandbox = Sandbox::new();
    Guest::tiny("web").add(&sandbox);
    sandbox.maqet(&["supervisor", "stop"]).expect(0);
    let path = store_path(&sandbox);
    let sound = fs::read(&path).unwrap();
    let damaged = damage(&path);
    fs::remove_dir_all(sandbox.data_dir().join("vms")).unwrap();

    let refused = Running::start(sandbox.command("maqet-supervisor-under-test")).output();
    assert_eq!(refused.code, 1, "{refused:#?}");
    assert!(refused.stderr.contains("state.redb"), "{refused:#?}");
    assert!(refused.stderr.contains("maqet doctor --rebuild"), "{refused:#?}");
    let words = sandbox.maqet(&["ls"]).expect(6);
    assert!(words.stderr.contains("state.redb"), "{words:#?}");
    assert!(fs::read(&path).unwrap() == damaged, "the store was touched");
    assert_eq!(set_aside(&sandbox), Vec::<PathBuf>::new());

    fs::write(&path, sound).unwrap();
    assert_eq!(sandbox.json(&["ls"])[0]["name"], "web");
}

#[test]
fn an_innocent_whose_whole_identity_is_in_the_store_survives() {
    let scene = Scene::new();
    let (runner, qemu) = scene.processes();
    let mut command = Command::new("sleep");
    command.arg("600");
    let innocent = Running::start(command);
    let named = |role, launch: &Launch| {
        let executables = launch.runner.executables.clone();
        let (id, generation) = (&launch.launch_id, launch.generation);
        ProcessIdentity::take(innocent.handle(), role, id, generation, executables).unwrap()
    };
    kill(&[&scene.supervisor()]);
    let mut before = None;
    // A start that seems unfinished, then a VM that seems to run: what would be ended, what would be adopted.
    for seems_to_run in [false, true] {
        scene.forge(|launch| {
            before.get_or_insert_with(|| launch.clone());
            launch.runner = named(Role::Runner, launch);
            launch.qemu = seems_to_run.then(|| named(Role::Qemu, launch));
        });
        let refused = scene
            .sandbox
            .maqet(&["stop", "web", "--force", "-o", "json"])
            .expect(1);
        assert_eq!(refused.error()["code"], "not-answering", "{refused:#?}");
        assert!(!innocent.handle().has_exited() && !qemu.has_exited() && !runner.has_exited());
        kill(&[&scene.supervisor()]);
    }
    scene.forge(|launch| *launch = before.unwrap());
    scene.assert_answering();
    scene.assert_stops();
    assert!(!innocent.handle().has_exited());
}

#[test]
fn a_sound_store_that_is_behind_the_directories_learns_from_them() {
    let scene = Scene::new();
    let (runner, qemu) = scene.processes();
    let innocent = {
        let mut command = Command::new("sleep");
        command.arg("600");
        Running::start(command)
    };
    let edits: [fn(&mut VmRecord, &Running); 3] = [
        |record, _| record.state = VmState::Stopped,
        |record, _| record.generation = 0,
        |record, innocent| {
            let VmState::Running(launch) = &mut record.state else {
                panic!("{record:?}");
            };
            let (id, generation) = (launch.launch_id.clone(), launch.generation);
            let take =
                |role| ProcessIdentity::take(innocent.handle(), role, &id, generation, Vec::new()).unwrap();
            launch.runner = take(Role::Runner);
            launch.qemu = Some(take(Role::Qemu));
        },
    ];
    for edit in edits {
        kill(&[&scene.supervisor()]);
        let store = Store::open(&store_path(&scene.sandbox)).unwrap().store;
        let mut record = store.vms().unwrap().remove(0);
        edit(&mut record, &innocent);
        // Another store of that content: the record alone, and the VM's directory as it was.
        assert!(store.commit(vec![Change::update(record)]).unwrap()[0].is_ok());
        drop(store);
        let status = scene.status();
        assert_eq!(
            (&status["status"], &status["pid"]),
            (&"running".into(), &qemu.pid().into()),
            "{status}"
        );
        scene.assert_answering();
    }
    assert_eq!(scene.processes().0.pid(), runner.pid());
    assert!(!innocent.handle().has_exited());

    // An old copy, put in its place by hand: it does not know the VM at all.
    kill(&[&scene.supervisor()]);
    fs::remove_file(store_path(&scene.sandbox)).unwrap();
    Store::open(&store_path(&scene.sandbox)).unwrap();
    scene.assert_taken_over(&runner, &qemu);
    assert_eq!(kinds(&scene.sandbox)[0], "vm.restored");
    scene.assert_stops();
}
