//! What people and scripts see: help, results, error texts, exit codes.
//! The real binary runs against a home in memory.

#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "tests fail by panicking, and say what they skip"
)]

mod support;

use clap::CommandFactory;
use quorate_cli::commands::Cli;
use serde_json::Value;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::Ordering;
use support::{FakeHome, wallet_in};

struct Shell {
    home: FakeHome,
    dir: tempfile::TempDir,
}

/// Exit code, standard output, standard error.
type Said = (i32, String, String);

impl Shell {
    fn new() -> Self {
        let (home, dir) = (FakeHome::start(), tempfile::tempdir().unwrap());
        home.deployment(dir.path(), &[]);
        Self { home, dir }
    }
    fn run(&self, args: &[&str]) -> Said {
        quorate(self.dir.path(), args)
    }
    /// Standard output of a command that succeeds.
    fn ok(&self, args: &[&str]) -> String {
        let (code, out, err) = self.run(args);
        assert_eq!(code, 0, "{args:?}: {err}");
        out.trim_end().to_owned()
    }
    fn json(&self, args: &[&str]) -> Value {
        serde_json::from_str(&self.ok(&[&["--json"], args].concat())).unwrap()
    }
}

fn quorate(deployment: &Path, args: &[&str]) -> Said {
    let out = Command::new(env!("CARGO_BIN_EXE_quorate"))
        .args(args)
        .env("QUORATE_DEPLOYMENT", deployment)
        .env("QUORATE_WALLET", wallet_in(deployment))
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let text = |b: Vec<u8>| String::from_utf8(b).unwrap();
    (
        out.status.code().unwrap(),
        text(out.stdout),
        text(out.stderr),
    )
}

#[test]
fn every_command_explains_itself() {
    fn walk(command: &mut clap::Command, path: &str, leaves: &mut Vec<String>) {
        assert!(command.get_about().is_some(), "{path} has no description");
        for argument in command.get_arguments() {
            assert!(
                argument.get_help().is_some() || argument.is_hide_set(),
                "{path}: {} has no help",
                argument.get_id()
            );
        }
        let help = command.render_long_help().to_string();
        assert!(help.contains("Usage:"), "{path}");
        let mut leaf = true;
        for sub in command.get_subcommands_mut() {
            leaf = false;
            let path = format!("{path} {}", sub.get_name());
            walk(sub, &path, leaves);
        }
        if leaf {
            leaves.push(path.to_owned());
        }
    }
    let mut root = Cli::command();
    root.build();
    let mut leaves = Vec::new();
    walk(&mut root, "quorate", &mut leaves);
    for known in [
        "chat create",
        "chat list",
        "chat show",
        "message send",
        "message edit",
        "message history",
        "message get",
        "import telegram",
        "export telegram",
        "status",
        "policy explain",
        "policy lint",
        "bench",
        "completions",
        "login",
        "device list",
        "device revoke",
        "recover begin",
        "identity enrol",
        "chat members",
        "chat join",
    ] {
        assert!(
            leaves.contains(&format!("quorate {known}")),
            "{known} is missing of {leaves:?}"
        );
    }
    let (code, help, _) = quorate(Path::new("/"), &["--help"]);
    assert_eq!(code, 0);
    let table = help.split("Exit codes:\n").nth(1).unwrap();
    let expected = "  0  done
  1  failed
  2  wrong usage, file or configuration
  3  unavailable, or outcome unknown (repeating the command is safe)
  4  no quorum of custodians
  5  not found, or in conflict with what is there
  6  done, but parts of the input could not be read (they are named)
  7  who asks may not: grant, device or membership was refused";
    assert_eq!(table.trim_end(), expected);
}

