//! Files that load, files that are refused with a reason, and the analyser on both.

use super::*;
use crate::types::Structure::{Gate, Leaf};

fn id(name: &str) -> CustodianId {
    CustodianId::new(name).unwrap()
}
fn set(names: &[&str]) -> BTreeSet<CustodianId> {
    names.iter().map(|n| id(n)).collect()
}
fn identities(structure: &Structure) -> BTreeMap<CustodianId, [u8; 32]> {
    let mut key = [0u8; 32];
    structure
        .leaves()
        .into_iter()
        .map(|leaf| {
            key = [0; 32];
            key[..leaf.as_str().len()].copy_from_slice(leaf.as_str().as_bytes());
            (leaf.clone(), key)
        })
        .collect()
}
fn policy(structure: Structure) -> Result<Policy, PolicyError> {
    let keys = identities(&structure);
    Policy::new(structure, keys)
}
fn gate(threshold: u8, children: Vec<Structure>) -> Structure {
    Gate {
        threshold,
        children,
    }
}
fn flat(threshold: u8, names: &[&str]) -> Structure {
    gate(threshold, names.iter().map(|n| Leaf(id(n))).collect())
}
fn default_policy() -> Policy {
    let mut structure = flat(3, &["sg", "is", "ch", "br"]);
    if let Gate { children, .. } = &mut structure {
        children.insert(1, flat(1, &["nl", "de"]));
    }
    policy(structure).unwrap()
}

#[test]
fn frozen_vector_of_an_id() {
    let p = default_policy();
    assert_eq!(
        p.id().to_string(),
        "7f42942f5ee9c18db9a70a9fe0b9c69d1a53a111f2f602e8d104c95bcd84fc09"
    );
}

#[test]
fn order_of_writing_does_not_change_the_id() {
    let a = policy(flat(2, &["ch", "is", "sg"])).unwrap();
    let b = policy(flat(2, &["sg", "ch", "is"])).unwrap();
    assert_eq!(a, b);
    assert_eq!(
        default_policy().structure().leaves(),
        ["br", "ch", "de", "nl", "is", "sg"]
            .map(id)
            .iter()
            .collect::<Vec<_>>(),
        "a bloc stands where its smallest member does"
    );
}

#[test]
fn threshold_members_and_identity_keys_change_the_id() {
    let base = policy(flat(2, &["ch", "is", "sg"])).unwrap();
    let mut keys = base.identities().clone();
    keys.insert(id("ch"), [9; 32]);
    for other in [
        policy(flat(3, &["ch", "is", "sg"])).unwrap(),
        policy(flat(2, &["ch", "is", "us"])).unwrap(),
        policy(flat(2, &["ch", "is", "sg", "us"])).unwrap(),
        Policy::new(flat(2, &["ch", "is", "sg"]), keys).unwrap(),
    ] {
        assert_ne!(base.id(), other.id());
    }
}

#[test]
fn margins_of_the_default_policy() {
    let p = default_policy();
    assert_eq!(p.margin_of(&p.custodians()), Some(2));
    // de and nl together count once.
    assert_eq!(p.margin_of(&set(&["de", "nl", "ch"])), None);
    assert_eq!(p.margin_of(&set(&["de", "nl", "ch", "is"])), Some(0));
    assert_eq!(p.margin_of(&set(&["sg", "br", "ch", "is"])), Some(1));
    assert_eq!(p.margin_of(&set(&["de", "br", "ch", "is"])), Some(1));
    // Losing ch and is leaves de, nl, br: two.
    assert_eq!(p.margin_of(&set(&["de", "nl", "br", "ch", "is"])), Some(1));
    assert_eq!(p.margin_of(&set(&[])), None);
}

#[test]
fn what_would_suffice_names_the_way_out() {
    let p = default_policy();
    let none = BTreeSet::new();
    assert_eq!(
        p.what_would_suffice(&set(&["ch", "is"]), &set(&["sg", "nl"])),
        vec![set(&["br"]), set(&["de"])]
    );
    assert_eq!(
        p.what_would_suffice(&set(&["ch"]), &set(&["sg", "br", "nl"])),
        vec![set(&["de", "is"])]
    );
    assert!(
        p.what_would_suffice(&set(&["ch"]), &set(&["sg", "br", "is"]))
            .is_empty()
    );
    assert_eq!(
        p.what_would_suffice(&p.custodians(), &none),
        vec![BTreeSet::new()]
    );
    // Had counts, even when it is not to be asked again.
    assert_eq!(
        p.what_would_suffice(&set(&["ch", "is", "sg"]), &p.custodians()),
        vec![BTreeSet::new()]
    );
}

#[test]
fn missing_branches_count_legal_systems_and_not_custodians() {
    let p = default_policy();
    for (have, missing) in [
        (&[][..], 3),
        (&["de", "nl"], 2),
        (&["de", "nl", "ch"], 1),
        (&["br", "nl", "ch"], 0),
        (&["br", "is", "nl", "ch"], 0),
    ] {
        assert_eq!(p.missing_branches(&set(have)), missing, "{have:?}");
    }
}
