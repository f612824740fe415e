//! Three nodes of one custodian over a log that commits at once: everything
//! but sockets and disks of raft. The vaults are real files.

mod raft;

use super::*;
use crate::config::ClusterRole;
use crate::peer::{PeerIdentity, Service};
use futures::future::BoxFuture;
use quorate_engine::crypto::seal::{
    Receiver, RecipientKey, ReleaseBinding, Sender, ShareBinding, deal_info, release_info,
};
use quorate_engine::custody::protocol::*;
use quorate_engine::custody::{self, Custody, KeyKind, Operator, ShredOutcome};
use quorate_engine::policy::Policy;
use quorate_engine::sharing::commitment;
use quorate_engine::types::kv::{KvError, KvRead, Machine, MemKv, Position};
use quorate_engine::types::*;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize};

const T0: u64 = 1_700_000_000_000;
const DAY: u64 = 24 * 60 * 60 * 1000;

/// One log, shared by all nodes: what consensus promises, without its work.
struct Shared {
    state: Mutex<(MemKv, u64)>,
    lead: RwLock<(Option<NodeId>, u64)>,
    members: RwLock<BTreeSet<NodeId>>,
    machine: Custody,
    proposals: AtomicUsize,
    handed_over: AtomicUsize,
    slow: Duration,
}

struct OneLog(NodeId, Arc<Shared>);

impl Consensus for OneLog {
    fn node(&self) -> NodeId {
        self.0
    }
    fn lead(&self) -> Lead {
        let (leader, term) = *self.1.lead.read().unwrap();
        Lead {
            leader,
            term,
            is_leader: leader == Some(self.0),
        }
    }
    fn propose(&self, command: Vec<u8>) -> BoxFuture<'_, Result<(Position, Vec<u8>), SubmitError>> {
        Box::pin(async move {
            let Lead { leader, term, .. } = self.lead();
            if leader != Some(self.0) {
                return Err(SubmitError::NotLeader { leader });
            }
            tokio::time::sleep(self.1.slow).await;
            self.1.proposals.fetch_add(1, Ordering::SeqCst);
            let (kv, index) = &mut *self.1.state.lock().unwrap();
            *index += 1;
            let at = Position {
                term,
                index: *index,
            };
            let reply = self.1.machine.apply(kv, at, &command);
            Ok((at, reply.unwrap()))
        })
    }
    fn read_index(&self) -> BoxFuture<'_, Result<u64, SubmitError>> {
        Box::pin(async move { Ok(self.1.state.lock().unwrap().1) })
    }
    fn view(&self, read: &mut dyn FnMut(&dyn KvRead)) -> Result<(), KvError> {
        read(&self.1.state.lock().unwrap().0);
        Ok(())
    }
    fn voters(&self) -> BTreeSet<NodeId> {
        self.1.members.read().unwrap().clone()
    }
    fn members(&self) -> BTreeSet<NodeId> {
        self.1.members.read().unwrap().clone()
    }
    fn hand_over(&self) -> BoxFuture<'_, ()> {
        self.1.handed_over.fetch_add(1, Ordering::SeqCst);
        Box::pin(async {})
    }
}

/// Calls straight into the other nodes.
#[derive(Default)]
struct Wire {
    nodes: RwLock<BTreeMap<NodeId, Custodian>>,
    cut: AtomicBool,
}

struct From(NodeId, Arc<Wire>);

impl Peers for From {
    fn call(&self, node: NodeId, body: Vec<u8>) -> BoxFuture<'_, Result<Vec<u8>, String>> {
        Box::pin(async move {
            if self.1.cut.load(Ordering::SeqCst) {
                return Err("cut off".into());
            }
            let to = self.1.nodes.read().unwrap().get(&node).cloned();
            let to = to.ok_or("not there")?;
            let from = PeerIdentity {
                role: ClusterRole::Custodian,
                cluster: "ch".into(),
                node: self.0,
            };
            let answer = to.internal_service().call(from, body.into()).await;
            answer.map_err(|e| e.to_string())
        })
    }
}

