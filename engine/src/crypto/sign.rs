//! Signatures: Ed25519 (RFC 8032), verified strictly.
//!
//! What is signed begins with a label of [`labels`](super::labels), put there
//! by whoever lays out the statement, so that no signature fits two purposes.
//! Strict verification refuses keys and points of small order: with the laxer
//! rule of the RFC one signature could hold for several messages.

use crate::types::Secret;
use ed25519_dalek::Signer;
use rand_core::CryptoRng;
use std::fmt;

/// Bytes of a public key.
pub const PUBLIC_LEN: usize = 32;
/// Bytes of a signature.
pub const SIGNATURE_LEN: usize = 64;

/// A private signing key. Prints its public half only; wiped on drop.
pub struct SigningKey(ed25519_dalek::SigningKey);

/// A signature does not hold: another key, other bytes, or malformed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the signature does not hold for this key and statement")]
pub struct SignatureError;

impl SigningKey {
    /// Fresh.
    pub fn generate<R: CryptoRng + ?Sized>(rng: &mut R) -> Self {
        Self::from_seed(&Secret::generate(rng))
    }
    /// From its 32-byte seed, as a vault stores it.
    pub fn from_seed(seed: &Secret<32>) -> Self {
        Self(ed25519_dalek::SigningKey::from_bytes(seed.expose()))
    }
    /// The seed, for the vault.
    pub fn seed(&self) -> Secret<32> {
        Secret::from_slice(self.0.as_bytes()).expect("a seed is 32 bytes")
    }
    /// The public half.
    pub fn public(&self) -> [u8; PUBLIC_LEN] {
        self.0.verifying_key().to_bytes()
    }
    /// Signs `statement`, which begins with its label.
    pub fn sign(&self, statement: &[u8]) -> [u8; SIGNATURE_LEN] {
        self.0.sign(statement).to_bytes()
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SigningKey({}..)", hex::encode(&self.public()[..8]))
    }
}

/// Verifies `signature` by `public` over `statement`, strictly.
///
/// # Errors
/// [`SignatureError`], also for a key or signature that is malformed or of another length.
pub fn verify(
    public: &[u8; PUBLIC_LEN],
    statement: &[u8],
    signature: &[u8],
) -> Result<(), SignatureError> {
    let key = ed25519_dalek::VerifyingKey::from_bytes(public).map_err(|_| SignatureError)?;
    let signature = ed25519_dalek::Signature::from_slice(signature).map_err(|_| SignatureError)?;
    key.verify_strict(statement, &signature)
        .map_err(|_| SignatureError)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn key(byte: u8) -> SigningKey {
        SigningKey::from_seed(&Secret::from_slice(&[byte; 32]).unwrap())
    }

    /// RFC 8032, section 7.1, test 2.
    #[test]
    fn rfc_8032_vector() {
        let seed = "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb";
        let k = SigningKey::from_seed(&Secret::from_slice(&hex::decode(seed).unwrap()).unwrap());
        assert_eq!(
            hex::encode(k.public()),
            "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c"
        );
        assert_eq!(
            hex::encode(k.sign(&[0x72])),
            "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00"
        );
    }

    /// The identity point as key verifies everything under the lax rule.
    #[test]
    fn keys_of_small_order_are_refused() {
        let mut public = [0; 32];
        public[0] = 1;
        let mut signature = [0; 64];
        signature[0] = 1;
        assert_eq!(
            verify(&public, b"anything", &signature),
            Err(SignatureError)
        );
    }

    proptest! {
        #[test]
        fn holds_for_its_key_and_bytes_only(statement in prop::collection::vec(any::<u8>(), 1..80), at in any::<prop::sample::Index>(), bit in 0u8..8) {
            let signature = key(1).sign(&statement);
            prop_assert_eq!(verify(&key(1).public(), &statement, &signature), Ok(()));
            prop_assert!(verify(&key(2).public(), &statement, &signature).is_err());
            let mut other = statement.clone();
            other[at.index(statement.len())] ^= 1 << bit;
            prop_assert!(verify(&key(1).public(), &other, &signature).is_err());
            let mut bad = signature;
            bad[at.index(64)] ^= 1 << bit;
            prop_assert!(verify(&key(1).public(), &statement, &bad).is_err());
            prop_assert!(verify(&key(1).public(), &statement, &signature[..at.index(64)]).is_err());
        }
    }

    #[test]
    fn a_seed_gives_the_key_again() {
        assert_eq!(
            SigningKey::from_seed(&key(7).seed()).public(),
            key(7).public()
        );
    }
}
