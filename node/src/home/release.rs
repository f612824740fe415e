//! Obtaining data keys from custodians: many readers, few requests.
//!
//! One task takes every wish for a key, lets wishes for the same key under the
//! same grant wait for one answer, and collects up to 256 keys with one request a custodian. The
//! engine's collector decides whom to ask; this turns its asks into calls. Keys under a
//! disclosure order ([`disclose`](super::disclose)) or a deletion's mandate
//! ([`deletions`](super::deletions)) are collected the same way and not leased.

use super::core::Core;
use super::custodians::AskError;
use super::leases::{LeaseError, LeasedKey, NewLease};
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use quorate_engine::authz::envelope::Envelope;
use quorate_engine::authz::grant::{Grant, GrantHash, GrantRefusal};
use quorate_engine::crypto::seal::{
    Receiver, RecipientKey, ReleaseBinding, ShareBinding, release_info,
};
use quorate_engine::crypto::subkeys;
use quorate_engine::custody::protocol::{
    CustodianReply, CustodianRequest, KeyRef, MandateReleaseRequest, OrderReleaseRequest, Reason,
    Receipt, Refusal, ReleaseReply, ReleaseRequest, ShareResult,
};
use quorate_engine::home::read;
use quorate_engine::policy::Policy;
use quorate_engine::quorum::{
    Answer, Ask, AskId, Collector, CollectorConfig, Hint, KEYS_MAX, NoQuorum, Quorum, Wanted,
};
use quorate_engine::sharing;
use quorate_engine::types::{CustodianId, DataKey, EpochNo, KeyId, OrderId, PolicyId, RequestId};
use rand::Rng;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;

/// Wishes waiting to be taken up.
pub const WANTS_MAX: usize = 16_384;
/// Collections running at once.
const JOBS_MAX: usize = 32;
/// A key pair that releases are sealed to is used for so long, in milliseconds.
const LEASE_KEY_MS_MAX: u64 = 600_000;
/// From this many shares on, opening them leaves the async runtime.
const BLOCKING_SHARES_MIN: usize = 8;

/// Why a key could not be had.
#[derive(Clone, Debug)]
pub enum ObtainError {
    /// No quorum.
    Quorum(Box<NoQuorum>),
    /// So many custodians refuse the grant that the others do not suffice.
    Denied {
        /// What most of them say.
        why: GrantRefusal,
        /// In words: who says so.
        detail: String,
    },
    /// Those that would give the key when their budgets have filled up again would suffice.
    Spent {
        /// In words: whose budget, and where.
        detail: String,
        /// When enough of them may be asked again.
        retry_ms: u64,
        /// The account's own budgets alone are in the way.
        account: bool,
    },
    /// No such dealing in this node's applied state.
    Missing,
    /// Something that may pass.
    Unavailable(String),
}

/// One wish.
pub struct Want {
    /// Which key.
    pub key: KeyRef,
    /// What for.
    pub reason: Reason,
    /// What allows it.
    pub grant: Arc<Grant>,
    /// Where the answer goes.
    pub done: oneshot::Sender<Result<LeasedKey, ObtainError>>,
}

type Results = Vec<(KeyId, Result<LeasedKey, ObtainError>)>;

/// A key under a grant: what one grant is refused, another may be given.
type Wish = (GrantHash, KeyId);

/// Wishes that go out together: of one grant, for one reason.
struct Fresh {
    grant: Arc<Grant>,
    reason: Reason,
    keys: Vec<KeyRef>,
}
type AllFresh = BTreeMap<(GrantHash, Reason), Fresh>;

