//! The roster, what it decides, and attacks on both.

use super::testkit::*;
use super::*;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

const DAY: u64 = 24 * 60 * 60 * 1000;

fn thaw() -> Act {
    Act::Thaw {
        scope: ThawScope::All,
    }
}

fn proposal(act: Act, by: u8) -> Proposal {
    Proposal {
        custodian: ch(),
        number: 1,
        act,
        reason: "agreed".into(),
        by: id(by),
        expires_ms: T0 + DAY,
    }
}

fn proposed(r: &Roster, act: Act, by: u8, also: &[u8]) -> Result<ProposalState, OfficerRefusal> {
    let mut keys = vec![by];
    keys.extend(also);
    propose(
        r,
        &sign(&Statement::Proposal(proposal(act, by)), &keys),
        &at(T0),
    )
}

fn says(s: &ProposalState, n: u8, verdict: Verdict) -> Decision {
    let d = decision(Subject::Proposal(s.id()), verdict, n);
    Decision::verified(&sign(&Statement::Decision(d), &[n]), &at(T0)).unwrap()
}

fn approve(r: &Roster, s: &ProposalState, n: u8) -> Result<ProposalState, OfficerRefusal> {
    decide(r, s, &says(s, n, Verdict::Approve), &at(T0 + 1))
}

#[test]
fn the_first_roster_is_signed_by_all_in_it() {
    let try_one = |s: Statement, by: &[u8]| Roster::bootstrap(&sign(&s, by), &at(T0));
    assert_eq!(
        try_one(bootstrap(3, 2), &[1, 2, 3])
            .unwrap()
            .officers()
            .len(),
        3
    );
    assert_eq!(
        try_one(bootstrap(3, 2), &[1, 2]),
        Err(OfficerRefusal::Possession(id(3)))
    );
    assert_eq!(
        try_one(bootstrap(2, 2), &[1, 2, 3]),
        Err(OfficerRefusal::NotAnOfficer(id(3)))
    );
    assert_eq!(
        try_one(bootstrap(1, 2), &[1]),
        Err(OfficerRefusal::OfficerCount(1))
    );
    for quorum in [0, 1, 3, 255] {
        let refused = try_one(bootstrap(3, quorum), &[1, 2, 3]).unwrap_err();
        assert!(
            matches!(refused, OfficerRefusal::Quorum { max: 2, .. }),
            "{quorum}"
        );
    }
    // Omitted is no number at all.
    let mut omitted = sign(&bootstrap(2, 2), &[1, 2]);
    omitted.payload = omitted.payload.replace(",\"quorum\":2", "");
    assert!(matches!(
        Roster::bootstrap(&omitted, &at(T0)),
        Err(OfficerRefusal::Envelope(_))
    ));
    let Statement::Bootstrap(mut b) = bootstrap(2, 2) else {
        unreachable!()
    };
    b.custodian = CustodianId::new("is").unwrap();
    assert!(matches!(
        try_one(Statement::Bootstrap(b.clone()), &[1, 2]),
        Err(OfficerRefusal::OtherCustodian { .. })
    ));
    b.custodian = ch();
    b.officers[1] = b.officers[0].clone();
    assert!(matches!(
        try_one(Statement::Bootstrap(b), &[1]),
        Err(OfficerRefusal::Name(_))
    ));
}

