//! Every route of the client plane, and every error a home can answer with.

use super::fixture::Bench;
use crate::home::api::HomeError;
use quorate_engine::api::{Chat, ChatList, Message, Page, QuorumProblem, Status, Written};
use quorate_engine::types::{ChatId, Outcome};

#[tokio::test]
async fn chats_are_made_listed_and_shown() {
    let bench = Bench::new().await;
    let id = bench.chat(2).await;
    assert_eq!(
        bench.chat(0).await,
        id,
        "repeating the idempotency key is the same chat"
    );

    let list = bench
        .call("GET", "/v1/chats?limit=1&profile=true", "")
        .await;
    assert_eq!(
        (list.status.as_u16(), list.header("quorate-position")),
        (200, "3:42")
    );
    let list: ChatList = serde_json::from_slice(&list.body).unwrap();
    assert_eq!(list.chats[0].profile.as_ref().unwrap()["title"], "t");
    let rest = bench
        .call("GET", &format!("/v1/chats?after={id}"), "")
        .await;
    assert_eq!(rest.json()["chats"].as_array().unwrap().len(), 0);

    let shown = bench.call("GET", &format!("/v1/chats/{id}"), "").await;
    let chat: Chat = serde_json::from_slice(&shown.body).unwrap();
    assert_eq!((chat.messages, chat.profile), (2, None));
    let made = bench
        .call(
            "POST",
            "/v1/chats",
            r#"{"idempotency_key":"k2","profile":{}}"#,
        )
        .await;
    let second = made.json()["id"].as_str().unwrap().to_owned();
    assert_eq!(made.header("location"), format!("/v1/chats/{second}"));
}

#[tokio::test]
async fn messages_are_appended_paged_edited_and_cached() {
    let bench = Bench::new().await;
    let id = bench.chat(3).await;
    let base = format!("/v1/chats/{id}/messages");

    let page = bench
        .call("GET", &format!("{base}?from=2&limit=1"), "")
        .await;
    let page: Page = serde_json::from_slice(&page.body).unwrap();
    assert_eq!((page.messages[0].id, page.next), (2, Some(3)));
    let first = bench.call("GET", &base, "").await.json();
    assert_eq!(
        first["messages"][0]["id"], 1,
        "pages start after the profile"
    );

    let one = bench.call("GET", &format!("{base}/1"), "").await;
    assert_eq!(
        (one.header("etag"), one.header("quorate-position")),
        ("\"0\"", "3:42")
    );
    let known = [
        ("quorate-device", "phone"),
        ("if-none-match", "\"7\", W/\"0\""),
    ];
    let cached = bench
        .call_with("GET", &format!("{base}/1"), "", &known)
        .await;
    assert_eq!(
        (
            cached.status.as_u16(),
            cached.header("etag"),
            cached.body.len()
        ),
        (304, "\"0\"", 0)
    );

    let edit = r#"{"idempotency_key":"e","content":{"text":"new"}}"#;
    let at = |tag: &'static str| [("quorate-device", "phone"), ("if-match", tag)];
    let done = bench
        .call_with("PUT", &format!("{base}/1"), edit, &at("\"0\""))
        .await;
    let written: Written = serde_json::from_slice(&done.body).unwrap();
    assert_eq!((written.revision, done.header("etag")), (1, "\"1\""));
    let stale = bench
        .call_with("PUT", &format!("{base}/1"), edit, &at("\"0\""))
        .await;
    let problem = stale.problem(412, "revision_mismatch");
    assert_eq!(stale.header("etag"), "\"1\"");
    assert!(problem.next_step.contains("\"1\""), "{problem:?}");
    let changed = bench
        .call_with("GET", &format!("{base}/1"), "", &known)
        .await;
    let message: Message = serde_json::from_slice(&changed.body).unwrap();
    assert_eq!(
        (message.revision, &message.content["text"]),
        (1, &"new".into())
    );

    bench
        .call("PUT", &format!("{base}/1"), edit)
        .await
        .problem(428, "if_match_missing");
    for tag in [
        "*",
        "W/\"1\"",
        "1",
        "\"1\", \"2\"",
        "\"-1\"",
        "\"99999999999\"",
    ] {
        let reply = bench
            .call_with("PUT", &format!("{base}/1"), edit, &at(tag))
            .await;
        reply.problem(400, "if_match_invalid");
    }
}

#[tokio::test]
async fn status_and_head_need_no_device() {
    let bench = Bench::new().await;
    let reply = bench.call_with("GET", "/v1/status", "", &[]).await;
    let status: Status = serde_json::from_slice(&reply.body).unwrap();
    assert_eq!(status.release_authority, "peer certificate");
    let head = bench.call_with("HEAD", "/v1/status", "", &[]).await;
    assert_eq!((head.status.as_u16(), head.body.len()), (200, 0));
}

