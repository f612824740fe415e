//! Exact effects of every command, and the way of a share through a custodian.

use super::protocol::*;
use super::*;
use crate::audit::{self, Entry, EntryKind, KeyOutcome, Log, leaf_hash, tests::naive};
use crate::authz::{Authorised, Claimed, HomePeer, authorise_release, home_authority};
use crate::crypto::seal::{
    Receiver, RecipientKey, ReleaseBinding, Sender, ShareBinding, deal_info, release_info,
};
use crate::crypto::sign::SigningKey;
use crate::policy::Policy;
use crate::sharing::commitment;
use crate::types::kv::{Machine, MemKv, Position};
use crate::types::*;
use rand::SeedableRng;
use rand_chacha::ChaCha20Rng;
use std::collections::{BTreeMap, BTreeSet};

pub(super) const HOUR: u64 = 60 * 60 * 1000;
pub(super) const T0: u64 = 1_700_000_000_000;

pub(super) fn home(name: &str) -> HomeId {
    HomeId::new(name).unwrap()
}
pub(super) fn custodian(name: &str) -> CustodianId {
    CustodianId::new(name).unwrap()
}
pub(super) fn operator() -> Operator {
    Operator {
        name: "olga".into(),
        certificate: [0xce; 32],
    }
}
pub(super) fn chat(n: u8) -> ChatId {
    ChatId([n; 32])
}
pub(super) fn key(n: u8) -> KeyId {
    KeyId([n; 16])
}
pub(super) fn key_ref(c: u8, k: u8) -> KeyRef {
    KeyRef {
        chat: chat(c),
        key_id: key(k),
    }
}

pub(super) fn policy() -> Policy {
    let leaf = |n| Structure::Leaf(custodian(n));
    let structure = Structure::Gate {
        threshold: 2,
        children: vec![leaf("br"), leaf("ch"), leaf("is")],
    };
    let identities = [("br", 1), ("ch", 2), ("is", 3)].map(|(n, b)| (custodian(n), [b; 32]));
    Policy::new(structure, BTreeMap::from(identities)).unwrap()
}

/// One custodian, one node: state, clock, and a check after every proposal.
pub(super) struct Bench {
    pub(super) kv: MemKv,
    pub(super) machine: Custody,
    pub(super) clock: u64,
    pub(super) rng: ChaCha20Rng,
    index: u64,
}

impl Bench {
    /// Nothing but an empty state.
    pub(super) fn empty() -> Self {
        Self {
            kv: MemKv::default(),
            machine: Custody::new(custodian("ch"), [2; 32]),
            clock: T0,
            rng: ChaCha20Rng::seed_from_u64(1),
            index: 0,
        }
    }

    /// With voters 1 to 3, the policy approved and wrapping version 1 in use.
    pub(super) fn ready() -> Self {
        let mut b = Self::empty();
        let effects = b.effects(vec![
            voters([1, 2, 3]),
            approve(policy().canonical()),
            attest(KeyKind::Wrapping, 1, [9; 32], 1),
            attest(KeyKind::Wrapping, 1, [9; 32], 2),
            use_version(KeyKind::Wrapping, 1, [9; 32], None),
        ]);
        assert_eq!(effects, vec![Effect::Done; 5]);
        b
    }

    pub(super) fn propose(&mut self, commands: Vec<Command>) -> Vec<Committed<Applied>> {
        let count = commands.len();
        let bytes = Proposal::new(self.clock, commands, &mut self.rng).encode();
        let before = Log::load(&self.kv).unwrap();
        self.index += 1;
        let at = Position {
            term: 1,
            index: self.index,
        };
        let reply = self.machine.apply(&mut self.kv, at, &bytes).unwrap();
        let out = committed(at, &reply).unwrap();
        assert_eq!(out.len(), count);
        self.check_log(&before, &out);
        out
    }

    /// Every command left exactly one entry, the receipts point at them, time
    /// never went back, and the root is the naive one.
    fn check_log(&self, before: &Log, out: &[Committed<Applied>]) {
        let log = Log::load(&self.kv).unwrap();
        assert_eq!(log.size(), before.size() + out.len() as u64);
        for (n, applied) in out.iter().enumerate() {
            let entry = applied.value().entry;
            assert_eq!(entry.index, before.size() + n as u64);
            let json = audit::entry_bytes(&self.kv, entry.index).unwrap().unwrap();
            assert_eq!(leaf_hash(&json), entry.leaf);
            assert!(entry.time_ms >= before.time_ms());
        }
        let leaves: Vec<_> = (0..log.size())
            .map(|i| leaf_hash(&audit::entry_bytes(&self.kv, i).unwrap().unwrap()))
            .collect();
        assert_eq!(log.root(), naive(&leaves));
        assert_eq!(
            audit::entry_bytes(&self.kv, log.size()).unwrap(),
            None,
            "nothing beyond the log"
        );
    }

    pub(super) fn effects(&mut self, commands: Vec<Command>) -> Vec<Effect> {
        let out = self.propose(commands);
        out.into_iter().map(|c| c.into_value().effect).collect()
    }

