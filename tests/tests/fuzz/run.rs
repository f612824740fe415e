//! Runs one target over its iterations and tells how to reproduce a failure.

use super::meter;
use super::mutate::{Dice, Kind, mutate};
use std::fmt::Write as _;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// The run that is made when none is chosen.
const SEED_DEFAULT: u64 = 0x5175_6f72_6174_6500;
/// Bytes of a failing input that are printed.
const SHOWN_BYTES_MAX: usize = 8192;

/// What is fuzzed.
pub(crate) struct Target {
    /// Valid inputs to start from.
    pub(crate) corpus: Vec<Vec<u8>>,
    /// How they are mutated.
    pub(crate) kind: Kind,
    /// Iterations by default, sized so that all targets together take some 20 s of a test build.
    pub(crate) iterations: u64,
    /// Most bytes one input may make the target hold at once.
    pub(crate) allocation_bytes_max: usize,
    /// Takes one input; says whether it was accepted; panics when a promise is broken.
    pub(crate) check: Box<dyn Fn(&[u8]) -> bool>,
}

/// One failure, in words.
pub(crate) type Failure = String;

pub(crate) fn env(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(
        text.parse()
            .unwrap_or_else(|_| panic!("{name}={text} is not a number")),
    )
}

pub(crate) fn seed() -> u64 {
    env("QUORATE_FUZZ_SEED").unwrap_or(SEED_DEFAULT)
}

/// How often a check that makes its own inputs should run, and from where.
pub(crate) fn iterations(default: u64) -> std::ops::Range<u64> {
    let from = env("QUORATE_FUZZ_FROM").unwrap_or(0);
    from..from + env("QUORATE_FUZZ_ITERATIONS").unwrap_or(default)
}

/// Fuzzes `target`; panics with the way to reproduce.
pub(crate) fn fuzz(name: &'static str, target: &Target) {
    for (i, input) in target.corpus.iter().enumerate() {
        assert!(
            (target.check)(input),
            "{name}: corpus input {i} is refused as it is"
        );
    }
    let range = iterations(target.iterations);
    let (mut accepted, mut refused) = (0u64, 0u64);
    for i in range.clone() {
        match once(name, target, seed(), i) {
            Ok(true) => accepted += 1,
            Ok(false) => refused += 1,
            Err(failure) => panic!("{failure}"),
        }
    }
    // Neither side may be empty over a real run: it would test half of the reader.
    if range.end - range.start >= 200 {
        assert!(
            accepted > 0 && refused > 0,
            "{name}: {accepted} accepted, {refused} refused"
        );
    }
}

/// One iteration.
pub(crate) fn once(
    name: &'static str,
    target: &Target,
    seed: u64,
    i: u64,
) -> Result<bool, Failure> {
    let mut dice = Dice::new(seed, name, i);
    let input = mutate(&mut dice, &target.corpus, target.kind);
    let (outcome, peak) = meter::peak_of(name, i, || {
        catch_unwind(AssertUnwindSafe(|| (target.check)(&input)))
    });
    match outcome {
        Err(panic) => {
            let why = panic
                .downcast_ref::<String>()
                .cloned()
                .or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string))
                .unwrap_or_default();
            Err(report(name, seed, i, &input, &format!("panicked: {why}")))
        }
        Ok(_) if peak > target.allocation_bytes_max => {
            let why = format!(
                "held {peak} bytes at once, {} allowed",
                target.allocation_bytes_max
            );
            Err(report(name, seed, i, &input, &why))
        }
        Ok(accepted) => Ok(accepted),
    }
}

fn report(name: &str, seed: u64, i: u64, input: &[u8], why: &str) -> Failure {
    let mut out = format!("fuzz: {name}: {why}\n");
    let _ = writeln!(
        out,
        "reproduce: QUORATE_FUZZ_SEED={seed} QUORATE_FUZZ_FROM={i} QUORATE_FUZZ_ITERATIONS=1 \
         cargo test -p quorate-tests --test fuzz {name}"
    );
    let shown = &input[..input.len().min(SHOWN_BYTES_MAX)];
    let _ = writeln!(out, "input, {} bytes: {}", input.len(), hex::encode(shown));
    if let Ok(text) = std::str::from_utf8(shown) {
        let _ = writeln!(out, "as text: {text}");
    }
    out
}
