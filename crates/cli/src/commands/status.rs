//! `maqet status`.

use maqet_protocol::control::{
    AutostartStatus, Describe, DiskProblem, DiskTrouble, PortStatus, SandboxStatus, ShareStatus, VmStatus,
    VmSummary,
};

use super::{ls, rm};
use crate::args::vm::OneArgs;
use crate::error::CliError;
use crate::render::{table, units};
use crate::session::Session;

/// Shows how a VM is doing.
///
/// # Errors
/// The refusal.
pub(crate) async fn run(session: &Session<'_>, args: &OneArgs) -> Result<(), CliError> {
    let status = describe(session, &args.vm).await?;
    session
        .output
        .answer(&status, || block(&status), || status.summary.name.clone())
}

/// Asks for the status.
///
/// # Errors
/// The refusal.
pub(crate) async fn describe(session: &Session<'_>, vm: &str) -> Result<VmStatus, CliError> {
    session.ask(&Describe { vm: vm.to_owned() }).await
}

/// `key: value` lines.
pub(crate) fn block(status: &VmStatus) -> String {
    let vm = &status.summary;
    let mut lines = vec![
        ("name", vm.name.clone()),
        ("id", vm.id.to_string()),
        ("status", ls::condition(vm)),
        ("since", vm.since.to_string()),
    ];
    let removal = vm.removal.iter();
    lines.extend(removal.map(|removal| ("removal", rm::half_way(removal))));
    lines.extend(vm.uptime_s.map(|seconds| ("uptime", units::uptime(seconds))));
    lines.extend(vm.pid.map(|pid| ("pid", pid.to_string())));
    lines.extend(vm.runner_pid.map(|pid| ("runner pid", pid.to_string())));
    lines.push(("memory", units::size(vm.memory)));
    lines.push(("cpus", vm.cpus.to_string()));
    lines.push(("accel", status.accel.clone()));
    lines.extend(status.qemu_version.clone().map(|version| ("qemu", version)));
    lines.push(("restart", restart(vm)));
    lines.extend(vm.autostart.map(|place| ("autostart", autostart(place))));
    if !status.disks.is_empty() {
        lines.push(("disks", disks(status)));
    }
    if !status.shares.is_empty() {
        let shares = status.shares.iter().map(share);
        lines.push(("shares", shares.collect::<Vec<_>>().join("\n")));
    }
    if !status.ports.is_empty() {
        lines.push((
            "ports",
            status.ports.iter().map(port).collect::<Vec<_>>().join("\n"),
        ));
    }
    lines.push(("sandbox", sandbox(&status.sandbox)));
    lines.push(("logs", logs(status)));
    lines.extend(
        vm.last_exit
            .iter()
            .map(|exit| ("last exit", units::last_exit_lines(exit).join("\n"))),
    );
    table::block(&lines)
}

fn restart(vm: &VmSummary) -> String {
    let Some(state) = vm.restart_state else {
        return vm.restart.clone();
    };
    let window = units::uptime(state.window_s);
    let tries = format!("{} of {} within {window}", state.tries, state.tries_max);
    let next = match state.next_at {
        Some(at) => format!("; the next one at {at}"),
        None if state.gave_up => "; given up until somebody starts it".to_owned(),
        None => String::new(),
    };
    format!("{} ({tries}{next})", vm.restart)
}

fn autostart(place: AutostartStatus) -> String {
    match place.delay_ms {
        0 => format!("order {}", place.order),
        delay => format!("order {}, then a pause of {delay} ms", place.order),
    }
}

fn disks(status: &VmStatus) -> String {
    let lines = status.disks.iter().map(|disk| {
        let made = if disk.made { ", made by maqet" } else { "" };
        let readonly = if disk.readonly { ", read-only" } else { "" };
        let trouble = disk
            .trouble
            .as_ref()
            .map(|trouble| format!("\n  {}{}", problem(trouble), remedy(trouble)));
        let trouble = trouble.unwrap_or_default();
        format!(
            "{}: {} ({}, {}{readonly}{made}){trouble}",
            disk.name,
            disk.path.display(),
            disk.format,
            disk.interface
        )
    });
    lines.collect::<Vec<_>>().join("\n")
}

fn share(share: &ShareStatus) -> String {
    let readonly = if share.readonly { ", read-only" } else { "" };
    let pid = share.pid.map(|pid| format!(", virtiofsd {pid}"));
    let lost = share.lost.as_ref().map(|lost| {
        let (detail, since) = (&lost.detail, lost.since);
        format!("\n  lost, and the guest waits for it for ever: {detail} (since {since}); a restart mends it")
    });
    format!(
        "{}: {} (tag {}, {}{readonly}{}){}",
        share.name,
        share.path.display(),
        share.tag,
        share.kind,
        pid.unwrap_or_default(),
        lost.unwrap_or_default()
    )
}

/// What is wrong with a disk, and since when.
pub(crate) fn problem(trouble: &DiskTrouble) -> String {
    let what = match trouble.problem {
        DiskProblem::HostFull => "the host's disk is full; the guest waits and goes on once there is room",
        DiskProblem::Error => "the host failed to read or write it",
        DiskProblem::Damaged => "damaged",
    };
    let detail = trouble.detail.iter().map(|detail| format!(": {detail}"));
    let accepted = if trouble.accepted { "; used as it is" } else { "" };
    format!(
        "{what}{} (since {}{accepted})",
        detail.collect::<String>(),
        trouble.since
    )
}

/// What can be done about it, as one more line.
fn remedy(trouble: &DiskTrouble) -> String {
    match &trouble.hint {
        Some(hint) if !trouble.accepted => format!("\n  {hint}"),
        Some(_) | None => String::new(),
    }
}

fn port(port: &PortStatus) -> String {
    format!(
        "{} {}:{} -> {}",
        port.protocol, port.host_address, port.host_port, port.guest_port
    )
}

fn sandbox(sandbox: &SandboxStatus) -> String {
    let mut parts = Vec::new();
    if sandbox.seccomp {
        parts.push("seccomp".to_owned());
    }
    if sandbox.no_new_privs {
        parts.push("no_new_privs".to_owned());
    }
    parts.extend(sandbox.landlock_abi.map(|abi| format!("landlock ABI {abi}")));
    if parts.is_empty() {
        return sandbox.requested.clone();
    }
    format!("{} ({})", sandbox.requested, parts.join(", "))
}

fn logs(status: &VmStatus) -> String {
    let logs = &status.logs;
    let mut paths = vec![&logs.serial, &logs.qemu, &logs.runner];
    let serves = status.shares.iter().any(|share| share.kind == "virtiofs");
    paths.extend(logs.virtiofsd.as_ref().filter(|_| serves));
    let paths: Vec<_> = paths.into_iter().map(|path| path.display().to_string()).collect();
    paths.join("\n")
}
