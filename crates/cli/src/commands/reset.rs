//! `maqet reset`.

use maqet_protocol::control::{Changed, Reset};

use super::each::{Each, Lines};
use crate::args::vm::ResetArgs;
use crate::error::CliError;
use crate::session::{QUESTION_DEADLINE, Session};

/// Presses the reset button of VMs. Not repeated when the supervisor dies: twice is not once.
///
/// # Errors
/// The refusal.
pub(crate) async fn run(session: &Session<'_>, args: &ResetArgs) -> Result<(), CliError> {
    let each = Each {
        doing: "resetting",
        line: |changed: &Changed| format!("{}: reset", changed.vm),
        name: |changed: &Changed| changed.vm.clone(),
        lines: Lines::Talk,
    };
    let reset = |vm| async move { session.once(&Reset { vm }, QUESTION_DEADLINE).await };
    each.run(session, &args.vms, reset).await
}
