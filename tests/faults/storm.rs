//! A storm over disks: orders about images, snapshots and VMs at once, while whoever carries them out is killed or stopped;
//! after every wave each image is somebody's, sound, and holds what it may.
//!
//! `MAQET_STORM_MINUTES` says how long; `scripts/storm` does it on a release build. `MAQET_TEST_SEED` sets the seed of the
//! first storm, the next ones follow from it: what a wave does follows from the seed and its number; when it happens, of
//! course, does not.

mod check;
mod content;
mod place;
mod plan;

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::time::{Duration, Instant};

use self::place::{Acted, Place};
use self::plan::Wave;
use crate::scene::{number, say, words};

/// Waves of one storm.
const WAVES: u64 = 12;

/// Waves that are told of when one goes wrong.
const TOLD: usize = 6;

#[test]
fn no_disk_is_lost_in_a_storm() {
    let first = number("MAQET_TEST_SEED").unwrap_or_else(|| u64::from(rand::random::<u32>()));
    let lasts = Duration::from_secs(60 * number("MAQET_STORM_MINUTES").unwrap_or(0));
    let waves = number("MAQET_STORM_WAVES").unwrap_or(WAVES);
    let begun = Instant::now();
    let mut tally = BTreeMap::new();
    for seed in first.. {
        say(&format!("MAQET_TEST_SEED={seed}"));
        weather(seed, waves, &mut tally);
        if begun.elapsed() >= lasts {
            break;
        }
    }
    for (what, count) in tally {
        say(&format!("{count:>6} {what}"));
    }
}

/// One storm.
fn weather(seed: u64, waves: u64, tally: &mut BTreeMap<String, u32>) {
    let mut place = Place::new();
    let mut told = Vec::new();
    let played = catch_unwind(AssertUnwindSafe(|| {
        place.check(&Acted::default());
        for wave in (0..waves).map(|number| Wave::new(seed, number)) {
            told.push(format!("{wave:?}"));
            let acted = place.act(&wave);
            told.push(summary(&acted));
            count(&acted, tally);
            place.check(&acted);
        }
    }));
    if let Err(panic) = played {
        for line in told.iter().skip(told.len().saturating_sub(2 * TOLD)) {
            say(line);
        }
        say(&format!("=== seed {seed} went wrong: {}", words(&*panic)));
        resume_unwind(panic);
    }
    place.close();
}

/// One line on what came of a wave.
fn summary(acted: &Acted) -> String {
    let ended = acted.called.iter().map(|(order, output)| {
        format!(
            "  {} = {}: {}",
            order.words().join(" "),
            output.code,
            output.stderr.trim()
        )
    });
    let ended: Vec<String> = ended.collect();
    format!("{}\n  hit {:?}", ended.join("\n"), acted.hit)
}

fn count(acted: &Acted, tally: &mut BTreeMap<String, u32>) {
    for (order, output) in &acted.called {
        let why = if matches!(output.code, 0 | 137) {
            String::new()
        } else {
            output.error()["code"].as_str().unwrap().to_owned()
        };
        *tally
            .entry(format!("{:?} {} {why}", order.verb, output.code))
            .or_default() += 1;
    }
    for victim in &acted.hit {
        *tally.entry(format!("hit {victim:?}")).or_default() += 1;
    }
}
