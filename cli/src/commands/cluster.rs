//! `quorate cluster show|add-node|remove-node|transfer-leader|recover`.

use super::Context;
use crate::exit::{CommandResult, Exit, Failure};
use crate::output::plain;
use quorate_engine::api::operator::{
    AddNode, ClusterView, OperatorDone, RemoveNode, TransferLeader,
};
use quorate_node::config::Config;
use quorate_node::server::recover_alone;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

/// Change a cluster's nodes and leaders
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// Show members and groups
    Show {
        /// The cluster: a custodian's name, or the home's
        cluster: String,
    },
    /// Add a running node: first it learns, then it votes
    AddNode {
        /// The cluster
        cluster: String,
        /// A node id never used before in this cluster
        #[arg(long)]
        node: u64,
        /// HOST:PORT of its peer plane
        #[arg(long)]
        address: String,
    },
    /// Remove a node; its id is never used again
    RemoveNode {
        /// The cluster
        cluster: String,
        /// The node to remove
        #[arg(long)]
        node: u64,
    },
    /// Go on alone after a majority is lost for good. Runs on the stopped node's own machine;
    /// what the others acknowledged without it is lost
    Recover {
        /// The node's config.toml
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
        /// Say that you mean it
        #[arg(long)]
        i_accept_losing_acknowledged_writes: bool,
    },
    /// Hand a group's leadership to another voter
    TransferLeader {
        /// The cluster
        cluster: String,
        /// The raft group (a home's shard; 0 at a custodian)
        #[arg(long, default_value_t = 0)]
        group: u32,
        /// The voter that shall lead
        #[arg(long)]
        to: u64,
    },
}

/// Runs the command.
///
/// # Errors
/// [`crate::exit::Failure`].
pub async fn run(args: Args, context: &Context) -> CommandResult {
    let operator = |name: &str| context.deployment()?.operator(name);
    let done: OperatorDone = match args.what {
        What::Show { cluster } => {
            let view: ClusterView = operator(&cluster)?.get("/v1/cluster").await?;
            context.output.show(&view, || text(&view))?;
            return Ok(Exit::Ok);
        }
        What::AddNode {
            cluster,
            node,
            address,
        } => {
            operator(&cluster)?
                .post("/v1/cluster/add-node", &AddNode { node, address })
                .await?
        }
        What::RemoveNode { cluster, node } => {
            operator(&cluster)?
                .post("/v1/cluster/remove-node", &RemoveNode { node })
                .await?
        }
        What::Recover {
            config,
            i_accept_losing_acknowledged_writes: accepted,
        } => return recover(&config, accepted, context).await,
        What::TransferLeader { cluster, group, to } => {
            operator(&cluster)?
                .post("/v1/cluster/transfer-leader", &TransferLeader { group, to })
                .await?
        }
    };
    context.output.show(&done, || plain(&done.detail))?;
    Ok(Exit::Ok)
}

async fn recover(path: &Path, accepted: bool, context: &Context) -> CommandResult {
    let config = Config::load(path)
        .map_err(|e| Failure::usage(e.to_string(), "name the stopped node's config.toml"))?;
    if !accepted {
        return Err(Failure::usage(
            format!(
                "node {} of {} would go on alone, and what the lost majority acknowledged without it is gone",
                config.node, config.cluster
            ),
            "if that is meant, repeat with --i-accept-losing-acknowledged-writes",
        ));
    }
    let done = recover_alone(&config).await.map_err(|e| {
        Failure::new(
            Exit::Failed,
            "recover",
            e.to_string(),
            "stop the node first; repeating is safe",
        )
    })?;
    context.output.show(&done, || {
        format!(
            "node {} goes on alone; given up: {:?}. Start it, then add new nodes under new ids.",
            config.node, done.given_up
        )
    })?;
    Ok(Exit::Ok)
}

fn text(view: &ClusterView) -> String {
    let mut out = format!("cluster {}\n", plain(&view.cluster));
    for m in &view.members {
        let kind = if m.voter { "voter" } else { "learner" };
        let _ = writeln!(out, "  node {} at {}: {kind}", m.node, plain(&m.address));
    }
    for g in &view.groups {
        let leader = g.leader.map_or("none".into(), |l| l.to_string());
        let _ = writeln!(
            out,
            "  group {}: leader {leader}, term {}, applied {} of {}",
            g.group, g.term, g.applied, g.last
        );
    }
    out.trim_end().to_owned()
}
