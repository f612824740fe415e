//! The deployment in one process: clusters, leaders, clients, and a queue of
//! everything that is on its way between them.

use super::Mutant;
use super::clients::Op;
use super::cluster::Cluster;
use super::custodian::{Custodian, Unconfirmed};
use super::leader::Leader;
use super::papers::Papers;
use super::people::People;
use super::record::Recorder;
use super::watch::Side;
use quorate_engine::crypto::seal::RecipientKey;
use quorate_engine::crypto::sign::SigningKey;
use quorate_engine::custody;
use quorate_engine::custody::protocol::{CustodianReply, CustodianRequest};
use quorate_engine::home::command::{Reply, SetPolicy};
use quorate_engine::home::{Command, HomeMachine, Proposal};
use quorate_engine::policy::{Margins, Policy};
use quorate_engine::types::kv::Position;
use quorate_engine::types::{ChatId, CustodianId, DeploymentId, HomeId, Mono, Structure, WallMs};
use rand::{Rng, RngExt, SeedableRng};
use rand_chacha::ChaCha20Rng;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// The deployment.
pub const DEPLOYMENT: DeploymentId = DeploymentId([7; 16]);
/// Wall time at the start.
pub const T0_MS: WallMs = 1_700_000_000_000;

/// The home.
pub fn home() -> HomeId {
    HomeId::new("ae").expect("a name")
}

/// Something on its way.
#[allow(missing_docs)] // Fields are what their names say.
pub enum Event {
    /// A proposal reaches its cluster; `by` is who leads if it is to commit.
    Commit {
        cluster: usize,
        by: u64,
        ticket: u64,
        bytes: Vec<u8>,
    },
    /// Its outcome reaches whoever proposed it; `None`: not known.
    Outcome {
        cluster: usize,
        by: u64,
        ticket: u64,
        result: Option<(Position, Vec<u8>)>,
    },
    /// A home node's request.
    Request {
        leader: u64,
        call: u64,
        custodian: usize,
        node: u64,
        request: Box<CustodianRequest>,
    },
    /// A custodian's answer. `lie` is known to the simulation alone.
    Answer {
        leader: u64,
        call: u64,
        custodian: usize,
        reply: Box<CustodianReply>,
        lie: bool,
    },
    /// A custodian looks whether a restriction may be confirmed.
    Confirm { number: usize, waits: Unconfirmed },
    /// A leader looks at what waits.
    Tick { leader: u64 },
    /// A client's request.
    Submit { op: u64 },
    /// A statement reaches a custodian.
    Tell { custodian: usize, statement: u64 },
    /// A custodian's acknowledgement of a statement reaches who signed it.
    Acknowledged { custodian: usize, statement: u64 },
    /// A statement is sent again to whoever has not acknowledged it.
    PassOn { statement: u64 },
    /// A custodian asks the others what they have.
    Exchange { custodian: usize },
}

/// Everything.
pub struct World {
    /// Milliseconds since the start.
    pub now: Mono,
    /// All chance there is.
    pub rng: ChaCha20Rng,
    /// The planted bug, if any.
    pub mutant: Option<Mutant>,
    /// Judges.
    pub recorder: Recorder,
    /// Home shards.
    pub shards: Vec<Cluster>,
    /// Custodians, in order of id.
    pub custodians: Vec<Custodian>,
    /// Home leaders, deposed ones that have not noticed included.
    pub leaders: BTreeMap<u64, Leader>,
    /// Who leads each shard.
    pub leading: Vec<u64>,
    /// Clients' operations.
    pub ops: BTreeMap<u64, Op>,
    /// Chats begun.
    pub chats: u64,
    /// Everyone.
    pub people: People,
    /// What opens without a reader's grant.
    pub papers: Papers,
    /// Of whoever took the home: releases are sealed to it.
    pub thief: RecipientKey,
    /// The policy.
    pub policy: Arc<Policy>,
    /// Its margins.
    pub margins: Margins,
    /// Messages are dropped, repeated and delayed.
    pub lossy: bool,
    queue: BTreeMap<(Mono, u64), Event>,
    ids: u64,
}

