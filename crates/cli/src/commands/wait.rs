//! `maqet wait`: pushed news only, from the journal, from inotify, from sockets.

mod follow;
mod port;
mod serial;
mod snapshot;

use std::future::Future;
use std::pin::Pin;
use std::time::{Duration, Instant};

use futures_util::stream::{FuturesUnordered, StreamExt};
use maqet_protocol::control::VmStatus;
use maqet_state::lifecycle::Status;
use regex::bytes::Regex;
use serde::Serialize;
use tokio::sync::watch;

use super::status::describe;
use crate::args::condition::{self, Condition};
use crate::args::vm::WaitArgs;
use crate::error::CliError;
use crate::progress;
use crate::render::units;
use crate::session::Session;
use follow::Follower;
use snapshot::{Snapshot, Verdict};

/// What is waited for.
#[derive(Clone, Debug)]
pub(crate) struct Wanted {
    /// VMs, by name or id.
    pub(crate) vms: Vec<String>,
    /// Conditions on each of them.
    pub(crate) conditions: Vec<Condition>,
    /// One condition of one VM is enough.
    pub(crate) any: bool,
    /// Events after this cursor count; without it only those from now on.
    pub(crate) since: Option<u64>,
}

/// One condition that held.
#[derive(Debug, Serialize)]
pub(crate) struct Held {
    vm: String,
    condition: String,
    took_ms: u64,
}

type Waiting<'a> = Pin<Box<dyn Future<Output = Result<Held, CliError>> + 'a>>;

/// Waits until all conditions, or any, have held.
///
/// # Errors
/// [`CliError::Deadline`] after `--timeout`, and those of [`until`].
pub(crate) async fn run(session: &Session<'_>, args: &WaitArgs) -> Result<(), CliError> {
    let (vms, conditions) = condition::split(&args.words)
        .map_err(|message| CliError::usage(message, Some("maqet wait VM running --timeout 30s")))?;
    let wanted = Wanted {
        vms,
        conditions,
        any: args.any,
        since: None,
    };
    let label = format!("waiting for {}", words(&wanted));
    let waiting = progress::during(session.output, &label, until(session, &wanted));
    let held = match args.timeout {
        None => waiting.await?,
        Some(after) => match tokio::time::timeout(after, waiting).await {
            Ok(held) => held?,
            Err(_) => return Err(late(session, &wanted, after).await),
        },
    };
    for held in &held {
        let took = units::duration(Duration::from_millis(held.took_ms));
        session
            .output
            .detail(&format!("{}: {} ({took})", held.vm, held.condition))?;
    }
    let names = || {
        held.iter()
            .map(|held| held.vm.as_str())
            .collect::<Vec<_>>()
            .join("\n")
    };
    session.output.answer(&held, String::new, names)
}

/// Waits until all conditions, or any, have held; tells which, in the order in which they did.
///
/// # Errors
/// [`CliError::Ended`], [`CliError::Removed`] or [`CliError::Impossible`] as soon as a condition cannot hold any more,
/// [`CliError::Usage`] for a regular expression that is none, and those of the journal.
pub(crate) async fn until(session: &Session<'_>, wanted: &Wanted) -> Result<Vec<Held>, CliError> {
    let patterns = compile(&wanted.conditions)?;
    let reads_serial = patterns.iter().any(Option::is_some);
    let mut followers = Vec::new();
    for vm in &wanted.vms {
        followers.push(Follower::open(session, vm, wanted.since, reads_serial).await?);
    }
    let mut news = FuturesUnordered::new();
    let mut waiting = FuturesUnordered::new();
    for follower in followers {
        for (condition, pattern) in wanted.conditions.iter().zip(&patterns) {
            waiting.push(wait_for(session, &follower, condition, pattern.as_ref()));
        }
        news.push(follower.run());
    }
    let conditions = collect(&mut waiting, wanted.any);
    tokio::pin!(conditions);
    loop {
        tokio::select! {
            // A condition that holds counts even when the news have come to their end.
            biased;
            held = &mut conditions => return held,
            Some(ended) = news.next() => ended?,
        }
    }
}

/// With `any` the first that holds, and an error only when none can; otherwise all, or the first error.
async fn collect(waiting: &mut FuturesUnordered<Waiting<'_>>, any: bool) -> Result<Vec<Held>, CliError> {
    let mut held = Vec::new();
    let mut failure = None;
    while let Some(result) = waiting.next().await {
        match result {
            Ok(one) => held.push(one),
            Err(error) if !any => return Err(error),
            Err(error) => failure = failure.or(Some(error)),
        }
        if any && !held.is_empty() {
            return Ok(held);
        }
    }
    match failure {
        Some(error) if held.is_empty() => Err(error),
        Some(_) | None => Ok(held),
    }
}

