//! The groups of one node, running: started, initialised once, spread, handed
//! over at shutdown.

use super::group::{Group, GroupStatus};
use super::known::{KnownError, KnownNodes};
use super::network::{AskError, Factory, Groups, RAFT_IN_FLIGHT_MAX, RaftService, Router};
use super::recover::{self, Recovered};
use super::transfer::Incoming;
use super::{GroupId, TypeConfig};
use crate::config::{Config, RaftOptions, StoreKind};
use crate::peer::{Allow, CallError, PeerClient, PeerServer, ServiceError, services};
use crate::storage::OpenGroup;
use openraft::{BasicNode, Raft, SnapshotPolicy};
use quorate_engine::types::NodeId;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, RwLock};
use std::time::Duration;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Entries in one append message.
const APPEND_ENTRIES_MAX: u64 = 512;
/// A node that is not a group's first initialiser waits so long for the one that is.
const INITIALISE_WAIT: Duration = Duration::from_secs(4);
/// How often figures are published and the members looked at.
const MAINTAIN_EVERY: Duration = Duration::from_secs(1);
/// Leadership is spread only by leaders that have been in office so long.
const SPREAD_AFTER: Duration = Duration::from_secs(8);
/// Entries a node may be behind and still be called caught up.
pub const CAUGHT_UP_ENTRIES: u64 = 200;
/// Longest wait at shutdown for another node to take over a group.
const HAND_OVER_WAIT_MAX: Duration = Duration::from_millis(1_500);

/// Why a cluster's groups cannot run here.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    /// The list of nodes met before.
    #[error(transparent)]
    Known(#[from] KnownError),
    /// The timing options do not make sense to openraft.
    #[error("raft options: {0}")]
    Options(String),
    /// A group does not start.
    #[error("raft group {group} does not start: {reason}")]
    Start {
        /// The group.
        group: GroupId,
        /// Why.
        reason: String,
    },
}

/// How the groups run.
#[derive(Clone, Debug)]
pub struct ClusterOptions {
    /// The cluster's name.
    pub name: String,
    /// This node.
    pub node: NodeId,
    /// The nodes of the first start, with peer addresses. Empty: wait to be added.
    pub nodes: BTreeMap<NodeId, String>,
    /// Timing.
    pub raft: RaftOptions,
    /// Where the list of known nodes lives; `None` when the data lives in memory.
    pub data_dir: Option<PathBuf>,
}

impl ClusterOptions {
    /// From a node's configuration.
    pub fn of(config: &Config) -> Self {
        let durable = config.store.kind != StoreKind::Memory;
        Self {
            name: config.cluster.clone(),
            node: config.node,
            nodes: config.node_addresses(),
            raft: config.raft.clone(),
            data_dir: durable.then(|| config.data_dir.clone()),
        }
    }
}

/// A group with what arrives for it.
pub(super) struct Member {
    pub(super) group: Group,
    pub(super) incoming: tokio::sync::Mutex<Option<Incoming>>,
}

/// What `status` and health show of a cluster on this node.
#[derive(Clone, Debug, serde::Serialize)]
pub struct ClusterStatus {
    /// The cluster.
    pub cluster: String,
    /// This node.
    pub node: NodeId,
    /// Its groups, ascending.
    pub groups: Vec<GroupStatus>,
    /// Set after `cluster recover`, for ever: what was acknowledged before may be lost.
    pub recovered: Option<Recovered>,
    /// Set when this node is in no membership any more.
    pub removed: bool,
    /// Set when another node of the cluster refuses this one: removed before, or another data directory under its id.
    pub refused: Option<String>,
}

/// The groups of one node. Cheap to clone; call [`Cluster::shutdown`] to end it.
#[derive(Clone)]
pub struct Cluster(Arc<Inner>);

/// A [`Cluster`] that somebody else keeps running.
#[derive(Clone)]
pub struct WeakCluster(std::sync::Weak<Inner>);

impl WeakCluster {
    /// The cluster, if it still runs.
    pub fn upgrade(&self) -> Option<Cluster> {
        self.0.upgrade().map(Cluster)
    }
}

