//! Asking custodians: which node leads, how long it takes, whether to believe it.
//!
//! Every request of [`CustodianRequest`] may be repeated: stores are write-once
//! per key id, a repeated release is a new entry under the same request id. So
//! a call that got lost is sent again, to another node, until its deadline.

use super::shard::Clock;
use crate::config::ClusterRole;
use crate::peer::{CallError, PeerClient, PeerTarget, ServiceId, services};
use crate::pki::Descriptor;
use futures::future::BoxFuture;
use quorate_engine::custody::protocol::{
    CustodianReply, CustodianRequest, PROTOCOL_VERSION, SealingKeyStatement,
};
use quorate_engine::quorum::Hint;
use quorate_engine::types::{CustodianId, DeploymentId, NodeId, codec};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Longest wait for one node before another is asked, in milliseconds.
const ATTEMPT_MS_MAX: u64 = 2_000;
/// Wait before asking again when no leader is known, in milliseconds.
const NO_LEADER_MS: u64 = 60;
/// Longest wait a busy custodian may ask for, in milliseconds.
const BUSY_MS_MAX: u64 = 500;
/// How long a custodian that failed or lied is asked last, in milliseconds.
const BAD_MS: u64 = 5_000;
/// How long one that lied is asked last, in milliseconds.
const LIED_MS: u64 = 600_000;
/// A custodian whose leader was not heard for so long counts as not answering, in milliseconds.
const ANSWERS_MS: u64 = 3_500;
/// A sealing key statement is fetched anew after this, in milliseconds.
const STATEMENT_MS_MAX: u64 = 600_000;
/// After a failed fetch the next is tried this much later, in milliseconds.
const STATEMENT_RETRY_MS: u64 = 1_000;
/// Wait for a sealing key statement, in milliseconds.
const STATEMENT_WAIT_MS: u64 = 1_500;

/// What carries requests to peers: [`PeerClient`], or a test's own.
pub trait Transport: Send + Sync + 'static {
    /// See [`PeerClient::call`].
    fn call<'a>(
        &'a self,
        to: &'a PeerTarget,
        service: ServiceId,
        body: Vec<u8>,
        timeout: Duration,
    ) -> BoxFuture<'a, Result<Vec<u8>, CallError>>;
    /// The believed custodians' descriptors.
    fn custodians(&self) -> BTreeMap<CustodianId, Arc<Descriptor>>;
    /// The own cluster's descriptor.
    fn own_descriptor(&self) -> Option<Arc<Descriptor>>;
    /// See [`PeerClient::learn_address`].
    fn learn_address(&self, _to: &PeerTarget, _address: &str) -> bool {
        false
    }
    /// When the certificate ends that a peer showed last, Unix milliseconds.
    fn certificate_ends_ms(&self, _peer: &PeerTarget) -> Option<u64> {
        None
    }
}

impl Transport for PeerClient {
    fn call<'a>(
        &'a self,
        to: &'a PeerTarget,
        service: ServiceId,
        body: Vec<u8>,
        timeout: Duration,
    ) -> BoxFuture<'a, Result<Vec<u8>, CallError>> {
        Box::pin(PeerClient::call(self, to, service, body, timeout))
    }
    fn custodians(&self) -> BTreeMap<CustodianId, Arc<Descriptor>> {
        self.trust().custodians()
    }
    fn own_descriptor(&self) -> Option<Arc<Descriptor>> {
        Some(self.trust().own().clone())
    }
    fn learn_address(&self, to: &PeerTarget, address: &str) -> bool {
        PeerClient::learn_address(self, to, address)
    }
    fn certificate_ends_ms(&self, peer: &PeerTarget) -> Option<u64> {
        let ends = self.certificate_ends(peer)?;
        let since = ends.duration_since(std::time::UNIX_EPOCH).ok()?;
        u64::try_from(since.as_millis()).ok()
    }
}

/// Why a custodian gave no answer that can be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AskError {
    /// No descriptor of it is trusted here.
    #[error("custodian {0} is not known here; import its descriptor with `trust add`")]
    Unknown(CustodianId),
    /// No node answered in time.
    #[error("custodian {custodian} did not answer: {last}")]
    Unreachable {
        /// Which.
        custodian: CustodianId,
        /// What the last attempt met.
        last: String,
    },
    /// It answered that the request is wrong.
    #[error("custodian {custodian} refuses the request: {reason}")]
    Invalid {
        /// Which.
        custodian: CustodianId,
        /// Why.
        reason: String,
    },
}

