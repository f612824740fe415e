//! `apply` of a chat's epochs: intent, acknowledgements, opening, abandoning, closing.
//!
//! A key id is used once, for one dealing of one chat, for ever: `DEALING`
//! remembers all of them, abandoned ones as tombstones. So a second leader that
//! opens the same epoch with another key meets a conflict, and shares of two
//! dealings are never mixed under one id.

use super::BATCH_ITEMS_MAX;
use super::command::{ConflictWhy, DealingState, EpochAck, EpochIntent, Reply};
use super::machine::{Ctx, conflict};
use super::rows::{
    self, ChatRow, DealingRow, EpochRow, LeafRow, LeafState, OpenEpoch, OutboxRow, PolicyRow, table,
};
use crate::crypto::labels;
use crate::custody::protocol::{KeyRef, SealSession, StoreOutcome};
use crate::policy::Policy;
use crate::types::codec;
use crate::types::kv::KvError;
use crate::types::{CustodianId, KeyId};
use std::collections::BTreeSet;

/// Longest sealed share, in bytes.
const SEALED_SHARE_BYTES_MAX: usize = 256;

pub(super) fn intent(cx: &mut Ctx<'_>, intent: EpochIntent) -> Result<Reply, KvError> {
    let key = KeyRef {
        chat: intent.chat,
        key_id: intent.key_id,
    };
    let Some(mut chat) = cx.chat(&intent.chat)? else {
        return Ok(Reply::NotFound);
    };
    let hash = blake3::derive_key(
        labels::EPOCH_INTENT,
        &codec::encode(rows::ROW_VERSION, &intent),
    );
    let dealing_key = rows::key(table::DEALING, &[&intent.key_id.0]);
    if let Some(dealing) = rows::get::<DealingRow>(&*cx.kv, &dealing_key)? {
        let epoch: Option<EpochRow> =
            rows::get(&*cx.kv, &rows::epoch_key(&dealing.chat, dealing.epoch))?;
        let same = dealing.abandoned_ms.is_none()
            && epoch.is_some_and(|e| e.key_id == intent.key_id && e.intent == hash);
        return Ok(if same {
            Reply::Intent(key)
        } else {
            conflict(&chat, ConflictWhy::Intent)
        });
    }
    let next = chat.last.map_or(Some(0), |(epoch, _)| epoch.checked_add(1));
    let Some(next) = next else {
        return Ok(Reply::invalid("the chat has used up its epoch numbers"));
    };
    if chat.intent.is_some()
        || chat.last.map(|(_, key)| key) != intent.previous
        || intent.epoch != next
    {
        return Ok(conflict(&chat, ConflictWhy::Intent));
    }
    if let Some(reason) = intent_fault(cx, &intent)? {
        return Ok(Reply::invalid(reason));
    }
    let mut leaves = Vec::with_capacity(intent.leaves.len());
    for leaf in intent.leaves {
        let session = leaf.sealed.as_ref().map(|s| s.session);
        if let Some(sealed) = leaf.sealed {
            let row = OutboxRow {
                chat: intent.chat,
                epoch: intent.epoch,
                policy: intent.policy,
                commitment: leaf.commitment,
                sealed: sealed.bytes,
                expires_ms: intent.expires_ms,
            };
            let key = rows::outbox_key(&leaf.custodian, &sealed.session, &intent.key_id);
            rows::put(cx.kv, &key, &row)?;
            cx.meta.outbox += 1;
        }
        leaves.push(LeafRow {
            state: match session {
                Some(_) => LeafState::Pending,
                None => LeafState::Expired,
            },
            custodian: leaf.custodian,
            commitment: leaf.commitment,
            session,
        });
    }
    let row = EpochRow {
        key_id: intent.key_id,
        policy: intent.policy,
        check: intent.check,
        intent: hash,
        leaves,
        expires_ms: intent.expires_ms,
        intent_ms: cx.now,
        opened_ms: None,
        closed_ms: None,
        thin: false,
    };
    rows::put(cx.kv, &rows::epoch_key(&intent.chat, intent.epoch), &row)?;
    let dealing = DealingRow {
        chat: intent.chat,
        epoch: intent.epoch,
        abandoned_ms: None,
    };
    rows::put(cx.kv, &dealing_key, &dealing)?;
    cx.kv
        .put(&rows::key(table::INTENT, &[&intent.chat.0]), &[])?;
    chat.intent = Some((intent.epoch, intent.key_id));
    cx.put_chat(&intent.chat, &chat)?;
    Ok(Reply::Intent(key))
}

