//! What a QEMU that was taken over from inside can touch: what its VM's file names, and nothing else.

use std::fs::{self, File};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::path::Path;

use maqet_process::confine::Level;
use maqet_tests::monitor::Monitor;
use maqet_tests::{Guest, Sandbox, qemu_img};
use serde_json::{Value, json};

use crate::facts::{one, status, until_serial};

fn abi() -> u32 {
    Level::of_this_kernel().abi().unwrap_or(0)
}

/// `done` is what the attempt would bring about; it is denied where the kernel has such rules.
#[track_caller]
fn assert_denied(result: &Result<Value, String>, from: u32, what: &str) {
    assert_eq!(
        result.is_err(),
        abi() >= from,
        "{what} under ABI {}: {result:?}",
        abi()
    );
    if let Err(words) = result {
        assert!(
            words.contains("ermission denied") || words.contains("not permitted"),
            "{what}: {words}"
        );
    }
}

fn open_file(path: &Path) -> Value {
    json!({"driver": "file", "node-name": "stolen", "filename": path, "read-only": true})
}

#[test]
fn no_file_of_the_host_and_of_other_vms_can_be_opened() {
    let sandbox = Sandbox::new();
    let disk = "disks: {root: {path: ./NAME.qcow2, size: 1M, interface: ide}}";
    let id = Guest::tiny("web")
        .options(&["ticks"])
        .line(&disk.replace("NAME", "web"))
        .start(&sandbox);
    Guest::tiny("other")
        .line(&disk.replace("NAME", "other"))
        .start(&sandbox);
    let mut monitor = Monitor::of(&sandbox, &id);
    let key = sandbox.data_dir().join("control.key");
    let others = sandbox.home().join("other.qcow2");
    let own_by_path = sandbox.home().join("web.qcow2");
    for path in [
        Path::new("/etc/passwd"),
        Path::new("/etc/shadow"),
        &key,
        &others,
        &own_by_path,
    ] {
        assert!(path.exists(), "{}", path.display());
        assert_denied(
            &monitor.run("blockdev-add", &open_file(path)),
            1,
            &path.display().to_string(),
        );
    }
    assert_eq!(status(&sandbox, "web"), "running");
    sandbox
        .maqet(&["wait", "web", "serial=tick", "--timeout", "60s"])
        .expect(0);
    assert_eq!(one(&sandbox.json(&["stop", "web"]))["status"], "stopped");
}

#[test]
fn nothing_is_written_outside() {
    let sandbox = Sandbox::new();
    let id = Guest::tiny("web").start(&sandbox);
    let mut monitor = Monitor::of(&sandbox, &id);
    let outside = tempfile::tempdir().unwrap();
    let at = |name: &str| outside.path().join(name);
    let attempts = [
        (
            "pmemsave",
            json!({"val": 0, "size": 4096, "filename": at("memory")}),
        ),
        (
            "dump-guest-memory",
            json!({"paging": false, "protocol": format!("file:{}", at("dump").display())}),
        ),
        (
            "chardev-add",
            json!({"id": "f", "backend": {"type": "file", "data": {"out": at("chardev")}}}),
        ),
        ("screendump", json!({"filename": at("screen")})),
    ];
    for (command, arguments) in attempts {
        assert!(
            monitor.run(command, &arguments).is_err() || abi() == 0,
            "{command}"
        );
    }
    assert_eq!(fs::read_dir(outside.path()).unwrap().count() > 0, abi() == 0);
    assert_eq!(status(&sandbox, "web"), "running");
}

