//! What the file holds: tables, keys, and how values are written.
//!
//! Keys are `&str` or `u64`, values bytes, so that nothing on disk is encoded by redb itself. Values are JSON with a
//! version, except hashes and secrets, which are 32 plain bytes. `docs/architecture/store.md` lists the tables.

use std::fmt::Display;

use redb::{ReadableTable, TableDefinition, WriteTransaction};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::error::StoreError;

/// Version of the layout that this crate reads and writes.
pub const SCHEMA_VERSION: u32 = 2;

/// A table with text keys.
pub(crate) type Text = TableDefinition<'static, &'static str, &'static [u8]>;
/// A table with number keys.
pub(crate) type Number = TableDefinition<'static, u64, &'static [u8]>;

/// Facts about the file itself, see the constants `META_*`.
pub(crate) const META: Text = TableDefinition::new("meta");
/// Records by id.
pub(crate) const VMS: Text = TableDefinition::new("vms");
/// Ids by name.
pub(crate) const NAMES: Text = TableDefinition::new("names");
/// Secrets by id; since schema 2.
pub(crate) const SECRETS: Text = TableDefinition::new("secrets");
/// Entries by cursor.
pub(crate) const JOURNAL: Number = TableDefinition::new("journal");
/// Hash of each entry by cursor.
pub(crate) const CHAIN: Number = TableDefinition::new("chain");
/// Answers by idempotency key.
pub(crate) const ANSWERS: Text = TableDefinition::new("answers");
/// Idempotency keys in the order they were used.
pub(crate) const ANSWER_ORDER: Number = TableDefinition::new("answer_order");
/// Lines of the ledger by `kind:what`.
pub(crate) const LEDGER: Text = TableDefinition::new("ledger");

/// [`META`]: version of the layout, a number.
pub(crate) const META_SCHEMA: &str = "schema";
/// [`META`]: newest entry of the journal, a [`Link`].
pub(crate) const META_HEAD: &str = "journal_head";
/// [`META`]: newest entry that was pruned, a [`Link`].
pub(crate) const META_CHECKPOINT: &str = "journal_checkpoint";
/// [`META`]: random number of the newest batch of changes; tells whether a commit that failed is durable all the same.
pub(crate) const META_BATCH: &str = "batch";

/// Every table with text keys.
pub(crate) const TEXT: [Text; 6] = [META, VMS, NAMES, SECRETS, ANSWERS, LEDGER];
const NUMBER: [Number; 3] = [JOURNAL, CHAIN, ANSWER_ORDER];

/// Makes every table, so that readers never meet a missing one.
pub(crate) fn create_tables(txn: &WriteTransaction) -> Result<(), StoreError> {
    for table in TEXT {
        txn.open_table(table)?;
    }
    for table in NUMBER {
        txn.open_table(table)?;
    }
    let mut meta = txn.open_table(META)?;
    put(&mut meta, META_SCHEMA, &SCHEMA_VERSION)?;
    put(&mut meta, META_HEAD, &Link::GENESIS)?;
    put(&mut meta, META_CHECKPOINT, &Link::GENESIS)
}

/// One point of the journal's chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Link {
    /// Cursor of the entry; 0 before the first.
    pub(crate) cursor: u64,
    /// Its hash.
    #[serde(serialize_with = "write_hash", deserialize_with = "read_hash")]
    pub(crate) hash: blake3::Hash,
}

impl Link {
    /// What the first entry is tied to.
    pub(crate) const GENESIS: Self = Self {
        cursor: 0,
        hash: blake3::Hash::from_bytes([0; 32]),
    };
}

fn write_hash<S: Serializer>(hash: &blake3::Hash, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(hash)
}

fn read_hash<'de, D: Deserializer<'de>>(deserializer: D) -> Result<blake3::Hash, D::Error> {
    let text = String::deserialize(deserializer)?;
    blake3::Hash::from_hex(text).map_err(serde::de::Error::custom)
}

/// A value with the version of its shape.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Versioned<T> {
    /// Version of the shape; 1.
    pub(crate) v: u32,
    /// The value.
    #[serde(flatten)]
    pub(crate) value: T,
}

impl<T> Versioned<T> {
    pub(crate) const fn new(value: T) -> Self {
        Self { v: 1, value }
    }
}

/// An answered call.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Answer {
    /// Place in [`ANSWER_ORDER`].
    pub(crate) seq: u64,
    /// What the call was answered.
    pub(crate) answer: serde_json::Value,
}

/// Reads a JSON value.
pub(crate) fn decode<T: DeserializeOwned>(
    table: &'static str,
    key: impl Display + Copy,
    bytes: &[u8],
) -> Result<T, StoreError> {
    serde_json::from_slice(bytes).map_err(|source| StoreError::Value {
        table,
        key: key.to_string(),
        source,
    })
}

/// Reads 32 plain bytes.
pub(crate) fn decode_bytes(
    table: &'static str,
    key: impl Display + Copy,
    bytes: &[u8],
) -> Result<[u8; 32], StoreError> {
    bytes.try_into().map_err(|_| StoreError::Length {
        table,
        key: key.to_string(),
        found: bytes.len(),
    })
}

/// Reads a JSON value of [`META`].
pub(crate) fn meta<T: DeserializeOwned>(
    table: &impl ReadableTable<&'static str, &'static [u8]>,
    key: &'static str,
) -> Result<Option<T>, StoreError> {
    let Some(bytes) = table.get(key)? else {
        return Ok(None);
    };
    decode("meta", key, bytes.value()).map(Some)
}

/// Writes a JSON value of [`META`].
pub(crate) fn put<T: Serialize>(
    table: &mut redb::Table<'_, &'static str, &'static [u8]>,
    key: &'static str,
    value: &T,
) -> Result<(), StoreError> {
    let bytes = serde_json::to_vec(value).map_err(|source| StoreError::Value {
        table: "meta",
        key: key.to_owned(),
        source,
    })?;
    table.insert(key, bytes.as_slice())?;
    Ok(())
}
