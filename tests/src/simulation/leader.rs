//! A home shard's leader: sessions, openings, leases and the clients it serves,
//! all volatile. A deposed one goes on until it notices.

use super::Mutant;
use super::facts::Fact;
use super::world::{DEPLOYMENT, Event, World, home};
use quorate_engine::crypto::seal::{Receiver, RecipientKey};
use quorate_engine::custody::protocol::*;
use quorate_engine::home::command::{EpochAck, Reply};
use quorate_engine::home::lease::{Grantee, LeaseLimits, LeaseTable};
use quorate_engine::home::opening::{
    self, DealContext, DealSession, Effect, End, Opening, Prepared, UncommittedSession,
};
use quorate_engine::home::{Command, FEED_GRACE_MS, read};
use quorate_engine::policy::Policy;
use quorate_engine::quorum::Ask;
use quorate_engine::sharing;
use quorate_engine::types::{
    ChatId, CustodianId, DataKey, EpochNo, KeyId, Mono, RequestId, SessionId,
};
use rand::Rng;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// A store without an answer is sent again after so long, in milliseconds.
const STORE_WAIT_MS: u64 = 1_000;
/// Between two looks at a custodian's feed, in milliseconds.
const FEED_EVERY_MS: u64 = 4_000;

/// What waits for a proposal.
pub enum Ticket {
    /// New sessions, for an opening of this chat.
    Sessions(ChatId, Vec<UncommittedSession>),
    /// An intent.
    Intent(Box<Prepared>, Arc<Policy>, Mono),
    /// The running opening of this chat.
    Opening(ChatId),
    /// A client's operation.
    Op(u64),
    /// Nobody.
    Nobody,
}

/// What waits for a custodian's answer.
#[allow(missing_docs)] // Fields are what their names say.
pub enum Call {
    /// A share on its way.
    Store {
        key: KeyRef,
        custodian: CustodianId,
        since: Mono,
    },
    /// A release.
    Release {
        collect: u64,
        ask: Ask,
        request: RequestId,
    },
    /// Abandonments.
    Abandon {
        custodian: CustodianId,
        keys: Vec<KeyRef>,
    },
    /// A feed.
    Feed { custodian: CustodianId },
}

/// A leader's opening.
pub struct Running {
    /// The engine's machine.
    pub opening: Opening,
    asked: Mono,
    own: bool,
}

/// A shard's leader, present or deposed.
pub struct Leader {
    /// Its name.
    pub id: u64,
    /// Its shard.
    pub shard: usize,
    /// Its replica.
    pub node: usize,
    /// Its term.
    pub term: u64,
    /// Its wall clock, off by so much.
    pub skew_ms: i64,
    sessions: BTreeMap<CustodianId, DealSession>,
    /// Its leases.
    pub leases: LeaseTable<DataKey>,
    /// Releases are sealed to it.
    pub lease_key: RecipientKey,
    pub(super) receivers: BTreeMap<Vec<u8>, Receiver>,
    openings: BTreeMap<ChatId, Running>,
    /// Chats with a session or intent proposed.
    dealing: BTreeSet<ChatId>,
    pub(super) collects: BTreeMap<u64, super::collect::Collect>,
    /// Operations it works on: id, turns taken, waiting for a proposal.
    pub ops: BTreeMap<u64, (u32, bool)>,
    pub(super) tickets: BTreeMap<u64, Ticket>,
    pub(super) calls: BTreeMap<u64, Call>,
    /// What it was told, kept apart from the lease table under test.
    heard: BTreeMap<CustodianId, (Mono, Feed)>,
    born: BTreeMap<KeyId, (Mono, Arc<Policy>)>,
    hoard: BTreeMap<KeyId, DataKey>,
    fed: Mono,
}

