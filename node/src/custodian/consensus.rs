//! What a custodian needs of consensus and of the other nodes: two narrow
//! traits, so that the whole service runs in tests without sockets or disks.

use crate::peer::{PeerClient, PeerTarget, services};
use crate::raft::group::{Group, ProposeError, ReadError};
use futures::future::BoxFuture;
use quorate_engine::types::NodeId;
use quorate_engine::types::kv::{KvError, KvRead, Position};
use std::collections::BTreeSet;
use std::time::Duration;

/// Who leads, as this node knows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lead {
    /// The leader, if one is known.
    pub leader: Option<NodeId>,
    /// Its term.
    pub term: u64,
    /// Whether it is this node.
    pub is_leader: bool,
}

/// Why a command brought no reply.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SubmitError {
    /// Not proposed: another node leads.
    #[error("this node does not lead")]
    NotLeader {
        /// The leader this node knows of.
        leader: Option<NodeId>,
    },
    /// Not proposed: too much is waiting, or the keys or the clock are not ready.
    #[error("busy: {0}")]
    Busy(String),
    /// Not proposed: over a limit.
    #[error("invalid: {0}")]
    Invalid(String),
    /// It may be committed, now or later.
    #[error("outcome unknown: {0}")]
    Unknown(String),
}

/// A custodian's one raft group.
pub trait Consensus: Send + Sync + 'static {
    /// This node's id.
    fn node(&self) -> NodeId;
    /// Who leads.
    fn lead(&self) -> Lead;
    /// Commits a command; its position and the machine's reply.
    fn propose(&self, command: Vec<u8>) -> BoxFuture<'_, Result<(Position, Vec<u8>), SubmitError>>;
    /// Waits until this node, as confirmed leader, has applied all that was committed before.
    fn read_index(&self) -> BoxFuture<'_, Result<u64, SubmitError>>;
    /// Reads this node's applied state.
    ///
    /// # Errors
    /// [`KvError`] when the store cannot be read.
    fn view(&self, read: &mut dyn FnMut(&dyn KvRead)) -> Result<(), KvError>;
    /// The voters of the newest membership.
    fn voters(&self) -> BTreeSet<NodeId>;
    /// Voters and learners.
    fn members(&self) -> BTreeSet<NodeId>;
    /// Where a member of the newest membership listens on the peer plane.
    fn address(&self, node: NodeId) -> Option<String>;
    /// Gives leadership to another voter, if one can take it.
    fn hand_over(&self) -> BoxFuture<'_, ()>;
    /// Gives leadership to this voter, if it can take it.
    fn hand_over_to(&self, node: NodeId) -> BoxFuture<'_, ()>;
    /// Whether this node may stand for election.
    fn may_lead(&self, may: bool);
}

/// Reads the applied state and returns what `read` made of it.
pub(super) fn view<T>(
    consensus: &dyn Consensus,
    read: impl FnOnce(&dyn KvRead) -> Result<T, KvError>,
) -> Result<T, KvError> {
    let mut read = Some(read);
    let mut out = None;
    consensus.view(&mut |kv| {
        if let Some(read) = read.take() {
            out = Some(read(kv));
        }
    })?;
    out.ok_or_else(|| KvError("the store gave no view".into()))?
}

/// The other nodes of this custodian, over its internal service.
pub trait Peers: Send + Sync + 'static {
    /// Asks `node`; the error is in words.
    fn call(&self, node: NodeId, body: Vec<u8>) -> BoxFuture<'_, Result<Vec<u8>, String>>;
}

/// A [`Group`] of this node's raft as a custodian's consensus.
pub struct GroupConsensus {
    group: Group,
    hand_over: Box<dyn Fn() -> BoxFuture<'static, ()> + Send + Sync>,
}

impl GroupConsensus {
    /// `hand_over` gives leadership of `group` to another voter, as far as it can.
    pub fn new(
        group: Group,
        hand_over: impl Fn() -> BoxFuture<'static, ()> + Send + Sync + 'static,
    ) -> Self {
        Self {
            group,
            hand_over: Box::new(hand_over),
        }
    }
}

impl From<ProposeError> for SubmitError {
    fn from(e: ProposeError) -> Self {
        match e {
            ProposeError::NotLeader { leader } => Self::NotLeader { leader },
            ProposeError::Busy => Self::Busy(e.to_string()),
            ProposeError::TooLarge(_) => Self::Invalid(e.to_string()),
            ProposeError::Unknown(_) | ProposeError::Stopped(_) => Self::Unknown(e.to_string()),
        }
    }
}

impl Consensus for GroupConsensus {
    fn node(&self) -> NodeId {
        self.group.node()
    }
    fn lead(&self) -> Lead {
        let l = *self.group.leadership().borrow();
        Lead {
            leader: l.leader,
            term: l.term,
            is_leader: l.is_leader,
        }
    }
    fn propose(&self, command: Vec<u8>) -> BoxFuture<'_, Result<(Position, Vec<u8>), SubmitError>> {
        Box::pin(async move { Ok(self.group.propose(command).await?) })
    }
    fn read_index(&self) -> BoxFuture<'_, Result<u64, SubmitError>> {
        Box::pin(async move {
            self.group.read_index().await.map_err(|e| match e {
                ReadError::NotLeader { leader } => SubmitError::NotLeader { leader },
                other => SubmitError::Busy(other.to_string()),
            })
        })
    }
    fn view(&self, read: &mut dyn FnMut(&dyn KvRead)) -> Result<(), KvError> {
        self.group.view(|kv| read(kv))
    }
    fn voters(&self) -> BTreeSet<NodeId> {
        self.group.status().voters.into_keys().collect()
    }
    fn members(&self) -> BTreeSet<NodeId> {
        let status = self.group.status();
        status
            .voters
            .into_keys()
            .chain(status.learners.into_keys())
            .collect()
    }
    fn address(&self, node: NodeId) -> Option<String> {
        let mut status = self.group.status();
        let voter = status.voters.remove(&node);
        let found = voter.or_else(|| status.learners.remove(&node));
        found.filter(|address| !address.is_empty())
    }
    fn hand_over(&self) -> BoxFuture<'_, ()> {
        (self.hand_over)()
    }
    fn hand_over_to(&self, node: NodeId) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            if let Err(e) = self.group.transfer_to(node).await {
                tracing::warn!(to = node, "leadership was not handed over: {e}");
            }
        })
    }
    fn may_lead(&self, may: bool) {
        self.group.may_lead(may);
    }
}

/// Longest wait for another node's answer.
const PEER_WAIT_MAX: Duration = Duration::from_secs(3);

/// The other nodes of this custodian over the peer plane.
pub struct ClusterPeers(pub PeerClient);

impl Peers for ClusterPeers {
    fn call(&self, node: NodeId, body: Vec<u8>) -> BoxFuture<'_, Result<Vec<u8>, String>> {
        Box::pin(async move {
            let own = self.0.own();
            let to = PeerTarget { node, ..own };
            let call = self
                .0
                .call(&to, services::CUSTODIAN_INTERNAL, body, PEER_WAIT_MAX);
            call.await.map_err(|e| e.to_string())
        })
    }
}
