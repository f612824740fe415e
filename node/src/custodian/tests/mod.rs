//! Three nodes of one custodian over a log that commits at once: everything
//! but sockets and disks of raft. The vaults are real files.

mod chains;
mod departure;
mod duties;
mod grants;
mod officers;
mod people;
mod raft;
mod restart;
mod rotation;

use super::*;
use crate::config::ClusterRole;
use crate::peer::{PeerIdentity, Service};
use futures::future::BoxFuture;
use people::{account_of, chat_at, introduce, public, signer};
use quorate_engine::authz::grant::{Action, ChatRange, Claims, Grant, GrantHash};
use quorate_engine::authz::identity::{account_id, device_id};
use quorate_engine::authz::membership::chat_id;
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
/// Few, so that a test sees a rotation go on.
const REWRAPS_PER_TICK: usize = 8;
/// The epoch of every share.
const EPOCH: EpochNo = 5;

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
    fn address(&self, node: NodeId) -> Option<String> {
        Some(format!("node{node}.ch:7000"))
    }
    fn hand_over(&self) -> BoxFuture<'_, ()> {
        self.1.handed_over.fetch_add(1, Ordering::SeqCst);
        Box::pin(async {})
    }
    fn hand_over_to(&self, node: NodeId) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            let mut lead = self.1.lead.write().unwrap();
            if lead.0 == Some(self.0) {
                *lead = (Some(node), lead.1 + 1);
            }
        })
    }
    fn may_lead(&self, _may: bool) {}
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

/// Nobody else is believed.
struct Nobody;

impl Neighbours for Nobody {
    fn homes(&self) -> BTreeMap<HomeId, String> {
        BTreeMap::new()
    }
    fn authorities(
        &self,
    ) -> Vec<(
        quorate_engine::authz::identity::AuthorityRecord,
        Vec<quorate_engine::authz::envelope::Envelope>,
    )> {
        Vec::new()
    }
    fn custodians(&self) -> Vec<Neighbour> {
        Vec::new()
    }
    fn call<'a>(
        &'a self,
        _: &'a CustodianId,
        _: NodeId,
        _: Vec<u8>,
    ) -> BoxFuture<'a, Result<Vec<u8>, String>> {
        Box::pin(async { Err("nobody is there".into()) })
    }
}

struct Bench {
    place: Place,
    around: Arc<dyn Neighbours>,
    dir: tempfile::TempDir,
    shared: Arc<Shared>,
    wire: Arc<Wire>,
    clocks: BTreeMap<NodeId, Arc<AtomicU64>>,
    stop: CancellationToken,
    stops: Mutex<BTreeMap<NodeId, CancellationToken>>,
    handover_max: Duration,
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
        Self::slow(place().custodian, nodes, slow, Arc::new(Nobody))
    }

    fn of(custodian: CustodianId, nodes: u64, around: Arc<dyn Neighbours>) -> Self {
        Self::slow(custodian, nodes, Duration::ZERO, around)
    }

    fn slow(
        custodian: CustodianId,
        nodes: u64,
        slow: Duration,
        around: Arc<dyn Neighbours>,
    ) -> Self {
        let identity = policy().identities()[&custodian];
        let place = Place {
            custodian,
            ..place()
        };
        let shared = Shared {
            state: Mutex::default(),
            lead: RwLock::new((None, 0)),
            members: RwLock::new((1..=nodes).collect()),
            machine: Custody::new(place.custodian.clone(), identity).serving(place.deployment),
            proposals: AtomicUsize::new(0),
            handed_over: AtomicUsize::new(0),
            slow,
        };
        Self {
            place,
            around,
            dir: tempfile::tempdir().unwrap(),
            shared: Arc::new(shared),
            wire: Arc::default(),
            clocks: (1..=9).map(|n| (n, Arc::new(AtomicU64::new(T0)))).collect(),
            stop: CancellationToken::new(),
            stops: Mutex::default(),
            handover_max: CustodianOptions::default().handover_max,
        }
    }

    fn vault_dir(&self, node: NodeId) -> std::path::PathBuf {
        self.dir.path().join(node.to_string())
    }

    /// The end of a node's process: its vault stays.
    fn kill(&self, node: NodeId) {
        self.wire.nodes.write().unwrap().remove(&node);
        if let Some(stop) = self.stops.lock().unwrap().remove(&node) {
            stop.cancel();
        }
    }

    fn start(&self, node: NodeId) {
        self.kill(node);
        let dir = self.vault_dir(node);
        std::fs::create_dir_all(&dir).unwrap();
        let vault = open_vault_of(&self.place, &dir, node);
        self.start_with(node, vault);
    }

    /// Restarted, and nothing opens its vault.
    fn start_locked(&self, node: NodeId) {
        self.kill(node);
        let vault = Vault::load(&self.vault_dir(node), &self.place, node).unwrap();
        self.start_with(node, vault);
    }

    fn start_with(&self, node: NodeId, vault: Vault) {
        let clock = self.clocks[&node].clone();
        let parts = Parts {
            place: self.place.clone(),
            signing: signing(),
            consensus: Arc::new(OneLog(node, self.shared.clone())),
            peers: Arc::new(From(node, self.wire.clone())),
            homes: Arc::new(|| BTreeSet::from([HomeId::new("ae").unwrap()])),
            neighbours: self.around.clone(),
            clock: Arc::new(move || clock.load(Ordering::SeqCst)),
            vault,
            provider: None,
            options: CustodianOptions {
                tick: Duration::from_millis(20),
                policies: vec![policy().canonical()],
                rewraps_per_tick: REWRAPS_PER_TICK,
                drop_after: Duration::from_millis(200),
                handover_max: self.handover_max,
                ..CustodianOptions::default()
            },
        };
        let stop = self.stop.child_token();
        self.stops.lock().unwrap().insert(node, stop.clone());
        let custodian = Custodian::start(parts, stop);
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
    open_vault_of(&place(), dir, node)
}

