//! First pass over an export: everything but the messages.
//!
//! One pass finds the keyed hash that names the import, the root's own fields,
//! each chat's fields and where its messages begin, so that the second pass
//! can read several chats at once and profiles are complete before the first
//! message is sent, in whatever order the exporter wrote its keys.

use super::scan::{Kept, ScanError, Scanner};
use super::value::{self, Notes};
use quorate_engine::api::Content;
use serde_json::{Map, Value, json};
use std::io::Read;

/// Longest single value, in bytes of its text; a longer one is reported and left out.
pub const ELEMENT_BYTES_MAX: usize = 16 << 20;
/// Most bytes of fields outside messages, all chats together.
pub const OUTSIDE_BYTES_MAX: usize = 64 << 20;
/// Most chats in one export.
pub const CHATS_MAX: usize = 100_000;
/// Most unreadable places that are named one by one; more are only counted.
pub const NAMED_MAX: usize = 1000;

/// Stands in the kept root where a list of chats was: `{"quorate:chats": "chats"}`.
pub const CHATS: &str = "quorate:chats";

/// A part of the file that could not be read.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Unread {
    /// Where in the JSON: `chats.list[1].messages[77]`.
    pub path: String,
    /// Byte of the file where it begins.
    pub offset: u64,
    /// Why.
    pub reason: String,
    /// Whether its bytes are kept in the archive all the same.
    pub kept: bool,
}

/// How the file ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ending {
    /// As JSON should.
    Whole,
    /// In the middle of a value: cut short.
    Cut {
        /// Its length.
        offset: u64,
        /// What was being read.
        path: String,
    },
    /// From here on it is not JSON.
    Damaged {
        /// Where.
        offset: u64,
        /// What was being read, and what is wrong.
        reason: String,
    },
}

/// Where a chat's messages stand in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// Byte after the opening bracket.
    pub offset: u64,
    /// Complete elements.
    pub count: u64,
    /// Keys of the chat that stood before `messages`.
    pub position: usize,
}

/// One chat of the file, without its messages.
#[derive(Clone, Debug)]
pub struct Source {
    /// `chats`, `left_chats`, or `root` when the file is one chat.
    pub list: &'static str,
    /// Place in that list.
    pub index: usize,
    /// Its other fields.
    pub fields: Content,
    /// Its messages, if it has that key.
    pub messages: Option<Span>,
    /// The list's element was no object; `fields` holds it under [`super::records::VALUE`].
    pub bare: bool,
}

/// What the first pass found.
#[derive(Debug)]
pub struct Survey {
    /// The root's fields, each list of chats replaced by [`CHATS`]. Empty when the file is one chat.
    pub root: Content,
    /// All chats in the order of the file.
    pub chats: Vec<Source>,
    /// The file is one chat.
    pub single: bool,
    /// How the file ends.
    pub ending: Ending,
    /// Parts that could not be read, messages not included.
    pub unread: Vec<Unread>,
    /// What was unusual but kept, messages not included.
    pub notes: Notes,
}

impl Survey {
    /// Messages in all chats.
    pub fn messages(&self) -> u64 {
        let spans = self.chats.iter().filter_map(|c| c.messages);
        spans.map(|s| s.count).sum()
    }
}

/// Why a file is not taken at all.
#[derive(Debug, thiserror::Error)]
pub enum SurveyError {
    /// Not JSON, or no object.
    #[error("the file is not JSON: {0}")]
    NotJson(ScanError),
    /// The file or its disk cannot be read.
    #[error("{0}")]
    Unreadable(ScanError),
    /// JSON, but no export.
    #[error("the file is JSON but not a Telegram export: {0}")]
    NotAnExport(String),
    /// Over a limit.
    #[error("the export is over a limit: {0}")]
    TooLarge(String),
}

enum Stop {
    Scan(ScanError),
    Refused(SurveyError),
}
impl From<ScanError> for Stop {
    fn from(e: ScanError) -> Self {
        Self::Scan(e)
    }
}

/// Root keys of which a full export has at least one.
const ROOT_KEYS: [&str; 11] = [
    "about",
    "chats",
    "left_chats",
    "personal_information",
    "profile_pictures",
    "stories",
    "contacts",
    "frequent_contacts",
    "sessions",
    "web_sessions",
    "other_data",
];

