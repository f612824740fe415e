//! The one boundary to the cipher: XChaCha20-Poly1305 (draft-irtf-cfrg-xchacha
//! over RFC 8439), with nonce, ciphertext and tag side by side.
//!
//! Everything that seals calls this module, so that a faster backend is a
//! change to one file. The extended nonce is chosen because nonces here are
//! random: at 192 bits a collision under one key is out of reach. The cipher
//! does not commit to its key; [`key_check`](super::subkeys::key_check) does.

use chacha20poly1305::XChaCha20Poly1305;
use chacha20poly1305::aead::inout::InOutBuf;
use chacha20poly1305::aead::{AeadInOut, KeyInit};
use zeroize::Zeroizing;

/// Bytes of a nonce.
pub const NONCE_LEN: usize = 24;
/// Bytes of an authentication tag.
pub const TAG_LEN: usize = 16;
/// What sealing adds to a plaintext.
pub const OVERHEAD: usize = NONCE_LEN + TAG_LEN;

/// Nonce, ciphertext and tag do not belong to this key and associated data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Mismatch;

/// Seals to `nonce ‖ ciphertext ‖ tag`. `nonce` must be fresh and random.
pub(crate) fn seal(
    key: &[u8; 32],
    nonce: [u8; NONCE_LEN],
    aad: &[u8],
    plaintext: &[u8],
) -> Vec<u8> {
    let mut out = Vec::with_capacity(plaintext.len() + OVERHEAD);
    out.extend_from_slice(&nonce);
    out.extend_from_slice(plaintext);
    let tag = XChaCha20Poly1305::new(key.into())
        .encrypt_inout_detached(&nonce.into(), aad, (&mut out[NONCE_LEN..]).into())
        .expect("bodies are limited far below the cipher's 256 GiB");
    out.extend_from_slice(&tag);
    out
}

/// Opens into a buffer that is wiped on drop.
pub(crate) fn open(
    key: &[u8; 32],
    aad: &[u8],
    sealed: &[u8],
) -> Result<Zeroizing<Vec<u8>>, Mismatch> {
    let len = sealed.len().checked_sub(OVERHEAD).ok_or(Mismatch)?;
    let mut out = Zeroizing::new(vec![0; len]);
    open_into(key, aad, sealed, &mut out)?;
    Ok(out)
}

/// Opens into `out`, whose length must be the plaintext's. Nothing is written
/// there unless the tag holds.
pub(crate) fn open_into(
    key: &[u8; 32],
    aad: &[u8],
    sealed: &[u8],
    out: &mut [u8],
) -> Result<(), Mismatch> {
    if sealed.len() != out.len() + OVERHEAD {
        return Err(Mismatch);
    }
    let (nonce, rest) = sealed.split_at(NONCE_LEN);
    let (body, tag) = rest.split_at(out.len());
    let nonce: [u8; NONCE_LEN] = nonce.try_into().expect("split at this length");
    let tag: [u8; TAG_LEN] = tag.try_into().expect("the length was checked above");
    let buffer = InOutBuf::new(body, out).map_err(|_| Mismatch)?;
    XChaCha20Poly1305::new(key.into())
        .decrypt_inout_detached(&nonce.into(), aad, buffer, &tag.into())
        .map_err(|_| Mismatch)
}

#[cfg(test)]
#[path = "aead_tests.rs"]
mod tests;
