//! One entity's certificate authority: ECDSA P-256, issues this entity's own
//! certificates and no others.

use super::files::{self, Access, FileError};
use super::identity::{CertIdentity, CertRole};
use crate::config::ClusterRole;
use quorate_engine::types::DeploymentId;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, SanType, SerialNumber,
};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use std::net::IpAddr;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use x509_parser::prelude::{FromDer, X509Certificate};
use zeroize::Zeroizing;

/// Life of a CA certificate, days.
pub const CA_DAYS: u64 = 3_650;
/// Life of a node's or client-plane certificate, days.
pub const NODE_CERT_DAYS: u64 = 90;
/// Life of an operator's certificate, days.
pub const OPERATOR_CERT_DAYS: u64 = 90;
/// Certificates count from this long before they were made, for clocks that lag.
pub const BACKDATE: Duration = Duration::from_secs(300);

/// Why a certificate could not be made or read.
#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    /// A file.
    #[error(transparent)]
    File(#[from] FileError),
    /// Making or parsing failed.
    #[error("{what}: {reason}")]
    Cert {
        /// What was being done.
        what: &'static str,
        /// What the library said.
        reason: String,
    },
    /// This CA does not issue such certificates.
    #[error("the CA of {role} {cluster} issues no certificate for {wanted}")]
    NotOurs {
        /// The CA's cluster kind.
        role: ClusterRole,
        /// The CA's cluster.
        cluster: String,
        /// The identity asked for.
        wanted: String,
    },
}

fn cert_error<E: std::fmt::Display>(what: &'static str) -> impl FnOnce(E) -> PkiError {
    move |e| PkiError::Cert {
        what,
        reason: e.to_string(),
    }
}

/// A certificate with its key, PEM.
pub struct Issued {
    /// The certificate.
    pub cert_pem: String,
    /// Its private key, PKCS#8.
    pub key_pem: Zeroizing<String>,
}

impl std::fmt::Debug for Issued {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Issued(..)")
    }
}

impl Issued {
    /// Writes certificate and key, atomically each, the key first: a reader that sees the
    /// new certificate finds its key, and one that sees a mixed pair keeps the old pair.
    ///
    /// # Errors
    /// [`FileError`].
    pub fn write(&self, cert: &Path, key: &Path) -> Result<(), FileError> {
        files::replace(key, self.key_pem.as_bytes(), Access::Secret)?;
        files::replace(cert, self.cert_pem.as_bytes(), Access::Public)
    }
}

/// The CA of one cluster.
pub struct Authority {
    deployment: DeploymentId,
    role: ClusterRole,
    cluster: String,
    cert_pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Authority({} {})", self.role, self.cluster)
    }
}

