//! The collector's state machine. See the [module](super) for the picture.

use super::{NoQuorum, Quorum, may_end, sufficient};
use crate::custody::protocol::{KeyRef, LatencyMs, Refusal};
use crate::policy::Policy;
use crate::sharing;
use crate::types::{CustodianId, Mono, PolicyId, Share};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// One key to collect.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// Chat and dealing.
    pub key: KeyRef,
    /// The policy it was dealt under.
    pub policy: Arc<Policy>,
    /// Commitment to each custodian's share; one without is never asked.
    pub commitments: BTreeMap<CustodianId, [u8; 32]>,
}

/// What is known of a custodian before it is asked. Orders; never excludes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Hint {
    /// It answered lately.
    #[default]
    Good,
    /// Nothing is known.
    Unknown,
    /// It failed lately, lied lately, or said that it is frozen: ask it last.
    Bad,
}

/// How the collector waits.
#[derive(Clone, Copy, Debug)]
pub struct CollectorConfig {
    /// Shortest wait before others are asked in place of a late one, in milliseconds.
    pub hedge_ms_min: u64,
    /// The wait in multiples of the custodian's known latency.
    pub hedge_factor: u64,
    /// Wait for a custodian of unknown latency, in milliseconds.
    pub hedge_unknown_ms: u64,
    /// When one that does not answer counts as unreachable, in milliseconds.
    pub timeout_ms: u64,
}

impl Default for CollectorConfig {
    fn default() -> Self {
        Self {
            hedge_ms_min: 40,
            hedge_factor: 2,
            hedge_unknown_ms: 400,
            timeout_ms: 3_000,
        }
    }
}

/// Names one request to one custodian.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct AskId(pub u32);

/// Ask this custodian for these keys, in this order, in one request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ask {
    /// To be handed back with the answer.
    pub id: AskId,
    /// Whom.
    pub custodian: CustodianId,
    /// What for.
    pub keys: Vec<KeyRef>,
    /// The request is over then: its answer would come too late.
    pub deadline: Mono,
}

/// One key's part of a custodian's answer.
#[derive(Debug)]
pub enum Answer {
    /// A share, opened from its seal and not yet checked.
    Share(Share),
    /// It refused.
    Refused(Refusal),
    /// What came does not open under the lease key: as false as a wrong share.
    Garbled,
}

#[derive(Debug)]
enum State {
    Asked { late: bool },
    Good(Share),
    Refused(Refusal),
    Lied,
    Silent,
}

#[derive(Debug)]
enum Verdict {
    Open,
    Won,
    Lost,
}

struct Key {
    wanted: Wanted,
    states: BTreeMap<CustodianId, State>,
    verdict: Verdict,
}

struct Flight {
    custodian: CustodianId,
    keys: Vec<usize>,
    hedge_at: Option<Mono>,
    deadline: Mono,
}

/// Collects the shares of up to [`KEYS_MAX`](super::KEYS_MAX) keys.
pub struct Collector {
    config: CollectorConfig,
    keys: Vec<Key>,
    known: BTreeMap<CustodianId, (Hint, Option<LatencyMs>)>,
    flights: BTreeMap<AskId, Flight>,
    asks: Vec<Ask>,
    next_ask: u32,
}

/// What choosing depends on; keys that agree in it get the same answer.
type Situation = (PolicyId, BTreeSet<CustodianId>, BTreeSet<CustodianId>);

impl Collector {
    /// Starts. Keys beyond [`KEYS_MAX`](super::KEYS_MAX) are the caller's mistake and ignored;
    /// custodians that `known` does not name are of unknown latency and hint.
    pub fn new(
        now: Mono,
        config: CollectorConfig,
        wanted: Vec<Wanted>,
        known: BTreeMap<CustodianId, (Hint, Option<LatencyMs>)>,
    ) -> Self {
        let keys = wanted.into_iter().take(super::KEYS_MAX);
        let keys = keys.map(|wanted| Key {
            wanted,
            states: BTreeMap::new(),
            verdict: Verdict::Open,
        });
        let mut collector = Self {
            config,
            keys: keys.collect(),
            known,
            flights: BTreeMap::new(),
            asks: Vec::new(),
            next_ask: 0,
        };
        collector.plan(now);
        collector
    }

    /// Requests to send now.
    pub fn take_asks(&mut self) -> Vec<Ask> {
        std::mem::take(&mut self.asks)
    }

    /// Whether every key is decided.
    pub fn is_over(&self) -> bool {
        self.keys
            .iter()
            .all(|k| !matches!(k.verdict, Verdict::Open))
    }

    /// Whether key number `index` (in the order given) is decided.
    pub fn is_decided(&self, index: usize) -> bool {
        self.keys
            .get(index)
            .is_none_or(|k| !matches!(k.verdict, Verdict::Open))
    }

