//! Reading a shard's applied state.
//!
//! Whoever serves from these has made sure first (by ReadIndex) that the state is recent enough.

use super::command::EpochIntent;
use super::messages::lookup_key;
use super::rows::{
    self, ChatRow, DealingRow, DeletionRow, EpochRow, IdempotencyRow, LeafState, Meta, OutboxRow,
    PolicyRow, RecordRow, ServiceRow, table,
};
use super::{SERVICES_MAX, STATEMENTS_BYTES_MAX};
use crate::authz::envelope::Envelope;
use crate::authz::membership::{Invite, Member};
use crate::custody::protocol::{KeyRef, Receipt, SealSession, SealedItem};
use crate::policy::{Margins, Policy};
use crate::types::kv::{KvError, KvRead, Row};
use crate::types::{
    AccountId, ChatId, CustodianId, EpochNo, KeyId, MessageId, PolicyId, PublicKey, ServiceId,
    SessionId, StatementHash,
};

/// Most statements read at once.
const STATEMENTS_MAX: usize = 1024;

/// A dealing that is committed and not yet open: what a new leader completes or
/// abandons. Exists only as read from applied state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PendingIntent {
    pub(super) key: KeyRef,
    pub(super) epoch: EpochNo,
    pub(super) row: EpochRow,
    pub(super) undelivered: Vec<(CustodianId, SessionId, SealedItem)>,
}

impl PendingIntent {
    /// The dealing.
    pub fn key(&self) -> KeyRef {
        self.key
    }
    /// The policy it was dealt under.
    pub fn policy(&self) -> PolicyId {
        self.row.policy
    }
}

/// One undelivered sealed share.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutboxItem {
    /// To whom.
    pub custodian: CustodianId,
    /// Sealed under which session.
    pub session: SessionId,
    /// What is sent.
    pub item: SealedItem,
}

/// The shard's own row.
///
/// # Errors
/// [`KvError`], as all functions here.
pub fn meta(kv: &dyn KvRead) -> Result<Meta, KvError> {
    Ok(rows::get(kv, &[table::META])?.unwrap_or_default())
}

/// The policy new epochs are dealt under.
///
/// # Errors
/// [`KvError`].
pub fn current_policy(kv: &dyn KvRead) -> Result<Option<(Policy, Margins)>, KvError> {
    match meta(kv)?.policy {
        Some(id) => policy(kv, &id),
        None => Ok(None),
    }
}

/// A policy by id.
///
/// # Errors
/// [`KvError`].
pub fn policy(kv: &dyn KvRead, id: &PolicyId) -> Result<Option<(Policy, Margins)>, KvError> {
    let Some(row) = rows::get::<PolicyRow>(kv, &rows::key(table::POLICY, &[&id.0]))? else {
        return Ok(None);
    };
    let policy = Policy::from_canonical(&row.canonical)
        .map_err(|e| KvError(format!("policy {id} does not parse: {e}")))?;
    Ok(Some((policy, row.margins)))
}

/// One chat.
///
/// # Errors
/// [`KvError`].
pub fn chat(kv: &dyn KvRead, chat: &ChatId) -> Result<Option<ChatRow>, KvError> {
    rows::get(kv, &rows::chat_key(chat))
}

/// Members of a chat in order of account, after `after`.
///
/// # Errors
/// [`KvError`].
pub fn members(
    kv: &dyn KvRead,
    chat: &ChatId,
    after: Option<&AccountId>,
    limit: usize,
) -> Result<Vec<(AccountId, Member)>, KvError> {
    let prefix = rows::key(table::MEMBER, &[&chat.0]);
    let found = scan_after(kv, &prefix, after.map(|a| &a.0[..]), limit)?;
    found
        .into_iter()
        .map(|(key, value)| {
            let account = AccountId(tail(&key, prefix.len())?);
            Ok((account, rows::decode(&key, &value)?))
        })
        .collect()
}

/// Where an account stands in a chat, if it is a member.
///
/// # Errors
/// [`KvError`].
pub fn member(
    kv: &dyn KvRead,
    chat: &ChatId,
    account: &AccountId,
) -> Result<Option<Member>, KvError> {
    rows::get(kv, &rows::member_key(chat, account))
}

