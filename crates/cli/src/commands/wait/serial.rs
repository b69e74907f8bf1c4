//! `serial=REGEX`: what the guest printed since it was started.

use maqet_protocol::control::Info;
use regex::bytes::Regex;

use super::Watched;
use crate::args::condition::Condition;
use crate::commands::status::describe;
use crate::error::CliError;
use crate::tail::Tail;
use crate::watch::Watch;

/// Text that is kept to match against: a match longer than this is not found.
const TEXT_BYTES_MAX: usize = 256 * 1024;

/// Waits until the present run, or the next one, has printed a match.
///
/// # Errors
/// [`CliError::Ended`] when the run ended without one, [`CliError::Impossible`] when nothing is logged.
pub(super) async fn matches(
    mut watched: Watched<'_>,
    condition: &Condition,
    pattern: &Regex,
) -> Result<(), CliError> {
    let info = watched
        .session
        .ask(&Info {
            vm: watched.vm.clone(),
        })
        .await?;
    if !info.spec.serial.log {
        return Err(CliError::Impossible {
            vm: watched.vm,
            reason: "its serial port is not logged (`serial.log: false`)".to_owned(),
            hint: None,
        });
    }
    let path = describe(watched.session, &watched.vm).await?.logs.serial;
    let mut watch = Watch::on(&path)?;
    loop {
        let run = watched.news.borrow_and_update().clone();
        let mut text = Printed {
            tail: Tail::open(&path, run.serial_offset)?,
            text: Vec::new(),
        };
        match search(&mut watched, &mut watch, &mut text, pattern, run.runs).await? {
            Search::Found => return Ok(()),
            Search::Ended => return Err(watched.hopeless(condition).await),
            Search::NewRun => {}
        }
    }
}

/// What came of one run.
enum Search {
    Found,
    Ended,
    NewRun,
}

/// Searches what one run prints, until it is found or the run is over.
async fn search(
    watched: &mut Watched<'_>,
    watch: &mut Watch,
    text: &mut Printed,
    pattern: &Regex,
    run: u64,
) -> Result<Search, CliError> {
    loop {
        // The news are read before the log: what was printed before an end is there when the end is known.
        let now = watched.news.borrow_and_update().clone();
        if text.matches(pattern)? {
            return Ok(Search::Found);
        }
        if now.runs != run {
            return Ok(Search::NewRun);
        }
        if now.ended.is_some() || now.removed {
            return Ok(Search::Ended);
        }
        tokio::select! {
            changed = watch.changed() => changed?,
            changed = watched.changed() => changed?,
        }
    }
}

/// What a run has printed so far.
struct Printed {
    tail: Tail,
    text: Vec<u8>,
}

impl Printed {
    /// Reads on to the end; true at the first match.
    fn matches(&mut self, pattern: &Regex) -> Result<bool, CliError> {
        loop {
            let part = self.tail.read()?;
            if part.is_empty() {
                return Ok(false);
            }
            self.text.extend_from_slice(&part);
            if pattern.is_match(&self.text) {
                return Ok(true);
            }
            let surplus = self.text.len().saturating_sub(TEXT_BYTES_MAX);
            self.text.drain(..surplus);
        }
    }
}
