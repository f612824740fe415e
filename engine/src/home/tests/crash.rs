//! The leader dies between any two steps of an opening.
//!
//! Each schedule says which custodians are down and after which step the leader
//! dies; a second leader (which may die too) takes over from applied state. At
//! the end exactly one dealing is open or none is pending, its shares at the
//! custodians are of that dealing alone, and they recombine to the key that
//! `check` commits to.

use super::fixtures::*;
use crate::crypto::subkeys;
use crate::custody::protocol::KeyRef;
use crate::home::command::*;
use crate::home::opening::*;
use crate::home::read;
use crate::sharing;
use crate::types::{ChatId, CustodianId, Mono};
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::SeedableRng;
use std::collections::{BTreeMap, BTreeSet};

struct World {
    shard: Shard,
    chat: ChatId,
    custodians: BTreeMap<CustodianId, FakeCustodian>,
    down: BTreeSet<CustodianId>,
    /// Replies of these custodians are lost on the way back.
    deaf: BTreeSet<CustodianId>,
    rng: ChaCha20Rng,
    now: Mono,
    /// Steps the present leader may still take.
    budget: usize,
}

/// The leader died.
struct Died;

impl World {
    fn new(seed: u64, down: &[&str], deaf: &[&str]) -> Self {
        let mut rng = ChaCha20Rng::seed_from_u64(seed);
        let mut shard = Shard::new(MARGINS);
        let chat = shard.chat("a");
        let custodians = policy().custodians().into_iter();
        let custodians = custodians.map(|c| (c.clone(), FakeCustodian::new(&c, &mut rng)));
        Self {
            custodians: custodians.collect(),
            shard,
            chat,
            down: set(down),
            deaf: set(deaf),
            rng,
            now: 0,
            budget: 0,
        }
    }

    fn step(&mut self) -> Result<(), Died> {
        self.budget = self.budget.checked_sub(1).ok_or(Died)?;
        Ok(())
    }

    fn propose(&mut self, command: Command) -> Result<Reply, Died> {
        self.step()?; // died before it reached a majority
        let reply = self.shard.apply(self.now, command);
        self.step()?; // died after it committed, before the leader knew
        Ok(reply)
    }

    /// One leader's whole work: finish what it finds, else open anew.
    fn lead(&mut self) -> Result<Option<End>, Died> {
        let pending = read::pending_intent(&self.shard.kv, &self.chat).unwrap();
        if let Some(pending) = pending {
            let opening = Opening::resume(pending, policy(), MARGINS, self.now).unwrap();
            return self.run(opening).map(Some);
        }
        let chat = read::chat(&self.shard.kv, &self.chat).unwrap().unwrap();
        if chat.open.is_some() {
            return Ok(None);
        }
        let mut sessions = BTreeMap::new();
        for custodian in self.custodians.keys().cloned().collect::<Vec<_>>() {
            let statement = self.custodians[&custodian].statement();
            let made = UncommittedSession::new(&DEPLOYMENT, &statement, &mut self.rng).unwrap();
            let reply = self.propose(Command::SealSessions(vec![made.session().clone()]))?;
            sessions.insert(custodian, made.committed(&reply, self.now).unwrap());
        }
        let cx = DealContext {
            deployment: DEPLOYMENT,
            chat: self.chat,
            epoch: chat.last.map_or(0, |(e, _)| e + 1),
            previous: chat.last.map(|(_, k)| k),
            expires_ms: None,
        };
        let sessions = sessions.iter().map(|(c, s)| (c.clone(), s)).collect();
        let prepared = prepare(&cx, &policy(), &sessions, &mut self.rng).unwrap();
        let reply = self.propose(prepared.command())?;
        let opening = prepared
            .committed(&reply, policy(), MARGINS, self.now)
            .unwrap();
        self.run(opening).map(Some)
    }

    fn run(&mut self, mut opening: Opening) -> Result<End, Died> {
        for _ in 0..1000 {
            for effect in opening.take_effects() {
                match effect {
                    Effect::Finished(end) => return Ok(end),
                    Effect::Propose(command) => {
                        let reply = self.propose(command)?;
                        opening.on_reply(self.now, &reply);
                    }
                    Effect::Send {
                        custodian,
                        session,
                        item,
                    } => {
                        self.step()?;
                        if self.down.contains(&custodian) {
                            opening.on_failed(self.now, &custodian);
                            continue;
                        }
                        // Persist before send: whatever arrives stands committed at the home.
                        let row = read::epoch(&self.shard.kv, &self.chat, 0).unwrap().unwrap();
                        assert_eq!(row.key_id, item.key_id);
                        let session = read::session(&self.shard.kv, &session).unwrap().unwrap();
                        let there = self.custodians.get_mut(&custodian).unwrap();
                        let outcome = there.store(&session, &item);
                        self.step()?;
                        if self.deaf.contains(&custodian) {
                            opening.on_failed(self.now, &custodian);
                        } else {
                            opening.on_outcome(self.now, &custodian, outcome);
                        }
                    }
                }
            }
            if let Some(at) = opening.next_timeout() {
                self.now = self.now.max(at);
                opening.on_timeout(self.now);
            }
        }
        panic!("the opening does not end");
    }

