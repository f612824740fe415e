//! Subkeys of a data key: one for each purpose, so that no key is used twice.
//!
//! Derived with BLAKE3 in `derive_key` mode (BLAKE3 paper, section 2.3), the
//! label as context. It was chosen over HKDF-SHA-256 because the mode exists
//! for exactly this, the hasher's state can be wiped, and the same primitive
//! gives the keyed digest; the outputs are frozen by vectors that were checked
//! against a second implementation. `check` is such an output too, and is
//! published: BLAKE3 is collision resistant, so it commits to the data key,
//! which the cipher alone does not (two keys can open one ciphertext).

use super::labels;
use crate::types::{DataKey, Secret};
use subtle::ConstantTimeEq;
use zeroize::Zeroize;

/// The subkeys of one data key. Deriving is cheap; hold it no longer than the lease.
#[derive(Debug)]
pub struct Subkeys {
    /// Seals records ([`message`](super::message)).
    pub message: Secret<32>,
    /// Wraps blob keys ([`blob`](super::blob)).
    pub blob_wrap: Secret<32>,
    /// For a search index.
    pub index: Secret<32>,
    /// Keys [`Subkeys::digest`].
    pub digest: Secret<32>,
}

/// `derive_key` with every intermediate state wiped.
pub(crate) fn derive(label: &str, key: &[u8; 32]) -> Secret<32> {
    let mut hasher = blake3::Hasher::new_derive_key(label);
    hasher.update(key);
    let mut reader = hasher.finalize_xof();
    let mut out = Secret::take(&mut [0; 32]);
    reader.fill(out.expose_mut());
    reader.zeroize();
    hasher.zeroize();
    out
}

impl Subkeys {
    /// Derives all.
    pub fn derive(key: &DataKey) -> Self {
        let of = |label| derive(label, key.expose());
        Self {
            message: of(labels::SUBKEY_MESSAGE),
            blob_wrap: of(labels::SUBKEY_BLOB_WRAP),
            index: of(labels::SUBKEY_INDEX),
            digest: of(labels::SUBKEY_DIGEST),
        }
    }

    /// Keyed digest of content: ETag, idempotency, deduplication. An unkeyed
    /// one would let anyone confirm a guess of the content.
    pub fn digest(&self, content: &[u8]) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new_keyed(self.digest.expose());
        hasher.update(content);
        let out = *hasher.finalize().as_bytes();
        hasher.zeroize();
        out
    }
}

/// Commits to the data key of one dealing (`check`): stored in the clear beside the commitments.
pub fn key_check(key: &DataKey) -> [u8; 32] {
    *derive(labels::KEY_CHECK, key.expose()).expose()
}

/// Constant-time check of [`key_check`].
pub fn key_check_holds(key: &DataKey, check: &[u8; 32]) -> bool {
    derive(labels::KEY_CHECK, key.expose())
        .expose()
        .ct_eq(check)
        .into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn key(bytes: [u8; 32]) -> DataKey {
        DataKey(Secret::from_slice(&bytes).unwrap())
    }

    fn outputs(k: &DataKey) -> [[u8; 32]; 5] {
        let s = Subkeys::derive(k);
        [
            *s.message.expose(),
            *s.blob_wrap.expose(),
            *s.index.expose(),
            *s.digest.expose(),
            key_check(k),
        ]
    }

    #[test]
    fn frozen_vectors() {
        let mut bytes = [0; 32];
        for (i, b) in bytes.iter_mut().enumerate() {
            *b = i as u8;
        }
        let k = key(bytes);
        let expected = [
            "c411e9ad0173896deb165284cbf05a037578cb579e00e7454b18716f9420f2cf",
            "5dd012522903f579619cc16f191fb273c0572a04c74fde83ec7b4619d040fcb6",
            "93a3c1575b31965b4f4c4ce0ac5016a3a46e36f393c169fa410303b35714d9d3",
            "268287a2d48c5746565a9803c20824ca793dcd873233159a5c090d30729b0ce9",
            "9ad4ac226209683ed0ebb7caa262f68c67a2fb47c5ebccae9a5802cec7f26765",
        ];
        assert_eq!(outputs(&k).map(hex::encode), expected);
        assert_eq!(
            hex::encode(Subkeys::derive(&k).digest(b"content")),
            "14d8d200d4f5beec770d8bdc49c2f56d5a102af6721df9f5af23466fa0b0fc93"
        );
    }

    proptest! {
        #[test]
        fn outputs_are_all_different_and_follow_the_key(a in any::<[u8; 32]>(), bit in 0usize..256) {
            let mut b = a;
            b[bit / 8] ^= 1 << (bit % 8);
            let mut all: Vec<_> = outputs(&key(a)).into_iter().chain(outputs(&key(b))).collect();
            prop_assert_eq!(outputs(&key(a)), outputs(&key(a)));
            all.push(a);
            all.sort();
            all.dedup();
            prop_assert_eq!(all.len(), 11);
            prop_assert!(key_check_holds(&key(a), &key_check(&key(a))));
            prop_assert!(!key_check_holds(&key(b), &key_check(&key(a))));
        }

        #[test]
        fn digests_are_keyed(content in prop::collection::vec(any::<u8>(), 0..200)) {
            let (a, b) = (Subkeys::derive(&key([1; 32])), Subkeys::derive(&key([2; 32])));
            prop_assert_eq!(a.digest(&content), a.digest(&content));
            prop_assert_ne!(a.digest(&content), b.digest(&content));
            prop_assert_ne!(a.digest(&content), *blake3::hash(&content).as_bytes());
        }
    }
}
