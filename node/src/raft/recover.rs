//! `cluster recover`: going on alone after a majority is lost for good.
//!
//! Offline and explicit. It writes a membership of this node alone over the end
//! of each group's log. What a majority acknowledged without this node is lost,
//! and other survivors of the old cluster must never come back: their ids are
//! refused, and `status` shows the recovery for ever.

use super::known::KnownNodes;
use super::{Entry, GroupId, LeaderId, LogId, Vote};
use crate::pki::files::{self, Access};
use crate::storage::{OpenGroup, Storage};
use openraft::storage::{RaftLogStorage, RaftLogStorageExt};
use openraft::{BasicNode, EntryPayload, Membership, RaftLogReader};
use quorate_engine::types::NodeId;
use quorate_engine::types::kv::Machine;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

const NOTE_FILE: &str = "recovered.json";

/// What a recovery did; kept in the data directory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recovered {
    /// When, seconds since the Unix epoch by this machine's clock.
    pub at_s: u64,
    /// The members given up.
    pub given_up: BTreeSet<NodeId>,
    /// Last log index each group went on from.
    pub groups: BTreeMap<GroupId, u64>,
}

/// Why a recovery was not done.
#[derive(Debug, thiserror::Error)]
pub enum RecoverError {
    /// A group's storage.
    #[error("group {group}: {reason}; nothing of this group was changed")]
    Group {
        /// The group.
        group: GroupId,
        /// Why.
        reason: String,
    },
    /// The node is in no membership: it has nothing to go on from.
    #[error("group {group}: node {node} is no voter of {members:?}; recover on a node that is")]
    NoVoter {
        /// The group.
        group: GroupId,
        /// This node.
        node: NodeId,
        /// The voters its log names.
        members: BTreeSet<NodeId>,
    },
    /// Notes could not be written.
    #[error("{path}: {reason}")]
    Note {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
}

/// The note of an earlier recovery in `data_dir`.
pub fn note(data_dir: &Path) -> Option<Recovered> {
    let bytes = files::read(&data_dir.join(NOTE_FILE)).ok()?;
    serde_json::from_slice(&bytes).ok()
}

/// Makes `node` the only member of every group in `data_dir`. The node must be stopped;
/// `storage` holds the directory's lock.
///
/// # Errors
/// [`RecoverError`]; repeating it is safe.
pub async fn recover(
    data_dir: &Path,
    storage: &Storage,
    groups: &[GroupId],
    machine: impl Fn(GroupId) -> Arc<dyn Machine>,
    node: NodeId,
    address: &str,
) -> Result<Recovered, RecoverError> {
    let mut done = Recovered {
        at_s: SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |d| d.as_secs()),
        given_up: note(data_dir).map(|n| n.given_up).unwrap_or_default(),
        groups: BTreeMap::new(),
    };
    for &group in groups {
        let bad = |reason: String| RecoverError::Group { group, reason };
        let open = storage
            .group(group, machine(group))
            .map_err(|e| bad(e.to_string()))?;
        let (last, voters) = alone(open, group, node, address).await?;
        done.groups.insert(group, last);
        done.given_up
            .extend(voters.into_iter().filter(|v| *v != node));
    }
    let known = KnownNodes::open(Some(data_dir)).map_err(|e| RecoverError::Note {
        path: e.path.clone(),
        reason: e.reason,
    })?;
    known.removed(&done.given_up);
    let path = data_dir.join(NOTE_FILE);
    let text = serde_json::to_vec_pretty(&done).expect("numbers only");
    files::replace(&path, &text, Access::Public).map_err(|e| RecoverError::Note {
        path,
        reason: e.to_string(),
    })?;
    tracing::error!(
        node,
        given_up = ?done.given_up,
        "RECOVERED without a majority: what the others acknowledged without this node is lost"
    );
    Ok(done)
}

async fn alone(
    mut open: OpenGroup,
    group: GroupId,
    node: NodeId,
    address: &str,
) -> Result<(u64, BTreeSet<NodeId>), RecoverError> {
    let bad = |reason: String| RecoverError::Group { group, reason };
    let io = |e: std::io::Error| bad(e.to_string());
    let state = open.log.get_log_state().await.map_err(io)?;
    let last: Option<LogId> = state.last_log_id;
    let vote: Option<Vote> = open.log.read_vote().await.map_err(io)?;
    let mut voters: BTreeSet<NodeId> = open.reader.members().membership().voter_ids().collect();
    // A membership in the log behind the applied state is newer.
    let from = open.reader.applied().map_or(0, |l| l.index + 1);
    if let Some(last) = last.filter(|l| l.index >= from) {
        let from = from.max(state.last_purged_log_id.map_or(0, |l| l.index + 1));
        for entry in open
            .log
            .try_get_log_entries(from..=last.index)
            .await
            .map_err(io)?
        {
            if let EntryPayload::Membership(m) = entry.payload {
                voters = m.voter_ids().collect();
            }
        }
    }
    if !voters.contains(&node) {
        return Err(RecoverError::NoVoter {
            group,
            node,
            members: voters,
        });
    }
    let term = 1 + vote
        .map_or(0, |v| v.leader_id.term)
        .max(last.map_or(0, |l| l.leader_id.term));
    let next = last.map_or(0, |l| l.index + 1);
    let leader_id = LeaderId {
        term,
        node_id: node,
    };
    open.log
        .save_vote(&Vote {
            leader_id,
            committed: true,
        })
        .await
        .map_err(io)?;
    let members = Membership::new(
        vec![BTreeSet::from([node])],
        BTreeMap::from([(node, BasicNode::new(address))]),
    )
    .map_err(|e| bad(e.to_string()))?;
    let entry = Entry {
        log_id: LogId {
            leader_id,
            index: next,
        },
        payload: EntryPayload::Membership(members),
    };
    open.log
        .blocking_append([entry])
        .await
        .map_err(|e| bad(e.to_string()))?;
    Ok((next, voters))
}
