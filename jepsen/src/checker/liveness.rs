//! What must go on under a fault, and what must end soon.
//!
//! A fault whose first or second `info` carries a map with `:expect` makes a
//! promise from when it had struck (after a time to settle) to its end:
//!
//! | `:expect` | promise |
//! |---|---|
//! | `:progress` | a minority is gone: at least `min_ok` operations begin and succeed |
//! | `:stop` | no quorum: nothing that begins succeeds, and each operation has ended `end_ms_max` after it began |
//!
//! `:fs [:read …]` in the map names the functions meant; without it all are.
//! Limits stand in `spec.liveness`; a fault shorter than its time to settle
//! shows nothing.

use super::{CheckResult, Checker, Evidence, TestRecord, list};
use crate::history::{Fault, Kind, Op, Operation, Process, Value};
use serde::Deserialize;
use serde_json::json;

/// See the module.
pub struct Liveness;

/// `spec.liveness`.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Limits {
    /// After a fault begins, until elections are over.
    settle_ms: u64,
    /// Fewest successes under `:progress`.
    min_ok: u64,
    /// Longest an operation may take under `:stop`.
    end_ms_max: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            settle_ms: 5_000,
            min_ok: 10,
            end_ms_max: 15_000,
        }
    }
}

/// A fault with a promise.
struct Window<'a> {
    start: &'a Op,
    end: Option<&'a Op>,
    stop: bool,
    fs: Option<&'a [Value]>,
}

fn window<'a>(fault: &Fault<'a>) -> Result<Option<Window<'a>>, String> {
    let lines = [Some(fault.begun), fault.struck];
    let promise = lines.into_iter().flatten().find_map(|op| match &op.value {
        Value::Map(map) => Some((map.get("expect")?, map)),
        _ => None,
    });
    let Some((expect, map)) = promise else {
        return Ok(None);
    };
    let stop = match expect {
        Value::Keyword(word) if word == "progress" => false,
        Value::Keyword(word) if word == "stop" => true,
        _ => {
            return Err(format!(
                "operation {}: :expect is :progress or :stop",
                fault.begun.index
            ));
        }
    };
    // Without a heal of its own the second line is the end.
    let healed = fault.ended.map(|o| o.index) != fault.struck.map(|o| o.index);
    Ok(Some(Window {
        start: fault.struck.filter(|_| healed).unwrap_or(fault.begun),
        end: fault.ended,
        stop,
        fs: map.get("fs").and_then(list),
    }))
}

