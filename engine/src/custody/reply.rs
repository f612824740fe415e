//! What `apply` answers, and the token that proves an answer was committed.

use super::command::Wrapped;
use super::protocol::{AbandonOutcome, Refusal, StoreOutcome};
use crate::audit::EntryRef;
use crate::authz::chain::ChainId;
use crate::types::codec::{self, CodecError};
use crate::types::kv::Position;
use crate::types::{ChatId, KeyId, NodeId, PolicyId, RequestId, StatementHash};
use serde::{Deserialize, Serialize};

/// Format version of replies. They live in memory between `apply` and its
/// proposer, and never on disk.
const REPLY_VERSION: u8 = 1;

/// The answer to one raft entry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ApplyReply {
    /// One answer per command, in order.
    Applied(Vec<Applied>),
    /// The entry was not a proposal of this format. Nothing changed.
    Undecodable {
        /// What the codec said.
        reason: String,
    },
}

impl ApplyReply {
    pub(super) fn encode(&self) -> Vec<u8> {
        codec::encode(REPLY_VERSION, self)
    }
}

/// What one command did, and where that is recorded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Applied {
    /// Its log entry.
    pub entry: EntryRef,
    /// What it did.
    pub effect: Effect,
}

/// What a command did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Effect {
    /// To `StoreShares`: one outcome per item, in order.
    Stored(Vec<StoreOutcome>),
    /// To `StoreShares` under a version that is not in use: nothing stored,
    /// open the sealed shares again and wrap them under `current`.
    WrapAgain {
        /// The wrapping version in use, if there is one.
        current: Option<u32>,
    },
    /// To `Release`.
    Released(ReleaseGranted),
    /// To `Abandon`: one outcome per key, in order.
    Abandoned(Vec<AbandonOutcome>),
    /// To `Abandon` and `Shred`: nothing done, the budget is spent.
    OverBudget {
        /// When enough of it will be back.
        retry_ms: u64,
    },
    /// To `Shred`: one outcome per key, in order.
    Shredded(Vec<ShredOutcome>),
    /// To `ExpireShares`.
    Expired {
        /// How many shares were destroyed.
        destroyed: u32,
        /// Whether more are due.
        more: bool,
    },
    /// To `EraseOpenings`: how many were erased.
    Erased(u32),
    /// To `Officers`: taken in.
    Decided {
        /// What is so now, in words.
        detail: String,
        /// Whether a quorum stood and its proposal was carried out with it.
        carried: bool,
    },
    /// Done now.
    Done,
    /// It was so already.
    Unchanged,
    /// Not done, and recorded as refused.
    Refused {
        /// Why, in words.
        reason: String,
    },
    /// To `AccountStatement` and `ChatStatement`: taken in.
    Chained {
        /// Which chain.
        chain: ChainId,
        /// Its number.
        number: u64,
        /// Its hash.
        hash: StatementHash,
    },
    /// To the same: statements before it are missing here.
    Behind {
        /// The newest here; `None`: not even the genesis.
        have: Option<u64>,
        /// What was sent.
        got: u64,
    },
    /// To the same: it contradicts what stands here, and changes nothing.
    Forked {
        /// The chain is marked: nothing in it changes any more.
        marked: bool,
    },
    /// To `Rewrap`: how many shares are under the new version now.
    Rewrapped(u32),
}

/// What became of one key of a `Shred`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ShredOutcome {
    /// The share was destroyed now; a tombstone stands.
    Destroyed,
    /// No share was here; a tombstone stands now, so that none ever will be.
    NotHeld,
    /// A tombstone stood before.
    AlreadyTombstoned,
    /// The key is held for another chat. Nothing done.
    WrongChat,
}

/// What a `Release` granted and refused, bound to what was asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReleaseGranted {
    /// The request.
    pub request: RequestId,
    /// The home's node.
    pub node: NodeId,
    /// Hash of the authority shown.
    pub authority: [u8; 32],
    /// Hash of the lease key.
    pub lease_key: [u8; 32],
    /// One result per key asked for, in order.
    pub results: Vec<Result<Granted, Refusal>>,
    /// The log entry, filled in by whoever holds the whole answer.
    pub entry: EntryRef,
}

/// A share to be opened and sealed to the lease key, still wrapped.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Granted {
    /// The chat.
    pub chat: ChatId,
    /// The dealing.
    pub key_id: KeyId,
    /// The policy it was dealt under.
    pub policy: PolicyId,
    /// Commitment to the share.
    pub commitment: [u8; 32],
    /// Wrapping version.
    pub version: u32,
    /// The wrapped share.
    pub wrapped: Wrapped,
}

/// A value that came out of a committed raft entry.
///
/// Made only by [`committed`], from the reply that consensus hands back with
/// the entry's position. What may be done only after commit takes this.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Committed<T> {
    value: T,
    position: Position,
}

impl<T> Committed<T> {
    /// The value.
    pub fn value(&self) -> &T {
        &self.value
    }
    /// The value, leaving the proof behind.
    pub fn into_value(self) -> T {
        self.value
    }
    /// Where in the raft log it was committed.
    pub fn position(&self) -> Position {
        self.position
    }
}

impl Committed<Applied> {
    /// The answer to a `Release`; anything else comes back as it was.
    ///
    /// # Errors
    /// `self`, when it answers another command.
    pub fn granted(self) -> Result<Committed<ReleaseGranted>, Box<Self>> {
        let position = self.position;
        match self.value.effect {
            Effect::Released(value) => Ok(Committed { value, position }),
            effect => Err(Box::new(Self {
                value: Applied {
                    entry: self.value.entry,
                    effect,
                },
                position,
            })),
        }
    }
}

/// A reply of `apply` that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReplyError {
    /// Not a reply of this build's format.
    #[error(transparent)]
    Codec(#[from] CodecError),
    /// Every node passed the entry by.
    #[error("the committed entry was not understood by this build's state machine: {0}")]
    Undecodable(String),
}

/// Reads the reply to the entry committed at `position`.
///
/// # Errors
/// [`ReplyError`].
pub fn committed(position: Position, reply: &[u8]) -> Result<Vec<Committed<Applied>>, ReplyError> {
    match codec::decode("custodian reply", REPLY_VERSION, reply)? {
        ApplyReply::Undecodable { reason } => Err(ReplyError::Undecodable(reason)),
        ApplyReply::Applied(all) => Ok(all
            .into_iter()
            .map(|value| Committed { value, position })
            .collect()),
    }
}
