//! `quorate bench`.
use super::Context;
use crate::exit::{CommandResult, Exit};
/// Measure a deployment
#[derive(Debug, clap::Args)]
pub struct Args {}
/// Runs the command.
///
/// # Errors
/// Never.
pub async fn run(_args: Args, _context: &Context) -> CommandResult {
    Ok(Exit::Ok)
}
