//! What the documents say of the code is so.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("the workspace")
}

fn sources(dir: &Path, out: &mut Vec<PathBuf>) {
    let Ok(entries) = std::fs::read_dir(dir) else {
        return;
    };
    for entry in entries {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            sources(&path, out);
        } else if path.extension().is_some_and(|e| e == "rs") {
            out.push(path);
        }
    }
}

/// Names of all functions in the sources; a target of the fuzzer counts too.
fn functions() -> BTreeSet<String> {
    let mut files = vec![];
    for part in ["engine", "node", "cli", "jepsen", "tests"] {
        for folder in ["src", "tests"] {
            sources(&root().join(part).join(folder), &mut files);
        }
    }
    let word = |s: &str| {
        s.chars()
            .take_while(|c| c.is_ascii_alphanumeric() || *c == '_')
            .collect::<String>()
    };
    let mut out = BTreeSet::new();
    for file in files {
        let text = std::fs::read_to_string(&file).expect("readable");
        out.extend(text.split("fn ").skip(1).map(word));
    }
    out
}

/// Backticked words of the attack table's last column.
fn named_tests(page: &str) -> Vec<String> {
    let rows = page
        .lines()
        .skip_while(|l| !l.starts_with("## As an attacker"))
        .filter(|l| l.starts_with('|'));
    let last = rows.filter_map(|l| l.trim_end_matches('|').rsplit('|').next());
    last.flat_map(|cell| {
        cell.split('`')
            .skip(1)
            .step_by(2)
            .map(str::to_owned)
            .collect::<Vec<_>>()
    })
    .collect()
}

#[test]
fn the_threat_model_names_tests_and_files_that_exist() {
    let page =
        std::fs::read_to_string(root().join("docs/threat-model.md")).expect("the page is there");
    let named = named_tests(&page);
    assert!(named.len() > 30, "found only {} names", named.len());
    let functions = functions();
    let missing: Vec<_> = named
        .iter()
        .filter(|n| {
            if n.contains('/') {
                !root().join(n).exists()
            } else {
                !functions.contains(*n)
            }
        })
        .collect();
    assert!(missing.is_empty(), "{missing:?}");
}

/// The page must not fall behind the code: as long as status says it, so does the page.
#[test]
fn the_threat_model_says_who_authorises_releases() {
    let page =
        std::fs::read_to_string(root().join("docs/threat-model.md")).expect("the page is there");
    let says = quorate_engine::authz::RELEASE_AUTHORITY;
    assert!(
        page.contains(says),
        "docs/threat-model.md must quote what status says: {says:?}"
    );
}
