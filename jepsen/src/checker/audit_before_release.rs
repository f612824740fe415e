//! Every share that left a custodian has its entry in the custodian's log,
//! durable on a majority of its nodes, whatever happened to them afterwards.
//!
//! Records, written after the nodes came back from kill or power cut:
//! - `releases`: `{"custodian", "request", "entry", "nodes"}` for each share
//!   reply that a client got or the switch saw; `entry` is the log position in
//!   the reply, `nodes` how many the custodian has.
//! - `entries`: `{"custodian", "node", "entry", "request"}` for each entry of a
//!   release that a node holds on its disk.

use super::{CheckResult, Checker, Evidence, TestRecord, records};
use serde::Deserialize;
use serde_json::{Value as Json, json};
use std::collections::{BTreeMap, BTreeSet};

/// See the module.
pub struct AuditBeforeRelease;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Release {
    custodian: String,
    request: String,
    entry: u64,
    nodes: usize,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    custodian: String,
    node: u64,
    entry: u64,
    request: String,
}

impl Checker for AuditBeforeRelease {
    fn name(&self) -> &'static str {
        "audit-before-release"
    }

    fn check(&self, test: &TestRecord) -> CheckResult {
        match judge(test) {
            Ok(result) => result,
            Err(why) => CheckResult::unknown(why, Json::Null),
        }
    }
}

fn judge(test: &TestRecord) -> Result<CheckResult, String> {
    let releases: Vec<Release> = records::read(test, "releases")?;
    let entries: Vec<Entry> = records::read(test, "entries")?;
    let mut held: BTreeMap<(&str, u64, &str), BTreeSet<u64>> = BTreeMap::new();
    for e in &entries {
        held.entry((&e.custodian, e.entry, &e.request))
            .or_default()
            .insert(e.node);
    }
    let mut found = Vec::new();
    for r in &releases {
        let have = held
            .get(&(&*r.custodian, r.entry, &*r.request))
            .map_or(0, BTreeSet::len);
        if have <= r.nodes / 2 {
            found.push(Evidence::new(
                format!(
                    "{}: a share left for request {}, but its entry {} lies on {have} of {} nodes",
                    r.custodian, r.request, r.entry, r.nodes
                ),
                [],
            ));
        }
    }
    let details =
        json!({"releases": releases.len(), "entries": entries.len(), "findings": found.len()});
    Ok(CheckResult::from_findings(found, details))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checker::testing::{Directory, with_records};
    use crate::verdict::Verdict;

    #[test]
    fn a_majority_holds_the_entry_of_every_release() {
        let dir = Directory::new("audit-before-release");
        let entry = |node| {
            format!("{{\"custodian\":\"ch\",\"node\":{node},\"entry\":5,\"request\":\"r\"}}\n")
        };
        let release = "{\"custodian\":\"ch\",\"request\":\"r\",\"entry\":5,\"nodes\":3}\n";
        let check = |entries: &str| {
            let test = with_records(&dir, &[("releases", release), ("entries", entries)]);
            AuditBeforeRelease.check(&test).verdict
        };
        assert_eq!(check(&(entry(1) + &entry(3))), Verdict::True);
        assert_eq!(check(&(entry(1) + &entry(1))), Verdict::False);
        assert_eq!(
            check(&entry(2).replace("\"entry\":5", "\"entry\":6")),
            Verdict::False
        );
        assert_eq!(check(""), Verdict::Unknown);
        assert_eq!(check("{\"custodian\":\"ch\"}"), Verdict::Unknown);
    }
}
