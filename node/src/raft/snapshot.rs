//! Snapshot files: one group's whole state, checksummed, written once.
//!
//! Header with the position and members it stands for, rows in blocks with a
//! CRC each, a trailer with the row count and a BLAKE3 hash of everything
//! before it (`docs/format.md` has the byte tables). A file is written beside
//! its final name, synced, renamed, and the directory synced; it is verified
//! to its last byte before a store is replaced by it.

use super::{GroupId, LogId, SnapshotFile, SnapshotMeta, StoredMembership};
use crate::store::{StoreError, View, walk};
use quorate_engine::types::codec;
use quorate_engine::types::kv::{KvError, Row};
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

/// First bytes of a snapshot file.
pub const MAGIC: [u8; 8] = *b"QRTSNAP\n";
/// Format version that this build writes and the newest it reads.
pub const VERSION: u16 = 1;
/// Extension of finished snapshots.
pub const EXT: &str = "snap";
/// Row bytes gathered before a block is written.
const BLOCK_BYTES: usize = 128 << 10;
/// Largest block that is read, in bytes.
const BLOCK_BYTES_MAX: usize = 64 << 20;
/// Largest encoded position and members, in bytes.
const HEAD_BYTES_MAX: usize = 1 << 20;
const HEAD_FIXED_BYTES: usize = 24;
const HEAD_VERSION: u8 = 1;

/// Why a snapshot file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// The system refused a file operation.
    #[error("snapshot {file}: {source}; check the disk", file = file.display())]
    Io {
        /// The file.
        file: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The bytes are not a whole snapshot.
    #[error("snapshot {file}: {reason}; delete it: the node fetches another from its leader", file = file.display())]
    Damaged {
        /// The file.
        file: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// Written by a newer build.
    #[error("snapshot {file}: format version {version}, this build reads up to {VERSION}; start the newer build again", file = file.display())]
    Newer {
        /// The file.
        file: PathBuf,
        /// Its version.
        version: u16,
    },
    /// The state to be written cannot be read.
    #[error(transparent)]
    State(#[from] KvError),
}

impl From<SnapshotError> for io::Error {
    fn from(e: SnapshotError) -> Self {
        io::Error::other(e)
    }
}

/// What a snapshot, or a store, stands for. Also the record kept beside a store's rows.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Standing {
    /// Last log entry applied.
    pub applied: Option<LogId>,
    /// Last members applied.
    pub members: StoredMembership,
}

impl Standing {
    /// Its bytes.
    pub fn encode(&self) -> Vec<u8> {
        codec::encode(HEAD_VERSION, self)
    }
    /// Reads it.
    ///
    /// # Errors
    /// [`codec::CodecError`] when the bytes are not it.
    pub fn decode(bytes: &[u8]) -> Result<Self, codec::CodecError> {
        codec::decode("applied position", HEAD_VERSION, bytes)
    }
    /// openraft's form.
    pub fn snapshot_meta(&self) -> SnapshotMeta {
        SnapshotMeta {
            last_log_id: self.applied,
            last_membership: self.members.clone(),
        }
    }
}

/// A fresh id for a snapshot of `group` at `standing`.
pub fn new_id(group: GroupId, standing: &Standing) -> String {
    let (term, node, index) = standing.applied.map_or((0, 0, 0), |l| {
        (l.leader_id.term, l.leader_id.node_id, l.index)
    });
    format!(
        "{group}-{term}-{node}-{index}-{:016x}",
        rand::random::<u64>()
    )
}

/// Whether `id` can be a file name.
pub fn is_id(id: &str) -> bool {
    (1..=128).contains(&id.len())
        && id
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
}

struct Hashing<W> {
    to: W,
    hash: blake3::Hasher,
    len: u64,
}

impl<W: Write> Hashing<W> {
    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.hash.update(bytes);
        self.len += bytes.len() as u64;
        self.to.write_all(bytes)
    }
}

