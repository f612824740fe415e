//! A raft [`Group`] as a shard.

use super::shard::{Leading, ShardError, ShardGroup};
use crate::raft::group::{Group, Leadership, ProposeError, ReadError};
use futures::future::BoxFuture;
use quorate_engine::types::NodeId;
use quorate_engine::types::kv::{KvError, KvRead};

fn seen(l: Leadership) -> Leading {
    Leading {
        leader: l.leader,
        term: l.term,
        here: l.is_leader,
    }
}

impl ShardGroup for Group {
    fn propose(&self, command: Vec<u8>) -> BoxFuture<'_, Result<(u64, Vec<u8>), ShardError>> {
        Box::pin(async move {
            let proposed = Group::propose(self, command).await;
            proposed
                .map(|(at, reply)| (at.index, reply))
                .map_err(|e| match e {
                    ProposeError::NotLeader { leader } => ShardError::NotLeader(leader),
                    ProposeError::Busy | ProposeError::TooLarge(_) => {
                        ShardError::NotDone(e.to_string())
                    }
                    ProposeError::Unknown(_) | ProposeError::Stopped(_) => {
                        ShardError::Unknown(e.to_string())
                    }
                })
        })
    }

    fn read_index(&self) -> BoxFuture<'_, Result<u64, ShardError>> {
        Box::pin(async move {
            Group::read_index(self).await.map_err(|e| match e {
                ReadError::NotLeader { leader } => ShardError::NotLeader(leader),
                ReadError::Unavailable(_) | ReadError::Stopped(_) => {
                    ShardError::NotDone(e.to_string())
                }
            })
        })
    }

    fn view(&self, read: &mut dyn FnMut(&dyn KvRead)) -> Result<(), KvError> {
        Group::view(self, |kv| read(kv))
    }

    fn leading(&self) -> Leading {
        seen(*self.leadership().borrow())
    }

    fn changed(&self, before: Leading) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            let mut watch = self.leadership();
            // An ended watch means that the group stopped: nothing will change any more.
            if watch.wait_for(|l| seen(*l) != before).await.is_err() {
                std::future::pending::<()>().await;
            }
        })
    }

    fn lags(&self) -> Vec<(NodeId, Option<u64>)> {
        self.status().lag.into_iter().collect()
    }
}
