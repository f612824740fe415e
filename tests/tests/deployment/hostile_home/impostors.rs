//! Who is not what it says: a custodian whose CA speaks for the home, and a home that deals under
//! policies that nobody approved.

use super::super::world::{HOME, World, node, topology};
use super::taken::{Dealt, Hostile, WAIT, draw, share, trust_of};
use quorate_engine::authz::membership::chat_id;
use quorate_engine::crypto::seal::RecipientKey;
use quorate_engine::custody::protocol::*;
use quorate_engine::policy::Policy;
use quorate_engine::types::{CustodianId, KeyId, PolicyId, Structure, codec};
use quorate_node::config::ClusterRole;
use quorate_node::peer::client::PeerClientOptions;
use quorate_node::peer::{CallError, PeerClient, PeerTarget, services};
use quorate_node::pki::{CertIdentity, CertRole, CertSource, Entity};
use std::time::{Duration, SystemTime};

#[test]
fn a_custodian_that_mints_a_home_replays_grants_in_vain() {
    let world = World::start(&topology(1, [1; 3], ""));
    let h = Hostile::new(&world);
    let alice = h.enrolled();
    let chat = chat_id(&h.chat(&alice));
    let is = Dealt::meet(&h, "is");
    let key_id = KeyId(draw());
    let stored = is.store(&h, chat, &[(key_id, 0, share(&key_id))]);
    assert_eq!(stored, [StoreOutcome::Stored]);
    let good = h.grant(&alice, h.claims(&alice, chat));
    // Control: the home itself.
    is.release(&h, &good, chat, key_id).unwrap();

    // The custodian saw the grant with a request of the home's, and has a CA of its own.
    let custodian = Entity::open(&world.dir().join("ch")).unwrap();
    let who = CertIdentity {
        deployment: h.deployment,
        role: CertRole::Home,
        cluster: HOME.into(),
        node: 1,
    };
    let names = ["127.0.0.1".to_owned()];
    let day = Duration::from_secs(86_400);
    let minted = custodian
        .authority()
        .danger_issue(&who, &names, SystemTime::now(), day);
    let (cert, key) = (
        world.scratch().join("minted.crt"),
        world.scratch().join("minted.key"),
    );
    minted.unwrap().write(&cert, &key).unwrap();
    let certs = CertSource::load("peer", &cert, &key).unwrap();
    let trust = trust_of(&world.dir().join(HOME).join("node-1"));
    let lease = RecipientKey::generate(&mut rand::rng());
    let request = is.request(&h, &lease, &good, &[(chat, key_id)]);
    let body = codec::encode(PROTOCOL_VERSION, &CustodianRequest::Release(request));
    let refused = "quorate_peer_refused_total";
    for target in ["is", "sg", "ch"] {
        let to = PeerTarget {
            role: ClusterRole::Custodian,
            cluster: target.into(),
            node: 1,
        };
        let before = world.metric(&node(target, 1), refused);
        let (trust, certs, body) = (trust.clone(), certs.clone(), body.clone());
        let told = world.wait(async move {
            let client = PeerClient::new(trust, certs, PeerClientOptions::default());
            client.call(&to, services::CUSTODIAN, body, WAIT).await
        });
        assert!(
            matches!(told, Err(CallError::NotSent(_))),
            "{target}: {told:?}"
        );
        assert!(world.metric(&node(target, 1), refused) > before, "{target}");
    }
    is.release(&h, &good, chat, key_id).unwrap();
}

/// Two of three, under these names and with these keys behind them.
fn policy_of(names: [&str; 3], behind: &str) -> PolicyId {
    let id = |n: &str| CustodianId::new(n).unwrap();
    let structure = Structure::Gate {
        threshold: 2,
        children: names.iter().map(|n| Structure::Leaf(id(n))).collect(),
    };
    let identity = |n: &str| *blake3::hash(format!("{behind}{n}").as_bytes()).as_bytes();
    let known = names.iter().map(|n| (id(n), identity(n))).collect();
    Policy::new(structure, known).unwrap().id()
}

#[test]
fn a_custodian_takes_no_share_under_a_policy_that_was_not_approved_there() {
    let world = World::start(&topology(1, [1; 3], ""));
    let h = Hostile::new(&world);
    let alice = h.enrolled();
    let chat = chat_id(&h.chat(&alice));
    let ch = Dealt::meet(&h, "ch");
    for (what, policy) in [
        (
            "a custodian that the home made up",
            policy_of(["ch", "is", "xx"], ""),
        ),
        (
            "the same names, other keys behind them",
            policy_of(["ch", "is", "sg"], "mine"),
        ),
        ("no policy at all", PolicyId(draw())),
    ] {
        let key_id = KeyId(draw());
        let outcome = ch.store_under(&h, policy, chat, &[(key_id, 0, share(&key_id))]);
        assert_eq!(outcome, [StoreOutcome::PolicyNotApproved], "{what}");
        // Under the approved one the key id is as good as new.
        let outcome = ch.store(&h, chat, &[(key_id, 0, share(&key_id))]);
        assert_eq!(outcome, [StoreOutcome::Stored], "{what}");
    }
}
