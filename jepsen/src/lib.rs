//! Chaos and consistency harness over real Quorate processes.
//!
//! ```text
//!  workload ──▶ clients ──▶ history ──▶ checkers ──▶ verdict ──▶ exit code
//!  nemesis  ──▶ cluster ───────┘
//! ```
//!
//! Here now: [`history`] and [`verdict`]. Workloads, nemeses, clusters and
//! checkers come with the harness itself; see `README.md`.
//!
//! The conventions are Jepsen's (jepsen.io), so that its checkers can read our
//! histories and people who know it need not learn ours.
#![forbid(unsafe_code)]

pub mod history;
pub mod verdict;
