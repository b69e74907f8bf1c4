//! `maqet cleanup`.

use std::io::{self, IsTerminal};

use maqet_protocol::control::{Leak, LeakReport, Leaks, List, Repair};
use serde::Serialize;

use super::doctor::boot;
use crate::args::doctor::CleanupArgs;
use crate::error::CliError;
use crate::render::units;
use crate::session::Session;

/// What is left over, and what became of it.
#[derive(Debug, Serialize)]
struct Answer {
    dry_run: bool,
    /// VMs of a `doctor --boot` that was killed.
    vms: Vec<String>,
    /// What nobody has; still there in the end, unless this was only a look.
    leaks: Vec<Leak>,
    /// What was done, in order.
    actions: Vec<Repair>,
}

/// Takes leftovers away once that is confirmed.
///
/// # Errors
/// The refusal; [`CliError::Usage`] when it is neither confirmed nor can be; [`CliError::Declined`]; [`CliError::Unhealthy`]
/// when something stays.
pub(crate) async fn run(session: &Session<'_>, args: &CleanupArgs) -> Result<(), CliError> {
    let found = look(session).await?;
    if found.vms.is_empty() && found.leaks.is_empty() {
        session.output.say("nothing to clean up")?;
        return answer(session, &found);
    }
    if args.dry_run {
        return answer(
            session,
            &Answer {
                dry_run: true,
                ..found
            },
        );
    }
    if !args.force {
        confirm(session, &found)?;
    }
    let vms = boot::remove_forsaken(session).await?;
    let order = Leaks {
        fix: true,
        logs: true,
    };
    let LeakReport { leaks, actions, .. } = session.ask(&order).await?;
    let count = u64::try_from(leaks.len()).unwrap_or(u64::MAX);
    let left = Answer {
        dry_run: false,
        vms,
        leaks,
        actions,
    };
    answer(session, &left)?;
    if count == 0 {
        return Ok(());
    }
    Err(CliError::Unhealthy {
        what: units::count(count, "thing stays", "things stay") + " that nobody has",
        hint: Some("maqet doctor --leaks says why".to_owned()),
    })
}

async fn look(session: &Session<'_>) -> Result<Answer, CliError> {
    let listed = session.ask(&List { status: None }).await?.vms;
    let vms = boot::forsaken(&listed).map(|vm| vm.name.clone()).collect();
    let leaks = session.ask(&Leaks::default()).await?.leaks;
    Ok(Answer {
        dry_run: false,
        vms,
        leaks,
        actions: Vec::new(),
    })
}

fn confirm(session: &Session<'_>, found: &Answer) -> Result<(), CliError> {
    if !io::stdin().is_terminal() || !io::stderr().is_terminal() {
        return Err(CliError::usage(
            "`cleanup` asks for confirmation, and there is no terminal to ask on",
            Some("maqet cleanup --dry-run, then maqet cleanup --force"),
        ));
    }
    session.output.say(&listed(found))?;
    session
        .output
        .confirm("take away what of this is provably maqet's and dead?")
}

fn answer(session: &Session<'_>, found: &Answer) -> Result<(), CliError> {
    let names = || {
        found
            .leaks
            .iter()
            .map(|leak| leak.what.as_str())
            .collect::<Vec<_>>()
            .join("\n")
    };
    session.output.answer(
        found,
        || if found.dry_run { listed(found) } else { done(found) },
        names,
    )
}

fn listed(found: &Answer) -> String {
    let vms = found
        .vms
        .iter()
        .map(|vm| format!("vm {vm}: left by a `doctor --boot` that was killed"));
    let leaks = found
        .leaks
        .iter()
        .map(|leak| format!("{} {}: {}", units::word(&leak.kind), leak.what, leak.detail));
    vms.chain(leaks).collect::<Vec<_>>().join("\n")
}

fn done(found: &Answer) -> String {
    let vms = found.vms.iter().map(|vm| format!("vm {vm}: removed"));
    let actions = found
        .actions
        .iter()
        .map(|action| format!("{} {}: {}", units::word(&action.kind), action.what, action.detail));
    vms.chain(actions).collect::<Vec<_>>().join("\n")
}
