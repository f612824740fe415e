//! openraft's state machine: the engine's [`Machine`] over a state store.
//!
//! Entries are applied in batches, one transaction each, off the raft
//! runtime; the applied position commits in the same transaction. Those
//! commits are not durable. A snapshot is written from a consistent view while
//! entries go on being applied; then the store commits durably, the file gets
//! its name, and only then may the log forget what the snapshot covers.

use super::log_store::to_pos;
use super::snapshot::{self, Reader, SnapshotError, Standing};
use super::{
    GroupId, LogId, Reply, Snapshot, SnapshotFile, SnapshotMeta, StoredMembership, TypeConfig,
};
use crate::mutants::{mutant, now_and_then};
use crate::store::{Changes, Store, StoreError, Txn, View, walk};
use crate::wal::disk::create_dir_durably;
use crate::wal::{Fatal, Floor, GroupWal, LogPos, WalError};
use futures::{Stream, StreamExt};
use openraft::storage::{EntryResponder, RaftStateMachine};
use openraft::{EntryPayload, OptionalSend, RaftSnapshotBuilder};
use quorate_engine::types::kv::{KvError, KvRead, Machine, Position};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Entries applied in one transaction, at most.
pub const APPLY_ENTRIES_MAX: usize = 512;
/// Command bytes applied in one transaction, at most (one entry may exceed it).
pub const APPLY_BYTES_MAX: usize = 8 << 20;

/// Why a group's state cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A snapshot failed.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    /// The log failed.
    #[error(transparent)]
    Wal(#[from] WalError),
    /// The store cannot be read.
    #[error(transparent)]
    Kv(#[from] KvError),
    /// The record beside the rows cannot be decoded.
    #[error("group {group}: {reason}; the store is damaged or of a newer build: replace this node")]
    Standing {
        /// The group.
        group: GroupId,
        /// What is wrong.
        reason: String,
    },
    /// The log begins after what the state holds: entries between are lost here.
    #[error(
        "group {group}: the state ends at {applied} but the log begins after {purged}; what lies between is lost \
         on this node. Do not start it: replace this node", applied = shown(*applied)
    )]
    Behind {
        /// The group.
        group: GroupId,
        /// Last applied index, if any.
        applied: Option<u64>,
        /// Last purged index.
        purged: u64,
    },
}

fn shown(i: Option<u64>) -> String {
    i.map_or_else(|| "nothing".into(), |i| format!("index {i}"))
}

fn lock<T>(m: &Mutex<T>) -> MutexGuard<'_, T> {
    m.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Inner {
    group: GroupId,
    store: Arc<dyn Store>,
    machine: Arc<dyn Machine>,
    snapshots: PathBuf,
    incoming: PathBuf,
    wal: GroupWal,
    fatal: Fatal,
    standing: Mutex<Standing>,
    current: Mutex<Option<(Standing, SnapshotFile)>>,
}

/// The state machine of one raft group.
pub struct StateMachine(Arc<Inner>);

/// Reads a group's applied state. Clones are handles to the same one.
#[derive(Clone)]
pub struct StateReader(Arc<Inner>);

impl std::fmt::Debug for StateReader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "StateReader(group {}, {})",
            self.0.group,
            self.0.store.name()
        )
    }
}

fn standing_of(group: GroupId, view: &dyn View) -> Result<Standing, StateError> {
    match view.meta()? {
        None => Ok(Standing::default()),
        Some(bytes) => Standing::decode(&bytes).map_err(|e| StateError::Standing {
            group,
            reason: e.to_string(),
        }),
    }
}

