//! Papers that open without a reader's grant: people's deletion statements, and orders that
//! each custodian's officers decide on. Whoever took the home shows both as it likes.

use super::custodian::{Custodian, Ticket};
use super::people::PERSONS;
use super::world::{DEPLOYMENT, Event, World, home};
use quorate_engine::authz::deletion::{Deletion, MANDATE_LIFE_MS, MANDATE_RELEASES_MAX, Whose};
use quorate_engine::authz::envelope::Envelope;
use quorate_engine::authz::officers::{
    Act, Bootstrap, Decision, DocumentHash, Officer, OfficerKey, Proposal, ShredKey, Statement,
    Subject, ThawScope, Verdict,
};
use quorate_engine::authz::orders::{COOL_OFF_MS_MIN, Order, OrderScope, order_id};
use quorate_engine::crypto::labels::SIGN_OFFICER;
use quorate_engine::crypto::seal::RecipientKey;
use quorate_engine::crypto::sign::SigningKey;
use quorate_engine::custody::protocol::{
    CustodianRequest, FreezeScope, KeyRef, MandateReleaseRequest, OrderReleaseRequest,
};
use quorate_engine::custody::{Command, Officers};
use quorate_engine::home::read;
use quorate_engine::types::{CustodianId, Nonce, OrderId, RequestId};
use rand::RngExt;
use rand_chacha::ChaCha20Rng;
use std::collections::BTreeSet;

/// Officers of a custodian; two of them must agree.
const OFFICERS: usize = 3;
const HOUR_MS: u64 = 3_600_000;

/// What was signed so far.
pub struct Papers {
    /// Of each custodian, by its number.
    officers: Vec<Vec<SigningKey>>,
    /// Keys that shares under mandates are sealed to.
    readers: Vec<RecipientKey>,
    orders: Vec<(OrderId, u64)>,
    deletions: Vec<(Envelope, u64)>,
}

impl Papers {
    /// Officers for every custodian, and nothing signed yet.
    pub fn new(custodians: usize, rng: &mut ChaCha20Rng) -> Self {
        let mut officers = Vec::new();
        for _ in 0..custodians {
            let keys = (0..OFFICERS).map(|_| SigningKey::generate(rng));
            officers.push(keys.collect());
        }
        let readers = (0..=MANDATE_RELEASES_MAX).map(|_| RecipientKey::generate(rng));
        Self {
            officers,
            readers: readers.collect(),
            orders: Vec::new(),
            deletions: Vec::new(),
        }
    }

    /// What makes them officers; operators do alone what they must before it.
    pub fn bootstrap(&self, number: usize, custodian: &CustodianId) -> Command {
        let keys = &self.officers[number];
        let officers = keys.iter().enumerate().map(|(n, key)| Officer {
            name: format!("officer {n}"),
            public: OfficerKey(key.public()),
        });
        let statement = Statement::Bootstrap(Bootstrap {
            custodian: custodian.clone(),
            officers: officers.collect(),
            quorum: 2,
            floor: None,
            waits: None,
        });
        hand_in(&statement, &keys.iter().collect::<Vec<_>>())
    }
}

fn decision(custodian: &CustodianId, by: &SigningKey, order: OrderId, verdict: Verdict) -> Command {
    let statement = Statement::Decision(Decision {
        custodian: custodian.clone(),
        subject: Subject::Order(order),
        verdict,
        officer: OfficerKey(by.public()).id(),
        reason: "considered".into(),
    });
    hand_in(&statement, &[by])
}

fn hand_in(statement: &Statement, by: &[&SigningKey]) -> Command {
    Command::Officers(Officers {
        operator: Custodian::operator(),
        statement: Envelope::sign(SIGN_OFFICER, &DEPLOYMENT, statement, by),
    })
}

impl World {
    fn carried(&mut self, number: usize, act: Act) -> Command {
        let fresh = self.next_id();
        let keys = &self.papers.officers[number];
        let statement = Statement::Proposal(Proposal {
            custodian: self.custodians[number].place.custodian.clone(),
            number: fresh,
            act,
            reason: "drill".into(),
            by: OfficerKey(keys[0].public()).id(),
            expires_ms: self.wall(0) + 24 * HOUR_MS,
        });
        hand_in(&statement, &[&keys[0], &keys[1]])
    }

