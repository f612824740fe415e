//! What a custodian does for homes and operators, and how it looks after its keys.

use super::*;
use crate::custodian::cache::session_digest;

#[tokio::test]
async fn a_new_cluster_makes_its_keys_and_every_node_keeps_them() {
    let bench = Bench::new(3).await;
    for n in 1..=3 {
        let status = bench.node(n).status().unwrap();
        assert_eq!(status.serves, n == 1);
        assert_eq!(status.wrapping_loaded, [1]);
        assert_eq!(status.sealing_loaded, [1]);
        assert_eq!(status.overview.voters, BTreeSet::from([1, 2, 3]));
        let held: Vec<_> = open_vault(&bench.vault_dir(n), n)
            .keys()
            .map(|(kind, version, _)| (kind, version))
            .collect();
        assert_eq!(held, [(KeyKind::Sealing, 1), (KeyKind::Wrapping, 1)]);
    }
    let row = |kind| {
        let state = bench.shared.state.lock().unwrap();
        custody::key_version(&state.0, kind, 1).unwrap().unwrap()
    };
    for kind in [KeyKind::Sealing, KeyKind::Wrapping] {
        assert_eq!(row(kind).attested, BTreeSet::from([1, 2, 3]));
    }
}

#[tokio::test]
async fn shares_come_back_and_restrictions_hold() {
    let bench = Bench::new(3).await;
    let c = bench.node(1);
    let home = Home::meet(&c).await;
    let mut request = home.store(&[1, 2, 3], None);
    let CustodianRequest::Store(r) = &mut request else {
        unreachable!()
    };
    r.items[1].sealed[40] ^= 1;
    use StoreOutcome::*;
    assert_eq!(stored(&c, request).await, [Stored, BadShare, Stored]);
    assert_eq!(
        stored(&c, home.store(&[1, 2], None)).await,
        [AlreadyStored, Stored]
    );
    let size = bench.log_size();
    assert_eq!(
        released(&c, &home, 1, &[1, 2, 9]).await,
        [Ok(true), Ok(true), Err(Refusal::NotHeld)]
    );
    assert_eq!(bench.log_size(), size + 1, "recorded first");

    let frozen = c
        .freeze(operator(), FreezeScope::All, "seizure".into())
        .await;
    let began = frozen.unwrap().entry;
    assert_eq!(
        released(&c, &home, 1, &[1, 2, 9]).await[0],
        Err(Refusal::Frozen)
    );
    let CustodianReply::Feed(feed) = c
        .answer(&home_node(), CustodianRequest::Feed { since: 0 })
        .await
    else {
        panic!("a feed")
    };
    assert_eq!(feed.freezes, [(FreezeScope::All, began)]);
    assert!(feed.position > began);
    let thawed = c
        .thaw(operator(), FreezeScope::All, "over".into())
        .await
        .unwrap();
    assert!(thawed.changed);
    let key_ref = home.release(0, &[1]).keys;
    let shredded = c
        .shred(operator(), key_ref.clone(), "asked".into())
        .await
        .unwrap();
    assert_eq!(shredded.value, [ShredOutcome::Destroyed]);
    assert_eq!(
        released(&c, &home, 2, &[1, 3]).await,
        [Err(Refusal::Tombstoned), Ok(true)]
    );
    let abandon = CustodianRequest::Abandon(AbandonRequest {
        home: HomeId::new("ae").unwrap(),
        deployment: place().deployment,
        keys: home.release(0, &[1, 3, 8]).keys,
    });
    use AbandonOutcome as A;
    assert_eq!(
        c.answer(&home_node(), abandon).await,
        CustodianReply::Abandon(vec![A::Tombstoned, A::Refused, A::Tombstoned])
    );
    let long = "x".repeat(custody::REASON_BYTES_MAX + 1);
    let e = c.freeze(operator(), FreezeScope::All, long).await;
    assert!(matches!(e, Err(OperatorProblem::Invalid(_))));
}

