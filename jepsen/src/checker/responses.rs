//! Answers outside of the contract. A client that gets one (a status that the
//! route does not have, a body that does not parse, data that does not open)
//! completes its operation with an error that begins with `unexpected:`, and
//! the run is `false` whatever else happened.

use super::{CheckResult, Checker, Evidence, TestRecord};
use serde_json::json;

/// How such an error begins.
pub const UNEXPECTED: &str = "unexpected:";

/// See the module.
pub struct Responses;

impl Checker for Responses {
    fn name(&self) -> &'static str {
        "responses"
    }

    fn check(&self, test: &TestRecord) -> CheckResult {
        let mut found = Vec::new();
        for op in test.history.ops() {
            if let Some(error) = op.error.as_deref().filter(|e| e.starts_with(UNEXPECTED)) {
                let begun = test.history.partner(op.index as usize).map(|o| o.index);
                found.push(Evidence::new(error, begun.into_iter().chain([op.index])));
            }
        }
        let count = found.len();
        CheckResult::from_findings(found, json!({"unexpected": count}))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checker::testing::record;
    use crate::verdict::Verdict;

    #[test]
    fn a_failure_is_an_answer_and_nonsense_is_not() {
        let lines = |error: &str| format!("0 invoke add 1\n0 info add 1 !{error}");
        let check = |error: &str| Responses.check(&record(&lines(error)));
        assert_eq!(check("timeout").verdict, Verdict::True);
        let found = check("unexpected: status 599");
        assert_eq!(
            (found.verdict, &found.evidence[0].ops[..]),
            (Verdict::False, &[0, 1][..])
        );
    }
}
