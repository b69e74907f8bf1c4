//! `maqet why`.

use maqet_protocol::control::{Event, VmSummary};
use maqet_state::clock::Timestamp;
use maqet_state::lifecycle::{LastExit, Status};
use serde::Serialize;
use serde_json::Value;

use super::{ls, status};
use crate::args::vm::OneArgs;
use crate::error::CliError;
use crate::journal;
use crate::render::units;
use crate::session::Session;

/// Longest text of one value in a line.
const VALUE_LETTERS_MAX: usize = 80;

/// What led to the present state.
#[derive(Debug, Serialize)]
struct Chain {
    vm: String,
    status: Status,
    since: Timestamp,
    last_exit: Option<LastExit>,
    events: Vec<Event>,
}

/// Tells the events behind a VM's present state, oldest first.
///
/// # Errors
/// The refusal.
pub(crate) async fn run(session: &Session<'_>, args: &OneArgs) -> Result<(), CliError> {
    let summary = status::describe(session, &args.vm).await?.summary;
    let history = journal::history(session, summary.id.as_str()).await?;
    let chain = Chain {
        vm: summary.name.clone(),
        status: summary.status,
        since: summary.since,
        last_exit: summary.last_exit.clone(),
        events: last_run(history),
    };
    session
        .output
        .answer(&chain, || text(&summary, &chain), || chain.vm.clone())
}

/// The events from the last start on; all of them when it was never started.
fn last_run(mut events: Vec<Event>) -> Vec<Event> {
    let start = events.iter().rposition(|event| event.kind == "vm.starting");
    events.drain(..start.unwrap_or_default());
    events
}

fn text(summary: &VmSummary, chain: &Chain) -> String {
    let mut lines = vec![format!(
        "{} is {} since {}",
        chain.vm,
        ls::condition(summary),
        chain.since
    )];
    // The last exit explains a VM that ended; for one that runs again it is history.
    let exit = chain
        .last_exit
        .as_ref()
        .filter(|_| summary.status != Status::Running);
    let because = exit.into_iter().flat_map(units::last_exit_lines);
    lines.extend(because.map(|line| format!("  because: {line}")));
    lines.extend(
        chain
            .events
            .iter()
            .map(|event| format!("  {}", event_line(event))),
    );
    lines.join("\n")
}

/// `2026-01-02T03:04:05.678Z vm.running pid=12 accel=tcg`.
pub(crate) fn event_line(event: &Event) -> String {
    let data = event.data.iter().filter(|(_, value)| !value.is_null());
    let data = data.map(|(key, value)| format!(" {key}={}", short(value)));
    format!("{} {}{}", event.at, event.kind, data.collect::<String>())
}

fn short(value: &Value) -> String {
    let text = value
        .as_str()
        .map_or_else(|| value.to_string(), str::to_owned)
        .replace('\n', " | ");
    if text.chars().count() <= VALUE_LETTERS_MAX {
        return text;
    }
    let cut: String = text.chars().take(VALUE_LETTERS_MAX).collect();
    format!("{cut}…")
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::{Event, event_line, last_run};

    fn event(cursor: u64, kind: &str, data: &Value) -> Event {
        let mut event = json!({"cursor": cursor, "at": "2026-01-02T03:04:05.678Z", "vm": "web", "id": null, "kind": kind});
        event
            .as_object_mut()
            .unwrap()
            .extend(data.as_object().unwrap().clone());
        serde_json::from_value(event).unwrap()
    }

    #[test]
    fn a_line_shows_what_the_event_carries() {
        let event = event(
            1,
            "vm.failed",
            &json!({"cause": "qemu-crashed", "signal": 11, "exit_code": null}),
        );
        insta::assert_snapshot!(event_line(&event), @"2026-01-02T03:04:05.678Z vm.failed cause=qemu-crashed signal=11");
    }

    #[test]
    fn the_chain_begins_with_the_last_start() {
        let kinds = [
            "vm.added",
            "vm.starting",
            "vm.stopped",
            "vm.starting",
            "vm.running",
        ];
        let events: Vec<_> = (1..)
            .zip(kinds)
            .map(|(cursor, kind)| event(cursor, kind, &json!({})))
            .collect();
        let cursors: Vec<u64> = last_run(events.clone())
            .iter()
            .map(|event| event.cursor)
            .collect();
        assert_eq!(cursors, [4, 5]);
        assert_eq!(last_run(events[..1].to_vec()).len(), 1);
    }
}