#[test]
fn chats_and_messages_from_the_beginning() {
    let s = Shell::new();
    let chat = s.ok(&["chat", "create", "tea", "--key", "k1"]);
    assert_eq!(chat.len(), 64);
    assert_eq!(
        s.ok(&["chat", "create", "tea", "--key", "k1"]),
        chat,
        "one key, one chat"
    );
    assert_eq!(
        s.ok(&["message", "send", &chat, "green or black?"]),
        "message 1 revision 0 at 2023-11-14 22:13:20Z"
    );
    let content = r#"{"type":"service","actor":"Mo","action":"grew_wings","newer":{"deep":[1]}}"#;
    s.ok(&[
        "message",
        "send",
        &chat,
        "--content",
        content,
        "--key",
        "k2",
    ]);
    assert_eq!(
        s.ok(&[
            "message",
            "send",
            &chat,
            "--content",
            content,
            "--key",
            "k2"
        ]),
        "message 2 revision 0 at 2023-11-14 22:13:20Z (it was there already)"
    );
    s.ok(&["message", "send", &chat, "black", "--reply-to", "1"]);
    s.ok(&["message", "edit", &chat, "3", "green"]);
    let sent = s.json(&["message", "get", &chat, "1"]);
    let device = sent["device"].as_str().unwrap();
    assert_eq!(device.len(), 64);
    assert_eq!(
        s.ok(&["message", "history", &chat]),
        "     1  2023-11-14 22:13:20Z  device DEVICE: green or black?
     2  2023-11-14 22:13:20Z  Mo: [grew_wings]
     3  2023-11-14 22:13:20Z  device DEVICE: green (edited, revision 1)"
            .replace("DEVICE", &device[..12])
    );
    assert_eq!(
        s.ok(&["message", "history", &chat, "--limit", "1"])
            .lines()
            .count(),
        1
    );
    let edited = s.json(&["message", "get", &chat, "3"]);
    assert_eq!(
        edited["content"]["reply_to_message_id"], 1,
        "an edit keeps the rest"
    );
    assert_eq!(
        s.json(&["message", "get", &chat, "2"])["content"],
        serde_json::from_str::<Value>(content).unwrap()
    );
    let (code, _, err) = s.run(&["message", "edit", &chat, "3", "blue", "--revision", "0"]);
    assert_eq!(
        (code, err.as_str()),
        (
            5,
            "error: the message is at revision 1\n  next: do as the test says\n"
        )
    );
    assert_eq!(
        s.ok(&["chat", "show", &chat]),
        format!(
            "chat:     {chat}\ncreated:  2023-11-14 22:13:20Z\nmessages: 3\nepochs:   1\nprofile:  {{\n            \"name\": \"tea\"\n          }}"
        )
    );
    let list = s.ok(&["chat", "list", "--profile"]);
    assert!(list.contains(&chat) && list.contains("tea"), "{list}");
    for i in 0..4 {
        s.ok(&["chat", "create", &format!("more {i}")]);
    }
    let some = s.json(&["chat", "list", "--limit", "2"]);
    let rest = s.json(&["chat", "list", "--after", some["next"].as_str().unwrap()]);
    assert_eq!(
        (
            some["chats"].as_array().unwrap().len(),
            rest["chats"].as_array().unwrap().len()
        ),
        (2, 3)
    );
    // A chat that no import made can be exported as well.
    let (code, out, _) = s.run(&["export", "telegram", &chat, "--out", "-"]);
    let out: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(
        (
            code,
            &out["name"],
            out["messages"].as_array().unwrap().len()
        ),
        (0, &"tea".into(), 3)
    );
}

