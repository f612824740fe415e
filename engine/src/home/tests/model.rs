//! Random commands against a model that is nothing but maps; and two appliers
//! of one log, one of them through bytes, that must agree in every byte.

use super::fixtures::*;
use crate::custody::protocol::KeyRef;
use crate::home::command::*;
use crate::home::{HomeMachine, read};
use crate::types::kv::{Machine, MemKv, Position};
use crate::types::{ChatId, KeyId};
use proptest::prelude::*;
use std::collections::BTreeMap;

#[derive(Clone, Debug)]
enum Op {
    Create(u8),
    Intent {
        chat: u8,
        key: u8,
        stale: bool,
    },
    Ack {
        key: u8,
        mask: u8,
        waited: bool,
    },
    Abandon {
        key: u8,
    },
    Close {
        chat: u8,
    },
    Write {
        chat: u8,
        key: Option<u8>,
        off: u8,
        idem: u8,
        count: u8,
        content: u8,
    },
    Edit {
        chat: u8,
        message: u8,
        revision: u8,
        idem: u8,
        content: u8,
    },
    Sweep,
}

fn op() -> impl Strategy<Value = Op> {
    let chat = || 0u8..3;
    prop_oneof![
        2 => chat().prop_map(Op::Create),
        4 => (chat(), 0u8..12, prop::bool::weighted(0.1))
            .prop_map(|(chat, key, stale)| Op::Intent { chat, key, stale }),
        6 => (0u8..12, any::<u8>(), any::<bool>())
            .prop_map(|(key, mask, waited)| Op::Ack { key, mask, waited }),
        1 => (0u8..12).prop_map(|key| Op::Abandon { key }),
        1 => chat().prop_map(|chat| Op::Close { chat }),
        8 => (chat(), prop::option::weighted(0.1, 0u8..12), 0u8..8, 0u8..30, 1u8..4, 0u8..3)
            .prop_map(|(chat, key, off, idem, count, content)| Op::Write {
                chat, key, off, idem, count, content,
            }),
        3 => (chat(), 0u8..6, 0u8..3, 0u8..30, 0u8..3)
            .prop_map(|(chat, message, revision, idem, content)| Op::Edit {
                chat, message, revision, idem, content,
            }),
        1 => Just(Op::Sweep),
    ]
}

#[derive(Clone, Debug, PartialEq)]
enum Dealing {
    Intent(u8),
    Opened,
    Abandoned,
}

#[derive(Default)]
struct Model {
    chats: BTreeMap<u8, Chat>,
    dealings: BTreeMap<u8, (u8, Dealing)>,
}

#[derive(Default)]
struct Chat {
    records: Vec<(u32, u8)>,
    open: Option<u8>,
    last: Option<(u32, u8)>,
    intent: Option<u8>,
    idem: BTreeMap<String, (u64, u32, u8, u8)>, // id, revision, content, key
}

const NAMES: [&str; 6] = ["br", "ch", "de", "is", "nl", "sg"];

fn authorised(mask: u8) -> bool {
    let has = |name: &str| mask >> NAMES.iter().position(|n| *n == name).unwrap() & 1 == 1;
    let eu = has("de") || has("nl");
    let n = ["br", "ch", "is", "sg"].iter().filter(|n| has(n)).count() + usize::from(eu);
    n >= 3
}

fn margin_one(mask: u8) -> bool {
    authorised(mask) && (0..6).all(|i| mask >> i & 1 == 0 || authorised(mask & !(1 << i)))
}

struct Run {
    shard: Shard,
    ids: BTreeMap<u8, ChatId>,
    model: Model,
    log: Vec<Proposal>,
    now: u64,
}

