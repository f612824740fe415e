//! Making one legal entity's keys and files: `quorate custodian init` and
//! `quorate home init` are the same work with another role.

use super::Context;
use crate::exit::{CommandResult, Exit, Failure};
use quorate_engine::types::{DeploymentId, NodeId};
use quorate_node::config::{ClusterRole, HomeOptions, Listen, RaftOptions, StoreKind};
use quorate_node::pki::entity::{self, EntityError, EntitySpec, NodeSpec};
use serde::Serialize;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;

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
    let deployment = match (role, args.deployment_id) {
        (_, Some(id)) => id,
        (ClusterRole::Home, None) => entity::new_deployment().map_err(failed)?,
        (ClusterRole::Custodian, None) => {
            return Err(Failure::usage(
                "a custodian joins a deployment, and none is named",
                "pass --deployment-id with the id that the home's `home init` printed",
            ));
        }
    };
    let spec = EntitySpec {
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
        },
        names: vec![host.clone(), "localhost".into(), "127.0.0.1".into()],
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
