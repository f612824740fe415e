//! Which chats an account is or was in: an index over the statements of chats,
//! for disclosure orders that name accounts.
//!
//! ```text
//!  statement of a chat ─▶ (account, chat) ─▶ from when to when, at most
//!  order's accounts ─▶ their chats of its dates ─▶ kept with the order when it is submitted
//! ```
//!
//! Grants never look here: who is a member now stands in the members' own rows.

use super::rows::{self, LinkRow, get};
use crate::authz::membership::{ChatChange, ChatPayload};
use crate::authz::orders::{OrderScope, SCOPE_MAX};
use crate::types::kv::{Kv, KvError, KvRead};
use crate::types::{AccountId, ChatId, WallMs};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// Most chats that the accounts of one order may lead to at a custodian.
pub const ORDER_CHATS_MAX: usize = 4 * SCOPE_MAX;
/// Most memberships that are looked at for one order.
pub const MEMBERSHIPS_READ_MAX: usize = 16_384;
/// Most statements that one command indexes.
const INDEXED_MAX: usize = 2_048;

/// An account's time in a chat. One that comes and goes counts as there in between.
///
/// Devices say when a statement was made, and a leave may be dated back; so it ends
/// when the leave was taken in here, and begins at the earlier of both times.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Stay {
    from_ms: WallMs,
    until_ms: Option<WallMs>,
}

impl Stay {
    fn overlaps(&self, scope: &OrderScope) -> bool {
        self.from_ms < scope.to_ms && self.until_ms.is_none_or(|until| until >= scope.from_ms)
    }
}

/// How far the statements that stood here before there was an index are in it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Indexed {
    /// Up to this row of the statements.
    UpTo(#[serde(with = "serde_bytes")] Vec<u8>),
    Whole,
}

/// A statement changed that `account` is in `chat`.
pub(super) fn moved(
    kv: &mut dyn Kv,
    (account, chat): (&AccountId, &ChatId),
    is_in: bool,
    (made_ms, taken_ms): (WallMs, WallMs),
) -> Result<(), KvError> {
    let key = rows::membership_key(account, chat);
    let before: Option<Stay> = get(&*kv, &key)?;
    let earliest = made_ms.min(taken_ms);
    let stay = Stay {
        from_ms: before.map_or(earliest, |b| b.from_ms.min(earliest)),
        until_ms: (!is_in).then_some(made_ms.max(taken_ms)),
    };
    match before == Some(stay) {
        true => Ok(()),
        false => rows::put(kv, &key, &stay),
    }
}

/// Before the first chat there is nothing to index: every statement from now on is.
pub(super) fn founded(kv: &mut dyn Kv) -> Result<(), KvError> {
    let (from, end) = rows::chat_links();
    let none =
        kv.get(&rows::indexed_key())?.is_none() && kv.scan(&from, &end, 1, false)?.is_empty();
    match none {
        true => rows::put(kv, &rows::indexed_key(), &Indexed::Whole),
        false => Ok(()),
    }
}

/// Indexes some more of the statements that an earlier build took in. Whether all are.
pub(super) fn index(kv: &mut dyn Kv) -> Result<bool, KvError> {
    let (first, end) = rows::chat_links();
    let from = match get(&*kv, &rows::indexed_key())? {
        Some(Indexed::Whole) => return Ok(true),
        // The row after it: no key lies between one and the same with a zero behind.
        Some(Indexed::UpTo(last)) => [last.as_slice(), &[0]].concat(),
        None => first,
    };
    let found = kv.scan(&from, &end, INDEXED_MAX, false)?;
    for (key, value) in &found {
        let chat = rows::link_chat(key)?;
        let row: LinkRow = rows::decode(value)?;
        let payload: ChatPayload = row
            .envelope
            .read("chat statement")
            .map_err(|e| KvError(format!("a kept statement of chat {chat} is damaged: {e}")))?;
        let at_ms = match &payload {
            ChatPayload::Genesis(g) => g.created_ms,
            ChatPayload::Statement(s) => s.at_ms,
        };
        if let Some((account, is_in)) = who_moves(&payload) {
            moved(kv, (&account, &chat), is_in, (at_ms, row.time_ms))?;
        }
    }
    let now = match found.last() {
        Some((last, _)) if found.len() == INDEXED_MAX => Indexed::UpTo(last.clone()),
        _ => Indexed::Whole,
    };
    rows::put(kv, &rows::indexed_key(), &now)?;
    Ok(now == Indexed::Whole)
}

/// Who is in from then on, or no longer.
fn who_moves(payload: &ChatPayload) -> Option<(AccountId, bool)> {
    let s = match payload {
        ChatPayload::Genesis(g) => return Some((g.creator, true)),
        ChatPayload::Statement(s) => s,
    };
    match &s.change {
        ChatChange::Add { account, .. } => Some((*account, true)),
        ChatChange::Join { .. } => Some((s.account, true)),
        ChatChange::Remove { account } => Some((*account, false)),
        ChatChange::Leave => Some((s.account, false)),
        ChatChange::SetRole { .. }
        | ChatChange::Invite { .. }
        | ChatChange::RevokeInvite { .. }
        | ChatChange::SetPublic { .. } => None,
    }
}

/// The chats that the scope's accounts were in at some time of its dates; or why not, in words.
pub(super) fn chats_of<K: KvRead + ?Sized>(
    kv: &K,
    scope: &OrderScope,
) -> Result<Result<BTreeSet<ChatId>, String>, KvError> {
    let mut left = MEMBERSHIPS_READ_MAX;
    let mut chats = BTreeSet::new();
    for account in &scope.accounts {
        let (from, end) = rows::memberships_of(account);
        let found = kv.scan(&from, &end, left + 1, false)?;
        if found.len() > left {
            return Ok(Err(format!(
                "its accounts are or were in more than {MEMBERSHIPS_READ_MAX} chats here; name fewer accounts, or chats"
            )));
        }
        left -= found.len();
        for (key, value) in &found {
            if rows::decode::<Stay>(value)?.overlaps(scope) {
                chats.insert(rows::membership_chat(key)?);
            }
        }
        if chats.len() > ORDER_CHATS_MAX {
            return Ok(Err(format!(
                "its accounts lead to more than {ORDER_CHATS_MAX} chats of its dates here; split it by dates or accounts, or name chats"
            )));
        }
    }
    Ok(Ok(chats))
}
