//! The kernel gives the number of a dead process to an innocent one, at once: nobody may mistake it.
//!
//! `clone3` with `set_tid` in a PID namespace of our own. `MAQET_TEST_ROUNDS` says how often; `scripts/reuse` asks for
//! a thousand of each.

use std::fs;
use std::path::Path;

use maqet_process::identity::{Abilities, FileId};
use maqet_process::{Liveness, ProcessHandle, ProcessIdentity, Role, Sent, Signal};
use maqet_state::record::{Launch, VmState};
use maqet_tests::namespace::inside_pid_namespace;
use maqet_tests::wait::{self, PATIENCE};
use maqet_tests::{Does, Numbered};

use crate::scene::{Scene, kill, process, say, store_path};

/// Every kernel there may be below us.
const KERNELS: [Abilities; 3] = [Abilities::ALL, Abilities::INODES, Abilities::NONE];

/// The launch on record; being the name of the test, it is on the command line of the test's own forks as well.
const LAUNCH: &str = "reuse::a_number_given_away_again_leads_to_nobody";

/// Who gets the number: a stranger, the same program of another launch, a fork that shows image and launch of its
/// parent, which are on record too.
const INNOCENTS: [Does<'static>; 3] = [
    Does::Run("/usr/bin/tail", &["tail", "-f", "/dev/null"]),
    Does::Run("/bin/sleep", &["another-launch", "600"]),
    Does::Stay,
];

fn rounds(sample: usize) -> usize {
    std::env::var("MAQET_TEST_ROUNDS").map_or(sample, |text| text.parse().unwrap())
}

fn record_of(handle: &ProcessHandle) -> ProcessIdentity {
    let images = ["/bin/sleep", "/proc/self/exe"].map(|path| FileId::of_path(Path::new(path)).unwrap());
    ProcessIdentity::take(handle, Role::Qemu, LAUNCH, 1, images.to_vec()).unwrap()
}

/// What was seen in all rounds.
#[derive(Debug, Default)]
struct Tally {
    within_one_tick: usize,
    dead: usize,
    unknown: usize,
    mistaken: usize,
}

impl Tally {
    /// Does what whoever wants the recorded process dead would do.
    fn attack(&mut self, record: &ProcessIdentity, abilities: Abilities) {
        match record.as_known_to(abilities).verify_with(abilities) {
            Liveness::Alive(handle) => {
                self.mistaken += 1;
                handle.signal(Signal::Kill).map(|_sent| ()).unwrap();
            }
            Liveness::Dead => self.dead += 1,
            Liveness::Unknown(_) => self.unknown += 1,
        }
    }
}

#[test]
fn a_number_given_away_again_leads_to_nobody() {
    inside_pid_namespace(LAUNCH, || {
        let (rounds, mut survivors) = (rounds(300), 0);
        let mut tallies = KERNELS.map(|_kernel| Tally::default());
        for innocent in INNOCENTS.into_iter().cycle().take(rounds) {
            let old = Numbered::start(None, Does::Run("/bin/sleep", &[LAUNCH, "600"])).unwrap();
            let record = record_of(old.handle());
            let old = old.end();
            let innocent = Numbered::start(Some(record.pid), innocent).unwrap();
            assert_eq!(innocent.handle().pid(), record.pid);
            let same_tick = record_of(innocent.handle()).start_ticks == record.start_ticks;
            for (tally, abilities) in tallies.iter_mut().zip(KERNELS) {
                tally.within_one_tick += usize::from(same_tick);
                tally.attack(&record, abilities);
                assert!(
                    !record
                        .as_known_to(abilities)
                        .matches_with(innocent.handle(), abilities)
                );
            }
            assert_eq!(old.signal(Signal::Kill).unwrap(), Sent::AlreadyGone);
            survivors += usize::from(!innocent.handle().has_exited());
        }
        for (tally, abilities) in tallies.iter().zip(KERNELS) {
            say(&format!("{rounds} numbers reused, {abilities:?}: {tally:?}"));
            assert_eq!(tally.mistaken, 0, "{abilities:?}: {tally:?}");
        }
        say(&format!("{survivors} of {rounds} innocents survived"));
        assert_eq!(survivors, rounds);
        assert!(
            tallies[0].within_one_tick > 0,
            "too slow to prove anything: {tallies:?}"
        );
    });
}