impl Checker for Liveness {
    fn name(&self) -> &'static str {
        "liveness"
    }

    fn check(&self, test: &TestRecord) -> CheckResult {
        let limits = match test.spec.get("liveness") {
            None => Limits::default(),
            Some(given) => match Limits::deserialize(given) {
                Ok(limits) => limits,
                Err(e) => return CheckResult::unknown(format!("spec.liveness: {e}"), json!({})),
            },
        };
        let end_of_run = test.history.ops().last().map_or(0, |op| op.time);
        let all: Vec<Operation<'_>> = test.history.operations().collect();
        let (mut found, mut told, mut short) = (Vec::new(), Vec::new(), 0_u64);
        for fault in test.history.faults() {
            let window = match window(&fault) {
                Ok(Some(window)) => window,
                Ok(None) => continue,
                Err(why) => return CheckResult::unknown(why, json!({})),
            };
            let from = window.start.time + limits.settle_ms * 1_000_000;
            let to = window.end.map_or(end_of_run, |op| op.time);
            if to <= from {
                short += 1;
                continue;
            }
            let meant = |op: &&Operation<'_>| {
                let named = |f: &Value| matches!(f, Value::Keyword(name) if *name == op.invoked.f);
                op.invoked.process != Process::Nemesis
                    && (from..to).contains(&op.invoked.time)
                    && window.fs.is_none_or(|fs| fs.iter().any(named))
            };
            let begun: Vec<&Operation<'_>> = all.iter().filter(meant).collect();
            let succeeded = |op: &&&Operation<'_>| {
                op.outcome() == Kind::Ok && op.completed.is_some_and(|c| c.time < to)
            };
            let ok: Vec<&&Operation<'_>> = begun.iter().filter(succeeded).collect();
            let shown = |lines: &[&&Operation<'_>]| -> Vec<u64> {
                let lines = lines
                    .iter()
                    .take(3)
                    .flat_map(|op| [Some(op.invoked), op.completed]);
                lines.flatten().map(|op| op.index).collect()
            };
            let took =
                |op: &Operation<'_>| op.completed.map_or(end_of_run, |c| c.time) - op.invoked.time;
            let slowest = begun.iter().map(|op| took(op)).max().unwrap_or(0);
            told.push(json!({
                "fault": window.start.f, "line": window.start.index,
                "expect": if window.stop { "stop" } else { "progress" },
                "begun": begun.len(), "ok": ok.len(), "slowest_ms": slowest / 1_000_000,
            }));
            let name = format!("{} at line {}", window.start.f, window.start.index);
            if !window.stop && (ok.len() as u64) < limits.min_ok {
                found.push(Evidence::new(
                    format!(
                        "{name}: {} operations succeeded of {} begun, at least {} must",
                        ok.len(),
                        begun.len(),
                        limits.min_ok
                    ),
                    [window.start.index]
                        .into_iter()
                        .chain(window.end.map(|e| e.index)),
                ));
            }
            if window.stop && !ok.is_empty() {
                found.push(Evidence::new(
                    format!(
                        "{name}: {} operations succeeded although there was no quorum",
                        ok.len()
                    ),
                    [window.start.index].into_iter().chain(shown(&ok)),
                ));
            }
            let slow: Vec<&&Operation<'_>> = begun
                .iter()
                .filter(|op| window.stop && took(op) > limits.end_ms_max * 1_000_000)
                .collect();
            if !slow.is_empty() {
                found.push(Evidence::new(
                    format!(
                        "{name}: {} operations took longer than {} ms to fail",
                        slow.len(),
                        limits.end_ms_max
                    ),
                    [window.start.index].into_iter().chain(shown(&slow)),
                ));
            }
        }
        let details = json!({"windows": told, "too_short": short});
        if told.is_empty() && short > 0 {
            return CheckResult::unknown("every fault with a promise was too short", details);
        }
        CheckResult::from_findings(found, details)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checker::testing::record;
    use crate::verdict::Verdict;

    fn check(expect: &str, outcome: &str, lines_between: usize) -> CheckResult {
        let between = "9 invoke noise 1\n9 ok noise 1\n".repeat(lines_between);
        let mut test = record(&format!(
            "n info cut {{:expect :{expect} :fs [:read]}}
             9 invoke noise 1
             9 ok noise 1
             0 invoke read 1
             {between}
             0 {outcome} read 1
             n info cut nil"
        ));
        test.spec = json!({"liveness": {"settle_ms": 2, "min_ok": 1, "end_ms_max": 10}});
        Liveness.check(&test)
    }

    #[test]
    fn a_minority_out_does_not_stop_the_rest() {
        assert_eq!(check("progress", "ok", 0).verdict, Verdict::True);
        let found = check("progress", "fail", 0);
        assert_eq!(found.verdict, Verdict::False);
        assert!(
            found.evidence[0]
                .what
                .starts_with("cut at line 0: 0 operations succeeded of 1")
        );
    }

    #[test]
    fn without_a_quorum_operations_fail_and_do_so_soon() {
        assert_eq!(check("stop", "fail", 0).verdict, Verdict::True);
        assert_eq!(check("stop", "ok", 0).verdict, Verdict::False);
        let slow = check("stop", "info", 6);
        assert_eq!(slow.verdict, Verdict::False);
        assert!(slow.evidence[0].what.contains("longer than 10 ms"));
    }

    #[test]
    fn a_fault_that_is_healed_later_counts_from_when_it_had_struck() {
        let mut test = record(
            "n info cut nil
             n info cut {:outcome :installed :expect :stop}
             0 invoke read 1
             0 ok read 1
             n info heal-cut nil
             n info heal-cut nil",
        );
        test.spec = json!({"liveness": {"settle_ms": 0}});
        let found = Liveness.check(&test);
        assert_eq!(
            (found.verdict, &found.evidence[0].ops[..]),
            (Verdict::False, &[1, 2, 3][..])
        );
    }

    #[test]
    fn no_promise_is_kept_and_a_short_fault_shows_nothing() {
        let none = record("n info cut nil\n0 invoke read 1\n0 fail read 1");
        assert_eq!(Liveness.check(&none).verdict, Verdict::True);
        let short = record("n info cut {:expect :progress}\nn info cut nil");
        assert_eq!(Liveness.check(&short).verdict, Verdict::Unknown);
        let wrong = record("n info cut {:expect :luck}\nn info cut nil");
        assert_eq!(Liveness.check(&wrong).verdict, Verdict::Unknown);
    }
}
