//! Arrows between crates and modules point one way. `cargo metadata` says
//! what crates may reach, the sources say what modules do reach. Each rule has
//! a planted violation that the same code must find.

use quorate_tests::source::{Reference, files, module_of, read, references, root, test_modules};
use serde_json::Value;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// Crates of the workspace, and those of the workspace each may depend on.
const CRATES: &[(&str, &[&str])] = &[
    ("quorate-engine", &[]),
    ("quorate-node", &["quorate-engine"]),
    ("quorate", &["quorate-engine", "quorate-node"]),
    ("quorate-jepsen", &["quorate-engine"]),
    (
        "quorate-tests",
        &[
            "quorate-engine",
            "quorate-node",
            "quorate",
            "quorate-jepsen",
        ],
    ),
];

/// What the engine must not link: runtimes, consensus, stores, sockets, clocks, ambient randomness.
const ENGINE_NEVER: &[&str] = &[
    "tokio",
    "tokio-util",
    "tokio-rustls",
    "async-std",
    "smol",
    "mio",
    "futures",
    "openraft",
    "openraft-multi",
    "redb",
    "sled",
    "axum",
    "hyper",
    "hyper-util",
    "rustls",
    "rcgen",
    "libc",
    "region",
    "rand",
    "getrandom",
    "fail",
    "metrics",
    "tracing",
    "chrono",
    "time",
    "tempfile",
];

/// Features that no shipped build has: failpoints, and planted bugs.
const TEST_FEATURES: &[&str] = &["failpoints", "mutants"];

/// Lower modules of the engine, and what each may use besides itself.
/// `policy` validates thresholds with `sharing`'s own type: one definition of
/// what a threshold is, rather than two that can differ.
const ENGINE: &[(&str, &[&str])] = &[
    ("types", &[]),
    ("sharing", &["types"]),
    ("crypto", &["types"]),
    ("audit", &["types"]),
    ("authz", &["types"]),
    ("policy", &["types", "sharing"]),
    (
        "custody",
        &["types", "policy", "sharing", "crypto", "audit", "authz"],
    ),
    (
        "home",
        &["types", "policy", "sharing", "crypto", "audit", "authz"],
    ),
    (
        "quorum",
        &["types", "policy", "sharing", "crypto", "audit", "authz"],
    ),
    // Converts at the border: may read everything, and nothing reads it.
    (
        "api",
        &[
            "types", "policy", "sharing", "crypto", "audit", "authz", "custody", "home", "quorum",
        ],
    ),
];

/// Parts that more than the rules above may use: wire types of the custodian
/// protocol, and the one file that has every label, so that no two can be equal.
const ENGINE_PARTS: &[(&str, &[&str])] = &[
    ("home", &["custody", "protocol"]),
    ("quorum", &["custody", "protocol"]),
    ("audit", &["crypto", "labels"]),
    ("audit", &["crypto", "sign"]),
    ("authz", &["crypto", "labels"]),
    ("authz", &["crypto", "sign"]),
];

/// Parts of `std` that would be I/O, a clock, threads or ambient state.
const ENGINE_STD_NEVER: &[&str] = &["fs", "net", "time", "thread", "env", "process", "os", "io"];

/// What the planes may know: the home by its border, and what a caller's certificate says.
const HTTP_MAY: &[&[&str]] = &[
    &["http"],
    &["home", "api"],
    &["pki", "CertIdentity"],
    &["pki", "CertRole"],
];

/// A source file of a crate, as the rules see it.
struct File<'a> {
    path: &'a Path,
    module: Vec<String>,
    /// The whole file is compiled for tests only.
    test: bool,
    source: &'a str,
}

impl File<'_> {
    fn references(&self, external: &[&str]) -> Vec<Reference> {
        let mut found = references(&self.module, self.source, external);
        for reference in &mut found {
            reference.test |= self.test;
        }
        found
    }
    fn says(&self, reference: &Reference, why: &str) -> String {
        let path = reference.segments.join("::");
        format!(
            "{}:{}: uses {path}: {why}",
            self.path.display(),
            reference.line
        )
    }
}

