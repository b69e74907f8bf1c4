//! `doctor --rebuild` and `state restore`: the store is made anew while VMs run.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use maqet_state::store::Store;
use maqet_tests::{Guest, Sandbox};
use serde_json::Value;

use crate::scene::{Scene, damaged, kill, kinds, store_path};

/// Names of the VMs in a report, and where they came from.
fn restored(report: &Value) -> Vec<(String, String)> {
    let vms = report["restored"].as_array().unwrap();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let mut names: Vec<_> = vms
        .iter()
        .map(|vm| (text(&vm["name"]), text(&vm["origin"])))
        .collect();
    names.sort();
    names
}

fn from(names: &[(&str, &str)]) -> Vec<(String, String)> {
    let owned = names
        .iter()
        .map(|(name, origin)| ((*name).to_owned(), (*origin).to_owned()));
    owned.collect()
}

/// A backup made while no supervisor runs.
fn back_up(sandbox: &Sandbox, to: &Path) {
    let store = Store::open(&store_path(sandbox)).unwrap().store;
    store.backup(to).unwrap();
}

#[test]
fn a_rebuild_under_a_running_supervisor_costs_no_guest_a_tick() {
    let scene = Scene::new();
    fs::write(scene.sandbox.config(), "on_exit: stop\n").unwrap();
    kill(&[&scene.supervisor()]);
    scene.sandbox.maqet(&["ls"]).expect(0);
    Guest::tiny("idle").add(&scene.sandbox);
    let (runner, qemu) = scene.processes();
    let supervisor = scene.supervisor();

    let report = scene.sandbox.json(&["doctor", "--rebuild"]);
    assert!(supervisor.has_exited());
    assert_eq!(
        restored(&report),
        from(&[("idle", "directory"), ("web", "directory")])
    );
    assert_eq!(report["unreadable"], serde_json::json!([]), "{report}");
    assert_eq!(report["strays"], serde_json::json!([]), "{report}");
    let now = report["vms"].as_array().unwrap();
    let web = now.iter().find(|vm| vm["name"] == "web").unwrap();
    assert_eq!(
        (&web["status"], &web["pid"]),
        (&"running".into(), &qemu.pid().into())
    );
    let aside = report["set_aside"].as_str().unwrap();
    assert_eq!(fs::metadata(aside).unwrap().permissions().mode() & 0o777, 0o600);

    scene.assert_taken_over(&runner, &qemu);
    assert_eq!(kinds(&scene.sandbox)[0], "store.rebuilt");
    // For people.
    let (runner, _) = scene.processes();
    let told = scene
        .sandbox
        .maqet(&["doctor", "--rebuild", "-o", "table"])
        .expect(0);
    assert!(
        told.stdout.contains("web (from its directory, running)"),
        "{told:#?}"
    );
    scene.adopted_after(&runner);
    scene.assert_stops();
}

#[test]
fn a_rebuild_works_on_anything_and_tells_what_it_could_not_read() {
    let scene = Scene::new();
    let lost = Guest::tiny("lost").add(&scene.sandbox);
    let (_runner, qemu) = scene.processes();
    scene.sandbox.maqet(&["supervisor", "stop"]).expect(0);
    let description = scene.sandbox.data_dir().join("vms").join(&lost).join("vm.json");
    fs::write(&description, "{").unwrap();
    for content in ["", "no store of ours at all"] {
        fs::write(store_path(&scene.sandbox), content).unwrap();
        let report = scene.sandbox.json(&["doctor", "--rebuild"]);
        assert_eq!(restored(&report), from(&[("web", "directory")]));
        let unreadable = report["unreadable"].as_array().unwrap();
        assert_eq!(unreadable.len(), 1, "{report}");
        assert!(unreadable[0]["path"].to_string().contains(&lost), "{report}");
        let aside = report["set_aside"].as_str().unwrap();
        assert_eq!(fs::read_to_string(aside).unwrap(), content);
        assert_eq!(scene.processes().1.pid(), qemu.pid());
        scene.sandbox.maqet(&["supervisor", "stop"]).expect(0);
    }
    scene.assert_ticking();
    scene.assert_stops();
}

