//! Every way up and down the ladder.

use super::asking::EXTENDED_MS_MAX;
use super::*;

const PLAIN: StopQemu = StopQemu {
    budget_ms: 30_000,
    hard: false,
    force: false,
    kill_on_timeout: false,
};
const HARD: StopQemu = StopQemu { hard: true, ..PLAIN };
const FORCE: StopQemu = StopQemu { force: true, ..PLAIN };
const KILLING: StopQemu = StopQemu {
    kill_on_timeout: true,
    ..PLAIN
};
const FLUSH: Action = Action::Stop { within_ms: FLUSH_MS };
const QUIT: Action = Action::Quit { within_ms: QUIT_MS };

fn gone(killed: bool, flushed: bool, by_guest: bool) -> Vec<Action> {
    vec![Action::Finish(Verdict::Gone(Way {
        killed,
        flushed,
        by_guest,
    }))]
}

/// Feeds ticks until `end`, answering presses and looks as a living QEMU does; returns what was done, and when.
fn walk(ladder: &mut Ladder, end: u64, mut written: impl FnMut(u64) -> u64) -> Vec<(u64, Action)> {
    let mut done = Vec::new();
    while let Some(at) = ladder.wake_at().filter(|at| *at <= end) {
        for action in ladder.step(Input::Tick, at) {
            done.push((at, action));
            match action {
                Action::PressButton => assert_eq!(ladder.step(Input::ButtonAnswered, at), []),
                Action::Sample => assert_eq!(ladder.step(Input::Progress(Some(written(at))), at), []),
                Action::Stop { .. } | Action::Quit { .. } | Action::Kill | Action::Finish(_) => {}
            }
        }
    }
    done
}

fn presses(done: &[(u64, Action)]) -> Vec<u64> {
    done.iter()
        .filter(|(_, action)| *action == Action::PressButton)
        .map(|(at, _)| *at)
        .collect()
}

#[test]
fn guest_that_honours_the_button_ends_by_itself() {
    let (mut ladder, first) = Ladder::new(HARD, Guest::Running, 0);
    assert_eq!(first, [Action::PressButton]);
    assert_eq!(ladder.step(Input::ButtonAnswered, 1), []);
    assert_eq!(ladder.step(Input::Halted(Guest::Over), 50), [QUIT]);
    assert_eq!(ladder.step(Input::Quit(Answer::Done), 51), []);
    assert_eq!(ladder.step(Input::Gone, 60), gone(false, true, true));
    assert_eq!(ladder.wake_at(), None);
    assert_eq!(ladder.step(Input::Gone, 61), []);
}

#[test]
fn guest_that_ignores_the_button_is_flushed_and_quit() {
    let (mut ladder, first) = Ladder::new(PLAIN, Guest::Running, 0);
    assert_eq!(first, [Action::PressButton, Action::Sample]);
    ladder.step(Input::ButtonAnswered, 0);
    ladder.step(Input::Progress(Some(7)), 0);
    let done = walk(&mut ladder, 30_000, |_| 7);
    assert_eq!(presses(&done), [5_000, 10_000, 20_000]);
    assert_eq!(done.last(), Some(&(30_000, FLUSH)));
    assert_eq!(ladder.step(Input::Stopped(Answer::Done), 30_020), [QUIT]);
    assert_eq!(ladder.step(Input::Gone, 30_040), gone(false, true, false));
}

#[test]
fn the_button_is_pressed_ever_more_rarely() {
    let order = StopQemu {
        budget_ms: 200_000,
        ..HARD
    };
    let (mut ladder, _) = Ladder::new(order, Guest::Running, 0);
    ladder.step(Input::ButtonAnswered, 0);
    let done = walk(&mut ladder, 199_999, |_| 0);
    assert_eq!(
        presses(&done),
        [
            5_000, 10_000, 20_000, 40_000, 70_000, 100_000, 130_000, 160_000, 190_000
        ]
    );
}

