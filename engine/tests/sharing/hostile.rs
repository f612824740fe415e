//! Hostile shares and impossible thresholds are errors by type, never a wrong secret.

use super::support::{flat, gate, id, numbered};
use proptest::prelude::*;
use quorate_engine::sharing::{
    FlatError, GATES_DEPTH_MAX, SECRET_BYTES_MAX, SharingError, ThresholdError, ValidThreshold,
    combine, combine_bytes, split, split_bytes,
};
use quorate_engine::types::{DataKey, Secret, Share, Structure};
use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng;

fn rng() -> ChaCha20Rng {
    ChaCha20Rng::seed_from_u64(3)
}
fn key() -> DataKey {
    DataKey(Secret::from_slice(&[9; 32]).unwrap())
}

#[test]
fn thresholds_that_cannot_be() {
    assert_eq!(ValidThreshold::new(0, 5), Err(ThresholdError::Zero));
    assert_eq!(ValidThreshold::new(0, 0), Err(ThresholdError::Zero));
    assert_eq!(ValidThreshold::new(1, 0), Err(ThresholdError::NoShares));
    // The assertion that another project got the wrong way round: what is dealt
    // must be at least what is needed.
    assert_eq!(
        ValidThreshold::new(6, 5),
        Err(ThresholdError::AboveShares {
            threshold: 6,
            shares: 5
        })
    );
    assert_eq!(
        ValidThreshold::new(2, 256),
        Err(ThresholdError::TooManyShares { shares: 256 })
    );
    assert_eq!(
        ValidThreshold::new(257, 255),
        Err(ThresholdError::AboveShares {
            threshold: 257,
            shares: 255
        })
    );
    let most = ValidThreshold::new(255, 255).unwrap();
    assert_eq!((most.threshold(), most.shares()), (255, 255));
}

