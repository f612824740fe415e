//! What is kept in memory of one raft group's log.
//!
//! The index changes when an operation is submitted, under the group's lock
//! and together with its place in the writer's queue: a reader sees an entry
//! the moment `append` returns, and the file's order is the memory's order.

use super::format::{EntryHead, EntryKind, LogPos, MetaBody};
use bytes::Bytes;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

/// Where an entry's payload lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Loc {
    /// Segment number.
    pub segment: u64,
    /// Offset of the payload in the segment file.
    pub offset: u64,
}

/// One entry: its head, and where its payload is (memory, file, or both).
#[derive(Debug)]
pub struct Cell {
    /// The entry's head.
    pub head: EntryHead,
    place: Mutex<Place>,
}

/// Where a payload can be had.
#[derive(Clone, Debug, Default)]
pub struct Place {
    /// In which file, once written.
    pub loc: Option<Loc>,
    /// In memory, until evicted.
    pub data: Option<Bytes>,
}

impl Cell {
    /// An entry that is in memory only.
    pub fn pending(head: EntryHead, data: Bytes) -> Arc<Self> {
        Arc::new(Self {
            head,
            place: Mutex::new(Place {
                loc: None,
                data: Some(data),
            }),
        })
    }
    /// An entry found in a file.
    pub fn on_disk(head: EntryHead, loc: Loc) -> Arc<Self> {
        Arc::new(Self {
            head,
            place: Mutex::new(Place {
                loc: Some(loc),
                data: None,
            }),
        })
    }
    /// A copy of where it is.
    pub fn place(&self) -> Place {
        self.place
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
    /// Records where it was written.
    pub fn set_loc(&self, loc: Loc) {
        self.place
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .loc = Some(loc);
    }
    /// Forgets the copy in memory, if there is one in a file.
    pub fn evict(&self) {
        let mut p = self.place.lock().unwrap_or_else(PoisonError::into_inner);
        if p.loc.is_some() {
            p.data = None;
        }
    }
}

/// Why an operation on a group's log was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LogOrderError {
    /// An append that does not continue the log.
    #[error("group {group}: append at index {got}, the log continues at {expected}")]
    Gap {
        /// The group.
        group: u32,
        /// First index given.
        got: u64,
        /// Index that would continue the log.
        expected: u64,
    },
}

/// How far a group's log may be purged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Floor {
    /// No state machine is attached: purge as told.
    Unbounded,
    /// Only up to what the attached state machine holds durably.
    Applied(Option<u64>),
}

impl Floor {
    fn allows(self, index: u64) -> bool {
        match self {
            Self::Unbounded => true,
            Self::Applied(a) => a.is_some_and(|a| index <= a),
        }
    }
}

/// One group's log in memory.
#[derive(Debug)]
pub struct GroupLog {
    /// The group.
    pub group: u32,
    entries: VecDeque<Arc<Cell>>,
    /// Position up to which entries are gone for readers.
    pub purged: Option<LogPos>,
    /// Position up to which they are gone on disk, too.
    pub purged_on_disk: Option<LogPos>,
    /// How far the disk may follow.
    pub floor: Floor,
    /// The vote, as its owner encoded it.
    pub vote: Option<Vec<u8>>,
    /// Newest position known committed.
    pub committed: Option<LogPos>,
    /// Whether `committed` is newer than what is queued for the file.
    pub committed_dirty: bool,
    /// Segments that hold the newest vote, committed and purge records.
    pub meta_segments: [Option<u64>; 3],
    /// Operations submitted and not yet in the file.
    pub queued: usize,
    /// Those of them that void or drop entries: until they are in the file, the file still needs them.
    pub cuts_queued: usize,
    /// Payload bytes of the entries on disk that are still needed.
    pub live_bytes: u64,
}

impl GroupLog {
    /// An empty log.
    pub fn new(group: u32) -> Self {
        Self {
            group,
            entries: VecDeque::new(),
            purged: None,
            purged_on_disk: None,
            floor: Floor::Unbounded,
            vote: None,
            committed: None,
            committed_dirty: false,
            meta_segments: [None; 3],
            queued: 0,
            cuts_queued: 0,
            live_bytes: 0,
        }
    }

    /// The small state that is carried forward.
    pub fn meta(&self) -> MetaBody {
        MetaBody {
            vote: self.vote.clone(),
            committed: self.committed,
            purged: self.purged_on_disk,
        }
    }

    fn next_index(&self) -> Option<u64> {
        self.entries.back().map(|c| c.head.pos.index + 1)
    }

    /// Position of the last entry, or of the last purged one.
    pub fn last(&self) -> Option<LogPos> {
        let last = self.entries.back().map(|c| c.head.pos);
        last.into_iter().chain(self.purged).max_by_key(|p| p.index)
    }