/// A home that waits for news hears of a freeze while the operator still waits
/// for its confirmation; without news it is answered after a while.
#[tokio::test]
async fn feeds_are_held_back_until_there_is_news() {
    let bench = Bench::new(1).await;
    let c = bench.node(1);
    let feed = |c: Custodian, since| async move {
        match c
            .answer(&home_node(), CustodianRequest::Feed { since })
            .await
        {
            CustodianReply::Feed(feed) => (feed, std::time::Instant::now()),
            other => panic!("{other:?}"),
        }
    };
    let began = std::time::Instant::now();
    let hold = Duration::from_millis(FEED_HOLD_MS);
    let (first, at) = feed(c.clone(), 0).await;
    assert!(at - began < hold / 2, "the first is answered at once");
    let (same, at) = feed(c.clone(), first.position).await;
    assert!(at - began >= hold && same.freezes.is_empty());

    let waiting = tokio::spawn(feed(c.clone(), same.position));
    tokio::time::sleep(hold / 10).await;
    let began = std::time::Instant::now();
    let freezing = c.clone();
    let freezing = tokio::spawn(async move {
        let why = "seizure".into();
        freezing.freeze(operator(), FreezeScope::All, why).await
    });
    let (news, at) = waiting.await.unwrap();
    assert_eq!(news.freezes.len(), 1);
    assert!(at - began < hold / 2, "told after {:?}", at - began);
    freezing.await.unwrap().unwrap();
    // Asked with an older position, it is news; with this one, it is not.
    let began = std::time::Instant::now();
    let (_, at) = feed(c.clone(), same.position).await;
    assert!(at - began < hold / 2);
    let (_, at) = feed(c.clone(), news.position).await;
    assert!(at - began >= hold);
}

#[tokio::test]
async fn who_is_not_the_home_it_says_gets_nothing_and_leaves_no_entry() {
    let bench = Bench::new(1).await;
    let c = bench.node(1);
    let home = Home::meet(&c).await;
    stored(&c, home.store(&[1], None)).await;
    let size = bench.log_size();
    let good = home.release(1, &[1]);
    let mut wrong = Vec::new();
    for (role, cluster, node) in [
        (ClusterRole::Custodian, "ae", 4),
        (ClusterRole::Home, "zz", 4),
        (ClusterRole::Home, "ae", 5),
    ] {
        let cluster = cluster.into();
        wrong.push((
            PeerIdentity {
                role,
                cluster,
                node,
            },
            good.clone(),
        ));
    }
    let stranger = HomeId::new("zz").unwrap();
    let mut r = good.clone();
    r.home = stranger;
    wrong.push((
        PeerIdentity {
            cluster: "zz".into(),
            ..home_node()
        },
        r,
    ));
    let mut r = good.clone();
    r.deployment = DeploymentId([9; 16]);
    wrong.push((home_node(), r));
    let mut r = good.clone();
    r.lease_key.0.pop();
    wrong.push((home_node(), r));
    let mut r = good.clone();
    r.keys = vec![r.keys[0]; 2];
    wrong.push((home_node(), r));
    for (from, request) in wrong {
        let reply = c.answer(&from, CustodianRequest::Release(request)).await;
        assert!(matches!(reply, CustodianReply::Invalid { .. }), "{reply:?}");
    }
    assert_eq!(bench.log_size(), size);
    assert!(matches!(
        c.home_service().call(home_node(), vec![9, 9].into()).await,
        Err(crate::peer::ServiceError::Invalid(_))
    ));
}

#[tokio::test]
async fn followers_point_at_the_leader() {
    let bench = Bench::new(3).await;
    let reply = bench
        .node(2)
        .answer(&home_node(), CustodianRequest::SealingKey)
        .await;
    assert_eq!(
        reply,
        CustodianReply::NotLeader {
            leader: Some(1),
            address: Some("node1.ch:7000".into()),
        }
    );
    let e = bench
        .node(2)
        .freeze(operator(), FreezeScope::All, "x".into())
        .await;
    assert_eq!(e, Err(OperatorProblem::NotLeader { leader: Some(1) }));
}

