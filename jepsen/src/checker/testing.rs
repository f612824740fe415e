//! Short ways to write a history in a test.

use super::TestRecord;
use crate::history::{History, Kind, Op, Process, edn};

/// A record of EDN lines without `:index` and `:time`: `process type f value [error]`.
/// Lines are one millisecond apart.
pub(crate) fn record(lines: &str) -> TestRecord {
    let lines = lines.lines().map(str::trim).filter(|l| !l.is_empty());
    let text: String = lines
        .enumerate()
        .map(|(i, line)| {
            let mut words = line.splitn(4, ' ');
            let mut word = || words.next().unwrap_or("nil");
            let (process, kind, f, value) = (word(), word(), word(), word());
            let process = if process == "n" { ":nemesis" } else { process };
            let (value, error) = value.split_once(" !").map_or((value, String::new()), |(v, e)| {
                (v, format!(" :error {e:?}"))
            });
            format!(
                "{{:index {i} :time {} :process {process} :type :{kind} :f :{f} :value {value}{error}}}\n",
                i * 1_000_000
            )
        })
        .collect();
    of(edn::read(text.as_bytes()).unwrap())
}

/// A record of a history, without files.
pub(crate) fn of(history: History) -> TestRecord {
    TestRecord {
        spec: serde_json::json!({}),
        history,
        dir: "/nonexistent".into(),
    }
}

/// The history without line `at` and with the lines after it renumbered.
pub(crate) fn edit(history: &History, change: impl FnOnce(&mut Vec<Op>)) -> History {
    let mut ops = history.ops().to_vec();
    change(&mut ops);
    for (i, op) in ops.iter_mut().enumerate() {
        op.index = i as u64;
    }
    History::new(ops).unwrap()
}

/// Whether a line is a client's completion of this kind and function.
pub(crate) fn is(op: &Op, kind: Kind, f: &str) -> bool {
    matches!(op.process, Process::Client(_)) && op.kind == kind && op.f == f
}
