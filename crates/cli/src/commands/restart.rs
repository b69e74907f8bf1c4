//! `maqet restart`.

use maqet_protocol::control::{Restart, Started};

use super::each::{Each, Lines};
use super::start;
use super::stop::millis;
use crate::args::vm::RestartArgs;
use crate::error::CliError;
use crate::session::{OPERATION_DEADLINE, Session, key};

/// Stops VMs and starts them.
///
/// # Errors
/// The refusal; exit 124 when a VM did not stop within its budget.
pub(crate) async fn run(session: &Session<'_>, args: &RestartArgs) -> Result<(), CliError> {
    let each = Each {
        doing: "restarting",
        line: start::line,
        name: |started: &Started| started.name.clone(),
        lines: Lines::Talk,
    };
    let restart = |vm| async move {
        let method = Restart {
            vm,
            timeout_ms: args.timeout.map(millis),
            key: Some(key()),
        };
        session.repeat(&method, OPERATION_DEADLINE).await
    };
    each.run(session, &args.vms, restart).await
}