/// An invite to a chat, if it was not revoked or used up. It may have run out.
///
/// # Errors
/// [`KvError`].
pub fn invite(kv: &dyn KvRead, chat: &ChatId, key: &PublicKey) -> Result<Option<Invite>, KvError> {
    rows::get(kv, &rows::invite_key(chat, key))
}

/// A service's key, ended or not.
///
/// # Errors
/// [`KvError`].
pub fn service(kv: &dyn KvRead, id: &ServiceId) -> Result<Option<ServiceRow>, KvError> {
    rows::get(kv, &rows::service_key(id))
}

/// All keys of services, ended ones too, in order of id.
///
/// # Errors
/// [`KvError`].
pub fn services(kv: &dyn KvRead) -> Result<Vec<ServiceRow>, KvError> {
    let found = kv.scan(
        &[table::SERVICE],
        &[table::SERVICE + 1],
        SERVICES_MAX,
        false,
    )?;
    let rows = found.iter().map(|(key, value)| rows::decode(key, value));
    rows.collect()
}

/// Chats that an account is a member of, in order of id, after `after`.
///
/// # Errors
/// [`KvError`].
pub fn chats_of(
    kv: &dyn KvRead,
    account: &AccountId,
    after: Option<&ChatId>,
    limit: usize,
) -> Result<Vec<(ChatId, ChatRow)>, KvError> {
    let prefix = rows::key(table::ACCOUNT, &[&account.0]);
    let found = scan_after(kv, &prefix, after.map(|c| &c.0[..]), limit)?;
    found
        .into_iter()
        .map(|(key, _)| {
            let id = ChatId(tail(&key, prefix.len())?);
            let row = chat(kv, &id)?;
            let row = row.ok_or_else(|| KvError(format!("chat {id} of a member is gone")))?;
            Ok((id, row))
        })
        .collect()
}

/// Statements of a chat's chain from number `from` on, in order, up to [`STATEMENTS_BYTES_MAX`].
///
/// # Errors
/// [`KvError`].
pub fn statements(kv: &dyn KvRead, chat: &ChatId, from: u64) -> Result<Vec<Envelope>, KvError> {
    let prefix = rows::key(table::STATEMENT, &[&chat.0]);
    let start = rows::statement_key(chat, from);
    let (mut out, mut bytes) = (Vec::new(), 0);
    for (key, value) in kv.scan(&start, &rows::prefix_end(&prefix), STATEMENTS_MAX, false)? {
        bytes += value.len();
        if bytes > STATEMENTS_BYTES_MAX && !out.is_empty() {
            break;
        }
        out.push(rows::decode(&key, &value)?);
    }
    Ok(out)
}

fn scan_after(
    kv: &dyn KvRead,
    prefix: &[u8],
    after: Option<&[u8]>,
    limit: usize,
) -> Result<Vec<Row>, KvError> {
    let mut from = prefix.to_vec();
    if let Some(after) = after {
        from.extend_from_slice(after);
        from.push(0);
    }
    kv.scan(&from, &rows::prefix_end(prefix), limit, false)
}

/// Chats in order of id, after `after`.
///
/// # Errors
/// [`KvError`].
pub fn chats(
    kv: &dyn KvRead,
    after: Option<&ChatId>,
    limit: usize,
) -> Result<Vec<(ChatId, ChatRow)>, KvError> {
    let mut from = after.map_or_else(|| vec![table::CHAT], rows::chat_key);
    if after.is_some() {
        from.push(0);
    }
    let rows = kv.scan(&from, &[table::CHAT + 1], limit, false)?;
    rows.into_iter()
        .map(|(key, value)| Ok((ChatId(tail(&key, 1)?), rows::decode(&key, &value)?)))
        .collect()
}

/// One record.
///
/// # Errors
/// [`KvError`].
pub fn record(
    kv: &dyn KvRead,
    chat: &ChatId,
    message: MessageId,
) -> Result<Option<RecordRow>, KvError> {
    rows::get(kv, &rows::record_key(chat, message))
}

/// A deletion that was recorded.
///
/// # Errors
/// [`KvError`].
pub fn deletion(
    kv: &dyn KvRead,
    chat: &ChatId,
    id: &StatementHash,
) -> Result<Option<DeletionRow>, KvError> {
    rows::get(kv, &rows::deletion_key(chat, id))
}

