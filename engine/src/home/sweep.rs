//! Forgetting by entry time: first results after 7 days, sealing sessions with
//! what they left undelivered at their expiry, receipts after 90 days.
//!
//! A few rows go with every command and many with a `Sweep`, always in order of
//! time, so every node forgets the same rows at the same entry.

use super::machine::Ctx;
use super::rows::{self, IdempotencyRow, KeyList, OutboxRow, table};
use super::{IDEMPOTENCY_MS_MAX, RECEIPT_MS_MAX, epochs};
use crate::custody::protocol::{KeyRef, SealSession};
use crate::types::kv::KvError;
use crate::types::{ChatId, KeyId, SessionId};

pub(super) fn sweep(cx: &mut Ctx<'_>, limit: usize) -> Result<(), KvError> {
    idempotency(cx, limit)?;
    sessions(cx, limit)?;
    receipts(cx, limit)
}

fn older_than(table: u8, time: u64) -> (Vec<u8>, Vec<u8>) {
    (vec![table], rows::key(table, &[&time.to_be_bytes()]))
}

fn idempotency(cx: &mut Ctx<'_>, limit: usize) -> Result<(), KvError> {
    let Some(before) = cx.now.saturating_add(1).checked_sub(IDEMPOTENCY_MS_MAX) else {
        return Ok(());
    };
    let (from, to) = older_than(table::IDEMPOTENCY_TIME, before);
    for (time_key, value) in cx.kv.scan(&from, &to, limit, false)? {
        let list: KeyList = rows::decode(&time_key, &value)?;
        for key in list.0 {
            // The key may have been used again after it expired: keep the younger row.
            let row: Option<IdempotencyRow> = rows::get(&*cx.kv, &key)?;
            if row.is_some_and(|r| cx.now.saturating_sub(r.at_ms) >= IDEMPOTENCY_MS_MAX) {
                cx.kv.delete(&key)?;
            }
        }
        cx.kv.delete(&time_key)?;
    }
    Ok(())
}

fn sessions(cx: &mut Ctx<'_>, limit: usize) -> Result<(), KvError> {
    let (from, to) = older_than(table::SESSION_TIME, cx.now.saturating_add(1));
    let mut left = limit;
    for (time_key, _) in cx.kv.scan(&from, &to, limit, false)? {
        let Some(id) = time_key.get(9..25).and_then(|b| b.try_into().ok()) else {
            return Err(KvError("a session time key has the wrong length".into()));
        };
        let session_key = rows::key(table::SESSION, &[&SessionId(id).0]);
        if let Some(session) = rows::get::<SealSession>(&*cx.kv, &session_key)? {
            let name = session.custodian.as_str().as_bytes();
            let prefix = rows::key(table::OUTBOX, &[name, &[0], &id]);
            let undelivered = cx
                .kv
                .scan(&prefix, &rows::prefix_end(&prefix), left + 1, false)?;
            for (key, value) in undelivered {
                if left == 0 {
                    return Ok(());
                }
                left -= 1;
                let row: OutboxRow = rows::decode(&key, &value)?;
                let key_id = key.get(prefix.len()..).and_then(|b| b.try_into().ok());
                let key_id = KeyId(key_id.ok_or_else(|| KvError("an outbox key is cut".into()))?);
                expire(cx, &row.chat, &key_id, &session)?;
            }
        }
        cx.kv.delete(&session_key)?;
        cx.kv.delete(&time_key)?;
    }
    Ok(())
}

fn expire(
    cx: &mut Ctx<'_>,
    chat: &ChatId,
    key_id: &KeyId,
    session: &SealSession,
) -> Result<(), KvError> {
    let key = KeyRef {
        chat: *chat,
        key_id: *key_id,
    };
    epochs::expire_leaf(cx, &key, &session.custodian)
}

fn receipts(cx: &mut Ctx<'_>, limit: usize) -> Result<(), KvError> {
    let Some(before) = cx.now.checked_sub(RECEIPT_MS_MAX) else {
        return Ok(());
    };
    let (from, to) = older_than(table::RECEIPT, before);
    for (key, _) in cx.kv.scan(&from, &to, limit, false)? {
        cx.kv.delete(&key)?;
    }
    Ok(())
}
