//! From almost-JSON to JSON and back, losing nothing.
//!
//! What a `serde_json::Value` cannot hold is written under reserved keys, all
//! beginning with `quorate:` (`docs/import.md`):
//!
//! | in the file | in the content |
//! |---|---|
//! | a number past u64 or f64 | `{"quorate:number": "its text"}` |
//! | a key twice in one object | the last value in place, earlier ones in `"quorate:duplicates": {key: […]}` |
//! | a key that begins with `quorate:` | the same behind `quorate:key:` |
//! | a value that is no JSON at all | `{"quorate:unreadable": {reason, offset, base64}}` |
//!
//! `\xNN` in a string becomes the character itself. [`fn@write`] undoes the first three.

use super::number;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};

/// Marks a number kept as text.
pub const NUMBER: &str = "quorate:number";
/// Holds the earlier values of repeated keys.
pub const DUPLICATES: &str = "quorate:duplicates";
/// Marks a value that could not be read; its bytes are inside.
pub const UNREADABLE: &str = "quorate:unreadable";
/// Every reserved key begins so.
pub const RESERVED: &str = "quorate:";
/// Stands before a key of the file's own that begins like a reserved one.
pub const ESCAPED_KEY: &str = "quorate:key:";
/// Deepest nesting: the home's parser stops at 128, and an append wraps four levels around.
pub const DEPTH_MAX: usize = 96;

/// What was unusual but kept; counted for the summary.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Notes {
    /// Control bytes written as `\xNN` or bare.
    pub control_bytes: u64,
    /// Numbers kept as text.
    pub long_numbers: u64,
    /// Keys that stood twice in one object.
    pub duplicate_keys: u64,
}

impl Notes {
    /// Adds another count to this one.
    pub fn add(&mut self, other: Self) {
        self.control_bytes += other.control_bytes;
        self.long_numbers += other.long_numbers;
        self.duplicate_keys += other.duplicate_keys;
    }
}

/// Why text is not a value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason} (byte {at} of it)")]
pub struct ValueError {
    /// Offset in the text.
    pub at: usize,
    /// In words.
    pub reason: String,
}

/// Parses the text of one value.
///
/// # Errors
/// [`ValueError`] when it is no JSON even with the allowances above.
pub fn parse(text: &[u8], notes: &mut Notes) -> Result<Value, ValueError> {
    let mut found = Notes::default();
    let mut p = Parser {
        text,
        at: 0,
        notes: &mut found,
    };
    let value = p.value(0)?;
    p.space();
    if p.at < text.len() {
        return p.fail("more text after the value");
    }
    notes.add(found);
    Ok(value)
}

/// What stands in for a value that could not be parsed: its bytes, kept.
pub fn unreadable(text: &[u8], reason: &str, offset: u64) -> Value {
    json!({UNREADABLE: {"reason": reason, "offset": offset, "base64": STANDARD.encode(text)}})
}

/// The key under which the file's own `key` is kept.
pub fn keep_key(key: String) -> String {
    if key.starts_with(RESERVED) {
        return format!("{ESCAPED_KEY}{key}");
    }
    key
}

/// Puts a member into `map`, an earlier one of the same name aside.
pub fn insert(map: &mut Map<String, Value>, key: String, value: Value, notes: &mut Notes) {
    let Some(earlier) = map.get_mut(&key) else {
        map.insert(key, value);
        return;
    };
    let earlier = std::mem::replace(earlier, value);
    notes.duplicate_keys += 1;
    let aside = map
        .entry(DUPLICATES)
        .or_insert_with(|| Value::Object(Map::new()));
    if let Value::Object(aside) = aside {
        let list = aside.entry(key).or_insert_with(|| Value::Array(Vec::new()));
        if let Value::Array(list) = list {
            list.push(earlier);
        }
    }
}

struct Parser<'a> {
    text: &'a [u8],
    at: usize,
    notes: &'a mut Notes,
}

