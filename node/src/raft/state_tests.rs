//! The state machine with log and snapshots: restarts, installs, refusals.

use super::snapshot::{self, Reader, SnapshotError};
use super::state_machine::{StateError, StateMachine, StateReader};
use super::{Command, Entry, LeaderId, LogId, LogStore, SnapshotFile};
use crate::store::crash::{CrashDisk, CrashStore};
use crate::store::{self, Store, StoreKind};
use crate::wal::{Fatal, Wal, WalOptions};
use openraft::storage::{RaftLogStorage, RaftLogStorageExt, RaftStateMachine};
use openraft::{EntryPayload, RaftSnapshotBuilder, StorageHelper};
use quorate_engine::types::kv::{Kv, KvError, KvRead, Machine, Position};
use std::path::Path;
use std::sync::Arc;

/// Keeps the last 40 commands by index, and a running count.
struct Counter;
impl Machine for Counter {
    fn apply(&self, kv: &mut dyn Kv, at: Position, c: &[u8]) -> Result<Vec<u8>, KvError> {
        let n = kv
            .get(b"count")?
            .map_or(0, |b| u64::from_be_bytes(b.try_into().unwrap()))
            + 1;
        kv.put(b"count", &n.to_be_bytes())?;
        kv.put(&[b"e".as_slice(), &at.index.to_be_bytes()].concat(), c)?;
        if at.index > 40 {
            kv.delete(&[b"e".as_slice(), &(at.index - 40).to_be_bytes()].concat())?;
        }
        Ok(n.to_be_bytes().to_vec())
    }
}

fn id(index: u64) -> LogId {
    LogId::new(
        LeaderId {
            term: 1,
            node_id: 1,
        },
        index,
    )
}

fn entry(index: u64) -> Entry {
    Entry {
        log_id: id(index),
        payload: EntryPayload::Normal(Command(vec![index as u8; 30])),
    }
}

struct Node {
    log: LogStore,
    sm: StateMachine,
    reader: StateReader,
    _wal: Wal,
}

fn open(dir: &Path, kind: &str, disk: &CrashDisk) -> Result<Node, StateError> {
    let fatal = Fatal::new(|why| panic!("{why}"));
    let options = WalOptions {
        fatal: fatal.clone(),
        segment_bytes: 4096,
        ..WalOptions::default()
    };
    let wal = Wal::open(&dir.join("wal"), options)?;
    let store: Arc<dyn Store> = match kind {
        "crash" => Arc::new(CrashStore::open(disk.clone())),
        kind => store::open(kind.parse::<StoreKind>().unwrap(), &dir.join("0"), 1 << 20)?,
    };
    let g = wal.group(0);
    let sm = StateMachine::open(
        store,
        Arc::new(Counter),
        &dir.join("0"),
        0,
        g.clone(),
        fatal,
    )?;
    let reader = sm.reader();
    Ok(Node {
        log: LogStore::new(g),
        sm,
        reader,
        _wal: wal,
    })
}

impl Node {
    async fn write(&mut self, from: u64, to: u64) {
        self.log
            .blocking_append((from..=to).map(entry))
            .await
            .unwrap();
        self.log.save_committed(Some(id(to))).await.unwrap();
        let items = (from..=to).map(|i| Ok((entry(i), None)));
        self.sm.apply(futures::stream::iter(items)).await.unwrap();
    }
    async fn snapshot(&mut self) -> super::Snapshot {
        let mut b = self.sm.get_snapshot_builder().await;
        b.build_snapshot().await.unwrap()
    }
    async fn restart(&mut self) {
        StorageHelper::new(&mut self.log, &mut self.sm)
            .with_id(1)
            .get_initial_state()
            .await
            .unwrap();
    }
}

fn block<F: std::future::Future>(f: F) -> F::Output {
    let rt = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build();
    rt.unwrap().block_on(f)
}

const KINDS: [&str; 4] = ["redb", "sled", "memory", "crash"];

#[test]
fn a_kill_at_any_stage_loses_nothing_committed_and_hashes_agree() {
    block(async {
        let mut hashes = Vec::new();
        for kind in KINDS {
            let (dir, disk) = (tempfile::tempdir().unwrap(), CrashDisk::default());
            let mut n = open(dir.path(), kind, &disk).unwrap();
            n.write(0, 50).await;
            // Killed before any snapshot: everything comes from the log.
            drop(n);
            let mut n = open(dir.path(), kind, &disk).unwrap();
            n.restart().await;
            assert_eq!(n.reader.applied().map(|l| l.index), Some(50), "{kind}");
            n.write(51, 80).await;
            let s = n.snapshot().await;
            assert_eq!(s.meta.last_log_id, Some(id(80)));
            n.write(81, 99).await;
            n.log.purge(id(80)).await.unwrap();
            n.write(100, 120).await;
            let expected = n.reader.state_hash().unwrap();
            assert_eq!(expected.0, Some(120));
            drop(n);
            let mut n = open(dir.path(), kind, &disk).unwrap();
            n.restart().await;
            assert_eq!(n.reader.state_hash().unwrap(), expected, "{kind}");
            let count = n
                .reader
                .view(|kv: &dyn KvRead| kv.get(b"count").unwrap())
                .unwrap();
            assert_eq!(
                count,
                Some(121u64.to_be_bytes().to_vec()),
                "{kind}: once each"
            );
            hashes.push(expected);
        }
        assert!(
            hashes.windows(2).all(|w| w[0] == w[1]),
            "equal on every store"
        );
    });
}

