//! A custodian from a node's configuration.

use super::{
    ClusterPeers, Custodian, CustodianOptions, EXCHANGE_EVERY, EXCHANGE_IN_FLIGHT_MAX,
    GroupConsensus, HOME_IN_FLIGHT_MAX, INTERNAL_IN_FLIGHT_MAX, Neighbour, Neighbours, Parts,
    SigningKeys, Vault, VaultProblem, Webhook, WebhookProblem, own_provider, system_clock, webhook,
};
use crate::config::{ClusterRole, Config};
use crate::grants::GrantMemory;
use crate::peer::{Allow, PeerClient, PeerServer, PeerTarget, services};
use crate::pki::files::{self, FileError};
use crate::pki::{Descriptor, TrustStore};
use crate::raft::cluster::Cluster;
use futures::future::BoxFuture;
use quorate_engine::authz::envelope::Envelope;
use quorate_engine::authz::identity::AuthorityRecord;
use quorate_engine::crypto::sign::SigningKey;
use quorate_engine::custody::{Custody, Place};
use quorate_engine::policy::{CustodianFacts, Facts, LoadError, load};
use quorate_engine::types::{CustodianId, HomeId, NodeId};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// A custodian's one raft group.
pub const GROUP: crate::raft::GroupId = 0;

/// Why a node's configuration does not make a custodian.
#[derive(Debug, thiserror::Error)]
pub enum OpenProblem {
    /// A key file.
    #[error(transparent)]
    File(#[from] FileError),
    /// The key versions.
    #[error(transparent)]
    Vault(#[from] VaultProblem),
    /// The own descriptor is no custodian's.
    #[error("descriptor of {0}: not a custodian's; this node's role must be `custodian`")]
    NotCustodian(String),
    /// A key that signs is not configured.
    #[error("{0}: missing; name the key file that `custodian init` made")]
    NoKey(&'static str),
    /// A key that signs is not the one others verify with.
    #[error(
        "{path}: not the log key in this custodian's descriptor; use the file `custodian init` made with it"
    )]
    OtherKey {
        /// The file.
        path: PathBuf,
    },
    /// The policy file.
    #[error("{path}: {source}")]
    Policy {
        /// The file.
        path: PathBuf,
        /// Why it is refused.
        source: LoadError,
    },
    /// Whom to tell of orders.
    #[error(transparent)]
    Webhook(#[from] WebhookProblem),
    /// The cluster runs no custodian's group.
    #[error("raft group {GROUP} does not run on this node")]
    NoGroup,
}

/// The state machine of the custodian that `own` describes; equal on all its nodes.
///
/// # Errors
/// [`OpenProblem::NotCustodian`].
pub fn machine(own: &Descriptor) -> Result<Custody, OpenProblem> {
    let machine = Custody::new(custodian(own)?, own.identity_hash()).serving(own.deployment);
    Ok(machine.with_known_grants(Arc::new(GrantMemory::default())))
}

fn custodian(own: &Descriptor) -> Result<CustodianId, OpenProblem> {
    own.custodian()
        .ok_or_else(|| OpenProblem::NotCustodian(own.id.clone()))
}

impl Custodian {
    /// Opens keys and vault, starts the custodian over `cluster`'s group, and
    /// registers its services with `server`.
    ///
    /// # Errors
    /// [`OpenProblem`].
    pub fn open(
        config: &Config,
        cluster: &Cluster,
        client: PeerClient,
        server: &PeerServer,
        stop: CancellationToken,
    ) -> Result<Self, OpenProblem> {
        let trust = client.trust().clone();
        let own = trust.own();
        let place = Place {
            deployment: config.deployment,
            custodian: custodian(own)?,
        };
        let signing = SigningKeys {
            log: log_key(config, own)?,
        };
        files::make_dir(&config.data_dir)?;
        let mut vault = Vault::load(&config.data_dir, &place, config.node)?;
        let provider = own_provider(config);
        let open = match &provider {
            Some(provider) => vault.open_by(&**provider)?,
            None => false,
        };
        if !open {
            tracing::warn!("this node starts locked: unlock it with `quorate custodian unlock`");
        }
        let group = cluster.group(GROUP).ok_or(OpenProblem::NoGroup)?;
        // Not a strong handle: the custodian's tasks must not keep a stopped cluster alive.
        let (to_hand, of) = (group.clone(), cluster.downgrade());
        let hand_over = move || -> futures::future::BoxFuture<'static, ()> {
            let (group, cluster) = (to_hand.clone(), of.clone());
            Box::pin(async move {
                if let Some(cluster) = cluster.upgrade() {
                    cluster.hand_over(&group).await;
                }
            })
        };
        let rotation = config.keys.rotation.unwrap_or_default();
        let hours = |h: u64| Duration::from_secs(h * 60 * 60);
        let options = CustodianOptions {
            policies: policies(config, &trust)?,
            sealing_rotate: hours(rotation.sealing_h),
            wrapping_rotate: hours(24 * rotation.wrapping_days),
            // A tick is a second.
            rewraps_per_tick: rotation.rewraps_s_max,
            ..CustodianOptions::default()
        };
        let neighbours = TrustedNeighbours(client.clone());
        let homes = move || {
            let all = trust.of_role(ClusterRole::Home);
            all.iter().filter_map(|d| HomeId::new(&d.id).ok()).collect()
        };
        let told = config.webhook.as_ref().map(Webhook::of).transpose()?;
        let stopped = stop.clone();
        let custodian = Self::start(
            Parts {
                place,
                signing,
                consensus: Arc::new(GroupConsensus::new(group, hand_over)),
                peers: Arc::new(ClusterPeers(client)),
                homes: Arc::new(homes),
                neighbours: Arc::new(neighbours),
                clock: system_clock(),
                vault,
                provider,
                options,
            },
            stop,
        );
        custodian.register(server);
        if let Some(told) = told {
            tokio::spawn(webhook::run(custodian.clone(), Arc::new(told), stopped));
        }
        Ok(custodian)
    }

    /// Registers what homes and the other nodes ask.
    pub fn register(&self, server: &PeerServer) {
        server.register(
            services::CUSTODIAN,
            Allow::Homes,
            HOME_IN_FLIGHT_MAX,
            self.home_service(),
        );
        server.register(
            services::CUSTODIAN_INTERNAL,
            Allow::SameCluster,
            INTERNAL_IN_FLIGHT_MAX,
            self.internal_service(),
        );
        server.register(
            services::CUSTODIAN_EXCHANGE,
            Allow::Custodians,
            EXCHANGE_IN_FLIGHT_MAX,
            self.exchange_service(),
        );
    }
}

/// What this node's trust directory says, and the peer plane.
struct TrustedNeighbours(PeerClient);

impl Neighbours for TrustedNeighbours {
    fn homes(&self) -> BTreeMap<HomeId, String> {
        let all = self.0.trust().of_role(ClusterRole::Home);
        let one = |d: &Arc<Descriptor>| Some((HomeId::new(&d.id).ok()?, d.legal_entity.clone()));
        all.iter().filter_map(one).collect()
    }
    fn authorities(&self) -> Vec<(AuthorityRecord, Vec<Envelope>)> {
        self.0.trust().authorities()
    }
    fn custodians(&self) -> Vec<Neighbour> {
        let own = &self.0.trust().own().id;
        let all = self.0.trust().custodians().into_iter();
        all.filter(|(id, _)| id.as_str() != own)
            .map(|(id, d)| Neighbour {
                id,
                nodes: d.endpoints.keys().copied().collect(),
            })
            .collect()
    }
    fn call<'a>(
        &'a self,
        custodian: &'a CustodianId,
        node: NodeId,
        body: Vec<u8>,
    ) -> BoxFuture<'a, Result<Vec<u8>, String>> {
        Box::pin(async move {
            let to = PeerTarget {
                role: ClusterRole::Custodian,
                cluster: custodian.to_string(),
                node,
            };
            let service = services::CUSTODIAN_EXCHANGE;
            let call = self.0.call(&to, service, body, EXCHANGE_EVERY);
            call.await.map_err(|e| e.to_string())
        })
    }
}

