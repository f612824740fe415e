//! `quorate policy explain|lint FILE`.

use super::Context;
use crate::exit::{CommandResult, Exit, Failure};
use std::path::PathBuf;

/// Explain and check policies
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// Say what a policy means: who suffices, who can block, what each loss leaves
    Explain {
        /// TOML file with the policy
        file: PathBuf,
    },
    /// Check a policy; says what is wrong and the way out
    Lint {
        /// TOML file with the policy
        file: PathBuf,
    },
}

/// Runs the command.
///
/// # Errors
/// [`Failure`].
pub fn run(args: &Args, _context: &Context) -> CommandResult {
    let (Action::Explain { file } | Action::Lint { file }) = &args.action;
    crate::deployment::read_limited(file).map_err(|e| Failure::file("read", file, &e))?;
    Err(Failure::new(
        Exit::Failed,
        "not_built",
        "policies cannot be analysed in this build",
        "use a later build",
    ))
}
