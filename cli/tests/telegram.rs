//! Import and export through the real binary against a home in memory.

#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "tests fail by panicking, and say what they skip"
)]

mod support;

use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::Ordering;
use support::{FakeHome, data};

struct Bench {
    home: FakeHome,
    dir: tempfile::TempDir,
}

impl Bench {
    fn new() -> Self {
        let (home, dir) = (FakeHome::start(), tempfile::tempdir().unwrap());
        home.deployment(dir.path(), &[]);
        Self { home, dir }
    }
    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }
    fn file(&self, name: &str, text: impl AsRef<[u8]>) -> PathBuf {
        std::fs::write(self.path(name), text).unwrap();
        self.path(name)
    }
    fn command(&self, args: &[&str]) -> Command {
        let mut c = Command::new(env!("CARGO_BIN_EXE_quorate"));
        c.args(args)
            .env("QUORATE_DEPLOYMENT", self.dir.path())
            .env("QUORATE_WALLET", support::wallet_in(self.dir.path()));
        c
    }
    fn run(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }
    /// Imports and gives the summary and the exit code.
    fn import(&self, file: &Path, more: &[&str]) -> (Value, i32) {
        let out = self.run(
            &[
                &["--json", "import", "telegram", file.to_str().unwrap()],
                more,
            ]
            .concat(),
        );
        let code = out.status.code().unwrap();
        // A failure is told on standard error, behind no events.
        let text = if matches!(code, 0 | 6) {
            &out.stdout
        } else {
            &out.stderr
        };
        let last = String::from_utf8_lossy(text)
            .trim_end()
            .lines()
            .last()
            .unwrap_or_default()
            .to_owned();
        let last = serde_json::from_str(&last).unwrap_or_else(|e| panic!("{e}: {last} {out:?}"));
        (last, code)
    }
    fn export(&self, chat: &str, name: &str, more: &[&str]) -> Vec<u8> {
        let file = self.path(name);
        let out = self.run(
            &[
                &["export", "telegram", chat, "--out", file.to_str().unwrap()],
                more,
            ]
            .concat(),
        );
        assert!(
            out.status.success() || !more.is_empty(),
            "{}",
            String::from_utf8_lossy(&out.stderr)
        );
        std::fs::read(file).unwrap()
    }
    /// import → export → import → export; the first export.
    fn around(&self, file: &Path) -> Vec<u8> {
        let (first, code) = self.import(file, &[]);
        assert_eq!(code, 0, "{first}");
        let out = self.export(first["archive"].as_str().unwrap(), "one.json", &[]);
        // A byte more, so that it is another file even where the export is the file itself.
        let copy = self.file("one-again.json", [&out[..], b" "].concat());
        let (second, code) = self.import(&copy, &[]);
        assert_eq!(code, 0, "{second}");
        assert_ne!(first["archive"], second["archive"]);
        let again = self.export(second["archive"].as_str().unwrap(), "two.json", &[]);
        assert!(again == out, "the second export differs from the first");
        out
    }
}

fn value(bytes: &[u8]) -> Value {
    serde_json::from_slice(bytes).unwrap()
}

#[test]
fn fixtures_and_small_json_come_back_equal() {
    for path in [
        "fixtures/service-actions.result.json",
        "fixtures/json_export/result.json",
        "fixtures/voice_export/result.json",
        "ubuntu-irc/small.json",
    ] {
        let Some(file) = data::shared(path) else {
            continue;
        };
        let b = Bench::new();
        let out = b.around(&file);
        let original = std::fs::read(&file).unwrap();
        assert!(
            value(&out) == value(&original),
            "{path} is not equal as JSON"
        );
        if path.contains("small") {
            assert!(
                out.trim_ascii() == original.trim_ascii(),
                "{path} is equal as JSON but not as text"
            );
        }
    }
}

/// JSON text without white space, so that digits and repeated keys are compared too.
fn squeeze(text: &str) -> String {
    let mut out = String::new();
    let (mut string, mut escaped) = (false, false);
    for c in text.chars() {
        if string || !c.is_whitespace() {
            out.push(c);
        }
        (string, escaped) = match c {
            '"' if !escaped => (!string, false),
            '\\' => (string, string && !escaped),
            _ => (string, false),
        };
    }
    out
}

