//! Rows of a custodian's replicated state. Values are codec-encoded, numbers
//! in keys big-endian; `0x01`–`0x04` belong to the log (`audit`).

use super::command::{KeyKind, Operator, Wrapped};
use super::protocol::{FreezeScope, SealingKeyStatement};
use crate::authz::chain::ChainId;
use crate::authz::envelope::Envelope;
use crate::authz::identity::{AccountState, AuthorityRecord};
use crate::authz::membership::ChatHead;
use crate::authz::officers::ProposalId;
use crate::authz::orders::StoredEpoch;
use crate::types::codec;
use crate::types::kv::{Kv, KvError, KvRead};
use crate::types::{
    AccountId, AuditorId, AuthorityId, ChatId, DeviceId, EpochNo, GrantId, HomeId, KeyId, NodeId,
    OrderId, PolicyId, PublicKey, RequestId, StatementHash, WallMs,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

const ROW_VERSION: u8 = 1;

pub(super) const SHARE: u8 = 0x10;
pub(super) const TOMBSTONE: u8 = 0x11;
pub(super) const EXPIRY: u8 = 0x12;
pub(super) const FREEZE: u8 = 0x13;
pub(super) const REQUEST: u8 = 0x14;
pub(super) const REQUEST_AGE: u8 = 0x15;
pub(super) const POLICY: u8 = 0x16;
pub(super) const VERSION: u8 = 0x17;
pub(super) const LIVE: u8 = 0x18;
pub(super) const CURRENT: u8 = 0x19;
pub(super) const BUDGET: u8 = 0x1a;
pub(super) const VOTERS: u8 = 0x1b;
pub(super) const ACCOUNT: u8 = 0x20;
pub(super) const AUTHORITY: u8 = 0x21;
pub(super) const CHAT_HEAD: u8 = 0x22;
pub(super) const MEMBER: u8 = 0x23;
pub(super) const INVITE: u8 = 0x24;
pub(super) const CHAIN: u8 = 0x25;
pub(super) const HOME_ENTITY: u8 = 0x26;
pub(super) const FORK: u8 = 0x27;
pub(super) const CHANGED: u8 = 0x28;
pub(super) const HANDOVER: u8 = 0x30;
pub(super) const GRANT: u8 = 0x31;
pub(super) const GRANT_AGE: u8 = 0x32;
pub(super) const ROSTER: u8 = 0x33;
pub(super) const PROPOSAL: u8 = 0x34;
pub(super) const ORDER: u8 = 0x35;
pub(super) const CHAT_EPOCH: u8 = 0x36;
pub(super) const PROPOSAL_OPEN: u8 = 0x37;
pub(super) const MANDATE: u8 = 0x38;
pub(super) const MANDATE_AGE: u8 = 0x39;
pub(super) const AUDITOR: u8 = 0x3a;

/// First byte of every table and its name, for `dump` and status.
pub const TABLES: [(u8, &str); 36] = [
    (crate::audit::TABLE_HEAD, "log-head"),
    (crate::audit::TABLE_ENTRY, "log-entry"),
    (crate::audit::TABLE_NODE, "log-node"),
    (crate::audit::TABLE_OPENING, "log-opening"),
    (SHARE, "share"),
    (TOMBSTONE, "tombstone"),
    (EXPIRY, "expiry"),
    (FREEZE, "freeze"),
    (REQUEST, "request"),
    (REQUEST_AGE, "request-age"),
    (POLICY, "policy"),
    (VERSION, "key-version"),
    (LIVE, "live-shares"),
    (CURRENT, "current-version"),
    (BUDGET, "budget"),
    (VOTERS, "voters"),
    (ACCOUNT, "account"),
    (AUTHORITY, "authority"),
    (CHAT_HEAD, "chat-head"),
    (MEMBER, "member"),
    (INVITE, "invite"),
    (CHAIN, "statement"),
    (HOME_ENTITY, "home-entity"),
    (FORK, "fork"),
    (CHANGED, "changed-chain"),
    (HANDOVER, "key-handover"),
    (GRANT, "grant"),
    (GRANT_AGE, "grant-age"),
    (ROSTER, "roster"),
    (PROPOSAL, "proposal"),
    (ORDER, "order"),
    (CHAT_EPOCH, "chat-epoch"),
    (PROPOSAL_OPEN, "open-proposal"),
    (MANDATE, "mandate"),
    (MANDATE_AGE, "mandate-age"),
    (AUDITOR, "auditor"),
];

/// An auditor whom the officers admitted. Value: [`Auditor`](crate::authz::auditor::Auditor).
pub(super) fn auditor_key(id: &AuditorId) -> Vec<u8> {
    let mut key = vec![AUDITOR];
    key.extend(id.0);
    key
}

/// When keys were last handed to a restarted node.
pub(super) fn handover_key(node: NodeId) -> Vec<u8> {
    let mut key = vec![HANDOVER];
    key.extend(node.to_be_bytes());
    key
}

/// A share at rest. Key: key id.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShareRow {
    /// The home that dealt it; no other home obtains it.
    pub home: HomeId,
    /// The chat.
    pub chat: ChatId,
    /// The key epoch of the chat.
    pub epoch: EpochNo,
    /// The policy.
    pub policy: PolicyId,
    /// Commitment to the share.
    pub commitment: [u8; 32],
    /// Wrapping version.
    pub version: u32,
    /// The wrapped share.
    pub wrapped: Wrapped,
    /// Entry time of the store.
    pub stored_ms: WallMs,
    /// Fixed when dealt.
    pub expires_ms: Option<WallMs>,
    /// Whether it was ever released.
    pub released: bool,
}

