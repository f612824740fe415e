//! A key that messages are sealed under reached enough custodians before the
//! first of them was acknowledged, and a key that never opened is nowhere.
//!
//! Records:
//! - `epochs`: `{"key", "structure", "opened"}` for each dealing that the home
//!   began; `structure` as in `attack.json`, `opened` whether a message was
//!   acknowledged under it.
//! - `shares`: as for `late-nodes`, from all disks after the deadline for
//!   dealings that were given up.

use super::late_nodes::{Kept, State};
use super::{CheckResult, Checker, Evidence, TestRecord, records};
use crate::attacker::allows;
use quorate_engine::types::{CustodianId, Structure};
use serde::Deserialize;
use serde_json::{Value as Json, json};
use std::collections::{BTreeMap, BTreeSet};

/// See the module.
pub struct CreateAtomicity;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Epoch {
    key: String,
    structure: Structure,
    opened: bool,
}

impl Checker for CreateAtomicity {
    fn name(&self) -> &'static str {
        "create-atomicity"
    }

    fn check(&self, test: &TestRecord) -> CheckResult {
        match judge(test) {
            Ok(result) => result,
            Err(why) => CheckResult::unknown(why, Json::Null),
        }
    }
}

fn judge(test: &TestRecord) -> Result<CheckResult, String> {
    let epochs: Vec<Epoch> = records::read(test, "epochs")?;
    let kept: Vec<Kept> = records::read(test, "shares")?;
    let mut holders: BTreeMap<&str, BTreeSet<CustodianId>> = BTreeMap::new();
    for kept in kept.iter().filter(|k| k.state == State::Share) {
        let custodian = CustodianId::new(&kept.custodian).map_err(|e| e.to_string())?;
        holders.entry(&kept.key).or_default().insert(custodian);
    }
    let (mut found, none) = (Vec::new(), BTreeSet::new());
    for epoch in &epochs {
        let have = holders.get(&*epoch.key).unwrap_or(&none);
        let names: Vec<&str> = have.iter().map(CustodianId::as_str).collect();
        let names = if names.is_empty() {
            "nobody".into()
        } else {
            names.join(", ")
        };
        if epoch.opened && !allows(&epoch.structure, &have.iter().collect()) {
            found.push(Evidence::new(
                format!(
                    "a message was acknowledged under key {}, whose shares only {names} holds",
                    epoch.key
                ),
                [],
            ));
        }
        if !epoch.opened && !have.is_empty() {
            found.push(Evidence::new(
                format!(
                    "key {} was given up, but {names} still holds its share",
                    epoch.key
                ),
                [],
            ));
        }
    }
    let details = json!({"epochs": epochs.len(), "shares": kept.len(), "findings": found.len()});
    Ok(CheckResult::from_findings(found, details))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checker::testing::{Directory, with_records};
    use crate::verdict::Verdict;

    #[test]
    fn opened_keys_have_enough_holders_and_others_none() {
        let dir = Directory::new("create");
        let epoch = |key: &str, opened| {
            let children = json!([{"Leaf": "at"}, {"Leaf": "ch"}, {"Leaf": "de"}]);
            json!({"key": key, "opened": opened, "structure": {"Gate": {"threshold": 2, "children": children}}}).to_string() + "\n"
        };
        let kept = |key: &str, custodian: &str, state: &str| {
            json!({"custodian": custodian, "node": 1, "key": key, "state": state}).to_string()
                + "\n"
        };
        let check = |shares: &[String]| {
            let epochs = epoch("k", true) + &epoch("given-up", false);
            let test = with_records(&dir, &[("epochs", &epochs), ("shares", &shares.concat())]);
            CreateAtomicity.check(&test).verdict
        };
        let (at, ch) = (kept("k", "at", "share"), kept("k", "ch", "share"));
        assert_eq!(
            check(&[at.clone(), ch.clone(), kept("given-up", "ch", "tombstone")]),
            Verdict::True
        );
        assert_eq!(
            check(std::slice::from_ref(&at)),
            Verdict::False,
            "one holder of two"
        );
        assert_eq!(
            check(&[at, ch, kept("given-up", "de", "share")]),
            Verdict::False,
            "an orphan"
        );
    }
}
