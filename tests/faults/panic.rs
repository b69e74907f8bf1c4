//! A defect makes the actor of one VM panic: that actor is made again from the store and from what lives, whoever waited
//! for it gets an answer, and neither its guest nor any other VM notices.
#![cfg(debug_assertions)]

use std::fs;
use std::time::Duration;

use maqet_process::point::Point;
use maqet_tests::wait::{self, PATIENCE};
use maqet_tests::{Guest, Held, Output, Running, Sandbox};
use serde_json::Value;

use crate::play::{Phase, VM, Victim, World};
use crate::scene::{Scene, count, events, kill, process, say};

/// A question is answered from memory, a tiny guest started and stopped in tenths of a second.
const PROMPTLY: Duration = Duration::from_secs(10);

/// Has the actor of the VM that passes the point next panic there.
fn panic_at(sandbox: &Sandbox, point: Point, begin: impl FnOnce() -> Option<Running>) -> Option<Output> {
    let mut held = Held::at(sandbox, point);
    let call = begin();
    held.reached();
    held.panic();
    call.map(Running::output)
}

fn panic_while_running(scene: &Scene) -> Output {
    let asking = || Some(scene.sandbox.spawn(&["info", VM, "-o", "json"]));
    panic_at(&scene.sandbox, Point::InfoAsked, asking).unwrap()
}

/// The last event of that kind.
fn last_event(sandbox: &Sandbox, kind: &str) -> Value {
    let events = events(sandbox);
    events.into_iter().rfind(|event| event["kind"] == kind).unwrap()
}

#[test]
fn one_actor_is_made_again_and_nobody_else_notices() {
    let scene = Scene::new();
    let sandbox = &scene.sandbox;
    Guest::tiny("db").start(sandbox);
    Guest::tiny("idle").add(sandbox);
    let supervisor = scene.supervisor();
    let (runner, qemu) = scene.processes();
    let db = process(&sandbox.status("db")["pid"]);
    let asked = panic_while_running(&scene);
    assert_eq!(asked.code, 5, "{asked:#?}");
    assert_eq!(asked.error()["hint"], "try again", "{asked:#?}");

    // Whatever has been rebuilt by now, the others answer.
    let calls: [&[&str]; 4] = [&["ls"], &["status", "db"], &["stop", "db"], &["start", "idle"]];
    let running = calls.map(|words| sandbox.spawn(words));
    for output in running.map(Running::output) {
        assert!(output.code == 0 && output.took < PROMPTLY, "{output:#?}");
    }
    assert!(db.has_exited() && !supervisor.has_exited());

    let status = scene.status();
    assert_eq!(
        (&status["status"], &status["pid"], &status["runner_pid"]),
        (&"running".into(), &qemu.pid().into(), &runner.pid().into()),
        "{status}"
    );
    scene.assert_ticking();
    scene.assert_answering();
    told(&scene);
    scene.assert_stops_beside(2);
}

/// The panic is in the journal, in the log, and in what `why` says.
fn told(scene: &Scene) {
    let event = last_event(&scene.sandbox, "vm.rebuilt");
    assert_eq!(event["panic"], "a defect on purpose, at `info-asked`", "{event}");
    assert!(event["place"].as_str().unwrap().contains("point.rs:"), "{event}");
    assert_eq!(event["vm"], VM);
    let log = fs::read_to_string(scene.sandbox.data_dir().join("supervisor.log")).unwrap();
    assert!(
        log.contains("a panic") && log.contains("a defect on purpose"),
        "{log}"
    );
    let why = scene.sandbox.maqet(&["why", VM]).expect(0).stdout;
    assert!(why.contains("a defect on purpose, at `info-asked`"), "{why}");
}

#[test]
fn an_actor_that_panics_again_and_again_is_made_again_every_time() {
    let scene = Scene::new();
    let (runner, qemu) = scene.processes();
    for times in 1..=3 {
        assert_eq!(panic_while_running(&scene).code, 5);
        wait::until("another one", PATIENCE, || {
            let seen = count(&scene.sandbox, "vm.rebuilt");
            if seen == times { Ok(()) } else { Err(seen) }
        });
        once_it_takes_calls(&scene, &["info", VM]);
    }
    assert!(!runner.has_exited() && !qemu.has_exited());
    scene.assert_ticking();
    scene.assert_stops();
    // One that does not run is not confused by it either.
    panic_while_running(&scene);
    once_it_takes_calls(&scene, &["status", VM]);
    assert_eq!(scene.ended("stopped")["cause"], "stop");
}

/// While an actor is made again, whoever wants it is told to try again.
fn once_it_takes_calls(scene: &Scene, words: &[&str]) {
    wait::until("the VM takes calls", PATIENCE, || {
        let output = scene.sandbox.maqet(words);
        assert!([0, 5].contains(&output.code), "{output:#?}");
        if output.code == 0 { Ok(()) } else { Err(output) }
    });
}

/// What leads past a point of the supervisor.
fn phase_of(point: Point) -> Option<Phase> {
    let (operation, _step) = point.name().split_once('-').unwrap();
    match operation {
        _ if point.process() != "supervisor" => None,
        // Nothing is deleted but where a test wants it.
        "remove" if [Point::RemoveIntended, Point::RemoveImage].contains(&point) => None,
        "start" => Some(Phase::Start),
        "stop" => Some(Phase::Stop),
        "remove" => Some(Phase::Remove),
        "adopt" => Some(Phase::Run),
        // The other operations have no VM, or a test of their own.
        _ => None,
    }
}

/// Does it; while the VM just runs, its runner is lost.
fn begin(world: &World, phase: Phase) -> Option<Running> {
    if phase == Phase::Run {
        kill(&world.find(Victim::Runner, None).iter().collect::<Vec<_>>());
        return None;
    }
    Some(world.sandbox().spawn(phase.words()))
}

#[test]
fn whatever_was_under_way_gets_an_answer_and_leaves_nothing_behind() {
    let mut world = World::new();
    let mut cases = 0;
    for point in Point::ALL {
        let Some(phase) = phase_of(*point) else { continue };
        let before = world.prepare(phase);
        let output = panic_at(world.sandbox(), *point, || begin(&world, phase));
        let code = output.as_ref().map(|output| output.code);
        say(&format!("{}: {code:?}", point.name()));
        output.iter().for_each(answered);
        world.judge(phase, before.as_ref(), Vec::new(), None);
        // Of a VM whose record is gone there is nothing left to rebuild.
        if *point != Point::RecordGone {
            let event = last_event(world.sandbox(), "vm.rebuilt");
            assert!(event["panic"].to_string().contains(point.name()), "{event}");
        }
        // Another VM of that name begins without a history of panics, which would slow it down.
        world.sandbox().maqet(&["rm", VM, "--force", "--yes"]);
        cases += 1;
    }
    assert!(cases > 10, "{cases}");
}

/// The result, or what became of it and where to look.
fn answered(output: &Output) {
    if output.code != 0 {
        assert_eq!(output.code, 1, "{output:#?}");
        assert!(
            output.stderr.contains("a defect in the supervisor"),
            "{output:#?}"
        );
        assert!(output.stderr.contains("hint: maqet why web"), "{output:#?}");
    }
    assert!(output.took < PROMPTLY, "{output:#?}");
}
