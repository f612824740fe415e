//! A node whose fsync failed acknowledges nothing more: it stops. Trying again
//! would report as durable what the kernel has thrown away.
//!
//! Record `fsync`: `{"node", "failed_ms", "stopped_ms", "acknowledged_after"}`
//! for each node whose fsync failed; `stopped_ms` null when it went on,
//! `acknowledged_after` how many operations it answered with success between.
//! What was acknowledged before and is missing afterwards is for `set-full`
//! and `lists` to find. A node has [`STOP_MS_MAX`] to stop.

use super::{CheckResult, Checker, Evidence, TestRecord, records};
use serde::Deserialize;
use serde_json::{Value as Json, json};

/// Longest a node may live on after the failure, in milliseconds: the log of its end is written.
pub const STOP_MS_MAX: u64 = 10_000;

/// See the module.
pub struct FsyncDiscipline;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Failed {
    node: String,
    failed_ms: u64,
    stopped_ms: Option<u64>,
    acknowledged_after: u64,
}

impl Checker for FsyncDiscipline {
    fn name(&self) -> &'static str {
        "fsync-discipline"
    }

    fn check(&self, test: &TestRecord) -> CheckResult {
        let failed: Vec<Failed> = match records::read(test, "fsync") {
            Ok(failed) => failed,
            Err(why) => return CheckResult::unknown(why, Json::Null),
        };
        let mut found = Vec::new();
        for f in &failed {
            let mut say = |what: String| {
                found.push(Evidence::new(
                    format!("{}: fsync failed at {} ms, {what}", f.node, f.failed_ms),
                    [],
                ));
            };
            if f.acknowledged_after > 0 {
                say(format!(
                    "then it acknowledged {} operations",
                    f.acknowledged_after
                ));
            }
            match f.stopped_ms {
                None => say("and it went on".into()),
                Some(at) if at > f.failed_ms + STOP_MS_MAX => {
                    say(format!("and it stopped only at {at} ms"))
                }
                Some(_) => {}
            }
        }
        let details = json!({"failures": failed.len(), "findings": found.len()});
        CheckResult::from_findings(found, details)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checker::testing::{Directory, with_records};
    use crate::verdict::Verdict;

    #[test]
    fn a_node_stops_at_once_and_says_nothing_more() {
        let dir = Directory::new("fsync");
        let check = |stopped: Json, after: u64| {
            let line = json!({"node": "home-1", "failed_ms": 100, "stopped_ms": stopped, "acknowledged_after": after});
            FsyncDiscipline
                .check(&with_records(&dir, &[("fsync", &line.to_string())]))
                .verdict
        };
        assert_eq!(check(json!(150), 0), Verdict::True);
        assert_eq!(check(json!(150), 1), Verdict::False);
        assert_eq!(check(Json::Null, 0), Verdict::False);
        assert_eq!(check(json!(60_000), 0), Verdict::False);
    }
}
