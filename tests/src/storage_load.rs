//! Load for one node's storage without a network, and the check that nothing
//! acknowledged is missing or changed afterwards.
//!
//! Every group is driven like a one-node raft group: append, wait until
//! durable, acknowledge, apply, now and then a snapshot and a purge, a vote,
//! or entries that are voided again by the next term. What was acknowledged
//! goes to a file elsewhere, line by line: `group index hash`.

use anyhow::{Context, ensure};
use openraft::storage::{RaftLogStorage, RaftLogStorageExt, RaftStateMachine};
use openraft::type_config::TypeConfigExt;
use openraft::{EntryPayload, RaftLogReader, RaftSnapshotBuilder, StorageHelper};
use quorate_engine::types::kv::{Kv, KvError, KvRead, Machine, Position};
use quorate_node::raft::{Command, Entry, GroupId, LeaderId, LogId, TypeConfig, Vote};
use quorate_node::storage::{OpenGroup, Storage, StorageOptions};
use quorate_node::store::StoreKind;
use quorate_node::wal::{Fatal, WalOptions};
use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

/// Entries after which a group builds a snapshot and purges its log.
const SNAPSHOT_EVERY: u64 = 400;
/// Entries kept behind a snapshot.
const KEEP: u64 = 20;
/// Small, so that a run goes through many segments.
const SEGMENT_BYTES: u64 = 256 << 10;

/// Keeps every command under its index.
pub struct Keep;

impl Machine for Keep {
    fn apply(&self, kv: &mut dyn Kv, at: Position, c: &[u8]) -> Result<Vec<u8>, KvError> {
        kv.put(&at.index.to_be_bytes(), c)?;
        Ok(Vec::new())
    }
}

/// How a load is run.
#[derive(Clone, Debug)]
pub struct Load {
    /// Data directory.
    pub dir: PathBuf,
    /// Where acknowledgements are written, outside of what is cut.
    pub acks: PathBuf,
    /// Kind of the state stores.
    pub store: StoreKind,
    /// Groups.
    pub groups: u32,
    /// Appends in flight per group.
    pub in_flight: u64,
    /// Appends per group before it ends; 0: until it is stopped.
    pub appends: u64,
}

fn options(store: StoreKind, groups: u32, fatal: Fatal) -> StorageOptions {
    StorageOptions {
        store,
        wal: WalOptions {
            segment_bytes: SEGMENT_BYTES,
            fatal,
            ..WalOptions::default()
        },
        cache_bytes: 16 << 20,
        groups: groups as usize,
    }
}

fn id(term: u64, index: u64) -> LogId {
    LogId::new(LeaderId { term, node_id: 1 }, index)
}

/// A hash that also says which group, index and term a command was made for.
fn command(group: GroupId, index: u64, term: u64, len: usize) -> (Vec<u8>, u64) {
    let mut bytes = format!("{group} {index} {term} {:x} ", rand::random::<u64>()).into_bytes();
    bytes.resize(bytes.len().max(len), b'.');
    let hash = hash(&bytes);
    (bytes, hash)
}

fn hash(bytes: &[u8]) -> u64 {
    use std::hash::{DefaultHasher, Hasher};
    let mut h = DefaultHasher::new();
    h.write(bytes);
    h.finish()
}

/// Brings one opened group to the end of its log, as a leader elected alone would.
async fn catch_up(g: &mut OpenGroup) -> anyhow::Result<u64> {
    StorageHelper::new(&mut g.log, &mut g.state)
        .with_id(1)
        .get_initial_state()
        .await?;
    let last = g.log.get_log_state().await?.last_log_id;
    let Some(last) = last.map(|l| l.index) else {
        return Ok(0);
    };
    let from = g.reader.applied().map_or(0, |l| l.index + 1);
    let entries = g.log.try_get_log_entries(from..=last).await?;
    ensure!(
        entries.len() as u64 == (last + 1).saturating_sub(from),
        "a hole in the log"
    );
    g.state
        .apply(futures::stream::iter(
            entries.into_iter().map(|e| Ok((e, None))),
        ))
        .await?;
    Ok(last + 1)
}

/// Runs a load until it ends or the disk fails; the latter ends the process.
///
/// # Errors
/// When storage cannot be opened, or refuses an operation.
pub async fn run(load: Load) -> anyhow::Result<()> {
    let storage = Storage::open(
        &load.dir,
        options(load.store, load.groups, Fatal::default()),
    )?;
    let acks = std::fs::File::options()
        .append(true)
        .create(true)
        .open(&load.acks)?;
    let acks = Arc::new(Mutex::new(acks));
    let mut tasks = Vec::new();
    for group in 0..load.groups {
        let g = storage.group(group, Arc::new(Keep))?;
        let (acks, load) = (acks.clone(), load.clone());
        tasks.push(tokio::spawn(
            async move { drive(group, g, &load, &acks).await },
        ));
    }
    for t in tasks {
        t.await??;
    }
    storage.close()?;
    Ok(())
}

