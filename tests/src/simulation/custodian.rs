//! A custodian: its cluster, its leader's volatile state, and how it misbehaves.

use super::Mutant;
use super::cluster::Cluster;
use super::facts::Fact;
use super::releases::{Asked, Under};
use super::watch::Side;
use super::world::{DEPLOYMENT, Event, T0_MS, World, home};
use quorate_engine::audit::Log;
use quorate_engine::authz::grant::Afresh;
use quorate_engine::authz::identity::AuthorityRecord;
use quorate_engine::authz::standing::DeviceStanding;
use quorate_engine::authz::{Authorised, Claimed, HomePeer, authorise_peer};
use quorate_engine::crypto::seal::{Receiver, RecipientKey};
use quorate_engine::crypto::sign::SigningKey;
use quorate_engine::custody::protocol::*;
use quorate_engine::custody::*;
use quorate_engine::types::kv::{Machine, Position};
use quorate_engine::types::{ChatId, CustodianId, KeyId, Mono, SessionId, WrappingKey};
use rand::RngExt;
use rand_chacha::ChaCha20Rng;
use std::collections::{BTreeMap, BTreeSet};

/// What a liar does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lie {
    /// Releases shares that are not its own.
    FalseShares,
    /// Says that it stored what it did not.
    FalseAcks,
}

/// Waits for a proposal's outcome.
pub enum Ticket {
    /// A store and the request it came from.
    Store(Box<PreparedStore>),
    /// A release.
    Release(Box<Asked>, Departure),
    /// A shred or a freeze: the chats and keys it forbids.
    Restriction(Vec<Forbidden>),
    /// Abandonments.
    Abandon,
    /// A statement of people.
    Statement(u64),
    /// Nobody waits.
    Nobody,
}

/// What a restriction forbids: a chat, a key, or (neither) all.
pub type Forbidden = (Option<ChatId>, Option<KeyId>);

/// A committed restriction that is not confirmed yet.
pub struct Unconfirmed {
    /// The leader that committed it.
    pub incarnation: u64,
    /// What it waits for.
    pub restricted: Restricted,
    /// Its log entry.
    pub entry: u64,
    /// What it forbids.
    pub forbidden: Vec<Forbidden>,
    /// The statement that people want acknowledged.
    pub statement: Option<u64>,
}

pub(super) struct Vault(WrappingKey);
impl WrappingKeys for Vault {
    fn wrapping_key(&self, version: u32) -> Option<&WrappingKey> {
        (version == 1).then_some(&self.0)
    }
}

/// One custodian.
pub struct Custodian {
    /// Its place.
    pub place: Place,
    /// Its raft group.
    pub cluster: Cluster,
    pub(super) vault: Vault,
    sealing: RecipientKey,
    /// Signs receipts.
    pub log_key: SigningKey,
    /// What homes are given.
    pub statement: SealingKeyStatement,
    /// Answers nothing.
    pub stopped: bool,
    /// How it lies.
    pub lie: Option<Lie>,
    /// Its leaders' wall clock, off by so much.
    pub skew_ms: i64,
    /// Counts leaders; what belongs to a former one is void.
    pub incarnation: u64,
    receivers: BTreeMap<SessionId, Receiver>,
    pub(super) senders: BTreeMap<[u8; 32], LeaseSender>,
    tickets: BTreeMap<u64, (u64, u64, Ticket)>,
    departures: Departures,
    /// Releases of deposed leaders that live on and have not noticed.
    pub former: BTreeMap<u64, (u64, u64, Ticket)>,
}

fn operator() -> Operator {
    Operator {
        name: "olga".into(),
        certificate: [9; 32],
    }
}

impl Custodian {
    /// Draws its keys.
    pub fn new(
        id: CustodianId,
        number: usize,
        replicas: usize,
        identity: &SigningKey,
        rng: &mut ChaCha20Rng,
    ) -> Self {
        let hash = *blake3::hash(&identity.public()).as_bytes();
        let machine = Box::new(Custody::new(id.clone(), hash).serving(DEPLOYMENT));
        let sealing = RecipientKey::generate(rng);
        let mut statement = SealingKeyStatement {
            custodian: id.clone(),
            version: 1,
            public: sealing.public(),
            expires_ms: T0_MS + 6 * 24 * 3_600_000,
            signature: Vec::new(),
        };
        statement.signature = identity.sign(&statement.signed_bytes(&DEPLOYMENT)).to_vec();
        Self {
            cluster: Cluster::new(number, Side::Custodian(id.clone()), machine, replicas),
            place: Place {
                deployment: DEPLOYMENT,
                custodian: id,
            },
            vault: Vault(WrappingKey::generate(rng)),
            sealing,
            log_key: SigningKey::generate(rng),
            statement,
            stopped: false,
            lie: None,
            skew_ms: 0,
            incarnation: 0,
            receivers: BTreeMap::new(),
            senders: BTreeMap::new(),
            tickets: BTreeMap::new(),
            departures: Departures::default(),
            former: BTreeMap::new(),
        }
    }

