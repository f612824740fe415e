//! Every error of the HTTP planes, as RFC 9457 `application/problem+json`.
//!
//! Codes are stable: programs branch on them. Titles are the same for every
//! occurrence of a code, details are not. The request id is filled in by
//! [`envelope`](super::envelope), which sees every reply.

use crate::home::api::HomeError;
use axum::body::Body;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, header};
use axum::response::IntoResponse;
use quorate_engine::api::{Problem, QuorumProblem};
use quorate_engine::authz::grant::GrantRefusal;
use quorate_engine::authz::service::ServiceRefusal;
use quorate_engine::types::Outcome;
use std::borrow::Cow;

/// Media type of every error.
pub const PROBLEM_JSON: &str = "application/problem+json";
/// Suggested wait after a custodian could not be reached, in milliseconds.
pub const QUORUM_RETRY_MS: u64 = 5_000;
/// Longest detail text, in bytes: callers' input may be quoted in it.
pub const DETAIL_BYTES_MAX: usize = 2_048;

/// An error on its way out: a [`Problem`] without its request id.
#[derive(Clone, Debug)]
pub struct Failure {
    status: StatusCode,
    code: Cow<'static, str>,
    title: &'static str,
    detail: String,
    next_step: String,
    retry_ms: Option<u64>,
    outcome: Outcome,
    quorum: Option<QuorumProblem>,
    headers: HeaderMap,
}

/// Result of a handler.
pub type Handled<T> = Result<T, Failure>;

impl Failure {
    /// An error of `code`; nothing was done and repeating does not help, unless said otherwise.
    pub fn new(
        status: StatusCode,
        code: impl Into<Cow<'static, str>>,
        title: &'static str,
        detail: impl Into<String>,
        next_step: impl Into<String>,
    ) -> Self {
        Self {
            status,
            code: code.into(),
            title,
            detail: cut(detail.into(), DETAIL_BYTES_MAX),
            next_step: next_step.into(),
            retry_ms: None,
            outcome: Outcome::NotDone,
            quorum: None,
            headers: HeaderMap::new(),
        }
    }
    /// The request itself is wrong (400).
    pub fn bad_request(
        code: &'static str,
        detail: impl Into<String>,
        next: impl Into<String>,
    ) -> Self {
        Self::new(
            StatusCode::BAD_REQUEST,
            code,
            "The request is wrong",
            detail,
            next,
        )
    }
    /// Repeating may help after `ms`; sets `Retry-After` too.
    #[must_use]
    pub fn retry(mut self, ms: u64) -> Self {
        self.retry_ms = Some(ms);
        let seconds = ms.div_ceil(1000).max(1);
        self.headers
            .insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        self
    }
    /// What may be concluded about the effect.
    #[must_use]
    pub fn outcome(mut self, outcome: Outcome) -> Self {
        self.outcome = outcome;
        self
    }
    /// Adds a header to the reply.
    #[must_use]
    pub fn header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.insert(name, value);
        self
    }
    /// Says how to authenticate (RFC 6750, section 3).
    #[must_use]
    pub fn unauthenticated(self) -> Self {
        self.header(
            header::WWW_AUTHENTICATE,
            HeaderValue::from_static("Bearer realm=\"quorate\""),
        )
    }
    /// HTTP status.
    pub fn status(&self) -> StatusCode {
        self.status
    }
    /// Stable code.
    pub fn code(&self) -> &str {
        &self.code
    }

    /// The reply, complete with the request id it answers.
    pub fn into_reply(self, request: &str) -> Response<Body> {
        let problem = Problem {
            kind: format!("urn:quorate:problem:{}", self.code),
            title: self.title.to_owned(),
            status: self.status.as_u16(),
            code: self.code.into_owned(),
            detail: self.detail,
            next_step: self.next_step,
            retry_ms: self.retry_ms,
            outcome: self.outcome,
            request: request.to_owned(),
            quorum: self.quorum,
        };
        let body = serde_json::to_vec(&problem).expect("a problem is plain data");
        let mut reply = Response::new(Body::from(body));
        *reply.status_mut() = self.status;
        *reply.headers_mut() = self.headers;
        reply
            .headers_mut()
            .insert(header::CONTENT_TYPE, HeaderValue::from_static(PROBLEM_JSON));
        reply
    }
}

