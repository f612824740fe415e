//! Random commands against a model a person can check by eye, and the same
//! commands on two nodes.

use super::*;
use crate::audit::Log;
use crate::types::kv::{Machine, MemKv, Position};
use proptest::prelude::*;
use rand::SeedableRng;
use std::collections::{BTreeMap, BTreeSet};

#[derive(Clone, Debug)]
enum Op {
    /// Under the version in use, or so many before it.
    Store(u32, Vec<(u8, u8, u8, Option<u64>)>),
    Release(u8, u8, Vec<(u8, u8)>),
    Abandon(Vec<(u8, u8)>),
    Shred(Vec<(u8, u8)>),
    Freeze(Option<u8>),
    Thaw(Option<u8>),
    Expire,
    Clock(i64),
    /// A node attests the wrapping version in use, or the next.
    Attest(bool, u64),
    /// The next wrapping version comes into use.
    Use,
    /// To the version in use, from so many before it.
    Rewrap(u32, Vec<u8>),
    /// The wrapping version so many before the one in use.
    Drop(u32),
}

fn op() -> impl Strategy<Value = Op> {
    let pair = || (0u8..3, 0u8..8);
    let pairs = || prop::collection::vec(pair(), 1..4);
    let expiry = prop::option::weighted(0.3, 1u64..4);
    let item = (0u8..3, 0u8..8, 0u8..2, expiry).prop_map(|(c, k, s, e)| (c, k, s, e));
    let before = || prop_oneof![3 => Just(0u32), 1 => 1u32..3];
    let scope = || prop::option::weighted(0.7, 0u8..3);
    prop_oneof![
        5 => (before(), prop::collection::vec(item, 1..4)).prop_map(|(v, i)| Op::Store(v, i)),
        5 => (0u8..4, 0u8..2, pairs()).prop_map(|(r, l, k)| Op::Release(r, l, k)),
        2 => pairs().prop_map(Op::Abandon),
        1 => pairs().prop_map(Op::Shred),
        1 => scope().prop_map(Op::Freeze),
        1 => scope().prop_map(Op::Thaw),
        1 => Just(Op::Expire),
        3 => (-1i64..=2).prop_map(|n| Op::Clock(n * 45 * 60 * 1000)),
        4 => (any::<bool>(), 1u64..=3).prop_map(|(next, n)| Op::Attest(next, n)),
        2 => Just(Op::Use),
        4 => (1u32..3, prop::collection::vec(0u8..8, 1..8)).prop_map(|(v, k)| Op::Rewrap(v, k)),
        2 => (0u32..3).prop_map(Op::Drop),
    ]
}

#[derive(Clone, PartialEq)]
struct Share {
    chat: u8,
    secret: u8,
    expires: Option<u64>,
    stored: u64,
    released: bool,
    version: u32,
    wrapped: u8,
}

/// A request: its lease key, when it came first, its keys.
type Asked = (u8, u64, Vec<(u8, u8)>);

/// What a custodian holds, as simply as it can be said.
struct Model {
    now: u64,
    shares: BTreeMap<u8, Share>,
    stones: BTreeSet<u8>,
    frozen: BTreeSet<Option<u8>>,
    requests: BTreeMap<u8, Asked>,
    /// The wrapping version in use.
    version: u32,
    /// Who attested which version.
    attested: BTreeMap<u32, BTreeSet<u64>>,
    dropped: BTreeSet<u32>,
}

/// As [`Bench::ready`] leaves it.
impl Default for Model {
    fn default() -> Self {
        Self {
            now: T0,
            shares: BTreeMap::new(),
            stones: BTreeSet::new(),
            frozen: BTreeSet::new(),
            requests: BTreeMap::new(),
            version: 1,
            attested: BTreeMap::from([(1, BTreeSet::from([1, 2]))]),
            dropped: BTreeSet::new(),
        }
    }
}

/// What nodes attest for a version.
fn drawn(version: u32) -> [u8; 32] {
    [10 - version.min(9) as u8; 32]
}

/// What a share looks like after it was wrapped anew.
fn anew(version: u32, k: u8) -> u8 {
    0x80 | ((version as u8) << 3) | k
}

/// So many versions before `current`; the first when there are not so many.
fn back(current: u32, by: u32) -> u32 {
    current.saturating_sub(by).max(1)
}

