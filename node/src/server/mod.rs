//! One node, put together: storage, consensus, services, planes; and taken down
//! again in the order that loses nothing.
//!
//! ```text
//!  start:  trust, certificates ─▶ storage ─▶ peer plane ─▶ raft groups ─▶ custodian | home ─▶ planes
//!  stop:   planes drain ─▶ home drops its leases ─▶ leaders handed over ─▶ peer plane ─▶ storage closed
//! ```

mod execute;
mod health;
mod officers;
mod operator;
mod policies;

pub use policies::PoliciesError;

use crate::config::{ClusterRole, Config, StoreKind as ConfiguredStore};
use crate::custodian::{self, Custodian, OpenProblem};
use crate::home::{Home, HomeConfig};
use crate::http::operator::OwnCluster;
use crate::http::serve::{self, Running, ServeLimits};
use crate::http::{
    audit as audit_plane, client as client_plane, health as health_plane,
    operator as operator_plane, registry as registry_plane,
};
use crate::peer::client::PeerClientOptions;
use crate::peer::server::ServerOptions;
use crate::peer::{Allow, PeerClient, PeerServer, services};
use crate::pki::rotate::RotateError;
use crate::pki::trust::TrustError;
use crate::pki::{CertRole, CertSource, Descriptor, TrustStore, tls};
use crate::raft::cluster::{Cluster, ClusterError, ClusterOptions};
use crate::raft::recover::{self, RecoverError, Recovered};
use crate::storage::{Storage, StorageError, StorageOptions};
use crate::store::StoreKind;
use quorate_engine::home::HomeMachine;
use quorate_engine::home::lease::LeaseLimits;
use quorate_engine::types::HomeId;
use quorate_engine::types::kv::Machine;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// How often new descriptors in the trust directory are looked for.
const TRUST_POLL: Duration = Duration::from_secs(2);
/// Requests of one home node in flight at another.
const HOME_IN_FLIGHT_MAX: usize = 1_024;

