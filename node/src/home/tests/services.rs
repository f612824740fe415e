//! Service credentials at the home: they append, and nothing is opened for them.

use super::people::{ANNA, BORIS};
use super::world::{DEPLOYMENT, World, append, caller, content, policy, wall};
use crate::home::api::{Caller, HomeApi, HomeError};
use quorate_engine::api::Edit;
use quorate_engine::authz::grant::GrantRefusal;
use quorate_engine::authz::service::{
    ServiceClaims, ServiceKey, ServiceRefusal, ServiceToken, service_id,
};
use quorate_engine::crypto::sign::SigningKey;
use quorate_engine::home::command::ServiceChange;
use quorate_engine::types::{AccountId, ChatId, HomeId, PublicKey, RequestId, Secret, ServiceId};

fn key(n: u8) -> SigningKey {
    SigningKey::from_seed(&Secret::from_slice(&[n; 32]).unwrap())
}

fn id(n: u8) -> ServiceId {
    service_id(&PublicKey(key(n).public()))
}

async fn enrolled(w: &World, n: u8, accounts: Option<&[AccountId]>) {
    let key = ServiceKey {
        name: "import".into(),
        public: PublicKey(key(n).public()),
        accounts: accounts.map(|all| all.iter().copied().collect()),
        expires_ms: wall() + 3_600_000,
    };
    let by = "1".to_owned();
    let change = ServiceChange::Enrol { key, by };
    w.homes[1].change_service(change).await.unwrap();
}

fn token(n: u8, account: AccountId, chat: ChatId) -> Caller {
    let now_s = wall() / 1000;
    let claims = ServiceClaims {
        account,
        deployment: DEPLOYMENT,
        home: HomeId::new("ae").unwrap(),
        chats: vec![chat],
        not_before_s: now_s - 60,
        expires_s: now_s + 600,
    };
    Caller {
        grant: ServiceToken::sign(&key(n), claims)
            .unwrap()
            .compact()
            .to_owned(),
        request: RequestId([2; 16]),
    }
}

fn releases(w: &World) -> u64 {
    let all = policy().custodians();
    all.iter().map(|c| w.net.get(c).releases).sum()
}