impl StateMachine {
    /// Opens a group's state: `store` with what it holds, the newest snapshot
    /// under `dir` where the store holds less, and `wal` for the purge floor.
    ///
    /// # Errors
    /// [`StateError`]; among them [`StateError::Behind`] when the log was
    /// purged further than the state reaches.
    pub fn open(
        store: Arc<dyn Store>,
        machine: Arc<dyn Machine>,
        dir: &Path,
        group: GroupId,
        wal: GroupWal,
        fatal: Fatal,
    ) -> Result<Self, StateError> {
        let (snapshots, incoming) = (dir.join("snapshots"), dir.join("incoming"));
        for d in [&snapshots, &incoming] {
            create_dir_durably(d).map_err(|source| SnapshotError::Io {
                file: d.clone(),
                source,
            })?;
        }
        let current = newest_snapshot(&snapshots, group)?;
        let mut standing = Standing::default();
        let mut found = Ok(());
        store.read(&mut |v| match standing_of(group, v) {
            Ok(s) => standing = s,
            Err(e) => found = Err(e),
        })?;
        found?;
        let inner = Inner {
            group,
            store,
            machine,
            snapshots,
            incoming,
            wal,
            fatal,
            standing: Mutex::new(standing),
            current: Mutex::new(None),
        };
        if let Some((s, file)) = current {
            if s.applied > lock(&inner.standing).applied {
                tracing::info!(group, snapshot = %file.id, "rebuilding the state from a snapshot");
                inner.load(&s, &file)?;
            }
            *lock(&inner.current) = Some((s, file));
        }
        let applied = lock(&inner.standing).applied.map(|l| l.index);
        if let (Some(purged), _) = inner.wal.bounds()
            && applied.is_none_or(|a| a < purged.index)
        {
            return Err(StateError::Behind {
                group,
                applied,
                purged: purged.index,
            });
        }
        // Everything in the store came from something durable just now.
        inner.wal.set_floor(Floor::Applied(applied))?;
        Ok(Self(Arc::new(inner)))
    }

    /// A handle for reading.
    pub fn reader(&self) -> StateReader {
        StateReader(self.0.clone())
    }
}

impl StateReader {
    /// The group.
    pub fn group(&self) -> GroupId {
        self.0.group
    }

    /// Name of the store under it.
    pub fn store_name(&self) -> &'static str {
        self.0.store.name()
    }

    /// Runs `f` on a consistent view of the applied state.
    ///
    /// # Errors
    /// [`KvError`] when the store cannot be read.
    pub fn view<R>(&self, f: impl FnOnce(&dyn KvRead) -> R) -> Result<R, KvError> {
        let (mut f, mut out) = (Some(f), None);
        self.0.store.read(&mut |v| {
            if let Some(f) = f.take() {
                out = Some(f(v));
            }
        })?;
        out.ok_or_else(|| KvError("the store gave no view".into()))
    }

    /// The last applied log position.
    pub fn applied(&self) -> Option<LogId> {
        lock(&self.0.standing).applied
    }

    /// The last applied members.
    pub fn members(&self) -> StoredMembership {
        lock(&self.0.standing).members.clone()
    }

    /// Applied index and BLAKE3 hash of all rows: equal on every node at one index. Walks everything.
    ///
    /// # Errors
    /// [`KvError`] when the store cannot be read.
    pub fn state_hash(&self) -> Result<(Option<u64>, [u8; 32]), KvError> {
        let view = self.0.store.view()?;
        let s = standing_of(self.0.group, &*view).map_err(|e| KvError(e.to_string()))?;
        let mut h = blake3::Hasher::new();
        walk::<KvError>(&*view, |k, v| {
            for part in [k, v] {
                h.update(&(part.len() as u64).to_le_bytes());
                h.update(part);
            }
            Ok(())
        })?;
        Ok((s.applied.map(|l| l.index), *h.finalize().as_bytes()))
    }

    /// A consistent view of all rows, for tools.
    ///
    /// # Errors
    /// [`KvError`] when the store cannot be read.
    pub fn store_view(&self) -> Result<Arc<dyn View>, KvError> {
        Ok(self.0.store.view()?)
    }

    /// Where snapshots that arrive from a leader are put together: same file system as their final place.
    pub fn incoming_dir(&self) -> &Path {
        &self.0.incoming
    }

    /// The newest snapshot, if there is one.
    pub fn snapshot(&self) -> Option<SnapshotFile> {
        lock(&self.0.current).as_ref().map(|(_, f)| f.clone())
    }

    /// Makes the state durable and marks a clean stop. Nothing may be applied afterwards.
    ///
    /// # Errors
    /// [`StoreError`] when it could not be written.
    pub fn close(&self) -> Result<(), StoreError> {
        self.0.store.close()
    }
}

