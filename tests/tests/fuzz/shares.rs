//! Hostile shares: an error by type or the right secret, never a wrong one.

use super::codec::name;
use super::meter;
use super::mutate::{Dice, Kind};
use super::run::{Target, iterations, seed};
use quorate_engine::sharing::{combine, combine_bytes, split};
use quorate_engine::types::{CustodianId, DataKey, Share, Structure};
use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Points as a file or peer might claim them: `threshold length (x y…)…`.
pub(crate) fn combine_points() -> Target {
    let mut corpus = vec![];
    for (threshold, shares, len) in [(2u8, 3u8, 4usize), (3, 5, 32), (1, 1, 1)] {
        let mut dice = Dice::new(0, "points", threshold.into());
        let secret = vec![0x42; len];
        let valid = quorate_engine::sharing::ValidThreshold::new(threshold.into(), shares.into())
            .expect("valid");
        let points =
            quorate_engine::sharing::split_bytes(valid, &secret, dice.rng()).expect("valid");
        let mut bytes = vec![threshold, len as u8];
        for (x, y) in &points {
            bytes.push(*x);
            bytes.extend_from_slice(y);
        }
        corpus.push(bytes);
    }
    let check = |bytes: &[u8]| {
        let [threshold, len, rest @ ..] = bytes else {
            return false;
        };
        // The last point may be cut short: a wrong length.
        let points: Vec<(u8, &[u8])> = rest
            .chunks(usize::from(*len) + 1)
            .map(|p| (p[0], &p[1..]))
            .collect();
        let xs: BTreeSet<u8> = points.iter().map(|p| p.0).collect();
        let sound = *threshold > 0
            && points.len() >= usize::from(*threshold)
            && !xs.contains(&0)
            && xs.len() == points.len()
            && points
                .iter()
                .all(|p| !p.1.is_empty() && p.1.len() == points[0].1.len());
        let combined = combine_bytes(*threshold, &points);
        assert_eq!(combined.is_ok(), sound, "{combined:?}");
        if let Ok(secret) = combined {
            assert_eq!(secret.len(), points[0].1.len());
        }
        sound
    };
    Target {
        corpus,
        kind: Kind::Binary,
        iterations: 200_000,
        allocation_bytes_max: 2 << 20,
        check: Box::new(check),
    }
}

/// A tree of any shape: valid, or with thresholds of 0 and above, empty gates,
/// bare leaves, repeated custodians, too deep.
fn tree(dice: &mut Dice, depth: usize, next: &mut u32) -> Structure {
    if depth == 0 || dice.one_in(2) {
        if dice.one_in(40) {
            return Structure::Leaf(name("c0"));
        }
        let leaf = Structure::Leaf(CustodianId::new(&format!("c{next}")).expect("a valid name"));
        *next += 1;
        return leaf;
    }
    let children: Vec<Structure> = match dice.below(20) {
        0 => vec![],
        _ => (0..=dice.below(5))
            .map(|_| tree(dice, depth - 1, next))
            .collect(),
    };
    let threshold = match dice.below(20) {
        0 => 0,
        1 => children.len() as u8 + 1,
        _ => 1 + dice.below(children.len().max(1)) as u8,
    };
    Structure::Gate {
        threshold,
        children,
    }
}

/// Written again from the definition, as the judge.
fn satisfied(s: &Structure, have: &BTreeSet<&CustodianId>) -> bool {
    match s {
        Structure::Leaf(c) => have.contains(c),
        Structure::Gate {
            threshold,
            children,
        } => children.iter().filter(|c| satisfied(c, have)).count() >= usize::from(*threshold),
    }
}

/// Splits along random trees and combines what a hostile network makes of the shares.
pub(crate) fn combine_along_structures() {
    const NAME: &str = "combine_along_structures";
    let (mut right, mut refused) = (0u64, 0u64);
    let range = iterations(120_000);
    for i in range.clone() {
        let run = || {
            let mut dice = Dice::new(seed(), NAME, i);
            let depth = if dice.one_in(50) {
                12
            } else {
                1 + dice.below(3)
            };
            let structure = tree(&mut dice, depth, &mut 0);
            let key = DataKey::generate(dice.rng());
            let Ok(shares) = split(&structure, &key, dice.rng()) else {
                // What cannot be split cannot be combined either.
                let share = Share::generate(dice.rng());
                let all: Vec<_> = structure
                    .leaves()
                    .into_iter()
                    .map(|c| (c.clone(), &share))
                    .collect();
                assert!(
                    combine(&structure, &all).is_err(),
                    "combined along a meaningless tree"
                );
                return false;
            };
            one(&mut dice, &structure, &key, &shares)
        };
        let (outcome, peak) = meter::peak_of(NAME, i, || catch_unwind(AssertUnwindSafe(run)));
        let reproduce = format!(
            "QUORATE_FUZZ_SEED={} QUORATE_FUZZ_FROM={i} QUORATE_FUZZ_ITERATIONS=1",
            seed()
        );
        match outcome {
            Ok(true) => right += 1,
            Ok(false) => refused += 1,
            Err(_) => panic!("{NAME}: failed; reproduce: {reproduce}"),
        }
        assert!(
            peak < 1 << 20,
            "{NAME}: held {peak} bytes at once; reproduce: {reproduce}"
        );
    }
    if range.end - range.start >= 200 {
        assert!(right > 0 && refused > 0, "{right} right, {refused} refused");
    }
}

fn one(
    dice: &mut Dice,
    structure: &Structure,
    key: &DataKey,
    shares: &[(CustodianId, Share)],
) -> bool {
    let stray = Share::generate(dice.rng());
    let mut given: Vec<(CustodianId, &Share)> = shares
        .iter()
        .filter(|_| !dice.one_in(3))
        .map(|(c, s)| (c.clone(), s))
        .collect();
    let mut sound = true;
    if dice.one_in(8) && !given.is_empty() {
        let again = given[dice.below(given.len())].clone();
        given.push(again);
        sound = false;
    }
    if dice.one_in(8) {
        given.push((name("stranger"), &stray));
        sound = false;
    }
    // Order must not matter.
    if !given.is_empty() {
        let by = dice.below(given.len());
        given.rotate_left(by);
    }
    let have: BTreeSet<&CustodianId> = given.iter().map(|(c, _)| c).collect();
    let expected = sound && !given.is_empty() && satisfied(structure, &have);
    match combine(structure, &given) {
        Ok(secret) => {
            assert!(expected, "combined from {have:?} along {structure:?}");
            assert!(secret.expose() == key.expose(), "a wrong secret");
            true
        }
        Err(e) => {
            assert!(!expected, "{e} from {have:?} along {structure:?}");
            false
        }
    }
}