    /// The identity authority and the home, registered by its operators.
    pub fn registrations(record: AuthorityRecord) -> Vec<Command> {
        let reason = || "agreed".to_owned();
        vec![
            Command::RegisterAuthority(RegisterAuthority {
                operator: operator(),
                reason: reason(),
                record,
            }),
            Command::RegisterHome(RegisterHome {
                operator: operator(),
                reason: reason(),
                home: home(),
                entity: "Home LLC".into(),
            }),
        ]
    }

    /// What it must have committed before it serves.
    pub fn setup(&self, canonical: &[u8]) -> Vec<Command> {
        let voters: BTreeSet<u64> = (1..=self.cluster.replicas.len() as u64).collect();
        let keys = [
            (KeyKind::Wrapping, wrapping_fingerprint(&self.vault.0), None),
            (
                KeyKind::Sealing,
                self.sealing.public().hash(),
                Some(self.statement.clone()),
            ),
        ];
        let mut out = vec![
            Command::Voters(Voters {
                voters: voters.clone(),
            }),
            Command::ApprovePolicy(ApprovePolicy {
                operator: operator(),
                reason: "agreed".into(),
                canonical: canonical.to_vec(),
            }),
        ];
        for (kind, fingerprint, statement) in keys {
            for node in &voters {
                out.push(Command::AttestKey(AttestKey {
                    kind,
                    version: 1,
                    fingerprint,
                    node: *node,
                }));
            }
            out.push(Command::UseVersion(UseVersion {
                kind,
                version: 1,
                fingerprint,
                statement,
            }));
        }
        out
    }

    /// Another replica leads. What the old leader had in memory is gone, if it
    /// died; else it goes on answering releases of which it hears that they are committed.
    pub fn depose(&mut self, leader: usize, now: Mono, dies: bool) {
        let tickets = std::mem::take(&mut self.tickets);
        if !dies {
            let release = |t: &(u64, u64, Ticket)| matches!(t.2, Ticket::Release(..));
            self.former
                .extend(tickets.into_iter().filter(|(_, t)| release(t)));
        }
        self.departures = Departures::default();
        self.incarnation += 1;
        self.cluster.term += 1;
        self.cluster.leader = leader;
        self.departures.leads(self.cluster.term, now);
        self.receivers.clear();
        self.senders.clear();
    }

    /// Whoever operates it.
    pub fn operator() -> Operator {
        operator()
    }

    /// A freeze, which one operator alone may order.
    pub fn freezes(scope: FreezeScope) -> Command {
        let (operator, reason) = (operator(), "drill".to_owned());
        Command::Freeze(Freeze {
            operator,
            reason,
            scope,
        })
    }
}

fn authorised(node: u64) -> Authorised {
    let (home, deployment) = (home(), DEPLOYMENT);
    let peer = HomePeer {
        deployment,
        home: home.clone(),
        node,
    };
    let claimed = Claimed {
        deployment,
        home: home.clone(),
        node: Some(node),
    };
    authorise_peer(&DEPLOYMENT, &BTreeSet::from([home]), &peer, &claimed)
        .expect("the home is known")
}

