//! Streams an archive, or one chat, back as the JSON it came from.
//!
//! Pages of one chat are fetched a few ahead and written in order; nothing
//! larger than that is held. The text is indented by one space a level, as
//! Telegram Desktop writes it.

use super::import::{ARCHIVE, CHAT, COMPLETE};
use super::records::Joiner;
use super::survey::CHATS;
use super::value;
use crate::client::{Client, ClientError};
use crate::exit::{Exit, Failure};
use futures::{StreamExt, TryStreamExt, stream};
use quorate_engine::api::{Content, Message};
use serde::Serialize;
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::io::Write;

/// Messages asked for at once.
const PAGE_MESSAGES: u64 = 256;
/// Pages fetched ahead of the one being written.
const PAGES_AHEAD: usize = 3;
/// Bytes gathered before they are written.
const WRITE_BYTES: usize = 256 << 10;

/// What an export wrote.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Summary {
    /// Chats.
    pub chats: u64,
    /// Messages.
    pub messages: u64,
    /// Bytes of JSON.
    pub bytes: u64,
    /// The import of this archive was finished.
    pub complete: bool,
}

/// Writes the JSON of `chat`, an archive or a chat, to `out`.
///
/// # Errors
/// [`Failure`] when it cannot be read whole. An unfinished import is one, unless `partial`.
pub async fn export<W: Write>(
    client: &Client,
    chat: &str,
    partial: bool,
    out: W,
    told: &(dyn Fn(u64) + Send + Sync),
) -> Result<Summary, Failure> {
    let profile = client
        .message(chat, 0)
        .await
        .map_err(Failure::from)?
        .content;
    let mut e = Exporter {
        client,
        out,
        buffer: Vec::with_capacity(2 * WRITE_BYTES),
        summary: Summary::default(),
        told,
    };
    if profile.contains_key(ARCHIVE) {
        e.archive(chat, profile, partial).await?;
    } else {
        e.summary.complete = true;
        e.chat(chat, Some(profile), 0).await?;
    }
    e.buffer.push(b'\n');
    e.write(true)?;
    Ok(e.summary)
}

struct Exporter<'a, W> {
    client: &'a Client,
    out: W,
    buffer: Vec<u8>,
    summary: Summary,
    told: &'a (dyn Fn(u64) + Send + Sync),
}

fn damaged(chat: &str, what: &dyn std::fmt::Display) -> Failure {
    Failure::new(
        Exit::Failed,
        "archive_damaged",
        format!("chat {chat} is not as an import leaves it: {what}"),
        "if it was edited by hand, undo that; else import the file anew",
    )
}