    pub(super) fn effect(&mut self, command: Command) -> Effect {
        self.effects(vec![command]).remove(0)
    }

    pub(super) fn last_entry(&self) -> Entry {
        let size = Log::load(&self.kv).unwrap().size();
        let json = audit::entry_bytes(&self.kv, size - 1).unwrap().unwrap();
        Entry::from_json(&json).unwrap()
    }

    fn live(&self) -> Vec<(u32, u64)> {
        overview(&self.kv).unwrap().live
    }
}

pub(super) fn voters<const N: usize>(nodes: [NodeId; N]) -> Command {
    Command::Voters(Voters {
        voters: BTreeSet::from(nodes),
    })
}
pub(super) fn approve(canonical: Vec<u8>) -> Command {
    Command::ApprovePolicy(ApprovePolicy {
        operator: operator(),
        reason: "agreed".into(),
        canonical,
    })
}
pub(super) fn attest(kind: KeyKind, version: u32, fingerprint: [u8; 32], node: NodeId) -> Command {
    Command::AttestKey(AttestKey {
        kind,
        version,
        fingerprint,
        node,
    })
}
pub(super) fn use_version(
    kind: KeyKind,
    version: u32,
    fingerprint: [u8; 32],
    statement: Option<SealingKeyStatement>,
) -> Command {
    Command::UseVersion(UseVersion {
        kind,
        version,
        fingerprint,
        statement,
    })
}
pub(super) fn drop_version(kind: KeyKind, version: u32) -> Command {
    Command::DropVersion(DropVersion { kind, version })
}
pub(super) fn item(c: u8, k: u8, share: u8) -> StoreItem {
    StoreItem {
        chat: chat(c),
        key_id: key(k),
        policy: policy().id(),
        commitment: [share; 32],
        wrapped: Wrapped(vec![share; 72]),
        expires_ms: None,
    }
}
pub(super) fn store(version: u32, items: Vec<StoreItem>) -> Command {
    Command::StoreShares(StoreShares {
        home: home("ae"),
        version,
        items,
    })
}
pub(super) fn release_as(h: &str, request: u8, lease: u8, keys: Vec<KeyRef>) -> Command {
    Command::Release(Release {
        request: RequestId([request; 16]),
        home: home(h),
        node: 4,
        authority: [7; 32],
        lease_key: [lease; 32],
        reason: Reason::Read,
        keys,
    })
}
pub(super) fn release(request: u8, keys: Vec<KeyRef>) -> Command {
    release_as("ae", request, 1, keys)
}
pub(super) fn abandon(keys: Vec<KeyRef>) -> Command {
    Command::Abandon(Abandon {
        home: home("ae"),
        keys,
    })
}
pub(super) fn shred(keys: Vec<KeyRef>) -> Command {
    Command::Shred(Shred {
        operator: operator(),
        reason: "deletion".into(),
        keys,
    })
}
pub(super) fn freeze(scope: FreezeScope) -> Command {
    Command::Freeze(Freeze {
        operator: operator(),
        reason: "seizure".into(),
        scope,
    })
}
pub(super) fn thaw(scope: FreezeScope) -> Command {
    Command::Thaw(Thaw {
        operator: operator(),
        reason: "court said so".into(),
        scope,
    })
}
pub(super) fn expire(up_to_ms: u64) -> Command {
    Command::ExpireShares(ExpireShares { up_to_ms })
}

/// What a release answered: `Ok(commitment byte)` or the refusal.
pub(super) fn results(effect: &Effect) -> Vec<Result<u8, Refusal>> {
    let Effect::Released(granted) = effect else {
        panic!("not a release: {effect:?}")
    };
    let byte = |r: &Result<Granted, Refusal>| r.as_ref().map(|g| g.commitment[0]).map_err(|e| *e);
    granted.results.iter().map(byte).collect()
}

