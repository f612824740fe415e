//! What operators do to a running deployment: certificates renewed, nodes added
//! and removed, a majority given up.

use super::load::{Load, check};
use super::world::{HOME, World, all, eventually, node, run, topology};
use quorate_node::config::{Config, Listen};
use quorate_node::embedded::layout::NodeLayout;
use quorate_node::pki::entity::NodeSpec;
use quorate_node::pki::{CertSource, Entity, TrustStore, tls};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;
use tokio_rustls::TlsConnector;

/// Files are looked at every 1.5 s; some more on a busy machine.
const ROTATION_MAX: Duration = Duration::from_secs(5);

fn names() -> Vec<String> {
    vec!["127.0.0.1".into(), "localhost".into()]
}

/// The certificate that a listener shows under `config`.
fn shown(
    world: &World,
    at: SocketAddr,
    config: Arc<tokio_rustls::rustls::ClientConfig>,
) -> Vec<u8> {
    world.wait(async {
        let tcp = tokio::net::TcpStream::connect(at).await.unwrap();
        let name = ServerName::IpAddress(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST).into());
        let stream = TlsConnector::from(config).connect(name, tcp).await.unwrap();
        stream.get_ref().1.peer_certificates().unwrap()[0].to_vec()
    })
}

fn in_file(path: &std::path::Path) -> Vec<u8> {
    CertificateDer::from_pem_file(path).unwrap().to_vec()
}

#[test]
fn renewed_certificates_are_shown_within_seconds_and_connections_live_on() {
    let world = World::start(&topology(3, [1; 3], ""));
    let chats = [world.chat("rotation")];
    let load = Load::start(&world, &chats);
    load.wait_for(10, Duration::from_secs(60));
    let connects = || -> f64 {
        let of = |id| world.metric(&node(HOME, id), "quorate_peer_connects_total");
        (1..=3).map(of).sum()
    };
    let before = connects();

    let home_dir = world.dir().join(HOME).join("node-1");
    let peer_of = |cluster: &str| world.d.node(&node(cluster, 1)).peer;
    let trust = TrustStore::load(&home_dir.join("descriptor.json"), &home_dir.join("trust"));
    let (trust, source) = (trust.unwrap(), {
        let (cert, key) = (home_dir.join("node.crt"), home_dir.join("node.key"));
        CertSource::load("peer", &cert, &key).unwrap()
    });
    let ch_dir = world.dir().join("ch").join("node-1");
    let ch = CertSource::load("peer", &ch_dir.join("node.crt"), &ch_dir.join("node.key"));
    let peer = tls::peer_client(&trust, &source, ch.unwrap().identity());
    let ca = std::fs::read_to_string(&world.d.layout.home().ca).unwrap();
    let client = tls::client_plane_client(&ca).unwrap();
    let client_plane = world.d.layout.client_endpoints()[0];
    let files = [ch_dir.join("node.crt"), home_dir.join("client-plane.crt")];
    let now = || {
        [
            shown(&world, peer_of("ch"), peer.clone()),
            shown(&world, client_plane, client.clone()),
        ]
    };
    let old = files.each_ref().map(|f| in_file(f));
    assert_eq!(now(), old);

    for cluster in ["ch", HOME] {
        let entity = Entity::open(&world.dir().join(cluster)).unwrap();
        entity.renew(1, &names()).unwrap();
    }
    let new = files.each_ref().map(|f| in_file(f));
    assert!(old[0] != new[0] && old[1] != new[1]);
    let taken = eventually(ROTATION_MAX, || {
        anyhow::ensure!(now() == new, "the old certificates are still shown");
        Ok(())
    });
    taken.unwrap();
    load.wait_for(10, Duration::from_secs(60));
    let ledgers = load.stop(&world);
    assert!(check(&world, &ledgers) >= 20);
    assert_eq!(connects(), before, "connections were made anew");
}

/// Lays out one more node of `cluster` and starts it.
fn join(world: &mut World, cluster: &str, id: u64) -> SocketAddr {
    let dir = world.dir().join(cluster);
    let like = Config::load(&dir.join("node-1/config.toml")).unwrap();
    let free = || {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap()
    };
    let listen = Listen {
        peer: free(),
        operator: free(),
        health: free(),
        client: None,
        registry: None,
        audit: None,
    };
    let layout = NodeLayout {
        id,
        config: dir.join(format!("node-{id}")).join("config.toml"),
        peer: listen.peer,
        operator: listen.operator,
        health: listen.health,
        client: None,
        registry: None,
        audit: None,
    };
    let spec = NodeSpec {
        id,
        peer: listen.peer.to_string(),
        listen,
        names: names(),
    };
    let mut entity = Entity::open(&dir).unwrap();
    entity.add_node(&spec, &like).unwrap();
    // The home is handed the new descriptor: it may have to ask the new node.
    let home = Entity::open(&world.dir().join(HOME)).unwrap();
    home.trust(&entity.descriptor).unwrap();
    let peer = layout.peer;
    let clusters = world.d.layout.clusters.iter_mut();
    let mut found = clusters.filter(|c| c.name == cluster);
    found.next().unwrap().nodes.push(layout);
    world.d.start_node(&node(cluster, id)).unwrap();
    peer
}

