//! Every assignment of outcomes to the custodians of small policies, and the
//! exact requests of a few situations.

use super::*;
use crate::custody::protocol::{KeyRef, LatencyMs};
use crate::policy::Policy;
use crate::sharing;
use crate::types::{ChatId, DataKey, KeyId, Mono, Structure};
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::SeedableRng;
use std::collections::BTreeMap;
use std::sync::Arc;
use subtle::ConstantTimeEq;

fn id(name: &str) -> CustodianId {
    CustodianId::new(name).unwrap()
}
fn set(names: &[&str]) -> BTreeSet<CustodianId> {
    names.iter().map(|n| id(n)).collect()
}
fn gate(threshold: u8, children: Vec<Structure>) -> Structure {
    Structure::Gate {
        threshold,
        children,
    }
}
fn leaves(names: &[&str]) -> Vec<Structure> {
    names.iter().map(|n| Structure::Leaf(id(n))).collect()
}
fn policy_of(structure: Structure) -> Policy {
    let ids: Vec<CustodianId> = structure.leaves().into_iter().cloned().collect();
    let hash = |id: &CustodianId| *blake3::hash(id.as_str().as_bytes()).as_bytes();
    let identities = ids.into_iter().map(|id| (id.clone(), hash(&id))).collect();
    Policy::new(structure, identities).unwrap()
}
fn default_policy() -> Policy {
    let mut children = leaves(&["br", "ch", "is", "sg"]);
    children.insert(2, gate(1, leaves(&["de", "nl"])));
    policy_of(gate(3, children))
}

/// One dealing with everyone's share.
struct Dealing {
    wanted: Wanted,
    shares: BTreeMap<CustodianId, Share>,
    key: DataKey,
}

