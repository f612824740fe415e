//! A node that restarts without people, and the peer that decides whether it gets its keys.

use super::*;
use crate::custodian::internal::Told;
use quorate_engine::api::keys::{KeysStep, LockRequest};
use quorate_engine::audit::{self, Entry, EntryKind};

/// Three nodes; the first has seen the others prove what they hold.
async fn proved(window: Duration) -> Bench {
    let mut bench = Bench::without_nodes(3, Duration::ZERO);
    bench.handover_max = window;
    for n in 1..=3 {
        bench.start(n);
    }
    bench.elect(1).await;
    let c = bench.node(1);
    let all = BTreeSet::from([1, 2, 3]);
    bench
        .until(|| c.status().unwrap().overview.wrapping_lacking.is_empty())
        .await;
    // Before a node is sent the next version it proves that it holds one.
    assert_eq!(c.rotate_key(KeyKind::Sealing).await, Ok(2));
    bench
        .until(|| {
            let kv = &bench.shared.state.lock().unwrap().0;
            let row = custody::key_version(kv, KeyKind::Sealing, 2).unwrap();
            row.is_some_and(|r| r.attested == all)
        })
        .await;
    bench
}

fn handovers(bench: &Bench) -> Vec<(bool, NodeId)> {
    let kv = &bench.shared.state.lock().unwrap().0;
    let size = custody::overview(kv).unwrap().log_size;
    let entry = |i| Entry::from_json(&audit::entry_bytes(kv, i).unwrap().unwrap()).unwrap();
    let of = (0..size).map(entry);
    of.filter(|e| e.kind == EntryKind::KeyHandover)
        .map(|e| (e.refused.is_none(), e.node.unwrap()))
        .collect()
}

#[tokio::test]
async fn a_restarted_node_is_given_its_keys_once_and_the_log_says_so_first() {
    let bench = proved(CustodianOptions::default().handover_max).await;
    bench.start_locked(2);
    assert!(!bench.node(2).unlocked());
    bench.until(|| bench.node(2).unlocked()).await;
    assert_eq!(handovers(&bench), [(true, 2)]);
    let versions = |n| bench.node(n).status().unwrap();
    assert_eq!(versions(2).sealing_loaded, versions(1).sealing_loaded);
    assert_eq!(versions(2).wrapping_loaded, versions(1).wrapping_loaded);
    // A second time within fifteen minutes its people must come.
    bench.start_locked(2);
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(!bench.node(2).unlocked());
    assert_eq!(
        handovers(&bench).iter().filter(|(done, _)| *done).count(),
        1
    );
}

#[tokio::test]
async fn after_the_window_nothing_is_handed_over() {
    let window = Duration::from_millis(200);
    let bench = proved(window).await;
    bench.kill(2);
    tokio::time::sleep(window).await;
    bench.start_locked(2);
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(!bench.node(2).unlocked());
    for giver in [1, 3] {
        let told = bench.node(giver).hand_keys_to(2).await;
        assert!(matches!(&told, Told::No { reason } if reason.contains("within the window")));
    }
    assert!(handovers(&bench).is_empty(), "nothing was to be recorded");
}

#[tokio::test]
async fn locking_drops_the_keys_at_once_and_closes_the_window() {
    let bench = proved(CustodianOptions::default().handover_max).await;
    let node = bench.node(2);
    let lock = KeysStep::Lock(LockRequest {
        reason: "a drill".into(),
    });
    let done = node.keys_step(operator(), lock).await.unwrap();
    assert!(done.detail.contains("its keys are dropped"));
    // Not in a while: with the answer.
    let status = node.status().unwrap();
    assert!(!node.unlocked() && !status.serves);
    assert!(status.wrapping_loaded.is_empty() && status.sealing_loaded.is_empty());
    assert_eq!(node.0.vault.lock().unwrap().keys().count(), 0);
    // Not after a restart either, and whoever takes the node's place gets nothing from its peers.
    bench.start_locked(2);
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(!bench.node(2).unlocked());
    for giver in [1, 3] {
        let told = bench.node(giver).hand_keys_to(2).await;
        assert!(matches!(told, Told::No { .. }));
    }
    assert!(handovers(&bench).is_empty());
    bench.start(2);
    assert!(bench.node(2).unlocked(), "its people came");
}
