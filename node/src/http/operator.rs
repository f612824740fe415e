//! The operator plane: freeze, thaw, shred, membership of one cluster.
//!
//! Its listener takes mutual TLS with a verifier of the cluster's own CA
//! (`pki` makes it). This module checks once more, from the leaf certificate's
//! SAN URI `quorate://DEPLOYMENT/operator/CLUSTER/NUMBER`, that the caller is an
//! operator of this very cluster: a peer's or a neighbour's certificate gets
//! 403 even if a verifier were set up wrongly.

use super::envelope::{InRequest, Limits, wrap};
use super::input;
use super::problem::{Failure, Handled};
use super::serve::PeerInfo;
use crate::pki::{CertIdentity, CertRole};
use axum::body::Body;
use axum::extract::{FromRef, FromRequestParts, State};
use axum::http::{HeaderMap, StatusCode, request::Parts};
use axum::routing::{get, post};
use axum::{Json, Router};
use futures::future::BoxFuture;
use quorate_engine::api::disclosure::{ExecuteOrder, SignedPart};
use quorate_engine::api::keys::{KeysDone, KeysStep, KeysView};
use quorate_engine::api::officers::{OfficersView, OrderDetail, OrdersView, ProposalView};
use quorate_engine::api::operator::{
    AddNode, ClusterView, FreezeRequest, OPERATOR_BODY_BYTES_MAX, OperatorDone, OperatorStatus,
    REASON_CHARS_MAX, RemoveNode, SHRED_KEYS_MAX, ShredRequest, TransferLeader,
};
use quorate_engine::api::services::{EnrolService, ServicesView};
use quorate_engine::authz::envelope::Envelope;
use quorate_engine::authz::officers::ProposalId;
use quorate_engine::custody::protocol::{FreezeScope, KeyRef};
use quorate_engine::types::{
    ChatId, DeploymentId, KeyId, NodeId, OrderId, Outcome, RequestId, ServiceId,
};
use serde::de::DeserializeOwned;
use std::sync::Arc;

/// The operator whose certificate a request came with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operator {
    /// Its number, as its certificate has it; stands in the log.
    pub name: String,
    /// BLAKE3 of its certificate (DER); stands in the log.
    pub certificate: [u8; 32],
    /// The request id.
    pub request: RequestId,
}

/// Why an operator's request was not done.
#[derive(Clone, Debug, thiserror::Error)]
pub enum OperatorError {
    /// This kind of node does not do that (a home does not freeze).
    #[error("{0}")]
    NotHere(String),
    /// The request is wrong.
    #[error("{0}")]
    Invalid(String),
    /// The request is understood and not allowed in this state.
    #[error("{0}")]
    Refused(String),
    /// Too few custodians release what it takes.
    #[error("{0}")]
    NoQuorum(String),
    /// There is nothing of that id.
    #[error("{0}")]
    NotFound(String),
    /// Another node leads.
    #[error("this node does not lead the group")]
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

/// Result of an operator's request.
pub type OperatorResult<T> = Result<T, OperatorError>;

/// What the operator plane can ask of a node. Membership is of the node's own
/// cluster; freezes and shreds are a custodian's.
pub trait OperatorApi: Send + Sync + 'static {
    /// This node, in its cluster.
    fn status(&self) -> BoxFuture<'_, OperatorStatus>;
    /// Members and groups.
    fn cluster(&self) -> BoxFuture<'_, OperatorResult<ClusterView>>;
    /// Adds a learner, then makes it a voter.
    fn add_node(
        &self,
        by: Operator,
        request: AddNode,
    ) -> BoxFuture<'_, OperatorResult<OperatorDone>>;
    /// Removes a member; its id is never used again.
    fn remove_node(
        &self,
        by: Operator,
        request: RemoveNode,
    ) -> BoxFuture<'_, OperatorResult<OperatorDone>>;
    /// Hands a group's leadership over.
    fn transfer_leader(
        &self,
        by: Operator,
        request: TransferLeader,
    ) -> BoxFuture<'_, OperatorResult<OperatorDone>>;

