//! What every request passes on its way in and out, on whichever plane:
//! request id, concurrency limit, deadline, panics, problem documents, metrics.

use super::problem::Failure;
use axum::Router;
use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderValue, Method, StatusCode};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use futures::FutureExt;
use quorate_engine::api::REQUEST_HEADER;
use quorate_engine::types::{Outcome, RequestId};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::Semaphore;

/// Longest a request may take once its head has arrived, in milliseconds.
pub const REQUEST_MS_MAX: u64 = 30_000;
/// Most requests in work on one plane of one node.
pub const REQUESTS_MAX: usize = 512;
/// Suggested wait when a plane is full, in milliseconds.
pub const OVERLOAD_RETRY_MS: u64 = 1_000;

/// A plane's limits. [`Limits::default`] is what nodes run with; tests go lower.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// See [`REQUEST_MS_MAX`].
    pub request_ms_max: u64,
    /// See [`REQUESTS_MAX`].
    pub requests_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            request_ms_max: REQUEST_MS_MAX,
            requests_max: REQUESTS_MAX,
        }
    }
}

struct Plane {
    name: &'static str,
    limits: Limits,
    permits: Semaphore,
}

/// The id of the request in work: the caller's, or drawn here.
#[derive(Clone, Copy, Debug)]
pub struct InRequest(pub RequestId);

/// Wraps a router's routes and its answers to unknown routes and methods.
pub fn wrap(plane: &'static str, limits: Limits, router: Router) -> Router {
    let state = Arc::new(Plane {
        name: plane,
        limits,
        permits: Semaphore::new(limits.requests_max),
    });
    router
        .fallback(unknown_route)
        .method_not_allowed_fallback(wrong_method)
        .layer(from_fn_with_state(state, pass))
}

async fn unknown_route(request: Request) -> Failure {
    let path: String = request.uri().path().chars().take(200).collect();
    Failure::new(
        StatusCode::NOT_FOUND,
        "route_unknown",
        "No such route",
        format!(
            "{} {path} is not a route of this listener",
            request.method()
        ),
        "see /v1/openapi.json on the client plane; operator and health routes have listeners of their own",
    )
}

async fn wrong_method(request: Request) -> Failure {
    Failure::new(
        StatusCode::METHOD_NOT_ALLOWED,
        "method_not_allowed",
        "The route does not take this method",
        format!("{} {}", request.method(), request.uri().path()),
        "use a method the `allow` header names",
    )
}

async fn pass(State(plane): State<Arc<Plane>>, mut request: Request, next: Next) -> Response {
    let started = Instant::now();
    let method = request.method().clone();
    let route = request
        .extensions()
        .get::<MatchedPath>()
        .map_or_else(|| "unmatched".to_owned(), |m| m.as_str().to_owned());
    let (id, reply) = match request_id(&request) {
        Err(failure) => (fresh(), failure.into_response()),
        Ok(id) => {
            request.extensions_mut().insert(InRequest(id));
            (id, admitted(&plane, &method, id, request, next).await)
        }
    };
    let reply = finish(reply, id);
    let labels = [
        ("plane", plane.name.to_owned()),
        ("route", route),
        ("method", known_method(&method).to_owned()),
        ("status", reply.status().as_u16().to_string()),
    ];
    metrics::counter!("quorate_http_requests_total", &labels).increment(1);
    metrics::histogram!("quorate_http_request_seconds", &labels)
        .record(started.elapsed().as_secs_f64());
    reply
}

/// Label values must be bounded, and a method is whatever a caller sends.
fn known_method(method: &Method) -> &'static str {
    match method.as_str() {
        "GET" => "GET",
        "HEAD" => "HEAD",
        "POST" => "POST",
        "PUT" => "PUT",
        "DELETE" => "DELETE",
        _ => "other",
    }
}

async fn admitted(
    plane: &Plane,
    method: &Method,
    id: RequestId,
    request: Request,
    next: Next,
) -> Response {
    let Ok(_permit) = plane.permits.try_acquire() else {
        return Failure::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "overloaded",
            "The node is busy",
            format!(
                "{} requests are in work, which is the limit",
                plane.limits.requests_max
            ),
            "repeat after retry_ms, on this or another node",
        )
        .retry(OVERLOAD_RETRY_MS)
        .into_response();
    };
    // A read that was cut off has no effect; a write may have been proposed.
    let (outcome, next_step) = if method.is_safe() {
        (
            Outcome::NotDone,
            "repeat the request, on this or another node",
        )
    } else {
        (
            Outcome::Unknown,
            "repeat the same request with the same idempotency keys: that is safe, and tells what became of it",
        )
    };
    let work = AssertUnwindSafe(next.run(request)).catch_unwind();
    match tokio::time::timeout(Duration::from_millis(plane.limits.request_ms_max), work).await {
        Ok(Ok(reply)) => reply,
        Ok(Err(_panic)) => {
            // The panic hook has printed where; this line ties it to the request.
            tracing::error!(request = %id, plane = plane.name, "a request met a bug");
            Failure::new(
                StatusCode::INTERNAL_SERVER_ERROR,
                "internal",
                "A bug in the node",
                "the request met a bug; the node's log has it under this request id",
                next_step,
            )
            .outcome(outcome)
            .into_response()
        }
        Err(_elapsed) => Failure::new(
            StatusCode::GATEWAY_TIMEOUT,
            "timeout",
            "The request took too long",
            format!("no answer within {} ms", plane.limits.request_ms_max),
            next_step,
        )
        .outcome(outcome)
        .retry(OVERLOAD_RETRY_MS)
        .into_response(),
    }
}

fn fresh() -> RequestId {
    RequestId(rand::random())
}

fn request_id(request: &Request) -> Result<RequestId, Failure> {
    match request.headers().get(REQUEST_HEADER) {
        None => Ok(fresh()),
        Some(value) => value
            .to_str()
            .ok()
            .and_then(|v| v.parse().ok())
            .ok_or_else(|| {
                Failure::bad_request(
                    "request_id_invalid",
                    format!("the header {REQUEST_HEADER} must be 32 hex characters"),
                    "draw 16 random bytes and send them as hex, or leave the header out",
                )
            }),
    }
}

fn finish(mut reply: Response, id: RequestId) -> Response {
    let id = id.to_string();
    if let Some(failure) = reply.extensions_mut().remove::<Failure>() {
        let headers = std::mem::take(reply.headers_mut());
        reply = failure.into_reply(&id);
        for name in [axum::http::header::ALLOW] {
            if let Some(value) = headers.get(&name) {
                reply.headers_mut().insert(name, value.clone());
            }
        }
    }
    let value = HeaderValue::from_str(&id).expect("hex is header text");
    reply.headers_mut().insert(REQUEST_HEADER, value);
    reply
}
