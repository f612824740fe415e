//! Large objects, chunk by chunk.
//!
//! Each chunk is XChaCha20-Poly1305 with a fresh random nonce stored beside it
//! and the associated data (blob id, index, last). A counter construction such
//! as STREAM (Hoang, Reyhanitabar, Rogaway, Vizár 2015) is avoided on purpose:
//! an upload that resumes may seal different bytes for the same index, which
//! under a counter nonce would reveal both. The price is that two valid chunks
//! can exist for one index; so the sealed [`Manifest`] lists the length and
//! every chunk's tag, and only the chunk it lists opens. The flag for the last
//! chunk makes a cut visible even before the manifest is there.
//!
//! The blob key is random, one per blob, and wrapped under the `blob-wrap`
//! subkey of an epoch's data key.

use super::{aead, fields::Fields, labels, subkeys::Subkeys};
use crate::types::{BlobId, ChatId, DeploymentId, KeyId, Secret};
use rand_core::CryptoRng;
use std::fmt;
use subtle::ConstantTimeEq;

/// Largest plaintext of one chunk, in bytes.
pub const CHUNK_BYTES_MAX: usize = 4 << 20;
/// Most chunks of one blob: bounds a manifest at 1 MiB of tags.
pub const CHUNKS_MAX: usize = 1 << 16;
/// Bytes of a wrapped blob key: 24 nonce, 32 key, 16 tag.
pub const WRAPPED_KEY_LEN: usize = 72;
/// Bytes of a manifest's plaintext before the tags.
const MANIFEST_HEAD_LEN: usize = 1 + 8 + 4;
const MANIFEST_VERSION: u8 = 1;

/// The key of one blob.
pub struct BlobKey(pub Secret<32>);

impl BlobKey {
    /// Fresh random bytes.
    pub fn generate<R: CryptoRng + ?Sized>(rng: &mut R) -> Self {
        Self(Secret::generate(rng))
    }
}
impl fmt::Debug for BlobKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("BlobKey(..)")
    }
}

/// Where a blob key belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlobBinding {
    /// The deployment.
    pub deployment: DeploymentId,
    /// The chat.
    pub chat: ChatId,
    /// The dealing whose data key wraps it.
    pub key_id: KeyId,
    /// The blob.
    pub blob: BlobId,
}

/// Why a part of a blob does not open.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BlobError {
    /// The wrapped key does not open under this data key and place.
    #[error("the blob's key does not open under this data key and place")]
    Key,
    /// The manifest is not this blob's, or was altered.
    #[error("the blob's manifest does not open or contradicts itself")]
    Manifest,
    /// A chunk beyond the last one.
    #[error("chunk {index} does not exist: the blob has {chunks}")]
    NoSuchChunk {
        /// The index asked for.
        index: u32,
        /// How many chunks there are.
        chunks: usize,
    },
    /// A chunk other than the one the manifest lists, or altered.
    #[error("chunk {index} is not the one that the manifest lists: fetch it from another holder")]
    Chunk {
        /// Its index.
        index: u32,
    },
    /// Not a layout of chunks: each but the last must be full, within the limits.
    #[error("{length} bytes in {chunks} chunks of {chunk_bytes} is not a layout within the limits")]
    Layout {
        /// Bytes in all.
        length: u64,
        /// Bytes of a full chunk.
        chunk_bytes: u32,
        /// Chunks listed.
        chunks: usize,
    },
}

fn key_associated_data(b: &BlobBinding) -> Vec<u8> {
    Fields::new(labels::BLOB_KEY)
        .add(&b.deployment.0)
        .add(&b.chat.0)
        .add(&b.key_id.0)
        .add(&b.blob.0)
        .finish()
}

/// Wraps a blob's key under the epoch's `blob-wrap` subkey. `nonce` must be fresh and random.
pub fn wrap_key(
    keys: &Subkeys,
    b: &BlobBinding,
    nonce: [u8; 24],
    key: &BlobKey,
) -> [u8; WRAPPED_KEY_LEN] {
    aead::seal(
        keys.blob_wrap.expose(),
        nonce,
        &key_associated_data(b),
        key.0.expose(),
    )
    .try_into()
    .expect("a key is 32 bytes and sealing adds 40")
}

/// Reverses [`wrap_key`].
///
/// # Errors
/// [`BlobError::Key`].
pub fn unwrap_key(keys: &Subkeys, b: &BlobBinding, wrapped: &[u8]) -> Result<BlobKey, BlobError> {
    let mut out = Secret::take(&mut [0; 32]);
    aead::open_into(
        keys.blob_wrap.expose(),
        &key_associated_data(b),
        wrapped,
        out.expose_mut(),
    )
    .map_err(|_| BlobError::Key)?;
    Ok(BlobKey(out))
}

fn chunk_associated_data(blob: &BlobId, index: u32, last: bool) -> Vec<u8> {
    Fields::new(labels::BLOB_CHUNK)
        .add(&blob.0)
        .add(&index.to_le_bytes())
        .add(&[u8::from(last)])
        .finish()
}

/// Seals one chunk to `nonce ‖ ciphertext ‖ tag`. `nonce` must be fresh and
/// random, also when the same chunk is sealed again after a resume.
///
/// # Panics
/// For a chunk over [`CHUNK_BYTES_MAX`]: the caller cuts.
pub fn seal_chunk(
    key: &BlobKey,
    blob: &BlobId,
    index: u32,
    last: bool,
    nonce: [u8; 24],
    plaintext: &[u8],
) -> Vec<u8> {
    assert!(
        plaintext.len() <= CHUNK_BYTES_MAX,
        "the caller cuts into chunks"
    );
    aead::seal(
        key.0.expose(),
        nonce,
        &chunk_associated_data(blob, index, last),
        plaintext,
    )
}

