//! What facts do to a whole record.

use maqet_process::identity::Role;
use maqet_state::clock::Timestamp;
use maqet_state::lifecycle::{Activity, Cause, Fact, FactKind, ImpossibleFact, LastExit, Status};
use maqet_state::record::{Intent, VmRecord};

use crate::sample::{at, exit, fact, identity, record};

fn after(vm: &VmRecord, kind: FactKind, generation: u64, when: u64) -> VmRecord {
    vm.apply(fact(kind, generation, Cause::Stop), at(when)).unwrap()
}

fn running() -> VmRecord {
    let vm = after(&record(), FactKind::Launching, 1, 10);
    let vm = after(&vm, FactKind::QemuRecorded, 1, 20);
    after(&vm, FactKind::Confirmed, 1, 30)
}

#[test]
fn a_status_begins_when_it_was_entered() {
    let vm = running();
    assert_eq!(
        (vm.status(), vm.since, vm.created_at),
        (Status::Running, at(10), at(0))
    );
    let vm = after(&vm, FactKind::Ended, 1, 40);
    assert_eq!((vm.status(), vm.since), (Status::Stopped, at(40)));
    let failed_twice = after(
        &after(&vm, FactKind::LaunchFailed, 1, 50),
        FactKind::LaunchFailed,
        1,
        60,
    );
    assert_eq!(
        (failed_twice.status(), failed_twice.since),
        (Status::Failed, at(60))
    );
}

#[test]
fn the_last_exit_is_kept_while_the_vm_runs_again() {
    let vm = after(&running(), FactKind::Ended, 1, 40);
    assert_eq!(vm.last_exit, Some(exit(Cause::Stop)));
    let again = after(&vm, FactKind::Launching, 2, 50);
    assert_eq!((again.status(), again.generation), (Status::Running, 2));
    assert_eq!(again.last_exit, vm.last_exit);
    let crashed = again
        .apply(fact(FactKind::Ended, 2, Cause::QemuCrashed), at(60))
        .unwrap();
    assert_eq!(crashed.last_exit.unwrap().cause, Cause::QemuCrashed);
}

#[test]
fn a_generation_is_never_used_twice() {
    let vm = after(&running(), FactKind::Ended, 1, 40);
    let refused = vm
        .apply(fact(FactKind::Launching, 1, Cause::Stop), at(50))
        .unwrap_err();
    let expected = ImpossibleFact::OtherLaunch {
        fact: FactKind::Launching,
        found: 1,
        current: 1,
    };
    assert_eq!(refused, expected);
    assert_eq!(
        refused.to_string(),
        "the fact `launching` is about launch 1, but the VM is at launch 1"
    );
}

#[test]
fn a_late_end_cannot_end_the_next_launch() {
    let vm = after(&running(), FactKind::Ended, 1, 40);
    let again = after(&vm, FactKind::Launching, 2, 50);
    let late = again.apply(fact(FactKind::Ended, 1, Cause::QemuKilled), at(60));
    assert_eq!(
        late,
        Err(ImpossibleFact::OtherLaunch {
            fact: FactKind::Ended,
            found: 1,
            current: 2
        })
    );
}

#[test]
fn while_starting_the_status_before_is_shown() {
    let created = record();
    assert_eq!(created.state.shown(Activity::Starting), Status::Created);
    let first = after(&created, FactKind::Launching, 1, 10);
    assert_eq!(first.state.shown(Activity::Starting), Status::Created);
    let failed = first
        .apply(fact(FactKind::Ended, 1, Cause::StartFailed), at(20))
        .unwrap();
    let second = after(&failed, FactKind::Launching, 2, 30);
    assert_eq!(second.state.shown(Activity::Starting), Status::Failed);
    let shown = Activity::ALL
        .into_iter()
        .filter(|activity| *activity != Activity::Starting);
    for activity in shown {
        assert_eq!(second.state.shown(activity), Status::Running);
    }
}

