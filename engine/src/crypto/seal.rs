//! Batch sealing of shares by hybrid HPKE (X-Wing) (stub).
use crate::types::{ChatId, CustodianId, DeploymentId, KeyId, PolicyId, Share};
use rand_core::CryptoRng;
/// What a sealed or wrapped share is bound to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShareBinding {
    /// deployment
    pub deployment: DeploymentId,
    /// custodian; also the leaf
    pub custodian: CustodianId,
    /// chat
    pub chat: ChatId,
    /// dealing
    pub key_id: KeyId,
    /// policy it was dealt under
    pub policy: PolicyId,
}
/// Extra context of a release: who asked, under what authority, for which lease key.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct ReleaseBinding {
    /// hash of the authority (grant, order, or peer certificate for now)
    pub authority: [u8; 32],
    /// home node
    pub node: u64,
    /// hash of the lease public key
    pub lease_key: [u8; 32],
}
/// Sealing failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    /// placeholder
    #[error("stub")]
    Stub,
}
/// A recipient's key pair: a custodian's sealing key version or a home node's lease key.
pub struct RecipientKey;
/// The public half, as bytes on the wire (X-Wing: 1216 bytes).
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct RecipientPublic(#[serde(with = "serde_bytes")] pub Vec<u8>);
impl RecipientKey {
    /// Fresh.
    pub fn generate<R: CryptoRng + ?Sized>(_rng: &mut R) -> Self {
        todo!()
    }
    /// From its 32-byte seed, as a vault stores it.
    pub fn from_seed(_seed: &crate::types::Secret<32>) -> Self {
        todo!()
    }
    /// The seed, for the vault.
    pub fn seed(&self) -> crate::types::Secret<32> {
        todo!()
    }
    /// Public half.
    pub fn public(&self) -> RecipientPublic {
        todo!()
    }
}
impl RecipientPublic {
    /// BLAKE3 of the bytes.
    pub fn hash(&self) -> [u8; 32] {
        todo!()
    }
}
/// One encapsulation; many shares, in any order.
pub struct Sender {
    _p: (),
}
/// The receiving side of [`Sender`].
pub struct Receiver {
    _p: (),
}
impl Sender {
    /// Encapsulates to `to`; `info` is a purpose label plus context. Returns the 1120-byte encapsulation.
    pub fn new<R: CryptoRng + ?Sized>(
        _to: &RecipientPublic,
        _info: &[u8],
        _rng: &mut R,
    ) -> Result<(Self, Vec<u8>), SealError> {
        todo!()
    }
    /// Seals one share under Export(key id, leaf); `nonce` is fresh random.
    pub fn seal(
        &self,
        _b: &ShareBinding,
        _release: Option<&ReleaseBinding>,
        _nonce: [u8; 24],
        _share: &Share,
    ) -> Vec<u8> {
        todo!()
    }
}
impl Receiver {
    /// Decapsulates.
    pub fn new(_key: &RecipientKey, _encapsulated: &[u8], _info: &[u8]) -> Result<Self, SealError> {
        todo!()
    }
    /// Opens one share.
    pub fn open(
        &self,
        _b: &ShareBinding,
        _release: Option<&ReleaseBinding>,
        _sealed: &[u8],
    ) -> Result<Share, SealError> {
        todo!()
    }
}
/// `info` for shares dealt by a home to a custodian's sealing key version.
pub fn deal_info(_deployment: &DeploymentId, _custodian: &CustodianId, _version: u32) -> Vec<u8> {
    todo!()
}
/// `info` for shares released by a custodian to a lease key.
pub fn release_info(_deployment: &DeploymentId, _custodian: &CustodianId) -> Vec<u8> {
    todo!()
}
