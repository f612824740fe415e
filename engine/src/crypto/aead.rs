//! The one boundary to the cipher: XChaCha20-Poly1305 (draft-irtf-cfrg-xchacha
//! over RFC 8439), with nonce, ciphertext and tag side by side.
//!
//! Everything that seals calls this module, so that a faster backend is a
//! change to one file. The extended nonce is chosen because nonces here are
//! random: at 192 bits a collision under one key is out of reach. The cipher
//! does not commit to its key; [`key_check`](super::subkeys::key_check) does.
//!
//! The backend is AWS-LC's ChaCha20-Poly1305, which the nodes carry for TLS
//! already. It knows no extended nonce, so that part is the draft's section
//! 2.2 by hand: HChaCha20 of the key and the first 16 nonce bytes gives a key
//! of its own, and the last 8 are the nonce under it. Tests hold every
//! published vector against this and against an implementation in Rust.

use aws_lc_rs::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use chacha20::{R20, hchacha};
use zeroize::{Zeroize, Zeroizing};

/// Bytes of a nonce.
pub const NONCE_LEN: usize = 24;
/// Bytes of an authentication tag.
pub const TAG_LEN: usize = 16;
/// What sealing adds to a plaintext.
pub const OVERHEAD: usize = NONCE_LEN + TAG_LEN;
/// Bytes of the nonce that go into the derived key.
const DERIVING_LEN: usize = 16;

/// Nonce, ciphertext and tag do not belong to this key and associated data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Mismatch;

/// The key and nonce below the extended nonce. AWS-LC wipes its copy of the
/// key when it is dropped.
fn derived(key: &[u8; 32], nonce: &[u8; NONCE_LEN]) -> (LessSafeKey, Nonce) {
    let (deriving, rest) = nonce.split_at(DERIVING_LEN);
    let deriving: [u8; DERIVING_LEN] = deriving.try_into().expect("split at this length");
    let subkey = Zeroizing::new(hchacha::<R20>(key.into(), &deriving.into()).0);
    let mut short = [0; 12];
    short[4..].copy_from_slice(rest);
    let unbound = UnboundKey::new(&CHACHA20_POLY1305, &*subkey)
        .expect("32 bytes are a key of ChaCha20-Poly1305");
    (
        LessSafeKey::new(unbound),
        Nonce::assume_unique_for_key(short),
    )
}

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
    let (key, short) = derived(key, &nonce);
    let tag = key
        .seal_in_place_separate_tag(short, Aad::from(aad), &mut out[NONCE_LEN..])
        .expect("bodies are limited far below the cipher's 256 GiB");
    out.extend_from_slice(tag.as_ref());
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

/// Opens into `out`, whose length must be the plaintext's. Unless the tag
/// holds, `out` is left wiped: what was deciphered before the tag was known to
/// be wrong is nobody's to see.
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
    let nonce: &[u8; NONCE_LEN] = nonce.try_into().expect("split at this length");
    let (key, short) = derived(key, nonce);
    let opened = key.open_separate_gather(short, Aad::from(aad), body, tag, out);
    opened.map_err(|_| {
        out.zeroize();
        Mismatch
    })
}

#[cfg(test)]
#[path = "aead_tests.rs"]
mod tests;
