//! `quorate custodian unlock|lock` and `quorate custodian keys …`: what opens a
//! custodian's nodes, and who must come for it.
//!
//! A passphrase is read from the terminal, standard input or a file descriptor,
//! never from the command line, and is turned into the slot's unlock key here:
//! it never leaves this machine. Share files are read and written with mode 0600.

use super::Context;
pub use super::key_sources::Source;
use super::key_sources::{passphrase, read_share, wrong};
use crate::client::Client;
use crate::exit::{CommandResult, Exit, Failure};
use crate::output::plain;
use quorate_engine::api::keys::{
    CollectRequest, ConfirmRequest, KeysDone, KeysView, LockRequest, NamedRequest, OpenRequest,
    Purpose, RekeyRequest, RotateRequest, SecretText,
};
use quorate_engine::custody::keys::{
    KeyProvider, Passphrase, PassphraseParams, Provider, SlotPublic,
};
use quorate_engine::types::{CustodianId, Secret};
use serde::Serialize;
use std::fmt::Write as _;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use zeroize::Zeroize;

/// `unlock` and `keys check`.
#[derive(Debug, clap::Args)]
pub struct Open {
    /// The custodian
    custodian: String,
    /// One node only; all nodes when not given
    #[arg(long, value_name = "ID")]
    node: Option<u64>,
    /// The key slot; for a passphrase the only one it can be when not given
    #[arg(long, value_name = "NAME")]
    slot: Option<String>,
    #[command(flatten)]
    source: Source,
    /// Why; stands in the custodian's log
    #[arg(long, default_value = "asked for by an operator")]
    reason: String,
}

/// `lock`.
#[derive(Debug, clap::Args)]
pub struct Lock {
    /// The custodian
    custodian: String,
    /// One node only; all nodes when not given
    #[arg(long, value_name = "ID")]
    node: Option<u64>,
    /// Why; stands in the custodian's log
    #[arg(long)]
    reason: String,
}

/// `keys`.
#[derive(Debug, clap::Subcommand)]
pub enum Keys {
    /// Show each node's key slots and ceremonies
    Show(Named),
    /// Prove that a slot would open, and keep nothing
    Check(Open),
    /// Put a key slot in, or replace it: a passphrase, new shares, or the node's own provider
    Rekey(Rekey),
    /// Take your share of a ceremony under way
    Collect(Collect),
    /// Prove that you hold your share; the last holder brings the new slot into use
    Confirm(Confirm),
    /// Give a ceremony up; what was in use stays in use
    Cancel(Cancel),
    /// Bring a slot from the node that has it to the other nodes
    Spread(Slot),
    /// Bring the next version of the wrapping or sealing key into use; shares follow in the background
    Rotate(Rotate),
    /// Take a key slot out; a new root is drawn for the others
    Remove(Slot),
}

/// `keys show`.
#[derive(Debug, clap::Args)]
pub struct Named {
    /// The custodian
    custodian: String,
}

/// `keys rekey`.
#[derive(Debug, clap::Args)]
pub struct Rekey {
    /// The custodian
    custodian: String,
    /// The key slot: a new name adds one, a known name replaces it
    #[arg(long, value_name = "NAME", default_value = "main")]
    slot: String,
    /// Deal shares, as `2 of (anna, bo, cy)`; thresholds may be nested
    #[arg(long, value_name = "TREE", group = "source")]
    holders: Option<String>,
    /// Read the new passphrase from standard input instead of asking twice
    #[arg(long, group = "source")]
    passphrase_stdin: bool,
    /// Read the new passphrase from this file descriptor
    #[arg(long, value_name = "FD", group = "source")]
    passphrase_fd: Option<u32>,
    /// Use the provider in the node's configuration
    #[arg(long, group = "source")]
    own: bool,
    /// Why; stands in the custodian's log
    #[arg(long)]
    reason: String,
}

