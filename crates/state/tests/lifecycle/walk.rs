//! Long random walks against models that say the same in other words.

use maqet_state::lifecycle::{Activity, Cause, Command, Decision, Effect, FactKind, Status, View, decide};
use maqet_state::record::{VmRecord, VmState};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};

use crate::sample::{at, fact, record};

const STEPS: u64 = 20_000;

/// What may be done to a VM that is half removed as to any other.
const ENDING: [Command; 4] = [
    Command::Stop,
    Command::Kill,
    Command::Remove,
    Command::ForceRemove,
];

/// What a command means, as rules: `+` do, `&` join, `=` already done, `-` no.
fn means(up: bool, activity: Activity, command: Command) -> char {
    use Command::{Attach, ForceRemove, Kill, Maintain, Qmp, Remove, Restart, Snapshot, Start, Stop};
    let one_of = |commands: &[Command]| commands.contains(&command);
    let rules = match activity {
        Activity::Removing => [&[][..], &[], &[]],
        Activity::Snapshotting | Activity::Maintaining if up => {
            [&[ForceRemove, Kill, Qmp][..], &[], &[Start]]
        }
        Activity::Snapshotting | Activity::Maintaining => [&[][..], &[], &[Stop, Kill]],
        Activity::Starting => [&[ForceRemove, Stop, Kill][..], &[Start], &[]],
        Activity::Stopping if up => [&[ForceRemove, Kill, Qmp][..], &[Stop], &[]],
        Activity::Stopping => [&[ForceRemove][..], &[Stop, Kill], &[]],
        Activity::Idle if up => [&Command::ALL[1..], &[], &[Start]],
        Activity::Idle => [
            &[ForceRemove, Remove, Start, Restart, Snapshot, Maintain, Attach][..],
            &[],
            &[Stop, Kill],
        ],
    };
    let forbidden = activity == Activity::Idle && up && [Remove, Maintain].contains(&command);
    let found = rules.iter().position(|commands| one_of(commands));
    found
        .filter(|_| !forbidden)
        .map_or('-', |rule| ['+', '&', '='][rule])
}

/// How far a VM is, as numbers: 0 never started, 1 launching, 2 recorded, 3 confirmed, 4 stopped, 5 failed.
fn leads(from: u8, kind: FactKind, current: bool, good: bool) -> Option<u8> {
    let up = (1..=3).contains(&from);
    match kind {
        FactKind::Launching => (!up && current).then_some(1),
        FactKind::LaunchFailed => (!up).then_some(5),
        _ if !up || !current => None,
        FactKind::QemuRecorded => (from == 1).then_some(2),
        FactKind::Confirmed => (from >= 2).then_some(3),
        FactKind::RunnerReplaced => (from >= 2).then_some(from),
        FactKind::StopIntended => Some(from),
        FactKind::Ended => Some(if good { 4 } else { 5 }),
    }
}

fn place(state: &VmState) -> u8 {
    match state {
        VmState::Created => 0,
        VmState::Running(launch) => 1 + u8::from(launch.qemu.is_some()) + u8::from(launch.is_confirmed()),
        VmState::Stopped => 4,
        VmState::Failed => 5,
    }
}

fn sign(decision: Decision) -> char {
    match decision {
        Decision::Do(_) => '+',
        Decision::Join => '&',
        Decision::AlreadyDone => '=',
        Decision::Deny(_) => '-',
    }
}

/// What the owner of a VM is busy with once it carries this out.
fn busy_with(effect: Effect, activity: Activity) -> Activity {
    match effect {
        Effect::Launch => Activity::Starting,
        Effect::WalkLadder
        | Effect::Kill
        | Effect::StopThenLaunch
        | Effect::CancelStart
        | Effect::EscalateKill => Activity::Stopping,
        Effect::Pause | Effect::Resume | Effect::Reset | Effect::RunQmp => activity,
        Effect::Snapshot => Activity::Snapshotting,
        Effect::Maintain | Effect::Plug => Activity::Maintaining,
        Effect::Forget | Effect::KillThenForget => Activity::Removing,
    }
}

struct Walker {
    rng: StdRng,
    vm: VmRecord,
    activity: Activity,
    step: u64,
}