fn at(slot: Option<u64>) -> Option<u64> {
    slot.map(|n| T0 + n * HOUR)
}

impl Model {
    fn store(
        &mut self,
        version: u32,
        &(chat, k, secret, slot): &(u8, u8, u8, Option<u64>),
    ) -> StoreOutcome {
        let expires = at(slot);
        if self.stones.contains(&k) {
            return StoreOutcome::Tombstoned;
        }
        if let Some(s) = self.shares.get(&k) {
            return if (s.chat, s.secret, s.expires) == (chat, secret, expires) {
                StoreOutcome::AlreadyStored
            } else {
                StoreOutcome::Conflict
            };
        }
        if expires.is_some_and(|e| e <= self.now) {
            return StoreOutcome::Tombstoned;
        }
        let share = Share {
            chat,
            secret,
            expires,
            stored: self.now,
            released: false,
            version,
            wrapped: secret,
        };
        self.shares.insert(k, share);
        StoreOutcome::Stored
    }

    fn release(&mut self, chat: u8, k: u8) -> Result<u8, Refusal> {
        if self.stones.contains(&k) {
            return Err(Refusal::Tombstoned);
        }
        let frozen = self.frozen.contains(&None) || self.frozen.contains(&Some(chat));
        let now = self.now;
        let s = self.shares.get_mut(&k).ok_or(Refusal::NotHeld)?;
        if s.chat != chat {
            return Err(Refusal::WrongChat);
        }
        if s.expires.is_some_and(|e| e <= now) {
            return Err(Refusal::Tombstoned);
        }
        if frozen {
            return Err(Refusal::Frozen);
        }
        s.released = true;
        Ok(s.secret)
    }

    fn kill(&mut self, k: u8) {
        self.shares.remove(&k);
        self.stones.insert(k);
    }

    fn abandon(&mut self, chat: u8, k: u8) -> AbandonOutcome {
        if let Some(s) = self.shares.get(&k)
            && (s.chat != chat || s.released || self.now - s.stored > HOUR)
        {
            return AbandonOutcome::Refused;
        }
        self.kill(k);
        AbandonOutcome::Tombstoned
    }

    fn shred(&mut self, chat: u8, k: u8) -> ShredOutcome {
        if self.stones.contains(&k) {
            return ShredOutcome::AlreadyTombstoned;
        }
        let outcome = match self.shares.get(&k) {
            Some(s) if s.chat != chat => return ShredOutcome::WrongChat,
            Some(_) => ShredOutcome::Destroyed,
            None => ShredOutcome::NotHeld,
        };
        self.kill(k);
        outcome
    }

    fn rewrap(&mut self, from: u32, keys: &[u8]) -> u32 {
        let to = self.version;
        let mut moved = 0;
        for k in keys {
            if let Some(s) = self.shares.get_mut(k)
                && s.version == from
                && from != to
            {
                (s.version, s.wrapped) = (to, anew(to, *k));
                moved += 1;
            }
        }
        moved
    }

    fn under(&self, version: u32) -> u64 {
        let of = self.shares.values().filter(|s| s.version == version);
        of.count() as u64
    }

    fn may_drop(&self, version: u32) -> bool {
        let all = BTreeSet::from([1, 2, 3]);
        version != self.version && self.under(version) == 0 && self.attested[&self.version] == all
    }

    fn expire(&mut self) -> u32 {
        let now = self.now;
        let due = |s: &Share| s.expires.is_some_and(|e| e <= now);
        let gone: Vec<u8> = self
            .shares
            .iter()
            .filter(|(_, s)| due(s))
            .map(|(k, _)| *k)
            .collect();
        for k in &gone {
            self.kill(*k);
        }
        gone.len() as u32
    }
}

fn refs(keys: &[(u8, u8)]) -> Vec<KeyRef> {
    keys.iter().map(|(c, k)| key_ref(*c, *k)).collect()
}

fn scope(chat_no: Option<u8>) -> FreezeScope {
    chat_no.map_or(FreezeScope::All, |c| FreezeScope::Chat(chat(c)))
}

