//! The write-ahead log: one per node, for all of its raft groups.
//!
//! ```text
//!  group 0 ─┐ append, vote, truncate, purge
//!  group 1 ─┼──▶ queue ──▶ writer thread ──▶ 000…1.wal 000…2.wal …   one fdatasync a batch
//!  group 2 ─┘      ▲                │
//!                  └── acknowledged ┘        ledger: what is durable, oldest segment
//! ```
//!
//! One log instead of one per group because an fdatasync costs the same for
//! one record as for a hundred: eight groups share it instead of queueing
//! eight. A single writer, no timed wait: what gathers while one sync runs is
//! the next batch. The format is in [`mod@format`] and `docs/format.md`, the rule
//! of what a restart may cut and what it must refuse in [`recovery`].
//!
//! Deliberately not here: anything about raft beyond positions and opaque
//! bytes (`raft::log_store` adapts it), and any retry of a failed write.

pub mod disk;
pub mod dump;
pub mod fatal;
pub mod format;
pub mod group;
mod handle;
pub mod recovery;
mod writer;

#[cfg(test)]
mod testdisk;
#[cfg(test)]
mod tests;

pub use self::disk::{Disk, DiskFile, RealDisk};
pub use self::fatal::Fatal;
pub use self::format::{EntryHead, EntryKind, LogPos};
pub use self::group::Floor;
pub use self::handle::{GroupWal, NewEntry};
pub use self::recovery::Report;
pub use self::writer::Done;

use self::format::WalId;
use self::group::{Cell, GroupLog, LogOrderError};
use self::writer::{GroupSlot, Op, Start, Writer};
use bytes::Bytes;
use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, RwLock};

/// A raft group on a node.
pub type GroupId = u32;

/// Bytes that may be queued for the writer before `append` waits.
pub const QUEUE_BYTES_MAX: usize = 64 << 20;
/// Payload bytes put into one record before the next one is begun.
pub const RECORD_BYTES_MAX: usize = 32 << 20;

/// Why the log cannot be used. Each says what to do next.
#[derive(Clone, Debug, thiserror::Error)]
pub enum WalError {
    /// The system refused a file operation.
    #[error("log: cannot {what} {file}: {reason}; check the disk, its free space and permissions", file = file.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// On which file.
        file: PathBuf,
        /// What the system said.
        reason: String,
    },
    /// Records that were durable cannot be read any more.
    #[error(
        "log: {file} is damaged at offset {offset}: record {seq} is invalid, yet records up to {durable} \
         were durable; acknowledged data is lost on this disk. Do not repair it: take this node out of its \
         cluster and replace it with a new one under a new id", file = file.display()
    )]
    Damaged {
        /// The file.
        file: PathBuf,
        /// Where in it the valid part ends.
        offset: u64,
        /// The record expected there.
        seq: u64,
        /// What was durable.
        durable: u64,
    },
    /// A segment is not there.
    #[error("log: segment {file} is missing; restore the file if it was moved away, else replace this node", file = file.display())]
    MissingSegment {
        /// The file that should be there.
        file: PathBuf,
    },
    /// A file in the log's directory has a segment's extension but not its name.
    #[error("log: {file} is not a segment of this log; move it away", file = file.display())]
    Stray {
        /// The file.
        file: PathBuf,
    },
    /// A record passes its checksum but makes no sense.
    #[error("log: {file} at offset {offset}: {reason}; this is a bug or a forged file: keep a copy and replace the node", file = file.display())]
    Corrupt {
        /// The file.
        file: PathBuf,
        /// Offset of the record.
        offset: u64,
        /// What is wrong.
        reason: String,
    },
    /// Written by a newer build.
    #[error("log: {file} has format version {version}, this build reads up to {max}; start the newer build again", file = file.display(), max = format::FORMAT_VERSION)]
    Newer {
        /// The file.
        file: PathBuf,
        /// Its version.
        version: u16,
    },
    /// An operation that does not fit the log.
    #[error("log: {0}")]
    Order(#[from] LogOrderError),
    /// An entry too large for a record.
    #[error("log: an entry of {bytes} bytes is over the limit of {RECORD_BYTES_MAX}")]
    TooLarge {
        /// Its size.
        bytes: usize,
    },
    /// The log was closed or has failed before.
    #[error("log: stopped: {0}")]
    Stopped(String),
}