/// The tag of a sealed chunk, for the manifest; `None` when it is too short to be one.
pub fn chunk_tag(sealed: &[u8]) -> Option<[u8; 16]> {
    if sealed.len() < aead::OVERHEAD {
        return None;
    }
    sealed.last_chunk().copied()
}

/// What a blob consists of. Exists only if its layout adds up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    length: u64,
    chunk_bytes: u32,
    tags: Vec<[u8; 16]>,
}

impl Manifest {
    /// `length` bytes in chunks of `chunk_bytes` (the last may be shorter), with
    /// the tag of each. An empty blob has one empty chunk.
    ///
    /// # Errors
    /// [`BlobError::Layout`].
    pub fn new(length: u64, chunk_bytes: u32, tags: Vec<[u8; 16]>) -> Result<Self, BlobError> {
        let chunks = tags.len();
        let expected = match chunk_bytes {
            0 => 0,
            n => length.div_ceil(u64::from(n)).max(1),
        };
        if chunks as u64 != expected
            || chunks == 0
            || chunks > CHUNKS_MAX
            || chunk_bytes as usize > CHUNK_BYTES_MAX
        {
            return Err(BlobError::Layout {
                length,
                chunk_bytes,
                chunks,
            });
        }
        Ok(Self {
            length,
            chunk_bytes,
            tags,
        })
    }

    /// Bytes of the whole object.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// Bytes of a full chunk.
    pub fn chunk_bytes(&self) -> u32 {
        self.chunk_bytes
    }

    /// How many chunks there are; at least one.
    pub fn chunks(&self) -> usize {
        self.tags.len()
    }

    /// Bytes of chunk `index`; `None` beyond the last.
    pub fn chunk_len(&self, index: u32) -> Option<usize> {
        let last = self.tags.len() - 1;
        let full = u64::from(self.chunk_bytes);
        match (index as usize).cmp(&last) {
            std::cmp::Ordering::Less => Some(self.chunk_bytes as usize),
            std::cmp::Ordering::Equal => Some((self.length - full * last as u64) as usize),
            std::cmp::Ordering::Greater => None,
        }
    }

    /// Seals it under the blob's key. `nonce` must be fresh and random.
    pub fn seal(&self, key: &BlobKey, blob: &BlobId, nonce: [u8; 24]) -> Vec<u8> {
        let mut plain = Vec::with_capacity(MANIFEST_HEAD_LEN + self.tags.len() * 16);
        plain.push(MANIFEST_VERSION);
        plain.extend_from_slice(&self.length.to_le_bytes());
        plain.extend_from_slice(&self.chunk_bytes.to_le_bytes());
        plain.extend_from_slice(self.tags.as_flattened());
        aead::seal(
            key.0.expose(),
            nonce,
            &manifest_associated_data(blob),
            &plain,
        )
    }

    /// Opens what [`Manifest::seal`] made.
    ///
    /// # Errors
    /// [`BlobError::Manifest`], or [`BlobError::Layout`] for one that was sealed with numbers that do not add up.
    pub fn open(key: &BlobKey, blob: &BlobId, sealed: &[u8]) -> Result<Self, BlobError> {
        if sealed.len() > aead::OVERHEAD + MANIFEST_HEAD_LEN + CHUNKS_MAX * 16 {
            return Err(BlobError::Manifest);
        }
        let plain = aead::open(key.0.expose(), &manifest_associated_data(blob), sealed)
            .map_err(|_| BlobError::Manifest)?;
        let (version, rest) = plain.split_first().ok_or(BlobError::Manifest)?;
        let (length, rest) = rest.split_first_chunk::<8>().ok_or(BlobError::Manifest)?;
        let (chunk_bytes, rest) = rest.split_first_chunk::<4>().ok_or(BlobError::Manifest)?;
        let (tags, left) = rest.as_chunks::<16>();
        if *version != MANIFEST_VERSION || !left.is_empty() {
            return Err(BlobError::Manifest);
        }
        Self::new(
            u64::from_le_bytes(*length),
            u32::from_le_bytes(*chunk_bytes),
            tags.to_vec(),
        )
    }

    /// Opens chunk `index`, which must be the very one listed here.
    ///
    /// # Errors
    /// [`BlobError::NoSuchChunk`], [`BlobError::Chunk`].
    pub fn open_chunk(
        &self,
        key: &BlobKey,
        blob: &BlobId,
        index: u32,
        sealed: &[u8],
    ) -> Result<zeroize::Zeroizing<Vec<u8>>, BlobError> {
        let chunks = self.tags.len();
        let len = self
            .chunk_len(index)
            .ok_or(BlobError::NoSuchChunk { index, chunks })?;
        let wrong = BlobError::Chunk { index };
        let tag = chunk_tag(sealed).ok_or(wrong.clone())?;
        if sealed.len() != len + aead::OVERHEAD
            || !bool::from(tag.ct_eq(&self.tags[index as usize]))
        {
            return Err(wrong);
        }
        let last = index as usize + 1 == chunks;
        aead::open(
            key.0.expose(),
            &chunk_associated_data(blob, index, last),
            sealed,
        )
        .map_err(|_| wrong)
    }
}

fn manifest_associated_data(blob: &BlobId) -> Vec<u8> {
    Fields::new(labels::BLOB_MANIFEST).add(&blob.0).finish()
}

#[cfg(test)]
#[path = "blob_tests.rs"]
mod tests;
