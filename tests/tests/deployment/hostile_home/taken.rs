//! The tools of whoever took the home: its certificate, people it knows, shares it dealt.

use super::super::world::{CUSTODIANS, HOME, World, eventually, node};
use quorate_engine::authz::envelope::Envelope;
use quorate_engine::authz::grant::{Action, ChatRange, Claims, Grant};
use quorate_engine::authz::identity::{AccountGenesis, AccountPayload, account_id, device_id};
use quorate_engine::authz::membership::{
    ChatChange, ChatGenesis, ChatPayload, ChatStatement, chat_id,
};
use quorate_engine::authz::standing::Role;
use quorate_engine::crypto::labels::{SIGN_ACCOUNT, SIGN_MEMBERSHIP};
use quorate_engine::crypto::seal::{
    Receiver, RecipientKey, ReleaseBinding, Sender, ShareBinding, deal_info, release_info,
};
use quorate_engine::crypto::sign::SigningKey;
use quorate_engine::custody::protocol::*;
use quorate_engine::policy::Policy;
use quorate_engine::sharing::commitment;
use quorate_engine::types::{
    AccountId, AuthorityId, ChatId, CustodianId, DeploymentId, GrantId, HomeId, KeyId, Nonce,
    PolicyId, PublicKey, RequestId, Secret, SessionId, Share, StatementHash, codec,
};
use quorate_node::config::{ClusterRole, Config};
use quorate_node::custodian::policies;
use quorate_node::peer::client::PeerClientOptions;
use quorate_node::peer::{CallError, PeerClient, PeerTarget, services};
use quorate_node::pki::{CertSource, Entity, TrustStore};
use quorate_tests::deployment::http_get;
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

pub(super) const WAIT: Duration = Duration::from_secs(10);
/// A revocation or a fork that one custodian was not told reaches it from the others within this.
pub(super) const EXCHANGE_MAX: Duration = Duration::from_secs(20);

pub(super) fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    u64::try_from(since.as_millis()).unwrap()
}

pub(super) fn draw<const N: usize>() -> [u8; N] {
    std::array::from_fn(|_| rand::random())
}

pub(super) fn signing_key() -> SigningKey {
    SigningKey::from_seed(&Secret::take(&mut draw::<32>()))
}

pub(super) fn public(key: &SigningKey) -> PublicKey {
    PublicKey(key.public())
}

pub(super) fn home() -> HomeId {
    HomeId::new(HOME).unwrap()
}

/// Someone with one device.
pub(super) struct Person {
    pub(super) device: SigningKey,
    pub(super) genesis: Envelope,
    pub(super) account: AccountId,
}

/// The home's certificate, in the hands of whoever took the home.
pub(super) struct Hostile<'a> {
    pub(super) world: &'a World,
    pub(super) deployment: DeploymentId,
    pub(super) authority: SigningKey,
    policy: PolicyId,
    client: PeerClient,
    /// The node of `ch` that is asked.
    asked: Cell<u64>,
    /// Entries that the log of `ch` must have: index, and the outcome of the one key asked for.
    noted: RefCell<BTreeMap<u64, String>>,
}

pub(super) fn trust_of(dir: &std::path::Path) -> Arc<TrustStore> {
    TrustStore::load(&dir.join("descriptor.json"), &dir.join("trust")).unwrap()
}

impl<'a> Hostile<'a> {
    /// What the log of `ch` must have once it is looked at.
    pub(super) fn noted(&self) -> BTreeMap<u64, String> {
        self.noted.take()
    }

    pub(super) fn new(world: &'a World) -> Self {
        let dir = world.dir().join(HOME).join("node-1");
        let certs = CertSource::load("peer", &dir.join("node.crt"), &dir.join("node.key"));
        let trust = trust_of(&dir);
        let authority = Entity::open(&world.dir().join("id-ee")).unwrap();
        let mut seed = authority.statement_key().unwrap().to_bytes();
        let of_ch = world.d.node(&node("ch", 1)).config.clone();
        let canonical = policies(
            &Config::load(&of_ch).unwrap(),
            &trust_of(of_ch.parent().unwrap()),
        );
        let policy = Policy::from_canonical(&canonical.unwrap()[0]).unwrap();
        let options = PeerClientOptions::default();
        let client = world.wait(async { PeerClient::new(trust, certs.unwrap(), options) });
        Self {
            world,
            deployment: authority.descriptor.deployment,
            authority: SigningKey::from_seed(&Secret::take(&mut seed)),
            policy: policy.id(),
            client,
            asked: Cell::new(1),
            noted: RefCell::default(),
        }
    }

