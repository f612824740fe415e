//! Officers and orders through `apply`: what takes a quorum, what is refused,
//! what an order opens, and random orders against a plain account of them.

use super::*;
use crate::audit::{EntryKind, KeyOutcome};
use crate::authz::envelope::Envelope;
use crate::authz::officers::Proposal;
use crate::authz::officers::testkit as kit;
use crate::authz::officers::*;
use crate::authz::orders::*;
use proptest::prelude::*;

pub(super) const DAY: u64 = 24 * HOUR;

pub(super) fn hand_in(statement: Envelope) -> Command {
    Command::Officers(Officers {
        operator: operator(),
        statement,
    })
}

/// Three officers, two of whom must agree.
fn with_officers() -> Bench {
    let mut b = Bench::ready();
    let all = kit::sign(&kit::bootstrap(3, 2), &[1, 2, 3]);
    let done = b.effect(hand_in(all));
    assert!(matches!(done, Effect::Decided { .. }), "{done:?}");
    assert_eq!(b.last_entry().kind, EntryKind::OfficerBootstrap);
    b
}

fn proposal(number: u64, act: Act) -> Proposal {
    Proposal {
        custodian: custodian("ch"),
        number,
        act,
        reason: "agreed".into(),
        by: kit::id(1),
        expires_ms: T0 + 20 * DAY,
    }
}

fn paper(number: u64, act: Act, by: &[u8]) -> Envelope {
    kit::sign(&Statement::Proposal(proposal(number, act)), by)
}

pub(super) fn say(subject: Subject, verdict: Verdict, n: u8) -> Command {
    let d = kit::decision(subject, verdict, n);
    hand_in(kit::sign(&Statement::Decision(d), &[n]))
}

pub(super) fn refused(effect: &Effect) -> String {
    match effect {
        Effect::Refused { reason } => reason.clone(),
        other => panic!("not refused: {other:?}"),
    }
}

fn carried(effect: &Effect) -> bool {
    matches!(effect, Effect::Decided { carried: true, .. })
}

#[test]
fn before_there_are_officers_operators_do_as_before() {
    let mut b = Bench::ready();
    b.effect(freeze(FreezeScope::All));
    assert_eq!(b.effect(thaw(FreezeScope::All)), Effect::Done);
    let early = b.effect(hand_in(paper(1, Act::SetQuorum { quorum: 2 }, &[1, 2])));
    assert!(refused(&early).contains("officer bootstrap"));
}

#[test]
fn afterwards_only_a_quorum_thaws_shreds_and_approves() {
    let mut b = with_officers();
    b.effect(store(1, vec![item(1, 1, 5)]));
    let again = b.effect(hand_in(kit::sign(&kit::bootstrap(2, 2), &[1, 2])));
    assert!(refused(&again).contains("has officers already"));
    // One operator still stops everything, and alone starts nothing again.
    assert_eq!(b.effect(freeze(FreezeScope::All)), Effect::Done);
    for alone in [
        thaw(FreezeScope::All),
        shred(vec![key_ref(1, 1)]),
        approve(policy().canonical()),
    ] {
        assert!(refused(&b.effect(alone)).contains("quorum"));
        assert!(!b.last_entry().done);
    }
    assert_eq!(
        results(&b.effect(release(1, vec![key_ref(1, 1)]))),
        [Err(Refusal::Frozen)]
    );
    let act = Act::Thaw {
        scope: ThawScope::All,
    };
    let first = paper(1, act.clone(), &[1]);
    let subject = Subject::Proposal(ProposalId(first.hash()));
    assert!(!carried(&b.effect(hand_in(first.clone()))));
    assert_eq!(proposals_open(&b.kv, T0).unwrap().len(), 1);
    assert!(refused(&b.effect(say(subject, Verdict::Approve, 1))).contains("counts once"));
    assert!(refused(&b.effect(say(subject, Verdict::Approve, 7))).contains("no officer"));
    assert!(carried(&b.effect(say(subject, Verdict::Approve, 2))));
    let entry = b.last_entry();
    assert_eq!(entry.acts, ["approve", "carried"]);
    assert_eq!(entry.officer, Some(kit::id(2)));
    assert!(proposals_open(&b.kv, T0).unwrap().is_empty());
    assert_eq!(results(&b.effect(release(2, vec![key_ref(1, 1)]))), [Ok(5)]);
    // The same paper again, after the next freeze.
    b.effect(freeze(FreezeScope::All));
    assert!(refused(&b.effect(hand_in(first))).contains("submitted before"));
    assert!(refused(&b.effect(say(subject, Verdict::Approve, 3))).contains("carried out"));
    assert_eq!(freezes(&b.kv).unwrap().len(), 1);
    let keys = vec![ShredKey {
        chat: chat(1),
        key: key(1),
    }];
    assert!(carried(&b.effect(hand_in(paper(
        2,
        Act::Shred { keys },
        &[1, 3]
    )))));
    assert_eq!(b.last_entry().keys[0].outcome, KeyOutcome::Destroyed);
    assert!(matches!(share(&b.kv, &key(1)).unwrap(), Held::Tombstone(_)));
}