impl Run {
    fn new() -> Self {
        let mut shard = Shard::new(MARGINS);
        shard.sessions();
        Self {
            shard,
            ids: (0..3)
                .map(|n| (n, genesis(&n.to_string()).chat()))
                .collect(),
            model: Model::default(),
            log: Vec::new(),
            now: 100,
        }
    }
    fn apply(&mut self, command: Command) -> Reply {
        self.now += 1;
        let now_ms = self.now;
        self.log.push(Proposal {
            now_ms,
            command: command.clone(),
        });
        self.shard.apply(now_ms, command)
    }
    fn key(&self, chat: u8, key: u8) -> KeyRef {
        KeyRef {
            chat: self.ids[&chat],
            key_id: KeyId([key; 16]),
        }
    }

    fn run(&mut self, op: Op) -> Result<(), TestCaseError> {
        match op {
            Op::Create(n) => {
                let reply = self.apply(Command::CreateChat(genesis(&n.to_string())));
                let there = self.model.chats.contains_key(&n);
                let ok = matches!(reply, Reply::Chat { repeated, .. } if repeated == there);
                prop_assert!(ok, "{:?}", reply);
                self.model.chats.entry(n).or_default();
            }
            Op::Intent { chat, key, stale } => self.intent(chat, key, stale)?,
            Op::Ack { key, mask, waited } => self.ack(key, mask, waited)?,
            Op::Abandon { key } => {
                let Some((chat, dealing)) = self.model.dealings.get(&key).cloned() else {
                    return Ok(());
                };
                let reply = self.apply(Command::Abandon(self.key(chat, key)));
                match dealing {
                    Dealing::Opened => prop_assert!(matches!(reply, Reply::Conflict(_))),
                    _ => {
                        prop_assert_eq!(reply, Reply::Done);
                        self.model.dealings.insert(key, (chat, Dealing::Abandoned));
                        let chat = self.model.chats.get_mut(&chat).unwrap();
                        chat.intent = chat.intent.filter(|k| *k != key);
                    }
                }
            }
            Op::Close { chat } => {
                let Some(key) = self.model.chats.get(&chat).and_then(|c| c.open) else {
                    return Ok(());
                };
                prop_assert_eq!(
                    self.apply(Command::CloseEpoch(self.key(chat, key))),
                    Reply::Done
                );
                self.model.chats.get_mut(&chat).unwrap().open = None;
            }
            Op::Write {
                chat,
                key,
                off,
                idem,
                count,
                content,
            } => {
                self.write(chat, key, off, idem, count, content)?;
            }
            Op::Edit {
                chat,
                message,
                revision,
                idem,
                content,
            } => {
                self.edit(chat, message, revision, idem, content)?;
            }
            Op::Sweep => prop_assert_eq!(self.apply(Command::Sweep), Reply::Done),
        }
        Ok(())
    }

    fn intent(&mut self, chat: u8, key: u8, stale: bool) -> Result<(), TestCaseError> {
        let last = self.model.chats.get(&chat).and_then(|c| c.last);
        let epoch = last.map_or(0, |(e, _)| e + 1) + u32::from(stale);
        let previous = last.map(|(_, k)| KeyId([k; 16]));
        let intent = fake_intent(self.ids[&chat], epoch, previous, key);
        let reply = self.apply(Command::EpochIntent(intent));
        let Some(model) = self.model.chats.get_mut(&chat) else {
            prop_assert_eq!(reply, Reply::NotFound);
            return Ok(());
        };
        let fresh = !self.model.dealings.contains_key(&key);
        let same = model.intent == Some(key) && !stale;
        if same || (fresh && model.intent.is_none() && !stale) {
            prop_assert_eq!(reply, Reply::Intent(self.key(chat, key)));
            self.model.chats.get_mut(&chat).unwrap().intent = Some(key);
            self.model
                .dealings
                .entry(key)
                .or_insert((chat, Dealing::Intent(0)));
        } else {
            prop_assert!(matches!(reply, Reply::Conflict(_)), "{reply:?}");
        }
        Ok(())
    }

