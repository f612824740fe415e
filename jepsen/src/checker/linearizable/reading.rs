//! Operations of three workloads as calls on one register.

use super::search::Call;
use super::{Interner, Model, show};
use crate::checker::list;
use crate::history::{Kind, Operation, Value};
use std::fmt;

/// What names a register.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct KeyOf<'a>(&'a [Value]);

impl fmt::Display for KeyOf<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts: Vec<String> = self.0.iter().map(show).collect();
        f.write_str(&parts.join(" "))
    }
}

static NIL: Value = Value::Nil;
static TRUE: Value = Value::Bool(true);
static FALSE: Value = Value::Bool(false);
// A share's three states.
static ABSENT: Value = Value::Int(0);
static STORED: Value = Value::Int(1);
static SHREDDED: Value = Value::Int(2);

/// What every register holds at first.
pub(super) fn initial(model: Model) -> &'static Value {
    match model {
        Model::Register => &NIL,
        Model::Members => &FALSE,
        Model::Custody => &ABSENT,
    }
}

type Read<'a> = Result<Option<(KeyOf<'a>, Call)>, String>;

/// The call an operation makes; `None` for one that says nothing, such as a
/// read without an answer.
pub(super) fn call<'a>(model: Model, op: &Operation<'a>, values: &mut Interner<'a>) -> Read<'a> {
    let answer = op.completed.filter(|c| c.kind == Kind::Ok);
    let f = op.invoked.f.as_str();
    match model {
        Model::Register => register(f, op, answer.map(|a| &a.value), values),
        Model::Members => members(f, op, answer.map(|a| &a.value), values),
        Model::Custody => custody(f, op, answer.map(|a| &a.value), values),
    }
}

fn parts(value: &Value, count: usize) -> Result<&[Value], String> {
    list(value)
        .filter(|all| all.len() >= count)
        .ok_or_else(|| format!("{} is not a list of {count}", show(value)))
}

fn register<'a>(
    f: &str,
    op: &Operation<'a>,
    answer: Option<&'a Value>,
    values: &mut Interner<'a>,
) -> Read<'a> {
    let asked = parts(&op.invoked.value, 2)?;
    let call = match f {
        "read" => match answer {
            None => return Ok(None),
            Some(answer) => Call::Read(values.number(&parts(answer, 2)?[1])),
        },
        "write" => Call::Write(values.number(&asked[1])),
        "cas" => {
            let both = parts(&asked[1], 2)?;
            Call::Cas(values.number(&both[0]), values.number(&both[1]))
        }
        other => return Err(format!("a register has no :{other}")),
    };
    Ok(Some((KeyOf(&asked[..1]), call)))
}

fn members<'a>(
    f: &str,
    op: &Operation<'a>,
    answer: Option<&'a Value>,
    values: &mut Interner<'a>,
) -> Read<'a> {
    let asked = parts(&op.invoked.value, 2)?;
    let call = match f {
        "add-member" => Call::Write(values.number(&TRUE)),
        "remove-member" => Call::Write(values.number(&FALSE)),
        "read" => match answer {
            None => return Ok(None),
            Some(answer) => match &parts(answer, 3)?[2] {
                seen @ Value::Bool(_) => Call::Read(values.number(seen)),
                other => return Err(format!("an answer is true or false, not {}", show(other))),
            },
        },
        other => return Err(format!("members have no :{other}")),
    };
    Ok(Some((KeyOf(&asked[..2]), call)))
}

fn custody<'a>(
    f: &str,
    op: &Operation<'a>,
    answer: Option<&'a Value>,
    values: &mut Interner<'a>,
) -> Read<'a> {
    let call = match f {
        "store" => Call::WriteUnless {
            to: values.number(&STORED),
            unless: values.number(&SHREDDED),
        },
        "shred" => Call::Write(values.number(&SHREDDED)),
        "release" => match answer {
            None => return Ok(None),
            Some(answer) => Call::Read(values.number(released(answer, &op.invoked.value)?)),
        },
        other => return Err(format!("custody has no :{other}")),
    };
    Ok(Some((KeyOf(std::slice::from_ref(&op.invoked.value)), call)))
}

/// What a release's answer says of the share.
fn released(answer: &Value, asked: &Value) -> Result<&'static Value, String> {
    if answer == asked {
        return Ok(&STORED);
    }
    match list(answer) {
        Some([key, Value::Keyword(word)]) if key == asked => match word.as_str() {
            "gone" => Ok(&SHREDDED),
            "absent" => Ok(&ABSENT),
            other => Err(format!(
                "a release is answered :gone or :absent, not :{other}"
            )),
        },
        _ => Err(format!(
            "{} does not answer a release of {}",
            show(answer),
            show(asked)
        )),
    }
}