impl Authority {
    /// Makes a new CA. Returns it with its private key's PEM, to be stored by the caller.
    ///
    /// # Errors
    /// [`PkiError::Cert`].
    pub fn generate(
        deployment: DeploymentId,
        role: ClusterRole,
        cluster: &str,
    ) -> Result<(Self, Zeroizing<String>), PkiError> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)
            .map_err(cert_error("making a CA key"))?;
        let key_pem = Zeroizing::new(key.serialize_pem());
        let mut params = CertificateParams::default();
        params
            .distinguished_name
            .push(DnType::CommonName, format!("Quorate CA {role} {cluster}"));
        params
            .distinguished_name
            .push(DnType::OrganizationName, deployment.to_string());
        // One level: it signs leaves, never another CA.
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.serial_number = Some(random_serial());
        validity(
            &mut params,
            SystemTime::now(),
            Duration::from_secs(CA_DAYS * 86_400),
        );
        let cert = params
            .self_signed(&key)
            .map_err(cert_error("making a CA certificate"))?;
        let authority = Self {
            deployment,
            role,
            cluster: cluster.into(),
            cert_pem: cert.pem(),
            issuer: Issuer::new(params, key),
        };
        Ok((authority, key_pem))
    }

    /// Loads a CA from its files.
    ///
    /// # Errors
    /// [`PkiError`].
    pub fn load(
        deployment: DeploymentId,
        role: ClusterRole,
        cluster: &str,
        cert: &Path,
        key: &Path,
    ) -> Result<Self, PkiError> {
        let cert_pem = String::from_utf8(files::read(cert)?)
            .map_err(cert_error("reading the CA certificate"))?;
        let key_bytes = files::read_secret(key)?;
        let key_text = std::str::from_utf8(&key_bytes).map_err(cert_error("reading the CA key"))?;
        let key = KeyPair::from_pem(key_text).map_err(cert_error("reading the CA key"))?;
        let issuer = Issuer::from_ca_cert_pem(&cert_pem, key)
            .map_err(cert_error("reading the CA certificate"))?;
        Ok(Self {
            deployment,
            role,
            cluster: cluster.into(),
            cert_pem,
            issuer,
        })
    }

    /// The CA certificate.
    pub fn cert_pem(&self) -> &str {
        &self.cert_pem
    }

    /// Issues a certificate for `who`, valid from now for its role's life. `names` are DNS
    /// names and IP addresses for those who connect by name (client and operator plane).
    ///
    /// # Errors
    /// [`PkiError::NotOurs`] for an identity of another cluster; [`PkiError::Cert`].
    pub fn issue(&self, who: &CertIdentity, names: &[String]) -> Result<Issued, PkiError> {
        if who.deployment != self.deployment
            || who.cluster != self.cluster
            || !who.role.issued_by(self.role)
        {
            return Err(PkiError::NotOurs {
                role: self.role,
                cluster: self.cluster.clone(),
                wanted: who.uri(),
            });
        }
        let days = match who.role {
            CertRole::Operator => OPERATOR_CERT_DAYS,
            _ => NODE_CERT_DAYS,
        };
        self.danger_issue(
            who,
            names,
            SystemTime::now(),
            Duration::from_secs(days * 86_400),
        )
    }

    /// Issues whatever it is told, for any time. `danger`: only tests that play an attacker,
    /// or want an expired certificate, have a use for it.
    ///
    /// # Errors
    /// [`PkiError::Cert`].
    pub fn danger_issue(
        &self,
        who: &CertIdentity,
        names: &[String],
        from: SystemTime,
        life: Duration,
    ) -> Result<Issued, PkiError> {
        let key =
            KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(cert_error("making a key"))?;
        let mut params = CertificateParams::default();
        params.distinguished_name.push(
            DnType::CommonName,
            format!("{} {}/{}", who.role, who.cluster, who.node),
        );
        let uri = who
            .uri()
            .try_into()
            .map_err(cert_error("encoding the SAN URI"))?;
        params.subject_alt_names.push(SanType::URI(uri));
        for name in names {
            params.subject_alt_names.push(match name.parse::<IpAddr>() {
                Ok(ip) => SanType::IpAddress(ip),
                Err(_) => SanType::DnsName(
                    name.as_str()
                        .try_into()
                        .map_err(cert_error("encoding a DNS name"))?,
                ),
            });
        }
        params.is_ca = IsCa::ExplicitNoCa;
        params.use_authority_key_identifier_extension = true;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = match who.role {
            CertRole::Home | CertRole::Custodian => {
                vec![
                    ExtendedKeyUsagePurpose::ServerAuth,
                    ExtendedKeyUsagePurpose::ClientAuth,
                ]
            }
            CertRole::Operator | CertRole::Authority => vec![ExtendedKeyUsagePurpose::ClientAuth],
            CertRole::ClientPlane => vec![ExtendedKeyUsagePurpose::ServerAuth],
        };
        params.serial_number = Some(random_serial());
        validity(&mut params, from, life);
        let cert = params
            .signed_by(&key, &self.issuer)
            .map_err(cert_error("signing a certificate"))?;
        Ok(Issued {
            cert_pem: cert.pem(),
            key_pem: Zeroizing::new(key.serialize_pem()),
        })
    }
}

fn random_serial() -> SerialNumber {
    let mut bytes: [u8; 16] = rand::random();
    bytes[0] &= 0x7f; // RFC 5280: positive.
    bytes[0] |= 0x40;
    SerialNumber::from_slice(&bytes)
}

fn validity(params: &mut CertificateParams, from: SystemTime, life: Duration) {
    let unix = from.duration_since(UNIX_EPOCH).unwrap_or_default();
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    params.not_before = epoch + unix.saturating_sub(BACKDATE);
    params.not_after = epoch + (unix + life);
}

/// When a PEM certificate ends.
///
/// # Errors
/// [`PkiError::Cert`] when it is not one.
pub fn not_after(cert_pem: &str) -> Result<SystemTime, PkiError> {
    let der = CertificateDer::from_pem_slice(cert_pem.as_bytes())
        .map_err(cert_error("reading a certificate"))?;
    not_after_der(&der)
}

/// When a DER certificate ends.
///
/// # Errors
/// [`PkiError::Cert`] when it is not one.
pub fn not_after_der(der: &[u8]) -> Result<SystemTime, PkiError> {
    let (_, cert) = X509Certificate::from_der(der).map_err(cert_error("reading a certificate"))?;
    let secs = u64::try_from(cert.validity().not_after.timestamp()).unwrap_or(0);
    Ok(UNIX_EPOCH + Duration::from_secs(secs))
}
