//! The journal's tables: append, prune, read, verify.

use redb::{ReadTransaction, ReadableTable, ReadableTableMetadata, Table, WriteTransaction};
use serde::Deserialize;

use super::schema::{
    CHAIN, JOURNAL, Link, META, META_CHECKPOINT, META_HEAD, Versioned, decode, decode_bytes, meta, put,
};
use crate::clock::Timestamp;
use crate::error::StoreError;
use crate::examination::JournalWalk;
use crate::journal::{JournalEntry, JournalLimits, JournalProof};

/// Entries pruned by one commit at most, so that no single commit pays for a lowered limit.
const PRUNE_MAX: usize = 1024;

/// The end of the journal, open for appending.
pub(crate) struct Tail<'txn> {
    entries: Table<'txn, u64, &'static [u8]>,
    hashes: Table<'txn, u64, &'static [u8]>,
    head: Link,
    checkpoint: Link,
    newest: Option<Timestamp>,
}

impl<'txn> Tail<'txn> {
    pub(crate) fn open(txn: &'txn WriteTransaction) -> Result<Self, StoreError> {
        let facts = txn.open_table(META)?;
        Ok(Self {
            head: meta(&facts, META_HEAD)?.unwrap_or(Link::GENESIS),
            checkpoint: meta(&facts, META_CHECKPOINT)?.unwrap_or(Link::GENESIS),
            entries: txn.open_table(JOURNAL)?,
            hashes: txn.open_table(CHAIN)?,
            newest: None,
        })
    }

    /// Cursor that the next entry gets.
    pub(crate) const fn next_cursor(&self) -> u64 {
        self.head.cursor + 1
    }

    /// Appends an entry that was numbered by [`Tail::next_cursor`] and encoded by the caller.
    pub(crate) fn append(&mut self, entry: &JournalEntry, bytes: &[u8]) -> Result<(), StoreError> {
        assert!(
            entry.cursor == self.next_cursor(),
            "journal entries are appended in order"
        );
        let hash = link_hash(&self.head.hash, bytes);
        self.entries.insert(entry.cursor, bytes)?;
        self.hashes.insert(entry.cursor, hash.as_bytes().as_slice())?;
        self.head = Link {
            cursor: entry.cursor,
            hash,
        };
        self.newest = Some(entry.at);
        Ok(())
    }

    /// Prunes to `limits` and writes head and checkpoint.
    pub(crate) fn finish(mut self, txn: &WriteTransaction, limits: JournalLimits) -> Result<(), StoreError> {
        let Some(now) = self.newest else {
            return Ok(());
        };
        for _ in 0..PRUNE_MAX {
            if !self.prune_one(limits, now)? {
                break;
            }
        }
        let mut facts = txn.open_table(META)?;
        put(&mut facts, META_HEAD, &self.head)?;
        put(&mut facts, META_CHECKPOINT, &self.checkpoint)
    }

    /// Drops the oldest entry if it is one too many or too old. The newest one always stays.
    fn prune_one(&mut self, limits: JournalLimits, now: Timestamp) -> Result<bool, StoreError> {
        let kept = self.head.cursor - self.checkpoint.cursor;
        if kept <= 1 {
            return Ok(false);
        }
        let cursor = self.checkpoint.cursor + 1;
        if kept <= limits.entries_max && !self.is_older(cursor, now, limits)? {
            return Ok(false);
        }
        self.entries.remove(cursor)?;
        let hash = match self.hashes.remove(cursor)? {
            Some(bytes) => decode_bytes("chain", cursor, bytes.value())?,
            None => return Err(StoreError::ChainBroken { cursor }),
        };
        self.checkpoint = Link {
            cursor,
            hash: hash.into(),
        };
        Ok(true)
    }

    fn is_older(&self, cursor: u64, now: Timestamp, limits: JournalLimits) -> Result<bool, StoreError> {
        #[derive(Deserialize)]
        struct Moment {
            at: Timestamp,
        }
        let Some(bytes) = self.entries.get(cursor)? else {
            return Err(StoreError::ChainBroken { cursor });
        };
        let moment: Moment = decode("journal", cursor, bytes.value())?;
        Ok(now.since(moment.at) > limits.age_max)
    }
}

/// Hash of an entry: of the hash before it (32 bytes) and its stored bytes.
fn link_hash(previous: &blake3::Hash, bytes: &[u8]) -> blake3::Hash {
    let mut hasher = blake3::Hasher::new();
    hasher.update(previous.as_bytes());
    hasher.update(bytes);
    hasher.finalize()
}

/// Entries after `since`, oldest first, of those that `wanted` takes.
pub(crate) fn read(
    txn: &ReadTransaction,
    since: u64,
    limit: usize,
    wanted: impl Fn(&JournalEntry) -> bool,
) -> Result<Vec<JournalEntry>, StoreError> {
    let entries = txn.open_table(JOURNAL)?;
    let mut found = Vec::new();
    for row in entries.range(since.saturating_add(1)..)? {
        if found.len() >= limit {
            break;
        }
        let (cursor, bytes) = row?;
        let entry: Versioned<JournalEntry> = decode("journal", cursor.value(), bytes.value())?;
        if wanted(&entry.value) {
            found.push(entry.value);
        }
    }
    Ok(found)
}

/// The newest entry's place.
pub(crate) fn head(txn: &ReadTransaction) -> Result<Link, StoreError> {
    Ok(meta(&txn.open_table(META)?, META_HEAD)?.unwrap_or(Link::GENESIS))
}

/// Walks the chain to its end, or to the first entry that does not follow from the one before it.
pub(crate) fn walk(txn: &ReadTransaction) -> Result<JournalWalk, StoreError> {
    let checkpoint = meta(&txn.open_table(META)?, META_CHECKPOINT)?.unwrap_or(Link::GENESIS);
    let entries = txn.open_table(JOURNAL)?;
    let hashes = txn.open_table(CHAIN)?;
    let mut last = checkpoint;
    let mut broken = false;
    for row in entries.iter()? {
        let (cursor, bytes) = row?;
        let next = Link {
            cursor: last.cursor + 1,
            hash: link_hash(&last.hash, bytes.value()),
        };
        let stored = hashes.get(next.cursor)?;
        broken = cursor.value() != next.cursor
            || stored.is_none_or(|stored| stored.value() != next.hash.as_bytes());
        if broken {
            break;
        }
        last = next;
    }
    broken = broken || last != head(txn)? || hashes.len()? != last.cursor - checkpoint.cursor;
    Ok(JournalWalk {
        pruned: checkpoint.cursor,
        cursor: last.cursor,
        hash: last.hash.to_string(),
        broken_at: broken.then_some(last.cursor + 1),
    })
}

/// Walks the whole chain.
pub(crate) fn verify(txn: &ReadTransaction) -> Result<JournalProof, StoreError> {
    let walk = walk(txn)?;
    match walk.broken_at {
        Some(cursor) => Err(StoreError::ChainBroken { cursor }),
        None => Ok(JournalProof {
            pruned: walk.pruned,
            cursor: walk.cursor,
            hash: walk.hash,
        }),
    }
}
