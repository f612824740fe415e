//! `quorate custodian init|renew|new-node|status|freeze|thaw|shred|unlock|lock|keys`.

use super::{Context, entity, keys};
use crate::exit::{CommandResult, Exit, Failure};
use crate::output::plain;
use quorate_engine::api::keys::Purpose;
use quorate_engine::api::operator::{
    FreezeRequest, OperatorDone, OperatorStatus, ShredKey, ShredRequest, VersionsStatus,
};
use quorate_node::config::ClusterRole;
use std::fmt::Write as _;

/// Set up and operate a custodian
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// Make a custodian's keys, certificates and configurations, and print its descriptor's fingerprint
    Init(entity::Init),
    /// Issue certificates anew before they end
    Renew(entity::Renew),
    /// Make the directory of one more node, for `cluster add-node`
    NewNode(entity::NewNode),
    /// Show a custodian as its own nodes see it
    Status(Named),
    /// Stop a custodian's releases, of one chat or of everything
    Freeze(Scope),
    /// End a freeze
    Thaw(Scope),
    /// Destroy shares, for ever
    Shred(Shred),
    /// Load the keys of locked nodes: with a passphrase, holders' shares, or their own provider
    Unlock(keys::Open),
    /// Drop the keys of nodes at once: nothing is served until they are unlocked
    Lock(keys::Lock),
    /// What opens a custodian's nodes: key slots and ceremonies
    #[command(subcommand)]
    Keys(keys::Keys),
}

#[derive(Debug, clap::Args)]
struct Named {
    /// The custodian
    custodian: String,
}

#[derive(Debug, clap::Args)]
struct Scope {
    /// The custodian
    custodian: String,
    /// A chat's id; everything when not given
    #[arg(long, value_name = "ID")]
    chat: Option<String>,
    /// Why; stands in the custodian's log
    #[arg(long)]
    reason: String,
}

#[derive(Debug, clap::Args)]
struct Shred {
    /// The custodian
    custodian: String,
    /// A dealing, as CHAT:KEY (both hex); repeat for more
    #[arg(long = "key", value_name = "CHAT:KEY", required = true, value_parser = key)]
    keys: Vec<ShredKey>,
    /// Why; stands in the custodian's log
    #[arg(long)]
    reason: String,
    /// Do it without asking; there is no way back
    #[arg(long)]
    yes: bool,
}

fn key(text: &str) -> Result<ShredKey, String> {
    text.split_once(':')
        .map(|(chat, key_id)| ShredKey {
            chat: chat.to_owned(),
            key_id: key_id.to_owned(),
        })
        .ok_or_else(|| "write CHAT:KEY, both in hex".to_owned())
}

/// Runs the command.
///
/// # Errors
/// [`Failure`].
pub async fn run(args: Args, context: &Context) -> CommandResult {
    let operator = |name: &str| context.deployment()?.operator(name);
    let done: OperatorDone = match args.what {
        What::Init(init) => return entity::init(ClusterRole::Custodian, &init, context),
        What::Renew(args) => return entity::renew(ClusterRole::Custodian, &args, context),
        What::NewNode(args) => return entity::new_node(ClusterRole::Custodian, &args, context),
        What::Unlock(args) => return keys::open(args, Purpose::Unlock, context).await,
        What::Lock(args) => return keys::lock(args, context).await,
        What::Keys(what) => return keys::run(what, context).await,
        What::Status(named) => return status(&named.custodian, context).await,
        What::Freeze(scope) => {
            operator(&scope.custodian)?
                .post("/v1/freeze", &request(&scope))
                .await?
        }
        What::Thaw(scope) => {
            operator(&scope.custodian)?
                .post("/v1/thaw", &request(&scope))
                .await?
        }
        What::Shred(shred) => {
            if !shred.yes {
                return Err(Failure::usage(
                    format!(
                        "this destroys {} shares at {} for ever",
                        shred.keys.len(),
                        shred.custodian
                    ),
                    "run it again with --yes if that is meant",
                ));
            }
            let request = ShredRequest {
                keys: shred.keys,
                reason: shred.reason,
            };
            operator(&shred.custodian)?
                .post("/v1/shred", &request)
                .await?
        }
    };
    context.output.show(&done, || match done.entry {
        Some(entry) => format!("{} (log entry {entry})", plain(&done.detail)),
        None => plain(&done.detail),
    })?;
    Ok(Exit::Ok)
}

fn request(scope: &Scope) -> FreezeRequest {
    FreezeRequest {
        scope: scope.chat.clone().unwrap_or_else(|| "all".into()),
        reason: scope.reason.clone(),
    }
}

fn versions(v: &VersionsStatus) -> String {
    let name = |version: Option<u32>| version.map_or("none".into(), |n| n.to_string());
    let mut out = format!(
        "keys: wrapping version {}, sealing version {}; {} of {} shares under the former wrapping versions",
        name(v.wrapping),
        name(v.sealing),
        v.shares_left,
        v.shares
    );
    if !v.lacking.is_empty() {
        let _ = write!(out, ", nodes {:?} have not attested this one", v.lacking);
    }
    out
}

async fn status(cluster: &str, context: &Context) -> CommandResult {
    let mut seen: Vec<OperatorStatus> = Vec::new();
    let mut missing: Vec<Failure> = Vec::new();
    for node in context.deployment()?.operator_of_each(cluster)? {
        match node.get("/v1/status").await {
            Ok(status) => seen.push(status),
            Err(e) => missing.push(e.into()),
        }
    }
    if seen.is_empty() && !missing.is_empty() {
        return Err(missing.remove(0));
    }
    context.output.show(&seen, || {
        let mut out = String::new();
        for s in &seen {
            let state = if s.unlocked { "unlocked" } else { "LOCKED" };
            let _ = writeln!(
                out,
                "{} node {}: {state}, version {}",
                plain(&s.cluster),
                s.node,
                plain(&s.version)
            );
            for g in &s.groups {
                let leader = g
                    .leader
                    .map_or("no leader".into(), |l| format!("leader {l}"));
                let _ = writeln!(
                    out,
                    "  group {}: {leader}, term {}, applied {} of {}, voters {:?}, learners {:?}",
                    g.group, g.term, g.applied, g.last, g.voters, g.learners
                );
            }
            if let Some(v) = &s.versions {
                let _ = writeln!(out, "  {}", versions(v));
            }
            for f in &s.freezes {
                let _ = writeln!(
                    out,
                    "  FROZEN {} since entry {}: {}",
                    plain(&f.scope),
                    f.position,
                    plain(&f.reason)
                );
            }
            for w in &s.warnings {
                let _ = writeln!(out, "  warning: {}", plain(w));
            }
        }
        for f in &missing {
            let _ = writeln!(out, "not reached: {}", plain(&f.what));
        }
        out.trim_end().to_owned()
    })?;
    Ok(if missing.is_empty() {
        Exit::Ok
    } else {
        Exit::Partial
    })
}
