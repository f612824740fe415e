//! `topology.toml`: a whole deployment on one page, for trying out and for tests.
//!
//! In production no one writes this file: every entity makes its own keys with
//! `quorate custodian init` or `quorate home init`, and imports the others'
//! descriptors with `quorate trust add`. Here one hand makes all of them, which
//! is exactly what Quorate exists to avoid; the embedded deployment says so.

use quorate_engine::types::{AuthorityId, CustodianId, HomeId};
use serde::Deserialize;
use std::collections::BTreeSet;
use std::path::Path;

/// Most nodes a topology may ask for in all.
pub const NODES_MAX: usize = 128;
/// Most nodes of one cluster.
pub const NODES_PER_CLUSTER_MAX: usize = 9;
/// Most identity authorities of a topology.
pub const AUTHORITIES_MAX: usize = 16;
/// Largest topology file, in bytes.
pub const TOPOLOGY_BYTES_MAX: u64 = 256 << 10;

/// The deployment of `quorate demo` and `quorate dev`: a home in `ae`, six
/// custodians, any three of ch, is, sg, br and the bloc eu of de and nl, and two
/// identity authorities that are nobody else's.
pub const DEFAULT_TOPOLOGY: &str = r#"[home]
name = "ae"
jurisdiction = "ae"
entity = "Quorate Home FZ-LLC"
provider = "dc-dubai"
network = "as64500"
nodes = 3

[[custodian]]
name = "ch"
jurisdiction = "ch"
entity = "Helvetia Keys AG"
provider = "dc-zurich"
network = "as64501"
nodes = 3

[[custodian]]
name = "is"
jurisdiction = "is"
entity = "Lyklar ehf."
provider = "dc-reykjavik"
network = "as64502"
nodes = 3

[[custodian]]
name = "sg"
jurisdiction = "sg"
entity = "Straits Custody Pte Ltd"
provider = "dc-singapore"
network = "as64503"
nodes = 3

[[custodian]]
name = "br"
jurisdiction = "br"
entity = "Chaves do Sul Ltda"
provider = "dc-saopaulo"
network = "as64504"
nodes = 3

[[custodian]]
name = "de"
jurisdiction = "de"
entity = "Treuhand Daten eG"
provider = "dc-frankfurt"
network = "as64505"
nodes = 3

[[custodian]]
name = "nl"
jurisdiction = "nl"
entity = "Sleutelbeheer BV"
provider = "dc-amsterdam"
network = "as64506"
nodes = 3

[[authority]]
name = "id-ee"
jurisdiction = "ee"
entity = "Isikutuvastus OU"

[[authority]]
name = "id-jp"
jurisdiction = "jp"
entity = "Honnin Kakunin KK"

[policy.default]
threshold = 3
members = ["ch", "is", "sg", "br", { bloc = "eu", threshold = 1, members = ["de", "nl"] }]
write_margin = 1

[bloc]
eu = ["de", "nl"]
"#;

/// Why a topology cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TopologyError {
    /// The file cannot be read.
    #[error("cannot read {path}: {source}")]
    Read {
        /// Which file.
        path: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// Not the TOML it should be; unknown keys are refused.
    #[error("{path}: {reason}")]
    Parse {
        /// Which file.
        path: String,
        /// Key and place, as the parser names them.
        reason: String,
    },
    /// It parses, but describes no usable deployment.
    #[error("{path}: {reason}")]
    Invalid {
        /// Which file.
        path: String,
        /// What is wrong and what to do.
        reason: String,
    },
}

/// One legal entity and its cluster.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EntitySpec {
    /// Cluster name, unique in the deployment.
    pub name: String,
    /// Jurisdiction, as a short lowercase code.
    pub jurisdiction: String,
    /// Legal entity that runs it.
    pub entity: String,
    /// Hosting provider.
    #[serde(default = "undeclared")]
    pub provider: String,
    /// Network it hangs on.
    #[serde(default = "undeclared")]
    pub network: String,
    /// How many nodes.
    #[serde(default = "default_nodes")]
    pub nodes: usize,
    /// An IP address for each node, where they are not to share `options.host`: network
    /// namespaces, containers, machines.
    #[serde(default)]
    pub hosts: Vec<String>,
}

/// What a descriptor says where nothing is declared; it may not be empty.
fn undeclared() -> String {
    "undeclared".into()
}

fn default_nodes() -> usize {
    3
}

/// An identity authority: keys and a descriptor, no nodes.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AuthoritySpec {
    /// Its name, unique in the deployment.
    pub name: String,
    /// Jurisdiction, as a short lowercase code.
    pub jurisdiction: String,
    /// Legal entity that runs it.
    pub entity: String,
}