impl<W: Write> Exporter<'_, W> {
    fn write(&mut self, all: bool) -> Result<(), Failure> {
        if !all && self.buffer.len() < WRITE_BYTES {
            return Ok(());
        }
        let written = self.out.write_all(&self.buffer);
        let written = written.and_then(|()| if all { self.out.flush() } else { Ok(()) });
        written.map_err(|e| {
            Failure::new(
                Exit::Failed,
                "file",
                format!("cannot write the export: {e}"),
                "make room, and run the command again",
            )
        })?;
        self.summary.bytes += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }

    /// The fields that a profile stands for: inside it, or in its first `records` messages.
    async fn fields(
        &self,
        chat: &str,
        mark: &Value,
        inside: Content,
    ) -> Result<(Content, u64), Failure> {
        let Some(records) = mark.get("profile_records").and_then(Value::as_u64) else {
            return Ok((inside, 0));
        };
        let mut joiner = Joiner::default();
        let mut pages = pages(self.client, chat, 1, records);
        while let Some(messages) = pages.try_next().await.map_err(Failure::from)? {
            for m in messages {
                if let Some(Value::Object(fields)) = joiner
                    .push(m.id, m.content)
                    .map_err(|e| damaged(chat, &e))?
                {
                    return Ok((fields, records));
                }
            }
        }
        Err(damaged(chat, &"the records of its profile are missing"))
    }

    async fn archive(
        &mut self,
        archive: &str,
        mut profile: Content,
        partial: bool,
    ) -> Result<(), Failure> {
        let mark = profile.remove(ARCHIVE).unwrap_or_default();
        if mark["version"].as_u64() != Some(super::import::MAPPING_VERSION) {
            return Err(damaged(
                archive,
                &format!(
                    "its mapping version is {}, this build reads 1",
                    mark["version"]
                ),
            ));
        }
        let inside = match profile.remove("root") {
            Some(Value::Object(root)) => root,
            _ => Content::new(),
        };
        let (root, used) = self.fields(archive, &mark, inside).await?;
        let mut lists: BTreeMap<String, Vec<String>> = BTreeMap::new();
        let total = self
            .client
            .chat(archive, false)
            .await
            .map_err(Failure::from)?
            .messages;
        let mut pages = pages(self.client, archive, used + 1, total);
        while let Some(messages) = pages.try_next().await.map_err(Failure::from)? {
            for m in messages {
                self.summary.complete |= m.content.contains_key(COMPLETE);
                let Some(entry) = m.content.get(CHAT) else {
                    continue;
                };
                let (Some(list), Some(index), Some(chat)) = (
                    entry["list"].as_str(),
                    entry["index"].as_u64(),
                    entry["chat"].as_str(),
                ) else {
                    return Err(damaged(archive, &format!("record {} names no chat", m.id)));
                };
                let list = lists.entry(list.to_owned()).or_default();
                if index != list.len() as u64 {
                    return Err(damaged(
                        archive,
                        &format!("record {} is out of order", m.id),
                    ));
                }
                list.push(chat.to_owned());
            }
        }
        if !self.summary.complete && !partial {
            return Err(Failure::new(
                Exit::Conflict,
                "import_unfinished",
                format!("the import into archive {archive} was not finished"),
                "run the same import again to finish it, or export what is there with --partial",
            ));
        }
        if mark["layout"] == "single" {
            return match lists.get("root").and_then(|l| l.first()) {
                Some(chat) => self.chat(&chat.clone(), None, 0).await,
                None => Err(damaged(archive, &"its chat is missing")),
            };
        }
        self.root(&root, &lists).await
    }

    async fn root(
        &mut self,
        root: &Content,
        lists: &BTreeMap<String, Vec<String>>,
    ) -> Result<(), Failure> {
        let mut first = true;
        self.buffer.push(b'{');
        for (key, value) in root {
            match value {
                Value::Object(inner)
                    if inner.get("list").is_some_and(|l| l.get(CHATS).is_some()) =>
                {
                    value::write_key(&mut self.buffer, key, &mut first, 1);
                    self.list(key, inner, lists).await?;
                }
                _ => value::write_member(&mut self.buffer, root, key, value, &mut first, 1),
            }
            self.write(false)?;
        }
        value::new_line(&mut self.buffer, 0);
        self.buffer.push(b'}');
        Ok(())
    }

    async fn list(
        &mut self,
        name: &str,
        inner: &Map<String, Value>,
        lists: &BTreeMap<String, Vec<String>>,
    ) -> Result<(), Failure> {
        let mut first = true;
        self.buffer.push(b'{');
        for (key, value) in inner {
            if key != "list" {
                value::write_member(&mut self.buffer, inner, key, value, &mut first, 2);
                continue;
            }
            value::write_key(&mut self.buffer, key, &mut first, 2);
            self.buffer.push(b'[');
            let chats = lists.get(name).map_or(&[][..], |l| l);
            for (i, chat) in chats.iter().enumerate() {
                value::separate(&mut self.buffer, i == 0, 3);
                self.chat(chat, None, 3).await?;
            }
            if !chats.is_empty() {
                value::new_line(&mut self.buffer, 2);
            }
            self.buffer.push(b']');
        }
        value::new_line(&mut self.buffer, 1);
        self.buffer.push(b'}');
        Ok(())
    }

    /// One chat. `profile` is given when it was read already.
    async fn chat(
        &mut self,
        chat: &str,
        profile: Option<Content>,
        indent: usize,
    ) -> Result<(), Failure> {
        let mut profile = match profile {
            Some(profile) => profile,
            None => {
                self.client
                    .message(chat, 0)
                    .await
                    .map_err(Failure::from)?
                    .content
            }
        };
        // A chat that no import made has its messages behind its profile.
        let imported = profile.shift_remove(CHAT);
        let mark = imported.clone().unwrap_or_default();
        let (fields, used) = self.fields(chat, &mark, profile).await?;
        self.summary.chats += 1;
        let position = match imported {
            Some(mark) => mark
                .get("messages_at")
                .and_then(Value::as_u64)
                .map(|p| p as usize),
            None => Some(fields.len()),
        };
        if let (1, Some(bare)) = (fields.len(), fields.get(super::records::VALUE)) {
            value::write(&mut self.buffer, bare, indent);
            return Ok(());
        }
        let mut first = true;
        self.buffer.push(b'{');
        for (i, (key, value)) in fields.iter().enumerate() {
            if position == Some(i) {
                self.messages(chat, used, &mut first, indent + 1).await?;
            }
            value::write_member(
                &mut self.buffer,
                &fields,
                key,
                value,
                &mut first,
                indent + 1,
            );
        }
        if position.is_some_and(|p| p >= fields.len()) {
            self.messages(chat, used, &mut first, indent + 1).await?;
        }
        if !first {
            value::new_line(&mut self.buffer, indent);
        }
        self.buffer.push(b'}');
        self.write(false)
    }

    async fn messages(
        &mut self,
        chat: &str,
        used: u64,
        first: &mut bool,
        indent: usize,
    ) -> Result<(), Failure> {
        value::write_key(&mut self.buffer, "messages", first, indent);
        self.buffer.push(b'[');
        let total = self
            .client
            .chat(chat, false)
            .await
            .map_err(Failure::from)?
            .messages;
        let mut joiner = Joiner::default();
        let mut none = true;
        let mut pages = pages(self.client, chat, used + 1, total);
        while let Some(messages) = pages.try_next().await.map_err(Failure::from)? {
            let before = self.summary.messages;
            for m in messages {
                let Some(message) = joiner
                    .push(m.id, m.content)
                    .map_err(|e| damaged(chat, &e))?
                else {
                    continue;
                };
                value::separate(&mut self.buffer, none, indent + 1);
                value::write(&mut self.buffer, &message, indent + 1);
                none = false;
                self.summary.messages += 1;
                self.write(false)?;
            }
            (self.told)(self.summary.messages - before);
        }
        if joiner.is_open() {
            return Err(damaged(
                chat,
                &"the last parts of a long message are missing; finish the import",
            ));
        }
        if !none {
            value::new_line(&mut self.buffer, indent);
        }
        self.buffer.push(b']');
        Ok(())
    }
}

