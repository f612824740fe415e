//! What the simulation saw happen. Invariants are judges of streams of facts,
//! and facts are taken from rows that reached replicated state and from
//! messages that left a machine, never from what the code under test says of itself.

use quorate_engine::custody::protocol::KeyRef;
use quorate_engine::types::{
    AccountId, ChatId, CustodianId, DeviceId, EpochNo, KeyId, MessageId, OfficerId, OrderId,
    PolicyId, RequestId, Revision, WallMs,
};
use std::collections::BTreeSet;

/// What statements are about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Subject {
    /// A device as one of an account.
    Device(AccountId, DeviceId),
    /// An account as a member of a chat.
    Member(ChatId, AccountId),
}

/// A grant, as whoever looks on reads it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // Fields are what their names say.
pub struct Shown {
    pub hash: [u8; 32],
    pub account: AccountId,
    pub device: DeviceId,
    /// That device signed it, for this home in this deployment.
    pub signed: bool,
    pub from_ms: WallMs,
    pub until_ms: WallMs,
    /// The epochs of the key's chat, if it names that.
    pub range: Option<(EpochNo, Option<EpochNo>)>,
    pub ceiling: u32,
}

/// A deletion statement, as whoever looks on reads it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // Fields are what their names say.
pub struct Mandated {
    pub hash: [u8; 32],
    pub account: AccountId,
    pub device: DeviceId,
    /// That device signed it, for this home in this deployment.
    pub signed: bool,
    pub at_ms: WallMs,
    pub chat: ChatId,
    pub epochs: BTreeSet<EpochNo>,
    /// It names others' messages.
    pub of_anyone: bool,
}

/// What a signed paper of officers says of an order, in a custodian's log.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // Fields are what their names say.
pub enum Said {
    /// Somebody asks for it.
    Asked {
        by: OfficerId,
        chats: BTreeSet<ChatId>,
        from_ms: WallMs,
        to_ms: WallMs,
        expires_ms: WallMs,
    },
    /// Somebody is for it.
    For(OfficerId),
    /// Somebody is against it.
    Against(OfficerId),
    /// Somebody takes it back.
    TakenBack(OfficerId),
}

