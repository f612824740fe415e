//! Raft over the peer plane: all groups of a node share one connection per peer.
//!
//! The calling side is openraft-multi's [`GroupRouter`]; the serving side is a
//! peer [`Service`] open to the own cluster only. A node may speak only for
//! itself: the leader or candidate in a message must be the certificate's node.

use super::cluster::Member;
use super::group::{Group, GroupStatus};
use super::known::KnownNodes;
use super::transfer::{self, Incoming};
use super::{GroupId, LogId, Snapshot, SnapshotFile, SnapshotMeta, TypeConfig, Vote};
use crate::peer::{
    CallError, PeerClient, PeerIdentity, PeerTarget, Service, ServiceError, services,
};
use bytes::Bytes;
use futures::future::BoxFuture;
use openraft::errors::{NetworkError, RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::{Backoff, RPCOption, RaftNetworkFactory};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, TransferLeaderRequest,
    TransferLeaderResponse, VoteRequest, VoteResponse,
};
use openraft::{AnyError, BasicNode, OptionalSend};
use openraft_multi::{GroupNetworkAdapter, GroupNetworkFactory, GroupRouter};
use quorate_engine::types::{NodeId, codec};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::future::Future;
use std::sync::{Arc, Mutex, RwLock};
use std::time::Duration;

/// Wire format of raft messages.
const WIRE_VERSION: u8 = 1;
/// Commands in one append message, bytes; a longer batch is sent in parts.
const APPEND_BYTES_MAX: usize = 4 << 20;
/// Least wait for an append's answer: a busy disk is no reason to send everything again.
const APPEND_WAIT_MIN: Duration = Duration::from_millis(2_000);
/// Least wait for a vote.
const VOTE_WAIT_MIN: Duration = Duration::from_millis(500);
/// Wait for a short question.
const ASK_WAIT_MAX: Duration = Duration::from_millis(2_000);
/// Wait for a membership change at another node's group.
const CHANGE_WAIT_MAX: Duration = Duration::from_secs(10);
/// Pause before a peer that could not be reached is tried again.
const RETRY_PAUSE: Duration = Duration::from_millis(200);
/// Raft requests of one peer in flight here.
pub const RAFT_IN_FLIGHT_MAX: usize = 512;

/// A membership step at a group's leader.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Change {
    AddLearner(NodeId, String),
    Promote(NodeId),
    Remove(NodeId),
}

#[derive(Serialize, Deserialize)]
pub(super) enum Message {
    Hello,
    Append(GroupId, AppendEntriesRequest<TypeConfig>),
    Vote(GroupId, VoteRequest<TypeConfig>),
    PreVote(GroupId, VoteRequest<TypeConfig>),
    Transfer(GroupId, TransferLeaderRequest<TypeConfig>),
    SnapshotBegin {
        group: GroupId,
        id: String,
        len: u64,
    },
    SnapshotChunk {
        group: GroupId,
        id: String,
        offset: u64,
        #[serde(with = "serde_bytes")]
        data: Vec<u8>,
    },
    SnapshotInstall {
        group: GroupId,
        id: String,
        len: u64,
        hash: [u8; 32],
        vote: Vote,
        meta: SnapshotMeta,
    },
    Status(GroupId),
    Change(GroupId, Change),
    /// Whether a node with this id and incarnation may join.
    MayJoin(NodeId, u64),
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Answer {
    Hello {
        initialized: Vec<GroupId>,
    },
    Append(AppendEntriesResponse<TypeConfig>),
    Vote(VoteResponse<TypeConfig>),
    Transfer(TransferLeaderResponse<TypeConfig>),
    /// Bytes of the snapshot that are here.
    Offset(u64),
    Installed(SnapshotResponse<TypeConfig>),
    Status(Box<GroupStatus>),
    Done,
    /// Not done, or not known: the words of the other side.
    Failed(String),
}

#[derive(Serialize, Deserialize)]
struct Envelope<T> {
    incarnation: u64,
    body: T,
}

/// Why a peer of the own cluster gave no usable answer.
#[derive(Clone, Debug, thiserror::Error)]
pub(super) enum AskError {
    #[error(transparent)]
    Call(#[from] CallError),
    #[error("{0}")]
    Answer(String),
}

/// Calls nodes of the own cluster.
#[derive(Clone)]
pub struct Router {
    client: PeerClient,
    own: PeerIdentity,
    known: Arc<KnownNodes>,
    refused: Arc<Mutex<Option<String>>>,
}

impl Router {
    pub(super) fn new(client: PeerClient, known: Arc<KnownNodes>) -> Self {
        Self {
            own: client.own(),
            client,
            known,
            refused: Arc::default(),
        }
    }