fn structure(rng: &mut ChaCha20Rng) -> Structure {
    let leaf = |n: &str| Structure::Leaf(CustodianId::new(n).expect("a name"));
    let gate = |threshold, children| Structure::Gate {
        threshold,
        children,
    };
    match rng.random_range(0..4) {
        0 => gate(2, vec![leaf("br"), leaf("ch"), leaf("is")]),
        1 => gate(2, vec![leaf("br"), leaf("ch"), leaf("is"), leaf("sg")]),
        2 => gate(
            2,
            vec![
                leaf("br"),
                leaf("ch"),
                gate(1, vec![leaf("de"), leaf("nl")]),
            ],
        ),
        _ => gate(
            3,
            vec![
                leaf("br"),
                leaf("ch"),
                gate(1, vec![leaf("de"), leaf("nl")]),
                leaf("is"),
                leaf("sg"),
            ],
        ),
    }
}

impl World {
    /// A deployment drawn from the seed, set up and quiet.
    pub fn new(seed: u64, mutant: Option<Mutant>) -> Self {
        let mut rng = ChaCha20Rng::seed_from_u64(seed);
        let structure = structure(&mut rng);
        let names: BTreeSet<CustodianId> = structure.leaves().into_iter().cloned().collect();
        let identities: BTreeMap<_, _> = names
            .iter()
            .map(|n| (n.clone(), SigningKey::generate(&mut rng)))
            .collect();
        let hashes = identities
            .iter()
            .map(|(n, k)| (n.clone(), *blake3::hash(&k.public()).as_bytes()));
        let policy =
            Policy::new(structure, hashes.collect()).expect("the structures above are valid");
        let shards = rng.random_range(1..=2);
        let margins = Margins {
            write_margin: rng.random_range(0..=1),
            require_margin: rng.random_range(0..5) == 0,
        };
        let people = People::new(&mut rng);
        let papers = Papers::new(identities.len(), &mut rng);
        let mut recorder = Recorder::default();
        let mut custodians = Vec::new();
        for (n, (id, key)) in identities.iter().enumerate() {
            let replicas = rng.random_range(1..=3);
            let mut c = Custodian::new(id.clone(), shards + n, replicas, key, &mut rng);
            let mut setup = c.setup(&policy.canonical());
            setup.extend(people.founding());
            setup.push(papers.bootstrap(n, id));
            let bytes = custody::Proposal::new(T0_MS, setup, &mut rng).encode();
            c.cluster.commit(bytes, &mut recorder, None);
            custodians.push(c);
        }
        let mut world = Self {
            now: 0,
            mutant,
            recorder,
            shards: (0..shards)
                .map(|n| Cluster::new(n, Side::Home, Box::new(HomeMachine), 3))
                .collect(),
            custodians,
            leaders: BTreeMap::new(),
            leading: vec![0; shards],
            ops: BTreeMap::new(),
            chats: 0,
            people,
            papers,
            thief: RecipientKey::generate(&mut rng),
            policy: Arc::new(policy),
            margins,
            lossy: true,
            queue: BTreeMap::new(),
            ids: 0,
            rng,
        };
        for shard in 0..shards {
            let command = Command::SetPolicy(SetPolicy {
                canonical: world.policy.canonical(),
                margins,
            });
            let bytes = Proposal {
                now_ms: T0_MS,
                command,
            }
            .encode();
            world.shards[shard].commit(bytes, &mut world.recorder, None);
            world.elect(shard, 0);
        }
        for custodian in 0..world.custodians.len() {
            world.later(1_000, Event::Exchange { custodian });
        }
        world
    }

    /// True once in so many percent.
    pub fn chance(&mut self, percent: u32) -> bool {
        self.rng.random_range(0..100) < percent
    }
    /// A number below `n`.
    pub fn pick(&mut self, n: usize) -> usize {
        self.rng.random_range(0..n.max(1))
    }
    /// A wall clock that is off by so much.
    pub fn wall(&self, skew_ms: i64) -> WallMs {
        (T0_MS + self.now).saturating_add_signed(skew_ms)
    }
    /// A fresh number.
    pub fn next_id(&mut self) -> u64 {
        self.ids += 1;
        self.ids
    }
    /// A custodian's number.
    pub fn number_of(&self, id: &CustodianId) -> usize {
        let found = self
            .custodians
            .iter()
            .position(|c| c.place.custodian == *id);
        found.expect("every custodian of the policy is there")
    }
    /// The shard of a chat.
    pub fn shard_of(&self, chat: &ChatId) -> usize {
        usize::from(chat.0[0]) % self.shards.len()
    }

