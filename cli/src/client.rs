//! A client of the home's client plane: HTTPS, JSON, several nodes.
//!
//! Every write carries an idempotency key, so a request may be sent again
//! whatever became of it: a timeout is *unknown*, never *failed* (DESIGN 6),
//! and repeating under the same key settles it. The client does so itself,
//! on the next node, until its attempts are used up; only then does the caller
//! see [`ClientError::Unknown`].

mod transport;

pub use transport::{Identity, SetupError, Wire};

use crate::exit::{Exit, Failure};
use bytes::Bytes;
use hyper::Method;
use quorate_engine::api::{
    Appended, Chat, ChatList, Content, CreateChat, Edit, Message, NewMessage, Page, Problem,
    Status, Written,
};
use quorate_engine::types::Outcome;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use transport::{Reply, SendError};

/// Longest wait before another attempt.
const BACKOFF_MS_MAX: u64 = 2_000;
/// First wait before another attempt; it doubles.
const BACKOFF_MS: u64 = 50;
/// Most chats asked for in one page of a list.
pub const CHATS_PER_PAGE: usize = 100;

/// How patient a client is.
#[derive(Clone, Copy, Debug)]
pub struct ClientOptions {
    /// One attempt may take so long.
    pub attempt_ms_max: u64,
    /// Connecting, TLS included, may take so long.
    pub connect_ms_max: u64,
    /// Attempts a request, all nodes together.
    pub attempts_max: u32,
}

impl Default for ClientOptions {
    fn default() -> Self {
        Self {
            attempt_ms_max: 30_000,
            connect_ms_max: 3_000,
            attempts_max: 6,
        }
    }
}

/// Why a request has no good answer.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ClientError {
    /// No node could be reached; nothing was sent.
    #[error("no home node can be reached: {detail}")]
    NotSent {
        /// What the last attempts saw.
        detail: String,
    },
    /// It was sent, and no answer came.
    #[error("the outcome is unknown: {detail}")]
    Unknown {
        /// What the last attempts saw.
        detail: String,
    },
    /// The home said why not.
    #[error("{}", .0.detail)]
    Problem(Box<Problem>),
    /// The answer is over what this client takes.
    #[error("the answer to {path} is over {} MiB", transport::REPLY_BYTES_MAX >> 20)]
    TooLarge {
        /// What was asked.
        path: String,
    },
    /// The answer is not what this client understands.
    #[error("the answer to {path} cannot be understood: {detail}")]
    Malformed {
        /// What was asked.
        path: String,
        /// Why.
        detail: String,
    },
}

impl ClientError {
    /// What may be concluded about the effect.
    pub fn outcome(&self) -> Outcome {
        match self {
            Self::NotSent { .. } => Outcome::NotDone,
            Self::Unknown { .. } | Self::TooLarge { .. } | Self::Malformed { .. } => {
                Outcome::Unknown
            }
            Self::Problem(p) => p.outcome,
        }
    }
}

impl From<ClientError> for Failure {
    fn from(e: ClientError) -> Self {
        let what = e.to_string();
        match e {
            ClientError::NotSent { .. } => Self::new(
                Exit::Unavailable,
                "unreachable",
                what,
                "check that the deployment runs (`quorate status`), then run the command again",
            ),
            ClientError::Unknown { .. } => Self::new(
                Exit::Unavailable,
                "outcome_unknown",
                what,
                "look at `quorate status`; it may have been done",
            ),
            ClientError::TooLarge { .. } | ClientError::Malformed { .. } => Self::new(
                Exit::Failed,
                "bad_answer",
                what,
                "check that client and home are of the same version",
            ),
            ClientError::Problem(p) => problem_failure(&p),
        }
    }
}

fn problem_failure(p: &Problem) -> Failure {
    let exit = match p.status {
        _ if p.quorum.is_some() || p.code.contains("quorum") => Exit::NoQuorum,
        404 | 409 | 410 | 412 => Exit::Conflict,
        400 | 413 | 422 => Exit::Usage,
        429 | 502..=504 => Exit::Unavailable,
        _ if p.outcome == Outcome::Unknown => Exit::Unavailable,
        _ => Exit::Failed,
    };
    let mut what = if p.detail.is_empty() {
        p.title.clone()
    } else {
        p.detail.clone()
    };
    if let Some(q) = &p.quorum {
        for (custodian, reason) in &q.refused {
            let _ = write!(what, "\n  {custodian} refused: {reason}");
        }
        for custodian in &q.lied {
            let _ = write!(
                what,
                "\n  {custodian} sent a share that does not match its commitment"
            );
        }
        if !q.unreachable.is_empty() {
            let _ = write!(what, "\n  unreachable: {}", q.unreachable.join(", "));
        }
        if !q.would_suffice.is_empty() {
            let sets: Vec<_> = q.would_suffice.iter().map(|s| s.join(" + ")).collect();
            let _ = write!(what, "\n  would suffice: {}", sets.join("; "));
        }
    }
    Failure::new(exit, &p.code, what, p.next_step.clone())
}

