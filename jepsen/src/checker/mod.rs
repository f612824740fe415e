//! What a history must satisfy. Each checker reads a finished run's record and
//! says `true`, `unknown` or `false`; none talks to a node.
//!
//! ```text
//!  spec.json ─┐
//!  history ───┼─▶ TestRecord ──▶ Checker ──▶ CheckResult ──▶ results.json
//!  files ─────┘                               verdict, evidence, details
//! ```
//!
//! A checker whose record is missing or too thin says `unknown`, never `true`.
//! The values that each workload's operations carry stand in `README.md`.

pub mod linearizable;
pub mod simulate;
mod stats;

#[cfg(test)]
pub(crate) mod testing;

use crate::history::{History, Value};
use crate::verdict::Verdict;
use serde::Serialize;
use std::path::PathBuf;

/// Most findings that one checker reports; `details` has the count of all.
pub const EVIDENCE_MAX: usize = 16;

/// All that is left of a finished run.
#[derive(Clone, Debug)]
pub struct TestRecord {
    /// What was asked for: `spec.json`.
    pub spec: serde_json::Value,
    /// What clients and the nemesis saw.
    pub history: History,
    /// The run's directory, for node logs, dumps and images.
    pub dir: PathBuf,
}

/// One finding, and the lines of the history that show it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Evidence {
    /// What is wrong, in one sentence.
    pub what: String,
    /// `:index` of the lines, in the order they should be read.
    pub ops: Vec<u64>,
}

impl Evidence {
    /// A finding that these lines show.
    pub fn new(what: impl Into<String>, ops: impl IntoIterator<Item = u64>) -> Self {
        Self {
            what: what.into(),
            ops: ops.into_iter().collect(),
        }
    }
}

/// What a checker found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CheckResult {
    /// The verdict.
    pub verdict: Verdict,
    /// Why it is not true; the shortest first.
    pub evidence: Vec<Evidence>,
    /// Counts and times, whatever the checker has.
    pub details: serde_json::Value,
}

impl CheckResult {
    /// `false` when anything was found, else `true`; at most [`EVIDENCE_MAX`] findings are kept, the shortest first.
    pub fn from_findings(mut evidence: Vec<Evidence>, details: serde_json::Value) -> Self {
        let verdict = if evidence.is_empty() {
            Verdict::True
        } else {
            Verdict::False
        };
        evidence.sort_by_key(|e| e.ops.len());
        evidence.truncate(EVIDENCE_MAX);
        Self {
            verdict,
            evidence,
            details,
        }
    }

    /// `unknown`, and why.
    pub fn unknown(why: impl Into<String>, details: serde_json::Value) -> Self {
        Self {
            verdict: Verdict::Unknown,
            evidence: vec![Evidence::new(why, [])],
            details,
        }
    }
}

/// One promise.
pub trait Checker {
    /// Its name in results: lower case with hyphens.
    fn name(&self) -> &'static str;
    /// Whether the run kept it.
    fn check(&self, test: &TestRecord) -> CheckResult;
}

/// The checkers of a workload; none for a name that is not a workload.
pub fn for_workload(name: &str) -> Vec<Box<dyn Checker>> {
    use linearizable::{Linearizable, Model};
    let own: Vec<Box<dyn Checker>> = match name {
        "register" => vec![Box::new(Linearizable::new(Model::Register))],
        "grants" | "membership" => vec![Box::new(Linearizable::new(Model::Members))],
        "custody" => vec![Box::new(Linearizable::new(Model::Custody))],
        "append" | "set" => Vec::new(),
        _ => return Vec::new(),
    };
    let every: [Box<dyn Checker>; 1] = [Box::new(stats::Stats)];
    own.into_iter().chain(every).collect()
}

/// The elements of a list.
fn list(value: &Value) -> Option<&[Value]> {
    match value {
        Value::List(all) => Some(all),
        _ => None,
    }
}

/// A whole number.
fn int(value: &Value) -> Option<i64> {
    match value {
        Value::Int(n) => Some(*n),
        _ => None,
    }
}
