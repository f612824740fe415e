//! `quorate log checkpoint|show|verify|policy`: custodians' published logs.

use super::Context;
use crate::audit::{AuditorKey, LogClient, LogPlace, Logs, Shelf};
use crate::deployment::read_limited;
use crate::exit::{CommandResult, Exit, Failure};
use crate::output::{plain, remark, time};
use quorate_engine::audit::publish::{
    Checkpoint, Found, LogRange, Note, Published, Tile, TileKind, TlogPolicy, TrustedHead,
    check_entries, check_log, decode_bundle, tiles_of,
};
use quorate_engine::audit::{
    consistency_proof, inclusion_proof, leaf_hash, verify_consistency, verify_inclusion,
};
use serde_json::{Value, json};
use std::fmt::Write as _;
use std::path::PathBuf;
use std::sync::Arc;

/// How far ahead of this clock a witness's time may lie, in seconds.
const AHEAD_S_MAX: u64 = 300;
/// Most findings that are printed of one log.
const SHOWN_MAX: usize = 20;

/// Read and check the logs that custodians publish
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// Print a custodian's newest checkpoint, after verifying its signature
    Checkpoint {
        #[command(flatten)]
        which: Which,
    },
    /// Print entries of a custodian's log, each proved to be in it
    Show(Show),
    /// Check a custodian's whole log: hashes, root, signature, and that it only grew
    Verify(Verify),
    /// Print the log policy of this deployment: whose logs and cosignatures to believe
    Policy {
        /// How many other custodians must have cosigned a checkpoint
        #[arg(long, value_name = "N", default_value_t = 0)]
        quorum: usize,
    },
}

#[derive(Debug, clap::Args)]
struct Which {
    /// The custodian
    custodian: String,
    /// Its audit plane, as https://HOST:PORT; repeat for each node [default: as client.toml says]
    #[arg(long = "at", value_name = "URL")]
    at: Vec<String>,
    /// A log policy file that says what is believed [default: the custodian's own signature]
    #[arg(long, value_name = "FILE")]
    policy: Option<PathBuf>,
}

#[derive(Debug, clap::Args)]
struct Show {
    #[command(flatten)]
    which: Which,
    /// Your auditor's key, which this custodian's officers admitted
    #[arg(long, value_name = "FILE")]
    key: PathBuf,
    /// The first entry [default: the newest ones]
    #[arg(long, value_name = "N")]
    from: Option<u64>,
    /// How many
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..=100_000))]
    count: u64,
}

#[derive(Debug, clap::Args)]
struct Verify {
    #[command(flatten)]
    which: Which,
    /// Your auditor's key: entries are read and checked as well
    #[arg(long, value_name = "FILE")]
    key: Option<PathBuf>,
    /// Keep the log in this directory, and compare with what lies there from the last time
    #[arg(long, value_name = "DIR")]
    keep: Option<PathBuf>,
}

/// Runs the command.
///
/// # Errors
/// [`Failure`].
pub async fn run(args: Args, context: &Context) -> CommandResult {
    match args.what {
        What::Checkpoint { which } => checkpoint(&which, context).await,
        What::Show(args) => show(&args, context).await,
        What::Verify(args) => verify(&args, context).await,
        What::Policy { quorum } => {
            let text = logs(context)?.policy_text(quorum)?;
            let value = json!({"policy": text});
            context.output.show(&value, || text.trim_end().to_owned())?;
            Ok(Exit::Ok)
        }
    }
}

fn logs(context: &Context) -> Result<Logs, Failure> {
    Logs::of(&context.deployment()?, context.global.trust.as_deref())
}

struct Opened {
    client: LogClient,
    policy: TlogPolicy,
}

/// A client of a custodian's log, and what is believed of it.
fn open(which: &Which, key: Option<&PathBuf>, context: &Context) -> Result<Opened, Failure> {
    let logs = logs(context)?;
    let mut place: LogPlace = logs.get(&which.custodian)?.clone();
    if !which.at.is_empty() {
        place.endpoints = which.at.clone();
    }
    let text = match &which.policy {
        Some(path) => read_limited(path).map_err(|e| Failure::file("read", path, &e))?,
        None => logs.policy_text(0)?.into_bytes(),
    };
    let policy = TlogPolicy::parse(&text)
        .map_err(|e| Failure::usage(e.to_string(), "correct the policy file"))?;
    let key = key.map(|k| AuditorKey::load(k)).transpose()?.map(Arc::new);
    let client = LogClient::new(&place, logs.deployment, key)?;
    Ok(Opened { client, policy })
}

