//! A certificate and its key from two files, replaced while running.
//!
//! New handshakes take whatever is current; connections already made live on.
//! A new pair counts only if it parses, belongs together, is in time and says
//! the same identity as before; else the old pair stays and a warning says why.

use super::ca::{PkiError, not_after_der};
use super::files::{self, FileError};
use super::identity::{CertIdentity, IdentityError};
use rustls::client::ResolvesClientCert;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{ServerConfig, SignatureScheme};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, RwLock, Weak};
use std::time::{Duration, SystemTime};

/// How often the files are looked at.
pub const POLL: Duration = Duration::from_millis(1_500);
/// How often an approaching end is warned of.
const WARN_EVERY: Duration = Duration::from_secs(6 * 3_600);

/// Why a pair of files is not usable as certificate and key.
#[derive(Debug, thiserror::Error)]
pub enum RotateError {
    /// A file.
    #[error(transparent)]
    File(#[from] FileError),
    /// Not a certificate.
    #[error(transparent)]
    Pki(#[from] PkiError),
    /// No usable identity.
    #[error("{path}: {source}")]
    Identity {
        /// The certificate's file.
        path: PathBuf,
        /// Why.
        source: IdentityError,
    },
    /// Key and certificate do not belong together, or cannot be used.
    #[error("{path}: {reason}; replace certificate and key together")]
    Pair {
        /// The certificate's file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// It is past its end.
    #[error(
        "{path}: the certificate ended {ago_s} s ago; issue a new one where the CA key is kept"
    )]
    Expired {
        /// The certificate's file.
        path: PathBuf,
        /// Since when.
        ago_s: u64,
    },
    /// Another identity than the one in use.
    #[error(
        "{path}: is for {got}, in use is one for {known}; rotation cannot change who a node is"
    )]
    Another {
        /// The certificate's file.
        path: PathBuf,
        /// Identity in use.
        known: Box<CertIdentity>,
        /// Identity in the new file.
        got: Box<CertIdentity>,
    },
}

type FileStamp = Option<(SystemTime, u64, u64)>;

struct Current {
    key: Arc<CertifiedKey>,
    identity: CertIdentity,
    ends: SystemTime,
}

/// The current certificate and key of one listener or node.
pub struct CertSource {
    label: &'static str,
    cert: PathBuf,
    key: PathBuf,
    current: RwLock<Current>,
    seen: Mutex<(FileStamp, FileStamp)>,
}

impl std::fmt::Debug for CertSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "CertSource({} {})", self.label, self.cert.display())
    }
}

fn stamp(path: &Path) -> FileStamp {
    use std::os::unix::fs::MetadataExt;
    let meta = std::fs::metadata(path).ok()?;
    Some((meta.modified().ok()?, meta.len(), meta.ino()))
}

fn read_pair(cert: &Path, key: &Path) -> Result<Current, RotateError> {
    let pair = |reason: String| RotateError::Pair {
        path: cert.to_owned(),
        reason,
    };
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(&files::read(cert)?)
        .collect::<Result<_, _>>()
        .map_err(|e| pair(format!("not PEM: {e}")))?;
    let first = chain
        .first()
        .ok_or_else(|| pair("no certificate in it".into()))?
        .clone();
    let key_der = PrivateKeyDer::from_pem_slice(&files::read_secret(key)?)
        .map_err(|e| pair(format!("the key is not PEM: {e}")))?;
    let signing = rustls::crypto::aws_lc_rs::sign::any_supported_type(&key_der)
        .map_err(|e| pair(e.to_string()))?;
    let certified = CertifiedKey::new(chain, signing);
    certified
        .keys_match()
        .map_err(|e| pair(format!("key and certificate differ: {e}")))?;
    let identity =
        CertIdentity::of_certificate(&first).map_err(|source| RotateError::Identity {
            path: cert.to_owned(),
            source,
        })?;
    let ends = not_after_der(&first)?;
    if let Ok(ago) = SystemTime::now().duration_since(ends) {
        return Err(RotateError::Expired {
            path: cert.to_owned(),
            ago_s: ago.as_secs(),
        });
    }
    Ok(Current {
        key: Arc::new(certified),
        identity,
        ends,
    })
}

