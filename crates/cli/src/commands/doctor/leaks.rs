//! `maqet doctor --leaks`.

use maqet_protocol::control::{Leak, LeakReport, Leaks, LookedAt, Repair};

use crate::error::CliError;
use crate::render::{table, units};
use crate::session::Session;

const HEADER: [&str; 5] = ["KIND", "WHAT", "VM", "SINCE", "WHY"];

/// Shows what is left that nobody has.
///
/// # Errors
/// The refusal; [`CliError::Unhealthy`] when something is left.
pub(crate) async fn run(session: &Session<'_>, fix: bool) -> Result<(), CliError> {
    let report = session.ask(&Leaks { fix, logs: false }).await?;
    session
        .output
        .answer(&report, || text(&report), || names(&report))?;
    match report.leaks.len() {
        0 => Ok(()),
        1 => Err(unhealthy("one thing is left that nobody has", fix)),
        count => Err(unhealthy(
            &format!("{count} things are left that nobody has"),
            fix,
        )),
    }
}

fn unhealthy(what: &str, fixed: bool) -> CliError {
    CliError::Unhealthy {
        what: what.to_owned(),
        hint: (!fixed).then(|| "maqet doctor --leaks --fix".to_owned()),
    }
}

fn names(report: &LeakReport) -> String {
    report
        .leaks
        .iter()
        .map(|leak| leak.what.as_str())
        .collect::<Vec<_>>()
        .join("\n")
}

fn text(report: &LeakReport) -> String {
    let mut parts: Vec<String> = report.actions.iter().map(action).collect();
    if report.leaks.is_empty() {
        parts.push(format!("nothing is left: {}", looked_at(&report.looked_at)));
    } else {
        parts.push(table::columns(&HEADER, report.leaks.iter().map(row)));
        parts.push(format!("looked at {}", looked_at(&report.looked_at)));
    }
    parts.join("\n")
}

fn action(repair: &Repair) -> String {
    let mark = if repair.done { "fixed" } else { "kept" };
    format!(
        "{mark}: {} {}: {}",
        units::word(&repair.kind),
        repair.what,
        repair.detail
    )
}

fn row(leak: &Leak) -> Vec<String> {
    vec![
        units::word(&leak.kind),
        leak.what.clone(),
        leak.vm.clone().unwrap_or_else(|| "-".to_owned()),
        leak.since
            .map_or_else(|| "-".to_owned(), |since| since.to_string()),
        leak.detail.clone(),
    ]
}

fn looked_at(looked_at: &LookedAt) -> String {
    let LookedAt {
        vms,
        busy,
        processes,
        ledger,
        directories,
        sockets,
        ports,
        took_ms,
    } = looked_at;
    let parts = [
        units::count(*vms, "VM", "VMs") + &format!(" ({busy} busy)"),
        units::count(*processes, "process", "processes"),
        units::count(*ledger, "ledger line", "ledger lines"),
        units::count(*directories, "directory", "directories"),
        units::count(*sockets, "socket", "sockets"),
        units::count(*ports, "port", "ports"),
    ];
    format!("{} in {took_ms} ms", parts.join(", "))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{LeakReport, text};

    fn report(leaks: &serde_json::Value, actions: &serde_json::Value) -> LeakReport {
        let looked_at = json!({"vms": 2, "busy": 1, "processes": 90, "ledger": 12, "directories": 4, "sockets": 5,
            "ports": 1, "took_ms": 3});
        serde_json::from_value(json!({"leaks": leaks, "looked_at": looked_at, "actions": actions})).unwrap()
    }

    #[test]
    fn nothing_left_says_what_was_looked_at() {
        insta::assert_snapshot!(text(&report(&json!([]), &json!([]))), @"nothing is left: 2 VMs (1 busy), 90 processes, 12 ledger lines, 4 directories, 5 sockets, 1 port in 3 ms");
    }

    #[test]
    fn leaks_are_a_table_below_what_was_done() {
        let leaks = json!([
            {"kind": "process", "what": "42: sleep", "vm": "web", "since": null, "detail": "it carries the id of a launch"},
            {"kind": "socket", "what": "/r/x.sock", "vm": null, "since": "2026-01-02T03:04:05.678Z", "detail": "no"}
        ]);
        let actions = json!([
            {"kind": "file", "what": "/vm/new.qcow2", "detail": "deleted", "done": true},
            {"kind": "socket", "what": "/r/x.sock", "detail": "left alone: somebody listens on it", "done": false}
        ]);
        insta::assert_snapshot!(text(&report(&leaks, &actions)), @"
        fixed: file /vm/new.qcow2: deleted
        kept: socket /r/x.sock: left alone: somebody listens on it
        KIND     WHAT       VM   SINCE                     WHY
        process  42: sleep  web  -                         it carries the id of a launch
        socket   /r/x.sock  -    2026-01-02T03:04:05.678Z  no
        looked at 2 VMs (1 busy), 90 processes, 12 ledger lines, 4 directories, 5 sockets, 1 port in 3 ms
        ");
    }
}
