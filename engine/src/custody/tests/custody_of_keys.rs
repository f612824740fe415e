//! What happens to nodes' own keys stands in the log; handovers are decided there.

use super::*;
use crate::audit::EntryKind;

fn event(what: KeyEventKind, node: NodeId, operator: Option<Operator>) -> Command {
    Command::KeyEvent(KeyEvent {
        node,
        operator,
        what,
        reason: "a drill".into(),
    })
}

#[test]
fn what_happens_to_keys_is_recorded_with_who_and_why() {
    let mut b = Bench::ready();
    for (what, kind) in [
        (KeyEventKind::Unlocked, EntryKind::NodeUnlocked),
        (KeyEventKind::Locked, EntryKind::NodeLocked),
        (KeyEventKind::Slots, EntryKind::KeySlots),
        (KeyEventKind::Rotation, EntryKind::KeyRotation),
    ] {
        assert_eq!(b.effect(event(what, 2, Some(operator()))), Effect::Done);
        let entry = b.last_entry();
        assert_eq!((entry.kind, entry.node), (kind, Some(2)));
        assert_eq!(entry.operator.unwrap().name, "olga");
        assert_eq!(entry.reason.unwrap(), "a drill");
    }
    let long = Command::KeyEvent(KeyEvent {
        node: 1,
        operator: None,
        what: KeyEventKind::Locked,
        reason: "x".repeat(REASON_BYTES_MAX + 1),
    });
    assert!(matches!(b.effect(long), Effect::Refused { .. }));
}

#[test]
fn keys_are_handed_to_a_restarted_node_once_in_fifteen_minutes() {
    let mut b = Bench::ready();
    let over = |node| event(KeyEventKind::HandedOver, node, None);
    assert_eq!(b.effect(over(2)), Effect::Done);
    assert_eq!(b.last_entry().kind, EntryKind::KeyHandover);
    b.clock += HANDOVER_MS_MIN - 1;
    assert!(matches!(b.effect(over(2)), Effect::Refused { .. }));
    assert!(!b.last_entry().done, "the refusal is recorded, too");
    assert_eq!(
        b.effect(over(3)),
        Effect::Done,
        "another node is another matter"
    );
    // A clock that was set back opens no second window.
    b.clock -= 10 * HANDOVER_MS_MIN;
    assert!(matches!(b.effect(over(2)), Effect::Refused { .. }));
    b.clock += 10 * HANDOVER_MS_MIN + 1;
    assert_eq!(b.effect(over(2)), Effect::Done);
    assert!(matches!(b.effect(over(2)), Effect::Refused { .. }));
}

fn rewrap(to: u32, from: u32, keys: &[u8]) -> Command {
    let item = |k: &u8| RewrapItem {
        key_id: key(*k),
        from,
        wrapped: Wrapped(vec![0x40 + k; 72]),
    };
    Command::Rewrap(Rewrap {
        to,
        items: keys.iter().map(item).collect(),
    })
}

fn next_in_use(b: &mut Bench) {
    let effects = b.effects(vec![
        attest(KeyKind::Wrapping, 2, [8; 32], 1),
        attest(KeyKind::Wrapping, 2, [8; 32], 2),
        use_version(KeyKind::Wrapping, 2, [8; 32], None),
    ]);
    assert_eq!(effects, vec![Effect::Done; 3]);
}

#[test]
fn rewrapped_shares_move_to_the_new_version_and_only_then_the_old_one_drops() {
    let refused = |e: &Effect| matches!(e, Effect::Refused { .. });
    let mut b = Bench::ready();
    let stored = b.effect(store(1, vec![item(1, 1, 7), item(1, 2, 8), item(2, 3, 9)]));
    assert!(matches!(stored, Effect::Stored(_)));
    next_in_use(&mut b);
    let (old, next) = under_other_versions(&b.kv, 2, None, 2).unwrap();
    assert_eq!((old.len(), next), (2, Some(key(2))));
    let (rest, next) = under_other_versions(&b.kv, 2, next, 2).unwrap();
    assert_eq!((rest.len(), next), (1, None));
    assert!(refused(&b.effect(rewrap(1, 2, &[1]))), "not in use");
    assert_eq!(
        b.effect(rewrap(2, 3, &[1])),
        Effect::Rewrapped(0),
        "not as it stands"
    );
    assert_eq!(
        b.effect(rewrap(2, 1, &[1, 2, 9, 1])),
        Effect::Rewrapped(2),
        "what is not here stays so"
    );
    assert_eq!(b.live(), [(1, 1), (2, 2)]);
    assert!(refused(&b.effect(drop_version(KeyKind::Wrapping, 1))));
    assert_eq!(
        b.effect(rewrap(2, 1, &[1, 3])),
        Effect::Rewrapped(1),
        "repeating is harmless"
    );
    let entry = b.last_entry();
    assert_eq!((entry.kind, entry.version), (EntryKind::Rewrap, Some(2)));
    assert_eq!(entry.rewrapped, Some(1));
    assert!(entry.keys.is_empty() && entry.chats.is_empty());
    let Held::Share(row) = share(&b.kv, &key(3)).unwrap() else {
        panic!("the share is gone");
    };
    assert_eq!((row.version, row.wrapped.0[0]), (2, 0x43));
    assert_eq!((row.commitment, row.stored_ms), ([9; 32], T0));
    // Voter 3 does not have the new key yet: without the old one it could open nothing.
    assert_eq!(
        overview(&b.kv).unwrap().wrapping_lacking,
        BTreeSet::from([3])
    );
    let e = b.effect(drop_version(KeyKind::Wrapping, 1));
    assert!(matches!(&e, Effect::Refused { reason } if reason.contains("voters 3 have not")));
    b.effect(attest(KeyKind::Wrapping, 2, [8; 32], 3));
    assert_eq!(b.effect(drop_version(KeyKind::Wrapping, 1)), Effect::Done);
    assert_eq!(b.live(), [(2, 3)]);
}

