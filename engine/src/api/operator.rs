//! The operator plane's JSON. Only an operator certificate of the very cluster
//! gets this far; what the officers' quorum will have to sign later stands as
//! `reason` in the custodian's log for now.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Most keys one shred may name.
pub const SHRED_KEYS_MAX: usize = 256;
/// Longest reason, in characters.
pub const REASON_CHARS_MAX: usize = 500;
/// Largest body on the operator plane, in bytes.
pub const OPERATOR_BODY_BYTES_MAX: usize = 256 << 10;

/// `GET /v1/status` on the operator plane: this node, in its cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct OperatorStatus {
    /// Deployment id.
    pub deployment: String,
    /// `home` or `custodian`.
    pub role: String,
    /// The cluster's name.
    pub cluster: String,
    /// This node's id.
    pub node: u64,
    /// This build's version.
    pub version: String,
    /// Whether this node's keys are loaded; false means it is locked.
    pub unlocked: bool,
    /// Its raft groups.
    pub groups: Vec<GroupStatus>,
    /// Freezes in force; always empty at a home.
    pub freezes: Vec<FreezeStatus>,
    /// Key versions and how far a rotation has come; a custodian's only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub versions: Option<VersionsStatus>,
    /// When this node's peer certificate expires, Unix milliseconds.
    pub certificate_expires_ms: Option<u64>,
    /// Things to act on.
    pub warnings: Vec<String>,
}

/// A custodian's key versions.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct VersionsStatus {
    /// The wrapping version in use: what shares lie under.
    pub wrapping: Option<u32>,
    /// Wrapping versions whose keys this node has.
    pub wrapping_here: Vec<u32>,
    /// The sealing version in use: what homes seal shares to.
    pub sealing: Option<u32>,
    /// When it expires, Unix milliseconds.
    pub sealing_expires_ms: Option<u64>,
    /// Sealing versions whose keys this node has.
    pub sealing_here: Vec<u32>,
    /// Shares held.
    pub shares: u64,
    /// Those of them that are still to be wrapped anew, under the wrapping version in use.
    pub shares_left: u64,
    /// Voters that have not attested the wrapping version in use; until then no former one is dropped.
    pub lacking: Vec<u64>,
}

/// One raft group as this node sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct GroupStatus {
    /// Its number.
    pub group: u32,
    /// Its leader, when one is known.
    pub leader: Option<u64>,
    /// Raft term.
    pub term: u64,
    /// Last entry in this node's log.
    pub last: u64,
    /// Last entry this node has applied.
    pub applied: u64,
    /// Nodes that vote.
    pub voters: Vec<u64>,
    /// Nodes that only learn.
    pub learners: Vec<u64>,
}

/// A freeze in force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FreezeStatus {
    /// `all`, or a chat id.
    pub scope: String,
    /// Log position it began at.
    pub position: u64,
    /// Why, as it was given.
    pub reason: String,
}

/// `POST /v1/freeze` and `POST /v1/thaw`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct FreezeRequest {
    /// `all`, or a chat id.
    pub scope: String,
    /// Why; stands in the log. 1 to 500 characters.
    pub reason: String,
}

/// `POST /v1/shred`: destroy these shares, for ever.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ShredRequest {
    /// 1 to 256 dealings.
    pub keys: Vec<ShredKey>,
    /// Why; stands in the log. 1 to 500 characters.
    pub reason: String,
}

/// One dealing of one chat.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ShredKey {
    /// Hex chat id.
    pub chat: String,
    /// Hex key id.
    pub key_id: String,
}

/// What an operator's change led to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct OperatorDone {
    /// What is so now, in words.
    pub detail: String,
    /// Index of the custodian's log entry that records it, where there is one.
    pub entry: Option<u64>,
    /// Raft index it was committed at, where there is one.
    pub index: Option<u64>,
}

/// `POST /v1/cluster/add-node`: learner first, voter once it has caught up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AddNode {
    /// A node id never used before in this cluster.
    pub node: u64,
    /// `host:port` of its peer plane.
    pub address: String,
}

/// `POST /v1/cluster/remove-node`: its id is never used again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RemoveNode {
    /// The node to remove.
    pub node: u64,
}

/// `POST /v1/cluster/transfer-leader`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TransferLeader {
    /// The raft group.
    pub group: u32,
    /// The voter that shall lead it.
    pub to: u64,
}

/// `GET /v1/cluster`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ClusterView {
    /// The cluster's name.
    pub cluster: String,
    /// Its members.
    pub members: Vec<Member>,
    /// Its raft groups, as the node that answers sees them.
    pub groups: Vec<GroupStatus>,
}

/// One member.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Member {
    /// Node id.
    pub node: u64,
    /// `host:port` of its peer plane.
    pub address: String,
    /// Votes in every group.
    pub voter: bool,
}
