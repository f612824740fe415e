//! What is deleted stays unreadable when old images come back: with `n`
//! custodians of which `d` destroyed their share and `r` of these return from
//! an older image, the key is gone as long as the remaining `n - d` and the
//! `r` do not satisfy the policy.
//!
//! Records:
//! - `attack-before.json`: images from before the deletion, of an allowed set;
//!   the control, every key must open.
//! - `attack-after.json`: all images from after it, the returned ones as they
//!   returned; no key may open, and no canary may lie anywhere.

use super::theft::carried_out;
use super::{CheckResult, Checker, Evidence, TestRecord};
use serde_json::{Value as Json, json};

/// See the module.
pub struct DeletionPermanence;

impl Checker for DeletionPermanence {
    fn name(&self) -> &'static str {
        "deletion-permanence"
    }

    fn check(&self, test: &TestRecord) -> CheckResult {
        let both = carried_out(test, "attack-before.json")
            .and_then(|before| Ok((before, carried_out(test, "attack-after.json")?)));
        let ((targets, before), (_, after)) = match both {
            Ok(both) => both,
            Err(why) => return CheckResult::unknown(why, Json::Null),
        };
        let mut found: Vec<Evidence> = after
            .canaries
            .iter()
            .chain(&after.breaches)
            .map(|what| Evidence::new(format!("after the deletion: {what}"), []))
            .collect();
        found.extend(after.allowed.iter().map(|(target, names)| {
            Evidence::new(
                format!(
                    "after the deletion: {} gave the data key of target {target}",
                    names.join(", ")
                ),
                [],
            )
        }));
        let silent = before.without_control(targets);
        let targets = targets + before.dealings;
        let details = json!({
            "targets": targets, "without_control": silent,
            "shares_before": before.shares, "shares_after": after.shares,
        });
        if found.is_empty() && (targets == 0 || !silent.is_empty()) {
            return CheckResult::unknown(
                "the images from before the deletion did not open every key: the control failed",
                details,
            );
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

    #[test]
    fn one_returned_image_of_three_is_survived_and_two_are_not() {
        let dir = Directory::new("deletion");
        let mut test = record("");
        test.dir = dir.0.clone();
        assert_eq!(DeletionPermanence.check(&test).verdict, Verdict::Unknown);
        for (returned, control, verdict) in [
            (&["at"][..], &["at", "ch"][..], Verdict::True),
            (&["at", "de"], &["at", "ch"], Verdict::False),
            (&["at"], &["ch"], Verdict::Unknown),
        ] {
            for (file, stolen) in [
                ("attack-before.json", control),
                ("attack-after.json", returned),
            ] {
                dir.write(file, fixture::deployment(&dir, stolen).to_string());
            }
            assert_eq!(
                DeletionPermanence.check(&test).verdict,
                verdict,
                "{returned:?} {control:?}"
            );
        }
    }
}
