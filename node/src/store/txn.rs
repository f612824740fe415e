//! A write transaction: changes in memory over a consistent view.
//!
//! One implementation for every store, so that what a machine reads back
//! inside a transaction does not depend on the store under it. A batch of
//! entries that touches a row many times writes it once.

use super::layers::{Rows, Span, merged};
use super::{Changes, View};
use quorate_engine::types::kv::{Kv, KvError, KvRead, Row};

/// Changes over a view.
pub struct Txn<'a> {
    base: &'a dyn View,
    rows: Rows,
}

impl<'a> Txn<'a> {
    /// A transaction over `base`, which must not change while it lives.
    pub fn new(base: &'a dyn View) -> Self {
        Self {
            base,
            rows: Rows::new(),
        }
    }

    /// The changes made, with `meta` beside them.
    pub fn into_changes(self, meta: Option<Vec<u8>>) -> Changes {
        Changes {
            rows: self.rows,
            meta,
        }
    }
}

impl KvRead for Txn<'_> {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, KvError> {
        match self.rows.get(key) {
            Some(v) => Ok(v.clone()),
            None => self.base.get(key),
        }
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
        merged(&self.rows, span, |s| {
            self.base.scan(s.from, s.to.unwrap_or(to), limit, reverse)
        })
    }
}

impl Kv for Txn<'_> {
    fn put(&mut self, key: &[u8], value: &[u8]) -> Result<(), KvError> {
        self.rows.insert(key.to_vec(), Some(value.to_vec()));
        Ok(())
    }
    fn delete(&mut self, key: &[u8]) -> Result<(), KvError> {
        self.rows.insert(key.to_vec(), None);
        Ok(())
    }
}
