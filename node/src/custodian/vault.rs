//! A node's key versions on disk: `keys.vault`, every key encrypted under the
//! provider's root, the whole file replaced in one step.
//!
//! ```text
//! offset  bytes
//! 0       1       format version, 1
//! 1       ..      bincode list of entries: kind (u8), version (u32 varint),
//!                 locked key (72 bytes: 24 nonce, 32 key, 16 tag)
//! ```
//!
//! The label bound into each entry names deployment, custodian, node, kind and
//! version: an entry moved to another place or node does not open. Removing a
//! version rewrites the file without it; what the disk keeps in free blocks is
//! only as readable as the root key, which is why destruction is attested and
//! never proven.

use crate::pki::files::{self, Access, FileError};
use quorate_engine::crypto::vault as seal;
use quorate_engine::custody::{KeyKind, Place};
use quorate_engine::types::{NodeId, RootKey, Secret, codec};
use rand::TryRng;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Its name in the data directory.
pub const VAULT_FILE: &str = "keys.vault";
/// Most key versions one node keeps.
pub const VERSIONS_MAX: usize = 1024;
const FORMAT: u8 = 1;

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
}

#[derive(Serialize, Deserialize)]
struct Entry {
    kind: KeyKind,
    version: u32,
    #[serde(with = "serde_bytes")]
    locked: Vec<u8>,
}

/// The open vault of one node.
pub struct Vault {
    path: PathBuf,
    place: Place,
    node: NodeId,
    root: RootKey,
    keys: BTreeMap<(KeyKind, u32), Secret<32>>,
}

impl Vault {
    /// Opens `dir/keys.vault`, or an empty one when there is none yet.
    ///
    /// # Errors
    /// [`VaultProblem`]; a file that others may read is refused with the way to mend it.
    pub fn open(
        dir: &Path,
        place: &Place,
        node: NodeId,
        root: RootKey,
    ) -> Result<Self, VaultProblem> {
        let mut vault = Self {
            path: dir.join(VAULT_FILE),
            place: place.clone(),
            node,
            root,
            keys: BTreeMap::new(),
        };
        if !vault.path.exists() {
            return Ok(vault);
        }
        let bytes = files::read_secret(&vault.path)?;
        let entries: Vec<Entry> =
            codec::decode("key vault", FORMAT, &bytes).map_err(|e| VaultProblem::Damaged {
                path: vault.path.clone(),
                reason: e.to_string(),
            })?;
        for e in entries {
            let label = vault.label(e.kind, e.version);
            let key = seal::unlock(&vault.root, &label, &e.locked).map_err(|_| {
                VaultProblem::WrongRoot {
                    path: vault.path.clone(),
                    kind: e.kind.as_str(),
                    version: e.version,
                }
            })?;
            vault.keys.insert((e.kind, e.version), key);
        }
        Ok(vault)
    }

    fn label(&self, kind: KeyKind, version: u32) -> String {
        let Place {
            deployment,
            custodian,
        } = &self.place;
        let (node, kind) = (self.node, kind.as_str());
        format!("{deployment}/{custodian}/{node}/{kind}/{version}")
    }

    /// The key versions it holds.
    pub fn keys(&self) -> impl Iterator<Item = (KeyKind, u32, &Secret<32>)> {
        self.keys
            .iter()
            .map(|((kind, version), key)| (*kind, *version, key))
    }

    /// One key version.
    pub fn get(&self, kind: KeyKind, version: u32) -> Option<&Secret<32>> {
        self.keys.get(&(kind, version))
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
        use subtle_eq::same;
        if let Some(old) = self.keys.get(&(kind, version)) {
            let taken = VaultProblem::Taken {
                kind: kind.as_str(),
                version,
            };
            return if same(old, &key) { Ok(()) } else { Err(taken) };
        }
        if self.keys.len() >= VERSIONS_MAX {
            return Err(VaultProblem::Full);
        }
        self.keys.insert((kind, version), key);
        if let Err(e) = self.write() {
            self.keys.remove(&(kind, version));
            return Err(e);
        }
        Ok(())
    }

    /// Destroys a key version. When this returns, the file is without it.
    ///
    /// # Errors
    /// [`VaultProblem`]; then it is still there.
    pub fn destroy(&mut self, kind: KeyKind, version: u32) -> Result<(), VaultProblem> {
        let Some(key) = self.keys.remove(&(kind, version)) else {
            return Ok(());
        };
        if let Err(e) = self.write() {
            self.keys.insert((kind, version), key);
            return Err(e);
        }
        Ok(())
    }

