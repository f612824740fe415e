//! Clients: what they mean, how a leader serves them, what they are told.

use super::Mutant;
use super::facts::Fact;
use super::leader::{Leader, Ticket};
use super::people::PERSONS;
use super::world::{DEPLOYMENT, Event, World};
use quorate_engine::crypto::message::{self, RecordBinding, RecordKind};
use quorate_engine::crypto::subkeys::Subkeys;
use quorate_engine::custody::protocol::KeyRef;
use quorate_engine::home::command::{EditMessage, NewRecord, Reply, WriteMessages};
use quorate_engine::home::{Command, read};
use quorate_engine::types::{ChatId, MessageId, Revision};
use rand::Rng;
use std::collections::BTreeSet;

/// Turns a leader takes before it sends a client away.
const TURNS_MAX: u32 = 8;

/// What a client wants.
#[derive(Clone, Debug)]
pub enum Want {
    /// A new chat, whose profile is record 0.
    Create,
    /// A new record.
    Append,
    /// Another content, if the record is at this revision (If-Match).
    Edit(MessageId, Revision),
    /// All records.
    Read,
}

/// One operation, kept by its client until it is answered.
#[derive(Clone, Debug)]
pub struct Op {
    /// The chat's number.
    pub number: u64,
    /// The chat.
    pub chat: ChatId,
    /// Its idempotency key.
    pub idempotency: String,
    /// What it writes.
    pub content: Vec<u8>,
    /// What it wants.
    pub want: Want,
    /// Who wants it.
    pub who: usize,
    /// What a device of theirs signed when it was last asked for.
    pub grant: String,
    /// Answered for good.
    pub done: bool,
    /// Answered with success.
    pub ok: bool,
}

/// What a leader answers.
pub enum Said {
    /// Written there.
    Written(MessageId, Revision),
    /// Read to the end.
    ReadAll,
    /// Will never succeed.
    Never,
    /// Not done; come again.
    NotNow,
}

fn device() -> String {
    "phone".into()
}

impl World {
    /// A client begins something; returns its id.
    pub fn begin(&mut self, number: u64, want: Want) -> u64 {
        let id = self.next_id();
        let chat = self.chat_id(number);
        let who = self.pick(PERSONS);
        let mut content = vec![0; 24];
        self.rng.fill_bytes(&mut content);
        let idempotency = format!("op{id}");
        if !matches!(want, Want::Read) {
            self.recorder.fact(Fact::Meant {
                chat,
                idempotency: idempotency.clone(),
                content: content.clone(),
            });
        }
        self.ops.insert(
            id,
            Op {
                number,
                chat,
                idempotency,
                content,
                want,
                who,
                grant: String::new(),
                done: false,
                ok: false,
            },
        );
        self.submit(id);
        id
    }

    /// A client sends its operation to whoever leads, or did a moment ago.
    pub fn submit(&mut self, op: u64) {
        let (who, number) = (self.ops[&op].who, self.ops[&op].number);
        let who = self.asker(number, who);
        let grant = self.grant(who, number);
        if let Some(op) = self.ops.get_mut(&op) {
            op.grant = grant;
        }
        self.send(Event::Submit { op });
    }

    /// A leader works on what waits for this chat.
    pub fn wake(&mut self, l: &mut Leader, chat: &ChatId) {
        let waiting: Vec<u64> = l
            .ops
            .iter()
            .filter(|(_, (_, busy))| !busy)
            .map(|(op, _)| *op)
            .collect();
        for op in waiting {
            if self.ops.get(&op).is_some_and(|o| o.chat == *chat) {
                self.pump(l, op);
            }
        }
    }

