//! A deployment in memory: shards that apply at once, custodians that really
//! open, keep and release shares, homes on several nodes.

pub use super::people::caller;
use super::people::{ANNA, Registry};
use crate::config::ClusterRole;
use crate::home::api::HomeApi;
use crate::home::custodians::Transport;
use crate::home::shard::{Leading, ShardError, ShardGroup};
use crate::home::{Home, HomeConfig};
use crate::peer::{CallError, PeerIdentity, PeerTarget, Service, ServiceId, services};
use crate::pki::Descriptor;
use crate::pki::descriptor::{Body, PublicKey};
use bytes::Bytes;
use futures::future::BoxFuture;
use quorate_engine::api::{Append, Content, Message, NewMessage};
use quorate_engine::audit::EntryRef;
use quorate_engine::authz::chain::ChainId;
use quorate_engine::authz::deletion::MandateRefusal;
use quorate_engine::authz::grant::GrantHash;
use quorate_engine::crypto::seal::{
    Receiver, RecipientKey, RecipientPublic, ReleaseBinding, Sender, ShareBinding, deal_info,
    release_info,
};
use quorate_engine::crypto::sign::SigningKey;
use quorate_engine::custody::protocol::*;
use quorate_engine::home::HomeMachine;
use quorate_engine::home::lease::LeaseLimits;
use quorate_engine::policy::{Margins, Policy};
use quorate_engine::sharing;
use quorate_engine::types::kv::{KvError, KvRead, Machine, MemKv, Position};
use quorate_engine::types::{
    ChatId, CustodianId, DeploymentId, EpochNo, HomeId, KeyId, NodeId, OrderId, PolicyId,
    RequestId, Share, Structure, codec,
};
use rand::Rng;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::time::Duration;
use tokio::sync::watch;

pub const DEPLOYMENT: DeploymentId = DeploymentId([5; 16]);
pub const SHARDS: u32 = 4;

pub fn id(name: &str) -> CustodianId {
    CustodianId::new(name).unwrap()
}

pub fn policy() -> Policy {
    let leaf = |n: &str| Structure::Leaf(id(n));
    let eu = Structure::Gate {
        threshold: 1,
        children: vec![leaf("de"), leaf("nl")],
    };
    let structure = Structure::Gate {
        threshold: 3,
        children: vec![leaf("br"), leaf("ch"), eu, leaf("is"), leaf("sg")],
    };
    let leaves: Vec<CustodianId> = structure.leaves().into_iter().cloned().collect();
    let hash = |c: &CustodianId| *blake3::hash(c.as_str().as_bytes()).as_bytes();
    Policy::new(
        structure,
        leaves.into_iter().map(|c| (c.clone(), hash(&c))).collect(),
    )
    .unwrap()
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    Honest,
    Down,
    Lies,
}

/// Chat, epoch, policy, commitment and share.
type Stored = (ChatId, EpochNo, PolicyId, [u8; 32], Share);

pub struct FakeCustodian {
    id: CustodianId,
    identity: SigningKey,
    log_key: SigningKey,
    sealing: RecipientKey,
    pub mode: Mode,
    pub position: u64,
    pub freezes: BTreeMap<FreezeScope, u64>,
    pub stored: BTreeMap<KeyId, Stored>,
    pub tombstones: BTreeSet<KeyId>,
    pub releases: u64,
    pub registry: Registry,
    /// When set, no key is released: the budget is spent.
    pub spent: Option<Refusal>,
    /// Lookups answered.
    pub lookups: u64,
    /// Orders its officers approved, and what it refuses under them all the same.
    pub orders: BTreeMap<OrderId, Option<Refusal>>,
    /// Lease keys that keys went out to under mandates.
    served: BTreeSet<(KeyId, [u8; 32])>,
    /// So many of the next releases under mandates are done and their answers lost.
    pub loses_mandates: u64,
}

impl FakeCustodian {
    fn new(id: CustodianId) -> Self {
        let mut rng = rand::rng();
        Self {
            id,
            identity: SigningKey::generate(&mut rng),
            log_key: SigningKey::generate(&mut rng),
            sealing: RecipientKey::generate(&mut rng),
            mode: Mode::Honest,
            position: 1,
            freezes: BTreeMap::new(),
            stored: BTreeMap::new(),
            tombstones: BTreeSet::new(),
            releases: 0,
            registry: Registry::default(),
            spent: None,
            lookups: 0,
            orders: BTreeMap::new(),
            served: BTreeSet::new(),
            loses_mandates: 0,
        }
    }

