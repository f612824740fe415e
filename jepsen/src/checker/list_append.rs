//! Lists that grow: every reader sees the same order, nothing acknowledged is
//! missing, nothing appears that nobody wrote or that was refused.
//!
//! Two checkers of the same histories. [`Lists`] is small and says in plain
//! words what is wrong with one key. [`Transactions`] hands the history to
//! `adya`, which looks for cycles over all keys (Elle; Kingsbury and Alvaro,
//! 2020). They share no code, so that a slip in one is seen by the other.
//!
//! Operations: `:txn` with `[[:append k v]]` or `[[:r k nil]]`, answered
//! `[[:r k [v …]]]`. An answered `[:append k v n]` also says at which sequence
//! number the element went, from 1: numbers must be the places in the list.

use super::{CheckResult, Checker, Evidence, TestRecord, int, list};
use crate::checker::linearizable::show;
use crate::history::{History, Kind, Operation, Process, Value};
use serde_json::{Value as Json, json};
use std::collections::{BTreeMap, BTreeSet};

/// Order, duplicates, losses and staleness, key by key.
pub struct Lists;

/// The same through `adya`, strict serializability over all keys.
pub struct Transactions;

/// One step of a transaction.
enum Step<'a> {
    Append {
        key: &'a Value,
        element: &'a Value,
        number: Option<i64>,
    },
    Read {
        key: &'a Value,
        elements: Option<&'a [Value]>,
    },
}

fn steps(value: &Value) -> Result<Vec<Step<'_>>, String> {
    let bad = || {
        format!(
            "{} is not a list of [:append k v] and [:r k list]",
            show(value)
        )
    };
    let one = |step| {
        let parts = list(step).filter(|p| p.len() >= 3)?;
        match &parts[0] {
            Value::Keyword(f) if f == "append" => Some(Step::Append {
                key: &parts[1],
                element: &parts[2],
                number: parts.get(3).and_then(int),
            }),
            Value::Keyword(f) if f == "r" => Some(Step::Read {
                key: &parts[1],
                elements: match &parts[2] {
                    Value::Nil => None,
                    Value::List(all) => Some(all),
                    _ => return None,
                },
            }),
            _ => None,
        }
    };
    let all = list(value).ok_or_else(bad)?;
    all.iter().map(|step| one(step).ok_or_else(bad)).collect()
}

/// An append, from its beginning to what is known of its end.
struct Append {
    invoked: u64,
    completed: Option<u64>,
    outcome: Kind,
    number: Option<i64>,
}

/// A read that was answered.
struct Read<'a> {
    invoked: u64,
    completed: u64,
    elements: &'a [Value],
}

#[derive(Default)]
struct Key<'a> {
    appends: BTreeMap<&'a Value, Append>,
    reads: Vec<Read<'a>>,
}

fn transactions(history: &History) -> impl Iterator<Item = Operation<'_>> {
    let all = history.operations();
    all.filter(|op| op.invoked.process != Process::Nemesis && op.invoked.f == "txn")
}

fn by_key(history: &History) -> Result<(BTreeMap<&Value, Key<'_>>, Vec<Evidence>), String> {
    let mut keys: BTreeMap<&Value, Key<'_>> = BTreeMap::new();
    let mut found = Vec::new();
    for op in transactions(history) {
        let invoked = op.invoked.index;
        let completed = op.completed.map(|c| c.index);
        let known = op.outcome() == Kind::Ok;
        // What was asked for, with what the answer adds.
        let said = op.completed.filter(|_| known).unwrap_or(op.invoked);
        for step in steps(&said.value).map_err(|why| format!("operation {invoked}: {why}"))? {
            match step {
                Step::Append {
                    key,
                    element,
                    number,
                } => {
                    let append = Append {
                        invoked,
                        completed,
                        outcome: op.outcome(),
                        number,
                    };
                    let appends = &mut keys.entry(key).or_default().appends;
                    if let Some(before) = appends.insert(element, append) {
                        return Err(format!(
                            "element {} is appended to key {} by operations {} and {invoked}: elements must be unique",
                            show(element),
                            show(key),
                            before.invoked
                        ));
                    }
                }
                Step::Read { key, elements } if known => {
                    let reads = &mut keys.entry(key).or_default().reads;
                    match (elements, completed) {
                        (Some(elements), Some(completed)) => reads.push(Read {
                            invoked,
                            completed,
                            elements,
                        }),
                        _ => found.push(Evidence::new(
                            format!(
                                "operation {invoked}: a read of key {} succeeded without a list",
                                show(key)
                            ),
                            [invoked],
                        )),
                    }
                }
                Step::Read { .. } => {}
            }
        }
    }
    Ok((keys, found))
}

