//! The default store: redb, a copy-on-write B-tree in one file.
//!
//! While entries are applied commits are not durable: the file's root on disk stays where the
//! last durable one put it, and a restart begins there. So what comes between need not go into
//! the tree at once: up to a mebibyte of it lies in memory over the tree, where rows that change
//! with every entry change for nothing, and reads see both as one.
//!
//! ```text
//!  commit ──▶ recent rows ──(enough of them, or durable)──▶ redb
//!                  └──────────── read as one ────────────────┘
//! ```
//!
//! redb measured under power cuts before it was chosen: 0 of 12 recoveries bad, each exactly at
//! the last sync (`docs/dependencies.md`).

use super::layers::{Rows, Span, merged};
use super::{Changes, RowSource, Store, StoreError, View};
use quorate_engine::types::kv::{KvError, KvRead, Row};
use redb::{Database, Durability, ReadOnlyTable, ReadableDatabase, ReadableTable, TableDefinition};
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

/// The machines' rows.
const ROWS: TableDefinition<'static, &[u8], &[u8]> = TableDefinition::new("rows");
/// What is kept beside them: format version, applied position and members.
const META: TableDefinition<'static, &str, &[u8]> = TableDefinition::new("meta");
const META_KEY: &str = "state";
const VERSION_KEY: &str = "format";
/// Format version that this build writes and the newest it reads.
const VERSION: u8 = 1;

/// Bytes of changes that lie in memory before they go into the tree (one commit may exceed it):
/// a 64th of what the store caches, at least and at most so many.
const RECENT_BYTES: (usize, usize) = (256 << 10, 1 << 20);
/// What a changed row takes in memory besides its key and its value, about.
const ROW_BYTES: usize = 96;

/// The store.
pub struct RedbStore {
    db: Database,
    path: PathBuf,
    recent_bytes_max: usize,
    /// Held over a whole commit: there is one writer at a time.
    writing: Mutex<()>,
    now: RwLock<Now>,
}

/// What is read: the tree as it last was written, and what was committed since.
struct Now {
    tree: Arc<Tree>,
    recent: Arc<Recent>,
}

/// One read transaction's tables.
struct Tree {
    rows: ReadOnlyTable<&'static [u8], &'static [u8]>,
    meta: ReadOnlyTable<&'static str, &'static [u8]>,
}

/// Changes that are not in the tree yet.
#[derive(Clone, Default)]
struct Recent {
    rows: Rows,
    meta: Option<Vec<u8>>,
    /// What they take, about.
    bytes: usize,
}

impl Recent {
    fn add(&mut self, changes: Changes) {
        for (k, v) in changes.rows {
            let (key, value) = (k.len(), v.as_ref().map_or(0, Vec::len));
            self.bytes += match self.rows.insert(k, v) {
                // Its key is counted.
                Some(old) => value.saturating_sub(old.map_or(0, |v| v.len())),
                None => ROW_BYTES + key + value,
            };
        }
        if changes.meta.is_some() {
            self.meta = changes.meta;
        }
    }
}

/// The tree and what lies over it.
struct Layered<T, R> {
    tree: T,
    recent: R,
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
        check_format(&db, path)?;
        let tree = Arc::new(Tree::of(&db, path)?);
        Ok(Self {
            db,
            path: path.to_owned(),
            recent_bytes_max: (cache_bytes / 64).clamp(RECENT_BYTES.0, RECENT_BYTES.1),
            writing: Mutex::new(()),
            now: RwLock::new(Now {
                tree,
                recent: Arc::default(),
            }),
        })
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

    /// Everything is in the tree now.
    fn written(&self) -> Result<(), StoreError> {
        let tree = Arc::new(Tree::of(&self.db, &self.path)?);
        let mut now = self.now.write().unwrap_or_else(PoisonError::into_inner);
        *now = Now {
            tree,
            recent: Arc::default(),
        };
        Ok(())
    }
}

fn check_format(db: &Database, path: &Path) -> Result<(), StoreError> {
    let mut txn = db.begin_write().map_err(backend(path, "opening"))?;
    txn.set_quick_repair(true);
    {
        txn.open_table(ROWS).map_err(backend(path, "opening"))?;
        let mut meta = txn.open_table(META).map_err(backend(path, "opening"))?;
        let found = meta.get(VERSION_KEY).map_err(backend(path, "opening"))?;
        let found = found.map(|v| v.value().first().copied().unwrap_or(0));
        match found {
            Some(VERSION) => return Ok(()),
            Some(version) => {
                return Err(StoreError::Newer {
                    file: path.to_owned(),
                    version,
                    max: VERSION,
                });
            }
            None => {
                meta.insert(VERSION_KEY, &[VERSION][..])
                    .map_err(backend(path, "opening"))?;
            }
        }
    }
    txn.commit().map_err(backend(path, "opening"))
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
    Ok(Arc::new(Layered {
        tree: Arc::new(Tree::of(&db, path)?),
        recent: Arc::<Recent>::default(),
    }))
}

