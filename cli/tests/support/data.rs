//! Input for tests: shared real exports where they are, and made ones.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

/// A file of the shared test data: `QUORATE_SHARED`, else `shared` beside the workspace.
/// `None` means skip; on CI a missing file is a failure.
pub fn shared(path: &str) -> Option<PathBuf> {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let beside = workspace.parent().unwrap().join("shared");
    let root = std::env::var_os("QUORATE_SHARED").map_or(beside, PathBuf::from);
    let file = root.join("data").join(path);
    if file.exists() {
        return Some(file);
    }
    assert!(
        std::env::var("CI").as_deref() != Ok("true"),
        "{} is missing; set QUORATE_SHARED",
        file.display()
    );
    eprintln!("skipped: {} is missing; set QUORATE_SHARED", file.display());
    None
}

/// A full export of `messages` messages in `chats` chats, about 430 bytes each.
pub fn synthetic(chats: usize, messages: usize) -> String {
    let mut out =
        String::from("{\n \"about\": \"made\",\n \"chats\": {\n  \"about\": \"\",\n  \"list\": [");
    for chat in 0..chats {
        let _ = write!(
            out,
            "{}\n   {{\n    \"name\": \"chat {chat}\",\n    \"type\": \"private_supergroup\",\n    \"id\": {},\n    \"messages\": [",
            if chat > 0 { "," } else { "" },
            9_000_000 + chat
        );
        for m in 0..messages / chats {
            let text =
                format!("message {m} of chat {chat}: the quick brown fox jumps over the lazy dog");
            let _ = write!(
                out,
                "{}\n     {{\n      \"id\": {m},\n      \"type\": \"message\",\n      \"date\": \"2004-11-15T12:18:00\",\n      \"date_unixtime\": \"1100521080\",\n      \"from\": \"somebody {}\",\n      \"from_id\": \"user{}\",\n      \"text\": \"{text}\",\n      \"text_entities\": [\n       {{\n        \"type\": \"plain\",\n        \"text\": \"{text}\"\n       }}\n      ]\n     }}",
                if m > 0 { "," } else { "" },
                m % 97,
                1000 + m % 97
            );
        }
        out.push_str("\n    ]\n   }");
    }
    out.push_str("\n  ]\n }\n}\n");
    out
}

/// Everything exporters do that JSON does not foresee, with every root key.
pub const ODD: &str = r#"{
 "about": "odd \x07 one",
 "personal_information": {"user_id": 1, "bio": "b", "user_id": 2},
 "contacts": {"about": "", "list": [{"user_id": 99999999999999999999999, "date_unixtime": "1"}]},
 "left_chats": {"list": [{"messages": [{"id": -1, "type": "unsupported"}], "type": "public_channel", "id": 5, "name": null}, {"id": 6, "type": null}], "about": "left"},
 "newer_root_key": [1.5, 1e400, -0, 0.1, 12345678901234567890, {"quorate:number": "7"}],
 "chats": {"about": "", "list": [
  {"type": "saved_messages", "id": 1, "messages": []},
  {"name": "n", "type": "personal_chat", "id": 2, "messages": [
   {"id": 1, "type": "message", "from_id": 4242, "date": "2015-01-01T00:00:00", "text": ["a\x01b", {"type": "bold", "text": "c"}]},
   {"id": 2, "type": "message", "text": "first", "text": "second", "text_entities": []},
   {"id": 3, "type": "message", "text": "", "text_entities": [{"type": "custom_emoji", "text": "x", "document_id": 123456789012345678901234}]},
   {"id": 4, "type": "service", "action": "action_of_next_year", "actor": null, "depth": {"of": ["it", {"quorate:duplicates": {"a": 1}}]}},
   {"id": 5, "type": "message", "location_information": {"latitude": 50.4500, "longitude": -30.523333333333333333}, "text": ""},
   "not an object", 7, null
  ], "after": true}
 ]}
}"#;
