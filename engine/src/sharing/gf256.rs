//! Arithmetic in GF(2^8) with the polynomial x^8 + x^4 + x^3 + x + 1 (0x11b,
//! the field of FIPS 197), in constant time.
//!
//! There are no tables and no branches on secret bytes: time, addresses and
//! instruction counts are the same for every secret. Secret bytes are only ever
//! shifted, masked and added (xor), eight to a `u64` and four words to a
//! [`Block`], which the compiler turns into vector instructions. The other
//! factor of every product here is *public*: an x coordinate or a Lagrange
//! coefficient, which depends on x coordinates alone. `docs/constant-time.md`
//! has the argument, `tests/tests/constant_time.rs` counts the instructions.

use zeroize::{Zeroize, ZeroizeOnDrop};

/// Bytes in a [`Block`]: one data key.
pub(super) const BLOCK_BYTES: usize = 32;
const WORDS: usize = BLOCK_BYTES / 8;
const LOW_SEVEN_BITS: u64 = 0x7f7f_7f7f_7f7f_7f7f;
const LOWEST_BIT: u64 = 0x0101_0101_0101_0101;

/// The product of two field elements.
///
/// Constant time in both factors, though only public values come here.
pub fn mul(a: u8, b: u8) -> u8 {
    let (mut a, mut product) = (a, 0u8);
    for bit in 0..8 {
        product ^= a & 0u8.wrapping_sub((b >> bit) & 1);
        a = (a << 1) ^ (0x1b & 0u8.wrapping_sub(a >> 7));
    }
    product
}

/// The inverse of a field element, as a^254; 0 for 0.
pub fn invert(a: u8) -> u8 {
    let a2 = mul(a, a);
    let a3 = mul(a2, a);
    let a6 = mul(a3, a3);
    let a12 = mul(a6, a6);
    let a15 = mul(a12, a3);
    let a30 = mul(a15, a15);
    let a60 = mul(a30, a30);
    let a120 = mul(a60, a60);
    let a240 = mul(a120, a120);
    mul(mul(a240, a12), a2)
}

/// 32 secret field elements, worked on together. Wiped on drop; written in place
/// rather than returned, because a moved value leaves a copy behind that nobody wipes.
#[derive(Default, Zeroize, ZeroizeOnDrop)]
pub(super) struct Block([u64; WORDS]);

impl Block {
    /// Takes up to 32 bytes, in place; a shorter slice is filled up with zeros.
    ///
    /// # Panics
    /// When `bytes` is longer than a block, which is a bug of the caller.
    #[inline]
    pub(super) fn load(&mut self, bytes: &[u8]) {
        assert!(bytes.len() <= BLOCK_BYTES, "a block holds 32 bytes");
        self.0 = [0; WORDS];
        for (word, chunk) in self.0.iter_mut().zip(bytes.chunks(8)) {
            let mut le = [0u8; 8];
            le[..chunk.len()].copy_from_slice(chunk);
            *word = u64::from_le_bytes(le);
            le.zeroize();
        }
    }

    /// Takes the value of another block, in place.
    #[inline]
    pub(super) fn copy(&mut self, other: &Self) {
        self.0 = other.0;
    }

    /// Writes the first `out.len()` bytes.
    #[inline]
    pub(super) fn store(&self, out: &mut [u8]) {
        for (word, chunk) in self.0.iter().zip(out.chunks_mut(8)) {
            let n = chunk.len();
            chunk.copy_from_slice(&word.to_le_bytes()[..n]);
        }
    }

    /// Adds another block: xor.
    #[inline]
    pub(super) fn add(&mut self, other: &Self) {
        for (a, b) in self.0.iter_mut().zip(&other.0) {
            *a ^= b;
        }
    }

    /// Multiplies every element by x, the field's generator of doublings.
    #[inline]
    fn double(&mut self) {
        for word in &mut self.0 {
            // The bit that leaves a byte at the top comes back as 0x1b.
            let top = (*word >> 7) & LOWEST_BIT;
            *word = ((*word & LOW_SEVEN_BITS) << 1) ^ top ^ (top << 1) ^ (top << 3) ^ (top << 4);
        }
    }

    /// Horner's step: `self = self * x + coefficient`. `x` is public: the
    /// number of steps depends on it, never on the blocks.
    #[inline]
    pub(super) fn horner(&mut self, x: u8, coefficient: &Self) {
        if x == 1 {
            self.add(coefficient);
            return;
        }
        let mut factor = Self::default();
        factor.copy(self);
        self.0 = [0; WORDS];
        for bit in (0..8 - x.leading_zeros()).rev() {
            self.double();
            if (x >> bit) & 1 == 1 {
                self.add(&factor);
            }
        }
        self.add(coefficient);
    }

