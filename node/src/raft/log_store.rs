//! openraft's log storage on the node's write-ahead log.
//!
//! One [`LogStore`] per group; clones are readers. Votes and truncations wait
//! for the disk, appends report when they are durable, committed positions
//! and purges ride along with what is written next. The last is safe because
//! of what they say: a lost committed position is learnt again from the
//! leader, a lost purge leaves entries that nobody minds.

use super::{Command, Entry, LeaderId, LogId, Payload, TypeConfig, Vote};
use crate::mutants::mutant;
use crate::wal::{EntryHead, EntryKind, GroupWal, LogPos, WalError};
use bytes::Bytes;
use openraft::storage::{IOFlushed, RaftLogStorage};
use openraft::{EntryPayload, LogState, OptionalSend, RaftLogReader};
use quorate_engine::types::codec;
use std::fmt::Debug;
use std::io;
use std::ops::{Bound, RangeBounds};

/// Version byte of votes and entry payloads in the log.
const PAYLOAD_VERSION: u8 = 1;
/// Payload bytes that one limited read returns at most.
pub const READ_BYTES_MAX: usize = 4 << 20;
/// Largest encoded command that can be logged, in bytes: what the codec decodes, less its framing.
pub const COMMAND_BYTES_MAX: usize = codec::DECODE_BYTES_MAX - 1024;

/// The log of one raft group.
#[derive(Clone, Debug)]
pub struct LogStore {
    wal: GroupWal,
}

/// openraft's form of a position.
pub fn to_log_id(p: LogPos) -> LogId {
    let leader = LeaderId {
        term: p.term,
        node_id: p.node,
    };
    openraft::LogId::new(leader, p.index)
}

/// The log's form of a position.
pub fn to_pos(id: &LogId) -> LogPos {
    LogPos {
        term: id.leader_id.term,
        node: id.leader_id.node_id,
        index: id.index,
    }
}

fn kind_of(p: &Payload) -> EntryKind {
    match p {
        EntryPayload::Blank => EntryKind::Blank,
        EntryPayload::Normal(_) => EntryKind::Command,
        EntryPayload::Membership(_) => EntryKind::Membership,
    }
}

fn decode_entry((head, bytes): (EntryHead, Bytes)) -> io::Result<Entry> {
    let payload = match head.kind {
        // A command's bytes stand in the log as they are.
        EntryKind::Command => EntryPayload::Normal(Command(bytes.to_vec())),
        EntryKind::Blank => EntryPayload::Blank,
        EntryKind::Membership => EntryPayload::Membership(
            codec::decode("membership entry", PAYLOAD_VERSION, &bytes).map_err(io::Error::other)?,
        ),
    };
    Ok(openraft::Entry {
        log_id: to_log_id(head.pos),
        payload,
    })
}

fn encode_entry(e: Entry) -> io::Result<(LogPos, EntryKind, Vec<u8>)> {
    let (pos, kind) = (to_pos(&e.log_id), kind_of(&e.payload));
    let bytes = match e.payload {
        EntryPayload::Blank => Vec::new(),
        EntryPayload::Normal(c) => c.0,
        EntryPayload::Membership(m) => codec::encode(PAYLOAD_VERSION, &m),
    };
    if bytes.len() > COMMAND_BYTES_MAX {
        return Err(WalError::TooLarge { bytes: bytes.len() }.into());
    }
    Ok((pos, kind, bytes))
}

/// A pair: call the first when durable, await the second.
fn waiter() -> (
    crate::wal::Done,
    tokio::sync::oneshot::Receiver<Result<(), WalError>>,
) {
    let (tx, rx) = tokio::sync::oneshot::channel();
    let done = Box::new(move |r| {
        let _ = tx.send(r);
    });
    (done, rx)
}

