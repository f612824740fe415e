//! People with one device each, who found chats, sign statements and show
//! grants; and what a custodian in memory knows of them.

use super::world::{DEPLOYMENT, content, wall};
use crate::home::api::Caller;
use quorate_engine::api::CreateChat;
use quorate_engine::api::registry::Statement;
use quorate_engine::authz::chain::{Misplaced, Source};
use quorate_engine::authz::deletion::{self, Mandate, MandateRefusal};
use quorate_engine::authz::envelope::Envelope;
use quorate_engine::authz::grant::{
    Action, ChatRange, Claims, Grant, GrantRefusal, Shown, decide, decide_grant,
};
use quorate_engine::authz::identity::device_id;
use quorate_engine::authz::membership::{
    self, ChatChange, ChatGenesis, ChatHead, ChatPayload, ChatStatement, Invite, Member,
    MembershipContext, MembershipReads, MembershipRefusal, chat_id,
};
use quorate_engine::authz::standing::{DeviceStanding, MemberStanding};
use quorate_engine::crypto::labels::SIGN_MEMBERSHIP;
use quorate_engine::crypto::sign::SigningKey;
use quorate_engine::custody::protocol::{
    MandateReleaseRequest, Reason, ReleaseRequest, StatementRefused,
};
use quorate_engine::types::kv::KvError;
use quorate_engine::types::{
    AccountId, ChatId, DeviceId, EpochNo, GrantId, HomeId, Nonce, PublicKey, RequestId, Secret,
    StatementHash,
};
use std::collections::BTreeMap;
use std::sync::{Mutex, OnceLock};
use std::time::{Duration, Instant};

/// The people that custodians know; any other is a stranger.
pub const PEOPLE: u8 = 4;
/// Names of chats that [`caller`]'s grant covers.
const NAMES: &str = "abcdefghijklmnopqrstuvwxyz0123456789";

/// When these tests began: a chat founded again is founded at the same time.
fn began_ms() -> u64 {
    static BEGAN: OnceLock<u64> = OnceLock::new();
    *BEGAN.get_or_init(wall)
}

/// Somebody with one device.
#[derive(Clone, Copy)]
pub struct Person(pub u8);

/// Who founds the chats of these tests, unless said otherwise.
pub const ANNA: Person = Person(1);
pub const BORIS: Person = Person(2);

impl Person {
    pub fn key(self) -> SigningKey {
        SigningKey::from_seed(&Secret::from_slice(&[self.0; 32]).unwrap())
    }
    pub fn account(self) -> AccountId {
        AccountId([self.0; 32])
    }
    pub fn public(self) -> [u8; 32] {
        self.key().public()
    }
    pub fn device(self) -> DeviceId {
        device_id(&PublicKey(self.public()))
    }

    /// Of this name always the same.
    pub fn genesis(self, name: &str) -> Envelope {
        let hash = blake3::hash(name.as_bytes());
        self.signs(&ChatPayload::Genesis(ChatGenesis {
            deployment: DEPLOYMENT,
            creator: self.account(),
            device: self.device(),
            public: false,
            created_ms: began_ms(),
            nonce: Nonce(hash.as_bytes()[..16].try_into().unwrap()),
        }))
    }
    pub fn founds(self, name: &str) -> CreateChat {
        CreateChat {
            idempotency_key: name.into(),
            profile: content(name),
            genesis: Statement::from(&self.genesis(name)),
        }
    }
    pub fn says(
        self,
        chat: ChatId,
        number: u64,
        previous: StatementHash,
        change: ChatChange,
    ) -> Envelope {
        self.signs(&ChatPayload::Statement(ChatStatement {
            chat,
            number,
            previous,
            at_ms: wall(),
            account: self.account(),
            device: self.device(),
            change,
        }))
    }
    fn signs(self, payload: &ChatPayload) -> Envelope {
        Envelope::sign(SIGN_MEMBERSHIP, &DEPLOYMENT, payload, &[&self.key()])
    }

