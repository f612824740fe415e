//! A home in a `Mutex`, certificates, and a client that shows everything.

use crate::home::api::{At, Caller, HomeApi, HomeError, HomeResult, Session};
use crate::http::envelope::Limits;
use crate::http::serve::{Running, ServeLimits, spawn};
use crate::http::{client, tls};
use axum::Router;
use axum::body::Body;
use axum::http::{HeaderMap, Request, StatusCode};
use futures::FutureExt;
use futures::future::BoxFuture;
use hyper_util::rt::{TokioExecutor, TokioIo};
use quorate_engine::api::{
    AccountChain, Append, Appended, Chat, ChatHead, ChatList, CreateChat, Deletion, Edit,
    LeaseStatus, Member, Members, Message, Page, PolicyStatus, PostDeletion, StatementAcks, Status,
    Written, registry::Statement,
};
use quorate_engine::types::{AccountId, ChatId, MessageId, PublicKey, Revision};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, SanType};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use serde_json::Value;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

/// What callers show here; nothing reads it.
pub(super) const GRANT: (&str, &str) = ("authorization", "Bearer phone");
/// The start of a body that creates a chat; the idempotency key and `}` follow.
pub(super) const CREATE: &str =
    r#"{"genesis":{"payload":"{}","signatures":[]},"profile":{"title":"t"},"idempotency_key":"#;

/// A home without shards, custodians or sealing: enough to be asked things.
#[derive(Default)]
pub(super) struct FakeHome {
    chats: Mutex<BTreeMap<ChatId, Vec<Message>>>,
    /// When set, every operation answers this.
    pub(super) fails: Mutex<Option<HomeError>>,
    /// How long every operation takes first, in milliseconds.
    pub(super) delay_ms: Mutex<u64>,
    /// When set, every operation panics.
    pub(super) panics: Mutex<bool>,
    /// Callers seen.
    pub(super) callers: Mutex<Vec<Caller>>,
}

impl FakeHome {
    fn run<T: Send + 'static>(
        &self,
        caller: Caller,
        work: impl FnOnce(&mut BTreeMap<ChatId, Vec<Message>>, &str) -> Result<T, HomeError>
        + Send
        + 'static,
    ) -> BoxFuture<'_, HomeResult<T>> {
        async move {
            let device = caller.grant.clone();
            self.callers.lock().unwrap().push(caller);
            let delay = *self.delay_ms.lock().unwrap();
            tokio::time::sleep(Duration::from_millis(delay)).await;
            assert!(!*self.panics.lock().unwrap(), "planted panic");
            if let Some(error) = self.fails.lock().unwrap().clone() {
                return Err(error);
            }
            let value = work(&mut self.chats.lock().unwrap(), &device)?;
            Ok(At {
                shard: 3,
                index: 42,
                value,
            })
        }
        .boxed()
    }
}

fn missing(what: impl std::fmt::Display) -> HomeError {
    HomeError::NotFound {
        what: what.to_string(),
    }
}

fn show(id: ChatId, messages: &[Message], profile: bool) -> Chat {
    Chat {
        id: id.to_string(),
        created_ms: 1,
        messages: messages.len() as u64 - 1,
        epochs: 1,
        thin: false,
        profile: profile.then(|| messages[0].content.clone()),
    }
}

fn record(id: MessageId, device: &str, content: serde_json::Map<String, Value>) -> Message {
    Message {
        id,
        revision: 0,
        sent_ms: 5,
        edited_ms: None,
        device: device.into(),
        epoch: 0,
        content,
    }
}

