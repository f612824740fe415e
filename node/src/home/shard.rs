//! One shard as the home's parts see it: propose, read, watch who leads.
//!
//! A trait, so that the home can be tested over a state machine in memory.

use crate::mutants::mutant;
use futures::future::BoxFuture;
use quorate_engine::home::{Command, Proposal, Reply};
use quorate_engine::types::kv::{KvError, KvRead};
use quorate_engine::types::{ChatId, NodeId};
use std::sync::Arc;
use std::time::{Instant, SystemTime};

/// Why a shard did not do, or not say, what was asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ShardError {
    /// Nothing was done here; ask the leader, if one is known.
    #[error("this node does not lead the shard")]
    NotLeader(Option<NodeId>),
    /// Nothing was done.
    #[error("the shard is not available: {0}")]
    NotDone(String),
    /// It may be committed, now or later.
    #[error("the outcome is not known: {0}")]
    Unknown(String),
}

/// Who leads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Leading {
    /// The leader, if one is known.
    pub leader: Option<NodeId>,
    /// Its term.
    pub term: u64,
    /// Whether it is this node.
    pub here: bool,
}

/// A raft group that runs [`HomeMachine`](quorate_engine::home::HomeMachine).
pub trait ShardGroup: Send + Sync + 'static {
    /// Commits a command; the log index and the encoded reply.
    fn propose(&self, command: Vec<u8>) -> BoxFuture<'_, Result<(u64, Vec<u8>), ShardError>>;
    /// Confirms leadership and that everything committed before is applied; its index.
    fn read_index(&self) -> BoxFuture<'_, Result<u64, ShardError>>;
    /// Reads this node's applied state.
    ///
    /// # Errors
    /// [`KvError`] when the store cannot be read.
    fn view(&self, read: &mut dyn FnMut(&dyn KvRead)) -> Result<(), KvError>;
    /// Who leads, as far as this node knows.
    fn leading(&self) -> Leading;
    /// Waits until [`ShardGroup::leading`] differs from `seen`.
    fn changed(&self, seen: Leading) -> BoxFuture<'_, ()>;
    /// Entries that the most lagging other node is behind, at the leader, by node.
    fn lags(&self) -> Vec<(NodeId, Option<u64>)>;
}

/// A shard with its number.
#[derive(Clone)]
pub struct Shard {
    /// Its number.
    pub number: u32,
    group: Arc<dyn ShardGroup>,
}

impl Shard {
    /// Numbers a group.
    pub fn new(number: u32, group: Arc<dyn ShardGroup>) -> Self {
        Self { number, group }
    }

    /// Commits a command; the log index and the reply.
    ///
    /// # Errors
    /// [`ShardError`].
    pub async fn propose(&self, now_ms: u64, command: Command) -> Result<(u64, Reply), ShardError> {
        let bytes = Proposal { now_ms, command }.encode();
        let proposed = self.group.propose(bytes).await;
        let (index, reply) = proposed.map_err(|e| match e {
            ShardError::Unknown(why) if mutant("timeout-as-failure") => ShardError::NotDone(why),
            e => e,
        })?;
        let reply = Reply::decode(&reply)
            .map_err(|e| ShardError::Unknown(format!("its reply cannot be read: {e}")))?;
        Ok((index, reply))
    }

    /// See [`ShardGroup::read_index`].
    ///
    /// # Errors
    /// [`ShardError`].
    pub async fn read_index(&self) -> Result<u64, ShardError> {
        if mutant("stale-read") {
            return Ok(0);
        }
        self.group.read_index().await
    }

    /// Reads this node's applied state.
    ///
    /// # Errors
    /// [`ShardError::NotDone`] when the store cannot be read.
    pub fn view<T>(
        &self,
        mut read: impl FnMut(&dyn KvRead) -> Result<T, KvError>,
    ) -> Result<T, ShardError> {
        let mut out = None;
        let viewed = self.group.view(&mut |kv| out = Some(read(kv)));
        match (viewed, out) {
            (Ok(()), Some(Ok(value))) => Ok(value),
            (Err(e), _) | (_, Some(Err(e))) => Err(ShardError::NotDone(e.to_string())),
            (Ok(()), None) => Err(ShardError::NotDone("the store gave no view".into())),
        }
    }

    /// Who leads.
    pub fn leading(&self) -> Leading {
        self.group.leading()
    }
    /// Waits until it differs from `seen`.
    pub async fn changed(&self, seen: Leading) {
        self.group.changed(seen).await;
    }
    /// See [`ShardGroup::lags`].
    pub fn lags(&self) -> Vec<(NodeId, Option<u64>)> {
        self.group.lags()
    }
}

/// The shard of a chat: equal ranges of ids, so that shards follow each other in order of id.
pub fn shard_of(chat: &ChatId, shards: u32) -> u32 {
    let head = u32::from(u16::from_be_bytes([chat.0[0], chat.0[1]]));
    (head * shards.max(1)) >> 16
}

/// Both clocks: monotonic for timers and leases, wall for what is replicated.
#[derive(Clone, Copy, Debug)]
pub struct Clock(Instant);

impl Default for Clock {
    fn default() -> Self {
        Self(Instant::now())
    }
}

impl Clock {
    /// Milliseconds since this clock was made.
    pub fn mono(&self) -> u64 {
        u64::try_from(self.0.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
    /// Unix milliseconds.
    pub fn wall(&self) -> u64 {
        SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .map_or(0, |d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shards_are_equal_ranges_in_order() {
        let at = |a: u8, b: u8| {
            let mut id = [0; 32];
            (id[0], id[1]) = (a, b);
            shard_of(&ChatId(id), 8)
        };
        assert_eq!(
            (at(0, 0), at(0x1f, 0xff), at(0x20, 0), at(0xff, 0xff)),
            (0, 0, 1, 7)
        );
        let mut count = [0; 7];
        for head in 0..=u16::MAX {
            let [a, b] = head.to_be_bytes();
            let mut id = [0; 32];
            (id[0], id[1]) = (a, b);
            count[shard_of(&ChatId(id), 7) as usize] += 1;
        }
        assert!(count.iter().all(|n| (9362..=9363).contains(n)), "{count:?}");
    }
}