impl Checker for Lists {
    fn name(&self) -> &'static str {
        "lists"
    }

    fn check(&self, test: &TestRecord) -> CheckResult {
        let (keys, mut found) = match by_key(&test.history) {
            Ok(read) => read,
            Err(why) => return CheckResult::unknown(why, Json::Null),
        };
        let (mut appends, mut reads, mut unread, mut numbered) = (0, 0, 0, 0);
        for (name, key) in &keys {
            let name = show(name);
            appends += key.appends.len();
            reads += key.reads.len();
            numbered += key.appends.values().filter(|a| a.number.is_some()).count();
            contents(&name, key, &mut found);
            order(&name, key, &mut found);
            unread += staleness(&name, key, &mut found);
            numbers(&name, key, &mut found);
        }
        let details = json!({
            "keys": keys.len(), "appends": appends, "reads": reads,
            "acknowledged_but_never_read_after": unread, "numbered": numbered,
            "findings": found.len(),
        });
        if found.is_empty() && reads == 0 {
            return CheckResult::unknown("nothing was read", details);
        }
        if found.is_empty() && unread > 0 {
            let why = format!(
                "{unread} acknowledged elements were never looked for after their acknowledgement"
            );
            return CheckResult::unknown(why, details);
        }
        CheckResult::from_findings(found, details)
    }
}

/// Duplicates, elements nobody appended, elements whose append failed.
fn contents(name: &str, key: &Key<'_>, found: &mut Vec<Evidence>) {
    let mut told = BTreeSet::new();
    for read in &key.reads {
        let mut seen = BTreeSet::new();
        for element in read.elements {
            let what = if !seen.insert(element) {
                "twice"
            } else {
                match key.appends.get(element) {
                    None => "although nobody appended it",
                    Some(a) if a.outcome == Kind::Fail => "although its append failed",
                    Some(a) if a.invoked > read.completed => "before it was appended",
                    Some(_) => continue,
                }
            };
            if told.insert((element, what)) {
                let append = key.appends.get(element).map(|a| a.invoked);
                found.push(Evidence::new(
                    format!("key {name}: a read shows {} {what}", show(element)),
                    append.into_iter().chain([read.invoked, read.completed]),
                ));
            }
        }
    }
}

/// All reads are beginnings of the longest.
fn order(name: &str, key: &Key<'_>, found: &mut Vec<Evidence>) {
    let Some(longest) = key.reads.iter().max_by_key(|r| r.elements.len()) else {
        return;
    };
    let differs = |read: &Read<'_>| {
        let mut pairs = read.elements.iter().zip(longest.elements);
        pairs.position(|(a, b)| a != b)
    };
    for read in &key.reads {
        if let Some(at) = differs(read) {
            found.push(Evidence::new(
                format!(
                    "key {name}: two readers disagree about element {}: {} and {}",
                    at + 1,
                    show(&read.elements[at]),
                    show(&longest.elements[at])
                ),
                [read.completed, longest.completed],
            ));
            return;
        }
    }
}

/// Reads that miss what was acknowledged, or shown to another, before they
/// began; the number of acknowledged elements that no later read looked for.
fn staleness(name: &str, key: &Key<'_>, found: &mut Vec<Evidence>) -> usize {
    let last_begun = key.reads.iter().map(|r| r.invoked).max();
    let mut unread = 0;
    let sets: Vec<(&Read<'_>, BTreeSet<&Value>)> = {
        let all = key.reads.iter();
        all.map(|r| (r, r.elements.iter().collect())).collect()
    };
    for (element, append) in &key.appends {
        let acknowledged = append.completed.filter(|_| append.outcome == Kind::Ok);
        let shown = sets.iter().filter(|(_, set)| set.contains(element));
        let shown = shown.map(|(read, _)| read.completed).min();
        let Some(known) = acknowledged.into_iter().chain(shown).min() else {
            continue;
        };
        if acknowledged.is_some() && last_begun.is_none_or(|last| last < known) {
            unread += 1;
            continue;
        }
        let later = || sets.iter().filter(|(read, _)| read.invoked > known);
        let Some((missing, _)) = later().find(|(_, set)| !set.contains(element)) else {
            continue;
        };
        let again =
            later().any(|(read, set)| read.invoked > missing.invoked && set.contains(element));
        let what = if again { "stale" } else { "lost" };
        let why = if acknowledged == Some(known) {
            "acknowledged"
        } else {
            "shown to a reader"
        };
        found.push(Evidence::new(
            format!(
                "key {name}: {} is {what}: {why} at line {known}, missing from the read that began at line {}",
                show(element), missing.invoked
            ),
            [append.invoked, known, missing.invoked, missing.completed],
        ));
    }
    unread
}

