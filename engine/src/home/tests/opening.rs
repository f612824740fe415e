//! The opening's exact effects.

use super::fixtures::*;
use crate::custody::protocol::{KeyRef, StoreOutcome};
use crate::home::command::*;
use crate::home::opening::*;
use crate::home::{OPENING_MS_MAX, RESEND_MS_MIN, SESSION_MS_MAX, THIN_WAIT_MS, read};
use crate::policy::Margins;
use crate::types::{ChatId, CustodianId};
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::SeedableRng;
use std::collections::BTreeMap;

struct World {
    shard: Shard,
    chat: ChatId,
    rng: ChaCha20Rng,
    sessions: BTreeMap<CustodianId, DealSession>,
}

fn world(margins: Margins) -> World {
    let mut rng = ChaCha20Rng::seed_from_u64(7);
    let mut shard = Shard::new(margins);
    let chat = shard.chat("a");
    let mut sessions = BTreeMap::new();
    for c in policy().custodians() {
        let statement = FakeCustodian::new(&c, &mut rng).statement();
        let made = UncommittedSession::new(&DEPLOYMENT, &statement, &mut rng).unwrap();
        let commit = Command::SealSessions(vec![made.session().clone()]);
        let reply = shard.apply(1, commit);
        sessions.insert(c, made.committed(&reply, 0).unwrap());
    }
    World {
        shard,
        chat,
        rng,
        sessions,
    }
}

impl World {
    fn prepare(&mut self, without: &[&str]) -> Result<Prepared, DealError> {
        let cx = DealContext {
            deployment: DEPLOYMENT,
            chat: self.chat,
            epoch: 0,
            previous: None,
            expires_ms: None,
        };
        let sessions = self
            .sessions
            .iter()
            .filter(|(c, _)| !without.contains(&c.as_str()));
        let sessions = sessions.map(|(c, s)| (c.clone(), s)).collect();
        prepare(&cx, &policy(), &sessions, &mut self.rng)
    }
    fn start(&mut self, margins: Margins) -> Opening {
        let prepared = self.prepare(&[]).unwrap();
        let reply = self.shard.apply(2, prepared.command());
        prepared.committed(&reply, policy(), margins, 1000).unwrap()
    }
}

fn sent(effects: &[Effect]) -> Vec<&str> {
    let to = effects.iter().map(|e| match e {
        Effect::Send { custodian, .. } => custodian.as_str(),
        other => panic!("{other:?}"),
    });
    to.collect()
}

fn propose_acks(key: KeyRef, names: &[&str], waited: bool) -> Vec<Effect> {
    let names: Vec<_> = names.iter().map(|n| id(n)).collect();
    vec![Effect::Propose(Command::EpochAcks(vec![ack(
        key, &names, waited,
    )]))]
}

#[test]
fn it_sends_to_all_at_once_and_opens_with_the_margin() {
    let mut w = world(MARGINS);
    let mut o = w.start(MARGINS);
    assert_eq!(
        sent(&o.take_effects()),
        ["br", "ch", "de", "is", "nl", "sg"]
    );
    assert_eq!(o.next_timeout(), Some(1000 + OPENING_MS_MAX));
    for name in ["ch", "de", "is"] {
        o.on_outcome(1010, &id(name), StoreOutcome::Stored);
        assert_eq!(
            o.take_effects(),
            vec![],
            "{name}: de and its two are no margin yet"
        );
    }
    o.on_outcome(1020, &id("sg"), StoreOutcome::AlreadyStored);
    let effects = o.take_effects();
    assert_eq!(
        effects,
        propose_acks(o.key(), &["ch", "de", "is", "sg"], false)
    );
    let Effect::Propose(command) = effects.into_iter().next().unwrap() else {
        unreachable!()
    };
    let reply = w.shard.apply(3, command);
    o.on_reply(1030, &reply);
    assert_eq!(
        o.take_effects(),
        vec![Effect::Finished(End::Opened { thin: false })]
    );
    assert!(o.is_over() && o.into_key().is_some());
}

