//! A set that only grows, such as acknowledged messages: what became of each
//! element. `:add n`; `:read` answers `[n …]`.
//!
//! An element is known from its acknowledgement or from the first read that
//! has it. *Lost* is a known element that no read shows after some read
//! missed it; *stale* one that a read missed and a later one has; *never read*
//! an acknowledged one that no later read could show. How long after it was
//! known an element was last missed is its stable latency.

use super::stats::quantile;
use super::{CheckResult, Checker, Evidence, TestRecord, list};
use crate::checker::linearizable::show;
use crate::history::{Kind, Op, Process, Value};
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};

/// See the module.
pub struct SetFull;

struct Read<'a> {
    invoked: &'a Op,
    completed: &'a Op,
    elements: BTreeSet<&'a Value>,
}

impl Checker for SetFull {
    fn name(&self) -> &'static str {
        "set-full"
    }

    fn check(&self, test: &TestRecord) -> CheckResult {
        let mut found = Vec::new();
        let mut adds: BTreeMap<&Value, (u64, Option<&Op>, Kind)> = BTreeMap::new();
        let mut reads = Vec::new();
        for op in test.history.operations() {
            let index = op.invoked.index;
            match (op.invoked.process, op.invoked.f.as_str(), op.outcome()) {
                (Process::Nemesis, ..) => {}
                (_, "add", outcome) => {
                    let add = (index, op.completed, outcome);
                    if adds.insert(&op.invoked.value, add).is_some() {
                        let why = format!(
                            "operation {index} adds {} again: elements must be unique",
                            show(&op.invoked.value)
                        );
                        return CheckResult::unknown(why, json!({}));
                    }
                }
                (_, "read", Kind::Ok) => {
                    let Some((completed, all)) =
                        op.completed.and_then(|c| Some((c, list(&c.value)?)))
                    else {
                        return CheckResult::unknown(
                            format!("operation {index} is answered without a list"),
                            json!({}),
                        );
                    };
                    let elements: BTreeSet<&Value> = all.iter().collect();
                    if elements.len() < all.len() {
                        found.push(Evidence::new(
                            "a read shows an element twice",
                            [completed.index],
                        ));
                    }
                    reads.push(Read {
                        invoked: op.invoked,
                        completed,
                        elements,
                    });
                }
                _ => {}
            }
        }
        for read in &reads {
            for element in &read.elements {
                let what = match adds.get(element) {
                    None => "nobody added",
                    Some((.., Kind::Fail)) => "was refused",
                    Some((invoked, ..)) if *invoked > read.completed.index => "was not yet added",
                    Some(_) => continue,
                };
                let what = format!("a read shows {}, which {what}", show(element));
                if !found.iter().any(|e: &Evidence| e.what == what) {
                    found.push(Evidence::new(what, [read.completed.index]));
                }
            }
        }
        let (mut lost, mut stale, mut never_read, mut stable) = (0_u64, 0_u64, 0_u64, Vec::new());
        for (element, (invoked, completed, outcome)) in &adds {
            let acknowledged = completed.filter(|_| *outcome == Kind::Ok);
            let having = reads.iter().filter(|r| r.elements.contains(element));
            let shown = having.map(|r| r.completed).min_by_key(|c| c.index);
            let Some(known) = acknowledged
                .into_iter()
                .chain(shown)
                .min_by_key(|op| op.index)
            else {
                continue;
            };
            let later = || reads.iter().filter(|r| r.invoked.index > known.index);
            let missed = later().filter(|r| !r.elements.contains(element));
            let Some(last_missed) = missed.max_by_key(|r| r.invoked.index) else {
                if later().next().is_some() {
                    stable.push(0);
                } else if acknowledged.is_some() {
                    never_read += 1;
                }
                continue;
            };
            let back = later().any(|r| {
                r.invoked.index > last_missed.invoked.index && r.elements.contains(element)
            });
            let what = if back {
                stale += 1;
                stable.push(last_missed.invoked.time - known.time);
                "stale"
            } else {
                lost += 1;
                "lost"
            };
            found.push(Evidence::new(
                format!(
                    "{} is {what}: known at line {}, missing from the read that began at line {}",
                    show(element),
                    known.index,
                    last_missed.invoked.index
                ),
                [
                    *invoked,
                    known.index,
                    last_missed.invoked.index,
                    last_missed.completed.index,
                ],
            ));
        }
        stable.sort_unstable();
        let ms = |q| quantile(&stable, q).map(|ns| ns as f64 / 1_000_000.0);
        let details = json!({
            "added": adds.len(), "reads": reads.len(), "lost": lost, "stale": stale,
            "never_read": never_read, "stable": stable.len(),
            "stable_latency_ms": {"p50": ms(500), "p99": ms(990), "max": ms(1000)},
        });
        if found.is_empty() && never_read > 0 {
            let why =
                format!("{never_read} acknowledged elements were never looked for afterwards");
            return CheckResult::unknown(why, details);
        }
        if found.is_empty() && stable.is_empty() {
            return CheckResult::unknown("no element was read after it was known", details);
        }
        CheckResult::from_findings(found, details)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checker::testing::record;
    use crate::verdict::Verdict;

    fn run(middle: &str, last: &str) -> CheckResult {
        SetFull.check(&record(&format!(
            "0 invoke add 1
             0 ok add 1
             0 invoke add 2
             0 info add 2 !timeout
             1 invoke add 3
             1 fail add 3 !refused
             2 invoke read nil
             2 ok read {middle}
             2 invoke read nil
             2 ok read {last}"
        )))
    }

    #[test]
    fn known_elements_stay_and_indeterminate_ones_may_come_late() {
        for (middle, last) in [("[1]", "[1]"), ("[1]", "[1 2]"), ("[2 1]", "[1 2]")] {
            assert_eq!(run(middle, last).verdict, Verdict::True, "{middle} {last}");
        }
    }

    #[test]
    fn losses_and_inventions_are_named() {
        for (middle, last, says) in [
            ("[1]", "[]", "1 is lost"),
            ("[]", "[1]", "1 is stale"),
            ("[1 2]", "[1]", "2 is lost"),
            ("[1]", "[1 3]", "3, which was refused"),
            ("[1]", "[1 7]", "7, which nobody added"),
            ("[1 1]", "[1]", "twice"),
        ] {
            let found = run(middle, last);
            assert_eq!(found.verdict, Verdict::False, "{middle} {last}");
            assert!(
                found.evidence[0].what.contains(says),
                "{:?}",
                found.evidence
            );
        }
    }

    #[test]
    fn stable_latency_is_from_known_to_the_last_miss() {
        let found = run("[]", "[1]");
        assert_eq!(found.details["stable_latency_ms"]["max"], 5.0);
    }

    #[test]
    fn never_read_and_never_added_are_unknown() {
        for lines in [
            "0 invoke add 1\n0 ok add 1",
            "0 invoke read nil\n0 ok read []",
        ] {
            assert_eq!(SetFull.check(&record(lines)).verdict, Verdict::Unknown);
        }
    }
}
