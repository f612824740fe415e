//! Disclosure orders at a home: what comes out, for whom, and with whose consent.

use super::world::{DEPLOYMENT, World, append, caller, id};
use crate::home::api::{HomeApi, HomeError};
use quorate_engine::api::disclosure::{
    Disclosed, ExecuteOrder, Manifest, Part, Withheld, open_result, read_order,
};
use quorate_engine::authz::envelope::Envelope;
use quorate_engine::authz::officers::{DocumentHash, OfficerKey, Statement};
use quorate_engine::authz::orders::{Order, OrderScope};
use quorate_engine::crypto::labels::SIGN_OFFICER;
use quorate_engine::crypto::seal::RecipientKey;
use quorate_engine::crypto::sign::SigningKey;
use quorate_engine::custody::protocol::{FreezeScope, KeyRef, Refusal};
use quorate_engine::home::read;
use quorate_engine::types::{ChatId, EpochNo, OrderId, Secret};
use std::collections::BTreeSet;
use std::time::Duration;

const ALL: [&str; 6] = ["br", "ch", "de", "is", "nl", "sg"];

fn recipient() -> RecipientKey {
    RecipientKey::from_seed(&Secret::take(&mut [3; 32]))
}

fn paper(chats: &[ChatId], from_ms: u64, to_ms: u64) -> Envelope {
    let clerk = SigningKey::from_seed(&Secret::take(&mut [9; 32]));
    let order = Order {
        issuer: "a court".into(),
        legal_basis: "file 1".into(),
        document_hash: DocumentHash([1; 32]),
        scope: OrderScope {
            chats: chats.iter().copied().collect(),
            accounts: BTreeSet::new(),
            from_ms,
            to_ms,
        },
        reason: "served".into(),
        submitted_by: OfficerKey(clerk.public()),
        expires_ms: super::world::wall() + 3_600_000,
        recipient: hex::encode(recipient().public().0),
    };
    Envelope::sign(
        SIGN_OFFICER,
        &DEPLOYMENT,
        &Statement::Order(order),
        &[&clerk],
    )
}

fn approve(w: &World, order: OrderId, names: &[&str], refuses: Option<Refusal>) {
    for name in names {
        w.net.get(&id(name)).orders.insert(order, refuses);
    }
}

async fn ask(
    w: &World,
    paper: &Envelope,
    chat: impl Into<Option<ChatId>>,
) -> Result<Part, HomeError> {
    let request = ExecuteOrder {
        statement: paper.into(),
        chat: chat.into(),
        from: 0,
    };
    // Through the node that does not lead.
    Ok(w.homes[1].disclose(request).await?.value)
}

/// The whole result, opened by its recipient.
async fn result(w: &World, paper: &Envelope) -> (Vec<Manifest>, Vec<Disclosed>) {
    let (id, order, _) = read_order(paper, &DEPLOYMENT).unwrap();
    let mut parts = Vec::new();
    for chat in &order.scope.chats {
        parts.push(ask(w, paper, *chat).await.unwrap());
    }
    open_result((&id, &order), &DEPLOYMENT, &parts, &recipient()).unwrap()
}

fn key_of(w: &World, chat: ChatId, epoch: EpochNo) -> KeyRef {
    let shard = w.home().core.shard(&chat);
    let row = shard.view(|kv| read::epoch(kv, &chat, epoch));
    let key_id = row.unwrap().unwrap().key_id;
    KeyRef { chat, key_id }
}

