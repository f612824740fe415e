//! Health and metrics, on a plain listener of their own. Bind it to loopback
//! or a management network: it needs no certificate and tells no secrets.
//!
//! `/livez` says the process works, `/readyz` whether it should get traffic and
//! why not, `/metrics` is Prometheus text, `/state-hash` lets a test or an
//! operator compare replicas: equal applied index must mean equal hash.

use super::envelope::{Limits, wrap};
use super::problem::Failure;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use axum::{Json, Router};
use futures::future::BoxFuture;
use quorate_engine::types::Outcome;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// Suggested wait when a node is not alive or cannot hash, in milliseconds.
pub const HEALTH_RETRY_MS: u64 = 5_000;
/// Media type of the metrics page (Prometheus text format 0.0.4).
pub const METRICS_TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";

/// `/readyz`
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Readiness {
    /// Whether this node should get traffic.
    pub ready: bool,
    /// Why not, each in a line; empty when ready.
    pub reasons: Vec<String>,
}

impl Readiness {
    /// Ready exactly when nothing speaks against it.
    pub fn of(reasons: Vec<String>) -> Self {
        Self {
            ready: reasons.is_empty(),
            reasons,
        }
    }
}

/// One group's state on this node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupHash {
    /// Raft group.
    pub group: u32,
    /// Raft index applied when the hash was taken.
    pub applied: u64,
    /// Hash over the group's whole replicated key space, hex.
    pub hash: String,
}

/// What the health listener can ask of a node.
pub trait HealthApi: Send + Sync + 'static {
    /// Whether the process still works.
    ///
    /// # Errors
    /// In words, why it should be restarted.
    fn live(&self) -> Result<(), String>;
    /// Whether it should get traffic.
    fn ready(&self) -> Readiness;
    /// The metrics page, as the Prometheus recorder renders it.
    fn metrics(&self) -> String;
    /// The state hash of every group, each at one applied index.
    fn state_hash(&self) -> BoxFuture<'_, Result<Vec<GroupHash>, String>>;
}

/// The health router.
pub fn router(node: Arc<dyn HealthApi>) -> Router {
    let routes = Router::new()
        .route("/livez", get(livez))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics_page))
        .route("/state-hash", get(state_hash))
        .with_state(node);
    wrap("health", Limits::default(), routes)
}

type Node = State<Arc<dyn HealthApi>>;

async fn livez(State(node): Node) -> Result<&'static str, Failure> {
    node.live().map(|()| "ok\n").map_err(|why| {
        Failure::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "not_live",
            "The process does not work",
            why,
            "restart the node; its log says more",
        )
        .retry(HEALTH_RETRY_MS)
    })
}

async fn readyz(State(node): Node) -> impl IntoResponse {
    let readiness = node.ready();
    let status = if readiness.ready {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    (status, Json(readiness))
}

async fn metrics_page(State(node): Node) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, METRICS_TEXT)], node.metrics())
}

async fn state_hash(State(node): Node) -> Result<Json<Vec<GroupHash>>, Failure> {
    node.state_hash().await.map(Json).map_err(|why| {
        Failure::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "no_state_hash",
            "The state cannot be hashed now",
            why,
            "ask again once the node is ready",
        )
        .outcome(Outcome::NotDone)
        .retry(HEALTH_RETRY_MS)
    })
}
