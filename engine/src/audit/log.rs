//! The log inside replicated state.
//!
//! | first byte | rest of the key | value |
//! |---|---|---|
//! | `0x01` head | – | compact range and last entry time, codec |
//! | `0x02` entry | index, 8 bytes big-endian | the JSON that was hashed |
//! | `0x03` node | level, 1 byte; index, 8 bytes big-endian | 32-byte hash of a perfect subtree, levels ≥ 1 |
//! | `0x04` opening | entry index, 8 bytes big-endian | openings, codec |
//!
//! Leaf hashes are not kept: the entry gives them. So an append costs one
//! entry, one inner node on average, its openings, and the head.

use super::entry::{Entry, Opening};
use super::merkle::{CompactRange, Hash, leaf_hash};
use super::proof::{NodeSource, ProofError};
use crate::types::codec;
use crate::types::kv::{Kv, KvError, KvRead};
use crate::types::{ChatId, WallMs};
use serde::{Deserialize, Serialize};

/// Table of the head row.
pub const TABLE_HEAD: u8 = 0x01;
/// Table of entries.
pub const TABLE_ENTRY: u8 = 0x02;
/// Table of inner hashes.
pub const TABLE_NODE: u8 = 0x03;
/// Table of openings.
pub const TABLE_OPENING: u8 = 0x04;

/// No entry is later, in Unix milliseconds: the year 2200. Entry time never goes back, so one
/// absurd clock would pin it for ever. There is no bound on a leap below: a custodian may have been idle
/// for years, and a wrong clock would pass any bound in several proposals; leaders compare clocks instead.
pub const TIME_MS_MAX: WallMs = 7_258_118_400_000;

const HEAD_VERSION: u8 = 1;
const OPENING_VERSION: u8 = 1;

/// Where a command stands in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EntryRef {
    /// Index of the entry.
    pub index: u64,
    /// Its leaf hash.
    pub leaf: Hash,
    /// Entry time.
    pub time_ms: WallMs,
}

#[derive(Default, Serialize, Deserialize)]
struct HeadRow {
    range: CompactRange,
    time_ms: WallMs,
}

/// The head of the log, loaded once for a batch of appends and saved after it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Log {
    range: CompactRange,
    time_ms: WallMs,
}

impl Log {
    /// Reads the head; an absent row is the empty log.
    ///
    /// # Errors
    /// [`KvError`] when the store fails or the row is damaged.
    pub fn load<K: KvRead + ?Sized>(kv: &K) -> Result<Self, KvError> {
        let row: HeadRow = match kv.get(&[TABLE_HEAD])? {
            None => HeadRow::default(),
            Some(bytes) => codec::decode("log head", HEAD_VERSION, &bytes)
                .map_err(|e| KvError(e.to_string()))?,
        };
        Ok(Self {
            range: row.range,
            time_ms: row.time_ms,
        })
    }

    /// Writes the head back.
    ///
    /// # Errors
    /// [`KvError`] when the store fails.
    pub fn save<K: Kv + ?Sized>(&self, kv: &mut K) -> Result<(), KvError> {
        let row = HeadRow {
            range: self.range.clone(),
            time_ms: self.time_ms,
        };
        kv.put(&[TABLE_HEAD], &codec::encode(HEAD_VERSION, &row))
    }

    /// Entries so far; the index of the next one.
    pub fn size(&self) -> u64 {
        self.range.size()
    }

    /// RFC 6962 root over all entries.
    pub fn root(&self) -> Hash {
        self.range.root()
    }

    /// Time of the newest entry; 0 for the empty log.
    pub fn time_ms(&self) -> WallMs {
        self.time_ms
    }

    /// Entry time for a leader's clock: never before the previous entry's. A clock
    /// beyond [`TIME_MS_MAX`] is broken and moves nothing.
    pub fn time_for(&self, clock_ms: WallMs) -> WallMs {
        if clock_ms > TIME_MS_MAX {
            return self.time_ms;
        }
        self.time_ms.max(clock_ms)
    }

