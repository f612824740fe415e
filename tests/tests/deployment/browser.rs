//! A browser that trades a grant for a cookie, over the wire that it would use.

use super::planes::{Credential, connector};
use super::world::{World, message, topology};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1;
use hyper::{HeaderMap, Request};
use hyper_util::rt::TokioIo;
use quorate_cli::people::{Wallet, Wants};
use rustls_pki_types::ServerName;
use serde_json::Value;
use std::net::SocketAddr;
use std::time::Duration;

struct Reply {
    status: u16,
    headers: HeaderMap,
    body: Value,
}

impl Reply {
    fn refused(&self) -> (u16, &str) {
        (self.status, self.body["code"].as_str().unwrap_or(""))
    }
}

fn ask(world: &World, at: SocketAddr, line: (&str, &str), headers: &[(&str, &str)]) -> Reply {
    let nobody = Credential {
        name: "browser",
        files: None,
        bearer: None,
        cookie: None,
    };
    let mut request = Request::builder()
        .method(line.0)
        .uri(line.1)
        .header("host", at.to_string())
        .header("content-type", "application/json");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let body = match line.0 {
        "POST" => r#"{"messages":[{"idempotency_key":"k","content":{}}]}"#,
        _ => "",
    };
    let request = request.body(Full::new(bytes::Bytes::from(body))).unwrap();
    world.wait(async {
        let tcp = tokio::net::TcpStream::connect(at).await.unwrap();
        let name = ServerName::try_from("127.0.0.1").unwrap();
        let tls = connector(&nobody, &[]).connect(name, tcp).await.unwrap();
        let (mut sender, connection) = http1::handshake(TokioIo::new(tls)).await.unwrap();
        tokio::spawn(connection);
        let reply = sender.send_request(request).await.unwrap();
        let (status, headers) = (reply.status().as_u16(), reply.headers().clone());
        let body = reply.into_body().collect().await.unwrap().to_bytes();
        Reply {
            status,
            headers,
            body: serde_json::from_slice(&body).unwrap_or_default(),
        }
    })
}

/// The cookie as it goes back, and the seconds it lives.
fn session(world: &World, at: SocketAddr, grant: &str) -> (String, u64) {
    let bearer = format!("Bearer {grant}");
    let headers = [("authorization", bearer.as_str())];
    let made = ask(world, at, ("POST", "/v1/session"), &headers);
    assert_eq!(made.status, 204, "{:?}", made.body);
    let set = made.headers["set-cookie"].to_str().unwrap();
    let mut parts = set.split("; ");
    let pair = parts.next().unwrap().to_owned();
    let rest: Vec<&str> = parts.collect();
    for needed in ["Path=/v1/chats", "HttpOnly", "Secure", "SameSite=Strict"] {
        assert!(rest.contains(&needed), "{set}");
    }
    let age = rest.iter().find_map(|p| p.strip_prefix("Max-Age="));
    (pair, age.unwrap().parse().unwrap())
}

#[test]
fn a_cookie_reads_at_every_node_while_its_grant_holds_and_its_device_does() {
    let world = World::start(&topology(3, [1, 1, 1], ""));
    let chat = world.chat("pictures");
    world.send(&chat, &["seen in a browser".to_owned()]);
    let person = world.person();
    let wants = Wants::read(vec![chat.parse().unwrap()]);
    let nodes = world.d.layout.client_endpoints();
    let grant = person.grant(&wants).unwrap();
    let (cookie, age) = session(&world, nodes[0], &grant);
    assert!((1..=900).contains(&age), "{age}");
    assert!(!cookie.contains(&*grant), "the grant itself is not in it");
    let with = [("cookie", cookie.as_str())];
    let page = format!("/v1/chats/{chat}/messages");
    let one = format!("{page}/1");
    for node in &nodes {
        for path in [&page, &one] {
            let read = ask(&world, *node, ("GET", path), &with);
            assert_eq!(read.status, 200, "{:?}", read.body);
            assert!(read.body.to_string().contains("seen in a browser"));
            assert_eq!(read.headers["cache-control"], "no-store");
        }
        let elsewhere = [with[0], ("sec-fetch-site", "cross-site")];
        let read = ask(&world, *node, ("GET", &page), &elsewhere);
        assert_eq!(read.refused(), (403, "session_elsewhere"));
        // Not to write, not to list, and not for a chat that the grant does not name.
        for line in [
            ("POST", page.as_str()),
            ("GET", "/v1/chats"),
            ("POST", "/v1/session"),
        ] {
            let refused = ask(&world, *node, line, &with);
            assert_eq!(refused.refused(), (401, "grant_missing"), "{line:?}");
        }
        let other = format!("/v1/chats/{}/messages", "0".repeat(64));
        let refused = ask(&world, *node, ("GET", &other), &with);
        assert_eq!(refused.refused(), (403, "grant_chat"));
    }
    let forged = format!("{}0", &cookie[..cookie.len() - 1]);
    if forged != cookie {
        let refused = ask(&world, nodes[0], ("GET", &page), &[("cookie", &forged)]);
        assert_eq!(refused.refused(), (401, "session_unknown"));
    }

    // Over when its grant is, to the second.
    let brief = world.person().with_grant_life(3);
    brief.forget(&grant);
    let short = brief.grant(&wants).unwrap();
    let (brief_cookie, age) = session(&world, nodes[1], &short);
    assert!(age <= 3, "{age}");
    std::thread::sleep(Duration::from_secs(4));
    let headers = [("cookie", brief_cookie.as_str())];
    for node in &nodes {
        let refused = ask(&world, *node, ("GET", &page), &headers);
        assert_eq!(refused.status, 401, "{:?}", refused.body);
    }

    // Its device is revoked by another one.
    let phone = world.scratch().join("phone");
    world.quorate_ok(&["device", "add", "--to", phone.to_str().unwrap()]);
    let dir = world.dir().to_str().unwrap().to_owned();
    let wallet = Wallet::load(&phone).unwrap();
    let reach = quorate_cli::deployment::Deployment::find(Some(world.dir())).unwrap();
    let on_phone = reach.person(&wallet).unwrap().grant(&wants).unwrap();
    let (of_phone, _) = session(&world, nodes[0], &on_phone);
    let with = [("cookie", of_phone.as_str())];
    assert_eq!(ask(&world, nodes[1], ("GET", &page), &with).status, 200);
    let device = wallet.device().unwrap().to_string();
    world.quorate_ok(&["device", "revoke", &device]);
    for node in &nodes {
        let refused = ask(&world, *node, ("GET", &page), &with);
        assert_eq!(refused.refused(), (403, "device_revoked"), "{dir}");
    }
    let client = world.client();
    world
        .wait(client.append(&chat, vec![message("goes on")]))
        .unwrap();
}
