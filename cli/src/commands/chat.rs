//! `quorate chat create|list|show`; members are in [`super::members`].

use super::{Context, check_chat, content, idempotency_key, members};
use crate::client::{CHATS_PER_PAGE, NewChat};
use crate::exit::{CommandResult, Exit, Failure};
use crate::output::{plain, time};
use quorate_engine::api::{Chat, ChatList, Content};
use serde_json::Value;

/// Create, list and show chats, and manage their members
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// Create a chat
    Create {
        /// Its title
        #[arg(required_unless_present = "profile")]
        title: Option<String>,
        /// Its whole profile: a JSON object, @FILE, or - for standard input
        #[arg(long, value_name = "JSON")]
        profile: Option<String>,
        /// Repeating the command with the same key gives the same chat
        #[arg(long, value_name = "KEY")]
        key: Option<String>,
        /// Let anyone join
        #[arg(long)]
        public: bool,
    },
    /// List your chats in order of id
    List {
        /// Most chats to list
        #[arg(long, default_value_t = 100)]
        limit: usize,
        /// Begin after this chat
        #[arg(long, value_name = "CHAT")]
        after: Option<String>,
        /// Show titles too; needs a quorum of custodians for chats without a lease
        #[arg(long)]
        profile: bool,
    },
    /// Show one chat and its profile
    Show {
        /// The chat
        chat: String,
        /// Leave the profile closed: needs no key
        #[arg(long)]
        no_profile: bool,
    },
    #[command(flatten)]
    Members(members::What),
}

/// Runs the command.
///
/// # Errors
/// [`Failure`].
pub async fn run(args: Args, context: &Context) -> CommandResult {
    match args.action {
        Action::Create {
            title,
            profile,
            key,
            public,
        } => create(title, profile, key, public, context).await,
        Action::Members(what) => members::run(what, context).await,
        Action::List {
            limit,
            after,
            profile,
        } => list(limit, after, profile, context).await,
        Action::Show { chat, no_profile } => {
            check_chat(&chat)?;
            let chat = context.client()?.chat(&chat, !no_profile).await?;
            context.output.show(&chat, || describe(&chat))?;
            Ok(Exit::Ok)
        }
    }
}

async fn create(
    title: Option<String>,
    profile: Option<String>,
    key: Option<String>,
    public: bool,
    context: &Context,
) -> CommandResult {
    let mut profile = profile.map_or_else(|| Ok(Content::new()), |p| content(&p))?;
    if let Some(title) = title {
        profile.insert("name".into(), title.into());
    }
    let request = NewChat {
        idempotency_key: idempotency_key(key),
        profile,
        public,
        keep: true,
    };
    let chat = context
        .client()?
        .create_chat(&request)
        .await
        .map_err(|e| with_key(e.into(), &request.idempotency_key))?;
    context.output.show(&chat, || chat.id.clone())?;
    Ok(Exit::Ok)
}

/// When the outcome is unknown, the key is what makes repeating safe.
pub(super) fn with_key(mut failure: Failure, key: &str) -> Failure {
    if failure.exit == Exit::Unavailable {
        failure.next = format!(
            "run it again with --key {key}: it will not be done twice; {}",
            failure.next
        );
    }
    failure
}

async fn list(
    limit: usize,
    after: Option<String>,
    profile: bool,
    context: &Context,
) -> CommandResult {
    let client = context.client()?;
    if let Some(after) = &after {
        check_chat(after)?;
    }
    let mut all = ChatList {
        chats: Vec::new(),
        next: after,
    };
    loop {
        let want = (limit - all.chats.len()).min(CHATS_PER_PAGE);
        if want == 0 {
            break;
        }
        let page = client
            .list_chats(all.next.as_deref(), want, profile)
            .await?;
        let end = page.chats.is_empty() || page.next.is_none();
        all.chats.extend(page.chats);
        all.next = page.next;
        if end {
            break;
        }
    }
    context.output.show(&all, || table(&all))?;
    Ok(Exit::Ok)
}

/// The title a profile gives its chat.
pub(super) fn title(profile: Option<&Content>) -> String {
    profile
        .and_then(|p| p.get("name"))
        .and_then(Value::as_str)
        .map_or_else(String::new, plain)
}

fn table(all: &ChatList) -> String {
    let mut table = comfy_table::Table::new();
    table.load_style(comfy_table::presets::UTF8_NO_BORDERS);
    table.set_header(["chat", "created", "messages", "epochs", "", "title"]);
    for c in &all.chats {
        let thin = if c.thin { "thin" } else { "" };
        let row = [
            c.id.clone(),
            time(c.created_ms),
            c.messages.to_string(),
            c.epochs.to_string(),
            thin.to_owned(),
            title(c.profile.as_ref()),
        ];
        table.add_row(row);
    }
    match &all.next {
        Some(next) => format!("{table}\nmore with --after {next}"),
        None => table.to_string(),
    }
}

fn describe(chat: &Chat) -> String {
    let thin = if chat.thin {
        "\nthin:     its open epoch has less than its policy's write margin"
    } else {
        ""
    };
    let profile = match &chat.profile {
        Some(profile) => {
            let text = serde_json::to_string_pretty(profile).unwrap_or_default();
            format!("\nprofile:  {}", plain(&text).replace('\n', "\n          "))
        }
        None => String::new(),
    };
    format!(
        "chat:     {}\ncreated:  {}\nmessages: {}\nepochs:   {}{thin}{profile}",
        chat.id,
        time(chat.created_ms),
        chat.messages,
        chat.epochs
    )
}
