//! Officers are told at an address of their own that an order waits, and of what it is about nothing.

use super::officers::Officers;
use super::orders::appoint;
use super::world::{HOME, World, eventually, node, topology};
use quorate_node::pki::{CertSource, tls};
use serde_json::Value;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

/// A first delivery that fails, the pause after it, and the next.
const TOLD_MAX: Duration = Duration::from_secs(30);

/// What was posted, request by request; the first is answered with an error.
type Posted = Arc<Mutex<Vec<String>>>;

async fn listen(acceptor: TlsAcceptor, listener: TcpListener, posted: Posted) {
    while let Ok((tcp, _)) = listener.accept().await {
        let Ok(mut stream) = acceptor.accept(tcp).await else {
            continue;
        };
        let (mut text, mut part) = (Vec::new(), [0; 4096]);
        while !text.ends_with(b"}") {
            match stream.read(&mut part).await {
                Ok(n) if n > 0 => text.extend_from_slice(&part[..n]),
                _ => break,
            }
        }
        let first = {
            let mut posted = posted.lock().unwrap();
            posted.push(String::from_utf8(text).unwrap());
            posted.len() == 1
        };
        let status = if first { "503 Busy" } else { "204 No Content" };
        let reply = format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n");
        let _ = stream.write_all(reply.as_bytes()).await;
        let _ = stream.shutdown().await;
    }
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn officers_are_told_that_an_order_waits_and_nothing_of_what_it_is_about() {
    let mut world = World::start(&topology(1, [1; 3], ""));
    // Officers' own server; the home's certificate happens to name this machine.
    let of_home = world.dir().join(HOME);
    let (cert, key) = ["crt", "key"]
        .map(|e| of_home.join(format!("node-1/client-plane.{e}")))
        .into();
    let source = CertSource::load("officers", &cert, &key).unwrap();
    let acceptor = TlsAcceptor::from(tls::client_plane_server(&source));
    let posted = Posted::default();
    let listener = world.wait(TcpListener::bind("127.0.0.1:0")).unwrap();
    let port = listener.local_addr().unwrap().port();
    world.rt.spawn(listen(acceptor, listener, posted.clone()));

    let at = node("ch", 1);
    world.d.stop(&at).unwrap();
    let config = world.d.node(&at).config.clone();
    let mut settings = std::fs::read_to_string(&config).unwrap();
    let ca = of_home.join("ca.crt");
    settings += &format!(
        "\n[webhook]\nurl = \"https://127.0.0.1:{port}/orders\"\nca = {:?}\n",
        text(&ca)
    );
    std::fs::write(&config, settings).unwrap();
    world.d.start_node(&at).unwrap();
    world.wait_ready();

    let chat = world.chat("asked for");
    let ruling = world.scratch().join("ruling.pdf");
    std::fs::write(&ruling, b"the ruling").unwrap();
    let recipient = world.scratch().join("court.key");
    world.quorate_ok(&["order", "recipient-key", "--out", text(&recipient)]);
    let recipient = format!("{}.pub", text(&recipient));
    let mut o = Officers::new(&world);
    let public = ["anna", "bo", "cy"].map(|n| format!("{n}={}", o.key(n)));
    o.key("clerk");
    appoint(&world, &o, "ch", &public);
    assert_eq!(
        *posted.lock().unwrap(),
        Vec::<String>::new(),
        "nothing waits"
    );
    let mut open = vec!["order", "open", "ch", "--key", o.file("clerk")];
    open.extend(["--issuer", "a court", "--legal-basis", "file 7"]);
    open.extend(["--document", text(&ruling), "--reason", "served"]);
    open.extend([
        "--chat",
        &chat,
        "--from",
        "2020-01-01",
        "--to",
        "2100-01-01",
    ]);
    open.extend(["--recipient", &recipient]);
    let told = o.json(&open);
    let order = told["order"].as_str().unwrap();

    let posts = eventually(TOLD_MAX, || {
        let posts = posted.lock().unwrap().clone();
        anyhow::ensure!(posts.len() >= 2, "{posts:?}");
        Ok(posts)
    });
    for post in posts.unwrap() {
        let (head, body) = post.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("POST /orders HTTP/1.1\r\n"), "{head}");
        let body: Value = serde_json::from_str(body).unwrap();
        assert_eq!(body["event"], "order_waits");
        assert_eq!(
            (&body["custodian"], &body["order"]),
            (&"ch".into(), &order.into())
        );
        let fields: Vec<&String> = body.as_object().unwrap().keys().collect();
        let all = ["event", "deployment", "custodian", "order", "expires_ms"];
        assert_eq!(fields, all);
        assert!(!post.contains(&chat) && !post.contains("a court") && !post.contains("served"));
    }
    let notes = "quorate_custodian_order_notes_total";
    let counted = eventually(TOLD_MAX, || {
        anyhow::ensure!(world.metric(&at, notes) >= 2.0);
        Ok(())
    });
    counted.unwrap();
    // Told once is enough.
    std::thread::sleep(Duration::from_secs(5));
    assert_eq!(posted.lock().unwrap().len(), 2);
}
