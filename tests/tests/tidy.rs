//! Tidiness as a test: what reviewers would otherwise say again and again.
//! Each rule has a planted slip that it must find.

use quorate_tests::source::{Token, files, module_of, read, root, test_modules, tokens};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// Longest source file, in lines. Around 400 is the habit; this is the end.
const FILE_LINES_MAX: usize = 700;

/// Files over the limit, each with its reason. A line that is no longer needed fails, too.
const OVER: &[(&str, &str)] = &[];

/// Crates with sources, and directories in them that hold Rust.
const CRATES: &[&str] = &["engine", "node", "cli", "jepsen", "tests"];

struct Source {
    path: PathBuf,
    text: String,
    /// Compiled for tests only.
    test: bool,
}

fn sources() -> Vec<Source> {
    let mut out = Vec::new();
    for name in CRATES {
        let src = PathBuf::from(name).join("src");
        let read_all = files(name, &["rs"]).into_iter().map(|p| (read(&p), p));
        let all: Vec<(String, PathBuf)> = read_all.collect();
        let below = |path: &Path| path.strip_prefix(&src).ok().map(module_of);
        let tests: BTreeSet<Vec<String>> = all
            .iter()
            .filter_map(|(text, path)| Some(test_modules(&below(path)?, text)))
            .flatten()
            .collect();
        for (text, path) in all {
            // Outside `src` are integration tests, benchmarks, examples and fuzz targets.
            let stem = path.file_stem().map_or("".into(), |s| s.to_string_lossy());
            let test = *name == "tests"
                // Declared with `#[path]`, so the name has to tell.
                || stem == "tests" || stem.ends_with("_tests")
                || below(&path).is_none_or(|m| (1..=m.len()).any(|n| tests.contains(&m[..n])));
            out.push(Source { path, text, test });
        }
    }
    assert!(
        out.len() > 50,
        "found only {} sources: the rules would check nothing",
        out.len()
    );
    out
}

/// Stubs, leftovers and panics without a reason: where and what.
fn slips(text: &str, test_file: bool) -> Vec<(usize, &'static str)> {
    let tokens = tokens(text);
    let is = |at: usize, words: &[&str]| {
        words
            .iter()
            .enumerate()
            .all(|(i, word)| tokens.get(at + i).is_some_and(|t| t.text == *word))
    };
    let mut out = Vec::new();
    for (i, Token { line, test, .. }) in tokens.iter().enumerate() {
        let found = [
            (is(i, &["todo", "!"]), "todo!"),
            (is(i, &["unimplemented", "!"]), "unimplemented!"),
            (is(i, &["dbg", "!"]), "dbg!"),
            (is(i, &["#", "[", "ignore"]), "an ignored test"),
            (
                !test && !test_file && is(i, &[".", "unwrap", "(", ")"]),
                "unwrap() outside tests",
            ),
        ];
        out.extend(
            found
                .iter()
                .filter(|(hit, _)| *hit)
                .map(|(_, what)| (*line, *what)),
        );
    }
    out
}

fn none(bad: Vec<String>) {
    assert!(bad.is_empty(), "\n{}", bad.join("\n"));
}

#[test]
fn files_are_short() {
    let over = |path: &Path| OVER.iter().any(|(p, _)| Path::new(p) == path);
    let mut bad = Vec::new();
    for source in sources() {
        let lines = source.text.lines().count();
        if (lines > FILE_LINES_MAX) != over(&source.path) {
            let path = source.path.display();
            bad.push(format!(
                "{path}: {lines} lines, the limit is {FILE_LINES_MAX} (see OVER)"
            ));
        }
    }
    none(bad);
}

#[test]
fn no_stubs_leftovers_or_bare_unwraps() {
    let mut bad = Vec::new();
    for source in sources() {
        for (line, what) in slips(&source.text, source.test) {
            bad.push(format!("{}:{line}: {what}", source.path.display()));
        }
    }
    none(bad);
}

