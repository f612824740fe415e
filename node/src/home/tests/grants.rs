//! Who is let in and under which grant; statements on their way to custodians.

use super::people::{ANNA, BORIS, Person, chat_named};
use super::world::{Mode, World, append, caller, content, id, policy, wall};
use crate::home::api::{Caller, HomeApi, HomeError, HomeResult};
use quorate_engine::api::registry::Statement;
use quorate_engine::api::{ChatHead, Edit, StatementAcks};
use quorate_engine::authz::envelope::Envelope;
use quorate_engine::authz::grant::{Action, Claims, Grant, GrantRefusal};
use quorate_engine::authz::membership::{ChatChange, Invite};
use quorate_engine::authz::standing::{DeviceStanding, Role};
use quorate_engine::crypto::sign::SigningKey;
use quorate_engine::custody::protocol::Refusal;
use quorate_engine::home::read;
use quorate_engine::types::{ChatId, DeploymentId, EpochNo, HomeId, PublicKey, RequestId, Secret};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A chat of Anna's with one message, its key leased.
async fn ready() -> (World, ChatId) {
    let w = World::new();
    let chat = w.chat("a").await;
    let written = w.home().append(caller(), chat, append(&["x"]));
    written.await.unwrap();
    (w, chat)
}

fn why<T: std::fmt::Debug>(result: Result<T, HomeError>) -> GrantRefusal {
    match result {
        Err(HomeError::Denied { why, .. }) => why,
        other => panic!("{other:?}"),
    }
}

fn releases(w: &World) -> u64 {
    let custodians = policy().custodians();
    custodians.iter().map(|c| w.net.get(c).releases).sum()
}

fn add(who: Person, from_epoch: EpochNo) -> ChatChange {
    ChatChange::Add {
        account: who.account(),
        role: Role::Member,
        from_epoch,
    }
}

/// The next statement of a chat as this home has it.
fn next(w: &World, by: Person, chat: ChatId, change: ChatChange) -> Envelope {
    let shard = w.home().core.shard(&chat);
    let row = shard.view(|kv| read::chat(kv, &chat)).unwrap().unwrap();
    let head = row.head.head;
    by.says(chat, head.number + 1, head.hash, change)
}

async fn say(
    w: &World,
    by: Person,
    chat: ChatId,
    statement: Envelope,
) -> Result<StatementAcks, HomeError> {
    let said = w.homes[1].chat_statement(by.calls(&[]), chat, Statement::from(&statement));
    said.await.map(|at| at.value)
}

