//! The registry plane: identity authorities bring statements about accounts to
//! a custodian, past every home.
//!
//! Its listener takes mutual TLS and certificates of believed authorities only
//! (`pki`). This module reads the leaf once more and refuses every other role
//! itself. Bringing a statement proves nothing: the signatures in it decide.

use super::envelope::{InRequest, Limits, OVERLOAD_RETRY_MS, wrap};
use super::input;
use super::openapi::RegistryProblems;
use super::problem::{Failure, Handled};
use super::serve::PeerInfo;
use crate::pki::{CertIdentity, CertRole};
use axum::body::Body;
use axum::extract::{FromRef, FromRequestParts, Path, State};
use axum::http::{HeaderMap, StatusCode, request::Parts};
use axum::routing::{get, post};
use axum::{Json, Router};
use futures::future::BoxFuture;
use quorate_engine::api::registry::{Account, AccountHead, REGISTRY_BODY_BYTES_MAX, Statement};
use quorate_engine::authz::envelope::Envelope;
use quorate_engine::types::{AccountId, AuthorityId, DeploymentId, NodeId, Outcome, RequestId};
use std::sync::Arc;

/// The authority whose certificate a request came with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FromAuthority {
    /// Its name.
    pub authority: AuthorityId,
    /// The request id.
    pub request: RequestId,
}

/// Why an authority's request was not answered as it wished.
#[derive(Clone, Debug, thiserror::Error)]
pub enum RegistryError {
    /// The statement is not taken, and that stands in the log.
    #[error("{reason}")]
    Refused {
        /// Stable, for programs.
        code: String,
        /// For people.
        reason: String,
    },
    /// No such account, or one that does not rely on this authority.
    #[error("no account {0} that relies on this authority")]
    NotFound(AccountId),
    /// Another node leads.
    #[error("this node does not lead")]
    NotLeader {
        /// The one that does, when known.
        leader: Option<NodeId>,
    },
    /// Not now.
    #[error("{detail}")]
    Unavailable {
        /// Why.
        detail: String,
        /// Suggested wait, in milliseconds.
        retry_ms: u64,
        /// `Unknown` when it may have been proposed.
        outcome: Outcome,
    },
}

/// Result of an authority's request.
pub type RegistryResult<T> = Result<T, RegistryError>;

/// What the registry plane asks of a custodian.
pub trait RegistryApi: Send + Sync + 'static {
    /// Takes a statement: a genesis when `account` is `None`, else one about that account.
    /// One that stands already is answered like a new one.
    fn statement(
        &self,
        by: FromAuthority,
        account: Option<AccountId>,
        statement: Envelope,
    ) -> BoxFuture<'_, RegistryResult<AccountHead>>;
    /// An account that relies on this authority.
    fn account(
        &self,
        by: FromAuthority,
        account: AccountId,
    ) -> BoxFuture<'_, RegistryResult<Account>>;
}

#[derive(Clone)]
pub(super) struct Plane {
    api: Arc<dyn RegistryApi>,
    own: DeploymentId,
}

impl FromRef<Plane> for DeploymentId {
    fn from_ref(plane: &Plane) -> Self {
        plane.own
    }
}

/// The registry plane's router. Serve it only with client certificates required.
pub fn router(api: Arc<dyn RegistryApi>, own: DeploymentId) -> Router {
    let routes = Router::new()
        .route("/v1/accounts", post(found))
        .route("/v1/accounts/{account}", get(show))
        .route("/v1/accounts/{account}/statements", post(advance))
        .route("/v1/openapi.json", get(super::openapi::serve_registry))
        .with_state(Plane { api, own });
    wrap("registry", Limits::default(), routes)
}

impl<S: Send + Sync> FromRequestParts<S> for FromAuthority
where
    DeploymentId: FromRef<S>,
{
    type Rejection = Failure;
    async fn from_request_parts(parts: &mut Parts, state: &S) -> Handled<Self> {
        let own = DeploymentId::from_ref(state);
        let InRequest(request) = *parts
            .extensions
            .get::<InRequest>()
            .expect("the envelope around this router sets it");
        let leaf = parts
            .extensions
            .get::<PeerInfo>()
            .and_then(|peer| peer.certificates.first());
        let who = leaf.and_then(|leaf| CertIdentity::of_certificate(leaf).ok());
        let who = who.filter(|w| w.role == CertRole::Authority && w.deployment == own);
        let authority = who.and_then(|w| AuthorityId::new(&w.cluster).ok());
        match authority {
            Some(authority) => Ok(Self { authority, request }),
            None => Err(Failure::new(
                StatusCode::FORBIDDEN,
                "not_authority",
                "Not an identity authority",
                "the certificate is not an identity authority's of this deployment",
                "use authority.crt of the directory that `quorate identity init` made",
            )),
        }
    }
}