#[test]
fn planted_slips_are_found() {
    let slip = |text: &str| slips(text, false).len();
    for bad in [
        "todo!()",
        "unimplemented!(\"x\")",
        "dbg!(x)",
        "#[ignore] fn f() {}",
        "#[ignore = \"slow\"]",
        "x.unwrap()",
        "x\n.unwrap ()",
    ] {
        assert_eq!(slip(bad), 1, "{bad}");
    }
    for good in [
        "// todo!()",
        "\"x.unwrap()\"",
        "x.unwrap_or(1)",
        "#[cfg(test)] mod t { fn f() { x.unwrap() } }",
        "x.expect(\"why\")",
    ] {
        assert_eq!(slip(good), 0, "{good}");
    }
    assert_eq!(slips("x.unwrap()", true).len(), 0);
    assert_eq!(slips("#[cfg(test)] mod t { todo!() }", true).len(), 1);
}

#[test]
fn every_file_says_what_it_is() {
    let bad = |text: &str| {
        !text
            .trim_start_matches("#!/usr/bin/env rust-script\n")
            .starts_with("//! ")
    };
    assert!(bad("use x;") && bad("// x") && bad("") && !bad("//! X."));
    // A file of one line has nothing to explain.
    let silent = sources()
        .into_iter()
        .filter(|s| s.text.lines().count() > 1 && bad(&s.text));
    none(
        silent
            .map(|s| format!("{}: begins without //!", s.path.display()))
            .collect(),
    );
}

#[test]
fn the_engine_has_no_order_that_differs_between_runs() {
    let random = |text: &str| {
        let found = tokens(text).into_iter();
        found
            .filter(|t| {
                matches!(
                    t.text.as_str(),
                    "HashMap" | "HashSet" | "RandomState" | "DefaultHasher"
                )
            })
            .count()
    };
    assert_eq!(
        random("use std::collections::{BTreeMap, HashMap}; // HashSet"),
        1
    );
    let engine = sources()
        .into_iter()
        .filter(|s| s.path.starts_with("engine/src"));
    none(
        engine
            .filter(|s| random(&s.text) > 0)
            .map(|s| s.path.display().to_string())
            .collect(),
    );
}

/// Paths and words of one workplace. In pieces, so that this file does not say them.
fn workplace() -> [String; 3] {
    [["/wo", "rk/"], ["/ro", "ot/.cargo"], ["bash_", "jobs"]].map(|p| p.concat())
}

#[test]
fn nothing_of_one_workplace_is_in_the_project() {
    let words = workplace();
    let hit = |text: &str| words.iter().find(|w| text.contains(w.as_str())).cloned();
    assert!(hit(&format!("see {}x", words[0])).is_some() && hit("a network/link").is_none());
    let all = files(
        ".",
        &[
            "rs", "md", "toml", "sh", "json", "txt", "service", "yml", "",
        ],
    )
    .into_iter()
    .chain(files(".ci", &[]));
    none(
        all.filter_map(|p| hit(&read(&p)).map(|w| format!("{}: says {w}", p.display())))
            .collect(),
    );
}

/// Links of a Markdown text that lead into the project: target and heading.
fn links(text: &str) -> Vec<(String, Option<String>)> {
    let mut out = Vec::new();
    let mut fenced = false;
    for line in text.lines() {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
        }
        if fenced {
            continue;
        }
        for rest in line.split("](").skip(1) {
            let target = rest.split(')').next().unwrap_or("");
            if target.contains("://") || target.starts_with("mailto:") {
                continue;
            }
            let (file, heading) = match target.split_once('#') {
                Some((file, heading)) => (file, Some(heading.to_owned())),
                None => (target, None),
            };
            out.push((file.to_owned(), heading));
        }
    }
    out
}

/// A heading as a link names it.
fn slug(heading: &str) -> String {
    let kept = heading.trim().to_lowercase();
    let kept = kept
        .chars()
        .filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
    kept.map(|c| if c == ' ' { '-' } else { c }).collect()
}

