//! A holder of chunks may swap, cut, add or replace them: none of it opens.

use super::*;
use crate::types::DataKey;
use proptest::prelude::*;

const BLOB: BlobId = BlobId([0xb1; 16]);
const CHUNK_BYTES: usize = 16;

fn key(byte: u8) -> BlobKey {
    BlobKey(Secret::from_slice(&[byte; 32]).unwrap())
}

fn nonce(n: usize, round: u8) -> [u8; 24] {
    let mut out = [round; 24];
    out[..8].copy_from_slice(&(n as u64).to_le_bytes());
    out
}

/// An upload: its chunks and its sealed manifest.
fn upload(content: &[u8], round: u8) -> (Vec<Vec<u8>>, Vec<u8>) {
    let pieces: Vec<&[u8]> = if content.is_empty() {
        vec![&[]]
    } else {
        content.chunks(CHUNK_BYTES).collect()
    };
    let chunks: Vec<Vec<u8>> = pieces
        .iter()
        .enumerate()
        .map(|(i, p)| {
            seal_chunk(
                &key(1),
                &BLOB,
                i as u32,
                i + 1 == pieces.len(),
                nonce(i, round),
                p,
            )
        })
        .collect();
    let tags = chunks.iter().map(|c| chunk_tag(c).unwrap()).collect();
    let manifest = Manifest::new(content.len() as u64, CHUNK_BYTES as u32, tags).unwrap();
    (
        chunks,
        manifest.seal(&key(1), &BLOB, nonce(usize::MAX, round)),
    )
}

/// A download as the home does it: exactly the chunks that the manifest lists.
fn download(chunks: &[Vec<u8>], manifest: &[u8]) -> Result<Vec<u8>, BlobError> {
    let manifest = Manifest::open(&key(1), &BLOB, manifest)?;
    let mut out = vec![];
    for i in 0..manifest.chunks() {
        let chunk = chunks.get(i).ok_or(BlobError::Chunk { index: i as u32 })?;
        out.extend_from_slice(&manifest.open_chunk(&key(1), &BLOB, i as u32, chunk)?);
    }
    assert_eq!(out.len() as u64, manifest.length());
    Ok(out)
}

