//! Reading a custodian's replicated state: for the leader before it proposes,
//! for status, for the feed of restrictions.

use super::FREEZES_MAX;
use super::command::KeyKind;
use super::protocol::{Feed, FreezeScope, SealingKeyStatement};
use super::rows::{
    self, EXPIRY, FREEZE, FreezeRow, POLICY, PolicyRow, ShareRow, Tombstone, VERSION, VOTERS,
    VersionRow, VersionState, get,
};
use crate::audit::Log;
use crate::types::kv::{KvError, KvRead};
use crate::types::{KeyId, NodeId, PolicyId, WallMs};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// Most policies and key versions listed.
const LIST_MAX: usize = 4096;

/// What stands under a key id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Held {
    /// A share.
    Share(Box<ShareRow>),
    /// A tombstone.
    Tombstone(Tombstone),
    /// Nothing.
    Nothing,
}

/// A custodian's state in numbers; nothing in it needs protection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Overview {
    /// Entries in the log.
    pub log_size: u64,
    /// Its RFC 6962 root.
    pub log_root: [u8; 32],
    /// Time of its newest entry.
    pub log_time_ms: WallMs,
    /// The wrapping version in use.
    pub wrapping: Option<u32>,
    /// The sealing version in use.
    pub sealing: Option<u32>,
    /// When it expires.
    pub sealing_expires_ms: Option<WallMs>,
    /// Shares held, by wrapping version.
    pub live: Vec<(u32, u64)>,
    /// Freezes in force.
    pub freezes: usize,
    /// Whether everything is frozen.
    pub frozen_all: bool,
    /// Policies approved.
    pub policies: Vec<PolicyId>,
    /// The voters attestations are counted against.
    pub voters: BTreeSet<NodeId>,
}

/// What stands under `id`.
///
/// # Errors
/// [`KvError`] when the store fails or the row is damaged.
pub fn share<K: KvRead + ?Sized>(kv: &K, id: &KeyId) -> Result<Held, KvError> {
    if let Some(row) = get(kv, &rows::share_key(id))? {
        return Ok(Held::Share(Box::new(row)));
    }
    Ok(get(kv, &rows::tombstone_key(id))?.map_or(Held::Nothing, Held::Tombstone))
}

/// Freezes in force.
///
/// # Errors
/// [`KvError`] when the store fails or a row is damaged.
pub fn freezes<K: KvRead + ?Sized>(kv: &K) -> Result<Vec<(FreezeScope, FreezeRow)>, KvError> {
    let found = kv.scan(&[FREEZE], &[FREEZE + 1], FREEZES_MAX, false)?;
    found
        .iter()
        .map(|(k, v)| Ok((rows::freeze_scope(k)?, rows::decode(v)?)))
        .collect()
}

/// Every restriction in force and the log size it is true at. Positions are
/// indices of log entries, comparable with a receipt's `entry`.
///
/// # Errors
/// [`KvError`] when the store fails or a row is damaged.
pub fn feed<K: KvRead + ?Sized>(kv: &K) -> Result<Feed, KvError> {
    Ok(Feed {
        position: Log::load(kv)?.size(),
        freezes: freezes(kv)?
            .into_iter()
            .map(|(scope, row)| (scope, row.entry))
            .collect(),
    })
}

/// The version of `kind` that new shares use.
///
/// # Errors
/// [`KvError`] when the store fails or the row is damaged.
pub fn version_in_use<K: KvRead + ?Sized>(kv: &K, kind: KeyKind) -> Result<Option<u32>, KvError> {
    get(kv, &rows::current_key(kind))
}

/// One key version.
///
/// # Errors
/// [`KvError`] when the store fails or the row is damaged.
pub fn key_version<K: KvRead + ?Sized>(
    kv: &K,
    kind: KeyKind,
    version: u32,
) -> Result<Option<VersionRow>, KvError> {
    get(kv, &rows::version_key(kind, version))
}

