//! Share by share agreement with two crates that were written by others:
//! `shamir` 2.0.0 and `vsss-rs` 6. Both put the x byte before the y bytes and
//! use the field 0x11b.

use super::support::{Tape, numbered, real_split};
use proptest::prelude::*;
use quorate_engine::sharing::{ValidThreshold, combine, combine_bytes, split_bytes};
use quorate_engine::types::{DataKey, Secret, Share};
use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng;
use shamir::SecretData;
use vsss_rs::Gf256;

fn thresholds() -> impl Strategy<Value = (u8, u8)> {
    (2..=12u8).prop_flat_map(|n| (2..=n, Just(n)))
}

/// `points[i]` without its x byte.
fn split_off_x(share: &[u8]) -> (u8, &[u8]) {
    (share[0], &share[1..])
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    /// Given the same coefficients, every share byte is the same as `shamir`'s.
    #[test]
    fn shares_equal_those_of_shamir((t, n) in thresholds(), secret: [u8; 32], random in prop::collection::vec(any::<u8>(), 11 * 32)) {
        // `shamir` keeps, per secret byte, [secret, a1, a2, ...].
        let theirs = SecretData {
            secret_data: None,
            coefficients: (0..32)
                .map(|byte| {
                    let drawn = (0..usize::from(t) - 1).map(|k| random[k * 32 + byte]);
                    std::iter::once(secret[byte]).chain(drawn).collect()
                })
                .collect(),
        };
        let ours = real_split(&numbered(t, usize::from(n)), &secret, &mut Tape::new(random));
        for (x, (_, y)) in (1..).zip(&ours) {
            let share = theirs.get_share(x).unwrap();
            prop_assert_eq!(share[0], x);
            prop_assert_eq!(&share[1..], y);
        }
    }

    /// `shamir` opens what we split. It takes text only.
    #[test]
    fn shamir_opens_our_shares((t, n) in thresholds(), secret in "[ -~]{1,80}", seed: u64, from in 0..11usize) {
        let valid = ValidThreshold::new(usize::from(t), usize::from(n)).unwrap();
        let shares = split_bytes(valid, secret.as_bytes(), &mut ChaCha20Rng::seed_from_u64(seed)).unwrap();
        let theirs: Vec<Vec<u8>> = (0..usize::from(t))
            .map(|i| &shares[(from + i) % usize::from(n)])
            .map(|(x, y)| [&[*x], y.as_slice()].concat())
            .collect();
        prop_assert_eq!(SecretData::recover_secret(t, theirs), Some(secret));
    }

    /// We open what `shamir` splits.
    #[test]
    fn we_open_shares_of_shamir((t, n) in thresholds(), secret in "[ -~]{1,80}", from in 0..11u8) {
        let theirs = SecretData::with_secret(&secret, t);
        let shares: Vec<Vec<u8>> = (0..t).map(|i| theirs.get_share((from + i) % n + 1).unwrap()).collect();
        let points: Vec<(u8, &[u8])> = shares.iter().map(|s| split_off_x(s)).collect();
        prop_assert_eq!(combine_bytes(t, &points).unwrap().to_vec(), (secret.as_bytes()).to_vec());
    }

    /// `vsss-rs` opens what we split, from any window of shares.
    #[test]
    fn vsss_opens_our_shares((t, n) in thresholds(), secret: [u8; 32], seed: u64, from in 0..11usize) {
        let key = DataKey(Secret::from_slice(&secret).unwrap());
        let structure = numbered(t, usize::from(n));
        let shares = quorate_engine::sharing::split(&structure, &key, &mut ChaCha20Rng::seed_from_u64(seed)).unwrap();
        let theirs: Vec<Vec<u8>> = (0..usize::from(t))
            .map(|i| (from + i) % usize::from(n))
            .map(|i| [&[u8::try_from(i + 1).unwrap()], shares[i].1.expose().as_slice()].concat())
            .collect();
        prop_assert_eq!(Gf256::combine_bytes(&theirs).unwrap(), secret);
    }

    /// We open what `vsss-rs` splits, and agree with it on *every* share: the
    /// polynomial through the first shares, taken at the x of any other, is that
    /// other share. (Shifting all x by z moves the value at z to 0, where it is read.)
    #[test]
    fn we_open_and_predict_shares_of_vsss((t, n) in thresholds(), secret: [u8; 32], seed: u64) {
        let mut rng = ChaCha20Rng::seed_from_u64(seed);
        let shares = Gf256::split_bytes(usize::from(t), usize::from(n), secret, &mut rng).unwrap();
        let (first, others) = shares.split_at(usize::from(t));
        let points: Vec<(u8, &[u8])> = first.iter().map(|s| split_off_x(s)).collect();
        prop_assert_eq!(combine_bytes(t, &points).unwrap().to_vec(), secret.to_vec());
        for other in others {
            let (z, y) = split_off_x(other);
            let shifted: Vec<(u8, &[u8])> = points.iter().map(|(x, y)| (x ^ z, *y)).collect();
            prop_assert_eq!(combine_bytes(t, &shifted).unwrap().to_vec(), (y).to_vec());
        }
        // The same shares as stored ones, without their x.
        let structure = numbered(t, usize::from(n));
        let held: Vec<Share> = shares.iter().map(|s| Share(Secret::from_slice(&s[1..]).unwrap())).collect();
        let given: Vec<_> = structure.leaves().into_iter().cloned().zip(&held).skip(usize::from(n - t)).collect();
        let key = combine(&structure, &given).unwrap();
        prop_assert_eq!(key.expose(), &secret);
    }

    /// Byte API and key API are one scheme.
    #[test]
    fn both_interfaces_deal_the_same_shares((t, n) in thresholds(), secret: [u8; 32], random in prop::collection::vec(any::<u8>(), 11 * 32)) {
        let valid = ValidThreshold::new(usize::from(t), usize::from(n)).unwrap();
        let bytes = split_bytes(valid, &secret, &mut Tape::new(random.clone())).unwrap();
        let keys = real_split(&numbered(t, usize::from(n)), &secret, &mut Tape::new(random));
        for ((_, a), (_, b)) in bytes.iter().zip(&keys) {
            prop_assert_eq!(a.as_slice(), b);
        }
    }
}

#[test]
fn the_largest_gate_works() {
    let secret = [0x42; 32];
    let structure = numbered(255, 255);
    let shares = quorate_engine::sharing::split(
        &structure,
        &DataKey(Secret::from_slice(&secret).unwrap()),
        &mut ChaCha20Rng::seed_from_u64(1),
    )
    .unwrap();
    let given: Vec<_> = shares.iter().map(|(id, s)| (id.clone(), s)).collect();
    assert_eq!(combine(&structure, &given).unwrap().expose(), &secret);
    assert!(combine(&structure, &given[1..]).is_err());
}

/// Frozen: this structure, key and randomness give these shares in every release.
#[test]
fn frozen_vector() {
    // By hand, byte 0: a0, 00, 20; at x = 1 a0+00+20 = 80, at x = 2 a0+80 = 20.
    let random: Vec<u8> = (0..64).collect();
    let shares = real_split(&numbered(3, 4), &[0xa0; 32], &mut Tape::new(random));
    let got: Vec<String> = shares.iter().map(|(_, y)| hex::encode(&y[..8])).collect();
    assert_eq!(
        got,
        [
            "8080808080808080",
            "20262c2a383e3432",
            "00060c0a181e1412",
            "9682beaac6d2eefa"
        ]
    );
}