    fn write(&self) -> Result<(), VaultProblem> {
        let mut entries = Vec::with_capacity(self.keys.len());
        for ((kind, version), key) in &self.keys {
            let mut nonce = [0; 24];
            fill(&mut nonce)?;
            let label = self.label(*kind, *version);
            entries.push(Entry {
                kind: *kind,
                version: *version,
                locked: seal::lock(&self.root, &label, nonce, key),
            });
        }
        let bytes = codec::encode(FORMAT, &entries);
        files::replace(&self.path, &bytes, Access::Secret)?;
        Ok(())
    }
}

mod subtle_eq {
    use quorate_engine::types::Secret;

    /// Constant time over the contents: blake3 compares its hashes so, and the
    /// hash of a random key tells nothing.
    pub(super) fn same(a: &Secret<32>, b: &Secret<32>) -> bool {
        blake3::hash(a.expose()) == blake3::hash(b.expose())
    }
}

fn fill(bytes: &mut [u8]) -> Result<(), VaultProblem> {
    rand::rngs::SysRng
        .try_fill_bytes(bytes)
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
mod tests {
    use super::*;
    use quorate_engine::types::{CustodianId, DeploymentId};
    use std::os::unix::fs::PermissionsExt;

    fn place() -> Place {
        Place {
            deployment: DeploymentId([1; 16]),
            custodian: CustodianId::new("ch").unwrap(),
        }
    }
    fn secret(byte: u8) -> Secret<32> {
        Secret::take(&mut [byte; 32])
    }
    fn open(dir: &Path, node: NodeId, root: u8) -> Result<Vault, VaultProblem> {
        Vault::open(dir, &place(), node, RootKey(secret(root)))
    }

    #[test]
    fn keys_survive_reopening_and_are_gone_when_destroyed() {
        let dir = tempfile::tempdir().unwrap();
        let mut v = open(dir.path(), 1, 9).unwrap();
        assert_eq!(v.keys().count(), 0);
        v.keep(KeyKind::Wrapping, 1, secret(0xa1)).unwrap();
        v.keep(KeyKind::Sealing, 1, secret(0xb2)).unwrap();
        v.keep(KeyKind::Wrapping, 1, secret(0xa1)).unwrap();
        assert!(matches!(
            v.keep(KeyKind::Wrapping, 1, secret(0xff)),
            Err(VaultProblem::Taken { .. })
        ));
        let v = open(dir.path(), 1, 9).unwrap();
        let held: Vec<_> = v.keys().map(|(k, n, s)| (k, n, s.expose()[0])).collect();
        assert_eq!(
            held,
            [(KeyKind::Sealing, 1, 0xb2), (KeyKind::Wrapping, 1, 0xa1)]
        );
        let file = dir.path().join(VAULT_FILE);
        let bytes = std::fs::read(&file).unwrap();
        for byte in [0xa1, 0xb2] {
            assert!(
                !bytes.windows(8).any(|w| w == [byte; 8]),
                "never in the clear"
            );
        }
        let mut v = v;
        v.destroy(KeyKind::Sealing, 1).unwrap();
        let v = open(dir.path(), 1, 9).unwrap();
        assert!(v.get(KeyKind::Sealing, 1).is_none() && v.get(KeyKind::Wrapping, 1).is_some());
    }

    #[test]
    fn another_root_another_node_or_an_open_file_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let mut v = open(dir.path(), 1, 9).unwrap();
        v.keep(KeyKind::Wrapping, 1, secret(1)).unwrap();
        for (node, root) in [(1, 8), (2, 9)] {
            let e = open(dir.path(), node, root).map(|_| ()).unwrap_err();
            assert!(
                matches!(e, VaultProblem::WrongRoot { version: 1, .. }),
                "{e}"
            );
        }
        let file = dir.path().join(VAULT_FILE);
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).unwrap();
        let e = open(dir.path(), 1, 9).map(|_| ()).unwrap_err().to_string();
        assert!(e.contains("chmod 600"), "{e}");
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
        let mut bytes = std::fs::read(&file).unwrap();
        bytes.truncate(bytes.len() - 1);
        std::fs::write(&file, &bytes).unwrap();
        assert!(matches!(
            open(dir.path(), 1, 9),
            Err(VaultProblem::Damaged { .. })
        ));
    }

    #[test]
    fn a_failed_write_keeps_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let mut v = open(&dir.path().join("missing"), 1, 9).unwrap();
        assert!(v.keep(KeyKind::Wrapping, 1, secret(1)).is_err());
        assert_eq!(v.keys().count(), 0);
    }
}