    /// From now on that node of `ch` is asked.
    pub(super) fn speaks_to(&self, node: u64) {
        self.asked.set(node);
    }

    pub(super) fn call(
        &self,
        custodian: &str,
        service: u16,
        body: Vec<u8>,
    ) -> Result<Vec<u8>, CallError> {
        let target = PeerTarget {
            role: ClusterRole::Custodian,
            cluster: custodian.into(),
            node: match custodian {
                "ch" => self.asked.get(),
                _ => 1,
            },
        };
        let call = async { self.client.call(&target, service, body, WAIT).await };
        self.world.wait(call)
    }

    /// Asks as the home does, and again while the custodian is busy.
    pub(super) fn ask(&self, custodian: &str, request: &CustodianRequest) -> CustodianReply {
        let body = codec::encode(PROTOCOL_VERSION, request);
        let told = eventually(Duration::from_secs(30), || {
            let reply = self.call(custodian, services::CUSTODIAN, body.clone())?;
            let reply = codec::decode("reply", PROTOCOL_VERSION, &reply)?;
            match reply {
                CustodianReply::NotLeader { leader, .. } => {
                    self.asked.set(leader.unwrap_or_else(|| self.asked.get()));
                    anyhow::bail!("{reply:?}")
                }
                CustodianReply::Busy { .. } | CustodianReply::Unknown { .. } => {
                    anyhow::bail!("{reply:?}")
                }
                reply => Ok(reply),
            }
        });
        told.unwrap()
    }

    pub(super) fn tell(
        &self,
        custodian: &str,
        wrap: fn(StatementRequest) -> CustodianRequest,
        statement: &Envelope,
    ) -> Result<SignedHead, StatementRefused> {
        let request = StatementRequest {
            home: home(),
            deployment: self.deployment,
            statement: statement.clone(),
        };
        match self.ask(custodian, &wrap(request)) {
            CustodianReply::Statement(told) => told,
            other => panic!("{other:?}"),
        }
    }

    pub(super) fn account_statement(
        &self,
        to: &str,
        s: &Envelope,
    ) -> Result<SignedHead, StatementRefused> {
        self.tell(to, CustodianRequest::AccountStatement, s)
    }

    pub(super) fn chat_statement(
        &self,
        to: &str,
        s: &Envelope,
    ) -> Result<SignedHead, StatementRefused> {
        self.tell(to, CustodianRequest::ChatStatement, s)
    }

    pub(super) fn person(&self) -> Person {
        self.person_of(&["id-ee"])
    }

    fn person_of(&self, authorities: &[&str]) -> Person {
        let device = signing_key();
        let id = |name: &&str| AuthorityId::new(name).unwrap();
        let g = AccountGenesis {
            deployment: self.deployment,
            authorities: authorities.iter().map(id).collect(),
            device: public(&device),
            expires_ms: now_ms() + 24 * 60 * 60 * 1000,
            secret: None,
            created_ms: now_ms(),
            nonce: Nonce(draw()),
        };
        let payload = AccountPayload::Genesis(g);
        let by = [&device, &self.authority];
        let genesis = Envelope::sign(SIGN_ACCOUNT, &self.deployment, &payload, &by);
        let account = account_id(&genesis);
        Person {
            device,
            genesis,
            account,
        }
    }

    /// A person every custodian knows.
    pub(super) fn enrolled(&self) -> Person {
        self.enrolled_by(&["id-ee"])
    }

    /// The same, of an account with these authorities.
    pub(super) fn enrolled_by(&self, authorities: &[&str]) -> Person {
        let person = self.person_of(authorities);
        for custodian in CUSTODIANS {
            // The authority is registered a moment after the first start.
            let told = eventually(WAIT, || {
                Ok(self.account_statement(custodian, &person.genesis)?)
            });
            told.unwrap();
        }
        person
    }

    pub(super) fn chat_genesis(&self, creator: AccountId, device: &SigningKey) -> Envelope {
        self.chat_genesis_at(now_ms(), creator, device)
    }

