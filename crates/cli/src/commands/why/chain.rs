//! Which part of a VM's history explains its present state.

use maqet_protocol::control::Event;

use super::words;

/// The events from the last start that was wanted on, with all that the restart policy did since; all of them when nobody
/// ever wanted one. Damage to disks since the run before comes first: it is why they were repaired.
pub(super) fn behind(mut events: Vec<Event>) -> Vec<Event> {
    let from = (0..events.len()).rev().find(|at| is_wanted_start(&events, *at));
    let chain = events.split_off(from.unwrap_or_default());
    let mut told = damage_in(events);
    told.extend(chain);
    told
}

/// Damage since a VM ran before, what was done about it, and how that run ended; nothing when there was none.
fn damage_in(mut before: Vec<Event>) -> Vec<Event> {
    let ran = before.iter().rposition(|event| event.kind == "vm.running");
    let mut lately = before.split_off(ran.unwrap_or_default());
    let is_end = |event: &Event| ["vm.stopped", "vm.failed"].contains(&event.kind.as_str());
    let damaged = lately.iter().any(is_about_damage);
    lately.retain(|event| damaged && (is_about_damage(event) || is_end(event)));
    lately
}

fn is_about_damage(event: &Event) -> bool {
    let kinds = [
        "vm.disk-damaged",
        "vm.disk-quarantined",
        "vm.disk-repaired",
        "vm.disk-accepted",
    ];
    kinds.contains(&event.kind.as_str())
}

/// The events of a chain without those that only repeat others: QEMU lets a guest run at each start and halts it at each
/// end, which is news only in between.
pub(super) fn telling(events: &[Event]) -> impl Iterator<Item = &Event> {
    let mut paused = false;
    let mut ending = false;
    events.iter().filter(move |event| match event.kind.as_str() {
        "vm.starting" | "vm.stop-failed" => {
            (paused, ending) = (false, false);
            true
        }
        "vm.stopping" | "qmp.SHUTDOWN" | "qmp.GUEST_PANICKED" => {
            ending = true;
            true
        }
        "qmp.STOP" => {
            paused = true;
            !ending
        }
        "qmp.RESUME" => std::mem::take(&mut paused),
        _ => true,
    })
}

/// A start that was not the restart policy's. One that could not even begin is told by its failure alone.
fn is_wanted_start(events: &[Event], at: usize) -> bool {
    let Some((event, before)) = events.get(at).zip(events.get(..at)) else {
        return false;
    };
    match (event.kind.as_str(), words::by(event)) {
        ("vm.starting" | "vm.failed", Some(by)) => by != "policy",
        // Of a version that did not say so: the policy tells beforehand.
        ("vm.starting", None) => !announced(before),
        _ => false,
    }
}

/// Whether a restart was due.
fn announced(before: &[Event]) -> bool {
    let telling = before.iter().rev().find(|event| {
        ["vm.restarting", "vm.restart-cancelled", "vm.starting"].contains(&event.kind.as_str())
    });
    telling.is_some_and(|event| event.kind == "vm.restarting")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{Event, behind, telling};

    /// Cursors of the chain of a history of these kinds, each with who wanted it.
    fn cursors(history: &[(&str, Option<&str>)]) -> Vec<u64> {
        behind(events(history)).iter().map(|event| event.cursor).collect()
    }

    fn events(history: &[(&str, Option<&str>)]) -> Vec<Event> {
        let event = |(cursor, (kind, by)): (u64, &(&str, Option<&str>))| -> Event {
            let event = json!({"cursor": cursor, "at": "2026-01-02T03:04:05.678Z", "vm": "web", "id": null,
                "kind": kind, "by": by});
            serde_json::from_value(event).unwrap()
        };
        (1..).zip(history).map(event).collect()
    }

    #[test]
    fn a_chain_begins_with_the_last_wanted_start() {
        let lives = [
            ("vm.added", None),
            ("vm.starting", Some("command")),
            ("vm.stopped", None),
            ("vm.starting", Some("autostart")),
            ("vm.running", None),
        ];
        assert_eq!(cursors(&lives), [4, 5]);
        assert_eq!(cursors(&lives[..1]), [1]);
    }

    #[test]
    fn a_crash_loop_is_told_from_its_beginning() {
        for by in [Some("policy"), None] {
            let looping = [
                ("vm.starting", Some("command")),
                ("vm.failed", None),
                ("vm.restarting", None),
                ("vm.starting", by),
                ("vm.failed", None),
                ("vm.restarting", None),
                ("vm.failed", Some("policy")),
                ("vm.crash-loop", None),
            ];
            assert_eq!(cursors(&looping), [1, 2, 3, 4, 5, 6, 7, 8]);
        }
    }

    #[test]
    fn damage_since_the_run_before_is_told_first() {
        let person = Some("command");
        let history = [
            ("vm.disk-repaired", None),
            ("vm.starting", person),
            ("vm.running", None),
            ("qmp.RESET", None),
            ("vm.failed", None),
            ("vm.disk-quarantined", None),
            ("vm.failed", person),
            ("vm.disk-repaired", None),
            ("vm.starting", person),
            ("vm.running", None),
        ];
        assert_eq!(cursors(&history), [5, 6, 7, 8, 9, 10]);
        // The next start is explained by itself.
        let later = [&history[..], &[("vm.stopped", None), ("vm.starting", person)]].concat();
        assert_eq!(cursors(&later), [12]);
        assert_eq!(cursors(&history[..7]), [5, 6, 7]);
    }

    #[test]
    fn what_belongs_to_every_start_and_end_is_not_told() {
        let kinds = [
            "vm.starting",
            "qmp.RESUME",
            "qmp.STOP",
            "qmp.RESUME",
            "vm.stopping",
            "qmp.STOP",
            "vm.stopped",
        ];
        let events = events(&kinds.map(|kind| (kind, None)));
        let told: Vec<_> = telling(&events).map(|event| event.cursor).collect();
        assert_eq!(told, [1, 3, 4, 5, 7]);
    }

    #[test]
    fn a_start_by_a_person_during_the_pause_begins_anew() {
        let history = [
            ("vm.starting", None),
            ("vm.restarting", None),
            ("vm.restart-cancelled", None),
            ("vm.starting", None),
        ];
        assert_eq!(cursors(&history), [4]);
        assert_eq!(
            cursors(&[("vm.starting", None), ("vm.failed", Some("command"))]),
            [2]
        );
    }
}