impl From<RegistryError> for Failure {
    fn from(error: RegistryError) -> Self {
        let detail = error.to_string();
        match error {
            RegistryError::Refused { code, .. } => {
                let status = match code.as_str() {
                    "fork" | "behind" => StatusCode::CONFLICT,
                    _ => StatusCode::UNPROCESSABLE_ENTITY,
                };
                Self::new(
                    status,
                    code,
                    "The statement is refused",
                    detail,
                    "GET the account, make the statement anew on its head with the signatures that are missing, and send it to every custodian",
                )
            }
            RegistryError::NotFound(_) => Self::new(
                StatusCode::NOT_FOUND,
                "not_found",
                "Not found",
                detail,
                "check the id; a custodian that was away may not know the account yet: send it the statements in order",
            ),
            RegistryError::NotLeader { leader } => {
                let next = match leader {
                    Some(node) => format!("send it to node {node}, which leads"),
                    None => "no leader is known: send it to another node, or wait for an election"
                        .into(),
                };
                Self::new(
                    StatusCode::SERVICE_UNAVAILABLE,
                    "not_leader",
                    "Another node leads",
                    detail,
                    next,
                )
                .retry(OVERLOAD_RETRY_MS)
            }
            RegistryError::Unavailable {
                retry_ms, outcome, ..
            } => Self::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "unavailable",
                "The custodian cannot do this now",
                detail,
                "repeat it after retry_ms: every statement may be sent again",
            )
            .outcome(outcome)
            .retry(retry_ms),
        }
    }
}

fn account_id(text: &str) -> Handled<AccountId> {
    text.parse().map_err(|_| {
        Failure::bad_request(
            "path_invalid",
            "an account's id is 64 hex characters",
            "use the id that the account's genesis hashes to",
        )
    })
}

async fn statement(headers: &HeaderMap, raw: Body) -> Handled<Envelope> {
    let (sent, _): (Statement, usize) = input::json(headers, raw, REGISTRY_BODY_BYTES_MAX).await?;
    Ok(Envelope::from(&sent))
}

/// Found an account: the genesis, signed by one of its authorities and the device.
#[utoipa::path(post, path = "/v1/accounts", request_body = Statement, tag = "accounts",
    responses((status = 200, body = AccountHead, description = "The custodian's signed head"), RegistryProblems))]
pub(super) async fn found(
    State(plane): State<Plane>,
    by: FromAuthority,
    headers: HeaderMap,
    raw: Body,
) -> Handled<Json<AccountHead>> {
    let statement = statement(&headers, raw).await?;
    Ok(Json(plane.api.statement(by, None, statement).await?))
}

/// Add the next statement to an account's chain. Repeating one that stands is answered the same.
#[utoipa::path(post, path = "/v1/accounts/{account}/statements", request_body = Statement, tag = "accounts",
    params(("account" = String, Path, description = "The account, 64 hex characters")),
    responses((status = 200, body = AccountHead, description = "The custodian's signed head"), RegistryProblems))]
pub(super) async fn advance(
    State(plane): State<Plane>,
    by: FromAuthority,
    Path(account): Path<String>,
    headers: HeaderMap,
    raw: Body,
) -> Handled<Json<AccountHead>> {
    let account = account_id(&account)?;
    let statement = statement(&headers, raw).await?;
    Ok(Json(
        plane.api.statement(by, Some(account), statement).await?,
    ))
}

/// An account that relies on the calling authority: its head, devices and recovery.
#[utoipa::path(get, path = "/v1/accounts/{account}", tag = "accounts",
    params(("account" = String, Path, description = "The account, 64 hex characters")),
    responses((status = 200, body = Account, description = "The account as this custodian holds it"), RegistryProblems))]
pub(super) async fn show(
    State(plane): State<Plane>,
    by: FromAuthority,
    Path(account): Path<String>,
) -> Handled<Json<Account>> {
    Ok(Json(plane.api.account(by, account_id(&account)?).await?))
}