#[derive(Default)]
struct State {
    leader: Option<NodeId>,
    /// A node that the descriptor does not name yet, of which another said that it leads.
    new: Option<NodeId>,
    next: usize,
    latency_ms: Option<f64>,
    bad_until: u64,
    lied_at: Option<u64>,
    answered_at: Option<u64>,
    up: BTreeMap<NodeId, bool>,
    statement: Option<(SealingKeyStatement, u64)>,
    statement_retry: u64,
}

/// One custodian as this node sees it.
pub struct Custodian {
    /// Its id.
    pub id: CustodianId,
    state: Mutex<State>,
}

/// All custodians this node believes.
pub struct Custodians {
    deployment: DeploymentId,
    transport: Arc<dyn Transport>,
    clock: Clock,
    known: Mutex<BTreeMap<CustodianId, Arc<Custodian>>>,
}

/// A custodian's standing, for status.
#[derive(Clone, Debug, Default)]
pub struct Standing {
    /// The leader last heard of.
    pub leader: Option<NodeId>,
    /// Which nodes answered when last asked.
    pub up: BTreeMap<NodeId, bool>,
    /// Round trip, smoothed.
    pub latency_ms: Option<f64>,
    /// Milliseconds since it was last caught with a false share.
    pub lied_ms_ago: Option<u64>,
}

impl Custodian {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
    fn led_by(&self, leader: Option<NodeId>, named: impl Fn(&NodeId) -> bool) {
        let mut state = self.state();
        state.leader = leader;
        state.new = leader.filter(|l| !named(l));
    }
    fn not_leading(&self, node: NodeId) {
        let mut state = self.state();
        state.leader = state.leader.filter(|l| *l != node);
    }
}

impl Custodians {
    /// Over this transport.
    pub fn new(deployment: DeploymentId, transport: Arc<dyn Transport>, clock: Clock) -> Self {
        Self {
            deployment,
            transport,
            clock,
            known: Mutex::default(),
        }
    }

    /// What carries requests.
    pub fn transport(&self) -> &Arc<dyn Transport> {
        &self.transport
    }

    /// The believed custodians' descriptors.
    pub fn descriptors(&self) -> BTreeMap<CustodianId, Arc<Descriptor>> {
        self.transport.custodians()
    }

    /// One custodian, if its descriptor is trusted.
    ///
    /// # Errors
    /// [`AskError::Unknown`].
    pub fn get(&self, id: &CustodianId) -> Result<(Arc<Custodian>, Arc<Descriptor>), AskError> {
        let descriptor = self.descriptors().remove(id);
        let descriptor = descriptor.ok_or_else(|| AskError::Unknown(id.clone()))?;
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let custodian = known.entry(id.clone()).or_insert_with(|| {
            Arc::new(Custodian {
                id: id.clone(),
                state: Mutex::default(),
            })
        });
        Ok((custodian.clone(), descriptor))
    }

    /// What the collector should know before it asks.
    pub fn hint(&self, id: &CustodianId) -> (Hint, Option<u64>) {
        let Ok((custodian, _)) = self.get(id) else {
            return (Hint::Bad, None);
        };
        let state = custodian.state();
        let hint = match (state.bad_until > self.clock.mono(), state.latency_ms) {
            (true, _) => Hint::Bad,
            (false, None) => Hint::Unknown,
            (false, Some(_)) => Hint::Good,
        };
        (hint, state.latency_ms.map(|ms| ms.ceil() as u64))
    }

    /// Its standing, for status.
    pub fn standing(&self, id: &CustodianId) -> Standing {
        let Ok((custodian, _)) = self.get(id) else {
            return Standing::default();
        };
        let state = custodian.state();
        Standing {
            leader: state.leader,
            up: state.up.clone(),
            latency_ms: state.latency_ms,
            lied_ms_ago: state.lied_at.map(|at| self.clock.mono().saturating_sub(at)),
        }
    }

