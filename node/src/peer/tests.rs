//! The peer plane over real TLS: calls, deadlines, limits, strangers.

mod answers;

use super::*;
use crate::pki::testkit::{certs, entity, forged, source, trust};
use crate::pki::verify::{Accept, Verifier};
use crate::pki::{CertRole, CertSource, Entity, TrustStore, tls};
use rustls_pki_types::ServerName;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_util::sync::CancellationToken;

const WAIT: Duration = Duration::from_secs(5);

/// Echoes; `sleep` first sleeps, `panic` panics, `count` counts.
#[derive(Default)]
struct Echo {
    calls: AtomicUsize,
}

impl Service for Echo {
    fn call(
        &self,
        from: PeerIdentity,
        body: Bytes,
    ) -> BoxFuture<'_, Result<Vec<u8>, ServiceError>> {
        Box::pin(async move {
            self.calls.fetch_add(1, Ordering::SeqCst);
            if body.starts_with(b"sleep") {
                tokio::time::sleep(Duration::from_millis(600)).await;
            }
            assert!(!body.starts_with(b"panic"), "asked to panic");
            if body.starts_with(b"invalid") {
                return Err(ServiceError::Invalid("as asked".into()));
            }
            let mut out = format!("{from}: ").into_bytes();
            out.extend_from_slice(&body);
            Ok(out)
        })
    }
}

struct Server {
    target: PeerTarget,
    address: String,
    echo: Arc<Echo>,
    stop: CancellationToken,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

async fn start(e: &Entity, trust: Arc<TrustStore>, certs: Arc<CertSource>, at: &str) -> Server {
    let listener = TcpListener::bind(at).await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let echo = Arc::new(Echo::default());
    let node = certs.identity().node;
    let server = PeerServer::new(trust, certs, ServerOptions::default());
    server.register(services::RAFT, Allow::SameCluster, 64, echo.clone());
    server.register(services::CUSTODIAN, Allow::Homes, 2, echo.clone());
    let stop = CancellationToken::new();
    server.serve(listener, stop.clone());
    let target = PeerTarget {
        role: e.descriptor.role,
        cluster: e.descriptor.id.clone(),
        node,
    };
    Server {
        target,
        address,
        echo,
        stop,
    }
}

struct World {
    dir: tempfile::TempDir,
    ae: Entity,
    ch: Entity,
    is: Entity,
}

impl World {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let ae = entity(dir.path(), ClusterRole::Home, "ae", 1);
        let ch = entity(dir.path(), ClusterRole::Custodian, "ch", 2);
        let is = entity(dir.path(), ClusterRole::Custodian, "is", 1);
        Self { dir, ae, ch, is }
    }
    async fn ch1(&self) -> Server {
        let trust = trust(&self.ch, &[&self.ae, &self.is]);
        start(&self.ch, trust, certs(&self.ch, 1), "127.0.0.1:0").await
    }
    fn client(&self, own: &Entity, certs: Arc<CertSource>, server: &Server) -> PeerClient {
        let all: Vec<&Entity> = [&self.ae, &self.ch, &self.is]
            .into_iter()
            .filter(|e| e.descriptor.id != own.descriptor.id)
            .collect();
        let client = PeerClient::new(trust(own, &all), certs, PeerClientOptions::default());
        client.set_address(server.target.clone(), server.address.clone());
        client
    }
}

