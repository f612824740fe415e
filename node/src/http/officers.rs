//! The operator plane's routes about officers and disclosure orders.
//!
//! An operator hands in what officers signed and sees where it stands, and at a
//! home has an order executed. The statements decide on their own: nothing here
//! asks who the operator is.

use super::input;
use super::operator::{Operator, OperatorError, Plane, field};
use super::problem::Handled;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::HeaderMap;
use axum::routing::{get, post};
use axum::{Json, Router};
use quorate_engine::api::disclosure::{ExecuteOrder, SignedPart};
use quorate_engine::api::officers::{
    HandIn, OfficersView, OrderDetail, OrdersView, ProposalView, STATEMENT_BODY_BYTES_MAX,
};
use quorate_engine::api::operator::OperatorDone;
use quorate_engine::api::registry::StatementSignature;
use quorate_engine::authz::envelope::{Envelope, Signature};
use quorate_engine::authz::officers::ProposalId;
use quorate_engine::types::OrderId;

/// Every route under `/v1/officers` and `/v1/orders`.
pub(super) fn routes() -> Router<Plane> {
    Router::new()
        .route("/v1/officers", get(officers))
        .route("/v1/officers/statements", post(hand_in))
        .route("/v1/officers/proposals/{proposal}", get(proposal))
        .route("/v1/orders", get(orders))
        .route("/v1/orders/{order}", get(order))
        .route("/v1/orders/{order}/execute", post(execute))
}

async fn officers(State(plane): State<Plane>, _by: Operator) -> Handled<Json<OfficersView>> {
    Ok(Json(plane.api.officers().await?))
}

async fn orders(State(plane): State<Plane>, _by: Operator) -> Handled<Json<OrdersView>> {
    Ok(Json(plane.api.orders().await?))
}

async fn proposal(
    State(plane): State<Plane>,
    _by: Operator,
    Path(id): Path<String>,
) -> Handled<Json<ProposalView>> {
    let id: ProposalId = field("proposal", &id)?;
    let found = plane.api.proposal(id).await?;
    Ok(Json(found.ok_or_else(|| unknown("proposal", &id))?))
}

async fn order(
    State(plane): State<Plane>,
    _by: Operator,
    Path(id): Path<String>,
) -> Handled<Json<OrderDetail>> {
    let id: OrderId = field("order", &id)?;
    let found = plane.api.order(id).await?;
    Ok(Json(found.ok_or_else(|| unknown("order", &id))?))
}

async fn execute(
    State(plane): State<Plane>,
    by: Operator,
    Path(id): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Handled<Json<SignedPart>> {
    let id: OrderId = field("order", &id)?;
    let (request, _): (ExecuteOrder, usize) =
        input::json(&headers, body, STATEMENT_BODY_BYTES_MAX).await?;
    Ok(Json(plane.api.execute(by, id, request).await?))
}

fn unknown(what: &str, id: &dyn std::fmt::Display) -> OperatorError {
    OperatorError::NotFound(format!("{what} {id} was never submitted here"))
}

async fn hand_in(
    State(plane): State<Plane>,
    by: Operator,
    headers: HeaderMap,
    body: Body,
) -> Handled<Json<OperatorDone>> {
    let (sent, _): (HandIn, usize) = input::json(&headers, body, STATEMENT_BODY_BYTES_MAX).await?;
    let one = |s: StatementSignature| Signature {
        key: s.key,
        signature: s.signature,
    };
    let statement = Envelope {
        payload: sent.statement.payload,
        signatures: sent.statement.signatures.into_iter().map(one).collect(),
    };
    Ok(Json(plane.api.hand_in(by, statement).await?))
}
