//! A raft group as the rest of the node sees it: propose, read, watch.
//!
//! [`Group`] hides which state machine a group runs, so that services, the
//! network and the cluster runtime can hold all groups alike.

use super::{Command, GroupId, LogId, StateMachine, StateReader, TypeConfig};
use futures::StreamExt;
use openraft::async_runtime::watch::WatchReceiver;
use openraft::errors::{ClientWriteError, Fatal, LinearizableReadError, RaftError};
use openraft::type_config::alias::WatchReceiverOf;
use openraft::{Instant, Raft, RaftMetrics, ReadPolicy};
use quorate_engine::types::kv::{KvError, KvRead, Position};
use quorate_engine::types::{NodeId, Outcome};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Semaphore, mpsc, oneshot, watch};

/// Largest command, bytes: a raft message must fit a peer frame with room to spare.
pub const COMMAND_BYTES_MAX: usize = 8 << 20;
/// Proposals waiting in one group; more are refused as busy.
pub const PROPOSALS_MAX: usize = 8_192;
/// Longest wait for a proposal to commit and apply. Its outcome is unknown then.
pub const PROPOSE_WAIT_MAX: Duration = Duration::from_secs(15);
/// Longest wait for a linearizable read, election included.
pub const READ_WAIT_MAX: Duration = Duration::from_secs(5);
/// Reads waiting for one confirmation round.
pub const READS_MAX: usize = 16_384;

/// Why a proposal brought no reply.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    /// Not appended here; ask the leader, if one is known.
    #[error("not the leader{}", .leader.map(|l| format!(", node {l} is")).unwrap_or_default())]
    NotLeader {
        /// The leader this node knows of.
        leader: Option<NodeId>,
    },
    /// Not appended: too many proposals wait already.
    #[error("busy: {PROPOSALS_MAX} proposals wait already")]
    Busy,
    /// Not appended: over [`COMMAND_BYTES_MAX`].
    #[error("a command of {0} bytes, at most {COMMAND_BYTES_MAX}")]
    TooLarge(usize),
    /// It may be committed, now or later.
    #[error("outcome unknown: {0}")]
    Unknown(String),
    /// The group stopped on this node (storage failed, or shutdown). It may be committed.
    #[error("the group stopped: {0}")]
    Stopped(String),
}

impl ProposeError {
    /// What may be concluded about the command.
    pub fn outcome(&self) -> Outcome {
        match self {
            Self::NotLeader { .. } | Self::Busy | Self::TooLarge(_) => Outcome::NotDone,
            Self::Unknown(_) | Self::Stopped(_) => Outcome::Unknown,
        }
    }
}

/// Why a linearizable read is not possible here and now.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// Ask the leader, if one is known.
    #[error("not the leader{}", .leader.map(|l| format!(", node {l} is")).unwrap_or_default())]
    NotLeader {
        /// The leader this node knows of.
        leader: Option<NodeId>,
    },
    /// No majority confirmed the leadership in time, or too many reads wait.
    #[error("not confirmed: {0}")]
    Unavailable(String),
    /// The group stopped on this node.
    #[error("the group stopped: {0}")]
    Stopped(String),
}

/// Who leads a group, as this node knows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Leadership {
    /// The leader, if one is known.
    pub leader: Option<NodeId>,
    /// Its term.
    pub term: u64,
    /// Whether it is this node.
    pub is_leader: bool,
}

/// A group's figures, for status, metrics and health.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct GroupStatus {
    /// The group.
    pub group: GroupId,
    /// Its leader, as this node knows.
    pub leader: Option<NodeId>,
    /// Current term.
    pub term: u64,
    /// Last index in the log of this node.
    pub last_log: u64,
    /// Last index known committed.
    pub committed: u64,
    /// Last index applied on this node.
    pub last_applied: u64,
    /// Index covered by this node's newest snapshot.
    pub snapshot: u64,
    /// Voters of the newest membership, with their addresses.
    pub voters: BTreeMap<NodeId, String>,
    /// Learners of the newest membership, with their addresses.
    pub learners: BTreeMap<NodeId, String>,
    /// At the leader: entries each other node is behind. `None`: never heard from in this term.
    pub lag: BTreeMap<NodeId, Option<u64>>,
    /// At the leader: milliseconds since a majority last answered.
    pub quorum_ack_ms: Option<u64>,
    /// Why the group does not run here any more, if so.
    pub stopped: Option<String>,
}

