//! `quorate-node` as its users start it: help, version, and configurations it refuses.
//!
//! That this package has an integration test also makes `cargo test --workspace`
//! build the binary, which the whole-deployment tests run.

use std::process::{Command, Output};

fn run(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_quorate-node"))
        .args(args)
        .output()
        .expect("the binary was just built")
}

#[test]
fn help_and_version_tell_what_it_is() {
    let help = run(&["--help"]);
    let text = String::from_utf8_lossy(&help.stdout).into_owned();
    assert!(help.status.success());
    for word in ["--config", "dump", "recover", "Exit codes", "SIGTERM"] {
        assert!(text.contains(word), "{word} is missing in:\n{text}");
    }
    let version = run(&["--version"]);
    assert!(String::from_utf8_lossy(&version.stdout).contains(env!("CARGO_PKG_VERSION")));
}

#[test]
fn a_configuration_that_is_missing_or_wrong_is_exit_code_2() {
    let none = run(&[]);
    assert_eq!(none.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&none.stderr).contains("--config"));
    let dir = tempfile::tempdir().expect("a temporary directory");
    let file = dir.path().join("config.toml");
    let good = quorate_node::config::example_custodian();
    let path = file.to_str().expect("a plain path");
    std::fs::write(&file, good.replace("snapshot_entries", "snapshot_entires")).expect("written");
    let typo = run(&["--config", path]);
    assert_eq!(typo.status.code(), Some(2));
    let said = String::from_utf8_lossy(&typo.stderr).into_owned();
    assert!(
        said.contains("snapshot_entires") && said.contains(path),
        "{said}"
    );
    std::fs::write(&file, good).expect("written");
    assert!(run(&["--config", path, "--check"]).status.success());
}
