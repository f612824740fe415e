//! One group's part of the log: what raft's log store calls.

use super::format::{self, EntriesBody, EntryHead, EntryKind, Kind, LogPos};
use super::group::{Cell, Floor, GroupLog};
use super::writer::{Done, GroupSlot, Op};
use super::{GroupId, QUEUE_BYTES_MAX, RECORD_BYTES_MAX, Shared, Wal, WalError, lock};
use bytes::Bytes;

/// One entry to append: position, kind, payload.
pub type NewEntry = (LogPos, EntryKind, Vec<u8>);

/// One group's part of the log.
#[derive(Clone)]
pub struct GroupWal {
    pub(super) wal: Wal,
    pub(super) id: GroupId,
    pub(super) slot: GroupSlot,
}

impl std::fmt::Debug for GroupWal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "GroupWal({})", self.id)
    }
}

impl GroupWal {
    fn shared(&self) -> &Shared {
        &self.wal.0.shared
    }

    /// The group.
    pub fn id(&self) -> GroupId {
        self.id
    }

    /// Waits while too much is queued for the disk.
    pub async fn ready(&self) {
        loop {
            let room = self.shared().room.notified();
            tokio::pin!(room);
            room.as_mut().enable();
            {
                let q = lock(&self.shared().queue);
                if q.bytes < QUEUE_BYTES_MAX || q.failed.is_some() || q.closed {
                    return;
                }
            }
            room.await;
        }
    }

    /// Appends consecutive entries. They are readable when this returns;
    /// `done` is called when they are durable.
    ///
    /// # Errors
    /// [`WalError::Order`] when they do not continue the log, [`WalError::TooLarge`], [`WalError::Stopped`].
    pub fn append(&self, entries: Vec<NewEntry>, done: Done) -> Result<(), WalError> {
        let mut bodies = Vec::new();
        let mut body = EntriesBody::new(&[]);
        for (pos, kind, payload) in &entries {
            if payload.len() > RECORD_BYTES_MAX {
                return Err(WalError::TooLarge {
                    bytes: payload.len(),
                });
            }
            if !body.is_empty() && body.len() + payload.len() > RECORD_BYTES_MAX {
                bodies.push(std::mem::replace(&mut body, EntriesBody::new(&[])));
            }
            body.push(*pos, *kind, payload);
        }
        bodies.push(body);
        let mut ops: Vec<Op> = bodies.into_iter().map(|b| entries_op(self.id, b)).collect();
        if let Some(last) = ops.last_mut() {
            last.done = Some(done);
        }
        let mut g = lock(&self.slot);
        if let Some((first, ..)) = entries.first() {
            // The log was purged past its end, before the disk was allowed to
            // follow: what is appended now cannot continue the old entries.
            if let Some(p) = g.purged
                && g.check_append(first.index).is_err()
                && first.index == p.index + 1
            {
                self.purge_on_disk(&mut g, p)?;
            }
            g.check_append(first.index)?;
        }
        for op in ops {
            let cells: Vec<_> = op.cells.iter().map(|(c, _)| c.clone()).collect();
            self.shared().submit(&mut g, op)?;
            g.push(&cells);
        }
        Ok(())
    }

    /// Sets the vote; `done` is called when it is durable.
    ///
    /// # Errors
    /// [`WalError::Stopped`].
    pub fn set_vote(&self, vote: Vec<u8>, done: Done) -> Result<(), WalError> {
        let mut g = lock(&self.slot);
        let op = Op::small(self.id, Kind::Vote, vote.clone(), Some(done));
        self.shared().submit(&mut g, op)?;
        g.vote = Some(vote);
        Ok(())
    }

    /// Notes the newest committed position. It becomes durable with what is written next.
    ///
    /// # Errors
    /// [`WalError::Stopped`].
    pub fn set_committed(&self, committed: Option<LogPos>) -> Result<(), WalError> {
        let mut g = lock(&self.slot);
        if !g.committed_dirty {
            self.shared().submit(
                &mut g,
                Op::small(self.id, Kind::Committed, Vec::new(), None),
            )?;
            g.committed_dirty = true;
        }
        g.committed = committed;
        Ok(())
    }

