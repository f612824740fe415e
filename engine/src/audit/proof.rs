//! Inclusion and consistency proofs: generation after RFC 6962 section 2.1,
//! verification after the iterative algorithms of RFC 9162 sections 2.1.3.2
//! and 2.1.4.2 (same proofs, no recursion over hostile input).

use super::merkle::{Hash, empty_root, node_hash};

/// Why a proof cannot be made, or does not hold.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProofError {
    /// The leaf or the smaller tree is not within the tree.
    #[error("{what} {got} is outside a tree of {size} leaves")]
    OutOfRange {
        /// Leaf index or smaller size.
        what: &'static str,
        /// What was asked for.
        got: u64,
        /// The tree.
        size: u64,
    },
    /// The proof does not lead to the root that was claimed.
    #[error("the proof does not lead to the root: the log was changed, or this is another log")]
    Mismatch,
    /// The proof is longer or shorter than the sizes allow.
    #[error("the proof has the wrong length for these sizes")]
    Length,
    /// A stored hash could not be read.
    #[error("hash {index} of level {level} cannot be read: {reason}")]
    Source {
        /// Level, 0 for leaves.
        level: u8,
        /// Index within the level.
        index: u64,
        /// Why.
        reason: String,
    },
}

/// Where the hashes of perfect subtrees are kept.
pub trait NodeSource {
    /// The root of the perfect subtree over leaves `index << level ..`, `1 << level` of them.
    ///
    /// # Errors
    /// [`ProofError::Source`] when it is not there.
    fn node(&self, level: u8, index: u64) -> Result<Hash, ProofError>;
}

/// The largest power of two below `n`, for `n >= 2`.
fn split(n: u64) -> u64 {
    1 << (63 - (n - 1).leading_zeros())
}

fn subtree(src: &dyn NodeSource, lo: u64, hi: u64) -> Result<Hash, ProofError> {
    let n = hi - lo;
    if n.is_power_of_two() {
        // Every range met here starts at a multiple of the power of two at or above its length.
        let level = n.trailing_zeros() as u8;
        return src.node(level, lo >> level);
    }
    let k = split(n);
    Ok(node_hash(
        &subtree(src, lo, lo + k)?,
        &subtree(src, lo + k, hi)?,
    ))
}

/// The root of the first `size` leaves.
///
/// # Errors
/// [`ProofError::Source`] when a stored hash is missing.
pub fn root_at(src: &dyn NodeSource, size: u64) -> Result<Hash, ProofError> {
    if size == 0 {
        Ok(empty_root())
    } else {
        subtree(src, 0, size)
    }
}

/// The audit path of leaf `index` in the tree of `size` leaves, lowest first.
///
/// # Errors
/// [`ProofError::OutOfRange`], [`ProofError::Source`].
pub fn inclusion_proof(
    src: &dyn NodeSource,
    index: u64,
    size: u64,
) -> Result<Vec<Hash>, ProofError> {
    if index >= size {
        return Err(ProofError::OutOfRange {
            what: "leaf",
            got: index,
            size,
        });
    }
    let (mut lo, mut hi) = (0, size);
    let mut top_down = Vec::new();
    while hi - lo > 1 {
        let mid = lo + split(hi - lo);
        if index < mid {
            top_down.push(subtree(src, mid, hi)?);
            hi = mid;
        } else {
            top_down.push(subtree(src, lo, mid)?);
            lo = mid;
        }
    }
    top_down.reverse();
    Ok(top_down)
}

/// The proof that the tree of `old` leaves is a prefix of the tree of `new`.
/// Empty when `old` is 0 or equals `new`.
///
/// # Errors
/// [`ProofError::OutOfRange`], [`ProofError::Source`].
pub fn consistency_proof(
    src: &dyn NodeSource,
    old: u64,
    new: u64,
) -> Result<Vec<Hash>, ProofError> {
    if old > new {
        return Err(ProofError::OutOfRange {
            what: "smaller tree",
            got: old,
            size: new,
        });
    }
    if old == 0 || old == new {
        return Ok(Vec::new());
    }
    let (mut lo, mut hi) = (0, new);
    let mut top_down = Vec::new();
    // Down to the subtree that ends where the old tree ends.
    while hi != old {
        let mid = lo + split(hi - lo);
        if old <= mid {
            top_down.push(subtree(src, mid, hi)?);
            hi = mid;
        } else {
            top_down.push(subtree(src, lo, mid)?);
            lo = mid;
        }
    }
    // Its hash is the old root itself when it starts at 0: the verifier has that.
    if lo != 0 {
        top_down.push(subtree(src, lo, hi)?);
    }
    top_down.reverse();
    Ok(top_down)
}

/// Checks an audit path.
///
/// # Errors
/// [`ProofError`] saying what does not fit.
pub fn verify_inclusion(
    leaf: &Hash,
    index: u64,
    size: u64,
    path: &[Hash],
    root: &Hash,
) -> Result<(), ProofError> {
    if index >= size {
        return Err(ProofError::OutOfRange {
            what: "leaf",
            got: index,
            size,
        });
    }
    let (mut f, mut s) = (index, size - 1);
    let mut hash = *leaf;
    for p in path {
        if s == 0 {
            return Err(ProofError::Length);
        }
        if f & 1 == 1 || f == s {
            hash = node_hash(p, &hash);
            while f & 1 == 0 && f != 0 {
                f >>= 1;
                s >>= 1;
            }
        } else {
            hash = node_hash(&hash, p);
        }
        f >>= 1;
        s >>= 1;
    }
    if s != 0 {
        return Err(ProofError::Length);
    }
    if hash == *root {
        Ok(())
    } else {
        Err(ProofError::Mismatch)
    }
}

/// Checks that a tree of `old` leaves with `old_root` is a prefix of one of `new` with `new_root`.
///
/// # Errors
/// [`ProofError`] saying what does not fit.
pub fn verify_consistency(
    old: u64,
    old_root: &Hash,
    new: u64,
    new_root: &Hash,
    proof: &[Hash],
) -> Result<(), ProofError> {
    if old > new {
        return Err(ProofError::OutOfRange {
            what: "smaller tree",
            got: old,
            size: new,
        });
    }
    if old == 0 || old == new {
        if !proof.is_empty() {
            return Err(ProofError::Length);
        }
        let holds = if old == 0 {
            *old_root == empty_root()
        } else {
            old_root == new_root
        };
        return if holds {
            Ok(())
        } else {
            Err(ProofError::Mismatch)
        };
    }
    // A perfect old tree is its own first node.
    let mut nodes = proof.iter();
    let first = if old.is_power_of_two() {
        *old_root
    } else {
        *nodes.next().ok_or(ProofError::Length)?
    };
    let shift = (old - 1).trailing_ones();
    let (mut f, mut s) = ((old - 1) >> shift, (new - 1) >> shift);
    let (mut old_hash, mut new_hash) = (first, first);
    for c in nodes {
        if s == 0 {
            return Err(ProofError::Length);
        }
        if f & 1 == 1 || f == s {
            old_hash = node_hash(c, &old_hash);
            new_hash = node_hash(c, &new_hash);
            while f & 1 == 0 && f != 0 {
                f >>= 1;
                s >>= 1;
            }
        } else {
            new_hash = node_hash(&new_hash, c);
        }
        f >>= 1;
        s >>= 1;
    }
    if s != 0 {
        return Err(ProofError::Length);
    }
    if old_hash == *old_root && new_hash == *new_root {
        Ok(())
    } else {
        Err(ProofError::Mismatch)
    }
}
