//! What travels over the peer plane and through the raft logs.

use super::mutate::{Dice, Kind};
use super::run::Target;
use quorate_engine::authz::deletion::MandateRefusal;
use quorate_engine::authz::envelope::Envelope;
use quorate_engine::authz::grant::GrantRefusal;
use quorate_engine::authz::identity::device_id;
use quorate_engine::authz::membership::{self, ChatChange, ChatGenesis, ChatPayload};
use quorate_engine::authz::service::{ServiceKey, service_id};
use quorate_engine::authz::standing::{DeviceStanding, MemberStanding, Role};
use quorate_engine::crypto::labels::SIGN_MEMBERSHIP;
use quorate_engine::crypto::message::RecordKind;
use quorate_engine::crypto::seal::RecipientPublic;
use quorate_engine::crypto::sign::SigningKey;
use quorate_engine::custody::protocol::*;
use quorate_engine::home::command::*;
use quorate_engine::home::{Command, HomeMachine, Proposal, Reply};
use quorate_engine::policy::{Margins, Policy};
use quorate_engine::types::codec::{DECODE_BYTES_MAX, decode, encode};
use quorate_engine::types::kv::{Machine, MemKv, Position};
use quorate_engine::types::*;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fmt::Debug;

/// A hostile byte length may cost one buffer of the codec's limit before the
/// input turns out to be short; nothing beyond that and some room for the rest.
const ALLOCATION_BYTES_MAX: usize = DECODE_BYTES_MAX + (4 << 20);

/// A machine's prepared state is copied twice for every input.
const MACHINE_ITERATIONS: u64 = 60_000;

fn round_trips<T: Serialize + DeserializeOwned + PartialEq + Debug>(bytes: &[u8]) -> bool {
    match decode::<T>("fuzz", 1, bytes) {
        Ok(value) => {
            let again = encode(1, &value);
            assert_eq!(
                decode::<T>("fuzz", 1, &again).expect("what was encoded decodes"),
                value
            );
            true
        }
        Err(e) => {
            // Errors travel into logs and replies: they must not be unbounded.
            assert!(e.to_string().len() < 4096, "{e}");
            false
        }
    }
}

fn target(corpus: Vec<Vec<u8>>, check: fn(&[u8]) -> bool) -> Target {
    Target {
        corpus,
        kind: Kind::Binary,
        iterations: 300_000,
        allocation_bytes_max: ALLOCATION_BYTES_MAX,
        check: Box::new(check),
    }
}

pub(crate) fn name(s: &str) -> CustodianId {
    CustodianId::new(s).expect("a valid name")
}

fn home() -> HomeId {
    HomeId::new("ae").expect("a valid name")
}

fn key(n: u8) -> KeyRef {
    KeyRef {
        chat: ChatId([n; 32]),
        key_id: KeyId([n; 16]),
    }
}

fn session(dice: &mut Dice, custodian: &str) -> SealSession {
    SealSession {
        id: SessionId([3; 16]),
        custodian: name(custodian),
        version: 7,
        expires_ms: 1_900_000_000_000,
        encapsulated: dice.bytes(1120),
    }
}

fn receipt(dice: &mut Dice) -> Receipt {
    Receipt {
        custodian: name("ch"),
        entry: 300,
        leaf: [5; 32],
        time_ms: 1_800_000_000_000,
        request: RequestId([6; 16]),
        signature: dice.bytes(64),
    }
}

fn statement() -> StatementRequest {
    let deployment = DeploymentId([1; 16]);
    let key = SigningKey::from_seed(&Secret::take(&mut [9; 32]));
    StatementRequest {
        home: home(),
        deployment,
        statement: Envelope::sign(SIGN_MEMBERSHIP, &deployment, &"anything", &[&key]),
    }
}

