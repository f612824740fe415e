//! The home over shards and custodians in memory.

mod deletions;
mod grants;
mod orders;
pub mod people;
mod services;
pub mod world;

use super::api::{HomeApi, HomeError};
use people::ANNA;
use quorate_engine::api::{CreateChat, Edit};
use quorate_engine::authz::grant::GrantRefusal;
use quorate_engine::custody::protocol::FreezeScope;
use quorate_engine::home::command::Command;
use quorate_engine::home::opening::{self, DealContext};
use quorate_engine::home::read;
use quorate_engine::types::Outcome;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use world::{Mode, World, append, caller, content, id, policy, until};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_written_is_read_back_through_any_node() {
    let w = World::new();
    let chat = w.chat("a").await;
    for (node, texts) in [(0, ["m1", "m2"]), (1, ["m3", "m4"])] {
        let done = w.homes[node]
            .append(caller(), chat, append(&texts))
            .await
            .unwrap();
        assert!(done.value.messages.iter().all(|m| !m.repeated));
    }
    let all = w.all(chat).await;
    assert_eq!(all.iter().map(|m| m.id).collect::<Vec<_>>(), [1, 2, 3, 4]);
    assert_eq!(all[2].content, content("m3"));
    let one = w.homes[1].message(caller(), chat, 0).await.unwrap().value;
    assert_eq!((one.id, one.content), (0, content("a")));
    let shown = w.homes[1].chat(caller(), chat, true).await.unwrap().value;
    assert_eq!((shown.messages, shown.epochs, shown.thin), (4, 1, false));
    assert_eq!(shown.profile, Some(content("a")));
    // No share left a custodian: the leader dealt the key itself.
    let releases = || {
        policy()
            .custodians()
            .iter()
            .map(|c| w.net.get(c).releases)
            .sum::<u64>()
    };
    assert_eq!(releases(), 0);
    w.drop_leases();
    assert_eq!(w.all(chat).await.len(), 4);
    assert_eq!(releases(), 3, "a minimal set, once");
    let wrong = quorate_engine::types::ChatId([9; 32]);
    let wrong = w.home().page(ANNA.calls(&[wrong]), wrong, 1, 5).await;
    let why = GrantRefusal::ChatUnknown;
    assert!(
        matches!(wrong, Err(HomeError::Denied { why: w, .. }) if w == why),
        "nobody is a member of a chat that is not there: {wrong:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn repeating_is_safe_and_other_content_is_refused() {
    let w = World::new();
    let chat = w.chat("a").await;
    assert_eq!(w.chat("a").await, chat);
    let other = CreateChat {
        profile: content("another profile"),
        ..people::ANNA.founds("a")
    };
    let other = w.home().create_chat(caller(), other).await;
    assert!(
        matches!(other, Err(HomeError::IdempotencyMismatch)),
        "{other:?}"
    );
    let first = w
        .home()
        .append(caller(), chat, append(&["x", "y"]))
        .await
        .unwrap()
        .value;
    w.drop_leases();
    let again = w
        .home()
        .append(caller(), chat, append(&["x", "y"]))
        .await
        .unwrap()
        .value;
    for (a, b) in first.messages.iter().zip(&again.messages) {
        assert_eq!((a.id, a.at_ms, b.repeated), (b.id, b.at_ms, true));
    }
    // Other batches, as a resumed import makes them: what is new is written.
    let mixed = w
        .home()
        .append(caller(), chat, append(&["y", "z"]))
        .await
        .unwrap()
        .value;
    assert_eq!(
        mixed
            .messages
            .iter()
            .map(|m| (m.id, m.repeated))
            .collect::<Vec<_>>(),
        [(2, true), (3, false)]
    );
    let mut forged = append(&["x", "new"]);
    forged.messages[0].content = content("not x");
    let forged = w.home().append(caller(), chat, forged).await;
    assert!(matches!(forged, Err(HomeError::IdempotencyMismatch)));
    let twice = w.home().append(caller(), chat, append(&["q", "q"])).await;
    assert!(matches!(twice, Err(HomeError::Invalid { .. })));
    // Replies that get lost: done once all the same.
    for group in &w.groups {
        group.lose.store(3, Ordering::Relaxed);
    }
    w.home()
        .append(caller(), chat, append(&["lost"]))
        .await
        .unwrap();
    assert_eq!(w.all(chat).await.len(), 4);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_edit_is_conditional_on_the_revision() {
    let w = World::new();
    let chat = w.chat("a").await;
    w.home()
        .append(caller(), chat, append(&["x"]))
        .await
        .unwrap();
    let edit = |key: &str, text: &str| Edit {
        idempotency_key: key.into(),
        content: content(text),
    };
    let done = w.homes[1]
        .edit(caller(), chat, 1, 0, edit("e", "x2"))
        .await
        .unwrap()
        .value;
    assert_eq!((done.id, done.revision, done.repeated), (1, 1, false));
    let again = w.homes[1]
        .edit(caller(), chat, 1, 0, edit("e", "x2"))
        .await
        .unwrap()
        .value;
    assert!(again.repeated && again.revision == 1);
    let stale = w.home().edit(caller(), chat, 1, 0, edit("f", "x3")).await;
    assert!(matches!(
        stale,
        Err(HomeError::RevisionMismatch { current: 1 })
    ));
    let other = w.home().edit(caller(), chat, 1, 1, edit("e", "x2")).await;
    assert!(matches!(other, Err(HomeError::IdempotencyMismatch)));
    let missing = w.home().edit(caller(), chat, 7, 0, edit("g", "x")).await;
    assert!(matches!(missing, Err(HomeError::NotFound { .. })));
    let now = w.home().message(caller(), chat, 1).await.unwrap().value;
    assert_eq!(
        (now.revision, now.content, now.edited_ms.is_some()),
        (1, content("x2"), true)
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_liar_is_blamed_by_name_and_the_read_is_right() {
    let w = World::new();
    let chat = w.chat("a").await;
    w.home()
        .append(caller(), chat, append(&["x"]))
        .await
        .unwrap();
    w.drop_leases();
    w.net.set(&["br", "ch"], Mode::Lies);
    assert_eq!(w.all(chat).await[0].content, content("x"));
    w.drop_leases();
    w.net.set(&["is"], Mode::Lies);
    let e = w.home().message(caller(), chat, 1).await.unwrap_err();
    let HomeError::Quorum {
        problem, outcome, ..
    } = e
    else {
        panic!("{e:?}")
    };
    assert_eq!(problem.lied, ["br", "ch", "is"]);
    assert_eq!(
        (problem.would_suffice.len(), outcome),
        (0, Outcome::NotDone)
    );
    let status = w.home().status().await;
    let warned = |name: &str| {
        status
            .warnings
            .iter()
            .any(|t| t.contains(&format!("custodian {name} gave a share")))
    };
    assert!(
        warned("br") && warned("ch") && !warned("sg"),
        "{:?}",
        status.warnings
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_custodians_lost_is_thin_and_heals() {
    let w = World::new();
    w.net.set(&["ch", "sg"], Mode::Down);
    let chat = w.chat("a").await;
    w.home()
        .append(caller(), chat, append(&["x"]))
        .await
        .unwrap();
    let status = w.home().status().await;
    assert_eq!(
        (status.thin_epochs, status.outbox),
        (1, 0),
        "no key of theirs was known"
    );
    // A custodian counts as silent only after its last answer has aged; a busy machine takes longer.
    let mut status = status;
    for _ in 0..100 {
        if status.policy.margin == Some(0) {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        status = w.home().status().await;
    }
    assert_eq!((status.policy.margin, status.policy.thin), (Some(0), true));
    let down: Vec<_> = status
        .clusters
        .iter()
        .filter(|c| !c.available)
        .map(|c| c.name.as_str())
        .collect();
    assert_eq!(down, ["ch", "sg"]);
    // Back: the next chat has all; then lost again after dealing sessions are made.
    w.net.set(&["ch", "sg"], Mode::Honest);
    tokio::time::sleep(std::time::Duration::from_millis(1200)).await;
    w.chat("b").await;
    w.net.set(&["is", "sg"], Mode::Down);
    let chats = ["c", "d", "e", "f", "g", "h"];
    for name in chats {
        w.chat(name).await;
    }
    let status = w.home().status().await;
    assert!(status.thin_epochs > 1 && status.outbox > 0, "{status:?}");
    w.net.set(&["is", "sg"], Mode::Honest);
    let metas = || {
        w.groups
            .iter()
            .map(|g| read::meta(&g.kv.lock().unwrap().0).unwrap())
    };
    until("the outbox is delivered", 20_000, || {
        metas().all(|m| m.outbox == 0)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_branches_lost_closes_everything_and_says_what_would_suffice() {
    let w = World::new();
    let chat = w.chat("a").await;
    w.drop_leases();
    w.net.set(&["ch", "is", "sg"], Mode::Down);
    let e = w.home().message(caller(), chat, 0).await.unwrap_err();
    let HomeError::Quorum { problem, .. } = &e else {
        panic!("{e:?}")
    };
    assert!(!problem.would_suffice.is_empty());
    for set in &problem.would_suffice {
        assert!(
            set.iter().any(|c| ["ch", "is", "sg"].contains(&c.as_str())),
            "{problem:?}"
        );
    }
    let e = w
        .home()
        .append(caller(), chat, append(&["x"]))
        .await
        .unwrap_err();
    assert!(
        matches!(
            e,
            HomeError::Quorum {
                outcome: Outcome::NotDone,
                ..
            }
        ),
        "{e:?}"
    );
    w.net.set(&["ch"], Mode::Honest);
    w.home()
        .append(caller(), chat, append(&["x"]))
        .await
        .unwrap();
    assert_eq!(w.all(chat).await.len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_freeze_that_blocks_ends_leases_within_a_second() {
    let w = World::new();
    let (a, b) = (w.chat("a").await, w.chat("b").await);
    assert!(w.home().message(caller(), a, 0).await.is_ok());
    for name in ["ch", "is", "sg"] {
        w.net.get(&id(name)).freeze(FreezeScope::Chat(a));
    }
    until("the lease of a is gone", 1_000, || {
        w.home().core.leases.figures().0 == 1
    })
    .await;
    let e = w.home().message(caller(), a, 0).await.unwrap_err();
    let HomeError::Quorum { problem, .. } = &e else {
        panic!("{e:?}")
    };
    assert!(
        problem
            .refused
            .iter()
            .any(|(c, why)| c == "ch" && why.contains("frozen")),
        "{problem:?}"
    );
    assert!(w.home().message(caller(), b, 0).await.is_ok());
    for name in ["ch", "is", "sg"] {
        w.net.get(&id(name)).freezes.clear();
    }
    until("thawed", 1_500, || {
        w.home().core.leases.usable(&a).len() == 6
    })
    .await;
    assert!(w.home().message(caller(), a, 0).await.is_ok());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_leader_completes_the_intent_it_finds() {
    let w = World::new();
    let chat = w.chat("a").await;
    let core = &w.homes[0].core;
    let shard = core.shard(&chat).clone();
    let last = shard
        .view(|kv| read::chat(kv, &chat))
        .unwrap()
        .unwrap()
        .last
        .unwrap();
    // The old leader dies after the intent committed and before anything was sent.
    let sessions = core.sessions.ensure(core, &shard, &policy()).await.unwrap();
    let prepared = {
        let cx = DealContext {
            deployment: world::DEPLOYMENT,
            chat,
            epoch: last.0 + 1,
            previous: Some(last.1),
            expires_ms: None,
        };
        let sessions = sessions.iter().map(|(c, s)| (c.clone(), &**s)).collect();
        opening::prepare(&cx, &policy(), &sessions, &mut rand::rng()).unwrap()
    };
    shard
        .propose(core.clock.wall(), prepared.command())
        .await
        .unwrap();
    w.elect(2);
    let open = || {
        shard
            .view(|kv| read::chat(kv, &chat))
            .unwrap()
            .unwrap()
            .open
            .unwrap()
            .key_id
    };
    until("it is open", 5_000, || open() == prepared.key().key_id).await;
    assert!(
        w.net
            .get(&id("ch"))
            .stored
            .contains_key(&prepared.key().key_id)
    );
    w.homes[0]
        .append(caller(), chat, append(&["x"]))
        .await
        .unwrap();
    assert_eq!(w.all(chat).await[0].content, content("x"));
    // The new leader had to ask the custodians: it cannot know the key.
    assert!(
        policy()
            .custodians()
            .iter()
            .any(|c| w.net.get(c).releases > 0)
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_writers_while_leaders_change_write_once_each() {
    let w = Arc::new(World::new());
    let (a, b) = (w.chat("a").await, w.chat("b").await);
    let before = w.proposals();
    let mut tasks = Vec::new();
    for n in 0..200 {
        let to = w.clone();
        tasks.push(tokio::spawn(async move {
            let text = format!("m{n}");
            let chat = if n % 4 == 0 { b } else { a };
            to.homes[n % 2]
                .append(caller(), chat, append(&[&text]))
                .await
                .unwrap();
        }));
        if n == 60 || n == 130 {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
            w.elect(if n == 60 { 2 } else { 1 });
        }
    }
    for task in tasks {
        task.await.unwrap();
    }
    let (in_a, in_b) = (w.all(a).await, w.all(b).await);
    assert_eq!((in_a.len(), in_b.len()), (150, 50));
    let texts: std::collections::BTreeSet<String> = in_a
        .iter()
        .chain(&in_b)
        .map(|m| m.content["text"].to_string())
        .collect();
    assert_eq!(texts.len(), 200);
    assert!(
        w.proposals() - before < 150,
        "one chat's waiting writes go together"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn chats_are_listed_in_order_over_all_shards() {
    let w = World::new();
    let mut made = Vec::new();
    for n in 0..9 {
        made.push(w.chat(&n.to_string()).await.to_string());
    }
    made.sort();
    let mut seen = Vec::new();
    let mut after = None;
    loop {
        let page = w.homes[1]
            .list_chats(caller(), after, 2, true)
            .await
            .unwrap()
            .value;
        assert!(page.chats.iter().all(|c| c.profile.is_some()));
        seen.extend(page.chats.iter().map(|c| c.id.clone()));
        let Some(next) = page.next else { break };
        after = Some(next.parse().unwrap());
    }
    assert_eq!(seen, made);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_record_is_named_and_never_returned() {
    let w = World::new();
    let chat = w.chat("a").await;
    w.home()
        .append(caller(), chat, append(&["x", "y"]))
        .await
        .unwrap();
    let shard = w.home().core.shard(&chat).number as usize;
    {
        let mut held = w.groups[shard].kv.lock().unwrap();
        let (one, two) = (1u64, 2u64);
        let key = |n: u64| quorate_engine::home::rows::record_key(&chat, n);
        // Record 2's row where record 1 stood.
        let moved = held.0.0[&key(two)].clone();
        held.0.0.insert(key(one), moved);
    }
    let e = w.home().page(caller(), chat, 1, 9).await.unwrap_err();
    assert!(matches!(e, HomeError::Corrupt { message: 1, .. }), "{e:?}");
    assert!(w.home().message(caller(), chat, 2).await.is_ok());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn shutdown_ends_the_tasks_and_wipes_the_leases() {
    let w = World::new();
    w.chat("a").await;
    assert_eq!(w.home().core.leases.figures().0, 1);
    w.home().shutdown().await;
    assert_eq!(w.home().core.leases.figures().0, 0);
    let left = w.home().core.shards[0].propose(1, Command::Sweep).await;
    assert!(left.is_ok(), "the groups are the caller's to stop");
}
