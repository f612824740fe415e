//! Chaos and consistency harness over real Quorate processes.
//!
//! ```text
//!  workload ──▶ clients ──▶ history ──▶ checkers ──▶ verdict ──▶ exit code
//!  nemesis  ──▶ cluster ───────┘
//! ```
//!
//! [`history`] and [`verdict`] are what everything stands on; [`checker`] says
//! what a history must satisfy, [`analyze`] judges a finished run and
//! [`report`] shows it. [`attacker`] is what a thief could do with the disks.
//!
//! The conventions are Jepsen's (jepsen.io), so that its checkers can read our
//! histories and people who know it need not learn ours.
#![forbid(unsafe_code)]

pub mod analyze;
pub mod attacker;
pub mod checker;
pub mod history;
pub mod report;
pub mod verdict;
