//! A stop is lost with whoever carried it out and whoever asked for it; its intent is not.
#![cfg(debug_assertions)]

use maqet_process::point::Point;
use maqet_state::record::Intent;
use maqet_tests::Held;

use crate::scene::{Scene, VM, kill, kinds};

/// The intent to stop the VM is durable, its runner was not asked, and supervisor and client are gone.
fn with_a_lost_stop(words: &[&str]) -> Scene {
    let scene = Scene::new();
    let supervisor = scene.supervisor();
    let mut held = Held::at(&scene.sandbox, Point::StopIntended);
    let client = scene.sandbox.spawn(words);
    held.reached();
    kill(&[client.handle(), &supervisor]);
    assert_eq!(scene.status()["status"], "running");
    scene
}

#[test]
fn a_stop_that_nobody_asks_for_again_is_carried_out() {
    for words in [&["stop", VM][..], &["stop", VM, "--force"]] {
        let scene = with_a_lost_stop(words);
        assert_eq!(scene.ended("stopped")["cause"], "stop");
        scene.assert_processes(1);
        scene.sandbox.maqet(&["start", VM]).expect(0);
        scene.assert_stops();
    }
}

#[test]
fn whoever_starts_what_was_to_be_stopped_has_it_run() {
    let scene = with_a_lost_stop(&["stop", VM]);
    let (_, qemu) = scene.processes();
    let started = scene.sandbox.maqet(&["start", VM]).expect(0);
    assert!(started.stderr.contains("running already"), "{started:#?}");
    // Durable, as what is acknowledged has to be.
    kill(&[&scene.supervisor()]);
    scene.forge(|launch| assert_eq!(launch.intent, Intent::Run));
    assert!(!qemu.has_exited());
    assert!(kinds(&scene.sandbox).contains(&"vm.stop-failed".to_owned()));
    scene.assert_ticking();
    scene.assert_stops();
}
