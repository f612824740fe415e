//! Chats' chains of statements, as a shard keeps them.

use super::fixtures::*;
use crate::authz::identity::device_id;
use crate::authz::membership::{
    ChatChange, ChatGenesis, ChatPayload, ChatStatement as Statement, Invite, Member,
};
use crate::authz::standing::Role;
use crate::home::command::{ChatStatement, Command, Proposal, Reply, UndoStatement};
use crate::home::{read, rows};
use crate::types::{AccountId, ChatId, DeploymentId, Nonce, StatementHash, WallMs};

const NOW: WallMs = 1_000;

/// What account `by` says next in a chat, as its leader proposes it.
fn next(shard: &Shard, chat: ChatId, by: u8, change: ChatChange) -> ChatStatement {
    let head = read::chat(&shard.kv, &chat).unwrap().unwrap().head.head;
    at(chat, by, head.number + 1, head.hash, change)
}

fn at(
    chat: ChatId,
    by: u8,
    number: u64,
    previous: StatementHash,
    change: ChatChange,
) -> ChatStatement {
    let payload = ChatPayload::Statement(Statement {
        chat,
        number,
        previous,
        at_ms: NOW,
        account: account(by),
        device: device_id(&public(by)),
        change,
    });
    says(by, &payload)
}

fn add(who: u8) -> ChatChange {
    ChatChange::Add {
        account: account(who),
        role: Role::Member,
        from_epoch: 3,
    }
}

fn remove(who: u8) -> ChatChange {
    let account = account(who);
    ChatChange::Remove { account }
}

fn take(shard: &mut Shard, statement: &ChatStatement) -> Reply {
    shard.apply(NOW, Command::ChatStatement(statement.clone()))
}

fn refusal(reply: Reply) -> (String, Option<u64>) {
    match reply {
        Reply::Refused(why) => (why.code, why.have),
        other => panic!("{other:?}"),
    }
}

fn accounts(shard: &Shard, chat: ChatId) -> Vec<(AccountId, Member)> {
    read::members(&shard.kv, &chat, None, 100).unwrap()
}

fn listed(shard: &Shard, who: u8) -> Vec<ChatId> {
    let chats = read::chats_of(&shard.kv, &account(who), None, 100).unwrap();
    chats.into_iter().map(|(id, _)| id).collect()
}

#[test]
fn members_come_and_go_and_their_chats_are_listed() {
    let mut shard = Shard::new(MARGINS);
    let (a, b) = (shard.chat("a"), shard.chat("b"));
    assert_eq!(listed(&shard, 1).len(), 2);
    let statement = next(&shard, a, 1, add(2));
    let chained = |repeated| Reply::Chained {
        number: 1,
        hash: StatementHash(statement.statement.hash()),
        repeated,
    };
    assert_eq!(take(&mut shard, &statement), chained(false));
    let member = |role, from_epoch| Member { role, from_epoch };
    let both = [
        (account(1), member(Role::Creator, 0)),
        (account(2), member(Role::Member, 3)),
    ];
    assert_eq!(accounts(&shard, a), both);
    let page = read::members(&shard.kv, &a, Some(&account(1)), 1).unwrap();
    assert_eq!(page, both[1..]);
    assert_eq!(listed(&shard, 2), [a]);
    assert_eq!(accounts(&shard, b).len(), 1, "the other chat is as it was");

    // The reply was lost, and the client says it again, also after more was said.
    let before = shard.kv.clone();
    assert_eq!(take(&mut shard, &statement), chained(true));
    assert_eq!(shard.kv, before);
    let removal = next(&shard, a, 1, remove(2));
    assert!(matches!(
        take(&mut shard, &removal),
        Reply::Chained { number: 2, .. }
    ));
    assert_eq!(take(&mut shard, &statement), chained(true));
    assert_eq!(accounts(&shard, a), both[..1]);
    assert_eq!(listed(&shard, 2), []);

    let kept = read::statements(&shard.kv, &a, 1).unwrap();
    assert_eq!(kept, [statement.statement, removal.statement]);
    let all = read::statements(&shard.kv, &a, 0).unwrap();
    assert_eq!(all[0], genesis("a").statement);
    assert_eq!(read::statements(&shard.kv, &a, 3).unwrap(), []);
}

