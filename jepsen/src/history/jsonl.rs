//! Histories as JSON, one operation a line.
//!
//! JSON has no keywords: they are written as text with a leading colon
//! (`":append"`), and a text that itself begins with a colon gets one more
//! (`"::x"` is the text `:x`), so that reading gives back what was written.
//! Field names and map keys are keywords without the colon.

use super::{DEPTH_MAX, History, Op, ReadError, Value, fields_of, is_name, op_from_fields};
use serde_json::Value as Json;
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
    for op in history.ops() {
        serde_json::to_writer(&mut to, &op_json(op))?;
        to.write_all(b"\n")?;
    }
    to.flush()
}

fn op_json(op: &Op) -> Json {
    let fields = fields_of(op);
    Json::Object(
        fields
            .into_iter()
            .map(|(name, value)| (name.to_owned(), to_json(&value)))
            .collect(),
    )
}

fn to_json(value: &Value) -> Json {
    match value {
        Value::Nil => Json::Null,
        Value::Bool(b) => Json::Bool(*b),
        Value::Int(n) => Json::from(*n),
        Value::Text(text) if text.starts_with(':') => Json::String(format!(":{text}")),
        Value::Text(text) => Json::String(text.clone()),
        Value::Keyword(name) => Json::String(format!(":{name}")),
        Value::List(all) => Json::Array(all.iter().map(to_json).collect()),
        Value::Map(all) => Json::Object(
            all.iter()
                .map(|(name, value)| (name.clone(), to_json(value)))
                .collect(),
        ),
    }
}

fn parse(line: &str) -> Result<Op, String> {
    // serde_json refuses nesting beyond 128 by itself; ours is tighter.
    match serde_json::from_str::<Json>(line).map_err(|e| format!("not JSON: {e}"))? {
        Json::Object(map) => {
            let fields = map
                .into_iter()
                .map(|(name, value)| Ok((name, from_json(value, 0)?)))
                .collect::<Result<_, String>>()?;
            op_from_fields(fields)
        }
        _ => Err("an operation is a JSON object".into()),
    }
}

fn from_json(json: Json, depth: usize) -> Result<Value, String> {
    if depth > DEPTH_MAX {
        return Err(format!("nested deeper than {DEPTH_MAX}"));
    }
    Ok(match json {
        Json::Null => Value::Nil,
        Json::Bool(b) => Value::Bool(b),
        Json::Number(n) => match n.as_i64() {
            Some(n) => Value::Int(n),
            None => return Err(format!("{n} is not a whole number of 64 bits")),
        },
        Json::String(text) => match text.strip_prefix(':') {
            None => Value::Text(text),
            Some(rest) if rest.starts_with(':') => Value::Text(rest.to_owned()),
            Some(name) if is_name(name) => Value::Keyword(name.to_owned()),
            Some(_) => return Err(format!("{text:?} is not a keyword")),
        },
        Json::Array(all) => {
            let all = all.into_iter().map(|inner| from_json(inner, depth + 1));
            Value::List(all.collect::<Result<_, _>>()?)
        }
        Json::Object(map) => {
            let mut out = std::collections::BTreeMap::new();
            for (name, inner) in map {
                if !is_name(&name) {
                    return Err(format!("{name:?} cannot be the key of a map"));
                }
                out.insert(name, from_json(inner, depth + 1)?);
            }
            Value::Map(out)
        }
    })
}
