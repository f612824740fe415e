//! The same over real raft, real TLS and real files: three nodes of one
//! custodian opened from their configurations, and a home node that asks them.

use super::*;
use crate::config::{Config, RaftOptions};
use crate::peer::{PeerClient, PeerClientOptions, PeerServer, PeerTarget, ServerOptions, services};
use crate::pki::Entity;
use crate::pki::testkit::{certs, entity, trust};
use crate::raft::cluster::{Cluster, ClusterOptions};
use crate::storage::{Storage, StorageOptions};
use crate::store::StoreKind;
use quorate_engine::types::codec;
use tokio::net::TcpListener;

struct Node {
    cluster: Cluster,
    custodian: Custodian,
    stop: CancellationToken,
    _storage: Storage,
}

struct World {
    _dir: tempfile::TempDir,
    nodes: BTreeMap<NodeId, Node>,
    home: PeerClient,
    policy: PolicyId,
    log: [u8; 32],
}

const POLICY: &str = r#"
[policy.default]
threshold = 2
members = ["br", "ch", "is"]
"#;

async fn node(
    n: NodeId,
    listener: TcpListener,
    all: &BTreeMap<NodeId, String>,
    ch: &Entity,
    others: &[&Entity],
) -> Node {
    let stop = CancellationToken::new();
    let (trust, certs) = (trust(ch, others), certs(ch, n));
    let server = PeerServer::new(trust.clone(), certs.clone(), ServerOptions::default());
    let client = PeerClient::new(trust, certs, PeerClientOptions::default());
    server.serve(listener, stop.clone());
    std::fs::write(ch.node_dir(n).join("policy.toml"), POLICY).unwrap();
    let config = Config::load(&ch.config_path(n)).unwrap();
    let storage = StorageOptions {
        store: StoreKind::Redb,
        ..StorageOptions::default()
    };
    let storage = Storage::open(&config.data_dir, storage).unwrap();
    let machine = Arc::new(machine(&ch.descriptor).unwrap());
    let group = storage.group(GROUP, machine).unwrap();
    let options = ClusterOptions {
        name: "ch".into(),
        node: n,
        nodes: all.clone(),
        raft: RaftOptions {
            heartbeat_ms: 150,
            election_ms_min: 500,
            election_ms_max: 1_000,
            ..RaftOptions::default()
        },
        data_dir: None,
    };
    let started = Cluster::start(options, vec![(GROUP, group)], client.clone(), &server).await;
    let cluster = started.unwrap();
    let custodian = Custodian::open(&config, &cluster, client, &server, stop.clone()).unwrap();
    Node {
        cluster,
        custodian,
        stop,
        _storage: storage,
    }
}

