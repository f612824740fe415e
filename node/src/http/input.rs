//! Parsing what callers send: bodies with a size and a deadline, path, query
//! and precondition values. Each refusal says what and where.

use super::problem::{Failure, Handled};
use axum::body::Body;
use axum::extract::FromRequestParts;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header, request::Parts};
use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use quorate_engine::types::Revision;
use serde::de::DeserializeOwned;
use std::time::Duration;

/// Longest a request body may take to arrive, in milliseconds.
pub const BODY_MS_MAX: u64 = 15_000;
/// Longest idempotency key, in characters.
pub const IDEMPOTENCY_KEY_CHARS_MAX: usize = 64;

/// The `ETag` of a revision.
pub fn etag(revision: Revision) -> HeaderValue {
    HeaderValue::from_str(&format!("\"{revision}\"")).expect("digits and quotes are header text")
}

/// Reads a JSON body of at most `max` bytes and parses it.
///
/// # Errors
/// 415 when it is not declared as JSON, 413 over `max`, 408 when it does not
/// arrive in time, 400 with line, column and reason when it does not parse.
pub async fn json<T: DeserializeOwned>(
    headers: &HeaderMap,
    body: Body,
    max: usize,
) -> Handled<(T, usize)> {
    let kind = headers
        .get(header::CONTENT_TYPE)
        .and_then(|v| v.to_str().ok())
        .unwrap_or("");
    let essence = kind.split(';').next().unwrap_or("").trim();
    if !essence.eq_ignore_ascii_case("application/json") {
        return Err(Failure::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "not_json",
            "The body must be JSON",
            format!("content-type is {kind:?}"),
            "send the body as JSON with the header content-type: application/json",
        ));
    }
    let bytes = collect(headers, body, max, BODY_MS_MAX).await?;
    match serde_json::from_slice(&bytes) {
        Ok(value) => Ok((value, bytes.len())),
        Err(e) => {
            let (code, what) = if e.is_data() {
                (
                    "body_invalid",
                    "the body is JSON, but not of the shape this route takes",
                )
            } else {
                ("json_invalid", "the body is not JSON")
            };
            Err(Failure::bad_request(
                code,
                // serde_json's message ends with the line and column.
                format!("{what}: {e}"),
                "correct the body; /v1/openapi.json describes it",
            ))
        }
    }
}

async fn collect(headers: &HeaderMap, body: Body, max: usize, ms_max: u64) -> Handled<Bytes> {
    let declared = headers
        .get(header::CONTENT_LENGTH)
        .and_then(|v| v.to_str().ok())
        .and_then(|v| v.parse::<u64>().ok());
    if declared.is_some_and(|n| n > max as u64) {
        return Err(too_large(max));
    }
    let read = async {
        let mut stream = body.into_data_stream();
        let mut out = BytesMut::new();
        while let Some(chunk) = stream.next().await {
            let chunk = chunk.map_err(|e| {
                Failure::bad_request(
                    "body_cut_short",
                    format!("the body ended early: {e}"),
                    "send the request again",
                )
            })?;
            if out.len() + chunk.len() > max {
                return Err(too_large(max));
            }
            out.extend_from_slice(&chunk);
        }
        Ok(out.freeze())
    };
    tokio::time::timeout(Duration::from_millis(ms_max), read)
        .await
        .unwrap_or_else(|_| {
            Err(Failure::new(
                StatusCode::REQUEST_TIMEOUT,
                "body_timeout",
                "The body did not arrive in time",
                format!("the body was not complete after {ms_max} ms"),
                "send the request again, in smaller pieces if the line is slow",
            ))
        })
}

fn too_large(max: usize) -> Failure {
    Failure::new(
        StatusCode::PAYLOAD_TOO_LARGE,
        "body_too_large",
        "The body is too large",
        format!("this route takes at most {max} bytes"),
        "split the request: fewer messages in each, large media outside the message",
    )
}

/// Refuses a content whose JSON is longer than the limit. `body` is the length
/// of the body it came in: measuring is skipped when that already rules it out.
///
/// # Errors
/// 413 naming `place`.
pub fn content_fits(
    place: &str,
    content: &quorate_engine::api::Content,
    body: usize,
) -> Handled<()> {
    const MAX: usize = quorate_engine::api::CONTENT_BYTES_MAX;
    if body <= MAX {
        return Ok(());
    }
    let mut counter = Counter(0);
    serde_json::to_writer(&mut counter, content).expect("a JSON object serialises into a counter");
    if counter.0 <= MAX {
        return Ok(());
    }
    Err(Failure::new(
        StatusCode::PAYLOAD_TOO_LARGE,
        "content_too_large",
        "A message is too large",
        format!("{place} is {} bytes of JSON, the limit is {MAX}", counter.0),
        "shorten the message, or keep large media outside of it",
    ))
}

