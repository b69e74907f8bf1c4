//! `maqet pause`.

use maqet_protocol::control::{Changed, Pause};

use super::each::{Each, Lines, forbid};
use crate::args::vm::EachArgs;
use crate::error::CliError;
use crate::session::Session;

/// Pauses the CPUs of VMs.
///
/// # Errors
/// The refusal.
pub(crate) async fn run(session: &Session<'_>, args: &EachArgs) -> Result<(), CliError> {
    let each = Each {
        doing: "pausing",
        line: |changed: &Changed| {
            let already = if changed.already { " already" } else { "" };
            format!("{}: paused{already}", changed.vm)
        },
        name: |changed: &Changed| changed.vm.clone(),
        lines: Lines::Talk,
    };
    let pause = |vm| async move {
        let changed = session.ask(&Pause { vm }).await?;
        forbid(changed.already, args.strict, &changed.vm, "paused")?;
        Ok(changed)
    };
    each.run(session, &args.vms, pause).await
}
