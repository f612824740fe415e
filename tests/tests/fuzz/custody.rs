//! A custodian's replicated state machine.

use super::codec::name;
use super::mutate::{Dice, Kind};
use super::run::Target;
use quorate_engine::authz::chain::Source;
use quorate_engine::authz::deletion::{Deletion, Whose};
use quorate_engine::authz::envelope::Envelope;
use quorate_engine::authz::grant::{Action, ChatRange, Claims, Grant};
use quorate_engine::authz::identity::{
    AccountGenesis, AccountPayload, AuthorityKey, AuthorityRecord, account_id, device_id,
};
use quorate_engine::authz::membership::{ChatGenesis, ChatPayload, chat_id};
use quorate_engine::authz::officers::{
    self, Act, Bootstrap, Decision, DocumentHash, Floor, Officer, OfficerKey, Statement, ThawScope,
    Verdict, Waits,
};
use quorate_engine::authz::orders::{Order, OrderScope, order_id};
use quorate_engine::crypto::labels::{SIGN_ACCOUNT, SIGN_MEMBERSHIP, SIGN_OFFICER};
use quorate_engine::crypto::sign::SigningKey;
use quorate_engine::custody::protocol::{FreezeScope, KeyRef, Reason};
use quorate_engine::custody::*;
use quorate_engine::policy::Policy;
use quorate_engine::types::kv::{Machine, MemKv, Position};
use quorate_engine::types::*;

const IDENTITY: [u8; 32] = [1; 32];
const START_MS: u64 = 1_800_000_000_000;
const DEPLOYMENT: DeploymentId = DeploymentId([8; 16]);
const EPOCH: EpochNo = 3;

/// A person whose one device created one chat, and what custodians were told of both.
struct Member {
    device: SigningKey,
    account: AccountId,
    chat: ChatId,
    told: Vec<Command>,
}

fn member(operator: &Operator) -> Member {
    let key = |n| SigningKey::from_seed(&Secret::take(&mut [n; 32]));
    let (authority, identity, device) = (key(11), key(12), key(13));
    let public = |k: &SigningKey| PublicKey(k.public());
    let id = AuthorityId::new("bank").expect("a valid name");
    let record = AuthorityRecord {
        id: id.clone(),
        entity: "Bank".into(),
        jurisdiction: "jp".into(),
        identity_key: public(&identity),
        keys: vec![AuthorityKey {
            version: 1,
            public: public(&authority),
            not_before_ms: START_MS,
            not_after_ms: START_MS + 1_000_000_000,
        }],
    };
    let account = AccountPayload::Genesis(AccountGenesis {
        deployment: DEPLOYMENT,
        authorities: [id].into(),
        device: public(&device),
        expires_ms: START_MS + 1_000_000_000,
        secret: None,
        created_ms: START_MS,
        nonce: Nonce([1; 16]),
    });
    let account = Envelope::sign(SIGN_ACCOUNT, &DEPLOYMENT, &account, &[&device, &authority]);
    let chat = ChatPayload::Genesis(ChatGenesis {
        deployment: DEPLOYMENT,
        creator: account_id(&account),
        device: device_id(&public(&device)),
        public: false,
        created_ms: START_MS,
        nonce: Nonce([2; 16]),
    });
    let chat = Envelope::sign(SIGN_MEMBERSHIP, &DEPLOYMENT, &chat, &[&device]);
    let chained = |envelope: &Envelope| Chained {
        source: Source::Client,
        envelope: envelope.clone(),
    };
    Member {
        account: account_id(&account),
        chat: chat_id(&chat),
        told: vec![
            Command::RegisterAuthority(RegisterAuthority {
                operator: operator.clone(),
                reason: "why".into(),
                record,
            }),
            Command::AccountStatement(chained(&account)),
            Command::ChatStatement(chained(&chat)),
        ],
        device,
    }
}

impl Member {
    fn claims(&self) -> Claims {
        Claims {
            account: self.account,
            deployment: DEPLOYMENT,
            home: HomeId::new("ae").expect("a valid name"),
            actions: vec![Action::Read],
            chats: vec![ChatRange {
                chat: self.chat,
                from: 0,
                to: Some(EPOCH),
            }],
            ceiling: 3,
            not_before_s: START_MS / 1000,
            expires_s: START_MS / 1000 + 900,
            id: GrantId([7; 16]),
        }
    }

    fn grant(&self) -> String {
        let id = device_id(&PublicKey(self.device.public()));
        let grant = Grant::sign(id, &self.device, self.claims()).expect("a good grant");
        grant.compact().to_owned()
    }
}