    /// To read and write these chats from their first epoch on.
    pub fn claims(self, chats: &[ChatId]) -> Claims {
        let now_s = wall() / 1000;
        let range = |chat: &ChatId| ChatRange {
            chat: *chat,
            from: 0,
            to: None,
        };
        Claims {
            account: self.account(),
            deployment: DEPLOYMENT,
            home: HomeId::new("ae").unwrap(),
            actions: vec![Action::Write],
            chats: chats.iter().map(range).collect(),
            ceiling: u32::MAX,
            not_before_s: now_s - 60,
            expires_s: now_s + 600,
            id: GrantId(rand::random()),
        }
    }
    /// A caller under a grant that this person's device signs.
    pub fn shows(self, claims: Claims) -> Caller {
        let grant = Grant::sign(self.device(), &self.key(), claims).unwrap();
        Caller {
            grant: grant.compact().to_owned(),
            request: RequestId([1; 16]),
        }
    }
    pub fn calls(self, chats: &[ChatId]) -> Caller {
        self.shows(self.claims(chats))
    }
}

/// The chat that Anna founds under this name.
pub fn chat_named(name: &str) -> ChatId {
    chat_id(&ANNA.genesis(name))
}

/// Anna, with a grant for every chat of one letter or digit; the same for some minutes.
pub fn caller() -> Caller {
    static SHOWN: Mutex<Option<(Instant, Caller)>> = Mutex::new(None);
    let mut shown = SHOWN.lock().unwrap();
    if let Some((since, caller)) = &*shown
        && since.elapsed() < Duration::from_secs(240)
    {
        return caller.clone();
    }
    let chats: Vec<ChatId> = NAMES.chars().map(|c| chat_named(&c.to_string())).collect();
    let caller = ANNA.calls(&chats);
    *shown = Some((Instant::now(), caller.clone()));
    caller
}

/// A chat as a custodian knows it.
struct Chain {
    head: ChatHead,
    members: BTreeMap<AccountId, Member>,
    invites: BTreeMap<PublicKey, Invite>,
    hashes: Vec<StatementHash>,
}

/// What a custodian in memory was told of people and chats.
pub struct Registry {
    /// When set, every later statement of a chat is refused.
    pub refuses: bool,
    pub devices: BTreeMap<DeviceId, (AccountId, DeviceStanding)>,
    chats: BTreeMap<ChatId, Chain>,
}

struct Reads<'a>(&'a Registry, Option<&'a Chain>);

impl MembershipReads for Reads<'_> {
    fn member(&self, account: &AccountId) -> Result<Option<Member>, KvError> {
        Ok(self.1.and_then(|c| c.members.get(account).copied()))
    }
    fn invite(&self, key: &PublicKey) -> Result<Option<Invite>, KvError> {
        Ok(self.1.and_then(|c| c.invites.get(key).copied()))
    }
    fn device(
        &self,
        account: &AccountId,
        device: &DeviceId,
        _at_ms: u64,
        _then: bool,
    ) -> Result<DeviceStanding, KvError> {
        Ok(self.0.device(account, device))
    }
    fn standing(&self, number: u64) -> Result<Option<StatementHash>, KvError> {
        let hashes = self.1.map_or(&[][..], |c| &c.hashes);
        Ok(hashes.get(usize::try_from(number).unwrap()).copied())
    }
}

impl Default for Registry {
    fn default() -> Self {
        let people = (1..=PEOPLE).map(Person);
        let known = people.map(|p| {
            let public = p.public();
            (p.device(), (p.account(), DeviceStanding::Live { public }))
        });
        Self {
            refuses: false,
            devices: known.collect(),
            chats: BTreeMap::new(),
        }
    }
}

impl Registry {
    pub fn device(&self, account: &AccountId, device: &DeviceId) -> DeviceStanding {
        let known = self.devices.get(device).filter(|(of, _)| of == account);
        known.map_or(DeviceStanding::Unknown, |(_, standing)| *standing)
    }

    pub fn member(&self, chat: &ChatId, account: &AccountId) -> MemberStanding {
        let Some(chain) = self.chats.get(chat) else {
            return MemberStanding::UnknownChat;
        };
        let member = chain.members.get(account);
        member.map_or(MemberStanding::NotMember, |m| MemberStanding::Member {
            role: m.role,
            from_epoch: m.from_epoch,
        })
    }

    /// Number of a chat's newest statement here.
    pub fn number(&self, chat: &ChatId) -> Option<u64> {
        self.chats.get(chat).map(|c| c.head.head.number)
    }

