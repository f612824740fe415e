//! People: their accounts, devices and chats, what they sign, and when they may
//! call it done. Their signed statements reach custodians one by one, late, twice
//! or not at all; custodians also tell one another.

use super::Mutant;
use super::custodian::{Custodian, Ticket};
use super::facts::Fact;
use super::world::{self, DEPLOYMENT, Event, T0_MS, World};
use quorate_engine::authz::chain::{ChainId, Source};
use quorate_engine::authz::deletion::Deletion;
use quorate_engine::authz::envelope::Envelope;
use quorate_engine::authz::grant::{Action, ChatRange, Claims, Grant};
use quorate_engine::authz::identity::{
    AccountChange, AccountGenesis, AccountPayload, AccountStatement, AuthorityKey, AuthorityRecord,
    account_id, device_id,
};
use quorate_engine::authz::membership::{
    ChatChange, ChatGenesis, ChatPayload, ChatStatement, chat_id,
};
use quorate_engine::authz::standing::Role;
use quorate_engine::crypto::labels::{SIGN_ACCOUNT, SIGN_MEMBERSHIP};
use quorate_engine::crypto::sign::SigningKey;
use quorate_engine::custody::{Chained, Command, chain_head, statements};
use quorate_engine::home;
use quorate_engine::types::{
    AccountId, AuthorityId, ChatId, CustodianId, DeviceId, EpochNo, GrantId, Nonce, PublicKey,
    StatementHash, WallMs,
};
use rand::RngExt;
use rand_chacha::ChaCha20Rng;
use std::collections::{BTreeMap, BTreeSet};

/// People in the deployment; the first creates chat 1, the second chat 2, and so on.
pub const PERSONS: usize = 4;
/// Devices one person ever has.
const DEVICES_MAX: usize = 4;
/// The last person comes into chats of others from this epoch on only.
const LATE_EPOCH: EpochNo = 1;
const DAY_MS: u64 = 24 * 3_600_000;

/// A device of a person.
pub struct Device {
    /// Its id.
    pub id: DeviceId,
    key: SigningKey,
    revoked: bool,
}

impl Device {
    fn new(rng: &mut ChaCha20Rng) -> Self {
        let key = SigningKey::generate(rng);
        let id = device_id(&PublicKey(key.public()));
        let revoked = false;
        Self { id, key, revoked }
    }
    fn public(&self) -> PublicKey {
        PublicKey(self.key.public())
    }
}

/// Someone, by what was signed so far.
pub struct Person {
    /// The account.
    pub account: AccountId,
    /// The first is never revoked and signs statements.
    pub devices: Vec<Device>,
    head: (u64, StatementHash),
}

/// A chat, by what was signed so far.
pub struct Chat {
    /// Its id.
    pub id: ChatId,
    /// What founds it.
    genesis: Envelope,
    /// Who created it; is never removed.
    pub creator: usize,
    /// Who is in it, from which epoch on.
    pub members: BTreeMap<usize, EpochNo>,
    head: (u64, StatementHash),
}

/// Whom a statement shuts out, once it is done: of one chat, or (`None`) with a device.
#[derive(Clone, Copy)]
enum Shuts {
    Nobody,
    Member(usize, usize),
    Device(usize, DeviceId),
}

/// A signed statement on its way to every custodian.
pub struct Statement {
    chain: ChainId,
    envelope: Envelope,
    shuts: Shuts,
    acks: BTreeSet<CustodianId>,
    done: bool,
}

/// All of them.
pub struct People {
    authority: SigningKey,
    /// In order.
    pub persons: Vec<Person>,
    /// In order; chat `n` is at `n - 1`.
    pub chats: Vec<Chat>,
    statements: BTreeMap<u64, Statement>,
    founding: Vec<Command>,
}

