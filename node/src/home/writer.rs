//! Writing records: one task a busy chat groups what waits into one proposal.
//!
//! A proposal carries whole requests only, so a request is all or nothing;
//! different chats' proposals are in flight side by side.

use super::admission::Author;
use super::api::HomeError;
use super::core::{Core, Fail};
use super::leases::LeasedKey;
use super::opener;
use super::shard::Shard;
use crate::mutants::{mutant, now_and_then};
use quorate_engine::api::Written;
use quorate_engine::crypto::message::{self, RecordBinding, RecordKind};
use quorate_engine::crypto::subkeys::Subkeys;
use quorate_engine::custody::protocol::KeyRef;
use quorate_engine::home::command::{
    EditMessage, NewRecord, Repeat, Reply, WriteMessages, WriteResult,
};
use quorate_engine::home::rows::IdempotencyRow;
use quorate_engine::home::{Command, read};
use quorate_engine::types::{ChatId, MessageId, Revision};
use rand::Rng;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use subtle::ConstantTimeEq;
use tokio::sync::oneshot;

/// Requests waiting for one chat; more are refused as busy.
const WAITING_MAX: usize = 1_024;
/// Records in one proposal, unless one request alone has more.
const GROUP_RECORDS_MAX: usize = 256;
/// Content bytes in one proposal, unless one request alone has more.
const GROUP_BYTES_MAX: usize = 2 << 20;
/// Conflicts met in a row before the caller is told to come back.
const TURNS_MAX: usize = 12;
/// From this many content bytes on, sealing leaves the async runtime.
const BLOCKING_BYTES_MIN: usize = 64 << 10;

/// One request's records.
pub struct Append {
    /// Who writes.
    pub who: Author,
    /// Whether it is the chat's profile, record 0.
    pub profile: bool,
    /// Idempotency key and content bytes of each.
    pub messages: Vec<(String, Arc<[u8]>)>,
}

/// Log index and results, in order.
pub type Result = std::result::Result<(u64, Vec<Written>), Fail>;

struct Job {
    append: Append,
    done: Option<oneshot::Sender<Result>>,
    /// What this request wrote itself, by place: not a repetition when it is met again.
    wrote: BTreeMap<usize, Written>,
    index: u64,
}

impl Job {
    fn finish(&mut self, result: Result) {
        if let Some(done) = self.done.take() {
            fail::fail_point!("home::before_reply");
            let _ = done.send(result);
        }
    }
    fn bytes(&self) -> usize {
        self.append.messages.iter().map(|(_, c)| c.len()).sum()
    }
}

/// Queues of busy chats.
#[derive(Default)]
pub struct Writers(Mutex<HashMap<ChatId, VecDeque<Job>>>);

impl Writers {
    /// Queues a request and waits for its result.
    pub(super) async fn append(&self, core: &Arc<Core>, chat: ChatId, append: Append) -> Result {
        let (done, wait) = oneshot::channel();
        let job = Job {
            append,
            done: Some(done),
            wrote: BTreeMap::new(),
            index: 0,
        };
        {
            let mut queues = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            let busy = queues.contains_key(&chat);
            let queue = queues.entry(chat).or_default();
            if queue.len() >= WAITING_MAX {
                return Err(Fail::NotDone(format!(
                    "{WAITING_MAX} writes wait for this chat"
                )));
            }
            queue.push_back(job);
            if !busy {
                tokio::spawn(run(core.clone(), chat));
            }
        }
        wait.await
            .unwrap_or_else(|_| Err(Fail::Unknown("the write's task ended".into())))
    }

