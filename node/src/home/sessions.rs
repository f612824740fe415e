//! Seal sessions of the shards this node leads: one encapsulation a custodian,
//! sealing version and ten minutes, committed before anything is sealed under it.

use super::core::Core;
use super::shard::{Shard, ShardError};
use futures::future::join_all;
use quorate_engine::home::Command;
use quorate_engine::home::opening::{DealSession, UncommittedSession};
use quorate_engine::policy::Policy;
use quorate_engine::types::{CustodianId, SessionId};
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::sync::Mutex;

type Live = BTreeMap<CustodianId, Arc<DealSession>>;

/// Sessions by shard.
pub struct Sessions(Vec<Mutex<Live>>);

impl Sessions {
    pub(super) fn new(shards: usize) -> Self {
        Self((0..shards).map(|_| Mutex::default()).collect())
    }

    /// Live sessions with every custodian of the policy that has a sealing key
    /// known here; made and committed where none lives.
    ///
    /// # Errors
    /// [`ShardError`] when they could not be committed.
    pub(super) async fn ensure(
        &self,
        core: &Core,
        shard: &Shard,
        policy: &Policy,
    ) -> Result<Live, ShardError> {
        let Some(held) = self.0.get(shard.number as usize) else {
            return Err(ShardError::NotDone("no such shard".into()));
        };
        // Held while making new ones, so that a crowd of openings makes one each.
        let mut held = held.lock().await;
        let (now, wall) = (core.clock.mono(), core.clock.wall());
        held.retain(|_, s| s.live(now, wall));
        let missing: Vec<CustodianId> = policy
            .custodians()
            .into_iter()
            .filter(|c| !held.contains_key(c))
            .collect();
        let statements = join_all(missing.iter().map(|c| core.custodians.sealing_key(c))).await;
        let mut made = Vec::new();
        for statement in statements {
            match statement {
                Ok(statement) => {
                    let deployment = &core.config.deployment;
                    match UncommittedSession::new(deployment, &statement, &mut rand::rng()) {
                        Ok(session) => made.push(session),
                        Err(e) => {
                            tracing::warn!(custodian = %statement.custodian, "its sealing key cannot be used: {e}")
                        }
                    }
                }
                Err(e) => tracing::debug!("dealing without it: {e}"),
            }
        }
        if !made.is_empty() {
            let sessions = made.iter().map(|s| s.session().clone()).collect();
            let command = Command::SealSessions(sessions);
            let (_, reply) = shard.propose(wall, command).await?;
            for session in made {
                if let Some(session) = session.committed(&reply, core.clock.mono()) {
                    held.insert(session.session().custodian.clone(), Arc::new(session));
                }
            }
        }
        Ok(held.clone())
    }

    /// Drops a custodian's session if it is this one: its sealing key is gone there.
    pub(super) async fn forget(&self, shard: u32, custodian: &CustodianId, session: &SessionId) {
        if let Some(held) = self.0.get(shard as usize) {
            let mut held = held.lock().await;
            if held
                .get(custodian)
                .is_some_and(|s| s.session().id == *session)
            {
                held.remove(custodian);
            }
        }
    }

    /// Drops all of a shard: this node leads it no more.
    pub(super) async fn clear(&self, shard: u32) {
        if let Some(held) = self.0.get(shard as usize) {
            held.lock().await.clear();
        }
    }
}
