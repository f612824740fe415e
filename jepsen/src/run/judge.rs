//! What the harness saw itself, beside the history: `analyze` counts it in.

use super::faults::{Report, Struck};
use super::stalls::Stalls;
use crate::history::{History, Kind, Process};
use crate::nemesis::Outcome;
use crate::verdict::Verdict;
use serde::Serialize;
use std::collections::BTreeMap;

/// What the harness saw, beside the history.
pub const SEEN: &str = "seen.json";
/// The harness's own findings.
pub const OWN: &str = "own.json";
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

/// One of the harness's own findings, as `own.json` has them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
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
pub fn own_findings(seen: &Seen, steps: usize, history: &History) -> Vec<Own> {
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
        enough(history),
    ]
}

/// Whether enough succeeded to say anything.
fn enough(history: &History) -> Own {
    let mut ok: BTreeMap<&str, usize> = BTreeMap::new();
    for op in history.ops() {
        if matches!(op.process, Process::Client(_)) {
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
        let history = History::new(Vec::new()).unwrap();
        let findings = own_findings(seen, seen.faults.struck.len(), &history);
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