impl IntoResponse for Failure {
    /// A reply without a body that carries the failure; `envelope` finishes it.
    fn into_response(self) -> axum::response::Response {
        let mut reply = Response::new(Body::empty());
        *reply.status_mut() = self.status;
        reply.extensions_mut().insert(self);
        reply
    }
}

fn cut(mut text: String, max: usize) -> String {
    if text.len() > max {
        let mut end = max;
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        text.truncate(end);
        text.push('…');
    }
    text
}

impl From<HomeError> for Failure {
    fn from(error: HomeError) -> Self {
        let detail = error.to_string();
        match error {
            HomeError::NotFound { .. } => Self::new(
                StatusCode::NOT_FOUND,
                "not_found",
                "Not found",
                detail,
                "check the id; GET /v1/chats lists the chats of this home",
            ),
            HomeError::Denied { why, .. } => denied(why, detail),
            HomeError::Service { why, .. } => served(why, detail),
            HomeError::Statement { code, .. } => statement(&code, detail),
            HomeError::Spent {
                retry_ms, account, ..
            } => spent(detail, retry_ms, account),
            HomeError::RevisionMismatch { current } => Self::new(
                StatusCode::PRECONDITION_FAILED,
                "revision_mismatch",
                "The message has another revision",
                detail,
                format!(
                    "read the message again, apply the change to what it says now, and send If-Match: \"{current}\" with a fresh idempotency key"
                ),
            )
            .header(header::ETAG, super::input::etag(current)),
            HomeError::Invalid { .. } => Self::bad_request(
                "invalid",
                detail,
                "correct the request; /v1/openapi.json describes it",
            ),
            HomeError::IdempotencyMismatch => Self::new(
                StatusCode::UNPROCESSABLE_ENTITY,
                "idempotency_mismatch",
                "The idempotency key was used for another request",
                detail,
                "draw a fresh idempotency key for every intended change, and repeat it only with the same body",
            ),
            HomeError::Quorum { problem, outcome, .. } => quorum(detail, problem, outcome),
            HomeError::Unavailable { retry_ms, outcome, .. } => Self::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "unavailable",
                "The home cannot serve this now",
                detail,
                "repeat the same request with the same idempotency keys after retry_ms, on this or another home node",
            )
            .outcome(outcome)
            .retry(retry_ms),
            HomeError::Corrupt { .. } => Self::new(
                StatusCode::INTERNAL_SERVER_ERROR,
                "corrupt",
                "A stored record does not open",
                detail,
                "do not repeat; tell the operator of this home, who finds the record by chat and message id",
            ),
        }
    }
}

/// Code, and whether a new grant helps (401) or this caller may not (403).
fn denial(why: GrantRefusal) -> (&'static str, bool) {
    match why {
        GrantRefusal::TooLong
        | GrantRefusal::NotCompact
        | GrantRefusal::NotBase64url
        | GrantRefusal::Header
        | GrantRefusal::Critical
        | GrantRefusal::Algorithm
        | GrantRefusal::Type
        | GrantRefusal::Payload
        | GrantRefusal::Actions
        | GrantRefusal::Chats
        | GrantRefusal::Ceiling
        | GrantRefusal::Lifetime
        | GrantRefusal::SignatureForm => ("grant_malformed", true),
        GrantRefusal::Signature => ("grant_signature", true),
        GrantRefusal::NotYetValid => ("grant_not_yet", true),
        GrantRefusal::Expired => ("grant_expired", true),
        GrantRefusal::IdReused => ("grant_id_reused", true),
        GrantRefusal::CeilingSpent => ("grant_ceiling_spent", true),
        GrantRefusal::OtherDeployment => ("grant_other_deployment", false),
        GrantRefusal::OtherHome => ("grant_other_home", false),
        GrantRefusal::ActionNotGranted => ("grant_action", false),
        GrantRefusal::ChatNotGranted => ("grant_chat", false),
        GrantRefusal::EpochBeforeRange | GrantRefusal::EpochAfterRange => ("grant_epoch", false),
        GrantRefusal::DeviceUnknown
        | GrantRefusal::DeviceExpired
        | GrantRefusal::DeviceRevoked
        | GrantRefusal::ChatUnknown
        | GrantRefusal::ChatForked
        | GrantRefusal::NotMember
        | GrantRefusal::EpochBeforeMembership
        | GrantRefusal::ServiceCredential => (why.code(), false),
    }
}

