//! The operator plane's requests on one node.

use super::{Core, Role, execute, officers};
use crate::custodian::{Custodian, CustodianStatus, Recorded};
use crate::home::Home;
use crate::http::operator::{Operator, OperatorApi, OperatorError, OperatorResult};
use crate::raft::group::GroupStatus as Raft;
use crate::raft::membership::MembershipError;
use futures::future::BoxFuture;
use quorate_engine::api::disclosure::{ExecuteOrder, SignedPart};
use quorate_engine::api::keys::{KeysDone, KeysStep, KeysView};
use quorate_engine::api::officers::{OfficersView, OrderDetail, OrdersView, ProposalView};
use quorate_engine::api::operator::{
    AddNode, ClusterView, FreezeStatus, GroupStatus, Member, OperatorDone, OperatorStatus,
    RemoveNode, TransferLeader, VersionsStatus,
};
use quorate_engine::api::services::{EnrolService, ServiceView, ServicesView};
use quorate_engine::authz::RELEASE_AUTHORITY;
use quorate_engine::authz::envelope::Envelope;
use quorate_engine::authz::officers::ProposalId;
use quorate_engine::authz::service::service_id;
use quorate_engine::custody;
use quorate_engine::custody::protocol::{FreezeScope, KeyRef};
use quorate_engine::home::command::ServiceChange;
use quorate_engine::types::{OrderId, Outcome, ServiceId};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

/// What a step that was not taken in time suggests to wait, in milliseconds.
pub(super) const AGAIN_MS: u64 = 1_000;
/// Longest wait for another node to take over a group.
const TRANSFER_WAIT_MAX: Duration = Duration::from_secs(5);

pub(super) struct Operations(pub(super) Arc<Core>);

fn scope_text(scope: &FreezeScope) -> String {
    match scope {
        FreezeScope::All => "all".into(),
        FreezeScope::Chat(chat) => chat.to_string(),
    }
}

fn group(g: &Raft) -> GroupStatus {
    GroupStatus {
        group: g.group,
        leader: g.leader,
        term: g.term,
        last: g.last_log,
        applied: g.last_applied,
        voters: g.voters.keys().copied().collect(),
        learners: g.learners.keys().copied().collect(),
    }
}

impl From<MembershipError> for OperatorError {
    fn from(e: MembershipError) -> Self {
        let detail = e.to_string();
        match e {
            MembershipError::Refused { .. } | MembershipError::LastVoter(_) => {
                Self::Refused(detail)
            }
            MembershipError::NoMember(_) => Self::Invalid(detail),
            MembershipError::Unreachable { .. } | MembershipError::Step { .. } => {
                Self::Unavailable {
                    detail,
                    retry_ms: AGAIN_MS,
                    outcome: Outcome::Unknown,
                }
            }
        }
    }
}

fn done<T>(detail: String, r: &Recorded<T>) -> OperatorDone {
    OperatorDone {
        detail,
        entry: Some(r.entry),
        index: Some(r.position.index),
    }
}

impl Operations {
    fn custodian(&self, verb: &str) -> OperatorResult<Custodian> {
        match &self.0.role {
            Role::Custodian(custodian) => Ok(custodian.clone()),
            Role::Home(_) => Err(OperatorError::NotHere(format!(
                "only a custodian {verb}; this node is a home's"
            ))),
        }
    }

    fn home(&self, verb: &str) -> OperatorResult<&Home> {
        match &self.0.role {
            Role::Home(home) => Ok(home.as_ref()),
            Role::Custodian(_) => Err(OperatorError::NotHere(format!(
                "only a home {verb}; this node is a custodian's"
            ))),
        }
    }

