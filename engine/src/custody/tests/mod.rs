//! One custodian on a bench: every proposal is followed by a check of the log.

mod chains;
mod custody_of_keys;
mod departure;
mod grants;
mod mandates;
mod model;
mod officers;
mod order_accounts;
mod path;
mod shares;
mod state;

use super::protocol::*;
use super::*;
use crate::audit::{self, Entry, Log, leaf_hash, tests::naive};
use crate::authz::grant::{
    Action, Afresh, ChatRange, Claims, GRANT_CHATS_MAX, Grant, GrantHash, GrantRefusal, KnownGrants,
};
use crate::authz::standing::{DeviceStanding, MemberStanding, Role};
use crate::crypto::sign::SigningKey;
use crate::policy::Policy;
use crate::types::kv::{KvError, KvRead, Machine, MemKv, Position};
use crate::types::*;
use rand::SeedableRng;
use rand_chacha::ChaCha20Rng;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

const HOUR: u64 = 60 * 60 * 1000;
const T0: u64 = 1_700_000_000_000;
const DEPLOYMENT: DeploymentId = DeploymentId([1; 16]);
const EPOCH: EpochNo = 5;
/// Table of what these tests say of devices and members.
const SAID: u8 = 0x7e;

fn machine(name: &str, identity: [u8; 32]) -> Custody {
    Custody::new(custodian(name), identity)
        .serving(DEPLOYMENT)
        .with_standings(Arc::new(Said))
}

fn device_key() -> SigningKey {
    SigningKey::from_seed(&Secret::from_slice(&[1; 32]).unwrap())
}
fn phone() -> DeviceId {
    DeviceId([0xd1; 32])
}
fn person() -> AccountId {
    AccountId([0xac; 32])
}

/// One account with one device, member of every chat, unless a row says otherwise.
#[derive(Debug)]
struct Said;

fn said_device(device: &DeviceId) -> Vec<u8> {
    [&[SAID, 0], device.0.as_slice()].concat()
}
fn said_member(chat: &ChatId) -> Vec<u8> {
    [&[SAID, 1], chat.0.as_slice()].concat()
}

impl Standings for Said {
    fn device(
        &self,
        kv: &dyn KvRead,
        who: &AccountId,
        which: &DeviceId,
        _: WallMs,
    ) -> Result<DeviceStanding, KvError> {
        if (*who, *which) != (person(), phone()) {
            return Ok(DeviceStanding::Unknown);
        }
        Ok(match kv.get(&said_device(which))?.as_deref() {
            None => DeviceStanding::Live {
                public: device_key().public(),
            },
            Some(b"expired") => DeviceStanding::Expired,
            Some(_) => DeviceStanding::Revoked,
        })
    }

    fn member(
        &self,
        kv: &dyn KvRead,
        chat: &ChatId,
        _: &AccountId,
    ) -> Result<MemberStanding, KvError> {
        let member = |from_epoch| MemberStanding::Member {
            role: Role::Member,
            from_epoch,
        };
        Ok(match kv.get(&said_member(chat))?.as_deref() {
            None => member(0),
            Some(b"unknown") => MemberStanding::UnknownChat,
            Some(b"forked") => MemberStanding::Forked,
            Some(b"later") => member(EPOCH + 1),
            Some(b"admin") => MemberStanding::Member {
                role: Role::Admin,
                from_epoch: 0,
            },
            Some(_) => MemberStanding::NotMember,
        })
    }
}

/// What a device would sign at `time_ms` for these keys at home `h`: the same
/// text within a quarter of an hour.
fn claims(h: &HomeId, keys: &[KeyRef], time_ms: u64) -> Claims {
    let not_before_s = time_ms / 900_000 * 900;
    let chats: BTreeSet<_> = keys.iter().map(|k| k.chat).collect();
    let range = |chat| ChatRange {
        chat,
        from: 0,
        to: None,
    };
    let mut id = [0; 16];
    id.copy_from_slice(
        &blake3::hash(format!("{h}{not_before_s}{chats:?}").as_bytes()).as_bytes()[..16],
    );
    Claims {
        account: person(),
        deployment: DEPLOYMENT,
        home: h.clone(),
        actions: vec![Action::Write],
        chats: chats.into_iter().take(GRANT_CHATS_MAX).map(range).collect(),
        ceiling: 1000,
        not_before_s,
        expires_s: not_before_s + 900,
        id: GrantId(id),
    }
}

