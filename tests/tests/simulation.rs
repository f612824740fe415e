//! The seeded simulation: thousands of deployments, each from one number.
//!
//! `QUORATE_SIM_SEED=n` runs one seed and prints its event log's end;
//! `QUORATE_SIM_SEEDS=n` runs so many instead of the default.

#![allow(clippy::unwrap_used, clippy::print_stdout)]

use quorate_tests::simulation::{Mutant, Outcome, run};
use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

/// Seeds run by default.
const SEEDS: u64 = 2_000;
/// Seeds within which a planted bug must be caught.
const MUTANT_SEEDS: u64 = 1_000;
/// Threads that run seeds.
const THREADS: usize = 2;

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().expect("a seed is a number"))
}

fn report(seed: u64, outcome: &Outcome) -> String {
    let (name, why) = outcome.broken.clone().unwrap_or(("nothing", String::new()));
    format!(
        "seed {seed}: {name} is broken: {why}\nlast events:\n{}\n\
         REPRODUCE WITH: QUORATE_SIM_SEED={seed} cargo test -p quorate-tests --test simulation",
        outcome.tail.join("\n")
    )
}

/// Runs seeds until one breaks, or all have run; returns what was seen in all.
fn seeds(count: u64) -> Result<BTreeMap<String, u64>, String> {
    let next = AtomicU64::new(0);
    let all = Mutex::new((BTreeMap::new(), None));
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= count || all.lock().unwrap().1.is_some() {
                        return;
                    }
                    let outcome = run(seed, None);
                    let mut all = all.lock().unwrap();
                    for (kind, n) in &outcome.counts {
                        *all.0.entry(kind.clone()).or_default() += n;
                    }
                    if outcome.broken.is_some() {
                        all.1 = Some(report(seed, &outcome));
                    }
                }
            });
        }
    });
    let (counts, broken) = all.into_inner().unwrap();
    broken.map_or(Ok(counts), Err)
}

#[test]
fn seeded_deployments_keep_every_invariant_and_come_to_rest() {
    if let Some(seed) = number("QUORATE_SIM_SEED") {
        let outcome = run(seed, None);
        println!("{}\nhash {}", outcome.tail.join("\n"), outcome.hash);
        assert!(outcome.broken.is_none(), "{}", report(seed, &outcome));
        return;
    }
    let count = number("QUORATE_SIM_SEEDS").unwrap_or(SEEDS);
    let began = std::time::Instant::now();
    let counts = seeds(count).unwrap_or_else(|report| panic!("{report}"));
    println!("{count} seeds in {:?}: {counts:#?}", began.elapsed());
    // A run that never gets there proves nothing about it.
    if count >= 200 {
        for kind in [
            "Abandoned",
            "Acknowledged",
            "Barred",
            "Collected",
            "Confirmed",
            "Disclosed",
            "Granted",
            "Left",
            "Liar",
            "Read",
            "Rewritten",
            "RolledBack",
            "Stone",
        ] {
            let kind_seen = counts.get(kind).copied().unwrap_or(0);
            assert!(
                kind_seen >= count / 40,
                "{kind} was reached {kind_seen} times only"
            );
        }
    }
}

#[test]
fn a_seed_gives_the_same_event_log_every_time() {
    for seed in 0..8 {
        let (a, b) = (run(seed, None), run(seed, None));
        assert_eq!(a.hash, b.hash, "seed {seed}");
        assert_ne!(a.hash, run(seed + 100, None).hash);
    }
}

#[test]
fn planted_bugs_are_caught_by_the_invariant_meant_for_them() {
    for (mutant, invariant) in Mutant::ALL {
        let caught = (0..MUTANT_SEEDS).find_map(|seed| {
            let (name, why) = run(seed, Some(mutant)).broken?;
            (name == invariant).then_some((seed, why))
        });
        let (seed, why) = caught.unwrap_or_else(|| {
            panic!("{mutant:?} was not caught by {invariant} in {MUTANT_SEEDS} seeds")
        });
        println!("{mutant:?}: {invariant} at seed {seed}: {why}");
    }
}
