//! A custodian's root key, sealed to key slots.
//!
//! Every provider (passphrase, operator shares, key file, token) yields 32
//! bytes, the slot's *unlock key*: the seed of an X-Wing key pair. The slot
//! keeps the public half and the root sealed to it. So a node that is open can
//! draw a new root and seal it to all its slots without anybody's passphrase or
//! share, and one ceremony's public half serves every node of the custodian.
//!
//! Whoever may write to the disk could put a public half of his own into a
//! slot and wait for the next root. Therefore the table of slots carries a tag
//! under a key derived from the root, checked whenever the root is opened.

use super::seal::{ENCAPSULATED_LEN, RecipientKey, RecipientPublic, SealError, private};
use super::{aead, fields::Fields, labels, subkeys};
use crate::types::{CustodianId, DeploymentId, NodeId, RootKey, Secret, Share};
use argon2::{Algorithm, Argon2, Block, Params, Version};
use hpke::aead::ExportOnlyAead;
use hpke::kdf::HkdfSha256;
use hpke::kem::XWing;
use hpke::{Deserializable, Kem, OpModeR, OpModeS, Serializable};
use rand_core::CryptoRng;
use serde::{Deserialize, Serialize};
use subtle::ConstantTimeEq;
use zeroize::Zeroize;

/// Bytes of a sealed root beside its encapsulation: 24 nonce, 32 root, 16 tag.
pub const SEALED_ROOT_LEN: usize = 72;
/// Least memory for Argon2id, KiB (OWASP's smallest recommendation).
pub const ARGON_MEMORY_KIB_MIN: u32 = 19 << 10;
/// Most memory for Argon2id, KiB: a stored parameter must not exhaust a machine.
pub const ARGON_MEMORY_KIB_MAX: u32 = 1 << 20;
/// Least passes.
pub const ARGON_PASSES_MIN: u32 = 2;
/// Most passes.
pub const ARGON_PASSES_MAX: u32 = 16;
/// Most lanes.
pub const ARGON_LANES_MAX: u32 = 8;

/// What a sealed root is bound to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlotBinding<'a> {
    /// The deployment.
    pub deployment: &'a DeploymentId,
    /// The custodian.
    pub custodian: &'a CustodianId,
    /// The node.
    pub node: NodeId,
    /// The slot's name.
    pub slot: &'a str,
    /// Which root of this node: it counts up with every new one.
    pub generation: u32,
    /// The provider's parameters, encoded: changed ones do not open.
    pub provider: &'a [u8],
}

impl SlotBinding<'_> {
    fn fields(&self, label: &str) -> Vec<u8> {
        Fields::new(label)
            .add(&self.deployment.0)
            .add(self.custodian.as_str().as_bytes())
            .add(&self.node.to_le_bytes())
            .add(self.slot.as_bytes())
            .add(&self.generation.to_le_bytes())
            .add(self.provider)
            .finish()
    }
}

/// A root sealed to one slot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SealedRoot {
    /// X-Wing encapsulation, 1120 bytes.
    #[serde(with = "serde_bytes")]
    pub encapsulated: Vec<u8>,
    /// Nonce, root, tag: 72 bytes.
    #[serde(with = "serde_bytes")]
    pub sealed: Vec<u8>,
}

/// Why a slot does not give its root.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyslotError {
    /// Not a public half, or not an encapsulation.
    #[error(transparent)]
    Seal(#[from] SealError),
    /// Another unlock key, node, slot, root or parameter, or altered bytes.
    #[error("the slot does not open: the passphrase, shares, file or token are not this slot's")]
    DoesNotOpen,
    /// Parameters out of bounds.
    #[error(
        "Argon2id with {memory_kib} KiB, {passes} passes, {lanes} lanes is out of bounds: {ARGON_MEMORY_KIB_MIN} to {ARGON_MEMORY_KIB_MAX} KiB, {ARGON_PASSES_MIN} to {ARGON_PASSES_MAX} passes, 1 to {ARGON_LANES_MAX} lanes"
    )]
    Argon {
        /// Memory.
        memory_kib: u32,
        /// Passes.
        passes: u32,
        /// Lanes.
        lanes: u32,
    },
}

