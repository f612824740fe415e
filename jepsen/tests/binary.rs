//! `quorate-jepsen` as its users start it: help, what it can do, and what it refuses.
//!
//! That this package has an integration test also makes `cargo test --workspace`
//! build the binary, which the whole-deployment tests run.

use std::process::{Command, Output};

fn run(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_quorate-jepsen"))
        .args(args)
        .output()
        .expect("the binary was just built")
}

#[test]
fn help_and_list_tell_what_it_can_do() {
    let help = run(&["--help"]);
    let text = String::from_utf8_lossy(&help.stdout).into_owned();
    assert!(help.status.success());
    for word in [
        "doctor",
        "run",
        "suite",
        "soak",
        "self-test",
        "analyze",
        "Exit codes",
    ] {
        assert!(text.contains(word), "{word} is missing in:\n{text}");
    }
    let list = run(&["list"]);
    let text = String::from_utf8_lossy(&list.stdout).into_owned();
    for word in ["append", "register", "set", "kill", "partition", "power"] {
        assert!(text.contains(word), "{word} is missing in:\n{text}");
    }
}

#[test]
fn a_run_that_is_not_there_is_a_failure_of_the_harness() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let none = dir.path().join("none");
    let out = run(&["analyze", none.to_str().expect("a plain path")]);
    assert_eq!(out.status.code(), Some(3));
    assert!(String::from_utf8_lossy(&out.stderr).contains("none"));
}
