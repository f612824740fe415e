//! What the tests share: a policy, a shard in memory, custodians in memory.

use crate::authz::envelope::Envelope;
use crate::authz::identity::device_id;
use crate::authz::membership::{ChatGenesis, ChatPayload};
use crate::crypto::labels::SIGN_MEMBERSHIP;
use crate::crypto::message::RecordKind;
use crate::crypto::seal::{Receiver, RecipientKey, ShareBinding, deal_info};
use crate::crypto::sign::SigningKey;
use crate::custody::protocol::{
    KeyRef, SealSession, SealedItem, SealingKeyStatement, StoreOutcome,
};
use crate::home::command::{
    ChatStatement, Command, DealtLeaf, EpochAck, EpochIntent, NewRecord, Proposal, Reply,
    SealedLeaf, SetPolicy, WriteMessages,
};
use crate::home::{machine, read};
use crate::policy::{Margins, Policy};
use crate::sharing;
use crate::types::kv::{MemKv, Position};
use crate::types::{
    AccountId, ChatId, CustodianId, DeploymentId, KeyId, Nonce, PublicKey, Secret, SessionId,
    Share, Structure, WallMs,
};
use rand_chacha::ChaCha20Rng;
use std::collections::{BTreeMap, BTreeSet};

pub const DEPLOYMENT: DeploymentId = DeploymentId([7; 16]);
pub const MARGINS: Margins = Margins {
    write_margin: 1,
    require_margin: false,
};
pub const SESSION_EXPIRES_MS: WallMs = 1_000_000_000;

pub fn id(name: &str) -> CustodianId {
    CustodianId::new(name).unwrap()
}

pub fn set(names: &[&str]) -> BTreeSet<CustodianId> {
    names.iter().map(|n| id(n)).collect()
}

pub fn flat(threshold: u8, names: &[&str]) -> Structure {
    Structure::Gate {
        threshold,
        children: names.iter().map(|n| Structure::Leaf(id(n))).collect(),
    }
}

pub fn policy_of(structure: Structure) -> Policy {
    let leaves: Vec<CustodianId> = structure.leaves().into_iter().cloned().collect();
    let identities = leaves
        .into_iter()
        .map(|id| {
            let hash = *blake3::hash(id.as_str().as_bytes()).as_bytes();
            (id, hash)
        })
        .collect();
    Policy::new(structure, identities).unwrap()
}

/// Any three of ch, is, sg, br, eu(any of de, nl).
pub fn policy() -> Policy {
    let mut structure = flat(3, &["br", "ch", "is", "sg"]);
    if let Structure::Gate { children, .. } = &mut structure {
        children.insert(2, flat(1, &["de", "nl"]));
    }
    policy_of(structure)
}

/// A shard in memory.
#[derive(Clone, Default)]
pub struct Shard {
    pub kv: MemKv,
    pub index: u64,
}

impl Shard {
    pub fn new(margins: Margins) -> Self {
        let mut shard = Self::default();
        let canonical = policy().canonical();
        let set = Command::SetPolicy(SetPolicy { canonical, margins });
        assert_eq!(shard.apply(1, set), Reply::Done);
        shard
    }
    pub fn apply(&mut self, now_ms: WallMs, command: Command) -> Reply {
        self.index += 1;
        let at = Position {
            term: 1,
            index: self.index,
        };
        machine::apply(&mut self.kv, at, Proposal { now_ms, command }).unwrap()
    }
    pub fn chat(&mut self, nonce: &str) -> ChatId {
        match self.apply(10, Command::CreateChat(genesis(nonce))) {
            Reply::Chat { chat, .. } => chat,
            other => panic!("{other:?}"),
        }
    }
    /// A fake session per custodian, without any cryptography behind it.
    pub fn sessions(&mut self) {
        let sessions = policy().custodians().into_iter().map(|c| session(&c));
        let reply = self.apply(10, Command::SealSessions(sessions.collect()));
        assert_eq!(reply, Reply::Done);
    }
    /// Opens the next epoch with a fake dealing that everyone acknowledges.
    pub fn open(&mut self, now_ms: WallMs, chat: ChatId, key: u8) -> KeyRef {
        let row = read::chat(&self.kv, &chat).unwrap().unwrap();
        let epoch = row.last.map_or(0, |(e, _)| e + 1);
        let intent = fake_intent(chat, epoch, row.last.map(|(_, k)| k), key);
        let key = KeyRef {
            chat,
            key_id: intent.key_id,
        };
        let reply = self.apply(now_ms, Command::EpochIntent(intent));
        assert_eq!(reply, Reply::Intent(key));
        let all: Vec<CustodianId> = policy().custodians().into_iter().collect();
        self.apply(now_ms, Command::EpochAcks(vec![ack(key, &all, false)]));
        key
    }
}

/// The key of account `n`'s only device.
pub fn signer(n: u8) -> SigningKey {
    SigningKey::from_seed(&Secret::from_slice(&[n; 32]).unwrap())
}

pub fn account(n: u8) -> AccountId {
    AccountId([n; 32])
}

