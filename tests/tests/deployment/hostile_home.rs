//! A home that was taken over whole: its own certificate, its own network, and
//! no grant. It talks to the custodians' peer plane as it likes. Each call is
//! refused with its reason, recorded and counted; the legitimate one next to it succeeds.

mod impostors;
mod mandates;
mod order_accounts;
mod taken;
mod timing;

use super::world::{CUSTODIANS, HOME, World, eventually, node, offline, topology};
use quorate_engine::audit::{self, Entry};
use quorate_engine::authz::chain::ChainId;
use quorate_engine::authz::envelope::Envelope;
use quorate_engine::authz::grant::{Claims, GRANT_BYTES_MAX, Grant, GrantRefusal};
use quorate_engine::authz::identity::{AccountChange, AccountPayload, AccountStatement, device_id};
use quorate_engine::authz::membership::chat_id;
use quorate_engine::authz::service::{ServiceClaims, ServiceToken};
use quorate_engine::crypto::labels::SIGN_ACCOUNT;
use quorate_engine::crypto::seal::RecipientKey;
use quorate_engine::crypto::sign::SigningKey;
use quorate_engine::custody::protocol::*;
use quorate_engine::types::{
    AccountId, ChatId, CustodianId, DeploymentId, HomeId, KeyId, Secret, Share, StatementHash,
};
use quorate_node::custodian::GROUP;
use quorate_node::peer::{CallError, services};
use quorate_node::pki::{CertSource, tls};
use rustls_pki_types::ServerName;
use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use taken::{
    Dealt, EXCHANGE_MAX, Hostile, Person, WAIT, counted, draw, home, now_ms, public, share,
    signing_key, trust_of,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_rustls::TlsConnector;

#[test]
fn a_hostile_home_gets_what_a_grant_names_and_nothing_else() {
    let mut world = World::start(&topology(1, [1, 1, 1], ""));
    let noted = attack(&world);
    // Each was recorded before it was answered, with its own reason.
    let ch = node("ch", 1);
    world.d.stop(&ch).unwrap();
    let config = world.d.node(&ch).config.clone();
    offline(&config, GROUP, |kv| {
        for (index, outcome) in &noted {
            let json = audit::entry_bytes(kv, *index).unwrap().unwrap();
            let entry = Entry::from_json(&json).unwrap();
            let stands = serde_json::to_value(entry.keys[0].outcome).unwrap();
            assert_eq!(stands, outcome.as_str(), "entry {index}");
        }
    });
    assert!(noted.len() > 20, "{noted:?}");
}

/// All attacks; what the log of `ch` must have after them.
fn attack(world: &World) -> BTreeMap<u64, String> {
    let h = Hostile::new(world);
    past_the_home(&h);
    let alice = h.enrolled();
    let mallory = h.enrolled();
    let genesis = h.chat(&alice);
    let chat = chat_id(&genesis);
    let ch = Dealt::meet(&h, "ch");
    let (first, second) = (KeyId(draw()), KeyId(draw()));
    let stored = ch.store(
        &h,
        chat,
        &[(first, 0, share(&first)), (second, 1, share(&second))],
    );
    assert_eq!(stored, [StoreOutcome::Stored; 2]);

    // Control: what alice's device granted.
    let good = h.grant(&alice, h.claims(&alice, chat));
    let opened = ch.release(&h, &good, chat, first).unwrap();
    assert_eq!(opened.expose(), share(&first).expose());

    grants(&h, &ch, (&alice, &mallory), chat, (first, second));
    repeated(&h, &ch, &good, chat, (first, second));
    clocks(&h, &ch, &alice, chat, first);
    statements(&h, &ch, (&alice, &mallory), &genesis, first);
    mandates::attack(&h, &ch, (&alice, &mallory), chat, (first, second));
    stores(&h, &ch, chat, first);
    service_tokens(&h, &alice, chat);
    large_and_forbidden(&h, &ch, &good, chat);
    withheld_revocation(&h);
    forked_chain(&h, (&alice, &mallory));

    // Control at the end: the same grant still gets what it names.
    let opened = ch.release(&h, &good, chat, first).unwrap();
    assert_eq!(opened.expose(), share(&first).expose());
    h.noted()
}

/// An authority reaches each custodian itself; the home's certificate does not open that plane.
fn past_the_home(h: &Hostile<'_>) {
    let person = h.person();
    let registry = h.world.d.node(&node("ch", 1)).registry.unwrap();
    let body = serde_json::to_string(&person.genesis).unwrap();
    let post = |dir: PathBuf, cert: &str, key: &str, body: String| {
        let certs = CertSource::load("registry", &dir.join(cert), &dir.join(key)).unwrap();
        let custodian = CustodianId::new("ch").unwrap();
        let config = tls::registry_client(&trust_of(&dir), &certs, custodian);
        h.world.wait(async move {
            let tcp = tokio::net::TcpStream::connect(registry).await?;
            let name = ServerName::IpAddress(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST).into());
            let mut stream = TlsConnector::from(config).connect(name, tcp).await?;
            let head = format!(
                "POST /v1/accounts HTTP/1.1\r\nhost: ch\r\nconnection: close\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
                body.len()
            );
            stream.write_all(head.as_bytes()).await?;
            let mut text = String::new();
            stream.read_to_string(&mut text).await?;
            std::io::Result::Ok(text)
        })
    };
    let of_home = h.world.dir().join(HOME).join("node-1");
    let refused = post(of_home, "node.crt", "node.key", body.clone());
    assert!(refused.is_err(), "{refused:?}");
    // Control: the authority's certificate does, once it is registered.
    let told = eventually(WAIT, || {
        let dir = h.world.dir().join("id-ee");
        let text = post(dir, "authority.crt", "authority.key", body.clone())?;
        anyhow::ensure!(text.starts_with("HTTP/1.1 200"), "{text}");
        Ok(text)
    });
    assert!(told.unwrap().contains(&person.account.to_string()));
}

