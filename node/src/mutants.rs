//! Planted bugs, so that the chaos harness can be asked whether it would find them.
//!
//! Only with the feature `mutants`, which no shipped build has: without it
//! `mutant` is the constant `false`, and the bug is not in the program.
//! `QUORATE_MUTANT` names the one to be had.

/// Every planted bug.
pub const MUTANTS: &[&str] = &[
    "acknowledge-before-commit",
    "apply-skips",
    "flush-not-awaited",
    "page-cuts-last",
    "page-repeats",
    "page-reversed",
    "revision-ignored",
    "skip-fsync",
    "stale-read",
    "timeout-as-failure",
    "vote-not-kept",
    "write-dropped",
];

/// Whether this planted bug is to be had.
#[cfg(feature = "mutants")]
pub(crate) fn mutant(name: &str) -> bool {
    static CHOSEN: std::sync::OnceLock<Option<String>> = std::sync::OnceLock::new();
    debug_assert!(MUTANTS.contains(&name), "{name} is not in MUTANTS");
    let chosen = CHOSEN.get_or_init(|| std::env::var("QUORATE_MUTANT").ok());
    chosen.as_deref() == Some(name)
}

/// No shipped build has planted bugs.
#[cfg(not(feature = "mutants"))]
#[inline(always)]
pub(crate) const fn mutant(_: &str) -> bool {
    false
}

/// Once in so many times, where a bug is to show now and then.
#[cfg(feature = "mutants")]
pub(crate) fn now_and_then(one_in: u32) -> bool {
    rand::random_range(0..one_in) == 0
}

/// Never.
#[cfg(not(feature = "mutants"))]
#[inline(always)]
pub(crate) const fn now_and_then(_: u32) -> bool {
    false
}
