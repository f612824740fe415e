//! Snapshots on their way: a file in chunks, named by the snapshot's id, so
//! that a broken transfer goes on where it stopped.
//!
//! ```text
//!  leader                          follower
//!  Begin{id, len}      ─▶  opens incoming/ID.part, says how much is there
//!  Chunk{offset, data} ─▶  appends, says how much is there   (repeated)
//!  Install{hash, meta} ─▶  checks length and BLAKE3 of the whole, syncs, hands it to raft
//! ```

use super::network::{Answer, AskError, Message, Router, streaming_error, unexpected};
use super::{GroupId, Snapshot, SnapshotFile, TypeConfig, Vote, snapshot};
use openraft::errors::StreamingError;
use openraft::raft::SnapshotResponse;
use quorate_engine::types::NodeId;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// Bytes in one chunk: small beside a frame, so that heartbeats pass between chunks.
pub const CHUNK_BYTES: usize = 1 << 20;
/// No snapshot of one group is larger.
pub const SNAPSHOT_BYTES_MAX: u64 = 1 << 40;
const CHUNK_WAIT_MAX: Duration = Duration::from_secs(10);
/// Checking, syncing and loading the whole state.
const INSTALL_WAIT_MAX: Duration = Duration::from_secs(600);
const PART: &str = "part";

/// Runs file work off the raft threads.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> std::io::Result<T> + Send + 'static,
) -> Result<T, String> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done.map_err(|e| e.to_string()),
        Err(e) => Err(format!("file work stopped: {e}")),
    }
}

fn hash_file(file: &File) -> std::io::Result<[u8; 32]> {
    let mut reader = file;
    reader.seek(SeekFrom::Start(0))?;
    let mut hash = blake3::Hasher::new();
    let mut buffer = vec![0u8; CHUNK_BYTES];
    loop {
        match reader.read(&mut buffer)? {
            0 => return Ok(*hash.finalize().as_bytes()),
            n => hash.update(&buffer[..n]),
        };
    }
}

/// Sends a snapshot to `target` and has it installed.
pub(super) async fn send(
    router: &Router,
    target: NodeId,
    group: GroupId,
    vote: Vote,
    s: Snapshot,
) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
    send_inner(router, target, group, vote, s)
        .await
        .map_err(streaming_error)
}

async fn send_inner(
    router: &Router,
    target: NodeId,
    group: GroupId,
    vote: Vote,
    s: Snapshot,
) -> Result<SnapshotResponse<TypeConfig>, AskError> {
    let SnapshotFile { id, path, len } = s.snapshot;
    // The open file stays readable when a newer snapshot replaces its name.
    let (file, hash) = blocking(move || {
        let file = File::open(&path)?;
        let hash = hash_file(&file)?;
        Ok((Arc::new(file), hash))
    })
    .await
    .map_err(AskError::Answer)?;
    let begin = Message::SnapshotBegin {
        group,
        id: id.clone(),
        len,
    };
    let mut offset = offset_of(router.ask(target, begin, CHUNK_WAIT_MAX).await?)?;
    tracing::info!(group, target, id, len, offset, "sending a snapshot");
    while offset < len {
        let size = usize::try_from(len - offset)
            .unwrap_or(CHUNK_BYTES)
            .min(CHUNK_BYTES);
        let (from, at) = (file.clone(), offset);
        let data = blocking(move || {
            let mut data = vec![0; size];
            from.read_exact_at(&mut data, at)?;
            Ok(data)
        })
        .await
        .map_err(AskError::Answer)?;
        metrics::counter!("quorate_raft_snapshot_sent_bytes_total").increment(size as u64);
        let chunk = Message::SnapshotChunk {
            group,
            id: id.clone(),
            offset,
            data,
        };
        let now = offset_of(router.ask(target, chunk, CHUNK_WAIT_MAX).await?)?;
        if now <= offset || now > len {
            return Err(AskError::Answer(format!(
                "snapshot {id}: at {now} after a chunk at {offset}"
            )));
        }
        offset = now;
    }
    let install = Message::SnapshotInstall {
        group,
        id,
        len,
        hash,
        vote,
        meta: s.meta,
    };
    match router.ask(target, install, INSTALL_WAIT_MAX).await? {
        Answer::Installed(r) => Ok(r),
        other => Err(unexpected(&other)),
    }
}

fn offset_of(answer: Answer) -> Result<u64, AskError> {
    match answer {
        Answer::Offset(at) => Ok(at),
        other => Err(unexpected(&other)),
    }
}

/// A snapshot that is arriving.
#[derive(Debug)]
pub(super) struct Incoming {
    id: String,
    path: PathBuf,
    file: Arc<File>,
    have: u64,
    len: u64,
}

