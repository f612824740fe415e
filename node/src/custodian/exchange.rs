//! Between custodians: heads of chains, and the statements that one of them lacks.
//!
//! ```text
//!  leader ──every 2 s──▶ each other custodian: which heads changed since …?
//!     │ head unknown here ─▶ fetch the statements, check the links, propose
//!     │ head contradicts ──▶ fetch that statement, propose: `apply` marks the fork
//!     └ until then: nothing of that chain is released
//! ```
//!
//! A head is the word of the custodian whose certificate brought it, and only a
//! hint: what counts is signed statements, checked by `apply`. One that claims
//! a head and cannot show the statements up to it stops nothing.

use super::Custodian;
use super::chains::{Kind, place_of};
use super::consensus::view;
use crate::peer::{PeerIdentity, Service, ServiceError};
use bytes::Bytes;
use futures::future::{BoxFuture, join_all};
use quorate_engine::authz::chain::{ChainId, Source};
use quorate_engine::authz::envelope::Envelope;
use quorate_engine::authz::identity::AuthorityRecord;
use quorate_engine::authz::membership::ChatPayload;
use quorate_engine::custody::{self, ChainHead};
use quorate_engine::policy::Policy;
use quorate_engine::types::kv::KvError;
use quorate_engine::types::{AccountId, ChatId, CustodianId, HomeId, NodeId, codec};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio_util::sync::CancellationToken;

const FORMAT: u8 = 1;
/// How often a leader asks the others.
pub const EXCHANGE_EVERY: Duration = Duration::from_secs(2);
/// How often a change of leadership is looked for.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// Longest wait for one custodian's heads in a round.
const HEADS_WAIT_MAX: Duration = Duration::from_secs(1);
/// Longest wait for one answer.
const ANSWER_WAIT_MAX: Duration = Duration::from_secs(1);
/// Heads in one answer.
const HEADS_MAX: usize = 256;
/// Answers of one custodian read in one round.
const PAGES_MAX: usize = 64;
/// Statements of one chain fetched in one round.
const STATEMENTS_MAX: usize = 4_096;
/// Statements refused for their age that are remembered.
const AGED_MAX: usize = 4_096;
/// A statement that was refused here and taken elsewhere is tried again after so long.
const DISPUTED_AGAIN: Duration = Duration::from_secs(600);
/// Chains with such a statement that are remembered.
const DISPUTED_MAX: usize = 4_096;
/// Chains that are looked after in one round.
const CHAINS_MAX: usize = 4_096;

/// Another custodian this node believes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Neighbour {
    /// Its name.
    pub id: CustodianId,
    /// Its nodes.
    pub nodes: Vec<NodeId>,
}

/// Whom this node's trust directory names, and how to reach the custodians among them.
pub trait Neighbours: Send + Sync + 'static {
    /// Homes, and the legal entities that run them.
    fn homes(&self) -> BTreeMap<HomeId, String>;
    /// Identity authorities, and what their identity keys said of their keys since.
    fn authorities(&self) -> Vec<(AuthorityRecord, Vec<Envelope>)>;
    /// The other custodians.
    fn custodians(&self) -> Vec<Neighbour>;
    /// Asks a node of another custodian; the error is in words.
    fn call<'a>(
        &'a self,
        custodian: &'a CustodianId,
        node: NodeId,
        body: Vec<u8>,
    ) -> BoxFuture<'a, Result<Vec<u8>, String>>;
}

/// What one custodian asks another.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ExchangeAsk {
    /// Heads of chains that changed at or after this entry of your log.
    Changed {
        /// 0 for all.
        since: u64,
    },
    /// Statements of a chain, in order.
    Statements {
        /// Which chain.
        chain: ChainId,
        /// The first one's number.
        from: u64,
    },
}