/// Commands that wait travel together, and each leaves its own entry.
#[tokio::test]
async fn a_crowd_shares_its_commits() {
    let bench = Bench::without_nodes(1, Duration::from_millis(5));
    bench.start(1);
    bench.elect(1).await;
    let c = bench.node(1);
    let home = Arc::new(Home::meet(&c).await);
    let keys: Vec<u8> = (0..100).collect();
    stored(&c, home.store(&keys, None)).await;
    let (size, before) = (
        bench.log_size(),
        bench.shared.proposals.load(Ordering::SeqCst),
    );
    let many = (0..100u8).map(|n| {
        let (c, home) = (c.clone(), home.clone());
        tokio::spawn(async move { released(&c, &home, n, &[n]).await })
    });
    for r in futures::future::join_all(many).await {
        assert_eq!(r.unwrap(), [Ok(true)]);
    }
    assert_eq!(bench.log_size(), size + 100);
    let proposals = bench.shared.proposals.load(Ordering::SeqCst) - before;
    assert!(proposals <= 20, "{proposals} proposals for 100 releases");
}

/// A node whose vault is lost gets its keys from a peer before it serves; cut
/// off from its peers it does not serve and offers leadership away.
#[tokio::test]
async fn a_leader_without_keys_does_not_serve() {
    let bench = Bench::new(3).await;
    let home = Home::meet(&bench.node(1)).await;
    stored(&bench.node(1), home.store(&[1], None)).await;
    bench.depose();
    std::fs::remove_file(bench.vault_dir(2).join(VAULT_FILE)).unwrap();
    bench.wire.cut.store(true, Ordering::SeqCst);
    bench.start(2);
    bench.lead(2);
    let c = bench.node(2);
    tokio::time::sleep(Duration::from_millis(200)).await;
    let ask = CustodianRequest::Release(home.release(1, &[1]));
    let reply = c.answer(&home_node(), ask).await;
    assert!(matches!(reply, CustodianReply::Busy { .. }), "{reply:?}");
    // Its own key file opens its new, empty vault: unlocked, and without a key.
    assert!(c.unlocked() && !c.serves());
    assert!(c.status().unwrap().wrapping_loaded.is_empty());
    bench
        .until(|| bench.shared.handed_over.load(Ordering::SeqCst) > 0)
        .await;
    bench.wire.cut.store(false, Ordering::SeqCst);
    bench.until(|| c.serves()).await;
    assert_eq!(released(&c, &home, 1, &[1]).await, [Ok(true)]);
    let vault = open_vault(&bench.vault_dir(2), 2);
    assert_eq!(vault.keys().count(), 2);
}

#[tokio::test]
async fn a_removed_node_gets_no_key() {
    let bench = Bench::new(3).await;
    bench.shared.members.write().unwrap().remove(&3);
    let stranger = From(3, bench.wire.clone());
    let what = internal::Ask::Fetch {
        kind: KeyKind::Wrapping,
        version: 1,
    };
    let told = internal::ask(&stranger, 1, &what).await;
    assert!(told.is_err_and(|e| e.contains("no member")));
    let member = From(2, bench.wire.clone());
    assert!(matches!(
        internal::ask(&member, 1, &what).await,
        Ok(internal::Told::Key { key: Some(_) })
    ));
}

/// Six seconds ahead of its peers a leader stamps nothing, but a freeze still works.
#[tokio::test]
async fn a_leader_with_a_wrong_clock_proposes_no_timed_command() {
    let bench = Bench::new(3).await;
    let c = bench.node(1);
    let home = Home::meet(&c).await;
    stored(&c, home.store(&[1], None)).await;
    bench.clocks[&1].store(T0 + 6_000, Ordering::SeqCst);
    assert!(c.compare_clocks().await.out());
    let ask = CustodianRequest::Release(home.release(1, &[1]));
    let reply = c.answer(&home_node(), ask).await;
    assert!(matches!(&reply, CustodianReply::Busy { reason, .. } if reason.contains("6000 ms")));
    let frozen = c.freeze(operator(), FreezeScope::All, "now".into()).await;
    assert!(frozen.unwrap().changed);
    assert_eq!(c.status().unwrap().overview.log_time_ms, T0);
    bench.set_clocks(T0 + 6_000);
    assert!(!c.compare_clocks().await.out());
    assert_eq!(released(&c, &home, 1, &[1]).await, [Err(Refusal::Frozen)]);
}

