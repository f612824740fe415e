//! What a grant costs a custodian: read anew at every release, and remembered.
//!
//! ```text
//! cargo bench -p quorate-engine --bench releases
//! ```
//!
//! One custodian in memory, without consensus or disk: a leader's look at a
//! grant before it proposes, and `apply` on each node. Contenders take turns in
//! rounds; medians are printed, and how much faster remembering is. Without
//! `--bench` every contender runs one round, to show that it works.
#![allow(clippy::print_stdout, reason = "it is a report")]
#![allow(clippy::unwrap_used, reason = "what it measures it made itself")]
#![allow(clippy::disallowed_methods, reason = "a benchmark needs a clock")]
#![allow(missing_docs, reason = "not a library")]

use quorate_engine::authz::chain::Source;
use quorate_engine::authz::envelope::Envelope;
use quorate_engine::authz::grant::{
    Action, Afresh, ChatRange, Claims, Grant, GrantHash, KnownGrants,
};
use quorate_engine::authz::identity::{
    AccountGenesis, AccountPayload, AuthorityKey, AuthorityRecord, account_id, device_id,
};
use quorate_engine::authz::membership::{ChatGenesis, ChatPayload, chat_id};
use quorate_engine::authz::{Authorised, Claimed, HomePeer, authorise_peer};
use quorate_engine::crypto::labels::{SIGN_ACCOUNT, SIGN_MEMBERSHIP};
use quorate_engine::crypto::seal::RecipientKey;
use quorate_engine::crypto::sign::SigningKey;
use quorate_engine::custody::protocol::{KeyRef, Reason, ReleaseRequest};
use quorate_engine::custody::{
    self, ApprovePolicy, AttestKey, Chained, Command, Custody, Effect, KeyKind, Operator, Place,
    Proposal, RegisterAuthority, RequestError, StoreItem, StoreShares, UseVersion, Voters, Wrapped,
    committed, prepare_release,
};
use quorate_engine::policy::Policy;
use quorate_engine::types::kv::{Machine, MemKv, Position};
use quorate_engine::types::{
    AuthorityId, ChatId, CustodianId, DeploymentId, GrantId, HomeId, KeyId, Nonce, PolicyId,
    PublicKey, RequestId, Secret, Structure,
};
use rand::SeedableRng;
use rand_chacha::ChaCha20Rng;
use std::collections::{BTreeMap, BTreeSet};
use std::hint::black_box;
use std::sync::{Arc, Mutex};
use std::time::Instant;

const ROUNDS: usize = 15;
/// Commands of one proposal, as a busy custodian gathers them.
const GATHERED: usize = 32;
/// Keys of the one chat: what an account's budget allows at once.
const KEYS: usize = 2048;
const T0: u64 = 1_700_000_000_000;
const DEPLOYMENT: DeploymentId = DeploymentId([1; 16]);

/// Grants with the keys they were found signed with.
type Kept = BTreeMap<[u8; 32], (Arc<Grant>, Option<[u8; 32]>)>;

#[derive(Debug, Default)]
struct Remembered(Mutex<Kept>);

impl KnownGrants for Remembered {
    fn recall(&self, hash: &GrantHash) -> Option<Arc<Grant>> {
        let kept = self.0.lock().unwrap();
        kept.get(&hash.0).map(|(grant, _)| grant.clone())
    }
    fn signer(&self, hash: &GrantHash) -> Option<[u8; 32]> {
        self.0.lock().unwrap().get(&hash.0)?.1
    }
    fn keep(&self, grant: &Arc<Grant>, signer: Option<[u8; 32]>) {
        let mut kept = self.0.lock().unwrap();
        let row = kept.entry(grant.hash().0);
        let row = row.or_insert_with(|| (grant.clone(), None));
        row.1 = signer.or(row.1);
    }
}

fn signer(n: u8) -> SigningKey {
    SigningKey::from_seed(&Secret::from_slice(&[n; 32]).unwrap())
}
fn public(n: u8) -> PublicKey {
    PublicKey(signer(n).public())
}
fn ch() -> CustodianId {
    CustodianId::new("ch").unwrap()
}
fn ae() -> HomeId {
    HomeId::new("ae").unwrap()
}
fn key(n: usize) -> KeyId {
    let mut id = [7; 16];
    id[..8].copy_from_slice(&(n as u64).to_be_bytes());
    KeyId(id)
}

/// A custodian that holds [`KEYS`] shares of one person's chat.
struct World {
    kv: MemKv,
    grant: String,
    chat: ChatId,
    rng: ChaCha20Rng,
}

