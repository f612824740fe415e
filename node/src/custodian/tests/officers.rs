//! Officers and orders on a node: what is handed in, what is read of it.

use super::*;
use quorate_engine::authz::envelope::Envelope;
use quorate_engine::authz::officers::{
    Act, Bootstrap, Decision, DocumentHash, Officer, OfficerKey, Proposal, Statement, Subject,
    ThawScope, Verdict,
};
use quorate_engine::authz::orders::{Order, OrderScope, OrderStatus, order_id};
use quorate_engine::crypto::labels;
use quorate_engine::custody::Command;

fn officer_key(n: u8) -> SigningKey {
    SigningKey::from_seed(&Secret::take(&mut [n; 32]))
}

fn signed(statement: &Statement, by: &[u8]) -> Envelope {
    let keys: Vec<_> = by.iter().map(|n| officer_key(*n)).collect();
    let keys: Vec<_> = keys.iter().collect();
    Envelope::sign(labels::SIGN_OFFICER, &place().deployment, statement, &keys)
}

fn public_of(n: u8) -> OfficerKey {
    OfficerKey(officer_key(n).public())
}

/// Officers 1 to 3, two of whom must agree.
fn first() -> Envelope {
    let officer = |n| Officer {
        name: format!("officer {n}"),
        public: public_of(n),
    };
    let statement = Statement::Bootstrap(Bootstrap {
        custodian: place().custodian,
        officers: (1..=3).map(officer).collect(),
        quorum: 2,
        floor: None,
        waits: None,
    });
    signed(&statement, &[1, 2, 3])
}

fn thaw_proposed_by(by: &[u8]) -> Envelope {
    let statement = Statement::Proposal(Proposal {
        custodian: place().custodian,
        number: 1,
        act: Act::Thaw {
            scope: ThawScope::All,
        },
        reason: "the court lifted it".into(),
        by: public_of(by[0]).id(),
        expires_ms: T0 + DAY,
    });
    signed(&statement, by)
}

fn decision(subject: Subject, n: u8) -> Envelope {
    let statement = Statement::Decision(Decision {
        custodian: place().custodian,
        subject,
        verdict: Verdict::Approve,
        officer: public_of(n).id(),
        reason: "read it".into(),
    });
    signed(&statement, &[n])
}

#[tokio::test]
async fn once_there_are_officers_an_operator_alone_stops_everything_and_starts_nothing() {
    let bench = Bench::new(1).await;
    let c = bench.node(1);
    let home = Home::meet(&c).await;
    stored(&c, home.store(&[1], None)).await;
    assert!(c.officers().unwrap().value.0.is_none());
    let done = c.hand_in(operator(), first()).await.unwrap();
    assert_eq!(done.value, "3 officers, 2 of them must agree");
    c.freeze(operator(), FreezeScope::All, "seizure".into())
        .await
        .unwrap();
    let alone = c.thaw(operator(), FreezeScope::All, "over".into()).await;
    assert!(
        matches!(alone, Err(OperatorProblem::Refused(_))),
        "{alone:?}"
    );

    let paper = thaw_proposed_by(&[1]);
    c.hand_in(operator(), paper.clone()).await.unwrap();
    assert_eq!(
        released(&c, &home, 1, &[1]).await,
        [Err(Refusal::Frozen)],
        "one of two is none"
    );
    let seen = c.officers().unwrap();
    let (roster, open) = &seen.value;
    assert_eq!(roster.as_ref().unwrap().officers().len(), 3);
    assert_eq!((open.len(), seen.position), (1, bench.log_size()));
    let id = open[0].id();
    assert_eq!(id.0, paper.hash());
    let again = c.hand_in(operator(), paper).await;
    assert!(
        matches!(again, Err(OperatorProblem::Refused(_))),
        "{again:?}"
    );

    let done = c
        .hand_in(operator(), decision(Subject::Proposal(id), 2))
        .await
        .unwrap();
    assert!(done.value.contains("carried out: thaw"), "{}", done.value);
    assert!(c.officers().unwrap().value.1.is_empty());
    assert!(c.proposal(&id).unwrap().is_some(), "what was decided stays");
    assert_eq!(released(&c, &home, 2, &[1]).await, [Ok(true)]);
}

