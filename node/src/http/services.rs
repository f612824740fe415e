//! The operator plane's routes about service credentials, which only a home has.

use super::input;
use super::operator::{Operator, Plane, field};
use super::problem::Handled;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::HeaderMap;
use axum::routing::{get, post};
use axum::{Json, Router};
use quorate_engine::api::operator::OperatorDone;
use quorate_engine::api::services::{EnrolService, SERVICE_BODY_BYTES_MAX, ServicesView};
use quorate_engine::types::ServiceId;

/// Every route under `/v1/service-credentials`.
pub(super) fn routes() -> Router<Plane> {
    Router::new()
        .route("/v1/service-credentials", get(services).post(enrol))
        .route("/v1/service-credentials/{service}/revoke", post(revoke))
}

async fn services(State(plane): State<Plane>, _by: Operator) -> Handled<Json<ServicesView>> {
    Ok(Json(plane.api.services().await?))
}

async fn enrol(
    State(plane): State<Plane>,
    by: Operator,
    headers: HeaderMap,
    body: Body,
) -> Handled<Json<OperatorDone>> {
    let (request, _): (EnrolService, usize) =
        input::json(&headers, body, SERVICE_BODY_BYTES_MAX).await?;
    Ok(Json(plane.api.enrol_service(by, request).await?))
}

async fn revoke(
    State(plane): State<Plane>,
    by: Operator,
    Path(id): Path<String>,
) -> Handled<Json<OperatorDone>> {
    let id: ServiceId = field("service", &id)?;
    Ok(Json(plane.api.revoke_service(by, id).await?))
}