impl People {
    /// An authority and its people.
    pub fn new(rng: &mut ChaCha20Rng) -> Self {
        let authority = SigningKey::generate(rng);
        let id = AuthorityId::new("bank").expect("a name");
        let key = AuthorityKey {
            version: 1,
            public: PublicKey(authority.public()),
            not_before_ms: T0_MS - DAY_MS,
            not_after_ms: T0_MS + 300 * DAY_MS,
        };
        let record = AuthorityRecord {
            id: id.clone(),
            entity: "Bank".into(),
            jurisdiction: "jp".into(),
            identity_key: PublicKey(SigningKey::generate(rng).public()),
            keys: vec![key],
        };
        let mut founding = Custodian::registrations(record);
        let mut persons = Vec::new();
        for n in 0..PERSONS {
            let device = Device::new(rng);
            let genesis = AccountPayload::Genesis(AccountGenesis {
                deployment: DEPLOYMENT,
                authorities: [id.clone()].into(),
                device: device.public(),
                expires_ms: T0_MS + 20 * DAY_MS,
                secret: None,
                created_ms: T0_MS,
                nonce: Nonce([n as u8; 16]),
            });
            let by = [&device.key, &authority];
            let envelope = Envelope::sign(SIGN_ACCOUNT, &DEPLOYMENT, &genesis, &by);
            persons.push(Person {
                account: account_id(&envelope),
                devices: vec![device],
                head: (0, StatementHash(envelope.hash())),
            });
            let source = Source::Client;
            founding.push(Command::AccountStatement(Chained { source, envelope }));
        }
        Self {
            authority,
            persons,
            chats: Vec::new(),
            statements: BTreeMap::new(),
            founding,
        }
    }

    /// What every custodian has committed before anything begins.
    pub fn founding(&self) -> Vec<Command> {
        self.founding.clone()
    }

    /// Whether every statement stands at a blocking set of custodians.
    pub fn all_done(&self) -> bool {
        self.statements.values().all(|s| s.done)
    }

    /// A deletion, signed with one of someone's devices, whatever became of it.
    pub fn signs(&self, who: usize, device: usize, deletion: &Deletion) -> Envelope {
        let key = &self.persons[who].devices[device].key;
        deletion.sign(key).expect("a well-formed deletion")
    }

    /// The key of a device, whoever has it.
    pub fn public_of(&self, id: &DeviceId) -> Option<[u8; 32]> {
        let all = self.persons.iter().flat_map(|p| &p.devices);
        let found = all.into_iter().find(|d| d.id == *id);
        found.map(|d| d.key.public())
    }

    fn chains(&self) -> Vec<ChainId> {
        let accounts = self.persons.iter().map(|p| ChainId::Account(p.account));
        let chats = self.chats.iter().map(|c| ChainId::Chat(c.id));
        accounts.chain(chats).collect()
    }
}

impl World {
    /// The id of chat `n`.
    pub fn chat_id(&self, n: u64) -> ChatId {
        self.people.chats[n as usize - 1].id
    }

    /// What creates chat `n` at the home.
    pub fn creates(&self, n: u64) -> home::Command {
        let chat = &self.people.chats[n as usize - 1];
        let creator = &self.people.persons[chat.creator];
        home::Command::CreateChat(home::command::ChatStatement {
            deployment: DEPLOYMENT,
            statement: chat.genesis.clone(),
            account: creator.account,
            device: creator.devices[0].public(),
        })
    }

    /// The next chat is founded; returns its number.
    pub fn found(&mut self) -> u64 {
        let creator = self.people.chats.len() % PERSONS;
        let nonce = Nonce(self.bytes());
        let made = self.wall(0);
        let person = &self.people.persons[creator];
        let payload = ChatPayload::Genesis(ChatGenesis {
            deployment: DEPLOYMENT,
            creator: person.account,
            device: person.devices[0].id,
            public: false,
            created_ms: made,
            nonce,
        });
        let by = [&person.devices[0].key];
        let genesis = Envelope::sign(SIGN_MEMBERSHIP, &DEPLOYMENT, &payload, &by);
        let id = chat_id(&genesis);
        self.people.chats.push(Chat {
            id,
            genesis: genesis.clone(),
            creator,
            members: BTreeMap::from([(creator, 0)]),
            head: (0, StatementHash(genesis.hash())),
        });
        self.tell(ChainId::Chat(id), genesis, Shuts::Nobody);
        self.people.chats.len() as u64
    }

