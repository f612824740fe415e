//! Keys of a workload: each is a chat of its own, made when it is first used.
//!
//! A few keys are in use at a time, each for so many operations, as Jepsen's
//! `independent` has it: a checker's work grows fast with a key's history, and
//! chats that are made while faults are on open epochs under them.

use super::fresh;
use crate::client::ChatId;
use crate::client::{Client, Failure, Room, Wallet};
use quorate_engine::api::{Content, CreateChat, NewMessage};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

/// A key's chat before it is known to be there.
struct Plan {
    room: Room,
    create: CreateChat,
    first: Option<NewMessage>,
    made: bool,
    begun: bool,
}

/// One key.
struct Entry {
    plan: tokio::sync::Mutex<Plan>,
    room: Room,
    used: std::sync::atomic::AtomicU32,
}

/// Keys by number.
pub struct Keys {
    people: Vec<Arc<Wallet>>,
    window: i64,
    uses: u32,
    first: Option<Content>,
    all: Mutex<BTreeMap<i64, Arc<Entry>>>,
    /// The keys in use.
    open: Mutex<Vec<i64>>,
    next: std::sync::atomic::AtomicI64,
}

impl Keys {
    /// `window` keys at a time, each for `uses` operations; with `first`, a chat begins with that message.
    pub fn new(people: Vec<Arc<Wallet>>, window: i64, uses: u32, first: Option<Content>) -> Self {
        Self {
            people,
            window,
            uses,
            first,
            all: Mutex::default(),
            open: Mutex::new((0..window).collect()),
            next: std::sync::atomic::AtomicI64::new(window),
        }
    }

    /// One of the keys in use; `pick` chooses.
    pub fn pick(&self, pick: u32) -> i64 {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let at = pick as usize % self.window as usize;
        let used = self
            .entry(open[at])
            .used
            .fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        if used >= self.uses {
            open[at] = self.next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        }
        open[at]
    }

    /// Every key used so far.
    pub fn used(&self) -> Vec<i64> {
        let all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        all.keys().copied().collect()
    }

    fn entry(&self, key: i64) -> Arc<Entry> {
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        all.entry(key)
            .or_insert_with(|| {
                let wallet = self.people[key as usize % self.people.len()].clone();
                let (id, genesis) = wallet.found_chat();
                let room = Room { id, wallet };
                let mut profile = Content::new();
                profile.insert("title".into(), format!("key {key}").into());
                let first = self.first.clone().map(|content| NewMessage {
                    idempotency_key: fresh(),
                    content,
                });
                let plan = Plan {
                    room: room.clone(),
                    create: CreateChat {
                        idempotency_key: fresh(),
                        profile,
                        genesis,
                    },
                    begun: first.is_none(),
                    first,
                    made: false,
                };
                Arc::new(Entry {
                    plan: tokio::sync::Mutex::new(plan),
                    room,
                    used: std::sync::atomic::AtomicU32::new(0),
                })
            })
            .clone()
    }

    /// The chat of a key, which is made if it is not there yet. What failed is tried again by the next.
    ///
    /// # Errors
    /// [`Failure`]: the chat is not there. Nothing of the caller's own happened.
    pub async fn room(&self, key: i64, client: &mut Client) -> Result<Room, Failure> {
        let entry = self.entry(key);
        let mut plan = entry.plan.lock().await;
        // Making one again under the same keys is safe, whatever became of it before.
        if !plan.made {
            client.create_chat(&plan.room, &plan.create).await?;
            plan.made = true;
        }
        if !plan.begun {
            let first = plan.first.clone().into_iter().collect();
            client.append(&plan.room, first).await?;
            plan.begun = true;
        }
        Ok(entry.room.clone())
    }

    /// The id of a key's chat, there or not.
    pub fn chat(&self, key: i64) -> ChatId {
        self.entry(key).room.id
    }
}