pub(crate) fn custodian_request() -> Target {
    let mut dice = Dice::new(0, "corpus", 0);
    let item = |dice: &mut Dice, n: u8| SealedItem {
        chat: ChatId([n; 32]),
        epoch: u32::from(n) << 9,
        key_id: KeyId([n; 16]),
        policy: PolicyId([4; 32]),
        commitment: [8; 32],
        sealed: dice.bytes(72),
        expires_ms: n.is_multiple_of(2).then_some(1 << 41),
    };
    let deployment = DeploymentId([1; 16]);
    let requests = [
        CustodianRequest::SealingKey,
        CustodianRequest::Store(StoreRequest {
            home: home(),
            deployment,
            session: session(&mut dice, "is"),
            items: (0..3).map(|n| item(&mut dice, n)).collect(),
        }),
        CustodianRequest::Release(ReleaseRequest {
            request: RequestId([9; 16]),
            home: home(),
            node: 2,
            deployment,
            lease_key: RecipientPublic(dice.bytes(1216)),
            reason: Reason::Read,
            grant: "eyJhbGciOiJFZERTQSJ9.e30.AAAA".into(),
            keys: (0..5).map(key).collect(),
        }),
        CustodianRequest::OrderRelease(OrderReleaseRequest {
            request: RequestId([9; 16]),
            home: home(),
            node: 2,
            deployment,
            lease_key: RecipientPublic(dice.bytes(1216)),
            order: OrderId([7; 32]),
            keys: (0..5).map(key).collect(),
        }),
        CustodianRequest::MandateRelease(MandateReleaseRequest {
            request: RequestId([9; 16]),
            home: home(),
            node: 2,
            deployment,
            lease_key: RecipientPublic(dice.bytes(1216)),
            statement: statement().statement,
            keys: (0..5).map(key).collect(),
        }),
        CustodianRequest::Abandon(AbandonRequest {
            home: home(),
            deployment,
            keys: vec![key(1)],
        }),
        CustodianRequest::Feed { since: 1 << 40 },
        CustodianRequest::ChatStatement(statement()),
        CustodianRequest::AccountStatement(statement()),
        CustodianRequest::Lookup(LookupRequest {
            home: home(),
            deployment,
            account: AccountId([2; 32]),
            device: DeviceId([3; 32]),
            chats: vec![ChatId([1; 32]), ChatId([2; 32])],
        }),
    ];
    let corpus = requests
        .iter()
        .map(|r| encode(PROTOCOL_VERSION, r))
        .collect();
    target(corpus, round_trips::<CustodianRequest>)
}

pub(crate) fn custodian_reply() -> Target {
    let mut dice = Dice::new(0, "corpus", 1);
    let replies = [
        CustodianReply::SealingKey(SealingKeyStatement {
            custodian: name("br"),
            version: 3,
            public: RecipientPublic(dice.bytes(1216)),
            expires_ms: 1 << 41,
            signature: dice.bytes(64),
        }),
        CustodianReply::Store(vec![
            StoreOutcome::Stored,
            StoreOutcome::Tombstoned,
            StoreOutcome::BadShare,
        ]),
        CustodianReply::Release(ReleaseReply {
            receipt: receipt(&mut dice),
            encapsulated: dice.bytes(1120),
            shares: vec![
                ShareResult::Share {
                    sealed: dice.bytes(72),
                },
                ShareResult::Refused(Refusal::Frozen),
                ShareResult::Refused(Refusal::Order),
                ShareResult::Refused(Refusal::Mandate(MandateRefusal::LeaseKeyUsed)),
                ShareResult::Refused(Refusal::Grant(GrantRefusal::Expired)),
                ShareResult::Refused(Refusal::AccountBudget { retry_ms: 3_516 }),
            ],
        }),
        CustodianReply::Abandon(vec![AbandonOutcome::Tombstoned, AbandonOutcome::Refused]),
        CustodianReply::Feed(Feed {
            position: 9,
            freezes: vec![
                (FreezeScope::All, 3),
                (FreezeScope::Chat(ChatId([1; 32])), 8),
            ],
        }),
        CustodianReply::Statement(Ok(SignedHead {
            custodian: name("is"),
            chain: ChainId::Chat(ChatId([1; 32])),
            number: 7,
            hash: [4; 32],
            entry: 300,
            time_ms: 1_800_000_000_000,
            signature: dice.bytes(64),
        })),
        CustodianReply::Statement(Err(StatementRefused {
            code: "behind".into(),
            reason: "statement 9 cannot follow 7".into(),
            have: Some(7),
        })),
        CustodianReply::Lookup(LookupReply {
            position: 12,
            device: DeviceStanding::Live { public: [5; 32] },
            chats: vec![
                MemberStanding::Member {
                    role: Role::Admin,
                    from_epoch: 2,
                },
                MemberStanding::Forked,
            ],
        }),
        CustodianReply::NotLeader {
            leader: Some(3),
            address: Some("ch3.example:7000".into()),
        },
        CustodianReply::Busy {
            reason: "later".into(),
            retry_ms: 200,
        },
        CustodianReply::Unknown {
            reason: "leadership lost".into(),
        },
    ];
    let corpus = replies
        .iter()
        .map(|r| encode(PROTOCOL_VERSION, r))
        .collect();
    target(corpus, round_trips::<CustodianReply>)
}