#[test]
fn mistakes_are_told_with_the_way_out() {
    let s = Shell::new();
    let none = "0".repeat(64);
    for (args, code, says) in [
        (
            vec!["chat", "show", "xyz"],
            2,
            "error: \"xyz\" is not a chat's id\n  next: give the 64 hex characters that `quorate chat list` or an import shows\n",
        ),
        (
            vec!["chat", "show", &none],
            5,
            &*format!("error: chat {none} not found\n  next: do as the test says\n"),
        ),
        (
            vec!["message", "send", &none, "--content", "[1]"],
            2,
            "error: the content is not a JSON object: invalid type: sequence, expected a map at line 1 column 0\n  next: give an object such as '{\"text\": \"hello\"}', @FILE, or - for standard input\n",
        ),
        (
            vec!["message", "send", &none, "--content", "@/dev/zero"],
            2,
            "error: /dev/zero is over the limit of 1 MiB for one message\n  next: split it over several messages\n",
        ),
        (
            vec!["message", "send", &none, "--content", "@/none"],
            1,
            "error: cannot read /none: No such file or directory (os error 2)\n  next: check the path\n",
        ),
    ] {
        let (got, out, err) = s.run(&args);
        assert_eq!(
            (got, out.as_str(), err.as_str()),
            (code, "", says),
            "{args:?}"
        );
    }
    for args in [
        vec!["message", "send", &none],
        vec!["frobnicate"],
        vec!["import", "telegram"],
        vec!["bench", "--clients", "0"],
    ] {
        let (code, _, err) = s.run(&args);
        assert!(
            code == 2 && err.contains("error:"),
            "{args:?}: {code} {err}"
        );
    }
    let (code, out, err) = s.run(&["--json", "chat", "show", &none]);
    let error: Value = serde_json::from_str(&err).unwrap();
    assert_eq!(
        (
            code,
            out.as_str(),
            &error["error"]["code"],
            &error["error"]["exit"]
        ),
        (5, "", &"not_found".into(), &5.into())
    );
}

#[test]
fn a_missing_quorum_names_who_and_what_would_suffice() {
    let s = Shell::new();
    s.home.shared.faults.no_quorum.store(true, Ordering::SeqCst);
    let (code, _, err) = s.run(&["chat", "show", &"0".repeat(64)]);
    let expected = "error: 2 of 3 shares are missing
  is refused: frozen
  br sent a share that does not match its commitment
  unreachable: sg
  would suffice: is + sg
  next: do as the test says
";
    assert_eq!((code, err.as_str()), (4, expected));
    assert_eq!(
        s.home.shared.requests.load(Ordering::SeqCst),
        1,
        "it is told at once"
    );
}

#[test]
fn deployments_that_are_not_there() {
    let dir = tempfile::tempdir().unwrap();
    let (code, _, err) = quorate(dir.path(), &["chat", "list"]);
    assert_eq!(code, 2);
    assert!(
        err.contains(
            "it has neither client.toml nor layout.toml\n  next: start one with `quorate dev`"
        ),
        "{err}"
    );
    let s = Shell::new();
    // Bound and never accepting is unknown to TCP; bound and closed again refuses.
    let closed = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    s.home
        .deployment(dir.path(), &[format!("https://{closed}")]);
    let (code, _, err) = quorate(dir.path(), &["chat", "list"]);
    assert_eq!(code, 0, "the second node answers: {err}");
    let toml = format!(
        "endpoints = [\"https://{closed}\"]\nca = \"ca.pem\"\nhome = \"ae\"\ndeployment = \"{}\"\n",
        "00".repeat(16)
    );
    std::fs::write(dir.path().join("client.toml"), toml).unwrap();
    let (code, _, err) = quorate(dir.path(), &["chat", "list"]);
    assert_eq!(code, 3, "{err}");
    assert!(
        err.starts_with(&format!(
            "error: no home node can be reached: {closed}: Connection refused"
        )),
        "{err}"
    );
    // Another deployment's CA: nothing is sent to whoever answers there.
    let other = FakeHome::start();
    other.deployment(dir.path(), &[]);
    let stranger = s.home.address.to_string();
    let toml = format!(
        "endpoints = [\"https://{stranger}\"]\nca = \"ca.pem\"\nhome = \"ae\"\ndeployment = \"{}\"\n",
        "00".repeat(16)
    );
    std::fs::write(dir.path().join("client.toml"), toml).unwrap();
    let before = s.home.shared.requests.load(Ordering::SeqCst);
    let (code, _, err) = quorate(dir.path(), &["chat", "list"]);
    assert_eq!(code, 3);
    assert!(err.contains("TLS: invalid peer certificate"), "{err}");
    assert_eq!(s.home.shared.requests.load(Ordering::SeqCst), before);
}

