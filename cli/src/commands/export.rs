//! `quorate export telegram ARCHIVE|CHAT --out FILE`.

use super::Context;
use crate::client::ClientOptions;
use crate::exit::{CommandResult, Exit, Failure};
use crate::progress::Progress;
use crate::telegram::export::{Summary, export};
use crate::telegram::import::Observer;
use std::fs::File;
use std::path::{Path, PathBuf};

/// Attempts a request of an export.
const ATTEMPTS_MAX: u32 = 12;

/// Take chats out again
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    to: To,
}

#[derive(Debug, clap::Subcommand)]
enum To {
    /// Write Telegram Desktop's JSON: an archive as it was imported, or one chat
    Telegram(Telegram),
}

#[derive(Debug, clap::Args)]
struct Telegram {
    /// An archive (as `import` names it) or a chat
    chat: String,
    /// File to write, or - for standard output
    #[arg(long, short)]
    out: PathBuf,
    /// Replace the file if it exists
    #[arg(long)]
    force: bool,
    /// Write what is there of an import that was not finished
    #[arg(long)]
    partial: bool,
    /// Show no progress
    #[arg(long)]
    quiet: bool,
}

/// Runs the command.
///
/// # Errors
/// [`Failure`].
pub async fn run(args: Args, context: &Context) -> CommandResult {
    let To::Telegram(args) = args.to;
    super::check_chat(&args.chat)?;
    let to_stdout = args.out.as_os_str() == "-";
    let attempts = ClientOptions {
        attempts_max: ATTEMPTS_MAX,
        ..ClientOptions::default()
    };
    let client = context.client()?.with_options(attempts);
    let progress = Progress::new("export", context.output, args.quiet || to_stdout);
    let told = |messages: u64| progress.advance(messages, 0);
    if to_stdout {
        export(
            &client,
            &args.chat,
            args.partial,
            std::io::stdout().lock(),
            &told,
        )
        .await?;
        return Ok(Exit::Ok);
    }
    if args.out.exists() && !args.force {
        return Err(Failure::new(
            Exit::Conflict,
            "file_exists",
            format!("{} exists already", args.out.display()),
            "give another name, or --force to replace it",
        ));
    }
    // Under its own name only once it is whole.
    let mut unfinished = args.out.clone().into_os_string();
    unfinished.push(".partial");
    let unfinished = PathBuf::from(unfinished);
    let summary = write(&client, &args, &unfinished, &told).await;
    progress.end();
    if summary.is_err() {
        // The failure itself matters more than what it leaves.
        let _ = std::fs::remove_file(&unfinished);
    }
    let summary = summary?;
    std::fs::rename(&unfinished, &args.out)
        .map_err(|e| Failure::file("name the export", &args.out, &e))?;
    context.output.show(&summary, || {
        format!(
            "wrote {} messages of {} chats to {} ({} bytes)",
            summary.messages,
            summary.chats,
            args.out.display(),
            summary.bytes
        )
    })?;
    Ok(if summary.complete {
        Exit::Ok
    } else {
        Exit::Partial
    })
}

async fn write(
    client: &crate::client::Client,
    args: &Telegram,
    path: &Path,
    told: &(dyn Fn(u64) + Send + Sync),
) -> Result<Summary, Failure> {
    let file = File::create(path).map_err(|e| Failure::file("write", path, &e))?;
    let summary = export(client, &args.chat, args.partial, &file, told).await?;
    file.sync_all()
        .map_err(|e| Failure::file("write", path, &e))?;
    Ok(summary)
}