    /// Whole requests for one proposal; `None` ends the chat's task.
    fn take(&self, chat: &ChatId) -> Option<Vec<Job>> {
        let mut queues = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let queue = queues.get_mut(chat)?;
        let (mut group, mut records, mut bytes) = (Vec::new(), 0, 0);
        while let Some(job) = queue.front() {
            records += job.append.messages.len();
            bytes += job.bytes();
            // Never with others: a key that was released for them is not written under for a service.
            let apart = group.first().is_some_and(|first: &Job| {
                first.append.who.is_service() != job.append.who.is_service()
            });
            let full = records > GROUP_RECORDS_MAX || bytes > GROUP_BYTES_MAX;
            if !group.is_empty() && (apart || full) {
                break;
            }
            group.extend(queue.pop_front());
        }
        if group.is_empty() {
            queues.remove(chat);
            return None;
        }
        Some(group)
    }
}

/// If the task panics, the chat's queue must not be stuck behind it.
struct Unstick(Arc<Core>, ChatId, bool);

impl Drop for Unstick {
    fn drop(&mut self) {
        if !self.2 {
            let mut queues = self
                .0
                .writers
                .0
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            queues.remove(&self.1);
        }
    }
}

async fn run(core: Arc<Core>, chat: ChatId) {
    let mut unstick = Unstick(core.clone(), chat, false);
    while let Some(mut group) = core.writers.take(&chat) {
        if let Err(e) = write(&core, chat, &mut group).await {
            for job in &mut group {
                job.finish(Err(e.clone()));
            }
        }
    }
    unstick.2 = true;
}

/// Where a record of the group stands: request and place in it.
type Place = (usize, usize);

/// Writes a group; every job is finished, or all that are not get the error.
async fn write(core: &Arc<Core>, chat: ChatId, group: &mut [Job]) -> std::result::Result<(), Fail> {
    let shard = core.shard(&chat).clone();
    let mut turns = 0;
    while turns < TURNS_MAX {
        let fresh = settle_known(core, &shard, &chat, group).await?;
        let Some(who) = fresh.first().map(|(j, _)| group[*j].append.who.clone()) else {
            return Ok(());
        };
        let count = u32::try_from(fresh.len()).unwrap_or(u32::MAX);
        let (key, lease) = match opener::writable(core, &shard, &chat, count, &who).await {
            Ok(found) => found,
            // Some request is answered each time, so this ends.
            Err(e) if opener::of_the_caller(&e) => {
                let same = |j: &&mut Job| j.append.who.same(&who);
                let hit = group.iter_mut().filter(|j| j.done.is_some()).filter(same);
                hit.for_each(|job| job.finish(Err(e.clone())));
                continue;
            }
            Err(e) => return Err(e),
        };
        turns += 1;
        if uncovered(&shard, &key, group)? {
            continue;
        }
        let row = shard.view(|kv| read::chat(kv, &chat))?;
        let first = row.map_or(0, |r| r.next);
        let records = seal_all(core, key, lease, first, group, &fresh).await?;
        let command = Command::WriteMessages(WriteMessages {
            key,
            first,
            records,
        });
        fail::fail_point!("home::before_write");
        let early = mutant("acknowledge-before-commit");
        if early || mutant("write-dropped") && now_and_then(30) {
            let made_up = |id| WriteResult {
                id,
                revision: 0,
                at_ms: core.clock.wall(),
                repeat: Repeat::First,
            };
            let results: Vec<_> = (first..).take(fresh.len()).map(made_up).collect();
            finish(group, 1, &fresh, &results);
            if early {
                let (shard, now) = (shard.clone(), core.clock.wall());
                tokio::spawn(async move { shard.propose(now, command).await });
            }
            return Ok(());
        }
        let (index, reply) = shard.propose(core.clock.wall(), command).await?;
        fail::fail_point!("home::after_write");
        match reply {
            Reply::Written(results) if results.iter().all(|r| r.repeat == Repeat::First) => {
                metrics::counter!("quorate_home_records_written_total").increment(u64::from(count));
                finish(group, index, &fresh, &results);
                // Twins of what was just written, and requests that were partly known.
            }
            // Written before, or the state moved: the next look tells.
            Reply::Written(_) | Reply::Conflict(_) => {
                metrics::counter!("quorate_home_conflicts_total").increment(1);
            }
            Reply::NotFound => return Err(not_found(&chat)),
            other => {
                return Err(Fail::NotDone(format!(
                    "the shard refused the write: {other:?}"
                )));
            }
        }
    }
    Err(Fail::NotDone(format!(
        "writes to chat {chat} keep conflicting"
    )))
}

