//! An order that names an account, in the hands of a home that says the account was in more chats.

use super::super::officers::{Officers, refused};
use super::super::orders::{appoint, approve};
use super::super::world::{World, topology};
use super::taken::{Dealt, Hostile, Person, draw, home, share};
use quorate_engine::authz::membership::chat_id;
use quorate_engine::crypto::seal::RecipientKey;
use quorate_engine::custody::protocol::*;
use quorate_engine::types::{ChatId, KeyId, OrderId, RequestId, Share};
use std::path::PathBuf;

/// Two epochs of a chat at `ch`; the first is over.
fn dealt(h: &Hostile<'_>, chat: ChatId) -> KeyId {
    let ch = Dealt::meet(h, "ch");
    let keys: [KeyId; 2] = [KeyId(draw()), KeyId(draw())];
    let stored = ch.store(
        h,
        chat,
        &[(keys[0], 0, share(&keys[0])), (keys[1], 1, share(&keys[1]))],
    );
    assert_eq!(stored, [StoreOutcome::Stored; 2]);
    keys[0]
}

fn under(h: &Hostile<'_>, order: OrderId, chat: ChatId, key_id: KeyId) -> Result<Share, Refusal> {
    let ch = Dealt::meet(h, "ch");
    let lease = RecipientKey::generate(&mut rand::rng());
    let key = KeyRef { chat, key_id };
    let request = CustodianRequest::OrderRelease(OrderReleaseRequest {
        request: RequestId(draw()),
        home: home(),
        node: 1,
        deployment: h.deployment,
        lease_key: lease.public(),
        order,
        keys: vec![key],
    });
    ch.answered(h, &lease, &request, order.0, key)
}

fn accounts(h: &Hostile<'_>, order: OrderId) -> Option<OrderTold> {
    let request = OrderAccountsRequest {
        home: home(),
        deployment: h.deployment,
        order,
    };
    match h.ask("ch", &CustodianRequest::OrderAccounts(request)) {
        CustodianReply::OrderAccounts(told) => told,
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_a_home_says_about_members_opens_no_chat_that_officers_did_not_see() {
    let mut world = World::start(&topology(1, [1; 3], ""));
    let (alice, hers, key, others) = {
        let h = Hostile::new(&world);
        let (alice, mallory) = (h.enrolled(), h.enrolled());
        let hers = chat_id(&h.chat(&alice));
        let key = dealt(&h, hers);
        let others: Vec<_> = (0..2)
            .map(|_| {
                let genesis = h.chat(&mallory);
                let chat = chat_id(&genesis);
                (genesis, chat, dealt(&h, chat))
            })
            .collect();
        (alice, hers, key, (mallory, others))
    };
    let (mallory, others) = others;
    let (order, officers) = submitted(&world, &alice);
    {
        let h = Hostile::new(&world);
        // Forged: nobody with a role in the chat says so.
        let (genesis, chat, other) = &others[0];
        let claim = h.adds(genesis, &alice, &alice.device, alice.account);
        let told = h.chat_statement("ch", &claim).unwrap_err();
        assert_eq!(told.code, "not_a_member", "{told}");
        // True, and later than the order: its officers never saw the chat.
        let (late, into, _) = &others[1];
        let adds = h.adds(late, &mallory, &mallory.device, alice.account);
        h.chat_statement("ch", &adds).unwrap();
        for (chat, key) in [(hers, key), (*chat, *other), (*into, others[1].2)] {
            let told = under(&h, order, chat, key).map(|_| ());
            assert_eq!(told, Err(Refusal::Order), "before it was approved");
        }
        assert_eq!(accounts(&h, order), None);
    }
    approve(&mut world, &officers, "ch", &order.to_string());
    let h = Hostile::new(&world);
    let told = accounts(&h, order).unwrap();
    assert_eq!((told.chats, told.devices.len()), ([hers].into(), 1));
    for (_, chat, other) in &others {
        let told = under(&h, order, *chat, *other).map(|_| ());
        assert_eq!(told, Err(Refusal::NotAuthorised));
        // Under the name of a chat that is the order's.
        let told = under(&h, order, hers, *other).map(|_| ());
        assert_eq!(told, Err(Refusal::WrongChat));
    }
    // Control: the chat that the account was in.
    let opened = under(&h, order, hers, key).unwrap();
    assert_eq!(opened.expose(), share(&key).expose());
}

/// An order of the account at `ch`, and the key files of its officers.
fn submitted(world: &World, of: &Person) -> (OrderId, [(&'static str, PathBuf); 2]) {
    let scratch = world.scratch();
    let (ruling, court) = (scratch.join("ruling.pdf"), scratch.join("court.key"));
    std::fs::write(&ruling, b"the ruling").unwrap();
    let (ruling, court) = (ruling.to_str().unwrap(), court.to_str().unwrap());
    world.quorate_ok(&["order", "recipient-key", "--out", court]);
    let mut o = Officers::new(world);
    let public = ["anna", "bo", "cy"].map(|n| format!("{n}={}", o.key(n)));
    o.key("clerk");
    appoint(world, &o, "ch", &public);
    let (account, recipient) = (of.account.to_string(), format!("{court}.pub"));
    let mut open = vec!["order", "open", "ch", "--key", o.file("clerk")];
    open.extend(["--issuer", "a court", "--legal-basis", "file 7"]);
    open.extend(["--document", ruling, "--reason", "served"]);
    open.extend(["--from", "2020-01-01", "--to", "2100-01-01"]);
    open.extend(["--recipient", &recipient]);
    refused(world.quorate(&open), "--chat");
    open.extend(["--account", &account]);
    let told = o.json(&open);
    let order = told["order"].as_str().unwrap().parse().unwrap();
    let officers = ["anna", "bo"].map(|n| (n, PathBuf::from(o.file(n))));
    (order, officers)
}
