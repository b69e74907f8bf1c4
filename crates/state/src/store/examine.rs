//! Examining a store: does everything in it fit together? And its rows, as people read them.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;
use std::path::Path;

use redb::{ReadTransaction, ReadableTable, ReadableTableMetadata, TableHandle};
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::commit::{ANSWERS_MAX, ledger_key};
use super::handle::Handle;
use super::schema::{
    ANSWER_ORDER, ANSWERS, Answer, JOURNAL, LEDGER, META, META_SCHEMA, NAMES, SCHEMA_VERSION, SECRETS, TEXT,
    VMS, Versioned, decode, decode_bytes, meta,
};
use super::{Store, chain, create, migrate};
use crate::error::StoreError;
use crate::examination::{Examination, Finding, JournalWalk, Row};
use crate::id::VmId;
use crate::journal::{JournalEntry, JournalLimits};
use crate::ledger::LedgerEntry;
use crate::record::VmRecord;

/// What the fingerprint of a secret is derived for: it tells two secrets apart and nothing else.
const FINGERPRINT: &str = "maqet 2026 fingerprint of a stored secret";

/// Name of the table whose values are keys.
const ORDER: &str = "answer_order";

/// Letters of a fingerprint.
const FINGERPRINT_LETTERS: usize = 16;

/// A store in a file that is left as it is.
#[derive(Debug)]
pub struct Viewed {
    /// The store; it takes no commits.
    pub store: Store,
    /// Schema of the file. An older one is read as the present one.
    pub schema: u32,
}

impl Store {
    /// Opens a file that nobody has open, with every page checked, and never writes to it. What is written while an
    /// older schema is read as the present one stays in memory.
    ///
    /// # Errors
    /// As [`Store::open`]; also when there is no such file.
    pub fn view(path: &Path) -> Result<Viewed, StoreError> {
        let db = create::open_view(path)?;
        let schema = migrate::schema_of(&db, path)?;
        if schema > SCHEMA_VERSION {
            return Err(migrate::too_new(path, schema));
        }
        migrate::climb(&db, schema)?;
        Ok(Viewed {
            store: Self::of(Handle::only_read(db, path), JournalLimits::default()),
            schema,
        })
    }

    /// Checks every page of the open file. Everything else that needs the store waits meanwhile: 0.3 s for 36 MB
    /// in a debug build.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`]: nothing can be read or written any more, and nothing is repaired.
    pub fn check_pages(&self) -> Result<(), StoreError> {
        self.inner.file.check()
    }

    /// Whether everything in the store can be read and fits together.
    ///
    /// # Errors
    /// [`StoreError`] when the examination could not be carried out.
    pub fn examine(&self) -> Result<Examination, StoreError> {
        self.read(examine)
    }

    /// As [`Store::verify_journal`], but a broken chain is an answer.
    ///
    /// # Errors
    /// [`StoreError`] when it cannot be read.
    pub fn walk_journal(&self) -> Result<JournalWalk, StoreError> {
        self.read(chain::walk)
    }

    /// All rows but the journal's, which [`Store::journal_rows`] reads, all of one moment.
    ///
    /// # Errors
    /// [`StoreError`] when a table cannot be read.
    pub fn rows(&self) -> Result<Vec<Row>, StoreError> {
        self.read(rows)
    }

    /// At most `limit` rows of the journal after the cursor `since`, as they are stored, and the cursor of the last one.
    ///
    /// # Errors
    /// [`StoreError`] when the table cannot be read.
    pub fn journal_rows(&self, since: u64, limit: usize) -> Result<(Vec<Row>, u64), StoreError> {
        self.read(|txn| {
            let mut last = since;
            let mut rows = Vec::new();
            for row in txn.open_table(JOURNAL)?.range(since + 1..)?.take(limit) {
                let (cursor, bytes) = row?;
                last = cursor.value();
                rows.push(row_of(JOURNAL.name(), last.to_string(), bytes.value()));
            }
            Ok((rows, last))
        })
    }
}

/// What was found so far.
#[derive(Debug, Default)]
struct Findings {
    told: Vec<Finding>,
    left_out: u64,
}