async fn drive(
    group: GroupId,
    mut g: OpenGroup,
    load: &Load,
    acks: &Mutex<std::fs::File>,
) -> anyhow::Result<()> {
    let mut next = catch_up(&mut g).await?;
    let mut term = g.log.read_vote().await?.map_or(0, |v| v.leader_id.term) + 1;
    g.log.save_vote(&Vote::new_committed(term, 1)).await?;
    let (mut since_snapshot, mut done) = (0, 0);
    while load.appends == 0 || done < load.appends {
        let mut sent = Vec::new();
        for _ in 0..load.in_flight {
            let len = rand::random_range(20..400);
            let (bytes, hash) = command(group, next, term, len);
            let e = Entry {
                log_id: id(term, next),
                payload: EntryPayload::Normal(Command(bytes)),
            };
            let (tx, rx) = TypeConfig::oneshot();
            g.log
                .append([e.clone()], openraft::storage::IOFlushed::signal(tx))
                .await?;
            sent.push((e, hash, rx));
            next += 1;
        }
        let mut entries = Vec::new();
        for (e, hash, rx) in sent {
            rx.await??;
            let line = format!("{group} {} {hash:016x}\n", e.log_id.index);
            acks.lock()
                .map_err(|_| anyhow::anyhow!("poisoned"))?
                .write_all(line.as_bytes())?;
            entries.push(e);
        }
        (since_snapshot, done) = (since_snapshot + load.in_flight, done + load.in_flight);
        g.log
            .save_committed(entries.last().map(|e| e.log_id))
            .await?;
        g.state
            .apply(futures::stream::iter(
                entries.into_iter().map(|e| Ok((e, None))),
            ))
            .await?;
        if since_snapshot >= SNAPSHOT_EVERY {
            since_snapshot = 0;
            let s = g
                .state
                .get_snapshot_builder()
                .await
                .build_snapshot()
                .await?;
            if let Some(l) = s.meta.last_log_id.filter(|l| l.index > KEEP) {
                g.log.purge(id(l.leader_id.term, l.index - KEEP)).await?;
            }
        }
        if rand::random_range(0..40) == 0 {
            // A leader that is voted out: its last entries are voided and never acknowledged.
            let lost = (0..3).map(|i| Entry {
                log_id: id(term, next + i),
                payload: EntryPayload::Normal(Command(b"voided".to_vec())),
            });
            g.log.blocking_append(lost).await?;
            g.log.truncate_after(Some(id(term, next - 1))).await?;
            term += 1;
            g.log.save_vote(&Vote::new_committed(term, 1)).await?;
        }
    }
    Ok(())
}

/// Reads acknowledgements: hash by group and index. A line cut short is none.
///
/// # Errors
/// When the file cannot be read.
pub fn read_acks(path: &Path) -> anyhow::Result<BTreeMap<(GroupId, u64), u64>> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let whole = text.rfind('\n').map_or(0, |i| i + 1);
    let mut out = BTreeMap::new();
    for line in text[..whole].lines() {
        let mut parts = line.split(' ');
        let (g, i, h) = (parts.next(), parts.next(), parts.next());
        let h = u64::from_str_radix(h.context("hash")?, 16)?;
        out.insert(
            (g.context("group")?.parse()?, i.context("index")?.parse()?),
            h,
        );
    }
    Ok(out)
}

/// Opens storage again and checks that everything in `acks` is there, unchanged.
///
/// # Errors
/// When storage refuses to open, or something acknowledged is missing or changed.
pub async fn verify(
    dir: &Path,
    store: StoreKind,
    groups: u32,
    acks: &BTreeMap<(GroupId, u64), u64>,
) -> anyhow::Result<()> {
    let fatal = Fatal::new(|why| panic!("{why}"));
    let storage = Storage::open(dir, options(store, groups, fatal))?;
    for group in 0..groups {
        let mut g = storage.group(group, Arc::new(Keep))?;
        catch_up(&mut g).await?;
        for ((_, index), expected) in acks.range((group, 0)..=(group, u64::MAX)) {
            let got = g
                .reader
                .view(|kv: &dyn KvRead| kv.get(&index.to_be_bytes()))??;
            let got =
                got.with_context(|| format!("group {group} index {index}: acknowledged, gone"))?;
            ensure!(
                hash(&got) == *expected,
                "group {group} index {index}: acknowledged, changed: {}",
                String::from_utf8_lossy(&got[..got.len().min(60)])
            );
        }
    }
    storage.wal().close();
    Ok(())
}
