//! A restriction that is confirmed lets nothing leave that was released before.

use super::*;
use crate::peer::Answer;
use quorate_engine::custody::SETTLED_MS;
use quorate_engine::types::codec;
use std::time::Instant;

/// A release that is committed, sealed, and not handed to a socket yet.
async fn held(c: &Custodian, home: &Home, request: u8) -> Answer {
    let ask = CustodianRequest::Release(home.release(request, &[1]));
    let body = codec::encode(PROTOCOL_VERSION, &ask).into();
    let answer = c.home_service().answer(home_node(), body).await.unwrap();
    assert!(answer.departing.is_some(), "shares leave in time or never");
    answer
}

async fn shred(c: Custodian, keys: Vec<KeyRef>) -> Instant {
    let done = c.shred(operator(), keys, "asked".into()).await.unwrap();
    assert_eq!(done.value, [ShredOutcome::Destroyed]);
    Instant::now()
}

#[tokio::test]
async fn a_shred_and_a_freeze_wait_for_the_releases_before_them() {
    let bench = Bench::new(1).await;
    let c = bench.node(1);
    let home = Home::meet(&c).await;
    stored(&c, home.store(&[1, 2], None)).await;
    // The first restriction of a term waits for former leaders; later ones do not.
    c.freeze(operator(), FreezeScope::All, "drill".into())
        .await
        .unwrap();
    c.thaw(operator(), FreezeScope::All, "over".into())
        .await
        .unwrap();

    let (one, two) = (held(&c, &home, 1).await, held(&c, &home, 2).await);
    let keys = home.release(0, &[1]).keys;
    let shredding = tokio::spawn(shred(c.clone(), keys));
    let freezing = c.clone();
    let freezing = tokio::spawn(async move {
        let scope = FreezeScope::Chat(chat());
        freezing.freeze(operator(), scope, "seizure".into()).await
    });
    tokio::time::sleep(Duration::from_millis(200)).await;
    // Both act at once, and neither is confirmed.
    assert_eq!(
        released(&c, &home, 3, &[1, 2]).await,
        [Err(Refusal::Tombstoned), Err(Refusal::Frozen)]
    );
    assert!(!shredding.is_finished() && !freezing.is_finished());
    drop(one.departing);
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(!shredding.is_finished() && !freezing.is_finished());
    let until = two.departing.as_ref().unwrap().until;
    drop(two.departing);
    let confirmed = shredding.await.unwrap();
    freezing.await.unwrap().unwrap();
    assert!(confirmed < until, "it waits no longer than it must");
}

/// A deposed leader may hold a release that its successor knows nothing of.
#[tokio::test]
async fn a_new_leader_confirms_after_the_old_ones_releases_are_too_old_to_leave() {
    let bench = Bench::new(2).await;
    let old = bench.node(1);
    let home = Home::meet(&old).await;
    stored(&old, home.store(&[1], None)).await;
    let answer = held(&old, &home, 1).await;
    bench.elect(2).await;
    let keys = home.release(0, &[1]).keys;
    let began = Instant::now();
    let confirmed = shred(bench.node(2), keys).await;
    assert!(confirmed >= answer.departing.unwrap().until);
    assert!(confirmed - began <= Duration::from_millis(SETTLED_MS + 2_000));
}
