//! Carrying changes into one write transaction.

use redb::{Database, ReadableDatabase, ReadableTable, Table, WriteTransaction};
use serde::Serialize;

use super::chain::Tail;
use super::schema::{
    ANSWER_ORDER, ANSWERS, Answer, LEDGER, META, META_BATCH, NAMES, SECRETS, VMS, Versioned, decode, meta,
    put,
};
use crate::change::{Change, Committed, Rejected};
use crate::error::StoreError;
use crate::id::VmId;
use crate::journal::{JournalEntry, JournalLimits, NewEvent};
use crate::ledger::{LedgerEdit, LedgerEntry, LedgerKind};
use crate::record::VmRecord;
use crate::secret::Secret;

/// Answers kept for repeated calls, newest first out last.
pub(crate) const ANSWERS_MAX: u64 = 4096;

type TextTable<'txn> = Table<'txn, &'static str, &'static [u8]>;

/// Why one change could not be carried out.
enum Fault {
    /// For a reason of its own: the others go on.
    Rejected(Rejected),
    /// The store itself failed: the whole batch is given up.
    Store(StoreError),
}

impl From<Rejected> for Fault {
    fn from(rejected: Rejected) -> Self {
        Self::Rejected(rejected)
    }
}

impl<E: Into<StoreError>> From<E> for Fault {
    fn from(error: E) -> Self {
        Self::Store(error.into())
    }
}

/// The bytes of a change, made before its first write so that a change that cannot be encoded writes nothing.
struct Encoded {
    record: Option<Vec<u8>>,
    entries: Vec<(JournalEntry, Vec<u8>)>,
    ledger: Vec<Line>,
    answer: Option<Vec<u8>>,
}

/// An edit of the ledger by its stored key.
enum Line {
    Enter(String, Vec<u8>),
    Strike(String),
    StrikeOwn(String, VmId),
    StrikeAll(VmId),
}

/// One write transaction with its tables open.
pub(crate) struct Writer<'txn> {
    vms: TextTable<'txn>,
    names: TextTable<'txn>,
    secrets: TextTable<'txn>,
    ledger: TextTable<'txn>,
    answers: TextTable<'txn>,
    answer_order: Table<'txn, u64, &'static [u8]>,
    journal: Tail<'txn>,
}

impl<'txn> Writer<'txn> {
    pub(crate) fn open(txn: &'txn WriteTransaction) -> Result<Self, StoreError> {
        Ok(Self {
            vms: txn.open_table(VMS)?,
            names: txn.open_table(NAMES)?,
            secrets: txn.open_table(SECRETS)?,
            ledger: txn.open_table(LEDGER)?,
            answers: txn.open_table(ANSWERS)?,
            answer_order: txn.open_table(ANSWER_ORDER)?,
            journal: Tail::open(txn)?,
        })
    }

    /// Carries out one change, or leaves everything as it is and says why.
    pub(crate) fn change(&mut self, change: Change) -> Result<Result<Committed, Rejected>, StoreError> {
        match self.try_change(change) {
            Ok(committed) => Ok(Ok(committed)),
            Err(Fault::Rejected(rejected)) => Ok(Err(rejected)),
            Err(Fault::Store(error)) => Err(error),
        }
    }

    /// Prunes, and writes what belongs to the transaction as a whole.
    pub(crate) fn finish(
        self,
        txn: &WriteTransaction,
        limits: JournalLimits,
        batch: u64,
    ) -> Result<(), StoreError> {
        self.journal.finish(txn, limits)?;
        put(&mut txn.open_table(META)?, META_BATCH, &batch)
    }

