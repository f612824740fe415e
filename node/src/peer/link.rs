//! One peer's link: a task that owns the connection, makes it when there is
//! something to send, and fails fast while it cannot.
//!
//! A request passes from *queued* to *sent* exactly once, by compare-and-set,
//! just before its bytes enter the write buffer. A caller that gives up tries
//! to move it from *queued* to *cancelled*: whoever wins decides whether the
//! caller may say "certainly not sent".

use super::client::Inner;
use super::frame::{self, Frame, FrameError, Kind};
use super::{CallError, PeerTarget, ServiceError, ServiceId};
use crate::pki::{ca, tls};
use bytes::{Bytes, BytesMut};
use quorate_engine::types::codec;
use rand::RngExt;
use rustls_pki_types::ServerName;
use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;
use tokio::io::{AsyncWriteExt, WriteHalf};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_util::sync::CancellationToken;

/// Longest wait for TCP and TLS together.
pub(super) const CONNECT_WAIT_MAX: Duration = Duration::from_secs(3);
/// First wait after a failed attempt; doubles up to [`BACKOFF_MAX`].
const BACKOFF_MIN: Duration = Duration::from_millis(50);
const BACKOFF_MAX: Duration = Duration::from_millis(1_000);
/// A quiet connection is pinged this often.
const PING_EVERY: Duration = Duration::from_secs(2);
/// Nothing received for so long, pongs included: the peer is gone.
const SILENCE_MAX: Duration = Duration::from_secs(7);
/// A write that does not finish in this time: the peer does not read.
const WRITE_WAIT_MAX: Duration = Duration::from_secs(10);
/// Requests written with one flush.
const WRITE_BATCH_MAX: usize = 64;
/// A batch is flushed early when it holds this many bytes.
const WRITE_BATCH_BYTES_MAX: usize = 1 << 20;

const QUEUED: u8 = 0;
const SENT: u8 = 1;
const CANCELLED: u8 = 2;

/// Where a request stands; shared by caller and link.
#[derive(Debug, Default)]
pub(super) struct Ticket(AtomicU8);

impl Ticket {
    fn to(&self, state: u8) -> bool {
        self.0
            .compare_exchange(QUEUED, state, Ordering::AcqRel, Ordering::Acquire)
            .is_ok()
    }
    /// The link is about to write it.
    fn send(&self) -> bool {
        self.to(SENT)
    }
    /// The caller gives up; true when it was certainly not sent.
    pub(super) fn cancel(&self) -> bool {
        self.to(CANCELLED)
    }
}

pub(super) type Answer = Result<Bytes, CallError>;

pub(super) struct Outgoing {
    pub(super) service: ServiceId,
    pub(super) body: Vec<u8>,
    pub(super) ticket: Arc<Ticket>,
    pub(super) answer: oneshot::Sender<Answer>,
}

type Waiting = Arc<Mutex<HashMap<u64, oneshot::Sender<Answer>>>>;

/// The caller's end of a link.
pub(super) struct Link {
    pub(super) queue: mpsc::Sender<Outgoing>,
    pub(super) in_flight: Arc<tokio::sync::Semaphore>,
    /// Ends the connection, whatever waits on it.
    pub(super) hang_up: CancellationToken,
}

/// Starts the task for `target`. It ends when the client is dropped.
pub(super) fn spawn(inner: &Arc<Inner>, target: PeerTarget) -> Link {
    let (queue, rx) = mpsc::channel(inner.options.in_flight_max);
    let in_flight = Arc::new(tokio::sync::Semaphore::new(inner.options.in_flight_max));
    let hang_up = CancellationToken::new();
    tokio::spawn(run(Arc::downgrade(inner), target, rx, hang_up.clone()));
    Link {
        queue,
        in_flight,
        hang_up,
    }
}

