//! Every route of every plane, asked with every kind of credential.
//!
//! Routes are read from the source, so one that nobody thought of is asked too;
//! what came of it is compared with `planes.txt`, line by line.

use crate::officers::Officers;
use crate::world::{HOME, World, node, topology};
use http_body_util::{BodyExt, Full};
use hyper::Request;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use quorate_cli::audit::AuditorKey;
use quorate_cli::people::service::ServiceFile;
use quorate_cli::people::{Person, now_ms};
use quorate_engine::authz::grant::{Action, Claims, Grant};
use quorate_engine::authz::identity::device_id;
use quorate_engine::crypto::sign::SigningKey;
use quorate_engine::types::{ChatId, CustodianId, GrantId, HomeId, PublicKey, Secret};
use quorate_node::config::Config;
use quorate_node::embedded::layout::lay_out;
use quorate_node::pki::tls::PEER_ALPN;
use quorate_tests::deployment::http_get;
use quorate_tests::source::{files, read, root};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::AsyncReadExt;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls;

const TABLE: &str = "tests/tests/deployment/planes.txt";
const PATIENCE: Duration = Duration::from_secs(20);
/// A connection that is still open and silent after so long was let in.
const SILENCE: Duration = Duration::from_millis(1_500);

/// Which file has which plane's routes.
const PLANES: [(&str, &str); 8] = [
    ("audit.rs", "audit"),
    ("client.rs", "client"),
    ("operator.rs", "operator"),
    ("keys.rs", "operator"),
    ("officers.rs", "operator"),
    ("services.rs", "operator"),
    ("registry.rs", "registry"),
    ("health.rs", "health"),
];

/// Method and path of every `.route(…)` in `source`.
fn routes(source: &str) -> Vec<(String, String)> {
    let mut out = Vec::new();
    let mut rest = source;
    while let Some(at) = rest.find(".route(") {
        rest = &rest[at + ".route(".len()..];
        let end = rest.find("\n        .").unwrap_or(rest.len());
        let call = &rest[..end];
        let Some((path, handlers)) = call
            .trim_start()
            .strip_prefix('"')
            .and_then(|c| c.split_once('"'))
        else {
            continue;
        };
        for method in ["get", "post", "put", "patch", "delete"] {
            let called = handlers
                .match_indices(&format!("{method}("))
                .any(|(i, _)| !handlers[..i].ends_with(|c: char| c.is_alphanumeric() || c == '_'));
            if called {
                out.push((method.to_uppercase(), path.to_owned()));
            }
        }
    }
    out
}

/// Every route, as plane, method and path.
fn all_routes() -> Vec<(String, String, String)> {
    let mut out = Vec::new();
    for file in files("node/src", &["rs"]) {
        let name = file.file_name().unwrap().to_string_lossy().into_owned();
        let found = routes(&read(&file));
        let in_http = file.parent().is_some_and(|p| p.ends_with("node/src/http"));
        let plane = PLANES.iter().find(|(f, _)| in_http && *f == name);
        let Some((_, plane)) = plane else {
            let test = file.components().any(|c| c.as_os_str() == "tests");
            assert!(
                found.is_empty() || test,
                "{} has routes of a plane that this test does not know",
                file.display()
            );
            continue;
        };
        let named = |(method, path)| ((*plane).to_owned(), method, path);
        out.extend(found.into_iter().map(named));
    }
    out.sort();
    out
}

/// A certificate with its key, or none.
pub(crate) struct Credential {
    pub(crate) name: &'static str,
    pub(crate) files: Option<(PathBuf, PathBuf)>,
    pub(crate) bearer: Option<String>,
    pub(crate) cookie: Option<String>,
}

pub(crate) fn connector(credential: &Credential, protocols: &[&[u8]]) -> TlsConnector {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    // Who serves is not the question here: any server's certificate does.
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyServer));
    let mut config = match &credential.files {
        None => config.with_no_client_auth(),
        Some((certificate, key)) => {
            let chain = CertificateDer::pem_file_iter(certificate).unwrap();
            let chain = chain.collect::<Result<Vec<_>, _>>().unwrap();
            let key = PrivateKeyDer::from_pem_file(key).unwrap();
            config.with_client_auth_cert(chain, key).unwrap()
        }
    };
    config.alpn_protocols = protocols.iter().map(|p| p.to_vec()).collect();
    TlsConnector::from(Arc::new(config))
}

#[derive(Debug)]
struct AnyServer;

