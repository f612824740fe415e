//! A write transaction: changes in memory over a consistent view.
//!
//! One implementation for every store, so that what a machine reads back
//! inside a transaction does not depend on the store under it. A batch of
//! entries that touches a row many times writes it once.

use super::{Changes, View};
use quorate_engine::types::kv::{Kv, KvError, KvRead, Row};
use std::collections::BTreeMap;
use std::ops::Bound;

/// Changes over a view.
pub struct Txn<'a> {
    base: &'a dyn View,
    rows: BTreeMap<Vec<u8>, Option<Vec<u8>>>,
}

impl<'a> Txn<'a> {
    /// A transaction over `base`, which must not change while it lives.
    pub fn new(base: &'a dyn View) -> Self {
        Self {
            base,
            rows: BTreeMap::new(),
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
        if from >= to || limit == 0 {
            return Ok(Vec::new());
        }
        let over = self
            .rows
            .range::<[u8], _>((Bound::Included(from), Bound::Excluded(to)));
        let mut over: Vec<_> = over.collect();
        if reverse {
            over.reverse();
        }
        if over.is_empty() {
            return self.base.scan(from, to, limit, reverse);
        }
        // Every removal in the overlay can hide one row of the base.
        let hidden = over.iter().filter(|(_, v)| v.is_none()).count();
        let base = self
            .base
            .scan(from, to, limit.saturating_add(hidden), reverse)?;
        let mut out = Vec::with_capacity(limit.min(base.len() + over.len()));
        let (mut b, mut o) = (base.into_iter().peekable(), over.into_iter().peekable());
        while out.len() < limit {
            let overlay_first = match (b.peek(), o.peek()) {
                (None, None) => break,
                (Some(_), None) => false,
                (None, Some(_)) => true,
                (Some((bk, _)), Some((ok, _))) => {
                    if bk == *ok {
                        b.next();
                        true
                    } else {
                        (*ok < bk) != reverse
                    }
                }
            };
            if overlay_first {
                if let Some((k, Some(v))) = o.next() {
                    out.push((k.clone(), v.clone()));
                }
            } else {
                out.extend(b.next());
            }
        }
        Ok(out)
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
