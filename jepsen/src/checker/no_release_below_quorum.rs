//! A custodian that is cut off from its majority releases nothing.
//!
//! Records:
//! - `minorities`: `{"custodian", "node", "from_ms", "to_ms"}`: how long a node
//!   could not reach a majority of its custodian; `from_ms` when that had
//!   taken effect.
//! - `answers`: `{"custodian", "node", "begun_ms", "ended_ms", "released"}` for
//!   each answer to a request for shares, `released` when a share came.
//!
//! A release that began before the cut may end in it; one that began and ended
//! in it breaks the promise. Clients must have tried, or nothing is shown.

use super::{CheckResult, Checker, Evidence, TestRecord, records};
use serde::Deserialize;
use serde_json::{Value as Json, json};

/// See the module.
pub struct NoReleaseBelowQuorum;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Minority {
    custodian: String,
    node: u64,
    from_ms: u64,
    to_ms: u64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Answer {
    custodian: String,
    node: u64,
    begun_ms: u64,
    ended_ms: u64,
    released: bool,
}

impl Checker for NoReleaseBelowQuorum {
    fn name(&self) -> &'static str {
        "no-release-below-quorum"
    }

    fn check(&self, test: &TestRecord) -> CheckResult {
        match judge(test) {
            Ok(result) => result,
            Err(why) => CheckResult::unknown(why, Json::Null),
        }
    }
}

fn judge(test: &TestRecord) -> Result<CheckResult, String> {
    let minorities: Vec<Minority> = records::read(test, "minorities")?;
    let answers: Vec<Answer> = records::read(test, "answers")?;
    let (mut found, mut tried) = (Vec::new(), 0_u64);
    for cut in &minorities {
        let within = |a: &&Answer| {
            a.custodian == cut.custodian
                && a.node == cut.node
                && cut.from_ms <= a.begun_ms
                && a.ended_ms <= cut.to_ms
        };
        for answer in answers.iter().filter(within) {
            tried += 1;
            if answer.released {
                found.push(Evidence::new(
                    format!(
                        "{} node {} released a share from {} to {} ms, cut off from its majority from {} to {} ms",
                        cut.custodian, cut.node, answer.begun_ms, answer.ended_ms, cut.from_ms, cut.to_ms
                    ),
                    [],
                ));
            }
        }
    }
    let details = json!({"cuts": minorities.len(), "answers": answers.len(), "tried": tried});
    if tried == 0 {
        return Ok(CheckResult::unknown(
            "nobody asked a node that was cut off",
            details,
        ));
    }
    Ok(CheckResult::from_findings(found, details))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checker::testing::{Directory, with_records};
    use crate::verdict::Verdict;

    #[test]
    fn only_what_begins_and_ends_in_the_cut_counts() {
        let dir = Directory::new("no-release");
        let cut = "{\"custodian\":\"ch\",\"node\":1,\"from_ms\":100,\"to_ms\":200}\n";
        let answer = |node, begun, ended, released| {
            format!(
                "{{\"custodian\":\"ch\",\"node\":{node},\"begun_ms\":{begun},\"ended_ms\":{ended},\"released\":{released}}}\n"
            )
        };
        let check = |answers: &[String]| {
            let test = with_records(&dir, &[("minorities", cut), ("answers", &answers.concat())]);
            NoReleaseBelowQuorum.check(&test).verdict
        };
        let refused = answer(1, 110, 120, false);
        assert_eq!(
            check(&[
                refused.clone(),
                answer(1, 90, 120, true),
                answer(2, 110, 120, true)
            ]),
            Verdict::True
        );
        assert_eq!(check(&[refused, answer(1, 110, 120, true)]), Verdict::False);
        assert_eq!(check(&[answer(2, 110, 120, true)]), Verdict::Unknown);
    }
}
