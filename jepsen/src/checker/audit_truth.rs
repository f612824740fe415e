//! A custodian's log only grows: no node's log gets shorter over a crash, no
//! two heads of one size differ, and every head ever seen is one of the log
//! that is there at the end.
//!
//! Records:
//! - `heads`: `{"custodian", "node", "size", "root", "at_ms"}` for each head
//!   that the harness saw, the root in hex, in the order of `at_ms`.
//! - `log`: `{"custodian", "leaf"}` for each entry of the final log, in order;
//!   the leaf's hash in hex (RFC 6962: SHA-256 of 0x00 and the entry).

use super::{CheckResult, Checker, Evidence, TestRecord, records};
use quorate_engine::audit::{CompactRange, Hash, empty_root};
use serde::Deserialize;
use serde_json::{Value as Json, json};
use std::collections::{BTreeMap, BTreeSet};

/// See the module.
pub struct AuditTruth;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Head {
    custodian: String,
    node: u64,
    size: u64,
    root: String,
    at_ms: u64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Leaf {
    custodian: String,
    leaf: String,
}

impl Checker for AuditTruth {
    fn name(&self) -> &'static str {
        "audit-truth"
    }

    fn check(&self, test: &TestRecord) -> CheckResult {
        match judge(test) {
            Ok(result) => result,
            Err(why) => CheckResult::unknown(why, Json::Null),
        }
    }
}

fn judge(test: &TestRecord) -> Result<CheckResult, String> {
    let heads: Vec<Head> = records::read(test, "heads")?;
    let log: Vec<Leaf> = records::read(test, "log")?;
    // The root of each log at each size.
    let mut logs: BTreeMap<&str, (CompactRange, Vec<String>)> = BTreeMap::new();
    for line in &log {
        let mut leaf: Hash = [0; 32];
        hex::decode_to_slice(&line.leaf, &mut leaf)
            .map_err(|e| format!("leaf {:?}: {e}", line.leaf))?;
        let (range, roots) = logs
            .entry(&line.custodian)
            .or_insert_with(|| (CompactRange::default(), vec![hex::encode(empty_root())]));
        range.append(leaf, |_, _, _| {});
        roots.push(hex::encode(range.root()));
    }
    let mut found = Vec::new();
    let mut longest: BTreeMap<(&str, u64), &Head> = BTreeMap::new();
    let mut told = BTreeSet::new();
    for head in &heads {
        let at = format!("{} node {} at {} ms", head.custodian, head.node, head.at_ms);
        let before = longest.entry((&head.custodian, head.node)).or_insert(head);
        if head.size < before.size && told.insert((&head.custodian, head.node)) {
            found.push(Evidence::new(
                format!(
                    "{at}: the log has {} entries, it had {} at {} ms",
                    head.size, before.size, before.at_ms
                ),
                [],
            ));
        }
        if head.size > before.size {
            *before = head;
        }
        let Some((_, roots)) = logs.get(&*head.custodian) else {
            return Err(format!(
                "records/log.jsonl has nothing of {}",
                head.custodian
            ));
        };
        match usize::try_from(head.size)
            .ok()
            .and_then(|size| roots.get(size))
        {
            None => found.push(Evidence::new(
                format!(
                    "{at}: a head of {} entries, the log ends with {}",
                    head.size,
                    roots.len() - 1
                ),
                [],
            )),
            Some(root) if *root != head.root => found.push(Evidence::new(
                format!(
                    "{at}: the head of {} entries is not one of the log that is there now",
                    head.size
                ),
                [],
            )),
            Some(_) => {}
        }
    }
    let details = json!({"heads": heads.len(), "entries": log.len(), "findings": found.len()});
    Ok(CheckResult::from_findings(found, details))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checker::testing::{Directory, with_records};
    use crate::verdict::Verdict;
    use quorate_engine::audit::leaf_hash;

    #[test]
    fn heads_are_of_one_growing_log() {
        let dir = Directory::new("audit-truth");
        let leaves: Vec<Hash> = (0..4_u8).map(|i| leaf_hash(&[i])).collect();
        let log: String = leaves
            .iter()
            .map(|l| format!("{{\"custodian\":\"ch\",\"leaf\":\"{}\"}}\n", hex::encode(l)))
            .collect();
        let root = |size: usize| {
            let mut range = CompactRange::default();
            leaves[..size]
                .iter()
                .for_each(|l| range.append(*l, |_, _, _| {}));
            hex::encode(range.root())
        };
        let head = |node: u64, size: usize, root: String| {
            format!(
                "{{\"custodian\":\"ch\",\"node\":{node},\"size\":{size},\"root\":\"{root}\",\"at_ms\":{size}}}\n"
            )
        };
        let check = |heads: &[String]| {
            let test = with_records(&dir, &[("heads", &heads.concat()), ("log", &log)]);
            AuditTruth.check(&test).verdict
        };
        assert_eq!(
            check(&[
                head(1, 2, root(2)),
                head(2, 1, root(1)),
                head(1, 4, root(4))
            ]),
            Verdict::True
        );
        assert_eq!(
            check(&[head(1, 3, root(3)), head(1, 2, root(2))]),
            Verdict::False,
            "shorter"
        );
        assert_eq!(check(&[head(1, 3, root(2))]), Verdict::False, "another log");
        assert_eq!(
            check(&[head(1, 5, root(4))]),
            Verdict::False,
            "entries are gone"
        );
        assert_eq!(check(&[]), Verdict::Unknown);
    }
}
