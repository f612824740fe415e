//! What is signed about a chat's members.

use super::super::envelope::Envelope;
use super::super::standing::Role;
use crate::crypto::labels;
use crate::types::{
    AccountId, ChatId, DeploymentId, DeviceId, EpochNo, Nonce, PublicKey, StatementHash, WallMs,
};
use serde::{Deserialize, Serialize};

/// Most members of a chat.
pub const MEMBERS_MAX: u32 = 1 << 20;

/// The chat that `envelope` founds, if it is a genesis: the hash of its payload.
pub fn chat_id(envelope: &Envelope) -> ChatId {
    ChatId(blake3::derive_key(
        labels::CHAT_GENESIS,
        envelope.payload.as_bytes(),
    ))
}

/// What an envelope signed under [`labels::SIGN_MEMBERSHIP`] says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum ChatPayload {
    /// Founds a chat.
    Genesis(ChatGenesis),
    /// Changes one.
    Statement(ChatStatement),
}

/// Number 0 of a chat's chain, signed by the creator's device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ChatGenesis {
    /// Where it counts.
    pub deployment: DeploymentId,
    /// The first member.
    pub creator: AccountId,
    /// The device that signs.
    pub device: DeviceId,
    /// Whether anyone may join.
    pub public: bool,
    /// When it was made.
    pub created_ms: WallMs,
    /// So that no two chats have one id.
    pub nonce: Nonce,
}

/// A later statement of a chat's chain, signed by `device`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ChatStatement {
    /// The chat.
    pub chat: ChatId,
    /// One more than its predecessor's.
    pub number: u64,
    /// The predecessor's hash.
    pub previous: StatementHash,
    /// When it was made.
    pub at_ms: WallMs,
    /// Who acts.
    pub account: AccountId,
    /// With which device.
    pub device: DeviceId,
    /// What it changes.
    pub change: ChatChange,
}

/// A way into a chat: whoever signs with its key may join.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Invite {
    /// The first key epoch that may be asked for with it.
    pub from_epoch: EpochNo,
    /// It counts before this time.
    pub expires_ms: WallMs,
    /// How many may still join with it.
    pub uses: u32,
}

/// What a statement changes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum ChatChange {
    /// Someone comes in.
    Add {
        /// Who.
        account: AccountId,
        /// Member or admin.
        role: Role,
        /// The first key epoch it may read.
        from_epoch: EpochNo,
    },
    /// Someone else goes.
    Remove {
        /// Who.
        account: AccountId,
    },
    /// Another role.
    SetRole {
        /// Whose.
        account: AccountId,
        /// Member or admin.
        role: Role,
    },
    /// Whoever signs goes.
    Leave,
    /// A way in.
    Invite {
        /// Ed25519 key; its private half is the link.
        key: PublicKey,
        /// How far it goes.
        invite: Invite,
    },
    /// An invite counts no longer, at once.
    RevokeInvite {
        /// Its key.
        key: PublicKey,
    },
    /// Whoever signs comes in, as a member.
    Join {
        /// By this invite, which signs too; `None`: the chat is public.
        invite: Option<PublicKey>,
        /// The first key epoch it will read.
        from_epoch: EpochNo,
    },
    /// Anyone may join, or no longer.
    SetPublic {
        /// From now on.
        public: bool,
    },
}

impl ChatChange {
    /// Its name in log entries.
    pub fn name(&self) -> &'static str {
        match self {
            ChatChange::Add { .. } => "add",
            ChatChange::Remove { .. } => "remove",
            ChatChange::SetRole { .. } => "set_role",
            ChatChange::Leave => "leave",
            ChatChange::Invite { .. } => "invite",
            ChatChange::RevokeInvite { .. } => "revoke_invite",
            ChatChange::Join { .. } => "join",
            ChatChange::SetPublic { .. } => "set_public",
        }
    }

    /// The other account it concerns.
    pub fn subject(&self) -> Option<AccountId> {
        match self {
            ChatChange::Add { account, .. }
            | ChatChange::Remove { account }
            | ChatChange::SetRole { account, .. } => Some(*account),
            _ => None,
        }
    }
}
