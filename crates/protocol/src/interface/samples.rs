//! One sample of every message, with every optional field present.

mod storage;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::control::{
    Add, AuditVerify, Describe, Disable, Enable, Events, FollowWork, ImageImport, ImageList, ImageRemove,
    ImageVerify, Info, Leaks, List, Pause, Qmp, Remove, Reset, Restart, Resume, SnapshotCreate,
    SnapshotDelete, SnapshotList, SnapshotLoad, Start, StateBackup, StateDump, StateVerify, Stop,
    SupervisorInfo, SupervisorStop, WriteTinyGuest,
};
use crate::handshake::{Hello, HelloReply, Prove};
use crate::method::Method;
use crate::runner::{
    Adopt, EndMerge, ListSnapshots, ListTops, MergeImage, PlugDisk, Prepare, Query, Release, RunQmp,
    RunSnapshot, StackImages, StopQemu, Watch,
};
use crate::varlink::Parameters;

/// Writes what it could read; `None` when it could not.
pub(super) type Reread = fn(Value) -> Option<Value>;

/// A method and a sample of both its messages.
pub(super) struct Sample {
    pub(super) method: String,
    pub(super) parameters: Value,
    pub(super) reread_parameters: Reread,
    pub(super) reply: Value,
    pub(super) reread_reply: Reread,
}

fn reread<T: Serialize + DeserializeOwned>(value: Value) -> Option<Value> {
    let read: T = serde_json::from_value(value).ok()?;
    Some(serde_json::to_value(read).unwrap())
}

fn of<M: Method>(parameters: Value, reply: Value) -> Sample {
    handshake::<M, M::Reply>(M::NAME.to_owned(), parameters, reply)
}

fn handshake<P, R>(method: String, parameters: Value, reply: Value) -> Sample
where
    P: Serialize + DeserializeOwned,
    R: Serialize + DeserializeOwned,
{
    let (reread_parameters, reread_reply) = (reread::<P>, reread::<R>);
    Sample {
        method,
        parameters,
        reread_parameters,
        reply,
        reread_reply,
    }
}

const ID: &str = "0123456789abcdef0123456789abcdef";
const AT: &str = "2026-01-02T03:04:05.678Z";

fn spec() -> Value {
    json!({
        "name": "web", "binary": "qemu-system-x86_64", "machine": "q35", "accel": "tcg", "cpu_model": "max",
        "memory": 536_870_912, "cpus": 2,
        "kernel": {"image": "/vm/vmlinuz", "initrd": "/vm/initrd", "append": "quiet"},
        "firmware": "/vm/bios.bin",
        "disks": [{"name": "root", "path": "/vm/root.qcow2", "size": 1_073_741_824, "from": "debian-12", "format": "qcow2",
            "interface": "virtio", "readonly": true, "media": "cdrom", "cache": "none", "aio": "native",
            "discard": "unmap", "detect_zeroes": "on", "port": 1}],
        "networks": [{"name": "lan", "type": "user", "model": "virtio-net-pci",
            "forwards": [{"protocol": "tcp", "host_address": "127.0.0.1", "host_port": 2222, "guest_port": 22}]}],
        "shares": [{"name": "src", "path": "/vm/src", "tag": "src", "type": "9p", "readonly": true,
            "security": "mapped-xattr"}],
        "serial": {"log": true}, "display": "none", "vga": "std", "on_reboot": "stop",
        "stop": {"timeout": "30s", "on_timeout": "kill"}, "sandbox": "off",
        "sandbox_paths": {"read": ["/r"], "write": ["/w"]},
        "restart": {"policy": "always", "backoff": "1s", "backoff_max": "1m", "tries": 5, "window": "10m"},
        "on_runner_loss": "stop",
        "extra_args": ["-msg", "timestamp=on"]
    })
}

fn last_exit() -> Value {
    json!({"cause": "qemu-killed", "at": AT, "exit_code": 1, "signal": 9, "detail": "killed"})
}

fn ports() -> Value {
    json!([{"protocol": "tcp", "host_address": "127.0.0.1", "host_port": 2222, "guest_port": 22}])
}

fn sandbox() -> Value {
    json!({"requested": "auto", "seccomp": true, "no_new_privs": true, "landlock_abi": 4})
}

fn identity() -> Value {
    json!({
        "role": "qemu", "boot_id": "b", "pidns_inode": 4_026_531_836_u64, "pid": 42, "pidfs_inode": 7,
        "pidfs_handle": {"kind": 1, "bytes": "ff"}, "start_ticks": 12, "executables": [{"dev": 1, "inode": 2}],
        "launch_id": ID, "generation": 3
    })
}

