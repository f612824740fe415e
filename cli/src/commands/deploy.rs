//! `quorate deploy init`: a whole deployment from one topology, for tests and trying out.

use super::Context;
use crate::exit::{CommandResult, Exit, Failure};
use quorate_node::embedded::layout::{Layout, LayoutError, lay_out};
use quorate_node::embedded::topology::Topology;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

/// Make whole deployments, for tests and trying out
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// Make the keys, certificates and configurations of every entity of a topology
    Init(Init),
    /// Print the built-in topology, as a start for your own
    Topology,
}

#[derive(Debug, clap::Args)]
struct Init {
    /// A new or empty directory
    dir: PathBuf,
    /// The topology [default: the built-in one, a home and six custodians]
    #[arg(long, value_name = "FILE")]
    topology: Option<PathBuf>,
}

/// Runs the command.
///
/// # Errors
/// [`Failure`].
pub fn run(args: &Args, context: &Context) -> CommandResult {
    let init = match &args.what {
        What::Init(init) => init,
        What::Topology => {
            context
                .output
                .line(&quorate_node::embedded::topology::DEFAULT_TOPOLOGY.trim_end())?;
            return Ok(Exit::Ok);
        }
    };
    let topology = topology(init.topology.as_deref())?;
    let layout = make(&topology, &init.dir)?;
    context.output.show(&layout, || text(&layout))?;
    Ok(Exit::Ok)
}

/// The topology in `file`, or the built-in one.
///
/// # Errors
/// [`Failure`] naming file and key.
pub fn topology(file: Option<&Path>) -> Result<Topology, Failure> {
    match file {
        None => Ok(Topology::default_deployment()),
        Some(file) => Topology::load(file).map_err(|e| {
            Failure::usage(
                e.to_string(),
                "correct it; `quorate deploy topology` prints one that works",
            )
        }),
    }
}

/// Lays a deployment out; commands find it by the `layout.toml` in it.
///
/// # Errors
/// [`Failure`].
pub fn make(topology: &Topology, dir: &Path) -> Result<Layout, Failure> {
    lay_out(topology, dir).map_err(|e| match e {
        LayoutError::Exists(_) | LayoutError::Option(_) => {
            Failure::usage(e.to_string(), "nothing was written")
        }
        _ => Failure::new(
            Exit::Failed,
            "layout",
            e.to_string(),
            "check the directory and the disk it is on",
        ),
    })
}

fn text(layout: &Layout) -> String {
    let mut out = format!(
        "deployment {} in {}\n",
        layout.deployment,
        layout.dir.display()
    );
    out.push_str("One hand made all keys here: this is for trying out, not for keeping secrets.\n");
    out.push_str("Start each node in its own process:\n");
    for cluster in &layout.clusters {
        for node in &cluster.nodes {
            let _ = writeln!(out, "  quorate-node --config {}", node.config.display());
        }
    }
    let _ = write!(
        out,
        "then: quorate --deployment {} status",
        layout.dir.display()
    );
    out
}
