//! The client plane: chats and messages over HTTPS and JSON.
//!
//! Handlers parse, call [`HomeApi`], and print. Their documentation below is
//! also what the OpenAPI document says. Preconditions as in RFC 9110 section 13.

use super::envelope::{InRequest, Limits, wrap};
use super::input::{self, Params, Segments};
use super::openapi::{EditProblems, ReadProblems, WriteProblems};
use super::problem::{Failure, Handled};
use super::session::{Reading, open_session};
use crate::home::api::{At, Caller, HomeApi};
use axum::body::Body;
use axum::extract::{FromRequestParts, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header, request::Parts};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use quorate_engine::api::{
    APPEND_BODY_BYTES_MAX, AccountChain, Append, Appended, CONTENT_BYTES_MAX, Chat, ChatHead,
    ChatList, CreateChat, Deletion, Edit, MESSAGES_PER_CALL_MAX, Members, Message, POSITION_HEADER,
    Page, PostDeletion, PostStatement, StatementAcks, Status, Written,
};
use quorate_engine::authz::envelope::PAYLOAD_BYTES_MAX;
use quorate_engine::authz::grant::GRANT_BYTES_MAX;
use quorate_engine::types::{AccountId, ChatId, PublicKey};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt::Display;
use std::str::FromStr;
use std::sync::Arc;

/// Largest body that carries one signed statement: its payload escaped, and its signatures, in bytes.
pub const STATEMENT_BODY_BYTES_MAX: usize = 2 * PAYLOAD_BYTES_MAX + (16 << 10);
/// Members in a page when no limit is given, and at most.
pub const MEMBERS_PER_PAGE_MAX: usize = 256;
/// Largest body that carries one content: the content, its key and white space, in bytes.
pub const ONE_CONTENT_BODY_BYTES_MAX: usize = CONTENT_BYTES_MAX + (64 << 10);
/// Chats in a page when no limit is given.
pub const CHATS_PER_PAGE: usize = 50;
/// Most chats in a page.
pub const CHATS_PER_PAGE_MAX: usize = 256;
/// Messages in a page when no limit is given.
pub const MESSAGES_PER_PAGE: usize = 50;

pub(super) type Home = State<Arc<dyn HomeApi>>;

/// The client plane's router with the limits that nodes run with.
pub fn router(home: Arc<dyn HomeApi>) -> Router {
    router_with(home, Limits::default())
}

/// The client plane's router.
pub fn router_with(home: Arc<dyn HomeApi>, limits: Limits) -> Router {
    let routes = Router::new()
        .route("/v1/chats", get(list_chats).post(create_chat))
        .route("/v1/chats/{chat}", get(show_chat))
        .route("/v1/chats/{chat}/messages", get(page).post(append))
        .route("/v1/chats/{chat}/members", get(members))
        .route("/v1/chats/{chat}/head", get(head))
        .route("/v1/chats/{chat}/statements", post(chat_statement))
        .route("/v1/chats/{chat}/deletions", post(delete))
        .route(
            "/v1/accounts/{account}/statements",
            get(account_chain).post(account_statement),
        )
        .route("/v1/chats/{chat}/messages/{id}", get(message).put(edit))
        .route("/v1/session", post(open_session))
        .route("/v1/status", get(status))
        .route("/v1/openapi.json", get(super::openapi::serve))
        .with_state(home);
    wrap("client", limits, routes)
}

/// The caller's grant: `Authorization: Bearer GRANT` (RFC 6750), read and checked where the
/// operation is done.
pub struct Granted(pub(super) Caller);

impl<S: Send + Sync> FromRequestParts<S> for Granted {
    type Rejection = Failure;
    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Handled<Self> {
        let InRequest(request) = *parts
            .extensions
            .get::<InRequest>()
            .expect("the envelope around this router sets it");
        let mut values = parts.headers.get_all(header::AUTHORIZATION).iter();
        let (value, more) = (values.next(), values.next());
        let grant = value.and_then(bearer).filter(|_| more.is_none());
        let Some(grant) = grant else {
            let (code, detail) = if value.is_none() {
                ("grant_missing", "the header authorization is missing")
            } else {
                let detail = "the header authorization does not stand once as `Bearer GRANT`, at most 8192 bytes";
                ("grant_malformed", detail)
            };
            return Err(Failure::new(
                StatusCode::UNAUTHORIZED,
                code,
                "No grant that holds",
                detail,
                "send `Authorization: Bearer GRANT`; docs/grants.md says how a device makes one",
            )
            .unauthenticated());
        };
        Ok(Self(Caller { grant, request }))
    }
}

