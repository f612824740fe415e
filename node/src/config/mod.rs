//! A node's configuration: one TOML file, format 1.
//!
//! Unknown keys are refused with the key's name and place, because a misspelt
//! limit that is silently ignored is a limit that is not there. Relative paths
//! are resolved against the directory of the file itself, so that a node's
//! directory can be moved as a whole.

mod check;
mod example;

pub use check::Problem;
pub use example::{example_custodian, example_home};

use quorate_engine::custody::protocol::KEYS_PER_REQUEST_MAX;
use quorate_engine::types::{DeploymentId, NodeId};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The configuration format this build reads.
pub const CONFIG_FORMAT: u32 = 1;
/// A configuration file longer than this is not one.
pub const CONFIG_BYTES_MAX: u64 = 1 << 20;
/// Most nodes one cluster may list.
pub const CLUSTER_NODES_MAX: usize = 15;
/// Most shards a home may have: every shard is a full raft instance.
pub const SHARDS_MAX: u32 = 64;

/// Why a configuration is not usable.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("config {path}: cannot be read: {source}; pass the right file with --config")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Not TOML, an unknown key, or a value of the wrong type. The message carries line and column.
    #[error("config {path}: {message}")]
    Parse {
        /// The file.
        path: PathBuf,
        /// What and where.
        message: String,
    },
    /// Each value is well formed, but they do not make a node.
    #[error("config {path}: {}", list(.problems))]
    Invalid {
        /// The file.
        path: PathBuf,
        /// Everything that is wrong, not only the first.
        problems: Vec<Problem>,
    },
}

fn list(problems: &[Problem]) -> String {
    let lines: Vec<String> = problems.iter().map(ToString::to_string).collect();
    lines.join("; ")
}

/// What an entity runs, and so what its nodes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ClusterRole {
    /// Stores ciphertext.
    Home,
    /// Stores shares.
    Custodian,
    /// Attests people: an identity authority. It runs no node, so no configuration has this role.
    Authority,
}

impl ClusterRole {
    /// As written in configurations, certificates and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Home => "home",
            Self::Custodian => "custodian",
            Self::Authority => "authority",
        }
    }
}

impl std::fmt::Display for ClusterRole {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Which store keeps replicated state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StoreKind {
    /// The default: exact at its sync point under power cuts.
    #[default]
    Redb,
    /// Selectable; wiped and rebuilt after an unclean stop.
    Sled,
    /// Nothing survives the process. For tests and trying out.
    Memory,
}

/// The whole file.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Format of this file; [`CONFIG_FORMAT`].
    pub format: u32,
    /// What this node's cluster is.
    pub role: ClusterRole,
    /// The deployment all its clusters belong to.
    pub deployment: DeploymentId,
    /// This node's cluster, as its descriptor names it.
    pub cluster: String,
    /// This node's id in it; never reused.
    pub node: NodeId,
    /// Where log and state live.
    pub data_dir: PathBuf,
    /// Sockets.
    pub listen: Listen,
    /// Certificates.
    pub tls: Tls,
    /// Key provider.
    pub keys: Keys,
    /// Whom this node believes.
    pub trust: Trust,
    /// The cluster's nodes when it is first started; later the raft membership is what counts.
    #[serde(default)]
    pub nodes: Vec<ClusterNode>,
    /// The store of replicated state.
    #[serde(default)]
    pub store: Store,
    /// Consensus.
    #[serde(default)]
    pub raft: RaftOptions,
    /// Home only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub home: Option<HomeOptions>,
    /// Whom to tell of orders that wait; custodian only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub webhook: Option<Webhook>,
    /// Limits.
    #[serde(default)]
    pub limits: Limits,
}

/// An address of the officers' own, told that a disclosure order waits for them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Webhook {
    /// `https://HOST[:PORT]/PATH`.
    pub url: String,
    /// PEM file with the CA its certificate is of.
    pub ca: PathBuf,
}

/// Addresses to listen on, `addr:port`. Port 0 takes any free one (tests).
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Listen {
    /// Peer plane: raft, home to custodian.
    pub peer: SocketAddr,
    /// Client plane; home only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client: Option<SocketAddr>,
    /// Registry plane, for identity authorities; custodian only, and none speaks to it when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub registry: Option<SocketAddr>,
    /// Audit plane, for everybody who checks the log; custodian only, and nothing is published when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub audit: Option<SocketAddr>,
    /// Operator plane.
    pub operator: SocketAddr,
    /// Health and metrics, plain HTTP: bind it to a private address.
    pub health: SocketAddr,
}

