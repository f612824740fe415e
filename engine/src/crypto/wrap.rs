//! Shares at rest (stub).
use crate::crypto::seal::ShareBinding;
use crate::types::{Share, WrappingKey};
/// 24-byte nonce, 32 bytes, 16-byte tag.
pub const WRAPPED_LEN: usize = 72;
/// A wrapped share does not open.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the wrapped share does not open under its key and place")]
pub struct UnwrapError;
/// Wraps under version `version` (bound in).
pub fn wrap(
    _key: &WrappingKey,
    _version: u32,
    _b: &ShareBinding,
    _nonce: [u8; 24],
    _share: &Share,
) -> [u8; WRAPPED_LEN] {
    todo!()
}
/// Unwraps.
pub fn unwrap(
    _key: &WrappingKey,
    _version: u32,
    _b: &ShareBinding,
    _wrapped: &[u8],
) -> Result<Share, UnwrapError> {
    todo!()
}