impl Findings {
    fn add(&mut self, table: &str, key: impl Display + Copy, what: impl Into<String>) {
        if self.told.len() >= Examination::FINDINGS_MAX {
            self.left_out += 1;
            return;
        }
        self.told.push(Finding {
            table: table.to_owned(),
            key: key.to_string(),
            what: what.into(),
        });
    }

    /// The value, or a finding about it.
    fn readable<T: DeserializeOwned>(
        &mut self,
        table: &'static str,
        key: impl Display + Copy,
        bytes: &[u8],
    ) -> Option<T> {
        decode(table, key, bytes)
            .map_err(|error| self.add(table, key, unreadable(&error)))
            .ok()
    }
}

fn unreadable(error: &StoreError) -> String {
    if let StoreError::Value { source, .. } = error {
        return format!("cannot be read: {source}");
    }
    error.to_string()
}

fn examine(txn: &ReadTransaction) -> Result<Examination, StoreError> {
    let mut found = Findings::default();
    let vms = vms(txn, &mut found)?;
    names(txn, &vms, &mut found)?;
    secrets(txn, &vms, &mut found)?;
    let answers = answers(txn, &mut found)?;
    let ledger = ledger(txn, &mut found)?;
    let journal = journal(txn, &mut found)?;
    Ok(Examination {
        schema: meta(&txn.open_table(META)?, META_SCHEMA)?.unwrap_or_default(),
        vms: count(vms.len()),
        ledger,
        answers,
        journal,
        findings: found.told,
        left_out: found.left_out,
    })
}

fn count(number: usize) -> u64 {
    u64::try_from(number).unwrap_or(u64::MAX)
}

/// The name of every VM whose record can be read; `None` where it cannot.
type Names = BTreeMap<String, Option<String>>;

fn vms(txn: &ReadTransaction, found: &mut Findings) -> Result<Names, StoreError> {
    let mut names = Names::new();
    for row in txn.open_table(VMS)?.iter()? {
        let (id, bytes) = row?;
        let record: Option<VmRecord> = found.readable("vms", id.value(), bytes.value());
        if let Some(record) = &record {
            check_record(id.value(), record, found);
        }
        let name = record.map(|record| record.name().to_owned());
        names.insert(id.value().to_owned(), name);
    }
    Ok(names)
}

fn check_record(id: &str, record: &VmRecord, found: &mut Findings) {
    if record.id.as_str() != id {
        found.add("vms", id, format!("says that its id is {}", record.id));
    }
    let launch = record.state.launch();
    if let Some(launch) = launch.filter(|launch| launch.generation != record.generation) {
        let (launch, own) = (launch.generation, record.generation);
        found.add(
            "vms",
            id,
            format!("is at launch {own}, and runs as launch {launch}"),
        );
    }
}

/// Every name leads to the VM that has it, and every VM has its name.
fn names(txn: &ReadTransaction, vms: &Names, found: &mut Findings) -> Result<(), StoreError> {
    let mut led_to = BTreeSet::new();
    for row in txn.open_table(NAMES)?.iter()? {
        let (name, bytes) = row?;
        let Some(id) = found.readable::<VmId>("names", name.value(), bytes.value()) else {
            continue;
        };
        match vms.get(id.as_str()) {
            None => found.add(
                "names",
                name.value(),
                format!("leads to {id}, which is not stored"),
            ),
            Some(Some(other)) if other != name.value() => {
                found.add(
                    "names",
                    name.value(),
                    format!("leads to {id}, which is named `{other}`"),
                );
            }
            Some(_) => {
                led_to.insert(id.as_str().to_owned());
            }
        }
    }
    for (id, name) in vms.iter().filter(|(id, _)| !led_to.contains(*id)) {
        if let Some(name) = name {
            found.add("vms", id, format!("its name `{name}` does not lead to it"));
        }
    }
    Ok(())
}

/// Every VM has a secret, and nobody else.
fn secrets(txn: &ReadTransaction, vms: &Names, found: &mut Findings) -> Result<(), StoreError> {
    let table = txn.open_table(SECRETS)?;
    for row in table.iter()? {
        let (id, bytes) = row?;
        if let Err(error) = decode_bytes("secrets", id.value(), bytes.value()) {
            found.add("secrets", id.value(), error.to_string());
        }
        if !vms.contains_key(id.value()) {
            found.add("secrets", id.value(), "belongs to a VM that is not stored");
        }
    }
    for id in vms.keys() {
        if table.get(id.as_str())?.is_none() {
            found.add("vms", id, "has no secret");
        }
    }
    Ok(())
}

