//! What a run has shown: what the checkers say of the history, and what the
//! harness saw itself.

use super::faults::{Report, Struck};
use super::stalls::Stalls;
use crate::checker::{self, CheckResult, Evidence, TestRecord};
use crate::history::{History, Kind};
use crate::nemesis::Outcome;
use crate::store;
use crate::verdict::Verdict;
use anyhow::Context;
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::collections::BTreeMap;
use std::path::Path;

/// What the harness saw, beside the history.
pub const SEEN: &str = "seen.json";
/// Each function must have succeeded so often, or the run shows too little.
const SUCCESSES_MIN: usize = 10;
/// Longer stalls of the harness itself make elections of their own.
const STALL_MS_MAX: u64 = 5_000;

/// What the harness saw.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Seen {
    /// What the nemesis saw.
    pub faults: Report,
    /// What was not well after everything was healed.
    pub recovery: Vec<String>,
    /// Milliseconds from the last heal until every node was ready.
    pub ready_ms: Option<u64>,
    /// The harness's own stalls.
    pub stalls: Stalls,
}

/// The harness's own findings; kept, so that a later analysis has them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Own {
    /// Its name.
    pub name: String,
    /// The verdict.
    pub verdict: Verdict,
    /// Why it is not true.
    pub why: Vec<String>,
}

fn own(name: &str, bad: Verdict, why: Vec<String>) -> Own {
    Own {
        name: name.into(),
        verdict: if why.is_empty() { Verdict::True } else { bad },
        why,
    }
}

/// Judges what the harness saw.
pub fn own_findings(seen: &Seen, steps: usize) -> Vec<Own> {
    let struck = &seen.faults.struck;
    let installed = |s: &&Struck| matches!(s.outcome, Outcome::Installed { .. });
    let mut coverage = Vec::new();
    if steps > 0 && !struck.iter().any(|s| s.hit) {
        coverage.push("no fault hit".to_owned());
    }
    let mut names: Vec<&str> = struck.iter().map(|s| s.step.nemesis.as_str()).collect();
    names.sort_unstable();
    names.dedup();
    for name in names {
        let of = || struck.iter().filter(|s| s.step.nemesis == name);
        if !of().any(|s| s.hit) {
            let seen: Vec<_> = of().map(|s| s.seen.as_str()).collect();
            coverage.push(format!("{name} never hit: {}", seen.join("; ")));
        }
    }
    let led = struck
        .iter()
        .filter(installed)
        .any(|s| matches!(&s.outcome, Outcome::Installed { led, .. } if !led.is_empty()));
    if steps > 0 && !led {
        coverage.push("no node that was hurt led a group".into());
    }
    let mut stalls = Vec::new();
    if seen.stalls.longest_ms > STALL_MS_MAX {
        stalls.push(format!(
            "the harness itself stood still for {} ms: take load off the machine",
            seen.stalls.longest_ms
        ));
    }
    vec![
        own("recovery", Verdict::False, seen.recovery.clone()),
        own("unexpected-ends", Verdict::False, seen.faults.ended.clone()),
        own("coverage", Verdict::Unknown, coverage),
        own("stalls", Verdict::Unknown, stalls),
    ]
}

/// Whether enough succeeded to say anything.
fn enough(history: &History) -> Own {
    let mut ok: BTreeMap<&str, usize> = BTreeMap::new();
    for op in history.ops() {
        if matches!(op.process, crate::history::Process::Client(_)) {
            *ok.entry(&op.f).or_default() += usize::from(op.kind == Kind::Ok);
        }
    }
    let few = |(f, n): (&&str, &usize)| {
        (*n < SUCCESSES_MIN)
            .then(|| format!("{f}: {n} successes, at least {SUCCESSES_MIN} are needed"))
    };
    let mut why: Vec<String> = ok.iter().filter_map(few).collect();
    if ok.is_empty() {
        why.push("no client did anything".into());
    }
    own("enough", Verdict::Unknown, why)
}

/// What `results.json` holds.
#[derive(Clone, Debug, Serialize)]
pub struct Results {
    /// The worst of all.
    #[serde(rename = "valid?")]
    pub verdict: Verdict,
    /// The checkers of the workload.
    pub checkers: BTreeMap<String, CheckResult>,
    /// The harness's own.
    pub own: Vec<Own>,
}

