//! Deletion statements through the `quorate` binary: what is recorded, what
//! custodians honour, and that nothing is said to be erased.

use super::world::{Ran, World, node, offline, topology};
use quorate_engine::audit::{self, Entry, EntryKind, KeyOutcome};
use quorate_node::custodian::GROUP;
use serde_json::Value;

fn json(ran: &Ran) -> Value {
    assert_eq!(ran.code, Some(0), "{ran:?}");
    serde_json::from_str(&ran.out).unwrap_or_else(|e| panic!("{e}: {ran:?}"))
}

#[test]
fn a_signed_deletion_is_recorded_honoured_by_custodians_and_erases_nothing() {
    let mut world = World::start(&topology(1, [1, 1, 1], ""));
    for name in ["anna", "boris"] {
        json(&world.quorate(&["--json", "login", "--name", name]));
    }
    let chat = json(&world.quorate_as("anna", &["--json", "chat", "create", "tea"]));
    let chat = chat["id"].as_str().unwrap();
    json(&world.quorate_as("anna", &["--json", "chat", "add", chat, "boris"]));
    for (name, text) in [("anna", "green"), ("boris", "black"), ("anna", "white")] {
        let sent = world.quorate_as(name, &["message", "send", chat, text]);
        assert_eq!(sent.code, Some(0), "{sent:?}");
    }
    let sign = |who: &str, more: &[&str]| {
        let args = [&["message", "sign-deletion", chat][..], more].concat();
        world.quorate_as(who, &args)
    };
    let told = sign("anna", &["1", "3", "--check"]);
    assert_eq!(told.code, Some(0), "{told:?}");
    assert!(
        told.out.contains("2 messages in 1 key epochs")
            && told.out.contains("nothing is erased")
            && told.out.contains("2 of them open with shares of"),
        "{told:?}"
    );
    let others = sign("boris", &["1"]);
    assert_ne!(others.code, Some(0), "{others:?}");
    assert!(others.err.contains("not the account's own"), "{others:?}");
    let others = sign("boris", &["1", "--anyone"]);
    assert!(others.err.contains("an admin of the chat"), "{others:?}");
    let creator = sign("anna", &["2", "--anyone"]);
    assert_eq!(creator.code, Some(0), "{creator:?}");
    let profile = sign("anna", &["0"]);
    assert_eq!(profile.code, Some(2), "{profile:?}");

    let read = world.quorate_as("boris", &["message", "history", chat]);
    for text in ["green", "black", "white"] {
        assert!(read.out.contains(text), "nothing is erased: {read:?}");
    }
    // The check stands in custodians' logs as what it was: any two of three opened the key.
    let mut released = 0;
    for custodian in super::world::CUSTODIANS {
        let at = node(custodian, 1);
        world.d.stop(&at).unwrap();
        let config = world.d.node(&at).config.clone();
        offline(&config, GROUP, |kv| {
            let size = audit::Log::load(kv).unwrap().size();
            let all = (0..size).filter_map(|i| audit::entry_bytes(kv, i).unwrap());
            let all = all.map(|json| Entry::from_json(&json).unwrap());
            for entry in all.filter(|e| e.kind == EntryKind::MandateRelease) {
                assert_eq!(entry.keys[0].outcome, KeyOutcome::Released);
                assert_eq!(entry.reason.as_deref(), Some("deletion"));
                released += 1;
            }
        });
    }
    // A third one is asked when one of the two is slow.
    assert!((2..=3).contains(&released), "{released}");
}
