//! Shares on their way: batch sealing by hybrid HPKE (RFC 9180, base mode,
//! export only; KEM X-Wing = X25519 with ML-KEM-768, KDF HKDF-SHA-256).
//!
//! One encapsulation serves many shares. HPKE's own sequence of nonces is not
//! used: it would force an order. Instead each share has a key of its own,
//! `Export(key id, leaf)`, under which it is sealed with a random nonce, so
//! shares open in any order, any number of times, and by a later leader of the
//! sender that only kept the ciphertext. An encapsulation holds as long as
//! *either* X25519 or ML-KEM-768 does.
//!
//! The KEM rejects implicitly: a wrong key or a garbled encapsulation gives a
//! [`Receiver`] whose shares do not open, not an error at once.

use super::{aead, fields::Fields, labels};
use crate::types::{ChatId, CustodianId, DeploymentId, KeyId, PolicyId, Secret, Share};
use hpke::aead::{AeadCtxR, AeadCtxS, ExportOnlyAead};
use hpke::kdf::HkdfSha256;
use hpke::kem::XWing;
use hpke::{Deserializable, Kem, OpModeR, OpModeS, Serializable};
use rand_core::CryptoRng;
use std::fmt;

/// Bytes of a recipient's public key.
pub const PUBLIC_LEN: usize = 1216;
/// Bytes of an encapsulation.
pub const ENCAPSULATED_LEN: usize = 1120;
/// Bytes of a sealed share: 24 nonce, 32 share, 16 tag.
pub const SEALED_LEN: usize = 72;

/// What a sealed or wrapped share is bound to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShareBinding {
    /// The deployment.
    pub deployment: DeploymentId,
    /// The custodian; also the leaf.
    pub custodian: CustodianId,
    /// The chat whose key it is.
    pub chat: ChatId,
    /// The dealing.
    pub key_id: KeyId,
    /// The policy it was dealt under.
    pub policy: PolicyId,
}

impl ShareBinding {
    /// The leaf of the access structure. A custodian stands in a policy once,
    /// so its id names the leaf; bound as a field of its own all the same.
    fn leaf(&self) -> &[u8] {
        self.custodian.as_str().as_bytes()
    }

    /// Appends deployment, custodian, chat, key id, leaf, policy, in this order.
    pub(crate) fn append_to(&self, fields: Fields) -> Fields {
        fields
            .add(&self.deployment.0)
            .add(self.custodian.as_str().as_bytes())
            .add(&self.chat.0)
            .add(&self.key_id.0)
            .add(self.leaf())
            .add(&self.policy.0)
    }
}

/// Extra context of a release: who asked, under what authority, for which lease key.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct ReleaseBinding {
    /// Hash of the authority (grant, order, or peer certificate for now).
    pub authority: [u8; 32],
    /// The home node that asked.
    pub node: u64,
    /// [`RecipientPublic::hash`] of the lease key.
    pub lease_key: [u8; 32],
}

/// Why a share cannot be sealed or opened.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    /// Not a public key of this scheme: the recipient's statement is damaged or forged.
    #[error("the recipient's key is not an X-Wing public key of {PUBLIC_LEN} bytes (it has {len})")]
    BadPublicKey {
        /// Bytes it has.
        len: usize,
    },
    /// Not an encapsulation of this scheme.
    #[error("the encapsulation is not one of {ENCAPSULATED_LEN} bytes (it has {len})")]
    BadEncapsulation {
        /// Bytes it has.
        len: usize,
    },
    /// The sealed share is not for this key, context and binding, or was altered.
    #[error("the sealed share does not open under its key and place")]
    DoesNotOpen,
}

/// A recipient's key pair: a custodian's sealing key version or a home node's lease key.
pub struct RecipientKey {
    seed: Secret<32>,
    public: RecipientPublic,
}

/// The public half, as bytes on the wire (X-Wing: 1216 bytes).
#[derive(Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct RecipientPublic(#[serde(with = "serde_bytes")] pub Vec<u8>);

impl fmt::Debug for RecipientPublic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RecipientPublic({}..)", hex::encode(&self.hash()[..8]))
    }
}
impl fmt::Debug for RecipientKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RecipientKey({:?})", self.public)
    }
}

impl RecipientKey {
    /// Fresh.
    pub fn generate<R: CryptoRng + ?Sized>(rng: &mut R) -> Self {
        Self::from_seed(&Secret::generate(rng))
    }

    /// From its 32-byte seed, as a vault stores it. The seed is the X-Wing
    /// decapsulation key (draft-connolly-cfrg-xwing-kem, section 5.2).
    pub fn from_seed(seed: &Secret<32>) -> Self {
        let public = XWing::sk_to_pk(&private(seed)).to_bytes().to_vec();
        Self {
            seed: seed.duplicate(),
            public: RecipientPublic(public),
        }
    }

    /// The seed, for the vault.
    pub fn seed(&self) -> Secret<32> {
        self.seed.duplicate()
    }

    /// The public half.
    pub fn public(&self) -> RecipientPublic {
        self.public.clone()
    }
}

pub(super) fn private(seed: &Secret<32>) -> <XWing as Kem>::PrivateKey {
    <XWing as Kem>::PrivateKey::from_bytes(seed.expose())
        .expect("every 32 bytes are an X-Wing seed")
}

impl RecipientPublic {
    /// BLAKE3 of the bytes, in `derive_key` mode under its own label.
    pub fn hash(&self) -> [u8; 32] {
        blake3::derive_key(labels::RECIPIENT_HASH, &self.0)
    }