struct Bench {
    dir: tempfile::TempDir,
    shared: Arc<Shared>,
    wire: Arc<Wire>,
    clocks: BTreeMap<NodeId, Arc<AtomicU64>>,
    stop: CancellationToken,
}

impl Drop for Bench {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

fn place() -> Place {
    Place {
        deployment: crate::pki::testkit::DEPLOYMENT,
        custodian: CustodianId::new("ch").unwrap(),
    }
}

fn signing() -> SigningKeys {
    SigningKeys {
        log: SigningKey::from_seed(&Secret::take(&mut [2; 32])),
    }
}

fn policy() -> Policy {
    let id = |n| CustodianId::new(n).unwrap();
    let children = ["br", "ch", "is"].map(|n| Structure::Leaf(id(n))).to_vec();
    let structure = Structure::Gate {
        threshold: 2,
        children,
    };
    let identities = [("br", 1), ("ch", 2), ("is", 3)].map(|(n, b)| (id(n), [b; 32]));
    Policy::new(structure, BTreeMap::from(identities)).unwrap()
}

impl Bench {
    async fn new(nodes: u64) -> Self {
        let bench = Self::without_nodes(nodes, Duration::ZERO);
        for n in 1..=nodes {
            bench.start(n);
        }
        bench.elect(1).await;
        bench
    }

    fn without_nodes(nodes: u64, slow: Duration) -> Self {
        let shared = Shared {
            state: Mutex::default(),
            lead: RwLock::new((None, 0)),
            members: RwLock::new((1..=nodes).collect()),
            machine: Custody::new(place().custodian, [2; 32]),
            proposals: AtomicUsize::new(0),
            handed_over: AtomicUsize::new(0),
            slow,
        };
        Self {
            dir: tempfile::tempdir().unwrap(),
            shared: Arc::new(shared),
            wire: Arc::default(),
            clocks: (1..=9).map(|n| (n, Arc::new(AtomicU64::new(T0)))).collect(),
            stop: CancellationToken::new(),
        }
    }

    fn vault_dir(&self, node: NodeId) -> std::path::PathBuf {
        self.dir.path().join(node.to_string())
    }

    fn start(&self, node: NodeId) {
        let dir = self.vault_dir(node);
        std::fs::create_dir_all(&dir).unwrap();
        let clock = self.clocks[&node].clone();
        let parts = Parts {
            place: place(),
            signing: signing(),
            consensus: Arc::new(OneLog(node, self.shared.clone())),
            peers: Arc::new(From(node, self.wire.clone())),
            homes: Arc::new(|| BTreeSet::from([HomeId::new("ae").unwrap()])),
            clock: Arc::new(move || clock.load(Ordering::SeqCst)),
            vault: open_vault(&dir, node),
            options: CustodianOptions {
                tick: Duration::from_millis(20),
                policies: vec![policy().canonical()],
                ..CustodianOptions::default()
            },
        };
        let custodian = Custodian::start(parts, self.stop.clone());
        self.wire.nodes.write().unwrap().insert(node, custodian);
    }

    fn node(&self, node: NodeId) -> Custodian {
        self.wire.nodes.read().unwrap()[&node].clone()
    }

    fn depose(&self) {
        self.shared.lead.write().unwrap().0 = None;
    }

    fn lead(&self, node: NodeId) {
        let mut lead = self.shared.lead.write().unwrap();
        *lead = (Some(node), lead.1 + 1);
    }

    /// Makes `node` the leader and waits until it serves with all keys in use.
    async fn elect(&self, node: NodeId) {
        self.lead(node);
        self.until(|| {
            let c = self.node(node);
            let status = c.status().unwrap();
            c.serves() && status.overview.sealing.is_some() && !status.overview.policies.is_empty()
        })
        .await;
    }

