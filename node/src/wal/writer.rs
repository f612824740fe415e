//! The one thread that writes the log.
//!
//! It takes whatever has queued, writes it in one go, syncs once, then tells
//! everybody: while one fdatasync runs the next batch gathers, so no wait is
//! ever needed (group commit). Order of durable steps: records, fdatasync,
//! acknowledgements, ledger; for a new segment: fdatasync of the old one,
//! header, fdatasync, directory; for a collection: carried records, fdatasync,
//! both ledger slots, fdatasync, removal.

use super::disk::DiskFile;
use super::format::{
    self, EntriesBody, Kind, LEDGER_SLOT_STRIDE_BYTES, Ledger, RECORD_HEADER_BYTES, RecordHeader,
    SEGMENT_HEADER_BYTES, SegmentHeader,
};
use super::group::{Cell, GroupLog, Loc};
use super::recovery::{LEDGER_FILE, segment_path};
use super::{GroupId, Shared, WalError};
use crate::mutants::mutant;
use bytes::Bytes;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

/// Bytes that are written before one fdatasync, at most.
pub const BATCH_BYTES_MAX: usize = 8 << 20;
/// Zeros are written ahead for so many batches of the size just written.
const AHEAD_BATCHES: u64 = 16;
/// Segments kept before small groups' live entries are moved to let old ones go.
pub const PINNED_SEGMENTS_MAX: usize = 3;
/// Live bytes of a group that are still moved; a busier group purges by itself.
pub const CHECKPOINT_BYTES_MAX: u64 = 64 << 20;

/// Told the outcome once it is certain.
pub type Done = Box<dyn FnOnce(Result<(), WalError>) + Send>;

/// One record to be written.
pub struct Op {
    /// Its group.
    pub group: GroupId,
    /// What it says.
    pub kind: Kind,
    /// Its body.
    pub body: Bytes,
    /// CRC-32 of the body, computed by the submitter.
    pub crc: u32,
    /// Entries in it, with each payload's offset in the body.
    pub cells: Vec<(Arc<Cell>, usize)>,
    /// Whoever waits for it to be durable. `None`: nobody; it rides along.
    pub done: Option<Done>,
}

impl Op {
    /// A record without entries.
    pub fn small(group: GroupId, kind: Kind, body: Vec<u8>, done: Option<Done>) -> Self {
        let crc = crc32fast::hash(&body);
        Self {
            group,
            kind,
            body: Bytes::from(body),
            crc,
            cells: Vec::new(),
            done,
        }
    }
}

/// The writer's own state.
pub struct Writer {
    shared: Arc<Shared>,
    ledger_file: Arc<dyn DiskFile>,
    ledger_turn: u64,
    oldest: u64,
    active: u64,
    file: Arc<dyn DiskFile>,
    len: u64,
    /// Length of the active file: `len`, and the zeros written ahead.
    file_len: u64,
    next_seq: u64,
    durable: u64,
    /// Copies in memory, oldest first.
    cached: VecDeque<(Arc<Cell>, usize)>,
    cached_bytes: usize,
    collect_due: bool,
}

/// Creates the ledger of a new log.
pub fn create_ledger(shared: &Shared) -> Result<(), WalError> {
    let path = shared.dir.join(LEDGER_FILE);
    let io = |e| WalError::io("create", &path, e);
    let file = shared.disk.create(&path).map_err(io)?;
    let l = Ledger {
        wal_id: shared.wal_id,
        durable: 0,
        oldest: 1,
        turn: 1,
    };
    file.write_all_at(&l.encode(), 0).map_err(io)?;
    file.write_all_at(&l.encode(), LEDGER_SLOT_STRIDE_BYTES)
        .map_err(io)?;
    file.sync_data().map_err(io)?;
    shared.disk.sync_dir(&shared.dir).map_err(io)
}

/// What recovery hands to the writer.
pub struct Start {
    /// Turn of the newest ledger slot.
    pub ledger_turn: u64,
    /// Oldest segment.
    pub oldest: u64,
    /// Newest segment, if there is one.
    pub active: Option<u64>,
    /// Its length.
    pub len: u64,
    /// Sequence of the next record.
    pub next_seq: u64,
}

