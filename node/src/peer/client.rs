//! The calling side of the peer plane.

use super::frame::BODY_BYTES_MAX;
use super::link::{self, Link, Outgoing, Ticket};
use super::{CallError, PeerIdentity, PeerTarget, ServiceId};
use crate::pki::{CertIdentity, CertSource, TrustStore};
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, RwLock};
use std::time::{Duration, SystemTime};
use tokio::sync::oneshot;

/// Nodes outside of descriptors whose address is kept.
const LEARNED_MAX: usize = 256;
/// Longest address learned: a DNS name and a port.
const ADDRESS_BYTES_MAX: usize = 260;

/// Limits of a client.
#[derive(Clone, Copy, Debug)]
pub struct PeerClientOptions {
    /// Requests waiting or in flight towards one peer.
    pub in_flight_max: usize,
}

impl Default for PeerClientOptions {
    fn default() -> Self {
        Self {
            in_flight_max: 1_024,
        }
    }
}

pub(super) struct Inner {
    pub(super) trust: Arc<TrustStore>,
    pub(super) certs: Arc<CertSource>,
    pub(super) options: PeerClientOptions,
    addresses: RwLock<BTreeMap<PeerTarget, String>>,
    /// What a cluster's own nodes said of nodes that its descriptor does not name.
    learned: RwLock<BTreeMap<PeerTarget, String>>,
    links: Mutex<HashMap<PeerTarget, Arc<Link>>>,
    /// When the certificate ends that each peer showed last.
    pub(super) ends: Mutex<BTreeMap<PeerTarget, SystemTime>>,
}

impl Inner {
    /// Where to dial: what raft membership or the configuration said, else the
    /// descriptor, else what a node of the same cluster said.
    pub(super) fn address(&self, to: &PeerTarget) -> Option<String> {
        let set = self
            .addresses
            .read()
            .expect("no writer panics")
            .get(to)
            .cloned();
        set.or_else(|| self.trust.endpoint(&to.cluster, to.node))
            .or_else(|| {
                let learned = self.learned.read().expect("no writer panics");
                learned.get(to).cloned()
            })
    }

    pub(super) fn cert_identity(&self, to: &PeerTarget) -> CertIdentity {
        CertIdentity {
            deployment: self.trust.own().deployment,
            role: to.role.into(),
            cluster: to.cluster.clone(),
            node: to.node,
        }
    }
}

/// Calls peers, over one connection each. Cheap to clone; the connections close with the last clone.
#[derive(Clone)]
pub struct PeerClient(Arc<Inner>);

impl std::fmt::Debug for PeerClient {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "PeerClient({})", self.0.certs.identity())
    }
}

/// A caller that goes away takes its request back if it is still queued.
struct TakeBack(Arc<Ticket>);

impl Drop for TakeBack {
    fn drop(&mut self) {
        self.0.cancel();
    }
}

impl PeerClient {
    /// A client that shows `certs` and believes `trust`. Connects when first called.
    pub fn new(trust: Arc<TrustStore>, certs: Arc<CertSource>, options: PeerClientOptions) -> Self {
        Self(Arc::new(Inner {
            trust,
            certs,
            options,
            addresses: RwLock::default(),
            learned: RwLock::default(),
            links: Mutex::default(),
            ends: Mutex::default(),
        }))
    }

    /// Whom this client believes.
    pub fn trust(&self) -> &Arc<TrustStore> {
        &self.0.trust
    }

    /// Who this node is.
    pub fn own(&self) -> PeerIdentity {
        let own = self.0.trust.own();
        PeerIdentity {
            role: own.role,
            cluster: own.id.clone(),
            node: self.0.certs.identity().node,
        }
    }

    /// A node of a trusted cluster as a target; `None` when the cluster is not trusted.
    pub fn target(&self, cluster: &str, node: u64) -> Option<PeerTarget> {
        let role = self.0.trust.get(cluster)?.role;
        Some(PeerTarget {
            role,
            cluster: cluster.into(),
            node,
        })
    }