pub(super) type Proposed = Result<(Position, Vec<u8>), ProposeError>;
pub(super) type Metrics = WatchReceiverOf<TypeConfig, RaftMetrics<TypeConfig>>;
/// openraft's handle of one group, with its errors in our words.
pub(super) struct Ops(pub(super) Raft<TypeConfig, StateMachine>);

fn stopped(f: Fatal<TypeConfig>) -> ProposeError {
    ProposeError::Stopped(f.to_string())
}

/// `ForwardToLeader` comes before an entry is appended; `LogEntryDiscarded` after, and another
/// leader may still commit it.
fn write_error(e: ClientWriteError<TypeConfig>) -> ProposeError {
    match e {
        ClientWriteError::ForwardToLeader(f) => ProposeError::NotLeader {
            leader: f.leader_id,
        },
        other => ProposeError::Unknown(other.to_string()),
    }
}

fn position(log_id: &LogId) -> Position {
    Position {
        term: log_id.committed_leader_id().term,
        index: log_id.index(),
    }
}

impl Ops {
    async fn write(&self, command: Command) -> Proposed {
        match self.0.client_write(command).await {
            Ok(r) => Ok((position(&r.log_id), r.data.0)),
            Err(RaftError::APIError(e)) => Err(write_error(e)),
            Err(RaftError::Fatal(f)) => Err(stopped(f)),
        }
    }

    async fn write_many(&self, commands: Vec<Command>) -> Vec<Proposed> {
        let asked = commands.len();
        let mut out = Vec::with_capacity(asked);
        match self.0.client_write_many(commands).await {
            Err(f) => out.push(Err(stopped(f))),
            Ok(mut replies) => {
                while let Some(reply) = replies.next().await {
                    out.push(match reply {
                        Ok(Ok(r)) => Ok((position(&r.log_id), r.response.0)),
                        Ok(Err(e)) => Err(write_error(e)),
                        Err(f) => Err(stopped(f)),
                    });
                }
            }
        }
        // A stream that ends early says nothing about the rest.
        while out.len() < asked {
            let why = "no answer for this command of the batch".into();
            out.push(Err(ProposeError::Unknown(why)));
        }
        out
    }

    async fn confirm_leader(&self) -> Result<u64, ReadError> {
        match self.0.ensure_linearizable(ReadPolicy::ReadIndex).await {
            Ok(at) => Ok(at.log_id().index()),
            Err(RaftError::APIError(LinearizableReadError::ForwardToLeader(f))) => {
                Err(ReadError::NotLeader {
                    leader: f.leader_id,
                })
            }
            Err(RaftError::APIError(e)) => Err(ReadError::Unavailable(e.to_string())),
            Err(RaftError::Fatal(f)) => Err(ReadError::Stopped(f.to_string())),
        }
    }
}

struct Inner {
    id: GroupId,
    node: NodeId,
    ops: Arc<Ops>,
    reader: StateReader,
    leadership: watch::Receiver<Leadership>,
    reads: mpsc::Sender<oneshot::Sender<Result<u64, ReadError>>>,
    proposals: Semaphore,
}

/// One raft group on this node. Cheap to clone.
#[derive(Clone)]
pub struct Group(Arc<Inner>);

impl std::fmt::Debug for Group {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Group({} on node {})", self.0.id, self.0.node)
    }
}

impl Group {
    pub(super) fn start(
        id: GroupId,
        node: NodeId,
        raft: Raft<TypeConfig, StateMachine>,
        reader: StateReader,
    ) -> Self {
        let ops = Arc::new(Ops(raft));
        let leadership = watch_leadership(node, ops.0.metrics());
        let (reads, queue) = mpsc::channel(READS_MAX);
        tokio::spawn(confirm_reads(ops.clone(), queue));
        Self(Arc::new(Inner {
            id,
            node,
            ops,
            reader,
            leadership,
            reads,
            proposals: Semaphore::new(PROPOSALS_MAX),
        }))
    }

