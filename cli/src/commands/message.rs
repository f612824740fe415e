//! `quorate message send|edit|history|get|sign-deletion`.

use super::chat::with_key;
use super::members::chat_id;
use super::{Context, check_chat, content, idempotency_key};
use crate::exit::{CommandResult, Exit, Failure};
use crate::output::{plain, time};
use quorate_engine::api::{Content, MESSAGES_PER_CALL_MAX, Message, NewMessage, Written};
use quorate_engine::authz::deletion::{DELETION_EPOCHS_MAX, DELETION_MESSAGES_MAX, Whose};
use quorate_engine::types::content::ContentView;
use serde_json::{Value, json};
use std::collections::BTreeSet;

/// Send, edit and read messages
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Args)]
struct Body {
    /// The text
    #[arg(required_unless_present = "content", conflicts_with = "content")]
    text: Option<String>,
    /// The whole content: a JSON object, @FILE, or - for standard input
    #[arg(long, value_name = "JSON")]
    content: Option<String>,
    /// Repeating the command with the same key does it once
    #[arg(long, value_name = "KEY")]
    key: Option<String>,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// Send a message
    Send {
        /// The chat
        chat: String,
        #[command(flatten)]
        body: Body,
        /// The message it answers
        #[arg(long, value_name = "ID")]
        reply_to: Option<u64>,
    },
    /// Replace a message's text or content
    Edit {
        /// The chat
        chat: String,
        /// The message
        id: u64,
        #[command(flatten)]
        body: Body,
        /// Only if it is at this revision [default: the one it is at now]
        #[arg(long)]
        revision: Option<u32>,
    },
    /// Show a run of messages
    History {
        /// The chat
        chat: String,
        /// First message [default: so that the last ones are shown]
        #[arg(long, value_name = "ID")]
        from: Option<u64>,
        /// Most messages
        #[arg(long, default_value_t = 50)]
        limit: usize,
    },
    /// Sign that messages are to be deleted. Nothing is erased by this command; it says what happens when
    SignDeletion {
        /// The chat
        chat: String,
        /// The messages
        #[arg(required = true, num_args = 1..)]
        ids: Vec<u64>,
        /// Messages of others, too; takes the creator or an admin
        #[arg(long)]
        anyone: bool,
        /// Also ask custodians for the keys under the statement, once, to see that they honour it
        #[arg(long)]
        check: bool,
    },
    /// Show one message
    Get {
        /// The chat
        chat: String,
        /// The message; 0 is the chat's profile
        id: u64,
    },
}

/// Runs the command.
///
/// # Errors
/// [`Failure`].
pub async fn run(args: Args, context: &Context) -> CommandResult {
    match args.action {
        Action::Send {
            chat,
            body,
            reply_to,
        } => send(&chat, body, reply_to, context).await,
        Action::Edit {
            chat,
            id,
            body,
            revision,
        } => edit(&chat, id, body, revision, context).await,
        Action::History { chat, from, limit } => history(&chat, from, limit, context).await,
        Action::SignDeletion {
            chat,
            ids,
            anyone,
            check,
        } => sign_deletion(&chat, ids, anyone, check, context).await,
        Action::Get { chat, id } => {
            check_chat(&chat)?;
            let message = context.client()?.message(&chat, id).await?;
            context.output.show(&message, || {
                let content = serde_json::to_string_pretty(&message.content).unwrap_or_default();
                format!("{}\n{}", line(&message), plain(&content))
            })?;
            Ok(Exit::Ok)
        }
    }
}

fn set_text(content: &mut Content, text: &str) {
    content.insert("text".into(), text.into());
    content.insert(
        "text_entities".into(),
        json!([{"type": "plain", "text": text}]),
    );
}

async fn send(chat: &str, body: Body, reply_to: Option<u64>, context: &Context) -> CommandResult {
    check_chat(chat)?;
    let mut message = match &body.content {
        Some(given) => content(given)?,
        None => Content::from_iter([("type".to_owned(), Value::from("message"))]),
    };
    if let Some(id) = reply_to {
        message.insert("reply_to_message_id".into(), id.into());
    }
    if let Some(text) = &body.text {
        set_text(&mut message, text);
    }
    let key = idempotency_key(body.key);
    let new = NewMessage {
        idempotency_key: key.clone(),
        content: message,
    };
    let written = context
        .client()?
        .append(chat, vec![new])
        .await
        .map_err(|e| with_key(e.into(), &key))?;
    match written.messages.first() {
        Some(written) => shown(written, context),
        None => Err(Failure::new(
            Exit::Failed,
            "bad_answer",
            "the home's answer names no message",
            "look with `quorate message history`",
        )),
    }
}