impl WalError {
    pub(crate) fn io(what: &'static str, file: &Path, e: io::Error) -> Self {
        Self::Io {
            what,
            file: file.to_owned(),
            reason: e.to_string(),
        }
    }
}

impl From<WalError> for io::Error {
    fn from(e: WalError) -> Self {
        io::Error::other(e)
    }
}

/// How a log is run.
#[derive(Clone)]
pub struct WalOptions {
    /// Size at which a new segment is begun, in bytes.
    pub segment_bytes: u64,
    /// Most zeros written ahead of the records, in bytes: a record that takes their place
    /// changes no length and no block map, so its fdatasync has only data to write.
    pub ahead_bytes: u64,
    /// Entry payloads kept in memory after they were written, in bytes, for all groups together.
    pub cache_bytes: usize,
    /// What to do when a durable write fails.
    pub fatal: Fatal,
    /// The files.
    pub disk: Arc<dyn Disk>,
}

impl Default for WalOptions {
    fn default() -> Self {
        Self {
            segment_bytes: 64 << 20,
            ahead_bytes: 1 << 20,
            cache_bytes: 16 << 20,
            fatal: Fatal::default(),
            disk: Arc::new(RealDisk),
        }
    }
}

/// Counters since the log was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Records written.
    pub records: u64,
    /// Bytes written, headers included.
    pub bytes: u64,
    /// fdatasync calls for records.
    pub syncs: u64,
    /// Waiters told that their record is durable.
    pub acks: u64,
    /// Segments removed because nobody needs them.
    pub segments_removed: u64,
}

#[derive(Default)]
struct Queue {
    ops: VecDeque<Op>,
    bytes: usize,
    closed: bool,
    failed: Option<String>,
}

/// What the writer and the handles share.
pub struct Shared {
    dir: PathBuf,
    disk: Arc<dyn Disk>,
    options: WalOptions,
    wal_id: WalId,
    groups: Mutex<BTreeMap<GroupId, GroupSlot>>,
    files: RwLock<BTreeMap<u64, Arc<dyn DiskFile>>>,
    queue: Mutex<Queue>,
    wake: Condvar,
    room: tokio::sync::Notify,
    stats: Mutex<Stats>,
}