#[test]
fn status_shows_what_an_operator_must_see() {
    let s = Shell::new();
    let text = s.ok(&["status"]);
    for part in [
        "release authority: the home's certificate alone",
        "custodian is",
        "DOWN",
        "2/3",
        "1: 0 1, 2: 2",
        "1.2 ms",
        "margin: none; the loss of one more custodian stops openings (THIN: below the policy's write margin)",
        "thin epochs: 2   outbox: 5 shares   leases: 3 of 100 (oldest 61 s, at most 10 min; MEMORY NOT LOCKED, raise RLIMIT_MEMLOCK)",
        "warning: custodian is does not answer",
    ] {
        assert!(text.contains(part), "{part:?} is missing in\n{text}");
    }
    assert_eq!(s.json(&["status"])["outbox"], 5);
    let mut watching = Command::new(env!("CARGO_BIN_EXE_quorate"))
        .args(["--json", "status", "--watch", "--interval", "1"])
        .env("QUORATE_DEPLOYMENT", s.dir.path())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = std::io::BufRead::lines(std::io::BufReader::new(watching.stdout.take().unwrap()));
    assert_eq!(lines.take(2).filter(|l| l.is_ok()).count(), 2);
    watching.kill().unwrap();
    watching.wait().unwrap();
}

#[test]
fn policies_are_explained_and_checked() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("topology.toml");
    std::fs::write(&file, quorate_node::embedded::topology::DEFAULT_TOPOLOGY).unwrap();
    let path = file.to_str().unwrap();
    let (code, out, err) = quorate(
        dir.path(),
        &["policy", "explain", path, "--availability", "0.99"],
    );
    assert_eq!(code, 0, "{err}");
    assert!(
        out.contains("any 3 of br, ch, eu(any 1 of de, nl), is, sg"),
        "{out}"
    );
    assert_eq!(err, "", "a topology has its facts");
    let (code, out, _) = quorate(dir.path(), &["--json", "policy", "lint", path]);
    let found: Value = serde_json::from_str(&out).unwrap();
    assert_eq!((code, &found["policy"]), (0, &"default".into()));
    let alone = dir.path().join("policy.toml");
    std::fs::write(
        &alone,
        "[policy.default]\nthreshold = 2\nmembers = [\"a\", \"b\", \"c\"]\n",
    )
    .unwrap();
    let (code, out, err) = quorate(dir.path(), &["policy", "lint", alone.to_str().unwrap()]);
    assert_eq!(code, 0, "{err}");
    assert!(
        out.contains("any 2 of a, b, c") && err.contains("taken to be independent"),
        "{out}{err}"
    );
    let (code, _, err) = quorate(
        dir.path(),
        &[
            "policy",
            "explain",
            alone.to_str().unwrap(),
            "--policy",
            "x",
        ],
    );
    assert!(code == 5 && err.contains("it has: default"), "{err}");
    std::fs::write(
        &alone,
        "[policy.default]\nthreshold = 1\nmembers = [\"a\", \"b\", \"c\"]\n",
    )
    .unwrap();
    let (code, out, err) = quorate(dir.path(), &["policy", "lint", alone.to_str().unwrap()]);
    assert_eq!((code, out.as_str()), (1, ""));
    assert!(err.contains("is refused:\n- "), "{err}");
}

