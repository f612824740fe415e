//! The home's decisions: what its shards hold, how an epoch is opened, how
//! long a data key may stay in memory.
//!
//! ```text
//!   opening ──Command──▶ machine::apply ──Reply──▶ opening ──Send──▶ custodians
//!      ▲  (sends exist only behind a committed intent)        │
//!      └──────────────── StoreOutcome ────────────────────────┘
//!   lease ◀── keys that were opened or recombined;  feed ──▶ drops them
//! ```
//!
//! - [`command`]: what is proposed to a shard's raft group, and what it answers.
//! - [`machine`]: the deterministic `apply` (with `members`, `epochs`, `messages`, `services`, `sweep`).
//! - [`rows`]: the byte layout of a shard's key space.
//! - [`read`]: reading that state.
//! - [`opening`]: one epoch's opening, run by the shard's leader.
//! - [`feed`]: what custodians said about freezes, and how long ago.
//! - [`lease`]: the lease table.
//!
//! Deliberately not here: consensus, sockets, clocks, memory locking; `node`
//! does those. Nothing secret is ever in a [`command::Command`].

pub mod command;
mod deletions;
mod epochs;
pub mod feed;
pub mod lease;
pub mod machine;
mod members;
mod messages;
pub mod opening;
pub mod read;
pub mod rows;
mod services;
mod sweep;

#[cfg(test)]
mod tests;

pub use command::{Command, Proposal, Reply};
pub use deletions::DELETIONS_MAX;
pub use machine::HomeMachine;

/// Records one epoch may seal before it closes; edits count too.
pub const EPOCH_RECORDS_MAX: u32 = 4096;
/// Longest an epoch stays open, in milliseconds: 7 days.
pub const EPOCH_AGE_MS_MAX: u64 = 7 * 24 * 3600 * 1000;
/// How long a first result is remembered for repetitions, in milliseconds of entry time: 7 days.
pub const IDEMPOTENCY_MS_MAX: u64 = 7 * 24 * 3600 * 1000;
/// How long receipts stay in the journal, in milliseconds: 90 days.
pub const RECEIPT_MS_MAX: u64 = 90 * 24 * 3600 * 1000;
/// Most records one `WriteMessages` may carry.
pub const WRITE_RECORDS_MAX: usize = 1024;
/// Longest sealed record, in bytes: 1 MiB of content, nonce, tag and the envelope around it.
pub const SEALED_BYTES_MAX: usize = (1 << 20) + 4096;
/// Longest idempotency key, in bytes: 64 characters and an internal prefix.
pub const IDEMPOTENCY_KEY_BYTES_MAX: usize = 64 * 4 + 16;
/// Longest device name, in bytes: an id in hex.
pub const DEVICE_BYTES_MAX: usize = 64;
/// Most bytes of statements read at once; at least one statement is.
pub const STATEMENTS_BYTES_MAX: usize = 1 << 20;
/// Most epochs one `EpochAcks`, most receipts one `Journal` may carry.
pub const BATCH_ITEMS_MAX: usize = 1024;
/// Most service keys ever enrolled at one home, ended ones among them.
pub const SERVICES_MAX: usize = 1024;
/// Largest canonical policy, in bytes.
pub const POLICY_BYTES_MAX: usize = 64 << 10;
/// How long the leader waits for the margin before it opens thin, in milliseconds.
pub const THIN_WAIT_MS: u64 = 3_000;
/// How long an opening is tried before it is abandoned, in milliseconds.
pub const OPENING_MS_MAX: u64 = 10_000;
/// First wait before a share is sent again within an opening, in milliseconds; doubled each time.
pub const RESEND_MS_MIN: u64 = 250;
/// How long one encapsulation is sealed under before the leader makes another, in milliseconds.
pub const SESSION_MS_MAX: u64 = 600_000;
/// How long a custodian's feed may be silent before its state counts as unknown, in milliseconds.
pub const FEED_GRACE_MS: u64 = 30_000;
/// Longest a lease may live, in milliseconds, unless configured shorter.
pub const LEASE_MS_MAX: u64 = 600_000;
