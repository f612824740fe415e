//! `quorate home init`.

use super::{Context, entity};
use crate::exit::CommandResult;
use quorate_node::config::ClusterRole;

/// Set up a home
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// Make a home's keys, certificates and configurations, and print its descriptor's fingerprint
    Init(entity::Init),
}

/// Runs the command.
///
/// # Errors
/// [`crate::exit::Failure`].
pub fn run(args: &Args, context: &Context) -> CommandResult {
    let What::Init(init) = &args.what;
    entity::init(ClusterRole::Home, init, context)
}
