//! Lays a whole deployment out on disk: every entity's keys and files, everyone
//! trusting everyone, and a `layout.toml` that says where everything is.
//!
//! ```text
//!  DIR/layout.toml
//!  DIR/ENTITY/            keys, descriptor.json, operator.crt (see `pki::entity`)
//!  DIR/ENTITY/node-N/     config.toml, certificates, data/
//!  DIR/AUTHORITY/         an identity authority's keys, descriptor.json, authority.crt
//! ```

use super::topology::{self, Topology};
use crate::config::{ClusterRole, HomeOptions, KeyProvider, Listen, RaftOptions, StoreKind};
use crate::pki::entity::{self, Entity, EntityError, NodeSpec};
use crate::pki::files::{self, Access, FileError};
use quorate_engine::types::{DeploymentId, NodeId};
use serde::{Deserialize, Serialize};
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};

/// First of the ports tried when none is asked for; below the range the system
/// hands out for outgoing connections, so that a node can be restarted on its own.
const PORT_FIRST: u16 = 20_000;
/// Last of them.
const PORT_LAST: u16 = 31_999;
/// First port at each address of its own that a topology names, unless it says `base_port`.
const OWN_HOST_PORT: u16 = 7_001;
/// Sockets per node: peer, operator, health, client or registry, audit.
const PORTS_PER_NODE: u16 = 5;

/// Why a deployment could not be laid out.
#[derive(Debug, thiserror::Error)]
pub enum LayoutError {
    /// An entity's keys or files.
    #[error(transparent)]
    Entity(#[from] EntityError),
    /// Other files.
    #[error(transparent)]
    File(#[from] FileError),
    /// The directory holds something already.
    #[error(
        "{0} exists and is not empty; choose another directory, or remove it if its data may go"
    )]
    Exists(PathBuf),
    /// Bad host or store in the topology's options.
    #[error("topology options: {0}")]
    Option(String),
    /// No free ports.
    #[error(
        "no free TCP ports between {PORT_FIRST} and {PORT_LAST} on {0}; stop what listens there, or set options.base_port"
    )]
    Ports(IpAddr),
    /// `layout.toml` cannot be understood.
    #[error("{path}: {reason}")]
    LayoutFile {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
}

/// One node's place on disk and on the network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeLayout {
    /// Node id.
    pub id: NodeId,
    /// Its configuration file.
    pub config: PathBuf,
    /// Peer plane.
    pub peer: SocketAddr,
    /// Operator plane.
    pub operator: SocketAddr,
    /// Health and metrics.
    pub health: SocketAddr,
    /// Client plane; home only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client: Option<SocketAddr>,
    /// Registry plane; custodian only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub registry: Option<SocketAddr>,
    /// Audit plane; custodian only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub audit: Option<SocketAddr>,
}

/// One identity authority: its own directory, made by `pki::entity`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuthorityLayout {
    /// Its name.
    pub name: String,
    /// Its directory.
    pub dir: PathBuf,
}

/// One entity's cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterLayout {
    /// What it is.
    pub role: ClusterRole,
    /// Its name.
    pub name: String,
    /// The entity's directory.
    pub dir: PathBuf,
    /// CA certificate that its planes are verified under.
    pub ca: PathBuf,
    /// Operator certificate.
    pub operator_cert: PathBuf,
    /// Its key.
    pub operator_key: PathBuf,
    /// Its nodes.
    pub nodes: Vec<NodeLayout>,
}

/// `layout.toml`: where everything of a deployment is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Layout {
    /// The deployment.
    pub deployment: DeploymentId,
    /// Its directory.
    pub dir: PathBuf,
    /// Home first, then custodians in the topology's order.
    #[serde(rename = "cluster")]
    pub clusters: Vec<ClusterLayout>,
    /// Identity authorities in the topology's order.
    #[serde(default, rename = "authority")]
    pub authorities: Vec<AuthorityLayout>,
}

impl Layout {
    /// Reads `DIR/layout.toml`.
    ///
    /// # Errors
    /// [`LayoutError`] naming the file.
    pub fn load(dir: &Path) -> Result<Self, LayoutError> {
        let path = dir.join("layout.toml");
        let text = String::from_utf8_lossy(&files::read(&path)?).into_owned();
        toml::from_str(&text).map_err(|e| LayoutError::LayoutFile {
            path,
            reason: e.to_string(),
        })
    }

    /// The home.
    pub fn home(&self) -> &ClusterLayout {
        &self.clusters[0]
    }

    /// A cluster by name.
    pub fn cluster(&self, name: &str) -> Option<&ClusterLayout> {
        self.clusters.iter().find(|c| c.name == name)
    }

    /// The home's client plane addresses.
    pub fn client_endpoints(&self) -> Vec<SocketAddr> {
        self.home().nodes.iter().filter_map(|n| n.client).collect()
    }
}

/// Hands out free ports, or consecutive ones from a base.
struct Ports {
    host: IpAddr,
    next: u16,
    fixed: bool,
}