/// Checks the run in `dir`, and writes `results.json` there. Needs no node: everything is in the directory.
///
/// # Errors
/// When its files are not there or not as they should be.
pub fn analyze(dir: &Path) -> anyhow::Result<Results> {
    let spec = std::fs::read(dir.join(store::SPEC))
        .with_context(|| format!("no run in {}", dir.display()))?;
    let spec: serde_json::Value = serde_json::from_slice(&spec)?;
    let workload = spec["workload"]
        .as_str()
        .context("spec.json names no workload")?
        .to_owned();
    let history = store::read_history(dir)?;
    let mut own: Vec<Own> = match std::fs::read(dir.join("own.json")) {
        Ok(bytes) => serde_json::from_slice(&bytes).context("own.json")?,
        // A history from elsewhere: the harness saw nothing of it.
        Err(_) => Vec::new(),
    };
    own.push(enough(&history));
    let record = TestRecord {
        spec,
        history,
        dir: dir.to_owned(),
    };
    let checked = checker::for_workload(&workload);
    let checkers: BTreeMap<String, CheckResult> = checked
        .iter()
        .map(|c| (c.name().to_owned(), c.check(&record)))
        .collect();
    let verdicts = checkers
        .values()
        .map(|r| r.verdict)
        .chain(own.iter().map(|o| o.verdict));
    let mut verdict = Verdict::merge(verdicts);
    if checkers.is_empty() {
        verdict = Verdict::merge([verdict, Verdict::Unknown]);
    }
    let results = Results {
        verdict,
        checkers,
        own,
    };
    store::write_json(&dir.join(store::RESULTS), &results)?;
    Ok(results)
}

impl Results {
    /// What is not true, the shortest evidence first.
    pub fn reasons(&self) -> Vec<String> {
        let mut all: Vec<(Verdict, usize, String)> = Vec::new();
        for (name, result) in &self.checkers {
            for Evidence { what, ops } in result
                .evidence
                .iter()
                .filter(|_| result.verdict != Verdict::True)
            {
                let lines: Vec<_> = ops.iter().map(u64::to_string).collect();
                let at = if ops.is_empty() {
                    String::new()
                } else {
                    format!(" (operations {})", lines.join(", "))
                };
                all.push((
                    result.verdict,
                    ops.len(),
                    format!("{name}: {}: {what}{at}", json!(result.verdict)),
                ));
            }
        }
        for o in self.own.iter().filter(|o| o.verdict != Verdict::True) {
            all.extend(o.why.iter().map(|why| {
                (
                    o.verdict,
                    0,
                    format!("{}: {}: {why}", o.name, json!(o.verdict)),
                )
            }));
        }
        all.sort_by(|a, b| (b.0, a.1).cmp(&(a.0, b.1)));
        all.into_iter().map(|(_, _, text)| text).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nemesis::Step;

    fn struck(name: &str, hit: bool, led: bool) -> Struck {
        Struck {
            step: Step {
                at_ms: 0,
                hold_ms: 0,
                nemesis: name.into(),
                dice: 0,
            },
            outcome: Outcome::Installed {
                what: String::new(),
                nodes: Vec::new(),
                led: if led { vec!["ae/1".into()] } else { Vec::new() },
            },
            hit,
            seen: "seen".into(),
        }
    }

    fn verdict_of(seen: &Seen, name: &str) -> Verdict {
        let findings = own_findings(seen, seen.faults.struck.len());
        findings.iter().find(|o| o.name == name).unwrap().verdict
    }

    #[test]
    fn a_fault_that_never_hit_or_never_met_a_leader_leaves_the_run_unknown() {
        let of = |struck| Seen {
            faults: Report {
                struck,
                ..Report::default()
            },
            ..Seen::default()
        };
        assert_eq!(
            verdict_of(&of(vec![struck("kill", true, true)]), "coverage"),
            Verdict::True
        );
        assert_eq!(
            verdict_of(&of(vec![struck("kill", false, true)]), "coverage"),
            Verdict::Unknown
        );
        assert_eq!(
            verdict_of(&of(vec![struck("kill", true, false)]), "coverage"),
            Verdict::Unknown
        );
        let one_of_two = vec![struck("kill", true, true), struck("power", false, true)];
        assert_eq!(verdict_of(&of(one_of_two), "coverage"), Verdict::Unknown);
        assert_eq!(
            verdict_of(&of(Vec::new()), "coverage"),
            Verdict::True,
            "no fault was asked for"
        );
    }

    #[test]
    fn what_does_not_recover_or_ends_by_itself_is_false() {
        let mut seen = Seen::default();
        seen.recovery.push("ae/1 is not ready".into());
        assert_eq!(verdict_of(&seen, "recovery"), Verdict::False);
        seen.faults.ended.push("ae/2 ended".into());
        assert_eq!(verdict_of(&seen, "unexpected-ends"), Verdict::False);
        seen.stalls.longest_ms = STALL_MS_MAX + 1;
        assert_eq!(verdict_of(&seen, "stalls"), Verdict::Unknown);
    }
}