fn grants(
    h: &Hostile<'_>,
    ch: &Dealt,
    (alice, mallory): (&Person, &Person),
    chat: ChatId,
    (first, second): (KeyId, KeyId),
) {
    // Nothing at all: not even proposed.
    let lease = RecipientKey::generate(&mut rand::rng());
    for none in [String::new(), "a".repeat(GRANT_BYTES_MAX + 1)] {
        let request = ch.request(h, &lease, &none, &[(chat, first)]);
        let reply = ch.ask(h, &request);
        assert!(matches!(reply, CustodianReply::Invalid { .. }), "{reply:?}");
    }

    let good = h.grant(alice, h.claims(alice, chat));
    let with = |change: fn(&mut Claims)| {
        let mut claims = h.claims(alice, chat);
        change(&mut claims);
        h.grant(alice, claims)
    };
    let by = |device: &SigningKey, account: AccountId| {
        let claims = Claims {
            account,
            ..h.claims(alice, chat)
        };
        let id = device_id(&public(device));
        Grant::sign(id, device, claims)
            .unwrap()
            .compact()
            .to_owned()
    };
    let forged = {
        // Mallory's signature under the name of alice's device.
        let id = device_id(&public(&alice.device));
        let claims = h.claims(alice, chat);
        let grant = Grant::sign(id, &mallory.device, claims).unwrap();
        grant.compact().to_owned()
    };
    let stretched = {
        // Another payload before a signature that was good.
        let other = with(|c| c.expires_s += 200);
        let signature = good.rsplit_once('.').unwrap().1;
        format!("{}.{signature}", other.rsplit_once('.').unwrap().0)
    };
    let stranger = signing_key();
    use GrantRefusal as G;
    let table = [
        ("not a grant", "a.b.c".to_owned(), first, G::NotBase64url),
        ("forged", forged, first, G::Signature),
        ("stretched", stretched, first, G::Signature),
        (
            "another home's",
            with(|c| c.home = HomeId::new("zz").unwrap()),
            first,
            G::OtherHome,
        ),
        (
            "another deployment's",
            with(|c| c.deployment = DeploymentId([7; 16])),
            first,
            G::OtherDeployment,
        ),
        (
            "over",
            with(|c| {
                (c.not_before_s, c.expires_s) = (c.not_before_s - 3_600, c.not_before_s - 3_000)
            }),
            first,
            G::Expired,
        ),
        (
            "not yet",
            with(|c| (c.not_before_s, c.expires_s) = (c.expires_s, c.expires_s + 600)),
            first,
            G::NotYetValid,
        ),
        (
            "another chat's",
            with(|c| c.chats[0].chat = ChatId([3; 32])),
            first,
            G::ChatNotGranted,
        ),
        ("epochs outside", good.clone(), second, G::EpochAfterRange),
        (
            "another user's",
            by(&mallory.device, mallory.account),
            first,
            G::NotMember,
        ),
        (
            "an invented device",
            by(&stranger, alice.account),
            first,
            G::DeviceUnknown,
        ),
        (
            "an invented account",
            by(&stranger, AccountId([9; 32])),
            first,
            G::DeviceUnknown,
        ),
    ];
    let before = h
        .world
        .metric(&node("ch", 1), "quorate_custodian_refusals_total");
    for (what, grant, key, why) in &table {
        let told = ch.release(h, grant, chat, *key).map(|_| ());
        assert_eq!(told, Err(Refusal::Grant(*why)), "{what}");
    }
    // Over the ceiling: the second key of a grant for one.
    let narrow = with(|c| {
        c.ceiling = 1;
        c.chats[0].to = None;
    });
    ch.release(h, &narrow, chat, first).unwrap();
    let told = ch.release(h, &narrow, chat, second).map(|_| ());
    assert_eq!(told, Err(Refusal::Grant(G::CeilingSpent)));
    // Control: a grant that names the later epoch as well.
    let wide = with(|c| c.chats[0].to = Some(1));
    ch.release(h, &wide, chat, second).unwrap();

    // Each was counted under its own reason.
    let seen = counted(h.world, "ch");
    for (what, _, _, why) in &table {
        let reason = format!("grant_{}", why.code());
        assert!(seen.contains(&reason), "{what}: {reason} in {seen:?}");
    }
    let after = h
        .world
        .metric(&node("ch", 1), "quorate_custodian_refusals_total");
    assert!(after - before >= (table.len() + 1) as f64);
}

