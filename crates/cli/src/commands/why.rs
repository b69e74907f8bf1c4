//! `maqet why`.

mod causes;
mod chain;
mod words;

use maqet_protocol::control::{DiskProblem, Event, VmStatus, VmSummary};
use maqet_state::clock::Timestamp;
use maqet_state::lifecycle::{Cause, LastExit, Status};
use serde::Serialize;
use serde_json::Value;

use super::{ls, rm, status};
use crate::args::vm::OneArgs;
use crate::error::CliError;
use crate::journal;
use crate::session::Session;

pub(in crate::commands) use self::causes::sentence;

/// Longest text of one value in a line.
const VALUE_LETTERS_MAX: usize = 80;

/// Most steps that people are shown; the beginning and the end are the parts that explain.
const STEPS_SHOWN_MAX: usize = 60;

/// Of those, so many from the beginning.
const STEPS_SHOWN_FIRST: usize = 10;

/// What led to the present state.
#[derive(Debug, Serialize)]
struct Chain {
    vm: String,
    status: Status,
    since: Timestamp,
    last_exit: Option<LastExit>,
    /// Why it is so, in one sentence.
    because: Option<String>,
    /// What happened, in order, for people.
    steps: Vec<Step>,
    /// The command to type next.
    next: Option<String>,
    /// The same part of the journal, for programs.
    events: Vec<Event>,
}

/// One thing that happened.
#[derive(Debug, Serialize)]
struct Step {
    cursor: u64,
    at: Timestamp,
    kind: String,
    text: String,
}

/// Tells what led to a VM's present state, oldest first.
///
/// # Errors
/// The refusal.
pub(crate) async fn run(session: &Session<'_>, args: &OneArgs) -> Result<(), CliError> {
    let status = status::describe(session, &args.vm).await?;
    let history = journal::history(session, status.summary.id.as_str()).await?;
    let chain = Chain::of(&status, chain::behind(history));
    let summary = status.summary;
    session
        .output
        .answer(&chain, || text(&summary, &chain), || chain.vm.clone())
}

impl Chain {
    fn of(status: &VmStatus, events: Vec<Event>) -> Self {
        let summary = &status.summary;
        let step = |event: &Event| {
            Some(Step {
                cursor: event.cursor,
                at: event.at,
                kind: event.kind.clone(),
                text: words::tell(event)?,
            })
        };
        Self {
            vm: summary.name.clone(),
            status: summary.status,
            since: summary.since,
            last_exit: summary.last_exit.clone(),
            because: because(summary, &events),
            steps: chain::telling(&events).filter_map(step).collect(),
            next: next(status, &events),
            events,
        }
    }
}

/// The last end explains a VM that has ended; one that runs is explained by its start; one that is half removed by that.
fn because(summary: &VmSummary, events: &[Event]) -> Option<String> {
    if let Some(removal) = &summary.removal {
        return Some(format!("its removal {}", rm::half_way(removal)));
    }
    match summary.status {
        Status::Created => Some("nobody has started it yet".to_owned()),
        Status::Running => {
            let start = events.iter().rev().find(|event| event.kind == "vm.starting");
            start.map(|event| words::starting(event).to_owned())
        }
        Status::Stopped | Status::Failed => summary.last_exit.as_ref().map(sentence),
    }
}

/// A disk that is damaged, and nobody said that it be used as it is: what can be done about it. A start is refused before.
fn mending(status: &VmStatus) -> Option<String> {
    let troubles = status.disks.iter().filter_map(|disk| disk.trouble.as_ref());
    let mut open = troubles.filter(|trouble| trouble.problem == DiskProblem::Damaged && !trouble.accepted);
    open.find_map(|trouble| trouble.hint.clone())
}

