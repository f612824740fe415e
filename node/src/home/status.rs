//! The deployment as seen from this node.

use super::core::Core;
use super::service::Home;
use crate::config::ClusterRole;
use crate::peer::PeerTarget;
use futures::future::join_all;
use quorate_engine::api::{ClusterStatus, LeaseStatus, NodeStatus, PolicyStatus, Status};
use quorate_engine::authz::RELEASE_AUTHORITY;
use quorate_engine::custody::protocol::FreezeScope;
use quorate_engine::home::read;
use quorate_engine::types::{CustodianId, NodeId};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// How long a false share is remembered in warnings, in milliseconds.
const LIED_MS: u64 = 3_600_000;

/// What a home node says about itself to the others.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct NodeWord {
    node: NodeId,
    leads: Vec<u32>,
    /// Entries each other node is behind, at the groups this one leads.
    lags: BTreeMap<NodeId, Option<u64>>,
    memory_locked: bool,
}

pub(super) fn own_word(core: &Core) -> NodeWord {
    let led = core.shards.iter().filter(|s| s.leading().here);
    let mut lags: BTreeMap<NodeId, Option<u64>> = BTreeMap::new();
    for (node, lag) in led.clone().flat_map(|s| s.lags()) {
        let worst = lags.entry(node).or_insert(lag);
        *worst = match (*worst, lag) {
            (Some(a), Some(b)) => Some(a.max(b)),
            _ => None,
        };
    }
    NodeWord {
        node: core.config.node,
        leads: led.map(|s| s.number).collect(),
        lags,
        memory_locked: core.leases.is_locked(),
    }
}

pub(super) async fn status(home: &Home) -> Status {
    let core = &home.core;
    let mut warnings = Vec::new();
    let mut clusters = vec![home_cluster(home, &mut warnings).await];
    let descriptors = core.custodians.descriptors();
    for custodian in descriptors.keys() {
        clusters.extend(custodian_cluster(core, custodian, &mut warnings));
    }
    let (mut thin, mut outbox, mut lost) = (0, 0, 0);
    for shard in &core.shards {
        match shard.view(|kv| read::meta(kv)) {
            Ok(meta) => {
                thin += meta.thin;
                outbox += meta.outbox;
                lost += meta.lost;
            }
            Err(e) => warnings.push(format!("shard {} cannot be read: {e}", shard.number)),
        }
    }
    metrics::gauge!("quorate_home_epochs_thin").set(thin as f64);
    metrics::gauge!("quorate_home_outbox").set(outbox as f64);
    if thin > 0 {
        warnings.push(format!(
            "{thin} epochs run with less than their write margin"
        ));
    }
    if lost > 0 {
        warnings.push(format!(
            "{lost} shares were never delivered and are lost margins"
        ));
    }
    let (live, oldest_ms, limits) = core.leases.figures();
    if !core.leases.is_locked() {
        warnings.push("key memory is not locked: raise RLIMIT_MEMLOCK".into());
    }
    Status {
        deployment: core.config.deployment.to_string(),
        node: format!("{}/{}", core.config.home, core.config.node),
        release_authority: RELEASE_AUTHORITY.into(),
        clusters,
        policy: policy(core),
        leases: LeaseStatus {
            live: live as u64,
            oldest_ms,
            max: limits.max as u64,
            age_ms_max: limits.age_ms_max,
            memory_locked: core.leases.is_locked(),
        },
        thin_epochs: thin,
        outbox,
        warnings,
    }
}

