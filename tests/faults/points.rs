//! Every step at which the programs can be held: whoever is killed there, and whoever with it, nothing unknown is left,
//! the list tells the truth, and the VM starts again.
#![cfg(debug_assertions)]

use maqet_process::point::Point;
use maqet_tests::{Held, Running, truth};

use crate::play::{Phase, VM, Victim, World};
use crate::scene::{kill, say};

/// All that can die, alone and together.
const SETS: [&[Victim]; 8] = [
    &[],
    &[Victim::Supervisor],
    &[Victim::Runner],
    &[Victim::Qemu],
    &[Victim::Supervisor, Victim::Runner],
    &[Victim::Runner, Victim::Qemu],
    &[Victim::Supervisor, Victim::Qemu],
    &[Victim::Supervisor, Victim::Runner, Victim::Qemu],
];

/// How a point is reached.
#[derive(Clone, Copy, Debug)]
enum Way {
    /// `maqet start`, `stop`, `rm --force`.
    Call(Phase),
    /// `maqet info`.
    Ask,
    /// The runner of a running VM is killed.
    RunnerLost,
    /// The supervisor is killed and somebody lists the VMs.
    SupervisorLost,
}

impl Way {
    /// `None` for those that [`crate::copies`], [`crate::plug`], [`crate::snapshot`], [`crate::snapshot_external`], [`crate::removal`],
    /// [`crate::storage`] and [`crate::library`] hold.
    fn to(point: Point) -> Option<Self> {
        let (operation, _) = point.name().split_once('-').unwrap();
        match operation {
            // Nothing is deleted but where a test wants it.
            "remove" if [Point::RemoveIntended, Point::RemoveImage].contains(&point) => None,
            "start" | "monitor" => Some(Self::Call(Phase::Start)),
            "stop" | "end" => Some(Self::Call(Phase::Stop)),
            "remove" => Some(Self::Call(Phase::Remove)),
            "info" => Some(Self::Ask),
            "adopt" => Some(Self::RunnerLost),
            "recovery" => Some(Self::SupervisorLost),
            "copy" | "restore" | "plug" | "snapshot" | "layers" | "layer" | "disk" | "image" | "work"
            | "import" | "discard" => None,
            other => panic!("no way to {other}"),
        }
    }

    fn phase(self) -> Phase {
        match self {
            Self::Call(phase) => phase,
            Self::Ask | Self::RunnerLost | Self::SupervisorLost => Phase::Run,
        }
    }

    fn go(self, world: &World) -> Option<Running> {
        match self {
            Self::Call(phase) => Some(world.sandbox().spawn(phase.words())),
            Self::Ask => Some(world.sandbox().spawn(&["info", VM])),
            Self::RunnerLost => {
                kill(&world.find(Victim::Runner, None).iter().collect::<Vec<_>>());
                None
            }
            Self::SupervisorLost => {
                kill(&world.find(Victim::Supervisor, None).iter().collect::<Vec<_>>());
                Some(world.sandbox().spawn(&["ls"]))
            }
        }
    }
}

/// Kills every set of victims at these points.
fn play_all(way: impl Fn(Point) -> Option<Way>) {
    let mut world = World::new();
    let mut cases = 0;
    for point in Point::ALL {
        let Some(way) = way(*point) else { continue };
        for victims in SETS {
            cases += u32::from(play(&mut world, *point, way, victims));
        }
    }
    say(&format!("{cases} cases"));
    assert!(cases > 0);
}

/// One case; false when one of the victims is not there at that point.
fn play(world: &mut World, point: Point, way: Way, victims: &[Victim]) -> bool {
    let before = world.prepare(way.phase());
    let mut held = Held::at(world.sandbox(), point);
    let call = way.go(world);
    held.reached();
    let found: Vec<_> = victims.iter().map(|victim| world.find(*victim, None)).collect();
    let all_there = found.iter().all(|found| !found.is_empty());
    if all_there {
        say(&format!("{} {victims:?}", point.name()));
        kill(&found.iter().flatten().collect::<Vec<_>>());
    }
    drop(held);
    let output = call.map(Running::output);
    // The client that had started a supervisor which is killed at once says so.
    let killed_own = matches!(way, Way::SupervisorLost) && victims.contains(&Victim::Supervisor);
    let output = output.filter(|_| !killed_own);
    let hit = if all_there { victims.to_vec() } else { Vec::new() };
    world.judge(way.phase(), before.as_ref(), hit, output.as_ref());
    all_there
}

fn by(process: &'static str, operations: &'static [&'static str]) -> impl Fn(Point) -> Option<Way> {
    move |point| {
        let (operation, _) = point.name().split_once('-').unwrap();
        let is_meant = point.process() == process && operations.contains(&operation);
        Way::to(point).filter(|_| is_meant)
    }
}

#[test]
fn a_start_at_the_supervisors_points() {
    play_all(by("supervisor", &["start"]));
}

#[test]
fn a_start_at_the_runners_points() {
    play_all(by("runner", &["start", "monitor"]));
}

#[test]
fn a_start_at_the_gates_points() {
    play_all(by("gate", &["start"]));
}

#[test]
fn a_stop() {
    play_all(by("supervisor", &["stop"]));
    play_all(by("runner", &["stop", "end"]));
}

#[test]
fn an_adoption() {
    play_all(by("supervisor", &["adopt"]));
    play_all(by("runner", &["adopt"]));
    // A new runner passes these as the first one does.
    play_all(|point| by("runner", &["monitor"])(point).map(|_start| Way::RunnerLost));
}

#[test]
fn a_recovery_a_removal_and_a_question() {
    play_all(by("supervisor", &["recovery", "remove", "info"]));
}

#[test]
fn a_start_that_is_frozen_anywhere_can_be_stopped() {
    let mut world = World::new();
    for point in Point::ALL {
        let start = matches!(Way::to(*point), Some(Way::Call(Phase::Start)));
        if !start || point.process() == "supervisor" {
            continue;
        }
        say(point.name());
        world.prepare(Phase::Start);
        let mut held = Held::at(world.sandbox(), *point);
        let start = world.sandbox().spawn(Phase::Start.words());
        held.reached();
        let stopped = world.sandbox().maqet(&["stop", VM, "--force"]).expect(0);
        assert_ne!(start.output().code, 0, "{stopped:?}");
        // A gate that nobody had heard of ends as soon as it is let.
        drop(held);
        let rest = truth::settled(world.sandbox());
        assert_ne!(rest.vm(VM).unwrap()["status"], "running", "{}", rest.listed);
    }
}

#[test]
fn every_point_has_a_test() {
    for point in Point::ALL {
        assert!(["supervisor", "runner", "gate"].contains(&point.process()));
        Way::to(*point);
    }
}