/// Why a tombstone stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TombstoneCause {
    /// The home gave the dealing up before opening it.
    Abandoned,
    /// Officers destroyed it.
    Shredded,
    /// Its time, fixed when dealt, had come.
    Expired,
}

/// The permanent mark that refuses a key id. Key: key id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tombstone {
    /// Why.
    pub cause: TombstoneCause,
    /// The log entry that records it.
    pub entry: u64,
    /// Entry time.
    pub time_ms: WallMs,
    /// Whether a share was destroyed with it.
    pub held: bool,
}

/// A freeze in force. Key: scope.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FreezeRow {
    /// The log entry it began at.
    pub entry: u64,
    /// Entry time.
    pub time_ms: WallMs,
    /// Who.
    pub operator: Operator,
    /// Why.
    pub reason: String,
}

/// What a request id is bound to. Key: request id.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct RequestRow {
    pub(super) binding: [u8; 32],
    pub(super) time_ms: WallMs,
    /// Places in the request of keys that were charged to the grant's ceiling.
    pub(super) charged: BTreeSet<u16>,
}

/// A policy that may be dealt under. Key: policy id.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyRow {
    /// The log entry that approved it.
    pub entry: u64,
    /// Canonical form.
    #[serde(with = "serde_bytes")]
    pub canonical: Vec<u8>,
}

/// An account. Key: account.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccountRow {
    /// Its devices, authorities, and what else its chain says.
    pub state: AccountState,
    /// The log entry of its newest statement.
    pub entry: u64,
}

/// A chat. Key: chat. Its members and invites are rows of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChatRow {
    /// The chat itself.
    pub head: ChatHead,
    /// The log entry of its newest statement.
    pub entry: u64,
}

/// A statement as it was signed, for peers. Key: chain, number.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkRow {
    /// The log entry that took it in.
    pub entry: u64,
    /// That entry's time.
    pub time_ms: WallMs,
    /// The statement.
    pub envelope: Envelope,
}

/// The mark of a chain that forked: nothing in it changes. Key: chain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ForkRow {
    /// The number that two statements have.
    pub number: u64,
    /// The one that stands here.
    pub ours: StatementHash,
    /// The log entry that found it.
    pub entry: u64,
    /// That entry's time.
    pub time_ms: WallMs,
    /// The other, or one that follows the other.
    pub theirs: Envelope,
}

/// Where a key version is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum VersionState {
    /// Drawn; nodes are making it durable.
    Attesting,
    /// In use: the newest of its kind, or still needed.
    InUse,
    /// Out of use for ever.
    Dropped,
}

/// A key version. Key: kind, version.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VersionRow {
    /// Names the key itself; fixed by the first attestation.
    pub fingerprint: [u8; 32],
    /// Where it is in its life.
    pub state: VersionState,
    /// Nodes that made it durable.
    pub attested: BTreeSet<NodeId>,
    /// Entry time of the last change of `state`.
    pub since_ms: WallMs,
    /// For sealing versions in use: what homes are given.
    pub statement: Option<SealingKeyStatement>,
}

/// What was spent of a grant. Key: device, grant id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct GrantRow {
    /// The very grant.
    pub(super) hash: [u8; 32],
    /// Keys charged to its ceiling.
    pub(super) spent: u32,
}

/// What was released under a deletion's mandate. Key: hash of the statement.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct MandateRow {
    /// By epoch: the lease keys, by hash, that it went out to.
    pub(super) served: BTreeMap<EpochNo, BTreeSet<[u8; 32]>>,
}