#[test]
fn what_is_not_the_next_statement_of_one_who_may_changes_nothing() {
    let mut shard = Shard::new(MARGINS);
    let chat = shard.chat("a");
    let head = read::chat(&shard.kv, &chat).unwrap().unwrap().head.head;
    let good = next(&shard, chat, 1, add(2));
    take(&mut shard, &good);
    let before = shard.kv.clone();
    let refused = |shard: &mut Shard, c: &ChatStatement| refusal(take(shard, c));

    let fork = at(chat, 1, 1, head.hash, add(3));
    assert_eq!(refused(&mut shard, &fork).0, "fork");
    let ahead = at(chat, 1, 5, StatementHash([9; 32]), add(3));
    assert_eq!(refused(&mut shard, &ahead), ("behind".into(), Some(1)));
    let by_member = next(&shard, chat, 2, add(3));
    assert_eq!(refused(&mut shard, &by_member).0, "role");
    let by_stranger = next(&shard, chat, 4, add(3));
    assert_eq!(refused(&mut shard, &by_stranger).0, "not_a_member");
    // The leader asked about another device than the one that signs, or about another account.
    let mut other = next(&shard, chat, 1, add(3));
    other.device = public(2);
    assert_eq!(refused(&mut shard, &other).0, "device");
    let mut other = next(&shard, chat, 1, add(3));
    other.account = account(2);
    assert_eq!(refused(&mut shard, &other).0, "device");
    let mut other = next(&shard, chat, 1, add(3));
    other.deployment = DeploymentId([1; 16]);
    assert_eq!(refused(&mut shard, &other).0, "envelope");
    let mut unsigned = next(&shard, chat, 1, add(3));
    let (meant, put) = (account(3).to_string(), account(4).to_string());
    unsigned.statement.payload = unsigned.statement.payload.replace(&meant, &put);
    assert_eq!(refused(&mut shard, &unsigned).0, "envelope");
    assert_eq!(refused(&mut shard, &genesis("a")).0, "wrong_kind");
    let mut nowhere = good.clone();
    nowhere.statement.payload = nowhere
        .statement
        .payload
        .replace(&chat.to_string(), &"ab".repeat(32));
    assert_eq!(take(&mut shard, &nowhere), Reply::NotFound);
    assert_eq!(shard.kv, before);
    // The control: the next one of one who may.
    let good = next(&shard, chat, 1, add(3));
    assert!(matches!(
        take(&mut shard, &good),
        Reply::Chained { number: 2, .. }
    ));
}

#[test]
fn a_genesis_that_does_not_hold_founds_nothing() {
    let mut shard = Shard::new(MARGINS);
    let before = shard.kv.clone();
    let mut forged = genesis("a");
    forged.device = public(2);
    let reply = shard.apply(1, Command::CreateChat(forged));
    assert_eq!(refusal(reply).0, "device");
    let later = at(genesis("a").chat(), 1, 1, StatementHash([0; 32]), add(2));
    let reply = shard.apply(1, Command::CreateChat(later));
    assert_eq!(refusal(reply).0, "wrong_kind");
    assert_eq!(shard.kv, before);
    assert_eq!(shard.chat("a"), genesis("a").chat());
}

