//! Reading the log back after a stop, clean or not.
//!
//! The rule: an invalid tail is cut only above the highest sequence that
//! anything on this disk says was durable. What may say so: the ledger, every
//! segment header, every valid record header, *including those that lie behind
//! the damage*. Damage at or below that point is a disk that lost acknowledged
//! data; a node must not guess, so it refuses and is replaced.
//!
//! Zeros up to the end of a file are what the writer puts ahead of records. In
//! the newest segment they end the log by the same rule; in an older one they
//! are fine only if the next segment goes on with the very next sequence.

use super::disk::{Disk, DiskFile, read_all};
use super::format::{
    self, HeaderProblem, Kind, LEDGER_SLOT_BYTES, LEDGER_SLOT_STRIDE_BYTES, Ledger, LogPos,
    RECORD_HEADER_BYTES, RECORD_MAGIC, RecordHeader, SEGMENT_HEADER_BYTES, SegmentHeader, WalId,
};
use super::group::{Cell, GroupLog, Loc};
use super::{GroupId, WalError};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Name of the ledger inside the log's directory.
pub const LEDGER_FILE: &str = "ledger";
/// Extension of segment files.
pub const SEGMENT_EXT: &str = "wal";

/// File name of a segment.
pub fn segment_path(dir: &Path, segment: u64) -> PathBuf {
    dir.join(format!("{segment:016x}.{SEGMENT_EXT}"))
}

fn segment_number(path: &Path) -> Option<u64> {
    if path.extension()? != SEGMENT_EXT {
        return None;
    }
    let stem = path.file_stem()?.to_str()?;
    (stem.len() == 16).then(|| u64::from_str_radix(stem, 16).ok())?
}

/// What a recovery found and did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Records read.
    pub records: u64,
    /// Bytes of an unfinished tail that were cut.
    pub cut_bytes: u64,
}

/// A log read back.
pub struct Recovered {
    /// Identity of the log.
    pub wal_id: WalId,
    /// Groups found.
    pub groups: BTreeMap<GroupId, GroupLog>,
    /// Open segment files by number.
    pub files: BTreeMap<u64, Arc<dyn DiskFile>>,
    /// Length of the newest segment.
    pub active_len: u64,
    /// Sequence of the next record.
    pub next_seq: u64,
    /// Turn of the newest ledger slot.
    pub ledger_turn: u64,
    /// What was found and done.
    pub report: Report,
}

/// One record met while scanning.
pub struct Record<'a> {
    /// Its header.
    pub header: RecordHeader,
    /// The segment it stands in.
    pub segment: u64,
    /// Offset of its header in the segment file.
    pub offset: u64,
    /// Its body.
    pub body: &'a [u8],
}

/// Where a scan of one segment stopped.
pub enum ScanEnd {
    /// At the end of the file.
    Clean,
    /// At nothing but zeros up to the end of the file, as the writer puts them ahead of records.
    Zeros(u64),
    /// At bytes that are not the expected record.
    Invalid(u64),
}

