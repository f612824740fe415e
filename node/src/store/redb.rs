//! The default store: redb, a copy-on-write B-tree in one file.
//!
//! While entries are applied its commits are not durable: the file's root on
//! disk stays where the last durable commit put it, and a restart begins
//! there. Measured under power cuts before it was chosen: 0 of 12 recoveries
//! bad, each exactly at the last sync (`docs/dependencies.md`).

use super::{Changes, RowSource, Store, StoreError, View};
use quorate_engine::types::kv::{KvError, KvRead, Row};
use redb::{Database, Durability, ReadOnlyTable, ReadableDatabase, ReadableTable, TableDefinition};
use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The machines' rows.
const ROWS: TableDefinition<'static, &[u8], &[u8]> = TableDefinition::new("rows");
/// What is kept beside them: format version, applied position and members.
const META: TableDefinition<'static, &str, &[u8]> = TableDefinition::new("meta");
const META_KEY: &str = "state";
const VERSION_KEY: &str = "format";
/// Format version that this build writes and the newest it reads.
const VERSION: u8 = 1;

/// The store.
pub struct RedbStore {
    db: Database,
    path: PathBuf,
}

/// A view: one read transaction's tables.
struct RedbView {
    rows: ReadOnlyTable<&'static [u8], &'static [u8]>,
    meta: ReadOnlyTable<&'static str, &'static [u8]>,
}

fn kv(e: impl std::fmt::Display) -> KvError {
    KvError(format!("redb: {e}"))
}

impl RedbStore {
    fn err<E: std::fmt::Display>(&self, what: &'static str) -> impl Fn(E) -> StoreError {
        backend(&self.path, what)
    }

    /// Opens or creates the file at `path`.
    ///
    /// # Errors
    /// [`StoreError`] when it cannot be opened or is of a newer format.
    pub fn open(path: &Path, cache_bytes: usize) -> Result<Self, StoreError> {
        // A power cut while redb lays out a new file leaves one that it cannot
        // open again, so a new one gets its name only once it is complete.
        if !path.exists() {
            let new = path.with_extension("new");
            if new.exists() {
                std::fs::remove_file(&new).map_err(backend(path, "creating"))?;
            }
            drop(Self::open_file(&new, cache_bytes)?);
            let finish = || {
                std::fs::File::open(&new)?.sync_all()?;
                std::fs::rename(&new, path)?;
                std::fs::File::open(path.parent().unwrap_or(path))?.sync_all()
            };
            finish().map_err(backend::<std::io::Error>(path, "creating"))?;
        }
        Self::open_file(path, cache_bytes)
    }

    fn open_file(path: &Path, cache_bytes: usize) -> Result<Self, StoreError> {
        let db = Database::builder()
            .set_cache_size(cache_bytes)
            .create(path)
            .map_err(backend(path, "opening"))?;
        let store = Self {
            db,
            path: path.to_owned(),
        };
        store.check_format()?;
        Ok(store)
    }

    fn check_format(&self) -> Result<(), StoreError> {
        let mut txn = self.db.begin_write().map_err(self.err("opening"))?;
        txn.set_quick_repair(true);
        {
            txn.open_table(ROWS).map_err(self.err("opening"))?;
            let mut meta = txn.open_table(META).map_err(self.err("opening"))?;
            let found = meta.get(VERSION_KEY).map_err(self.err("opening"))?;
            let found = found.map(|v| v.value().first().copied().unwrap_or(0));
            match found {
                Some(VERSION) => return Ok(()),
                Some(version) => {
                    return Err(StoreError::Newer {
                        file: self.path.clone(),
                        version,
                        max: VERSION,
                    });
                }
                None => {
                    meta.insert(VERSION_KEY, &[VERSION][..])
                        .map_err(self.err("opening"))?;
                }
            }
        }
        txn.commit().map_err(self.err("opening"))
    }

    fn write(
        &self,
        durable: bool,
        f: impl FnOnce(&redb::WriteTransaction) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let mut txn = self
            .db
            .begin_write()
            .map_err(self.err("beginning a transaction"))?;
        let durability = if durable {
            Durability::Immediate
        } else {
            Durability::None
        };
        txn.set_durability(durability)
            .map_err(self.err("beginning a transaction"))?;
        // Opening after a crash must not take a walk through a large file.
        txn.set_quick_repair(durable);
        f(&txn)?;
        txn.commit().map_err(self.err("committing"))
    }