pub(super) struct Inner {
    pub(super) options: ClusterOptions,
    pub(super) router: Router,
    pub(super) known: Arc<KnownNodes>,
    groups: Groups,
    recovered: Option<Recovered>,
    stop: CancellationToken,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl std::fmt::Debug for Cluster {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "Cluster({} node {})",
            self.0.options.name, self.0.options.node
        )
    }
}

fn raft_config(o: &ClusterOptions) -> Result<openraft::Config, ClusterError> {
    let r = &o.raft;
    openraft::Config {
        cluster_name: o.name.clone(),
        heartbeat_interval: r.heartbeat_ms,
        election_timeout_min: r.election_ms_min,
        election_timeout_max: r.election_ms_max,
        enable_pre_vote: Some(true),
        // A restarted leader asks for votes again: nothing is served before the log was replayed.
        enable_leader_restore: Some(false),
        max_payload_entries: APPEND_ENTRIES_MAX,
        snapshot_policy: SnapshotPolicy::LogsSinceLast(r.snapshot_entries),
        max_in_snapshot_log_to_keep: r.keep_entries,
        replication_lag_threshold: r.keep_entries.max(1_000),
        ..openraft::Config::default()
    }
    .validate()
    .map_err(|e| ClusterError::Options(e.to_string()))
}

impl Cluster {
    /// Starts every group, registers the raft service and, at the very first start, forms the cluster.
    ///
    /// `server` should be serving already or soon: groups elect as soon as a majority answers.
    ///
    /// # Errors
    /// [`ClusterError`].
    pub async fn start(
        options: ClusterOptions,
        groups: Vec<(GroupId, OpenGroup)>,
        client: PeerClient,
        server: &PeerServer,
    ) -> Result<Self, ClusterError> {
        let known = Arc::new(KnownNodes::open(options.data_dir.as_deref())?);
        let router = Router::new(client, known.clone());
        for (id, address) in &options.nodes {
            router.set_address(*id, address);
        }
        let config = Arc::new(raft_config(&options)?);
        let running: Groups = Arc::new(RwLock::new(BTreeMap::new()));
        let service = RaftService {
            groups: running.clone(),
            known: known.clone(),
        };
        server.register(
            services::RAFT,
            Allow::SameCluster,
            RAFT_IN_FLIGHT_MAX,
            Arc::new(service),
        );
        for (id, open) in groups {
            let start = |reason: String| ClusterError::Start { group: id, reason };
            let factory = Factory::new(router.clone(), id);
            let raft = Raft::<TypeConfig, _>::new(
                options.node,
                config.clone(),
                factory,
                open.log,
                open.state,
            )
            .await
            .map_err(|e| start(e.to_string()))?;
            let group = Group::start(id, options.node, raft, open.reader);
            let member = Member {
                group,
                incoming: tokio::sync::Mutex::new(None),
            };
            running
                .write()
                .expect("no writer panics")
                .insert(id, Arc::new(member));
        }
        let recovered = options.data_dir.as_deref().and_then(recover::note);
        let stop = CancellationToken::new();
        let cluster = Self(Arc::new(Inner {
            options,
            router,
            known,
            groups: running,
            recovered,
            stop,
        }));
        cluster.initialise();
        cluster.maintain();
        Ok(cluster)
    }

    /// This node's id.
    pub fn node(&self) -> NodeId {
        self.0.options.node
    }

    /// A handle that does not keep the groups running.
    pub fn downgrade(&self) -> WeakCluster {
        WeakCluster(Arc::downgrade(&self.0))
    }

    pub(super) fn inner(&self) -> &Inner {
        &self.0
    }

    /// One group.
    pub fn group(&self, id: GroupId) -> Option<Group> {
        self.0
            .groups
            .read()
            .expect("no writer panics")
            .get(&id)
            .map(|m| m.group.clone())
    }

    /// All groups, ascending.
    pub fn groups(&self) -> Vec<Group> {
        let groups = self.0.groups.read().expect("no writer panics");
        groups.values().map(|m| m.group.clone()).collect()
    }

    /// Figures of everything here.
    pub fn status(&self) -> ClusterStatus {
        let groups: Vec<GroupStatus> = self.groups().iter().map(Group::status).collect();
        let own = self.node();
        let member = |g: &GroupStatus| g.voters.contains_key(&own) || g.learners.contains_key(&own);
        let removed =
            groups.iter().all(|g| !g.voters.is_empty() && !member(g)) && !groups.is_empty();
        ClusterStatus {
            cluster: self.0.options.name.clone(),
            node: own,
            groups,
            recovered: self.0.recovered.clone(),
            removed,
            refused: self.0.router.refused(),
        }
    }