impl Ports {
    fn new(host: IpAddr, base: Option<u16>) -> Self {
        match base {
            Some(next) if next != 0 => Self {
                host,
                next,
                fixed: true,
            },
            // Start somewhere else each time: several test deployments run side by side.
            _ => Self {
                host,
                next: rand::random_range(PORT_FIRST..PORT_LAST),
                fixed: false,
            },
        }
    }

    fn take(&mut self) -> Result<SocketAddr, LayoutError> {
        for _ in PORT_FIRST..=PORT_LAST {
            let at = SocketAddr::new(self.host, self.next);
            self.next = match self.next {
                n if self.fixed => n.saturating_add(1),
                PORT_LAST => PORT_FIRST,
                n => n + 1,
            };
            if self.fixed || TcpListener::bind(at).is_ok() {
                return Ok(at);
            }
        }
        Err(LayoutError::Ports(self.host))
    }
}

/// Makes every entity of `topology` under `dir` (new or empty) and has them trust each other.
///
/// # Errors
/// [`LayoutError`]; what exists is never overwritten.
pub fn lay_out(topology: &Topology, dir: &Path) -> Result<Layout, LayoutError> {
    if std::fs::read_dir(dir).is_ok_and(|mut d| d.next().is_some()) {
        return Err(LayoutError::Exists(dir.to_owned()));
    }
    files::make_dir(dir)?;
    let dir = std::fs::canonicalize(dir).map_err(|source| FileError::Io {
        path: dir.to_owned(),
        source,
    })?;
    let options = &topology.options;
    let host = options.host.as_deref().unwrap_or("127.0.0.1");
    let mut ports = Ports::new(address(host)?, options.base_port);
    let deployment = entity::new_deployment()?;
    let mut entities = Vec::new();
    let mut clusters = Vec::new();
    let all = std::iter::once((ClusterRole::Home, &topology.home)).chain(
        topology
            .custodians
            .iter()
            .map(|c| (ClusterRole::Custodian, c)),
    );
    for (role, spec) in all {
        let (entity, cluster) = entity_of(topology, &dir, deployment, role, spec, &mut ports)?;
        entities.push(entity);
        clusters.push(cluster);
    }
    let mut authorities = Vec::new();
    for spec in &topology.authorities {
        let dir = dir.join(&spec.name);
        entities.push(authority_of(&dir, deployment, spec)?);
        let name = spec.name.clone();
        authorities.push(AuthorityLayout { name, dir });
    }
    for entity in &entities {
        for other in &entities {
            if other.descriptor.id != entity.descriptor.id {
                entity.trust(&other.descriptor)?;
            }
        }
    }
    let layout = Layout {
        deployment,
        dir: dir.clone(),
        clusters,
        authorities,
    };
    let text = toml::to_string(&layout).expect("a layout is plain strings and numbers");
    files::create(&dir.join("layout.toml"), text.as_bytes(), Access::Public)?;
    Ok(layout)
}

fn address(host: &str) -> Result<IpAddr, LayoutError> {
    host.parse()
        .map_err(|_| LayoutError::Option(format!("host {host:?} is not an IP address")))
}

fn authority_of(
    dir: &Path,
    deployment: DeploymentId,
    spec: &topology::AuthoritySpec,
) -> Result<Entity, EntityError> {
    let undeclared = String::from("undeclared");
    entity::init(
        dir,
        &entity::EntitySpec {
            deployment,
            key_provider: KeyProvider::KeyFile,
            role: ClusterRole::Authority,
            id: spec.name.clone(),
            jurisdiction: spec.jurisdiction.clone(),
            legal_entity: spec.entity.clone(),
            provider: undeclared.clone(),
            network: undeclared,
            nodes: Vec::new(),
            store: StoreKind::default(),
            raft: RaftOptions::default(),
            home: None,
        },
    )
}

