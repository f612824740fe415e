//! openraft's own storage suite on our log and state machine, for each store.

use super::{LogStore, StateMachine, TypeConfig};
use crate::store::crash::{CrashDisk, CrashStore};
use crate::store::{self, Store, StoreKind};
use crate::wal::{Fatal, Wal, WalOptions};
use openraft::StorageError;
use openraft::testing::log::{StoreBuilder, Suite};
use quorate_engine::types::kv::{Kv, KvError, Machine, Position};
use std::sync::Arc;

struct Nothing;
impl Machine for Nothing {
    fn apply(&self, kv: &mut dyn Kv, at: Position, c: &[u8]) -> Result<Vec<u8>, KvError> {
        kv.put(&at.index.to_be_bytes(), c)?;
        Ok(c.to_vec())
    }
}

struct Build(&'static str);

impl StoreBuilder<TypeConfig, LogStore, StateMachine, (tempfile::TempDir, Wal)> for Build {
    async fn build(
        &self,
    ) -> Result<((tempfile::TempDir, Wal), LogStore, StateMachine), StorageError<TypeConfig>> {
        let dir = tempfile::tempdir().unwrap();
        let fatal = Fatal::new(|why| panic!("{why}"));
        let options = WalOptions {
            fatal: fatal.clone(),
            ..WalOptions::default()
        };
        let wal = Wal::open(&dir.path().join("wal"), options).unwrap();
        let store: Arc<dyn Store> = match self.0 {
            "crash" => Arc::new(CrashStore::open(CrashDisk::default())),
            kind => {
                let kind: StoreKind = kind.parse().unwrap();
                store::open(kind, &dir.path().join("0"), 1 << 20).unwrap()
            }
        };
        let log = LogStore::new(wal.group(0));
        let group_dir = dir.path().join("0");
        let sm = StateMachine::open(store, Arc::new(Nothing), &group_dir, 0, wal.group(0), fatal)
            .unwrap();
        Ok(((dir, wal), log, sm))
    }
}

fn suite(store: &'static str) {
    let rt = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build();
    rt.unwrap().block_on(Suite::test_all(Build(store))).unwrap();
}

#[test]
fn openraft_suite_passes_on_redb() {
    suite("redb");
}
#[test]
fn openraft_suite_passes_on_sled() {
    suite("sled");
}
#[test]
fn openraft_suite_passes_on_memory() {
    suite("memory");
}
#[test]
fn openraft_suite_passes_on_crash() {
    suite("crash");
}
