//! Reading records: from leases where there are some, else through a quorum.
//!
//! Opening happens in batches off the async runtime; a page whose keys are all
//! leased takes one hop there and back.

use super::admission::Admitted;
use super::api::HomeError;
use super::core::{Core, Fail};
use super::leases::LeasedKey;
use crate::mutants::{mutant, now_and_then};
use quorate_engine::api::{Content, Message};
use quorate_engine::crypto::message::{self, RecordBinding};
use quorate_engine::crypto::subkeys::Subkeys;
use quorate_engine::custody::protocol::{KeyRef, Reason};
use quorate_engine::home::read;
use quorate_engine::home::rows::RecordRow;
use quorate_engine::types::{ChatId, EpochNo, KeyId, MessageId};
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::Arc;

/// Sealed bytes in one page; a longer page ends early and says where to go on.
const PAGE_BYTES_MAX: usize = 4 << 20;
/// Records read from the store at a time.
const STEP: usize = 64;

type Records = Vec<(MessageId, RecordRow)>;
type Keys = BTreeMap<KeyId, LeasedKey>;

/// A page that is not longer than one reply may be; whether there may be more behind it.
pub struct Opened {
    /// The messages.
    pub messages: Vec<Message>,
    /// Where the next page starts.
    pub next: Option<MessageId>,
}

/// Up to `limit` messages from `from` on. The caller has confirmed that the applied state is recent enough.
pub(super) async fn page(
    core: &Arc<Core>,
    who: &Admitted,
    chat: ChatId,
    from: MessageId,
    limit: usize,
) -> Result<Opened, Fail> {
    let (work, allowed) = (core.clone(), who.clone());
    let first = blocking(move || {
        let (records, next) = load(&work, &chat, from, limit)?;
        let (keys, missing) = leased(&work, &allowed, &chat, &records)?;
        if !missing.is_empty() {
            return Ok((None, Some((records, keys, missing)), next));
        }
        Ok((Some(open_all(&work, &chat, records, &keys)?), None, next))
    });
    let (opened, unopened, next) = first.await?;
    if let Some(messages) = opened {
        return Ok(Opened { messages, next });
    }
    let Some((records, mut keys, missing)) = unopened else {
        return Err(Fail::NotDone(
            "a page was neither opened nor missing keys".into(),
        ));
    };
    obtain(core, who, missing, &mut keys).await?;
    let work = core.clone();
    let messages = blocking(move || open_all(&work, &chat, records, &keys)).await?;
    Ok(Opened { messages, next })
}

/// One message.
pub(super) async fn message(
    core: &Arc<Core>,
    who: &Admitted,
    chat: ChatId,
    id: MessageId,
) -> Result<Message, Fail> {
    let row = core.shard(&chat).view(|kv| read::record(kv, &chat, id))?;
    let row = row.ok_or_else(|| {
        let what = format!("message {id} of chat {chat}");
        Fail::Home(HomeError::NotFound { what })
    })?;
    let records = vec![(id, row)];
    let (mut keys, missing) = leased(core, who, &chat, &records)?;
    obtain(core, who, missing, &mut keys).await?;
    // One record: cheaper than the hop to another thread, unless it is large.
    let opened = if records[0].1.sealed.len() < 16 << 10 {
        open_all(core, &chat, records, &keys)?
    } else {
        let work = core.clone();
        blocking(move || open_all(&work, &chat, records, &keys)).await?
    };
    let opened = opened.into_iter().next();
    opened.ok_or_else(|| Fail::NotDone("one record gave no message".into()))
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Fail> + Send + 'static,
) -> Result<T, Fail> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|e| Err(Fail::NotDone(e.to_string())))
}