    /// Appends `entry`, whose index and time must be this log's next ones.
    ///
    /// # Errors
    /// [`KvError`] when the store fails, or when a limit was missed and the
    /// entry does not fit: nothing may be decided without its record.
    pub fn append<K: Kv + ?Sized>(
        &mut self,
        kv: &mut K,
        entry: &Entry,
        openings: &[Opening],
    ) -> Result<EntryRef, KvError> {
        debug_assert_eq!(entry.index, self.size());
        let json = entry.to_json().map_err(|e| KvError(e.to_string()))?;
        let leaf = leaf_hash(&json);
        kv.put(&indexed(TABLE_ENTRY, entry.index), &json)?;
        if !openings.is_empty() {
            kv.put(
                &indexed(TABLE_OPENING, entry.index),
                &codec::encode(OPENING_VERSION, &openings),
            )?;
        }
        let mut written = Ok(());
        self.range.append(leaf, |level, index, hash| {
            if written.is_ok() {
                written = kv.put(&node_key(level, index), hash);
            }
        });
        written?;
        self.time_ms = entry.time_ms;
        Ok(EntryRef {
            index: entry.index,
            leaf,
            time_ms: entry.time_ms,
        })
    }
}

fn indexed(table: u8, index: u64) -> [u8; 9] {
    let mut key = [table; 9];
    key[1..].copy_from_slice(&index.to_be_bytes());
    key
}

fn node_key(level: u8, index: u64) -> [u8; 10] {
    let mut key = [TABLE_NODE; 10];
    key[1] = level;
    key[2..].copy_from_slice(&index.to_be_bytes());
    key
}

/// The bytes of entry `index`, as they were hashed.
///
/// # Errors
/// [`KvError`] when the store fails.
pub fn entry_bytes<K: KvRead + ?Sized>(kv: &K, index: u64) -> Result<Option<Vec<u8>>, KvError> {
    kv.get(&indexed(TABLE_ENTRY, index))
}

/// What remains of the openings of entry `index`.
///
/// # Errors
/// [`KvError`] when the store fails or the row is damaged.
pub fn openings<K: KvRead + ?Sized>(kv: &K, index: u64) -> Result<Vec<Opening>, KvError> {
    match kv.get(&indexed(TABLE_OPENING, index))? {
        None => Ok(Vec::new()),
        Some(bytes) => {
            codec::decode("openings", OPENING_VERSION, &bytes).map_err(|e| KvError(e.to_string()))
        }
    }
}

/// Erases the openings of entry `index`: all, or those of one chat. The entry and its hash stay.
///
/// # Errors
/// [`KvError`] when the store fails or the row is damaged.
pub fn erase_openings<K: Kv + ?Sized>(
    kv: &mut K,
    index: u64,
    chat: Option<&ChatId>,
) -> Result<usize, KvError> {
    let mut left = openings(kv, index)?;
    let before = left.len();
    left.retain(|o| chat.is_some_and(|c| o.value.0 != c.0));
    if left.is_empty() {
        kv.delete(&indexed(TABLE_OPENING, index))?;
    } else {
        kv.put(
            &indexed(TABLE_OPENING, index),
            &codec::encode(OPENING_VERSION, &left),
        )?;
    }
    Ok(before - left.len())
}

/// The stored hashes, for proofs.
pub struct NodeRows<'a, K: KvRead + ?Sized>(pub &'a K);

impl<K: KvRead + ?Sized> NodeSource for NodeRows<'_, K> {
    fn node(&self, level: u8, index: u64) -> Result<Hash, ProofError> {
        let fail = |reason: String| ProofError::Source {
            level,
            index,
            reason,
        };
        let missing = || fail("not there".into());
        if level == 0 {
            let entry = entry_bytes(self.0, index).map_err(|e| fail(e.0))?;
            return Ok(leaf_hash(&entry.ok_or_else(missing)?));
        }
        let row = self
            .0
            .get(&node_key(level, index))
            .map_err(|e| fail(e.0))?
            .ok_or_else(missing)?;
        Hash::try_from(row.as_slice()).map_err(|_| fail("not 32 bytes".into()))
    }
}
