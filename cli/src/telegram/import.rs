//! Sends a surveyed export to the home.
//!
//! Chats are made first, in order; then several chats' messages are sent at
//! once, each chat's strictly one batch after another. Every request's
//! idempotency key follows from (import, chat, record) alone, so whatever was
//! interrupted is repeated without doubling anything.

use super::batch::{Batch, Builder, Reader};
use super::identify::survey_file;
use super::journal::{self, ChatDone, Journal};
use super::records;
use super::survey::{Ending, NAMED_MAX, Source, Survey, Unread};
use super::value::Notes;
use crate::client::{Client, ClientError, NewChat};
use crate::exit::{Exit, Failure};
use futures::{StreamExt, TryStreamExt, stream};
use quorate_engine::api::Content;
use quorate_engine::types::Secret;
use serde::Serialize;
use serde_json::{Value, json};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::mpsc;

/// Chats whose messages are sent at once.
const CHATS_AT_ONCE: usize = 4;
/// Batches read ahead for each chat.
const BATCHES_AHEAD: usize = 2;
/// Key of an archive's own mark in its profile.
pub const ARCHIVE: &str = "quorate:archive";
/// Key of an imported chat's mark in its profile, and of a chat's record in the archive.
pub const CHAT: &str = "quorate:chat";
/// Key of the archive's last record.
pub const COMPLETE: &str = "quorate:complete";
/// Version of the mapping.
pub const MAPPING_VERSION: u64 = 1;

/// What to import, and how.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The export.
    pub file: PathBuf,
    /// Directory of journals.
    pub journals: PathBuf,
    /// Import a file that was imported before a second time; 0 otherwise.
    pub copy: u32,
    /// How much of it.
    pub part: Part,
}

/// Which part of an import is done now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// All of it.
    All,
    /// Chats are made, which takes somebody's device; no message is sent.
    Chats,
    /// Messages are sent to chats that were made before.
    Messages,
}

/// What is told while it goes on.
pub trait Observer: Send + Sync {
    /// The first pass has read so many bytes.
    fn reading(&self, bytes: u64, of: u64);
    /// The second pass begins.
    fn begin(&self, messages: u64, bytes: u64);
    /// So many more messages and bytes of the file were acknowledged.
    fn advance(&self, messages: u64, bytes: u64);
    /// All of it, or as far as it came.
    fn end(&self);
}

/// What an import did.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Summary {
    /// The archive chat; `export telegram` takes it.
    pub archive: String,
    /// Import id.
    pub import: String,
    /// Chats in it.
    pub chats: u64,
    /// Messages in it.
    pub messages: u64,
    /// Messages that an earlier run had already stored.
    pub already: u64,
    /// Everything in the file is stored.
    pub complete: bool,
    /// What was unusual, and kept.
    pub notes: Notes,
    /// Media files that messages name; their metadata is stored, the files are not uploaded.
    pub media_files: u64,
    /// Parts that could not be read, by name (the first 1,000).
    pub unread: Vec<Unread>,
    /// How many could not be read in all.
    pub unread_total: u64,
    /// Other things worth knowing.
    pub warnings: Vec<String>,
}

impl Summary {
    /// The exit code it means.
    pub fn exit(&self) -> Exit {
        match self.complete && self.unread_total == 0 {
            true => Exit::Ok,
            false => Exit::Partial,
        }
    }
}

/// Imports `plan.file`.
///
/// # Errors
/// [`Failure`]; what was acknowledged is in the journal, and the same command goes on from there.
pub async fn import(
    client: &Client,
    secret: &Secret<32>,
    plan: &Plan,
    observer: Arc<dyn Observer>,
) -> Result<Summary, Failure> {
    let cut = journal::cut_imports(&plan.journals)?;
    let (survey, id, bytes) = {
        let (plan, secret, observer) = (plan.clone(), secret.duplicate(), observer.clone());
        let job = move || survey_file(&plan, &secret, &cut, observer.as_ref());
        tokio::task::spawn_blocking(job)
            .await
            .map_err(|e| bug(&e))??
    };
    let journal = Journal::open(&plan.journals, &id, bytes)?;
    if journal.state.complete {
        let archive = journal.state.archive.map(|a| a.chat).unwrap_or_default();
        return Err(Failure::new(
            Exit::Conflict,
            "already_imported",
            format!("this file is imported already, as archive {archive}"),
            format!(
                "use `quorate export telegram {archive}`, or import a second copy with --copy {}",
                plan.copy + 1
            ),
        ));
    }
    let state = &journal.state;
    let made = state.archive.is_some() && state.chats.len() == survey.chats.len();
    if plan.part == Part::Messages && !made {
        return Err(Failure::new(
            Exit::Conflict,
            "import_not_prepared",
            "the chats of this file are not made yet, and a service credential makes none",
            "have somebody run the same import with --prepare first, from this client directory",
        ));
    }
    let mut summary = Summary {
        import: id.clone(),
        chats: survey.chats.len() as u64,
        notes: survey.notes,
        unread_total: survey.unread.len() as u64,
        unread: survey.unread.clone(),
        ..Summary::default()
    };
    note_ending(&survey.ending, &mut summary);
    let run = Run {
        client: client.clone(),
        id,
        file: plan.file.clone(),
        survey: Arc::new(survey),
        journal: Mutex::new(journal),
        summary: Mutex::new(summary),
        observer,
        part: plan.part,
    };
    let result = run.all().await;
    run.observer.end();
    let saved = run.journal().save(true);
    result?;
    saved?;
    Ok(run
        .summary
        .into_inner()
        .unwrap_or_else(PoisonError::into_inner))
}