#[tokio::test]
async fn unknown_routes_methods_and_values_are_problems() {
    let bench = Bench::new().await;
    let id = bench.chat(1).await;
    bench
        .call("GET", "/v2/chats", "")
        .await
        .problem(404, "route_unknown");
    bench
        .call("GET", "/v1/freeze", "")
        .await
        .problem(404, "route_unknown");
    let wrong = bench.call("DELETE", "/v1/chats", "").await;
    wrong.problem(405, "method_not_allowed");
    assert!(wrong.header("allow").contains("POST"), "{wrong:?}");

    for path in [
        "/v1/chats/xyz",
        "/v1/chats/..%2f..%2fetc",
        "/v1/chats/%ff",
        "/v1/chats/ab/messages",
    ] {
        bench
            .call("GET", path, "")
            .await
            .problem(400, "path_invalid");
    }
    let negative = format!("/v1/chats/{id}/messages/-1");
    bench
        .call("GET", &negative, "")
        .await
        .problem(400, "path_invalid");
    for query in [
        "limit=0",
        "limit=257",
        "limit=x",
        "form=1",
        "profile=maybe",
        "after=zz",
    ] {
        let reply = bench.call("GET", &format!("/v1/chats?{query}"), "").await;
        reply.problem(400, "query_invalid");
    }
    let far = format!("/v1/chats/{id}/messages/99");
    let problem = bench.call("GET", &far, "").await.problem(404, "not_found");
    assert!(problem.detail.contains("message 99"), "{problem:?}");
}