#[test]
fn progress_extends_the_budget() {
    let (mut ladder, _) = Ladder::new(PLAIN, Guest::Running, 0);
    ladder.step(Input::ButtonAnswered, 0);
    ladder.step(Input::Progress(Some(0)), 0);
    // Writes until second 50; the last look that sees a change is at 50, and the window runs out after it.
    let done = walk(&mut ladder, 100_000, |at| at.min(50_000));
    let flushed: Vec<_> = done.iter().filter(|(_, action)| *action == FLUSH).collect();
    assert_eq!(flushed, [&(60_000, FLUSH)]);
}

#[test]
fn progress_without_end_meets_the_cap() {
    let (mut ladder, _) = Ladder::new(PLAIN, Guest::Running, 0);
    ladder.step(Input::ButtonAnswered, 0);
    ladder.step(Input::Progress(Some(0)), 0);
    let done = walk(&mut ladder, EXTENDED_MS_MAX, |at| at);
    assert_eq!(done.last(), Some(&(EXTENDED_MS_MAX, FLUSH)));
}

#[test]
fn a_hard_budget_takes_no_samples_and_is_not_extended() {
    let (mut ladder, _) = Ladder::new(HARD, Guest::Running, 0);
    ladder.step(Input::ButtonAnswered, 0);
    let done = walk(&mut ladder, 30_000, |at| at);
    assert!(!done.iter().any(|(_, action)| *action == Action::Sample));
    assert_eq!(done.last(), Some(&(30_000, FLUSH)));
}

#[test]
fn a_guest_at_rest_is_not_asked() {
    let (mut ladder, first) = Ladder::new(PLAIN, Guest::AtRest, 0);
    assert_eq!(first, [FLUSH]);
    assert_eq!(ladder.step(Input::Stopped(Answer::Done), 20), [QUIT]);
    assert_eq!(ladder.step(Input::Gone, 30), gone(false, true, false));
}

#[test]
fn a_guest_that_is_over_is_quit_at_once() {
    let (mut ladder, first) = Ladder::new(PLAIN, Guest::Over, 0);
    assert_eq!(first, [QUIT]);
    assert_eq!(ladder.step(Input::Gone, 30), gone(false, true, true));
}

#[test]
fn a_budget_of_nothing_skips_the_button() {
    let order = StopQemu { budget_ms: 0, ..HARD };
    assert_eq!(Ladder::new(order, Guest::Running, 0).1, [FLUSH]);
}

#[test]
fn a_guest_paused_on_the_way_is_flushed() {
    let (mut ladder, _) = Ladder::new(PLAIN, Guest::Running, 0);
    assert_eq!(ladder.step(Input::Halted(Guest::AtRest), 10), [FLUSH]);
    assert_eq!(ladder.step(Input::Halted(Guest::Over), 11), []);
    assert_eq!(ladder.step(Input::Stopped(Answer::Done), 12), [QUIT]);
    assert_eq!(ladder.step(Input::Gone, 13), gone(false, true, true));
}

#[test]
fn a_silent_qemu_is_left_running_at_the_end_of_the_budget() {
    let order = StopQemu {
        budget_ms: 3_000,
        ..HARD
    };
    let (mut ladder, _) = Ladder::new(order, Guest::Running, 0);
    assert_eq!(ladder.wake_at(), Some(3_000));
    assert_eq!(
        ladder.step(Input::Tick, 3_000),
        [Action::Finish(Verdict::StillRunning)]
    );
}

#[test]
fn a_short_budget_is_enough_to_know_silence() {
    let order = StopQemu {
        budget_ms: 500,
        ..HARD
    };
    let (mut ladder, _) = Ladder::new(order, Guest::Running, 0);
    assert_eq!(
        ladder.step(Input::Tick, 500),
        [Action::Finish(Verdict::StillRunning)]
    );
}

#[test]
fn a_press_just_made_is_not_silence() {
    let order = StopQemu {
        budget_ms: 5_001,
        ..HARD
    };
    let (mut ladder, _) = Ladder::new(order, Guest::Running, 0);
    ladder.step(Input::ButtonAnswered, 1);
    assert_eq!(ladder.step(Input::Tick, 5_000), [Action::PressButton]);
    assert_eq!(ladder.step(Input::Tick, 5_001), [FLUSH]);
}