fn default_authorities() -> Vec<AuthoritySpec> {
    [
        ("id-ee", "ee", "Isikutuvastus OU"),
        ("id-jp", "jp", "Honnin Kakunin KK"),
    ]
    .map(|(name, jurisdiction, entity)| AuthoritySpec {
        name: name.into(),
        jurisdiction: jurisdiction.into(),
        entity: entity.into(),
    })
    .into()
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    home: EntitySpec,
    custodian: Vec<EntitySpec>,
    authority: Option<Vec<AuthoritySpec>>,
    policy: toml::Table,
    #[serde(default)]
    bloc: toml::Table,
    #[serde(default)]
    options: Options,
}

/// Settings that go into every node's configuration.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Options {
    /// Shards of the home (raft groups); 8 unless told.
    pub shards: Option<u32>,
    /// State store of every node: `redb` unless told.
    pub store: Option<String>,
    /// First TCP port; 0 or absent takes free ones.
    pub base_port: Option<u16>,
    /// Address the nodes listen on; 127.0.0.1 unless told.
    pub host: Option<String>,
    /// Raft snapshot after this many entries of a group.
    pub snapshot_entries: Option<u64>,
    /// Longest life of a key lease, in milliseconds.
    pub lease_ms_max: Option<u64>,
}

/// A whole deployment on one page.
#[derive(Clone, Debug)]
pub struct Topology {
    /// The home.
    pub home: EntitySpec,
    /// Its custodians, in the order given.
    pub custodians: Vec<EntitySpec>,
    /// Its identity authorities. A file that says nothing of them gets those of
    /// [`DEFAULT_TOPOLOGY`]; `authority = []` is a deployment that nobody can join.
    pub authorities: Vec<AuthoritySpec>,
    /// The `[policy]` and `[bloc]` tables, verbatim: the policy file of every entity.
    pub policy_toml: String,
    /// Settings for every node.
    pub options: Options,
}

impl Topology {
    /// Reads a topology file.
    ///
    /// # Errors
    /// [`TopologyError`], naming file and key.
    pub fn load(path: &Path) -> Result<Self, TopologyError> {
        let name = path.display().to_string();
        let read = |source| TopologyError::Read {
            path: name.clone(),
            source,
        };
        let len = std::fs::metadata(path).map_err(read)?.len();
        if len > TOPOLOGY_BYTES_MAX {
            let reason = format!("{len} bytes, the limit is {TOPOLOGY_BYTES_MAX}");
            return Err(TopologyError::Invalid { path: name, reason });
        }
        Self::parse(&name, &std::fs::read_to_string(path).map_err(read)?)
    }

    /// The deployment of `quorate demo`.
    ///
    /// # Panics
    /// Never: a test parses [`DEFAULT_TOPOLOGY`].
    pub fn default_deployment() -> Self {
        Self::parse("built-in topology", DEFAULT_TOPOLOGY).expect("the built-in topology is tested")
    }

