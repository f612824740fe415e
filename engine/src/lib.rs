//! Decisions of the Quorate storage engine.
//!
//! Everything here is deterministic: no I/O, no clock, no ambient randomness.
//! Time and random bytes come in as arguments, effects go out as values, so a
//! seed reproduces a whole deployment (see the `tests` member).
//!
//! ```text
//!            write                                   read
//!   home::opening ── EpochIntent ──▶ home (apply)     quorum::Collector
//!        │ split (sharing, policy)                       │ asks a minimal set
//!        │ seal  (crypto)                                │
//!        ▼                                               ▼
//!   custody::store ── StoreShares ─▶ custody (apply) ◀── custody::release
//!                                       │ every command appends
//!                                       ▼
//!                                     audit (RFC 6962 log)
//! ```
//!
//! Deliberately not here: sockets, files, threads, consensus, clocks, HTTP.
//! `node` turns these decisions into I/O. Arrows between modules point down:
//! `custody`, `home`, `quorum` use `policy`, `sharing`, `crypto`, `audit`,
//! `authz`; those use `types`; `api` converts at the border and nothing below
//! imports it.
#![forbid(unsafe_code)]

pub mod api;
pub mod audit;
pub mod authz;
pub mod crypto;
pub mod custody;
pub mod home;
pub mod policy;
pub mod quorum;
pub mod sharing;
pub mod types;
