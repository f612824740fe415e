//! Opening epochs: runs the engine's state machine of one opening, once a chat at a time.

use super::admission::Author;
use super::api::HomeError;
use super::core::{Core, Fail, quorum_error};
use super::leases::{LeaseError, LeasedKey, NewLease};
use super::shard::{Shard, ShardError};
use super::stores::Sent;
use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use quorate_engine::api::QuorumProblem;
use quorate_engine::custody::protocol::{KeyRef, SealSession, StoreOutcome};
use quorate_engine::home::command::EpochAck;
use quorate_engine::home::opening::{
    self, DealContext, DealError, Effect, End, NotCommitted, Opening,
};
use quorate_engine::home::rows::ChatRow;
use quorate_engine::home::{Command, EPOCH_AGE_MS_MAX, EPOCH_RECORDS_MAX, read};
use quorate_engine::policy::{Margins, Policy};
use quorate_engine::types::{ChatId, CustodianId, EpochNo, KeyId, Outcome, SessionId};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

/// Turns of looking and opening before a writer is told to come back.
const TURNS_MAX: usize = 6;
/// Locks remembered before unused ones are swept.
const LOCKS_SWEEP: usize = 4_096;
/// An open epoch this close to its end by age is not written to any more, in
/// milliseconds: clocks of old and new leaders may differ.
const AGE_SLACK_MS: u64 = 1_000;

/// Openings in progress on this node.
#[derive(Default)]
pub struct Openings {
    locks: Mutex<HashMap<ChatId, Weak<tokio::sync::Mutex<()>>>>,
    running: Mutex<BTreeSet<KeyId>>,
}

impl Openings {
    async fn lock(&self, chat: &ChatId) -> tokio::sync::OwnedMutexGuard<()> {
        let lock = {
            let mut locks = self.locks.lock().unwrap_or_else(PoisonError::into_inner);
            if locks.len() > LOCKS_SWEEP {
                locks.retain(|_, l| l.strong_count() > 0);
            }
            let held = locks.get(chat).and_then(Weak::upgrade);
            held.unwrap_or_else(|| {
                let lock = Arc::new(tokio::sync::Mutex::new(()));
                locks.insert(*chat, Arc::downgrade(&lock));
                lock
            })
        };
        lock.lock_owned().await
    }

    /// Whether this node is delivering shares of this dealing itself.
    pub(super) fn is_running(&self, key_id: &KeyId) -> bool {
        let running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        running.contains(key_id)
    }
}

/// Marks a dealing as being delivered, until dropped.
struct Running {
    core: Arc<Core>,
    key_id: KeyId,
}

impl Running {
    fn new(core: &Arc<Core>, key_id: KeyId) -> Self {
        let mut running = core
            .openings
            .running
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        running.insert(key_id);
        drop(running);
        Self {
            core: core.clone(),
            key_id,
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let running = &self.core.openings.running;
        running
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&self.key_id);
    }
}

/// The open dealing of a chat with room for `count` records, and its key: leased, leased again
/// under the writer's grant, or of an epoch that is opened now. The grant covers the epoch; a
/// service writes under what was dealt here and is still leased, or opens the next.
pub(super) async fn writable(
    core: &Arc<Core>,
    shard: &Shard,
    chat: &ChatId,
    count: u32,
    who: &Author,
) -> Result<(KeyRef, LeasedKey), Fail> {
    let mut unobtainable: Option<KeyId> = None;
    for _ in 0..TURNS_MAX {
        let row = shard
            .view(|kv| read::chat(kv, chat))?
            .ok_or_else(|| missing(chat))?;
        if let Some((key, epoch)) =
            usable(core, &row, chat, count).filter(|(k, _)| Some(k.key_id) != unobtainable)
        {
            match core.key_to_write(key, epoch, who).await {
                Ok(lease) => return Ok((key, lease)),
                // What is in the way is the writer's: no reason to wear out an epoch.
                Err(e) if of_the_caller(&e) => return Err(e),
                // Its custodians may be fewer than a new dealing would find.
                Err(e) => {
                    tracing::info!(%chat, "no key for writing, opening the next epoch: {e:?}");
                    unobtainable = Some(key.key_id);
                }
            }
        }
        let guard = core.openings.lock(chat).await;
        let again = shard
            .view(|kv| read::chat(kv, chat))?
            .ok_or_else(|| missing(chat))?;
        let moved = again.open.as_ref().map(|o| o.key_id) != row.open.as_ref().map(|o| o.key_id);
        if moved {
            continue;
        }
        if again.intent.is_none() {
            who.may(chat, next_epoch(&again))?;
        }
        if let Some(key) = open_next(core, shard, chat, &again).await? {
            drop(guard);
            return Ok(key);
        }
    }
    Err(Fail::NotDone(format!(
        "the epochs of chat {chat} keep changing"
    )))
}

