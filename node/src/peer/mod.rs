//! The peer plane: one multiplexed, mutually authenticated TLS 1.3 connection
//! per peer, carrying requests of several services.
//!
//! ```text
//!  PeerClient ── call(target, service, body) ──▶ link task ══TLS══▶ PeerServer ─▶ Service
//!                 NotSent | Unknown | Refused      (one per peer)      role check per service
//! ```
//!
//! Deliberately not here: retries. Only the caller knows whether repeating is
//! safe; this module tells it truthfully whether a request may have been done.

pub mod client;
pub mod frame;
mod link;
pub mod server;

pub use client::{PeerClient, PeerClientOptions};
pub use server::{PeerServer, ServerOptions};

use crate::config::ClusterRole;
use crate::pki::CertIdentity;
use bytes::Bytes;
use futures::future::BoxFuture;
use quorate_engine::types::NodeId;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::time::Instant;

/// Names a service on the wire.
pub type ServiceId = u16;

/// The services of this build. Numbers are wire format: never reuse one.
pub mod services {
    use super::ServiceId;
    /// Raft messages and snapshot chunks, inside one cluster.
    pub const RAFT: ServiceId = 1;
    /// What a home asks of a custodian.
    pub const CUSTODIAN: ServiceId = 2;
    /// Requests a home node forwards to a shard's leader.
    pub const HOME: ServiceId = 3;
    /// Between the nodes of one custodian: wrapping keys on their way to a new node.
    pub const CUSTODIAN_INTERNAL: ServiceId = 4;
    /// Health and status of a node for its own cluster and for homes.
    pub const STATUS: ServiceId = 5;
    /// Between custodians: heads of chains and missing statements.
    pub const CUSTODIAN_EXCHANGE: ServiceId = 6;
}

/// Who is at the other end, from its certificate.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PeerIdentity {
    /// What its cluster is.
    pub role: ClusterRole,
    /// Its cluster.
    pub cluster: String,
    /// Its node id there.
    pub node: NodeId,
}

impl fmt::Display for PeerIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} node {}", self.role, self.cluster, self.node)
    }
}

impl PeerIdentity {
    /// From a certificate's identity; `None` for roles that are no peers.
    pub fn from_cert(id: &CertIdentity) -> Option<Self> {
        use crate::pki::CertRole;
        let role = match id.role {
            CertRole::Home => ClusterRole::Home,
            CertRole::Custodian => ClusterRole::Custodian,
            CertRole::Operator | CertRole::ClientPlane | CertRole::Authority => return None,
        };
        Some(Self {
            role,
            cluster: id.cluster.clone(),
            node: id.node,
        })
    }
}

/// Whom to call: the server's certificate must say exactly this.
pub type PeerTarget = PeerIdentity;

/// Why a service did not answer. Travels on the wire.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum ServiceError {
    /// Too many requests of this service in flight from this peer; nothing was done.
    #[error("busy: {0}")]
    Busy(String),
    /// The peer's role or cluster may not use this service; nothing was done.
    #[error("forbidden: {0}")]
    Forbidden(String),
    /// No such service here (another version, or still starting); nothing was done.
    #[error("no service {0} here")]
    NoService(ServiceId),
    /// The request cannot be decoded or breaks a limit; nothing was done.
    #[error("invalid request: {0}")]
    Invalid(String),
    /// The service failed; what was done is unknown.
    #[error("failed: {0}")]
    Failed(String),
}

impl ServiceError {
    /// Whether the request certainly had no effect.
    pub fn nothing_was_done(&self) -> bool {
        !matches!(self, Self::Failed(_))
    }
}

/// What became of a call that did not bring an answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// No byte of the request left this process: it certainly was not done.
    #[error("not sent: {0}")]
    NotSent(String),
    /// It may have been done: the connection broke or time ran out after it was handed to the socket.
    #[error("outcome unknown: {0}")]
    Unknown(String),
    /// The peer answered with an error; see [`ServiceError::nothing_was_done`].
    #[error("refused by the peer: {0}")]
    Refused(ServiceError),
}

impl CallError {
    /// Whether the request certainly had no effect.
    pub fn nothing_was_done(&self) -> bool {
        match self {
            Self::NotSent(_) => true,
            Self::Unknown(_) => false,
            Self::Refused(e) => e.nothing_was_done(),
        }
    }
}

/// An answer, and until when it may be sent.
pub struct Answer {
    /// What is sent.
    pub body: Vec<u8>,
    /// `None`: whenever.
    pub departing: Option<Departing>,
}

/// Holds an answer to a deadline: the connection hands it to the socket before
/// `until`, or gives it up and closes if it has begun to.
pub struct Departing {
    /// The deadline.
    pub until: Instant,
    /// Dropped once the answer was handed over whole, or will not be.
    pub guard: Box<dyn Send>,
}

/// Something that answers requests of peers.
pub trait Service: Send + Sync + 'static {
    /// Answers one request. `from` is proven by its certificate and passed the role check of [`Allow`].
    fn call(&self, from: PeerIdentity, body: Bytes)
    -> BoxFuture<'_, Result<Vec<u8>, ServiceError>>;

    /// As [`Service::call`], for services whose answers must not leave late.
    fn answer(
        &self,
        from: PeerIdentity,
        body: Bytes,
    ) -> BoxFuture<'_, Result<Answer, ServiceError>> {
        let answer = self.call(from, body);
        Box::pin(async move {
            Ok(Answer {
                body: answer.await?,
                departing: None,
            })
        })
    }
}

/// Who may use a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Allow {
    /// Nodes of this node's own cluster.
    SameCluster,
    /// Nodes of any trusted home.
    Homes,
    /// Nodes of any trusted custodian.
    Custodians,
    /// Every trusted peer.
    AnyPeer,
}

impl Allow {
    /// Whether `peer` may call a service of `own`.
    pub fn permits(self, own: &PeerIdentity, peer: &PeerIdentity) -> bool {
        match self {
            Self::SameCluster => own.role == peer.role && own.cluster == peer.cluster,
            Self::Homes => peer.role == ClusterRole::Home,
            Self::Custodians => peer.role == ClusterRole::Custodian,
            Self::AnyPeer => true,
        }
    }
}

#[cfg(test)]
mod tests;
