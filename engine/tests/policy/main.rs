//! Policies, judged by files that a person can read: `testdata/policy/*.txt`.
//!
//! A case is a directive line, its input, a line `----`, what must come out, and
//! a line `====`. Directives: `world` (facts, kept until the next one), `load`
//! (a policy file; prints each policy or every reason against it), `explain [P]`
//! (the whole report), and, about the policy loaded last, `suffice have=.. not=..`
//! and `margin of=..`.
#![allow(clippy::unwrap_used)] // Helpers of tests are tests.

mod hostile;

use quorate_engine::policy::{
    Chance, CustodianFacts, Facts, NamedPolicy, PolicyFile, analyse, load,
};
use quorate_engine::types::CustodianId;
use std::collections::BTreeSet;
use std::fmt::Write;

fn id(name: &str) -> CustodianId {
    CustodianId::new(name).unwrap()
}

/// `home LAW "Entity"` and `custodian ID LAW "Entity" [provider=..] [network=..]`.
fn world(input: &str) -> Facts {
    let mut facts = Facts::default();
    for line in input.lines() {
        let mut quoted = line.split('"');
        let head: Vec<&str> = quoted.next().unwrap().split_whitespace().collect();
        let entity = quoted
            .next()
            .unwrap_or_else(|| panic!("no entity in {line:?}"))
            .to_owned();
        let tail = quoted.next().unwrap_or_default().split_whitespace();
        let option = |key: &str| {
            tail.clone()
                .find_map(|w| w.strip_prefix(key))
                .map(str::to_owned)
        };
        let (provider, network) = (option("provider="), option("network="));
        match head.as_slice() {
            ["home"] => facts.home_entity = entity,
            ["home", law] => (facts.home_jurisdiction, facts.home_entity) = ((*law).into(), entity),
            ["custodian", name, law] => {
                let mut identity = [0; 32];
                identity[..name.len()].copy_from_slice(name.as_bytes());
                facts.custodians.insert(
                    id(name),
                    CustodianFacts {
                        jurisdiction: (*law).into(),
                        entity,
                        identity,
                        provider,
                        network,
                    },
                );
            }
            other => panic!("neither home nor custodian: {other:?}"),
        }
    }
    facts
}

fn set(option: &str) -> BTreeSet<CustodianId> {
    option
        .split(',')
        .filter(|n| !n.is_empty())
        .map(id)
        .collect()
}

fn in_words(set: &BTreeSet<CustodianId>) -> String {
    set.iter()
        .map(CustodianId::as_str)
        .collect::<Vec<_>>()
        .join(", ")
}

#[derive(Default)]
struct Session {
    facts: Facts,
    file: PolicyFile,
}

impl Session {
    fn only_policy(&self) -> &NamedPolicy {
        self.file
            .policies
            .values()
            .next()
            .expect("a policy was loaded")
    }

    fn run(&mut self, directive: &str, input: &str) -> String {
        let mut words = directive.split_whitespace();
        let command = words.next().unwrap();
        let options: Vec<&str> = words.collect();
        let option = |key: &str| {
            set(options
                .iter()
                .find_map(|o| o.strip_prefix(key))
                .unwrap_or_default())
        };
        let mut out = String::new();
        match command {
            "world" => {
                self.facts = world(input);
                writeln!(out, "{} custodians", self.facts.custodians.len()).unwrap();
            }
            "load" => match load(input, &self.facts) {
                Ok(file) => {
                    for named in file.policies.values() {
                        let m = named.margins;
                        let required = if m.require_margin { ", required" } else { "" };
                        writeln!(
                            out,
                            "{}: {} (margin {}{required})",
                            named.name,
                            named.in_words(),
                            m.write_margin
                        )
                        .unwrap();
                    }
                    self.file = file;
                }
                Err(error) => writeln!(out, "{error}").unwrap(),
            },
            "explain" => {
                let chance = options
                    .first()
                    .map(|p| Chance::new(p.parse().unwrap()).unwrap());
                match load(input, &self.facts) {
                    Ok(file) => {
                        for named in file.policies.values() {
                            let report = analyse(named, &file.blocs, &self.facts, chance);
                            write!(out, "{report}").unwrap();
                            // The same for machines.
                            let json = serde_json::to_value(&report).unwrap();
                            assert_eq!(json["id"], report.id.to_string());
                        }
                        self.file = file;
                    }
                    Err(error) => writeln!(out, "{error}").unwrap(),
                }
            }
            "suffice" => {
                let policy = &self.only_policy().policy;
                let ways = policy.what_would_suffice(&option("have="), &option("not="));
                if ways.is_empty() {
                    out.push_str("nothing would\n");
                }
                for way in ways {
                    let text = in_words(&way);
                    writeln!(
                        out,
                        "{}",
                        if text.is_empty() {
                            "enough already"
                        } else {
                            &text
                        }
                    )
                    .unwrap();
                }
            }
            "margin" => match self.only_policy().policy.margin_of(&option("of=")) {
                Some(n) => writeln!(out, "any {n} may be lost").unwrap(),
                None => out.push_str("does not open\n"),
            },
            other => panic!("unknown directive {other}"),
        }
        out
    }
}

/// Runs a whole file; the panic shows what came out, ready to be compared.
fn check(name: &str, text: &str) {
    let mut session = Session::default();
    let mut cases = 0;
    for block in text.split("\n====\n") {
        let block = block
            .lines()
            .skip_while(|l| l.is_empty() || l.starts_with('#'))
            .collect::<Vec<_>>()
            .join("\n");
        if block.is_empty() {
            continue;
        }
        let (directive, rest) = block.split_once('\n').unwrap();
        let rest = format!("\n{rest}\n");
        let (input, expected) = rest
            .split_once("\n----\n")
            .unwrap_or_else(|| panic!("{name}: no ---- in the case {directive:?}"));
        let got = session.run(directive, input.trim_start_matches('\n'));
        assert!(
            got == expected,
            "{name}: {directive}\n{input}\n---- expected\n{expected}---- got\n{got}===="
        );
        cases += 1;
    }
    assert!(cases > 1, "{name} has no cases");
}

#[test]
fn accepted() {
    check(
        "accepted.txt",
        include_str!("../../testdata/policy/accepted.txt"),
    );
}

#[test]
fn refused() {
    check(
        "refused.txt",
        include_str!("../../testdata/policy/refused.txt"),
    );
}

#[test]
fn explained() {
    check(
        "explained.txt",
        include_str!("../../testdata/policy/explained.txt"),
    );
}

#[test]
fn suffices() {
    check(
        "suffices.txt",
        include_str!("../../testdata/policy/suffices.txt"),
    );
}