/// What it answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ExchangeTold {
    /// To `Changed`, oldest first; ask again from the last one's entry + 1 until there are none.
    Changed(Vec<ChainHead>),
    /// To `Statements`; ask again from the next number until there are none.
    Statements(Vec<Envelope>),
    /// This node does not lead.
    NotLeader {
        /// The one that does, when known.
        leader: Option<NodeId>,
    },
    /// Not now.
    Busy(String),
}

/// What a leader keeps between rounds.
#[derive(Default)]
pub(super) struct Exchange {
    /// The term in which this node, as leader, has done a round; 0: none.
    term: AtomicU64,
    /// Chains that are known to be longer elsewhere.
    behind: Mutex<BTreeSet<ChainId>>,
    /// Hashes of statements that were refused for their age.
    aged: Mutex<BTreeSet<[u8; 32]>>,
    /// Statements that another custodian took and this one refuses, by chain, and when it did.
    disputed: Mutex<BTreeMap<ChainId, ([u8; 32], tokio::time::Instant)>>,
    /// What of the trust directory was refused.
    refused: Mutex<BTreeSet<String>>,
    /// Next entry to ask each custodian for, and the node that led it.
    at: Mutex<BTreeMap<CustodianId, (u64, Option<NodeId>)>>,
}

impl Exchange {
    pub(super) fn compared(&self, term: u64) -> bool {
        self.term.load(Ordering::Acquire) == term
    }

    pub(super) fn was_refused(&self, what: &str) -> bool {
        self.refused
            .lock()
            .expect("no holder panics")
            .contains(what)
    }

    pub(super) fn refuse(&self, what: String) {
        let mut refused = self.refused.lock().expect("no holder panics");
        refused.insert(what);
    }

    /// Whether this very statement was refused here a while ago.
    fn disputes(&self, chain: &ChainId, hash: &[u8; 32]) -> bool {
        let disputed = self.disputed.lock().expect("no holder panics");
        let row = disputed.get(chain);
        row.is_some_and(|(h, at)| h == hash && at.elapsed() < DISPUTED_AGAIN)
    }

    fn is_disputed(&self, chain: &ChainId) -> bool {
        let disputed = self.disputed.lock().expect("no holder panics");
        disputed.contains_key(chain)
    }

    fn dispute(&self, chain: ChainId, hash: [u8; 32]) {
        let mut disputed = self.disputed.lock().expect("no holder panics");
        if disputed.len() >= DISPUTED_MAX {
            // Forgotten ones are refused again, and remembered again.
            disputed.clear();
        }
        disputed.insert(chain, (hash, tokio::time::Instant::now()));
    }

    fn settled(&self, chain: &ChainId) {
        let mut disputed = self.disputed.lock().expect("no holder panics");
        disputed.remove(chain);
    }

    /// Chains to look at again in the next round, whoever says that they changed.
    pub(super) fn open(&self) -> BTreeSet<ChainId> {
        let mut open = self.behind.lock().expect("no holder panics").clone();
        open.extend(self.disputed.lock().expect("no holder panics").keys());
        open
    }

    fn behind(&self, chain: ChainId, is: bool) {
        let mut behind = self.behind.lock().expect("no holder panics");
        match is {
            true => behind.insert(chain),
            false => behind.remove(&chain),
        };
    }
}

/// The service other custodians call. Register it for [`Allow::Custodians`](crate::peer::Allow::Custodians) only.
pub struct ExchangeService(pub(super) Custodian);

impl Service for ExchangeService {
    fn call(
        &self,
        _from: PeerIdentity,
        body: Bytes,
    ) -> BoxFuture<'_, Result<Vec<u8>, ServiceError>> {
        Box::pin(async move {
            let ask = codec::decode("question of a custodian", FORMAT, &body)
                .map_err(|e| ServiceError::Invalid(e.to_string()))?;
            Ok(codec::encode(FORMAT, &self.0.exchange_told(&ask)))
        })
    }
}

/// One head, as a custodian told it.
type Heads = BTreeMap<ChainId, BTreeMap<CustodianId, ChainHead>>;

