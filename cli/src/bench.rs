//! Measuring a deployment: closed-loop clients, exact percentiles.
//!
//! A [`Case`] is one kind of operation; [`run`] drives it with a number of
//! clients for a time and reports what each operation took. Every client waits
//! for its answer before it asks again, so throughput and latency belong
//! together (Schroeder et al., "Open versus closed", NSDI 2006). The client
//! plane's cases are here; share stores and releases, which speak the peer
//! plane, are in [`custodian`].

pub mod custodian;

use crate::client::{Client, ClientError, NewChat};
use crate::exit::Failure;
use futures::future::BoxFuture;
use quorate_engine::api::{Content, MESSAGES_PER_CALL_MAX, NewMessage};
use serde::Serialize;
use serde_json::{Value, json};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// Most clients.
pub const CLIENTS_MAX: usize = 1024;
/// Most samples kept of one client; at 4 bytes each.
const SAMPLES_MAX: usize = 4 << 20;
/// Operations at the beginning that are not counted, for each client.
const WARM_UP: usize = 2;

/// How hard and how long.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Load {
    /// Clients, each with one operation in flight.
    pub clients: usize,
    /// Text bytes of one message.
    pub size: usize,
    /// Messages a write, or messages a page.
    pub batch: usize,
    /// Seconds for each case.
    pub seconds: u64,
    /// Chats the load is spread over.
    pub chats: usize,
}

/// What one operation did.
#[derive(Clone, Copy, Debug)]
pub struct Done {
    /// Messages, shares or keys.
    pub items: u64,
    /// Nothing is left to do; the client stops.
    pub last: bool,
}

/// One kind of operation.
pub trait Case: Send + Sync {
    /// Its name in reports.
    fn name(&self) -> &'static str;
    /// Operation number `n` of client `client`.
    fn operation(&self, client: usize, n: usize) -> BoxFuture<'_, Result<Done, ClientError>>;
}

/// What was measured of one case.
#[derive(Clone, Debug, Serialize)]
pub struct Measured {
    /// The case.
    pub case: &'static str,
    /// Clients.
    pub clients: usize,
    /// Seconds it ran.
    pub seconds: f64,
    /// Operations that succeeded.
    pub operations: u64,
    /// Operations that failed or whose outcome is unknown.
    pub failed: u64,
    /// The first such error.
    pub first_error: Option<String>,
    /// Operations a second.
    pub operations_per_second: f64,
    /// Messages, shares or keys a second.
    pub items_per_second: f64,
    /// Half of the operations took no longer, in milliseconds.
    pub p50_ms: f64,
    /// 90 of 100.
    pub p90_ms: f64,
    /// 99 of 100.
    pub p99_ms: f64,
    /// The longest.
    pub max_ms: f64,
}

#[derive(Default)]
struct Samples {
    micros: Vec<u32>,
    operations: u64,
    items: u64,
    failed: u64,
    first_error: Option<String>,
}

/// Drives `case` with `load`.
pub async fn run(case: Arc<dyn Case>, load: Load) -> Measured {
    let begin = Instant::now();
    let end = begin + Duration::from_secs(load.seconds);
    let clients = (0..load.clients).map(|client| {
        let case = case.clone();
        tokio::spawn(async move { one_client(case.as_ref(), client, end).await })
    });
    let mut all = Samples::default();
    for client in clients.collect::<Vec<_>>() {
        match client.await {
            Ok(s) => {
                all.micros.extend(s.micros);
                all.operations += s.operations;
                all.items += s.items;
                all.failed += s.failed;
                all.first_error = all.first_error.or(s.first_error);
            }
            Err(e) => {
                all.failed += 1;
                all.first_error.get_or_insert(e.to_string());
            }
        }
    }
    let seconds = begin.elapsed().as_secs_f64();
    all.micros.sort_unstable();
    Measured {
        case: case.name(),
        clients: load.clients,
        seconds,
        operations: all.operations,
        failed: all.failed,
        first_error: all.first_error,
        operations_per_second: all.operations as f64 / seconds,
        items_per_second: all.items as f64 / seconds,
        p50_ms: percentile(&all.micros, 50.0),
        p90_ms: percentile(&all.micros, 90.0),
        p99_ms: percentile(&all.micros, 99.0),
        max_ms: percentile(&all.micros, 100.0),
    }
}