async fn settled(rx: tokio::sync::oneshot::Receiver<Result<(), WalError>>) -> io::Result<()> {
    match rx.await {
        Ok(r) => Ok(r?),
        Err(_) => Err(WalError::Stopped("the writer ended".into()).into()),
    }
}

impl LogStore {
    /// The log of the group that `wal` is the part of.
    pub fn new(wal: GroupWal) -> Self {
        Self { wal }
    }

    /// The group's part of the write-ahead log.
    pub fn wal(&self) -> &GroupWal {
        &self.wal
    }

    async fn read(&self, start: u64, end: u64, bytes_max: usize) -> io::Result<Vec<Entry>> {
        let read = move |wal: &GroupWal| -> io::Result<Vec<Entry>> {
            wal.read(start, end, bytes_max)?
                .into_iter()
                .map(decode_entry)
                .collect()
        };
        if self.wal.in_memory(start, end) {
            return read(&self.wal);
        }
        let wal = self.wal.clone();
        tokio::task::spawn_blocking(move || read(&wal))
            .await
            .map_err(io::Error::other)?
    }
}

impl RaftLogReader<TypeConfig> for LogStore {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> Result<Vec<Entry>, io::Error> {
        let start = match range.start_bound() {
            Bound::Included(i) => *i,
            Bound::Excluded(i) => i.saturating_add(1),
            Bound::Unbounded => 0,
        };
        let end = match range.end_bound() {
            Bound::Included(i) => i.saturating_add(1),
            Bound::Excluded(i) => *i,
            Bound::Unbounded => u64::MAX,
        };
        self.read(start, end, usize::MAX).await
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, io::Error> {
        self.wal
            .vote()
            .map(|bytes| codec::decode("vote", PAYLOAD_VERSION, &bytes).map_err(io::Error::other))
            .transpose()
    }

    async fn limited_get_log_entries(
        &mut self,
        start: u64,
        end: u64,
    ) -> Result<Vec<Entry>, io::Error> {
        self.read(start, end, READ_BYTES_MAX).await
    }
}

impl RaftLogStorage<TypeConfig> for LogStore {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<TypeConfig>, io::Error> {
        let (purged, last) = self.wal.bounds();
        Ok(LogState {
            last_purged_log_id: purged.map(to_log_id),
            last_log_id: last.map(to_log_id),
        })
    }

    async fn get_log_reader(&mut self) -> Self::LogReader {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), io::Error> {
        if mutant("vote-not-kept") {
            return Ok(());
        }
        let (done, rx) = waiter();
        self.wal
            .set_vote(codec::encode(PAYLOAD_VERSION, vote), done)?;
        settled(rx).await
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), io::Error> {
        Ok(self.wal.set_committed(committed.as_ref().map(to_pos))?)
    }

    async fn read_committed(&mut self) -> Result<Option<LogId>, io::Error> {
        Ok(self.wal.committed().map(to_log_id))
    }

    async fn append<I>(
        &mut self,
        entries: I,
        callback: IOFlushed<TypeConfig>,
    ) -> Result<(), io::Error>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let entries = entries
            .into_iter()
            .map(encode_entry)
            .collect::<io::Result<Vec<_>>>()?;
        self.wal.ready().await;
        if mutant("flush-not-awaited") {
            callback.io_completed(Ok(()));
            return Ok(self.wal.append(entries, Box::new(|_| {}))?);
        }
        let done = Box::new(move |r: Result<(), WalError>| {
            callback.io_completed(r.map_err(io::Error::from));
        });
        Ok(self.wal.append(entries, done)?)
    }

    async fn truncate_after(&mut self, last_log_id: Option<LogId>) -> Result<(), io::Error> {
        let (done, rx) = waiter();
        self.wal
            .truncate_after(last_log_id.as_ref().map(to_pos), done)?;
        settled(rx).await
    }

    async fn purge(&mut self, log_id: LogId) -> Result<(), io::Error> {
        Ok(self.wal.purge(to_pos(&log_id))?)
    }
}
