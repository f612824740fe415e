//! What is signed about an account.

use super::super::envelope::Envelope;
use crate::crypto::labels;
use crate::types::{
    AccountId, AuthorityId, DeploymentId, DeviceId, Nonce, PublicKey, StatementHash, WallMs,
};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// A device's id: the hash of its public key.
pub fn device_id(public: &PublicKey) -> DeviceId {
    DeviceId(blake3::derive_key(labels::DEVICE_ID, &public.0))
}

/// The account that `envelope` founds, if it is a genesis: the hash of its payload.
pub fn account_id(envelope: &Envelope) -> AccountId {
    AccountId(blake3::derive_key(
        labels::ACCOUNT_GENESIS,
        envelope.payload.as_bytes(),
    ))
}

/// What an envelope signed under [`labels::SIGN_ACCOUNT`] says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum AccountPayload {
    /// Founds an account.
    Genesis(AccountGenesis),
    /// Changes one.
    Statement(AccountStatement),
}

/// Number 0 of an account's chain. Signed by its device, by one of its
/// authorities, and by the account secret where it names one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AccountGenesis {
    /// Where it counts.
    pub deployment: DeploymentId,
    /// Who attests this person from now on, 1 to 8.
    pub authorities: BTreeSet<AuthorityId>,
    /// The first device.
    pub device: PublicKey,
    /// When its record ends, at most 30 days after `created_ms`.
    pub expires_ms: WallMs,
    /// Ed25519 key that the client derives from the account secret by Argon2id.
    pub secret: Option<PublicKey>,
    /// When it was made.
    pub created_ms: WallMs,
    /// So that no two accounts have one id.
    pub nonce: Nonce,
}

/// A later statement of an account's chain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AccountStatement {
    /// The account.
    pub account: AccountId,
    /// One more than its predecessor's.
    pub number: u64,
    /// The predecessor's hash.
    pub previous: StatementHash,
    /// When it was made.
    pub at_ms: WallMs,
    /// What it changes.
    pub change: AccountChange,
}

/// What a statement changes, and who has to sign it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum AccountChange {
    /// A further device. An authority, another live device, and the new one.
    AddDevice {
        /// The new device.
        public: PublicKey,
        /// When its record ends.
        expires_ms: WallMs,
    },
    /// A record begins anew. An authority and the device itself, also after it ran out.
    Renew {
        /// Whose record.
        device: DeviceId,
        /// When it ends.
        expires_ms: WallMs,
    },
    /// A device goes for ever. Any live device or any authority.
    Revoke {
        /// Which.
        device: DeviceId,
    },
    /// The way back without a device begins. Two authorities of different
    /// entities, neither the home's; the new device; the account secret where set.
    RecoverBegin {
        /// The new device.
        public: PublicKey,
    },
    /// Recovery ends without a device. Any live device.
    Veto,
    /// The new device counts. It and one authority, after the wait.
    RecoverFinish {
        /// The new device, as recovery began with it.
        public: PublicKey,
        /// When its record ends.
        expires_ms: WallMs,
    },
    /// Another account secret, or none. A live device, an authority, the old
    /// secret where set, and the new one.
    SetSecret {
        /// Its public key.
        public: Option<PublicKey>,
    },
    /// Other authorities. A live device, one of the old ones, and each that is new.
    SetAuthorities {
        /// All of them from now on.
        authorities: BTreeSet<AuthorityId>,
    },
}

impl AccountChange {
    /// Its name in log entries.
    pub fn name(&self) -> &'static str {
        match self {
            AccountChange::AddDevice { .. } => "add_device",
            AccountChange::Renew { .. } => "renew",
            AccountChange::Revoke { .. } => "revoke",
            AccountChange::RecoverBegin { .. } => "recover_begin",
            AccountChange::Veto => "veto",
            AccountChange::RecoverFinish { .. } => "recover_finish",
            AccountChange::SetSecret { .. } => "set_secret",
            AccountChange::SetAuthorities { .. } => "set_authorities",
        }
    }

    /// The device it concerns.
    pub fn device(&self) -> Option<DeviceId> {
        match self {
            AccountChange::AddDevice { public, .. }
            | AccountChange::RecoverBegin { public }
            | AccountChange::RecoverFinish { public, .. } => Some(device_id(public)),
            AccountChange::Renew { device, .. } | AccountChange::Revoke { device } => Some(*device),
            _ => None,
        }
    }

    /// Whether it only takes rights away.
    pub(super) fn restricts(&self) -> bool {
        matches!(self, AccountChange::Revoke { .. } | AccountChange::Veto)
    }
}
