//! The one rule for certificates on peer and operator plane, as rustls asks it.
//!
//! 1. Read the SAN URI.
//! 2. Find the cluster it names among the believed ones.
//! 3. Its descriptor's role must be able to issue such a certificate.
//! 4. Verify the chain under that cluster's CA alone.
//! 5. The identity must be one that this connection accepts.
//!
//! A CA that vouches for another cluster fails at 4; a custodian's CA that
//! mints a home under its own name fails at 3.

use super::identity::{CertIdentity, CertRole};
use super::trust::TrustStore;
use crate::config::ClusterRole;
use quorate_engine::types::CustodianId;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, PeerMisbehaved,
    SignatureScheme,
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use std::fmt;
use std::sync::Arc;

/// Which identities a connection accepts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Accept {
    /// Any believed home's or custodian's node (server side of the peer plane).
    AnyPeer,
    /// Exactly this one (client side of the peer plane).
    Exactly(CertIdentity),
    /// An operator of this node's own cluster (server side of the operator plane).
    OwnOperator,
    /// Any node of the own cluster (client side of the operator plane).
    OwnNode,
    /// Any believed identity authority (server side of the registry plane).
    AnyAuthority,
    /// Any node of this custodian (client side of the registry plane).
    NodeOf(CustodianId),
}

/// Why a certificate that may be well signed is not accepted here.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Rejected {
    /// No usable SAN URI.
    #[error(transparent)]
    Identity(#[from] super::IdentityError),
    /// Another deployment's.
    #[error("{who} is of deployment {got}, this is {own}")]
    Deployment {
        /// Who it says it is.
        who: CertIdentity,
        /// Its deployment.
        got: String,
        /// Ours.
        own: String,
    },
    /// No descriptor for the cluster.
    #[error(
        "{who}: no descriptor of {cluster} is trusted here; run `quorate trust add` after comparing its fingerprint"
    )]
    UnknownCluster {
        /// Who it says it is.
        who: CertIdentity,
        /// The cluster.
        cluster: String,
    },
    /// A custodian's cluster name with a home's role, or the reverse.
    #[error("{who}: {cluster} is a {role} and cannot hold such a certificate")]
    RoleOfCluster {
        /// Who it says it is.
        who: CertIdentity,
        /// The cluster.
        cluster: String,
        /// What its descriptor says it is.
        role: ClusterRole,
    },
    /// A good certificate at the wrong door.
    #[error("{who} is not accepted here: {expected} expected")]
    NotAccepted {
        /// Who it is.
        who: CertIdentity,
        /// Who would be accepted.
        expected: String,
    },
}

impl From<Rejected> for Error {
    fn from(r: Rejected) -> Self {
        Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(r))))
    }
}

/// Implements the rule of this module for both directions.
pub struct Verifier {
    trust: Arc<TrustStore>,
    accept: Accept,
    provider: Arc<CryptoProvider>,
}

impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Verifier({:?})", self.accept)
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Usage {
    Client,
    Server,
}

impl Verifier {
    /// For connections that accept `accept`.
    pub fn new(trust: Arc<TrustStore>, accept: Accept, provider: Arc<CryptoProvider>) -> Self {
        Self {
            trust,
            accept,
            provider,
        }
    }

    fn accepts(&self, who: &CertIdentity) -> Result<(), Rejected> {
        let own = self.trust.own();
        let (ok, expected) = match &self.accept {
            Accept::AnyPeer => (
                matches!(who.role, CertRole::Home | CertRole::Custodian),
                "a node of a home or custodian".to_owned(),
            ),
            Accept::Exactly(wanted) => (who == wanted, wanted.to_string()),
            Accept::OwnOperator => (
                who.role == CertRole::Operator && who.cluster == own.id,
                format!("an operator of {}", own.id),
            ),
            Accept::OwnNode => (
                who.role == CertRole::from(own.role) && who.cluster == own.id,
                format!("a node of {} {}", own.role, own.id),
            ),
            Accept::AnyAuthority => (
                who.role == CertRole::Authority,
                "an identity authority".to_owned(),
            ),
            Accept::NodeOf(custodian) => (
                who.role == CertRole::Custodian && who.cluster == custodian.as_str(),
                format!("a node of custodian {custodian}"),
            ),
        };
        if ok {
            Ok(())
        } else {
            Err(Rejected::NotAccepted {
                who: who.clone(),
                expected,
            })
        }
    }

    fn check(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
        usage: Usage,
    ) -> Result<CertIdentity, Error> {
        let who = CertIdentity::of_certificate(end_entity).map_err(Rejected::from)?;
        let own = self.trust.own().deployment;
        if who.deployment != own {
            return Err(Rejected::Deployment {
                got: who.deployment.to_string(),
                own: own.to_string(),
                who,
            }
            .into());
        }
        let Some(entry) = self.trust.entry(&who.cluster) else {
            return Err(Rejected::UnknownCluster {
                cluster: who.cluster.clone(),
                who,
            }
            .into());
        };
        if !who.role.issued_by(entry.descriptor.role) {
            return Err(Rejected::RoleOfCluster {
                cluster: who.cluster.clone(),
                role: entry.descriptor.role,
                who,
            }
            .into());
        }
        match usage {
            Usage::Client => {
                WebPkiClientVerifier::builder_with_provider(entry.roots, self.provider.clone())
                    .build()
                    .map_err(|e| Error::General(format!("client verifier: {e}")))?
                    .verify_client_cert(end_entity, intermediates, now)?;
            }
            Usage::Server => {
                // The name checked is the SAN URI (below), not the address that was dialled.
                let cert = rustls::server::ParsedCertificate::try_from(end_entity)?;
                rustls::client::verify_server_cert_signed_by_trust_anchor(
                    &cert,
                    &entry.roots,
                    intermediates,
                    now,
                    self.provider.signature_verification_algorithms.all,
                )?;
            }
        }
        self.accepts(&who)?;
        Ok(who)
    }

    fn signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        rustls::crypto::verify_tls13_signature(
            message,
            cert,
            dss,
            &self.provider.signature_verification_algorithms,
        )
    }
}

fn no_tls12() -> Error {
    Error::PeerMisbehaved(PeerMisbehaved::SignedHandshakeWithUnadvertisedSigScheme)
}

impl ClientCertVerifier for Verifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[] // Which CAs are believed is nobody's business before they showed who they are.
    }
    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.check(end_entity, intermediates, now, Usage::Client)
            .map(|_| ClientCertVerified::assertion())
    }
    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(no_tls12())
    }
    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.signature(message, cert, dss)
    }
    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.check(end_entity, intermediates, now, Usage::Server)
            .map(|_| ServerCertVerified::assertion())
    }
    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(no_tls12())
    }
    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.signature(message, cert, dss)
    }
    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}