/// A release of so many keys of the member's chat.
fn release(member: &Member, request: u8, keys: std::ops::Range<u8>) -> Release {
    Release {
        request: RequestId([request; 16]),
        home: HomeId::new("ae").expect("a valid name"),
        node: 1,
        grant: member.grant(),
        signature_holds: true,
        lease_key: [7; 32],
        reason: Reason::Read,
        keys: keys.map(|n| key(member, n)).collect(),
    }
}

/// A release of two keys under a deletion that the member's device signed.
fn mandate(member: &Member) -> MandateRelease {
    let home = HomeId::new("ae").expect("a valid name");
    let deletion = Deletion {
        deployment: DEPLOYMENT,
        home: home.clone(),
        chat: member.chat,
        account: member.account,
        device: device_id(&PublicKey(member.device.public())),
        whose: Whose::Anyone,
        messages: vec![1, 2],
        epochs: vec![EPOCH],
        at_ms: START_MS,
        nonce: Nonce([3; 16]),
    };
    MandateRelease {
        statement: deletion.sign(&member.device).expect("a good statement"),
        request: RequestId([7; 16]),
        home,
        node: 1,
        lease_key: [8; 32],
        keys: (0..2).map(|n| key(member, n)).collect(),
    }
}

fn key(member: &Member, n: u8) -> KeyRef {
    KeyRef {
        chat: member.chat,
        key_id: KeyId([n; 16]),
    }
}

/// Commands that build on one another.
fn script() -> Vec<Vec<u8>> {
    let mut dice = Dice::new(0, "custody", 0);
    let structure = Structure::Gate {
        threshold: 2,
        children: ["br", "ch", "is"].map(|c| Structure::Leaf(name(c))).into(),
    };
    let identities = [("br", [0; 32]), ("ch", IDENTITY), ("is", [2; 32])];
    let identities = identities.map(|(c, i)| (name(c), i)).into();
    let policy = Policy::new(structure, identities).expect("a valid policy");
    let operator = Operator {
        name: "officer".into(),
        certificate: [3; 32],
    };
    let home = HomeId::new("ae").expect("a valid name");
    let member = member(&operator);
    let key = |n: u8| key(&member, n);
    let (kind, version, fingerprint) = (KeyKind::Wrapping, 1, [4; 32]);
    let item = |dice: &mut Dice, n: u8| StoreItem {
        chat: key(n).chat,
        epoch: EPOCH + u32::from(n == 3),
        key_id: key(n).key_id,
        policy: policy.id(),
        commitment: [n; 32],
        wrapped: Wrapped(dice.bytes(72)),
        expires_ms: (n == 2).then_some(START_MS + 1000),
    };
    let reason = || "why".to_owned();
    let attest = |node| {
        Command::AttestKey(AttestKey {
            kind,
            version,
            fingerprint,
            node,
        })
    };
    let mut commands = vec![
        vec![
            Command::Voters(Voters {
                voters: [1, 2, 3].into(),
            }),
            attest(1),
            attest(2),
        ],
        vec![Command::UseVersion(UseVersion {
            kind,
            version,
            fingerprint,
            statement: None,
        })],
        vec![Command::ApprovePolicy(ApprovePolicy {
            operator: operator.clone(),
            reason: reason(),
            canonical: policy.canonical(),
        })],
        vec![Command::StoreShares(StoreShares {
            home: home.clone(),
            version,
            items: (0..4).map(|n| item(&mut dice, n)).collect(),
        })],
        member.told.clone(),
        vec![Command::Release(release(&member, 5, 0..5))],
        vec![Command::Release(release(&member, 6, 0..2))],
        vec![Command::MandateRelease(mandate(&member))],
        vec![Command::Freeze(Freeze {
            operator: operator.clone(),
            reason: reason(),
            scope: FreezeScope::Chat(key(0).chat),
        })],
        vec![Command::Thaw(Thaw {
            operator: operator.clone(),
            reason: reason(),
            scope: FreezeScope::Chat(key(0).chat),
        })],
        vec![Command::Abandon(Abandon {
            home,
            keys: vec![key(3), key(9)],
        })],
        vec![Command::Shred(Shred {
            operator: operator.clone(),
            reason: reason(),
            keys: vec![key(1)],
        })],
        vec![Command::ExpireShares(ExpireShares {
            up_to_ms: START_MS + 2000,
        })],
        vec![Command::DropVersion(DropVersion { kind, version })],
        vec![Command::EraseOpenings(EraseOpenings {
            operator: operator.clone(),
            reason: reason(),
            entries: vec![0, 3],
            chat: None,
        })],
    ];
    commands.extend(said_by_officers(&operator, key(0)));
    let propose =
        |(i, c): (usize, Vec<Command>)| Proposal::new(START_MS + i as u64, c, dice.rng()).encode();
    commands.into_iter().enumerate().map(propose).collect()
}

