//! Bad input and wrong set-ups: each gives a clear error, and what should go on goes on.

use super::world::{HOME, Ran, World, content, message, node, run_node, topology};
use quorate_cli::client::ClientError;
use quorate_engine::custody::protocol::{CustodianReply, CustodianRequest, PROTOCOL_VERSION};
use quorate_engine::types::{Outcome, codec};
use quorate_node::config::Config;
use quorate_node::peer::client::PeerClientOptions;
use quorate_node::peer::{CallError, PeerClient, PeerTarget, services};
use quorate_node::pki::{CertRole, CertSource, Entity, Issued, TrustStore, tls};
use quorate_tests::deployment::tail;
use rustls_pki_types::ServerName;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_rustls::TlsConnector;

/// Exit codes of `quorate-node`.
const FAILED: Option<i32> = Some(1);
const CONFIG: Option<i32> = Some(2);
/// A peer answers or refuses within this.
const WAIT: Duration = Duration::from_secs(5);
const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3_600);

fn refused(ran: &Ran, code: Option<i32>, says: &[&str]) {
    assert_eq!(ran.code, code, "{ran:?}");
    for word in says {
        assert!(ran.err.contains(word), "{word:?} is not in {ran:?}");
    }
    assert!(!ran.err.contains("panicked"), "{ran:?}");
}

fn change(path: &Path, from: &str, to: &str) {
    let text = std::fs::read_to_string(path).unwrap();
    assert!(text.contains(from), "{from:?} is not in {text}");
    std::fs::write(path, text.replacen(from, to, 1)).unwrap();
}

#[test]
fn a_node_that_is_set_up_wrongly_says_why_and_does_not_start() {
    let world = World::lay_out(&topology(1, [1; 3], ""));
    let ch = world.d.node(&node("ch", 1)).clone();
    let home = world.d.node(&node(HOME, 1)).clone();
    let good = std::fs::read_to_string(&ch.config).unwrap();
    let here = ch.config.parent().unwrap();

    change(&ch.config, "[listen]", "[listen]\npeeer = \"127.0.0.1:1\"");
    let line = good.lines().position(|l| l == "[listen]").unwrap() + 2;
    let at = format!("line {line}");
    refused(
        &run_node(&ch.config),
        CONFIG,
        &["peeer", &at, "config.toml"],
    );
    std::fs::write(&ch.config, &good).unwrap();

    // The certificate of a node of another cluster.
    let of_home = home.config.parent().unwrap();
    let text = good
        .replacen("node.crt", of_home.join("node.crt").to_str().unwrap(), 1)
        .replacen("node.key", of_home.join("node.key").to_str().unwrap(), 1);
    std::fs::write(&ch.config, text).unwrap();
    refused(
        &run_node(&ch.config),
        FAILED,
        &["home/ae/1", "own certificate"],
    );
    std::fs::write(&ch.config, &good).unwrap();

    let ended = Entity::open(&world.dir().join("ch")).unwrap();
    let who = source_in(here).identity();
    let ago = SystemTime::now() - 48 * HOUR;
    let ended = ended
        .authority()
        .danger_issue(&who, &[], ago, HOUR)
        .unwrap();
    let file = |end: &str| here.join(format!("ended.{end}"));
    ended.write(&file("crt"), &file("key")).unwrap();
    change(&ch.config, "node.crt", "ended.crt");
    change(&ch.config, "node.key", "ended.key");
    refused(
        &run_node(&ch.config),
        FAILED,
        &["ended.crt", "issue a new one"],
    );
    std::fs::write(&ch.config, &good).unwrap();

    let taken = TcpListener::bind(ch.peer).unwrap();
    let port = ch.peer.to_string();
    refused(&run_node(&ch.config), FAILED, &[&port, "listen.peer"]);
    drop(taken);

    let mark = here.join("data/FORMAT");
    std::fs::write(&mark, "quorate data directory\nformat 9\nstore redb\n").unwrap();
    refused(&run_node(&ch.config), FAILED, &["format 9", "newer build"]);
    std::fs::write(&mark, "quorate data directory\nformat 1\nstore sled\n").unwrap();
    refused(&run_node(&ch.config), FAILED, &["store"]);

    // An operator's certificate, of the right cluster and with the number of this node.
    std::fs::write(&mark, "quorate data directory\nformat 1\nstore redb\n").unwrap();
    change(&ch.config, "node.crt", "../operator.crt");
    change(&ch.config, "node.key", "../operator.key");
    refused(&run_node(&ch.config), FAILED, &["operator"]);
}