/// The key that signs receipts and sealing-key statements; it must be the one in `own`.
///
/// # Errors
/// [`OpenProblem`] naming the key or its file.
pub fn log_key(config: &Config, own: &Descriptor) -> Result<SigningKey, OpenProblem> {
    let path = config.keys.log_key.as_deref();
    let path = path.ok_or(OpenProblem::NoKey("keys.log_key"))?;
    let key = SigningKey::from_seed(&files::read_secret32(path)?);
    if own.log_key.map(|k| k.0) != Some(key.public()) {
        return Err(OpenProblem::OtherKey {
            path: path.to_owned(),
        });
    }
    Ok(key)
}

/// The canonical policies this custodian's operators put into its policy file;
/// none when there is no such file. Judged for every known home, and only
/// those that name this custodian.
///
/// # Errors
/// [`OpenProblem`] when the file is there and refused.
pub fn policies(config: &Config, trust: &TrustStore) -> Result<Vec<Vec<u8>>, OpenProblem> {
    let Some(path) = config.trust.policy.as_deref().filter(|p| p.exists()) else {
        return Ok(Vec::new());
    };
    let own = custodian(trust.own())?;
    let text = String::from_utf8_lossy(&files::read(path)?).into_owned();
    let mut out = Vec::new();
    for home in trust.of_role(ClusterRole::Home) {
        let file = load(&text, &facts(trust, &home)).map_err(|source| OpenProblem::Policy {
            path: path.to_owned(),
            source,
        })?;
        for named in file.policies.values() {
            let canonical = named.policy.canonical();
            if named.policy.identities().contains_key(&own) && !out.contains(&canonical) {
                out.push(canonical);
            }
        }
    }
    Ok(out)
}

/// What the believed descriptors say, as seen by `home`.
pub fn facts(trust: &TrustStore, home: &Descriptor) -> Facts {
    let one = |(id, d): (CustodianId, Arc<Descriptor>)| {
        let filled = |s: &String| Some(s.clone()).filter(|s| !s.is_empty());
        let facts = CustodianFacts {
            jurisdiction: d.jurisdiction.clone(),
            entity: d.legal_entity.clone(),
            identity: d.identity_hash(),
            provider: filled(&d.provider),
            network: filled(&d.network),
        };
        (id, facts)
    };
    Facts {
        home_jurisdiction: home.jurisdiction.clone(),
        home_entity: home.legal_entity.clone(),
        custodians: trust.custodians().into_iter().map(one).collect(),
    }
}