fn policy() -> Policy {
    let leaf = |n| Structure::Leaf(CustodianId::new(n).unwrap());
    let structure = Structure::Gate {
        threshold: 2,
        children: vec![leaf("br"), leaf("ch"), leaf("is")],
    };
    let ids = [("br", 1), ("ch", 2), ("is", 3)];
    let ids = ids.map(|(n, b)| (CustodianId::new(n).unwrap(), [b; 32]));
    Policy::new(structure, BTreeMap::from(ids)).unwrap()
}

fn machine(known: Arc<dyn KnownGrants>) -> Custody {
    Custody::new(ch(), [2; 32])
        .serving(DEPLOYMENT)
        .with_known_grants(known)
}

fn apply(machine: &Custody, kv: &mut MemKv, proposal: &[u8]) -> Vec<Effect> {
    let at = Position { term: 1, index: 1 };
    let reply = machine.apply(kv, at, proposal).unwrap();
    let applied = committed(at, &reply).unwrap();
    applied.into_iter().map(|c| c.into_value().effect).collect()
}

impl World {
    fn new() -> Self {
        let operator = Operator {
            name: "olga".into(),
            certificate: [0xce; 32],
        };
        let bank = AuthorityId::new("bank").unwrap();
        let record = AuthorityRecord {
            id: bank.clone(),
            entity: "Bank".into(),
            jurisdiction: "is".into(),
            identity_key: public(101),
            keys: vec![AuthorityKey {
                version: 1,
                public: public(100),
                not_before_ms: T0,
                not_after_ms: T0 + (1 << 34),
            }],
        };
        let genesis = AccountPayload::Genesis(AccountGenesis {
            deployment: DEPLOYMENT,
            authorities: BTreeSet::from([bank]),
            device: public(1),
            expires_ms: T0 + (1 << 30),
            secret: None,
            created_ms: T0,
            nonce: Nonce([1; 16]),
        });
        let sign = [&signer(1), &signer(100)];
        let account = Envelope::sign(SIGN_ACCOUNT, &DEPLOYMENT, &genesis, &sign);
        let founder = account_id(&account);
        let genesis = ChatPayload::Genesis(ChatGenesis {
            deployment: DEPLOYMENT,
            creator: founder,
            device: device_id(&public(1)),
            public: false,
            created_ms: T0,
            nonce: Nonce([2; 16]),
        });
        let founded = Envelope::sign(SIGN_MEMBERSHIP, &DEPLOYMENT, &genesis, &[&signer(1)]);
        let chat = chat_id(&founded);
        let reason = "agreed".to_owned();
        let (kind, version, fingerprint) = (KeyKind::Wrapping, 1, [9; 32]);
        let attest = |node| {
            Command::AttestKey(AttestKey {
                kind,
                version,
                fingerprint,
                node,
            })
        };
        let chained = |envelope| Chained {
            source: Source::Client,
            envelope,
        };
        let mut commands = vec![
            Command::Voters(Voters {
                voters: BTreeSet::from([1, 2, 3]),
            }),
            Command::ApprovePolicy(ApprovePolicy {
                operator: operator.clone(),
                reason: reason.clone(),
                canonical: policy().canonical(),
            }),
            attest(1),
            attest(2),
            Command::UseVersion(UseVersion {
                kind,
                version,
                fingerprint,
                statement: None,
            }),
            Command::RegisterAuthority(RegisterAuthority {
                operator,
                reason,
                record,
            }),
            Command::AccountStatement(chained(account)),
            Command::ChatStatement(chained(founded)),
        ];
        let all: Vec<usize> = (0..KEYS).collect();
        for some in all.chunks(custody::protocol::KEYS_PER_REQUEST_MAX) {
            let items = some.iter().map(|n| item(chat, *n, policy().id()));
            commands.push(Command::StoreShares(StoreShares {
                home: ae(),
                version,
                items: items.collect(),
            }));
        }
        let mut rng = ChaCha20Rng::seed_from_u64(1);
        let mut kv = MemKv::default();
        for command in commands {
            let proposal = Proposal::new(T0, vec![command], &mut rng).encode();
            for effect in apply(&machine(Arc::new(Afresh)), &mut kv, &proposal) {
                assert!(!matches!(effect, Effect::Refused { .. }), "{effect:?}");
            }
        }
        let claims = Claims {
            account: founder,
            deployment: DEPLOYMENT,
            home: ae(),
            actions: vec![Action::Read],
            chats: vec![ChatRange {
                chat,
                from: 0,
                to: None,
            }],
            ceiling: u32::MAX,
            not_before_s: T0 / 1000,
            expires_s: T0 / 1000 + 900,
            id: GrantId([3; 16]),
        };
        let grant = Grant::sign(device_id(&public(1)), &signer(1), claims).unwrap();
        Self {
            kv,
            grant: grant.compact().to_owned(),
            chat,
            rng,
        }
    }

