//! Deletion statements at a home: what it keeps, and which keys it gets by them.

use super::people::{ANNA, BORIS, Person};
use super::world::{DEPLOYMENT, World, append, caller, id, policy, wall};
use crate::home::api::{Caller, HomeApi, HomeError};
use quorate_engine::api::registry::Statement;
use quorate_engine::api::{Deletion as Told, PostDeletion};
use quorate_engine::authz::deletion::{Deletion, MANDATE_LIFE_MS, Whose};
use quorate_engine::authz::grant::{Action, Claims};
use quorate_engine::authz::membership::ChatChange;
use quorate_engine::authz::standing::{DeviceStanding, Role};
use quorate_engine::custody::protocol::{FreezeScope, KeyRef};
use quorate_engine::home::read;
use quorate_engine::types::{ChatId, HomeId, Nonce};

/// A chat of Anna's with messages 1 and 2 in its first epoch.
async fn written() -> (World, ChatId) {
    let w = World::new();
    let chat = w.chat("a").await;
    let done = w.home().append(caller(), chat, append(&["x", "y"]));
    done.await.unwrap();
    w.drop_leases();
    (w, chat)
}

fn by(who: Person, chat: ChatId, messages: &[u64]) -> Deletion {
    Deletion {
        deployment: DEPLOYMENT,
        home: HomeId::new("ae").unwrap(),
        chat,
        account: who.account(),
        device: who.device(),
        whose: Whose::Own,
        messages: messages.to_vec(),
        epochs: vec![0],
        at_ms: wall(),
        nonce: Nonce([7; 16]),
    }
}

async fn tell(
    w: &World,
    caller: Caller,
    d: &Deletion,
    signer: Person,
    check: bool,
) -> Result<Told, HomeError> {
    let statement = Statement::from(&d.sign(&signer.key()).unwrap());
    let request = PostDeletion { statement, check };
    // Through the node that does not lead.
    Ok(w.homes[1].delete(caller, d.chat, request).await?.value)
}

fn code(told: Result<Told, HomeError>) -> String {
    match told {
        Err(HomeError::Statement { code, .. }) => code,
        other => format!("{other:?}"),
    }
}

