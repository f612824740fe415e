//! Sharing, judged from outside: by other crates, by statistics, by linear
//! algebra over every subset, and by hostile input.
#![allow(clippy::unwrap_used)] // Helpers of tests are tests.

mod agreement;
mod distribution;
mod hostile;
mod secrecy;
mod support;
