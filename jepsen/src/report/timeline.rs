//! Every operation as a bar in the row of its client, time to the right. What
//! the checkers found stands first and its operations are marked. Long runs
//! show what is around the findings, and say what they leave out.

use super::plots::bands;
use super::{escape, line, lines};
use crate::analyze::Analysis;
use crate::checker::TestRecord;
use crate::history::{Kind, Operation, Process};
use crate::verdict::Verdict;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

/// Most operations drawn.
const SHOWN_MAX: usize = 3_000;
const ROW: usize = 18;
const LEFT: f64 = 90.0;

const STYLE: &str = "body{font:14px/1.4 sans-serif;margin:2em;color:#222}pre{background:#f5f5f5;padding:.6em;overflow-x:auto}\
.scroll{overflow-x:auto;border:1px solid #ccc}td,th{text-align:left;padding:.15em 1em .15em 0;vertical-align:top}\
.false{color:#b02a2a}.unknown{color:#9a6a00}.true{color:#2f7d4b}";

/// The whole page.
pub(super) fn page(test: &TestRecord, analysis: &Analysis) -> String {
    let word = |v: Verdict| match v {
        Verdict::True => "true",
        Verdict::Unknown => "unknown",
        Verdict::False => "false",
    };
    let name = test.spec.get("name").or(test.spec.get("workload"));
    let name = escape(name.and_then(|n| n.as_str()).unwrap_or("run"));
    let verdict = word(analysis.verdict);
    let mut out = format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>{name}: {verdict}</title><style>{STYLE}</style></head><body>\n<h1>{name}: <span class=\"{verdict}\">{verdict}</span></h1>\n"
    );
    if let Some((checker, evidence)) = analysis.shortest() {
        let _ = write!(
            out,
            "<h2>{}</h2>\n<p>{}</p>\n<pre>",
            escape(checker),
            escape(&evidence.what)
        );
        for op in lines(test, evidence) {
            let _ = writeln!(out, "{}", escape(&line(op)));
        }
        out.push_str("</pre>\n");
    }
    out.push_str("<h2>Checkers</h2>\n<table>");
    for (checker, result) in &analysis.results {
        let verdict = word(result.verdict);
        let why: Vec<String> = result.evidence.iter().map(|e| escape(&e.what)).collect();
        let _ = writeln!(
            out,
            "<tr><td>{}</td><td class=\"{verdict}\">{verdict}</td><td>{}</td></tr>",
            escape(checker),
            why.join("<br>")
        );
    }
    out.push_str("</table>\n<h2>Operations</h2>\n");
    operations(&mut out, test, analysis);
    out.push_str("</body></html>\n");
    out
}

