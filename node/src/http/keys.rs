//! The operator plane's routes about a node's own keys.

use super::input;
use super::operator::{Operator, Plane};
use super::problem::Handled;
use axum::body::Body;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::routing::{get, post};
use axum::{Json, Router};
use quorate_engine::api::keys::{KeysDone, KeysStep, KeysView};
use quorate_engine::api::operator::OPERATOR_BODY_BYTES_MAX;
use serde::de::DeserializeOwned;

/// Every route under `/v1/keys`.
pub(super) fn routes() -> Router<Plane> {
    Router::new()
        .route("/v1/keys", get(view))
        .route(
            "/v1/keys/open",
            post(|s, by, h, b| step(s, by, h, b, KeysStep::Open)),
        )
        .route(
            "/v1/keys/rotate",
            post(|s, by, h, b| step(s, by, h, b, KeysStep::Rotate)),
        )
        .route(
            "/v1/keys/lock",
            post(|s, by, h, b| step(s, by, h, b, KeysStep::Lock)),
        )
        .route(
            "/v1/keys/rekey",
            post(|s, by, h, b| step(s, by, h, b, KeysStep::Rekey)),
        )
        .route(
            "/v1/keys/collect",
            post(|s, by, h, b| step(s, by, h, b, KeysStep::Collect)),
        )
        .route(
            "/v1/keys/confirm",
            post(|s, by, h, b| step(s, by, h, b, KeysStep::Confirm)),
        )
        .route(
            "/v1/keys/cancel",
            post(|s, by, h, b| step(s, by, h, b, KeysStep::Cancel)),
        )
        .route(
            "/v1/keys/remove",
            post(|s, by, h, b| step(s, by, h, b, KeysStep::Remove)),
        )
}

async fn view(State(plane): State<Plane>, _by: Operator) -> Handled<Json<KeysView>> {
    Ok(Json(plane.api.keys().await?))
}

async fn step<T: DeserializeOwned>(
    State(plane): State<Plane>,
    by: Operator,
    headers: HeaderMap,
    body: Body,
    what: fn(T) -> KeysStep,
) -> Handled<Json<KeysDone>> {
    let request: T = input::json(&headers, body, OPERATOR_BODY_BYTES_MAX)
        .await?
        .0;
    Ok(Json(plane.api.keys_step(by, what(request)).await?))
}