async fn one_client(case: &dyn Case, client: usize, end: Instant) -> Samples {
    let mut out = Samples::default();
    for n in 0.. {
        let begin = Instant::now();
        if begin >= end {
            break;
        }
        match case.operation(client, n).await {
            Ok(done) => {
                if done.items > 0 {
                    out.operations += 1;
                    out.items += done.items;
                    let micros = u32::try_from(begin.elapsed().as_micros()).unwrap_or(u32::MAX);
                    // Connecting and the first lease are not the steady state; too few operations are kept whole.
                    if n == WARM_UP {
                        out.micros.clear();
                    }
                    if out.micros.len() < SAMPLES_MAX {
                        out.micros.push(micros);
                    }
                }
                if done.last {
                    break;
                }
            }
            Err(e) => {
                out.failed += 1;
                out.first_error.get_or_insert(e.to_string());
            }
        }
    }
    out
}

/// The nearest-rank percentile of sorted microseconds, in milliseconds; 0 when there are none.
fn percentile(sorted: &[u32], p: f64) -> f64 {
    let rank = (p / 100.0 * sorted.len() as f64).ceil() as usize;
    let at = rank.clamp(1, sorted.len().max(1)) - 1;
    sorted
        .get(at)
        .map_or(0.0, |micros| f64::from(*micros) / 1000.0)
}

/// Chats made for a measurement, with messages in them.
pub struct Ground {
    client: Client,
    load: Load,
    run: String,
    chats: Vec<String>,
    filled: u64,
}

impl Ground {
    /// Makes `load.chats` chats and puts `filled` messages into each.
    ///
    /// # Errors
    /// As the home does.
    pub async fn prepare(client: Client, load: Load, filled: u64) -> Result<Arc<Self>, Failure> {
        let mut ground = Self {
            client,
            load,
            run: hex::encode(rand::random::<[u8; 8]>()),
            chats: Vec::new(),
            filled,
        };
        for i in 0..load.chats {
            let name = json!(format!("bench {} {i}", ground.run));
            let request = NewChat::new(
                format!("bench-{}-{i}", ground.run),
                Content::from_iter([("name".to_owned(), name)]),
            );
            ground
                .chats
                .push(ground.client.create_chat(&request).await?.id);
        }
        for (i, chat) in ground.chats.iter().enumerate() {
            let mut from = 0;
            while from < filled {
                let some = (filled - from).min(MESSAGES_PER_CALL_MAX as u64);
                let messages =
                    (from..from + some).map(|n| ground.message(&format!("fill-{i}"), n as usize));
                ground.client.append(chat, messages.collect()).await?;
                from += some;
            }
        }
        Ok(Arc::new(ground))
    }

    /// The chats that were made.
    pub fn chats(&self) -> &[String] {
        &self.chats
    }

    fn message(&self, who: &str, n: usize) -> NewMessage {
        let mut text = format!("{who} {n} ");
        text.extend(std::iter::repeat_n(
            'x',
            self.load.size.saturating_sub(text.len()),
        ));
        let fields = [("type", "message"), ("text", text.as_str())];
        NewMessage {
            idempotency_key: format!("b-{}-{who}-{n}", self.run),
            content: fields
                .map(|(k, v)| (k.to_owned(), Value::from(v)))
                .into_iter()
                .collect(),
        }
    }

    fn chat(&self, n: usize) -> &str {
        &self.chats[n % self.chats.len()]
    }
}

/// Spreads reads over messages without a random generator (Knuth's multiplicative hash).
fn spread(client: usize, n: usize) -> u64 {
    ((client * 7_919 + n) as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 20
}

/// Durable writes: `batch` messages a request.
pub struct Writes(pub Arc<Ground>);

impl Case for Writes {
    fn name(&self) -> &'static str {
        "message writes"
    }
    fn operation(&self, client: usize, n: usize) -> BoxFuture<'_, Result<Done, ClientError>> {
        Box::pin(async move {
            let batch = self.0.load.batch;
            let messages = (0..batch).map(|i| self.0.message(&format!("c{client}"), n * batch + i));
            let done = self
                .0
                .client
                .append(self.0.chat(client), messages.collect())
                .await?;
            Ok(Done {
                items: done.messages.len() as u64,
                last: false,
            })
        })
    }
}

