//! The heart: over *every subset* of custodians of generated policies,
//! unauthorised sets learn nothing and authorised ones succeed.
//!
//! A splitter is a linear map from (secret, coefficients) to shares. Its matrix
//! is read off the splitter itself by feeding it unit vectors, and compared with
//! one built from the tree alone. With uniform coefficients (see
//! `distribution.rs`) a set of shares determines the secret when the secret's
//! unit vector lies in the span of their rows, and is independent of it when
//! not: there is no third case. So rank decides, set by set. Brickell, "Some
//! ideal secret sharing schemes", 1989; Karchmer and Wigderson, 1993.
//!
//! What made this necessary: an ABE library whose AND gate gave one child the
//! whole secret and the other zero passed its own tests, because "does this set
//! match" was decided by separate logic (circl, 2026).

use super::support::{Quirk, Shares, Tape, flat, gate, id, inverse, mul, naive_split, real_split};
use proptest::prelude::*;
use quorate_engine::policy::Policy;
use quorate_engine::sharing::{SharingError, combine};
use quorate_engine::types::{CustodianId, Secret, Share, Structure};
use std::collections::{BTreeMap, BTreeSet};

type Splitter<'a> = &'a dyn Fn(&Structure, &[u8; 32], &mut Tape) -> Shares;
type Matrix = Vec<Vec<u8>>;

/// The matrix of a splitter: one row per leaf; column 0 is the secret, the rest
/// are coefficients in the order they are drawn.
fn matrix_of(split: Splitter<'_>, structure: &Structure) -> Result<Matrix, String> {
    let mut zero = Tape::default();
    let at_zero = split(structure, &[0; 32], &mut zero);
    if at_zero.iter().any(|(_, y)| *y != [0; 32]) {
        return Err("not linear: zeros do not give zeros".into());
    }
    let drawn = zero.taken / 32;
    let mut rows: Matrix = vec![Vec::new(); at_zero.len()];
    for column in 0..=drawn {
        let (mut secret, mut tape) = ([0; 32], vec![0; drawn * 32]);
        match column.checked_sub(1) {
            None => secret = [1; 32],
            Some(k) => tape[k * 32..][..32].fill(1),
        }
        for (row, (_, y)) in rows
            .iter_mut()
            .zip(split(structure, &secret, &mut Tape::new(tape)))
        {
            if y.iter().any(|b| *b != y[0]) {
                return Err("the bytes of a key are not treated alike".into());
            }
            row.push(y[0]);
        }
    }
    Ok(rows)
}

/// The same matrix from the tree alone, without any splitting code.
fn matrix_by_definition(structure: &Structure) -> Matrix {
    fn variables(node: &Structure) -> usize {
        match node {
            Structure::Leaf(_) => 0,
            Structure::Gate {
                threshold,
                children,
            } => usize::from(*threshold) - 1 + children.iter().map(variables).sum::<usize>(),
        }
    }
    fn walk(node: &Structure, secret: Vec<u8>, next: &mut usize, out: &mut Matrix) {
        match node {
            Structure::Leaf(_) => out.push(secret),
            Structure::Gate {
                threshold,
                children,
            } => {
                let first = *next;
                *next += usize::from(*threshold) - 1;
                for (x, child) in (1..=255u8).zip(children) {
                    let (mut row, mut power) = (secret.clone(), 1);
                    for k in 1..usize::from(*threshold) {
                        power = mul(power, x);
                        row[first + k - 1] ^= power;
                    }
                    walk(child, row, next, out);
                }
            }
        }
    }
    let mut secret = vec![0; 1 + variables(structure)];
    secret[0] = 1;
    let (mut next, mut out) = (1, Vec::new());
    walk(structure, secret, &mut next, &mut out);
    out
}

/// Whether the unit vector of column 0 is a combination of the rows: eliminate
/// all other columns first, then look for a row that has only the secret left.
fn secret_in_span(mut rows: Matrix) -> bool {
    let columns = rows.first().map_or(0, Vec::len);
    let mut used = 0;
    for column in 1..columns {
        let Some(pivot) = (used..rows.len()).find(|r| rows[*r][column] != 0) else {
            continue;
        };
        rows.swap(used, pivot);
        let scale = inverse(rows[used][column]);
        let pivot_row: Vec<u8> = rows[used].iter().map(|v| mul(*v, scale)).collect();
        for row in &mut rows[used + 1..] {
            let factor = row[column];
            for (v, p) in row.iter_mut().zip(&pivot_row) {
                *v ^= mul(*p, factor);
            }
        }
        used += 1;
    }
    rows[used..].iter().any(|row| row[0] != 0)
}

/// Whether a set may open, by the plain meaning of the tree.
fn may_open(node: &Structure, set: &BTreeSet<CustodianId>) -> bool {
    match node {
        Structure::Leaf(id) => set.contains(id),
        Structure::Gate {
            threshold,
            children,
        } => children.iter().filter(|c| may_open(c, set)).count() >= usize::from(*threshold),
    }
}