/// A request again: for something else, under another grant, and after a freeze.
fn repeated(
    h: &Hostile<'_>,
    ch: &Dealt,
    good: &str,
    chat: ChatId,
    (first, second): (KeyId, KeyId),
) {
    let lease = RecipientKey::generate(&mut rand::rng());
    let request = ch.request(h, &lease, good, &[(chat, first)]);
    ch.released(h, &lease, &request).unwrap();
    let told = |request: &ReleaseRequest| ch.released(h, &lease, request).map(|_| ());
    let mut other = request.clone();
    other.keys[0].key_id = second;
    assert_eq!(told(&other), Err(Refusal::RequestMismatch));
    let stolen = RecipientKey::generate(&mut rand::rng());
    let mut other = request.clone();
    other.lease_key = stolen.public();
    assert_eq!(told(&other), Err(Refusal::RequestMismatch));
    // Another node's certificate is none of this home's.
    let mut other = request.clone();
    other.node = 2;
    let reply = ch.ask(h, &other);
    assert!(matches!(reply, CustodianReply::Invalid { .. }), "{reply:?}");

    let officers = |what: &str| {
        let args = ["custodian", what, "ch", "--reason", "a court asks"];
        h.world.quorate_ok(&args);
    };
    officers("freeze");
    assert_eq!(told(&request), Err(Refusal::Frozen));
    let fresh = ch.release(h, good, chat, first).map(|_| ());
    assert_eq!(fresh, Err(Refusal::Frozen));
    officers("thaw");
    assert_eq!(told(&request), Ok(()));
    let seen = counted(h.world, "ch");
    assert!(seen.contains("frozen") && seen.contains("request_mismatch"));
}

