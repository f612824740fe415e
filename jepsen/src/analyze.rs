//! A finished run, checked again from what lies in its directory. Nothing
//! else is read: a run can be copied to another machine and judged there.
//!
//! | file | what |
//! |---|---|
//! | `spec.json` | what was asked for; `workload` names the checkers |
//! | `history.jsonl`, else `history.edn` | what clients and the nemesis saw |
//! | `own.json` | what the harness saw itself: `[{"name", "verdict", "why": []}]` |
//! | `logs/`, `records/`, `attack.json` | what some checkers read besides |

use crate::checker::{self, CheckResult, Checker, Evidence, TestRecord};
use crate::history::{History, edn, jsonl};
use crate::report;
use crate::verdict::{HarnessFailure, Verdict};
use serde::Deserialize;
use std::fs::File;
use std::io::BufReader;
use std::path::Path;

/// What all checkers said.
#[derive(Clone, Debug)]
pub struct Analysis {
    /// The worst of all.
    pub verdict: Verdict,
    /// Each checker's name and what it found, the worst first.
    pub results: Vec<(String, CheckResult)>,
}

impl Analysis {
    /// The worst first.
    fn of(mut results: Vec<(String, CheckResult)>) -> Self {
        results.sort_by_key(|(_, result)| std::cmp::Reverse(result.verdict));
        Self {
            verdict: Verdict::merge(results.iter().map(|(_, r)| r.verdict)),
            results,
        }
    }

    /// The finding to look at first: of the worst checkers the one with the fewest lines.
    pub fn shortest(&self) -> Option<(&str, &Evidence)> {
        let worst = self
            .results
            .iter()
            .filter(|(_, r)| r.verdict == self.verdict);
        let all = worst.flat_map(|(name, r)| r.evidence.iter().map(|e| (name.as_str(), e)));
        // A finding without lines is shown by its sentence alone; lines are better.
        all.min_by_key(|(_, e)| (e.ops.is_empty(), e.ops.len()))
            .filter(|_| self.verdict != Verdict::True)
    }
}

fn failure(during: String, reason: impl std::fmt::Display) -> HarnessFailure {
    HarnessFailure {
        during,
        reason: reason.to_string(),
    }
}

/// Reads a run's directory.
///
/// # Errors
/// When the spec or the history is missing or is none.
pub fn load(dir: &Path) -> Result<TestRecord, HarnessFailure> {
    let path = dir.join("spec.json");
    let reading = || format!("reading {}", path.display());
    let text = std::fs::read_to_string(&path).map_err(|e| failure(reading(), e))?;
    let spec = serde_json::from_str(&text).map_err(|e| failure(reading(), e))?;
    Ok(TestRecord {
        spec,
        history: history(dir)?,
        dir: dir.to_owned(),
    })
}

fn history(dir: &Path) -> Result<History, HarnessFailure> {
    let (json, clojure) = (dir.join("history.jsonl"), dir.join("history.edn"));
    let path = if json.exists() { &json } else { &clojure };
    let reading = || format!("reading {}", path.display());
    let file = BufReader::new(File::open(path).map_err(|e| failure(reading(), e))?);
    let read = if path == &json {
        jsonl::read(file)
    } else {
        edn::read(file)
    };
    read.map_err(|e| failure(reading(), e))
}

/// Runs these checkers.
pub fn check(test: &TestRecord, checkers: &[Box<dyn Checker>]) -> Analysis {
    let each = checkers.iter().map(AsRef::as_ref);
    let one = |c: &dyn Checker| (c.name().to_owned(), c.check(test));
    Analysis::of(each.map(one).collect())
}

/// What the harness saw itself and left in `own.json`: coverage, recovery, its own stalls.
#[derive(Deserialize)]
struct Own {
    name: String,
    verdict: Verdict,
    why: Vec<String>,
}

/// A history from elsewhere has none.
fn own(dir: &Path) -> Result<Vec<(String, CheckResult)>, HarnessFailure> {
    let path = dir.join("own.json");
    if !path.exists() {
        return Ok(Vec::new());
    }
    let reading = || format!("reading {}", path.display());
    let text = std::fs::read_to_string(&path).map_err(|e| failure(reading(), e))?;
    let all: Vec<Own> = serde_json::from_str(&text).map_err(|e| failure(reading(), e))?;
    let one = |own: Own| {
        let result = CheckResult {
            verdict: own.verdict,
            evidence: own
                .why
                .into_iter()
                .map(|why| Evidence::new(why, []))
                .collect(),
            details: serde_json::Value::Null,
        };
        (own.name, result)
    };
    Ok(all.into_iter().map(one).collect())
}