    /// Its id.
    pub fn id(&self) -> GroupId {
        self.0.id
    }

    /// This node's id.
    pub fn node(&self) -> NodeId {
        self.0.node
    }

    pub(super) fn raft(&self) -> &Raft<TypeConfig, StateMachine> {
        &self.0.ops.0
    }

    /// Reads this node's applied state and what it stands for.
    pub fn reader(&self) -> &StateReader {
        &self.0.reader
    }

    /// Commits a command and returns where, with the state machine's reply.
    ///
    /// # Errors
    /// [`ProposeError`]; see [`ProposeError::outcome`]. At most [`PROPOSE_WAIT_MAX`].
    pub async fn propose(&self, command: Vec<u8>) -> Proposed {
        if command.len() > COMMAND_BYTES_MAX {
            return Err(ProposeError::TooLarge(command.len()));
        }
        let _permit = self
            .0
            .proposals
            .try_acquire()
            .map_err(|_| ProposeError::Busy)?;
        let write = self.0.ops.write(Command(command));
        tokio::time::timeout(PROPOSE_WAIT_MAX, write)
            .await
            .unwrap_or_else(|_| {
                Err(ProposeError::Unknown(format!(
                    "not applied within {PROPOSE_WAIT_MAX:?}"
                )))
            })
    }

    /// Commits several commands, in order, with one message to the raft task. One result each.
    pub async fn propose_many(&self, commands: Vec<Vec<u8>>) -> Vec<Proposed> {
        let asked = commands.len();
        let every = |e: ProposeError| (0..asked).map(|_| Err(e.clone())).collect();
        if let Some(large) = commands.iter().find(|c| c.len() > COMMAND_BYTES_MAX) {
            return every(ProposeError::TooLarge(large.len()));
        }
        let permits = u32::try_from(asked).unwrap_or(u32::MAX);
        let Ok(_permits) = self.0.proposals.try_acquire_many(permits) else {
            return every(ProposeError::Busy);
        };
        let write = self
            .0
            .ops
            .write_many(commands.into_iter().map(Command).collect());
        match tokio::time::timeout(PROPOSE_WAIT_MAX, write).await {
            Ok(results) => results,
            Err(_) => every(ProposeError::Unknown(format!(
                "not applied within {PROPOSE_WAIT_MAX:?}"
            ))),
        }
    }

