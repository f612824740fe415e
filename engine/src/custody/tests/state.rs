//! Exact effects on freezes, policies, key versions, and on the log itself.

use super::*;
use crate::audit::KeyOutcome;
use crate::crypto::seal::RecipientKey;
use crate::crypto::sign::SigningKey;

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
    // The one before stays in use for what lives under it, never as the current one again.
    assert_eq!(
        b.effect(use_version(Wrapping, 2, [8; 32], None)),
        Effect::Unchanged
    );
    assert_eq!(version_in_use(&b.kv, Wrapping).unwrap(), Some(3));
}

#[test]
fn policies_are_approved_only_where_this_custodian_stands_in_them() {
    let mut b = Bench::empty();
    let good = policy().canonical();
    assert_eq!(b.effect(approve(good.clone())), Effect::Done);
    assert_eq!(b.effect(approve(good.clone())), Effect::Unchanged);
    assert_eq!(approved_policies(&b.kv).unwrap(), [policy().id()]);
    let stranger = machine("sg", [2; 32]);
    let impostor = machine("ch", [3; 32]);
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
    b.clock = audit::TIME_MS_MAX;
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
            grant: String::new(),
            signature_holds: true,
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
