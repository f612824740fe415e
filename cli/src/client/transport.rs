//! Connections to home nodes: TLS 1.3, HTTP/1.1, kept alive.
//!
//! A request that failed before its first byte left is told apart from one
//! that may have arrived; hyper gives an unsent request back, and only then
//! is another connection tried at once.

use super::Call;
use bytes::Bytes;
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::client::conn::http1::{self, SendRequest};
use hyper::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HOST, HeaderValue, IF_MATCH};
use hyper::{Request, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use quorate_engine::api::REQUEST_HEADER;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// Largest answer taken.
pub const REPLY_BYTES_MAX: usize = 32 << 20;
/// Most idle connections kept for each node.
const IDLE_MAX: usize = 64;

/// Why a client cannot be made.
#[derive(Clone, Debug, thiserror::Error)]
pub enum SetupError {
    /// No endpoint.
    #[error("no endpoint is given")]
    NoEndpoint,
    /// Not `https://HOST:PORT`.
    #[error("the endpoint {0:?} is not https://HOST:PORT")]
    Endpoint(String),
    /// The CA file has no certificate, or a broken one.
    #[error("the CA file holds no usable certificate: {0}")]
    Ca(String),
    /// The operator's certificate or key cannot be used.
    #[error("the operator's certificate and key cannot be used: {0}")]
    Identity(String),
}

/// Why a request has no answer.
#[derive(Clone, Debug)]
pub enum SendError {
    /// Nothing left this machine.
    NotSent(String),
    /// It may have arrived.
    Unknown(String),
    /// The answer is over [`REPLY_BYTES_MAX`].
    TooLarge,
}

/// An answer, whatever its status.
#[derive(Debug)]
pub struct Reply {
    /// Its status.
    pub status: StatusCode,
    /// Its body.
    pub body: Bytes,
}

type Sender = SendRequest<Full<Bytes>>;

struct Node {
    authority: String,
    host: String,
    port: u16,
    server_name: ServerName<'static>,
    idle: Mutex<Vec<Sender>>,
}

/// Connections to every node of a home.
pub struct Wire {
    nodes: Vec<Node>,
    tls: TlsConnector,
    connect_ms_max: u64,
}

/// A client certificate with its key, both PEM: an operator's.
#[derive(Clone, Copy)]
pub struct Identity<'a> {
    /// Certificate chain.
    pub certificate_pem: &'a [u8],
    /// Private key. It is not kept beyond the TLS configuration.
    pub key_pem: &'a [u8],
}

impl std::fmt::Debug for Identity<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Identity(..)")
    }
}