fn mark() -> Value {
    json!({"dev": 1, "inode": 2, "born_ns": 1_767_323_045_678_000_000_u64})
}

fn removal() -> Value {
    json!({"since": AT, "deleted": ["/vm/root.qcow2"], "left": ["/vm/data.qcow2"], "keep_snapshots": true})
}

fn summary() -> Value {
    json!({
        "id": ID, "name": "web", "status": "running", "activity": "stopping", "run_state": "paused", "pid": 42,
        "runner_pid": 41, "since": AT, "uptime_s": 5, "memory": 1024, "cpus": 2, "restart": "always",
        "restart_state": {"tries": 1, "tries_max": 5, "window_s": 600, "next_at": AT, "gave_up": false},
        "autostart": {"order": 1, "delay_ms": 500},
        "last_exit": last_exit(), "silent_since": AT, "removal": removal()
    })
}

fn status() -> Value {
    let mut all = json!({
        "accel": "tcg",
        "disks": [{"name": "root", "path": "/vm/root.qcow2", "format": "qcow2", "interface": "virtio",
            "readonly": false, "file": mark(), "made": true,
            "trouble": {"problem": "damaged", "detail": "3 errors", "since": AT, "accepted": true,
                "hint": "maqet storage verify web --repair"}}],
        "shares": [{"name": "src", "path": "/vm/src", "tag": "code", "type": "virtiofs", "readonly": true, "pid": 43,
            "lost": {"detail": "virtiofsd ended with signal 9", "since": AT}}],
        "ports": ports(), "sandbox": sandbox(),
        "logs": {"serial": "/l/serial.log", "qemu": "/l/qemu.log", "runner": "/l/runner.log",
                 "virtiofsd": "/l/virtiofsd.log"},
        "qemu_version": "7.2.22"
    });
    let summary: Parameters = serde_json::from_value(summary()).unwrap();
    all.as_object_mut().unwrap().extend(summary);
    all
}

/// One event, with a field of its kind.
pub(super) fn event() -> Value {
    json!({"cursor": 9, "at": AT, "vm": "web", "id": ID, "kind": "vm.running", "pid": 42})
}

/// One fact.
pub(super) fn fact() -> Value {
    json!({"kind": "qmp-event", "name": "STOP", "data": {}})
}

/// The shape of a running QEMU.
pub(super) fn running() -> Value {
    json!({"run_state": "running", "qemu_version": "7.2.22", "accel": "tcg", "ports": ports(),
        "sandbox": sandbox()})
}

fn helpers() -> Value {
    json!([{"share": "src", "identity": identity()}])
}

fn autostart_set() -> Value {
    json!({"vm": "web", "already": false, "autostart": {"order": 1, "delay_ms": 500}})
}

fn started() -> Value {
    json!({"id": ID, "name": "web", "pid": 42, "already": false, "took_ms": 80})
}

fn changed() -> Value {
    json!({"vm": "web", "already": false, "run_state": "paused"})
}

fn journal_walk() -> Value {
    json!({"pruned": 3, "cursor": 9, "hash": "ab".repeat(32), "broken_at": 10})
}

fn leak_report() -> Value {
    json!({
        "leaks": [{"kind": "socket", "what": "/r/vms/x/qmp0.sock", "vm": "web", "since": AT, "detail": "nobody listens"}],
        "looked_at": {"vms": 2, "busy": 1, "processes": 90, "ledger": 12, "directories": 4, "sockets": 5, "ports": 1, "took_ms": 3},
        "actions": [{"kind": "file", "what": "/vm/new.qcow2", "detail": "deleted", "done": true}]
    })
}

/// `Hello` and `Prove`.
pub(super) fn handshakes(interface: &str) -> Vec<Sample> {
    let nonce = "ab".repeat(32);
    let hello = json!({"version": 1, "client_nonce": nonce, "client_inode": 7, "role": "runner", "vm": ID});
    let reply = json!({"version": 1, "server_nonce": nonce, "server_proof": nonce, "server_inode": 8});
    let prove = json!({"client_proof": nonce});
    vec![
        handshake::<Hello, HelloReply>(format!("{interface}.Hello"), hello, reply),
        handshake::<Prove, Parameters>(format!("{interface}.Prove"), prove, json!({})),
    ]
}

