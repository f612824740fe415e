//! A crash at every durable step of opening, writing, storing and releasing.
//!
//! Each failpoint is armed on the node that leads, which dies there as under
//! `kill -9` while clients write, read and open epochs. It must be hit: a run
//! in which it is not fails. Needs a `quorate-node` built with the feature
//! `failpoints`, as `cargo build --workspace --bins` does.

use super::load::{Ledger, Load};
use super::world::{
    CUSTODIANS, HOME, World, content, eventually, message, node, offline, topology,
};
use quorate_cli::client::{Client, NewChat};
use quorate_engine::custody;
use quorate_engine::home::read;
use quorate_engine::home::rows::LeafState;
use quorate_engine::types::{ChatId, CustodianId, KeyId};
use quorate_node::failpoints::EXIT_FAILPOINT;
use quorate_tests::deployment::{NodeName, tail};
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

/// The home's failpoints on the path of a request, and after how many hits each fires.
const HOME_POINTS: [(&str, &str, u32); 8] = [
    ("home::intent_committed", HOME, 1),
    ("home::before_send", HOME, 4),
    ("home::after_send", HOME, 1),
    ("home::before_decide", HOME, 1),
    ("home::after_decide", HOME, 2),
    ("home::before_write", HOME, 3),
    ("home::after_write", HOME, 3),
    ("home::before_reply", HOME, 3),
];
/// A custodian's.
const CUSTODIAN_POINTS: [(&str, &str, u32); 5] = [
    ("custodian-store-before-propose", "ch", 1),
    ("custodian-store-after-commit", "ch", 1),
    ("custodian-before-reply", "ch", 5),
    ("custodian-release-before-propose", "ch", 0),
    ("custodian-release-after-commit", "ch", 0),
];
/// An armed node is driven at most so long until it dies.
const HIT_MAX: Duration = Duration::from_secs(60);
const SHARDS: u32 = 2;

fn transfer(world: &World, to: &NodeName) {
    let groups = if to.0 == HOME { 0..SHARDS } else { 0..1 };
    for group in groups {
        // Refused when it leads already; the hit decides.
        let (group, id) = (group.to_string(), to.1.to_string());
        world.quorate(&[
            "cluster",
            "transfer-leader",
            &to.0,
            "--group",
            &group,
            "--to",
            &id,
        ]);
    }
}

