//! A custodian: what it stores, when it releases, what it refuses for ever.
//!
//! ```text
//!  StoreRequest ─▶ leader::prepare_store ─┐ opens, checks, wraps, forgets
//!  ReleaseRequest ▶ leader::prepare_release ┤
//!                                          ▼
//!                      Proposal (clock, blinds, commands) ── raft ──▶ Custody::apply
//!                                                                        │ one log entry a command
//!  ReleaseReply ◀─ leader::finish_release ◀── Committed<ReleaseGranted> ◀┘ keys granted, wrapped
//! ```
//!
//! Whatever depends on state is decided in `apply`, in log order: freezes,
//! tombstones, which chat a key belongs to, devices, members, grants, budgets, time. Whatever needs a
//! secret happens on the leader before (`prepare_*`) or after (`finish_release`)
//! and never enters the raft log. [`Committed`] is how "recorded first" (P4) is
//! kept by type: a share can be unwrapped only out of the reply to a committed
//! entry. [`Departures`] says when a shred or a freeze may be confirmed: when
//! nothing released before it can leave any more.
//!
//! Deliberately not here: sockets, caches, the vault file, retries, batching
//! policy (`node::custodian`), and who may ask at all (`authz`).

mod apply;
mod budget;
mod command;
mod departure;
pub mod keys;
mod leader;
pub mod protocol;
mod reply;
mod rows;
mod standings;
mod statement;
mod view;
mod view_chains;

pub use apply::Custody;
pub use budget::{
    ABANDON_BUDGET, ACCOUNT_BUDGET, Budget, HOME_NODE_BUDGET, ORDER_BUDGET, OVERALL_BUDGET,
    SHRED_BUDGET,
};
pub use command::{
    Abandon, ApprovePolicy, AttestKey, COMMANDS_PER_PROPOSAL_MAX, Chained, Command, DropVersion,
    EraseOpenings, ExpireShares, Freeze, KeyEvent, KeyEventKind, KeyKind, MandateRelease,
    OPERATOR_NAME_BYTES_MAX, Officers, Operator, OrderRelease, Proposal, REASON_BYTES_MAX,
    RegisterAuthority, RegisterHome, Release, Rewrap, RewrapItem, Shred, Stamped, StoreItem,
    StoreShares, Thaw, UseVersion, VOTERS_MAX, Voters, Wrapped,
};
pub use departure::{DEPARTURE_MS_MAX, Departure, Departures, Restricted, SETTLED_MS};
pub use leader::{
    LeaseSender, Place, PreparedStore, RequestError, StoreDecision, WrappingKeys, check_store,
    finish_release, open_session, prepare_abandon, prepare_mandate_release, prepare_order_release,
    prepare_release, prepare_store, wrap_anew, wrapping_fingerprint,
};
pub use reply::{
    Applied, ApplyReply, Committed, Effect, Granted, ReleaseGranted, ReplyError, ShredOutcome,
    committed,
};
pub use rows::{
    AccountRow, ChatRow, ForkRow, FreezeRow, LinkRow, PolicyRow, ShareRow, TABLES, Tombstone,
    TombstoneCause, VersionRow, VersionState,
};
pub use standings::{Rows, Standings};
pub use statement::{SEALING_LIFE_MS_MAX, StatementError};
pub use view::{
    ChatEpochs, EPOCHS_LISTED_MAX, Held, Overview, SharePage, approved_policies, approved_policy,
    auditor, auditors, due, feed, freezes, key_version, order, order_scope, orders, overview,
    proposal, proposals_open, roster, sealing_statement, share, under_other_versions,
    version_in_use, versions, voters,
};
pub use view_chains::{
    ChainHead, STATEMENTS_BYTES_MAX, account, authorities, chain_head, changed_since, chat, device,
    forks, homes, member, statements,
};

/// Least time between two handovers of keys to one restarted node, in milliseconds of entry time.
pub const HANDOVER_MS_MIN: u64 = 15 * 60 * 1000;
/// Longest time between a store and an `Abandon` of it, in milliseconds of entry time.
pub const ABANDON_MS_MAX: u64 = 60 * 60 * 1000;
/// How long a request id stays bound to its request, in milliseconds of entry time.
pub const REQUEST_KEEP_MS: u64 = 7 * 24 * 60 * 60 * 1000;
/// Old request ids forgotten with each new one: more than one, so the table shrinks again.
pub const REQUESTS_PRUNED_MAX: usize = 2;
/// Spent grants forgotten with each new one, once they have expired.
pub const GRANTS_PRUNED_MAX: usize = 2;
/// Spent mandates forgotten with each new one, once they are over.
pub const MANDATES_PRUNED_MAX: usize = 2;
/// Most freezes in force at once; a feed must fit a peer message. Above it, freeze everything.
pub const FREEZES_MAX: usize = 65_536;
/// Most shares destroyed by one expiry sweep.
pub const EXPIRED_PER_SWEEP_MAX: usize = 256;

#[cfg(test)]
mod tests;