async fn run(
    inner: Weak<Inner>,
    target: PeerTarget,
    mut queue: mpsc::Receiver<Outgoing>,
    hang_up: CancellationToken,
) {
    let mut backoff = BACKOFF_MIN;
    let mut blocked: Option<(Instant, String)> = None;
    while let Some(first) = queue.recv().await {
        if let Some((until, why)) = &blocked
            && Instant::now() < *until
        {
            fail(first, format!("{target}: {why}"));
            continue;
        }
        let Some(strong) = inner.upgrade() else {
            return;
        };
        let connected = tokio::time::timeout(CONNECT_WAIT_MAX, connect(&strong, &target)).await;
        drop(strong);
        let stream = match connected.unwrap_or_else(|_| Err("no connection in time".into())) {
            Ok(stream) => stream,
            Err(why) => {
                tracing::debug!(%target, "peer cannot be reached: {why}");
                // Jitter, so that the nodes of a cluster do not all knock at once.
                let wait = backoff.mul_f64(rand::rng().random_range(0.7..1.3));
                backoff = (backoff * 2).min(BACKOFF_MAX);
                blocked = Some((Instant::now() + wait, why.clone()));
                fail(first, format!("{target}: {why}"));
                continue;
            }
        };
        tracing::debug!(%target, "peer connected");
        metrics::counter!("quorate_peer_connects_total", "cluster" => target.cluster.clone())
            .increment(1);
        let began = Instant::now();
        let why = serve(stream, first, &mut queue, &hang_up).await;
        tracing::debug!(%target, "peer connection ended: {why}");
        if hang_up.is_cancelled() {
            return;
        }
        // Accepted and dropped at once is no success: a refused certificate looks like this.
        if began.elapsed() > BACKOFF_MAX {
            backoff = BACKOFF_MIN;
            blocked = None;
        } else {
            blocked = Some((Instant::now() + backoff, why));
            backoff = (backoff * 2).min(BACKOFF_MAX);
        }
    }
}

fn fail(out: Outgoing, why: String) {
    if out.ticket.cancel() {
        let _ = out.answer.send(Err(CallError::NotSent(why)));
    }
}

async fn connect(inner: &Inner, target: &PeerTarget) -> Result<TlsStream<TcpStream>, String> {
    let address = inner.address(target).ok_or_else(|| {
        format!(
            "no address is known for node {} of {}",
            target.node, target.cluster
        )
    })?;
    let tcp = TcpStream::connect(&address)
        .await
        .map_err(|e| format!("{address}: {e}"))?;
    tcp.set_nodelay(true)
        .map_err(|e| format!("{address}: {e}"))?;
    let config = tls::peer_client(&inner.trust, &inner.certs, inner.cert_identity(target));
    // Not sent (no SNI) and not checked: the identity checked is the SAN URI.
    let name = ServerName::IpAddress(IpAddr::V4(Ipv4Addr::UNSPECIFIED).into());
    let mut stream = TlsConnector::from(config)
        .connect(name, tcp)
        .await
        .map_err(|e| format!("{address}: TLS: {e}"))?;
    if stream.get_ref().1.alpn_protocol() != Some(tls::PEER_ALPN) {
        return Err(format!("{address}: speaks no peer protocol of this build"));
    }
    let shown = stream
        .get_ref()
        .1
        .peer_certificates()
        .and_then(|c| c.first());
    if let Some(Ok(ends)) = shown.map(|der| ca::not_after_der(der)) {
        let mut all = inner.ends.lock().expect("no holder panics");
        all.insert(target.clone(), ends);
    }
    // In TLS 1.3 a client is done before the server judged its certificate. Only after the
    // server's greeting can a request that fails be anything but certainly not sent.
    match frame::read(&mut stream).await {
        Ok(f) if f.kind == Kind::Pong => Ok(stream),
        Ok(f) => Err(format!("{address}: greeted with a {:?}", f.kind)),
        Err(e) => Err(format!("{address}: refused this node: {e}")),
    }
}