#[test]
fn waits_are_set_within_hard_bounds_and_one_by_one() {
    use crate::authz::identity::RECOVERY_WAIT_MS_MIN;
    use crate::authz::orders::COOL_OFF_MS_MIN;
    let r = roster(3, 2);
    assert_eq!(r.waits(), Waits::default());
    let set = |r: &Roster, cool_off_ms, recovery_ms| {
        let waits = Waits {
            cool_off_ms,
            recovery_ms,
        };
        let next = r.after(&Act::SetWaits { waits });
        next.ok().flatten().map(|r| r.waits())
    };
    for (cool_off, recovery) in [
        (None, None),
        (Some(COOL_OFF_MS_MIN - 1), None),
        (Some(0), Some(RECOVERY_WAIT_MS_MIN)),
        (None, Some(RECOVERY_WAIT_MS_MIN - 1)),
        (Some(WAIT_MS_MAX + 1), None),
        (None, Some(u64::MAX)),
    ] {
        assert_eq!(
            set(&r, cool_off, recovery),
            None,
            "{cool_off:?} {recovery:?}"
        );
    }
    let least = Waits {
        cool_off_ms: Some(COOL_OFF_MS_MIN),
        recovery_ms: Some(RECOVERY_WAIT_MS_MIN),
    };
    assert_eq!(set(&r, least.cool_off_ms, least.recovery_ms), Some(least));
    let waits = Waits {
        cool_off_ms: Some(WAIT_MS_MAX),
        recovery_ms: None,
    };
    let r = r.after(&Act::SetWaits { waits }).unwrap().unwrap();
    let recovery_ms = Some(WAIT_MS_MAX);
    let both = Waits {
        recovery_ms,
        ..waits
    };
    assert_eq!(set(&r, None, recovery_ms), Some(both), "the other stays");

    // The same from the beginning, with a floor.
    let Statement::Bootstrap(b) = bootstrap(3, 2) else {
        unreachable!()
    };
    let first = |floor, waits| {
        let s = Statement::Bootstrap(Bootstrap {
            floor,
            waits,
            ..b.clone()
        });
        Roster::bootstrap(&sign(&s, &[1, 2, 3]), &at(T0)).ok()
    };
    let floor = Floor {
        threshold: 3,
        ..Floor::default()
    };
    let r = first(Some(floor), Some(least)).unwrap();
    assert_eq!((r.floor(), r.waits()), (Some(floor), least));
    let short = Waits {
        cool_off_ms: Some(1),
        recovery_ms: None,
    };
    assert_eq!(first(None, Some(short)), None);
    let none = Floor { blocs: 0, ..floor };
    assert_eq!(first(Some(none), None), None);
}

#[test]
fn a_quorum_of_distinct_present_officers_and_no_less() {
    let r = roster(4, 3);
    let s = proposed(&r, thaw(), 1, &[]).unwrap();
    assert!(!s.stands(&r).unwrap());
    assert_eq!(approve(&r, &s, 1), Err(OfficerRefusal::Twice(id(1))));
    assert_eq!(approve(&r, &s, 9), Err(OfficerRefusal::NotAnOfficer(id(9))));
    let two = approve(&r, &s, 2).unwrap();
    assert_eq!(approve(&r, &two, 2), Err(OfficerRefusal::Twice(id(2))));
    assert!(!two.stands(&r).unwrap());
    let three = approve(&r, &two, 3).unwrap();
    assert!(three.stands(&r).unwrap());
    // One of them leaves: her approval is gone with her.
    let smaller = r.after(&Act::SetQuorum { quorum: 2 }).unwrap().unwrap();
    let left = without(&smaller, 2);
    assert!(three.stands(&left).unwrap());
    assert!(!two.stands(&left).unwrap());
    assert_eq!(
        approve(&without(&smaller, 1), &s, 2),
        Err(OfficerRefusal::ProposerGone(id(1)))
    );
    // All at once on one paper.
    assert!(
        proposed(&r, thaw(), 1, &[2, 3])
            .unwrap()
            .stands(&r)
            .unwrap()
    );
}

#[test]
fn approvals_are_of_the_very_bytes() {
    let r = roster(3, 2);
    let s = proposed(&r, thaw(), 1, &[]).unwrap();
    let paper = says(&s, 2, Verdict::Approve);
    let mut edited = proposal(thaw(), 1);
    edited.reason = "agreed.".into();
    let edited = propose(&r, &sign(&Statement::Proposal(edited), &[1]), &at(T0)).unwrap();
    assert!(matches!(
        decide(&r, &edited, &paper, &at(T0)),
        Err(OfficerRefusal::Unknown(_))
    ));
    // Bytes bent in the envelope hold no signature.
    let mut bent = s.envelope.clone();
    bent.payload = bent.payload.replace("agreed", "thwarted");
    assert!(matches!(
        propose(&r, &bent, &at(T0)),
        Err(OfficerRefusal::Envelope(_))
    ));
    // No signature at all, and one that another officer made.
    bent = s.envelope.clone();
    bent.signatures.clear();
    assert!(matches!(
        propose(&r, &bent, &at(T0)),
        Err(OfficerRefusal::Envelope(_))
    ));
    let d = decision(Subject::Proposal(s.id()), Verdict::Approve, 2);
    let forged = Decision::verified(&sign(&Statement::Decision(d.clone()), &[3]), &at(T0));
    assert!(matches!(forged, Err(OfficerRefusal::NotTheSigner { .. })));
    let both = Decision::verified(&sign(&Statement::Decision(d.clone()), &[2, 3]), &at(T0));
    assert_eq!(both, Err(OfficerRefusal::Signers(2)));
    let is = CustodianId::new("is").unwrap();
    let elsewhere = Decision { custodian: is, ..d };
    let elsewhere = Decision::verified(&sign(&Statement::Decision(elsewhere), &[2]), &at(T0));
    assert!(matches!(
        elsewhere,
        Err(OfficerRefusal::OtherCustodian { .. })
    ));
    // A proposal is no decision, whatever it is shown as.
    assert_eq!(
        Decision::verified(&s.envelope, &at(T0)),
        Err(OfficerRefusal::Type("decision of an officer"))
    );
}