fn open_vault_of(place: &Place, dir: &Path, node: NodeId) -> Vault {
    Vault::open(dir, place, node, Secret::take(&mut [9; 32])).unwrap()
}

fn home_node() -> PeerIdentity {
    PeerIdentity {
        role: ClusterRole::Home,
        cluster: "ae".into(),
        node: 4,
    }
}

/// The chat of the account of device 1.
fn chat() -> ChatId {
    chat_id(&people::chat_of(1))
}

fn binding(chat: ChatId, key_id: KeyId, policy: PolicyId) -> ShareBinding {
    ShareBinding {
        deployment: place().deployment,
        custodian: place().custodian,
        chat,
        key_id,
        policy,
    }
}

/// What device 1 grants home `ae` from a minute before `now_ms`: its chat, whole.
fn claims(account: AccountId, chat: ChatId, now_ms: u64) -> Claims {
    let not_before_s = now_ms / 1000 - 60;
    Claims {
        account,
        deployment: place().deployment,
        home: HomeId::new("ae").unwrap(),
        actions: vec![Action::Write],
        chats: vec![ChatRange {
            chat,
            from: 0,
            to: None,
        }],
        ceiling: 1_000,
        not_before_s,
        expires_s: not_before_s + 900,
        id: GrantId(rand::random()),
    }
}

fn sign(device: u8, claims: Claims) -> String {
    let grant = Grant::sign(device_id(&public(device)), &signer(device), claims);
    grant.unwrap().compact().to_owned()
}

/// A home's side: one session, one lease key, and a grant by device 1 for its chat.
struct Home {
    session: SealSession,
    sender: Sender,
    lease: RecipientKey,
    policy: PolicyId,
    log: [u8; 32],
    chat: ChatId,
    grant: String,
}

fn share_of(key_id: &KeyId) -> Share {
    Share(Secret::take(&mut [key_id.0[0] ^ 0x5a; 32]))
}

fn key(n: u8) -> KeyId {
    KeyId([n; 16])
}

impl Home {
    /// With the people of `T0`, who are made known if they are not yet.
    async fn meet(c: &Custodian) -> Self {
        introduce(c, T0).await;
        Self::stranger(c).await
    }

    async fn stranger(c: &Custodian) -> Self {
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
        let grant = sign(1, claims(account_of(1), chat(), c.now()));
        Self::of(s, policy().id(), signing().log.public(), chat(), grant)
    }

    fn of(
        s: SealingKeyStatement,
        policy: PolicyId,
        log: [u8; 32],
        chat: ChatId,
        grant: String,
    ) -> Self {
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
            chat,
            grant,
        }
    }

    fn store(&self, keys: &[u8], expires_ms: Option<u64>) -> CustodianRequest {
        self.store_in(self.chat, keys, expires_ms)
    }

    fn store_in(&self, chat: ChatId, keys: &[u8], expires_ms: Option<u64>) -> CustodianRequest {
        let seal = |k: &u8| {
            let (key_id, mut nonce) = (key(*k), [0; 24]);
            rand::Rng::fill_bytes(&mut rand::rng(), &mut nonce);
            let share = share_of(&key_id);
            SealedItem {
                chat,
                epoch: EPOCH,
                key_id,
                policy: self.policy,
                commitment: commitment(&key_id, &place().custodian, &share),
                sealed: self
                    .sender
                    .seal(&binding(chat, key_id, self.policy), None, nonce, &share),
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
            chat: self.chat,
            key_id: key(*k),
        };
        ReleaseRequest {
            request: RequestId([request; 16]),
            home: HomeId::new("ae").unwrap(),
            node: 4,
            deployment: place().deployment,
            lease_key: self.lease.public(),
            reason: Reason::Read,
            grant: self.grant.clone(),
            keys: keys.iter().map(key_ref).collect(),
        }
    }

    /// Opens what came back: `Ok(first byte)` per key.
    fn open(&self, keys: &[u8], reply: &ReleaseReply) -> Vec<Result<bool, Refusal>> {
        self.open_under(&self.grant, keys, reply)
    }

    /// What was released under `grant` opens under no other.
    fn open_under(
        &self,
        grant: &str,
        keys: &[u8],
        reply: &ReleaseReply,
    ) -> Vec<Result<bool, Refusal>> {
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
            authority: GrantHash::of(grant).0,
            node: 4,
            lease_key: self.lease.public().hash(),
        };
        let opened = |(k, s): (&u8, &ShareResult)| match s {
            ShareResult::Refused(why) => Err(*why),
            ShareResult::Share { sealed } => {
                let opener = Receiver::new(&self.lease, &reply.encapsulated, &info).unwrap();
                let share = opener
                    .open(
                        &binding(self.chat, key(*k), self.policy),
                        Some(&context),
                        sealed,
                    )
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