fn not_sent(r: Result<Vec<u8>, CallError>) -> String {
    match r {
        Err(CallError::NotSent(why)) => why,
        other => panic!("expected NotSent, got {other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_are_multiplexed_and_roles_are_checked_per_service() {
    let w = World::new();
    let server = w.ch1().await;
    let home = w.client(&w.ae, certs(&w.ae, 1), &server);
    // A slow request does not hold up a fast one on the same connection.
    let slow = tokio::spawn({
        let (home, to) = (home.clone(), server.target.clone());
        async move {
            home.call(&to, services::CUSTODIAN, b"sleep".to_vec(), WAIT)
                .await
        }
    });
    tokio::time::sleep(Duration::from_millis(150)).await;
    let fast = home
        .call(&server.target, services::CUSTODIAN, b"fast".to_vec(), WAIT)
        .await
        .unwrap();
    assert_eq!(fast, b"home ae node 1: fast");
    assert!(!slow.is_finished());
    assert_eq!(slow.await.unwrap().unwrap(), b"home ae node 1: sleep");

    let large = vec![7u8; 3 << 20];
    let back = home
        .call(&server.target, services::CUSTODIAN, large, WAIT)
        .await
        .unwrap();
    assert_eq!(back.len(), (3 << 20) + b"home ae node 1: ".len());

    // Raft is for the own cluster, the custodian service for homes, and nothing else exists.
    let e = home
        .call(&server.target, services::RAFT, vec![], WAIT)
        .await
        .unwrap_err();
    assert!(
        matches!(e, CallError::Refused(ServiceError::Forbidden(_))),
        "{e}"
    );
    assert!(e.nothing_was_done());
    let e = home
        .call(&server.target, 99, vec![], WAIT)
        .await
        .unwrap_err();
    assert!(
        matches!(e, CallError::Refused(ServiceError::NoService(99))),
        "{e}"
    );
    let sibling = w.client(&w.ch, certs(&w.ch, 2), &server);
    assert!(
        sibling
            .call(&server.target, services::RAFT, vec![], WAIT)
            .await
            .is_ok()
    );
    let other = w.client(&w.is, certs(&w.is, 1), &server);
    for service in [services::RAFT, services::CUSTODIAN] {
        let e = other
            .call(&server.target, service, vec![], WAIT)
            .await
            .unwrap_err();
        assert!(
            matches!(e, CallError::Refused(ServiceError::Forbidden(_))),
            "{e}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn outcomes_are_told_apart() {
    let w = World::new();
    let server = w.ch1().await;
    let home = w.client(&w.ae, certs(&w.ae, 1), &server);
    let call = |body: &'static [u8], ms| {
        let (home, to) = (home.clone(), server.target.clone());
        async move {
            home.call(
                &to,
                services::CUSTODIAN,
                body.to_vec(),
                Duration::from_millis(ms),
            )
            .await
        }
    };
    assert!(call(b"x", 5_000).await.is_ok());
    let timed_out = call(b"sleep", 100).await.unwrap_err();
    assert!(matches!(timed_out, CallError::Unknown(_)), "{timed_out}");
    let e = call(b"invalid", 5_000).await.unwrap_err();
    assert!(
        matches!(e, CallError::Refused(ServiceError::Invalid(_))),
        "{e}"
    );
    let e = call(b"panic", 5_000).await.unwrap_err();
    assert!(
        matches!(e, CallError::Refused(ServiceError::Failed(_))) && !e.nothing_was_done(),
        "{e}"
    );
    // Two in flight is this service's limit; the one that timed out may still run.
    tokio::time::sleep(Duration::from_millis(700)).await;
    let (a, b, c) = tokio::join!(
        call(b"sleep", 5_000),
        call(b"sleep", 5_000),
        call(b"sleep", 5_000)
    );
    let busy = [a, b, c]
        .into_iter()
        .filter(|r| matches!(r, Err(CallError::Refused(ServiceError::Busy(_)))))
        .count();
    assert_eq!(busy, 1);

    // The server goes away under a request: unknown. Then nobody listens: certainly not sent.
    let calls = server.echo.calls.load(Ordering::SeqCst);
    let pending = tokio::spawn(call(b"sleep", 5_000));
    while server.echo.calls.load(Ordering::SeqCst) == calls {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    server.stop.cancel();
    let e = pending.await.unwrap().unwrap_err();
    assert!(matches!(e, CallError::Unknown(_)), "{e}");
    tokio::time::sleep(Duration::from_millis(100)).await;
    not_sent(call(b"x", 2_000).await);
    // It comes back at the same address: the link connects again by itself.
    let back = start(
        &w.ch,
        trust(&w.ch, &[&w.ae]),
        certs(&w.ch, 1),
        &server.address,
    )
    .await;
    for attempt in 0.. {
        match call(b"again", 2_000).await {
            Ok(_) => break,
            Err(e) => assert!(e.nothing_was_done() && attempt < 50, "{e}"),
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(back.echo.calls.load(Ordering::SeqCst), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_is_hung_up_answers_nothing_more() {
    let w = World::new();
    let server = w.ch1().await;
    let home = w.client(&w.ae, certs(&w.ae, 1), &server);
    let call = |body: &'static [u8]| {
        let (home, to) = (home.clone(), server.target.clone());
        async move {
            home.call(&to, services::CUSTODIAN, body.to_vec(), WAIT)
                .await
        }
    };
    let pending = tokio::spawn(call(b"sleep"));
    while server.echo.calls.load(Ordering::SeqCst) == 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    home.hang_up(&server.target);
    let e = pending.await.unwrap().unwrap_err();
    assert!(matches!(e, CallError::Unknown(_)), "{e}");
    call(b"x").await.expect("the next call connects anew");
    let calls = server.echo.calls.load(Ordering::SeqCst);
    let pending = tokio::spawn(call(b"sleep"));
    while server.echo.calls.load(Ordering::SeqCst) == calls {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    home.set_address(server.target.clone(), "127.0.0.1:1".into());
    let e = pending.await.unwrap().unwrap_err();
    assert!(matches!(e, CallError::Unknown(_)), "{e}");
    not_sent(call(b"x").await);
    home.set_address(server.target.clone(), server.address.clone());
    call(b"x").await.expect("a new address is dialled at once");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unknown_address_and_a_peer_that_never_answers_are_not_sent() {
    let w = World::new();
    let server = w.ch1().await;
    let home = w.client(&w.ae, certs(&w.ae, 1), &server);
    let nowhere = PeerTarget {
        node: 77,
        ..server.target.clone()
    };
    assert!(not_sent(home.call(&nowhere, 2, vec![], WAIT).await).contains("no address"));
    // Accepts TCP, never speaks TLS.
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let to = PeerTarget {
        node: 2,
        ..server.target.clone()
    };
    home.set_address(to.clone(), silent.local_addr().unwrap().to_string());
    let why = not_sent(home.call(&to, 2, vec![], Duration::from_millis(200)).await);
    assert!(why.contains("200 ms"), "{why}");
    let huge = vec![0; frame::BODY_BYTES_MAX + 1];
    not_sent(home.call(&server.target, 2, huge, WAIT).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn certificates_count_only_under_the_ca_of_the_cluster_they_name() {
    let w = World::new();
    let server = w.ch1().await;
    let stranger = entity(&w.dir.path().join("x"), ClusterRole::Home, "xx", 1);
    let d = w.dir.path();
    let now = SystemTime::now();
    let home_id = certs(&w.ae, 1).identity();
    let life = Duration::from_secs(60);
    let future =
        w.ae.authority()
            .danger_issue(&home_id, &[], now + Duration::from_secs(900), life)
            .unwrap();
    let cases = [
        (
            "the other custodian's CA mints our home",
            forged(&w.is, CertRole::Home, "ae", 1),
        ),
        (
            "a custodian's CA mints a home of its own name",
            forged(&w.is, CertRole::Home, "is", 1),
        ),
        (
            "a home's CA mints a node of the custodian",
            forged(&w.ae, CertRole::Custodian, "ch", 2),
        ),
        (
            "an operator knocks at the peer plane",
            forged(&w.ae, CertRole::Operator, "ae", 1),
        ),
        (
            "a client-plane certificate",
            forged(&w.ae, CertRole::ClientPlane, "ae", 1),
        ),
        (
            "a cluster nobody trusts here",
            forged(&stranger, CertRole::Home, "xx", 1),
        ),
        (
            "a stranger's CA under a trusted name",
            forged(&stranger, CertRole::Home, "ae", 1),
        ),
        ("not yet valid", future),
    ];
    for (n, (what, issued)) in cases.iter().enumerate() {
        let client = w.client(&w.ae, source(d, &format!("case{n}"), issued), &server);
        let r = client
            .call(
                &server.target,
                services::CUSTODIAN,
                b"let me in".to_vec(),
                WAIT,
            )
            .await;
        let why = not_sent(r);
        assert!(
            why.contains("refused") || why.contains("certificate"),
            "{what}: {why}"
        );
    }
    assert_eq!(
        server.echo.calls.load(Ordering::SeqCst),
        0,
        "no request got through"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn servers_are_checked_just_as_strictly() {
    let w = World::new();
    let d = w.dir.path();
    let all = || trust(&w.ch, &[&w.ae, &w.is]);
    let wrong = [
        forged(&w.ch, CertRole::Custodian, "ch", 2),
        forged(&w.is, CertRole::Custodian, "ch", 1),
        forged(&w.is, CertRole::Custodian, "is", 1),
        forged(&w.ch, CertRole::Home, "ch", 1),
    ];
    for (n, issued) in wrong.iter().enumerate() {
        let mut server = start(
            &w.ch,
            all(),
            source(d, &format!("s{n}"), issued),
            "127.0.0.1:0",
        )
        .await;
        server.target.node = 1;
        let home = w.client(&w.ae, certs(&w.ae, 1), &server);
        let why = not_sent(
            home.call(&server.target, services::CUSTODIAN, vec![], WAIT)
                .await,
        );
        assert!(why.contains("certificate"), "{why}");
    }
}

#[derive(Debug)]
struct Shows(Option<Arc<rustls::sign::CertifiedKey>>);

impl rustls::client::ResolvesClientCert for Shows {
    fn resolve(
        &self,
        _: &[&[u8]],
        _: &[rustls::SignatureScheme],
    ) -> Option<Arc<rustls::sign::CertifiedKey>> {
        self.0.clone()
    }
    fn has_certs(&self) -> bool {
        self.0.is_some()
    }
}

/// A TLS client with every choice open.
fn raw_config(
    w: &World,
    issued: Option<&crate::pki::Issued>,
    provider: rustls::crypto::CryptoProvider,
    version: &'static rustls::SupportedProtocolVersion,
) -> rustls::ClientConfig {
    use rustls_pki_types::pem::PemObject;
    use rustls_pki_types::{CertificateDer, PrivateKeyDer};
    let shows = issued.map(|i| {
        let chain = vec![CertificateDer::from_pem_slice(i.cert_pem.as_bytes()).unwrap()];
        let key = PrivateKeyDer::from_pem_slice(i.key_pem.as_bytes()).unwrap();
        let key = rustls::crypto::aws_lc_rs::sign::any_supported_type(&key).unwrap();
        Arc::new(rustls::sign::CertifiedKey::new(chain, key))
    });
    let provider = Arc::new(provider);
    let accept = Accept::Exactly(certs(&w.ch, 1).identity());
    let verifier = Verifier::new(trust(&w.ae, &[&w.ch]), accept, provider.clone());
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[version])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_client_cert_resolver(Arc::new(Shows(shows)));
    config.alpn_protocols = vec![tls::PEER_ALPN.to_vec()];
    config
}

type Raw = tokio_rustls::client::TlsStream<TcpStream>;

/// `Ok` when the server greets, which it does once it accepted the certificate.
async fn raw_connect(server: &Server, config: rustls::ClientConfig) -> Result<Raw, String> {
    let tcp = TcpStream::connect(&server.address).await.unwrap();
    let name = ServerName::try_from("localhost").unwrap();
    let mut tls = TlsConnector::from(Arc::new(config))
        .connect(name, tcp)
        .await
        .map_err(|e| e.to_string())?;
    let greeting = frame::read(&mut tls).await.map_err(|e| e.to_string())?;
    assert_eq!(greeting.kind, frame::Kind::Pong);
    Ok(tls)
}

fn hybrid() -> rustls::crypto::CryptoProvider {
    (*tls::hybrid_provider()).clone()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tls_never_falls_back() {
    use rustls::crypto::aws_lc_rs;
    use rustls::version::{TLS12, TLS13};
    let w = World::new();
    let server = w.ch1().await;
    let good = forged(&w.ae, CertRole::Home, "ae", 1);
    let now = SystemTime::now();
    let (life, who) = (Duration::from_secs(60), certs(&w.ae, 1).identity());
    let expired =
        w.ae.authority()
            .danger_issue(&who, &[], now - 20 * life, life)
            .unwrap();

    let control = raw_connect(&server, raw_config(&w, Some(&good), hybrid(), &TLS13))
        .await
        .unwrap();
    let kx = control
        .get_ref()
        .1
        .negotiated_key_exchange_group()
        .unwrap()
        .name();
    assert_eq!(kx, rustls::NamedGroup::X25519MLKEM768);

    let classical = rustls::crypto::CryptoProvider {
        kx_groups: vec![aws_lc_rs::kx_group::X25519, aws_lc_rs::kx_group::SECP256R1],
        ..aws_lc_rs::default_provider()
    };
    let mut other_alpn = raw_config(&w, Some(&good), hybrid(), &TLS13);
    other_alpn.alpn_protocols = vec![b"quorate-peer/2".to_vec()];
    let mut no_alpn = raw_config(&w, Some(&good), hybrid(), &TLS13);
    no_alpn.alpn_protocols.clear();
    for (what, config) in [
        ("expired", raw_config(&w, Some(&expired), hybrid(), &TLS13)),
        ("no certificate", raw_config(&w, None, hybrid(), &TLS13)),
        (
            "TLS 1.2",
            raw_config(&w, Some(&good), aws_lc_rs::default_provider(), &TLS12),
        ),
        (
            "no post-quantum key exchange",
            raw_config(&w, Some(&good), classical, &TLS13),
        ),
        ("a newer peer protocol", other_alpn),
        ("no ALPN", no_alpn),
    ] {
        assert!(
            raw_connect(&server, config).await.is_err(),
            "{what} was accepted"
        );
    }
    // Plaintext: a frame without TLS.
    let mut tcp = TcpStream::connect(&server.address).await.unwrap();
    let mut plain = bytes::BytesMut::new();
    frame::put(
        &mut plain,
        frame::Kind::Request,
        services::CUSTODIAN,
        1,
        b"hello",
    );
    tcp.write_all(&plain).await.unwrap();
    let mut answer = Vec::new();
    let _ = tokio::time::timeout(WAIT, tcp.read_to_end(&mut answer))
        .await
        .unwrap();
    assert!(answer.len() < 16, "an alert at most");
    assert_eq!(
        server.echo.calls.load(Ordering::SeqCst),
        0,
        "no request got through"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hostile_frames_end_their_connection_and_nothing_else() {
    let w = World::new();
    let server = w.ch1().await;
    let good = forged(&w.ae, CertRole::Home, "ae", 1);
    let bystander = w.client(&w.ae, certs(&w.ae, 1), &server);
    let ask = || {
        bystander.call(
            &server.target,
            services::CUSTODIAN,
            b"still there".to_vec(),
            WAIT,
        )
    };
    ask().await.unwrap();
    let mut reply = bytes::BytesMut::new();
    frame::put(&mut reply, frame::Kind::Reply, 0, 1, b"I am no server");
    let hostile: Vec<Vec<u8>> = vec![
        (1u64 << 62).to_le_bytes().to_vec(),
        vec![0xff; 16],
        (u32::try_from(frame::FRAME_BYTES_MAX).unwrap() + 1)
            .to_le_bytes()
            .to_vec(),
        vec![12, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        reply.to_vec(),
    ];
    for bytes in hostile {
        let config = raw_config(&w, Some(&good), hybrid(), &rustls::version::TLS13);
        let mut tls = raw_connect(&server, config).await.unwrap();
        tls.write_all(&bytes).await.unwrap();
        let mut rest = Vec::new();
        let closed = tokio::time::timeout(WAIT, tls.read_to_end(&mut rest)).await;
        assert!(closed.is_ok(), "{bytes:02x?} must end the connection");
        ask().await.unwrap();
    }
    // A length within the limit whose body never comes holds no memory and no one up.
    let config = raw_config(&w, Some(&good), hybrid(), &rustls::version::TLS13);
    let mut tls = raw_connect(&server, config).await.unwrap();
    tls.write_all(&(16u32 << 20).to_le_bytes()).await.unwrap();
    ask().await.unwrap();
    // Undecodable bodies are the service's matter: an error, and the connection lives.
    assert!(ask().await.is_ok());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rotation_under_traffic_and_an_expired_connection() {
    let w = World::new();
    let ch1 = certs(&w.ch, 1);
    let server = start(&w.ch, trust(&w.ch, &[&w.ae]), ch1.clone(), "127.0.0.1:0").await;
    let home_certs = certs(&w.ae, 1);
    let home = w.client(&w.ae, home_certs.clone(), &server);
    let ask = |c: &PeerClient| {
        let (c, to) = (c.clone(), server.target.clone());
        async move { c.call(&to, services::CUSTODIAN, b"x".to_vec(), WAIT).await }
    };
    ask(&home).await.unwrap();
    let before = ch1.ends();
    tokio::time::sleep(Duration::from_millis(1_100)).await; // X.509 counts seconds.
    w.ch.renew(1, &[]).unwrap();
    assert!(ch1.reload().unwrap());
    assert!(ch1.ends() > before);
    ask(&home)
        .await
        .expect("the connection made before lives on");
    let fresh = w.client(&w.ae, home_certs, &server);
    ask(&fresh)
        .await
        .expect("a new connection meets the new certificate");

    // A certificate that ends while its connection is open ends the connection's requests.
    let who = certs(&w.ae, 1).identity();
    let life = Duration::from_millis(2_500);
    let short =
        w.ae.authority()
            .danger_issue(&who, &[], SystemTime::now(), life)
            .unwrap();
    let client = w.client(&w.ae, source(w.dir.path(), "short", &short), &server);
    ask(&client).await.unwrap();
    tokio::time::sleep(Duration::from_millis(2_700)).await;
    ask(&client).await.expect_err("its certificate ended");
}