fn bearer(value: &HeaderValue) -> Option<String> {
    let (scheme, grant) = value.to_str().ok()?.split_once(' ')?;
    let fits = (1..=GRANT_BYTES_MAX).contains(&grant.len());
    (scheme.eq_ignore_ascii_case("bearer") && fits).then(|| grant.to_owned())
}

/// Where a page begins.
fn after<T: FromStr<Err: Display>>(text: Option<&str>) -> Handled<Option<T>> {
    text.map(str::parse).transpose().map_err(|e: T::Err| {
        Failure::bad_request(
            "query_invalid",
            format!("after: {e}"),
            "pass the `next` of the page before, as it was given",
        )
    })
}

/// A reply with the log position it is true at.
fn at<T: Serialize>(status: StatusCode, at: At<T>) -> Response {
    let mut reply = (status, Json(at.value)).into_response();
    position(&mut reply, at.shard, at.index);
    reply
}

fn position(reply: &mut Response, shard: u32, index: u64) {
    let value = HeaderValue::from_str(&format!("{shard}:{index}"))
        .expect("digits and a colon are header text");
    reply.headers_mut().insert(POSITION_HEADER, value);
}

/// Create a chat with its sealed profile. Repeating the idempotency key returns the same chat.
#[utoipa::path(post, path = "/v1/chats", request_body = CreateChat, tag = "chats",
    params(("authorization" = String, Header, description = "Bearer and a grant signed by the caller's device")),
    responses((status = 201, body = Chat, description = "The chat"), WriteProblems))]
pub(super) async fn create_chat(
    State(home): Home,
    Granted(caller): Granted,
    headers: HeaderMap,
    body: Body,
) -> Handled<Response> {
    let (request, len): (CreateChat, _) =
        input::json(&headers, body, ONE_CONTENT_BODY_BYTES_MAX).await?;
    input::idempotency_key("idempotency_key", &request.idempotency_key)?;
    input::content_fits("profile", &request.profile, len)?;
    let chat = home.create_chat(caller, request).await?;
    let location = HeaderValue::from_str(&format!("/v1/chats/{}", chat.value.id)).ok();
    let mut reply = at(StatusCode::CREATED, chat);
    if let Some(location) = location {
        reply.headers_mut().insert(header::LOCATION, location);
    }
    Ok(reply)
}

/// Which chats.
#[derive(Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct ListQuery {
    /// Only chats with a greater id: `next` of the page before.
    after: Option<String>,
    /// Chats in the page, 1 to 256; 50 when omitted.
    limit: Option<usize>,
    /// Open the profiles too. Needs a lease or a quorum of custodians for each.
    #[serde(default)]
    profile: bool,
}

/// Chats in order of id.
#[utoipa::path(get, path = "/v1/chats", tag = "chats",
    params(ListQuery, ("authorization" = String, Header, description = "Bearer and a grant signed by the caller's device")),
    responses((status = 200, body = ChatList, description = "A page of chats"), ReadProblems))]
pub(super) async fn list_chats(
    State(home): Home,
    Granted(caller): Granted,
    Params(query): Params<ListQuery>,
) -> Handled<Response> {
    let limit = input::limit(query.limit, CHATS_PER_PAGE, CHATS_PER_PAGE_MAX)?;
    let after: Option<ChatId> = after(query.after.as_deref())?;
    let list = home.list_chats(caller, after, limit, query.profile).await?;
    Ok(at(StatusCode::OK, list))
}

/// Whether to open the profile.
#[derive(Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct ShowQuery {
    /// Open the profile too. Needs a lease or a quorum of custodians.
    #[serde(default)]
    profile: bool,
}

/// One chat's visible metadata.
#[utoipa::path(get, path = "/v1/chats/{chat}", tag = "chats",
    params(("chat" = String, Path, description = "Chat id, 64 hex characters"), ShowQuery,
        ("authorization" = String, Header, description = "Bearer and a grant signed by the caller's device")),
    responses((status = 200, body = Chat, description = "The chat"), ReadProblems))]
