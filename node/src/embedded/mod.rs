//! The embedded deployment: every node of every entity in one process, for trying out.
//!
//! Real TLS over loopback, real raft, real files; only the separation of
//! entities is missing, because one hand made all the keys. It says so.

pub mod layout;
pub mod liar;
pub mod topology;

use crate::config::{Config, ConfigError};
use crate::custodian::log_key;
use crate::peer::server::ServerOptions;
use crate::peer::{Allow, PeerServer, services};
use crate::pki::{CertSource, TrustStore};
use crate::server::{Node, StartError};
use layout::{Layout, NodeLayout};
use liar::Liar;
use quorate_engine::types::{CustodianId, PolicyId};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

/// How often a start looks whether its nodes are ready.
const READY_POLL: Duration = Duration::from_millis(100);

/// Where nobody listens.
const NOWHERE: &str = "127.0.0.1:1";

/// Why an embedded deployment is not where it was asked to be.
#[derive(Debug, thiserror::Error)]
pub enum EmbeddedError {
    /// A node's configuration.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A node does not start.
    #[error("{cluster} node {node}: {source}")]
    Start {
        /// Its cluster.
        cluster: String,
        /// Its id.
        node: u64,
        /// Why.
        source: Box<StartError>,
    },
    /// It started and did not become ready.
    #[error("not ready after {seconds} s: {reasons}")]
    NotReady {
        /// How long it was waited for.
        seconds: u64,
        /// What each node still waits for.
        reasons: String,
    },
    /// No such cluster.
    #[error("there is no cluster {0} in this deployment")]
    NoCluster(String),
}

/// A deployment with the nodes of it that run in this process.
pub struct Embedded {
    /// Where everything is.
    pub layout: Layout,
    nodes: BTreeMap<(String, u64), Node>,
    liars: BTreeMap<String, Vec<(Arc<Liar>, CancellationToken)>>,
}

impl Embedded {
    /// Starts every node of `layout`.
    ///
    /// # Errors
    /// [`EmbeddedError`]; what was started is stopped again.
    pub async fn start(layout: Layout) -> Result<Self, EmbeddedError> {
        let mut out = Self {
            layout,
            nodes: BTreeMap::new(),
            liars: BTreeMap::new(),
        };
        let names: Vec<String> = out.layout.clusters.iter().map(|c| c.name.clone()).collect();
        for name in names {
            if let Err(e) = out.start_cluster(&name).await {
                out.shutdown().await;
                return Err(e);
            }
        }
        Ok(out)
    }

    fn cluster_nodes(&self, cluster: &str) -> Result<Vec<NodeLayout>, EmbeddedError> {
        let found = self.layout.cluster(cluster).map(|c| c.nodes.clone());
        found.ok_or_else(|| EmbeddedError::NoCluster(cluster.to_owned()))
    }

    /// Starts the nodes of one cluster that do not run.
    ///
    /// # Errors
    /// [`EmbeddedError`].
    pub async fn start_cluster(&mut self, cluster: &str) -> Result<(), EmbeddedError> {
        for node in self.cluster_nodes(cluster)? {
            let key = (cluster.to_owned(), node.id);
            if self.nodes.contains_key(&key) {
                continue;
            }
            let started = Node::start(Config::load(&node.config)?)
                .await
                .map_err(|source| EmbeddedError::Start {
                    cluster: key.0.clone(),
                    node: key.1,
                    source: Box::new(source),
                })?;
            self.nodes.insert(key, started);
        }
        Ok(())
    }

    /// Stops one cluster's nodes, all at once.
    pub async fn stop_cluster(&mut self, cluster: &str) {
        let keys: Vec<_> = self
            .nodes
            .keys()
            .filter(|k| k.0 == cluster)
            .cloned()
            .collect();
        let nodes: Vec<_> = keys.iter().filter_map(|k| self.nodes.remove(k)).collect();
        stop_all(nodes).await;
    }

    /// Waits until every running node is ready.
    ///
    /// # Errors
    /// [`EmbeddedError::NotReady`] with what each node waits for.
    pub async fn wait_ready(&self, limit: Duration) -> Result<(), EmbeddedError> {
        let until = Instant::now() + limit;
        loop {
            let waiting: Vec<String> = self
                .nodes
                .iter()
                .filter_map(|((c, n), node)| {
                    let reasons = node.not_ready();
                    (!reasons.is_empty()).then(|| format!("{c}/{n}: {}", reasons.join(", ")))
                })
                .collect();
            if waiting.is_empty() {
                return Ok(());
            }
            if Instant::now() > until {
                return Err(EmbeddedError::NotReady {
                    seconds: limit.as_secs(),
                    reasons: waiting.join("; "),
                });
            }
            tokio::time::sleep(READY_POLL).await;
        }
    }