/// Messages `from..=to`, in order, some pages ahead.
fn pages<'a>(
    client: &'a Client,
    chat: &'a str,
    from: u64,
    to: u64,
) -> impl futures::Stream<Item = Result<Vec<Message>, ClientError>> + Unpin + 'a {
    let starts = (from..=to).step_by(PAGE_MESSAGES as usize);
    let fetch = move |start: u64| range(client, chat, start, to.min(start + PAGE_MESSAGES - 1));
    Box::pin(stream::iter(starts).map(fetch).buffered(PAGES_AHEAD))
}

/// Messages `from..=to`, however many pages the home makes of them.
async fn range(
    client: &Client,
    chat: &str,
    from: u64,
    to: u64,
) -> Result<Vec<Message>, ClientError> {
    let mut out: Vec<Message> = Vec::new();
    let mut next = from;
    while next <= to {
        let page = client.page(chat, next, (to - next + 1) as usize).await?;
        let wrong = |detail: String| ClientError::Malformed {
            path: format!("messages {next} to {to} of chat {chat}"),
            detail,
        };
        if page.messages.is_empty() {
            return Err(wrong("a message is missing".to_owned()));
        }
        for m in page.messages {
            if m.id != from + out.len() as u64 {
                return Err(wrong(format!("message {} came out of order", m.id)));
            }
            out.push(m);
        }
        next = from + out.len() as u64;
    }
    Ok(out)
}