/// All versions of `kind`, oldest first.
///
/// # Errors
/// [`KvError`] when the store fails or a row is damaged.
pub fn versions<K: KvRead + ?Sized>(
    kv: &K,
    kind: KeyKind,
) -> Result<Vec<(u32, VersionRow)>, KvError> {
    let (from, to) = ([VERSION, kind as u8], [VERSION, kind as u8 + 1]);
    // Newest first, so that the limit never hides the versions in use.
    let mut out = Vec::new();
    for (key, value) in kv.scan(&from, &to, LIST_MAX, true)? {
        let number = <[u8; 4]>::try_from(&key[2..])
            .map_err(|_| KvError("key version row with a key of another shape".into()))?;
        out.push((u32::from_be_bytes(number), rows::decode(&value)?));
    }
    out.reverse();
    Ok(out)
}

/// The statement homes are given, if a sealing version is in use. The caller checks its expiry.
///
/// # Errors
/// [`KvError`] when the store fails or the row is damaged.
pub fn sealing_statement<K: KvRead + ?Sized>(
    kv: &K,
) -> Result<Option<SealingKeyStatement>, KvError> {
    let Some(version) = version_in_use(kv, KeyKind::Sealing)? else {
        return Ok(None);
    };
    let row = key_version(kv, KeyKind::Sealing, version)?;
    Ok(row
        .filter(|r| r.state == VersionState::InUse)
        .and_then(|r| r.statement))
}

/// Whether shares are due for destruction at `now_ms`.
///
/// # Errors
/// [`KvError`] when the store fails.
pub fn due<K: KvRead + ?Sized>(kv: &K, now_ms: WallMs) -> Result<bool, KvError> {
    let end = rows::expiry_key(now_ms.saturating_add(1), &KeyId([0; 16]));
    Ok(!kv.scan(&[EXPIRY], &end, 1, false)?.is_empty())
}

/// An approved policy.
///
/// # Errors
/// [`KvError`] when the store fails or the row is damaged.
pub fn approved_policy<K: KvRead + ?Sized>(
    kv: &K,
    id: &PolicyId,
) -> Result<Option<PolicyRow>, KvError> {
    get(kv, &rows::policy_key(id))
}

/// Ids of the approved policies.
///
/// # Errors
/// [`KvError`] when the store fails or a row is damaged.
pub fn approved_policies<K: KvRead + ?Sized>(kv: &K) -> Result<Vec<PolicyId>, KvError> {
    let found = kv.scan(&[POLICY], &[POLICY + 1], LIST_MAX, false)?;
    found
        .iter()
        .map(|(k, _)| {
            let id = <[u8; 32]>::try_from(&k[1..]).map(PolicyId);
            id.map_err(|_| KvError("policy row with a key of another shape".into()))
        })
        .collect()
}

/// The voters attestations are counted against.
///
/// # Errors
/// [`KvError`] when the store fails or the row is damaged.
pub fn voters<K: KvRead + ?Sized>(kv: &K) -> Result<BTreeSet<NodeId>, KvError> {
    Ok(get(kv, &[VOTERS])?.unwrap_or_default())
}

/// Everything `status` shows.
///
/// # Errors
/// [`KvError`] when the store fails or a row is damaged.
pub fn overview<K: KvRead + ?Sized>(kv: &K) -> Result<Overview, KvError> {
    let log = Log::load(kv)?;
    let frozen = freezes(kv)?;
    let mut live = Vec::new();
    for (version, _) in versions(kv, KeyKind::Wrapping)? {
        let count: u64 = get(kv, &rows::live_key(version))?.unwrap_or(0);
        live.push((version, count));
    }
    Ok(Overview {
        log_size: log.size(),
        log_root: log.root(),
        log_time_ms: log.time_ms(),
        wrapping: version_in_use(kv, KeyKind::Wrapping)?,
        sealing: version_in_use(kv, KeyKind::Sealing)?,
        sealing_expires_ms: sealing_statement(kv)?.map(|s| s.expires_ms),
        live,
        freezes: frozen.len(),
        frozen_all: frozen.iter().any(|(s, _)| *s == FreezeScope::All),
        policies: approved_policies(kv)?,
        voters: voters(kv)?,
    })
}