    /// Checks that the bytes are a public key, before anything relies on them.
    ///
    /// # Errors
    /// [`SealError::BadPublicKey`].
    pub fn validate(&self) -> Result<(), SealError> {
        self.parse().map(|_| ())
    }

    pub(super) fn parse(&self) -> Result<<XWing as Kem>::PublicKey, SealError> {
        <XWing as Kem>::PublicKey::from_bytes(&self.0)
            .map_err(|_| SealError::BadPublicKey { len: self.0.len() })
    }
}

/// One encapsulation; many shares, in any order.
pub struct Sender(AeadCtxS<ExportOnlyAead, HkdfSha256, XWing>);

/// The receiving side of [`Sender`].
pub struct Receiver(AeadCtxR<ExportOnlyAead, HkdfSha256, XWing>);

impl fmt::Debug for Sender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Sender(..)")
    }
}
impl fmt::Debug for Receiver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Receiver(..)")
    }
}

impl Sender {
    /// Encapsulates to `to`; `info` is [`deal_info`] or [`release_info`]. Returns the 1120-byte encapsulation too.
    ///
    /// # Errors
    /// [`SealError::BadPublicKey`].
    pub fn new<R: CryptoRng + ?Sized>(
        to: &RecipientPublic,
        info: &[u8],
        rng: &mut R,
    ) -> Result<(Self, Vec<u8>), SealError> {
        let public = to.parse()?;
        let mut rng = rng;
        let (encapsulated, context) =
            hpke::setup_sender_with_rng(&OpModeS::Base, &public, info, &mut rng)
                .map_err(|_| SealError::BadPublicKey { len: to.0.len() })?;
        Ok((Self(context), encapsulated.to_bytes().to_vec()))
    }

    /// Seals one share under Export(key id, leaf); `nonce` must be fresh and random.
    pub fn seal(
        &self,
        b: &ShareBinding,
        release: Option<&ReleaseBinding>,
        nonce: [u8; 24],
        share: &Share,
    ) -> Vec<u8> {
        let key = export(b, |context, out| self.0.export(context, out));
        aead::seal(
            key.expose(),
            nonce,
            &associated_data(b, release),
            share.expose(),
        )
    }
}

impl Receiver {
    /// Decapsulates.
    ///
    /// # Errors
    /// [`SealError::BadEncapsulation`] when it is not one. One for another key
    /// gives a receiver that opens nothing.
    pub fn new(key: &RecipientKey, encapsulated: &[u8], info: &[u8]) -> Result<Self, SealError> {
        let bad = || SealError::BadEncapsulation {
            len: encapsulated.len(),
        };
        if encapsulated.len() != ENCAPSULATED_LEN {
            return Err(bad());
        }
        let parsed = <XWing as Kem>::EncappedKey::from_bytes(encapsulated).map_err(|_| bad())?;
        hpke::setup_receiver(&OpModeR::Base, &private(&key.seed), &parsed, info)
            .map(Self)
            .map_err(|_| bad())
    }

    /// Opens one share.
    ///
    /// # Errors
    /// [`SealError::DoesNotOpen`].
    pub fn open(
        &self,
        b: &ShareBinding,
        release: Option<&ReleaseBinding>,
        sealed: &[u8],
    ) -> Result<Share, SealError> {
        let key = export(b, |context, out| self.0.export(context, out));
        let mut out = Secret::take(&mut [0; 32]);
        aead::open_into(
            key.expose(),
            &associated_data(b, release),
            sealed,
            out.expose_mut(),
        )
        .map_err(|_| SealError::DoesNotOpen)?;
        Ok(Share(out))
    }
}

fn export(
    b: &ShareBinding,
    export: impl FnOnce(&[u8], &mut [u8]) -> Result<(), hpke::HpkeError>,
) -> Secret<32> {
    let context = Fields::new(labels::SHARE_EXPORT)
        .add(&b.key_id.0)
        .add(b.leaf())
        .finish();
    let mut key = Secret::take(&mut [0; 32]);
    export(&context, key.expose_mut()).expect("32 bytes are far below HKDF's limit of 8160");
    key
}

fn associated_data(b: &ShareBinding, release: Option<&ReleaseBinding>) -> Vec<u8> {
    match release {
        None => b.append_to(Fields::new(labels::SHARE_DEALT)).finish(),
        Some(r) => b
            .append_to(Fields::new(labels::SHARE_RELEASED))
            .add(&r.authority)
            .add(&r.node.to_le_bytes())
            .add(&r.lease_key)
            .finish(),
    }
}

/// `info` for shares dealt by a home to a custodian's sealing key version.
pub fn deal_info(deployment: &DeploymentId, custodian: &CustodianId, version: u32) -> Vec<u8> {
    Fields::new(labels::SEAL_DEAL)
        .add(&deployment.0)
        .add(custodian.as_str().as_bytes())
        .add(&version.to_le_bytes())
        .finish()
}

/// `info` for shares released by a custodian to a lease key.
pub fn release_info(deployment: &DeploymentId, custodian: &CustodianId) -> Vec<u8> {
    Fields::new(labels::SEAL_RELEASE)
        .add(&deployment.0)
        .add(custodian.as_str().as_bytes())
        .finish()
}

#[cfg(test)]
#[path = "seal_tests.rs"]
mod tests;

#[cfg(test)]
pub(crate) use tests::testing;
