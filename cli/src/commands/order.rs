//! `quorate order open|show|list|approve|reject|withdraw`: disclosure orders,
//! from the paper to the officers' decisions. Their results: `order_result`.

use super::approve::decide;
use super::officer_papers::{
    agreed, deployment_id, hand_in, moment, name_of, newest, now_ms, officers, order_words,
    read_key, save, sign, unsigned, wrong,
};
use super::{Context, order_result};
use crate::exit::{CommandResult, Exit, Failure};
use crate::output::{plain, time};
use quorate_engine::api::officers::{OfficersView, OrderDetail, OrderView, OrdersView};
use quorate_engine::authz::envelope::Envelope;
use quorate_engine::authz::officers::{DocumentHash, OfficerKey, Statement, Subject, Verdict};
use quorate_engine::authz::orders::{Order, OrderScope, OrderStatus, order_id};
use quorate_engine::types::{AccountId, ChatId, OrderId};
use serde::Serialize;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

const DAY_MS: u64 = 24 * 60 * 60 * 1000;
/// Most epochs of one chat that are printed; `--json` has them all.
const EPOCHS_SHOWN_MAX: usize = 64;

/// Disclosure orders: what a court asks for, and what officers say to it
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// Write an order down, sign it, and submit it at custodians operated from here
    Open(Box<Open>),
    /// Show an order, where it stands, and every chat and epoch that would open
    Show(Named),
    /// Show a custodian's orders
    List(List),
    /// Approve an order; the submitter may not
    Approve(Decide),
    /// Say no to an order; final for you, and takes your own yes back
    Reject(Decide),
    /// Take an order back that you submitted
    Withdraw(Decide),
    /// Make the key pair that results are sealed to
    RecipientKey(order_result::MakeKey),
    /// Have the home disclose what enough custodians approved, sealed to the recipient
    Execute(order_result::Execute),
    /// Check a result and open it with the recipient's key
    OpenResult(order_result::OpenResult),
}

