//! Every condition after every short history.

use maqet_protocol::control::{Event, VmSummary};
use maqet_state::lifecycle::Status;
use serde_json::json;

use super::{Snapshot, Verdict};
use crate::args::condition::Condition;

fn event(kind: &str) -> Event {
    let value = json!({"cursor": 1, "at": "2026-01-02T03:04:05Z", "vm": "web", "id": null, "kind": kind, "serial_offset": 7});
    serde_json::from_value(value).unwrap()
}

fn found(status: &str, activity: &str) -> Snapshot {
    let vm: VmSummary = serde_json::from_value(json!({
        "id": "0123456789abcdef0123456789abcdef", "name": "web", "status": status, "activity": activity,
        "since": "2026-01-02T03:04:05Z", "memory": 1, "cpus": 1, "restart": "never",
    }))
    .unwrap();
    Snapshot::of(&vm)
}

fn row(name: &str, snapshot: &Snapshot) -> String {
    let conditions = [
        "running",
        "stopped",
        "failed",
        "exit",
        "serial=x",
        "port=1",
        "event=vm.stopped",
        "file=x",
    ];
    let cells = conditions.map(|text| {
        let condition: Condition = text.parse().unwrap();
        match snapshot.judge(&condition) {
            Verdict::Holds => "holds",
            Verdict::Hopeless => "never",
            Verdict::Open => ".",
        }
    });
    format!("{name:<34}{}", cells.map(|cell| format!("{cell:<8}")).concat())
        .trim_end()
        .to_owned()
}

#[test]
fn verdicts() {
    let mut rows = vec![format!(
        "{:<34}running stopped failed  exit    serial  port    event   file",
        ""
    )];
    for (status, activity) in [
        ("created", "idle"),
        ("created", "starting"),
        ("running", "idle"),
        ("running", "stopping"),
        ("stopped", "idle"),
        ("stopped", "starting"),
        ("failed", "idle"),
    ] {
        rows.push(row(&format!("{status} {activity}"), &found(status, activity)));
    }
    for kinds in [
        &["vm.starting", "vm.running"][..],
        &["vm.starting", "vm.failed"],
        &["vm.starting", "vm.running", "vm.stopped"],
        &["vm.failed", "vm.starting"],
        &["vm.removed"],
    ] {
        let mut snapshot = found("created", "idle");
        for kind in kinds {
            snapshot.take(&event(kind));
        }
        rows.push(row(&kinds.join(" ").replace("vm.", ""), &snapshot));
    }
    insta::assert_snapshot!(rows.join("\n"), @"
                                      running stopped failed  exit    serial  port    event   file
    created idle                      .       .       .       .       .       .       .       .
    created starting                  .       .       .       .       .       .       .       .
    running idle                      holds   .       .       .       .       .       .       .
    running stopping                  holds   .       .       .       .       .       .       .
    stopped idle                      .       holds   never   holds   never   never   .       .
    stopped starting                  .       .       .       .       .       .       .       .
    failed idle                       .       never   holds   holds   never   never   .       .
    starting running                  holds   .       .       .       .       .       .       .
    starting failed                   never   never   holds   holds   never   never   .       .
    starting running stopped          holds   holds   never   holds   never   never   holds   .
    failed starting                   .       .       holds   holds   .       .       .       .
    removed                           never   never   never   never   never   never   never   .
    ");
}

#[test]
fn a_run_knows_where_its_serial_log_begins() {
    let mut snapshot = found("stopped", "idle");
    assert_eq!(snapshot.ended, Some(Status::Stopped));
    snapshot.take(&event("vm.running"));
    assert_eq!(
        (
            snapshot.runs,
            snapshot.serial_offset,
            snapshot.running,
            snapshot.ended
        ),
        (1, 7, true, None)
    );
}

#[test]
fn qmp_events_are_known_by_their_short_name_too() {
    let mut snapshot = found("running", "idle");
    snapshot.take(&event("qmp.STOP"));
    for kind in ["STOP", "qmp.STOP"] {
        assert_eq!(snapshot.judge(&Condition::Event(kind.to_owned())), Verdict::Holds);
    }
    assert_eq!(
        snapshot.judge(&Condition::Event("RESUME".to_owned())),
        Verdict::Open
    );
}