#[test]
fn a_silent_qemu_is_killed_when_its_policy_says_so() {
    let (mut ladder, _) = Ladder::new(KILLING, Guest::Running, 0);
    let mut done = Vec::new();
    while done.last() != Some(&Action::Kill) {
        let at = ladder.wake_at().unwrap();
        assert!(at <= 30_000, "{done:?}");
        done.extend(ladder.step(Input::Tick, at));
    }
    assert_eq!(ladder.step(Input::Killed, 30_000), []);
    assert_eq!(ladder.step(Input::Gone, 30_001), gone(true, false, false));
}

#[test]
fn a_flush_that_hangs_is_never_cut_off_by_a_plain_stop() {
    let (mut ladder, _) = Ladder::new(PLAIN, Guest::AtRest, 0);
    assert_eq!(ladder.step(Input::Tick, FLUSH_MS - 1), []);
    assert_eq!(
        ladder.step(Input::Tick, FLUSH_MS),
        [Action::Finish(Verdict::StillRunning)]
    );
    let (mut ladder, _) = Ladder::new(PLAIN, Guest::AtRest, 0);
    assert_eq!(
        ladder.step(Input::Stopped(Answer::Silent), 5),
        [Action::Finish(Verdict::StillRunning)]
    );
}

#[test]
fn a_refused_flush_goes_on_to_quit() {
    let (mut ladder, _) = Ladder::new(PLAIN, Guest::AtRest, 0);
    assert_eq!(ladder.step(Input::Stopped(Answer::Refused), 5), [QUIT]);
    assert_eq!(
        ladder.step(Input::Tick, 5 + QUIT_MS),
        [Action::Finish(Verdict::StillRunning)]
    );
}

#[test]
fn a_refused_quit_without_a_flush_leaves_it_running() {
    let (mut ladder, _) = Ladder::new(PLAIN, Guest::AtRest, 0);
    ladder.step(Input::Stopped(Answer::Refused), 5);
    assert_eq!(
        ladder.step(Input::Quit(Answer::Refused), 6),
        [Action::Finish(Verdict::StillRunning)]
    );
}

#[test]
fn a_flushed_qemu_that_does_not_quit_is_killed() {
    let (mut ladder, _) = Ladder::new(PLAIN, Guest::AtRest, 0);
    ladder.step(Input::Stopped(Answer::Done), 0);
    assert_eq!(ladder.step(Input::Quit(Answer::Silent), 1), []);
    assert_eq!(ladder.step(Input::Tick, QUIT_MS), [Action::Kill]);
    ladder.step(Input::Killed, QUIT_MS);
    assert_eq!(ladder.step(Input::Gone, QUIT_MS + 1), gone(true, true, false));
}

#[test]
fn force_gives_qmp_two_seconds_in_all() {
    let (mut ladder, first) = Ladder::new(FORCE, Guest::Running, 0);
    assert_eq!(first, [Action::Stop { within_ms: FORCE_MS }]);
    assert_eq!(
        ladder.step(Input::Stopped(Answer::Done), 1_500),
        [Action::Quit { within_ms: 500 }]
    );
    assert_eq!(ladder.step(Input::Tick, FORCE_MS), [Action::Kill]);
    ladder.step(Input::Killed, FORCE_MS);
    assert_eq!(ladder.step(Input::Gone, FORCE_MS + 1), gone(true, true, false));
}

#[test]
fn force_against_a_qemu_that_answers_is_clean() {
    let (mut ladder, _) = Ladder::new(FORCE, Guest::Running, 0);
    ladder.step(Input::Stopped(Answer::Done), 2);
    assert_eq!(ladder.step(Input::Gone, 8), gone(false, true, false));
}

#[test]
fn force_against_silence_kills() {
    for silence in [
        (Input::Tick, FORCE_MS),
        (Input::Stopped(Answer::Silent), FORCE_MS - 100),
    ] {
        let (mut ladder, _) = Ladder::new(FORCE, Guest::Running, 0);
        assert_eq!(ladder.step(silence.0, silence.1), [Action::Kill]);
    }
}

