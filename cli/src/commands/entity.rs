//! One legal entity's keys and files, on its own machine and without a network:
//! `init`, `renew` and `new-node` are the same work for a home and a custodian.

use super::Context;
use crate::exit::{CommandResult, Exit, Failure};
use quorate_engine::types::{DeploymentId, NodeId};
use quorate_node::config::{
    ClusterRole, Config, HomeOptions, KeyProvider, Listen, RaftOptions, StoreKind,
};
use quorate_node::pki::Descriptor;
use quorate_node::pki::entity::{self, Entity, EntityError, EntitySpec, NodeSpec};
use serde::Serialize;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

/// Options of `init`, for either role.
#[derive(Debug, clap::Args)]
pub struct Init {
    /// A new directory on this entity's own machine
    dir: PathBuf,
    /// Cluster name, unique in the deployment (ch, is, ae, ...)
    #[arg(long)]
    name: String,
    /// Deployment id that the home gave out; a home makes a new one when it is not given
    #[arg(long, value_name = "HEX")]
    deployment_id: Option<DeploymentId>,
    /// Jurisdiction, as a short code
    #[arg(long)]
    jurisdiction: String,
    /// The legal entity that runs it
    #[arg(long)]
    entity: String,
    /// Hosting provider
    #[arg(long, default_value = "undeclared")]
    provider: String,
    /// Network it hangs on
    #[arg(long, default_value = "undeclared")]
    network: String,
    /// A node, as ID=HOST:PORT of its peer plane; repeat for each. The other planes take the
    /// next three ports; edit config.toml to move them
    #[arg(long = "node", value_name = "ID=HOST:PORT", required = true, value_parser = node)]
    nodes: Vec<(NodeId, String, u16)>,
    /// What opens each node's keys. All but `key-file` start locked, and are set up with
    /// `quorate custodian keys rekey`
    #[arg(long, value_enum, default_value = "key-file")]
    keys: Keys,
}

/// Key providers, as `init` offers them.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Keys {
    /// A file beside the configuration; for development
    KeyFile,
    /// A person's passphrase
    Passphrase,
    /// Several persons' shares
    Shares,
}

impl From<Keys> for KeyProvider {
    fn from(keys: Keys) -> Self {
        match keys {
            Keys::KeyFile => Self::KeyFile,
            Keys::Passphrase => Self::Passphrase,
            Keys::Shares => Self::Shares,
        }
    }
}

/// Options of `renew`, for either role.
#[derive(Debug, clap::Args)]
pub struct Renew {
    /// This entity's own directory, made by `init`; its ca.key is needed
    dir: PathBuf,
    /// A node; repeat for more. All nodes when not given
    #[arg(long = "node", value_name = "ID")]
    nodes: Vec<NodeId>,
    /// The operator's certificate as well
    #[arg(long)]
    operator: bool,
}

/// Options of `new-node`, for either role.
#[derive(Debug, clap::Args)]
pub struct NewNode {
    /// This entity's own directory, made by `init`; its ca.key and identity.key are needed
    dir: PathBuf,
    /// The node, as ID=HOST:PORT of its peer plane; an id that this cluster never used
    #[arg(long = "node", value_name = "ID=HOST:PORT", value_parser = node)]
    node: (NodeId, String, u16),
}

fn node(text: &str) -> Result<(NodeId, String, u16), String> {
    let parse = || {
        let (id, at) = text.split_once('=')?;
        let (host, port) = at.rsplit_once(':')?;
        let port = port
            .parse::<u16>()
            .ok()
            .filter(|p| *p > 0 && *p < u16::MAX - 3)?;
        let id = id.parse().ok().filter(|id| *id > 0)?;
        Some((id, host.to_owned(), port))
    };
    parse().ok_or_else(|| {
        "write ID=HOST:PORT, for example 1=ch1.example:7101; ids start at 1".to_owned()
    })
}

#[derive(Serialize)]
struct Made {
    name: String,
    deployment: DeploymentId,
    fingerprint: String,
    descriptor: PathBuf,
    nodes: Vec<PathBuf>,
}

/// Makes the entity.
///
/// # Errors
/// [`Failure`]; nothing that exists is overwritten.
pub fn init(role: ClusterRole, args: &Init, context: &Context) -> CommandResult {
    let failed = |e: EntityError| {
        Failure::new(
            Exit::Failed,
            "init",
            e.to_string(),
            "nothing that existed was changed; correct it and use a new directory",
        )
    };
    if role == ClusterRole::Home && !matches!(args.keys, Keys::KeyFile) {
        return Err(Failure::usage(
            "a home has no keys that people unlock",
            "leave --keys out",
        ));
    }
    let deployment = match (role, args.deployment_id) {
        (_, Some(id)) => id,
        (ClusterRole::Home, None) => entity::new_deployment().map_err(failed)?,
        (ClusterRole::Custodian | ClusterRole::Authority, None) => {
            return Err(Failure::usage(
                format!("a {role} joins a deployment, and none is named"),
                "pass --deployment-id with the id that the home's `home init` printed",
            ));
        }
    };
    let spec = EntitySpec {
        key_provider: args.keys.into(),
        deployment,
        role,
        id: args.name.clone(),
        jurisdiction: args.jurisdiction.clone(),
        legal_entity: args.entity.clone(),
        provider: args.provider.clone(),
        network: args.network.clone(),
        nodes: args.nodes.iter().map(|n| node_spec(role, n)).collect(),
        store: StoreKind::Redb,
        raft: RaftOptions::default(),
        home: (role == ClusterRole::Home).then(HomeOptions::default),
    };
    quorate_engine::types::CustodianId::new(&args.name)
        .map_err(|e| Failure::usage(format!("--name: {e}"), "choose a short lowercase name"))?;
    let made = entity::init(&args.dir, &spec).map_err(failed)?;
    let shown = Made {
        name: args.name.clone(),
        deployment,
        fingerprint: made.descriptor.fingerprint(),
        descriptor: args.dir.join("descriptor.json"),
        nodes: args.nodes.iter().map(|n| made.node_dir(n.0)).collect(),
    };
    context.output.show(&shown, || text(role, &shown))?;
    Ok(Exit::Ok)
}

