//! Sets of custodians against a tree: satisfied, blocking, missing.
//!
//! Every custodian stands once in a valid tree, so the children of a gate have
//! no custodian in common. Therefore the union of minimal sets of different
//! children is minimal, distinct choices give distinct unions, and nothing has
//! to be filtered afterwards. How many sets there are is bounded when a policy
//! is made (`POLICY_SETS_MAX`), so enumeration is bounded too.

use crate::types::{CustodianId, Structure};
use std::collections::BTreeSet;

pub(super) type Set = BTreeSet<CustodianId>;

pub(super) fn satisfied(node: &Structure, set: &Set) -> bool {
    match node {
        Structure::Leaf(id) => set.contains(id),
        Structure::Gate {
            threshold,
            children,
        } => {
            children
                .iter()
                .filter(|child| satisfied(child, set))
                .count()
                >= usize::from(*threshold)
        }
    }
}

/// How many members of `set` must go, at least, until the rest does not satisfy
/// `node`; 0 when it does not now.
pub(super) fn cost_to_break(node: &Structure, set: &Set) -> usize {
    match node {
        Structure::Leaf(id) => usize::from(set.contains(id)),
        Structure::Gate {
            threshold,
            children,
        } => {
            let mut costs: Vec<usize> = children
                .iter()
                .map(|child| cost_to_break(child, set))
                .collect();
            costs.sort_unstable();
            costs.iter().take(to_block(*threshold, children)).sum()
        }
    }
}

/// How many custodians must join `set`, at least, until it satisfies `node`.
pub(super) fn cost_to_satisfy(node: &Structure, set: &Set) -> usize {
    match node {
        Structure::Leaf(id) => usize::from(!set.contains(id)),
        Structure::Gate {
            threshold,
            children,
        } => {
            let mut costs: Vec<usize> = children
                .iter()
                .map(|child| cost_to_satisfy(child, set))
                .collect();
            costs.sort_unstable();
            costs.iter().take(usize::from(*threshold)).sum()
        }
    }
}

/// How many children of a gate must fail for it to fail.
fn to_block(threshold: u8, children: &[Structure]) -> usize {
    (children.len() + 1).saturating_sub(usize::from(threshold))
}

pub(super) fn minimal_blocking(node: &Structure) -> Vec<Set> {
    match node {
        Structure::Leaf(id) => vec![Set::from([id.clone()])],
        Structure::Gate {
            threshold,
            children,
        } => {
            let each: Vec<_> = children.iter().map(minimal_blocking).collect();
            choose(&each, to_block(*threshold, children))
        }
    }
}

pub(super) fn minimal_additions(node: &Structure, have: &Set, excluded: &Set) -> Vec<Set> {
    match node {
        Structure::Leaf(id) if have.contains(id) => vec![Set::new()],
        Structure::Leaf(id) if excluded.contains(id) => vec![],
        Structure::Leaf(id) => vec![Set::from([id.clone()])],
        Structure::Gate {
            threshold,
            children,
        } => {
            // A child that is satisfied already offers the empty set, and only that.
            let mut open = Vec::new();
            let mut missing = usize::from(*threshold);
            for child in children {
                let sets = minimal_additions(child, have, excluded);
                if sets.iter().any(Set::is_empty) {
                    missing = missing.saturating_sub(1);
                } else {
                    open.push(sets);
                }
            }
            choose(&open, missing)
        }
    }
}

/// Every union of one set from each of `count` different families.
fn choose(families: &[Vec<Set>], count: usize) -> Vec<Set> {
    if count == 0 {
        return vec![Set::new()];
    }
    let Some((first, rest)) = families.split_first() else {
        return vec![];
    };
    if families.len() < count {
        return vec![];
    }
    let mut out = Vec::new();
    for tail in choose(rest, count - 1) {
        for head in first {
            out.push(head.union(&tail).cloned().collect());
        }
    }
    out.extend(choose(rest, count));
    out
}

pub(super) fn smallest_first(mut sets: Vec<Set>) -> Vec<Set> {
    sets.sort_by(|a, b| a.len().cmp(&b.len()).then_with(|| a.cmp(b)));
    sets
}

/// How many minimal authorised and how many minimal blocking sets a tree has,
/// counted without enumerating them. Saturates.
pub(super) fn count(node: &Structure) -> (u64, u64) {
    match node {
        Structure::Leaf(_) => (1, 1),
        Structure::Gate {
            threshold,
            children,
        } => {
            let (opening, blocking): (Vec<u64>, Vec<u64>) = children.iter().map(count).unzip();
            (
                ways(&opening, usize::from(*threshold)),
                ways(&blocking, to_block(*threshold, children)),
            )
        }
    }
}

/// The elementary symmetric polynomial: over all choices of `count` of the
/// numbers, the sum of their products.
fn ways(each: &[u64], count: usize) -> u64 {
    let mut by_chosen = vec![0u64; count + 1];
    by_chosen[0] = 1;
    for n in each {
        for chosen in (1..=count).rev() {
            let more = by_chosen[chosen - 1].saturating_mul(*n);
            by_chosen[chosen] = by_chosen[chosen].saturating_add(more);
        }
    }
    by_chosen[count]
}

/// The probability that `node` is satisfied when each leaf answers
/// independently with the probability that `up` gives it.
pub(super) fn probability(node: &Structure, up: &impl Fn(&CustodianId) -> f64) -> f64 {
    match node {
        Structure::Leaf(id) => up(id),
        Structure::Gate {
            threshold,
            children,
        } => {
            let needed = usize::from(*threshold);
            // by_up[k]: the probability that k of the children so far are satisfied.
            let mut by_up = vec![0.0; children.len() + 1];
            by_up[0] = 1.0;
            for (seen, child) in children.iter().enumerate() {
                let p = probability(child, up);
                for k in (0..=seen + 1).rev() {
                    let from_below = if k > 0 { by_up[k - 1] * p } else { 0.0 };
                    by_up[k] = by_up[k] * (1.0 - p) + from_below;
                }
            }
            by_up.iter().skip(needed).sum()
        }
    }
}
