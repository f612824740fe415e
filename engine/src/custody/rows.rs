//! Rows of a custodian's replicated state. Values are codec-encoded, numbers
//! in keys big-endian; `0x01`–`0x04` belong to the log (`audit`).

use super::command::{KeyKind, Operator, Wrapped};
use super::protocol::{FreezeScope, SealingKeyStatement};
use crate::types::codec;
use crate::types::kv::{Kv, KvError, KvRead};
use crate::types::{ChatId, HomeId, KeyId, NodeId, PolicyId, RequestId, WallMs};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

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

/// First byte of every table and its name, for `dump` and status.
pub const TABLES: [(u8, &str); 16] = [
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
];

/// A share at rest. Key: key id.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShareRow {
    /// The home that dealt it; no other home obtains it.
    pub home: HomeId,
    /// The chat.
    pub chat: ChatId,
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
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct RequestRow {
    pub(super) binding: [u8; 32],
    pub(super) time_ms: WallMs,
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

/// A token bucket's size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    /// Its name in status.
    pub name: &'static str,
    /// Tokens it holds when full.
    pub capacity: u64,
    /// Tokens it regains in an hour.
    pub per_hour: u64,
    id: u8,
}

/// Keys that may be abandoned: a home that opens epochs at full speed and
/// loses its leader abandons some hundreds at once, never tens of thousands.
pub const ABANDON_BUDGET: Budget = Budget {
    name: "abandon",
    capacity: 8192,
    per_hour: 8192,
    id: 1,
};
/// Keys that may be shredded by operators.
pub const SHRED_BUDGET: Budget = Budget {
    name: "shred",
    capacity: 4096,
    per_hour: 4096,
    id: 2,
};

const HOUR_MS: u64 = 60 * 60 * 1000;

#[derive(Serialize, Deserialize)]
struct BucketRow {
    /// Tokens times [`HOUR_MS`], so that refilling by the millisecond loses nothing.
    level: u64,
    time_ms: WallMs,
}

impl Budget {
    /// Takes `n` tokens at `time_ms`, or says how long to wait for them.
    pub(super) fn spend<K: Kv + ?Sized>(
        &self,
        kv: &mut K,
        time_ms: WallMs,
        n: u64,
    ) -> Result<Result<(), u64>, KvError> {
        if n == 0 {
            return Ok(Ok(()));
        }
        let full = self.capacity * HOUR_MS;
        let row = get::<BucketRow, _>(kv, &[BUDGET, self.id])?;
        let level = row.map_or(full, |r| {
            let back = time_ms
                .saturating_sub(r.time_ms)
                .saturating_mul(self.per_hour);
            r.level.saturating_add(back).min(full)
        });
        let cost = n * HOUR_MS;
        if level < cost {
            return Ok(Err((cost - level).div_ceil(self.per_hour)));
        }
        let level = level - cost;
        put(kv, &[BUDGET, self.id], &BucketRow { level, time_ms })?;
        Ok(Ok(()))
    }
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
pub(super) fn freeze_key(scope: &FreezeScope) -> Vec<u8> {
    match scope {
        FreezeScope::All => vec![FREEZE, 0],
        FreezeScope::Chat(chat) => keyed(FREEZE, &[&[1], &chat.0]),
    }
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