/// Why a node does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Descriptors.
    #[error(transparent)]
    Trust(#[from] TrustError),
    /// Certificates.
    #[error(transparent)]
    Certificate(#[from] RotateError),
    /// The data directory.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// Consensus.
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    /// The custodian's keys and policies.
    #[error(transparent)]
    Custodian(#[from] OpenProblem),
    /// A recovery without a majority.
    #[error(transparent)]
    Recover(#[from] RecoverError),
    /// The policy file.
    #[error(transparent)]
    Policies(#[from] PoliciesError),
    /// A socket.
    #[error(
        "cannot listen on {address} ({plane} plane): {source}; free the port, or change listen.{plane}"
    )]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Which plane.
        plane: &'static str,
        /// What the system said.
        source: std::io::Error,
    },
    /// The home's memory for keys.
    #[error("no memory for leased keys: {0}")]
    Memory(std::io::Error),
    /// Configuration and certificates or descriptors speak of different nodes.
    #[error("{0}")]
    Mismatch(String),
}

/// What a node does besides consensus.
#[derive(Clone)]
pub(crate) enum Role {
    Home(Arc<Home>),
    Custodian(Custodian),
}

/// What operator and health planes look at.
pub(crate) struct Core {
    pub(crate) config: Config,
    pub(crate) cluster: Cluster,
    pub(crate) certs: Arc<CertSource>,
    pub(crate) role: Role,
    peers: PeerClient,
}

/// A running node.
pub struct Node {
    core: Arc<Core>,
    planes: Vec<Running>,
    peer_stop: CancellationToken,
    peer_task: tokio::task::JoinHandle<()>,
    tasks: Vec<tokio::task::JoinHandle<()>>,
    storage: Storage,
}

impl Node {
    /// Starts everything `config` says. When this returns, the node serves its
    /// planes; `/readyz` says when it should get traffic.
    ///
    /// # Errors
    /// [`StartError`], naming what, where and what to do.
    pub async fn start(config: Config) -> Result<Self, StartError> {
        crate::metrics::handle();
        let trust = TrustStore::load(&config.trust.own, &config.trust.dir)?;
        let certs = CertSource::load("peer", &config.tls.cert, &config.tls.key)?;
        check_names(&config, &trust, &certs)?;
        let storage = open_storage(&config)?;
        let server = PeerServer::new(trust.clone(), certs.clone(), ServerOptions::default());
        let options = PeerClientOptions {
            in_flight_max: config.limits.peer_in_flight_max,
        };
        let client = PeerClient::new(trust.clone(), certs.clone(), options);
        let listener = TcpListener::bind(config.listen.peer)
            .await
            .map_err(|source| StartError::Listen {
                address: config.listen.peer,
                plane: "peer",
                source,
            })?;
        let machine = machine(trust.own())?;
        let mut groups = Vec::new();
        for id in 0..config.groups() {
            groups.push((id, storage.group(id, machine.clone())?));
        }
        let cluster =
            Cluster::start(ClusterOptions::of(&config), groups, client.clone(), &server).await?;
        let stop = CancellationToken::new();
        let role = match config.role {
            ClusterRole::Custodian => Role::Custodian(Custodian::open(
                &config,
                &cluster,
                client.clone(),
                &server,
                stop.clone(),
            )?),
            ClusterRole::Home => {
                let peers = client.clone();
                Role::Home(start_home(&config, &trust, &cluster, peers, &server)?)
            }
            ClusterRole::Authority => return Err(no_node(&config.cluster)),
        };
        let peer_task = server.serve(listener, stop.clone());
        let mut tasks = vec![
            certs.watch(config.limits.cert_warn_days),
            watch_trust(trust.clone()),
        ];
        let core = Arc::new(Core {
            config,
            cluster,
            certs: certs.clone(),
            role,
            peers: client,
        });
        let planes = start_planes(&core, &trust, &certs, &mut tasks).await?;
        tracing::info!(role = %core.config.role, cluster = core.config.cluster, node = core.config.node, "started");
        Ok(Self {
            core,
            planes,
            peer_stop: stop,
            peer_task,
            tasks,
            storage,
        })
    }

    /// The home on this node, if it is one.
    pub fn home(&self) -> Option<&Arc<Home>> {
        match &self.core.role {
            Role::Home(home) => Some(home),
            Role::Custodian(_) => None,
        }
    }

    /// The custodian on this node, if it is one.
    pub fn custodian(&self) -> Option<&Custodian> {
        match &self.core.role {
            Role::Custodian(custodian) => Some(custodian),
            Role::Home(_) => None,
        }
    }

    /// How it calls other nodes.
    pub fn peers(&self) -> &PeerClient {
        &self.core.peers
    }

    /// Its raft groups.
    pub fn cluster(&self) -> &Cluster {
        &self.core.cluster
    }

    /// Why it should not get traffic yet; empty when it is ready.
    pub fn not_ready(&self) -> Vec<String> {
        health::not_ready(&self.core)
    }

    /// Stops in order: requests end, leases are wiped, leaders handed over, storage closed.
    ///
    /// # Errors
    /// When the storage could not be closed cleanly; what was acknowledged is durable all the same.
    pub async fn shutdown(self) -> Result<(), StorageError> {
        futures::future::join_all(self.planes.into_iter().map(Running::stop)).await;
        if let Role::Home(home) = &self.core.role {
            home.shutdown().await;
        }
        self.core.cluster.shutdown().await;
        self.peer_stop.cancel();
        // An aborted accept loop has ended, too.
        let _ = self.peer_task.await;
        for task in self.tasks {
            task.abort();
        }
        self.storage.close()
    }
}

/// The machine that understands the commands of a cluster's groups.
///
/// # Errors
/// [`StartError::Mismatch`] when a custodian's descriptor has no usable name.
pub fn machine(own: &Descriptor) -> Result<Arc<dyn Machine>, StartError> {
    Ok(match own.role {
        ClusterRole::Home => Arc::new(HomeMachine),
        ClusterRole::Custodian => Arc::new(custodian::machine(own)?),
        ClusterRole::Authority => return Err(no_node(&own.id)),
    })
}

fn no_node(authority: &str) -> StartError {
    StartError::Mismatch(format!(
        "{authority} is an identity authority, which runs no node; use `quorate identity`"
    ))
}

/// Opens the data directory as `config` says.
///
/// # Errors
/// [`StorageError`].
pub fn open_storage(config: &Config) -> Result<Storage, StorageError> {
    let store = match config.store.kind {
        ConfiguredStore::Redb => StoreKind::Redb,
        ConfiguredStore::Sled => StoreKind::Sled,
        ConfiguredStore::Memory => StoreKind::Memory,
    };
    let options = StorageOptions {
        store,
        groups: config.groups() as usize,
        ..StorageOptions::default()
    };
    Storage::open(&config.data_dir, options)
}

/// Makes this stopped node the only member of its cluster, after a majority is lost for good.
/// What the others acknowledged without it is lost; `status` says so ever after.
///
/// # Errors
/// [`StartError`]; repeating it is safe.
pub async fn recover_alone(config: &Config) -> Result<Recovered, StartError> {
    let trust = TrustStore::load(&config.trust.own, &config.trust.dir)?;
    let machine = machine(trust.own())?;
    let storage = open_storage(config)?;
    let groups: Vec<_> = (0..config.groups()).collect();
    let address = trust.own().endpoints.get(&config.node).cloned();
    let address = address.ok_or_else(|| {
        let (node, cluster) = (config.node, &config.cluster);
        StartError::Mismatch(format!("the descriptor of {cluster} names no node {node}"))
    })?;
    let each = |_| machine.clone();
    let dir = &config.data_dir;
    let done = recover::recover(dir, &storage, &groups, each, config.node, &address).await?;
    storage.close()?;
    Ok(done)
}

fn check_names(config: &Config, trust: &TrustStore, certs: &CertSource) -> Result<(), StartError> {
    let (own, who) = (trust.own(), certs.identity());
    let said = (config.deployment, config.cluster.as_str(), config.role);
    if (own.deployment, own.id.as_str(), own.role) != said {
        return Err(StartError::Mismatch(format!(
            "the configuration says {} {} of deployment {}, its descriptor says {} {} of {}; use the descriptor `init` made for it",
            config.role, config.cluster, config.deployment, own.role, own.id, own.deployment
        )));
    }
    let said = (
        config.deployment,
        CertRole::from(config.role),
        config.cluster.as_str(),
        config.node,
    );
    if (who.deployment, who.role, who.cluster.as_str(), who.node) != said {
        return Err(StartError::Mismatch(format!(
            "{} is the certificate of {}, the configuration is of {} node {}; use this node's own certificate",
            config.tls.cert.display(),
            who.uri(),
            config.cluster,
            config.node
        )));
    }
    Ok(())
}

fn watch_trust(trust: Arc<TrustStore>) -> tokio::task::JoinHandle<()> {
    tokio::spawn(async move {
        loop {
            tokio::time::sleep(TRUST_POLL).await;
            match trust.reload() {
                Ok(true) => tracing::info!("descriptors were taken from the trust directory"),
                Ok(false) => {}
                Err(e) => tracing::error!("the trust directory is not taken over: {e}"),
            }
        }
    })
}

fn name<T>(parsed: Result<T, quorate_engine::types::ids::IdError>) -> Result<T, StartError> {
    parsed.map_err(|e| StartError::Mismatch(e.to_string()))
}

fn start_home(
    config: &Config,
    trust: &TrustStore,
    cluster: &Cluster,
    client: PeerClient,
    server: &PeerServer,
) -> Result<Arc<Home>, StartError> {
    let named = policies::of_home(config, trust)?;
    let options = config.home.clone().unwrap_or_default();
    let home = Home::start(
        HomeConfig {
            deployment: config.deployment,
            home: name(HomeId::new(&config.cluster))?,
            node: config.node,
            nodes: trust.own().endpoints.keys().copied().collect(),
            policy_text: named.in_words(),
            policy: named.policy,
            margins: named.margins,
            leases: LeaseLimits {
                max: options.lease_count_max,
                age_ms_max: u64::try_from(options.lease_age_max().as_millis()).unwrap_or(u64::MAX),
            },
            thin_wait_ms: options.thin_wait_ms,
        },
        cluster
            .groups()
            .into_iter()
            .map(|g| Arc::new(g) as _)
            .collect(),
        Arc::new(client),
    )
    .map_err(StartError::Memory)?;
    server.register(
        services::HOME,
        Allow::SameCluster,
        HOME_IN_FLIGHT_MAX,
        home.clone(),
    );
    Ok(home)
}

async fn start_planes(
    core: &Arc<Core>,
    trust: &Arc<TrustStore>,
    certs: &Arc<CertSource>,
    tasks: &mut Vec<tokio::task::JoinHandle<()>>,
) -> Result<Vec<Running>, StartError> {
    let listen = &core.config.listen;
    let failed = |plane, address| {
        move |source| StartError::Listen {
            address,
            plane,
            source,
        }
    };
    let fixed = |config: Arc<rustls::ServerConfig>| tokio::sync::watch::channel(config).1;
    let limits = ServeLimits::default();
    let health = health_plane::router(Arc::new(health::Health(core.clone())));
    let mut out = vec![
        serve::spawn(listen.health, None, health, limits)
            .await
            .map_err(failed("health", listen.health))?,
    ];
    let own = OwnCluster {
        deployment: core.config.deployment,
        cluster: core.config.cluster.clone(),
    };
    let router = operator_plane::router(Arc::new(operator::Operations(core.clone())), own);
    let tls = fixed(tls::operator_server(trust, certs));
    out.push(
        serve::spawn(listen.operator, Some(tls), router, limits)
            .await
            .map_err(failed("operator", listen.operator))?,
    );
    if let (Role::Custodian(custodian), Some(address)) = (&core.role, listen.registry) {
        let router = registry_plane::router(Arc::new(custodian.clone()), core.config.deployment);
        let tls = fixed(tls::registry_server(trust, certs));
        out.push(
            serve::spawn(address, Some(tls), router, limits)
                .await
                .map_err(failed("registry", address))?,
        );
    }
    if let (Role::Custodian(custodian), Some(address)) = (&core.role, listen.audit) {
        let router = audit_plane::router(Arc::new(custodian.clone()));
        let tls = fixed(tls::audit_server(certs));
        out.push(
            serve::spawn(address, Some(tls), router, limits)
                .await
                .map_err(failed("audit", address))?,
        );
    }
    if let (Role::Home(home), Some(address)) = (&core.role, listen.client) {
        let (Some(cert), Some(key)) = (&core.config.tls.client_cert, &core.config.tls.client_key)
        else {
            return Err(StartError::Mismatch(
                "tls.client_cert and tls.client_key are missing".into(),
            ));
        };
        let source = CertSource::load("client plane", cert, key)?;
        tasks.push(source.watch(core.config.limits.cert_warn_days));
        let most = crate::http::envelope::Limits {
            requests_max: core.config.limits.client_in_flight_max,
            ..crate::http::envelope::Limits::default()
        };
        let router = client_plane::router_with(home.clone(), most);
        let tls = fixed(tls::client_plane_server(&source));
        out.push(
            serve::spawn(address, Some(tls), router, limits)
                .await
                .map_err(failed("client", address))?,
        );
    }
    Ok(out)
}