fn releases(w: &World) -> u64 {
    let custodians = policy().custodians();
    custodians.iter().map(|c| w.net.get(c).releases).sum()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_statement_is_kept_and_its_mandate_opens_its_epochs_without_a_lease() {
    let (w, chat) = written().await;
    let d = by(ANNA, chat, &[1, 2]);
    let told = tell(&w, caller(), &d, ANNA, false).await.unwrap();
    assert_eq!((told.messages, &told.epochs[..]), (2, &[0][..]));
    assert_eq!(told.mandate_ends_ms, d.at_ms + MANDATE_LIFE_MS);
    assert!(!told.repeated && told.checked.is_none());
    assert_eq!(releases(&w), 0, "keeping it asks for no key");

    // Again, and now asked whether custodians honour it.
    let again = tell(&w, caller(), &d, ANNA, true).await.unwrap();
    assert_eq!((&again.id, again.repeated), (&told.id, true));
    assert_eq!(again.recorded_ms, told.recorded_ms);
    let checked = again.checked.unwrap();
    assert_eq!((checked.len(), checked[0].epoch), (1, 0));
    assert_eq!((checked[0].messages, checked[0].custodians.len()), (2, 3));
    assert_eq!(releases(&w), 3, "a minimal set, once");
    let shard = w.home().core.shard(&chat);
    let row = shard.view(|kv| read::epoch(kv, &chat, 0)).unwrap().unwrap();
    let key_id = row.key_id;
    for home in &w.homes {
        let leased = home.core.leases.get(&KeyRef { chat, key_id });
        assert!(leased.is_none(), "a key taken by mandate is not leased");
    }
    // Nothing was erased.
    let all = w.all(chat).await;
    assert_eq!(all.iter().map(|m| m.id).collect::<Vec<_>>(), [1, 2]);
    assert!(all.iter().all(|m| m.epoch == 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_answer_is_asked_for_again_under_another_lease_key() {
    let (w, chat) = written().await;
    for custodian in policy().custodians() {
        w.net.get(&custodian).loses_mandates = 1;
    }
    let d = by(ANNA, chat, &[1]);
    let told = tell(&w, caller(), &d, ANNA, true).await.unwrap();
    assert_eq!(told.checked.unwrap()[0].messages, 1);

    // What they refuse is named, and the statement stands all the same.
    for custodian in policy().custodians() {
        let mut custodian = w.net.get(&custodian);
        custodian.freezes.insert(FreezeScope::Chat(chat), 1);
    }
    let other = by(ANNA, chat, &[2]);
    let e = tell(&w, caller(), &other, ANNA, true).await.unwrap_err();
    assert!(e.to_string().contains("frozen"), "{e}");
    for custodian in policy().custodians() {
        let mut custodian = w.net.get(&custodian);
        custodian.freezes.clear();
        let lost = (ANNA.account(), DeviceStanding::Revoked);
        custodian.registry.devices.insert(ANNA.device(), lost);
    }
    w.home().core.directory.clear();
    let e = tell(&w, caller(), &other, ANNA, true).await.unwrap_err();
    assert!(matches!(e, HomeError::Denied { .. }), "{e:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_ones_own_messages_unless_an_admin_says_otherwise() {
    let (w, chat) = written().await;
    let shard = w.home().core.shard(&chat);
    let row = shard.view(|kv| read::chat(kv, &chat)).unwrap().unwrap();
    let head = row.head.head;
    let add = ChatChange::Add {
        account: BORIS.account(),
        role: Role::Member,
        from_epoch: 0,
    };
    let statement = ANNA.says(chat, head.number + 1, head.hash, add);
    let said = w
        .home()
        .chat_statement(caller(), chat, Statement::from(&statement));
    said.await.unwrap();
    let boris = || BORIS.calls(&[chat]);
    w.home()
        .append(boris(), chat, append(&["b"]))
        .await
        .unwrap();
    // Of another device of Anna's account, revoked since.
    let phone = Person(3);
    let stands = |standing: fn([u8; 32]) -> DeviceStanding| {
        for custodian in policy().custodians() {
            let row = (ANNA.account(), standing(phone.public()));
            let mut custodian = w.net.get(&custodian);
            custodian.registry.devices.insert(phone.device(), row);
        }
        w.home().core.directory.clear();
    };
    stands(|public| DeviceStanding::Live { public });
    let claims = Claims {
        account: ANNA.account(),
        ..phone.claims(&[chat])
    };
    let sent = w.home().append(phone.shows(claims), chat, append(&["p"]));
    sent.await.unwrap();
    stands(|_| DeviceStanding::Revoked);

    let mine = tell(&w, caller(), &by(ANNA, chat, &[1, 4]), ANNA, false).await;
    assert_eq!(mine.unwrap().messages, 2, "one account, two devices");
    let his = tell(&w, caller(), &by(ANNA, chat, &[1, 3]), ANNA, false).await;
    assert_eq!(code(his), "role_missing");
    let hers = tell(&w, boris(), &by(BORIS, chat, &[1]), BORIS, false).await;
    assert_eq!(code(hers), "role_missing");
    let anyone = |who| Deletion {
        whose: Whose::Anyone,
        ..by(who, chat, &[1, 3])
    };
    let member = tell(&w, boris(), &anyone(BORIS), BORIS, false).await;
    assert_eq!(code(member), "role_missing");
    let creator = tell(&w, caller(), &anyone(ANNA), ANNA, true).await.unwrap();
    assert_eq!(creator.checked.unwrap()[0].messages, 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_does_not_fit_its_caller_or_the_records_is_not_kept() {
    let (w, chat) = written().await;
    let forged = tell(&w, caller(), &by(ANNA, chat, &[1]), BORIS, false).await;
    assert_eq!(code(forged), "signature");
    let anothers = tell(&w, caller(), &by(BORIS, chat, &[1]), BORIS, false).await;
    let e = anothers.unwrap_err();
    assert!(e.to_string().contains("another device"), "{e}");
    let stranger = by(BORIS, chat, &[1]);
    let e = tell(&w, BORIS.calls(&[chat]), &stranger, BORIS, false).await;
    assert!(matches!(e, Err(HomeError::Denied { .. })), "{e:?}");
    let wide = Deletion {
        epochs: vec![0, 1],
        ..by(ANNA, chat, &[1])
    };
    assert_eq!(code(tell(&w, caller(), &wide, ANNA, false).await), "epochs");
    let missing = tell(&w, caller(), &by(ANNA, chat, &[9]), ANNA, false).await;
    assert!(
        matches!(missing, Err(HomeError::NotFound { .. })),
        "{missing:?}"
    );
    let old = Deletion {
        at_ms: wall() - MANDATE_LIFE_MS,
        ..by(ANNA, chat, &[1])
    };
    assert_eq!(
        code(tell(&w, caller(), &old, ANNA, false).await),
        "horizon_over"
    );
    // A grant to read is none to delete.
    let mut claims = ANNA.claims(&[chat]);
    claims.actions = vec![Action::Read];
    let reads = tell(&w, ANNA.shows(claims), &by(ANNA, chat, &[1]), ANNA, false).await;
    assert!(matches!(reads, Err(HomeError::Denied { .. })), "{reads:?}");
    let told = tell(&w, caller(), &by(ANNA, chat, &[1]), ANNA, false)
        .await
        .unwrap();
    assert!(!told.repeated, "none of those was kept");
    assert!(w.net.get(&id("ch")).releases == 0);
}