    /// Why another node of the cluster refused this one, if one did.
    pub(super) fn refused(&self) -> Option<String> {
        self.refused.lock().expect("no holder panics").clone()
    }

    pub(super) fn target(&self, node: NodeId) -> PeerTarget {
        PeerTarget {
            node,
            ..self.own.clone()
        }
    }

    pub(super) fn set_address(&self, node: NodeId, address: &str) {
        if !address.is_empty()
            && self.client.address(&self.target(node)).as_deref() != Some(address)
        {
            self.client
                .set_address(self.target(node), address.to_owned());
        }
    }

    pub(super) async fn ask(
        &self,
        node: NodeId,
        message: Message,
        wait: Duration,
    ) -> Result<Answer, AskError> {
        let envelope = Envelope {
            incarnation: self.known.own(),
            body: message,
        };
        let body = codec::encode(WIRE_VERSION, &envelope);
        let reply = self
            .client
            .call(&self.target(node), services::RAFT, body, wait)
            .await;
        if let Err(CallError::Refused(ServiceError::Forbidden(why))) = &reply {
            *self.refused.lock().expect("no holder panics") =
                Some(format!("by node {node}: {why}"));
        }
        let reply = reply?;
        let reply: Envelope<Answer> = codec::decode("raft answer", WIRE_VERSION, &reply)
            .map_err(|e| AskError::Answer(e.to_string()))?;
        self.known.meet(node, reply.incarnation).map_err(|e| {
            tracing::error!("{e}");
            AskError::Answer(e.to_string())
        })?;
        match reply.body {
            Answer::Failed(why) => Err(AskError::Answer(why)),
            answer => Ok(answer),
        }
    }

    /// Groups that run at `node`.
    pub(super) async fn hello(&self, node: NodeId) -> Result<Vec<GroupId>, AskError> {
        match self.ask(node, Message::Hello, ASK_WAIT_MAX).await? {
            Answer::Hello { initialized } => Ok(initialized),
            other => Err(unexpected(&other)),
        }
    }

    /// The incarnation of `node`, without remembering it; asked before it may join.
    pub(super) async fn incarnation(&self, node: NodeId) -> Result<u64, AskError> {
        let envelope = Envelope {
            incarnation: self.known.own(),
            body: Message::Hello,
        };
        let body = codec::encode(WIRE_VERSION, &envelope);
        let reply = self
            .client
            .call(&self.target(node), services::RAFT, body, ASK_WAIT_MAX)
            .await?;
        let reply: Envelope<Answer> = codec::decode("raft answer", WIRE_VERSION, &reply)
            .map_err(|e| AskError::Answer(e.to_string()))?;
        Ok(reply.incarnation)
    }

    pub(super) async fn status(
        &self,
        node: NodeId,
        group: GroupId,
    ) -> Result<GroupStatus, AskError> {
        match self.ask(node, Message::Status(group), ASK_WAIT_MAX).await? {
            Answer::Status(s) => Ok(*s),
            other => Err(unexpected(&other)),
        }
    }

    pub(super) async fn change(
        &self,
        node: NodeId,
        group: GroupId,
        c: Change,
    ) -> Result<(), AskError> {
        match self
            .ask(node, Message::Change(group, c), CHANGE_WAIT_MAX)
            .await?
        {
            Answer::Done => Ok(()),
            other => Err(unexpected(&other)),
        }
    }

    pub(super) async fn may_join(
        &self,
        at: NodeId,
        node: NodeId,
        incarnation: u64,
    ) -> Result<(), AskError> {
        match self
            .ask(at, Message::MayJoin(node, incarnation), ASK_WAIT_MAX)
            .await?
        {
            Answer::Done => Ok(()),
            other => Err(unexpected(&other)),
        }
    }
}

pub(super) fn unexpected(answer: &Answer) -> AskError {
    AskError::Answer(format!("unexpected answer {answer:?}"))
}

fn rpc_error(e: AskError) -> RPCError<TypeConfig> {
    match &e {
        // Possibly done: raft repeats, and repeating is what it is made for.
        AskError::Call(CallError::Unknown(_)) => {
            RPCError::Network(NetworkError::new(&AnyError::error(e)))
        }
        _ => RPCError::Unreachable(Unreachable::new(&AnyError::error(e))),
    }
}

pub(super) fn streaming_error(e: AskError) -> StreamingError<TypeConfig> {
    match rpc_error(e) {
        RPCError::Network(e) => StreamingError::Network(e),
        RPCError::Unreachable(e) => StreamingError::Unreachable(e),
        other => StreamingError::Network(NetworkError::new(&AnyError::error(other))),
    }
}

/// Cuts a batch that is too long for one message. Returns the last position kept if it was cut.
fn cut(rpc: &mut AppendEntriesRequest<TypeConfig>) -> Option<LogId> {
    let mut bytes = 0;
    let fits = rpc.entries.iter().take_while(|e| {
        bytes += match &e.payload {
            openraft::EntryPayload::Normal(command) => command.0.len() + 64,
            _ => 4_096,
        };
        bytes <= APPEND_BYTES_MAX
    });
    let keep = fits.count().max(1); // One command alone is within a frame: `COMMAND_BYTES_MAX`.
    if keep >= rpc.entries.len() {
        return None;
    }
    rpc.entries.truncate(keep);
    rpc.entries.last().map(|e| e.log_id)
}

impl GroupRouter<TypeConfig, GroupId> for Router {
    type SnapshotData = SnapshotFile;

