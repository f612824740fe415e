//! Commands that the pages name exist.

#![allow(clippy::unwrap_used)]

use clap::CommandFactory;
use quorate_cli::commands::Cli;
use std::path::Path;

/// What stands between backticks or on a line of its own, and begins with a call of `quorate`.
fn calls(page: &str) -> Vec<String> {
    let spans = page.split('`').skip(1).step_by(2);
    let text = spans.chain(page.lines());
    text.filter_map(|t| {
        let t = t.trim().trim_start_matches("$ ");
        let rest = t
            .strip_prefix("quorate ")
            .or_else(|| t.strip_prefix("cargo run --release -- "))?;
        rest.starts_with(|c: char| c.is_ascii_lowercase())
            .then(|| rest.to_owned())
    })
    .collect()
}

/// Follows the words of a call down the tree; `a|b` names both.
fn known(call: &str) -> Result<(), String> {
    let mut at = Cli::command();
    let mut positionals = 0;
    for word in call.split_whitespace() {
        if !at.has_subcommands() || word.starts_with('-') {
            return Ok(());
        }
        if positionals > 0 {
            positionals -= 1;
            continue;
        }
        let mut next = None;
        for name in word.split('|') {
            let found = at.find_subcommand(name).cloned();
            next = Some(found.ok_or_else(|| format!("{call}: no command {name}"))?);
        }
        at = next.expect("split gives one part at least");
        positionals = at.get_positionals().count();
    }
    Ok(())
}

#[test]
fn commands_that_the_pages_name_exist() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let mut pages = vec![root.join("README.md")];
    for entry in std::fs::read_dir(root.join("docs")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|e| e == "md") {
            pages.push(path);
        }
    }
    let readme = std::fs::read_to_string(&pages[0]).unwrap();
    let (mut tried, mut missing) = (0, Vec::new());
    for page in pages {
        let name = page.file_name().unwrap().to_str().unwrap();
        // What files hold, byte by byte, begins with the project's name as well.
        if name != "format.md" {
            for call in calls(&std::fs::read_to_string(&page).unwrap()) {
                tried += 1;
                missing.extend(known(&call).err());
            }
        }
        // And the readme leads to every page.
        assert!(
            name == "README.md" || readme.contains(&format!("(docs/{name})")),
            "README.md does not name docs/{name}"
        );
    }
    assert!(tried > 15, "found only {tried} calls");
    assert!(missing.is_empty(), "{missing:?}");
}

#[test]
fn a_command_that_is_not_there_is_found_out() {
    assert!(known("policy lint FILE").is_ok());
    assert!(known("custodian status|freeze|thaw").is_ok());
    assert!(known("policy polish FILE").is_err());
    assert!(known("custodian status|melt").is_err());
    assert!(known("frobnicate").is_err());
    assert!(known("officer propose ch thaw").is_ok());
    assert!(known("officer propose ch melt").is_err());
    assert_eq!(calls("see `quorate demo`, or `quorate-node`"), ["demo"]);
}
