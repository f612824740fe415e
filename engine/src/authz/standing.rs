//! What a custodian says about a device or a member at one moment. Grants,
//! membership statements and deletions are decided on these, never on rows.

use crate::types::EpochNo;
use serde::{Deserialize, Serialize};

/// Where a device of an account stands at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum DeviceStanding {
    /// Its record holds: it may act for the account.
    Live {
        /// Ed25519 public key that its signatures are checked with.
        public: [u8; 32],
    },
    /// Its record ran out; the account may renew it.
    Expired,
    /// Taken out for ever.
    Revoked,
    /// Not a device of this account, as far as this custodian was told.
    Unknown,
}

impl DeviceStanding {
    /// The key of a live device.
    pub fn live(&self) -> Option<&[u8; 32]> {
        match self {
            DeviceStanding::Live { public } => Some(public),
            _ => None,
        }
    }
}

/// What a member may do, from least to most.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Reads and writes, leaves.
    Member,
    /// Also adds and removes members, invites, opens the chat to the public.
    Admin,
    /// Also names and unmakes admins.
    Creator,
}

/// Where an account stands in a chat.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum MemberStanding {
    /// A member.
    Member {
        /// What the account may do.
        role: Role,
        /// The first key epoch it may read.
        from_epoch: EpochNo,
    },
    /// The chat is known, the account is not in it.
    NotMember,
    /// This custodian holds no genesis of the chat.
    UnknownChat,
    /// Two statements of one number were signed for this chat: nothing in it
    /// changes, and whoever decides treats its members as unknown.
    Forked,
}