    pub(super) fn chat_genesis_at(
        &self,
        created_ms: u64,
        creator: AccountId,
        device: &SigningKey,
    ) -> Envelope {
        let g = ChatGenesis {
            deployment: self.deployment,
            creator,
            device: device_id(&public(device)),
            public: false,
            created_ms,
            nonce: Nonce(draw()),
        };
        let payload = ChatPayload::Genesis(g);
        Envelope::sign(SIGN_MEMBERSHIP, &self.deployment, &payload, &[device])
    }

    /// A chat of `person`'s that every custodian knows.
    pub(super) fn chat(&self, person: &Person) -> Envelope {
        let genesis = self.chat_genesis(person.account, &person.device);
        for custodian in CUSTODIANS {
            self.chat_statement(custodian, &genesis).unwrap();
        }
        genesis
    }

    /// Statement 1 of a chat: `who` comes in, says `by` with `device`.
    pub(super) fn adds(
        &self,
        genesis: &Envelope,
        by: &Person,
        device: &SigningKey,
        who: AccountId,
    ) -> Envelope {
        let s = ChatStatement {
            chat: chat_id(genesis),
            number: 1,
            previous: StatementHash(genesis.hash()),
            at_ms: now_ms(),
            account: by.account,
            device: device_id(&public(device)),
            change: ChatChange::Add {
                account: who,
                role: Role::Member,
                from_epoch: 0,
            },
        };
        let payload = ChatPayload::Statement(s);
        Envelope::sign(SIGN_MEMBERSHIP, &self.deployment, &payload, &[device])
    }

    pub(super) fn claims(&self, person: &Person, chat: ChatId) -> Claims {
        let now = now_ms() / 1000;
        Claims {
            account: person.account,
            deployment: self.deployment,
            home: home(),
            actions: vec![Action::Read],
            chats: vec![ChatRange {
                chat,
                from: 0,
                to: Some(0),
            }],
            ceiling: 64,
            not_before_s: now - 30,
            expires_s: now + 600,
            id: GrantId(draw()),
        }
    }

    pub(super) fn grant(&self, person: &Person, claims: Claims) -> String {
        let device = device_id(&public(&person.device));
        let grant = Grant::sign(device, &person.device, claims).unwrap();
        grant.compact().to_owned()
    }
}

/// Shares dealt to one custodian.
pub(super) struct Dealt {
    custodian: CustodianId,
    session: SealSession,
    sender: Sender,
}

pub(super) fn share(key_id: &KeyId) -> Share {
    Share(Secret::take(&mut [key_id.0[0]; 32]))
}

impl Dealt {
    pub(super) fn meet(h: &Hostile<'_>, custodian: &str) -> Self {
        let CustodianReply::SealingKey(s) = h.ask(custodian, &CustodianRequest::SealingKey) else {
            panic!("a sealing key")
        };
        let info = deal_info(&h.deployment, &s.custodian, s.version);
        let (sender, encapsulated) = Sender::new(&s.public, &info, &mut rand::rng()).unwrap();
        Self {
            session: SealSession {
                id: SessionId(draw()),
                custodian: s.custodian.clone(),
                version: s.version,
                expires_ms: s.expires_ms,
                encapsulated,
            },
            custodian: s.custodian,
            sender,
        }
    }

    pub(super) fn binding(&self, h: &Hostile<'_>, chat: ChatId, key_id: KeyId) -> ShareBinding {
        ShareBinding {
            deployment: h.deployment,
            custodian: self.custodian.clone(),
            chat,
            key_id,
            policy: h.policy,
        }
    }

    pub(super) fn store(
        &self,
        h: &Hostile<'_>,
        chat: ChatId,
        items: &[(KeyId, u32, Share)],
    ) -> Vec<StoreOutcome> {
        self.store_under(h, h.policy, chat, items)
    }

    pub(super) fn store_under(
        &self,
        h: &Hostile<'_>,
        policy: PolicyId,
        chat: ChatId,
        items: &[(KeyId, u32, Share)],
    ) -> Vec<StoreOutcome> {
        let seal = |(key_id, epoch, share): &(KeyId, u32, Share)| SealedItem {
            chat,
            epoch: *epoch,
            key_id: *key_id,
            policy,
            commitment: commitment(key_id, &self.custodian, share),
            sealed: {
                let mut binding = self.binding(h, chat, *key_id);
                binding.policy = policy;
                self.sender.seal(&binding, None, draw(), share)
            },
            expires_ms: None,
        };
        let request = CustodianRequest::Store(StoreRequest {
            home: home(),
            deployment: h.deployment,
            session: self.session.clone(),
            items: items.iter().map(seal).collect(),
        });
        match h.ask(self.custodian.as_str(), &request) {
            CustodianReply::Store(outcomes) => outcomes,
            other => panic!("{other:?}"),
        }
    }