pub fn public(n: u8) -> PublicKey {
    PublicKey(signer(n).public())
}

/// What account `n` says of a chat, signed by its device.
pub fn says(n: u8, payload: &ChatPayload) -> ChatStatement {
    ChatStatement {
        deployment: DEPLOYMENT,
        statement: Envelope::sign(SIGN_MEMBERSHIP, &DEPLOYMENT, payload, &[&signer(n)]),
        account: account(n),
        device: public(n),
    }
}

/// A chat of account 1.
pub fn genesis(nonce: &str) -> ChatStatement {
    let hash = blake3::hash(nonce.as_bytes());
    let payload = ChatPayload::Genesis(ChatGenesis {
        deployment: DEPLOYMENT,
        creator: account(1),
        device: device_id(&public(1)),
        public: false,
        created_ms: 1,
        nonce: Nonce(hash.as_bytes()[..16].try_into().unwrap()),
    });
    says(1, &payload)
}

pub fn session_id(custodian: &CustodianId) -> SessionId {
    let hash = blake3::hash(custodian.as_str().as_bytes());
    SessionId(hash.as_bytes()[..16].try_into().unwrap())
}

pub fn session(custodian: &CustodianId) -> SealSession {
    SealSession {
        id: session_id(custodian),
        custodian: custodian.clone(),
        version: 1,
        expires_ms: SESSION_EXPIRES_MS,
        encapsulated: vec![1; 1120],
    }
}

pub fn fake_intent(chat: ChatId, epoch: u32, previous: Option<KeyId>, key: u8) -> EpochIntent {
    let policy = policy();
    let leaves = policy.structure().leaves().into_iter().map(|c| DealtLeaf {
        custodian: c.clone(),
        commitment: [key; 32],
        sealed: Some(SealedLeaf {
            session: session_id(c),
            bytes: vec![key; 72],
        }),
    });
    EpochIntent {
        chat,
        epoch,
        previous,
        key_id: KeyId([key; 16]),
        policy: policy.id(),
        check: [key; 32],
        leaves: leaves.collect(),
        expires_ms: None,
    }
}

pub fn ack(key: KeyRef, acked: &[CustodianId], waited: bool) -> EpochAck {
    EpochAck {
        key,
        acked: acked.to_vec(),
        lost: vec![],
        waited,
    }
}

pub fn record(id: u64, idempotency: &str, content: u8) -> NewRecord {
    NewRecord {
        device: "phone".into(),
        idempotency: idempotency.into(),
        digest: [content; 32],
        kind: if id == 0 {
            RecordKind::Profile
        } else {
            RecordKind::Message
        },
        sealed: vec![content; 60],
    }
}

pub fn write(key: KeyRef, first: u64, records: Vec<NewRecord>) -> Command {
    Command::WriteMessages(WriteMessages {
        key,
        first,
        records,
    })
}

/// A custodian that opens what it is sent and keeps it, write-once.
pub struct FakeCustodian {
    pub id: CustodianId,
    sealing: RecipientKey,
    pub stored: BTreeMap<KeyId, ([u8; 32], Share)>,
    pub tombstones: BTreeSet<KeyId>,
}

impl FakeCustodian {
    pub fn new(id: &CustodianId, rng: &mut ChaCha20Rng) -> Self {
        Self {
            id: id.clone(),
            sealing: RecipientKey::generate(rng),
            stored: BTreeMap::new(),
            tombstones: BTreeSet::new(),
        }
    }
    pub fn statement(&self) -> SealingKeyStatement {
        SealingKeyStatement {
            custodian: self.id.clone(),
            version: 1,
            public: self.sealing.public(),
            expires_ms: SESSION_EXPIRES_MS,
            signature: vec![],
        }
    }
    pub fn store(&mut self, session: &SealSession, item: &SealedItem) -> StoreOutcome {
        if self.tombstones.contains(&item.key_id) {
            return StoreOutcome::Tombstoned;
        }
        let info = deal_info(&DEPLOYMENT, &self.id, session.version);
        let binding = ShareBinding {
            deployment: DEPLOYMENT,
            custodian: self.id.clone(),
            chat: item.chat,
            key_id: item.key_id,
            policy: item.policy,
        };
        let share = Receiver::new(&self.sealing, &session.encapsulated, &info)
            .and_then(|r| r.open(&binding, None, &item.sealed));
        let Ok(share) = share else {
            return StoreOutcome::BadShare;
        };
        if !sharing::commitment_holds(&item.key_id, &self.id, &share, &item.commitment) {
            return StoreOutcome::BadShare;
        }
        match self.stored.get(&item.key_id) {
            Some((commitment, _)) if *commitment == item.commitment => StoreOutcome::AlreadyStored,
            Some(_) => StoreOutcome::Conflict,
            None => {
                self.stored.insert(item.key_id, (item.commitment, share));
                StoreOutcome::Stored
            }
        }
    }
    pub fn abandon(&mut self, key_id: &KeyId) {
        self.stored.remove(key_id);
        self.tombstones.insert(*key_id);
    }
}
