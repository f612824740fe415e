//! Identity authorities: who attests people, and with which keys.

use super::super::envelope::{Envelope, EnvelopeError};
use crate::crypto::labels::SIGN_AUTHORITY;
use crate::types::{AuthorityId, DeploymentId, PublicKey, WallMs};
use serde::{Deserialize, Serialize};

/// Most statement keys of an authority that count at one time.
pub const AUTHORITY_KEYS_MAX: usize = 8;
/// Longest life of a statement key, in milliseconds: 400 days.
pub const AUTHORITY_KEY_LIFE_MS_MAX: u64 = 400 * 24 * 60 * 60 * 1000;
/// Longest name of an entity or jurisdiction, in bytes.
pub const ENTITY_BYTES_MAX: usize = 128;

/// A key an authority signs statements with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AuthorityKey {
    /// Counts up from 1.
    pub version: u32,
    /// Ed25519.
    pub public: PublicKey,
    /// It counts from here,
    pub not_before_ms: WallMs,
    /// and no longer from here.
    pub not_after_ms: WallMs,
}

impl AuthorityKey {
    fn check(&self) -> Result<(), AuthorityRefusal> {
        let life = self.not_after_ms.checked_sub(self.not_before_ms);
        match life {
            Some(1..=AUTHORITY_KEY_LIFE_MS_MAX) => Ok(()),
            _ => Err(AuthorityRefusal::Life),
        }
    }
}

/// An identity authority as a custodian knows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AuthorityRecord {
    /// Its id.
    pub id: AuthorityId,
    /// The legal entity that runs it. Two authorities of one entity count as one.
    pub entity: String,
    /// The legal system it answers to.
    pub jurisdiction: String,
    /// Long-lived Ed25519 key that signs [`AuthorityKeys`].
    pub identity_key: PublicKey,
    /// Keys that count, versions ascending.
    pub keys: Vec<AuthorityKey>,
}

/// A new statement key, signed by the authority's identity key under
/// [`SIGN_AUTHORITY`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AuthorityKeys {
    /// Whose.
    pub authority: AuthorityId,
    /// The new key; its version is above all before.
    pub key: AuthorityKey,
    /// Versions below this one count no longer, whatever their time: for a key that was stolen.
    pub oldest: u32,
}

/// Why an authority or its new key is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AuthorityRefusal {
    /// Malformed, or a signature does not hold.
    #[error(transparent)]
    Envelope(#[from] EnvelopeError),
    /// Entity or jurisdiction missing or too long.
    #[error("entity and jurisdiction are 1 to {ENTITY_BYTES_MAX} bytes each")]
    Names,
    /// No key, too many, or versions that do not ascend from 1.
    #[error("1 to {AUTHORITY_KEYS_MAX} keys with ascending versions from 1 are allowed")]
    Keys,
    /// A key that ends before it begins or lives too long.
    #[error("a statement key lives between one millisecond and 400 days")]
    Life,
    /// A statement about another authority.
    #[error("the statement is about authority {0}")]
    Other(AuthorityId),
    /// Not signed by the identity key.
    #[error(
        "the statement is not signed by the authority's identity key; statement keys cannot name their successors"
    )]
    NotByIdentityKey,
    /// The version is not above the newest.
    #[error("key version {got} is not above {newest}")]
    Version {
        /// In the statement.
        got: u32,
        /// The newest here.
        newest: u32,
    },
}

impl AuthorityRecord {
    /// Checks a record before it is registered.
    ///
    /// # Errors
    /// [`AuthorityRefusal`].
    pub fn check(&self) -> Result<(), AuthorityRefusal> {
        let fits = |s: &String| (1..=ENTITY_BYTES_MAX).contains(&s.len());
        if !fits(&self.entity) || !fits(&self.jurisdiction) {
            return Err(AuthorityRefusal::Names);
        }
        let ascends = self.keys.windows(2).all(|w| w[0].version < w[1].version);
        let first = self.keys.first().map_or(0, |k| k.version);
        if !(1..=AUTHORITY_KEYS_MAX).contains(&self.keys.len()) || first == 0 || !ascends {
            return Err(AuthorityRefusal::Keys);
        }
        self.keys.iter().try_for_each(AuthorityKey::check)
    }

    /// Whether `public` is a statement key of this authority that counts at `at_ms`.
    pub fn signs_with(&self, public: &[u8; 32], at_ms: WallMs) -> bool {
        let counts = |k: &AuthorityKey| k.not_before_ms <= at_ms && at_ms < k.not_after_ms;
        self.keys.iter().any(|k| k.public.0 == *public && counts(k))
    }

    /// The record with the key that `envelope` announces.
    ///
    /// # Errors
    /// [`AuthorityRefusal`]; a repeated statement is one of `Version`.
    pub fn rotate(
        &self,
        envelope: &Envelope,
        deployment: &DeploymentId,
    ) -> Result<Self, AuthorityRefusal> {
        let s: AuthorityKeys = envelope.read("statement of an authority's keys")?;
        let signers = envelope.signers(SIGN_AUTHORITY, deployment)?;
        if s.authority != self.id {
            return Err(AuthorityRefusal::Other(s.authority));
        }
        if !signers.contains(&self.identity_key.0) {
            return Err(AuthorityRefusal::NotByIdentityKey);
        }
        let newest = self.keys.last().map_or(0, |k| k.version);
        if s.key.version <= newest {
            let got = s.key.version;
            return Err(AuthorityRefusal::Version { got, newest });
        }
        s.key.check()?;
        let mut out = self.clone();
        out.keys.retain(|k| k.version >= s.oldest);
        if out.keys.len() == AUTHORITY_KEYS_MAX {
            out.keys.remove(0);
        }
        out.keys.push(s.key);
        Ok(out)
    }
}
