//! Wrapping keys follow each other: shares go along, and nothing is lost on the way.

use super::*;
use crate::custodian::vault::{VAULT_FILE, draw};
use quorate_engine::api::keys::{KeysStep, RotateRequest};
use quorate_engine::audit::{self, Entry, EntryKind};
use quorate_engine::custody::protocol::StoreRequest;
use quorate_engine::custody::{VersionState, WrappingKeys};

fn entries(bench: &Bench) -> Vec<Entry> {
    let kv = &bench.shared.state.lock().unwrap().0;
    let size = custody::overview(kv).unwrap().log_size;
    let entry = |i| Entry::from_json(&audit::entry_bytes(kv, i).unwrap().unwrap()).unwrap();
    (0..size).map(entry).collect()
}

fn rewrapped(bench: &Bench) -> Vec<u32> {
    let all = entries(bench);
    let of = all.iter().filter(|e| e.kind == EntryKind::Rewrap);
    of.map(|e| e.rewrapped.unwrap()).collect()
}

fn state(bench: &Bench, version: u32) -> Option<VersionState> {
    let kv = &bench.shared.state.lock().unwrap().0;
    let row = custody::key_version(kv, KeyKind::Wrapping, version).unwrap();
    row.map(|r| r.state)
}

fn wrapping_on_disk(bench: &Bench, node: NodeId) -> Vec<u32> {
    let vault = open_vault(&bench.vault_dir(node), node);
    let of = vault.keys().filter(|(kind, ..)| *kind == KeyKind::Wrapping);
    of.map(|(_, version, _)| version).collect()
}

fn warned(c: &Custodian, what: &str) -> bool {
    let warnings = c.status().unwrap().warnings;
    warnings.iter().any(|w| w.contains(what))
}

async fn only(bench: &Bench, version: u32, nodes: &[NodeId]) {
    for n in nodes {
        bench
            .until(|| wrapping_on_disk(bench, *n) == [version])
            .await;
    }
}

