//! What no node may ever write to its log: a panic, an invariant it found
//! broken, a state it had to refuse. Reads every `*.log` below `logs/` of the
//! run's directory; a line the spec expects (`spec.expected_log`, a list of
//! texts) is passed over, because some faults must make a node complain.

use super::{CheckResult, Checker, Evidence, TestRecord};
use serde_json::json;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

/// Texts that show a fault of the program rather than of its surroundings.
pub const PATTERNS: [&str; 7] = [
    "panicked at",
    "internal error: entered unreachable code",
    "stack backtrace:",
    "AddressSanitizer",
    "invariant broken",
    "two different states",
    "has overflowed its stack",
];

/// Longest part of a line that is looked at, in bytes.
const LINE_BYTES_MAX: u64 = 64 << 10;
/// Deepest directory below `logs/`.
const DEPTH_MAX: usize = 6;

/// See the module.
pub struct NodeLogs;

/// Files below `dir` whose names end in `end`, in order.
pub(crate) fn files_below(dir: &Path, end: &str) -> Vec<PathBuf> {
    fn walk(dir: &Path, end: &str, depth: usize, out: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
            let path = entry.path();
            match entry.file_type() {
                Ok(t) if t.is_dir() && depth < DEPTH_MAX => walk(&path, end, depth + 1, out),
                Ok(t) if t.is_file() && entry.file_name().to_string_lossy().ends_with(end) => {
                    out.push(path);
                }
                _ => {}
            }
        }
    }
    let mut out = Vec::new();
    walk(dir, end, 0, &mut out);
    out.sort();
    out
}

impl Checker for NodeLogs {
    fn name(&self) -> &'static str {
        "node-logs"
    }

    fn check(&self, test: &TestRecord) -> CheckResult {
        let expected = test.spec.get("expected_log").and_then(|e| e.as_array());
        let expected: Vec<&str> = expected
            .into_iter()
            .flatten()
            .filter_map(|e| e.as_str())
            .collect();
        let files = files_below(&test.dir.join("logs"), ".log");
        let (mut found, mut lines) = (Vec::new(), 0_u64);
        for path in &files {
            let name = path.strip_prefix(&test.dir).unwrap_or(path).display();
            let file = match std::fs::File::open(path) {
                Ok(file) => file,
                Err(e) => return CheckResult::unknown(format!("{name}: {e}"), json!({})),
            };
            let mut reader = BufReader::new(file);
            let mut line = Vec::new();
            for number in 1_u64.. {
                line.clear();
                match reader
                    .by_ref()
                    .take(LINE_BYTES_MAX)
                    .read_until(b'\n', &mut line)
                {
                    Ok(0) => break,
                    Ok(_) => lines += 1,
                    Err(e) => return CheckResult::unknown(format!("{name}: {e}"), json!({})),
                }
                let text = String::from_utf8_lossy(&line);
                let hit = PATTERNS.iter().any(|p| text.contains(p));
                if hit && !expected.iter().any(|e| text.contains(e)) {
                    let text: String = text.trim().chars().take(300).collect();
                    found.push(Evidence::new(format!("{name}:{number}: {text}"), []));
                }
            }
        }
        let details = json!({"files": files.len(), "lines": lines, "findings": found.len()});
        if lines == 0 {
            return CheckResult::unknown("no node wrote a log below logs/", details);
        }
        CheckResult::from_findings(found, details)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checker::testing::{Directory, record};
    use crate::verdict::Verdict;

    #[test]
    fn a_panic_is_found_unless_it_was_planted_and_no_logs_are_unknown() {
        let dir = Directory::new("node-logs");
        let mut test = record("");
        test.dir = dir.0.clone();
        assert_eq!(NodeLogs.check(&test).verdict, Verdict::Unknown);
        dir.write("logs/home-1/node.log", "INFO started\n");
        assert_eq!(NodeLogs.check(&test).verdict, Verdict::True);
        dir.write(
            "logs/home-2/node.log",
            "INFO started\nthread 'main' panicked at src/x.rs:1:1: failpoint a::b\n",
        );
        let found = NodeLogs.check(&test);
        assert_eq!(found.verdict, Verdict::False);
        assert!(
            found.evidence[0]
                .what
                .starts_with("logs/home-2/node.log:2: thread")
        );
        test.spec = json!({"expected_log": ["failpoint a::b"]});
        assert_eq!(NodeLogs.check(&test).verdict, Verdict::True);
    }
}
