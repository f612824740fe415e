//! A node's key versions on disk: `keys.vault`. It holds the table of key slots
//! and every key version encrypted under the root that the slots seal, and is
//! replaced in one step: slots and keys never belong to different roots.
//!
//! ```text
//! offset  bytes
//! 0       1       format version, 2
//! 1       ..      bincode: table of key slots (length-prefixed bytes, at most 64 KiB), then a
//!                 list of entries: kind (u8), version (u32 varint),
//!                 locked key (72 bytes: 24 nonce, 32 key, 16 tag)
//! ```
//!
//! The label bound into each entry names deployment, custodian, node, kind and
//! version: an entry moved to another place or node does not open. Removing a
//! version rewrites the file without it; what the disk keeps in free blocks is
//! only as readable as the root key, which is why destruction is attested and
//! never proven. Whenever the slots change, a new root is drawn and everything
//! is encrypted anew: an old slot's secret opens old files only.
//!
//! Format 1 had no slots; its root stood in the key file itself. Opening such a
//! file with its key file makes it format 2.

use super::provider::OwnProvider;
use crate::locked::{LockedKey, LockedSlab};
use crate::pki::files::{self, Access, FileError};
use quorate_engine::crypto::vault as seal;
use quorate_engine::custody::keys::{Provider, SlotError, SlotPublic, SlotTable};
use quorate_engine::custody::{KeyKind, Place};
use quorate_engine::types::{CustodianId, DataKey, NodeId, RootKey, Secret, codec};
use rand::TryRng;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use subtle::ConstantTimeEq;

/// Its name in the data directory.
pub const VAULT_FILE: &str = "keys.vault";
/// Stands beside it while an operator's lock holds.
const LOCKED_FILE: &str = "keys.locked";
/// Most key versions one node keeps.
pub const VERSIONS_MAX: usize = 1024;
/// The slot that a key file opens.
pub const KEY_FILE_SLOT: &str = "key-file";
const FORMAT: u8 = 2;
const FORMAT_WITHOUT_SLOTS: u8 = 1;

/// Why key versions cannot be loaded or kept.
#[derive(Debug, thiserror::Error)]
pub enum VaultProblem {
    /// The file or its directory.
    #[error(transparent)]
    File(#[from] FileError),
    /// Not a vault of this format.
    #[error("{path}: {reason}; restore this node as a new one: its peers send it the keys")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What the codec said.
        reason: String,
    },
    /// The root key is not the one it was encrypted under.
    #[error(
        "{path}: {kind} key version {version} does not open; give this node the root key file it was made with"
    )]
    WrongRoot {
        /// The file.
        path: PathBuf,
        /// Which key.
        kind: &'static str,
        /// Which version.
        version: u32,
    },
    /// A key slot.
    #[error(transparent)]
    Slot(#[from] SlotError),
    /// The node's own provider.
    #[error("{0}")]
    Provider(String),
    /// The root is not here.
    #[error("this node is locked; unlock it first (`quorate custodian unlock`)")]
    Locked,
    /// Over the limit of key versions.
    #[error("{VERSIONS_MAX} key versions are kept already; drop some first")]
    Full,
    /// Another key stands under this version.
    #[error("another {kind} key is kept as version {version} already")]
    Taken {
        /// Which key.
        kind: &'static str,
        /// Which version.
        version: u32,
    },
    /// The system gives no randomness.
    #[error("the system's random generator failed: {0}")]
    Random(String),
    /// The system gives no memory for the root.
    #[error("no memory for the root key: {0}")]
    Memory(std::io::Error),
}

#[derive(Clone, Serialize, Deserialize)]
struct Entry {
    kind: KeyKind,
    version: u32,
    #[serde(with = "serde_bytes")]
    locked: Vec<u8>,
}

struct Open {
    root: LockedKey,
    keys: BTreeMap<(KeyKind, u32), Secret<32>>,
}

impl Open {
    fn root(&self) -> RootKey {
        RootKey(self.root.key().0)
    }
}

/// The vault of one node, locked or open.
pub struct Vault {
    path: PathBuf,
    place: Place,
    node: NodeId,
    slab: Arc<LockedSlab>,
    table: SlotTable,
    entries: Vec<Entry>,
    /// Format 1: the key file's content is the root.
    without_slots: bool,
    open: Option<Open>,
}