impl World {
    /// A request arrived.
    pub fn custodian_request(
        &mut self,
        number: usize,
        leader: u64,
        call: u64,
        node: u64,
        request: &CustodianRequest,
    ) {
        let now = self.wall(self.custodians[number].skew_ms);
        let (c, rng) = (&mut self.custodians[number], &mut self.rng);
        if c.stopped {
            return;
        }
        let who = authorised(node);
        match request {
            CustodianRequest::Feed { .. } => {
                let feed = feed(c.cluster.kv()).expect("memory does not fail");
                self.answer(number, leader, call, CustodianReply::Feed(feed), false);
            }
            CustodianRequest::Store(request) => {
                check_store(&c.place, &who, request).expect("the home sends well-formed stores");
                if c.lie == Some(Lie::FalseAcks) {
                    let said = vec![StoreOutcome::Stored; request.items.len()];
                    return self.answer(number, leader, call, CustodianReply::Store(said), false);
                }
                if !c.receivers.contains_key(&request.session.id) {
                    match open_session(&c.place, Some(&c.sealing), &request.session, now) {
                        Ok(receiver) => drop(c.receivers.insert(request.session.id, receiver)),
                        Err(outcome) => {
                            let all = vec![outcome; request.items.len()];
                            return self.answer(
                                number,
                                leader,
                                call,
                                CustodianReply::Store(all),
                                false,
                            );
                        }
                    }
                }
                let receiver = &c.receivers[&request.session.id];
                let prepared = prepare_store(&c.place, receiver, (1, &c.vault.0), request, rng);
                match (prepared.early_outcomes(), prepared.command.clone()) {
                    (_, Some(command)) => self.custodian_propose(
                        number,
                        vec![command],
                        leader,
                        call,
                        Ticket::Store(Box::new(prepared)),
                    ),
                    (early, None) => {
                        let early = early.unwrap_or_default();
                        self.answer(number, leader, call, CustodianReply::Store(early), false);
                    }
                }
            }
            CustodianRequest::Release(request) => {
                // A device that was revoked has a key all the same, for a bug that forgets it was.
                let forgets = self.mutant == Some(Mutant::SkipsDevices);
                let looked_up = |account: &_, id: &_| {
                    let kv = c.cluster.kv();
                    let at = Log::load(kv).expect("the log loads").time_for(now);
                    let standing = device(kv, account, id, at).expect("memory does not fail");
                    Ok(match self.people.public_of(id).filter(|_| forgets) {
                        Some(public) => DeviceStanding::Live { public },
                        None => standing,
                    })
                };
                let command =
                    match prepare_release(&c.place, &who, request, &Afresh, |_| false, looked_up) {
                        Ok(command) => command,
                        Err(RequestError::GrantLength(_)) => {
                            let reason = "no grant".to_owned();
                            let reply = CustodianReply::Invalid { reason };
                            return self.answer(number, leader, call, reply, false);
                        }
                        Err(e) => unreachable!("the home sends well-formed releases: {e}"),
                    };
                let asked = Asked {
                    request: request.request,
                    lease_key: request.lease_key.clone(),
                    keys: request.keys.clone(),
                    under: Under::Grant(request.grant.clone()),
                };
                if self.mutant == Some(Mutant::ReleasesBeforeCommit) {
                    // Decided on a copy of the state, and answered at once.
                    let mut copy = c.cluster.kv().clone();
                    let bytes = Proposal::new(now, vec![command], rng).encode();
                    let at = Position {
                        term: c.cluster.term,
                        index: c.cluster.log.len() as u64 + 1,
                    };
                    let identity =
                        Custody::new(c.place.custodian.clone(), [0; 32]).serving(DEPLOYMENT);
                    let reply = identity
                        .apply(&mut copy, at, &bytes)
                        .expect("memory does not fail");
                    return self.release(number, leader, call, &asked, at, &reply);
                }
                self.propose_release(number, leader, call, command, asked);
            }
            CustodianRequest::OrderRelease(request) => {
                let command = prepare_order_release(&c.place, &who, request)
                    .expect("whoever took the home sends well-formed requests");
                let asked = Asked {
                    request: request.request,
                    lease_key: request.lease_key.clone(),
                    keys: request.keys.clone(),
                    under: Under::Order(request.order),
                };
                self.propose_release(number, leader, call, command, asked);
            }
            CustodianRequest::MandateRelease(request) => {
                let command = prepare_mandate_release(&c.place, &who, request)
                    .expect("whoever took the home sends well-formed requests");
                let asked = Asked {
                    request: request.request,
                    lease_key: request.lease_key.clone(),
                    keys: request.keys.clone(),
                    under: Under::Mandate(Box::new(request.statement.clone())),
                };
                self.propose_release(number, leader, call, command, asked);
            }
            CustodianRequest::Abandon(request) => {
                let command = prepare_abandon(&c.place, &who, request)
                    .expect("the home sends well-formed abandons");
                self.custodian_propose(number, vec![command], leader, call, Ticket::Abandon);
            }
            CustodianRequest::ChatStatement(_)
            | CustodianRequest::AccountStatement(_)
            | CustodianRequest::Lookup(_)
            | CustodianRequest::OrderAccounts(_)
            | CustodianRequest::AccountChain(_) => unreachable!("no leader sends it"),
            CustodianRequest::SealingKey => {
                let statement = c.statement.clone();
                self.answer(
                    number,
                    leader,
                    call,
                    CustodianReply::SealingKey(statement),
                    false,
                );
            }
        }
    }

    fn propose_release(
        &mut self,
        number: usize,
        leader: u64,
        call: u64,
        command: Command,
        asked: Asked,
    ) {
        let departure = self.custodians[number].departures.begin(self.now);
        let ticket = Ticket::Release(Box::new(asked), departure);
        self.custodian_propose(number, vec![command], leader, call, ticket);
    }

