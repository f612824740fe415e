//! The history while it is made.

use crate::history::{History, InvalidHistory, Kind, Op, Process, Value};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

/// Takes operations in the order they are told.
pub struct Recorder {
    start: Instant,
    ops: Mutex<Vec<Op>>,
}

impl Recorder {
    /// Time begins at `start`.
    pub fn new(start: Instant) -> Self {
        Self {
            start,
            ops: Mutex::default(),
        }
    }

    /// When time began.
    pub fn start(&self) -> Instant {
        self.start
    }

    /// A line of the history, now.
    pub fn push(&self, process: Process, kind: Kind, f: &str, value: Value, error: Option<String>) {
        let mut ops = self.ops.lock().unwrap_or_else(PoisonError::into_inner);
        // Under the lock: the order of lines is the order of times.
        let index = ops.len() as u64;
        ops.push(Op {
            index,
            time: self.start.elapsed().as_nanos() as u64,
            process,
            kind,
            f: f.to_owned(),
            value,
            error,
        });
    }

    /// Lines told so far.
    pub fn lines(&self) -> usize {
        let ops = self.ops.lock().unwrap_or_else(PoisonError::into_inner);
        ops.len()
    }

    /// The history so far.
    ///
    /// # Errors
    /// When the lines are no history: a fault of the harness.
    pub fn history(&self) -> Result<History, InvalidHistory> {
        let ops = self
            .ops
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        History::new(ops)
    }
}