/// It asked in every tick, and every refusal was a log entry.
#[tokio::test]
async fn a_configured_policy_is_left_to_the_officers() {
    let bench = Bench::without_nodes(1, Duration::ZERO);
    bench.lead(1);
    let command = Command::Officers(custody::Officers {
        operator: operator(),
        statement: first(),
    });
    let bytes = custody::Proposal::new(T0, vec![command], &mut rand::rng()).encode();
    OneLog(1, bench.shared.clone())
        .propose(bytes)
        .await
        .unwrap();
    bench.start(1);
    let sealing = || bench.node(1).status().unwrap().overview.sealing.is_some();
    bench.until(sealing).await;
    let size = bench.log_size();
    tokio::time::sleep(Duration::from_millis(300)).await;
    let overview = bench.node(1).status().unwrap().overview;
    assert!(overview.policies.is_empty());
    assert!(
        bench.log_size() <= size + 2,
        "{} after {size}",
        bench.log_size()
    );
}

#[tokio::test]
async fn an_order_shows_what_it_would_open_before_anybody_signs() {
    let bench = Bench::new(1).await;
    let c = bench.node(1);
    let home = Home::meet(&c).await;
    stored(&c, home.store(&[1], None)).await;
    c.hand_in(operator(), first()).await.unwrap();
    let order = Statement::Order(Order {
        issuer: "a court".into(),
        legal_basis: "file 1".into(),
        document_hash: DocumentHash([1; 32]),
        scope: OrderScope {
            chats: BTreeSet::from([chat()]),
            accounts: BTreeSet::new(),
            from_ms: T0 - DAY,
            to_ms: T0 + DAY,
        },
        reason: "served".into(),
        submitted_by: public_of(9),
        expires_ms: T0 + DAY,
        recipient: "ab".repeat(32),
    });
    let paper = signed(&order, &[9]);
    let id = order_id(&paper);
    assert!(c.order(&id).unwrap().is_none());
    c.hand_in(operator(), paper).await.unwrap();
    let seen = c.order(&id).unwrap().unwrap();
    let epochs = &seen.value.scope[0].epochs;
    let found: Vec<_> = epochs.iter().map(|e| (e.epoch, e.key, e.closed)).collect();
    assert_eq!(found, [(EPOCH, key(1), false)]);
    for n in [1, 2] {
        c.hand_in(operator(), decision(Subject::Order(id), n))
            .await
            .unwrap();
    }
    let seen = c.orders().unwrap();
    let (roster, orders) = &seen.value;
    let status = orders[0].status(
        roster.as_ref().unwrap(),
        Custodian::cool_off_ms(),
        seen.now_ms,
    );
    let until_ms = T0 + Custodian::cool_off_ms();
    assert_eq!(status, OrderStatus::CoolingOff { until_ms });
}

#[tokio::test]
async fn a_statement_over_its_limits_is_not_even_proposed() {
    let bench = Bench::new(1).await;
    let c = bench.node(1);
    let before = bench.log_size();
    let huge = Envelope {
        payload: "x".repeat(1 << 20),
        signatures: Vec::new(),
    };
    let refused = c.hand_in(operator(), huge).await;
    assert!(
        matches!(refused, Err(OperatorProblem::Invalid(_))),
        "{refused:?}"
    );
    assert_eq!(bench.log_size(), before);
    let unread = Envelope {
        payload: "{}".into(),
        signatures: first().signatures,
    };
    let refused = c.hand_in(operator(), unread).await;
    assert!(
        matches!(refused, Err(OperatorProblem::Refused(_))),
        "{refused:?}"
    );
    assert_eq!(
        bench.log_size(),
        before + 1,
        "what was refused stands in the log"
    );
}
