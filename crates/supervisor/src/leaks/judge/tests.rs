//! Every rule on its own: who explains what.

use maqet_state::ledger::LedgerEntry;

use super::*;
use crate::leaks::seen::Line;

const LAUNCH: &str = "0123456789abcdef0123456789abcdef";

fn id() -> VmId {
    "aaaabbbbccccddddaaaabbbbccccdddd".parse().unwrap()
}

fn held() -> Held {
    Held {
        id: id(),
        name: "web".to_owned(),
        busy: false,
        launch_id: Some(LAUNCH.to_owned()),
        runs: true,
        pids: vec![10, 11],
        qemu: Some(11),
        disks: vec!["/vm/web.qcow2".into()],
    }
}

fn known(held: Held) -> Known {
    Known {
        vms: [(held.id.clone(), held)].into(),
        lines: Vec::new(),
    }
}

fn seen() -> Seen {
    Seen {
        data: "/d/vms".into(),
        runtime: "/r/vms".into(),
        ..Seen::default()
    }
}

fn glimpse(pid: i32, line: &str) -> Glimpse {
    Glimpse {
        pid,
        words: line.split(' ').map(str::to_owned).collect(),
        output: None,
    }
}

fn kinds(known: &Known, seen: &Seen) -> Vec<(LeakKind, String)> {
    judge(known, seen).into_keys().collect()
}

fn runner_line(vm: &VmId) -> String {
    format!("maqet-runner --vm {vm} --name web --launch-id {LAUNCH} --runtime-dir /r/vms/{vm}")
}

#[test]
fn a_process_of_a_launch_is_one_that_its_owner_has() {
    let line = runner_line(&id());
    let qemu = format!("qemu-system-x86_64 -chardev socket,id=qmp0-{LAUNCH},fd=5");
    let with = |pid, line: &str| Seen {
        processes: vec![glimpse(pid, line)],
        ..seen()
    };
    for (pid, line, leaks) in [
        (10, line.as_str(), 0),
        (12, line.as_str(), 1),
        (11, qemu.as_str(), 0),
        (12, qemu.as_str(), 1),
        (
            12,
            "qemu-system-x86_64 -chardev socket,id=qmp0-fedcba9876543210fedcba9876543210,fd=5",
            0,
        ),
        (12, "maqet --runtime-dir /r doctor --leaks", 0),
        (12, "maqet-supervisor --data-dir /d --runtime-dir /r", 0),
    ] {
        let found = kinds(&known(held()), &with(pid, line));
        assert_eq!(found.len(), leaks, "{pid} {line}: {found:?}");
    }
    let busy = known(Held { busy: true, ..held() });
    assert_eq!(kinds(&busy, &with(12, &line)), []);
}

#[test]
fn a_runner_below_another_runtime_directory_is_somebody_elses() {
    let stranger: VmId = "1".repeat(32).parse().unwrap();
    let other = format!(
        "maqet-runner --launch-id {} --runtime-dir /other/vms/{stranger}",
        "2".repeat(32)
    );
    let ours = format!(
        "maqet-runner --launch-id {} --runtime-dir /r/vms/{stranger}",
        "2".repeat(32)
    );
    let seen = Seen {
        processes: vec![glimpse(20, &other), glimpse(21, &ours)],
        ..seen()
    };
    let found = judge(&known(held()), &seen);
    let pids: Vec<_> = found.values().map(|suspect| suspect.pid).collect();
    assert_eq!(pids, [Some(21)]);
    assert!(
        found
            .values()
            .all(|suspect| suspect.detail.ends_with("no such VM is stored"))
    );
}

#[test]
fn whoever_writes_to_a_log_of_ours_is_looked_at() {
    let mut writer = glimpse(30, "qemu-system-x86_64 -name x");
    writer.output = Some(format!("/d/vms/{}/qemu.log", id()).into());
    let seen = Seen {
        processes: vec![writer],
        ..seen()
    };
    assert_eq!(kinds(&known(held()), &seen).len(), 1);
}

#[test]
fn a_socket_needs_a_vm_that_runs_and_a_name_of_ours() {
    let directory = VmDirectory {
        half: Half::Runtime,
        path: format!("/r/vms/{}", id()).into(),
        id: id(),
        sockets: vec!["qmp0.sock".to_owned(), "mine.sock".to_owned()],
    };
    let seen = Seen {
        directories: vec![directory],
        loose_sockets: vec!["/r/control.sock".into(), "/r/other.sock".into()],
        ..seen()
    };
    let names = |held| -> Vec<String> {
        let found = kinds(&known(held), &seen).into_iter();
        found
            .map(|(_, what)| what.rsplit('/').next().unwrap().to_owned())
            .collect()
    };
    assert_eq!(names(held()), ["other.sock", "mine.sock"]);
    let rests = Held {
        runs: false,
        pids: Vec::new(),
        launch_id: None,
        ..held()
    };
    assert_eq!(names(rests.clone()), ["other.sock", "mine.sock", "qmp0.sock"]);
    assert_eq!(names(Held { busy: true, ..rests }), ["other.sock"]);
}

#[test]
fn a_directory_needs_a_stored_vm() {
    let stranger: VmId = "1".repeat(32).parse().unwrap();
    let directories = [Half::Data, Half::Runtime].map(|half| VmDirectory {
        half,
        path: format!("/{half:?}/{stranger}").into(),
        id: stranger.clone(),
        sockets: vec!["qmp0.sock".to_owned()],
    });
    let seen = Seen {
        directories: directories.to_vec(),
        ..seen()
    };
    let found = kinds(&known(held()), &seen);
    assert_eq!(found.len(), 2, "{found:?}");
    assert!(found.iter().all(|(kind, _)| *kind == LeakKind::Directory));
}