fn bug(e: &dyn std::fmt::Display) -> Failure {
    Failure::new(
        Exit::Failed,
        "internal",
        format!("a part of the import stopped: {e}"),
        "run the command again, and report it",
    )
}

fn note_ending(ending: &Ending, summary: &mut Summary) {
    let (path, offset, reason) = match ending {
        Ending::Whole => return,
        Ending::Cut { offset, path } => (
            path.clone(),
            *offset,
            "the file ends here, in the middle of a value".to_owned(),
        ),
        Ending::Damaged { offset, reason } => {
            ("the rest of the file".to_owned(), *offset, reason.clone())
        }
    };
    summary.unread_total += 1;
    summary.unread.push(Unread {
        path,
        offset,
        reason,
        kept: false,
    });
    summary.warnings.push(
        "the file is not whole: what stands before the break is imported. With the whole file, run the import again: it goes on from here".to_owned(),
    );
}

struct Run {
    client: Client,
    id: String,
    file: PathBuf,
    survey: Arc<Survey>,
    journal: Mutex<Journal>,
    summary: Mutex<Summary>,
    observer: Arc<dyn Observer>,
    part: Part,
}

/// A profile, and the records that hold its fields when they are too long for it.
struct Profile {
    profile: Content,
    pieces: Vec<String>,
}

fn profile(mut fields: Content, mark: &str, mut about: Value) -> Profile {
    let length = Value::Object(fields.clone()).to_string().len();
    let mut pieces = Vec::new();
    if length > records::RECORD_BYTES_MAX - 4096 {
        let title = fields
            .get("name")
            .filter(|n| n.as_str().is_some_and(|n| n.len() < 1024))
            .cloned();
        pieces = records::pieces(Value::Object(std::mem::take(&mut fields)).to_string());
        about["profile_records"] = json!(pieces.len());
        fields.extend(title.map(|t| ("name".to_owned(), t)));
    }
    fields.insert(mark.to_owned(), about);
    Profile {
        profile: fields,
        pieces,
    }
}

fn records_of(profile: &Content) -> Option<&Value> {
    [ARCHIVE, CHAT]
        .iter()
        .find_map(|mark| profile.get(*mark)?.get("profile_records"))
}