    /// Forms each group at the very first start. Every node would do it with the same members,
    /// which raft allows; one of them goes first for each group, and so the leaders are spread
    /// from the beginning.
    fn initialise(&self) {
        let nodes = self.0.options.nodes.clone();
        if !nodes.contains_key(&self.node()) {
            return; // A joining node never forms a cluster of its own.
        }
        let ids: Vec<NodeId> = nodes.keys().copied().collect();
        for group in self.groups() {
            let (nodes, router, stop) = (nodes.clone(), self.0.router.clone(), self.0.stop.clone());
            let first = ids[group.id() as usize % ids.len()] == self.node();
            tokio::spawn(async move {
                tokio::select! {
                    () = stop.cancelled() => {}
                    () = form(&group, &nodes, &router, first) => {}
                }
            });
        }
    }

    fn maintain(&self) {
        let weak = Arc::downgrade(&self.0);
        let stop = self.0.stop.clone();
        tokio::spawn(async move {
            let mut office: BTreeMap<GroupId, Instant> = BTreeMap::new();
            let mut members: BTreeMap<GroupId, BTreeSet<NodeId>> = BTreeMap::new();
            loop {
                tokio::select! {
                    () = stop.cancelled() => return,
                    () = tokio::time::sleep(MAINTAIN_EVERY) => {}
                }
                let Some(inner) = weak.upgrade() else { return };
                let cluster = Cluster(inner);
                for group in cluster.groups() {
                    let status = group.status();
                    publish(&cluster.0.options.name, &status);
                    cluster.know_addresses(&status);
                    cluster.note_removals(&group, &mut members);
                    cluster.spread(&group, &status, &mut office).await;
                }
            }
        });
    }

    /// Takes the members' addresses from the membership. A newcomer's is in no configuration file,
    /// and only who leads or stands for election would learn it otherwise.
    pub(super) fn know_addresses(&self, status: &GroupStatus) {
        let others = status.voters.iter().chain(&status.learners);
        for (id, address) in others.filter(|(id, _)| **id != self.node()) {
            self.0.router.set_address(*id, address);
        }
    }

    /// Remembers members that are gone, so that their ids are refused for ever. Only applied
    /// memberships count: one that is not committed may yet be taken back.
    fn note_removals(&self, group: &Group, members: &mut BTreeMap<GroupId, BTreeSet<NodeId>>) {
        let applied = group.reader().members();
        let now: BTreeSet<NodeId> = applied.nodes().map(|(id, _)| *id).collect();
        if now.is_empty() {
            return;
        }
        let before = members.insert(group.id(), now.clone()).unwrap_or_default();
        let gone: BTreeSet<NodeId> = before
            .difference(&now)
            .copied()
            .filter(|id| *id != self.node())
            .collect();
        if !gone.is_empty() {
            tracing::info!(group = group.id(), ?gone, "nodes were removed");
            self.0.known.removed(&gone);
        }
    }

    /// Gives a group to the node whose turn it is, if that node is up and caught up.
    async fn spread(
        &self,
        group: &Group,
        s: &GroupStatus,
        office: &mut BTreeMap<GroupId, Instant>,
    ) {
        if !group.is_leader() {
            office.remove(&s.group);
            return;
        }
        let since = *office.entry(s.group).or_insert_with(Instant::now);
        let groups = self.0.groups.read().expect("no writer panics").len();
        if groups < 2 || !self.0.options.raft.spread_leaders || since.elapsed() < SPREAD_AFTER {
            return; // One group has nothing to be spread, and moving it costs a pause.
        }
        let voters: Vec<NodeId> = s.voters.keys().copied().collect();
        let Some(wanted) = voters.get(s.group as usize % voters.len().max(1)).copied() else {
            return;
        };
        if wanted == self.node() || !caught_up(s, wanted) {
            return;
        }
        // Asked, not assumed: a matched log says nothing about whether the node is up now.
        if self.0.router.hello(wanted).await.is_err() {
            return;
        }
        tracing::info!(
            group = s.group,
            to = wanted,
            "giving leadership to the node whose turn it is"
        );
        if let Err(e) = group.raft().trigger().transfer_leader(wanted).await {
            tracing::warn!(group = s.group, "leadership not transferred: {e}");
        }
        office.insert(s.group, Instant::now());
    }

