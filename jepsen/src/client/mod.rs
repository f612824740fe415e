//! A client of one home node's client plane.
//!
//! It never repeats a request, has a hard time limit, and says of every request
//! whether it happened, certainly did not, or nobody knows. A client is one
//! connection and one request at a time, as a process of a history is.

mod wallet;

pub use quorate_engine::types::{ChatId, Outcome};
pub use wallet::Wallet;

use anyhow::Context;
use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1::{self, SendRequest};
use hyper::{Method, Request};
use hyper_util::rt::TokioIo;
use quorate_engine::api::{self, Problem};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// Largest answer read.
const ANSWER_BYTES_MAX: usize = 32 << 20;
/// Connecting may take so long, TLS included.
const CONNECT_MAX: Duration = Duration::from_secs(2);

/// Why there is no good answer, and what may be concluded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// Whether it happened. Never `Done`.
    pub outcome: Outcome,
    /// The problem's code, where the home gave one.
    pub code: Option<String>,
    /// In words.
    pub why: String,
}

impl Failure {
    fn unknown(why: impl std::fmt::Display) -> Self {
        Self {
            outcome: Outcome::Unknown,
            code: None,
            why: why.to_string(),
        }
    }
    fn not_sent(why: impl std::fmt::Display) -> Self {
        Self {
            outcome: Outcome::NotDone,
            code: None,
            why: format!("not sent: {why}"),
        }
    }
    /// Whether it certainly did not happen.
    pub fn is_certain(&self) -> bool {
        self.outcome == Outcome::NotDone
    }
}

/// A chat, and who speaks for it.
#[derive(Clone)]
pub struct Room {
    /// Its id.
    pub id: ChatId,
    /// Its creator.
    pub wallet: Arc<Wallet>,
}

/// How to reach a home: its TLS roots, and how long is waited.
#[derive(Clone)]
pub struct Reach {
    tls: TlsConnector,
    limit: Duration,
}

impl Reach {
    /// With the CA in `ca_pem` and this limit on every request.
    ///
    /// # Errors
    /// When the CA is none.
    pub fn new(ca_pem: &[u8], limit: Duration) -> anyhow::Result<Self> {
        let mut roots = rustls::RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(ca_pem) {
            roots.add(certificate.context("the CA file")?)?;
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Self {
            tls: TlsConnector::from(Arc::new(config)),
            limit,
        })
    }

    /// A client of the node at `at`.
    pub fn client(&self, at: SocketAddr) -> Client {
        Client {
            reach: self.clone(),
            at,
            sender: None,
        }
    }
}

/// A client of one node.
pub struct Client {
    reach: Reach,
    at: SocketAddr,
    sender: Option<SendRequest<Full<Bytes>>>,
}

struct Call<'a> {
    method: Method,
    path: String,
    write: bool,
    room: &'a Room,
    body: Option<Vec<u8>>,
    if_match: Option<u32>,
}

impl Client {
    /// The node it speaks to.
    pub fn address(&self) -> SocketAddr {
        self.at
    }

    /// Makes a chat from its genesis; the same genesis and key again give the same chat.
    ///
    /// # Errors
    /// [`Failure`].
    pub async fn create_chat(
        &mut self,
        room: &Room,
        request: &api::CreateChat,
    ) -> Result<api::Chat, Failure> {
        self.json(Call {
            method: Method::POST,
            path: "/v1/chats".into(),
            write: true,
            room,
            body: Some(body(request)?),
            if_match: None,
        })
        .await
    }

    /// Appends messages, all or none.
    ///
    /// # Errors
    /// [`Failure`].
    pub async fn append(
        &mut self,
        room: &Room,
        messages: Vec<api::NewMessage>,
    ) -> Result<api::Appended, Failure> {
        self.json(Call {
            method: Method::POST,
            path: format!("/v1/chats/{}/messages", room.id),
            write: true,
            room,
            body: Some(body(&api::Append { messages })?),
            if_match: None,
        })
        .await
    }

    /// Replaces a message that is at `revision`.
    ///
    /// # Errors
    /// [`Failure`].
    pub async fn edit(
        &mut self,
        room: &Room,
        message: u64,
        revision: u32,
        edit: &api::Edit,
    ) -> Result<api::Written, Failure> {
        self.json(Call {
            method: Method::PUT,
            path: format!("/v1/chats/{}/messages/{message}", room.id),
            write: true,
            room,
            body: Some(body(edit)?),
            if_match: Some(revision),
        })
        .await
    }

    /// One message.
    ///
    /// # Errors
    /// [`Failure`].
    pub async fn message(&mut self, room: &Room, message: u64) -> Result<api::Message, Failure> {
        let path = format!("/v1/chats/{}/messages/{message}", room.id);
        self.get(room, path).await
    }

