//! Canonical bytes and policy files from anywhere: refused by type, never a panic,
//! never more work than the limits allow.

use super::{id, world};
use proptest::prelude::*;
use quorate_engine::policy::{
    LoadError, POLICY_BYTES_MAX, POLICY_FILE_BYTES_MAX, Policy, PolicyError, load,
};
use quorate_engine::sharing::ThresholdError;
use quorate_engine::types::Structure;
use std::collections::BTreeMap;

fn leaf(name: &str) -> Vec<u8> {
    let mut key = [0; 32];
    key[..name.len()].copy_from_slice(name.as_bytes());
    [
        &[0, u8::try_from(name.len()).unwrap()],
        name.as_bytes(),
        &key,
    ]
    .concat()
}
fn gate(threshold: u8, children: &[Vec<u8>]) -> Vec<u8> {
    let count = u8::try_from(children.len()).unwrap();
    [vec![1, threshold, count], children.concat()].concat()
}
fn read(node: &[u8]) -> Result<Policy, PolicyError> {
    Policy::from_canonical(&[&[1], node].concat())
}

#[test]
fn hostile_canonical_bytes() {
    let (ch, is, sg) = (leaf("ch"), leaf("is"), leaf("sg"));
    assert!(read(&gate(2, &[ch.clone(), is.clone(), sg.clone()])).is_ok());

    let refused = |node: &[u8]| read(node).unwrap_err();
    // A threshold of 0 opens to nobody's shares (openbao#3666).
    assert_eq!(
        refused(&gate(0, &[ch.clone(), is.clone()])),
        ThresholdError::Zero.into()
    );
    assert_eq!(
        refused(&gate(
            2,
            &[ch.clone(), is.clone(), gate(0, std::slice::from_ref(&sg))]
        )),
        ThresholdError::Zero.into()
    );
    assert_eq!(
        refused(&gate(3, &[ch.clone(), is.clone()])),
        ThresholdError::AboveShares {
            threshold: 3,
            shares: 2
        }
        .into()
    );
    assert_eq!(refused(&gate(1, &[])), ThresholdError::NoShares.into());
    assert_eq!(
        refused(&gate(1, &[ch.clone(), is.clone()])),
        PolicyError::OneOpensAlone
    );
    assert_eq!(
        refused(&gate(1, &[gate(2, &[ch.clone(), is.clone()])])),
        PolicyError::OneOpensAlone
    );
    assert_eq!(refused(&ch), PolicyError::OneOpensAlone);
    assert_eq!(
        refused(&gate(2, &[ch.clone(), gate(1, &[ch.clone(), is.clone()])])),
        PolicyError::CustodianTwice(id("ch"))
    );
    assert_eq!(
        refused(&gate(2, &[is.clone(), ch.clone()])),
        PolicyError::NotCanonical
    );
    let mut twin = leaf("is");
    twin.truncate(4);
    twin.extend(&ch[4..]);
    assert_eq!(
        refused(&gate(2, &[ch.clone(), twin])),
        PolicyError::SameIdentity(id("ch"), id("is"))
    );
    assert!(matches!(
        refused(&gate(2, &[ch.clone(), leaf("IS")])),
        PolicyError::Name(_)
    ));
    assert!(matches!(refused(&[9]), PolicyError::Malformed { .. }));
    let left_over = [gate(2, &[ch.clone(), is.clone()]), vec![0]].concat();
    assert!(matches!(refused(&left_over), PolicyError::Malformed { .. }));
    assert_eq!(
        Policy::from_canonical(&[2, 0]).unwrap_err(),
        PolicyError::Version(2)
    );
    assert!(matches!(
        Policy::from_canonical(&[]),
        Err(PolicyError::Malformed { .. })
    ));

    let mut deep = gate(2, &[ch, is]);
    for _ in 0..100 {
        deep = gate(1, &[deep]);
    }
    assert_eq!(refused(&deep), PolicyError::TooDeep);
    let long = vec![1; POLICY_BYTES_MAX + 1];
    assert_eq!(
        Policy::from_canonical(&long).unwrap_err(),
        PolicyError::TooLong(POLICY_BYTES_MAX + 1)
    );
}

fn many(threshold: u8, count: usize) -> Result<Policy, PolicyError> {
    let ids: Vec<_> = (0..count).map(|i| id(&format!("c{i:03}"))).collect();
    let identities: BTreeMap<_, _> = (0u8..)
        .zip(&ids)
        .map(|(i, id)| (id.clone(), [i; 32]))
        .collect();
    let children = ids.into_iter().map(Structure::Leaf).collect();
    Policy::new(
        Structure::Gate {
            threshold,
            children,
        },
        identities,
    )
}

#[test]
fn policies_that_could_not_be_planned_with_are_refused_before_enumerating() {
    assert_eq!(many(8, 16).unwrap().minimal_authorised_sets().len(), 12_870);
    assert!(matches!(many(32, 64), Err(PolicyError::TooManySets { .. })));
    assert!(matches!(many(62, 64), Err(PolicyError::TooManySets { .. })));
    assert_eq!(many(64, 64).unwrap().minimal_blocking_sets().len(), 64);
    assert_eq!(many(2, 65).unwrap_err(), PolicyError::TooManyCustodians(65));
}

#[test]
fn identity_keys_are_of_exactly_the_custodians_of_the_tree() {
    let tree = many(2, 3).unwrap();
    let mut keys = tree.identities().clone();
    keys.insert(id("us"), [99; 32]);
    assert_eq!(
        Policy::new(tree.structure().clone(), keys.clone()).unwrap_err(),
        PolicyError::StrayIdentity(id("us"))
    );
    keys.remove(&id("us"));
    keys.remove(&id("c001"));
    assert_eq!(
        Policy::new(tree.structure().clone(), keys).unwrap_err(),
        PolicyError::NoIdentity(id("c001"))
    );
}

#[test]
fn long_and_deep_files_are_refused() {
    let facts = world("home ae \"Home\"");
    let long = "#".repeat(POLICY_FILE_BYTES_MAX + 1);
    assert_eq!(load(&long, &facts), Err(LoadError::TooLong(long.len())));
    let deep = format!(
        "[policy.a]\nthreshold = 1\nmembers = [{}{}]",
        "{ bloc = \"b\", members = [".repeat(5_000),
        "] }".repeat(5_000)
    );
    assert!(matches!(load(&deep, &facts), Err(LoadError::Toml(_))));
}

proptest! {
    #[test]
    fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = Policy::from_canonical(&bytes);
        let _ = Policy::from_canonical(&[&[1, 1, 2, 2], bytes.as_slice()].concat());
    }
}