#[test]
fn it_opens_thin_after_three_seconds_or_when_all_have_answered() {
    let mut w = world(MARGINS);
    let mut o = w.start(MARGINS);
    o.take_effects();
    for name in ["ch", "is", "sg"] {
        o.on_outcome(1010, &id(name), StoreOutcome::Stored);
    }
    assert_eq!(o.take_effects(), vec![]);
    assert_eq!(o.next_timeout(), Some(1000 + THIN_WAIT_MS));
    o.on_timeout(1000 + THIN_WAIT_MS - 1);
    assert_eq!(o.take_effects(), vec![]);
    o.on_timeout(1000 + THIN_WAIT_MS);
    assert_eq!(
        o.take_effects(),
        propose_acks(o.key(), &["ch", "is", "sg"], true)
    );

    let mut w = world(MARGINS);
    let mut o = w.start(MARGINS);
    o.take_effects();
    for name in ["ch", "is", "sg"] {
        o.on_outcome(1010, &id(name), StoreOutcome::Stored);
    }
    for name in ["br", "de", "nl"] {
        o.on_outcome(1011, &id(name), StoreOutcome::PolicyNotApproved);
    }
    match &o.take_effects()[..] {
        [Effect::Propose(Command::EpochAcks(acks))] => {
            assert!(acks[0].waited);
            assert_eq!(acks[0].lost.len(), 3);
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn it_sends_again_with_doubled_waits() {
    let mut w = world(MARGINS);
    let mut o = w.start(MARGINS);
    o.take_effects();
    o.on_failed(1010, &id("br"));
    assert_eq!(o.take_effects(), vec![]);
    assert_eq!(o.next_timeout(), Some(1010 + RESEND_MS_MIN));
    o.on_timeout(1010 + RESEND_MS_MIN);
    assert_eq!(sent(&o.take_effects()), ["br"]);
    o.on_failed(1300, &id("br"));
    assert_eq!(o.next_timeout(), Some(1300 + 2 * RESEND_MS_MIN));
}

#[test]
fn it_abandons_what_cannot_open_and_says_who_was_missing() {
    let mut w = world(MARGINS);
    let mut o = w.start(MARGINS);
    o.take_effects();
    o.on_outcome(1010, &id("ch"), StoreOutcome::Stored);
    o.on_outcome(1010, &id("is"), StoreOutcome::BadShare);
    o.on_timeout(1000 + OPENING_MS_MAX);
    assert_eq!(
        o.take_effects(),
        vec![Effect::Propose(Command::Abandon(o.key()))]
    );
    let reply = w.shard.apply(3, Command::Abandon(o.key()));
    o.on_reply(20_000, &reply);
    let end = End::Abandoned {
        acked: vec![id("ch")],
        refused: vec![(id("is"), StoreOutcome::BadShare)],
        silent: vec![id("br"), id("de"), id("nl"), id("sg")],
    };
    assert_eq!(o.take_effects(), vec![Effect::Finished(end)]);
    assert!(o.into_key().is_none());
}

#[test]
fn a_required_margin_waits_and_then_abandons() {
    let margins = Margins {
        write_margin: 1,
        require_margin: true,
    };
    let mut w = world(margins);
    let mut o = w.start(margins);
    o.take_effects();
    for name in ["ch", "is", "sg"] {
        o.on_outcome(1010, &id(name), StoreOutcome::Stored);
    }
    o.on_timeout(1000 + THIN_WAIT_MS);
    assert_eq!(o.take_effects(), vec![]);
    assert_eq!(o.next_timeout(), Some(1000 + OPENING_MS_MAX));
    o.on_timeout(1000 + OPENING_MS_MAX);
    assert_eq!(
        o.take_effects(),
        vec![Effect::Propose(Command::Abandon(o.key()))]
    );
}

#[test]
fn shares_stay_out_of_reach_without_the_commit_of_this_very_intent() {
    let mut w = world(MARGINS);
    let (first, second) = (w.prepare(&[]).unwrap(), w.prepare(&[]).unwrap());
    let reply = w.shard.apply(2, first.command());
    let other = second.committed(&reply, policy(), MARGINS, 0);
    assert!(matches!(other, Err(NotCommitted::Refused(_))));
    let second = w.prepare(&[]).unwrap();
    let conflict = w.shard.apply(3, second.command());
    let other = second.committed(&conflict, policy(), MARGINS, 0);
    assert!(matches!(other, Err(NotCommitted::Conflict(_))));
    let refused = first.committed(&Reply::Done, policy(), MARGINS, 0);
    assert!(matches!(refused, Err(NotCommitted::Refused(_))));
}

#[test]
fn a_new_leader_delivers_what_is_in_the_outbox() {
    let mut w = world(MARGINS);
    let mut old = w.start(MARGINS);
    let sends = old.take_effects();
    let one = vec![ack(old.key(), &[id("ch")], false)];
    w.shard.apply(3, Command::EpochAcks(one));
    let pending = read::pending_intent(&w.shard.kv, &w.chat).unwrap().unwrap();
    let mut new = Opening::resume(pending, policy(), MARGINS, 5000).unwrap();
    let again = new.take_effects();
    // The same sealed bytes, to all but the one that has acknowledged.
    assert_eq!(sent(&again), ["br", "de", "is", "nl", "sg"]);
    assert!(again.iter().all(|e| sends.contains(e)));
    for name in ["br", "is", "sg"] {
        new.on_outcome(5001, &id(name), StoreOutcome::AlreadyStored);
    }
    let reply = match new.take_effects().pop() {
        Some(Effect::Propose(command)) => w.shard.apply(4, command),
        other => panic!("{other:?}"),
    };
    new.on_reply(5002, &reply);
    assert_eq!(
        new.take_effects(),
        vec![Effect::Finished(End::Opened { thin: false })]
    );
    assert!(
        new.into_key().is_none(),
        "a new leader cannot know the data key"
    );
}

#[test]
fn sessions_are_usable_when_committed_and_not_for_ever() {
    let w = world(MARGINS);
    let session = &w.sessions[&id("ch")];
    assert!(session.live(SESSION_MS_MAX - 1, 0));
    assert!(!session.live(SESSION_MS_MAX, 0));
    assert!(!session.live(0, SESSION_EXPIRES_MS));
    let mut rng = ChaCha20Rng::seed_from_u64(9);
    let statement = FakeCustodian::new(&id("ch"), &mut rng).statement();
    let made = UncommittedSession::new(&DEPLOYMENT, &statement, &mut rng).unwrap();
    assert!(made.committed(&Reply::NotFound, 0).is_none());
}

#[test]
fn too_few_sealing_keys_are_refused_by_name() {
    let mut w = world(MARGINS);
    assert!(w.prepare(&["ch", "nl"]).is_ok());
    match w.prepare(&["br", "de", "nl", "sg"]) {
        Err(DealError::TooFewSessions { missing }) => {
            assert_eq!(missing, ["br", "de", "nl", "sg"].map(id));
        }
        other => panic!("{}", other.is_ok()),
    }
}