impl Leader {
    /// Nothing but its name.
    pub fn new(
        id: u64,
        shard: usize,
        node: usize,
        term: u64,
        skew_ms: i64,
        lease_key: RecipientKey,
    ) -> Self {
        Self {
            id,
            shard,
            node,
            term,
            skew_ms,
            sessions: BTreeMap::new(),
            leases: LeaseTable::new(LeaseLimits {
                max: 64,
                ..LeaseLimits::default()
            }),
            lease_key,
            receivers: BTreeMap::new(),
            openings: BTreeMap::new(),
            dealing: BTreeSet::new(),
            collects: BTreeMap::new(),
            ops: BTreeMap::new(),
            tickets: BTreeMap::new(),
            calls: BTreeMap::new(),
            heard: BTreeMap::new(),
            born: BTreeMap::new(),
            hoard: BTreeMap::new(),
            fed: 0,
        }
    }

    /// Whether it is busy with an opening of this chat.
    pub fn opens(&self, chat: &ChatId) -> bool {
        self.openings.contains_key(chat) || self.dealing.contains(chat)
    }
}

impl World {
    /// The leader's own replica.
    pub fn view(&self, l: &Leader) -> &quorate_engine::types::kv::MemKv {
        &self.shards[l.shard].replicas[l.node].kv
    }

    /// Proposes to the shard.
    pub fn shard_propose(&mut self, l: &mut Leader, command: Command, ticket: Ticket) {
        let id = self.next_id();
        l.tickets.insert(id, ticket);
        let proposal = quorate_engine::home::Proposal {
            now_ms: self.wall(l.skew_ms),
            command,
        };
        self.propose(l.shard, l.id, id, proposal.encode());
    }