/// The newest readable snapshot in `dir`; unfinished files are removed.
fn newest_snapshot(
    dir: &Path,
    group: GroupId,
) -> Result<Option<(Standing, SnapshotFile)>, SnapshotError> {
    let io = |source| SnapshotError::Io {
        file: dir.to_owned(),
        source,
    };
    let mut best: Option<(Standing, SnapshotFile)> = None;
    for entry in std::fs::read_dir(dir).map_err(io)? {
        let path = entry.map_err(io)?.path();
        if path.extension().is_some_and(|e| e == "tmp") {
            std::fs::remove_file(&path).map_err(io)?;
            continue;
        }
        let Some(id) = path
            .file_stem()
            .and_then(|s| s.to_str())
            .filter(|_| path.extension().is_some_and(|e| e == snapshot::EXT))
        else {
            continue;
        };
        let r = match Reader::open(&path) {
            Ok(r) if r.group == group => r,
            Ok(r) => {
                let reason = format!("it is of group {}, not {group}", r.group);
                return Err(SnapshotError::Damaged { file: path, reason });
            }
            Err(e @ SnapshotError::Damaged { .. }) => {
                // Whether it is needed shows when the log is compared with the state.
                tracing::error!(error = %e, "a snapshot cannot be used");
                continue;
            }
            Err(e) => return Err(e),
        };
        let len = std::fs::metadata(&path).map_err(io)?.len();
        let file = SnapshotFile {
            id: id.to_owned(),
            path: path.clone(),
            len,
        };
        if best
            .as_ref()
            .is_none_or(|(s, _)| s.applied < r.standing.applied)
        {
            best = Some((r.standing, file));
        }
    }
    Ok(best)
}

impl Inner {
    /// A failure of disk or store: reported to the handler, then to openraft.
    fn fatal<E: std::fmt::Display>(&self, what: &str) -> impl Fn(E) -> io::Error {
        move |e| {
            let reason = format!("group {}: {what}: {e}", self.group);
            self.fatal.report(&reason);
            io::Error::other(reason)
        }
    }

    /// Replaces the store by a snapshot that was verified.
    fn load(&self, standing: &Standing, file: &SnapshotFile) -> Result<(), StateError> {
        Reader::open(&file.path)?.verify()?;
        let mut r = Reader::open(&file.path)?;
        self.store
            .replace(&mut || Ok(r.next_rows()?), standing.encode())?;
        *lock(&self.standing) = standing.clone();
        Ok(())
    }

    fn apply_batch(&self, batch: Vec<EntryResponder<TypeConfig>>) -> io::Result<()> {
        let mut standing = lock(&self.standing).clone();
        let mut done: Result<Option<(Changes, Vec<Reply>)>, KvError> = Ok(None);
        self.store
            .read(&mut |view| done = self.run(view, &batch, &mut standing).map(Some))
            .map_err(self.fatal("reading the state"))?;
        let Some((changes, replies)) = done.map_err(self.fatal("applying an entry"))? else {
            return Err(self.fatal("applying an entry")("the store gave no view"));
        };
        fail::fail_point!("state::commit", |_| Err(io::Error::other("failpoint")));
        self.store
            .commit(changes, false)
            .map_err(self.fatal("committing applied entries"))?;
        *lock(&self.standing) = standing;
        for ((_, responder), reply) in batch.into_iter().zip(replies) {
            if let Some(r) = responder {
                r.send(reply);
            }
        }
        Ok(())
    }

    fn run(
        &self,
        view: &dyn View,
        batch: &[EntryResponder<TypeConfig>],
        standing: &mut Standing,
    ) -> Result<(Changes, Vec<Reply>), KvError> {
        let mut txn = Txn::new(view);
        let mut replies = Vec::with_capacity(batch.len());
        for (entry, responder) in batch {
            let id = entry.log_id;
            replies.push(match &entry.payload {
                EntryPayload::Blank => Reply::default(),
                EntryPayload::Normal(_)
                    if mutant("apply-skips") && responder.is_none() && now_and_then(100) =>
                {
                    Reply::default()
                }
                EntryPayload::Normal(c) => {
                    let at = Position {
                        term: id.leader_id.term,
                        index: id.index,
                    };
                    Reply(self.machine.apply(&mut txn, at, &c.0)?)
                }
                EntryPayload::Membership(m) => {
                    standing.members = StoredMembership::new(Some(id), m.clone());
                    Reply::default()
                }
            });
            standing.applied = Some(id);
        }
        Ok((txn.into_changes(Some(standing.encode())), replies))
    }

    fn build(&self, view: &dyn View) -> io::Result<Snapshot> {
        let standing = standing_of(self.group, view).map_err(io::Error::other)?;
        let tmp = snapshot::write(&self.snapshots, self.group, &standing, view)
            .map_err(self.fatal("writing a snapshot"))?;
        self.store
            .commit(Changes::default(), true)
            .map_err(self.fatal("making the state durable"))?;
        let file =
            snapshot::publish(&self.snapshots, tmp).map_err(self.fatal("publishing a snapshot"))?;
        self.counts(standing.clone(), file.clone())?;
        Ok(Snapshot {
            meta: standing.snapshot_meta(),
            snapshot: file,
        })
    }

