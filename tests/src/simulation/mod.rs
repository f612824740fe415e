//! A whole deployment in one process, without a network, from one seed.
//!
//! ```text
//!  seed ─▶ run ─▶ World { shards, leaders, custodians, people, clients, queue }
//!                   │ rows written, messages sent, answers given
//!                   ▼
//!                 Fact ─▶ invariants (one judge each) ─▶ Outcome { hash, broken, tail }
//! ```
//!
//! The engine's own code decides: both state machines on replicas in memory,
//! openings, leases, feeds, collectors, sealing, sharing. What `node` adds
//! (sockets, disks, raft, tasks) is modelled: consensus is a committed log per
//! cluster whose proposals commit, commit unreported or vanish; leaders die
//! between any two steps and deposed ones go on until they notice; messages
//! are lost, repeated, late; wall clocks are an hour off; custodians stop, lie,
//! restart or are set back to older disks. People come into chats and go, their
//! devices are revoked; officers decide on orders, and alone thaw and shred; and whoever took
//! the home asks with grants, deletion statements and orders that do not hold.
//!
//! The form (weighted random actions, recorded events, named invariants after
//! each, then liveness) is learnt from Oxide's trust-quorum cluster test and
//! openraft's turmoil invariants. Not simulated: raft itself, disks, TLS, HTTP,
//! key rotation, expiry, closing of epochs by age or number, changes of policy,
//! forked chains, and whom the home itself turns away.

pub mod clients;
pub mod cluster;
pub mod collect;
pub mod custodian;
pub mod facts;
mod intruder;
pub mod invariants;
pub mod leader;
mod overlay;
pub mod papers;
pub mod people;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod planted;
pub mod record;
pub mod releases;
pub mod run;
pub mod watch;
pub mod world;

pub use run::{Outcome, run};

/// A bug planted in the simulation's own glue, which an invariant must catch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mutant {
    /// Shares leave before their intent is committed.
    SendsBeforeCommit,
    /// Openings count custodians that never answered.
    OpensTooEarly,
    /// Custodians answer a release before it is committed.
    ReleasesBeforeCommit,
    /// A new leader begins without the idempotency table.
    ForgetsIdempotency,
    /// Custodians confirm a shred or a freeze as soon as it is committed.
    ConfirmsAtCommit,
    /// Custodians send releases however late.
    ReleasesLate,
    /// A new custodian leader begins without tombstones.
    ForgetsTombstones,
    /// One replica passes an entry by.
    ReplicaDrifts,
    /// Leases outlive their age, freezes and silence.
    KeepsLeases,
    /// False shares count as refusals.
    HidesLiars,
    /// A data key is written to replicated state.
    StoresInTheClear,
    /// Clients are answered before their write is committed.
    AcknowledgesEarly,
    /// Custodians take everyone for a member.
    SkipsMembers,
    /// Custodians take a revoked device for a live one.
    SkipsDevices,
    /// Custodians take a grant for one of all epochs of its chats.
    SkipsEpochs,
    /// Custodians forget what was spent of a grant.
    SkipsCeilings,
    /// People call a removal done as soon as one custodian acknowledged it.
    DoneTooEarly,
    /// Custodians take an order for approved by all of their officers.
    SkipsApprovals,
    /// Custodians take an order's approvals for old ones.
    SkipsCoolOff,
    /// Custodians take an order for one of all times.
    SkipsDates,
    /// Custodians forget how often a deletion's mandate was used.
    SkipsMandates,
}

impl Mutant {
    /// All, with the invariant that is to catch each.
    pub const ALL: [(Mutant, &'static str); 21] = [
        (Mutant::SendsBeforeCommit, "IntentBeforeSend"),
        (Mutant::OpensTooEarly, "OpensWithEnough"),
        (Mutant::ReleasesBeforeCommit, "RecordedFirst"),
        (Mutant::ForgetsIdempotency, "AtMostOnce"),
        (Mutant::ConfirmsAtCommit, "ConfirmedIsFinal"),
        (Mutant::ReleasesLate, "ConfirmedIsFinal"),
        (Mutant::ForgetsTombstones, "TombstonesStand"),
        (Mutant::ReplicaDrifts, "ReplicasAgree"),
        (Mutant::KeepsLeases, "LeasesEnd"),
        (Mutant::HidesLiars, "LiarsAreBlamed"),
        (Mutant::StoresInTheClear, "OnlySealed"),
        (Mutant::AcknowledgesEarly, "NothingAcknowledgedIsLost"),
        (Mutant::SkipsMembers, "NothingWithoutGrant"),
        (Mutant::SkipsDevices, "NothingWithoutGrant"),
        (Mutant::SkipsEpochs, "NothingWithoutGrant"),
        (Mutant::SkipsCeilings, "NothingWithoutGrant"),
        (Mutant::DoneTooEarly, "RevokedReadsNothing"),
        (Mutant::SkipsApprovals, "NothingWithoutOrder"),
        (Mutant::SkipsCoolOff, "NothingWithoutOrder"),
        (Mutant::SkipsDates, "NothingWithoutOrder"),
        (Mutant::SkipsMandates, "NothingWithoutMandate"),
    ];
}