    /// When [`Collector::on_timeout`] wants to be called at the latest.
    pub fn next_timeout(&self) -> Option<Mono> {
        if self.is_over() {
            return None;
        }
        let flights = self.flights.values();
        flights.map(|f| f.hedge_at.unwrap_or(f.deadline)).min()
    }

    /// A custodian answered: one [`Answer`] per key of the request, in order.
    /// Missing ones count as silence; an unknown or repeated `id` is ignored.
    pub fn on_answer(&mut self, now: Mono, id: AskId, answers: Vec<Answer>) {
        let Some(flight) = self.flights.remove(&id) else {
            return;
        };
        let mut answers = answers.into_iter();
        for index in flight.keys {
            let answer = answers.next();
            let key = &mut self.keys[index];
            let state = match answer {
                None => State::Silent,
                Some(Answer::Refused(why)) => State::Refused(why),
                Some(Answer::Garbled) => State::Lied,
                Some(Answer::Share(share)) => key.check(&flight.custodian, share),
            };
            key.states.insert(flight.custodian.clone(), state);
        }
        self.plan(now);
    }

    /// A request could not be sent, or failed: its custodian is unreachable.
    pub fn on_unreachable(&mut self, now: Mono, id: AskId) {
        self.silence(id);
        self.plan(now);
    }

    /// Time has passed.
    pub fn on_timeout(&mut self, now: Mono) {
        let due: Vec<AskId> = self
            .flights
            .iter()
            .filter(|(_, f)| f.deadline <= now)
            .map(|(id, _)| *id)
            .collect();
        for id in due {
            self.silence(id);
        }
        for flight in self.flights.values_mut() {
            if flight.hedge_at.is_some_and(|at| at <= now) {
                flight.hedge_at = None;
                for index in &flight.keys {
                    let late = State::Asked { late: true };
                    self.keys[*index]
                        .states
                        .insert(flight.custodian.clone(), late);
                }
            }
        }
        self.plan(now);
    }

    /// The result of key number `index`, once; `None` while it is open or when it was taken.
    pub fn take(&mut self, index: usize) -> Option<Result<Quorum, NoQuorum>> {
        let key = self.keys.get_mut(index)?;
        match key.verdict {
            Verdict::Open => return None,
            Verdict::Lost => return Some(Err(key.no_quorum())),
            Verdict::Won => {}
        }
        let mut quorum = Quorum {
            shares: Vec::new(),
            lied: BTreeSet::new(),
        };
        for (custodian, state) in std::mem::take(&mut key.states) {
            match state {
                State::Good(share) => quorum.shares.push((custodian, share)),
                State::Lied => drop(quorum.lied.insert(custodian)),
                _ => {}
            }
        }
        (!quorum.shares.is_empty()).then_some(Ok(quorum))
    }

    /// Everyone caught with a false share so far, for any key.
    pub fn liars(&self) -> BTreeSet<CustodianId> {
        let states = self.keys.iter().flat_map(|k| &k.states);
        let liars = states.filter(|(_, s)| matches!(s, State::Lied));
        liars.map(|(id, _)| id.clone()).collect()
    }

    fn silence(&mut self, id: AskId) {
        let Some(flight) = self.flights.remove(&id) else {
            return;
        };
        for index in flight.keys {
            self.keys[index]
                .states
                .insert(flight.custodian.clone(), State::Silent);
        }
        // Other keys that come to need it ask it last.
        let known = self.known.entry(flight.custodian).or_default();
        known.0 = Hint::Bad;
    }

    /// Decides keys, and asks whoever is needed now and not yet asked.
    fn plan(&mut self, now: Mono) {
        let mut asks: BTreeMap<CustodianId, Vec<usize>> = BTreeMap::new();
        let mut memo: BTreeMap<Situation, Option<BTreeSet<CustodianId>>> = BTreeMap::new();
        for index in 0..self.keys.len() {
            let known = &self.known;
            let key = &mut self.keys[index];
            if !matches!(key.verdict, Verdict::Open) {
                continue;
            }
            if key
                .wanted
                .policy
                .satisfied_by(&key.in_state(|s| matches!(s, State::Good(_))))
            {
                key.verdict = Verdict::Won;
                continue;
            }
            let excluded = key.excluded();
            let hopeful = key.in_state(|s| matches!(s, State::Good(_) | State::Asked { .. }));
            let prompt =
                key.in_state(|s| matches!(s, State::Good(_) | State::Asked { late: false }));
            if !key.satisfiable(&excluded) {
                key.verdict = Verdict::Lost;
                continue;
            }
            if key.wanted.policy.satisfied_by(&prompt) {
                continue;
            }
            // A late one is not counted on, and not asked again either; where
            // nothing else is left, it is all there is to wait for.
            let mut choose = |have: &BTreeSet<CustodianId>, without: &BTreeSet<CustodianId>| {
                let policy = &key.wanted.policy;
                memo.entry((policy.id(), have.clone(), without.clone()))
                    .or_insert_with(|| cheapest(known, sufficient(policy, have, without)))
                    .clone()
            };
            let late: BTreeSet<_> = hopeful.difference(&prompt).cloned().collect();
            let not_late = excluded.union(&late).cloned().collect();
            let chosen = choose(&prompt, &not_late)
                .or_else(|| choose(&hopeful, &excluded))
                .unwrap_or_default();
            for custodian in chosen {
                if !key.states.contains_key(&custodian) {
                    let asked = State::Asked { late: false };
                    key.states.insert(custodian.clone(), asked);
                    asks.entry(custodian).or_default().push(index);
                }
            }
        }
        for (custodian, keys) in asks {
            self.ask(now, custodian, keys);
        }
    }