/// A service credential, of its own making and in a member's name: every custodian says what it is.
fn service_tokens(h: &Hostile<'_>, alice: &Person, chat: ChatId) {
    let now_s = now_ms() / 1000;
    let claims = ServiceClaims {
        account: alice.account,
        deployment: h.deployment,
        home: home(),
        chats: vec![chat],
        not_before_s: now_s - 30,
        expires_s: now_s + 600,
    };
    // Signed with a key that it enrolled, and with the member's own.
    let tokens = [&signing_key(), &alice.device].map(|key| {
        let token = ServiceToken::sign(key, claims.clone()).unwrap();
        token.compact().to_owned()
    });
    for custodian in CUSTODIANS {
        let there = Dealt::meet(h, custodian);
        let key = KeyId(draw());
        let stored = there.store(h, chat, &[(key, 0, share(&key))]);
        assert_eq!(stored, [StoreOutcome::Stored]);
        for token in &tokens {
            let told = there.release(h, token, chat, key).map(|_| ());
            let why = Refusal::Grant(GrantRefusal::ServiceCredential);
            assert_eq!(told, Err(why), "{custodian}");
        }
        let seen = counted(h.world, custodian);
        assert!(
            seen.contains("grant_service_credential"),
            "{custodian}: {seen:?}"
        );
        // Control: a grant of the same device opens it.
        let good = h.grant(alice, h.claims(alice, chat));
        there.release(h, &good, chat, key).unwrap();
    }
}

/// Dates of the home's choosing: entry time alone counts.
fn clocks(h: &Hostile<'_>, ch: &Dealt, alice: &Person, chat: ChatId, first: KeyId) {
    const DAY_S: u64 = 24 * 60 * 60;
    for (ahead, why) in [
        (true, GrantRefusal::NotYetValid),
        (false, GrantRefusal::Expired),
    ] {
        let mut claims = h.claims(alice, chat);
        for at in [&mut claims.not_before_s, &mut claims.expires_s] {
            *at = if ahead { *at + DAY_S } else { *at - DAY_S };
        }
        let told = ch.release(h, &h.grant(alice, claims), chat, first);
        assert_eq!(told.map(|_| ()), Err(Refusal::Grant(why)));
    }
    // A genesis of tomorrow, and one of yesterday.
    for at_ms in [now_ms() + DAY_S * 1000, now_ms() - DAY_S * 1000] {
        let genesis = h.chat_genesis_at(at_ms, alice.account, &alice.device);
        h.chat_statement("ch", &genesis).unwrap_err();
    }
    let genesis = h.chat_genesis(alice.account, &alice.device);
    h.chat_statement("ch", &genesis).unwrap();
}

