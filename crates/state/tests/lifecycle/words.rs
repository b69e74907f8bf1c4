//! Names, ids and times: what is shown is what is stored.

use std::time::Duration;

use maqet_state::clock::{Timestamp, now};
use maqet_state::id::VmId;
use maqet_state::lifecycle::{Activity, Cause, Command, FactKind, Status};
use serde::Serialize;

fn stored(value: impl Serialize) -> String {
    serde_json::to_value(value).unwrap().as_str().unwrap().to_owned()
}

#[test]
fn names_are_shown_as_they_are_stored() {
    assert!(
        Status::ALL
            .iter()
            .all(|status| stored(status) == status.to_string())
    );
    assert!(
        Activity::ALL
            .iter()
            .all(|activity| stored(activity) == activity.to_string())
    );
    assert!(Cause::ALL.iter().all(|cause| stored(cause) == cause.to_string()));
    assert_eq!(format!("[{:>8}]", Status::Failed), "[  failed]");
    assert_eq!(
        format!("{} {}", Command::ForceRemove, FactKind::QemuRecorded),
        "rm --force qemu-recorded"
    );
    assert_eq!(Activity::default(), Activity::Idle);
}

#[test]
fn every_cause_leads_to_an_end() {
    let good: Vec<_> = Cause::ALL
        .iter()
        .filter(|cause| cause.leads_to() == Status::Stopped)
        .collect();
    assert_eq!(
        good,
        [
            &Cause::GuestShutdown,
            &Cause::GuestReset,
            &Cause::Stop,
            &Cause::StopForced,
            &Cause::HostShutdown
        ]
    );
    assert_eq!(
        Cause::ALL
            .iter()
            .filter(|cause| cause.leads_to() == Status::Failed)
            .count(),
        9
    );
}

#[test]
fn ids_are_32_hexadecimal_digits() {
    let (one, two) = (VmId::random(), VmId::random());
    assert_ne!(one, two);
    assert_eq!(one.as_str().len(), VmId::LENGTH);
    assert_eq!(one.to_string().parse::<VmId>().unwrap(), one);
    assert_eq!(format!("{one:?}"), format!("VmId({one})"));
    let upper = "A".repeat(32);
    for wrong in ["", "web", "0123456789abcdef", &upper] {
        let error = wrong.parse::<VmId>().unwrap_err().to_string();
        assert_eq!(
            error,
            format!("`{wrong}` is not a VM id: expected 32 lower-case hexadecimal digits")
        );
        assert!(serde_json::from_value::<VmId>(wrong.into()).is_err());
    }
}

#[test]
fn times_are_written_as_rfc_3339() {
    let time = Timestamp(1_800_000_000_123);
    assert_eq!(time.to_string(), "2027-01-15T08:00:00.123Z");
    assert_eq!(
        serde_json::from_str::<Timestamp>(&serde_json::to_string(&time).unwrap()).unwrap(),
        time
    );
    assert!(serde_json::from_str::<Timestamp>("\"yesterday\"").is_err());
    assert!(serde_json::from_str::<Timestamp>("5").is_err());
    assert_eq!(
        time.since(Timestamp(1_800_000_000_000)),
        Duration::from_millis(123)
    );
    assert_eq!(Timestamp(0).since(time), Duration::ZERO);
    assert!(now() > Timestamp(1_700_000_000_000));
}