/// First officers, a proposal that two of them sign, an order, its approval, a release under it.
fn said_by_officers(operator: &Operator, key: KeyRef) -> Vec<Vec<Command>> {
    let signer = |n| SigningKey::from_seed(&Secret::take(&mut [n; 32]));
    let public = |n| OfficerKey(signer(n).public());
    let hand_in = |statement: &Statement, by: &[u8]| {
        let keys: Vec<_> = by.iter().map(|n| signer(*n)).collect();
        let keys: Vec<_> = keys.iter().collect();
        Officers {
            operator: operator.clone(),
            statement: Envelope::sign(SIGN_OFFICER, &DEPLOYMENT, statement, &keys),
        }
    };
    let officer = |n| Officer {
        name: format!("officer {n}"),
        public: public(n),
    };
    let first = Statement::Bootstrap(Bootstrap {
        custodian: name("ch"),
        officers: (21..=23).map(officer).collect(),
        quorum: 2,
        floor: Some(Floor::default()),
        waits: Some(Waits {
            cool_off_ms: None,
            recovery_ms: Some(officers::WAIT_MS_MAX),
        }),
    });
    let proposal = Statement::Proposal(officers::Proposal {
        custodian: name("ch"),
        number: 1,
        act: Act::Thaw {
            scope: ThawScope::All,
        },
        reason: "agreed".into(),
        by: public(21).id(),
        expires_ms: START_MS + 1_000_000,
    });
    let order = Statement::Order(Order {
        issuer: "a court".into(),
        legal_basis: "file 1".into(),
        document_hash: DocumentHash([1; 32]),
        scope: OrderScope {
            chats: [key.chat].into(),
            accounts: [].into(),
            from_ms: START_MS,
            to_ms: START_MS + 1_000,
        },
        reason: "served".into(),
        submitted_by: public(23),
        expires_ms: START_MS + 1_000_000,
        recipient: "ab".repeat(32),
    });
    let order = hand_in(&order, &[23]);
    let id = order_id(&order.statement);
    let yes = Statement::Decision(Decision {
        custodian: name("ch"),
        subject: officers::Subject::Order(id),
        verdict: Verdict::Approve,
        officer: public(22).id(),
        reason: "agreed".into(),
    });
    let release = OrderRelease {
        order: id,
        request: RequestId([9; 16]),
        home: HomeId::new("ae").expect("a valid name"),
        node: 1,
        lease_key: [4; 32],
        keys: vec![key],
    };
    vec![
        vec![Command::Officers(hand_in(&first, &[21, 22, 23]))],
        vec![Command::Officers(hand_in(&proposal, &[21, 22]))],
        vec![Command::Officers(order)],
        vec![Command::Officers(hand_in(&yes, &[22]))],
        vec![Command::OrderRelease(release)],
    ]
}

/// As for the home: no panic, no store error, one result.
pub(crate) fn custody_command() -> Target {
    let machine = Custody::new(name("ch"), IDENTITY).serving(DEPLOYMENT);
    let corpus = script();
    let mut states = vec![MemKv::default()];
    for (i, bytes) in corpus.iter().enumerate() {
        let mut kv = states.last().expect("there is one").clone();
        machine
            .apply(
                &mut kv,
                Position {
                    term: 1,
                    index: i as u64 + 1,
                },
                bytes,
            )
            .expect("memory");
        states.push(kv);
    }
    let check = move |bytes: &[u8]| {
        let accepted = Proposal::decode(bytes).is_ok();
        let pick = bytes
            .iter()
            .fold(0, |n, b| (n * 31 + usize::from(*b)) % states.len());
        let (mut a, mut b) = (states[pick].clone(), states[pick].clone());
        let at = Position {
            term: 2,
            index: 4096,
        };
        let reply = machine
            .apply(&mut a, at, bytes)
            .expect("hostile bytes are no store error");
        let again = machine
            .apply(&mut b, at, bytes)
            .expect("hostile bytes are no store error");
        assert!(
            a == b && reply == again,
            "the same command gave two results"
        );
        assert!(
            accepted || a == states[pick],
            "undecodable bytes changed the state"
        );
        accepted
    };
    Target {
        corpus,
        kind: Kind::Binary,
        iterations: 25_000,
        allocation_bytes_max: (16 << 20) + (4 << 20),
        check: Box::new(check),
    }
}