/// Takes wishes until the node stops.
pub async fn run(core: Arc<Core>, mut wants: mpsc::Receiver<Want>) {
    let lease_key = Arc::new(LeaseKey::default());
    let mut waiting: HashMap<Wish, Vec<Want>> = HashMap::new();
    let mut jobs: JoinSet<(GrantHash, Results)> = JoinSet::new();
    let mut running: HashMap<tokio::task::Id, Vec<Wish>> = HashMap::new();
    loop {
        let mut fresh = AllFresh::new();
        tokio::select! {
            () = core.stop.cancelled() => return,
            want = wants.recv(), if jobs.len() < JOBS_MAX => match want {
                Some(want) => take(&mut waiting, want, &mut fresh),
                None => return,
            },
            Some(done) = jobs.join_next_with_id(), if !jobs.is_empty() => {
                let results = match done {
                    Ok((id, (grant, results))) => {
                        running.remove(&id);
                        results.into_iter().map(|(k, r)| ((grant, k), r)).collect()
                    }
                    Err(e) => {
                        let wishes = running.remove(&e.id()).unwrap_or_default();
                        let failed = ObtainError::Unavailable("the collection failed".into());
                        let failed = |w| (w, Err(failed.clone()));
                        wishes.into_iter().map(failed).collect::<Vec<_>>()
                    }
                };
                for (wish, result) in results {
                    for want in waiting.remove(&wish).unwrap_or_default() {
                        let _ = want.done.send(result.clone());
                    }
                }
            }
        }
        while !fresh.is_empty() && fresh.values().all(|f| f.keys.len() < KEYS_MAX) {
            match wants.try_recv() {
                Ok(want) => take(&mut waiting, want, &mut fresh),
                Err(_) => break,
            }
        }
        for ((hash, _), fresh) in fresh {
            let ids = fresh.keys.iter().map(|k| (hash, k.key_id)).collect();
            let collected = collect(core.clone(), lease_key.clone(), fresh);
            let handle = jobs.spawn(async move { (hash, collected.await) });
            running.insert(handle.id(), ids);
        }
    }
}

fn take(waiting: &mut HashMap<Wish, Vec<Want>>, want: Want, fresh: &mut AllFresh) {
    let (key, reason, hash) = (want.key, want.reason, *want.grant.hash());
    let waiters = waiting.entry((hash, key.key_id)).or_default();
    if waiters.is_empty() {
        let new = || Fresh {
            grant: want.grant.clone(),
            reason,
            keys: Vec::new(),
        };
        let same = fresh.entry((hash, reason)).or_insert_with(new);
        same.keys.push(key);
    }
    waiters.push(want);
}

/// The in-memory key pair releases are sealed to.
#[derive(Default)]
struct LeaseKey(Mutex<Option<(u64, Arc<RecipientKey>)>>);

impl LeaseKey {
    fn current(&self, now: u64) -> Arc<RecipientKey> {
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match &*held {
            Some((made, key)) if now.saturating_sub(*made) < LEASE_KEY_MS_MAX => key.clone(),
            _ => {
                let key = Arc::new(RecipientKey::generate(&mut rand::rng()));
                *held = Some((now, key.clone()));
                key
            }
        }
    }
}

/// What is known of one key that is collected.
pub(super) struct Dealt {
    pub(super) key: KeyRef,
    pub(super) epoch: EpochNo,
    pub(super) policy: Arc<Policy>,
    check: [u8; 32],
}

/// What allows a release.
#[derive(Clone)]
pub(super) enum Authority {
    /// A user's grant, and what the key is for.
    Grant(Arc<Grant>, Reason),
    /// A disclosure order.
    Order(OrderId),
    /// A deletion statement's mandate.
    Mandate(Arc<Envelope>),
}

impl Authority {
    /// What the seals are bound to.
    fn hash(&self) -> [u8; 32] {
        match self {
            Authority::Grant(grant, _) => grant.hash().0,
            Authority::Order(id) => id.0,
            Authority::Mandate(statement) => statement.hash(),
        }
    }
}

struct Job {
    core: Arc<Core>,
    lease_key: Arc<RecipientKey>,
    authority: Authority,
    policies: BTreeMap<KeyId, PolicyId>,
}

/// Log entries of releases.
pub(super) type Entries = BTreeMap<(CustodianId, KeyId), u64>;