fn record(dice: &mut Dice, n: u8) -> NewRecord {
    NewRecord {
        device: "phone".into(),
        idempotency: format!("m{n}"),
        digest: [n; 32],
        kind: if n == 0 {
            RecordKind::Profile
        } else {
            RecordKind::Message
        },
        sealed: dice.bytes(60),
    }
}

/// A chat, and the statement that opens it to everyone.
fn chat_statements() -> [ChatStatement; 2] {
    let (deployment, account) = (DeploymentId([1; 16]), AccountId([6; 32]));
    let key = SigningKey::from_seed(&Secret::take(&mut [8; 32]));
    let device = PublicKey(key.public());
    let signed = |payload| ChatStatement {
        deployment,
        statement: Envelope::sign(SIGN_MEMBERSHIP, &deployment, &payload, &[&key]),
        account,
        device,
    };
    let genesis = signed(ChatPayload::Genesis(ChatGenesis {
        deployment,
        creator: account,
        device: device_id(&device),
        public: false,
        created_ms: 1_800_000_000_000,
        nonce: Nonce([1; 16]),
    }));
    let opened = signed(ChatPayload::Statement(membership::ChatStatement {
        chat: genesis.chat(),
        number: 1,
        previous: StatementHash(genesis.statement.hash()),
        at_ms: 1_800_000_000_000,
        account,
        device: device_id(&device),
        change: ChatChange::SetPublic { public: true },
    }));
    [genesis, opened]
}

/// Commands that build on one another: each applies to the state the former ones made.
fn script() -> Vec<Command> {
    let mut dice = Dice::new(0, "corpus", 2);
    let structure = Structure::Gate {
        threshold: 2,
        children: ["br", "ch", "is"].map(|c| Structure::Leaf(name(c))).into(),
    };
    let identities = ["br", "ch", "is"]
        .iter()
        .enumerate()
        .map(|(i, c)| (name(c), [i as u8; 32]));
    let policy = Policy::new(structure, identities.collect()).expect("a valid policy");
    let [genesis, opened] = chat_statements();
    let key = KeyRef {
        chat: genesis.chat(),
        key_id: KeyId([2; 16]),
    };
    let undo = UndoStatement {
        chat: key.chat,
        number: 1,
        hash: StatementHash(opened.statement.hash()),
    };
    let service = ServiceKey {
        name: "import".into(),
        public: PublicKey([4; 32]),
        accounts: Some([AccountId([5; 32])].into()),
        expires_ms: 1_800_000_001_000,
    };
    let ended = service_id(&service.public);
    let leaf = |dice: &mut Dice, c: &str| DealtLeaf {
        custodian: name(c),
        commitment: [7; 32],
        sealed: Some(SealedLeaf {
            session: SessionId([3; 16]),
            bytes: dice.bytes(72),
        }),
    };
    let acks = |waited| EpochAck {
        key,
        acked: vec![name("br"), name("ch")],
        lost: vec![(name("is"), StoreOutcome::BadShare)],
        waited,
    };
    vec![
        Command::SetPolicy(SetPolicy {
            canonical: policy.canonical(),
            margins: Margins {
                write_margin: 1,
                require_margin: false,
            },
        }),
        Command::CreateChat(genesis),
        Command::ChatStatement(opened),
        Command::UndoStatement(undo),
        Command::Service(ServiceChange::Enrol {
            key: service,
            by: "1".into(),
        }),
        Command::Service(ServiceChange::End { service: ended }),
        Command::SealSessions(vec![
            session(&mut dice, "br"),
            session(&mut dice, "ch"),
            session(&mut dice, "is"),
        ]),
        Command::EpochIntent(EpochIntent {
            chat: key.chat,
            epoch: 0,
            previous: None,
            key_id: key.key_id,
            policy: policy.id(),
            check: [9; 32],
            leaves: ["br", "ch", "is"].map(|c| leaf(&mut dice, c)).into(),
            expires_ms: None,
        }),
        Command::EpochAcks(vec![acks(true)]),
        Command::WriteMessages(WriteMessages {
            key,
            first: 0,
            records: (0..3).map(|n| record(&mut dice, n)).collect(),
        }),
        Command::EditMessage(EditMessage {
            key,
            message: 1,
            revision: 0,
            record: record(&mut dice, 9),
        }),
        Command::Journal(vec![receipt(&mut dice)]),
        Command::Abandon(key),
        Command::AbandonAcks(vec![(name("ch"), key.key_id)]),
        Command::CloseEpoch(key),
        Command::Sweep,
    ]
}