fn wait_for<'a>(
    session: &'a Session<'_>,
    follower: &Follower<'_>,
    condition: &'a Condition,
    pattern: Option<&'a Regex>,
) -> Waiting<'a> {
    let begun = Instant::now();
    let watched = Watched {
        session,
        vm: follower.name().to_owned(),
        news: follower.news(),
    };
    Box::pin(async move {
        let vm = watched.vm.clone();
        match (condition, pattern) {
            (Condition::Serial(_), Some(pattern)) => serial::matches(watched, condition, pattern).await?,
            (Condition::Port(port), _) => port::answers(watched, condition, *port).await?,
            (Condition::File(path), _) => crate::watch::exists(path).await?,
            (Condition::Agent, _) => return Err(no_agent(vm)),
            _ => watched.judge(condition).await?,
        }
        Ok(Held {
            vm,
            condition: condition.to_string(),
            took_ms: super::stop::millis(begun.elapsed()),
        })
    })
}

/// One VM as a condition sees it.
#[derive(Debug)]
struct Watched<'a> {
    session: &'a Session<'a>,
    vm: String,
    news: watch::Receiver<Snapshot>,
}

impl Watched<'_> {
    /// Waits until what the journal tells makes the condition hold, or impossible.
    async fn judge(mut self, condition: &Condition) -> Result<(), CliError> {
        loop {
            let verdict = self.news.borrow_and_update().judge(condition);
            match verdict {
                Verdict::Holds => return Ok(()),
                Verdict::Hopeless => return Err(self.hopeless(condition).await),
                Verdict::Open => self.changed().await?,
            }
        }
    }

    /// Waits for news.
    async fn changed(&mut self) -> Result<(), CliError> {
        // The sender lives as long as this future is polled; were it gone, there would be nothing to wait for.
        match self.news.changed().await {
            Ok(()) => Ok(()),
            Err(_) => std::future::pending().await,
        }
    }

    /// Why the condition cannot hold any more.
    async fn hopeless(&self, condition: &Condition) -> CliError {
        if self.news.borrow().removed {
            return CliError::Removed {
                vm: self.vm.clone(),
                condition: condition.to_string(),
            };
        }
        match describe(self.session, &self.vm).await {
            Ok(status) => CliError::Ended {
                vm: self.vm.clone(),
                condition: condition.to_string(),
                state: units::word(&status.summary.status),
                last_exit: status.summary.last_exit,
            },
            Err(error) => error,
        }
    }
}

fn no_agent(vm: String) -> CliError {
    CliError::Impossible {
        vm,
        reason: "this version has no guest agent channel".to_owned(),
        hint: Some("wait for `serial=REGEX` or `port=N` instead".to_owned()),
    }
}

fn compile(conditions: &[Condition]) -> Result<Vec<Option<Regex>>, CliError> {
    let compiled = conditions.iter().map(|condition| match condition {
        Condition::Serial(pattern) => Regex::new(pattern).map(Some).map_err(|error| {
            CliError::usage(
                format!("`{condition}` is not a regular expression: {error}"),
                None,
            )
        }),
        Condition::Running
        | Condition::Stopped
        | Condition::Failed
        | Condition::Exit
        | Condition::Port(_)
        | Condition::Agent
        | Condition::File(_)
        | Condition::Event(_) => Ok(None),
    });
    compiled.collect()
}

async fn late(session: &Session<'_>, wanted: &Wanted, after: Duration) -> CliError {
    let vm = match wanted.vms.as_slice() {
        [vm] => Some(vm.clone()),
        [] | [_, _, ..] => None,
    };
    // A state to tell would be nice; a supervisor that does not answer must not make the deadline longer.
    let asked = async { describe(session, vm.as_deref()?).await.ok() };
    let status: Option<VmStatus> = tokio::time::timeout(STATE_DEADLINE, asked).await.ok().flatten();
    CliError::Deadline {
        what: format!("the wait for {}", words(wanted)),
        after,
        state: status.map(|status| units::word(&status.summary.status)),
        hint: vm.as_ref().map(|vm| format!("maqet why {vm}")),
        vm,
    }
}

/// Time to ask for the state that a missed deadline is told with.
const STATE_DEADLINE: Duration = Duration::from_secs(1);

fn words(wanted: &Wanted) -> String {
    let conditions: Vec<String> = wanted
        .conditions
        .iter()
        .map(|condition| format!("`{condition}`"))
        .collect();
    let joint = if wanted.any { " or " } else { ", " };
    format!("{} of {}", conditions.join(joint), wanted.vms.join(", "))
}

/// Whether a VM in this state has ended and nothing is being done about it.
fn has_ended(status: Status) -> bool {
    match status {
        Status::Stopped | Status::Failed => true,
        Status::Created | Status::Running => false,
    }
}

#[cfg(test)]
mod tests;
