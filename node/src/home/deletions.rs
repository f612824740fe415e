//! Deletion statements at a home: what they name is checked and they are kept.
//! And the keys that their mandates allow, from custodians, without the person.
//!
//! Nothing is erased here. Whoever writes anew what a deletion leaves reads the
//! statements from the shard and takes the keys from [`obtain`].

use super::admission;
use super::api::{Caller, HomeError};
use super::core::{Core, Fail, RETRY_MS, quorum_error};
use super::disclose::Opened;
use super::release::{self, Authority};
use super::shard::Shard;
use quorate_engine::api::{CheckedEpoch, Deletion as Shown, PostDeletion};
use quorate_engine::authz::deletion::{Mandate, MandateRefusal, Whose};
use quorate_engine::authz::envelope::Envelope;
use quorate_engine::authz::grant::Action;
use quorate_engine::crypto::message::{self, RecordBinding};
use quorate_engine::crypto::seal::RecipientKey;
use quorate_engine::crypto::subkeys::Subkeys;
use quorate_engine::custody::protocol::{KeyRef, Refusal};
use quorate_engine::home::command::{RecordDeletion, Reply};
use quorate_engine::home::rows::RecordRow;
use quorate_engine::home::{Command, read};
use quorate_engine::quorum::NoQuorum;
use quorate_engine::types::{ChatId, DeploymentId, KeyId, MessageId, Outcome, StatementHash};
use std::collections::BTreeSet;
use std::sync::Arc;
use zeroize::Zeroizing;

/// Devices that one account can ever have: more in one statement are not all its own.
const DEVICES_MAX: usize = 128;
/// How often keys are asked for, each time under another lease key: an answer that was lost on
/// its way cannot be had again under the same one.
const ATTEMPTS_MAX: usize = 2;

/// Keeps a statement, at the leader of its chat's shard, and checks its mandate where asked to.
pub(super) async fn record(
    core: &Arc<Core>,
    shard: &Shard,
    caller: &Caller,
    chat: ChatId,
    request: PostDeletion,
) -> Result<(u64, Shown), Fail> {
    let who = admission::admit(core, caller, Action::Write, Some(chat)).await?;
    let statement = Envelope::from(&request.statement);
    let mandate = Mandate::read(&statement).map_err(refused)?;
    let d = mandate.deletion();
    if d.chat != chat {
        let detail = format!("the statement is about chat {}", d.chat);
        return Err(Fail::Home(HomeError::Invalid { detail }));
    }
    if (d.account, d.device) != (who.account(), *who.grant().device()) {
        let detail = "the statement is signed by another device than the grant".to_owned();
        return Err(Fail::Home(HomeError::Invalid { detail }));
    }
    let own = own_devices(core, shard, &mandate, who.device()).await?;
    let command = RecordDeletion {
        deployment: core.config.deployment,
        home: core.config.home.clone(),
        statement,
        account: who.account(),
        device: who.public(),
        own,
    };
    let command = Command::RecordDeletion(command);
    let (index, reply) = shard.propose(core.clock.wall(), command).await?;
    let (at_ms, repeated) = match reply {
        Reply::DeletionStands { at_ms, repeated } => (at_ms, repeated),
        Reply::Refused(why) => {
            let (code, reason) = (why.code, why.reason);
            return Err(Fail::Home(HomeError::Statement { code, reason }));
        }
        Reply::NotFound => {
            let what = format!("a message that the statement names in chat {chat}");
            return Err(Fail::Home(HomeError::NotFound { what }));
        }
        other => {
            return Err(Fail::NotDone(format!(
                "the shard refused the deletion: {other:?}"
            )));
        }
    };
    let checked = if request.check {
        Some(check(core, shard, chat, &mandate.id()).await?)
    } else {
        None
    };
    let shown = Shown {
        id: mandate.id().to_string(),
        messages: d.messages.len() as u64,
        epochs: d.epochs.clone(),
        recorded_ms: at_ms,
        mandate_ends_ms: d.ends_ms(),
        repeated,
        checked,
    };
    Ok((index, shown))
}

fn refused(why: MandateRefusal) -> Fail {
    Fail::Home(HomeError::Statement {
        code: why.code().to_owned(),
        reason: why.text().to_owned(),
    })
}

/// Which devices among the writers of the records named are the account's, as records name them.
async fn own_devices(
    core: &Arc<Core>,
    shard: &Shard,
    mandate: &Mandate,
    signer: String,
) -> Result<BTreeSet<String>, Fail> {
    let d = mandate.deletion();
    let mut own = BTreeSet::from([signer]);
    if d.whose == Whose::Anyone {
        return Ok(own);
    }
    let writers = shard.view(|kv| {
        let mut writers = BTreeSet::new();
        for id in &d.messages {
            writers.extend(read::record(kv, &d.chat, *id)?.map(|row| row.device));
        }
        Ok(writers)
    })?;
    let others: Vec<String> = writers.difference(&own).cloned().collect();
    if others.len() > DEVICES_MAX {
        return Err(refused(MandateRefusal::RoleMissing));
    }
    for device in others {
        let Ok(id) = device.parse() else { continue };
        if core.directory.belongs(core, d.account, id).await? {
            own.insert(device);
        }
    }
    Ok(own)
}

