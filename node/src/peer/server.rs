//! The answering side of the peer plane.

use super::frame::{self, BODY_BYTES_MAX, Frame, FrameError, Kind};
use super::{Allow, Answer, PeerIdentity, Service, ServiceError, ServiceId};
use crate::pki::{CertIdentity, CertSource, TrustStore, ca, tls};
use bytes::BytesMut;
use futures::FutureExt;
use quorate_engine::types::codec;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, RwLock};
use std::time::{Duration, Instant, SystemTime};
use tokio::io::{AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;

/// Longest TLS handshake.
const HANDSHAKE_WAIT_MAX: Duration = Duration::from_secs(5);
/// A connection that brings nothing for so long is dropped; clients ping every two seconds.
const IDLE_MAX: Duration = Duration::from_secs(30);
/// A write that does not finish in this time: the peer does not read.
const WRITE_WAIT_MAX: Duration = Duration::from_secs(10);
/// Replies queued for one connection.
const REPLIES_MAX: usize = 1_024;
/// Replies written with one flush.
const WRITE_BATCH_MAX: usize = 64;
/// Pause after a failed accept (file descriptors used up), so that it does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Limits of a server.
#[derive(Clone, Copy, Debug)]
pub struct ServerOptions {
    /// Connections at once, handshakes included.
    pub connections_max: usize,
}

impl Default for ServerOptions {
    fn default() -> Self {
        Self {
            connections_max: 512,
        }
    }
}

#[derive(Clone)]
struct Registered {
    allow: Allow,
    in_flight_max: usize,
    service: Arc<dyn Service>,
}

/// Answers peers. Services may be registered before or while it serves.
pub struct PeerServer {
    own: PeerIdentity,
    trust: Arc<TrustStore>,
    certs: Arc<CertSource>,
    options: ServerOptions,
    services: RwLock<HashMap<ServiceId, Registered>>,
}

/// One authenticated connection.
struct Peer {
    who: PeerIdentity,
    cert_ends: SystemTime,
    identity_key: crate::pki::descriptor::PublicKey,
    address: SocketAddr,
}

struct Outcome {
    id: u64,
    result: Result<Answer, ServiceError>,
}

enum ToWrite {
    Pong,
    Outcome(Outcome),
}

impl PeerServer {
    /// A server that shows `certs` and believes `trust`.
    pub fn new(
        trust: Arc<TrustStore>,
        certs: Arc<CertSource>,
        options: ServerOptions,
    ) -> Arc<Self> {
        let own = trust.own();
        let own = PeerIdentity {
            role: own.role,
            cluster: own.id.clone(),
            node: certs.identity().node,
        };
        Arc::new(Self {
            own,
            trust,
            certs,
            options,
            services: RwLock::default(),
        })
    }

    /// Registers a service: who may use it, and how many of its requests one connection may have in flight.
    pub fn register(
        &self,
        id: ServiceId,
        allow: Allow,
        in_flight_max: usize,
        service: Arc<dyn Service>,
    ) {
        let new = Registered {
            allow,
            in_flight_max,
            service,
        };
        self.services
            .write()
            .expect("no writer panics")
            .insert(id, new);
    }

    /// Accepts connections until `stop`.
    pub fn serve(
        self: &Arc<Self>,
        listener: TcpListener,
        stop: CancellationToken,
    ) -> tokio::task::JoinHandle<()> {
        let server = self.clone();
        tokio::spawn(async move {
            let slots = Arc::new(Semaphore::new(server.options.connections_max));
            let acceptor = TlsAcceptor::from(tls::peer_server(&server.trust, &server.certs));
            loop {
                let (tcp, address) = tokio::select! {
                    () = stop.cancelled() => return,
                    accepted = listener.accept() => match accepted {
                        Ok(accepted) => accepted,
                        Err(e) => {
                            tracing::warn!("peer plane: accept failed: {e}");
                            tokio::time::sleep(ACCEPT_PAUSE).await;
                            continue;
                        }
                    },
                };
                let Ok(slot) = slots.clone().try_acquire_owned() else {
                    tracing::warn!(%address, "peer plane: too many connections, this one is dropped");
                    continue;
                };
                let (server, acceptor, stop) = (server.clone(), acceptor.clone(), stop.clone());
                tokio::spawn(async move {
                    let _slot = slot;
                    tokio::select! {
                        () = stop.cancelled() => {}
                        () = server.connection(acceptor, tcp, address) => {}
                    }
                });
            }
        })
    }

    async fn connection(&self, acceptor: TlsAcceptor, tcp: TcpStream, address: SocketAddr) {
        let _ = tcp.set_nodelay(true);
        let handshake = tokio::time::timeout(HANDSHAKE_WAIT_MAX, acceptor.accept(tcp)).await;
        let refused = |why: String| {
            metrics::counter!("quorate_peer_refused_total").increment(1);
            tracing::warn!(%address, "peer plane: connection refused: {why}");
        };
        let stream = match handshake {
            Ok(Ok(stream)) => stream,
            Ok(Err(e)) => return refused(format!("TLS: {e}")),
            Err(_) => return refused("no TLS handshake in time".into()),
        };
        let peer = match self.identify(&stream, address) {
            Ok(peer) => Arc::new(peer),
            Err(why) => return refused(why),
        };
        tracing::debug!(peer = %peer.who, %address, "peer accepted");
        let (reader, writer) = tokio::io::split(stream);
        let (replies, queue) = mpsc::channel(REPLIES_MAX);
        // The greeting: after it the client knows that its certificate was accepted.
        let _ = replies.try_send(ToWrite::Pong);
        let ended = tokio::select! {
            ended = self.read(reader, &peer, replies) => ended,
            ended = write(writer, queue) => ended,
        };
        tracing::debug!(peer = %peer.who, %address, "peer connection ended: {ended}");
    }

    fn identify(&self, stream: &TlsStream<TcpStream>, address: SocketAddr) -> Result<Peer, String> {
        let tls = stream.get_ref().1;
        if tls.alpn_protocol() != Some(tls::PEER_ALPN) {
            return Err("speaks no peer protocol of this build".into());
        }
        let cert = tls
            .peer_certificates()
            .and_then(<[_]>::first)
            .ok_or("no certificate")?;
        let identity = CertIdentity::of_certificate(cert).map_err(|e| e.to_string())?;
        let who = PeerIdentity::from_cert(&identity).ok_or("not a peer's certificate")?;
        let descriptor = self
            .trust
            .get(&who.cluster)
            .ok_or("its cluster is no longer trusted")?;
        let cert_ends = ca::not_after_der(cert).map_err(|e| e.to_string())?;
        Ok(Peer {
            who,
            cert_ends,
            identity_key: descriptor.identity_key,
            address,
        })
    }

    /// A connection may outlive its certificate or our trust; a request may not.
    fn still_welcome(&self, peer: &Peer) -> Result<(), String> {
        if SystemTime::now() > peer.cert_ends {
            return Err("its certificate ended".into());
        }
        match self.trust.get(&peer.who.cluster) {
            Some(d) if d.identity_key == peer.identity_key => Ok(()),
            _ => Err("its cluster is no longer trusted".into()),
        }
    }

    async fn read(
        &self,
        mut reader: ReadHalf<TlsStream<TcpStream>>,
        peer: &Arc<Peer>,
        replies: mpsc::Sender<ToWrite>,
    ) -> String {
        let mut slots: HashMap<ServiceId, Arc<Semaphore>> = HashMap::new();
        loop {
            let frame = match tokio::time::timeout(IDLE_MAX, frame::read(&mut reader)).await {
                Ok(Ok(frame)) => frame,
                Ok(Err(e @ (FrameError::Length(_) | FrameError::Header { .. }))) => {
                    metrics::counter!("quorate_peer_bad_frames_total").increment(1);
                    tracing::error!(peer = %peer.who, address = %peer.address, "peer plane: connection closed: {e}");
                    return e.to_string();
                }
                Ok(Err(e)) => return e.to_string(),
                Err(_) => return "silent for too long".into(),
            };
            if let Err(why) = self.still_welcome(peer) {
                tracing::warn!(peer = %peer.who, "peer plane: connection closed: {why}");
                return why;
            }
            let sent = match frame.kind {
                Kind::Ping => replies.send(ToWrite::Pong).await,
                Kind::Request => self.dispatch(frame, peer, &mut slots, &replies).await,
                Kind::Reply | Kind::Error | Kind::Pong => {
                    tracing::error!(peer = %peer.who, "peer plane: connection closed: a client sent a {:?}", frame.kind);
                    return "a client sent a server's frame".into();
                }
            };
            if sent.is_err() {
                return "the writer ended".into();
            }
        }
    }

    async fn dispatch(
        &self,
        frame: Frame,
        peer: &Arc<Peer>,
        slots: &mut HashMap<ServiceId, Arc<Semaphore>>,
        replies: &mpsc::Sender<ToWrite>,
    ) -> Result<(), mpsc::error::SendError<ToWrite>> {
        let id = frame.id;
        let found = self
            .services
            .read()
            .expect("no writer panics")
            .get(&frame.service)
            .cloned();
        let refuse =
            |e: ServiceError| replies.send(ToWrite::Outcome(Outcome { id, result: Err(e) }));
        let Some(registered) = found else {
            return refuse(ServiceError::NoService(frame.service)).await;
        };
        if !registered.allow.permits(&self.own, &peer.who) {
            metrics::counter!("quorate_peer_forbidden_total").increment(1);
            tracing::warn!(peer = %peer.who, service = frame.service, "peer plane: service not allowed to this peer");
            let why = format!("service {} is not for {}", frame.service, peer.who);
            return refuse(ServiceError::Forbidden(why)).await;
        }
        let max = registered.in_flight_max;
        let slot = slots
            .entry(frame.service)
            .or_insert_with(|| Arc::new(Semaphore::new(max)));
        let Ok(permit) = slot.clone().try_acquire_owned() else {
            let why = format!("{max} requests of service {} in flight", frame.service);
            return refuse(ServiceError::Busy(why)).await;
        };
        let (replies, from) = (replies.clone(), peer.who.clone());
        tokio::spawn(async move {
            let answer =
                AssertUnwindSafe(registered.service.answer(from, frame.body)).catch_unwind();
            let result = match answer.await {
                Ok(Ok(answer)) if answer.body.len() > BODY_BYTES_MAX => Err(ServiceError::Failed(
                    format!("the reply has {} bytes", answer.body.len()),
                )),
                Ok(result) => result,
                Err(_) => Err(ServiceError::Failed(
                    "the service panicked; see this node's log".into(),
                )),
            };
            let _ = replies.send(ToWrite::Outcome(Outcome { id, result })).await;
            drop(permit);
        });
        Ok(())
    }
}

/// An answer whose deadline passed while it waited is not sent.
fn in_time(result: Result<Answer, ServiceError>) -> Result<Answer, ServiceError> {
    result.and_then(|answer| match &answer.departing {
        Some(d) if d.until <= Instant::now() => Err(ServiceError::Failed(
            "the answer was ready too late to be sent; ask again".into(),
        )),
        _ => Ok(answer),
    })
}

async fn write(
    mut writer: WriteHalf<TlsStream<TcpStream>>,
    mut queue: mpsc::Receiver<ToWrite>,
) -> String {
    let mut batch = Vec::new();
    let mut buffer = BytesMut::new();
    let mut leaving = Vec::new();
    loop {
        if queue.recv_many(&mut batch, WRITE_BATCH_MAX).await == 0 {
            return "closed".into();
        }
        for item in batch.drain(..) {
            match item {
                ToWrite::Pong => frame::put(&mut buffer, Kind::Pong, 0, 0, &[]),
                ToWrite::Outcome(Outcome { id, result }) => match in_time(result) {
                    Ok(answer) => {
                        frame::put(&mut buffer, Kind::Reply, 0, id, &answer.body);
                        leaving.extend(answer.departing);
                    }
                    Err(e) => frame::put(&mut buffer, Kind::Error, 0, id, &codec::encode(1, &e)),
                },
            }
        }
        let now = Instant::now();
        let wait = leaving
            .iter()
            .map(|d| d.until.saturating_duration_since(now))
            .fold(WRITE_WAIT_MAX, Duration::min);
        let all = async {
            writer.write_all(&buffer).await?;
            writer.flush().await
        };
        match tokio::time::timeout(wait, all).await {
            Ok(Ok(())) => {
                buffer.clear();
                leaving.clear();
            }
            Ok(Err(e)) => return format!("write failed: {e}"),
            Err(_) => return "the peer does not read".into(),
        }
        if buffer.capacity() > 4 << 20 {
            buffer = BytesMut::new(); // One large reply does not keep its memory for ever.
        }
    }
}