fn deal(policy: &Policy, n: u8) -> Dealing {
    let mut rng = ChaCha20Rng::seed_from_u64(u64::from(n));
    let key = DataKey::generate(&mut rng);
    let key_id = KeyId([n; 16]);
    let shares = sharing::split(policy.structure(), &key, &mut rng).unwrap();
    let commitments = shares
        .iter()
        .map(|(c, s)| (c.clone(), sharing::commitment(&key_id, c, s)));
    let chat = ChatId([n; 32]);
    Dealing {
        wanted: Wanted {
            key: KeyRef { chat, key_id },
            policy: Arc::new(policy.clone()),
            commitments: commitments.collect(),
        },
        shares: shares.into_iter().collect(),
        key,
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Share,
    LateShare,
    Lie,
    Refuse,
    Silence,
    Fail,
}
const FATES: [Fate; 6] = [
    Fate::Share,
    Fate::LateShare,
    Fate::Lie,
    Fate::Refuse,
    Fate::Silence,
    Fate::Fail,
];

fn answer(dealing: &Dealing, custodian: &CustodianId, fate: Fate) -> Answer {
    match fate {
        Fate::Lie => Answer::Share(Share::generate(&mut ChaCha20Rng::seed_from_u64(99))),
        Fate::Refuse => Answer::Refused(Refusal::Frozen),
        _ => Answer::Share(dealing.shares[custodian].duplicate()),
    }
}

/// Runs one assignment to its end and checks what must hold on the way.
fn run(dealing: &Dealing, fates: &BTreeMap<CustodianId, Fate>) {
    let policy = &dealing.wanted.policy;
    let latency = |c: &CustodianId| 10 + 10 * fates.keys().position(|k| k == c).unwrap() as u64;
    let known = fates
        .keys()
        .map(|c| (c.clone(), (Hint::Good, Some(latency(c)))));
    let config = CollectorConfig::default();
    let mut collector = Collector::new(0, config, vec![dealing.wanted.clone()], known.collect());
    let (mut now, mut steps) = (0, 0);
    // What the test itself knows of each custodian: good, waited for, late.
    let (mut good, mut prompt, mut asked) = (set(&[]), set(&[]), set(&[]));
    let mut events: Vec<(Mono, AskId, CustodianId)> = Vec::new();
    let mut hedges: Vec<(Mono, CustodianId)> = Vec::new();
    while !collector.is_over() {
        steps += 1;
        assert!(steps < 40, "does not end: {fates:?}");
        let asks = collector.take_asks();
        let fresh: BTreeSet<_> = asks.iter().map(|a| a.custodian.clone()).collect();
        if !fresh.is_empty() {
            let counted: BTreeSet<_> = good.union(&prompt).cloned().collect();
            assert!(
                !policy.satisfied_by(&counted),
                "asked without a reason: {fates:?}"
            );
            let hopeful: BTreeSet<_> = good.union(&asked).cloned().collect();
            for one in &fresh {
                // Each of those asked now is needed, with whoever is counted on.
                let without = |have: &BTreeSet<CustodianId>| {
                    let mut rest: BTreeSet<_> = have.union(&fresh).cloned().collect();
                    rest.remove(one);
                    !policy.satisfied_by(&rest)
                };
                assert!(
                    without(&counted) || without(&hopeful),
                    "{one} was not needed: {fates:?}"
                );
                assert!(
                    asked.insert(one.clone()),
                    "{one} was asked twice: {fates:?}"
                );
                prompt.insert(one.clone());
            }
        }
        for ask in asks {
            let at = now + latency(&ask.custodian);
            hedges.push((
                now + (2 * latency(&ask.custodian)).max(40),
                ask.custodian.clone(),
            ));
            match fates[&ask.custodian] {
                Fate::Silence => {}
                Fate::LateShare => events.push((now + 1000, ask.id, ask.custodian)),
                _ => events.push((at, ask.id, ask.custodian)),
            }
        }
        let timeout = collector
            .next_timeout()
            .expect("an open collector waits for something");
        events.sort();
        let arrives = events.first().map_or(Mono::MAX, |e| e.0);
        if timeout < arrives {
            now = timeout;
            let late = hedges
                .iter()
                .filter(|(at, _)| *at <= now)
                .map(|(_, c)| c.clone());
            let late: BTreeSet<_> = late.collect();
            prompt.retain(|c| !late.contains(c));
            collector.on_timeout(now);
            continue;
        }
        let (at, ask, custodian) = events.remove(0);
        now = at;
        prompt.remove(&custodian);
        let fate = fates[&custodian];
        if fate == Fate::Fail {
            asked.insert(custodian);
            collector.on_unreachable(now, ask);
            continue;
        }
        if matches!(fate, Fate::Share | Fate::LateShare) {
            good.insert(custodian.clone());
        }
        collector.on_answer(now, ask, vec![answer(dealing, &custodian, fate)]);
    }
    let honest: BTreeSet<_> = fates
        .iter()
        .filter(|(_, f)| matches!(f, Fate::Share | Fate::LateShare))
        .map(|(c, _)| c.clone())
        .collect();
    assert!(collector.take_asks().is_empty() && collector.next_timeout().is_none());
    assert!(now <= 6 * 3_100, "bounded time: {now}");
    let of = |fate| -> BTreeSet<CustodianId> {
        let of = fates
            .iter()
            .filter(|(c, f)| **f == fate && asked.contains(*c));
        of.map(|(c, _)| c.clone()).collect()
    };
    match collector.take(0).unwrap() {
        Ok(quorum) => {
            assert!(policy.satisfied_by(&honest), "{fates:?}");
            let shares: Vec<_> = quorum.shares.iter().map(|(c, s)| (c.clone(), s)).collect();
            let key = sharing::combine(policy.structure(), &shares).unwrap();
            assert!(bool::from(key.ct_eq(&dealing.key)));
            assert!(quorum.lied.is_subset(&of(Fate::Lie)));
        }
        Err(e) => {
            assert!(!policy.satisfied_by(&honest), "{fates:?}: {e}");
            assert!(e.answered.is_subset(&honest));
            assert!(e.lied.is_subset(&of(Fate::Lie)));
            let refused: BTreeSet<_> = e.refused.iter().map(|(c, _)| c.clone()).collect();
            assert!(refused.is_subset(&of(Fate::Refuse)));
            let away = &of(Fate::Silence) | &of(Fate::Fail);
            assert!(e.unreachable.is_subset(&away));
            for more in &e.would_suffice {
                assert!(policy.satisfied_by(&(&e.answered | more)));
                assert!(more.is_disjoint(&e.lied));
            }
        }
    }
}

fn walk(policy: &Policy, fates: &[Fate]) {
    let dealing = deal(policy, 1);
    let ids: Vec<CustodianId> = policy.structure().leaves().into_iter().cloned().collect();
    for mut n in 0..fates.len().pow(ids.len() as u32) {
        let mut assigned = BTreeMap::new();
        for id in &ids {
            assigned.insert(id.clone(), fates[n % fates.len()]);
            n /= fates.len();
        }
        run(&dealing, &assigned);
    }
}

#[test]
fn every_assignment_of_outcomes_to_two_of_three() {
    walk(&policy_of(gate(2, leaves(&["a", "b", "c"]))), &FATES);
}

#[test]
fn every_assignment_of_outcomes_to_three_of_five() {
    walk(
        &policy_of(gate(3, leaves(&["a", "b", "c", "d", "e"]))),
        &FATES,
    );
}

#[test]
fn every_assignment_of_outcomes_to_a_nested_policy() {
    let inner = gate(2, leaves(&["c", "d", "e"]));
    let mut children = leaves(&["a", "b"]);
    children.push(inner);
    walk(&policy_of(gate(2, children)), &FATES);
}

#[test]
fn every_assignment_of_four_outcomes_to_the_default_policy() {
    walk(
        &default_policy(),
        &[Fate::Share, Fate::Lie, Fate::Refuse, Fate::Silence],
    );
}

type Known = BTreeMap<CustodianId, (Hint, Option<LatencyMs>)>;

fn known(rows: &[(&str, Hint, u64)]) -> Known {
    rows.iter()
        .map(|(c, hint, ms)| (id(c), (*hint, Some(*ms))))
        .collect()
}

fn asked(collector: &mut Collector) -> Vec<(String, usize)> {
    let asks = collector.take_asks();
    asks.iter()
        .map(|a| (a.custodian.to_string(), a.keys.len()))
        .collect()
}

fn names(list: &[(&str, usize)]) -> Vec<(String, usize)> {
    list.iter().map(|(n, k)| ((*n).to_owned(), *k)).collect()
}

#[test]
fn the_nearest_minimal_set_is_asked_then_the_next_when_one_is_late() {
    let policy = default_policy();
    let good = Hint::Good;
    let known = known(&[
        ("br", good, 90),
        ("ch", good, 20),
        ("de", good, 10),
        ("is", good, 30),
        ("nl", good, 11),
        ("sg", good, 50),
    ]);
    let d = deal(&policy, 1);
    let mut c = Collector::new(0, CollectorConfig::default(), vec![d.wanted.clone()], known);
    // de and nl count once: one of them is enough, the nearer.
    assert_eq!(asked(&mut c), names(&[("ch", 1), ("de", 1), ("is", 1)]));
    assert_eq!(c.next_timeout(), Some(40));
    c.on_timeout(39);
    assert_eq!(asked(&mut c), names(&[]));
    // ch and de are late: their next best replacements, nl for the bloc.
    c.on_timeout(40);
    assert_eq!(asked(&mut c), names(&[("nl", 1), ("sg", 1)]));
    // is becomes late: br is the last there is.
    c.on_timeout(60);
    assert_eq!(asked(&mut c), names(&[("br", 1)]));
}

#[test]
fn the_bad_are_asked_last_and_not_never() {
    let policy = policy_of(gate(2, leaves(&["a", "b", "c"])));
    let d = deal(&policy, 1);
    let hints = known(&[
        ("a", Hint::Bad, 1),
        ("b", Hint::Good, 90),
        ("c", Hint::Good, 95),
    ]);
    let mut c = Collector::new(0, CollectorConfig::default(), vec![d.wanted.clone()], hints);
    let asks = c.take_asks();
    let who: Vec<_> = asks.iter().map(|a| a.custodian.as_str()).collect();
    assert_eq!(who, ["b", "c"]);
    c.on_answer(50, asks[0].id, vec![Answer::Refused(Refusal::NotHeld)]);
    assert_eq!(asked(&mut c), names(&[("a", 1)]));
}

#[test]
fn one_request_carries_many_keys_and_each_key_has_its_own_end() {
    let policy = policy_of(gate(2, leaves(&["a", "b", "c"])));
    let d: Vec<Dealing> = (1..=3).map(|n| deal(&policy, n)).collect();
    let wanted = d.iter().map(|d| d.wanted.clone()).collect();
    let near = known(&[
        ("a", Hint::Good, 1),
        ("b", Hint::Good, 2),
        ("c", Hint::Good, 3),
    ]);
    let mut c = Collector::new(0, CollectorConfig::default(), wanted, near);
    let asks = c.take_asks();
    assert_eq!(
        asks.iter().map(|a| a.keys.len()).collect::<Vec<_>>(),
        [3, 3]
    );
    let from = |custodian: &str, n: usize| answer(&d[n], &id(custodian), Fate::Share);
    // a: a share, a refusal, a lie. b: all three.
    let lie = answer(&d[2], &id("a"), Fate::Lie);
    let refusal = Answer::Refused(Refusal::Tombstoned);
    c.on_answer(5, asks[0].id, vec![from("a", 0), refusal, lie]);
    let again = c.take_asks();
    assert_eq!(again.len(), 1);
    assert_eq!(again[0].keys, vec![d[1].wanted.key, d[2].wanted.key]);
    c.on_answer(
        6,
        asks[1].id,
        vec![from("b", 0), from("b", 1), from("b", 2)],
    );
    assert!(c.is_decided(0) && !c.is_decided(1) && !c.is_over());
    assert_eq!(c.take(0).unwrap().unwrap().shares.len(), 2);
    assert!(c.take(0).is_none() && c.take(1).is_none());
    // c forgets to answer for the last key.
    c.on_answer(7, again[0].id, vec![from("c", 1)]);
    assert!(c.is_over());
    assert!(c.take(1).unwrap().is_ok());
    let e = c.take(2).unwrap().unwrap_err();
    assert_eq!(
        (e.lied, e.answered, e.unreachable),
        (set(&["a"]), set(&["b"]), set(&["c"]))
    );
    assert_eq!(e.would_suffice, vec![set(&["c"])]);
    assert_eq!(c.liars(), set(&["a"]));
}

#[test]
fn the_error_says_who_is_missing_and_what_would_suffice() {
    let policy = default_policy();
    let d = deal(&policy, 1);
    let mut c = Collector::new(
        0,
        CollectorConfig::default(),
        vec![d.wanted.clone()],
        Known::new(),
    );
    let mut now = 0;
    while !c.is_over() {
        for ask in c.take_asks() {
            match ask.custodian.as_str() {
                "ch" => c.on_answer(now, ask.id, vec![Answer::Refused(Refusal::Frozen)]),
                "is" => c.on_answer(now, ask.id, vec![Answer::Garbled]),
                "sg" => c.on_unreachable(now, ask.id),
                other => {
                    let share = d.shares[&id(other)].duplicate();
                    c.on_answer(now, ask.id, vec![Answer::Share(share)]);
                }
            }
        }
        now += 1;
    }
    let e = c.take(0).unwrap().unwrap_err();
    assert!(e.would_suffice.contains(&set(&["ch"])) && e.would_suffice.contains(&set(&["sg"])));
    assert!(!e.would_suffice.iter().any(|s| s.contains(&id("is"))));
    let text = e.to_string();
    for part in [
        "ch (frozen by its officers)",
        "gave a false share: is",
        "unreachable: sg",
        "would suffice in addition: {ch} or {sg}",
    ] {
        assert!(text.contains(part), "{text}");
    }
}

#[test]
fn answers_to_no_request_change_nothing() {
    let policy = policy_of(gate(2, leaves(&["a", "b", "c"])));
    let d = deal(&policy, 1);
    let mut c = Collector::new(
        0,
        CollectorConfig::default(),
        vec![d.wanted.clone()],
        Known::new(),
    );
    let asks = c.take_asks();
    c.on_answer(1, AskId(77), vec![Answer::Garbled]);
    c.on_answer(
        1,
        asks[0].id,
        vec![answer(&d, &asks[0].custodian, Fate::Share)],
    );
    c.on_answer(1, asks[0].id, vec![Answer::Garbled]);
    c.on_unreachable(1, asks[0].id);
    c.on_answer(
        2,
        asks[1].id,
        vec![answer(&d, &asks[1].custodian, Fate::Share)],
    );
    assert!(c.take(0).unwrap().unwrap().lied.is_empty());
}

#[test]
fn nobody_is_asked_whose_commitment_is_unknown() {
    let policy = policy_of(gate(2, leaves(&["a", "b", "c"])));
    let mut d = deal(&policy, 1);
    d.wanted.commitments.retain(|c, _| c.as_str() == "a");
    let mut c = Collector::new(
        0,
        CollectorConfig::default(),
        vec![d.wanted.clone()],
        Known::new(),
    );
    assert_eq!(asked(&mut c), names(&[]));
    assert!(c.take(0).unwrap().is_err());
}