#[test]
fn an_expired_an_edited_and_a_foreign_paper_move_nothing() {
    let mut b = with_officers();
    b.effect(freeze(FreezeScope::All));
    let act = Act::Thaw {
        scope: ThawScope::All,
    };
    let mut edited = paper(1, act.clone(), &[1, 2]);
    edited.payload = edited.payload.replace("\"all\"", "\"ALL\"");
    assert!(!matches!(b.effect(hand_in(edited)), Effect::Decided { .. }));
    let mut unsigned = paper(1, act.clone(), &[1, 2]);
    unsigned.signatures.clear();
    assert!(refused(&b.effect(hand_in(unsigned))).contains("signatures"));
    let mut foreign = proposal(1, act.clone());
    foreign.custodian = custodian("is");
    let foreign = kit::sign(&Statement::Proposal(foreign), &[1, 2]);
    assert!(refused(&b.effect(hand_in(foreign))).contains("for custodian is"));
    let open = paper(1, act.clone(), &[1]);
    let subject = Subject::Proposal(ProposalId(open.hash()));
    b.effect(hand_in(open));
    b.clock = T0 + 20 * DAY;
    assert!(refused(&b.effect(say(subject, Verdict::Approve, 2))).contains("expired"));
    assert!(refused(&b.effect(hand_in(paper(2, act, &[1, 2])))).contains("expired"));
    assert_eq!(freezes(&b.kv).unwrap().len(), 1);
}

#[test]
fn a_removed_officers_approval_is_gone_with_her() {
    let mut b = with_officers();
    b.effect(freeze(FreezeScope::All));
    let act = Act::Thaw {
        scope: ThawScope::All,
    };
    let open = kit::sign(
        &Statement::Proposal(Proposal {
            by: kit::id(3),
            ..proposal(1, act)
        }),
        &[3],
    );
    let subject = Subject::Proposal(ProposalId(open.hash()));
    b.effect(hand_in(open));
    let remove = Act::RemoveOfficer {
        officer: kit::id(3),
    };
    assert!(carried(&b.effect(hand_in(paper(2, remove, &[1, 2])))));
    assert!(!roster(&b.kv).unwrap().unwrap().has(&kit::id(3)));
    assert!(refused(&b.effect(say(subject, Verdict::Approve, 2))).contains("has left"));
    assert_eq!(freezes(&b.kv).unwrap().len(), 1);
}

