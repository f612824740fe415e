//! A disk in memory that remembers what was never synced, counts and orders
//! every operation, and can lose power after any of them.

use super::disk::{Disk, DiskFile};
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

/// Unit in which an unsynced write reaches the disk or does not.
const SECTOR_BYTES: usize = 64;

#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    Create(PathBuf),
    Write(PathBuf, u64, Vec<u8>),
    Sync(PathBuf),
    SyncDir,
    Remove(PathBuf),
    Ack(u64),
}

#[derive(Clone, Default)]
struct Node {
    now: Vec<u8>,
    durable: Vec<u8>,
    pending: Vec<Pending>,
    entry_durable: bool,
    removal_durable: bool,
}

#[derive(Clone)]
enum Pending {
    Write(usize, Vec<u8>),
    SetLen(usize),
}

fn put(v: &mut Vec<u8>, at: usize, bytes: &[u8]) {
    if v.len() < at + bytes.len() {
        v.resize(at + bytes.len(), 0);
    }
    v[at..at + bytes.len()].copy_from_slice(bytes);
}

#[derive(Default)]
struct State {
    files: BTreeMap<PathBuf, Node>,
    removed: BTreeMap<PathBuf, Node>,
    events: Vec<Event>,
    ops_left: Option<u64>,
    fail_sync: bool,
}

#[derive(Clone, Default)]
pub struct TestDisk(Arc<Mutex<State>>);

struct TestFile(TestDisk, PathBuf);

impl TestDisk {
    fn op<R>(&self, f: impl FnOnce(&mut State) -> io::Result<R>) -> io::Result<R> {
        let mut s = self.0.lock().unwrap();
        match &mut s.ops_left {
            Some(0) => return Err(io::Error::other("no power")),
            Some(n) => *n -= 1,
            None => {}
        }
        f(&mut s)
    }

    /// Loses power after `n` more operations.
    pub fn power_for(&self, n: u64) {
        self.0.lock().unwrap().ops_left = Some(n);
    }

    pub fn fail_syncs(&self) {
        self.0.lock().unwrap().fail_sync = true;
    }

    pub fn ack(&self, id: u64) {
        self.0.lock().unwrap().events.push(Event::Ack(id));
    }

    pub fn events(&self) -> Vec<Event> {
        self.0.lock().unwrap().events.clone()
    }

    pub fn files(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        let s = self.0.lock().unwrap();
        s.files
            .iter()
            .map(|(k, v)| (k.clone(), v.now.clone()))
            .collect()
    }

    /// A disk that holds exactly `files`, durably.
    pub fn with(files: BTreeMap<PathBuf, Vec<u8>>) -> Self {
        let d = Self::default();
        d.0.lock().unwrap().files = files
            .into_iter()
            .map(|(k, v)| {
                (
                    k,
                    Node {
                        now: v.clone(),
                        durable: v,

                        entry_durable: true,
                        ..Node::default()
                    },
                )
            })
            .collect();
        d
    }

    /// What a power cut now leaves; `coin` decides what of the unsynced got through.
    pub fn cut(&self, mut coin: impl FnMut() -> bool) -> Self {
        let s = self.0.lock().unwrap();
        let mut files = BTreeMap::new();
        for (gone, (path, n)) in s
            .files
            .iter()
            .map(|f| (false, f))
            .chain(s.removed.iter().map(|f| (true, f)))
        {
            if n.removal_durable || ((gone || !n.entry_durable) && !coin()) {
                continue;
            }
            let mut bytes = n.durable.clone();
            for p in &n.pending {
                match p {
                    Pending::SetLen(l) if coin() => bytes.resize(*l, 0),
                    Pending::SetLen(_) => {}
                    Pending::Write(at, w) => {
                        for (i, part) in w.chunks(SECTOR_BYTES).enumerate() {
                            if coin() {
                                put(&mut bytes, at + i * SECTOR_BYTES, part);
                            }
                        }
                    }
                }
            }
            files.entry(path.clone()).or_insert(bytes);
        }
        Self::with(files)
    }
}

impl DiskFile for TestFile {
    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.0.op(|s| {
            s.events
                .push(Event::Write(self.1.clone(), offset, bytes.to_vec()));
            let n = s.files.get_mut(&self.1).ok_or(io::ErrorKind::NotFound)?;
            put(&mut n.now, offset as usize, bytes);
            n.pending
                .push(Pending::Write(offset as usize, bytes.to_vec()));
            Ok(())
        })
    }
    fn read_exact_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<()> {
        let s = self.0.0.lock().unwrap();
        // An open file outlives its name.
        let n = s.files.get(&self.1).or_else(|| s.removed.get(&self.1));
        let n = n.ok_or(io::ErrorKind::NotFound)?;
        let at = offset as usize;
        let from = n
            .now
            .get(at..at + bytes.len())
            .ok_or(io::ErrorKind::UnexpectedEof)?;
        bytes.copy_from_slice(from);
        Ok(())
    }
    fn sync_data(&self) -> io::Result<()> {
        self.0.op(|s| {
            if s.fail_sync {
                return Err(io::Error::other("injected EIO"));
            }
            s.events.push(Event::Sync(self.1.clone()));
            let n = s.files.get_mut(&self.1).ok_or(io::ErrorKind::NotFound)?;
            n.durable = n.now.clone();
            n.pending.clear();
            Ok(())
        })
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.op(|s| {
            let n = s.files.get_mut(&self.1).ok_or(io::ErrorKind::NotFound)?;
            n.now.resize(len as usize, 0);
            n.pending.push(Pending::SetLen(len as usize));
            Ok(())
        })
    }
    fn len(&self) -> io::Result<u64> {
        let s = self.0.0.lock().unwrap();
        Ok(s.files
            .get(&self.1)
            .ok_or(io::ErrorKind::NotFound)?
            .now
            .len() as u64)
    }
}

impl Disk for TestDisk {
    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        self.op(|s| {
            s.events.push(Event::Create(path.to_owned()));
            s.files.insert(path.to_owned(), Node::default());
            Ok(())
        })?;
        Ok(Arc::new(TestFile(self.clone(), path.to_owned())))
    }
    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        if !self.0.lock().unwrap().files.contains_key(path) {
            return Err(io::ErrorKind::NotFound.into());
        }
        Ok(Arc::new(TestFile(self.clone(), path.to_owned())))
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        self.op(|s| {
            s.events.push(Event::Remove(path.to_owned()));
            let n = s.files.remove(path).ok_or(io::ErrorKind::NotFound)?;
            s.removed.insert(path.to_owned(), n);
            Ok(())
        })
    }
    fn create_dir(&self, _: &Path) -> io::Result<()> {
        Ok(())
    }
    fn sync_dir(&self, _: &Path) -> io::Result<()> {
        self.op(|s| {
            s.events.push(Event::SyncDir);
            s.removed
                .values_mut()
                .for_each(|n| n.removal_durable = true);
            s.files.values_mut().for_each(|n| n.entry_durable = true);
            Ok(())
        })
    }
    fn list(&self, _: &Path) -> io::Result<Vec<PathBuf>> {
        Ok(self.0.lock().unwrap().files.keys().cloned().collect())
    }
}
