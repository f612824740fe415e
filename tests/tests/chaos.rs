//! The chaos harness, as its users run it: what it says of the machine, a short
//! run with faults, and that it leaves nothing behind when it is killed.
//!
//! Needs root, namespaces, TUN and loop devices; where they are missing the
//! tests say so and, with `CI=true`, fail.

use quorate_tests::deployment::binary;
use serde_json::Value;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

const NEEDED: &str = "root,namespaces,netns,tun,loop";

fn harness(args: &[&str]) -> Output {
    Command::new(binary("quorate-jepsen").unwrap())
        .args(args)
        .output()
        .unwrap()
}

/// Whether the machine cannot do it; says so, and fails under `CI=true`.
fn skipped() -> bool {
    let out = harness(&["doctor", "--need", NEEDED]);
    if out.status.success() {
        return false;
    }
    let why = String::from_utf8_lossy(&out.stderr).into_owned();
    assert_eq!(out.status.code(), Some(3), "{why}");
    assert!(
        std::env::var("CI").as_deref() != Ok("true"),
        "cannot run in CI: {why}"
    );
    eprintln!("SKIPPED: {why}");
    true
}

#[test]
fn doctor_prints_a_table_and_refuses_what_is_not_there() {
    let out = harness(&["doctor", "--json"]);
    assert!(out.status.success());
    let report: Value = serde_json::from_slice(&out.stdout).unwrap();
    let probes = report["probes"].as_array().unwrap();
    assert!(probes.len() >= 12);
    assert!(
        probes
            .iter()
            .all(|p| p["works"].is_boolean() && p["detail"].is_string())
    );
    let out = harness(&["doctor", "--need", "an-earthquake"]);
    assert_eq!(out.status.code(), Some(3));
    let said = String::from_utf8_lossy(&out.stderr);
    assert!(said.contains("an-earthquake: nothing probes it"), "{said}");
}

fn results(store: &Path) -> Value {
    let path = store.join("latest/results.json");
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

#[test]
fn a_short_run_with_kills_is_valid_and_can_be_checked_again_offline() {
    if skipped() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let store = dir.path().join("store");
    let at = store.to_str().unwrap();
    let run = [
        "run",
        "--workload",
        "append",
        "--nemesis",
        "kill",
        "--topology",
        "tiny",
        "--time",
        "30",
        "--seed",
        "3",
        "--store",
        at,
    ];
    let out = harness(&run);
    let said = String::from_utf8_lossy(&out.stderr);
    assert_eq!(out.status.code(), Some(0), "{said}");
    let first = results(&store);
    assert_eq!(first["valid?"], true);
    for file in [
        "spec.json",
        "history.edn",
        "history.jsonl",
        "seen.json",
        "logs/ae-1.log",
    ] {
        assert!(store.join("latest").join(file).exists(), "{file}");
    }
    let again = harness(&["analyze", store.join("latest").to_str().unwrap()]);
    assert_eq!(
        again.status.code(),
        Some(0),
        "{}",
        String::from_utf8_lossy(&again.stderr)
    );
    assert_eq!(results(&store), first);
    lost_acknowledgement_is_found(&store);
}

/// The same history without one acknowledged element in any read: false, and the exit code says so.
fn lost_acknowledgement_is_found(store: &Path) {
    let dir = store.join("latest");
    let path = dir.join("history.jsonl");
    let text = std::fs::read_to_string(&path).unwrap();
    let acknowledged = text.lines().find_map(|line| {
        let op: Value = serde_json::from_str(line).unwrap();
        let step = &op["value"][0];
        (op["type"] == ":ok" && step[0] == ":append").then(|| step[2].as_i64().unwrap())
    });
    let lost = acknowledged.expect("something was appended");
    let without = text.lines().map(|line| {
        let mut op: Value = serde_json::from_str(line).unwrap();
        if let Some(list) = op.pointer_mut("/value/0/2").and_then(Value::as_array_mut) {
            list.retain(|v| v.as_i64() != Some(lost));
        }
        serde_json::to_string(&op).unwrap() + "\n"
    });
    let without: String = without.collect();
    assert_ne!(without, text);
    std::fs::write(&path, without).unwrap();
    let out = harness(&["analyze", dir.to_str().unwrap()]);
    assert_eq!(
        out.status.code(),
        Some(1),
        "{}",
        String::from_utf8_lossy(&out.stderr)
    );
}

#[test]
fn a_killed_harness_leaves_nothing_behind() {
    if skipped() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let store = dir.path().join("store");
    let said = dir.path().join("said");
    let mut child = Command::new(binary("quorate-jepsen").unwrap())
        .args(["run", "--topology", "tiny", "--time", "600", "--store"])
        .arg(&store)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(std::fs::File::create(&said).unwrap())
        .spawn()
        .unwrap();
    let mine = store.to_str().unwrap().to_owned();
    let began = Instant::now();
    while nodes_with(&mine) == 0 {
        let ended = child.try_wait().unwrap();
        assert!(
            ended.is_none() && began.elapsed() < Duration::from_secs(120),
            "no node was started: {ended:?}\n{}",
            std::fs::read_to_string(&said).unwrap()
        );
        std::thread::sleep(Duration::from_millis(100));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    let killed = Instant::now();
    loop {
        let loops = Command::new("losetup").arg("-a").output().unwrap();
        let loops = String::from_utf8_lossy(&loops.stdout)
            .matches(&mine)
            .count();
        let nodes = nodes_with(&mine);
        if (nodes, loops) == (0, 0) {
            break;
        }
        assert!(
            killed.elapsed() < Duration::from_secs(30),
            "{nodes} nodes and {loops} loop devices are left"
        );
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// Running nodes whose configuration is below `dir`.
fn nodes_with(dir: &str) -> usize {
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    let lines = processes.filter_map(|p| std::fs::read(p.path().join("cmdline")).ok());
    let ours = |line: &Vec<u8>| {
        let line = String::from_utf8_lossy(line);
        line.contains("quorate-node") && line.contains(dir)
    };
    lines.filter(ours).count()
}