    /// Becomes the sum of `weight * block` over all terms. Weights are public. Bits of
    /// the weights are taken from the top for all terms at once, so that there
    /// are eight doublings in all rather than eight a term.
    #[inline]
    pub(super) fn weighted_sum(&mut self, terms: &[(u8, Self)]) {
        self.0 = [0; WORDS];
        for bit in (0..8).rev() {
            self.double();
            for (weight, block) in terms {
                if (weight >> bit) & 1 == 1 {
                    self.add(block);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Schoolbook multiplication of polynomials, then long division by 0x11b:
    /// slow, with branches, and evidently right.
    fn naive(a: u8, b: u8) -> u8 {
        let mut wide = 0u32;
        for i in 0..8 {
            if b & (1 << i) != 0 {
                wide ^= u32::from(a) << i;
            }
        }
        for i in (8..16).rev() {
            if wide & (1 << i) != 0 {
                wide ^= 0x11b << (i - 8);
            }
        }
        u8::try_from(wide).unwrap()
    }

    /// Log and exponential tables over the generator 3.
    fn tables() -> ([u8; 256], [u8; 255]) {
        let (mut log, mut exp, mut x) = ([0u8; 256], [0u8; 255], 1u8);
        for (i, e) in exp.iter_mut().enumerate() {
            *e = x;
            log[usize::from(x)] = u8::try_from(i).unwrap();
            x = naive(x, 3);
        }
        assert_eq!(x, 1, "3 generates the whole group");
        (log, exp)
    }

    #[test]
    fn products_agree_with_two_naive_implementations_over_all_pairs() {
        let (log, exp) = tables();
        for a in 0..=255u8 {
            for b in 0..=255u8 {
                let product = mul(a, b);
                assert_eq!(product, naive(a, b), "{a} * {b}");
                let by_table = if a == 0 || b == 0 {
                    0
                } else {
                    let sum = usize::from(log[usize::from(a)]) + usize::from(log[usize::from(b)]);
                    exp[sum % 255]
                };
                assert_eq!(product, by_table, "{a} * {b}");
            }
        }
        assert_eq!(mul(0x57, 0x83), 0xc1, "the example of FIPS 197, 4.2");
    }

    #[test]
    fn field_laws_hold() {
        for a in 0..=255u8 {
            assert_eq!(mul(a, 1), a);
            assert_eq!(mul(a, 0), 0);
            assert_eq!(mul(a, invert(a)), u8::from(a != 0), "inverse of {a}");
            assert_eq!(invert(invert(a)), a);
            for b in 0..=255u8 {
                assert_eq!(mul(a, b), mul(b, a));
                // A third element walks with the pair: 65,536 triples rather than 16 million.
                let c = a.wrapping_mul(31) ^ b.rotate_left(3) ^ 0x5a;
                assert_eq!(mul(mul(a, b), c), mul(a, mul(b, c)), "{a} {b} {c}");
                assert_eq!(mul(a, b ^ c), mul(a, b) ^ mul(a, c), "{a} {b} {c}");
            }
        }
    }

    fn block(bytes: &[u8]) -> Block {
        let mut out = Block::default();
        out.load(bytes);
        out
    }

    #[test]
    fn blocks_agree_with_single_bytes_over_all_pairs() {
        for x in 0..=255u8 {
            for start in (0..=255u8).step_by(BLOCK_BYTES) {
                let bytes: Vec<u8> = (0..32).map(|i| start + i).collect();

                let mut out = [0u8; 32];
                let mut value = block(&bytes);
                value.horner(x, &block(&[0xa5; 32]));
                value.store(&mut out);
                for (b, got) in bytes.iter().zip(out) {
                    assert_eq!(got, mul(*b, x) ^ 0xa5, "{b} * {x} + a5");
                }

                value.weighted_sum(&[(x, block(&bytes)), (0x91, block(&[0x3c; 32]))]);
                value.store(&mut out);
                for (b, got) in bytes.iter().zip(out) {
                    assert_eq!(got, mul(*b, x) ^ mul(0x3c, 0x91));
                }
            }
        }
    }

    #[test]
    fn short_blocks_are_filled_with_zeros_and_cut_on_the_way_out() {
        let mut value = block(&[0xee; 32]);
        value.load(&[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11]);
        let (mut all, mut some) = ([0xffu8; 32], [0xffu8; 11]);
        value.store(&mut all);
        value.store(&mut some);
        assert_eq!(some, [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11]);
        assert_eq!(all[..11], some);
        assert_eq!(all[11..], [0; 21]);
    }
}