/// Seals `root` to a slot. `nonce` must be fresh and random.
///
/// # Errors
/// [`KeyslotError::Seal`] when `to` is no public key.
pub fn seal_root<R: CryptoRng + ?Sized>(
    to: &RecipientPublic,
    at: &SlotBinding<'_>,
    root: &RootKey,
    nonce: [u8; 24],
    rng: &mut R,
) -> Result<SealedRoot, KeyslotError> {
    let public = to.parse()?;
    let mut rng = rng;
    let info = at.fields(labels::KEYSLOT_SEAL);
    let (encapsulated, context) = hpke::setup_sender_with_rng::<ExportOnlyAead, HkdfSha256, XWing>(
        &OpModeS::Base,
        &public,
        &info,
        &mut rng,
    )
    .map_err(|_| SealError::BadPublicKey { len: to.0.len() })?;
    let mut key = Secret::<32>::take(&mut [0; 32]);
    context
        .export(labels::KEYSLOT_EXPORT.as_bytes(), key.expose_mut())
        .expect("32 bytes are far below HKDF's limit of 8160");
    let bound = at.fields(labels::KEYSLOT_ROOT);
    Ok(SealedRoot {
        encapsulated: encapsulated.to_bytes().to_vec(),
        sealed: aead::seal(key.expose(), nonce, &bound, root.expose()),
    })
}

/// Reverses [`seal_root`].
///
/// # Errors
/// [`KeyslotError`].
pub fn open_root(
    key: &RecipientKey,
    at: &SlotBinding<'_>,
    sealed: &SealedRoot,
) -> Result<RootKey, KeyslotError> {
    let bad = || SealError::BadEncapsulation {
        len: sealed.encapsulated.len(),
    };
    if sealed.encapsulated.len() != ENCAPSULATED_LEN {
        return Err(bad().into());
    }
    let parsed =
        <XWing as Kem>::EncappedKey::from_bytes(&sealed.encapsulated).map_err(|_| bad())?;
    let info = at.fields(labels::KEYSLOT_SEAL);
    let context = hpke::setup_receiver::<ExportOnlyAead, HkdfSha256, XWing>(
        &OpModeR::Base,
        &private(&key.seed()),
        &parsed,
        &info,
    )
    .map_err(|_| bad())?;
    let mut export = Secret::<32>::take(&mut [0; 32]);
    context
        .export(labels::KEYSLOT_EXPORT.as_bytes(), export.expose_mut())
        .expect("32 bytes are far below HKDF's limit of 8160");
    let bound = at.fields(labels::KEYSLOT_ROOT);
    let mut out = Secret::take(&mut [0; 32]);
    aead::open_into(export.expose(), &bound, &sealed.sealed, out.expose_mut())
        .map_err(|_| KeyslotError::DoesNotOpen)?;
    Ok(RootKey(out))
}

/// Tag of a table of slots, under a key derived from the root.
pub fn table_tag(root: &RootKey, table: &[u8]) -> [u8; 32] {
    let key = subkeys::derive(labels::KEYSLOT_TABLE, root.expose());
    keyed(&key, table)
}

/// Constant-time check of [`table_tag`].
pub fn table_holds(root: &RootKey, table: &[u8], tag: &[u8; 32]) -> bool {
    table_tag(root, table).ct_eq(tag).into()
}

fn keyed(key: &Secret<32>, bytes: &[u8]) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new_keyed(key.expose());
    hasher.update(bytes);
    let out = *hasher.finalize().as_bytes();
    hasher.zeroize();
    out
}

/// The unlock key of a passphrase: Argon2id (RFC 9106), 32 bytes.
///
/// # Errors
/// [`KeyslotError::Argon`] before any work when the parameters are out of bounds.
pub fn passphrase_key(
    passphrase: &[u8],
    salt: &[u8; 16],
    memory_kib: u32,
    passes: u32,
    lanes: u32,
) -> Result<Secret<32>, KeyslotError> {
    let argon = |_| KeyslotError::Argon {
        memory_kib,
        passes,
        lanes,
    };
    let bounded = (ARGON_MEMORY_KIB_MIN..=ARGON_MEMORY_KIB_MAX).contains(&memory_kib)
        && (ARGON_PASSES_MIN..=ARGON_PASSES_MAX).contains(&passes)
        && (1..=ARGON_LANES_MAX).contains(&lanes);
    if !bounded {
        return Err(argon(()));
    }
    let params = Params::new(memory_kib, passes, lanes, Some(32)).map_err(|_| argon(()))?;
    let mut blocks = vec![Block::default(); params.block_count()];
    let mut out = Secret::take(&mut [0; 32]);
    let done = Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
        .hash_password_into_with_memory(passphrase, salt, out.expose_mut(), &mut blocks);
    blocks.iter_mut().for_each(Zeroize::zeroize);
    done.map_err(|_| argon(()))?;
    Ok(out)
}

