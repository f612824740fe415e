//! Executing a disclosure order: keys under the order, records of its dates,
//! sealed again to its recipient. Never a data key leaves, and none is leased.
//!
//! ```text
//!  records in the order's dates ─▶ their epochs ─▶ custodians (each decides alone)
//!     manifest, sealed records ◀─ opened, sealed to the recipient ◀─┘ or nothing at all
//! ```
//!
//! Which chats and dates an order covers is decided at every custodian once
//! more: what this home asks for beyond them, or without their officers, is refused there. Of chats that an
//! order does not name, only what its accounts wrote comes out ([`order_accounts`](super::order_accounts)).

use super::api::HomeError;
use super::core::{Core, Fail, RETRY_MS, quorum_error};
use super::order_accounts;
use super::release::{self, Authority};
use super::shard::Shard;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use quorate_engine::api::Content;
use quorate_engine::api::disclosure::{
    Disclosed, ExecuteOrder, Listed, Listing, Manifest, OpenedEpoch, PART_BYTES_MAX,
    PART_LOOKED_AT_MAX, PART_RECORDS_MAX, Part, RecordsOf, Withheld, WithheldEpoch, read_order,
};
use quorate_engine::audit::HexBytes;
use quorate_engine::authz::envelope::Envelope;
use quorate_engine::authz::orders::{Order, OrderScope};
use quorate_engine::crypto::disclosure::{PartBinding, PartSender, hash};
use quorate_engine::crypto::message::{self, RecordBinding};
use quorate_engine::crypto::seal::{RecipientKey, RecipientPublic};
use quorate_engine::crypto::subkeys::Subkeys;
use quorate_engine::custody::protocol::{KeyRef, Refusal};
use quorate_engine::home::read;
use quorate_engine::home::rows::RecordRow;
use quorate_engine::policy::Policy;
use quorate_engine::quorum::NoQuorum;
use quorate_engine::types::{
    ChatId, CustodianId, DataKey, EpochNo, KeyId, MessageId, OrderId, Outcome, WallMs,
};
use rand::Rng;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Records read from the store at a time.
const STEP: usize = 256;

/// What one part may hold, before any key is asked for.
struct Scanned {
    held: bool,
    next: Option<MessageId>,
    records: Vec<(MessageId, RecordRow)>,
    /// The epoch that is being written.
    open: Option<KeyId>,
}

/// A key for a moment's use: wiped when this is dropped.
pub(super) struct Opened {
    pub(super) epoch: EpochNo,
    pub(super) data_key: DataKey,
    pub(super) releases: Vec<(CustodianId, u64)>,
}

/// When what a record says now was written.
fn written_ms(row: &RecordRow) -> WallMs {
    row.edited_ms.unwrap_or(row.sent_ms)
}

/// One part of an order's result, from the leader of the chat's shard. The caller has confirmed
/// that the applied state is recent enough.
pub(super) async fn part(
    core: &Arc<Core>,
    shard: &Shard,
    request: &ExecuteOrder,
    chat: ChatId,
) -> Result<Part, Fail> {
    let (id, order, recipient, made_ms) = in_force(core, request)?;
    let from = request.from;
    let named = order.scope.chats.contains(&chat);
    let accounts = match named || order.scope.accounts.is_empty() {
        true => None,
        false => Some(order_accounts::ask(core, &id, &order).await?),
    };
    if !named && !accounts.as_ref().is_some_and(|a| a.chats.contains(&chat)) {
        return Err(invalid(format!(
            "order {id} does not name chat {chat}, and no custodian says that an account of it was in there"
        )));
    }
    let devices = accounts.map(|a| a.devices);
    let scanned = scan(shard, &chat, from, &order.scope, devices.as_ref())?;
    let mut withheld = BTreeMap::new();
    let mut keys = BTreeSet::new();
    for (_, row) in &scanned.records {
        if scanned.open == Some(row.key_id) {
            let count: &mut (EpochNo, Withheld, usize) =
                withheld
                    .entry(row.key_id)
                    .or_insert((row.epoch, Withheld::StillWritten, 0));
            count.2 += 1;
        } else {
            keys.insert(row.key_id);
        }
    }
    let keys: Vec<KeyRef> = keys
        .into_iter()
        .map(|key_id| KeyRef { chat, key_id })
        .collect();
    let (opened, not) = open_keys(core, id, keys).await?;
    for (key_id, (epoch, why)) in not {
        let mine = scanned.records.iter().filter(|(_, r)| r.key_id == key_id);
        withheld.insert(key_id, (epoch, why, mine.count()));
    }
    let place = PartBinding {
        deployment: core.config.deployment,
        home: core.config.home.clone(),
        order: id,
        chat,
        from,
    };
    let withheld = withheld.into_iter();
    let manifest = Manifest {
        deployment: place.deployment,
        home: place.home.clone(),
        order: id,
        chat,
        records_of: match named {
            true => RecordsOf::Everybody,
            false => RecordsOf::Accounts,
        },
        held: scanned.held,
        from,
        next: scanned.next,
        made_ms,
        encapsulated: HexBytes([0; 32]),
        opened: Vec::new(),
        withheld: withheld
            .map(|(key, (epoch, why, records))| WithheldEpoch {
                epoch,
                key,
                why,
                records,
            })
            .collect(),
        records: Vec::new(),
    };
    let count = scanned.records.len();
    let work = move || seal_part(place, manifest, scanned.records, opened, &recipient);
    let part = tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|e| Err(later(e.to_string())))?;
    tracing::warn!(order = %id, looked_at = count, records = part.records.len(), "records were disclosed under an order");
    Ok(part)
}