    /// Stops this custodian's releases in `scope`.
    fn freeze(
        &self,
        _by: Operator,
        _scope: FreezeScope,
        _reason: String,
    ) -> BoxFuture<'_, OperatorResult<OperatorDone>> {
        custodian_only("freezes")
    }
    /// Ends a freeze.
    fn thaw(
        &self,
        _by: Operator,
        _scope: FreezeScope,
        _reason: String,
    ) -> BoxFuture<'_, OperatorResult<OperatorDone>> {
        custodian_only("thaws")
    }
    /// Destroys shares, for ever.
    fn shred(
        &self,
        _by: Operator,
        _keys: Vec<KeyRef>,
        _reason: String,
    ) -> BoxFuture<'_, OperatorResult<OperatorDone>> {
        custodian_only("shreds")
    }
    /// This node's key slots and ceremonies.
    fn keys(&self) -> BoxFuture<'_, OperatorResult<KeysView>> {
        custodian_only("has key slots")
    }
    /// One step about this node's keys.
    fn keys_step(&self, _by: Operator, _step: KeysStep) -> BoxFuture<'_, OperatorResult<KeysDone>> {
        custodian_only("has key slots")
    }

    /// Who this custodian's officers are, and what is open before them.
    fn officers(&self) -> BoxFuture<'_, OperatorResult<OfficersView>> {
        custodian_only("has officers")
    }
    /// One proposal, whatever became of it.
    fn proposal(&self, _id: ProposalId) -> BoxFuture<'_, OperatorResult<Option<ProposalView>>> {
        custodian_only("has officers")
    }
    /// Every order submitted here.
    fn orders(&self) -> BoxFuture<'_, OperatorResult<OrdersView>> {
        custodian_only("takes orders")
    }
    /// One order, and what it would open.
    fn order(&self, _id: OrderId) -> BoxFuture<'_, OperatorResult<Option<OrderDetail>>> {
        custodian_only("takes orders")
    }
    /// One part of a disclosure order's result, signed.
    fn execute(
        &self,
        _by: Operator,
        _id: OrderId,
        _request: ExecuteOrder,
    ) -> BoxFuture<'_, OperatorResult<SignedPart>> {
        home_only("executes orders")
    }
    /// This home's service credentials.
    fn services(&self) -> BoxFuture<'_, OperatorResult<ServicesView>> {
        home_only("has service credentials")
    }
    /// Enrols a service credential.
    fn enrol_service(
        &self,
        _by: Operator,
        _request: EnrolService,
    ) -> BoxFuture<'_, OperatorResult<OperatorDone>> {
        home_only("has service credentials")
    }
    /// Ends a service credential, for ever.
    fn revoke_service(
        &self,
        _by: Operator,
        _id: ServiceId,
    ) -> BoxFuture<'_, OperatorResult<OperatorDone>> {
        home_only("has service credentials")
    }
    /// Takes what officers signed in.
    fn hand_in(
        &self,
        _by: Operator,
        _statement: Envelope,
    ) -> BoxFuture<'_, OperatorResult<OperatorDone>> {
        custodian_only("has officers")
    }
}

fn custodian_only<T: Send + 'static>(verb: &str) -> BoxFuture<'static, OperatorResult<T>> {
    let detail = format!("only a custodian {verb}; this node is of another role");
    Box::pin(async move { Err(OperatorError::NotHere(detail)) })
}

fn home_only<T: Send + 'static>(verb: &str) -> BoxFuture<'static, OperatorResult<T>> {
    let detail = format!("only a home {verb}; this node is of another role");
    Box::pin(async move { Err(OperatorError::NotHere(detail)) })
}

/// The cluster whose operators may call; compared with certificates.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnCluster {
    /// The deployment.
    pub deployment: DeploymentId,
    /// Cluster name, as it stands in certificates.
    pub cluster: String,
}

#[derive(Clone)]
pub(super) struct Plane {
    pub(super) api: Arc<dyn OperatorApi>,
    own: Arc<OwnCluster>,
}

impl FromRef<Plane> for Arc<OwnCluster> {
    fn from_ref(plane: &Plane) -> Self {
        plane.own.clone()
    }
}