impl Run {
    fn journal(&self) -> std::sync::MutexGuard<'_, Journal> {
        self.journal.lock().unwrap_or_else(PoisonError::into_inner)
    }
    fn summary(&self) -> std::sync::MutexGuard<'_, Summary> {
        self.summary.lock().unwrap_or_else(PoisonError::into_inner)
    }
    fn key(&self, chat: &str, record: &dyn std::fmt::Display) -> String {
        format!("imp-{}-{chat}-{record}", self.id)
    }
    fn stopped(&self, e: ClientError) -> Failure {
        let (done, failure) = (self.summary().messages, Failure::from(e));
        Failure {
            what: format!("the import stopped after {done} messages: {}", failure.what),
            next: format!(
                "run the same command again, it goes on from there; {}",
                failure.next
            ),
            ..failure
        }
    }

    async fn all(&self) -> Result<(), Failure> {
        let size = std::fs::metadata(&self.file).map_or(0, |m| m.len());
        self.observer.begin(self.survey.messages(), size);
        let (archive, pieces) = self.make_archive().await?;
        self.summary().archive.clone_from(&archive);
        let chats = self.make_chats(&archive).await?;
        if self.part == Part::Chats {
            return Ok(());
        }
        let mut records = pieces;
        for (source, (chat, _)) in self.survey.chats.iter().zip(&chats) {
            records.push(
                json!({CHAT: {"list": source.list, "index": source.index, "chat": chat}})
                    .to_string(),
            );
        }
        self.send_archive(&archive, &records, 0).await?;
        stream::iter(chats.iter().enumerate().map(Ok))
            .try_for_each_concurrent(CHATS_AT_ONCE, |(index, (chat, pieces))| {
                self.send_chat(index, chat, pieces)
            })
            .await?;
        if self.survey.ending != Ending::Whole {
            self.journal().state.cut = true;
            return self.journal().save(true);
        }
        let done = json!({COMPLETE: {"chats": chats.len(), "messages": self.survey.messages()}});
        self.send_archive(&archive, &[done.to_string()], records.len() as u64)
            .await?;
        self.summary().complete = true;
        self.journal().state.complete = true;
        self.journal().save(true)
    }

    async fn make_archive(&self) -> Result<(String, Vec<String>), Failure> {
        let name = self
            .file
            .file_name()
            .map(|n| n.to_string_lossy().into_owned())
            .unwrap_or_default();
        let layout = if self.survey.single { "single" } else { "full" };
        let mut fields = Content::new();
        fields.insert("name".into(), json!(format!("Telegram export {name}")));
        let mut about = json!({"version": MAPPING_VERSION, "source": "telegram", "layout": layout});
        let root = Value::Object(self.survey.root.clone());
        let mut pieces = Vec::new();
        let text = root.to_string();
        if text.len() > records::PART_BYTES_MAX {
            pieces = records::pieces(text);
            about["profile_records"] = json!(pieces.len());
        } else {
            fields.insert("root".into(), root);
        }
        fields.insert(ARCHIVE.into(), about);
        let known = self.journal().state.archive.clone();
        let wanted = Profile {
            profile: fields,
            pieces: pieces.clone(),
        };
        let chat = self
            .make_chat("archive", known.map(|k| k.chat), wanted)
            .await?;
        let mut journal = self.journal();
        if journal.state.archive.is_none() {
            journal.state.archive = Some(ChatDone {
                chat: chat.clone(),
                records: 0,
            });
        }
        journal.save(true)?;
        Ok((chat, pieces))
    }

    /// Makes a chat; on a resumed import of what is now a longer file, corrects its profile.
    async fn make_chat(
        &self,
        key: &str,
        known: Option<String>,
        wanted: Profile,
    ) -> Result<String, Failure> {
        let Some(chat) = known else {
            let request = NewChat {
                idempotency_key: self.key(key, &"new"),
                profile: wanted.profile,
                public: false,
                keep: true,
            };
            return Ok(self
                .client
                .create_chat(&request)
                .await
                .map_err(|e| self.stopped(e))?
                .id);
        };
        if self.journal().state.cut {
            self.correct(key, &chat, wanted).await?;
        }
        Ok(chat)
    }

    /// The file was cut when `chat` was made: later fields of it may be known only now.
    async fn correct(&self, key: &str, chat: &str, wanted: Profile) -> Result<(), Failure> {
        let there = self
            .client
            .chat(chat, false)
            .await
            .map_err(|e| self.stopped(e))?
            .messages;
        let pieces = wanted.pieces.iter().map(|p| serde_json::from_str(p));
        let pieces = pieces
            .collect::<Result<Vec<Content>, _>>()
            .map_err(|e| bug(&e))?;
        for (id, content) in (0u64..=there).zip(std::iter::once(wanted.profile).chain(pieces)) {
            let now = self
                .client
                .message(chat, id)
                .await
                .map_err(|e| self.stopped(e))?;
            let is_profile = id == 0 && records_of(&now.content) == records_of(&content);
            if now.content == content {
                continue;
            }
            if !(is_profile
                || now.content.contains_key(records::PART) && content.contains_key(records::PART))
            {
                return Err(Failure::new(
                    Exit::Conflict,
                    "import_not_resumable",
                    format!(
                        "the longer file has so many more fields outside of messages that chat {chat} cannot be continued"
                    ),
                    "import it anew with --copy 1",
                ));
            }
            let key = self.key(key, &format!("fix-{id}-{}", now.revision));
            let edit = self.client.edit(chat, id, now.revision, key, content).await;
            edit.map_err(|e| self.stopped(e))?;
        }
        Ok(())
    }

    async fn make_chats(&self, archive: &str) -> Result<Vec<(String, Vec<String>)>, Failure> {
        let known = self.journal().state.chats.clone();
        let make = |(index, source): (usize, &Source)| {
            let known = known.get(index).map(|k| k.chat.clone());
            let wanted = chat_profile(source, archive);
            let pieces = wanted.pieces.clone();
            async move {
                Ok::<_, Failure>((
                    self.make_chat(&format!("c{index}"), known, wanted).await?,
                    pieces,
                ))
            }
        };
        let mut made = Vec::new();
        // Collected first: a borrowing closure inside a stream adaptor is not general enough for `Send`.
        let jobs: Vec<_> = self.survey.chats.iter().enumerate().map(make).collect();
        let mut jobs = stream::iter(jobs).buffered(CHATS_AT_ONCE);
        while let Some(chat) = jobs.try_next().await? {
            let mut journal = self.journal();
            if journal.state.chats.len() == made.len() {
                journal.state.chats.push(ChatDone {
                    chat: chat.0.clone(),
                    records: 0,
                });
                journal.save(false)?;
            }
            made.push(chat);
        }
        self.journal().save(true)?;
        Ok(made)
    }

    /// Appends `records`, the first of which is number `from`, to the archive, as far as it lacks them.
    async fn send_archive(
        &self,
        archive: &str,
        records: &[String],
        from: u64,
    ) -> Result<(), Failure> {
        let done = self
            .journal()
            .state
            .archive
            .as_ref()
            .map_or(0, |a| a.records);
        let mut builder = Builder::new(self.id.clone(), "archive".into(), from.max(done));
        let mut batches = Vec::new();
        for record in records.iter().skip(done.saturating_sub(from) as usize) {
            batches.extend(builder.push(record));
        }
        batches.extend(builder.flush());
        for batch in batches {
            self.send(archive, None, &batch).await?;
        }
        Ok(())
    }

    async fn send_chat(&self, index: usize, chat: &str, pieces: &[String]) -> Result<(), Failure> {
        let done = self
            .journal()
            .state
            .chats
            .get(index)
            .map_or(0, |c| c.records);
        self.check_resume(chat, done).await?;
        let (to_send, mut batches) = mpsc::channel(BATCHES_AHEAD);
        let reader = Reader {
            survey: self.survey.clone(),
            file: self.file.clone(),
            index,
            skip: done,
            builder: Builder::new(self.id.clone(), format!("c{index}"), done),
            to_send,
            pieces: pieces.to_vec(),
        };
        let reading = tokio::task::spawn_blocking(move || reader.run());
        let mut sent = Ok(());
        while let Some(batch) = batches.recv().await {
            sent = self.send(chat, Some(index), &batch).await;
            if sent.is_err() {
                break;
            }
        }
        drop(batches);
        let read = reading.await.map_err(|e| bug(&e))?;
        sent?;
        let read = read?;
        let mut summary = self.summary();
        summary.notes.add(read.notes);
        summary.media_files += read.media_files;
        summary.already += read.skipped;
        summary.messages += read.skipped;
        summary.unread_total += read.unread_total;
        let room = NAMED_MAX.saturating_sub(summary.unread.len());
        summary.unread.extend(read.unread.into_iter().take(room));
        Ok(())
    }

    /// Old imports: what was sent without an answer must not be sent again once the home has forgotten it.
    async fn check_resume(&self, chat: &str, done: u64) -> Result<(), Failure> {
        if self.journal().repeatable() {
            return Ok(());
        }
        let there = self
            .client
            .chat(chat, false)
            .await
            .map_err(|e| self.stopped(e))?
            .messages;
        if there == done {
            return Ok(());
        }
        Err(Failure::new(
            Exit::Conflict,
            "import_too_old",
            format!(
                "this import was interrupted more than six days ago, and chat {chat} has {there} records where {done} were acknowledged; going on could double some"
            ),
            "import the file anew with --copy 1",
        ))
    }

    async fn send(&self, chat: &str, index: Option<usize>, batch: &Batch) -> Result<(), Failure> {
        let answer = self
            .client
            .append_raw(chat, batch.body.clone())
            .await
            .map_err(|e| self.stopped(e))?;
        if answer.messages.len() as u64 != batch.records {
            return Err(Failure::new(
                Exit::Failed,
                "bad_answer",
                format!(
                    "the home acknowledged {} records of {} sent to chat {chat}",
                    answer.messages.len(),
                    batch.records
                ),
                "check that client and home are of the same version, then run the command again",
            ));
        }
        let mut journal = self.journal();
        let done = match index {
            Some(index) => journal.state.chats.get_mut(index),
            None => journal.state.archive.as_mut(),
        };
        let expected = done.map_or(0, |done| {
            done.records += batch.records;
            done.records - batch.records + 1
        });
        journal.save(false)?;
        drop(journal);
        let mut summary = self.summary();
        if answer.messages[0].id != expected {
            summary.warnings.push(format!(
                "chat {chat} holds messages that are not from this file; an export of it will have them too"
            ));
        }
        if answer.messages.iter().all(|m| m.repeated) {
            summary.already += batch.messages;
        }
        summary.messages += batch.messages;
        drop(summary);
        self.observer.advance(batch.messages, batch.bytes);
        Ok(())
    }
}

fn chat_profile(source: &Source, archive: &str) -> Profile {
    let mut about = json!({"archive": archive, "list": source.list, "index": source.index});
    if let Some(span) = source.messages {
        about["messages_at"] = json!(span.position);
    }
    profile(source.fields.clone(), CHAT, about)
}
