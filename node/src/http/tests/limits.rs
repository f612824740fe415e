//! Sizes, deadlines, caps, TLS versions and an orderly end.

use super::fixture::{Bench, CREATE, GRANT, connect, request, send, try_send};
use crate::http::client::ONE_CONTENT_BODY_BYTES_MAX;
use crate::http::envelope::Limits;
use crate::http::serve::ServeLimits;
use crate::http::tls;
use quorate_engine::api::{APPEND_BODY_BYTES_MAX, CONTENT_BYTES_MAX};
use quorate_engine::types::Outcome;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

fn limits(request_ms_max: u64, requests_max: usize) -> Limits {
    Limits {
        request_ms_max,
        requests_max,
    }
}

#[tokio::test]
async fn large_bodies_and_contents_are_413() {
    let bench = Bench::new().await;
    let id = bench.chat(1).await;
    let path = format!("/v1/chats/{id}/messages");
    let message = |i: usize, n: usize| {
        format!(
            r#"{{"idempotency_key":"{i}","content":{{"text":"{}"}}}}"#,
            "x".repeat(n)
        )
    };
    let append = |messages: &[String]| format!(r#"{{"messages":[{}]}}"#, messages.join(","));

    // `{"text":""}` is 11 bytes: exactly the limit passes, one more does not.
    let fits = append(&[message(0, CONTENT_BYTES_MAX - 11)]);
    assert_eq!(bench.call("POST", &path, &fits).await.status, 201);
    let over = append(&[message(1, 1), message(2, CONTENT_BYTES_MAX - 10)]);
    let problem = bench
        .call("POST", &path, &over)
        .await
        .problem(413, "content_too_large");
    assert!(
        problem.detail.contains("messages[1].content"),
        "{problem:?}"
    );
    assert_eq!(problem.outcome, Outcome::NotDone);

    let big = "x".repeat(APPEND_BODY_BYTES_MAX + 1);
    let problem = bench
        .call("POST", &path, &big)
        .await
        .problem(413, "body_too_large");
    assert!(problem.detail.contains(&APPEND_BODY_BYTES_MAX.to_string()));
    let big = "x".repeat(ONE_CONTENT_BODY_BYTES_MAX + 1);
    bench
        .call("POST", "/v1/chats", &big)
        .await
        .problem(413, "body_too_large");

    // A body without a declared length is counted as it comes.
    let chunks = futures::stream::iter(
        (0..200).map(|_| Ok::<_, std::io::Error>(bytes::Bytes::from(vec![b'x'; 64 << 10]))),
    );
    let mut streamed = request(
        "POST",
        &path,
        "",
        &[GRANT, ("content-type", "application/json")],
    );
    *streamed.body_mut() = axum::body::Body::from_stream(chunks);
    let stream = connect(bench.running.address, bench.ca.connector(None))
        .await
        .unwrap();
    send(stream, streamed).await.problem(413, "body_too_large");
}

#[tokio::test]
async fn a_deadline_is_unknown_for_writes_and_not_done_for_reads() {
    let bench = Bench::with(limits(100, 16), ServeLimits::default()).await;
    *bench.home.delay_ms.lock().unwrap() = 60_000;
    let read = bench
        .call("GET", "/v1/chats", "")
        .await
        .problem(504, "timeout");
    assert_eq!(read.outcome, Outcome::NotDone);
    let body = &format!("{CREATE}\"k\"}}");
    let write = bench
        .call("POST", "/v1/chats", body)
        .await
        .problem(504, "timeout");
    assert_eq!(write.outcome, Outcome::Unknown);
    assert!(
        write.next_step.contains("same idempotency key"),
        "{write:?}"
    );
}

#[tokio::test]
async fn a_full_plane_says_so_at_once() {
    let bench = Bench::with(limits(5_000, 1), ServeLimits::default()).await;
    *bench.home.delay_ms.lock().unwrap() = 400;
    let (first, second) = tokio::join!(bench.call("GET", "/v1/chats", ""), async {
        tokio::time::sleep(Duration::from_millis(150)).await;
        bench.call("GET", "/v1/chats", "").await
    });
    assert_eq!(first.status, 200);
    let problem = second.problem(503, "overloaded");
    assert_eq!(
        (problem.outcome, problem.retry_ms),
        (Outcome::NotDone, Some(1_000))
    );
    let later = bench.call("GET", "/v1/chats", "").await;
    assert_eq!(later.status, 200, "the permit came back");
}

#[tokio::test]
async fn a_bug_is_a_problem_and_the_node_goes_on() {
    let bench = Bench::new().await;
    *bench.home.panics.lock().unwrap() = true;
    let body = &format!("{CREATE}\"k\"}}");
    let problem = bench
        .call("POST", "/v1/chats", body)
        .await
        .problem(500, "internal");
    assert_eq!(problem.outcome, Outcome::Unknown);
    assert!(
        !problem.detail.contains("planted"),
        "a panic's text stays in the log: {problem:?}"
    );
    *bench.home.panics.lock().unwrap() = false;
    assert_eq!(bench.call("GET", "/v1/chats", "").await.status, 200);
}

/// Milliseconds until the other end closes, or a panic after ten seconds.
async fn closed_after(stream: &mut (impl tokio::io::AsyncRead + Unpin)) -> u128 {
    let started = Instant::now();
    let mut sink = Vec::new();
    let read = stream.read_to_end(&mut sink);
    let ended = tokio::time::timeout(Duration::from_secs(10), read).await;
    assert!(ended.is_ok(), "the server keeps a silent connection open");
    started.elapsed().as_millis()
}

#[tokio::test]
async fn slow_handshakes_and_slow_heads_are_closed() {
    let quick = ServeLimits {
        handshake_ms_max: 200,
        head_ms_max: 300,
        ..ServeLimits::default()
    };
    let bench = Bench::with(Limits::default(), quick).await;
    let mut silent = TcpStream::connect(bench.running.address).await.unwrap();
    assert!(
        closed_after(&mut silent).await >= 150,
        "closed before the handshake's deadline"
    );

    // A head that never ends, one byte at a time: the deadline is for all of it.
    let mut slow = connect(bench.running.address, bench.ca.connector(None))
        .await
        .unwrap();
    let dripping = async {
        for byte in b"GET /v1/status HTTP/1.1\r\nhost: l\r\nx: "
            .iter()
            .chain([b'y'; 200].iter())
        {
            if slow.write_all(&[*byte]).await.is_err() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let before = Instant::now();
    dripping.await;
    assert!(
        before.elapsed() < Duration::from_millis(3_000),
        "dripped for as long as it liked"
    );

    let mut mute = connect(bench.running.address, bench.ca.connector(None))
        .await
        .unwrap();
    closed_after(&mut mute).await;
}

#[tokio::test]
async fn connections_above_the_cap_wait_until_one_ends() {
    let one = ServeLimits {
        connections_max: 1,
        head_ms_max: 20_000,
        ..ServeLimits::default()
    };
    let bench = Bench::with(Limits::default(), one).await;
    let first = connect(bench.running.address, bench.ca.connector(None))
        .await
        .unwrap();
    let second = connect(bench.running.address, bench.ca.connector(None));
    let mut second = std::pin::pin!(second);
    let waits = tokio::time::timeout(Duration::from_millis(300), second.as_mut()).await;
    assert!(waits.is_err(), "a second connection got in above the cap");
    drop(first);
    let second = tokio::time::timeout(Duration::from_secs(5), second).await;
    let second = second.expect("the slot came back").unwrap();
    assert_eq!(
        send(second, request("GET", "/v1/status", "", &[]))
            .await
            .status,
        200
    );
}

#[tokio::test]
async fn tls_is_1_3_with_a_post_quantum_exchange_or_nothing() {
    let bench = Bench::new().await;
    let stream = connect(bench.running.address, bench.ca.connector(None))
        .await
        .unwrap();
    let session = stream.get_ref().1;
    assert_eq!(
        session.protocol_version(),
        Some(rustls::ProtocolVersion::TLSv1_3)
    );
    let group = session.negotiated_key_exchange_group().unwrap().name();
    assert_eq!(group, rustls::NamedGroup::X25519MLKEM768);

    let provider = std::sync::Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let old = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS12])
        .unwrap()
        .with_root_certificates(bench.ca.roots())
        .with_no_client_auth();
    assert!(
        connect(bench.running.address, old).await.is_err(),
        "TLS 1.2 was accepted"
    );

    let mut plain = TcpStream::connect(bench.running.address).await.unwrap();
    plain
        .write_all(b"GET /v1/status HTTP/1.1\r\nhost: l\r\n\r\n")
        .await
        .unwrap();
    let mut answer = Vec::new();
    let _ = plain.read_to_end(&mut answer).await;
    assert!(
        !answer.starts_with(b"HTTP"),
        "plain HTTP was answered on a TLS listener"
    );
}

#[tokio::test]
async fn http2_is_served_where_it_is_negotiated() {
    let bench = Bench::new().await;
    let mut config = bench.ca.connector(None);
    config.alpn_protocols = vec![b"h2".to_vec()];
    let stream = connect(bench.running.address, config).await.unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(b"h2".as_slice()));
    let reply = try_send(stream, true, request("GET", "/v1/chats", "", &[GRANT]))
        .await
        .unwrap();
    assert_eq!(reply.status, 200);
}