#[test]
fn stores_are_write_once() {
    let mut b = Bench::ready();
    let unknown = StoreItem {
        policy: PolicyId([1; 32]),
        ..item(1, 4, 1)
    };
    let late = StoreItem {
        expires_ms: Some(T0),
        ..item(1, 5, 1)
    };
    let first = vec![item(1, 1, 1), item(2, 2, 2), item(1, 1, 1), unknown, late];
    use StoreOutcome::*;
    assert_eq!(
        b.effect(store(1, first.clone())),
        Effect::Stored(vec![
            Stored,
            Stored,
            AlreadyStored,
            PolicyNotApproved,
            Tombstoned
        ])
    );
    let entry = b.last_entry();
    assert_eq!(entry.kind, EntryKind::Store);
    assert_eq!(entry.chats.len(), 2, "each chat once");
    let lines: Vec<_> = entry.keys.iter().map(|k| (k.chat, k.outcome)).collect();
    assert_eq!(
        lines,
        [
            (0, KeyOutcome::Stored),
            (1, KeyOutcome::Stored),
            (0, KeyOutcome::AlreadyStored),
            (0, KeyOutcome::PolicyNotApproved),
            (0, KeyOutcome::Tombstoned)
        ]
    );
    let openings = audit::openings(&b.kv, entry.index).unwrap();
    assert_eq!(openings[1].value.0, chat(2).0);
    assert_eq!(openings[1].commitment(), entry.chats[1].0);

    let row = b.kv.0[&rows::share_key(&key(1))].clone();
    let other_chat = StoreItem {
        chat: chat(3),
        ..item(1, 1, 1)
    };
    let other_expiry = StoreItem {
        expires_ms: Some(T0 + 9),
        ..item(1, 1, 1)
    };
    let rewrapped = StoreItem {
        wrapped: Wrapped(vec![0xee; 72]),
        ..item(1, 1, 1)
    };
    assert_eq!(
        b.effect(store(
            1,
            vec![item(1, 1, 9), other_chat, other_expiry, rewrapped]
        )),
        Effect::Stored(vec![Conflict, Conflict, Conflict, AlreadyStored])
    );
    assert_eq!(b.kv.0[&rows::share_key(&key(1))], row, "never overwritten");
    let mut foreign = StoreShares {
        home: home("zz"),
        version: 1,
        items: vec![item(1, 1, 1)],
    };
    assert_eq!(
        b.effect(Command::StoreShares(foreign.clone())),
        Effect::Stored(vec![Conflict])
    );
    foreign.items[0].wrapped.0.pop();
    assert!(matches!(
        b.effect(Command::StoreShares(foreign)),
        Effect::Refused { .. }
    ));
    assert_eq!(b.live(), [(1, 2)]);
}

#[test]
fn releases_are_decided_and_recorded_key_by_key() {
    let mut b = Bench::ready();
    b.effect(store(
        1,
        vec![item(1, 1, 1), item(2, 2, 2), item(3, 3, 3), item(3, 4, 4)],
    ));
    b.effects(vec![
        shred(vec![key_ref(3, 4)]),
        freeze(FreezeScope::Chat(chat(2))),
    ]);
    let ask = vec![
        key_ref(1, 1),
        key_ref(2, 2),
        key_ref(1, 3),
        key_ref(3, 4),
        key_ref(3, 5),
    ];
    use Refusal::*;
    let effect = b.effect(release(1, ask.clone()));
    assert_eq!(
        results(&effect),
        [
            Ok(1),
            Err(Frozen),
            Err(WrongChat),
            Err(Tombstoned),
            Err(NotHeld)
        ]
    );
    let entry = b.last_entry();
    assert_eq!(entry.request, Some(RequestId([1; 16])));
    assert_eq!(
        (entry.node, entry.reason.as_deref()),
        (Some(4), Some("read"))
    );
    let lines: Vec<_> = entry.keys.iter().map(|k| (k.outcome, k.version)).collect();
    assert_eq!(
        lines,
        [
            (KeyOutcome::Released, Some(1)),
            (KeyOutcome::Frozen, None),
            (KeyOutcome::WrongChat, None),
            (KeyOutcome::Tombstoned, None),
            (KeyOutcome::NotHeld, None)
        ]
    );
    // Another home never obtains this home's keys.
    let foreign = b.effect(release_as("zz", 2, 1, vec![key_ref(1, 1)]));
    assert_eq!(results(&foreign), [Err(NotAuthorised)]);

    // A repetition is a new entry, decided anew.
    assert_eq!(
        b.effect(freeze(FreezeScope::All)),
        Effect::Done,
        "freeze everything"
    );
    let again = b.effect(release(1, ask.clone()));
    assert_eq!(results(&again)[0], Err(Frozen));
    b.effect(thaw(FreezeScope::All));
    assert_eq!(
        results(&b.effect(release(1, ask.clone()))),
        results(&effect)
    );
    // Under the same id: other keys, another lease key, another home.
    for other in [
        release(1, vec![key_ref(1, 1)]),
        release_as("ae", 1, 2, ask.clone()),
        release_as("zz", 1, 1, ask.clone()),
    ] {
        let refused = b.effect(other);
        assert!(results(&refused).iter().all(|r| *r == Err(RequestMismatch)));
        assert!(!b.last_entry().done);
    }
}

#[test]
fn request_ids_are_forgotten_after_a_week_and_not_before() {
    let mut b = Bench::ready();
    b.effect(store(1, vec![item(1, 1, 1), item(1, 2, 2)]));
    b.effect(release(1, vec![key_ref(1, 1)]));
    let count = |b: &Bench| {
        let tables = [rows::REQUEST, rows::REQUEST_AGE];
        tables.map(|t| b.kv.0.range(vec![t]..vec![t + 1]).count())
    };
    b.clock += REQUEST_KEEP_MS;
    b.effect(release(2, vec![key_ref(1, 1)]));
    assert_eq!(count(&b), [2, 2]);
    let mismatch = b.effect(release(1, vec![key_ref(1, 2)]));
    assert_eq!(results(&mismatch), [Err(Refusal::RequestMismatch)]);
    b.clock += 1;
    b.effect(release(3, vec![key_ref(1, 1)]));
    assert_eq!(count(&b), [2, 2], "the first one is gone");
    assert_eq!(results(&b.effect(release(1, vec![key_ref(1, 2)]))), [Ok(2)]);
}

