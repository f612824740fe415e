//! `quorate dev`: the embedded deployment in the foreground.

use super::{Context, deploy};
use crate::deployment::default_dir;
use crate::exit::{CommandResult, Exit, Failure};
use quorate_node::embedded::Embedded;
use quorate_node::embedded::layout::Layout;
use std::path::PathBuf;
use std::time::Duration;

/// Longest a start may take.
const READY_WAIT: Duration = Duration::from_secs(90);

/// Run a whole deployment in the foreground; other commands in another terminal find it
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The topology of a new deployment [default: the built-in one, a home and six custodians]
    #[arg(long, value_name = "FILE")]
    topology: Option<PathBuf>,
}

/// Runs the command.
///
/// # Errors
/// [`Failure`].
pub async fn run(args: Args, context: &Context) -> CommandResult {
    let failed = |e: &dyn std::fmt::Display| {
        Failure::new(
            Exit::Failed,
            "dev",
            e.to_string(),
            "mend it and start again; the data is kept",
        )
    };
    let given = context.global.deployment.clone().or_else(default_dir);
    let dir = given.ok_or_else(|| {
        Failure::usage(
            "no place for the deployment",
            "name one with --deployment DIR",
        )
    })?;
    let layout = if dir.join("layout.toml").exists() {
        if args.topology.is_some() {
            return Err(Failure::usage(
                format!("{} holds a deployment already", dir.display()),
                "start it without --topology, or choose another directory with --deployment",
            ));
        }
        Layout::load(&dir).map_err(|e| failed(&e))?
    } else {
        deploy::make(&deploy::topology(args.topology.as_deref())?, &dir)?
    };
    let nodes: usize = layout.clusters.iter().map(|c| c.nodes.len()).sum();
    let clusters = layout.clusters.len();
    let embedded = Embedded::start(layout).await.map_err(|e| failed(&e))?;
    let ready = tokio::select! {
        ready = embedded.wait_ready(READY_WAIT) => ready.map_err(|e| failed(&e)),
        _ = tokio::signal::ctrl_c() => Ok(()),
    };
    if let Err(e) = ready {
        embedded.shutdown().await;
        return Err(e);
    }
    let text = format!(
        "{clusters} clusters, {nodes} nodes run in {1}\n\
         One hand made all keys here: this is for trying out, not for keeping secrets.\n\
         In another terminal: quorate{0} status, and quorate{0} login --name NAME before the first chat\n\
         Ctrl-C stops it; the data is kept.",
        if context.global.deployment.is_some() {
            format!(" --deployment {}", dir.display())
        } else {
            String::new()
        },
        dir.display(),
    );
    let event = serde_json::json!({"event": "ready", "deployment": dir, "nodes": nodes});
    context.output.show(&event, || text)?;
    wait_for_end().await;
    embedded.shutdown().await;
    Ok(Exit::Ok)
}

async fn wait_for_end() {
    use tokio::signal::unix::{SignalKind, signal};
    match signal(SignalKind::terminate()) {
        Ok(mut term) => {
            tokio::select! {
                _ = term.recv() => {}
                _ = tokio::signal::ctrl_c() => {}
            }
        }
        // Without SIGTERM there is still Ctrl-C; an error there ends it as well.
        Err(_) => drop(tokio::signal::ctrl_c().await),
    }
}
