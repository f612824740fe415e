//! Clusters of real nodes in one process: real TLS on loopback, real WAL, the
//! memory store unless a node restarts.

use super::cluster::{Cluster, ClusterOptions};
use super::group::{Group, ProposeError, ReadError};
use super::membership::MembershipError;
use super::{GroupId, recover};
use crate::config::{ClusterRole, RaftOptions};
use crate::peer::{PeerClient, PeerClientOptions, PeerServer, ServerOptions};
use crate::pki::entity::{Entity, NodeSpec};
use crate::pki::{TrustStore, testkit};
use crate::storage::{Storage, StorageOptions};
use crate::store::StoreKind;
use quorate_engine::types::NodeId;
use quorate_engine::types::kv::{Kv, KvError, Machine, Position};
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

const WAIT: Duration = Duration::from_secs(20);

/// Stores each command under its index; answers how many there are.
struct Counter;

/// A node that starts again takes its old port, which a passing connection of
/// another test may have been given meanwhile.
async fn bind_again(address: &str) -> TcpListener {
    let until = Instant::now() + WAIT;
    loop {
        match TcpListener::bind(address).await {
            Ok(listener) => return listener,
            Err(e) => assert!(Instant::now() < until, "{address}: {e}"),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

impl Machine for Counter {
    fn apply(&self, kv: &mut dyn Kv, at: Position, command: &[u8]) -> Result<Vec<u8>, KvError> {
        let n = kv
            .get(b"n")?
            .map_or(0, |v| u64::from_le_bytes(v.try_into().unwrap()))
            + 1;
        kv.put(b"n", &n.to_le_bytes())?;
        let mut key = b"c".to_vec();
        key.extend_from_slice(&at.index.to_be_bytes());
        kv.put(&key, command)?;
        Ok(n.to_le_bytes().to_vec())
    }
}

struct Node {
    id: NodeId,
    cluster: Cluster,
    storage: Option<Storage>,
    stop: CancellationToken,
    address: String,
}

impl Node {
    fn group(&self, id: GroupId) -> Group {
        self.cluster.group(id).unwrap()
    }
    /// The machine loses power: nothing is handed over, sockets just close.
    async fn kill(self) -> String {
        self.stop.cancel();
        for g in self.cluster.groups() {
            g.raft().shutdown().await.unwrap();
        }
        self.address
    }
}

struct World {
    dir: tempfile::TempDir,
    entity: Entity,
    groups: u32,
    store: StoreKind,
    raft: RaftOptions,
    seed: BTreeMap<NodeId, String>,
    listeners: BTreeMap<NodeId, TcpListener>,
}

impl World {
    async fn new(nodes: u64, groups: u32, store: StoreKind) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let entity = testkit::entity(dir.path(), ClusterRole::Custodian, "ch", nodes);
        let (mut seed, mut listeners) = (BTreeMap::new(), BTreeMap::new());
        for id in 1..=nodes {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            seed.insert(id, listener.local_addr().unwrap().to_string());
            listeners.insert(id, listener);
        }
        let raft = RaftOptions {
            spread_leaders: false,
            ..RaftOptions::default()
        };
        Self {
            dir,
            entity,
            groups,
            store,
            raft,
            seed,
            listeners,
        }
    }

    fn data(&self, id: NodeId, name: &str) -> PathBuf {
        self.dir.path().join(format!("{name}-{id}"))
    }

    async fn start(&mut self, id: NodeId) -> Node {
        let nodes = self.seed.clone();
        self.start_with(id, "data", nodes).await
    }

    fn open(&self, id: NodeId, name: &str) -> Storage {
        let options = StorageOptions {
            store: self.store,
            groups: self.groups as usize,
            ..Default::default()
        };
        Storage::open(&self.data(id, name), options).unwrap()
    }

    /// Waits until the last task of a node that was stopped in this process let go of its stores.
    async fn freed(&self, id: NodeId, name: &str) {
        let data = self.data(id, name);
        let held = |group: u32| {
            let file = data.join(format!("group-{group}")).join("state.redb");
            let opened = crate::store::redb::read_only(&file);
            file.exists() && opened.is_err_and(|e| e.to_string().contains("already open"))
        };
        until("the stopped node's stores are free", || {
            !(0..self.groups).any(held)
        })
        .await;
    }

    async fn start_with(
        &mut self,
        id: NodeId,
        name: &str,
        nodes: BTreeMap<NodeId, String>,
    ) -> Node {
        let listener = match self.listeners.remove(&id) {
            Some(l) => l,
            None => bind_again(self.seed.get(&id).map_or("127.0.0.1:0", String::as_str)).await,
        };
        let address = listener.local_addr().unwrap().to_string();
        let certs = testkit::certs(&self.entity, id);
        let trust = TrustStore::of(self.entity.descriptor.clone(), vec![]).unwrap();
        let client = PeerClient::new(trust.clone(), certs.clone(), PeerClientOptions::default());
        let server = PeerServer::new(trust, certs, ServerOptions::default());
        self.freed(id, name).await;
        let storage = self.open(id, name);
        let groups = (0..self.groups)
            .map(|g| (g, storage.group(g, Arc::new(Counter)).unwrap()))
            .collect();
        let options = ClusterOptions {
            name: "ch".into(),
            node: id,
            nodes,
            raft: self.raft.clone(),
            data_dir: Some(self.data(id, name)),
        };
        let cluster = Cluster::start(options, groups, client, &server)
            .await
            .unwrap();
        let stop = CancellationToken::new();
        server.serve(listener, stop.clone());
        Node {
            id,
            cluster,
            storage: Some(storage),
            stop,
            address,
        }
    }

    async fn start_all(&mut self) -> Vec<Node> {
        let ids: Vec<NodeId> = self.seed.keys().copied().collect();
        let mut out = Vec::new();
        for id in ids {
            out.push(self.start(id).await);
        }
        out
    }

    fn add_entity_node(&mut self, id: NodeId) {
        let spec = testkit::spec(ClusterRole::Custodian, "ch", id)
            .nodes
            .pop()
            .unwrap();
        let like = crate::config::Config::load(&self.entity.config_path(1)).unwrap();
        self.entity
            .add_node(&NodeSpec { id, ..spec }, &like)
            .unwrap();
    }
}

async fn until(what: &str, mut done: impl FnMut() -> bool) {
    let end = Instant::now() + WAIT;
    while !done() {
        assert!(Instant::now() < end, "not within {WAIT:?}: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// The node that leads `group`, by its own word.
async fn leader(nodes: &[Node], group: GroupId) -> &Node {
    let mut found = None;
    until("a leader", || {
        found = nodes.iter().position(|n| n.group(group).is_leader());
        found.is_some()
    })
    .await;
    &nodes[found.unwrap()]
}

/// Proposes at whoever leads, as a caller would: again only where nothing was done.
async fn propose(nodes: &[Node], group: GroupId, command: &[u8]) -> u64 {
    let end = Instant::now() + WAIT;
    loop {
        for node in nodes {
            match node.group(group).propose(command.to_vec()).await {
                Ok((_, reply)) => return u64::from_le_bytes(reply.try_into().unwrap()),
                Err(ProposeError::NotLeader { .. }) => {}
                Err(e) => panic!("{e}"),
            }
        }
        assert!(Instant::now() < end, "no leader took the proposal");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn count(group: &Group) -> u64 {
    group
        .view(|kv| kv.get(b"n").unwrap())
        .unwrap()
        .map_or(0, |v| u64::from_le_bytes(v.try_into().unwrap()))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn eight_groups_elect_commit_lose_a_node_and_go_on() {
    let mut w = World::new(3, 8, StoreKind::Memory).await;
    let mut nodes = w.start_all().await;
    let mut leaders = BTreeSet::new();
    for g in 0..8 {
        leaders.insert(leader(&nodes, g).await.id);
        assert_eq!(propose(&nodes, g, b"first").await, 1);
    }
    assert_eq!(leaders.len(), 3, "leaders are spread from the beginning");

    // Reads: linearizable at the leader, refused with a hint elsewhere.
    let at = leader(&nodes, 0).await;
    let index = at.group(0).read_index().await.unwrap();
    assert!(index >= at.group(0).status().committed.min(2), "{index}");
    assert_eq!(count(&at.group(0)), 1);
    let other = nodes.iter().find(|n| n.id != at.id).unwrap();
    assert_eq!(
        other.group(0).read_index().await,
        Err(ReadError::NotLeader {
            leader: Some(at.id)
        })
    );
    let refused = other.group(0).propose(b"x".to_vec()).await.unwrap_err();
    assert_eq!(
        refused,
        ProposeError::NotLeader {
            leader: Some(at.id)
        }
    );

    // A batch keeps its order and answers each.
    let batch: Vec<Vec<u8>> = (0..32u8).map(|n| vec![n; 10]).collect();
    let replies = at.group(0).propose_many(batch).await;
    let counts: Vec<u64> = replies
        .into_iter()
        .map(|r| u64::from_le_bytes(r.unwrap().1.try_into().unwrap()))
        .collect();
    assert_eq!(counts, (2..34).collect::<Vec<u64>>());
    // A batch larger than one message goes in parts; a command over the limit not at all.
    let large = at
        .group(0)
        .propose_many((0..6).map(|_| vec![9; 2 << 20]).collect())
        .await;
    assert!(large.iter().all(Result::is_ok), "{large:?}");
    let e = at
        .group(0)
        .propose(vec![0; super::group::COMMAND_BYTES_MAX + 1])
        .await
        .unwrap_err();
    assert!(matches!(e, ProposeError::TooLarge(_)), "{e}");

    let dead = nodes.remove(0);
    let gone = dead.id;
    dead.kill().await;
    for g in 0..8 {
        let n = propose(&nodes, g, b"second").await;
        assert_eq!(n, if g == 0 { 40 } else { 2 });
        assert_ne!(leader(&nodes, g).await.id, gone);
    }
    for g in 0..8 {
        let want = if g == 0 { 40 } else { 2 };
        until("both apply", || {
            nodes.iter().all(|n| count(&n.group(g)) == want)
        })
        .await;
        let hashes: BTreeSet<[u8; 32]> = nodes
            .iter()
            .map(|n| n.group(g).state_hash().unwrap().1)
            .collect();
        assert_eq!(hashes.len(), 1, "state of group {g} differs");
    }
    // Two of three gone: nothing is confirmed any more, and nothing says it was.
    let last = nodes.pop().unwrap();
    nodes.pop().unwrap().kill().await;
    let proposal =
        tokio::time::timeout(Duration::from_secs(3), last.group(1).propose(b"x".to_vec())).await;
    assert!(!matches!(proposal, Ok(Ok(_))), "{proposal:?}");
    assert!(last.group(1).read_index().await.is_err());
    last.kill().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_late_node_gets_a_snapshot_and_members_come_and_go() {
    let mut w = World::new(3, 2, StoreKind::Memory).await;
    w.raft = RaftOptions {
        snapshot_entries: 50,
        keep_entries: 10,
        ..w.raft.clone()
    };
    w.add_entity_node(4);
    let mut nodes = w.start_all().await;
    for n in 1..=150u64 {
        assert_eq!(propose(&nodes, 0, &[7; 20_000]).await, n);
    }
    propose(&nodes, 1, b"x").await;
    let at = leader(&nodes, 0).await;
    until("the log is purged behind a snapshot", || {
        let s = at.group(0).status();
        s.snapshot >= 100
    })
    .await;

    // An id that is in use at another address, and a node that is not there.
    let e = at.cluster.add_node(2, "127.0.0.1:1").await.unwrap_err();
    assert!(matches!(e, MembershipError::Refused { node: 2, .. }), "{e}");
    let e = at.cluster.add_node(4, "127.0.0.1:1").await.unwrap_err();
    assert!(
        matches!(e, MembershipError::Unreachable { node: 4, .. }),
        "{e}"
    );

    let four = w.start_with(4, "data", BTreeMap::new()).await;
    nodes[0].cluster.add_node(4, &four.address).await.unwrap();
    nodes[0]
        .cluster
        .add_node(4, &four.address)
        .await
        .expect("repeating it is fine");
    assert_eq!(count(&four.group(0)), 150);
    assert!(
        four.group(0).reader().snapshot().is_some(),
        "it came as a snapshot"
    );
    until("it votes", || four.group(0).status().voters.len() == 4).await;
    tokio::time::sleep(Duration::from_millis(1_200)).await; // One round of maintenance.
    for node in &nodes {
        // Also by who never led anything: it may have to ask when the newcomer leads.
        let seen = node.cluster.inner().router.status(4, 0).await;
        assert_eq!(seen.expect("it is reached").voters.len(), 4);
    }
    nodes.push(four);
    // A change asked of a node that does not lead goes to the newcomer, if that leads.
    let at = leader(&nodes, 0).await;
    if at.id != 4 {
        let moved = at.group(0).raft().trigger().transfer_leader(4).await;
        moved.unwrap();
    }
    until("the newcomer leads", || nodes[3].group(0).is_leader()).await;
    let step = nodes[0].cluster.add_node(4, &nodes[3].address);
    let step = tokio::time::timeout(Duration::from_secs(10), step).await;
    step.expect("the newcomer is asked").unwrap();
    // Nobody may take it in time where the machine is busy: it is offered again.
    let offered = Instant::now();
    while !nodes[3].cluster.hand_over(&nodes[3].group(0)).await {
        assert!(offered.elapsed() < WAIT, "somebody takes over");
    }

    // Leadership moves on request, and a node that leads can be removed.
    let at = leader(&nodes, 0).await;
    let removed = at.id;
    at.cluster.remove_node(removed).await.unwrap();
    let rest: Vec<&Node> = nodes.iter().filter(|n| n.id != removed).collect();
    until("it is gone everywhere", || {
        rest.iter()
            .all(|n| (0..2).all(|g| !n.group(g).status().voters.contains_key(&removed)))
    })
    .await;
    let e = rest[0].cluster.remove_node(removed).await.unwrap_err();
    assert_eq!(e, MembershipError::NoMember(removed));
    let position = nodes.iter().position(|n| n.id == removed).unwrap();
    let address = nodes.remove(position).kill().await;
    assert_eq!(propose(&nodes, 0, b"after").await, 151);

    // Its id never comes back: neither with its old data nor with none.
    tokio::time::sleep(Duration::from_millis(1_200)).await; // One round of maintenance.
    w.seed.insert(removed, address);
    for data in ["data", "other"] {
        if data == "data" && w.store == StoreKind::Memory {
            // The memory store forgets, the log does not: a start from purged log is refused, as it should be.
            continue;
        }
        let back = w.start_with(removed, data, BTreeMap::new()).await;
        let e = nodes[0]
            .cluster
            .add_node(removed, &back.address)
            .await
            .unwrap_err();
        assert!(matches!(e, MembershipError::Refused { .. }), "{e}");
        back.kill().await;
    }
    for n in nodes {
        n.kill().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn restarts_wiped_nodes_shutdown_and_recovery() {
    let mut w = World::new(3, 1, StoreKind::Redb).await;
    let mut nodes = w.start_all().await;
    for n in 1..=20 {
        assert_eq!(propose(&nodes, 0, b"x").await, n);
    }
    // A clean shutdown of the leader hands over without an election timeout.
    let at = leader(&nodes, 0).await.id;
    let position = nodes.iter().position(|n| n.id == at).unwrap();
    let leaving = nodes.remove(position);
    assert!(
        leaving.cluster.hand_over(&leaving.group(0)).await,
        "another node took over, long before an election timeout"
    );
    leaving.cluster.shutdown().await;
    leaving.stop.cancel();
    assert_eq!(propose(&nodes, 0, b"x").await, 21);
    // It comes back with its data, catches up and is welcome.
    drop(leaving);
    let back = w.start(at).await;
    until("it catches up", || count(&back.group(0)) == 21).await;
    // It comes back without its data: refused by those who remember it, whatever its configuration says.
    back.kill().await;
    let seed = w.seed.clone();
    let wiped = w.start_with(at, "wiped", seed).await;
    assert_eq!(propose(&nodes, 0, b"x").await, 22);
    tokio::time::sleep(Duration::from_millis(2_500)).await;
    assert_eq!(
        count(&wiped.group(0)),
        0,
        "nothing was sent to a node that forgot its votes"
    );
    assert!(!wiped.group(0).is_leader());
    let refused = wiped.cluster.status().refused.unwrap_or_default();
    assert!(refused.contains("another data directory"), "{refused}");
    wiped.kill().await;

    // A majority is lost for good.
    let survivor = nodes.pop().unwrap();
    nodes.pop().unwrap().kill().await;
    let (id, address) = (survivor.id, survivor.address.clone());
    let storage = {
        let mut s = survivor;
        let st = s.storage.take();
        s.kill().await;
        st
    };
    storage.unwrap().close().unwrap();
    w.freed(id, "data").await;
    let storage = w.open(id, "data");
    let data = w.data(id, "data");
    let done = recover::recover(&data, &storage, &[0], |_| Arc::new(Counter), id, &address)
        .await
        .unwrap();
    assert_eq!(done.given_up.len(), 2);
    storage.close().unwrap();
    drop(storage);
    let alone = w.start(id).await;
    until("it leads alone", || alone.group(0).is_leader()).await;
    assert_eq!(propose(std::slice::from_ref(&alone), 0, b"x").await, 23);
    assert_eq!(alone.group(0).read_index().await.map(drop), Ok(()));
    let status = alone.cluster.status();
    assert_eq!(status.recovered.unwrap().given_up, done.given_up);
    assert_eq!(
        status.groups[0].voters.keys().copied().collect::<Vec<_>>(),
        [id]
    );
    // The old members are refused for ever.
    let old = *done.given_up.first().unwrap();
    let ghost = w.start(old).await;
    let e = alone
        .cluster
        .add_node(old, &ghost.address)
        .await
        .unwrap_err();
    assert!(matches!(e, MembershipError::Refused { .. }), "{e}");
    ghost.kill().await;
    alone.kill().await;
}