#[test]
fn abandon_is_for_fresh_unreleased_keys_only() {
    let mut b = Bench::ready();
    b.effect(store(
        1,
        vec![item(1, 1, 1), item(1, 2, 2), item(1, 3, 3), item(1, 4, 4)],
    ));
    b.effect(release(1, vec![key_ref(1, 2)]));
    use AbandonOutcome::*;
    b.clock += ABANDON_MS_MAX;
    let foreign = Command::Abandon(Abandon {
        home: home("zz"),
        keys: vec![key_ref(1, 1)],
    });
    assert_eq!(b.effect(foreign), Effect::Abandoned(vec![Refused]));
    let keys = vec![
        key_ref(1, 1),
        key_ref(1, 2),
        key_ref(2, 3),
        key_ref(1, 9),
        key_ref(1, 1),
    ];
    assert_eq!(
        b.effect(abandon(keys)),
        Effect::Abandoned(vec![Tombstoned, Refused, Refused, Tombstoned, Tombstoned])
    );
    b.clock += 1;
    assert_eq!(
        b.effect(abandon(vec![key_ref(1, 4)])),
        Effect::Abandoned(vec![Refused]),
        "stored over an hour ago"
    );
    // Tombstones refuse for ever, also what never arrived.
    assert_eq!(
        b.effect(store(1, vec![item(1, 1, 1), item(1, 9, 9)])),
        Effect::Stored(vec![StoreOutcome::Tombstoned; 2])
    );
    assert_eq!(b.live(), [(1, 3)]);
}

#[test]
fn abandon_and_shred_have_budgets_that_come_back() {
    let mut b = Bench::ready();
    let batch = |n: u64, c: u8| -> Vec<KeyRef> {
        let id = |i: u64| {
            let mut id = [c; 16];
            id[..8].copy_from_slice(&(n * 256 + i).to_be_bytes());
            KeyId(id)
        };
        (0..256)
            .map(|i| KeyRef {
                chat: chat(c),
                key_id: id(i),
            })
            .collect()
    };
    for (c, budget) in [(1, SHRED_BUDGET), (2, ABANDON_BUDGET)] {
        let command = |n| {
            if c == 1 {
                shred(batch(n, c))
            } else {
                abandon(batch(n, c))
            }
        };
        for n in 0..budget.capacity / 256 {
            assert!(!matches!(b.effect(command(n)), Effect::OverBudget { .. }));
        }
        // Repeating costs nothing; more has to wait, and says how long.
        assert!(!matches!(b.effect(command(0)), Effect::OverBudget { .. }));
        let Effect::OverBudget { retry_ms } = b.effect(command(1000)) else {
            panic!("the budget is spent")
        };
        assert_eq!(retry_ms, (256 * HOUR).div_ceil(budget.per_hour));
        assert!(!b.last_entry().done);
        b.clock += retry_ms - 1;
        assert!(matches!(b.effect(command(1000)), Effect::OverBudget { .. }));
        b.clock += 1;
        assert!(!matches!(
            b.effect(command(1000)),
            Effect::OverBudget { .. }
        ));
    }
}

#[test]
fn shredding_deletes_the_bytes_and_leaves_a_tombstone() {
    let mut b = Bench::ready();
    b.effect(store(1, vec![item(1, 1, 0xd1)]));
    let holds = |b: &Bench| {
        b.kv.0
            .values()
            .any(|v| v.windows(72).any(|w| w == [0xd1; 72]))
    };
    assert!(holds(&b));
    use ShredOutcome::*;
    assert_eq!(
        b.effect(shred(vec![key_ref(2, 1), key_ref(1, 1), key_ref(1, 2)])),
        Effect::Shredded(vec![WrongChat, Destroyed, NotHeld])
    );
    assert!(!holds(&b));
    assert_eq!(
        share(&b.kv, &key(1)).unwrap(),
        Held::Tombstone(Tombstone {
            cause: TombstoneCause::Shredded,
            entry: b.last_entry().index,
            time_ms: T0,
            held: true
        })
    );
    assert_eq!(
        b.effect(shred(vec![key_ref(1, 1)])),
        Effect::Shredded(vec![AlreadyTombstoned])
    );
    assert_eq!(
        b.effect(store(1, vec![item(1, 1, 0xd1), item(1, 2, 2)])),
        Effect::Stored(vec![StoreOutcome::Tombstoned; 2])
    );
    assert_eq!(b.live(), [(1, 0)]);
}

