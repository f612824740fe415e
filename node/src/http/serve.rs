//! Accepting connections: caps, deadlines, TLS, and an orderly end.
//!
//! `axum::serve` has no header deadline, no connection cap and waits for ever
//! on shutdown, so the loop is our own over hyper. HTTP/1.1 or HTTP/2 is chosen
//! by ALPN, never by sniffing first bytes: sniffing would wait without a
//! deadline for a client that sends nothing.

use super::tls::TlsSource;
use axum::Router;
use axum::extract::Request;
use futures::future::BoxFuture;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls_pki_types::CertificateDer;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tower::Service;

/// Longest a TLS handshake may take, in milliseconds.
pub const HANDSHAKE_MS_MAX: u64 = 5_000;
/// Longest a request's head may take to arrive, idle keep-alive included, in milliseconds.
pub const HEAD_MS_MAX: u64 = 30_000;
/// Largest request head, in bytes.
pub const HEAD_BYTES_MAX: usize = 64 << 10;
/// Most header fields in a request.
pub const HEADERS_MAX: usize = 64;
/// Most connections on one listener; further ones wait in the kernel's queue.
pub const CONNECTIONS_MAX: usize = 1_024;
/// Most requests at once on one HTTP/2 connection.
pub const STREAMS_MAX: u32 = 128;
/// How long requests in work may go on after a shutdown began, in milliseconds.
pub const DRAIN_MS_MAX: u64 = 10_000;
/// Wait after the system refused to accept (out of descriptors, say), in milliseconds.
pub const ACCEPT_RETRY_MS: u64 = 100;

/// Limits of one listener. [`ServeLimits::default`] is what nodes run with.
#[derive(Clone, Copy, Debug)]
pub struct ServeLimits {
    /// See [`HANDSHAKE_MS_MAX`].
    pub handshake_ms_max: u64,
    /// See [`HEAD_MS_MAX`].
    pub head_ms_max: u64,
    /// See [`CONNECTIONS_MAX`].
    pub connections_max: usize,
    /// See [`DRAIN_MS_MAX`].
    pub drain_ms_max: u64,
}

impl Default for ServeLimits {
    fn default() -> Self {
        Self {
            handshake_ms_max: HANDSHAKE_MS_MAX,
            head_ms_max: HEAD_MS_MAX,
            connections_max: CONNECTIONS_MAX,
            drain_ms_max: DRAIN_MS_MAX,
        }
    }
}

/// Who is at the other end; an extension of every request.
#[derive(Clone, Debug)]
pub struct PeerInfo {
    /// Remote address.
    pub address: SocketAddr,
    /// The verified certificate chain, leaf first; empty without client certificates.
    pub certificates: Arc<[CertificateDer<'static>]>,
}

/// Serves `router` on `listener` until `stop` is cancelled, then drains.
///
/// With `tls` every connection is TLS; without, plain (health only).
/// Returns when the last connection ended or the drain deadline passed.
pub async fn serve(
    listener: TcpListener,
    tls: Option<TlsSource>,
    router: Router,
    limits: ServeLimits,
    stop: CancellationToken,
) {
    let slots = Arc::new(Semaphore::new(limits.connections_max));
    let mut tasks = JoinSet::new();
    loop {
        let (stream, address, slot) = tokio::select! {
            () = stop.cancelled() => break,
            accepted = accept(&listener, &slots) => accepted,
            // Ended connections are reaped as they end, not at shutdown.
            Some(_ended) = tasks.join_next() => continue,
        };
        let (tls, router, stop) = (tls.clone(), router.clone(), stop.clone());
        tasks.spawn(async move {
            connection(stream, address, tls, router, limits, stop).await;
            drop(slot);
        });
    }
    drop(listener);
    let drain = Duration::from_millis(limits.drain_ms_max);
    let drained = async { while tasks.join_next().await.is_some() {} };
    if tokio::time::timeout(drain, drained).await.is_err() {
        tracing::warn!(
            connections = tasks.len(),
            "drain deadline passed, closing connections"
        );
        tasks.shutdown().await;
    }
}

async fn accept(
    listener: &TcpListener,
    slots: &Arc<Semaphore>,
) -> (TcpStream, SocketAddr, tokio::sync::OwnedSemaphorePermit) {
    let slot = slots
        .clone()
        .acquire_owned()
        .await
        .expect("the semaphore is never closed");
    loop {
        match listener.accept().await {
            Ok((stream, address)) => return (stream, address, slot),
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(Duration::from_millis(ACCEPT_RETRY_MS)).await;
            }
        }
    }
}