#[test]
fn a_file_line_is_a_start_under_way_or_one_that_was_cut_off() {
    let line = |what: &str, there| Line {
        entry: LedgerEntry::new(LedgerKind::File, what, id(), Timestamp(5)),
        there: Some(there),
        pid: None,
        is_qemus: false,
    };
    let lines = [
        line("/vm/web.qcow2", true),
        line("/vm/old.qcow2", true),
        line("/vm/gone.qcow2", false),
    ];
    let seen = Seen {
        lines: lines.to_vec(),
        ..seen()
    };
    let found = kinds(&known(held()), &seen);
    let shown: Vec<String> = found
        .iter()
        .map(|(kind, what)| format!("{kind:?} {what}"))
        .collect();
    let expected = [
        "File /vm/old.qcow2",
        "Ledger file /vm/gone.qcow2",
        "Ledger file /vm/web.qcow2",
    ];
    assert_eq!(shown, expected);
    assert_eq!(kinds(&known(Held { busy: true, ..held() }), &seen), []);
}

/// A line of the ledger, and what was seen of it.
fn line(kind: LedgerKind, what: &str, there: Option<bool>, pid: Option<i32>) -> Line {
    Line {
        entry: LedgerEntry::new(kind, what, id(), Timestamp(5)),
        there,
        pid,
        is_qemus: false,
    }
}

fn with_line(line: Line) -> Seen {
    Seen {
        lines: vec![line],
        ..seen()
    }
}

fn resting() -> Held {
    Held {
        runs: false,
        pids: Vec::new(),
        qemu: None,
        launch_id: None,
        ..held()
    }
}

/// Kinds of what is found when the VM is so; `None` when it is not stored.
fn found(held: Option<Held>, line: Line) -> Vec<LeakKind> {
    let known = held.map_or_else(Known::default, known);
    kinds(&known, &with_line(line))
        .into_iter()
        .map(|(kind, _)| kind)
        .collect()
}

#[test]
fn a_process_line_is_of_a_process_that_somebody_has() {
    let present = format!("{LAUNCH}/qemu");
    let earlier = format!("{}/qemu", "f".repeat(32));
    let of = |what: &str, there, pid| line(LedgerKind::Process, what, there, pid);
    assert_eq!(found(Some(held()), of(&present, Some(true), Some(11))), []);
    assert_eq!(found(Some(held()), of(&present, Some(false), None)), []);
    assert_eq!(found(Some(held()), of(&present, None, None)), []);
    assert_eq!(
        found(Some(held()), of(&present, Some(true), Some(12))),
        [LeakKind::Process]
    );
    assert_eq!(
        found(Some(held()), of(&earlier, Some(true), Some(12))),
        [LeakKind::Process]
    );
    assert_eq!(found(Some(held()), of(&earlier, None, None)), [LeakKind::Process]);
    assert_eq!(
        found(Some(held()), of(&earlier, Some(false), None)),
        [LeakKind::Ledger]
    );
    assert_eq!(
        found(None, of(&present, Some(true), Some(11))),
        [LeakKind::Process]
    );
    let busy = Held { busy: true, ..held() };
    assert_eq!(found(Some(busy), of(&earlier, Some(true), Some(12))), []);
}

#[test]
fn what_a_line_says_of_a_process_goes_with_what_it_looks_like() {
    let mut seen = with_line(line(
        LedgerKind::Process,
        &format!("{LAUNCH}/runner"),
        Some(true),
        Some(12),
    ));
    seen.processes = vec![glimpse(12, &runner_line(&id()))];
    let suspects = judge(&known(resting()), &seen);
    assert_eq!(suspects.len(), 1, "{suspects:?}");
    let suspect = suspects.values().next().unwrap();
    assert!(
        suspect.line.is_some() && suspect.what.starts_with("12: maqet-runner"),
        "{suspect:?}"
    );
}

#[test]
fn sockets_and_directories_in_the_ledger_need_a_launch_and_a_vm() {
    let socket = |there| line(LedgerKind::Socket, "/r/vms/x/qmp0.sock", Some(there), None);
    assert_eq!(found(Some(held()), socket(true)), []);
    assert_eq!(found(Some(held()), socket(false)), []);
    assert_eq!(found(Some(resting()), socket(true)), [LeakKind::Socket]);
    assert_eq!(found(Some(resting()), socket(false)), [LeakKind::Ledger]);
    assert_eq!(found(None, socket(true)), [LeakKind::Socket]);
    let directory = |there| line(LedgerKind::Directory, "/r/vms/x", Some(there), None);
    assert_eq!(found(Some(resting()), directory(false)), []);
    assert_eq!(found(None, directory(true)), [LeakKind::Directory]);
    assert_eq!(found(None, directory(false)), [LeakKind::Ledger]);
}

#[test]
fn a_port_in_the_ledger_is_its_qemus_or_nobodys() {
    let port = |there, pid, is_qemus| Line {
        is_qemus,
        ..line(LedgerKind::Port, "tcp:127.0.0.1:2222", Some(there), pid)
    };
    assert_eq!(found(Some(held()), port(true, Some(11), true)), []);
    assert_eq!(found(Some(held()), port(false, None, false)), []);
    // A QEMU that cannot be looked into, or a process of another user.
    assert_eq!(found(Some(held()), port(true, None, false)), []);
    assert_eq!(found(Some(held()), port(true, Some(12), false)), [LeakKind::Port]);
    assert_eq!(found(Some(resting()), port(true, None, false)), [LeakKind::Port]);
    assert_eq!(
        found(Some(resting()), port(false, None, false)),
        [LeakKind::Ledger]
    );
    assert_eq!(found(None, port(true, Some(12), false)), [LeakKind::Port]);
}