/// Rules for one file of the engine.
fn engine(file: &File) -> Vec<String> {
    let Some(own) = file.module.first() else {
        return Vec::new(); // lib.rs only declares modules.
    };
    let Some((_, may)) = ENGINE.iter().find(|(name, _)| name == own) else {
        return vec![format!(
            "{}: module {own} has no rule; add it to ENGINE",
            file.path.display()
        )];
    };
    let mut bad = Vec::new();
    for reference in file.references(&["std", "core"]) {
        let segments: Vec<&str> = reference.segments.iter().map(String::as_str).collect();
        if !reference.own {
            let part = segments.get(1).copied().unwrap_or("");
            if !reference.test && ENGINE_STD_NEVER.contains(&part) {
                bad.push(file.says(
                    &reference,
                    "the engine has no I/O, clock, threads or environment",
                ));
            }
            continue;
        }
        let Some(&to) = segments.first() else {
            continue;
        };
        if !ENGINE.iter().any(|(name, _)| *name == to) || to == own {
            continue;
        }
        if to == "api" {
            bad.push(file.says(&reference, "nothing below imports api"));
            continue;
        }
        let part = ENGINE_PARTS
            .iter()
            .any(|(from, path)| from == own && segments.starts_with(path));
        // Tests may look at neighbours: a model of both sides belongs somewhere.
        if !reference.test && !part && !may.contains(&to) {
            bad.push(file.says(&reference, &format!("{own} may use {may:?}")));
        }
    }
    bad
}

/// Rules for one file of the harness.
fn jepsen(file: &File) -> Vec<String> {
    // What a client of anyone's would have: the parts that sign, and the parts that attack.
    let may: &[&str] = match file.module.first().map(String::as_str) {
        // A thief knows the formats of vaults, key slots and log entries.
        Some("attacker") => &["api", "audit", "sharing", "crypto", "custody", "types"],
        // The log has hashes of RFC 6962, and custodians have names.
        Some("checker") if file.module.get(1).is_some_and(|m| m == "audit_truth") => &["audit"],
        Some("checker") if file.module.get(1).is_some_and(|m| m == "create_atomicity") => {
            &["types"]
        }
        Some("client") => &["api", "authz", "crypto", "types"],
        _ => &["api"],
    };
    let mut bad = Vec::new();
    for reference in file.references(&["quorate_engine"]) {
        if reference.own {
            continue;
        }
        let part = reference.segments.get(1).map_or("", String::as_str);
        if !may.contains(&part) {
            bad.push(file.says(
                &reference,
                "the harness sees the product from outside: engine::api, and what its client signs with",
            ));
        }
    }
    bad
}

/// Rules for one file of the node.
fn node(file: &File) -> Vec<String> {
    if file.module.first().is_none_or(|m| m != "http") {
        return Vec::new();
    }
    let mut bad = Vec::new();
    for reference in file.references(&[]) {
        let segments: Vec<&str> = reference.segments.iter().map(String::as_str).collect();
        if !reference.test && !HTTP_MAY.iter().any(|may| segments.starts_with(may)) {
            bad.push(file.says(&reference, "http parses, calls a trait and prints"));
        }
    }
    bad
}

/// Applies `rule` to every file below `dir`/src.
fn over(dir: &str, rule: fn(&File) -> Vec<String>) -> Vec<String> {
    let src = PathBuf::from(dir).join("src");
    let all: Vec<(PathBuf, Vec<String>, String)> = files(&format!("{dir}/src"), &["rs"])
        .into_iter()
        .map(|path| {
            let below = path
                .strip_prefix(&src)
                .expect("files() keeps the directory it was given");
            let module = module_of(below);
            let source = read(&path);
            (path, module, source)
        })
        .collect();
    assert!(
        !all.is_empty(),
        "no sources below {dir}/src: the rule would check nothing"
    );
    let tests: BTreeSet<Vec<String>> = all
        .iter()
        .flat_map(|(_, module, source)| test_modules(module, source))
        .collect();
    all.iter()
        .flat_map(|(path, module, source)| {
            let test = (1..=module.len()).any(|n| tests.contains(&module[..n]));
            rule(&File {
                path,
                module: module.clone(),
                test,
                source,
            })
        })
        .collect()
}