impl Walker {
    fn take_step(&mut self) {
        if self.activity == Activity::Removing && self.rng.random_ratio(1, 8) {
            (self.vm, self.activity) = (record(), Activity::Idle);
        } else if self.rests_of_disk_work() {
            self.activity = Activity::Idle;
        } else if self.rng.random_ratio(1, 3) {
            self.command();
        } else {
            self.fact();
        }
        self.check();
        self.step += 1;
    }

    /// A snapshot or work on disks has ended; a fact cannot tell.
    fn rests_of_disk_work(&mut self) -> bool {
        let working = [Activity::Snapshotting, Activity::Maintaining].contains(&self.activity);
        working && self.rng.random_ratio(1, 8)
    }

    fn command(&mut self) {
        let command = *Command::ALL.choose(&mut self.rng).unwrap();
        let view = self.vm.view(self.activity);
        let decision = decide(view, command);
        let up = view.status == Status::Running;
        assert_eq!(
            sign(decision),
            means(up, self.activity, command),
            "step {}: {view:?} {command}",
            self.step
        );
        if let Decision::Do(effect) = decision {
            self.activity = busy_with(effect, self.activity);
        }
    }

    fn fact(&mut self) {
        let kind = *FactKind::ALL.choose(&mut self.rng).unwrap();
        let cause = *Cause::ALL.choose(&mut self.rng).unwrap();
        let current = self.rng.random_ratio(4, 5);
        let fresh = self.vm.generation + u64::from(kind == FactKind::Launching);
        let generation = if current { fresh } else { fresh.saturating_sub(1) };
        let current = generation == fresh;
        let before = place(&self.vm.state);
        let applied = self.vm.apply(fact(kind, generation, cause), at(self.step));
        let expected = leads(before, kind, current, cause.leads_to() == Status::Stopped);
        let found = applied.as_ref().ok().map(|vm| place(&vm.state));
        assert_eq!(
            found, expected,
            "step {}: {kind} of {generation} on {:?}",
            self.step, self.vm
        );
        if let Ok(next) = applied {
            self.vm = next;
            self.activity = match (self.activity, kind) {
                (Activity::Starting, FactKind::Confirmed | FactKind::LaunchFailed | FactKind::Ended)
                | (Activity::Stopping | Activity::Snapshotting, FactKind::Ended) => Activity::Idle,
                (activity, _) => activity,
            };
        }
    }

    fn check(&self) {
        let vm = &self.vm;
        let context = format!("step {}: {vm:?}", self.step);
        let launch = vm.state.launch();
        assert_eq!(launch.is_some(), vm.status() == Status::Running, "{context}");
        assert!(
            launch.is_none_or(|launch| launch.generation == vm.generation),
            "{context}"
        );
        assert!(
            launch.is_none_or(|launch| launch.runner.generation == vm.generation),
            "{context}"
        );
        assert!(vm.state.shown(Activity::Starting) != Status::Running, "{context}");
        let ended = [Status::Stopped, Status::Failed].contains(&vm.status());
        let exit = vm.last_exit.as_ref().map(|exit| exit.cause.leads_to());
        assert!(!ended || exit == Some(vm.status()), "{context}");
        let json = serde_json::to_vec(vm).unwrap();
        assert_eq!(
            &serde_json::from_slice::<VmRecord>(&json).unwrap(),
            vm,
            "{context}"
        );
    }
}

#[test]
fn random_walks_agree_with_the_model() {
    let seed = rand::random();
    println!("seed {seed}");
    let rng = StdRng::seed_from_u64(seed);
    let mut walker = Walker {
        rng,
        vm: record(),
        activity: Activity::Idle,
        step: 0,
    };
    while walker.step < STEPS {
        walker.take_step();
    }
}

#[test]
fn the_model_agrees_everywhere() {
    for activity in Activity::ALL {
        for status in Status::ALL {
            for half_removed in [false, true] {
                agrees(View {
                    status,
                    activity,
                    half_removed,
                });
            }
        }
    }
}

fn agrees(view: View) {
    let rests = view.activity == Activity::Idle && view.half_removed;
    for command in Command::ALL {
        let expected = match means(view.status == Status::Running, view.activity, command) {
            _ if rests && !ENDING.contains(&command) => '-',
            sign => sign,
        };
        assert_eq!(sign(decide(view, command)), expected, "{view:?} {command}");
    }
}
