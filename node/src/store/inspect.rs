//! Counting what a store or a snapshot holds, for the offline dump.
//!
//! Applied position, members, and per table (first key byte) rows and bytes.
//! No key and no value leaves this module.

use super::{StoreError, View, redb, walk};
use crate::raft::snapshot::{Reader, SnapshotError, Standing};
use quorate_engine::types::kv::KvError;
use std::collections::BTreeMap;
use std::path::Path;

/// Rows whose keys begin with one byte.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Table {
    /// Rows.
    pub rows: u64,
    /// Bytes of their keys.
    pub key_bytes: u64,
    /// Bytes of their values.
    pub value_bytes: u64,
}

/// What a store or a snapshot holds.
#[derive(Clone, Debug, Default)]
pub struct Holding {
    /// Applied position and members.
    pub standing: Standing,
    /// By first key byte.
    pub tables: BTreeMap<u8, Table>,
}

impl Holding {
    fn count(&mut self, k: &[u8], v: &[u8]) {
        let t = self
            .tables
            .entry(k.first().copied().unwrap_or(0))
            .or_default();
        t.rows += 1;
        t.key_bytes += k.len() as u64;
        t.value_bytes += v.len() as u64;
    }
}

/// Counts what a view holds.
///
/// # Errors
/// [`KvError`] when it cannot be read.
pub fn view(view: &dyn View) -> Result<Holding, KvError> {
    let mut out = Holding::default();
    if let Some(bytes) = view.meta()? {
        out.standing = Standing::decode(&bytes).map_err(|e| KvError(e.to_string()))?;
    }
    walk::<KvError>(view, |k, v| {
        out.count(k, v);
        Ok(())
    })?;
    Ok(out)
}

/// Counts what a redb file holds that no process has open, changing nothing.
///
/// # Errors
/// [`StoreError`] when it cannot be read; after a kill redb wants to repair it first.
pub fn redb_file(path: &Path) -> Result<Holding, StoreError> {
    view(&*redb::read_only(path)?).map_err(|e| StoreError::Backend {
        file: path.to_owned(),
        what: "reading",
        reason: e.0,
    })
}

/// Counts what a snapshot file holds, verifying it to its last byte.
///
/// # Errors
/// [`SnapshotError`] when it is not whole.
pub fn snapshot(path: &Path) -> Result<Holding, SnapshotError> {
    let mut r = Reader::open(path)?;
    let mut out = Holding {
        standing: r.standing.clone(),
        ..Holding::default()
    };
    loop {
        let rows = r.next_rows()?;
        if rows.is_empty() {
            return Ok(out);
        }
        rows.iter().for_each(|(k, v)| out.count(k, v));
    }
}
