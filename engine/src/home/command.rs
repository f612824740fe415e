//! What is proposed to a shard, and what its `apply` answers.
//!
//! Everything random, sealed or read from a clock is in the command, so that
//! `apply` is a function of state and command alone. Nothing secret is in it:
//! records and shares are sealed before they are proposed.

use crate::authz::envelope::Envelope;
use crate::authz::membership;
use crate::authz::service::ServiceKey;
use crate::crypto::message::RecordKind;
use crate::custody::protocol::{KeyRef, Receipt, SealSession, StatementRefused, StoreOutcome};
use crate::policy::Margins;
use crate::types::codec::{self, CodecError};
use crate::types::{
    AccountId, ChatId, CustodianId, DeploymentId, EpochNo, HomeId, KeyId, MessageId, PolicyId,
    PublicKey, Revision, ServiceId, SessionId, StatementHash, WallMs,
};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// Format version of commands and replies.
pub const COMMAND_VERSION: u8 = 1;

/// A command with the proposing leader's clock.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proposal {
    /// The leader's clock. Entry time is the greater of this and the shard's last.
    pub now_ms: WallMs,
    /// What to do.
    pub command: Command,
}

impl Proposal {
    /// Bytes for the raft log.
    pub fn encode(&self) -> Vec<u8> {
        codec::encode(COMMAND_VERSION, self)
    }
    /// Reads what [`Proposal::encode`] made.
    ///
    /// # Errors
    /// [`CodecError`] when the bytes are none.
    pub fn decode(bytes: &[u8]) -> Result<Self, CodecError> {
        codec::decode("home command", COMMAND_VERSION, bytes)
    }
}

/// What a shard can be told to do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Command {
    /// New epochs are dealt under this policy from now on.
    SetPolicy(SetPolicy),
    /// A chat exists from now on: its genesis, which custodians took before. Repeating it is success.
    CreateChat(ChatStatement),
    /// The next statement of a chat's chain. Repeating it is success.
    ChatStatement(ChatStatement),
    /// A chat's newest statement was refused by every custodian: it never was.
    UndoStatement(UndoStatement),
    /// These encapsulations may be sealed under.
    SealSessions(Vec<SealSession>),
    /// A dealing was made. Commits before any share of it is sent.
    EpochIntent(EpochIntent),
    /// Custodians answered. Opens intents; shrinks the outbox.
    EpochAcks(Vec<EpochAck>),
    /// An intent will never open. Commits before custodians hear of it.
    Abandon(KeyRef),
    /// Custodians confirmed (or for ever refused) these abandonments.
    AbandonAcks(Vec<(CustodianId, KeyId)>),
    /// No more records under this epoch.
    CloseEpoch(KeyRef),
    /// New records, all or none.
    WriteMessages(WriteMessages),
    /// A record's content is replaced.
    EditMessage(EditMessage),
    /// A deletion was signed. Repeating it is success.
    RecordDeletion(RecordDeletion),
    /// Custodians' promises for the journal.
    Journal(Vec<Receipt>),
    /// Forgets what is past its time: idempotency rows, sessions and their outbox, receipts.
    Sweep,
    /// A service's key is enrolled or ended. Repeating it is success.
    Service(ServiceChange),
}

/// See [`Command::Service`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ServiceChange {
    /// It counts from now on.
    Enrol {
        /// The key.
        key: ServiceKey,
        /// The operator who says so.
        by: String,
    },
    /// It counts no longer, for ever.
    End {
        /// Which.
        service: ServiceId,
    },
}

/// See [`Command::SetPolicy`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SetPolicy {
    /// [`Policy::canonical`](crate::policy::Policy::canonical).
    #[serde(with = "serde_bytes")]
    pub canonical: Vec<u8>,
    /// Its margins.
    pub margins: Margins,
}

/// A signed statement about a chat's members, and what the leader found out about who signs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChatStatement {
    /// Signatures cover it.
    pub deployment: DeploymentId,
    /// What was signed.
    pub statement: Envelope,
    /// The account that custodians were asked about.
    pub account: AccountId,
    /// Key of its device that they called live; to `apply` every other device is unknown.
    pub device: PublicKey,
}

