//! How many operations of each function succeeded, failed or stayed unknown,
//! and how long they took. A function that never succeeded was not tested:
//! `unknown`.

use super::{CheckResult, Checker, Evidence, TestRecord};
use crate::history::{Kind, Process};
use crate::verdict::Verdict;
use serde_json::{Map, json};
use std::collections::BTreeMap;

/// Counts and latencies by function.
pub struct Stats;

/// What is kept for one function.
#[derive(Default)]
struct Count {
    ok: u64,
    fail: u64,
    info: u64,
    /// Of the ones that succeeded.
    latencies_ns: Vec<u64>,
}

/// The value below which `per_mille` of a sorted list lie.
pub(crate) fn quantile(sorted: &[u64], per_mille: usize) -> Option<u64> {
    let last = sorted.len().checked_sub(1)?;
    Some(sorted[(last * per_mille).div_ceil(1000)])
}

impl Checker for Stats {
    fn name(&self) -> &'static str {
        "stats"
    }

    fn check(&self, test: &TestRecord) -> CheckResult {
        let mut counts: BTreeMap<&str, Count> = BTreeMap::new();
        for op in test.history.operations() {
            if op.invoked.process == Process::Nemesis {
                continue;
            }
            let count = counts.entry(&op.invoked.f).or_default();
            match op.outcome() {
                Kind::Ok => {
                    count.ok += 1;
                    let end = op.completed.map_or(op.invoked.time, |c| c.time);
                    count.latencies_ns.push(end - op.invoked.time);
                }
                Kind::Fail => count.fail += 1,
                Kind::Info | Kind::Invoke => count.info += 1,
            }
        }
        let mut details = Map::new();
        let mut never = Vec::new();
        for (f, mut count) in counts {
            count.latencies_ns.sort_unstable();
            let ms = |per_mille| {
                quantile(&count.latencies_ns, per_mille).map(|ns| ns as f64 / 1_000_000.0)
            };
            details.insert(
                f.to_owned(),
                json!({
                    "ok": count.ok, "fail": count.fail, "info": count.info,
                    "latency_ms": {"p50": ms(500), "p95": ms(950), "p99": ms(990), "max": ms(1000)},
                }),
            );
            if count.ok == 0 {
                never.push(Evidence::new(format!("no :{f} ever succeeded"), []));
            }
        }
        if details.is_empty() {
            return CheckResult::unknown("no client did anything", json!({}));
        }
        CheckResult {
            verdict: if never.is_empty() {
                Verdict::True
            } else {
                Verdict::Unknown
            },
            evidence: never,
            details: details.into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checker::testing::record;

    #[test]
    fn counts_by_function_and_leaves_the_nemesis_out() {
        let test = record(
            "0 invoke add 1
             n info kill nil
             0 ok add 1
             1 invoke add 2
             1 fail add 2 !full
             2 invoke add 3
             2 info add 3 !timeout
             3 invoke read nil
             n info kill nil
             3 ok read [1]",
        );
        let found = Stats.check(&test);
        assert_eq!(found.verdict, Verdict::True);
        let add = &found.details["add"];
        assert_eq!([&add["ok"], &add["fail"], &add["info"]], [1, 1, 1]);
        assert_eq!(add["latency_ms"]["max"], 2.0);
        assert_eq!(found.details.as_object().unwrap().len(), 2);
    }

    #[test]
    fn a_function_that_never_succeeds_or_an_empty_run_is_unknown() {
        for lines in ["0 invoke add 1\n0 fail add 1", ""] {
            let found = Stats.check(&record(lines));
            assert_eq!(found.verdict, Verdict::Unknown);
            assert_eq!(found.evidence.len(), 1);
        }
    }

    #[test]
    fn quantiles_are_values_of_the_list() {
        let all: Vec<u64> = (1..=100).collect();
        assert_eq!(
            [500, 990, 1000].map(|q| quantile(&all, q)),
            [Some(51), Some(100), Some(100)]
        );
        assert_eq!(quantile(&[], 500), None);
    }
}