/// Reads the records of one segment's bytes in order, from sequence `seq`.
///
/// # Errors
/// What `each` returns.
pub fn scan_segment<E>(
    bytes: &[u8],
    header: &SegmentHeader,
    seq: &mut u64,
    mut each: impl FnMut(Record<'_>) -> Result<(), E>,
) -> Result<ScanEnd, E> {
    let mut at = SEGMENT_HEADER_BYTES;
    loop {
        if at == bytes.len() {
            return Ok(ScanEnd::Clean);
        }
        let invalid = Ok(ScanEnd::Invalid(at as u64));
        if bytes[at] == 0 && bytes[at..].iter().all(|b| *b == 0) {
            return Ok(ScanEnd::Zeros(at as u64));
        }
        let Some(h) = RecordHeader::decode(&bytes[at..], &header.wal_id, header.segment) else {
            return invalid;
        };
        let start = at + RECORD_HEADER_BYTES;
        let Some(body) = bytes.get(start..start + h.len as usize) else {
            return invalid;
        };
        if h.seq != *seq || crc32fast::hash(body) != h.body_crc {
            return invalid;
        }
        each(Record {
            header: h,
            segment: header.segment,
            offset: at as u64,
            body,
        })?;
        *seq += 1;
        at = start + h.len as usize;
    }
}

/// Highest `durable` in any valid record header of `bytes` from `from` on, at whatever offset.
fn claims_behind(bytes: &[u8], from: usize, wal_id: &WalId, segment: u64) -> Option<u64> {
    let mut best = None;
    let mut at = from;
    while at + RECORD_HEADER_BYTES <= bytes.len() {
        // Skip quickly to the next possible magic byte.
        match bytes[at..bytes.len() - RECORD_HEADER_BYTES + 1]
            .iter()
            .position(|&b| b == RECORD_MAGIC[0])
        {
            None => break,
            Some(skip) => at += skip,
        }
        if let Some(h) = RecordHeader::decode(&bytes[at..], wal_id, segment) {
            best = best.max(Some(h.durable));
        }
        at += 1;
    }
    best
}

/// Reads the ledger: the newer of its two slots.
///
/// # Errors
/// [`WalError`] when it cannot be read or no slot is valid.
pub fn read_ledger(disk: &dyn Disk, dir: &Path) -> Result<Ledger, WalError> {
    let path = dir.join(LEDGER_FILE);
    let io = |e| WalError::io("read", &path, e);
    let bytes = read_all(&*disk.open(&path).map_err(io)?).map_err(io)?;
    let mut best: Option<Ledger> = None;
    let mut newer = None;
    for slot in 0..2usize {
        let at = slot * LEDGER_SLOT_STRIDE_BYTES as usize;
        let part = bytes
            .get(at..(at + LEDGER_SLOT_BYTES).min(bytes.len()))
            .unwrap_or(&[]);
        match Ledger::decode(part) {
            Ok(l) if best.is_none_or(|b| b.turn < l.turn) => best = Some(l),
            Ok(_) | Err(HeaderProblem::Invalid) => {}
            Err(HeaderProblem::Newer(v)) => newer = Some(v),
        }
    }
    if let Some(version) = newer {
        return Err(WalError::Newer {
            file: path,
            version,
        });
    }
    best.ok_or(WalError::Damaged {
        file: path,
        offset: 0,
        seq: 0,
        durable: 0,
    })
}

/// The segment files in `dir`, by number.
///
/// # Errors
/// [`WalError`] when the directory cannot be read or holds a stray file.
pub fn list_segments(disk: &dyn Disk, dir: &Path) -> Result<Vec<(u64, PathBuf)>, WalError> {
    let mut out: Vec<(u64, PathBuf)> = Vec::new();
    for path in disk.list(dir).map_err(|e| WalError::io("list", dir, e))? {
        if let Some(n) = segment_number(&path) {
            out.push((n, path));
        } else if path.extension().is_some_and(|e| e == SEGMENT_EXT) {
            return Err(WalError::Stray { file: path });
        }
    }
    out.sort();
    Ok(out)
}

/// Checks that `segments` begin with `oldest` and have no hole.
fn check_numbers(dir: &Path, segments: &[(u64, PathBuf)], oldest: u64) -> Result<(), WalError> {
    for (expected, (n, _)) in (oldest..).zip(segments) {
        if *n != expected {
            return Err(WalError::MissingSegment {
                file: segment_path(dir, expected),
            });
        }
    }
    Ok(())
}

/// Reads the log in `dir`, cuts an unfinished tail, and makes what remains durable.
///
/// # Errors
/// [`WalError`] when acknowledged records are damaged or missing, or the disk fails.
pub fn recover(disk: &dyn Disk, dir: &Path) -> Result<Recovered, WalError> {
    let ledger = read_ledger(disk, dir)?;
    let mut segments = list_segments(disk, dir)?;
    // Left over from a collection that was cut off after the ledger moved on.
    // Removals reach the disk in any order, so there may be holes among them.
    for (n, path) in &segments {
        if *n < ledger.oldest {
            disk.remove(path)
                .map_err(|e| WalError::io("remove", path, e))?;
        }
    }
    segments.retain(|(n, _)| *n >= ledger.oldest);
    check_numbers(dir, &segments, ledger.oldest)?;
    if segments.is_empty() && ledger.durable > 0 {
        return Err(WalError::MissingSegment {
            file: segment_path(dir, ledger.oldest),
        });
    }
    let mut scan = Scan {
        disk,
        ledger,
        state: Recovered {
            wal_id: ledger.wal_id,
            groups: BTreeMap::new(),
            files: BTreeMap::new(),
            active_len: 0,
            next_seq: 0,
            ledger_turn: ledger.turn,
            report: Report::default(),
        },
    };
    let last = segments.len().saturating_sub(1);
    for (i, (number, path)) in segments.iter().enumerate() {
        scan.segment(*number, path, i == last)?;
    }
    if scan.state.next_seq == 0 && ledger.durable > 0 {
        return Err(WalError::MissingSegment {
            file: segment_path(dir, ledger.oldest),
        });
    }
    if ledger.durable >= scan.state.next_seq.max(1) {
        let file = segments
            .last()
            .map_or_else(|| dir.to_owned(), |(_, p)| p.clone());
        let (offset, seq) = (scan.state.active_len, scan.state.next_seq);
        return Err(WalError::Damaged {
            file,
            offset,
            seq,
            durable: ledger.durable,
        });
    }
    // What was read may have been in memory only: make it durable before relying on it.
    if let Some((n, f)) = scan.state.files.last_key_value() {
        f.sync_data()
            .map_err(|e| WalError::io("sync", &segment_path(dir, *n), e))?;
    }
    disk.sync_dir(dir)
        .map_err(|e| WalError::io("sync", dir, e))?;
    Ok(scan.state)
}

struct Scan<'a> {
    disk: &'a dyn Disk,
    ledger: Ledger,
    state: Recovered,
}