fn invalid(detail: String) -> Fail {
    Fail::Home(HomeError::Invalid { detail })
}

/// The order, its id, whom results are sealed to, and the time.
fn in_force(
    core: &Core,
    request: &ExecuteOrder,
) -> Result<(OrderId, Order, RecipientPublic, WallMs), Fail> {
    let paper = Envelope::from(&request.statement);
    let (id, order, recipient) =
        read_order(&paper, &core.config.deployment).map_err(|e| invalid(e.to_string()))?;
    let made_ms = core.clock.wall();
    if made_ms >= order.expires_ms {
        return Err(invalid(format!("order {id} has expired")));
    }
    Ok((id, order, recipient, made_ms))
}

/// The part that lists the chats of the order's accounts, not yet signed.
pub(super) async fn listing(core: &Core, request: &ExecuteOrder) -> Result<Part, Fail> {
    let (id, order, _, made_ms) = in_force(core, request)?;
    if order.scope.accounts.is_empty() {
        return Err(invalid(format!(
            "order {id} names no account; name one of its chats"
        )));
    }
    let accounts = order_accounts::ask(core, &id, &order).await?;
    let listing = Listing {
        deployment: core.config.deployment,
        home: core.config.home.clone(),
        order: id,
        made_ms,
        chats: accounts.chats,
        told: accounts.told,
    };
    Ok(Part {
        manifest: serde_json::to_string(&listing).map_err(|e| later(e.to_string()))?,
        encapsulated: String::new(),
        records: Vec::new(),
    })
}

/// The records of the order's dates from `from` on, as many as one part holds. `devices`: only
/// what these wrote.
fn scan(
    shard: &Shard,
    chat: &ChatId,
    from: MessageId,
    scope: &OrderScope,
    devices: Option<&BTreeSet<String>>,
) -> Result<Scanned, Fail> {
    let scanned = shard.view(|kv| {
        let row = read::chat(kv, chat)?;
        let end = row.as_ref().map_or(0, |r| r.next);
        let mut out = Scanned {
            held: row.is_some(),
            next: None,
            records: Vec::new(),
            open: row.and_then(|r| r.last).map(|(_, key)| key),
        };
        let (mut at, mut looked_at, mut bytes) = (from, 0, 0);
        while at < end {
            let more = read::page(kv, chat, at, STEP)?;
            if more.is_empty() {
                return Ok(out);
            }
            for (id, record) in more {
                let full = out.records.len() >= PART_RECORDS_MAX || bytes >= PART_BYTES_MAX;
                if full || looked_at >= PART_LOOKED_AT_MAX {
                    out.next = Some(id);
                    return Ok(out);
                }
                looked_at += 1;
                at = id.saturating_add(1);
                let theirs = devices.is_none_or(|d| d.contains(&record.device));
                if theirs && (scope.from_ms..scope.to_ms).contains(&written_ms(&record)) {
                    bytes += record.sealed.len();
                    out.records.push((id, record));
                }
            }
        }
        Ok(out)
    });
    Ok(scanned?)
}

