//! The store as people look after it: copies, examinations, and a copy that takes its place under running VMs.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use maqet_state::store::Store;
use maqet_tests::{Guest, Sandbox};
use redb::{Database, ReadableTable, TableDefinition};
use serde_json::{Value, json};

/// A sandbox with a VM that runs and one that does not.
fn two() -> Sandbox {
    let sandbox = Sandbox::new();
    Guest::tiny("web").start(&sandbox);
    Guest::tiny("idle").add(&sandbox);
    sandbox
}

fn end(sandbox: &Sandbox) {
    sandbox.maqet(&["rm", "--all", "--force", "--yes"]).expect(0);
    sandbox.maqet(&["supervisor", "stop"]).expect(0);
}

fn rows(text: &str) -> Vec<Value> {
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

#[test]
fn a_copy_is_whole_private_and_replaces_nothing() {
    let sandbox = two();
    // A relative path is the client's.
    let copied = sandbox.json(&["state", "backup", "copy.redb"]);
    let path = sandbox.home().join("copy.redb");
    assert_eq!(copied["path"], path.to_str().unwrap(), "{copied}");
    let about = fs::metadata(&path).unwrap();
    assert_eq!(copied["bytes"], about.len(), "{copied}");
    assert_eq!(about.permissions().mode() & 0o777, 0o600);
    let names: Vec<_> = Store::view(&path).unwrap().store.vms().unwrap();
    assert_eq!(names.len(), 2);

    let before = fs::read(&path).unwrap();
    std::os::unix::fs::symlink(sandbox.home().join("victim"), sandbox.home().join("link")).unwrap();
    for taken in ["copy.redb", "link"] {
        let refused = sandbox.maqet(&["state", "backup", taken, "-o", "json"]).expect(5);
        assert_eq!(refused.error()["code"], "conflict", "{refused:?}");
    }
    assert!(fs::read(&path).unwrap() == before && !sandbox.home().join("victim").exists());
    let nowhere = sandbox
        .maqet(&["state", "backup", "no/such/copy", "-o", "json"])
        .expect(1);
    assert_eq!(nowhere.error()["code"], "store-failed", "{nowhere:?}");
    assert!(
        nowhere.error()["causes"].to_string().contains("No such file"),
        "{nowhere:?}"
    );
    end(&sandbox);
}

/// What `state verify` with these words says of a store with so many VMs and no fault.
#[track_caller]
fn assert_sound(sandbox: &Sandbox, words: &[&str], vms: u64) -> Value {
    let words: Vec<&str> = ["state", "verify"].iter().chain(words).copied().collect();
    let verified = sandbox.json(&words);
    let told = (&verified["vms"], &verified["findings"]);
    assert_eq!(told, (&vms.into(), &json!([])), "{verified}");
    verified
}

#[test]
fn the_present_store_is_verified_and_dumped() {
    let sandbox = two();
    assert_sound(&sandbox, &[], 2);
    let table = sandbox.maqet(&["state", "verify"]).expect(0).stdout;
    assert!(
        table.contains("found:   nothing; every page was checked"),
        "{table}"
    );
    let audited = sandbox.json(&["audit", "verify"]);
    let told = (&audited["pruned"], &audited["broken_at"]);
    assert_eq!(told, (&0.into(), &Value::Null), "{audited}");

    let dumped = rows(&sandbox.maqet(&["state", "dump"]).expect(0).stdout);
    let of = |table: &str| dumped.iter().filter(|row| row["table"] == table).count();
    assert_eq!((of("vms"), of("names"), of("secrets")), (2, 2, 2));
    assert!(of("journal") >= usize::try_from(audited["cursor"].as_u64().unwrap()).unwrap());
    let mut secrets = dumped.iter().filter(|row| row["table"] == "secrets");
    let is_print = |row: &Value| row["value"].as_str().unwrap().starts_with("fingerprint:");
    assert!(secrets.all(is_print), "{dumped:?}");

    // The file of a store that somebody has is left to them.
    let path = sandbox.data_dir().join("state.redb");
    let words = ["state", "verify", path.to_str().unwrap(), "-o", "json"];
    let held = sandbox.maqet(&words).expect(5);
    assert_eq!(held.error()["code"], "busy", "{held:?}");
    end(&sandbox);
}

#[test]
fn without_a_supervisor_files_are_looked_at_and_none_is_started() {
    let sandbox = two();
    sandbox.maqet(&["state", "backup", "copy.redb"]).expect(0);
    end(&sandbox);
    assert_sound(&sandbox, &["copy.redb", "--no-autostart"], 2);
    let present = assert_sound(&sandbox, &["--no-autostart"], 0);
    let path = sandbox.data_dir().join("state.redb");
    assert_eq!(present["file"], path.to_str().unwrap());
    let dumped = sandbox
        .maqet(&["state", "dump", "--no-autostart"])
        .expect(0)
        .stdout;
    assert!(
        rows(&dumped)
            .iter()
            .any(|row| row["value"]["kind"] == "vm.removed"),
        "{dumped}"
    );
    sandbox.maqet(&["audit", "verify", "--no-autostart"]).expect(0);
    sandbox.maqet(&["supervisor", "status"]).expect(6);
}

/// Changes one entry of the journal behind maqet's back.
fn forge(path: &Path, cursor: u64) {
    let db = Database::open(path).unwrap();
    let txn = db.begin_write().unwrap();
    let journal = TableDefinition::<u64, &[u8]>::new("journal");
    {
        let mut table = txn.open_table(journal).unwrap();
        let entry = table.get(cursor).unwrap().unwrap().value().to_vec();
        let forged = String::from_utf8(entry).unwrap().replace("vm.", "um.");
        table.insert(cursor, forged.as_bytes()).unwrap();
    }
    txn.commit().unwrap();
}

#[test]
fn a_copy_that_was_altered_is_told_and_not_restored() {
    let sandbox = two();
    sandbox.maqet(&["state", "backup", "copy.redb"]).expect(0);
    forge(&sandbox.home().join("copy.redb"), 2);
    let audited = sandbox
        .maqet(&["audit", "verify", "copy.redb", "-o", "json"])
        .expect(1);
    assert_eq!(audited.json()["broken_at"], 2, "{audited:?}");
    let error = audited.error();
    assert_eq!(error["message"], "the journal's chain is broken at entry 2");
    let verified = sandbox.maqet(&["state", "verify", "copy.redb"]).expect(1);
    assert!(
        verified.stdout.contains("journal `2`: the chain is broken"),
        "{verified:?}"
    );
    let refused = sandbox.maqet(&["state", "restore", "copy.redb"]).expect(1);
    assert!(refused.stderr.contains("broken at entry 2"), "{refused:?}");
    assert_eq!(sandbox.status("web")["status"], "running");
    end(&sandbox);
}

#[test]
fn what_is_no_store_is_told_as_such() {
    let sandbox = Sandbox::new();
    fs::write(sandbox.home().join("copy.redb"), "no store").unwrap();
    for file in ["copy.redb", "missing.redb"] {
        for words in [["state", "verify"], ["state", "dump"], ["audit", "verify"]] {
            let refused = sandbox.maqet(&[words[0], words[1], file, "-o", "json"]).expect(1);
            assert_eq!(refused.error()["code"], "store-failed", "{refused:?}");
        }
    }
}

#[test]
fn damage_under_the_supervisor_is_told_and_disturbs_no_vm() {
    let sandbox = two();
    let path = sandbox.data_dir().join("state.redb");
    let mut bytes = fs::read(&path).unwrap();
    bytes.iter_mut().skip(4096).for_each(|byte| *byte ^= 0x5a);
    fs::write(&path, bytes).unwrap();
    let refused = sandbox.maqet(&["state", "verify", "-o", "json"]).expect(1);
    let error = refused.error();
    assert!(error["hint"].to_string().contains("doctor --rebuild"), "{error}");
    let web = sandbox.status("web");
    assert_eq!(web["status"], "running");
    sandbox.maqet(&["doctor", "--rebuild"]).expect(0);
    assert_eq!(sandbox.status("web")["pid"], web["pid"]);
    assert_sound(&sandbox, &[], 2);
    end(&sandbox);
}

#[test]
fn a_copy_that_is_restored_under_running_vms_tells_what_is_so_now() {
    let sandbox = two();
    let web = sandbox.status("web");
    Guest::tiny("ended").start(&sandbox);
    Guest::tiny("lost").add(&sandbox);
    sandbox.maqet(&["state", "backup", "copy.redb"]).expect(0);
    // What changes after that: one more runs, one ended, one was removed, and one was never heard of.
    sandbox.maqet(&["start", "idle"]).expect(0);
    sandbox.maqet(&["stop", "ended"]).expect(0);
    sandbox.maqet(&["rm", "lost", "--yes"]).expect(0);
    Guest::tiny("later").start(&sandbox);
    let pids = |name: &str| {
        let status = sandbox.status(name);
        (status["pid"].clone(), status["runner_pid"].clone())
    };
    let before = [pids("idle"), pids("later")];

    let restored = sandbox.json(&["state", "restore", "copy.redb"]);
    assert_eq!(restored["reason"], "it was asked for", "{restored}");
    assert_eq!(sandbox.status("web")["pid"], web["pid"]);
    assert_eq!(sandbox.status("web")["runner_pid"], web["runner_pid"]);
    assert_eq!(pids("idle"), before[0]);
    // Its secret was not in the copy: QEMU goes on under another runner.
    assert_eq!(pids("later").0, before[1].0);
    for (name, status) in [
        ("idle", "running"),
        ("later", "running"),
        ("ended", "stopped"),
        ("lost", "created"),
    ] {
        let seen = sandbox.status(name);
        assert_eq!(seen["status"], status, "{seen}");
    }
    assert_eq!(sandbox.status("ended")["last_exit"]["cause"], "stop");
    assert_sound(&sandbox, &[], 5);
    sandbox.maqet(&["doctor", "--leaks"]).expect(0);
    end(&sandbox);
}
