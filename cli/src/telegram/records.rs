//! Second pass: one chat's messages as records, and records back as messages.
//!
//! A record is what one append stores: a JSON object of at most 1 MiB. A
//! message that is an object is its own record, verbatim. Others are wrapped:
//!
//! | message | records |
//! |---|---|
//! | not an object | `{"quorate:value": …}` |
//! | longer than [`RECORD_BYTES_MAX`] | several `{"quorate:part": {part, parts, json}}` |
//!
//! The same message always becomes the same records, so that a record's number
//! names it over an interruption.

use super::scan::{Kept, ScanError, Scanner};
use super::survey::{ELEMENT_BYTES_MAX, Span, Unread, too_long};
use super::value::{self, Notes};
use quorate_engine::api::{CONTENT_BYTES_MAX, Content};
use serde_json::{Value, json};
use std::fs::File;
use std::io::{Seek, SeekFrom};
use std::path::Path;

/// Wraps what is not an object.
pub const VALUE: &str = "quorate:value";
/// One piece of a record that is too long for one message.
pub const PART: &str = "quorate:part";
/// Longest record sent whole, in bytes. Below the home's limit, for what wraps it.
pub const RECORD_BYTES_MAX: usize = CONTENT_BYTES_MAX - (64 << 10);
/// Longest piece in bytes of JSON text; escaping it may double it.
pub const PART_BYTES_MAX: usize = 256 << 10;

const _: () = assert!(2 * PART_BYTES_MAX < RECORD_BYTES_MAX);

/// The JSON texts of the records that `value` becomes, one at least.
pub fn records(value: Value) -> Vec<String> {
    let whole = match value {
        Value::Object(_) => value.to_string(),
        other => json!({VALUE: other}).to_string(),
    };
    pieces(whole)
}

/// `text`, the JSON of an object, as one record or as several parts.
pub fn pieces(text: String) -> Vec<String> {
    if text.len() <= RECORD_BYTES_MAX {
        return vec![text];
    }
    let mut cuts = Vec::new();
    let mut rest = text.as_str();
    while !rest.is_empty() {
        let (piece, after) = rest.split_at(rest.floor_char_boundary(PART_BYTES_MAX));
        cuts.push(piece);
        rest = after;
    }
    let parts = cuts.len();
    let wrap = |(part, json): (usize, &str)| {
        json!({PART: {"part": part, "parts": parts, "json": json}}).to_string()
    };
    cuts.into_iter().enumerate().map(wrap).collect()
}

/// Puts records back together.
#[derive(Debug, Default)]
pub struct Joiner {
    parts: u64,
    text: String,
    next: u64,
}

/// Why records do not make messages.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("record {record}: {reason}")]
pub struct JoinError {
    /// The record's number in its chat.
    pub record: u64,
    /// What is wrong.
    pub reason: String,
}

impl Joiner {
    /// The message that `content` completes, if it does.
    ///
    /// # Errors
    /// [`JoinError`] when parts are missing, out of order, or damaged.
    pub fn push(&mut self, record: u64, content: Content) -> Result<Option<Value>, JoinError> {
        let fail = |reason: &str| {
            Err(JoinError {
                record,
                reason: reason.to_owned(),
            })
        };
        let Some(piece) = content.get(PART).filter(|_| content.len() == 1) else {
            if self.parts != 0 {
                return fail("the parts of a long message before it are not complete");
            }
            return Ok(Some(unwrap(content)));
        };
        let number = |key: &str| piece.get(key).and_then(Value::as_u64);
        let (Some(part), Some(parts), Some(text)) = (
            number("part"),
            number("parts"),
            piece.get("json").and_then(Value::as_str),
        ) else {
            return fail("not a part of a long message as an import writes it");
        };
        if self.parts == 0 {
            self.parts = parts;
        }
        if part != self.next || parts != self.parts {
            return fail("a part of a long message is missing or out of order");
        }
        self.text.push_str(text);
        self.next += 1;
        if self.next < self.parts {
            return Ok(None);
        }
        let whole = std::mem::take(self);
        match serde_json::from_str::<Content>(&whole.text) {
            Ok(content) => Ok(Some(unwrap(content))),
            Err(e) => fail(&format!(
                "the parts of a long message do not fit together: {e}"
            )),
        }
    }

    /// Whether a message is still incomplete.
    pub fn is_open(&self) -> bool {
        self.parts != 0
    }
}

/// The value that [`records`] wrapped.
pub fn unwrap(mut content: Content) -> Value {
    match content.len() {
        1 if content.contains_key(VALUE) => content.remove(VALUE).unwrap_or(Value::Null),
        _ => Value::Object(content),
    }
}

/// What one message became.
#[derive(Debug)]
pub struct Item {
    /// JSON texts, to be appended in order.
    pub records: Vec<String>,
    /// Set when the message could not be read.
    pub unread: Option<Unread>,
    /// It names a media file of the export.
    pub media_file: bool,
}

/// Reads one chat's messages.
pub struct Messages {
    scan: Scanner<File>,
    path: String,
    left: u64,
    done: u64,
    raw: Vec<u8>,
    /// What was unusual but kept.
    pub notes: Notes,
}

