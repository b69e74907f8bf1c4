//! `maqet ls`.

use maqet_protocol::control::{List, VmSummary};
use maqet_state::lifecycle::Activity;

use crate::args::vm::LsArgs;
use crate::error::CliError;
use crate::render::{table, units};
use crate::session::Session;

const HEADER: [&str; 7] = ["NAME", "STATUS", "UPTIME", "MEMORY", "CPUS", "PID", "ID"];

/// Lists VMs.
///
/// # Errors
/// The refusal.
pub(crate) async fn run(session: &Session<'_>, args: &LsArgs) -> Result<(), CliError> {
    let status = args.status.map(Into::into);
    let vms = session.ask(&List { status }).await?.vms;
    let names = || {
        vms.iter()
            .map(|vm| vm.name.as_str())
            .collect::<Vec<_>>()
            .join("\n")
    };
    session
        .output
        .answer(&vms, || table::columns(&HEADER, vms.iter().map(row)), names)
}

fn row(vm: &VmSummary) -> Vec<String> {
    vec![
        vm.name.clone(),
        condition(vm),
        vm.uptime_s.map_or_else(dash, units::uptime),
        units::size(vm.memory),
        vm.cpus.to_string(),
        vm.pid.map_or_else(dash, |pid| pid.to_string()),
        vm.id.as_str().chars().take(12).collect(),
    ]
}

fn dash() -> String {
    "-".to_owned()
}

/// Status with what is being done and what is unusual: `running (paused)`, `stopped (starting)`.
pub(crate) fn condition(vm: &VmSummary) -> String {
    let status = units::word(&vm.status);
    let mut remarks = Vec::new();
    if vm.activity != Activity::Idle {
        remarks.push(units::word(&vm.activity));
    }
    if let Some(state) = vm.run_state.as_deref().filter(|state| *state != status) {
        remarks.push(state.to_owned());
    }
    remarks.extend(restart(vm));
    if vm.removal.is_some() && vm.activity != Activity::Removing {
        remarks.push("half removed".to_owned());
    }
    if let Some(since) = vm.silent_since {
        remarks.push(format!("not answering since {}", units::second(since)));
    }
    if remarks.is_empty() {
        status
    } else {
        format!("{status} ({})", remarks.join(", "))
    }
}

/// What the restart policy is about to do, or has given up doing.
fn restart(vm: &VmSummary) -> Option<String> {
    let state = vm.restart_state?;
    if state.gave_up {
        return Some("crash loop".to_owned());
    }
    state.next_at.map(|_at| "restarting".to_owned())
}

#[cfg(test)]
mod tests {
    use maqet_state::clock::Timestamp;
    use maqet_state::lifecycle::{Activity, Status};

    use super::{HEADER, VmSummary, row, table};

    fn vm(name: &str, status: Status) -> VmSummary {
        VmSummary {
            id: "0123456789abcdef0123456789abcdef".parse().unwrap(),
            name: name.to_owned(),
            status,
            activity: Activity::Idle,
            run_state: None,
            pid: None,
            runner_pid: None,
            since: Timestamp(0),
            uptime_s: None,
            memory: 512 << 20,
            cpus: 2,
            restart: "never".to_owned(),
            restart_state: None,
            autostart: None,
            last_exit: None,
            silent_since: None,
            removal: None,
        }
    }

    #[test]
    fn table_shows_what_is_unusual() {
        let running = VmSummary {
            run_state: Some("running".to_owned()),
            pid: Some(4242),
            uptime_s: Some(75),
            ..vm("web", Status::Running)
        };
        let paused = VmSummary {
            run_state: Some("paused".to_owned()),
            silent_since: Some(Timestamp(1)),
            ..running.clone()
        };
        let starting = VmSummary {
            activity: Activity::Starting,
            ..vm("database", Status::Failed)
        };
        let rows = [running, paused, starting].map(|vm| row(&vm));
        insta::assert_snapshot!(table::columns(&HEADER, rows), @"
        NAME      STATUS                                                      UPTIME  MEMORY  CPUS  PID   ID
        web       running                                                     1m 15s  512M    2     4242  0123456789ab
        web       running (paused, not answering since 1970-01-01T00:00:00Z)  1m 15s  512M    2     4242  0123456789ab
        database  failed (starting)                                           -       512M    2     -     0123456789ab
        ");
    }
}
