//! Subkeys of a data key (stub).
use crate::types::{DataKey, Secret};
/// The subkeys of one data key. Deriving is cheap; hold it no longer than the lease.
#[derive(Debug)]
pub struct Subkeys {
    /// message
    pub message: Secret<32>,
    /// blob wrap
    pub blob_wrap: Secret<32>,
    /// index
    pub index: Secret<32>,
    /// digest
    pub digest: Secret<32>,
}
impl Subkeys {
    /// Derives all.
    pub fn derive(_key: &DataKey) -> Self {
        todo!()
    }
    /// Keyed digest of content: ETag, idempotency, deduplication.
    pub fn digest(&self, _content: &[u8]) -> [u8; 32] {
        todo!()
    }
}
/// Commits to the data key of one dealing (`check`): stored in the clear beside the commitments.
pub fn key_check(_key: &DataKey) -> [u8; 32] {
    todo!()
}
/// Constant-time check of [`key_check`].
pub fn key_check_holds(_key: &DataKey, _check: &[u8; 32]) -> bool {
    todo!()
}
