//! A set spread over a few chats: numbers are added, and all of them read.

use super::{Doing, Done, Invocation, Keys, Workload, content, fresh, number};
use crate::client::{Client, Failure, Wallet};
use crate::history::Value;
use quorate_engine::api::NewMessage;
use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

/// Chats that the set is spread over.
const CHATS: i64 = 4;
/// One operation in so many reads the set; it grows all the time.
const READ_EVERY: u32 = 20;

/// See the module.
pub struct Set {
    keys: Keys,
    next: AtomicI64,
}

impl Set {
    /// For these people.
    pub fn new(people: Vec<Arc<Wallet>>) -> Self {
        Self {
            keys: Keys::new(people, CHATS, u32::MAX, None),
            next: AtomicI64::new(0),
        }
    }

    async fn read(&self, client: &mut Client) -> Result<Value, Failure> {
        let mut all = Vec::new();
        for key in 0..CHATS {
            let room = self.keys.room(key, client).await?;
            for message in client.messages(&room).await? {
                all.push(Value::Int(number(&message)?));
            }
        }
        Ok(Value::List(all))
    }

    async fn act(&self, client: &mut Client, of: &Invocation) -> Done {
        let Value::Int(v) = &of.value else {
            return match self.read(client).await {
                Ok(all) => Done::ok(all),
                Err(why) => Done::unread(of, &why),
            };
        };
        let room = match self.keys.room(v.rem_euclid(CHATS), client).await {
            Ok(room) => room,
            Err(why) => return Done::failed(of, &why.why),
        };
        let message = NewMessage {
            idempotency_key: fresh(),
            content: content(*v),
        };
        match client.append(&room, vec![message]).await {
            Ok(_) => Done::ok(of.value.clone()),
            Err(why) => Done::unwritten(of, &why),
        }
    }
}

impl Workload for Set {
    fn name(&self) -> &'static str {
        "set"
    }

    fn next(&self, dice: &mut ChaCha8Rng) -> Invocation {
        if dice.random_range(0..READ_EVERY) == 0 {
            return Invocation {
                f: "read",
                value: Value::Nil,
            };
        }
        Invocation {
            f: "add",
            value: Value::Int(self.next.fetch_add(1, Ordering::Relaxed)),
        }
    }

    fn perform<'a>(&'a self, client: &'a mut Client, of: &'a Invocation) -> Doing<'a> {
        Box::pin(self.act(client, of))
    }

    fn last_reads(&self) -> Vec<Invocation> {
        vec![Invocation {
            f: "read",
            value: Value::Nil,
        }]
    }
}