/// Why an intent can never commit, whatever the chat's state.
fn intent_fault(cx: &Ctx<'_>, intent: &EpochIntent) -> Result<Option<String>, KvError> {
    let Some((policy, _)) = cx.policy(&intent.policy)? else {
        return Ok(Some(format!("policy {} was never set here", intent.policy)));
    };
    let dealt: Vec<&CustodianId> = intent.leaves.iter().map(|l| &l.custodian).collect();
    if dealt != policy.structure().leaves() {
        return Ok(Some("the dealing's leaves are not the policy's".into()));
    }
    let mut sealed_to = BTreeSet::new();
    for leaf in &intent.leaves {
        let Some(sealed) = &leaf.sealed else { continue };
        if sealed.bytes.len() > SEALED_SHARE_BYTES_MAX {
            return Ok(Some(format!(
                "the share for {} is too long",
                leaf.custodian
            )));
        }
        let key = rows::key(table::SESSION, &[&sealed.session.0]);
        match rows::get::<SealSession>(&*cx.kv, &key)? {
            Some(s) if s.custodian == leaf.custodian && s.expires_ms > cx.now => {}
            _ => {
                return Ok(Some(format!(
                    "the share for {} is sealed under no live committed session",
                    leaf.custodian
                )));
            }
        }
        sealed_to.insert(leaf.custodian.clone());
    }
    if !policy.satisfied_by(&sealed_to) {
        return Ok(Some("the sealed shares alone could never open it".into()));
    }
    Ok(None)
}

pub(super) fn acks(cx: &mut Ctx<'_>, acks: Vec<EpochAck>) -> Result<Reply, KvError> {
    if acks.len() > BATCH_ITEMS_MAX {
        return Ok(Reply::invalid("too many dealings in one command"));
    }
    let mut states = Vec::with_capacity(acks.len());
    for ack in &acks {
        states.push(one_ack(cx, ack)?);
    }
    Ok(Reply::Acks(states))
}

fn one_ack(cx: &mut Ctx<'_>, ack: &EpochAck) -> Result<DealingState, KvError> {
    let (dealing, mut row) = match find(cx, &ack.key)? {
        Found::Live(found) => *found,
        Found::Abandoned => return Ok(DealingState::Abandoned),
        Found::Nothing => return Ok(DealingState::Unknown),
    };
    let (chat_id, key_id) = (ack.key.chat, ack.key.key_id);
    let before = row.clone();
    for custodian in &ack.acked {
        settle(cx, &mut row, custodian, LeafState::Acked, &key_id)?;
    }
    for (custodian, outcome) in &ack.lost {
        let state = match outcome {
            StoreOutcome::Stored | StoreOutcome::AlreadyStored => LeafState::Acked,
            refused => LeafState::Refused(*refused),
        };
        settle(cx, &mut row, custodian, state, &key_id)?;
    }
    let Some((policy, policy_row)) = cx.policy(&row.policy)? else {
        return Err(KvError(format!(
            "policy {} of a dealing is gone",
            row.policy
        )));
    };
    let margin = margin(&policy, &row);
    let wanted = usize::from(policy_row.margins.write_margin);
    if row.opened_ms.is_none() {
        open_if_due(cx, ack, dealing.epoch, &mut row, &policy_row, margin)?;
    } else if row.thin && margin.is_some_and(|m| m >= wanted) {
        row.thin = false;
        cx.meta.thin = cx.meta.thin.saturating_sub(1);
        cx.kv.delete(&thin_key(&ack.key, dealing.epoch))?;
        set_open_thin(cx, &ack.key)?;
    }
    if row != before {
        rows::put(cx.kv, &rows::epoch_key(&chat_id, dealing.epoch), &row)?;
    }
    Ok(state_of(&row))
}

