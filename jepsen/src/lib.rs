//! Chaos and consistency harness over real Quorate processes.
//!
//! ```text
//!  workload ──▶ clients ──▶ history ──▶ checkers ──▶ verdict ──▶ exit code
//!  nemesis  ──▶ cluster ───────┘
//! ```
//!
//! A run lives in namespaces of its own ([`machine::inside`]): every node has
//! a network interface at a switch in user space ([`net`]) and a disk in a file
//! ([`machine::image`]). [`run`] puts the parts together; [`store`] is what is
//! left of a run.
//!
//! The conventions are Jepsen's (jepsen.io), so that its checkers can read our
//! histories and people who know it need not learn ours.

pub mod analyze;
pub mod attacker;
pub mod checker;
pub mod cli;
pub mod client;
pub mod cluster;
pub mod doctor;
pub mod history;
pub mod machine;
pub mod nemesis;
pub mod net;
pub mod report;
pub mod run;
pub mod store;
mod sys;
pub mod verdict;
pub mod workload;
