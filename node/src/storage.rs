//! A node's data directory: one lock, one format mark, one log, a state per group.
//!
//! ```text
//! DATA/FORMAT              what this directory is, and of which version
//! DATA/LOCK                held while a process uses it
//! DATA/wal/                the log of all groups
//! DATA/group-N/state.*     the store of group N
//! DATA/group-N/snapshots/  its newest snapshot
//! DATA/group-N/incoming/   snapshots on their way in
//! ```

use crate::raft::log_store::LogStore;
use crate::raft::state_machine::{StateError, StateMachine, StateReader};
use crate::raft::{GroupId, snapshot};
use crate::store::{self, StoreError, StoreKind};
use crate::wal::disk::create_dir_durably;
use crate::wal::{Fatal, Wal, WalError, WalOptions};
use quorate_engine::types::kv::Machine;
use std::fs::{File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

/// Version of the directory's layout that this build writes and the newest it reads.
pub const FORMAT_VERSION: u32 = 1;
const FORMAT_FILE: &str = "FORMAT";
const LOCK_FILE: &str = "LOCK";
const FORMAT_TITLE: &str = "quorate data directory";

/// Why a data directory cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum StorageError {
    /// The system refused a file operation.
    #[error("data directory {dir}: cannot {what}: {source}", dir = dir.display())]
    Io {
        /// The directory.
        dir: PathBuf,
        /// What was tried.
        what: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// Another process has it.
    #[error("data directory {dir} is in use by another process; a node runs once: stop the other one, or give this one its own directory", dir = dir.display())]
    InUse {
        /// The directory.
        dir: PathBuf,
    },
    /// It is not empty and not ours.
    #[error("{dir} is not empty and not a data directory of this program; give an empty one", dir = dir.display())]
    Foreign {
        /// The directory.
        dir: PathBuf,
    },
    /// Written by a newer build.
    #[error("data directory {dir} has format {version}, this build reads up to {FORMAT_VERSION}; start the newer build again", dir = dir.display())]
    Newer {
        /// The directory.
        dir: PathBuf,
        /// Its version.
        version: u32,
    },
    /// Its state lies in another kind of store.
    #[error("data directory {dir} was made with store {was:?}, configured is {now:?}; set it back, or replace the node", dir = dir.display())]
    OtherStore {
        /// The directory.
        dir: PathBuf,
        /// Kind in the directory.
        was: String,
        /// Kind asked for.
        now: &'static str,
    },
    /// The log cannot be used.
    #[error(transparent)]
    Wal(#[from] WalError),
    /// A store cannot be used.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A group's state cannot be used.
    #[error(transparent)]
    State(#[from] StateError),
}

/// How a data directory is used.
#[derive(Clone, Default)]
pub struct StorageOptions {
    /// Kind of the state stores.
    pub store: StoreKind,
    /// The log's options; its handler also serves the stores.
    pub wal: WalOptions,
    /// Cache of all state stores together, in bytes; 0 for [`STORE_CACHE_BYTES`].
    pub cache_bytes: usize,
    /// Number of groups that share the cache; 0 counts as 1.
    pub groups: usize,
}

/// Cache of all state stores of a node together, in bytes, unless configured.
pub const STORE_CACHE_BYTES: usize = 64 << 20;
/// Least cache of one store, in bytes.
const STORE_CACHE_BYTES_MIN: usize = 4 << 20;

/// An open data directory.
pub struct Storage {
    dir: PathBuf,
    wal: Wal,
    options: StorageOptions,
    readers: Mutex<Vec<StateReader>>,
    // Held as long as anything of the directory is used.
    _lock: File,
}

/// One group, opened.
pub struct OpenGroup {
    /// Its log.
    pub log: LogStore,
    /// Its state machine.
    pub state: StateMachine,
    /// For reading its state.
    pub reader: StateReader,
}

impl Storage {
    /// Opens `dir`, which is created if missing: takes its lock, checks its format, recovers the log.
    ///
    /// # Errors
    /// [`StorageError`]; each says what to do.
    pub fn open(dir: &Path, options: StorageOptions) -> Result<Self, StorageError> {
        let io = |what| {
            move |source| StorageError::Io {
                dir: dir.to_owned(),
                what,
                source,
            }
        };
        create_dir_durably(dir).map_err(io("create it"))?;
        let held = lock(dir)?;
        check_format(dir, options.store)?;
        let wal = Wal::open(&dir.join("wal"), options.wal.clone())?;
        let report = wal.report();
        if report.cut_bytes > 0 {
            tracing::warn!(
                bytes = report.cut_bytes,
                "an unfinished tail of the log was cut"
            );
        }
        tracing::info!(records = report.records, "log recovered");
        Ok(Self {
            dir: dir.to_owned(),
            wal,
            options,
            readers: Mutex::default(),
            _lock: held,
        })
    }

    /// Opens one group with the machine that understands its commands.
    ///
    /// # Errors
    /// [`StorageError`] when its store or state cannot be used.
    pub fn group(&self, id: GroupId, machine: Arc<dyn Machine>) -> Result<OpenGroup, StorageError> {
        let dir = group_dir(&self.dir, id);
        let cache = match self.options.cache_bytes {
            0 => STORE_CACHE_BYTES,
            bytes => bytes,
        };
        let cache = (cache / self.options.groups.max(1)).max(STORE_CACHE_BYTES_MIN);
        let store = store::open(self.options.store, &dir, cache)?;
        let fatal = self.options.wal.fatal.clone();
        let state = StateMachine::open(store, machine, &dir, id, self.wal.group(id), fatal)?;
        let reader = state.reader();
        self.readers
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(reader.clone());
        Ok(OpenGroup {
            log: LogStore::new(self.wal.group(id)),
            state,
            reader,
        })
    }

    /// The log.
    pub fn wal(&self) -> &Wal {
        &self.wal
    }

    /// What to do when a durable write fails.
    pub fn fatal(&self) -> &Fatal {
        &self.options.wal.fatal
    }

    /// Ends a clean stop: raft must have shut down before. What was
    /// acknowledged is durable without it; it spares the next start work.
    ///
    /// # Errors
    /// [`StorageError::Store`] when a state could not be written.
    pub fn close(&self) -> Result<(), StorageError> {
        for r in self
            .readers
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .drain(..)
        {
            r.close()?;
        }
        self.wal.close();
        Ok(())
    }
}

/// Directory of one group.
pub fn group_dir(data: &Path, id: GroupId) -> PathBuf {
    data.join(format!("group-{id}"))
}

/// Groups that have a directory in `data`, ascending.
///
/// # Errors
/// As the system reports them.
pub fn groups_in(data: &Path) -> io::Result<Vec<GroupId>> {
    let mut out = Vec::new();
    for e in std::fs::read_dir(data)? {
        let name = e?.file_name();
        out.extend(
            name.to_str()
                .and_then(|n| n.strip_prefix("group-")?.parse::<GroupId>().ok()),
        );
    }
    out.sort_unstable();
    Ok(out)
}

/// Snapshot files of one group, finished ones only.
///
/// # Errors
/// As the system reports them.
pub fn snapshots_in(data: &Path, id: GroupId) -> io::Result<Vec<PathBuf>> {
    let mut out = Vec::new();
    for e in std::fs::read_dir(group_dir(data, id).join("snapshots"))? {
        let path = e?.path();
        if path.extension().is_some_and(|x| x == snapshot::EXT) {
            out.push(path);
        }
    }
    out.sort();
    Ok(out)
}

/// Takes the directory's lock, held until the file is dropped.
///
/// # Errors
/// [`StorageError::InUse`] when another process has it.
pub fn lock(dir: &Path) -> Result<File, StorageError> {
    let io = |source| StorageError::Io {
        dir: dir.to_owned(),
        what: "take its lock",
        source,
    };
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(dir.join(LOCK_FILE))
        .map_err(io)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(StorageError::InUse {
            dir: dir.to_owned(),
        }),
        Err(TryLockError::Error(e)) => Err(io(e)),
    }
}

/// Reads the format mark: version and store kind. `None` when there is none.
///
/// # Errors
/// [`StorageError::Foreign`] when there is another file in its place.
pub fn read_format(dir: &Path) -> Result<Option<(u32, String)>, StorageError> {
    let text = match std::fs::read_to_string(dir.join(FORMAT_FILE)) {
        Ok(t) => t,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => {
            return Err(StorageError::Io {
                dir: dir.to_owned(),
                what: "read its format",
                source,
            });
        }
    };
    let foreign = || StorageError::Foreign {
        dir: dir.to_owned(),
    };
    let mut lines = text.lines();
    if lines.next() != Some(FORMAT_TITLE) {
        return Err(foreign());
    }
    let field = |line: Option<&str>, name: &str| {
        line.and_then(|l| l.strip_prefix(name))
            .map(str::to_owned)
            .ok_or_else(foreign)
    };
    let version = field(lines.next(), "format ")?
        .parse()
        .map_err(|_| foreign())?;
    if version > FORMAT_VERSION {
        return Err(StorageError::Newer {
            dir: dir.to_owned(),
            version,
        });
    }
    Ok(Some((version, field(lines.next(), "store ")?)))
}

fn check_format(dir: &Path, kind: StoreKind) -> Result<(), StorageError> {
    let io = |what| {
        move |source| StorageError::Io {
            dir: dir.to_owned(),
            what,
            source,
        }
    };
    match read_format(dir)? {
        Some((_, was)) if was == kind.as_str() => Ok(()),
        Some((_, was)) => Err(StorageError::OtherStore {
            dir: dir.to_owned(),
            was,
            now: kind.as_str(),
        }),
        None => {
            // A log or a state without the mark is none of ours to write over.
            if dir.join("wal").exists() || !groups_in(dir).map_err(io("list it"))?.is_empty() {
                return Err(StorageError::Foreign {
                    dir: dir.to_owned(),
                });
            }
            let text = format!(
                "{FORMAT_TITLE}\nformat {FORMAT_VERSION}\nstore {}\n",
                kind.as_str()
            );
            let tmp = dir.join("FORMAT.tmp");
            let write = || -> io::Result<()> {
                std::fs::write(&tmp, &text)?;
                File::open(&tmp)?.sync_all()?;
                std::fs::rename(&tmp, dir.join(FORMAT_FILE))?;
                File::open(dir)?.sync_all()
            };
            write().map_err(io("write its format"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use quorate_engine::types::kv::{Kv, KvError, Position};

    struct Echo;
    impl Machine for Echo {
        fn apply(&self, _: &mut dyn Kv, _: Position, c: &[u8]) -> Result<Vec<u8>, KvError> {
            Ok(c.to_vec())
        }
    }

    fn open(dir: &Path, store: StoreKind) -> Result<Storage, StorageError> {
        Storage::open(
            dir,
            StorageOptions {
                store,
                ..StorageOptions::default()
            },
        )
    }

    #[test]
    fn two_processes_newer_formats_other_stores_and_foreign_files_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let s = open(dir.path(), StoreKind::Redb).unwrap();
        assert!(matches!(
            open(dir.path(), StoreKind::Redb),
            Err(StorageError::InUse { .. })
        ));
        s.group(0, Arc::new(Echo)).unwrap();
        s.close().unwrap();
        drop(s);
        assert!(matches!(
            open(dir.path(), StoreKind::Sled),
            Err(StorageError::OtherStore { .. })
        ));
        assert_eq!(groups_in(dir.path()).unwrap(), [0]);
        let mark = dir.path().join(FORMAT_FILE);
        std::fs::write(&mark, "quorate data directory\nformat 9\nstore redb\n").unwrap();
        let e = open(dir.path(), StoreKind::Redb).err().unwrap();
        assert!(matches!(e, StorageError::Newer { version: 9, .. }), "{e}");
        std::fs::write(&mark, "something else\n").unwrap();
        assert!(matches!(
            open(dir.path(), StoreKind::Redb),
            Err(StorageError::Foreign { .. })
        ));
        std::fs::remove_file(&mark).unwrap();
        assert!(matches!(
            open(dir.path(), StoreKind::Redb),
            Err(StorageError::Foreign { .. })
        ));
    }
}