pub(super) async fn show_chat(
    State(home): Home,
    Granted(caller): Granted,
    Segments(chat): Segments<String>,
    Params(query): Params<ShowQuery>,
) -> Handled<Response> {
    let chat = input::path("chat", &chat)?;
    let reply = home.chat(caller, chat, query.profile).await?;
    Ok(at(StatusCode::OK, reply))
}

/// Append messages in this order, all or none.
#[utoipa::path(post, path = "/v1/chats/{chat}/messages", request_body = Append, tag = "messages",
    params(("chat" = String, Path, description = "Chat id, 64 hex characters"),
        ("authorization" = String, Header, description = "Bearer and a grant signed by the caller's device")),
    responses((status = 201, body = Appended, description = "Where each message stands"), WriteProblems))]
pub(super) async fn append(
    State(home): Home,
    Granted(caller): Granted,
    Segments(chat): Segments<String>,
    headers: HeaderMap,
    body: Body,
) -> Handled<Response> {
    let chat = input::path("chat", &chat)?;
    let (request, len): (Append, _) = input::json(&headers, body, APPEND_BODY_BYTES_MAX).await?;
    check_append(&request, len)?;
    let appended = home.append(caller, chat, request).await?;
    Ok(at(StatusCode::CREATED, appended))
}

fn check_append(request: &Append, body: usize) -> Handled<()> {
    let count = request.messages.len();
    if !(1..=MESSAGES_PER_CALL_MAX).contains(&count) {
        return Err(Failure::bad_request(
            "body_invalid",
            format!("messages has {count} items, it must have 1 to {MESSAGES_PER_CALL_MAX}"),
            "send fewer messages in each request",
        ));
    }
    let mut seen = BTreeMap::new();
    for (i, message) in request.messages.iter().enumerate() {
        let key = message.idempotency_key.as_str();
        input::idempotency_key(&format!("messages[{i}].idempotency_key"), key)?;
        input::content_fits(&format!("messages[{i}].content"), &message.content, body)?;
        if let Some(first) = seen.insert(key, i) {
            return Err(Failure::bad_request(
                "idempotency_key_invalid",
                format!("messages[{i}] has the idempotency key of messages[{first}]"),
                "give every message an idempotency key of its own",
            ));
        }
    }
    Ok(())
}

/// Which messages.
#[derive(Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct PageQuery {
    /// First message id; 1 when omitted. 0 is the profile.
    from: Option<u64>,
    /// Messages in the page, 1 to 256; 50 when omitted.
    limit: Option<usize>,
}

/// Messages in order of id.
#[utoipa::path(get, path = "/v1/chats/{chat}/messages", tag = "messages",
    params(("chat" = String, Path, description = "Chat id, 64 hex characters"), PageQuery,
        ("authorization" = String, Header, description = "Bearer and a grant signed by the caller's device")),
    responses((status = 200, body = Page, description = "A page of messages"), ReadProblems))]
pub(super) async fn page(
    State(home): Home,
    reading: Reading,
    Segments(chat): Segments<String>,
    Params(query): Params<PageQuery>,
) -> Handled<Response> {
    let chat = input::path("chat", &chat)?;
    let limit = input::limit(query.limit, MESSAGES_PER_PAGE, MESSAGES_PER_CALL_MAX)?;
    let (caller, from) = (reading.caller.clone(), query.from.unwrap_or(1));
    let page = home.page(caller, chat, from, limit).await?;
    Ok(reading.shown(at(StatusCode::OK, page)))
}

/// One message. Its `ETag` is its revision; with `If-None-Match` an unchanged one is 304.
#[utoipa::path(get, path = "/v1/chats/{chat}/messages/{id}", tag = "messages",
    params(("chat" = String, Path, description = "Chat id, 64 hex characters"),
        ("id" = u64, Path, description = "Message id; 0 is the profile"),
        ("if-none-match" = Option<String>, Header, description = "Revisions already known, as ETag gave them"),
        ("authorization" = String, Header, description = "Bearer and a grant signed by the caller's device")),
    responses((status = 200, body = Message, description = "The message",
            headers(("etag" = String, description = "The revision, quoted"))),
        (status = 304, description = "Still at a revision that If-None-Match names"), ReadProblems))]