    /// A data key from a lease, judged by what this leader was told.
    pub fn leased<'l>(&mut self, l: &'l mut Leader, key: &KeyRef) -> Option<&'l DataKey> {
        let now = self.now;
        l.leases.sweep(now);
        let hoarded = self.mutant == Some(Mutant::KeepsLeases) && l.hoard.contains_key(&key.key_id);
        if !hoarded {
            l.leases.get(now, key)?;
        }
        let (since, policy) = l.born.get(&key.key_id)?;
        let open = |f: &Feed| {
            !f.freezes
                .iter()
                .any(|(s, _)| *s == FreezeScope::All || *s == FreezeScope::Chat(key.chat))
        };
        let heard = l
            .heard
            .iter()
            .filter(|(_, (at, f))| now - at <= FEED_GRACE_MS && open(f));
        let usable = policy.satisfied_by(&heard.map(|(c, _)| c.clone()).collect());
        self.recorder.fact(Fact::Leased {
            key_id: key.key_id,
            age_ms: now - since,
            usable,
        });
        if hoarded {
            return l.hoard.get(&key.key_id);
        }
        l.leases.get(now, key).map(|(key, _)| key)
    }

    /// Leases a key. Whether it was taken.
    pub fn lease(
        &mut self,
        l: &mut Leader,
        key: KeyRef,
        epoch: EpochNo,
        policy: &Arc<Policy>,
        (releases, asked): (Vec<(CustodianId, u64)>, Mono),
        holder: DataKey,
    ) -> bool {
        let copy = holder.duplicate();
        let grantee = Grantee {
            key,
            epoch,
            policy: policy.clone(),
            releases,
            asked,
            holder,
        };
        let taken = l.leases.insert(self.now, grantee).is_ok();
        if taken {
            l.born.insert(key.key_id, (asked, policy.clone()));
            l.hoard.insert(key.key_id, copy);
        }
        taken
    }

    /// Begins to open the chat's next epoch, or to finish what is begun.
    pub fn open_epoch(&mut self, l: &mut Leader, chat: ChatId) {
        if l.opens(&chat) {
            return;
        }
        let now = self.now;
        if let Some(pending) =
            read::pending_intent(self.view(l), &chat).expect("memory does not fail")
        {
            let policy = (*self.policy).clone();
            if let Some(opening) = Opening::resume(pending, policy, self.margins, now) {
                l.openings.insert(
                    chat,
                    Running {
                        opening,
                        asked: now,
                        own: false,
                    },
                );
                self.drive(l, chat);
            }
            return;
        }
        let wall = self.wall(l.skew_ms);
        l.sessions.retain(|_, s| s.live(now, wall));
        let mut fresh = Vec::new();
        for c in self
            .custodians
            .iter()
            .filter(|c| !c.stopped && !l.sessions.contains_key(&c.place.custodian))
        {
            fresh.push(
                UncommittedSession::new(&DEPLOYMENT, &c.statement, &mut self.rng)
                    .expect("the statement's key is one"),
            );
        }
        if !fresh.is_empty() {
            l.dealing.insert(chat);
            let command =
                Command::SealSessions(fresh.iter().map(|s| s.session().clone()).collect());
            return self.shard_propose(l, command, Ticket::Sessions(chat, fresh));
        }
        self.deal(l, chat);
    }

    fn deal(&mut self, l: &mut Leader, chat: ChatId) {
        let Some(row) = read::chat(self.view(l), &chat).expect("memory does not fail") else {
            return;
        };
        let cx = DealContext {
            deployment: DEPLOYMENT,
            chat,
            epoch: row.last.map_or(0, |(e, _)| e + 1),
            previous: row.last.map(|(_, k)| k),
            expires_ms: None,
        };
        let sessions: BTreeMap<_, _> = l.sessions.iter().map(|(c, s)| (c.clone(), s)).collect();
        let policy = self.policy.clone();
        // The same draws as the dealing's: so the simulation knows what nobody may find.
        let mut twin = self.rng.clone();
        let Ok(prepared) = opening::prepare(&cx, &policy, &sessions, &mut self.rng) else {
            return;
        };
        let key = DataKey::generate(&mut twin);
        twin.fill_bytes(&mut [0; KeyId::LEN]);
        let shares =
            sharing::split(policy.structure(), &key, &mut twin).expect("the policy is valid");
        self.recorder
            .keep_secret(key.expose(), format!("data key {}", prepared.key().key_id));
        for (custodian, share) in &shares {
            self.recorder.keep_secret(
                share.expose(),
                format!("share of {} for {custodian}", prepared.key().key_id),
            );
        }
        l.dealing.insert(chat);
        let command = prepared.command();
        if self.mutant == Some(Mutant::SendsBeforeCommit)
            && let Command::EpochIntent(intent) = &command
        {
            for leaf in &intent.leaves {
                let Some(sealed) = &leaf.sealed else { continue };
                let item = SealedItem {
                    chat,
                    epoch: intent.epoch,
                    key_id: intent.key_id,
                    policy: intent.policy,
                    commitment: leaf.commitment,
                    sealed: sealed.bytes.clone(),
                    expires_ms: None,
                };
                self.store(l, &leaf.custodian, sealed.session, item);
            }
        }
        let asked = self.now;
        self.shard_propose(
            l,
            command,
            Ticket::Intent(Box::new(prepared), policy, asked),
        );
    }

    /// Sends a share, if its session is known.
    fn store(
        &mut self,
        l: &mut Leader,
        custodian: &CustodianId,
        session: SessionId,
        item: SealedItem,
    ) {
        let Some(session) = read::session(self.view(l), &session).expect("memory does not fail")
        else {
            return;
        };
        let key = KeyRef {
            chat: item.chat,
            key_id: item.key_id,
        };
        self.recorder.fact(Fact::Sent { key });
        let request = StoreRequest {
            home: home(),
            deployment: DEPLOYMENT,
            session,
            items: vec![item],
        };
        let call = Call::Store {
            key,
            custodian: custodian.clone(),
            since: self.now,
        };
        self.call(l, custodian, call, CustodianRequest::Store(request));
    }

    /// Calls a custodian.
    pub fn call(
        &mut self,
        l: &mut Leader,
        custodian: &CustodianId,
        call: Call,
        request: CustodianRequest,
    ) {
        let id = self.next_id();
        l.calls.insert(id, call);
        let number = self.number_of(custodian);
        let (leader, node) = (l.id, l.node as u64 + 1);
        self.send(Event::Request {
            leader,
            call: id,
            custodian: number,
            node,
            request: Box::new(request),
        });
    }

    /// Carries out what an opening asks for.
    pub fn drive(&mut self, l: &mut Leader, chat: ChatId) {
        while let Some(running) = l.openings.get_mut(&chat) {
            let effects = running.opening.take_effects();
            if effects.is_empty() {
                return;
            }
            for effect in effects {
                match effect {
                    Effect::Send {
                        custodian,
                        session,
                        item,
                    } => self.store(l, &custodian, session, item),
                    Effect::Propose(command) => {
                        self.shard_propose(l, command, Ticket::Opening(chat))
                    }
                    Effect::Finished(end) => {
                        let running = l.openings.remove(&chat).expect("it just ended");
                        self.opened(l, running, &end);
                        self.wake(l, &chat);
                    }
                }
            }
        }
    }

    fn opened(&mut self, l: &mut Leader, running: Running, end: &End) {
        let Running {
            opening,
            asked,
            own,
        } = running;
        let (key, epoch) = (opening.key(), opening.epoch());
        if matches!(end, End::Opened { .. })
            && own
            && let Some(holder) = opening.into_key()
        {
            let policy = self.policy.clone();
            self.lease(l, key, epoch, &policy, (Vec::new(), asked), holder);
        }
    }

    /// A proposal's outcome arrived at its proposer.
    pub fn shard_outcome(&mut self, l: &mut Leader, ticket: u64, reply: Option<Reply>) {
        let now = self.now;
        let Some(ticket) = l.tickets.remove(&ticket) else {
            return;
        };
        match (ticket, reply) {
            (Ticket::Sessions(chat, fresh), reply) => {
                l.dealing.remove(&chat);
                if let Some(reply) = reply {
                    for session in fresh {
                        let custodian = session.session().custodian.clone();
                        if let Some(s) = session.committed(&reply, now) {
                            l.sessions.insert(custodian, s);
                        }
                    }
                    self.deal(l, chat);
                }
            }
            (Ticket::Intent(prepared, policy, asked), reply) => {
                let chat = prepared.key().chat;
                l.dealing.remove(&chat);
                let Some(reply) = reply else { return };
                if let Ok(opening) =
                    prepared.committed(&reply, (*policy).clone(), self.margins, now)
                {
                    l.openings.insert(
                        chat,
                        Running {
                            opening,
                            asked,
                            own: true,
                        },
                    );
                    self.drive(l, chat);
                } else {
                    self.wake(l, &chat);
                }
            }
            (Ticket::Opening(chat), reply) => {
                if let Some(running) = l.openings.get_mut(&chat) {
                    match reply {
                        Some(reply) => running.opening.on_reply(now, &reply),
                        None => running.opening.on_deposed(),
                    }
                }
                self.drive(l, chat);
            }
            (Ticket::Op(op), reply) => self.op_outcome(l, op, reply),
            (Ticket::Nobody, _) => {}
        }
    }

    /// A custodian's answer arrived.
    pub fn leader_answer(&mut self, l: &mut Leader, call: u64, reply: CustodianReply, lie: bool) {
        let now = self.now;
        let Some(call) = l.calls.remove(&call) else {
            return;
        };
        match (call, reply) {
            (Call::Store { key, custodian, .. }, CustodianReply::Store(outcomes)) => {
                self.stored(l, key, &custodian, outcomes[0]);
            }
            (Call::Store { key, custodian, .. }, _) => {
                if let Some(running) = l
                    .openings
                    .get_mut(&key.chat)
                    .filter(|r| r.opening.key() == key)
                {
                    running.opening.on_failed(now, &custodian);
                }
                self.drive(l, key.chat);
            }
            (Call::Abandon { custodian, keys }, CustodianReply::Abandon(_)) => {
                let acks = keys.iter().map(|k| (custodian.clone(), k.key_id)).collect();
                self.shard_propose(l, Command::AbandonAcks(acks), Ticket::Nobody);
            }
            (Call::Feed { custodian }, CustodianReply::Feed(feed)) => {
                let newer = l
                    .heard
                    .get(&custodian)
                    .is_none_or(|(_, f)| f.position <= feed.position);
                if newer {
                    l.heard.insert(custodian.clone(), (now, feed.clone()));
                }
                l.leases.on_feed(now, &custodian, &feed);
            }
            (
                Call::Release {
                    collect,
                    ask,
                    request,
                },
                reply,
            ) => self.released(l, collect, &ask, request, reply, lie),
            _ => {}
        }
    }

    fn stored(
        &mut self,
        l: &mut Leader,
        key: KeyRef,
        custodian: &CustodianId,
        outcome: StoreOutcome,
    ) {
        let now = self.now;
        if let Some(running) = l
            .openings
            .get_mut(&key.chat)
            .filter(|r| r.opening.key() == key)
        {
            running.opening.on_outcome(now, custodian, outcome);
            if self.mutant == Some(Mutant::OpensTooEarly) {
                for other in self.policy.custodians() {
                    running
                        .opening
                        .on_outcome(now, &other, StoreOutcome::Stored);
                }
            }
            return self.drive(l, key.chat);
        }
        // Late: it shrinks the outbox and restores a margin.
        let good = matches!(outcome, StoreOutcome::Stored | StoreOutcome::AlreadyStored);
        let (acked, lost) = if good {
            (vec![custodian.clone()], vec![])
        } else {
            (vec![], vec![(custodian.clone(), outcome)])
        };
        let ack = EpochAck {
            key,
            acked,
            lost,
            waited: false,
        };
        self.shard_propose(l, Command::EpochAcks(vec![ack]), Ticket::Nobody);
    }

    /// Time has passed: everything that waits is looked at.
    pub fn tick(&mut self, l: &mut Leader) {
        let now = self.now;
        l.leases.sweep(now);
        let late =
            |c: &Call| matches!(c, Call::Store { since, .. } if now - since >= STORE_WAIT_MS);
        let gone: Vec<u64> = l
            .calls
            .iter()
            .filter(|(_, c)| late(c))
            .map(|(id, _)| *id)
            .collect();
        for id in gone {
            if let Some(Call::Store { key, custodian, .. }) = l.calls.remove(&id)
                && let Some(running) = l
                    .openings
                    .get_mut(&key.chat)
                    .filter(|r| r.opening.key() == key)
            {
                running.opening.on_failed(now, &custodian);
            }
        }
        for chat in l.openings.keys().copied().collect::<Vec<_>>() {
            if let Some(running) = l.openings.get_mut(&chat) {
                running.opening.on_timeout(now);
            }
            self.drive(l, chat);
        }
        self.tick_collects(l);
        for pending in read::pending_intents(self.view(l), None, 8).expect("memory does not fail") {
            self.open_epoch(l, pending.key().chat);
        }
        if l.fed == 0 || now - l.fed >= FEED_EVERY_MS {
            self.poll(l);
            l.fed = now.max(1);
        }
    }

    /// Feeds, and what lies undelivered.
    fn poll(&mut self, l: &mut Leader) {
        for custodian in self.policy.custodians() {
            let ask = CustodianRequest::Feed { since: 0 };
            self.call(
                l,
                &custodian,
                Call::Feed {
                    custodian: custodian.clone(),
                },
                ask,
            );
            for item in
                read::outbox(self.view(l), &custodian, None, 4).expect("memory does not fail")
            {
                if !l.opens(&item.item.chat) {
                    self.store(l, &custodian, item.session, item.item);
                }
            }
            let keys = read::abandoned(self.view(l), &custodian, 8).expect("memory does not fail");
            if !keys.is_empty() {
                let request = AbandonRequest {
                    home: home(),
                    deployment: DEPLOYMENT,
                    keys: keys.clone(),
                };
                self.call(
                    l,
                    &custodian,
                    Call::Abandon {
                        custodian: custodian.clone(),
                        keys,
                    },
                    CustodianRequest::Abandon(request),
                );
            }
        }
    }
}