fn lock<T>(m: &Mutex<T>) -> MutexGuard<'_, T> {
    m.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    fn group_slot(&self, id: GroupId) -> GroupSlot {
        lock(&self.groups)
            .entry(id)
            .or_insert_with(|| Arc::new(Mutex::new(GroupLog::new(id))))
            .clone()
    }

    fn all_groups(&self) -> Vec<(GroupId, GroupSlot)> {
        lock(&self.groups)
            .iter()
            .map(|(k, v)| (*k, v.clone()))
            .collect()
    }

    fn file(&self, segment: u64) -> Option<Arc<dyn DiskFile>> {
        self.files
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .get(&segment)
            .cloned()
    }

    fn add_file(&self, segment: u64, file: Arc<dyn DiskFile>) {
        self.files
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(segment, file);
    }

    fn forget_file(&self, segment: u64) {
        self.files
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&segment);
    }

    fn count(&self, f: impl FnOnce(&mut Stats)) {
        f(&mut lock(&self.stats));
    }

    /// Waits for operations and takes up to `bytes_max` bytes of them. `None` once closed and empty.
    fn next_batch(&self, bytes_max: usize) -> Option<Vec<Op>> {
        let mut q = lock(&self.queue);
        while q.ops.is_empty() {
            if q.closed {
                return None;
            }
            q = self.wake.wait(q).unwrap_or_else(PoisonError::into_inner);
        }
        let mut out = Vec::with_capacity(q.ops.len());
        let mut bytes = 0;
        while let Some(op) = q.ops.front() {
            if !out.is_empty() && bytes + op.body.len() > bytes_max {
                break;
            }
            bytes += op.body.len();
            out.extend(q.ops.pop_front());
        }
        q.bytes -= bytes;
        drop(q);
        self.room.notify_waiters();
        Some(out)
    }

    fn drain(&self) -> Vec<Op> {
        let mut q = lock(&self.queue);
        q.bytes = 0;
        q.ops.drain(..).collect()
    }

    /// Marks the log as failed for good and tells the handler.
    fn fail(&self, e: &WalError) {
        lock(&self.queue).failed = Some(e.to_string());
        self.room.notify_waiters();
        self.options.fatal.report(&e.to_string());
    }

    fn submit(&self, g: &mut GroupLog, op: Op) -> Result<(), WalError> {
        let mut q = lock(&self.queue);
        if let Some(reason) = &q.failed {
            return Err(WalError::Stopped(reason.clone()));
        }
        if q.closed {
            return Err(WalError::Stopped("closed".into()));
        }
        g.queued += 1;
        g.cuts_queued += usize::from(op.kind.is_cut());
        q.bytes += op.body.len();
        q.ops.push_back(op);
        drop(q);
        self.wake.notify_one();
        Ok(())
    }

    /// An entry's payload, from memory or file.
    fn payload(&self, cell: &Cell) -> Result<Bytes, WalError> {
        let mut gone = None;
        // Twice, because it may be moved to a newer segment in between.
        for _ in 0..2 {
            let place = cell.place();
            if let Some(data) = place.data {
                return Ok(data);
            }
            let Some(loc) = place.loc else { continue };
            let path = recovery::segment_path(&self.dir, loc.segment);
            let Some(file) = self.file(loc.segment) else {
                gone = Some(path);
                continue;
            };
            let mut bytes = vec![0u8; cell.head.len as usize];
            file.read_exact_at(&mut bytes, loc.offset)
                .map_err(|e| WalError::io("read", &path, e))?;
            if crc32fast::hash(&bytes) != cell.head.crc {
                return Err(WalError::Corrupt {
                    file: path,
                    offset: loc.offset,
                    reason: format!("entry {} does not match its checksum", cell.head.pos),
                });
            }
            return Ok(Bytes::from(bytes));
        }
        Err(WalError::MissingSegment {
            file: gone.unwrap_or_else(|| self.dir.clone()),
        })
    }
}

struct Inner {
    shared: Arc<Shared>,
    thread: Mutex<Option<std::thread::JoinHandle<()>>>,
    report: Report,
}

impl Inner {
    fn close(&self) {
        lock(&self.shared.queue).closed = true;
        self.shared.wake.notify_all();
        let Some(t) = lock(&self.thread).take() else {
            return;
        };
        // A callback may hold the last handle: the writer cannot wait for itself.
        if t.thread().id() != std::thread::current().id() {
            let _ = t.join();
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        // Only ends the thread. Everything acknowledged is durable already.
        self.close();
    }
}

/// An open log. Clones are handles to the same one.
#[derive(Clone)]
pub struct Wal(Arc<Inner>);

impl std::fmt::Debug for Wal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Wal({})", self.0.shared.dir.display())
    }
}