    fn descriptor(&self) -> Arc<Descriptor> {
        let name = self.id.to_string();
        let body = Body {
            deployment: DEPLOYMENT,
            role: ClusterRole::Custodian,
            id: name.clone(),
            revision: 1,
            jurisdiction: name.clone(),
            legal_entity: format!("{name} trust"),
            provider: name.clone(),
            network: name.clone(),
            ca_pem: any_certificate(),
            identity_key: PublicKey(self.identity.public()),
            statement_keys: Vec::new(),
            rotations: Vec::new(),
            log_key: Some(PublicKey(self.log_key.public())),
            witness_key: Some(PublicKey(self.log_key.public())),
            endpoints: (1..=3).map(|n| (n, format!("127.0.0.1:{n}"))).collect(),
        };
        let seed = self.identity.seed();
        let key = ed25519_dalek::SigningKey::from_bytes(seed.expose());
        Arc::new(Descriptor::sign(body, &key).unwrap())
    }

    pub fn freeze(&mut self, scope: FreezeScope) {
        self.freezes.insert(scope, self.position);
        self.position += 1;
    }

    fn answer(&mut self, request: CustodianRequest) -> CustodianReply {
        match request {
            CustodianRequest::SealingKey => CustodianReply::SealingKey(SealingKeyStatement::sign(
                &DEPLOYMENT,
                self.id.clone(),
                1,
                self.sealing.public(),
                wall() + 3_600_000,
                &self.log_key,
            )),
            CustodianRequest::Feed { .. } => CustodianReply::Feed(Feed {
                position: self.position,
                freezes: self.freezes.iter().map(|(s, at)| (*s, *at)).collect(),
            }),
            CustodianRequest::Store(r) => {
                self.position += 1;
                CustodianReply::Store(r.items.iter().map(|i| self.store(&r.session, i)).collect())
            }
            CustodianRequest::Abandon(r) => {
                for key in &r.keys {
                    self.stored.remove(&key.key_id);
                    self.tombstones.insert(key.key_id);
                }
                CustodianReply::Abandon(vec![AbandonOutcome::Tombstoned; r.keys.len()])
            }
            CustodianRequest::Release(r) => CustodianReply::Release(self.release(&r)),
            CustodianRequest::MandateRelease(r) => {
                let reply = self.mandate_release(&r);
                if self.loses_mandates > 0 {
                    self.loses_mandates -= 1;
                    return CustodianReply::Busy {
                        reason: "the answer was lost".into(),
                        retry_ms: 1,
                    };
                }
                CustodianReply::Release(reply)
            }
            CustodianRequest::OrderRelease(r) => CustodianReply::Release(self.order_release(&r)),
            CustodianRequest::ChatStatement(r) => {
                CustodianReply::Statement(self.registry.take(&r.statement).map(|(chat, at)| {
                    let entry = self.entry();
                    let chain = ChainId::Chat(chat);
                    let id = self.id.clone();
                    SignedHead::sign(&DEPLOYMENT, id, chain, at, &entry, &self.log_key)
                }))
            }
            CustodianRequest::Lookup(r) => {
                self.lookups += 1;
                let chats = r.chats.iter();
                let chats = chats.map(|c| self.registry.member(c, &r.account)).collect();
                CustodianReply::Lookup(LookupReply {
                    position: self.position,
                    device: self.registry.device(&r.account, &r.device),
                    chats,
                })
            }
            other => CustodianReply::Invalid {
                reason: format!("not asked in these tests: {other:?}"),
            },
        }
    }

    fn entry(&mut self) -> EntryRef {
        self.position += 1;
        EntryRef {
            index: self.position - 1,
            leaf: [1; 32],
            time_ms: wall(),
        }
    }

    fn store(&mut self, session: &SealSession, item: &SealedItem) -> StoreOutcome {
        if self.tombstones.contains(&item.key_id) {
            return StoreOutcome::Tombstoned;
        }
        let info = deal_info(&DEPLOYMENT, &self.id, session.version);
        let share = Receiver::new(&self.sealing, &session.encapsulated, &info).and_then(|r| {
            r.open(
                &self.place(item.chat, item.key_id, item.policy),
                None,
                &item.sealed,
            )
        });
        let Ok(share) = share else {
            return StoreOutcome::BadShare;
        };
        assert!(sharing::commitment_holds(
            &item.key_id,
            &self.id,
            &share,
            &item.commitment
        ));
        match self.stored.get(&item.key_id) {
            Some(there) if there.3 == item.commitment => StoreOutcome::AlreadyStored,
            Some(_) => StoreOutcome::Conflict,
            None => {
                let row = (item.chat, item.epoch, item.policy, item.commitment, share);
                self.stored.insert(item.key_id, row);
                StoreOutcome::Stored
            }
        }
    }

