//! Every domain-separation label of the workspace stands in
//! `engine/src/crypto/labels.rs`, and nobody makes one up elsewhere.

use quorate_engine::crypto::labels;
use std::path::{Path, PathBuf};

/// Sources that may spell a label out: the table itself, and the two modules
/// that the layering lets use `types` alone. Their text must be in the table.
const SPELLED_OUT: &[&str] = &[
    "engine/src/crypto/labels.rs",
    "engine/src/policy/canonical.rs",
    "engine/src/sharing/commitment.rs",
];

fn sources(dir: &Path, out: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).expect("a source folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            sources(&path, out);
        } else if path.extension().is_some_and(|e| e == "rs") {
            out.push(path);
        }
    }
}

/// String literals that look like a label: `quorate/…/N`, perhaps with a NUL behind.
fn labels_in(text: &str) -> Vec<String> {
    let literals = text.split('"').skip(1).step_by(2);
    let bare = literals.map(|l| l.trim_end_matches("\\0"));
    let is_label = |l: &&str| {
        l.strip_prefix("quorate/")
            .and_then(|l| l.rsplit_once('/'))
            .is_some_and(|(_, n)| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()))
    };
    bare.filter(is_label).map(str::to_owned).collect()
}

#[test]
fn labels_are_written_in_one_place() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("the workspace");
    let mut files = vec![];
    for part in ["engine/src", "node/src", "cli/src"] {
        sources(&root.join(part), &mut files);
    }
    let (mut seen, mut strays) = (0, vec![]);
    for file in files {
        let name = file
            .strip_prefix(root)
            .expect("below the root")
            .to_string_lossy()
            .into_owned();
        for label in labels_in(&std::fs::read_to_string(&file).expect("readable")) {
            seen += 1;
            let known = labels::ALL.iter().any(|(_, l)| *l == label);
            if !known || !SPELLED_OUT.contains(&name.as_str()) {
                strays.push(format!("{name}: {label}"));
            }
        }
    }
    assert!(
        seen >= labels::ALL.len(),
        "the search found only {seen} labels"
    );
    assert!(
        strays.is_empty(),
        "use a constant of engine/src/crypto/labels.rs, and add it there if it is new:\n{}",
        strays.join("\n")
    );
}

/// Part 1 of `docs/format.md`, where the labels and vectors of the cryptography stand.
fn format_page() -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("the workspace");
    let page = std::fs::read_to_string(root.join("docs/format.md")).expect("the page is there");
    let from = page.find("# Part 1").expect("part 1");
    let to = page[from + 1..]
        .find("\n# Part")
        .map_or(page.len(), |n| from + 1 + n);
    page[from..to].to_owned()
}

#[test]
fn the_format_page_names_every_label() {
    let page = format_page();
    let missing: Vec<_> = labels::ALL
        .iter()
        .filter(|(_, l)| !page.contains(&format!("`{l}`")))
        .collect();
    assert!(
        missing.is_empty(),
        "add to the table in docs/format.md: {missing:?}"
    );
}

/// A vector on the page that no test holds would go stale unnoticed.
#[test]
fn the_vectors_of_the_format_page_stand_in_the_tests() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("the workspace");
    let mut files = vec![];
    sources(&root.join("engine/src/crypto"), &mut files);
    sources(&root.join("engine/src/sharing"), &mut files);
    sources(&root.join("engine/src/custody/keys"), &mut files);
    let code: String = files
        .iter()
        .map(|f| std::fs::read_to_string(f).expect("readable"))
        .collect();
    let page = format_page();
    let hex = |w: &&str| {
        w.len() >= 32
            && w.bytes()
                .all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
    };
    let vectors: Vec<&str> = page
        .split(|c: char| !c.is_ascii_alphanumeric())
        .filter(hex)
        .collect();
    assert!(vectors.len() >= 15, "found only {}", vectors.len());
    let stale: Vec<_> = vectors.iter().filter(|v| !code.contains(**v)).collect();
    assert!(stale.is_empty(), "{stale:?}");
}

#[test]
fn the_search_knows_a_label() {
    assert_eq!(
        labels_in(r#"derive("quorate/x-y/2\0", "quorate/dev", "quorate/peer/")"#),
        ["quorate/x-y/2"]
    );
}