    fn request(&self, n: usize, lease: &RecipientKey, keys: usize) -> ReleaseRequest {
        let mut request = [0; 16];
        request[..8].copy_from_slice(&(n as u64).to_be_bytes());
        let refs = n * keys..(n + 1) * keys;
        ReleaseRequest {
            request: RequestId(request),
            home: ae(),
            node: 4,
            deployment: DEPLOYMENT,
            lease_key: lease.public(),
            reason: Reason::Read,
            grant: self.grant.clone(),
            keys: refs
                .map(|n| KeyRef {
                    chat: self.chat,
                    key_id: key(n % KEYS),
                })
                .collect(),
        }
    }
}

fn item(chat: ChatId, n: usize, policy: PolicyId) -> StoreItem {
    StoreItem {
        chat,
        epoch: u32::try_from(n).unwrap(),
        key_id: key(n),
        policy,
        commitment: [1; 32],
        wrapped: Wrapped(vec![2; 72]),
        expires_ms: None,
    }
}

/// Seconds of one call of `run`, which does `n` things.
fn timed(n: usize, run: impl FnOnce()) -> f64 {
    let start = Instant::now();
    run();
    start.elapsed().as_secs_f64() / n as f64
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

type Round<'a> = Box<dyn FnMut(&Arc<dyn KnownGrants>) -> f64 + 'a>;

/// Both memories in turn; prints a line.
fn race(what: &str, rounds: usize, mut round: Round<'_>) {
    let memories: [Arc<dyn KnownGrants>; 2] = [Arc::new(Afresh), Arc::new(Remembered::default())];
    let mut seen = [vec![], vec![]];
    for _ in 0..rounds {
        for (memory, seen) in memories.iter().zip(&mut seen) {
            seen.push(round(memory));
        }
    }
    let [afresh, remembered] = seen.map(|s| median(s) * 1e6);
    println!(
        "{what:<44} {afresh:>9.1} µs {remembered:>9.1} µs {:>6.2} ×",
        afresh / remembered
    );
}

fn main() {
    let rounds = match std::env::args().any(|a| a == "--bench") {
        true => ROUNDS,
        false => 1,
    };
    let mut world = World::new();
    let lease = RecipientKey::generate(&mut world.rng);
    let place = Place {
        deployment: DEPLOYMENT,
        custodian: ch(),
    };
    let who = authorised();
    println!(
        "{:<44} {:>12} {:>12}",
        "a release costs", "read anew", "remembered"
    );
    let requests: Vec<_> = (0..1024).map(|n| world.request(n, &lease, 1)).collect();
    let prepared = |known: &dyn KnownGrants, request: &ReleaseRequest| {
        let device = |account: &_, device: &_| {
            let found = custody::device(&world.kv, account, device, T0);
            Ok::<_, RequestError>(found.unwrap())
        };
        let command = prepare_release(&place, &who, request, known, |_| false, device).unwrap();
        assert!(matches!(&command, Command::Release(c) if c.signature_holds));
        command
    };
    let look = |known: &Arc<dyn KnownGrants>| {
        let run = || {
            requests
                .iter()
                .for_each(|r| drop(black_box(prepared(&**known, r))))
        };
        timed(requests.len(), run)
    };
    race("a leader, before it proposes", rounds, Box::new(look));
    for keys in [1, 32] {
        let count = 1024 / keys;
        let commands: Vec<_> = (0..count)
            .map(|n| prepared(&Afresh, &world.request(n, &lease, keys)))
            .collect();
        let rng = &mut ChaCha20Rng::seed_from_u64(2);
        let proposals: Vec<_> = commands
            .chunks(GATHERED)
            .map(|some| Proposal::new(T0, some.to_vec(), rng).encode())
            .collect();
        let applied = |known: &Arc<dyn KnownGrants>| {
            let (machine, mut kv) = (machine(known.clone()), world.kv.clone());
            let check = apply(&machine, &mut kv.clone(), &proposals[0]);
            assert!(check.iter().all(|e| {
                matches!(e, Effect::Released(g) if g.results.iter().all(Result::is_ok))
            }));
            timed(count, || {
                for proposal in &proposals {
                    black_box(apply(&machine, &mut kv, proposal));
                }
            })
        };
        let what = format!("a node that applies it, {keys} key(s) a request");
        race(&what, rounds, Box::new(applied));
    }
}

fn authorised() -> Authorised {
    let peer = HomePeer {
        deployment: DEPLOYMENT,
        home: ae(),
        node: 4,
    };
    let claimed = Claimed {
        deployment: DEPLOYMENT,
        home: ae(),
        node: Some(4),
    };
    authorise_peer(&DEPLOYMENT, &BTreeSet::from([ae()]), &peer, &claimed).unwrap()
}