#[test]
fn a_join_in_a_chat_of_ten_thousand_is_one_small_entry() {
    let mut shard = Shard::new(MARGINS);
    let payload = ChatPayload::Genesis(ChatGenesis {
        deployment: DEPLOYMENT,
        creator: account(1),
        device: device_id(&public(1)),
        public: true,
        created_ms: 1,
        nonce: Nonce([1; 16]),
    });
    let founding = says(1, &payload);
    let chat = founding.chat();
    shard.apply(1, Command::CreateChat(founding));
    let mut row = read::chat(&shard.kv, &chat).unwrap().unwrap();
    for n in 0..10_000u32 {
        let mut id = [200; 32];
        id[..4].copy_from_slice(&n.to_be_bytes());
        let who = AccountId(id);
        let member = Member {
            role: Role::Member,
            from_epoch: 0,
        };
        rows::put(&mut shard.kv, &rows::member_key(&chat, &who), &member).unwrap();
    }
    row.head.members += 10_000;
    rows::put(&mut shard.kv, &rows::chat_key(&chat), &row).unwrap();

    let before = shard.kv.clone();
    let join = ChatChange::Join {
        invite: None,
        from_epoch: 7,
    };
    let command = Command::ChatStatement(next(&shard, chat, 2, join));
    let entry = Proposal {
        now_ms: NOW,
        command: command.clone(),
    };
    assert!(entry.encode().len() < 2_048);
    assert!(matches!(shard.apply(NOW, command), Reply::Chained { .. }));
    let written = |(key, value): &(&Vec<u8>, &Vec<u8>)| before.0.get(*key) != Some(*value);
    let changed: Vec<_> = shard.kv.0.iter().filter(written).collect();
    assert!(changed.len() <= 6, "{} rows", changed.len());
    let bytes: usize = changed.iter().map(|(k, v)| k.len() + v.len()).sum();
    assert!(bytes < 4_096, "{bytes} bytes");
    assert_eq!(listed(&shard, 2), [chat]);
}

#[test]
fn an_invite_is_used_up() {
    let mut shard = Shard::new(MARGINS);
    let chat = shard.chat("a");
    let invite = Invite {
        from_epoch: 0,
        expires_ms: NOW + 1_000,
        uses: 1,
    };
    let key = public(9);
    let invited = next(&shard, chat, 1, ChatChange::Invite { key, invite });
    take(&mut shard, &invited);
    let join = |shard: &Shard, by: u8| {
        let change = ChatChange::Join {
            invite: Some(key),
            from_epoch: 0,
        };
        let mut join = next(shard, chat, by, change);
        let label = crate::crypto::labels::SIGN_MEMBERSHIP;
        join.statement.add(label, &DEPLOYMENT, &signer(9));
        join
    };
    let first = join(&shard, 2);
    assert!(matches!(take(&mut shard, &first), Reply::Chained { .. }));
    let second = join(&shard, 3);
    assert_eq!(refusal(take(&mut shard, &second)).0, "invite");
    assert_eq!(accounts(&shard, chat).len(), 2);
}

#[test]
fn the_newest_statement_alone_is_taken_back() {
    let mut shard = Shard::new(MARGINS);
    let chat = shard.chat("a");
    let first = next(&shard, chat, 1, add(2));
    take(&mut shard, &first);
    let before = shard.kv.clone();
    let removal = next(&shard, chat, 1, remove(2));
    take(&mut shard, &removal);
    let undo = |shard: &mut Shard, number, of: &ChatStatement| {
        let undo = UndoStatement {
            chat,
            number,
            hash: StatementHash(of.statement.hash()),
        };
        shard.apply(NOW, Command::UndoStatement(undo))
    };
    let refused = |reply: Reply| assert!(matches!(reply, Reply::Invalid { .. }), "{reply:?}");
    refused(undo(&mut shard, 1, &first));
    refused(undo(&mut shard, 2, &first));
    assert_eq!(listed(&shard, 2), []);
    assert_eq!(undo(&mut shard, 2, &removal), Reply::Done);
    assert_eq!(listed(&shard, 2), [chat]);
    let rows_of = |kv: &crate::types::kv::MemKv| {
        let mut rows = kv.0.clone();
        rows.remove(&rows::undo_key(&chat));
        rows
    };
    assert_eq!(rows_of(&shard.kv), rows_of(&before), "as if never said");
    // Told again, or about the one before it, of which nothing is kept.
    refused(undo(&mut shard, 2, &removal));
    refused(undo(&mut shard, 1, &first));
    let other = next(&shard, chat, 1, add(3));
    assert!(matches!(
        take(&mut shard, &other),
        Reply::Chained { number: 2, .. }
    ));
}