fn refused<T: std::fmt::Debug>(result: Result<T, HomeError>) -> ServiceRefusal {
    match result {
        Err(HomeError::Service { why, .. }) => why,
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_appends_and_custodians_release_nothing_for_it() {
    let w = World::new();
    let chat = w.chat("a").await;
    w.home()
        .append(caller(), chat, append(&["mine"]))
        .await
        .unwrap();
    enrolled(&w, 1, Some(&[ANNA.account()])).await;
    let service = token(1, ANNA.account(), chat);
    let epochs = async || {
        let shown = w.home().chat(caller(), chat, false).await.unwrap();
        shown.value.epochs
    };
    // Under the lease of what was dealt here.
    let done = w.homes[1]
        .append(service.clone(), chat, append(&["s1", "s2"]))
        .await;
    let ids: Vec<_> = done.unwrap().value.messages.iter().map(|m| m.id).collect();
    assert_eq!((ids, epochs().await), (vec![2, 3], 1));
    // Repeating is safe, and what it repeats is compared.
    let again = w
        .home()
        .append(service.clone(), chat, append(&["s1", "s2"]))
        .await;
    assert!(again.unwrap().value.messages.iter().all(|m| m.repeated));

    // When that has lived out, the next epoch is dealt and no old one opened again.
    w.drop_leases();
    let done = w
        .home()
        .append(service.clone(), chat, append(&["s3"]))
        .await;
    assert_eq!(done.unwrap().value.messages[0].id, 4);
    assert_eq!((epochs().await, releases(&w)), (2, 0));
    // A key that was released for somebody is not written under for a service.
    w.drop_leases();
    w.home()
        .append(caller(), chat, append(&["mine again"]))
        .await
        .unwrap();
    assert_eq!(epochs().await, 2);
    let released = releases(&w);
    assert!(released > 0);
    w.home()
        .append(service.clone(), chat, append(&["s4"]))
        .await
        .unwrap();
    assert_eq!((epochs().await, releases(&w)), (3, released));
    // Without a key to compare with, a repetition is answered all the same.
    w.drop_leases();
    let again = w
        .home()
        .append(service.clone(), chat, append(&["s1", "s2"]))
        .await;
    assert!(again.unwrap().value.messages.iter().all(|m| m.repeated));
    assert_eq!(releases(&w), released);

    // Members read it; it reads nothing, and changes nothing that is there.
    let all = w.all(chat).await;
    let texts: Vec<_> = all.iter().map(|m| m.content.clone()).collect();
    let said = ["mine", "s1", "s2", "s3", "mine again", "s4"];
    assert_eq!(texts, said.map(content));
    assert_eq!(all[1].device, id(1).to_string());
    let edit = Edit {
        idempotency_key: "e".into(),
        content: content("e"),
    };
    let home = w.home();
    let denied = [
        home.message(service.clone(), chat, 2).await.map(drop),
        home.page(service.clone(), chat, 0, 9).await.map(drop),
        home.chat(service.clone(), chat, true).await.map(drop),
        home.list_chats(service.clone(), None, 9, true)
            .await
            .map(drop),
        home.members(service.clone(), chat, None, 9).await.map(drop),
        home.head(service.clone(), chat, None).await.map(drop),
        home.edit(service.clone(), chat, 2, 0, edit).await.map(drop),
        home.create_chat(service.clone(), ANNA.founds("b"))
            .await
            .map(drop),
        home.open_session(service.clone()).await.map(drop),
    ];
    for result in denied {
        let Err(HomeError::Denied { why, .. }) = result else {
            panic!("{result:?}");
        };
        assert_eq!(why, GrantRefusal::ServiceCredential);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_writes_only_for_whom_and_where_it_may() {
    let w = World::new();
    let (chat, other) = (w.chat("a").await, w.chat("b").await);
    let anna = ANNA.account();
    let say = async |caller: Caller, chat| w.home().append(caller, chat, append(&["x"])).await;
    assert_eq!(
        refused(say(token(1, anna, chat), chat).await),
        ServiceRefusal::Unknown
    );
    enrolled(&w, 1, Some(&[anna])).await;
    say(token(1, anna, chat), chat).await.unwrap();
    let of = |n, account, named, chat| (token(n, account, named), chat);
    for ((caller, chat), why) in [
        (of(1, BORIS.account(), chat, chat), ServiceRefusal::Account),
        (of(1, anna, other, chat), ServiceRefusal::Chat),
        (of(2, anna, chat, chat), ServiceRefusal::Unknown),
    ] {
        assert_eq!(refused(say(caller, chat).await), why);
    }
    enrolled(&w, 3, None).await;
    say(token(3, anna, other), other).await.unwrap();
    let stranger = say(token(3, BORIS.account(), chat), chat).await;
    assert_eq!(refused(stranger), ServiceRefusal::NotMember);
    let mut bent = token(1, anna, chat);
    bent.grant.push('A');
    assert_eq!(refused(say(bent, chat).await), ServiceRefusal::Malformed);

    // Listed at every node; ended at every shard.
    let all = w.homes[1].services().await.unwrap().value;
    assert_eq!(all.len(), 2);
    let end = |n| ServiceChange::End { service: id(n) };
    w.homes[1].change_service(end(1)).await.unwrap();
    for chat in [chat, other] {
        let ended = say(token(1, anna, chat), chat).await;
        assert_eq!(refused(ended), ServiceRefusal::Ended);
    }
    let unknown = w.home().change_service(end(9)).await;
    assert!(
        matches!(unknown, Err(HomeError::NotFound { .. })),
        "{unknown:?}"
    );
    say(token(3, anna, chat), chat).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_browsers_session_is_known_at_every_node_of_the_home() {
    let w = World::new();
    let made = w.homes[1].open_session(ANNA.calls(&[])).await.unwrap();
    assert!((500..=600).contains(&made.rest_s), "{made:?}");
    for home in &w.homes {
        assert!(home.session(made.token.clone()).await.is_some());
    }
    let grant = w.home().session(made.token.clone()).await.unwrap();
    let (node, secret) = made.token.split_once('.').unwrap();
    for bad in [
        format!("{node}.{}", "0".repeat(64)),
        format!("1.{secret}"),
        format!("77.{secret}"),
    ] {
        assert_eq!(w.home().session(bad).await, None);
    }
    let again = Caller {
        grant,
        request: RequestId([3; 16]),
    };
    w.home().list_chats(again, None, 9, false).await.unwrap();
    let mut over = ANNA.claims(&[]);
    over.expires_s = wall() / 1000;
    let refused = w.home().open_session(ANNA.shows(over)).await;
    let Err(HomeError::Denied { why, .. }) = refused else {
        panic!("{refused:?}");
    };
    assert_eq!(why, GrantRefusal::Expired);
}
