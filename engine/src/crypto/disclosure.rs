//! Records on their way to whom a disclosure order names: the hybrid HPKE of
//! [`seal`](super::seal), one encapsulation for one part of a result.
//!
//! All records of a part are sealed under one exported key, each with a random
//! nonce of its own and bound to its place: deployment, home, order, chat,
//! where the part begins, message and revision. A record moved into another
//! part, order or place does not open.

use super::seal::{ENCAPSULATED_LEN, RecipientKey, RecipientPublic, SealError, private};
use super::{aead, fields::Fields, labels};
use crate::types::{ChatId, DeploymentId, HomeId, MessageId, OrderId, Revision, Secret};
use hpke::aead::ExportOnlyAead;
use hpke::kdf::HkdfSha256;
use hpke::kem::XWing;
use hpke::{Deserializable, Kem, OpModeR, OpModeS, Serializable};
use rand_core::CryptoRng;
use std::fmt;
use zeroize::Zeroizing;

/// Which part of which result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartBinding {
    /// The deployment.
    pub deployment: DeploymentId,
    /// The home that seals.
    pub home: HomeId,
    /// The order.
    pub order: OrderId,
    /// The chat.
    pub chat: ChatId,
    /// The message that the part begins at.
    pub from: MessageId,
}

impl PartBinding {
    fn fields(&self, label: &str) -> Fields {
        Fields::new(label)
            .add(&self.deployment.0)
            .add(self.home.as_str().as_bytes())
            .add(&self.order.0)
            .add(&self.chat.0)
            .add(&self.from.to_le_bytes())
    }

    fn record(&self, message: MessageId, revision: Revision) -> Vec<u8> {
        self.fields(labels::DISCLOSURE_RECORD)
            .add(&message.to_le_bytes())
            .add(&revision.to_le_bytes())
            .finish()
    }
}

/// Seals the records of one part.
pub struct PartSender {
    at: PartBinding,
    key: Secret<32>,
}

/// Opens them.
pub struct PartReceiver {
    at: PartBinding,
    key: Secret<32>,
}

impl fmt::Debug for PartSender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PartSender({:?})", self.at)
    }
}
impl fmt::Debug for PartReceiver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PartReceiver({:?})", self.at)
    }
}

impl PartSender {
    /// Encapsulates to the order's recipient; the 1120-byte encapsulation too.
    ///
    /// # Errors
    /// [`SealError::BadPublicKey`].
    pub fn new<R: CryptoRng + ?Sized>(
        to: &RecipientPublic,
        at: PartBinding,
        rng: &mut R,
    ) -> Result<(Self, Vec<u8>), SealError> {
        let public = to.parse()?;
        let mut rng = rng;
        let info = at.fields(labels::SEAL_DISCLOSURE).finish();
        let (encapsulated, context) = hpke::setup_sender_with_rng::<
            ExportOnlyAead,
            HkdfSha256,
            XWing,
        >(&OpModeS::Base, &public, &info, &mut rng)
        .map_err(|_| SealError::BadPublicKey { len: to.0.len() })?;
        let key = exported(|context_bytes, out| context.export(context_bytes, out));
        Ok((Self { at, key }, encapsulated.to_bytes().to_vec()))
    }

    /// Seals one record; `nonce` must be fresh and random.
    pub fn seal(
        &self,
        message: MessageId,
        revision: Revision,
        nonce: [u8; 24],
        plain: &[u8],
    ) -> Vec<u8> {
        let bound = self.at.record(message, revision);
        aead::seal(self.key.expose(), nonce, &bound, plain)
    }
}

impl PartReceiver {
    /// Decapsulates.
    ///
    /// # Errors
    /// [`SealError::BadEncapsulation`] when it is not one. One for another key or part gives a
    /// receiver that opens nothing.
    pub fn new(
        key: &RecipientKey,
        at: PartBinding,
        encapsulated: &[u8],
    ) -> Result<Self, SealError> {
        let bad = || SealError::BadEncapsulation {
            len: encapsulated.len(),
        };
        if encapsulated.len() != ENCAPSULATED_LEN {
            return Err(bad());
        }
        let parsed = <XWing as Kem>::EncappedKey::from_bytes(encapsulated).map_err(|_| bad())?;
        let info = at.fields(labels::SEAL_DISCLOSURE).finish();
        let context = hpke::setup_receiver::<ExportOnlyAead, HkdfSha256, XWing>(
            &OpModeR::Base,
            &private(&key.seed()),
            &parsed,
            &info,
        )
        .map_err(|_| bad())?;
        let key = exported(|context_bytes, out| context.export(context_bytes, out));
        Ok(Self { at, key })
    }

    /// Opens one record.
    ///
    /// # Errors
    /// [`SealError::DoesNotOpen`].
    pub fn open(
        &self,
        message: MessageId,
        revision: Revision,
        sealed: &[u8],
    ) -> Result<Zeroizing<Vec<u8>>, SealError> {
        let bound = self.at.record(message, revision);
        aead::open(self.key.expose(), &bound, sealed).map_err(|_| SealError::DoesNotOpen)
    }
}

fn exported(export: impl FnOnce(&[u8], &mut [u8]) -> Result<(), hpke::HpkeError>) -> Secret<32> {
    let mut key = Secret::take(&mut [0; 32]);
    export(labels::DISCLOSURE_EXPORT.as_bytes(), key.expose_mut())
        .expect("32 bytes are far below HKDF's limit of 8160");
    key
}

/// What a manifest says of a sealed record or of an encapsulation.
pub fn hash(bytes: &[u8]) -> [u8; 32] {
    blake3::derive_key(labels::DISCLOSURE_HASH, bytes)
}

#[cfg(test)]
#[path = "disclosure_tests.rs"]
mod tests;