    fn ask(&mut self, now: Mono, custodian: CustodianId, keys: Vec<usize>) {
        let id = AskId(self.next_ask);
        self.next_ask += 1;
        let latency = self.known.get(&custodian).and_then(|(_, latency)| *latency);
        let hedge = latency.map_or(self.config.hedge_unknown_ms, |ms| {
            ms.saturating_mul(self.config.hedge_factor)
                .max(self.config.hedge_ms_min)
        });
        let deadline = now + self.config.timeout_ms;
        self.asks.push(Ask {
            id,
            custodian: custodian.clone(),
            keys: keys.iter().map(|i| self.keys[*i].wanted.key).collect(),
            deadline,
        });
        let flight = Flight {
            custodian,
            keys,
            hedge_at: Some(now.saturating_add(hedge)).filter(|at| *at < deadline),
            deadline,
        };
        self.flights.insert(id, flight);
    }
}

impl Key {
    fn check(&self, custodian: &CustodianId, share: Share) -> State {
        let commitment = self.wanted.commitments.get(custodian);
        let key_id = &self.wanted.key.key_id;
        match commitment {
            Some(c) if sharing::commitment_holds(key_id, custodian, &share, c) => {
                State::Good(share)
            }
            _ => State::Lied,
        }
    }

    fn in_state(&self, which: impl Fn(&State) -> bool) -> BTreeSet<CustodianId> {
        let states = self.states.iter().filter(|(_, s)| which(s));
        states.map(|(id, _)| id.clone()).collect()
    }

    /// Custodians that will give no share of this key: asked in vain, or without a commitment.
    fn excluded(&self) -> BTreeSet<CustodianId> {
        let mut out =
            self.in_state(|s| matches!(s, State::Refused(_) | State::Lied | State::Silent));
        for leaf in self.wanted.policy.structure().leaves() {
            if !self.wanted.commitments.contains_key(leaf) {
                out.insert(leaf.clone());
            }
        }
        out
    }

    fn satisfiable(&self, excluded: &BTreeSet<CustodianId>) -> bool {
        let leaves = self.wanted.policy.structure().leaves();
        let left = leaves.into_iter().filter(|l| !excluded.contains(*l));
        self.wanted.policy.satisfied_by(&left.cloned().collect())
    }

    fn no_quorum(&self) -> NoQuorum {
        let answered = self.in_state(|s| matches!(s, State::Good(_)));
        let lied = self.in_state(|s| matches!(s, State::Lied));
        let refused: Vec<(CustodianId, Refusal)> = self
            .states
            .iter()
            .filter_map(|(id, s)| match s {
                State::Refused(why) => Some((id.clone(), *why)),
                _ => None,
            })
            .collect();
        let mut never = lied.clone();
        let for_good = refused.iter().filter(|(_, why)| !may_end(*why));
        never.extend(for_good.map(|(id, _)| id.clone()));
        NoQuorum {
            would_suffice: sufficient(&self.wanted.policy, &answered, &never),
            answered,
            refused,
            lied,
            unreachable: self.in_state(|s| matches!(s, State::Silent)),
            pending: self.in_state(|s| matches!(s, State::Asked { .. })),
        }
    }
}

/// The set that is expected to answer first: fewest doubtful members, then the
/// lowest slowest round trip, then the fewest members, then by name.
fn cheapest(
    known: &BTreeMap<CustodianId, (Hint, Option<LatencyMs>)>,
    sets: Vec<BTreeSet<CustodianId>>,
) -> Option<BTreeSet<CustodianId>> {
    let look = |id: &CustodianId| known.get(id).copied().unwrap_or((Hint::Unknown, None));
    let cost = |set: &BTreeSet<CustodianId>| {
        let bad = set.iter().filter(|id| look(id).0 == Hint::Bad).count();
        let unknown = set.iter().filter(|id| look(id).0 == Hint::Unknown).count();
        // Unknown latency: slower than any known one.
        let latencies = || {
            set.iter()
                .map(|id| look(id).1.unwrap_or(LatencyMs::MAX / 1024))
        };
        let slowest = latencies().max().unwrap_or(0);
        (bad, unknown, slowest, latencies().sum::<u64>(), set.len())
    };
    sets.into_iter()
        .min_by(|a, b| cost(a).cmp(&cost(b)).then_with(|| a.cmp(b)))
}
