//! A home in memory: the client plane over real TLS, nothing behind it.
//!
//! It keeps what it is given and answers as `engine::api` says: grants that name
//! the chat and the action, write-once idempotency keys per device and chat,
//! dense message ids, `If-Match`. Faults can be ordered: answers that never come,
//! writes that are lost, refusals.

#![allow(dead_code, reason = "each test binary uses a part of it")]
#![allow(missing_docs, reason = "test support")]

pub mod data;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use quorate_cli::deployment::ClientFile;
use quorate_cli::people::wallet::Wallet;
use quorate_cli::people::{account, now_ms};
use quorate_engine::api::*;
use quorate_engine::authz::grant::{Action, Grant};
use quorate_engine::authz::membership::chat_id;
use quorate_engine::crypto::labels::SIGN_MEMBERSHIP;
use quorate_engine::crypto::sign::SigningKey;
use quorate_engine::types::{AuthorityId, DeploymentId, Outcome, Secret};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use tokio_rustls::TlsAcceptor;

#[derive(Default)]
pub struct Room {
    pub messages: Vec<Message>,
    pub keys: BTreeMap<(String, String), Written>,
}

/// What to do wrong.
#[derive(Default)]
pub struct Faults {
    /// Every n-th append is applied, and its connection closed without an answer.
    pub lose_answer_every: AtomicU64,
    /// After this many appends, every one is refused with 503 and applied not. 0: never.
    pub refuse_after: AtomicU64,
    /// Every n-th request is refused because its grant is over. 0: none.
    pub expire_every: AtomicU64,
    /// Everything is answered with a missing quorum.
    pub no_quorum: AtomicBool,
    /// At most so many messages in a page. 0: as asked.
    pub page_max: AtomicU64,
}

#[derive(Default)]
pub struct Store {
    pub rooms: BTreeMap<String, Room>,
}

#[derive(Default)]
pub struct Shared {
    pub store: Mutex<Store>,
    pub faults: Faults,
    pub appends: AtomicU64,
    /// Different grants that were shown.
    pub grants: Mutex<BTreeSet<String>>,
    pub requests: AtomicU64,
    pub in_flight_max: AtomicU64,
    in_flight: AtomicU64,
}

pub struct FakeHome {
    pub shared: Arc<Shared>,
    pub address: SocketAddr,
    ca_pem: String,
    runtime: Option<tokio::runtime::Runtime>,
}

impl Drop for FakeHome {
    fn drop(&mut self) {
        if let Some(r) = self.runtime.take() {
            r.shutdown_background();
        }
    }
}

impl FakeHome {
    pub fn start() -> Self {
        let shared = Arc::new(Shared::default());
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        let (acceptor, ca_pem) = tls();
        let listener = runtime
            .block_on(tokio::net::TcpListener::bind("127.0.0.1:0"))
            .unwrap();
        let address = listener.local_addr().unwrap();
        let state = shared.clone();
        runtime.spawn(async move {
            loop {
                let Ok((tcp, _)) = listener.accept().await else {
                    continue;
                };
                let (acceptor, state) = (acceptor.clone(), state.clone());
                tokio::spawn(async move {
                    let _ = tcp.set_nodelay(true);
                    let Ok(tls) = acceptor.accept(tcp).await else {
                        return;
                    };
                    let service = service_fn(move |r| handle(state.clone(), r));
                    let _ = hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(tls), service)
                        .await;
                });
            }
        });
        Self {
            shared,
            address,
            ca_pem,
            runtime: Some(runtime),
        }
    }

    /// Writes a deployment directory that points here. `first` endpoints are put before this one.
    pub fn deployment(&self, dir: &Path, first: &[String]) {
        std::fs::write(dir.join("ca.pem"), &self.ca_pem).unwrap();
        let mut endpoints = first.to_vec();
        endpoints.push(format!("https://{}", self.address));
        let file = ClientFile {
            deployment: "00".repeat(16),
            endpoints,
            ca: "ca.pem".into(),
            home: "ae".into(),
            trust: None,
            audit: BTreeMap::new(),
            operator: BTreeMap::new(),
        };
        file.write(dir).unwrap();
        if !Wallet::exists(&wallet_in(dir)) {
            wallet(&wallet_in(dir));
        }
    }

    pub fn rooms(&self) -> usize {
        self.shared.store.lock().unwrap().rooms.len()
    }
    pub fn stored(&self) -> usize {
        self.shared
            .store
            .lock()
            .unwrap()
            .rooms
            .values()
            .map(|r| r.messages.len())
            .sum()
    }
}