impl Store for RedbStore {
    fn name(&self) -> &'static str {
        "redb"
    }

    fn view(&self) -> Result<Arc<dyn View>, StoreError> {
        let now = self.now.read().unwrap_or_else(PoisonError::into_inner);
        Ok(Arc::new(Layered {
            tree: now.tree.clone(),
            recent: now.recent.clone(),
        }))
    }

    fn read(&self, f: &mut dyn FnMut(&dyn View)) -> Result<(), StoreError> {
        let now = self.now.read().unwrap_or_else(PoisonError::into_inner);
        f(&Layered {
            tree: &*now.tree,
            recent: &*now.recent,
        });
        Ok(())
    }

    fn commit(&self, changes: Changes, durable: bool) -> Result<(), StoreError> {
        let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let recent = {
            let mut now = self.now.write().unwrap_or_else(PoisonError::into_inner);
            // Copied only while somebody holds a view of it.
            let recent = Arc::make_mut(&mut now.recent);
            recent.add(changes);
            if !durable && recent.bytes < self.recent_bytes_max {
                return Ok(());
            }
            now.recent.clone()
        };
        self.write(durable, |txn| {
            {
                let mut rows = txn.open_table(ROWS).map_err(self.err("opening a table"))?;
                for (k, v) in &recent.rows {
                    match v {
                        Some(v) => rows.insert(&k[..], &v[..]).map(drop),
                        None => rows.remove(&k[..]).map(drop),
                    }
                    .map_err(self.err("writing"))?;
                }
            }
            match &recent.meta {
                Some(m) => self.put_meta(txn, m),
                None => Ok(()),
            }
        })?;
        self.written()
    }

    fn replace(&self, source: RowSource<'_>, meta: Vec<u8>) -> Result<(), StoreError> {
        let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
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
        })?;
        self.written()
    }
}

fn own(
    r: Result<(redb::AccessGuard<'_, &[u8]>, redb::AccessGuard<'_, &[u8]>), redb::StorageError>,
) -> Result<Row, KvError> {
    let (k, v) = r.map_err(kv)?;
    Ok((k.value().to_vec(), v.value().to_vec()))
}

impl Tree {
    fn of(db: &impl ReadableDatabase, path: &Path) -> Result<Self, StoreError> {
        let txn = db.begin_read().map_err(backend(path, "reading"))?;
        Ok(Self {
            rows: txn.open_table(ROWS).map_err(backend(path, "reading"))?,
            meta: txn.open_table(META).map_err(backend(path, "reading"))?,
        })
    }

    fn span(&self, span: Span<'_>) -> Result<Vec<Row>, KvError> {
        let range = self.rows.range::<&[u8]>(span.bounds()).map_err(kv)?;
        match span.reverse {
            true => range.rev().take(span.limit).map(own).collect(),
            false => range.take(span.limit).map(own).collect(),
        }
    }
}

impl<T: Deref<Target = Tree>, R: Deref<Target = Recent>> KvRead for Layered<T, R> {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, KvError> {
        if let Some(recent) = self.recent.rows.get(key) {
            return Ok(recent.clone());
        }
        let found = self.tree.rows.get(key).map_err(kv)?;
        Ok(found.map(|v| v.value().to_vec()))
    }

    fn scan(
        &self,
        from: &[u8],
        to: &[u8],
        limit: usize,
        reverse: bool,
    ) -> Result<Vec<Row>, KvError> {
        let span = Span {
            from,
            to: Some(to),
            limit,
            reverse,
        };
        merged(&self.recent.rows, span, |s| self.tree.span(s))
    }
}

impl<T, R> View for Layered<T, R>
where
    T: Deref<Target = Tree> + Send + Sync,
    R: Deref<Target = Recent> + Send + Sync,
{
    fn meta(&self) -> Result<Option<Vec<u8>>, KvError> {
        if self.recent.meta.is_some() {
            return Ok(self.recent.meta.clone());
        }
        let found = self.tree.meta.get(META_KEY).map_err(kv)?;
        Ok(found.map(|v| v.value().to_vec()))
    }

    fn rows_after(&self, after: Option<&[u8]>, limit: usize) -> Result<Vec<Row>, KvError> {
        let from = after.map_or(Vec::new(), |a| [a, &[0][..]].concat());
        let span = Span {
            from: &from,
            to: None,
            limit,
            reverse: false,
        };
        merged(&self.recent.rows, span, |s| self.tree.span(s))
    }
}
