//! `maqet doctor`: is everything here that VMs need?

mod backups;
mod disks;
mod host;
mod kernel;
mod places;
mod supervised;
mod virtiofsd;

use std::fmt::Display;

use serde::Serialize;

use crate::error::CliError;
use crate::progress;
use crate::render::table;
use crate::session::Session;

const HEADER: [&str; 4] = ["CHECK", "", "WHAT", "WHERE"];

/// How a check went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Outcome {
    /// As it should be.
    Ok,
    /// VMs run, but not as well as they could, or something wants attention.
    Warn,
    /// Something does not work.
    Fail,
}

impl Outcome {
    fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warn => "warn",
            Self::Fail => "FAIL",
        }
    }
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Check {
    /// Its short name; the same in every run.
    #[serde(rename = "check")]
    pub(super) name: &'static str,
    /// How it went.
    pub(super) outcome: Outcome,
    /// What was found.
    pub(super) what: String,
    /// Where: a file, a directory, a VM.
    #[serde(rename = "where")]
    pub(super) place: Option<String>,
    /// What to do.
    pub(super) hint: Option<String>,
}

impl Check {
    pub(super) fn new(name: &'static str, outcome: Outcome, what: impl Into<String>) -> Self {
        Self {
            name,
            outcome,
            what: what.into(),
            place: None,
            hint: None,
        }
    }

    #[must_use]
    pub(super) fn at(mut self, place: &dyn Display) -> Self {
        self.place = Some(place.to_string());
        self
    }

    #[must_use]
    pub(super) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

/// All checks, and how many went how.
#[derive(Debug, Serialize)]
struct Examination {
    checks: Vec<Check>,
    summary: Summary,
}

#[derive(Debug, Serialize)]
struct Summary {
    ok: usize,
    warn: usize,
    fail: usize,
}

impl Examination {
    fn of(checks: Vec<Check>) -> Self {
        let count = |outcome| checks.iter().filter(|check| check.outcome == outcome).count();
        let summary = Summary {
            ok: count(Outcome::Ok),
            warn: count(Outcome::Warn),
            fail: count(Outcome::Fail),
        };
        Self { checks, summary }
    }
}

/// Runs every check. Those that need the supervisor are left out when none answers; that is then one of the failures.
///
/// # Errors
/// [`CliError::Unhealthy`] when a check failed.
pub(super) async fn run(session: &Session<'_>) -> Result<(), CliError> {
    let checks = progress::during(session.output, "examining", all(session)).await;
    let examination = Examination::of(checks);
    session
        .output
        .answer(&examination, || text(&examination), || names(&examination))?;
    match examination.summary.fail {
        0 => Ok(()),
        1 => Err(unhealthy("one check failed")),
        count => Err(unhealthy(&format!("{count} checks failed"))),
    }
}

async fn all(session: &Session<'_>) -> Vec<Check> {
    let mut checks = host::programs().await;
    checks.extend(kernel::features());
    checks.extend(host::limits());
    checks.extend(places::directories(session.settings));
    checks.extend(supervised::checks(session).await);
    checks
}

fn unhealthy(what: &str) -> CliError {
    CliError::Unhealthy {
        what: what.to_owned(),
        hint: None,
    }
}

fn names(examination: &Examination) -> String {
    let failed = examination
        .checks
        .iter()
        .filter(|check| check.outcome == Outcome::Fail);
    failed.map(|check| check.name).collect::<Vec<_>>().join("\n")
}

fn text(examination: &Examination) -> String {
    let rows = examination.checks.iter().map(|check| {
        vec![
            check.name.to_owned(),
            check.outcome.word().to_owned(),
            check.what.replace('\n', " | "),
            check.place.clone().unwrap_or_default(),
        ]
    });
    let mut parts = vec![table::columns(&HEADER, rows)];
    let hints = examination
        .checks
        .iter()
        .filter_map(|check| Some((check.name, check.hint.as_ref()?)));
    parts.extend(hints.map(|(check, hint)| format!("hint: {check}: {hint}")));
    let Summary { ok, warn, fail } = &examination.summary;
    let plural = if *warn == 1 { "" } else { "s" };
    parts.push(format!("{ok} ok, {warn} warning{plural}, {fail} failed"));
    parts.join("\n")
}

#[cfg(test)]
mod tests {
    use super::{Check, Examination, Outcome, names, text};

    #[test]
    fn a_table_with_hints_below() {
        let checks = vec![
            Check::new("qemu", Outcome::Ok, "QEMU emulator version 7.2").at(&"/usr/bin/qemu-system-x86_64"),
            Check::new("kvm", Outcome::Warn, "a test guest hangs under kvm").hint("VMs run under tcg"),
            Check::new("supervisor", Outcome::Fail, "none answers"),
        ];
        let examination = Examination::of(checks);
        insta::assert_snapshot!(text(&examination), @"
        CHECK             WHAT                          WHERE
        qemu        ok    QEMU emulator version 7.2     /usr/bin/qemu-system-x86_64
        kvm         warn  a test guest hangs under kvm
        supervisor  FAIL  none answers
        hint: kvm: VMs run under tcg
        1 ok, 1 warning, 1 failed
        ");
        assert_eq!(names(&examination), "supervisor");
    }
}