/// One thing that happened. `cluster` numbers home shards first, then custodians.
#[derive(Clone, Debug)]
#[allow(missing_docs)] // Fields are what their names say.
pub enum Fact {
    /// A replica applied entry `index` and its whole state has this digest now.
    Applied {
        cluster: usize,
        replica: usize,
        index: usize,
        digest: [u8; 32],
    },
    /// A proposal of so many commands was applied; the log had `before` entries and has `after`.
    LogGrew {
        custodian: CustodianId,
        commands: u64,
        before: u64,
        after: u64,
    },
    /// The root a custodian states, and the one computed from its entries.
    Root {
        custodian: CustodianId,
        stated: [u8; 32],
        naive: [u8; 32],
    },
    /// A dealing stands committed at the home, with each leaf's commitment.
    Dealt {
        key: KeyRef,
        leaves: Vec<(CustodianId, [u8; 32])>,
    },
    /// A dealing is open: who acknowledged it, whether they satisfy, with which margin.
    Opened {
        key: KeyRef,
        acked: BTreeSet<CustodianId>,
        margin: Option<usize>,
        wanted: usize,
        required: bool,
        thin: bool,
    },
    /// A dealing is abandoned at the home.
    Abandoned { key_id: KeyId },
    /// A share left the home for a custodian.
    Sent { key: KeyRef },
    /// A custodian holds a share from now on.
    Held {
        custodian: CustodianId,
        key: KeyRef,
        commitment: [u8; 32],
        epoch: EpochNo,
        stored_ms: WallMs,
    },
    /// A custodian's tombstone stands from now on, by log entry `entry`.
    Stone {
        custodian: CustodianId,
        key_id: KeyId,
        entry: u64,
    },
    /// A custodian's tombstone is gone.
    StoneGone {
        custodian: CustodianId,
        key_id: KeyId,
    },
    /// A share left a custodian, by the release at `entry`; whether its committed log has that.
    Left {
        custodian: CustodianId,
        key: KeyRef,
        entry: u64,
        recorded: bool,
    },
    /// The share that just left did so under this grant.
    Granted {
        custodian: CustodianId,
        key: KeyRef,
        epoch: EpochNo,
        entry: u64,
        time_ms: WallMs,
        request: RequestId,
        shown: Option<Shown>,
    },
    /// The share that just left did so under this order.
    Disclosed {
        custodian: CustodianId,
        key: KeyRef,
        epoch: EpochNo,
        entry: u64,
        time_ms: WallMs,
        order: OrderId,
    },
    /// The share that just left did so under this deletion statement, sealed to this lease key.
    Rewritten {
        custodian: CustodianId,
        key: KeyRef,
        epoch: EpochNo,
        entry: u64,
        time_ms: WallMs,
        lease_key: [u8; 32],
        mandated: Option<Mandated>,
    },
    /// Who a custodian's officers are, by the paper that the first of them signed.
    Officers {
        custodian: CustodianId,
        officers: BTreeSet<OfficerId>,
    },
    /// What the paper in entry `entry` of a custodian's log says of an order; its signer's
    /// signature holds. Whether it counts, its reader decides.
    Ordered {
        custodian: CustodianId,
        entry: u64,
        time_ms: WallMs,
        order: OrderId,
        said: Said,
    },
    /// By the statement in entry `entry` of a custodian's log, a device is good until this time
    /// or a member may read from this epoch on; `None`: no longer.
    Stands {
        custodian: CustodianId,
        entry: u64,
        subject: Subject,
        value: Option<u64>,
    },
    /// A custodian that was set back has so many log entries now.
    Cut {
        custodian: CustodianId,
        entries: u64,
    },
    /// Someone was told that a statement which shuts out a device, or an account from a
    /// chat, is done. `would`: the smallest sets of custodians that satisfy the policy.
    Barred {
        chat: Option<ChatId>,
        account: AccountId,
        device: Option<DeviceId>,
        would: Vec<BTreeSet<CustodianId>>,
    },
    /// Someone signs that an account comes into a chat.
    Welcomed { chat: ChatId, account: AccountId },
    /// A custodian's operators were told that their shred or freeze at log entry `entry` is
    /// done: of this key, of all keys of this chat, or (both `None`) of all.
    Confirmed {
        custodian: CustodianId,
        chat: Option<ChatId>,
        key_id: Option<KeyId>,
        entry: u64,
    },
    /// A custodian does not tell the truth, from the start.
    Liar { custodian: CustodianId },
    /// A whole custodian was set back to an older state of its disks.
    RolledBack { custodian: CustodianId },
    /// A client means to write this under this idempotency key.
    Meant {
        chat: ChatId,
        idempotency: String,
        content: Vec<u8>,
    },
    /// The home remembers this result for the idempotency key.
    Remembered {
        chat: ChatId,
        idempotency: String,
        id: MessageId,
        revision: Revision,
    },
    /// A record's row was written.
    Record {
        chat: ChatId,
        id: MessageId,
        revision: Revision,
    },
    /// A record's row was removed.
    RecordGone { chat: ChatId, id: MessageId },
    /// A client was told that its write is done.
    Acknowledged {
        chat: ChatId,
        idempotency: String,
        id: MessageId,
        revision: Revision,
    },
    /// A reader was given this.
    Read {
        chat: ChatId,
        key_id: KeyId,
        id: MessageId,
        revision: Revision,
        content: Vec<u8>,
    },
    /// A data key was used from a lease of this age; `usable`: the custodians
    /// heard lately and unfrozen, by what this leader was told, satisfy its policy.
    Leased {
        key_id: KeyId,
        age_ms: u64,
        usable: bool,
    },
    /// A collection ended: who was caught with a false share, who gave one in time.
    Collected {
        blamed: BTreeSet<CustodianId>,
        lied: BTreeSet<CustodianId>,
    },
    /// Secret bytes were found where only sealed ones may be.
    Secret { cluster: usize, what: String },
    /// At the end: what ought to have come to rest has not.
    Unfinished { what: String },
    /// What the scheduler did; for the log's reader, no invariant looks at it.
    Did {
        what: String,
        policy: Option<PolicyId>,
    },
}