impl Scan<'_> {
    fn segment(&mut self, number: u64, path: &Path, is_last: bool) -> Result<(), WalError> {
        let io = |e| WalError::io("read", path, e);
        let file = self.disk.open(path).map_err(io)?;
        let bytes = read_all(&*file).map_err(io)?;
        let expected = self.state.next_seq;
        let damaged = |offset: u64, seq: u64, durable: u64| WalError::Damaged {
            file: path.to_owned(),
            offset,
            seq,
            durable,
        };
        let header = match SegmentHeader::decode(&bytes) {
            Ok(h) => h,
            Err(HeaderProblem::Newer(version)) => {
                return Err(WalError::Newer {
                    file: path.to_owned(),
                    version,
                });
            }
            // A crash while it was being created leaves at most a header's
            // length: records are written only after the header was synced.
            Err(HeaderProblem::Invalid) if is_last && bytes.len() <= SEGMENT_HEADER_BYTES => {
                if self.ledger.durable >= expected.max(1) {
                    return Err(damaged(0, expected, self.ledger.durable));
                }
                self.state.report.cut_bytes += bytes.len() as u64;
                return self
                    .disk
                    .remove(path)
                    .map_err(|e| WalError::io("remove", path, e));
            }
            Err(HeaderProblem::Invalid) => return Err(damaged(0, expected, self.ledger.durable)),
        };
        let follows = expected == 0 || header.first_seq == expected;
        if header.segment != number || header.wal_id != self.ledger.wal_id || !follows {
            return Err(damaged(
                0,
                expected,
                header.durable.max(self.ledger.durable),
            ));
        }
        self.state.next_seq = header.first_seq;
        let (mut seq, mut claimed) = (header.first_seq, header.durable.max(self.ledger.durable));
        let groups = &mut self.state.groups;
        let end = scan_segment(&bytes, &header, &mut seq, |r| {
            claimed = claimed.max(r.header.durable);
            replay(groups, &r).map_err(|reason| WalError::Corrupt {
                file: path.to_owned(),
                offset: r.offset,
                reason,
            })
        })?;
        self.state.report.records += seq - header.first_seq;
        let mut len = bytes.len() as u64;
        if let ScanEnd::Zeros(offset) = end {
            // Only the next segment can say that no record stood where zeros are now.
            let complete = if is_last {
                claimed < seq
            } else {
                self.first_seq_after(path, number)? == Some(seq)
            };
            if !complete {
                return Err(damaged(offset, seq, claimed.max(seq)));
            }
            file.set_len(offset)
                .map_err(|e| WalError::io("trim", path, e))?;
            len = offset;
        }
        if let ScanEnd::Invalid(offset) = end {
            let behind = claims_behind(&bytes, offset as usize, &header.wal_id, number);
            claimed = claimed.max(behind.unwrap_or(0));
            // A newer segment exists only if this one was durable to its end.
            if !is_last || claimed >= seq {
                return Err(damaged(offset, seq, claimed.max(seq)));
            }
            tracing::warn!(file = %path.display(), offset, seq, cut = len - offset, "cutting an unfinished tail of the log");
            self.state.report.cut_bytes += len - offset;
            file.set_len(offset)
                .map_err(|e| WalError::io("cut", path, e))?;
            len = offset;
        }
        self.state.next_seq = seq;
        self.state.active_len = len;
        self.state.files.insert(number, file);
        Ok(())
    }

    /// Sequence with which the segment behind `number` begins, if its header is valid.
    fn first_seq_after(&self, path: &Path, number: u64) -> Result<Option<u64>, WalError> {
        let next = segment_path(path.parent().unwrap_or(Path::new("")), number + 1);
        let io = |e| WalError::io("read", &next, e);
        let file = self.disk.open(&next).map_err(io)?;
        let len = file.len().map_err(io)?.min(SEGMENT_HEADER_BYTES as u64);
        let mut bytes = vec![0; len as usize];
        file.read_exact_at(&mut bytes, 0).map_err(io)?;
        let header = SegmentHeader::decode(&bytes).ok();
        Ok(header
            .filter(|h| h.segment == number + 1 && h.wal_id == self.ledger.wal_id)
            .map(|h| h.first_seq))
    }
}

