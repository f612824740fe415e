//! Statements of a node, signed with the key of its peer certificate.
//!
//! A home has no signing key of its own that is online; its CA vouches for its
//! nodes. So a statement comes with the certificate, and counts if that was
//! good when the statement was made: made later, by its own word, it is not.

use super::descriptor::Descriptor;
use super::identity::{CertIdentity, CertRole};
use super::rotate::CertSource;
use super::trust::roots_of;
use rustls::SignatureScheme;
use rustls_pki_types::{CertificateDer, UnixTime};
use std::time::Duration;
use x509_parser::prelude::{FromDer, X509Certificate};

/// The one scheme: every CA here issues for P-256 keys.
const SCHEME: SignatureScheme = SignatureScheme::ECDSA_NISTP256_SHA256;

/// Longest certificate that is looked at, in bytes.
pub const CERTIFICATE_BYTES_MAX: usize = 8 << 10;

/// A statement's signature.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attestation {
    /// The node's certificate, DER.
    pub certificate: Vec<u8>,
    /// ECDSA P-256 with SHA-256, ASN.1.
    pub signature: Vec<u8>,
}

/// Why a statement was not signed, or is not believed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct AttestError(pub String);

impl CertSource {
    /// Signs `bytes`, which begin with a label of their purpose.
    ///
    /// # Errors
    /// [`AttestError`] when the certificate's key is of another kind.
    pub fn attest(&self, bytes: &[u8]) -> Result<Attestation, AttestError> {
        let certified = self.certified();
        let other = || AttestError("the certificate's key is no P-256 key; issue a new one".into());
        let signer = certified.key.choose_scheme(&[SCHEME]).ok_or_else(other)?;
        let signature = signer.sign(bytes).map_err(|e| AttestError(e.to_string()))?;
        let certificate = certified.cert.first().ok_or_else(other)?.to_vec();
        Ok(Attestation {
            certificate,
            signature,
        })
    }
}

/// Which node of `cluster` signed `bytes`, with a certificate that was good at `made_ms`.
///
/// # Errors
/// [`AttestError`] saying what does not hold.
pub fn attested_by(
    cluster: &Descriptor,
    made_ms: u64,
    bytes: &[u8],
    attestation: &Attestation,
) -> Result<CertIdentity, AttestError> {
    let wrong = |e: &dyn std::fmt::Display| AttestError(e.to_string());
    if attestation.certificate.len() > CERTIFICATE_BYTES_MAX {
        return Err(wrong(&"the certificate is too long"));
    }
    let der = CertificateDer::from(attestation.certificate.as_slice());
    let who = CertIdentity::of_certificate(&der).map_err(|e| wrong(&e))?;
    let said = (who.deployment, who.role, who.cluster.as_str());
    let own = (
        cluster.deployment,
        CertRole::from(cluster.role),
        cluster.id.as_str(),
    );
    if said != own {
        return Err(wrong(&format_args!(
            "signed by {who}, not by a node of {} {}",
            cluster.role, cluster.id
        )));
    }
    let roots = roots_of(cluster).map_err(|e| wrong(&e))?;
    let provider = super::tls::hybrid_provider();
    let algorithms = provider.signature_verification_algorithms;
    let at = UnixTime::since_unix_epoch(Duration::from_millis(made_ms));
    let parsed = rustls::server::ParsedCertificate::try_from(&der).map_err(|e| wrong(&e))?;
    rustls::client::verify_server_cert_signed_by_trust_anchor(
        &parsed,
        &roots,
        &[],
        at,
        algorithms.all,
    )
    .map_err(|e| wrong(&format_args!("the certificate of {who}: {e}")))?;
    let (_, x509) = X509Certificate::from_der(&der).map_err(|e| wrong(&e))?;
    let key = &x509.public_key().subject_public_key.data;
    let of_scheme = algorithms.mapping.iter().find(|(s, _)| *s == SCHEME);
    let holds = of_scheme.and_then(|(_, all)| all.first()).is_some_and(|a| {
        a.verify_signature(key, bytes, &attestation.signature)
            .is_ok()
    });
    if holds {
        Ok(who)
    } else {
        Err(wrong(&format_args!("the signature is not by {who}")))
    }
}

#[cfg(test)]
mod tests {
    use super::super::testkit::{certs, entity, forged, source};
    use super::*;
    use crate::config::ClusterRole;

    fn now_ms() -> u64 {
        (crate::custodian::system_clock())()
    }

    #[test]
    fn a_statement_is_its_nodes_and_nobody_elses() {
        let dir = tempfile::tempdir().unwrap();
        let home = entity(dir.path(), ClusterRole::Home, "ae", 2);
        let other = entity(dir.path(), ClusterRole::Home, "af", 1);
        let said = certs(&home, 2).attest(b"said").unwrap();
        let who = attested_by(&home.descriptor, now_ms(), b"said", &said).unwrap();
        assert_eq!((who.cluster.as_str(), who.node), ("ae", 2));
        for refused in [
            attested_by(&home.descriptor, now_ms(), b"said!", &said),
            attested_by(&other.descriptor, now_ms(), b"said", &said),
            attested_by(&home.descriptor, now_ms() + 91 * 86_400_000, b"said", &said),
            attested_by(&home.descriptor, now_ms() - 86_400_000, b"said", &said),
        ] {
            assert!(refused.is_err(), "{refused:?}");
        }
        // Another CA's certificate that says it is this home's, and one of this home's for another role.
        let forgery = forged(&other, CertRole::Home, "ae", 2);
        let forgery = source(dir.path(), "forged", &forgery)
            .attest(b"said")
            .unwrap();
        assert!(attested_by(&home.descriptor, now_ms(), b"said", &forgery).is_err());
        let operator = forged(&home, CertRole::Operator, "ae", 2);
        let operator = source(dir.path(), "operator", &operator)
            .attest(b"said")
            .unwrap();
        assert!(attested_by(&home.descriptor, now_ms(), b"said", &operator).is_err());
        let mixed = Attestation {
            certificate: certs(&home, 1).attest(b"said").unwrap().certificate,
            ..said
        };
        assert!(attested_by(&home.descriptor, now_ms(), b"said", &mixed).is_err());
    }
}