#[test]
fn a_bench_measures_every_case() {
    let s = Shell::new();
    let args = [
        "--json",
        "bench",
        "writes",
        "reads",
        "pages",
        "cold",
        "--clients",
        "2",
        "--time",
        "1",
        "--chats",
        "2",
        "--batch",
        "5",
        "--cold-chats",
        "7",
    ];
    let (code, out, err) = s.run(&args);
    assert_eq!(code, 0, "{err}");
    let all: Vec<Value> = out
        .lines()
        .map(|l| serde_json::from_str(l).unwrap())
        .collect();
    let names: Vec<_> = all.iter().map(|m| m["case"].as_str().unwrap()).collect();
    assert_eq!(
        names,
        [
            "message writes",
            "warm single reads",
            "warm page reads",
            "cold reads"
        ]
    );
    for m in &all {
        let number = |key: &str| m[key].as_f64().unwrap();
        assert!(number("operations") > 5.0 && number("failed") == 0.0, "{m}");
        assert!(
            number("p50_ms") > 0.0
                && number("p50_ms") <= number("p99_ms")
                && number("p99_ms") <= number("max_ms"),
            "{m}"
        );
    }
    assert_eq!(all[3]["operations"], 7);
    assert!(err.contains("3 keys leased before"), "{err}");
    let ratio = all[0]["items_per_second"].as_f64().unwrap()
        / all[0]["operations_per_second"].as_f64().unwrap();
    assert!((ratio - 5.0).abs() < 1e-6);
}

#[test]
fn completions_name_the_commands() {
    let (code, out, _) = quorate(Path::new("/"), &["completions", "bash"]);
    assert_eq!(code, 0);
    assert!(out.contains("_quorate()") && out.contains("telegram"));
}

#[test]
fn without_a_wallet_the_next_step_is_said() {
    let s = Shell::new();
    std::fs::remove_dir_all(wallet_in(s.dir.path())).unwrap();
    let (code, _, err) = s.run(&["chat", "list"]);
    assert_eq!(code, 2, "{err}");
    assert!(err.contains("no wallet in "), "{err}");
    assert!(
        err.contains("next: log in with `quorate login --name NAME`"),
        "{err}"
    );
    let (_, _, err) = s.run(&["--json", "chat", "list"]);
    let error: Value = serde_json::from_str(&err).unwrap();
    assert_eq!(error["error"]["code"], "no_wallet");
    assert_eq!(s.home.shared.requests.load(Ordering::SeqCst), 0);
    // What an operator looks at takes none.
    s.ok(&["status"]);
}

#[test]
fn a_wallet_that_others_may_read_is_refused() {
    use std::os::unix::fs::PermissionsExt;
    let s = Shell::new();
    let file = wallet_in(s.dir.path()).join("device.json");
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).unwrap();
    let (code, _, err) = s.run(&["chat", "list"]);
    assert_eq!(code, 2, "{err}");
    assert!(
        err.contains(&format!("next: run chmod 600 {}", file.display())),
        "{err}"
    );
    assert_eq!(s.home.shared.requests.load(Ordering::SeqCst), 0);
}

#[test]
fn a_wallet_of_another_deployment_signs_nothing() {
    let s = Shell::new();
    let path = s.dir.path().join("client.toml");
    let text = std::fs::read_to_string(&path).unwrap();
    let other = text.replace(&"00".repeat(16), &"11".repeat(16));
    assert_ne!(other, text);
    std::fs::write(&path, other).unwrap();
    let (code, _, err) = s.run(&["chat", "list"]);
    assert_eq!(code, 2, "{err}");
    assert!(err.contains("is for deployment 0000"), "{err}");
    assert_eq!(s.home.shared.requests.load(Ordering::SeqCst), 0);
}

#[test]
fn a_grant_that_is_over_is_signed_anew_once() {
    let s = Shell::new();
    let chat = s.ok(&["chat", "create", "tea"]);
    s.home.shared.faults.expire_every.store(2, Ordering::SeqCst);
    s.ok(&["message", "send", &chat, "one"]);
    s.ok(&["message", "send", &chat, "two"]);
    s.home.shared.faults.expire_every.store(1, Ordering::SeqCst);
    let before = s.home.shared.requests.load(Ordering::SeqCst);
    let (code, _, err) = s.run(&["message", "send", &chat, "three"]);
    assert_eq!(code, 7, "{err}");
    assert!(err.starts_with("error: the grant's time is over"), "{err}");
    assert_eq!(s.home.shared.requests.load(Ordering::SeqCst), before + 2);
}