/// Not even its first command after an election, whoever asks for it.
#[tokio::test]
async fn a_new_leader_compares_clocks_before_it_stamps_anything() {
    let bench = Bench::new(3).await;
    let c = bench.node(2);
    bench.clocks[&2].store(T0 + 10 * 365 * DAY, Ordering::SeqCst);
    bench.lead(2);
    let thawed = c.thaw(operator(), FreezeScope::All, "now".into()).await;
    assert!(thawed.is_err(), "{thawed:?}");
    let frozen = c.freeze(operator(), FreezeScope::All, "now".into()).await;
    assert!(frozen.unwrap().changed);
    assert_eq!(c.status().unwrap().overview.log_time_ms, T0);
}

/// A day later there is a new sealing key; when the old one has expired, its
/// private part is gone from every node and what was sealed to it is refused.
#[tokio::test]
async fn sealing_keys_rotate_and_are_destroyed() {
    let bench = Bench::new(3).await;
    let c = bench.node(1);
    let old = Home::meet(&c).await;
    bench.set_clocks(T0 + DAY);
    bench
        .until(|| c.status().unwrap().overview.sealing == Some(2))
        .await;
    // The old one still opens what was sealed before.
    assert_eq!(
        stored(&c, old.store(&[1], None)).await,
        [StoreOutcome::Stored]
    );
    let digest = session_digest(&old.session);
    let remembered = c.0.cache.session(&digest).unwrap();
    bench.set_clocks(T0 + 6 * DAY + 60_000);
    for n in 1..=3 {
        let node = bench.node(n);
        bench
            .until(|| !node.status().unwrap().sealing_loaded.contains(&1))
            .await;
        let vault = open_vault(&bench.vault_dir(n), n);
        assert!(vault.get(KeyKind::Sealing, 1).is_none());
        assert!(vault.get(KeyKind::Wrapping, 1).is_some());
    }
    // Also when a store that began before the destruction remembers the session after it.
    c.0.cache.put_session(digest, 1, remembered);
    let mut claims_more = old.session.clone();
    claims_more.expires_ms = u64::MAX;
    for session in [old.session.clone(), claims_more] {
        let CustodianRequest::Store(mut request) = old.store(&[2], None) else {
            unreachable!()
        };
        request.session = session;
        assert_eq!(
            stored(&c, CustodianRequest::Store(request)).await,
            [StoreOutcome::SealingKeyGone]
        );
    }
    let new = Home::meet(&c).await;
    assert_eq!(
        stored(&c, new.store(&[2], None)).await,
        [StoreOutcome::Stored]
    );
}

#[tokio::test]
async fn shares_are_swept_at_their_time() {
    let bench = Bench::new(1).await;
    let c = bench.node(1);
    let home = Home::meet(&c).await;
    stored(&c, home.store(&[1], Some(T0 + 1_000))).await;
    stored(&c, home.store(&[2], None)).await;
    let held = |c: &Custodian| c.status().unwrap().overview.live;
    assert_eq!(held(&c), [(1, 2)]);
    bench.set_clocks(T0 + 1_000);
    bench.until(|| held(&c) == [(1, 1)]).await;
    assert_eq!(
        released(&c, &home, 1, &[1, 2]).await,
        [Err(Refusal::Tombstoned), Ok(true)]
    );
}

#[tokio::test]
async fn a_wrapping_key_can_be_rotated_while_stores_go_on() {
    let bench = Bench::new(3).await;
    let c = bench.node(1);
    let home = Home::meet(&c).await;
    stored(&c, home.store(&[1], None)).await;
    assert_eq!(c.rotate_key(KeyKind::Wrapping).await, Ok(2));
    stored(&c, home.store(&[2], None)).await;
    assert_eq!(c.status().unwrap().overview.live, [(1, 1), (2, 1)]);
    assert_eq!(released(&c, &home, 1, &[1, 2]).await, [Ok(true), Ok(true)]);
    // Without a majority that keeps it, a version does not come into use.
    bench.wire.cut.store(true, Ordering::SeqCst);
    let e = c.rotate_key(KeyKind::Wrapping).await;
    assert!(
        matches!(&e, Err(OperatorProblem::Refused(why)) if why.contains("majority")),
        "{e:?}"
    );
    assert_eq!(c.status().unwrap().overview.wrapping, Some(2));
    bench.wire.cut.store(false, Ordering::SeqCst);
    assert_eq!(c.rotate_key(KeyKind::Wrapping).await, Ok(3));
}
