//! `apply` of records: appending, editing, and what repetition means.
//!
//! The idempotency table is looked up first, before any comparison with the
//! chat's state: a repetition gets the first result even after the state has moved on.

use super::command::{
    ConflictWhy, EditMessage, NewRecord, Repeat, Reply, WriteMessages, WriteResult,
};
use super::machine::{Ctx, conflict, text_ok};
use super::rows::{self, ChatRow, IdempotencyRow, KeyList, OpenEpoch, RecordRow, table};
use super::{
    DEVICE_BYTES_MAX, EPOCH_AGE_MS_MAX, EPOCH_RECORDS_MAX, IDEMPOTENCY_KEY_BYTES_MAX,
    IDEMPOTENCY_MS_MAX, SEALED_BYTES_MAX, WRITE_RECORDS_MAX,
};
use crate::crypto::message::RecordKind;
use crate::types::kv::KvError;
use crate::types::{ChatId, KeyId};
use std::collections::BTreeSet;

pub(super) fn write(cx: &mut Ctx<'_>, c: WriteMessages) -> Result<Reply, KvError> {
    if let Some(reason) = fault(&c.records, c.first) {
        return Ok(Reply::invalid(reason));
    }
    let Some(mut chat) = cx.chat(&c.key.chat)? else {
        return Ok(Reply::NotFound);
    };
    let keys: Vec<Vec<u8>> = c
        .records
        .iter()
        .map(|r| rows::idempotency_key(&c.key.chat, &r.device, &r.idempotency))
        .collect();
    let mut found = Vec::new();
    for (key, record) in keys.iter().zip(&c.records) {
        found.extend(repeat(cx, key, record, &c.key.key_id)?);
    }
    if found.len() == c.records.len() {
        return Ok(Reply::Written(found));
    }
    if !found.is_empty() || keys.iter().collect::<BTreeSet<_>>().len() != keys.len() {
        return Ok(conflict(&chat, ConflictWhy::Repeats));
    }
    let count = u32::try_from(c.records.len()).unwrap_or(u32::MAX);
    let epoch = match usable(cx, &chat, &c.key.key_id, count) {
        Ok(open) => open.epoch,
        Err(why) => return Ok(conflict(&chat, why)),
    };
    if c.first != chat.next {
        return Ok(conflict(&chat, ConflictWhy::NextId));
    }
    let mut results = Vec::with_capacity(c.records.len());
    for (id, (record, key)) in (c.first..).zip(c.records.into_iter().zip(&keys)) {
        remember(cx, key, &record, &c.key.key_id, id, 0)?;
        let row = RecordRow {
            kind: record.kind,
            revision: 0,
            sent_ms: cx.now,
            edited_ms: None,
            device: record.device,
            epoch,
            key_id: c.key.key_id,
            sealed: record.sealed,
        };
        rows::put(cx.kv, &rows::record_key(&c.key.chat, id), &row)?;
        results.push(first(cx, id, 0));
    }
    remember_time(cx, keys)?;
    chat.next = c.first + u64::from(count);
    cx.meta.records += u64::from(count);
    used(&mut chat, count);
    cx.put_chat(&c.key.chat, &chat)?;
    Ok(Reply::Written(results))
}

pub(super) fn edit(cx: &mut Ctx<'_>, c: EditMessage) -> Result<Reply, KvError> {
    let records = std::slice::from_ref(&c.record);
    if let Some(reason) = fault(records, c.message) {
        return Ok(Reply::invalid(reason));
    }
    let Some(mut chat) = cx.chat(&c.key.chat)? else {
        return Ok(Reply::NotFound);
    };
    let key = rows::idempotency_key(&c.key.chat, &c.record.device, &c.record.idempotency);
    if let Some(result) = repeat(cx, &key, &c.record, &c.key.key_id)? {
        return Ok(Reply::Written(vec![result]));
    }
    let record_key = rows::record_key(&c.key.chat, c.message);
    let Some(old) = rows::get::<RecordRow>(&*cx.kv, &record_key)? else {
        return Ok(Reply::NotFound);
    };
    if old.revision != c.revision {
        return Ok(Reply::RevisionMismatch {
            current: old.revision,
        });
    }
    let Some(revision) = c.revision.checked_add(1) else {
        return Ok(Reply::invalid("the record has used up its revisions"));
    };
    let epoch = match usable(cx, &chat, &c.key.key_id, 1) {
        Ok(open) => open.epoch,
        Err(why) => return Ok(conflict(&chat, why)),
    };
    remember(cx, &key, &c.record, &c.key.key_id, c.message, revision)?;
    remember_time(cx, vec![key])?;
    let row = RecordRow {
        revision,
        edited_ms: Some(cx.now),
        epoch,
        key_id: c.key.key_id,
        sealed: c.record.sealed,
        ..old
    };
    rows::put(cx.kv, &record_key, &row)?;
    used(&mut chat, 1);
    cx.put_chat(&c.key.chat, &chat)?;
    Ok(Reply::Written(vec![first(cx, c.message, revision)]))
}

