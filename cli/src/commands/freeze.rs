//! `quorate freeze drill`.

use super::{Context, check_chat, deploy};
use crate::drill::{self, Case, Drill, Measured};
use crate::exit::{CommandResult, Exit, Failure};
use crate::output::plain;
use quorate_node::embedded::Embedded;
use std::path::PathBuf;

/// Measure how long after a freeze something can still be read
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// Freeze a blocking set of custodians, read through every home node until none serves, and thaw.
    ///
    /// Without --chat it runs on a deployment of its own, in three cases: the home is told, it is
    /// cut off, and it is restarted meanwhile. With --chat it runs once on the deployment that is
    /// meant, for this chat only.
    Drill(DrillArgs),
}

#[derive(Debug, clap::Args)]
struct DrillArgs {
    /// The topology of the drill's own deployment [default: the built-in one]
    #[arg(long, value_name = "FILE", conflicts_with = "chat")]
    topology: Option<PathBuf>,
    /// Keep the drill's own deployment in this new or empty directory
    #[arg(long, value_name = "DIR", conflicts_with = "chat")]
    dir: Option<PathBuf>,
    /// Measure each case so many times
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// A chat of a running deployment whose message --message the wallet may read
    #[arg(long, value_name = "ID", requires_all = ["at", "reason"])]
    chat: Option<String>,
    /// The message that is read
    #[arg(long, value_name = "NUMBER", default_value_t = 1)]
    message: u64,
    /// A custodian that freezes, operated from here; name a set that blocks every opening
    #[arg(long, value_name = "CUSTODIAN", requires = "chat")]
    at: Vec<String>,
    /// Why; stands in the custodians' logs
    #[arg(long, requires = "chat")]
    reason: Option<String>,
    /// Do not thaw afterwards: where officers are appointed, they must
    #[arg(long, requires = "chat", conflicts_with = "rounds")]
    leave_frozen: bool,
}

/// Runs the command.
///
/// # Errors
/// [`Failure`], also when it was not dark in time.
pub async fn run(args: Args, context: &Context) -> CommandResult {
    let What::Drill(args) = args.what;
    match &args.chat {
        Some(chat) => running(chat, &args, context).await,
        None => own(&args, context).await,
    }
}

async fn running(chat: &str, args: &DrillArgs, context: &Context) -> CommandResult {
    check_chat(chat)?;
    let deployment = context.deployment()?;
    let wallet = context.wallet(&deployment)?;
    let drill = Drill {
        client: deployment.client(Some(deployment.person(&wallet)?))?,
        deployment,
        chat: chat.to_owned(),
        message: args.message,
        scope: chat.to_owned(),
        custodians: args.at.clone(),
        reason: args.reason.clone().unwrap_or_default(),
        leave_frozen: args.leave_frozen,
    };
    let mut all = Vec::new();
    for _ in 0..args.rounds {
        let measured = drill.measure(Case::Told, None).await?;
        say(&measured, context)?;
        all.push(measured);
    }
    judge(&all)
}

async fn own(args: &DrillArgs, context: &Context) -> CommandResult {
    let temporary = match &args.dir {
        Some(_) => None,
        None => Some(
            tempfile::Builder::new()
                .prefix("quorate-drill-")
                .tempdir()
                .map_err(|e| Failure::file("make", &std::env::temp_dir(), &e))?,
        ),
    };
    let dir = match (&temporary, &args.dir) {
        (Some(t), _) => t.path().join("deployment"),
        (None, Some(dir)) => dir.clone(),
        (None, None) => return Err(Failure::usage("no directory", "name one with --dir")),
    };
    let layout = deploy::make(&deploy::topology(args.topology.as_deref())?, &dir)?;
    let mut embedded = Embedded::start(layout).await.map_err(|e| {
        let next = "mend it and run the drill again";
        Failure::new(Exit::Failed, "drill", e.to_string(), next)
    })?;
    let measured = rounds(args.rounds, &mut embedded, context).await;
    embedded.shutdown().await;
    judge(&measured?)
}

async fn rounds(
    count: u32,
    embedded: &mut Embedded,
    context: &Context,
) -> Result<Vec<Measured>, Failure> {
    let drill = drill::prepare(embedded).await?;
    let mut all = Vec::new();
    for _ in 0..count {
        for case in Case::ALL {
            let measured = drill.measure(case, Some(embedded)).await?;
            say(&measured, context)?;
            all.push(measured);
        }
    }
    Ok(all)
}

fn say(m: &Measured, context: &Context) -> Result<(), Failure> {
    let light = match m.light_ms {
        Some(ms) => format!("reads again {ms} ms after the thaw"),
        None => "it stays frozen".to_owned(),
    };
    context.output.show(m, || {
        let mark = if m.held { "ok  " } else { "FAIL" };
        format!(
            "{mark} {}: {} froze in {} ms; last read {} ms after that (at most {} ms), {} reads since; {light}",
            m.case.text(),
            plain(&m.frozen.join(", ")),
            m.confirmed_ms,
            m.dark_ms,
            m.limit_ms,
            m.reads_after
        )
    })
}

fn judge(all: &[Measured]) -> CommandResult {
    match all.iter().find(|m| !m.held) {
        None => Ok(Exit::Ok),
        Some(m) => Err(Failure::new(
            Exit::Failed,
            "not_dark",
            format!(
                "{}: still read {} ms after {} had frozen, {} ms are allowed, or it did not stay dark",
                m.case.text(),
                m.dark_ms,
                m.frozen.join(", "),
                m.limit_ms
            ),
            "check with `quorate policy` that these custodians block every opening, and the clocks and links of the home",
        )),
    }
}