fn missing(chat: &ChatId) -> Fail {
    Fail::Home(HomeError::NotFound {
        what: format!("chat {chat}"),
    })
}

/// Whether an error is about this caller's grant alone, so that another caller may fare better.
pub(super) fn of_the_caller(e: &Fail) -> bool {
    matches!(
        e,
        Fail::Home(HomeError::Denied { .. } | HomeError::Spent { account: true, .. })
    )
}

fn next_epoch(row: &ChatRow) -> EpochNo {
    row.last.map_or(0, |(epoch, _)| epoch.saturating_add(1))
}

fn usable(core: &Core, row: &ChatRow, chat: &ChatId, count: u32) -> Option<(KeyRef, EpochNo)> {
    let open = row.open.as_ref()?;
    let age = core.clock.wall().saturating_sub(open.opened_ms);
    let fits = open.records.saturating_add(count) <= EPOCH_RECORDS_MAX;
    let key = KeyRef {
        chat: *chat,
        key_id: open.key_id,
    };
    (fits && age + AGE_SLACK_MS < EPOCH_AGE_MS_MAX).then_some((key, open.epoch))
}

/// Opens the chat's next epoch, or completes what another leader began.
/// `None`: the state has moved on, look again.
async fn open_next(
    core: &Arc<Core>,
    shard: &Shard,
    chat: &ChatId,
    row: &ChatRow,
) -> Result<Option<(KeyRef, LeasedKey)>, Fail> {
    if row.intent.is_some() {
        resume(core, shard, chat).await?;
        return Ok(None);
    }
    let Some((policy, margins)) = shard.view(|kv| read::current_policy(kv))? else {
        return Err(Fail::NotDone("no policy is set yet".into()));
    };
    let policy = Arc::new(policy);
    core.wait_usable(&policy, chat)
        .await
        .map_err(|e| quorum_error(&e, Outcome::NotDone))?;
    let sessions = core.sessions.ensure(core, shard, &policy).await?;
    let cx = DealContext {
        deployment: core.config.deployment,
        chat: *chat,
        epoch: next_epoch(row),
        previous: row.last.map(|(_, key)| key),
        expires_ms: None,
    };
    let asked = core.clock.mono();
    let prepared = {
        let sessions = sessions.iter().map(|(c, s)| (c.clone(), &**s)).collect();
        opening::prepare(&cx, &policy, &sessions, &mut rand::rng())
            .map_err(|e| deal_failed(&policy, e))?
    };
    let running = Running::new(core, prepared.key().key_id);
    let (_, reply) = shard.propose(core.clock.wall(), prepared.command()).await?;
    fail::fail_point!("home::intent_committed");
    let committed = prepared.committed(&reply, (*policy).clone(), margins, core.clock.mono());
    let opening = match committed {
        Ok(opening) => opening,
        Err(NotCommitted::Conflict(_)) => return Ok(None),
        Err(e) => return Err(Fail::NotDone(e.to_string())),
    };
    let sessions = sessions
        .values()
        .map(|s| (s.session().id, Arc::new(s.session().clone())));
    let (opening, end) = drive(core, shard, opening, sessions.collect(), running).await;
    match end {
        End::Opened { .. } => lease_own(core, opening, policy, asked).await.map(Some),
        End::Superseded => Ok(None),
        End::Abandoned {
            acked,
            refused,
            silent,
        } => {
            let e = too_few(&policy, &margins, acked, refused, silent);
            Err(Fail::Home(e))
        }
    }
}

