//! Byte layouts of the write-ahead log: segment header, record header, bodies, ledger.
//!
//! Everything is little-endian and fixed in place; `docs/format.md` has the
//! byte tables. Two checksums guard a record, one over its header and one over
//! its body: a damaged length is noticed before it is believed, which is how
//! other logs lose a synced tail without a word. The header checksum is seeded
//! with the log's id and the segment number, so that bytes of another segment,
//! another node or a deleted file that the file system hands back never pass.

use quorate_engine::types::codec::{self, CodecError};
use serde::{Deserialize, Serialize};

/// Format version that this build writes and the newest that it reads.
pub const FORMAT_VERSION: u16 = 1;
/// First bytes of every segment.
pub const SEGMENT_MAGIC: [u8; 8] = *b"QRTWAL\r\n";
/// First bytes of every record.
pub const RECORD_MAGIC: [u8; 4] = *b"QREC";
/// First bytes of each slot of the ledger.
pub const LEDGER_MAGIC: [u8; 8] = *b"QRTLEDG\n";
/// Length of a segment header in bytes.
pub const SEGMENT_HEADER_BYTES: usize = 64;
/// Length of a record header in bytes.
pub const RECORD_HEADER_BYTES: usize = 40;
/// Length of the header in front of each entry inside a body, in bytes.
pub const ENTRY_HEADER_BYTES: usize = 36;
/// Length of one ledger slot in bytes; slots lie a page apart so that one torn page spoils one slot.
pub const LEDGER_SLOT_BYTES: usize = 56;
/// Distance between the two ledger slots in bytes.
pub const LEDGER_SLOT_STRIDE_BYTES: u64 = 4096;
/// Largest record body in bytes.
pub const BODY_BYTES_MAX: usize = 160 << 20;
/// Version byte of the small bodies (committed, truncate, purge, meta).
const BODY_VERSION: u8 = 1;

/// Identity of one node's log: random bytes drawn when it is created.
pub type WalId = [u8; 16];

/// Where in its raft group's log an entry stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct LogPos {
    /// Term of the leader that proposed it.
    pub term: u64,
    /// That leader's node id.
    pub node: u64,
    /// Log index.
    pub index: u64,
}

impl std::fmt::Display for LogPos {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}-{}-{}", self.term, self.node, self.index)
    }
}

/// What a record says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// A run of consecutive log entries.
    Entries = 1,
    /// The group's vote.
    Vote = 2,
    /// The newest log position known to be committed. Not waited for.
    Committed = 3,
    /// Entries after a position are void.
    Truncate = 4,
    /// Entries up to a position are no longer needed.
    Purge = 5,
    /// Vote, committed and purged positions, carried forward so that old segments can go.
    Meta = 6,
    /// The whole state of a group including its live entries, carried forward.
    Checkpoint = 7,
}

impl Kind {
    /// Whether it voids or drops entries.
    pub fn is_cut(self) -> bool {
        matches!(self, Self::Truncate | Self::Purge)
    }

    fn from_byte(b: u8) -> Option<Self> {
        Some(match b {
            1 => Self::Entries,
            2 => Self::Vote,
            3 => Self::Committed,
            4 => Self::Truncate,
            5 => Self::Purge,
            6 => Self::Meta,
            7 => Self::Checkpoint,
            _ => return None,
        })
    }
}

/// The header of a segment file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentHeader {
    /// Number of the segment, equal to the one in its file name.
    pub segment: u64,
    /// Sequence of its first record.
    pub first_seq: u64,
    /// Highest sequence known durable when it was created.
    pub durable: u64,
    /// Identity of the log it belongs to.
    pub wal_id: WalId,
}

/// Why a segment header cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeaderProblem {
    /// Too short, wrong magic or wrong checksum.
    Invalid,
    /// Written by a newer build.
    Newer(u16),
}

