//! What one entity does with its own directory, through the `quorate` binary:
//! certificates renewed and nodes made, at a custodian and at the home.

use super::world::{CUSTODIANS, HOME, World, all, eventually, node, topology};
use quorate_node::config::Config;
use quorate_node::embedded::layout::NodeLayout;
use quorate_tests::deployment::tail;
use std::net::TcpListener;
use std::path::Path;
use std::time::Duration;

/// The planes of a new node take so many consecutive ports.
const PORTS: u16 = 5;

fn text(path: &Path) -> String {
    path.to_str().unwrap().to_owned()
}

fn bytes(path: &Path) -> Vec<u8> {
    std::fs::read(path).unwrap()
}

/// The first of [`PORTS`] free ports in a row.
fn free_ports() -> u16 {
    let free = |port: u16| TcpListener::bind(("127.0.0.1", port)).is_ok();
    (0..1_000)
        .map(|_| rand::random_range(20_000..30_000))
        .find(|first| (*first..first + PORTS).all(free))
        .unwrap()
}

#[test]
fn renew_replaces_certificates_that_running_nodes_then_show_and_refuses_what_is_not_there() {
    let world = World::start(&topology(3, [3, 1, 1], ""));
    let chat = world.chat("renewal");
    for (role, cluster, other) in [("custodian", "ch", "home"), ("home", HOME, "custodian")] {
        let dir = world.dir().join(cluster);
        let cert = |id: u64| bytes(&dir.join(format!("node-{id}/node.crt")));
        let before: Vec<_> = (1..=3).map(cert).collect();
        let operator = bytes(&dir.join("operator.crt"));

        let done = world.quorate_ok(&[role, "renew", &text(&dir), "--node", "2"]);
        assert!(
            done.contains("node-2") && !done.contains("node-1"),
            "{done}"
        );
        assert_eq!(cert(1), before[0]);
        assert_ne!(cert(2), before[1]);
        let done = world.quorate_ok(&[role, "renew", &text(&dir), "--operator"]);
        assert!(done.contains("operator.crt"), "{done}");
        assert!((1..=3).all(|id| cert(id) != before[id as usize - 1]));
        assert_ne!(bytes(&dir.join("operator.crt")), operator);

        let wrong = world.quorate(&[role, "renew", &text(&dir), "--node", "9"]);
        assert_eq!(wrong.code, Some(2), "{wrong:?}");
        assert!(wrong.err.contains("has no node 9"), "{wrong:?}");
        let wrong = world.quorate(&[other, "renew", &text(&dir)]);
        assert_eq!(wrong.code, Some(2), "{wrong:?}");
        assert!(
            wrong.err.contains(&format!("belongs to a {role}")),
            "{wrong:?}"
        );

        // The operator's new certificate opens the operator plane.
        let shown = world.quorate_ok(&["cluster", "show", cluster]);
        assert!(shown.contains("leader"), "{shown}");
    }
    // Every node takes its own within seconds, and peers go on: both sides are new now.
    std::thread::sleep(Duration::from_secs(4));
    world.send(&chat, &["after".into()]);
    assert_eq!(world.texts(&chat), ["after"]);
}

/// Makes node `id` with `ROLE new-node`, has `trusting` trust the new descriptor, starts and adds it.
fn new_node(world: &mut World, role: &str, cluster: &str, id: u64, trusting: &[&str]) {
    let dir = world.dir().join(cluster);
    let address = format!("127.0.0.1:{}", free_ports());
    let spec = format!("{id}={address}");
    let make = [role, "new-node", &text(&dir), "--node", &spec];
    let done = world.quorate_ok(&make);
    assert!(
        done.contains(&format!("--node {id} --address {address}")),
        "{done}"
    );
    let again = world.quorate(&make);
    assert_eq!(again.code, Some(1), "{again:?}");
    assert!(again.err.contains(&format!("node {id}")), "{again:?}");

    let descriptor = text(&dir.join("descriptor.json"));
    let shown = world.quorate_ok(&["--json", "trust", "show", &descriptor]);
    let shown: serde_json::Value = serde_json::from_str(&shown).unwrap();
    let fingerprint = shown["fingerprint"].as_str().unwrap();
    for entity in trusting {
        let own = text(&world.dir().join(entity));
        let wrong = ["trust", "add", &own, &descriptor, "--fingerprint", "0000"];
        assert_ne!(world.quorate(&wrong).code, Some(0));
        world.quorate_ok(&[
            "trust",
            "add",
            &own,
            &descriptor,
            "--fingerprint",
            fingerprint,
        ]);
    }

    let path = dir.join(format!("node-{id}")).join("config.toml");
    let config = Config::load(&path).unwrap();
    let layout = NodeLayout {
        id,
        config: path,
        peer: address.parse().unwrap(),
        operator: config.listen.operator,
        health: config.listen.health,
        client: config.listen.client,
        registry: config.listen.registry,
        audit: config.listen.audit,
    };
    let clusters = world.d.layout.clusters.iter_mut();
    let mut found = clusters.filter(|c| c.name == cluster);
    found.next().unwrap().nodes.push(layout);
    world.d.start_node(&node(cluster, id)).unwrap();
    let id = id.to_string();
    let add = [
        "cluster",
        "add-node",
        cluster,
        "--node",
        &id,
        "--address",
        &address,
    ];
    let added = eventually(Duration::from_secs(20), || {
        let ran = world.quorate(&add);
        anyhow::ensure!(ran.code == Some(0), "{ran:?}");
        Ok(())
    });
    let log = tail(&world.d.log_of(&node(cluster, id.parse().unwrap())));
    added.unwrap_or_else(|e| panic!("{e:?}\n{log}"));
    world.wait_ready();
    world.wait_equal_states(cluster, Duration::from_secs(30));
}

#[test]
fn nodes_made_by_new_node_join_and_carry_their_cluster() {
    let mut world = World::start(&topology(3, [3, 1, 1], ""));
    let chat = world.chat("new nodes");
    world.send(&chat, &["one".into()]);
    new_node(&mut world, "custodian", "ch", 4, &[HOME]);
    new_node(&mut world, "home", HOME, 4, &CUSTODIANS);
    // Of four voters three carry a cluster: without the new ones, two would be left.
    world.d.kill(&node("ch", 1));
    world.d.kill(&node(HOME, 1));
    world.send(&chat, &["two".into()]);
    // Without sg, ch has to release to a home node that leases nothing.
    world.d.kill(&node("sg", 1));
    for id in 2..=4 {
        world.d.stop(&node(HOME, id)).unwrap();
        world.d.start_node(&node(HOME, id)).unwrap();
        world.wait_ready();
    }
    let client = world.client();
    let read = eventually(Duration::from_secs(30), || world.wait(all(&client, &chat)));
    assert_eq!(read.unwrap(), ["one", "two"]);
}
