//! Both tables in full, as the document shows them.

use std::collections::BTreeSet;

use maqet_state::lifecycle::{
    Activity, Cause, Command, Decision, Denial, DenialKind, FactKind, ImpossibleFact, Status, View, apply,
    decide,
};

use crate::sample::{GENERATION, fact, name, states};

/// Every table of commands: its name, and what it is about. While something is under way, that alone decides.
const VIEWS: [(&str, Activity, bool); 7] = [
    ("idle", Activity::Idle, false),
    ("half removed", Activity::Idle, true),
    ("starting", Activity::Starting, false),
    ("stopping", Activity::Stopping, false),
    ("snapshotting", Activity::Snapshotting, false),
    ("maintaining", Activity::Maintaining, false),
    ("removing", Activity::Removing, false),
];

/// Every generated block of the document: its name and its text.
pub(crate) fn blocks() -> Vec<(String, String)> {
    let mut blocks: Vec<_> = VIEWS
        .iter()
        .map(|(name, activity, half_removed)| {
            (
                format!("commands while {name}"),
                commands(*activity, *half_removed),
            )
        })
        .collect();
    blocks.push(("denials".to_owned(), denials()));
    blocks.push(("facts".to_owned(), facts()));
    blocks.push(("causes".to_owned(), causes()));
    blocks
}

fn table(head: &[&str], rows: Vec<Vec<String>>) -> String {
    let widths: Vec<usize> = (0..head.len())
        .map(|column| {
            rows.iter()
                .map(|row| row[column].len())
                .chain([head[column].len()])
                .max()
                .unwrap()
        })
        .collect();
    let line = |cells: Vec<String>| {
        let cells: Vec<_> = cells
            .iter()
            .zip(&widths)
            .map(|(cell, width)| format!("{cell:width$}"))
            .collect();
        format!("| {} |\n", cells.join(" | "))
    };
    let mut text = line(head.iter().map(|cell| (*cell).to_owned()).collect());
    text.push_str(&line(widths.iter().map(|width| "-".repeat(*width)).collect()));
    for row in rows {
        text.push_str(&line(row));
    }
    text
}

fn commands(activity: Activity, half_removed: bool) -> String {
    let rows = Command::ALL.iter().map(|command| {
        let cells = Status::ALL.iter().map(|status| {
            show(decide(
                View {
                    status: *status,
                    activity,
                    half_removed,
                },
                *command,
            ))
        });
        std::iter::once(format!("`{command}`")).chain(cells).collect()
    });
    table(
        &["command", "created", "running", "stopped", "failed"],
        rows.collect(),
    )
}

fn show(decision: Decision) -> String {
    match decision {
        Decision::Do(effect) => format!("do: {}", effect.as_str()),
        Decision::Join => "join".to_owned(),
        Decision::AlreadyDone => "already done".to_owned(),
        Decision::Deny(denial) => format!("deny: {}", denial.as_str()),
    }
}

fn every_denial() -> Vec<Denial> {
    let mut found = Vec::new();
    for (_, activity, half_removed) in VIEWS {
        for status in Status::ALL {
            let view = View {
                status,
                activity,
                half_removed,
            };
            let decisions = Command::ALL.iter().map(|command| decide(view, *command));
            found.extend(decisions.filter_map(|decision| match decision {
                Decision::Deny(denial) => Some(denial),
                Decision::Do(_) | Decision::Join | Decision::AlreadyDone => None,
            }));
        }
    }
    found
}