impl Writer {
    /// A writer that continues where recovery ended.
    pub fn new(shared: Arc<Shared>, start: &Start) -> Result<Self, WalError> {
        let path = shared.dir.join(LEDGER_FILE);
        let ledger_file = shared
            .disk
            .open(&path)
            .map_err(|e| WalError::io("open", &path, e))?;
        let (active, file, len) = match start.active.and_then(|n| Some((n, shared.file(n)?))) {
            Some((n, f)) => (n, f, start.len),
            None => {
                let f = create_segment(&shared, start.oldest, start.next_seq)?;
                (start.oldest, f, SEGMENT_HEADER_BYTES as u64)
            }
        };
        let mut w = Self {
            shared,
            ledger_file,
            ledger_turn: start.ledger_turn,
            oldest: start.oldest,
            active,
            file,
            len,
            file_len: len,
            next_seq: start.next_seq,
            durable: start.next_seq - 1,
            cached: VecDeque::new(),
            cached_bytes: 0,
            collect_due: true,
        };
        w.write_ledger(true)?;
        Ok(w)
    }

    /// Writes until the queue is closed and empty. The first failure ends it.
    pub fn run(mut self) {
        while let Some(mut batch) = self.shared.next_batch(BATCH_BYTES_MAX) {
            if let Err(e) = self.batch(&mut batch) {
                let shared = self.shared.clone();
                shared.fail(&e);
                for op in batch.into_iter().chain(shared.drain()) {
                    if let Some(done) = op.done {
                        done(Err(e.clone()));
                    }
                }
                return;
            }
            if let Err(e) = self.after_batch() {
                self.shared.fail(&e);
                for op in self.shared.drain() {
                    if let Some(done) = op.done {
                        done(Err(e.clone()));
                    }
                }
                return;
            }
        }
        let end = self.sync().and_then(|()| self.trim());
        if let Err(e) = end.and_then(|()| self.write_ledger(true)) {
            self.shared.fail(&e);
        }
    }

    fn batch(&mut self, batch: &mut [Op]) -> Result<(), WalError> {
        for op in batch.iter_mut().filter(|op| op.kind == Kind::Committed) {
            // The newest value at the time of writing: many updates, one record.
            let slot = self.shared.group_slot(op.group);
            let mut g = slot.lock().unwrap_or_else(PoisonError::into_inner);
            g.committed_dirty = false;
            op.body = Bytes::from(format::encode_body(&g.committed));
            op.crc = crc32fast::hash(&op.body);
        }
        let waited_for = batch.iter().any(|op| op.done.is_some());
        self.write(batch)?;
        if waited_for {
            self.sync()?;
        }
        let acks = batch.iter().filter(|op| op.done.is_some()).count() as u64;
        self.shared.count(|s| s.acks += acks);
        for op in batch.iter_mut() {
            if let Some(done) = op.done.take() {
                done(Ok(()));
            }
        }
        self.cache(batch);
        Ok(())
    }

    fn after_batch(&mut self) -> Result<(), WalError> {
        if self.durable + 1 == self.next_seq {
            self.write_ledger(false)?;
        }
        if self.len >= self.shared.options.segment_bytes {
            self.roll()?;
        }
        if self.collect_due {
            self.collect()?;
        }
        Ok(())
    }

    /// Writes `ops` at the end of the active segment without syncing.
    fn write(&mut self, ops: &[Op]) -> Result<(), WalError> {
        fail::fail_point!("wal::write", |_| Err(WalError::io(
            "write",
            &segment_path(&self.shared.dir, self.active),
            std::io::Error::other("failpoint")
        )));
        let bytes: usize = ops
            .iter()
            .map(|op| RECORD_HEADER_BYTES + op.body.len())
            .sum();
        let mut buf = Vec::with_capacity(bytes);
        let mut seq = self.next_seq;
        for op in ops {
            let header = RecordHeader {
                kind: op.kind,
                seq,
                durable: self.durable,
                group: op.group,
                len: op.body.len() as u32,
                body_crc: op.crc,
            };
            buf.extend_from_slice(&header.encode(&self.shared.wal_id, self.active));
            buf.extend_from_slice(&op.body);
            seq += 1;
        }
        let path = || segment_path(&self.shared.dir, self.active);
        self.file
            .write_all_at(&buf, self.len)
            .map_err(|e| WalError::io("write", &path(), e))?;
        let mut at = self.len;
        for op in ops {
            at += RECORD_HEADER_BYTES as u64;
            self.placed(op, at);
            at += op.body.len() as u64;
        }
        self.next_seq = seq;
        self.len = at;
        self.shared.count(|s| {
            s.records += ops.len() as u64;
            s.bytes += buf.len() as u64;
        });
        self.write_ahead(buf.len())
    }