fn open_if_due(
    cx: &mut Ctx<'_>,
    ack: &EpochAck,
    epoch: u32,
    row: &mut EpochRow,
    policy: &PolicyRow,
    margin: Option<usize>,
) -> Result<(), KvError> {
    let Some(margin) = margin else { return Ok(()) };
    let full = margin >= usize::from(policy.margins.write_margin);
    if !full && (!ack.waited || policy.margins.require_margin) {
        return Ok(());
    }
    let Some(mut chat) = cx.chat(&ack.key.chat)? else {
        return Err(KvError(format!(
            "chat {} of an intent is gone",
            ack.key.chat
        )));
    };
    if let Some(open) = chat.open.take() {
        close_row(cx, &ack.key, &open)?;
    }
    row.opened_ms = Some(cx.now);
    row.thin = !full;
    cx.meta.epochs += 1;
    if row.thin {
        cx.meta.thin += 1;
        cx.kv.put(&thin_key(&ack.key, epoch), &[])?;
    }
    chat.intent = None;
    chat.last = Some((epoch, ack.key.key_id));
    chat.open = Some(OpenEpoch {
        epoch,
        key_id: ack.key.key_id,
        opened_ms: cx.now,
        records: 0,
        thin: row.thin,
    });
    cx.put_chat(&ack.key.chat, &chat)?;
    cx.kv.delete(&rows::key(table::INTENT, &[&ack.key.chat.0]))
}

/// Moves one leaf from pending to where it stays, once; an acknowledgement
/// still counts after the outbox gave up, since the share is there.
fn settle(
    cx: &mut Ctx<'_>,
    row: &mut EpochRow,
    custodian: &CustodianId,
    to: LeafState,
    key_id: &KeyId,
) -> Result<(), KvError> {
    let Some(leaf) = row.leaves.iter_mut().find(|l| &l.custodian == custodian) else {
        return Ok(());
    };
    match (leaf.state, to) {
        (LeafState::Pending, _) => {
            if let Some(session) = leaf.session {
                cx.kv
                    .delete(&rows::outbox_key(custodian, &session, key_id))?;
                cx.meta.outbox = cx.meta.outbox.saturating_sub(1);
            }
            if to != LeafState::Acked {
                cx.meta.lost += 1;
            }
        }
        (LeafState::Expired | LeafState::Refused(_), LeafState::Acked)
            if leaf.session.is_some() => {}
        _ => return Ok(()),
    }
    leaf.state = to;
    Ok(())
}

/// Marks a leaf whose session expired undelivered. Called by `sweep`.
pub(super) fn expire_leaf(
    cx: &mut Ctx<'_>,
    key: &KeyRef,
    custodian: &CustodianId,
) -> Result<(), KvError> {
    let Found::Live(found) = find(cx, key)? else {
        return Ok(());
    };
    let (dealing, mut row) = *found;
    settle(cx, &mut row, custodian, LeafState::Expired, &key.key_id)?;
    rows::put(cx.kv, &rows::epoch_key(&key.chat, dealing.epoch), &row)
}

pub(super) fn abandon(cx: &mut Ctx<'_>, key: KeyRef) -> Result<Reply, KvError> {
    let Some(mut chat) = cx.chat(&key.chat)? else {
        return Ok(Reply::NotFound);
    };
    let dealing_key = rows::key(table::DEALING, &[&key.key_id.0]);
    let Some(mut dealing) = rows::get::<DealingRow>(&*cx.kv, &dealing_key)? else {
        return Ok(Reply::NotFound);
    };
    if dealing.chat != key.chat {
        return Ok(Reply::NotFound);
    }
    if dealing.abandoned_ms.is_some() {
        return Ok(Reply::Done);
    }
    if chat.intent != Some((dealing.epoch, key.key_id)) {
        return Ok(conflict(&chat, ConflictWhy::AlreadyOpen));
    }
    let epoch_key = rows::epoch_key(&key.chat, dealing.epoch);
    let row: EpochRow = rows::get(&*cx.kv, &epoch_key)?
        .ok_or_else(|| KvError(format!("the intent of chat {} is gone", key.chat)))?;
    for leaf in &row.leaves {
        let Some(session) = leaf.session else {
            continue;
        };
        if leaf.state == LeafState::Pending {
            cx.kv
                .delete(&rows::outbox_key(&leaf.custodian, &session, &key.key_id))?;
            cx.meta.outbox = cx.meta.outbox.saturating_sub(1);
        }
        // Also those that have not acknowledged: the share may be on its way.
        cx.kv.put(
            &rows::abandoned_key(&leaf.custodian, &key.key_id),
            &key.chat.0,
        )?;
    }
    cx.kv.delete(&epoch_key)?;
    cx.kv.delete(&rows::key(table::INTENT, &[&key.chat.0]))?;
    dealing.abandoned_ms = Some(cx.now);
    rows::put(cx.kv, &dealing_key, &dealing)?;
    chat.intent = None;
    cx.put_chat(&key.chat, &chat)?;
    Ok(Reply::Done)
}

