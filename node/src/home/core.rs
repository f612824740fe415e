//! What the home's parts share on one node, and how they fail.

use super::admission::{Admitted, Author};
use super::api::HomeError;
use super::cookies::BrowserSessions;
use super::custodians::{Custodians, Transport};
use super::directory::Directory;
use super::journal::Journal;
use super::leases::{LeasedKey, Leases};
use super::opener::Openings;
use super::release::{ObtainError, Want};
use super::sessions::Sessions;
use super::shard::{Clock, Shard, ShardError, shard_of};
use super::statements::Chains;
use super::stores::Stores;
use super::writer::Writers;
use crate::grants::GrantMemory;
use quorate_engine::api::QuorumProblem;
use quorate_engine::custody::protocol::{KeyRef, Reason, Refusal};
use quorate_engine::home::lease::LeaseLimits;
use quorate_engine::home::read;
use quorate_engine::policy::{Margins, Policy};
use quorate_engine::quorum::NoQuorum;
use quorate_engine::types::kv::{KvError, KvRead};
use quorate_engine::types::{
    ChatId, CustodianId, DeploymentId, EpochNo, HomeId, NodeId, Outcome, PolicyId,
};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio_util::sync::CancellationToken;

/// How long a start waits to hear from custodians before it calls a chat dark, in milliseconds.
const FIRST_FEED_MS_MAX: u64 = 2_000;
/// Wait between looks at the feeds meanwhile, in milliseconds.
const FIRST_FEED_STEP_MS: u64 = 25;
/// Suggested wait after an error that may pass, in milliseconds.
pub const RETRY_MS: u64 = 500;

/// What a home node is started with.
#[derive(Clone, Debug)]
pub struct HomeConfig {
    /// The deployment.
    pub deployment: DeploymentId,
    /// This home.
    pub home: HomeId,
    /// This node.
    pub node: NodeId,
    /// All nodes of this home.
    pub nodes: Vec<NodeId>,
    /// The policy new epochs are dealt under.
    pub policy: Policy,
    /// The same in words, for status.
    pub policy_text: String,
    /// Its margins.
    pub margins: Margins,
    /// Limits of the lease table.
    pub leases: LeaseLimits,
    /// How long an opening waits for the write margin, in milliseconds.
    pub thin_wait_ms: u64,
}

/// What the parts share.
pub struct Core {
    pub(super) config: HomeConfig,
    pub(super) clock: Clock,
    pub(super) shards: Vec<Shard>,
    pub(super) custodians: Custodians,
    pub(super) leases: Leases,
    pub(super) directory: Directory,
    pub(super) grants: GrantMemory,
    pub(super) browsers: BrowserSessions,
    pub(super) chains: Chains,
    pub(super) sessions: Sessions,
    pub(super) stores: Stores,
    pub(super) openings: Openings,
    pub(super) writers: Writers,
    pub(super) journal: Journal,
    pub(super) poll_feeds: Notify,
    pub(super) stop: CancellationToken,
    pub(super) wants: mpsc::Sender<Want>,
    policies: Mutex<BTreeMap<PolicyId, Arc<Policy>>>,
}

/// Why an operation did not succeed on this node.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Fail {
    /// Nothing was done: the leader is elsewhere.
    #[error("this node does not lead the shard")]
    NotLeader(Option<NodeId>),
    /// Nothing was done, and repeating may help.
    #[error("{0}")]
    NotDone(String),
    /// It may have been done; repeating is safe.
    #[error("{0}")]
    Unknown(String),
    /// For the caller.
    #[error(transparent)]
    Home(#[from] HomeError),
}

impl From<ShardError> for Fail {
    fn from(e: ShardError) -> Self {
        match e {
            ShardError::NotLeader(leader) => Fail::NotLeader(leader),
            ShardError::NotDone(why) => Fail::NotDone(why),
            ShardError::Unknown(why) => Fail::Unknown(why),
        }
    }
}

