//! How a supervisor ends when it is asked to, or does not begin.

use std::fs;

use maqet_process::Signal;
use maqet_tests::wait::{self, PATIENCE};
use maqet_tests::{Guest, Running, Sandbox};

use crate::scene::{assert_processes, kinds, process, wait_for};

#[test]
fn by_default_vms_live_on() {
    let sandbox = Sandbox::new();
    for ending in [Signal::Term, Signal::Int] {
        let supervisor = sandbox.supervisor();
        Guest::tiny(&format!("vm{ending:?}").to_lowercase()).start(&sandbox);
        let before = sandbox.json(&["ls"]);
        supervisor.signal(ending);
        supervisor.output().expect(0);
        let after = sandbox.json(&["ls"]);
        let pids = |listed: &serde_json::Value| {
            let vms = listed.as_array().unwrap();
            vms.iter().map(|vm| vm["pid"].clone()).collect::<Vec<_>>()
        };
        assert_eq!(pids(&after), pids(&before));
        sandbox.maqet(&["supervisor", "stop"]).expect(0);
    }
}

#[test]
fn told_to_stop_them_it_stops_all_at_the_same_time() {
    let sandbox = Sandbox::new();
    fs::write(sandbox.config(), "on_exit: stop\n").unwrap();
    let supervisor = sandbox.supervisor();
    let names = ["one", "three", "two"];
    for name in names {
        Guest::tiny(name).options(&["later"]).start(&sandbox);
    }
    supervisor.signal(Signal::Term);
    supervisor.output().expect(0);
    assert_processes(&sandbox, 0);

    let listed = sandbox.json(&["ls"]);
    for (vm, name) in listed.as_array().unwrap().iter().zip(names) {
        assert_eq!(
            (&vm["name"], &vm["status"]),
            (&name.into(), &"stopped".into()),
            "{listed}"
        );
    }
    // Each takes a second: the last was asked before the first was gone.
    let kinds = kinds(&sandbox);
    let asked = kinds.iter().rposition(|kind| kind == "vm.stopping").unwrap();
    let gone = kinds.iter().position(|kind| kind == "vm.stopped").unwrap();
    assert!(asked < gone, "{kinds:?}");
}

#[test]
fn asked_twice_it_does_not_wait() {
    let sandbox = Sandbox::new();
    fs::write(sandbox.config(), "on_exit: stop\n").unwrap();
    let supervisor = sandbox.supervisor();
    Guest::tiny("stubborn")
        .options(&["ignore-acpi"])
        .line("stop: {timeout: 10m}")
        .start(&sandbox);
    let qemu = process(&sandbox.status("stubborn")["pid"]);
    supervisor.signal(Signal::Term);
    wait_for(&sandbox, "vm.stopping");
    assert!(!supervisor.handle().has_exited());
    supervisor.signal(Signal::Term);
    supervisor.output().expect(0);
    assert!(!qemu.has_exited());
    // The next one knows of it.
    fs::write(sandbox.config(), "on_exit: keep\n").unwrap();
    assert_eq!(sandbox.status("stubborn")["status"], "running");
    sandbox.maqet(&["stop", "stubborn", "--force"]).expect(0);
    assert!(wait::exited(&qemu, PATIENCE));
}

#[test]
fn the_second_of_a_data_directory_names_the_first() {
    let sandbox = Sandbox::new();
    let first = sandbox.supervisor();
    let second = Running::start(sandbox.command("maqet-supervisor-under-test"))
        .output()
        .expect(75);
    assert!(
        second.stderr.contains(&first.handle().pid().to_string()),
        "{second:#?}"
    );
    assert!(!first.handle().has_exited());
    sandbox.maqet(&["ls", "--no-autostart"]).expect(0);
}

#[test]
fn many_clients_at_once_start_one_supervisor() {
    let sandbox = Sandbox::new();
    let clients: Vec<Running> = (0..8).map(|_| sandbox.spawn(&["ls"])).collect();
    for client in clients {
        client.output().expect(0);
    }
    assert_processes(&sandbox, 1);
}

#[test]
fn a_bad_configuration_is_told_and_nothing_begins() {
    let sandbox = Sandbox::new();
    for text in [
        "on_exitt: stop\n",
        "on_exit: maybe\n",
        "logs: {bytes_max: 1}\n",
        "- 1\n",
    ] {
        fs::write(sandbox.config(), text).unwrap();
        let refused = Running::start(sandbox.command("maqet-supervisor-under-test"))
            .output()
            .expect(78);
        assert!(refused.stderr.contains("config.yaml"), "{refused:#?}");
        let words = sandbox.maqet(&["ls"]).expect(78);
        assert!(words.stderr.contains("config.yaml"), "{words:#?}");
    }
    fs::remove_file(sandbox.config()).unwrap();
    let missing = Running::start(sandbox.command("maqet-supervisor-under-test")).output();
    assert_eq!(missing.code, 78, "{missing:#?}");
    // For the end of the sandbox.
    fs::write(sandbox.config(), "").unwrap();
}
