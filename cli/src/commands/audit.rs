//! `quorate audit`: what an auditor does.

use super::Context;
use crate::audit::AuditorKey;
use crate::exit::{CommandResult, Exit};
use serde_json::json;
use std::path::PathBuf;

/// Audit custodians, as somebody who believes none of them
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// Draw an auditor's key; custodians' officers admit it, each for their own log
    InitKey {
        /// Where the key goes; a new file, mode 0600
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
    },
}

/// Runs the command.
///
/// # Errors
/// [`Failure`](crate::exit::Failure).
pub fn run(args: &Args, context: &Context) -> CommandResult {
    let What::InitKey { out } = &args.what;
    let key = AuditorKey::make(out)?;
    let (id, public) = (key.id().to_string(), key.public().to_string());
    let value = json!({"auditor": id, "public": public, "file": out});
    context.output.show(&value, || {
        format!(
            "auditor {id}\n  public key {public}\n  in {}, for its owner only\nEach custodian's officers admit it: quorate officer propose CUSTODIAN --key KEY --reason TEXT admit-auditor NAME={public}",
            out.display()
        )
    })?;
    Ok(Exit::Ok)
}
