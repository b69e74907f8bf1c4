//! `maqet state verify`.

use std::path::PathBuf;

use maqet_protocol::control::StateVerify;
use maqet_state::examination::{Examination, JournalWalk};
use serde::Serialize;

use super::{Teller, present, teller, unreadable};
use crate::args::state::LookArgs;
use crate::error::CliError;
use crate::progress;
use crate::render::table;
use crate::session::{OPERATION_DEADLINE, Session};

/// The answer.
#[derive(Debug, Serialize)]
struct Verified {
    file: PathBuf,
    #[serde(flatten)]
    examination: Examination,
}

/// Examines the present store or a copy.
///
/// # Errors
/// [`CliError::Unhealthy`] when something does not fit; those of [`teller`]; the refusal.
pub(crate) async fn run(session: &Session<'_>, args: &LookArgs) -> Result<(), CliError> {
    let verified = match teller(session, args.file.as_deref()).await? {
        Teller::Supervisor => {
            let examining = session.repeat(&StateVerify {}, OPERATION_DEADLINE);
            Verified {
                file: present(session),
                examination: progress::during(session.output, "examining the store", examining).await?,
            }
        }
        Teller::File(viewed) => {
            let file = viewed.store.path().to_owned();
            let examined = viewed.store.examine();
            let mut examination = examined.map_err(|error| unreadable(file.clone(), error))?;
            examination.schema = viewed.schema;
            Verified { file, examination }
        }
    };
    session
        .output
        .answer(&verified, || text(&verified), || names(&verified.examination))?;
    match told(&verified.examination) {
        0 => Ok(()),
        1 => Err(unsound("one thing in the store does not fit")),
        count => Err(unsound(&format!("{count} things in the store do not fit"))),
    }
}

fn told(examination: &Examination) -> u64 {
    let told = u64::try_from(examination.findings.len()).unwrap_or(u64::MAX);
    told.saturating_add(examination.left_out)
}

fn unsound(what: &str) -> CliError {
    CliError::Unhealthy {
        what: what.to_owned(),
        hint: None,
    }
}

fn text(verified: &Verified) -> String {
    let Verified { file, examination } = verified;
    let mut rows = vec![
        ("file", file.display().to_string()),
        ("schema", examination.schema.to_string()),
        ("vms", examination.vms.to_string()),
        ("ledger", examination.ledger.to_string()),
        ("answers", examination.answers.to_string()),
        ("journal", journal(&examination.journal)),
    ];
    let found = match told(examination) {
        0 => "nothing; every page was checked".to_owned(),
        count => count.to_string(),
    };
    let lines = examination
        .findings
        .iter()
        .map(|found| format!("{} `{}`: {}", found.table, found.key, found.what));
    let lines: Vec<String> = std::iter::once(found).chain(lines).collect();
    rows.push(("found", lines.join("\n")));
    table::block(&rows)
}

/// How far the chain holds, in one line.
pub(crate) fn journal(walk: &JournalWalk) -> String {
    let kept = if walk.cursor > walk.pruned {
        format!("entries {} to {} hold", walk.pruned + 1, walk.cursor)
    } else {
        "no entry".to_owned()
    };
    match walk.broken_at {
        Some(cursor) => format!("{kept}, broken at entry {cursor}"),
        None => kept,
    }
}

fn names(examination: &Examination) -> String {
    let names = examination
        .findings
        .iter()
        .map(|found| format!("{}:{}", found.table, found.key));
    names.collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use maqet_state::examination::Finding;

    use super::*;

    #[test]
    fn what_was_found_is_listed() {
        let journal = JournalWalk {
            pruned: 3,
            cursor: 9,
            hash: "ab".repeat(32),
            broken_at: Some(10),
        };
        let finding = Finding {
            table: "vms".to_owned(),
            key: "1".to_owned(),
            what: "has no secret".to_owned(),
        };
        let examination = Examination {
            schema: 2,
            vms: 1,
            ledger: 0,
            answers: 4,
            journal,
            findings: vec![finding],
            left_out: 2,
        };
        let verified = Verified {
            file: "/d/state.redb".into(),
            examination,
        };
        insta::assert_snapshot!(text(&verified), @"
        file:    /d/state.redb
        schema:  2
        vms:     1
        ledger:  0
        answers: 4
        journal: entries 4 to 9 hold, broken at entry 10
        found:   3
                 vms `1`: has no secret
        ");
        assert_eq!(names(&verified.examination), "vms:1");
    }
}