/// Writes `view` as a snapshot into `dir` under a temporary name, synced. [`publish`] finishes it.
///
/// # Errors
/// [`SnapshotError`] when the state cannot be read or the file not written.
pub fn write(
    dir: &Path,
    group: GroupId,
    standing: &Standing,
    view: &dyn View,
) -> Result<SnapshotFile, SnapshotError> {
    let id = new_id(group, standing);
    let path = dir.join(format!("{id}.tmp"));
    let io = |source| SnapshotError::Io {
        file: path.clone(),
        source,
    };
    let file = File::create(&path).map_err(io)?;
    let to = BufWriter::with_capacity(BLOCK_BYTES, file);
    let mut out = Hashing {
        to,
        hash: blake3::Hasher::new(),
        len: 0,
    };
    let head = standing.encode();
    let mut fixed = Vec::with_capacity(HEAD_FIXED_BYTES);
    fixed.extend_from_slice(&MAGIC);
    fixed.extend_from_slice(&VERSION.to_le_bytes());
    fixed.extend_from_slice(&[0, 0]);
    fixed.extend_from_slice(&group.to_le_bytes());
    fixed.extend_from_slice(&(head.len() as u32).to_le_bytes());
    let mut crc = crc32fast::Hasher::new();
    crc.update(&fixed);
    crc.update(&head);
    fixed.extend_from_slice(&crc.finalize().to_le_bytes());
    out.put(&fixed).and_then(|()| out.put(&head)).map_err(io)?;
    let (mut block, mut in_block) = (Vec::with_capacity(2 * BLOCK_BYTES), 0u32);
    let rows = walk::<SnapshotError>(view, |k, v| {
        block.extend_from_slice(&(k.len() as u32).to_le_bytes());
        block.extend_from_slice(&(v.len() as u32).to_le_bytes());
        block.extend_from_slice(k);
        block.extend_from_slice(v);
        in_block += 1;
        if block.len() >= BLOCK_BYTES {
            put_block(&mut out, &mut block, &mut in_block).map_err(io)?;
        }
        Ok(())
    })?;
    if !block.is_empty() {
        put_block(&mut out, &mut block, &mut in_block).map_err(io)?;
    }
    out.put(&0u32.to_le_bytes())
        .and_then(|()| out.put(&rows.to_le_bytes()))
        .map_err(io)?;
    let hash = *out.hash.finalize().as_bytes();
    out.put(&hash).map_err(io)?;
    let len = out.len;
    let file = out.to.into_inner().map_err(|e| io(e.into_error()))?;
    fail::fail_point!("snapshot::sync", |_| Err(io(io::Error::other("failpoint"))));
    file.sync_all().map_err(io)?;
    Ok(SnapshotFile { id, path, len })
}

fn put_block<W: Write>(
    out: &mut Hashing<W>,
    block: &mut Vec<u8>,
    rows: &mut u32,
) -> io::Result<()> {
    out.put(&(block.len() as u32).to_le_bytes())?;
    out.put(&rows.to_le_bytes())?;
    out.put(&crc32fast::hash(block).to_le_bytes())?;
    out.put(block)?;
    block.clear();
    *rows = 0;
    Ok(())
}

/// Gives a synced file its final name in `dir`, durably. Copies it when it lies on another file system.
///
/// # Errors
/// [`SnapshotError::Io`].
pub fn publish(dir: &Path, file: SnapshotFile) -> Result<SnapshotFile, SnapshotError> {
    let id = if is_id(&file.id) {
        file.id.clone()
    } else {
        format!("x-{:016x}", rand::random::<u64>())
    };
    let path = dir.join(format!("{id}.{EXT}"));
    let io = |source| SnapshotError::Io {
        file: path.clone(),
        source,
    };
    if file.path != path {
        File::open(&file.path)
            .and_then(|f| f.sync_all())
            .map_err(io)?;
        if std::fs::rename(&file.path, &path).is_err() {
            let tmp = dir.join(format!("{id}.tmp"));
            std::fs::copy(&file.path, &tmp).map_err(io)?;
            File::open(&tmp).and_then(|f| f.sync_all()).map_err(io)?;
            std::fs::rename(&tmp, &path).map_err(io)?;
        }
    }
    File::open(dir).and_then(|d| d.sync_all()).map_err(io)?;
    Ok(SnapshotFile {
        id,
        path,
        len: file.len,
    })
}

/// An open snapshot file, read row chunk by row chunk.
pub struct Reader {
    path: PathBuf,
    from: BufReader<File>,
    hash: blake3::Hasher,
    /// The group it is of.
    pub group: GroupId,
    /// What it stands for.
    pub standing: Standing,
    rows: u64,
    ended: bool,
}

impl Reader {
    /// Opens a file and reads its header.
    ///
    /// # Errors
    /// [`SnapshotError`] when it cannot be read or is not a snapshot of this format.
    pub fn open(path: &Path) -> Result<Self, SnapshotError> {
        let io = |source| SnapshotError::Io {
            file: path.to_owned(),
            source,
        };
        let from = BufReader::with_capacity(BLOCK_BYTES, File::open(path).map_err(io)?);
        let mut r = Self {
            path: path.to_owned(),
            from,
            hash: blake3::Hasher::new(),
            group: 0,
            standing: Standing::default(),
            rows: 0,
            ended: false,
        };
        let fixed: [u8; HEAD_FIXED_BYTES] = r.take()?;
        if fixed[..8] != MAGIC {
            return Err(r.damaged("not a snapshot"));
        }
        let version = u16::from_le_bytes([fixed[8], fixed[9]]);
        if version > VERSION {
            return Err(SnapshotError::Newer {
                file: path.to_owned(),
                version,
            });
        }
        let word = |at: usize| {
            u32::from_le_bytes([fixed[at], fixed[at + 1], fixed[at + 2], fixed[at + 3]])
        };
        let head = r.take_vec(word(16) as usize, HEAD_BYTES_MAX)?;
        let mut crc = crc32fast::Hasher::new();
        crc.update(&fixed[..20]);
        crc.update(&head);
        if crc.finalize() != word(20) {
            return Err(r.damaged("the header does not match its checksum"));
        }
        r.group = word(12);
        r.standing = Standing::decode(&head).map_err(|e| r.damaged(&e.to_string()))?;
        Ok(r)
    }

