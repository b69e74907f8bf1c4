//! One QMP command of a client on its way to QEMU and back.

use std::time::Duration;

use maqet_protocol::control::QmpReturn;
use maqet_protocol::refusal::{Refusal, RefusalCode};
use maqet_protocol::runner::RunQmp;
use maqet_qmp::{Qmp, QmpError};
use serde::Serialize;

use crate::confinement;
use crate::mail::{Mail, News, post};
use crate::server::Counter;
use crate::{policy, written};

/// Longest deadline a client may set; a command that runs longer is a job and reports by events.
const DEADLINE_MAX: Duration = Duration::from_hours(1);

/// Runs a command if the policy allows it.
///
/// # Errors
/// `invalid-call` for a forbidden command, `qmp-failed` with QEMU's words, `timeout` when it did not answer in time,
/// `not-answering` when the way to it is lost.
pub(crate) async fn run(qmp: &Qmp, order: RunQmp, counter: &Counter) -> Result<QmpReturn, Refusal> {
    policy::check(&order.command, order.arguments.as_ref(), &counter.name)
        .and_then(|()| {
            let files = written::files(&order.command, order.arguments.as_ref());
            counter.grounds.check(&order.command, &files)
        })
        .map_err(|refusal| refusal.vm(&*counter.name))?;
    // Said first: whatever QEMU makes of it, it is what a person wants.
    if let Some(held) = holds(&order.command) {
        post(&counter.desk, Mail::News(News::Held(held))).await;
    }
    let deadline = Duration::from_millis(order.timeout_ms).min(DEADLINE_MAX);
    match qmp.run(&order.command, order.arguments, deadline).await {
        Ok(value) => Ok(QmpReturn { value }),
        Err(error) => {
            if matches!(error, QmpError::Deadline { .. }) {
                post(&counter.desk, Mail::News(News::Silent(true))).await;
            }
            Err(refusal(error, counter))
        }
    }
}

/// Whether a command halts the guest (`true`) or lets it go on.
fn holds(command: &str) -> Option<bool> {
    match command {
        "stop" => Some(true),
        "cont" => Some(false),
        _ => None,
    }
}

/// What QEMU, or the way to it, says against a command.
pub(crate) fn refusal(error: QmpError, counter: &Counter) -> Refusal {
    let name = &*counter.name;
    let words = error.to_string();
    let refusal = match error {
        QmpError::Refused { class, .. } => {
            let hint = confinement::hint(&words);
            let refusal = Refusal::new(RefusalCode::QmpFailed, words).cause(class);
            match hint {
                Some(hint) => refusal.hint(hint),
                None => refusal,
            }
        }
        QmpError::Deadline { .. } => Refusal::new(RefusalCode::Timeout, words).state("running"),
        QmpError::Busy => Refusal::new(RefusalCode::Busy, words).hint("try again"),
        QmpError::TooLong { .. } | QmpError::Malformed { .. } => Refusal::new(RefusalCode::QmpFailed, words),
        QmpError::Greeting { .. } | QmpError::Closed | QmpError::Io(_) => Refusal::new(
            RefusalCode::NotAnswering,
            format!("the QEMU of `{name}` does not answer"),
        )
        .cause(words),
    };
    refusal.vm(name)
}

/// A reply as it goes on the wire.
///
/// # Errors
/// `internal`.
pub(crate) fn value<T: Serialize>(reply: &T) -> Result<serde_json::Value, Refusal> {
    serde_json::to_value(reply).map_err(|error| {
        Refusal::new(RefusalCode::Internal, "the reply cannot be written").cause(error.to_string())
    })
}