async fn home_cluster(home: &Home, warnings: &mut Vec<String>) -> ClusterStatus {
    let core = &home.core;
    let nodes = &core.config.nodes;
    let words = join_all(nodes.iter().map(|n| home.node_status(*n))).await;
    let mut lags: BTreeMap<NodeId, Option<u64>> = BTreeMap::new();
    for word in words.iter().flatten() {
        for (node, lag) in &word.lags {
            let worst = lags.entry(*node).or_insert(*lag);
            *worst = worst.zip(*lag).map(|(a, b)| a.max(b));
        }
    }
    let mut leaderless: BTreeSet<u32> = core.shards.iter().map(|s| s.number).collect();
    let mut out = Vec::new();
    for (node, word) in nodes.iter().zip(words) {
        if word.is_none() {
            warnings.push(format!("node {node} of this home does not answer"));
        }
        let leads = word.as_ref().map_or_else(Vec::new, |w| w.leads.clone());
        for group in &leads {
            leaderless.remove(group);
        }
        out.push(NodeStatus {
            id: *node,
            up: word.is_some(),
            leads,
            lag: lags.get(node).copied().flatten(),
            certificate_expires_ms: core
                .custodians
                .transport()
                .certificate_ends_ms(&PeerTarget {
                    role: ClusterRole::Home,
                    cluster: core.config.home.to_string(),
                    node: *node,
                }),
        });
    }
    if !leaderless.is_empty() {
        warnings.push(format!("shards without a leader: {leaderless:?}"));
    }
    let own = core.custodians.transport().own_descriptor();
    ClusterStatus {
        role: "home".into(),
        name: core.config.home.to_string(),
        jurisdiction: own
            .as_ref()
            .map(|d| d.jurisdiction.clone())
            .unwrap_or_default(),
        entity: own.map(|d| d.legal_entity.clone()).unwrap_or_default(),
        available: leaderless.is_empty(),
        freezes: Vec::new(),
        nodes: out,
        latency_ms: None,
    }
}

fn custodian_cluster(
    core: &Core,
    id: &CustodianId,
    warnings: &mut Vec<String>,
) -> Option<ClusterStatus> {
    let (_, descriptor) = core.custodians.get(id).ok()?;
    let standing = core.custodians.standing(id);
    let available = core.custodians.answers(id);
    if !available {
        warnings.push(format!("custodian {id} does not answer"));
    }
    if standing.lied_ms_ago.is_some_and(|ms| ms < LIED_MS) {
        warnings.push(format!(
            "custodian {id} gave a share that does not match its commitment; its people must explain it"
        ));
    }
    let freezes = core
        .leases
        .freezes(id)
        .into_iter()
        .map(|scope| match scope {
            FreezeScope::All => "everything".to_owned(),
            FreezeScope::Chat(chat) => format!("chat {chat}"),
        });
    let nodes = descriptor.endpoints.keys().map(|node| {
        let leads = available && standing.leader == Some(*node);
        NodeStatus {
            id: *node,
            up: standing.up.get(node).copied().unwrap_or(false),
            leads: if leads { vec![0] } else { Vec::new() },
            lag: None,
            certificate_expires_ms: core
                .custodians
                .transport()
                .certificate_ends_ms(&PeerTarget {
                    role: ClusterRole::Custodian,
                    cluster: id.to_string(),
                    node: *node,
                }),
        }
    });
    Some(ClusterStatus {
        role: "custodian".into(),
        name: id.to_string(),
        jurisdiction: descriptor.jurisdiction.clone(),
        entity: descriptor.legal_entity.clone(),
        available,
        freezes: freezes.collect(),
        nodes: nodes.collect(),
        latency_ms: standing.latency_ms,
    })
}

fn policy(core: &Core) -> PolicyStatus {
    let policy = &core.config.policy;
    let frozen_all = |c: &CustodianId| core.leases.freezes(c).contains(&FreezeScope::All);
    let available: BTreeSet<CustodianId> = policy
        .custodians()
        .into_iter()
        .filter(|c| core.custodians.answers(c) && !frozen_all(c))
        .collect();
    let margin = policy.margin_of(&available);
    let sets = policy.what_would_suffice(&available, &BTreeSet::new());
    let names = |set: &BTreeSet<CustodianId>| set.iter().map(ToString::to_string).collect();
    PolicyStatus {
        id: policy.id().to_string(),
        text: core.config.policy_text.clone(),
        thin: margin.is_none_or(|m| m < usize::from(core.config.margins.write_margin)),
        would_suffice: match margin {
            Some(_) => Vec::new(),
            None => sets.iter().map(names).collect(),
        },
        margin: margin.map(|m| m as u64),
        available: available.iter().map(ToString::to_string).collect(),
    }
}
