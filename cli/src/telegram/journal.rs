//! What an import has done so far, so that it goes on where it stopped.
//!
//! The home alone makes repeating safe, by idempotency keys, for seven days.
//! The journal makes it quick, and safe after that. It lies beside the
//! client's secret in `client/imports/ID.json` and is replaced as a whole.
//! The id is a keyed hash of the file: an unkeyed one would confirm guesses of
//! content to whoever sees it (DESIGN 5), and idempotency keys are seen by the home.

use crate::exit::{Exit, Failure};
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

/// Least time between two writes of the journal.
const WRITE_EVERY_MS: u64 = 500;
/// Repeating is safe by the home's own memory for seven days; one is kept as margin.
const REPEATABLE_MS: u64 = 6 * 24 * 3600 * 1000;
/// Largest journal read.
const JOURNAL_BYTES_MAX: u64 = 64 << 20;

/// One chat that an import made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ChatDone {
    /// Its id at the home.
    pub chat: String,
    /// Records that were acknowledged.
    pub records: u64,
}

/// The journal's content.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct State {
    /// Import id.
    pub import: String,
    /// Bytes of the file that the id is the keyed hash of.
    pub bytes: u64,
    /// The archive chat, once it was made.
    pub archive: Option<ChatDone>,
    /// Chats in the file's order, as far as they were made.
    pub chats: Vec<ChatDone>,
    /// Everything was acknowledged.
    pub complete: bool,
    /// The file was cut short or damaged: a longer one that begins the same goes on from here.
    pub cut: bool,
    /// When it was last written, Unix milliseconds.
    pub updated_ms: u64,
}

/// A journal, held by one process at a time.
pub struct Journal {
    /// Its content.
    pub state: State,
    path: PathBuf,
    written: Option<Instant>,
    /// Held open for its lock.
    _lock: File,
}

fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.map_or(0, |d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX))
}

impl Journal {
    /// Takes the journal of `import`, made empty when there is none.
    ///
    /// # Errors
    /// When another process holds it, or it cannot be read.
    pub fn open(dir: &Path, import: &str, bytes: u64) -> Result<Self, Failure> {
        make(dir)?;
        let lock_path = dir.join(format!("{import}.lock"));
        let lock = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(&lock_path)
            .map_err(|e| Failure::file("open", &lock_path, &e))?;
        if lock.try_lock().is_err() {
            return Err(Failure::new(
                Exit::Conflict,
                "import_running",
                "this file is being imported by another process",
                "wait for it, or stop it and run the command again",
            ));
        }
        let path = dir.join(format!("{import}.json"));
        let mut state = read(&path)?.unwrap_or_default();
        if state.import.is_empty() {
            import.clone_into(&mut state.import);
            state.bytes = bytes;
        }
        Ok(Self {
            state,
            path,
            written: None,
            _lock: lock,
        })
    }

    /// Whether what was sent but not acknowledged may be sent again without doubling it.
    pub fn repeatable(&self) -> bool {
        self.state.updated_ms == 0 || now_ms().saturating_sub(self.state.updated_ms) < REPEATABLE_MS
    }

    /// Writes it, unless it was written a moment ago and `now` is false.
    ///
    /// # Errors
    /// As the disk does.
    pub fn save(&mut self, now: bool) -> Result<(), Failure> {
        let every = Duration::from_millis(WRITE_EVERY_MS);
        if !now && self.written.is_some_and(|w| w.elapsed() < every) {
            return Ok(());
        }
        self.state.updated_ms = now_ms();
        let write = || -> std::io::Result<()> {
            let text = serde_json::to_vec(&self.state).map_err(std::io::Error::other)?;
            let fresh = self.path.with_extension("new");
            let mut file = File::options()
                .create(true)
                .truncate(true)
                .write(true)
                .mode(0o600)
                .open(&fresh)?;
            file.write_all(&text)?;
            file.sync_data()?;
            std::fs::rename(&fresh, &self.path)
        };
        write().map_err(|e| Failure::file("write the import journal", &self.path, &e))?;
        self.written = Some(Instant::now());
        Ok(())
    }
}

/// Journals of imports whose file was cut short: their ids and lengths.
///
/// # Errors
/// When the directory cannot be read. A broken journal is passed over.
pub fn cut_imports(dir: &Path) -> Result<Vec<(String, u64)>, Failure> {
    make(dir)?;
    let entries = std::fs::read_dir(dir).map_err(|e| Failure::file("read", dir, &e))?;
    let mut out = Vec::new();
    for entry in entries.flatten() {
        let path = entry.path();
        if path.extension().is_some_and(|e| e == "json")
            && let Ok(Some(state)) = read(&path)
            && state.cut
        {
            out.push((state.import, state.bytes));
        }
    }
    out.sort_by_key(|(_, bytes)| *bytes);
    Ok(out)
}

fn make(dir: &Path) -> Result<(), Failure> {
    let made = std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir);
    made.map_err(|e| Failure::file("make", dir, &e))
}

fn read(path: &Path) -> Result<Option<State>, Failure> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(Failure::file("read the import journal", path, &e)),
    };
    let mut bytes = Vec::new();
    let got = file.take(JOURNAL_BYTES_MAX).read_to_end(&mut bytes);
    got.map_err(|e| Failure::file("read the import journal", path, &e))?;
    serde_json::from_slice(&bytes).map(Some).map_err(|e| {
        Failure::new(
            Exit::Failed,
            "import_journal",
            format!(
                "the import journal {} cannot be understood: {e}",
                path.display()
            ),
            "delete it; what was imported within seven days is then recognised and not doubled",
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_journal_is_found_again_and_held_by_one() {
        let dir = tempfile::tempdir().unwrap();
        let mut j = Journal::open(dir.path(), "ab", 9).unwrap();
        j.state.cut = true;
        j.save(true).unwrap();
        assert!(Journal::open(dir.path(), "ab", 9).is_err());
        drop(j);
        let j = Journal::open(dir.path(), "ab", 9).unwrap();
        assert!(j.state.cut && j.repeatable());
        assert_eq!(cut_imports(dir.path()).unwrap(), [("ab".to_owned(), 9)]);
        std::fs::write(dir.path().join("cd.json"), "{").unwrap();
        assert!(Journal::open(dir.path(), "cd", 1).is_err());
        assert_eq!(cut_imports(dir.path()).unwrap().len(), 1);
    }
}