    /// Someone comes into a chat or goes, gets a device or loses one.
    pub fn change_people(&mut self) {
        if self.people.chats.is_empty() || self.chance(30) {
            return self.change_devices();
        }
        let n = self.pick(self.people.chats.len());
        let who = self.pick(PERSONS);
        let chat = &self.people.chats[n];
        if who == chat.creator {
            return;
        }
        let account = self.people.persons[who].account;
        let (change, shuts) = if chat.members.contains_key(&who) {
            (ChatChange::Remove { account }, Shuts::Member(n, who))
        } else {
            let from_epoch = if who == PERSONS - 1 { LATE_EPOCH } else { 0 };
            let role = Role::Member;
            let add = ChatChange::Add {
                account,
                role,
                from_epoch,
            };
            (add, Shuts::Nobody)
        };
        let made = self.wall(0);
        let chat = &mut self.people.chats[n];
        let id = chat.id;
        match &change {
            ChatChange::Add { from_epoch, .. } => {
                chat.members.insert(who, *from_epoch);
            }
            _ => {
                chat.members.remove(&who);
            }
        }
        if matches!(shuts, Shuts::Nobody) {
            self.recorder.fact(Fact::Welcomed { chat: id, account });
        }
        let creator = &self.people.persons[chat.creator];
        let payload = ChatPayload::Statement(ChatStatement {
            chat: id,
            number: chat.head.0 + 1,
            previous: chat.head.1,
            at_ms: made,
            account: creator.account,
            device: creator.devices[0].id,
            change,
        });
        let by = [&creator.devices[0].key];
        let envelope = Envelope::sign(SIGN_MEMBERSHIP, &DEPLOYMENT, &payload, &by);
        chat.head = (chat.head.0 + 1, StatementHash(envelope.hash()));
        self.tell(ChainId::Chat(id), envelope, shuts);
    }

    fn change_devices(&mut self) {
        let who = self.pick(PERSONS);
        let made = self.wall(0);
        let people = &mut self.people;
        let person = &mut people.persons[who];
        let spare = person.devices.iter().position(|d| !d.revoked);
        let spare = spare.and_then(|first| {
            let later = person.devices.iter().skip(first + 1);
            later.into_iter().find(|d| !d.revoked).map(|d| d.id)
        });
        let full = person.devices.len() == DEVICES_MAX;
        let (change, shuts) = match spare {
            Some(device) if full || self.rng.random_range(0..2) == 0 => {
                let change = AccountChange::Revoke { device };
                (change, Shuts::Device(who, device))
            }
            _ if full => return,
            _ => {
                person.devices.push(Device::new(&mut self.rng));
                let public = person.devices[person.devices.len() - 1].public();
                let expires_ms = made + 20 * DAY_MS;
                let change = AccountChange::AddDevice { public, expires_ms };
                (change, Shuts::Nobody)
            }
        };
        let mut by = vec![&person.devices[0].key];
        if matches!(shuts, Shuts::Nobody) {
            by.push(&person.devices[person.devices.len() - 1].key);
            by.push(&people.authority);
        }
        let payload = AccountPayload::Statement(AccountStatement {
            account: person.account,
            number: person.head.0 + 1,
            previous: person.head.1,
            at_ms: made,
            change,
        });
        let envelope = Envelope::sign(SIGN_ACCOUNT, &DEPLOYMENT, &payload, &by);
        person.head = (person.head.0 + 1, StatementHash(envelope.hash()));
        if let Shuts::Device(_, gone) = shuts {
            for device in person.devices.iter_mut().filter(|d| d.id == gone) {
                device.revoked = true;
            }
        }
        let chain = ChainId::Account(person.account);
        self.tell(chain, envelope, shuts);
    }