#[test]
fn force_joins_a_plain_ladder_on_every_rung() {
    let (mut asking, _) = Ladder::new(PLAIN, Guest::Running, 0);
    assert_eq!(
        asking.step(Input::Joined(FORCE), 100),
        [Action::Stop { within_ms: FORCE_MS }]
    );
    assert_eq!(asking.step(Input::Tick, 100 + FORCE_MS), [Action::Kill]);

    let (mut flushing, _) = Ladder::new(PLAIN, Guest::AtRest, 0);
    assert_eq!(flushing.step(Input::Joined(FORCE), 100), []);
    assert_eq!(flushing.step(Input::Tick, 100 + FORCE_MS), [Action::Kill]);

    let (mut quitting, _) = Ladder::new(PLAIN, Guest::Over, 0);
    assert_eq!(quitting.step(Input::Joined(FORCE), 100), []);
    assert_eq!(quitting.step(Input::Tick, 100 + FORCE_MS), [Action::Kill]);
    assert_eq!(quitting.step(Input::Joined(FORCE), 3_000), []);
}

#[test]
fn a_second_plain_stop_changes_nothing() {
    let (mut ladder, _) = Ladder::new(PLAIN, Guest::Running, 0);
    let before = ladder.wake_at();
    assert_eq!(ladder.step(Input::Joined(PLAIN), 100), []);
    assert_eq!(ladder.wake_at(), before);
}

#[test]
fn a_second_stop_with_a_hard_budget_shortens_the_first() {
    let (mut ladder, _) = Ladder::new(PLAIN, Guest::Running, 0);
    ladder.step(Input::ButtonAnswered, 0);
    let short = StopQemu {
        budget_ms: 1_000,
        ..HARD
    };
    assert_eq!(ladder.step(Input::Joined(short), 100), []);
    assert_eq!(ladder.wake_at(), Some(1_100));
    assert_eq!(ladder.step(Input::Tick, 1_100), [FLUSH]);
}

#[test]
fn the_kernel_may_hold_a_killed_process() {
    let (mut ladder, _) = Ladder::new(FORCE, Guest::Running, 0);
    ladder.step(Input::Tick, FORCE_MS);
    ladder.step(Input::Killed, FORCE_MS);
    assert_eq!(
        ladder.step(Input::Tick, FORCE_MS + KILL_MS),
        [Action::Finish(Verdict::Unkillable)]
    );
}

#[test]
fn death_ends_the_ladder_on_every_rung() {
    let (mut asking, _) = Ladder::new(PLAIN, Guest::Running, 0);
    assert_eq!(asking.step(Input::Gone, 5), gone(false, false, false));
    let (mut flushing, _) = Ladder::new(PLAIN, Guest::AtRest, 0);
    assert_eq!(flushing.step(Input::Gone, 5), gone(false, false, false));
    let (mut killing, _) = Ladder::new(FORCE, Guest::Running, 0);
    killing.step(Input::Tick, FORCE_MS);
    // The signal came too late: it was not delivered.
    assert_eq!(killing.step(Input::Gone, FORCE_MS), gone(false, false, false));
}

#[test]
fn late_answers_change_nothing_but_what_is_known() {
    let (mut ladder, _) = Ladder::new(FORCE, Guest::Running, 0);
    assert_eq!(ladder.step(Input::Tick, FORCE_MS), [Action::Kill]);
    assert_eq!(ladder.step(Input::Stopped(Answer::Done), FORCE_MS + 1), []);
    assert_eq!(ladder.step(Input::Quit(Answer::Done), FORCE_MS + 2), []);
    assert_eq!(ladder.step(Input::Progress(Some(1)), FORCE_MS + 2), []);
    assert_eq!(ladder.step(Input::ButtonAnswered, FORCE_MS + 2), []);
    ladder.step(Input::Killed, FORCE_MS);
    assert_eq!(ladder.step(Input::Gone, FORCE_MS + 3), gone(true, true, false));
}
