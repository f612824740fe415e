//! Statements that people, authorities and officers sign: JSON, kept as the
//! very bytes that were signed.
//!
//! A signature covers `label || 0x00 || deployment || payload`, so none fits
//! another purpose or another deployment, and nothing has to be encoded again
//! to check one. Layouts and vectors are in `docs/format.md`.

use crate::crypto::labels;
use crate::crypto::sign::{self, PUBLIC_LEN, SIGNATURE_LEN, SigningKey};
use crate::types::DeploymentId;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// Longest payload, in bytes.
pub const PAYLOAD_BYTES_MAX: usize = 16 << 10;
/// Most signatures under one statement.
pub const SIGNATURES_MAX: usize = 16;

/// A statement and who signed it. Nothing is believed before [`Envelope::signers`] said so.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Envelope {
    /// The UTF-8 JSON that was signed, at most [`PAYLOAD_BYTES_MAX`].
    pub payload: String,
    /// 1 to [`SIGNATURES_MAX`], by distinct keys.
    pub signatures: Vec<Signature>,
}

/// One signature of an [`Envelope`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Signature {
    /// Ed25519 public key, 64 hex characters.
    pub key: String,
    /// Ed25519 signature, 128 hex characters.
    pub signature: String,
}

/// Why an envelope is not to be believed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EnvelopeError {
    /// Too long, or signed by nobody or too many.
    #[error("a signed statement with {what} {got}; {limit} are allowed")]
    Limit {
        /// What there is too much or too little of.
        what: &'static str,
        /// How much.
        got: usize,
        /// What is allowed.
        limit: &'static str,
    },
    /// The payload is not of the form it should have.
    #[error("the signed statement is no {what}: {reason}")]
    Payload {
        /// What was expected.
        what: &'static str,
        /// What the parser said.
        reason: String,
    },
    /// A key or signature is not hex of the right length.
    #[error("signature {0} of the statement is malformed")]
    Malformed(usize),
    /// A key signs twice.
    #[error("a key signs the statement twice")]
    Twice,
    /// A signature does not hold.
    #[error("signature {0} of the statement does not hold for its key")]
    Signature(usize),
}

fn signed_bytes(label: &str, deployment: &DeploymentId, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(label.len() + 1 + DeploymentId::LEN + payload.len());
    out.extend_from_slice(label.as_bytes());
    out.push(0);
    out.extend_from_slice(&deployment.0);
    out.extend_from_slice(payload);
    out
}

impl Envelope {
    /// Writes `statement` as JSON and signs it with each of `keys` under `label`.
    ///
    /// # Panics
    /// When `statement`'s own `Serialize` fails, which statements of this crate never do.
    pub fn sign<T: Serialize>(
        label: &str,
        deployment: &DeploymentId,
        statement: &T,
        keys: &[&SigningKey],
    ) -> Self {
        let mut out = Self {
            payload: serde_json::to_string(statement).expect("statements serialise"),
            signatures: Vec::with_capacity(keys.len()),
        };
        for key in keys {
            out.add(label, deployment, key);
        }
        out
    }

    /// Adds a signature; for statements that several people sign one after the other.
    pub fn add(&mut self, label: &str, deployment: &DeploymentId, key: &SigningKey) {
        let bytes = signed_bytes(label, deployment, self.payload.as_bytes());
        self.signatures.push(Signature {
            key: hex::encode(key.public()),
            signature: hex::encode(key.sign(&bytes)),
        });
    }

    /// The payload as a `T`. Says nothing about who signed.
    ///
    /// # Errors
    /// [`EnvelopeError::Limit`] and [`EnvelopeError::Payload`]; unknown fields are refused by `T`.
    pub fn read<T: DeserializeOwned>(&self, what: &'static str) -> Result<T, EnvelopeError> {
        self.within_limits()?;
        serde_json::from_str(&self.payload).map_err(|e| EnvelopeError::Payload {
            what,
            reason: e.to_string(),
        })
    }