    /// Whether its leader answered lately; every custodian is asked at least for its feed.
    pub fn answers(&self, id: &CustodianId) -> bool {
        let Ok((custodian, _)) = self.get(id) else {
            return false;
        };
        let at = custodian.state().answered_at;
        at.is_some_and(|at| self.clock.mono().saturating_sub(at) < ANSWERS_MS)
    }

    /// It gave a false share: blamed by name, asked last.
    pub fn blame(&self, id: &CustodianId) {
        tracing::warn!(custodian = %id, "gave a share that does not match its commitment");
        metrics::counter!("quorate_home_false_shares_total", "custodian" => id.to_string())
            .increment(1);
        if let Ok((custodian, _)) = self.get(id) {
            let now = self.clock.mono();
            let mut state = custodian.state();
            state.bad_until = now + LIED_MS;
            state.lied_at = Some(now);
        }
    }

    /// Asks a custodian's leader and waits at most `wait_ms`.
    ///
    /// # Errors
    /// [`AskError`].
    pub async fn ask(
        &self,
        id: &CustodianId,
        request: &CustodianRequest,
        wait_ms: u64,
    ) -> Result<CustodianReply, AskError> {
        let (custodian, descriptor) = self.get(id)?;
        let body = codec::encode(PROTOCOL_VERSION, request);
        let deadline = self.clock.mono() + wait_ms;
        let nodes: Vec<NodeId> = descriptor.endpoints.keys().copied().collect();
        let mut last = "it has no endpoints".to_owned();
        // Bounded by the deadline; each turn either answers, waits or takes a round trip.
        while !nodes.is_empty() && self.clock.mono() < deadline {
            let node = pick(&mut custodian.state(), &nodes);
            let left = deadline.saturating_sub(self.clock.mono()).max(1);
            let sent = self.clock.mono();
            let outcome = self
                .attempt(id, node, body.clone(), left.min(ATTEMPT_MS_MAX))
                .await;
            match outcome {
                Ok(CustodianReply::NotLeader { leader, address }) => {
                    last = format!("node {node} does not lead");
                    let known = leader.filter(|l| {
                        let new = || self.learn(id, *l, address.as_deref());
                        *l != node && (nodes.contains(l) || new())
                    });
                    custodian.led_by(known, |l| nodes.contains(l));
                    if known.is_none() {
                        self.pause(NO_LEADER_MS, deadline).await;
                    }
                }
                Ok(CustodianReply::Busy { reason, retry_ms }) => {
                    last = format!("busy: {reason}");
                    self.pause(retry_ms.min(BUSY_MS_MAX), deadline).await;
                }
                Ok(CustodianReply::Unknown { reason }) => {
                    last = reason;
                    custodian.state().leader = None;
                    self.pause(NO_LEADER_MS, deadline).await;
                }
                Ok(CustodianReply::Invalid { reason }) => {
                    let custodian = id.clone();
                    return Err(AskError::Invalid { custodian, reason });
                }
                Ok(reply) => {
                    // An answer that may have been held back says nothing of the way.
                    let held = matches!(request, CustodianRequest::Feed { since } if *since != 0);
                    self.answered(&custodian, node, (!held).then_some(sent));
                    return Ok(reply);
                }
                Err(reason) => {
                    last = reason;
                    custodian.not_leading(node);
                    self.pause(NO_LEADER_MS / 2, deadline).await;
                }
            }
        }
        let now = self.clock.mono();
        let mut state = custodian.state();
        state.bad_until = state.bad_until.max(now + BAD_MS);
        drop(state);
        Err(AskError::Unreachable {
            custodian: id.clone(),
            last,
        })
    }

    /// Asks one node, whether it leads or not; notes whether it is up.
    ///
    /// # Errors
    /// What went wrong, in words.
    pub async fn attempt(
        &self,
        id: &CustodianId,
        node: NodeId,
        body: Vec<u8>,
        wait_ms: u64,
    ) -> Result<CustodianReply, String> {
        let target = PeerTarget {
            role: ClusterRole::Custodian,
            cluster: id.to_string(),
            node,
        };
        let wait = Duration::from_millis(wait_ms);
        let answer = self
            .transport
            .call(&target, services::CUSTODIAN, body, wait)
            .await;
        if let Ok((custodian, _)) = self.get(id) {
            let up = !matches!(answer, Err(CallError::NotSent(_) | CallError::Unknown(_)));
            custodian.state().up.insert(node, up);
        }
        let bytes = answer.map_err(|e| format!("node {node}: {e}"))?;
        codec::decode("custodian reply", PROTOCOL_VERSION, &bytes)
            .map_err(|e| format!("node {node}: {e}"))
    }