#[test]
fn no_quorum_approves_a_policy_under_the_floor() {
    let mut b = with_officers();
    let lone = |n: &str, entity: &str, bloc: &str| {
        let d = Dependence {
            entity: entity.into(),
            blocs: BTreeSet::from([bloc.to_owned()]),
        };
        (custodian(n), d)
    };
    let approve = |members: [(CustodianId, Dependence); 3]| Act::ApprovePolicy {
        canonical: hex::encode(policy().canonical()),
        members: BTreeMap::from(members),
    };
    let owned = approve([
        lone("br", "A", "x"),
        lone("ch", "B", "y"),
        lone("is", "B", "z"),
    ]);
    assert!(refused(&b.effect(hand_in(paper(1, owned, &[1, 2])))).contains("entities"));
    let fine = approve([
        lone("br", "A", "x"),
        lone("ch", "B", "y"),
        lone("is", "C", "z"),
    ]);
    assert!(carried(&b.effect(hand_in(paper(2, fine.clone(), &[1, 2])))));
    let floor = Floor {
        threshold: 3,
        ..Floor::default()
    };
    assert!(carried(&b.effect(hand_in(paper(
        3,
        Act::RaiseFloor { floor },
        &[1, 2]
    )))));
    assert!(refused(&b.effect(hand_in(paper(4, fine, &[1, 2])))).contains("floor is 3"));
}

fn order(from_ms: u64, to_ms: u64, chats: &[u8]) -> Envelope {
    let order = Order {
        issuer: "a court".into(),
        legal_basis: "file 1".into(),
        document_hash: DocumentHash([1; 32]),
        scope: OrderScope {
            chats: chats.iter().map(|c| chat(*c)).collect(),
            accounts: BTreeSet::new(),
            from_ms,
            to_ms,
        },
        reason: "served".into(),
        submitted_by: OfficerKey(kit::key(3).public()),
        expires_ms: T0 + 30 * DAY,
        recipient: "ab".repeat(32),
    };
    kit::sign(&Statement::Order(order), &[3])
}

pub(super) fn order_release(request: u8, id: OrderId, keys: Vec<KeyRef>) -> Command {
    Command::OrderRelease(OrderRelease {
        order: id,
        request: RequestId([request; 16]),
        home: home("ae"),
        node: 4,
        lease_key: [1; 32],
        keys,
    })
}

/// Key `k` of chat `c`, of the epoch with that number.
fn epoch(c: u8, k: u8) -> StoreItem {
    StoreItem {
        epoch: k.into(),
        ..item(c, k, k)
    }
}

#[test]
fn an_order_opens_its_closed_epochs_after_the_cool_off_and_nothing_else() {
    use Refusal::NotAuthorised;
    let mut b = with_officers();
    let t1 = T0 + DAY;
    for (time, c, k) in [(T0, 1, 1), (t1, 1, 2), (t1, 2, 9), (T0 + 3 * DAY, 1, 3)] {
        b.clock = time;
        b.effect(store(1, vec![epoch(c, k)]));
    }
    let paper = order(t1, t1 + HOUR, &[1]);
    let id = order_id(&paper);
    assert!(matches!(
        b.effect(hand_in(paper.clone())),
        Effect::Decided { .. }
    ));
    assert_eq!(b.last_entry().kind, EntryKind::Order);
    assert!(refused(&b.effect(hand_in(paper.clone()))).contains("submitted before"));
    let asked: Vec<_> = [(1, 1), (1, 2), (2, 9), (1, 3), (1, 4)]
        .map(|(c, k)| key_ref(c, k))
        .to_vec();
    let nothing = [Err(Refusal::Order); 5];
    assert_eq!(
        results(&b.effect(order_release(1, id, asked.clone()))),
        nothing
    );
    assert_eq!(b.last_entry().refused.unwrap(), "the order is open here");
    let subject = Subject::Order(id);
    // The submitter is an officer and counts for nothing.
    assert!(refused(&b.effect(say(subject, Verdict::Approve, 3))).contains("submitted the order"));
    b.effect(say(subject, Verdict::Approve, 1));
    assert!(refused(&b.effect(say(subject, Verdict::Approve, 1))).contains("counts once"));
    b.effect(say(subject, Verdict::Approve, 2));
    assert_eq!(
        results(&b.effect(order_release(2, id, asked.clone()))),
        nothing
    );
    assert!(b.last_entry().refused.unwrap().contains("cooling_off"));
    b.clock += COOL_OFF_MS_MIN;
    let want = [
        Err(NotAuthorised),
        Ok(2),
        Err(NotAuthorised),
        Err(NotAuthorised),
        Err(Refusal::NotHeld),
    ];
    assert_eq!(
        results(&b.effect(order_release(3, id, asked.clone()))),
        want
    );
    let entry = b.last_entry();
    assert_eq!(
        (entry.kind, entry.order),
        (EntryKind::OrderRelease, Some(id))
    );
    assert_eq!(entry.reason.as_deref(), Some("order"));
    let shown = order_scope(&b.kv, &id, &order_of(&b, &id)).unwrap();
    let keys: Vec<_> = shown[0].epochs.iter().map(|e| (e.key, e.closed)).collect();
    assert_eq!((shown.len(), keys), (1, vec![(key(2), true)]));
    // A freeze stands above any order, and an ordinary release is no way around one.
    b.effect(freeze(FreezeScope::Chat(chat(1))));
    assert_eq!(
        results(&b.effect(order_release(4, id, vec![key_ref(1, 2)]))),
        [Err(Refusal::Frozen)]
    );
    let text = id.to_string();
    let Command::Release(bare) = release(5, vec![key_ref(2, 9)]) else {
        unreachable!()
    };
    let bare = Release {
        grant: text,
        ..bare
    };
    assert_eq!(
        results(&b.effect(Command::Release(bare))),
        [Err(Refusal::Grant(GrantRefusal::NotCompact))]
    );
    b.clock = T0 + 30 * DAY;
    assert_eq!(
        results(&b.effect(order_release(6, id, vec![key_ref(1, 2)]))),
        [Err(Refusal::Order)]
    );
}

