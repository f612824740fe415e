//! One gate: Shamir's scheme (CACM 22, 1979) over GF(2^8), byte by byte.
//!
//! The secret is the constant term of a random polynomial of degree
//! threshold − 1, a share its value at a public x of 1 to 255. Any `threshold`
//! shares give it back; fewer say nothing.
//!
//! *Every coefficient is uniform, the leading one included.* It is tempting to
//! draw again when the leading coefficient is zero, so that the degree is exact.
//! That leaks: whoever holds threshold − 1 shares then knows that of the 256
//! candidates for each secret byte exactly one is impossible, the one that
//! would make the leading coefficient zero. One split says little (0.005 bit a
//! byte), but every further split of the *same* secret rules out another
//! candidate, and some two thousand name the secret (omicron#10284). A zero
//! leading coefficient has to happen with probability 1/256, as every other
//! value. `engine/tests/distribution.rs` holds this, and shows that the
//! tempting variant fails it.
//!
//! The byte API here takes hostile input: what a file or a peer says is a share.

use super::gf256::{BLOCK_BYTES, Block, invert, mul};
use rand_core::CryptoRng;
use std::num::NonZeroU8;
use zeroize::{Zeroize, Zeroizing};

/// Most shares one gate can have: x is a byte and never 0.
pub const SHARES_MAX: usize = 255;
/// Longest secret [`split_bytes`] and [`combine_bytes`] take, in bytes.
pub const SECRET_BYTES_MAX: usize = 1 << 20;

/// Why a threshold and a number of shares do not go together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ThresholdError {
    /// Nothing would be needed to open.
    #[error("a threshold of 0 (or omitted) would open to nobody's shares; give at least 1")]
    Zero,
    /// No shares at all.
    #[error("a threshold over no members; give at least one member")]
    NoShares,
    /// Could never be met.
    #[error("the threshold {threshold} is above the {shares} members; it could never be met")]
    AboveShares {
        /// The threshold given.
        threshold: usize,
        /// How many shares there would be.
        shares: usize,
    },
    /// More shares than x coordinates.
    #[error("{shares} members; one gate holds at most 255")]
    TooManyShares {
        /// How many shares there would be.
        shares: usize,
    },
}

/// A threshold and a number of shares that go together:
/// 1 ≤ threshold ≤ shares ≤ 255. Exists only if valid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ValidThreshold {
    threshold: NonZeroU8,
    shares: NonZeroU8,
}

impl ValidThreshold {
    /// Checks that any `threshold` of `shares` is meaningful.
    ///
    /// # Errors
    /// [`ThresholdError`] naming what is wrong.
    pub fn new(threshold: usize, shares: usize) -> Result<Self, ThresholdError> {
        let narrow = |n: usize| u8::try_from(n).ok().and_then(NonZeroU8::new);
        if threshold == 0 {
            return Err(ThresholdError::Zero);
        }
        if shares == 0 {
            return Err(ThresholdError::NoShares);
        }
        let shares_u8 = narrow(shares).ok_or(ThresholdError::TooManyShares { shares })?;
        match narrow(threshold) {
            Some(threshold) if threshold <= shares_u8 => Ok(Self {
                threshold,
                shares: shares_u8,
            }),
            _ => Err(ThresholdError::AboveShares { threshold, shares }),
        }
    }
    /// How many shares are needed.
    pub fn threshold(self) -> u8 {
        self.threshold.get()
    }
    /// How many shares there are; their x are 1 to this.
    pub fn shares(self) -> u8 {
        self.shares.get()
    }
}

/// Why given points are not shares that combine, or a secret cannot be split.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FlatError {
    /// The threshold is meaningless.
    #[error(transparent)]
    Threshold(#[from] ThresholdError),
    /// A secret or share of no bytes.
    #[error("share {position} is empty; a share has as many bytes as the secret")]
    Empty {
        /// Which of the points given, from 0; 0 for a secret.
        position: usize,
    },
    /// x = 0 is where the secret stands: whoever claims it would choose the secret.
    #[error("share {position} claims x = 0, which no share has; refuse whoever sent it")]
    ZeroX {
        /// Which of the points given, from 0.
        position: usize,
    },
    /// Two points at one x.
    #[error("shares {first} and {second} both claim x = {x}; drop the wrong one")]
    DuplicateX {
        /// The coordinate.
        x: u8,
        /// Position of the first.
        first: usize,
        /// Position of the second.
        second: usize,
    },
    /// A point of another length than the first.
    #[error("share {position} has {got} bytes, the secret {expected}")]
    Length {
        /// Which of the points given, from 0.
        position: usize,
        /// Bytes it has.
        got: usize,
        /// Bytes it should have.
        expected: usize,
    },
    /// A secret over [`SECRET_BYTES_MAX`].
    #[error("{got} bytes; at most {SECRET_BYTES_MAX} can be split")]
    TooLong {
        /// Its length in bytes.
        got: usize,
    },
    /// Fewer points than the threshold.
    #[error("{got} shares of the {needed} needed")]
    TooFew {
        /// Points given.
        got: usize,
        /// Points needed.
        needed: usize,
    },
}

/// Draws a polynomial for each of 32 bytes: the constant terms are `secret`,
/// all other coefficients are uniform. Wiped on drop.
pub(super) struct Polynomial(Vec<Block>);