async fn collect(core: Arc<Core>, lease_key: Arc<LeaseKey>, wishes: Fresh) -> Results {
    let asked = core.clock.mono();
    let mut results = Results::new();
    let mut found = Vec::new();
    for key in wishes.keys {
        match look_up(&core, &key) {
            Ok(Some(one)) => found.push(one),
            Ok(None) => results.push((key.key_id, Err(ObtainError::Missing))),
            Err(e) => results.push((key.key_id, Err(ObtainError::Unavailable(e)))),
        }
    }
    if found.is_empty() {
        return results;
    }
    let authority = Authority::Grant(wishes.grant, wishes.reason);
    let lease_key = lease_key.current(asked);
    let (collected, entries) = gather(&core, lease_key, authority, found).await;
    for (d, quorum) in collected {
        let key_id = d.key.key_id;
        let result = match quorum {
            Some(Ok(quorum)) => finish(&core, d, quorum, &entries, asked).await,
            Some(Err(e)) => Err(why_not(&d.policy, e)),
            None => Err(ObtainError::Unavailable(
                "the collection ended early".into(),
            )),
        };
        let outcome = if result.is_ok() { "leased" } else { "failed" };
        metrics::counter!("quorate_home_keys_total", "outcome" => outcome).increment(1);
        results.push((key_id, result));
    }
    results
}

/// What became of each key, and where it is recorded.
type Gathered = (Vec<(Dealt, Option<Result<Quorum, NoQuorum>>)>, Entries);

/// Asks custodians for up to [`KEYS_MAX`] keys, until each is decided. Shares come sealed to
/// `lease_key`.
pub(super) async fn gather(
    core: &Arc<Core>,
    lease_key: Arc<RecipientKey>,
    authority: Authority,
    found: Vec<(Dealt, Wanted)>,
) -> Gathered {
    let asked = core.clock.mono();
    let (dealt, wanted): (Vec<_>, Vec<_>) = found.into_iter().unzip();
    let policies = dealt
        .iter()
        .map(|d| (d.key.key_id, d.policy.id()))
        .collect();
    let job = Arc::new(Job {
        lease_key,
        core: core.clone(),
        authority,
        policies,
    });
    let known = known(core, &dealt);
    let config = CollectorConfig::default();
    let mut collector = Collector::new(asked, config, wanted, known);
    let mut calls = FuturesUnordered::new();
    let mut entries = Entries::new();
    loop {
        for ask in collector.take_asks() {
            let job = job.clone();
            calls.push(async move {
                let (id, custodian, keys) = (ask.id, ask.custodian.clone(), ask.keys.clone());
                (id, custodian, keys, job.ask(ask).await)
            });
        }
        if collector.is_over() {
            break;
        }
        let timeout = collector.next_timeout().unwrap_or(asked);
        let wait = timeout.saturating_sub(core.clock.mono());
        tokio::select! {
            Some((id, custodian, keys, answer)) = calls.next(), if !calls.is_empty() => {
                heard(core, &mut collector, &mut entries, id, &custodian, &keys, answer);
            }
            () = tokio::time::sleep(Duration::from_millis(wait.max(1))) => {
                collector.on_timeout(core.clock.mono());
            }
        }
    }
    let took = core.clock.mono().saturating_sub(asked);
    metrics::histogram!("quorate_home_quorum_seconds").record(took as f64 / 1000.0);
    for custodian in &collector.liars() {
        core.custodians.blame(custodian);
    }
    let decided = dealt.into_iter().enumerate();
    let decided = decided.map(|(index, d)| (d, collector.take(index)));
    (decided.collect(), entries)
}

