//! Conformance: every store behaves like a `BTreeMap`, through transactions,
//! views that stay still, replacement, and what each promises over a stop.

use super::crash::{CrashDisk, CrashStore};
use super::memory::MemoryStore;
use super::*;
use proptest::prelude::*;
use quorate_engine::types::kv::{Kv, MemKv};

const CACHE_BYTES: usize = 1 << 20;

/// How a store of one kind is opened again.
trait Home {
    fn open(&self) -> Arc<dyn Store>;
    /// What a killed process leaves, opened again.
    fn killed(&self, store: Arc<dyn Store>) -> Arc<dyn Store> {
        drop(store);
        self.open()
    }
}

struct OnDisk(StoreKind, tempfile::TempDir);
impl Home for OnDisk {
    fn open(&self) -> Arc<dyn Store> {
        super::open(self.0, self.1.path(), CACHE_BYTES).unwrap()
    }
    fn killed(&self, store: Arc<dyn Store>) -> Arc<dyn Store> {
        // Dropping a redb database is a clean stop that keeps everything; a
        // kill is what lies in the file before that.
        let (now, then) = (
            self.1.path().join("state.redb"),
            self.1.path().join("killed"),
        );
        let copied = std::fs::copy(&now, &then);
        drop(store);
        if copied.is_ok() {
            std::fs::rename(&then, &now).unwrap();
        }
        self.open()
    }
}

struct Crash(CrashDisk);
impl Home for Crash {
    fn open(&self) -> Arc<dyn Store> {
        Arc::new(CrashStore::open(self.0.clone()))
    }
}

struct Memory;
impl Home for Memory {
    fn open(&self) -> Arc<dyn Store> {
        Arc::new(MemoryStore::default())
    }
}

fn homes() -> Vec<Box<dyn Home>> {
    vec![
        Box::new(OnDisk(StoreKind::Redb, tempfile::tempdir().unwrap())),
        Box::new(OnDisk(StoreKind::Sled, tempfile::tempdir().unwrap())),
        Box::new(Memory),
        Box::new(Crash(CrashDisk::default())),
    ]
}

#[derive(Clone, Debug)]
enum Step {
    Put(Vec<u8>, Vec<u8>),
    Delete(Vec<u8>),
    Get(Vec<u8>),
    Scan(Vec<u8>, Vec<u8>, usize, bool),
}

/// Short keys over few bytes, so that they collide and border on each other.
fn key() -> impl Strategy<Value = Vec<u8>> {
    proptest::collection::vec(prop_oneof![Just(0u8), Just(1), Just(7), Just(255)], 1..4)
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (key(), proptest::collection::vec(any::<u8>(), 0..20)).prop_map(|(k, v)| Step::Put(k, v)),
        2 => key().prop_map(Step::Delete),
        1 => key().prop_map(Step::Get),
        3 => (key(), key(), 0usize..6, any::<bool>()).prop_map(|(a, b, n, r)| Step::Scan(a, b, n, r)),
    ]
}

fn rows(view: &dyn View) -> MemKv {
    let mut out = MemKv::default();
    walk::<KvError>(view, |k, v| out.put(k, v)).unwrap();
    out
}

fn run(kv: &mut dyn Kv, model: &mut MemKv, steps: &[Step]) -> Result<(), TestCaseError> {
    for s in steps {
        match s {
            Step::Put(k, v) => {
                kv.put(k, v).unwrap();
                model.put(k, v).unwrap();
            }
            Step::Delete(k) => {
                kv.delete(k).unwrap();
                model.delete(k).unwrap();
            }
            Step::Get(k) => prop_assert_eq!(kv.get(k).unwrap(), model.get(k).unwrap()),
            Step::Scan(a, b, n, r) => {
                prop_assert_eq!(
                    kv.scan(a, b, *n, *r).unwrap(),
                    model.scan(a, b, *n, *r).unwrap()
                );
            }
        }
    }
    Ok(())
}

fn read_all(store: &dyn Store) -> (MemKv, Option<Vec<u8>>) {
    let mut out = (MemKv::default(), None);
    store
        .read(&mut |v| out = (rows(v), v.meta().unwrap()))
        .unwrap();
    out
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn every_store_behaves_like_a_map(
        batches in proptest::collection::vec((proptest::collection::vec(step(), 0..25), any::<bool>()), 1..6),
        load in proptest::collection::btree_map(key(), key(), 0..20),
    ) {
        for home in homes() {
            let store = home.open();
            let name = store.name();
            let mut model = MemKv::default();
            let mut durable = (MemKv::default(), None);
            for (n, (steps, sync)) in batches.iter().enumerate() {
                let base = store.view().unwrap();
                let before = model.clone();
                let mut txn = Txn::new(&*base);
                run(&mut txn, &mut model, steps)?;
                let meta = vec![n as u8];
                store.commit(txn.into_changes(Some(meta.clone())), *sync).unwrap();
                prop_assert_eq!(rows(&*base), before, "{}: a view must stay still", name);
                prop_assert_eq!(read_all(&*store), (model.clone(), Some(meta.clone())), "{}", name);
                if *sync {
                    durable = (model.clone(), Some(meta));
                }
            }
            // Without close(): as a killed process leaves it.
            let store = home.killed(store);
            let expected = match name {
                "redb" | "crash" => durable,
                _ => (MemKv::default(), None),
            };
            prop_assert_eq!(read_all(&*store), expected, "{} after a kill", name);
            // Replacement is durable and complete.
            let mut chunks = load.clone().into_iter().collect::<Vec<_>>();
            let mut source = || Ok(chunks.drain(..chunks.len().min(7)).collect());
            store.replace(&mut source, b"loaded".to_vec()).unwrap();
            let loaded = (MemKv(load.clone()), Some(b"loaded".to_vec()));
            prop_assert_eq!(read_all(&*store), loaded.clone(), "{} replaced", name);
            store.close().unwrap();
            drop(store);
            if name != "memory" {
                prop_assert_eq!(read_all(&*home.open()), loaded, "{} after a clean stop", name);
            }
        }
    }
}

