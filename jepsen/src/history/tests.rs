//! Round trips over generated histories, and for every rule a history that it
//! must reject.

use super::*;
use proptest::prelude::*;
use std::collections::BTreeMap;

fn op(index: u64, process: u64, kind: Kind, f: &str) -> Op {
    Op {
        index,
        time: index * 10,
        process: Process::Client(process),
        kind,
        f: f.into(),
        value: Value::Nil,
        error: None,
    }
}

fn nemesis(index: u64, kind: Kind, f: &str) -> Op {
    Op {
        process: Process::Nemesis,
        ..op(index, 0, kind, f)
    }
}

use Kind::{Fail, Info, Invoke, Ok as Done};

#[test]
fn pairs_are_found_across_processes() {
    let history = History::new(vec![
        op(0, 1, Invoke, "read"),
        op(1, 2, Invoke, "write"),
        nemesis(2, Info, "kill"),
        op(3, 2, Done, "write"),
        op(4, 1, Info, "read"),
        op(5, 3, Invoke, "read"),
        nemesis(6, Info, "cut"),
        nemesis(7, Info, "kill"),
        op(8, 2, Invoke, "write"),
        op(9, 2, Fail, "write"),
    ])
    .unwrap();
    let told: Vec<(u64, Option<u64>, Kind)> = history
        .operations()
        .map(|o| (o.invoked.index, o.completed.map(|c| c.index), o.outcome()))
        .collect();
    assert_eq!(
        told,
        [
            (0, Some(4), Info),
            (1, Some(3), Done),
            (2, Some(7), Info),
            (5, None, Info),
            (6, None, Info),
            (8, Some(9), Fail),
        ]
    );
    assert_eq!(history.partner(3).unwrap().index, 1);
    assert!(history.partner(5).is_none() && history.partner(99).is_none());
}

#[test]
fn every_rule_rejects_a_history() {
    let mut late = op(1, 1, Done, "read");
    late.time = 0;
    let mut first = op(0, 1, Invoke, "read");
    first.time = 5;
    let mut far = op(0, 1, Invoke, "read");
    far.time = u64::MAX;
    let mut loud = op(0, 1, Invoke, "read");
    loud.value = Value::Keyword("NOT A NAME".into());
    let mut deep = op(0, 1, Invoke, "read");
    for _ in 0..=DEPTH_MAX {
        deep.value = Value::List(vec![deep.value]);
    }
    let overlap = vec![op(0, 1, Invoke, "read"), op(1, 1, Invoke, "read")];
    let after_info = vec![
        op(0, 1, Invoke, "read"),
        op(1, 1, Info, "read"),
        op(2, 1, Invoke, "read"),
    ];
    let twice_done = vec![
        op(0, 1, Invoke, "read"),
        op(1, 1, Done, "read"),
        op(2, 1, Done, "read"),
    ];
    let info_then_ok = vec![
        op(0, 1, Invoke, "read"),
        op(1, 1, Info, "read"),
        op(2, 1, Done, "read"),
    ];
    let other = vec![op(0, 1, Invoke, "read"), op(1, 1, Done, "write")];
    type Rule = fn(&InvalidHistory) -> bool;
    let cases: Vec<(Vec<Op>, Rule)> = vec![
        (vec![op(1, 1, Invoke, "read")], |e| {
            matches!(e, InvalidHistory::Index { place: 0, index: 1 })
        }),
        (vec![first, late], |e| {
            matches!(e, InvalidHistory::Time { index: 1, .. })
        }),
        (vec![far], |e| {
            matches!(e, InvalidHistory::Time { index: 0, .. })
        }),
        (vec![op(0, 1, Invoke, "")], |e| {
            matches!(e, InvalidHistory::Shape { .. })
        }),
        (vec![op(0, 1, Invoke, "a b")], |e| {
            matches!(e, InvalidHistory::Shape { .. })
        }),
        (vec![op(0, u64::MAX, Invoke, "a")], |e| {
            matches!(e, InvalidHistory::Shape { .. })
        }),
        (vec![loud], |e| matches!(e, InvalidHistory::Shape { .. })),
        (vec![deep], |e| matches!(e, InvalidHistory::Shape { .. })),
        (overlap, |e| {
            matches!(
                e,
                InvalidHistory::Overlap {
                    index: 1,
                    process: 1,
                    open: 0
                }
            )
        }),
        (vec![op(0, 1, Done, "read")], |e| {
            matches!(
                e,
                InvalidHistory::NotInvoked {
                    index: 0,
                    process: 1
                }
            )
        }),
        (vec![op(0, 1, Info, "read")], |e| {
            matches!(e, InvalidHistory::NotInvoked { .. })
        }),
        (twice_done, |e| {
            matches!(e, InvalidHistory::NotInvoked { index: 2, .. })
        }),
        (other, |e| {
            matches!(
                e,
                InvalidHistory::OtherFunction {
                    index: 1,
                    open: 0,
                    ..
                }
            )
        }),
        (after_info, |e| {
            matches!(
                e,
                InvalidHistory::AfterInfo {
                    index: 2,
                    process: 1,
                    ended: 1
                }
            )
        }),
        (info_then_ok, |e| {
            matches!(e, InvalidHistory::AfterInfo { .. })
        }),
        (vec![nemesis(0, Invoke, "kill")], |e| {
            matches!(e, InvalidHistory::Nemesis { index: 0 })
        }),
    ];
    for (ops, expected) in cases {
        let shown = format!("{ops:?}");
        let error = History::new(ops).expect_err(&shown);
        assert!(expected(&error), "{shown}: {error:?}");
        assert!(!error.to_string().is_empty());
    }
}