fn subsets(leaves: &[CustodianId]) -> impl Iterator<Item = (Vec<usize>, BTreeSet<CustodianId>)> {
    (0u32..1 << leaves.len()).map(|mask| {
        let members: Vec<usize> = (0..leaves.len()).filter(|i| mask >> i & 1 == 1).collect();
        let set = members.iter().map(|i| leaves[*i].clone()).collect();
        (members, set)
    })
}

/// Walks every subset. `Err` names the first set that learns too much or too little.
fn walk_subsets(split: Splitter<'_>, structure: &Structure) -> Result<(), String> {
    let matrix = matrix_of(split, structure)?;
    let leaves: Vec<CustodianId> = structure.leaves().into_iter().cloned().collect();
    for (members, set) in subsets(&leaves) {
        let rows: Matrix = members.iter().map(|i| matrix[*i].clone()).collect();
        match (may_open(structure, &set), secret_in_span(rows)) {
            (false, true) => return Err(format!("the unauthorised set {set:?} learns the secret")),
            (true, false) => return Err(format!("the authorised set {set:?} cannot open")),
            _ => {}
        }
    }
    Ok(())
}

fn policy(structure: Structure) -> Policy {
    let identities: BTreeMap<_, _> = structure
        .leaves()
        .into_iter()
        .map(|id| {
            let mut key = [0; 32];
            key[..id.as_str().len()].copy_from_slice(id.as_str().as_bytes());
            (id.clone(), key)
        })
        .collect();
    Policy::new(structure, identities).unwrap()
}

#[derive(Clone, Debug)]
enum Shape {
    Leaf,
    Gate(u8, Vec<Shape>),
}

const LEAVES_MAX: usize = 8;

fn build(shape: &Shape, names: &mut impl Iterator<Item = CustodianId>) -> Option<Structure> {
    match shape {
        Shape::Leaf => names.next().map(Structure::Leaf),
        Shape::Gate(pick, children) => {
            let children: Vec<_> = children.iter().filter_map(|c| build(c, names)).collect();
            let count = u8::try_from(children.len()).unwrap();
            (count > 0).then(|| gate(1 + pick % count, children))
        }
    }
}

/// Trees of up to three gates' depth and eight custodians whose names are in no
/// particular order; the root needs at least two.
fn policies() -> impl Strategy<Value = Policy> {
    let child = Just(Shape::Leaf).prop_recursive(2, 8, 4, |inner| {
        (any::<u8>(), prop::collection::vec(inner, 1..=4)).prop_map(|(t, c)| Shape::Gate(t, c))
    });
    let names: Vec<&str> = vec!["br", "ch", "de", "is", "jp", "nl", "sg", "za"];
    assert_eq!(names.len(), LEAVES_MAX);
    (
        any::<u8>(),
        prop::collection::vec(child, 2..=6),
        Just(names).prop_shuffle(),
    )
        .prop_filter_map("a root of two or more", |(pick, children, names)| {
            let mut names = names.into_iter().map(id);
            let children: Vec<_> = children
                .iter()
                .filter_map(|c| build(c, &mut names))
                .collect();
            let count = u8::try_from(children.len()).unwrap();
            (count >= 2).then(|| policy(gate(2 + pick % (count - 1), children)))
        })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(192))]

    #[test]
    fn every_subset_of_every_policy(policy in policies(), secret: [u8; 32], random in prop::collection::vec(any::<u8>(), 32 * 32)) {
        let structure = policy.structure();
        prop_assert_eq!(walk_subsets(&real_split, structure), Ok(()));

        // The matrix is the tree's, and the splitter is that matrix for any input.
        let matrix = matrix_of(&real_split, structure).unwrap();
        prop_assert_eq!(&matrix, &matrix_by_definition(structure));
        let shares = real_split(structure, &secret, &mut Tape::new(random.clone()));
        for ((_, y), row) in shares.iter().zip(&matrix) {
            for byte in 0..32 {
                let sum = row[1..].iter().enumerate().fold(mul(row[0], secret[byte]), |sum, (k, v)| {
                    sum ^ mul(*v, random[k * 32 + byte])
                });
                prop_assert_eq!(y[byte], sum);
            }
        }

        // What the algebra says, `combine` does and the policy knows.
        let leaves: Vec<CustodianId> = structure.leaves().into_iter().cloned().collect();
        let held: Vec<Share> = shares.iter().map(|(_, y)| Share(Secret::from_slice(y).unwrap())).collect();
        let smallest = policy.minimal_authorised_sets();
        let blocking = policy.minimal_blocking_sets();
        let everyone = policy.custodians();
        for (members, set) in subsets(&leaves) {
            let authorised = may_open(structure, &set);
            prop_assert_eq!(policy.satisfied_by(&set), authorised);
            prop_assert_eq!(smallest.iter().any(|s| s.is_subset(&set)), authorised);
            let missing: BTreeSet<_> = everyone.difference(&set).cloned().collect();
            prop_assert_eq!(blocking.iter().any(|s| s.is_subset(&missing)), !authorised);
            let given: Vec<(CustodianId, &Share)> = members.iter().rev().map(|i| (leaves[*i].clone(), &held[*i])).collect();
            match combine(structure, &given) {
                Ok(key) => {
                    prop_assert!(authorised, "{set:?} combined");
                    prop_assert_eq!(key.expose(), &secret);
                }
                Err(SharingError::Empty) => prop_assert!(set.is_empty()),
                Err(error) => {
                    prop_assert!(!authorised, "{set:?} did not combine: {error}");
                    prop_assert_eq!(error, SharingError::TooFew { have: set });
                }
            }
        }
    }

    #[test]
    fn margins_and_what_suffices_agree_with_walking_every_subset(policy in policies(), pick: u8, skip: u8) {
        let leaves: Vec<CustodianId> = policy.custodians().into_iter().collect();
        let by_mask = |mask: u8| -> BTreeSet<CustodianId> {
            leaves.iter().enumerate().filter(|(i, _)| mask >> i & 1 == 1).map(|(_, id)| id.clone()).collect()
        };
        let (have, excluded) = (by_mask(pick), by_mask(skip));

        // The margin: the most that can be lost whatever is lost.
        let worst = subsets(&leaves)
            .filter(|(_, lost)| lost.is_subset(&have))
            .filter(|(_, lost)| !may_open(policy.structure(), &have.difference(lost).cloned().collect()))
            .map(|(_, lost)| lost.len())
            .min()
            .unwrap();
        prop_assert_eq!(policy.margin_of(&have), worst.checked_sub(1));

        // What suffices: all additions that open and none of whose parts do.
        let may_ask: BTreeSet<_> = leaves.iter().filter(|id| !have.contains(id) && !excluded.contains(id)).cloned().collect();
        let opens = |addition: &BTreeSet<CustodianId>| may_open(policy.structure(), &have.union(addition).cloned().collect());
        let mut expected: Vec<BTreeSet<CustodianId>> = subsets(&leaves)
            .map(|(_, set)| set)
            .filter(|set| set.is_subset(&may_ask) && opens(set))
            .filter(|set| set.iter().all(|drop| {
                let mut less = set.clone();
                less.remove(drop);
                !opens(&less)
            }))
            .collect();
        expected.sort_by(|a, b| a.len().cmp(&b.len()).then_with(|| a.cmp(b)));
        prop_assert_eq!(policy.what_would_suffice(&have, &excluded), expected);
    }

    #[test]
    fn canonical_bytes_come_back_as_the_same_policy(policy in policies(), at: prop::sample::Index, flip in 1..=255u8) {
        let bytes = policy.canonical();
        prop_assert_eq!(&Policy::from_canonical(&bytes).unwrap(), &policy);
        for cut in 0..bytes.len() {
            prop_assert!(Policy::from_canonical(&bytes[..cut]).is_err());
        }
        // A changed byte is refused or is honestly another policy, never this one.
        let mut other = bytes.clone();
        other[at.index(bytes.len())] ^= flip;
        if let Ok(p) = Policy::from_canonical(&other) {
            prop_assert_ne!(p.id(), policy.id());
            prop_assert_eq!(p.canonical(), other);
        }
    }
}