/// Says of a failed collection what the caller can do about it. Custodians that were not asked, or
/// had not answered when it was over, count as willing: whoever repeats learns more.
fn why_not(policy: &Policy, e: NoQuorum) -> ObtainError {
    let names = |of: &[&CustodianId]| {
        let names: Vec<&str> = of.iter().map(|c| c.as_str()).collect();
        names.join(", ")
    };
    let mut denials: BTreeMap<GrantRefusal, Vec<&CustodianId>> = BTreeMap::new();
    let mut spent: Vec<(u64, bool, &CustodianId)> = Vec::new();
    let mut usable = policy.custodians();
    let mut allowing = usable.clone();
    for (custodian, refusal) in &e.refused {
        match *refusal {
            Refusal::Grant(why) => {
                denials.entry(why).or_default().push(custodian);
                allowing.remove(custodian);
                usable.remove(custodian);
            }
            Refusal::AccountBudget { retry_ms } => spent.push((retry_ms, true, custodian)),
            Refusal::HomeNodeBudget { retry_ms } | Refusal::OverallBudget { retry_ms } => {
                spent.push((retry_ms, false, custodian));
            }
            _ => drop(usable.remove(custodian)),
        }
    }
    if let Some((why, who)) = denials.iter().max_by_key(|(_, who)| who.len())
        && !policy.satisfied_by(&allowing)
    {
        let detail = format!("{why} (says {})", names(who));
        return ObtainError::Denied { why: *why, detail };
    }
    usable.retain(|c| !e.lied.contains(c) && !e.unreachable.contains(c));
    spent.sort_unstable();
    for (_, _, custodian) in &spent {
        usable.remove(*custodian);
    }
    // The soonest time at which those that have filled up again suffice with the others.
    for (n, (retry_ms, _, custodian)) in spent.iter().enumerate() {
        usable.insert((*custodian).clone());
        if policy.satisfied_by(&usable) {
            let waited = &spent[..=n];
            let who: Vec<&CustodianId> = waited.iter().map(|(_, _, c)| *c).collect();
            let account = waited.iter().all(|(_, account, _)| *account);
            let whose = if account {
                "the account's"
            } else {
                "the home's"
            };
            return ObtainError::Spent {
                detail: format!("{whose} budget of keys is spent at {}", names(&who)),
                retry_ms: (*retry_ms).max(1),
                account,
            };
        }
    }
    ObtainError::Quorum(Box::new(e))
}

pub(super) fn look_up(core: &Core, key: &KeyRef) -> Result<Option<(Dealt, Wanted)>, String> {
    let found = core.shard(&key.chat).view(|kv| {
        let Some((epoch, row)) = read::epoch_of(kv, key)? else {
            return Ok(None);
        };
        let policy = core.policy(kv, &row.policy)?;
        Ok(policy.map(|policy| (epoch, row, policy)))
    });
    let Some((epoch, row, policy)) = found.map_err(|e| e.to_string())? else {
        return Ok(None);
    };
    let commitments = row.leaves.into_iter().map(|l| (l.custodian, l.commitment));
    let wanted = Wanted {
        key: *key,
        policy: policy.clone(),
        commitments: commitments.collect(),
    };
    let dealt = Dealt {
        key: *key,
        epoch,
        policy,
        check: row.check,
    };
    Ok(Some((dealt, wanted)))
}

fn known(core: &Core, dealt: &[Dealt]) -> BTreeMap<CustodianId, (Hint, Option<u64>)> {
    let custodians: BTreeSet<CustodianId> =
        dealt.iter().flat_map(|d| d.policy.custodians()).collect();
    let mut out = BTreeMap::new();
    for custodian in custodians {
        let (mut hint, latency) = core.custodians.hint(&custodian);
        if dealt
            .iter()
            .all(|d| core.leases.frozen(&custodian, &d.key.chat))
        {
            hint = Hint::Bad;
        }
        out.insert(custodian, (hint, latency));
    }
    out
}

type Answered = Result<(Vec<Answer>, Option<Receipt>), AskError>;

fn heard(
    core: &Core,
    collector: &mut Collector,
    entries: &mut Entries,
    id: AskId,
    custodian: &CustodianId,
    keys: &[KeyRef],
    answer: Answered,
) {
    let now = core.clock.mono();
    match answer {
        Ok((answers, receipt)) => {
            if let Some(receipt) = receipt {
                for key in keys {
                    entries.insert((custodian.clone(), key.key_id), receipt.entry);
                }
                let shards: BTreeSet<u32> =
                    keys.iter().map(|k| core.shard(&k.chat).number).collect();
                for shard in shards {
                    core.journal.note(shard, receipt.clone());
                }
            }
            collector.on_answer(now, id, answers);
        }
        Err(e) => {
            tracing::debug!(%custodian, "no release: {e}");
            collector.on_unreachable(now, id);
        }
    }
}

