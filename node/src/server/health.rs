//! `/livez`, `/readyz`, `/metrics`, `/state-hash` of one node.

use super::{Core, Role};
use crate::http::health::{GroupHash, HealthApi, Readiness};
use futures::future::BoxFuture;
use std::sync::Arc;

pub(super) struct Health(pub(super) Arc<Core>);

/// Why a node should not get traffic; empty when it should.
pub(super) fn not_ready(core: &Core) -> Vec<String> {
    let mut reasons = Vec::new();
    let status = core.cluster.status();
    for g in &status.groups {
        if let Some(why) = &g.stopped {
            reasons.push(format!("group {} stopped: {why}", g.group));
        } else if g.leader.is_none() {
            reasons.push(format!("group {} has no leader", g.group));
        } else if g.last_applied == 0 {
            reasons.push(format!("group {} has applied nothing yet", g.group));
        }
    }
    if status.removed {
        reasons.push("this node was removed from its cluster".into());
    }
    if let Role::Custodian(custodian) = &core.role {
        if !custodian.unlocked() {
            reasons.push("locked: this node's keys are not loaded".into());
        }
        match custodian.status() {
            Err(e) => reasons.push(format!("the state cannot be read: {e}")),
            Ok(s) if s.overview.policies.is_empty() => {
                reasons.push("no policy is approved yet".into())
            }
            Ok(s) if s.overview.sealing_expires_ms.is_none() => {
                reasons.push("no sealing key is in use yet".into())
            }
            Ok(s) if custodian.unlocked() && s.wrapping_loaded.is_empty() => {
                reasons.push("no key version is loaded here yet".into())
            }
            Ok(_) => {}
        }
    }
    reasons
}

impl HealthApi for Health {
    fn live(&self) -> Result<(), String> {
        let stopped: Vec<String> = self
            .0
            .cluster
            .status()
            .groups
            .iter()
            .filter_map(|g| g.stopped.clone())
            .collect();
        if stopped.is_empty() {
            Ok(())
        } else {
            Err(stopped.join("; "))
        }
    }

    fn ready(&self) -> Readiness {
        Readiness::of(not_ready(&self.0))
    }

    fn metrics(&self) -> String {
        crate::metrics::handle().render()
    }

    fn state_hash(&self) -> BoxFuture<'_, Result<Vec<GroupHash>, String>> {
        Box::pin(async move {
            let groups = self.0.cluster.groups();
            let hashing = tokio::task::spawn_blocking(move || {
                let one = |g: &crate::raft::group::Group| {
                    let (applied, hash) = g.state_hash().map_err(|e| e.to_string())?;
                    Ok(GroupHash {
                        group: g.id(),
                        applied: applied.unwrap_or(0),
                        hash: hex::encode(hash),
                    })
                };
                groups.iter().map(one).collect()
            });
            hashing.await.map_err(|e| e.to_string())?
        })
    }
}
