//! `quorate status [--watch]`.

use super::Context;
use crate::exit::{CommandResult, Exit};
use crate::output::plain;
use comfy_table::Table;
use quorate_engine::api::{ClusterStatus, NodeStatus, Status};
use std::fmt::Write as _;
use std::time::{Duration, SystemTime};

/// Certificates that expire sooner are marked.
const EXPIRY_WARN_MS: u64 = 14 * 24 * 3600 * 1000;

/// Show the deployment's clusters, margins and warnings
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Show it again and again
    #[arg(long)]
    watch: bool,
    /// Seconds between two looks
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..=3600), requires = "watch")]
    interval: u64,
}

/// Runs the command.
///
/// # Errors
/// [`crate::exit::Failure`]. While watching, a home that does not answer is shown, not an end.
pub async fn run(args: Args, context: &Context) -> CommandResult {
    let client = context.deployment()?.client(None)?;
    loop {
        match client.status().await {
            Ok(status) => {
                let clear = if args.watch && !context.output.json {
                    "\x1b[2J\x1b[H"
                } else {
                    ""
                };
                context
                    .output
                    .show(&status, || format!("{clear}{}", text(&status, now_ms())))?;
                if !args.watch {
                    return Ok(if status.policy.margin.is_none() {
                        Exit::NoQuorum
                    } else {
                        Exit::Ok
                    });
                }
            }
            Err(e) if !args.watch => return Err(e.into()),
            Err(e) => crate::output::remark(&e),
        }
        tokio::time::sleep(Duration::from_secs(args.interval)).await;
    }
}

fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.map_or(0, |d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX))
}

fn span(ms: u64) -> String {
    match ms / 1000 {
        s if s >= 2 * 86_400 => format!("{} d", s / 86_400),
        s if s >= 2 * 3600 => format!("{} h", s / 3600),
        s if s >= 120 => format!("{} min", s / 60),
        s => format!("{s} s"),
    }
}

fn text(s: &Status, now: u64) -> String {
    let mut out = format!(
        "deployment {}, seen from {}\n",
        plain(&s.deployment),
        plain(&s.node)
    );
    let _ = writeln!(out, "release authority: {}\n", plain(&s.release_authority));
    let _ = writeln!(out, "{}\n", clusters(&s.clusters, now));
    let p = &s.policy;
    let _ = writeln!(
        out,
        "policy {}: {}",
        p.id.get(..12).unwrap_or(&p.id),
        plain(&p.text)
    );
    let _ = match p.margin {
        Some(0) => writeln!(
            out,
            "  margin: none; the loss of one more custodian stops openings{}",
            thin(p.thin)
        ),
        Some(n) => writeln!(out, "  margin: any {n} more may be lost{}", thin(p.thin)),
        None => writeln!(
            out,
            "  NOTHING CAN BE OPENED; available: {}",
            list(&p.available)
        ),
    };
    if p.margin.is_none() {
        for set in &p.would_suffice {
            let _ = writeln!(out, "  would suffice: {}", set.join(" + "));
        }
    }
    let l = &s.leases;
    let locked = if l.memory_locked {
        ""
    } else {
        "; MEMORY NOT LOCKED, raise RLIMIT_MEMLOCK"
    };
    let _ = writeln!(
        out,
        "thin epochs: {}   outbox: {} shares   leases: {} of {} (oldest {}, at most {}{locked})",
        s.thin_epochs,
        s.outbox,
        l.live,
        l.max,
        span(l.oldest_ms),
        span(l.age_ms_max)
    );
    for warning in &s.warnings {
        let _ = writeln!(out, "warning: {}", plain(warning));
    }
    out.trim_end().to_owned()
}

fn thin(thin: bool) -> &'static str {
    if thin {
        " (THIN: below the policy's write margin)"
    } else {
        ""
    }
}

fn list(names: &[String]) -> String {
    if names.is_empty() {
        "nobody".to_owned()
    } else {
        names.join(", ")
    }
}

fn clusters(all: &[ClusterStatus], now: u64) -> Table {
    let mut table = Table::new();
    table.load_style(comfy_table::presets::UTF8_NO_BORDERS);
    table.set_header([
        "cluster",
        "where",
        "entity",
        "state",
        "nodes up",
        "leads",
        "lag",
        "latency",
        "certificate",
    ]);
    for c in all {
        let state = match (c.available, c.freezes.is_empty()) {
            (false, _) => "DOWN".to_owned(),
            (true, true) => "ok".to_owned(),
            (true, false) => format!("FROZEN: {}", plain(&c.freezes.join("; "))),
        };
        let up = c.nodes.iter().filter(|n| n.up).count();
        let lag = c.nodes.iter().filter_map(|n| n.lag).max();
        table.add_row([
            format!("{} {}", c.role, c.name),
            c.jurisdiction.clone(),
            plain(&c.entity),
            state,
            format!("{up}/{}", c.nodes.len()),
            leaders(&c.nodes),
            lag.map_or_else(|| "-".to_owned(), |l| l.to_string()),
            c.latency_ms
                .map_or_else(|| "-".to_owned(), |l| format!("{l:.1} ms")),
            expiry(&c.nodes, now),
        ]);
    }
    table
}

/// `1: 0-3, 2: 4 5`: which node leads which groups.
fn leaders(nodes: &[NodeStatus]) -> String {
    let leads = nodes.iter().filter(|n| !n.leads.is_empty());
    let one = |n: &NodeStatus| {
        let groups: Vec<_> = n.leads.iter().map(u32::to_string).collect();
        format!("{}: {}", n.id, groups.join(" "))
    };
    let all: Vec<_> = leads.map(one).collect();
    if all.is_empty() {
        "-".to_owned()
    } else {
        all.join(", ")
    }
}

fn expiry(nodes: &[NodeStatus], now: u64) -> String {
    match nodes.iter().filter_map(|n| n.certificate_expires_ms).min() {
        None => "-".to_owned(),
        Some(at) if at <= now => "EXPIRED".to_owned(),
        Some(at) if at - now < EXPIRY_WARN_MS => format!("{} LEFT", span(at - now)),
        Some(at) => span(at - now),
    }
}