    async fn until(&self, mut so: impl FnMut() -> bool) {
        for _ in 0..1_000 {
            if so() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("not so within ten seconds");
    }

    fn set_clocks(&self, now: u64) {
        for clock in self.clocks.values() {
            clock.store(now, Ordering::SeqCst);
        }
    }

    fn log_size(&self) -> u64 {
        let state = self.shared.state.lock().unwrap();
        custody::overview(&state.0).unwrap().log_size
    }
}

fn open_vault(dir: &Path, node: NodeId) -> Vault {
    Vault::open(dir, &place(), node, RootKey(Secret::take(&mut [9; 32]))).unwrap()
}

fn home_node() -> PeerIdentity {
    PeerIdentity {
        role: ClusterRole::Home,
        cluster: "ae".into(),
        node: 4,
    }
}

fn chat() -> ChatId {
    ChatId([5; 32])
}

fn binding(key_id: KeyId, policy: PolicyId) -> ShareBinding {
    ShareBinding {
        deployment: place().deployment,
        custodian: place().custodian,
        chat: chat(),
        key_id,
        policy,
    }
}

/// A home's side: one session, one lease key.
struct Home {
    session: SealSession,
    sender: Sender,
    lease: RecipientKey,
    policy: PolicyId,
    log: [u8; 32],
}

fn share_of(key_id: &KeyId) -> Share {
    Share(Secret::take(&mut [key_id.0[0] ^ 0x5a; 32]))
}

fn key(n: u8) -> KeyId {
    KeyId([n; 16])
}

impl Home {
    async fn meet(c: &Custodian) -> Self {
        let reply = c.answer(&home_node(), CustodianRequest::SealingKey).await;
        let CustodianReply::SealingKey(s) = reply else {
            panic!("{reply:?}")
        };
        let identity = signing().log.public();
        let Place {
            deployment,
            custodian,
        } = place();
        s.verify(&deployment, &custodian, &identity, c.now())
            .unwrap();
        Self::of(s, policy().id(), signing().log.public())
    }

    fn of(s: SealingKeyStatement, policy: PolicyId, log: [u8; 32]) -> Self {
        let Place {
            deployment,
            custodian,
        } = place();
        let info = deal_info(&deployment, &custodian, s.version);
        let mut rng = rand::rng();
        let (sender, encapsulated) = Sender::new(&s.public, &info, &mut rng).unwrap();
        let session = SealSession {
            id: SessionId([1; 16]),
            custodian,
            version: s.version,
            expires_ms: s.expires_ms,
            encapsulated,
        };
        Self {
            session,
            sender,
            lease: RecipientKey::generate(&mut rng),
            policy,
            log,
        }
    }

    fn store(&self, keys: &[u8], expires_ms: Option<u64>) -> CustodianRequest {
        let seal = |k: &u8| {
            let (key_id, mut nonce) = (key(*k), [0; 24]);
            rand::Rng::fill_bytes(&mut rand::rng(), &mut nonce);
            let share = share_of(&key_id);
            SealedItem {
                chat: chat(),
                key_id,
                policy: self.policy,
                commitment: commitment(&key_id, &place().custodian, &share),
                sealed: self
                    .sender
                    .seal(&binding(key_id, self.policy), None, nonce, &share),
                expires_ms,
            }
        };
        CustodianRequest::Store(StoreRequest {
            home: HomeId::new("ae").unwrap(),
            deployment: place().deployment,
            session: self.session.clone(),
            items: keys.iter().map(seal).collect(),
        })
    }

    fn release(&self, request: u8, keys: &[u8]) -> ReleaseRequest {
        let key_ref = |k: &u8| KeyRef {
            chat: chat(),
            key_id: key(*k),
        };
        ReleaseRequest {
            request: RequestId([request; 16]),
            home: HomeId::new("ae").unwrap(),
            node: 4,
            deployment: place().deployment,
            lease_key: self.lease.public(),
            reason: Reason::Read,
            keys: keys.iter().map(key_ref).collect(),
        }
    }

