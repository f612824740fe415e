//! Orders from submission to release, attacks on them, and which epochs they cover.

use super::*;
use crate::authz::officers::testkit::*;
use crate::authz::officers::{Act, Waits};

const HOUR: u64 = 60 * 60 * 1000;
const DAY: u64 = 24 * HOUR;

fn order() -> Order {
    Order {
        issuer: "Tribunal de première instance".into(),
        legal_basis: "CPP 269, file 4711".into(),
        document_hash: DocumentHash([5; 32]),
        scope: OrderScope {
            chats: BTreeSet::from([ChatId([1; 32])]),
            accounts: BTreeSet::new(),
            from_ms: T0,
            to_ms: T0 + DAY,
        },
        reason: "kidnapping".into(),
        submitted_by: OfficerKey(key(9).public()),
        expires_ms: T0 + 30 * DAY,
        recipient: "ab".repeat(32),
    }
}

fn signed(order: &Order, n: u8) -> Envelope {
    sign(&Statement::Order(order.clone()), &[n])
}

fn open() -> OrderState {
    submit(&signed(&order(), 9), &at(T0)).unwrap()
}

fn says(s: &OrderState, n: u8, verdict: Verdict) -> Decision {
    let e = sign(
        &Statement::Decision(decision(Subject::Order(s.id()), verdict, n)),
        &[n],
    );
    Decision::verified(&e, &at(T0)).unwrap()
}

#[test]
fn two_officers_a_cool_off_and_then_until_it_expires() {
    let r = roster(3, 2);
    let s = open();
    assert_eq!(s.status(&r, 0, T0), OrderStatus::Open { missing: 2 });
    let s = s
        .decide(&r, &says(&s, 1, Verdict::Approve), &at(T0 + 1))
        .unwrap();
    assert_eq!(s.status(&r, 0, T0 + DAY), OrderStatus::Open { missing: 1 });
    let s = s
        .decide(&r, &says(&s, 2, Verdict::Approve), &at(T0 + 2))
        .unwrap();
    let until_ms = T0 + 2 + COOL_OFF_MS_MIN;
    assert_eq!(
        s.status(&r, 0, until_ms - 1),
        OrderStatus::CoolingOff { until_ms }
    );
    assert_eq!(s.status(&r, 0, until_ms), OrderStatus::Releasable);
    let longer = s.status(&r, DAY, until_ms);
    assert_eq!(
        longer,
        OrderStatus::CoolingOff {
            until_ms: T0 + 2 + DAY
        }
    );
    let mut done = s.clone();
    done.executed = Some(7);
    assert_eq!(done.status(&r, 0, until_ms), OrderStatus::Executed);
    assert_eq!(done.status(&r, 0, T0 + 30 * DAY), OrderStatus::Expired);
    // The same two, but one has left: her approval is gone, whatever the time.
    let left = without(&r, 2);
    assert_eq!(
        s.status(&left, 0, until_ms),
        OrderStatus::Open { missing: 1 }
    );
}

#[test]
fn officers_make_the_cool_off_longer_and_never_shorter_than_the_code() {
    let waits = |cool_off_ms| Waits {
        cool_off_ms: Some(cool_off_ms),
        recovery_ms: None,
    };
    let after = |r: &Roster, ms| {
        let act = Act::SetWaits { waits: waits(ms) };
        r.after(&act).unwrap().unwrap()
    };
    let r = after(&roster(3, 2), DAY);
    let mut s = open();
    for n in [1, 2] {
        s = s
            .decide(&r, &says(&s, n, Verdict::Approve), &at(T0))
            .unwrap();
    }
    let until = |r: &Roster, own| match s.status(r, own, T0 + COOL_OFF_MS_MIN - 1) {
        OrderStatus::CoolingOff { until_ms } => until_ms - T0,
        other => panic!("{other:?}"),
    };
    assert_eq!(until(&r, 0), DAY);
    assert_eq!(
        until(&r, 2 * DAY),
        2 * DAY,
        "the node's own, if it is longer"
    );
    assert_eq!(until(&after(&r, COOL_OFF_MS_MIN), 0), COOL_OFF_MS_MIN);
}