    /// Hands every led group to another node, then stops all groups.
    pub async fn shutdown(&self) {
        self.0.stop.cancel();
        let all = self.groups();
        futures::future::join_all(all.iter().map(|g| self.hand_over(g))).await;
        for group in all {
            if let Err(e) = group.raft().shutdown().await {
                tracing::warn!(group = group.id(), "a raft task ended badly: {e}");
            }
        }
    }

    /// Gives `group` away if this node leads it; false when nobody took it in time.
    pub async fn hand_over(&self, group: &Group) -> bool {
        let s = group.status();
        if !group.is_leader() {
            return true;
        }
        let best = s
            .lag
            .iter()
            .filter(|(id, _)| s.voters.contains_key(id))
            .filter_map(|(id, lag)| lag.map(|l| (l, *id)))
            .min();
        let Some((_, to)) = best else { return false };
        if group.raft().trigger().transfer_leader(to).await.is_err() {
            return false;
        }
        let mut leadership = group.leadership();
        let gone = leadership.wait_for(|l| !l.is_leader && l.leader.is_some());
        tokio::time::timeout(HAND_OVER_WAIT_MAX, gone).await.is_ok()
    }
}

/// Whether `node` is known to have almost all of the leader's log.
pub(super) fn caught_up(s: &GroupStatus, node: NodeId) -> bool {
    matches!(s.lag.get(&node), Some(Some(lag)) if *lag <= CAUGHT_UP_ENTRIES)
}

async fn form(group: &Group, nodes: &BTreeMap<NodeId, String>, router: &Router, first: bool) {
    if !first {
        tokio::time::sleep(INITIALISE_WAIT).await;
    }
    loop {
        match group.raft().is_initialized().await {
            Ok(false) => {}
            Ok(true) => return,
            Err(e) => return tracing::error!(group = group.id(), "not formed: {e}"),
        }
        // Formed by others already: their leader will come. A node that lost its disk is refused by them.
        let mut formed = false;
        for peer in nodes.keys().filter(|id| **id != group.node()) {
            match router.hello(*peer).await {
                Ok(groups) => formed |= groups.contains(&group.id()),
                Err(AskError::Call(CallError::Refused(ServiceError::Forbidden(why)))) => {
                    return tracing::error!(
                        group = group.id(),
                        "not formed: node {peer} refuses this node: {why}"
                    );
                }
                Err(_) => {}
            }
        }
        if formed && !first {
            tokio::time::sleep(INITIALISE_WAIT).await;
            continue;
        }
        if formed {
            tokio::time::sleep(Duration::from_millis(500)).await;
            continue;
        }
        let members: BTreeMap<NodeId, BasicNode> = nodes
            .iter()
            .map(|(id, a)| (*id, BasicNode::new(a)))
            .collect();
        match group.raft().initialize(members).await {
            Ok(()) => return tracing::info!(group = group.id(), "group formed"),
            // Another node's log arrived in between: as good.
            Err(e) => tracing::debug!(group = group.id(), "not formed here: {e}"),
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

fn publish(cluster: &str, s: &GroupStatus) {
    let labels = || {
        [
            ("cluster", cluster.to_owned()),
            ("group", s.group.to_string()),
        ]
    };
    let set = |name: &'static str, v: u64| metrics::gauge!(name, &labels()).set(v as f64);
    set("quorate_raft_term", s.term);
    set("quorate_raft_leader", s.leader.unwrap_or(0));
    set("quorate_raft_last_applied", s.last_applied);
    set("quorate_raft_last_log", s.last_log);
    set("quorate_raft_snapshot", s.snapshot);
    set("quorate_raft_stopped", s.stopped.is_some().into());
    let worst = s.lag.values().map(|l| l.unwrap_or(s.last_log)).max();
    set("quorate_raft_lag_entries_max", worst.unwrap_or(0));
}

/// Where a node's cluster files live, if its data outlives it.
pub fn known_file(data_dir: &Path) -> PathBuf {
    data_dir.join(super::known::KNOWN_FILE)
}
