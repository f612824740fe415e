//! Deletion statements, as a shard keeps them.

use super::fixtures::*;
use crate::authz::deletion::{Deletion, MANDATE_LIFE_MS, Whose};
use crate::authz::identity::device_id;
use crate::authz::membership::{ChatChange, ChatPayload, ChatStatement as Statement};
use crate::authz::standing::Role;
use crate::home::command::{Command, EditMessage, RecordDeletion, Reply};
use crate::home::{DELETIONS_MAX, read};
use crate::types::{ChatId, HomeId, Nonce, StatementHash, WallMs};
use std::collections::BTreeSet;

const NOW: WallMs = 1_000;

/// A chat of account 1 with messages 1 and 2 in epoch 0 and message 3 in epoch 1. 2 is "tablet"'s.
fn written() -> (Shard, ChatId) {
    let mut shard = Shard::new(MARGINS);
    shard.sessions();
    let chat = shard.chat("a");
    let first = shard.open(NOW, chat, 1);
    let mut records: Vec<_> = (0..3).map(|n| record(n, &format!("k{n}"), 1)).collect();
    records[2].device = "tablet".into();
    shard.apply(NOW, write(first, 0, records));
    shard.apply(NOW, Command::CloseEpoch(first));
    let second = shard.open(NOW, chat, 2);
    shard.apply(NOW, write(second, 3, vec![record(3, "k3", 1)]));
    assert_eq!(read::chat(&shard.kv, &chat).unwrap().unwrap().next, 4);
    (shard, chat)
}

fn good(chat: ChatId, by: u8) -> Deletion {
    Deletion {
        deployment: DEPLOYMENT,
        home: HomeId::new("ae").unwrap(),
        chat,
        account: account(by),
        device: device_id(&public(by)),
        whose: Whose::Own,
        messages: vec![1, 3],
        epochs: vec![0, 1],
        at_ms: NOW,
        nonce: Nonce([1; 16]),
    }
}

fn recorded(d: &Deletion, by: u8) -> RecordDeletion {
    RecordDeletion {
        deployment: DEPLOYMENT,
        home: HomeId::new("ae").unwrap(),
        statement: d.sign(&signer(by)).unwrap(),
        account: account(by),
        device: public(by),
        own: BTreeSet::from(["phone".to_owned()]),
    }
}

fn tell(shard: &mut Shard, d: &Deletion, by: u8) -> Reply {
    shard.apply(NOW, Command::RecordDeletion(recorded(d, by)))
}

fn code(reply: Reply) -> String {
    match reply {
        Reply::Refused(why) => why.code,
        other => format!("{other:?}"),
    }
}

#[test]
fn a_statement_stands_once_and_changes_no_record() {
    let (mut shard, chat) = written();
    let before = shard.kv.clone();
    let d = good(chat, 1);
    let stands = |repeated| Reply::DeletionStands {
        at_ms: NOW,
        repeated,
    };
    assert_eq!(tell(&mut shard, &d, 1), stands(false));
    let after = shard.kv.clone();
    // Repeated, also when its mandate is long over.
    let late = Command::RecordDeletion(recorded(&d, 1));
    assert_eq!(shard.apply(NOW + 2 * MANDATE_LIFE_MS, late), stands(true));
    let id = StatementHash(recorded(&d, 1).statement.hash());
    let row = read::deletion(&shard.kv, &chat, &id).unwrap().unwrap();
    assert_eq!(row.statement, recorded(&d, 1).statement);
    let of = |kv: &crate::types::kv::MemKv| read::page(kv, &chat, 0, 10).unwrap();
    assert_eq!(of(&after), of(&before), "nothing is erased by it");
}