/// A chat made and read under its own idempotency keys, repeated over a crash: the same chat.
async fn open_one(client: &Client) -> String {
    let request = NewChat::new(
        hex::encode(rand::random::<[u8; 16]>()),
        content("opened while a failpoint is armed"),
    );
    let began = Instant::now();
    let chat = loop {
        match client.create_chat(&request).await {
            Ok(chat) => break chat.id,
            Err(e) => assert!(began.elapsed() < HIT_MAX, "{e:?}"),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    let one = message("only");
    let first = loop {
        match client.append(&chat, vec![one.clone()]).await {
            Ok(done) => break done.messages[0].id,
            Err(e) => assert!(began.elapsed() < HIT_MAX, "{e:?}"),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    let again = loop {
        match client.append(&chat, vec![one.clone()]).await {
            Ok(done) => break done.messages[0].id,
            Err(e) => assert!(began.elapsed() < HIT_MAX, "{e:?}"),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    assert_eq!(first, again, "one idempotency key, two messages");
    chat
}

/// Whether a node has ended at the failpoint it was armed with.
pub fn died_there(world: &mut World, victim: &NodeName, point: &str) -> bool {
    let process = world.d.running.get_mut(victim).unwrap();
    if process.running() {
        return false;
    }
    let log = process.log.clone();
    let code = process.wait(Duration::from_secs(1)).unwrap();
    assert_eq!(code, Some(EXIT_FAILPOINT), "{point}:\n{}", tail(&log));
    let text = std::fs::read_to_string(&log).unwrap();
    assert!(text.contains(&format!("failpoint {point} panic")), "{text}");
    world.d.kill(victim);
    true
}

#[test]
fn a_home_that_crashes_at_any_step_loses_nothing_and_deals_no_epoch_twice() {
    crash_at_each(&HOME_POINTS);
}

#[test]
fn a_custodian_that_crashes_at_any_step_loses_nothing_and_keeps_no_second_share() {
    crash_at_each(&CUSTODIAN_POINTS);
}

fn crash_at_each(points: &[(&str, &str, u32)]) {
    let mut world = World::start(&topology(3, [3, 1, 1], "snapshot_entries = 200\n"));
    let standing: Vec<String> = (0..2)
        .map(|i| world.chat(&format!("standing {i}")))
        .collect();
    let mut opened: Vec<String> = Vec::new();
    for (i, (point, cluster, skip)) in points.iter().copied().enumerate() {
        let victim = node(cluster, 1 + i as u64 % 3);
        let releases = point.contains("release");
        let load = Load::start(&world, &standing);
        world.d.stop(&victim).unwrap();
        let armed = format!("{point}={skip}*off->panic");
        let armed = armed.replace("0*off->", "");
        world
            .d
            .start_node_with(&victim, &[("FAILPOINTS", &armed)])
            .unwrap();
        // One that dies before it is ready has been hit as well.
        let _ = world.d.wait_ready(Duration::from_secs(30));
        if releases {
            world.d.stop(&node("sg", 1)).unwrap();
        }
        let client = world.client();
        let until = Instant::now() + HIT_MAX;
        while !died_there(&mut world, &victim, point) {
            assert!(
                Instant::now() < until,
                "{point} was never hit on {victim:?}"
            );
            transfer(&world, &victim);
            if releases {
                // Whoever leads now has no lease, and with sg gone has to ask ch.
                transfer(&world, &node(HOME, 1 + rand::random_range(0..3u64)));
                let reader = world.client();
                for chat in opened.iter().rev().take(4) {
                    let _ = world.wait(reader.page(chat, 1, 10));
                }
            } else {
                opened.push(world.wait(open_one(&client)));
            }
        }
        world.d.start_all().unwrap();
        world.wait_ready();
        load.wait_for(4, HIT_MAX);
        let ledgers = load.stop(&world);
        check(&world, &ledgers);
    }
    for chat in &opened {
        assert_eq!(world.texts(chat), ["only"]);
    }
    for cluster in [&[HOME], &CUSTODIANS[..]].concat() {
        world.wait_equal_states(cluster, Duration::from_secs(60));
    }
    no_epoch_has_two_keys(&mut world);
}

/// Every share that a custodian holds live belongs to an opened epoch, and it holds each that it
/// acknowledged. A custodian that was away when a new leader dealt has none: a lost margin, and
/// the home says so.
fn no_epoch_has_two_keys(world: &mut World) {
    let gone = eventually(Duration::from_secs(30), || {
        let outbox: f64 = (1..=3)
            .map(|id| world.metric(&node(HOME, id), "quorate_home_outbox"))
            .sum();
        anyhow::ensure!(outbox == 0.0, "{outbox} shares are on their way");
        Ok(())
    });
    gone.unwrap();
    for name in world.d.names() {
        world.d.stop(&name).unwrap();
    }
    let mut keys: BTreeMap<KeyId, (ChatId, u32)> = BTreeMap::new();
    let mut states: BTreeMap<(CustodianId, KeyId), LeafState> = BTreeMap::new();
    let mut epochs = 0;
    for shard in 0..SHARDS {
        let config = world.d.node(&node(HOME, 1)).config.clone();
        offline(&config, shard, |kv| {
            epochs += read::meta(kv).unwrap().epochs;
            for (chat, row) in read::chats(kv, None, 10_000).unwrap() {
                for epoch in 0..=row.last.map_or(0, |(n, _)| n) {
                    let Some(row) = read::epoch(kv, &chat, epoch).unwrap() else {
                        continue;
                    };
                    for leaf in &row.leaves {
                        states.insert((leaf.custodian.clone(), row.key_id), leaf.state);
                    }
                    let before = keys.insert(row.key_id, (chat, epoch));
                    assert!(before.is_none(), "one key, two epochs: {before:?}");
                }
            }
        });
    }
    let opened: BTreeSet<_> = keys.values().collect();
    assert_eq!(opened.len(), keys.len());
    for custodian in CUSTODIANS {
        let config = world.d.node(&node(custodian, 1)).config.clone();
        offline(&config, 0, |kv| {
            let live: u64 = custody::overview(kv)
                .unwrap()
                .live
                .iter()
                .map(|(_, n)| n)
                .sum();
            assert!(
                live <= epochs,
                "{custodian} holds {live} shares for {epochs} epochs"
            );
            let id = CustodianId::new(custodian).unwrap();
            let mut acked = 0;
            for (key, (chat, epoch)) in &keys {
                let held = custody::share(kv, key).unwrap();
                let named = matches!(&held, custody::Held::Share(row) if row.chat == *chat);
                let state = states[&(id.clone(), *key)];
                acked += u32::from(state == LeafState::Acked);
                assert!(
                    named || state == LeafState::Expired,
                    "{custodian} on epoch {epoch} of {chat}: {held:?}, the home says {state:?}"
                );
            }
            assert!(acked > 0, "{custodian} acknowledged nothing");
        });
    }
}

/// What these loads had acknowledged is there, and nothing twice; earlier loads wrote to the same chats.
fn check(world: &World, ledgers: &[Ledger]) {
    for ledger in ledgers {
        let texts = world.texts(&ledger.chat);
        let distinct: BTreeSet<&String> = texts.iter().collect();
        assert_eq!(distinct.len(), texts.len(), "a message stands twice");
        for (id, text) in &ledger.acked {
            assert_eq!(texts.get(*id as usize - 1), Some(text), "message {id}");
        }
    }
}
