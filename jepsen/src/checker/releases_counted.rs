//! No share leaves uncounted: a custodian's log has at least as many entries
//! of releases as shares were seen to leave. It may have more: an entry stands
//! before the reply, and a reply can be lost.
//!
//! Record `counts`: `{"custodian", "seen", "entries"}`, `seen` from clients or
//! the switch, `entries` from the log after everything is healed.

use super::{CheckResult, Checker, Evidence, TestRecord, records};
use serde::Deserialize;
use serde_json::{Value as Json, json};

/// See the module.
pub struct ReleasesCounted;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Count {
    custodian: String,
    seen: u64,
    entries: u64,
}

impl Checker for ReleasesCounted {
    fn name(&self) -> &'static str {
        "releases-counted"
    }

    fn check(&self, test: &TestRecord) -> CheckResult {
        let counts: Vec<Count> = match records::read(test, "counts") {
            Ok(counts) => counts,
            Err(why) => return CheckResult::unknown(why, Json::Null),
        };
        let seen: u64 = counts.iter().map(|c| c.seen).sum();
        let entries: u64 = counts.iter().map(|c| c.entries).sum();
        let details = json!({"seen": seen, "entries": entries});
        let short = counts.iter().filter(|c| c.entries < c.seen);
        let found: Vec<Evidence> = short
            .map(|c| {
                Evidence::new(
                    format!(
                        "{}: {} shares left, the log has {}",
                        c.custodian, c.seen, c.entries
                    ),
                    [],
                )
            })
            .collect();
        if seen == 0 {
            return CheckResult::unknown("no share was seen to leave", details);
        }
        CheckResult::from_findings(found, details)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checker::testing::{Directory, with_records};
    use crate::verdict::Verdict;

    #[test]
    fn more_entries_are_fine_and_fewer_are_not() {
        let dir = Directory::new("counted");
        let check = |seen: u64, entries: u64| {
            let line = json!({"custodian": "ch", "seen": seen, "entries": entries}).to_string();
            ReleasesCounted
                .check(&with_records(&dir, &[("counts", &line)]))
                .verdict
        };
        assert_eq!(
            [check(5, 5), check(5, 9), check(5, 4), check(0, 0)],
            [
                Verdict::True,
                Verdict::True,
                Verdict::False,
                Verdict::Unknown
            ]
        );
    }
}