impl CertSource {
    /// Loads the pair. `label` names it in metrics and warnings (`peer`, `client-plane`).
    ///
    /// # Errors
    /// [`RotateError`].
    pub fn load(label: &'static str, cert: &Path, key: &Path) -> Result<Arc<Self>, RotateError> {
        let seen = (stamp(cert), stamp(key));
        let current = read_pair(cert, key)?;
        let source = Self {
            label,
            cert: cert.to_owned(),
            key: key.to_owned(),
            current: RwLock::new(current),
            seen: Mutex::new(seen),
        };
        source.publish_expiry();
        Ok(Arc::new(source))
    }

    /// Who the current certificate says this node is.
    pub fn identity(&self) -> CertIdentity {
        self.current
            .read()
            .expect("no writer panics")
            .identity
            .clone()
    }

    /// When the current certificate ends.
    pub fn ends(&self) -> SystemTime {
        self.current.read().expect("no writer panics").ends
    }

    /// Its label.
    pub fn label(&self) -> &'static str {
        self.label
    }

    /// Reads the files again if they changed. `Ok(true)` when a new pair is in use.
    ///
    /// # Errors
    /// [`RotateError`]; the old pair stays in use.
    pub fn reload(&self) -> Result<bool, RotateError> {
        let now = (stamp(&self.cert), stamp(&self.key));
        {
            let mut seen = self.seen.lock().expect("no holder panics");
            if *seen == now {
                return Ok(false);
            }
            *seen = now;
        }
        let new = read_pair(&self.cert, &self.key)?;
        let mut current = self.current.write().expect("no writer panics");
        if new.identity != current.identity {
            return Err(RotateError::Another {
                path: self.cert.clone(),
                known: Box::new(current.identity.clone()),
                got: Box::new(new.identity),
            });
        }
        *current = new;
        drop(current);
        self.publish_expiry();
        Ok(true)
    }

    fn publish_expiry(&self) {
        let left = self
            .ends()
            .duration_since(SystemTime::now())
            .unwrap_or_default();
        metrics::gauge!("quorate_certificate_expires_seconds", "certificate" => self.label)
            .set(left.as_secs_f64());
    }

    /// Polls the files every [`POLL`] until the last other holder drops this; warns `warn_days` before the end.
    pub fn watch(self: &Arc<Self>, warn_days: u64) -> tokio::task::JoinHandle<()> {
        let weak: Weak<Self> = Arc::downgrade(self);
        let warn_within = Duration::from_secs(warn_days * 86_400);
        tokio::spawn(async move {
            let mut warned: Option<tokio::time::Instant> = None;
            loop {
                let Some(source) = weak.upgrade() else { return };
                // Two stat calls and, on change, two small reads: not worth another thread.
                match source.reload() {
                    Ok(true) => {
                        tracing::info!(certificate = source.label, identity = %source.identity(), "certificate rotated")
                    }
                    Ok(false) => {}
                    Err(e) => tracing::warn!(
                        certificate = source.label,
                        "new certificate not taken, the old one stays: {e}"
                    ),
                }
                source.publish_expiry();
                let left = source
                    .ends()
                    .duration_since(SystemTime::now())
                    .unwrap_or_default();
                if left < warn_within && warned.is_none_or(|at| at.elapsed() > WARN_EVERY) {
                    tracing::warn!(
                        certificate = source.label,
                        days_left = left.as_secs() / 86_400,
                        "certificate ends soon: issue a new one where the CA key is kept"
                    );
                    warned = Some(tokio::time::Instant::now());
                }
                drop(source);
                tokio::time::sleep(POLL).await;
            }
        })
    }

    pub(super) fn certified(&self) -> Arc<CertifiedKey> {
        self.current.read().expect("no writer panics").key.clone()
    }
}

impl ResolvesServerCert for CertSource {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.certified())
    }
}

impl ResolvesClientCert for CertSource {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.certified())
    }
    fn has_certs(&self) -> bool {
        true
    }
}

/// Turns off everything that would let a connection skip a full handshake.
pub(super) fn no_resumption(config: &mut ServerConfig) {
    config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config.max_early_data_size = 0;
}
