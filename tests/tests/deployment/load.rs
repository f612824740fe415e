//! Writers and readers that run while a test breaks things, and the ledger
//! against which the chats are read afterwards.

use super::world::{World, all, message};
use quorate_cli::client::{Client, ClientError};
use quorate_engine::types::Outcome;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::task::JoinHandle;

/// One request, repeated under the same key, may take at most this long in all.
const REQUEST_MAX: Duration = Duration::from_secs(60);

/// What one chat's writer and reader saw.
#[derive(Debug)]
pub struct Ledger {
    /// The chat.
    pub chat: String,
    /// Acknowledged messages: id and text.
    pub acked: BTreeMap<u64, String>,
    /// Longest time from sending a message to its acknowledgement.
    pub write_max: Duration,
    /// Longest time a read took until it succeeded.
    pub read_max: Duration,
    /// Reads that succeeded.
    pub reads: u64,
}

/// A running load: one writer and one reader a chat.
pub struct Load {
    stop: Arc<AtomicBool>,
    acked: Arc<AtomicU64>,
    tasks: Vec<JoinHandle<Ledger>>,
}

impl Load {
    /// Starts a writer and a reader on each of `chats`.
    pub fn start(world: &World, chats: &[String]) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let acked = Arc::new(AtomicU64::new(0));
        let tasks = chats.iter().map(|chat| {
            let client = world.client();
            let (stop, acked) = (stop.clone(), acked.clone());
            world.rt.spawn(work(client, chat.clone(), stop, acked))
        });
        let tasks = tasks.collect();
        Self { stop, acked, tasks }
    }

    /// Waits until `more` further messages are acknowledged.
    pub fn wait_for(&self, more: u64, limit: Duration) {
        let goal = self.acked.load(Ordering::Relaxed) + more;
        let until = Instant::now() + limit;
        while self.acked.load(Ordering::Relaxed) < goal {
            assert!(
                Instant::now() < until,
                "fewer than {more} writes in {limit:?}"
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Ends the load.
    pub fn stop(self, world: &World) -> Vec<Ledger> {
        self.stop.store(true, Ordering::Relaxed);
        let ledgers = world.wait(futures::future::join_all(self.tasks));
        ledgers.into_iter().map(|l| l.unwrap()).collect()
    }
}

async fn work(
    client: Client,
    chat: String,
    stop: Arc<AtomicBool>,
    count: Arc<AtomicU64>,
) -> Ledger {
    let mut ledger = Ledger {
        chat,
        acked: BTreeMap::new(),
        write_max: Duration::ZERO,
        read_max: Duration::ZERO,
        reads: 0,
    };
    while !stop.load(Ordering::Relaxed) {
        let text = hex::encode(rand::random::<[u8; 16]>());
        let one = message(&text);
        let began = Instant::now();
        let done = again(began, || client.append(&ledger.chat, vec![one.clone()])).await;
        ledger.write_max = ledger.write_max.max(began.elapsed());
        let id = done.messages[0].id;
        let before = ledger.acked.insert(id, text);
        assert!(before.is_none(), "message id {id} was given twice");
        count.fetch_add(1, Ordering::Relaxed);

        let known = ledger.acked.len();
        let (id, text) = ledger
            .acked
            .iter()
            .nth(rand::random_range(0..known))
            .unwrap();
        let began = Instant::now();
        let read = again(began, || client.message(&ledger.chat, *id)).await;
        ledger.read_max = ledger.read_max.max(began.elapsed());
        assert_eq!(read.content["text"].as_str(), Some(text.as_str()));
        ledger.reads += 1;
    }
    ledger
}

/// Repeats a request that may be repeated until it succeeds.
async fn again<T, F: Future<Output = Result<T, ClientError>>>(
    began: Instant,
    request: impl Fn() -> F,
) -> T {
    loop {
        match request().await {
            Ok(done) => return done,
            Err(e) => {
                let settled = match &e {
                    ClientError::Problem(p) => {
                        p.retry_ms.is_none() && p.outcome != Outcome::Unknown
                    }
                    _ => false,
                };
                assert!(
                    !settled && began.elapsed() < REQUEST_MAX,
                    "after {:?}: {e:?}",
                    began.elapsed()
                );
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

/// Reads every chat through a quorum: nothing acknowledged is missing or changed,
/// ids have no gap, nothing stands twice. Returns how many were acknowledged.
pub fn check(world: &World, ledgers: &[Ledger]) -> usize {
    let client = world.client();
    let mut total = 0;
    for ledger in ledgers {
        let texts = world.wait(all(&client, &ledger.chat)).unwrap();
        let distinct: BTreeSet<&String> = texts.iter().collect();
        assert_eq!(distinct.len(), texts.len(), "a message stands twice");
        for (id, text) in &ledger.acked {
            assert_eq!(
                texts.get(*id as usize - 1),
                Some(text),
                "message {id} of {} was acknowledged and is not there as it was",
                ledger.chat
            );
        }
        assert_eq!(
            texts.len(),
            ledger.acked.len(),
            "a message stands that was never acknowledged"
        );
        total += texts.len();
    }
    total
}

/// The longest write and the longest read of all ledgers.
pub fn longest(ledgers: &[Ledger]) -> (Duration, Duration) {
    let max = |of: fn(&Ledger) -> Duration| ledgers.iter().map(of).max().unwrap_or_default();
    (max(|l| l.write_max), max(|l| l.read_max))
}