    fn damaged(&self, reason: &str) -> SnapshotError {
        SnapshotError::Damaged {
            file: self.path.clone(),
            reason: reason.to_owned(),
        }
    }

    fn fill(&mut self, bytes: &mut [u8]) -> Result<(), SnapshotError> {
        self.from.read_exact(bytes).map_err(|e| match e.kind() {
            io::ErrorKind::UnexpectedEof => self.damaged("cut short"),
            _ => SnapshotError::Io {
                file: self.path.clone(),
                source: e,
            },
        })
    }

    fn take<const N: usize>(&mut self) -> Result<[u8; N], SnapshotError> {
        let mut out = [0u8; N];
        self.fill(&mut out)?;
        self.hash.update(&out);
        Ok(out)
    }

    fn take_vec(&mut self, len: usize, max: usize) -> Result<Vec<u8>, SnapshotError> {
        if len > max {
            return Err(self.damaged("a length is over its limit"));
        }
        let mut out = vec![0u8; len];
        self.fill(&mut out)?;
        self.hash.update(&out);
        Ok(out)
    }

    /// The next block's rows; empty at the end, once count and hash were found right.
    ///
    /// # Errors
    /// [`SnapshotError`] when anything does not match.
    pub fn next_rows(&mut self) -> Result<Vec<Row>, SnapshotError> {
        if self.ended {
            return Ok(Vec::new());
        }
        let len = u32::from_le_bytes(self.take()?) as usize;
        if len == 0 {
            return self.finish().map(|()| Vec::new());
        }
        let count = u32::from_le_bytes(self.take()?) as usize;
        let crc = u32::from_le_bytes(self.take()?);
        let body = self.take_vec(len, BLOCK_BYTES_MAX)?;
        if crc32fast::hash(&body) != crc {
            return Err(self.damaged("a block does not match its checksum"));
        }
        let rows =
            split_rows(&body, count).ok_or_else(|| self.damaged("a block's rows do not fit"))?;
        self.rows += rows.len() as u64;
        Ok(rows)
    }

    fn finish(&mut self) -> Result<(), SnapshotError> {
        let rows = u64::from_le_bytes(self.take()?);
        let expected = *self.hash.clone().finalize().as_bytes();
        let mut hash = [0u8; 32];
        self.fill(&mut hash)?;
        if rows != self.rows || hash != expected {
            return Err(self.damaged("row count or hash do not match"));
        }
        let mut more = [0u8; 1];
        if self.from.read(&mut more).unwrap_or(1) != 0 {
            return Err(self.damaged("bytes left over"));
        }
        self.ended = true;
        Ok(())
    }

    /// Reads to the end. Returns the number of rows.
    ///
    /// # Errors
    /// [`SnapshotError`] when anything does not match.
    pub fn verify(mut self) -> Result<u64, SnapshotError> {
        while !self.next_rows()?.is_empty() {}
        Ok(self.rows)
    }
}

impl From<SnapshotError> for StoreError {
    fn from(e: SnapshotError) -> Self {
        let file = match &e {
            SnapshotError::Io { file, .. }
            | SnapshotError::Damaged { file, .. }
            | SnapshotError::Newer { file, .. } => file.clone(),
            SnapshotError::State(_) => PathBuf::new(),
        };
        StoreError::Backend {
            file,
            what: "loading a snapshot",
            reason: e.to_string(),
        }
    }
}

fn split_rows(mut body: &[u8], count: usize) -> Option<Vec<Row>> {
    if count > body.len() / 8 {
        return None;
    }
    let mut rows = Vec::with_capacity(count);
    for _ in 0..count {
        let (k, v) = (body.get(..4)?, body.get(4..8)?);
        let k = u32::from_le_bytes(k.try_into().ok()?) as usize;
        let v = u32::from_le_bytes(v.try_into().ok()?) as usize;
        body = &body[8..];
        rows.push((
            body.get(..k)?.to_vec(),
            body.get(k..k.checked_add(v)?)?.to_vec(),
        ));
        body = &body[k + v..];
    }
    body.is_empty().then_some(rows)
}
