//! The state store: one ordered key space per raft group, behind one trait.
//!
//! A write transaction is an overlay on a consistent view ([`Txn`]): the
//! engine's machines read and write it as `Kv`, and one sorted batch goes to
//! the store with the applied position beside it, in one transaction, outside
//! the machines' key space. While entries are applied commits need not be
//! durable; the log holds them. A durable commit happens when a snapshot is
//! built and before an installed one counts.
//!
//! | store | keeps | for |
//! |---|---|---|
//! | redb | one file, copy-on-write, crash-safe | the default |
//! | sled | a directory; wiped and rebuilt after an unclean stop | comparison |
//! | memory | nothing; rebuilt from snapshot and log | tests, trying out |
//! | crash | what a power cut would leave | tests |

pub mod crash;
pub mod inspect;
mod layers;
pub mod memory;
pub mod redb;
pub mod sled;
mod txn;

#[cfg(test)]
mod tests;

pub use self::txn::Txn;

use crate::wal::disk::create_dir_durably;
use quorate_engine::types::kv::{KvError, KvRead, Row};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Rows read at once when a whole store is walked.
pub const WALK_ROWS_MAX: usize = 512;

/// Why a store cannot be used. Each says what to do next.
#[derive(Clone, Debug, thiserror::Error)]
pub enum StoreError {
    /// The library under the store, or the system, refused an operation.
    #[error("state store {file}: {what} failed: {reason}; check the disk, then restart the node or replace it", file = file.display())]
    Backend {
        /// Where the store lies.
        file: PathBuf,
        /// What was tried.
        what: &'static str,
        /// What was said.
        reason: String,
    },
    /// Written by a newer build.
    #[error("state store {file}: format version {version}, this build reads {max}; start the newer build again", file = file.display())]
    Newer {
        /// Where the store lies.
        file: PathBuf,
        /// Its version.
        version: u8,
        /// The newest this build reads.
        max: u8,
    },
}

impl From<StoreError> for KvError {
    fn from(e: StoreError) -> Self {
        KvError(e.to_string())
    }
}

impl From<StoreError> for std::io::Error {
    fn from(e: StoreError) -> Self {
        std::io::Error::other(e)
    }
}

/// A consistent view of a store's rows and of the record beside them.
pub trait View: KvRead + Send + Sync {
    /// The record that was committed with the rows (applied position, members).
    ///
    /// # Errors
    /// [`KvError`] when the store cannot be read.
    fn meta(&self) -> Result<Option<Vec<u8>>, KvError>;

    /// Up to `limit` rows after `after`, ascending; from the first row for `None`.
    ///
    /// # Errors
    /// [`KvError`] when the store cannot be read.
    fn rows_after(&self, after: Option<&[u8]>, limit: usize) -> Result<Vec<Row>, KvError>;
}

/// Hands every row of `view` to `each`, ascending, and returns their number.
///
/// # Errors
/// [`KvError`] when the store cannot be read, or what `each` returns.
pub fn walk<E: From<KvError>>(
    view: &dyn View,
    mut each: impl FnMut(&[u8], &[u8]) -> Result<(), E>,
) -> Result<u64, E> {
    let mut after: Option<Vec<u8>> = None;
    let mut count = 0;
    loop {
        let rows = view.rows_after(after.as_deref(), WALK_ROWS_MAX)?;
        for (k, v) in &rows {
            each(k, v)?;
        }
        count += rows.len() as u64;
        match rows.into_iter().next_back() {
            Some((k, _)) => after = Some(k),
            None => return Ok(count),
        }
    }
}

/// Changes for one commit: the rows set (`Some`) and removed (`None`), and the record beside them.
#[derive(Clone, Debug, Default)]
pub struct Changes {
    /// By key.
    pub rows: BTreeMap<Vec<u8>, Option<Vec<u8>>>,
    /// Set when not `None`.
    pub meta: Option<Vec<u8>>,
}

/// Rows that a store is loaded with, one chunk after another; an empty chunk ends it.
pub type RowSource<'a> = &'a mut dyn FnMut() -> Result<Vec<Row>, StoreError>;

/// A state store of one group.
pub trait Store: Send + Sync + 'static {
    /// `redb`, `sled`, `memory` or `crash`.
    fn name(&self) -> &'static str;

    /// A view that later commits do not change.
    ///
    /// # Errors
    /// [`StoreError`] when the store cannot be read.
    fn view(&self) -> Result<Arc<dyn View>, StoreError>;

    /// Reads the current state. Cheaper than [`Store::view`] where views are copies.
    ///
    /// # Errors
    /// [`StoreError`] when the store cannot be read.
    fn read(&self, f: &mut dyn FnMut(&dyn View)) -> Result<(), StoreError> {
        f(&*self.view()?);
        Ok(())
    }

    /// Commits `changes` in one transaction; with `durable` that and everything before it
    /// survives a power cut once this returns.
    ///
    /// # Errors
    /// [`StoreError`]; what is on disk is then unknown, and the node must stop.
    fn commit(&self, changes: Changes, durable: bool) -> Result<(), StoreError>;

    /// Replaces everything by `rows` and `meta`, durably.
    ///
    /// # Errors
    /// [`StoreError`]; a restart finds the old state, or none.
    fn replace(&self, rows: RowSource<'_>, meta: Vec<u8>) -> Result<(), StoreError>;

    /// Prepares for the process to end: what was committed need not be redone.
    ///
    /// # Errors
    /// [`StoreError`] when it could not be written.
    fn close(&self) -> Result<(), StoreError> {
        self.commit(Changes::default(), true)
    }
}

/// Which store a node uses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StoreKind {
    /// redb: the default.
    #[default]
    Redb,
    /// sled: for comparison; wiped and rebuilt after an unclean stop.
    Sled,
    /// Nothing on disk but snapshots and the log.
    Memory,
}

impl StoreKind {
    /// Its name, as in configuration.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Redb => "redb",
            Self::Sled => "sled",
            Self::Memory => "memory",
        }
    }
}

impl std::str::FromStr for StoreKind {
    type Err = String;
    fn from_str(s: &str) -> Result<Self, String> {
        match s {
            "redb" => Ok(Self::Redb),
            "sled" => Ok(Self::Sled),
            "memory" => Ok(Self::Memory),
            other => Err(format!("unknown store {other:?}: use redb, sled or memory")),
        }
    }
}

/// Opens a store of `kind` in the directory `dir`, which is created if missing.
///
/// # Errors
/// [`StoreError`] when it cannot be opened.
pub fn open(kind: StoreKind, dir: &Path, cache_bytes: usize) -> Result<Arc<dyn Store>, StoreError> {
    create_dir_durably(dir).map_err(|e| StoreError::Backend {
        file: dir.to_owned(),
        what: "creating the directory",
        reason: e.to_string(),
    })?;
    Ok(match kind {
        StoreKind::Redb => Arc::new(redb::RedbStore::open(&dir.join("state.redb"), cache_bytes)?),
        StoreKind::Sled => Arc::new(sled::SledStore::open(&dir.join("state.sled"), cache_bytes)?),
        StoreKind::Memory => Arc::new(memory::MemoryStore::default()),
    })
}