#[test]
fn nothing_is_decided_after_its_time_or_after_it_was_closed() {
    let r = roster(3, 2);
    let s = proposed(&r, thaw(), 1, &[]).unwrap();
    let yes = says(&s, 2, Verdict::Approve);
    let late = decide(&r, &s, &yes, &at(T0 + DAY));
    assert!(matches!(late, Err(OfficerRefusal::Expired { .. })));
    for outcome in [
        ProposalOutcome::Carried,
        ProposalOutcome::Failed,
        ProposalOutcome::Rejected,
        ProposalOutcome::Withdrawn,
    ] {
        let closed = ProposalState {
            outcome,
            ..s.clone()
        };
        assert!(matches!(
            decide(&r, &closed, &yes, &at(T0)),
            Err(OfficerRefusal::Closed(_))
        ));
    }
    let paper = |p: Proposal| propose(&r, &sign(&Statement::Proposal(p), &[1]), &at(T0));
    let mut p = proposal(thaw(), 1);
    p.expires_ms = T0;
    assert!(matches!(
        paper(p.clone()),
        Err(OfficerRefusal::Expired { .. })
    ));
    p.expires_ms = T0 + PROPOSAL_LIFE_MS_MAX + 1;
    assert!(matches!(paper(p), Err(OfficerRefusal::Life { .. })));
    let p = proposal(thaw(), 2);
    assert!(matches!(paper(p), Err(OfficerRefusal::NotTheSigner { .. })));
}

#[test]
fn rejections_end_it_and_an_approval_may_be_taken_back() {
    let r = roster(3, 2);
    let s = proposed(&r, thaw(), 1, &[]).unwrap();
    let no = |s: &ProposalState, n| decide(&r, s, &says(s, n, Verdict::Reject), &at(T0));
    let one = no(&s, 2).unwrap();
    assert_eq!(one.outcome, ProposalOutcome::Open);
    assert_eq!(approve(&r, &one, 2), Err(OfficerRefusal::Twice(id(2))));
    assert_eq!(no(&one, 2), Err(OfficerRefusal::Twice(id(2))));
    assert_eq!(no(&one, 1).unwrap().outcome, ProposalOutcome::Rejected);
    let back = |n| decide(&r, &s, &says(&s, n, Verdict::Withdraw), &at(T0));
    assert!(matches!(back(2), Err(OfficerRefusal::NotTheSigner { .. })));
    assert_eq!(back(1).unwrap().outcome, ProposalOutcome::Withdrawn);
}

#[test]
fn officers_join_with_their_key_leave_for_good_and_lose_keys() {
    let r = roster(3, 2);
    let add = |n| Act::AddOfficer {
        officer: officer(n),
    };
    assert_eq!(
        proposed(&r, add(4), 1, &[2]),
        Err(OfficerRefusal::Possession(id(4)))
    );
    // The key that joins counts for nothing yet.
    let s = proposed(&r, add(4), 1, &[4]).unwrap();
    assert_eq!(s.approvals, BTreeSet::from([id(1)]));
    assert!(approve(&r, &s, 2).unwrap().stands(&r).unwrap());
    let four = r.after(&add(4)).unwrap().unwrap();
    assert!(four.has(&id(4)));
    let three = without(&four, 4);
    assert_eq!(three.after(&add(4)), Err(OfficerRefusal::KeyUsed(id(4))));
    // A stolen key neither defends itself nor names its successor.
    let replace = Act::ReplaceKey {
        officer: id(3),
        public: OfficerKey(key(5).public()),
    };
    let s = proposed(&r, replace.clone(), 3, &[1, 5]).unwrap();
    assert!(!s.stands(&r).unwrap());
    let s = proposed(&r, replace.clone(), 1, &[2, 5]).unwrap();
    assert!(s.stands(&r).unwrap());
    let next = r.after(&replace).unwrap().unwrap();
    assert!(next.has(&id(5)) && !next.has(&id(3)));
    assert_eq!(next.officers()[&id(5)].name, "officer 3");
    // Never below two, never with a quorum that one lost key locks.
    let two = without(&r, 1);
    assert_eq!(
        two.after(&Act::RemoveOfficer { officer: id(2) }),
        Err(OfficerRefusal::OfficerCount(1))
    );
    for quorum in [0, 1, 3] {
        assert!(r.after(&Act::SetQuorum { quorum }).is_err(), "{quorum}");
    }
    let strict = roster(4, 3);
    assert!(
        strict
            .after(&Act::RemoveOfficer { officer: id(1) })
            .is_err()
    );
}

