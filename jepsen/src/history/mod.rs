//! What clients and the nemesis did and saw, in the order the harness saw it.
//!
//! An [`Op`] is one line. A [`History`] is a list of them that passed every
//! rule of [`History::new`], so that no checker has to doubt it again. The
//! form is Jepsen's: `{:index 7, :time 12, :process 3, :type :ok, :f :read,
//! :value [5 1]}`.

pub mod edn;
pub mod jsonl;
mod pairs;
mod value;

#[cfg(test)]
mod tests;

pub use pairs::{Fault, History, InvalidHistory, Operation};
pub use value::Value;

/// Most operations in one history.
pub const OPS_MAX: usize = 10_000_000;
/// Longest line of a history file, in bytes.
pub const LINE_BYTES_MAX: usize = 1 << 20;
/// Deepest nesting of a value.
pub const DEPTH_MAX: usize = 32;

/// Who acts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Process {
    /// A client, one operation at a time. After an `info` its number is never used again.
    Client(u64),
    /// The nemesis. All its lines are `info`: a start and an end for each fault.
    Nemesis,
}

/// What a line says about its operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// It began.
    Invoke,
    /// It happened.
    Ok,
    /// It certainly did not happen, and never will.
    Fail,
    /// It may have happened, or may yet.
    Info,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Kind; 4] = [Kind::Invoke, Kind::Ok, Kind::Fail, Kind::Info];

    /// Its name in a history file.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Invoke => "invoke",
            Kind::Ok => "ok",
            Kind::Fail => "fail",
            Kind::Info => "info",
        }
    }
    /// The kind of that name.
    pub fn named(name: &str) -> Option<Kind> {
        Kind::ALL.into_iter().find(|kind| kind.name() == name)
    }
}

/// One line of a history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Op {
    /// Its place in the history, from 0.
    pub index: u64,
    /// Nanoseconds since the run began, by the harness's monotonic clock.
    pub time: u64,
    /// Who acts.
    pub process: Process,
    /// What the line says.
    pub kind: Kind,
    /// The function: `read`, `append`, `kill`, … Letters, digits, `-` and `_`.
    pub f: String,
    /// Argument of an invocation, result of a completion.
    pub value: Value,
    /// Why it failed or is not known, in words.
    pub error: Option<String>,
}

/// Names of functions and keywords: `[a-z][a-z0-9_-]*`, at most 64 bytes. They
/// are keywords in EDN, so nothing in them may need quoting there.
pub fn is_name(text: &str) -> bool {
    (1..=64).contains(&text.len())
        && text.as_bytes()[0].is_ascii_lowercase()
        && text
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'_')
}

/// Why a history file cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The file itself.
    #[error("line {line}: cannot be read: {source}")]
    Io {
        /// Counted from 1.
        line: usize,
        /// What the system said.
        source: std::io::Error,
    },
    /// A line is not an operation.
    #[error("line {line}: {reason}")]
    Line {
        /// Counted from 1.
        line: usize,
        /// What is wrong with it.
        reason: String,
    },
    /// The lines are operations, but no run can have produced them in this order.
    #[error(transparent)]
    Invalid(#[from] InvalidHistory),
}

/// Reads lines, each at most [`LINE_BYTES_MAX`], and parses the non-empty ones.
fn read_lines(
    mut from: impl std::io::BufRead,
    parse: impl Fn(&str) -> Result<Op, String>,
) -> Result<History, ReadError> {
    use std::io::{BufRead, Read};
    let mut ops = Vec::new();
    let mut buffer = Vec::new();
    for line in 1.. {
        buffer.clear();
        let mut limited = from.by_ref().take(LINE_BYTES_MAX as u64 + 1);
        let read = limited
            .read_until(b'\n', &mut buffer)
            .map_err(|source| ReadError::Io { line, source })?;
        if read == 0 {
            break;
        }
        let bad = |reason: String| ReadError::Line { line, reason };
        if buffer.len() > LINE_BYTES_MAX {
            return Err(bad(format!("longer than {LINE_BYTES_MAX} bytes")));
        }
        let text = std::str::from_utf8(&buffer).map_err(|e| bad(e.to_string()))?;
        if text.trim().is_empty() {
            continue;
        }
        if ops.len() == OPS_MAX {
            return Err(bad(format!("more than {OPS_MAX} operations")));
        }
        ops.push(parse(text.trim()).map_err(bad)?);
    }
    Ok(History::new(ops)?)
}

