//! `maqet enable`.

use maqet_protocol::control::{AutostartSet, Enable};

use super::each::{Each, Lines, forbid};
use crate::args::autostart::EnableArgs;
use crate::error::CliError;
use crate::session::Session;

/// Has VMs started with every supervisor.
///
/// # Errors
/// The refusal.
pub(crate) async fn run(session: &Session<'_>, args: &EnableArgs) -> Result<(), CliError> {
    let each = Each {
        doing: "enabling",
        line: |set: &AutostartSet| line(set, "enabled"),
        name: |set: &AutostartSet| set.vm.clone(),
        lines: Lines::Talk,
    };
    let delay_ms = args
        .delay
        .map(|delay| u64::try_from(delay.as_millis()).unwrap_or(u64::MAX));
    let enable = |vm| async move {
        let order = args.order;
        let set = session.ask(&Enable { vm, order, delay_ms }).await?;
        forbid(set.already, args.each.strict, &set.vm, "enabled")?;
        Ok(set)
    };
    each.run(session, &args.each.vms, enable).await
}

/// `web: enabled`, `web: enabled already`.
pub(super) fn line(set: &AutostartSet, what: &str) -> String {
    let already = if set.already { " already" } else { "" };
    format!("{}: {what}{already}", set.vm)
}
