//! Whoever took the home asks custodians as it likes: with grants of people who were
//! removed or revoked, with ones that do not cover the key, or for more than they allow.

use super::people::PERSONS;
use super::world::{DEPLOYMENT, Event, World, home};
use quorate_engine::custody::protocol::{CustodianRequest, KeyRef, Reason, ReleaseRequest};
use quorate_engine::home::read;
use quorate_engine::types::{ChatId, RequestId};

impl World {
    /// All dealings of a chat that the home knows of.
    pub fn dealings(&self, chat: &ChatId) -> Vec<KeyRef> {
        let kv = self.shards[self.shard_of(chat)].kv();
        let next = read::chat(kv, chat)
            .expect("memory does not fail")
            .and_then(|c| c.last)
            .map_or(0, |(e, _)| e + 1);
        let row = |e| read::epoch(kv, chat, e).expect("memory does not fail");
        let key = |key_id| KeyRef {
            chat: *chat,
            key_id,
        };
        let rows = (0..next).filter_map(row);
        rows.map(|r| key(r.key_id)).collect()
    }

    /// One random attempt, with anybody's device.
    pub fn intrude(&mut self) {
        if self.chats == 0 {
            return;
        }
        let n = self.pick(self.people.chats.len()) as u64 + 1;
        let Some(key) = self.some_key(n) else {
            return;
        };
        let shard = self.shards[self.shard_of(&key.chat)].kv();
        let (epoch, _) = read::epoch_of(shard, &key)
            .expect("memory does not fail")
            .expect("it was dealt");
        let who = self.pick(PERSONS);
        let device = self.pick(self.people.persons[who].devices.len());
        let mut claims = self.claims(who, n);
        let mut requests = 1;
        let trick = self.pick(8);
        match trick {
            0 => claims.chats[0].from = epoch + 1,
            1 if epoch > 0 => claims.chats[0].to = Some(epoch - 1),
            2 => (claims.ceiling, requests) = (1, 2),
            3 => claims.not_before_s += 400,
            4 => {
                claims.expires_s = claims.not_before_s;
                claims.not_before_s -= 840;
            }
            _ => {}
        }
        let grant = match trick {
            5 => self.forged(who, device, claims),
            6 if self.chance(20) => String::new(),
            _ => self.signed(who, device, claims),
        };
        let key_id = key.key_id;
        self.recorder
            .did(format!("someone asks for {key_id} by trick {trick}"));
        for _ in 0..requests {
            self.ask_everyone(key, &grant);
        }
    }

    /// Someone, who may be out of chat `n` or have lost this device, asks everyone for a key.
    pub fn try_again(&mut self, n: usize, who: usize, device: usize) {
        let n = n as u64 + 1;
        if let Some(key) = self.some_key(n) {
            let claims = self.claims(who, n);
            let grant = self.signed(who, device, claims);
            self.ask_everyone(key, &grant);
        }
    }

    fn some_key(&mut self, n: u64) -> Option<KeyRef> {
        let keys = self.dealings(&self.chat_id(n));
        let at = self.pick(keys.len());
        keys.get(at).copied()
    }

    fn ask_everyone(&mut self, key: KeyRef, grant: &str) {
        for custodian in 0..self.custodians.len() {
            let request = ReleaseRequest {
                request: RequestId(self.bytes()),
                home: home(),
                node: 1,
                deployment: DEPLOYMENT,
                lease_key: self.thief.public(),
                reason: Reason::Read,
                grant: grant.to_owned(),
                keys: vec![key],
            };
            self.send(Event::Request {
                leader: 0,
                call: 0,
                custodian,
                node: 1,
                request: Box::new(CustodianRequest::Release(request)),
            });
        }
    }
}