/// Certificates and keys, PEM. Watched: replacing the files rotates them.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tls {
    /// This node's peer certificate, chain included.
    pub cert: PathBuf,
    /// Its key.
    pub key: PathBuf,
    /// The cluster's own CA certificate.
    pub ca: PathBuf,
    /// Server certificate of the client plane; home only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_cert: Option<PathBuf>,
    /// Its key; home only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_key: Option<PathBuf>,
}

/// Where the node's own keys come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum KeyProvider {
    /// A file with 32 random bytes, hex, mode 0600: for development. Whoever has the disk has the keys.
    KeyFile,
    /// A person's passphrase: the node starts locked.
    Passphrase,
    /// Several persons' shares: the node starts locked.
    Shares,
    /// An AES key on a PKCS#11 token.
    Pkcs11,
}

impl KeyProvider {
    /// As written in the configuration.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::KeyFile => "key-file",
            Self::Passphrase => "passphrase",
            Self::Shares => "shares",
            Self::Pkcs11 => "pkcs11",
        }
    }
}

/// A PKCS#11 token.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pkcs11 {
    /// The token maker's library.
    pub module: PathBuf,
    /// The token's label.
    pub token: String,
    /// The label of its AES key, at most 64 bytes; made on the token when there is none.
    pub key: String,
    /// The file with the user PIN, mode 0600.
    pub pin_file: PathBuf,
}

/// The key provider and the keys it opens.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Keys {
    /// Which provider.
    pub provider: KeyProvider,
    /// The file of `key-file`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_file: Option<PathBuf>,
    /// The token of `pkcs11`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pkcs11: Option<Pkcs11>,
    /// The key that signs receipts and checkpoints; custodian only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log_key: Option<PathBuf>,
    /// The key that cosigns other custodians' checkpoints; custodian only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub witness_key: Option<PathBuf>,
    /// When key versions follow each other; custodian only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rotation: Option<Rotation>,
}

/// When a custodian's key versions follow each other. What its leader has written counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Rotation {
    /// A sealing version is followed by the next after so many hours.
    pub sealing_h: u64,
    /// A wrapping version is followed by the next after so many days.
    pub wrapping_days: u64,
    /// Most shares that are wrapped anew in a second.
    pub rewraps_s_max: usize,
}

impl Default for Rotation {
    fn default() -> Self {
        Self {
            sealing_h: 24,
            wrapping_days: 30,
            rewraps_s_max: KEYS_PER_REQUEST_MAX,
        }
    }
}

/// Whom this node believes, and for what.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Trust {
    /// This cluster's own descriptor.
    pub own: PathBuf,
    /// Directory of other clusters' descriptors (`*.json`), added after comparing fingerprints.
    pub dir: PathBuf,
    /// Policies and declared blocs; required at a home. At a custodian: the policies its operators
    /// approve, if this file is there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<PathBuf>,
}

/// One node of the own cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClusterNode {
    /// Its id.
    pub id: NodeId,
    /// Its peer address, `host:port`.
    pub peer: String,
}

/// The store of replicated state.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Store {
    /// Which one.
    #[serde(default)]
    pub kind: StoreKind,
}

/// Consensus timing. The defaults suit clusters in one building on busy machines.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RaftOptions {
    /// Leader's heartbeat, ms.
    pub heartbeat_ms: u64,
    /// Shortest election timeout, ms.
    pub election_ms_min: u64,
    /// Longest election timeout, ms.
    pub election_ms_max: u64,
    /// A snapshot is built every so many applied entries.
    pub snapshot_entries: u64,
    /// Entries kept in the log behind a snapshot, for followers that lag a little.
    pub keep_entries: u64,
    /// Give leadership to the node that should have it (spread), once it is up and caught up.
    pub spread_leaders: bool,
}

impl Default for RaftOptions {
    fn default() -> Self {
        Self {
            heartbeat_ms: 300,
            election_ms_min: 1_000,
            election_ms_max: 2_000,
            snapshot_entries: 20_000,
            keep_entries: 5_000,
            spread_leaders: true,
        }
    }
}

/// What only a home has.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct HomeOptions {
    /// Raft groups the chats are spread over. Cannot change after the first start.
    pub shards: u32,
    /// A data key is leased at most so long, seconds.
    pub lease_age_s_max: u64,
    /// Data keys leased at once on one node.
    pub lease_count_max: usize,
    /// An epoch opens thin when no more custodians answered within this, ms.
    pub thin_wait_ms: u64,
}