    /// A leader takes the next step of an operation.
    pub fn pump(&mut self, l: &mut Leader, id: u64) {
        let Some((turns, _)) = l.ops.get_mut(&id) else {
            return;
        };
        *turns += 1;
        if *turns > TURNS_MAX {
            return self.say(l, id, Said::NotNow);
        }
        let op = self.ops[&id].clone();
        let row = read::chat(self.view(l), &op.chat).expect("memory does not fail");
        let Some(row) = row else {
            return match op.want {
                Want::Create => {
                    let command = self.creates(op.number);
                    self.op_propose(l, id, command)
                }
                _ => self.say(l, id, Said::NotNow),
            };
        };
        if matches!(op.want, Want::Read) {
            return self.pump_read(l, id, &op);
        }
        let first = read::first_result(self.view(l), &op.chat, &device(), &op.idempotency);
        if let Some(first) = first.expect("memory does not fail") {
            return self.say(l, id, Said::Written(first.id, first.revision));
        }
        let (message, revision) = match op.want {
            Want::Create if row.next > 0 => return self.say(l, id, Said::Never),
            Want::Create => (0, 0),
            Want::Append if row.next == 0 => return self.say(l, id, Said::NotNow),
            Want::Append => (row.next, 0),
            Want::Edit(message, revision) => {
                match read::record(self.view(l), &op.chat, message).expect("memory does not fail") {
                    None => return self.say(l, id, Said::NotNow),
                    Some(r) if r.revision != revision => return self.say(l, id, Said::Never),
                    Some(_) => (message, revision + 1),
                }
            }
            Want::Read => return,
        };
        let Some(open) = row.open.filter(|_| row.intent.is_none()) else {
            return self.open_epoch(l, op.chat);
        };
        let key = KeyRef {
            chat: op.chat,
            key_id: open.key_id,
        };
        let mut nonce = [0; 24];
        self.rng.fill_bytes(&mut nonce);
        let Some(data_key) = self.leased(l, &key) else {
            // A new epoch finds custodians that the old one's key cannot be had from.
            let tries = l.ops.get(&id).map_or(0, |(turns, _)| *turns);
            if tries > 3 || !self.collect(l, &[key], &op.grant) {
                self.open_epoch(l, op.chat);
            }
            return;
        };
        let keys = Subkeys::derive(data_key);
        let kind = if message == 0 {
            RecordKind::Profile
        } else {
            RecordKind::Message
        };
        let binding = RecordBinding {
            deployment: DEPLOYMENT,
            chat: op.chat,
            message,
            revision,
            key_id: key.key_id,
            kind,
        };
        let record = NewRecord {
            device: device(),
            idempotency: op.idempotency.clone(),
            digest: keys.digest(&op.content),
            kind,
            sealed: message::seal(&keys, &binding, nonce, &op.content),
        };
        let command = match op.want {
            Want::Edit(message, revision) => Command::EditMessage(EditMessage {
                key,
                message,
                revision,
                record,
            }),
            _ => Command::WriteMessages(WriteMessages {
                key,
                first: message,
                records: vec![record],
            }),
        };
        if self.mutant == Some(Mutant::AcknowledgesEarly) {
            self.shard_propose(l, command, Ticket::Nobody);
            return self.say(l, id, Said::Written(message, revision));
        }
        self.op_propose(l, id, command);
    }

    fn op_propose(&mut self, l: &mut Leader, id: u64, command: Command) {
        if let Some((_, busy)) = l.ops.get_mut(&id) {
            *busy = true;
        }
        self.shard_propose(l, command, Ticket::Op(id));
    }

    fn pump_read(&mut self, l: &mut Leader, id: u64, op: &Op) {
        // ReadIndex: who leads no more does not serve.
        if self.shards[l.shard].term != l.term {
            return self.say(l, id, Said::NotNow);
        }
        let page = read::page(self.view(l), &op.chat, 0, 256).expect("memory does not fail");
        let keys: BTreeSet<KeyRef> = page
            .iter()
            .map(|(_, r)| KeyRef {
                chat: op.chat,
                key_id: r.key_id,
            })
            .collect();
        let mut missing = Vec::new();
        for key in &keys {
            if self.leased(l, key).is_none() {
                missing.push(*key);
            }
        }
        if !missing.is_empty() {
            let tries = l.ops.get(&id).map_or(0, |(turns, _)| *turns);
            if tries > 4 || !self.collect(l, &missing, &op.grant) {
                self.say(l, id, Said::NotNow);
            }
            return;
        }
        for (message, row) in page {
            let key = KeyRef {
                chat: op.chat,
                key_id: row.key_id,
            };
            let binding = RecordBinding {
                deployment: DEPLOYMENT,
                chat: op.chat,
                message,
                revision: row.revision,
                key_id: row.key_id,
                kind: row.kind,
            };
            let keys = self
                .leased(l, &key)
                .map(Subkeys::derive)
                .expect("seen a moment ago");
            let content = message::open(&keys, &binding, &row.sealed)
                .map_or_else(|_| b"does not open".to_vec(), |c| c.to_vec());
            self.recorder.fact(Fact::Read {
                chat: op.chat,
                key_id: row.key_id,
                id: message,
                revision: row.revision,
                content,
            });
        }
        self.say(l, id, Said::ReadAll);
    }

    /// A proposal of an operation was decided, or its fate is not known.
    pub fn op_outcome(&mut self, l: &mut Leader, id: u64, reply: Option<Reply>) {
        let Some((_, busy)) = l.ops.get_mut(&id) else {
            return;
        };
        *busy = false;
        match reply {
            None => drop(l.ops.remove(&id)), // The client is not told anything and asks again.
            Some(Reply::Written(results)) => {
                self.say(l, id, Said::Written(results[0].id, results[0].revision))
            }
            Some(Reply::Chat { .. } | Reply::Conflict(_)) => self.pump(l, id),
            Some(Reply::RevisionMismatch { .. }) => self.say(l, id, Said::Never),
            Some(_) => self.say(l, id, Said::NotNow),
        }
    }

    /// Answers a client, if the network lets it.
    fn say(&mut self, l: &mut Leader, id: u64, said: Said) {
        l.ops.remove(&id);
        let lost = self.lossy && self.chance(5);
        let Some(op) = self.ops.get_mut(&id).filter(|o| !o.done && !lost) else {
            return;
        };
        op.done = !matches!(said, Said::NotNow);
        op.ok = matches!(said, Said::Written(..) | Said::ReadAll);
        if let Said::Written(message, revision) = said {
            let fact = Fact::Acknowledged {
                chat: op.chat,
                idempotency: op.idempotency.clone(),
                id: message,
                revision,
            };
            self.recorder.fact(fact);
        }
    }
}