/// Not repeated by itself: every attempt is an entry in custodians' logs.
fn later(detail: String) -> Fail {
    Fail::Home(HomeError::Unavailable {
        detail,
        retry_ms: RETRY_MS,
        outcome: Outcome::NotDone,
    })
}

type Keys = BTreeMap<KeyId, Opened>;
type NotOpened = BTreeMap<KeyId, (EpochNo, Withheld)>;

/// Keys under the order. One that custodians would give if they were asked at another time, or if
/// their officers agreed, is an error: then nothing of the part is given out.
async fn open_keys(
    core: &Arc<Core>,
    id: OrderId,
    keys: Vec<KeyRef>,
) -> Result<(Keys, NotOpened), Fail> {
    let mut found = Vec::with_capacity(keys.len());
    for key in &keys {
        match release::look_up(core, key).map_err(later)? {
            Some(one) => found.push(one),
            None => {
                let detail = format!("the dealing of key {} is not known here", key.key_id);
                return Err(later(detail));
            }
        }
    }
    let (mut opened, mut not) = (Keys::new(), NotOpened::new());
    if found.is_empty() {
        return Ok((opened, not));
    }
    // Of this collection alone: its private half is gone when this returns.
    let lease_key = Arc::new(RecipientKey::generate(&mut rand::rng()));
    let authority = Authority::Order(id);
    let (collected, entries) = release::gather(core, lease_key, authority, found).await;
    for (d, quorum) in collected {
        let key_id = d.key.key_id;
        match quorum {
            Some(Ok(quorum)) => {
                let (data_key, releases) =
                    release::combined(&d, &quorum, &entries).map_err(later)?;
                // A freeze that this home was told of meanwhile stands above the order.
                core.wait_usable(&d.policy, &d.key.chat)
                    .await
                    .map_err(|e| quorum_error(&e, Outcome::NotDone))?;
                let one = Opened {
                    epoch: d.epoch,
                    data_key,
                    releases,
                };
                opened.insert(key_id, one);
            }
            Some(Err(e)) => match for_ever(&d.policy, &e) {
                Some(why) => drop(not.insert(key_id, (d.epoch, why))),
                None => return Err(Fail::Home(missing(&id, &d.policy, &e))),
            },
            None => return Err(later("the collection ended early".into())),
        }
    }
    Ok((opened, not))
}

/// Why no further approval would open a key, when that is so.
fn for_ever(policy: &Policy, e: &NoQuorum) -> Option<Withheld> {
    let without = |which: &dyn Fn(&Refusal) -> bool| {
        let mut left = policy.custodians();
        for (custodian, _) in e.refused.iter().filter(|(_, why)| which(why)) {
            left.remove(custodian);
        }
        !policy.satisfied_by(&left)
    };
    let gone = |why: &Refusal| matches!(why, Refusal::Tombstoned | Refusal::NotHeld);
    if without(&gone) {
        return Some(Withheld::Destroyed);
    }
    without(&|why| gone(why) || *why == Refusal::NotAuthorised).then_some(Withheld::OutsideThere)
}