    /// Takes a statement in: the chain it ends now, with number and hash.
    pub fn take(
        &mut self,
        statement: &Envelope,
    ) -> Result<(ChatId, (u64, [u8; 32])), StatementRefused> {
        let refused = |code: &str, reason: String, have| StatementRefused {
            code: code.into(),
            reason,
            have,
        };
        let payload: ChatPayload = statement.read("statement").unwrap();
        let (chat, number) = match &payload {
            ChatPayload::Genesis(_) => (chat_id(statement), 0),
            ChatPayload::Statement(s) => (s.chat, s.number),
        };
        if self.refuses {
            return Err(refused("device", "its clock is ahead".into(), None));
        }
        let chain = self.chats.get(&chat);
        let reads = Reads(self, chain);
        let ctx = MembershipContext {
            deployment: &DEPLOYMENT,
            now_ms: wall(),
            source: Source::Client,
            reads: &reads,
        };
        let next = match (chain, number) {
            (Some(c), 0) => return Ok((chat, (c.head.head.number, c.head.head.hash.0))),
            (None, 0) => membership::genesis(statement, &ctx),
            (None, _) => return Err(refused("behind", "no such chat here".into(), None)),
            (Some(c), _) => membership::advance(&c.head, statement, &ctx),
        };
        let delta = match next.unwrap() {
            Ok(delta) => delta,
            Err(MembershipRefusal::Misplaced(Misplaced::AlreadyApplied { .. })) => {
                let head = self.chats[&chat].head.head;
                return Ok((chat, (head.number, head.hash.0)));
            }
            Err(e) => {
                let have = match &e {
                    MembershipRefusal::Misplaced(Misplaced::Behind { have, .. }) => Some(*have),
                    _ => None,
                };
                return Err(refused(e.code(), e.to_string(), have));
            }
        };
        let chain = self.chats.entry(chat).or_insert_with(|| Chain {
            head: delta.head,
            members: BTreeMap::new(),
            invites: BTreeMap::new(),
            hashes: Vec::new(),
        });
        chain.head = delta.head;
        chain.hashes.push(delta.head.head.hash);
        match delta.member {
            Some((who, Some(m))) => drop(chain.members.insert(who, m)),
            Some((who, None)) => drop(chain.members.remove(&who)),
            None => {}
        }
        match delta.invite {
            Some((key, Some(i))) => drop(chain.invites.insert(key, i)),
            Some((key, None)) => drop(chain.invites.remove(&key)),
            None => {}
        }
        Ok((chat, (delta.head.head.number, delta.head.head.hash.0)))
    }

    /// Whether the mandate of a request lets a key of this epoch go.
    pub fn mandates(
        &self,
        request: &MandateReleaseRequest,
        chat: &ChatId,
        epoch: Option<EpochNo>,
    ) -> Result<(), MandateRefusal> {
        let mandate = Mandate::read(&request.statement)?;
        let d = mandate.deletion();
        mandate.decide(&deletion::Shown {
            deployment: &request.deployment,
            home: &request.home,
            device: self.device(&d.account, &d.device),
            now_ms: wall(),
        })?;
        let member = self.member(&d.chat, &d.account);
        epoch.map_or(Ok(()), |epoch| mandate.decide_key(member, chat, epoch))
    }

    /// Whether the grant of a request lets a key of this epoch go.
    pub fn allows(
        &self,
        request: &ReleaseRequest,
        chat: &ChatId,
        epoch: Option<EpochNo>,
    ) -> Result<(), GrantRefusal> {
        let grant = Grant::parse(&request.grant)?;
        let device = self.device(&grant.claims().account, grant.device());
        let shown = Shown {
            deployment: &request.deployment,
            home: &request.home,
            device,
            signature_holds: device.live().is_some_and(|key| grant.verify(key).is_ok()),
            action: match request.reason {
                Reason::Write => Action::Write,
                _ => Action::Read,
            },
            now_ms: wall(),
        };
        let member = self.member(chat, &grant.claims().account);
        match epoch {
            Some(epoch) => decide(&grant, &shown, member, chat, epoch),
            None => decide_grant(&grant, &shown),
        }
    }
}