pub(super) fn get<T: DeserializeOwned, K: KvRead + ?Sized>(
    kv: &K,
    key: &[u8],
) -> Result<Option<T>, KvError> {
    match kv.get(key)? {
        None => Ok(None),
        Some(bytes) => decode(&bytes).map(Some),
    }
}

pub(super) fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, KvError> {
    codec::decode("custodian row", ROW_VERSION, bytes).map_err(|e| KvError(e.to_string()))
}

pub(super) fn put<T: Serialize, K: Kv + ?Sized>(
    kv: &mut K,
    key: &[u8],
    value: &T,
) -> Result<(), KvError> {
    kv.put(key, &codec::encode(ROW_VERSION, value))
}

fn keyed(table: u8, parts: &[&[u8]]) -> Vec<u8> {
    let mut key = Vec::with_capacity(1 + parts.iter().map(|p| p.len()).sum::<usize>());
    key.push(table);
    for part in parts {
        key.extend_from_slice(part);
    }
    key
}

pub(super) fn share_key(id: &KeyId) -> Vec<u8> {
    keyed(SHARE, &[&id.0])
}
pub(super) fn tombstone_key(id: &KeyId) -> Vec<u8> {
    keyed(TOMBSTONE, &[&id.0])
}
pub(super) fn expiry_key(at_ms: WallMs, id: &KeyId) -> Vec<u8> {
    keyed(EXPIRY, &[&at_ms.to_be_bytes(), &id.0])
}
pub(super) fn request_key(id: &RequestId) -> Vec<u8> {
    keyed(REQUEST, &[&id.0])
}
pub(super) fn request_age_key(at_ms: WallMs, id: &RequestId) -> Vec<u8> {
    keyed(REQUEST_AGE, &[&at_ms.to_be_bytes(), &id.0])
}
pub(super) fn grant_key(device: &DeviceId, id: &GrantId) -> Vec<u8> {
    keyed(GRANT, &[&device.0, &id.0])
}
pub(super) fn grant_age_key(at_ms: WallMs, device: &DeviceId, id: &GrantId) -> Vec<u8> {
    keyed(GRANT_AGE, &[&at_ms.to_be_bytes(), &device.0, &id.0])
}
pub(super) fn mandate_key(id: &StatementHash) -> Vec<u8> {
    keyed(MANDATE, &[&id.0])
}
pub(super) fn mandate_age_key(at_ms: WallMs, id: &StatementHash) -> Vec<u8> {
    keyed(MANDATE_AGE, &[&at_ms.to_be_bytes(), &id.0])
}
pub(super) fn policy_key(id: &PolicyId) -> Vec<u8> {
    keyed(POLICY, &[&id.0])
}
pub(super) fn version_key(kind: KeyKind, version: u32) -> Vec<u8> {
    keyed(VERSION, &[&[kind as u8], &version.to_be_bytes()])
}
pub(super) fn live_key(version: u32) -> Vec<u8> {
    keyed(LIVE, &[&version.to_be_bytes()])
}
pub(super) fn current_key(kind: KeyKind) -> Vec<u8> {
    vec![CURRENT, kind as u8]
}
pub(super) fn account_key(id: &AccountId) -> Vec<u8> {
    keyed(ACCOUNT, &[&id.0])
}
pub(super) fn authority_key(id: &AuthorityId) -> Vec<u8> {
    keyed(AUTHORITY, &[id.as_str().as_bytes()])
}
pub(super) fn home_key(id: &HomeId) -> Vec<u8> {
    keyed(HOME_ENTITY, &[id.as_str().as_bytes()])
}
pub(super) fn chat_key(id: &ChatId) -> Vec<u8> {
    keyed(CHAT_HEAD, &[&id.0])
}
pub(super) fn member_key(chat: &ChatId, account: &AccountId) -> Vec<u8> {
    keyed(MEMBER, &[&chat.0, &account.0])
}
pub(super) fn invite_key(chat: &ChatId, key: &PublicKey) -> Vec<u8> {
    keyed(INVITE, &[&chat.0, &key.0])
}
fn chained(table: u8, chain: &ChainId, rest: &[u8]) -> Vec<u8> {
    match chain {
        ChainId::Account(id) => keyed(table, &[&[0], &id.0, rest]),
        ChainId::Chat(id) => keyed(table, &[&[1], &id.0, rest]),
    }
}
pub(super) fn link_key(chain: &ChainId, number: u64) -> Vec<u8> {
    chained(CHAIN, chain, &number.to_be_bytes())
}
pub(super) fn fork_key(chain: &ChainId) -> Vec<u8> {
    chained(FORK, chain, &[])
}
pub(super) fn fork_chain(key: &[u8]) -> Result<ChainId, KvError> {
    let id = key.get(2..).and_then(|id| <[u8; 32]>::try_from(id).ok());
    match (key.get(1), id) {
        (Some(0), Some(id)) => Ok(ChainId::Account(AccountId(id))),
        (Some(1), Some(id)) => Ok(ChainId::Chat(ChatId(id))),
        _ => Err(KvError("fork row with a key of another shape".into())),
    }
}
/// The newest entry of each chain that changed, in the order of the log.
pub(super) fn changed_key(entry: u64) -> Vec<u8> {
    keyed(CHANGED, &[&entry.to_be_bytes()])
}