impl Core {
    pub(super) fn new(
        config: HomeConfig,
        shards: Vec<Shard>,
        transport: Arc<dyn Transport>,
        wants: mpsc::Sender<Want>,
    ) -> std::io::Result<Self> {
        let clock = Clock::default();
        Ok(Self {
            leases: Leases::new(config.leases, clock)?,
            custodians: Custodians::new(config.deployment, transport, clock),
            directory: Directory::default(),
            grants: GrantMemory::default(),
            browsers: BrowserSessions::default(),
            chains: Chains::default(),
            sessions: Sessions::new(shards.len()),
            stores: Stores::default(),
            openings: Openings::default(),
            writers: Writers::default(),
            journal: Journal::default(),
            poll_feeds: Notify::new(),
            stop: CancellationToken::new(),
            policies: Mutex::default(),
            config,
            clock,
            shards,
            wants,
        })
    }

    /// The shard of a chat.
    pub(super) fn shard(&self, chat: &ChatId) -> &Shard {
        let number = shard_of(chat, u32::try_from(self.shards.len()).unwrap_or(u32::MAX));
        &self.shards[number as usize]
    }

    /// A parsed policy by id, from memory or from the shard's state.
    pub(super) fn policy(
        &self,
        kv: &dyn KvRead,
        id: &PolicyId,
    ) -> Result<Option<Arc<Policy>>, KvError> {
        let mut known = self.policies.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(policy) = known.get(id) {
            return Ok(Some(policy.clone()));
        }
        let Some((policy, _)) = read::policy(kv, id)? else {
            return Ok(None);
        };
        let policy = Arc::new(policy);
        known.insert(*id, policy.clone());
        Ok(Some(policy))
    }

    /// Keys for these dealings and their epochs, leased or obtained from custodians under the
    /// caller's grant, in order. What the grant does not cover is refused, leased or not.
    pub(super) async fn keys(
        &self,
        keys: &[(KeyRef, EpochNo)],
        reason: Reason,
        who: &Admitted,
    ) -> Vec<Result<LeasedKey, Fail>> {
        let mut waits = Vec::with_capacity(keys.len());
        for (key, epoch) in keys {
            if let Err(e) = who.may(&key.chat, *epoch) {
                waits.push(Err(Err(e)));
                continue;
            }
            if let Some(lease) = self.leases.get(key) {
                waits.push(Ok(lease));
                continue;
            }
            let (done, wait) = oneshot::channel();
            let want = Want {
                key: *key,
                reason,
                grant: who.grant().clone(),
                done,
            };
            waits.push(match self.wants.try_send(want) {
                Ok(()) => Err(Ok(wait)),
                Err(_) => Err(Err(Fail::NotDone("too many keys are waited for".into()))),
            });
        }
        let mut out = Vec::with_capacity(keys.len());
        for wait in waits {
            out.push(match wait {
                Ok(lease) => Ok(lease),
                Err(Err(e)) => Err(e),
                Err(Ok(wait)) => match wait.await {
                    Ok(result) => result.map_err(Fail::from),
                    Err(_) => Err(Fail::NotDone("shutting down".into())),
                },
            });
        }
        out
    }

    /// The key to write under in a dealing that is there already: of a service it must be dealt
    /// in this lease, since nothing is ever released on its behalf.
    pub(super) async fn key_to_write(
        &self,
        key: KeyRef,
        epoch: EpochNo,
        who: &Author,
    ) -> Result<LeasedKey, Fail> {
        match who {
            Author::Person(who) => {
                let mut keys = self.keys(&[(key, epoch)], Reason::Write, who).await;
                keys.remove(0)
            }
            Author::Service(_) => self.leases.dealt(&key).ok_or_else(|| {
                Fail::NotDone("a service credential takes no key from custodians".into())
            }),
        }
    }