async fn connection(
    stream: TcpStream,
    address: SocketAddr,
    tls: Option<TlsSource>,
    router: Router,
    limits: ServeLimits,
    stop: CancellationToken,
) {
    // Without it a reply's last packet waits for an acknowledgement.
    let _ = stream.set_nodelay(true);
    let Some(tls) = tls else {
        let peer = PeerInfo {
            address,
            certificates: Arc::new([]),
        };
        return http(stream, false, peer, router, limits, stop).await;
    };
    let config = tls.borrow().clone();
    let handshake = tokio_rustls::TlsAcceptor::from(config).accept(stream);
    let deadline = Duration::from_millis(limits.handshake_ms_max);
    let stream = match tokio::time::timeout(deadline, handshake).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => {
            metrics::counter!("quorate_http_handshakes_failed_total").increment(1);
            tracing::debug!(%address, %error, "TLS handshake failed");
            return;
        }
        Err(_elapsed) => {
            metrics::counter!("quorate_http_handshakes_failed_total").increment(1);
            tracing::debug!(%address, "TLS handshake took too long");
            return;
        }
    };
    let session = stream.get_ref().1;
    let certificates = session
        .peer_certificates()
        .map_or_else(|| Arc::new([]) as Arc<[_]>, Arc::from);
    let http2 = session.alpn_protocol() == Some(b"h2".as_slice());
    let peer = PeerInfo {
        address,
        certificates,
    };
    http(stream, http2, peer, router, limits, stop).await;
}

async fn http<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
    stream: S,
    http2: bool,
    peer: PeerInfo,
    router: Router,
    limits: ServeLimits,
    stop: CancellationToken,
) {
    let address = peer.address;
    let service = service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(peer.clone());
        router.clone().call(request)
    });
    let io = TokioIo::new(stream);
    let head = Duration::from_millis(limits.head_ms_max);
    let ended: Result<(), hyper::Error> = if http2 {
        let mut builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
        builder
            .timer(TokioTimer::new())
            .max_concurrent_streams(STREAMS_MAX)
            .max_header_list_size(HEAD_BYTES_MAX as u32)
            // A silent peer is found out and closed, as on HTTP/1.1.
            .keep_alive_interval(head)
            .keep_alive_timeout(head);
        let mut connection = pin!(builder.serve_connection(io, service));
        tokio::select! {
            ended = connection.as_mut() => ended,
            () = stop.cancelled() => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        }
    } else {
        let mut builder = hyper::server::conn::http1::Builder::new();
        builder
            .timer(TokioTimer::new())
            .header_read_timeout(head)
            .max_headers(HEADERS_MAX)
            .max_buf_size(HEAD_BYTES_MAX);
        let mut connection = pin!(builder.serve_connection(io, service));
        tokio::select! {
            ended = connection.as_mut() => ended,
            () = stop.cancelled() => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%address, %error, "connection ended with an error");
    }
}

/// A plane that runs: where it listens and how to end it.
pub struct Running {
    /// The address it listens on; the port is known even when 0 was asked for.
    pub address: SocketAddr,
    stop: CancellationToken,
    task: tokio::task::JoinHandle<()>,
}

impl Running {
    /// Stops accepting, lets requests in work end within the drain deadline, and returns then.
    pub fn stop(self) -> BoxFuture<'static, ()> {
        self.stop.cancel();
        Box::pin(async move {
            // An error here means the task was aborted with its runtime: it has ended, too.
            let _ = self.task.await;
        })
    }
}

/// Binds `address` and serves `router` there in a task of its own.
///
/// # Errors
/// When the address cannot be bound.
pub async fn spawn(
    address: SocketAddr,
    tls: Option<TlsSource>,
    router: Router,
    limits: ServeLimits,
) -> std::io::Result<Running> {
    let listener = TcpListener::bind(address).await?;
    let address = listener.local_addr()?;
    let stop = CancellationToken::new();
    let task = tokio::spawn(serve(listener, tls, router, limits, stop.clone()));
    Ok(Running {
        address,
        stop,
        task,
    })
}