fn entity_of(
    topology: &Topology,
    dir: &Path,
    deployment: DeploymentId,
    role: ClusterRole,
    spec: &topology::EntitySpec,
    ports: &mut Ports,
) -> Result<(Entity, ClusterLayout), LayoutError> {
    let options = &topology.options;
    let store = match options.store.as_deref() {
        None | Some("redb") => StoreKind::Redb,
        Some("sled") => StoreKind::Sled,
        Some("memory") => StoreKind::Memory,
        Some(other) => {
            return Err(LayoutError::Option(format!(
                "store {other:?}: choose redb, sled or memory"
            )));
        }
    };
    let mut raft = RaftOptions::default();
    if let Some(n) = options.snapshot_entries {
        raft.snapshot_entries = n;
        raft.keep_entries = n / 4;
    }
    let mut home = HomeOptions::default();
    home.shards = options.shards.unwrap_or(home.shards);
    if let Some(ms) = options.lease_ms_max {
        home.lease_age_s_max = (ms / 1000).max(1);
    }
    let entity_dir = dir.join(&spec.name);
    let mut nodes = Vec::new();
    let mut layouts = Vec::new();
    for id in 1..=spec.nodes as NodeId {
        let mut own = match spec.hosts.get(id as usize - 1) {
            None => None,
            Some(host) => {
                let host = address(host)?;
                Some(Ports::new(host, options.base_port.or(Some(OWN_HOST_PORT))))
            }
        };
        let ports = own.as_mut().unwrap_or(&mut *ports);
        let listen = Listen {
            peer: ports.take()?,
            operator: ports.take()?,
            health: ports.take()?,
            client: match role {
                ClusterRole::Home => Some(ports.take()?),
                _ => None,
            },
            registry: match role {
                ClusterRole::Custodian => Some(ports.take()?),
                _ => None,
            },
            audit: match role {
                ClusterRole::Custodian => Some(ports.take()?),
                _ => None,
            },
        };
        layouts.push(NodeLayout {
            id,
            config: entity_dir.join(format!("node-{id}")).join("config.toml"),
            peer: listen.peer,
            operator: listen.operator,
            health: listen.health,
            client: listen.client,
            registry: listen.registry,
            audit: listen.audit,
        });
        let names = vec![ports.host.to_string(), "localhost".to_owned()];
        nodes.push(NodeSpec {
            id,
            peer: listen.peer.to_string(),
            listen,
            names,
        });
    }
    let entity = entity::init(
        &entity_dir,
        &entity::EntitySpec {
            key_provider: crate::config::KeyProvider::KeyFile,
            deployment,
            role,
            id: spec.name.clone(),
            jurisdiction: spec.jurisdiction.clone(),
            legal_entity: spec.entity.clone(),
            provider: spec.provider.clone(),
            network: spec.network.clone(),
            nodes,
            store,
            raft,
            home: (role == ClusterRole::Home).then_some(home),
        },
    )?;
    for node in &layouts {
        let policy = entity.node_dir(node.id).join("policy.toml");
        files::replace(&policy, topology.policy_toml.as_bytes(), Access::Public)?;
    }
    let file = |name: &str| entity_dir.join(name);
    let cluster = ClusterLayout {
        role,
        name: spec.name.clone(),
        ca: file("ca.crt"),
        operator_cert: file("operator.crt"),
        operator_key: file("operator.key"),
        dir: entity_dir.clone(),
        nodes: layouts,
    };
    Ok((entity, cluster))
}

/// Sockets a deployment of `nodes` nodes takes at most.
pub fn ports_needed(nodes: usize) -> usize {
    nodes * PORTS_PER_NODE as usize
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::pki::TrustStore;

    #[test]
    fn a_laid_out_deployment_loads_and_everyone_trusts_everyone() {
        let tmp = tempfile::tempdir().unwrap();
        let layout = lay_out(&Topology::default_deployment(), tmp.path()).unwrap();
        assert_eq!(Layout::load(tmp.path()).unwrap(), layout);
        assert_eq!(
            layout.clusters.iter().map(|c| c.nodes.len()).sum::<usize>(),
            21
        );
        let mut sockets = std::collections::BTreeSet::new();
        for cluster in &layout.clusters {
            for node in &cluster.nodes {
                let config = Config::load(&node.config).unwrap();
                assert_eq!(config.deployment, layout.deployment);
                let trust = TrustStore::load(&config.trust.own, &config.trust.dir).unwrap();
                assert_eq!(trust.custodians().len(), 6);
                assert_eq!(trust.authorities().len(), 2);
                for at in [
                    Some(node.peer),
                    Some(node.operator),
                    Some(node.health),
                    node.client,
                    node.registry,
                    node.audit,
                ]
                .into_iter()
                .flatten()
                {
                    assert!(sockets.insert(at), "{at} was given twice");
                }
            }
        }
        assert!(sockets.len() <= ports_needed(21));
        for authority in &layout.authorities {
            let entity = Entity::open(&authority.dir).unwrap();
            assert_eq!(entity.descriptor.role, ClusterRole::Authority);
            entity.statement_key().unwrap();
            let trust = authority.dir.join("trust");
            let trust = TrustStore::load(&authority.dir.join("descriptor.json"), &trust).unwrap();
            assert_eq!(trust.custodians().len(), 6);
        }
        assert!(matches!(
            lay_out(&Topology::default_deployment(), tmp.path()),
            Err(LayoutError::Exists(_))
        ));
    }

    #[test]
    fn nodes_listen_where_the_topology_says() {
        let tmp = tempfile::tempdir().unwrap();
        let mut topology = Topology::default_deployment();
        topology.home.hosts = vec!["10.9.0.1".into(), "10.9.0.2".into(), "10.9.0.3".into()];
        let layout = lay_out(&topology, &tmp.path().join("d")).unwrap();
        let home: Vec<_> = layout.home().nodes.iter().map(|n| n.peer).collect();
        let wanted = [1, 2, 3].map(|n| SocketAddr::from(([10, 9, 0, n], OWN_HOST_PORT)));
        assert_eq!(home, wanted);
        let config = Config::load(&layout.home().nodes[2].config).unwrap();
        assert_eq!(config.listen.peer, wanted[2]);
        assert_eq!(
            layout.clusters[1].nodes[0].peer.ip().to_string(),
            "127.0.0.1"
        );
        topology.home.hosts[1] = "nowhere".into();
        let e = lay_out(&topology, &tmp.path().join("e")).unwrap_err();
        assert!(
            e.to_string().contains("\"nowhere\" is not an IP address"),
            "{e}"
        );
    }
}
