//! A soak: over and over something is done to some VMs, and violence to whoever is there; after every step everything
//! must be true, and nobody hurt who was not meant.
//!
//! `MAQET_SOAK_MINUTES` or `MAQET_SOAK_STEPS` say how long; `scripts/soak` does it on a release build. `MAQET_TEST_SEED` sets
//! the seed: what a step does follows from it and the step's number alone; when it happens, of course, does not.

mod check;
mod house;
mod judge;
mod plan;
mod tally;

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use maqet_tests::truth;
use serde_json::Value;

use self::check::Forgiven;
use self::house::{Acted, House};
use self::plan::Step;
use self::tally::{Holds, Tally};
use crate::scene::{number, say, words};

/// Steps in a run of all tests: a few seconds.
const STEPS: u64 = 10;

/// Steps between two words on how it goes.
const REPORT_EVERY: u32 = 100;

/// Steps that are told of when one goes wrong.
const TOLD_STEPS: usize = 20;

#[test]
fn anything_at_any_time_and_always_the_truth() {
    let seed = number("MAQET_TEST_SEED").unwrap_or_else(rand::random);
    let limit = Limit::wanted();
    say(&format!("MAQET_TEST_SEED={seed} {limit:?}"));
    let mut tally = Tally::new(seed);
    let mut soak = Soak::new();
    let mut next = 0;
    while limit.allows(&tally) {
        let step = Step::new(seed, next);
        let taken = catch_unwind(AssertUnwindSafe(|| soak.take(&step, &mut tally)));
        if let Err(panic) = taken {
            say(&tally.to_string());
            soak.diagnose(&words(&*panic));
            panic!("step {next} of seed {seed} went wrong");
        }
        next += 1;
        if tally.steps.is_multiple_of(REPORT_EVERY) {
            say(&tally.to_string());
        }
    }
    say(&tally.to_string());
    soak.house.close();
}

/// When it is enough.
#[derive(Debug)]
enum Limit {
    Steps(u64),
    Time(Duration),
}

impl Limit {
    fn wanted() -> Self {
        match number("MAQET_SOAK_MINUTES") {
            Some(minutes) => Self::Time(Duration::from_secs(60 * minutes)),
            None => Self::Steps(number("MAQET_SOAK_STEPS").unwrap_or(STEPS)),
        }
    }

    fn allows(&self, tally: &Tally) -> bool {
        match self {
            Self::Steps(steps) => u64::from(tally.steps) < *steps,
            Self::Time(time) => tally.lasts() < *time,
        }
    }
}

/// A house and what is known of it.
struct Soak {
    house: House,
    /// The list after the last step.
    listed: Value,
    forgiven: Forgiven,
    /// The last steps and what came of them, oldest first.
    told: VecDeque<String>,
}

impl Soak {
    fn new() -> Self {
        let house = House::new();
        let listed = truth::settled(&house.sandbox).listed;
        Self {
            house,
            listed,
            forgiven: Forgiven::new(),
            told: VecDeque::new(),
        }
    }

    /// Takes one step and checks everything.
    fn take(&mut self, step: &Step, tally: &mut Tally) {
        self.tell(format!("step {}: {step:?}", tally.steps));
        let acted = self.house.act(step, &self.listed);
        self.tell(summary(&acted));
        let rest = self.house.check(step, &acted, &self.listed, &mut self.forgiven);
        self.listed = rest.listed;
        tally.taken(step, &acted, rest.took);
        let running = self.listed.as_array().unwrap().iter();
        let running = running.filter(|vm| vm["status"] == "running").count();
        if let Some(supervisor) = self.house.supervisor() {
            let pid = supervisor.handle.pid();
            if let Some(holds) = Holds::of(pid, running) {
                tally.ages(pid, holds);
            }
        }
    }

    fn tell(&mut self, words: String) {
        self.told.push_back(words);
        if self.told.len() > 2 * TOLD_STEPS {
            self.told.pop_front();
        }
    }

    /// Says all there is to say of the step that went wrong, and ends everything.
    fn diagnose(self, why: &str) {
        say("the last steps, and what came of them:");
        self.told.iter().for_each(|words| say(words));
        let sandbox = &self.house.sandbox;
        for process in sandbox.processes() {
            say(&format!("there is {process}"));
        }
        say(&format!("before: {}", self.listed));
        say(&sandbox.maqet(&["ls"]).stdout);
        let events = sandbox.maqet(&["events", "--since", "0"]).stdout;
        let skipped = events.lines().count().saturating_sub(40);
        events.lines().skip(skipped).for_each(say);
        say(&format!("=== went wrong: {why}"));
        say(&format!(
            "store, logs and notes are kept in {}",
            self.house.keep().display()
        ));
    }
}

/// One line on what came of a step.
fn summary(acted: &Acted) -> String {
    let ended = acted.called.iter().map(|called| {
        let deed = called
            .deed
            .map_or_else(|| "look".to_owned(), |deed| format!("{deed:?}"));
        format!("{deed} {} = {}", called.vm, called.output.code)
    });
    let ended: Vec<String> = ended.collect();
    format!(
        "  {}; killed {:?}, frozen {:?}",
        ended.join(", "),
        acted.killed,
        acted.frozen
    )
}