/// Changes one thing about a grant that would do.
type Spoil = fn(&mut Claims);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_refusal_of_a_grant_beside_the_one_that_is_accepted() {
    let (w, chat) = ready().await;
    let before = releases(&w);
    let read = |claims: Claims| w.homes[1].message(ANNA.shows(claims), chat, 1);
    let cases: [(Spoil, GrantRefusal); 8] = [
        (
            |c| (c.not_before_s, c.expires_s) = (c.not_before_s - 800, c.not_before_s),
            GrantRefusal::Expired,
        ),
        (
            |c| (c.not_before_s, c.expires_s) = (c.expires_s, c.expires_s + 60),
            GrantRefusal::NotYetValid,
        ),
        (
            |c| c.home = HomeId::new("zz").unwrap(),
            GrantRefusal::OtherHome,
        ),
        (
            |c| c.deployment = DeploymentId([6; 16]),
            GrantRefusal::OtherDeployment,
        ),
        (
            |c| c.chats[0].chat = chat_named("b"),
            GrantRefusal::ChatNotGranted,
        ),
        (|c| c.chats.clear(), GrantRefusal::ChatNotGranted),
        (|c| c.chats[0].from = 1, GrantRefusal::EpochBeforeRange),
        (|c| c.account = BORIS.account(), GrantRefusal::DeviceUnknown),
    ];
    for (spoil, refusal) in cases {
        let good = ANNA.claims(&[chat]);
        let mut bad = good.clone();
        spoil(&mut bad);
        assert_eq!(why(read(bad).await), refusal);
        assert_eq!(read(good).await.unwrap().value.content, content("x"));
    }
    let malformed = Caller {
        grant: "not.a.grant".into(),
        request: RequestId([1; 16]),
    };
    let refused = w.home().message(malformed, chat, 1).await;
    assert_eq!(why(refused), GrantRefusal::NotBase64url);
    // Boris's key under Anna's name.
    let forger = SigningKey::from_seed(&Secret::from_slice(&[BORIS.0; 32]).unwrap());
    let forged = Grant::sign(ANNA.device(), &forger, ANNA.claims(&[chat])).unwrap();
    let forged = Caller {
        grant: forged.compact().to_owned(),
        request: RequestId([1; 16]),
    };
    let refused = w.home().message(forged, chat, 1).await;
    assert_eq!(why(refused), GrantRefusal::Signature);
    let stranger = w.home().message(Person(9).calls(&[chat]), chat, 1).await;
    assert_eq!(why(stranger), GrantRefusal::DeviceUnknown);
    let outsider = w.home().message(BORIS.calls(&[chat]), chat, 1).await;
    assert_eq!(why(outsider), GrantRefusal::NotMember);
    assert_eq!(releases(&w), before, "all of it under a lease");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_operation_looks_at_the_grant() {
    let (w, chat) = ready().await;
    let home = w.home();
    let reads = |c: &Caller| {
        let c = c.clone();
        async move {
            let message = home.message(c.clone(), chat, 0).await.map(drop);
            let page = home.page(c.clone(), chat, 1, 9).await.map(drop);
            let shown = home.chat(c.clone(), chat, true).await.map(drop);
            let members = home.members(c, chat, None, 9).await.map(drop);
            [message, page, shown, members]
        }
    };
    let edit = |text: &str| Edit {
        idempotency_key: format!("e-{text}"),
        content: content(text),
    };
    let mut claims = ANNA.claims(&[chat]);
    claims.actions = vec![Action::Read];
    let reader = ANNA.shows(claims);
    for result in reads(&reader).await {
        result.unwrap();
    }
    let refused = home.append(reader.clone(), chat, append(&["y"])).await;
    assert_eq!(why(refused), GrantRefusal::ActionNotGranted);
    let refused = home.edit(reader, chat, 1, 0, edit("y")).await;
    assert_eq!(why(refused), GrantRefusal::ActionNotGranted);
    let outsider = BORIS.calls(&[chat]);
    for result in reads(&outsider).await {
        assert_eq!(why(result), GrantRefusal::NotMember);
    }
    let refused = home.append(outsider.clone(), chat, append(&["y"])).await;
    assert_eq!(why(refused), GrantRefusal::NotMember);
    let refused = home.edit(outsider, chat, 1, 0, edit("y")).await;
    assert_eq!(why(refused), GrantRefusal::NotMember);
    // A range that ends before the open epoch writes nothing, and opens no epoch either.
    let mut claims = ANNA.claims(&[chat]);
    claims.chats[0].from = 7;
    let elsewhere = ANNA.shows(claims);
    let refused = home.append(elsewhere.clone(), chat, append(&["y"])).await;
    assert_eq!(why(refused), GrantRefusal::EpochBeforeRange);
    let refused = home.edit(elsewhere, chat, 1, 0, edit("y")).await;
    assert_eq!(why(refused), GrantRefusal::EpochBeforeRange);
    let shown = home.chat(caller(), chat, false).await.unwrap().value;
    assert_eq!((shown.messages, shown.epochs), (1, 1));
    // The control.
    home.edit(caller(), chat, 1, 0, edit("y")).await.unwrap();
    home.append(caller(), chat, append(&["y"])).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revoked_device_and_a_removed_member_are_refused_under_a_lease_too() {
    let (w, chat) = ready().await;
    let boris = BORIS.calls(&[chat]);
    let added = next(&w, ANNA, chat, add(BORIS, 0));
    let acks = say(&w, ANNA, chat, added).await.unwrap();
    assert_eq!((acks.acks.len(), acks.refused.len()), (6, 0));
    assert!(acks.acks.iter().all(|a| a.number == 1));
    for home in &w.homes {
        let message = home.message(boris.clone(), chat, 1).await.unwrap();
        assert_eq!(message.value.content, content("x"));
    }
    let listed = w.home().list_chats(BORIS.calls(&[]), None, 9, false);
    assert_eq!(listed.await.unwrap().value.chats.len(), 1);
    let before = releases(&w);
    let account = BORIS.account();
    let removed = next(&w, ANNA, chat, ChatChange::Remove { account });
    say(&w, ANNA, chat, removed).await.unwrap();
    for home in &w.homes {
        let refused = home.message(boris.clone(), chat, 1).await;
        assert_eq!(why(refused), GrantRefusal::NotMember);
        assert!(home.message(caller(), chat, 1).await.is_ok());
    }
    let listed = w.home().list_chats(BORIS.calls(&[]), None, 9, false);
    assert_eq!(listed.await.unwrap().value.chats.len(), 0);

    for custodian in policy().custodians() {
        let mut custodian = w.net.get(&custodian);
        let device = custodian.registry.devices.get_mut(&ANNA.device());
        device.unwrap().1 = DeviceStanding::Revoked;
    }
    // Nothing passed through this home: as if the time of what it believes were over.
    w.home().core.directory.clear();
    let refused = w.home().message(caller(), chat, 1).await;
    assert_eq!(why(refused), GrantRefusal::DeviceRevoked);
    assert_eq!(releases(&w), before, "all of it under a lease");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_reads_from_its_first_epoch_on() {
    let (w, chat) = ready().await;
    let added = next(&w, ANNA, chat, add(BORIS, 1));
    say(&w, ANNA, chat, added).await.unwrap();
    let refused = w.home().message(BORIS.calls(&[chat]), chat, 1).await;
    assert_eq!(why(refused), GrantRefusal::EpochBeforeMembership);
    let carla = Person(3);
    let added = next(&w, ANNA, chat, add(carla, 0));
    say(&w, ANNA, chat, added).await.unwrap();
    let message = w.home().message(carla.calls(&[chat]), chat, 1).await;
    assert_eq!(message.unwrap().value.content, content("x"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_custodian_that_was_away_is_sent_what_it_lacks() {
    let (w, chat) = ready().await;
    w.net.set(&["sg"], Mode::Down);
    for person in [BORIS, Person(3)] {
        let added = next(&w, ANNA, chat, add(person, 0));
        let acks = say(&w, ANNA, chat, added).await.unwrap();
        assert_eq!((acks.acks.len(), acks.unreachable), (5, vec!["sg".into()]));
    }
    assert_eq!(w.net.get(&id("sg")).registry.number(&chat), Some(0));
    w.net.set(&["sg"], Mode::Honest);
    let added = next(&w, ANNA, chat, add(Person(4), 0));
    let acks = say(&w, ANNA, chat, added.clone()).await.unwrap();
    let numbers: Vec<u64> = acks.acks.iter().map(|a| a.number).collect();
    assert_eq!(numbers, [3; 6]);
    assert_eq!(w.net.get(&id("sg")).registry.number(&chat), Some(3));
    // Repeating is success, and another statement of a number is not passed on.
    let again = say(&w, ANNA, chat, added).await.unwrap();
    assert_eq!(again.acks.len(), 6);
    let shard = w.home().core.shard(&chat).clone();
    let kept = shard.view(|kv| read::statements(kv, &chat, 2)).unwrap();
    let previous = quorate_engine::types::StatementHash(kept[0].hash());
    let fork = ANNA.says(chat, 3, previous, ChatChange::Leave);
    let refused = say(&w, ANNA, chat, fork).await.unwrap_err();
    assert!(
        matches!(&refused, HomeError::Statement { code, .. } if code == "fork"),
        "{refused:?}"
    );
    let members = w.home().members(caller(), chat, None, 3).await.unwrap();
    let (members, first) = (members.value, ANNA.account().to_string());
    assert_eq!((members.number, members.members.len()), (3, 3));
    assert_eq!(
        (
            &members.members[0].account,
            members.members[0].role.as_str()
        ),
        (&first, "creator")
    );
    let after = members.next.unwrap().parse().unwrap();
    let rest = w.home().members(caller(), chat, Some(after), 3).await;
    assert_eq!(rest.unwrap().value.members.len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_statement_that_every_custodian_refuses_is_taken_back() {
    let (w, chat) = ready().await;
    let all = policy().custodians();
    let refuses = |to: bool| {
        for custodian in &all {
            w.net.get(custodian).registry.refuses = to;
        }
    };
    refuses(true);
    let first = next(&w, ANNA, chat, add(BORIS, 0));
    let refused = say(&w, ANNA, chat, first.clone()).await.unwrap_err();
    assert!(
        matches!(&refused, HomeError::Statement { code, .. } if code == "device"),
        "{refused:?}"
    );
    let members = w.home().members(caller(), chat, None, 9).await.unwrap();
    assert_eq!((members.value.number, members.value.members.len()), (0, 1));
    // Another takes its number.
    refuses(false);
    let other = next(&w, ANNA, chat, add(Person(3), 0));
    assert_eq!(say(&w, ANNA, chat, other).await.unwrap().acks.len(), 6);
    let late = say(&w, ANNA, chat, first).await.unwrap_err();
    assert!(
        matches!(&late, HomeError::Statement { code, .. } if code == "fork"),
        "{late:?}"
    );
    // While one custodian is silent, nobody knows: it stays, and nothing is built on it.
    refuses(true);
    w.net.set(&["sg"], Mode::Down);
    let unsettled = next(&w, ANNA, chat, add(BORIS, 0));
    let acks = say(&w, ANNA, chat, unsettled).await.unwrap();
    assert_eq!((acks.acks.len(), acks.refused.len()), (0, 5));
    let upon = next(&w, ANNA, chat, add(Person(4), 0));
    let refused = say(&w, ANNA, chat, upon.clone()).await.unwrap_err();
    assert!(matches!(refused, HomeError::Quorum { .. }), "{refused:?}");
    // Back, it takes the statement: so it stands, and the next is built on it.
    refuses(false);
    w.net.set(&["sg"], Mode::Honest);
    assert_eq!(say(&w, ANNA, chat, upon).await.unwrap().acks.len(), 6);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_chat_is_founded_by_its_creator_and_with_the_custodians() {
    let w = World::new();
    let create = |caller: Caller| w.home().create_chat(caller, ANNA.founds("a"));
    let chat = chat_named("a");
    let invalid = create(BORIS.calls(&[chat])).await.unwrap_err();
    assert!(matches!(invalid, HomeError::Invalid { .. }), "{invalid:?}");
    assert_eq!(
        why(create(ANNA.calls(&[chat_named("b")])).await),
        GrantRefusal::ChatNotGranted
    );
    let mut claims = ANNA.claims(&[chat]);
    claims.chats[0].from = 1;
    assert_eq!(
        why(create(ANNA.shows(claims)).await),
        GrantRefusal::EpochBeforeRange
    );
    let mut claims = ANNA.claims(&[chat]);
    claims.actions = vec![Action::Read];
    assert_eq!(
        why(create(ANNA.shows(claims)).await),
        GrantRefusal::ActionNotGranted
    );
    let known = |name: &str| w.net.get(&id(name)).registry.number(&chat);
    assert_eq!(known("ch"), None, "nobody was told");
    w.net.set(&["br", "ch", "is"], Mode::Down);
    let e = create(caller()).await.unwrap_err();
    assert!(matches!(e, HomeError::Quorum { .. }), "{e:?}");
    w.net.set(&["br", "ch", "is"], Mode::Honest);
    assert!(create(caller()).await.is_ok());
    assert_eq!(known("ch"), Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_spent_budget_says_when_to_come_back_and_opens_no_epoch() {
    let (w, chat) = ready().await;
    let spend = |names: &[&str], spent: Option<Refusal>| {
        for name in names {
            w.net.get(&id(name)).spent = spent;
        }
    };
    let all = ["br", "ch", "de", "is", "nl", "sg"];
    let retry_ms = 5_000;
    spend(&all, Some(Refusal::AccountBudget { retry_ms }));
    w.drop_leases();
    let read = || w.home().message(caller(), chat, 1);
    let spent = |e: HomeError| match e {
        HomeError::Spent {
            retry_ms, account, ..
        } => (retry_ms, account),
        other => panic!("{other:?}"),
    };
    assert_eq!(spent(read().await.unwrap_err()), (5_000, true));
    let written = w.home().append(caller(), chat, append(&["y"])).await;
    assert_eq!(spent(written.unwrap_err()), (5_000, true));
    let shown = w.home().chat(caller(), chat, false).await.unwrap().value;
    assert_eq!((shown.messages, shown.epochs), (1, 1));
    spend(&all, Some(Refusal::HomeNodeBudget { retry_ms }));
    assert_eq!(spent(read().await.unwrap_err()), (5_000, false));
    spend(&all, None);
    assert!(read().await.is_ok());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_callers_ask_custodians_once() {
    let (w, chat) = ready().await;
    let w = Arc::new(w);
    let lookups = |w: &World| -> Vec<u64> {
        let custodians = policy().custodians();
        custodians.iter().map(|c| w.net.get(c).lookups).collect()
    };
    w.home().core.directory.clear();
    let before = lookups(&w);
    let mut tasks = Vec::new();
    for _ in 0..50 {
        let w = w.clone();
        let reads = async move { w.home().message(caller(), chat, 1).await };
        tasks.push(tokio::spawn(reads));
    }
    for task in tasks {
        task.await.unwrap().unwrap();
    }
    let more = lookups(&w);
    let more: Vec<u64> = more
        .iter()
        .zip(before)
        .map(|(now, then)| now - then)
        .collect();
    assert!(
        more.iter().all(|n| *n <= 1) && more.contains(&1),
        "{more:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cut_off_from_custodians_what_they_said_last_holds_for_a_while() {
    let (w, chat) = ready().await;
    assert!(w.home().message(caller(), chat, 1).await.is_ok());
    let leaves = policy().custodians();
    let names: Vec<&str> = leaves.iter().map(|c| c.as_str()).collect();
    w.net.set(&names, Mode::Down);
    let wait_ms = crate::home::directory::STANDING_MS + 100;
    tokio::time::sleep(std::time::Duration::from_millis(wait_ms)).await;
    let asked = Instant::now();
    assert!(w.home().message(caller(), chat, 1).await.is_ok());
    let took = asked.elapsed();
    assert!(took < Duration::from_secs(3), "held up for {took:?}");
    // Who was not known before is not let in, and a crowd of them does not queue for that.
    let asked = Instant::now();
    let crowd = (0..20).map(|_| w.home().message(BORIS.calls(&[chat]), chat, 1));
    for boris in futures::future::join_all(crowd).await {
        assert!(matches!(boris, Err(HomeError::Quorum { .. })), "{boris:?}");
    }
    let took = asked.elapsed();
    assert!(took < Duration::from_secs(12), "told after {took:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_a_chat_stands_is_told_to_who_may_join_it() {
    let (w, chat) = ready().await;
    let head = async |who: Person, invite| w.home().head(who.calls(&[]), chat, invite).await;
    let hidden = |r: HomeResult<ChatHead>| matches!(r, Err(HomeError::NotFound { .. }));
    let key = PublicKey([7; 32]);
    assert!(hidden(head(BORIS, None).await));
    assert!(hidden(head(BORIS, Some(key)).await));
    let invite = |expires_ms| Invite {
        from_epoch: 0,
        expires_ms,
        uses: 1,
    };
    let invited = ChatChange::Invite {
        key,
        invite: invite(wall() + 60_000),
    };
    say(&w, ANNA, chat, next(&w, ANNA, chat, invited))
        .await
        .unwrap();
    let known = head(ANNA, None).await.unwrap().value;
    assert_eq!(known.number, 1);
    assert_eq!(head(BORIS, Some(key)).await.unwrap().value, known);
    assert!(hidden(head(BORIS, None).await));
    assert!(hidden(head(BORIS, Some(PublicKey([8; 32]))).await));
    // Somebody else came in meanwhile: the invite leads to where the chat stands now.
    say(&w, ANNA, chat, next(&w, ANNA, chat, add(Person(3), 0)))
        .await
        .unwrap();
    assert_eq!(head(BORIS, Some(key)).await.unwrap().value.number, 2);
    let revoked = ChatChange::RevokeInvite { key };
    say(&w, ANNA, chat, next(&w, ANNA, chat, revoked))
        .await
        .unwrap();
    assert!(hidden(head(BORIS, Some(key)).await));
    let open = ChatChange::SetPublic { public: true };
    say(&w, ANNA, chat, next(&w, ANNA, chat, open))
        .await
        .unwrap();
    assert_eq!(head(BORIS, None).await.unwrap().value.number, 4);
}