/// `command`, with a good grant where it is a release without one.
fn granted(mut command: Command, time_ms: u64) -> Command {
    if let Command::Release(c) = &mut command
        && c.grant.is_empty()
    {
        let claims = claims(&c.home, &c.keys, time_ms);
        let grant = Grant::sign(phone(), &device_key(), claims).unwrap();
        c.grant = grant.compact().to_owned();
    }
    command
}

fn home(name: &str) -> HomeId {
    HomeId::new(name).unwrap()
}
fn custodian(name: &str) -> CustodianId {
    CustodianId::new(name).unwrap()
}
fn operator() -> Operator {
    Operator {
        name: "olga".into(),
        certificate: [0xce; 32],
    }
}
fn chat(n: u8) -> ChatId {
    ChatId([n; 32])
}
fn key(n: u8) -> KeyId {
    KeyId([n; 16])
}
fn key_ref(c: u8, k: u8) -> KeyRef {
    KeyRef {
        chat: chat(c),
        key_id: key(k),
    }
}

fn policy() -> Policy {
    let leaf = |n| Structure::Leaf(custodian(n));
    let structure = Structure::Gate {
        threshold: 2,
        children: vec![leaf("br"), leaf("ch"), leaf("is")],
    };
    let identities = [("br", 1), ("ch", 2), ("is", 3)].map(|(n, b)| (custodian(n), [b; 32]));
    Policy::new(structure, BTreeMap::from(identities)).unwrap()
}

/// One custodian, one node: state, clock, and a check after every proposal.
struct Bench {
    kv: MemKv,
    machine: Custody,
    clock: u64,
    rng: ChaCha20Rng,
    index: u64,
}

impl Bench {
    /// Nothing but an empty state.
    fn empty() -> Self {
        Self {
            kv: MemKv::default(),
            machine: machine("ch", [2; 32]),
            clock: T0,
            rng: ChaCha20Rng::seed_from_u64(1),
            index: 0,
        }
    }

    /// With voters 1 to 3, the policy approved and wrapping version 1 in use.
    fn ready() -> Self {
        let mut b = Self::empty();
        let effects = b.effects(vec![
            voters([1, 2, 3]),
            approve(policy().canonical()),
            attest(KeyKind::Wrapping, 1, [9; 32], 1),
            attest(KeyKind::Wrapping, 1, [9; 32], 2),
            use_version(KeyKind::Wrapping, 1, [9; 32], None),
        ]);
        assert_eq!(effects, vec![Effect::Done; 5]);
        b
    }

    fn propose(&mut self, commands: Vec<Command>) -> Vec<Committed<Applied>> {
        let count = commands.len();
        let before = Log::load(&self.kv).unwrap();
        let time_ms = before.time_for(self.clock);
        let commands = commands.into_iter().map(|c| granted(c, time_ms)).collect();
        let bytes = Proposal::new(self.clock, commands, &mut self.rng).encode();
        self.index += 1;
        let at = Position {
            term: 1,
            index: self.index,
        };
        let reply = self.machine.apply(&mut self.kv, at, &bytes).unwrap();
        let out = committed(at, &reply).unwrap();
        assert_eq!(out.len(), count);
        self.check_log(&before, &out);
        out
    }

    /// Every command left exactly one entry, the receipts point at them, time
    /// never went back, and the root is the naive one.
    fn check_log(&self, before: &Log, out: &[Committed<Applied>]) {
        let log = Log::load(&self.kv).unwrap();
        assert_eq!(log.size(), before.size() + out.len() as u64);
        for (n, applied) in out.iter().enumerate() {
            let entry = applied.value().entry;
            assert_eq!(entry.index, before.size() + n as u64);
            let json = audit::entry_bytes(&self.kv, entry.index).unwrap().unwrap();
            assert_eq!(leaf_hash(&json), entry.leaf);
            assert!(entry.time_ms >= before.time_ms());
        }
        let leaves: Vec<_> = (0..log.size())
            .map(|i| leaf_hash(&audit::entry_bytes(&self.kv, i).unwrap().unwrap()))
            .collect();
        assert_eq!(log.root(), naive(&leaves));
        assert_eq!(
            audit::entry_bytes(&self.kv, log.size()).unwrap(),
            None,
            "nothing beyond the log"
        );
    }