/// The operator plane's router. Serve it only with client certificates required.
pub fn router(api: Arc<dyn OperatorApi>, own: OwnCluster) -> Router {
    let routes = Router::new()
        .route("/v1/status", get(status))
        .route("/v1/freeze", post(freeze))
        .route("/v1/thaw", post(thaw))
        .route("/v1/shred", post(shred))
        .route("/v1/cluster", get(cluster))
        .route("/v1/cluster/add-node", post(add_node))
        .route("/v1/cluster/remove-node", post(remove_node))
        .route("/v1/cluster/transfer-leader", post(transfer_leader))
        .merge(super::keys::routes())
        .merge(super::officers::routes())
        .merge(super::services::routes())
        .with_state(Plane {
            api,
            own: Arc::new(own),
        });
    wrap("operator", Limits::default(), routes)
}

impl<S: Send + Sync> FromRequestParts<S> for Operator
where
    Arc<OwnCluster>: FromRef<S>,
{
    type Rejection = Failure;
    async fn from_request_parts(parts: &mut Parts, state: &S) -> Handled<Self> {
        let own = Arc::<OwnCluster>::from_ref(state);
        let InRequest(request) = *parts
            .extensions
            .get::<InRequest>()
            .expect("the envelope around this router sets it");
        let leaf = parts
            .extensions
            .get::<PeerInfo>()
            .and_then(|peer| peer.certificates.first());
        let leaf = leaf.ok_or_else(|| not_operator(&own))?;
        let name = operator_name(leaf, &own).ok_or_else(|| not_operator(&own))?;
        Ok(Self {
            name,
            certificate: *blake3::hash(leaf).as_bytes(),
            request,
        })
    }
}

fn not_operator(own: &OwnCluster) -> Failure {
    Failure::new(
        StatusCode::FORBIDDEN,
        "not_operator",
        "Not an operator of this cluster",
        format!(
            "the certificate is not an operator's of cluster {}",
            own.cluster
        ),
        "use the operator certificate that this cluster's own CA issued",
    )
}

/// The operator's name, if this certificate says that it is an operator's of this cluster.
fn operator_name(leaf: &[u8], own: &OwnCluster) -> Option<String> {
    let who = CertIdentity::of_certificate(leaf).ok()?;
    let ours = who.role == CertRole::Operator
        && who.deployment == own.deployment
        && who.cluster == own.cluster;
    ours.then(|| who.node.to_string())
}

impl From<OperatorError> for Failure {
    fn from(error: OperatorError) -> Self {
        let detail = error.to_string();
        match error {
            OperatorError::NotHere(_) => Self::new(
                StatusCode::CONFLICT,
                "not_here",
                "Not for this kind of node",
                detail,
                "send it to the operator plane of the cluster it concerns",
            ),
            OperatorError::Invalid(_) => Self::bad_request(
                "invalid",
                detail,
                "correct the request; docs/operations.md shows examples",
            ),
            OperatorError::Refused(_) => Self::new(
                StatusCode::CONFLICT,
                "refused",
                "Refused in this state",
                detail,
                "see GET /v1/cluster and GET /v1/status for the state, and docs/operations.md for the order of steps",
            ),
            OperatorError::NoQuorum(_) => Self::new(
                StatusCode::CONFLICT,
                "no_quorum",
                "Too few custodians release",
                detail,
                "ask the officers named above, then repeat it; each attempt stands in the custodians' logs",
            ),
            OperatorError::NotFound(_) => Self::new(
                StatusCode::NOT_FOUND,
                "not_found",
                "Not found",
                detail,
                "ids are hashes of signed bytes: GET /v1/officers and GET /v1/orders list what is here",
            ),
            OperatorError::NotLeader { leader } => {
                let next = match leader {
                    Some(node) => format!("send it to node {node}, which leads"),
                    None => "no leader is known: wait for an election, or see docs/operations.md if a majority is lost".into(),
                };
                Self::new(
                    StatusCode::SERVICE_UNAVAILABLE,
                    "not_leader",
                    "Another node leads",
                    detail,
                    next,
                )
                .retry(super::envelope::OVERLOAD_RETRY_MS)
            }
            OperatorError::Unavailable {
                retry_ms, outcome, ..
            } => Self::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "unavailable",
                "The cluster cannot do this now",
                detail,
                "repeat it after retry_ms: every operator request may be repeated",
            )
            .outcome(outcome)
            .retry(retry_ms),
        }
    }
}