    fn ack(&mut self, key: u8, mask: u8, waited: bool) -> Result<(), TestCaseError> {
        let Some((chat, dealing)) = self.model.dealings.get(&key).cloned() else {
            return Ok(());
        };
        let acked: Vec<_> = (0..6)
            .filter(|i| mask >> i & 1 == 1)
            .map(|i| id(NAMES[i]))
            .collect();
        let reply = self.apply(Command::EpochAcks(vec![ack(
            self.key(chat, key),
            &acked,
            waited,
        )]));
        let Reply::Acks(states) = reply else {
            return Err(TestCaseError::fail("not acks"));
        };
        match dealing {
            Dealing::Abandoned => prop_assert_eq!(states[0], DealingState::Abandoned),
            Dealing::Opened => {
                let ok = matches!(states[0], DealingState::Open { .. } | DealingState::Closed);
                prop_assert!(ok, "{:?}", states);
            }
            Dealing::Intent(had) => {
                let has = (had | mask) & 0x3f;
                if margin_one(has) || (waited && authorised(has)) {
                    let thin = !margin_one(has);
                    prop_assert_eq!(states[0], DealingState::Open { thin });
                    self.model.dealings.insert(key, (chat, Dealing::Opened));
                    let chat = self.model.chats.get_mut(&chat).unwrap();
                    chat.last = Some((chat.last.map_or(0, |(e, _)| e + 1), key));
                    (chat.open, chat.intent) = (Some(key), None);
                } else {
                    prop_assert_eq!(states[0], DealingState::Intent);
                    self.model
                        .dealings
                        .insert(key, (chat, Dealing::Intent(has)));
                }
            }
        }
        Ok(())
    }

    fn write(
        &mut self,
        chat: u8,
        key: Option<u8>,
        off: u8,
        idem: u8,
        count: u8,
        content: u8,
    ) -> Result<(), TestCaseError> {
        let model = self.model.chats.get(&chat);
        let next = model.map_or(0, |c| c.records.len() as u64);
        let open = model.and_then(|c| c.open);
        let key = key.or(open).unwrap_or(0);
        let first = if off == 7 { next + 1 } else { next };
        let ids = first..first + u64::from(count);
        let names: Vec<String> = (idem..idem + count).map(|i| format!("i{i}")).collect();
        let records = ids
            .zip(&names)
            .map(|(i, n)| record(i, n, content))
            .collect();
        let reply = self.apply(write(self.key(chat, key), first, records));
        let Some(model) = self.model.chats.get_mut(&chat) else {
            prop_assert_eq!(reply, Reply::NotFound);
            return Ok(());
        };
        let found: Vec<_> = names
            .iter()
            .filter_map(|n| model.idem.get(n).copied())
            .collect();
        if found.len() == names.len() {
            return check_repeats(&reply, &found, content, key);
        }
        if !found.is_empty() || open != Some(key) || first != next {
            prop_assert!(matches!(reply, Reply::Conflict(_)), "{reply:?}");
            return Ok(());
        }
        let Reply::Written(results) = reply else {
            return Err(TestCaseError::fail(format!("{reply:?}")));
        };
        for (i, (result, name)) in results.iter().zip(names).enumerate() {
            prop_assert_eq!((result.id, result.revision), (next + i as u64, 0));
            prop_assert_eq!(result.repeat, Repeat::First);
            model.records.push((0, content));
            model.idem.insert(name, (result.id, 0, content, key));
        }
        Ok(())
    }

    fn edit(
        &mut self,
        chat: u8,
        message: u8,
        revision: u8,
        idem: u8,
        content: u8,
    ) -> Result<(), TestCaseError> {
        let (message, revision) = (u64::from(message), u32::from(revision));
        let open = self.model.chats.get(&chat).and_then(|c| c.open);
        let key = open.unwrap_or(0);
        let name = format!("i{idem}");
        let reply = self.apply(Command::EditMessage(EditMessage {
            key: self.key(chat, key),
            message,
            revision,
            record: record(message, &name, content),
        }));
        let Some(model) = self.model.chats.get_mut(&chat) else {
            prop_assert_eq!(reply, Reply::NotFound);
            return Ok(());
        };
        if let Some(found) = model.idem.get(&name) {
            return check_repeats(&reply, &[*found], content, key);
        }
        let Some((current, old)) = model.records.get_mut(message as usize) else {
            prop_assert_eq!(reply, Reply::NotFound);
            return Ok(());
        };
        if *current != revision {
            prop_assert_eq!(reply, Reply::RevisionMismatch { current: *current });
        } else if open.is_none() {
            prop_assert!(matches!(reply, Reply::Conflict(_)));
        } else {
            prop_assert!(matches!(reply, Reply::Written(_)), "{reply:?}");
            (*current, *old) = (revision + 1, content);
            model
                .idem
                .insert(name, (message, revision + 1, content, key));
        }
        Ok(())
    }

