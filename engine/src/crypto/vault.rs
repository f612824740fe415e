//! Key versions encrypted under a provider's root key (stub).
use crate::types::{RootKey, Secret};
/// Does not open under this root and label.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the stored key does not open under this root key")]
pub struct VaultError;
/// Encrypts 32 secret bytes under the root; `label` (kind, version, owner) is bound in.
pub fn lock(_root: &RootKey, _label: &str, _nonce: [u8; 24], _secret: &Secret<32>) -> Vec<u8> {
    todo!()
}
/// Reverses [`lock`].
pub fn unlock(_root: &RootKey, _label: &str, _locked: &[u8]) -> Result<Secret<32>, VaultError> {
    todo!()
}