/// Answers requests whose grant does not cover the epoch that is written to. True: there were some.
fn uncovered(shard: &Shard, key: &KeyRef, group: &mut [Job]) -> std::result::Result<bool, Fail> {
    let found = shard.view(|kv| read::epoch_of(kv, key))?;
    let (epoch, _) = found.ok_or_else(|| {
        Fail::NotDone(format!("the epoch of key {} is not known here", key.key_id))
    })?;
    let mut any = false;
    for job in group.iter_mut().filter(|j| j.done.is_some()) {
        if let Err(e) = job.append.who.may(&key.chat, epoch) {
            job.finish(Err(e));
            any = true;
        }
    }
    Ok(any)
}

/// Notes what was written; requests that are complete by it are answered.
fn finish(group: &mut [Job], index: u64, fresh: &[Place], results: &[WriteResult]) {
    for ((job, place), r) in fresh.iter().zip(results) {
        if let Some(job) = group.get_mut(*job) {
            let written = Written {
                id: r.id,
                revision: r.revision,
                at_ms: r.at_ms,
                repeated: false,
            };
            job.wrote.insert(*place, written);
            job.index = index;
        }
    }
    for job in group {
        if job.done.is_some() && job.wrote.len() == job.append.messages.len() {
            let written = std::mem::take(&mut job.wrote).into_values().collect();
            job.finish(Ok((index, written)));
        }
    }
}

/// Answers requests whose records were all written before; returns the places
/// of records that are to be written now, twins within the group left out.
async fn settle_known(
    core: &Arc<Core>,
    shard: &Shard,
    chat: &ChatId,
    group: &mut [Job],
) -> std::result::Result<Vec<Place>, Fail> {
    let (row, found) = shard.view(|kv| {
        let row = read::chat(kv, chat)?;
        let mut found: Vec<Vec<Option<IdempotencyRow>>> = Vec::with_capacity(group.len());
        for job in group.iter().map(|j| &j.append) {
            let rows = job
                .messages
                .iter()
                .map(|(key, _)| read::first_result(kv, chat, &job.who.device(), key));
            found.push(rows.collect::<std::result::Result<_, _>>()?);
        }
        let time = read::meta(kv)?.time_ms;
        Ok((row.map(|r| (r, time)), found))
    })?;
    let Some((row, time)) = row else {
        return Err(not_found(chat));
    };
    let mut fresh: Vec<Place> = Vec::new();
    let mut seen: BTreeMap<(String, String), Place> = BTreeMap::new();
    for (j, (job, rows)) in group.iter_mut().zip(found).enumerate() {
        if job.done.is_none() {
            continue;
        }
        if row.next == 0 && !job.append.profile {
            job.finish(Err(not_found(chat)));
            continue;
        }
        let live = |r: &IdempotencyRow| {
            time.max(core.clock.wall()).saturating_sub(r.at_ms)
                < quorate_engine::home::IDEMPOTENCY_MS_MAX
        };
        let rows: Vec<_> = rows.into_iter().map(|r| r.filter(live)).collect();
        // Compared before anything of the request is written: all or none.
        match repeated(core, chat, job, &rows).await {
            Ok(known) if known.len() == rows.len() => {
                let index = job.index;
                job.finish(Ok((index, known)));
                continue;
            }
            Ok(_) => {}
            Err(e) => {
                job.finish(Err(e));
                continue;
            }
        }
        if job.append.profile && row.next > 0 {
            // Written longer ago than repetitions are remembered.
            let written = Written {
                id: 0,
                revision: 0,
                at_ms: row.created_ms,
                repeated: true,
            };
            job.finish(Ok((0, vec![written])));
            continue;
        }
        for (m, ((key, _), known)) in job.append.messages.iter().zip(&rows).enumerate() {
            let name = (job.append.who.device(), key.clone());
            if known.is_none() && !seen.contains_key(&name) {
                seen.insert(name, (j, m));
                fresh.push((j, m));
            }
        }
    }
    // The profile is alone in its proposal: it is what makes id 0.
    if row.next == 0 && fresh.len() > 1 {
        fresh.truncate(1);
    }
    Ok(fresh)
}

