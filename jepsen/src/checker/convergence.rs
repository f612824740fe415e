//! After everything is healed the replicas of a cluster become equal, and soon.
//!
//! Record `hashes`: `{"cluster", "node", "applied", "hash", "healed_ms",
//! "at_ms"}`, one line each time the harness asked a node for the hash of its
//! state after the last heal. Limit: `spec.converge_ms_max`, else
//! [`CONVERGE_MS_MAX`].

use super::{CheckResult, Checker, Evidence, TestRecord, records};
use serde::Deserialize;
use serde_json::{Value as Json, json};
use std::collections::{BTreeMap, BTreeSet};

/// Usual limit, in milliseconds.
pub const CONVERGE_MS_MAX: u64 = 60_000;

/// See the module.
pub struct Convergence;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    cluster: String,
    node: u64,
    applied: u64,
    hash: String,
    healed_ms: u64,
    at_ms: u64,
}

impl Checker for Convergence {
    fn name(&self) -> &'static str {
        "convergence"
    }

    fn check(&self, test: &TestRecord) -> CheckResult {
        let lines: Vec<Line> = match records::read(test, "hashes") {
            Ok(lines) => lines,
            Err(why) => return CheckResult::unknown(why, Json::Null),
        };
        let limit = test
            .spec
            .get("converge_ms_max")
            .and_then(Json::as_u64)
            .unwrap_or(CONVERGE_MS_MAX);
        let mut found = Vec::new();
        let mut took = BTreeMap::new();
        let mut at: BTreeMap<(&str, u64), BTreeMap<&str, u64>> = BTreeMap::new();
        for line in &lines {
            at.entry((&line.cluster, line.applied))
                .or_default()
                .insert(&line.hash, line.node);
        }
        for ((cluster, applied), hashes) in at.iter().filter(|(_, hashes)| hashes.len() > 1) {
            let nodes: Vec<String> = hashes.values().map(u64::to_string).collect();
            found.push(Evidence::new(
                format!(
                    "{cluster}: nodes {} have different states at position {applied}",
                    nodes.join(", ")
                ),
                [],
            ));
        }
        let clusters: BTreeSet<&str> = lines.iter().map(|l| l.cluster.as_str()).collect();
        for cluster in clusters {
            let of: Vec<&Line> = lines.iter().filter(|l| l.cluster == cluster).collect();
            let nodes: BTreeSet<u64> = of.iter().map(|l| l.node).collect();
            let mut last: BTreeMap<u64, (u64, &str)> = BTreeMap::new();
            let mut equal_at = None;
            for line in of {
                last.insert(line.node, (line.applied, &line.hash));
                let states: BTreeSet<_> = last.values().collect();
                if last.len() == nodes.len() && states.len() == 1 {
                    equal_at = equal_at.or(Some(line.at_ms.saturating_sub(line.healed_ms)));
                }
            }
            match equal_at {
                Some(ms) if ms <= limit => {
                    took.insert(cluster, ms);
                }
                Some(ms) => found.push(Evidence::new(
                    format!("{cluster}: equal only after {ms} ms, the limit is {limit}"),
                    [],
                )),
                None => found.push(Evidence::new(
                    format!("{cluster}: its {} nodes never had one state", nodes.len()),
                    [],
                )),
            }
        }
        let details = json!({"lines": lines.len(), "took_ms": took, "limit_ms": limit});
        CheckResult::from_findings(found, details)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checker::testing::{Directory, with_records};
    use crate::verdict::Verdict;

    #[test]
    fn replicas_become_equal_in_time() {
        let dir = Directory::new("convergence");
        let line = |node: u64, applied: u64, hash: &str, at_ms: u64| {
            json!({"cluster": "home", "node": node, "applied": applied, "hash": hash, "healed_ms": 100, "at_ms": at_ms}).to_string() + "\n"
        };
        let check = |lines: &[String]| {
            Convergence
                .check(&with_records(&dir, &[("hashes", &lines.concat())]))
                .verdict
        };
        assert_eq!(
            check(&[
                line(1, 9, "b", 110),
                line(2, 8, "a", 110),
                line(2, 9, "b", 500)
            ]),
            Verdict::True
        );
        assert_eq!(
            check(&[line(1, 9, "b", 110), line(2, 8, "a", 110)]),
            Verdict::False,
            "never"
        );
        assert_eq!(
            check(&[line(1, 9, "b", 110), line(2, 9, "b", 90_000)]),
            Verdict::False,
            "late"
        );
        assert_eq!(
            check(&[
                line(1, 9, "b", 110),
                line(2, 9, "a", 110),
                line(2, 9, "b", 120)
            ]),
            Verdict::False,
            "two states at one position"
        );
    }
}
