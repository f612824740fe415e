//! A store for tests that remembers exactly what a power cut would leave.
//!
//! The [`CrashDisk`] outlives the store: opening a store on it again finds the
//! last durable commit, as after a cut in the worst moment.

use super::memory::{Image, MemoryStore};
use super::{Changes, RowSource, Store, StoreError, View};
use std::sync::{Arc, Mutex, PoisonError};

/// What is durable.
#[derive(Clone, Debug, Default)]
pub struct CrashDisk(Arc<Mutex<Arc<Image>>>);

impl CrashDisk {
    fn get(&self) -> Arc<Image> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

/// The store.
#[derive(Debug)]
pub struct CrashStore {
    disk: CrashDisk,
    now: MemoryStore,
}

impl CrashStore {
    /// Opens what is durable on `disk`.
    pub fn open(disk: CrashDisk) -> Self {
        let now = MemoryStore::with(Image::clone(&disk.get()));
        Self { disk, now }
    }

    fn sync(&self) {
        *self.disk.0.lock().unwrap_or_else(PoisonError::into_inner) = self.now.image();
    }
}

impl Store for CrashStore {
    fn name(&self) -> &'static str {
        "crash"
    }
    fn view(&self) -> Result<Arc<dyn View>, StoreError> {
        self.now.view()
    }
    fn read(&self, f: &mut dyn FnMut(&dyn View)) -> Result<(), StoreError> {
        self.now.read(f)
    }
    fn commit(&self, changes: Changes, durable: bool) -> Result<(), StoreError> {
        self.now.commit(changes, durable)?;
        if durable {
            self.sync();
        }
        Ok(())
    }
    fn replace(&self, rows: RowSource<'_>, meta: Vec<u8>) -> Result<(), StoreError> {
        self.now.replace(rows, meta)?;
        self.sync();
        Ok(())
    }
    fn close(&self) -> Result<(), StoreError> {
        // A crash store never stops cleanly.
        Ok(())
    }
}
