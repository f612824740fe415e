//! What a run leaves for people and for other programs.
//!
//! | file | for |
//! |---|---|
//! | `results.json`, `results.edn` | verdict, evidence and details of every checker |
//! | `junit.xml` | whatever shows test results in a build |
//! | `latency.svg`, `rate.svg` | how it went, with a band for each fault |
//! | `timeline.html` | every operation by process; the evidence first |
//!
//! All stand alone: no scripts or styles from elsewhere.

mod plots;
mod timeline;

use crate::analyze::Analysis;
use crate::checker::{Evidence, TestRecord};
use crate::history::{Op, Process, edn};
use crate::verdict::Verdict;
use serde_json::{Map, Value as Json, json};
use std::fmt::Write as _;

/// Writes all files beside the history.
///
/// # Errors
/// When one cannot be written.
pub fn write(test: &TestRecord, analysis: &Analysis) -> std::io::Result<()> {
    let results = results(analysis);
    let text = serde_json::to_string_pretty(&results)? + "\n";
    let mut clojure = String::new();
    as_edn(&mut clojure, &results);
    clojure.push('\n');
    for (name, text) in [
        ("results.json", text),
        ("results.edn", clojure),
        ("junit.xml", junit(test, analysis)),
        ("latency.svg", plots::latency(&test.history)),
        ("rate.svg", plots::rate(&test.history)),
        ("timeline.html", timeline::page(test, analysis)),
    ] {
        std::fs::write(test.dir.join(name), text)?;
    }
    Ok(())
}

/// In Jepsen's form: `valid?` at every level.
fn results(analysis: &Analysis) -> Json {
    let mut checkers = Map::new();
    for (name, result) in &analysis.results {
        checkers.insert(
            name.clone(),
            json!({"valid?": result.verdict, "evidence": result.evidence, "details": result.details}),
        );
    }
    let shortest = analysis
        .shortest()
        .map(|(checker, e)| json!({"checker": checker, "what": e.what, "ops": e.ops}));
    json!({
        "valid?": analysis.verdict, "exit_code": analysis.verdict.exit_code(),
        "shortest": shortest, "checkers": checkers,
    })
}

/// JSON as EDN. Keys that are not keywords of EDN stay text.
fn as_edn(out: &mut String, json: &Json) {
    match json {
        Json::Null => out.push_str("nil"),
        Json::String(text) if text == "unknown" => out.push_str(":unknown"),
        // JSON's escapes are EDN's.
        Json::Bool(_) | Json::Number(_) | Json::String(_) => {
            let _ = write!(out, "{json}");
        }
        Json::Array(all) => {
            out.push('[');
            for (i, one) in all.iter().enumerate() {
                out.push_str(if i > 0 { " " } else { "" });
                as_edn(out, one);
            }
            out.push(']');
        }
        Json::Object(all) => {
            out.push('{');
            for (i, (name, one)) in all.iter().enumerate() {
                out.push_str(if i > 0 { ", " } else { "" });
                let plain = name.starts_with(|c: char| c.is_ascii_alphabetic())
                    && name
                        .chars()
                        .all(|c| c.is_ascii_alphanumeric() || "-_?".contains(c));
                if plain {
                    let _ = write!(out, ":{name} ");
                } else {
                    let _ = write!(out, "{} ", Json::String(name.clone()));
                }
                as_edn(out, one);
            }
            out.push('}');
        }
    }
}

/// One test case a checker: `false` fails, `unknown` is skipped, and says why.
fn junit(test: &TestRecord, analysis: &Analysis) -> String {
    let count = |v: Verdict| {
        analysis
            .results
            .iter()
            .filter(|(_, r)| r.verdict == v)
            .count()
    };
    let name = test.spec.get("name").or(test.spec.get("workload"));
    let name = escape(name.and_then(|n| n.as_str()).unwrap_or("run"));
    let mut out = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuite name=\"quorate-jepsen.{name}\" tests=\"{}\" failures=\"{}\" skipped=\"{}\" errors=\"0\">\n",
        analysis.results.len(),
        count(Verdict::False),
        count(Verdict::Unknown)
    );
    for (checker, result) in &analysis.results {
        let _ = write!(
            out,
            "  <testcase classname=\"{name}\" name=\"{}\"",
            escape(checker)
        );
        let what = |e: &[Evidence]| escape(e.first().map_or("", |e| &e.what));
        let inner = match result.verdict {
            Verdict::True => String::new(),
            Verdict::False => format!("<failure message=\"{}\"/>", what(&result.evidence)),
            Verdict::Unknown => format!("<skipped message=\"{}\"/>", what(&result.evidence)),
        };
        let _ = writeln!(out, ">{inner}</testcase>");
    }
    out + "</testsuite>\n"
}

