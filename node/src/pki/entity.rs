//! Making one entity: all its keys and files, in one directory, on its own machine.
//!
//! ```text
//!  DIR/ca.crt ca.key identity.key log.key witness.key descriptor.json operator.crt operator.key trust/
//!  DIR/ca.crt ca.key identity.key statement.key descriptor.json authority.crt authority.key trust/   (an authority)
//!  DIR/node-N/ node.crt node.key ca.crt root.key descriptor.json trust/ config.toml
//!              (home: client-plane.crt client-plane.key policy.toml)
//!              (custodian: log.key witness.key, policy.toml once approved)
//! ```
//!
//! `ca.key` and `identity.key` stay off the nodes: a node's directory is what
//! is copied to its machine. Log and witness keys are a custodian's, not one
//! node's, since whichever node leads signs receipts and, every day, the
//! statement of the next sealing key. The identity key vouches for the log key
//! in the descriptor, and is needed only when a descriptor changes. An identity
//! authority runs no node: its tool holds the statement key and calls custodians
//! with its client certificate.

use super::ca::{Authority, BACKDATE, PkiError};
use super::descriptor::{Body, Descriptor, DescriptorError, PublicKey};
use super::files::{self, Access, FileError};
use super::identity::{CertIdentity, CertRole};
use super::trust::{TrustError, TrustStore};
use crate::config::{
    CONFIG_FORMAT, ClusterNode, ClusterRole, Config, HomeOptions, KeyProvider, Keys, Limits,
    Listen, Pkcs11, RaftOptions, Store, StoreKind, Tls, Trust,
};
use ed25519_dalek::SigningKey;
use quorate_engine::authz::envelope::Envelope;
use quorate_engine::authz::identity::{AUTHORITY_KEYS_MAX, AuthorityKey, AuthorityKeys};
use quorate_engine::crypto::labels::SIGN_AUTHORITY;
use quorate_engine::crypto::sign as crypto;
use quorate_engine::types::{AuthorityId, DeploymentId, NodeId, Secret};
use rand::TryRng;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Life of an authority's statement key, days.
pub const STATEMENT_KEY_DAYS: u64 = 366;
/// File of an authority's statement key.
const STATEMENT_KEY: &str = "statement.key";
/// File of the one that follows it, during a rotation.
const STATEMENT_KEY_NEXT: &str = "statement.key.next";