async fn edit(
    chat: &str,
    id: u64,
    body: Body,
    revision: Option<u32>,
    context: &Context,
) -> CommandResult {
    check_chat(chat)?;
    let client = context.client()?;
    let (mut message, at) = match (&body.content, revision) {
        (Some(given), Some(revision)) => (content(given)?, revision),
        (given, revision) => {
            let now = client.message(chat, id).await?;
            let message = given.as_deref().map_or(Ok(now.content), content)?;
            (message, revision.unwrap_or(now.revision))
        }
    };
    if let Some(text) = &body.text {
        set_text(&mut message, text);
    }
    let key = idempotency_key(body.key);
    let written = client
        .edit(chat, id, at, key.clone(), message)
        .await
        .map_err(|e| with_key(e.into(), &key))?;
    shown(&written, context)
}

async fn sign_deletion(
    chat: &str,
    ids: Vec<u64>,
    anyone: bool,
    check: bool,
    context: &Context,
) -> CommandResult {
    let id = chat_id(chat)?;
    let ids: BTreeSet<u64> = ids.into_iter().collect();
    let (first, last) = (ids.first(), ids.last());
    if first == Some(&0) || ids.len() > DELETION_MESSAGES_MAX {
        let what = format!("one statement names 1 to {DELETION_MESSAGES_MAX} messages, never 0");
        let next = "0 is the chat's profile; name fewer messages, and sign again for the others";
        return Err(Failure::usage(what, next));
    }
    let deployment = context.deployment()?;
    let person = deployment.person(&context.wallet(&deployment)?)?;
    let client = deployment.client(Some(person.clone()))?;
    let mut epochs = BTreeSet::new();
    let mut next = first.copied();
    // Page by page: one message names its epoch.
    while let (Some(from), Some(last)) = (next, last) {
        let limit = usize::try_from(last - from + 1).unwrap_or(usize::MAX);
        let page = client
            .page(chat, from, limit.min(MESSAGES_PER_CALL_MAX))
            .await?;
        let named = page.messages.iter().filter(|m| ids.contains(&m.id));
        epochs.extend(named.map(|m| m.epoch));
        let seen = page.messages.last().map_or(*last, |m| m.id);
        next = ids.range(seen.saturating_add(1)..).next().copied();
    }
    let whose = if anyone { Whose::Anyone } else { Whose::Own };
    let statement = person.deletion(id, whose, &ids, &epochs).map_err(|e| {
        let found = epochs.len();
        Failure::usage(
            format!("{e}: the messages lie in {found} key epochs, 1 to {DELETION_EPOCHS_MAX} are allowed"),
            "check the ids with `quorate message history`, or name fewer messages",
        )
    })?;
    let told = client.delete(&id, &statement, check).await?;
    context.output.show(&told, || {
        let mut text = format!(
            "deletion {} is recorded: {} messages in {} key epochs\n\
             now:   nothing is erased; members read these messages as before\n\
             later: the home may fetch these epochs' keys under it until {}, to write anew what stays. \
             This release does not rewrite yet",
            told.id,
            told.messages,
            told.epochs.len(),
            time(told.mandate_ends_ms)
        );
        for one in told.checked.iter().flatten() {
            let (epoch, n) = (one.epoch, one.messages);
            let by = one.custodians.join(", ");
            text += &format!("\nchecked: epoch {epoch}: {n} of them open with shares of {by}");
        }
        text
    })?;
    Ok(Exit::Ok)
}

fn shown(written: &Written, context: &Context) -> CommandResult {
    context.output.show(written, || {
        let repeated = if written.repeated {
            " (it was there already)"
        } else {
            ""
        };
        format!(
            "message {} revision {} at {}{repeated}",
            written.id,
            written.revision,
            time(written.at_ms)
        )
    })?;
    Ok(Exit::Ok)
}

async fn history(chat: &str, from: Option<u64>, limit: usize, context: &Context) -> CommandResult {
    check_chat(chat)?;
    let client = context.client()?;
    let mut next = match from {
        Some(from) => from,
        None => {
            client
                .chat(chat, false)
                .await?
                .messages
                .saturating_sub(limit as u64)
                + 1
        }
    };
    let mut left = limit;
    while left > 0 {
        let page = client
            .page(chat, next, left.min(MESSAGES_PER_CALL_MAX))
            .await?;
        for message in &page.messages {
            context.output.show(message, || line(message))?;
        }
        left = left.saturating_sub(page.messages.len());
        match page.next {
            Some(n) if n > next => next = n,
            _ => break,
        }
    }
    Ok(Exit::Ok)
}

/// The beginning of a device's id, for people.
fn device(id: &str) -> String {
    format!("device {}", id.chars().take(12).collect::<String>())
}

fn line(message: &Message) -> String {
    let view = ContentView::new(&message.content);
    let edited = if message.revision > 0 {
        format!(" (edited, revision {})", message.revision)
    } else {
        String::new()
    };
    let from = view
        .sender()
        .map_or_else(|| device(&message.device), str::to_owned);
    plain(&format!(
        "{:>6}  {}  {from}: {}{edited}",
        message.id,
        time(message.sent_ms),
        view.summary()
    ))
}