fn statements(
    h: &Hostile<'_>,
    ch: &Dealt,
    (alice, mallory): (&Person, &Person),
    genesis: &Envelope,
    first: KeyId,
) {
    let chat = chat_id(genesis);
    // Membership that mallory signed for herself, and one in alice's name.
    let own = h.adds(genesis, mallory, &mallory.device, mallory.account);
    let told = h.chat_statement("ch", &own).unwrap_err();
    assert!(!told.code.is_empty() && told.code != "stands", "{told:?}");
    let in_her_name = h.adds(genesis, alice, &mallory.device, mallory.account);
    h.chat_statement("ch", &in_her_name).unwrap_err();
    // A genesis in alice's name, signed by another's device.
    let false_genesis = h.chat_genesis(alice.account, &mallory.device);
    h.chat_statement("ch", &false_genesis).unwrap_err();
    // A device for alice's account that the home made up, attested by nobody.
    let invented = signing_key();
    let s = AccountStatement {
        account: alice.account,
        number: 1,
        previous: StatementHash(alice.genesis.hash()),
        at_ms: now_ms(),
        change: AccountChange::AddDevice {
            public: public(&invented),
            expires_ms: now_ms() + 60 * 60 * 1000,
        },
    };
    let payload = AccountPayload::Statement(s);
    let alone = Envelope::sign(SIGN_ACCOUNT, &h.deployment, &payload, &[&invented]);
    h.account_statement("ch", &alone).unwrap_err();
    // The authority, compelled: still no device of alice's own signed.
    let by = [&invented, &h.authority];
    let compelled = Envelope::sign(SIGN_ACCOUNT, &h.deployment, &payload, &by);
    let told = h.account_statement("ch", &compelled).unwrap_err();
    assert_eq!(told.code, "unsigned", "{told:?}");
    // A statement whose text was changed under good signatures.
    let mut changed = alice.genesis.clone();
    changed.payload = changed.payload.replace("id-ee", "id-jp");
    let told = h.account_statement("ch", &changed).unwrap_err();
    assert_eq!(told.code, "envelope", "{told:?}");
    // None of it opened anything.
    let grant = h.grant(mallory, h.claims(mallory, chat));
    let told = ch.release(h, &grant, chat, first).map(|_| ());
    assert_eq!(told, Err(Refusal::Grant(GrantRefusal::NotMember)));
    let refused = "quorate_custodian_statements_total";
    assert!(h.world.metric(&node("ch", 1), refused) >= 6.0);
}

fn stores(h: &Hostile<'_>, ch: &Dealt, chat: ChatId, first: KeyId) {
    let other = || Share(Secret::take(&mut [0xee; 32]));
    // Overwritten, moved to another chat, moved to another epoch, repeated.
    assert_eq!(
        ch.store(h, chat, &[(first, 0, other())]),
        [StoreOutcome::Conflict]
    );
    let elsewhere = ch.store(h, ChatId([3; 32]), &[(first, 0, share(&first))]);
    assert_eq!(elsewhere, [StoreOutcome::Conflict]);
    let moved = ch.store(h, chat, &[(first, 9, share(&first))]);
    assert_eq!(moved, [StoreOutcome::Conflict]);
    assert_eq!(
        ch.store(h, chat, &[(first, 0, share(&first))]),
        [StoreOutcome::AlreadyStored]
    );
    // A key that was released is not abandoned: destroying it is for officers.
    let request = CustodianRequest::Abandon(AbandonRequest {
        home: home(),
        deployment: h.deployment,
        keys: vec![KeyRef {
            chat,
            key_id: first,
        }],
    });
    let reply = h.ask("ch", &request);
    assert_eq!(
        reply,
        CustodianReply::Abandon(vec![AbandonOutcome::Refused])
    );
}

fn large_and_forbidden(h: &Hostile<'_>, ch: &Dealt, good: &str, chat: ChatId) {
    let lease = RecipientKey::generate(&mut rand::rng());
    let many: Vec<_> = (0..=KEYS_PER_REQUEST_MAX)
        .map(|_| (chat, KeyId(draw())))
        .collect();
    let reply = ch.ask(h, &ch.request(h, &lease, good, &many));
    assert!(matches!(reply, CustodianReply::Invalid { .. }), "{reply:?}");
    let reply = h.ask(
        "ch",
        &CustodianRequest::Lookup(LookupRequest {
            home: home(),
            deployment: h.deployment,
            account: AccountId([1; 32]),
            device: device_id(&public(&h.authority)),
            chats: vec![chat; CHATS_PER_LOOKUP_MAX + 1],
        }),
    );
    assert!(matches!(reply, CustodianReply::Invalid { .. }), "{reply:?}");
    // In another home's name.
    let reply = h.ask(
        "ch",
        &CustodianRequest::Lookup(LookupRequest {
            home: HomeId::new("zz").unwrap(),
            deployment: h.deployment,
            account: AccountId([1; 32]),
            device: device_id(&public(&h.authority)),
            chats: vec![chat],
        }),
    );
    assert!(matches!(reply, CustodianReply::Invalid { .. }), "{reply:?}");
    // What custodians tell each other, and a custodian's nodes, is not for homes.
    for service in [services::CUSTODIAN_EXCHANGE, services::CUSTODIAN_INTERNAL] {
        let e = h.call("ch", service, vec![1, 0, 0]).unwrap_err();
        assert!(matches!(e, CallError::Refused(_)), "{service}: {e:?}");
    }
}