/// Sequence numbers are places in the list, and no two elements have one.
fn numbers(name: &str, key: &Key<'_>, found: &mut Vec<Evidence>) {
    let mut owner: BTreeMap<i64, (&Value, &Append)> = BTreeMap::new();
    for (element, append) in &key.appends {
        let Some(number) = append.number else {
            continue;
        };
        if let Some((other, first)) = owner.insert(number, (element, append)) {
            found.push(Evidence::new(
                format!(
                    "key {name}: {} and {} both have sequence number {number}",
                    show(other),
                    show(element)
                ),
                first.completed.into_iter().chain(append.completed),
            ));
        }
    }
    let longest = key.reads.iter().max_by_key(|r| r.elements.len());
    for (at, element) in longest.iter().flat_map(|r| r.elements.iter().enumerate()) {
        let number = key.appends.get(element).and_then(|a| Some((a, a.number?)));
        if let Some((append, number)) = number
            && number != at as i64 + 1
        {
            found.push(Evidence::new(
                format!(
                    "key {name}: {} has sequence number {number} but is element {}: the numbers have a gap",
                    show(element), at + 1
                ),
                append.completed.into_iter().chain(longest.map(|r| r.completed)),
            ));
            return;
        }
    }
}

impl Checker for Transactions {
    fn name(&self) -> &'static str {
        "list-append"
    }

    fn check(&self, test: &TestRecord) -> CheckResult {
        let text = match as_adya_reads(&test.history) {
            Ok(text) => text,
            Err(why) => return CheckResult::unknown(why, Json::Null),
        };
        let history = match adya::History::from_json(&text) {
            Ok(history) => history,
            Err(e) => return CheckResult::unknown(format!("adya cannot read it: {e}"), Json::Null),
        };
        let options = adya::Opts {
            timeout: std::time::Duration::from_secs(20),
            ..adya::Opts::default()
        };
        let report = adya::check(&history, adya::Workload::ListAppend, &options);
        let details = json!({
            "models": options.models, "anomalies": report.anomaly_types,
            "not": report.not, "also_not": report.also_not,
        });
        let found = report.anomalies.into_values().flatten();
        let found: Vec<Evidence> = found
            .map(|a| Evidence::new(format!("{}: {}", a.kind, a.explanation), a.ops))
            .collect();
        match report.valid {
            adya::Valid::True => CheckResult::from_findings(Vec::new(), details),
            adya::Valid::False => CheckResult::from_findings(found, details),
            adya::Valid::Unknown => {
                let why: Vec<String> = found.into_iter().map(|e| e.what).collect();
                CheckResult::unknown(why.join("; "), details)
            }
        }
    }
}