/// A chat with two messages in its first epoch and one in its second; when each was sent.
async fn written(w: &World) -> (ChatId, Vec<u64>) {
    let chat = w.chat("a").await;
    let pause = || tokio::time::sleep(Duration::from_millis(5));
    for text in ["m1", "m2"] {
        pause().await;
        let done = w.home().append(caller(), chat, append(&[text]));
        done.await.unwrap();
    }
    let spend = |spent| {
        for name in ALL {
            w.net.get(&id(name)).spent = spent;
        }
    };
    // Who cannot have the key opens the next epoch.
    w.drop_leases();
    spend(Some(Refusal::HomeNodeBudget { retry_ms: 9 }));
    pause().await;
    let done = w.home().append(caller(), chat, append(&["m3"]));
    done.await.unwrap();
    spend(None);
    let sent = w.all(chat).await.iter().map(|m| m.sent_ms).collect();
    w.drop_leases();
    (chat, sent)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_order_opens_its_dates_to_its_recipient_with_enough_legal_systems() {
    let w = World::new();
    let (chat, sent) = written(&w).await;
    let paper = paper(&[chat], sent[0], sent[1]);
    let (order, ..) = read_order(&paper, &DEPLOYMENT).unwrap();
    let refused = |e: HomeError| match e {
        HomeError::Quorum { detail, .. } => detail,
        other => panic!("{other:?}"),
    };
    let why = refused(ask(&w, &paper, chat).await.unwrap_err());
    assert!(why.contains("must release"), "{why}");
    // Germany and the Netherlands are one: approvals of both count once.
    approve(&w, order, &["ch", "de", "nl"], None);
    let why = refused(ask(&w, &paper, chat).await.unwrap_err());
    assert!(
        why.contains("1 more legal system must release")
            && why.contains("order is not in force there")
            && why.contains("{is}"),
        "{why}"
    );
    approve(&w, order, &["is"], None);
    let (manifests, records) = result(&w, &paper).await;
    assert_eq!(records.len(), 1);
    let record = &records[0];
    assert_eq!((record.message, record.sent_ms), (1, sent[0]));
    assert_eq!(record.content["text"], "m1");
    let opened = &manifests[0].opened;
    assert_eq!((opened.len(), opened[0].epoch), (1, 0));
    assert_eq!(opened[0].releases.len(), 3, "{opened:?}");
    assert!(manifests[0].withheld.is_empty());
    for home in &w.homes {
        let leased = home.core.leases.get(&key_of(&w, chat, 0));
        assert!(leased.is_none(), "a key taken for an order is not leased");
    }
    // A freeze stands above it.
    for name in ["ch", "br"] {
        w.net.get(&id(name)).freeze(FreezeScope::All);
    }
    let why = refused(ask(&w, &paper, chat).await.unwrap_err());
    assert!(why.contains("frozen"), "{why}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_disclosed_is_named() {
    let w = World::new();
    let (chat, sent) = written(&w).await;
    let elsewhere = ChatId([0xee; 32]);
    let paper = paper(&[chat, elsewhere], 0, u64::MAX);
    let (order, ..) = read_order(&paper, &DEPLOYMENT).unwrap();
    approve(&w, order, &ALL, None);
    let (manifests, records) = result(&w, &paper).await;
    let found: Vec<_> = records.iter().map(|r| r.message).collect();
    assert_eq!(found, [0, 1, 2], "the profile and the first epoch");
    assert_eq!(records[1].sent_ms, sent[0]);
    let of = |chat| manifests.iter().find(|m| m.chat == chat).unwrap();
    assert!(of(chat).held && !of(elsewhere).held);
    let named = |m: &Manifest| -> Vec<_> {
        let all = m.withheld.iter();
        all.map(|e| (e.epoch, e.why, e.records)).collect()
    };
    assert_eq!(named(of(chat)), [(1, Withheld::StillWritten, 1)]);

    // Custodians whose clocks say otherwise, then ones that destroyed their shares.
    approve(&w, order, &["br", "ch", "is"], Some(Refusal::NotAuthorised));
    let (manifests, records) = result(&w, &paper).await;
    assert!(records.is_empty());
    assert!(
        named(&manifests[0]).contains(&(0, Withheld::OutsideThere, 3)),
        "{manifests:?}"
    );
    approve(&w, order, &ALL, None);
    let key = key_of(&w, chat, 0).key_id;
    for name in ["br", "ch", "is"] {
        let mut custodian = w.net.get(&id(name));
        custodian.stored.remove(&key);
        custodian.tombstones.insert(key);
    }
    let (manifests, _) = result(&w, &paper).await;
    assert!(
        named(&manifests[0]).contains(&(0, Withheld::Destroyed, 3)),
        "{manifests:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_chat_the_order_does_not_name_and_an_unsigned_order_are_not_even_asked_for() {
    let w = World::new();
    let (chat, _) = written(&w).await;
    let other = w.chat("b").await;
    let before: Vec<u64> = ALL.map(|n| w.net.get(&id(n)).releases).to_vec();
    let good = paper(&[chat], 0, u64::MAX);
    let e = ask(&w, &good, other).await.unwrap_err();
    assert!(e.to_string().contains("does not name chat"), "{e}");
    let mut altered = good.clone();
    altered.payload = altered
        .payload
        .replace(&chat.to_string(), &other.to_string());
    let e = ask(&w, &altered, other).await.unwrap_err();
    assert!(matches!(e, HomeError::Invalid { .. }), "{e:?}");
    let after: Vec<u64> = ALL.map(|n| w.net.get(&id(n)).releases).to_vec();
    assert_eq!(before, after);
}
