//! The processes of a run.

use super::record::Recorder;
use crate::client::{Client, Reach};
use crate::history::{Kind, Process};
use crate::workload::{Done, Invocation, Workload};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Longest wait between two operations of a process.
const WAIT_MAX: Duration = Duration::from_secs(5);
/// Between two attempts of a last read.
const AGAIN: Duration = Duration::from_millis(200);

/// What the processes share.
pub struct Team {
    /// Where they write what they see.
    pub recorder: Arc<Recorder>,
    /// What they do.
    pub workload: Box<dyn Workload>,
    /// How they reach nodes.
    pub reach: Reach,
    /// Client planes of the home's nodes.
    pub nodes: Vec<SocketAddr>,
    /// How many there are at a time.
    pub concurrency: u64,
    /// Operations a second, all together.
    pub rate: f64,
    /// The run's seed.
    pub seed: u64,
    /// Numbers of processes after those of the workers.
    pub late: AtomicU64,
}

impl Team {
    /// Performs one operation and writes both lines; whether its process may go on.
    async fn perform(&self, process: u64, client: &mut Client, of: &Invocation) -> Kind {
        let who = Process::Client(process);
        self.recorder
            .push(who, Kind::Invoke, of.f, of.value.clone(), None);
        let Done { kind, value, error } = self.workload.perform(client, of).await;
        self.recorder.push(who, kind, of.f, value, error);
        kind
    }

    /// One worker's loop until `until`. It speaks to one node, as a process of a user's would.
    pub async fn work(self: Arc<Self>, worker: u64, until: Instant) {
        let mut dice = ChaCha8Rng::seed_from_u64(self.seed);
        dice.set_stream(worker + 1);
        let node = self.nodes[worker as usize % self.nodes.len()];
        let mut client = self.reach.client(node);
        let mut process = worker;
        let mean_s = self.concurrency as f64 / self.rate.max(0.001);
        while Instant::now() < until {
            let uniform: f64 = dice.random();
            let wait = Duration::from_secs_f64(
                (-mean_s * (1.0 - uniform).ln()).clamp(0.0, WAIT_MAX.as_secs_f64()),
            );
            tokio::time::sleep(wait.min(until.saturating_duration_since(Instant::now()))).await;
            if Instant::now() >= until {
                break;
            }
            let of = self.workload.next(&mut dice);
            if self.perform(process, &mut client, &of).await == Kind::Info {
                // What it asked for may still happen: its number is never used again.
                process += self.concurrency;
                self.late
                    .fetch_max(process + self.concurrency, Ordering::Relaxed);
                client = self.reach.client(node);
            }
        }
    }

    /// Reads everything through every node, each until it succeeds; what did not within `limit`.
    pub async fn read_all(self: Arc<Self>, limit: Duration) -> Vec<String> {
        let until = Instant::now() + limit;
        let mut tasks = Vec::new();
        for node in self.nodes.clone() {
            let team = self.clone();
            let process = team.late.fetch_add(1, Ordering::Relaxed);
            tasks.push(tokio::spawn(async move {
                let mut missing = Vec::new();
                let mut client = team.reach.client(node);
                for of in team.workload.last_reads() {
                    while team.perform(process, &mut client, &of).await != Kind::Ok {
                        if Instant::now() > until {
                            missing.push(format!("{} {:?} through {node}", of.f, of.value));
                            break;
                        }
                        tokio::time::sleep(AGAIN).await;
                    }
                }
                missing
            }));
        }
        let mut missing = Vec::new();
        for task in tasks {
            match task.await {
                Ok(some) => missing.extend(some),
                Err(e) => missing.push(format!("a reader ended: {e}")),
            }
        }
        missing
    }
}