pub(super) async fn run(custodian: Custodian, stop: CancellationToken) {
    let mut done: Option<(u64, tokio::time::Instant)> = None;
    loop {
        let lead = custodian.0.consensus.lead();
        let due = done.is_none_or(|(term, at)| term != lead.term || at.elapsed() >= EXCHANGE_EVERY);
        if lead.is_leader && due {
            custodian.exchange_round().await;
            custodian
                .0
                .exchange
                .term
                .store(lead.term, Ordering::Release);
            done = Some((lead.term, tokio::time::Instant::now()));
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
    }
}

impl Custodian {
    fn exchange_told(&self, ask: &ExchangeAsk) -> ExchangeTold {
        let lead = self.0.consensus.lead();
        if !lead.is_leader {
            return ExchangeTold::NotLeader {
                leader: lead.leader,
            };
        }
        let read = match ask {
            ExchangeAsk::Changed { since } => view(&*self.0.consensus, |kv| {
                custody::changed_since(kv, *since, HEADS_MAX).map(ExchangeTold::Changed)
            }),
            ExchangeAsk::Statements { chain, from } => view(&*self.0.consensus, |kv| {
                custody::statements(kv, chain, *from).map(ExchangeTold::Statements)
            }),
        };
        read.unwrap_or_else(|e| ExchangeTold::Busy(e.0))
    }

    /// Why nothing of these chats may be released now, if so.
    pub(super) fn behind(
        &self,
        chats: impl IntoIterator<Item = ChatId>,
        account: Option<AccountId>,
    ) -> Option<String> {
        let lead = self.0.consensus.lead();
        if !self.0.exchange.compared(lead.term) {
            return Some("the new leader compares its chains with other custodians".into());
        }
        let behind = self.0.exchange.behind.lock().expect("no holder panics");
        if behind.is_empty() {
            return None;
        }
        let chats = chats.into_iter().map(ChainId::Chat);
        let mut all = chats.chain(account.map(ChainId::Account));
        let lacking = all.find(|chain| behind.contains(chain))?;
        Some(match lacking {
            ChainId::Chat(id) => format!("other custodians have newer statements of chat {id}"),
            ChainId::Account(id) => {
                format!("other custodians have newer statements of account {id}")
            }
        })
    }

    /// Asks every other custodian once, and follows up what it told.
    pub(super) async fn exchange_round(&self) {
        let others = self.0.neighbours.custodians();
        let ask = |n| tokio::time::timeout(HEADS_WAIT_MAX, self.changed(n));
        let asked = join_all(others.iter().map(ask)).await;
        let mut heads = Heads::new();
        for (other, told) in others.iter().zip(asked) {
            // Nobody there: the next round asks again.
            for head in told.unwrap_or_default() {
                let known = heads.entry(head.chain).or_default();
                known.insert(other.id.clone(), head);
            }
        }
        // What was behind or disputed in the round before is looked at again, whoever has it.
        for chain in self.0.exchange.open() {
            let told = heads.entry(chain).or_default();
            let silent = others.iter().filter(|n| !told.contains_key(&n.id));
            let asked = join_all(silent.map(|n| self.head_of(n, chain))).await;
            told.extend(asked.into_iter().flatten());
        }
        for (chain, told) in heads.into_iter().take(CHAINS_MAX) {
            match self.follow(chain, &told, &others).await {
                Ok(current) => self.0.exchange.behind(chain, !current),
                Err(e) => tracing::warn!("a chain is not compared: {}", e.0),
            }
        }
        let behind = self
            .0
            .exchange
            .behind
            .lock()
            .expect("no holder panics")
            .len();
        let forks = view(&*self.0.consensus, |kv| custody::forks(kv)).map_or(0, |f| f.len());
        self.0.figures.chains(behind, forks);
    }

    /// Heads that changed at `other` since the last round, up to [`PAGES_MAX`] answers.
    async fn changed(&self, other: &Neighbour) -> Vec<ChainHead> {
        let mut out = Vec::new();
        let (mut since, mut leader) = {
            let at = self.0.exchange.at.lock().expect("no holder panics");
            at.get(&other.id).copied().unwrap_or_default()
        };
        for _ in 0..PAGES_MAX {
            let ask = ExchangeAsk::Changed { since };
            let Some(ExchangeTold::Changed(page)) = self.ask_leader(other, &mut leader, &ask).await
            else {
                break;
            };
            let Some(last) = page.last().map(|h| h.entry) else {
                break;
            };
            // A log that went backwards, or one that lies: not our loop.
            if last < since {
                break;
            }
            since = last + 1;
            out.extend(page);
        }
        let mut at = self.0.exchange.at.lock().expect("no holder panics");
        at.insert(other.id.clone(), (since, leader));
        out
    }

    /// The end of one chain at `other`, seen from its statements.
    async fn head_of(&self, other: &Neighbour, chain: ChainId) -> Option<(CustodianId, ChainHead)> {
        let own = view(&*self.0.consensus, |kv| custody::chain_head(kv, &chain)).ok()?;
        let from = own.map_or(0, |h| h.number);
        let statements = self.fetch_statements(other, chain, from).await;
        let last = statements.last()?;
        let number = place_of(Kind::of(&chain), last).ok()?.number;
        let head = ChainHead {
            chain,
            number,
            hash: quorate_engine::types::StatementHash(last.hash()),
            entry: 0,
            time_ms: 0,
            forked: false,
        };
        Some((other.id.clone(), head))
    }

    /// Asks the leader of `other`: the one that led, the one that is named, then each.
    async fn ask_leader(
        &self,
        other: &Neighbour,
        leader: &mut Option<NodeId>,
        ask: &ExchangeAsk,
    ) -> Option<ExchangeTold> {
        let body = codec::encode(FORMAT, ask);
        let mut next: Vec<NodeId> = other.nodes.iter().rev().copied().collect();
        next.extend(*leader);
        let mut asked = BTreeSet::new();
        while let Some(node) = next.pop() {
            if !asked.insert(node) {
                continue;
            }
            let call = self.0.neighbours.call(&other.id, node, body.clone());
            let Ok(Ok(answer)) = tokio::time::timeout(ANSWER_WAIT_MAX, call).await else {
                continue;
            };
            match codec::decode("answer of a custodian", FORMAT, &answer) {
                Ok(ExchangeTold::NotLeader { leader: named }) => next.extend(named),
                Ok(ExchangeTold::Busy(_)) | Err(_) => {}
                Ok(told) => {
                    *leader = Some(node);
                    return Some(told);
                }
            }
        }
        *leader = None;
        None
    }

    /// Statements of a chain from `from` on, as `other` has them.
    async fn fetch_statements(
        &self,
        other: &Neighbour,
        chain: ChainId,
        from: u64,
    ) -> Vec<Envelope> {
        let mut out: Vec<Envelope> = Vec::new();
        let mut leader = {
            let at = self.0.exchange.at.lock().expect("no holder panics");
            at.get(&other.id).and_then(|(_, leader)| *leader)
        };
        while out.len() < STATEMENTS_MAX {
            let ask = ExchangeAsk::Statements {
                chain,
                from: from + out.len() as u64,
            };
            match self.ask_leader(other, &mut leader, &ask).await {
                Some(ExchangeTold::Statements(more)) if !more.is_empty() => out.extend(more),
                _ => break,
            }
        }
        out
    }

    /// Catches up with, or contradicts, what others told of one chain. Whether this custodian
    /// now has all that could be shown to it.
    async fn follow(
        &self,
        chain: ChainId,
        told: &BTreeMap<CustodianId, ChainHead>,
        others: &[Neighbour],
    ) -> Result<bool, KvError> {
        let own = view(&*self.0.consensus, |kv| custody::chain_head(kv, &chain))?;
        if own.is_some_and(|h| h.forked) {
            return Ok(true); // Nothing more can come: no one reads in it until officers settled it.
        }
        let neighbour = |id: &CustodianId| others.iter().find(|n| n.id == *id);
        // Longest first; whoever is not longer is compared where it ends.
        let mut by_length: Vec<(&CustodianId, &ChainHead)> = told.iter().collect();
        by_length.sort_by_key(|(_, h)| std::cmp::Reverse(h.number));
        let mut current = true;
        for (id, head) in by_length {
            let Some(other) = neighbour(id) else { continue };
            let own = view(&*self.0.consensus, |kv| custody::chain_head(kv, &chain))?;
            let have = own.map(|h| h.number);
            if have.is_none_or(|n| n < head.number) {
                // One that was refused here for good, and that too few took, holds nothing back.
                if !self.0.exchange.is_disputed(&chain) {
                    self.0.exchange.behind(chain, true);
                }
                let from = have.map_or(0, |n| n + 1);
                let shown = self.fetch_statements(other, chain, from).await;
                let shown = linked(&chain, own.map(|h| (h.number, h.hash.0)), shown);
                match shown {
                    Ok(statements) if statements.is_empty() => {
                        tracing::warn!(custodian = %id, "claims a head and shows no statement up to it");
                    }
                    Ok(statements) => {
                        let vouched = self.vouched(&statements, told, head)?;
                        current &= self.propose_all(&chain, statements, vouched).await;
                    }
                    // Its statements do not follow ours: the first of them is the contradiction.
                    Err(Some(other_way)) => {
                        self.propose_all(&chain, vec![other_way], false).await;
                    }
                    Err(None) => {
                        tracing::warn!(custodian = %id, "shows statements that are none of this chain");
                    }
                }
            } else if self.contradicts(&chain, head)? {
                let shown = self.fetch_statements(other, chain, head.number).await;
                if let Some(first) = shown.into_iter().next() {
                    self.propose_all(&chain, vec![first], false).await;
                }
            }
        }
        Ok(current)
    }

    /// Whether the statement that stands here under the head's number is another one.
    fn contradicts(&self, chain: &ChainId, head: &ChainHead) -> Result<bool, KvError> {
        let here = view(&*self.0.consensus, |kv| {
            custody::statements(kv, chain, head.number)
        })?;
        Ok(here.first().is_some_and(|s| s.hash() != head.hash.0))
    }

    /// Whether the account of who signed a chat's statement is itself not complete here: then a
    /// refusal may be this custodian's lack of knowledge.
    fn waits_for_signer(&self, kind: Kind, statement: &Envelope) -> bool {
        if kind != Kind::Chat {
            return false;
        }
        let signer = match statement.read("statement about a chat") {
            Ok(ChatPayload::Genesis(g)) => g.creator,
            Ok(ChatPayload::Statement(s)) => s.account,
            Err(_) => return false,
        };
        let behind = self.0.exchange.behind.lock().expect("no holder panics");
        behind.contains(&ChainId::Account(signer))
    }

    /// Whether a blocking set of every approved policy told this very head, which the shown
    /// statements end in: then age is no reason to doubt them.
    fn vouched(
        &self,
        statements: &[Envelope],
        told: &BTreeMap<CustodianId, ChainHead>,
        head: &ChainHead,
    ) -> Result<bool, KvError> {
        let end = statements.last().map(Envelope::hash);
        if end != Some(head.hash.0) {
            return Ok(false);
        }
        let same = told.iter().filter(|(_, h)| h.hash == head.hash);
        let same: BTreeSet<CustodianId> = same.map(|(id, _)| id.clone()).collect();
        let policies = view(&*self.0.consensus, |kv| {
            let ids = custody::approved_policies(kv)?;
            ids.iter()
                .map(|id| custody::approved_policy(kv, id))
                .collect::<Result<Vec<_>, _>>()
        })?;
        let blocks = |policy: &Policy| {
            let all = policy.identities().keys();
            let rest: BTreeSet<_> = all.filter(|c| !same.contains(*c)).cloned().collect();
            !policy.satisfied_by(&rest)
        };
        let parsed = policies.iter().flatten();
        let mut parsed = parsed.filter_map(|row| Policy::from_canonical(&row.canonical).ok());
        let first = parsed.next();
        Ok(first.is_some_and(|p| blocks(&p) && parsed.all(|p| blocks(&p))))
    }

    /// Proposes statements in order, until one does not stand. Whether this custodian has now all
    /// that it must have before it releases.
    ///
    /// One that is refused here, for another reason than its age, is somebody's mistake or attack
    /// as long as no blocking set has taken it: what it changes is not *done*, and no authorised
    /// set lacks a custodian that stands where this one does. It is remembered, tried again, and
    /// holds nothing back. Once a blocking set has it, it does until it is taken.
    async fn propose_all(&self, chain: &ChainId, statements: Vec<Envelope>, vouched: bool) -> bool {
        let kind = Kind::of(chain);
        let source = match vouched {
            true => Source::Vouched,
            false => Source::Peer,
        };
        for statement in statements {
            // Refused for its age once, it waits for a blocking set that has it: no entry a round.
            let hash = statement.hash();
            if !vouched && self.0.exchange.disputes(chain, &hash) {
                return true;
            }
            let waits = self.waits_for_signer(kind, &statement);
            if !vouched
                && self
                    .0
                    .exchange
                    .aged
                    .lock()
                    .expect("no holder panics")
                    .contains(&hash)
            {
                return false;
            }
            match self.take_statement(kind, source, statement).await {
                Ok(Ok(_)) => self.0.exchange.settled(chain),
                Ok(Err(refusal)) if refusal.code == "untimely" => {
                    let mut aged = self.0.exchange.aged.lock().expect("no holder panics");
                    if aged.len() >= AGED_MAX {
                        aged.clear();
                    }
                    aged.insert(hash);
                    return false;
                }
                Ok(Err(refusal)) if matches!(refusal.code.as_str(), "fork" | "forked") => {
                    self.0.exchange.settled(chain);
                    return true;
                }
                Ok(Err(refusal)) if vouched || waits || refusal.code == "behind" => return false,
                Ok(Err(refusal)) => {
                    tracing::warn!(
                        code = refusal.code,
                        "another custodian took a statement that is refused here: {}",
                        refusal.reason
                    );
                    self.0.exchange.dispute(*chain, hash);
                    return true;
                }
                Err(e) => {
                    tracing::debug!("a statement of another custodian was not proposed: {e}");
                    return false;
                }
            }
        }
        true
    }
}

/// Statements that follow `head` link by link. `Err` with the first one when it is of this
/// chain and follows something else, `Err(None)` when it is of another.
fn linked(
    chain: &ChainId,
    head: Option<(u64, [u8; 32])>,
    statements: Vec<Envelope>,
) -> Result<Vec<Envelope>, Option<Envelope>> {
    let (mut number, mut hash) = match head {
        Some((number, hash)) => (number + 1, Some(hash)),
        None => (0, None),
    };
    let mut out = Vec::new();
    for statement in statements {
        let place = place_of(Kind::of(chain), &statement);
        let Some(place) = place
            .ok()
            .filter(|p| p.chain == *chain && p.number == number)
        else {
            return if out.is_empty() { Err(None) } else { Ok(out) };
        };
        if place.previous != hash {
            return if out.is_empty() {
                Err(Some(statement))
            } else {
                Ok(out)
            };
        }
        (number, hash) = (number + 1, Some(statement.hash()));
        out.push(statement);
    }
    Ok(out)
}
