//! Cookies in place of grants, over TLS.

use super::fixture::{Bench, GRANT};
use crate::http::session::SESSION_COOKIE;

#[tokio::test]
async fn a_grant_is_traded_for_a_cookie_that_scripts_and_other_sites_cannot_use() {
    let bench = Bench::new().await;
    let none = bench.call_with("POST", "/v1/session", "", &[]).await;
    none.problem(401, "grant_missing");
    let made = bench.call("POST", "/v1/session", "").await;
    assert_eq!(made.status, 204, "{made:?}");
    assert_eq!(
        made.header("set-cookie"),
        format!(
            "{SESSION_COOKIE}=1.ab; Path=/v1/chats; Max-Age=7; HttpOnly; Secure; SameSite=Strict"
        )
    );
    assert_eq!(made.header("cache-control"), "no-store");
    // A cookie alone makes no other.
    let cookie = format!("{SESSION_COOKIE}=1.ab");
    let headers = [("cookie", cookie.as_str())];
    let again = bench.call_with("POST", "/v1/session", "", &headers).await;
    again.problem(401, "grant_missing");
}

#[tokio::test]
async fn a_cookie_reads_messages_and_does_nothing_else() {
    let bench = Bench::new().await;
    let chat = bench.chat(1).await;
    let cookie = format!("a=b; {SESSION_COOKIE}=1.ab");
    let with = [("cookie", cookie.as_str())];
    let base = format!("/v1/chats/{chat}");
    for path in [format!("{base}/messages"), format!("{base}/messages/1")] {
        let read = bench.call_with("GET", &path, "", &with).await;
        assert_eq!(read.status, 200, "{read:?}");
        assert_eq!(read.header("cache-control"), "no-store");
        assert_eq!(read.header("cross-origin-resource-policy"), "same-origin");
        let caller = bench.home.callers.lock().unwrap().pop().unwrap();
        assert_eq!(caller.grant, "phone", "the grant behind it decides");
        let by_grant = bench.call("GET", &path, "").await;
        assert_eq!(by_grant.header("cache-control"), "");
        // The page's own origin, and nobody else's.
        for (site, status) in [
            ("same-origin", 200),
            ("none", 200),
            ("same-site", 403),
            ("cross-site", 403),
            ("", 403),
        ] {
            let headers = [with[0], ("sec-fetch-site", site)];
            let read = bench.call_with("GET", &path, "", &headers).await;
            assert_eq!(read.status.as_u16(), status, "{site}");
            if status == 403 {
                read.problem(403, "session_elsewhere");
            }
            // A header is no page's of elsewhere.
            let headers = [GRANT, ("sec-fetch-site", site)];
            let read = bench.call_with("GET", &path, "", &headers).await;
            assert_eq!(read.status, 200);
        }
    }
    let calls = [
        ("GET", "/v1/chats".to_owned()),
        ("POST", "/v1/chats".to_owned()),
        ("GET", base.clone()),
        ("POST", format!("{base}/messages")),
        ("PUT", format!("{base}/messages/1")),
        ("GET", format!("{base}/members")),
        ("GET", format!("{base}/head")),
        ("POST", format!("{base}/statements")),
        ("POST", format!("/v1/accounts/{chat}/statements")),
    ];
    let before = bench.home.callers.lock().unwrap().len();
    for (method, path) in &calls {
        let refused = bench.call_with(method, path, "", &with).await;
        refused.problem(401, "grant_missing");
    }
    assert_eq!(bench.home.callers.lock().unwrap().len(), before);
}

#[tokio::test]
async fn a_cookie_that_leads_nowhere_is_refused() {
    let bench = Bench::new().await;
    let chat = bench.chat(0).await;
    let path = format!("/v1/chats/{chat}/messages");
    let twice = format!("{SESSION_COOKIE}=1.ab; {SESSION_COOKIE}=1.ab");
    let long = format!("{SESSION_COOKIE}={}", "a".repeat(129));
    for (cookie, code) in [
        (format!("{SESSION_COOKIE}=1.cd"), "session_unknown"),
        (format!("{SESSION_COOKIE}="), "session_unknown"),
        (twice, "session_malformed"),
        (long, "session_malformed"),
        ("another=1.ab".to_owned(), "grant_missing"),
    ] {
        let headers = [("cookie", cookie.as_str())];
        let refused = bench.call_with("GET", &path, "", &headers).await;
        refused.problem(401, code);
    }
    // A grant in the header counts, whatever the cookie.
    let cookie = format!("{SESSION_COOKIE}=1.cd");
    let headers = [GRANT, ("cookie", cookie.as_str())];
    let read = bench.call_with("GET", &path, "", &headers).await;
    assert_eq!(read.status, 200);
}