/// Commitment to one holder's share of a slot's unlock key: it says whose
/// share is wrong before anything is combined.
pub fn share_commitment(ceremony: &[u8; 16], holder: &CustodianId, share: &Share) -> [u8; 32] {
    let mut bytes = Fields::new(labels::KEYSLOT_SHARE)
        .add(ceremony)
        .add(holder.as_str().as_bytes())
        .add(share.expose())
        .finish();
    let out = blake3::derive_key(labels::KEYSLOT_SHARE, &bytes);
    bytes.zeroize();
    out
}

/// Constant-time check of [`share_commitment`].
pub fn share_holds(
    ceremony: &[u8; 16],
    holder: &CustodianId,
    share: &Share,
    expected: &[u8; 32],
) -> bool {
    share_commitment(ceremony, holder, share)
        .ct_eq(expected)
        .into()
}

/// What only the holder of a share can say to a ceremony's challenge.
pub fn possession(
    ceremony: &[u8; 16],
    holder: &CustodianId,
    challenge: &[u8; 32],
    share: &Share,
) -> [u8; 32] {
    let key = subkeys::derive(labels::KEYSLOT_PROOF, share.expose());
    let bytes = Fields::new(labels::KEYSLOT_PROOF)
        .add(ceremony)
        .add(holder.as_str().as_bytes())
        .add(challenge)
        .finish();
    keyed(&key, &bytes)
}