    fn check(&self) -> Result<(), TestCaseError> {
        for (n, model) in &self.model.chats {
            let chat = &self.ids[n];
            let row = read::chat(&self.shard.kv, chat).unwrap().unwrap();
            prop_assert_eq!(row.next, model.records.len() as u64);
            prop_assert_eq!(
                row.open.map(|o| o.key_id),
                model.open.map(|k| KeyId([k; 16]))
            );
            prop_assert_eq!(row.last, model.last.map(|(e, k)| (e, KeyId([k; 16]))));
            prop_assert_eq!(
                row.intent.map(|i| i.1),
                model.intent.map(|k| KeyId([k; 16]))
            );
            let page = read::page(&self.shard.kv, chat, 0, 1000).unwrap();
            let page: Vec<_> = page
                .iter()
                .map(|(_, r)| (r.revision, r.sealed[0]))
                .collect();
            prop_assert_eq!(&page, &model.records);
        }
        let meta = read::meta(&self.shard.kv).unwrap();
        let outbox: usize = policy()
            .custodians()
            .iter()
            .map(|c| read::outbox(&self.shard.kv, c, None, 1000).unwrap().len())
            .sum();
        prop_assert_eq!(meta.outbox, outbox as u64);
        prop_assert_eq!(
            meta.thin as usize,
            read::thin_epochs(&self.shard.kv, 1000).unwrap().len()
        );
        let intents = read::pending_intents(&self.shard.kv, None, 1000)
            .unwrap()
            .len();
        prop_assert_eq!(
            intents,
            self.model
                .chats
                .values()
                .filter(|c| c.intent.is_some())
                .count()
        );
        Ok(())
    }
}

fn check_repeats(
    reply: &Reply,
    found: &[(u64, u32, u8, u8)],
    content: u8,
    key: u8,
) -> Result<(), TestCaseError> {
    let Reply::Written(results) = reply else {
        return Err(TestCaseError::fail(format!("{reply:?}")));
    };
    for (result, (id, revision, was, under)) in results.iter().zip(found) {
        prop_assert_eq!((result.id, result.revision), (*id, *revision));
        let expected = match (*under == key, *was == content) {
            (true, true) => Repeat::Same,
            (true, false) => Repeat::Mismatch,
            (false, _) => Repeat::Elsewhere {
                key_id: KeyId([*under; 16]),
                digest: [*was; 32],
            },
        };
        prop_assert_eq!(result.repeat, expected);
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(192))]
    #[test]
    fn the_shard_is_its_model(ops in prop::collection::vec(op(), 1..150)) {
        let mut run = Run::new();
        for op in ops {
            run.run(op)?;
            run.check()?;
        }
    }

    #[test]
    fn two_appliers_agree_in_every_byte(ops in prop::collection::vec(op(), 1..100)) {
        let mut run = Run::new();
        let start = run.shard.clone();
        for op in ops {
            run.run(op)?;
        }
        let (mut kv, mut index) = (start.kv, start.index);
        for proposal in &run.log {
            index += 1;
            let at = Position { term: 1, index };
            HomeMachine.apply(&mut kv, at, &proposal.encode()).unwrap();
        }
        prop_assert_eq!(kv, run.shard.kv);
    }

    #[test]
    fn hostile_commands_never_panic(mut bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        if let Some(first) = bytes.first_mut() { *first = COMMAND_VERSION; }
        let mut kv = MemKv::default();
        HomeMachine.apply(&mut kv, Position::default(), &bytes).unwrap();
    }
}
