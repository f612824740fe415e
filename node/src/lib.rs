//! Quorate servers: turns the engine's decisions into I/O.
//!
//! ```text
//!  client plane ─▶ http ─▶ home ─┐              ┌─▶ custodian ◀─ http ◀─ operator plane
//!                                ├─▶ raft ─▶ wal, store
//!  peer plane  ─▶ peer ──────────┘              └─▶ raft …
//! ```
//!
//! Deliberately not here: any decision about who may read what. That is the
//! engine's, so that it can be tested exhaustively without sockets or disks.

pub mod config;
pub mod custodian;
pub mod dump;
pub mod embedded;
#[cfg(feature = "failpoints")]
pub mod failpoints;
mod grants;
pub mod home;
pub mod http;
mod locked;
pub mod metrics;
pub mod mutants;
pub mod peer;
pub mod pki;
pub mod raft;
pub mod server;
pub mod storage;
pub mod store;
pub mod wal;

pub use locked::leave_no_core;