    /// Waits, at a start, until enough custodians were heard to lease keys of this chat.
    /// Returns why not, when it stays dark.
    pub(super) async fn wait_usable(&self, policy: &Policy, chat: &ChatId) -> Result<(), NoQuorum> {
        let deadline = self.clock.mono() + FIRST_FEED_MS_MAX;
        loop {
            let usable = self.leases.usable(chat);
            if policy.satisfied_by(&usable) {
                return Ok(());
            }
            // A freeze will not pass by waiting; silence at a start may.
            let leaves = policy.custodians();
            let silent = leaves.iter().any(|c| !self.leases.heard(c));
            let hopeful: BTreeSet<CustodianId> = leaves
                .iter()
                .filter(|c| !self.leases.frozen(c, chat))
                .cloned()
                .collect();
            if !silent || !policy.satisfied_by(&hopeful) || self.clock.mono() >= deadline {
                return Err(self.dark(policy, chat));
            }
            self.poll_feeds.notify_waiters();
            tokio::time::sleep(Duration::from_millis(FIRST_FEED_STEP_MS)).await;
        }
    }

    /// That too few custodians answered, and who would suffice.
    pub(super) fn too_few(
        &self,
        answered: BTreeSet<CustodianId>,
        unreachable: BTreeSet<CustodianId>,
    ) -> HomeError {
        let none = NoQuorum {
            would_suffice: self
                .config
                .policy
                .what_would_suffice(&answered, &BTreeSet::new()),
            unreachable,
            refused: Vec::new(),
            answered,
            lied: BTreeSet::new(),
            pending: BTreeSet::new(),
        };
        quorum_error(&none, Outcome::NotDone)
    }

    /// Why keys of this chat may not be held now: who is frozen, who was not heard.
    pub(super) fn dark(&self, policy: &Policy, chat: &ChatId) -> NoQuorum {
        let usable = self.leases.usable(chat);
        let leaves = policy.custodians();
        let refused: Vec<(CustodianId, Refusal)> = leaves
            .iter()
            .filter(|c| self.leases.frozen(c, chat))
            .map(|c| (c.clone(), Refusal::Frozen))
            .collect();
        let frozen: BTreeSet<&CustodianId> = refused.iter().map(|(c, _)| c).collect();
        let unreachable = leaves
            .iter()
            .filter(|c| !usable.contains(*c) && !frozen.contains(*c));
        NoQuorum {
            would_suffice: policy.what_would_suffice(&usable, &BTreeSet::new()),
            unreachable: unreachable.cloned().collect(),
            refused,
            answered: usable,
            lied: BTreeSet::new(),
            pending: BTreeSet::new(),
        }
    }
}

/// As the client plane shows it.
pub(super) fn quorum_error(e: &NoQuorum, outcome: Outcome) -> HomeError {
    let names = |set: &BTreeSet<CustodianId>| set.iter().map(ToString::to_string).collect();
    HomeError::Quorum {
        detail: e.to_string(),
        problem: QuorumProblem {
            answered: names(&e.answered),
            refused: e
                .refused
                .iter()
                .map(|(c, why)| (c.to_string(), why.to_string()))
                .collect(),
            lied: names(&e.lied),
            unreachable: names(&e.unreachable),
            would_suffice: e.would_suffice.iter().map(names).collect(),
        },
        outcome,
    }
}

impl From<ObtainError> for Fail {
    fn from(e: ObtainError) -> Self {
        match e {
            ObtainError::Quorum(e) => Fail::Home(quorum_error(&e, Outcome::NotDone)),
            ObtainError::Denied { why, detail } => Fail::Home(HomeError::Denied { why, detail }),
            ObtainError::Spent {
                detail,
                retry_ms,
                account,
            } => Fail::Home(HomeError::Spent {
                detail,
                retry_ms,
                account,
            }),
            ObtainError::Missing => Fail::NotDone("the dealing is not known here".into()),
            ObtainError::Unavailable(why) => Fail::NotDone(why),
        }
    }
}
