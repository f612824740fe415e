//! A store in memory: nothing survives the process but snapshots and the log.

use super::{Changes, RowSource, Store, StoreError, View};
use quorate_engine::types::kv::{KvError, KvRead, MemKv, Row};
use std::ops::Bound;
use std::sync::{Arc, PoisonError, RwLock};

/// Rows and the record beside them.
#[derive(Clone, Debug, Default)]
pub struct Image {
    /// The rows.
    pub rows: MemKv,
    /// The record.
    pub meta: Option<Vec<u8>>,
}

impl Image {
    /// Makes `changes`.
    pub fn change(&mut self, changes: Changes) {
        for (k, v) in changes.rows {
            match v {
                Some(v) => self.rows.0.insert(k, v),
                None => self.rows.0.remove(&k),
            };
        }
        if changes.meta.is_some() {
            self.meta = changes.meta;
        }
    }
}

impl KvRead for Image {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, KvError> {
        self.rows.get(key)
    }
    fn scan(
        &self,
        from: &[u8],
        to: &[u8],
        limit: usize,
        reverse: bool,
    ) -> Result<Vec<Row>, KvError> {
        self.rows.scan(from, to, limit, reverse)
    }
}

impl View for Image {
    fn meta(&self) -> Result<Option<Vec<u8>>, KvError> {
        Ok(self.meta.clone())
    }
    fn rows_after(&self, after: Option<&[u8]>, limit: usize) -> Result<Vec<Row>, KvError> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let range = self.rows.0.range::<[u8], _>((from, Bound::Unbounded));
        Ok(range
            .take(limit)
            .map(|(k, v)| (k.clone(), v.clone()))
            .collect())
    }
}

/// The store. A view that is still held when a commit comes costs a copy.
#[derive(Debug, Default)]
pub struct MemoryStore(RwLock<Arc<Image>>);

impl MemoryStore {
    /// A store that begins with `image`.
    pub fn with(image: Image) -> Self {
        Self(RwLock::new(Arc::new(image)))
    }

    /// What it holds.
    pub fn image(&self) -> Arc<Image> {
        self.0
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

impl Store for MemoryStore {
    fn name(&self) -> &'static str {
        "memory"
    }

    fn view(&self) -> Result<Arc<dyn View>, StoreError> {
        Ok(self.image())
    }

    fn read(&self, f: &mut dyn FnMut(&dyn View)) -> Result<(), StoreError> {
        f(&**self.0.read().unwrap_or_else(PoisonError::into_inner));
        Ok(())
    }

    fn commit(&self, changes: Changes, _durable: bool) -> Result<(), StoreError> {
        let mut image = self.0.write().unwrap_or_else(PoisonError::into_inner);
        Arc::make_mut(&mut image).change(changes);
        Ok(())
    }

    fn replace(&self, rows: RowSource<'_>, meta: Vec<u8>) -> Result<(), StoreError> {
        let mut new = Image {
            meta: Some(meta),
            ..Image::default()
        };
        loop {
            let chunk = rows()?;
            if chunk.is_empty() {
                break;
            }
            new.rows.0.extend(chunk);
        }
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(new);
        Ok(())
    }
}