fn ids(names: &[&str]) -> BTreeSet<CustodianId> {
    names.iter().map(|n| CustodianId::new(n).unwrap()).collect()
}

fn members(of: &[(&str, &str, &[&str])]) -> BTreeMap<CustodianId, Dependence> {
    let one = |(id, entity, blocs): &(&str, &str, &[&str])| {
        let d = Dependence {
            entity: (*entity).into(),
            blocs: blocs.iter().map(|b| (*b).into()).collect(),
        };
        (CustodianId::new(id).unwrap(), d)
    };
    of.iter().map(one).collect()
}

#[test]
fn no_policy_passes_under_the_floor() {
    let all = ids(&["ch", "de", "nl"]);
    let two = |s: &BTreeSet<CustodianId>| s.len() >= 2;
    let floor = Floor::default();
    let apart = members(&[("ch", "A", &[]), ("de", "B", &[]), ("nl", "C", &[])]);
    assert_eq!(floor.admits(&all, &apart, &two), Ok(()));
    let one_owner = members(&[("ch", "A", &[]), ("de", "B", &[]), ("nl", "B", &[])]);
    let refused = floor.admits(&all, &one_owner, &two).unwrap_err();
    assert!(
        matches!(
            refused,
            FloorRefusal::Under {
                what: "entities",
                ..
            }
        ),
        "{refused}"
    );
    let bloc = members(&[("ch", "A", &[]), ("de", "B", &["eu"]), ("nl", "C", &["eu"])]);
    let refused = floor.admits(&all, &bloc, &two).unwrap_err();
    assert!(matches!(
        refused,
        FloorRefusal::Under {
            what: "independent groups",
            ..
        }
    ));
    // Tied over a third: still one group.
    let chain = members(&[
        ("ch", "A", &["x"]),
        ("de", "B", &["y"]),
        ("nl", "C", &["x", "y"]),
    ]);
    assert!(floor.admits(&all, &chain, &two).is_err());
    let three = |s: &BTreeSet<CustodianId>| s.len() >= 3;
    assert_eq!(floor.admits(&all, &bloc, &three), Ok(()));
    let strict = Floor {
        threshold: 4,
        ..floor
    };
    assert!(strict.admits(&all, &apart, &three).is_err());
    let omitted = members(&[("ch", "A", &[]), ("de", "B", &[])]);
    assert!(matches!(
        floor.admits(&all, &omitted, &three),
        Err(FloorRefusal::Members(_))
    ));
    for bad in [0, FLOOR_MAX + 1] {
        let floor = Floor {
            entities: bad,
            ..floor
        };
        assert_eq!(floor.check(), Err(FloorRefusal::Value(bad)));
    }
    // Raised, and never lowered again.
    let raise = |threshold| Act::RaiseFloor {
        floor: Floor { threshold, ..floor },
    };
    let up = roster(3, 2).after(&raise(3)).unwrap().unwrap();
    let again = up.after(&raise(2)).unwrap().unwrap();
    assert_eq!(again.floor().unwrap().threshold, 3);
}

/// The vectors of `docs/format.md`; whoever writes another client starts there.
#[test]
fn the_format_pages_vectors_hold() {
    let page = include_str!("../../../../docs/format.md");
    let order = Envelope {
        payload: r#"{"type":"order"}"#.into(),
        signatures: Vec::new(),
    };
    let subject = Subject::Order(crate::authz::orders::order_id(&order));
    let e = sign(
        &Statement::Decision(decision(subject, Verdict::Approve, 1)),
        &[1],
    );
    for value in [&id(1).to_string(), &e.payload, &e.signatures[0].signature] {
        assert!(page.contains(value), "docs/format.md lacks {value}");
    }
}

#[derive(Clone, Debug)]
enum Op {
    Propose(u8, Option<u8>, u8),
    Say(u8, u8, u8),
    Tick(u8),
}

/// What officers decided, as simply as it can be said: who is in, and for
/// every paper who is for and against it.
struct Naive {
    present: BTreeSet<u8>,
    gone: BTreeSet<u8>,
    papers: Vec<Paper>,
    now: u64,
}

struct Paper {
    by: u8,
    removes: Option<u8>,
    ends: u64,
    yes: BTreeSet<u8>,
    no: BTreeSet<u8>,
    done: bool,
}

