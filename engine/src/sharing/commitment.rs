//! Commitments to shares: they say who lied before anything is combined.
//!
//! BLAKE3 in its key-derivation mode under a context string of its own, over
//! key id, leaf and share, each behind its length, so that no two different
//! triples hash the same bytes. A share is 32 bytes of full entropy given any
//! unauthorised set, so the plain hash hides it (computationally; DESIGN, P1).

use crate::types::{CustodianId, KeyId, Share};
use subtle::ConstantTimeEq;
use zeroize::Zeroize;

/// Context of the commitment; frozen, and listed in `crypto::labels` as `SHARE_COMMITMENT`.
const CONTEXT: &str = "quorate/share/commitment/1";

/// Commitment to one leaf's share of one dealing.
pub fn commitment(key_id: &KeyId, leaf: &CustodianId, share: &Share) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new_derive_key(CONTEXT);
    for field in [
        key_id.as_bytes().as_slice(),
        leaf.as_str().as_bytes(),
        share.expose().as_slice(),
    ] {
        hasher.update(&(field.len() as u64).to_le_bytes());
        hasher.update(field);
    }
    let out = *hasher.finalize().as_bytes();
    hasher.zeroize();
    out
}

/// Constant-time check of [`commitment`].
pub fn commitment_holds(
    key_id: &KeyId,
    leaf: &CustodianId,
    share: &Share,
    expected: &[u8; 32],
) -> bool {
    commitment(key_id, leaf, share).ct_eq(expected).into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::Secret;

    fn share(byte: u8) -> Share {
        Share(Secret::from_slice(&[byte; 32]).unwrap())
    }

    #[test]
    fn frozen_vector() {
        let ch = CustodianId::new("ch").unwrap();
        let got = commitment(&KeyId([0x11; 16]), &ch, &share(0x22));
        assert_eq!(
            hex::encode(got),
            "71c4c8e505c496f2c171a6fd82241b64aac468b0a40742a6878c4c1031e8ef7f"
        );
        let mut bytes = vec![16, 0, 0, 0, 0, 0, 0, 0];
        bytes.extend([0x11; 16]);
        bytes.extend([2, 0, 0, 0, 0, 0, 0, 0, b'c', b'h']);
        bytes.extend([32, 0, 0, 0, 0, 0, 0, 0]);
        bytes.extend([0x22; 32]);
        assert_eq!(got, blake3::derive_key(CONTEXT, &bytes));
    }

    #[test]
    fn every_field_counts() {
        let (ch, is) = (
            CustodianId::new("ch").unwrap(),
            CustodianId::new("is").unwrap(),
        );
        let id = KeyId([1; 16]);
        let made = commitment(&id, &ch, &share(7));
        assert!(commitment_holds(&id, &ch, &share(7), &made));
        assert!(!commitment_holds(&id, &ch, &share(8), &made));
        assert!(!commitment_holds(&id, &is, &share(7), &made));
        assert!(!commitment_holds(&KeyId([2; 16]), &ch, &share(7), &made));
        for bit in 0..256 {
            let mut other = made;
            other[bit / 8] ^= 1 << (bit % 8);
            assert!(!commitment_holds(&id, &ch, &share(7), &other), "bit {bit}");
        }
    }
}
