//! What the restart policy makes of ends, alone and on a whole record.

use std::time::Duration;

use maqet_spec::vm::{RestartPolicy, RestartWhen};
use maqet_state::clock::Timestamp;
use maqet_state::lifecycle::{Cause, Fact, FactKind};
use maqet_state::record::{Intent, VmRecord};
use maqet_state::upkeep::{Upkeep, Verdict};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::sample::{at, fact, record};

const BOOT: &str = "this boot";

fn policy(policy: RestartWhen) -> RestartPolicy {
    RestartPolicy {
        policy,
        ..RestartPolicy::default()
    }
}

fn fresh() -> Upkeep {
    Upkeep::new(BOOT)
}

fn judge(upkeep: &Upkeep, when: RestartWhen, cause: Cause, intent: Intent) -> Verdict {
    upkeep.judge(policy(when), (cause, intent), at(0), 0.0)
}

#[test]
fn which_ends_are_followed_by_a_start() {
    let unattended = Upkeep {
        unattended: true,
        ..fresh()
    };
    let sign = |verdict| if verdict == Verdict::Rest { '-' } else { '+' };
    let mut table = vec![format!("{:<16}never on-failure always", "")];
    for cause in Cause::ALL {
        let cells = [RestartWhen::Never, RestartWhen::OnFailure, RestartWhen::Always].map(|when| {
            let by_person = sign(judge(&fresh(), when, cause, Intent::Run));
            let by_maqet = sign(judge(&unattended, when, cause, Intent::Run));
            format!("{by_person}{by_maqet}")
        });
        table.push(format!(
            "{:<16}{:<6}{:<11}{}",
            cause.as_str(),
            cells[0],
            cells[1],
            cells[2]
        ));
    }
    // The second sign: the start before was not a person's.
    insta::assert_snapshot!(table.join("\n"), @r#"
                    never on-failure always
    guest-shutdown  --    --         ++
    guest-reset     --    --         ++
    guest-panic     --    ++         ++
    stop            --    --         --
    stop-forced     --    --         --
    start-failed    --    -+         -+
    qemu-exited     --    ++         ++
    qemu-crashed    --    ++         ++
    qemu-killed     --    ++         ++
    host-shutdown   --    --         --
    host-rebooted   --    --         --
    runner-lost     --    ++         ++
    helper-lost     --    ++         ++
    ended-unknown   --    ++         ++
    "#);
}

#[test]
fn an_end_that_somebody_wanted_is_none_to_act_on() {
    for cause in Cause::ALL {
        for intent in [Intent::Stop, Intent::StopForced, Intent::HostShutdown] {
            assert_eq!(
                judge(&fresh(), RestartWhen::Always, cause, intent),
                Verdict::Rest,
                "{cause}"
            );
        }
        let stopped = fresh().stopped();
        assert_eq!(
            judge(&stopped, RestartWhen::Always, cause, Intent::Run),
            Verdict::Rest,
            "{cause}"
        );
    }
    let lost = judge(
        &fresh(),
        RestartWhen::OnFailure,
        Cause::RunnerLost,
        Intent::RunnerLost,
    );
    assert_ne!(lost, Verdict::Rest);
}

/// Ends once a second until it is given up; the pauses in between, milliseconds.
fn loop_until_given_up(policy: RestartPolicy, jitter: f64) -> Vec<u64> {
    let (mut upkeep, mut now, mut pauses) = (fresh(), at(0), Vec::new());
    loop {
        let verdict = upkeep.judge(policy, (Cause::QemuCrashed, Intent::Run), now, jitter);
        upkeep = upkeep.judged(verdict, now);
        let Verdict::RestartAt(due) = verdict else {
            assert_eq!(
                (verdict, upkeep.gave_up, upkeep.next_at),
                (Verdict::GiveUp, Some(now), None)
            );
            return pauses;
        };
        assert_eq!((upkeep.next_at, upkeep.gave_up), (Some(due), None));
        pauses.push(due.0 - now.0);
        upkeep = upkeep.restarted(policy, due);
        assert_eq!(upkeep.next_at, None);
        now = Timestamp(due.0 + 1000);
    }
}

#[test]
fn a_crash_loop_is_slowed_down_and_given_up() {
    let policy = policy(RestartWhen::OnFailure);
    assert_eq!(loop_until_given_up(policy, 0.0), [1000, 2000, 4000, 8000, 16_000]);
    assert_eq!(loop_until_given_up(policy, 1.0), [500, 1000, 2000, 4000, 8000]);
    let short = RestartPolicy {
        backoff_max: Duration::from_secs(3),
        tries: 4,
        ..policy
    };
    assert_eq!(loop_until_given_up(short, 0.0), [1000, 2000, 3000, 3000]);
}

#[test]
fn a_healthy_period_begins_anew() {
    let policy = policy(RestartWhen::Always);
    let mut upkeep = fresh();
    for number in 0..policy.tries {
        upkeep = upkeep.restarted(policy, at(u64::from(number)));
    }
    let judge = |now| upkeep.judge(policy, (Cause::QemuKilled, Intent::Run), now, 0.0);
    assert_eq!(judge(at(100)), Verdict::GiveUp);
    let later = at(600_000 + 10);
    assert_eq!(judge(later), Verdict::RestartAt(Timestamp(later.0 + 1000)));
    assert_eq!(upkeep.tries(policy, later), 0);
}

#[test]
fn another_boot_and_a_person_begin_anew() {
    let policy = policy(RestartWhen::Always);
    let given_up = fresh().restarted(policy, at(1)).judged(Verdict::GiveUp, at(2));
    assert_eq!(given_up.clone().in_boot(BOOT), given_up);
    assert_eq!(given_up.clone().in_boot("another"), Upkeep::new("another"));
    assert_eq!(given_up.stopped().in_boot("another"), Upkeep::new("another"));
}

/// In any window no more restarts than asked for, and every pause within its bounds, whatever the ends and the clock.
#[test]
fn no_more_restarts_than_asked_for() {
    let seed: u64 =
        std::env::var("MAQET_TEST_SEED").map_or_else(|_unset| rand::random(), |seed| seed.parse().unwrap());
    println!("MAQET_TEST_SEED={seed}");
    let mut random = StdRng::seed_from_u64(seed);
    for _round in 0..200 {
        walk(&mut random);
    }
}

fn walk(random: &mut StdRng) {
    let policy = RestartPolicy {
        policy: RestartWhen::Always,
        backoff: Duration::from_millis(random.random_range(1..5000)),
        backoff_max: Duration::from_secs(random.random_range(5..100)),
        tries: random.random_range(1..20),
        window: Duration::from_secs(random.random_range(1..2000)),
    };
    let (mut upkeep, mut now, mut made) = (fresh(), at(0), Vec::new());
    for _step in 0..200 {
        now = Timestamp(now.0 + random.random_range(0..100_000));
        let tries = upkeep.tries(policy, now);
        let verdict = upkeep.judge(policy, (Cause::EndedUnknown, Intent::Run), now, random.random());
        upkeep = upkeep.judged(verdict, now);
        match verdict {
            Verdict::Rest => panic!("{upkeep:?}"),
            Verdict::GiveUp => upkeep = fresh(),
            Verdict::RestartAt(due) => {
                let (pause, full) = (due.since(now), policy.pause(tries));
                let slack = Duration::from_millis(1);
                assert!(
                    pause <= full && pause + slack >= full / 2,
                    "{pause:?} of {full:?}"
                );
                now = due;
                upkeep = upkeep.restarted(policy, now);
                made.push(now);
            }
        }
        if verdict == Verdict::GiveUp {
            made.clear();
        }
        let recent = made
            .iter()
            .filter(|then| now.since(**then) < policy.window)
            .count();
        assert!(
            recent <= usize::try_from(policy.tries).unwrap(),
            "{recent} of {policy:?}"
        );
    }
}

fn running(restart: RestartPolicy) -> VmRecord {
    let mut vm = record();
    vm.spec.restart = restart;
    vm.upkeep = fresh();
    let apply = |vm: VmRecord, kind, when| vm.apply(fact(kind, 1, Cause::Stop), at(when)).unwrap();
    let vm = apply(vm, FactKind::Launching, 10);
    let vm = apply(vm, FactKind::QemuRecorded, 20);
    apply(vm, FactKind::Confirmed, 30)
}

#[test]
fn an_end_and_what_follows_are_one_record() {
    let vm = running(policy(RestartWhen::OnFailure));
    let end = |vm: &VmRecord, cause| vm.end(fact(FactKind::Ended, 1, cause), at(40), 0.0).unwrap();
    assert_eq!(end(&vm, Cause::QemuKilled).upkeep.next_at, Some(at(1040)));
    assert_eq!(end(&vm, Cause::GuestShutdown).upkeep.next_at, None);
    let stopping = vm
        .apply(fact(FactKind::StopIntended, 1, Cause::Stop), at(35))
        .unwrap();
    assert_eq!(end(&stopping, Cause::QemuKilled).upkeep.next_at, None);
    let again = end(&vm, Cause::QemuKilled).end(fact(FactKind::Ended, 1, Cause::QemuKilled), at(50), 0.0);
    assert!(again.is_err(), "one end is judged once");
}

#[test]
fn a_stop_because_of_a_lost_runner_is_told_as_that() {
    let vm = running(policy(RestartWhen::OnFailure));
    let (generation, intent) = (1, Intent::RunnerLost);
    let lost = vm
        .apply(Fact::StopIntended { generation, intent }, at(35))
        .unwrap();
    for (cause, told) in [
        (Cause::Stop, Cause::RunnerLost),
        (Cause::StopForced, Cause::RunnerLost),
        (Cause::GuestShutdown, Cause::RunnerLost),
        (Cause::QemuCrashed, Cause::QemuCrashed),
        (Cause::GuestPanic, Cause::GuestPanic),
    ] {
        let ended = lost.end(fact(FactKind::Ended, 1, cause), at(40), 0.0).unwrap();
        assert_eq!(ended.last_exit.unwrap().cause, told);
        assert_eq!(ended.upkeep.next_at, Some(at(1040)), "{cause}");
    }
}

#[test]
fn what_is_due_is_stored_and_records_without_it_are_read() {
    let vm = running(policy(RestartWhen::OnFailure));
    let vm = vm
        .end(fact(FactKind::Ended, 1, Cause::QemuKilled), at(40), 0.0)
        .unwrap();
    let mut json = serde_json::to_value(&vm).unwrap();
    assert_eq!(serde_json::from_value::<VmRecord>(json.clone()).unwrap(), vm);
    json.as_object_mut().unwrap().remove("upkeep");
    let old: VmRecord = serde_json::from_value(json).unwrap();
    assert_eq!((old.upkeep, old.autostart), (Upkeep::default(), None));
}