    /// Verifies every signature; the set of keys that signed.
    ///
    /// # Errors
    /// [`EnvelopeError`] when any signature does not hold: a statement with a
    /// bad signature beside good ones is refused whole.
    pub fn signers(
        &self,
        label: &str,
        deployment: &DeploymentId,
    ) -> Result<BTreeSet<[u8; PUBLIC_LEN]>, EnvelopeError> {
        self.within_limits()?;
        let bytes = signed_bytes(label, deployment, self.payload.as_bytes());
        let mut out = BTreeSet::new();
        for (n, s) in self.signatures.iter().enumerate() {
            let mut key = [0; PUBLIC_LEN];
            let mut signature = [0; SIGNATURE_LEN];
            hex::decode_to_slice(&s.key, &mut key).map_err(|_| EnvelopeError::Malformed(n))?;
            hex::decode_to_slice(&s.signature, &mut signature)
                .map_err(|_| EnvelopeError::Malformed(n))?;
            sign::verify(&key, &bytes, &signature).map_err(|_| EnvelopeError::Signature(n))?;
            if !out.insert(key) {
                return Err(EnvelopeError::Twice);
            }
        }
        Ok(out)
    }

    /// What the successor in a chain carries: the hash of the payload, not of
    /// the signatures, which may come in any order.
    pub fn hash(&self) -> [u8; 32] {
        blake3::derive_key(labels::STATEMENT_HASH, self.payload.as_bytes())
    }

    fn within_limits(&self) -> Result<(), EnvelopeError> {
        let limit = |what, got, limit| Err(EnvelopeError::Limit { what, got, limit });
        if self.payload.len() > PAYLOAD_BYTES_MAX {
            return limit("bytes", self.payload.len(), "16384");
        }
        let n = self.signatures.len();
        if n == 0 || n > SIGNATURES_MAX {
            return limit("signatures", n, "1 to 16");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::labels::{SIGN_ACCOUNT, SIGN_MEMBERSHIP};
    use crate::types::Secret;

    fn key(n: u8) -> SigningKey {
        SigningKey::from_seed(&Secret::from_slice(&[n; 32]).unwrap())
    }

    const D: DeploymentId = DeploymentId([1; 16]);

    #[test]
    fn holds_for_its_label_deployment_and_bytes_only() {
        let e = Envelope::sign(SIGN_ACCOUNT, &D, &("a", 1), &[&key(1), &key(2)]);
        let keys = BTreeSet::from([key(1).public(), key(2).public()]);
        assert_eq!(e.signers(SIGN_ACCOUNT, &D), Ok(keys));
        assert_eq!(e.read::<(String, u32)>("pair").unwrap(), ("a".into(), 1));
        let bad = Err(EnvelopeError::Signature(0));
        assert_eq!(e.signers(SIGN_MEMBERSHIP, &D), bad);
        assert_eq!(e.signers(SIGN_ACCOUNT, &DeploymentId([2; 16])), bad);
        let mut other = e.clone();
        other.payload = other.payload.replace('1', "2");
        assert_eq!(other.signers(SIGN_ACCOUNT, &D), bad);
        assert_ne!(other.hash(), e.hash());
        let mut swapped = e.clone();
        swapped.signatures[1].signature = e.signatures[0].signature.clone();
        assert_eq!(
            swapped.signers(SIGN_ACCOUNT, &D),
            Err(EnvelopeError::Signature(1))
        );
    }

    #[test]
    fn limits_and_malformed_signatures_are_refused() {
        let mut e = Envelope::sign(SIGN_ACCOUNT, &D, &1, &[&key(1)]);
        e.add(SIGN_ACCOUNT, &D, &key(1));
        assert_eq!(e.signers(SIGN_ACCOUNT, &D), Err(EnvelopeError::Twice));
        e.signatures[1].key.truncate(10);
        assert_eq!(
            e.signers(SIGN_ACCOUNT, &D),
            Err(EnvelopeError::Malformed(1))
        );
        e.signatures.clear();
        assert!(matches!(
            e.signers(SIGN_ACCOUNT, &D),
            Err(EnvelopeError::Limit { got: 0, .. })
        ));
        e.payload = "1".repeat(PAYLOAD_BYTES_MAX + 1);
        assert!(e.read::<String>("text").is_err());
    }
}