    /// Puts something on its way; the network may lose, repeat or delay it.
    pub fn send(&mut self, event: Event) {
        let copy = match &event {
            Event::Request {
                leader,
                call,
                custodian,
                node,
                request,
            } if self.lossy && self.chance(5) => Some(Event::Request {
                leader: *leader,
                call: *call,
                custodian: *custodian,
                node: *node,
                request: request.clone(),
            }),
            Event::Answer {
                leader,
                call,
                custodian,
                reply,
                lie,
            } if self.lossy && self.chance(5) => Some(Event::Answer {
                leader: *leader,
                call: *call,
                custodian: *custodian,
                reply: reply.clone(),
                lie: *lie,
            }),
            _ => None,
        };
        let lost = self.lossy && self.chance(4);
        for event in [(!lost).then_some(event), copy].into_iter().flatten() {
            let delay = if self.lossy && self.chance(6) {
                self.rng.random_range(100..6_000)
            } else {
                self.rng.random_range(1..20)
            };
            self.later(delay, event);
        }
    }
    /// Lets something happen later on the same machine.
    pub fn later(&mut self, delay: u64, event: Event) {
        let id = self.next_id();
        self.queue.insert((self.now + delay, id), event);
    }

    /// Hands a proposal to a cluster.
    pub fn propose(&mut self, cluster: usize, by: u64, ticket: u64, bytes: Vec<u8>) {
        let delay = self.rng.random_range(1..30);
        self.later(
            delay,
            Event::Commit {
                cluster,
                by,
                ticket,
                bytes,
            },
        );
    }

    /// A new leader, on a replica that has applied everything committed.
    pub fn elect(&mut self, shard: usize, node: usize) {
        self.settle_in_flight(shard);
        let cluster = &mut self.shards[shard];
        cluster.term += 1;
        cluster.leader = node;
        cluster.catch_up(node, &mut self.recorder, self.mutant);
        let term = cluster.term;
        let id = self.next_id();
        let skew = self.skew();
        let key = RecipientKey::generate(&mut self.rng);
        self.leaders
            .insert(id, Leader::new(id, shard, node, term, skew, key));
        self.leading[shard] = id;
        self.later(1, Event::Tick { leader: id });
    }
    /// How long a proposer waits to be told: now and then it stands still.
    fn outcome_delay(&mut self, usual: u64) -> u64 {
        if self.lossy && self.chance(6) {
            self.rng.random_range(100..12_000)
        } else {
            usual
        }
    }
    /// What a former leader had proposed reached a majority or is gone for ever.
    fn settle_in_flight(&mut self, cluster: usize) {
        let flying = |e: &Event| matches!(e, Event::Commit { cluster: c, .. } if *c == cluster);
        let keys: Vec<_> = self
            .queue
            .iter()
            .filter(|(_, e)| flying(e))
            .map(|(k, _)| *k)
            .collect();
        for key in keys {
            let Some(Event::Commit {
                by, ticket, bytes, ..
            }) = self.queue.remove(&key)
            else {
                continue;
            };
            let mut result = None;
            if self.chance(50) && self.leads(cluster, by) {
                let done = self.commit(cluster, bytes);
                // A custodian's deposed leader may hear of it, as a follower.
                result = (cluster >= self.shards.len()).then_some(done);
            }
            let delay = self.outcome_delay(20);
            self.later(
                delay,
                Event::Outcome {
                    cluster,
                    by,
                    ticket,
                    result,
                },
            );
        }
    }
    /// A custodian's leader dies, or is cut off and does not know it.
    pub fn elect_custodian(&mut self, number: usize) {
        let cluster = self.shards.len() + number;
        self.settle_in_flight(cluster);
        let replicas = self.custodians[number].cluster.replicas.len();
        let node = self.pick(replicas);
        let skew = self.custodian_skew();
        let dies = self.chance(50);
        let c = &mut self.custodians[number];
        c.depose(node, self.now, dies);
        c.skew_ms = skew;
        c.cluster.catch_up(node, &mut self.recorder, self.mutant);
    }
    /// A custodian's leader whose clock is seconds off proposes nothing, unless its peers' are as far off.
    pub fn custodian_skew(&mut self) -> i64 {
        let most = if self.chance(75) { 5_000 } else { 600_000 };
        self.rng.random_range(-most..most)
    }
    fn skew(&mut self) -> i64 {
        self.rng.random_range(-3_600_000..3_600_000)
    }
    fn leads(&self, cluster: usize, by: u64) -> bool {
        match self.leading.get(cluster) {
            Some(leader) => *leader == by,
            None => self.custodians[cluster - self.shards.len()].incarnation == by,
        }
    }
    fn commit(&mut self, cluster: usize, bytes: Vec<u8>) -> (Position, Vec<u8>) {
        let (recorder, mutant) = (&mut self.recorder, self.mutant);
        match cluster.checked_sub(self.shards.len()) {
            None => self.shards[cluster].commit(bytes, recorder, mutant),
            Some(n) => self.custodians[n].cluster.commit(bytes, recorder, mutant),
        }
    }