#[test]
fn who_may_not_delete_what_is_not_there_and_other_epochs_are_refused() {
    type Change = fn(&mut Deletion);
    let rows: [(&str, Change, &str); 10] = [
        (
            "another's message",
            |d| d.messages = vec![1, 2, 3],
            "role_missing",
        ),
        (
            "no such message",
            |d| d.messages = vec![1, 3, 9],
            "NotFound",
        ),
        ("too few epochs", |d| d.epochs = vec![0], "epochs"),
        ("more epochs", |d| d.epochs = vec![0, 1, 2], "epochs"),
        ("other epochs", |d| d.epochs = vec![5], "epochs"),
        ("no such chat", |d| d.chat = ChatId([9; 32]), "NotFound"),
        (
            "another home",
            |d| d.home = HomeId::new("zz").unwrap(),
            "other_home",
        ),
        (
            "tomorrow's",
            |d| d.at_ms += MANDATE_LIFE_MS,
            "not_yet_valid",
        ),
        (
            "another account's",
            |d| d.account = account(2),
            "device_unknown",
        ),
        (
            "another device's",
            |d| d.device = device_id(&public(2)),
            "device_unknown",
        ),
    ];
    for (what, change, why) in rows {
        let (mut shard, chat) = written();
        let mut d = good(chat, 1);
        change(&mut d);
        let before = shard.kv.clone();
        let mut c = recorded(&d, 1);
        c.account = account(1);
        let reply = shard.apply(NOW, Command::RecordDeletion(c));
        assert_eq!(code(reply), why, "{what}");
        assert_eq!(shard.kv, before, "{what}");
    }
    let (mut shard, chat) = written();
    let mut forged = recorded(&good(chat, 1), 1);
    forged.statement = good(chat, 1).sign(&signer(2)).unwrap();
    let reply = shard.apply(NOW, Command::RecordDeletion(forged));
    assert_eq!(code(reply), "signature");
    let mut bent = recorded(&good(chat, 1), 1);
    bent.statement.payload = bent.statement.payload.replace("[1,3]", "[3,1]");
    let reply = shard.apply(NOW, Command::RecordDeletion(bent));
    assert_eq!(code(reply), "form");
    // Somebody who is not in the chat; and a member, of others' messages, whom an admin may delete.
    assert_eq!(code(tell(&mut shard, &good(chat, 2), 2)), "not_member");
    let anyone = Deletion {
        whose: Whose::Anyone,
        messages: vec![1, 2],
        epochs: vec![0],
        ..good(chat, 2)
    };
    add(&mut shard, chat, 2, Role::Member);
    assert_eq!(code(tell(&mut shard, &anyone, 2)), "role_missing");
    let creators = Deletion {
        account: account(1),
        device: device_id(&public(1)),
        ..anyone
    };
    let reply = tell(&mut shard, &creators, 1);
    assert!(matches!(reply, Reply::DeletionStands { .. }), "{reply:?}");
    // A newcomer does not reach epochs before it.
    let early = Deletion {
        messages: vec![1],
        epochs: vec![0],
        ..good(chat, 2)
    };
    assert_eq!(code(tell(&mut shard, &early, 2)), "epoch_before_membership");
    // An edit moves the record to the open epoch: the statement must name that one.
    let (mut shard, chat) = written();
    let open = read::chat(&shard.kv, &chat).unwrap().unwrap().open.unwrap();
    let key_id = open.key_id;
    let edit = EditMessage {
        key: crate::custody::protocol::KeyRef { chat, key_id },
        message: 1,
        revision: 0,
        record: record(1, "edit", 2),
    };
    shard.apply(NOW, Command::EditMessage(edit));
    assert_eq!(code(tell(&mut shard, &good(chat, 1), 1)), "epochs");
    let moved = Deletion {
        epochs: vec![1],
        ..good(chat, 1)
    };
    let reply = tell(&mut shard, &moved, 1);
    assert!(matches!(reply, Reply::DeletionStands { .. }), "{reply:?}");
}

fn add(shard: &mut Shard, chat: ChatId, who: u8, role: Role) {
    let head = read::chat(&shard.kv, &chat).unwrap().unwrap().head.head;
    let payload = ChatPayload::Statement(Statement {
        chat,
        number: head.number + 1,
        previous: head.hash,
        at_ms: NOW,
        account: account(1),
        device: device_id(&public(1)),
        change: ChatChange::Add {
            account: account(who),
            role,
            from_epoch: 1,
        },
    });
    let reply = shard.apply(NOW, Command::ChatStatement(says(1, &payload)));
    assert!(matches!(reply, Reply::Chained { .. }), "{reply:?}");
}

#[test]
fn so_many_wait_and_no_more() {
    let (mut shard, chat) = written();
    for n in 0..DELETIONS_MAX {
        let mut nonce = [0; 16];
        nonce[..4].copy_from_slice(&n.to_be_bytes());
        let d = Deletion {
            nonce: Nonce(nonce),
            ..good(chat, 1)
        };
        let reply = tell(&mut shard, &d, 1);
        assert!(
            matches!(reply, Reply::DeletionStands { .. }),
            "{n}: {reply:?}"
        );
    }
    assert_eq!(code(tell(&mut shard, &good(chat, 1), 1)), "deletions");
}
