//! The disk is full.

use std::fs;
use std::path::{Path, PathBuf};

use maqet_process::ProcessHandle;
use maqet_state::change::Change;
use maqet_state::clock::Timestamp;
use maqet_state::journal::NewEvent;
use maqet_state::store::Store;
use maqet_tests::wait::{self, PATIENCE};
use maqet_tests::{Guest, Sandbox};
use redb::{Database, TableDefinition};
use serde_json::{Value, json};

use crate::scene::{Scene, VM, kill, kinds, process, store_path};
use crate::small_disk::SmallDisk;

/// Room for a store and a few logs.
const MEBIBYTES: u32 = 6;

/// Additions after which a full disk must have refused one. Each takes some KB of a store of at most a few MB.
const ADDITIONS_MAX: usize = 500;

#[test]
fn a_full_disk_keeps_nobody_from_looking_and_stopping() {
    let sandbox = Sandbox::new();
    let Some(disk) = SmallDisk::mount(sandbox.data_dir(), MEBIBYTES) else {
        return;
    };
    Guest::tiny("web").start(&sandbox);
    Guest::tiny("db").start(&sandbox);
    Guest::tiny("idle").add(&sandbox);
    let filler = disk.fill();

    assert_eq!(sandbox.json(&["ls"]).as_array().unwrap().len(), 3);
    assert_eq!(sandbox.status("web")["status"], "running");
    // A start may find room for its few bytes; one that does not says so and leaves nothing behind.
    let started = sandbox.maqet(&["start", "idle", "-o", "json"]);
    if started.code != 0 {
        let refusal = started.error();
        assert!(refusal.to_string().contains("No space left"), "{refusal}");
        assert_ne!(sandbox.status("idle")["status"], "running");
    }
    stop_all_the_same(&sandbox);

    // The end that could not be recorded is found out by the next supervisor.
    let supervisor = process(&sandbox.json(&["supervisor", "status", "--no-autostart"])["pid"]);
    fs::remove_file(filler).unwrap();
    kill(&[&supervisor]);
    let status = sandbox.status("web");
    assert_eq!(
        (&status["status"], &status["last_exit"]["cause"]),
        (&"stopped".into(), &"stop".into()),
        "{status}"
    );
    assert_eq!(sandbox.status("db")["status"], "running");
    sandbox.maqet(&["start", "idle"]).expect(0);

    sandbox.maqet(&["rm", "--all", "--force", "--yes"]).expect(0);
    sandbox.maqet(&["supervisor", "stop"]).expect(0);
}

fn stop_all_the_same(sandbox: &Sandbox) {
    let qemu = process(&sandbox.status("web")["pid"]);
    let stopped = sandbox.json(&["stop", "web"]);
    assert_eq!(
        (&stopped[0]["status"], &stopped[0]["how"]),
        (&"stopped".into(), &"guest".into()),
        "{stopped}"
    );
    assert!(qemu.has_exited());
    assert_eq!(sandbox.status("web")["status"], "stopped");
    // What is struck from the ledger and not written yet is no leak.
    sandbox.maqet(&["doctor", "--leaks"]).expect(0);
}

/// Adds VMs until there is no room for one more; returns the refusal.
fn fill_the_store(sandbox: &Sandbox) -> Value {
    // A place of its own: this file system has no room for a file any more.
    let elsewhere = tempfile::tempdir().unwrap();
    let append = "x".repeat(8000);
    for number in 0..ADDITIONS_MAX {
        let name = format!("filler-{number}");
        let file = elsewhere.path().join(format!("{name}.yaml"));
        let words = format!("qemu: {{args: [-name, \"{append}\"]}}");
        fs::write(
            &file,
            format!("name: {name}\nmachine: none\naccel: tcg\nmemory: 16M\n{words}\n"),
        )
        .unwrap();
        let added = sandbox.maqet(&["add", &file.display().to_string(), "-o", "json"]);
        if added.code != 0 {
            return added.error();
        }
    }
    panic!("{ADDITIONS_MAX} VMs found room on a full disk");
}

/// Entries after which a full disk must have refused one. The file holds a few MB.
const ENTRIES_MAX: u64 = 20_000;

/// Why the store takes no changes; null when it does.
fn read_only(sandbox: &Sandbox) -> Value {
    sandbox.json(&["supervisor", "status"])["store"]["read_only"].clone()
}

fn assert_refused_by_the_store(error: &Value) {
    assert_eq!(error["code"], "store-failed", "{error}");
    assert_eq!(error["exit"], 1, "{error}");
    assert!(error.to_string().contains("No space left"), "{error}");
    assert!(error["hint"].as_str().unwrap().starts_with("df -h"), "{error}");
}

fn refused(sandbox: &Sandbox, words: &[&str]) {
    let words: Vec<&str> = words.iter().copied().chain(["-o", "json"]).collect();
    let output = sandbox.maqet(&words);
    assert_ne!(output.code, 0, "{words:?}: {output:?}");
    assert_refused_by_the_store(&output.error());
}

