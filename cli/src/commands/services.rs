//! `quorate home service-credential issue|list|revoke`.

use super::Context;
use crate::deployment::Deployment;
use crate::exit::{CommandResult, Exit, Failure};
use crate::output::plain;
use crate::people::now_ms;
use crate::people::service::ServiceFile;
use quorate_engine::api::operator::OperatorDone;
use quorate_engine::api::services::{EnrolService, ServiceView, ServicesView};
use quorate_engine::types::{AccountId, HomeId, ServiceId};
use serde_json::json;
use std::path::PathBuf;

const PATH: &str = "/v1/service-credentials";
const DAY_MS: u64 = 24 * 60 * 60 * 1000;

/// Service credentials: keys of programs that append for accounts, and read nothing
#[derive(Debug, clap::Subcommand)]
pub enum What {
    /// Make a key, enrol it at the home, and write it to a file
    Issue(Issue),
    /// List what was ever enrolled
    List,
    /// End a service credential, for ever
    Revoke {
        /// Its id
        service: ServiceId,
    },
}

/// What is issued.
#[derive(Debug, clap::Args)]
pub struct Issue {
    /// What it is called in lists
    #[arg(long)]
    name: String,
    /// An account it may write for; repeat for more
    #[arg(
        long = "account",
        value_name = "ACCOUNT",
        required_unless_present = "everybody"
    )]
    accounts: Vec<AccountId>,
    /// It may write for every account
    #[arg(long, conflicts_with = "accounts")]
    everybody: bool,
    /// Days it counts, at most 366
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=366))]
    days: u64,
    /// The new file that the key is written to
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

/// Runs the command.
///
/// # Errors
/// [`Failure`].
pub async fn run(what: &What, context: &Context) -> CommandResult {
    let deployment = context.deployment()?;
    let operator = deployment.operator(&deployment.file.home)?;
    match what {
        What::Issue(args) => issue(args, &deployment, context).await,
        What::List => {
            let view: ServicesView = operator.get(PATH).await?;
            context.output.show(&view, || table(&view))?;
            Ok(Exit::Ok)
        }
        What::Revoke { service } => {
            let path = format!("{PATH}/{service}/revoke");
            let done: OperatorDone = operator.post(&path, &json!({})).await?;
            context.output.show(&done, || plain(&done.detail))?;
            Ok(Exit::Ok)
        }
    }
}

async fn issue(args: &Issue, deployment: &Deployment, context: &Context) -> CommandResult {
    let of = &deployment.file;
    let wrong = |what: String| Failure::usage(what, "correct client.toml");
    let place = (
        of.deployment.parse().map_err(|e| wrong(format!("{e}")))?,
        HomeId::new(&of.home).map_err(|e| wrong(format!("home: {e}")))?,
    );
    let accounts = (!args.everybody).then(|| args.accounts.iter().copied().collect());
    let expires_ms = now_ms() + args.days * DAY_MS;
    let made = ServiceFile::new(args.name.clone(), place, accounts, expires_ms);
    // Before it is enrolled: a key that counts and lies nowhere could not be used, only revoked.
    made.create(&args.out)?;
    let accounts = made.accounts.as_ref();
    let request = EnrolService {
        name: made.name.clone(),
        public: made.public().to_string(),
        accounts: accounts.map(|all| all.iter().map(ToString::to_string).collect()),
        expires_ms,
    };
    let operator = deployment.operator(&of.home)?;
    let done: OperatorDone = operator.post(PATH, &request).await?;
    let value = json!({"service": made.id(), "file": args.out, "expires_ms": expires_ms});
    context.output.show(&value, || {
        format!(
            "{}\nits key is in {}: whoever has that file may write, and read nothing",
            plain(&done.detail),
            args.out.display()
        )
    })?;
    Ok(Exit::Ok)
}

fn table(view: &ServicesView) -> String {
    let mut table = comfy_table::Table::new();
    table.load_style(comfy_table::presets::UTF8_NO_BORDERS);
    table.set_header(["service", "name", "writes for", "state"]);
    let now = now_ms();
    for s in &view.services {
        let whom = s.accounts.as_ref();
        let whom = whom.map_or("everybody".into(), |all| all.join("\n"));
        table.add_row([s.id.clone(), plain(&s.name), whom, state(s, now)]);
    }
    table.to_string()
}

fn state(s: &ServiceView, now_ms: u64) -> String {
    match s.ended_ms {
        Some(_) => "ended".into(),
        None if now_ms >= s.expires_ms => "its time is over".into(),
        None => format!("{} days more", (s.expires_ms - now_ms) / DAY_MS),
    }
}
