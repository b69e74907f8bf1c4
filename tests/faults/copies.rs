//! Copies of the store, made by themselves and on request, and killed in the middle of it.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use maqet_state::change::Change;
use maqet_state::clock::{self, Timestamp};
use maqet_state::daily;
use maqet_state::journal::NewEvent;
use maqet_state::store::Store;
use maqet_tests::wait::{self, PATIENCE};
use maqet_tests::{Guest, Sandbox};
use serde_json::Value;

use crate::scene::{kinds, store_path};

/// Milliseconds.
const DAY: u64 = 24 * 3_600_000;

fn backups(sandbox: &Sandbox) -> PathBuf {
    sandbox.data_dir().join("backups")
}

/// A data directory whose store began a month ago.
fn aged() -> Sandbox {
    let sandbox = Sandbox::new();
    fs::create_dir(sandbox.data_dir()).unwrap();
    fs::set_permissions(sandbox.data_dir(), fs::Permissions::from_mode(0o700)).unwrap();
    let store = Store::open(&store_path(&sandbox)).unwrap().store;
    let long_ago = Timestamp(clock::now().0 - 30 * DAY);
    let begun = Change::default().event(NewEvent::new("test.begun", long_ago));
    assert!(store.commit(vec![begun]).unwrap()[0].is_ok());
    sandbox
}

fn names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).unwrap();
    let mut names: Vec<_> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

fn store_status(sandbox: &Sandbox) -> Value {
    sandbox.json(&["supervisor", "status"])["store"].clone()
}

/// Waits for a daily copy that is not one of these; returns its name.
fn made_beside(sandbox: &Sandbox, before: &[String]) -> String {
    wait::until("a daily copy", PATIENCE, || {
        let status = store_status(sandbox);
        let path = PathBuf::from(status["newest_backup"]["path"].as_str().unwrap_or_default());
        let name = path.file_name().unwrap_or_default().to_str().unwrap().to_owned();
        let is_new = !name.is_empty() && !before.contains(&name);
        if is_new { Ok(name) } else { Err(status) }
    })
}

/// What `doctor` says of the copies.
fn doctor(sandbox: &Sandbox) -> Value {
    // Another check may fail on this host.
    let examined = sandbox.maqet(&["doctor", "-o", "json"]).json();
    let mut checks = examined["checks"].as_array().unwrap().iter();
    checks.find(|check| check["check"] == "backups").unwrap().clone()
}

#[test]
fn a_daily_copy_is_made_and_the_newest_three_stay() {
    let sandbox = aged();
    let now = clock::now();
    fs::create_dir(backups(&sandbox)).unwrap();
    fs::set_permissions(backups(&sandbox), fs::Permissions::from_mode(0o700)).unwrap();
    let ago = |days: u64| daily::name(Timestamp(now.0 - days * DAY));
    // Made under another clock, which was ahead: it must not stop those of today.
    let ahead = daily::name(Timestamp(now.0 + 400 * DAY));
    let before = [ago(4), ago(3), ago(2), ahead.clone(), "mine.redb".to_owned()];
    let store = Store::open(&store_path(&sandbox)).unwrap().store;
    for name in &before {
        store.backup(&backups(&sandbox).join(name)).unwrap();
    }
    drop(store);

    Guest::tiny("web").start(&sandbox);
    let made = made_beside(&sandbox, &before);
    wait::until("only three", PATIENCE, || {
        let mut wanted = vec![ago(3), ago(2), made.clone(), "mine.redb".to_owned()];
        wanted.sort();
        let found = names(&backups(&sandbox));
        if found == wanted { Ok(()) } else { Err(found) }
    });
    let path = backups(&sandbox).join(&made);
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    sandbox
        .maqet(&["state", "verify", path.to_str().unwrap()])
        .expect(0);
    let told = doctor(&sandbox);
    assert_eq!(
        (&told["outcome"], &told["where"]),
        (&"ok".into(), &path.to_str().unwrap().into()),
        "{told}"
    );

    // It is enough for today, whatever else is committed, and for the next supervisor.
    Guest::tiny("more").add(&sandbox);
    sandbox.maqet(&["supervisor", "stop"]).expect(0);
    Guest::tiny("still-more").add(&sandbox);
    assert_eq!(
        store_status(&sandbox)["newest_backup"]["path"],
        path.to_str().unwrap()
    );
    assert_eq!(names(&backups(&sandbox)).len(), 4);
    end(&sandbox);
}

#[test]
fn a_young_store_waits_for_its_first_copy() {
    let sandbox = Sandbox::new();
    Guest::tiny("web").start(&sandbox);
    assert_eq!(store_status(&sandbox)["newest_backup"], Value::Null);
    let told = doctor(&sandbox);
    assert_eq!(told["outcome"], "ok", "{told}");
    end(&sandbox);
    assert!(!backups(&sandbox).exists());
}