    async fn append_entries(
        &self,
        target: NodeId,
        group: GroupId,
        mut rpc: AppendEntriesRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<TypeConfig>, RPCError<TypeConfig>> {
        let cut_at = cut(&mut rpc);
        let wait = option.soft_ttl().max(APPEND_WAIT_MIN);
        match self
            .ask(target, Message::Append(group, rpc), wait)
            .await
            .map_err(rpc_error)?
        {
            Answer::Append(AppendEntriesResponse::Success) if cut_at.is_some() => {
                Ok(AppendEntriesResponse::PartialSuccess(cut_at))
            }
            Answer::Append(r) => Ok(r),
            other => Err(rpc_error(unexpected(&other))),
        }
    }

    async fn vote(
        &self,
        target: NodeId,
        group: GroupId,
        rpc: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        let wait = option.soft_ttl().max(VOTE_WAIT_MIN);
        match self
            .ask(target, Message::Vote(group, rpc), wait)
            .await
            .map_err(rpc_error)?
        {
            Answer::Vote(r) => Ok(r),
            other => Err(rpc_error(unexpected(&other))),
        }
    }

    async fn pre_vote(
        &self,
        target: NodeId,
        group: GroupId,
        rpc: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        let wait = option.soft_ttl().max(VOTE_WAIT_MIN);
        match self
            .ask(target, Message::PreVote(group, rpc), wait)
            .await
            .map_err(rpc_error)?
        {
            Answer::Vote(r) => Ok(r),
            other => Err(rpc_error(unexpected(&other))),
        }
    }

    async fn full_snapshot(
        &self,
        target: NodeId,
        group: GroupId,
        vote: Vote,
        snapshot: Snapshot,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        tokio::select! {
            closed = cancel => Err(StreamingError::Closed(closed)),
            sent = transfer::send(self, target, group, vote, snapshot) => sent,
        }
    }

    async fn transfer_leader(
        &self,
        target: NodeId,
        group: GroupId,
        req: TransferLeaderRequest<TypeConfig>,
        _option: RPCOption,
    ) -> Result<TransferLeaderResponse<TypeConfig>, RPCError<TypeConfig>> {
        match self
            .ask(target, Message::Transfer(group, req), ASK_WAIT_MAX)
            .await
            .map_err(rpc_error)?
        {
            Answer::Transfer(r) => Ok(r),
            other => Err(rpc_error(unexpected(&other))),
        }
    }

    fn backoff(&self) -> Option<Backoff> {
        Some(Backoff::new(std::iter::repeat(RETRY_PAUSE)))
    }
}

/// Makes a group's network clients.
pub(super) type Factory = GroupNetworkFactory<Router, GroupId>;

impl RaftNetworkFactory<TypeConfig> for Factory {
    type Network = GroupNetworkAdapter<TypeConfig, GroupId, Router>;

    async fn new_client(&mut self, target: NodeId, node: &BasicNode) -> Self::Network {
        // Membership is newer than any configuration or descriptor.
        self.factory.set_address(target, &node.addr);
        GroupNetworkAdapter::new(self.factory.clone(), target, self.group_id)
    }
}

/// The groups that run here, by id.
pub(super) type Groups = Arc<RwLock<BTreeMap<GroupId, Arc<Member>>>>;

/// Answers raft messages of the own cluster.
pub(super) struct RaftService {
    pub(super) groups: Groups,
    pub(super) known: Arc<KnownNodes>,
}

impl Service for RaftService {
    fn call(
        &self,
        from: PeerIdentity,
        body: Bytes,
    ) -> BoxFuture<'_, Result<Vec<u8>, ServiceError>> {
        Box::pin(async move {
            let request: Envelope<Message> = codec::decode("raft message", WIRE_VERSION, &body)
                .map_err(|e| ServiceError::Invalid(e.to_string()))?;
            drop(body);
            let hello = matches!(request.body, Message::Hello);
            let met = if hello {
                // Asked by nodes that are not members yet: nothing is remembered of it.
                self.known.may_join(from.node, request.incarnation)
            } else {
                self.known.meet(from.node, request.incarnation)
            };
            met.map_err(|e| {
                tracing::error!("refused a raft message: {e}");
                ServiceError::Forbidden(e.to_string())
            })?;
            let answer = self.answer(&from, request.body).await?;
            let reply = Envelope {
                incarnation: self.known.own(),
                body: answer,
            };
            Ok(codec::encode(WIRE_VERSION, &reply))
        })
    }
}

impl RaftService {
    fn member(&self, id: GroupId) -> Result<Arc<Member>, ServiceError> {
        let groups = self.groups.read().expect("no writer panics");
        groups
            .get(&id)
            .cloned()
            .ok_or_else(|| ServiceError::Invalid(format!("no group {id} here")))
    }