fn not_believed(name: &str, why: impl std::fmt::Display) -> Failure {
    let what = format!("the checkpoint of {name} is not believed: {why}");
    let next = "keep it as it is: a signature that does not hold, or a log that differs from what was seen before, is what an audit looks for";
    Failure::new(Exit::Failed, "log_not_believed", what, next)
}

impl Opened {
    fn name(&self) -> &str {
        self.client.place().custodian.as_str()
    }

    /// The newest checkpoint, believed.
    async fn head(&self) -> Result<(Note, TrustedHead), Failure> {
        let note = self.client.checkpoint().await?;
        let head = self.believe(&note)?;
        Ok((note, head))
    }

    fn believe(&self, note: &Note) -> Result<TrustedHead, Failure> {
        let now = Some((crate::people::now_ms() / 1000, AHEAD_S_MAX));
        let head = self.policy.verify(note, now);
        let head = head.map_err(|e| not_believed(self.name(), e))?;
        if head.log.name() != self.client.place().log.name() {
            let why = format!("it is of log {}", head.log.name());
            return Err(not_believed(self.name(), why));
        }
        Ok(head)
    }
}

fn head_value(head: &TrustedHead) -> Value {
    let cosigned = head.cosigned.iter();
    json!({
        "origin": head.checkpoint.origin,
        "size": head.checkpoint.size,
        "root": hex::encode(head.checkpoint.root),
        "cosigned": cosigned.map(|(key, time_s)| json!({"witness": key.name().as_str(), "time_s": time_s})).collect::<Vec<_>>(),
    })
}

async fn checkpoint(which: &Which, context: &Context) -> CommandResult {
    let opened = open(which, None, context)?;
    let (note, head) = opened.head().await?;
    let mut value = head_value(&head);
    value["note"] = json!(note.to_string());
    context
        .output
        .show(&value, || note.to_string().trim_end().to_owned())?;
    Ok(Exit::Ok)
}

async fn show(args: &Show, context: &Context) -> CommandResult {
    let opened = open(&args.which, Some(&args.key), context)?;
    let (_, head) = opened.head().await?;
    let head = head.checkpoint;
    let from = args.from.unwrap_or(head.size.saturating_sub(args.count));
    let to = head.size.min(from.saturating_add(args.count));
    let dir = tempdir()?;
    let shelf = Shelf::open(dir.path())?;
    opened.client.fill(&shelf, head.size, from).await?;
    let source = shelf.source(head.size);
    let leaves = tiles_of(head.size).take_while(|t| t.kind == TileKind::Hashes(0));
    let kind = TileKind::Entries;
    for tile in leaves.map(|t| Tile { kind, ..t }) {
        if tile.start() >= to || tile.start() + u64::from(tile.width) <= from {
            continue;
        }
        let wrong = |e: &dyn std::fmt::Display| not_believed(opened.name(), format!("{tile}: {e}"));
        let bytes = shelf.tile(&tile).map_err(|e| wrong(&e))?;
        let entries = decode_bundle(&tile, &bytes).map_err(|e| wrong(&e))?;
        for (index, entry) in (tile.start()..).zip(entries) {
            if !(from..to).contains(&index) {
                continue;
            }
            let proof = inclusion_proof(&source, index, head.size).map_err(|e| wrong(&e))?;
            let leaf = leaf_hash(entry);
            verify_inclusion(&leaf, index, head.size, &proof, &head.root)
                .map_err(|e| wrong(&format!("entry {index}: {e}")))?;
            let text = String::from_utf8_lossy(entry);
            context.output.line(&plain(&text))?;
        }
    }
    Ok(Exit::Ok)
}

fn tempdir() -> Result<tempfile::TempDir, Failure> {
    let made = tempfile::tempdir();
    made.map_err(|e| Failure::file("make", &std::env::temp_dir(), &e))
}

/// What lies in the kept directory from before, if it is of this log.
struct Before {
    head: Checkpoint,
}

fn before(opened: &Opened, shelf: &Shelf) -> Result<Option<Before>, Failure> {
    let Some(bytes) = shelf.checkpoint()? else {
        return Ok(None);
    };
    let unusable = |e: &dyn std::fmt::Display| {
        let name = opened.name();
        Failure::usage(
            format!("the checkpoint of {name} that was kept cannot be used: {e}"),
            "name another directory with --keep",
        )
    };
    let note = Note::parse(&bytes).map_err(|e| unusable(&e))?;
    // It was believed when it was kept; whoever changed the directory since is caught here.
    let keys = [opened.client.place().log.clone()];
    match note.verify(&keys) {
        Ok(signed) if !signed.is_empty() => {}
        _ => return Err(unusable(&"its signature does not hold")),
    }
    let head = Checkpoint::parse(note.text()).map_err(|e| unusable(&e))?;
    Ok(Some(Before { head }))
}