    /// Writes zeros behind the records once these have used up the last ones.
    /// They reach the disk with the sync that the records need anyway. As many
    /// as batches like this one will use: a disk that fills up is soon noticed.
    fn write_ahead(&mut self, batch: usize) -> Result<(), WalError> {
        if self.len <= self.file_len {
            return Ok(());
        }
        let options = &self.shared.options;
        let ahead = (batch as u64 * AHEAD_BATCHES).min(options.ahead_bytes);
        let to = (self.len + ahead).min(options.segment_bytes);
        self.file_len = self.len.max(to);
        // Below `usize`: at most the segment's and the option's size, both memory-sized.
        let zeros = vec![0; (self.file_len - self.len) as usize];
        self.file
            .write_all_at(&zeros, self.len)
            .map_err(|e| WalError::io("extend", &segment_path(&self.shared.dir, self.active), e))
    }

    /// Cuts the zeros off a segment that gets no more records. Not synced: where
    /// a power cut brings them back, recovery knows them for what they are.
    fn trim(&mut self) -> Result<(), WalError> {
        if self.file_len > self.len {
            let path = || segment_path(&self.shared.dir, self.active);
            self.file
                .set_len(self.len)
                .map_err(|e| WalError::io("trim", &path(), e))?;
            self.file_len = self.len;
        }
        Ok(())
    }

    /// Records where an operation's parts now lie.
    fn placed(&mut self, op: &Op, body_at: u64) {
        let slot = self.shared.group_slot(op.group);
        let mut g = slot.lock().unwrap_or_else(PoisonError::into_inner);
        for (cell, at) in &op.cells {
            cell.set_loc(Loc {
                segment: self.active,
                offset: body_at + *at as u64,
            });
        }
        match op.kind {
            Kind::Vote => g.meta_segments[0] = Some(self.active),
            Kind::Committed => g.meta_segments[1] = Some(self.active),
            Kind::Purge => {
                g.meta_segments[2] = Some(self.active);
                self.collect_due = true;
            }
            Kind::Meta | Kind::Checkpoint => {
                g.meta_segments = [Some(self.active); 3];
                return;
            }
            Kind::Entries | Kind::Truncate => {}
        }
        g.queued -= 1;
        g.cuts_queued -= usize::from(op.kind.is_cut());
    }

    fn sync(&mut self) -> Result<(), WalError> {
        if self.durable + 1 == self.next_seq {
            return Ok(());
        }
        let path = || segment_path(&self.shared.dir, self.active);
        fail::fail_point!("wal::sync", |_| Err(WalError::io(
            "sync",
            &path(),
            std::io::Error::other("failpoint")
        )));
        if !mutant("skip-fsync") {
            self.file
                .sync_data()
                .map_err(|e| WalError::io("sync", &path(), e))?;
        }
        self.durable = self.next_seq - 1;
        self.shared.count(|s| s.syncs += 1);
        Ok(())
    }

    fn write_ledger(&mut self, both: bool) -> Result<(), WalError> {
        let path = self.shared.dir.join(LEDGER_FILE);
        let io = |e| WalError::io("write", &path, e);
        for _ in 0..if both { 2 } else { 1 } {
            self.ledger_turn += 1;
            let l = Ledger {
                wal_id: self.shared.wal_id,
                durable: self.durable,
                oldest: self.oldest,
                turn: self.ledger_turn,
            };
            let at = (self.ledger_turn % 2) * LEDGER_SLOT_STRIDE_BYTES;
            self.ledger_file.write_all_at(&l.encode(), at).map_err(io)?;
            if both {
                self.ledger_file.sync_data().map_err(io)?;
            }
        }
        Ok(())
    }

    fn roll(&mut self) -> Result<(), WalError> {
        self.sync()?;
        self.trim()?;
        let next = self.active + 1;
        self.file = create_segment(&self.shared, next, self.next_seq)?;
        self.active = next;
        self.len = SEGMENT_HEADER_BYTES as u64;
        self.file_len = self.len;
        self.collect_due = true;
        Ok(())
    }

    fn cache(&mut self, batch: &[Op]) {
        for (cell, _) in batch.iter().flat_map(|op| &op.cells) {
            let len = cell.head.len as usize;
            self.cached_bytes += len;
            self.cached.push_back((cell.clone(), len));
        }
        while self.cached_bytes > self.shared.options.cache_bytes {
            let Some((cell, len)) = self.cached.pop_front() else {
                break;
            };
            cell.evict();
            self.cached_bytes -= len;
        }
    }

