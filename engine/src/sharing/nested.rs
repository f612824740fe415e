//! Splitting and combining along an access structure.
//!
//! The gate's secret is the constant term, child *i* gets the polynomial at
//! x = *i* (1-based, in canonical order, never 0), and a child that is a gate
//! splits what it got again. So a bloc with threshold 1 counts once however many
//! of its members answer: the rule is in the algebra, not in an `if` (Benaloh and
//! Leichter, CRYPTO '88, with thresholds for gates).

use super::flat::{Polynomial, ThresholdError, ValidThreshold, lagrange_at_zero};
use super::gf256::{BLOCK_BYTES, Block};
use crate::types::{CustodianId, DataKey, Secret, Share, Structure};
use rand_core::CryptoRng;
use std::collections::BTreeSet;

/// Deepest tree that is split or combined, in gates from the root to a leaf.
/// Policies are held to fewer; this bounds the recursion whoever built the tree.
pub const GATES_DEPTH_MAX: usize = 8;

/// Why shares cannot be split or combined.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SharingError {
    /// A gate of the structure is meaningless.
    #[error("the access structure has a gate that cannot be: {0}")]
    Threshold(#[from] ThresholdError),
    /// The root is a custodian: it would get the whole key.
    #[error("the access structure is one custodian alone, who would hold the whole key")]
    BareLeaf,
    /// More than [`GATES_DEPTH_MAX`] gates on one path.
    #[error("the access structure is more than {GATES_DEPTH_MAX} gates deep")]
    TooDeep,
    /// A custodian stands twice in the structure.
    #[error("custodian {0} stands twice in the access structure")]
    CustodianTwice(CustodianId),
    /// No share was given at all.
    #[error("no share was given")]
    Empty,
    /// Two shares of one custodian.
    #[error("two shares were given for custodian {0}; give each once")]
    DuplicateShare(CustodianId),
    /// A share of somebody who is not in this structure.
    #[error("a share was given for {0}, which is not in this access structure")]
    UnknownCustodian(CustodianId),
    /// The shares do not satisfy the structure.
    #[error("the shares of {} do not satisfy the access structure; ask further custodians", names(.have))]
    TooFew {
        /// Whose shares were given.
        have: BTreeSet<CustodianId>,
    },
}

fn names(set: &BTreeSet<CustodianId>) -> String {
    set.iter()
        .map(CustodianId::as_str)
        .collect::<Vec<_>>()
        .join(", ")
}

/// Splits `key` along `structure`: one share per leaf, in canonical leaf order.
///
/// Randomness is drawn gate by gate from the root down, 32 bytes a coefficient.
///
/// # Errors
/// When the structure is not a tree of meaningful thresholds over distinct
/// custodians. A [`Policy`](crate::policy::Policy)'s structure always is.
pub fn split<R: CryptoRng + ?Sized>(
    structure: &Structure,
    key: &DataKey,
    rng: &mut R,
) -> Result<Vec<(CustodianId, Share)>, SharingError> {
    let leaves = check(structure)?;
    let mut out = Vec::with_capacity(leaves);
    let mut secret = Block::default();
    secret.load(key.expose());
    deal(structure, &secret, rng, &mut out);
    Ok(out)
}

fn deal<R: CryptoRng + ?Sized>(
    node: &Structure,
    secret: &Block,
    rng: &mut R,
    out: &mut Vec<(CustodianId, Share)>,
) {
    match node {
        Structure::Leaf(id) => {
            let mut bytes = [0u8; BLOCK_BYTES];
            secret.store(&mut bytes);
            // `take` wipes `bytes`.
            out.push((id.clone(), Share(Secret::take(&mut bytes))));
        }
        Structure::Gate {
            threshold,
            children,
        } => {
            let polynomial = Polynomial::draw(*threshold, secret, rng);
            let mut value = Block::default();
            for (x, child) in (1..=u8::MAX).zip(children) {
                polynomial.at(x, &mut value);
                deal(child, &value, rng, out);
            }
        }
    }
}

