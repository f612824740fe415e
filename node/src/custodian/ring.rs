//! The key versions a node has loaded, as requests use them: an immutable
//! snapshot, replaced when a version comes or goes.

use super::vault::Vault;
use quorate_engine::crypto::seal::RecipientKey;
use quorate_engine::custody::{KeyKind, WrappingKeys, wrapping_fingerprint};
use quorate_engine::types::{Secret, WrappingKey};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Loaded key versions.
#[derive(Default)]
pub struct Ring {
    wrapping: BTreeMap<u32, Arc<WrappingKey>>,
    sealing: BTreeMap<u32, Arc<RecipientKey>>,
}

impl Ring {
    /// Everything in `vault`.
    pub fn of(vault: &Vault) -> Self {
        let mut out = Self::default();
        for (kind, version, key) in vault.keys() {
            match kind {
                KeyKind::Wrapping => {
                    let key = Arc::new(WrappingKey(key.duplicate()));
                    out.wrapping.insert(version, key);
                }
                KeyKind::Sealing => {
                    let key = Arc::new(RecipientKey::from_seed(key));
                    out.sealing.insert(version, key);
                }
            }
        }
        out
    }

    /// The private part of a sealing version.
    pub fn sealing(&self, version: u32) -> Option<&Arc<RecipientKey>> {
        self.sealing.get(&version)
    }

    /// Numbers of the versions of `kind`, lowest first.
    pub fn versions(&self, kind: KeyKind) -> Vec<u32> {
        match kind {
            KeyKind::Wrapping => self.wrapping.keys().copied().collect(),
            KeyKind::Sealing => self.sealing.keys().copied().collect(),
        }
    }

    /// What attestations call this version.
    pub fn fingerprint(&self, kind: KeyKind, version: u32) -> Option<[u8; 32]> {
        match kind {
            KeyKind::Wrapping => self.wrapping.get(&version).map(|k| wrapping_fingerprint(k)),
            KeyKind::Sealing => self.sealing.get(&version).map(|k| k.public().hash()),
        }
    }
}

impl WrappingKeys for Ring {
    fn wrapping_key(&self, version: u32) -> Option<&WrappingKey> {
        self.wrapping.get(&version).map(Arc::as_ref)
    }
}

/// What attestations call a key that is not in a ring yet.
pub(super) fn fingerprint_of(kind: KeyKind, key: &Secret<32>) -> [u8; 32] {
    match kind {
        KeyKind::Wrapping => wrapping_fingerprint(&WrappingKey(key.duplicate())),
        KeyKind::Sealing => RecipientKey::from_seed(key).public().hash(),
    }
}
