//! `docs/grants.md` says what the code does.

use super::*;

const PAGE: &str = include_str!("../../../../../docs/grants.md");

/// What stands in `docs/grants.md` for authors of other clients.
fn vectors() -> String {
    let accepted = |name: &str, c: Claims| {
        let g = Grant::sign(device(1), &key(1), c).unwrap();
        json!({"name": name, "compact": g.compact(), "payload": g.claims(), "hash": hex::encode(g.hash().0)})
    };
    let write = Claims {
        actions: vec![Action::Read, Action::Write],
        ..claims()
    };
    let mut rows = vec![accepted("read", claims()), accepted("write", write)];
    let wanted = [
        "alg none",
        "alg HS256",
        "crit",
        "typ JWT",
        "padding",
        "bits that no byte takes up",
        "an extra dot at the end",
        "exp twice",
        "exp 1e3",
        "a claim nobody knows",
        "901 seconds",
        "ceiling 0",
        "a chat twice",
        "a range backwards",
        "no signature",
    ];
    let refused = hostile();
    for name in wanted {
        let (_, text, why) = refused.iter().find(|(n, _, _)| *n == name).unwrap();
        rows.push(json!({"name": name, "compact": text, "refused": why.code()}));
    }
    let rows: Vec<String> = rows.iter().map(Value::to_string).collect();
    let key_of = json!({"seed": hex::encode([1; 32]), "public": hex::encode(key(1).public()), "kid": device(1)});
    format!(
        "{{\"device\":{key_of},\n\"vectors\":[\n{}\n]}}",
        rows.join(",\n")
    )
}

#[test]
fn the_page_has_these_vectors() {
    let block = PAGE
        .split("```json\n")
        .nth(1)
        .and_then(|b| b.split("\n```").next());
    let want = vectors();
    assert_eq!(block, Some(want.as_str()), "the block should be:\n{want}");
    // What a reader of the page alone would do.
    let page: Value = serde_json::from_str(block.unwrap()).unwrap();
    let mut public = [0; 32];
    hex::decode_to_slice(page["device"]["public"].as_str().unwrap(), &mut public).unwrap();
    for v in page["vectors"].as_array().unwrap() {
        let read = Grant::parse(v["compact"].as_str().unwrap());
        match v["refused"].as_str() {
            Some(code) => assert_eq!(read.unwrap_err().code(), code),
            None => read.unwrap().verify(&public).unwrap(),
        }
    }
}

#[test]
fn the_page_has_every_reason() {
    let mut codes = BTreeSet::new();
    for why in GrantRefusal::ALL {
        let row = format!("| `{}` | {} |", why.code(), why.text());
        assert!(PAGE.contains(&row), "missing in docs/grants.md:\n{row}");
        assert!(codes.insert(why.code()));
        assert_eq!(serde_json::to_value(why).unwrap(), json!(why.code()));
    }
}