/// A client; clones share its connections.
#[derive(Clone)]
pub struct Client {
    wire: Arc<Wire>,
    preferred: Arc<AtomicUsize>,
    options: ClientOptions,
}

struct Call<'a> {
    method: Method,
    path: &'a str,
    body: Option<Bytes>,
    if_match: Option<u32>,
}

impl Client {
    /// A client of the home nodes at `endpoints` (`https://HOST:PORT`), trusting the CA in `ca_pem`.
    ///
    /// # Errors
    /// When an endpoint, the CA or the device name is wrong.
    pub fn new(
        endpoints: &[String],
        ca_pem: &[u8],
        device: &str,
        options: ClientOptions,
    ) -> Result<Self, SetupError> {
        let wire = Wire::new(endpoints, ca_pem, device, None, options.connect_ms_max)?;
        Ok(Self {
            wire: Arc::new(wire),
            preferred: Arc::new(AtomicUsize::new(0)),
            options,
        })
    }

    /// A client of a cluster's operator plane, with an operator's certificate. Its routes
    /// are asked with [`Self::get`] and [`Self::post`]; a node that does not lead passes on to the next.
    ///
    /// # Errors
    /// When an endpoint, the CA, the certificate or the key is wrong.
    pub fn operator(
        endpoints: &[String],
        ca_pem: &[u8],
        identity: Identity<'_>,
        options: ClientOptions,
    ) -> Result<Self, SetupError> {
        let wire = Wire::new(
            endpoints,
            ca_pem,
            "operator",
            Some(identity),
            options.connect_ms_max,
        )?;
        Ok(Self {
            wire: Arc::new(wire),
            preferred: Arc::new(AtomicUsize::new(0)),
            options,
        })
    }