/// That too few custodians release: how many legal systems are missing, and which would suffice.
/// Asking stops when it is certain to fail, so who was not asked yet counts as willing.
pub(super) fn missing(id: &OrderId, policy: &Policy, e: &NoQuorum) -> HomeError {
    let refused: BTreeSet<_> = e.refused.iter().map(|(c, _)| c.clone()).collect();
    let unwilling: BTreeSet<_> = refused
        .iter()
        .chain(&e.lied)
        .chain(&e.unreachable)
        .cloned()
        .collect();
    let willing: BTreeSet<_> = policy
        .custodians()
        .difference(&unwilling)
        .cloned()
        .collect();
    let unasked: BTreeSet<_> = willing.difference(&e.answered).cloned().collect();
    let systems = match policy.missing_branches(&willing) {
        1 => "1 more legal system".to_owned(),
        n => format!("{n} more legal systems"),
    };
    let gone = e.refused.iter();
    let gone = gone.filter(|(_, why)| matches!(why, Refusal::Tombstoned | Refusal::NotHeld));
    let gone = gone.map(|(c, _)| c.clone()).collect();
    let e = NoQuorum {
        would_suffice: policy.what_would_suffice(&willing, &gone),
        ..e.clone()
    };
    let (would_suffice, problem) = match quorum_error(&e, Outcome::NotDone) {
        HomeError::Quorum { problem, .. } => (problem.would_suffice.clone(), problem),
        other => return other,
    };
    let names = |set: &BTreeSet<CustodianId>| set.iter().map(ToString::to_string).collect();
    let sets = would_suffice.iter();
    let sets: Vec<String> = sets.map(|s| format!("{{{}}}", s.join(", "))).collect();
    let mut parts = Vec::new();
    let mut say = |what: &str, who: Vec<String>| {
        if !who.is_empty() {
            parts.push(format!("{what}: {}", who.join(", ")));
        }
    };
    say("released", problem.answered.clone());
    say("not asked any more", names(&unasked));
    let why = problem
        .refused
        .iter()
        .map(|(c, why)| format!("{c} ({why})"));
    say("refused", why.collect());
    say("gave a false share", problem.lied.clone());
    say("not reached", problem.unreachable.clone());
    say("would suffice in addition", vec![sets.join(" or ")]);
    HomeError::Quorum {
        detail: format!(
            "order {id} opens nothing: at least {systems} must release. {}",
            parts.join("; ")
        ),
        problem,
        outcome: Outcome::NotDone,
    }
}

/// Opens the records whose keys are there and seals them to the recipient.
fn seal_part(
    place: PartBinding,
    mut manifest: Manifest,
    records: Vec<(MessageId, RecordRow)>,
    opened: Keys,
    recipient: &RecipientPublic,
) -> Result<Part, Fail> {
    let mut rng = rand::rng();
    let (sender, encapsulated) =
        PartSender::new(recipient, place.clone(), &mut rng).map_err(|e| later(e.to_string()))?;
    let subkeys: BTreeMap<&KeyId, Subkeys> = opened
        .iter()
        .map(|(id, o)| (id, Subkeys::derive(&o.data_key)))
        .collect();
    let mut sealed_records = Vec::new();
    for (id, row) in records {
        let Some(keys) = subkeys.get(&row.key_id) else {
            continue;
        };
        let at = RecordBinding {
            deployment: place.deployment,
            chat: place.chat,
            message: id,
            revision: row.revision,
            key_id: row.key_id,
            kind: row.kind,
        };
        let corrupt = |detail: String| {
            Fail::Home(HomeError::Corrupt {
                chat: place.chat,
                message: id,
                detail,
            })
        };
        let plain = message::open(keys, &at, &row.sealed).map_err(|e| corrupt(e.to_string()))?;
        let content: Content =
            serde_json::from_slice(&plain).map_err(|e| corrupt(e.to_string()))?;
        let written_ms = written_ms(&row);
        let record = Disclosed {
            chat: place.chat,
            message: id,
            revision: row.revision,
            sent_ms: row.sent_ms,
            edited_ms: row.edited_ms,
            device: row.device,
            content,
        };
        let record = serde_json::to_vec(&record).map_err(|e| corrupt(e.to_string()))?;
        let record = zeroize::Zeroizing::new(record);
        let mut nonce = [0; 24];
        rng.fill_bytes(&mut nonce);
        let sealed = sender.seal(id, row.revision, nonce, &record);
        manifest.records.push(Listed {
            message: id,
            revision: row.revision,
            epoch: row.epoch,
            written_ms,
            sealed: HexBytes(hash(&sealed)),
        });
        sealed_records.push(STANDARD.encode(sealed));
    }
    manifest.encapsulated = HexBytes(hash(&encapsulated));
    manifest.opened = opened
        .iter()
        .map(|(key, o)| OpenedEpoch {
            epoch: o.epoch,
            key: *key,
            releases: o.releases.clone(),
        })
        .collect();
    let manifest = serde_json::to_string(&manifest).map_err(|e| later(e.to_string()))?;
    Ok(Part {
        manifest,
        encapsulated: STANDARD.encode(encapsulated),
        records: sealed_records,
    })
}
