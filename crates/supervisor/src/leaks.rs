//! Proof that nothing is left: what is on record against what there is.
//!
//! [`known`] asks every VM's owner what it has, [`seen`] looks at processes and directories, [`judge`] (pure) compares,
//! [`fix`] takes away what is provably ours and dead. Everything changes while it is looked at, so owners are asked
//! before and after each look, and only what no answer explains, twice, is a leak. A VM that something is being done to
//! explains all that is its own. Nothing is signalled by what is merely seen: a process ends only if the ledger has its
//! identity, and nobody has it.

mod fix;
mod judge;
mod known;
mod ports;
mod seen;

use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::{Duration, Instant};

use actix::Addr;
use maqet_process::pidfd::ProcessHandle;
use maqet_protocol::control::{Leak, LeakKind, LeakReport, Leaks, LookedAt};
use maqet_protocol::refusal::{Refusal, RefusalCode};

use self::judge::{Key, Suspect};
pub(crate) use self::known::Held;
use self::known::Known;
use self::seen::Seen;
use crate::shared::Shared;
use crate::supervisor::SupervisorActor;

/// What nobody holds but ends by itself within this time is on its way out: a gated runner whose supervisor died, say.
const LEAVING_GRACE: Duration = Duration::from_secs(2);

/// Everything unexplained, by what it is.
type Suspects = BTreeMap<Key, Suspect>;

/// Looks, repairs if asked to, and looks again.
pub(crate) async fn answer(
    order: Leaks,
    supervisor: Addr<SupervisorActor>,
    shared: Rc<Shared>,
) -> Result<LeakReport, Refusal> {
    let begun = Instant::now();
    let (mut suspects, mut looked_at) = look(&supervisor, &shared).await?;
    let mut actions = Vec::new();
    if order.fix && !suspects.is_empty() {
        actions = fix::repair(&suspects, order.logs, &shared).await;
        (suspects, looked_at) = look(&supervisor, &shared).await?;
    }
    looked_at.took_ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
    let leaks = suspects.into_values().map(Leak::from).collect();
    Ok(LeakReport {
        leaks,
        looked_at,
        actions,
    })
}

/// What is unexplained in two looks; one is enough when it shows nothing.
async fn look(
    supervisor: &Addr<SupervisorActor>,
    shared: &Rc<Shared>,
) -> Result<(Suspects, LookedAt), Refusal> {
    let (first, looked_at) = glance(supervisor, shared).await?;
    if first.is_empty() {
        return Ok((first, looked_at));
    }
    let_leave(&first).await;
    let (mut second, looked_at) = glance(supervisor, shared).await?;
    second.retain(|key, _suspect| first.contains_key(key));
    Ok((second, looked_at))
}

/// One look, explained by what was known before it or after it.
async fn glance(
    supervisor: &Addr<SupervisorActor>,
    shared: &Rc<Shared>,
) -> Result<(Suspects, LookedAt), Refusal> {
    let before = Known::ask(supervisor, shared).await?;
    let places = shared.places.clone();
    let recorded = before.clone();
    let seen = tokio::task::spawn_blocking(move || Seen::look(&places, &recorded)).await;
    let seen = seen
        .map_err(|panic| failed(&panic))?
        .map_err(|error| failed(&error))?;
    let after = Known::ask(supervisor, shared).await?;
    let mut suspects = judge::judge(&after, &seen);
    let earlier = judge::judge(&before, &seen);
    suspects.retain(|key, _suspect| earlier.contains_key(key));
    Ok((suspects, looked_at(&after, &seen)))
}

/// Gives processes that are ending the time to end.
async fn let_leave(suspects: &Suspects) {
    let processes = suspects
        .values()
        .filter(|suspect| suspect.kind == LeakKind::Process);
    let handles: Vec<_> = processes
        .filter_map(|suspect| ProcessHandle::open(suspect.pid?).ok().flatten())
        .collect();
    let ended = futures_util::future::join_all(handles.iter().map(ProcessHandle::exited));
    // Those that stay are what is looked for.
    drop(tokio::time::timeout(LEAVING_GRACE, ended).await);
}

fn looked_at(known: &Known, seen: &Seen) -> LookedAt {
    let count = |number: usize| u64::try_from(number).unwrap_or(u64::MAX);
    LookedAt {
        vms: count(known.vms.len()),
        busy: count(known.vms.values().filter(|held| held.busy).count()),
        processes: count(seen.processes.len()),
        ledger: count(seen.lines.len()),
        directories: count(seen.directories.len()),
        sockets: count(seen.sockets()),
        ports: count(seen.ports()),
        took_ms: 0,
    }
}

fn failed(error: &dyn std::error::Error) -> Refusal {
    Refusal::new(RefusalCode::Internal, "cannot look for leaks").cause(crate::link::chain(error))
}
