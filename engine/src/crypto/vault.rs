//! Key versions at rest: 32 secret bytes encrypted under a provider's root key.
//!
//! The root key itself encrypts nothing; a vault key is derived from it, so a
//! provider may use the root for other purposes too. The label (kind, version,
//! owner) is bound in: an entry copied over another one does not open. Exactly
//! 72 bytes, whatever the kind: 24 nonce, 32 secret, 16 tag.

use super::{aead, fields::Fields, labels, subkeys};
use crate::types::{RootKey, Secret};

/// Bytes of an entry.
pub const LOCKED_LEN: usize = 72;

/// Does not open under this root and label.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the stored key does not open under this root key: check that the key file or passphrase belongs to this data directory"
)]
pub struct VaultError;

fn associated_data(label: &str) -> Vec<u8> {
    Fields::new(labels::VAULT_ENTRY)
        .add(label.as_bytes())
        .finish()
}

/// Encrypts 32 secret bytes under the root; `label` (kind, version, owner) is
/// bound in. `nonce` must be fresh and random.
pub fn lock(root: &RootKey, label: &str, nonce: [u8; 24], secret: &Secret<32>) -> Vec<u8> {
    let key = subkeys::derive(labels::VAULT_KEY, root.expose());
    aead::seal(
        key.expose(),
        nonce,
        &associated_data(label),
        secret.expose(),
    )
}

/// Reverses [`lock`].
///
/// # Errors
/// [`VaultError`] for another root, another label, another length or altered bytes.
pub fn unlock(root: &RootKey, label: &str, locked: &[u8]) -> Result<Secret<32>, VaultError> {
    let key = subkeys::derive(labels::VAULT_KEY, root.expose());
    let mut out = Secret::take(&mut [0; 32]);
    aead::open_into(
        key.expose(),
        &associated_data(label),
        locked,
        out.expose_mut(),
    )
    .map_err(|_| VaultError)?;
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn secret(bytes: [u8; 32]) -> Secret<32> {
        Secret::from_slice(&bytes).unwrap()
    }

    proptest! {
        #[test]
        fn opens_under_its_root_and_label_only(
            value in any::<[u8; 32]>(), label in "[a-z/0-9]{0,20}", other in "[a-z/0-9]{0,20}", at in 0usize..LOCKED_LEN, bit in 0u8..8,
        ) {
            let root = RootKey(secret([1; 32]));
            let locked = lock(&root, &label, [3; 24], &secret(value));
            prop_assert_eq!(locked.len(), LOCKED_LEN);
            prop_assert_eq!(*unlock(&root, &label, &locked).unwrap().expose(), value);
            prop_assert!(unlock(&RootKey(secret([2; 32])), &label, &locked).is_err());
            prop_assert_eq!(unlock(&root, &other, &locked).is_ok(), label == other);
            let mut bad = locked.clone();
            bad[at] ^= 1 << bit;
            prop_assert!(unlock(&root, &label, &bad).is_err());
            prop_assert!(unlock(&root, &label, &locked[..at]).is_err());
        }
    }

    #[test]
    fn frozen_vector() {
        let locked = lock(
            &RootKey(secret([0x88; 32])),
            "wrapping/3/ch",
            [0x55; 24],
            &secret([0x99; 32]),
        );
        assert_eq!(
            hex::encode(locked),
            "5555555555555555555555555555555555555555555555550c9301c47ebd7dbbb9f20e55c7078aa543c24c55741dde38be259b9dfb353d9a12d943d77787f80023aefd7da2862291"
        );
    }
}