impl ChatStatement {
    /// The chat that it founds, if it is a genesis.
    pub fn chat(&self) -> ChatId {
        membership::chat_id(&self.statement)
    }
}

/// See [`Command::RecordDeletion`], with what the leader found out about who signs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordDeletion {
    /// The deployment.
    pub deployment: DeploymentId,
    /// This home.
    pub home: HomeId,
    /// What was signed.
    pub statement: Envelope,
    /// The account that custodians were asked about.
    pub account: AccountId,
    /// Key of its device that they called live; to `apply` every other device is unknown.
    pub device: PublicKey,
    /// Devices, as records name them, that custodians know as the account's, now or once.
    pub own: BTreeSet<String>,
}

/// See [`Command::UndoStatement`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UndoStatement {
    /// The chat.
    pub chat: ChatId,
    /// The statement's number.
    pub number: u64,
    /// Its hash.
    pub hash: StatementHash,
}

/// One dealing, before any of its shares is sent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EpochIntent {
    /// The chat.
    pub chat: ChatId,
    /// The epoch it would open.
    pub epoch: EpochNo,
    /// Key id of the chat's last opened epoch: the compare of the compare-and-set.
    pub previous: Option<KeyId>,
    /// The dealing.
    pub key_id: KeyId,
    /// The policy it is dealt under.
    pub policy: PolicyId,
    /// Commits to the data key.
    pub check: [u8; 32],
    /// One per leaf of the policy, in canonical order.
    pub leaves: Vec<DealtLeaf>,
    /// Fixed when dealt: custodians destroy the shares then.
    pub expires_ms: Option<WallMs>,
}

/// One leaf's part of a dealing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DealtLeaf {
    /// The leaf.
    pub custodian: CustodianId,
    /// Commitment to its share.
    pub commitment: [u8; 32],
    /// The sealed share; absent when no live sealing key of the custodian was
    /// known: a lost margin from the start.
    pub sealed: Option<SealedLeaf>,
}

/// A share sealed under a committed session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SealedLeaf {
    /// The session.
    pub session: SessionId,
    /// Sealed bytes.
    #[serde(with = "serde_bytes")]
    pub bytes: Vec<u8>,
}

/// Answers of custodians about one dealing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EpochAck {
    /// The dealing.
    pub key: KeyRef,
    /// Who has it durably.
    pub acked: Vec<CustodianId>,
    /// Who never will, and what it said.
    pub lost: Vec<(CustodianId, StoreOutcome)>,
    /// The leader says nobody else answered in time: thin is acceptable.
    pub waited: bool,
}

/// New records of one chat with consecutive ids.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WriteMessages {
    /// The chat and the open dealing they are sealed under.
    pub key: KeyRef,
    /// Id of the first: must be the chat's next.
    pub first: MessageId,
    /// The records, in order.
    pub records: Vec<NewRecord>,
}

/// One new record.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewRecord {
    /// Writing device.
    pub device: String,
    /// Unique per device and chat.
    pub idempotency: String,
    /// Keyed digest of the content, under the dealing's `digest` subkey.
    pub digest: [u8; 32],
    /// Profile for message 0, else message.
    pub kind: RecordKind,
    /// Sealed content.
    #[serde(with = "serde_bytes")]
    pub sealed: Vec<u8>,
}

impl std::fmt::Debug for NewRecord {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "NewRecord({:?}, {} bytes)", self.kind, self.sealed.len())
    }
}

/// A record's new content, sealed under the chat's **open** epoch (not the
/// record's own): writing needs one key only, an old epoch can be shredded
/// without waiting for its edits, and one key never seals more than
/// [`EPOCH_RECORDS_MAX`](super::EPOCH_RECORDS_MAX) records.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EditMessage {
    /// The chat and the open dealing.
    pub key: KeyRef,
    /// The record.
    pub message: MessageId,
    /// The revision it must be at; it becomes one more.
    pub revision: Revision,
    /// The new content.
    pub record: NewRecord,
}