/// Reads all of `input`.
///
/// # Errors
/// [`SurveyError`] when nothing can be imported from it.
pub fn survey<R: Read>(input: R) -> Result<(Survey, R), SurveyError> {
    let mut s = Surveyor {
        scan: Scanner::new(input, 0),
        out: Survey {
            root: Content::new(),
            chats: Vec::new(),
            single: false,
            ending: Ending::Whole,
            unread: Vec::new(),
            notes: Notes::default(),
        },
        outside_bytes: 0,
        path: String::new(),
    };
    match s.root() {
        Ok(()) => {}
        Err(Stop::Refused(e)) => return Err(e),
        Err(Stop::Scan(e @ ScanError::Io { .. })) => return Err(SurveyError::Unreadable(e)),
        Err(Stop::Scan(e)) if s.out.messages() == 0 && s.out.root.is_empty() => {
            return Err(SurveyError::NotJson(e));
        }
        Err(Stop::Scan(ScanError::End { offset })) => {
            let path = s.path.clone();
            s.out.ending = Ending::Cut { offset, path };
        }
        Err(Stop::Scan(e)) => {
            let (offset, reason) = (e.offset(), format!("in {}: {e}", s.path));
            s.out.ending = Ending::Damaged { offset, reason };
        }
    }
    s.finish()
}

struct Surveyor<R> {
    scan: Scanner<R>,
    out: Survey,
    outside_bytes: usize,
    path: String,
}

impl<R: Read> Surveyor<R> {
    fn root(&mut self) -> Result<(), Stop> {
        self.scan.skip_bom()?;
        self.scan.expect(b'{', "'{' at the beginning")?;
        let mut first = true;
        while self.scan.more(&mut first, b'}')? {
            let (key, at) = self.key("")?;
            let next = self.scan.peek_token()?;
            match (key.as_str(), next) {
                ("chats", Some(b'{')) => self.list("chats", key)?,
                ("left_chats", Some(b'{')) => self.list("left_chats", key)?,
                ("messages", Some(b'[')) => self.root_messages(at)?,
                // Its first value would be a list of chats, and go unnoticed.
                ("chats" | "left_chats", _) if self.out.root.contains_key(&key) => {
                    return Err(twice(&key, at));
                }
                _ => {
                    let value = self.outside(&key)?;
                    value::insert(&mut self.out.root, key, value, &mut self.out.notes);
                }
            }
        }
        "the end".clone_into(&mut self.path);
        if self.scan.peek_token()?.is_some() {
            let offset = self.scan.offset();
            let reason = "there is more text after the end of the JSON".to_owned();
            self.out.ending = Ending::Damaged { offset, reason };
            self.drain()?;
        }
        Ok(())
    }

    /// Reads on to the end, so that the hash covers the whole file.
    fn drain(&mut self) -> Result<(), Stop> {
        while self.scan.peek_token()?.is_some() {
            self.scan.skip_byte();
        }
        Ok(())
    }

    fn finish(mut self) -> Result<(Survey, R), SurveyError> {
        if self.out.single {
            if self.out.chats.len() > 1 {
                return Err(SurveyError::NotAnExport(
                    "it has both chats and messages at its root".into(),
                ));
            }
            self.out.chats[0].fields = std::mem::take(&mut self.out.root);
        } else if !self
            .out
            .root
            .keys()
            .any(|k| ROOT_KEYS.contains(&k.as_str()))
        {
            return Err(SurveyError::NotAnExport(
                "its root has none of the keys chats, left_chats, messages, about, contacts, …"
                    .into(),
            ));
        }
        Ok((self.out, self.scan.into_inner()))
    }

    /// A key, and where its value begins.
    fn key(&mut self, above: &str) -> Result<(String, u64), Stop> {
        let offset = self.scan.offset();
        let raw = self.scan.key()?;
        let key = match value::parse(&raw, &mut self.out.notes) {
            Ok(Value::String(key)) => value::keep_key(key),
            _ => {
                let key = String::from_utf8_lossy(&raw).into_owned();
                let reason = "the key is no text that JSON allows; kept with its damage".to_owned();
                self.unread(above.to_owned(), offset, reason, false);
                value::keep_key(key)
            }
        };
        self.path = match above {
            "" => key.clone(),
            _ => format!("{above}.{key}"),
        };
        Ok((key, self.scan.offset()))
    }

    fn unread(&mut self, path: String, offset: u64, reason: String, kept: bool) {
        if self.out.unread.len() < NAMED_MAX {
            self.out.unread.push(Unread {
                path,
                offset,
                reason,
                kept,
            });
        }
    }

    /// A value outside of messages, kept in memory.
    fn outside(&mut self, what: &str) -> Result<Value, Stop> {
        self.scan.peek_token()?;
        let offset = self.scan.offset();
        let mut raw = Vec::new();
        let kept = self.scan.element(Some(&mut raw), ELEMENT_BYTES_MAX)?;
        self.outside_bytes += raw.len();
        if self.outside_bytes > OUTSIDE_BYTES_MAX {
            let limit = OUTSIDE_BYTES_MAX >> 20;
            return Err(Stop::Refused(SurveyError::TooLarge(format!(
                "more than {limit} MiB outside of messages, reached in {what}"
            ))));
        }
        let reason = match kept {
            Kept::Cut { bytes } => too_long(bytes),
            Kept::Whole => match value::parse(&raw, &mut self.out.notes) {
                Ok(value) => return Ok(value),
                Err(e) => e.to_string(),
            },
        };
        let whole = kept == Kept::Whole;
        self.unread(self.path.clone(), offset, reason.clone(), whole);
        raw.truncate(if whole { raw.len() } else { 1024 });
        Ok(value::unreadable(&raw, &reason, offset))
    }

