//! Changing the members of a running cluster: learner first, voter when caught
//! up, removal, all groups alike; ids are never reused.

use super::cluster::{Cluster, caught_up};
use super::group::Group;
use super::network::Change;
use super::{GroupId, GroupStatus};
use openraft::{BasicNode, ChangeMembers};
use quorate_engine::types::NodeId;
use std::collections::BTreeSet;
use std::time::Duration;
use tokio::time::Instant;

/// Longest try of one step in one group: an election or two may lie between. Shorter than a
/// client waits for its answer, so that it is told why.
const STEP_WAIT_MAX: Duration = Duration::from_secs(20);
/// Longest wait for a new node to get all of a group's state.
pub const CATCH_UP_WAIT_MAX: Duration = Duration::from_secs(3_600);
const PAUSE: Duration = Duration::from_millis(200);

/// Why the members were not changed. A change that stopped half-way may be repeated.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MembershipError {
    /// An id that is, or was, somebody else's.
    #[error("node {node} cannot join: {reason}")]
    Refused {
        /// The node.
        node: NodeId,
        /// Why.
        reason: String,
    },
    /// It does not answer.
    #[error(
        "node {node} at {address} does not answer: {reason}; start it first, with no `nodes` in its configuration"
    )]
    Unreachable {
        /// The node.
        node: NodeId,
        /// Where it was looked for.
        address: String,
        /// Why.
        reason: String,
    },
    /// No such member.
    #[error("node {0} is no member of this cluster")]
    NoMember(NodeId),
    /// Nothing would be left.
    #[error("node {0} is the only voter left; add another one first")]
    LastVoter(NodeId),
    /// A group did not take the step in time.
    #[error("group {group}: {reason}; repeat the command to go on from there")]
    Step {
        /// The group.
        group: GroupId,
        /// The last error.
        reason: String,
    },
}

impl Group {
    /// One membership step, at the leader.
    pub(super) async fn change(&self, change: Change) -> Result<(), String> {
        let s = self.status();
        if !self.is_leader() {
            return Err(match s.leader {
                Some(l) => format!("not the leader, node {l} is"),
                None => "no leader".into(),
            });
        }
        let raft = self.raft();
        let done = match change {
            Change::AddLearner(id, address) => {
                let at = s.voters.get(&id).or_else(|| s.learners.get(&id));
                if at == Some(&address) {
                    return Ok(());
                }
                raft.add_learner(id, BasicNode::new(address), false).await
            }
            Change::Promote(id) if s.voters.contains_key(&id) => return Ok(()),
            Change::Promote(id) => {
                let add = ChangeMembers::AddVoterIds(BTreeSet::from([id]));
                raft.change_membership(add, true).await
            }
            Change::Remove(id) if s.voters.contains_key(&id) => {
                if id == self.node() {
                    return Err("this node leads the group and is to be removed: leadership must move first".into());
                }
                let remove = ChangeMembers::RemoveVoters(BTreeSet::from([id]));
                raft.change_membership(remove, false).await
            }
            Change::Remove(id) if s.learners.contains_key(&id) => {
                let remove = ChangeMembers::RemoveNodes(BTreeSet::from([id]));
                raft.change_membership(remove, false).await
            }
            Change::Remove(_) => return Ok(()),
        };
        done.map(drop).map_err(|e| e.to_string())
    }
}