impl rustls::client::danger::ServerCertVerifier for AnyServer {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: rustls_pki_types::UnixTime,
    ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
        Ok(rustls::client::danger::ServerCertVerified::assertion())
    }
    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }
    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }
    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        rustls::crypto::aws_lc_rs::default_provider()
            .signature_verification_algorithms
            .supported_schemes()
    }
}

/// What comes of one request: `tls` (no connection), `STATUS code` when the caller is not let in, else `in`.
async fn ask(at: SocketAddr, credential: &Credential, method: &str, path: &str) -> String {
    let asked = async {
        let tcp = tokio::net::TcpStream::connect(at).await.ok()?;
        let name = ServerName::try_from("127.0.0.1").unwrap();
        let tls = connector(credential, &[]).connect(name, tcp).await.ok()?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(tls)).await.ok()?;
        tokio::spawn(connection);
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", at.to_string())
            .header("content-type", "application/json")
            .header("if-match", "\"1\"");
        if let Some(bearer) = &credential.bearer {
            request = request.header("authorization", format!("Bearer {bearer}"));
        }
        if let Some(cookie) = &credential.cookie {
            request = request.header("cookie", cookie);
        }
        let body = if method == "GET" { "" } else { body(path) };
        let request = request.body(Full::new(bytes::Bytes::from(body))).unwrap();
        let reply = sender.send_request(request).await.ok()?;
        let status = reply.status().as_u16();
        let body = reply.into_body().collect().await.ok()?.to_bytes();
        Some((status, body))
    };
    let asked = tokio::time::timeout(PATIENCE, asked).await;
    match asked.unwrap_or_else(|_| panic!("no answer from {at} to {method} {path}")) {
        None => "tls".into(),
        Some((status @ (401 | 403), body)) => {
            let problem: serde_json::Value = serde_json::from_slice(&body).unwrap();
            format!("{status} {}", problem["code"].as_str().unwrap())
        }
        Some((404, body)) if String::from_utf8_lossy(&body).contains("route_unknown") => {
            panic!("{method} {path} is no route at {at}")
        }
        Some(_) => "in".into(),
    }
}

/// A body that can be read: who asks is looked at after its form.
fn body(path: &str) -> &'static str {
    const STATEMENT: &str = r#"{"statement":{"payload":"{}","signatures":[]}}"#;
    match path.rsplit('/').next() {
        Some("chats") => {
            r#"{"idempotency_key":"k","profile":{},"genesis":{"payload":"{}","signatures":[]}}"#
        }
        Some("messages") => r#"{"messages":[{"idempotency_key":"k","content":{}}]}"#,
        Some("1") => r#"{"idempotency_key":"k","content":{}}"#,
        Some("statements") => STATEMENT,
        Some("deletions") => r#"{"statement":{"payload":"{}","signatures":[]},"check":false}"#,
        _ => "{}",
    }
}

/// Whether the peer plane keeps a connection with this certificate open.
async fn knock(at: SocketAddr, credential: &Credential) -> String {
    let tcp = tokio::net::TcpStream::connect(at).await.unwrap();
    let name = ServerName::try_from("127.0.0.1").unwrap();
    let Ok(mut tls) = connector(credential, &[PEER_ALPN]).connect(name, tcp).await else {
        return "tls".into();
    };
    // TLS 1.3 tells the client of a refused certificate only when it reads.
    let mut byte = [0];
    match tokio::time::timeout(SILENCE, tls.read(&mut byte)).await {
        Err(_) | Ok(Ok(1)) => "in".into(),
        Ok(_) => "tls".into(),
    }
}

/// Claims of a grant that names no chat and began so many seconds ago.
fn claims(person: &Person, ago_s: u64) -> Claims {
    let not_before_s = now_ms() / 1000 - ago_s;
    Claims {
        account: person.account(),
        deployment: *person.deployment(),
        home: HomeId::new(HOME).unwrap(),
        actions: vec![Action::Write],
        chats: Vec::new(),
        ceiling: 1,
        not_before_s,
        expires_s: not_before_s + 900,
        id: GrantId(rand::random()),
    }
}

/// A token of a service that the home's operator enrolled for everybody; it names the chat that
/// paths here name.
fn service_token(world: &World, person: &Person) -> String {
    let out = world.scratch().join("service.json");
    let args = [
        "home",
        "service-credential",
        "issue",
        "--name",
        "planes",
        "--everybody",
    ];
    let issued = [&args[..], &["--out", out.to_str().unwrap()]].concat();
    world.quorate_ok(&issued);
    let service = ServiceFile::load(&out).unwrap().at_work(person.account());
    service.token(&[ChatId([0; 32])]).unwrap()
}