/// Runs a connection until it ends; everything still waiting then is unknown.
async fn serve(
    stream: TlsStream<TcpStream>,
    first: Outgoing,
    queue: &mut mpsc::Receiver<Outgoing>,
    hang_up: &CancellationToken,
) -> String {
    let (mut reader, writer) = tokio::io::split(stream);
    let waiting: Waiting = Arc::default();
    let heard = Arc::new(AtomicU64::new(0));
    let began = Instant::now();
    let mut read = {
        let (waiting, heard) = (waiting.clone(), heard.clone());
        tokio::spawn(async move {
            loop {
                match frame::read(&mut reader).await {
                    Ok(f) => {
                        heard.store(began.elapsed().as_millis() as u64, Ordering::Relaxed);
                        deliver(&waiting, f);
                    }
                    Err(e) => return e,
                }
            }
        })
    };
    let why = tokio::select! {
        () = hang_up.cancelled() => {
            read.abort();
            "this node hung up".to_owned()
        }
        why = write(writer, first, queue, &waiting, &heard, began) => {
            read.abort();
            why
        }
        ended = &mut read => match ended {
            Ok(e @ (FrameError::Length(_) | FrameError::Header { .. })) => {
                tracing::warn!("peer sent no frames: {e}");
                e.to_string()
            }
            Ok(e) => e.to_string(),
            Err(e) => format!("reader stopped: {e}"),
        },
    };
    let left: Vec<_> = waiting.lock().expect("no holder panics").drain().collect();
    for (_, answer) in left {
        let _ = answer.send(Err(CallError::Unknown(format!(
            "the connection ended: {why}"
        ))));
    }
    why
}

fn deliver(waiting: &Waiting, f: Frame) {
    let answer = match f.kind {
        Kind::Reply => Ok(f.body),
        Kind::Error => Err(CallError::Refused(
            codec::decode::<ServiceError>("service error", 1, &f.body)
                .unwrap_or_else(|e| ServiceError::Failed(e.to_string())),
        )),
        Kind::Pong | Kind::Ping | Kind::Request => return,
    };
    // Absent: the caller gave up before.
    if let Some(tx) = waiting.lock().expect("no holder panics").remove(&f.id) {
        let _ = tx.send(answer);
    }
}

async fn write(
    mut writer: WriteHalf<TlsStream<TcpStream>>,
    first: Outgoing,
    queue: &mut mpsc::Receiver<Outgoing>,
    waiting: &Waiting,
    heard: &AtomicU64,
    began: Instant,
) -> String {
    let mut next_id = 1u64;
    let mut batch = vec![first];
    let mut buffer = BytesMut::new();
    let mut ping = tokio::time::interval(PING_EVERY);
    ping.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    ping.reset();
    loop {
        for out in batch.drain(..) {
            if !out.ticket.send() {
                continue; // The caller gave up in time.
            }
            let id = next_id;
            next_id += 1;
            waiting
                .lock()
                .expect("no holder panics")
                .insert(id, out.answer);
            frame::put(&mut buffer, Kind::Request, out.service, id, &out.body);
            if buffer.len() > WRITE_BATCH_BYTES_MAX
                && let Err(e) = flush(&mut writer, &mut buffer).await
            {
                return e;
            }
        }
        if let Err(e) = flush(&mut writer, &mut buffer).await {
            return e;
        }
        tokio::select! {
            n = queue.recv_many(&mut batch, WRITE_BATCH_MAX) => {
                if n == 0 {
                    return "this node closes its peer connections".into();
                }
            }
            _ = ping.tick() => {
                let silent = began.elapsed().saturating_sub(Duration::from_millis(heard.load(Ordering::Relaxed)));
                if silent > SILENCE_MAX {
                    return format!("silent for {} s", silent.as_secs());
                }
                // Callers that gave up no longer wait.
                waiting.lock().expect("no holder panics").retain(|_, tx| !tx.is_closed());
                frame::put(&mut buffer, Kind::Ping, 0, 0, &[]);
            }
        }
    }
}

async fn flush(
    writer: &mut WriteHalf<TlsStream<TcpStream>>,
    buffer: &mut BytesMut,
) -> Result<(), String> {
    if buffer.is_empty() {
        return Ok(());
    }
    let all = async {
        writer.write_all(buffer).await?;
        writer.flush().await
    };
    let done = tokio::time::timeout(WRITE_WAIT_MAX, all).await;
    buffer.clear();
    match done {
        Ok(Ok(())) => Ok(()),
        Ok(Err(e)) => Err(format!("write failed: {e}")),
        Err(_) => Err("the peer does not read".into()),
    }
}