/// An innocent with the number of the dead process on record.
fn in_place_of(dead: &ProcessIdentity) -> Numbered {
    Numbered::start(Some(dead.pid), INNOCENTS[0]).unwrap()
}

/// As a kernel without process inodes would have left the record, had it given the number away within the same tick.
fn forge(identity: &mut ProcessIdentity, innocent: &Numbered) {
    let seen = ProcessIdentity::take(innocent.handle(), Role::Qemu, "", 1, Vec::new()).unwrap();
    *identity = ProcessIdentity {
        start_ticks: seen.start_ticks,
        ..identity.as_known_to(Abilities::NONE)
    };
}

/// Every other round is one of a worse kernel.
fn is_forged(round: usize) -> bool {
    round % 2 == 1
}

fn forge_launch(scene: &Scene, innocents: &[Numbered; 2]) {
    scene.forge(|launch| {
        forge(&mut launch.runner, &innocents[0]);
        forge(launch.qemu.as_mut().unwrap(), &innocents[1]);
    });
}

/// The launch that the store says is under way.
fn launch_on_record(scene: &Scene) -> Launch {
    let store = maqet_state::store::Store::open(&store_path(&scene.sandbox))
        .unwrap()
        .store;
    match store.vms().unwrap().remove(0).state {
        VmState::Running(launch) => *launch,
        state @ (VmState::Created | VmState::Stopped | VmState::Failed) => panic!("{state:?}"),
    }
}

/// Ends processes whose parent is gone, so that they are ours to collect, and gives their numbers free.
fn bury(processes: [&ProcessHandle; 3]) {
    kill(&processes);
    for process in processes {
        wait::until("it is collected", PATIENCE, || {
            process.exit_status().ok_or("a stranger's")
        });
    }
}

#[test]
fn a_supervisor_leaves_innocents_alone_that_have_the_numbers_of_its_vm() {
    const TEST: &str = "reuse::a_supervisor_leaves_innocents_alone_that_have_the_numbers_of_its_vm";
    inside_pid_namespace(TEST, || {
        let scene = Scene::new();
        let (runner, qemu) = scene.processes();
        bury([&scene.supervisor(), &runner, &qemu]);
        let launch = launch_on_record(&scene);
        let as_it_was = fs::read(store_path(&scene.sandbox)).unwrap();
        let (rounds, mut survivors) = (rounds(6), 0);
        for round in 0..rounds {
            fs::write(store_path(&scene.sandbox), &as_it_was).unwrap();
            let innocents = [&launch.runner, launch.qemu.as_ref().unwrap()].map(in_place_of);
            if is_forged(round) {
                forge_launch(&scene, &innocents);
            }
            survivors += usize::from(all_is_done_to(&scene, &innocents));
        }
        let within_one_tick = (0..rounds).filter(|round| is_forged(*round)).count();
        say(&format!(
            "{rounds} restarts with both numbers of a VM given away, {within_one_tick} as within one tick and without \
             process inodes: {survivors} times both innocents survived"
        ));
        assert_eq!(survivors, rounds);
    });
}

/// A supervisor starts, the VM is looked at, stopped by force and removed; then the supervisor is killed.
fn all_is_done_to(scene: &Scene, innocents: &[Numbered; 2]) -> bool {
    let listed = scene.sandbox.json(&["ls"]);
    assert_eq!(listed[0]["status"], "failed", "{listed}");
    scene.sandbox.maqet(&["stop", "web", "--force"]).expect(0);
    scene.sandbox.maqet(&["rm", "web", "--force", "--yes"]).expect(0);
    let supervisor = process(&scene.sandbox.json(&["supervisor", "status"])["pid"]);
    kill(&[&supervisor]);
    innocents.iter().all(|innocent| !innocent.handle().has_exited())
}