    /// A custodian's operators stop what `scope` says.
    pub fn freeze(&mut self, number: usize, scope: FreezeScope) {
        let forbidden = match scope {
            FreezeScope::All => (None, None),
            FreezeScope::Chat(chat) => (Some(chat), None),
        };
        let ticket = Ticket::Restriction(vec![forbidden]);
        self.custodian_propose(number, vec![Custodian::freezes(scope)], 0, 0, ticket);
    }

    /// Its officers let it go on.
    pub fn thaw(&mut self, number: usize, scope: FreezeScope) {
        let scope = match scope {
            FreezeScope::All => ThawScope::All,
            FreezeScope::Chat(chat) => ThawScope::Chat(chat),
        };
        let command = self.carried(number, Act::Thaw { scope });
        self.custodian_propose(number, vec![command], 0, 0, Ticket::Nobody);
    }

    /// Its officers have keys destroyed.
    pub fn shreds(&mut self, number: usize, keys: &[KeyRef]) {
        let forbidden = keys.iter().map(|k| (None, Some(k.key_id))).collect();
        let keys = keys.iter().map(|k| ShredKey {
            chat: k.chat,
            key: k.key_id,
        });
        let act = Act::Shred {
            keys: keys.collect(),
        };
        let command = self.carried(number, act);
        let ticket = Ticket::Restriction(forbidden);
        self.custodian_propose(number, vec![command], 0, 0, ticket);
    }

    /// An order comes to every custodian, and officers decide on it: most for it, some against,
    /// some of another custodian, and the submitter, who may not. Hours `pass` then.
    pub fn order(&mut self, pass: bool) {
        if self.chats == 0 {
            return;
        }
        let n = self.pick(self.people.chats.len()) as u64 + 1;
        let now = self.wall(0);
        let (from_ms, to_ms) = match self.pick(4) {
            0 => (now - 30_000, now + 1),
            1 => (now + HOUR_MS, now + 2 * HOUR_MS),
            _ => (now - 8 * HOUR_MS, now + HOUR_MS),
        };
        let scope = OrderScope {
            chats: BTreeSet::from([self.chat_id(n)]),
            accounts: BTreeSet::new(),
            from_ms,
            to_ms,
        };
        // An officer of the first custodian; elsewhere an unknown clerk.
        let clerk = &self.papers.officers[0][0];
        let order = Order {
            issuer: "district court".into(),
            legal_basis: "act 7, file 12".into(),
            document_hash: DocumentHash([3; 32]),
            scope,
            reason: "fraud".into(),
            submitted_by: OfficerKey(clerk.public()),
            expires_ms: now + 3 * HOUR_MS,
            recipient: "ab".repeat(32),
        };
        let submit = hand_in(&Statement::Order(order), &[clerk]);
        let Command::Officers(Officers { statement, .. }) = &submit else {
            unreachable!("just made");
        };
        let id = order_id(statement);
        self.papers.orders.push((id, n));
        self.recorder.did(format!("order {id} about chat {n}"));
        for number in 0..self.custodians.len() {
            let custodian = self.custodians[number].place.custodian.clone();
            let mut commands = vec![submit.clone()];
            let foreign = (number + 1) % self.custodians.len();
            for (of, officer, percent, verdict) in [
                (number, 0, 20, Verdict::Approve),
                (number, 1, 85, Verdict::Approve),
                (number, 2, 85, Verdict::Approve),
                (foreign, 1, 20, Verdict::Approve),
                (number, 2, 8, Verdict::Reject),
                (0, 0, 5, Verdict::Withdraw),
            ] {
                if self.chance(percent) {
                    let by = &self.papers.officers[of][officer];
                    commands.push(decision(&custodian, by, id, verdict));
                }
            }
            self.custodian_propose(number, commands, 0, 0, Ticket::Nobody);
        }
        if self.chance(75) {
            // Some wait for the cool-off, some wait until it is too late.
            let delay = match self.pick(5) {
                0 => COOL_OFF_MS_MIN / 2,
                1 => 4 * COOL_OFF_MS_MIN,
                _ => COOL_OFF_MS_MIN + HOUR_MS / 2,
            };
            for _ in 0..200 {
                self.step();
            }
            // A statement that comes hours late is refused, and people do not sign it anew here.
            if pass && self.people.all_done() {
                self.now += delay;
            }
            self.disclose();
        }
    }

