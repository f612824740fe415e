//! A client of the home's client plane: HTTPS, JSON, several nodes.
//!
//! Every write carries an idempotency key, so a request may be sent again
//! whatever became of it: a timeout is *unknown*, never *failed* (DESIGN 6),
//! and repeating under the same key settles it. The client does so itself,
//! on the next node, until its attempts are used up; only then does the caller
//! see [`ClientError::Unknown`].

mod calls;
pub mod transport;

pub use calls::NewChat;
pub use transport::{Identity, SetupError, Wire};

use crate::exit::{Exit, Failure};
use crate::people::{Person, Service, Wants};
use bytes::Bytes;
use hyper::Method;
use quorate_engine::api::Problem;
use quorate_engine::authz::service::ServiceRefusal;
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
/// Most chats asked for in one page of a list: one grant names them all.
pub const CHATS_PER_PAGE: usize = 48;

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
    /// Nobody is logged in, and the call is somebody's.
    #[error(
        "nobody is logged in here, and the home answers only under a grant by somebody's device"
    )]
    NoWallet,
    /// No grant that anyone would accept can be signed for the call.
    #[error("no grant can be signed for this: {0}")]
    Grant(String),
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
            Self::NotSent { .. } | Self::NoWallet | Self::Grant(_) => Outcome::NotDone,
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
            ClientError::NoWallet => no_wallet(what),
            ClientError::Grant(_) => Self::usage(what, "ask for fewer chats at once"),
            ClientError::Problem(p) => problem_failure(&p),
        }
    }
}

/// What somebody without a wallet is told.
pub(crate) fn no_wallet(what: impl Into<String>) -> Failure {
    Failure::new(
        Exit::Usage,
        "no_wallet",
        what,
        "log in with `quorate login --name NAME`, or name a wallet with --wallet DIR or QUORATE_WALLET",
    )
}

fn problem_failure(p: &Problem) -> Failure {
    let exit = match p.status {
        401 | 403 => Exit::Denied,
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
    person: Option<Arc<Person>>,
    service: Option<Arc<Service>>,
    preferred: Arc<AtomicUsize>,
    options: ClientOptions,
}

struct Call<'a> {
    method: Method,
    path: &'a str,
    /// What a grant must allow for it; `None`: it takes none.
    wants: Option<Wants>,
    body: Option<Bytes>,
    if_match: Option<u32>,
}

impl<'a> Call<'a> {
    fn new(method: Method, path: &'a str, wants: Option<Wants>) -> Self {
        Self {
            method,
            path,
            wants,
            body: None,
            if_match: None,
        }
    }

    fn get(path: &'a str, wants: Wants) -> Self {
        Self::new(Method::GET, path, Some(wants))
    }

    fn with<B: Serialize>(mut self, body: &B) -> Result<Self, ClientError> {
        let body = serde_json::to_vec(body).map_err(|e| malformed(self.path, &e))?;
        self.body = Some(Bytes::from(body));
        Ok(self)
    }
}

impl Client {
    /// A client of the home nodes at `endpoints` (`https://HOST:PORT`), trusting the CA in `ca_pem`,
    /// under grants of `person`. Without one it can ask for the status alone.
    ///
    /// # Errors
    /// When an endpoint or the CA is wrong.
    pub fn new(
        endpoints: &[String],
        ca_pem: &[u8],
        person: Option<Arc<Person>>,
        options: ClientOptions,
    ) -> Result<Self, SetupError> {
        let wire = Wire::new(endpoints, ca_pem, None, options.connect_ms_max)?;
        Ok(Self {
            person,
            ..Self::over(wire, options)
        })
    }

    fn over(wire: Wire, options: ClientOptions) -> Self {
        Self {
            wire: Arc::new(wire),
            person: None,
            service: None,
            preferred: Arc::new(AtomicUsize::new(0)),
            options,
        }
    }