#[test]
fn two_processes_do_not_share_a_data_directory_and_the_first_goes_on() {
    let mut world = World::lay_out(&topology(1, [1; 3], ""));
    let name = node("ch", 1);
    world.d.start_node(&name).unwrap();
    let health = world.d.node(&name).health.to_string();
    super::world::eventually(Duration::from_secs(20), || {
        quorate_tests::deployment::http_get(&health, "/livez")
    })
    .unwrap();
    let config = world.d.node(&name).config.clone();
    refused(&run_node(&config), FAILED, &["in use by another process"]);
    assert!(world.d.running.get_mut(&name).unwrap().running());
    world.d.stop(&name).unwrap();
}

#[test]
fn hostile_peers_clients_and_files_are_refused_and_everything_goes_on() {
    let mut world = World::start(&topology(3, [1; 3], ""));
    let chat = world.chat("bystander");
    world.send(&chat, &["before".into()]);
    certificates_of_the_wrong_kind(&world);
    hostile_frames(&world);
    messages_over_the_limit(&world, &chat);
    imports_that_are_not_json(&world);
    two_nodes_with_one_id(&mut world);
    world.send(&chat, &["after".into()]);
    assert_eq!(world.texts(&chat), ["before", "after"]);
    for (name, process) in &mut world.d.running {
        assert!(process.running(), "{name:?}:\n{}", tail(&process.log));
        let log = std::fs::read_to_string(&process.log).unwrap();
        assert!(!log.contains("panicked"), "{name:?} panicked");
    }
}

fn source(world: &World, name: &str, issued: &Issued) -> Arc<CertSource> {
    let file = |end: &str| world.scratch().join(format!("{name}.{end}"));
    issued.write(&file("crt"), &file("key")).unwrap();
    CertSource::load("peer", &file("crt"), &file("key")).unwrap()
}

fn own_source(world: &World, cluster: &str) -> Arc<CertSource> {
    source_in(&world.dir().join(cluster).join("node-1"))
}

fn source_in(dir: &Path) -> Arc<CertSource> {
    CertSource::load("peer", &dir.join("node.crt"), &dir.join("node.key")).unwrap()
}

fn trust_of(world: &World, cluster: &str) -> Arc<TrustStore> {
    let dir = world.dir().join(cluster).join("node-1");
    TrustStore::load(&dir.join("descriptor.json"), &dir.join("trust")).unwrap()
}

/// Asks custodian ch for its sealing key, as whoever `certs` says, believing what `cluster` believes.
fn ask(world: &World, cluster: &str, certs: Arc<CertSource>) -> Result<Vec<u8>, CallError> {
    let target = PeerTarget {
        role: quorate_node::config::ClusterRole::Custodian,
        cluster: "ch".into(),
        node: 1,
    };
    let body = codec::encode(PROTOCOL_VERSION, &CustodianRequest::SealingKey);
    world.wait(async {
        let client = PeerClient::new(
            trust_of(world, cluster),
            certs,
            PeerClientOptions::default(),
        );
        client.call(&target, services::CUSTODIAN, body, WAIT).await
    })
}

fn certificates_of_the_wrong_kind(world: &World) {
    let entity = |name: &str| Entity::open(&world.dir().join(name)).unwrap();
    let (ae, is) = (entity(HOME), entity("is"));
    let home = own_source(world, HOME).identity();
    let now = SystemTime::now();
    // Control: the home's own certificate is served.
    let reply = ask(world, HOME, own_source(world, HOME)).unwrap();
    let reply: CustodianReply = codec::decode("reply", PROTOCOL_VERSION, &reply).unwrap();
    assert!(matches!(reply, CustodianReply::SealingKey(_)), "{reply:?}");

    // A custodian may connect, but asks for nothing that is a home's.
    let e = ask(world, "is", own_source(world, "is")).unwrap_err();
    assert!(matches!(e, CallError::Refused(_)), "{e:?}");

    let refused = |what: &str, issued: Issued| {
        let e = ask(world, HOME, source(world, what, &issued)).unwrap_err();
        assert!(matches!(e, CallError::NotSent(_)), "{what}: {e:?}");
    };
    // A custodian that mints itself a home.
    let minted = is.authority().danger_issue(&home, &[], now, HOUR);
    refused("minted", minted.unwrap());
    let mut operator = home.clone();
    operator.role = CertRole::Operator;
    let operator = ae.authority().danger_issue(&operator, &[], now, HOUR);
    refused("operator", operator.unwrap());
    // Loaded while it was good, ended when it is shown.
    let short = ae.authority().danger_issue(&home, &[], now, 2 * SECOND);
    let short = source(world, "short", &short.unwrap());
    std::thread::sleep(4 * SECOND);
    let e = ask(world, HOME, short).unwrap_err();
    assert!(matches!(e, CallError::NotSent(_)), "expired: {e:?}");
    // Control: the same way of making one, valid and of the right CA.
    let fine = ae.authority().danger_issue(&home, &[], now, HOUR).unwrap();
    ask(world, HOME, source(world, "fine", &fine)).unwrap();
}