/// The first finding and its lines, for a terminal.
pub fn evidence_text(test: &TestRecord, analysis: &Analysis) -> String {
    let mut out = String::new();
    if let Some((checker, evidence)) = analysis.shortest() {
        let _ = writeln!(out, "{checker}: {}", evidence.what);
        for op in lines(test, evidence) {
            let _ = writeln!(out, "  {}", line(op));
        }
    }
    out
}

/// The lines that a finding names, those that are there.
fn lines<'a>(test: &'a TestRecord, evidence: &'a Evidence) -> impl Iterator<Item = &'a Op> {
    let all = evidence.ops.iter();
    all.filter_map(|i| test.history.ops().get(usize::try_from(*i).ok()?))
}

/// Longest value that is shown, in characters; the history has the rest.
const VALUE_CHARS_MAX: usize = 200;

/// A line as people read it.
fn line(op: &Op) -> String {
    let mut value = String::new();
    edn::print(&mut value, &op.value);
    if let Some((end, _)) = value.char_indices().nth(VALUE_CHARS_MAX) {
        value.truncate(end);
        value.push('…');
    }
    let process = match op.process {
        Process::Client(n) => n.to_string(),
        Process::Nemesis => "nemesis".into(),
    };
    let error = op
        .error
        .as_ref()
        .map_or(String::new(), |e| format!("  ; {e}"));
    format!(
        "{:>7}  {:>11.3} ms  {process:>7}  {:<6}  :{} {value}{error}",
        op.index,
        op.time as f64 / 1_000_000.0,
        op.kind.name(),
        op.f
    )
}

/// Text inside XML and HTML, attributes too. Characters XML cannot have become U+FFFD.
fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c if c.is_control() && !"\n\t".contains(c) => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analyze::check;
    use crate::checker::testing::record;
    use crate::checker::{for_workload, responses::Responses};

    fn bad() -> (TestRecord, Analysis) {
        let test = record("0 invoke add 1\n0 info add 1 !unexpected: <b>&\"x\"");
        let analysis = check(&test, &[Box::new(Responses)]);
        (test, analysis)
    }

    #[test]
    fn the_shortest_evidence_is_shown_with_its_lines() {
        let (test, analysis) = bad();
        let text = evidence_text(&test, &analysis);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 3);
        assert_eq!(lines[0], "responses: unexpected: <b>&\"x\"");
        assert!(lines[2].contains("1.000 ms") && lines[2].contains("info    :add 1"));
    }

    #[test]
    fn long_values_are_cut_between_characters() {
        let test = record(&format!("0 invoke add \"{}\"", "é".repeat(400)));
        let shown = line(&test.history.ops()[0]);
        assert!(
            shown.ends_with("é…") && shown.chars().count() < 280,
            "{shown}"
        );
    }

    #[test]
    fn what_others_wrote_cannot_become_markup() {
        let (test, analysis) = bad();
        assert!(junit(&test, &analysis).contains("unexpected: &lt;b&gt;&amp;&quot;x&quot;"));
        let page = timeline::page(&test, &analysis);
        assert!(page.contains("&lt;b&gt;") && !page.contains("<b>"));
        assert_eq!(escape("a\u{1b}[0m"), "a\u{fffd}[0m");
    }

    #[test]
    fn results_are_the_same_in_json_and_edn() {
        let (_, analysis) = bad();
        let mut out = String::new();
        as_edn(&mut out, &results(&analysis));
        assert!(out.starts_with("{:valid? false, :exit_code 1, :shortest {:checker \"responses\""));
        let empty = check(&record(""), &for_workload("set"));
        assert_eq!(results(&empty)["valid?"], "unknown");
        let mut out = String::new();
        as_edn(&mut out, &json!({"a b": [1, null], "v": "unknown"}));
        assert_eq!(out, "{\"a b\" [1 nil], :v :unknown}");
    }
}