#[test]
fn the_submitter_an_officer_twice_and_strangers_do_not_count() {
    let r = roster(3, 2);
    let mine = Order {
        submitted_by: OfficerKey(key(1).public()),
        ..order()
    };
    let s = submit(&signed(&mine, 1), &at(T0)).unwrap();
    let approve = |s: &OrderState, n| s.decide(&r, &says(s, n, Verdict::Approve), &at(T0));
    assert_eq!(approve(&s, 1), Err(OfficerRefusal::Submitter(id(1))));
    let once = approve(&s, 2).unwrap();
    assert_eq!(approve(&once, 2), Err(OfficerRefusal::Twice(id(2))));
    assert_eq!(approve(&once, 7), Err(OfficerRefusal::NotAnOfficer(id(7))));
    assert_eq!(once.status(&r, 0, T0), OrderStatus::Open { missing: 1 });
    // With the submitter out, two of three remain: one against it ends it.
    let no = once
        .decide(&r, &says(&once, 3, Verdict::Reject), &at(T0))
        .unwrap();
    assert_eq!(no.status(&r, 0, T0), OrderStatus::Rejected);
    assert_eq!(no.rejections[&id(3)], "because");
    assert_eq!(approve(&no, 2), Err(OfficerRefusal::Closed("rejected")));
    // Only the submitter takes it back.
    let withdraw = |n| once.decide(&r, &says(&once, n, Verdict::Withdraw), &at(T0));
    assert!(matches!(
        withdraw(2),
        Err(OfficerRefusal::NotTheSigner { .. })
    ));
    let gone = withdraw(1).unwrap();
    assert_eq!(gone.status(&r, 0, T0), OrderStatus::Withdrawn);
    assert_eq!(approve(&gone, 3), Err(OfficerRefusal::Closed("withdrawn")));
}

#[test]
fn an_edited_order_is_another_order() {
    let r = roster(3, 2);
    let s = open();
    let approval = says(&s, 1, Verdict::Approve);
    let wider = Order {
        scope: OrderScope {
            to_ms: T0 + 9 * DAY,
            ..order().scope
        },
        ..order()
    };
    let other = submit(&signed(&wider, 9), &at(T0)).unwrap();
    assert_ne!(other.id(), s.id());
    let refused = other.decide(&r, &approval, &at(T0));
    assert!(matches!(refused, Err(OfficerRefusal::Unknown(_))));
    // Bytes changed after signing hold no signature at all.
    let mut bent = signed(&order(), 9);
    bent.payload = bent.payload.replace("kidnapping", "kidnapping2");
    assert!(matches!(
        submit(&bent, &at(T0)),
        Err(OfficerRefusal::Envelope(_))
    ));
}

#[test]
fn an_approval_taken_back_stops_even_an_executed_order() {
    let r = roster(3, 2);
    let mut s = open();
    for n in [1, 2] {
        s = s
            .decide(&r, &says(&s, n, Verdict::Approve), &at(T0))
            .unwrap();
    }
    s.executed = Some(1);
    let later = T0 + DAY;
    assert!(s.status(&r, 0, later).releases());
    let s = s
        .decide(&r, &says(&s, 2, Verdict::Reject), &at(later))
        .unwrap();
    assert!(!s.status(&r, 0, later).releases());
    let again = s.decide(&r, &says(&s, 2, Verdict::Approve), &at(later));
    assert_eq!(again, Err(OfficerRefusal::Twice(id(2))));
}