impl Polynomial {
    pub(super) fn draw<R: CryptoRng + ?Sized>(threshold: u8, secret: &Block, rng: &mut R) -> Self {
        let mut coefficients = Vec::new();
        coefficients.resize_with(usize::from(threshold), Block::default);
        let mut bytes = [0u8; BLOCK_BYTES];
        for (power, coefficient) in coefficients.iter_mut().enumerate() {
            if power == 0 {
                coefficient.copy(secret);
            } else {
                // Uniform, zero included: see the head of this file.
                rng.fill_bytes(&mut bytes);
                coefficient.load(&bytes);
            }
        }
        bytes.zeroize();
        Self(coefficients)
    }

    /// The values at a public x.
    pub(super) fn at(&self, x: u8, value: &mut Block) {
        let Some((leading, rest)) = self.0.split_last() else {
            return;
        };
        value.copy(leading);
        for coefficient in rest.iter().rev() {
            value.horner(x, coefficient);
        }
    }
}

/// Lagrange coefficients at 0 for distinct, non-zero, public coordinates.
///
/// Coefficient i is the product over j ≠ i of x_j / (x_j + x_i). All divisions
/// share one inversion: prefix products, one inverse, and back again.
pub(super) fn lagrange_at_zero(xs: &[u8]) -> Vec<u8> {
    let mut weights = Vec::with_capacity(xs.len());
    let mut prefix = Vec::with_capacity(xs.len());
    let mut denominators = Vec::with_capacity(xs.len());
    let mut running = 1u8;
    for (i, xi) in xs.iter().enumerate() {
        let (mut numerator, mut denominator) = (1u8, 1u8);
        for (j, xj) in xs.iter().enumerate() {
            if i != j {
                numerator = mul(numerator, *xj);
                denominator = mul(denominator, xj ^ xi);
            }
        }
        weights.push(numerator);
        denominators.push(denominator);
        prefix.push(running);
        running = mul(running, denominator);
    }
    let mut inverse = invert(running);
    for i in (0..xs.len()).rev() {
        weights[i] = mul(weights[i], mul(inverse, prefix[i]));
        inverse = mul(inverse, denominators[i]);
    }
    weights
}

/// A share as bytes, with its coordinate.
pub type PointShare = (u8, Zeroizing<Vec<u8>>);

/// Splits a secret of any length; share i has x = i, from 1.
///
/// # Errors
/// [`FlatError::Empty`] or [`FlatError::TooLong`].
pub fn split_bytes<R: CryptoRng + ?Sized>(
    threshold: ValidThreshold,
    secret: &[u8],
    rng: &mut R,
) -> Result<Vec<PointShare>, FlatError> {
    check_length(0, secret.len())?;
    let mut out: Vec<PointShare> = (1..=threshold.shares())
        .map(|x| (x, Zeroizing::new(vec![0; secret.len()])))
        .collect();
    let mut value = Block::default();
    for (index, chunk) in secret.chunks(BLOCK_BYTES).enumerate() {
        let start = index * BLOCK_BYTES;
        value.load(chunk);
        let polynomial = Polynomial::draw(threshold.threshold(), &value, rng);
        for (x, share) in &mut out {
            polynomial.at(*x, &mut value);
            value.store(&mut share[start..start + chunk.len()]);
        }
    }
    Ok(out)
}

/// Recombines points of any origin. Of more than `threshold` points those with
/// the smallest x are used; all are checked. A wrong y cannot be seen here:
/// [`commitment_holds`](super::commitment_holds) tells before.
///
/// # Errors
/// [`FlatError`]; never a secret from points that are not shares of one length
/// at distinct, non-zero coordinates.
pub fn combine_bytes(
    threshold: u8,
    points: &[(u8, &[u8])],
) -> Result<Zeroizing<Vec<u8>>, FlatError> {
    let needed = usize::from(threshold);
    if needed == 0 {
        return Err(ThresholdError::Zero.into());
    }
    if points.len() > SHARES_MAX {
        let shares = points.len();
        return Err(ThresholdError::TooManyShares { shares }.into());
    }
    let mut seen = [None; 256];
    for (position, (x, y)) in points.iter().enumerate() {
        if *x == 0 {
            return Err(FlatError::ZeroX { position });
        }
        check_length(position, y.len())?;
        let expected = points[0].1.len();
        if y.len() != expected {
            return Err(FlatError::Length {
                position,
                got: y.len(),
                expected,
            });
        }
        if let Some(first) = seen[usize::from(*x)].replace(position) {
            return Err(FlatError::DuplicateX {
                x: *x,
                first,
                second: position,
            });
        }
    }
    if points.len() < needed {
        return Err(FlatError::TooFew {
            got: points.len(),
            needed,
        });
    }
    let chosen: Vec<usize> = seen.iter().flatten().take(needed).copied().collect();
    let xs: Vec<u8> = chosen.iter().map(|p| points[*p].0).collect();
    let mut terms: Vec<(u8, Block)> = lagrange_at_zero(&xs)
        .into_iter()
        .map(|weight| (weight, Block::default()))
        .collect();
    let mut secret = Zeroizing::new(vec![0; points[0].1.len()]);
    let mut value = Block::default();
    for (index, out) in secret.chunks_mut(BLOCK_BYTES).enumerate() {
        let range = index * BLOCK_BYTES..index * BLOCK_BYTES + out.len();
        for ((_, block), position) in terms.iter_mut().zip(&chosen) {
            block.load(&points[*position].1[range.clone()]);
        }
        value.weighted_sum(&terms);
        value.store(out);
    }
    Ok(secret)
}

fn check_length(position: usize, got: usize) -> Result<(), FlatError> {
    match got {
        0 => Err(FlatError::Empty { position }),
        1..=SECRET_BYTES_MAX => Ok(()),
        _ => Err(FlatError::TooLong { got }),
    }
}