pub(super) fn abandon_acks(
    cx: &mut Ctx<'_>,
    acks: &[(CustodianId, KeyId)],
) -> Result<Reply, KvError> {
    if acks.len() > BATCH_ITEMS_MAX {
        return Ok(Reply::invalid("too many dealings in one command"));
    }
    for (custodian, key_id) in acks {
        cx.kv.delete(&rows::abandoned_key(custodian, key_id))?;
    }
    Ok(Reply::Done)
}

pub(super) fn close(cx: &mut Ctx<'_>, key: KeyRef) -> Result<Reply, KvError> {
    let Some(mut chat) = cx.chat(&key.chat)? else {
        return Ok(Reply::NotFound);
    };
    match chat.open.take() {
        Some(open) if open.key_id == key.key_id => {
            close_row(cx, &key, &open)?;
            cx.put_chat(&key.chat, &chat)?;
            Ok(Reply::Done)
        }
        open => {
            chat.open = open;
            match find(cx, &key)? {
                Found::Live(found) if found.1.closed_ms.is_some() => Ok(Reply::Done),
                _ => Ok(conflict(&chat, ConflictWhy::NotOpen)),
            }
        }
    }
}

fn close_row(cx: &mut Ctx<'_>, key: &KeyRef, open: &OpenEpoch) -> Result<(), KvError> {
    let epoch_key = rows::epoch_key(&key.chat, open.epoch);
    let mut row: EpochRow = rows::get(&*cx.kv, &epoch_key)?
        .ok_or_else(|| KvError(format!("the open epoch of chat {} is gone", key.chat)))?;
    row.closed_ms = Some(cx.now);
    rows::put(cx.kv, &epoch_key, &row)
}

/// What a key reference stands for.
enum Found {
    Live(Box<(DealingRow, EpochRow)>),
    Abandoned,
    Nothing,
}

fn find(cx: &Ctx<'_>, key: &KeyRef) -> Result<Found, KvError> {
    let dealing_key = rows::key(table::DEALING, &[&key.key_id.0]);
    let dealing = match rows::get::<DealingRow>(&*cx.kv, &dealing_key)? {
        Some(dealing) if dealing.chat == key.chat => dealing,
        _ => return Ok(Found::Nothing),
    };
    // The number of an abandoned dealing is the next one's: its row is not ours.
    if dealing.abandoned_ms.is_some() {
        return Ok(Found::Abandoned);
    }
    let row: Option<EpochRow> = rows::get(&*cx.kv, &rows::epoch_key(&key.chat, dealing.epoch))?;
    match row {
        Some(row) if row.key_id == key.key_id => Ok(Found::Live(Box::new((dealing, row)))),
        _ => Err(KvError(format!(
            "the epoch of dealing {} is gone",
            key.key_id
        ))),
    }
}

fn margin(policy: &Policy, row: &EpochRow) -> Option<usize> {
    policy.margin_of(&row.acked())
}

fn state_of(row: &EpochRow) -> DealingState {
    match (row.opened_ms, row.closed_ms) {
        (None, _) => DealingState::Intent,
        (Some(_), None) => DealingState::Open { thin: row.thin },
        (Some(_), Some(_)) => DealingState::Closed,
    }
}

fn thin_key(key: &KeyRef, epoch: u32) -> Vec<u8> {
    rows::key(table::THIN, &[&key.chat.0, &epoch.to_be_bytes()])
}

fn set_open_thin(cx: &mut Ctx<'_>, key: &KeyRef) -> Result<(), KvError> {
    let Some(mut chat): Option<ChatRow> = cx.chat(&key.chat)? else {
        return Ok(());
    };
    if let Some(open) = chat.open.as_mut().filter(|o| o.key_id == key.key_id) {
        open.thin = false;
        cx.put_chat(&key.chat, &chat)?;
    }
    Ok(())
}