/// Puts an operation together from named fields, whichever the file's form.
fn op_from_fields(fields: Vec<(String, Value)>) -> Result<Op, String> {
    let (mut index, mut time, mut process, mut kind) = (None, None, None, None);
    let (mut f, mut value, mut error) = (None, None, None);
    for (name, field) in fields {
        let again = match name.as_str() {
            "index" => index.replace(natural(&name, &field)?).is_some(),
            "time" => time.replace(natural(&name, &field)?).is_some(),
            "process" => process.replace(process_of(&field)?).is_some(),
            "type" => kind.replace(kind_of(&field)?).is_some(),
            "f" => f.replace(name_of(&field)?).is_some(),
            "value" => value.replace(field).is_some(),
            "error" => error.replace(error_of(field)?).is_some(),
            other => return Err(format!("unknown field {other:?}")),
        };
        if again {
            return Err(format!("{name} stands twice"));
        }
    }
    let missing = |what: &str| format!("{what} is missing");
    Ok(Op {
        index: index.ok_or_else(|| missing("index"))?,
        time: time.ok_or_else(|| missing("time"))?,
        process: process.ok_or_else(|| missing("process"))?,
        kind: kind.ok_or_else(|| missing("type"))?,
        f: f.ok_or_else(|| missing("f"))?,
        value: value.unwrap_or(Value::Nil),
        error: error.flatten(),
    })
}

fn natural(name: &str, value: &Value) -> Result<u64, String> {
    match value {
        Value::Int(n) => {
            u64::try_from(*n).map_err(|_| format!("{name} is {n}, it cannot be negative"))
        }
        other => Err(format!("{name} must be a number, not {}", other.what())),
    }
}

fn process_of(value: &Value) -> Result<Process, String> {
    match value {
        Value::Keyword(name) if name == "nemesis" => Ok(Process::Nemesis),
        other => natural("process", other).map(Process::Client),
    }
}

fn kind_of(value: &Value) -> Result<Kind, String> {
    match value {
        Value::Keyword(name) => Kind::named(name).ok_or_else(|| format!("unknown type :{name}")),
        other => Err(format!("type must be a keyword, not {}", other.what())),
    }
}

fn name_of(value: &Value) -> Result<String, String> {
    match value {
        Value::Keyword(name) => Ok(name.clone()),
        other => Err(format!("f must be a keyword, not {}", other.what())),
    }
}

fn error_of(value: Value) -> Result<Option<String>, String> {
    match value {
        Value::Nil => Ok(None),
        Value::Text(text) => Ok(Some(text)),
        other => Err(format!("error must be text, not {}", other.what())),
    }
}

/// The fields of an operation in the order they are written.
fn fields_of(op: &Op) -> Vec<(&'static str, Value)> {
    // Times of 2^63 ns are 292 years; `History::new` refuses more.
    let int = |n: u64| Value::Int(n as i64);
    let mut fields = vec![
        ("index", int(op.index)),
        ("time", int(op.time)),
        (
            "process",
            match op.process {
                Process::Client(n) => int(n),
                Process::Nemesis => Value::Keyword("nemesis".into()),
            },
        ),
        ("type", Value::Keyword(op.kind.name().into())),
        ("f", Value::Keyword(op.f.clone())),
        ("value", op.value.clone()),
    ];
    if let Some(error) = &op.error {
        fields.push(("error", Value::Text(error.clone())));
    }
    fields
}
