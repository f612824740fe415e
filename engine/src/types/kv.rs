//! The border between replicated state machines and whatever stores them.
//!
//! A state machine reads and writes one ordered key space. The `node` crate
//! gives it a transaction of its store; tests give it a `BTreeMap`.

use std::collections::BTreeMap;
use std::ops::Bound;

/// The store failed. Nothing can be decided on top of that: a node that meets
/// it stops, and says why.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the state store failed: {0}")]
pub struct KvError(pub String);

/// One row: key and value.
pub type Row = (Vec<u8>, Vec<u8>);

/// Reading replicated state.
pub trait KvRead {
    /// The value under `key`.
    ///
    /// # Errors
    /// [`KvError`] when the store cannot be read.
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, KvError>;

    /// Up to `limit` rows with `from <= key < to`, ascending, or descending when `reverse`.
    ///
    /// # Errors
    /// [`KvError`] when the store cannot be read.
    fn scan(
        &self,
        from: &[u8],
        to: &[u8],
        limit: usize,
        reverse: bool,
    ) -> Result<Vec<Row>, KvError>;
}

/// Reading and writing replicated state inside one transaction.
pub trait Kv: KvRead {
    /// Sets `key` to `value`.
    ///
    /// # Errors
    /// [`KvError`] when the store cannot be written.
    fn put(&mut self, key: &[u8], value: &[u8]) -> Result<(), KvError>;

    /// Removes `key`, if it is there.
    ///
    /// # Errors
    /// [`KvError`] when the store cannot be written.
    fn delete(&mut self, key: &[u8]) -> Result<(), KvError>;
}

/// Where in its log a command was committed.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    serde::Serialize,
    serde::Deserialize,
)]
pub struct Position {
    /// Raft term of the leader that proposed it.
    pub term: u64,
    /// Raft log index.
    pub index: u64,
}

/// A replicated state machine: the same commands in the same order give the
/// same state and the same replies on every node, whatever the bytes are.
pub trait Machine: Send + Sync + 'static {
    /// Applies one committed command and returns its encoded reply.
    ///
    /// Undecodable bytes are answered by an encoded refusal, never by a panic
    /// or an `Err`: they were committed, and every node must pass them alike.
    ///
    /// # Errors
    /// [`KvError`] only when the store itself failed.
    fn apply(&self, kv: &mut dyn Kv, at: Position, command: &[u8]) -> Result<Vec<u8>, KvError>;
}

/// An in-memory [`Kv`] for tests and the simulation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MemKv(pub BTreeMap<Vec<u8>, Vec<u8>>);

impl KvRead for MemKv {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, KvError> {
        Ok(self.0.get(key).cloned())
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
        let range = self
            .0
            .range::<[u8], _>((Bound::Included(from), Bound::Excluded(to)));
        let own = |(k, v): (&Vec<u8>, &Vec<u8>)| (k.clone(), v.clone());
        Ok(if reverse {
            range.rev().take(limit).map(own).collect()
        } else {
            range.take(limit).map(own).collect()
        })
    }
}

impl Kv for MemKv {
    fn put(&mut self, key: &[u8], value: &[u8]) -> Result<(), KvError> {
        self.0.insert(key.to_vec(), value.to_vec());
        Ok(())
    }
    fn delete(&mut self, key: &[u8]) -> Result<(), KvError> {
        self.0.remove(key);
        Ok(())
    }
}
