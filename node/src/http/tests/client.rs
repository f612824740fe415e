//! Every route of the client plane, and every error a home can answer with.

use super::fixture::{Bench, CREATE, GRANT};
use crate::home::api::HomeError;
use quorate_engine::api::{
    AccountChain, Chat, ChatHead, ChatList, Deletion, Members, Message, Page, QuorumProblem,
    StatementAcks, Status, Written,
};
use quorate_engine::authz::grant::GrantRefusal;
use quorate_engine::authz::service::ServiceRefusal;
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
        .call("POST", "/v1/chats", &format!("{CREATE}\"k2\"}}"))
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
    let known = [GRANT, ("if-none-match", "\"7\", W/\"0\"")];
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
    let at = |tag: &'static str| [GRANT, ("if-match", tag)];
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
async fn status_and_head_need_no_grant() {
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

    let as_text = [GRANT, ("content-type", "text/plain")];
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
async fn a_grant_stands_once_behind_bearer() {
    let bench = Bench::new().await;
    let chat = bench.chat(0).await;
    let calls = [
        ("GET", "/v1/chats".to_owned()),
        ("POST", "/v1/chats".to_owned()),
        ("GET", format!("/v1/chats/{chat}")),
        ("GET", format!("/v1/chats/{chat}/messages")),
        ("POST", format!("/v1/chats/{chat}/messages")),
        ("GET", format!("/v1/chats/{chat}/messages/0")),
        ("PUT", format!("/v1/chats/{chat}/messages/0")),
        ("GET", format!("/v1/chats/{chat}/members")),
        ("GET", format!("/v1/chats/{chat}/head")),
        ("POST", format!("/v1/chats/{chat}/statements")),
        ("POST", format!("/v1/accounts/{chat}/statements")),
        ("GET", format!("/v1/accounts/{chat}/statements")),
        ("POST", format!("/v1/chats/{chat}/deletions")),
    ];
    let before = bench.home.callers.lock().unwrap().len();
    for (method, path) in &calls {
        let none = bench.call_with(method, path, "", &[]).await;
        let problem = none.problem(401, "grant_missing");
        assert!(problem.next_step.contains("Bearer"), "{problem:?}");
        assert_eq!(none.header("www-authenticate"), "Bearer realm=\"quorate\"");
    }
    let long = format!("Bearer {}", "g".repeat(8_193));
    for bad in [
        "",
        "Bearer",
        "Bearer ",
        "Basic phone",
        "phone",
        "Bearer caf\u{e9}",
        &long,
    ] {
        let headers = [("authorization", bad)];
        let reply = bench.call_with("GET", "/v1/chats", "", &headers).await;
        reply.problem(401, "grant_malformed");
    }
    let two = [GRANT, GRANT];
    let reply = bench.call_with("GET", "/v1/chats", "", &two).await;
    reply.problem(401, "grant_malformed");
    assert_eq!(bench.home.callers.lock().unwrap().len(), before);
    let longest = format!("bearer {}", "g".repeat(8_192));
    let headers = [("authorization", longest.as_str())];
    let good = bench.call_with("GET", "/v1/chats", "", &headers).await;
    assert_eq!(good.status, 200);
    let shown = bench.home.callers.lock().unwrap().pop().unwrap();
    assert_eq!(shown.grant, "g".repeat(8_192));
    assert!(!format!("{shown:?}").contains("ggg"), "{shown:?}");
}

#[tokio::test]
async fn members_are_paged_and_statements_passed_on() {
    let bench = Bench::new().await;
    let chat = bench.chat(0).await;
    let base = format!("/v1/chats/{chat}");
    let page = bench
        .call("GET", &format!("{base}/members?limit=2"), "")
        .await;
    assert_eq!(page.header("quorate-position"), "3:42");
    let page: Members = serde_json::from_slice(&page.body).unwrap();
    assert_eq!((page.number, page.members.len()), (7, 2));
    let after = page.next.unwrap();
    let rest = format!("{base}/members?after={after}");
    let rest: Members = serde_json::from_slice(&bench.call("GET", &rest, "").await.body).unwrap();
    assert_eq!((rest.members.len(), rest.next), (1, None));
    for query in ["limit=0", "limit=257", "after=zz", "before=1"] {
        let reply = bench
            .call("GET", &format!("{base}/members?{query}"), "")
            .await;
        reply.problem(400, "query_invalid");
    }

    let key = "cd".repeat(32);
    for (query, hash) in [
        (String::new(), "h"),
        (format!("?invite={key}"), key.as_str()),
    ] {
        let path = format!("{base}/head{query}");
        let head: ChatHead =
            serde_json::from_slice(&bench.call("GET", &path, "").await.body).unwrap();
        assert_eq!((head.number, head.hash.as_str()), (7, hash));
    }
    for query in ["invite=zz", "key=1"] {
        let reply = bench.call("GET", &format!("{base}/head?{query}"), "").await;
        reply.problem(400, "query_invalid");
    }

    let body = r#"{"statement":{"payload":"said","signatures":[]}}"#;
    let said = bench
        .call("POST", &format!("{base}/statements"), body)
        .await;
    let said: StatementAcks = serde_json::from_slice(&said.body).unwrap();
    assert_eq!(said.refused[0].2, "said");
    assert_eq!(said.unreachable, ["is"]);
    let account = "ab".repeat(32);
    let path = format!("/v1/accounts/{account}/statements");
    let said = bench.call("POST", &path, body).await;
    let said: StatementAcks = serde_json::from_slice(&said.body).unwrap();
    assert_eq!(said.unreachable, [account]);
    let told = bench.call("GET", &format!("{path}?from=7"), "").await;
    let told: AccountChain = serde_json::from_slice(&told.body).unwrap();
    assert_eq!((told.number, told.hash), (7, "ab".repeat(32)));
    let wrong = bench.call("GET", &format!("{path}?after=7"), "").await;
    wrong.problem(400, "query_invalid");
    let path = format!("{base}/statements");
    let wrong = bench.call("POST", &path, r#"{"statement":{}}"#).await;
    wrong.problem(400, "body_invalid");
    let big = format!(r#"{{"statement":{{"payload":"{}"}}}}"#, "x".repeat(1 << 16));
    let big = bench.call("POST", &path, &big).await;
    big.problem(413, "body_too_large");
}

#[tokio::test]
async fn a_deletion_statement_is_passed_on_and_checked_only_when_asked() {
    let bench = Bench::new().await;
    let chat = bench.chat(0).await;
    let path = format!("/v1/chats/{chat}/deletions");
    let body = r#"{"statement":{"payload":"said","signatures":[]}}"#;
    let said = bench.call("POST", &path, body).await;
    assert_eq!(said.status, 201);
    assert_eq!(said.header("quorate-position"), "3:42");
    let said: Deletion = serde_json::from_slice(&said.body).unwrap();
    assert_eq!((said.id.as_str(), said.checked), ("said", None));
    let body = r#"{"check":true,"statement":{"payload":"said","signatures":[]}}"#;
    let said = bench.call("POST", &path, body).await;
    let said: Deletion = serde_json::from_slice(&said.body).unwrap();
    assert_eq!(said.checked, Some(Vec::new()));
    let wrong = bench.call("POST", &path, r#"{"messages":[1]}"#).await;
    wrong.problem(400, "body_invalid");
    let elsewhere = format!("/v1/chats/{}/deletions", "ab".repeat(32));
    let none = bench.call("POST", &elsewhere, body).await;
    none.problem(404, "not_found");
}

#[tokio::test]
async fn request_ids_are_echoed_drawn_or_refused() {
    let bench = Bench::new().await;
    let id = "00112233445566778899aabbccddeeff";
    let own = [GRANT, ("quorate-request", id)];
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
        let headers = [GRANT, ("quorate-request", bad)];
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
    let spent = |account| HomeError::Spent {
        detail: "the budget is spent at ch".into(),
        retry_ms: 90_001,
        account,
    };
    let statement = |code: &str| HomeError::Statement {
        code: code.into(),
        reason: "it is not taken".into(),
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
        (spent(true), 429, "account_budget", Some(90_001), NotDone),
        (spent(false), 503, "custodian_budget", Some(90_001), NotDone),
        (statement("fork"), 409, "statement_fork", None, NotDone),
        (statement("role"), 403, "statement_role", None, NotDone),
        (statement("full"), 422, "statement_full", None, NotDone),
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

#[tokio::test]
async fn every_refusal_of_a_service_has_its_code() {
    let bench = Bench::new().await;
    for why in ServiceRefusal::ALL {
        let status = match why {
            ServiceRefusal::Malformed
            | ServiceRefusal::Signature
            | ServiceRefusal::NotYetValid
            | ServiceRefusal::Expired => 401,
            _ => 403,
        };
        *bench.home.fails.lock().unwrap() = Some(HomeError::Service {
            why: *why,
            detail: why.to_string(),
        });
        let reply = bench.call("GET", "/v1/chats", "").await;
        let problem = reply.problem(status, why.code());
        assert_eq!(problem.detail, why.text());
    }
}

/// Which of them a new grant helps against, and under which code.
#[tokio::test]
async fn every_refusal_of_a_grant_has_its_code() {
    let bench = Bench::new().await;
    for why in GrantRefusal::ALL {
        let (status, code) = match why.code() {
            "signature" => (401, "grant_signature"),
            "not_yet_valid" => (401, "grant_not_yet"),
            "expired" => (401, "grant_expired"),
            "id_reused" => (401, "grant_id_reused"),
            "ceiling_spent" => (401, "grant_ceiling_spent"),
            "other_deployment" => (403, "grant_other_deployment"),
            "other_home" => (403, "grant_other_home"),
            "action_not_granted" => (403, "grant_action"),
            "chat_not_granted" => (403, "grant_chat"),
            "epoch_before_range" | "epoch_after_range" => (403, "grant_epoch"),
            own @ ("device_unknown"
            | "device_expired"
            | "device_revoked"
            | "chat_unknown"
            | "chat_forked"
            | "not_member"
            | "epoch_before_membership"
            | "service_credential") => (403, own),
            _form => (401, "grant_malformed"),
        };
        let detail = why.to_string();
        let fails = HomeError::Denied { why: *why, detail };
        *bench.home.fails.lock().unwrap() = Some(fails);
        let reply = bench.call("GET", "/v1/chats", "").await;
        let problem = reply.problem(status, code);
        assert_eq!(problem.detail, why.text());
        let challenged = !reply.header("www-authenticate").is_empty();
        assert_eq!(challenged, status == 401, "{why:?}");
    }
}
