//! `quorate bench`.

use super::Context;
use crate::bench::custodian::{HomeNode, Releases, ShareStores};
use crate::bench::{
    CLIENTS_MAX, Case, ColdReads, Ground, Load, Measured, Pages, Reads, Writes, run as drive,
};
use crate::exit::{CommandResult, Exit, Failure};
use crate::output::remark;
use quorate_engine::api::{CONTENT_BYTES_MAX, MESSAGES_PER_CALL_MAX};
use quorate_engine::authz::grant::GRANT_CHATS_MAX;
use quorate_engine::custody::protocol::KEYS_PER_REQUEST_MAX;
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

/// Messages put into each chat before it is read.
const FILLED: u64 = 512;
/// Most chats of the cold case.
const COLD_CHATS_MAX: u64 = 100_000;

/// Measure a deployment
///
/// It makes chats of its own and leaves them there. Every client waits for an
/// answer before it asks again. A read is cold when its key is not leased:
/// `cold` reads one record of each of many chats, once, after waiting
/// `--settle` seconds for leases to run out; it prints how many keys were
/// leased before and after.
///
/// `share-stores` and `releases` ask a custodian over the peer plane. They act
/// as the home's first node and leave orphan shares at the custodian, so they
/// work only in deployments that one hand laid out (`dev`, `deploy init`).
#[derive(Debug, clap::Args)]
pub struct Args {
    /// What to measure; `writes`, `reads` and `pages` when omitted
    #[arg(value_enum)]
    what: Vec<What>,
    /// Clients, each with one operation in flight
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u64).range(1..=CLIENTS_MAX as u64))]
    clients: u64,
    /// Text bytes of one message
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..=(CONTENT_BYTES_MAX as u64 - 4096)))]
    size: u64,
    /// Messages a write, or keys a share store or release (at most 256)
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=MESSAGES_PER_CALL_MAX as u64))]
    batch: u64,
    /// Messages a page
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u64).range(1..=MESSAGES_PER_CALL_MAX as u64))]
    page: u64,
    /// Seconds for each measurement
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    time: u64,
    /// Chats the load is spread over
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u64).range(1..=10_000))]
    chats: u64,
    /// Chats made for cold reads
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u64).range(1..=COLD_CHATS_MAX))]
    cold_chats: u64,
    /// Chats that the grant of a cold read names, as when somebody opens several at once
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=GRANT_CHATS_MAX as u64))]
    together: u64,
    /// Seconds to wait before cold reads, so that leases run out
    #[arg(long, default_value_t = 0)]
    settle: u64,
    /// The custodian asked by `share-stores` and `releases` [default: the first laid out]
    #[arg(long, value_name = "NAME")]
    custodian: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum What {
    /// Durable message writes
    Writes,
    /// Single messages under a lease
    Reads,
    /// Pages of messages under a lease
    Pages,
    /// Reads that need a quorum first
    Cold,
    /// Durable stores of shares at one custodian
    ShareStores,
    /// Releases of shares by one custodian, each on record first
    Releases,
}

/// Runs the command.
///
/// # Errors
/// [`Failure`]; also when operations failed, after the figures were shown.
pub async fn run(args: Args, context: &Context) -> CommandResult {
    let what = match args.what.is_empty() {
        true => vec![What::Writes, What::Reads, What::Pages],
        false => args.what.clone(),
    };
    let load = Load {
        clients: args.clients as usize,
        size: args.size as usize,
        batch: args.batch as usize,
        seconds: args.time,
        chats: args.chats as usize,
    };
    let mut failed = 0;
    let mut first = true;
    for what in what {
        let measured = measure(what, &args, load, context).await?;
        failed += measured.failed;
        context
            .output
            .show(&measured, || line(&measured, std::mem::take(&mut first)))?;
    }
    match failed {
        0 => Ok(Exit::Ok),
        n => Err(Failure::new(
            Exit::Failed,
            "bench_failed",
            format!("{n} operations failed"),
            "look at first_error and `quorate status`",
        )),
    }
}

async fn measure(
    what: What,
    args: &Args,
    load: Load,
    context: &Context,
) -> Result<Measured, Failure> {
    let prepare = async |load: Load, filled| Ground::prepare(context.client()?, load, filled).await;
    let paged = Load {
        batch: args.page as usize,
        ..load
    };
    let case: Arc<dyn Case> = match what {
        What::Writes => Arc::new(Writes(prepare(load, 0).await?)),
        What::Reads => Arc::new(Reads(prepare(load, FILLED).await?)),
        What::Pages => Arc::new(Pages(prepare(paged, FILLED).await?)),
        What::Cold => return cold(args, load, context).await,
        What::ShareStores => Arc::new(ShareStores(home_node(args, context).await?)),
        What::Releases => {
            Arc::new(Releases::prepare(home_node(args, context).await?, load.seconds).await?)
        }
    };
    Ok(drive(case, load).await)
}

async fn home_node(args: &Args, context: &Context) -> Result<Arc<HomeNode>, Failure> {
    if args.batch > KEYS_PER_REQUEST_MAX as u64 {
        return Err(Failure::usage(
            format!("a request to a custodian names at most {KEYS_PER_REQUEST_MAX} keys"),
            "give a smaller --batch",
        ));
    }
    let dir = context.deployment()?.dir;
    let home = HomeNode::of(&dir, args.custodian.as_deref(), args.batch as usize).await?;
    remark(&home.warning());
    Ok(home)
}

async fn cold(args: &Args, load: Load, context: &Context) -> Result<Measured, Failure> {
    let client = context.client()?;
    let many = Load {
        chats: args.cold_chats as usize,
        ..load
    };
    let ground = Ground::prepare(client.clone(), many, 0).await?;
    tokio::time::sleep(Duration::from_secs(args.settle)).await;
    let before = client.status().await?.leases;
    let case = Arc::new(ColdReads::new(
        client.clone(),
        ground.chats().to_vec(),
        args.together as usize,
    ));
    let measured = drive(case, load).await;
    let after = client.status().await?.leases;
    remark(&format!(
        "cold reads: {} keys leased before, {} after, on the node asked (leases live at most {} s)",
        before.live,
        after.live,
        before.age_ms_max / 1000
    ));
    Ok(measured)
}

fn line(m: &Measured, header: bool) -> String {
    let mut out = String::new();
    if header {
        out = format!(
            "{:<18} {:>7} {:>10} {:>10} {:>9} {:>9} {:>9} {:>9} {:>7}\n",
            "case", "clients", "ops/s", "items/s", "p50 ms", "p90 ms", "p99 ms", "max ms", "failed"
        );
    }
    let _ = write!(
        out,
        "{:<18} {:>7} {:>10.0} {:>10.0} {:>9.2} {:>9.2} {:>9.2} {:>9.2} {:>7}",
        m.case,
        m.clients,
        m.operations_per_second,
        m.items_per_second,
        m.p50_ms,
        m.p90_ms,
        m.p99_ms,
        m.max_ms,
        m.failed
    );
    if let Some(error) = &m.first_error {
        let _ = write!(out, "\n  first error: {}", crate::output::plain(error));
    }
    out
}