    fn tell(&mut self, chain: ChainId, envelope: Envelope, shuts: Shuts) {
        let id = self.next_id();
        let statement = Statement {
            chain,
            envelope,
            shuts,
            acks: BTreeSet::new(),
            done: false,
        };
        self.people.statements.insert(id, statement);
        if !self.chance(40) {
            return self.pass_on(id);
        }
        // Whoever passes it on keeps it from all custodians but one, for a while.
        let custodian = self.pick(self.custodians.len());
        self.send(Event::Tell {
            custodian,
            statement: id,
        });
        let delay = self.rng.random_range(1_000..6_000);
        self.later(delay, Event::PassOn { statement: id });
    }

    /// A statement goes to every custodian that did not acknowledge it, again and again.
    pub fn pass_on(&mut self, statement: u64) {
        let mut open = false;
        for custodian in 0..self.custodians.len() {
            let name = &self.custodians[custodian].place.custodian;
            if !self.people.statements[&statement].acks.contains(name) {
                open = true;
                self.send(Event::Tell {
                    custodian,
                    statement,
                });
            }
        }
        if open {
            let delay = self.rng.random_range(800..4_000);
            self.later(delay, Event::PassOn { statement });
        }
    }

    /// Everything is passed on anew: custodians were set back.
    pub fn pass_everything_on(&mut self) {
        let all: Vec<u64> = self.people.statements.keys().copied().collect();
        for id in all {
            let open = self.people.statements.get_mut(&id).map(|s| {
                let open = s.acks.len() < self.custodians.len();
                s.acks.clear();
                open
            });
            // One that is still open is on its way already.
            if open == Some(false) {
                self.pass_on(id);
            }
        }
    }

    /// A custodian is told of a statement.
    pub fn told(&mut self, number: usize, statement: u64) {
        if !self.custodians[number].stopped {
            let s = &self.people.statements[&statement];
            let command = chained(&s.chain, Source::Client, s.envelope.clone());
            let ticket = Ticket::Statement(statement);
            self.custodian_propose(number, vec![command], 0, 0, ticket);
        }
    }

    /// A custodian's acknowledgement reached whoever signed: a blocking set of them is enough.
    pub fn acknowledged(&mut self, number: usize, statement: u64) {
        let custodian = self.custodians[number].place.custodian.clone();
        let all = self.policy.custodians();
        let Some(s) = self.people.statements.get_mut(&statement) else {
            return;
        };
        s.acks.insert(custodian);
        let others: BTreeSet<_> = all.difference(&s.acks).cloned().collect();
        let early = self.mutant == Some(Mutant::DoneTooEarly);
        if s.done || (self.policy.satisfied_by(&others) && !early) {
            return;
        }
        s.done = true;
        let shuts = s.shuts;
        let would = self
            .policy
            .what_would_suffice(&BTreeSet::new(), &BTreeSet::new());
        let persons = &self.people.persons;
        let barred = match shuts {
            Shuts::Nobody => return,
            // In again meanwhile: nothing is promised about it.
            Shuts::Member(n, who) if self.people.chats[n].members.contains_key(&who) => return,
            Shuts::Member(n, who) => Fact::Barred {
                chat: Some(self.people.chats[n].id),
                account: persons[who].account,
                device: None,
                would,
            },
            Shuts::Device(who, device) => Fact::Barred {
                chat: None,
                account: persons[who].account,
                device: Some(device),
                would,
            },
        };
        self.recorder.fact(barred);
        // Whoever is out tries it at once.
        match shuts {
            Shuts::Device(who, id) => {
                let devices = &self.people.persons[who].devices;
                let device = devices.iter().position(|d| d.id == id).unwrap_or(0);
                let member = |c: &Chat| c.members.contains_key(&who);
                if let Some(n) = self.people.chats.iter().position(member) {
                    self.try_again(n, who, device);
                }
            }
            Shuts::Member(n, who) => self.try_again(n, who, 0),
            Shuts::Nobody => {}
        }
    }