    /// The next event happens. False: nothing is on its way.
    pub fn step(&mut self) -> bool {
        let Some(((at, _), event)) = self.queue.pop_first() else {
            return false;
        };
        self.now = self.now.max(at);
        match event {
            Event::Commit {
                cluster,
                by,
                ticket,
                bytes,
            } => {
                let mut result = None;
                // A deposed leader's proposal vanishes; a present one's may, too.
                let vanishes = self.lossy && self.chance(2);
                if self.leads(cluster, by) && !vanishes {
                    let done = self.commit(cluster, bytes);
                    let unknown = self.lossy && self.chance(3);
                    result = (!unknown).then_some(done);
                }
                let delay = self.rng.random_range(1..15);
                let delay = self.outcome_delay(delay);
                self.later(
                    delay,
                    Event::Outcome {
                        cluster,
                        by,
                        ticket,
                        result,
                    },
                );
            }
            Event::Outcome {
                cluster,
                by,
                ticket,
                result,
            } => match cluster.checked_sub(self.shards.len()) {
                None => {
                    let reply = result.and_then(|(_, r)| Reply::decode(&r).ok());
                    self.with_leader(by, |w, l| w.shard_outcome(l, ticket, reply));
                }
                Some(n) => self.custodian_outcome(n, ticket, result),
            },
            Event::Confirm { number, waits } => self.confirm(number, waits),
            Event::Tell {
                custodian,
                statement,
            } => self.told(custodian, statement),
            Event::Acknowledged {
                custodian,
                statement,
            } => self.acknowledged(custodian, statement),
            Event::PassOn { statement } => self.pass_on(statement),
            Event::Exchange { custodian } => self.exchange(custodian),
            Event::Request {
                leader,
                call,
                custodian,
                node,
                request,
            } => {
                self.custodian_request(custodian, leader, call, node, &request);
            }
            Event::Answer {
                leader,
                call,
                reply,
                lie,
                ..
            } => {
                self.with_leader(leader, |w, l| w.leader_answer(l, call, *reply, lie));
            }
            Event::Tick { leader } => {
                self.with_leader(leader, |w, l| w.tick(l));
                if self.leaders.contains_key(&leader) {
                    let delay = self.rng.random_range(50..400);
                    self.later(delay, Event::Tick { leader });
                }
            }
            Event::Submit { op } => {
                let shard = self.shard_of(&self.ops[&op].chat);
                let leader = self.leading[shard];
                self.with_leader(leader, |w, l| {
                    if l.ops.insert(op, (0, false)).is_none_or(|(_, busy)| !busy) {
                        w.pump(l, op);
                    }
                });
            }
        }
        true
    }

    fn with_leader(&mut self, id: u64, then: impl FnOnce(&mut Self, &mut Leader)) {
        if let Some(mut leader) = self.leaders.remove(&id) {
            then(self, &mut leader);
            self.leaders.insert(id, leader);
        }
    }

    /// Random bytes for a test's own use.
    pub fn bytes<const N: usize>(&mut self) -> [u8; N] {
        let mut out = [0; N];
        self.rng.fill_bytes(&mut out);
        out
    }
}