/// First results of those records of a request that were written before, if their content is the same.
async fn repeated(
    core: &Arc<Core>,
    chat: &ChatId,
    job: &Job,
    rows: &[Option<IdempotencyRow>],
) -> std::result::Result<Vec<Written>, Fail> {
    let mut out = Vec::new();
    for (place, (row, (_, content))) in rows.iter().zip(&job.append.messages).enumerate() {
        let Some(row) = row else { continue };
        if let Some(own) = job.wrote.get(&place) {
            out.push(own.clone());
            continue;
        }
        compare(core, &job.append.who, chat, row, content).await?;
        out.push(Written {
            id: row.id,
            revision: row.revision,
            at_ms: row.at_ms,
            repeated: true,
        });
    }
    Ok(out)
}

/// Whether `content` is what was written under this row. Without a key for the digest (its
/// custodians gone, or its epoch not granted) the first result is returned unchecked.
async fn compare(
    core: &Arc<Core>,
    who: &Author,
    chat: &ChatId,
    row: &IdempotencyRow,
    content: &[u8],
) -> std::result::Result<(), Fail> {
    let key = KeyRef {
        chat: *chat,
        key_id: row.key_id,
    };
    let epoch = core.shard(chat).view(|kv| read::epoch_of(kv, &key))?;
    let epoch = epoch.map(|(epoch, _)| epoch).unwrap_or_default();
    match core.key_to_write(key, epoch, who).await {
        Ok(lease) => {
            let digest = lease.subkeys().digest(content);
            if bool::from(digest.ct_eq(&row.digest)) {
                Ok(())
            } else {
                Err(Fail::Home(HomeError::IdempotencyMismatch))
            }
        }
        Err(e) => {
            tracing::info!(%chat, "a repetition is answered without comparing: {e:?}");
            Ok(())
        }
    }
}

fn not_found(chat: &ChatId) -> Fail {
    Fail::Home(HomeError::NotFound {
        what: format!("chat {chat}"),
    })
}

/// What is sealed for one place of the group.
struct Plain {
    device: String,
    idempotency: String,
    content: Arc<[u8]>,
}

async fn seal_all(
    core: &Arc<Core>,
    key: KeyRef,
    lease: LeasedKey,
    first: MessageId,
    group: &[Job],
    fresh: &[Place],
) -> std::result::Result<Vec<NewRecord>, Fail> {
    let plain: Vec<Plain> = fresh
        .iter()
        .map(|(j, m)| {
            let append = &group[*j].append;
            let (idempotency, content) = &append.messages[*m];
            Plain {
                device: append.who.device(),
                idempotency: idempotency.clone(),
                content: content.clone(),
            }
        })
        .collect();
    let deployment = core.config.deployment;
    let bytes: usize = plain.iter().map(|p| p.content.len()).sum();
    let seal = move || {
        let keys = lease.subkeys();
        let place = |id| RecordBinding {
            deployment,
            chat: key.chat,
            message: id,
            revision: 0,
            key_id: key.key_id,
            kind: kind(id),
        };
        let sealed = (first..).zip(plain).map(|(id, p)| {
            record(
                &keys,
                &place(id),
                p.device,
                p.idempotency,
                &p.content,
                &p.content,
            )
        });
        sealed.collect()
    };
    if bytes < BLOCKING_BYTES_MIN {
        return Ok(seal());
    }
    tokio::task::spawn_blocking(seal)
        .await
        .map_err(|e| Fail::NotDone(e.to_string()))
}