    fn group(&self, id: GroupId) -> Result<Group, ServiceError> {
        Ok(self.member(id)?.group.clone())
    }

    async fn answer(&self, from: &PeerIdentity, message: Message) -> Result<Answer, ServiceError> {
        let own_voice = |vote: &Vote| {
            if vote.leader_id.node_id == from.node {
                return Ok(());
            }
            let why = format!("{from} spoke for node {}", vote.leader_id.node_id);
            tracing::error!("refused a raft message: {why}");
            Err(ServiceError::Forbidden(why))
        };
        let fatal = |e: String| ServiceError::Failed(e);
        Ok(match message {
            Message::Hello => {
                let groups = self.groups.read().expect("no writer panics").clone();
                let initialized = groups
                    .iter()
                    .filter(|(_, m)| !m.group.status().voters.is_empty())
                    .map(|(id, _)| *id)
                    .collect();
                Answer::Hello { initialized }
            }
            Message::Append(g, r) => {
                own_voice(&r.vote)?;
                let done = self.group(g)?.raft().append_entries(r).await;
                Answer::Append(done.map_err(|e| fatal(e.to_string()))?)
            }
            Message::Vote(g, r) => {
                own_voice(&r.vote)?;
                let done = self.group(g)?.raft().vote(r).await;
                Answer::Vote(done.map_err(|e| fatal(e.to_string()))?)
            }
            Message::PreVote(g, r) => {
                own_voice(&r.vote)?;
                let done = self.group(g)?.raft().pre_vote(r).await;
                Answer::Vote(done.map_err(|e| fatal(e.to_string()))?)
            }
            Message::Transfer(g, r) => {
                own_voice(r.from_leader())?;
                let done = self.group(g)?.raft().handle_transfer_leader(r).await;
                Answer::Transfer(done.map_err(|e| fatal(e.to_string()))?)
            }
            Message::SnapshotBegin { group, id, len } => {
                let member = self.member(group)?;
                let mut incoming = member.incoming.lock().await;
                let (new, offset) = Incoming::begin(member.group.reader().incoming_dir(), id, len)
                    .await
                    .map_err(ServiceError::Failed)?;
                *incoming = Some(new);
                Answer::Offset(offset)
            }
            Message::SnapshotChunk {
                group,
                id,
                offset,
                data,
            } => {
                let member = self.member(group)?;
                let mut incoming = member.incoming.lock().await;
                match incoming.as_mut().filter(|i| i.id() == id) {
                    Some(i) => {
                        Answer::Offset(i.take(offset, data).await.map_err(ServiceError::Failed)?)
                    }
                    None => Answer::Failed("no such transfer; begin again".into()),
                }
            }
            Message::SnapshotInstall {
                group,
                id,
                len,
                hash,
                vote,
                meta,
            } => {
                own_voice(&vote)?;
                let member = self.member(group)?;
                let mut incoming = member.incoming.lock().await;
                let Some(i) = incoming.take().filter(|i| i.id() == id) else {
                    return Ok(Answer::Failed("no such transfer; begin again".into()));
                };
                match i.finish(len, hash).await {
                    Err(why) => Answer::Failed(why),
                    Ok(snapshot) => {
                        let s = Snapshot { meta, snapshot };
                        let done = member.group.raft().install_full_snapshot(vote, s).await;
                        Answer::Installed(done.map_err(|e| fatal(e.to_string()))?)
                    }
                }
            }
            Message::Status(g) => Answer::Status(Box::new(self.group(g)?.status())),
            Message::Change(g, c) => match self.group(g)?.change(c).await {
                Ok(()) => Answer::Done,
                Err(why) => Answer::Failed(why),
            },
            Message::MayJoin(node, incarnation) => match self.known.may_join(node, incarnation) {
                Ok(()) => Answer::Done,
                Err(e) => Answer::Failed(e.to_string()),
            },
        })
    }
}