    /// Waits until this node, as leader, was confirmed by a majority after this call began and has
    /// applied everything committed before; returns that index. Waiting readers share one round.
    ///
    /// # Errors
    /// [`ReadError`].
    pub async fn read_index(&self) -> Result<u64, ReadError> {
        let (tx, rx) = oneshot::channel();
        self.0.reads.try_send(tx).map_err(|e| match e {
            mpsc::error::TrySendError::Full(_) => {
                ReadError::Unavailable(format!("{READS_MAX} reads wait already"))
            }
            mpsc::error::TrySendError::Closed(_) => ReadError::Stopped("shutdown".into()),
        })?;
        match tokio::time::timeout(READ_WAIT_MAX, rx).await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) => Err(ReadError::Stopped("shutdown".into())),
            Err(_) => Err(ReadError::Unavailable(format!(
                "not confirmed within {READ_WAIT_MAX:?}"
            ))),
        }
    }

    /// Reads this node's applied state; call [`Self::read_index`] before for a linearizable read.
    ///
    /// # Errors
    /// [`KvError`] when the store cannot be read.
    pub fn view<T>(&self, read: impl FnOnce(&dyn KvRead) -> T) -> Result<T, KvError> {
        self.0.reader.view(read)
    }

    /// Applied index and hash over the whole state, equal on all nodes at one index. Walks everything: off the raft threads.
    ///
    /// # Errors
    /// [`KvError`] when the store cannot be read.
    pub fn state_hash(&self) -> Result<(Option<u64>, [u8; 32]), KvError> {
        self.0.reader.state_hash()
    }

    /// Asks `node` to take over; follow [`Self::leadership`] to see whether it did.
    ///
    /// # Errors
    /// In words, when the group has stopped.
    pub async fn transfer_to(&self, node: NodeId) -> Result<(), String> {
        let transfer = self.raft().trigger().transfer_leader(node).await;
        transfer.map_err(|e| e.to_string())
    }

    /// Whether this node may stand for election. It votes and follows all the same.
    pub fn may_lead(&self, may: bool) {
        self.raft().runtime_config().elect(may);
    }

    /// Follows who leads.
    pub fn leadership(&self) -> watch::Receiver<Leadership> {
        self.0.leadership.clone()
    }

    /// Whether this node leads, as far as it knows.
    pub fn is_leader(&self) -> bool {
        self.0.leadership.borrow().is_leader
    }

    /// The group's figures.
    pub fn status(&self) -> GroupStatus {
        let receiver = self.0.ops.0.metrics();
        let m = receiver.borrow_watched();
        let index = |l: &Option<LogId>| l.as_ref().map_or(0, |l| l.index());
        let membership = m.membership_config.membership();
        let address = |id: NodeId| {
            membership
                .get_node(&id)
                .map(|n| n.addr.clone())
                .unwrap_or_default()
        };
        let last_log = m.last_log_index.unwrap_or(0);
        let lag = m
            .replication
            .iter()
            .flatten()
            .filter(|(id, _)| **id != self.0.node);
        GroupStatus {
            group: self.0.id,
            leader: m.current_leader,
            term: m.current_term,
            last_log,
            committed: index(&m.local_committed),
            last_applied: index(&m.last_applied),
            snapshot: index(&m.snapshot),
            voters: membership.voter_ids().map(|id| (id, address(id))).collect(),
            learners: membership
                .learner_ids()
                .map(|id| (id, address(id)))
                .collect(),
            lag: lag
                .map(|(id, at)| (*id, at.as_ref().map(|l| last_log.saturating_sub(l.index()))))
                .collect(),
            quorum_ack_ms: m
                .last_quorum_acked
                .as_ref()
                .map(|at| u64::try_from(at.into_inner().elapsed().as_millis()).unwrap_or(u64::MAX)),
            stopped: m.running_state.as_ref().err().map(ToString::to_string),
        }
    }
}

/// One round confirms everyone who waited when it began.
async fn confirm_reads(
    ops: Arc<Ops>,
    mut queue: mpsc::Receiver<oneshot::Sender<Result<u64, ReadError>>>,
) {
    let mut waiting = Vec::new();
    while queue.recv_many(&mut waiting, READS_MAX).await > 0 {
        let round = tokio::time::timeout(READ_WAIT_MAX, ops.confirm_leader()).await;
        let result = round.unwrap_or_else(|_| {
            Err(ReadError::Unavailable(format!(
                "no majority answered within {READ_WAIT_MAX:?}"
            )))
        });
        for reader in waiting.drain(..) {
            let _ = reader.send(result.clone());
        }
    }
}

fn watch_leadership(node: NodeId, mut metrics: Metrics) -> watch::Receiver<Leadership> {
    let (tx, rx) = watch::channel(Leadership::default());
    tokio::spawn(async move {
        loop {
            let now = {
                let m = metrics.borrow_watched();
                let stopped = m.running_state.is_err();
                let leader = m.current_leader.filter(|_| !stopped);
                Leadership {
                    leader,
                    term: m.current_term,
                    is_leader: leader == Some(node),
                }
            };
            tx.send_if_modified(|old| {
                let changed = *old != now;
                *old = now;
                changed
            });
            if metrics.changed().await.is_err() {
                // The raft task is gone: this node leads nothing any more.
                tx.send_replace(Leadership {
                    term: now.term,
                    ..Leadership::default()
                });
                return;
            }
        }
    });
    rx
}
