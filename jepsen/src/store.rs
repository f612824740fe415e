//! What is left of a run: `store/TEST/TIME/`, and `latest` links to it.

use crate::history::{History, edn, jsonl};
use anyhow::Context;
use serde::Serialize;
use std::fs::File;
use std::io::BufWriter;
use std::path::{Path, PathBuf};

/// What was asked for.
pub const SPEC: &str = "spec.json";
/// The history, for programs.
pub const HISTORY_JSONL: &str = "history.jsonl";
/// The history, for Jepsen's checkers.
pub const HISTORY_EDN: &str = "history.edn";
/// What the checkers said.
pub const RESULTS: &str = "results.json";

/// Makes the directory of a new run of `test`, and links to it.
///
/// # Errors
/// As the disk does.
pub fn new_run(store: &Path, test: &str) -> anyhow::Result<PathBuf> {
    let of_test = store.join(test);
    std::fs::create_dir_all(&of_test).with_context(|| format!("make {}", of_test.display()))?;
    let stamp = stamp(std::time::SystemTime::now());
    let mut name = stamp.clone();
    let mut again = 1;
    // Two runs may begin in one second.
    while let Err(e) = std::fs::create_dir(of_test.join(&name)) {
        anyhow::ensure!(
            e.kind() == std::io::ErrorKind::AlreadyExists,
            "{}: {e}",
            of_test.display()
        );
        again += 1;
        name = format!("{stamp}-{again}");
    }
    link(&of_test, Path::new(&name))?;
    link(store, &Path::new(test).join(&name))?;
    std::fs::canonicalize(of_test.join(name)).context("the run's directory")
}

fn link(dir: &Path, to: &Path) -> anyhow::Result<()> {
    let (fresh, latest) = (dir.join(".latest"), dir.join("latest"));
    let _ = std::fs::remove_file(&fresh);
    std::os::unix::fs::symlink(to, &fresh)?;
    std::fs::rename(&fresh, latest)?;
    Ok(())
}

/// `20261122T003815Z`.
fn stamp(at: std::time::SystemTime) -> String {
    let since = at.duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    let (days, s) = ((since.as_secs() / 86_400) as i64, since.as_secs() % 86_400);
    // Civil date from days, Howard Hinnant's chrono-compatible algorithm.
    let z = days + 719_468;
    let era = z.div_euclid(146_097);
    let of_era = z.rem_euclid(146_097);
    let year = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let shifted = (5 * of_year + 2) / 153;
    let day = of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 {
        shifted + 3
    } else {
        shifted - 9
    };
    let year = year + era * 400 + i64::from(month <= 2);
    format!(
        "{year:04}{month:02}{day:02}T{:02}{:02}{:02}Z",
        s / 3600,
        s / 60 % 60,
        s % 60
    )
}

/// Writes a value as JSON.
///
/// # Errors
/// As the disk does.
pub fn write_json<T: Serialize>(path: &Path, value: &T) -> anyhow::Result<()> {
    let mut text = serde_json::to_vec_pretty(value)?;
    text.push(b'\n');
    std::fs::write(path, text).with_context(|| format!("write {}", path.display()))
}

/// Writes the history in both forms.
///
/// # Errors
/// As the disk does.
pub fn write_history(dir: &Path, history: &History) -> anyhow::Result<()> {
    edn::write(
        history,
        BufWriter::new(File::create(dir.join(HISTORY_EDN))?),
    )?;
    jsonl::write(
        history,
        BufWriter::new(File::create(dir.join(HISTORY_JSONL))?),
    )?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, UNIX_EPOCH};

    #[test]
    fn stamps_are_dates() {
        let at = |s| stamp(UNIX_EPOCH + Duration::from_secs(s));
        assert_eq!(at(0), "19700101T000000Z");
        assert_eq!(at(951_782_400), "20000229T000000Z");
        assert_eq!(at(1_795_307_895), "20261122T003815Z");
    }

    #[test]
    fn every_run_has_a_directory_of_its_own_and_latest_is_the_last() {
        let dir = tempfile::tempdir().unwrap();
        let first = new_run(dir.path(), "set-kill").unwrap();
        let second = new_run(dir.path(), "set-kill").unwrap();
        assert_ne!(first, second);
        for latest in [
            dir.path().join("latest"),
            dir.path().join("set-kill/latest"),
        ] {
            assert_eq!(std::fs::canonicalize(latest).unwrap(), second);
        }
    }
}
