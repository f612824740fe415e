//! Shares at rest: XChaCha20-Poly1305 under a custodian's wrapping key.
//!
//! Exactly 72 bytes: 24 nonce, 32 share, 16 tag. The associated data binds the
//! version of the wrapping key and everything of [`ShareBinding`], so a wrapped
//! share that was moved to another key id or chat in the store does not open.

use super::{aead, fields::Fields, labels};
use crate::crypto::seal::ShareBinding;
use crate::types::{Secret, Share, WrappingKey};

/// 24-byte nonce, 32 bytes, 16-byte tag.
pub const WRAPPED_LEN: usize = 72;

/// A wrapped share does not open.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the wrapped share does not open under its key and place")]
pub struct UnwrapError;

fn associated_data(version: u32, b: &ShareBinding) -> Vec<u8> {
    let fields = Fields::new(labels::SHARE_WRAPPED).add(&version.to_le_bytes());
    b.append_to(fields).finish()
}

/// Wraps under version `version` (bound in). `nonce` must be fresh and random.
pub fn wrap(
    key: &WrappingKey,
    version: u32,
    b: &ShareBinding,
    nonce: [u8; 24],
    share: &Share,
) -> [u8; WRAPPED_LEN] {
    aead::seal(
        key.expose(),
        nonce,
        &associated_data(version, b),
        share.expose(),
    )
    .try_into()
    .expect("a share is 32 bytes and sealing adds 40")
}

/// Unwraps.
///
/// # Errors
/// [`UnwrapError`] for another key, version, place or length, or a flipped bit.
pub fn unwrap(
    key: &WrappingKey,
    version: u32,
    b: &ShareBinding,
    wrapped: &[u8],
) -> Result<Share, UnwrapError> {
    let mut out = Secret::take(&mut [0; 32]);
    aead::open_into(
        key.expose(),
        &associated_data(version, b),
        wrapped,
        out.expose_mut(),
    )
    .map_err(|_| UnwrapError)?;
    Ok(Share(out))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::seal::testing::{binding, neighbours};
    use proptest::prelude::*;

    fn secret(bytes: [u8; 32]) -> Secret<32> {
        Secret::from_slice(&bytes).unwrap()
    }

    proptest! {
        #[test]
        fn opens_in_its_place_and_nowhere_else(
            b in binding(), share in any::<[u8; 32]>(), nonce in any::<[u8; 24]>(), version in any::<u32>(), bit in any::<u32>(),
        ) {
            let (key, other) = (WrappingKey(secret([1; 32])), WrappingKey(secret([2; 32])));
            let wrapped = wrap(&key, version, &b, nonce, &Share(secret(share)));
            prop_assert_eq!(*unwrap(&key, version, &b, &wrapped).unwrap().expose(), share);
            prop_assert!(unwrap(&other, version, &b, &wrapped).is_err());
            prop_assert!(unwrap(&key, version ^ (1 << (bit % 32)), &b, &wrapped).is_err());
            for n in neighbours(&b, bit) {
                prop_assert!(unwrap(&key, version, &n, &wrapped).is_err());
            }
            let mut bad = wrapped;
            bad[bit as usize % WRAPPED_LEN] ^= 1 << (bit >> 29);
            prop_assert!(unwrap(&key, version, &b, &bad).is_err());
            prop_assert!(unwrap(&key, version, &b, &wrapped[..bit as usize % WRAPPED_LEN]).is_err());
        }
    }

    #[test]
    fn frozen_vector() {
        let b = crate::crypto::seal::testing::fixed();
        let wrapped = wrap(
            &WrappingKey(secret([0x66; 32])),
            3,
            &b,
            [0x55; 24],
            &Share(secret([0x77; 32])),
        );
        assert_eq!(
            hex::encode(wrapped),
            "5555555555555555555555555555555555555555555555557923070e9e2f03171f49ee5d8d8e29101ac7136215f069bd350de9e61b88d9ddeb4d23de1db648a3b207423d94776465"
        );
    }
}