#[tokio::test]
async fn a_wrapping_key_can_be_rotated_while_stores_go_on() {
    let bench = Bench::new(3).await;
    let c = bench.node(1);
    let home = Home::meet(&c).await;
    stored(&c, home.store(&[1], None)).await;
    assert_eq!(c.rotate_key(KeyKind::Wrapping).await, Ok(2));
    stored(&c, home.store(&[2], None)).await;
    let live = c.status().unwrap().overview.live;
    assert_eq!(live.iter().map(|(_, n)| n).sum::<u64>(), 2);
    assert!(live.contains(&(2, 1)) || live.contains(&(2, 2)), "{live:?}");
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

/// Sixty shares at eight a round; the leader changes half way, and the next one is restarted.
#[tokio::test]
async fn shares_move_at_the_set_rate_through_a_change_of_leaders() {
    let bench = Bench::new(3).await;
    let c = bench.node(1);
    let home = Home::meet(&c).await;
    let keys: Vec<u8> = (1..=60).collect();
    stored(&c, home.store(&keys, None)).await;
    assert_eq!(c.rotate_key(KeyKind::Wrapping).await, Ok(2));
    let live = |n| bench.node(n).status().unwrap().overview.live;
    bench.until(|| !rewrapped(&bench).is_empty()).await;
    bench.lead(2);
    assert!(warned(&c, "re-wrapping"));
    assert!(rewrapped(&bench).len() < 8, "it was over before: no test");
    bench.until(|| rewrapped(&bench).len() >= 4).await;
    bench.depose();
    bench.start(2);
    bench.elect(2).await;
    let c = bench.node(2);
    bench.until(|| live(2) == [(2, 60)]).await;
    only(&bench, 2, &[1, 2, 3]).await;
    assert_eq!(state(&bench, 1), Some(VersionState::Dropped));
    let moved = rewrapped(&bench);
    assert!(
        moved.iter().all(|n| *n as usize <= REWRAPS_PER_TICK),
        "{moved:?}"
    );
    assert_eq!(moved.iter().sum::<u32>(), 60, "each once: {moved:?}");
    assert!(!warned(&c, "re-wrapping") && !warned(&c, "are kept until"));
    assert_eq!(released(&c, &home, 1, &keys).await, vec![Ok(true); 60]);
    // A home that comes with what it stored before is told so.
    assert_eq!(
        stored(&c, home.store(&[1], None)).await,
        [StoreOutcome::AlreadyStored]
    );
}

/// The key of a version that came into use only on the dead leader would have taken every share
/// wrapped under it along.
#[tokio::test]
async fn a_leader_that_dies_between_drawing_a_version_and_handing_it_over_loses_no_share() {
    // Cut off before it told anybody: attested by itself alone, or drawn and no more.
    for attested in [true, false] {
        let bench = Bench::new(3).await;
        let c = bench.node(1);
        let home = Home::meet(&c).await;
        let keys: Vec<u8> = (1..=20).collect();
        stored(&c, home.store(&keys, None)).await;
        bench.wire.cut.store(true, Ordering::SeqCst);
        if attested {
            let e = c.rotate_key(KeyKind::Wrapping).await;
            assert!(matches!(&e, Err(OperatorProblem::Refused(why)) if why.contains("majority")));
        } else {
            let key = draw().unwrap();
            c.keep_key(KeyKind::Wrapping, 2, key).await.unwrap();
        }
        assert_eq!(wrapping_on_disk(&bench, 1), [1, 2]);
        stored(&c, home.store(&[21], None)).await;
        bench.kill(1);
        bench.wire.cut.store(false, Ordering::SeqCst);

        bench.elect(2).await;
        let c = bench.node(2);
        let all: Vec<u8> = (1..=21).collect();
        assert_eq!(released(&c, &home, 1, &all).await, vec![Ok(true); 21]);
        // A number that somebody attested is never drawn again.
        let next = if attested { 3 } else { 2 };
        assert_eq!(c.rotate_key(KeyKind::Wrapping).await, Ok(next));
        let live = || bench.node(2).status().unwrap().overview.live;
        bench.until(|| live() == [(1, 0), (next, 21)]).await;
        // Node 1 may come back and lead: what it has must be enough.
        tokio::time::sleep(Duration::from_millis(500)).await;
        assert_eq!(state(&bench, 1), Some(VersionState::InUse));
        assert!(warned(&c, "[1] are kept until nodes {1}"));
        if attested {
            assert_eq!(state(&bench, 2), Some(VersionState::Dropped), "overtaken");
        }

        bench.start(1);
        only(&bench, next, &[1, 2, 3]).await;
        assert_eq!(live(), [(next, 21)]);
        bench.elect(1).await;
        let c = bench.node(1);
        assert_eq!(released(&c, &home, 2, &all).await, vec![Ok(true); 21]);
    }
}

/// What was handed to one node before the leader died is used, not drawn a second time.
#[tokio::test]
async fn a_version_that_was_handed_over_and_not_attested_is_gone_on_with() {
    let bench = Bench::new(3).await;
    let home = Home::meet(&bench.node(1)).await;
    stored(&bench.node(1), home.store(&[1, 2], None)).await;
    let key = draw().unwrap();
    for n in [1, 2] {
        let key = key.duplicate();
        let node = bench.node(n);
        node.keep_key(KeyKind::Wrapping, 2, key).await.unwrap();
    }
    bench.kill(1);
    bench.elect(2).await;
    let c = bench.node(2);
    assert_eq!(c.rotate_key(KeyKind::Wrapping).await, Ok(2));
    bench.start(1);
    only(&bench, 2, &[1, 2, 3]).await;
    assert_eq!(released(&c, &home, 1, &[1, 2]).await, [Ok(true), Ok(true)]);
}

#[tokio::test]
async fn a_month_later_the_next_version_comes_by_itself() {
    let bench = Bench::new(3).await;
    let c = bench.node(1);
    let home = Home::meet(&c).await;
    stored(&c, home.store(&[1], None)).await;
    bench.set_clocks(T0 + 30 * DAY - 1_000);
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(c.status().unwrap().overview.wrapping, Some(1));
    bench.set_clocks(T0 + 30 * DAY);
    only(&bench, 2, &[1, 2, 3]).await;
    assert_eq!(c.status().unwrap().overview.live, [(2, 1)]);
}

/// Two nodes that cannot be reached keep a rotation from happening, and nothing else.
#[tokio::test]
async fn a_rotation_that_lacks_nodes_does_not_hold_up_the_sweep() {
    let bench = Bench::new(3).await;
    let c = bench.node(1);
    let home = Home::meet(&c).await;
    stored(&c, home.store(&[1], Some(T0 + 30 * DAY))).await;
    bench.wire.cut.store(true, Ordering::SeqCst);
    bench.set_clocks(T0 + 30 * DAY);
    bench
        .until(|| {
            c.status()
                .unwrap()
                .overview
                .live
                .iter()
                .all(|(_, n)| *n == 0)
        })
        .await;
    assert_eq!(c.status().unwrap().overview.wrapping, Some(1));
    // Once drawn it is the same version that is tried again.
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(wrapping_on_disk(&bench, 1), [1, 2]);
    bench.wire.cut.store(false, Ordering::SeqCst);
    only(&bench, 2, &[1, 2, 3]).await;
}

#[tokio::test]
async fn an_operator_who_asks_twice_rotates_once_and_stands_in_the_log() {
    let bench = Bench::new(1).await;
    let c = bench.node(1);
    let ask = |kind: &str, reason: &str| {
        let (kind, reason) = (kind.to_owned(), reason.to_owned());
        KeysStep::Rotate(RotateRequest { kind, reason })
    };
    bench.set_clocks(T0 + 60_000);
    let done = c.keys_step(operator(), ask("wrapping", "a drill")).await;
    assert_eq!(done.unwrap().detail, "wrapping version 2 is in use");
    let again = c.keys_step(operator(), ask("wrapping", "a drill")).await;
    assert!(again.unwrap().detail.contains("nothing to do"));
    let found = || {
        let all = entries(&bench);
        let of = all.into_iter().filter(|e| e.kind == EntryKind::KeyRotation);
        of.collect::<Vec<_>>()
    };
    bench.until(|| !found().is_empty()).await;
    let entry = found().remove(0);
    assert_eq!(entry.operator.unwrap().name, "olga");
    assert!(entry.reason.unwrap().contains("a drill"));
    for bad in [
        ask("other", "x"),
        ask("wrapping", ""),
        ask("wrapping", &"x".repeat(501)),
    ] {
        assert!(c.keys_step(operator(), bad).await.is_err());
    }
    let done = c.keys_step(operator(), ask("sealing", "a drill")).await;
    assert_eq!(done.unwrap().detail, "sealing version 2 is in use");
}

/// How many of a home's sealed shares open with the vault in `dir`.
fn opened(dir: &Path, outbox: &StoreRequest) -> usize {
    let ring = Ring::of(&open_vault(dir, 1));
    let key = ring.sealing(outbox.session.version).map(|k| &**k);
    // What the session says of its end keeps no thief from trying.
    let Ok(receiver) = custody::open_session(&place(), key, &outbox.session, T0) else {
        return 0;
    };
    let wrapping = (1, ring.wrapping_key(1).unwrap());
    let mut rng = rand::rng();
    let prepared = custody::prepare_store(&place(), &receiver, wrapping, outbox, &mut rng);
    match prepared.command {
        Some(custody::Command::StoreShares(done)) => done.items.len(),
        _ => 0,
    }
}

/// A home's log and outbox of then hold shares sealed to the version of that day.
#[tokio::test]
async fn an_old_outbox_opens_with_an_image_of_its_sealing_key_only() {
    let bench = Bench::new(1).await;
    let c = bench.node(1);
    let home = Home::meet(&c).await;
    let CustodianRequest::Store(outbox) = home.store(&[1, 2], None) else {
        unreachable!()
    };
    let vault = bench.vault_dir(1);
    let image = tempfile::tempdir().unwrap();
    std::fs::copy(vault.join(VAULT_FILE), image.path().join(VAULT_FILE)).unwrap();
    assert_eq!(opened(&vault, &outbox), 2);
    // Five days later it is drained still: a version lives six days.
    bench.set_clocks(T0 + 5 * DAY);
    bench
        .until(|| c.status().unwrap().overview.sealing == Some(2))
        .await;
    assert_eq!(
        stored(&c, home.store(&[1], None)).await,
        [StoreOutcome::Stored]
    );
    bench.set_clocks(T0 + 6 * DAY + 60_000);
    bench
        .until(|| open_vault(&vault, 1).get(KeyKind::Sealing, 1).is_none())
        .await;
    assert_eq!(opened(&vault, &outbox), 0, "today's vault");
    assert_eq!(opened(image.path(), &outbox), 2, "its own vault and root");
}
