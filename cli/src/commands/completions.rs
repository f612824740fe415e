//! `quorate completions SHELL`.

use super::Cli;
use crate::exit::{CommandResult, Exit};
use clap::CommandFactory;

/// Print completions for a shell
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Which shell
    shell: clap_complete::Shell,
}

/// Runs the command.
///
/// # Errors
/// Never; a reader that went away is none.
pub fn run(args: &Args) -> CommandResult {
    let mut text = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "quorate", &mut text);
    crate::output::Output { json: false }.line(&String::from_utf8_lossy(&text).trim_end())?;
    Ok(Exit::Ok)
}
