//! Consensus: openraft over our own log store, state machine and network.
//!
//! Every group of every cluster uses one type configuration: a command and a
//! reply are opaque bytes that only the engine's [`Machine`] understands.
//!
//! [`Machine`]: quorate_engine::types::kv::Machine

pub mod cluster;
#[cfg(test)]
mod cluster_tests;
pub mod group;
pub mod known;
pub mod log_store;
pub mod membership;
pub mod network;
pub mod recover;
pub mod snapshot;
pub mod state_machine;
#[cfg(test)]
mod state_tests;
#[cfg(test)]
mod suite_tests;
mod transfer;

pub use self::cluster::{Cluster, ClusterError, ClusterOptions, ClusterStatus};
pub use self::group::{Group, GroupStatus, Leadership, ProposeError, ReadError};
pub use self::log_store::LogStore;
pub use self::membership::MembershipError;
pub use self::state_machine::{StateMachine, StateReader};

use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// A raft group on a node: shard number at a home, 0 at a custodian.
pub type GroupId = u32;

/// A committed command: engine bytes, opaque to consensus. Prints its length only.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Command(#[serde(with = "serde_bytes")] pub Vec<u8>);

/// What a command's `apply` answered: engine bytes. Empty for entries that are not commands.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reply(#[serde(with = "serde_bytes")] pub Vec<u8>);

macro_rules! opaque {
    ($name:ident) => {
        impl std::fmt::Debug for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                write!(f, concat!(stringify!($name), "({} bytes)"), self.0.len())
            }
        }
        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                std::fmt::Debug::fmt(self, f)
            }
        }
    };
}
opaque!(Command);
opaque!(Reply);

openraft::declare_raft_types!(
    /// One configuration for every group of every cluster.
    pub TypeConfig:
        D = Command,
        R = Reply,
);

/// A snapshot is a checksummed file; openraft hands the handle around, the
/// network streams the file in resumable chunks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotFile {
    /// Its own id: group, last applied log id and a random suffix. Names the transfer that may be resumed.
    pub id: String,
    /// Where it lies on this node.
    pub path: PathBuf,
    /// Its length in bytes.
    pub len: u64,
}

/// A leader's id in log positions and votes: term and node.
pub type LeaderId = openraft::impls::leader_id_adv::LeaderId<u64, u64>;
/// A log position.
pub type LogId = openraft::LogId<LeaderId>;
/// A vote.
pub type Vote = <TypeConfig as openraft::RaftTypeConfig>::Vote;
/// A log entry.
pub type Entry = <TypeConfig as openraft::RaftTypeConfig>::Entry;
/// A log entry's payload.
pub type Payload = <TypeConfig as openraft::RaftTypeConfig>::Payload;
/// Members, with the position that made them so.
pub type StoredMembership = openraft::StoredMembership<LeaderId, u64, openraft::BasicNode>;
/// What a snapshot stands for.
pub type SnapshotMeta = openraft::SnapshotMeta<LeaderId, u64, openraft::BasicNode>;
/// A snapshot and what it stands for.
pub type Snapshot = openraft::Snapshot<LeaderId, u64, openraft::BasicNode, SnapshotFile>;