/// Up to `limit` records from `from` on, in order of id.
///
/// # Errors
/// [`KvError`].
pub fn page(
    kv: &dyn KvRead,
    chat: &ChatId,
    from: MessageId,
    limit: usize,
) -> Result<Vec<(MessageId, RecordRow)>, KvError> {
    let end = rows::prefix_end(&rows::key(table::RECORD, &[&chat.0]));
    let rows = kv.scan(&rows::record_key(chat, from), &end, limit, false)?;
    rows.into_iter()
        .map(|(key, value)| {
            let id = MessageId::from_be_bytes(tail(&key, 33)?);
            Ok((id, rows::decode(&key, &value)?))
        })
        .collect()
}

/// One epoch's dealing.
///
/// # Errors
/// [`KvError`].
pub fn epoch(kv: &dyn KvRead, chat: &ChatId, epoch: EpochNo) -> Result<Option<EpochRow>, KvError> {
    rows::get(kv, &rows::epoch_key(chat, epoch))
}

/// What a key id was used for.
///
/// # Errors
/// [`KvError`].
pub fn dealing(kv: &dyn KvRead, key_id: &KeyId) -> Result<Option<DealingRow>, KvError> {
    rows::get(kv, &rows::key(table::DEALING, &[&key_id.0]))
}

/// The dealing behind a key id with its epoch, unless abandoned.
///
/// # Errors
/// [`KvError`].
pub fn epoch_of(kv: &dyn KvRead, key: &KeyRef) -> Result<Option<(EpochNo, EpochRow)>, KvError> {
    match dealing(kv, &key.key_id)? {
        Some(d) if d.chat == key.chat && d.abandoned_ms.is_none() => {
            Ok(epoch(kv, &d.chat, d.epoch)?.map(|row| (d.epoch, row)))
        }
        _ => Ok(None),
    }
}

/// The first result under an idempotency key, whether or not expired.
///
/// # Errors
/// [`KvError`].
pub fn first_result(
    kv: &dyn KvRead,
    chat: &ChatId,
    device: &str,
    idempotency: &str,
) -> Result<Option<IdempotencyRow>, KvError> {
    rows::get(kv, &lookup_key(chat, device, idempotency))
}

/// One committed session.
///
/// # Errors
/// [`KvError`].
pub fn session(kv: &dyn KvRead, id: &SessionId) -> Result<Option<SealSession>, KvError> {
    rows::get(kv, &rows::key(table::SESSION, &[&id.0]))
}

/// Intents that are neither open nor abandoned, after `after`, in order of chat.
///
/// # Errors
/// [`KvError`].
pub fn pending_intents(
    kv: &dyn KvRead,
    after: Option<&ChatId>,
    limit: usize,
) -> Result<Vec<PendingIntent>, KvError> {
    let mut from = vec![table::INTENT];
    if let Some(after) = after {
        from.extend_from_slice(&after.0);
        from.push(0);
    }
    let mut out = Vec::new();
    for (key, _) in kv.scan(&from, &[table::INTENT + 1], limit, false)? {
        out.extend(pending_intent(kv, &ChatId(tail(&key, 1)?))?);
    }
    Ok(out)
}

/// The pending intent of one chat.
///
/// # Errors
/// [`KvError`].
pub fn pending_intent(kv: &dyn KvRead, id: &ChatId) -> Result<Option<PendingIntent>, KvError> {
    let Some((epoch_no, key_id)) = chat(kv, id)?.and_then(|c| c.intent) else {
        return Ok(None);
    };
    let row = epoch(kv, id, epoch_no)?
        .filter(|r| r.key_id == key_id)
        .ok_or_else(|| KvError(format!("the intent of chat {id} is gone")))?;
    let mut undelivered = Vec::new();
    for leaf in row.leaves.iter().filter(|l| l.state == LeafState::Pending) {
        let Some(session) = leaf.session else {
            continue;
        };
        let key = rows::outbox_key(&leaf.custodian, &session, &key_id);
        if let Some(row) = rows::get::<OutboxRow>(kv, &key)? {
            undelivered.push((leaf.custodian.clone(), session, item(row, key_id)));
        }
    }
    let key = KeyRef { chat: *id, key_id };
    Ok(Some(PendingIntent {
        key,
        epoch: epoch_no,
        row,
        undelivered,
    }))
}

