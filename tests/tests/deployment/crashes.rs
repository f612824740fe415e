//! Nodes that die and nodes that are asked to stop, while clients write.

use super::load::{Load, check, longest};
use super::world::{CUSTODIANS, HOME, World, eventually, node, topology};
use std::time::Duration;

/// Longest a client may wait for one request when a node of every cluster dies:
/// detection, an election of up to two rounds, and a client's own detour.
const PAUSE_MAX: Duration = Duration::from_secs(20);
/// Longest a client may wait for one request when a node stops in order.
const HANDOVER_MAX: Duration = Duration::from_secs(3);

#[test]
fn kill_9_of_one_node_in_every_cluster_at_once_loses_nothing_acknowledged() {
    let mut world = World::start(&topology(3, [3; 3], ""));
    let chats: Vec<String> = (0..4).map(|i| world.chat(&format!("chat {i}"))).collect();
    let load = Load::start(&world, &chats);
    load.wait_for(40, Duration::from_secs(60));
    // The home's node 1 leads something, and each custodian loses its leader.
    let mut victims = vec![node(HOME, 1)];
    victims.extend(CUSTODIANS.map(|c| node(c, world.leader(c))));
    for name in &victims {
        world.d.kill(name);
    }
    // Everything of this goes through the survivors alone; a fresh chat needs custodians that lead
    // again, to store new shares. What is leased goes on before they do.
    load.wait_for(40, Duration::from_secs(60));
    for custodian in CUSTODIANS {
        let led = eventually(Duration::from_secs(20), || {
            let leader = node(custodian, world.leader(custodian));
            anyhow::ensure!(!victims.contains(&leader), "{leader:?} is dead");
            Ok(())
        });
        led.unwrap();
    }
    let fresh = world.chat("made while a node of every cluster is down");
    world.send(&fresh, &["first".into(), "second".into()]);
    for name in &victims {
        world.d.start_node(name).unwrap();
    }
    world.wait_ready();
    load.wait_for(20, Duration::from_secs(60));
    let ledgers = load.stop(&world);
    let (write, read) = longest(&ledgers);
    assert!(
        write < PAUSE_MAX && read < PAUSE_MAX,
        "longest write {write:?}, longest read {read:?}"
    );
    assert!(check(&world, &ledgers) >= 100);
    assert_eq!(world.texts(&fresh), ["first", "second"]);
    for cluster in [&[HOME], &CUSTODIANS[..]].concat() {
        world.wait_equal_states(cluster, Duration::from_secs(60));
    }
}

#[test]
fn sigterm_hands_leaders_over_and_exits_0_without_an_election_pause() {
    let mut world = World::start(&topology(3, [1; 3], ""));
    let chats: Vec<String> = (0..4).map(|i| world.chat(&format!("chat {i}"))).collect();
    for id in 1..=3 {
        let load = Load::start(&world, &chats);
        load.wait_for(10, Duration::from_secs(60));
        // `stop` fails on any exit code but 0.
        world.d.stop(&node(HOME, id)).unwrap();
        load.wait_for(20, Duration::from_secs(60));
        let ledgers = load.stop(&world);
        let (write, read) = longest(&ledgers);
        assert!(
            write < HANDOVER_MAX && read < HANDOVER_MAX,
            "stopping node {id}: longest write {write:?}, longest read {read:?}"
        );
        world.d.start_node(&node(HOME, id)).unwrap();
        world.wait_ready();
    }
}