fn operations(out: &mut String, test: &TestRecord, analysis: &Analysis) {
    let evidence = analysis.results.iter().flat_map(|(_, r)| &r.evidence);
    let marked: BTreeSet<u64> = evidence.flat_map(|e| e.ops.iter().copied()).collect();
    let all: Vec<Operation<'_>> = test.history.operations().collect();
    let all: Vec<&Operation<'_>> = all
        .iter()
        .filter(|op| op.invoked.process != Process::Nemesis)
        .collect();
    let is_marked = |op: &Operation<'_>| {
        marked.contains(&op.invoked.index)
            || op.completed.is_some_and(|c| marked.contains(&c.index))
    };
    // Around the first operation that a finding names.
    let centre = all.iter().position(|op| is_marked(op)).unwrap_or(0);
    let first = centre
        .saturating_sub(SHOWN_MAX / 2)
        .min(all.len().saturating_sub(SHOWN_MAX));
    let shown = &all[first..all.len().min(first + SHOWN_MAX)];
    let _ = writeln!(
        out,
        "<p>{} of {} operations, from the {}th on. Blue succeeded, orange nobody knows, red failed; a black border marks what a finding names. Point at a bar to read it.</p>",
        shown.len(),
        all.len(),
        first + 1
    );
    let Some(begin) = shown.first().map(|op| op.invoked.time) else {
        return;
    };
    let last_line = test.history.ops().last().map_or(begin, |op| op.time);
    let end_of = |op: &Operation<'_>| op.completed.map_or(last_line, |c| c.time);
    let end = shown
        .iter()
        .map(|op| end_of(op))
        .max()
        .unwrap_or(begin)
        .max(begin + 1);
    let width = (shown.len() as f64 * 8.0).clamp(900.0, 30_000.0);
    let x = |time: u64| LEFT + width * time.saturating_sub(begin) as f64 / (end - begin) as f64;
    let concurrency = test
        .spec
        .get("concurrency")
        .and_then(|c| c.as_u64())
        .filter(|c| *c > 0);
    let client = |op: &Operation<'_>| match op.invoked.process {
        Process::Client(n) => concurrency.map_or(n, |c| n % c),
        Process::Nemesis => 0,
    };
    let mut rows: BTreeMap<u64, usize> = shown.iter().map(|op| (client(op), 0)).collect();
    for (place, row) in rows.values_mut().enumerate() {
        *row = place;
    }
    let height = (rows.len() + 1) * ROW;
    let _ = writeln!(
        out,
        "<div class=\"scroll\"><svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{:.0}\" height=\"{height}\" font-family=\"sans-serif\" font-size=\"11\">",
        LEFT + width + 20.0
    );
    for band in bands(&test.history) {
        let (from, to) = (band.from.max(begin), band.to.min(end));
        if from < to {
            let _ = writeln!(
                out,
                "<rect x=\"{:.1}\" y=\"0\" width=\"{:.1}\" height=\"{height}\" fill=\"#f3c9c9\" opacity=\"0.5\"><title>{}</title></rect><text x=\"{0:.1}\" y=\"{}\">{2}</text>",
                x(from),
                (x(to) - x(from)).max(1.0),
                escape(band.f),
                height - 5
            );
        }
    }
    for (name, row) in &rows {
        let _ = writeln!(
            out,
            "<text x=\"4\" y=\"{}\">client {name}</text>",
            row * ROW + 13
        );
    }
    for op in shown {
        let colour = match op.outcome() {
            Kind::Ok => "#8fb8ea",
            Kind::Fail => "#e39a9a",
            Kind::Info | Kind::Invoke => "#f0c580",
        };
        let border = if is_marked(op) { "#000" } else { "#fff" };
        let (from, y) = (x(op.invoked.time), rows[&client(op)] * ROW + 2);
        let said = op
            .completed
            .map_or_else(String::new, |c| format!("\n{}", line(c)));
        let _ = writeln!(
            out,
            "<rect x=\"{from:.1}\" y=\"{y}\" width=\"{:.1}\" height=\"{}\" fill=\"{colour}\" stroke=\"{border}\"><title>{}{}</title></rect>",
            (x(end_of(op)) - from).max(2.0),
            ROW - 4,
            escape(&line(op.invoked)),
            escape(&said)
        );
    }
    out.push_str("</svg></div>\n");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analyze::check;
    use crate::checker::simulate::{Registers, plant_stale_read};
    use crate::checker::{for_workload, testing};

    #[test]
    fn long_runs_show_what_is_around_the_finding_and_mark_it() {
        let run = Registers {
            operations: 8_000,
            clients: 5,
            keys: 8,
            info_per_mille: 2,
            seed: 11,
        };
        let history = run.history();
        let stale = plant_stale_read(&history, history.ops().len() * 9 / 10).unwrap();
        let test = testing::of(stale);
        let analysis = check(&test, &for_workload("register"));
        let page = page(&test, &analysis);
        assert!(page.contains("3000 of 8000 operations"));
        assert!(page.contains("stroke=\"#000\""));
        assert!(page.find("fits nowhere") < page.find("<table>"));
        assert!(
            !page.contains("http://")
                || page.matches("http://").count() == page.matches("xmlns").count()
        );
        assert!(page.len() < 4 << 20, "{}", page.len());
    }
}