/// The home passes a revocation to one custodian and keeps it from the others.
fn withheld_revocation(h: &Hostile<'_>) {
    let carol = h.enrolled();
    let chat = chat_id(&h.chat(&carol));
    let sg = Dealt::meet(h, "sg");
    let key_id = KeyId(draw());
    let stored = sg.store(h, chat, &[(key_id, 0, share(&key_id))]);
    assert_eq!(stored, [StoreOutcome::Stored]);
    let grant = h.grant(&carol, h.claims(&carol, chat));
    sg.release(h, &grant, chat, key_id).unwrap();
    let s = AccountStatement {
        account: carol.account,
        number: 1,
        previous: StatementHash(carol.genesis.hash()),
        at_ms: now_ms(),
        change: AccountChange::Revoke {
            device: device_id(&public(&carol.device)),
        },
    };
    let payload = AccountPayload::Statement(s);
    let revoked = Envelope::sign(SIGN_ACCOUNT, &h.deployment, &payload, &[&carol.device]);
    let head = h.account_statement("ch", &revoked).unwrap();
    assert_eq!(head.chain, ChainId::Account(carol.account));
    let told = eventually(EXCHANGE_MAX, || {
        let told = sg.release(h, &grant, chat, key_id).map(|_| ());
        anyhow::ensure!(told.is_err(), "still released");
        Ok(told)
    });
    assert_eq!(
        told.unwrap(),
        Err(Refusal::Grant(GrantRefusal::DeviceRevoked))
    );
}

/// One statement for one custodian, another under the same number for the next.
fn forked_chain(h: &Hostile<'_>, (alice, mallory): (&Person, &Person)) {
    let genesis = h.chat(alice);
    let chat = chat_id(&genesis);
    let ch = Dealt::meet(h, "ch");
    let key_id = KeyId(draw());
    assert_eq!(
        ch.store(h, chat, &[(key_id, 0, share(&key_id))]),
        [StoreOutcome::Stored]
    );
    let grant = h.grant(alice, h.claims(alice, chat));
    ch.release(h, &grant, chat, key_id).unwrap();
    let adds = |who| h.adds(&genesis, alice, &alice.device, who);
    h.chat_statement("is", &adds(mallory.account)).unwrap();
    h.chat_statement("sg", &adds(AccountId([8; 32]))).unwrap();
    let told = eventually(EXCHANGE_MAX, || {
        let told = ch.release(h, &grant, chat, key_id).map(|_| ());
        anyhow::ensure!(told.is_err(), "still released");
        Ok(told)
    });
    assert_eq!(told.unwrap(), Err(Refusal::Grant(GrantRefusal::ChatForked)));
    for custodian in CUSTODIANS {
        let told = eventually(EXCHANGE_MAX, || {
            let told = h.chat_statement(custodian, &adds(AccountId([7; 32])));
            anyhow::ensure!(
                told.as_ref().is_err_and(|t| t.code == "forked"),
                "{custodian}: {told:?}"
            );
            Ok(())
        });
        told.unwrap();
        let alarm = "quorate_custodian_chains_forked";
        let seen = eventually(WAIT, || {
            anyhow::ensure!(h.world.metric(&node(custodian, 1), alarm) >= 1.0);
            Ok(())
        });
        seen.unwrap();
    }
}
