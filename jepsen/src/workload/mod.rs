//! What clients do.
//!
//! A workload makes invocations from dice and performs them with a client; the
//! run records both sides. An own workload is a type with [`Workload`] and a
//! line in [`find`]; what its history must satisfy is a checker of that name.

mod append;
mod keys;
mod register;
mod set;

pub use keys::Keys;

use crate::client::{Client, Failure, Wallet};
use crate::history::{Kind, Value};
use rand_chacha::ChaCha8Rng;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

/// What a process is about to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Invocation {
    /// The function.
    pub f: &'static str,
    /// Its argument.
    pub value: Value,
}

/// What became of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Done {
    /// Ok, fail or info.
    pub kind: Kind,
    /// What the completion carries.
    pub value: Value,
    /// Why it failed or is not known.
    pub error: Option<String>,
}

impl Done {
    /// It happened.
    pub fn ok(value: Value) -> Self {
        Self {
            kind: Kind::Ok,
            value,
            error: None,
        }
    }

    /// A read that brought nothing: it had no effect, so it certainly failed.
    pub fn unread(of: &Invocation, why: &Failure) -> Self {
        Self::failed(of, &why.why)
    }

    /// It certainly did not happen.
    pub fn failed(of: &Invocation, why: &str) -> Self {
        Self {
            kind: Kind::Fail,
            value: of.value.clone(),
            error: Some(why.to_owned()),
        }
    }

    /// A write that brought no good answer.
    pub fn unwritten(of: &Invocation, why: &Failure) -> Self {
        let kind = if why.is_certain() {
            Kind::Fail
        } else {
            Kind::Info
        };
        Self {
            kind,
            value: of.value.clone(),
            error: Some(why.why.clone()),
        }
    }
}

/// A completion that is awaited.
pub type Doing<'a> = Pin<Box<dyn Future<Output = Done> + Send + 'a>>;

/// What clients do.
pub trait Workload: Send + Sync {
    /// Its name, also of its checkers.
    fn name(&self) -> &'static str;
    /// The next invocation of some process.
    fn next(&self, dice: &mut ChaCha8Rng) -> Invocation;
    /// Performs one.
    fn perform<'a>(&'a self, client: &'a mut Client, of: &'a Invocation) -> Doing<'a>;
    /// Reads of everything, at the end; each is repeated until it succeeds.
    fn last_reads(&self) -> Vec<Invocation>;
}

/// Names of workloads, with what they do.
pub const WORKLOADS: &[(&str, &str)] = &[
    (
        "set",
        "messages with numbers are appended, and all of them read: nothing acknowledged may be missing",
    ),
    (
        "register",
        "one message a chat is read, replaced and compared-and-replaced: linearizable",
    ),
    (
        "append",
        "numbers are appended to chats and chats read, as Jepsen's list-append",
    ),
];

/// The workload of that name, for these people.
///
/// # Errors
/// When there is none.
pub fn find(name: &str, people: Vec<Arc<Wallet>>) -> anyhow::Result<Box<dyn Workload>> {
    Ok(match name {
        "set" => Box::new(set::Set::new(people)),
        "register" => Box::new(register::Register::new(people)),
        "append" => Box::new(append::Append::new(people)),
        other => {
            let names: Vec<_> = WORKLOADS.iter().map(|(n, _)| *n).collect();
            anyhow::bail!("no workload {other:?}: choose one of {}", names.join(", "))
        }
    })
}

/// A fresh idempotency key.
fn fresh() -> String {
    hex::encode(rand::random::<[u8; 16]>())
}

/// The content that carries a number.
fn content(v: i64) -> quorate_engine::api::Content {
    let mut content = quorate_engine::api::Content::new();
    content.insert("v".into(), v.into());
    content
}

/// The number in a message; what came back is not what was written when it has none.
fn number(message: &quorate_engine::api::Message) -> Result<i64, Failure> {
    let v = message.content.get("v").and_then(serde_json::Value::as_i64);
    v.ok_or_else(|| Failure {
        outcome: crate::client::Outcome::Unknown,
        code: None,
        why: format!("message {} carries no number", message.id),
    })
}