/// Checks the run in `dir` with the checkers of its workload and those its
/// spec asks for, and writes `results.json`, `results.edn`, `junit.xml`, the
/// plots and `timeline.html` beside the history.
///
/// # Errors
/// When the run cannot be read, names no workload that has checkers, or the results cannot be written.
pub fn analyze(dir: &Path) -> Result<Analysis, HarnessFailure> {
    let test = load(dir)?;
    let workload = test.spec.get("workload").and_then(|w| w.as_str());
    let choosing = || format!("choosing the checkers for {}", dir.display());
    let workload = workload.ok_or_else(|| failure(choosing(), "spec.json names no workload"))?;
    let mut checkers = checker::for_workload(workload);
    if checkers.is_empty() {
        return Err(failure(
            choosing(),
            format!("there is no workload {workload:?}"),
        ));
    }
    checkers.extend(checker::asked_for(&test.spec).map_err(|why| failure(choosing(), why))?);
    let mut results = check(&test, &checkers).results;
    results.extend(own(dir)?);
    let analysis = Analysis::of(results);
    report::write(&test, &analysis)
        .map_err(|e| failure(format!("writing results to {}", dir.display()), e))?;
    Ok(analysis)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checker::simulate::{Registers, plant_stale_read};
    use crate::checker::testing::Directory;

    fn run_of(dir: &Directory, spec: &str, history: &History) {
        dir.write("spec.json", spec);
        dir.write("logs/home-1.log", "INFO ready\n");
        let file = File::create(dir.0.join("history.jsonl")).unwrap();
        jsonl::write(history, file).unwrap();
    }

    const SHAPE: Registers = Registers {
        operations: 300,
        clients: 4,
        keys: 3,
        info_per_mille: 5,
        seed: 3,
    };

    #[test]
    fn a_good_run_is_true_and_a_stale_read_is_false_with_all_files_written() {
        let dir = Directory::new("analyze");
        let history = SHAPE.history();
        run_of(&dir, r#"{"workload": "register"}"#, &history);
        let good = analyze(&dir.0).unwrap();
        assert_eq!(good.verdict, Verdict::True, "{:?}", good.shortest());
        assert_eq!(good.shortest(), None);
        run_of(
            &dir,
            r#"{"workload": "register"}"#,
            &plant_stale_read(&history, 300).unwrap(),
        );
        let bad = analyze(&dir.0).unwrap();
        assert_eq!(bad.verdict, Verdict::False);
        let (checker, evidence) = bad.shortest().unwrap();
        assert_eq!(checker, "linearizable-register");
        assert!(evidence.what.contains("fits nowhere"));
        for name in [
            "results.json",
            "results.edn",
            "junit.xml",
            "latency.svg",
            "rate.svg",
            "timeline.html",
        ] {
            assert!(dir.0.join(name).metadata().unwrap().len() > 100, "{name}");
        }
        let text = std::fs::read_to_string(dir.0.join("results.json")).unwrap();
        let json: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(json["valid?"], false);
        assert_eq!(json["checkers"]["linearizable-register"]["valid?"], false);
        assert_eq!(json["checkers"]["stats"]["valid?"], true);
    }

    #[test]
    fn edn_is_read_when_there_is_no_jsonl() {
        let dir = Directory::new("analyze-edn");
        run_of(&dir, r#"{"workload": "register"}"#, &SHAPE.history());
        std::fs::remove_file(dir.0.join("history.jsonl")).unwrap();
        edn::write(
            &SHAPE.history(),
            File::create(dir.0.join("history.edn")).unwrap(),
        )
        .unwrap();
        assert_eq!(analyze(&dir.0).unwrap().verdict, Verdict::True);
    }

    #[test]
    fn what_is_no_run_is_a_failure_of_the_harness_and_not_a_verdict() {
        let dir = Directory::new("analyze-bad");
        for spec in [
            "{",
            "{}",
            r#"{"workload": "cooking"}"#,
            r#"{"workload": "register", "checks": ["cooking"]}"#,
        ] {
            run_of(&dir, spec, &SHAPE.history());
            assert!(analyze(&dir.0).is_err(), "{spec}");
        }
        dir.write("spec.json", r#"{"workload": "register"}"#);
        dir.write("history.jsonl", "nonsense\n");
        let failed = analyze(&dir.0).unwrap_err();
        assert!(failed.during.contains("history.jsonl"), "{failed}");
    }
}