pub(super) async fn message(
    State(home): Home,
    reading: Reading,
    Segments((chat, id)): Segments<(String, String)>,
    headers: HeaderMap,
) -> Handled<Response> {
    let (chat, id) = (input::path("chat", &chat)?, input::path("message id", &id)?);
    let found = home.message(reading.caller.clone(), chat, id).await?;
    let revision = found.value.revision;
    let mut reply = if input::none_match(&headers, revision) {
        let mut empty = StatusCode::NOT_MODIFIED.into_response();
        position(&mut empty, found.shard, found.index);
        empty
    } else {
        at(StatusCode::OK, found)
    };
    reply
        .headers_mut()
        .insert(header::ETAG, input::etag(revision));
    Ok(reading.shown(reply))
}

/// Replace a message's content, if it is still at the revision that `If-Match` names.
#[utoipa::path(put, path = "/v1/chats/{chat}/messages/{id}", request_body = Edit, tag = "messages",
    params(("chat" = String, Path, description = "Chat id, 64 hex characters"),
        ("id" = u64, Path, description = "Message id; 0 is the profile"),
        ("if-match" = String, Header, description = "The revision to replace, as ETag gave it"),
        ("authorization" = String, Header, description = "Bearer and a grant signed by the caller's device")),
    responses((status = 200, body = Written, description = "The new revision",
            headers(("etag" = String, description = "The new revision, quoted"))), EditProblems))]
pub(super) async fn edit(
    State(home): Home,
    Granted(caller): Granted,
    Segments((chat, id)): Segments<(String, String)>,
    headers: HeaderMap,
    body: Body,
) -> Handled<Response> {
    let (chat, id) = (input::path("chat", &chat)?, input::path("message id", &id)?);
    let revision = input::if_match(&headers)?;
    let (request, len): (Edit, _) = input::json(&headers, body, ONE_CONTENT_BODY_BYTES_MAX).await?;
    input::idempotency_key("idempotency_key", &request.idempotency_key)?;
    input::content_fits("content", &request.content, len)?;
    let written = home.edit(caller, chat, id, revision, request).await?;
    let tag = input::etag(written.value.revision);
    let mut reply = at(StatusCode::OK, written);
    reply.headers_mut().insert(header::ETAG, tag);
    Ok(reply)
}

/// Which members.
#[derive(Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct MembersQuery {
    /// Only members with a greater account: `next` of the page before.
    after: Option<String>,
    /// Members in the page, 1 to 256; 256 when omitted.
    limit: Option<usize>,
}

/// A chat's members, and where its chain of statements ends.
#[utoipa::path(get, path = "/v1/chats/{chat}/members", tag = "members",
    params(("chat" = String, Path, description = "Chat id, 64 hex characters"), MembersQuery,
        ("authorization" = String, Header, description = "Bearer and a grant signed by the caller's device")),
    responses((status = 200, body = Members, description = "A page of members"), ReadProblems))]
pub(super) async fn members(
    State(home): Home,
    Granted(caller): Granted,
    Segments(chat): Segments<String>,
    Params(query): Params<MembersQuery>,
) -> Handled<Response> {
    let chat = input::path("chat", &chat)?;
    let limit = input::limit(query.limit, MEMBERS_PER_PAGE_MAX, MEMBERS_PER_PAGE_MAX)?;
    let after: Option<AccountId> = after(query.after.as_deref())?;
    let members = home.members(caller, chat, after, limit).await?;
    Ok(at(StatusCode::OK, members))
}

/// By what right.
#[derive(Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct HeadQuery {
    /// Public key of an invite's link, 64 hex characters; a public chat takes none.
    invite: Option<String>,
}

/// Where a chat's chain of statements ends, for who wants to join and cannot list its members yet.
#[utoipa::path(get, path = "/v1/chats/{chat}/head", tag = "members",
    params(("chat" = String, Path, description = "Chat id, 64 hex characters"), HeadQuery,
        ("authorization" = String, Header, description = "Bearer and a grant signed by the caller's device")),
    responses((status = 200, body = ChatHead, description = "What the next statement is signed on"), ReadProblems))]
pub(super) async fn head(
    State(home): Home,
    Granted(caller): Granted,
    Segments(chat): Segments<String>,
    Params(query): Params<HeadQuery>,
) -> Handled<Response> {
    let chat = input::path("chat", &chat)?;
    let invite = query.invite.as_deref().map(str::parse::<PublicKey>);
    let invite = invite.transpose().map_err(|e| {
        Failure::bad_request(
            "query_invalid",
            format!("invite: {e}"),
            "pass the public key of the link's key, 64 hex characters",
        )
    })?;
    let head = home.head(caller, chat, invite).await?;
    Ok(at(StatusCode::OK, head))
}