/// The cookie that a grant is traded for, as it goes back.
fn session(world: &World, grant: String) -> String {
    let at = world.d.node(&node(HOME, 1)).client.unwrap();
    let by = Credential {
        name: "person",
        files: None,
        bearer: Some(grant),
        cookie: None,
    };
    world.wait(async {
        let tcp = tokio::net::TcpStream::connect(at).await.unwrap();
        let name = ServerName::try_from("127.0.0.1").unwrap();
        let tls = connector(&by, &[]).connect(name, tcp).await.unwrap();
        let (mut sender, connection) = http1::handshake(TokioIo::new(tls)).await.unwrap();
        tokio::spawn(connection);
        let request = Request::builder()
            .method("POST")
            .uri("/v1/session")
            .header("host", at.to_string())
            .header("authorization", format!("Bearer {}", by.bearer.unwrap()))
            .body(Full::new(bytes::Bytes::new()))
            .unwrap();
        let reply = sender.send_request(request).await.unwrap();
        let set = reply.headers()["set-cookie"].to_str().unwrap();
        set.split(';').next().unwrap().to_owned()
    })
}

/// A grant in somebody's name by a device that nobody enrolled.
fn grant_of_a_stranger(person: &Person) -> String {
    let key = SigningKey::from_seed(&Secret::take(&mut rand::random::<[u8; 32]>()));
    let device = device_id(&PublicKey(key.public()));
    let grant = Grant::sign(device, &key, claims(person, 60)).unwrap();
    grant.compact().to_owned()
}