/// `org.maqet.Control` without the handshake.
pub(super) fn control() -> Vec<Sample> {
    let vm = || json!({"vm": "web"});
    let mut samples = vec![
        of::<Add>(
            json!({"spec": spec(), "key": "k"}),
            json!({"id": ID, "name": "web"}),
        ),
        of::<Start>(json!({"vm": "web", "key": "k"}), started()),
        of::<Stop>(
            json!({"vm": "web", "timeout_ms": 30_000, "force": true, "key": "k"}),
            json!({"vm": "web", "status": "stopped", "how": "guest", "took_ms": 80}),
        ),
        of::<Restart>(json!({"vm": "web", "timeout_ms": 30_000, "key": "k"}), started()),
        of::<Pause>(vm(), changed()),
        of::<Resume>(vm(), changed()),
        of::<Reset>(vm(), changed()),
        of::<Remove>(
            json!({"vm": "web", "force": true, "delete_storage": true, "keep_snapshots": true, "key": "k"}),
            json!({"id": ID, "vm": "web", "deleted": ["/vm/root.qcow2"], "kept": ["/vm/data.raw"],
                "reasons": [{"path": "/vm/data.raw", "why": "maqet did not make it"}]}),
        ),
        of::<List>(json!({"status": "running"}), json!({"vms": [summary()]})),
        of::<Describe>(vm(), status()),
        of::<Info>(vm(), json!({"id": ID, "spec": spec()})),
        of::<Events>(
            json!({"since": 3, "vm": "web", "follow": true}),
            json!({"event": event()}),
        ),
        of::<Qmp>(
            json!({"vm": "web", "command": "stop", "arguments": {}, "timeout_ms": 1000}),
            json!({"return": {"a": []}}),
        ),
        of::<Enable>(json!({"vm": "web", "order": 1, "delay_ms": 500}), autostart_set()),
        of::<Disable>(vm(), autostart_set()),
        of::<SupervisorInfo>(
            json!({}),
            json!({"pid": 40, "version": "0.1.0", "since": AT, "data_dir": "/d", "runtime_dir": "/r", "vms": 2,
                "running": 1, "memory": 4096, "cursor": 9, "virtiofsd": "/usr/libexec/virtiofsd",
                "store": {"read_only": {"since": AT, "reason": "No space left on device", "waiting": 2},
                    "newest_backup": {"path": "/d/backups/state-20260101T000000Z.redb", "at": AT},
                    "backup_failed": {"at": AT, "reason": "No space left on device"}}}),
        ),
        of::<SupervisorStop>(json!({"keep_vms": true}), json!({})),
        of::<Leaks>(json!({"fix": true, "logs": true}), leak_report()),
        of::<WriteTinyGuest>(json!({}), json!({"path": "/d/guest/tiny.bin", "ready": "ready"})),
    ];
    samples.extend(snapshots());
    samples.extend(store());
    samples.extend(storage::methods());
    samples.extend(images());
    samples
}

/// Methods about snapshots.
fn snapshots() -> Vec<Sample> {
    let done = |action: &str| {
        json!({"vm": "web", "action": action, "name": "before", "disks": ["root"], "live": true, "memory": true,
            "memory_left_out": false, "took_ms": 80, "kind": "internal"})
    };
    vec![
        of::<SnapshotCreate>(
            json!({"vm": "web", "name": "before", "disk": "root", "memory": true, "overwrite": true, "external": true, "key": "k"}),
            done("create"),
        ),
        of::<SnapshotLoad>(
            json!({"vm": "web", "name": "before", "disk": "root", "memory": true, "key": "k"}),
            done("load"),
        ),
        of::<SnapshotDelete>(
            json!({"vm": "web", "name": "before", "disk": "root", "key": "k"}),
            done("delete"),
        ),
        of::<SnapshotList>(
            json!({"vm": "web", "disk": "root"}),
            json!({"vm": "web", "snapshots": [{"name": "before", "disks": ["root"], "complete": true, "at": AT,
                "vm_state_bytes": 4096, "vm_clock_ms": 1234, "kind": "internal", "below": "clean"}]}),
        ),
    ]
}

/// Methods about the store.
fn store() -> Vec<Sample> {
    vec![
        of::<StateBackup>(
            json!({"path": "/b/copy.redb"}),
            json!({"path": "/b/copy.redb", "bytes": 4096, "took_ms": 9}),
        ),
        of::<StateVerify>(
            json!({}),
            json!({"schema": 2, "vms": 2, "ledger": 12, "answers": 9, "journal": journal_walk(),
                "findings": [{"table": "vms", "key": ID, "what": "has no secret"}], "left_out": 1}),
        ),
        of::<StateDump>(
            json!({}),
            json!({"rows": [{"table": "vms", "key": ID, "value": {}}]}),
        ),
        of::<AuditVerify>(json!({}), journal_walk()),
    ]
}

