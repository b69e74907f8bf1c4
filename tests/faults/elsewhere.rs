//! Where the supervisor stands is not where it stood: another PID namespace, directories taken from under it, two of it.

use std::fs;
use std::process::Command;

use maqet_tests::{Guest, Output, Running, Sandbox};
use rustix::process::geteuid;
use serde_json::Value;

use crate::scene::{Scene, kill, kinds, process, say};

/// Runs a script as the first process of a PID namespace of its own: with it ends everything in there. `$MAQET` is the
/// program. `None` where this user may not make one.
fn in_a_namespace(sandbox: &Sandbox, script: &str) -> Option<Output> {
    let maqet = sandbox.command("maqet-under-test");
    let mut command = Command::new("unshare");
    command.args(["--pid", "--fork", "--mount-proc", "sh", "-c", script]);
    command.env_clear().current_dir(sandbox.home());
    command.envs(maqet.get_envs().filter_map(|(name, value)| Some((name, value?))));
    command.env("MAQET", maqet.get_program());
    if geteuid().is_root()
        && Command::new("unshare")
            .args(["--pid", "--fork", "true"])
            .status()
            .is_ok_and(|status| status.success())
    {
        return Some(Running::start(command).output());
    }
    say("WARNING: another PID namespace is NOT EXERCISED: only root can make one");
    None
}

#[test]
fn a_supervisor_in_another_pid_namespace_touches_nothing() {
    let scene = Scene::new();
    let (runner, qemu) = scene.processes();
    scene.sandbox.maqet(&["supervisor", "stop"]).expect(0);
    let script = r#"
        "$MAQET" status web -o json || exit 90
        "$MAQET" stop web --force -o json 2>&1 && exit 91
        "$MAQET" rm web --force --yes 2>&1 && exit 92
        "$MAQET" doctor --rebuild -o json > rebuilt.json || exit 93
        "$MAQET" stop web --force 2>&1 && exit 94
        exit 0
    "#;
    let Some(inside) = in_a_namespace(&scene.sandbox, script) else {
        return;
    };
    assert_eq!(inside.code, 0, "{inside:#?}");
    assert!(inside.stdout.contains("not-answering"), "{inside:#?}");
    let rebuilt = fs::read_to_string(scene.sandbox.home().join("rebuilt.json")).unwrap();
    let rebuilt: Value = serde_json::from_str(&rebuilt).unwrap();
    assert_eq!(rebuilt["restored"][0]["name"], "web", "{rebuilt}");
    assert!(!runner.has_exited() && !qemu.has_exited());

    // Back where it was recorded, everything is known again.
    scene.adopted_after(&runner);
    assert_eq!(scene.processes().1.pid(), qemu.pid());
    scene.assert_ticking();
    scene.assert_stops();
}

#[test]
fn a_vm_of_a_namespace_that_has_ended_has_ended_too() {
    let sandbox = Sandbox::new();
    Guest::tiny("web").options(&["ticks"]).add(&sandbox);
    sandbox.maqet(&["supervisor", "stop"]).expect(0);
    let Some(inside) = in_a_namespace(&sandbox, r#""$MAQET" start web && "$MAQET" status web -o json"#)
    else {
        return;
    };
    assert_eq!(inside.code, 0, "{inside:#?}");
    assert!(inside.stdout.contains("running"), "{inside:#?}");
    let status = sandbox.status("web");
    assert_eq!(status["status"], "failed", "{status}");
    sandbox.maqet(&["start", "web"]).expect(0);
    assert_eq!(sandbox.status("web")["status"], "running");
    sandbox.maqet(&["stop", "web"]).expect(0);
}

#[test]
fn a_running_vm_survives_the_loss_of_its_data_directory() {
    let scene = Scene::new();
    let (runner, qemu) = scene.processes();
    let directory = scene.sandbox.data_dir().join("vms").join(&scene.id);
    fs::remove_dir_all(&directory).unwrap();
    scene.assert_answering();
    kill(&[&scene.supervisor()]);
    // The store knows it, and its directory describes it again.
    scene.assert_answering();
    assert!(directory.join("vm.json").is_file());
    assert_eq!(scene.processes().0.pid(), runner.pid());
    kill(&[&scene.supervisor(), &runner]);
    scene.adopted_after(&runner);
    assert_eq!(scene.processes().1.pid(), qemu.pid());
    scene.assert_answering();
    scene.sandbox.maqet(&["stop", "web"]).expect(0);
    scene.sandbox.maqet(&["start", "web"]).expect(0);
    scene.assert_ticking();
    scene.assert_stops();
}

#[test]
fn of_two_supervisors_the_second_does_nothing() {
    let scene = Scene::new();
    let first = scene.supervisor();
    for elsewhere in [false, true] {
        for task in [None, Some("--rebuild")] {
            let mut command = scene.sandbox.command("maqet-supervisor-under-test");
            if elsewhere {
                command.env("MAQET_RUNTIME_DIR", scene.sandbox.path().join("another-run"));
            }
            command.args(task);
            let second = Running::start(command).output();
            assert_eq!(second.code, 75, "{second:#?}");
            assert!(second.stderr.contains(&first.pid().to_string()), "{second:#?}");
        }
    }
    let traces = kinds(&scene.sandbox)
        .into_iter()
        .filter(|kind| kind.starts_with("runner.") || kind.starts_with("store."));
    assert_eq!(traces.collect::<Vec<_>>(), Vec::<String>::new());
    assert_eq!(scene.supervisor().pid(), first.pid());
    assert!(!process(&scene.status()["pid"]).has_exited());
    scene.assert_ticking();
    scene.assert_stops();
}
