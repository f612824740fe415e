//! Secret sharing: a data key becomes shares along an access structure, and
//! enough shares become the data key again.
//!
//! ```text
//! DataKey ──split──▶ root polynomial ─x=1─▶ share of br
//!                         ├──────────x=2─▶ share of ch
//!                         └──────────x=3─▶ polynomial of bloc eu ─x=1─▶ de
//!                                                    └───────────x=2─▶ nl
//! ```
//!
//! - [`split`] and [`combine`] work on [`Structure`](crate::types::Structure)s
//!   and data keys; a stored share is the 32 y bytes alone, its x is its place.
//! - [`commitment`] and [`commitment_holds`] blame a wrong share on its
//!   custodian before combining: combining cannot tell.
//! - [`split_bytes`] and [`combine_bytes`] are one gate over bytes of any length,
//!   for input that is hostile: x = 0, duplicates, wrong lengths, too few.
//!
//! Why our own: the crates either index tables by secret bytes, accept x = 0 or
//! have no nesting (`docs/dependencies.md`). `shamir` and `vsss-rs` are
//! development dependencies that must agree with this module, share by share.
//!
//! Deliberately not here: which structures are acceptable (`policy`), robust
//! decoding of wrong shares (commitments do that), refresh and resharing (every
//! dealing is of a fresh polynomial; a key is dealt anew, never edited).

mod commitment;
mod flat;
mod gf256;
mod nested;

pub use commitment::{commitment, commitment_holds};
pub use flat::{
    FlatError, PointShare, SECRET_BYTES_MAX, SHARES_MAX, ThresholdError, ValidThreshold,
    combine_bytes, split_bytes,
};
pub use gf256::{invert, mul};
pub use nested::{GATES_DEPTH_MAX, SharingError, combine, split};
