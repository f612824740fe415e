//! Reading a log without opening it: for `quorate-node dump` and for tests.
//!
//! It changes nothing, not even an unfinished tail, and shows structure only:
//! sequence, group, kind, lengths, positions. Never a payload.

use super::disk::{Disk, RealDisk, read_all};
use super::format::{self, Kind, LogPos, SEGMENT_HEADER_BYTES, SegmentHeader};
use super::recovery::{ScanEnd, list_segments, read_ledger, scan_segment};
use super::{GroupId, WalError};
use std::path::{Path, PathBuf};

/// One record, without its content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordLine {
    /// Segment file.
    pub segment: u64,
    /// Offset in it.
    pub offset: u64,
    /// Sequence.
    pub seq: u64,
    /// Highest sequence known durable when it was written.
    pub durable: u64,
    /// Group.
    pub group: GroupId,
    /// Kind.
    pub kind: Kind,
    /// Length of the body in bytes.
    pub len: u32,
    /// Entries in it: position, kind, payload length.
    pub entries: Vec<(LogPos, format::EntryKind, u32)>,
    /// The position that a committed, truncate or purge record names.
    pub pos: Option<LogPos>,
}

impl std::fmt::Display for RecordLine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "segment {:x} offset {} seq {} durable {} group {} {:?} {} bytes",
            self.segment, self.offset, self.seq, self.durable, self.group, self.kind, self.len
        )?;
        if let Some(p) = self.pos {
            write!(f, " at {p}")?;
        }
        for (pos, kind, len) in &self.entries {
            write!(f, "\n    entry {pos} {kind:?} {len} bytes")?;
        }
        Ok(())
    }
}

/// One segment file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SegmentLine {
    /// The file.
    pub path: PathBuf,
    /// Its length in bytes.
    pub len: u64,
    /// Its header, when valid.
    pub header: Option<SegmentHeader>,
    /// Where the valid part ends, when that is before the end of the file.
    pub invalid_at: Option<u64>,
}

/// What a log holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WalDump {
    /// What the ledger says is durable.
    pub durable: u64,
    /// The files.
    pub segments: Vec<SegmentLine>,
}

/// Reads the log in `dir` and hands every valid record to `each`.
///
/// # Errors
/// [`WalError`] when files cannot be read at all; damage inside one is reported in the result.
pub fn dump(dir: &Path, mut each: impl FnMut(RecordLine)) -> Result<WalDump, WalError> {
    let disk = RealDisk;
    let ledger = read_ledger(&disk, dir)?;
    let mut out = WalDump {
        durable: ledger.durable,
        segments: Vec::new(),
    };
    for (_, path) in list_segments(&disk, dir)? {
        let io = |e| WalError::io("read", &path, e);
        let bytes = read_all(&*disk.open(&path).map_err(io)?).map_err(io)?;
        let header = SegmentHeader::decode(&bytes).ok();
        let mut invalid_at = (header.is_none()).then_some(0);
        if let Some(h) = &header {
            let mut seq = h.first_seq;
            let end = scan_segment::<WalError>(&bytes, h, &mut seq, |r| {
                each(line(&r));
                Ok(())
            })?;
            if let ScanEnd::Invalid(at) = end {
                invalid_at = Some(at);
            }
        }
        let len = bytes.len() as u64;
        out.segments.push(SegmentLine {
            path,
            len,
            header,
            invalid_at,
        });
    }
    Ok(out)
}

fn line(r: &super::recovery::Record<'_>) -> RecordLine {
    let h = r.header;
    let entries_at = match h.kind {
        Kind::Entries => Some(0),
        Kind::Checkpoint => format::decode_checkpoint(r.body).ok().map(|(_, at)| at),
        _ => None,
    };
    let entries = entries_at
        .and_then(|at| format::decode_entries(r.body, at).ok())
        .unwrap_or_default()
        .into_iter()
        .map(|(e, _)| (e.pos, e.kind, e.len))
        .collect();
    let pos = match h.kind {
        Kind::Committed | Kind::Truncate => {
            format::decode_body::<Option<LogPos>>("wal position", r.body)
                .ok()
                .flatten()
        }
        Kind::Purge => format::decode_body("wal position", r.body).ok(),
        _ => None,
    };
    debug_assert!(r.offset >= SEGMENT_HEADER_BYTES as u64);
    RecordLine {
        segment: r.segment,
        offset: r.offset,
        seq: h.seq,
        durable: h.durable,
        group: h.group,
        kind: h.kind,
        len: h.len,
        entries,
        pos,
    }
}