/// Authorities and homes are registered by officers: a few, read whole.
const REGISTERED_READ_MAX: usize = 256;

pub(super) fn authorities<K: KvRead + ?Sized>(
    kv: &K,
) -> Result<BTreeMap<AuthorityId, AuthorityRecord>, KvError> {
    let found = kv.scan(&[AUTHORITY], &[AUTHORITY + 1], REGISTERED_READ_MAX, false)?;
    let record =
        |(_, v): &(Vec<u8>, Vec<u8>)| decode(v).map(|r: AuthorityRecord| (r.id.clone(), r));
    found.iter().map(record).collect()
}

pub(super) fn home_entities<K: KvRead + ?Sized>(
    kv: &K,
) -> Result<BTreeMap<HomeId, String>, KvError> {
    let found = kv.scan(
        &[HOME_ENTITY],
        &[HOME_ENTITY + 1],
        REGISTERED_READ_MAX,
        false,
    )?;
    let named = |k: &[u8]| {
        let name = std::str::from_utf8(k.get(1..).unwrap_or_default()).ok();
        name.and_then(|n| HomeId::new(n).ok())
            .ok_or_else(|| KvError("home row with a key of another shape".into()))
    };
    found
        .iter()
        .map(|(k, v)| Ok((named(k)?, decode(v)?)))
        .collect()
}

pub(super) fn freeze_key(scope: &FreezeScope) -> Vec<u8> {
    match scope {
        FreezeScope::All => vec![FREEZE, 0],
        FreezeScope::Chat(chat) => keyed(FREEZE, &[&[1], &chat.0]),
    }
}
pub(super) fn proposal_key(id: &ProposalId) -> Vec<u8> {
    keyed(PROPOSAL, &[&id.0])
}
pub(super) fn proposal_open_key(expires_ms: WallMs, id: &ProposalId) -> Vec<u8> {
    keyed(PROPOSAL_OPEN, &[&expires_ms.to_be_bytes(), &id.0])
}
pub(super) fn order_key(id: &OrderId) -> Vec<u8> {
    keyed(ORDER, &[&id.0])
}
/// Its value is the entry time of the store.
pub(super) fn chat_epoch_key(chat: &ChatId, epoch: EpochNo, key: &KeyId) -> Vec<u8> {
    keyed(CHAT_EPOCH, &[&chat.0, &epoch.to_be_bytes(), &key.0])
}
/// Where the rows of `chat` from `epoch` on begin.
pub(super) fn chat_epochs_from(chat: &ChatId, epoch: EpochNo) -> Vec<u8> {
    keyed(CHAT_EPOCH, &[&chat.0, &epoch.to_be_bytes()])
}
/// Past every row of `chat`: longer than any of them, and no byte is above 255.
pub(super) fn chat_epochs_end(chat: &ChatId) -> Vec<u8> {
    keyed(CHAT_EPOCH, &[&chat.0, &[0xff; 21]])
}
pub(super) fn stored_epoch(key: &[u8], value: &[u8]) -> Result<StoredEpoch, KvError> {
    let shape = || KvError("chat epoch row with a key of another shape".into());
    let rest = key.get(1 + ChatId::LEN..).ok_or_else(shape)?;
    let (epoch, id) = rest.split_at_checked(4).ok_or_else(shape)?;
    Ok(StoredEpoch {
        epoch: EpochNo::from_be_bytes(epoch.try_into().map_err(|_| shape())?),
        stored_ms: decode(value)?,
        key: KeyId(id.try_into().map_err(|_| shape())?),
    })
}
pub(super) fn freeze_scope(key: &[u8]) -> Result<FreezeScope, KvError> {
    match key {
        [FREEZE, 0] => Ok(FreezeScope::All),
        [FREEZE, 1, chat @ ..] if chat.len() == ChatId::LEN => {
            let mut out = [0; ChatId::LEN];
            out.copy_from_slice(chat);
            Ok(FreezeScope::Chat(ChatId(out)))
        }
        _ => Err(KvError("freeze row with a key of another shape".into())),
    }
}