fn proposal(i: usize, command: &Command) -> Vec<u8> {
    Proposal {
        now_ms: 1_800_000_000_000 + i as u64,
        command: command.clone(),
    }
    .encode()
}

/// A committed command is applied by every node, whatever its bytes are: no
/// panic, no store error, and the same state and reply each time.
pub(crate) fn home_command() -> Target {
    let script = script();
    let corpus: Vec<Vec<u8>> = script
        .iter()
        .enumerate()
        .map(|(i, c)| proposal(i, c))
        .collect();
    let mut states = vec![MemKv::default()];
    for (i, bytes) in corpus.iter().enumerate() {
        let mut kv = states.last().expect("there is one").clone();
        let at = Position {
            term: 1,
            index: i as u64 + 1,
        };
        HomeMachine
            .apply(&mut kv, at, bytes)
            .expect("memory does not fail");
        states.push(kv);
    }
    let check = move |bytes: &[u8]| {
        let accepted = Proposal::decode(bytes).is_ok();
        // Which state it meets depends on the input, so that a failure reproduces.
        let mut a = states[bytes
            .iter()
            .fold(0, |n, b| (n * 31 + *b as usize) % states.len())]
        .clone();
        let mut b = a.clone();
        let at = Position {
            term: 2,
            index: 4096 + bytes.len() as u64,
        };
        let reply = HomeMachine
            .apply(&mut a, at, bytes)
            .expect("hostile bytes are no store error");
        let again = HomeMachine
            .apply(&mut b, at, bytes)
            .expect("hostile bytes are no store error");
        assert!(
            a == b && reply == again,
            "the same command gave two results"
        );
        let reply = Reply::decode(&reply).expect("replies decode");
        assert!(
            accepted || matches!(reply, Reply::Invalid { .. }),
            "{reply:?}"
        );
        accepted
    };
    Target {
        corpus,
        kind: Kind::Binary,
        iterations: MACHINE_ITERATIONS,
        allocation_bytes_max: ALLOCATION_BYTES_MAX,
        check: Box::new(check),
    }
}

pub(crate) fn home_reply() -> Target {
    let mut kv = MemKv::default();
    let mut corpus = vec![];
    for (i, command) in script().iter().enumerate() {
        let at = Position {
            term: 1,
            index: i as u64 + 1,
        };
        corpus.push(
            HomeMachine
                .apply(&mut kv, at, &proposal(i, command))
                .expect("memory"),
        );
    }
    target(corpus, round_trips::<Reply>)
}