/// Tokens of auditors: of one whom ch's officers admitted, for ch and for another custodian, and of
/// one whom nobody admitted.
fn auditors(world: &World) -> [(&'static str, String); 4] {
    let officers = Officers::installed(world, "ch");
    let [admitted, stranger] = ["admitted", "stranger"].map(|name| {
        let path = world.scratch().join(format!("auditor-{name}.key"));
        world.quorate_ok(&["audit", "init-key", "--out", path.to_str().unwrap()]);
        AuditorKey::load(&path).unwrap()
    });
    let named = format!("auditor={}", admitted.public());
    world.quorate_ok(&[
        "officer",
        "propose",
        "ch",
        "--key",
        officers.file("anna"),
        "--also",
        officers.file("bo"),
        "--reason",
        "planes",
        "admit-auditor",
        &named,
    ]);
    let deployment = world.d.layout.deployment;
    let token = |key: &AuditorKey, custodian: &str| {
        let custodian = CustodianId::new(custodian).unwrap();
        key.token(deployment, &custodian).unwrap()
    };
    [
        ("garbage-token", "none".to_owned()),
        ("unknown-auditor", token(&stranger, "ch")),
        ("auditor-for-is", token(&admitted, "is")),
        ("auditor", token(&admitted, "ch")),
    ]
}

fn filled(path: &str) -> String {
    path.replace("{chat}", &"0".repeat(64))
        .replace("{account}", &"0".repeat(64))
        .replace("{proposal}", &"0".repeat(64))
        .replace("{order}", &"0".repeat(64))
        .replace("{service}", &"0".repeat(64))
        .replace("{id}", "1")
        .replace("{level}", "0")
        .replace("{bundle}", "0")
        .replace("{*path}", "000.p/1")
}

#[test]
fn every_route_answers_each_credential_as_the_table_says() {
    let world = World::start(&topology(1, [1, 1, 1], ""));
    let other = lay_out(&topology(1, [1, 1, 1], ""), &world.scratch().join("other")).unwrap();
    let layout = &world.d.layout;
    let operator = |layout: &quorate_node::embedded::layout::Layout, name: &str| {
        let cluster = layout.cluster(name).unwrap();
        (cluster.operator_cert.clone(), cluster.operator_key.clone())
    };
    let own = |name: &str| {
        let config = Config::load(&world.d.node(&node(name, 1)).config).unwrap();
        (config.tls.cert, config.tls.key)
    };
    let authority = |dir: &Path| (dir.join("authority.crt"), dir.join("authority.key"));
    let credential = |name, files| Credential {
        name,
        files,
        bearer: None,
        cookie: None,
    };
    let certificates = [
        credential("nobody", None),
        credential("home-operator", Some(operator(layout, HOME))),
        credential("ch-operator", Some(operator(layout, "ch"))),
        credential("is-operator", Some(operator(layout, "is"))),
        credential("home-node", Some(own(HOME))),
        credential("ch-node", Some(own("ch"))),
        credential("is-node", Some(own("is"))),
        credential("authority", Some(authority(&layout.authorities[0].dir))),
        credential("other-operator", Some(operator(&other, "ch"))),
        credential(
            "other-authority",
            Some(authority(&other.authorities[0].dir)),
        ),
    ];

    let person = world.person();
    let bearers = [
        ("no-grant", None),
        ("garbage", Some("none".to_owned())),
        ("stranger", Some(grant_of_a_stranger(&person))),
        (
            "stale",
            Some(person.sign_grant(claims(&person, 3_600)).unwrap()),
        ),
        (
            "person",
            Some(person.sign_grant(claims(&person, 60)).unwrap()),
        ),
        ("service", Some(service_token(&world, &person))),
    ];
    let bearers = bearers.map(|(name, bearer)| Credential {
        name,
        files: None,
        bearer,
        cookie: None,
    });
    let session = session(&world, bearers[4].bearer.clone().unwrap());
    let cookie = Credential {
        name: "cookie",
        files: None,
        bearer: None,
        cookie: Some(session),
    };
    let bearers: Vec<Credential> = bearers.into_iter().chain([cookie]).collect();
    let auditors = auditors(&world).map(|(name, bearer)| Credential {
        name,
        files: None,
        bearer: Some(bearer),
        cookie: None,
    });

    let mut lines: BTreeMap<String, String> = BTreeMap::new();
    let mut row = |key: String, found: Vec<(&str, String)>| {
        let cells: Vec<_> = found
            .iter()
            .map(|(who, what)| format!("{who}: {what}"))
            .collect();
        assert!(
            lines.insert(key.clone(), cells.join(", ")).is_none(),
            "{key} twice"
        );
    };
    for cluster in [HOME, "ch"] {
        let at = world.d.node(&node(cluster, 1)).peer;
        let found = certificates
            .iter()
            .map(|c| (c.name, world.wait(knock(at, c))))
            .collect();
        row(format!("peer of {cluster}"), found);
    }
    for (plane, method, path) in all_routes() {
        for cluster in [HOME, "ch"] {
            let place = world.d.node(&node(cluster, 1));
            let at = match plane.as_str() {
                "client" => place.client,
                "operator" => Some(place.operator),
                "registry" => place.registry,
                "audit" => place.audit,
                _ => None,
            };
            if plane == "health" {
                // Plain, for the machine itself: nobody is asked for anything.
                let (status, _) = http_get(&place.health.to_string(), &path).unwrap();
                let found = if status == 200 { "in" } else { "refused" };
                row(
                    format!("{plane} of {cluster} {method} {path}"),
                    vec![("anyone", found.into())],
                );
            }
            let Some(at) = at else { continue };
            let path_asked = filled(&path);
            let with_bearers = match plane.as_str() {
                "client" => &bearers[..],
                "audit" => &auditors[..],
                _ => &[],
            };
            let found = certificates
                .iter()
                .chain(with_bearers)
                .map(|c| (c.name, world.wait(ask(at, c, &method, &path_asked))))
                .collect();
            row(format!("{plane} of {cluster} {method} {path}"), found);
        }
    }

    let mut text = String::new();
    for (key, cells) in &lines {
        writeln!(text, "{key} | {cells}").unwrap();
    }
    let table = root().join(TABLE);
    if std::env::var_os("QUORATE_WRITE_TABLE").is_some() {
        std::fs::write(&table, &text).unwrap();
    }
    let expected = read(&table);
    let differing: Vec<_> = text
        .lines()
        .filter(|l| !expected.lines().any(|e| e == *l))
        .map(|l| format!("found:    {l}"))
        .chain(
            expected
                .lines()
                .filter(|e| !text.lines().any(|l| l == *e))
                .map(|e| format!("expected: {e}")),
        )
        .collect();
    assert!(
        differing.is_empty(),
        "{TABLE} says otherwise (QUORATE_WRITE_TABLE=1 writes what was found; read it before you commit it):\n{}",
        differing.join("\n")
    );
}

#[test]
fn routes_are_found_in_source() {
    let source = "Router::new()\n        .route(\"/a\", get(x).post(y))\n        .route(\n            \"/b\",\n            put(|a| target(a)),\n        )\n        .route(from, request)\n        .with_state(s)";
    let found = routes(source);
    let expected = [("GET", "/a"), ("POST", "/a"), ("PUT", "/b")];
    let expected: Vec<_> = expected.map(|(m, p)| (m.to_owned(), p.to_owned())).into();
    assert_eq!(found, expected);
    let routes = all_routes();
    assert!(routes.len() > 25, "{routes:?}");
    for plane in ["client", "operator", "registry", "audit", "health"] {
        assert!(routes.iter().any(|r| r.0 == plane), "{plane}");
    }
}