    /// `GET path` for a JSON answer.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        self.json::<(), _>(Method::GET, path, None, None).await
    }

    /// `POST path` with a JSON body for a JSON answer. It may be sent again: the
    /// request id, the same each time, must make that safe.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn post<B: Serialize, T: DeserializeOwned>(
        &self,
        path: &str,
        body: &B,
    ) -> Result<T, ClientError> {
        self.json(Method::POST, path, Some(body), None).await
    }

    /// The same client with other patience.
    #[must_use]
    pub fn with_options(&self, options: ClientOptions) -> Self {
        Self {
            options,
            ..self.clone()
        }
    }

    /// `POST /v1/chats`.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn create_chat(&self, request: &CreateChat) -> Result<Chat, ClientError> {
        self.json(Method::POST, "/v1/chats", Some(request), None)
            .await
    }

    /// `GET /v1/chats`, one page.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn list_chats(
        &self,
        after: Option<&str>,
        limit: usize,
        profile: bool,
    ) -> Result<ChatList, ClientError> {
        let mut path = format!("/v1/chats?limit={limit}&profile={profile}");
        if let Some(after) = after {
            let _ = write!(path, "&after={after}");
        }
        self.json::<(), _>(Method::GET, &path, None, None).await
    }

    /// `GET /v1/chats/{chat}`.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn chat(&self, chat: &str, profile: bool) -> Result<Chat, ClientError> {
        self.json::<(), _>(
            Method::GET,
            &format!("/v1/chats/{chat}?profile={profile}"),
            None,
            None,
        )
        .await
    }

    /// `POST /v1/chats/{chat}/messages`.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn append(
        &self,
        chat: &str,
        messages: Vec<NewMessage>,
    ) -> Result<Appended, ClientError> {
        let body = quorate_engine::api::Append { messages };
        self.json(
            Method::POST,
            &format!("/v1/chats/{chat}/messages"),
            Some(&body),
            None,
        )
        .await
    }

    /// The same with the body of an [`quorate_engine::api::Append`] already written.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn append_raw(&self, chat: &str, body: Bytes) -> Result<Appended, ClientError> {
        let path = format!("/v1/chats/{chat}/messages");
        let call = Call {
            method: Method::POST,
            path: &path,
            body: Some(body),
            if_match: None,
        };
        decode(&path, &self.call(call).await?)
    }

    /// `PUT /v1/chats/{chat}/messages/{id}`; replaces a message that is at `revision`.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn edit(
        &self,
        chat: &str,
        id: u64,
        revision: u32,
        key: String,
        content: Content,
    ) -> Result<Written, ClientError> {
        let body = Edit {
            idempotency_key: key,
            content,
        };
        self.json(
            Method::PUT,
            &format!("/v1/chats/{chat}/messages/{id}"),
            Some(&body),
            Some(revision),
        )
        .await
    }

    /// `GET /v1/chats/{chat}/messages/{id}`.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn message(&self, chat: &str, id: u64) -> Result<Message, ClientError> {
        self.json::<(), _>(
            Method::GET,
            &format!("/v1/chats/{chat}/messages/{id}"),
            None,
            None,
        )
        .await
    }

    /// `GET /v1/chats/{chat}/messages`, one page; asks for less when the answer would be too large.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn page(&self, chat: &str, from: u64, limit: usize) -> Result<Page, ClientError> {
        let mut limit = limit;
        loop {
            let path = format!("/v1/chats/{chat}/messages?from={from}&limit={limit}");
            match self.json::<(), _>(Method::GET, &path, None, None).await {
                Err(ClientError::TooLarge { .. }) if limit > 1 => limit /= 2,
                other => return other,
            }
        }
    }

    /// `GET /v1/status` of the preferred node.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn status(&self) -> Result<Status, ClientError> {
        self.json::<(), _>(Method::GET, "/v1/status", None, None)
            .await
    }

    async fn json<B: Serialize, T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Option<&B>,
        if_match: Option<u32>,
    ) -> Result<T, ClientError> {
        let body = match body.map(serde_json::to_vec).transpose() {
            Ok(body) => body.map(Bytes::from),
            Err(e) => return Err(malformed(path, &e)),
        };
        let bytes = self
            .call(Call {
                method,
                path,
                body,
                if_match,
            })
            .await?;
        decode(path, &bytes)
    }

    async fn call(&self, call: Call<'_>) -> Result<Bytes, ClientError> {
        let request_id = hex::encode(rand::random::<[u8; 16]>());
        let mut sent = false;
        let mut attempt = 0;
        loop {
            let node = self.preferred.load(Ordering::Relaxed) % self.wire.nodes();
            let request = self.wire.request(
                node,
                &call.method,
                call.path,
                &request_id,
                call.if_match,
                call.body.clone(),
            );
            let limit = Duration::from_millis(self.options.attempt_ms_max);
            let answer = tokio::time::timeout(limit, self.wire.send(node, request)).await;
            attempt += 1;
            let (error, wait_ms) = match answer {
                Ok(Ok(reply)) => match judge(call.path, reply) {
                    Ok(body) => return Ok(body),
                    Err(e) => {
                        let wait = retry_after(&e);
                        (e, wait)
                    }
                },
                Ok(Err(SendError::TooLarge)) => {
                    return Err(ClientError::TooLarge {
                        path: call.path.to_owned(),
                    });
                }
                Ok(Err(SendError::NotSent(detail))) if !sent => {
                    (ClientError::NotSent { detail }, Some(0))
                }
                Ok(Err(SendError::NotSent(detail))) => (ClientError::Unknown { detail }, Some(0)),
                Ok(Err(SendError::Unknown(detail))) => (ClientError::Unknown { detail }, Some(0)),
                Err(_) => {
                    let detail = format!(
                        "{} did not answer within {} s",
                        self.wire.name(node),
                        limit.as_secs()
                    );
                    (ClientError::Unknown { detail }, Some(0))
                }
            };
            sent |= error.outcome() == Outcome::Unknown;
            let Some(wait_ms) = wait_ms.filter(|_| attempt < self.options.attempts_max) else {
                return Err(error);
            };
            // Another node may do better; if one already changed it, follow.
            let _ = self.preferred.compare_exchange(
                node,
                (node + 1) % self.wire.nodes(),
                Ordering::Relaxed,
                Ordering::Relaxed,
            );
            let rounds = (attempt - 1) / self.wire.nodes() as u32;
            let backoff = (BACKOFF_MS << rounds.min(10))
                .max(wait_ms)
                .min(BACKOFF_MS_MAX);
            tracing::debug!(attempt, backoff, %error, "another attempt");
            tokio::time::sleep(Duration::from_millis(backoff)).await;
        }
    }
}

/// How long to wait before repeating, if repeating may help. A missing quorum is
/// told at once: a person can do more about it than a retry.
fn retry_after(e: &ClientError) -> Option<u64> {
    match e {
        ClientError::Problem(p) if p.quorum.is_none() => p.retry_ms,
        ClientError::Unknown { .. } => Some(0),
        _ => None,
    }
}

fn judge(path: &str, reply: Reply) -> Result<Bytes, ClientError> {
    if reply.status.is_success() {
        return Ok(reply.body);
    }
    match serde_json::from_slice::<Problem>(&reply.body) {
        Ok(problem) => Err(ClientError::Problem(Box::new(problem))),
        Err(_) if reply.status.is_server_error() => Err(ClientError::Unknown {
            detail: format!("status {} without a reason", reply.status),
        }),
        Err(e) => Err(malformed(
            path,
            &format!("status {}, and no problem+json: {e}", reply.status),
        )),
    }
}

fn decode<T: DeserializeOwned>(path: &str, bytes: &[u8]) -> Result<T, ClientError> {
    serde_json::from_slice(bytes).map_err(|e| malformed(path, &e))
}

fn malformed(path: &str, e: &dyn std::fmt::Display) -> ClientError {
    ClientError::Malformed {
        path: path.to_owned(),
        detail: e.to_string(),
    }
}