#[test]
fn everything_odd_comes_back() {
    let b = Bench::new();
    let file = b.file("odd.json", format!("\u{feff}{}", data::ODD));
    let out = String::from_utf8(b.around(&file)).unwrap();
    let expected = data::ODD
        .replace("\\x07", "\\u0007")
        .replace("\\x01", "\\u0001")
        .replace("-0,", "-0.0,")
        .replace("50.4500", "50.45")
        // The values of a repeated key come back side by side.
        .replace("\"user_id\": 1, \"bio\": \"b\",", "\"user_id\": 1,")
        .replace("\"user_id\": 2}", "\"user_id\": 2, \"bio\": \"b\"}");
    assert_eq!(squeeze(&out), squeeze(&expected));
    let (summary, _) = b.import(&file, &["--copy", "1"]);
    assert_eq!(summary["notes"]["control_bytes"], 2, "{summary}");
    assert_eq!(summary["notes"]["long_numbers"], 4);
    assert_eq!(summary["notes"]["duplicate_keys"], 2);
    assert_eq!(
        (&summary["chats"], &summary["messages"]),
        (&4.into(), &9.into())
    );
}

#[test]
fn long_messages_and_a_long_root_travel_in_pieces() {
    let b = Bench::new();
    let contacts: Vec<_> = (0..20_000)
        .map(|i| format!("{{\"user_id\":{i},\"first_name\":\"é\\n{i}\"}}"))
        .collect();
    let text = format!(
        "{{\"contacts\":{{\"list\":[{}]}},\"chats\":{{\"list\":[{{\"id\":1,\"bio\":\"{}\",\"messages\":[{{\"id\":1,\"text\":\"{}\"}},{{\"id\":2}},[\"{}\"]],\"z\":1}}]}}}}",
        contacts.join(","),
        "b".repeat(2 << 20),
        "\\\"é".repeat(1 << 20),
        "x".repeat(1 << 20)
    );
    let file = b.file("long.json", &text);
    let out = b.around(&file);
    assert!(value(&out) == value(text.as_bytes()));
}

