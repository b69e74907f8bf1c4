//! `maqet resume`.

use maqet_protocol::control::{Changed, Resume};

use super::each::{Each, Lines, forbid};
use crate::args::vm::EachArgs;
use crate::error::CliError;
use crate::session::Session;

/// Lets the CPUs of VMs run again.
///
/// # Errors
/// The refusal.
pub(crate) async fn run(session: &Session<'_>, args: &EachArgs) -> Result<(), CliError> {
    let each = Each {
        doing: "resuming",
        line: |changed: &Changed| {
            let already = if changed.already { " already" } else { "" };
            format!("{}: running{already}", changed.vm)
        },
        name: |changed: &Changed| changed.vm.clone(),
        lines: Lines::Talk,
    };
    let resume = |vm| async move {
        let changed = session.ask(&Resume { vm }).await?;
        forbid(changed.already, args.strict, &changed.vm, "running")?;
        Ok(changed)
    };
    each.run(session, &args.vms, resume).await
}
