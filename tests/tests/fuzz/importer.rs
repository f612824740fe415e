//! What exporters write, and what they should not have written.

use super::mutate::Kind;
use super::run::Target;
use quorate_cli::telegram::records::{Joiner, Messages};
use quorate_cli::telegram::survey::survey;
use quorate_cli::telegram::value::{Notes, parse, write};
use std::io::Write;

const EXPORTS: &[&str] = &[
    r#"{
 "about": "x",
 "chats": {
  "about": "y",
  "list": [
   {
    "name": "Plan", "type": "private_group", "id": 42,
    "messages": [
     { "id": 1, "type": "message", "date": "2024-01-01T00:00:00", "date_unixtime": "1704067200", "from": "A", "text": "hi" },
     { "id": 2, "type": "service", "action": "pin_message", "message_id": 1, "text": "" },
     { "id": 3, "type": "message", "text": ["a ", {"type": "bold", "text": "b"}], "location_information": {"latitude": 50.45, "longitude": 30.523} }
    ]
   }
  ]
 },
 "left_chats": { "list": [] }
}
"#,
    r#"{"name": null, "type": "saved_messages", "id": 7, "messages": [{"id": 1, "document_id": 123456789012345678901234567890, "text": "\u00e9"}]}"#,
];

/// A value that is read is the same after it was written.
pub(crate) fn import_value() -> Target {
    Target {
        corpus: EXPORTS.iter().map(|t| t.as_bytes().to_vec()).collect(),
        kind: Kind::Text,
        iterations: 30_000,
        allocation_bytes_max: 16 << 20,
        check: Box::new(|bytes| {
            let Ok(value) = parse(bytes, &mut Notes::default()) else {
                return false;
            };
            let mut text = vec![];
            write(&mut text, &value, 0);
            let again = parse(&text, &mut Notes::default());
            assert_eq!(
                again.as_ref(),
                Ok(&value),
                "{}",
                String::from_utf8_lossy(&text)
            );
            true
        }),
    }
}

/// A whole file: surveyed, then every message read and put together again.
pub(crate) fn import_file() -> Target {
    Target {
        corpus: EXPORTS.iter().map(|t| t.as_bytes().to_vec()).collect(),
        kind: Kind::Text,
        iterations: 10_000,
        allocation_bytes_max: 16 << 20,
        check: Box::new(|bytes| {
            let Ok((found, _)) = survey(bytes) else {
                return false;
            };
            let mut file = tempfile::NamedTempFile::new().expect("a temporary file");
            file.write_all(bytes).expect("writable");
            for span in found.chats.iter().filter_map(|c| c.messages) {
                let mut messages =
                    Messages::open(file.path(), span, "chat".into()).expect("readable");
                let (mut joiner, mut record, mut read) = (Joiner::default(), 0, 0);
                while let Ok(Some(item)) = messages.next_item() {
                    read += 1;
                    for text in item.records {
                        record += 1;
                        let content = serde_json::from_str(&text).expect("records are JSON");
                        joiner.push(record, content).expect("records join");
                    }
                }
                assert_eq!(read, span.count, "the survey counted other messages");
                assert!(!joiner.is_open());
            }
            true
        }),
    }
}