    /// Every message of a chat, page by page, in order of id.
    ///
    /// # Errors
    /// [`Failure`].
    pub async fn messages(&mut self, room: &Room) -> Result<Vec<api::Message>, Failure> {
        let mut all: Vec<api::Message> = Vec::new();
        let mut from = 1;
        loop {
            let path = format!("/v1/chats/{}/messages?from={from}&limit=256", room.id);
            let page: api::Page = self.get(room, path).await?;
            all.extend(page.messages);
            match page.next {
                Some(next) if next > from => from = next,
                Some(next) => {
                    return Err(Failure::unknown(format!(
                        "page {from} says that {next} is next"
                    )));
                }
                None => return Ok(all),
            }
        }
    }

    async fn get<T: DeserializeOwned>(&mut self, room: &Room, path: String) -> Result<T, Failure> {
        self.json(Call {
            method: Method::GET,
            path,
            write: false,
            room,
            body: None,
            if_match: None,
        })
        .await
    }

    async fn json<T: DeserializeOwned>(&mut self, call: Call<'_>) -> Result<T, Failure> {
        let grant = call
            .room
            .wallet
            .grant(call.write, std::slice::from_ref(&call.room.id));
        let grant = grant.map_err(|e| Failure::not_sent(format!("{e:#}")))?;
        let limit = self.reach.limit;
        let answer = tokio::time::timeout(limit, self.send(&call, &grant)).await;
        let (status, bytes) = match answer {
            Ok(answer) => answer?,
            Err(_) => {
                // The connection is in the middle of something.
                self.sender = None;
                return Err(Failure::unknown(format!(
                    "{} did not answer within {limit:?}",
                    self.at
                )));
            }
        };
        if (200..300).contains(&status) {
            return serde_json::from_slice(&bytes)
                .map_err(|e| Failure::unknown(format!("the answer cannot be understood: {e}")));
        }
        let problem: Problem = serde_json::from_slice(&bytes)
            .map_err(|_| Failure::unknown(format!("status {status} without a problem document")))?;
        if problem.code.starts_with("grant_") {
            call.room.wallet.forget(&grant);
        }
        let outcome = match problem.outcome {
            Outcome::NotDone => Outcome::NotDone,
            // A problem that says "done" says nothing that a checker could use.
            Outcome::Done | Outcome::Unknown => Outcome::Unknown,
        };
        Err(Failure {
            outcome,
            why: format!("{}: {}", problem.code, problem.detail),
            code: Some(problem.code),
        })
    }

    async fn send(&mut self, call: &Call<'_>, grant: &str) -> Result<(u16, Bytes), Failure> {
        let mut request = Request::builder()
            .method(&call.method)
            .uri(&call.path)
            .header("host", self.at.to_string())
            .header("authorization", format!("Bearer {grant}"))
            .header(api::REQUEST_HEADER, hex::encode(rand::random::<[u8; 16]>()));
        if call.body.is_some() {
            request = request.header("content-type", "application/json");
        }
        if let Some(revision) = call.if_match {
            request = request.header("if-match", format!("\"{revision}\""));
        }
        let bytes = Bytes::from(call.body.clone().unwrap_or_default());
        let request = request.body(Full::new(bytes)).map_err(Failure::not_sent)?;
        let mut sender = match self.sender.take().filter(|s| !s.is_closed()) {
            Some(sender) => sender,
            None => self.connect().await?,
        };
        sender.ready().await.map_err(Failure::not_sent)?;
        let response =
            sender
                .try_send_request(request)
                .await
                .map_err(|mut e| match e.take_message() {
                    Some(_) => Failure::not_sent(e.error()),
                    None => Failure::unknown(e.error()),
                })?;
        let status = response.status().as_u16();
        let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX)
            .collect()
            .await;
        let body = body.map_err(|e| Failure::unknown(format!("the answer broke off: {e}")))?;
        self.sender = Some(sender);
        Ok((status, body.to_bytes()))
    }

    async fn connect(&self) -> Result<SendRequest<Full<Bytes>>, Failure> {
        let connecting = async {
            let tcp = TcpStream::connect(self.at).await?;
            tcp.set_nodelay(true)?;
            let name = ServerName::from(self.at.ip());
            let tls = self.reach.tls.connect(name, tcp).await?;
            http1::handshake(TokioIo::new(tls))
                .await
                .map_err(std::io::Error::other)
        };
        let connected = tokio::time::timeout(CONNECT_MAX, connecting).await;
        let connected = connected.map_err(|_| Failure::not_sent("no connection in time"))?;
        let (sender, connection) = connected.map_err(Failure::not_sent)?;
        tokio::spawn(async move {
            // How it ends, the request in it is told.
            let _ = connection.await;
        });
        Ok(sender)
    }
}

fn body<T: Serialize>(value: &T) -> Result<Vec<u8>, Failure> {
    serde_json::to_vec(value).map_err(Failure::not_sent)
}