#[tokio::test]
async fn a_new_certificate_is_used_without_a_restart() {
    let bench = Bench::new().await;
    let router = crate::http::client::router(bench.home.clone());
    let [old, new] = [super::fixture::Ca::new(), super::fixture::Ca::new()];
    let config = |ca: &super::fixture::Ca| {
        let (chain, key) = ca.issue(&[]);
        std::sync::Arc::new(tls::server_config(chain, key, None).unwrap())
    };
    let (sender, source) = tokio::sync::watch::channel(config(&old));
    let running = super::fixture::start(router, Some(source), ServeLimits::default()).await;
    assert!(connect(running.address, old.connector(None)).await.is_ok());
    sender.send(config(&new)).unwrap();
    assert!(connect(running.address, new.connector(None)).await.is_ok());
    assert!(connect(running.address, old.connector(None)).await.is_err());
    running.stop().await;
}

#[tokio::test]
async fn stopping_lets_requests_end_and_has_a_deadline() {
    let bench = Bench::new().await;
    *bench.home.delay_ms.lock().unwrap() = 300;
    let stream = connect(bench.running.address, bench.ca.connector(None))
        .await
        .unwrap();
    let idle = connect(bench.running.address, bench.ca.connector(None))
        .await
        .unwrap();
    let working = tokio::spawn(send(stream, request("GET", "/v1/chats", "", &[GRANT])));
    tokio::time::sleep(Duration::from_millis(100)).await;
    let address = bench.running.address;
    let started = Instant::now();
    bench.running.stop().await;
    assert!(
        started.elapsed() < Duration::from_secs(5),
        "an idle connection held the drain up"
    );
    assert_eq!(
        working.await.unwrap().status,
        200,
        "a request in work was cut off"
    );
    assert!(
        TcpStream::connect(address).await.is_err(),
        "still listening"
    );
    drop(idle);

    let short = ServeLimits {
        drain_ms_max: 200,
        ..ServeLimits::default()
    };
    let bench = Bench::with(Limits::default(), short).await;
    *bench.home.delay_ms.lock().unwrap() = 60_000;
    let stream = connect(bench.running.address, bench.ca.connector(None))
        .await
        .unwrap();
    let cut = tokio::spawn(try_send(
        stream,
        false,
        request("GET", "/v1/chats", "", &[GRANT]),
    ));
    tokio::time::sleep(Duration::from_millis(100)).await;
    let started = Instant::now();
    bench.running.stop().await;
    assert!(
        started.elapsed() < Duration::from_secs(5),
        "the drain deadline did not hold"
    );
    assert!(cut.await.unwrap().is_err());
}
