//! A custodian's replicated state machine.

use super::codec::name;
use super::mutate::{Dice, Kind};
use super::run::Target;
use quorate_engine::custody::protocol::{FreezeScope, KeyRef, Reason};
use quorate_engine::custody::*;
use quorate_engine::policy::Policy;
use quorate_engine::types::kv::{Machine, MemKv, Position};
use quorate_engine::types::*;

const IDENTITY: [u8; 32] = [1; 32];
const START_MS: u64 = 1_800_000_000_000;

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
    let key = |n: u8| KeyRef {
        chat: ChatId([n; 32]),
        key_id: KeyId([n; 16]),
    };
    let (kind, version, fingerprint) = (KeyKind::Wrapping, 1, [4; 32]);
    let item = |dice: &mut Dice, n: u8| StoreItem {
        chat: key(n).chat,
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
    let commands = vec![
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
        vec![Command::Release(Release {
            request: RequestId([5; 16]),
            home: home.clone(),
            node: 1,
            authority: [6; 32],
            lease_key: [7; 32],
            reason: Reason::Read,
            keys: (0..5).map(key).collect(),
        })],
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
            operator,
            reason: reason(),
            entries: vec![0, 3],
            chat: None,
        })],
    ];
    let propose =
        |(i, c): (usize, Vec<Command>)| Proposal::new(START_MS + i as u64, c, dice.rng()).encode();
    commands.into_iter().enumerate().map(propose).collect()
}

/// As for the home: no panic, no store error, one result.
pub(crate) fn custody_command() -> Target {
    let machine = Custody::new(name("ch"), IDENTITY);
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
