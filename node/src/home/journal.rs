//! Receipts on their way into the shards' journals.
//!
//! Journalling does not hold up a read: the record that counts is the
//! custodian's log, committed before the share left. What is queued here when
//! a node dies is missing from the home's journal, and an audit sees it there.

use super::core::Core;
use quorate_engine::custody::protocol::Receipt;
use quorate_engine::home::Command;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Receipts waiting for one shard; more are dropped and counted.
const WAITING_MAX: usize = 16_384;
/// Receipts in one command.
const BATCH_MAX: usize = 256;
/// Pause between commands, in milliseconds: many receipts share one entry.
const PAUSE_MS: u64 = 200;

/// Receipts by shard.
#[derive(Default)]
pub struct Journal(Mutex<BTreeMap<u32, Vec<Receipt>>>);

impl Journal {
    /// Queues a receipt.
    pub fn note(&self, shard: u32, receipt: Receipt) {
        let mut waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let waiting = waiting.entry(shard).or_default();
        if waiting.len() < WAITING_MAX {
            waiting.push(receipt);
        } else {
            metrics::counter!("quorate_home_receipts_dropped_total").increment(1);
        }
    }

    fn take(&self) -> Vec<(u32, Vec<Receipt>)> {
        let mut waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let batches = waiting.iter_mut().map(|(shard, receipts)| {
            let rest = receipts.split_off(receipts.len().min(BATCH_MAX));
            (*shard, std::mem::replace(receipts, rest))
        });
        batches
            .filter(|(_, receipts)| !receipts.is_empty())
            .collect()
    }
}

/// Proposes what is queued until the node stops, and once more then.
pub async fn run(core: Arc<Core>) {
    loop {
        let stopping = tokio::select! {
            () = core.stop.cancelled() => true,
            () = tokio::time::sleep(Duration::from_millis(PAUSE_MS)) => false,
        };
        for (shard, receipts) in core.journal.take() {
            let Some(shard) = core.shards.get(shard as usize) else {
                continue;
            };
            let count = receipts.len() as u64;
            let command = Command::Journal(receipts);
            if let Err(e) = shard.propose(core.clock.wall(), command).await {
                tracing::debug!("receipts were not journalled: {e}");
                metrics::counter!("quorate_home_receipts_dropped_total").increment(count);
            }
        }
        if stopping {
            return;
        }
    }
}
