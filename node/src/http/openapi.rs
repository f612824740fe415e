//! The OpenAPI documents of client and registry plane, generated from the handlers
//! and the types in `quorate_engine::api`, with every problem reply included.

use super::problem::PROBLEM_JSON;
use axum::Json;
use quorate_engine::api;
use std::collections::BTreeMap;
use utoipa::openapi::response::{Response, ResponseBuilder};
use utoipa::openapi::{ContentBuilder, Ref, RefOr};
use utoipa::{IntoResponses, OpenApi};

/// The document.
#[derive(OpenApi)]
#[openapi(
    info(
        title = "Quorate client plane",
        description = "Chats and messages. Content lives encrypted at the home; the keys that open it are held in shares by custodians. \
Every reply carries `quorate-request`, and `quorate-position` (`shard:index`) where it is true at a log position. \
Errors are problem documents (RFC 9457): branch on `code`, follow `next_step`, and conclude about effects only what `outcome` says. \
Every call but status and this document carries a grant signed by the caller's device (`docs/grants.md`)."
    ),
    paths(
        super::client::create_chat,
        super::client::list_chats,
        super::client::show_chat,
        super::client::append,
        super::client::page,
        super::client::message,
        super::client::edit,
        super::client::members,
        super::client::head,
        super::client::chat_statement,
        super::client::account_statement,
        super::client::account_chain,
        super::client::delete,
        super::client::status,
        super::session::open_session,
        serve,
    ),
    components(schemas(api::Problem, api::QuorumProblem)),
    tags(
        (name = "chats", description = "Chats and their profiles"),
        (name = "members", description = "Signed statements about chats and accounts"),
        (name = "messages", description = "Messages: append, read, edit on a revision"),
        (name = "session", description = "Cookies for browsers, in place of a grant where messages are read"),
        (name = "status", description = "What a node knows of its deployment")
    )
)]
pub struct ClientPlane;

/// This document.
#[utoipa::path(get, path = "/v1/openapi.json", tag = "status",
    responses((status = 200, body = Object, description = "OpenAPI 3.1"), ReadProblems))]
pub(super) async fn serve() -> Json<utoipa::openapi::OpenApi> {
    Json(ClientPlane::openapi())
}

/// The registry plane's document.
#[derive(OpenApi)]
#[openapi(
    info(
        title = "Quorate registry plane",
        description = "Accounts and their devices, as identity authorities bring them to one custodian. \
Callers show an authority's client certificate. Every custodian is told by itself: send each statement to all of them. \
Errors are problem documents (RFC 9457): branch on `code`."
    ),
    paths(
        super::registry::found,
        super::registry::advance,
        super::registry::show,
        serve_registry,
    ),
    components(schemas(api::Problem, api::QuorumProblem)),
    tags((name = "accounts", description = "Accounts as chains of signed statements"))
)]
pub struct RegistryPlane;

/// This document.
#[utoipa::path(get, path = "/v1/openapi.json", tag = "accounts",
    responses((status = 200, body = Object, description = "OpenAPI 3.1"), RegistryProblems))]
pub(super) async fn serve_registry() -> Json<utoipa::openapi::OpenApi> {
    Json(RegistryPlane::openapi())
}

const REGISTRY: &[(u16, &str)] = &[
    (403, "The certificate is no identity authority's"),
    (
        409,
        "The statement is not the next of its chain (`behind`) or contradicts it (`fork`)",
    ),
    (422, "The statement is refused; `code` says why"),
];

const READ: &[(u16, &str)] = &[
    (400, "The request is wrong: query, path, body or request id"),
    (401, "No grant, or one that does not hold; make a new one"),
    (
        403,
        "The grant, the device or the account does not reach so far; see `code`",
    ),
    (404, "No such chat, message or route"),
    (405, "The route does not take this method"),
    (
        429,
        "The account's budget of keys is spent; come back after `retry_ms`",
    ),
    (500, "A stored record does not open, or a bug"),
    (
        503,
        "No quorum of custodians, no leader, or too busy; see `code` and `retry_ms`",
    ),
    (504, "No answer in time"),
];
const WRITE: &[(u16, &str)] = &[
    (408, "The body did not arrive in time; nothing was done"),
    (413, "The body or a message in it is too large"),
    (
        409,
        "The statement is not the next of its chain, or contradicts it",
    ),
    (415, "The body is not declared as JSON"),
    (
        422,
        "The idempotency key was used for another request, or the statement is refused",
    ),
];
const EDIT: &[(u16, &str)] = &[
    (412, "The message has another revision; `etag` names it"),
    (428, "If-Match is missing"),
];

fn problems(sets: &[&[(u16, &str)]]) -> BTreeMap<String, RefOr<Response>> {
    sets.iter()
        .flat_map(|set| set.iter())
        .map(|(status, text)| {
            let content = ContentBuilder::new()
                .schema(Some(Ref::from_schema_name("Problem")))
                .build();
            let reply = ResponseBuilder::new()
                .description(*text)
                .content(PROBLEM_JSON, content)
                .build();
            (status.to_string(), RefOr::T(reply))
        })
        .collect()
}

/// Problems a read may meet.
pub(super) struct ReadProblems;
impl IntoResponses for ReadProblems {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        problems(&[READ])
    }
}

/// Problems a write may meet.
pub(super) struct WriteProblems;
impl IntoResponses for WriteProblems {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        problems(&[READ, WRITE])
    }
}

/// Problems an authority's request may meet.
pub(super) struct RegistryProblems;
impl IntoResponses for RegistryProblems {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        problems(&[READ, WRITE, REGISTRY])
    }
}

/// Problems an edit may meet.
pub(super) struct EditProblems;
impl IntoResponses for EditProblems {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        problems(&[READ, WRITE, EDIT])
    }
}
