//! What the simulation saw happen. Invariants are judges of streams of facts,
//! and facts are taken from rows that reached replicated state and from
//! messages that left a machine, never from what the code under test says of itself.

use quorate_engine::custody::protocol::KeyRef;
use quorate_engine::types::{ChatId, CustodianId, KeyId, MessageId, PolicyId, Revision};
use std::collections::BTreeSet;

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