fn has_heading(text: &str, wanted: &str) -> bool {
    let headings = text.lines().filter(|l| l.starts_with('#'));
    headings
        .map(|l| slug(l.trim_start_matches('#')))
        .any(|s| s == wanted)
}

fn broken(path: &Path, text: &str) -> Vec<String> {
    let mut bad = Vec::new();
    for (file, heading) in links(text) {
        let target = if file.is_empty() {
            path.to_path_buf()
        } else {
            path.parent().unwrap_or(Path::new("")).join(&file)
        };
        let there = root().join(&target).exists();
        let found = there
            && heading
                .as_ref()
                .is_none_or(|h| has_heading(&read(&target), h));
        if !found {
            bad.push(format!(
                "{}: link to {file}#{}",
                path.display(),
                heading.unwrap_or_default()
            ));
        }
    }
    bad
}

#[test]
fn links_in_documents_resolve() {
    let planted = "[a](no-such.md) [b](#nowhere) [c](https://x.y) [d](#one-two)\n# One: two\n```\n[e](gone)\n```";
    assert_eq!(
        broken(Path::new("tests/tests/tidy.rs.md"), planted).len(),
        3,
        "d has no file to look in"
    );
    assert!(has_heading("## One: two", "one-two"));
    let all = files(".", &["md"]);
    assert!(all.len() >= 5, "{all:?}");
    none(all.iter().flat_map(|p| broken(p, &read(p))).collect());
}

#[test]
fn the_documents_a_newcomer_looks_for_are_there() {
    for file in [
        "README.md",
        "ARCHITECTURE.md",
        "CHANGELOG.md",
        "LICENSE-MIT",
        "LICENSE-APACHE",
        "docs/dependencies.md",
        "docs/operations.md",
        "docs/deploy/README.md",
        ".ci/run",
    ] {
        assert!(root().join(file).exists(), "{file} is missing");
    }
    let changelog = read(Path::new("CHANGELOG.md"));
    assert!(
        changelog.contains("## [Unreleased]"),
        "CHANGELOG.md has no Unreleased section"
    );
    let readme = read(Path::new("README.md"));
    for command in ["cargo run --release -- demo", "cargo test --workspace"] {
        assert!(
            readme.contains(command),
            "README.md does not say {command:?}"
        );
    }
}

#[test]
fn every_setting_is_read_by_somebody() {
    let text = read(Path::new("node/src/config/mod.rs"));
    let settings: Vec<&str> = text
        .lines()
        .filter_map(|l| l.strip_prefix("    pub ")?.split_once(": "))
        .map(|(name, _)| name)
        .filter(|name| !name.contains(' '))
        .collect();
    assert!(settings.len() > 20, "{settings:?}");
    let all: Vec<String> = sources()
        .into_iter()
        .filter(|s| !s.test && !s.path.ends_with("config/check.rs"))
        .map(|s| s.text)
        .collect();
    let used = |name: &str| {
        let read = format!(".{name}");
        let ends = |rest: &str| !rest.starts_with(|c: char| c.is_alphanumeric() || c == '_');
        let finds = |t: &String| {
            t.match_indices(&read)
                .any(|(at, _)| ends(&t[at + read.len()..]))
        };
        all.iter().any(finds)
    };
    assert!(!used("no_such_setting"));
    none(
        settings
            .into_iter()
            .filter(|name| !used(name))
            .map(|name| format!("{name} is a setting that nothing reads"))
            .collect(),
    );
}

#[test]
fn every_dependency_has_its_reasons() {
    let manifest: toml::Table = read(Path::new("Cargo.toml")).parse().unwrap();
    let all = manifest["workspace"]["dependencies"].as_table().unwrap();
    let text = read(Path::new("docs/dependencies.md"));
    let named = |name: &str| text.contains(&format!("`{name}`"));
    assert!(!named("no-such-crate"));
    let others = all.keys().filter(|name| !name.starts_with("quorate-"));
    none(
        others
            .filter(|name| !named(name))
            .map(|name| format!("{name} is not in docs/dependencies.md"))
            .collect(),
    );
}