    /// Proposes at a custodian; the ticket waits for the outcome.
    pub fn custodian_propose(
        &mut self,
        number: usize,
        commands: Vec<Command>,
        leader: u64,
        call: u64,
        ticket: Ticket,
    ) {
        let now = self.wall(self.custodians[number].skew_ms);
        let id = self.next_id();
        let bytes = Proposal::new(now, commands, &mut self.rng).encode();
        let c = &mut self.custodians[number];
        c.tickets.insert(id, (leader, call, ticket));
        let cluster = self.shards.len() + number;
        let incarnation = c.incarnation;
        self.propose(cluster, incarnation, id, bytes);
    }

    /// A proposal was committed and its proposer was told.
    pub fn custodian_outcome(
        &mut self,
        number: usize,
        ticket: u64,
        result: Option<(Position, Vec<u8>)>,
    ) {
        let c = &mut self.custodians[number];
        let found = c.tickets.remove(&ticket);
        if let Some((_, _, Ticket::Release(_, departure))) = &found {
            // Nothing happens between here and the answer.
            c.departures.end(departure);
        }
        let Some((leader, call, ticket)) = found.or_else(|| c.former.remove(&ticket)) else {
            return;
        };
        let Some((at, reply)) = result else {
            let reason = "not known".to_owned();
            return self.answer(
                number,
                leader,
                call,
                CustodianReply::Unknown { reason },
                false,
            );
        };
        let mut done = committed(at, &reply).expect("replies decode");
        match ticket {
            Ticket::Store(prepared) => {
                if let StoreDecision::Outcomes(outcomes) = prepared.decide(&done.remove(0)) {
                    self.answer(number, leader, call, CustodianReply::Store(outcomes), false);
                }
            }
            Ticket::Abandon => {
                if let Effect::Abandoned(outcomes) = done.remove(0).into_value().effect {
                    self.answer(
                        number,
                        leader,
                        call,
                        CustodianReply::Abandon(outcomes),
                        false,
                    );
                }
            }
            Ticket::Release(request, departure) => {
                if departure.may_leave(self.now) || self.mutant == Some(Mutant::ReleasesLate) {
                    self.release(number, leader, call, &request, at, &reply);
                }
            }
            Ticket::Restriction(forbidden) => {
                let applied = done.remove(0).into_value();
                if let Effect::Done | Effect::Unchanged | Effect::Decided { carried: true, .. } =
                    applied.effect
                {
                    let c = &mut self.custodians[number];
                    let waits = Unconfirmed {
                        incarnation: c.incarnation,
                        restricted: c.departures.restricted(at.term, self.now),
                        entry: applied.entry.index,
                        forbidden,
                        statement: None,
                    };
                    self.confirm(number, waits);
                }
            }
            Ticket::Statement(statement) => {
                let applied = done.remove(0).into_value();
                if let Effect::Chained { .. } | Effect::Unchanged = applied.effect {
                    let c = &mut self.custodians[number];
                    let waits = Unconfirmed {
                        incarnation: c.incarnation,
                        restricted: c.departures.restricted(at.term, self.now),
                        entry: applied.entry.index,
                        forbidden: Vec::new(),
                        statement: Some(statement),
                    };
                    self.confirm(number, waits);
                }
            }
            Ticket::Nobody => {}
        }
    }

    /// Tells operators or people that a restriction is done, now or when it is.
    pub fn confirm(&mut self, number: usize, waits: Unconfirmed) {
        let c = &self.custodians[number];
        if waits.incarnation != c.incarnation {
            return;
        }
        if self.mutant != Some(Mutant::ConfirmsAtCommit)
            && let Some(at) = c.departures.confirmable_at(&waits.restricted, self.now)
        {
            // Some look again early: what it waited for may have ended.
            let delay = self.rng.random_range(1..=at - self.now);
            return self.later(delay, Event::Confirm { number, waits });
        }
        let custodian = c.place.custodian.clone();
        if let Some(statement) = waits.statement {
            self.send(Event::Acknowledged {
                custodian: number,
                statement,
            });
        }
        for (chat, key_id) in waits.forbidden {
            self.recorder.fact(Fact::Confirmed {
                custodian: custodian.clone(),
                chat,
                key_id,
                entry: waits.entry,
            });
        }
    }

    /// Answers over the network. `lie` is known to the simulation alone.
    pub(super) fn answer(
        &mut self,
        number: usize,
        leader: u64,
        call: u64,
        reply: CustodianReply,
        lie: bool,
    ) {
        if call != 0 {
            let reply = Box::new(reply);
            self.send(Event::Answer {
                leader,
                call,
                custodian: number,
                reply,
                lie,
            });
        }
    }
}
