//! Reading the chains of accounts and chats: for decisions about releases, for
//! acknowledgements, and for peers that catch up.

use super::rows::{self, AccountRow, CHAIN, CHANGED, ChatRow, FORK, ForkRow, LinkRow, get};
use crate::authz::chain::ChainId;
use crate::authz::envelope::Envelope;
use crate::authz::identity::{AccountState, AuthorityRecord};
use crate::authz::membership::{ChatHead, Member};
use crate::authz::standing::{DeviceStanding, MemberStanding};
use crate::types::kv::{KvError, KvRead};
use crate::types::{AccountId, AuthorityId, ChatId, DeviceId, HomeId, StatementHash, WallMs};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Most bytes of statements read at once; at least one statement is.
pub const STATEMENTS_BYTES_MAX: usize = 1 << 20;
const STATEMENTS_MAX: usize = 1024;
const FORKS_READ_MAX: usize = 4096;

/// The newest statement of a chain at a custodian, as it acknowledges and exchanges it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChainHead {
    /// Which chain.
    pub chain: ChainId,
    /// The newest statement.
    pub number: u64,
    /// Its hash.
    pub hash: StatementHash,
    /// The log entry that took it in.
    pub entry: u64,
    /// That entry's time.
    pub time_ms: WallMs,
    /// The chain is marked as forked.
    pub forked: bool,
}

/// An account as its chain says.
///
/// # Errors
/// [`KvError`] when the store fails or the row is damaged.
pub fn account<K: KvRead + ?Sized>(
    kv: &K,
    id: &AccountId,
) -> Result<Option<AccountState>, KvError> {
    let row: Option<AccountRow> = get(kv, &rows::account_key(id))?;
    Ok(row.map(|r| r.state))
}

/// Where a device of `of` stands at `now_ms`.
///
/// # Errors
/// [`KvError`] when the store fails or the row is damaged.
pub fn device<K: KvRead + ?Sized>(
    kv: &K,
    of: &AccountId,
    id: &DeviceId,
    now_ms: WallMs,
) -> Result<DeviceStanding, KvError> {
    let state = account(kv, of)?;
    Ok(state.map_or(DeviceStanding::Unknown, |s| s.device(id, now_ms)))
}

/// A chat itself.
///
/// # Errors
/// [`KvError`] when the store fails or the row is damaged.
pub fn chat<K: KvRead + ?Sized>(kv: &K, id: &ChatId) -> Result<Option<ChatHead>, KvError> {
    let row: Option<ChatRow> = get(kv, &rows::chat_key(id))?;
    Ok(row.map(|r| r.head))
}

/// Where `account` stands in `id`.
///
/// # Errors
/// [`KvError`] when the store fails or a row is damaged.
pub fn member<K: KvRead + ?Sized>(
    kv: &K,
    id: &ChatId,
    account: &AccountId,
) -> Result<MemberStanding, KvError> {
    if kv.get(&rows::fork_key(&ChainId::Chat(*id)))?.is_some() {
        return Ok(MemberStanding::Forked);
    }
    if kv.get(&rows::chat_key(id))?.is_none() {
        return Ok(MemberStanding::UnknownChat);
    }
    let row: Option<Member> = get(kv, &rows::member_key(id, account))?;
    Ok(
        row.map_or(MemberStanding::NotMember, |m| MemberStanding::Member {
            role: m.role,
            from_epoch: m.from_epoch,
        }),
    )
}

/// The authorities that count here.
///
/// # Errors
/// [`KvError`] when the store fails or a row is damaged.
pub fn authorities<K: KvRead + ?Sized>(
    kv: &K,
) -> Result<BTreeMap<AuthorityId, AuthorityRecord>, KvError> {
    rows::authorities(kv)
}

/// The legal entity that runs each registered home.
///
/// # Errors
/// [`KvError`] when the store fails or a row is damaged.
pub fn homes<K: KvRead + ?Sized>(kv: &K) -> Result<BTreeMap<HomeId, String>, KvError> {
    rows::home_entities(kv)
}

/// The head of a chain, if its genesis is here.
///
/// # Errors
/// [`KvError`] when the store fails or a row is damaged.
pub fn chain_head<K: KvRead + ?Sized>(
    kv: &K,
    chain: &ChainId,
) -> Result<Option<ChainHead>, KvError> {
    let head = match chain {
        ChainId::Account(id) => account(kv, id)?.map(|s| s.head),
        ChainId::Chat(id) => self::chat(kv, id)?.map(|c| c.head),
    };
    let Some(head) = head else { return Ok(None) };
    let link: Option<LinkRow> = get(kv, &rows::link_key(chain, head.number))?;
    let link = link.ok_or_else(|| KvError("a chain's newest statement is missing".into()))?;
    Ok(Some(ChainHead {
        chain: *chain,
        number: head.number,
        hash: head.hash,
        entry: link.entry,
        time_ms: link.time_ms,
        forked: kv.get(&rows::fork_key(chain))?.is_some(),
    }))
}

/// Heads of chains that changed at or after log position `since`, oldest
/// first, at most `limit`. A peer asks again from the last one's entry + 1.
///
/// # Errors
/// [`KvError`] when the store fails or a row is damaged.
pub fn changed_since<K: KvRead + ?Sized>(
    kv: &K,
    since: u64,
    limit: usize,
) -> Result<Vec<ChainHead>, KvError> {
    let from = rows::changed_key(since);
    let mut out = Vec::new();
    for (_, value) in kv.scan(&from, &[CHANGED + 1], limit, false)? {
        let chain: ChainId = rows::decode(&value)?;
        let head = chain_head(kv, &chain)?;
        out.push(head.ok_or_else(|| KvError("a changed chain has no head".into()))?);
    }
    Ok(out)
}

/// Statements of `chain` from number `from`, in order, up to [`STATEMENTS_BYTES_MAX`].
///
/// # Errors
/// [`KvError`] when the store fails or a row is damaged.
pub fn statements<K: KvRead + ?Sized>(
    kv: &K,
    chain: &ChainId,
    from: u64,
) -> Result<Vec<Envelope>, KvError> {
    let start = rows::link_key(chain, from);
    let mut end = rows::link_key(chain, u64::MAX);
    end.push(0);
    debug_assert_eq!(start.first(), Some(&CHAIN));
    let (mut out, mut bytes) = (Vec::new(), 0);
    for (_, value) in kv.scan(&start, &end, STATEMENTS_MAX, false)? {
        bytes += value.len();
        if bytes > STATEMENTS_BYTES_MAX && !out.is_empty() {
            break;
        }
        let link: LinkRow = rows::decode(&value)?;
        out.push(link.envelope);
    }
    Ok(out)
}

/// Chains that forked, with the contradicting statements: what officers look at.
///
/// # Errors
/// [`KvError`] when the store fails or a row is damaged.
pub fn forks<K: KvRead + ?Sized>(kv: &K) -> Result<Vec<(ChainId, ForkRow)>, KvError> {
    let found = kv.scan(&[FORK], &[FORK + 1], FORKS_READ_MAX, false)?;
    found
        .iter()
        .map(|(k, v)| Ok((rows::fork_chain(k)?, rows::decode(v)?)))
        .collect()
}
