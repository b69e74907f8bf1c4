//! A VM with a share by virtiofs: whoever is killed at whatever step of its start, no virtiofsd is left that it does not have.
#![cfg(debug_assertions)]

use maqet_process::ProcessHandle;
use maqet_process::point::Point;
use maqet_tests::wait::{self, PATIENCE};
use maqet_tests::{Guest, Held, Sandbox};

use crate::scene::{assert_processes, kill, process, say};

/// Who is killed together.
#[derive(Clone, Copy, Debug)]
enum Victims {
    Supervisor,
    Runner,
    Both,
}

#[test]
fn whoever_is_killed_during_a_start_no_virtiofsd_is_left() {
    let sandbox = Sandbox::new();
    std::fs::create_dir(sandbox.home().join("src")).unwrap();
    let shares = "shares: {src: {path: ./src, type: virtiofs}}";
    Guest::tiny("web").line(shares).add(&sandbox);
    let starts = Point::ALL.iter().filter(|point| {
        let name = point.name();
        name.starts_with("start-") || name.starts_with("monitor-")
    });
    for point in starts {
        for victims in [Victims::Supervisor, Victims::Runner, Victims::Both] {
            say(&format!("{} {victims:?}", point.name()));
            play(&sandbox, *point, victims);
        }
    }
}

fn play(sandbox: &Sandbox, point: Point, victims: Victims) {
    let supervisor = supervisor(sandbox);
    let mut held = Held::at(sandbox, point);
    let call = sandbox.spawn(&["start", "web"]);
    held.reached();
    let runners = runners(sandbox);
    let mut hit: Vec<&ProcessHandle> = Vec::new();
    if matches!(victims, Victims::Supervisor | Victims::Both) {
        hit.push(&supervisor);
    }
    if matches!(victims, Victims::Runner | Victims::Both) {
        hit.extend(&runners);
    }
    kill(&hit);
    drop(held);
    call.output();
    let status = settled(sandbox);
    // Supervisor, runner, QEMU, virtiofsd; or the supervisor alone.
    assert_processes(sandbox, if status == "running" { 4 } else { 1 });
    sandbox.maqet(&["start", "web"]).expect(0);
    assert_processes(sandbox, 4);
    sandbox.maqet(&["kill", "web"]).expect(0);
    assert_processes(sandbox, 1);
}

/// The supervisor; one is started when there is none.
fn supervisor(sandbox: &Sandbox) -> ProcessHandle {
    process(&sandbox.json(&["supervisor", "status"])["pid"])
}

/// Runners, without the gates that are made of the same program.
fn runners(sandbox: &Sandbox) -> Vec<ProcessHandle> {
    let found = sandbox.processes().into_iter();
    let runners = found.filter(|found| found.line.contains("maqet-runner") && found.line.contains("--vm"));
    runners.map(|found| found.handle).collect()
}

/// Status of the VM once nothing is being done to it.
fn settled(sandbox: &Sandbox) -> String {
    wait::until("it has come to rest", PATIENCE, || {
        let status = sandbox.status("web");
        let rests = status["activity"] == "idle" && status["silent_since"].is_null();
        match status["status"].as_str().filter(|_| rests) {
            Some(status) => Ok(status.to_owned()),
            None => Err(status),
        }
    })
}
