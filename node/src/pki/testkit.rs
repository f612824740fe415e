//! Entities for tests: made by the same `entity::init` as real ones.

use super::entity::{self, Entity, EntitySpec, NodeSpec};
use super::{CertIdentity, CertRole, CertSource, Descriptor, Issued, TrustStore};
use crate::config::{ClusterRole, Listen, RaftOptions, StoreKind};
use quorate_engine::types::DeploymentId;
use std::path::Path;
use std::sync::Arc;

pub(crate) const DEPLOYMENT: DeploymentId = DeploymentId([0x51; 16]);

pub(crate) fn spec(role: ClusterRole, id: &str, nodes: u64) -> EntitySpec {
    let any: std::net::SocketAddr = "127.0.0.1:0".parse().unwrap();
    EntitySpec {
        key_provider: crate::config::KeyProvider::KeyFile,
        deployment: DEPLOYMENT,
        role,
        id: id.into(),
        jurisdiction: id.into(),
        legal_entity: format!("{id} foundation"),
        provider: format!("{id} hosting"),
        network: format!("{id} network"),
        nodes: (1..=nodes)
            .map(|n| NodeSpec {
                id: n,
                peer: format!("127.0.0.1:{}", 20_000 + n),
                listen: Listen {
                    peer: any,
                    client: (role == ClusterRole::Home).then_some(any),
                    registry: (role == ClusterRole::Custodian).then_some(any),
                    audit: (role == ClusterRole::Custodian).then_some(any),
                    operator: any,
                    health: any,
                },
                names: vec!["127.0.0.1".into(), "localhost".into()],
            })
            .collect(),
        store: StoreKind::Memory,
        raft: RaftOptions::default(),
        home: None,
    }
}

pub(crate) fn entity(dir: &Path, role: ClusterRole, id: &str, nodes: u64) -> Entity {
    entity::init(&dir.join(id), &spec(role, id, nodes)).unwrap()
}

pub(crate) fn trust(own: &Entity, others: &[&Entity]) -> Arc<TrustStore> {
    let others: Vec<Descriptor> = others.iter().map(|e| e.descriptor.clone()).collect();
    TrustStore::of(own.descriptor.clone(), others).unwrap()
}

pub(crate) fn certs(e: &Entity, node: u64) -> Arc<CertSource> {
    let dir = e.node_dir(node);
    CertSource::load("peer", &dir.join("node.crt"), &dir.join("node.key")).unwrap()
}

/// A certificate for any identity at all, from `e`'s CA.
pub(crate) fn forged(e: &Entity, role: CertRole, cluster: &str, node: u64) -> Issued {
    let who = CertIdentity {
        deployment: DEPLOYMENT,
        role,
        cluster: cluster.into(),
        node,
    };
    let now = std::time::SystemTime::now();
    e.authority()
        .danger_issue(&who, &[], now, std::time::Duration::from_secs(3_600))
        .unwrap()
}

pub(crate) fn source(dir: &Path, name: &str, issued: &Issued) -> Arc<CertSource> {
    let (cert, key) = (
        dir.join(format!("{name}.crt")),
        dir.join(format!("{name}.key")),
    );
    issued.write(&cert, &key).unwrap();
    CertSource::load("peer", &cert, &key).unwrap()
}
