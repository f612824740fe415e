//! Whose descriptors this node believes: its own cluster's and those in the
//! trust directory, each put there after a fingerprint was compared.

use super::descriptor::{Descriptor, DescriptorError, PublicKey};
use super::files::{self, FileError};
use crate::config::ClusterRole;
use quorate_engine::authz::envelope::Envelope;
use quorate_engine::authz::identity::AuthorityRecord;
use quorate_engine::types::{CustodianId, DeploymentId, NodeId};
use rustls::RootCertStore;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, RwLock};
use std::time::SystemTime;

/// Most descriptors in one trust directory.
pub const TRUST_ENTRIES_MAX: usize = 256;

/// Why a descriptor is not trusted.
#[derive(Debug, thiserror::Error)]
pub enum TrustError {
    /// The descriptor itself.
    #[error(transparent)]
    Descriptor(#[from] DescriptorError),
    /// A file or the directory.
    #[error(transparent)]
    File(#[from] FileError),
    /// It belongs to another deployment.
    #[error("descriptor of {id} is of deployment {got}, this is {own}; it cannot be used here")]
    Deployment {
        /// The cluster.
        id: String,
        /// Its deployment.
        got: DeploymentId,
        /// Ours.
        own: DeploymentId,
    },
    /// Another identity key under a name that is known already.
    #[error(
        "{id} is known under identity key {known}, the new descriptor has {got}: not the same entity. If it really \
         changed, compare the new fingerprint with its people, remove the old file and add again"
    )]
    Identity {
        /// The cluster.
        id: String,
        /// Key trusted now.
        known: PublicKey,
        /// Key in the new one.
        got: PublicKey,
    },
    /// An older revision than the one trusted now.
    #[error("{id}: revision {got} is older than the trusted {known}; ask for the newest")]
    Older {
        /// The cluster.
        id: String,
        /// Revision trusted now.
        known: u64,
        /// Revision offered.
        got: u64,
    },
    /// The CA in it is not usable.
    #[error("{id}: the CA certificate cannot be used: {reason}")]
    Ca {
        /// The cluster.
        id: String,
        /// Why.
        reason: String,
    },
    /// More than [`TRUST_ENTRIES_MAX`].
    #[error("{dir}: more than {TRUST_ENTRIES_MAX} descriptors")]
    TooMany {
        /// The directory.
        dir: PathBuf,
    },
}

/// One believed cluster.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Its descriptor.
    pub descriptor: Arc<Descriptor>,
    /// Its CA, alone.
    pub roots: Arc<RootCertStore>,
}

type Entries = BTreeMap<String, Entry>;
type Stamp = BTreeMap<PathBuf, (SystemTime, u64)>;

/// Descriptors by cluster name. Cluster names are unique in a deployment, so
/// that no name can mean a home to one and a custodian to another.
#[derive(Debug)]
pub struct TrustStore {
    own: Arc<Descriptor>,
    dir: Option<PathBuf>,
    state: RwLock<(Arc<Entries>, Stamp)>,
}

/// A cluster's CA, alone.
pub(super) fn roots_of(descriptor: &Descriptor) -> Result<RootCertStore, TrustError> {
    let bad = |reason: String| TrustError::Ca {
        id: descriptor.id.clone(),
        reason,
    };
    let mut roots = RootCertStore::empty();
    // More than one while a CA is being replaced.
    for der in CertificateDer::pem_slice_iter(descriptor.ca_pem.as_bytes()) {
        let der = der.map_err(|e| bad(e.to_string()))?;
        roots.add(der).map_err(|e| bad(e.to_string()))?;
    }
    if roots.is_empty() {
        return Err(bad("no certificate in it".into()));
    }
    Ok(roots)
}

fn entry(descriptor: Arc<Descriptor>) -> Result<Entry, TrustError> {
    let roots = Arc::new(roots_of(&descriptor)?);
    Ok(Entry { descriptor, roots })
}

fn insert(entries: &mut Entries, own: &Descriptor, d: Descriptor) -> Result<(), TrustError> {
    if d.deployment != own.deployment {
        return Err(TrustError::Deployment {
            id: d.id.clone(),
            got: d.deployment,
            own: own.deployment,
        });
    }
    if let Some(known) = entries.get(&d.id).map(|e| e.descriptor.clone()) {
        supersedes(&known, &d)?;
    }
    entries.insert(d.id.clone(), entry(Arc::new(d))?);
    Ok(())
}

fn supersedes(known: &Descriptor, new: &Descriptor) -> Result<(), TrustError> {
    if known.identity_key != new.identity_key || known.role != new.role {
        return Err(TrustError::Identity {
            id: new.id.clone(),
            known: known.identity_key,
            got: new.identity_key,
        });
    }
    if new.revision < known.revision {
        return Err(TrustError::Older {
            id: new.id.clone(),
            known: known.revision,
            got: new.revision,
        });
    }
    Ok(())
}

fn json_files(dir: &Path) -> Result<Stamp, TrustError> {
    let io = |source| FileError::Io {
        path: dir.to_owned(),
        source,
    };
    let mut out = Stamp::new();
    let listing = match std::fs::read_dir(dir) {
        Ok(l) => l,
        // Nobody was added yet.
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(out),
        Err(e) => return Err(io(e).into()),
    };
    for file in listing {
        let file = file.map_err(io)?;
        let path = file.path();
        if path.extension().is_some_and(|e| e == "json") {
            let meta = file.metadata().map_err(io)?;
            out.insert(
                path,
                (
                    meta.modified().unwrap_or(SystemTime::UNIX_EPOCH),
                    meta.len(),
                ),
            );
        }
        if out.len() > TRUST_ENTRIES_MAX {
            return Err(TrustError::TooMany {
                dir: dir.to_owned(),
            });
        }
    }
    Ok(out)
}

