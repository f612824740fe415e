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
mod tests {
    use super::*;
    use rand::SeedableRng;
    use rand_chacha::ChaCha20Rng;

    fn place() -> PartBinding {
        PartBinding {
            deployment: DeploymentId([0x11; 16]),
            home: HomeId::new("ae").unwrap(),
            order: OrderId([0x22; 32]),
            chat: ChatId([0x33; 32]),
            from: 7,
        }
    }

    fn key(byte: u8) -> RecipientKey {
        RecipientKey::from_seed(&Secret::take(&mut [byte; 32]))
    }

    #[test]
    fn a_record_opens_for_its_recipient_in_its_place_and_nowhere_else() {
        let (sender, encapsulated) = PartSender::new(
            &key(1).public(),
            place(),
            &mut ChaCha20Rng::seed_from_u64(5),
        )
        .unwrap();
        let sealed = sender.seal(8, 2, [9; 24], b"said");
        let open = |k: u8, at: PartBinding, message, revision, sealed: &[u8]| {
            let receiver = PartReceiver::new(&key(k), at, &encapsulated).unwrap();
            receiver.open(message, revision, sealed)
        };
        assert_eq!(&**open(1, place(), 8, 2, &sealed).unwrap(), b"said");
        let bad = Err(SealError::DoesNotOpen);
        assert_eq!(open(2, place(), 8, 2, &sealed), bad);
        assert_eq!(open(1, place(), 9, 2, &sealed), bad);
        assert_eq!(open(1, place(), 8, 3, &sealed), bad);
        let mut others = vec![place(); 5];
        others[0].deployment.0[0] ^= 1;
        others[1].home = HomeId::new("af").unwrap();
        others[2].order.0[31] ^= 1;
        others[3].chat.0[0] ^= 1;
        others[4].from = 8;
        for other in others {
            assert_eq!(open(1, other, 8, 2, &sealed), bad);
        }
        for at in 0..sealed.len() {
            let mut altered = sealed.clone();
            altered[at] ^= 1;
            assert_eq!(open(1, place(), 8, 2, &altered), bad);
        }
        assert!(PartReceiver::new(&key(1), place(), &encapsulated[1..]).is_err());
        let short = RecipientPublic(vec![0xab; 32]);
        assert!(PartSender::new(&short, place(), &mut ChaCha20Rng::seed_from_u64(5)).is_err());
    }

    #[test]
    fn frozen_vectors() {
        assert_eq!(hex::encode(place().record(8, 2)), "BOUND");
        let (sender, encapsulated) = PartSender::new(
            &key(0x44).public(),
            place(),
            &mut ChaCha20Rng::seed_from_u64(0x55),
        )
        .unwrap();
        assert_eq!(hex::encode(hash(&encapsulated)), "ENCAPSULATED");
        assert_eq!(
            hex::encode(sender.seal(8, 2, [0x66; 24], b"hello")),
            "SEALED"
        );
        assert_eq!(hex::encode(hash(b"hello")), "HASH");
    }
}
