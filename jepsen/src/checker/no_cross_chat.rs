//! A read of one chat never shows what was written to another. Elements of the
//! list-append workload are unique over all keys, so one that appears under
//! another key than it was appended to has crossed.

use super::{CheckResult, Checker, Evidence, TestRecord, list};
use crate::checker::linearizable::show;
use crate::history::{Kind, Process, Value};
use serde_json::{Value as Json, json};
use std::collections::BTreeMap;

/// See the module.
pub struct NoCrossChat;

impl Checker for NoCrossChat {
    fn name(&self) -> &'static str {
        "no-cross-chat"
    }

    fn check(&self, test: &TestRecord) -> CheckResult {
        let mut home: BTreeMap<&Value, (&Value, u64)> = BTreeMap::new();
        let clients = || {
            let lines = test.history.ops().iter();
            lines.filter(|op| op.f == "txn" && op.process != Process::Nemesis)
        };
        let word =
            |step: &Value, f: &str| matches!(list(step), Some([Value::Keyword(w), ..]) if w == f);
        for op in clients().filter(|op| op.kind == Kind::Invoke) {
            for step in list(&op.value)
                .into_iter()
                .flatten()
                .filter(|s| word(s, "append"))
            {
                let Some([_, key, element, ..]) = list(step) else {
                    continue;
                };
                if let Some((other, line)) = home
                    .insert(element, (key, op.index))
                    .filter(|(k, _)| *k != key)
                {
                    let why = format!(
                        "{} is appended to {} at line {line} and to {}: elements must be unique",
                        show(element),
                        show(other),
                        show(key)
                    );
                    return CheckResult::unknown(why, Json::Null);
                }
            }
        }
        let (mut found, mut shown) = (Vec::new(), 0_u64);
        for op in clients().filter(|op| op.kind == Kind::Ok) {
            for step in list(&op.value)
                .into_iter()
                .flatten()
                .filter(|s| word(s, "r"))
            {
                let Some([_, key, Value::List(elements), ..]) = list(step) else {
                    continue;
                };
                for element in elements {
                    shown += 1;
                    if let Some((other, line)) = home.get(element).filter(|(k, _)| *k != key) {
                        found.push(Evidence::new(
                            format!(
                                "a read of {} shows {}, which was appended to {}",
                                show(key),
                                show(element),
                                show(other)
                            ),
                            [*line, op.index],
                        ));
                    }
                }
            }
        }
        let details = json!({"elements_shown": shown, "findings": found.len()});
        if shown == 0 {
            return CheckResult::unknown("no element was ever shown", details);
        }
        CheckResult::from_findings(found, details)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checker::testing::record;
    use crate::verdict::Verdict;

    #[test]
    fn an_element_belongs_to_one_chat() {
        let check = |read: &str| {
            let lines = "0 invoke txn [[:append \"a\" 1]]\n0 ok txn [[:append \"a\" 1]]\n1 invoke txn [[:append \"b\" 2]]\n1 ok txn [[:append \"b\" 2]]";
            NoCrossChat
                .check(&record(&format!(
                    "{lines}\n2 invoke txn [[:r \"a\" nil]]\n2 ok txn [[:r \"a\" {read}]]"
                )))
                .verdict
        };
        assert_eq!(
            [check("[1]"), check("[1 2]"), check("[]")],
            [Verdict::True, Verdict::False, Verdict::Unknown]
        );
    }
}