/// Transactions only, keys as text, without sequence numbers.
fn as_adya_reads(history: &History) -> Result<String, String> {
    let mut out = String::new();
    for op in history.ops() {
        let Process::Client(process) = op.process else {
            continue;
        };
        if op.f != "txn" {
            continue;
        }
        let of = |e: &Value| int(e).map_or_else(|| json!(show(e)), |n| json!(n));
        let steps = steps(&op.value).map_err(|why| format!("operation {}: {why}", op.index))?;
        let value: Vec<Json> = steps
            .into_iter()
            .map(|step| match step {
                Step::Append { key, element, .. } => json!(["append", show(key), of(element)]),
                Step::Read { key, elements } => {
                    let all = elements.map(|all| all.iter().map(of).collect::<Vec<_>>());
                    json!(["r", show(key), all])
                }
            })
            .collect();
        let line = json!({
            "index": op.index, "time": op.time, "process": process,
            "type": op.kind.name(), "f": "txn", "value": value,
        });
        out.push_str(&line.to_string());
        out.push('\n');
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checker::testing::record;
    use crate::verdict::Verdict;

    fn verdicts(lines: &str) -> [Verdict; 2] {
        let test = record(lines);
        [
            Lists.check(&test).verdict,
            Transactions.check(&test).verdict,
        ]
    }
    fn first(lines: &str) -> String {
        Lists.check(&record(lines)).evidence[0].what.clone()
    }

    const GOOD: &str = "0 invoke txn [[:append \"a\" 1]]
        1 invoke txn [[:r \"a\" nil]]
        0 ok txn [[:append \"a\" 1 1]]
        1 ok txn [[:r \"a\" []]]
        0 invoke txn [[:append \"a\" 2]]
        2 invoke txn [[:append \"a\" 3]]
        0 ok txn [[:append \"a\" 2 3]]
        2 info txn [[:append \"a\" 3]] !timeout
        3 invoke txn [[:append \"a\" 4]]
        3 fail txn [[:append \"a\" 4]] !refused
        1 invoke txn [[:r \"a\" nil]]
        1 ok txn [[:r \"a\" [1 3 2]]]";

    #[test]
    fn one_order_with_an_indeterminate_append_in_it_is_valid() {
        assert_eq!(verdicts(GOOD), [Verdict::True, Verdict::True]);
    }

    #[test]
    fn each_way_of_being_wrong_is_named() {
        let with = |last: &str| GOOD.replace("[1 3 2]", last);
        for (bad, says) in [
            (with("[1 3 2 3]"), "shows 3 twice"),
            (with("[1 3 2 9]"), "nobody appended"),
            (with("[1 3 2 4]"), "its append failed"),
            (with("[1]"), "2 is lost"),
            (with("[1 2]"), "sequence number 3 but is element 2"),
            (
                format!("{GOOD}\n1 invoke txn [[:r \"a\" nil]]\n1 ok txn [[:r \"a\" [1 2 3]]]"),
                "disagree about element 2",
            ),
            (
                format!("{GOOD}\n1 invoke txn [[:r \"a\" nil]]\n1 ok txn [[:r \"a\" [1]]]"),
                "is lost",
            ),
            (
                GOOD.replace("\"a\" 2 3]", "\"a\" 2 1]"),
                "both have sequence number 1",
            ),
        ] {
            let test = record(&bad);
            let found = Lists.check(&test);
            assert_eq!(found.verdict, Verdict::False, "{bad}");
            assert!(
                found.evidence.iter().any(|e| e.what.contains(says)),
                "{says}: {:?}",
                found.evidence
            );
            assert!(found.evidence.iter().all(|e| !e.ops.is_empty()));
        }
    }

    #[test]
    fn both_reject_a_stale_read_a_disagreement_and_a_refused_append() {
        let stale = "0 invoke txn [[:append \"a\" 1]]
            0 ok txn [[:append \"a\" 1]]
            1 invoke txn [[:r \"a\" nil]]
            1 ok txn [[:r \"a\" []]]
            1 invoke txn [[:r \"a\" nil]]
            1 ok txn [[:r \"a\" [1]]]";
        assert_eq!(verdicts(stale), [Verdict::False; 2]);
        assert!(first(stale).contains("1 is stale"));
        let disagreement =
            format!("{GOOD}\n1 invoke txn [[:r \"a\" nil]]\n1 ok txn [[:r \"a\" [1 2 3]]]");
        assert_eq!(verdicts(&disagreement), [Verdict::False; 2]);
        assert_eq!(
            verdicts(&GOOD.replace("[1 3 2]", "[1 3 2 4]")),
            [Verdict::False; 2]
        );
    }

    #[test]
    fn cycles_over_several_keys_are_what_the_other_checker_is_for() {
        let skew = "0 invoke txn [[:r \"a\" nil] [:append \"b\" 1]]
            1 invoke txn [[:r \"b\" nil] [:append \"a\" 2]]
            0 ok txn [[:r \"a\" []] [:append \"b\" 1]]
            1 ok txn [[:r \"b\" []] [:append \"a\" 2]]
            2 invoke txn [[:r \"a\" nil] [:r \"b\" nil]]
            2 ok txn [[:r \"a\" [2]] [:r \"b\" [1]]]";
        assert_eq!(verdicts(skew), [Verdict::True, Verdict::False]);
    }

    #[test]
    fn what_nobody_looked_for_afterwards_is_unknown() {
        let lines = "1 invoke txn [[:r \"a\" nil]]
            1 ok txn [[:r \"a\" []]]
            0 invoke txn [[:append \"a\" 1]]
            0 ok txn [[:append \"a\" 1]]";
        assert_eq!(verdicts(lines)[0], Verdict::Unknown);
        assert_eq!(
            verdicts("0 invoke txn 7\n0 ok txn 7"),
            [Verdict::Unknown; 2]
        );
        assert_eq!(verdicts(""), [Verdict::Unknown; 2]);
    }
}
