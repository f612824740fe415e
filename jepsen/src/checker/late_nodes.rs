//! A share that was destroyed is gone from every node, also from those that
//! were down and learned of it later by log or by snapshot.
//!
//! Record `shares`, written from all disks at the end: `{"custodian", "node",
//! "key", "state"}` with the state `share` or `tombstone`. Keys are those of
//! the custody workload's `:shred`, `[custodian key]` or the key alone.

use super::{CheckResult, Checker, Evidence, TestRecord, list, records};
use crate::checker::linearizable::show;
use crate::history::{Kind, Process, Value};
use serde::Deserialize;
use serde_json::{Value as Json, json};

/// See the module.
pub struct LateNodes;

/// A key as the harness found it on a disk.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Kept {
    pub(super) custodian: String,
    pub(super) node: u64,
    pub(super) key: String,
    pub(super) state: State,
}

#[derive(Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum State {
    Share,
    Tombstone,
}

fn text(value: &Value) -> String {
    match value {
        Value::Text(text) => text.clone(),
        other => show(other),
    }
}

impl Checker for LateNodes {
    fn name(&self) -> &'static str {
        "late-nodes"
    }

    fn check(&self, test: &TestRecord) -> CheckResult {
        let kept: Vec<Kept> = match records::read(test, "shares") {
            Ok(kept) => kept,
            Err(why) => return CheckResult::unknown(why, Json::Null),
        };
        let (mut found, mut shredded, mut looked) = (Vec::new(), 0_u64, 0_u64);
        for op in test.history.operations() {
            let acknowledged = op.outcome() == Kind::Ok && op.invoked.process != Process::Nemesis;
            let Some(end) = op
                .completed
                .filter(|_| acknowledged && op.invoked.f == "shred")
            else {
                continue;
            };
            shredded += 1;
            let (custodian, key) = match list(&op.invoked.value) {
                Some([custodian, key]) => (Some(text(custodian)), text(key)),
                _ => (None, text(&op.invoked.value)),
            };
            let meant =
                |k: &&Kept| k.key == key && custodian.as_ref().is_none_or(|c| *c == k.custodian);
            for kept in kept.iter().filter(meant) {
                looked += 1;
                if kept.state == State::Share {
                    found.push(Evidence::new(
                        format!(
                            "{} node {} still has the share of {key}",
                            kept.custodian, kept.node
                        ),
                        [op.invoked.index, end.index],
                    ));
                }
            }
        }
        let details = json!({"shredded": shredded, "looked_at": looked, "findings": found.len()});
        if looked == 0 {
            return CheckResult::unknown("no disk shows what became of a destroyed share", details);
        }
        CheckResult::from_findings(found, details)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checker::testing::{Directory, record, with_records};
    use crate::verdict::Verdict;

    #[test]
    fn every_node_has_a_tombstone_and_none_the_share() {
        let dir = Directory::new("late-nodes");
        let kept = |node, state| {
            format!(
                "{{\"custodian\":\"ch\",\"node\":{node},\"key\":\"5\",\"state\":\"{state}\"}}\n"
            )
        };
        let check = |shares: &[String]| {
            let mut test = with_records(&dir, &[("shares", &shares.concat())]);
            test.history = record("0 invoke shred [\"ch\" 5]\n0 ok shred [\"ch\" 5]").history;
            LateNodes.check(&test).verdict
        };
        assert_eq!(
            check(&[kept(1, "tombstone"), kept(2, "tombstone")]),
            Verdict::True
        );
        assert_eq!(
            check(&[kept(1, "tombstone"), kept(2, "share")]),
            Verdict::False
        );
        assert_eq!(
            check(&[kept(1, "share").replace("\"5\"", "\"6\"")]),
            Verdict::Unknown
        );
    }
}
