//! What the thief finds in different sets of stolen images, and what stops it.

use super::fixture::{CANARY, NAMES, deployment};
use super::*;
use crate::checker::testing::Directory;
use serde_json::{Value as Json, json};

fn carry_out(dir: &Directory, json: Json) -> Loot {
    attack(&dir.0, &serde_json::from_value(json).unwrap()).unwrap()
}

#[test]
fn two_of_three_custodians_give_the_key_and_one_does_not() {
    let dir = Directory::new("attacker-sets");
    let all = carry_out_with(&dir, &NAMES);
    assert_eq!(all.shares.values().sum::<usize>(), 3);
    assert_eq!(all.allowed.len(), 4, "three pairs and all three: {all:?}");
    assert_eq!((all.breaches.len(), all.without_control(1)), (0, vec![]));
    let one = carry_out_with(&dir, &["ch"]);
    assert_eq!(one.shares["ch"], 1);
    assert!(one.allowed.is_empty() && one.breaches.is_empty());
    assert!(one.combinations > 0, "it was tried all the same");
    assert_eq!(one.without_control(1), [0]);
}

fn carry_out_with(dir: &Directory, stolen: &[&str]) -> Loot {
    let json = deployment(dir, stolen);
    carry_out(dir, json)
}

#[test]
fn shares_are_found_without_being_told_of_in_log_and_store() {
    let dir = Directory::new("attacker-untold");
    for (stolen, sets) in [
        (&["at", "ch"][..], 1),
        (&["ch", "de"], 1),
        (&["de"], 0),
        (&NAMES, 4),
    ] {
        let mut json = deployment(&dir, stolen);
        json["structures"] = json!([json["targets"][0]["structure"]]);
        json["targets"] = json!([]);
        let loot = carry_out(&dir, json);
        assert_eq!(
            (loot.dealings, loot.allowed.len()),
            (1, sets),
            "{stolen:?}: {loot:?}"
        );
        assert_eq!(loot.without_control(0).is_empty(), sets > 0);
        assert!(loot.breaches.is_empty());
    }
}

#[test]
fn a_share_that_is_the_key_is_a_breach() {
    let dir = Directory::new("attacker-breach");
    let mut json = deployment(&dir, &["at", "ch"]);
    // The same dealing under a policy that claims to need all three.
    json["targets"][0]["structure"]["Gate"]["threshold"] = json!(3);
    let loot = carry_out(&dir, json);
    assert_eq!(loot.breaches, ["target 0: at, ch gave the data key"]);
}

#[test]
fn canaries_and_open_keys_are_found_wherever_they_lie() {
    let dir = Directory::new("attacker-canaries");
    let mut json = deployment(&dir, &["ch"]);
    dir.write("images/home.img", format!("log: {}", hex::encode(CANARY)));
    json["sites"][1]["cores"] = json!(["images/home.core"]);
    let loot = carry_out(&dir, json);
    assert_eq!(
        loot.canaries,
        ["home: images/home.img: byte 5: canary 0 in hex"]
    );
    assert_eq!(
        loot.breaches,
        ["home: images/home.core: byte 64: the data key of target 0 lies open"]
    );
}

#[test]
fn what_cannot_be_read_is_an_error_and_not_a_silence() {
    let dir = Directory::new("attacker-missing");
    let json = deployment(&dir, &["ch"]);
    let broken: [fn(&mut Json); 4] = [
        |j| j["sites"][0]["files"][0] = json!("images/none.img"),
        |j| j["sites"][0]["vaults"][0]["key_file"] = json!("at/key"),
        |j| j["canaries"][0] = json!("short"),
        |j| j["targets"][0]["check"] = json!("zz"),
    ];
    for change in broken {
        let mut json = json.clone();
        change(&mut json);
        assert!(attack(&dir.0, &serde_json::from_value(json).unwrap()).is_err());
    }
}
