//! A shard's key space: one ordered key space, the first byte names the table.
//!
//! Numbers in keys are big-endian so that they sort; names are followed by a
//! zero byte, which no name contains. Values are [`codec`] bytes of the row types here.

use crate::authz::envelope::Envelope;
use crate::authz::membership::{ChatHead, Invite, Member};
use crate::authz::service::ServiceKey;
use crate::crypto::message::RecordKind;
use crate::custody::protocol::StoreOutcome;
use crate::policy::Margins;
use crate::types::codec;
use crate::types::kv::{Kv, KvError, KvRead};
use crate::types::{
    AccountId, ChatId, CustodianId, EpochNo, KeyId, MessageId, PolicyId, PublicKey, Revision,
    ServiceId, SessionId, StatementHash, WallMs,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// Format version of every row.
pub const ROW_VERSION: u8 = 1;

/// First bytes of keys.
pub mod table {
    /// One row: [`Meta`](super::Meta).
    pub const META: u8 = 0x01;
    /// policy id → [`PolicyRow`](super::PolicyRow).
    pub const POLICY: u8 = 0x02;
    /// chat → [`ChatRow`](super::ChatRow).
    pub const CHAT: u8 = 0x03;
    /// chat, message id (8) → [`RecordRow`](super::RecordRow).
    pub const RECORD: u8 = 0x04;
    /// chat, epoch (4) → [`EpochRow`](super::EpochRow).
    pub const EPOCH: u8 = 0x05;
    /// chat of a pending intent → nothing.
    pub const INTENT: u8 = 0x06;
    /// session id → `SealSession`.
    pub const SESSION: u8 = 0x07;
    /// custodian, 0, session id, key id → [`OutboxRow`](super::OutboxRow).
    pub const OUTBOX: u8 = 0x08;
    /// chat, device length (1), device, key → [`IdempotencyRow`](super::IdempotencyRow).
    pub const IDEMPOTENCY: u8 = 0x09;
    /// entry time (8), log index (8) → list of idempotency keys written then.
    pub const IDEMPOTENCY_TIME: u8 = 0x0a;
    /// receipt time (8), custodian, 0, entry (8) → `Receipt`.
    pub const RECEIPT: u8 = 0x0b;
    /// chat, epoch (4) of an opened epoch with less than its margin → nothing.
    pub const THIN: u8 = 0x0c;
    /// key id → [`DealingRow`](super::DealingRow): every dealing ever intended here.
    pub const DEALING: u8 = 0x0d;
    /// custodian, 0, key id → chat: abandonments it has not confirmed.
    pub const ABANDONED: u8 = 0x0e;
    /// expiry (8), session id → nothing.
    pub const SESSION_TIME: u8 = 0x0f;
    /// chat, account → `Member`.
    pub const MEMBER: u8 = 0x10;
    /// account, chat it is a member of → nothing.
    pub const ACCOUNT: u8 = 0x11;
    /// chat, key of an invite → `Invite`.
    pub const INVITE: u8 = 0x12;
    /// chat, number (8) → `Envelope`: the chat's chain; the genesis is 0.
    pub const STATEMENT: u8 = 0x13;
    /// chat → [`UndoRow`](super::UndoRow).
    pub const UNDO: u8 = 0x14;
    /// chat, hash of a deletion statement → [`DeletionRow`](super::DeletionRow).
    pub const DELETION: u8 = 0x15;
    /// chat → how many deletions of it wait.
    pub const DELETIONS: u8 = 0x16;
    /// service → [`ServiceRow`](super::ServiceRow).
    pub const SERVICE: u8 = 0x17;
}

/// The shard's own row.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Meta {
    /// Entry time of the last command.
    pub time_ms: WallMs,
    /// The policy new epochs are dealt under.
    pub policy: Option<PolicyId>,
    /// Chats.
    pub chats: u64,
    /// Records, profiles included.
    pub records: u64,
    /// Epochs opened so far.
    pub epochs: u64,
    /// Epochs opened so far with less than their margin now.
    pub thin: u64,
    /// Sealed shares not yet delivered.
    pub outbox: u64,
    /// Undelivered shares given up, for ever refused or expired: lost margins.
    pub lost: u64,
}

/// A policy epochs were or will be dealt under.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyRow {
    /// Canonical bytes.
    #[serde(with = "serde_bytes")]
    pub canonical: Vec<u8>,
    /// Margins, as last set.
    pub margins: Margins,
}

/// A chat.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChatRow {
    /// Where its chain of statements ends, and what that says of the chat itself.
    pub head: ChatHead,
    /// Entry time of its creation.
    pub created_ms: WallMs,
    /// Id of its next record; 0 until the profile is written.
    pub next: MessageId,
    /// The epoch records are written under.
    pub open: Option<OpenEpoch>,
    /// The last epoch that was opened.
    pub last: Option<(EpochNo, KeyId)>,
    /// The dealing being opened.
    pub intent: Option<(EpochNo, KeyId)>,
}

