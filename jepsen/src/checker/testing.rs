//! Short ways to write a history in a test.

use super::TestRecord;
use crate::history::{History, edn};

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

/// A directory of its own that goes away.
pub(crate) struct Directory(pub std::path::PathBuf);

impl Directory {
    pub(crate) fn new(name: &str) -> Self {
        let path =
            std::env::temp_dir().join(format!("quorate-jepsen-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }
    pub(crate) fn write(&self, name: &str, text: impl AsRef<[u8]>) {
        let path = self.0.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A record without operations, with these files of `records/`.
pub(crate) fn with_records(dir: &Directory, files: &[(&str, &str)]) -> TestRecord {
    for (name, text) in files {
        dir.write(&format!("records/{name}.jsonl"), text);
    }
    TestRecord {
        dir: dir.0.clone(),
        ..record("")
    }
}
