//! `quorate home init|renew|new-node|service-credential`.

use super::{Context, entity, services};
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
    /// Issue certificates anew before they end
    Renew(entity::Renew),
    /// Make the directory of one more node, for `cluster add-node`
    NewNode(entity::NewNode),
    /// Service credentials: keys of programs that append for accounts, and read nothing
    #[command(subcommand)]
    ServiceCredential(services::What),
}

/// Runs the command.
///
/// # Errors
/// [`crate::exit::Failure`].
pub async fn run(args: Args, context: &Context) -> CommandResult {
    match &args.what {
        What::Init(args) => entity::init(ClusterRole::Home, args, context),
        What::Renew(args) => entity::renew(ClusterRole::Home, args, context),
        What::NewNode(args) => entity::new_node(ClusterRole::Home, args, context),
        What::ServiceCredential(what) => services::run(what, context).await,
    }
}