    /// Parses and checks `text`; `path` names it in errors.
    ///
    /// # Errors
    /// [`TopologyError`], naming `path` and the key.
    pub fn parse(path: &str, text: &str) -> Result<Self, TopologyError> {
        let invalid = |reason: String| TopologyError::Invalid {
            path: path.to_owned(),
            reason,
        };
        let file: File = toml::from_str(text).map_err(|e| TopologyError::Parse {
            path: path.to_owned(),
            reason: e.to_string(),
        })?;
        HomeId::new(&file.home.name).map_err(|e| invalid(format!("home.name: {e}")))?;
        let mut names = BTreeSet::from([file.home.name.clone()]);
        let mut nodes = 0;
        for spec in std::iter::once(&file.home).chain(&file.custodian) {
            if !(1..=NODES_PER_CLUSTER_MAX).contains(&spec.nodes) {
                return Err(invalid(format!(
                    "{}: nodes = {}, must be 1 to {NODES_PER_CLUSTER_MAX}; use 3 to survive the loss of one",
                    spec.name, spec.nodes
                )));
            }
            if !spec.hosts.is_empty() && spec.hosts.len() != spec.nodes {
                return Err(invalid(format!(
                    "{}: {} hosts for {} nodes; give one address for each node, or none",
                    spec.name,
                    spec.hosts.len(),
                    spec.nodes
                )));
            }
            nodes += spec.nodes;
        }
        if nodes > NODES_MAX {
            return Err(invalid(format!(
                "{nodes} nodes in all, the limit is {NODES_MAX}"
            )));
        }
        for spec in &file.custodian {
            CustodianId::new(&spec.name).map_err(|e| invalid(format!("custodian.name: {e}")))?;
            if !names.insert(spec.name.clone()) {
                return Err(invalid(format!(
                    "the name {:?} is used twice; names are unique in a deployment",
                    spec.name
                )));
            }
        }
        let authorities = match file.authority {
            Some(authorities) => authorities,
            None => default_authorities(),
        };
        if authorities.len() > AUTHORITIES_MAX {
            return Err(invalid(format!(
                "{} authorities, the limit is {AUTHORITIES_MAX}",
                authorities.len()
            )));
        }
        for spec in &authorities {
            AuthorityId::new(&spec.name).map_err(|e| invalid(format!("authority.name: {e}")))?;
            if !names.insert(spec.name.clone()) {
                return Err(invalid(format!(
                    "the name {:?} is used twice; names are unique in a deployment",
                    spec.name
                )));
            }
        }
        let mut policy = toml::Table::new();
        policy.insert("policy".into(), toml::Value::Table(file.policy));
        if !file.bloc.is_empty() {
            policy.insert("bloc".into(), toml::Value::Table(file.bloc));
        }
        let policy_toml = toml::to_string(&policy).map_err(|e| invalid(format!("policy: {e}")))?;
        Ok(Self {
            home: file.home,
            custodians: file.custodian,
            authorities,
            policy_toml,
            options: file.options,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_built_in_topology_is_the_one_the_docs_describe() {
        let t = Topology::default_deployment();
        assert_eq!((t.home.name.as_str(), t.home.nodes), ("ae", 3));
        let names: Vec<_> = t
            .custodians
            .iter()
            .map(|c| (c.name.as_str(), c.nodes))
            .collect();
        assert_eq!(
            names,
            [
                ("ch", 3),
                ("is", 3),
                ("sg", 3),
                ("br", 3),
                ("de", 3),
                ("nl", 3)
            ]
        );
        assert!(t.policy_toml.contains("threshold = 3") && t.policy_toml.contains("eu"));
    }

    #[test]
    fn two_authorities_that_are_nobody_elses_unless_told_otherwise() {
        let t = Topology::default_deployment();
        assert_eq!(t.authorities, default_authorities());
        let mut seen = BTreeSet::new();
        for (jurisdiction, entity) in t
            .authorities
            .iter()
            .map(|a| (&a.jurisdiction, &a.entity))
            .chain(
                std::iter::once(&t.home)
                    .chain(&t.custodians)
                    .map(|c| (&c.jurisdiction, &c.entity)),
            )
        {
            assert!(seen.insert(jurisdiction.clone()), "{jurisdiction} twice");
            assert!(seen.insert(entity.clone()), "{entity} twice");
        }
        let silent = &DEFAULT_TOPOLOGY[..DEFAULT_TOPOLOGY.find("[[authority]]").unwrap()];
        let policy = &DEFAULT_TOPOLOGY[DEFAULT_TOPOLOGY.find("[policy.").unwrap()..];
        let t = Topology::parse("t.toml", &format!("{silent}{policy}")).unwrap();
        assert_eq!(t.authorities, default_authorities());
        let none = format!("authority = []\n{silent}{policy}");
        assert!(
            Topology::parse("t.toml", &none)
                .unwrap()
                .authorities
                .is_empty()
        );
    }

    #[test]
    fn mistakes_are_named() {
        let err = |text: &str| Topology::parse("t.toml", text).unwrap_err().to_string();
        assert!(err("nonsense").contains("t.toml"));
        let unknown = DEFAULT_TOPOLOGY.replace("provider = \"dc-dubai\"", "provder = \"x\"");
        assert!(err(&unknown).contains("provder"));
        let twice = DEFAULT_TOPOLOGY.replace("name = \"is\"", "name = \"ch\"");
        assert!(err(&twice).contains("used twice"));
        let twice = DEFAULT_TOPOLOGY.replace("name = \"id-ee\"", "name = \"nl\"");
        assert!(err(&twice).contains("used twice"));
        let few = DEFAULT_TOPOLOGY.replacen("nodes = 3", "nodes = 3\nhosts = [\"10.0.0.1\"]", 1);
        assert!(err(&few).contains("1 hosts for 3 nodes"));
        let none = DEFAULT_TOPOLOGY.replacen("nodes = 3", "nodes = 0", 1);
        assert!(err(&none).contains("nodes = 0"));
    }
}