/// Rules over `cargo metadata`.
fn crates(metadata: &Value) -> Vec<String> {
    let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
    let packages = metadata["packages"].as_array().cloned().unwrap_or_default();
    let own: Vec<String> = packages.iter().map(|p| text(&p["name"])).collect();
    let mut bad = Vec::new();
    for (name, _) in CRATES {
        if !own.iter().any(|o| o == name) {
            bad.push(format!("crate {name} is not in the workspace"));
        }
    }
    for package in &packages {
        let name = text(&package["name"]);
        let Some((_, may)) = CRATES.iter().find(|(n, _)| *n == name) else {
            bad.push(format!("crate {name} has no rule; add it to CRATES"));
            continue;
        };
        let default = package["features"]["default"].as_array();
        for feature in default.into_iter().flatten().map(text) {
            if TEST_FEATURES.contains(&feature.as_str()) {
                bad.push(format!(
                    "{name} has {feature} on by default: test builds only"
                ));
            }
        }
        for dependency in package["dependencies"].as_array().into_iter().flatten() {
            let to = text(&dependency["name"]);
            let dev = dependency["kind"] == "dev";
            if own.contains(&to) && !may.contains(&to.as_str()) {
                bad.push(format!("crate {name} depends on {to}, it may use {may:?}"));
            }
            let asks = dependency["features"].as_array().into_iter().flatten();
            for feature in asks
                .map(text)
                .filter(|f| TEST_FEATURES.contains(&f.as_str()))
            {
                if name != "quorate-tests" {
                    bad.push(format!(
                        "{name} turns {feature} of {to} on: test builds only"
                    ));
                }
            }
            if name == "quorate-engine" && !dev && ENGINE_NEVER.contains(&to.as_str()) {
                bad.push(format!("the engine depends on {to}: it only decides"));
            }
        }
    }
    bad
}

fn none(bad: Vec<String>) {
    assert!(bad.is_empty(), "\n{}", bad.join("\n"));
}

#[test]
fn crates_point_down() {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = std::process::Command::new(cargo)
        .args([
            "metadata",
            "--offline",
            "--no-deps",
            "--format-version",
            "1",
        ])
        .current_dir(root())
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    none(crates(&serde_json::from_slice(&output.stdout).unwrap()));
}

#[test]
fn the_engines_modules_point_down() {
    none(over("engine", engine));
}

#[test]
fn the_harness_sees_only_the_api() {
    none(over("jepsen", jepsen));
}

#[test]
fn http_knows_the_home_by_its_border() {
    none(over("node", node));
}

/// What `rule` says about `source` standing at `path` below a crate's `src`.
fn planted(rule: fn(&File) -> Vec<String>, path: &str, source: &str) -> usize {
    let path = Path::new(path);
    rule(&File {
        path,
        module: module_of(path),
        test: false,
        source,
    })
    .len()
}

/// A rule: what a file breaks of it.
type Rule = fn(&File) -> Vec<String>;