impl Naive {
    fn counts(&self, p: &Paper, who: &BTreeSet<u8>) -> usize {
        who.iter()
            .filter(|n| self.present.contains(n) && p.removes != Some(**n))
            .count()
    }

    /// Whether the officer's word was taken, and whether it completed the quorum.
    fn say(&mut self, paper: usize, n: u8, yes: bool) -> (bool, bool) {
        let p = &self.papers[paper];
        let may = self.present.contains(&n) && self.present.contains(&p.by);
        if !may || p.done || self.now >= p.ends || p.no.contains(&n) || yes && p.yes.contains(&n) {
            return (false, false);
        }
        let p = &mut self.papers[paper];
        p.yes.remove(&n);
        if yes { &mut p.yes } else { &mut p.no }.insert(n);
        let p = &self.papers[paper];
        let stands = self.counts(p, &p.yes) >= 2;
        let dead = self.counts(p, &self.present) - self.counts(p, &p.no) < 2;
        self.papers[paper].done = stands || !yes && dead;
        (true, stands)
    }
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        2 => (0u8..7, prop::option::of(0u8..7), 1u8..9).prop_map(|(a, b, c)| Op::Propose(a, b, c)),
        7 => (0u8..12, 0u8..7, 0u8..4).prop_map(|(a, b, c)| Op::Say(a, b, c)),
        1 => (0u8..4).prop_map(Op::Tick),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    /// Random proposals, approvals and rejections by officers, former officers
    /// and strangers, against the naive account above.
    #[test]
    fn decisions_are_those_of_the_naive_account(ops in prop::collection::vec(op(), 1..50)) {
        let mut r = roster(5, 2);
        let mut m = Naive { present: (1..=5).collect(), gone: BTreeSet::new(), papers: vec![], now: T0 };
        let mut states: Vec<ProposalState> = Vec::new();
        for (number, op) in ops.into_iter().enumerate() {
            match op {
                Op::Tick(n) => m.now += u64::from(n) * 1000,
                Op::Propose(by, removes, life) => {
                    let removes = removes.filter(|_| m.present.len() > 3);
                    let ends = m.now + u64::from(life) * 1000;
                    let act = removes.map_or(thaw(), |n| Act::RemoveOfficer { officer: id(n) });
                    let p = Proposal { number: number as u64, expires_ms: ends, ..proposal(act, by) };
                    let got = propose(&r, &sign(&Statement::Proposal(p), &[by]), &at(m.now));
                    let fine = m.present.contains(&by) && removes.is_none_or(|n| m.present.contains(&n));
                    prop_assert_eq!(got.is_ok(), fine);
                    if let Ok(s) = got {
                        let yes = BTreeSet::from([by]);
                        states.push(s);
                        m.papers.push(Paper { by, removes, ends, yes, no: BTreeSet::new(), done: false });
                    }
                }
                Op::Say(paper, n, how) => {
                    if states.is_empty() { continue; }
                    let at_paper = usize::from(paper) % states.len();
                    let verdict = if how == 0 { Verdict::Reject } else { Verdict::Approve };
                    let d = decision(Subject::Proposal(states[at_paper].id()), verdict, n);
                    let d = Decision::verified(&sign(&Statement::Decision(d), &[n]), &at(m.now)).unwrap();
                    let got = decide(&r, &states[at_paper], &d, &at(m.now));
                    let (taken, stands) = m.say(at_paper, n, how != 0);
                    prop_assert_eq!(got.is_ok(), taken, "{:?}", got);
                    let Ok(next) = got else { continue };
                    prop_assert_eq!(next.stands(&r).unwrap(), stands);
                    states[at_paper] = next;
                    if stands {
                        let act = states[at_paper].proposal().unwrap().act;
                        let done = r.after(&act);
                        if let Some(n) = m.papers[at_paper].removes {
                            let fine = m.present.contains(&n) && m.present.len() > 2;
                            prop_assert_eq!(done.is_ok(), fine);
                            if fine { m.present.remove(&n); m.gone.insert(n); }
                        }
                        states[at_paper].outcome = if done.is_ok() { ProposalOutcome::Carried } else { ProposalOutcome::Failed };
                        if let Ok(Some(next)) = done { r = next; }
                    }
                }
            }
            let now: BTreeSet<_> = m.present.iter().map(|n| id(*n)).collect();
            prop_assert_eq!(r.officers().keys().copied().collect::<BTreeSet<_>>(), now);
            prop_assert!(m.gone.iter().all(|n| !r.has(&id(*n))));
        }
    }
}