fn order_of(b: &Bench, id: &OrderId) -> Order {
    super::order(&b.kv, id).unwrap().unwrap().order().unwrap()
}

#[test]
fn an_open_epoch_waits_for_its_successor_and_an_abandoned_one_is_none() {
    let mut b = with_officers();
    b.effect(store(1, vec![epoch(1, 1)]));
    let paper = order(T0, T0 + HOUR, &[1]);
    let id = order_id(&paper);
    b.effect(hand_in(paper));
    for n in [1, 2] {
        b.effect(say(Subject::Order(id), Verdict::Approve, n));
    }
    b.clock += 2 * HOUR;
    let ask = |r| order_release(r, id, vec![key_ref(1, 1)]);
    assert_eq!(results(&b.effect(ask(1))), [Err(Refusal::NotAuthorised)]);
    b.effect(store(1, vec![epoch(1, 2)]));
    b.effect(abandon(vec![key_ref(1, 2)]));
    assert_eq!(results(&b.effect(ask(2))), [Err(Refusal::NotAuthorised)]);
    b.effect(store(1, vec![epoch(1, 3)]));
    assert_eq!(results(&b.effect(ask(3))), [Ok(1)]);
}

#[test]
fn an_open_epoch_is_not_closed_by_a_share_that_comes_late() {
    let mut b = with_officers();
    b.effect(store(1, vec![epoch(1, 2)]));
    let paper = order(T0, T0 + DAY, &[1]);
    let id = order_id(&paper);
    b.effect(hand_in(paper));
    for n in [1, 2] {
        b.effect(say(Subject::Order(id), Verdict::Approve, n));
    }
    b.clock += 2 * HOUR;
    // Epoch 1 lay in the home's outbox; epoch 2 is the one being written still.
    b.effect(store(1, vec![epoch(1, 1)]));
    let asked = vec![key_ref(1, 1), key_ref(1, 2)];
    let refused = Err(Refusal::NotAuthorised);
    let early = order(T0 - DAY, T0, &[1]);
    assert_eq!(
        results(&b.effect(order_release(1, id, asked))),
        [refused, refused]
    );
    let shown = |b: &Bench, paper: &Envelope| {
        let Statement::Order(order) = Statement::read(paper).unwrap() else {
            unreachable!()
        };
        let shown = order_scope(&b.kv, &order_id(paper), &order);
        let shown = shown.unwrap().remove(0).epochs;
        shown
            .iter()
            .map(|e| (e.epoch, e.closed))
            .collect::<Vec<_>>()
    };
    assert_eq!(shown(&b, &order(T0, T0 + DAY, &[1])), [(2, false)]);
    assert_eq!(shown(&b, &early), [(1, true)]);
}