#[test]
fn an_installed_snapshot_survives_and_the_log_may_be_purged_to_it() {
    block(async {
        for kind in KINDS {
            let (a, disk) = (tempfile::tempdir().unwrap(), CrashDisk::default());
            let mut from = open(a.path(), kind, &disk).unwrap();
            from.write(0, 70).await;
            let s = from.snapshot().await;
            let (b, disk) = (tempfile::tempdir().unwrap(), CrashDisk::default());
            let mut to = open(b.path(), kind, &disk).unwrap();
            to.write(0, 5).await;
            let path = to.reader.incoming_dir().join("arrived");
            std::fs::copy(&s.snapshot.path, &path).unwrap();
            let file = SnapshotFile {
                path,
                ..s.snapshot.clone()
            };
            to.sm.install_snapshot(&s.meta, file).await.unwrap();
            to.log.purge(id(70)).await.unwrap();
            assert_eq!(
                to.reader.state_hash().unwrap(),
                from.reader.state_hash().unwrap()
            );
            to.log.blocking_append([entry(71)]).await.unwrap();
            drop(to);
            let mut to = open(b.path(), kind, &disk).unwrap();
            to.restart().await;
            assert_eq!(
                to.reader.state_hash().unwrap(),
                from.reader.state_hash().unwrap(),
                "{kind}"
            );
            assert_eq!(
                to.log.get_log_state().await.unwrap().last_purged_log_id,
                Some(id(70))
            );
        }
    });
}

#[test]
fn a_state_behind_the_log_is_refused() {
    block(async {
        for kind in KINDS {
            let (dir, disk) = (tempfile::tempdir().unwrap(), CrashDisk::default());
            let mut n = open(dir.path(), kind, &disk).unwrap();
            n.write(0, 30).await;
            n.snapshot().await;
            n.log.purge(id(30)).await.unwrap();
            n.write(31, 32).await;
            drop(n);
            // Somebody removed state and snapshots, but not the log.
            std::fs::remove_dir_all(dir.path().join("0")).unwrap();
            let e = open(dir.path(), kind, &CrashDisk::default()).err().unwrap();
            let behind = matches!(
                e,
                StateError::Behind {
                    applied: None,
                    purged: 30,
                    ..
                }
            );
            assert!(behind, "{kind}: {e}");
        }
    });
}

#[test]
fn any_damaged_byte_of_a_snapshot_is_noticed() {
    block(async {
        let dir = tempfile::tempdir().unwrap();
        let mut n = open(dir.path(), "memory", &CrashDisk::default()).unwrap();
        n.write(0, 60).await;
        let s = n.snapshot().await;
        let good = std::fs::read(&s.snapshot.path).unwrap();
        assert_eq!(
            Reader::open(&s.snapshot.path).unwrap().verify().unwrap(),
            42
        );
        let bad = dir.path().join("bad");
        let check = |bytes: &[u8], what: &str| {
            std::fs::write(&bad, bytes).unwrap();
            let r = Reader::open(&bad).and_then(Reader::verify);
            assert!(r.is_err(), "{what} went unnoticed");
        };
        for at in 0..good.len() {
            let mut b = good.clone();
            b[at] ^= 1;
            check(&b, &format!("a flip at {at}"));
            check(&good[..at], &format!("a cut at {at}"));
        }
        check(&[&good[..], b"x"].concat(), "one byte more");
        let mut newer = good.clone();
        newer[8] = 9;
        std::fs::write(&bad, &newer).unwrap();
        assert!(matches!(
            Reader::open(&bad),
            Err(SnapshotError::Newer { version: 9, .. })
        ));
        // And a node refuses to install one, keeping its state.
        let before = n.reader.state_hash().unwrap();
        let mut b = good.clone();
        b[good.len() / 2] ^= 1;
        std::fs::write(&bad, &b).unwrap();
        let file = SnapshotFile {
            id: "bad".into(),
            path: bad.clone(),
            len: b.len() as u64,
        };
        assert!(n.sm.install_snapshot(&s.meta, file).await.is_err());
        assert_eq!(n.reader.state_hash().unwrap(), before);
    });
}

#[test]
fn ids_that_are_no_file_names_are_replaced() {
    assert!(!snapshot::is_id("../x") && !snapshot::is_id("") && !snapshot::is_id("A"));
    assert!(snapshot::is_id("0-1-2-3-00ff"));
}

#[test]
fn the_dump_shows_structure_and_no_content() {
    use crate::storage::{Storage, StorageOptions};
    let dir = tempfile::tempdir().unwrap();
    let canary = b"canary-canary-canary".to_vec();
    block(async {
        let s = Storage::open(dir.path(), StorageOptions::default()).unwrap();
        let mut g = s.group(3, Arc::new(Counter)).unwrap();
        let payload = EntryPayload::Normal(Command(canary.clone()));
        let e = Entry {
            log_id: id(0),
            payload,
        };
        g.log.blocking_append([e.clone()]).await.unwrap();
        g.state
            .apply(futures::stream::iter([Ok((e, None))]))
            .await
            .unwrap();
        g.state
            .get_snapshot_builder()
            .await
            .build_snapshot()
            .await
            .unwrap();
        s.close().unwrap();
    });
    let mut out = Vec::new();
    crate::dump::write(dir.path(), true, false, &mut out).unwrap();
    let text = String::from_utf8(out).unwrap();
    assert!(text.contains("entry 1-1-0 Command 20 bytes"), "{text}");
    assert!(text.contains(&format!("table {}: 1 rows", b'e')), "{text}");
    assert!(text.contains("whole, 2 rows"), "{text}");
    assert!(
        !text.contains("canary") && !text.contains(&hex::encode(&canary)),
        "{text}"
    );
}