    fn effects(&mut self, commands: Vec<Command>) -> Vec<Effect> {
        let out = self.propose(commands);
        out.into_iter().map(|c| c.into_value().effect).collect()
    }

    fn effect(&mut self, command: Command) -> Effect {
        self.effects(vec![command]).remove(0)
    }

    fn last_entry(&self) -> Entry {
        let size = Log::load(&self.kv).unwrap().size();
        let json = audit::entry_bytes(&self.kv, size - 1).unwrap().unwrap();
        Entry::from_json(&json).unwrap()
    }

    fn live(&self) -> Vec<(u32, u64)> {
        overview(&self.kv).unwrap().live
    }
}

fn voters<const N: usize>(nodes: [NodeId; N]) -> Command {
    Command::Voters(Voters {
        voters: BTreeSet::from(nodes),
    })
}
fn approve(canonical: Vec<u8>) -> Command {
    Command::ApprovePolicy(ApprovePolicy {
        operator: operator(),
        reason: "agreed".into(),
        canonical,
    })
}
fn attest(kind: KeyKind, version: u32, fingerprint: [u8; 32], node: NodeId) -> Command {
    Command::AttestKey(AttestKey {
        kind,
        version,
        fingerprint,
        node,
    })
}
fn use_version(
    kind: KeyKind,
    version: u32,
    fingerprint: [u8; 32],
    statement: Option<SealingKeyStatement>,
) -> Command {
    Command::UseVersion(UseVersion {
        kind,
        version,
        fingerprint,
        statement,
    })
}
fn drop_version(kind: KeyKind, version: u32) -> Command {
    Command::DropVersion(DropVersion { kind, version })
}
fn item(c: u8, k: u8, share: u8) -> StoreItem {
    StoreItem {
        chat: chat(c),
        epoch: EPOCH,
        key_id: key(k),
        policy: policy().id(),
        commitment: [share; 32],
        wrapped: Wrapped(vec![share; 72]),
        expires_ms: None,
    }
}
fn store(version: u32, items: Vec<StoreItem>) -> Command {
    Command::StoreShares(StoreShares {
        home: home("ae"),
        version,
        items,
    })
}
fn release_as(h: &str, request: u8, lease: u8, keys: Vec<KeyRef>) -> Command {
    Command::Release(Release {
        request: RequestId([request; 16]),
        home: home(h),
        node: 4,
        grant: String::new(),
        signature_holds: true,
        lease_key: [lease; 32],
        reason: Reason::Read,
        keys,
    })
}
fn release(request: u8, keys: Vec<KeyRef>) -> Command {
    release_as("ae", request, 1, keys)
}
fn abandon(keys: Vec<KeyRef>) -> Command {
    Command::Abandon(Abandon {
        home: home("ae"),
        keys,
    })
}
fn shred(keys: Vec<KeyRef>) -> Command {
    Command::Shred(Shred {
        operator: operator(),
        reason: "deletion".into(),
        keys,
    })
}
fn freeze(scope: FreezeScope) -> Command {
    Command::Freeze(Freeze {
        operator: operator(),
        reason: "seizure".into(),
        scope,
    })
}
fn thaw(scope: FreezeScope) -> Command {
    Command::Thaw(Thaw {
        operator: operator(),
        reason: "court said so".into(),
        scope,
    })
}
fn expire(up_to_ms: u64) -> Command {
    Command::ExpireShares(ExpireShares { up_to_ms })
}

/// What a release answered: `Ok(commitment byte)` or the refusal.
fn results(effect: &Effect) -> Vec<Result<u8, Refusal>> {
    let Effect::Released(granted) = effect else {
        panic!("not a release: {effect:?}")
    };
    let byte = |r: &Result<Granted, Refusal>| r.as_ref().map(|g| g.commitment[0]).map_err(|e| *e);
    granted.results.iter().map(byte).collect()
}