/// Methods about the library.
fn images() -> Vec<Sample> {
    let progress = json!({"what": "copying", "done": 1, "total": 2, "unit": "bytes"});
    let image = json!({
        "name": "debian-12", "path": "/d/images/debian-12/image.qcow2", "format": "qcow2",
        "virtual_bytes": 1_048_576, "file_bytes": 196_608, "checksum": format!("blake3:{}", "ab".repeat(32)),
        "file": mark(), "source": "/dl/debian.raw", "source_format": "raw",
        "source_checksum": format!("sha256:{}", "cd".repeat(32)), "imported": AT, "used_by": ["web"]
    });
    let damaged = json!({"name": "old", "reason": "its file: No such file or directory"});
    vec![
        of::<ImageImport>(
            json!({"file": "/dl/debian.raw", "name": "debian-12", "format": "raw",
                "checksum": format!("sha256:{}", "cd".repeat(32))}),
            json!({"progress": progress, "image": image}),
        ),
        of::<FollowWork>(json!({"vm": "web"}), json!({"progress": progress})),
        of::<ImageList>(json!({}), json!({"images": [image], "damaged": [damaged]})),
        of::<ImageRemove>(json!({"name": "debian-12"}), json!({"name": "debian-12"})),
        of::<ImageVerify>(
            json!({"names": ["debian-12"]}),
            json!({"progress": progress,
                "verdict": {"name": "debian-12", "sound": false, "problems": ["its content has changed"]}}),
        ),
    ]
}

/// `org.maqet.Runner` without the handshake.
pub(super) fn runner() -> Vec<Sample> {
    vec![
        of::<Prepare>(
            json!({"spec": spec(), "binary": "/usr/bin/qemu-system-x86_64", "launch_id": ID, "generation": 3,
                "log_dir": "/l", "log_bytes_max": 1024, "roots": ["/srv/vm"], "own": ["/data"],
                "files": [{"path": "/vm/root.qcow2", "file": mark(), "same_boot": true}],
                "virtiofsd": "/usr/libexec/virtiofsd"}),
            json!({"qemu": identity(), "ports": running()["ports"],
                "files": [{"path": "/vm/root.qcow2", "file": mark()}], "helpers": helpers()}),
        ),
        of::<Release>(json!({}), running()),
        of::<Adopt>(
            json!({"spec": spec(), "qemu": identity(), "log_dir": "/l", "log_bytes_max": 1024,
                "roots": ["/srv/vm"], "own": ["/data"], "helpers": helpers()}),
            running(),
        ),
        of::<Query>(
            json!({}),
            json!({"qemu": identity(), "running": running(), "exit": last_exit()}),
        ),
        of::<StopQemu>(
            json!({"budget_ms": 30_000, "hard": true, "force": false, "kill_on_timeout": false}),
            json!({"how": "quit", "exit": last_exit()}),
        ),
        of::<RunQmp>(
            json!({"command": "stop", "arguments": {}, "timeout_ms": 1000}),
            json!({"return": {}}),
        ),
        of::<RunSnapshot>(
            json!({"step": "create", "name": "before", "disks": ["root"], "vmstate": "root", "timeout_ms": 1000}),
            json!({}),
        ),
        of::<ListSnapshots>(
            json!({"disks": ["root"]}),
            json!({"entries": [{"disk": "root", "id": "1", "name": "before", "at": AT, "vm_state_bytes": 4096,
                "vm_clock_ms": 1234}], "run_state": "running"}),
        ),
        of::<Watch>(json!({}), json!({"fact": fact()})),
    ]
    .into_iter()
    .chain(runner_layers())
    .collect()
}

fn runner_layers() -> Vec<Sample> {
    vec![
        of::<StackImages>(
            json!({"disks": [{"disk": spec()["disks"][0], "image": {"path": "/vm/root.a.qcow2", "file": mark()}, "images": 1}],
                "timeout_ms": 1000}),
            json!({}),
        ),
        of::<ListTops>(
            json!({"disks": ["root"]}),
            json!({"tops": [{"disk": "root", "node": "over.0.1", "images": 2, "attached": true}], "merging": ["data"]}),
        ),
        of::<MergeImage>(
            json!({"disk": spec()["disks"][0], "images": 3, "depth": 1, "base": {"path": "/vm/root.qcow2", "file": mark()},
                "above": {"path": "/vm/root.a.qcow2", "file": mark()}, "timeout_ms": 1000}),
            json!({"waits": true}),
        ),
        of::<EndMerge>(json!({"disk": "root", "images": 2}), json!({})),
        of::<PlugDisk>(
            json!({"spec": spec(), "disk": "root", "files": [{"path": "/vm/root.qcow2", "file": mark()}],
                "timeout_ms": 1000}),
            json!({}),
        ),
    ]
}