/// A full disk under one VM that ticks, two that merely run, and one that rests.
struct FullDisk {
    scene: Scene,
    qemu: ProcessHandle,
    filler: PathBuf,
    /// The last thing dropped: the sandbox is cleared away on it.
    _disk: SmallDisk,
}

impl FullDisk {
    fn new() -> Option<Self> {
        let sandbox = Sandbox::new();
        let disk = SmallDisk::mount(sandbox.data_dir(), MEBIBYTES)?;
        let id = Guest::tiny(VM).options(&["ticks"]).start(&sandbox);
        for name in ["db", "mail"] {
            Guest::tiny(name).start(&sandbox);
        }
        Guest::none("idle").add(&sandbox);
        let scene = Scene { sandbox, id };
        assert_eq!(read_only(&scene.sandbox), Value::Null);
        let filler = disk.fill();
        assert_refused_by_the_store(&fill_the_store(&scene.sandbox));
        Some(Self {
            qemu: scene.processes().1,
            scene,
            filler,
            _disk: disk,
        })
    }

    fn is_told(&self) {
        let sandbox = &self.scene.sandbox;
        let trouble = read_only(sandbox);
        let reason = trouble["reason"].as_str().unwrap();
        assert!(reason.contains("No space left"), "{trouble}");
        let told = sandbox.maqet(&["supervisor", "status"]).expect(0).stdout;
        assert!(told.contains("read-only since"), "{told}");
    }

    /// What needs the store is refused, before anything is done.
    fn refuses_changes(&self) {
        let sandbox = &self.scene.sandbox;
        let stored = sandbox.json(&["ls"]).as_array().unwrap().len();
        refused(sandbox, &["start", "idle"]);
        refused(sandbox, &["rm", "idle", "--yes"]);
        refused(sandbox, &["rm", "mail", "--force", "--yes"]);
        refused(sandbox, &["restart", "mail"]);
        assert_eq!(sandbox.status("idle")["status"], "created");
        assert_eq!(sandbox.status("mail")["status"], "running");
        assert_eq!(sandbox.json(&["ls"]).as_array().unwrap().len(), stored);
    }

    fn lets_look_and_stop(&self) {
        let sandbox = &self.scene.sandbox;
        sandbox.maqet(&["events", "--since", "0", "-o", "json"]).expect(0);
        let stopped = sandbox.json(&["stop", "db"]);
        assert_eq!(stopped[0]["how"], "guest", "{stopped}");
        let killed = sandbox.json(&["kill", "mail"]);
        assert_eq!(killed[0]["status"], "stopped", "{killed}");
        assert!(!self.qemu.has_exited());
        assert!(read_only(sandbox)["waiting"].as_u64().unwrap() > 1);
    }

    /// Another supervisor knows what this one knew, written or not.
    fn survives_its_supervisor(&self) {
        let sandbox = &self.scene.sandbox;
        kill(&[&self.scene.supervisor()]);
        for name in ["db", "mail"] {
            let seen = sandbox.status(name);
            assert_eq!(seen["status"], "stopped", "{seen}");
            assert_eq!(seen["last_exit"]["cause"], "stop", "{seen}");
        }
        let status = self.scene.status();
        assert_eq!(status["status"], "running", "{status}");
        assert_eq!(status["pid"].as_i64(), Some(self.qemu.pid().into()));
    }

    /// The last tick in the log. There may be a gap before it: the log is on the full disk too.
    fn last_tick(&self) -> usize {
        let log = self.scene.sandbox.data_dir().join("vms").join(&self.scene.id);
        let text = fs::read_to_string(log.join("serial.log")).unwrap();
        let whole = text.rsplit_once('\n').map_or("", |(whole, _rest)| whole);
        let mut ticks = whole
            .lines()
            .filter_map(|line| line.strip_prefix("tick ")?.trim().parse().ok());
        ticks.next_back().unwrap_or_default()
    }

    /// Room again: everything becomes durable without anybody asking for it.
    fn recovers(&self) {
        let sandbox = &self.scene.sandbox;
        let tick = self.last_tick();
        fs::remove_file(&self.filler).unwrap();
        wait::until("the store takes changes", PATIENCE, || {
            let trouble = read_only(sandbox);
            if trouble.is_null() { Ok(()) } else { Err(trouble) }
        });
        let kinds = kinds(sandbox);
        let place = |kind: &str| kinds.iter().rposition(|seen| seen == kind);
        let order = [
            place("store.read-only").unwrap(),
            place("store.writable").unwrap(),
        ];
        assert!(order.is_sorted(), "{kinds:?}");
        wait::until("the guest goes on", PATIENCE, || {
            let now = self.last_tick();
            if now > tick + 5 { Ok(()) } else { Err(now) }
        });
    }
}

#[test]
fn a_full_disk_makes_the_store_read_only_and_disturbs_no_vm() {
    let Some(full) = FullDisk::new() else { return };
    full.is_told();
    full.refuses_changes();
    full.lets_look_and_stop();
    full.survives_its_supervisor();
    // The new one met the same disk.
    refused(&full.scene.sandbox, &["start", "idle"]);
    full.is_told();
    full.recovers();
    full.survives_its_supervisor();
    let sandbox = &full.scene.sandbox;
    sandbox.maqet(&["start", "idle"]).expect(0);
    sandbox.maqet(&["rm", "--all", "--force", "--yes"]).expect(0);
    sandbox.maqet(&["supervisor", "stop"]).expect(0);
    let store = Store::open(&store_path(sandbox)).unwrap().store;
    store.verify_journal().unwrap();
}