    fn place(&self, chat: ChatId, key_id: KeyId, policy: PolicyId) -> ShareBinding {
        ShareBinding {
            deployment: DEPLOYMENT,
            custodian: self.id.clone(),
            chat,
            key_id,
            policy,
        }
    }

    fn release(&mut self, r: &ReleaseRequest) -> ReleaseReply {
        let authority = GrantHash::of(&r.grant).0;
        let may = r.keys.iter().map(|key| {
            let epoch = self.stored.get(&key.key_id).map(|row| row.1);
            match self.registry.allows(r, &key.chat, epoch) {
                Err(why) => Some(Refusal::Grant(why)),
                Ok(()) => self.spent,
            }
        });
        let refused = may.collect();
        let asked = (r.request, r.node, &r.lease_key);
        self.let_out(asked, authority, &r.keys, refused)
    }

    fn mandate_release(&mut self, r: &MandateReleaseRequest) -> ReleaseReply {
        let lease = r.lease_key.hash();
        let may = r.keys.iter().map(|key| {
            let epoch = self.stored.get(&key.key_id).map(|row| row.1);
            let allowed = self.registry.mandates(r, &key.chat, epoch);
            let fresh = self.served.insert((key.key_id, lease));
            match allowed {
                Err(why) => Some(Refusal::Mandate(why)),
                Ok(()) if !fresh => Some(Refusal::Mandate(MandateRefusal::LeaseKeyUsed)),
                Ok(()) => self.spent,
            }
        });
        let refused = may.collect();
        let asked = (r.request, r.node, &r.lease_key);
        self.let_out(asked, r.statement.hash(), &r.keys, refused)
    }

    fn order_release(&mut self, r: &OrderReleaseRequest) -> ReleaseReply {
        let refused = match self.orders.get(&r.order) {
            Some(said) => *said,
            None => Some(Refusal::Order),
        };
        let refused = vec![refused; r.keys.len()];
        let asked = (r.request, r.node, &r.lease_key);
        self.let_out(asked, r.order.0, &r.keys, refused)
    }

    fn let_out(
        &mut self,
        (request, node, lease_key): (RequestId, NodeId, &RecipientPublic),
        authority: [u8; 32],
        keys: &[KeyRef],
        refused: Vec<Option<Refusal>>,
    ) -> ReleaseReply {
        let entry = self.entry();
        self.releases += 1;
        let mut rng = rand::rng();
        let info = release_info(&DEPLOYMENT, &self.id);
        let (sender, encapsulated) = Sender::new(lease_key, &info, &mut rng).unwrap();
        let binding = ReleaseBinding {
            authority,
            node,
            lease_key: lease_key.hash(),
        };
        let shares = keys.iter().zip(refused).map(|(key, refused)| {
            let frozen = self.freezes.contains_key(&FreezeScope::All)
                || self.freezes.contains_key(&FreezeScope::Chat(key.chat));
            let held = self.stored.get(&key.key_id);
            if frozen {
                return ShareResult::Refused(Refusal::Frozen);
            }
            if let Some(why) = refused {
                return ShareResult::Refused(why);
            }
            let Some((chat, _, policy, _, share)) = held else {
                let stone = self.tombstones.contains(&key.key_id);
                return ShareResult::Refused(if stone {
                    Refusal::Tombstoned
                } else {
                    Refusal::NotHeld
                });
            };
            let mut nonce = [0; 24];
            rand::rng().fill_bytes(&mut nonce);
            let place = self.place(*chat, key.key_id, *policy);
            let lie = Share::generate(&mut rand::rng());
            let told = if self.mode == Mode::Lies { &lie } else { share };
            let sealed = sender.seal(&place, Some(&binding), nonce, told);
            ShareResult::Share { sealed }
        });
        let shares = shares.collect();
        ReleaseReply {
            receipt: Receipt::sign(&DEPLOYMENT, self.id.clone(), &entry, request, &self.log_key),
            encapsulated,
            shares,
        }
    }
}

