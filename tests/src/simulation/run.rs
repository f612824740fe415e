//! One seed: random actions, then everything is healed and must come to rest.

use super::Mutant;
use super::clients::Want;
use super::custodian::{Custodian, Lie};
use super::facts::Fact;
use super::world::World;
use quorate_engine::audit::{Hash, Log, empty_root, entry_bytes, leaf_hash, node_hash};
use quorate_engine::custody::protocol::{FreezeScope, KeyRef};
use quorate_engine::custody::{Held, freezes, share};
use quorate_engine::home::read;
use quorate_engine::types::CustodianId;
use rand::RngExt;
use std::collections::{BTreeMap, BTreeSet};

/// How far custodians' clocks are off at most, and the life of a grant.
const CLOCKS_CATCH_UP_MS: u64 = 2 * 600_000;
/// Events within which a healed deployment must come to rest.
const REST_EVENTS_MAX: usize = 60_000;

/// How a seed ended.
pub struct Outcome {
    /// Hash of the event log.
    pub hash: String,
    /// The invariant that was broken, and how.
    pub broken: Option<(&'static str, String)>,
    /// The last events.
    pub tail: Vec<String>,
    /// How often each kind of fact was seen.
    pub counts: BTreeMap<String, u64>,
}

/// Runs one seed.
pub fn run(seed: u64, mutant: Option<Mutant>) -> Outcome {
    let mut world = World::new(seed, mutant);
    let liar = world.pick(world.custodians.len() * 2);
    if let Some(c) = world.custodians.get_mut(liar) {
        c.lie = Some(if seed.is_multiple_of(2) {
            Lie::FalseShares
        } else {
            Lie::FalseAcks
        });
        let custodian = c.place.custodian.clone();
        world.recorder.fact(Fact::Liar { custodian });
    }
    let rollbacks = seed.is_multiple_of(4);
    let actions = world.rng.random_range(60..140);
    for _ in 0..actions {
        act(&mut world, rollbacks);
        for _ in 0..world.rng.random_range(1..40) {
            world.step();
            if world.recorder.broken.is_some() {
                return outcome(world);
            }
        }
    }
    heal(&mut world);
    rest(&mut world);
    outcome(world)
}

fn outcome(world: World) -> Outcome {
    Outcome {
        hash: world.recorder.hash(),
        tail: world.recorder.tail(),
        broken: world.recorder.broken,
        counts: world.recorder.counts,
    }
}

/// One random action of a client, an operator or bad luck.
fn act(w: &mut World, rollbacks: bool) {
    let (shard, number) = (w.pick(w.shards.len()), w.pick(w.custodians.len()));
    match w.rng.random_range(0..122) {
        0..8 if w.chats < 4 => {
            w.chats = w.found();
            w.begin(w.chats, Want::Create);
        }
        0..30 => client(w, Want::Append),
        30..37 => {
            let (id, revision) = (w.rng.random_range(0..6), w.rng.random_range(0..2));
            client(w, Want::Edit(id, revision));
        }
        37..48 => client(w, Want::Read),
        48..60 => {
            let open: Vec<u64> = w
                .ops
                .iter()
                .filter(|(_, o)| !o.done)
                .map(|(id, _)| *id)
                .collect();
            if let Some(op) = open.get(w.pick(open.len())) {
                w.submit(*op);
            }
        }
        60..67 => {
            // The leader dies, or is cut off and does not know it.
            let (old, node) = (w.leading[shard], w.pick(3));
            let dies = w.chance(60);
            w.elect(shard, node);
            if dies {
                w.leaders.remove(&old);
            }
            w.recorder
                .did(format!("shard {shard}: leader {old} dies: {dies}"));
        }
        67..72 => {
            w.elect_custodian(number);
            w.recorder.did(format!("custodian {number}: a new leader"));
        }
        72..77 => {
            let stopped = !w.custodians[number].stopped;
            w.custodians[number].stopped = stopped;
            w.recorder
                .did(format!("custodian {number}: stopped {stopped}"));
        }
        77..83 => {
            let scope = scope(w);
            let freeze = w.chance(50);
            if freeze {
                hurry(w);
            }
            match freeze {
                true => w.freeze(number, scope),
                false => w.thaw(number, scope),
            }
        }
        83..85 => shred(w, number),
        85..93 => lag(w),
        93..95 => {
            let leader = w.leading[shard];
            let skew = w.rng.random_range(-3_600_000..3_600_000);
            if let Some(l) = w.leaders.get_mut(&leader) {
                l.skew_ms = skew;
            }
            w.custodians[number].skew_ms = w.custodian_skew();
            w.recorder.did(format!("clocks jump by {skew} ms"));
        }
        95..97 => {
            let jump = w.rng.random_range(1_000..120_000);
            w.now += jump;
            w.recorder.did(format!("{jump} ms pass"));
        }
        97..100 if rollbacks => roll_back(w, number),
        100..108 => w.change_people(),
        108..116 => w.intrude(),
        // Nor does a custodian that was set back learn hours later what most of them forgot.
        116..118 => w.order(!rollbacks),
        118..119 => w.disclose(),
        119.. => w.rewrite(),
        _ => lag(w),
    }
}

fn client(w: &mut World, want: Want) {
    if w.chats > 0 {
        let chat = w.rng.random_range(1..=w.chats);
        w.begin(chat, want);
    }
}

fn scope(w: &mut World) -> FreezeScope {
    if w.chats == 0 || w.chance(30) {
        return FreezeScope::All;
    }
    let n = w.rng.random_range(1..=w.chats);
    FreezeScope::Chat(w.chat_id(n))
}

/// Somebody may be releasing just then.
fn hurry(w: &mut World) {
    if w.chats > 0 && w.chance(50) {
        let n = w.pick(w.people.chats.len());
        let creator = w.people.chats[n].creator;
        w.try_again(n, creator, 0);
        for _ in 0..w.rng.random_range(0..12) {
            w.step();
        }
    }
}

fn shred(w: &mut World, number: usize) {
    if w.chats == 0 {
        return;
    }
    let n = w.rng.random_range(1..=w.chats);
    let chat = w.chat_id(n);
    let keys = w.dealings(&chat);
    hurry(w);
    let everywhere = w.chance(30);
    for n in 0..w.custodians.len() {
        if !keys.is_empty() && (everywhere || n == number) {
            w.shreds(n, &keys);
        }
    }
    w.recorder
        .did(format!("chat {chat} is shredded, everywhere: {everywhere}"));
}

/// A replica that lags applies a little more.
fn lag(w: &mut World) {
    let (recorder, mutant) = (&mut w.recorder, w.mutant);
    for cluster in w
        .shards
        .iter_mut()
        .chain(w.custodians.iter_mut().map(|c| &mut c.cluster))
    {
        let n = w.rng.random_range(0..cluster.replicas.len());
        for _ in 0..w.rng.random_range(0..8) {
            if cluster.replicas[n].applied < cluster.log.len() {
                cluster.apply_one(n, recorder, mutant);
            }
        }
    }
}

fn roll_back(w: &mut World, number: usize) {
    w.elect_custodian(number);
    let c = &mut w.custodians[number];
    // Every node is started anew from its old disks.
    c.former.clear();
    let custodian: CustodianId = c.place.custodian.clone();
    w.recorder.fact(Fact::RolledBack { custodian });
    let back = w.rng.random_range(0..10);
    let length = c.cluster.log.len().saturating_sub(back).max(1);
    c.cluster.roll_back(length, &mut w.recorder);
    let log = Log::load(c.cluster.kv()).expect("the log loads");
    let custodian = c.place.custodian.clone();
    let entries = log.size();
    w.recorder.fact(Fact::Cut { custodian, entries });
}

/// A leader whose clock is right: one that is slow takes a chat's genesis for one of the future.
fn elect_well(w: &mut World, shard: usize, node: usize) {
    w.elect(shard, node);
    let leader = w.leading[shard];
    if let Some(l) = w.leaders.get_mut(&leader) {
        l.skew_ms = 0;
    }
}

/// Faults end. Nothing that was lost is given back.
fn heal(w: &mut World) {
    w.lossy = false;
    // Log time may be ahead by as much as a clock was: grants count from there on.
    w.now += CLOCKS_CATCH_UP_MS;
    for n in 0..w.custodians.len() {
        w.custodians[n].stopped = false;
        w.custodians[n].lie = None;
        w.elect_custodian(n);
        w.custodians[n].skew_ms = 0;
        let scopes: Vec<_> = (1..=w.chats)
            .map(|c| FreezeScope::Chat(w.chat_id(c)))
            .collect();
        for scope in scopes.into_iter().chain([FreezeScope::All]) {
            w.thaw(n, scope);
        }
    }
    w.pass_everything_on();
    w.leaders.clear();
    for shard in 0..w.shards.len() {
        let node = w.pick(3);
        elect_well(w, shard, node);
    }
    w.recorder.did("healed");
}

/// Lets everything that is under way end, and asks for what must succeed then.
fn rest(w: &mut World) {
    let open: Vec<u64> = w
        .ops
        .iter()
        .filter(|(_, o)| !o.done && !matches!(o.want, Want::Edit(..)))
        .map(|(id, _)| *id)
        .collect();
    settle(w, &open);
    let chats: Vec<u64> = (1..=w.chats).collect();
    let writes: Vec<u64> = chats.iter().map(|c| w.begin(*c, Want::Append)).collect();
    settle(w, &writes);
    for op in &writes {
        if !w.ops[op].ok {
            let what = format!("a write to {} does not succeed", w.ops[op].chat);
            w.recorder.fact(Fact::Unfinished { what });
        }
    }
    // Cold: nobody has a lease.
    for shard in 0..w.shards.len() {
        let old = w.leading[shard];
        elect_well(w, shard, 0);
        w.leaders.remove(&old);
    }
    for chat in chats {
        let id = w.chat_id(chat);
        let readable = w.dealings(&id).iter().all(|k| obtainable(w, k));
        let op = w.begin(chat, Want::Read);
        settle(w, &[op]);
        if readable && !w.ops[&op].ok {
            let frozen: Vec<usize> = (w.custodians.iter())
                .map(|c| freezes(c.cluster.kv()).map_or(0, |all| all.len()))
                .collect();
            w.recorder.fact(Fact::Unfinished {
                what: format!("chat {id} is not readable; freezes at custodians: {frozen:?}"),
            });
        }
    }
    finally(w);
}

/// Whether the custodians that hold shares of a key satisfy the policy.
fn obtainable(w: &World, key: &KeyRef) -> bool {
    let holds = |c: &&Custodian| matches!(share(c.cluster.kv(), &key.key_id), Ok(Held::Share(_)));
    let holders: BTreeSet<CustodianId> = w
        .custodians
        .iter()
        .filter(holds)
        .map(|c| c.place.custodian.clone())
        .collect();
    w.policy.satisfied_by(&holders)
}

/// Repeats operations until all are answered and no intent is left.
fn settle(w: &mut World, ops: &[u64]) {
    for event in 0..REST_EVENTS_MAX {
        if w.recorder.broken.is_some() {
            return;
        }
        if event % 500 == 0 {
            let waiting: Vec<u64> = ops.iter().copied().filter(|o| !w.ops[o].done).collect();
            let pending = w.shards.iter().any(|s| {
                !read::pending_intents(s.kv(), None, 1)
                    .expect("memory does not fail")
                    .is_empty()
            });
            if waiting.is_empty() && !pending {
                return;
            }
            // A read of what nobody holds is refused for ever: it is asked a few times only.
            let hopeless = |o: &u64| matches!(w.ops[o].want, Want::Read) && event > 6_000;
            if waiting.iter().all(hopeless) && !pending {
                return;
            }
            for op in waiting {
                w.submit(op);
            }
        }
        w.step();
    }
    let stuck: Vec<String> = ops
        .iter()
        .filter(|o| !w.ops[o].done)
        .map(|o| format!("{:?}", w.ops[o].want))
        .collect();
    w.recorder.fact(Fact::Unfinished {
        what: format!("still waiting: {stuck:?}, or an intent is pending"),
    });
}

/// Replicas catch up, and every log's root is computed anew.
fn finally(w: &mut World) {
    let (recorder, mutant) = (&mut w.recorder, w.mutant);
    for cluster in w
        .shards
        .iter_mut()
        .chain(w.custodians.iter_mut().map(|c| &mut c.cluster))
    {
        for n in 0..cluster.replicas.len() {
            cluster.catch_up(n, recorder, mutant);
        }
    }
    for c in &w.custodians {
        let kv = c.cluster.kv();
        let log = Log::load(kv).expect("the log loads");
        let entry = |index| {
            entry_bytes(kv, index)
                .expect("memory does not fail")
                .unwrap_or_default()
        };
        let leaves: Vec<Hash> = (0..log.size()).map(|i| leaf_hash(&entry(i))).collect();
        let custodian = c.place.custodian.clone();
        recorder.fact(Fact::Root {
            custodian,
            stated: log.root(),
            naive: naive_root(&leaves),
        });
    }
}

/// The root by its definition (RFC 6962, section 2.1).
fn naive_root(leaves: &[Hash]) -> Hash {
    match leaves {
        [] => empty_root(),
        [leaf] => *leaf,
        more => {
            let half = more.len().next_power_of_two() / 2;
            let (left, right) = more.split_at(half);
            node_hash(&naive_root(left), &naive_root(right))
        }
    }
}