impl Vault {
    /// Reads `dir/keys.vault`, which may not be there yet, and opens nothing.
    ///
    /// # Errors
    /// [`VaultProblem`]; a file that others may read is refused with the way to mend it.
    pub fn load(dir: &Path, place: &Place, node: NodeId) -> Result<Self, VaultProblem> {
        let mut vault = Self {
            path: dir.join(VAULT_FILE),
            place: place.clone(),
            node,
            slab: LockedSlab::new(1).map_err(VaultProblem::Memory)?,
            table: SlotTable::default(),
            entries: Vec::new(),
            without_slots: false,
            open: None,
        };
        if !vault.path.exists() {
            return Ok(vault);
        }
        let bytes = files::read_secret(&vault.path)?;
        let damaged = |reason: String| VaultProblem::Damaged {
            path: vault.path.clone(),
            reason,
        };
        if bytes.first() == Some(&FORMAT_WITHOUT_SLOTS) {
            let entries = codec::decode("key vault", FORMAT_WITHOUT_SLOTS, &bytes);
            vault.entries = entries.map_err(|e| damaged(e.to_string()))?;
            vault.without_slots = true;
        } else {
            let (table, entries): (serde_bytes::ByteBuf, Vec<Entry>) =
                codec::decode("key vault", FORMAT, &bytes).map_err(|e| damaged(e.to_string()))?;
            vault.table = SlotTable::decode(&table).map_err(|e| damaged(e.to_string()))?;
            vault.entries = entries;
        }
        if vault.entries.len() > VERSIONS_MAX {
            let n = vault.entries.len();
            return Err(damaged(format!("{n} key versions, at most {VERSIONS_MAX}")));
        }
        Ok(vault)
    }

    /// The vault in `dir`, opened by what a key file holds. A new vault gets a slot for it.
    ///
    /// # Errors
    /// [`VaultProblem`].
    pub fn open(
        dir: &Path,
        place: &Place,
        node: NodeId,
        key_file: Secret<32>,
    ) -> Result<Self, VaultProblem> {
        let mut vault = Self::load(dir, place, node)?;
        vault.open_by_key_file(&key_file)?;
        Ok(vault)
    }

    /// Opens through the slot that the node's own provider opens, if there is one; a new vault
    /// gets one. False when it has other slots only: then it stays locked until people come.
    ///
    /// # Errors
    /// [`VaultProblem`].
    pub fn open_by(&mut self, provider: &dyn OwnProvider) -> Result<bool, VaultProblem> {
        if self.without_slots || self.is_new() {
            let name = CustodianId::new(provider.slot_name()).expect("a valid name");
            let slot = provider.new_slot(name).map_err(VaultProblem::Provider)?;
            if self.without_slots {
                let key = provider.unlock_key(&slot).map_err(VaultProblem::Provider)?;
                return self.open_by_key_file(&key);
            }
            return self.put_slot(slot).map(|()| true);
        }
        let Some(slot) = self.slots().find(|s| provider.opens(&s.provider)).cloned() else {
            return Ok(false);
        };
        let key = provider.unlock_key(&slot).map_err(VaultProblem::Provider)?;
        self.unlock(slot.name.as_str(), &key).map(|()| true)
    }

    /// Opens by what a key file holds, if there is such a slot; a new vault gets one.
    /// False when the vault has other slots only: then it stays locked.
    ///
    /// # Errors
    /// [`VaultProblem`].
    pub fn open_by_key_file(&mut self, unlock_key: &Secret<32>) -> Result<bool, VaultProblem> {
        let name = CustodianId::new(KEY_FILE_SLOT).expect("a valid name");
        if self.without_slots {
            let root = RootKey(unlock_key.duplicate());
            self.open = Some(self.opened(root)?);
        } else if !self.table.is_empty() {
            let slot = self.slots().find(|s| s.provider == Provider::KeyFile);
            let Some(slot) = slot.map(|s| s.name.clone()) else {
                return Ok(false);
            };
            return self.unlock(slot.as_str(), unlock_key).map(|()| true);
        }
        self.put_slot(SlotPublic::new(name, Provider::KeyFile, unlock_key))?;
        Ok(true)
    }

    /// Opens the vault through one slot.
    ///
    /// # Errors
    /// [`VaultProblem`]; then it is as locked as before.
    pub fn unlock(&mut self, slot: &str, unlock_key: &Secret<32>) -> Result<(), VaultProblem> {
        let root = self.table.open(&self.place, self.node, slot, unlock_key)?;
        self.open = Some(self.opened(root)?);
        self.mark_locked(false)
    }

    fn mark(&self) -> PathBuf {
        self.path.with_file_name(LOCKED_FILE)
    }

    /// Whether an operator locked this node, since nobody unlocked it.
    pub fn is_locked_by_operator(&self) -> bool {
        self.mark().exists()
    }

    /// Remembers across restarts that an operator locked this node, or forgets it.
    ///
    /// # Errors
    /// [`VaultProblem::File`].
    pub fn mark_locked(&self, locked: bool) -> Result<(), VaultProblem> {
        let mark = self.mark();
        match (locked, mark.exists()) {
            (true, _) => files::replace(&mark, b"locked by an operator\n", Access::Public)?,
            (false, false) => {}
            (false, true) => std::fs::remove_file(&mark)
                .map_err(|source| FileError::Io { path: mark, source })?,
        }
        Ok(())
    }

