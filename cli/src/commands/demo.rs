//! `quorate demo [--import FILE]`.

use super::Context;
use crate::demo::{self, Plan};
use crate::exit::{CommandResult, Exit, Failure};
use std::path::PathBuf;

/// Show the main job on an embedded deployment: exits 0 only if every claim held
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Chats to take, an export of Telegram Desktop [default: chats it makes itself]
    #[arg(long, value_name = "FILE")]
    import: Option<PathBuf>,
    /// Keep the deployment in this new or empty directory
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

/// Runs the command.
///
/// # Errors
/// [`Failure`] when a claim did not hold.
pub async fn run(args: Args, context: &Context) -> CommandResult {
    let failed = |e: std::io::Error| Failure::file("make", &std::env::temp_dir(), &e);
    let temporary = match args.dir {
        Some(_) => None,
        None => Some(
            tempfile::Builder::new()
                .prefix("quorate-demo-")
                .tempdir()
                .map_err(failed)?,
        ),
    };
    let dir = match (&temporary, args.dir) {
        (Some(t), _) => t.path().to_owned(),
        (None, Some(dir)) => dir,
        (None, None) => return Err(Failure::usage("no directory", "name one with --dir")),
    };
    if let Some(file) = &args.import {
        std::fs::metadata(file).map_err(|e| Failure::file("read", file, &e))?;
    }
    let acts = demo::run(
        Plan {
            import: args.import,
            dir,
        },
        context.output,
    )
    .await?;
    if !context.output.json {
        context
            .output
            .line(&format!("all {} claims held", acts.len()))?;
    }
    Ok(Exit::Ok)
}
