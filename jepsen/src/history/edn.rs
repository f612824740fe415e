//! Histories as EDN (github.com/edn-format/edn), one operation a line, as
//! Jepsen's `history.edn` has them: Elle and Knossos read these files.
//!
//! Read is what histories need: nil, booleans, whole numbers, text, keywords,
//! vectors, lists and maps with keyword keys; a tag before a map
//! (`#jepsen.history.Op{…}`) is skipped. Floats, sets, characters, symbols and
//! other tags are refused by name.

use super::{DEPTH_MAX, History, Op, ReadError, Value, fields_of, is_name, op_from_fields};
use std::fmt::Write as _;
use std::io::{BufRead, Write};

/// Reads and validates a history.
///
/// # Errors
/// [`ReadError`] with the line and the reason.
pub fn read(from: impl BufRead) -> Result<History, ReadError> {
    super::read_lines(from, parse)
}

/// Writes a history.
///
/// # Errors
/// When `to` cannot be written.
pub fn write(history: &History, mut to: impl Write) -> std::io::Result<()> {
    let mut line = String::new();
    for op in history.ops() {
        line.clear();
        print_map(&mut line, fields_of(op).iter().map(|(k, v)| (*k, v)));
        line.push('\n');
        to.write_all(line.as_bytes())?;
    }
    to.flush()
}

fn print_map<'a>(out: &mut String, entries: impl Iterator<Item = (&'a str, &'a Value)>) {
    out.push('{');
    for (i, (name, value)) in entries.enumerate() {
        if i > 0 {
            out.push_str(", ");
        }
        let _ = write!(out, ":{name} ");
        print(out, value);
    }
    out.push('}');
}

pub(crate) fn print(out: &mut String, value: &Value) {
    // Writing to a String cannot fail.
    match value {
        Value::Nil => out.push_str("nil"),
        Value::Bool(b) => {
            let _ = write!(out, "{b}");
        }
        Value::Int(n) => {
            let _ = write!(out, "{n}");
        }
        Value::Keyword(name) => {
            let _ = write!(out, ":{name}");
        }
        Value::Text(text) => print_text(out, text),
        Value::List(all) => {
            out.push('[');
            for (i, inner) in all.iter().enumerate() {
                if i > 0 {
                    out.push(' ');
                }
                print(out, inner);
            }
            out.push(']');
        }
        Value::Map(all) => print_map(out, all.iter().map(|(k, v)| (k.as_str(), v))),
    }
}

fn print_text(out: &mut String, text: &str) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            // Others that would break a line or a terminal; EDN has \uXXXX for 16 bits.
            c if c.is_control() || c == '\u{2028}' || c == '\u{2029}' => {
                let _ = write!(out, "\\u{:04x}", c as u32);
            }
            c => out.push(c),
        }
    }
    out.push('"');
}

fn parse(line: &str) -> Result<Op, String> {
    let mut reader = Reader { text: line, at: 0 };
    reader.skip_tag()?;
    if !reader.eat('{') {
        return Err("an operation is a map".into());
    }
    let fields = reader.entries(0)?;
    reader.space();
    match reader.rest() {
        "" => op_from_fields(fields),
        rest => Err(format!("more after the operation: {:?}", first(rest))),
    }
}

fn first(rest: &str) -> String {
    rest.chars().take(20).collect()
}