fn hostile_frames(world: &World) {
    let peer = world.d.node(&node("ch", 1)).peer;
    let hostile: [&[u8]; 4] = [
        &(1u64 << 62).to_le_bytes(),
        &(1u64 << 62).to_be_bytes(),
        &[0xff; 64],
        &[16, 0, 0, 0, 1],
    ];
    let mut target = own_source(world, "ch").identity();
    target.node = 1;
    let config = tls::peer_client(&trust_of(world, HOME), &own_source(world, HOME), target);
    world.wait(async {
        for bytes in hostile {
            // Without TLS at all.
            let mut plain = tokio::net::TcpStream::connect(peer).await.unwrap();
            plain.write_all(bytes).await.unwrap();
            plain.shutdown().await.unwrap();
            // As a peer with a good certificate.
            let tcp = tokio::net::TcpStream::connect(peer).await.unwrap();
            let name = ServerName::IpAddress(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST).into());
            let connector = TlsConnector::from(config.clone());
            let mut stream = connector.connect(name, tcp).await.unwrap();
            stream.write_all(bytes).await.unwrap();
            stream.shutdown().await.unwrap();
            let mut rest = Vec::new();
            let ended = tokio::time::timeout(WAIT, stream.read_to_end(&mut rest)).await;
            assert!(ended.is_ok(), "{bytes:02x?} must end the connection");
        }
    });
    ask(world, HOME, own_source(world, HOME)).unwrap();
}

fn messages_over_the_limit(world: &World, chat: &str) {
    let client = world.client();
    let limit = quorate_engine::api::CONTENT_BYTES_MAX;
    let frame = serde_json::to_vec(&content("")).unwrap().len();
    let text = |over: usize| "x".repeat(limit - frame + over);
    let e = world.wait(client.append(chat, vec![message(&text(1))]));
    match e.unwrap_err() {
        ClientError::Problem(p) => {
            assert_eq!((p.status, p.outcome), (413, Outcome::NotDone), "{p:?}");
            assert!(
                p.detail.contains("1048576") || p.detail.contains("1 MiB"),
                "{p:?}"
            );
            assert!(!p.next_step.is_empty() && p.retry_ms.is_none(), "{p:?}");
        }
        other => panic!("{other:?}"),
    }
    // Control: one byte less is taken, in a chat of its own.
    let large = world.chat("large");
    world
        .wait(client.append(&large, vec![message(&text(0))]))
        .unwrap();
    assert_eq!(world.texts(&large)[0].len(), limit - frame);
}

fn imports_that_are_not_json(world: &World) {
    let file = world.scratch().join("result.json");
    let import = |text: &str| {
        std::fs::write(&file, text).unwrap();
        world.quorate(&["import", "telegram", "--quiet", file.to_str().unwrap()])
    };
    let html = import("<!DOCTYPE html><html><body>Exported data</body></html>");
    assert_eq!(html.code, Some(2), "{html:?}");
    assert!(html.err.contains("byte 0"), "{html:?}");
    let bad = "{\"about\": \"x\", \"contacts\": [";
    let ran = import(bad);
    assert_eq!(ran.code, Some(6), "{ran:?}");
    let at = format!("byte {}", bad.len());
    assert!((ran.out.clone() + &ran.err).contains(&at), "{at}: {ran:?}");
}

/// A second data directory under the id of a member: its peers refuse it, and go on with the first.
fn two_nodes_with_one_id(world: &mut World) {
    let name = node(HOME, 3);
    let config = world.d.node(&name).config.clone();
    let mut twin = Config::load(&config).unwrap();
    let free = || {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap()
    };
    twin.data_dir = PathBuf::from("twin");
    (twin.listen.peer, twin.listen.operator) = (free(), free());
    (twin.listen.health, twin.listen.client) = (free(), Some(free()));
    let path = config.with_file_name("twin.toml");
    std::fs::write(&path, twin.to_toml()).unwrap();
    let out = std::fs::File::create(config.with_file_name("twin.log")).unwrap();
    let mut child =
        std::process::Command::new(quorate_tests::deployment::binary("quorate-node").unwrap())
            .arg("--config")
            .arg(&path)
            .stderr(out)
            .spawn()
            .unwrap();
    let log = config.with_file_name("twin.log");
    let said = super::world::eventually(Duration::from_secs(20), || {
        let text = std::fs::read_to_string(&log)?;
        anyhow::ensure!(text.contains("another data directory"), "{text}");
        let health = twin.listen.health.to_string();
        if let Ok((200, _)) = quorate_tests::deployment::http_get(&health, "/readyz") {
            panic!("the twin is ready");
        }
        Ok(())
    });
    child.kill().unwrap();
    child.wait().unwrap();
    said.unwrap();
}