/// The entity in `dir`, if it is of this role.
fn open(role: ClusterRole, dir: &Path) -> Result<Entity, Failure> {
    let next = "name the entity's own directory, where ca.key and identity.key are";
    let failed = |e: EntityError| Failure::new(Exit::Failed, "entity", e.to_string(), next);
    let entity = Entity::open(dir).map_err(failed)?;
    match entity.descriptor.role == role {
        true => Ok(entity),
        false => Err(Failure::usage(
            format!("{} belongs to a {}", dir.display(), entity.descriptor.role),
            next,
        )),
    }
}

fn not_made(e: impl std::fmt::Display) -> Failure {
    Failure::new(
        Exit::Failed,
        "entity",
        e.to_string(),
        "correct it and repeat the command",
    )
}

/// The host part of a node's endpoint in the descriptor.
fn host(descriptor: &Descriptor, node: NodeId) -> Result<String, Failure> {
    let endpoint = descriptor.endpoints.get(&node);
    let host = endpoint.and_then(|at| at.rsplit_once(':'));
    host.map(|(host, _)| host.to_owned()).ok_or_else(|| {
        Failure::usage(
            format!("{} has no node {node}", descriptor.id),
            "name one of the nodes in descriptor.json",
        )
    })
}

fn names(host: &str) -> Vec<String> {
    vec![host.to_owned(), "localhost".into(), "127.0.0.1".into()]
}

/// Issues certificates anew over the old ones in the entity's directory.
///
/// # Errors
/// [`Failure`].
pub fn renew(role: ClusterRole, args: &Renew, context: &Context) -> CommandResult {
    let entity = open(role, &args.dir)?;
    let nodes: Vec<NodeId> = match args.nodes.as_slice() {
        [] => entity.descriptor.endpoints.keys().copied().collect(),
        some => some.to_vec(),
    };
    let hosts = nodes
        .iter()
        .map(|n| Ok((*n, host(&entity.descriptor, *n)?)));
    let mut renewed = Vec::new();
    for (node, host) in hosts.collect::<Result<Vec<_>, Failure>>()? {
        entity.renew(node, &names(&host)).map_err(not_made)?;
        renewed.push(entity.node_dir(node));
    }
    if args.operator {
        entity.issue_operator(1, "operator").map_err(not_made)?;
        renewed.push(args.dir.join("operator.crt"));
    }
    context.output.show(&renewed, || {
        let mut out = String::from(
            "renewed; copy certificates and keys over the old ones, a running node takes them within seconds:",
        );
        for path in &renewed {
            out.push_str(&format!("\n  {}", path.display()));
        }
        out
    })?;
    Ok(Exit::Ok)
}

/// Makes the directory of one more node.
///
/// # Errors
/// [`Failure`]; an id that is or was in use here is refused.
pub fn new_node(role: ClusterRole, args: &NewNode, context: &Context) -> CommandResult {
    let mut entity = open(role, &args.dir)?;
    let first = entity.descriptor.endpoints.keys().next().copied();
    let like = Config::load(&entity.config_path(first.unwrap_or(1))).map_err(not_made)?;
    entity
        .add_node(&node_spec(role, &args.node), &like)
        .map_err(not_made)?;
    let (id, host, port) = &args.node;
    let dir = entity.node_dir(*id);
    context.output.show(&dir, || {
        format!(
            "node {id} in {}\nCopy the directory to its machine, start it, then: quorate cluster add-node {} --node {id} --address {host}:{port}\nThe other entities need the new descriptor.json (`quorate trust add`, same fingerprint)",
            dir.display(),
            entity.descriptor.id
        )
    })?;
    Ok(Exit::Ok)
}

fn node_spec(role: ClusterRole, (id, host, port): &(NodeId, String, u16)) -> NodeSpec {
    let any = |port| SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), port);
    let local = |port| SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port);
    NodeSpec {
        id: *id,
        peer: format!("{host}:{port}"),
        listen: Listen {
            peer: any(*port),
            operator: local(port + 1),
            health: local(port + 2),
            client: (role == ClusterRole::Home).then(|| any(port + 3)),
            registry: (role == ClusterRole::Custodian).then(|| any(port + 3)),
            audit: (role == ClusterRole::Custodian).then(|| any(port + 4)),
        },
        names: names(host),
    }
}

fn text(role: ClusterRole, made: &Made) -> String {
    let mut out = format!(
        "{role} {} of deployment {}\n\
         descriptor {}\n  fingerprint {}\n\
         Send the descriptor to every other entity; they run `quorate trust add` after comparing\n\
         the fingerprint with you by another way, a telephone call for instance.\n\
         Copy each node's directory to its machine and start `quorate-node --config config.toml` there:",
        made.name,
        made.deployment,
        made.descriptor.display(),
        made.fingerprint,
    );
    for dir in &made.nodes {
        out.push_str(&format!("\n  {}", dir.display()));
    }
    out.push_str("\nKeep ca.key and identity.key off the nodes.");
    if role == ClusterRole::Home {
        out.push_str("\nPut the policy into policy.toml in each node's directory (`quorate policy lint` checks it).");
    }
    out
}