/// Why an entity could not be made or extended.
#[derive(Debug, thiserror::Error)]
pub enum EntityError {
    /// Certificates.
    #[error(transparent)]
    Pki(#[from] PkiError),
    /// Files.
    #[error(transparent)]
    File(#[from] FileError),
    /// The descriptor.
    #[error(transparent)]
    Descriptor(#[from] DescriptorError),
    /// A trusted descriptor.
    #[error(transparent)]
    Trust(#[from] TrustError),
    /// The system gives no randomness.
    #[error("the system's random generator failed: {0}")]
    Random(String),
    /// An authority with nodes, or another role without.
    #[error(
        "{role} {cluster} with {nodes} nodes: an identity authority has none, a home or custodian at least one"
    )]
    Nodes {
        /// What it is.
        role: ClusterRole,
        /// The entity.
        cluster: String,
        /// How many were asked for.
        nodes: usize,
    },
    /// Only an identity authority has a statement key.
    #[error("{0} is no identity authority: it signs no statements about people")]
    NoAuthority(String),
    /// The node exists already, or did once.
    #[error("{cluster} has or had a node {node}; node ids are never reused: choose a higher one")]
    NodeExists {
        /// The cluster.
        cluster: String,
        /// The id.
        node: NodeId,
    },
}

/// One node to be.
#[derive(Clone, Debug)]
pub struct NodeSpec {
    /// Its id.
    pub id: NodeId,
    /// The address others reach its peer plane at, `host:port`.
    pub peer: String,
    /// Its sockets.
    pub listen: Listen,
    /// DNS names and IP addresses its client and operator planes are dialled under.
    pub names: Vec<String>,
}

/// One entity to be.
#[derive(Clone, Debug)]
pub struct EntitySpec {
    /// The deployment it joins.
    pub deployment: DeploymentId,
    /// What it is.
    pub role: ClusterRole,
    /// Its name.
    pub id: String,
    /// Its jurisdiction.
    pub jurisdiction: String,
    /// The legal entity.
    pub legal_entity: String,
    /// Its provider.
    pub provider: String,
    /// Its network.
    pub network: String,
    /// Its nodes; none for an authority.
    pub nodes: Vec<NodeSpec>,
    /// The store of every node.
    pub store: StoreKind,
    /// Consensus timing of every node.
    pub raft: RaftOptions,
    /// Home only; defaults when absent.
    pub home: Option<HomeOptions>,
    /// What opens each node's root.
    pub key_provider: KeyProvider,
}

/// A made or opened entity.
#[derive(Debug)]
pub struct Entity {
    /// Its directory.
    pub dir: PathBuf,
    /// Its descriptor.
    pub descriptor: Descriptor,
    authority: Authority,
    identity: SigningKey,
}

/// A fresh deployment id.
///
/// # Errors
/// [`EntityError::Random`].
pub fn new_deployment() -> Result<DeploymentId, EntityError> {
    let mut id = [0u8; 16];
    fill(&mut id)?;
    Ok(DeploymentId(id))
}

fn fill(bytes: &mut [u8]) -> Result<(), EntityError> {
    rand::rngs::SysRng
        .try_fill_bytes(bytes)
        .map_err(|e| EntityError::Random(e.to_string()))
}

fn new_secret() -> Result<Secret<32>, EntityError> {
    let mut bytes = [0u8; 32];
    fill(&mut bytes)?;
    Ok(Secret::take(&mut bytes))
}

fn new_signing_key(path: &Path) -> Result<SigningKey, EntityError> {
    let seed = new_secret()?;
    files::create_secret32(path, &seed)?;
    Ok(SigningKey::from_bytes(seed.expose()))
}

/// Counts from now, backdated as certificates are.
fn statement_key(version: u32, public: PublicKey) -> AuthorityKey {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let ms = |d: Duration| u64::try_from(d.as_millis()).unwrap_or(u64::MAX);
    let not_before_ms = ms(now.unwrap_or_default()).saturating_sub(ms(BACKDATE));
    AuthorityKey {
        version,
        public: quorate_engine::types::PublicKey(public.0),
        not_before_ms,
        not_after_ms: not_before_ms + STATEMENT_KEY_DAYS * 86_400_000,
    }
}

/// Makes all keys, certificates and configurations of one entity in `dir`, which must be new.
///
/// # Errors
/// [`EntityError`]; nothing that exists is overwritten.
pub fn init(dir: &Path, spec: &EntitySpec) -> Result<Entity, EntityError> {
    if spec.nodes.is_empty() != (spec.role == ClusterRole::Authority) {
        return Err(EntityError::Nodes {
            role: spec.role,
            cluster: spec.id.clone(),
            nodes: spec.nodes.len(),
        });
    }
    files::make_dir(dir)?;
    let (authority, ca_key) = Authority::generate(spec.deployment, spec.role, &spec.id)?;
    files::create(&dir.join("ca.key"), ca_key.as_bytes(), Access::Secret)?;
    files::create(
        &dir.join("ca.crt"),
        authority.cert_pem().as_bytes(),
        Access::Public,
    )?;
    let identity = new_signing_key(&dir.join("identity.key"))?;
    let extra = |of: ClusterRole, name: &str| -> Result<Option<PublicKey>, EntityError> {
        Ok(match spec.role == of {
            true => Some(PublicKey::of(&new_signing_key(&dir.join(name))?)),
            false => None,
        })
    };
    let body = Body {
        deployment: spec.deployment,
        role: spec.role,
        id: spec.id.clone(),
        revision: 1,
        jurisdiction: spec.jurisdiction.clone(),
        legal_entity: spec.legal_entity.clone(),
        provider: spec.provider.clone(),
        network: spec.network.clone(),
        ca_pem: authority.cert_pem().to_owned(),
        identity_key: PublicKey::of(&identity),
        log_key: extra(ClusterRole::Custodian, "log.key")?,
        witness_key: extra(ClusterRole::Custodian, "witness.key")?,
        endpoints: spec.nodes.iter().map(|n| (n.id, n.peer.clone())).collect(),
        statement_keys: match extra(ClusterRole::Authority, STATEMENT_KEY)? {
            Some(key) => vec![statement_key(1, key)],
            None => Vec::new(),
        },
        rotations: Vec::new(),
    };
    let descriptor = Descriptor::sign(body, &identity)?;
    descriptor.save(&dir.join("descriptor.json"))?;
    files::make_dir(&dir.join("trust"))?;
    let entity = Entity {
        dir: dir.to_owned(),
        descriptor,
        authority,
        identity,
    };
    match spec.role {
        ClusterRole::Authority => entity.issue_authority()?,
        ClusterRole::Home | ClusterRole::Custodian => entity.issue_operator(1, "operator")?,
    }
    let all: Vec<ClusterNode> = spec
        .nodes
        .iter()
        .map(|n| ClusterNode {
            id: n.id,
            peer: n.peer.clone(),
        })
        .collect();
    for node in &spec.nodes {
        entity.write_node(
            node,
            &all,
            spec.store,
            &spec.raft,
            spec.home.as_ref(),
            (spec.key_provider, None),
        )?;
    }
    Ok(entity)
}

impl Entity {
    /// Opens what [`init`] made.
    ///
    /// # Errors
    /// [`EntityError`].
    pub fn open(dir: &Path) -> Result<Self, EntityError> {
        let descriptor = Descriptor::load(&dir.join("descriptor.json"))?;
        let authority = Authority::load(
            descriptor.deployment,
            descriptor.role,
            &descriptor.id,
            &dir.join("ca.crt"),
            &dir.join("ca.key"),
        )?;
        let identity = files::read_signing_key(&dir.join("identity.key"))?;
        Ok(Self {
            dir: dir.to_owned(),
            descriptor,
            authority,
            identity,
        })
    }

    /// Its certificate authority.
    pub fn authority(&self) -> &Authority {
        &self.authority
    }

    /// A node's directory.
    pub fn node_dir(&self, node: NodeId) -> PathBuf {
        self.dir.join(format!("node-{node}"))
    }

    /// A node's configuration file.
    pub fn config_path(&self, node: NodeId) -> PathBuf {
        self.node_dir(node).join("config.toml")
    }

    fn who(&self, role: CertRole, node: u64) -> CertIdentity {
        CertIdentity {
            deployment: self.descriptor.deployment,
            role,
            cluster: self.descriptor.id.clone(),
            node,
        }
    }

    /// Issues an operator's certificate as `NAME.crt` and `NAME.key` in the entity's directory.
    ///
    /// # Errors
    /// [`EntityError`].
    pub fn issue_operator(&self, number: u64, name: &str) -> Result<(), EntityError> {
        let issued = self
            .authority
            .issue(&self.who(CertRole::Operator, number), &[])?;
        issued.write(
            &self.dir.join(format!("{name}.crt")),
            &self.dir.join(format!("{name}.key")),
        )?;
        Ok(())
    }

    /// Issues the authority's client certificate as `authority.crt` and `authority.key`, over
    /// the old one; for custodians' registry planes.
    ///
    /// # Errors
    /// [`EntityError`], for another role too.
    pub fn issue_authority(&self) -> Result<(), EntityError> {
        let issued = self
            .authority
            .issue(&self.who(CertRole::Authority, 1), &[])?;
        issued.write(
            &self.dir.join("authority.crt"),
            &self.dir.join("authority.key"),
        )?;
        Ok(())
    }

    fn authority_id(&self) -> Result<AuthorityId, EntityError> {
        let record = self.descriptor.authority();
        let record = record.ok_or_else(|| EntityError::NoAuthority(self.descriptor.id.clone()))?;
        Ok(record.id)
    }

    /// The key that signs this authority's statements about people.
    ///
    /// # Errors
    /// [`EntityError::NoAuthority`] for another role; a file that is missing or not the one in the descriptor.
    pub fn statement_key(&self) -> Result<SigningKey, EntityError> {
        let named = self.descriptor.statement_keys.last();
        let named = named.ok_or_else(|| EntityError::NoAuthority(self.descriptor.id.clone()))?;
        let path = self.dir.join(STATEMENT_KEY);
        // A rotation that was interrupted left the key in use under its first name.
        let next = self.dir.join(STATEMENT_KEY_NEXT);
        for path in [&path, &next].into_iter().filter(|p| p.exists()) {
            let key = files::read_signing_key(path)?;
            if PublicKey::of(&key).0 == named.public.0 {
                return Ok(key);
            }
        }
        let what = "not the newest statement key that descriptor.json names".into();
        Err(FileError::Content { path, what }.into())
    }

    /// Draws a new statement key and names it in the next revision of the descriptor. The old
    /// ones count until their time is over, for statements on their way; with `forget` they
    /// count no longer where the new descriptor has arrived.
    ///
    /// # Errors
    /// [`EntityError::NoAuthority`] for another role; files.
    pub fn rotate_statement_key(&mut self, forget: bool) -> Result<(), EntityError> {
        self.statement_key()?;
        let path = self.dir.join(STATEMENT_KEY);
        let next = self.dir.join(STATEMENT_KEY_NEXT);
        // One that was drawn before an interruption is taken up again.
        let key = match next.exists() {
            true => files::read_signing_key(&next)?,
            false => new_signing_key(&next)?,
        };
        let public = PublicKey::of(&key);
        let newest = self.descriptor.statement_keys.last();
        if newest.is_none_or(|k| k.public.0 != public.0) {
            let mut body = (*self.descriptor).clone();
            let next = statement_key(newest.map_or(0, |k| k.version) + 1, public);
            let now = next.not_before_ms;
            let keys = &mut body.statement_keys;
            keys.retain(|k| !forget && now < k.not_after_ms);
            if keys.len() == AUTHORITY_KEYS_MAX {
                keys.remove(0);
            }
            keys.push(next);
            let statement = AuthorityKeys {
                authority: self.authority_id()?,
                key: next,
                oldest: keys[0].version,
            };
            let by = crypto::SigningKey::from_seed(&Secret::take(&mut self.identity.to_bytes()));
            let deployment = &self.descriptor.deployment;
            let signed = Envelope::sign(SIGN_AUTHORITY, deployment, &statement, &[&by]);
            if body.rotations.len() == AUTHORITY_KEYS_MAX {
                body.rotations.remove(0);
            }
            body.rotations.push(signed);
            self.publish(body)?;
        }
        std::fs::rename(&next, &path).map_err(|source| FileError::Io { path, source })?;
        Ok(())
    }

    /// Issues a node's certificates anew over the old ones; a running node takes them within two seconds.
    ///
    /// # Errors
    /// [`EntityError`].
    pub fn renew(&self, node: NodeId, names: &[String]) -> Result<(), EntityError> {
        let dir = self.node_dir(node);
        let role = CertRole::from(self.descriptor.role);
        let issued = self.authority.issue(&self.who(role, node), names)?;
        issued.write(&dir.join("node.crt"), &dir.join("node.key"))?;
        if self.descriptor.role == ClusterRole::Home {
            let issued = self
                .authority
                .issue(&self.who(CertRole::ClientPlane, node), names)?;
            issued.write(&dir.join("client-plane.crt"), &dir.join("client-plane.key"))?;
        }
        Ok(())
    }

    /// Makes the directory of one more node and puts its endpoint into a new revision of the descriptor.
    /// The other nodes of the cluster learn of it through raft membership.
    ///
    /// # Errors
    /// [`EntityError::NodeExists`] for an id that is or was in use here.
    pub fn add_node(&mut self, node: &NodeSpec, like: &Config) -> Result<(), EntityError> {
        let known = self.descriptor.endpoints.contains_key(&node.id);
        if known || self.node_dir(node.id).exists() {
            return Err(EntityError::NodeExists {
                cluster: self.descriptor.id.clone(),
                node: node.id,
            });
        }
        let mut body = (*self.descriptor).clone();
        body.endpoints.insert(node.id, node.peer.clone());
        self.publish(body)?;
        // No `nodes`: a joining node waits to be added and never forms a cluster by itself.
        self.write_node(
            node,
            &[],
            like.store.kind,
            &like.raft,
            like.home.as_ref(),
            (like.keys.provider, like.keys.pkcs11.clone()),
        )?;
        let from = self.dir.join("trust");
        for d in trusted_in(&from)? {
            TrustStore::add(&self.node_dir(node.id).join("trust"), &d)?;
        }
        // The policy stands beside each node's configuration; a home does not start without it.
        if let Some(policy) = like.trust.policy.as_deref().filter(|p| p.exists()) {
            let text = std::fs::read(policy).map_err(|source| FileError::Io {
                path: policy.to_owned(),
                source,
            })?;
            let path = self.node_dir(node.id).join("policy.toml");
            files::replace(&path, &text, Access::Public)?;
        }
        Ok(())
    }

    /// Signs a changed descriptor with the next revision and writes it here and to every node's directory.
    ///
    /// # Errors
    /// [`EntityError`].
    pub fn publish(&mut self, mut body: Body) -> Result<(), EntityError> {
        body.revision = self.descriptor.revision + 1;
        self.descriptor = Descriptor::sign(body, &self.identity)?;
        self.descriptor.save(&self.dir.join("descriptor.json"))?;
        for dir in self.node_dirs()? {
            self.descriptor.save(&dir.join("descriptor.json"))?;
        }
        Ok(())
    }

    /// Trusts another entity on all nodes whose directories are here.
    ///
    /// # Errors
    /// [`EntityError`].
    pub fn trust(&self, other: &Descriptor) -> Result<(), EntityError> {
        TrustStore::add(&self.dir.join("trust"), other)?;
        for dir in self.node_dirs()? {
            TrustStore::add(&dir.join("trust"), other)?;
        }
        Ok(())
    }

    fn node_dirs(&self) -> Result<Vec<PathBuf>, EntityError> {
        let io = |source| FileError::Io {
            path: self.dir.clone(),
            source,
        };
        let mut out = Vec::new();
        for e in std::fs::read_dir(&self.dir).map_err(io)? {
            let path = e.map_err(io)?.path();
            let name = path
                .file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned();
            if name.starts_with("node-") && path.is_dir() {
                out.push(path);
            }
        }
        out.sort();
        Ok(out)
    }

    fn write_node(
        &self,
        node: &NodeSpec,
        all: &[ClusterNode],
        store: StoreKind,
        raft: &RaftOptions,
        home: Option<&HomeOptions>,
        (provider, pkcs11): (KeyProvider, Option<Pkcs11>),
    ) -> Result<(), EntityError> {
        let dir = self.node_dir(node.id);
        files::make_dir(&dir)?;
        files::make_dir(&dir.join("trust"))?;
        let key_file = (provider == KeyProvider::KeyFile).then(|| PathBuf::from("root.key"));
        if let Some(name) = &key_file {
            files::create_secret32(&dir.join(name), &new_secret()?)?;
        }
        files::create(
            &dir.join("ca.crt"),
            self.authority.cert_pem().as_bytes(),
            Access::Public,
        )?;
        self.descriptor.save(&dir.join("descriptor.json"))?;
        self.renew(node.id, &node.names)?;
        let is_home = self.descriptor.role == ClusterRole::Home;
        if !is_home {
            for name in ["log.key", "witness.key"] {
                let secret = files::read_secret32(&self.dir.join(name))?;
                files::create_secret32(&dir.join(name), &secret)?;
            }
        }
        let custodian_file = |name: &str| (!is_home).then(|| PathBuf::from(name));
        let home_file = |name: &str| is_home.then(|| PathBuf::from(name));
        let config = Config {
            format: CONFIG_FORMAT,
            role: self.descriptor.role,
            deployment: self.descriptor.deployment,
            cluster: self.descriptor.id.clone(),
            node: node.id,
            data_dir: "data".into(),
            listen: node.listen.clone(),
            tls: Tls {
                cert: "node.crt".into(),
                key: "node.key".into(),
                ca: "ca.crt".into(),
                client_cert: home_file("client-plane.crt"),
                client_key: home_file("client-plane.key"),
            },
            keys: Keys {
                provider,
                key_file,
                pkcs11,
                log_key: custodian_file("log.key"),
                witness_key: custodian_file("witness.key"),
                rotation: None,
            },
            trust: Trust {
                own: "descriptor.json".into(),
                dir: "trust".into(),
                policy: Some("policy.toml".into()),
            },
            nodes: all.to_vec(),
            store: Store { kind: store },
            raft: raft.clone(),
            home: is_home.then(|| home.cloned().unwrap_or_default()),
            webhook: None,
            limits: Limits::default(),
        };
        files::create(
            &dir.join("config.toml"),
            config.to_toml().as_bytes(),
            Access::Public,
        )?;
        Ok(())
    }
}

fn trusted_in(dir: &Path) -> Result<Vec<Descriptor>, EntityError> {
    let io = |source| FileError::Io {
        path: dir.to_owned(),
        source,
    };
    let mut out = Vec::new();
    for e in std::fs::read_dir(dir).map_err(io)? {
        let path = e.map_err(io)?.path();
        if path.extension().is_some_and(|e| e == "json") {
            out.push(Descriptor::load(&path)?);
        }
    }
    Ok(out)
}
