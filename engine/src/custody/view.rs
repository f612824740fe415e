//! Reading a custodian's replicated state: for the leader before it proposes,
//! for status, for the feed of restrictions.

use super::FREEZES_MAX;
use super::command::KeyKind;
use super::protocol::{Feed, FreezeScope, SealingKeyStatement};
use super::rows::{
    self, AUDITOR, EXPIRY, FREEZE, FreezeRow, ORDER, POLICY, PROPOSAL_OPEN, PolicyRow, ROSTER,
    SHARE, ShareRow, Tombstone, VERSION, VOTERS, VersionRow, VersionState, get,
};
use crate::audit::Log;
use crate::authz::auditor::{AUDITORS_MAX, Auditor};
use crate::authz::officers::{PROPOSALS_OPEN_MAX, ProposalId, ProposalState, Roster};
use crate::authz::orders::{
    EPOCH_RUN_MS_MAX, Order, OrderScope, OrderState, ScopedEpoch, StoredEpoch, in_scope,
};
use crate::types::kv::{KvError, KvRead};
use crate::types::{AuditorId, ChatId, EpochNo, KeyId, NodeId, OrderId, PolicyId, WallMs};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// Most policies and key versions listed.
const LIST_MAX: usize = 4096;
/// Most orders listed.
const ORDERS_LISTED_MAX: usize = 1024;
/// Most dealings of one epoch that are looked at; a home makes one, or few when it fails.
const DEALINGS_READ_MAX: usize = 16;
/// Most epochs of one chat that are looked at for an order's scope.
const EPOCHS_READ_MAX: usize = 65_536;
/// Most epochs of one chat that an order's scope lists.
pub const EPOCHS_LISTED_MAX: usize = 4096;

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
    /// Shares held, by wrapping version; versions that were dropped are left out.
    pub live: Vec<(u32, u64)>,
    /// Voters that have not attested the wrapping version in use: until they do, no former
    /// version is dropped.
    pub wrapping_lacking: BTreeSet<NodeId>,
    /// Freezes in force.
    pub freezes: usize,
    /// Whether everything is frozen.
    pub frozen_all: bool,
    /// Policies approved.
    pub policies: Vec<PolicyId>,
    /// The voters attestations are counted against.
    pub voters: BTreeSet<NodeId>,
}