struct Counter(usize);
impl std::io::Write for Counter {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0 += bytes.len();
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Refuses an idempotency key that is empty, too long or not printable.
///
/// # Errors
/// 400 naming `place`.
pub fn idempotency_key(place: &str, key: &str) -> Handled<()> {
    let chars = key.chars().count();
    if (1..=IDEMPOTENCY_KEY_CHARS_MAX).contains(&chars) && !key.chars().any(char::is_control) {
        return Ok(());
    }
    Err(Failure::bad_request(
        "idempotency_key_invalid",
        format!(
            "{place} must be 1 to {IDEMPOTENCY_KEY_CHARS_MAX} printable characters, it has {chars}"
        ),
        "use a fresh random text such as a UUID for every intended change",
    ))
}

/// A value in the path.
///
/// # Errors
/// 400 naming the segment and why it does not parse.
pub fn path<T: std::str::FromStr<Err: std::fmt::Display>>(
    what: &'static str,
    text: &str,
) -> Handled<T> {
    text.parse().map_err(|e: T::Err| {
        let shown: String = text.chars().take(80).collect();
        Failure::bad_request(
            "path_invalid",
            format!("{what} {shown:?} in the path: {e}"),
            "a chat id is 64 hex characters, a message id a decimal number",
        )
    })
}

/// Path segments; a segment that is not UTF-8 is a problem, not plain text.
pub struct Segments<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned + Send> FromRequestParts<S> for Segments<T> {
    type Rejection = Failure;
    async fn from_request_parts(parts: &mut Parts, state: &S) -> Handled<Self> {
        axum::extract::Path::<T>::from_request_parts(parts, state)
            .await
            .map(|p| Self(p.0))
            .map_err(|e| {
                Failure::bad_request(
                    "path_invalid",
                    e.body_text(),
                    "check the path of the request",
                )
            })
    }
}

/// A query string; unknown and malformed parameters are refused, not ignored.
pub struct Params<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned + Send> FromRequestParts<S> for Params<T> {
    type Rejection = Failure;
    async fn from_request_parts(parts: &mut Parts, state: &S) -> Handled<Self> {
        axum::extract::Query::<T>::from_request_parts(parts, state)
            .await
            .map(|q| Self(q.0))
            .map_err(|e| {
                Failure::bad_request(
                    "query_invalid",
                    e.body_text(),
                    "correct the query; /v1/openapi.json lists the parameters of this route",
                )
            })
    }
}

/// A `limit` parameter between 1 and `max`, or `default`.
///
/// # Errors
/// 400 outside that range: a page that is silently shorter would look like the end.
pub fn limit(given: Option<usize>, default: usize, max: usize) -> Handled<usize> {
    match given {
        None => Ok(default),
        Some(n) if (1..=max).contains(&n) => Ok(n),
        Some(n) => Err(Failure::bad_request(
            "query_invalid",
            format!("limit is {n}, it must be 1 to {max}"),
            "ask for a smaller page and follow `next`",
        )),
    }
}

/// The revision in `If-Match`: exactly one strong entity tag, as `ETag` gave it.
///
/// # Errors
/// 428 when the header is missing, 400 when it is anything else.
pub fn if_match(headers: &HeaderMap) -> Handled<Revision> {
    let mut values = headers.get_all(header::IF_MATCH).iter();
    let (Some(value), None) = (values.next(), values.next()) else {
        if headers.contains_key(header::IF_MATCH) {
            return Err(bad_if_match("more than one If-Match header"));
        }
        return Err(Failure::new(
            StatusCode::PRECONDITION_REQUIRED,
            "if_match_missing",
            "An edit must name the revision it changes",
            "the header If-Match is missing",
            "read the message and send its ETag as If-Match, so that nobody else's edit is overwritten",
        ));
    };
    value
        .to_str()
        .ok()
        .and_then(|v| v.trim().strip_prefix('"')?.strip_suffix('"'))
        .filter(|v| v.bytes().all(|b| b.is_ascii_digit()))
        .and_then(|v| v.parse().ok())
        .ok_or_else(|| bad_if_match(&format!("If-Match is {value:?}")))
}

fn bad_if_match(detail: &str) -> Failure {
    Failure::bad_request(
        "if_match_invalid",
        detail,
        "send exactly one strong entity tag as ETag gave it, such as If-Match: \"3\"; `*` and weak tags are not taken",
    )
}

/// Whether `If-None-Match` names this revision (weak comparison, RFC 9110 13.1.2).
pub fn none_match(headers: &HeaderMap, revision: Revision) -> bool {
    let own = format!("\"{revision}\"");
    headers
        .get_all(header::IF_NONE_MATCH)
        .iter()
        .filter_map(|v| v.to_str().ok())
        .flat_map(|v| v.split(','))
        .map(str::trim)
        .any(|tag| tag == "*" || tag.strip_prefix("W/").unwrap_or(tag) == own)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_body_that_stalls_is_a_timeout_and_nothing_was_done() {
        let first = futures::stream::iter([Ok::<_, std::io::Error>(Bytes::from_static(b"{"))]);
        let stalls = Body::from_stream(first.chain(futures::stream::pending()));
        let failure = collect(&HeaderMap::new(), stalls, 100, 50)
            .await
            .expect_err("a body that never ends");
        assert_eq!(
            (failure.status().as_u16(), failure.code()),
            (408, "body_timeout")
        );
        let breaks = Body::from_stream(futures::stream::iter([
            Ok(Bytes::from_static(b"{")),
            Err(std::io::Error::other("reset")),
        ]));
        let failure = collect(&HeaderMap::new(), breaks, 100, 50)
            .await
            .expect_err("a body that breaks off");
        assert_eq!(
            (failure.status().as_u16(), failure.code()),
            (400, "body_cut_short")
        );
    }
}