/// Grants and requests as a hostile home changes them, against one custodian: nothing is
/// granted but keys that the good grant covers, at most as many as it allows, and what is
/// granted stands in the entry; and the good grant still gets its key after whatever came.
pub(crate) fn release_command() -> Target {
    let operator = Operator {
        name: "officer".into(),
        certificate: [3; 32],
    };
    let member = member(&operator);
    let machine = Custody::new(name("ch"), IDENTITY).serving(DEPLOYMENT);
    let mut held = MemKv::default();
    let apply = move |kv: &mut MemKv, index: u64, bytes: &[u8]| {
        let at = Position { term: 1, index };
        let reply = machine.apply(kv, at, bytes).expect("memory");
        committed(at, &reply)
    };
    // All before the first release, and its store is of keys 0 to 3.
    for (i, bytes) in script().iter().take(5).enumerate() {
        apply(&mut held, i as u64 + 1, bytes).expect("committed");
    }
    let claims = serde_json::to_string(&member.claims()).expect("claims serialise");
    let mut corpus = vec![];
    for keys in [0..1, 0..3, 2..4] {
        for node in [1, 2] {
            let mut asked = release(&member, 40 + keys.end, keys.clone());
            asked.node = node;
            corpus.push(codec::encode(1, &(asked, claims.clone())));
        }
    }
    // Unchanged, it gets the keys that it covers.
    let commands = vec![Command::Release(release(&member, 98, 0..4))];
    let proposal = Proposal::new(START_MS + 100, commands, Dice::new(0, "good", 0).rng());
    let done = apply(&mut held.clone(), 99, &proposal.encode()).expect("committed");
    let done = done.into_iter().next().expect("one command").granted();
    let done = done.expect("a release");
    let results = &done.value().results;
    let out: Vec<bool> = results.iter().map(Result::is_ok).collect();
    assert_eq!(out, [true, true, true, false], "{results:?}");
    let good = release(&member, 99, 0..1);
    let check = move |bytes: &[u8]| {
        let decoded = codec::decode::<(Release, String)>("release", 1, bytes);
        let Ok((mut asked, claims)) = decoded else {
            return false;
        };
        // By node: the grant as it came, or changed claims that the device signed.
        let id = device_id(&PublicKey(member.device.public()));
        if asked.node.is_multiple_of(2)
            && let Ok(claims) = serde_json::from_str::<Claims>(&claims)
            && let Ok(grant) = Grant::sign(id, &member.device, claims)
        {
            asked.grant = grant.compact().to_owned();
        }
        let parsed = Grant::parse(&asked.grant);
        let public = member.device.public();
        asked.signature_holds = parsed.as_ref().is_ok_and(|g| g.verify(&public).is_ok());
        let mut kv = held.clone();
        let mut dice = Dice::new(0, "release", bytes.len() as u64);
        let mut total = 0;
        for (i, request) in [1, 2].into_iter().enumerate() {
            asked.request = RequestId([request; 16]);
            let commands = vec![Command::Release(asked.clone())];
            let proposal = Proposal::new(START_MS + 100, commands, dice.rng()).encode();
            let done = apply(&mut kv, 100 + i as u64, &proposal).expect("committed");
            let Ok(release) = done.into_iter().next().expect("one command").granted() else {
                continue;
            };
            let release = release.value();
            for g in release.results.iter().filter_map(|r| r.as_ref().ok()) {
                let grant = parsed.as_ref().expect("nothing without a grant");
                let said = grant.claims();
                assert!(asked.signature_holds, "granted and not signed");
                assert_eq!(said.account, member.account);
                assert_eq!((said.deployment, &said.home), (DEPLOYMENT, &asked.home));
                let now_s = (START_MS + 100) / 1000;
                assert!((said.not_before_s..said.expires_s).contains(&now_s));
                let range = said.chats.iter().find(|c| c.chat == g.chat);
                let range = range.expect("nothing of a chat that is not granted");
                let epoch = EPOCH + u32::from(g.key_id == KeyId([3; 16]));
                assert!(range.from <= epoch && range.to.is_none_or(|to| epoch <= to));
                assert_eq!(g.chat, member.chat);
                total += 1;
            }
        }
        let ceiling = parsed.as_ref().map_or(0, |g| g.claims().ceiling);
        assert!(total <= ceiling, "{total} keys, {ceiling} allowed");
        let commands = vec![Command::Release(good.clone())];
        let proposal = Proposal::new(START_MS + 100, commands, dice.rng()).encode();
        let done = apply(&mut kv, 200, &proposal).expect("committed").remove(0);
        let release = done.granted().expect("a release");
        // The same device may have used the good grant's name, or spent it.
        let told = &release.value().results[0];
        let named = parsed.is_ok_and(|g| g.claims().id == member.claims().id);
        assert!(told.is_ok() || named, "{told:?}");
        true
    };
    Target {
        corpus,
        kind: Kind::Binary,
        iterations: 10_000,
        allocation_bytes_max: (16 << 20) + (4 << 20),
        check: Box::new(check),
    }
}