    fn warnings(&self) -> Vec<String> {
        let mut out = Vec::new();
        let status = self.0.cluster.status();
        if let Some(r) = &status.recovered {
            out.push(format!(
                "RECOVERED without a majority at {} (Unix seconds): what nodes {:?} acknowledged without this one is lost",
                r.at_s, r.given_up
            ));
        }
        if status.removed {
            out.push("this node was removed from its cluster; its id is never used again".into());
        }
        let left = self
            .0
            .certs
            .ends()
            .duration_since(std::time::SystemTime::now())
            .unwrap_or_default();
        if left < Duration::from_secs(self.0.config.limits.cert_warn_days * 86_400) {
            out.push(format!(
                "the peer certificate ends in {} hours; renew it",
                left.as_secs() / 3_600
            ));
        }
        match &self.0.role {
            Role::Home(_) => out.push(format!("release authority: {RELEASE_AUTHORITY}")),
            Role::Custodian(c) => match c.status() {
                Ok(s) => out.extend(s.warnings),
                Err(e) => out.push(format!("the state cannot be read: {e}")),
            },
        }
        out
    }
}

fn at_home(detail: String) -> OperatorDone {
    OperatorDone {
        detail,
        entry: None,
        index: None,
    }
}

fn by(operator: &Operator) -> custody::Operator {
    custody::Operator {
        name: operator.name.clone(),
        certificate: operator.certificate,
    }
}

fn versions(status: &CustodianStatus) -> VersionsStatus {
    let o = &status.overview;
    VersionsStatus {
        wrapping: o.wrapping,
        wrapping_here: status.wrapping_loaded.clone(),
        sealing: o.sealing,
        sealing_expires_ms: o.sealing_expires_ms,
        sealing_here: status.sealing_loaded.clone(),
        shares: o.live.iter().map(|(_, n)| n).sum(),
        shares_left: o.under_former_versions(),
        lacking: o.wrapping_lacking.iter().copied().collect(),
    }
}