    /// Removes segments that nobody needs, moving what little still pins them.
    fn collect(&mut self) -> Result<(), WalError> {
        self.collect_due = false;
        if self.oldest == self.active {
            return Ok(());
        }
        let crowded = (self.active - self.oldest) as usize > PINNED_SEGMENTS_MAX;
        let active = self.active;
        let mut target = active;
        let (mut move_all, mut move_meta) = (Vec::new(), Vec::new());
        for (id, slot) in self.shared.all_groups() {
            let g = slot.lock().unwrap_or_else(PoisonError::into_inner);
            // Memory has dropped entries that the file still has to hold: a cut
            // of power now must bring them back. Wait for the next batch.
            if g.cuts_queued != 0 {
                self.collect_due = true;
                return Ok(());
            }
            let e = g.oldest_entry_segment(active);
            if e < active {
                if crowded && g.live_bytes <= CHECKPOINT_BYTES_MAX && g.queued == 0 {
                    move_all.push((id, e));
                } else {
                    target = target.min(e);
                    // An operation under way now frees it in the next round.
                    self.collect_due |= crowded && g.live_bytes <= CHECKPOINT_BYTES_MAX;
                }
            }
            move_meta.push((id, g.oldest_meta_segment(active)));
        }
        if target <= self.oldest {
            return Ok(());
        }
        // Moving is worth it only where it lets a segment go.
        move_all.retain(|(_, e)| *e < target);
        move_meta.retain(|(id, m)| *m < target && !move_all.iter().any(|(i, _)| i == id));
        for (id, _) in &move_all {
            if !self.move_group(*id)? {
                self.collect_due = true;
                return Ok(());
            }
        }
        for (id, _) in &move_meta {
            let slot = self.shared.group_slot(*id);
            let meta = slot.lock().unwrap_or_else(PoisonError::into_inner).meta();
            let op = Op::small(*id, Kind::Meta, format::encode_body(&meta), None);
            self.write(&[op])?;
        }
        self.sync()?;
        self.remove_below(target)
    }

    /// Writes a group's whole state anew. False when it is busy just now.
    fn move_group(&mut self, id: GroupId) -> Result<bool, WalError> {
        let slot = self.shared.group_slot(id);
        // What is submitted after this lock is released lands behind the
        // checkpoint in the file, so replaying both gives the same log.
        let (prefix, cells) = {
            let g = slot.lock().unwrap_or_else(PoisonError::into_inner);
            if g.queued != 0 {
                return Ok(false);
            }
            let cells: Vec<_> = g.on_disk().cloned().collect();
            (format::encode_checkpoint_prefix(&g.meta()), cells)
        };
        let mut body = EntriesBody::new(&prefix);
        for c in &cells {
            body.push(c.head.pos, c.head.kind, &self.shared.payload(c)?);
        }
        let (bytes, heads) = body.finish(prefix.len());
        let crc = crc32fast::hash(&bytes);
        let cells = cells
            .into_iter()
            .zip(heads)
            .map(|(c, (_, at))| (c, at))
            .collect();
        let op = Op {
            group: id,
            kind: Kind::Checkpoint,
            body: Bytes::from(bytes),
            crc,
            cells,
            done: None,
        };
        self.write(&[op])?;
        Ok(true)
    }

    fn remove_below(&mut self, target: u64) -> Result<(), WalError> {
        let from = self.oldest;
        self.oldest = target;
        self.write_ledger(true)?;
        for n in from..target {
            let path = segment_path(&self.shared.dir, n);
            self.shared.forget_file(n);
            self.shared
                .disk
                .remove(&path)
                .map_err(|e| WalError::io("remove", &path, e))?;
        }
        let dir = &self.shared.dir;
        self.shared
            .disk
            .sync_dir(dir)
            .map_err(|e| WalError::io("sync", dir, e))?;
        self.shared.count(|s| s.segments_removed += target - from);
        Ok(())
    }
}

fn create_segment(
    shared: &Shared,
    number: u64,
    first_seq: u64,
) -> Result<Arc<dyn DiskFile>, WalError> {
    let path = segment_path(&shared.dir, number);
    let io = |e| WalError::io("create", &path, e);
    fail::fail_point!("wal::segment", |_| Err(io(std::io::Error::other(
        "failpoint"
    ))));
    let header = SegmentHeader {
        segment: number,
        first_seq,
        durable: first_seq - 1,
        wal_id: shared.wal_id,
    };
    let file = shared.disk.create(&path).map_err(io)?;
    file.write_all_at(&header.encode(), 0).map_err(io)?;
    file.sync_data().map_err(io)?;
    shared.disk.sync_dir(&shared.dir).map_err(io)?;
    shared.add_file(number, file.clone());
    Ok(file)
}

/// A group's place among the log's groups.
pub type GroupSlot = Arc<Mutex<GroupLog>>;