async fn lease_own(
    core: &Arc<Core>,
    opening: Opening,
    policy: Arc<Policy>,
    asked: u64,
) -> Result<(KeyRef, LeasedKey), Fail> {
    let (key, epoch) = (opening.key(), opening.epoch());
    let data_key = opening
        .into_key()
        .ok_or_else(|| Fail::NotDone("an opening of our own has no key".into()))?;
    let lease = NewLease {
        key,
        epoch,
        policy: policy.clone(),
        releases: Vec::new(),
        asked,
    };
    match core.leases.insert(lease, data_key) {
        Ok(lease) => Ok((key, lease)),
        Err(LeaseError::Refused(_)) => {
            let dark = core.dark(&policy, &key.chat);
            Err(Fail::Home(quorum_error(&dark, Outcome::NotDone)))
        }
        Err(e @ LeaseError::Full) => Err(Fail::NotDone(e.to_string())),
    }
}

/// Completes or abandons an intent that another leader left. The caller holds
/// the chat's lock or is the only one who could open it.
pub(super) async fn resume(core: &Arc<Core>, shard: &Shard, chat: &ChatId) -> Result<(), Fail> {
    let found = shard.view(|kv| {
        let Some(pending) = read::pending_intent(kv, chat)? else {
            return Ok(None);
        };
        let policy = read::policy(kv, &pending.policy())?;
        Ok(policy.map(|p| (pending, p)))
    })?;
    let Some((pending, (policy, margins))) = found else {
        return Ok(());
    };
    let key_id = pending.key().key_id;
    if core.openings.is_running(&key_id) {
        return Ok(());
    }
    let running = Running::new(core, key_id);
    let Some(opening) = Opening::resume(pending, policy, margins, core.clock.mono()) else {
        return Ok(());
    };
    tracing::info!(%chat, key = %key_id, "completing an opening that was found");
    drive(core, shard, opening, BTreeMap::new(), running).await;
    Ok(())
}

/// Same, taking the chat's lock.
pub(super) async fn resume_locked(core: &Arc<Core>, shard: &Shard, chat: &ChatId) {
    let _guard = core.openings.lock(chat).await;
    if let Err(e) = resume(core, shard, chat).await {
        tracing::debug!(%chat, "an intent stays: {e}");
    }
}

type Sends = FuturesUnordered<BoxFuture<'static, (CustodianId, Sent)>>;

/// Runs an opening to its end. Shares that are still on their way then go on in the background.
async fn drive(
    core: &Arc<Core>,
    shard: &Shard,
    mut opening: Opening,
    mut sessions: BTreeMap<SessionId, Arc<SealSession>>,
    running: Running,
) -> (Opening, End) {
    opening.set_thin_wait(core.config.thin_wait_ms);
    let mut sends: Sends = FuturesUnordered::new();
    loop {
        let mut replies = Vec::new();
        for effect in opening.take_effects() {
            match effect {
                Effect::Finished(end) => {
                    let key = opening.key();
                    after(core, shard, key, &end, sends, running);
                    return (opening, end);
                }
                Effect::Send {
                    custodian,
                    session,
                    item,
                } => {
                    fail::fail_point!("home::before_send");
                    let known = session_of(shard, &mut sessions, &session);
                    let (core, number) = (core.clone(), shard.number);
                    sends.push(Box::pin(async move {
                        let sent = match known {
                            Some(session) => core.stores.send(&core, number, session, item).await,
                            None => None,
                        };
                        fail::fail_point!("home::after_send");
                        (custodian, sent)
                    }));
                }
                Effect::Propose(command) => {
                    fail::fail_point!("home::before_decide");
                    replies.push(shard.propose(core.clock.wall(), command).await);
                    fail::fail_point!("home::after_decide");
                }
            }
        }
        if !replies.is_empty() {
            for reply in replies {
                match reply {
                    Ok((_, reply)) => opening.on_reply(core.clock.mono(), &reply),
                    Err(_) => opening.on_deposed(),
                }
            }
            continue;
        }
        let now = core.clock.mono();
        let wait = opening.next_timeout().unwrap_or(now).saturating_sub(now);
        tokio::select! {
            () = core.stop.cancelled() => opening.on_deposed(),
            Some((custodian, sent)) = sends.next(), if !sends.is_empty() => match sent {
                Some(outcome) => opening.on_outcome(core.clock.mono(), &custodian, outcome),
                None => opening.on_failed(core.clock.mono(), &custodian),
            },
            () = tokio::time::sleep(Duration::from_millis(wait.max(1))) => {
                opening.on_timeout(core.clock.mono());
            }
        }
    }
}