/// Writes through the store until it takes nothing, not even a small entry.
fn exhaust(store: &Store) {
    let mut refusals = 0;
    for number in 0..ENTRIES_MAX {
        let words = "x".repeat(if refusals == 0 { 4000 } else { 1 });
        let event = NewEvent::new("test.filler", Timestamp(number)).with("words", words);
        refusals = match store.commit(vec![Change::default().event(event)]) {
            Ok(_) => refusals.min(1),
            Err(_full) => refusals + 1,
        };
        if refusals > 3 {
            return;
        }
    }
    panic!("{ENTRIES_MAX} entries found room on a full disk");
}

/// Takes the secret of a VM out of a store.
fn take_secret(path: &Path, id: &str) {
    let db = Database::open(path).unwrap();
    let txn = db.begin_write().unwrap();
    let secrets = TableDefinition::<&str, &[u8]>::new("secrets");
    assert!(txn.open_table(secrets).unwrap().remove(id).unwrap().is_some());
    txn.commit().unwrap();
}

/// A full disk with a store that is behind: `web` rests in it and has no secret, `later` was never heard of. Both run.
struct Behind {
    sandbox: Sandbox,
    qemus: [Value; 2],
    filler: PathBuf,
    _disk: SmallDisk,
}

impl Behind {
    fn new() -> Option<Self> {
        let sandbox = Sandbox::new();
        let disk = SmallDisk::mount(sandbox.data_dir(), MEBIBYTES)?;
        let id = Guest::tiny("web").add(&sandbox);
        sandbox.maqet(&["supervisor", "stop"]).expect(0);
        let path = store_path(&sandbox);
        let old = fs::read(&path).unwrap();
        sandbox.maqet(&["start", "web"]).expect(0);
        Guest::tiny("later").start(&sandbox);
        let qemus = ["web", "later"].map(|name| sandbox.status(name)["pid"].clone());
        sandbox.maqet(&["supervisor", "stop"]).expect(0);
        fs::write(&path, old).unwrap();
        take_secret(&path, &id);
        let filler = disk.fill();
        exhaust(&Store::open(&path).unwrap().store);
        Some(Self {
            sandbox,
            qemus,
            filler,
            _disk: disk,
        })
    }

    fn shows_and_stops(&self) {
        let sandbox = &self.sandbox;
        for (name, qemu) in ["web", "later"].into_iter().zip(&self.qemus) {
            let status = sandbox.status(name);
            assert_eq!(
                (&status["status"], &status["pid"]),
                (&"running".into(), qemu),
                "{status}"
            );
        }
        let trouble = read_only(sandbox);
        assert!(
            trouble["reason"].as_str().unwrap().contains("No space left"),
            "{trouble}"
        );
        let killed = sandbox.json(&["kill", "later"]);
        assert_eq!(killed[0]["status"], "stopped", "{killed}");
    }

    /// The next supervisor learns it again, and what has happened since.
    fn survives_its_supervisor(&self) {
        let sandbox = &self.sandbox;
        kill(&[&process(&sandbox.json(&["supervisor", "status"])["pid"])]);
        let status = sandbox.status("web");
        assert_eq!(
            (&status["status"], &status["pid"]),
            (&"running".into(), &self.qemus[0]),
            "{status}"
        );
        let listed = sandbox.json(&["ls", "--status", "running"]);
        assert_eq!(listed.as_array().unwrap().len(), 1, "{listed}");
    }

    fn is_put_right(&self) {
        let sandbox = &self.sandbox;
        fs::remove_file(&self.filler).unwrap();
        wait::until("the store takes changes", PATIENCE, || {
            let trouble = read_only(sandbox);
            if trouble.is_null() { Ok(()) } else { Err(trouble) }
        });
        assert!(kinds(sandbox).contains(&"vm.restored".to_owned()));
        let verified = sandbox.json(&["state", "verify"]);
        assert_eq!(verified["findings"], json!([]), "{verified}");
        wait::until("a runner serves it again", PATIENCE, || {
            let asked = sandbox.maqet(&["qmp", "run", "web", "query-status", "-o", "json"]);
            if asked.code == 0 { Ok(()) } else { Err(asked) }
        });
        assert_eq!(sandbox.status("web")["pid"], self.qemus[0]);
    }
}

#[test]
fn a_supervisor_starts_on_a_full_disk_with_a_store_that_is_behind() {
    let Some(behind) = Behind::new() else { return };
    behind.shows_and_stops();
    behind.survives_its_supervisor();
    behind.is_put_right();
    behind
        .sandbox
        .maqet(&["rm", "--all", "--force", "--yes"])
        .expect(0);
    behind.sandbox.maqet(&["supervisor", "stop"]).expect(0);
}