#[test]
fn a_vm_whose_directory_is_gone_too_is_told_of_and_left_alone() {
    let scene = Scene::new();
    let (runner, qemu) = scene.processes();
    kill(&[&scene.supervisor()]);
    let data = scene.sandbox.data_dir();
    let kept = scene.sandbox.path().join("kept");
    fs::rename(&data, &kept).unwrap();

    let report = scene.sandbox.json(&["doctor", "--rebuild"]);
    let strays = report["strays"].as_array().unwrap();
    let pids: Vec<_> = strays
        .iter()
        .map(|stray| stray["pid"].as_i64().unwrap())
        .collect();
    assert!(
        pids.contains(&runner.pid().into()) && pids.contains(&qemu.pid().into()),
        "{report}"
    );
    assert!(
        strays.iter().all(|stray| stray["vm"] == scene.id.as_str()),
        "{report}"
    );
    assert!(!runner.has_exited() && !qemu.has_exited());

    // What was moved away is found again.
    scene.sandbox.maqet(&["supervisor", "stop"]).expect(0);
    fs::remove_dir_all(&data).unwrap();
    fs::rename(&kept, &data).unwrap();
    scene.assert_answering();
    scene.assert_stops();
}

#[test]
fn a_copy_is_restored_and_what_happened_since_is_kept() {
    let scene = Scene::new();
    Guest::tiny("old").add(&scene.sandbox);
    let (runner, qemu) = scene.processes();
    scene.sandbox.maqet(&["supervisor", "stop"]).expect(0);
    let copy = scene.sandbox.home().join("copy.redb");
    back_up(&scene.sandbox, &copy);
    scene.sandbox.maqet(&["rm", "old", "--yes"]).expect(0);
    Guest::tiny("new").start(&scene.sandbox);

    // A relative path is one of the caller's directory.
    let report = scene.sandbox.json(&["state", "restore", "copy.redb"]);
    let wanted = [("new", "directory"), ("old", "backup"), ("web", "directory")];
    assert_eq!(restored(&report), from(&wanted), "{report}");
    assert_eq!(report["source"], copy.canonicalize().unwrap().to_str().unwrap());
    assert!(Path::new(report["set_aside"].as_str().unwrap()).exists());
    assert_eq!(
        scene.processes().0.pid(),
        runner.pid(),
        "its secret is that of before"
    );
    assert_eq!(scene.processes().1.pid(), qemu.pid());
    assert_eq!(scene.sandbox.status("new")["status"], "running");
    assert_eq!(scene.sandbox.status("old")["status"], "created");
    assert!(kinds(&scene.sandbox).contains(&"store.restored".to_owned()));
    scene.sandbox.json(&["stop", "new"]);
    scene.assert_stops();
}

#[test]
fn what_is_no_copy_changes_nothing() {
    let scene = Scene::new();
    let before = scene.sandbox.json(&["ls"]);
    let home = scene.sandbox.home();
    scene.sandbox.maqet(&["supervisor", "stop"]).expect(0);
    let copy = home.join("copy.redb");
    back_up(&scene.sandbox, &copy);
    fs::write(home.join("damaged.redb"), damaged(fs::read(&copy).unwrap())).unwrap();
    let store = fs::read(store_path(&scene.sandbox)).unwrap();
    scene
        .sandbox
        .maqet(&["state", "restore", "missing.redb"])
        .expect(1);
    for file in ["damaged.redb", "tiny.bin"] {
        let refused = scene
            .sandbox
            .maqet(&["state", "restore", file, "-o", "json"])
            .expect(1);
        let error = refused.error();
        assert_eq!(error["code"], "store-not-remade", "{error}");
        assert!(error["causes"].to_string().contains(file), "{error}");
        assert!(fs::read(store_path(&scene.sandbox)).unwrap() == store);
    }
    let after = scene.sandbox.json(&["ls"]);
    assert_eq!(after[0]["pid"], before[0]["pid"]);
    scene.assert_stops();
}
