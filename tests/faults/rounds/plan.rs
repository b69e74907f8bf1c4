//! What a round is going to do.

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};

use crate::play::{Phase, Victim};

/// One round.
#[derive(Debug)]
pub(super) struct Plan {
    /// Its number; with the seed it makes the rest.
    pub(super) number: u64,
    pub(super) phase: Phase,
    /// Killed one after the other.
    pub(super) victims: Vec<Victim>,
    /// The moment, as a share of the time the phase usually takes.
    pub(super) moment: f64,
    /// The pause between two victims, or after a first one that is not there yet, likewise.
    pub(super) pause: f64,
}

impl Plan {
    /// The round of this number.
    pub(super) fn new(seed: u64, number: u64) -> Self {
        let mut random = StdRng::seed_from_u64(seed ^ number.wrapping_mul(0x9E37_79B9_7F4A_7C15));
        // Starts and stops are where most can go wrong.
        let phases = [
            Phase::Start,
            Phase::Start,
            Phase::Run,
            Phase::Stop,
            Phase::Stop,
            Phase::Kill,
            Phase::Restart,
            Phase::Remove,
        ];
        let mut victims = vec![victim(number)];
        let mut phase = *phases.choose(&mut random).unwrap();
        if phase == Phase::Run && victims == [Victim::Cli] {
            phase = Phase::Start;
        }
        while random.random_bool(0.2) {
            let another = *Victim::ALL.choose(&mut random).unwrap();
            if !victims.contains(&another) {
                victims.push(another);
            }
        }
        Self {
            number,
            phase,
            victims,
            moment: random.random_range(0.0..1.2),
            pause: if random.random_bool(0.5) {
                0.0
            } else {
                random.random_range(0.0..0.5)
            },
        }
    }
}

/// Supervisor, runner and QEMU in turn, and a client after every third of them.
fn victim(number: u64) -> Victim {
    match number % 10 {
        0 | 3 | 6 => Victim::Supervisor,
        1 | 4 | 7 => Victim::Runner,
        2 | 5 | 8 => Victim::Qemu,
        _ => Victim::Cli,
    }
}