    /// Puts a liar in the place of a custodian, whose nodes must be stopped: it
    /// answers every release with shares it makes up, under the real name.
    ///
    /// # Errors
    /// [`EmbeddedError`].
    pub async fn start_liar(
        &mut self,
        custodian: &str,
        policy: PolicyId,
    ) -> Result<(), EmbeddedError> {
        for node in self.cluster_nodes(custodian)? {
            let failed = |source: StartError| EmbeddedError::Start {
                cluster: custodian.to_owned(),
                node: node.id,
                source: Box::new(source),
            };
            let config = Config::load(&node.config)?;
            let trust = TrustStore::load(&config.trust.own, &config.trust.dir)
                .map_err(|e| failed(e.into()))?;
            let certs = CertSource::load("peer", &config.tls.cert, &config.tls.key)
                .map_err(|e| failed(e.into()))?;
            let id = CustodianId::new(custodian)
                .map_err(|e| failed(StartError::Mismatch(e.to_string())))?;
            let log_key = log_key(&config, trust.own()).map_err(|e| failed(e.into()))?;
            let liar = Arc::new(Liar::new(config.deployment, id, policy, log_key));
            let server = PeerServer::new(trust, certs, ServerOptions::default());
            server.register(services::CUSTODIAN, Allow::Homes, 64, liar.clone());
            let listener = tokio::net::TcpListener::bind(config.listen.peer)
                .await
                .map_err(|source| {
                    failed(StartError::Listen {
                        address: config.listen.peer,
                        plane: "peer",
                        source,
                    })
                })?;
            let stop = CancellationToken::new();
            server.serve(listener, stop.clone());
            self.liars
                .entry(custodian.to_owned())
                .or_default()
                .push((liar, stop));
        }
        Ok(())
    }

    /// Ends the liar in a custodian's place; how many false shares it told.
    pub async fn stop_liar(&mut self, custodian: &str) -> u64 {
        let mut told = 0;
        for (liar, stop) in self.liars.remove(custodian).unwrap_or_default() {
            stop.cancel();
            told += liar.told();
        }
        // The listener's socket is free once its task has seen the stop.
        tokio::time::sleep(READY_POLL).await;
        told
    }

    /// From now on nothing that nodes of `from` ask reaches nodes of `to`; what is open between
    /// them is closed. Ends with [`Self::mend`], or when `from` is started anew.
    ///
    /// # Errors
    /// [`EmbeddedError::NoCluster`].
    pub fn cut(&self, from: &str, to: &str) -> Result<(), EmbeddedError> {
        self.dial(from, to, |_| NOWHERE.to_owned())
    }

    /// Ends what [`Self::cut`] began.
    ///
    /// # Errors
    /// As [`Self::cut`].
    pub fn mend(&self, from: &str, to: &str) -> Result<(), EmbeddedError> {
        self.dial(from, to, |node| node.peer.to_string())
    }

    fn dial(
        &self,
        from: &str,
        to: &str,
        address: impl Fn(&NodeLayout) -> String,
    ) -> Result<(), EmbeddedError> {
        let there = self.cluster_nodes(to)?;
        for node in self.cluster_nodes(from)? {
            let Some(running) = self.node(from, node.id) else {
                continue;
            };
            for at in &there {
                let target = running.peers().target(to, at.id);
                let target = target.ok_or_else(|| EmbeddedError::NoCluster(to.to_owned()))?;
                running.peers().set_address(target, address(at));
            }
        }
        Ok(())
    }

    /// A running node.
    pub fn node(&self, cluster: &str, node: u64) -> Option<&Node> {
        self.nodes.get(&(cluster.to_owned(), node))
    }

    /// Stops everything, in order: homes first, so that no lease outlives the custodians' watch.
    pub async fn shutdown(mut self) {
        for (_, liars) in std::mem::take(&mut self.liars) {
            liars.iter().for_each(|(_, stop)| stop.cancel());
        }
        let home = self.layout.home().name.clone();
        self.stop_cluster(&home).await;
        stop_all(std::mem::take(&mut self.nodes).into_values().collect()).await;
    }
}

async fn stop_all(nodes: Vec<Node>) {
    for result in futures::future::join_all(nodes.into_iter().map(Node::shutdown)).await {
        if let Err(e) = result {
            tracing::warn!("a node did not close cleanly: {e}");
        }
    }
}