    /// Says where `to` is; goes before its descriptor. A connection to another address is hung up.
    pub fn set_address(&self, to: PeerTarget, address: String) {
        let before = self.0.address(&to);
        let mut addresses = self.0.addresses.write().expect("no writer panics");
        addresses.insert(to.clone(), address.clone());
        drop(addresses);
        if before.as_ref() != Some(&address) {
            // A link that dialled elsewhere, or knew no address, would fail what is asked next.
            self.hang_up(&to);
        }
    }

    /// Ends the connection to `to`. What waits on it has an unknown outcome; the next call connects anew.
    pub(super) fn hang_up(&self, to: &PeerTarget) {
        let link = self.0.links.lock().expect("no holder panics").remove(to);
        if let Some(link) = link {
            link.hang_up.cancel();
        }
    }

    /// Another node of its cluster says that `to`, which the descriptor may not name
    /// yet, is at `address`. Nothing else is believed: whoever answers there must show
    /// a certificate of that cluster's CA that names `to`. False: not kept.
    pub fn learn_address(&self, to: &PeerTarget, address: &str) -> bool {
        if address.is_empty() || address.len() > ADDRESS_BYTES_MAX {
            return false;
        }
        let mut learned = self.0.learned.write().expect("no writer panics");
        if learned.len() >= LEARNED_MAX && !learned.contains_key(to) {
            return false;
        }
        let before = learned.insert(to.clone(), address.into());
        drop(learned);
        if before.is_some_and(|b| b != address) {
            self.hang_up(to);
        }
        true
    }

    /// The address `to` would be dialled at.
    pub fn address(&self, to: &PeerTarget) -> Option<String> {
        self.0.address(to)
    }

    /// When the certificate ends that `to` showed at its last connection, or this node's own.
    pub fn certificate_ends(&self, to: &PeerTarget) -> Option<SystemTime> {
        if *to == self.own() {
            return Some(self.0.certs.ends());
        }
        self.0
            .ends
            .lock()
            .expect("no holder panics")
            .get(to)
            .copied()
    }

    fn link(&self, to: &PeerTarget) -> Arc<Link> {
        let mut links = self.0.links.lock().expect("no holder panics");
        if let Some(link) = links.get(to) {
            return link.clone();
        }
        let link = Arc::new(link::spawn(&self.0, to.clone()));
        links.insert(to.clone(), link.clone());
        link
    }

    /// Asks `service` of `to` and waits at most `timeout`, connecting included.
    ///
    /// # Errors
    /// [`CallError`], which says what may be concluded about the request.
    pub async fn call(
        &self,
        to: &PeerTarget,
        service: ServiceId,
        body: Vec<u8>,
        timeout: Duration,
    ) -> Result<Vec<u8>, CallError> {
        if body.len() > BODY_BYTES_MAX {
            let why = format!(
                "{} bytes, a peer request has at most {BODY_BYTES_MAX}",
                body.len()
            );
            return Err(CallError::NotSent(why));
        }
        let link = self.link(to);
        let busy = || {
            let max = self.0.options.in_flight_max;
            CallError::NotSent(format!("{to}: {max} requests in flight already"))
        };
        let _permit = link.in_flight.try_acquire().map_err(|_| busy())?;
        let ticket = Arc::new(Ticket::default());
        let _take_back = TakeBack(ticket.clone());
        let (answer, rx) = oneshot::channel();
        let out = Outgoing {
            service,
            body,
            ticket: ticket.clone(),
            answer,
        };
        link.queue.try_send(out).map_err(|_| busy())?;
        let unanswered = |why: String| {
            if ticket.cancel() {
                CallError::NotSent(why)
            } else {
                CallError::Unknown(why)
            }
        };
        match tokio::time::timeout(timeout, rx).await {
            Ok(Ok(answer)) => answer.map(Vec::from),
            Ok(Err(_)) => Err(unanswered(format!("{to}: the connection ended"))),
            Err(_) => Err(unanswered(format!(
                "{to}: no answer within {} ms",
                timeout.as_millis()
            ))),
        }
    }
}
