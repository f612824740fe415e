//! Published logs, checked by a program on Go's own implementation of notes and tiles
//! (`tests/interop/main.go`): what it accepts, others will, too.

use super::log::admitted_auditor;
use super::world::{World, node, topology};
use quorate_tests::source::root;
use serde_json::Value;
use std::path::Path;
use std::process::{Command, Output};

/// Where Debian puts Go libraries as source.
const GOPATH: &str = "/usr/share/gocode";

/// The program, built; `None` where Go or its library is not installed, which CI does not let pass.
fn program(dir: &Path) -> Option<std::path::PathBuf> {
    let out = dir.join("interop");
    let there = Path::new(GOPATH)
        .join("src/golang.org/x/mod/sumdb/note")
        .exists();
    let built = there.then(|| {
        Command::new("go")
            .args(["build", "-o", out.to_str().unwrap(), "main.go"])
            .current_dir(root().join("tests/interop"))
            .env("GO111MODULE", "off")
            .env("GOPATH", GOPATH)
            .env("GOCACHE", dir.join("cache"))
            .output()
    });
    match built {
        Some(Ok(done)) => {
            assert!(
                done.status.success(),
                "{}",
                String::from_utf8_lossy(&done.stderr)
            );
            Some(out)
        }
        missing => {
            assert!(
                std::env::var_os("CI").is_none(),
                "Go or its library is missing: {missing:?}; install golang-go and golang-golang-x-mod-dev"
            );
            eprintln!("left out: it takes golang-go and golang-golang-x-mod-dev");
            None
        }
    }
}

#[test]
fn an_independent_implementation_accepts_our_log() {
    let world = World::start(&topology(1, [1; 3], ""));
    let dir = tempfile::tempdir().unwrap();
    let Some(program) = program(dir.path()) else {
        return;
    };
    for n in 0..4 {
        world.send(&world.chat(&format!("chat {n}")), &["a".into()]);
    }
    let token = admitted_auditor(&world, dir.path());
    let at = world.d.node(&node("ch", 1)).audit.unwrap();
    let layout = world.d.layout.cluster("ch").unwrap();
    let policy = world.quorate_ok(&["log", "policy"]);
    let key = |line: &str| {
        let found = policy
            .lines()
            .find(|l| l.starts_with(line) && l.contains("/ch+"));
        let words = found.unwrap().split(' ');
        words.clone().find(|w| w.contains('+')).unwrap().to_owned()
    };
    let run = |log: &str, more: &[&str]| -> Output {
        Command::new(&program)
            .args([
                "-url",
                &format!("https://{at}"),
                "-ca",
                layout.ca.to_str().unwrap(),
            ])
            .args(["-log", log])
            .args(more)
            .output()
            .unwrap()
    };
    let done = run(&key("log"), &["-token", token.to_str().unwrap()]);
    assert!(
        done.status.success(),
        "{}",
        String::from_utf8_lossy(&done.stderr)
    );
    let said: Value = serde_json::from_slice(&done.stdout).unwrap();
    let size = said["size"].as_u64().unwrap();
    assert!(size > 10, "{said}");
    assert_eq!(
        (said["records"].as_u64(), said["entries"].as_u64()),
        (Some(size), Some(size))
    );
    // And it can say no: to another log's key, and where a cosignature is asked for that is not there.
    let is = policy
        .lines()
        .find(|l| l.starts_with("log") && l.contains("/is+"))
        .unwrap();
    let other = run(is.split(' ').nth(1).unwrap(), &[]);
    assert!(!other.status.success(), "{other:?}");
    let more = run(&key("log"), &["-witness", &key("witness"), "-quorum", "1"]);
    assert!(!more.status.success(), "{more:?}");
}
