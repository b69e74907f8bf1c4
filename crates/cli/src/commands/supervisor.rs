//! `maqet supervisor`.

use maqet_protocol::control::{StoreReadOnly, SupervisorInfo, SupervisorStatus, SupervisorStop};
use maqet_protocol::error::CallError;
use maqet_protocol::method::Method;
use serde_json::json;

use super::each::forbid;
use crate::args::verb::SupervisorStopArgs;
use crate::connect;
use crate::error::CliError;
use crate::progress;
use crate::render::{table, units};
use crate::session::{QUESTION_DEADLINE, Session, protocol, refused};

/// Shows the supervisor that runs; starts none.
///
/// # Errors
/// [`CliError::Unreachable`] when none runs.
pub(crate) async fn status(session: &Session<'_>) -> Result<(), CliError> {
    let Some(mut client) = connect::connect_existing(session.settings).await? else {
        return Err(connect::nobody(session.settings));
    };
    let status = client
        .call(&SupervisorInfo {}, Some(QUESTION_DEADLINE))
        .await
        .map_err(failed::<SupervisorInfo>)?;
    session
        .output
        .answer(&status, || block(&status), || status.pid.to_string())
}

/// Ends the supervisor and returns when its process is gone.
///
/// # Errors
/// The refusal; [`CliError::Already`] with `--strict`.
pub(crate) async fn stop(session: &Session<'_>, args: &SupervisorStopArgs) -> Result<(), CliError> {
    let already = !end(session, false).await?;
    if already {
        forbid(true, args.strict, "supervisor", "stopped")?;
    }
    session.output.answer(
        &json!({"status": "stopped", "already": already}),
        String::new,
        String::new,
    )
}

/// Ends the supervisor and returns when its process is gone; false when none was there. `keep_vms`: whatever is configured.
///
/// # Errors
/// The refusal.
pub(crate) async fn end(session: &Session<'_>, keep_vms: bool) -> Result<bool, CliError> {
    let Some((mut client, process)) = connect::connect_to_process(session.settings).await? else {
        return Ok(false);
    };
    let ending = async {
        let method = SupervisorStop { keep_vms };
        match client.call(&method, Some(QUESTION_DEADLINE)).await {
            Ok(_) => {}
            // It may be gone before its answer is out.
            Err(CallError::Protocol(error)) if connect::is_loss(&error) => {}
            Err(error) => return Err(failed::<SupervisorStop>(error)),
        }
        match process {
            Some(process) => Ok(process.exited().await?),
            None => Ok(()),
        }
    };
    progress::during(session.output, "stopping the supervisor", ending).await?;
    Ok(true)
}

fn failed<M: Method>(error: CallError) -> CliError {
    match error {
        CallError::Refused(refusal) => refused(refusal),
        CallError::Protocol(error) => protocol::<M>(error),
    }
}

fn block(status: &SupervisorStatus) -> String {
    table::block(&[
        ("pid", status.pid.to_string()),
        ("version", status.version.clone()),
        ("since", status.since.to_string()),
        ("data dir", status.data_dir.display().to_string()),
        ("runtime dir", status.runtime_dir.display().to_string()),
        ("vms", format!("{} ({} running)", status.vms, status.running)),
        ("memory", units::size(status.memory)),
        ("cursor", status.cursor.to_string()),
        ("store", store(status)),
    ])
}

fn store(status: &SupervisorStatus) -> String {
    let Some(store) = &status.store else {
        return "-".to_owned();
    };
    store
        .read_only
        .as_ref()
        .map_or_else(|| "takes changes".to_owned(), read_only)
}

fn read_only(trouble: &StoreReadOnly) -> String {
    format!(
        "read-only since {} because {} ({} changes wait)",
        trouble.since, trouble.reason, trouble.waiting
    )
}