#[test]
fn planted_module_violations_are_found() {
    let bad: [(Rule, &str, &str); 21] = [
        (engine, "types/ids.rs", "use crate::crypto::seal::X;"),
        (engine, "sharing/mod.rs", "use crate::policy::Policy;"),
        (
            engine,
            "crypto/seal.rs",
            "fn f(x: crate::custody::protocol::Receipt) {}",
        ),
        (engine, "audit/log.rs", "use crate::crypto::{labels, seal};"),
        (
            engine,
            "audit/log.rs",
            "use crate::{types::KeyId, custody};",
        ),
        (engine, "policy/file.rs", "use super::super::home::Machine;"),
        (engine, "custody/apply/store.rs", "use crate::home::epochs;"),
        (engine, "custody/mod.rs", "use crate::quorum::Collector;"),
        (engine, "home/mod.rs", "use crate::custody::apply::Machine;"),
        (
            engine,
            "home/mod.rs",
            "use crate::custody::{protocol::Feed, view};",
        ),
        (engine, "quorum/collector.rs", "use crate::home::read;"),
        (
            engine,
            "authz/mod.rs",
            "mod inner { use super::super::audit::Log; }",
        ),
        (engine, "home/tests.rs", "use crate::api::Chat;"),
        (engine, "newcomer/mod.rs", ""),
        (engine, "home/mod.rs", "use std::time::Instant;"),
        (engine, "custody/mod.rs", "let x = std::fs::read(p);"),
        (
            jepsen,
            "checker/set.rs",
            "use quorate_engine::{api::Chat, types::ChatId};",
        ),
        (
            jepsen,
            "checker/set.rs",
            "use quorate_engine::sharing::combine;",
        ),
        (
            jepsen,
            "client/wallet.rs",
            "use quorate_engine::custody::command::Command;",
        ),
        (node, "http/client.rs", "use crate::home::service::Service;"),
        (
            node,
            "http/operator.rs",
            "use crate::{custodian::Custodian, http::tls};",
        ),
    ];
    for (rule, path, source) in bad {
        assert_eq!(planted(rule, path, source), 1, "{path}: {source}");
    }
    let good: [(Rule, &str, &str); 11] = [
        (
            engine,
            "home/mod.rs",
            "use crate::custody::protocol::{Feed, Receipt};",
        ),
        (engine, "audit/entry.rs", "use crate::crypto::labels::LEAF;"),
        (engine, "quorum/mod.rs", "use crate::custody::protocol;"),
        (
            engine,
            "policy/file.rs",
            "use crate::sharing::ValidThreshold;",
        ),
        (
            engine,
            "sharing/mod.rs",
            "#[cfg(test)] mod tests { use crate::policy::Policy; }",
        ),
        (
            engine,
            "sharing/mod.rs",
            "//! see [`policy`](crate::policy)",
        ),
        (
            engine,
            "api/mod.rs",
            "use crate::home::read; use super::custody;",
        ),
        (
            jepsen,
            "attacker/mod.rs",
            "use quorate_engine::{sharing, crypto};",
        ),
        (
            jepsen,
            "client/wallet.rs",
            "use quorate_engine::{authz::grant::Grant, crypto::sign, types::ChatId};",
        ),
        (
            node,
            "http/client.rs",
            "use crate::home::api::HomeApi; use super::tls;",
        ),
        (node, "home/service.rs", "use crate::raft::cluster::Group;"),
    ];
    for (rule, path, source) in good {
        assert_eq!(planted(rule, path, source), 0, "{path}: {source}");
    }
}

#[test]
fn planted_crate_violations_are_found() {
    let package = |name: &str, to: &str, kind: Value| serde_json::json!({"name": name, "dependencies": [{"name": to, "kind": kind}]});
    let base: Vec<Value> = CRATES
        .iter()
        .map(|(n, _)| package(n, "serde", Value::Null))
        .collect();
    let with = |extra: Value| {
        let mut packages = base.clone();
        packages.retain(|p| p["name"] != extra["name"]);
        packages.push(extra);
        crates(&serde_json::json!({ "packages": packages }))
    };
    let mut planted_bugs = package("quorate", "quorate-node", Value::Null);
    planted_bugs["dependencies"][0]["features"] = serde_json::json!(["mutants"]);
    assert_eq!(with(planted_bugs).len(), 1);
    let mut on = package("quorate-node", "serde", Value::Null);
    on["features"] = serde_json::json!({"default": ["failpoints"]});
    assert_eq!(with(on).len(), 1);
    let dev = Value::from("dev");
    assert_eq!(
        with(package("quorate-engine", "rand", dev.clone())),
        Vec::<String>::new()
    );
    for (name, to, kind) in [
        ("quorate-engine", "quorate-node", Value::Null),
        ("quorate-engine", "quorate-node", dev),
        ("quorate-engine", "tokio", Value::Null),
        ("quorate-engine", "openraft", Value::Null),
        ("quorate-engine", "redb", Value::from("build")),
        ("quorate-node", "quorate", Value::Null),
        ("quorate-jepsen", "quorate-node", Value::Null),
        ("quorate", "quorate-jepsen", Value::Null),
        ("quorate-stray", "serde", Value::Null),
    ] {
        assert_eq!(with(package(name, to, kind)).len(), 1, "{name} -> {to}");
    }
    assert_eq!(
        crates(&serde_json::json!({"packages": []})).len(),
        CRATES.len()
    );
}