/// What a chat's newest statement changed, as it was before.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UndoRow {
    /// The chat.
    pub head: ChatHead,
    /// The member it changed.
    pub member: Option<(AccountId, Option<Member>)>,
    /// The invite it changed.
    pub invite: Option<(PublicKey, Option<Invite>)>,
}

/// A deletion that was signed, and waits to be carried out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeletionRow {
    /// As it was signed; its mandate ends 24 hours after it was made.
    pub statement: Envelope,
    /// Entry time of its recording.
    pub at_ms: WallMs,
}

/// A service's key. The same in every shard.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceRow {
    /// As it was enrolled.
    pub key: ServiceKey,
    /// Entry time.
    pub enrolled_ms: WallMs,
    /// The operator who enrolled it.
    pub by: String,
    /// Entry time at which an operator ended it.
    pub ended_ms: Option<WallMs>,
}

/// The open epoch of a chat.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenEpoch {
    /// Its number.
    pub epoch: EpochNo,
    /// Its dealing.
    pub key_id: KeyId,
    /// Entry time of its opening.
    pub opened_ms: WallMs,
    /// Records sealed under it, edits included.
    pub records: u32,
    /// Less than the write margin.
    pub thin: bool,
}

/// A sealed record and its visible metadata.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordRow {
    /// Kind.
    pub kind: RecordKind,
    /// Revision, from 0.
    pub revision: Revision,
    /// Entry time of the first write.
    pub sent_ms: WallMs,
    /// Entry time of the last edit.
    pub edited_ms: Option<WallMs>,
    /// Device that wrote it first.
    pub device: String,
    /// Epoch it is sealed under.
    pub epoch: EpochNo,
    /// Dealing it is sealed under.
    pub key_id: KeyId,
    /// Sealed content.
    #[serde(with = "serde_bytes")]
    pub sealed: Vec<u8>,
}

/// One dealing of one epoch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EpochRow {
    /// The dealing.
    pub key_id: KeyId,
    /// Policy it was dealt under.
    pub policy: PolicyId,
    /// Commits to the data key.
    pub check: [u8; 32],
    /// Hash of the whole intent, to tell a repetition from another dealing.
    pub intent: [u8; 32],
    /// One per leaf, in canonical order.
    pub leaves: Vec<LeafRow>,
    /// Custodians destroy the shares then.
    pub expires_ms: Option<WallMs>,
    /// Entry time of the intent.
    pub intent_ms: WallMs,
    /// Entry time of the opening.
    pub opened_ms: Option<WallMs>,
    /// Entry time of the closing.
    pub closed_ms: Option<WallMs>,
    /// Opened, with less than the write margin now.
    pub thin: bool,
}

impl EpochRow {
    /// The custodians that have their share durably.
    pub fn acked(&self) -> std::collections::BTreeSet<CustodianId> {
        let acked = self.leaves.iter().filter(|l| l.state == LeafState::Acked);
        acked.map(|l| l.custodian.clone()).collect()
    }
}

/// One leaf of a dealing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeafRow {
    /// Custodian.
    pub custodian: CustodianId,
    /// Commitment to its share.
    pub commitment: [u8; 32],
    /// Session its sealed share in the outbox is sealed under.
    pub session: Option<SessionId>,
    /// Where it stands.
    pub state: LeafState,
}

/// Where one leaf's share is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum LeafState {
    /// In the outbox.
    Pending,
    /// Durably at its custodian.
    Acked,
    /// Its custodian said it never will be.
    Refused(StoreOutcome),
    /// The sealing version lived out before it was delivered, or none was known when dealt.
    Expired,
}

/// What a key id was used for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DealingRow {
    /// Chat.
    pub chat: ChatId,
    /// Epoch.
    pub epoch: EpochNo,
    /// Entry time of its abandonment: a tombstone, for ever.
    pub abandoned_ms: Option<WallMs>,
}

/// One undelivered sealed share.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutboxRow {
    /// Chat.
    pub chat: ChatId,
    /// Its key epoch.
    pub epoch: EpochNo,
    /// Policy it was dealt under.
    pub policy: PolicyId,
    /// Commitment to the share.
    pub commitment: [u8; 32],
    /// Sealed bytes.
    #[serde(with = "serde_bytes")]
    pub sealed: Vec<u8>,
    /// The share's own expiry.
    pub expires_ms: Option<WallMs>,
}

/// The first result under an idempotency key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdempotencyRow {
    /// Keyed digest of what was written.
    pub digest: [u8; 32],
    /// The dealing the digest is keyed by.
    pub key_id: KeyId,
    /// Record.
    pub id: MessageId,
    /// Revision.
    pub revision: Revision,
    /// Entry time.
    pub at_ms: WallMs,
}