fn session_of(
    shard: &Shard,
    sessions: &mut BTreeMap<SessionId, Arc<SealSession>>,
    id: &SessionId,
) -> Option<Arc<SealSession>> {
    if let Some(session) = sessions.get(id) {
        return Some(session.clone());
    }
    let session = shard.view(|kv| read::session(kv, id)).ok().flatten()?;
    let session = Arc::new(session);
    sessions.insert(*id, session.clone());
    Some(session)
}

/// Late answers still count: they shrink the outbox and restore a margin.
fn after(
    core: &Arc<Core>,
    shard: &Shard,
    key: KeyRef,
    end: &End,
    mut sends: Sends,
    running: Running,
) {
    let thin = match end {
        End::Opened { thin } => *thin,
        _ => return,
    };
    metrics::counter!("quorate_home_epochs_opened_total", "thin" => if thin { "yes" } else { "no" })
        .increment(1);
    if sends.is_empty() {
        return;
    }
    let (core, shard) = (core.clone(), shard.clone());
    tokio::spawn(async move {
        let _running = running;
        let mut ack = EpochAck {
            key,
            acked: Vec::new(),
            lost: Vec::new(),
            waited: false,
        };
        while let Some((custodian, sent)) = sends.next().await {
            match sent {
                Some(StoreOutcome::Stored | StoreOutcome::AlreadyStored) => {
                    ack.acked.push(custodian)
                }
                Some(refused) => ack.lost.push((custodian, refused)),
                None => {} // Stays in the outbox.
            }
        }
        if !ack.acked.is_empty() || !ack.lost.is_empty() {
            let proposed = shard
                .propose(core.clock.wall(), Command::EpochAcks(vec![ack]))
                .await;
            if let Err(e @ ShardError::NotDone(_)) = proposed {
                tracing::debug!("late acknowledgements stay to be repeated: {e}");
            }
        }
    });
}

fn deal_failed(policy: &Policy, e: DealError) -> Fail {
    let DealError::TooFewSessions { missing } = &e else {
        tracing::error!("dealing failed: {e}");
        return Fail::NotDone(e.to_string());
    };
    let mut have = policy.custodians();
    have.retain(|c| !missing.contains(c));
    Fail::Home(problem(
        policy,
        e.to_string(),
        have,
        Vec::new(),
        missing.clone(),
    ))
}

fn too_few(
    policy: &Policy,
    margins: &Margins,
    acked: Vec<CustodianId>,
    refused: Vec<(CustodianId, StoreOutcome)>,
    silent: Vec<CustodianId>,
) -> HomeError {
    let names = |list: &[CustodianId]| {
        let names: Vec<&str> = list.iter().map(CustodianId::as_str).collect();
        names.join(", ")
    };
    let have: BTreeSet<CustodianId> = acked.iter().cloned().collect();
    let why = if policy.satisfied_by(&have) {
        format!(
            "the policy requires a write margin of {}",
            margins.write_margin
        )
    } else {
        "too few custodians took their share of a new epoch's key".to_owned()
    };
    let detail = format!(
        "{why}; stored: {}; not reached: {}; the epoch was abandoned",
        names(&acked),
        names(&silent)
    );
    problem(policy, detail, have, refused, silent)
}

fn problem(
    policy: &Policy,
    detail: String,
    have: BTreeSet<CustodianId>,
    refused: Vec<(CustodianId, StoreOutcome)>,
    silent: Vec<CustodianId>,
) -> HomeError {
    let suffice = policy.what_would_suffice(&have, &BTreeSet::new());
    let names = |set: &BTreeSet<CustodianId>| set.iter().map(ToString::to_string).collect();
    HomeError::Quorum {
        detail,
        problem: QuorumProblem {
            answered: names(&have),
            refused: refused
                .iter()
                .map(|(c, o)| (c.to_string(), format!("{o:?}")))
                .collect(),
            lied: Vec::new(),
            unreachable: silent.iter().map(ToString::to_string).collect(),
            would_suffice: suffice.iter().map(names).collect(),
        },
        outcome: Outcome::NotDone,
    }
}