    /// Voids entries after `keep`; `done` is called when that is durable. Past
    /// the end it does nothing and calls `done` at once.
    ///
    /// It must be durable before a snapshot over the same indexes counts: else a
    /// crash brings back entries that contradict the snapshot.
    ///
    /// # Errors
    /// [`WalError::Stopped`].
    pub fn truncate_after(&self, keep: Option<LogPos>, done: Done) -> Result<(), WalError> {
        let mut g = lock(&self.slot);
        if g.range(keep.map_or(0, |k| k.index + 1), u64::MAX)
            .is_empty()
        {
            drop(g);
            done(Ok(()));
            return Ok(());
        }
        let op = Op::small(
            self.id,
            Kind::Truncate,
            format::encode_body(&keep),
            Some(done),
        );
        self.shared().submit(&mut g, op)?;
        g.truncate_after(keep);
        Ok(())
    }

    /// Drops entries up to `upto`. The disk follows as far as the floor allows.
    ///
    /// # Errors
    /// [`WalError::Stopped`].
    pub fn purge(&self, upto: LogPos) -> Result<(), WalError> {
        let mut g = lock(&self.slot);
        match g.purge(upto) {
            Some(p) => self.purge_on_disk(&mut g, p),
            None => Ok(()),
        }
    }

    /// Says up to where the state machine holds what the log says, durably.
    ///
    /// # Errors
    /// [`WalError::Stopped`].
    pub fn set_floor(&self, floor: Floor) -> Result<(), WalError> {
        let mut g = lock(&self.slot);
        g.floor = floor;
        match g.purge_allowed() {
            Some(p) => self.purge_on_disk(&mut g, p),
            None => Ok(()),
        }
    }

    fn purge_on_disk(&self, g: &mut GroupLog, upto: LogPos) -> Result<(), WalError> {
        let op = Op::small(self.id, Kind::Purge, format::encode_body(&upto), None);
        self.shared().submit(g, op)?;
        g.purge_on_disk(upto);
        Ok(())
    }

    /// The vote, as it was set.
    pub fn vote(&self) -> Option<Vec<u8>> {
        lock(&self.slot).vote.clone()
    }

    /// The newest committed position noted.
    pub fn committed(&self) -> Option<LogPos> {
        lock(&self.slot).committed
    }

    /// Positions of the last purged and of the last entry.
    pub fn bounds(&self) -> (Option<LogPos>, Option<LogPos>) {
        let g = lock(&self.slot);
        (g.purged, g.last())
    }

    /// Whether all of `start..end` that the log holds is in memory.
    pub fn in_memory(&self, start: u64, end: u64) -> bool {
        lock(&self.slot)
            .range(start, end)
            .iter()
            .all(|c| c.place().data.is_some())
    }

    /// Entries with `start <= index < end`: those the log holds, up to about `bytes_max` bytes.
    ///
    /// # Errors
    /// [`WalError`] when a file cannot be read or does not match its checksum.
    pub fn read(
        &self,
        start: u64,
        end: u64,
        bytes_max: usize,
    ) -> Result<Vec<(EntryHead, Bytes)>, WalError> {
        let cells = lock(&self.slot).range(start, end);
        let mut out = Vec::with_capacity(cells.len());
        let mut bytes = 0;
        for c in cells {
            if !out.is_empty() && bytes + c.head.len as usize > bytes_max {
                break;
            }
            bytes += c.head.len as usize;
            out.push((c.head, self.shared().payload(&c)?));
        }
        Ok(out)
    }
}

fn entries_op(group: GroupId, body: EntriesBody) -> Op {
    let (bytes, heads) = body.finish(0);
    let crc = crc32fast::hash(&bytes);
    let bytes = Bytes::from(bytes);
    let cells = heads
        .into_iter()
        .map(|(h, at)| (Cell::pending(h, bytes.slice(at..at + h.len as usize)), at))
        .collect();
    Op {
        group,
        kind: Kind::Entries,
        body: bytes,
        crc,
        cells,
        done: None,
    }
}
