//! Exact replies and rows of single commands.

use super::fixtures::*;
use crate::custody::protocol::{KeyRef, Receipt, StoreOutcome};
use crate::home::command::*;
use crate::home::rows::LeafState;
use crate::home::{EPOCH_AGE_MS_MAX, EPOCH_RECORDS_MAX, HomeMachine, IDEMPOTENCY_MS_MAX, read};
use crate::policy::Margins;
use crate::types::kv::{Machine, MemKv, Position};
use crate::types::{KeyId, RequestId};

fn ready() -> (Shard, KeyRef) {
    let mut shard = Shard::new(MARGINS);
    let chat = shard.chat("a");
    shard.sessions();
    let key = shard.open(20, chat, 1);
    let profile = write(key, 0, vec![record(0, "profile", 0)]);
    assert!(matches!(shard.apply(21, profile), Reply::Written(_)));
    (shard, key)
}

fn conflict_of(reply: Reply) -> (ConflictWhy, u64) {
    match reply {
        Reply::Conflict(c) => (c.why, c.next),
        other => panic!("{other:?}"),
    }
}

fn written(reply: Reply) -> Vec<(u64, u32, u64, Repeat)> {
    match reply {
        Reply::Written(w) => w
            .iter()
            .map(|w| (w.id, w.revision, w.at_ms, w.repeat))
            .collect(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn creating_a_chat_again_is_the_same_chat() {
    let mut shard = Shard::new(MARGINS);
    let chat = shard.chat("a");
    let again = shard.apply(99, Command::CreateChat(genesis("a")));
    let expected = Reply::Chat {
        chat,
        created_ms: 10,
        repeated: true,
    };
    assert_eq!(again, expected);
    assert_ne!(shard.chat("b"), chat);
    assert_eq!(read::meta(&shard.kv).unwrap().chats, 2);
    let listed: Vec<_> = read::chats(&shard.kv, None, 10).unwrap();
    let first = read::chats(&shard.kv, None, 1).unwrap().remove(0).0;
    assert_eq!(
        read::chats(&shard.kv, Some(&first), 10).unwrap(),
        listed[1..]
    );
}

#[test]
fn an_intent_is_compared_and_set_and_its_repetition_is_success() {
    let mut shard = Shard::new(MARGINS);
    let chat = shard.chat("a");
    shard.sessions();
    let intent = fake_intent(chat, 0, None, 1);
    let key = KeyRef {
        chat,
        key_id: intent.key_id,
    };
    let propose = |i: &EpochIntent| Command::EpochIntent(i.clone());
    assert_eq!(shard.apply(20, propose(&intent)), Reply::Intent(key));
    assert_eq!(shard.apply(21, propose(&intent)), Reply::Intent(key));
    assert_eq!(read::meta(&shard.kv).unwrap().outbox, 6);
    // A second leader that opens the same epoch with another key.
    let other = fake_intent(chat, 0, None, 2);
    assert_eq!(
        conflict_of(shard.apply(22, propose(&other))).0,
        ConflictWhy::Intent
    );
    // The same key id with another commitment is another dealing.
    let mut forged = intent.clone();
    forged.leaves[0].commitment = [9; 32];
    assert_eq!(
        conflict_of(shard.apply(22, propose(&forged))).0,
        ConflictWhy::Intent
    );
    // And with the key id of a dealing of another chat.
    let chat_b = shard.chat("b");
    let stolen = fake_intent(chat_b, 0, None, 1);
    assert_eq!(
        conflict_of(shard.apply(22, propose(&stolen))).0,
        ConflictWhy::Intent
    );
    assert_eq!(read::meta(&shard.kv).unwrap().outbox, 6);
}

#[test]
fn intents_that_could_never_open_are_refused() {
    let mut shard = Shard::new(MARGINS);
    let chat = shard.chat("a");
    let good = fake_intent(chat, 0, None, 1);
    let refused = |shard: &mut Shard, now, i: &EpochIntent| {
        let reply = shard.apply(now, Command::EpochIntent(i.clone()));
        assert!(matches!(reply, Reply::Invalid { .. }), "{reply:?}");
    };
    refused(&mut shard, 20, &good); // no session was committed
    shard.sessions();
    let mut bad = good.clone();
    bad.policy.0[0] ^= 1;
    refused(&mut shard, 20, &bad);
    let mut bad = good.clone();
    bad.leaves.swap(0, 1);
    refused(&mut shard, 20, &bad);
    let mut bad = good.clone();
    bad.leaves[1].sealed = bad.leaves[0].sealed.clone(); // another custodian's session
    refused(&mut shard, 20, &bad);
    let mut bad = good.clone();
    bad.leaves.iter_mut().skip(2).for_each(|l| l.sealed = None);
    refused(&mut shard, 20, &bad);
    let before = shard.kv.clone();
    refused(&mut shard, SESSION_EXPIRES_MS, &good);
    assert_eq!(read::pending_intents(&before, None, 10).unwrap(), vec![]);
}

#[test]
fn an_epoch_opens_with_its_margin_or_thin_when_waited() {
    let mut shard = Shard::new(MARGINS);
    let chat = shard.chat("a");
    shard.sessions();
    let intent = fake_intent(chat, 0, None, 1);
    let key = KeyRef {
        chat,
        key_id: intent.key_id,
    };
    shard.apply(20, Command::EpochIntent(intent));
    let mut acks = |names: &[&str], waited| {
        let names: Vec<_> = names.iter().map(|n| id(n)).collect();
        match shard.apply(30, Command::EpochAcks(vec![ack(key, &names, waited)])) {
            Reply::Acks(states) => (states[0], shard.clone()),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(acks(&["ch", "is"], false).0, DealingState::Intent);
    assert_eq!(acks(&["ch", "is"], true).0, DealingState::Intent);
    // de and nl count once: three, without margin.
    assert_eq!(acks(&["de", "nl"], false).0, DealingState::Intent);
    let (state, thin) = acks(&[], true);
    assert_eq!(state, DealingState::Open { thin: true });
    assert_eq!(read::thin_epochs(&thin.kv, 9).unwrap(), vec![(chat, 0)]);
    assert!(
        read::chat(&thin.kv, &chat)
            .unwrap()
            .unwrap()
            .open
            .unwrap()
            .thin
    );
    // Delivery goes on, and the margin comes back.
    let (state, full) = acks(&["sg"], false);
    assert_eq!(state, DealingState::Open { thin: false });
    assert_eq!(read::thin_epochs(&full.kv, 9).unwrap(), vec![]);
    assert!(
        !read::chat(&full.kv, &chat)
            .unwrap()
            .unwrap()
            .open
            .unwrap()
            .thin
    );
    let meta = read::meta(&full.kv).unwrap();
    assert_eq!((meta.thin, meta.outbox, meta.epochs), (0, 1, 1));
    assert_eq!(read::outbox(&full.kv, &id("br"), None, 9).unwrap().len(), 1);
    assert_eq!(read::outbox(&full.kv, &id("sg"), None, 9).unwrap().len(), 0);
}

#[test]
fn a_required_margin_never_opens_thin() {
    let mut shard = Shard::new(Margins {
        write_margin: 1,
        require_margin: true,
    });
    let chat = shard.chat("a");
    shard.sessions();
    let intent = fake_intent(chat, 0, None, 1);
    let key = KeyRef {
        chat,
        key_id: intent.key_id,
    };
    shard.apply(20, Command::EpochIntent(intent));
    let three = [id("ch"), id("is"), id("sg")];
    let reply = shard.apply(30, Command::EpochAcks(vec![ack(key, &three, true)]));
    assert_eq!(reply, Reply::Acks(vec![DealingState::Intent]));
    let reply = shard.apply(31, Command::EpochAcks(vec![ack(key, &[id("br")], false)]));
    assert_eq!(reply, Reply::Acks(vec![DealingState::Open { thin: false }]));
}

#[test]
fn abandoning_is_for_intents_only_and_leaves_a_tombstone() {
    let mut shard = Shard::new(MARGINS);
    let chat = shard.chat("a");
    shard.sessions();
    let intent = fake_intent(chat, 0, None, 1);
    let key = KeyRef {
        chat,
        key_id: intent.key_id,
    };
    shard.apply(20, Command::EpochIntent(intent.clone()));
    assert_eq!(shard.apply(21, Command::Abandon(key)), Reply::Done);
    assert_eq!(shard.apply(22, Command::Abandon(key)), Reply::Done);
    assert_eq!(read::meta(&shard.kv).unwrap().outbox, 0);
    assert_eq!(read::abandoned(&shard.kv, &id("ch"), 9).unwrap(), vec![key]);
    shard.apply(22, Command::AbandonAcks(vec![(id("ch"), key.key_id)]));
    assert_eq!(read::abandoned(&shard.kv, &id("ch"), 9).unwrap(), vec![]);
    // The key id is spent, for ever; the epoch's number is not.
    let again = shard.apply(23, Command::EpochIntent(intent));
    assert_eq!(conflict_of(again).0, ConflictWhy::Intent);
    let all: Vec<_> = policy().custodians().into_iter().collect();
    let late = shard.apply(24, Command::EpochAcks(vec![ack(key, &all, true)]));
    assert_eq!(late, Reply::Acks(vec![DealingState::Abandoned]));
    let second = shard.open(25, chat, 2);
    assert_eq!(
        read::chat(&shard.kv, &chat).unwrap().unwrap().last,
        Some((0, KeyId([2; 16])))
    );
    let open = shard.apply(26, Command::Abandon(second));
    assert_eq!(conflict_of(open).0, ConflictWhy::AlreadyOpen);
    let late = shard.apply(27, Command::EpochAcks(vec![ack(key, &all, true)]));
    assert_eq!(late, Reply::Acks(vec![DealingState::Abandoned]));
}

#[test]
fn a_refused_share_is_a_lost_margin_until_it_is_acknowledged() {
    let mut shard = Shard::new(MARGINS);
    let chat = shard.chat("a");
    shard.sessions();
    let intent = fake_intent(chat, 0, None, 1);
    let key = KeyRef {
        chat,
        key_id: intent.key_id,
    };
    shard.apply(20, Command::EpochIntent(intent));
    let mut refused = ack(key, &[id("is"), id("sg"), id("br")], true);
    refused.lost = vec![(id("ch"), StoreOutcome::BadShare)];
    let reply = shard.apply(30, Command::EpochAcks(vec![refused]));
    assert_eq!(reply, Reply::Acks(vec![DealingState::Open { thin: true }]));
    let row = read::epoch(&shard.kv, &chat, 0).unwrap().unwrap();
    let ch = row.leaves.iter().find(|l| l.custodian == id("ch")).unwrap();
    assert_eq!(ch.state, LeafState::Refused(StoreOutcome::BadShare));
    let meta = read::meta(&shard.kv).unwrap();
    assert_eq!((meta.outbox, meta.lost, meta.thin), (2, 1, 1));
}

#[test]
fn undelivered_shares_go_when_their_session_expires() {
    let mut shard = Shard::new(MARGINS);
    let chat = shard.chat("a");
    shard.sessions();
    let intent = fake_intent(chat, 0, None, 1);
    let key = KeyRef {
        chat,
        key_id: intent.key_id,
    };
    shard.apply(20, Command::EpochIntent(intent));
    let three = [id("ch"), id("is"), id("sg")];
    shard.apply(30, Command::EpochAcks(vec![ack(key, &three, true)]));
    assert_eq!(shard.apply(SESSION_EXPIRES_MS, Command::Sweep), Reply::Done);
    let meta = read::meta(&shard.kv).unwrap();
    assert_eq!((meta.outbox, meta.lost, meta.thin), (0, 3, 1));
    assert_eq!(
        read::session(&shard.kv, &session_id(&id("br"))).unwrap(),
        None
    );
    let row = read::epoch(&shard.kv, &chat, 0).unwrap().unwrap();
    let expired = row.leaves.iter().filter(|l| l.state == LeafState::Expired);
    assert_eq!(expired.count(), 3);
}

#[test]
fn writes_are_all_or_none_and_need_the_next_id_and_the_open_key() {
    let (mut shard, key) = ready();
    let before = shard.kv.clone();
    let wrong_id = write(key, 5, vec![record(5, "x", 1)]);
    assert_eq!(
        conflict_of(shard.apply(30, wrong_id)),
        (ConflictWhy::NextId, 1)
    );
    let mut other = key;
    other.key_id.0[0] ^= 1;
    let wrong_key = write(other, 1, vec![record(1, "x", 1)]);
    assert_eq!(
        conflict_of(shard.apply(30, wrong_key)).0,
        ConflictWhy::NotOpen
    );
    let twice = write(key, 1, vec![record(1, "x", 1), record(2, "x", 2)]);
    assert_eq!(conflict_of(shard.apply(30, twice)).0, ConflictWhy::Repeats);
    let mut kind = record(1, "x", 1);
    kind.kind = crate::crypto::message::RecordKind::Profile;
    let reply = shard.apply(30, write(key, 1, vec![kind]));
    assert!(matches!(reply, Reply::Invalid { .. }));
    assert_eq!(
        read::page(&before, &key.chat, 0, 9),
        read::page(&shard.kv, &key.chat, 0, 9)
    );
    let ok = shard.apply(
        31,
        write(key, 1, vec![record(1, "x", 1), record(2, "y", 2)]),
    );
    assert_eq!(
        written(ok),
        vec![(1, 0, 31, Repeat::First), (2, 0, 31, Repeat::First)]
    );
    let ids: Vec<u64> = read::page(&shard.kv, &key.chat, 1, 9)
        .unwrap()
        .iter()
        .map(|r| r.0)
        .collect();
    assert_eq!(ids, vec![1, 2]);
}

#[test]
fn a_repetition_gets_the_first_result_whatever_happened_since() {
    let (mut shard, key) = ready();
    shard.apply(30, write(key, 1, vec![record(1, "x", 1)]));
    let same = shard.apply(31, write(key, 1, vec![record(1, "x", 1)]));
    assert_eq!(written(same), vec![(1, 0, 30, Repeat::Same)]);
    let mismatch = shard.apply(32, write(key, 2, vec![record(2, "x", 9)]));
    assert_eq!(written(mismatch), vec![(1, 0, 30, Repeat::Mismatch)]);
    // Partly repeated: the caller leaves those out.
    let partly = write(key, 2, vec![record(2, "x", 1), record(3, "z", 3)]);
    assert_eq!(conflict_of(shard.apply(33, partly)).0, ConflictWhy::Repeats);
    // Under the next epoch's key, even though that write names a closed epoch's.
    let next = shard.open(40, key.chat, 2);
    let elsewhere = shard.apply(41, write(next, 2, vec![record(2, "x", 7)]));
    let first = Repeat::Elsewhere {
        key_id: key.key_id,
        digest: [1; 32],
    };
    assert_eq!(written(elsewhere), vec![(1, 0, 30, first)]);
    let old = shard.apply(42, write(key, 2, vec![record(2, "x", 1)]));
    assert_eq!(written(old), vec![(1, 0, 30, Repeat::Same)]);
    // Forgotten after seven days of entry time, and the row is swept.
    let later = 30 + IDEMPOTENCY_MS_MAX;
    shard.apply(later, Command::Sweep);
    assert_eq!(
        read::first_result(&shard.kv, &key.chat, "phone", "x").unwrap(),
        None
    );
    assert!(
        shard
            .kv
            .0
            .keys()
            .all(|k| k[0] != crate::home::rows::table::IDEMPOTENCY_TIME)
    );
}

#[test]
fn an_edit_needs_the_revision_and_is_sealed_under_the_open_key() {
    let (mut shard, key) = ready();
    shard.apply(30, write(key, 1, vec![record(1, "x", 1)]));
    let next = shard.open(40, key.chat, 2);
    let edit = |key, message, revision, idem: &str, content| {
        Command::EditMessage(EditMessage {
            key,
            message,
            revision,
            record: record(message, idem, content),
        })
    };
    assert_eq!(
        conflict_of(shard.apply(50, edit(key, 1, 0, "e", 5))).0,
        ConflictWhy::NotOpen
    );
    assert_eq!(shard.apply(50, edit(next, 9, 0, "e", 5)), Reply::NotFound);
    let ok = shard.apply(50, edit(next, 1, 0, "e", 5));
    assert_eq!(written(ok), vec![(1, 1, 50, Repeat::First)]);
    let again = shard.apply(51, edit(next, 1, 0, "e", 5));
    assert_eq!(written(again), vec![(1, 1, 50, Repeat::Same)]);
    let stale = shard.apply(52, edit(next, 1, 0, "f", 6));
    assert_eq!(stale, Reply::RevisionMismatch { current: 1 });
    let row = read::record(&shard.kv, &key.chat, 1).unwrap().unwrap();
    assert_eq!(
        (row.sent_ms, row.edited_ms, row.key_id),
        (30, Some(50), next.key_id)
    );
    assert_eq!((row.revision, row.epoch), (1, 1));
}

#[test]
fn an_epoch_closes_when_full_or_old_or_told() {
    let (mut shard, key) = ready();
    let mut next = 1;
    while next + 1000 < u64::from(EPOCH_RECORDS_MAX) {
        let batch = (next..next + 1000)
            .map(|i| record(i, &format!("m{i}"), 1))
            .collect();
        assert!(matches!(
            shard.apply(30, write(key, next, batch)),
            Reply::Written(_)
        ));
        next += 1000;
    }
    let rest = u64::from(EPOCH_RECORDS_MAX) - next;
    let over = (next..=next + rest)
        .map(|i| record(i, &format!("m{i}"), 1))
        .collect();
    assert_eq!(
        conflict_of(shard.apply(30, write(key, next, over))).0,
        ConflictWhy::EpochFull
    );
    let fits = (next..next + rest)
        .map(|i| record(i, &format!("m{i}"), 1))
        .collect();
    assert!(matches!(
        shard.apply(30, write(key, next, fits)),
        Reply::Written(_)
    ));
    let next = next + rest;
    let second = shard.open(40, key.chat, 2);
    assert_eq!(
        read::epoch(&shard.kv, &key.chat, 0)
            .unwrap()
            .unwrap()
            .closed_ms,
        Some(40)
    );
    let old = write(second, next, vec![record(next, "old", 1)]);
    let at = 40 + EPOCH_AGE_MS_MAX;
    assert_eq!(conflict_of(shard.apply(at, old)).0, ConflictWhy::EpochOld);
    assert_eq!(shard.apply(at, Command::CloseEpoch(second)), Reply::Done);
    assert_eq!(shard.apply(at, Command::CloseEpoch(second)), Reply::Done);
    let closed = write(second, next, vec![record(next, "closed", 1)]);
    assert_eq!(conflict_of(shard.apply(at, closed)).0, ConflictWhy::NotOpen);
}

#[test]
fn entry_time_never_runs_backwards() {
    let (mut shard, key) = ready();
    shard.apply(1000, write(key, 1, vec![record(1, "x", 1)]));
    let back = shard.apply(5, write(key, 2, vec![record(2, "y", 1)]));
    assert_eq!(written(back), vec![(2, 0, 1000, Repeat::First)]);
}

#[test]
fn receipts_are_journalled() {
    let mut shard = Shard::new(MARGINS);
    let receipt = Receipt {
        custodian: id("ch"),
        entry: 7,
        leaf: [1; 32],
        time_ms: 50,
        request: RequestId([3; 16]),
        signature: vec![1; 64],
    };
    shard.apply(60, Command::Journal(vec![receipt.clone()]));
    shard.apply(60, Command::Journal(vec![receipt.clone()]));
    assert_eq!(read::receipts(&shard.kv, 9).unwrap(), vec![receipt]);
}

#[test]
fn hostile_bytes_are_answered_not_panicked_over() {
    let mut kv = MemKv::default();
    for bytes in [&b""[..], b"\x00", b"\x01\xfd", &[1; 40], &[255; 400]] {
        let reply = HomeMachine
            .apply(&mut kv, Position::default(), bytes)
            .unwrap();
        let reply = Reply::decode(&reply).unwrap();
        assert!(
            matches!(reply, Reply::Invalid { .. }),
            "{bytes:?}: {reply:?}"
        );
    }
    assert_eq!(kv, MemKv::default());
}
