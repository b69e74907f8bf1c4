//! Scripts with a name: what the stage itself must show, and what random scripts have found.

use super::play;
use super::step::End::Killed;
use super::step::Fate::{CanBe, CannotBe, Dies, Freezes};
use super::step::Step::{self, Ask, Kill, Panic, Pass, Qemu, Runner, Turns};
use super::step::Wish::{Discard, ForceRemove, ForceStop, Pause, Remove, Restart, Start, Stop, StopWithin};
use super::step::{Disk, Guest, Policy, Starts};

/// Long enough for a start or a stop, and for nothing that waits.
const SOON: Step = Pass(60);

/// Longer than a runner is waited for.
const LATER: Step = Pass(5_500);

/// Plays a script for a VM without any policy. Returns how its clients were answered.
#[track_caller]
fn holds(script: &[Step]) -> Vec<String> {
    play(Policy::default(), script).unwrap_or_else(|wrong| panic!("{wrong}"))
}

/// The same with so many turns in the middle, up to a bound: the order of what goes on at once is not the script's.
#[track_caller]
fn holds_whenever(before: &[Step], after: &[Step]) {
    for turns in 0..24 {
        holds(&[before, &[Turns(turns)], after].concat());
    }
}

#[test]
fn a_vm_starts_stops_and_goes() {
    let script = [
        Ask(Start),
        SOON,
        Ask(Pause),
        SOON,
        Ask(Restart),
        SOON,
        Ask(Stop),
        SOON,
        Ask(Remove),
    ];
    let told = holds(&script);
    assert_eq!(told, ["started", "done", "started", "stopped, Quit", "removed"]);
}

#[test]
fn the_stage_can_refuse_fail_and_fall_silent() {
    let refused = |script: &[Step]| holds(script).last().unwrap().clone();
    let told = refused(&[Step::Disk(Disk::Full), Ask(Start), SOON]);
    assert!(told.contains("the store takes no changes"), "{told}");
    let told = refused(&[Step::Starts(Starts::Fail), Ask(Start), SOON]);
    assert!(told.contains("QEMU ended during its start"), "{told}");
    let told = refused(&[Step::Starts(Starts::Unprepared), Ask(Start), SOON]);
    assert!(told.contains("no port is free"), "{told}");
    let told = refused(&[Runner(CannotBe), Ask(Start), SOON]);
    assert!(told.contains("cannot be made"), "{told}");
    let told = refused(&[
        Ask(Start),
        SOON,
        Step::Guest(Guest::Mute),
        Ask(StopWithin(500)),
        Pass(1_100),
    ]);
    assert!(told.contains("QEMU does not answer"), "{told}");
    let told = refused(&[Ask(Start), SOON, Runner(Freezes), Ask(ForceStop), Pass(31_000)]);
    assert_eq!(told, "stopped, Killed");
}

#[test]
fn a_stop_whose_runner_was_lost_goes_on_with_the_next_one() {
    let script = [
        Ask(Start),
        SOON,
        Runner(CannotBe),
        Runner(Dies),
        Ask(Stop),
        SOON,
        Runner(CanBe),
        LATER,
    ];
    assert_eq!(holds(&script), ["started", "stopped, Quit"]);
}

#[test]
fn a_lost_actor_is_made_again_from_what_it_had_sent_to_be_written() {
    holds_whenever(&[Ask(Start)], &[Panic]);
    holds_whenever(&[Ask(Start)], &[Panic, Ask(Start)]);
}

#[test]
fn a_supervisor_is_killed_during_a_start() {
    holds_whenever(&[Ask(Start)], &[Kill, Ask(Start)]);
}

#[test]
fn a_vm_whose_actor_is_lost_once_it_was_removed_is_not_listed() {
    holds_whenever(&[Ask(Remove)], &[Panic]);
}

#[test]
fn a_runner_that_dies_beside_the_actor_of_its_vm_is_collected() {
    holds(&[Ask(Start), SOON, Panic, Runner(Dies)]);
}

#[test]
fn a_runner_that_outlived_its_launch_and_its_supervisor_is_ended() {
    for loss in [Kill, Panic] {
        let frozen = [Ask(Start), SOON, Runner(Freezes), Qemu(Killed), LATER];
        holds(&[&frozen[..], &[loss, Ask(Start), LATER]].concat());
    }
}

#[test]
fn no_runner_is_let_go_for_a_qemu_whose_end_is_on_record() {
    let lost = [Ask(Start), SOON, Runner(Dies)];
    holds_whenever(&lost, &[Qemu(Killed)]);
    holds_whenever(&[&lost[..], &[Ask(ForceStop)]].concat(), &[Ask(Start)]);
}

#[test]
fn a_start_that_a_full_disk_refuses_leaves_a_ledger_in_order() {
    let ended = [Ask(Start), SOON, Qemu(Killed)];
    holds_whenever(&ended, &[Step::Disk(Disk::Full), Ask(Start)]);
    holds_whenever(&ended, &[Ask(Start), Step::Disk(Disk::Full)]);
}

#[test]
fn a_removal_that_a_full_disk_refuses_leaves_a_ledger_in_order() {
    let ended = [Ask(Start), SOON, Qemu(Killed), Step::Disk(Disk::Full)];
    holds_whenever(&ended, &[Ask(Remove)]);
}

#[test]
fn a_removal_that_a_full_disk_refuses_does_not_forget_how_the_vm_ended() {
    holds(&[
        Ask(Start),
        SOON,
        Step::Disk(Disk::Full),
        Ask(ForceRemove),
        SOON,
        Kill,
    ]);
}

#[test]
fn how_a_qemu_ended_during_a_stop_is_known_after_its_runner_was_replaced() {
    let script = [
        Step::Guest(Guest::Dawdles),
        Ask(Start),
        SOON,
        Ask(Stop),
        Runner(Dies),
        SOON,
        Qemu(Killed),
    ];
    holds(&script);
}

#[test]
fn a_start_that_a_full_disk_refuses_does_not_forget_how_the_vm_ended_before() {
    let full = [Ask(Start), SOON, Step::Disk(Disk::Full), Qemu(Killed)];
    holds_whenever(&full, &[Ask(Start), SOON, Kill]);
}

#[test]
fn a_removal_of_images_is_done_or_finished_whoever_is_lost() {
    for loss in [Kill, Panic] {
        holds_whenever(&[Ask(Discard)], &[loss]);
        holds_whenever(&[Ask(Discard)], &[loss, Ask(Start), SOON]);
        holds_whenever(&[Ask(Start), SOON, Ask(Discard)], &[loss, LATER]);
    }
}

/// Any write of it may fail, and whoever goes on may meet the same.
#[test]
fn a_removal_of_images_on_a_disk_that_fails_leaves_all_or_goes_on() {
    for nth in 1..24 {
        let fails = [Step::Disk(Disk::Fails(nth)), Ask(Discard), SOON];
        holds(&fails);
        holds(&[&fails[..], &[Kill, SOON, Ask(Start), SOON]].concat());
        holds(&[&fails[..], &[Ask(Remove), SOON]].concat());
    }
    for full in [Disk::Full, Disk::Room] {
        holds_whenever(
            &[Ask(Discard)],
            &[Step::Disk(Disk::Full), SOON, Kill, SOON, Step::Disk(full), SOON],
        );
    }
}