#[test]
fn shares_expire_at_the_time_fixed_when_dealt() {
    let mut b = Bench::ready();
    let timed = |k, at| StoreItem {
        expires_ms: Some(at),
        ..item(1, k, k)
    };
    b.effect(store(
        1,
        vec![timed(1, T0 + 10), timed(2, T0 + 20), item(1, 3, 3)],
    ));
    assert!(!due(&b.kv, T0 + 9).unwrap() && due(&b.kv, T0 + 10).unwrap());
    // A sweep never reaches beyond entry time, whatever it asks for.
    let none = Effect::Expired {
        destroyed: 0,
        more: false,
    };
    assert_eq!(b.effect(expire(u64::MAX)), none);
    b.clock = T0 + 10;
    // Due but not swept yet: refused all the same.
    assert_eq!(
        results(&b.effect(release(1, vec![key_ref(1, 1), key_ref(1, 2)]))),
        [Err(Refusal::Tombstoned), Ok(2)]
    );
    let one = Effect::Expired {
        destroyed: 1,
        more: false,
    };
    assert_eq!(b.effect(expire(u64::MAX)), one);
    assert_eq!(b.effect(expire(u64::MAX)), none);
    assert!(matches!(
        share(&b.kv, &key(1)).unwrap(),
        Held::Tombstone(Tombstone {
            cause: TombstoneCause::Expired,
            ..
        })
    ));
    // A shred takes the expiry row along.
    b.effect(shred(vec![key_ref(1, 2)]));
    b.clock = T0 + 20;
    assert_eq!(b.effect(expire(u64::MAX)), none);
    assert!(!due(&b.kv, u64::MAX).unwrap());
    assert_eq!(b.live(), [(1, 1)]);
}

#[test]
fn a_sweep_is_bounded_and_says_that_more_is_due() {
    let mut b = Bench::ready();
    for n in 0..2u8 {
        let items = (0..=255u8).map(|i| {
            let mut it = item(1, i, i);
            it.key_id.0[1] = n;
            it.expires_ms = Some(T0 + 1);
            it
        });
        b.effect(store(1, items.take(if n == 0 { 256 } else { 1 }).collect()));
    }
    b.clock += 1;
    let swept = |destroyed, more| Effect::Expired { destroyed, more };
    assert_eq!(b.effect(expire(b.clock)), swept(256, true));
    assert_eq!(b.effect(expire(b.clock)), swept(1, false));
}

#[test]
fn freezes_are_idempotent_and_the_feed_tells_where_they_began() {
    let mut b = Bench::ready();
    let scope = FreezeScope::Chat(chat(1));
    let began = Log::load(&b.kv).unwrap().size();
    let effects = b.effects(vec![
        freeze(scope),
        freeze(scope),
        thaw(FreezeScope::All),
        freeze(FreezeScope::All),
    ]);
    use Effect::*;
    assert_eq!(effects, [Done, Unchanged, Unchanged, Done]);
    assert_eq!(
        feed(&b.kv).unwrap(),
        Feed {
            position: began + 4,
            freezes: vec![(FreezeScope::All, began + 3), (scope, began)],
        }
    );
    assert_eq!(b.effect(thaw(scope)), Done);
    assert_eq!(
        feed(&b.kv).unwrap().freezes,
        [(FreezeScope::All, began + 3)]
    );
    let entry = b.last_entry();
    assert_eq!(entry.operator.unwrap().name, "olga");
    assert!(
        !String::from_utf8_lossy(&audit::entry_bytes(&b.kv, entry.index).unwrap().unwrap())
            .contains(&chat(1).to_string())
    );
}

fn statement(version: u32, seed: u8, expires_ms: u64) -> (SealingKeyStatement, [u8; 32]) {
    let key = RecipientKey::from_seed(&Secret::take(&mut [seed; 32]));
    let identity = SigningKey::from_seed(&Secret::take(&mut [1; 32]));
    let s = SealingKeyStatement::sign(
        &DeploymentId([1; 16]),
        custodian("ch"),
        version,
        key.public(),
        expires_ms,
        &identity,
    );
    (s, key.public().hash())
}

#[test]
fn versions_come_into_use_only_by_a_majority_of_the_voters() {
    use KeyKind::*;
    let mut b = Bench::empty();
    let refused = |e: &Effect| matches!(e, Effect::Refused { .. });
    let (s1, f1) = statement(1, 5, T0 + HOUR);
    let seal1 = use_version(Sealing, 1, f1, Some(s1.clone()));
    assert!(refused(&b.effect(seal1.clone())), "nobody attested");
    b.effects((1..=2).map(|n| attest(Sealing, 1, f1, n)).collect());
    assert!(refused(&b.effect(seal1.clone())), "no voters known");
    b.effect(voters([1, 2, 3, 4]));
    assert!(refused(&b.effect(seal1.clone())), "half is no majority");
    b.effect(attest(Sealing, 1, f1, 9));
    assert!(refused(&b.effect(seal1.clone())), "node 9 is no voter");
    // Another draw under the same number never passes for it.
    assert!(refused(&b.effect(attest(Sealing, 1, [8; 32], 3))));
    assert_eq!(b.effect(attest(Sealing, 1, f1, 3)), Effect::Done);
    assert_eq!(b.effect(attest(Sealing, 1, f1, 3)), Effect::Unchanged);
    for bad in [
        use_version(Sealing, 1, f1, None),
        use_version(Sealing, 1, [8; 32], Some(s1.clone())),
        use_version(Sealing, 1, f1, Some(statement(2, 5, T0 + HOUR).0)),
        use_version(Sealing, 1, f1, Some(statement(1, 6, T0 + HOUR).0)),
        use_version(Sealing, 1, f1, Some(statement(1, 5, T0).0)),
        use_version(
            Sealing,
            1,
            f1,
            Some(statement(1, 5, T0 + SEALING_LIFE_MS_MAX + 1).0),
        ),
    ] {
        assert!(refused(&b.effect(bad)));
    }
    assert_eq!(sealing_statement(&b.kv).unwrap(), None);
    assert_eq!(b.effect(seal1.clone()), Effect::Done);
    assert_eq!(b.effect(seal1), Effect::Unchanged);
    assert_eq!(sealing_statement(&b.kv).unwrap(), Some(s1));
    // It cannot be dropped while homes may seal to it.
    assert!(refused(&b.effect(drop_version(Sealing, 1))));
    b.clock = T0 + HOUR;
    assert_eq!(b.effect(drop_version(Sealing, 1)), Effect::Done);
    assert_eq!(b.effect(drop_version(Sealing, 1)), Effect::Unchanged);
    assert_eq!(sealing_statement(&b.kv).unwrap(), None);
    assert!(refused(&b.effect(attest(Sealing, 1, f1, 4))));
    assert!(refused(&b.effect(drop_version(Wrapping, 1))));
}