#[test]
fn jepsens_own_lines_are_read() {
    let text = concat!(
        "#jepsen.history.Op{:index 0, :time 12, :type :invoke, :process 0, :f :txn, :value [[:append 3 2] [:r 3 nil]]}\n",
        "\n",
        "{:process :nemesis,:type :info,:f :start-partition,:value nil,:index 1,:time 13N} ; a comment\n",
        "{:index 2 :time 13 :type :ok :process 0 :f :txn :value ([:append 3 2] [:r 3 [1 2]]) :error \"a \\\"b\\\" \\u00e9\\n\"}\n",
    );
    let history = edn::read(text.as_bytes()).unwrap();
    let result = &history.ops()[2];
    assert_eq!(result.error.as_deref(), Some("a \"b\" é\n"));
    let Value::List(steps) = &result.value else {
        panic!("{:?}", result.value)
    };
    assert_eq!(
        steps[0],
        Value::List(vec![
            Value::Keyword("append".into()),
            Value::Int(3),
            Value::Int(2)
        ])
    );
    let mut written = Vec::new();
    edn::write(&history, &mut written).unwrap();
    let written = String::from_utf8(written).unwrap();
    assert!(
        written.starts_with("{:index 0, :time 12, :process 0, :type :invoke, :f :txn, :value [[:append 3 2] [:r 3 nil]]}\n"),
        "{written}"
    );
}

#[test]
fn bad_lines_are_named() {
    let good = "{:index 0 :time 0 :process 1 :type :invoke :f :read}";
    assert!(edn::read(good.as_bytes()).is_ok());
    let deep = format!("{{:index 0 :value {}", "[".repeat(100_000));
    let cases = [
        ("[1 2]", "an operation is a map"),
        ("{:index 0", "ends in the middle"),
        ("{:index 0 :value \"x", "ends in the middle of a text"),
        ("{:index -1}", "cannot be negative"),
        ("{:index 1.5}", "is not a value"),
        ("{:index 99999999999999999999}", "is not a value"),
        ("{:index 0 :index 0}", "index stands twice"),
        ("{:value {:a 1 :a 2}}", ":a stands twice"),
        ("{:when 0}", "unknown field"),
        ("{\"index\" 0}", "must be a keyword"),
        ("{:index 0 :value #{1}}", "not used in histories"),
        ("{:index 0 :value \\c}", "is not a value"),
        ("{:index 0 :value \"\\q\"}", "unknown escape"),
        ("{:index 0 :value \"\\ud800\"}", "is not a character"),
        ("{:index 0 :value ]}", "unexpected"),
        ("{:type :done}", "unknown type"),
        ("{:f \"read\"}", "f must be a keyword"),
        (
            "{:index 0 :time 0 :process 1 :type :invoke}",
            "f is missing",
        ),
        (
            "{:index 0 :time 0 :process 1 :type :invoke :f :read} {}",
            "more after",
        ),
        (deep.as_str(), "nested deeper"),
    ];
    for (line, reason) in cases {
        let error = edn::read(format!("\n{line}\n").as_bytes()).expect_err(line);
        let text = error.to_string();
        assert!(text.contains(reason), "{text} should say {reason}");
        assert!(text.starts_with("line 2: "), "{text}");
    }
    let long = format!("{{:value \"{}\"}}", "x".repeat(LINE_BYTES_MAX));
    let text = edn::read(long.as_bytes())
        .expect_err("too long")
        .to_string();
    assert!(text.contains("longer than"), "{text}");
    for line in [
        "[]",
        "{",
        r#"{"index":0.5}"#,
        r#"{"f":":A"}"#,
        r#"{"value":{"A":1}}"#,
        "{\"index\":\"\"}",
    ] {
        assert!(jsonl::read(line.as_bytes()).is_err(), "{line}");
    }
    assert!(edn::read(&b"\xff\n"[..]).is_err());
}

fn name() -> impl Strategy<Value = String> {
    "[a-z][a-z0-9_-]{0,10}".prop_map(String::from)
}

fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Nil),
        any::<bool>().prop_map(Value::Bool),
        any::<i64>().prop_map(Value::Int),
        any::<String>().prop_map(Value::Text),
        "[:]{0,3}[a-z\\\\\"\n]{0,5}".prop_map(Value::Text),
        name().prop_map(Value::Keyword),
    ];
    leaf.prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::List),
            prop::collection::btree_map(name(), inner, 0..4).prop_map(Value::Map),
        ]
    })
}

