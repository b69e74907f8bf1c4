//! Rounds of `kill -9`: somebody is killed at some moment of something, and afterwards all must be true and nothing left.
//!
//! `MAQET_ROUNDS` sets how many times each of supervisor, runner and QEMU is hit, `MAQET_ROUNDS_JOBS` how many sandboxes
//! there are beside each other, `MAQET_TEST_SEED` the seed; `scripts/rounds` does the full count on a release build. What
//! a round does follows from the seed and its number alone; when it happens, of course, does not.

mod plan;
mod tally;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::thread;

use maqet_tests::Running;

use self::plan::Plan;
use self::tally::Tally;
use crate::play::{Outcome, World};
use crate::scene::{number, say, words};

/// Hits of each victim in a run of all tests.
const ROUNDS: u32 = 8;

/// Rounds between two words on how it goes.
const REPORT_EVERY: u32 = 250;

#[test]
fn whoever_is_killed_at_whatever_moment_the_truth_is_told_and_nothing_is_left() {
    let seed = number("MAQET_TEST_SEED").unwrap_or_else(rand::random);
    let rounds = number("MAQET_ROUNDS").map_or(ROUNDS, |rounds| u32::try_from(rounds).unwrap());
    say(&format!("MAQET_TEST_SEED={seed} MAQET_ROUNDS={rounds}"));
    let tally = Mutex::new(Tally::new(seed, rounds));
    thread::scope(|scope| {
        for _ in 0..number("MAQET_ROUNDS_JOBS").unwrap_or(2) {
            scope.spawn(|| play_all(&tally));
        }
    });
    let tally = tally.into_inner().unwrap();
    say(&tally.to_string());
    assert_eq!(
        tally.found(),
        0,
        "rounds in which something was not as it should be"
    );
}

/// Plays rounds until there have been enough. After one that went wrong the world is a new one.
fn play_all(tally: &Mutex<Tally>) {
    let next = || tally.lock().unwrap().next();
    let mut world = None;
    while let Some(plan) = next() {
        let mut present = world.take().unwrap_or_else(World::new);
        let played = catch_unwind(AssertUnwindSafe(|| play(&mut present, &plan)));
        let mut tally = tally.lock().unwrap();
        match played {
            Ok(outcome) => {
                tally.played(&plan, &outcome);
                world = Some(present);
            }
            Err(panic) => {
                tally.failed(&plan);
                present.diagnose(&plan.title(), &words(&*panic));
            }
        }
        if tally.rounds().is_multiple_of(REPORT_EVERY) {
            say(&tally.to_string());
        }
    }
}

/// Plays one round.
fn play(world: &mut World, plan: &Plan) -> Outcome {
    let before = world.prepare(plan.phase);
    let usually = world.usually(plan.phase);
    let words = plan.phase.words();
    let call = (!words.is_empty()).then(|| world.sandbox().spawn(words));
    world.pass(call.as_ref(), usually.mul_f64(plan.moment));
    let mut hit = Vec::new();
    for (place, victim) in plan.victims.iter().enumerate() {
        if place > 0 {
            world.pass(call.as_ref(), usually.mul_f64(plan.pause));
        }
        if world.hit(*victim, call.as_ref(), usually.mul_f64(plan.pause)) {
            hit.push(*victim);
        }
    }
    let output = call.map(Running::output);
    world.judge(plan.phase, before.as_ref(), hit, output.as_ref())
}

impl Plan {
    /// What it is called where a round has to be told apart.
    fn title(&self) -> String {
        format!("round {} ({self:?})", self.number)
    }
}
