//! Arguments and results: the part of EDN that histories need and that JSON
//! can carry too. No floats: they have no equality worth the name.

use std::collections::BTreeMap;

/// A value.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Value {
    /// Nothing, or not known.
    #[default]
    Nil,
    /// True or false.
    Bool(bool),
    /// A whole number.
    Int(i64),
    /// Text.
    Text(String),
    /// A name of the vocabulary, such as `:append`. See [`is_name`](super::is_name).
    Keyword(String),
    /// Values in order.
    List(Vec<Value>),
    /// Values by keyword, in order of the keyword.
    Map(BTreeMap<String, Value>),
}

impl Value {
    /// What kind of value it is, in words.
    pub fn what(&self) -> &'static str {
        match self {
            Value::Nil => "nil",
            Value::Bool(_) => "a boolean",
            Value::Int(_) => "a number",
            Value::Text(_) => "text",
            Value::Keyword(_) => "a keyword",
            Value::List(_) => "a list",
            Value::Map(_) => "a map",
        }
    }

    /// Levels of lists and maps, 0 for anything else.
    pub fn depth(&self) -> usize {
        match self {
            Value::List(all) => 1 + all.iter().map(Value::depth).max().unwrap_or(0),
            Value::Map(all) => 1 + all.values().map(Value::depth).max().unwrap_or(0),
            _ => 0,
        }
    }

    /// Whether every keyword in it is a name.
    pub(super) fn names_are_good(&self) -> bool {
        match self {
            Value::Keyword(name) => super::is_name(name),
            Value::List(all) => all.iter().all(Value::names_are_good),
            Value::Map(all) => all
                .iter()
                .all(|(name, value)| super::is_name(name) && value.names_are_good()),
            _ => true,
        }
    }
}