/// Undelivered shares for one custodian, oldest session first within the order of
/// ids, from `after` on.
///
/// # Errors
/// [`KvError`].
pub fn outbox(
    kv: &dyn KvRead,
    custodian: &CustodianId,
    after: Option<(SessionId, KeyId)>,
    limit: usize,
) -> Result<Vec<OutboxItem>, KvError> {
    let prefix = rows::key(table::OUTBOX, &[custodian.as_str().as_bytes(), &[0]]);
    let from = match after {
        Some((session, key_id)) => {
            let mut key = rows::outbox_key(custodian, &session, &key_id);
            key.push(0);
            key
        }
        None => prefix.clone(),
    };
    let rows = kv.scan(&from, &rows::prefix_end(&prefix), limit, false)?;
    rows.into_iter()
        .map(|(key, value)| {
            let ids: [u8; 32] = tail(&key, prefix.len())?;
            let (session, key_id) = ids.split_at(16);
            let row: OutboxRow = rows::decode(&key, &value)?;
            let key_id = KeyId(tail(key_id, 0)?);
            Ok(OutboxItem {
                custodian: custodian.clone(),
                session: SessionId(tail(session, 0)?),
                item: item(row, key_id),
            })
        })
        .collect()
}

/// Abandonments one custodian has not confirmed.
///
/// # Errors
/// [`KvError`].
pub fn abandoned(
    kv: &dyn KvRead,
    custodian: &CustodianId,
    limit: usize,
) -> Result<Vec<KeyRef>, KvError> {
    let prefix = rows::key(table::ABANDONED, &[custodian.as_str().as_bytes(), &[0]]);
    let rows = kv.scan(&prefix, &rows::prefix_end(&prefix), limit, false)?;
    rows.into_iter()
        .map(|(key, value)| {
            Ok(KeyRef {
                chat: ChatId(tail(&value, 0)?),
                key_id: KeyId(tail(&key, prefix.len())?),
            })
        })
        .collect()
}

/// Opened epochs with less than their margin, in order of chat.
///
/// # Errors
/// [`KvError`].
pub fn thin_epochs(kv: &dyn KvRead, limit: usize) -> Result<Vec<(ChatId, EpochNo)>, KvError> {
    let rows = kv.scan(&[table::THIN], &[table::THIN + 1], limit, false)?;
    rows.into_iter()
        .map(|(key, _)| {
            let chat = key.get(1..33).ok_or_else(|| cut(&key))?;
            Ok((
                ChatId(tail(chat, 0)?),
                EpochNo::from_be_bytes(tail(&key, 33)?),
            ))
        })
        .collect()
}

/// Journalled receipts, oldest first.
///
/// # Errors
/// [`KvError`].
pub fn receipts(kv: &dyn KvRead, limit: usize) -> Result<Vec<Receipt>, KvError> {
    let rows = kv.scan(&[table::RECEIPT], &[table::RECEIPT + 1], limit, false)?;
    rows.iter().map(|(k, v)| rows::decode(k, v)).collect()
}

/// Whether an intent with these bytes is what stands committed; for tests and dumps.
pub fn same_dealing(row: &EpochRow, intent: &EpochIntent) -> bool {
    row.key_id == intent.key_id
        && row.check == intent.check
        && row.leaves.len() == intent.leaves.len()
        && row
            .leaves
            .iter()
            .zip(&intent.leaves)
            .all(|(a, b)| a.custodian == b.custodian && a.commitment == b.commitment)
}

fn item(row: OutboxRow, key_id: KeyId) -> SealedItem {
    SealedItem {
        chat: row.chat,
        epoch: row.epoch,
        key_id,
        policy: row.policy,
        commitment: row.commitment,
        sealed: row.sealed,
        expires_ms: row.expires_ms,
    }
}

fn tail<const N: usize>(bytes: &[u8], from: usize) -> Result<[u8; N], KvError> {
    bytes
        .get(from..)
        .and_then(|b| b.try_into().ok())
        .ok_or_else(|| cut(bytes))
}

fn cut(key: &[u8]) -> KvError {
    let table = key.first().copied().unwrap_or(0);
    KvError(format!(
        "a key or value of table {table:#04x} has the wrong length"
    ))
}