#[test]
fn a_wrapping_version_is_dropped_only_when_nothing_lives_under_it() {
    use KeyKind::Wrapping;
    let mut b = Bench::ready();
    let refused = |e: &Effect| matches!(e, Effect::Refused { .. });
    let again = |current| Effect::WrapAgain { current };
    assert_eq!(b.effect(store(2, vec![item(1, 1, 1)])), again(Some(1)));
    assert_eq!(b.last_entry().keys[0].outcome, KeyOutcome::VersionGone);
    b.effect(store(1, vec![item(1, 1, 1)]));
    b.effects((1..=3).map(|n| attest(Wrapping, 2, [8; 32], n)).collect());
    assert_eq!(b.effect(store(2, vec![item(1, 2, 2)])), again(Some(1)));
    assert!(refused(&b.effect(use_version(
        Wrapping,
        2,
        [8; 32],
        Some(statement(2, 5, T0 + HOUR).0)
    ))));
    assert_eq!(
        b.effect(use_version(Wrapping, 2, [8; 32], None)),
        Effect::Done
    );
    // A store prepared before still counts; the old version stays until it is empty.
    b.effect(store(1, vec![item(1, 3, 3)]));
    assert_eq!(b.live(), [(1, 2), (2, 0)]);
    assert!(refused(&b.effect(drop_version(Wrapping, 1))), "live shares");
    assert!(refused(&b.effect(drop_version(Wrapping, 2))), "in use");
    b.effect(shred(vec![key_ref(1, 1), key_ref(1, 3)]));
    assert_eq!(b.effect(drop_version(Wrapping, 1)), Effect::Done);
    assert_eq!(b.effect(store(1, vec![item(1, 4, 4)])), again(Some(2)));
    b.effects((1..=3).map(|n| attest(Wrapping, 3, [7; 32], n)).collect());
    b.effect(use_version(Wrapping, 3, [7; 32], None));
    assert!(
        refused(&b.effect(use_version(Wrapping, 2, [8; 32], None))) || {
            // Already in use stays so; it never becomes the current one again.
            version_in_use(&b.kv, Wrapping).unwrap() == Some(3)
        }
    );
}

#[test]
fn policies_are_approved_only_where_this_custodian_stands_in_them() {
    let mut b = Bench::empty();
    let good = policy().canonical();
    assert_eq!(b.effect(approve(good.clone())), Effect::Done);
    assert_eq!(b.effect(approve(good.clone())), Effect::Unchanged);
    assert_eq!(approved_policies(&b.kv).unwrap(), [policy().id()]);
    let stranger = Custody::new(custodian("sg"), [2; 32]);
    let impostor = Custody::new(custodian("ch"), [3; 32]);
    for machine in [stranger, impostor] {
        let mut b = Bench {
            machine,
            ..Bench::empty()
        };
        assert!(matches!(
            b.effect(approve(good.clone())),
            Effect::Refused { .. }
        ));
        assert_eq!(approved_policies(&b.kv).unwrap(), []);
    }
    let mut cut = good;
    cut.pop();
    assert!(matches!(b.effect(approve(cut)), Effect::Refused { .. }));
}

#[test]
fn entry_time_never_goes_back() {
    let mut b = Bench::ready();
    b.effect(store(1, vec![item(1, 1, 1)]));
    b.clock = T0 - HOUR;
    b.effect(release(1, vec![key_ref(1, 1)]));
    assert_eq!(b.last_entry().time_ms, T0);
}

