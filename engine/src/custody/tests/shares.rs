//! Exact effects of what happens to shares.

use super::*;
use crate::audit::{EntryKind, KeyOutcome};

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
    let other_epoch = StoreItem {
        epoch: EPOCH + 1,
        ..item(1, 1, 1)
    };
    let rewrapped = StoreItem {
        wrapped: Wrapped(vec![0xee; 72]),
        ..item(1, 1, 1)
    };
    assert_eq!(
        b.effect(store(
            1,
            vec![
                item(1, 1, 9),
                other_chat,
                other_expiry,
                other_epoch,
                rewrapped
            ]
        )),
        Effect::Stored(vec![Conflict, Conflict, Conflict, Conflict, AlreadyStored])
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