    /// `chats` or `left_chats`: its fields are the root's, its list is chats.
    fn list(&mut self, list: &'static str, key: String) -> Result<(), Stop> {
        if self.out.root.contains_key(&key) {
            return Err(twice(&key, self.scan.offset()));
        }
        self.out.root.insert(key.clone(), Value::Object(Map::new()));
        self.scan.expect(b'{', "'{'")?;
        let mut first = true;
        while self.scan.more(&mut first, b'}')? {
            let (inner, at) = self.key(list)?;
            if inner == "list" && self.out.root[&key].get("list").is_some() {
                return Err(twice("list", at));
            }
            let value = if inner == "list" && self.scan.peek_token()? == Some(b'[') {
                // The mark is set first: a file cut inside the list still has it.
                self.member(&key, inner, json!({CHATS: list}));
                self.chats(list)?;
                continue;
            } else {
                self.outside(&inner)?
            };
            self.member(&key, inner, value);
        }
        Ok(())
    }

    fn member(&mut self, key: &str, inner: String, value: Value) {
        if let Some(Value::Object(map)) = self.out.root.get_mut(key) {
            value::insert(map, inner, value, &mut self.out.notes);
        }
    }

    fn chats(&mut self, list: &'static str) -> Result<(), Stop> {
        self.scan.expect(b'[', "'['")?;
        let (mut first, mut index) = (true, 0);
        while self.scan.more(&mut first, b']')? {
            if self.out.chats.len() >= CHATS_MAX {
                return Err(Stop::Refused(SurveyError::TooLarge(format!(
                    "more than {CHATS_MAX} chats"
                ))));
            }
            self.path = format!("{list}.list[{index}]");
            self.out.chats.push(Source {
                list,
                index,
                fields: Content::new(),
                messages: None,
                bare: false,
            });
            if self.scan.peek_token()? == Some(b'{') {
                self.chat()?;
            } else {
                let value = self.outside(list);
                let chat = self.current();
                chat.bare = true;
                chat.fields.insert(super::records::VALUE.into(), value?);
            }
            index += 1;
        }
        Ok(())
    }

    fn current(&mut self) -> &mut Source {
        let last = self.out.chats.last_mut();
        last.expect("a chat is pushed before its fields are read")
    }

    fn chat(&mut self) -> Result<(), Stop> {
        let above = self.path.clone();
        self.scan.expect(b'{', "'{'")?;
        let mut first = true;
        while self.scan.more(&mut first, b'}')? {
            let (key, at) = self.key(&above)?;
            if key == "messages" && self.scan.peek_token()? == Some(b'[') {
                if self.current().messages.is_some() {
                    return Err(twice("messages", at));
                }
                self.messages()?;
                continue;
            }
            let value = self.outside(&key)?;
            let mut notes = Notes::default();
            value::insert(&mut self.current().fields, key, value, &mut notes);
            self.out.notes.add(notes);
        }
        Ok(())
    }

    fn root_messages(&mut self, at: u64) -> Result<(), Stop> {
        if self.out.single {
            return Err(twice("messages", at));
        }
        self.out.single = true;
        self.out.chats.push(Source {
            list: "root",
            index: 0,
            fields: std::mem::take(&mut self.out.root),
            messages: None,
            bare: false,
        });
        let result = self.messages();
        // The root's later keys follow the earlier ones; see `finish`.
        self.out.root = std::mem::take(&mut self.current().fields);
        result
    }

    fn messages(&mut self) -> Result<(), Stop> {
        self.scan.expect(b'[', "'['")?;
        let offset = self.scan.offset();
        let above = std::mem::take(&mut self.path);
        let position = self.current().fields.len();
        self.current().messages = Some(Span {
            offset,
            count: 0,
            position,
        });
        let (mut first, mut count) = (true, 0u64);
        let result = loop {
            match self.scan.more(&mut first, b']') {
                Ok(true) => {}
                Ok(false) => break Ok(()),
                Err(e) => break Err(e),
            }
            if let Err(e) = self.scan.element(None, 0) {
                break Err(e);
            }
            count += 1;
        };
        if let Some(span) = &mut self.current().messages {
            span.count = count;
        }
        self.path = format!("{above}[{count}]");
        Ok(result?)
    }
}