    /// From here on `file` is the current snapshot, and the log may forget what it covers.
    fn counts(&self, standing: Standing, file: SnapshotFile) -> io::Result<()> {
        let floor = Floor::Applied(standing.applied.map(|l| l.index));
        let keep = file.path.clone();
        {
            let mut current = lock(&self.current);
            // A snapshot that was installed while this one was built is newer.
            if current
                .as_ref()
                .is_some_and(|(s, _)| s.applied > standing.applied)
            {
                let _ = std::fs::remove_file(&file.path);
                return Ok(());
            }
            *current = Some((standing, file));
        }
        for entry in std::fs::read_dir(&self.snapshots)? {
            let path = entry?.path();
            if path != keep && path.extension().is_some_and(|e| e == snapshot::EXT) {
                let _ = std::fs::remove_file(&path);
            }
        }
        Ok(self.wal.set_floor(floor)?)
    }

    fn install(&self, meta: &SnapshotMeta, file: SnapshotFile) -> io::Result<()> {
        let r = Reader::open(&file.path)?;
        let standing = r.standing.clone();
        if r.group != self.group || standing.snapshot_meta() != *meta {
            return Err(SnapshotError::Damaged {
                file: file.path,
                reason: format!(
                    "it does not stand for what was announced for group {}",
                    self.group
                ),
            }
            .into());
        }
        r.verify()?;
        // The file first: a crash in between then finds it and goes on here.
        let file =
            snapshot::publish(&self.snapshots, file).map_err(self.fatal("keeping a snapshot"))?;
        self.load(&standing, &file)
            .map_err(self.fatal("installing a snapshot"))?;
        self.counts(standing, file)
    }
}

async fn off_runtime<R: Send + 'static>(
    f: impl FnOnce() -> io::Result<R> + Send + 'static,
) -> io::Result<R> {
    tokio::task::spawn_blocking(f)
        .await
        .map_err(io::Error::other)?
}

impl RaftStateMachine<TypeConfig> for StateMachine {
    type SnapshotData = SnapshotFile;
    type SnapshotBuilder = Builder;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), io::Error> {
        let s = lock(&self.0.standing).clone();
        Ok((s.applied, s.members))
    }

    async fn apply<Strm>(&mut self, mut entries: Strm) -> Result<(), io::Error>
    where
        Strm: Stream<Item = Result<EntryResponder<TypeConfig>, io::Error>> + Unpin + OptionalSend,
    {
        loop {
            let (mut batch, mut bytes) = (Vec::new(), 0);
            while batch.len() < APPLY_ENTRIES_MAX && bytes < APPLY_BYTES_MAX {
                let Some(next) = entries.next().await else {
                    break;
                };
                let (entry, responder) = next?;
                if let EntryPayload::Normal(c) = &entry.payload {
                    bytes += c.0.len();
                }
                batch.push((entry, responder));
            }
            if batch.is_empty() {
                return Ok(());
            }
            let inner = self.0.clone();
            off_runtime(move || inner.apply_batch(batch)).await?;
        }
    }

    async fn try_create_snapshot_builder(&mut self, _force: bool) -> Option<Builder> {
        Some(self.get_snapshot_builder().await)
    }

    async fn get_snapshot_builder(&mut self) -> Builder {
        let inner = self.0.clone();
        let view = off_runtime(move || Ok(inner.store.view()?)).await;
        Builder {
            inner: self.0.clone(),
            view,
        }
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMeta,
        snapshot: SnapshotFile,
    ) -> Result<(), io::Error> {
        let (inner, meta) = (self.0.clone(), meta.clone());
        off_runtime(move || inner.install(&meta, snapshot)).await
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot>, io::Error> {
        Ok(lock(&self.0.current).clone().map(|(s, snapshot)| Snapshot {
            meta: s.snapshot_meta(),
            snapshot,
        }))
    }
}

/// Builds one snapshot from the view it was given.
pub struct Builder {
    inner: Arc<Inner>,
    view: io::Result<Arc<dyn View>>,
}

impl RaftSnapshotBuilder<TypeConfig> for Builder {
    type SnapshotData = SnapshotFile;

    async fn build_snapshot(&mut self) -> Result<Snapshot, io::Error> {
        let view = match &self.view {
            Ok(v) => v.clone(),
            Err(e) => return Err(io::Error::other(e.to_string())),
        };
        let inner = self.inner.clone();
        off_runtime(move || inner.build(&*view)).await
    }
}

/// Position of the last applied entry, in the log's form.
pub fn applied_pos(reader: &StateReader) -> Option<LogPos> {
    reader.applied().as_ref().map(to_pos)
}