impl Overview {
    /// Shares under other wrapping versions than the one in use.
    pub fn under_former_versions(&self) -> u64 {
        let other = |(version, _): &&(u32, u64)| Some(*version) != self.wrapping;
        self.live.iter().filter(other).map(|(_, n)| n).sum()
    }
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

/// Shares by key id, and after which id to go on; `None`: that was the end.
pub type SharePage = (Vec<(KeyId, ShareRow)>, Option<KeyId>);

/// Shares under another wrapping version than `current`: of at most `rows_max` rows after
/// `after`, and where to go on; `None` there: that was the end.
///
/// # Errors
/// [`KvError`] when the store fails or a row is damaged.
pub fn under_other_versions<K: KvRead + ?Sized>(
    kv: &K,
    current: u32,
    after: Option<KeyId>,
    rows_max: usize,
) -> Result<SharePage, KvError> {
    let mut from = after.map_or(vec![SHARE], |id| rows::share_key(&id));
    if after.is_some() {
        // The next possible key.
        from.push(0);
    }
    let found = kv.scan(&from, &[SHARE + 1], rows_max, false)?;
    let full = found.len() == rows_max;
    let (mut out, mut last) = (Vec::new(), None);
    for (key, value) in found {
        let id = <[u8; 16]>::try_from(&key[1..])
            .map_err(|_| KvError("share row with a key of another shape".into()))?;
        last = Some(KeyId(id));
        let row: ShareRow = rows::decode(&value)?;
        if row.version != current {
            out.push((KeyId(id), row));
        }
    }
    Ok((out, last.filter(|_| full)))
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

/// The auditors whom the officers admitted, whether or not their time is over.
///
/// # Errors
/// [`KvError`] when the store fails or a row is damaged.
pub fn auditors<K: KvRead + ?Sized>(kv: &K) -> Result<Vec<Auditor>, KvError> {
    let found = kv.scan(&[AUDITOR], &[AUDITOR + 1], AUDITORS_MAX, false)?;
    found.iter().map(|(_, v)| rows::decode(v)).collect()
}

/// One of them.
///
/// # Errors
/// [`KvError`] when the store fails or the row is damaged.
pub fn auditor<K: KvRead + ?Sized>(kv: &K, id: &AuditorId) -> Result<Option<Auditor>, KvError> {
    get(kv, &rows::auditor_key(id))
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

/// Voters that have not attested `version` of `kind`; none when there is no version.
///
/// # Errors
/// [`KvError`] when the store fails or a row is damaged.
pub(super) fn lacking<K: KvRead + ?Sized>(
    kv: &K,
    kind: KeyKind,
    version: Option<u32>,
) -> Result<BTreeSet<NodeId>, KvError> {
    let Some(version) = version else {
        return Ok(BTreeSet::new());
    };
    let row = key_version(kv, kind, version)?;
    let attested = row.map(|r| r.attested).unwrap_or_default();
    Ok(voters(kv)?.difference(&attested).copied().collect())
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

/// The custodian's officers, if there are any.
///
/// # Errors
/// [`KvError`] when the store fails or the row is damaged.
pub fn roster<K: KvRead + ?Sized>(kv: &K) -> Result<Option<Roster>, KvError> {
    get(kv, &[ROSTER])
}

/// One proposal, whatever became of it.
///
/// # Errors
/// [`KvError`] when the store fails or the row is damaged.
pub fn proposal<K: KvRead + ?Sized>(
    kv: &K,
    id: &ProposalId,
) -> Result<Option<ProposalState>, KvError> {
    get(kv, &rows::proposal_key(id))
}

/// Proposals that take decisions at `now_ms`, the soonest to expire first.
///
/// # Errors
/// [`KvError`] when the store fails or a row is damaged.
pub fn proposals_open<K: KvRead + ?Sized>(
    kv: &K,
    now_ms: WallMs,
) -> Result<Vec<ProposalState>, KvError> {
    let from = rows::proposal_open_key(now_ms.saturating_add(1), &ProposalId([0; 32]));
    let mut out = Vec::new();
    for (key, _) in kv.scan(&from, &[PROPOSAL_OPEN + 1], PROPOSALS_OPEN_MAX, false)? {
        let id = key.get(9..).and_then(|b| <[u8; 32]>::try_from(b).ok());
        let id =
            id.ok_or_else(|| KvError("open proposal row with a key of another shape".into()))?;
        out.extend(proposal(kv, &ProposalId(id))?);
    }
    Ok(out)
}

/// One order, wherever it stands.
///
/// # Errors
/// [`KvError`] when the store fails or the row is damaged.
pub fn order<K: KvRead + ?Sized>(kv: &K, id: &OrderId) -> Result<Option<OrderState>, KvError> {
    get(kv, &rows::order_key(id))
}

/// Every order submitted here, up to 1,024.
///
/// # Errors
/// [`KvError`] when the store fails or a row is damaged.
pub fn orders<K: KvRead + ?Sized>(kv: &K) -> Result<Vec<OrderState>, KvError> {
    let found = kv.scan(&[ORDER], &[ORDER + 1], ORDERS_LISTED_MAX, false)?;
    found.iter().map(|(_, v)| rows::decode(v)).collect()
}

/// When the epoch of `chat` after `epoch` was stored; the first of several dealings of it.
pub(super) fn next_store_ms<K: KvRead + ?Sized>(
    kv: &K,
    chat: &ChatId,
    epoch: EpochNo,
) -> Result<Option<WallMs>, KvError> {
    let Some(after) = epoch.checked_add(1) else {
        return Ok(None);
    };
    let (from, end) = (
        rows::chat_epochs_from(chat, after),
        rows::chat_epochs_end(chat),
    );
    let found = kv.scan(&from, &end, DEALINGS_READ_MAX, false)?;
    let found: Result<Vec<_>, _> = found
        .iter()
        .map(|(k, v)| rows::stored_epoch(k, v))
        .collect();
    let found = found?;
    let next = found.first().map(|e| e.epoch);
    let of_next = found.iter().filter(|e| Some(e.epoch) == next);
    Ok(of_next.map(|e| e.stored_ms).min())
}

/// What an order would open of one chat.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChatEpochs {
    /// The chat.
    pub chat: ChatId,
    /// Epochs that overlap the order's dates and whose share is still held.
    pub epochs: Vec<ScopedEpoch>,
    /// Whether there are more than [`EPOCHS_LISTED_MAX`], or more than could be looked at.
    pub more: bool,
}

/// Every chat and epoch that `order` would open here, for officers to see before they sign.
///
/// # Errors
/// [`KvError`] when the store fails or a row is damaged.
pub fn order_scope<K: KvRead + ?Sized>(kv: &K, order: &Order) -> Result<Vec<ChatEpochs>, KvError> {
    let scope = &order.scope;
    let mut out = Vec::with_capacity(scope.chats.len());
    for chat in &scope.chats {
        let mut one = ChatEpochs {
            chat: *chat,
            epochs: Vec::new(),
            more: false,
        };
        let (from, end) = (rows::chat_epochs_from(chat, 0), rows::chat_epochs_end(chat));
        // Newest first: orders ask for what was written of late more often than not.
        let found = kv.scan(&from, &end, EPOCHS_READ_MAX, true)?;
        one.more = found.len() == EPOCHS_READ_MAX;
        for (key, value) in &found {
            let stored = rows::stored_epoch(key, value)?;
            if !maybe_in_scope(&stored, scope) {
                continue;
            }
            if one.epochs.len() == EPOCHS_LISTED_MAX {
                one.more = true;
                break;
            }
            let next = next_store_ms(kv, chat, stored.epoch)?;
            let held = matches!(share(kv, &stored.key)?, Held::Share(_));
            one.epochs
                .extend(in_scope(&stored, next, scope).filter(|_| held));
        }
        one.epochs.reverse();
        out.push(one);
    }
    Ok(out)
}

/// Not yet looking at its successor: a share that came late ran up to seven days, at any time before.
fn maybe_in_scope(stored: &StoredEpoch, scope: &OrderScope) -> bool {
    stored.stored_ms.saturating_add(EPOCH_RUN_MS_MAX) > scope.from_ms
}

/// Everything `status` shows.
///
/// # Errors
/// [`KvError`] when the store fails or a row is damaged.
pub fn overview<K: KvRead + ?Sized>(kv: &K) -> Result<Overview, KvError> {
    let log = Log::load(kv)?;
    let frozen = freezes(kv)?;
    let mut live = Vec::new();
    for (version, row) in versions(kv, KeyKind::Wrapping)? {
        if row.state == VersionState::Dropped {
            continue;
        }
        let count: u64 = get(kv, &rows::live_key(version))?.unwrap_or(0);
        live.push((version, count));
    }
    let wrapping = version_in_use(kv, KeyKind::Wrapping)?;
    Ok(Overview {
        log_size: log.size(),
        log_root: log.root(),
        log_time_ms: log.time_ms(),
        wrapping,
        wrapping_lacking: lacking(kv, KeyKind::Wrapping, wrapping)?,
        sealing: version_in_use(kv, KeyKind::Sealing)?,
        sealing_expires_ms: sealing_statement(kv)?.map(|s| s.expires_ms),
        live,
        freezes: frozen.len(),
        frozen_all: frozen.iter().any(|(s, _)| *s == FreezeScope::All),
        policies: approved_policies(kv)?,
        voters: voters(kv)?,
    })
}
