//! What is stolen from fewer places than the policy asks for gives nothing:
//! no canary in any image, capture, core file or log of a home, a custodian or
//! a link, and no data key from any combination of the shares in them.
//!
//! Record: `attack.json`, see [`Attack`]. It must name a set of custodians that
//! *may* open each data key: the thief's success with them is the control
//! without which its failure elsewhere shows nothing (`unknown`).

use super::{CheckResult, Checker, Evidence, TestRecord};
use crate::attacker::{Attack, Loot, attack};
use serde_json::{Value as Json, json};

/// See the module.
pub struct Theft;

/// Carries out the attack in a file of the run.
pub(super) fn carried_out(test: &TestRecord, file: &str) -> Result<(usize, Loot), String> {
    let path = test.dir.join(file);
    let text = std::fs::read_to_string(&path)
        .map_err(|e| format!("{file}: {e}: the run did not record it"))?;
    let of: Attack = serde_json::from_str(&text).map_err(|e| format!("{file}: {e}"))?;
    let loot = attack(&test.dir, &of)?;
    Ok((of.targets.len(), loot))
}

impl Checker for Theft {
    fn name(&self) -> &'static str {
        "theft"
    }

    fn check(&self, test: &TestRecord) -> CheckResult {
        let (targets, loot) = match carried_out(test, "attack.json") {
            Ok(done) => done,
            Err(why) => return CheckResult::unknown(why, Json::Null),
        };
        let found = loot.canaries.iter().chain(&loot.breaches);
        let found: Vec<Evidence> = found.map(|what| Evidence::new(what, [])).collect();
        let silent = loot.without_control(targets);
        let targets = targets + loot.dealings;
        let details = json!({
            "bytes": loot.bytes, "shares": loot.shares, "combinations": loot.combinations,
            "targets": targets, "opened_by_allowed_sets": loot.allowed.len(), "without_control": silent,
        });
        if found.is_empty() && (targets == 0 || !silent.is_empty()) {
            let why = format!(
                "no allowed set of custodians opened {} of {targets} data keys: the control failed",
                silent.len()
            );
            return CheckResult::unknown(why, details);
        }
        CheckResult::from_findings(found, details)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attacker::fixture;
    use crate::checker::testing::{Directory, record};
    use crate::verdict::Verdict;

    fn check(dir: &Directory, json: &Json) -> Verdict {
        dir.write("attack.json", json.to_string());
        let mut test = record("");
        test.dir = dir.0.clone();
        Theft.check(&test).verdict
    }

    #[test]
    fn clean_images_are_true_only_with_the_control() {
        let dir = Directory::new("theft");
        assert_eq!(
            check(&dir, &fixture::deployment(&dir, &["at", "ch"])),
            Verdict::True
        );
        assert_eq!(
            check(&dir, &fixture::deployment(&dir, &["at"])),
            Verdict::Unknown
        );
        let all = fixture::deployment(&dir, &["at", "ch", "de"]);
        dir.write(
            "images/home.img",
            format!("{{\"text\":\"{}\"}}", fixture::CANARY),
        );
        assert_eq!(check(&dir, &all), Verdict::False);
    }
}