/// A list of keys, as `IDEMPOTENCY_TIME` holds them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyList(pub Vec<serde_bytes::ByteBuf>);

/// Joins key parts behind a table byte.
pub fn key(table: u8, parts: &[&[u8]]) -> Vec<u8> {
    let mut out = Vec::with_capacity(1 + parts.iter().map(|p| p.len()).sum::<usize>());
    out.push(table);
    for part in parts {
        out.extend_from_slice(part);
    }
    out
}

/// Key of a record.
pub fn record_key(chat: &ChatId, message: MessageId) -> Vec<u8> {
    key(table::RECORD, &[&chat.0, &message.to_be_bytes()])
}
/// Key of an epoch.
pub fn epoch_key(chat: &ChatId, epoch: EpochNo) -> Vec<u8> {
    key(table::EPOCH, &[&chat.0, &epoch.to_be_bytes()])
}
/// Key of a chat.
pub fn chat_key(chat: &ChatId) -> Vec<u8> {
    key(table::CHAT, &[&chat.0])
}
/// Key of a member.
pub fn member_key(chat: &ChatId, account: &AccountId) -> Vec<u8> {
    key(table::MEMBER, &[&chat.0, &account.0])
}
/// Key of a chat in the list of an account's chats.
pub fn account_key(account: &AccountId, chat: &ChatId) -> Vec<u8> {
    key(table::ACCOUNT, &[&account.0, &chat.0])
}
/// Key of an invite.
pub fn invite_key(chat: &ChatId, invite: &PublicKey) -> Vec<u8> {
    key(table::INVITE, &[&chat.0, &invite.0])
}
/// Key of a statement.
pub fn statement_key(chat: &ChatId, number: u64) -> Vec<u8> {
    key(table::STATEMENT, &[&chat.0, &number.to_be_bytes()])
}
/// Key of a deletion.
pub fn deletion_key(chat: &ChatId, id: &StatementHash) -> Vec<u8> {
    key(table::DELETION, &[&chat.0, &id.0])
}
/// Key of the number of a chat's deletions.
pub fn deletions_key(chat: &ChatId) -> Vec<u8> {
    key(table::DELETIONS, &[&chat.0])
}
/// Key of what a chat's newest statement changed.
pub fn undo_key(chat: &ChatId) -> Vec<u8> {
    key(table::UNDO, &[&chat.0])
}
/// Key of a service's key.
pub fn service_key(service: &ServiceId) -> Vec<u8> {
    key(table::SERVICE, &[&service.0])
}
/// Key of an undelivered share.
pub fn outbox_key(custodian: &CustodianId, session: &SessionId, key_id: &KeyId) -> Vec<u8> {
    let name = custodian.as_str().as_bytes();
    key(table::OUTBOX, &[name, &[0], &session.0, &key_id.0])
}
/// Key of an unconfirmed abandonment.
pub fn abandoned_key(custodian: &CustodianId, key_id: &KeyId) -> Vec<u8> {
    key(
        table::ABANDONED,
        &[custodian.as_str().as_bytes(), &[0], &key_id.0],
    )
}
/// Key of a first result. `device` is at most 64 bytes, checked before.
pub fn idempotency_key(chat: &ChatId, device: &str, idempotency: &str) -> Vec<u8> {
    let len = u8::try_from(device.len()).unwrap_or(u8::MAX);
    key(
        table::IDEMPOTENCY,
        &[&chat.0, &[len], device.as_bytes(), idempotency.as_bytes()],
    )
}
/// The end of the range of keys that start with `prefix`.
pub fn prefix_end(prefix: &[u8]) -> Vec<u8> {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < u8::MAX {
            end.push(last + 1);
            return end;
        }
    }
    vec![u8::MAX; prefix.len() + 1]
}

/// Reads and decodes one row.
///
/// # Errors
/// [`KvError`] when the store fails, or holds bytes this build did not write there.
pub fn get<T: DeserializeOwned>(
    kv: &(impl KvRead + ?Sized),
    key: &[u8],
) -> Result<Option<T>, KvError> {
    kv.get(key)?.map(|bytes| decode(key, &bytes)).transpose()
}

/// Decodes a row's value.
///
/// # Errors
/// [`KvError`] naming the table: applied state that does not decode is damage.
pub fn decode<T: DeserializeOwned>(key: &[u8], bytes: &[u8]) -> Result<T, KvError> {
    codec::decode("row", ROW_VERSION, bytes).map_err(|e| {
        KvError(format!(
            "table {:#04x}: {e}",
            key.first().copied().unwrap_or(0)
        ))
    })
}

/// Encodes and writes one row.
pub(super) fn put<T: Serialize>(kv: &mut dyn Kv, key: &[u8], row: &T) -> Result<(), KvError> {
    kv.put(key, &codec::encode(ROW_VERSION, row))
}