fn replay(groups: &mut BTreeMap<GroupId, GroupLog>, r: &Record<'_>) -> Result<(), String> {
    let g = groups
        .entry(r.header.group)
        .or_insert_with(|| GroupLog::new(r.header.group));
    let cells = |at: usize| -> Result<Vec<Arc<Cell>>, String> {
        let body_at = r.offset + RECORD_HEADER_BYTES as u64;
        Ok(format::decode_entries(r.body, at)
            .map_err(|e| e.to_string())?
            .into_iter()
            .map(|(head, at)| {
                Cell::on_disk(
                    head,
                    Loc {
                        segment: r.segment,
                        offset: body_at + at as u64,
                    },
                )
            })
            .collect())
    };
    let s = |e: quorate_engine::types::codec::CodecError| e.to_string();
    match r.header.kind {
        Kind::Entries => g.replay_entries(&cells(0)?).map_err(|e| e.to_string())?,
        Kind::Vote => {
            g.vote = Some(r.body.to_vec());
            g.meta_segments[0] = Some(r.segment);
        }
        Kind::Committed => {
            g.committed = format::decode_body("wal committed", r.body).map_err(s)?;
            g.meta_segments[1] = Some(r.segment);
        }
        Kind::Truncate => {
            let keep: Option<LogPos> = format::decode_body("wal truncate", r.body).map_err(s)?;
            g.truncate_after(keep);
        }
        Kind::Purge => {
            g.purge_on_disk(format::decode_body("wal purge", r.body).map_err(s)?);
            g.meta_segments[2] = Some(r.segment);
        }
        Kind::Meta => {
            g.set_meta(format::decode_body("wal meta", r.body).map_err(s)?);
            g.meta_segments = [Some(r.segment); 3];
        }
        Kind::Checkpoint => {
            let (meta, at) = format::decode_checkpoint(r.body).map_err(s)?;
            g.replace(meta, &cells(at)?);
            g.meta_segments = [Some(r.segment); 3];
        }
    }
    Ok(())
}