#[test]
fn empty_keys_and_large_values_are_kept() {
    for home in homes() {
        let store = home.open();
        let big = vec![9u8; 3 << 20];
        let mut changes = Changes::default();
        changes.rows.insert(vec![], Some(b"empty".to_vec()));
        changes.rows.insert(vec![0xff; 300], Some(big.clone()));
        store.commit(changes, true).unwrap();
        store
            .read(&mut |v| {
                assert_eq!(v.get(&[]).unwrap().as_deref(), Some(&b"empty"[..]));
                assert_eq!(v.get(&[0xff; 300]).unwrap().as_ref(), Some(&big));
                assert_eq!(v.rows_after(None, 9).unwrap().len(), 2);
                assert_eq!(v.scan(&[1], &[0], 9, false).unwrap(), vec![]);
            })
            .unwrap();
    }
}

/// Changes that lie in memory go into the tree once there are enough of them; readers of before
/// keep what they saw, and a kill loses all that no durable commit followed.
#[test]
fn recent_changes_move_into_the_tree_unseen() {
    let home = OnDisk(StoreKind::Redb, tempfile::tempdir().unwrap());
    let store = home.open();
    let mut model = MemKv::default();
    let mut held: Vec<(Arc<dyn View>, MemKv)> = Vec::new();
    let mut durable = MemKv::default();
    for round in 0..60u32 {
        let mut changes = Changes::default();
        for n in 0..20u32 {
            // Some keys come again and again, some once; some go.
            let n = if n < 4 { n } else { round * 20 + n };
            let key = [&b"k"[..], &n.to_be_bytes()].concat();
            let gone = (round + n).is_multiple_of(7);
            let value = (!gone).then(|| vec![round as u8; 4 << 10]);
            changes.rows.insert(key, value);
        }
        for (k, v) in &changes.rows {
            match v {
                Some(v) => model.put(k, v).unwrap(),
                None => model.delete(k).unwrap(),
            }
        }
        changes.meta = Some(vec![round as u8]);
        store.commit(changes, round == 30).unwrap();
        if round == 30 {
            durable = model.clone();
        }
        if round % 8 == 0 {
            held.push((store.view().unwrap(), model.clone()));
        }
        store
            .read(&mut |v| {
                assert_eq!(v.meta().unwrap(), Some(vec![round as u8]));
                for reverse in [false, true] {
                    for limit in [1, 3, 1000] {
                        assert_eq!(
                            v.scan(b"k", b"l", limit, reverse).unwrap(),
                            model.scan(b"k", b"l", limit, reverse).unwrap(),
                            "round {round}, limit {limit}, reverse {reverse}"
                        );
                    }
                }
            })
            .unwrap();
    }
    let bytes: usize = model.0.values().map(Vec::len).sum();
    assert!(bytes > 3 * CACHE_BYTES, "it moved several times");
    for (view, then) in held.drain(..) {
        assert!(rows(&*view) == then, "a view stays still");
    }
    let store = home.killed(store);
    assert!(read_all(&*store).0 == durable);
}

#[test]
fn a_newer_redb_format_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s.redb");
    drop(redb::RedbStore::open(&path, CACHE_BYTES).unwrap());
    {
        let db = ::redb::Database::open(&path).unwrap();
        let txn = db.begin_write().unwrap();
        let table: ::redb::TableDefinition<'_, &str, &[u8]> = ::redb::TableDefinition::new("meta");
        txn.open_table(table)
            .unwrap()
            .insert("format", &[9u8][..])
            .unwrap();
        txn.commit().unwrap();
    }
    let e = redb::RedbStore::open(&path, CACHE_BYTES).err().unwrap();
    assert!(matches!(e, StoreError::Newer { version: 9, .. }), "{e}");
}

#[test]
fn sled_without_a_clean_stop_is_wiped() {
    let dir = tempfile::tempdir().unwrap();
    let put = |store: &dyn Store| {
        let mut c = Changes::default();
        c.rows.insert(b"k".to_vec(), Some(b"v".to_vec()));
        store.commit(c, true).unwrap();
    };
    let open = || super::open(StoreKind::Sled, dir.path(), CACHE_BYTES).unwrap();
    let store = open();
    put(&*store);
    drop(store);
    assert!(read_all(&*open()).0.0.is_empty(), "killed: wiped");
    let store = open();
    put(&*store);
    store.close().unwrap();
    drop(store);
    assert_eq!(read_all(&*open()).0.0.len(), 1, "stopped cleanly: kept");
    assert!(read_all(&*open()).0.0.is_empty(), "the mark counts once");
}