/// Reads of single messages whose keys are leased.
pub struct Reads(pub Arc<Ground>);

impl Case for Reads {
    fn name(&self) -> &'static str {
        "warm single reads"
    }
    fn operation(&self, client: usize, n: usize) -> BoxFuture<'_, Result<Done, ClientError>> {
        Box::pin(async move {
            let id = 1 + spread(client, n) % self.0.filled;
            self.0.client.message(self.0.chat(client + n), id).await?;
            Ok(Done {
                items: 1,
                last: false,
            })
        })
    }
}

/// Reads of pages of `batch` messages whose keys are leased.
pub struct Pages(pub Arc<Ground>);

impl Case for Pages {
    fn name(&self) -> &'static str {
        "warm page reads"
    }
    fn operation(&self, client: usize, n: usize) -> BoxFuture<'_, Result<Done, ClientError>> {
        Box::pin(async move {
            let most = self.0.load.batch as u64;
            let from = 1 + spread(client, n) % self.0.filled.saturating_sub(most).max(1);
            let page = self
                .0
                .client
                .page(self.0.chat(client + n), from, most as usize)
                .await?;
            Ok(Done {
                items: page.messages.len() as u64,
                last: false,
            })
        })
    }
}

/// One read from each of many chats, each once: cold where the key is not leased.
pub struct ColdReads {
    client: Client,
    chats: Vec<String>,
    /// Chats that one grant names.
    granted: usize,
    next: AtomicUsize,
}

impl ColdReads {
    /// Of `chats`, each read once, `granted` of them under one grant.
    pub fn new(client: Client, chats: Vec<String>, granted: usize) -> Self {
        Self {
            client,
            chats,
            granted,
            next: AtomicUsize::new(0),
        }
    }
}

impl Case for ColdReads {
    fn name(&self) -> &'static str {
        "cold reads"
    }
    fn operation(&self, _client: usize, _n: usize) -> BoxFuture<'_, Result<Done, ClientError>> {
        Box::pin(async move {
            let at = self.next.fetch_add(1, Ordering::Relaxed);
            let Some(chat) = self.chats.get(at) else {
                return Ok(Done {
                    items: 0,
                    last: true,
                });
            };
            let first = at - at % self.granted;
            let end = self.chats.len().min(first + self.granted);
            let together = &self.chats[first..end];
            self.client.message_of(chat, 0, together).await?;
            Ok(Done {
                items: 1,
                last: false,
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_nearest_rank() {
        let micros: Vec<u32> = (1..=100).map(|n| n * 1000).collect();
        let at = |p| percentile(&micros, p);
        assert_eq!(
            (at(50.0), at(99.0), at(100.0), at(0.0)),
            (50.0, 99.0, 100.0, 1.0)
        );
        assert_eq!(percentile(&[7000], 50.0), 7.0);
        assert_eq!(percentile(&[], 99.0), 0.0);
    }

    struct Slow;
    impl Case for Slow {
        fn name(&self) -> &'static str {
            "slow"
        }
        fn operation(&self, client: usize, n: usize) -> BoxFuture<'_, Result<Done, ClientError>> {
            Box::pin(async move {
                tokio::time::sleep(Duration::from_millis(5)).await;
                match (client, n) {
                    (0, 1) => Err(ClientError::Unknown {
                        detail: "once".into(),
                    }),
                    _ => Ok(Done {
                        items: 3,
                        last: n == 9,
                    }),
                }
            })
        }
    }

    #[tokio::test]
    async fn operations_items_failures_and_times_add_up() {
        let load = Load {
            clients: 2,
            size: 1,
            batch: 1,
            seconds: 60,
            chats: 1,
        };
        let m = run(Arc::new(Slow), load).await;
        assert_eq!((m.operations, m.failed), (19, 1));
        assert_eq!(
            m.first_error.as_deref(),
            Some("the outcome is unknown: once")
        );
        assert!(m.p50_ms >= 5.0 && m.p99_ms >= m.p50_ms && m.seconds < 30.0);
        assert!((m.items_per_second / m.operations_per_second - 3.0).abs() < 1e-9);
    }
}