/// What `apply` answered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reply {
    /// Done, nothing more to say.
    Done,
    /// To `CreateChat`.
    Chat {
        /// Its id.
        chat: ChatId,
        /// Entry time of its creation.
        created_ms: WallMs,
        /// It was there before.
        repeated: bool,
    },
    /// To `ChatStatement`: it stands.
    Chained {
        /// Its number.
        number: u64,
        /// Its hash.
        hash: StatementHash,
        /// It stood before.
        repeated: bool,
    },
    /// To `RecordDeletion`: it stands.
    DeletionStands {
        /// Entry time of its recording.
        at_ms: WallMs,
        /// It stood before.
        repeated: bool,
    },
    /// To `CreateChat`, `ChatStatement` and `RecordDeletion`: whoever signed may not, or it is not the next one.
    Refused(StatementRefused),
    /// To `EpochIntent`: committed (now, or before with the same bytes).
    Intent(KeyRef),
    /// To `EpochAcks`: one per item, in order.
    Acks(Vec<DealingState>),
    /// To `WriteMessages` and `EditMessage`: one per record, in order.
    Written(Vec<WriteResult>),
    /// The state has moved on; look again and repeat.
    Conflict(Conflict),
    /// `EditMessage` named another revision.
    RevisionMismatch {
        /// The revision it is at.
        current: Revision,
    },
    /// No such chat, message or dealing.
    NotFound,
    /// Will never succeed.
    Invalid {
        /// Why, in words for a log.
        reason: String,
    },
}

impl Reply {
    /// Bytes for the raft reply.
    pub fn encode(&self) -> Vec<u8> {
        codec::encode(COMMAND_VERSION, self)
    }
    /// Reads what [`Reply::encode`] made.
    ///
    /// # Errors
    /// [`CodecError`] when the bytes are none.
    pub fn decode(bytes: &[u8]) -> Result<Self, CodecError> {
        codec::decode("home reply", COMMAND_VERSION, bytes)
    }
    pub(super) fn invalid(reason: impl Into<String>) -> Self {
        Reply::Invalid {
            reason: reason.into(),
        }
    }
}

/// Where a dealing stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum DealingState {
    /// Dealt, not yet open.
    Intent,
    /// Records are written under it.
    Open {
        /// With less than the write margin.
        thin: bool,
    },
    /// No more records are written under it.
    Closed,
    /// It never opened and never will.
    Abandoned,
    /// The shard knows no such dealing.
    Unknown,
}

/// What became of one record of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WriteResult {
    /// Its id.
    pub id: MessageId,
    /// Its revision by this write.
    pub revision: Revision,
    /// Entry time of the write.
    pub at_ms: WallMs,
    /// How it compares with an earlier use of its idempotency key.
    pub repeat: Repeat,
}

/// How a write relates to an earlier one with its idempotency key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Repeat {
    /// There was none: written now.
    First,
    /// Written before with the same content.
    Same,
    /// The key was used before for other content: nothing was written.
    Mismatch,
    /// Written before under another dealing, so the digests cannot be compared
    /// here; whoever holds that dealing's key can.
    Elsewhere {
        /// The dealing the digest is keyed by.
        key_id: KeyId,
        /// The digest of the first content.
        digest: [u8; 32],
    },
}

/// Why a compare-and-set failed, and what stands there now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Conflict {
    /// Which comparison failed.
    pub why: ConflictWhy,
    /// The chat's next message id.
    pub next: MessageId,
    /// The open dealing.
    pub open: Option<(EpochNo, KeyId)>,
    /// The dealing being opened.
    pub intent: Option<(EpochNo, KeyId)>,
    /// The last opened dealing.
    pub last: Option<(EpochNo, KeyId)>,
}

/// See [`Conflict`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ConflictWhy {
    /// The first id is not the chat's next.
    NextId,
    /// The key is not the open dealing's, or none is open.
    NotOpen,
    /// The open epoch has sealed as many records as it may: open the next.
    EpochFull,
    /// The open epoch is too old: open the next.
    EpochOld,
    /// Some, not all, of the records were written before: leave those out.
    Repeats,
    /// Another dealing is being opened, or was opened meanwhile.
    Intent,
    /// The dealing is open or closed already: it cannot be abandoned.
    AlreadyOpen,
}