fn twice(key: &str, offset: u64) -> Stop {
    Stop::Refused(SurveyError::NotAnExport(format!(
        "the key {key:?} stands twice in one object, again at byte {offset}"
    )))
}

/// Why a long element is left out, in words.
pub fn too_long(bytes: u64) -> String {
    let limit = ELEMENT_BYTES_MAX >> 20;
    format!("one value of {bytes} bytes; the limit is {limit} MiB")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look(text: &str) -> Survey {
        survey(text.as_bytes()).unwrap().0
    }

    #[test]
    fn a_full_export_in_any_order() {
        let s = look(
            r#"{"left_chats":{"list":[{"messages":[],"id":3}]},"contacts":{"list":[1]},
               "chats":{"about":"x","list":[{"id":1,"messages":[{"id":1},{"id":2}],"name":"n"},{"id":2},7]}}"#,
        );
        assert_eq!(s.ending, Ending::Whole);
        assert_eq!(
            Value::Object(s.root.clone()),
            json!({"left_chats": {"list": {CHATS: "left_chats"}}, "contacts": {"list": [1]},
                   "chats": {"about": "x", "list": {CHATS: "chats"}}})
        );
        let seen: Vec<_> = s
            .chats
            .iter()
            .map(|c| (c.list, c.index, c.messages.map(|m| (m.count, m.position))))
            .collect();
        assert_eq!(
            seen,
            [
                ("left_chats", 0, Some((0, 0))),
                ("chats", 0, Some((2, 1))),
                ("chats", 1, None),
                ("chats", 2, None)
            ]
        );
        assert_eq!(
            Value::Object(s.chats[1].fields.clone()),
            json!({"id": 1, "name": "n"})
        );
        assert!(s.chats[3].bare);
    }

    #[test]
    fn a_single_chat_with_keys_on_both_sides() {
        let s = look("\u{feff}{\"name\":\"n\",\"messages\":[1,2,3],\"id\":9}");
        assert!(s.single && s.root.is_empty());
        assert_eq!(
            Value::Object(s.chats[0].fields.clone()),
            json!({"name": "n", "id": 9})
        );
        assert_eq!(s.messages(), 3);
    }

    #[test]
    fn cut_and_damaged_files_keep_what_stands_before() {
        let whole = r#"{"about":"","chats":{"list":[{"id":1,"messages":[{"id":1},{"id":2}]},{"id":2,"messages":[{"id":3}]}]}}"#;
        for cut in 1..whole.len() {
            match survey(&whole.as_bytes()[..cut]) {
                Ok((s, _)) => assert!(
                    matches!(s.ending, Ending::Cut { offset, .. } if offset == cut as u64),
                    "{cut}: {:?}",
                    s.ending
                ),
                Err(e) => assert!(
                    matches!(e, SurveyError::NotJson(_)) && cut < 12,
                    "{cut}: {e}"
                ),
            }
        }
        let cut = look(&whole[..whole.len() - 8]);
        assert_eq!(cut.messages(), 2);
        assert_eq!(
            cut.ending,
            Ending::Cut {
                offset: whole.len() as u64 - 8,
                path: "chats.list[1].messages[0]".into()
            }
        );
        let damaged = look(r#"{"about":"","chats":{"list":[{"messages":[{"id":1} {"id":2}]}]}}"#);
        assert_eq!(damaged.messages(), 1);
        assert!(
            matches!(damaged.ending, Ending::Damaged { .. }),
            "{:?}",
            damaged.ending
        );
        assert!(matches!(
            look("{\"about\":\"\"} x").ending,
            Ending::Damaged { .. }
        ));
    }

    #[test]
    fn other_files_are_refused_with_a_reason() {
        for (text, says) in [
            ("", "ends at byte 0"),
            ("<html>", "at byte 0"),
            ("[1]", "found '['"),
            ("{}", "none of the keys"),
            ("{\"a\":1}", "none of the keys"),
            ("{\"messages\":[],\"chats\":{\"list\":[{}]}}", "both"),
            ("{\"chats\":{\"list\":[],\"list\":[]}}", "twice"),
            ("{\"messages\":[],\"messages\":[]}", "twice"),
        ] {
            let e = survey(text.as_bytes()).unwrap_err().to_string();
            assert!(e.contains(says), "{text}: {e}");
        }
    }

    #[test]
    fn an_unreadable_field_is_named_and_its_bytes_kept() {
        let s = look(r#"{"about":"\q","chats":{"list":[]}}"#);
        assert_eq!(s.unread.len(), 1);
        assert_eq!(
            (
                s.unread[0].path.as_str(),
                s.unread[0].offset,
                s.unread[0].kept
            ),
            ("about", 9, true)
        );
        assert!(s.root["about"].get(value::UNREADABLE).is_some());
    }
}