#[test]
fn malformed_orders_are_refused() {
    type Bend = fn(&mut Order);
    let bends: [(&str, Bend); 8] = [
        ("issuer", |o| o.issuer.clear()),
        ("legal basis", |o| o.legal_basis = "x\ny".into()),
        ("reason", |o| o.reason = "x".repeat(1025)),
        ("scope", |o| o.scope.chats.clear()),
        ("scope", |o| o.scope.to_ms = o.scope.from_ms),
        ("scope", |o| {
            o.scope.chats = (0..65).map(|n| ChatId([n; 32])).collect();
        }),
        ("recipient", |o| o.recipient = "ab".into()),
        ("recipient", |o| o.recipient = "zz".repeat(32)),
    ];
    for (field, bend) in bends {
        let mut o = order();
        bend(&mut o);
        let refused = submit(&signed(&o, 9), &at(T0)).unwrap_err();
        assert!(
            matches!(refused, OfficerRefusal::Order { what, .. } if what == field),
            "{field}: {refused}"
        );
    }
    let late = submit(&signed(&order(), 9), &at(T0 + 30 * DAY));
    assert!(matches!(late, Err(OfficerRefusal::Expired { .. })));
    let long = Order {
        expires_ms: T0 + 91 * DAY,
        ..order()
    };
    assert!(matches!(
        submit(&signed(&long, 9), &at(T0)),
        Err(OfficerRefusal::Life { .. })
    ));
    assert!(matches!(
        submit(&signed(&order(), 8), &at(T0)),
        Err(OfficerRefusal::NotTheSigner { .. })
    ));
}

/// Epochs 0, 1, … of one chat, stored at these times.
fn hits(times: &[u64], from_ms: u64, to_ms: u64) -> Vec<(u8, bool)> {
    let scope = OrderScope {
        chats: BTreeSet::new(),
        accounts: BTreeSet::new(),
        from_ms,
        to_ms,
    };
    let one = |(n, at): (usize, &u64)| {
        let epoch = StoredEpoch {
            epoch: n as u32,
            stored_ms: *at,
            key: KeyId([n as u8; 16]),
        };
        in_scope(&epoch, times.get(n + 1).copied(), &scope)
    };
    let found = times.iter().enumerate().filter_map(one);
    found.map(|e| (e.key.0[0], e.closed)).collect()
}

#[test]
fn an_epoch_runs_to_the_next_store_and_seven_days_at_most() {
    let t = [100, 200, 300];
    assert_eq!(hits(&t, 0, 100), []);
    assert_eq!(hits(&t, 0, 101), [(0, true)]);
    assert_eq!(hits(&t, 199, 200), [(0, true)]);
    assert_eq!(hits(&t, 200, 201), [(1, true)]);
    assert_eq!(hits(&t, 150, 301), [(0, true), (1, true), (2, false)]);
    let end = 300 + EPOCH_RUN_MS_MAX;
    assert_eq!(hits(&t, end - 1, u64::MAX), [(2, false)]);
    assert_eq!(hits(&t, end, u64::MAX), []);
    // A successor after a month does not stretch its predecessor.
    let far = [0, 4 * EPOCH_RUN_MS_MAX];
    assert_eq!(hits(&far, 2 * EPOCH_RUN_MS_MAX, 3 * EPOCH_RUN_MS_MAX), []);
    // Stored at one moment: the first was over at once.
    assert_eq!(hits(&[100, 100, 200], 150, 160), [(1, true)]);
    assert_eq!(hits(&[100, 100, 200], 100, 101), [(0, true), (1, true)]);
}

#[test]
fn a_share_that_came_late_ran_before_its_successor() {
    let week = EPOCH_RUN_MS_MAX;
    let t = [3 * week, 2 * week];
    assert_eq!(hits(&t, 0, week), []);
    assert_eq!(hits(&t, week, week + 1), [(0, true)]);
    assert_eq!(hits(&t, 2 * week, 2 * week + 1), [(1, false)]);
    assert_eq!(hits(&t, 3 * week, 4 * week), []);
}

proptest::proptest! {
    /// Against the definition, moment by moment.
    #[test]
    fn overlap_is_what_a_walk_over_every_moment_finds(
        times in proptest::collection::vec(0u64..40, 0..8), from in 0u64..40, len in 1u64..20,
    ) {
        let runs = |n: usize, m: u64| match times.get(n + 1) {
            Some(next) if *next < times[n] => m < *next,
            Some(next) if *next == times[n] => m == times[n],
            next => m >= times[n] && next.is_none_or(|t| m < *t),
        };
        let naive: Vec<u8> = (0..times.len())
            .filter(|n| (from..from + len).any(|m| runs(*n, m)))
            .map(|n| n as u8)
            .collect();
        let found: Vec<u8> = hits(&times, from, from + len).iter().map(|(n, _)| *n).collect();
        proptest::prop_assert_eq!(found, naive);
    }
}