/// `keys collect`.
#[derive(Debug, clap::Args)]
pub struct Collect {
    /// The custodian
    custodian: String,
    /// Your name in the ceremony
    #[arg(long, value_name = "NAME")]
    holder: String,
    /// Where your share goes; a new file, mode 0600
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

/// `keys confirm`.
#[derive(Debug, clap::Args)]
pub struct Confirm {
    /// The custodian
    custodian: String,
    /// Your share file
    #[arg(long, value_name = "FILE")]
    share: PathBuf,
}

/// `keys cancel`.
#[derive(Debug, clap::Args)]
pub struct Cancel {
    /// The custodian
    custodian: String,
    /// The ceremony, as `keys show` names it
    #[arg(long, value_name = "HEX")]
    ceremony: String,
    /// Why; stands in the custodian's log
    #[arg(long)]
    reason: String,
}

/// `keys rotate`.
#[derive(Debug, clap::Args)]
pub struct Rotate {
    /// The custodian
    custodian: String,
    /// `wrapping` (shares at rest) or `sealing` (shares on their way)
    #[arg(long, value_parser = ["wrapping", "sealing"], default_value = "wrapping")]
    kind: String,
    /// Why; stands in the custodian's log
    #[arg(long)]
    reason: String,
}

/// `keys spread` and `keys remove`.
#[derive(Debug, clap::Args)]
pub struct Slot {
    /// The custodian
    custodian: String,
    /// The key slot
    #[arg(long, value_name = "NAME")]
    slot: String,
    /// Why; stands in the custodian's log
    #[arg(long)]
    reason: String,
}

struct Node {
    client: Client,
    view: KeysView,
}

/// What became of each node.
#[derive(Serialize)]
struct Outcome {
    node: Option<u64>,
    done: bool,
    detail: String,
}

/// The nodes that answer, and what the others said.
async fn nodes(
    context: &Context,
    custodian: &str,
    only: Option<u64>,
) -> Result<(Vec<Node>, Vec<Outcome>), Failure> {
    let (mut out, mut missing, mut first) = (Vec::new(), Vec::new(), None);
    for client in context.deployment()?.operator_of_each(custodian)? {
        match client.get::<KeysView>("/v1/keys").await {
            Ok(view) => out.push(Node { client, view }),
            Err(e) => {
                let failure = Failure::from(e);
                missing.push(Outcome {
                    node: None,
                    done: false,
                    detail: format!("a node was not reached: {}", failure.what),
                });
                first.get_or_insert(failure);
            }
        }
    }
    if let (true, Some(failure)) = (out.is_empty(), first) {
        return Err(failure);
    }
    if let Some(id) = only {
        out.retain(|n| n.view.node == id);
        missing.clear();
        if out.is_empty() {
            return Err(Failure::usage(
                format!("node {id} of {custodian} does not answer"),
                "see `quorate custodian keys show`",
            ));
        }
    }
    Ok((out, missing))
}

fn show(context: &Context, all: &[Outcome]) -> CommandResult {
    context.output.show(&all, || {
        let line = |o: &Outcome| match o.node {
            Some(id) => format!("node {id}: {}", plain(&o.detail)),
            None => plain(&o.detail),
        };
        all.iter().map(line).collect::<Vec<_>>().join("\n")
    })?;
    Ok(match all.iter().filter(|o| o.done).count() {
        n if n == all.len() => Exit::Ok,
        0 => Exit::Conflict,
        _ => Exit::Partial,
    })
}

async fn post<B: Serialize>(node: &Node, path: &str, body: &B) -> (Outcome, Option<KeysDone>) {
    let id = Some(node.view.node);
    match node.client.post::<B, KeysDone>(path, body).await {
        Ok(done) => {
            let detail = done.detail.clone();
            let outcome = Outcome {
                node: id,
                done: true,
                detail,
            };
            (outcome, Some(done))
        }
        Err(e) => {
            let outcome = Outcome {
                node: id,
                done: false,
                detail: Failure::from(e).what,
            };
            (outcome, None)
        }
    }
}

/// `quorate custodian unlock` and `quorate custodian keys check`.
///
/// # Errors
/// [`Failure`].
pub async fn open(args: Open, purpose: Purpose, context: &Context) -> CommandResult {
    let (nodes, mut outcomes) = nodes(context, &args.custodian, args.node).await?;
    let request = OpenRequest {
        purpose,
        reason: args.reason.clone(),
        slot: args.slot.clone(),
        unlock_key: None,
        share: None,
        ceremony: None,
    };
    let share = match &args.source.share {
        Some(path) => Some(read_share(path)?.to_text()),
        None => None,
    };
    let wanted: Vec<&Node> = nodes
        .iter()
        .filter(|n| purpose == Purpose::Check || !n.view.open)
        .collect();
    for n in nodes
        .iter()
        .filter(|n| !wanted.iter().any(|w| w.view.node == n.view.node))
    {
        outcomes.push(Outcome {
            node: Some(n.view.node),
            done: true,
            detail: "unlocked already".into(),
        });
    }
    let mut typed: Option<Passphrase> = None;
    let mut derived: Vec<(SlotPublic, Secret<32>)> = Vec::new();
    for node in wanted {
        let mut request = request.clone();
        if let Some(text) = &share {
            request.share = Some(SecretText(text.to_string()));
            request.ceremony = node.view.gathering.as_ref().map(|g| g.ceremony.clone());
        } else if !args.source.own {
            let slot = passphrase_slot(&node.view, args.slot.as_deref())?;
            let known = derived.iter().find(|(s, _)| *s == slot);
            let key = match known {
                Some((_, key)) => key.duplicate(),
                None => {
                    if typed.is_none() {
                        typed = Some(passphrase(&args.source, false)?);
                    }
                    let typed = typed.as_ref().expect("just read");
                    let key = typed.unlock_key(&slot).map_err(wrong)?;
                    derived.push((slot.clone(), key.duplicate()));
                    key
                }
            };
            request.slot = Some(slot.name.to_string());
            request.unlock_key = Some(hex_of(&key));
        }
        outcomes.push(post(node, "/v1/keys/open", &request).await.0);
    }
    outcomes.sort_by_key(|o| o.node);
    show(context, &outcomes)
}

fn hex_of(key: &Secret<32>) -> SecretText {
    SecretText(hex::encode(key.expose()))
}

fn slots(view: &KeysView) -> Result<Vec<SlotPublic>, Failure> {
    let one = |text: &str| {
        let bytes = hex::decode(text).map_err(wrong)?;
        SlotPublic::decode(&bytes).map_err(wrong)
    };
    view.slots.iter().map(|s| one(&s.public)).collect()
}

fn passphrase_slot(view: &KeysView, name: Option<&str>) -> Result<SlotPublic, Failure> {
    let fits = |s: &SlotPublic| match name {
        Some(name) => s.name.as_str() == name,
        None => matches!(s.provider, Provider::Passphrase(_)),
    };
    let mut found = slots(view)?.into_iter().filter(fits);
    match (found.next(), found.next()) {
        (Some(slot), None) => Ok(slot),
        (Some(_), Some(_)) => Err(wrong("several passphrases open it; name the --slot")),
        (None, _) => Err(wrong(format!(
            "node {} has no such slot that a passphrase opens; give --share or --own",
            view.node
        ))),
    }
}

/// `quorate custodian lock`.
///
/// # Errors
/// [`Failure`].
pub async fn lock(args: Lock, context: &Context) -> CommandResult {
    let (nodes, mut outcomes) = nodes(context, &args.custodian, args.node).await?;
    let request = LockRequest {
        reason: args.reason,
    };
    let all = nodes.iter().map(|n| post(n, "/v1/keys/lock", &request));
    let locked = futures::future::join_all(all).await;
    outcomes.extend(locked.into_iter().map(|(outcome, _)| outcome));
    show(context, &outcomes)
}

/// `quorate custodian keys …`.
///
/// # Errors
/// [`Failure`].
pub async fn run(what: Keys, context: &Context) -> CommandResult {
    match what {
        Keys::Show(named) => show_keys(&named.custodian, context).await,
        Keys::Check(args) => open(args, Purpose::Check, context).await,
        Keys::Rekey(args) => rekey(args, context).await,
        Keys::Collect(args) => collect(args, context).await,
        Keys::Confirm(args) => confirm(args, context).await,
        Keys::Cancel(args) => cancel(args, context).await,
        Keys::Rotate(args) => {
            let request = RotateRequest {
                kind: args.kind,
                reason: args.reason,
            };
            let operator = context.deployment()?.operator(&args.custodian)?;
            let done: KeysDone = operator.post("/v1/keys/rotate", &request).await?;
            context.output.show(&done, || plain(&done.detail))?;
            Ok(Exit::Ok)
        }
        Keys::Spread(args) => {
            let (nodes, missing) = nodes(context, &args.custodian, None).await?;
            let mut outcomes = spread(&nodes, None, &args.slot, &args.reason).await?;
            outcomes.extend(missing);
            show(context, &outcomes)
        }
        Keys::Remove(args) => {
            let (nodes, mut outcomes) = nodes(context, &args.custodian, None).await?;
            let request = NamedRequest {
                name: args.slot,
                reason: args.reason,
            };
            for node in &nodes {
                outcomes.push(post(node, "/v1/keys/remove", &request).await.0);
            }
            show(context, &outcomes)
        }
    }
}

async fn show_keys(custodian: &str, context: &Context) -> CommandResult {
    let (nodes, missing) = nodes(context, custodian, None).await?;
    let views: Vec<&KeysView> = nodes.iter().map(|n| &n.view).collect();
    context.output.show(&views, || {
        let mut out = String::new();
        for v in &views {
            let state = match (v.open, v.new) {
                (true, _) => "unlocked",
                (false, true) => "LOCKED, and no key slot is set up",
                (false, false) => "LOCKED",
            };
            let _ = writeln!(
                out,
                "node {}: {state} (configured: {})",
                v.node,
                plain(&v.provider)
            );
            for s in &v.slots {
                let more = s
                    .holders
                    .as_ref()
                    .map_or(String::new(), |h| format!(", {h}"));
                let development = match s.provider.as_str() {
                    "key-file" => ", for development only",
                    _ => "",
                };
                let _ = writeln!(
                    out,
                    "  slot {}: {}{}{development}",
                    plain(&s.name),
                    plain(&s.provider),
                    plain(&more)
                );
            }
            if let Some(g) = &v.gathering {
                let _ = writeln!(
                    out,
                    "  holders are gathering for slot {}: here are {} of {} (ceremony {})",
                    plain(&g.slot),
                    plain(&g.have.join(", ")),
                    plain(&g.holders),
                    plain(&g.ceremony)
                );
            }
            if let Some(r) = &v.rekey {
                let _ = writeln!(
                    out,
                    "  new shares of slot {} for {}: confirmed by {} (ceremony {})",
                    plain(&r.slot),
                    plain(&r.holders),
                    if r.confirmed.is_empty() {
                        "nobody yet".into()
                    } else {
                        plain(&r.confirmed.join(", "))
                    },
                    plain(&r.ceremony)
                );
            }
        }
        for m in &missing {
            let _ = writeln!(out, "{}", plain(&m.detail));
        }
        out.trim_end().to_owned()
    })?;
    Ok(if missing.is_empty() {
        Exit::Ok
    } else {
        Exit::Partial
    })
}

async fn rekey(args: Rekey, context: &Context) -> CommandResult {
    let (nodes, missing) = nodes(context, &args.custodian, None).await?;
    let mut request = RekeyRequest {
        slot: Some(args.slot.clone()),
        reason: args.reason.clone(),
        holders: args.holders.clone(),
        public: None,
        own: args.own,
    };
    if args.holders.is_some() {
        // One node deals; the public half goes to the others when every holder has confirmed.
        let at = nodes.iter().find(|n| n.view.open || n.view.new);
        let at = at.ok_or_else(|| wrong("every node is locked; unlock one first"))?;
        if let Some(n) = nodes.iter().find(|n| n.view.rekey.is_some()) {
            return Err(wrong(format!(
                "node {} is in the middle of a ceremony; cancel it first",
                n.view.node
            )));
        }
        let (outcome, _) = post(at, "/v1/keys/rekey", &request).await;
        return show(context, &[outcome]);
    }
    if !args.own {
        let source = Source {
            share: None,
            passphrase_stdin: args.passphrase_stdin,
            passphrase_fd: args.passphrase_fd,
            own: false,
        };
        let typed = passphrase(&source, true)?;
        let params = PassphraseParams::recommended(&mut rand::rng());
        let key = params.derive(&typed.0).map_err(wrong)?;
        let name = CustodianId::new(&args.slot).map_err(wrong)?;
        let slot = SlotPublic::new(name, Provider::Passphrase(params), &key);
        request.public = Some(hex::encode(slot.encode()));
        request.slot = None;
    }
    let mut outcomes = missing;
    for node in &nodes {
        outcomes.push(post(node, "/v1/keys/rekey", &request).await.0);
    }
    show(context, &outcomes)
}

/// The node that deals new shares.
fn dealing(nodes: &[Node]) -> Result<(&Node, &quorate_engine::api::keys::RekeyView), Failure> {
    let found = nodes.iter().find_map(|n| Some((n, n.view.rekey.as_ref()?)));
    found.ok_or_else(|| {
        Failure::usage(
            "no new shares are being dealt",
            "begin with `quorate custodian keys rekey --holders`",
        )
    })
}

async fn collect(args: Collect, context: &Context) -> CommandResult {
    let (nodes, _) = nodes(context, &args.custodian, None).await?;
    let (node, rekey) = dealing(&nodes)?;
    // The file first: a share that was handed out and cannot be stored costs a ceremony.
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&args.out)
        .map_err(|e| Failure::file("make", &args.out, &e))?;
    let request = CollectRequest {
        ceremony: rekey.ceremony.clone(),
        holder: args.holder.clone(),
    };
    let (outcome, done) = post(node, "/v1/keys/collect", &request).await;
    let Some(mut share) = done.and_then(|d| d.share) else {
        // Nothing was written to it.
        let _ = std::fs::remove_file(&args.out);
        return Err(Failure::new(
            Exit::Conflict,
            "refused",
            outcome.detail,
            "see `quorate custodian keys show`",
        ));
    };
    let written = file
        .write_all(share.0.as_bytes())
        .and_then(|()| file.sync_all());
    share.0.zeroize();
    written.map_err(|e| Failure::file("write", &args.out, &e))?;
    let shown = Outcome {
        node: outcome.node,
        done: true,
        detail: format!(
            "the share of {} is in {}; prove it with `quorate custodian keys confirm {} --share {}`",
            args.holder,
            args.out.display(),
            args.custodian,
            args.out.display()
        ),
    };
    show(context, &[shown])
}

