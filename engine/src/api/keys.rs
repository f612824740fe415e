//! The operator plane's JSON about a node's own keys: slots, ceremonies, locks.

use serde::{Deserialize, Serialize};
use std::fmt;
use zeroize::Zeroize;

/// A secret on its way between an operator and a node, over TLS: wiped when
/// dropped, printed by nobody.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SecretText(pub String);

impl Drop for SecretText {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}
impl fmt::Debug for SecretText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretText(..)")
    }
}

/// `GET /v1/keys`, and part of every answer under it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeysView {
    /// The node.
    pub node: u64,
    /// Whether its root and keys are loaded.
    pub open: bool,
    /// Whether nothing was set up yet: the first slot opens it.
    pub new: bool,
    /// The provider in its configuration.
    pub provider: String,
    /// Whether the root's memory is locked and left out of core dumps.
    pub memory_locked: bool,
    /// What opens its root.
    pub slots: Vec<SlotView>,
    /// Holders who are bringing their shares.
    pub gathering: Option<GatheringView>,
    /// New shares being dealt.
    pub rekey: Option<RekeyView>,
}

/// One key slot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlotView {
    /// Its name.
    pub name: String,
    /// `key-file`, `passphrase`, `shares` or `pkcs11`.
    pub provider: String,
    /// Who must come together, for shares.
    pub holders: Option<String>,
    /// The ceremony that dealt the shares, hex.
    pub ceremony: Option<String>,
    /// Everything public of it, hex, for other nodes of the custodian.
    pub public: String,
}

/// Holders who are bringing their shares.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GatheringView {
    /// Its nonce, hex; each holder's step names it.
    pub ceremony: String,
    /// The slot.
    pub slot: String,
    /// `unlock` or `check`.
    pub purpose: Purpose,
    /// Who must come together.
    pub holders: String,
    /// Who has come.
    pub have: Vec<String>,
}

/// New shares being dealt.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RekeyView {
    /// Its nonce, hex.
    pub ceremony: String,
    /// What holders prove possession to, hex.
    pub challenge: String,
    /// The slot.
    pub slot: String,
    /// Who will hold shares.
    pub holders: String,
    /// Who has proved possession.
    pub confirmed: Vec<String>,
}

/// What a slot is opened for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Purpose {
    /// To load the keys.
    Unlock,
    /// To see that it would open, and keep nothing.
    Check,
}

/// `POST /v1/keys/open`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OpenRequest {
    /// What for.
    pub purpose: Purpose,
    /// Why; stands in the log.
    pub reason: String,
    /// The slot; not needed with a share, which names its own.
    pub slot: Option<String>,
    /// The slot's unlock key, hex, as a passphrase gives it.
    pub unlock_key: Option<SecretText>,
    /// A holder's share, as in its file.
    pub share: Option<SecretText>,
    /// The gathering joined; the first holder names none and begins one.
    pub ceremony: Option<String>,
}

/// `POST /v1/keys/lock`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LockRequest {
    /// Why; stands in the log.
    pub reason: String,
}

/// `POST /v1/keys/rekey`: exactly one of `holders`, `public` and `own`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RekeyRequest {
    /// The slot to put in or replace; not needed with `public`.
    pub slot: Option<String>,
    /// Why; stands in the log.
    pub reason: String,
    /// Deal shares to these: a ceremony begins.
    pub holders: Option<String>,
    /// A slot made elsewhere: of a passphrase, or from another node.
    pub public: Option<String>,
    /// A slot of the provider that the node is configured with (`key-file`, `pkcs11`).
    #[serde(default)]
    pub own: bool,
}

/// `POST /v1/keys/collect`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CollectRequest {
    /// The ceremony.
    pub ceremony: String,
    /// Whose share.
    pub holder: String,
}

/// `POST /v1/keys/confirm`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConfirmRequest {
    /// The ceremony.
    pub ceremony: String,
    /// Who proves possession.
    pub holder: String,
    /// The proof, hex.
    pub proof: String,
}

/// `POST /v1/keys/rotate`, to the leader.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RotateRequest {
    /// `sealing` or `wrapping`.
    pub kind: String,
    /// Why; stands in the log.
    pub reason: String,
}

/// `POST /v1/keys/cancel` (a ceremony) and `POST /v1/keys/remove` (a slot).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NamedRequest {
    /// The ceremony or slot.
    pub name: String,
    /// Why; stands in the log.
    pub reason: String,
}

/// What a step about keys led to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeysDone {
    /// What is so now, in words.
    pub detail: String,
    /// The keys after it.
    pub view: KeysView,
    /// A holder's share, for the holder's file; `collect` only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub share: Option<SecretText>,
}

/// What an operator asks about a node's keys.
#[derive(Clone, Debug)]
pub enum KeysStep {
    /// Open or check a slot.
    Open(OpenRequest),
    /// Drop the keys.
    Lock(LockRequest),
    /// Put a slot in or replace it.
    Rekey(RekeyRequest),
    /// Take a new share.
    Collect(CollectRequest),
    /// Prove that it was taken.
    Confirm(ConfirmRequest),
    /// Give a ceremony up.
    Cancel(NamedRequest),
    /// Take a slot out.
    Remove(NamedRequest),
    /// Bring the next version of a key into use.
    Rotate(RotateRequest),
}