    /// A custodian looks what the others have that it lacks.
    pub fn exchange(&mut self, number: usize) {
        let delay = self.rng.random_range(1_000..4_000);
        self.later(delay, Event::Exchange { custodian: number });
        if self.custodians[number].stopped || (self.lossy && self.chance(20)) {
            return;
        }
        let mut missing = Vec::new();
        for chain in self.people.chains() {
            let own = self.custodians[number].cluster.kv();
            let head = chain_head(own, &chain).expect("memory does not fail");
            let next = head.map_or(0, |h| h.number + 1);
            let (mut having, mut found) = (BTreeSet::new(), None);
            let others = self.custodians.iter().enumerate();
            for (_, c) in others.filter(|(n, c)| *n != number && !c.stopped) {
                let more = statements(c.cluster.kv(), &chain, next).expect("memory does not fail");
                if let Some(envelope) = more.into_iter().next() {
                    having.insert(c.place.custodian.clone());
                    found = Some(envelope);
                }
            }
            let all = self.policy.custodians();
            let rest: BTreeSet<_> = all.difference(&having).cloned().collect();
            let source = if self.policy.satisfied_by(&rest) {
                Source::Peer
            } else {
                Source::Vouched
            };
            missing.extend(found.map(|envelope| chained(&chain, source, envelope)));
        }
        if !missing.is_empty() {
            self.custodian_propose(number, missing, 0, 0, Ticket::Nobody);
        }
    }

    /// Who asks for what concerns a chat: `wish` while it may, else the creator.
    pub fn asker(&mut self, n: u64, wish: usize) -> usize {
        let chat = &self.people.chats[n as usize - 1];
        match chat.members.get(&wish) {
            Some(0) => wish,
            _ => chat.creator,
        }
    }

    /// What `who` would grant for chat `n`: all of it, from a minute ago.
    pub fn claims(&mut self, who: usize, n: u64) -> Claims {
        let range = ChatRange {
            chat: self.chat_id(n),
            from: 0,
            to: None,
        };
        let now_s = self.wall(0) / 1000;
        Claims {
            account: self.people.persons[who].account,
            deployment: DEPLOYMENT,
            home: world::home(),
            actions: vec![Action::Write],
            chats: vec![range],
            ceiling: 512,
            not_before_s: now_s - 60,
            expires_s: now_s + 840,
            id: GrantId(self.bytes()),
        }
    }

    /// A grant of someone with a device that was not revoked.
    pub fn grant(&mut self, who: usize, n: u64) -> String {
        let claims = self.claims(who, n);
        let devices = &self.people.persons[who].devices;
        let live: Vec<usize> = (0..devices.len())
            .filter(|d| !devices[*d].revoked)
            .collect();
        let device = live[self.rng.random_range(0..live.len())];
        self.signed(who, device, claims)
    }

    /// Claims signed with one of someone's devices, whatever became of it.
    pub fn signed(&self, who: usize, device: usize, claims: Claims) -> String {
        let device = &self.people.persons[who].devices[device];
        let grant = Grant::sign(device.id, &device.key, claims).expect("well-formed claims");
        grant.compact().to_owned()
    }

    /// Claims under the name of one of someone's devices, signed by nobody known.
    pub fn forged(&mut self, who: usize, device: usize, claims: Claims) -> String {
        let id = self.people.persons[who].devices[device].id;
        let key = SigningKey::generate(&mut self.rng);
        let grant = Grant::sign(id, &key, claims).expect("well-formed claims");
        grant.compact().to_owned()
    }
}

fn chained(chain: &ChainId, source: Source, envelope: Envelope) -> Command {
    let chained = Chained { source, envelope };
    match chain {
        ChainId::Account(_) => Command::AccountStatement(chained),
        ChainId::Chat(_) => Command::ChatStatement(chained),
    }
}

/// When a grant is good, by what it says.
pub fn window(claims: &Claims) -> (WallMs, WallMs) {
    (claims.not_before_s * 1000, claims.expires_s * 1000)
}