impl Wire {
    /// See [`super::Client::new`].
    ///
    /// # Errors
    /// [`SetupError`].
    pub fn new(
        endpoints: &[String],
        ca_pem: &[u8],
        identity: Option<Identity<'_>>,
        connect_ms_max: u64,
    ) -> Result<Self, SetupError> {
        let mut roots = rustls::RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(ca_pem) {
            let certificate = certificate.map_err(|e| SetupError::Ca(e.to_string()))?;
            roots
                .add(certificate)
                .map_err(|e| SetupError::Ca(e.to_string()))?;
        }
        if roots.is_empty() {
            return Err(SetupError::Ca("it is empty".into()));
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(|e| SetupError::Ca(e.to_string()))?
            .with_root_certificates(roots);
        let mut config = match identity {
            None => config.with_no_client_auth(),
            Some(identity) => {
                let wrong = |e: &dyn std::fmt::Display| SetupError::Identity(e.to_string());
                let chain = CertificateDer::pem_slice_iter(identity.certificate_pem)
                    .collect::<Result<Vec<_>, _>>()
                    .map_err(|e| wrong(&e))?;
                let key = PrivateKeyDer::from_pem_slice(identity.key_pem).map_err(|e| wrong(&e))?;
                config
                    .with_client_auth_cert(chain, key)
                    .map_err(|e| wrong(&e))?
            }
        };
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Self::over(endpoints, Arc::new(config), connect_ms_max)
    }

    /// Connections under a TLS configuration made elsewhere; it speaks `http/1.1`.
    ///
    /// # Errors
    /// [`SetupError`] about the endpoints.
    pub fn over(
        endpoints: &[String],
        tls: Arc<rustls::ClientConfig>,
        connect_ms_max: u64,
    ) -> Result<Self, SetupError> {
        let nodes = endpoints
            .iter()
            .map(|e| parse_endpoint(e))
            .collect::<Result<Vec<_>, _>>()?;
        if nodes.is_empty() {
            return Err(SetupError::NoEndpoint);
        }
        Ok(Self {
            nodes,
            tls: TlsConnector::from(tls),
            connect_ms_max,
        })
    }

    /// How many nodes there are.
    pub fn nodes(&self) -> usize {
        self.nodes.len()
    }

    /// A node's `HOST:PORT`.
    pub fn name(&self, node: usize) -> &str {
        &self.nodes[node].authority
    }

    /// `call` for `node`, under `grant` where it takes one.
    pub(super) fn request(
        &self,
        node: usize,
        call: &Call<'_>,
        request_id: &str,
        grant: Option<&str>,
    ) -> Result<Request<Full<Bytes>>, String> {
        let mut request = Request::builder()
            .method(&call.method)
            .uri(call.path)
            .header(HOST, &self.nodes[node].authority)
            .header(ACCEPT, "application/json, application/problem+json")
            .header(REQUEST_HEADER, request_id);
        if let Some(grant) = grant {
            let bearer = HeaderValue::from_str(&format!("Bearer {grant}"));
            let mut bearer = bearer.map_err(|e| e.to_string())?;
            bearer.set_sensitive(true);
            request = request.header(AUTHORIZATION, bearer);
        }
        if call.body.is_some() {
            request = request.header(CONTENT_TYPE, "application/json");
        }
        if let Some(revision) = call.if_match {
            request = request.header(IF_MATCH, format!("\"{revision}\""));
        }
        request
            .body(Full::new(call.body.clone().unwrap_or_default()))
            .map_err(|e| e.to_string())
    }

    /// Sends `request` to `node` and reads the whole answer.
    ///
    /// # Errors
    /// `SendError`. Dropping the future closes the connection.
    pub async fn send(
        &self,
        node: usize,
        request: Result<Request<Full<Bytes>>, String>,
    ) -> Result<Reply, SendError> {
        let mut request = request.map_err(SendError::NotSent)?;
        let name = self.name(node);
        loop {
            let (mut sender, reused) = match self.idle(node) {
                Some(sender) => (sender, true),
                None => (
                    self.connect(node)
                        .await
                        .map_err(|e| SendError::NotSent(format!("{name}: {e}")))?,
                    false,
                ),
            };
            if let Err(e) = sender.ready().await {
                if reused {
                    continue;
                }
                return Err(SendError::NotSent(format!("{name}: {e}")));
            }
            match sender.try_send_request(request).await {
                Ok(response) => return self.read(node, sender, response).await,
                Err(mut e) => match e.take_message() {
                    Some(unsent) if reused => request = unsent,
                    Some(_) => return Err(SendError::NotSent(format!("{name}: {}", e.error()))),
                    None => return Err(SendError::Unknown(format!("{name}: {}", e.error()))),
                },
            }
        }
    }

    async fn read(
        &self,
        node: usize,
        sender: Sender,
        response: hyper::Response<hyper::body::Incoming>,
    ) -> Result<Reply, SendError> {
        let status = response.status();
        let body = Limited::new(response.into_body(), REPLY_BYTES_MAX)
            .collect()
            .await;
        match body {
            Ok(body) => {
                let mut idle = self.nodes[node]
                    .idle
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner);
                if idle.len() < IDLE_MAX {
                    idle.push(sender);
                }
                let body = body.to_bytes();
                Ok(Reply { status, body })
            }
            Err(e) if e.is::<LengthLimitError>() => Err(SendError::TooLarge),
            Err(e) => Err(SendError::Unknown(format!(
                "{}: the answer broke off: {e}",
                self.name(node)
            ))),
        }
    }

    fn idle(&self, node: usize) -> Option<Sender> {
        let mut idle = self.nodes[node]
            .idle
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        idle.retain(|s| !s.is_closed());
        idle.pop()
    }

    async fn connect(&self, node: usize) -> Result<Sender, String> {
        let node = &self.nodes[node];
        let limit = Duration::from_millis(self.connect_ms_max);
        let connecting = async {
            let tcp = TcpStream::connect((node.host.as_str(), node.port))
                .await
                .map_err(|e| e.to_string())?;
            tcp.set_nodelay(true).map_err(|e| e.to_string())?;
            let tls = self
                .tls
                .connect(node.server_name.clone(), tcp)
                .await
                .map_err(|e| format!("TLS: {e}"))?;
            http1::handshake(TokioIo::new(tls))
                .await
                .map_err(|e| e.to_string())
        };
        let (sender, connection) = tokio::time::timeout(limit, connecting)
            .await
            .map_err(|_| format!("no connection within {} ms", limit.as_millis()))??;
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a connection ended");
            }
        });
        Ok(sender)
    }
}

fn parse_endpoint(text: &str) -> Result<Node, SetupError> {
    let wrong = || SetupError::Endpoint(text.chars().take(200).collect());
    let uri: Uri = text.parse().map_err(|_| wrong())?;
    let (Some("https"), Some(authority), Some(host), Some(port)) = (
        uri.scheme_str(),
        uri.authority(),
        uri.host(),
        uri.port_u16(),
    ) else {
        return Err(wrong());
    };
    if !matches!(uri.path(), "" | "/") || uri.query().is_some() {
        return Err(wrong());
    }
    let host = host
        .trim_start_matches('[')
        .trim_end_matches(']')
        .to_owned();
    let server_name = ServerName::try_from(host.clone()).map_err(|_| wrong())?;
    Ok(Node {
        authority: authority.to_string(),
        host,
        port,
        server_name,
        idle: Mutex::new(Vec::new()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_https_with_host_and_port() {
        for good in [
            "https://127.0.0.1:7000",
            "https://localhost:7000/",
            "https://[::1]:7000",
        ] {
            assert!(parse_endpoint(good).is_ok(), "{good}");
        }
        for bad in [
            "",
            "http://a:1",
            "https://a",
            "a:1",
            "https://a:1/x",
            "https://a:99999",
        ] {
            assert!(
                matches!(parse_endpoint(bad), Err(SetupError::Endpoint(_))),
                "{bad}"
            );
        }
    }
}