async fn body<T: DeserializeOwned>(headers: &HeaderMap, body: Body) -> Handled<T> {
    Ok(input::json(headers, body, OPERATOR_BODY_BYTES_MAX).await?.0)
}

fn reason(text: String) -> Handled<String> {
    let chars = text.chars().count();
    if (1..=REASON_CHARS_MAX).contains(&chars) && !text.chars().any(char::is_control) {
        return Ok(text);
    }
    Err(Failure::bad_request(
        "body_invalid",
        format!("reason must be 1 to {REASON_CHARS_MAX} printable characters, it has {chars}"),
        "say why in a line: it stands in the custodian's log for auditors",
    ))
}

pub(super) fn field<T: std::str::FromStr<Err: std::fmt::Display>>(
    place: &str,
    text: &str,
) -> Handled<T> {
    text.parse().map_err(|e: T::Err| {
        Failure::bad_request(
            "body_invalid",
            format!("{place}: {e}"),
            "copy ids from `quorate status` or a log entry",
        )
    })
}

fn scope(text: &str) -> Handled<FreezeScope> {
    if text == "all" {
        return Ok(FreezeScope::All);
    }
    Ok(FreezeScope::Chat(field::<ChatId>(
        "scope (`all` or a chat id)",
        text,
    )?))
}

type Done = Handled<Json<OperatorDone>>;

async fn status(State(plane): State<Plane>, _by: Operator) -> Json<OperatorStatus> {
    Json(plane.api.status().await)
}

async fn cluster(State(plane): State<Plane>, _by: Operator) -> Handled<Json<ClusterView>> {
    Ok(Json(plane.api.cluster().await?))
}

async fn freeze(State(plane): State<Plane>, by: Operator, headers: HeaderMap, raw: Body) -> Done {
    let request: FreezeRequest = body(&headers, raw).await?;
    let (scope, reason) = (scope(&request.scope)?, reason(request.reason)?);
    Ok(Json(plane.api.freeze(by, scope, reason).await?))
}

async fn thaw(State(plane): State<Plane>, by: Operator, headers: HeaderMap, raw: Body) -> Done {
    let request: FreezeRequest = body(&headers, raw).await?;
    let (scope, reason) = (scope(&request.scope)?, reason(request.reason)?);
    Ok(Json(plane.api.thaw(by, scope, reason).await?))
}

async fn shred(State(plane): State<Plane>, by: Operator, headers: HeaderMap, raw: Body) -> Done {
    let request: ShredRequest = body(&headers, raw).await?;
    let count = request.keys.len();
    if !(1..=SHRED_KEYS_MAX).contains(&count) {
        return Err(Failure::bad_request(
            "body_invalid",
            format!("keys has {count} items, it must have 1 to {SHRED_KEYS_MAX}"),
            "send fewer keys in each request",
        ));
    }
    let mut keys = Vec::with_capacity(count);
    for (i, key) in request.keys.iter().enumerate() {
        keys.push(KeyRef {
            chat: field::<ChatId>(&format!("keys[{i}].chat"), &key.chat)?,
            key_id: field::<KeyId>(&format!("keys[{i}].key_id"), &key.key_id)?,
        });
    }
    let reason = reason(request.reason)?;
    Ok(Json(plane.api.shred(by, keys, reason).await?))
}

async fn add_node(State(plane): State<Plane>, by: Operator, headers: HeaderMap, raw: Body) -> Done {
    let request: AddNode = body(&headers, raw).await?;
    Ok(Json(plane.api.add_node(by, request).await?))
}

async fn remove_node(
    State(plane): State<Plane>,
    by: Operator,
    headers: HeaderMap,
    raw: Body,
) -> Done {
    let request: RemoveNode = body(&headers, raw).await?;
    Ok(Json(plane.api.remove_node(by, request).await?))
}

async fn transfer_leader(
    State(plane): State<Plane>,
    by: Operator,
    headers: HeaderMap,
    raw: Body,
) -> Done {
    let request: TransferLeader = body(&headers, raw).await?;
    Ok(Json(plane.api.transfer_leader(by, request).await?))
}