fn load(
    core: &Core,
    chat: &ChatId,
    from: MessageId,
    limit: usize,
) -> Result<(Records, Option<MessageId>), Fail> {
    let loaded = core.shard(chat).view(|kv| {
        let Some(row) = read::chat(kv, chat)?.filter(|r| r.next > 0) else {
            return Ok(None);
        };
        let mut records = Records::new();
        let (mut at, mut bytes) = (from, 0);
        while records.len() < limit && bytes < PAGE_BYTES_MAX {
            let step = STEP.min(limit - records.len());
            let more = read::page(kv, chat, at, step)?;
            let ended = more.len() < step;
            for (id, record) in more {
                bytes += record.sealed.len();
                at = id.saturating_add(1);
                records.push((id, record));
                if bytes >= PAGE_BYTES_MAX {
                    break;
                }
            }
            if ended {
                break;
            }
        }
        if mutant("page-cuts-last") && records.len() > 3 {
            records.pop();
        }
        Ok(Some((records, (at < row.next).then_some(at))))
    })?;
    loaded.ok_or_else(|| {
        let what = format!("chat {chat}");
        Fail::Home(HomeError::NotFound { what })
    })
}

/// The keys that are leased, and those that are not. The grant covers all of them.
fn leased(
    core: &Core,
    who: &Admitted,
    chat: &ChatId,
    records: &[(MessageId, RecordRow)],
) -> Result<(Keys, Vec<(KeyRef, EpochNo)>), Fail> {
    let (mut keys, mut missing) = (Keys::new(), BTreeMap::new());
    for (_, row) in records {
        if keys.contains_key(&row.key_id) || missing.contains_key(&row.key_id) {
            continue;
        }
        who.may(chat, row.epoch)?;
        let key = KeyRef {
            chat: *chat,
            key_id: row.key_id,
        };
        match core.leases.get(&key) {
            Some(lease) => drop(keys.insert(row.key_id, lease)),
            None => drop(missing.insert(row.key_id, (key, row.epoch))),
        }
    }
    Ok((keys, missing.into_values().collect()))
}

async fn obtain(
    core: &Arc<Core>,
    who: &Admitted,
    missing: Vec<(KeyRef, EpochNo)>,
    keys: &mut Keys,
) -> Result<(), Fail> {
    if missing.is_empty() {
        return Ok(());
    }
    let obtained = core.keys(&missing, Reason::Read, who).await;
    for ((key, _), lease) in missing.into_iter().zip(obtained) {
        keys.insert(key.key_id, lease?);
    }
    Ok(())
}

fn open_all(
    core: &Core,
    chat: &ChatId,
    records: Records,
    keys: &Keys,
) -> Result<Vec<Message>, Fail> {
    let mut subkeys: BTreeMap<KeyId, Subkeys> = BTreeMap::new();
    let mut out = Vec::with_capacity(records.len());
    for (id, row) in records {
        if let Entry::Vacant(vacant) = subkeys.entry(row.key_id) {
            let Some(lease) = keys.get(&row.key_id) else {
                return Err(Fail::NotDone("a key went away while reading".into()));
            };
            vacant.insert(lease.subkeys());
        }
        out.push(open(core, &subkeys[&row.key_id], chat, id, row)?);
    }
    metrics::counter!("quorate_home_records_read_total").increment(out.len() as u64);
    if mutant("page-reversed") && now_and_then(10) {
        out.reverse();
    }
    if mutant("page-repeats")
        && now_and_then(10)
        && let [.., last, again] = out.as_mut_slice()
    {
        again.content = last.content.clone();
    }
    Ok(out)
}

fn open(
    core: &Core,
    keys: &Subkeys,
    chat: &ChatId,
    id: MessageId,
    row: RecordRow,
) -> Result<Message, Fail> {
    let place = RecordBinding {
        deployment: core.config.deployment,
        chat: *chat,
        message: id,
        revision: row.revision,
        key_id: row.key_id,
        kind: row.kind,
    };
    let corrupt = |detail: String| {
        tracing::error!(%chat, message = id, "a record does not open: {detail}");
        metrics::counter!("quorate_home_corrupt_records_total").increment(1);
        Fail::Home(HomeError::Corrupt {
            chat: *chat,
            message: id,
            detail,
        })
    };
    let plain = message::open(keys, &place, &row.sealed).map_err(|e| corrupt(e.to_string()))?;
    let content: Content = serde_json::from_slice(&plain).map_err(|e| corrupt(e.to_string()))?;
    Ok(Message {
        id,
        revision: row.revision,
        sent_ms: row.sent_ms,
        edited_ms: row.edited_ms,
        device: row.device,
        epoch: row.epoch,
        content,
    })
}