impl Incoming {
    /// Opens or resumes the transfer `id` in `dir`; other unfinished ones are given up.
    pub(super) async fn begin(dir: &Path, id: String, len: u64) -> Result<(Self, u64), String> {
        if !snapshot::is_id(&id) || len > SNAPSHOT_BYTES_MAX {
            return Err(format!("snapshot id or length {len} is not allowed"));
        }
        let path = dir.join(format!("{id}.{PART}"));
        let (dir, at) = (dir.to_owned(), path.clone());
        let (file, have) = blocking(move || {
            for entry in std::fs::read_dir(&dir)? {
                let other = entry?.path();
                if other != at && other.extension().is_some_and(|e| e == PART) {
                    std::fs::remove_file(other)?;
                }
            }
            let file = File::options()
                .create(true)
                .truncate(false)
                .read(true)
                .write(true)
                .open(&at)?;
            let have = file.metadata()?.len();
            if have > len {
                file.set_len(0)?;
                return Ok((file, 0));
            }
            Ok((file, have))
        })
        .await?;
        Ok((
            Self {
                id,
                path,
                file: Arc::new(file),
                have,
                len,
            },
            have,
        ))
    }

    pub(super) fn id(&self) -> &str {
        &self.id
    }

    /// Takes a chunk; a repeated one changes nothing. Says how much is there.
    pub(super) async fn take(&mut self, offset: u64, data: Vec<u8>) -> Result<u64, String> {
        let end = offset
            .checked_add(data.len() as u64)
            .filter(|end| *end <= self.len);
        let Some(end) = end else {
            return Err(format!("snapshot {}: a chunk beyond its length", self.id));
        };
        if offset != self.have {
            return Ok(self.have);
        }
        let file = self.file.clone();
        blocking(move || {
            let mut to = &*file;
            to.seek(SeekFrom::Start(offset))?;
            to.write_all(&data)
        })
        .await?;
        self.have = end;
        Ok(end)
    }

    /// The whole file, checked and durable.
    pub(super) async fn finish(self, len: u64, hash: [u8; 32]) -> Result<SnapshotFile, String> {
        if self.have != len || self.len != len {
            return Err(format!(
                "snapshot {}: {} of {len} bytes are here",
                self.id, self.have
            ));
        }
        let (file, path) = (self.file.clone(), self.path.clone());
        let same = blocking(move || {
            file.sync_all()?;
            let same = hash_file(&file)? == hash;
            if !same {
                std::fs::remove_file(path)?;
            }
            Ok(same)
        })
        .await?;
        if !same {
            return Err(format!(
                "snapshot {}: damaged on its way; begin again",
                self.id
            ));
        }
        Ok(SnapshotFile {
            id: self.id,
            path: self.path,
            len,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_broken_transfer_resumes_and_damage_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let content: Vec<u8> = (0..50_000u32).flat_map(u32::to_le_bytes).collect();
        let len = content.len() as u64;
        let hash = *blake3::hash(&content).as_bytes();
        let id = "0-1-2-3-abc";
        std::fs::write(dir.path().join("0-1-1-1-old.part"), "x").unwrap();
        let (mut first, at) = Incoming::begin(dir.path(), id.into(), len).await.unwrap();
        assert_eq!(at, 0);
        assert!(
            !dir.path().join("0-1-1-1-old.part").exists(),
            "older transfers are given up"
        );
        assert_eq!(
            first.take(0, content[..70_000].to_vec()).await.unwrap(),
            70_000
        );
        assert_eq!(
            first.take(0, content[..70_000].to_vec()).await.unwrap(),
            70_000,
            "repeated"
        );
        assert_eq!(
            first.take(90_000, vec![1]).await.unwrap(),
            70_000,
            "a gap is not taken"
        );
        assert!(first.take(len, vec![1]).await.is_err());
        assert!(first.take(u64::MAX, vec![1]).await.is_err());
        drop(first);
        let (mut second, at) = Incoming::begin(dir.path(), id.into(), len).await.unwrap();
        assert_eq!(at, 70_000, "goes on where it stopped");
        second.take(at, content[70_000..].to_vec()).await.unwrap();
        let done = second.finish(len, hash).await.unwrap();
        assert_eq!(std::fs::read(&done.path).unwrap(), content);

        let (third, _) = Incoming::begin(dir.path(), id.into(), len).await.unwrap();
        let why = third.finish(len, [0; 32]).await.unwrap_err();
        assert!(why.contains("damaged"), "{why}");
        assert!(!done.path.exists(), "and begins from nothing");
        for bad in ["../../etc/passwd", "a/b", ""] {
            assert!(
                Incoming::begin(dir.path(), bad.into(), 1).await.is_err(),
                "{bad}"
            );
        }
    }
}
