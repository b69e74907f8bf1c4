//! `maqet start`.

use std::time::Duration;

use maqet_protocol::control::{Start, Started};

use super::each::{Each, Lines, forbid};
use super::wait::{Wanted, until};
use crate::args::condition::Condition;
use crate::args::vm::StartArgs;
use crate::error::CliError;
use crate::journal;
use crate::render::units;
use crate::session::{OPERATION_DEADLINE, Session, key};

/// Starts VMs, and waits for what else is to hold.
///
/// # Errors
/// The refusal, [`CliError::Deadline`], or that of a condition.
pub(crate) async fn run(session: &Session<'_>, args: &StartArgs) -> Result<(), CliError> {
    let each = Each {
        doing: "starting",
        line,
        name: |started: &Started| started.name.clone(),
        lines: Lines::Talk,
    };
    each.run(session, &args.vms, |vm| start(session, vm, args)).await
}

/// `web: running (pid 123, 45 ms)`.
pub(crate) fn line(started: &Started) -> String {
    let pid = started
        .pid
        .map_or_else(|| "pid unknown".to_owned(), |pid| format!("pid {pid}"));
    if started.already {
        return format!("{}: running already ({pid})", started.name);
    }
    let took = units::duration(Duration::from_millis(started.took_ms));
    format!("{}: running ({pid}, {took})", started.name)
}

async fn start(session: &Session<'_>, vm: String, args: &StartArgs) -> Result<Started, CliError> {
    let work = start_and_wait(session, &vm, &args.wait);
    let started = match args.timeout {
        None => work.await?,
        Some(after) => tokio::time::timeout(after, work)
            .await
            .map_err(|_| CliError::Deadline {
                what: format!("the start of `{vm}`"),
                after,
                vm: Some(vm.clone()),
                state: None,
                hint: Some(format!("maqet status {vm}")),
            })??,
    };
    forbid(started.already, args.strict, &started.name, "running")?;
    Ok(started)
}

async fn start_and_wait(
    session: &Session<'_>,
    vm: &str,
    conditions: &[Condition],
) -> Result<Started, CliError> {
    let method = Start {
        vm: vm.to_owned(),
        key: Some(key()),
    };
    if conditions.is_empty() {
        return session.repeat(&method, OPERATION_DEADLINE).await;
    }
    // What happens during the start counts too.
    let since = journal::newest(session).await?;
    let started = session.repeat(&method, OPERATION_DEADLINE).await?;
    let wanted = Wanted {
        vms: vec![started.name.clone()],
        conditions: conditions.to_vec(),
        any: false,
        since: Some(since),
    };
    until(session, &wanted).await?;
    Ok(started)
}
