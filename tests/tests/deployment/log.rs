//! Custodians' published logs, read by outsiders and by auditors through the `quorate` binary.

use super::officers::{Officers, done, refused};
use super::planes::{Credential, connector};
use super::world::{World, node, topology};
use http_body_util::{BodyExt, Full};
use hyper::Request;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use quorate_cli::audit::AuditorKey;
use quorate_engine::audit::publish::{Checkpoint, Note, Tile, TileKind, tiles_of};
use quorate_engine::types::CustodianId;
use rustls_pki_types::ServerName;
use serde_json::Value;
use std::net::SocketAddr;

/// What anybody is answered: status and body.
async fn ask(at: SocketAddr, path: &str) -> (u16, bytes::Bytes) {
    let nobody = Credential {
        name: "nobody",
        files: None,
        bearer: None,
        cookie: None,
    };
    let tcp = tokio::net::TcpStream::connect(at).await.unwrap();
    let name = ServerName::try_from("127.0.0.1").unwrap();
    let tls = connector(&nobody, &[]).connect(name, tcp).await.unwrap();
    let (mut sender, connection) = http1::handshake(TokioIo::new(tls)).await.unwrap();
    tokio::spawn(connection);
    let request = Request::builder().uri(path).header("host", at.to_string());
    let request = request.body(Full::new(bytes::Bytes::new())).unwrap();
    let reply = sender.send_request(request).await.unwrap();
    let status = reply.status().as_u16();
    (
        status,
        reply.into_body().collect().await.unwrap().to_bytes(),
    )
}

/// A file with the token of an auditor whom ch's officers admit.
pub(crate) fn admitted_auditor(world: &World, dir: &std::path::Path) -> std::path::PathBuf {
    let officers = Officers::installed(world, "ch");
    let key = dir.join("auditor.key");
    let made = officers.json(&["audit", "init-key", "--out", text(&key)]);
    let named = format!("auditor={}", made["public"].as_str().unwrap());
    let by = [
        "--key",
        officers.file("anna"),
        "--also",
        officers.file("bo"),
    ];
    let act = ["--reason", "audit", "admit-auditor", &named];
    world.quorate_ok(&[&["officer", "propose", "ch"][..], &by, &act].concat());
    let key = AuditorKey::load(&key).unwrap();
    let ch = CustodianId::new("ch").unwrap();
    let token = key.token(world.d.layout.deployment, &ch).unwrap();
    let path = dir.join("auditor.token");
    std::fs::write(&path, token).unwrap();
    path
}