    /// A custodian's node says where its leader is, which the descriptor does not name yet.
    fn learn(&self, id: &CustodianId, node: NodeId, address: Option<&str>) -> bool {
        let target = PeerTarget {
            role: ClusterRole::Custodian,
            cluster: id.to_string(),
            node,
        };
        address.is_some_and(|address| self.transport.learn_address(&target, address))
    }

    fn answered(&self, custodian: &Custodian, node: NodeId, sent: Option<u64>) {
        let mut state = custodian.state();
        state.leader = Some(node);
        state.answered_at = Some(self.clock.mono());
        if state.lied_at.is_none() {
            state.bad_until = 0;
        }
        let Some(sent) = sent else { return };
        let took = self.clock.mono().saturating_sub(sent) as f64;
        state.latency_ms = Some(
            state
                .latency_ms
                .map_or(took, |old| old + (took - old) / 8.0),
        );
    }

    async fn pause(&self, ms: u64, deadline: u64) {
        let left = deadline.saturating_sub(self.clock.mono());
        tokio::time::sleep(Duration::from_millis(ms.min(left).max(1))).await;
    }

    /// The sealing key to use, verified by the custodian's identity key; from memory when young.
    ///
    /// # Errors
    /// [`AskError`].
    pub async fn sealing_key(&self, id: &CustodianId) -> Result<SealingKeyStatement, AskError> {
        let (custodian, descriptor) = self.get(id)?;
        let now = self.clock.mono();
        let old = {
            let state = custodian.state();
            let old = state.statement.clone();
            if let Some((statement, at)) = &old
                && now.saturating_sub(*at) < STATEMENT_MS_MAX
                && statement.expires_ms > self.clock.wall()
            {
                return Ok(statement.clone());
            }
            if state.statement_retry > now {
                return usable(old, self.clock.wall(), id, "asked a moment ago in vain");
            }
            old
        };
        let log_key = descriptor.log_key.map_or([0; 32], |k| k.0);
        let reply = self
            .ask(id, &CustodianRequest::SealingKey, STATEMENT_WAIT_MS)
            .await;
        let fresh = match reply {
            Ok(CustodianReply::SealingKey(statement)) => statement
                .verify(&self.deployment, id, &log_key, self.clock.wall())
                .map(|()| statement)
                .map_err(|e| e.to_string()),
            Ok(_) => Err("it answered something else".to_owned()),
            Err(e) => Err(e.to_string()),
        };
        let mut state = custodian.state();
        match fresh {
            Ok(statement) => {
                state.statement = Some((statement.clone(), self.clock.mono()));
                Ok(statement)
            }
            Err(e) => {
                state.statement_retry = self.clock.mono() + STATEMENT_RETRY_MS;
                drop(state);
                usable(old, self.clock.wall(), id, &e)
            }
        }
    }

    /// Its sealing key is gone there: ask anew next time.
    pub fn forget_sealing_key(&self, id: &CustodianId) {
        if let Ok((custodian, _)) = self.get(id) {
            custodian.state().statement = None;
        }
    }
}

fn usable(
    old: Option<(SealingKeyStatement, u64)>,
    wall: u64,
    id: &CustodianId,
    last: &str,
) -> Result<SealingKeyStatement, AskError> {
    match old {
        Some((statement, _)) if statement.expires_ms > wall => Ok(statement),
        _ => Err(AskError::Unreachable {
            custodian: id.clone(),
            last: last.to_owned(),
        }),
    }
}

/// The leader if known, else one node after the other.
fn pick(state: &mut State, nodes: &[NodeId]) -> NodeId {
    if let Some(leader) = state.leader
        && (nodes.contains(&leader) || state.new == Some(leader))
    {
        return leader;
    }
    state.next = (state.next + 1) % nodes.len();
    nodes[state.next]
}