/// The wallet beside a deployment that points to a home in memory.
pub fn wallet_in(deployment: &Path) -> std::path::PathBuf {
    deployment.join("wallet")
}

fn key() -> SigningKey {
    SigningKey::from_seed(&Secret::take(&mut [7; 32]))
}

/// Makes a wallet whose device every home in memory knows.
pub fn wallet(dir: &Path) -> Wallet {
    let authorities = [AuthorityId::new("id-ee").unwrap()].into();
    let genesis = account::found(&DeploymentId([0; 16]), authorities, &key()).unwrap();
    let mut wallet = Wallet::new(dir, "anna", genesis, key()).unwrap();
    wallet.enrolled = true;
    wallet.save().unwrap();
    wallet
}

/// The device that a request's grant is signed by; the grant must hold and cover the request.
fn device(shared: &Shared, parts: &hyper::http::request::Parts, chat: Option<&str>) -> String {
    let bearer = parts.headers.get("authorization").expect("a grant");
    let compact = bearer.to_str().unwrap().strip_prefix("Bearer ").unwrap();
    shared.grants.lock().unwrap().insert(compact.to_owned());
    let grant = Grant::parse(compact).unwrap();
    grant.verify(&key().public()).unwrap();
    let claims = grant.claims();
    assert_eq!(
        (claims.deployment, claims.home.as_str()),
        (DeploymentId([0; 16]), "ae")
    );
    let now_s = now_ms() / 1000;
    assert!((claims.not_before_s..claims.expires_s).contains(&now_s));
    let action = match parts.method {
        Method::GET => Action::Read,
        _ => Action::Write,
    };
    assert!(grant.allows(action), "{} needs more", parts.method);
    // It names what it is for and nothing else.
    assert_eq!(grant.allows(Action::Write), action == Action::Write);
    if let Some(chat) = chat {
        let named: Vec<_> = claims.chats.iter().map(|c| c.chat.to_string()).collect();
        assert_eq!(named, [chat], "a grant for the chat of the request alone");
    }
    grant.device().to_string()
}

fn tls() -> (TlsAcceptor, String) {
    use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
    let ca_key = KeyPair::generate().unwrap();
    let mut ca = CertificateParams::new(Vec::new()).unwrap();
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca_cert = ca.self_signed(&ca_key).unwrap();
    let key = KeyPair::generate().unwrap();
    let leaf =
        CertificateParams::new(vec!["127.0.0.1".to_owned(), "localhost".to_owned()]).unwrap();
    let leaf = leaf.signed_by(&key, &Issuer::new(ca, ca_key)).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(
            vec![leaf.der().clone()],
            rustls_pki_types::PrivateKeyDer::try_from(key.serialize_der()).unwrap(),
        )
        .unwrap();
    (TlsAcceptor::from(Arc::new(config)), ca_cert.pem())
}

type Answer = Result<Value, Box<Problem>>;

fn problem(
    status: u16,
    code: &str,
    detail: impl Into<String>,
    retry_ms: Option<u64>,
) -> Box<Problem> {
    Box::new(Problem {
        kind: format!("urn:quorate:problem:{code}"),
        title: code.replace('_', " "),
        status,
        code: code.to_owned(),
        detail: detail.into(),
        next_step: "do as the test says".into(),
        retry_ms,
        outcome: Outcome::NotDone,
        request: String::new(),
        quorum: None,
    })
}