    /// Proves that `unlock_key` would open every key version through `slot`, and keeps nothing.
    ///
    /// # Errors
    /// [`VaultProblem`] with what does not open.
    pub fn check(&self, slot: &str, unlock_key: &Secret<32>) -> Result<usize, VaultProblem> {
        let root = self.table.open(&self.place, self.node, slot, unlock_key)?;
        let opened = self.decrypted(&root)?;
        Ok(opened.len())
    }

    /// Drops root and keys.
    pub fn lock(&mut self) {
        self.open = None;
    }

    /// Whether root and keys are here.
    pub fn is_open(&self) -> bool {
        self.open.is_some()
    }

    /// Whether the root's memory is locked and left out of core dumps.
    pub fn memory_locked(&self) -> bool {
        self.slab.is_locked()
    }

    /// Whether nothing was set up here yet: no slot, no key.
    pub fn is_new(&self) -> bool {
        self.table.is_empty() && !self.without_slots
    }

    /// The key slots.
    pub fn slots(&self) -> impl Iterator<Item = &SlotPublic> {
        self.table.slots()
    }

    /// One key slot.
    ///
    /// # Errors
    /// [`SlotError::NoSlot`].
    pub fn slot(&self, name: &str) -> Result<&SlotPublic, SlotError> {
        self.table.slot(name).map(|s| &s.of)
    }

    /// Puts a slot in, in the place of one of the same name, and draws a new root for all of them.
    ///
    /// # Errors
    /// [`VaultProblem`]; then the old slots and the old root hold. A vault that is new opens by this.
    pub fn put_slot(&mut self, slot: SlotPublic) -> Result<(), VaultProblem> {
        let mut slots: Vec<SlotPublic> = self.slots().cloned().collect();
        match slots.iter_mut().find(|s| s.name == slot.name) {
            Some(old) => *old = slot,
            None => slots.push(slot),
        }
        self.reseal(&slots)
    }

    /// Takes a slot out and draws a new root for the others. The last one stays.
    ///
    /// # Errors
    /// [`VaultProblem`]; then nothing changed.
    pub fn remove_slot(&mut self, name: &str) -> Result<(), VaultProblem> {
        self.table.slot(name)?;
        let others = self.slots().filter(|s| s.name.as_str() != name);
        let others: Vec<_> = others.cloned().collect();
        self.reseal(&others)
    }

    /// Opens a locked vault with keys that a peer handed over: a new root, sealed to the slots that
    /// the peer has (those on this disk could have been changed while it was off).
    ///
    /// # Errors
    /// [`VaultProblem`]; then it is as locked as before.
    pub fn restore(
        &mut self,
        slots: &[SlotPublic],
        keys: Vec<(KeyKind, u32, Secret<32>)>,
    ) -> Result<(), VaultProblem> {
        if keys.len() > VERSIONS_MAX {
            return Err(VaultProblem::Full);
        }
        let root = RootKey(draw()?);
        let keys = keys.into_iter().map(|(k, v, key)| ((k, v), key)).collect();
        let no_room = || VaultProblem::Memory(std::io::ErrorKind::OutOfMemory.into());
        let held = DataKey(root.0.duplicate());
        let root = self.slab.store(held).ok_or_else(no_room)?;
        self.open = Some(Open { root, keys });
        let done = self.reseal(slots);
        if done.is_err() {
            self.open = None;
        }
        done
    }

    fn reseal(&mut self, slots: &[SlotPublic]) -> Result<(), VaultProblem> {
        if !self.is_open() && !self.is_new() {
            return Err(VaultProblem::Locked);
        }
        let mut rng = seeded()?;
        let root = RootKey(draw()?);
        let generation = self.table.generation() + 1;
        let table = SlotTable::seal(&self.place, self.node, generation, slots, &root, &mut rng)?;
        let mut entries = Vec::new();
        let keys = self.open.iter().flat_map(|o| &o.keys);
        for ((kind, version), key) in keys {
            entries.push(self.locked_entry(&root, *kind, *version, key)?);
        }
        let fresh = Self::encoded(&table, &entries);
        files::replace(&self.path, &fresh, Access::Secret)?;
        self.table = table;
        self.entries = entries;
        self.without_slots = false;
        self.open = Some(self.opened(root)?);
        Ok(())
    }

    fn opened(&self, root: RootKey) -> Result<Open, VaultProblem> {
        let keys = self.decrypted(&root)?;
        // The slab has room for both while one root replaces another.
        let root = self.slab.store(DataKey(root.0));
        let no_room = || VaultProblem::Memory(std::io::ErrorKind::OutOfMemory.into());
        let root = root.ok_or_else(no_room)?;
        Ok(Open { root, keys })
    }