    fn try_change(&mut self, mut change: Change) -> Result<Committed, Fault> {
        self.check(&change)?;
        let encoded = self.encode(&mut change)?;
        // Nothing below may reject: from here on it is all of the change or a failed transaction.
        if let Some(id) = &change.remove {
            self.remove(id)?;
        }
        if let (Some(record), Some(bytes)) = (&change.upsert, &encoded.record) {
            self.upsert(record, bytes)?;
        }
        if let Some((id, secret)) = &change.secret {
            self.put_secret(id, secret)?;
        }
        for line in encoded.ledger {
            self.edit_ledger(line)?;
        }
        if let (Some((key, _)), Some(bytes)) = (&change.key, &encoded.answer) {
            self.put_answer(key, bytes)?;
        }
        let mut events = Vec::with_capacity(encoded.entries.len());
        for (entry, bytes) in encoded.entries {
            self.journal.append(&entry, &bytes)?;
            events.push(entry);
        }
        Ok(Committed { events })
    }

    fn check(&self, change: &Change) -> Result<(), Fault> {
        if let Some((key, _)) = &change.key {
            self.check_key(key)?;
        }
        if let Some(id) = &change.remove {
            self.check_stored(id)?;
        }
        if let Some(record) = &change.upsert {
            self.check_name(record, change.remove.as_ref())?;
        }
        match (&change.upsert, &change.secret) {
            (Some(record), Some((id, _))) if record.id == *id => Ok(()),
            (Some(record), Some((id, _))) => {
                self.check_stored(&record.id)?;
                self.check_stored(id)
            }
            (Some(record), None) => self.check_stored(&record.id),
            (None, Some((id, _))) => self.check_stored(id),
            (None, None) => Ok(()),
        }
    }

    fn check_key(&self, key: &str) -> Result<(), Fault> {
        let Some(bytes) = self.answers.get(key)? else {
            return Ok(());
        };
        let answer: Versioned<Answer> = decode("answers", key, bytes.value())?;
        Err(Fault::Rejected(Rejected::Answered {
            key: key.to_owned(),
            answer: answer.value.answer,
        }))
    }

    fn check_stored(&self, id: &VmId) -> Result<(), Fault> {
        match self.vms.get(id.as_str())? {
            Some(_) => Ok(()),
            None => Err(Fault::Rejected(Rejected::VmGone { id: id.clone() })),
        }
    }

    fn check_name(&self, record: &VmRecord, leaving: Option<&VmId>) -> Result<(), Fault> {
        let Some(bytes) = self.names.get(record.name())? else {
            return Ok(());
        };
        let holder: VmId = decode("names", record.name(), bytes.value())?;
        if holder == record.id || leaving == Some(&holder) {
            return Ok(());
        }
        Err(Fault::Rejected(Rejected::NameTaken {
            name: record.name().to_owned(),
            holder,
        }))
    }

    fn encode(&self, change: &mut Change) -> Result<Encoded, Fault> {
        let record = match &change.upsert {
            Some(record) => Some(json("a record", record)?),
            None => None,
        };
        let answer = match &change.key {
            Some((_, answer)) => Some(json("an answer", &self.numbered(answer)?)?),
            None => None,
        };
        let ledger = std::mem::take(&mut change.ledger);
        let ledger = ledger.into_iter().map(line).collect::<Result<_, _>>()?;
        let entries = std::mem::take(&mut change.events)
            .into_iter()
            .zip(self.journal.next_cursor()..)
            .map(|(event, cursor)| entry(event, cursor))
            .collect::<Result<_, _>>()?;
        Ok(Encoded {
            record,
            entries,
            ledger,
            answer,
        })
    }

    fn numbered(&self, answer: &serde_json::Value) -> Result<Versioned<Answer>, Fault> {
        let last = self.answer_order.last()?.map_or(0, |(seq, _)| seq.value());
        Ok(Versioned::new(Answer {
            seq: last + 1,
            answer: answer.clone(),
        }))
    }

    fn remove(&mut self, id: &VmId) -> Result<(), StoreError> {
        let old = match self.vms.remove(id.as_str())? {
            Some(bytes) => decode::<VmRecord>("vms", id, bytes.value())?,
            None => return Ok(()),
        };
        self.names.remove(old.name())?;
        self.secrets.remove(id.as_str())?;
        Ok(())
    }

