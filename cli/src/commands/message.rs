//! `quorate message send|edit|history|get`.

use super::chat::with_key;
use super::{Context, check_chat, content, idempotency_key};
use crate::exit::{CommandResult, Exit, Failure};
use crate::output::{plain, time};
use quorate_engine::api::{Content, MESSAGES_PER_CALL_MAX, Message, NewMessage, Written};
use quorate_engine::types::content::ContentView;
use serde_json::{Value, json};

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
