//! The home: chats and messages, sealed, with their keys at the custodians.
//!
//! ```text
//!  HomeApi ─▶ service ──(leader elsewhere)──▶ peer plane ─▶ service there
//!                │ local
//!                ├─ writer ─▶ opener ─▶ sessions, stores ─▶ custodians
//!                ├─ reader ─▶ leases ◀─ release ──────────▶ custodians
//!                └─ shard (raft group of engine::home)
//!  tasks: feeds, lease sweep, outbox delivery, intents left by other leaders
//! ```
//!
//! Deliberately not here: decisions. Who is asked, when an epoch is open, what
//! a repetition means and which lease must go is `quorate_engine::home` and `quorum`.

mod admission;
pub mod api;
mod cookies;
mod core;
pub mod custodians;
mod deletions;
mod directory;
mod disclose;
mod group;
mod journal;
mod leases;
mod local;
mod opener;
mod order_accounts;
mod reader;
mod release;
mod service;
mod sessions;
pub mod shard;
mod statements;
mod status;
mod stores;
mod tasks;
#[cfg(test)]
mod tests;
mod writer;

pub use self::core::HomeConfig;
pub use service::{Home, OPERATION_MS_MAX};