impl SegmentHeader {
    /// The header's bytes.
    pub fn encode(&self) -> [u8; SEGMENT_HEADER_BYTES] {
        let mut out = [0u8; SEGMENT_HEADER_BYTES];
        out[0..8].copy_from_slice(&SEGMENT_MAGIC);
        out[8..10].copy_from_slice(&FORMAT_VERSION.to_le_bytes());
        out[16..24].copy_from_slice(&self.segment.to_le_bytes());
        out[24..32].copy_from_slice(&self.first_seq.to_le_bytes());
        out[32..40].copy_from_slice(&self.durable.to_le_bytes());
        out[40..56].copy_from_slice(&self.wal_id);
        let crc = crc32fast::hash(&out[..60]);
        out[60..64].copy_from_slice(&crc.to_le_bytes());
        out
    }

    /// Reads a header.
    ///
    /// # Errors
    /// [`HeaderProblem`] when the bytes are not a header this build reads.
    pub fn decode(bytes: &[u8]) -> Result<Self, HeaderProblem> {
        if bytes.len() < SEGMENT_HEADER_BYTES || bytes[0..8] != SEGMENT_MAGIC {
            return Err(HeaderProblem::Invalid);
        }
        let crc_ok = crc32fast::hash(&bytes[..60]) == u32_at(bytes, 60);
        let version = u16::from_le_bytes([bytes[8], bytes[9]]);
        if !crc_ok {
            return Err(HeaderProblem::Invalid);
        }
        if version > FORMAT_VERSION {
            return Err(HeaderProblem::Newer(version));
        }
        let mut wal_id = [0u8; 16];
        wal_id.copy_from_slice(&bytes[40..56]);
        Ok(Self {
            segment: u64_at(bytes, 16),
            first_seq: u64_at(bytes, 24),
            durable: u64_at(bytes, 32),
            wal_id,
        })
    }
}

/// The header of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordHeader {
    /// What the record says.
    pub kind: Kind,
    /// Its number in the log, one more than its predecessor's.
    pub seq: u64,
    /// Highest sequence known durable when it was written.
    pub durable: u64,
    /// The raft group it belongs to.
    pub group: u32,
    /// Length of the body that follows, in bytes.
    pub len: u32,
    /// CRC-32 of the body.
    pub body_crc: u32,
}

fn seeded(wal_id: &WalId, segment: u64, bytes: &[u8]) -> u32 {
    let mut h = crc32fast::Hasher::new();
    h.update(wal_id);
    h.update(&segment.to_le_bytes());
    h.update(bytes);
    h.finalize()
}

impl RecordHeader {
    /// The header's bytes, for a record of `segment` in log `wal_id`.
    pub fn encode(&self, wal_id: &WalId, segment: u64) -> [u8; RECORD_HEADER_BYTES] {
        let mut out = [0u8; RECORD_HEADER_BYTES];
        out[0..4].copy_from_slice(&RECORD_MAGIC);
        out[4] = self.kind as u8;
        out[8..16].copy_from_slice(&self.seq.to_le_bytes());
        out[16..24].copy_from_slice(&self.durable.to_le_bytes());
        out[24..28].copy_from_slice(&self.group.to_le_bytes());
        out[28..32].copy_from_slice(&self.len.to_le_bytes());
        out[32..36].copy_from_slice(&self.body_crc.to_le_bytes());
        let crc = seeded(wal_id, segment, &out[..36]);
        out[36..40].copy_from_slice(&crc.to_le_bytes());
        out
    }

    /// Reads a header; `None` when the bytes are not a valid one of this log and segment.
    pub fn decode(bytes: &[u8], wal_id: &WalId, segment: u64) -> Option<Self> {
        if bytes.len() < RECORD_HEADER_BYTES || bytes[0..4] != RECORD_MAGIC {
            return None;
        }
        if seeded(wal_id, segment, &bytes[..36]) != u32_at(bytes, 36) {
            return None;
        }
        let len = u32_at(bytes, 28);
        if len as usize > BODY_BYTES_MAX {
            return None;
        }
        Some(Self {
            kind: Kind::from_byte(bytes[4])?,
            seq: u64_at(bytes, 8),
            durable: u64_at(bytes, 16),
            group: u32_at(bytes, 24),
            len,
            body_crc: u32_at(bytes, 32),
        })
    }
}