impl Default for HomeOptions {
    fn default() -> Self {
        Self {
            shards: 8,
            lease_age_s_max: 600,
            lease_count_max: 16_384,
            thin_wait_ms: 3_000,
        }
    }
}

impl HomeOptions {
    /// Longest age of a lease.
    pub fn lease_age_max(&self) -> Duration {
        Duration::from_secs(self.lease_age_s_max)
    }
    /// How long an opening epoch waits for its write margin.
    pub fn thin_wait(&self) -> Duration {
        Duration::from_millis(self.thin_wait_ms)
    }
}

/// Limits that operators may need to move.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Client requests in flight on one node.
    pub client_in_flight_max: usize,
    /// Peer requests in flight towards one peer.
    pub peer_in_flight_max: usize,
    /// Warn so many days before a certificate ends.
    pub cert_warn_days: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            client_in_flight_max: 1_024,
            peer_in_flight_max: 1_024,
            cert_warn_days: 14,
        }
    }
}

impl Config {
    /// Reads, parses and checks a file; relative paths become absolute.
    ///
    /// # Errors
    /// [`ConfigError`] saying what, where, and what to do.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let read = |source| ConfigError::Read {
            path: path.to_owned(),
            source,
        };
        let len = std::fs::metadata(path).map_err(read)?.len();
        if len > CONFIG_BYTES_MAX {
            return Err(ConfigError::Parse {
                path: path.to_owned(),
                message: format!("{len} bytes; a configuration has at most {CONFIG_BYTES_MAX}"),
            });
        }
        let text = std::fs::read_to_string(path).map_err(read)?;
        let dir = path.parent().filter(|p| !p.as_os_str().is_empty());
        Self::parse(&text, path, dir.unwrap_or(Path::new(".")))
    }

    /// Parses and checks `text`; `path` is for messages, `dir` resolves relative paths.
    ///
    /// # Errors
    /// [`ConfigError`] saying what, where, and what to do.
    pub fn parse(text: &str, path: &Path, dir: &Path) -> Result<Self, ConfigError> {
        let parse = |message: String| ConfigError::Parse {
            path: path.to_owned(),
            message,
        };
        check::format_first(text).map_err(parse)?;
        let mut config: Self =
            toml::from_str(text).map_err(|e| parse(e.to_string().trim_end().to_owned()))?;
        if config.role == ClusterRole::Home && config.home.is_none() {
            config.home = Some(HomeOptions::default());
        }
        config.resolve(dir);
        let problems = check::problems(&config);
        if problems.is_empty() {
            Ok(config)
        } else {
            Err(ConfigError::Invalid {
                path: path.to_owned(),
                problems,
            })
        }
    }

    /// The configuration as TOML, as `init` writes it.
    pub fn to_toml(&self) -> String {
        toml::to_string_pretty(self).expect("every field of a configuration is a TOML value")
    }

    fn resolve(&mut self, dir: &Path) {
        let abs = |p: &mut PathBuf| *p = dir.join(&*p);
        abs(&mut self.data_dir);
        abs(&mut self.tls.cert);
        abs(&mut self.tls.key);
        abs(&mut self.tls.ca);
        abs(&mut self.trust.own);
        abs(&mut self.trust.dir);
        if let Some(p) = &mut self.keys.pkcs11 {
            abs(&mut p.module);
            abs(&mut p.pin_file);
        }
        if let Some(w) = &mut self.webhook {
            abs(&mut w.ca);
        }
        for p in [
            &mut self.tls.client_cert,
            &mut self.tls.client_key,
            &mut self.keys.key_file,
            &mut self.keys.log_key,
            &mut self.keys.witness_key,
            &mut self.trust.policy,
        ] {
            if let Some(p) = p.as_mut() {
                abs(p);
            }
        }
    }

    /// How many raft groups this node runs: the shards of a home, one at a custodian.
    pub fn groups(&self) -> u32 {
        self.home.as_ref().map_or(1, |h| h.shards)
    }

    /// The peer addresses of the own cluster.
    pub fn node_addresses(&self) -> BTreeMap<NodeId, String> {
        self.nodes.iter().map(|n| (n.id, n.peer.clone())).collect()
    }
}

#[cfg(test)]
mod tests;