/// That the log of the last time is the beginning of this one.
fn only_grew(was: &Checkpoint, is: &Checkpoint, shelf: &Shelf) -> Result<(), String> {
    if was.size > is.size {
        return Err(format!(
            "it had {} entries the last time and has {} now: entries were dropped, or the node answers with an old log",
            was.size, is.size
        ));
    }
    let source = shelf.source(is.size);
    let proof = consistency_proof(&source, was.size, is.size).map_err(|e| e.to_string())?;
    verify_consistency(was.size, &was.root, is.size, &is.root, &proof).map_err(|_| {
        format!(
            "the {} entries of the last time are not the beginning of the {} of now: it was rewritten",
            was.size, is.size
        )
    })
}

async fn verify(args: &Verify, context: &Context) -> CommandResult {
    let opened = open(&args.which, args.key.as_ref(), context)?;
    let (note, trusted) = opened.head().await?;
    let head = &trusted.checkpoint;
    let temporary = tempdir()?;
    let dir = args.keep.as_deref().unwrap_or(temporary.path());
    let shelf = Shelf::open(&dir.join(opened.name()))?;
    let before = before(&opened, &shelf)?;
    opened.client.fill(&shelf, head.size, 0).await?;
    let mut found = check_log(head, &shelf);
    let mut entries = None;
    if opened.client.reads_entries() {
        let range = LogRange {
            custodian: &opened.client.place().custodian,
            size: head.size,
            from: 0,
            previous_ms: 0,
        };
        let mut read = 0u64;
        found.extend(check_entries(&range, &shelf, |_, _, _| read += 1));
        entries = Some(read);
    }
    let grew = before.as_ref().map(|b| only_grew(&b.head, head, &shelf));
    let broken = grew.as_ref().and_then(|g| g.as_ref().err());
    let clean = found.is_empty() && broken.is_none();
    if clean && args.keep.is_some() {
        shelf.keep_checkpoint(&note.to_string())?;
    }
    let mut value = head_value(&trusted);
    value["clean"] = json!(clean);
    value["entries_read"] = json!(entries);
    value["since_size"] = json!(before.as_ref().map(|b| b.head.size));
    value["rewritten"] = json!(broken);
    value["findings"] = found.iter().map(finding_value).collect();
    context
        .output
        .show(&value, || words(&opened, &trusted, &found, &value))?;
    if clean {
        return Ok(Exit::Ok);
    }
    remark(
        &"The log is not as it should be. Keep the directory and the checkpoint as evidence; docs/audit.md says what each finding means.",
    );
    Ok(Exit::Failed)
}

fn finding_value(found: &Found) -> Value {
    json!({"from": found.entries.start, "to": found.entries.end, "what": found.fault.to_string()})
}

fn words(opened: &Opened, head: &TrustedHead, found: &[Found], value: &Value) -> String {
    let c = &head.checkpoint;
    let mut out = format!(
        "{}: {} entries, root {}, signed by its log key",
        opened.name(),
        c.size,
        hex::encode(c.root)
    );
    for (key, time_s) in &head.cosigned {
        let _ = write!(
            out,
            "\n  cosigned by {} at {}",
            key.name(),
            time(time_s * 1000)
        );
    }
    match value["entries_read"].as_u64() {
        Some(n) => {
            let _ = write!(out, "\n  all hashes and {n} entries were read and compared");
        }
        None => {
            out.push_str("\n  all hashes were read and compared; entries are for auditors (--key)")
        }
    }
    if let (Some(size), None) = (value["since_size"].as_u64(), value["rewritten"].as_str()) {
        let _ = write!(
            out,
            "\n  its first {size} entries are those of the last time"
        );
    }
    if let Some(why) = value["rewritten"].as_str() {
        let _ = write!(out, "\n  FINDING: {}", plain(why));
    }
    for f in found.iter().take(SHOWN_MAX) {
        let _ = write!(
            out,
            "\n  FINDING: entries {} to {}: {}",
            f.entries.start,
            f.entries.end - 1,
            plain(&f.fault.to_string())
        );
    }
    if found.len() > SHOWN_MAX {
        let _ = write!(
            out,
            "\n  and {} more (--json shows them)",
            found.len() - SHOWN_MAX
        );
    }
    out
}