/// Answers and their order are the same set.
fn answers(txn: &ReadTransaction, found: &mut Findings) -> Result<u64, StoreError> {
    let order = txn.open_table(ANSWER_ORDER)?;
    let table = txn.open_table(ANSWERS)?;
    for row in table.iter()? {
        let (key, bytes) = row?;
        let Some(answer) = found.readable::<Versioned<Answer>>("answers", key.value(), bytes.value()) else {
            continue;
        };
        let place = order.get(answer.value.seq)?;
        if place.is_none_or(|place| place.value() != key.value().as_bytes()) {
            found.add("answers", key.value(), "has no place in the order");
        }
    }
    let (kept, placed) = (table.len()?, order.len()?);
    if kept != placed {
        found.add(ORDER, "", format!("has {placed} places for {kept} answers"));
    }
    if kept > ANSWERS_MAX {
        found.add(
            "answers",
            "",
            format!("{kept} are kept, {ANSWERS_MAX} at most should be"),
        );
    }
    Ok(kept)
}

fn ledger(txn: &ReadTransaction, found: &mut Findings) -> Result<u64, StoreError> {
    let table = txn.open_table(LEDGER)?;
    for row in table.iter()? {
        let (key, bytes) = row?;
        let line = found.readable::<Versioned<LedgerEntry>>("ledger", key.value(), bytes.value());
        let Some(Versioned { value: line, .. }) = line else {
            continue;
        };
        let own = ledger_key(line.kind, &line.what);
        if own != key.value() {
            found.add("ledger", key.value(), format!("says that it is `{own}`"));
        }
    }
    Ok(table.len()?)
}

fn journal(txn: &ReadTransaction, found: &mut Findings) -> Result<JournalWalk, StoreError> {
    for row in txn.open_table(JOURNAL)?.iter()? {
        let (cursor, bytes) = row?;
        let entry = found.readable::<Versioned<JournalEntry>>("journal", cursor.value(), bytes.value());
        let told = entry.map(|entry| entry.value.cursor);
        if let Some(told) = told.filter(|told| *told != cursor.value()) {
            found.add("journal", cursor.value(), format!("says that it is entry {told}"));
        }
    }
    let walk = chain::walk(txn)?;
    if let Some(cursor) = walk.broken_at {
        let what = "the chain is broken: it does not follow from the one before it";
        found.add("journal", cursor, what);
    }
    Ok(walk)
}

fn rows(txn: &ReadTransaction) -> Result<Vec<Row>, StoreError> {
    let mut rows = Vec::new();
    for table in TEXT {
        for row in txn.open_table(table)?.iter()? {
            let (key, bytes) = row?;
            rows.push(row_of(table.name(), key.value().to_owned(), bytes.value()));
        }
    }
    for row in txn.open_table(ANSWER_ORDER)?.iter()? {
        let (seq, bytes) = row?;
        rows.push(row_of(ORDER, seq.value().to_string(), bytes.value()));
    }
    Ok(rows)
}

fn row_of(table: &str, key: String, bytes: &[u8]) -> Row {
    let value = match table {
        "secrets" => fingerprint(bytes).into(),
        ORDER => String::from_utf8_lossy(bytes).into_owned().into(),
        _ => serde_json::from_slice(bytes)
            .unwrap_or_else(|_not_json| Value::from(format!("{} bytes that are no JSON", bytes.len()))),
    };
    Row {
        table: table.to_owned(),
        key,
        value,
    }
}

/// Tells whether two secrets are the same, and nothing about either.
fn fingerprint(secret: &[u8]) -> String {
    let hash = blake3::Hash::from_bytes(blake3::derive_key(FINGERPRINT, secret));
    let letters: String = hash.to_hex().chars().take(FINGERPRINT_LETTERS).collect();
    format!("fingerprint:{letters}")
}