fn text(path: &std::path::Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn an_outsider_reads_hashes_and_no_names() {
    let world = World::start(&topology(1, [1; 3], ""));
    let chat = world.chat("a title to be found nowhere");
    world.send(&chat, &["a text".into()]);
    let at = world.d.node(&node("ch", 1)).audit.unwrap();
    let (status, note) = world.wait(ask(at, "/checkpoint"));
    assert_eq!(status, 200);
    let head = Checkpoint::parse(Note::parse(&note).unwrap().text()).unwrap();
    assert!(head.size > 3, "{head:?}");
    let mut all = note.to_vec();
    for tile in tiles_of(head.size) {
        let (status, bytes) = world.wait(ask(at, &format!("/{tile}")));
        assert_eq!((status, bytes.len()), (200, usize::from(tile.width) * 32));
        all.extend(bytes);
        if tile.kind == TileKind::Hashes(0) {
            let kind = TileKind::Entries;
            let bundle = Tile { kind, ..tile };
            let (status, body) = world.wait(ask(at, &format!("/{bundle}")));
            let problem: Value = serde_json::from_slice(&body).unwrap();
            assert_eq!(
                (status, &problem["code"]),
                (401, &"auditor_required".into())
            );
            let (status, _) = world.wait(ask(at, &format!("/openings/{}", tile.index)));
            assert_eq!(status, 401);
        }
    }
    // Neither the people nor the chat, as text or as bytes.
    let person = world.person();
    for id in [chat.clone(), person.account().to_string()] {
        let bytes = hex::decode(&id).unwrap();
        let found = |what: &[u8]| all.windows(what.len()).any(|w| w == what);
        assert!(!found(id.as_bytes()) && !found(&bytes), "{id} is published");
    }
    for path in [
        "/tile/0/999",
        "/tile/0/000.p/255",
        "/tile/9/000.p/1",
        "/tile/0/0",
        "/tile/entries",
    ] {
        let (status, _) = world.wait(ask(at, path));
        assert_eq!(status, 404, "{path}");
    }

    // The same through the command line, and nothing is wrong.
    let out: Value =
        serde_json::from_str(&world.quorate_ok(&["--json", "log", "verify", "ch"])).unwrap();
    assert_eq!(
        (&out["clean"], &out["entries_read"]),
        (&true.into(), &Value::Null)
    );
    let shown = world.quorate_ok(&["log", "checkpoint", "is"]);
    assert!(shown.contains("/is\n"), "{shown}");
    let policy = world.quorate_ok(&["log", "policy", "--quorum", "2"]);
    let file = world.scratch().join("log-policy.txt");
    std::fs::write(&file, policy).unwrap();
    // Nobody cosigned yet: a policy that asks for two believes nothing.
    let with = ["log", "checkpoint", "is", "--policy", text(&file)];
    refused(world.quorate(&with), "do not meet the policy's quorum");
}

#[test]
fn auditors_whom_the_officers_admitted_read_entries() {
    let world = World::start(&topology(1, [1; 3], ""));
    let chat = world.chat("audited");
    world.send(&chat, &["a record".into()]);
    let officers = Officers::installed(&world, "ch");
    let key = world.scratch().join("auditor.key");
    let made = officers.json(&["audit", "init-key", "--out", text(&key)]);
    let public = made["public"].as_str().unwrap();
    let show = |custodian: &'static str| {
        world.quorate(&[
            "log",
            "show",
            custodian,
            "--key",
            text(&key),
            "--count",
            "1000",
        ])
    };
    let stranger = show("ch");
    assert_eq!(stranger.code, Some(7), "{stranger:?}");
    refused(stranger, "have not admitted this key");

    let propose = |act: &[&str]| {
        let by = [
            "--key",
            officers.file("anna"),
            "--also",
            officers.file("bo"),
        ];
        let why = ["--reason", "the yearly audit"];
        world.quorate(&[&["officer", "propose", "ch"][..], &by, &why, act].concat())
    };
    let named = format!("Treuhand={public}");
    done(propose(&["admit-auditor", &named, "--for-days", "30"]));
    let listed = world.quorate_ok(&["officer", "list", "ch"]);
    assert!(listed.contains("Treuhand until"), "{listed}");
    let entries = done(show("ch"));
    let entries: Vec<Value> = entries
        .lines()
        .map(|l| serde_json::from_str(l).unwrap())
        .collect();
    for (n, entry) in entries.iter().enumerate() {
        assert_eq!(
            (&entry["index"], &entry["custodian"]),
            (&n.into(), &"ch".into())
        );
    }
    let admitted = |e: &&Value| {
        e["acts"]
            .as_array()
            .is_some_and(|a| a.contains(&"admit_auditor".into()))
    };
    assert!(entries.iter().any(|e| admitted(&e)), "{entries:?}");
    assert!(entries.iter().any(|e| e["kind"] == "store"));
    assert!(
        !entries.iter().any(|e| e.to_string().contains(&chat)),
        "a chat's id stands in an entry"
    );
    // What one custodian's officers allow opens nothing at another.
    refused(show("is"), "have not admitted this key");

    // Checked whole, kept, and compared with what it has grown to.
    let keep = world.scratch().join("kept");
    let verify = [
        "--json",
        "log",
        "verify",
        "ch",
        "--key",
        text(&key),
        "--keep",
        text(&keep),
    ];
    let first: Value = serde_json::from_str(&world.quorate_ok(&verify)).unwrap();
    assert_eq!(first["entries_read"], first["size"]);
    world.send(&world.chat("one more"), &["more".into()]);
    let second: Value = serde_json::from_str(&world.quorate_ok(&verify)).unwrap();
    assert!(second["size"].as_u64() > first["size"].as_u64(), "{second}");
    assert_eq!(second["since_size"], first["size"]);

    // One byte of what was kept is changed: the next run over the same tree says which entry.
    let third: Value = serde_json::from_str(&world.quorate_ok(&verify)).unwrap();
    let size = third["size"].as_u64().unwrap();
    let bundle = Tile {
        kind: TileKind::Entries,
        index: 0,
        width: u16::try_from(size.min(256)).unwrap(),
    };
    let path = keep.join("ch").join(bundle.to_string());
    let mut bytes = std::fs::read(&path).unwrap();
    let at = bytes.len() - 3;
    bytes[at] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    let ran = world.quorate(&verify);
    assert_eq!(ran.code, Some(1), "{ran:?}");
    let found: Value = serde_json::from_str(&ran.out).unwrap();
    let last = size.min(256) - 1;
    assert_eq!(
        (&found["clean"], &found["findings"][0]["from"]),
        (&false.into(), &last.into())
    );

    done(propose(&["dismiss-auditor", "Treuhand"]));
    refused(show("ch"), "have not admitted this key");
}

#[test]
fn a_cluster_of_three_publishes_one_log() {
    let world = World::start(&topology(1, [3, 1, 1], ""));
    world.send(&world.chat("three"), &["a".into(), "b".into()]);
    world.wait_equal_states("ch", std::time::Duration::from_secs(20));
    let notes: Vec<_> = (1..=3)
        .map(|n| {
            let at = world.d.node(&node("ch", n)).audit.unwrap();
            let (status, note) = world.wait(ask(at, "/checkpoint"));
            assert_eq!(status, 200);
            Note::parse(&note).unwrap().text().to_owned()
        })
        .collect();
    assert!(notes.iter().all(|n| *n == notes[0]), "{notes:?}");
}