/// Reads `chat` with nothing leased and custodian sg gone, so that ch has to release.
fn reads_only_with_ch(world: &mut World, chat: &str, texts: &[&str]) {
    world.d.kill(&node("sg", 1));
    world.d.stop(&node(HOME, 1)).unwrap();
    world.d.start_node(&node(HOME, 1)).unwrap();
    world.wait_ready();
    let client = world.client();
    let read = eventually(Duration::from_secs(20), || world.wait(all(&client, chat)));
    assert_eq!(read.unwrap(), texts);
}

#[test]
fn a_node_is_added_an_old_one_replaced_and_no_id_used_twice() {
    let mut world = World::start(&topology(1, [3, 1, 1], ""));
    let chat = world.chat("membership");
    world.send(&chat, &["one".into()]);
    let address = join(&mut world, "ch", 4).to_string();
    let add = |id: &str, at: &str| {
        world.quorate(&["cluster", "add-node", "ch", "--node", id, "--address", at])
    };
    let done = add("4", &address);
    assert_eq!(done.code, Some(0), "{done:?}");
    world.wait_ready();
    world.wait_equal_states("ch", Duration::from_secs(30));

    world.d.kill(&node("ch", 1));
    world.quorate_ok(&["cluster", "remove-node", "ch", "--node", "1"]);
    let shown = world.quorate_ok(&["--json", "cluster", "show", "ch"]);
    let view: serde_json::Value = serde_json::from_str(&shown).unwrap();
    let mut voters: Vec<_> = view["groups"][0]["voters"].as_array().unwrap().to_vec();
    voters.sort_by_key(|v| v.as_u64());
    assert_eq!(serde_json::json!(voters), serde_json::json!([2, 3, 4]));

    // The removed id does not come back, neither by request nor by starting it again.
    let again = world.quorate(&[
        "cluster",
        "add-node",
        "ch",
        "--node",
        "1",
        "--address",
        &address,
    ]);
    assert!(!matches!(again.code, Some(0) | None), "{again:?}");
    world.d.start_node(&node("ch", 1)).unwrap();
    let old = world.d.node(&node("ch", 1)).health.to_string();
    let ready = eventually(Duration::from_secs(4), || {
        let (status, _) = quorate_tests::deployment::http_get(&old, "/readyz")?;
        anyhow::ensure!(status == 200, "{status}");
        Ok(())
    });
    assert!(ready.is_err(), "a removed node calls itself ready");
    world.d.kill(&node("ch", 1));

    // The new node carries the cluster: of the three voters one more is gone.
    world.d.kill(&node("ch", 2));
    world.send(&chat, &["two".into()]);
    reads_only_with_ch(&mut world, &chat, &["one", "two"]);
}

#[test]
fn a_lost_majority_is_given_up_only_when_told_so_and_status_alarms() {
    let mut world = World::start(&topology(1, [3, 1, 1], ""));
    let chat = world.chat("recovery");
    world.send(&chat, &["before".into()]);
    world.wait_equal_states("ch", Duration::from_secs(30));
    for id in 1..=3 {
        world.d.kill(&node("ch", id));
    }
    let config = world.d.node(&node("ch", 3)).config.clone();
    let config = config.to_str().unwrap();
    let without = run("quorate-node", &["recover", "--config", config]);
    assert_eq!(without.code, Some(2), "{without:?}");
    let flag = "--i-accept-losing-acknowledged-writes";
    assert!(without.err.contains(flag), "{without:?}");
    let done = run("quorate-node", &["recover", "--config", config, flag]);
    assert_eq!(done.code, Some(0), "{done:?}");
    assert!(done.out.contains("given up: {1, 2}"), "{done:?}");

    world.d.start_node(&node("ch", 3)).unwrap();
    world.wait_ready();
    let status = world.quorate(&["custodian", "status", "ch"]);
    assert!(
        status.out.contains("RECOVERED without a majority"),
        "{status:?}"
    );
    // A survivor that comes back is refused and disturbs nothing.
    world.d.start_node(&node("ch", 1)).unwrap();
    world.send(&chat, &["after".into()]);
    world.d.kill(&node("ch", 1));
    reads_only_with_ch(&mut world, &chat, &["before", "after"]);
}