struct Reader<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Reader<'a> {
    fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }
    fn peek(&self) -> Option<char> {
        self.rest().chars().next()
    }
    fn next(&mut self) -> Option<char> {
        let c = self.peek()?;
        self.at += c.len_utf8();
        Some(c)
    }
    /// White space, commas, comments to the end of the line.
    fn space(&mut self) {
        while let Some(c) = self.peek() {
            match c {
                ',' => {}
                ';' => {
                    self.at = self.text.len();
                    return;
                }
                c if c.is_whitespace() => {}
                _ => return,
            }
            self.next();
        }
    }
    fn eat(&mut self, wanted: char) -> bool {
        self.space();
        let there = self.peek() == Some(wanted);
        if there {
            self.next();
        }
        there
    }
    /// A run of characters that are not delimiters.
    fn token(&mut self) -> &'a str {
        let rest = self.rest();
        let end = rest
            .find(|c: char| c.is_whitespace() || ",;\"()[]{}".contains(c))
            .unwrap_or(rest.len());
        self.at += end;
        &rest[..end]
    }
    /// Only a tag right before a map names a record; its class does not matter here.
    fn skip_tag(&mut self) -> Result<(), String> {
        self.space();
        if self.peek() != Some('#') {
            return Ok(());
        }
        let tag = self.token();
        self.space();
        if tag.len() > 1 && self.peek() == Some('{') {
            return Ok(());
        }
        Err(format!("{tag}… is not used in histories"))
    }

    fn value(&mut self, depth: usize) -> Result<Value, String> {
        if depth > DEPTH_MAX {
            return Err(format!("nested deeper than {DEPTH_MAX}"));
        }
        self.skip_tag()?;
        match self.peek() {
            None => Err("the line ends in the middle of a value".into()),
            Some('"') => self.string().map(Value::Text),
            Some('{') => {
                self.next();
                self.map(depth)
            }
            Some('[') => self.list(']', depth),
            Some('(') => self.list(')', depth),
            Some(_) => atom(self.token(), self.rest()),
        }
    }

    fn list(&mut self, close: char, depth: usize) -> Result<Value, String> {
        self.next();
        let mut all = Vec::new();
        while !self.eat(close) {
            all.push(self.value(depth + 1)?);
        }
        Ok(Value::List(all))
    }

    fn map(&mut self, depth: usize) -> Result<Value, String> {
        let mut out = std::collections::BTreeMap::new();
        for (name, value) in self.entries(depth)? {
            if out.insert(name.clone(), value).is_some() {
                return Err(format!(":{name} stands twice in a map"));
            }
        }
        Ok(Value::Map(out))
    }

    /// Keyword and value pairs up to the closing brace.
    fn entries(&mut self, depth: usize) -> Result<Vec<(String, Value)>, String> {
        let mut all = Vec::new();
        while !self.eat('}') {
            let token = self.token();
            match token.strip_prefix(':') {
                Some(name) if is_name(name) => {
                    self.space();
                    all.push((name.to_owned(), self.value(depth + 1)?));
                }
                _ if token.is_empty() && self.rest().is_empty() => {
                    return Err("the line ends in the middle of a map".into());
                }
                _ => {
                    return Err(format!(
                        "a map's key must be a keyword, not {:?}",
                        first(&format!("{token}{}", self.rest()))
                    ));
                }
            }
        }
        Ok(all)
    }

    fn string(&mut self) -> Result<String, String> {
        self.next();
        let mut out = String::new();
        loop {
            match self.next() {
                None => return Err("the line ends in the middle of a text".into()),
                Some('"') => return Ok(out),
                Some('\\') => out.push(self.escape()?),
                Some(c) => out.push(c),
            }
        }
    }

    fn escape(&mut self) -> Result<char, String> {
        Ok(match self.next() {
            Some('n') => '\n',
            Some('r') => '\r',
            Some('t') => '\t',
            Some('b') => '\u{8}',
            Some('f') => '\u{c}',
            Some(c @ ('"' | '\\')) => c,
            Some('u') => {
                let hex = self.rest().get(..4).unwrap_or("");
                let code = u32::from_str_radix(hex, 16)
                    .ok()
                    .filter(|_| hex.bytes().all(|b| b.is_ascii_hexdigit()));
                let c = code.and_then(char::from_u32);
                self.at += hex.len();
                c.ok_or_else(|| format!("\\u{hex} is not a character"))?
            }
            other => return Err(format!("unknown escape \\{}", other.unwrap_or(' '))),
        })
    }
}

fn atom(token: &str, rest: &str) -> Result<Value, String> {
    if let Some(name) = token.strip_prefix(':') {
        return if is_name(name) {
            Ok(Value::Keyword(name.to_owned()))
        } else {
            Err(format!("{token:?} is not a keyword of histories"))
        };
    }
    match token {
        "nil" => Ok(Value::Nil),
        "true" => Ok(Value::Bool(true)),
        "false" => Ok(Value::Bool(false)),
        "" => Err(format!("unexpected {:?}", first(rest))),
        // Clojure prints large numbers with N; they must still fit.
        number => number
            .strip_suffix('N')
            .unwrap_or(number)
            .parse()
            .map(Value::Int)
            .map_err(|_| format!("{number:?} is not a value of histories")),
    }
}