async fn confirm(args: Confirm, context: &Context) -> CommandResult {
    let held = read_share(&args.share)?;
    let (mut nodes, missing) = nodes(context, &args.custodian, None).await?;
    let (node, rekey) = dealing(&nodes)?;
    let mut challenge = [0u8; 32];
    hex::decode_to_slice(&rekey.challenge, &mut challenge).map_err(wrong)?;
    let request = ConfirmRequest {
        ceremony: rekey.ceremony.clone(),
        holder: held.holder.to_string(),
        proof: hex::encode(held.prove(&challenge)),
    };
    let (outcome, done) = post(node, "/v1/keys/confirm", &request).await;
    let id = node.view.node;
    let finished = done.filter(|d| d.view.rekey.is_none());
    let mut outcomes = vec![outcome];
    if let Some(done) = finished {
        if let Some(n) = nodes.iter_mut().find(|n| n.view.node == id) {
            n.view = done.view;
        }
        let reason = format!("ceremony {}", request.ceremony);
        let others = spread(&nodes, Some(id), held.slot.as_str(), &reason).await?;
        outcomes.extend(others.into_iter().filter(|o| o.node != Some(id)));
        outcomes.extend(missing);
    }
    show(context, &outcomes)
}

/// Brings a slot from the node `from`, or the only unlocked ones that agree on it, to all others.
async fn spread(
    nodes: &[Node],
    from: Option<u64>,
    slot: &str,
    reason: &str,
) -> Result<Vec<Outcome>, Failure> {
    let of = |n: &Node| n.view.slots.iter().find(|s| s.name == slot).cloned();
    let source = |n: &&Node| n.view.open && from.is_none_or(|id| n.view.node == id);
    let found: Vec<_> = nodes.iter().filter(source).filter_map(of).collect();
    if found.windows(2).any(|w| w[0].public != w[1].public) {
        return Err(wrong(format!(
            "the nodes have different slots {slot}; name another slot and rekey it"
        )));
    }
    let from = found.into_iter().next();
    let from = from.ok_or_else(|| wrong(format!("no unlocked node has a slot {slot}")))?;
    let request = RekeyRequest {
        slot: None,
        reason: reason.to_owned(),
        holders: None,
        public: Some(from.public.clone()),
        own: false,
    };
    let mut outcomes = Vec::new();
    for node in nodes {
        outcomes.push(post(node, "/v1/keys/rekey", &request).await.0);
    }
    Ok(outcomes)
}

async fn cancel(args: Cancel, context: &Context) -> CommandResult {
    let (nodes, _) = nodes(context, &args.custodian, None).await?;
    let is = |n: &&Node| {
        let of = |c: Option<&String>| c == Some(&args.ceremony);
        of(n.view.rekey.as_ref().map(|r| &r.ceremony))
            || of(n.view.gathering.as_ref().map(|g| &g.ceremony))
    };
    let node = nodes.iter().find(is);
    let node = node.ok_or_else(|| wrong("no such ceremony is under way"))?;
    let request = NamedRequest {
        name: args.ceremony.clone(),
        reason: args.reason,
    };
    let (outcome, _) = post(node, "/v1/keys/cancel", &request).await;
    show(context, &[outcome])
}
