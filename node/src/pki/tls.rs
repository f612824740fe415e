//! rustls configurations, one per plane. No other code makes any.

use super::identity::CertIdentity;
use super::rotate::{CertSource, no_resumption};
use super::trust::TrustStore;
use super::verify::{Accept, Verifier};
use quorate_engine::types::CustodianId;
use rustls::client::Resumption;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use std::sync::Arc;

/// ALPN of the peer plane. A change of the framing changes the number, and old and new refuse each other clearly.
pub const PEER_ALPN: &[u8] = b"quorate-peer/1";

const ONE_VERSION: &[&rustls::SupportedProtocolVersion] = &[&rustls::version::TLS13];
const WHY: &str = "TLS 1.3 and the groups named here are in the aws-lc-rs provider";

/// Hybrid key exchange and nothing else: what is recorded today stays closed to a quantum computer later.
pub fn hybrid_provider() -> Arc<CryptoProvider> {
    Arc::new(CryptoProvider {
        kx_groups: vec![aws_lc_rs::kx_group::X25519MLKEM768],
        ..aws_lc_rs::default_provider()
    })
}

/// Hybrid first, X25519 and P-256 for clients of other make.
fn public_provider() -> Arc<CryptoProvider> {
    Arc::new(CryptoProvider {
        kx_groups: vec![
            aws_lc_rs::kx_group::X25519MLKEM768,
            aws_lc_rs::kx_group::X25519,
            aws_lc_rs::kx_group::SECP256R1,
        ],
        ..aws_lc_rs::default_provider()
    })
}

fn mutual_server(
    trust: &Arc<TrustStore>,
    source: &Arc<CertSource>,
    accept: Accept,
) -> ServerConfig {
    let provider = hybrid_provider();
    let verifier = Arc::new(Verifier::new(trust.clone(), accept, provider.clone()));
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(ONE_VERSION)
        .expect(WHY)
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(source.clone());
    no_resumption(&mut config);
    config
}

fn mutual_client(
    trust: &Arc<TrustStore>,
    source: &Arc<CertSource>,
    accept: Accept,
) -> ClientConfig {
    let provider = hybrid_provider();
    let verifier = Arc::new(Verifier::new(trust.clone(), accept, provider.clone()));
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(ONE_VERSION)
        .expect(WHY)
        // "dangerous" is rustls' word for a verifier of one's own: ours is stricter, see `verify`.
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_client_cert_resolver(source.clone());
    config.resumption = Resumption::disabled();
    config.enable_early_data = false;
    config.enable_sni = false;
    config
}

/// Peer plane, accepting side.
pub fn peer_server(trust: &Arc<TrustStore>, source: &Arc<CertSource>) -> Arc<ServerConfig> {
    let mut config = mutual_server(trust, source, Accept::AnyPeer);
    config.alpn_protocols = vec![PEER_ALPN.to_vec()];
    Arc::new(config)
}

/// Peer plane, connecting side: accepts exactly `target`.
pub fn peer_client(
    trust: &Arc<TrustStore>,
    source: &Arc<CertSource>,
    target: CertIdentity,
) -> Arc<ClientConfig> {
    let mut config = mutual_client(trust, source, Accept::Exactly(target));
    config.alpn_protocols = vec![PEER_ALPN.to_vec()];
    Arc::new(config)
}

/// Operator plane (HTTP), accepting side: operators of the own cluster, nobody else.
pub fn operator_server(trust: &Arc<TrustStore>, source: &Arc<CertSource>) -> Arc<ServerConfig> {
    let mut config = mutual_server(trust, source, Accept::OwnOperator);
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Arc::new(config)
}

/// Operator plane (HTTP), connecting side: `trust.own()` is the cluster spoken to, `source` an operator's certificate.
pub fn operator_client(trust: &Arc<TrustStore>, source: &Arc<CertSource>) -> Arc<ClientConfig> {
    let mut config = mutual_client(trust, source, Accept::OwnNode);
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Arc::new(config)
}

/// Registry plane (HTTP), accepting side: identity authorities, nobody else.
pub fn registry_server(trust: &Arc<TrustStore>, source: &Arc<CertSource>) -> Arc<ServerConfig> {
    let mut config = mutual_server(trust, source, Accept::AnyAuthority);
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Arc::new(config)
}

/// Registry plane (HTTP), connecting side: `source` is an authority's certificate, and
/// whoever answers must be a node of `custodian`.
pub fn registry_client(
    trust: &Arc<TrustStore>,
    source: &Arc<CertSource>,
    custodian: CustodianId,
) -> Arc<ClientConfig> {
    let mut config = mutual_client(trust, source, Accept::NodeOf(custodian));
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Arc::new(config)
}

/// Client plane (HTTPS), accepting side: clients show no certificate.
pub fn client_plane_server(source: &Arc<CertSource>) -> Arc<ServerConfig> {
    let mut config = ServerConfig::builder_with_provider(public_provider())
        .with_protocol_versions(ONE_VERSION)
        .expect(WHY)
        .with_no_client_auth()
        .with_cert_resolver(source.clone());
    no_resumption(&mut config);
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Arc::new(config)
}

/// Audit plane (HTTPS), accepting side: no certificate is asked for.
pub fn audit_server(source: &Arc<CertSource>) -> Arc<ServerConfig> {
    client_plane_server(source)
}

/// Client plane (HTTPS), connecting side, under the home's CA; the certificate must name the host dialled.
///
/// # Errors
/// When `ca_pem` holds no usable certificate.
pub fn client_plane_client(ca_pem: &str) -> Result<Arc<ClientConfig>, rustls::Error> {
    let mut roots = RootCertStore::empty();
    for der in CertificateDer::pem_slice_iter(ca_pem.as_bytes()) {
        roots.add(der.map_err(|e| rustls::Error::General(format!("CA certificate: {e}")))?)?;
    }
    if roots.is_empty() {
        return Err(rustls::Error::General(
            "CA certificate: there is none".into(),
        ));
    }
    let mut config = ClientConfig::builder_with_provider(public_provider())
        .with_protocol_versions(ONE_VERSION)
        .expect(WHY)
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.resumption = Resumption::disabled();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}