#[tokio::test]
async fn bodies_are_refused_with_what_and_where() {
    let bench = Bench::new().await;
    let id = bench.chat(0).await;
    let path = format!("/v1/chats/{id}/messages");
    let cut = bench
        .call("POST", &path, "{\"messages\":\n [")
        .await
        .problem(400, "json_invalid");
    assert!(cut.detail.contains("line 2 column 2"), "{cut:?}");
    let unknown = r#"{"messages":[{"idempotency_key":"a","content":{},"to":1}]}"#;
    let unknown = bench
        .call("POST", &path, unknown)
        .await
        .problem(400, "body_invalid");
    assert!(unknown.detail.contains("unknown field `to`"), "{unknown:?}");
    let content = r#"{"messages":[{"idempotency_key":"a","content":"text"}]}"#;
    bench
        .call("POST", &path, content)
        .await
        .problem(400, "body_invalid");
    let none = bench.call("POST", &path, r#"{"messages":[]}"#).await;
    assert!(
        none.problem(400, "body_invalid")
            .detail
            .contains("1 to 256")
    );
    let item = r#"{"idempotency_key":"KEY","content":{}}"#;
    let many: Vec<String> = (0..257)
        .map(|i| item.replace("KEY", &i.to_string()))
        .collect();
    let many = format!(r#"{{"messages":[{}]}}"#, many.join(","));
    bench
        .call("POST", &path, &many)
        .await
        .problem(400, "body_invalid");
    for key in ["", &"k".repeat(65), "a\\u0007b"] {
        let body = format!(r#"{{"messages":[{}]}}"#, item.replace("KEY", key));
        let problem = bench.call("POST", &path, &body).await;
        let problem = problem.problem(400, "idempotency_key_invalid");
        assert!(problem.detail.contains("messages[0]"), "{problem:?}");
    }
    let twice = format!(r#"{{"messages":[{item},{item}]}}"#);
    let twice = bench
        .call("POST", &path, &twice)
        .await
        .problem(400, "idempotency_key_invalid");
    assert!(twice.detail.contains("messages[1]") && twice.detail.contains("messages[0]"));

    let as_text = [("quorate-device", "phone"), ("content-type", "text/plain")];
    let reply = bench.call_with("POST", &path, "{}", &as_text).await;
    reply.problem(415, "not_json");
    // Deep nesting must be an error, not a stack overflow.
    let open = "[".repeat(200_000);
    let deep = format!(r#"{{"messages":[{{"idempotency_key":"a","content":{{"a":{open}"#);
    bench
        .call("POST", &path, &deep)
        .await
        .problem(400, "json_invalid");
}

#[tokio::test]
async fn the_device_must_be_named_and_printable() {
    let bench = Bench::new().await;
    let none = bench.call_with("GET", "/v1/chats", "", &[]).await;
    assert!(
        none.problem(400, "device_missing")
            .next_step
            .contains("quorate-device")
    );
    for bad in ["", "   ", &"d".repeat(65), "caf\u{e9}"] {
        let reply = bench
            .call_with("GET", "/v1/chats", "", &[("quorate-device", bad)])
            .await;
        reply.problem(400, "device_invalid");
    }
    let two = [("quorate-device", "a"), ("quorate-device", "b")];
    bench
        .call_with("GET", "/v1/chats", "", &two)
        .await
        .problem(400, "device_invalid");
    let good = bench
        .call_with(
            "GET",
            "/v1/chats",
            "",
            &[("quorate-device", &"d".repeat(64))],
        )
        .await;
    assert_eq!(good.status, 200);
}

#[tokio::test]
async fn request_ids_are_echoed_drawn_or_refused() {
    let bench = Bench::new().await;
    let id = "00112233445566778899aabbccddeeff";
    let own = [("quorate-device", "phone"), ("quorate-request", id)];
    let reply = bench.call_with("GET", "/v1/chats", "", &own).await;
    assert_eq!(reply.header("quorate-request"), id);
    assert_eq!(
        bench.home.callers.lock().unwrap()[0].request.to_string(),
        id
    );
    let drawn = [
        bench.call("GET", "/v1/chats", "").await,
        bench.call("GET", "/v1/nope", "").await,
    ];
    assert!(
        drawn
            .iter()
            .all(|r| r.header("quorate-request").len() == 32)
    );
    assert_ne!(
        drawn[0].header("quorate-request"),
        drawn[1].header("quorate-request")
    );
    for bad in ["1", "zz112233445566778899aabbccddeeff", ""] {
        let headers = [("quorate-device", "phone"), ("quorate-request", bad)];
        let reply = bench.call_with("GET", "/v1/chats", "", &headers).await;
        reply.problem(400, "request_id_invalid");
    }
}

#[tokio::test]
async fn every_error_of_a_home_has_its_problem() {
    use Outcome::{NotDone, Unknown};
    let bench = Bench::new().await;
    let gone = QuorumProblem {
        answered: vec!["ch".into()],
        refused: vec![("is".into(), "frozen by its officers".into())],
        lied: vec!["br".into()],
        unreachable: vec!["sg".into()],
        would_suffice: vec![vec!["sg".into(), "de".into()]],
    };
    let refused = QuorumProblem {
        unreachable: Vec::new(),
        ..gone.clone()
    };
    let unavailable = |outcome| HomeError::Unavailable {
        detail: "no leader".into(),
        retry_ms: 1_500,
        outcome,
    };
    let quorum = |problem: &QuorumProblem, outcome| HomeError::Quorum {
        detail: "1 of 3".into(),
        problem: problem.clone(),
        outcome,
    };
    let corrupt = HomeError::Corrupt {
        chat: ChatId([1; 32]),
        message: 9,
        detail: "tag".into(),
    };
    let invalid = HomeError::Invalid {
        detail: "no such thing".into(),
    };
    let cases = [
        (
            HomeError::NotFound {
                what: "chat 7".into(),
            },
            404,
            "not_found",
            None,
            NotDone,
        ),
        (
            HomeError::RevisionMismatch { current: 4 },
            412,
            "revision_mismatch",
            None,
            NotDone,
        ),
        (invalid, 400, "invalid", None, NotDone),
        (
            HomeError::IdempotencyMismatch,
            422,
            "idempotency_mismatch",
            None,
            NotDone,
        ),
        (
            quorum(&gone, NotDone),
            503,
            "quorum_unreachable",
            Some(5_000),
            NotDone,
        ),
        (
            quorum(&refused, Unknown),
            503,
            "quorum_refused",
            None,
            Unknown,
        ),
        (
            unavailable(NotDone),
            503,
            "unavailable",
            Some(1_500),
            NotDone,
        ),
        (
            unavailable(Unknown),
            503,
            "unavailable",
            Some(1_500),
            Unknown,
        ),
        (corrupt, 500, "corrupt", None, NotDone),
    ];
    for (error, status, code, retry_ms, outcome) in cases {
        let said = error.to_string();
        *bench.home.fails.lock().unwrap() = Some(error);
        let problem = bench
            .call("GET", "/v1/chats", "")
            .await
            .problem(status, code);
        assert_eq!(
            (problem.retry_ms, problem.outcome),
            (retry_ms, outcome),
            "{problem:?}"
        );
        assert_eq!(problem.detail, said);
        match code {
            "quorum_unreachable" => {
                assert_eq!(problem.quorum.as_ref(), Some(&gone));
                assert!(
                    problem.next_step.contains("sg and de would suffice"),
                    "{problem:?}"
                );
            }
            "quorum_refused" => assert_eq!(problem.quorum.as_ref(), Some(&refused)),
            _ => assert_eq!(problem.quorum, None),
        }
    }
}