impl Job {
    async fn ask(self: Arc<Self>, ask: Ask) -> Answered {
        let mut request = [0; RequestId::LEN];
        rand::rng().fill_bytes(&mut request);
        let request = RequestId(request);
        let config = &self.core.config;
        let (home, deployment) = (config.home.clone(), config.deployment);
        let (node, lease_key) = (config.node, self.lease_key.public());
        let keys = ask.keys.clone();
        let body = match &self.authority {
            Authority::Grant(grant, reason) => CustodianRequest::Release(ReleaseRequest {
                request,
                home,
                node,
                deployment,
                lease_key,
                reason: *reason,
                keys,
                grant: grant.compact().to_owned(),
            }),
            Authority::Order(order) => CustodianRequest::OrderRelease(OrderReleaseRequest {
                request,
                home,
                node,
                deployment,
                lease_key,
                order: *order,
                keys,
            }),
            Authority::Mandate(statement) => {
                CustodianRequest::MandateRelease(MandateReleaseRequest {
                    request,
                    home,
                    node,
                    deployment,
                    lease_key,
                    statement: (**statement).clone(),
                    keys,
                })
            }
        };
        let wait = ask.deadline.saturating_sub(self.core.clock.mono());
        let reply = self
            .core
            .custodians
            .ask(&ask.custodian, &body, wait)
            .await?;
        let CustodianReply::Release(reply) = reply else {
            return Err(AskError::Invalid {
                custodian: ask.custodian,
                reason: "it answered something else than a release".into(),
            });
        };
        if ask.keys.len() < BLOCKING_SHARES_MIN {
            return Ok(self.open(&ask, request, reply));
        }
        let job = self.clone();
        let custodian = ask.custodian.clone();
        let opened = tokio::task::spawn_blocking(move || job.open(&ask, request, reply)).await;
        opened.map_err(|e| AskError::Invalid {
            custodian,
            reason: e.to_string(),
        })
    }

    /// Believes a share only with its receipt: one that is not recorded was not released.
    fn open(
        &self,
        ask: &Ask,
        request: RequestId,
        reply: ReleaseReply,
    ) -> (Vec<Answer>, Option<Receipt>) {
        let config = &self.core.config;
        let garbled = || ask.keys.iter().map(|_| Answer::Garbled).collect();
        let log_key = self
            .core
            .custodians
            .get(&ask.custodian)
            .ok()
            .and_then(|(_, d)| d.log_key);
        let verified = log_key.map(|key| {
            reply
                .receipt
                .verify(&config.deployment, &ask.custodian, &request, &key.0)
        });
        if !matches!(verified, Some(Ok(()))) {
            tracing::warn!(custodian = %ask.custodian, "a release without a good receipt");
            return (garbled(), None);
        }
        let info = release_info(&config.deployment, &ask.custodian);
        let receiver = Receiver::new(&self.lease_key, &reply.encapsulated, &info).ok();
        let binding = ReleaseBinding {
            authority: self.authority.hash(),
            node: config.node,
            lease_key: self.lease_key.public().hash(),
        };
        let answers = ask
            .keys
            .iter()
            .zip(reply.shares)
            .map(|(key, share)| match share {
                ShareResult::Refused(why) => Answer::Refused(why),
                ShareResult::Share { sealed } => {
                    let policy = self.policies.get(&key.key_id).copied().unwrap_or_default();
                    let place = ShareBinding {
                        deployment: config.deployment,
                        custodian: ask.custodian.clone(),
                        chat: key.chat,
                        key_id: key.key_id,
                        policy,
                    };
                    let share = receiver
                        .as_ref()
                        .and_then(|r| r.open(&place, Some(&binding), &sealed).ok());
                    share.map_or(Answer::Garbled, Answer::Share)
                }
            });
        (answers.collect(), Some(reply.receipt))
    }
}