fn kind(id: MessageId) -> RecordKind {
    if id == 0 {
        RecordKind::Profile
    } else {
        RecordKind::Message
    }
}

fn record(
    keys: &Subkeys,
    place: &RecordBinding,
    device: String,
    idempotency: String,
    content: &[u8],
    digested: &[u8],
) -> NewRecord {
    let mut nonce = [0; 24];
    rand::rng().fill_bytes(&mut nonce);
    NewRecord {
        device,
        idempotency,
        digest: keys.digest(digested),
        kind: place.kind,
        sealed: message::seal(keys, place, nonce, content),
    }
}

/// An edit to be made.
pub struct Edit {
    /// Who writes.
    pub who: Author,
    /// Idempotency key.
    pub idempotency: String,
    /// The record.
    pub message: MessageId,
    /// The revision it must be at.
    pub revision: Revision,
    /// The new content.
    pub content: Arc<[u8]>,
}

/// Replaces a record's content if it is at the revision named.
pub(super) async fn edit(
    core: &Arc<Core>,
    chat: ChatId,
    edit: &Edit,
) -> std::result::Result<(u64, Written), Fail> {
    let shard = core.shard(&chat).clone();
    // An edit's digest covers what it edits: the same content for another message is another request.
    let mut digested = Vec::with_capacity(edit.content.len() + 16);
    digested.extend_from_slice(&edit.message.to_le_bytes());
    digested.extend_from_slice(&edit.revision.to_le_bytes());
    digested.extend_from_slice(&edit.content);
    let device = edit.who.device();
    for _ in 0..TURNS_MAX {
        let known = shard.view(|kv| read::first_result(kv, &chat, &device, &edit.idempotency))?;
        if let Some(row) = known {
            compare(core, &edit.who, &chat, &row, &digested).await?;
            let written = Written {
                id: row.id,
                revision: row.revision,
                at_ms: row.at_ms,
                repeated: true,
            };
            return Ok((0, written));
        }
        let (key, lease) = opener::writable(core, &shard, &chat, 1, &edit.who).await?;
        let place = RecordBinding {
            deployment: core.config.deployment,
            chat,
            message: edit.message,
            revision: edit.revision.saturating_add(1),
            key_id: key.key_id,
            kind: kind(edit.message),
        };
        let record = record(
            &lease.subkeys(),
            &place,
            device.clone(),
            edit.idempotency.clone(),
            &edit.content,
            &digested,
        );
        let command = Command::EditMessage(EditMessage {
            key,
            message: edit.message,
            revision: edit.revision,
            record,
        });
        let (index, reply) = shard.propose(core.clock.wall(), command).await?;
        match reply {
            Reply::Written(results) => match results.first() {
                Some(r) if r.repeat == Repeat::First => {
                    let written = Written {
                        id: r.id,
                        revision: r.revision,
                        at_ms: r.at_ms,
                        repeated: false,
                    };
                    return Ok((index, written));
                }
                _ => continue,
            },
            Reply::Conflict(_) => continue,
            Reply::RevisionMismatch { current } => {
                return Err(Fail::Home(HomeError::RevisionMismatch { current }));
            }
            Reply::NotFound => {
                let what = format!("message {} of chat {chat}", edit.message);
                return Err(Fail::Home(HomeError::NotFound { what }));
            }
            other => {
                return Err(Fail::NotDone(format!(
                    "the shard refused the edit: {other:?}"
                )));
            }
        }
    }
    Err(Fail::NotDone(format!(
        "edits of chat {chat} keep conflicting"
    )))
}