    /// A client of a custodian's registry plane, under a TLS configuration that knows
    /// whom it may speak to (`pki::tls::registry_client`).
    ///
    /// # Errors
    /// When an endpoint is wrong.
    pub fn registry(
        endpoints: &[String],
        tls: Arc<rustls::ClientConfig>,
        options: ClientOptions,
    ) -> Result<Self, SetupError> {
        let wire = Wire::over(endpoints, tls, options.connect_ms_max)?;
        Ok(Self::over(wire, options))
    }

    /// Whom it acts for.
    pub fn person(&self) -> Option<&Arc<Person>> {
        self.person.as_ref()
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
        let wire = Wire::new(endpoints, ca_pem, Some(identity), options.connect_ms_max)?;
        Ok(Self::over(wire, options))
    }

    /// `GET path`, under no grant, for a JSON answer.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        self.json(Call::new(Method::GET, path, None)).await
    }

    /// `POST path`, under no grant, with a JSON body for a JSON answer. It may be sent again: the
    /// request id, the same each time, must make that safe.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn post<B: Serialize, T: DeserializeOwned>(
        &self,
        path: &str,
        body: &B,
    ) -> Result<T, ClientError> {
        self.json(Call::new(Method::POST, path, None).with(body)?)
            .await
    }

    /// The same client with other patience.
    #[must_use]
    pub fn with_options(&self, options: ClientOptions) -> Self {
        Self {
            options,
            ..self.clone()
        }
    }

    /// The same client with a service credential in place of a person: it appends messages, and
    /// is refused everything else.
    #[must_use]
    pub fn with_service(&self, service: Arc<Service>) -> Self {
        Self {
            person: None,
            service: Some(service),
            ..self.clone()
        }
    }

    async fn json<T: DeserializeOwned>(&self, call: Call<'_>) -> Result<T, ClientError> {
        let path = call.path;
        decode(path, &self.call(call).await?)
    }

    /// The grant to send with a call; signed anew when the last one is nearly over.
    fn grant(&self, call: &Call<'_>) -> Result<Option<Arc<str>>, ClientError> {
        let Some(wants) = &call.wants else {
            return Ok(None);
        };
        if let Some(service) = &self.service {
            let token = service.token(&wants.chats);
            let unusable = |e: ServiceRefusal| ClientError::Grant(e.to_string());
            return token.map(|t| Some(t.into())).map_err(unusable);
        }
        let person = self.person.as_ref().ok_or(ClientError::NoWallet)?;
        let grant = person.grant(wants);
        grant
            .map(Some)
            .map_err(|e| ClientError::Grant(e.to_string()))
    }

    async fn call(&self, call: Call<'_>) -> Result<Bytes, ClientError> {
        let request_id = hex::encode(rand::random::<[u8; 16]>());
        let mut sent = false;
        let mut attempt = 0;
        let mut renewed = false;
        loop {
            let grant = self.grant(&call)?;
            let node = self.preferred.load(Ordering::Relaxed) % self.wire.nodes();
            let request = self
                .wire
                .request(node, &call, &request_id, grant.as_deref());
            let limit = Duration::from_millis(self.options.attempt_ms_max);
            let answer = tokio::time::timeout(limit, self.wire.send(node, request)).await;
            attempt += 1;
            let (error, wait_ms) = match answer {
                Ok(Ok(reply)) => match judge(call.path, reply) {
                    Ok(body) => return Ok(body),
                    Err(e) if !renewed && spent(&e) => {
                        renewed = true;
                        if let (Some(person), Some(grant)) = (&self.person, &grant) {
                            person.forget(grant);
                        }
                        continue;
                    }
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

/// Whether a fresh grant may be taken where this one was not.
fn spent(e: &ClientError) -> bool {
    const SPENT: [&str; 3] = ["grant_expired", "grant_ceiling_spent", "grant_id_reused"];
    matches!(e, ClientError::Problem(p) if SPENT.contains(&p.code.as_str()))
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
