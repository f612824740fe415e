//! Sealing of records: a chat's profile and its messages.
//!
//! XChaCha20-Poly1305 under the `message` subkey with a fresh random nonce. The
//! associated data binds deployment, chat, message id, revision, key id, kind
//! and format version, each length-prefixed: a record that was moved to another
//! chat, renumbered, rolled back to another revision or relabelled does not open.

use super::{aead, fields::Fields, labels};
use crate::crypto::subkeys::Subkeys;
use crate::types::{ChatId, DeploymentId, KeyId, MessageId, Revision};

/// Format version of a sealed record; part of what it is bound to.
pub const RECORD_VERSION: u8 = 1;
/// What sealing adds to a plaintext, in bytes: nonce and tag.
pub const RECORD_OVERHEAD: usize = aead::OVERHEAD;

/// What kind of record a ciphertext is; bound into it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum RecordKind {
    /// A chat's profile (message 0).
    Profile,
    /// A message.
    Message,
}

impl RecordKind {
    /// The byte that stands for it in the associated data. Never renumbered.
    fn byte(self) -> u8 {
        match self {
            RecordKind::Profile => 0,
            RecordKind::Message => 1,
        }
    }
}

/// Everything a sealed record is bound to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordBinding {
    /// The deployment it belongs to.
    pub deployment: DeploymentId,
    /// The chat it stands in.
    pub chat: ChatId,
    /// Its number there.
    pub message: MessageId,
    /// Its revision.
    pub revision: Revision,
    /// The dealing whose data key seals it.
    pub key_id: KeyId,
    /// What it is.
    pub kind: RecordKind,
}

impl RecordBinding {
    /// The associated data (`docs/format.md`).
    fn associated_data(&self) -> Vec<u8> {
        Fields::new(labels::RECORD)
            .add(&[RECORD_VERSION])
            .add(&self.deployment.0)
            .add(&self.chat.0)
            .add(&self.message.to_le_bytes())
            .add(&self.revision.to_le_bytes())
            .add(&self.key_id.0)
            .add(&[self.kind.byte()])
            .finish()
    }
}

/// A record does not open: wrong key, moved, renumbered or altered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the record does not open under its key and place")]
pub struct OpenError;

/// Seals: 24-byte nonce, ciphertext, 16-byte tag. `nonce` must be fresh and random.
pub fn seal(keys: &Subkeys, binding: &RecordBinding, nonce: [u8; 24], plaintext: &[u8]) -> Vec<u8> {
    aead::seal(
        keys.message.expose(),
        nonce,
        &binding.associated_data(),
        plaintext,
    )
}

/// Opens what [`seal`] made.
///
/// # Errors
/// [`OpenError`] for anything that was not sealed under this key and binding.
pub fn open(
    keys: &Subkeys,
    binding: &RecordBinding,
    sealed: &[u8],
) -> Result<zeroize::Zeroizing<Vec<u8>>, OpenError> {
    aead::open(keys.message.expose(), &binding.associated_data(), sealed).map_err(|_| OpenError)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{DataKey, Secret};
    use proptest::prelude::*;

    fn keys(byte: u8) -> Subkeys {
        Subkeys::derive(&DataKey(Secret::from_slice(&[byte; 32]).unwrap()))
    }

    fn binding() -> impl Strategy<Value = RecordBinding> {
        (
            any::<[u8; 16]>(),
            any::<[u8; 32]>(),
            any::<u64>(),
            any::<u32>(),
            any::<[u8; 16]>(),
            any::<bool>(),
        )
            .prop_map(|(d, c, message, revision, k, profile)| RecordBinding {
                deployment: DeploymentId(d),
                chat: ChatId(c),
                message,
                revision,
                key_id: KeyId(k),
                kind: if profile {
                    RecordKind::Profile
                } else {
                    RecordKind::Message
                },
            })
    }

    /// Every binding that differs from `b` in exactly one field, by one bit.
    fn neighbours(b: RecordBinding, bit: u32) -> Vec<RecordBinding> {
        let flip = |bytes: &mut [u8]| {
            let n = bit as usize % (bytes.len() * 8);
            bytes[n / 8] ^= 1 << (n % 8);
        };
        let mut all = vec![b; 6];
        flip(&mut all[0].deployment.0);
        flip(&mut all[1].chat.0);
        all[2].message ^= 1 << (bit % 64);
        all[3].revision ^= 1 << (bit % 32);
        flip(&mut all[4].key_id.0);
        all[5].kind = match b.kind {
            RecordKind::Profile => RecordKind::Message,
            RecordKind::Message => RecordKind::Profile,
        };
        all
    }

    proptest! {
        #[test]
        fn opens_in_its_place_and_nowhere_else(
            b in binding(),
            nonce in any::<[u8; 24]>(),
            text in prop::collection::vec(any::<u8>(), 0..300),
            bit in any::<u32>(),
        ) {
            let sealed = seal(&keys(1), &b, nonce, &text);
            prop_assert_eq!(sealed.len(), text.len() + RECORD_OVERHEAD);
            prop_assert_eq!(&**open(&keys(1), &b, &sealed).unwrap(), &text[..]);
            prop_assert!(open(&keys(2), &b, &sealed).is_err());
            for other in neighbours(b, bit) {
                prop_assert_eq!(open(&keys(1), &other, &sealed).unwrap_err(), OpenError);
            }
        }

        #[test]
        fn an_altered_record_does_not_open(
            b in binding(),
            text in prop::collection::vec(any::<u8>(), 0..100),
            at in any::<prop::sample::Index>(),
            bit in 0u8..8,
        ) {
            let sealed = seal(&keys(1), &b, [9; 24], &text);
            let mut bad = sealed.clone();
            bad[at.index(sealed.len())] ^= 1 << bit;
            prop_assert!(open(&keys(1), &b, &bad).is_err());
            prop_assert!(open(&keys(1), &b, &sealed[..at.index(sealed.len())]).is_err());
            bad = sealed.clone();
            bad.push(0);
            prop_assert!(open(&keys(1), &b, &bad).is_err());
        }
    }

    #[test]
    fn frozen_vector() {
        let b = RecordBinding {
            deployment: DeploymentId([0x11; 16]),
            chat: ChatId([0x22; 32]),
            message: 7,
            revision: 1,
            key_id: KeyId([0x33; 16]),
            kind: RecordKind::Message,
        };
        assert_eq!(
            hex::encode(b.associated_data()),
            "1000000071756f726174652f7265636f72642f3101000000011000000011111111111111111111111111111111200000002222222222222222222222222222222222222222222222222222222222222222080000000700000000000000040000000100000010000000333333333333333333333333333333330100000001"
        );
        assert_eq!(
            hex::encode(seal(&keys(0x44), &b, [0x55; 24], b"hello")),
            "5555555555555555555555555555555555555555555555550bc87afdcb5a61a954a524a248e81f3f9f6e49193a"
        );
    }
}