impl Wal {
    /// Opens the log in `dir`, which is created if missing, and recovers it.
    ///
    /// # Errors
    /// [`WalError`] when acknowledged records are damaged or missing, the
    /// format is newer, or the disk fails.
    pub fn open(dir: &Path, options: WalOptions) -> Result<Self, WalError> {
        let disk = options.disk.clone();
        disk.create_dir(dir)
            .map_err(|e| WalError::io("create", dir, e))?;
        let files = disk.list(dir).map_err(|e| WalError::io("list", dir, e))?;
        let fresh = !files.iter().any(|f| f.ends_with(recovery::LEDGER_FILE))
            && recovery::list_segments(&*disk, dir)?.is_empty();
        if fresh {
            let shared = Shared::new(dir, options.clone(), rand::random(), BTreeMap::new());
            writer::create_ledger(&shared)?;
            if let Some(parent) = dir.parent() {
                disk.sync_dir(parent)
                    .map_err(|e| WalError::io("sync", parent, e))?;
            }
        }
        let r = match recovery::recover(&*disk, dir) {
            // Cut off while the ledger of a new log was written: nothing was ever in it.
            Err(WalError::Damaged {
                seq: 0,
                durable: 0,
                offset: 0,
                file,
            }) if file.ends_with(recovery::LEDGER_FILE)
                && recovery::list_segments(&*disk, dir)?.is_empty()
                && young_ledger(&*disk, &file)? =>
            {
                disk.remove(&file)
                    .map_err(|e| WalError::io("remove", &file, e))?;
                return Self::open(dir, options);
            }
            other => other?,
        };
        let oldest = r.files.keys().next().copied();
        let start = Start {
            ledger_turn: r.ledger_turn,
            oldest: oldest.unwrap_or(1),
            active: r.files.keys().next_back().copied(),
            len: r.active_len,
            next_seq: r.next_seq.max(1),
        };
        let mut shared = Shared::new(dir, options, r.wal_id, r.groups);
        shared.files = RwLock::new(r.files);
        let shared = Arc::new(shared);
        let writer = Writer::new(shared.clone(), &start)?;
        let thread = std::thread::Builder::new()
            .name("wal".into())
            .spawn(move || writer.run())
            .map_err(|e| WalError::io("start the writer of", dir, e))?;
        let report = r.report;
        Ok(Self(Arc::new(Inner {
            shared,
            thread: Mutex::new(Some(thread)),
            report,
        })))
    }

    /// The log of one group.
    pub fn group(&self, id: GroupId) -> GroupWal {
        GroupWal {
            slot: self.0.shared.group_slot(id),
            wal: self.clone(),
            id,
        }
    }

    /// Groups that have anything in the log.
    pub fn groups(&self) -> Vec<GroupId> {
        self.0
            .shared
            .all_groups()
            .into_iter()
            .map(|(id, _)| id)
            .collect()
    }

    /// What opening it found and did.
    pub fn report(&self) -> Report {
        self.0.report.clone()
    }

    /// Counters since it was opened.
    pub fn stats(&self) -> Stats {
        *lock(&self.0.shared.stats)
    }

    /// Number of segment files.
    pub fn segments(&self) -> usize {
        self.0
            .shared
            .files
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .len()
    }

    /// Writes and syncs what is queued, then ends the writer. Later operations are refused.
    pub fn close(&self) {
        self.0.close();
    }
}

/// Whether the ledger is shorter than a finished new one, so that no log can have used it.
fn young_ledger(disk: &dyn Disk, path: &Path) -> Result<bool, WalError> {
    let io = |e| WalError::io("read", path, e);
    let bytes = disk::read_all(&*disk.open(path).map_err(io)?).map_err(io)?;
    Ok(bytes.iter().all(|b| *b == 0) || bytes.len() <= format::LEDGER_SLOT_BYTES)
}

impl Shared {
    fn new(
        dir: &Path,
        options: WalOptions,
        wal_id: WalId,
        groups: BTreeMap<GroupId, GroupLog>,
    ) -> Self {
        Self {
            dir: dir.to_owned(),
            disk: options.disk.clone(),
            options,
            wal_id,
            groups: Mutex::new(
                groups
                    .into_iter()
                    .map(|(k, v)| (k, Arc::new(Mutex::new(v))))
                    .collect(),
            ),
            files: RwLock::default(),
            queue: Mutex::default(),
            wake: Condvar::new(),
            room: tokio::sync::Notify::new(),
            stats: Mutex::default(),
        }
    }
}
