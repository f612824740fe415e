//! The account secret: a passphrase that must sign, beside two authorities,
//! when somebody wants back into an account without a device.
//!
//! Argon2id stretches it on the client; an Ed25519 key comes out, whose public
//! half stands in the account's statements. Nothing but the passphrase and the
//! account's id is needed to derive it again: whoever lost every device has no
//! other salt. Authorities and custodians see the public half and can try
//! passphrases against it, so it has to be a good one.

use super::keyslot::{self, KeyslotError};
use super::labels;
use super::sign::SigningKey;
use crate::types::{AccountId, Secret};
use zeroize::Zeroize;

/// Memory, KiB: RFC 9106's second recommendation. Frozen: another number is another key.
const MEMORY_KIB: u32 = 64 << 10;
/// Passes over it.
const PASSES: u32 = 3;
/// Lanes.
const LANES: u32 = 4;

/// The key of `account`'s secret. Takes a good part of a second and 64 MiB.
///
/// # Errors
/// [`KeyslotError::Argon`] when the machine has no room for it.
pub fn derive(account: &AccountId, passphrase: &[u8]) -> Result<SigningKey, KeyslotError> {
    let hash = blake3::derive_key(labels::ACCOUNT_SECRET_SALT, &account.0);
    let mut salt = [0; 16];
    salt.copy_from_slice(&hash[..16]);
    let stretched = keyslot::passphrase_key(passphrase, &salt, MEMORY_KIB, PASSES, LANES)?;
    let mut seed = blake3::derive_key(labels::ACCOUNT_SECRET_KEY, stretched.expose());
    let key = SigningKey::from_seed(&Secret::take(&mut seed));
    seed.zeroize();
    Ok(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_passphrase_gives_one_key_for_each_account() {
        let passphrase = b"six random words are good enough";
        let key = derive(&AccountId([0xac; 32]), passphrase).unwrap();
        let public = hex::encode(key.public());
        assert_eq!(
            public,
            "c94dc496d3feb95b95b1dcfbc879e1ed87825cc32f8769436e053185006246a0"
        );
        let page = include_str!("../../../docs/identity.md");
        assert!(page.contains(&public), "docs/identity.md lacks {public}");
        let other = derive(&AccountId([0xad; 32]), passphrase).unwrap();
        assert_ne!(other.public(), key.public());
        let other = derive(&AccountId([0xac; 32]), b"six random words are good enougi").unwrap();
        assert_ne!(other.public(), key.public());
    }
}