    fn decrypted(
        &self,
        root: &RootKey,
    ) -> Result<BTreeMap<(KeyKind, u32), Secret<32>>, VaultProblem> {
        let one = |e: &Entry| {
            let label = self.label(e.kind, e.version);
            let key = seal::unlock(root, &label, &e.locked);
            let key = key.map_err(|_| VaultProblem::WrongRoot {
                path: self.path.clone(),
                kind: e.kind.as_str(),
                version: e.version,
            })?;
            Ok(((e.kind, e.version), key))
        };
        self.entries.iter().map(one).collect()
    }

    fn label(&self, kind: KeyKind, version: u32) -> String {
        let Place {
            deployment,
            custodian,
        } = &self.place;
        let (node, kind) = (self.node, kind.as_str());
        format!("{deployment}/{custodian}/{node}/{kind}/{version}")
    }

    fn locked_entry(
        &self,
        root: &RootKey,
        kind: KeyKind,
        version: u32,
        key: &Secret<32>,
    ) -> Result<Entry, VaultProblem> {
        let mut nonce = [0; 24];
        fill(&mut nonce)?;
        Ok(Entry {
            kind,
            version,
            locked: seal::lock(root, &self.label(kind, version), nonce, key),
        })
    }

    /// The key versions it holds; none while it is locked.
    pub fn keys(&self) -> impl Iterator<Item = (KeyKind, u32, &Secret<32>)> {
        let all = self.open.iter().flat_map(|o| &o.keys);
        all.map(|((kind, version), key)| (*kind, *version, key))
    }

    /// One key version, unless the vault is locked.
    pub fn get(&self, kind: KeyKind, version: u32) -> Option<&Secret<32>> {
        self.open.as_ref()?.keys.get(&(kind, version))
    }

    /// Keeps a key version. When this returns, it survives a power cut.
    ///
    /// # Errors
    /// [`VaultProblem`]; then nothing was kept.
    pub fn keep(
        &mut self,
        kind: KeyKind,
        version: u32,
        key: Secret<32>,
    ) -> Result<(), VaultProblem> {
        let open = self.open.as_ref().ok_or(VaultProblem::Locked)?;
        if let Some(old) = open.keys.get(&(kind, version)) {
            let taken = VaultProblem::Taken {
                kind: kind.as_str(),
                version,
            };
            return if old.ct_eq(&key).into() {
                Ok(())
            } else {
                Err(taken)
            };
        }
        if self.entries.len() >= VERSIONS_MAX {
            return Err(VaultProblem::Full);
        }
        let entry = self.locked_entry(&open.root(), kind, version, &key)?;
        let mut entries = self.entries.clone();
        entries.push(entry);
        self.write(entries)?;
        if let Some(open) = &mut self.open {
            open.keys.insert((kind, version), key);
        }
        Ok(())
    }

    /// Destroys a key version, locked or not. When this returns, the file is without it.
    ///
    /// # Errors
    /// [`VaultProblem`]; then it is still there.
    pub fn destroy(&mut self, kind: KeyKind, version: u32) -> Result<(), VaultProblem> {
        let is = |e: &Entry| e.kind == kind && e.version == version;
        if !self.entries.iter().any(is) {
            return Ok(());
        }
        let left = self.entries.iter().filter(|e| !is(e)).cloned().collect();
        self.write(left)?;
        if let Some(open) = &mut self.open {
            open.keys.remove(&(kind, version));
        }
        Ok(())
    }

    fn write(&mut self, entries: Vec<Entry>) -> Result<(), VaultProblem> {
        let bytes = Self::encoded(&self.table, &entries);
        files::replace(&self.path, &bytes, Access::Secret)?;
        self.entries = entries;
        Ok(())
    }

    fn encoded(table: &SlotTable, entries: &[Entry]) -> Vec<u8> {
        let table = serde_bytes::ByteBuf::from(table.encode());
        codec::encode(FORMAT, &(table, entries))
    }
}

fn fill(bytes: &mut [u8]) -> Result<(), VaultProblem> {
    rand::rngs::SysRng
        .try_fill_bytes(bytes)
        .map_err(|e| VaultProblem::Random(e.to_string()))
}

/// A generator seeded by the system, for what takes a generator.
pub(super) fn seeded() -> Result<rand::rngs::StdRng, VaultProblem> {
    rand::SeedableRng::try_from_rng(&mut rand::rngs::SysRng)
        .map_err(|e| VaultProblem::Random(e.to_string()))
}

/// A fresh key, straight from the system's generator.
///
/// # Errors
/// [`VaultProblem::Random`].
pub(super) fn draw() -> Result<Secret<32>, VaultProblem> {
    let mut out = Secret::take(&mut [0; 32]);
    fill(out.expose_mut())?;
    Ok(out)
}

#[cfg(test)]
#[path = "vault_tests.rs"]
mod tests;
