//! Real chat data that is not part of the project.
//!
//! It lies in `shared/data` beside the checkout, or where `QUORATE_SHARED`
//! says. A stranger's clone has none: tests say that they skip. Under
//! `CI=true` it must be there.

use std::path::PathBuf;

/// A file of the shared data, or `None` after saying that `test` skips.
///
/// # Panics
/// Under `CI=true` when the file is missing: skipping is a failure there.
pub fn data(test: &str, file: &str) -> Option<PathBuf> {
    let shared = std::env::var_os("QUORATE_SHARED").map_or_else(
        || PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared")),
        PathBuf::from,
    );
    let path = shared.join("data").join(file);
    if path.exists() {
        return Some(path);
    }
    skip(test, &format!("{} is not here", path.display()));
    None
}

/// Says that a test skips, and why.
///
/// # Panics
/// Under `CI=true`: there everything a test probes for must be available.
#[allow(clippy::print_stderr)] // A skipped test has to say so where people look.
pub fn skip(test: &str, why: &str) {
    assert!(
        std::env::var("CI").as_deref() != Ok("true"),
        "{test} must not skip in CI: {why}"
    );
    eprintln!("SKIPPED {test}: {why}");
}
