//! The search against one that tries every order, and histories it must
//! accept or reject.

use super::search::{Answer, Call, Entry, search};
use super::{Linearizable, Model};
use crate::checker::simulate::{Registers, plant_stale_read};
use crate::checker::testing::{of, record};
use crate::checker::{CheckResult, Checker};
use crate::verdict::Verdict;
use proptest::prelude::*;

/// Whether any order at all fits, by trying them.
fn brute_force(entries: &[Entry], state: u32, done: &mut Vec<bool>) -> bool {
    let open = |i: usize| !done[i];
    if (0..entries.len()).all(|i| done[i] || entries[i].completed.is_none()) {
        return true;
    }
    let first_end = (0..entries.len())
        .filter(|i| open(*i))
        .filter_map(|i| entries[i].completed)
        .min()
        .unwrap_or(u64::MAX);
    for i in 0..entries.len() {
        if done[i] || entries[i].invoked > first_end {
            continue;
        }
        if let Some(after) = entries[i].call.apply(state) {
            done[i] = true;
            let found = brute_force(entries, after, done);
            done[i] = false;
            if found {
                return true;
            }
        }
    }
    false
}

fn call() -> impl Strategy<Value = Call> {
    prop_oneof![
        4 => (0..4_u32).prop_map(Call::Read),
        3 => (0..4_u32).prop_map(Call::Write),
        2 => (0..4_u32, 0..4_u32).prop_map(|(a, b)| Call::Cas(a, b)),
        1 => (0..4_u32, 0..4_u32).prop_map(|(to, unless)| Call::WriteUnless { to, unless }),
    ]
}

/// Small histories of any shape; some calls without an end.
fn entries() -> impl Strategy<Value = Vec<Entry>> {
    let one = (call(), 0..24_u64, 1..12_u64, 0..5_u8);
    prop::collection::vec(one, 1..8).prop_map(|all| {
        let n = all.len() as u64;
        let place = |time: u64, i: usize| time * n * 2 + i as u64 * 2;
        all.into_iter()
            .enumerate()
            .map(|(i, (call, begin, takes, known))| Entry {
                call,
                invoked: place(begin, i),
                completed: (known > 0).then(|| place(begin + takes, i) + 1),
            })
            .collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(20_000))]
    #[test]
    fn agrees_with_trying_every_order(all in entries()) {
        let expected = brute_force(&all, 0, &mut vec![false; all.len()]);
        let mut steps = 10_000_000;
        let found = search(&all, 0, &mut steps);
        prop_assert_eq!(found == Answer::Linearizable, expected, "{:?}", found);
        prop_assert!(found != Answer::OutOfSteps);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]
    #[test]
    fn a_simulated_store_is_linearizable_and_one_stale_read_is_not(
        seed in any::<u64>(), clients in 1..7_u64, keys in 1..5_u64, info in 0..30_u64,
    ) {
        let run = Registers { operations: 400, clients, keys, info_per_mille: info, seed };
        let history = run.history();
        prop_assert_eq!(check(Model::Register, history.clone()).verdict, Verdict::True);
        for from in [0, 200, 400] {
            if let Some(stale) = plant_stale_read(&history, from) {
                let found = check(Model::Register, stale);
                prop_assert_eq!(found.verdict, Verdict::False);
                prop_assert_eq!(found.evidence.len(), 1);
            }
        }
    }
}

fn check(model: Model, history: crate::history::History) -> CheckResult {
    Linearizable::new(model).check(&of(history))
}

fn verdict(model: Model, lines: &str) -> Verdict {
    Linearizable::new(model).check(&record(lines)).verdict
}

#[test]
fn a_stale_read_is_shown_with_what_was_held_and_who_wrote_it() {
    let found = Linearizable::new(Model::Register).check(&record(
        "0 invoke write [7 1]
         0 ok write [7 1]
         1 invoke write [7 2]
         1 ok write [7 2]
         2 invoke read [7 nil]
         2 ok read [7 1]",
    ));
    assert_eq!(found.verdict, Verdict::False);
    assert_eq!(found.evidence[0].ops, [2, 3, 4, 5]);
    assert_eq!(
        found.evidence[0].what,
        "key 7: operation 4 (read [7 1] by process 2) fits nowhere: when it ended the register could only have held 2"
    );
}