    /// Whether entries starting at `first` would continue the log.
    ///
    /// # Errors
    /// [`LogOrderError::Gap`] when they would not.
    pub fn check_append(&self, first: u64) -> Result<(), LogOrderError> {
        match self.next_index() {
            Some(expected) if expected != first => Err(LogOrderError::Gap {
                group: self.group,
                got: first,
                expected,
            }),
            _ => Ok(()),
        }
    }

    /// Adds entries. They must continue the log.
    pub fn push(&mut self, cells: &[Arc<Cell>]) {
        for c in cells {
            self.live_bytes += u64::from(c.head.len);
            self.entries.push_back(c.clone());
        }
    }

    /// Drops entries after `keep`. Past the end it does nothing. Returns whether anything went.
    pub fn truncate_after(&mut self, keep: Option<LogPos>) -> bool {
        let mut any = false;
        while let Some(c) = self.entries.back() {
            if keep.is_some_and(|k| c.head.pos.index <= k.index) {
                break;
            }
            self.live_bytes -= u64::from(c.head.len);
            self.entries.pop_back();
            any = true;
        }
        any
    }

    /// Hides entries up to `upto` from readers. Returns the position that the
    /// disk may now forget, if the floor allows it.
    pub fn purge(&mut self, upto: LogPos) -> Option<LogPos> {
        if self.purged.is_none_or(|p| p.index < upto.index) {
            self.purged = Some(upto);
        }
        self.purge_allowed()
    }

    /// The purge that the floor allows and the disk has not seen.
    pub fn purge_allowed(&self) -> Option<LogPos> {
        let p = self.purged?;
        let new = self.purged_on_disk.is_none_or(|d| d.index < p.index);
        (new && self.floor.allows(p.index)).then_some(p)
    }

    /// Drops purged entries for good.
    pub fn purge_on_disk(&mut self, upto: LogPos) {
        if self.purged_on_disk.is_none_or(|p| p.index < upto.index) {
            self.purged_on_disk = Some(upto);
        }
        if self.purged.is_none_or(|p| p.index < upto.index) {
            self.purged = Some(upto);
        }
        while let Some(c) = self.entries.front() {
            if c.head.pos.index > upto.index {
                break;
            }
            self.live_bytes -= u64::from(c.head.len);
            self.entries.pop_front();
        }
    }

    /// Readable entries with `start <= index < end`.
    pub fn range(&self, start: u64, end: u64) -> Vec<Arc<Cell>> {
        let start = self.purged.map_or(start, |p| start.max(p.index + 1));
        let Some(front) = self.entries.front().map(|c| c.head.pos.index) else {
            return Vec::new();
        };
        let from = usize::try_from(start.saturating_sub(front)).unwrap_or(usize::MAX);
        let to = usize::try_from(end.saturating_sub(front)).unwrap_or(usize::MAX);
        let to = to.min(self.entries.len());
        if end <= start || from >= to {
            return Vec::new();
        }
        self.entries.range(from..to).cloned().collect()
    }

    /// Every entry that the disk still has to keep.
    pub fn on_disk(&self) -> impl Iterator<Item = &Arc<Cell>> {
        self.entries.iter()
    }

    /// Oldest segment that holds a live entry; entries still queued count as `active`.
    pub fn oldest_entry_segment(&self, active: u64) -> u64 {
        self.entries
            .front()
            .and_then(|c| c.place().loc)
            .map_or(active, |l| l.segment)
    }

    /// Oldest segment that holds the newest of a small record.
    pub fn oldest_meta_segment(&self, active: u64) -> u64 {
        self.meta_segments
            .iter()
            .flatten()
            .copied()
            .min()
            .unwrap_or(active)
    }

    /// Replays one record's entries.
    ///
    /// # Errors
    /// [`LogOrderError::Gap`] when they do not continue the log.
    pub fn replay_entries(&mut self, cells: &[Arc<Cell>]) -> Result<(), LogOrderError> {
        if let Some(first) = cells.first() {
            self.check_append(first.head.pos.index)?;
        }
        self.push(cells);
        Ok(())
    }

    /// Replays a checkpoint: everything is replaced.
    pub fn replace(&mut self, meta: MetaBody, cells: &[Arc<Cell>]) {
        self.entries.clear();
        self.live_bytes = 0;
        self.set_meta(meta);
        self.push(cells);
    }

    /// Replays carried-forward state.
    pub fn set_meta(&mut self, meta: MetaBody) {
        self.vote = meta.vote;
        self.committed = meta.committed;
        if let Some(p) = meta.purged {
            self.purge_on_disk(p);
        }
    }

    /// Kinds of the entries, for the dump.
    pub fn kinds(&self) -> impl Iterator<Item = (LogPos, EntryKind)> + '_ {
        self.entries.iter().map(|c| (c.head.pos, c.head.kind))
    }
}