#[test]
fn what_was_destroyed_meanwhile_is_not_brought_back_by_a_rewrap() {
    let mut b = Bench::ready();
    b.effect(store(1, vec![item(1, 1, 7), item(1, 2, 8)]));
    next_in_use(&mut b);
    b.effect(shred(vec![key_ref(1, 1)]));
    assert_eq!(b.effect(rewrap(2, 1, &[1, 2])), Effect::Rewrapped(1));
    assert!(matches!(share(&b.kv, &key(1)).unwrap(), Held::Tombstone(_)));
    assert_eq!(b.live(), [(1, 0), (2, 1)]);
    // A share of another length would never open again.
    let Command::Rewrap(mut bad) = rewrap(2, 1, &[2]) else {
        unreachable!()
    };
    bad.items[0].wrapped.0.pop();
    let e = b.effect(Command::Rewrap(bad));
    assert!(matches!(&e, Effect::Refused { reason } if reason.contains("71 bytes")));
}

struct Keys(BTreeMap<u32, WrappingKey>);

impl WrappingKeys for Keys {
    fn wrapping_key(&self, version: u32) -> Option<&WrappingKey> {
        self.0.get(&version)
    }
}

/// The leader's part, over real wrapping: the new bytes hold the same share, and only what
/// opens and keeps its commitment is wrapped anew.
#[test]
fn the_leader_wraps_the_same_share_and_leaves_what_does_not_open() {
    let place = Place {
        deployment: DEPLOYMENT,
        custodian: custodian("ch"),
    };
    let key_of = |n: u8| WrappingKey(Secret::take(&mut [n; 32]));
    let all =
        |versions: &[(u32, u8)]| Keys(versions.iter().map(|(v, n)| (*v, key_of(*n))).collect());
    let share_of = |k: u8| crate::types::Share(Secret::take(&mut [k; 32]));
    let row = |k: u8| {
        let binding = crate::crypto::seal::ShareBinding {
            deployment: place.deployment,
            custodian: place.custodian.clone(),
            chat: chat(1),
            key_id: key(k),
            policy: policy().id(),
        };
        let wrapped = crate::crypto::wrap::wrap(&key_of(1), 1, &binding, [k; 24], &share_of(k));
        let row = ShareRow {
            home: home("ae"),
            chat: chat(1),
            epoch: EPOCH,
            policy: policy().id(),
            commitment: crate::sharing::commitment(&key(k), &place.custodian, &share_of(k)),
            version: 1,
            wrapped: Wrapped(wrapped.to_vec()),
            stored_ms: T0,
            expires_ms: None,
            released: false,
        };
        (key(k), binding, row)
    };
    let (rows, bindings): (Vec<_>, Vec<_>) = [1, 2, 3, 4]
        .into_iter()
        .map(row)
        .map(|(k, b, r)| ((k, r), b))
        .unzip();
    let mut rows = rows;
    rows[1].1.wrapped.0[40] ^= 1;
    rows[2].1.commitment[0] ^= 1;
    let mut rng = ChaCha20Rng::seed_from_u64(7);
    let both = all(&[(1, 1), (2, 2)]);
    let (items, damaged) = wrap_anew(&place, &both, 2, &rows, &mut rng);
    assert_eq!(damaged, 2);
    let moved: Vec<_> = items.iter().map(|i| (i.key_id, i.from)).collect();
    assert_eq!(moved, [(key(1), 1), (key(4), 1)]);
    for (item, k) in items.iter().zip([1u8, 4]) {
        let binding = &bindings[usize::from(k) - 1];
        let open = |with: u8, version| {
            crate::crypto::wrap::unwrap(&key_of(with), version, binding, &item.wrapped.0)
        };
        assert_eq!(open(2, 2).unwrap().expose(), share_of(k).expose());
        assert!(open(1, 1).is_err() && open(1, 2).is_err());
    }
    // Without either key nothing is touched.
    for keys in [all(&[(1, 1)]), all(&[(2, 2)])] {
        let (items, damaged) = wrap_anew(&place, &keys, 2, &rows, &mut rng);
        assert!(items.is_empty() && damaged == 4);
    }
}