/// Asks for every key of a recorded statement's epochs under its mandate, opens the messages that
/// it names, and forgets all of it. Costs one of the releases that the mandate allows.
pub(super) async fn check(
    core: &Arc<Core>,
    shard: &Shard,
    chat: ChatId,
    id: &StatementHash,
) -> Result<Vec<CheckedEpoch>, Fail> {
    let row = shard.view(|kv| read::deletion(kv, &chat, id))?;
    let row = row.ok_or_else(|| {
        let what = format!("deletion {id} of chat {chat}");
        Fail::Home(HomeError::NotFound { what })
    })?;
    let mandate = Mandate::read(&row.statement).map_err(refused)?;
    let d = mandate.deletion();
    let opened = obtain(core, shard, &mandate).await?;
    let records = shard.view(|kv| {
        let row = |id: &MessageId| Ok(read::record(kv, &chat, *id)?.map(|row| (*id, row)));
        d.messages.iter().map(row).collect::<Result<Vec<_>, _>>()
    })?;
    let deployment = core.config.deployment;
    let work = move || open_named(deployment, chat, records, opened);
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|e| Err(later(e.to_string())))
}

/// Opens each record under its epoch's key; one that was edited into another epoch is not counted.
fn open_named(
    deployment: DeploymentId,
    chat: ChatId,
    records: Vec<Option<(MessageId, RecordRow)>>,
    opened: Vec<(KeyId, Opened)>,
) -> Result<Vec<CheckedEpoch>, Fail> {
    let mut out = Vec::with_capacity(opened.len());
    for (key_id, one) in opened {
        let keys = Subkeys::derive(&one.data_key);
        let mut messages = 0;
        let of_it = records.iter().flatten().filter(|(_, r)| r.key_id == key_id);
        for (id, row) in of_it {
            let place = RecordBinding {
                deployment,
                chat,
                message: *id,
                revision: row.revision,
                key_id,
                kind: row.kind,
            };
            let plain = message::open(&keys, &place, &row.sealed).map_err(|e| {
                Fail::Home(HomeError::Corrupt {
                    chat,
                    message: *id,
                    detail: e.to_string(),
                })
            })?;
            drop(Zeroizing::new(plain));
            messages += 1;
        }
        let custodians = one.releases.iter().map(|(c, _)| c.to_string()).collect();
        out.push(CheckedEpoch {
            epoch: one.epoch,
            messages,
            custodians,
        });
    }
    Ok(out)
}

/// Every key of the mandate's epochs, for a moment's use: nothing of them is leased, and they are
/// wiped when the result is dropped. All of them, or an error that says who refused and why.
pub(super) async fn obtain(
    core: &Arc<Core>,
    shard: &Shard,
    mandate: &Mandate,
) -> Result<Vec<(KeyId, Opened)>, Fail> {
    let d = mandate.deletion();
    let chat = d.chat;
    let mut wanted = BTreeSet::new();
    for epoch in &d.epochs {
        let row = shard.view(|kv| read::epoch(kv, &chat, *epoch))?;
        let row = row.ok_or_else(|| later(format!("epoch {epoch} of chat {chat} is not here")))?;
        let key_id = row.key_id;
        wanted.insert(KeyRef { chat, key_id });
    }
    let authority = Authority::Mandate(Arc::new(mandate.envelope().clone()));
    let mut opened = Vec::with_capacity(wanted.len());
    for attempt in 1..=ATTEMPTS_MAX {
        let mut found = Vec::with_capacity(wanted.len());
        for key in &wanted {
            let one = release::look_up(core, key).map_err(later)?;
            found.push(one.ok_or_else(|| {
                later(format!(
                    "the dealing of key {} is not known here",
                    key.key_id
                ))
            })?);
        }
        let lease_key = Arc::new(RecipientKey::generate(&mut rand::rng()));
        let (collected, entries) = release::gather(core, lease_key, authority.clone(), found).await;
        for (dealt, quorum) in collected {
            match quorum {
                Some(Ok(quorum)) => {
                    let (data_key, releases) =
                        release::combined(&dealt, &quorum, &entries).map_err(later)?;
                    // A freeze that this home was told of meanwhile stands above the mandate.
                    core.wait_usable(&dealt.policy, &chat)
                        .await
                        .map_err(|e| Fail::Home(quorum_error(&e, Outcome::NotDone)))?;
                    wanted.remove(&dealt.key);
                    let epoch = dealt.epoch;
                    let one = Opened {
                        epoch,
                        data_key,
                        releases,
                    };
                    opened.push((dealt.key.key_id, one));
                }
                Some(Err(e)) if attempt < ATTEMPTS_MAX && answer_lost(&e) => {}
                Some(Err(e)) => return Err(Fail::Home(quorum_error(&e, Outcome::NotDone))),
                None => return Err(later("the collection ended early".into())),
            }
        }
        if wanted.is_empty() {
            break;
        }
    }
    opened.sort_by_key(|(_, one)| one.epoch);
    Ok(opened)
}

/// Whether a custodian let a share go under the lease key before, and it never arrived.
fn answer_lost(e: &NoQuorum) -> bool {
    let used = Refusal::Mandate(MandateRefusal::LeaseKeyUsed);
    e.refused.iter().any(|(_, why)| *why == used)
}

/// Not repeated by itself: every attempt counts against the mandate.
fn later(detail: String) -> Fail {
    Fail::Home(HomeError::Unavailable {
        detail,
        retry_ms: RETRY_MS,
        outcome: Outcome::NotDone,
    })
}
