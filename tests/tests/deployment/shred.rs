//! Shares destroyed through the operator plane: the epoch stays closed, and its neighbours do not.

use super::world::{CUSTODIANS, HOME, World, node, offline, topology};
use quorate_engine::home::read;
use quorate_engine::types::ChatId;

/// Exit code for too few custodians.
const NO_QUORUM: Option<i32> = Some(4);

/// Stops the home, looks the newest dealing of `chat` up, and starts it again with nothing leased.
fn key_of(world: &mut World, chat: &str) -> String {
    world.d.stop(&node(HOME, 1)).unwrap();
    let config = world.d.node(&node(HOME, 1)).config.clone();
    let id: ChatId = chat.parse().unwrap();
    let look = |shard| {
        offline(&config, shard, |kv| {
            let row = read::chat(kv, &id).unwrap()?;
            row.last.map(|(_, key)| key.to_string())
        })
    };
    let key = (0..2).find_map(look).unwrap();
    world.d.start_node(&node(HOME, 1)).unwrap();
    world.wait_ready();
    key
}

#[test]
fn what_a_blocking_set_has_shredded_is_refused_for_ever_and_the_rest_is_read() {
    let mut world = World::start(&topology(1, [3, 1, 1], ""));
    let (gone, stays) = (world.chat("to be shredded"), world.chat("stays"));
    world.send(&gone, &["secret".into()]);
    world.send(&stays, &["kept".into()]);
    let key = format!("{gone}:{}", key_of(&mut world, &gone));
    let get = ["message", "get", &gone, "1"];
    assert!(world.quorate_ok(&get).contains("secret"));

    let shred = |world: &World, c: &str, more: &[&str]| {
        let args = ["custodian", "shred", c, "--key", &key, "--reason", "asked"];
        world.quorate(&[&args[..], more].concat())
    };
    let unasked = shred(&world, "ch", &[]);
    assert_eq!(unasked.code, Some(2), "{unasked:?}");
    assert!(unasked.err.contains("--yes"), "{unasked:?}");
    assert!(world.quorate_ok(&get).contains("secret"));
    for custodian in CUSTODIANS {
        let done = shred(&world, custodian, &["--yes"]);
        assert_eq!(done.code, Some(0), "{done:?}");
        assert!(
            done.out.contains("shares: destroyed (log entry "),
            "{done:?}"
        );
        let again = shred(&world, custodian, &["--yes"]);
        assert!(again.out.contains("shares: alreadytombstoned"), "{again:?}");
    }
    let refused = |world: &World| {
        let ran = world.quorate(&get);
        assert_eq!(ran.code, NO_QUORUM, "{ran:?}");
        let said = |c: &&str| ran.err.contains(&format!("{c} refused"));
        assert!(
            CUSTODIANS.iter().filter(|c| said(c)).count() >= 2,
            "{ran:?}"
        );
        assert!(!ran.out.contains("secret"), "{ran:?}");
    };
    key_of(&mut world, &stays); // The home is restarted: nothing is leased.
    refused(&world);
    assert_eq!(world.texts(&stays), ["kept"]);
    // Neither another leader nor a restart of every node brings it back.
    for name in world.d.names() {
        world.d.kill(&name);
    }
    world.d.start_all().unwrap();
    world.wait_ready();
    refused(&world);
    assert_eq!(world.texts(&stays), ["kept"]);
}
