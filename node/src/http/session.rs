//! Browsers' sessions: a cookie in place of `Authorization`, for reading messages alone.
//!
//! The cookie is `HttpOnly`, so that no script reads it, `Secure`, limited to
//! the paths of chats, and gone when its grant ends. Other sites cannot use it:
//! `SameSite=Strict` keeps it at home, what it opens changes nothing, and a
//! request of which the browser itself says that another site made it
//! (`Sec-Fetch-Site`, W3C Fetch Metadata) is refused all the same.

use super::client::{Granted, Home};
use super::envelope::InRequest;
use super::openapi::ReadProblems;
use super::problem::{Failure, Handled};
use crate::home::api::{Caller, HomeApi};
use axum::extract::{FromRequestParts, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header, request::Parts};
use axum::response::{IntoResponse, Response};
use std::sync::Arc;

/// The cookie. Browsers take a name that begins so only over TLS.
pub const SESSION_COOKIE: &str = "__Secure-quorate-session";
/// The paths it is sent to.
pub const SESSION_PATH: &str = "/v1/chats";
/// Longest value looked at, in bytes.
const TOKEN_BYTES_MAX: usize = 128;

/// Trade a grant for a cookie, with which a browser reads messages until the grant ends.
#[utoipa::path(post, path = "/v1/session", tag = "session",
    params(("authorization" = String, Header, description = "Bearer and a grant signed by the caller's device")),
    responses((status = 204, description = "The cookie is set; `GET` of messages takes it in place of `authorization`",
            headers(("set-cookie" = String, description = "HttpOnly, Secure, SameSite=Strict, for `/v1/chats`, at most as long as the grant holds"))),
        ReadProblems))]
pub(super) async fn open_session(State(home): Home, Granted(caller): Granted) -> Handled<Response> {
    let session = home.open_session(caller).await?;
    let cookie = format!(
        "{SESSION_COOKIE}={}; Path={SESSION_PATH}; Max-Age={}; HttpOnly; Secure; SameSite=Strict",
        session.token, session.rest_s
    );
    let mut reply = StatusCode::NO_CONTENT.into_response();
    let cookie = HeaderValue::from_str(&cookie).expect("a token is header text");
    reply.headers_mut().insert(header::SET_COOKIE, cookie);
    Ok(of_session(reply))
}

/// Who reads: by the header, or where there is none by a session's cookie.
pub struct Reading {
    /// Who calls.
    pub caller: Caller,
    by_cookie: bool,
}

impl Reading {
    /// What was answered, for this caller's eyes.
    pub fn shown(&self, reply: Response) -> Response {
        match self.by_cookie {
            true => of_session(reply),
            false => reply,
        }
    }
}

/// No cache keeps it for whoever comes next, and no other site may embed it.
fn of_session(mut reply: Response) -> Response {
    let headers = reply.headers_mut();
    let fixed = |text| HeaderValue::from_static(text);
    headers.insert(header::CACHE_CONTROL, fixed("no-store"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, fixed("nosniff"));
    headers.insert("cross-origin-resource-policy", fixed("same-origin"));
    reply
}

impl FromRequestParts<Arc<dyn HomeApi>> for Reading {
    type Rejection = Failure;
    async fn from_request_parts(parts: &mut Parts, home: &Arc<dyn HomeApi>) -> Handled<Self> {
        let token = match parts.headers.contains_key(header::AUTHORIZATION) {
            true => None,
            false => cookie(&parts.headers)?,
        };
        let Some(token) = token else {
            let Granted(caller) = Granted::from_request_parts(parts, home).await?;
            let by_cookie = false;
            return Ok(Self { caller, by_cookie });
        };
        same_site(&parts.headers)?;
        let InRequest(request) = *parts
            .extensions
            .get::<InRequest>()
            .expect("the envelope around this router sets it");
        let grant = home.session(token).await.ok_or_else(|| {
            unauthenticated(
                "session_unknown",
                "the session is over, or the node that made it is not there",
            )
        })?;
        Ok(Self {
            caller: Caller { grant, request },
            by_cookie: true,
        })
    }
}

fn unauthenticated(code: &'static str, detail: &'static str) -> Failure {
    let next = "send `Authorization: Bearer GRANT`, or POST /v1/session with it for a fresh cookie";
    let title = "No session that holds";
    Failure::new(StatusCode::UNAUTHORIZED, code, title, detail, next).unauthenticated()
}

/// The session's token, if there is one.
fn cookie(headers: &HeaderMap) -> Handled<Option<String>> {
    let named = |pair: &str| {
        let (name, value) = pair.split_once('=')?;
        (name.trim() == SESSION_COOKIE).then(|| value.trim().to_owned())
    };
    let all = headers.get_all(header::COOKIE).iter();
    let mut found = all
        .filter_map(|v| v.to_str().ok())
        .flat_map(|v| v.split(';'))
        .filter_map(named);
    let Some(token) = found.next() else {
        return Ok(None);
    };
    if found.next().is_some() || token.len() > TOKEN_BYTES_MAX {
        let detail = "the session's cookie stands more than once, or is too long";
        return Err(unauthenticated("session_malformed", detail));
    }
    Ok(Some(token))
}

/// Refuses what the browser says that a page of elsewhere asked for. Browsers that say nothing
/// do not send the cookie for such pages either.
fn same_site(headers: &HeaderMap) -> Handled<()> {
    let said = headers.get_all("sec-fetch-site").iter();
    let ours = |v: &HeaderValue| matches!(v.as_bytes(), b"same-origin" | b"none");
    match said.into_iter().all(ours) {
        true => Ok(()),
        false => Err(Failure::new(
            StatusCode::FORBIDDEN,
            "session_elsewhere",
            "Not allowed",
            "another site's page asked for this with the session's cookie",
            "ask from a page of the home's own origin",
        )),
    }
}
