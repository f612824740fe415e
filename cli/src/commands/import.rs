//! `quorate import telegram FILE`.

use super::Context;
use crate::client::ClientOptions;
use crate::exit::{CommandResult, Exit, Failure};
use crate::people::service::ServiceFile;
use crate::progress::Progress;
use crate::telegram::import::{Part, Plan, Summary, import};
use quorate_engine::types::AccountId;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::sync::Arc;

/// Attempts a request of an import: it outlives elections and restarts.
const ATTEMPTS_MAX: u32 = 24;
/// Unreadable parts shown to a person; `--json` has more.
const SHOWN_MAX: usize = 20;

/// Bring chats in from elsewhere
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    from: From,
}

#[derive(Debug, clap::Subcommand)]
enum From {
    /// Import Telegram Desktop's JSON export; goes on where it was interrupted
    Telegram(Telegram),
}

#[derive(Debug, clap::Args)]
struct Telegram {
    /// result.json of a full export or of one chat
    file: PathBuf,
    /// Import a file a second time, as copy N
    #[arg(long, value_name = "N", default_value_t = 0)]
    copy: u32,
    /// Make the chats and send no messages yet: a service credential may send them
    #[arg(long, conflicts_with = "service")]
    prepare: bool,
    /// Send the messages of a prepared import with the service credential in FILE; no wallet is used
    #[arg(long, value_name = "FILE")]
    service: Option<PathBuf>,
    /// For whom, where the service credential is not for one account alone
    #[arg(long = "for", value_name = "ACCOUNT", requires = "service")]
    account: Option<AccountId>,
    /// Show no progress
    #[arg(long)]
    quiet: bool,
}

/// Runs the command.
///
/// # Errors
/// [`Failure`].
pub async fn run(args: Args, context: &Context) -> CommandResult {
    let From::Telegram(args) = args.from;
    let deployment = context.deployment()?;
    let attempts = ClientOptions {
        attempts_max: ATTEMPTS_MAX,
        ..ClientOptions::default()
    };
    let (client, account) = match &args.service {
        Some(path) => {
            let file = ServiceFile::load(path)?;
            let account = file.account(args.account)?;
            (deployment.client_of_service(file, account)?, account)
        }
        None => {
            let wallet = context.wallet(&deployment)?;
            let person = deployment.person(&wallet)?;
            (deployment.client(Some(person))?, wallet.account)
        }
    };
    let client = client.with_options(attempts);
    let secret = deployment.secret()?;
    let part = match (args.prepare, &args.service) {
        (true, _) => Part::Chats,
        (false, Some(_)) => Part::Messages,
        (false, None) => Part::All,
    };
    let plan = Plan {
        file: args.file,
        journals: deployment.imports_dir(&account)?,
        copy: args.copy,
        part,
    };
    let progress = Arc::new(Progress::new("import", context.output, args.quiet));
    let summary = import(&client, &secret, &plan, progress).await?;
    context.output.show(&event(&summary)?, || match part {
        Part::Chats => prepared(&summary),
        _ => text(&summary),
    })?;
    match part {
        Part::Chats => Ok(Exit::Ok),
        _ => Ok(summary.exit()),
    }
}

fn event(summary: &Summary) -> Result<serde_json::Value, Failure> {
    let mut value = serde_json::to_value(summary)
        .map_err(|e| Failure::new(Exit::Failed, "internal", e.to_string(), "report it"))?;
    value["event"] = "summary".into();
    Ok(value)
}

fn prepared(s: &Summary) -> String {
    format!(
        "made {} chats as archive {}; no message was sent\nsend them with: quorate import telegram FILE --service CREDENTIAL",
        s.chats, s.archive
    )
}

fn text(s: &Summary) -> String {
    let mut out = format!(
        "imported {} messages of {} chats as archive {}",
        s.messages, s.chats, s.archive
    );
    if s.already > 0 {
        let _ = write!(
            out,
            "\n{} of them were stored already by an earlier run",
            s.already
        );
    }
    let n = s.notes;
    for (count, what) in [
        (
            n.control_bytes,
            "control bytes written as \\xNN or bare: read as the characters they mean",
        ),
        (
            n.long_numbers,
            "numbers too long for a machine: kept digit for digit",
        ),
        (
            n.duplicate_keys,
            "keys that stood twice in one object: both values kept",
        ),
    ] {
        if count > 0 {
            let _ = write!(out, "\n{count} {what}");
        }
    }
    if s.media_files > 0 {
        let _ = write!(
            out,
            "\n{} messages name media files: what is known of them is stored, the files themselves are not uploaded yet",
            s.media_files
        );
    }
    broken(s, &mut out);
    let _ = write!(
        out,
        "\nexport it with: quorate export telegram {} --out FILE",
        s.archive
    );
    out
}

/// What went wrong, and what could not be read.
fn broken(s: &Summary, out: &mut String) {
    for warning in &s.warnings {
        let _ = write!(out, "\nwarning: {warning}");
    }
    if s.unread_total > 0 {
        let _ = write!(
            out,
            "\ncould not read {} parts of the file:",
            s.unread_total
        );
    }
    for unread in s.unread.iter().take(SHOWN_MAX) {
        let kept = if unread.kept {
            " (its bytes are kept)"
        } else {
            ""
        };
        let _ = write!(
            out,
            "\n  {} at byte {}: {}{kept}",
            unread.path, unread.offset, unread.reason
        );
    }
    if s.unread_total > SHOWN_MAX as u64 {
        let _ = write!(
            out,
            "\n  … and {} more; --json names up to 1000",
            s.unread_total - SHOWN_MAX as u64
        );
    }
}
