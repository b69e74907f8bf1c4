//! What only the supervisor knows: VMs, versions, the store, leftovers.

use std::fs;

use maqet_protocol::control::{Leaks, List, SupervisorInfo, SupervisorStatus, VmSummary};
use maqet_state::lifecycle::Status;

use super::super::boot;
use super::{Check, Outcome, backups, disks, virtiofsd};
use crate::commands::why;
use crate::error::CliError;
use crate::render::units;
use crate::session::Session;

/// Asks the supervisor, which is started if none is there and that is allowed.
pub(super) async fn checks(session: &Session<'_>) -> Vec<Check> {
    let status = match session.ask(&SupervisorInfo {}).await {
        Ok(status) => status,
        // What is configured is not known then.
        Err(error) => return vec![virtiofsd::check(session, None, &[]).await, unreachable(&error)],
    };
    let mut checks = vec![version(&status), store(&status)];
    checks.extend(status.store.as_ref().map(backups::check));
    checks.extend(program_of("supervisor-program", "the supervisor", status.pid));
    let stored = match session.ask(&List { status: None }).await {
        Ok(listed) => {
            checks.extend(vms(&listed.vms));
            checks.extend(disks::checks(session, &listed.vms).await);
            listed.vms
        }
        Err(error) => {
            checks.push(Check::new("vms", Outcome::Fail, error.to_string()));
            Vec::new()
        }
    };
    checks.push(virtiofsd::check(session, status.virtiofsd.as_deref(), &stored).await);
    checks.push(leftovers(session).await);
    checks
}

fn unreachable(error: &CliError) -> Check {
    let report = error.report();
    let words: Vec<String> = std::iter::once(report.message).chain(report.causes).collect();
    let check = Check::new(
        "supervisor",
        Outcome::Fail,
        format!("{}; VMs were not looked at", words.join(": ")),
    );
    match report.hint {
        Some(hint) => check.hint(hint),
        None => check,
    }
}

fn version(status: &SupervisorStatus) -> Check {
    let own = env!("CARGO_PKG_VERSION");
    let what = format!(
        "version {}, pid {}, {} ({} running)",
        status.version,
        status.pid,
        units::count(status.vms, "VM", "VMs"),
        status.running
    );
    if status.version == own {
        return Check::new("supervisor", Outcome::Ok, what);
    }
    let what = format!("{what}; this program is version {own}");
    Check::new("supervisor", Outcome::Warn, what).hint("maqet supervisor stop, then any command; VMs run on")
}

fn store(status: &SupervisorStatus) -> Check {
    let place = status.data_dir.join("state.redb");
    match status.store.as_ref().and_then(|store| store.read_only.as_ref()) {
        None => Check::new(
            "store",
            Outcome::Ok,
            format!("takes changes; journal at {}", status.cursor),
        ),
        Some(trouble) => {
            let what = format!(
                "read-only since {}: {}; {} changes wait",
                trouble.since, trouble.reason, trouble.waiting
            );
            Check::new("store", Outcome::Fail, what)
                .hint("make room, then run any command that changes something")
        }
    }
    .at(&place.display())
}

/// Whether a process runs what is now in its program's file.
fn program_of(name: &'static str, who: &str, pid: i32) -> Option<Check> {
    let path = fs::read_link(format!("/proc/{pid}/exe")).ok()?;
    let replaced = path.to_string_lossy().ends_with(" (deleted)");
    replaced.then(|| {
        let what = format!("{who} (pid {pid}) runs a program that was replaced since");
        Check::new(name, Outcome::Warn, what)
    })
}

fn vms(all: &[VmSummary]) -> Vec<Check> {
    let mut checks = Vec::new();
    for vm in all {
        if let Some(since) = vm.silent_since {
            let what = format!("nothing answers since {since}; it runs, or did when it last answered");
            let hint = format!("maqet why {0}; maqet stop {0} --force ends it", vm.name);
            checks.push(
                Check::new("vm-silent", Outcome::Warn, what)
                    .at(&vm.name)
                    .hint(hint),
            );
        }
        checks.extend(crash_loop(vm).or_else(|| failed(vm)));
        let older = vm
            .runner_pid
            .and_then(|pid| program_of("runner-program", "its runner", pid));
        checks.extend(older.map(|check| {
            check
                .at(&vm.name)
                .hint("it goes on; the next start takes the new one")
        }));
    }
    for vm in boot::forsaken(all) {
        let what = "left by a `doctor --boot` that was killed";
        checks.push(
            Check::new("vm-forsaken", Outcome::Warn, what)
                .at(&vm.name)
                .hint("maqet cleanup"),
        );
    }
    if checks.is_empty() {
        checks.push(Check::new(
            "vms",
            Outcome::Ok,
            match all.len() {
                0 => "none stored yet".to_owned(),
                count => format!("{count}, none silent or failed"),
            },
        ));
    }
    checks
}

fn failed(vm: &VmSummary) -> Option<Check> {
    if vm.status != Status::Failed {
        return None;
    }
    let reason = vm
        .last_exit
        .as_ref()
        .map_or_else(|| "for an unknown reason".to_owned(), why::sentence);
    let check = Check::new("vm-failed", Outcome::Warn, format!("failed: {reason}")).at(&vm.name);
    Some(check.hint(format!("maqet why {}", vm.name)))
}

/// Its restart policy has given it up: nobody will start it but a person.
fn crash_loop(vm: &VmSummary) -> Option<Check> {
    let state = vm.restart_state.filter(|state| state.gave_up)?;
    let what = format!(
        "its restart policy gave it up after {} restarts; it stays down until somebody starts it",
        state.tries
    );
    let hint = format!("maqet why {0}, then maqet start {0}", vm.name);
    Some(
        Check::new("vm-crash-loop", Outcome::Warn, what)
            .at(&vm.name)
            .hint(hint),
    )
}

async fn leftovers(session: &Session<'_>) -> Check {
    match session.ask(&Leaks::default()).await {
        Ok(report) if report.leaks.is_empty() => Check::new("leftovers", Outcome::Ok, "none"),
        Ok(report) => {
            let count = u64::try_from(report.leaks.len()).unwrap_or(u64::MAX);
            let what = units::count(count, "thing is", "things are") + " left that nobody has";
            Check::new("leftovers", Outcome::Warn, what).hint("maqet doctor --leaks")
        }
        Err(error) => Check::new("leftovers", Outcome::Fail, error.to_string()),
    }
}
