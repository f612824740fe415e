//! Are the coefficients uniform, all of them, the leading one included?
//!
//! Chi-square over the 256 values of every coefficient of every gate, recovered
//! from shares that `split` dealt; seeds are fixed, so the outcome is too.

use super::support::{
    Quirk, Shares, Tape, flat, gate, interpolate, inverse, mul, naive_split, real_split,
};
use quorate_engine::types::Structure;
use rand_chacha::ChaCha20Rng;
use rand_core::{Rng, SeedableRng};

/// 255 degrees of freedom: mean 255, standard deviation 22.6. Six of them.
const CHI_SQUARE_MAX: f64 = 255.0 + 6.0 * 22.6;
/// Suspiciously even is not random either.
const CHI_SQUARE_MIN: f64 = 255.0 - 6.0 * 22.6;
const SPLITS: usize = 4_000;

type Splitter = dyn Fn(&Structure, &[u8; 32], &mut Tape) -> Shares;

fn chi_square(counts: &[u64; 256]) -> f64 {
    let expected = counts.iter().sum::<u64>() as f64 / 256.0;
    counts
        .iter()
        .map(|c| (*c as f64 - expected).powi(2) / expected)
        .sum()
}

fn tape(rng: &mut ChaCha20Rng) -> Tape {
    let mut bytes = vec![0; 512];
    rng.fill_bytes(&mut bytes);
    Tape::new(bytes)
}

/// Two of four with an inner gate of three: coefficients of two gates.
fn structure() -> Structure {
    let mut all = flat(3, &["br", "ch", "is", "sg"]);
    if let Structure::Gate { children, .. } = &mut all {
        children.push(flat(3, &["wa", "wb", "wc"]));
    }
    gate(2, vec![flat(2, &["aa", "ab"]), all])
}

/// Chi-square of each coefficient of the inner gates, then of sums of two.
fn measure(split: &Splitter) -> Vec<(&'static str, f64)> {
    let names = ["br a1", "br a2", "wa a1", "wa a2", "a1 + a2", "a2 of both"];
    let mut counts = [[0u64; 256]; 6];
    let mut rng = ChaCha20Rng::seed_from_u64(7);
    let structure = structure();
    for _ in 0..SPLITS {
        // One secret all along: a bias that depends on it would show.
        let shares = split(&structure, &[0x77; 32], &mut tape(&mut rng));
        let y = |name: &str| shares.iter().find(|(id, _)| id.as_str() == name).unwrap().1;
        let br = interpolate(&[(1, y("br")), (2, y("ch")), (3, y("is"))]);
        let wa = interpolate(&[(1, y("wa")), (2, y("wb")), (3, y("wc"))]);
        for byte in 0..32 {
            let sums = br[1][byte] ^ br[2][byte];
            let values = [br[1], br[2], wa[1], wa[2]].map(|c| c[byte]);
            let both = br[2][byte] ^ wa[2][byte];
            for (count, value) in counts
                .iter_mut()
                .zip(values.into_iter().chain([sums, both]))
            {
                count[usize::from(value)] += 1;
            }
        }
    }
    names
        .into_iter()
        .zip(counts.iter().map(chi_square))
        .collect()
}

fn uniform(statistic: f64) -> bool {
    (CHI_SQUARE_MIN..=CHI_SQUARE_MAX).contains(&statistic)
}

#[test]
fn all_coefficients_are_uniform() {
    for (what, statistic) in measure(&real_split) {
        assert!(uniform(statistic), "{what}: chi-square {statistic:.0}");
    }
}

#[test]
fn rejecting_a_zero_leading_coefficient_would_be_found() {
    let found = measure(&|s, k, r| naive_split(Quirk::RejectZeroLeading, s, k, r));
    for (what, statistic) in found {
        let leading = what == "br a2" || what == "wa a2";
        assert_eq!(
            !uniform(statistic),
            leading,
            "{what}: chi-square {statistic:.0}"
        );
    }
    // The control: the same naive splitter without the quirk passes.
    for (what, statistic) in measure(&|s, k, r| naive_split(Quirk::None, s, k, r)) {
        assert!(uniform(statistic), "{what}: chi-square {statistic:.0}");
    }
}

/// omicron#10284: threshold − 1 shares of each of many splits of one secret. The
/// attacker guesses, for each byte, the value that would make the leading
/// coefficient zero least often. Returns how many of 32 bytes that gets right.
fn bytes_guessed_after_resplits(split: &Splitter, resplits: usize) -> usize {
    let structure = flat(3, &["br", "ch", "is", "sg"]);
    let mut rng = ChaCha20Rng::seed_from_u64(11);
    let mut secret = [0; 32];
    rng.fill_bytes(&mut secret);
    // With y1, y2 at x = 1, 2 the leading coefficient is zero for the one candidate
    // on the line through them: its value at 0 is (2·y1 + 1·y2) / (1 + 2).
    let (w1, w2) = (mul(2, inverse(3)), inverse(3));
    let mut times_impossible = vec![[0u32; 256]; 32];
    for _ in 0..resplits {
        let shares = split(&structure, &secret, &mut tape(&mut rng));
        for (byte, times) in times_impossible.iter_mut().enumerate() {
            let on_the_line = mul(w1, shares[0].1[byte]) ^ mul(w2, shares[1].1[byte]);
            times[usize::from(on_the_line)] += 1;
        }
    }
    times_impossible
        .iter()
        .zip(secret)
        .filter(|(times, truth)| {
            let guess = (0..256).min_by_key(|c| times[*c]).unwrap();
            guess == usize::from(*truth)
        })
        .count()
}

#[test]
fn five_thousand_resplits_of_one_secret_say_nothing() {
    let honest = bytes_guessed_after_resplits(&real_split, 5_000);
    // Chance alone gets 32/256 bytes right on average; four would be one in 100,000.
    assert!(honest < 4, "{honest} of 32 bytes guessed");
    let leaky = bytes_guessed_after_resplits(
        &|s, k, r| naive_split(Quirk::RejectZeroLeading, s, k, r),
        5_000,
    );
    assert_eq!(
        leaky, 32,
        "the attack works on the variant that rejects zero"
    );
}
