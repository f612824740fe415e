//! sled 0.34.7, selectable for comparison. Not trusted over an unclean stop.
//!
//! It lost synced data under power cuts even with every file synced from
//! outside (`docs/dependencies.md`), so nothing relies on its durability: a
//! marker beside it says whether the last stop was clean, and without it the
//! directory is wiped and the state rebuilt from our own snapshot and log.
//! Its iterators are not snapshots either; a lock keeps readers and commits
//! apart, and a view is a copy.

use super::memory::Image;
use super::{Changes, RowSource, Store, StoreError, View};
use quorate_engine::types::kv::{KvError, KvRead, Row};
use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

/// Present only between a clean stop and the next start.
const CLEAN_MARKER: &str = "clean";
const META_KEY: &[u8] = b"state";
/// Rows per batch when the store is replaced.
const REPLACE_ROWS_MAX: usize = 4096;

/// The store.
pub struct SledStore {
    db: sled::Db,
    rows: sled::Tree,
    path: PathBuf,
    gate: RwLock<()>,
}

struct SledView<'a>(&'a SledStore);

fn kv(e: impl std::fmt::Display) -> KvError {
    KvError(format!("sled: {e}"))
}

fn marker(path: &Path) -> PathBuf {
    path.with_extension(CLEAN_MARKER)
}

fn backend<E: std::fmt::Display>(path: &Path, what: &'static str) -> impl Fn(E) -> StoreError {
    move |e| StoreError::Backend {
        file: path.to_owned(),
        what,
        reason: e.to_string(),
    }
}

impl SledStore {
    fn err<E: std::fmt::Display>(&self, what: &'static str) -> impl Fn(E) -> StoreError {
        backend(&self.path, what)
    }

    /// Opens the directory at `path`; wipes it first unless it was stopped cleanly.
    ///
    /// # Errors
    /// [`StoreError`] when it cannot be opened.
    pub fn open(path: &Path, cache_bytes: usize) -> Result<Self, StoreError> {
        let clean = marker(path);
        if path.exists() && !clean.exists() {
            tracing::warn!(store = %path.display(), "sled was not stopped cleanly: wiping it, the state is rebuilt from snapshot and log");
            std::fs::remove_dir_all(path).map_err(backend(path, "wiping"))?;
        }
        if clean.exists() {
            std::fs::remove_file(&clean).map_err(backend(path, "opening"))?;
        }
        sync_parent(path)?;
        let db = sled::Config::new()
            .path(path)
            .cache_capacity(cache_bytes as u64)
            .flush_every_ms(None)
            .open()
            .map_err(backend(path, "opening"))?;
        let rows = db.open_tree("rows").map_err(backend(path, "opening"))?;
        Ok(Self {
            db,
            rows,
            path: path.to_owned(),
            gate: RwLock::new(()),
        })
    }

    fn flush(&self) -> Result<(), StoreError> {
        self.db.flush().map(drop).map_err(self.err("flushing"))
    }
}

fn sync_parent(path: &Path) -> Result<(), StoreError> {
    let parent = path.parent().unwrap_or(path);
    std::fs::File::open(parent)
        .and_then(|d| d.sync_all())
        .map_err(backend(path, "syncing"))
}

/// Rows and record share one tree, so that one batch is one transaction.
fn row_key(key: &[u8]) -> Vec<u8> {
    let mut k = Vec::with_capacity(key.len() + 1);
    k.push(1);
    k.extend_from_slice(key);
    k
}

fn meta_key() -> Vec<u8> {
    let mut k = vec![0];
    k.extend_from_slice(META_KEY);
    k
}

