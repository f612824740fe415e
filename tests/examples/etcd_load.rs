//! Puts against an etcd cluster over gRPC, for the comparison in `docs/benchmarks.md`.
//!
//! Usage: `etcd_load ENDPOINT[,ENDPOINT…] CLIENTS SECONDS VALUE_BYTES`, where
//! each client repeats `KV/Put` on a connection of its own. Prints one JSON
//! line: puts per second and latency percentiles in milliseconds. The request
//! is encoded by hand: two length-delimited protobuf fields are not worth a
//! code generator.

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use std::time::{Duration, Instant};

const KEYS_PER_CLIENT: u64 = 1_000;

fn field(out: &mut Vec<u8>, tag: u8, value: &[u8]) {
    out.push(tag << 3 | 2);
    let mut n = value.len();
    while n >= 0x80 {
        out.push((n as u8) | 0x80);
        n >>= 7;
    }
    out.push(n as u8);
    out.extend_from_slice(value);
}

fn put(key: &[u8], value: &[u8]) -> Bytes {
    let mut message = Vec::with_capacity(key.len() + value.len() + 8);
    field(&mut message, 1, key);
    field(&mut message, 2, value);
    let mut frame = vec![0u8];
    frame.extend_from_slice(&(message.len() as u32).to_be_bytes());
    frame.extend_from_slice(&message);
    frame.into()
}

async fn client(
    endpoint: String,
    id: usize,
    until: Instant,
    value: Vec<u8>,
) -> anyhow::Result<Vec<Duration>> {
    let stream = tokio::net::TcpStream::connect(&endpoint).await?;
    stream.set_nodelay(true)?;
    let (mut send, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let mut taken = Vec::new();
    let mut n = 0u64;
    while Instant::now() < until {
        let body = put(format!("q/{id}/{}", n % KEYS_PER_CLIENT).as_bytes(), &value);
        let request = hyper::Request::post(format!("http://{endpoint}/etcdserverpb.KV/Put"))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(Full::new(body))?;
        let start = Instant::now();
        send.ready().await?;
        let collected = send
            .send_request(request)
            .await?
            .into_body()
            .collect()
            .await?;
        let status = collected
            .trailers()
            .and_then(|t| t.get("grpc-status"))
            .map(|s| s.as_bytes().to_vec());
        anyhow::ensure!(
            status.as_deref().is_none_or(|s| s == b"0"),
            "etcd answered grpc-status {status:?}"
        );
        taken.push(start.elapsed());
        n += 1;
    }
    Ok(taken)
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [endpoints, clients, seconds, bytes] = args.as_slice() else {
        anyhow::bail!("usage: etcd_load ENDPOINT[,ENDPOINT…] CLIENTS SECONDS VALUE_BYTES");
    };
    let endpoints: Vec<&str> = endpoints.split(',').collect();
    let (clients, seconds, bytes): (usize, u64, usize) =
        (clients.parse()?, seconds.parse()?, bytes.parse()?);
    let start = Instant::now();
    let until = start + Duration::from_secs(seconds);
    let tasks: Vec<_> = (0..clients)
        .map(|id| {
            tokio::spawn(client(
                endpoints[id % endpoints.len()].to_owned(),
                id,
                until,
                vec![b'v'; bytes],
            ))
        })
        .collect();
    let mut all = Vec::new();
    for task in tasks {
        all.extend(task.await??);
    }
    let elapsed = start.elapsed().as_secs_f64();
    all.sort();
    let at = |q: f64| {
        all.get(((all.len() as f64 - 1.0) * q) as usize)
            .map_or(0.0, |d| d.as_secs_f64() * 1e3)
    };
    let line = serde_json::json!({
        "rival": "etcd", "clients": clients, "puts": all.len(), "per_second": all.len() as f64 / elapsed,
        "p50_ms": at(0.50), "p99_ms": at(0.99),
    });
    use std::io::Write;
    writeln!(std::io::stdout(), "{line}")?;
    Ok(())
}