/// Why these records could never be written, whatever the state.
fn fault(records: &[NewRecord], first: u64) -> Option<String> {
    if records.is_empty() || records.len() > WRITE_RECORDS_MAX {
        return Some(format!(
            "{} records in one write, 1 to {WRITE_RECORDS_MAX} are allowed",
            records.len()
        ));
    }
    if first.checked_add(records.len() as u64).is_none() {
        return Some("message ids are used up".into());
    }
    for (id, r) in (first..).zip(records) {
        if !text_ok(&r.device, DEVICE_BYTES_MAX) {
            return Some("a device name is empty or too long".into());
        }
        if !text_ok(&r.idempotency, IDEMPOTENCY_KEY_BYTES_MAX) {
            return Some("an idempotency key is empty or too long".into());
        }
        if r.sealed.len() > SEALED_BYTES_MAX {
            return Some(format!("record {id} is {} bytes, too long", r.sealed.len()));
        }
        let kind = if id == 0 {
            RecordKind::Profile
        } else {
            RecordKind::Message
        };
        if r.kind != kind {
            return Some(format!("record {id} must be a {kind:?}"));
        }
    }
    None
}

/// The open epoch, if these records may be written under it.
fn usable<'c>(
    cx: &Ctx<'_>,
    chat: &'c ChatRow,
    key_id: &KeyId,
    count: u32,
) -> Result<&'c OpenEpoch, ConflictWhy> {
    let open = chat.open.as_ref().filter(|o| &o.key_id == key_id);
    let open = open.ok_or(ConflictWhy::NotOpen)?;
    if open.records.saturating_add(count) > EPOCH_RECORDS_MAX {
        return Err(ConflictWhy::EpochFull);
    }
    if cx.now.saturating_sub(open.opened_ms) >= EPOCH_AGE_MS_MAX {
        return Err(ConflictWhy::EpochOld);
    }
    Ok(open)
}

fn used(chat: &mut ChatRow, count: u32) {
    if let Some(open) = chat.open.as_mut() {
        open.records = open.records.saturating_add(count);
    }
}

fn first(cx: &Ctx<'_>, id: u64, revision: u32) -> WriteResult {
    WriteResult {
        id,
        revision,
        at_ms: cx.now,
        repeat: Repeat::First,
    }
}

/// The first result under this key, if there is one that has not expired.
fn repeat(
    cx: &Ctx<'_>,
    key: &[u8],
    record: &NewRecord,
    key_id: &KeyId,
) -> Result<Option<WriteResult>, KvError> {
    let Some(row) = rows::get::<IdempotencyRow>(&*cx.kv, key)? else {
        return Ok(None);
    };
    if cx.now.saturating_sub(row.at_ms) >= IDEMPOTENCY_MS_MAX {
        return Ok(None);
    }
    let repeat = if &row.key_id != key_id {
        Repeat::Elsewhere {
            key_id: row.key_id,
            digest: row.digest,
        }
    } else if row.digest == record.digest {
        Repeat::Same
    } else {
        Repeat::Mismatch
    };
    Ok(Some(WriteResult {
        id: row.id,
        revision: row.revision,
        at_ms: row.at_ms,
        repeat,
    }))
}

fn remember(
    cx: &mut Ctx<'_>,
    key: &[u8],
    record: &NewRecord,
    key_id: &KeyId,
    id: u64,
    revision: u32,
) -> Result<(), KvError> {
    let row = IdempotencyRow {
        digest: record.digest,
        key_id: *key_id,
        id,
        revision,
        at_ms: cx.now,
    };
    rows::put(cx.kv, key, &row)
}

/// One row per command, not per record: expiry walks them in order of entry time.
fn remember_time(cx: &mut Ctx<'_>, keys: Vec<Vec<u8>>) -> Result<(), KvError> {
    let at = rows::key(
        table::IDEMPOTENCY_TIME,
        &[&cx.now.to_be_bytes(), &cx.at.index.to_be_bytes()],
    );
    let list = KeyList(keys.into_iter().map(serde_bytes::ByteBuf::from).collect());
    rows::put(cx.kv, &at, &list)
}

/// Key of a chat's record under an idempotency key, for readers.
pub(super) fn lookup_key(chat: &ChatId, device: &str, idempotency: &str) -> Vec<u8> {
    rows::idempotency_key(chat, device, idempotency)
}