    pub(super) fn request(
        &self,
        h: &Hostile<'_>,
        lease: &RecipientKey,
        grant: &str,
        keys: &[(ChatId, KeyId)],
    ) -> ReleaseRequest {
        let key = |(chat, key_id): &(ChatId, KeyId)| KeyRef {
            chat: *chat,
            key_id: *key_id,
        };
        ReleaseRequest {
            request: RequestId(draw()),
            home: home(),
            node: 1,
            deployment: h.deployment,
            lease_key: lease.public(),
            reason: Reason::Read,
            grant: grant.into(),
            keys: keys.iter().map(key).collect(),
        }
    }

    pub(super) fn ask(&self, h: &Hostile<'_>, request: &ReleaseRequest) -> CustodianReply {
        let request = CustodianRequest::Release(request.clone());
        h.ask(self.custodian.as_str(), &request)
    }

    /// What became of one key: the share, or why not. Noted for [`Hostile::recorded`].
    pub(super) fn release(
        &self,
        h: &Hostile<'_>,
        grant: &str,
        chat: ChatId,
        key_id: KeyId,
    ) -> Result<Share, Refusal> {
        let lease = RecipientKey::generate(&mut rand::rng());
        let request = self.request(h, &lease, grant, &[(chat, key_id)]);
        self.released(h, &lease, &request)
    }

    /// The same for a request of one key that was made before.
    pub(super) fn released(
        &self,
        h: &Hostile<'_>,
        lease: &RecipientKey,
        request: &ReleaseRequest,
    ) -> Result<Share, Refusal> {
        let authority = Grant::parse(&request.grant).map_or([0; 32], |g| g.hash().0);
        let asked = CustodianRequest::Release(request.clone());
        self.answered(h, lease, &asked, authority, request.keys[0])
    }

    /// What became of the one key of a request whose seals are bound to `authority`.
    pub(super) fn answered(
        &self,
        h: &Hostile<'_>,
        lease: &RecipientKey,
        request: &CustodianRequest,
        authority: [u8; 32],
        key: KeyRef,
    ) -> Result<Share, Refusal> {
        let reply = match h.ask(self.custodian.as_str(), request) {
            CustodianReply::Release(reply) => reply,
            other => panic!("{other:?}"),
        };
        let entry = reply.receipt.entry;
        let (told, outcome) = match &reply.shares[0] {
            ShareResult::Refused(why) => (Err(*why), outcome(why)),
            ShareResult::Share { sealed } => {
                let info = release_info(&h.deployment, &self.custodian);
                let opener = Receiver::new(lease, &reply.encapsulated, &info).unwrap();
                let context = ReleaseBinding {
                    authority,
                    node: 1,
                    lease_key: lease.public().hash(),
                };
                let binding = self.binding(h, key.chat, key.key_id);
                let share = opener.open(&binding, Some(&context), sealed).unwrap();
                (Ok(share), "released".to_owned())
            }
        };
        if self.custodian.as_str() == "ch" {
            h.noted.borrow_mut().insert(entry, outcome);
        }
        told
    }
}

/// A refusal as log entries and metrics have it.
fn outcome(why: &Refusal) -> String {
    match why {
        Refusal::Grant(why) => format!("grant_{}", why.code()),
        Refusal::Mandate(why) => format!("mandate_{}", why.code()),
        Refusal::Frozen => "frozen".into(),
        Refusal::RequestMismatch => "request_mismatch".into(),
        Refusal::Order | Refusal::NotAuthorised => "not_authorised".into(),
        Refusal::WrongChat => "wrong_chat".into(),
        other => panic!("no attack here ends as {other:?}"),
    }
}

/// The reasons a custodian counted, as its metrics have them.
pub(super) fn counted(world: &World, custodian: &str) -> BTreeSet<String> {
    let health = world.d.node(&node(custodian, 1)).health.to_string();
    let (_, text) = http_get(&health, "/metrics").unwrap();
    let of = |line: &str| {
        let (_, rest) = line.split_once("reason=\"")?;
        Some(rest.split_once('"')?.0.to_owned())
    };
    let lines = text.lines();
    let lines = lines.filter(|l| l.starts_with("quorate_custodian_refusals_total"));
    lines.filter_map(of).collect()
}