    fn upsert(&mut self, record: &VmRecord, bytes: &[u8]) -> Result<(), StoreError> {
        let id = record.id.as_str();
        let old = match self.vms.insert(id, bytes)? {
            Some(old) => Some(decode::<VmRecord>("vms", id, old.value())?),
            None => None,
        };
        if let Some(old) = old
            && old.name() != record.name()
        {
            self.names.remove(old.name())?;
        }
        let holder = format!("\"{id}\"");
        self.names.insert(record.name(), holder.as_bytes())?;
        Ok(())
    }

    fn put_secret(&mut self, id: &VmId, secret: &Secret) -> Result<(), StoreError> {
        self.secrets.insert(id.as_str(), secret.as_bytes().as_slice())?;
        Ok(())
    }

    fn edit_ledger(&mut self, line: Line) -> Result<(), StoreError> {
        match line {
            Line::Enter(key, bytes) => {
                self.ledger.insert(key.as_str(), bytes.as_slice())?;
            }
            Line::Strike(key) => {
                self.ledger.remove(key.as_str())?;
            }
            Line::StrikeOwn(key, id) => self.strike_own(&key, &id)?,
            Line::StrikeAll(id) => self.strike_all(&id)?,
        }
        Ok(())
    }

    fn strike_own(&mut self, key: &str, id: &VmId) -> Result<(), StoreError> {
        let found = match self.ledger.get(key)? {
            Some(bytes) => decode::<Versioned<LedgerEntry>>("ledger", key, bytes.value())?,
            None => return Ok(()),
        };
        if found.value.id.as_ref() == Some(id) {
            self.ledger.remove(key)?;
        }
        Ok(())
    }

    fn strike_all(&mut self, id: &VmId) -> Result<(), StoreError> {
        let mut gone = Vec::new();
        for row in self.ledger.iter()? {
            let (key, bytes) = row?;
            let entry: Versioned<LedgerEntry> = decode("ledger", key.value(), bytes.value())?;
            if entry.value.id.as_ref() == Some(id) {
                gone.push(key.value().to_owned());
            }
        }
        for key in gone {
            self.ledger.remove(key.as_str())?;
        }
        Ok(())
    }

    fn put_answer(&mut self, key: &str, bytes: &[u8]) -> Result<(), StoreError> {
        let seq = self.answer_order.last()?.map_or(0, |(seq, _)| seq.value()) + 1;
        self.answers.insert(key, bytes)?;
        self.answer_order.insert(seq, key.as_bytes())?;
        let Some(oldest) = seq.checked_sub(ANSWERS_MAX) else {
            return Ok(());
        };
        if let Some(key) = self.answer_order.remove(oldest)? {
            let key = String::from_utf8_lossy(key.value());
            self.answers.remove(&*key)?;
        }
        Ok(())
    }
}

/// The number of the newest batch that is in the file.
pub(crate) fn newest_batch(db: &Database) -> Result<Option<u64>, StoreError> {
    meta(&db.begin_read()?.open_table(META)?, META_BATCH)
}

fn json<T: Serialize>(what: &'static str, value: &T) -> Result<Vec<u8>, Rejected> {
    serde_json::to_vec(value).map_err(|source| Rejected::Encode { what, source })
}

fn entry(event: NewEvent, cursor: u64) -> Result<(JournalEntry, Vec<u8>), Rejected> {
    let entry = Versioned::new(event.at_cursor(cursor));
    let bytes = json("a journal entry", &entry)?;
    Ok((entry.value, bytes))
}

fn line(edit: LedgerEdit) -> Result<Line, Rejected> {
    Ok(match edit {
        LedgerEdit::Enter(entry) => {
            let key = ledger_key(entry.kind, &entry.what);
            Line::Enter(key, json("a ledger line", &Versioned::new(entry))?)
        }
        LedgerEdit::Strike { kind, what } => Line::Strike(ledger_key(kind, &what)),
        LedgerEdit::StrikeOwn { kind, what, id } => Line::StrikeOwn(ledger_key(kind, &what), id),
        LedgerEdit::StrikeAll(id) => Line::StrikeAll(id),
    })
}

/// Key of a line of the ledger.
pub(crate) fn ledger_key(kind: LedgerKind, what: &str) -> String {
    format!("{kind}:{what}")
}