#[test]
fn a_launch_remembers_what_was_wanted_of_it() {
    let vm = running();
    assert_eq!(vm.state.launch().unwrap().intent, Intent::Run);
    for intent in [
        Intent::Stop,
        Intent::StopForced,
        Intent::HostShutdown,
        Intent::RunnerLost,
        Intent::Run,
    ] {
        let vm = vm
            .apply(
                Fact::StopIntended {
                    generation: 1,
                    intent,
                },
                at(40),
            )
            .unwrap();
        assert_eq!((vm.state.launch().unwrap().intent, vm.since), (intent, at(10)));
    }
}

#[test]
fn an_adoption_replaces_the_runner_and_nothing_else() {
    let vm = running();
    let mut runner = identity(Role::Runner, 1);
    runner.pid = 200;
    let adopted = vm
        .apply(
            Fact::RunnerReplaced {
                runner: runner.clone(),
            },
            at(40),
        )
        .unwrap();
    let (before, now) = (vm.state.launch().unwrap(), adopted.state.launch().unwrap());
    assert_eq!(now.runner, runner);
    assert_eq!(
        (&now.qemu, &now.running, &now.launch_id),
        (&before.qemu, &before.running, &before.launch_id)
    );
    assert_eq!(adopted.since, vm.since);
}

#[test]
fn a_stored_record_reads_well() {
    let vm = running();
    let text = serde_json::to_string_pretty(&vm).unwrap();
    let back: VmRecord = serde_json::from_str(&text).unwrap();
    assert_eq!(back, vm);
    let json: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(json["state"]["status"], "running");
    assert_eq!(json["state"]["previous"], "created");
    assert_eq!(json["since"], Timestamp(1_800_000_000_010).to_string());
    assert_eq!(
        (vm.name(), vm.view(Activity::Idle).status),
        ("web", Status::Running)
    );
}

/// The cause on record of an end that was told as `cause`, with exit code `code`, while `intent` was wanted.
fn recorded(cause: Cause, code: i32, intent: Intent) -> Cause {
    let wanted = Fact::StopIntended {
        generation: 1,
        intent,
    };
    let told = Fact::Ended {
        generation: 1,
        exit: LastExit {
            exit_code: Some(code),
            ..exit(cause)
        },
    };
    let ended = running()
        .apply(wanted, at(40))
        .unwrap()
        .end(told, at(50), 0.5)
        .unwrap();
    ended.last_exit.unwrap().cause
}

#[test]
fn a_guest_that_was_told_to_shut_down_was_stopped() {
    let seen = |intent| recorded(Cause::GuestShutdown, 0, intent);
    assert_eq!(seen(Intent::Run), Cause::GuestShutdown);
    assert_eq!(seen(Intent::Stop), Cause::Stop);
    assert_eq!(seen(Intent::StopForced), Cause::StopForced);
    assert_eq!(seen(Intent::HostShutdown), Cause::HostShutdown);
    assert_eq!(seen(Intent::RunnerLost), Cause::RunnerLost);
}

#[test]
fn a_qemu_that_left_in_order_was_stopped_and_one_with_a_fault_was_not() {
    let seen = |code, intent| recorded(Cause::QemuExited, code, intent);
    assert_eq!(seen(0, Intent::Run), Cause::QemuExited);
    assert_eq!(seen(0, Intent::Stop), Cause::Stop);
    assert_eq!(seen(0, Intent::RunnerLost), Cause::RunnerLost);
    assert_eq!(seen(1, Intent::Stop), Cause::QemuExited);
    assert_eq!(seen(1, Intent::RunnerLost), Cause::QemuExited);
}

#[test]
fn whatever_else_ended_it_did() {
    for cause in [Cause::GuestPanic, Cause::GuestReset, Cause::QemuKilled] {
        assert_eq!(recorded(cause, 0, Intent::Stop), cause);
    }
}