#[test]
fn hostile_points() {
    let (a, b, c): (&[u8], &[u8], &[u8]) = (b"aaaa", b"bbbb", b"ccccc");
    type Points<'a> = &'a [(u8, &'a [u8])];
    let cases: [(u8, Points<'_>, FlatError); 8] = [
        (
            0,
            &[(1, a), (2, b)],
            FlatError::Threshold(ThresholdError::Zero),
        ),
        (2, &[], FlatError::TooFew { got: 0, needed: 2 }),
        (2, &[(1, a)], FlatError::TooFew { got: 1, needed: 2 }),
        (2, &[(1, a), (0, b)], FlatError::ZeroX { position: 1 }),
        (
            2,
            &[(3, a), (2, b), (3, b)],
            FlatError::DuplicateX {
                x: 3,
                first: 0,
                second: 2,
            },
        ),
        (
            2,
            &[(1, a), (2, c)],
            FlatError::Length {
                position: 1,
                got: 5,
                expected: 4,
            },
        ),
        (2, &[(1, a), (2, &[])], FlatError::Empty { position: 1 }),
        (1, &[(1, &[])], FlatError::Empty { position: 0 }),
    ];
    for (threshold, points, expected) in cases {
        assert_eq!(combine_bytes(threshold, points).unwrap_err(), expected);
    }
    // Checked even when it would not be used: the third point is surplus.
    assert_eq!(
        combine_bytes(2, &[(1, a), (2, b), (0, a)]).unwrap_err(),
        FlatError::ZeroX { position: 2 }
    );
    let many: Vec<(u8, &[u8])> = (0..256).map(|_| (1, a)).collect();
    assert!(matches!(
        combine_bytes(2, &many).unwrap_err(),
        FlatError::Threshold(ThresholdError::TooManyShares { shares: 256 })
    ));
}

#[test]
fn secrets_that_cannot_be_split() {
    let two = ValidThreshold::new(2, 3).unwrap();
    assert_eq!(
        split_bytes(two, &[], &mut rng()).unwrap_err(),
        FlatError::Empty { position: 0 }
    );
    let long = vec![0; SECRET_BYTES_MAX + 1];
    assert_eq!(
        split_bytes(two, &long, &mut rng()).unwrap_err(),
        FlatError::TooLong {
            got: SECRET_BYTES_MAX + 1
        }
    );
}

#[test]
fn structures_that_cannot_be() {
    let ch = || Structure::Leaf(id("ch"));
    let refused = |s: &Structure| split(s, &key(), &mut rng()).unwrap_err();
    assert_eq!(refused(&ch()), SharingError::BareLeaf);
    assert_eq!(
        refused(&flat(0, &["ch", "is"])),
        ThresholdError::Zero.into()
    );
    assert_eq!(refused(&flat(1, &[])), ThresholdError::NoShares.into());
    assert_eq!(
        refused(&flat(3, &["ch", "is"])),
        ThresholdError::AboveShares {
            threshold: 3,
            shares: 2
        }
        .into()
    );
    assert_eq!(
        refused(&numbered(2, 256)),
        ThresholdError::TooManyShares { shares: 256 }.into()
    );
    assert_eq!(
        refused(&gate(2, vec![ch(), flat(1, &["is", "ch"])])),
        SharingError::CustodianTwice(id("ch"))
    );
    let mut deep = ch();
    for _ in 0..=GATES_DEPTH_MAX {
        deep = gate(1, vec![deep]);
    }
    assert_eq!(refused(&deep), SharingError::TooDeep);
    assert_eq!(combine(&deep, &[]).unwrap_err(), SharingError::TooDeep);
}

#[test]
fn hostile_shares_of_a_structure() {
    let structure = flat(2, &["ch", "is", "sg"]);
    let share = Share(Secret::from_slice(&[1; 32]).unwrap());
    let run = |names: &[&str]| {
        let given: Vec<_> = names.iter().map(|n| (id(n), &share)).collect();
        combine(&structure, &given).unwrap_err()
    };
    assert_eq!(run(&[]), SharingError::Empty);
    assert_eq!(run(&["ch", "ch"]), SharingError::DuplicateShare(id("ch")));
    assert_eq!(
        run(&["ch", "is", "us"]),
        SharingError::UnknownCustodian(id("us"))
    );
    assert_eq!(
        run(&["sg"]),
        SharingError::TooFew {
            have: [id("sg")].into()
        }
    );
}

#[test]
fn surplus_shares_are_ignored_deterministically() {
    let structure = flat(2, &["br", "ch", "is", "sg"]);
    let shares = split(&structure, &key(), &mut rng()).unwrap();
    let wrong = Share(Secret::from_slice(&[0xee; 32]).unwrap());
    // sg lies. The first two in canonical order are used whatever the order given.
    let mut given: Vec<_> = shares[..3].iter().map(|(id, s)| (id.clone(), s)).collect();
    given.insert(0, (id("sg"), &wrong));
    for _ in 0..given.len() {
        given.rotate_left(1);
        assert_eq!(
            combine(&structure, &given).unwrap().expose(),
            key().expose()
        );
    }
    let with_liar = [(id("sg"), &wrong), (id("br"), &shares[0].1)];
    assert_ne!(
        combine(&structure, &with_liar).unwrap().expose(),
        key().expose()
    );

    let points: Vec<(u8, &[u8])> = vec![
        (4, wrong.expose()),
        (2, shares[1].1.expose()),
        (1, shares[0].1.expose()),
    ];
    assert_eq!(
        combine_bytes(2, &points).unwrap().as_slice(),
        key().expose()
    );
}

#[test]
fn errors_and_secrets_print_no_bytes() {
    let structure = flat(2, &["ch", "is"]);
    let shares = split(&structure, &key(), &mut rng()).unwrap();
    let text = format!("{shares:?}");
    assert!(text.contains("Share(..)"), "{text}");
    for (_, share) in &shares {
        assert!(!text.contains(&hex::encode(share.expose())));
    }
}

proptest! {
    #[test]
    fn combine_bytes_never_panics(threshold: u8, points in prop::collection::vec((any::<u8>(), prop::collection::vec(any::<u8>(), 0..40)), 0..12)) {
        let given: Vec<(u8, &[u8])> = points.iter().map(|(x, y)| (*x, y.as_slice())).collect();
        let clean = points.iter().all(|(x, y)| *x != 0 && !y.is_empty() && y.len() == points[0].1.len());
        let mut xs: Vec<u8> = points.iter().map(|(x, _)| *x).collect();
        xs.sort_unstable();
        xs.dedup();
        let meaningful = clean && threshold > 0 && xs.len() == points.len() && points.len() >= usize::from(threshold);
        prop_assert_eq!(combine_bytes(threshold, &given).is_ok(), meaningful);
    }

    #[test]
    fn any_length_comes_back(secret in prop::collection::vec(any::<u8>(), 1..200), t in 1..6usize, extra in 0..4usize, seed: u64) {
        let valid = ValidThreshold::new(t, t + extra).unwrap();
        let shares = split_bytes(valid, &secret, &mut ChaCha20Rng::seed_from_u64(seed)).unwrap();
        let points: Vec<(u8, &[u8])> = shares.iter().rev().map(|(x, y)| (*x, y.as_slice())).collect();
        prop_assert_eq!(combine_bytes(valid.threshold(), &points[..t]).unwrap().to_vec(), (secret.as_slice()).to_vec());
    }
}
