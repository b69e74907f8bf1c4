//! One operation on several VMs at once: all are attempted, each is told when it ends.

use std::future::Future;

use futures_util::stream::{self, StreamExt};
use serde::Serialize;

use crate::args::Format;
use crate::error::CliError;
use crate::progress;
use crate::session::Session;

/// Operations under way at once, each on a connection of its own.
const AT_ONCE_MAX: usize = 64;

/// Where the line about one VM belongs when the answer is for people.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lines {
    /// The result is what was asked for.
    Data,
    /// The result is a remark.
    Talk,
}

/// How results are shown.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Each<T> {
    /// What is going on, for the progress line.
    pub(crate) doing: &'static str,
    /// The line about one VM.
    pub(crate) line: fn(&T) -> String,
    /// Its name.
    pub(crate) name: fn(&T) -> String,
    /// Where the line belongs.
    pub(crate) lines: Lines,
}

impl<T: Serialize> Each<T> {
    /// Works on every VM and answers with the list of results, in the order of `vms`.
    ///
    /// # Errors
    /// The error of the only VM; with several, [`CliError::Several`] after every error was reported.
    pub(crate) async fn run<F, W>(
        &self,
        session: &Session<'_>,
        vms: &[String],
        work: F,
    ) -> Result<(), CliError>
    where
        F: Fn(String) -> W,
        W: Future<Output = Result<T, CliError>>,
    {
        let label = label(self.doing, vms);
        let all = self.work_on_all(session, vms, work);
        let results = progress::during(session.output, &label, all).await?;
        let total = results.len();
        let mut done = Vec::new();
        let mut errors = Vec::new();
        for result in results {
            match result {
                Ok(value) => done.push(value),
                Err(error) => errors.push(error),
            }
        }
        let failed = errors.len();
        let first = errors.into_iter().next();
        self.answer(session, &done, first.is_none())?;
        match first {
            None => Ok(()),
            Some(error) if total == 1 => Err(error),
            Some(error) => Err(CliError::Several {
                failed,
                total,
                exit: error.exit(),
            }),
        }
    }

    /// The results in the order of `vms`; each was told about when it came.
    async fn work_on_all<F, W>(
        &self,
        session: &Session<'_>,
        vms: &[String],
        work: F,
    ) -> Result<Vec<Result<T, CliError>>, CliError>
    where
        F: Fn(String) -> W,
        W: Future<Output = Result<T, CliError>>,
    {
        let under_way = vms.iter().enumerate().map(|(place, vm)| {
            let working = work(vm.clone());
            async move { (place, working.await) }
        });
        let mut under_way = stream::iter(under_way).buffer_unordered(AT_ONCE_MAX);
        let mut results = Vec::new();
        while let Some((place, result)) = under_way.next().await {
            match &result {
                Ok(value) => self.tell(session, value)?,
                Err(error) if vms.len() > 1 => session.output.error(error)?,
                Err(_) => {}
            }
            results.push((place, result));
        }
        results.sort_by_key(|(place, _)| *place);
        Ok(results.into_iter().map(|(_, result)| result).collect())
    }

    fn tell(&self, session: &Session<'_>, value: &T) -> Result<(), CliError> {
        let output = session.output;
        match (output.format(), self.lines) {
            (Format::Table, Lines::Data) => output.data(&(self.line)(value)),
            (Format::Table, Lines::Talk) => output.say(&(self.line)(value)),
            (Format::Json | Format::Yaml | Format::Name, _) => Ok(()),
        }
    }

    /// The list for programs. A list that would be empty only because everything failed is left out.
    fn answer(&self, session: &Session<'_>, done: &[T], complete: bool) -> Result<(), CliError> {
        if done.is_empty() && !complete {
            return Ok(());
        }
        let names = || done.iter().map(self.name).collect::<Vec<_>>().join("\n");
        session.output.answer(&done, String::new, names)
    }
}

fn label(doing: &str, vms: &[String]) -> String {
    match vms {
        [vm] => format!("{doing} {vm}"),
        [] | [_, _, ..] => format!("{doing} {} VMs", vms.len()),
    }
}

/// For `--strict`: what is so already is an error.
///
/// # Errors
/// [`CliError::Already`].
pub(crate) fn forbid(already: bool, strict: bool, vm: &str, state: &str) -> Result<(), CliError> {
    if already && strict {
        return Err(CliError::Already {
            vm: vm.to_owned(),
            state: state.to_owned(),
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests;