fn read_all(own: &Arc<Descriptor>, files: &Stamp) -> Result<Entries, TrustError> {
    let mut entries = Entries::new();
    entries.insert(own.id.clone(), entry(own.clone())?);
    for path in files.keys() {
        insert(&mut entries, own, Descriptor::load(path)?)?;
    }
    Ok(entries)
}

impl TrustStore {
    /// Loads the own descriptor and every `*.json` of the trust directory; all must be good.
    ///
    /// # Errors
    /// [`TrustError`] naming the descriptor.
    pub fn load(own: &Path, dir: &Path) -> Result<Arc<Self>, TrustError> {
        let own = Arc::new(Descriptor::load(own)?);
        let stamp = json_files(dir)?;
        let entries = read_all(&own, &stamp)?;
        Ok(Arc::new(Self {
            own,
            dir: Some(dir.to_owned()),
            state: RwLock::new((Arc::new(entries), stamp)),
        }))
    }

    /// From descriptors in memory.
    ///
    /// # Errors
    /// [`TrustError`] naming the descriptor.
    pub fn of(own: Descriptor, others: Vec<Descriptor>) -> Result<Arc<Self>, TrustError> {
        let own = Arc::new(own);
        let mut entries = read_all(&own, &Stamp::new())?;
        for d in others {
            insert(&mut entries, &own, d)?;
        }
        Ok(Arc::new(Self {
            own,
            dir: None,
            state: RwLock::new((Arc::new(entries), Stamp::new())),
        }))
    }

    /// Reads the directory again if a file changed. On an error everything stays as it was.
    ///
    /// # Errors
    /// [`TrustError`] naming the descriptor.
    pub fn reload(&self) -> Result<bool, TrustError> {
        let Some(dir) = &self.dir else {
            return Ok(false);
        };
        let stamp = json_files(dir)?;
        if stamp == self.state.read().expect("no writer panics").1 {
            return Ok(false);
        }
        let entries = read_all(&self.own, &stamp);
        let mut state = self.state.write().expect("no writer panics");
        // Even a bad set is remembered as seen, so that it is reported once and not every second.
        state.1 = stamp;
        let entries = entries?;
        for (id, old) in state.0.iter() {
            if let Some(new) = entries.get(id) {
                supersedes(&old.descriptor, &new.descriptor)?;
            }
        }
        state.0 = Arc::new(entries);
        Ok(true)
    }

    /// Puts a descriptor into a trust directory, over an older revision of the same entity.
    ///
    /// # Errors
    /// [`TrustError`] when the name is taken by another entity or the revision is older.
    pub fn add(dir: &Path, descriptor: &Descriptor) -> Result<PathBuf, TrustError> {
        files::make_dir(dir)?;
        for path in json_files(dir)?.keys() {
            let known = Descriptor::load(path)?;
            if known.id == descriptor.id {
                supersedes(&known, descriptor)?;
            }
        }
        let path = dir.join(format!("{}.json", descriptor.id));
        descriptor.save(&path)?;
        Ok(path)
    }

    /// Looks at the directory every [`super::rotate::POLL`] until the last other holder drops this.
    pub fn watch(self: &Arc<Self>) -> tokio::task::JoinHandle<()> {
        let weak = Arc::downgrade(self);
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(super::rotate::POLL).await;
                let Some(store) = weak.upgrade() else { return };
                match store.reload() {
                    Ok(true) => tracing::info!("trusted descriptors read again"),
                    Ok(false) => {}
                    Err(e) => tracing::warn!("trusted descriptors stay as they were: {e}"),
                }
            }
        })
    }

    fn entries(&self) -> Arc<Entries> {
        self.state.read().expect("no writer panics").0.clone()
    }

    /// This node's own cluster.
    pub fn own(&self) -> &Arc<Descriptor> {
        &self.own
    }

    /// One believed cluster with its CA.
    pub fn entry(&self, cluster: &str) -> Option<Entry> {
        self.entries().get(cluster).cloned()
    }

    /// One believed cluster's descriptor.
    pub fn get(&self, cluster: &str) -> Option<Arc<Descriptor>> {
        self.entry(cluster).map(|e| e.descriptor)
    }

    /// All believed clusters of one role, by name; the own one included.
    pub fn of_role(&self, role: ClusterRole) -> Vec<Arc<Descriptor>> {
        let entries = self.entries();
        entries
            .values()
            .filter(|e| e.descriptor.role == role)
            .map(|e| e.descriptor.clone())
            .collect()
    }

    /// The believed custodians, by name.
    pub fn custodians(&self) -> BTreeMap<CustodianId, Arc<Descriptor>> {
        self.of_role(ClusterRole::Custodian)
            .into_iter()
            .filter_map(|d| d.custodian().map(|id| (id, d.clone())))
            .collect()
    }

    /// The believed identity authorities, as custodians register them, and what they said of their keys since.
    pub fn authorities(&self) -> Vec<(AuthorityRecord, Vec<Envelope>)> {
        let all = self.of_role(ClusterRole::Authority);
        let one = |d: &Arc<Descriptor>| Some((d.authority()?, d.rotations.clone()));
        all.iter().filter_map(one).collect()
    }

    /// The address a cluster's descriptor gives for a node.
    pub fn endpoint(&self, cluster: &str, node: NodeId) -> Option<String> {
        self.get(cluster)?.endpoints.get(&node).cloned()
    }
}
