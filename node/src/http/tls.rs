//! TLS for the HTTP planes: 1.3 only, hybrid post-quantum key exchange first,
//! no early data, no resumption of an older configuration after a reload.
//!
//! Key exchange: X25519MLKEM768 (draft-ietf-tls-ecdhe-mlkem), which aws-lc-rs
//! puts first; the classical groups stay for clients that lack it.

use rustls::ServerConfig;
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use std::sync::Arc;
use tokio::sync::watch;

/// Protocols offered, best first.
pub const ALPN: [&[u8]; 2] = [b"h2", b"http/1.1"];

/// A TLS configuration that can be exchanged while the listener runs. Each new
/// handshake takes the newest.
pub type TlsSource = watch::Receiver<Arc<ServerConfig>>;

/// A configuration that never changes.
pub fn fixed(config: ServerConfig) -> TlsSource {
    // The receiver keeps the last value after its sender is gone.
    watch::channel(Arc::new(config)).1
}

/// A server's configuration. With `clients` a certificate that it verifies is
/// required of every caller; without, callers stay anonymous to TLS.
///
/// # Errors
/// When the key does not fit the certificate or is of a kind that TLS 1.3 lacks.
pub fn server_config(
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    clients: Option<Arc<dyn ClientCertVerifier>>,
) -> Result<ServerConfig, rustls::Error> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?;
    let builder = builder
        .with_client_cert_verifier(clients.unwrap_or_else(WebPkiClientVerifier::no_client_auth));
    let mut config = builder.with_single_cert(chain, key)?;
    harden(&mut config);
    Ok(config)
}

/// What every HTTP plane wants of a configuration made elsewhere.
pub fn harden(config: &mut ServerConfig) {
    config.alpn_protocols = ALPN.iter().map(|p| p.to_vec()).collect();
    config.max_early_data_size = 0;
}