#[test]
fn a_copy_that_fails_is_told_and_disturbs_nobody() {
    let sandbox = aged();
    fs::write(backups(&sandbox), "no directory").unwrap();
    Guest::tiny("web").start(&sandbox);
    let told = wait::until("the failure is told", PATIENCE, || {
        let told = doctor(&sandbox);
        if told["outcome"] == "warn" {
            Ok(told)
        } else {
            Err(told)
        }
    });
    assert!(told["what"].as_str().unwrap().contains("backups"), "{told}");
    assert!(kinds(&sandbox).contains(&"store.backup-failed".to_owned()));
    assert_eq!(sandbox.status("web")["status"], "running");
    Guest::tiny("more").add(&sandbox);
    // Once, not with every commit.
    assert_eq!(crate::scene::count(&sandbox, "store.backup-failed"), 1);
    assert_eq!(fs::read_to_string(backups(&sandbox)).unwrap(), "no directory");
    end(&sandbox);
}

fn end(sandbox: &Sandbox) {
    sandbox.maqet(&["rm", "--all", "--force", "--yes"]).expect(0);
    sandbox.maqet(&["supervisor", "stop"]).expect(0);
}

#[cfg(debug_assertions)]
mod killed {
    use maqet_process::point::Point;
    use maqet_tests::truth::Kind;
    use maqet_tests::{Held, truth};

    use super::*;
    use crate::scene::{Scene, kill, say};

    /// Kills whoever is held, and lets go.
    fn kill_held(sandbox: &Sandbox, mut held: Held) {
        held.reached();
        let supervisors = truth::processes(sandbox, Kind::Supervisor, None);
        assert_eq!(supervisors.len(), 1, "{supervisors:?}");
        kill(&supervisors.iter().collect::<Vec<_>>());
        drop(held);
    }

    /// Nothing is left but stores that are whole, and none has two names.
    fn assert_whole(sandbox: &Sandbox) {
        let store = fs::metadata(store_path(sandbox)).unwrap();
        assert_eq!(store.nlink(), 1, "{:?}", names(&sandbox.data_dir()));
        for name in names(&sandbox.data_dir()) {
            let known = [
                "backups",
                "control.key",
                "guest",
                "supervisor.lock",
                "supervisor.log",
                "vms",
                "state.redb",
            ];
            let is_aside = name.starts_with("state.redb.set-aside-");
            assert!(
                is_aside || known.contains(&&*name) || name.contains(".lock"),
                "{name}"
            );
        }
        let copies = if backups(sandbox).exists() {
            names(&backups(sandbox))
        } else {
            Vec::new()
        };
        for name in copies {
            let path = backups(sandbox).join(&name);
            sandbox
                .maqet(&["state", "verify", path.to_str().unwrap()])
                .expect(0);
        }
        let verified = sandbox.json(&["state", "verify"]);
        assert_eq!(verified["findings"], serde_json::json!([]), "{verified}");
    }

    #[test]
    fn in_the_middle_of_a_copy() {
        let scene = Scene::new();
        let sandbox = &scene.sandbox;
        let (runner, qemu) = scene.processes();
        for (point, is_there) in [(Point::CopyWritten, false), (Point::CopyNamed, true)] {
            say(point.name());
            let held = Held::at(sandbox, point);
            let copying = sandbox.spawn(&["state", "backup", point.name()]);
            kill_held(sandbox, held);
            let lost = copying.output();
            assert_eq!(lost.code, 6, "{lost:?}");
            let mut left = names(&sandbox.home());
            left.retain(|name| name.starts_with(point.name()));
            assert_eq!(left.len(), usize::from(is_there), "{left:?}");
            if is_there {
                sandbox.maqet(&["state", "verify", point.name()]).expect(0);
            }
            assert_eq!(scene.processes().0.pid(), runner.pid());
            assert_eq!(scene.processes().1.pid(), qemu.pid());
            assert_whole(sandbox);
        }
        scene.assert_stops();
    }

    #[test]
    fn in_the_middle_of_a_daily_copy() {
        for point in [Point::CopyWritten, Point::CopyNamed] {
            say(point.name());
            let sandbox = aged();
            let held = Held::at(&sandbox, point);
            Guest::tiny("web").start(&sandbox);
            let qemu = sandbox.status("web")["pid"].clone();
            kill_held(&sandbox, held);
            assert_eq!(sandbox.status("web")["pid"], qemu);
            made_beside(&sandbox, &[]);
            assert_eq!(names(&backups(&sandbox)).len(), 1);
            assert_whole(&sandbox);
            end(&sandbox);
        }
    }

    #[test]
    fn in_the_middle_of_a_restoration() {
        let scene = Scene::new();
        let sandbox = &scene.sandbox;
        sandbox.maqet(&["state", "backup", "copy.redb"]).expect(0);
        Guest::tiny("later").add(sandbox);
        let (runner, qemu) = scene.processes();
        let points = [Point::RestoreFilled, Point::RestoreSetAside, Point::RestorePlaced];
        for point in points {
            say(point.name());
            let held = Held::at(sandbox, point);
            let restoring = sandbox.spawn(&["state", "restore", "copy.redb"]);
            kill_held(sandbox, held);
            let lost = restoring.output();
            assert_ne!(lost.code, 0, "{lost:?}");
            assert_eq!(scene.processes().0.pid(), runner.pid());
            assert_eq!(scene.processes().1.pid(), qemu.pid());
            assert_eq!(sandbox.status("later")["status"], "created");
            assert_whole(sandbox);
        }
        sandbox.maqet(&["state", "restore", "copy.redb"]).expect(0);
        assert_eq!(scene.processes().1.pid(), qemu.pid());
        assert_whole(sandbox);
        scene.assert_ticking();
        end(sandbox);
    }
}