proptest! {
    #[test]
    fn round_trip(content in prop::collection::vec(any::<u8>(), 0..100)) {
        let (chunks, manifest) = upload(&content, 0);
        prop_assert_eq!(download(&chunks, &manifest).unwrap(), content);
    }

    #[test]
    fn swapped_chunks_do_not_open(content in prop::collection::vec(any::<u8>(), 17..100), a in any::<prop::sample::Index>(), b in any::<prop::sample::Index>()) {
        let (mut chunks, manifest) = upload(&content, 0);
        let (a, b) = (a.index(chunks.len()), b.index(chunks.len()));
        prop_assume!(a != b);
        chunks.swap(a, b);
        prop_assert_eq!(download(&chunks, &manifest).unwrap_err(), BlobError::Chunk { index: a.min(b) as u32 });
    }

    #[test]
    fn cut_and_added_chunks_are_noticed(content in prop::collection::vec(any::<u8>(), 17..100), extra in prop::collection::vec(any::<u8>(), 0..17)) {
        let (mut chunks, manifest) = upload(&content, 0);
        let opened = Manifest::open(&key(1), &BLOB, &manifest).unwrap();
        let n = chunks.len() as u32;
        let added = seal_chunk(&key(1), &BLOB, n, true, [9; 24], &extra);
        prop_assert_eq!(
            opened.open_chunk(&key(1), &BLOB, n, &added).unwrap_err(),
            BlobError::NoSuchChunk { index: n, chunks: n as usize }
        );
        let last = chunks.pop().unwrap();
        prop_assert!(download(&chunks, &manifest).is_err());
        // A manifest cut to match cannot be made without the key, and the new
        // last chunk was not sealed as the last.
        let cut = Manifest::new(
            chunks.len() as u64 * CHUNK_BYTES as u64, CHUNK_BYTES as u32,
            chunks.iter().map(|c| chunk_tag(c).unwrap()).collect(),
        ).unwrap();
        let index = chunks.len() as u32 - 1;
        prop_assert_eq!(
            cut.open_chunk(&key(1), &BLOB, index, &chunks[index as usize]).unwrap_err(),
            BlobError::Chunk { index }
        );
        // Part of a chunk.
        chunks.push(last[..last.len() - 1].to_vec());
        prop_assert!(download(&chunks, &manifest).is_err());
    }

    #[test]
    fn a_chunk_sealed_again_opens_under_its_own_manifest_only(content in prop::collection::vec(any::<u8>(), 1..100), at in any::<prop::sample::Index>()) {
        let (first, manifest) = upload(&content, 0);
        let (second, _) = upload(&content, 1);
        let i = at.index(first.len());
        let mut mixed = first;
        // Same key, same index, same content: a valid seal, but not the one listed.
        mixed[i] = second[i].clone();
        prop_assert_eq!(download(&mixed, &manifest).unwrap_err(), BlobError::Chunk { index: i as u32 });
    }

    #[test]
    fn altered_bytes_and_other_keys_do_not_open(content in prop::collection::vec(any::<u8>(), 0..60), at in any::<prop::sample::Index>(), bit in 0u8..8) {
        let (mut chunks, mut manifest) = upload(&content, 0);
        prop_assert_eq!(Manifest::open(&key(2), &BLOB, &manifest).unwrap_err(), BlobError::Manifest);
        prop_assert_eq!(Manifest::open(&key(1), &BlobId([0; 16]), &manifest).unwrap_err(), BlobError::Manifest);
        let opened = Manifest::open(&key(1), &BLOB, &manifest).unwrap();
        prop_assert!(opened.open_chunk(&key(2), &BLOB, 0, &chunks[0]).is_err());
        prop_assert!(opened.open_chunk(&key(1), &BlobId([0; 16]), 0, &chunks[0]).is_err());
        let n = at.index(chunks[0].len());
        chunks[0][n] ^= 1 << bit;
        prop_assert_eq!(download(&chunks, &manifest).unwrap_err(), BlobError::Chunk { index: 0 });
        let n = at.index(manifest.len());
        manifest[n] ^= 1 << bit;
        prop_assert_eq!(download(&chunks, &manifest).unwrap_err(), BlobError::Manifest);
    }

    #[test]
    fn wrapped_keys_open_in_their_place_only(ids in any::<([u8; 16], [u8; 32], [u8; 16], [u8; 16])>(), bit in any::<u32>()) {
        let b = BlobBinding { deployment: DeploymentId(ids.0), chat: ChatId(ids.1), key_id: KeyId(ids.2), blob: BlobId(ids.3) };
        let epoch = |byte| Subkeys::derive(&DataKey(Secret::from_slice(&[byte; 32]).unwrap()));
        let wrapped = wrap_key(&epoch(1), &b, [5; 24], &key(7));
        prop_assert_eq!(*unwrap_key(&epoch(1), &b, &wrapped).unwrap().0.expose(), [7; 32]);
        prop_assert!(unwrap_key(&epoch(2), &b, &wrapped).is_err());
        let mut others = [b; 4];
        let i = bit as usize % 16;
        others[0].deployment.0[i] ^= 1;
        others[1].chat.0[i] ^= 1;
        others[2].key_id.0[i] ^= 1;
        others[3].blob.0[i] ^= 1;
        for other in &others {
            prop_assert_eq!(unwrap_key(&epoch(1), other, &wrapped).unwrap_err(), BlobError::Key);
        }
        let mut bad = wrapped;
        bad[bit as usize % WRAPPED_KEY_LEN] ^= 1 << (bit >> 29);
        prop_assert!(unwrap_key(&epoch(1), &b, &bad).is_err());
    }

    #[test]
    fn only_layouts_that_add_up_exist(length in 0u64..1000, chunk_bytes in 0u32..40, chunks in 0usize..30) {
        let made = Manifest::new(length, chunk_bytes, vec![[0; 16]; chunks]);
        let model = chunk_bytes > 0
            && (chunks == 1 && length <= u64::from(chunk_bytes)
                || chunks > 1
                    && (chunks as u64 - 1) * u64::from(chunk_bytes) < length
                    && length <= chunks as u64 * u64::from(chunk_bytes));
        prop_assert_eq!(made.is_ok(), model);
        if let Ok(m) = made {
            let sum: usize = (0..chunks as u32).map(|i| m.chunk_len(i).unwrap()).sum();
            prop_assert_eq!(sum as u64, length);
            prop_assert_eq!(m.chunk_len(chunks as u32), None);
        }
    }
}

#[test]
fn limits_hold() {
    assert!(Manifest::new(u64::MAX, 1, vec![[0; 16]; 1]).is_err());
    assert!(Manifest::new(1, u32::MAX, vec![[0; 16]; 1]).is_err());
    let over = vec![[0; 16]; CHUNKS_MAX + 1];
    assert!(Manifest::new(CHUNKS_MAX as u64 + 1, 1, over).is_err());
    let huge = vec![0; aead::OVERHEAD + MANIFEST_HEAD_LEN + CHUNKS_MAX * 16 + 1];
    assert_eq!(
        Manifest::open(&key(1), &BLOB, &huge).unwrap_err(),
        BlobError::Manifest
    );
    assert_eq!(chunk_tag(&[0; 39]), None);
}

#[test]
fn frozen_vectors() {
    let chunk = seal_chunk(&key(0xdd), &BLOB, 2, true, [0x55; 24], b"end");
    assert_eq!(
        hex::encode(&chunk),
        "555555555555555555555555555555555555555555555555779b62dbca3b6b01b083577f859012ebae4eca"
    );
    let m = Manifest::new(35, 16, vec![[1; 16], [2; 16], chunk_tag(&chunk).unwrap()]).unwrap();
    assert_eq!(
        hex::encode(m.seal(&key(0xdd), &BLOB, [0x55; 24])),
        "55555555555555555555555555555555555555555555555513d606ac0814f69a2a69ecd04f1e993e8c0e24ce05c9dfcab12b1ba2f40d7e7cf06f1f8abc7275c00251fd84df81b87fc784865669eaad8c3087fbc0f980af28ef3731f760e5dc1f39b73109be"
    );
}