    /// Whoever took the home asks under an order, often for what it does not name.
    pub fn disclose(&mut self) {
        let at = self.pick(self.papers.orders.len());
        let Some((order, of)) = self.papers.orders.get(at).copied() else {
            return;
        };
        let n = match self.chance(80) {
            true => of,
            false => self.pick(self.people.chats.len()) as u64 + 1,
        };
        let keys = self.dealings(&self.chat_id(n));
        self.recorder
            .did(format!("someone asks under order {order} for chat {n}"));
        for key in keys.into_iter().rev().take(4) {
            for custodian in 0..self.custodians.len() {
                let request = OrderReleaseRequest {
                    request: RequestId(self.bytes()),
                    home: home(),
                    node: 1,
                    deployment: DEPLOYMENT,
                    lease_key: self.thief.public(),
                    order,
                    keys: vec![key],
                };
                self.ask(custodian, CustodianRequest::OrderRelease(request));
            }
        }
    }

    /// Somebody has messages deleted, and whoever took the home makes what it can of that.
    pub fn rewrite(&mut self) {
        if self.chats == 0 {
            return;
        }
        let fresh = self.papers.deletions.is_empty() || self.chance(60);
        let (statement, n) = match fresh {
            true => match self.deletion() {
                Some(made) => made,
                None => return,
            },
            false => {
                let at = self.pick(self.papers.deletions.len());
                self.papers.deletions[at].clone()
            }
        };
        let n = match self.chance(90) {
            true => n,
            false => self.pick(self.people.chats.len()) as u64 + 1,
        };
        let keys = self.dealings(&self.chat_id(n));
        let at = self.pick(keys.len());
        let Some(key) = keys.get(at).copied() else {
            return;
        };
        let readers = match self.chance(15) {
            true => self.papers.readers.len(),
            false => self.rng.random_range(1..=2),
        };
        let first = self.pick(self.papers.readers.len());
        self.recorder.did(format!(
            "someone asks {readers} times under a deletion for {}",
            key.key_id
        ));
        for reader in 0..readers {
            let reader = (first + reader) % self.papers.readers.len();
            for custodian in 0..self.custodians.len() {
                let request = MandateReleaseRequest {
                    request: RequestId(self.bytes()),
                    home: home(),
                    node: 1,
                    deployment: DEPLOYMENT,
                    lease_key: self.papers.readers[reader].public(),
                    statement: statement.clone(),
                    keys: vec![key],
                };
                self.ask(custodian, CustodianRequest::MandateRelease(request));
            }
        }
    }

    /// A deletion that anybody signs, a member or not, for some of a chat's epochs.
    fn deletion(&mut self) -> Option<(Envelope, u64)> {
        let n = self.pick(self.people.chats.len()) as u64 + 1;
        let chat = self.chat_id(n);
        let shard = self.shards[self.shard_of(&chat)].kv();
        let dealt = self.dealings(&chat);
        let epoch = |k: &KeyRef| read::epoch_of(shard, k).ok().flatten().map(|(e, _)| e);
        let all: BTreeSet<_> = dealt.iter().filter_map(epoch).collect();
        let mut epochs = Vec::new();
        for epoch in all {
            if epochs.len() < 3 && (epochs.is_empty() || self.chance(70)) {
                epochs.push(epoch);
            }
        }
        if epochs.is_empty() {
            return None;
        }
        let who = match self.chance(70) {
            true => self.people.chats[n as usize - 1].creator,
            false => self.pick(PERSONS),
        };
        let device = self.pick(self.people.persons[who].devices.len());
        let at_ms = match self.pick(12) {
            0 => self.wall(0) - MANDATE_LIFE_MS,
            1 => self.wall(0) + HOUR_MS,
            _ => self.wall(0),
        };
        let deletion = Deletion {
            deployment: DEPLOYMENT,
            home: home(),
            chat,
            account: self.people.persons[who].account,
            device: self.people.persons[who].devices[device].id,
            whose: match self.chance(30) {
                true => Whose::Anyone,
                false => Whose::Own,
            },
            messages: vec![1],
            epochs,
            at_ms,
            nonce: Nonce(self.bytes()),
        };
        let made = (self.people.signs(who, device, &deletion), n);
        self.papers.deletions.push(made.clone());
        Some(made)
    }

    fn ask(&mut self, custodian: usize, request: CustodianRequest) {
        self.send(Event::Request {
            leader: 0,
            call: 0,
            custodian,
            node: 1,
            request: Box::new(request),
        });
    }
}