#[test]
fn an_indeterminate_write_may_happen_late_or_never() {
    let lines = |last: &str| {
        format!(
            "0 invoke write [7 1]
             0 ok write [7 1]
             1 invoke write [7 2]
             1 info write [7 2] !timeout
             2 invoke read [7 nil]
             2 ok read [7 1]
             2 invoke read [7 nil]
             2 ok read [7 2]
             {last}"
        )
    };
    assert_eq!(verdict(Model::Register, &lines("")), Verdict::True);
    // But not be taken back.
    let back = lines("2 invoke read [7 nil]\n2 ok read [7 1]");
    assert_eq!(verdict(Model::Register, &back), Verdict::False);
}

#[test]
fn a_failed_write_did_not_happen() {
    let lines = "0 invoke write [7 1]
                 0 fail write [7 1]
                 2 invoke read [7 nil]
                 2 ok read [7 1]";
    assert_eq!(verdict(Model::Register, lines), Verdict::False);
}

#[test]
fn nobody_reads_after_the_removal_was_acknowledged() {
    let lines = |answer: &str| {
        format!(
            "0 invoke add-member [\"c1\" \"ann\"]
             0 ok add-member [\"c1\" \"ann\"]
             1 invoke read [\"c1\" \"ann\"]
             0 invoke remove-member [\"c1\" \"ann\"]
             1 ok read [\"c1\" \"ann\" true]
             0 ok remove-member [\"c1\" \"ann\"]
             2 invoke read [\"c1\" \"ann\"]
             2 ok read [\"c1\" \"ann\" {answer}]"
        )
    };
    assert_eq!(verdict(Model::Members, &lines("false")), Verdict::True);
    assert_eq!(verdict(Model::Members, &lines("true")), Verdict::False);
}

#[test]
fn what_is_shredded_stays_so() {
    let lines = |rest: &str| {
        format!(
            "0 invoke store 5
             0 ok store 5
             1 invoke release 5
             1 ok release 5
             2 invoke shred 5
             2 ok shred 5
             {rest}"
        )
    };
    let custody = |rest: &str| verdict(Model::Custody, &lines(rest));
    assert_eq!(
        custody("1 invoke release 5\n1 ok release [5 :gone]"),
        Verdict::True
    );
    assert_eq!(
        custody("1 invoke release 5\n1 ok release 5"),
        Verdict::False
    );
    assert_eq!(
        custody("1 invoke release 5\n1 ok release [5 :absent]"),
        Verdict::False
    );
    assert_eq!(custody("0 invoke store 5\n0 ok store 5"), Verdict::False);
    assert_eq!(custody("0 invoke store 5\n0 fail store 5"), Verdict::True);
}

#[test]
fn out_of_steps_nothing_to_check_and_nonsense_are_unknown() {
    let run = Registers {
        operations: 400,
        clients: 6,
        keys: 1,
        info_per_mille: 0,
        seed: 1,
    };
    let small = Linearizable {
        model: Model::Register,
        steps_max: 50,
    };
    let found = small.check(&of(run.history()));
    assert_eq!(found.verdict, Verdict::Unknown);
    assert!(found.evidence[0].what.contains("50 steps were not enough"));
    assert_eq!(verdict(Model::Register, ""), Verdict::Unknown);
    let nonsense = "0 invoke write 7\n0 ok write 7";
    assert_eq!(verdict(Model::Register, nonsense), Verdict::Unknown);
}

/// The shapes and sizes that the documentation gives times for.
#[test]
fn large_histories_take_about_a_step_an_operation() {
    for (operations, clients, keys, info_per_mille) in [
        (10_000, 5, 1, 0),
        (10_000, 5, 10, 0),
        (10_000, 5, 1, 3),
        (100_000, 20, 200, 5),
    ] {
        let run = Registers {
            operations,
            clients,
            keys,
            info_per_mille,
            seed: 7,
        };
        let history = run.history();
        let good = check(Model::Register, history.clone());
        assert_eq!(good.verdict, Verdict::True, "{run:?}");
        let bad = check(
            Model::Register,
            plant_stale_read(&history, history.ops().len() * 7 / 10).unwrap(),
        );
        assert_eq!(bad.verdict, Verdict::False, "{run:?}");
        assert!(
            good.details["steps"].as_u64().unwrap() < operations * 100,
            "{}",
            good.details
        );
    }
}
