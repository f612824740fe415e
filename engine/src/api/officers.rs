//! The operator plane's JSON about officers, what they decide, and disclosure orders.
//!
//! Signed statements go over it as they are. Whoever signs one reads the
//! statement itself and not what a node says beside it.

use super::registry::Statement;
use crate::authz::officers::{Floor, ProposalOutcome};
use crate::authz::orders::OrderStatus;
use serde::{Deserialize, Serialize};

/// Largest body of a handed-in statement, in bytes.
pub const STATEMENT_BODY_BYTES_MAX: usize = 40 << 10;

/// `GET /v1/officers`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OfficersView {
    /// Deployment id, hex.
    pub deployment: String,
    /// The custodian.
    pub custodian: String,
    /// Entries in its log that this answer includes.
    pub position: u64,
    /// Who they are; `None`: nobody yet, operators decide alone.
    pub roster: Option<RosterView>,
    /// What the custodian was built with, or what its officers raised it to.
    pub floor: Floor,
    /// How long an approved order waits at least, in milliseconds.
    pub cool_off_ms: u64,
    /// How long a recovery that begins now waits at least, in milliseconds.
    pub recovery_wait_ms: u64,
    /// Proposals that take decisions, the soonest to expire first.
    pub proposals: Vec<ProposalView>,
    /// Auditors who may read the log's entries and openings, each until its time is over.
    #[serde(default)]
    pub auditors: Vec<AuditorView>,
}

/// One auditor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditorView {
    /// Hex id: the hash of the key.
    pub id: String,
    /// For people.
    pub name: String,
    /// Ed25519 key, hex.
    pub public: String,
    /// Unix milliseconds.
    pub expires_ms: u64,
}

/// A custodian's officers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RosterView {
    /// How many must agree.
    pub quorum: usize,
    /// Who they are, by id.
    pub officers: Vec<OfficerView>,
}

/// One officer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OfficerView {
    /// Hex id: the hash of the key.
    pub id: String,
    /// For people.
    pub name: String,
    /// Ed25519 key, hex.
    pub public: String,
}

/// A proposal; also `GET /v1/officers/proposals/{id}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProposalView {
    /// Hex id: the hash of the statement's payload.
    pub id: String,
    /// As it was signed.
    pub statement: Statement,
    /// What became of it.
    pub outcome: ProposalOutcome,
    /// Not decided from then on, Unix milliseconds.
    pub expires_ms: u64,
    /// Officers for it, hex.
    pub approvals: Vec<String>,
    /// Officers against it, hex.
    pub rejections: Vec<String>,
}

/// `GET /v1/orders`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OrdersView {
    /// Entries in the custodian's log that this answer includes.
    pub position: u64,
    /// Every order submitted here, up to 1,024, by id.
    pub orders: Vec<OrderView>,
}

/// One order, as it stands at one custodian.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OrderView {
    /// Hex id: the hash of the statement's payload, the same everywhere.
    pub id: String,
    /// As it was signed.
    pub statement: Statement,
    /// Where it stands now.
    pub status: OrderStatus,
    /// Who submitted it, hex.
    pub submitter: String,
    /// When, Unix milliseconds.
    pub submitted_ms: u64,
    /// Nothing is released from then on.
    pub expires_ms: u64,
    /// Officers for it, hex, and when each said so.
    pub approvals: Vec<(String, u64)>,
    /// Officers against it, hex, and why.
    pub rejections: Vec<(String, String)>,
    /// Log entry of the first release.
    pub executed: Option<u64>,
}

/// `GET /v1/orders/{id}`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OrderDetail {
    /// Entries in the custodian's log that this answer includes.
    pub position: u64,
    /// The order.
    pub order: OrderView,
    /// Every chat and epoch that would open at this custodian.
    pub scope: Vec<ChatScope>,
}

/// What an order would open of one chat.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChatScope {
    /// The chat, hex.
    pub chat: String,
    /// Epochs that overlap the order's dates and whose share is still held, oldest first.
    pub epochs: Vec<EpochView>,
    /// Whether there are more than could be listed.
    pub more: bool,
}

/// One key epoch in an order's scope.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EpochView {
    /// Its number in the chat.
    pub epoch: u32,
    /// The dealing, hex.
    pub key: String,
    /// When it counts as begun, Unix milliseconds.
    pub from_ms: u64,
    /// When it counts as ended.
    pub to_ms: u64,
    /// Whether it is over; until then it is not released.
    pub closed: bool,
}

/// `POST /v1/officers/statements`: what officers signed, of any type.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HandIn {
    /// The statement; it decides on its own, whoever hands it in.
    pub statement: Statement,
}
