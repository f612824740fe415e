//! Sealing of records (stub).
use crate::crypto::subkeys::Subkeys;
use crate::types::{ChatId, DeploymentId, KeyId, MessageId, Revision};
/// What kind of record a ciphertext is; bound into it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum RecordKind {
    /// a chat's profile (message 0)
    Profile,
    /// a message
    Message,
}
/// Everything a sealed record is bound to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordBinding {
    /// deployment
    pub deployment: DeploymentId,
    /// chat
    pub chat: ChatId,
    /// message id
    pub message: MessageId,
    /// revision
    pub revision: Revision,
    /// dealing
    pub key_id: KeyId,
    /// kind
    pub kind: RecordKind,
}
/// A record does not open: wrong key, moved, renumbered or altered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the record does not open under its key and place")]
pub struct OpenError;
/// Seals: 24-byte nonce, ciphertext, 16-byte tag.
pub fn seal(
    _keys: &Subkeys,
    _binding: &RecordBinding,
    _nonce: [u8; 24],
    _plaintext: &[u8],
) -> Vec<u8> {
    todo!()
}
/// Opens what [`seal`] made.
pub fn open(
    _keys: &Subkeys,
    _binding: &RecordBinding,
    _sealed: &[u8],
) -> Result<zeroize::Zeroizing<Vec<u8>>, OpenError> {
    todo!()
}
