//! A register a key: the first message of a chat, read, replaced, and replaced
//! if it is what it should be.
//!
//! A replacement names the revision that it replaces. So `write` reads the
//! revision and writes over it, whatever the value; when someone else was
//! faster, it certainly failed. `cas` fails as well when the value read is not
//! the one expected.

use super::{Doing, Done, Invocation, Keys, Workload, content, fresh, number};
use crate::client::{Client, Failure, Wallet};
use crate::history::Value;
use quorate_engine::api::Edit;
use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use std::sync::Arc;

/// Keys in use at a time.
const WINDOW: i64 = 4;
/// Operations on one key.
const USES: u32 = 200;
/// Values are below this: small, so that a cas often expects the right one.
const VALUES: i64 = 5;
/// Before the first write. The chat begins with it.
const BEFORE: i64 = -1;
/// Where the register is.
const MESSAGE: u64 = 1;

/// See the module.
pub struct Register {
    keys: Keys,
}

impl Register {
    /// For these people.
    pub fn new(people: Vec<Arc<Wallet>>) -> Self {
        Self {
            keys: Keys::new(people, WINDOW, USES, Some(content(BEFORE))),
        }
    }

    async fn read(&self, key: i64, client: &mut Client) -> Result<Value, Failure> {
        let room = self.keys.room(key, client).await?;
        let message = client.message(&room, MESSAGE).await?;
        number(&message).map(shown)
    }

    /// Outcome `Err(Ok(why))`: it was not attempted.
    async fn replace(
        &self,
        key: i64,
        old: Option<i64>,
        new: i64,
        client: &mut Client,
    ) -> Result<(), Failure> {
        let certain = |mut f: Failure| {
            // Nothing was written yet.
            f.outcome = crate::client::Outcome::NotDone;
            f
        };
        let room = self.keys.room(key, client).await.map_err(certain)?;
        let message = client.message(&room, MESSAGE).await.map_err(certain)?;
        let there = number(&message).map_err(certain)?;
        if let Some(old) = old.filter(|old| *old != there) {
            return Err(certain(Failure {
                outcome: crate::client::Outcome::NotDone,
                code: None,
                why: format!("it is {there}, not {old}"),
            }));
        }
        let edit = Edit {
            idempotency_key: fresh(),
            content: content(new),
        };
        client
            .edit(&room, MESSAGE, message.revision, &edit)
            .await
            .map(|_| ())
    }

    async fn act(&self, client: &mut Client, of: &Invocation) -> Done {
        let Value::List(parts) = &of.value else {
            return Done::failed(of, "not a register's invocation");
        };
        match (of.f, parts.as_slice()) {
            ("read", [Value::Int(key), _]) => match self.read(*key, client).await {
                Ok(value) => Done::ok(Value::List(vec![Value::Int(*key), value])),
                Err(why) => Done::unread(of, &why),
            },
            ("write", [Value::Int(key), Value::Int(new)]) => {
                done(of, self.replace(*key, None, *new, client).await)
            }
            ("cas", [Value::Int(key), Value::List(pair)]) => match pair.as_slice() {
                [Value::Int(old), Value::Int(new)] => {
                    done(of, self.replace(*key, Some(*old), *new, client).await)
                }
                _ => Done::failed(of, "not a register's invocation"),
            },
            _ => Done::failed(of, "not a register's invocation"),
        }
    }
}

fn done(of: &Invocation, result: Result<(), Failure>) -> Done {
    match result {
        Ok(()) => Done::ok(of.value.clone()),
        Err(why) => Done::unwritten(of, &why),
    }
}

/// A register that nobody wrote is nil.
fn shown(v: i64) -> Value {
    match v {
        BEFORE => Value::Nil,
        v => Value::Int(v),
    }
}

impl Workload for Register {
    fn name(&self) -> &'static str {
        "register"
    }

    fn next(&self, dice: &mut ChaCha8Rng) -> Invocation {
        let key = self.keys.pick(dice.random());
        let (kind, a, b) = (
            dice.random_range(0..10),
            dice.random_range(0..VALUES),
            dice.random_range(0..VALUES),
        );
        let (f, value) = match kind {
            0..5 => ("read", Value::Nil),
            5..8 => ("write", Value::Int(a)),
            _ => ("cas", Value::List(vec![Value::Int(a), Value::Int(b)])),
        };
        Invocation {
            f,
            value: Value::List(vec![Value::Int(key), value]),
        }
    }

    fn perform<'a>(&'a self, client: &'a mut Client, of: &'a Invocation) -> Doing<'a> {
        Box::pin(self.act(client, of))
    }

    fn last_reads(&self) -> Vec<Invocation> {
        let read = |key| Invocation {
            f: "read",
            value: Value::List(vec![Value::Int(key), Value::Nil]),
        };
        self.keys.used().into_iter().map(read).collect()
    }
}
