//! Secret sharing (contract stub; bodies follow).
use crate::types::{CustodianId, DataKey, KeyId, Share, Structure};
use rand_core::CryptoRng;

/// Why shares cannot be split or combined.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SharingError {
    /// placeholder
    #[error("stub")]
    Stub,
}

/// Splits `key` along `structure`: one share per leaf, in canonical leaf order.
pub fn split<R: CryptoRng + ?Sized>(
    _structure: &Structure,
    _key: &DataKey,
    _rng: &mut R,
) -> Result<Vec<(CustodianId, Share)>, SharingError> {
    todo!()
}
/// Recombines. Shares of custodians beyond what is needed are ignored deterministically.
pub fn combine(
    _structure: &Structure,
    _shares: &[(CustodianId, &Share)],
) -> Result<DataKey, SharingError> {
    todo!()
}
/// Commitment to one leaf's share of one dealing.
pub fn commitment(_key_id: &KeyId, _leaf: &CustodianId, _share: &Share) -> [u8; 32] {
    todo!()
}
/// Constant-time check of [`commitment`].
pub fn commitment_holds(
    _key_id: &KeyId,
    _leaf: &CustodianId,
    _share: &Share,
    _commitment: &[u8; 32],
) -> bool {
    todo!()
}