/// Two of (all of ch and is), (any of de, nl), sg: has an all-of gate, an any-of
/// gate and a root in between.
fn with_every_kind_of_gate() -> Structure {
    gate(
        2,
        vec![
            flat(2, &["ch", "is"]),
            flat(1, &["de", "nl"]),
            Structure::Leaf(id("sg")),
        ],
    )
}

#[test]
fn the_walk_accepts_the_definition_and_rejects_every_mutant() {
    let structure = with_every_kind_of_gate();
    let run = |quirk| walk_subsets(&|s, k, r| naive_split(quirk, s, k, r), &structure);
    assert_eq!(run(Quirk::None), Ok(()));
    for quirk in [
        Quirk::AndGivesFirstChildAll,
        Quirk::OneCoefficientShort,
        Quirk::FirstChildAtZero,
        Quirk::InnerGatesCopy,
    ] {
        let found = run(quirk).expect_err("a mutant must be found");
        assert!(found.contains("learns the secret"), "{quirk:?}: {found}");
    }
    // One draw used for two coefficients needs a gate that has two.
    let three = flat(3, &["br", "ch", "is", "sg"]);
    let found = walk_subsets(
        &|s, k, r| naive_split(Quirk::RepeatedCoefficient, s, k, r),
        &three,
    );
    assert!(found.is_err(), "{found:?}");
}

/// The AND node of circl def2fd3, as the plainest case: no child of an all-of
/// gate may hold the gate's secret, whatever the secret is.
#[test]
fn no_child_of_an_all_of_gate_holds_its_secret() {
    let structure = flat(2, &["ch", "is"]);
    let (secret, random) = ([0x5a; 32], vec![0xc3; 32]);
    for (id, y) in real_split(&structure, &secret, &mut Tape::new(random.clone())) {
        assert_ne!(y, secret, "{id} holds the whole secret");
        assert_ne!(y, [0; 32], "{id} holds nothing");
    }
    let mutant = naive_split(
        Quirk::AndGivesFirstChildAll,
        &structure,
        &secret,
        &mut Tape::new(random),
    );
    assert_eq!(
        mutant[0].1, secret,
        "the mutant does what the test is about"
    );
}
