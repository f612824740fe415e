//! Linearizability: every operation took effect at one moment between its
//! invocation and its completion, as if there were one copy of the data.
//!
//! Each key is checked alone, which is enough (Herlihy and Wing, 1990,
//! locality) and keeps the search small. No history is cut: a key whose search
//! runs out of steps is `unknown`.
//!
//! Three workloads are read as one register per key:
//!
//! | workload | operation | on the register |
//! |---|---|---|
//! | register | `:read [k v]`, `:write [k v]`, `:cas [k [old new]]` | as named |
//! | grants, membership | `:add-member [chat who]`, `:remove-member [chat who]` | write true, write false |
//! | | `:read [chat who answer]`, `answer` true (plaintext came) or false (refused) | read |
//! | custody | `:store key` | write stored, unless shredded |
//! | | `:shred key` | write shredded |
//! | | `:release key`, answered `key` (a share came), `[key :gone]`, `[key :absent]` | read |

mod reading;
pub mod search;

#[cfg(test)]
mod tests;

use self::search::{Answer, Entry};
use super::{CheckResult, Checker, EVIDENCE_MAX, Evidence, TestRecord};
use crate::history::{Kind, Operation, Process, Value};
use crate::verdict::Verdict;
use serde_json::{Value as Json, json};
use std::collections::HashMap;

/// Search steps for all keys together. A step takes about 0.1 µs; histories
/// of a thousand operations a key take about one step an operation.
pub const STEPS_MAX: u64 = 200_000_000;

/// The register checker of a workload.
pub struct Linearizable {
    /// How its operations are read.
    pub model: Model,
    /// See [`STEPS_MAX`].
    pub steps_max: u64,
}

/// Which operations there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Model {
    /// Reads, writes and compare-and-set of any value.
    Register,
    /// Members of chats.
    Members,
    /// Shares with a custodian.
    Custody,
}

impl Linearizable {
    /// With the usual budget.
    pub fn new(model: Model) -> Self {
        Self {
            model,
            steps_max: STEPS_MAX,
        }
    }
}

/// Values as small numbers; equal numbers are equal values.
#[derive(Default)]
pub(crate) struct Interner<'a> {
    numbers: HashMap<&'a Value, u32>,
    values: Vec<&'a Value>,
}

impl<'a> Interner<'a> {
    pub(crate) fn number(&mut self, value: &'a Value) -> u32 {
        *self.numbers.entry(value).or_insert_with(|| {
            self.values.push(value);
            // A history has fewer than 2^32 lines, and a line at most two values.
            (self.values.len() - 1) as u32
        })
    }
    fn show(&self, number: u32) -> String {
        self.values
            .get(number as usize)
            .map_or("?".into(), |v| show(v))
    }
}

/// A value as EDN.
pub(crate) fn show(value: &Value) -> String {
    let mut out = String::new();
    crate::history::edn::print(&mut out, value);
    out
}

/// One key's calls and the lines they come from.
#[derive(Default)]
struct Key<'a> {
    entries: Vec<Entry>,
    operations: Vec<Operation<'a>>,
}

impl Checker for Linearizable {
    fn name(&self) -> &'static str {
        match self.model {
            Model::Register => "linearizable-register",
            Model::Members => "linearizable-members",
            Model::Custody => "linearizable-custody",
        }
    }

    fn check(&self, test: &TestRecord) -> CheckResult {
        let started = std::time::Instant::now();
        let mut values = Interner::default();
        let initial = values.number(reading::initial(self.model));
        let mut by_key: HashMap<reading::KeyOf<'_>, Key<'_>> = HashMap::new();
        let mut operations = 0_u64;
        for op in test.history.operations() {
            if op.invoked.process == Process::Nemesis || op.outcome() == Kind::Fail {
                continue;
            }
            let (key, call) = match reading::call(self.model, &op, &mut values) {
                Ok(Some(read)) => read,
                Ok(None) => continue,
                Err(why) => {
                    return CheckResult::unknown(
                        format!("operation {} cannot be read: {why}", op.invoked.index),
                        Json::Null,
                    );
                }
            };
            operations += 1;
            let known = op.outcome() == Kind::Ok;
            let key = by_key.entry(key).or_default();
            key.entries.push(Entry {
                call,
                invoked: op.invoked.index,
                completed: op.completed.filter(|_| known).map(|c| c.index),
            });
            key.operations.push(op);
        }
        // In an order that does not differ between runs.
        let mut keys: Vec<_> = by_key.into_iter().collect();
        keys.sort_by_key(|(key, _)| *key);
        let mut left = self.steps_max;
        let (mut false_keys, mut unknown_keys, mut indeterminate) = (Vec::new(), Vec::new(), 0_u64);
        let mut evidence = Vec::new();
        for (key, found) in &keys {
            indeterminate += found
                .entries
                .iter()
                .filter(|e| e.completed.is_none())
                .count() as u64;
            let before = left;
            match search::search(&found.entries, initial, &mut left) {
                Answer::Linearizable => {}
                Answer::OutOfSteps => {
                    unknown_keys.push(key.to_string());
                    evidence.push(Evidence::new(
                        format!(
                            "key {key}: {before} steps were not enough for {} operations",
                            found.entries.len()
                        ),
                        [],
                    ));
                }
                Answer::Impossible(stuck) => {
                    false_keys.push(key.to_string());
                    evidence.push(explain(key, found, &stuck, &values));
                }
            }
        }
        let verdict = match (false_keys.is_empty(), unknown_keys.is_empty()) {
            (false, _) => Verdict::False,
            (true, false) => Verdict::Unknown,
            (true, true) if operations == 0 => Verdict::Unknown,
            (true, true) => Verdict::True,
        };
        if operations == 0 {
            evidence.push(Evidence::new("no operation was there to check", []));
        }
        // Findings before excuses, short before long.
        evidence.sort_by_key(|e| (e.ops.is_empty(), e.ops.len()));
        evidence.truncate(EVIDENCE_MAX);
        CheckResult {
            verdict,
            evidence,
            details: json!({
                "keys": keys.len(), "operations": operations, "indeterminate": indeterminate,
                "steps": self.steps_max - left, "took_ms": started.elapsed().as_secs_f64() * 1000.0,
                "false_keys": false_keys, "unknown_keys": unknown_keys,
            }),
        }
    }
}

/// The operation that fits nowhere, what the register could have held, and who wrote that.
fn explain(
    key: &reading::KeyOf<'_>,
    found: &Key<'_>,
    stuck: &search::Stuck,
    values: &Interner<'_>,
) -> Evidence {
    let op = &found.operations[stuck.entry];
    let held: Vec<String> = stuck.states.iter().map(|s| values.show(*s)).collect();
    let line = op.completed.unwrap_or(op.invoked);
    let mut lines: Vec<u64> = stuck
        .writers
        .iter()
        .flat_map(|w| {
            let op = &found.operations[*w];
            [Some(op.invoked.index), op.completed.map(|c| c.index)]
        })
        .flatten()
        .collect();
    lines.extend([op.invoked.index, line.index]);
    lines.sort_unstable();
    lines.dedup();
    Evidence::new(
        format!(
            "key {key}: operation {} ({} {} by process {}) fits nowhere: when it ended the register could only have held {}",
            op.invoked.index,
            op.invoked.f,
            show(&line.value),
            match op.invoked.process {
                Process::Client(n) => n.to_string(),
                Process::Nemesis => "nemesis".into(),
            },
            held.join(" or ")
        ),
        lines,
    )
}