/// With `current` the wrapping version in use.
fn command(op: &Op, current: u32) -> Option<Command> {
    let wrapping = KeyKind::Wrapping;
    Some(match op {
        Op::Store(before, items) => {
            let item = |&(c, k, s, e): &(u8, u8, u8, Option<u64>)| StoreItem {
                expires_ms: at(e),
                ..item(c, k, s)
            };
            store(back(current, *before), items.iter().map(item).collect())
        }
        Op::Release(r, lease, keys) => release_as("ae", *r, *lease, refs(keys)),
        Op::Abandon(keys) => abandon(refs(keys)),
        Op::Shred(keys) => shred(refs(keys)),
        Op::Freeze(c) => freeze(scope(*c)),
        Op::Thaw(c) => thaw(scope(*c)),
        Op::Expire => expire(u64::MAX),
        Op::Attest(next, node) => {
            let v = current + u32::from(*next);
            attest(wrapping, v, drawn(v), *node)
        }
        Op::Use => use_version(wrapping, current + 1, drawn(current + 1), None),
        Op::Rewrap(before, keys) => {
            let item = |k: &u8| RewrapItem {
                key_id: key(*k),
                from: back(current, *before),
                wrapped: Wrapped(vec![anew(current, *k); 72]),
            };
            Command::Rewrap(Rewrap {
                to: current,
                items: keys.iter().map(item).collect(),
            })
        }
        Op::Drop(before) => drop_version(wrapping, back(current, *before)),
        Op::Clock(_) => return None,
    })
}

/// Applies to both, compares the answer and then the whole state.
fn step(b: &mut Bench, m: &mut Model, op: &Op) -> Result<(), TestCaseError> {
    let Some(command) = command(op, m.version) else {
        if let Op::Clock(by) = op {
            b.clock = b.clock.saturating_add_signed(*by);
        }
        return Ok(());
    };
    m.now = m.now.max(b.clock);
    let effect = b.effect(command);
    match op {
        Op::Store(before, items) => {
            let version = back(m.version, *before);
            let want = if m.dropped.contains(&version) {
                let current = Some(m.version);
                Effect::WrapAgain { current }
            } else {
                Effect::Stored(items.iter().map(|i| m.store(version, i)).collect())
            };
            prop_assert_eq!(effect, want);
        }
        Op::Release(r, lease, keys) => {
            // A quarter of an hour later it is another grant.
            let this = (*lease, m.now / 900_000, keys.clone());
            let same = *m.requests.entry(*r).or_insert(this.clone()) == this;
            let want: Vec<_> = keys
                .iter()
                .map(|(c, k)| {
                    if same {
                        m.release(*c, *k)
                    } else {
                        Err(Refusal::RequestMismatch)
                    }
                })
                .collect();
            prop_assert_eq!(results(&effect), want);
        }
        Op::Abandon(keys) => {
            let want = keys.iter().map(|(c, k)| m.abandon(*c, *k)).collect();
            prop_assert_eq!(effect, Effect::Abandoned(want));
        }
        Op::Shred(keys) => {
            let want = keys.iter().map(|(c, k)| m.shred(*c, *k)).collect();
            prop_assert_eq!(effect, Effect::Shredded(want));
        }
        Op::Freeze(c) => {
            let new = m.frozen.insert(*c);
            prop_assert_eq!(effect == Effect::Done, new);
        }
        Op::Thaw(c) => {
            let was = m.frozen.remove(c);
            prop_assert_eq!(effect == Effect::Done, was);
        }
        Op::Expire => {
            let destroyed = m.expire();
            let more = false;
            prop_assert_eq!(effect, Effect::Expired { destroyed, more });
        }
        Op::Attest(next, node) => {
            let of = m.attested.entry(m.version + u32::from(*next)).or_default();
            prop_assert_eq!(effect == Effect::Done, of.insert(*node));
        }
        Op::Use => {
            let next = m.version + 1;
            let majority = m.attested.get(&next).is_some_and(|a| a.len() >= 2);
            prop_assert_eq!(effect == Effect::Done, majority);
            m.version += u32::from(majority);
        }
        Op::Rewrap(before, keys) => {
            let moved = m.rewrap(back(m.version, *before), keys);
            prop_assert_eq!(effect, Effect::Rewrapped(moved));
        }
        Op::Drop(before) => {
            let version = back(m.version, *before);
            match effect {
                Effect::Unchanged => prop_assert!(m.dropped.contains(&version)),
                Effect::Done => {
                    prop_assert!(m.may_drop(version));
                    prop_assert!(m.dropped.insert(version));
                }
                Effect::Refused { .. } => prop_assert!(!m.may_drop(version)),
                other => prop_assert!(false, "{:?}", other),
            }
        }
        Op::Clock(_) => {}
    }
    compare(b, m)
}