/// What only a node that has the key version can say to another node's challenge.
pub fn key_held(
    key: &Secret<32>,
    from: NodeId,
    to: NodeId,
    kind: &str,
    version: u32,
    challenge: &[u8; 32],
) -> [u8; 32] {
    let derived = subkeys::derive(labels::KEY_HELD, key.expose());
    let bytes = Fields::new(labels::KEY_HELD)
        .add(&from.to_le_bytes())
        .add(&to.to_le_bytes())
        .add(kind.as_bytes())
        .add(&version.to_le_bytes())
        .add(challenge)
        .finish();
    keyed(&derived, &bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rand::SeedableRng;
    use rand_chacha::ChaCha20Rng;

    fn secret(byte: u8) -> Secret<32> {
        Secret::take(&mut [byte; 32])
    }
    fn ch() -> CustodianId {
        CustodianId::new("ch").unwrap()
    }

    #[test]
    fn a_root_opens_in_its_slot_and_nowhere_else() {
        let (deployment, custodian) = (DeploymentId([1; 16]), ch());
        let at = SlotBinding {
            deployment: &deployment,
            custodian: &custodian,
            node: 1,
            slot: "main",
            generation: 3,
            provider: b"p",
        };
        let mut rng = ChaCha20Rng::seed_from_u64(1);
        let key = RecipientKey::from_seed(&secret(4));
        let root = RootKey(secret(9));
        let sealed = seal_root(&key.public(), &at, &root, [7; 24], &mut rng).unwrap();
        assert_eq!(sealed.sealed.len(), SEALED_ROOT_LEN);
        assert_eq!(open_root(&key, &at, &sealed).unwrap().expose(), &[9; 32]);
        let other = CustodianId::new("is").unwrap();
        let d2 = DeploymentId([2; 16]);
        let elsewhere = [
            SlotBinding {
                deployment: &d2,
                ..at.clone()
            },
            SlotBinding {
                custodian: &other,
                ..at.clone()
            },
            SlotBinding {
                node: 2,
                ..at.clone()
            },
            SlotBinding {
                slot: "mai",
                ..at.clone()
            },
            SlotBinding {
                generation: 4,
                ..at.clone()
            },
            SlotBinding {
                provider: b"q",
                ..at.clone()
            },
        ];
        for b in elsewhere {
            assert_eq!(
                open_root(&key, &b, &sealed).unwrap_err(),
                KeyslotError::DoesNotOpen
            );
        }
        let wrong = RecipientKey::from_seed(&secret(5));
        assert!(open_root(&wrong, &at, &sealed).is_err());
        for n in 0..SEALED_ROOT_LEN {
            let mut bad = sealed.clone();
            bad.sealed[n] ^= 1;
            assert!(open_root(&key, &at, &bad).is_err());
        }
        let mut bad = sealed.clone();
        bad.encapsulated.pop();
        assert!(open_root(&key, &at, &bad).is_err());
    }

    #[test]
    fn argon2id_agrees_with_a_second_implementation() {
        // printf "correct horse battery" | argon2 UUUUUUUUUUUUUUUU -id -t 2 -k 19456 -p 1 -l 32 -r
        let key = passphrase_key(b"correct horse battery", &[0x55; 16], 19 << 10, 2, 1).unwrap();
        assert_eq!(
            hex::encode(key.expose()),
            "e70a8a181e0cc147698e792518d7458616c3fca5330c5643e2f7aa3205be83aa"
        );
        for (m, t, p) in [
            (1 << 10, 2, 1),
            (2 << 20, 2, 1),
            (19 << 10, 1, 1),
            (19 << 10, 17, 1),
            (19 << 10, 2, 0),
            (19 << 10, 2, 9),
        ] {
            assert!(matches!(
                passphrase_key(b"x", &[0; 16], m, t, p),
                Err(KeyslotError::Argon { .. })
            ));
        }
    }

    #[test]
    fn a_proof_of_a_key_is_of_one_key_both_nodes_version_and_challenge() {
        let of = |key: u8, from, to, kind, version, c: u8| {
            key_held(&secret(key), from, to, kind, version, &[c; 32])
        };
        let said = of(1, 2, 3, "wrapping", 4, 5);
        assert_eq!(said, of(1, 2, 3, "wrapping", 4, 5));
        for other in [
            of(9, 2, 3, "wrapping", 4, 5),
            of(1, 3, 2, "wrapping", 4, 5),
            of(1, 2, 2, "wrapping", 4, 5),
            of(1, 2, 3, "sealing", 4, 5),
            of(1, 2, 3, "wrapping", 5, 5),
            of(1, 2, 3, "wrapping", 4, 6),
        ] {
            assert_ne!(said, other);
        }
    }

    #[test]
    fn frozen_vectors() {
        let share = Share(secret(0x77));
        assert_eq!(
            hex::encode(share_commitment(&[0x11; 16], &ch(), &share)),
            "201eaf4c334eb00a4d7cc5939b353823d3ca1d0ded3dc2f1e3b3b53013af835c"
        );
        assert_eq!(
            hex::encode(possession(&[0x11; 16], &ch(), &[0x22; 32], &share)),
            "98af88abb4515da6c90a2675d746d635c10abf4325805c2046e575987c23ec23"
        );
        assert_eq!(
            hex::encode(table_tag(&RootKey(secret(0x88)), b"table")),
            "1a944474725ec7ea1d9c664dbd4a90a50fcc0123d76c6caedea45c46a71ac8e2"
        );
    }

    proptest! {
        #[test]
        fn proofs_are_of_one_share_ceremony_holder_and_challenge(a in any::<[u8; 32]>(), bit in 0usize..128) {
            let (share, ceremony) = (Share(Secret::from_slice(&a).unwrap()), [3; 16]);
            let proof = possession(&ceremony, &ch(), &[1; 32], &share);
            let mut other = ceremony;
            other[bit / 8] ^= 1 << (bit % 8);
            prop_assert_ne!(proof, possession(&other, &ch(), &[1; 32], &share));
            prop_assert_ne!(proof, possession(&ceremony, &ch(), &[2; 32], &share));
            prop_assert!(share_holds(&ceremony, &ch(), &share, &share_commitment(&ceremony, &ch(), &share)));
            prop_assert!(!share_holds(&other, &ch(), &share, &share_commitment(&ceremony, &ch(), &share)));
        }
    }
}
