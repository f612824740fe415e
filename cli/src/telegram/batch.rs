//! From one chat's messages to request bodies, on a thread of its own.

use super::records::Messages;
use super::survey::{NAMED_MAX, Survey, Unread};
use super::value::Notes;
use crate::exit::{Exit, Failure};
use bytes::Bytes;
use quorate_engine::api::MESSAGES_PER_CALL_MAX;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::sync::mpsc;

/// Largest body of one append, in bytes.
pub const BATCH_BYTES_MAX: usize = 2 << 20;

/// A batch of one chat, ready to send.
pub struct Batch {
    /// JSON of an append.
    pub body: Bytes,
    /// Records in it.
    pub records: u64,
    /// Messages of the file that end in it.
    pub messages: u64,
    /// Bytes of the file they took.
    pub bytes: u64,
}

/// Gathers records into request bodies.
pub struct Builder {
    id: String,
    chat: String,
    next: u64,
    body: String,
    records: u64,
    messages: u64,
    bytes: u64,
}

impl Builder {
    /// Of import `id`, for `chat` (`archive`, `c0`, …), whose next record is number `next`.
    pub fn new(id: String, chat: String, next: u64) -> Self {
        Self {
            id,
            chat,
            next,
            body: String::new(),
            records: 0,
            messages: 0,
            bytes: 0,
        }
    }

    /// Adds a record; gives back the batch that was full before it.
    pub fn push(&mut self, record: &str) -> Option<Batch> {
        let full = self.records as usize >= MESSAGES_PER_CALL_MAX
            || self.body.len() + record.len() + 256 > BATCH_BYTES_MAX;
        let batch = if full { self.flush() } else { None };
        self.body.push_str(if self.records == 0 {
            "{\"messages\":["
        } else {
            ","
        });
        let key = format!("imp-{}-{}-{}", self.id, self.chat, self.next);
        // The key needs no escaping: hex, letters, digits and dashes.
        self.body.push_str("{\"idempotency_key\":\"");
        self.body.push_str(&key);
        self.body.push_str("\",\"content\":");
        self.body.push_str(record);
        self.body.push('}');
        self.records += 1;
        self.next += 1;
        batch
    }

    /// What was gathered so far, if anything.
    pub fn flush(&mut self) -> Option<Batch> {
        if self.records == 0 {
            return None;
        }
        self.body.push_str("]}");
        Some(Batch {
            body: Bytes::from(std::mem::take(&mut self.body)),
            records: std::mem::take(&mut self.records),
            messages: std::mem::take(&mut self.messages),
            bytes: std::mem::take(&mut self.bytes),
        })
    }
}

/// Reads one chat's messages on a thread of its own.
pub struct Reader {
    /// What the first pass found.
    pub survey: Arc<Survey>,
    /// The file.
    pub file: PathBuf,
    /// Which chat of it.
    pub index: usize,
    /// Records that are stored already.
    pub skip: u64,
    /// Makes batches.
    pub builder: Builder,
    /// Takes them.
    pub to_send: mpsc::Sender<Batch>,
    /// Records of the chat's profile, before its messages.
    pub pieces: Vec<String>,
}

/// What reading found besides messages.
#[derive(Default)]
pub struct ReadOut {
    /// What was unusual but kept.
    pub notes: Notes,
    /// Messages that could not be read (the first of them).
    pub unread: Vec<Unread>,
    /// How many in all.
    pub unread_total: u64,
    /// Messages that were stored already.
    pub skipped: u64,
    /// Messages that name a media file.
    pub media_files: u64,
}

impl Reader {
    /// Reads to the end, or until nobody takes batches any more.
    ///
    /// # Errors
    /// When the file is no longer what it was.
    pub fn run(mut self) -> Result<ReadOut, Failure> {
        let survey = self.survey.clone();
        let source = &survey.chats[self.index];
        let mut out = ReadOut::default();
        let mut skip = self.skip;
        for piece in std::mem::take(&mut self.pieces) {
            if !self.put(&piece, &mut skip) {
                return Ok(out);
            }
        }
        let Some(span) = source.messages else {
            self.finish();
            return Ok(out);
        };
        let path = match source.list {
            "root" => "messages".to_owned(),
            list => format!("{list}.list[{}].messages", source.index),
        };
        let mut messages = Messages::open(&self.file, span, path)
            .map_err(|e| Failure::file("open", &self.file, &e))?;
        let mut offset = messages.offset();
        while let Some(item) = messages.next_item().map_err(|e| changed(&self.file, &e))? {
            if let Some(unread) = item.unread {
                out.unread_total += 1;
                if out.unread.len() < NAMED_MAX {
                    out.unread.push(unread);
                }
            }
            out.media_files += u64::from(item.media_file);
            let before = skip;
            let records = item.records.len() as u64;
            for record in &item.records {
                if !self.put(record, &mut skip) {
                    return Ok(out);
                }
            }
            if before >= records {
                out.skipped += 1;
            } else {
                self.builder.messages += 1;
                self.builder.bytes += messages.offset() - offset;
            }
            offset = messages.offset();
        }
        out.notes = messages.notes;
        self.finish();
        Ok(out)
    }

    /// False when nobody takes batches any more.
    fn put(&mut self, record: &str, skip: &mut u64) -> bool {
        if *skip > 0 {
            *skip -= 1;
            return true;
        }
        match self.builder.push(record) {
            Some(batch) => self.to_send.blocking_send(batch).is_ok(),
            None => true,
        }
    }

    fn finish(mut self) {
        if let Some(batch) = self.builder.flush() {
            // Nobody takes it only when sending failed, which is reported there.
            let _ = self.to_send.blocking_send(batch);
        }
    }
}

fn changed(file: &Path, e: &dyn std::fmt::Display) -> Failure {
    Failure::new(
        Exit::Failed,
        "file_changed",
        format!("{} is not what it was a moment ago: {e}", file.display()),
        "let nothing write to it, and run the command again",
    )
}