/// Histories as a run makes them: each step lets some process do what it may.
fn history() -> impl Strategy<Value = Vec<Op>> {
    let step = (
        0u64..5,
        0u8..4,
        0u64..1000,
        value(),
        prop::option::of(any::<String>()),
        name(),
    );
    prop::collection::vec(step, 0..40).prop_map(|steps| {
        let (mut time, mut number, mut open) = (0, BTreeMap::new(), BTreeMap::new());
        let mut ops = Vec::new();
        for (worker, choice, passed, value, error, f) in steps {
            time += passed;
            let index = ops.len() as u64;
            let process = *number.entry(worker).or_insert(worker);
            let line = |process, kind, f, error| Op {
                index,
                time,
                process,
                kind,
                f,
                value,
                error,
            };
            if worker == 4 {
                ops.push(line(Process::Nemesis, Info, f, error));
                continue;
            }
            let client = Process::Client(process);
            ops.push(match open.remove(&worker) {
                None => {
                    open.insert(worker, f.clone());
                    line(client, Invoke, f, None)
                }
                Some(f) => {
                    let kind = [Done, Fail, Info, Done][choice as usize];
                    if kind == Info {
                        number.insert(worker, process + 5);
                    }
                    line(client, kind, f, error)
                }
            });
        }
        ops
    })
}

proptest! {
    #[test]
    fn what_is_written_is_read_back(ops in history()) {
        let history = History::new(ops).unwrap();
        let (mut as_edn, mut as_json) = (Vec::new(), Vec::new());
        edn::write(&history, &mut as_edn).unwrap();
        jsonl::write(&history, &mut as_json).unwrap();
        prop_assert_eq!(&edn::read(&as_edn[..]).unwrap(), &history);
        prop_assert_eq!(&jsonl::read(&as_json[..]).unwrap(), &history);
        // One operation a line, whatever its texts contain.
        let lines = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap().lines().count();
        prop_assert_eq!(lines(&as_edn), history.ops().len());
        prop_assert_eq!(lines(&as_json), history.ops().len());
    }

    #[test]
    fn every_operation_is_told_once(ops in history()) {
        let history = History::new(ops).unwrap();
        let mut seen = vec![0; history.ops().len()];
        for operation in history.operations() {
            seen[operation.invoked.index as usize] += 1;
            if let Some(done) = operation.completed {
                seen[done.index as usize] += 1;
                prop_assert_eq!(&done.f, &operation.invoked.f);
                prop_assert_eq!(done.process, operation.invoked.process);
            }
        }
        prop_assert!(seen.iter().all(|n| *n == 1), "{:?}", seen);
    }

    #[test]
    fn dropping_an_invocation_is_always_noticed(ops in history(), pick in any::<prop::sample::Index>()) {
        let invocations: Vec<usize> = ops.iter().enumerate()
            .filter(|(i, op)| op.kind == Invoke && ops[i + 1..].iter().any(|o| o.process == op.process))
            .map(|(i, _)| i)
            .collect();
        prop_assume!(!invocations.is_empty());
        let mut ops = ops;
        ops.remove(invocations[pick.index(invocations.len())]);
        for (i, op) in ops.iter_mut().enumerate() {
            op.index = i as u64;
        }
        prop_assert!(History::new(ops).is_err());
    }

    #[test]
    fn arbitrary_text_never_panics(text in any::<String>(), bytes in any::<Vec<u8>>(), edn_like in "[\\[\\](){}:a\"#;, 0-9\\\\u]{0,60}") {
        for bytes in [text.as_bytes(), &bytes, edn_like.as_bytes()] {
            let _ = edn::read(bytes);
            let _ = jsonl::read(bytes);
        }
    }
}

#[test]
fn a_fault_lasts_to_its_heal_and_without_one_to_its_second_line() {
    let op = |(index, f): (usize, &str)| Op {
        index: index as u64,
        time: index as u64,
        process: Process::Nemesis,
        kind: Kind::Info,
        f: f.into(),
        value: Value::Nil,
        error: None,
    };
    let lines = [
        "kill",
        "kill",
        "cut",
        "heal-kill",
        "cut",
        "heal-kill",
        "kill",
        "kill",
    ];
    let history = History::new(lines.into_iter().enumerate().map(op).collect()).unwrap();
    let faults = history.faults();
    let told: Vec<_> = faults
        .iter()
        .map(|f| {
            (
                f.begun.f.as_str(),
                f.begun.time,
                f.struck.map(|o| o.time),
                f.ended.map(|o| o.time),
            )
        })
        .collect();
    assert_eq!(
        told,
        [
            ("kill", 0, Some(1), Some(5)),
            ("cut", 2, Some(4), Some(4)),
            ("kill", 6, Some(7), None)
        ]
    );
}