/// What an entry carries; kept beside it so that tools need not decode payloads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum EntryKind {
    /// Nothing: a new leader's first entry.
    Blank = 0,
    /// A command for the state machine.
    Command = 1,
    /// A change of the group's members.
    Membership = 2,
}

/// One entry as it stands in a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EntryHead {
    /// Its position in the group's log.
    pub pos: LogPos,
    /// What it carries.
    pub kind: EntryKind,
    /// Length of its payload in bytes.
    pub len: u32,
    /// CRC-32 of its payload, checked when one entry is read back by itself.
    pub crc: u32,
}

/// A run of entries being encoded.
#[derive(Debug, Default)]
pub struct EntriesBody {
    bytes: Vec<u8>,
    /// Head and payload offset of every entry added.
    pub heads: Vec<(EntryHead, usize)>,
}

impl EntriesBody {
    /// An empty run behind `prefix`.
    pub fn new(prefix: &[u8]) -> Self {
        let mut bytes = prefix.to_vec();
        bytes.extend_from_slice(&0u32.to_le_bytes());
        Self {
            bytes,
            heads: Vec::new(),
        }
    }

    /// Adds one entry.
    pub fn push(&mut self, pos: LogPos, kind: EntryKind, payload: &[u8]) {
        let crc = crc32fast::hash(payload);
        let len = payload.len() as u32;
        self.bytes.extend_from_slice(&pos.term.to_le_bytes());
        self.bytes.extend_from_slice(&pos.node.to_le_bytes());
        self.bytes.extend_from_slice(&pos.index.to_le_bytes());
        self.bytes.extend_from_slice(&[kind as u8, 0, 0, 0]);
        self.bytes.extend_from_slice(&len.to_le_bytes());
        self.bytes.extend_from_slice(&crc.to_le_bytes());
        self.heads.push((
            EntryHead {
                pos,
                kind,
                len,
                crc,
            },
            self.bytes.len(),
        ));
        self.bytes.extend_from_slice(payload);
    }

    /// Bytes so far.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Whether no entry was added.
    pub fn is_empty(&self) -> bool {
        self.heads.is_empty()
    }

    /// The body, with the count of entries filled in at `prefix_len`.
    pub fn finish(mut self, prefix_len: usize) -> (Vec<u8>, Vec<(EntryHead, usize)>) {
        let count = self.heads.len() as u32;
        self.bytes[prefix_len..prefix_len + 4].copy_from_slice(&count.to_le_bytes());
        (self.bytes, self.heads)
    }
}

/// Reads the heads of the entries in `body` that begins at `at`, with each payload's offset in `body`.
///
/// # Errors
/// [`CodecError`] when lengths, kinds or order do not fit.
pub fn decode_entries(body: &[u8], at: usize) -> Result<Vec<(EntryHead, usize)>, CodecError> {
    let bad = |reason: &str| CodecError::Malformed {
        what: "wal entries",
        reason: reason.into(),
    };
    let mut rest = body.get(at..).ok_or_else(|| bad("too short"))?;
    if rest.len() < 4 {
        return Err(bad("no count"));
    }
    let count = u32_at(rest, 0) as usize;
    rest = &rest[4..];
    if count > rest.len() / ENTRY_HEADER_BYTES {
        return Err(bad("count beyond the body"));
    }
    let mut heads: Vec<(EntryHead, usize)> = Vec::with_capacity(count);
    for _ in 0..count {
        if rest.len() < ENTRY_HEADER_BYTES {
            return Err(bad("entry header cut short"));
        }
        let pos = LogPos {
            term: u64_at(rest, 0),
            node: u64_at(rest, 8),
            index: u64_at(rest, 16),
        };
        let kind = match rest[24] {
            0 => EntryKind::Blank,
            1 => EntryKind::Command,
            2 => EntryKind::Membership,
            _ => return Err(bad("unknown entry kind")),
        };
        let head = EntryHead {
            pos,
            kind,
            len: u32_at(rest, 28),
            crc: u32_at(rest, 32),
        };
        rest = &rest[ENTRY_HEADER_BYTES..];
        if rest.len() < head.len as usize {
            return Err(bad("payload cut short"));
        }
        if heads
            .last()
            .is_some_and(|(h, _)| h.pos.index.checked_add(1) != Some(pos.index))
        {
            return Err(bad("entries are not consecutive"));
        }
        heads.push((head, body.len() - rest.len()));
        rest = &rest[head.len as usize..];
    }
    if !rest.is_empty() {
        return Err(bad("bytes left over"));
    }
    Ok(heads)
}