/// Pass a signed statement about a chat's members on to every custodian. Repeating it is safe.
#[utoipa::path(post, path = "/v1/chats/{chat}/statements", request_body = PostStatement, tag = "members",
    params(("chat" = String, Path, description = "Chat id, 64 hex characters"),
        ("authorization" = String, Header, description = "Bearer and a grant signed by the caller's device")),
    responses((status = 200, body = StatementAcks, description = "What each custodian said; count the acknowledgements"), WriteProblems))]
pub(super) async fn chat_statement(
    State(home): Home,
    Granted(caller): Granted,
    Segments(chat): Segments<String>,
    headers: HeaderMap,
    body: Body,
) -> Handled<Response> {
    let chat = input::path("chat", &chat)?;
    let (request, _): (PostStatement, _) =
        input::json(&headers, body, STATEMENT_BODY_BYTES_MAX).await?;
    let acks = home.chat_statement(caller, chat, request.statement).await?;
    Ok(at(StatusCode::OK, acks))
}

/// Keep a signed deletion statement about messages of a chat. Nothing is erased by it. Repeating it is safe.
#[utoipa::path(post, path = "/v1/chats/{chat}/deletions", request_body = PostDeletion, tag = "messages",
    params(("chat" = String, Path, description = "Chat id, 64 hex characters"),
        ("authorization" = String, Header, description = "Bearer and a grant signed by the caller's device")),
    responses((status = 201, body = Deletion, description = "It is recorded"), WriteProblems))]
pub(super) async fn delete(
    State(home): Home,
    Granted(caller): Granted,
    Segments(chat): Segments<String>,
    headers: HeaderMap,
    body: Body,
) -> Handled<Response> {
    let chat = input::path("chat", &chat)?;
    let (request, _): (PostDeletion, _) =
        input::json(&headers, body, STATEMENT_BODY_BYTES_MAX).await?;
    let deletion = home.delete(caller, chat, request).await?;
    Ok(at(StatusCode::CREATED, deletion))
}

/// Pass a signed statement about an account on to every custodian. Repeating it is safe.
#[utoipa::path(post, path = "/v1/accounts/{account}/statements", request_body = PostStatement, tag = "members",
    params(("account" = String, Path, description = "Account id, 64 hex characters"),
        ("authorization" = String, Header, description = "Bearer and a grant signed by the caller's device")),
    responses((status = 200, body = StatementAcks, description = "What each custodian said; count the acknowledgements"), WriteProblems))]
pub(super) async fn account_statement(
    State(home): Home,
    Granted(caller): Granted,
    Segments(account): Segments<String>,
    headers: HeaderMap,
    body: Body,
) -> Handled<Json<StatementAcks>> {
    let account = input::path("account", &account)?;
    let (request, _): (PostStatement, _) =
        input::json(&headers, body, STATEMENT_BODY_BYTES_MAX).await?;
    let acks = home
        .account_statement(caller, account, request.statement)
        .await?;
    Ok(Json(acks))
}

/// Which statements.
#[derive(Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct ChainQuery {
    /// The first statement's number; 0, the genesis, when omitted.
    from: Option<u64>,
}

/// Statements of the caller's own account, as custodians hold them.
#[utoipa::path(get, path = "/v1/accounts/{account}/statements", tag = "members",
    params(("account" = String, Path, description = "Account id, 64 hex characters"), ChainQuery,
        ("authorization" = String, Header, description = "Bearer and a grant signed by the caller's device")),
    responses((status = 200, body = AccountChain, description = "The longest chain, and each custodian's word; count them"), ReadProblems))]
pub(super) async fn account_chain(
    State(home): Home,
    Granted(caller): Granted,
    Segments(account): Segments<String>,
    Params(query): Params<ChainQuery>,
) -> Handled<Json<AccountChain>> {
    let account = input::path("account", &account)?;
    let from = query.from.unwrap_or(0);
    Ok(Json(home.account_chain(caller, account, from).await?))
}

/// The deployment as seen from this node.
#[utoipa::path(get, path = "/v1/status", tag = "status",
    responses((status = 200, body = Status, description = "What this node knows"), ReadProblems))]
pub(super) async fn status(State(home): Home) -> Json<Status> {
    Json(home.status().await)
}