/// Text and hint of a refusal with its variable parts in capitals.
fn pattern(denial: Denial) -> Vec<String> {
    let message = denial.message("VM");
    let (_, reason) = message.split_once(" `VM`").unwrap();
    let verb = match denial {
        Denial::StillRunning => "remove",
        Denial::DisksInUse => "work on the disks of",
        Denial::NotRunning { .. }
        | Denial::IsStarting { .. }
        | Denial::IsStopping { .. }
        | Denial::IsSnapshotting { .. }
        | Denial::IsMaintained { .. }
        | Denial::BeingRemoved { .. }
        | Denial::HalfRemoved { .. } => "COMMAND",
    };
    let reason = Status::ALL.iter().fold(reason.to_owned(), |reason, status| {
        reason.replace(&format!("({status})"), "(STATUS)")
    });
    let message = format!("cannot {verb} `VM`{reason}");
    let kind = match denial.kind() {
        DenialKind::WrongState => "3, `wrong-state`",
        DenialKind::Busy => "5, `busy`",
    };
    vec![
        denial.as_str().to_owned(),
        message,
        kind.to_owned(),
        denial.hint("VM"),
    ]
}

fn denials() -> String {
    let rows: BTreeSet<_> = every_denial().into_iter().map(pattern).collect();
    assert_eq!(rows.len(), 9, "each reason has one text");
    table(
        &["reason", "error text", "exit, code", "hint"],
        rows.into_iter().collect(),
    )
}

fn facts() -> String {
    let states = states();
    let mut rows = Vec::new();
    for kind in FactKind::ALL {
        let causes = [Cause::Stop, Cause::QemuCrashed];
        let causes = if kind == FactKind::Ended {
            &causes[..]
        } else {
            &causes[..1]
        };
        for cause in causes {
            let label = if kind == FactKind::Ended {
                format!("`{kind}`, {cause}")
            } else {
                format!("`{kind}`")
            };
            rows.push(fact_row(label, kind, GENERATION, *cause));
        }
    }
    let about_a_launch = FactKind::ALL.into_iter().filter(|kind| {
        // A new launch is compared with the record's counter, not with the state.
        ![FactKind::Launching, FactKind::LaunchFailed].contains(kind)
    });
    for kind in about_a_launch {
        let label = format!("`{kind}` of an earlier launch");
        rows.push(fact_row(label, kind, GENERATION - 1, Cause::Stop));
    }
    let head: Vec<_> = std::iter::once("fact")
        .chain(states.iter().map(|(name, _)| *name))
        .collect();
    table(&head, rows)
}

fn fact_row(label: String, kind: FactKind, generation: u64, cause: Cause) -> Vec<String> {
    let cells = states().map(|(_, state)| match apply(&state, fact(kind, generation, cause)) {
        Ok(next) => name(&next).to_owned(),
        Err(ImpossibleFact::WrongStatus { .. }) => "no: status".to_owned(),
        Err(ImpossibleFact::OutOfOrder { .. }) => "no: order".to_owned(),
        Err(ImpossibleFact::OtherLaunch { .. }) => "no: launch".to_owned(),
    });
    std::iter::once(label).chain(cells).collect()
}

fn causes() -> String {
    let rows = Cause::ALL
        .iter()
        .map(|cause| vec![format!("`{cause}`"), cause.leads_to().to_string()]);
    table(&["cause", "leads to"], rows.collect())
}

#[test]
fn the_whole_table_is_pinned() {
    let text: Vec<_> = blocks()
        .into_iter()
        .map(|(name, text)| format!("{name}\n\n{text}"))
        .collect();
    insta::assert_snapshot!("tables", text.join("\n"));
}

#[test]
fn every_refusal_has_its_words() {
    let denials: BTreeSet<_> = every_denial()
        .into_iter()
        .map(|denial| format!("{}\n  hint: {}", denial.message("web"), denial.hint("web")))
        .collect();
    let text: Vec<_> = denials.into_iter().collect();
    insta::assert_snapshot!("refusals", text.join("\n"));
}

#[test]
fn every_impossible_fact_has_its_words() {
    let mut texts = BTreeSet::new();
    for (_, state) in states() {
        for kind in FactKind::ALL {
            for generation in [GENERATION - 1, GENERATION] {
                let refused = apply(&state, fact(kind, generation, Cause::Stop)).err();
                texts.extend(refused.map(|refused| refused.to_string()));
            }
        }
    }
    let texts: Vec<_> = texts.into_iter().collect();
    insta::assert_snapshot!("impossible", texts.join("\n"));
}
