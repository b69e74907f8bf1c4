//! `maqet stop` and `maqet kill`.

use std::time::Duration;

use maqet_protocol::control::{Stop, StopHow, StopReport};

use super::each::{Each, Lines, forbid};
use crate::args::vm::{KillArgs, StopArgs};
use crate::error::CliError;
use crate::render::units;
use crate::session::{OPERATION_DEADLINE, Session, key};

/// Time on top of a hard budget for the supervisor to answer that it is used up.
const ANSWER_GRACE: Duration = Duration::from_secs(30);

/// Shuts VMs down.
///
/// # Errors
/// The refusal; exit 124 when the VM still runs at the end of its budget.
pub(crate) async fn run(session: &Session<'_>, args: &StopArgs) -> Result<(), CliError> {
    let order = Order {
        timeout: args.timeout,
        force: args.force,
        strict: args.strict,
    };
    stop_all(session, &args.vms, &order).await
}

/// Ends VMs at once.
///
/// # Errors
/// The refusal.
pub(crate) async fn kill(session: &Session<'_>, args: &KillArgs) -> Result<(), CliError> {
    let order = Order {
        timeout: None,
        force: true,
        strict: args.strict,
    };
    stop_all(session, &args.vms, &order).await
}

struct Order {
    timeout: Option<Duration>,
    force: bool,
    strict: bool,
}

async fn stop_all(session: &Session<'_>, vms: &[String], order: &Order) -> Result<(), CliError> {
    let each = Each {
        doing: "stopping",
        line,
        name: |report: &StopReport| report.vm.clone(),
        lines: Lines::Data,
    };
    each.run(session, vms, |vm| stop(session, vm, order)).await
}

async fn stop(session: &Session<'_>, vm: String, order: &Order) -> Result<StopReport, CliError> {
    let method = Stop {
        vm,
        timeout_ms: order.timeout.map(millis),
        force: order.force,
        key: Some(key()),
    };
    let deadline = order
        .timeout
        .map_or(OPERATION_DEADLINE, |timeout| timeout.saturating_add(ANSWER_GRACE));
    let report = session.repeat(&method, deadline).await?;
    let already = matches!(report.how, StopHow::Already);
    forbid(already, order.strict, &report.vm, &units::word(&report.status))?;
    Ok(report)
}

/// `web: stopped (guest, 812 ms)`.
pub(crate) fn line(report: &StopReport) -> String {
    let status = units::word(&report.status);
    match report.how {
        StopHow::Already => format!("{}: {status} already", report.vm),
        StopHow::Guest | StopHow::Quit | StopHow::Killed => {
            let took = units::duration(Duration::from_millis(report.took_ms));
            format!("{}: {status} ({}, {took})", report.vm, units::word(&report.how))
        }
    }
}

/// Milliseconds for the wire.
pub(crate) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