impl Parser<'_> {
    fn fail<T>(&self, reason: impl Into<String>) -> Result<T, ValueError> {
        Err(ValueError {
            at: self.at,
            reason: reason.into(),
        })
    }

    fn space(&mut self) {
        while matches!(self.text.get(self.at), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    fn take(&mut self, token: u8) -> bool {
        self.space();
        let found = self.text.get(self.at) == Some(&token);
        self.at += usize::from(found);
        found
    }

    fn value(&mut self, depth: usize) -> Result<Value, ValueError> {
        if depth > DEPTH_MAX {
            return self.fail(format!("nested deeper than {DEPTH_MAX}"));
        }
        self.space();
        match self.text.get(self.at) {
            Some(b'{') => self.object(depth),
            Some(b'[') => self.array(depth),
            Some(b'"') => Ok(Value::String(self.string()?)),
            Some(_) => self.scalar(),
            None => self.fail("a value is missing"),
        }
    }

    fn object(&mut self, depth: usize) -> Result<Value, ValueError> {
        self.at += 1;
        let mut map = Map::new();
        if self.take(b'}') {
            return Ok(Value::Object(map));
        }
        loop {
            self.space();
            if self.text.get(self.at) != Some(&b'"') {
                return self.fail("a key in quotes is missing");
            }
            let key = keep_key(self.string()?);
            if !self.take(b':') {
                return self.fail("':' is missing after a key");
            }
            let value = self.value(depth + 1)?;
            insert(&mut map, key, value, self.notes);
            if self.take(b'}') {
                return Ok(Value::Object(map));
            }
            if !self.take(b',') {
                return self.fail("',' or '}' is missing");
            }
        }
    }

    fn array(&mut self, depth: usize) -> Result<Value, ValueError> {
        self.at += 1;
        let mut list = Vec::new();
        if self.take(b']') {
            return Ok(Value::Array(list));
        }
        loop {
            list.push(self.value(depth + 1)?);
            if self.take(b']') {
                return Ok(Value::Array(list));
            }
            if !self.take(b',') {
                return self.fail("',' or ']' is missing");
            }
        }
    }

    fn scalar(&mut self) -> Result<Value, ValueError> {
        let rest = &self.text[self.at..];
        let length = rest
            .iter()
            .position(|b| matches!(b, b',' | b']' | b'}' | b' ' | b'\t' | b'\n' | b'\r'))
            .unwrap_or(rest.len());
        let word = std::str::from_utf8(&rest[..length]).unwrap_or("");
        let value = match word {
            "null" => Value::Null,
            "true" => Value::Bool(true),
            "false" => Value::Bool(false),
            _ if number::is_number(word) => match number::exact(word) {
                Some(n) => Value::Number(n),
                None => {
                    self.notes.long_numbers += 1;
                    json!({NUMBER: word})
                }
            },
            _ => return self.fail("neither a number, a text, null, true nor false"),
        };
        self.at += length;
        Ok(value)
    }

    fn string(&mut self) -> Result<String, ValueError> {
        self.at += 1;
        let start = self.at;
        let mut bytes = Vec::new();
        loop {
            let run = self.at;
            while !matches!(self.text.get(self.at), None | Some(b'"' | b'\\')) {
                self.notes.control_bytes += u64::from(self.text[self.at] < 0x20);
                self.at += 1;
            }
            bytes.extend_from_slice(&self.text[run..self.at]);
            match self.text.get(self.at) {
                None => return self.fail("a text has no closing quote"),
                Some(b'"') => {
                    self.at += 1;
                    return String::from_utf8(bytes).map_err(|_| ValueError {
                        at: start,
                        reason: "a text is not UTF-8".into(),
                    });
                }
                Some(_) => {
                    self.at += 1;
                    self.escape(&mut bytes)?;
                }
            }
        }
    }

    fn escape(&mut self, out: &mut Vec<u8>) -> Result<(), ValueError> {
        let Some(&kind) = self.text.get(self.at) else {
            return self.fail("a text ends in '\\'");
        };
        self.at += 1;
        out.push(match kind {
            b'"' | b'\\' | b'/' => kind,
            b'b' => 8,
            b'f' => 12,
            b'n' => b'\n',
            b'r' => b'\r',
            b't' => b'\t',
            b'x' => {
                self.notes.control_bytes += 1;
                self.hex(2)? as u8
            }
            b'u' => {
                let c = self.unicode()?;
                out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
                return Ok(());
            }
            _ => return self.fail("an escape that JSON does not have"),
        });
        Ok(())
    }

    fn unicode(&mut self) -> Result<char, ValueError> {
        let mut code = self.hex(4)?;
        if (0xd800..0xdc00).contains(&code) && self.text[self.at..].starts_with(b"\\u") {
            self.at += 2;
            let low = self.hex(4)?;
            if (0xdc00..0xe000).contains(&low) {
                code = 0x10000 + ((code - 0xd800) << 10) + (low - 0xdc00);
            }
        }
        match char::from_u32(code) {
            Some(c) => Ok(c),
            None => self.fail("half of a surrogate pair"),
        }
    }

    fn hex(&mut self, digits: usize) -> Result<u32, ValueError> {
        let text = self.text.get(self.at..self.at + digits);
        let code = text
            .filter(|t| t.iter().all(u8::is_ascii_hexdigit))
            .and_then(|t| std::str::from_utf8(t).ok())
            .and_then(|t| u32::from_str_radix(t, 16).ok());
        match code {
            Some(code) => {
                self.at += digits;
                Ok(code)
            }
            None => self.fail("an escape without its hex digits"),
        }
    }
}

/// Writes `value` as JSON text, one space of indent a level as Telegram Desktop
/// does, undoing the escapes above.
pub fn write(out: &mut Vec<u8>, value: &Value, indent: usize) {
    match value {
        Value::Object(map) => match long_number(map) {
            Some(text) => out.extend_from_slice(text.as_bytes()),
            None => write_object(out, map, indent),
        },
        Value::Array(list) => {
            if list.is_empty() {
                out.extend_from_slice(b"[]");
                return;
            }
            out.push(b'[');
            for (i, item) in list.iter().enumerate() {
                separate(out, i == 0, indent + 1);
                write(out, item, indent + 1);
            }
            new_line(out, indent);
            out.push(b']');
        }
        plain => out.extend_from_slice(plain.to_string().as_bytes()),
    }
}

fn write_object(out: &mut Vec<u8>, map: &Map<String, Value>, indent: usize) {
    let mut first = true;
    out.push(b'{');
    for (key, value) in map {
        write_member(out, map, key, value, &mut first, indent + 1);
    }
    if !first {
        new_line(out, indent);
    }
    out.push(b'}');
}

/// Writes one member of `map` with the earlier values of its key before it.
pub fn write_member(
    out: &mut Vec<u8>,
    map: &Map<String, Value>,
    key: &str,
    value: &Value,
    first: &mut bool,
    indent: usize,
) {
    if key == DUPLICATES {
        return;
    }
    let earlier = map.get(DUPLICATES).and_then(|d| d.get(key));
    let earlier = earlier.and_then(Value::as_array).map_or(&[][..], |l| l);
    for value in earlier.iter().chain([value]) {
        write_key(out, key, first, indent);
        write(out, value, indent);
    }
}

/// Writes a comma if needed, a new line, and `key` as it stood in the file.
pub fn write_key(out: &mut Vec<u8>, key: &str, first: &mut bool, indent: usize) {
    separate(out, *first, indent);
    *first = false;
    let key = key.strip_prefix(ESCAPED_KEY).unwrap_or(key);
    out.extend_from_slice(Value::from(key).to_string().as_bytes());
    out.extend_from_slice(b": ");
}

/// Begins a new item of an array or object.
pub fn separate(out: &mut Vec<u8>, first: bool, indent: usize) {
    if !first {
        out.push(b',');
    }
    new_line(out, indent);
}

/// Begins a new line.
pub fn new_line(out: &mut Vec<u8>, indent: usize) {
    out.push(b'\n');
    out.resize(out.len() + indent, b' ');
}

/// The text of a number kept as text, if that is what `map` is.
pub fn long_number(map: &Map<String, Value>) -> Option<&str> {
    let text = map.get(NUMBER)?.as_str()?;
    (map.len() == 1 && number::is_number(text)).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(text: &str) -> Value {
        parse(text.as_bytes(), &mut Notes::default()).unwrap()
    }
    fn shown(value: &Value) -> String {
        let mut out = Vec::new();
        write(&mut out, value, 0);
        String::from_utf8(out).unwrap()
    }
    fn compact(text: &str) -> String {
        text.replace("\n", "").replace(": ", ":").replace(' ', "")
    }

    #[test]
    fn what_exporters_write_is_read() {
        assert_eq!(
            read(r#""a\x01b\u00e9\ud83d\ude00\/""#),
            json!("a\u{1}bé😀/")
        );
        assert_eq!(read(r#""\xd0\x96""#), json!("Ж"));
        let big = read(r#"{"document_id": 123456789012345678901234567890}"#);
        assert_eq!(
            big,
            json!({"document_id": {NUMBER: "123456789012345678901234567890"}})
        );
        let mut notes = Notes::default();
        let twice = parse(br#"{"text":"a","id":1,"text":"b"}"#, &mut notes).unwrap();
        assert_eq!(notes.duplicate_keys, 1);
        assert_eq!(twice["text"], "b");
        assert_eq!(twice[DUPLICATES], json!({"text": ["a"]}));
    }

    #[test]
    fn what_was_kept_aside_is_written_back() {
        for text in [
            r#"{"document_id":123456789012345678901234567890,"n":-1.5}"#,
            r#"{"text":"a","text":"b","text":"c","id":1}"#,
            r#"{"quorate:number":"12","quorate:key:x":{"quorate:duplicates":[]}}"#,
            r#"[{},[],{"quorate:number":"1"},1e400]"#,
        ] {
            assert_eq!(compact(&shown(&read(text))), text);
        }
        assert_eq!(shown(&read(r#""\x07""#)), r#""\u0007""#);
    }

    #[test]
    fn what_is_no_json_is_an_error_with_its_place() {
        for (text, at) in [
            ("{", 1),
            ("{\"a\"}", 4),
            ("[1 2]", 3),
            ("\"\\q\"", 3),
            ("\"\\ud800\"", 7),
            ("\"\\xg0\"", 3),
            ("nan", 0),
            ("1 2", 2),
            ("", 0),
            ("[1,]", 3),
            ("\"a", 2),
            ("{]", 1),
        ] {
            let e = parse(text.as_bytes(), &mut Notes::default()).unwrap_err();
            assert_eq!(e.at, at, "{text}: {e}");
        }
        assert!(parse(b"\"\xff\"", &mut Notes::default()).is_err());
        let deep = "[".repeat(200_000);
        assert!(parse(deep.as_bytes(), &mut Notes::default()).is_err());
    }

    fn any_json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<u64>().prop_map(Value::from),
            (-1e15f64..1e15).prop_map(Value::from),
            ".*".prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 40, 6, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
                proptest::collection::vec(("(quorate:)?(key:)?[a-z]{0,4}", inner), 0..6)
                    .prop_map(|m| Value::Object(m.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn json_in_is_the_same_json_out(value in any_json()) {
            let text = value.to_string();
            let kept = read(&text);
            let out = shown(&kept);
            // Both through one parser: serde_json alone may be one unit off on long floats.
            prop_assert_eq!(serde_json::from_str::<Value>(&out).unwrap(), serde_json::from_str::<Value>(&text).unwrap());
            prop_assert_eq!(read(&out), kept);
        }
        #[test]
        fn hostile_bytes_never_panic(bytes in proptest::collection::vec(prop_oneof![any::<u8>(), proptest::sample::select(b"{}[]\",:\\ux0e1".to_vec())], 0..200)) {
            let _ = parse(&bytes, &mut Notes::default());
        }
    }
}