/// A group's small state: body of [`Kind::Meta`] and start of [`Kind::Checkpoint`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MetaBody {
    /// The vote, as its owner encoded it.
    pub vote: Option<Vec<u8>>,
    /// Newest position known committed.
    pub committed: Option<LogPos>,
    /// Newest position purged.
    pub purged: Option<LogPos>,
}

/// Encodes a small body.
pub fn encode_body<T: Serialize>(value: &T) -> Vec<u8> {
    codec::encode(BODY_VERSION, value)
}

/// Decodes a small body.
///
/// # Errors
/// [`CodecError`] naming `what`.
pub fn decode_body<T: serde::de::DeserializeOwned>(
    what: &'static str,
    bytes: &[u8],
) -> Result<T, CodecError> {
    codec::decode(what, BODY_VERSION, bytes)
}

/// Splits a checkpoint's body into its meta part and the offset of its entries.
///
/// # Errors
/// [`CodecError`] when it is malformed.
pub fn decode_checkpoint(body: &[u8]) -> Result<(MetaBody, usize), CodecError> {
    let bad = || CodecError::Malformed {
        what: "wal checkpoint",
        reason: "too short".into(),
    };
    if body.len() < 4 {
        return Err(bad());
    }
    let end = 4usize
        .checked_add(u32_at(body, 0) as usize)
        .ok_or_else(bad)?;
    let meta = decode_body("wal checkpoint", body.get(4..end).ok_or_else(bad)?)?;
    Ok((meta, end))
}

/// Encodes the start of a checkpoint's body; entries follow.
pub fn encode_checkpoint_prefix(meta: &MetaBody) -> Vec<u8> {
    let meta = encode_body(meta);
    let mut out = (meta.len() as u32).to_le_bytes().to_vec();
    out.extend_from_slice(&meta);
    out
}

/// What the ledger says: a lower bound of what is durable, and the oldest segment still kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ledger {
    /// Identity of the log.
    pub wal_id: WalId,
    /// Highest sequence known durable when this was written.
    pub durable: u64,
    /// Oldest segment that must be there.
    pub oldest: u64,
    /// Counts up with every writing, so that the newer slot wins.
    pub turn: u64,
}

impl Ledger {
    /// One slot's bytes.
    pub fn encode(&self) -> [u8; LEDGER_SLOT_BYTES] {
        let mut out = [0u8; LEDGER_SLOT_BYTES];
        out[0..8].copy_from_slice(&LEDGER_MAGIC);
        out[8..10].copy_from_slice(&FORMAT_VERSION.to_le_bytes());
        out[12..28].copy_from_slice(&self.wal_id);
        out[28..36].copy_from_slice(&self.durable.to_le_bytes());
        out[36..44].copy_from_slice(&self.oldest.to_le_bytes());
        out[44..52].copy_from_slice(&self.turn.to_le_bytes());
        let crc = crc32fast::hash(&out[..52]);
        out[52..56].copy_from_slice(&crc.to_le_bytes());
        out
    }

    /// Reads one slot.
    ///
    /// # Errors
    /// [`HeaderProblem`] when it is not valid.
    pub fn decode(bytes: &[u8]) -> Result<Self, HeaderProblem> {
        if bytes.len() < LEDGER_SLOT_BYTES
            || bytes[0..8] != LEDGER_MAGIC
            || crc32fast::hash(&bytes[..52]) != u32_at(bytes, 52)
        {
            return Err(HeaderProblem::Invalid);
        }
        let version = u16::from_le_bytes([bytes[8], bytes[9]]);
        if version > FORMAT_VERSION {
            return Err(HeaderProblem::Newer(version));
        }
        let mut wal_id = [0u8; 16];
        wal_id.copy_from_slice(&bytes[12..28]);
        Ok(Self {
            wal_id,
            durable: u64_at(bytes, 28),
            oldest: u64_at(bytes, 36),
            turn: u64_at(bytes, 44),
        })
    }
}