impl HomeApi for FakeHome {
    fn create_chat(&self, caller: Caller, request: CreateChat) -> BoxFuture<'_, HomeResult<Chat>> {
        self.run(caller, move |chats, device| {
            let id = ChatId(blake3::hash(request.idempotency_key.as_bytes()).into());
            let messages = chats
                .entry(id)
                .or_insert_with(|| vec![record(0, device, request.profile)]);
            Ok(show(id, messages, true))
        })
    }
    fn list_chats(
        &self,
        caller: Caller,
        after: Option<ChatId>,
        limit: usize,
        profile: bool,
    ) -> BoxFuture<'_, HomeResult<ChatList>> {
        self.run(caller, move |chats, _| {
            let all: Vec<Chat> = chats
                .iter()
                .filter(|(id, _)| after.is_none_or(|a| **id > a))
                .map(|(id, m)| show(*id, m, profile))
                .collect();
            let next = (all.len() > limit).then(|| all[limit - 1].id.clone());
            Ok(ChatList {
                chats: all.into_iter().take(limit).collect(),
                next,
            })
        })
    }
    fn chat(&self, caller: Caller, chat: ChatId, profile: bool) -> BoxFuture<'_, HomeResult<Chat>> {
        self.run(caller, move |chats, _| {
            let messages = chats
                .get(&chat)
                .ok_or_else(|| missing(format!("chat {chat}")))?;
            Ok(show(chat, messages, profile))
        })
    }
    fn append(
        &self,
        caller: Caller,
        chat: ChatId,
        request: Append,
    ) -> BoxFuture<'_, HomeResult<Appended>> {
        self.run(caller, move |chats, device| {
            let messages = chats
                .get_mut(&chat)
                .ok_or_else(|| missing(format!("chat {chat}")))?;
            let mut written = Vec::new();
            for new in request.messages {
                let id = messages.len() as u64;
                messages.push(record(id, device, new.content));
                written.push(Written {
                    id,
                    revision: 0,
                    at_ms: 5,
                    repeated: false,
                });
            }
            Ok(Appended { messages: written })
        })
    }
    fn edit(
        &self,
        caller: Caller,
        chat: ChatId,
        message: MessageId,
        revision: Revision,
        request: Edit,
    ) -> BoxFuture<'_, HomeResult<Written>> {
        self.run(caller, move |chats, _| {
            let messages = chats
                .get_mut(&chat)
                .ok_or_else(|| missing(format!("chat {chat}")))?;
            let found = messages
                .get_mut(message as usize)
                .ok_or_else(|| missing(format!("message {message}")))?;
            if found.revision != revision {
                return Err(HomeError::RevisionMismatch {
                    current: found.revision,
                });
            }
            found.revision += 1;
            found.content = request.content;
            Ok(Written {
                id: message,
                revision: found.revision,
                at_ms: 6,
                repeated: false,
            })
        })
    }
    fn message(
        &self,
        caller: Caller,
        chat: ChatId,
        message: MessageId,
    ) -> BoxFuture<'_, HomeResult<Message>> {
        self.run(caller, move |chats, _| {
            let messages = chats
                .get(&chat)
                .ok_or_else(|| missing(format!("chat {chat}")))?;
            let found = messages.get(message as usize);
            found
                .cloned()
                .ok_or_else(|| missing(format!("message {message}")))
        })
    }
    fn page(
        &self,
        caller: Caller,
        chat: ChatId,
        from: MessageId,
        limit: usize,
    ) -> BoxFuture<'_, HomeResult<Page>> {
        self.run(caller, move |chats, _| {
            let messages = chats
                .get(&chat)
                .ok_or_else(|| missing(format!("chat {chat}")))?;
            let rest = messages.get(from as usize..).unwrap_or_default();
            let next = (rest.len() > limit).then(|| from + limit as u64);
            Ok(Page {
                messages: rest.iter().take(limit).cloned().collect(),
                next,
            })
        })
    }
    fn chat_statement(
        &self,
        caller: Caller,
        chat: ChatId,
        statement: Statement,
    ) -> BoxFuture<'_, HomeResult<StatementAcks>> {
        self.run(caller, move |chats, _| {
            let known = chats.get(&chat);
            known.ok_or_else(|| missing(format!("chat {chat}")))?;
            Ok(StatementAcks {
                acks: Vec::new(),
                refused: vec![("ch".into(), "role".into(), statement.payload)],
                unreachable: vec!["is".into()],
            })
        })
    }
    fn delete(
        &self,
        caller: Caller,
        chat: ChatId,
        request: PostDeletion,
    ) -> BoxFuture<'_, HomeResult<Deletion>> {
        self.run(caller, move |chats, _| {
            let known = chats.get(&chat);
            known.ok_or_else(|| missing(format!("chat {chat}")))?;
            Ok(Deletion {
                id: request.statement.payload,
                messages: 1,
                epochs: vec![0],
                recorded_ms: 1,
                mandate_ends_ms: 2,
                repeated: false,
                checked: request.check.then(Vec::new),
            })
        })
    }
    fn account_statement(
        &self,
        caller: Caller,
        account: AccountId,
        _statement: Statement,
    ) -> BoxFuture<'_, Result<StatementAcks, HomeError>> {
        let done = self.run(caller, move |_, _| {
            Ok(StatementAcks {
                acks: Vec::new(),
                refused: Vec::new(),
                unreachable: vec![account.to_string()],
            })
        });
        async move { done.await.map(|at| at.value) }.boxed()
    }
    fn account_chain(
        &self,
        caller: Caller,
        account: AccountId,
        from: u64,
    ) -> BoxFuture<'_, Result<AccountChain, HomeError>> {
        let done = self.run(caller, move |_, _| {
            Ok(AccountChain {
                number: from,
                hash: account.to_string(),
                statements: Vec::new(),
                acks: Vec::new(),
                unreachable: Vec::new(),
            })
        });
        async move { done.await.map(|at| at.value) }.boxed()
    }
    fn members(
        &self,
        caller: Caller,
        chat: ChatId,
        after: Option<AccountId>,
        limit: usize,
    ) -> BoxFuture<'_, HomeResult<Members>> {
        self.run(caller, move |chats, _| {
            let known = chats.get(&chat);
            known.ok_or_else(|| missing(format!("chat {chat}")))?;
            let all = (0..3).map(|n| AccountId([n; 32]));
            let all = all.filter(|a| after.is_none_or(|after| *a > after));
            let members: Vec<Member> = all
                .take(limit)
                .map(|account| Member {
                    account: account.to_string(),
                    role: "member".into(),
                    from_epoch: 0,
                })
                .collect();
            let next = (members.len() == limit).then(|| members[limit - 1].account.clone());
            Ok(Members {
                number: 7,
                hash: "h".into(),
                members,
                next,
            })
        })
    }
    fn head(
        &self,
        caller: Caller,
        chat: ChatId,
        invite: Option<PublicKey>,
    ) -> BoxFuture<'_, HomeResult<ChatHead>> {
        self.run(caller, move |chats, _| {
            let known = chats.get(&chat);
            known.ok_or_else(|| missing(format!("chat {chat}")))?;
            Ok(ChatHead {
                number: 7,
                hash: invite.map_or("h".into(), |key| key.to_string()),
            })
        })
    }
    fn open_session(&self, caller: Caller) -> BoxFuture<'_, Result<Session, HomeError>> {
        let done = self.run(caller, |_, _| Ok(()));
        async move {
            done.await.map(|_| Session {
                token: "1.ab".into(),
                rest_s: 7,
            })
        }
        .boxed()
    }
    fn session(&self, token: String) -> BoxFuture<'_, Option<String>> {
        let known = (token == "1.ab").then(|| "phone".to_owned());
        async move { known }.boxed()
    }
    fn status(&self) -> BoxFuture<'_, Status> {
        async {
            Status {
                deployment: "d".into(),
                node: "ae/1".into(),
                release_authority: "peer certificate".into(),
                clusters: Vec::new(),
                policy: PolicyStatus {
                    id: "p".into(),
                    text: "any 1 of ch".into(),
                    available: vec!["ch".into()],
                    margin: None,
                    thin: false,
                    would_suffice: Vec::new(),
                },
                leases: LeaseStatus::default(),
                thin_epochs: 0,
                outbox: 0,
                warnings: Vec::new(),
            }
        }
        .boxed()
    }
}