fn denied(why: GrantRefusal, detail: String) -> Failure {
    let (code, sign_again) = denial(why);
    let (status, title) = if sign_again {
        (StatusCode::UNAUTHORIZED, "No grant that holds")
    } else {
        (StatusCode::FORBIDDEN, "Not allowed")
    };
    let failure = Failure::new(status, code, title, detail, why.text());
    if sign_again {
        failure.unauthenticated()
    } else {
        failure
    }
}

/// A service credential that does not let its caller append.
fn served(why: ServiceRefusal, detail: String) -> Failure {
    use ServiceRefusal as R;
    let sign_again = matches!(
        why,
        R::Malformed | R::Signature | R::NotYetValid | R::Expired
    );
    match sign_again {
        true => {
            let (status, title) = (StatusCode::UNAUTHORIZED, "No token that holds");
            Failure::new(status, why.code(), title, detail, why.text()).unauthenticated()
        }
        false => Failure::new(
            StatusCode::FORBIDDEN,
            why.code(),
            "Not allowed",
            detail,
            why.text(),
        ),
    }
}

/// A signed statement that was not taken. Codes are those of `authz` behind `statement_`.
fn statement(code: &str, detail: String) -> Failure {
    let (status, next) = match code {
        "fork" | "behind" | "forked" => (
            StatusCode::CONFLICT,
            "read the members again and sign the statement anew on the head that they show",
        ),
        "device"
        | "unsigned"
        | "not_a_member"
        | "role"
        | "invite"
        | "not_public"
        | "not_member"
        | "role_missing"
        | "epoch_before_membership"
        | "signature" => (
            StatusCode::FORBIDDEN,
            "let somebody sign who may, or do first what is missing",
        ),
        _ => (
            StatusCode::UNPROCESSABLE_ENTITY,
            "correct the statement and sign it anew; docs/identity.md and docs/grants.md have its form",
        ),
    };
    let title = "The statement is refused";
    Failure::new(status, format!("statement_{code}"), title, detail, next)
}

fn spent(detail: String, retry_ms: u64, account: bool) -> Failure {
    let (status, code, title) = if account {
        let title = "The account had its share of keys for now";
        (StatusCode::TOO_MANY_REQUESTS, "account_budget", title)
    } else {
        let title = "Custodians released all they release for now";
        (StatusCode::SERVICE_UNAVAILABLE, "custodian_budget", title)
    };
    let next = "repeat the same request after retry_ms; fewer old epochs at a time need fewer keys";
    Failure::new(status, code, title, detail, next).retry(retry_ms)
}

fn quorum(detail: String, problem: QuorumProblem, outcome: Outcome) -> Failure {
    let wanted = match problem.would_suffice.first() {
        Some(set) if !set.is_empty() => format!("; {} would suffice", set.join(" and ")),
        _ => String::new(),
    };
    let mut failure = if problem.unreachable.is_empty() {
        Failure::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "quorum_refused",
            "Custodians refuse the key",
            detail,
            format!(
                "repeating does not help until a custodian that refused or lied acts{wanted}; `quorate status` shows freezes"
            ),
        )
    } else {
        Failure::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "quorum_unreachable",
            "Too few custodians answer",
            detail,
            format!(
                "repeat once more custodians are reachable{wanted}; `quorate status` shows them"
            ),
        )
        .retry(QUORUM_RETRY_MS)
    };
    failure.quorum = Some(problem);
    failure.outcome(outcome)
}