fn u32_at(b: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([b[at], b[at + 1], b[at + 2], b[at + 3]])
}

fn u64_at(b: &[u8], at: usize) -> u64 {
    u64::from(u32_at(b, at)) | (u64::from(u32_at(b, at + 4)) << 32)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn frozen_vectors() {
        let id = [7u8; 16];
        let h = SegmentHeader {
            segment: 3,
            first_seq: 9,
            durable: 8,
            wal_id: id,
        };
        assert_eq!(
            hex::encode(h.encode()),
            "51525457414c0d0a010000000000000003000000000000000900000000000000\
             08000000000000000707070707070707070707070707070700000000"
                .to_owned()
                + &hex::encode(crc32fast::hash(&h.encode()[..60]).to_le_bytes())
        );
        let r = RecordHeader {
            kind: Kind::Vote,
            seq: 9,
            durable: 8,
            group: 2,
            len: 5,
            body_crc: 0x0102_0304,
        };
        assert_eq!(
            hex::encode(&r.encode(&id, 3)[..36]),
            "515245430200000009000000000000000800000000000000020000000500000004030201"
        );
        assert_eq!(RecordHeader::decode(&r.encode(&id, 3), &id, 3), Some(r));
        assert_eq!(
            RecordHeader::decode(&r.encode(&id, 3), &id, 4),
            None,
            "another segment"
        );
        assert_eq!(
            RecordHeader::decode(&r.encode(&id, 3), &[8; 16], 3),
            None,
            "another log"
        );
    }

    #[test]
    fn newer_versions_are_named() {
        let mut b = SegmentHeader {
            segment: 1,
            first_seq: 1,
            durable: 0,
            wal_id: [0; 16],
        }
        .encode();
        b[8] = 9;
        let crc = crc32fast::hash(&b[..60]).to_le_bytes();
        b[60..].copy_from_slice(&crc);
        assert_eq!(SegmentHeader::decode(&b), Err(HeaderProblem::Newer(9)));
    }

    proptest! {
        #[test]
        fn hostile_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = decode_entries(&bytes, 0);
            let _ = decode_entries(&bytes, 7);
            let _ = decode_checkpoint(&bytes);
            let _ = SegmentHeader::decode(&bytes);
            let _ = Ledger::decode(&bytes);
            let _ = RecordHeader::decode(&bytes, &[0; 16], 1);
        }

        #[test]
        fn entries_round_trip(first in 0u64..1000, payloads in proptest::collection::vec(
            proptest::collection::vec(any::<u8>(), 0..50), 0..8)) {
            let mut b = EntriesBody::new(b"xyz");
            for (i, p) in payloads.iter().enumerate() {
                b.push(LogPos { term: 1, node: 2, index: first + i as u64 }, EntryKind::Command, p);
            }
            let (bytes, heads) = b.finish(3);
            let read = decode_entries(&bytes, 3).unwrap();
            prop_assert_eq!(&read, &heads);
            for ((h, at), p) in read.iter().zip(&payloads) {
                prop_assert_eq!(&bytes[*at..at + h.len as usize], &p[..]);
            }
        }

        #[test]
        fn any_flipped_bit_is_noticed(bit in 0usize..RECORD_HEADER_BYTES * 8) {
            let r = RecordHeader { kind: Kind::Entries, seq: 77, durable: 70, group: 1, len: 9, body_crc: 5 };
            let mut b = r.encode(&[3; 16], 5);
            b[bit / 8] ^= 1 << (bit % 8);
            prop_assert_eq!(RecordHeader::decode(&b, &[3; 16], 5), None);
        }
    }
}