#[test]
fn no_terminal_is_opened_no_port_listened_on_and_nobody_called() {
    let sandbox = Sandbox::new();
    let id = Guest::tiny("web").start(&sandbox);
    let mut monitor = Monitor::of(&sandbox, &id);
    let chardev = |id: &str, backend: Value| json!({"id": id, "backend": backend});
    let pty = monitor.run("chardev-add", &chardev("p", json!({"type": "pty", "data": {}})));
    assert_denied(&pty, 1, "a terminal");
    let free = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let inet = json!({"type": "inet", "data": {"host": "127.0.0.1", "port": free.to_string()}});
    let server = json!({"type": "socket", "data": {"addr": inet, "server": true, "wait": false}});
    assert_denied(
        &monitor.run("chardev-add", &chardev("t", server)),
        4,
        "a TCP port",
    );
    assert_denied(
        &monitor.run("nbd-server-start", &json!({"addr": inet})),
        4,
        "an NBD server",
    );
    if abi() >= 4 {
        let told = sandbox.maqet(&[
            "qmp",
            "run",
            "web",
            "nbd-server-start",
            &json!({"addr": inet}).to_string(),
        ]);
        let words = "hint: denied by the sandbox: QEMU listens on the ports of `forwards`";
        assert!(told.code == 1 && told.stderr.contains(words), "{told:?}");
    }
    let name = format!("maqet-test-{id}");
    let _listener = UnixListener::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
    let address = json!({"type": "unix", "data": {"path": name, "abstract": true}});
    let client = json!({"type": "socket", "data": {"addr": address, "server": false}});
    assert_denied(
        &monitor.run("chardev-add", &chardev("a", client)),
        6,
        "an abstract socket",
    );
    assert_eq!(status(&sandbox, "web"), "running");
}

/// Objects, networks and character devices that open something by themselves.
#[test]
fn there_is_no_way_round_by_other_parts_of_qemu() {
    let sandbox = Sandbox::new();
    let id = Guest::tiny("web").line("networks: {lan: {}}").start(&sandbox);
    let mut monitor = Monitor::of(&sandbox, &id);
    let outside = tempfile::tempdir().unwrap();
    let at = |name: &str| outside.path().join(name).display().to_string();
    let passwd = "/etc/passwd";
    let memory =
        json!({"qom-type": "memory-backend-file", "id": "ram", "size": 65536, "mem-path": at("ram")});
    let objects = [
        json!({"qom-type": "filter-dump", "id": "dump", "netdev": "lan", "file": at("dump")}),
        json!({"qom-type": "secret", "id": "secret", "file": passwd}),
        json!({"qom-type": "rng-random", "id": "random", "filename": passwd}),
        memory,
    ];
    for object in objects {
        assert_denied(&monitor.run("object-add", &object), 1, &object.to_string());
    }
    let tap = json!({"type": "tap", "id": "tap", "script": "no", "downscript": "no"});
    assert_denied(&monitor.run("netdev_add", &tap), 1, "a tap device");
    let address = json!({"type": "unix", "data": {"path": at("listener")}});
    let backends = [
        json!({"type": "socket", "data": {"addr": address, "server": true, "wait": false}}),
        json!({"type": "file", "data": {"in": passwd, "out": at("file")}}),
        json!({"type": "serial", "data": {"device": "/dev/tty"}}),
    ];
    for backend in backends {
        let arguments = json!({"id": "new", "backend": backend});
        assert_denied(&monitor.run("chardev-add", &arguments), 1, &arguments.to_string());
    }
    assert_eq!(fs::read_dir(outside.path()).unwrap().count() > 0, abi() == 0);
    assert_eq!(status(&sandbox, "web"), "running");
}

/// It has errors in its answers.
#[test]
fn there_is_no_way_round_by_the_human_monitor() {
    let sandbox = Sandbox::new();
    let id = Guest::tiny("web").options(&["ticks"]).start(&sandbox);
    let mut monitor = Monitor::of(&sandbox, &id);
    let outside = tempfile::tempdir().unwrap();
    let at = |name: &str| outside.path().join(name).display().to_string();
    for (line, from) in [
        (
            "drive_add 0 if=none,id=d,format=raw,file=/etc/passwd".to_owned(),
            1,
        ),
        (format!("logfile {}", at("log")), 1),
        (format!("dump-guest-memory {}", at("memory")), 1),
        ("gdbserver tcp:127.0.0.1:0".to_owned(), 4),
    ] {
        let arguments = json!({"command-line": line});
        let told = monitor.run("human-monitor-command", &arguments).unwrap();
        let denied = told.as_str().unwrap().contains("ermission denied");
        assert!(denied || abi() < from, "{line}: {told}");
    }
    assert_eq!(fs::read_dir(outside.path()).unwrap().count() > 0, abi() == 0);
    assert_eq!(status(&sandbox, "web"), "running");
    sandbox
        .maqet(&["wait", "web", "serial=tick", "--timeout", "60s"])
        .expect(0);
}