impl Store for SledStore {
    fn name(&self) -> &'static str {
        "sled"
    }

    fn view(&self) -> Result<Arc<dyn View>, StoreError> {
        let _gate = self.gate.read().unwrap_or_else(PoisonError::into_inner);
        let v = SledView(self);
        let mut image = Image {
            meta: v.meta().map_err(self.err("reading"))?,
            ..Image::default()
        };
        let copied: Result<u64, KvError> = super::walk(&v, |k, val| {
            image.rows.0.insert(k.to_vec(), val.to_vec());
            Ok(())
        });
        copied.map_err(self.err("reading"))?;
        Ok(Arc::new(image))
    }

    fn read(&self, f: &mut dyn FnMut(&dyn View)) -> Result<(), StoreError> {
        let _gate = self.gate.read().unwrap_or_else(PoisonError::into_inner);
        f(&SledView(self));
        Ok(())
    }

    fn commit(&self, changes: Changes, durable: bool) -> Result<(), StoreError> {
        {
            let _gate = self.gate.write().unwrap_or_else(PoisonError::into_inner);
            let mut batch = sled::Batch::default();
            for (k, v) in changes.rows {
                match v {
                    Some(v) => batch.insert(row_key(&k), v),
                    None => batch.remove(row_key(&k)),
                }
            }
            if let Some(m) = changes.meta {
                batch.insert(meta_key(), m);
            }
            self.rows
                .apply_batch(batch)
                .map_err(self.err("committing"))?;
        }
        if durable { self.flush() } else { Ok(()) }
    }

    fn replace(&self, source: RowSource<'_>, meta: Vec<u8>) -> Result<(), StoreError> {
        {
            let _gate = self.gate.write().unwrap_or_else(PoisonError::into_inner);
            self.rows.clear().map_err(self.err("emptying"))?;
            loop {
                let chunk = source()?;
                if chunk.is_empty() {
                    break;
                }
                for part in chunk.chunks(REPLACE_ROWS_MAX) {
                    let mut batch = sled::Batch::default();
                    for (k, v) in part {
                        batch.insert(row_key(k), &v[..]);
                    }
                    self.rows.apply_batch(batch).map_err(self.err("writing"))?;
                }
            }
            self.rows
                .insert(meta_key(), meta)
                .map_err(self.err("writing"))?;
        }
        self.flush()
    }

    fn close(&self) -> Result<(), StoreError> {
        let _gate = self.gate.write().unwrap_or_else(PoisonError::into_inner);
        self.flush()?;
        // Its own flush does not reach the disk: sync every file before the
        // marker claims that all is there.
        for entry in std::fs::read_dir(&self.path).map_err(self.err("syncing"))? {
            let path = entry.map_err(self.err("syncing"))?.path();
            std::fs::File::open(&path)
                .and_then(|f| f.sync_all())
                .map_err(self.err("syncing"))?;
        }
        let clean = marker(&self.path);
        std::fs::File::create(&clean)
            .and_then(|f| f.sync_all())
            .map_err(self.err("syncing"))?;
        sync_parent(&self.path)
    }
}

impl SledView<'_> {
    fn collect(
        iter: impl Iterator<Item = sled::Result<(sled::IVec, sled::IVec)>>,
        limit: usize,
    ) -> Result<Vec<Row>, KvError> {
        iter.take(limit)
            .map(|r| {
                let (k, v) = r.map_err(kv)?;
                Ok((k[1..].to_vec(), v.to_vec()))
            })
            .collect()
    }
}

impl KvRead for SledView<'_> {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, KvError> {
        Ok(self
            .0
            .rows
            .get(row_key(key))
            .map_err(kv)?
            .map(|v| v.to_vec()))
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
        let range = self.0.rows.range(row_key(from)..row_key(to));
        if reverse {
            Self::collect(range.rev(), limit)
        } else {
            Self::collect(range, limit)
        }
    }
}

impl View for SledView<'_> {
    fn meta(&self) -> Result<Option<Vec<u8>>, KvError> {
        Ok(self.0.rows.get(meta_key()).map_err(kv)?.map(|v| v.to_vec()))
    }

    fn rows_after(&self, after: Option<&[u8]>, limit: usize) -> Result<Vec<Row>, KvError> {
        let from = match after {
            Some(a) => Bound::Excluded(row_key(a)),
            None => Bound::Included(vec![1]),
        };
        Self::collect(
            self.0.rows.range::<Vec<u8>, _>((from, Bound::Unbounded)),
            limit,
        )
    }
}