#[derive(Debug, clap::Args)]
struct Open {
    /// Custodians to submit it at; none: write it to a file only
    custodians: Vec<String>,
    /// The submitter's key file; that key decides on the order nowhere
    #[arg(long, value_name = "FILE")]
    key: PathBuf,
    /// The court or authority
    #[arg(long)]
    issuer: String,
    /// The law and file number
    #[arg(long)]
    legal_basis: String,
    /// The document that was served; its BLAKE3 stands in the order
    #[arg(long, value_name = "FILE")]
    document: PathBuf,
    /// A chat, whoever wrote there; repeat for more
    #[arg(long = "chat", value_name = "ID", required_unless_present = "accounts")]
    chats: Vec<ChatId>,
    /// An account: what it wrote, in all chats where it is or was a member; repeat for more
    #[arg(long = "account", value_name = "ID")]
    accounts: Vec<AccountId>,
    /// Records from here on: 2026-11-21, 2026-11-21T02:15:00Z or Unix milliseconds
    #[arg(long, value_parser = moment)]
    from: u64,
    /// Records before this
    #[arg(long, value_parser = moment)]
    to: u64,
    /// Why, in a line; stands in each custodian's log
    #[arg(long)]
    reason: String,
    /// The key that results are sealed to: hex, or the file that `order recipient-key` wrote
    #[arg(long, value_name = "HEX|FILE")]
    recipient: String,
    /// Days until nothing is released any more, 90 at most
    #[arg(long, value_name = "N", default_value_t = 30)]
    days: u64,
    /// Write the order to a file too, for the other custodians' `officer submit`
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

#[derive(Debug, clap::Args)]
struct Named {
    /// The custodian
    custodian: String,
    /// The order's id: the hash of its bytes
    order: OrderId,
}

#[derive(Debug, clap::Args)]
struct List {
    /// The custodian
    custodian: String,
    /// Only those that still lack approvals
    #[arg(long)]
    pending: bool,
}

#[derive(Debug, clap::Args)]
struct Decide {
    /// The custodian
    custodian: String,
    /// The order's id: the hash of its bytes
    order: OrderId,
    /// Your key file
    #[arg(long, value_name = "FILE")]
    key: PathBuf,
    /// Why; stands in the custodian's log
    #[arg(long)]
    reason: String,
    /// Sign what was shown
    #[arg(long)]
    yes: bool,
}

/// Runs the command.
///
/// # Errors
/// [`Failure`].
pub async fn run(args: Args, context: &Context) -> CommandResult {
    match args.what {
        What::Open(args) => open(*args, context).await,
        What::Show(args) => {
            let (detail, view, order) = fetch(context, &args.custodian, &args.order).await?;
            context
                .output
                .show(&detail, || text(&detail, &view, &order))?;
            Ok(Exit::Ok)
        }
        What::List(args) => list(&args, context).await,
        What::Approve(args) => decided(args, Verdict::Approve, context).await,
        What::Reject(args) => decided(args, Verdict::Reject, context).await,
        What::Withdraw(args) => decided(args, Verdict::Withdraw, context).await,
        What::RecipientKey(args) => order_result::make_key(&args, context),
        What::Execute(args) => order_result::execute(&args, context).await,
        What::OpenResult(args) => order_result::open_result(&args, context),
    }
}

fn document_hash(path: &Path) -> Result<DocumentHash, Failure> {
    let failed = |e: std::io::Error| Failure::file("read", path, &e);
    let mut file = std::fs::File::open(path).map_err(failed)?;
    let mut hasher = blake3::Hasher::new();
    std::io::copy(&mut file, &mut hasher).map_err(failed)?;
    Ok(DocumentHash(*hasher.finalize().as_bytes()))
}

#[derive(Serialize)]
struct Submitted {
    custodian: String,
    done: bool,
    detail: String,
}

async fn open(args: Open, context: &Context) -> CommandResult {
    if args.custodians.is_empty() && args.out.is_none() {
        return Err(wrong("name a custodian to submit it at, or --out FILE"));
    }
    let deployment = deployment_id(context)?;
    let key = read_key(&args.key)?;
    let order = Order {
        issuer: args.issuer,
        legal_basis: args.legal_basis,
        document_hash: document_hash(&args.document)?,
        scope: OrderScope {
            chats: args.chats.into_iter().collect(),
            accounts: args.accounts.into_iter().collect(),
            from_ms: args.from,
            to_ms: args.to,
        },
        reason: args.reason,
        submitted_by: OfficerKey(key.public()),
        expires_ms: now_ms().saturating_add(args.days.saturating_mul(DAY_MS)),
        recipient: order_result::recipient(&args.recipient)?,
    };
    let mut paper = unsigned(&Statement::Order(order), &deployment);
    sign(&mut paper, &deployment, &key)?;
    if let Some(path) = &args.out {
        save(&paper, path)?;
    }
    let id = order_id(&paper);
    let mut all = Vec::new();
    for custodian in &args.custodians {
        let (done, detail) = match hand_in(context, custodian, &paper).await {
            Ok(done) => (true, done.detail),
            Err(e) => (false, e.what),
        };
        let custodian = custodian.clone();
        all.push(Submitted {
            custodian,
            done,
            detail,
        });
    }
    let value = serde_json::json!({"order": id.to_string(), "file": args.out, "submitted": all});
    context.output.show(&value, || {
        let mut out = format!("order {id}");
        for s in &all {
            let _ = write!(out, "\n  {}: {}", plain(&s.custodian), plain(&s.detail));
        }
        out
    })?;
    Ok(match all.iter().filter(|s| s.done).count() {
        n if n == all.len() => Exit::Ok,
        0 => Exit::Conflict,
        _ => Exit::Partial,
    })
}

/// The order itself: what the node gave counts only if its hash is the id.
async fn fetch(
    context: &Context,
    custodian: &str,
    id: &OrderId,
) -> Result<(OrderDetail, OfficersView, Order), Failure> {
    let path = format!("/v1/orders/{id}");
    let detail = newest(context, custodian, &path, |d: &OrderDetail| d.position).await?;
    let order = order_of(&detail.order)?;
    if detail.order.id != id.to_string() {
        return Err(another(id));
    }
    Ok((detail, officers(context, custodian).await?, order))
}

fn another(id: &dyn std::fmt::Display) -> Failure {
    wrong(format!(
        "the node gave another statement than {id}; do not sign, and find out why"
    ))
}

fn order_of(view: &OrderView) -> Result<Order, Failure> {
    let paper = Envelope::from(&view.statement);
    if order_id(&paper).to_string() != view.id {
        return Err(another(&view.id));
    }
    match Statement::read(&paper).map_err(wrong)? {
        Statement::Order(order) => Ok(order),
        _ => Err(wrong(format!("{} is no order", view.id))),
    }
}

fn status(s: &OrderStatus) -> String {
    match s {
        OrderStatus::Open { missing } => format!("open, {missing} approvals are missing"),
        OrderStatus::CoolingOff { until_ms } => {
            format!("approved, cooling off until {}", time(*until_ms))
        }
        OrderStatus::Releasable => "approved: shares may be released".into(),
        OrderStatus::Executed => "executed: shares were released, more may be".into(),
        OrderStatus::Rejected => "rejected".into(),
        OrderStatus::Withdrawn => "withdrawn".into(),
        OrderStatus::Expired => "expired".into(),
    }
}

fn text(detail: &OrderDetail, view: &OfficersView, order: &Order) -> String {
    let o = &detail.order;
    let mut out = format!(
        "order {} at {}: {}\n{}",
        plain(&o.id),
        plain(&view.custodian),
        status(&o.status),
        order_words(order)
    );
    for (id, at) in &o.approvals {
        let _ = write!(
            out,
            "\n  approved by {} at {}",
            name_of(view, id),
            time(*at)
        );
    }
    for (id, why) in &o.rejections {
        let _ = write!(out, "\n  rejected by {}: {}", name_of(view, id), plain(why));
    }
    if let Some(entry) = o.executed {
        let _ = write!(out, "\n  first release in log entry {entry}");
    }
    out.push_str("\nwhat would open at this custodian:");
    for chat in &detail.scope {
        let _ = write!(
            out,
            "\n  chat {}{}: {} epochs",
            plain(&chat.chat),
            if chat.named {
                ", everybody's records"
            } else {
                ", where an account of the order is or was: its records only"
            },
            chat.epochs.len()
        );
        for e in chat.epochs.iter().take(EPOCHS_SHOWN_MAX) {
            let still = if e.closed {
                ""
            } else {
                ", still being written: not before its successor"
            };
            let _ = write!(
                out,
                "\n    epoch {} from {} to {}{still}",
                e.epoch,
                time(e.from_ms),
                time(e.to_ms)
            );
        }
        if chat.more || chat.epochs.len() > EPOCHS_SHOWN_MAX {
            out.push_str("\n    and more");
        }
    }
    out
}

async fn list(args: &List, context: &Context) -> CommandResult {
    let view = newest(context, &args.custodian, "/v1/orders", |v: &OrdersView| {
        v.position
    })
    .await?;
    let pending = |o: &&OrderView| !args.pending || matches!(o.status, OrderStatus::Open { .. });
    let orders: Vec<&OrderView> = view.orders.iter().filter(pending).collect();
    let mut out = Vec::new();
    for o in &orders {
        let order = order_of(o)?;
        out.push(format!(
            "{} {}\n  {}, {}: {} chats, {} accounts, {} to {}, expires {}",
            plain(&o.id),
            status(&o.status),
            plain(&order.issuer),
            plain(&order.legal_basis),
            order.scope.chats.len(),
            order.scope.accounts.len(),
            time(order.scope.from_ms),
            time(order.scope.to_ms),
            time(o.expires_ms)
        ));
    }
    context.output.show(&orders, || match out.is_empty() {
        true => "no orders".into(),
        false => out.join("\n"),
    })?;
    Ok(Exit::Ok)
}

async fn decided(args: Decide, verdict: Verdict, context: &Context) -> CommandResult {
    let (detail, view, order) = fetch(context, &args.custodian, &args.order).await?;
    let what = format!("{verdict:?}\n{}", text(&detail, &view, &order));
    agreed(&what, args.yes)?;
    let subject = Subject::Order(args.order);
    decide(
        context,
        &args.custodian,
        subject,
        verdict,
        &args.key,
        args.reason,
    )
    .await
}
