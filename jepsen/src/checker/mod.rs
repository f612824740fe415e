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

pub mod audit_before_release;
pub mod audit_truth;
pub mod convergence;
pub mod create_atomicity;
pub mod deletion_permanence;
pub mod fsync_discipline;
pub mod late_nodes;
pub mod linearizable;
pub mod list_append;
pub mod liveness;
pub mod no_cross_chat;
pub mod no_release_below_quorum;
pub mod node_logs;
mod records;
pub mod releases_counted;
pub mod responses;
pub mod set_full;
pub mod simulate;
pub mod stats;
pub mod theft;

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
        "append" => vec![
            Box::new(list_append::Lists),
            Box::new(list_append::Transactions),
            Box::new(no_cross_chat::NoCrossChat),
        ],
        "set" => vec![Box::new(set_full::SetFull)],
        _ => return Vec::new(),
    };
    let every: [Box<dyn Checker>; 4] = [
        Box::new(stats::Stats),
        Box::new(liveness::Liveness),
        Box::new(responses::Responses),
        Box::new(node_logs::NodeLogs),
    ];
    own.into_iter().chain(every).collect()
}

/// Checkers that a spec asks for by name besides its workload's: `"checks": ["theft", …]`.
/// Asked for, a missing record is `unknown`.
///
/// # Errors
/// For what is not a list of names of [`by_name`].
pub fn asked_for(spec: &serde_json::Value) -> Result<Vec<Box<dyn Checker>>, String> {
    let Some(names) = spec.get("checks") else {
        return Ok(Vec::new());
    };
    let names = names.as_array().ok_or("spec.checks is not a list")?;
    let one = |name: &serde_json::Value| {
        let found = name.as_str().and_then(by_name);
        found.ok_or_else(|| format!("there is no check {name}"))
    };
    names.iter().map(one).collect()
}

/// The checker of that name, of those that no workload has by itself.
pub fn by_name(name: &str) -> Option<Box<dyn Checker>> {
    extra().into_iter().find(|c| c.name() == name)
}

/// Checkers that read records which only some runs leave.
fn extra() -> Vec<Box<dyn Checker>> {
    vec![
        Box::new(audit_before_release::AuditBeforeRelease),
        Box::new(audit_truth::AuditTruth),
        Box::new(convergence::Convergence),
        Box::new(create_atomicity::CreateAtomicity),
        Box::new(deletion_permanence::DeletionPermanence),
        Box::new(fsync_discipline::FsyncDiscipline),
        Box::new(late_nodes::LateNodes),
        Box::new(no_release_below_quorum::NoReleaseBelowQuorum),
        Box::new(releases_counted::ReleasesCounted),
        Box::new(theft::Theft),
    ]
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_known_by_name() {
        let workloads = [
            "append",
            "register",
            "set",
            "grants",
            "membership",
            "custody",
        ];
        for workload in workloads {
            let all: Vec<_> = for_workload(workload)
                .into_iter()
                .chain(extra())
                .map(|c| c.name())
                .collect();
            let mut names = all.clone();
            names.sort_unstable();
            names.dedup();
            assert_eq!(names.len(), all.len(), "{workload}: {all:?}");
        }
        assert!(for_workload("cooking").is_empty());
        let spec = serde_json::json!({"checks": ["theft", "convergence"]});
        assert_eq!(asked_for(&spec).unwrap().len(), 2);
        for bad in [
            serde_json::json!({"checks": "theft"}),
            serde_json::json!({"checks": ["x"]}),
        ] {
            assert!(asked_for(&bad).is_err());
        }
    }
}