    fn put_meta(&self, txn: &redb::WriteTransaction, value: &[u8]) -> Result<(), StoreError> {
        let mut meta = txn.open_table(META).map_err(self.err("opening a table"))?;
        meta.insert(META_KEY, value).map_err(self.err("writing"))?;
        Ok(())
    }
}

fn backend<E: std::fmt::Display>(path: &Path, what: &'static str) -> impl Fn(E) -> StoreError {
    move |e| StoreError::Backend {
        file: path.to_owned(),
        what,
        reason: e.to_string(),
    }
}

/// A view of a file that no process has open, changing nothing in it.
///
/// # Errors
/// [`StoreError`] when it cannot be read; after an unclean stop redb wants to repair it first.
pub fn read_only(path: &Path) -> Result<Arc<dyn View>, StoreError> {
    let db = redb::ReadOnlyDatabase::open(path).map_err(backend(path, "opening for reading"))?;
    let txn = db.begin_read().map_err(backend(path, "reading"))?;
    let rows = txn.open_table(ROWS).map_err(backend(path, "reading"))?;
    let meta = txn.open_table(META).map_err(backend(path, "reading"))?;
    Ok(Arc::new(RedbView { rows, meta }))
}

impl Store for RedbStore {
    fn name(&self) -> &'static str {
        "redb"
    }

    fn view(&self) -> Result<Arc<dyn View>, StoreError> {
        let txn = self.db.begin_read().map_err(self.err("reading"))?;
        let rows = txn.open_table(ROWS).map_err(self.err("reading"))?;
        let meta = txn.open_table(META).map_err(self.err("reading"))?;
        Ok(Arc::new(RedbView { rows, meta }))
    }

    fn commit(&self, changes: Changes, durable: bool) -> Result<(), StoreError> {
        self.write(durable, |txn| {
            {
                let mut rows = txn.open_table(ROWS).map_err(self.err("opening a table"))?;
                for (k, v) in &changes.rows {
                    match v {
                        Some(v) => rows.insert(&k[..], &v[..]).map(drop),
                        None => rows.remove(&k[..]).map(drop),
                    }
                    .map_err(self.err("writing"))?;
                }
            }
            match &changes.meta {
                Some(m) => self.put_meta(txn, m),
                None => Ok(()),
            }
        })
    }

    fn replace(&self, source: RowSource<'_>, meta: Vec<u8>) -> Result<(), StoreError> {
        self.write(true, |txn| {
            txn.delete_table(ROWS).map_err(self.err("emptying"))?;
            {
                let mut rows = txn.open_table(ROWS).map_err(self.err("opening a table"))?;
                loop {
                    let chunk = source()?;
                    if chunk.is_empty() {
                        break;
                    }
                    for (k, v) in chunk {
                        rows.insert(&k[..], &v[..]).map_err(self.err("writing"))?;
                    }
                }
            }
            self.put_meta(txn, &meta)
        })
    }
}

fn own(
    r: Result<(redb::AccessGuard<'_, &[u8]>, redb::AccessGuard<'_, &[u8]>), redb::StorageError>,
) -> Result<Row, KvError> {
    let (k, v) = r.map_err(kv)?;
    Ok((k.value().to_vec(), v.value().to_vec()))
}

impl KvRead for RedbView {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, KvError> {
        Ok(self.rows.get(key).map_err(kv)?.map(|v| v.value().to_vec()))
    }

    fn scan(
        &self,
        from: &[u8],
        to: &[u8],
        limit: usize,
        reverse: bool,
    ) -> Result<Vec<Row>, KvError> {
        if from >= to {
            return Ok(Vec::new());
        }
        let range = self.rows.range::<&[u8]>(from..to).map_err(kv)?;
        if reverse {
            range.rev().take(limit).map(own).collect()
        } else {
            range.take(limit).map(own).collect()
        }
    }
}

impl View for RedbView {
    fn meta(&self) -> Result<Option<Vec<u8>>, KvError> {
        Ok(self
            .meta
            .get(META_KEY)
            .map_err(kv)?
            .map(|v| v.value().to_vec()))
    }

    fn rows_after(&self, after: Option<&[u8]>, limit: usize) -> Result<Vec<Row>, KvError> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let range = self
            .rows
            .range::<&[u8]>((from, Bound::Unbounded))
            .map_err(kv)?;
        range.take(limit).map(own).collect()
    }
}