/// A certificate authority for one test.
pub(super) struct Ca {
    pub(super) certificate: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
}

pub(super) type Identity = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

impl Ca {
    pub(super) fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate = params.self_signed(&key).unwrap();
        Self {
            certificate: certificate.der().clone(),
            issuer: Issuer::new(params, key),
        }
    }
    /// A leaf for `localhost` with these SAN URIs.
    pub(super) fn issue(&self, uris: &[&str]) -> Identity {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        for uri in uris {
            params
                .subject_alt_names
                .push(SanType::URI((*uri).try_into().unwrap()));
        }
        let leaf = params.signed_by(&key, &self.issuer).unwrap();
        let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        (vec![leaf.der().clone()], key)
    }
    pub(super) fn roots(&self) -> Arc<rustls::RootCertStore> {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(self.certificate.clone()).unwrap();
        Arc::new(roots)
    }
    pub(super) fn connector(&self, identity: Option<Identity>) -> rustls::ClientConfig {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(self.roots());
        match identity {
            None => builder.with_no_client_auth(),
            Some((chain, key)) => builder.with_client_auth_cert(chain, key).unwrap(),
        }
    }
}

pub(super) async fn connect(
    address: SocketAddr,
    config: rustls::ClientConfig,
) -> std::io::Result<TlsStream<TcpStream>> {
    let tcp = TcpStream::connect(address).await?;
    let name = ServerName::try_from("localhost").unwrap();
    tokio_rustls::TlsConnector::from(Arc::new(config))
        .connect(name, tcp)
        .await
}

/// A reply, read to its end.
#[derive(Debug)]
pub(super) struct Reply {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) body: Vec<u8>,
}