impl Cluster {
    /// Adds `node` at `address` to every group: learner, then voter once it has caught up.
    ///
    /// Runs as long as the state takes to be copied; repeating it goes on where it stopped.
    ///
    /// # Errors
    /// [`MembershipError`].
    pub async fn add_node(&self, node: NodeId, address: &str) -> Result<(), MembershipError> {
        let inner = self.inner();
        let refused = |reason: String| MembershipError::Refused { node, reason };
        if node == 0 {
            return Err(refused("node ids start at 1".into()));
        }
        let statuses: Vec<GroupStatus> = self.groups().iter().map(Group::status).collect();
        for s in &statuses {
            if let Some(other) = s.voters.get(&node).filter(|a| *a != address) {
                return Err(refused(format!("the id is in use at {other}")));
            }
        }
        inner.router.set_address(node, address);
        let incarnation =
            inner
                .router
                .incarnation(node)
                .await
                .map_err(|e| MembershipError::Unreachable {
                    node,
                    address: address.into(),
                    reason: e.to_string(),
                })?;
        inner
            .known
            .may_join(node, incarnation)
            .map_err(|e| refused(e.to_string()))?;
        let members: BTreeSet<NodeId> = statuses
            .iter()
            .flat_map(|s| s.voters.keys().copied())
            .collect();
        for member in members
            .into_iter()
            .filter(|m| *m != self.node() && *m != node)
        {
            // Members that are down cannot object; those that answer must agree.
            use super::network::AskError;
            if let Err(AskError::Answer(why)) =
                inner.router.may_join(member, node, incarnation).await
            {
                return Err(refused(format!("node {member} says: {why}")));
            }
        }
        for group in self.groups() {
            self.step(&group, Change::AddLearner(node, address.into()))
                .await?;
        }
        for group in self.groups() {
            self.wait_caught_up(&group, node).await?;
            self.step(&group, Change::Promote(node)).await?;
        }
        Ok(())
    }

    /// Removes `node` from every group. Its id stays refused for ever.
    ///
    /// # Errors
    /// [`MembershipError`].
    pub async fn remove_node(&self, node: NodeId) -> Result<(), MembershipError> {
        let statuses: Vec<GroupStatus> = self.groups().iter().map(Group::status).collect();
        let member =
            |s: &GroupStatus| s.voters.contains_key(&node) || s.learners.contains_key(&node);
        if !statuses.iter().any(member) {
            return Err(MembershipError::NoMember(node));
        }
        if statuses
            .iter()
            .any(|s| s.voters.len() == 1 && s.voters.contains_key(&node))
        {
            return Err(MembershipError::LastVoter(node));
        }
        for group in self.groups() {
            self.step(&group, Change::Remove(node)).await?;
        }
        if node != self.node() {
            self.inner().known.removed(&BTreeSet::from([node]));
        }
        Ok(())
    }

    /// One step at whoever leads the group, tried again over elections.
    async fn step(&self, group: &Group, change: Change) -> Result<(), MembershipError> {
        let until = Instant::now() + STEP_WAIT_MAX;
        let mut said = String::new();
        loop {
            self.know_addresses(&group.status());
            let leader = group.leadership().borrow().leader;
            let reason = match leader {
                // Whoever takes over executes it. Leadership may come back, or nobody may take it.
                Some(l) if l == self.node() && change == Change::Remove(l) => {
                    self.hand_over(group).await;
                    "this node leads the group and is to be removed".into()
                }
                Some(l) if l == self.node() => match group.change(change.clone()).await {
                    Ok(()) => return Ok(()),
                    Err(e) => e,
                },
                Some(l) => match self.leader_step(l, group, &change).await {
                    Ok(()) => return Ok(()),
                    Err(e) => e,
                },
                None => "no leader".into(),
            };
            if Instant::now() > until {
                return Err(MembershipError::Step {
                    group: group.id(),
                    reason,
                });
            }
            if reason != said {
                tracing::info!(group = group.id(), ?change, "not yet: {reason}");
                said = reason;
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    async fn leader_step(
        &self,
        leader: NodeId,
        group: &Group,
        change: &Change,
    ) -> Result<(), String> {
        let router = &self.inner().router;
        if let Change::Remove(node) = change
            && *node == leader
        {
            return Err(format!(
                "node {leader} leads and is to be removed: waiting for it to step down"
            ));
        }
        router
            .change(leader, group.id(), change.clone())
            .await
            .map_err(|e| e.to_string())
    }

    async fn wait_caught_up(&self, group: &Group, node: NodeId) -> Result<(), MembershipError> {
        let until = Instant::now() + CATCH_UP_WAIT_MAX;
        loop {
            let leader = group.leadership().borrow().leader;
            let status = match leader {
                Some(l) if l == self.node() => Some(group.status()),
                Some(l) => self.inner().router.status(l, group.id()).await.ok(),
                None => None,
            };
            if status.is_some_and(|s| s.voters.contains_key(&node) || caught_up(&s, node)) {
                return Ok(());
            }
            if Instant::now() > until {
                let reason = format!("node {node} has not caught up");
                return Err(MembershipError::Step {
                    group: group.id(),
                    reason,
                });
            }
            tokio::time::sleep(PAUSE).await;
        }
    }
}