#[test]
fn foreign_bytes_are_refused_alike_and_change_nothing() {
    let mut b = Bench::ready();
    let good = Proposal::new(T0, vec![freeze(FreezeScope::All)], &mut b.rng).encode();
    let mut other_version = good.clone();
    other_version[0] = 2;
    let empty = Proposal::new(T0, vec![], &mut b.rng).encode();
    let many = vec![drop_version(KeyKind::Sealing, 1); COMMANDS_PER_PROPOSAL_MAX + 1];
    let many = Proposal::new(T0, many, &mut b.rng).encode();
    let before = b.kv.clone();
    for bytes in [
        &[][..],
        &good[..good.len() - 1],
        &other_version,
        &empty,
        &many,
    ] {
        let at = Position::default();
        let reply = b.machine.apply(&mut b.kv, at, bytes).unwrap();
        assert!(matches!(
            committed(at, &reply),
            Err(ReplyError::Undecodable(_))
        ));
    }
    assert!(b.kv == before);
}

/// The largest command of every kind fits the entry limit: `apply` fails otherwise.
#[test]
fn the_largest_entries_fit() {
    let mut b = Bench::ready();
    let wide = |n: u8| {
        (0..=255u8).map(move |i| KeyRef {
            chat: ChatId([i; 32]),
            key_id: KeyId([i ^ n; 16]),
        })
    };
    let items = wide(0).map(|k| StoreItem {
        chat: k.chat,
        key_id: k.key_id,
        ..item(0, 0, 3)
    });
    let nasty = Operator {
        name: "\u{1}".repeat(OPERATOR_NAME_BYTES_MAX),
        certificate: [0xff; 32],
    };
    let reason = "\u{1}".repeat(REASON_BYTES_MAX);
    let long = home(&format!("a{}", "-".repeat(31)));
    b.clock = u64::MAX / 2;
    b.propose(vec![
        Command::StoreShares(StoreShares {
            home: long.clone(),
            version: 1,
            items: items.collect(),
        }),
        Command::Release(Release {
            request: RequestId([0xff; 16]),
            home: long.clone(),
            node: u64::MAX,
            authority: [0xff; 32],
            lease_key: [0xff; 32],
            reason: Reason::Write,
            keys: wide(0).collect(),
        }),
        Command::Abandon(Abandon {
            home: long,
            keys: wide(0).collect(),
        }),
        Command::Shred(Shred {
            operator: nasty.clone(),
            reason: reason.clone(),
            keys: wide(1).collect(),
        }),
        Command::EraseOpenings(EraseOpenings {
            operator: nasty.clone(),
            reason: reason.clone(),
            entries: vec![u64::MAX; 256],
            chat: None,
        }),
        Command::Freeze(Freeze {
            operator: Operator {
                name: "x".repeat(OPERATOR_NAME_BYTES_MAX + 1),
                ..nasty
            },
            reason,
            scope: FreezeScope::All,
        }),
    ]);
    assert_eq!(
        b.last_entry().refused.as_deref(),
        Some("over a limit: 129 bytes of operator name, 1 to 128 are allowed")
    );
    assert!(freezes(&b.kv).unwrap().is_empty());
}

#[test]
fn erased_openings_leave_the_log_as_it_was() {
    let mut b = Bench::ready();
    b.effect(store(1, vec![item(1, 1, 1), item(2, 2, 2)]));
    let index = b.last_entry().index;
    let erase = Command::EraseOpenings(EraseOpenings {
        operator: operator(),
        reason: "retention".into(),
        entries: vec![index, 9999],
        chat: Some(chat(1)),
    });
    assert_eq!(b.effect(erase.clone()), Effect::Erased(1));
    assert_eq!(b.effect(erase), Effect::Erased(0));
    let left = audit::openings(&b.kv, index).unwrap();
    assert_eq!(left.len(), 1);
    assert_eq!(left[0].value.0, chat(2).0);
}

struct Keys(WrappingKey);
impl WrappingKeys for Keys {
    fn wrapping_key(&self, version: u32) -> Option<&WrappingKey> {
        (version == 1).then_some(&self.0)
    }
}

fn authorised(place: &Place, node: NodeId) -> Authorised {
    let peer = HomePeer {
        deployment: place.deployment,
        home: home("ae"),
        node,
    };
    let claimed = Claimed {
        deployment: place.deployment,
        home: home("ae"),
        node: Some(node),
    };
    authorise_release(
        &place.deployment,
        &BTreeSet::from([home("ae")]),
        &peer,
        &claimed,
    )
    .unwrap()
}