    /// Opens what came back: `Ok(first byte)` per key.
    fn open(&self, keys: &[u8], reply: &ReleaseReply) -> Vec<Result<bool, Refusal>> {
        let Place {
            deployment,
            custodian,
        } = place();
        let ask = RequestId(reply.receipt.request.0);
        let receipt = &reply.receipt;
        receipt
            .verify(&deployment, &custodian, &ask, &self.log)
            .unwrap();
        let info = release_info(&deployment, &custodian);
        let context = ReleaseBinding {
            authority: quorate_engine::authz::home_authority(
                &deployment,
                &HomeId::new("ae").unwrap(),
                4,
            ),
            node: 4,
            lease_key: self.lease.public().hash(),
        };
        let opened = |(k, s): (&u8, &ShareResult)| match s {
            ShareResult::Refused(why) => Err(*why),
            ShareResult::Share { sealed } => {
                let opener = Receiver::new(&self.lease, &reply.encapsulated, &info).unwrap();
                let share = opener
                    .open(&binding(key(*k), self.policy), Some(&context), sealed)
                    .unwrap();
                Ok(share.expose() == share_of(&key(*k)).expose())
            }
        };
        keys.iter().zip(&reply.shares).map(opened).collect()
    }
}

async fn stored(c: &Custodian, request: CustodianRequest) -> Vec<StoreOutcome> {
    match c.answer(&home_node(), request).await {
        CustodianReply::Store(outcomes) => outcomes,
        other => panic!("{other:?}"),
    }
}

async fn released(
    c: &Custodian,
    home: &Home,
    request: u8,
    keys: &[u8],
) -> Vec<Result<bool, Refusal>> {
    let ask = CustodianRequest::Release(home.release(request, keys));
    match c.answer(&home_node(), ask).await {
        CustodianReply::Release(reply) => home.open(keys, &reply),
        other => panic!("{other:?}"),
    }
}

fn operator() -> Operator {
    Operator {
        name: "olga".into(),
        certificate: [7; 32],
    }
}

#[tokio::test]
async fn a_new_cluster_makes_its_keys_and_every_node_keeps_them() {
    let bench = Bench::new(3).await;
    for n in 1..=3 {
        let status = bench.node(n).status().unwrap();
        assert_eq!(status.serves, n == 1);
        assert_eq!(status.wrapping_loaded, [1]);
        assert_eq!(status.sealing_loaded, [1]);
        assert_eq!(status.overview.voters, BTreeSet::from([1, 2, 3]));
        let held: Vec<_> = open_vault(&bench.vault_dir(n), n)
            .keys()
            .map(|(kind, version, _)| (kind, version))
            .collect();
        assert_eq!(held, [(KeyKind::Sealing, 1), (KeyKind::Wrapping, 1)]);
    }
    let row = |kind| {
        let state = bench.shared.state.lock().unwrap();
        custody::key_version(&state.0, kind, 1).unwrap().unwrap()
    };
    for kind in [KeyKind::Sealing, KeyKind::Wrapping] {
        assert_eq!(row(kind).attested, BTreeSet::from([1, 2, 3]));
    }
}

#[tokio::test]
async fn shares_come_back_and_restrictions_hold() {
    let bench = Bench::new(3).await;
    let c = bench.node(1);
    let home = Home::meet(&c).await;
    let mut request = home.store(&[1, 2, 3], None);
    let CustodianRequest::Store(r) = &mut request else {
        unreachable!()
    };
    r.items[1].sealed[40] ^= 1;
    use StoreOutcome::*;
    assert_eq!(stored(&c, request).await, [Stored, BadShare, Stored]);
    assert_eq!(
        stored(&c, home.store(&[1, 2], None)).await,
        [AlreadyStored, Stored]
    );
    let size = bench.log_size();
    assert_eq!(
        released(&c, &home, 1, &[1, 2, 9]).await,
        [Ok(true), Ok(true), Err(Refusal::NotHeld)]
    );
    assert_eq!(bench.log_size(), size + 1, "recorded first");

    let frozen = c
        .freeze(operator(), FreezeScope::All, "seizure".into())
        .await;
    let began = frozen.unwrap().entry;
    assert_eq!(
        released(&c, &home, 1, &[1, 2, 9]).await[0],
        Err(Refusal::Frozen)
    );
    let CustodianReply::Feed(feed) = c
        .answer(&home_node(), CustodianRequest::Feed { since: 0 })
        .await
    else {
        panic!("a feed")
    };
    assert_eq!(feed.freezes, [(FreezeScope::All, began)]);
    assert!(feed.position > began);
    let thawed = c
        .thaw(operator(), FreezeScope::All, "over".into())
        .await
        .unwrap();
    assert!(thawed.changed);
    let key_ref = home.release(0, &[1]).keys;
    let shredded = c
        .shred(operator(), key_ref.clone(), "asked".into())
        .await
        .unwrap();
    assert_eq!(shredded.value, [ShredOutcome::Destroyed]);
    assert_eq!(
        released(&c, &home, 2, &[1, 3]).await,
        [Err(Refusal::Tombstoned), Ok(true)]
    );
    let abandon = CustodianRequest::Abandon(AbandonRequest {
        home: HomeId::new("ae").unwrap(),
        deployment: place().deployment,
        keys: home.release(0, &[1, 3, 8]).keys,
    });
    use AbandonOutcome as A;
    assert_eq!(
        c.answer(&home_node(), abandon).await,
        CustodianReply::Abandon(vec![A::Tombstoned, A::Refused, A::Tombstoned])
    );
    let long = "x".repeat(custody::REASON_BYTES_MAX + 1);
    let e = c.freeze(operator(), FreezeScope::All, long).await;
    assert!(matches!(e, Err(OperatorProblem::Invalid(_))));
}

#[tokio::test]
async fn who_is_not_the_home_it_says_gets_nothing_and_leaves_no_entry() {
    let bench = Bench::new(1).await;
    let c = bench.node(1);
    let home = Home::meet(&c).await;
    stored(&c, home.store(&[1], None)).await;
    let size = bench.log_size();
    let good = home.release(1, &[1]);
    let mut wrong = Vec::new();
    for (role, cluster, node) in [
        (ClusterRole::Custodian, "ae", 4),
        (ClusterRole::Home, "zz", 4),
        (ClusterRole::Home, "ae", 5),
    ] {
        let cluster = cluster.into();
        wrong.push((
            PeerIdentity {
                role,
                cluster,
                node,
            },
            good.clone(),
        ));
    }
    let stranger = HomeId::new("zz").unwrap();
    let mut r = good.clone();
    r.home = stranger;
    wrong.push((
        PeerIdentity {
            cluster: "zz".into(),
            ..home_node()
        },
        r,
    ));
    let mut r = good.clone();
    r.deployment = DeploymentId([9; 16]);
    wrong.push((home_node(), r));
    let mut r = good.clone();
    r.lease_key.0.pop();
    wrong.push((home_node(), r));
    let mut r = good.clone();
    r.keys = vec![r.keys[0]; 2];
    wrong.push((home_node(), r));
    for (from, request) in wrong {
        let reply = c.answer(&from, CustodianRequest::Release(request)).await;
        assert!(matches!(reply, CustodianReply::Invalid { .. }), "{reply:?}");
    }
    assert_eq!(bench.log_size(), size);
    assert!(matches!(
        c.home_service().call(home_node(), vec![9, 9].into()).await,
        Err(crate::peer::ServiceError::Invalid(_))
    ));
}

#[tokio::test]
async fn followers_point_at_the_leader() {
    let bench = Bench::new(3).await;
    let reply = bench
        .node(2)
        .answer(&home_node(), CustodianRequest::SealingKey)
        .await;
    assert_eq!(reply, CustodianReply::NotLeader { leader: Some(1) });
    let e = bench
        .node(2)
        .freeze(operator(), FreezeScope::All, "x".into())
        .await;
    assert_eq!(e, Err(OperatorProblem::NotLeader { leader: Some(1) }));
}

/// Commands that wait travel together, and each leaves its own entry.
#[tokio::test]
async fn a_crowd_shares_its_commits() {
    let bench = Bench::without_nodes(1, Duration::from_millis(5));
    bench.start(1);
    bench.elect(1).await;
    let c = bench.node(1);
    let home = Arc::new(Home::meet(&c).await);
    let keys: Vec<u8> = (0..100).collect();
    stored(&c, home.store(&keys, None)).await;
    let (size, before) = (
        bench.log_size(),
        bench.shared.proposals.load(Ordering::SeqCst),
    );
    let many = (0..100u8).map(|n| {
        let (c, home) = (c.clone(), home.clone());
        tokio::spawn(async move { released(&c, &home, n, &[n]).await })
    });
    for r in futures::future::join_all(many).await {
        assert_eq!(r.unwrap(), [Ok(true)]);
    }
    assert_eq!(bench.log_size(), size + 100);
    let proposals = bench.shared.proposals.load(Ordering::SeqCst) - before;
    assert!(proposals <= 20, "{proposals} proposals for 100 releases");
}

/// A node whose vault is lost gets its keys from a peer before it serves; cut
/// off from its peers it does not serve and offers leadership away.
#[tokio::test]
async fn a_leader_without_keys_does_not_serve() {
    let bench = Bench::new(3).await;
    let home = Home::meet(&bench.node(1)).await;
    stored(&bench.node(1), home.store(&[1], None)).await;
    bench.depose();
    std::fs::remove_file(bench.vault_dir(2).join(VAULT_FILE)).unwrap();
    bench.wire.cut.store(true, Ordering::SeqCst);
    bench.start(2);
    bench.lead(2);
    let c = bench.node(2);
    tokio::time::sleep(Duration::from_millis(200)).await;
    let ask = CustodianRequest::Release(home.release(1, &[1]));
    let reply = c.answer(&home_node(), ask).await;
    assert!(matches!(reply, CustodianReply::Busy { .. }), "{reply:?}");
    assert!(!c.unlocked() && !c.serves());
    bench
        .until(|| bench.shared.handed_over.load(Ordering::SeqCst) > 0)
        .await;
    bench.wire.cut.store(false, Ordering::SeqCst);
    bench.until(|| c.serves()).await;
    assert_eq!(released(&c, &home, 1, &[1]).await, [Ok(true)]);
    let vault = open_vault(&bench.vault_dir(2), 2);
    assert_eq!(vault.keys().count(), 2);
}

#[tokio::test]
async fn a_removed_node_gets_no_key() {
    let bench = Bench::new(3).await;
    bench.shared.members.write().unwrap().remove(&3);
    let stranger = From(3, bench.wire.clone());
    let what = internal::Ask::Fetch {
        kind: KeyKind::Wrapping,
        version: 1,
    };
    let told = internal::ask(&stranger, 1, &what).await;
    assert!(told.is_err_and(|e| e.contains("no member")));
    let member = From(2, bench.wire.clone());
    assert!(matches!(
        internal::ask(&member, 1, &what).await,
        Ok(internal::Told::Key { key: Some(_) })
    ));
}

/// Six seconds ahead of its peers a leader stamps nothing, but a freeze still works.
#[tokio::test]
async fn a_leader_with_a_wrong_clock_proposes_no_timed_command() {
    let bench = Bench::new(3).await;
    let c = bench.node(1);
    let home = Home::meet(&c).await;
    stored(&c, home.store(&[1], None)).await;
    bench.clocks[&1].store(T0 + 6_000, Ordering::SeqCst);
    assert!(c.compare_clocks().await.out());
    let ask = CustodianRequest::Release(home.release(1, &[1]));
    let reply = c.answer(&home_node(), ask).await;
    assert!(matches!(&reply, CustodianReply::Busy { reason, .. } if reason.contains("6000 ms")));
    let frozen = c.freeze(operator(), FreezeScope::All, "now".into()).await;
    assert!(frozen.unwrap().changed);
    assert_eq!(c.status().unwrap().overview.log_time_ms, T0);
    bench.set_clocks(T0 + 6_000);
    assert!(!c.compare_clocks().await.out());
    assert_eq!(released(&c, &home, 1, &[1]).await, [Err(Refusal::Frozen)]);
}

/// A day later there is a new sealing key; when the old one has expired, its
/// private part is gone from every node and what was sealed to it is refused.
#[tokio::test]
async fn sealing_keys_rotate_and_are_destroyed() {
    let bench = Bench::new(3).await;
    let c = bench.node(1);
    let old = Home::meet(&c).await;
    bench.set_clocks(T0 + DAY);
    bench
        .until(|| c.status().unwrap().overview.sealing == Some(2))
        .await;
    // The old one still opens what was sealed before.
    assert_eq!(
        stored(&c, old.store(&[1], None)).await,
        [StoreOutcome::Stored]
    );
    bench.set_clocks(T0 + 6 * DAY + 60_000);
    for n in 1..=3 {
        let node = bench.node(n);
        bench
            .until(|| !node.status().unwrap().sealing_loaded.contains(&1))
            .await;
        let vault = open_vault(&bench.vault_dir(n), n);
        assert!(vault.get(KeyKind::Sealing, 1).is_none());
        assert!(vault.get(KeyKind::Wrapping, 1).is_some());
    }
    let mut claims_more = old.session.clone();
    claims_more.expires_ms = u64::MAX;
    for session in [old.session.clone(), claims_more] {
        let CustodianRequest::Store(mut request) = old.store(&[2], None) else {
            unreachable!()
        };
        request.session = session;
        assert_eq!(
            stored(&c, CustodianRequest::Store(request)).await,
            [StoreOutcome::SealingKeyGone]
        );
    }
    let new = Home::meet(&c).await;
    assert_eq!(
        stored(&c, new.store(&[2], None)).await,
        [StoreOutcome::Stored]
    );
}

#[tokio::test]
async fn shares_are_swept_at_their_time() {
    let bench = Bench::new(1).await;
    let c = bench.node(1);
    let home = Home::meet(&c).await;
    stored(&c, home.store(&[1], Some(T0 + 1_000))).await;
    stored(&c, home.store(&[2], None)).await;
    let held = |c: &Custodian| c.status().unwrap().overview.live;
    assert_eq!(held(&c), [(1, 2)]);
    bench.set_clocks(T0 + 1_000);
    bench.until(|| held(&c) == [(1, 1)]).await;
    assert_eq!(
        released(&c, &home, 1, &[1, 2]).await,
        [Err(Refusal::Tombstoned), Ok(true)]
    );
}

#[tokio::test]
async fn a_wrapping_key_can_be_rotated_while_stores_go_on() {
    let bench = Bench::new(3).await;
    let c = bench.node(1);
    let home = Home::meet(&c).await;
    stored(&c, home.store(&[1], None)).await;
    assert_eq!(c.rotate_key(KeyKind::Wrapping).await, Ok(2));
    stored(&c, home.store(&[2], None)).await;
    assert_eq!(c.status().unwrap().overview.live, [(1, 1), (2, 1)]);
    assert_eq!(released(&c, &home, 1, &[1, 2]).await, [Ok(true), Ok(true)]);
    // Without a majority that keeps it, a version does not come into use.
    bench.wire.cut.store(true, Ordering::SeqCst);
    let e = c.rotate_key(KeyKind::Wrapping).await;
    assert!(
        matches!(&e, Err(OperatorProblem::Refused(why)) if why.contains("majority")),
        "{e:?}"
    );
    assert_eq!(c.status().unwrap().overview.wrapping, Some(2));
    bench.wire.cut.store(false, Ordering::SeqCst);
    assert_eq!(c.rotate_key(KeyKind::Wrapping).await, Ok(3));
}