fn no_quorum() -> Box<Problem> {
    let mut p = problem(
        503,
        "quorum_unreachable",
        "2 of 3 shares are missing",
        Some(1000),
    );
    p.quorum = Some(QuorumProblem {
        answered: vec!["ch".into()],
        refused: vec![("is".into(), "frozen".into())],
        lied: vec!["br".into()],
        unreachable: vec!["sg".into()],
        would_suffice: vec![vec!["is".into(), "sg".into()]],
    });
    p
}

async fn handle(
    shared: Arc<Shared>,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, std::io::Error> {
    let now = shared.in_flight.fetch_add(1, Ordering::SeqCst) + 1;
    shared.in_flight_max.fetch_max(now, Ordering::SeqCst);
    let answer = route(&shared, request).await;
    shared.in_flight.fetch_sub(1, Ordering::SeqCst);
    let (status, body) = match answer? {
        Ok(value) => (200, value.to_string()),
        Err(p) => (p.status, serde_json::to_string(&p).unwrap()),
    };
    Ok(Response::builder()
        .status(StatusCode::from_u16(status).unwrap())
        .body(Full::new(Bytes::from(body)))
        .unwrap())
}

async fn route(shared: &Shared, request: Request<Incoming>) -> Result<Answer, std::io::Error> {
    shared.requests.fetch_add(1, Ordering::SeqCst);
    let (parts, body) = request.into_parts();
    let body = body
        .collect()
        .await
        .map_err(std::io::Error::other)?
        .to_bytes();
    assert!(
        body.len() <= APPEND_BODY_BYTES_MAX,
        "a body of {} bytes",
        body.len()
    );
    assert!(parts.headers.contains_key(REQUEST_HEADER));
    let path: Vec<&str> = parts
        .uri
        .path()
        .trim_start_matches("/v1/")
        .split('/')
        .collect();
    let query = |key: &str| {
        let all = parts.uri.query().unwrap_or("").split('&');
        all.filter_map(|p| p.split_once('='))
            .find(|(k, _)| *k == key)
            .map(|(_, v)| v.to_owned())
    };
    if let ["status"] = path.as_slice() {
        assert!(!parts.headers.contains_key("authorization"));
        return Ok(Ok(json!(status())));
    }
    let device = device(shared, &parts, path.get(1).copied());
    if shared.faults.no_quorum.load(Ordering::SeqCst) {
        return Ok(Err(no_quorum()));
    }
    let expire = shared.faults.expire_every.load(Ordering::SeqCst);
    if expire > 0
        && shared
            .requests
            .load(Ordering::SeqCst)
            .is_multiple_of(expire)
    {
        let over = problem(401, "grant_expired", "the grant's time is over", None);
        return Ok(Err(over));
    }
    Ok(match (&parts.method, path.as_slice()) {
        (&Method::POST, ["chats"]) => {
            create(shared, &device, serde_json::from_slice(&body).unwrap())
        }
        (&Method::GET, ["chats"]) => list(shared, query("after"), query("limit"), query("profile")),
        (&Method::GET, ["chats", chat]) => with_room(shared, chat, |id, room| {
            Ok(json!(chat_of(
                id,
                room,
                query("profile").as_deref() == Some("true")
            )))
        }),
        (&Method::POST, ["chats", chat, "messages"]) => {
            return append(
                shared,
                &device,
                chat,
                serde_json::from_slice(&body).unwrap(),
            );
        }
        (&Method::GET, ["chats", chat, "messages"]) => {
            let number = |key: &str, or: u64| query(key).map_or(or, |v| v.parse().unwrap());
            let (from, mut limit) = (number("from", 1), number("limit", 256));
            let most = shared.faults.page_max.load(Ordering::SeqCst);
            if most > 0 {
                limit = limit.min(most);
            }
            with_room(shared, chat, |_, room| Ok(json!(page(room, from, limit))))
        }
        (&Method::GET, ["chats", chat, "messages", id]) => with_room(shared, chat, |_, room| {
            room.messages
                .get(id.parse::<usize>().unwrap())
                .map(|m| json!(m))
                .ok_or_else(|| problem(404, "not_found", format!("message {id} not found"), None))
        }),
        (&Method::PUT, ["chats", chat, "messages", id]) => {
            let at = parts
                .headers
                .get("if-match")
                .unwrap()
                .to_str()
                .unwrap()
                .trim_matches('"')
                .parse()
                .unwrap();
            with_room(shared, chat, |_, room| {
                edit(
                    room,
                    &device,
                    id.parse().unwrap(),
                    at,
                    serde_json::from_slice(&body).unwrap(),
                )
            })
        }
        _ => Err(problem(
            404,
            "not_found",
            format!("no route {}", parts.uri.path()),
            None,
        )),
    })
}

fn with_room(shared: &Shared, chat: &str, f: impl FnOnce(&str, &mut Room) -> Answer) -> Answer {
    let mut store = shared.store.lock().unwrap();
    match store.rooms.get_mut(chat) {
        Some(room) => f(chat, room),
        None => Err(problem(
            404,
            "not_found",
            format!("chat {chat} not found"),
            None,
        )),
    }
}

fn chat_of(id: &str, room: &Room, profile: bool) -> Chat {
    Chat {
        id: id.to_owned(),
        created_ms: 1_700_000_000_000,
        messages: room.messages.len() as u64 - 1,
        epochs: 1,
        thin: false,
        profile: profile.then(|| room.messages[0].content.clone()),
    }
}

fn message(id: u64, device: &str, content: Content) -> Message {
    let size = serde_json::to_vec(&content).unwrap().len();
    assert!(size <= CONTENT_BYTES_MAX, "a content of {size} bytes");
    Message {
        id,
        revision: 0,
        sent_ms: 1_700_000_000_000,
        edited_ms: None,
        device: device.to_owned(),
        epoch: 0,
        content,
    }
}

fn check_key(key: &str) {
    assert!(
        (1..=64).contains(&key.len()) && key.chars().all(|c| c.is_ascii_graphic()),
        "key {key:?}"
    );
}

fn create(shared: &Shared, device: &str, request: CreateChat) -> Answer {
    check_key(&request.idempotency_key);
    let mut store = shared.store.lock().unwrap();
    let genesis = quorate_engine::authz::envelope::Envelope::from(&request.genesis);
    let signers = genesis.signers(SIGN_MEMBERSHIP, &DeploymentId([0; 16]));
    assert_eq!(signers.unwrap(), [key().public()].into());
    // As a home does: the genesis makes the chat, whatever the key.
    let id = chat_id(&genesis).to_string();
    let room = store.rooms.entry(id.clone()).or_insert_with(|| Room {
        messages: vec![message(0, device, request.profile)],
        keys: BTreeMap::new(),
    });
    Ok(json!(chat_of(&id, room, false)))
}

fn list(
    shared: &Shared,
    after: Option<String>,
    limit: Option<String>,
    profile: Option<String>,
) -> Answer {
    let store = shared.store.lock().unwrap();
    let limit: usize = limit.map_or(100, |l| l.parse().unwrap());
    let rest = store
        .rooms
        .iter()
        .filter(|(id, _)| after.as_ref().is_none_or(|a| *id > a));
    let chats: Vec<_> = rest
        .take(limit + 1)
        .map(|(id, r)| chat_of(id, r, profile.as_deref() == Some("true")))
        .collect();
    let more = chats.len() > limit;
    let chats: Vec<_> = chats.into_iter().take(limit).collect();
    let next = chats.last().filter(|_| more).map(|c| c.id.clone());
    Ok(json!(ChatList { chats, next }))
}

fn append(
    shared: &Shared,
    device: &str,
    chat: &str,
    request: Append,
) -> Result<Answer, std::io::Error> {
    let n = shared.appends.fetch_add(1, Ordering::SeqCst) + 1;
    let refuse = shared.faults.refuse_after.load(Ordering::SeqCst);
    if refuse > 0 && n > refuse {
        return Ok(Err(problem(
            503,
            "unavailable",
            "the shard has no leader",
            None,
        )));
    }
    assert!((1..=MESSAGES_PER_CALL_MAX).contains(&request.messages.len()));
    let answer = with_room(shared, chat, |_, room| {
        let mut messages = Vec::new();
        for new in request.messages {
            check_key(&new.idempotency_key);
            let key = (device.to_owned(), new.idempotency_key);
            if let Some(written) = room.keys.get(&key) {
                messages.push(Written {
                    repeated: true,
                    ..written.clone()
                });
                continue;
            }
            let id = room.messages.len() as u64;
            room.messages.push(message(id, device, new.content));
            let written = Written {
                id,
                revision: 0,
                at_ms: 1_700_000_000_000,
                repeated: false,
            };
            room.keys.insert(key, written.clone());
            messages.push(written);
        }
        Ok(json!(Appended { messages }))
    });
    let lose = shared.faults.lose_answer_every.load(Ordering::SeqCst);
    if lose > 0 && n.is_multiple_of(lose) {
        return Err(std::io::Error::other("the answer is lost"));
    }
    Ok(answer)
}

fn edit(room: &mut Room, device: &str, id: usize, at: u32, request: Edit) -> Answer {
    check_key(&request.idempotency_key);
    let key = (device.to_owned(), request.idempotency_key);
    if let Some(written) = room.keys.get(&key) {
        return Ok(json!(Written {
            repeated: true,
            ..written.clone()
        }));
    }
    let Some(m) = room.messages.get_mut(id) else {
        return Err(problem(
            404,
            "not_found",
            format!("message {id} not found"),
            None,
        ));
    };
    if m.revision != at {
        return Err(problem(
            412,
            "revision_mismatch",
            format!("the message is at revision {}", m.revision),
            None,
        ));
    }
    m.revision += 1;
    m.edited_ms = Some(1_700_000_001_000);
    m.content = request.content;
    let written = Written {
        id: id as u64,
        revision: m.revision,
        at_ms: 1_700_000_001_000,
        repeated: false,
    };
    room.keys.insert(key, written.clone());
    Ok(json!(written))
}

fn page(room: &Room, from: u64, limit: u64) -> Page {
    let messages: Vec<_> = room
        .messages
        .iter()
        .skip(from.max(1) as usize)
        .take(limit as usize)
        .cloned()
        .collect();
    let next = messages
        .last()
        .map(|m| m.id + 1)
        .filter(|n| *n < room.messages.len() as u64);
    Page { messages, next }
}

fn status() -> Status {
    let node = |id, leads: &[u32]| NodeStatus {
        id,
        up: id != 3,
        leads: leads.to_vec(),
        lag: Some(id * 2),
        certificate_expires_ms: Some(4_000_000_000_000),
    };
    let cluster = |role: &str, name: &str, available| ClusterStatus {
        role: role.into(),
        name: name.into(),
        jurisdiction: name.to_uppercase(),
        entity: format!("{name} entity"),
        available,
        freezes: Vec::new(),
        nodes: vec![node(1, &[0, 1]), node(2, &[2]), node(3, &[])],
        latency_ms: Some(1.25),
    };
    Status {
        deployment: "00".repeat(16),
        node: "ae/1".into(),
        release_authority: "the home's certificate alone".into(),
        clusters: vec![
            cluster("home", "ae", true),
            cluster("custodian", "ch", true),
            cluster("custodian", "is", false),
        ],
        policy: PolicyStatus {
            id: "ab".repeat(32),
            text: "any 1 of ch, is".into(),
            available: vec!["ch".into()],
            margin: Some(0),
            thin: true,
            would_suffice: Vec::new(),
        },
        leases: LeaseStatus {
            live: 3,
            oldest_ms: 61_000,
            max: 100,
            age_ms_max: 600_000,
            memory_locked: false,
        },
        thin_epochs: 2,
        outbox: 5,
        warnings: vec!["custodian is does not answer".into()],
    }
}