/// What would run one kills QEMU, so a person who asks for it is told instead.
#[test]
fn a_network_that_wants_a_program_is_refused_and_the_guest_goes_on() {
    let sandbox = Sandbox::new();
    Guest::tiny("web").start(&sandbox);
    for arguments in [
        &["type=bridge", "id=n"][..],
        &["type=tap", "id=n"],
        &["type=user", "id=n", "smb=/tmp"],
    ] {
        let words = [&["qmp", "run", "web", "netdev_add"], arguments].concat();
        let refused = sandbox.maqet(&words).expect(2).stderr;
        assert!(refused.contains("may not run programs"), "{refused}");
        assert_eq!(status(&sandbox, "web"), "running");
    }
    sandbox
        .maqet(&["qmp", "run", "web", "netdev_add", "type=user", "id=n"])
        .expect(0);
}

#[test]
fn no_program_is_run() {
    let sandbox = Sandbox::new();
    let id = Guest::tiny("web").start(&sandbox);
    let made = sandbox.home().join("made-by-exec");
    let uri = format!("exec:touch {}", made.display());
    let refused = sandbox.maqet(&["qmp", "run", "web", "migrate", &format!("uri={uri}")]);
    assert!(refused.expect(2).stderr.contains("may not run programs"));
    assert_eq!(status(&sandbox, "web"), "running");
    // Who has taken QEMU over asks it directly. The filter of system calls ends QEMU then.
    let answer = Monitor::of(&sandbox, &id).run("migrate", &json!({"uri": uri}));
    assert!(answer.is_err(), "{answer:?}");
    sandbox
        .maqet(&["wait", "web", "exit", "--timeout", "60s"])
        .expect(0);
    assert_eq!(sandbox.status("web")["last_exit"]["signal"], nix::libc::SIGSYS);
    assert!(!made.exists());
}

#[test]
fn what_the_file_names_works_and_so_does_what_is_handed_over() {
    let sandbox = Sandbox::new();
    let extra = sandbox.home().join("extra");
    fs::create_dir(&extra).unwrap();
    let id = Guest::tiny("acpi")
        .options(&["write"])
        .line("disks: {root: {path: ./root.qcow2, size: 1M, interface: ide}}")
        .line("networks: {lan: {forwards: ['tcp:127.0.0.1:auto:22']}}")
        .line(&format!("sandbox: {{mode: auto, write: '{}'}}", extra.display()))
        .start(&sandbox);
    until_serial(&sandbox, "acpi", "wrote \\d+ sectors");
    let status = sandbox.status("acpi");
    assert_eq!(
        status["sandbox"]["landlock_abi"].as_u64().unwrap_or(0),
        u64::from(abi()),
        "{status}"
    );
    let port = u16::try_from(status["ports"][0]["host_port"].as_u64().unwrap()).unwrap();
    TcpStream::connect(("127.0.0.1", port)).unwrap();

    let mut monitor = Monitor::of(&sandbox, &id);
    let memory = json!({"val": 0, "size": 4096, "filename": extra.join("memory")});
    monitor.run("pmemsave", &memory).unwrap();
    assert_eq!(fs::metadata(extra.join("memory")).unwrap().len(), 4096);

    let hot = sandbox.home().join("hot.raw");
    fs::write(&hot, vec![0; 1 << 20]).unwrap();
    let file = File::options().read(true).write(true).open(&hot).unwrap();
    monitor.add_fd(file.as_fd(), 77).unwrap();
    drop(file);
    let node = json!({"driver": "file", "node-name": "hot", "filename": "/dev/fdset/77"});
    monitor.run("blockdev-add", &node).unwrap();
    let device = json!({"driver": "virtio-blk-pci", "drive": "hot", "id": "hot0"});
    monitor.run("device_add", &device).unwrap();
    assert_eq!(one(&sandbox.json(&["stop", "acpi"]))["status"], "stopped");
}