fn compare(b: &Bench, m: &Model) -> Result<(), TestCaseError> {
    for k in 0..8u8 {
        match share(&b.kv, &key(k)).unwrap() {
            Held::Nothing => {
                prop_assert!(!m.shares.contains_key(&k) && !m.stones.contains(&k));
            }
            Held::Tombstone(_) => prop_assert!(m.stones.contains(&k)),
            Held::Share(row) => {
                let s = &m.shares[&k];
                prop_assert_eq!(row.chat, chat(s.chat));
                prop_assert_eq!(row.commitment, [s.secret; 32]);
                prop_assert_eq!(
                    (row.version, row.wrapped),
                    (s.version, Wrapped(vec![s.wrapped; 72]))
                );
                prop_assert!(!m.dropped.contains(&s.version), "its key is gone");
                prop_assert_eq!((row.stored_ms, row.released), (s.stored, s.released));
            }
        }
    }
    let view = overview(&b.kv).unwrap();
    let kept = m.attested.keys().filter(|v| !m.dropped.contains(v));
    let live: Vec<_> = kept.map(|v| (*v, m.under(*v))).collect();
    prop_assert_eq!(view.live, live);
    prop_assert_eq!(view.wrapping, Some(m.version));
    prop_assert_eq!(view.freezes, m.frozen.len());
    prop_assert_eq!(view.log_time_ms, m.now);
    let timed = m.shares.values().filter(|s| s.expires.is_some()).count();
    let rows = b.kv.0.range(vec![rows::EXPIRY]..vec![rows::EXPIRY + 1]);
    prop_assert_eq!(rows.count(), timed);
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(192))]

    #[test]
    fn the_machine_is_the_model(ops in prop::collection::vec(op(), 1..60)) {
        let mut b = Bench::ready();
        let mut m = Model::default();
        for op in &ops {
            step(&mut b, &mut m, op)?;
        }
    }

    /// The same entries give the same state bytes and the same replies; how
    /// commands are cut into entries changes neither the state nor the log.
    #[test]
    fn state_is_a_function_of_the_log(
        ops in prop::collection::vec(op(), 1..30), cut in 1usize..6, seed in any::<u64>(),
    ) {
        let commands: Vec<Command> = ops.iter().filter_map(|op| command(op, 1)).map(|c| granted(c, T0 + 1)).collect();
        let mut rng = rand_chacha::ChaCha20Rng::seed_from_u64(seed);
        let whole = Proposal::new(T0 + 1, commands, &mut rng);
        let start = Bench::ready();
        let run = |batch: usize| {
            let mut kv = start.kv.clone();
            let mut replies = Vec::new();
            for (n, part) in whole.commands.chunks(batch).enumerate() {
                let part = Proposal { clock_ms: T0 + 1, commands: part.to_vec() };
                let at = Position { term: 1, index: n as u64 };
                let reply = start.machine.apply(&mut kv, at, &part.encode()).unwrap();
                replies.extend(committed(at, &reply).unwrap().into_iter().map(Committed::into_value));
            }
            (kv, replies)
        };
        let (a, b, c) = (run(cut), run(cut), run(1));
        prop_assert!(a == b);
        prop_assert!(a == c);
    }

    #[test]
    fn any_bytes_are_passed_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), flip in any::<prop::sample::Index>()) {
        let b = Bench::ready();
        let mut kv: MemKv = b.kv.clone();
        let mut rng = rand_chacha::ChaCha20Rng::seed_from_u64(3);
        let mut bent = Proposal::new(T0, vec![store(1, vec![item(1, 1, 1)])], &mut rng).encode();
        let n = flip.index(bent.len());
        bent[n] ^= 0x55;
        for bytes in [bytes, bent] {
            let reply = b.machine.apply(&mut kv, Position::default(), &bytes).unwrap();
            let _ = committed(Position::default(), &reply);
            Log::load(&kv).unwrap();
        }
    }
}
