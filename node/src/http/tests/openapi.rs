//! The OpenAPI document: complete, and without a dangling reference.

use super::fixture::Bench;
use serde_json::Value;

fn walk<'a>(value: &'a Value, visit: &mut impl FnMut(&'a str, &'a Value)) {
    match value {
        Value::Object(map) => {
            for (key, inner) in map {
                visit(key, inner);
                walk(inner, visit);
            }
        }
        Value::Array(list) => list.iter().for_each(|inner| walk(inner, visit)),
        _ => {}
    }
}

/// References in `document` that do not resolve inside it.
pub(super) fn dangling(document: &Value) -> Vec<String> {
    let mut bad = Vec::new();
    walk(document, &mut |key, value| {
        if key == "$ref" {
            let target = value.as_str().and_then(|r| r.strip_prefix('#'));
            if target
                .and_then(|pointer| document.pointer(pointer))
                .is_none()
            {
                bad.push(value.to_string());
            }
        }
    });
    bad
}

#[tokio::test]
async fn the_document_has_every_route_and_every_reference_resolves() {
    let bench = Bench::new().await;
    let reply = bench.call_with("GET", "/v1/openapi.json", "", &[]).await;
    assert_eq!(
        (reply.status.as_u16(), reply.header("content-type")),
        (200, "application/json")
    );
    let document = reply.json();
    assert!(document["openapi"].as_str().unwrap().starts_with("3."));
    assert_eq!(dangling(&document), Vec::<String>::new());

    let routes = [
        ("/v1/chats", "get"),
        ("/v1/chats", "post"),
        ("/v1/chats/{chat}", "get"),
        ("/v1/chats/{chat}/messages", "get"),
        ("/v1/chats/{chat}/messages", "post"),
        ("/v1/chats/{chat}/messages/{id}", "get"),
        ("/v1/chats/{chat}/messages/{id}", "put"),
        ("/v1/chats/{chat}/members", "get"),
        ("/v1/chats/{chat}/head", "get"),
        ("/v1/chats/{chat}/statements", "post"),
        ("/v1/chats/{chat}/deletions", "post"),
        ("/v1/accounts/{account}/statements", "post"),
        ("/v1/accounts/{account}/statements", "get"),
        ("/v1/session", "post"),
        ("/v1/status", "get"),
        ("/v1/openapi.json", "get"),
    ];
    let documented: usize = document["paths"]
        .as_object()
        .unwrap()
        .values()
        .map(|p| p.as_object().unwrap().len())
        .sum();
    assert_eq!(
        documented,
        routes.len(),
        "the document has other routes than the router"
    );
    for (path, method) in routes {
        let operation = &document["paths"][path][method];
        assert!(operation.is_object(), "{method} {path} is missing");
        let replies = operation["responses"].as_object().unwrap();
        assert!(
            replies.keys().any(|k| k.starts_with('2')),
            "{method} {path} has no success"
        );
        for status in ["400", "404", "405", "500", "503", "504"] {
            let schema = &replies[status]["content"]["application/problem+json"]["schema"]["$ref"];
            assert_eq!(
                schema, "#/components/schemas/Problem",
                "{method} {path} {status}"
            );
        }
        let wanted = path.matches('{').count();
        let named = operation["parameters"].as_array().map_or(0, |all| {
            all.iter()
                .filter(|p| p["in"] == "path" && p["required"] == true)
                .count()
        });
        assert_eq!(named, wanted, "path parameters of {method} {path}");
        // A grant in the header is all that a session takes.
        let writes = method != "get" && path != "/v1/session";
        assert_eq!(
            operation["requestBody"].is_object(),
            writes,
            "{method} {path}"
        );
        assert_eq!(replies.contains_key("413"), writes, "{method} {path}");
        // A documented route is served: anything but the router's own refusals.
        let id = "0".repeat(64);
        let real = path.replace("{chat}", &id).replace("{account}", &id);
        let real = real.replace("{id}", "1");
        let reply = bench.call(&method.to_uppercase(), &real, "").await;
        assert_ne!(reply.status, 405, "{method} {path}");
        assert!(
            !String::from_utf8_lossy(&reply.body).contains("route_unknown"),
            "{method} {path}"
        );
    }
    let edit = &document["paths"]["/v1/chats/{chat}/messages/{id}"]["put"]["responses"];
    assert!(edit["412"].is_object() && edit["428"].is_object());
}

#[test]
fn the_reference_check_can_fail() {
    let document: Value = serde_json::from_str(
        r##"{"a":[{"$ref":"#/b"},{"$ref":"#/c"},{"$ref":"other.json"}],"b":1}"##,
    )
    .unwrap();
    assert_eq!(dangling(&document).len(), 2);
}