#[test]
fn unreadable_messages_are_named_kept_and_counted() {
    let b = Bench::new();
    let file = b.file("bad.json", r#"{"name":"n","messages":[{"id":1},{"id":2,"text":"\q"},{"id":3,"text":"\ud800"},{"id":4}]}"#);
    let out = b.run(&["import", "telegram", file.to_str().unwrap()]);
    assert_eq!(out.status.code(), Some(6));
    let text = String::from_utf8(out.stdout).unwrap();
    assert!(text.contains("imported 4 messages of 1 chats"), "{text}");
    assert!(text.contains("could not read 2 parts of the file:\n  messages[1] at byte 33: an escape that JSON does not have"), "{text}");
    assert!(
        text.contains("messages[2] at byte 54: half of a surrogate pair"),
        "{text}"
    );
    let archive = text
        .split("archive ")
        .nth(1)
        .unwrap()
        .split_whitespace()
        .next()
        .unwrap();
    let exported = value(&b.export(archive, "out.json", &[]));
    assert_eq!(exported["messages"].as_array().unwrap().len(), 4);
    let kept = &exported["messages"][1]["quorate:unreadable"];
    assert_eq!(kept["base64"], "eyJpZCI6MiwidGV4dCI6IlxxIn0=");
    // And what stands in for it comes around like any message.
    let around = b.around(&b.path("out.json"));
    assert_eq!(value(&around), exported);
}

#[test]
fn lost_answers_double_nothing() {
    let b = Bench::new();
    b.home
        .shared
        .faults
        .lose_answer_every
        .store(3, Ordering::SeqCst);
    b.home.shared.faults.page_max.store(100, Ordering::SeqCst);
    let text = data::synthetic(3, 3000);
    let file = b.file("s.json", &text);
    let (summary, code) = b.import(&file, &[]);
    assert_eq!(code, 0, "{summary}");
    assert_eq!(summary["warnings"], Value::Array(vec![]));
    // 3 profiles and the archive's; 3 chat records and the end; the messages.
    assert_eq!(b.home.stored(), 3 + 1 + 3 + 1 + 3000);
    let out = b.export(summary["archive"].as_str().unwrap(), "out.json", &[]);
    assert!(out == text.as_bytes());
}

#[test]
fn an_interrupted_import_goes_on_where_it_stopped() {
    for lose_journal in [false, true] {
        let b = Bench::new();
        let text = data::synthetic(3, 6000);
        let file = b.file("s.json", &text);
        b.home.shared.faults.refuse_after.store(9, Ordering::SeqCst);
        let (failure, code) = b.import(&file, &[]);
        assert_eq!(code, 3, "{failure}");
        assert!(
            failure["error"]["next_step"]
                .as_str()
                .unwrap()
                .contains("run the same command again"),
            "{failure}"
        );
        b.home.shared.faults.refuse_after.store(0, Ordering::SeqCst);
        let stored = b.home.stored();
        assert!(stored > 1000 && stored < 6000, "{stored}");
        // One person, one directory of journals.
        let people = std::fs::read_dir(b.path("client/imports")).unwrap();
        let imports = people.last().unwrap().unwrap().path();
        let journal = std::fs::read_dir(&imports)
            .unwrap()
            .flatten()
            .find(|e| e.path().extension().unwrap() == "json")
            .unwrap()
            .path();
        let archive = value(&std::fs::read(&journal).unwrap())["archive"]["chat"]
            .as_str()
            .unwrap()
            .to_owned();
        let out = b.run(&[
            "export",
            "telegram",
            &archive,
            "--out",
            b.path("no.json").to_str().unwrap(),
        ]);
        assert_eq!(out.status.code(), Some(5));
        assert!(!b.path("no.json").exists());
        if lose_journal {
            std::fs::remove_file(journal).unwrap();
        }
        let before = b.home.shared.appends.load(Ordering::SeqCst);
        let (summary, code) = b.import(&file, &[]);
        assert_eq!(code, 0, "{summary}");
        assert_eq!(b.home.stored(), 3 + 1 + 3 + 1 + 6000);
        let sent = b.home.shared.appends.load(Ordering::SeqCst) - before;
        assert!(lose_journal || sent < 22, "{sent} appends on resuming");
        assert!(summary["already"].as_u64().unwrap() > 1000, "{summary}");
        assert_eq!(summary["archive"], archive);
        assert!(b.export(&archive, "out.json", &[]) == text.as_bytes());
        let (again, code) = b.import(&file, &[]);
        assert_eq!(
            (code, &again["error"]["code"]),
            (5, &"already_imported".into())
        );
        assert!(
            again["error"]["detail"]
                .as_str()
                .unwrap()
                .contains(&archive)
        );
    }
}

#[test]
fn a_killed_import_resumes_without_doubling() {
    let b = Bench::new();
    let text = data::synthetic(4, 20_000);
    let file = b.file("s.json", &text);
    let mut kills = 0;
    for after in [5, 25, 45] {
        let target = b.home.shared.appends.load(Ordering::SeqCst) + after;
        let mut child = b
            .command(&["import", "telegram", file.to_str().unwrap(), "--quiet"])
            .stdout(std::process::Stdio::null())
            .spawn()
            .unwrap();
        while child.try_wait().unwrap().is_none()
            && b.home.shared.appends.load(Ordering::SeqCst) < target
        {
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        kills += u32::from(child.try_wait().unwrap().is_none());
        let _ = child.kill();
        child.wait().unwrap();
    }
    assert!(kills > 0, "every import ended before it was killed");
    let (summary, code) = b.import(&file, &[]);
    assert_eq!(code, 0, "{summary}");
    assert_eq!(b.home.stored(), 4 + 1 + 4 + 1 + 20_000);
    assert!(b.export(summary["archive"].as_str().unwrap(), "out.json", &[]) == text.as_bytes());
}

#[test]
fn a_file_cut_short_is_imported_as_far_as_it_goes_and_continued_when_whole() {
    let b = Bench::new();
    let text = data::synthetic(3, 900).replace(
        "\n  ]\n }\n}\n",
        "\n  ],\n  \"after\": 1\n },\n \"last\": [1]\n}\n",
    );
    let cut = &text[..text.len() * 5 / 9];
    let file = b.file("cut.json", cut);
    let (summary, code) = b.import(&file, &[]);
    assert_eq!(code, 6, "{summary}");
    assert_eq!(summary["complete"], false);
    let path = summary["unread"][0]["path"].as_str().unwrap();
    assert!(path.starts_with("chats.list[1].messages["), "{path}");
    assert_eq!(
        summary["unread"][0]["offset"].as_u64().unwrap(),
        cut.len() as u64
    );
    let archive = summary["archive"].as_str().unwrap().to_owned();
    let partial = value(&b.export(&archive, "partial.json", &["--partial"]));
    let count = |v: &Value| {
        v["chats"]["list"]
            .as_array()
            .unwrap()
            .iter()
            .map(|c| c["messages"].as_array().map_or(0, Vec::len))
            .sum::<usize>()
    };
    assert_eq!(
        count(&partial) as u64,
        summary["messages"].as_u64().unwrap()
    );
    assert!(count(&partial) > 300);
    let whole = b.file("whole.json", &text);
    let (summary, code) = b.import(&whole, &[]);
    assert_eq!(code, 0, "{summary}");
    assert_eq!(summary["archive"], archive.as_str());
    assert!(value(&b.export(&archive, "out.json", &[])) == value(text.as_bytes()));
    assert_eq!(b.home.stored(), 3 + 1 + 3 + 1 + 900);
}

#[test]
fn files_that_are_no_export_are_refused_with_the_place() {
    let b = Bench::new();
    for (text, says) in [
        ("", "is not JSON: the file ends at byte 0"),
        (
            "hello",
            "at byte 0: expected '{' at the beginning, found 'h'",
        ),
        ("{\"a\": 1}", "not a Telegram export"),
        (
            "{\"about\" 1}",
            "at byte 9: expected ':' after a key, found '1'",
        ),
    ] {
        let file = b.file("no.json", text);
        let out = b.run(&["import", "telegram", file.to_str().unwrap()]);
        let error = String::from_utf8(out.stderr).unwrap();
        assert_eq!(out.status.code(), Some(2), "{error}");
        assert!(
            error.contains(says) && error.contains("\n  next: give the result.json"),
            "{error}"
        );
    }
    assert_eq!(b.home.rooms(), 0);
    let out = b.run(&["import", "telegram", "/dev/null"]);
    assert_eq!(out.status.code(), Some(2));
    let out = b.run(&["import", "telegram", "/does/not/exist"]);
    assert_eq!(out.status.code(), Some(1));
}

#[test]
fn several_chats_travel_at_once() {
    let b = Bench::new();
    let file = b.file("s.json", data::synthetic(6, 12_000));
    let (summary, code) = b.import(&file, &[]);
    assert_eq!(code, 0, "{summary}");
    assert!(b.home.shared.in_flight_max.load(Ordering::SeqCst) > 1);
}

/// 100,000 messages and 43 MB: the client stays under 200 MiB both ways.
#[test]
fn a_large_export_streams_in_little_memory() {
    const LIMIT_KIB: u64 = 200 << 10;
    let b = Bench::new();
    let text = data::synthetic(5, 100_000);
    assert!(text.len() > 40_000_000, "{}", text.len());
    let file = b.file("large.json", &text);
    let (out, peak) = watched(b.command(&[
        "--json",
        "import",
        "telegram",
        file.to_str().unwrap(),
        "--quiet",
    ]));
    let summary = value(&out.stdout);
    assert_eq!(out.status.code(), Some(0), "{summary}");
    assert_eq!(summary["messages"], 100_000);
    assert!(peak > 1024 && peak < LIMIT_KIB, "import: VmHWM {peak} KiB");
    let target = b.path("out.json");
    let archive = summary["archive"].as_str().unwrap();
    let (out, export_peak) = watched(b.command(&[
        "export",
        "telegram",
        archive,
        "--out",
        target.to_str().unwrap(),
        "--quiet",
    ]));
    assert_eq!(out.status.code(), Some(0));
    assert!(
        export_peak > 1024 && export_peak < LIMIT_KIB,
        "export: VmHWM {export_peak} KiB"
    );
    assert!(std::fs::read(target).unwrap() == text.as_bytes());
    eprintln!("peak memory: import {peak} KiB, export {export_peak} KiB");
}

/// Runs a command and reads its peak resident memory, in KiB, while it lives.
fn watched(mut command: Command) -> (Output, u64) {
    let child = command
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let status = format!("/proc/{}/status", child.id());
    let done = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let stop = done.clone();
    let watcher = std::thread::spawn(move || {
        let mut peak = 0;
        while !stop.load(Ordering::SeqCst) {
            let text = std::fs::read_to_string(&status).unwrap_or_default();
            let line = text.lines().find_map(|l| l.strip_prefix("VmHWM:"));
            let kib = line
                .and_then(|l| l.trim().strip_suffix(" kB"))
                .and_then(|n| n.trim().parse().ok());
            peak = peak.max(kib.unwrap_or(0));
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        peak
    });
    let out = child.wait_with_output().unwrap();
    done.store(true, Ordering::SeqCst);
    (out, watcher.join().unwrap())
}
