//! List-append, as Jepsen's: a key's list is a chat, an element a message.

use super::{Doing, Done, Invocation, Keys, Workload, content, fresh, number};
use crate::client::{Client, Failure, Wallet};
use crate::history::Value;
use quorate_engine::api::NewMessage;
use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

/// Keys in use at a time.
const WINDOW: i64 = 4;
/// Operations on one key.
const USES: u32 = 250;

/// See the module. All operations of a transaction are on one key: a chat is
/// what is atomic here.
pub struct Append {
    keys: Keys,
    next: AtomicI64,
}

impl Append {
    /// For these people.
    pub fn new(people: Vec<Arc<Wallet>>) -> Self {
        Self {
            keys: Keys::new(people, WINDOW, USES, None),
            next: AtomicI64::new(1),
        }
    }

    async fn read(&self, key: i64, client: &mut Client) -> Result<Value, Failure> {
        let room = self.keys.room(key, client).await?;
        let messages = client.messages(&room).await?;
        let numbers = messages.iter().map(|m| number(m).map(Value::Int));
        Ok(Value::List(numbers.collect::<Result<_, _>>()?))
    }

    async fn act(&self, client: &mut Client, of: &Invocation) -> Done {
        let Some(txn) = steps(&of.value) else {
            return Done::failed(of, "not a transaction");
        };
        if let [("r", key, _)] = txn.as_slice() {
            return match self.read(*key, client).await {
                Ok(list) => Done::ok(Value::List(vec![step("r", *key, list)])),
                Err(why) => Done::unread(of, &why),
            };
        }
        let Some((_, key, _)) = txn.first() else {
            return Done::failed(of, "an empty transaction");
        };
        let room = match self.keys.room(*key, client).await {
            Ok(room) => room,
            Err(why) => return Done::failed(of, &why.why),
        };
        let message = |(_, _, v): &(&str, i64, i64)| NewMessage {
            idempotency_key: fresh(),
            content: content(*v),
        };
        match client
            .append(&room, txn.iter().map(message).collect())
            .await
        {
            Ok(_) => Done::ok(of.value.clone()),
            Err(why) => Done::unwritten(of, &why),
        }
    }
}

fn step(f: &str, key: i64, value: Value) -> Value {
    Value::List(vec![Value::Keyword(f.into()), Value::Int(key), value])
}

/// The steps of a transaction: function, key, and the element to append (0 for a read).
fn steps(value: &Value) -> Option<Vec<(&'static str, i64, i64)>> {
    let Value::List(all) = value else { return None };
    let one = |step: &Value| {
        let Value::List(parts) = step else {
            return None;
        };
        match parts.as_slice() {
            [Value::Keyword(f), Value::Int(key), Value::Int(v)] if f == "append" => {
                Some(("append", *key, *v))
            }
            [Value::Keyword(f), Value::Int(key), Value::Nil] if f == "r" => Some(("r", *key, 0)),
            _ => None,
        }
    };
    all.iter().map(one).collect()
}

impl Workload for Append {
    fn name(&self) -> &'static str {
        "append"
    }

    fn next(&self, dice: &mut ChaCha8Rng) -> Invocation {
        let key = self.keys.pick(dice.random());
        let kind = dice.random_range(0..10);
        let append = || {
            step(
                "append",
                key,
                Value::Int(self.next.fetch_add(1, Ordering::Relaxed)),
            )
        };
        let txn = match kind {
            0..4 => vec![step("r", key, Value::Nil)],
            // Two at once are appended together or not at all.
            4 => vec![append(), append()],
            _ => vec![append()],
        };
        Invocation {
            f: "txn",
            value: Value::List(txn),
        }
    }

    fn perform<'a>(&'a self, client: &'a mut Client, of: &'a Invocation) -> Doing<'a> {
        Box::pin(self.act(client, of))
    }

    fn last_reads(&self) -> Vec<Invocation> {
        let read = |key| Invocation {
            f: "txn",
            value: Value::List(vec![step("r", key, Value::Nil)]),
        };
        self.keys.used().into_iter().map(read).collect()
    }
}