/// Descriptors carry a CA; nothing here looks at it.
fn any_certificate() -> String {
    static PEM: std::sync::OnceLock<String> = std::sync::OnceLock::new();
    let make = || {
        rcgen::generate_simple_self_signed(vec!["ca".into()])
            .unwrap()
            .cert
            .pem()
    };
    PEM.get_or_init(make).clone()
}

pub fn wall() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.unwrap().as_millis() as u64
}

/// Carries requests between everything in the process.
#[derive(Default)]
pub struct Net {
    custodians: BTreeMap<CustodianId, Mutex<FakeCustodian>>,
    descriptors: BTreeMap<CustodianId, Arc<Descriptor>>,
    homes: Mutex<BTreeMap<NodeId, Weak<Home>>>,
}

struct Link(Arc<Net>, NodeId);

impl Transport for Link {
    fn call<'a>(
        &'a self,
        to: &'a PeerTarget,
        service: ServiceId,
        body: Vec<u8>,
        timeout: Duration,
    ) -> BoxFuture<'a, Result<Vec<u8>, CallError>> {
        Box::pin(async move {
            tokio::task::yield_now().await;
            if service == services::HOME {
                let home = self
                    .0
                    .homes
                    .lock()
                    .unwrap()
                    .get(&to.node)
                    .and_then(Weak::upgrade);
                let home = home.ok_or_else(|| CallError::NotSent("no such node".into()))?;
                let from = PeerIdentity {
                    role: ClusterRole::Home,
                    cluster: "ae".into(),
                    node: self.1,
                };
                return Service::call(&*home, from, Bytes::from(body))
                    .await
                    .map_err(CallError::Refused);
            }
            let custodian = CustodianId::new(&to.cluster).unwrap();
            let down = self.0.get(&custodian).mode == Mode::Down;
            if down {
                tokio::time::sleep(timeout.min(Duration::from_millis(20))).await;
                return Err(CallError::NotSent("connection refused".into()));
            }
            let request = codec::decode("request", PROTOCOL_VERSION, &body).unwrap();
            let reply = if to.node == 2 {
                self.0.get(&custodian).answer(request)
            } else {
                CustodianReply::NotLeader {
                    leader: Some(2),
                    address: None,
                }
            };
            Ok(codec::encode(PROTOCOL_VERSION, &reply))
        })
    }
    fn custodians(&self) -> BTreeMap<CustodianId, Arc<Descriptor>> {
        self.0.descriptors.clone()
    }
    fn own_descriptor(&self) -> Option<Arc<Descriptor>> {
        None
    }
}

impl Net {
    pub fn get(&self, id: &CustodianId) -> MutexGuard<'_, FakeCustodian> {
        self.custodians[id].lock().unwrap()
    }
    pub fn set(&self, names: &[&str], mode: Mode) {
        for name in names {
            self.get(&id(name)).mode = mode;
        }
    }
}

/// One shard's state, shared by all nodes.
pub struct Group {
    pub kv: Mutex<(MemKv, u64)>,
    leader: watch::Sender<(Option<NodeId>, u64)>,
    pub proposals: AtomicU64,
    /// So many of the next proposals are applied and their replies lost.
    pub lose: AtomicU64,
}

pub struct MemShard(Arc<Group>, NodeId);

impl ShardGroup for MemShard {
    fn propose(&self, command: Vec<u8>) -> BoxFuture<'_, Result<(u64, Vec<u8>), ShardError>> {
        Box::pin(async move {
            tokio::time::sleep(Duration::from_millis(1)).await;
            let (leader, term) = *self.0.leader.borrow();
            if leader != Some(self.1) {
                return Err(ShardError::NotLeader(leader));
            }
            self.0.proposals.fetch_add(1, Ordering::Relaxed);
            let mut held = self.0.kv.lock().unwrap();
            held.1 += 1;
            let at = Position {
                term,
                index: held.1,
            };
            let reply = HomeMachine.apply(&mut held.0, at, &command).unwrap();
            let lose = self
                .0
                .lose
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1));
            if lose.is_ok() {
                return Err(ShardError::Unknown("the reply was lost".into()));
            }
            Ok((held.1, reply))
        })
    }
    fn read_index(&self) -> BoxFuture<'_, Result<u64, ShardError>> {
        Box::pin(async move {
            match *self.0.leader.borrow() {
                (Some(leader), _) if leader == self.1 => Ok(self.0.kv.lock().unwrap().1),
                (leader, _) => Err(ShardError::NotLeader(leader)),
            }
        })
    }
    fn view(&self, read: &mut dyn FnMut(&dyn KvRead)) -> Result<(), KvError> {
        read(&self.0.kv.lock().unwrap().0);
        Ok(())
    }
    fn leading(&self) -> Leading {
        let (leader, term) = *self.0.leader.borrow();
        Leading {
            leader,
            term,
            here: leader == Some(self.1),
        }
    }
    fn changed(&self, seen: Leading) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            let mut watch = self.0.leader.subscribe();
            let _ = watch.wait_for(|now| *now != (seen.leader, seen.term)).await;
        })
    }
    fn lags(&self) -> Vec<(NodeId, Option<u64>)> {
        vec![(1, Some(0)), (2, Some(3))]
    }
}