impl Messages {
    /// Opens `file` where the survey found the messages; `path` names them in reports.
    ///
    /// # Errors
    /// As the file cannot be opened.
    pub fn open(file: &Path, span: Span, path: String) -> std::io::Result<Self> {
        let mut file = File::open(file)?;
        file.seek(SeekFrom::Start(span.offset))?;
        Ok(Self {
            scan: Scanner::new(file, span.offset),
            path,
            left: span.count,
            done: 0,
            raw: Vec::new(),
            notes: Notes::default(),
        })
    }

    /// Where in the file it is.
    pub fn offset(&self) -> u64 {
        self.scan.offset()
    }

    /// The next message's records.
    ///
    /// # Errors
    /// When the file is no longer what the survey read.
    pub fn next_item(&mut self) -> Result<Option<Item>, ScanError> {
        if self.left == 0 {
            return Ok(None);
        }
        let mut first = self.done == 0;
        self.scan.more(&mut first, b']')?;
        self.scan.peek_token()?;
        let offset = self.scan.offset();
        self.raw.clear();
        self.raw.shrink_to(1 << 20);
        let kept = self.scan.element(Some(&mut self.raw), ELEMENT_BYTES_MAX)?;
        let index = self.done;
        self.done += 1;
        self.left -= 1;
        let reason = match kept {
            Kept::Cut { bytes } => too_long(bytes),
            Kept::Whole => match value::parse(&self.raw, &mut self.notes) {
                Ok(value) => {
                    let media_file = names_file(&value);
                    return Ok(Some(Item {
                        records: records(value),
                        unread: None,
                        media_file,
                    }));
                }
                Err(e) => e.to_string(),
            },
        };
        let whole = kept == Kept::Whole;
        let bytes = if whole {
            &self.raw[..]
        } else {
            &self.raw[..1024]
        };
        Ok(Some(Item {
            records: records(value::unreadable(bytes, &reason, offset)),
            unread: Some(Unread {
                path: format!("{}[{index}]", self.path),
                offset,
                reason,
                kept: whole,
            }),
            media_file: false,
        }))
    }
}

/// Whether a message names a file that was exported; a notice in brackets is none.
fn names_file(message: &Value) -> bool {
    ["photo", "file", "contact_vcard"].iter().any(|key| {
        let path = message.get(key).and_then(Value::as_str);
        path.is_some_and(|p| !p.is_empty() && !p.starts_with('('))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn join(records: Vec<String>) -> Vec<Value> {
        let mut joiner = Joiner::default();
        let mut out = Vec::new();
        for (i, r) in records.into_iter().enumerate() {
            assert!(r.len() <= CONTENT_BYTES_MAX);
            out.extend(
                joiner
                    .push(i as u64 + 1, serde_json::from_str(&r).unwrap())
                    .unwrap(),
            );
        }
        assert!(!joiner.is_open());
        out
    }

    #[test]
    fn long_and_bare_messages_come_back() {
        for value in [
            json!({"id": 1}),
            json!([1]),
            json!("x"),
            json!(null),
            json!({"t": "\"é\\\u{1}".repeat(900_000)}),
            json!(["é".repeat(700_000)]),
        ] {
            assert_eq!(join(records(value.clone())), [value]);
        }
        assert!(records(json!({"t": "x".repeat(3 << 20)})).len() > 10);
    }

    #[test]
    fn missing_parts_are_an_error() {
        let all = records(json!({"t": "x".repeat(2 << 20)}));
        let parse = |i: usize| serde_json::from_str::<Content>(&all[i]).unwrap();
        let mut joiner = Joiner::default();
        assert!(joiner.push(1, parse(1)).is_err());
        let mut joiner = Joiner::default();
        assert_eq!(joiner.push(1, parse(0)).unwrap(), None);
        assert!(joiner.push(2, parse(2)).is_err());
        let mut joiner = Joiner::default();
        assert_eq!(joiner.push(1, parse(0)).unwrap(), None);
        assert!(joiner.push(2, Content::new()).is_err());
    }

    #[test]
    fn an_unreadable_message_is_named_and_the_next_one_read() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        let text = br#"[ {"id":1}, {"id":2,"text":"\q"}, "bare", {"id":3} ] tail"#;
        file.write_all(text).unwrap();
        let span = Span {
            offset: 1,
            count: 4,
            position: 0,
        };
        let mut m = Messages::open(file.path(), span, "messages".into()).unwrap();
        let mut all = Vec::new();
        while let Some(item) = m.next_item().unwrap() {
            all.push(item);
        }
        assert_eq!(all.len(), 4);
        let unread = all[1].unread.clone().unwrap();
        assert_eq!(
            (unread.path.as_str(), unread.offset, unread.kept),
            ("messages[1]", 12, true)
        );
        assert_eq!(all[2].records, [r#"{"quorate:value":"bare"}"#]);
        assert_eq!(all[3].records, [r#"{"id":3}"#]);
    }
}