fn next(status: &VmStatus, events: &[Event]) -> Option<String> {
    let summary = &status.summary;
    let name = &summary.name;
    if let Some(removal) = &summary.removal {
        let go_on = rm::go_on(name, removal);
        return Some(format!("{go_on}; or maqet rm {name}, which keeps what is left"));
    }
    if summary.silent_since.is_some() {
        return Some(format!(
            "maqet stop {name}, or with --force if that does not help"
        ));
    }
    if let Some(mending) = mending(status) {
        return Some(mending);
    }
    let lost = events.iter().any(|event| event.kind == "vm.share-lost");
    if lost && summary.status == Status::Running {
        return Some(format!(
            "maqet logs {name} --virtiofsd, then maqet restart {name}"
        ));
    }
    let exit = summary
        .last_exit
        .as_ref()
        .filter(|_| summary.status == Status::Failed)?;
    Some(match exit.cause {
        Cause::StartFailed | Cause::QemuExited | Cause::QemuCrashed => format!("maqet logs {name} --qemu"),
        Cause::GuestPanic => format!("maqet logs {name}"),
        Cause::GuestShutdown
        | Cause::GuestReset
        | Cause::Stop
        | Cause::StopForced
        | Cause::QemuKilled
        | Cause::HostShutdown
        | Cause::HostRebooted
        | Cause::RunnerLost
        | Cause::HelperLost
        | Cause::EndedUnknown => format!("maqet start {name}"),
    })
}

fn text(summary: &VmSummary, chain: &Chain) -> String {
    let condition = ls::condition(summary);
    let mut lines = vec![format!("{} is {condition} since {}", chain.vm, chain.since)];
    lines.extend(chain.because.iter().map(|why| format!("because: {why}")));
    let ended = matches!(chain.status, Status::Stopped | Status::Failed);
    let exit = chain.last_exit.iter().filter(|_| ended);
    lines.extend(exit.flat_map(causes::details).map(|line| format!("  | {line}")));
    let exit = chain.last_exit.iter().filter(|_| ended);
    lines.extend(exit.map(|exit| format!("cause: {}", exit.cause)));
    if !chain.steps.is_empty() {
        lines.push("what happened:".to_owned());
        lines.extend(shown(&chain.steps, &chain.vm));
    }
    lines.extend(chain.next.iter().map(|next| format!("next: {next}")));
    lines.join("\n")
}

/// A long chain without its middle.
fn shown(steps: &[Step], vm: &str) -> Vec<String> {
    let line = |step: &Step| format!("  {}  {}", step.at, step.text);
    let Some(left_out) = steps
        .len()
        .checked_sub(STEPS_SHOWN_MAX)
        .filter(|count| *count > 0)
    else {
        return steps.iter().map(line).collect();
    };
    let (first, rest) = steps.split_at(STEPS_SHOWN_FIRST);
    let gap = format!("  … {left_out} more, which `maqet events --vm {vm}` shows …");
    let last = rest.iter().skip(left_out);
    first
        .iter()
        .map(line)
        .chain([gap])
        .chain(last.map(line))
        .collect()
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
    use maqet_state::clock::Timestamp;
    use serde_json::{Value, json};

    use super::{Event, STEPS_SHOWN_FIRST, STEPS_SHOWN_MAX, Step, event_line, shown};

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
    fn a_long_chain_is_shown_without_its_middle() {
        let steps = |count: usize| -> Vec<Step> {
            let step = |number: usize| Step {
                cursor: 1,
                at: Timestamp(0),
                kind: "vm.starting".to_owned(),
                text: format!("step {number}"),
            };
            (0..count).map(step).collect()
        };
        assert_eq!(shown(&steps(STEPS_SHOWN_MAX), "web").len(), STEPS_SHOWN_MAX);
        let lines = shown(&steps(100), "web");
        assert_eq!(lines.len(), STEPS_SHOWN_MAX + 1);
        assert!(lines[STEPS_SHOWN_FIRST].contains("… 40 more"), "{lines:?}");
        assert!(
            lines[STEPS_SHOWN_FIRST - 1].ends_with("step 9")
                && lines[STEPS_SHOWN_FIRST + 1].ends_with("step 50")
        );
        assert!(lines.last().unwrap().ends_with("step 99"));
    }
}
