//! `maqet disable`.

use maqet_protocol::control::{AutostartSet, Disable};

use super::each::{Each, Lines, forbid};
use super::enable::line;
use crate::args::vm::EachArgs;
use crate::error::CliError;
use crate::session::Session;

/// Leaves VMs alone when a supervisor starts.
///
/// # Errors
/// The refusal.
pub(crate) async fn run(session: &Session<'_>, args: &EachArgs) -> Result<(), CliError> {
    let each = Each {
        doing: "disabling",
        line: |set: &AutostartSet| line(set, "disabled"),
        name: |set: &AutostartSet| set.vm.clone(),
        lines: Lines::Talk,
    };
    let disable = |vm| async move {
        let set = session.ask(&Disable { vm }).await?;
        forbid(set.already, args.strict, &set.vm, "disabled")?;
        Ok(set)
    };
    each.run(session, &args.vms, disable).await
}