/// A share dealt, stored, released and opened again, with everything that may go wrong on the way.
#[test]
fn a_share_goes_through_a_custodian_and_comes_back() {
    let mut b = Bench::ready();
    let mut rng = ChaCha20Rng::seed_from_u64(7);
    let place = Place {
        deployment: DeploymentId([1; 16]),
        custodian: custodian("ch"),
    };
    let keys = Keys(WrappingKey::generate(&mut rng));
    let sealing = RecipientKey::generate(&mut rng);
    let info = deal_info(&place.deployment, &place.custodian, 3);
    let (sender, encapsulated) = Sender::new(&sealing.public(), &info, &mut rng).unwrap();
    let session = SealSession {
        id: SessionId([1; 16]),
        custodian: place.custodian.clone(),
        version: 3,
        expires_ms: T0 + HOUR,
        encapsulated,
    };
    let policy = policy().id();
    let shares: Vec<Share> = (0..3).map(|_| Share::generate(&mut rng)).collect();
    let sealed = |n: usize, k: u8| {
        let binding = ShareBinding {
            deployment: place.deployment,
            custodian: place.custodian.clone(),
            chat: chat(1),
            key_id: key(k),
            policy,
        };
        SealedItem {
            chat: chat(1),
            key_id: key(k),
            policy,
            commitment: commitment(&key(k), &place.custodian, &shares[n]),
            sealed: sender.seal(&binding, None, [n as u8; 24], &shares[n]),
            expires_ms: None,
        }
    };
    let mut lying = sealed(1, 2);
    lying.commitment[0] ^= 1;
    let mut request = StoreRequest {
        home: home("ae"),
        deployment: place.deployment,
        session,
        items: vec![sealed(0, 1), lying, sealed(2, 3)],
    };
    let who = authorised(&place, 4);
    check_store(&place, &who, &request).unwrap();
    assert_eq!(
        open_session(&place, None, &request.session, T0).unwrap_err(),
        StoreOutcome::SealingKeyGone
    );
    assert_eq!(
        open_session(&place, Some(&sealing), &request.session, T0 + HOUR).unwrap_err(),
        StoreOutcome::SealingKeyGone
    );
    let receiver: Receiver = open_session(&place, Some(&sealing), &request.session, T0).unwrap();
    let prepared = prepare_store(&place, &receiver, (1, &keys.0), &request, &mut rng);
    assert_eq!(prepared.early_outcomes(), None);
    let command = prepared.command.clone().unwrap();
    let bytes = format!("{command:?}").into_bytes();
    let share_hex = hex::encode(shares[0].expose());
    assert!(!String::from_utf8(bytes).unwrap().contains(&share_hex));
    let done = b.propose(vec![command]).remove(0);
    use StoreOutcome::*;
    assert_eq!(
        prepared.decide(&done),
        StoreDecision::Outcomes(vec![Stored, BadShare, Stored])
    );
    request.items.push(sealed(0, 1));
    assert_eq!(
        check_store(&place, &who, &request),
        Err(RequestError::Twice(key(1)))
    );

    // Asking for it.
    let lease_key = RecipientKey::generate(&mut rng);
    let ask = ReleaseRequest {
        request: RequestId([5; 16]),
        home: home("ae"),
        node: 4,
        deployment: place.deployment,
        lease_key: lease_key.public(),
        reason: Reason::Read,
        keys: vec![key_ref(1, 1), key_ref(1, 2), key_ref(1, 3)],
    };
    assert_eq!(
        prepare_release(&place, &authorised(&place, 5), &ask),
        Err(RequestError::NotTheAuthorised)
    );
    let command = prepare_release(&place, &who, &ask).unwrap();
    // Damage one wrapped share at rest.
    let Held::Share(mut row) = share(&b.kv, &key(3)).unwrap() else {
        panic!("stored above")
    };
    row.wrapped.0[30] ^= 1;
    rows::put(&mut b.kv, &rows::share_key(&key(3)), &row).unwrap();
    let granted = b.propose(vec![command]).remove(0).granted().unwrap();
    let log_key = SigningKey::generate(&mut rng);
    let lease = LeaseSender::new(&place, &ask.lease_key, &mut rng).unwrap();
    let reply = finish_release(&place, &keys, &granted, &lease, &log_key, &mut rng);
    reply
        .receipt
        .verify(
            &place.deployment,
            &place.custodian,
            &ask.request,
            &log_key.public(),
        )
        .unwrap();
    assert_eq!(reply.receipt.entry, b.last_entry().index);
    assert_eq!(
        reply.shares[1..],
        [
            ShareResult::Refused(Refusal::NotHeld),
            ShareResult::Refused(Refusal::Damaged)
        ]
    );
    let ShareResult::Share { sealed } = &reply.shares[0] else {
        panic!("released")
    };
    let info = release_info(&place.deployment, &place.custodian);
    let opener = Receiver::new(&lease_key, &reply.encapsulated, &info).unwrap();
    let binding = ShareBinding {
        deployment: place.deployment,
        custodian: place.custodian.clone(),
        chat: chat(1),
        key_id: key(1),
        policy,
    };
    let context = ReleaseBinding {
        authority: home_authority(&place.deployment, &home("ae"), 4),
        node: 4,
        lease_key: ask.lease_key.hash(),
    };
    let got = opener.open(&binding, Some(&context), sealed).unwrap();
    assert_eq!(got.expose(), shares[0].expose());
    // Sealed to another lease key than the committed one: nothing is opened.
    let other = RecipientKey::generate(&mut rng).public();
    let other = LeaseSender::new(&place, &other, &mut rng).unwrap();
    let reply = finish_release(&place, &keys, &granted, &other, &log_key, &mut rng);
    assert_eq!(
        reply.shares[0],
        ShareResult::Refused(Refusal::RequestMismatch)
    );
    assert!(reply.encapsulated.is_empty());
}