#[test]
fn a_disk_that_comes_later_is_used_and_its_file_is_out_of_reach() {
    let sandbox = Sandbox::new();
    let id = Guest::tiny("web").start(&sandbox);
    let later = sandbox.home().join("later.qcow2");
    qemu_img::create(&later, "qcow2", "1M");
    sandbox
        .maqet(&["storage", "attach", "web", "later.qcow2", "--disk", "later"])
        .expect(0);
    let mut monitor = Monitor::of(&sandbox, &id);
    assert_denied(
        &monitor.run("blockdev-add", &open_file(&later)),
        1,
        "a disk that came later, by path",
    );
    let devices = monitor.run("query-block", &json!({})).unwrap();
    let device = devices[0]["qdev"].as_str().unwrap();
    for command in ["write -P 7 0 1M", "flush"] {
        let line = json!({"command-line": format!("qemu-io -d {device} \"{command}\"")});
        monitor.run("human-monitor-command", &line).unwrap();
    }
    assert_eq!(status(&sandbox, "web"), "running");
    sandbox.maqet(&["stop", "web"]).expect(0);
    assert!(qemu_img::content(&later).iter().all(|byte| *byte == 7));
}

#[test]
fn a_denial_is_told_in_words_and_with_what_to_write() {
    let sandbox = Sandbox::new();
    // A log in a directory that everybody may write to is not opened up for one VM.
    let shared = tempfile::tempdir().unwrap();
    let log = shared.path().join("qemu-trace.log");
    let everybody = std::os::unix::fs::PermissionsExt::from_mode(0o1777);
    fs::set_permissions(shared.path(), everybody).unwrap();
    let word = log.display().to_string();
    Guest::tiny("web").arg("-D").arg(&word).add(&sandbox);
    let start = sandbox.maqet(&["start", "web", "-o", "json"]);
    assert_eq!(start.code == 0, abi() == 0, "{start:#?}");
    if abi() > 0 {
        let hint = start.error()["hint"].to_string();
        assert!(
            hint.contains("denied by the sandbox") && hint.contains(&word),
            "{hint}"
        );
    }
    sandbox.maqet(&["rm", "web", "--yes"]).expect(0);
    let write = format!("sandbox: {{write: '{}'}}", shared.path().display());
    Guest::tiny("web")
        .arg("-D")
        .arg(&word)
        .line(&write)
        .start(&sandbox);
    let refused = sandbox.maqet(&[
        "qmp",
        "run",
        "web",
        "pmemsave",
        "val=0",
        "size=1",
        "filename=/tmp/maqet-never",
    ]);
    if abi() > 0 {
        assert!(
            refused
                .expect(1)
                .stderr
                .contains("denied by the sandbox: /tmp/maqet-never")
        );
    }
}

#[test]
fn what_must_be_confined_is_or_does_not_start() {
    let sandbox = Sandbox::new();
    for (mode, from) in [("require", 1), ("require-net", 4)] {
        let id = Guest::tiny(mode).line(&format!("sandbox: {mode}")).add(&sandbox);
        let started = sandbox.maqet(&["start", &id]);
        assert_eq!(started.code == 0, abi() >= from, "{mode}: {started:#?}");
    }
    Guest::tiny("open").line("sandbox: off").start(&sandbox);
    assert_eq!(sandbox.status("open")["sandbox"]["landlock_abi"], Value::Null);
    let open = sandbox.maqet(&[
        "qmp",
        "run",
        "open",
        "pmemsave",
        "val=0",
        "size=4096",
        &format!("filename={}", sandbox.home().join("memory").display()),
    ]);
    open.expect(0);
}