impl Reply {
    pub(super) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e}: {self:?}"))
    }
    pub(super) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |v| v.to_str().unwrap())
    }
    /// The problem, after checking what every problem must have.
    pub(super) fn problem(&self, status: u16, code: &str) -> quorate_engine::api::Problem {
        assert_eq!(self.status.as_u16(), status, "{self:?}");
        assert_eq!(self.header("content-type"), "application/problem+json");
        let problem: quorate_engine::api::Problem = serde_json::from_slice(&self.body).unwrap();
        assert_eq!(problem.code, code, "{problem:?}");
        assert_eq!(problem.status, status);
        assert_eq!(problem.kind, format!("urn:quorate:problem:{code}"));
        assert_eq!(problem.request, self.header("quorate-request"));
        assert!(
            !problem.title.is_empty() && !problem.next_step.is_empty(),
            "{problem:?}"
        );
        let retry_after = problem.retry_ms.map(|ms| ms.div_ceil(1000).to_string());
        assert_eq!(self.header("retry-after"), retry_after.unwrap_or_default());
        problem
    }
}

/// A client plane on loopback over a [`FakeHome`].
pub(super) struct Bench {
    pub(super) home: Arc<FakeHome>,
    pub(super) running: Running,
    pub(super) ca: Ca,
}

impl Bench {
    pub(super) async fn new() -> Self {
        Self::with(Limits::default(), ServeLimits::default()).await
    }
    pub(super) async fn with(limits: Limits, serve: ServeLimits) -> Self {
        let home = Arc::new(FakeHome::default());
        let ca = Ca::new();
        let (chain, key) = ca.issue(&[]);
        let config = tls::server_config(chain, key, None).unwrap();
        let router = client::router_with(home.clone(), limits);
        let running = start(router, Some(tls::fixed(config)), serve).await;
        Self { home, running, ca }
    }
    /// A request with a grant; a body is sent as JSON.
    pub(super) async fn call(&self, method: &str, path: &str, body: &str) -> Reply {
        self.call_with(method, path, body, &[GRANT]).await
    }
    pub(super) async fn call_with(
        &self,
        method: &str,
        path: &str,
        body: &str,
        headers: &[(&str, &str)],
    ) -> Reply {
        let stream = connect(self.running.address, self.ca.connector(None))
            .await
            .unwrap();
        send(stream, request(method, path, body, headers)).await
    }
    /// A chat with `n` messages; its id.
    pub(super) async fn chat(&self, n: usize) -> String {
        let made = self
            .call("POST", "/v1/chats", &format!("{CREATE}\"k\"}}"))
            .await;
        assert_eq!(made.status, 201, "{made:?}");
        let id = made.json()["id"].as_str().unwrap().to_owned();
        for i in 0..n {
            let body = format!(
                r#"{{"messages":[{{"idempotency_key":"m{i}","content":{{"text":"{i}"}}}}]}}"#
            );
            let reply = self
                .call("POST", &format!("/v1/chats/{id}/messages"), &body)
                .await;
            assert_eq!(reply.status, 201, "{reply:?}");
        }
        id
    }
}

pub(super) async fn start(
    router: Router,
    tls: Option<tls::TlsSource>,
    limits: ServeLimits,
) -> Running {
    spawn("127.0.0.1:0".parse().unwrap(), tls, router, limits)
        .await
        .unwrap()
}

pub(super) fn request(
    method: &str,
    path: &str,
    body: &str,
    headers: &[(&str, &str)],
) -> Request<Body> {
    let mut request = Request::builder()
        .method(method)
        .uri(format!("https://localhost{path}"))
        .header("host", "localhost");
    let typed = headers.iter().any(|(name, _)| *name == "content-type");
    if !body.is_empty() && !typed {
        request = request.header("content-type", "application/json");
    }
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(Body::from(body.to_owned())).unwrap()
}

/// One request on a connection of its own, in the protocol the handshake chose.
pub(super) async fn send<S>(stream: S, request: Request<Body>) -> Reply
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    try_send(stream, false, request).await.unwrap()
}

pub(super) async fn try_send<S>(
    stream: S,
    http2: bool,
    request: Request<Body>,
) -> Result<Reply, hyper::Error>
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    let io = TokioIo::new(stream);
    let reply = if http2 {
        let (mut sender, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await?;
        tokio::spawn(connection);
        sender.send_request(request).await?
    } else {
        let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await?;
        tokio::spawn(connection);
        sender.send_request(request).await?
    };
    let (parts, body) = reply.into_parts();
    let body = axum::body::to_bytes(Body::new(body), 64 << 20)
        .await
        .unwrap();
    Ok(Reply {
        status: parts.status,
        headers: parts.headers,
        body: body.to_vec(),
    })
}