impl World {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let make = |role, id, nodes| entity(dir.path(), role, id, nodes);
        let ch = make(ClusterRole::Custodian, "ch", 3);
        let ae = make(ClusterRole::Home, "ae", 4);
        let (is, br) = (
            make(ClusterRole::Custodian, "is", 1),
            make(ClusterRole::Custodian, "br", 1),
        );
        let mut listeners = Vec::new();
        let mut all = BTreeMap::new();
        for n in 1..=3 {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            all.insert(n, listener.local_addr().unwrap().to_string());
            listeners.push((n, listener));
        }
        let home = PeerClient::new(
            trust(&ae, &[&ch]),
            certs(&ae, 4),
            PeerClientOptions::default(),
        );
        let mut nodes = BTreeMap::new();
        for (n, listener) in listeners {
            home.set_address(target(n), all[&n].clone());
            nodes.insert(n, node(n, listener, &all, &ch, &[&ae, &is, &br]).await);
        }
        let facts = trust(&ch, &[&ae, &is, &br]);
        let config = Config::load(&ch.config_path(1)).unwrap();
        let canonical = policies(&config, &facts).unwrap();
        Self {
            _dir: dir,
            nodes,
            home,
            policy: Policy::from_canonical(&canonical[0]).unwrap().id(),
            log: ch.descriptor.log_key.unwrap().0,
        }
    }

    /// Asks as a home does: follows the leader, waits while the cluster is busy.
    async fn ask(&self, request: &CustodianRequest) -> CustodianReply {
        let body = codec::encode(PROTOCOL_VERSION, request);
        let mut to = *self.nodes.keys().next().unwrap();
        for _ in 0..200 {
            let wait = Duration::from_secs(5);
            let asked = target(to);
            let call = self
                .home
                .call(&asked, services::CUSTODIAN, body.clone(), wait);
            let next = self.nodes.keys().copied().find(|n| *n > to);
            let next = next.unwrap_or(*self.nodes.keys().next().unwrap());
            match call
                .await
                .map(|b| codec::decode("reply", PROTOCOL_VERSION, &b).unwrap())
            {
                Ok(CustodianReply::NotLeader { leader, .. }) => {
                    to = leader
                        .filter(|l| self.nodes.contains_key(l))
                        .unwrap_or(next);
                }
                Ok(CustodianReply::Busy { .. } | CustodianReply::Unknown { .. }) => {}
                Ok(reply) => return reply,
                Err(_) => to = next,
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        panic!("no answer in twenty seconds")
    }

    async fn meet(&self) -> Home {
        let CustodianReply::SealingKey(s) = self.ask(&CustodianRequest::SealingKey).await else {
            panic!("a statement")
        };
        let Place {
            deployment,
            custodian,
        } = place();
        s.verify(&deployment, &custodian, &self.log, system_clock()())
            .unwrap();
        let leader = loop {
            match self.nodes.values().find(|n| n.custodian.serves()) {
                Some(n) => break &n.custodian,
                None => tokio::time::sleep(Duration::from_millis(100)).await,
            }
        };
        let now = system_clock()();
        introduce(leader, now).await;
        let account = account_id(&people::founded_at(now, 1, 20 * DAY));
        let chat = chat_id(&chat_at(now, 1, 9));
        let grant = sign(1, claims(account, chat, now));
        Home::of(s, self.policy, self.log, chat, grant)
    }
}

fn target(node: NodeId) -> PeerTarget {
    PeerIdentity {
        role: ClusterRole::Custodian,
        cluster: "ch".into(),
        node,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn shares_survive_their_leader() {
    let mut world = World::new().await;
    let home = world.meet().await;
    let reply = world.ask(&home.store(&[1, 2], None)).await;
    // The policy may be approved a moment after the first key is in use.
    let reply = match reply {
        CustodianReply::Store(o) if o.contains(&StoreOutcome::PolicyNotApproved) => {
            tokio::time::sleep(Duration::from_secs(3)).await;
            world.ask(&home.store(&[1, 2], None)).await
        }
        reply => reply,
    };
    assert_eq!(reply, CustodianReply::Store(vec![StoreOutcome::Stored; 2]));
    let release = CustodianRequest::Release(home.release(1, &[1, 2, 3]));
    let want = [Ok(true), Ok(true), Err(Refusal::NotHeld)];
    let CustodianReply::Release(first) = world.ask(&release).await else {
        panic!("a release")
    };
    assert_eq!(home.open(&[1, 2, 3], &first), want);

    let serving = |w: &World| {
        w.nodes
            .iter()
            .find(|(_, n)| n.custodian.serves())
            .map(|(n, _)| *n)
    };
    let leader = serving(&world).unwrap();
    let gone = world.nodes.remove(&leader).unwrap();
    gone.stop.cancel();
    gone.cluster.shutdown().await;
    let CustodianReply::Release(second) = world.ask(&release).await else {
        panic!("a release")
    };
    assert_eq!(home.open(&[1, 2, 3], &second), want);
    assert!(second.receipt.entry > first.receipt.entry, "a new entry");
    assert_ne!(serving(&world), Some(leader));
    for node in world.nodes.values() {
        node.stop.cancel();
        node.cluster.shutdown().await;
    }
}