    /// Abandonments reach the custodians that are up.
    fn deliver_abandonments(&mut self) {
        for (id, custodian) in &mut self.custodians {
            for key in read::abandoned(&self.shard.kv, id, 100).unwrap() {
                custodian.abandon(&key.key_id);
            }
        }
    }

    fn check(&self, schedule: &str) {
        let chat = read::chat(&self.shard.kv, &self.chat).unwrap().unwrap();
        assert_eq!(chat.intent, None, "{schedule}: an intent is left");
        let open = chat.open.expect(schedule);
        let row = read::epoch(&self.shard.kv, &self.chat, open.epoch)
            .unwrap()
            .unwrap();
        assert!(policy().satisfied_by(&row.acked()), "{schedule}");
        let mut shares = Vec::new();
        for leaf in row
            .leaves
            .iter()
            .filter(|l| row.acked().contains(&l.custodian))
        {
            let (commitment, share) = &self.custodians[&leaf.custodian].stored[&row.key_id];
            assert_eq!(commitment, &leaf.commitment, "{schedule}: shares are mixed");
            shares.push((leaf.custodian.clone(), share));
        }
        let key = sharing::combine(policy().structure(), &shares).unwrap();
        assert!(
            subkeys::key_check_holds(&key, &row.check),
            "{schedule}: another key"
        );
        for custodian in self.custodians.values() {
            for key_id in custodian.stored.keys() {
                let dealing = read::dealing(&self.shard.kv, key_id).unwrap();
                let dealing = dealing.expect("a share of a dealing that was never intended");
                assert!(dealing.abandoned_ms.is_none() || self.down.contains(&custodian.id));
            }
        }
    }
}

#[test]
fn a_leader_that_dies_at_any_step_is_completed_or_abandoned() {
    let situations: [(&[&str], &[&str]); 4] = [
        (&[], &[]),
        (&["ch", "sg"], &[]),
        (&[], &["ch", "is", "sg"]),
        (&["ch", "is", "sg"], &[]),
    ];
    let mut abandoned = 0;
    for (down, deaf) in situations {
        for first in 0..60 {
            // The second leader dies early, late or not at all.
            for second in [0, 1, 4, 9, usize::MAX] {
                let schedule = format!("down {down:?}, deaf {deaf:?}, {first}, {second}");
                let mut w = World::new(first as u64, down, deaf);
                for budget in [first, second] {
                    w.budget = budget;
                    if let Ok(Some(End::Abandoned { .. })) = w.lead() {
                        abandoned += 1;
                    }
                    w.now += 1;
                }
                // Everyone is back; a third leader does the rest.
                w.down.clear();
                w.deaf.clear();
                w.budget = usize::MAX;
                while w.lead().ok().flatten().is_some() {}
                w.deliver_abandonments();
                w.check(&schedule);
            }
        }
    }
    assert!(
        abandoned > 20,
        "abandoning must have been reached: {abandoned}"
    );
}

#[test]
fn a_deposed_leader_and_its_successor_never_mix_two_dealings() {
    let mut w = World::new(1, &[], &[]);
    w.budget = 14; // six sessions and the intent: then it is cut off, not dead
    assert!(w.lead().is_err());
    let intent = read::pending_intent(&w.shard.kv, &w.chat)
        .unwrap()
        .unwrap()
        .key();
    w.budget = usize::MAX;
    assert_eq!(w.shard.apply(5, Command::Abandon(intent)), Reply::Done);
    w.deliver_abandonments();
    assert_eq!(w.lead().ok().flatten(), Some(End::Opened { thin: false }));
    // The old leader's acknowledgements arrive late.
    let all: Vec<_> = w.custodians.keys().cloned().collect();
    let late = w
        .shard
        .apply(6, Command::EpochAcks(vec![ack(intent, &all, true)]));
    assert_eq!(late, Reply::Acks(vec![DealingState::Abandoned]));
    w.check("deposed");
    let open: KeyRef = {
        let open = read::chat(&w.shard.kv, &w.chat)
            .unwrap()
            .unwrap()
            .open
            .unwrap();
        KeyRef {
            chat: w.chat,
            key_id: open.key_id,
        }
    };
    assert_ne!(open, intent);
}