/// The data key of a quorum, and whose releases it comes from.
pub(super) fn combined(
    d: &Dealt,
    quorum: &Quorum,
    entries: &Entries,
) -> Result<(DataKey, Vec<(CustodianId, u64)>), String> {
    let shares: Vec<_> = quorum.shares.iter().map(|(c, s)| (c.clone(), s)).collect();
    let key = sharing::combine(d.policy.structure(), &shares)
        .map_err(|e| format!("the shares do not combine: {e}"))?;
    if !subkeys::key_check_holds(&key, &d.check) {
        return Err(format!(
            "the shares of {} fit their commitments and not the key's check: the home's state is damaged",
            d.key.key_id
        ));
    }
    let releases = shares.iter().filter_map(|(custodian, _)| {
        let entry = entries.get(&(custodian.clone(), d.key.key_id))?;
        Some((custodian.clone(), *entry))
    });
    Ok((key, releases.collect()))
}

async fn finish(
    core: &Core,
    d: Dealt,
    quorum: Quorum,
    entries: &Entries,
    asked: u64,
) -> Result<LeasedKey, ObtainError> {
    let (key, releases) = combined(&d, &quorum, entries).map_err(ObtainError::Unavailable)?;
    core.wait_usable(&d.policy, &d.key.chat)
        .await
        .map_err(|e| ObtainError::Quorum(Box::new(e)))?;
    let lease = NewLease {
        key: d.key,
        epoch: d.epoch,
        policy: d.policy.clone(),
        releases,
        asked,
    };
    core.leases.insert(lease, key).map_err(|e| match e {
        LeaseError::Refused(why) => {
            tracing::info!(key = %d.key.key_id, "not leased: {why}");
            ObtainError::Quorum(Box::new(core.dark(&d.policy, &d.key.chat)))
        }
        LeaseError::Full => ObtainError::Unavailable(e.to_string()),
    })
}

#[cfg(test)]
mod tests {
    use super::super::tests::world::{id, policy};
    use super::*;

    /// Any three of br, ch, is, sg, eu(any of de, nl).
    fn failed(refused: &[(&str, Refusal)], unreachable: &[&str]) -> ObtainError {
        let none = NoQuorum {
            answered: BTreeSet::new(),
            refused: refused.iter().map(|(c, why)| (id(c), *why)).collect(),
            lied: BTreeSet::new(),
            unreachable: unreachable.iter().map(|c| id(c)).collect(),
            pending: BTreeSet::new(),
            would_suffice: Vec::new(),
        };
        why_not(&policy(), none)
    }

    #[test]
    fn a_failure_is_the_grants_the_budgets_or_the_custodians() {
        let account = |retry_ms| Refusal::AccountBudget { retry_ms };
        let spent = [
            ("br", account(1_000)),
            ("ch", account(7_000)),
            ("de", account(3_000)),
            ("nl", account(2_000)),
            ("is", account(5_000)),
            ("sg", Refusal::HomeNodeBudget { retry_ms: 9_000 }),
        ];
        let told = |e: ObtainError| match e {
            ObtainError::Spent {
                retry_ms, account, ..
            } => Some((retry_ms, account)),
            _ => None,
        };
        assert_eq!(told(failed(&spent, &[])), Some((5_000, true)));
        // Those that were not asked count as willing.
        assert_eq!(told(failed(&spent[1..], &[])), Some((5_000, true)));
        assert_eq!(told(failed(&spent[4..], &[])), Some((5_000, true)));
        assert_eq!(
            told(failed(&spent[5..], &["br", "ch"])),
            Some((9_000, false))
        );
        assert_eq!(told(failed(&spent[5..], &["br", "ch", "is"])), None);

        let frozen = ("br", Refusal::Frozen);
        let grant = |c, why| (c, Refusal::Grant(why));
        let denied = |e: ObtainError| match e {
            ObtainError::Denied { why, .. } => Some(why),
            _ => None,
        };
        let most = [
            grant("ch", GrantRefusal::NotMember),
            grant("is", GrantRefusal::CeilingSpent),
            grant("sg", GrantRefusal::CeilingSpent),
        ];
        let why = Some(GrantRefusal::CeilingSpent);
        assert_eq!(denied(failed(&most, &[])), why);
        // Two refuse the grant, and one is away: who is away is as much in the way.
        assert_eq!(denied(failed(&most[1..], &["br"])), None);
        let e = failed(&[frozen, most[0], most[1]], &[]);
        assert!(matches!(e, ObtainError::Quorum(_)), "{e:?}");
    }
}