pub struct World {
    pub net: Arc<Net>,
    pub groups: Vec<Arc<Group>>,
    pub homes: Vec<Arc<Home>>,
}

impl World {
    /// Homes on nodes 1 and 2; node 1 leads everything.
    pub fn new() -> Self {
        let mut net = Net::default();
        for custodian in policy().custodians() {
            let fake = FakeCustodian::new(custodian.clone());
            net.descriptors.insert(custodian.clone(), fake.descriptor());
            net.custodians.insert(custodian, Mutex::new(fake));
        }
        let net = Arc::new(net);
        let group = || {
            Arc::new(Group {
                kv: Mutex::default(),
                leader: watch::Sender::new((Some(1), 1)),
                proposals: AtomicU64::new(0),
                lose: AtomicU64::new(0),
            })
        };
        let groups: Vec<Arc<Group>> = (0..SHARDS).map(|_| group()).collect();
        let mut homes = Vec::new();
        for node in [1, 2] {
            let config = HomeConfig {
                deployment: DEPLOYMENT,
                home: HomeId::new("ae").unwrap(),
                node,
                nodes: vec![1, 2],
                policy: policy(),
                policy_text: "any 3 of br, ch, eu(any 1 of de, nl), is, sg".into(),
                margins: Margins {
                    write_margin: 1,
                    require_margin: false,
                },
                leases: LeaseLimits::default(),
                thin_wait_ms: 200,
            };
            let shards = groups
                .iter()
                .map(|g| Arc::new(MemShard(g.clone(), node)) as Arc<dyn ShardGroup>);
            let link = Arc::new(Link(net.clone(), node));
            let home = Home::start(config, shards.collect(), link).unwrap();
            net.homes
                .lock()
                .unwrap()
                .insert(node, Arc::downgrade(&home));
            homes.push(home);
        }
        Self { net, groups, homes }
    }

    pub fn home(&self) -> &Home {
        &self.homes[0]
    }

    /// Another node leads all shards.
    pub fn elect(&self, node: NodeId) {
        for group in &self.groups {
            group.leader.send_modify(|l| *l = (Some(node), l.1 + 1));
        }
    }

    /// As if every lease had lived out.
    pub fn drop_leases(&self) {
        for home in &self.homes {
            home.core.leases.remove_if(|_| true);
        }
    }

    pub fn proposals(&self) -> u64 {
        self.groups
            .iter()
            .map(|g| g.proposals.load(Ordering::Relaxed))
            .sum()
    }

    /// Founded by Anna.
    pub async fn chat(&self, key: &str) -> ChatId {
        let request = ANNA.founds(key);
        let chat = self.homes[0].create_chat(caller(), request).await.unwrap();
        chat.value.id.parse().unwrap()
    }

    pub async fn all(&self, chat: ChatId) -> Vec<Message> {
        let mut out = Vec::new();
        let mut from = Some(1);
        while let Some(at) = from {
            let page = self.homes[1]
                .page(caller(), chat, at, 50)
                .await
                .unwrap()
                .value;
            from = page.next;
            out.extend(page.messages);
        }
        out
    }
}

pub fn content(text: &str) -> Content {
    let mut content = Content::new();
    content.insert("text".into(), text.into());
    content.insert(
        "unknown".into(),
        serde_json::json!([1.5, null, {"z": 1, "a": 2}]),
    );
    content
}

pub fn append(texts: &[&str]) -> Append {
    let messages = texts.iter().map(|t| NewMessage {
        idempotency_key: format!("k-{t}"),
        content: content(t),
    });
    Append {
        messages: messages.collect(),
    }
}

pub async fn until(what: &str, wait_ms: u64, mut holds: impl FnMut() -> bool) {
    let start = std::time::Instant::now();
    while !holds() {
        assert!(
            start.elapsed() < Duration::from_millis(wait_ms),
            "not in {wait_ms} ms: {what}"
        );
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