/// Recombines. Shares of custodians beyond what is needed are ignored
/// deterministically: each gate uses the first children, in canonical order,
/// whose value is known. Wrong shares are to be told by their commitments
/// before; combining cannot see them.
///
/// # Errors
/// [`SharingError`]: a structure that cannot be, a custodian that is unknown or
/// given twice, or shares that do not satisfy the structure.
pub fn combine(
    structure: &Structure,
    shares: &[(CustodianId, &Share)],
) -> Result<DataKey, SharingError> {
    check(structure)?;
    if shares.is_empty() {
        return Err(SharingError::Empty);
    }
    for (i, (id, _)) in shares.iter().enumerate() {
        if shares[..i].iter().any(|(earlier, _)| earlier == id) {
            return Err(SharingError::DuplicateShare(id.clone()));
        }
        if !contains(structure, id) {
            return Err(SharingError::UnknownCustodian(id.clone()));
        }
    }
    let mut secret = Block::default();
    if !recover(structure, shares, &mut secret) {
        return Err(SharingError::TooFew {
            have: shares.iter().map(|(id, _)| id.clone()).collect(),
        });
    }
    let mut bytes = [0u8; BLOCK_BYTES];
    secret.store(&mut bytes);
    // `take` wipes `bytes`.
    Ok(DataKey(Secret::take(&mut bytes)))
}

/// Writes the node's value when the shares determine it, and says whether they do.
fn recover(node: &Structure, shares: &[(CustodianId, &Share)], value: &mut Block) -> bool {
    match node {
        Structure::Leaf(id) => {
            let share = shares.iter().find(|(have, _)| have == id);
            if let Some((_, share)) = share {
                value.load(share.expose());
            }
            share.is_some()
        }
        Structure::Gate {
            threshold,
            children,
        } => {
            let needed = usize::from(*threshold);
            let mut xs = Vec::with_capacity(needed);
            // Never grown past its capacity: growing would leave copies behind.
            let mut terms: Vec<(u8, Block)> = Vec::with_capacity(needed);
            for (x, child) in (1..=u8::MAX).zip(children) {
                if xs.len() == needed {
                    break;
                }
                if terms.len() == xs.len() {
                    terms.push((0, Block::default()));
                }
                if recover(child, shares, &mut terms[xs.len()].1) {
                    xs.push(x);
                }
            }
            if xs.len() < needed {
                return false;
            }
            for (term, weight) in terms.iter_mut().zip(lagrange_at_zero(&xs)) {
                term.0 = weight;
            }
            value.weighted_sum(&terms);
            true
        }
    }
}

fn contains(node: &Structure, id: &CustodianId) -> bool {
    match node {
        Structure::Leaf(leaf) => leaf == id,
        Structure::Gate { children, .. } => children.iter().any(|child| contains(child, id)),
    }
}

/// Checks the structure and counts its leaves.
fn check(structure: &Structure) -> Result<usize, SharingError> {
    if matches!(structure, Structure::Leaf(_)) {
        return Err(SharingError::BareLeaf);
    }
    let mut seen = Vec::new();
    check_node(structure, GATES_DEPTH_MAX, &mut seen)?;
    seen.sort_unstable();
    match seen.windows(2).find(|pair| pair[0] == pair[1]) {
        Some(pair) => Err(SharingError::CustodianTwice(pair[0].clone())),
        None => Ok(seen.len()),
    }
}

fn check_node<'a>(
    node: &'a Structure,
    gates_left: usize,
    seen: &mut Vec<&'a CustodianId>,
) -> Result<(), SharingError> {
    match node {
        Structure::Leaf(id) => seen.push(id),
        Structure::Gate {
            threshold,
            children,
        } => {
            ValidThreshold::new(usize::from(*threshold), children.len())?;
            let gates_left = gates_left.checked_sub(1).ok_or(SharingError::TooDeep)?;
            for child in children {
                check_node(child, gates_left, seen)?;
            }
        }
    }
    Ok(())
}