#[derive(Clone, Debug)]
enum Op {
    Store(u8),
    Approve(u8),
    Reject(u8),
    Withdraw(u8),
    Freeze(bool),
    Release(u8),
    Clock(u64),
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        3 => (0u8..2).prop_map(Op::Store),
        4 => (0u8..6).prop_map(Op::Approve),
        1 => (0u8..6).prop_map(Op::Reject),
        1 => (0u8..6).prop_map(Op::Withdraw),
        1 => any::<bool>().prop_map(Op::Freeze),
        6 => (0u8..10).prop_map(Op::Release),
        4 => (0u64..60).prop_map(|n| Op::Clock(n * HOUR)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    /// One order over chat 1 and two days, everything random: a share goes
    /// out exactly when the plain account below says so.
    #[test]
    fn who_gets_what_under_an_order(ops in prop::collection::vec(op(), 1..60)) {
        let mut b = with_officers();
        let (from, to) = (T0 + DAY, T0 + 3 * DAY);
        let paper = order(from, to, &[1]);
        let id = order_id(&paper);
        b.effect(hand_in(paper));
        let (mut yes, mut no) = (BTreeMap::<u8, u64>::new(), BTreeSet::<u8>::new());
        let (mut withdrawn, mut frozen) = (false, false);
        let mut stored: Vec<(u8, u8, u64)> = vec![];
        for (n, op) in ops.into_iter().enumerate() {
            let now = b.clock;
            let over = |yes: &BTreeMap<u8, u64>, no: &BTreeSet<u8>| {
                withdrawn || now >= T0 + 30 * DAY || !no.is_empty() && yes.len() < 2
            };
            match op {
                Op::Clock(by) => b.clock += by,
                Op::Store(c) => {
                    let k = stored.len() as u8;
                    b.effect(store(1, vec![epoch(c, k)]));
                    stored.push((c, k, now));
                }
                Op::Freeze(on) => {
                    frozen |= on;
                    if on { b.effect(freeze(FreezeScope::All)); }
                }
                Op::Approve(o) | Op::Reject(o) => {
                    let verdict = if matches!(op, Op::Approve(_)) { Verdict::Approve } else { Verdict::Reject };
                    let again = verdict == Verdict::Approve && yes.contains_key(&o);
                    let open = !over(&yes, &no) && !no.contains(&o);
                    let fine = (1..=2).contains(&o) && open && !again;
                    let got = b.effect(say(Subject::Order(id), verdict, o));
                    prop_assert_eq!(matches!(got, Effect::Decided { .. }), fine, "{:?}", got);
                    if fine && verdict == Verdict::Approve { yes.insert(o, now); }
                    if fine && verdict == Verdict::Reject { yes.remove(&o); no.insert(o); }
                }
                Op::Withdraw(o) => {
                    let fine = o == 3 && !over(&yes, &no);
                    let got = b.effect(say(Subject::Order(id), Verdict::Withdraw, o));
                    prop_assert_eq!(matches!(got, Effect::Decided { .. }), fine, "{:?}", got);
                    withdrawn |= fine;
                }
                Op::Release(k) => {
                    let held = stored.iter().find(|(_, s, _)| *s == k);
                    let c = held.map_or(1, |(c, _, _)| *c);
                    let got = results(&b.effect(order_release(n as u8, id, vec![key_ref(c, k)])));
                    let last = yes.values().max().copied().unwrap_or(0);
                    let approved = !over(&yes, &no) && yes.len() == 2 && now >= last + COOL_OFF_MS_MIN;
                    let want = held.is_some_and(|(c, _, at)| {
                        let next = stored.iter().find(|(d, s, _)| d == c && *s > k).map(|(_, _, t)| *t);
                        *c == 1 && *at < to && next.is_some_and(|t| t.max(at + 1).min(at + 7 * DAY) > from)
                    });
                    prop_assert_eq!(got[0].is_ok(), approved && want && !frozen, "{:?}", got);
                }
            }
        }
    }
}