impl OperatorApi for Operations {
    fn status(&self) -> BoxFuture<'_, OperatorStatus> {
        Box::pin(async move {
            let config = &self.0.config;
            let custodian = match &self.0.role {
                Role::Custodian(c) => c.status().ok(),
                Role::Home(_) => None,
            };
            let versions = custodian.as_ref().map(versions);
            let freezes = custodian.map(|s| s.freezes).unwrap_or_default();
            let freeze = |(scope, row): &(FreezeScope, custody::FreezeRow)| FreezeStatus {
                scope: scope_text(scope),
                position: row.entry,
                reason: row.reason.clone(),
            };
            let ends = self.0.certs.ends().duration_since(UNIX_EPOCH).ok();
            OperatorStatus {
                deployment: config.deployment.to_string(),
                role: config.role.to_string(),
                cluster: config.cluster.clone(),
                node: config.node,
                version: env!("CARGO_PKG_VERSION").into(),
                unlocked: match &self.0.role {
                    Role::Custodian(c) => c.unlocked(),
                    Role::Home(_) => true,
                },
                groups: self.0.cluster.status().groups.iter().map(group).collect(),
                freezes: freezes.iter().map(freeze).collect(),
                versions,
                certificate_expires_ms: ends.and_then(|d| u64::try_from(d.as_millis()).ok()),
                warnings: self.warnings(),
            }
        })
    }

    fn cluster(&self) -> BoxFuture<'_, OperatorResult<ClusterView>> {
        Box::pin(async move {
            let status = self.0.cluster.status();
            let mut addresses: BTreeMap<u64, String> = BTreeMap::new();
            for g in &status.groups {
                addresses.extend(g.voters.clone());
                addresses.extend(g.learners.clone());
            }
            let votes = |node: &u64| status.groups.iter().all(|g| g.voters.contains_key(node));
            let member = |(node, address): (u64, String)| Member {
                voter: votes(&node),
                node,
                address,
            };
            Ok(ClusterView {
                cluster: status.cluster.clone(),
                groups: status.groups.iter().map(group).collect(),
                members: addresses.into_iter().map(member).collect(),
            })
        })
    }

    fn add_node(
        &self,
        by: Operator,
        request: AddNode,
    ) -> BoxFuture<'_, OperatorResult<OperatorDone>> {
        Box::pin(async move {
            tracing::warn!(operator = by.name, node = request.node, "adding a node");
            self.0
                .cluster
                .add_node(request.node, &request.address)
                .await?;
            let detail = format!(
                "node {} at {} votes in every group",
                request.node, request.address
            );
            Ok(OperatorDone {
                detail,
                entry: None,
                index: None,
            })
        })
    }

    fn remove_node(
        &self,
        by: Operator,
        request: RemoveNode,
    ) -> BoxFuture<'_, OperatorResult<OperatorDone>> {
        Box::pin(async move {
            tracing::warn!(operator = by.name, node = request.node, "removing a node");
            self.0.cluster.remove_node(request.node).await?;
            let detail = format!(
                "node {} is no member any more; its id is never used again",
                request.node
            );
            Ok(OperatorDone {
                detail,
                entry: None,
                index: None,
            })
        })
    }

    fn transfer_leader(
        &self,
        _by: Operator,
        request: TransferLeader,
    ) -> BoxFuture<'_, OperatorResult<OperatorDone>> {
        Box::pin(async move {
            let group = self.0.cluster.group(request.group);
            let group = group.ok_or_else(|| {
                OperatorError::Invalid(format!("there is no group {}", request.group))
            })?;
            let status = group.status();
            if !group.is_leader() {
                return Err(OperatorError::NotLeader {
                    leader: status.leader,
                });
            }
            if !status.voters.contains_key(&request.to) {
                let voters: BTreeSet<_> = status.voters.keys().collect();
                return Err(OperatorError::Invalid(format!(
                    "node {} is no voter; the voters are {voters:?}",
                    request.to
                )));
            }
            group
                .transfer_to(request.to)
                .await
                .map_err(OperatorError::Refused)?;
            let mut leadership = group.leadership();
            let taken = leadership.wait_for(|l| l.leader == Some(request.to));
            let outcome = match tokio::time::timeout(TRANSFER_WAIT_MAX, taken).await {
                Ok(Ok(_)) => Ok(()),
                _ => Err(OperatorError::Unavailable {
                    detail: format!(
                        "node {} has not taken group {} over yet",
                        request.to, request.group
                    ),
                    retry_ms: AGAIN_MS,
                    outcome: Outcome::Unknown,
                }),
            };
            outcome?;
            let detail = format!("node {} leads group {}", request.to, request.group);
            Ok(OperatorDone {
                detail,
                entry: None,
                index: None,
            })
        })
    }

    fn freeze(
        &self,
        operator: Operator,
        scope: FreezeScope,
        reason: String,
    ) -> BoxFuture<'_, OperatorResult<OperatorDone>> {
        Box::pin(async move {
            let r = self
                .custodian("freezes")?
                .freeze(by(&operator), scope, reason)
                .await?;
            Ok(done(
                format!(
                    "{} is frozen: no share of it is released here",
                    scope_text(&scope)
                ),
                &r,
            ))
        })
    }

    fn thaw(
        &self,
        operator: Operator,
        scope: FreezeScope,
        reason: String,
    ) -> BoxFuture<'_, OperatorResult<OperatorDone>> {
        Box::pin(async move {
            let r = self
                .custodian("thaws")?
                .thaw(by(&operator), scope, reason)
                .await?;
            Ok(done(format!("{} is not frozen", scope_text(&scope)), &r))
        })
    }

    fn shred(
        &self,
        operator: Operator,
        keys: Vec<KeyRef>,
        reason: String,
    ) -> BoxFuture<'_, OperatorResult<OperatorDone>> {
        Box::pin(async move {
            let r = self
                .custodian("shreds")?
                .shred(by(&operator), keys, reason)
                .await?;
            let detail = r
                .value
                .iter()
                .map(|o| format!("{o:?}").to_lowercase())
                .collect::<Vec<_>>()
                .join(", ");
            Ok(done(format!("shares: {detail}"), &r))
        })
    }

    fn keys(&self) -> BoxFuture<'_, OperatorResult<KeysView>> {
        Box::pin(async move { Ok(self.custodian("has key slots")?.keys_view()) })
    }

    fn keys_step(
        &self,
        operator: Operator,
        step: KeysStep,
    ) -> BoxFuture<'_, OperatorResult<KeysDone>> {
        Box::pin(async move {
            let custodian = self.custodian("has key slots")?;
            Ok(custodian.keys_step(by(&operator), step).await?)
        })
    }

    fn officers(&self) -> BoxFuture<'_, OperatorResult<OfficersView>> {
        Box::pin(async move { officers::officers(&self.custodian("has officers")?) })
    }

    fn proposal(&self, id: ProposalId) -> BoxFuture<'_, OperatorResult<Option<ProposalView>>> {
        Box::pin(async move { officers::proposal(&self.custodian("has officers")?, &id) })
    }

    fn orders(&self) -> BoxFuture<'_, OperatorResult<OrdersView>> {
        Box::pin(async move { officers::orders(&self.custodian("takes orders")?) })
    }

    fn order(&self, id: OrderId) -> BoxFuture<'_, OperatorResult<Option<OrderDetail>>> {
        Box::pin(async move {
            let custodian = self.custodian("takes orders")?;
            // Some thousands of rows may be walked.
            let read = move || officers::order(&custodian, &id);
            let read = tokio::task::spawn_blocking(read).await;
            read.map_err(|e| OperatorError::Unavailable {
                detail: format!("the order could not be read: {e}"),
                retry_ms: AGAIN_MS,
                outcome: Outcome::NotDone,
            })?
        })
    }

    fn execute(
        &self,
        operator: Operator,
        id: OrderId,
        request: ExecuteOrder,
    ) -> BoxFuture<'_, OperatorResult<SignedPart>> {
        Box::pin(async move {
            let home = self.home("executes orders")?;
            execute::execute(&self.0, home, &operator, id, request).await
        })
    }

    fn services(&self) -> BoxFuture<'_, OperatorResult<ServicesView>> {
        Box::pin(async move {
            let rows = self.home("has service credentials")?.services().await?;
            Ok(ServicesView {
                services: rows.value.iter().map(ServiceView::from).collect(),
            })
        })
    }

    fn enrol_service(
        &self,
        operator: Operator,
        request: EnrolService,
    ) -> BoxFuture<'_, OperatorResult<OperatorDone>> {
        Box::pin(async move {
            let home = self.home("has service credentials")?;
            let invalid = |e: &dyn std::fmt::Display| OperatorError::Invalid(e.to_string());
            let key = request.key().map_err(|e| invalid(&e))?;
            let id = service_id(&key.public);
            let by = operator.name;
            tracing::warn!(operator = by, service = %id, name = key.name, "enrolling a service credential");
            home.change_service(ServiceChange::Enrol { key, by })
                .await?;
            Ok(at_home(format!("service credential {id} may write")))
        })
    }

    fn revoke_service(
        &self,
        operator: Operator,
        service: ServiceId,
    ) -> BoxFuture<'_, OperatorResult<OperatorDone>> {
        Box::pin(async move {
            let home = self.home("has service credentials")?;
            let by = operator.name;
            tracing::warn!(operator = by, service = %service, "ending a service credential");
            home.change_service(ServiceChange::End { service }).await?;
            let detail = format!("service credential {service} writes nothing any more");
            Ok(at_home(detail))
        })
    }

    fn hand_in(
        &self,
        operator: Operator,
        statement: Envelope,
    ) -> BoxFuture<'_, OperatorResult<OperatorDone>> {
        Box::pin(async move {
            let custodian = self.custodian("has officers")?;
            let r = custodian.hand_in(by(&operator), statement).await?;
            let detail = r.value.clone();
            Ok(done(detail, &r))
        })
    }
}
