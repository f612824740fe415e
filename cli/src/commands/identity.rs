//! `quorate identity init|show|renew|rotate|enrol|attest|card|revoke`: an identity authority's keys, on
//! its own machine. It runs no node; it signs statements about people and brings
//! them to each custodian's registry plane itself.

use super::Context;
use crate::exit::{CommandResult, Exit, Failure};
use crate::people::account::{Request, head_of, statement_key};
use crate::people::{Card, Known, Registry, now_ms};
use quorate_engine::api::StatementAcks;
use quorate_engine::authz::chain::ChainId;
use quorate_engine::authz::envelope::Envelope;
use quorate_engine::authz::identity::{
    AccountChange, AccountPayload, AccountStatement, account_id, device_id,
};
use quorate_engine::crypto::labels::SIGN_ACCOUNT;
use quorate_engine::types::{AccountId, CustodianId, DeploymentId, DeviceId, StatementHash};
use quorate_node::config::{ClusterRole, KeyProvider, RaftOptions, StoreKind};
use quorate_node::pki::entity::{self, Entity, EntityError, EntitySpec};
use quorate_node::pki::{Descriptor, ca, files};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Set up an identity authority
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// Make an authority's keys and client certificate, and print its descriptor's fingerprint
    Init(Init),
    /// Show what an authority's directory holds
    Show(Place),
    /// Issue the client certificate anew before it ends
    Renew(Place),
    /// Draw a new statement key and name it in the next revision of the descriptor
    Rotate(Rotate),
    /// Sign what a person asks for, and bring it to the custodians
    Enrol(Enrol),
    /// Sign a recovery that another authority will bring to the custodians
    Attest(Attest),
    /// Write where an account stands, for a person who has no device of it any more
    Card(CardOf),
    /// Take a device of an account out for ever, for a person who lost it
    Revoke(Revoke),
}

#[derive(Debug, clap::Args)]
struct Carrier {
    /// The authority's own directory, made by `identity init`
    #[arg(long, value_name = "DIR")]
    authority: PathBuf,
    /// A custodian's registry plane, as NAME=HOST:PORT[,HOST:PORT...]; give it once for each [default: those of the embedded deployment]
    #[arg(long, value_name = "NAME=ADDRESSES")]
    registry: Vec<String>,
}

#[derive(Debug, clap::Args)]
struct Enrol {
    /// The file that `quorate login` or `quorate device` wrote
    request: PathBuf,
    #[command(flatten)]
    carrier: Carrier,
    /// The device's id, as the person told you by another way
    #[arg(long, value_name = "HEX")]
    device: DeviceId,
    /// Where to write what goes back to the person [default: over the request]
    #[arg(long, short, value_name = "FILE")]
    out: Option<PathBuf>,
}

#[derive(Debug, clap::Args)]
struct Attest {
    /// The file that `quorate recover begin --card` wrote
    request: PathBuf,
    /// The authority's own directory, made by `identity init`
    #[arg(long, value_name = "DIR")]
    authority: PathBuf,
    /// The device's id, as the person told you by another way
    #[arg(long, value_name = "HEX")]
    device: DeviceId,
    /// Where to write what goes on to the other authority [default: over the request]
    #[arg(long, short, value_name = "FILE")]
    out: Option<PathBuf>,
}

#[derive(Debug, clap::Args)]
struct CardOf {
    #[command(flatten)]
    carrier: Carrier,
    /// The account
    #[arg(long)]
    account: AccountId,
    /// Where to write it
    #[arg(long, short, value_name = "FILE")]
    out: PathBuf,
}

#[derive(Debug, clap::Args)]
struct Revoke {
    #[command(flatten)]
    carrier: Carrier,
    /// The account
    #[arg(long)]
    account: AccountId,
    /// The device
    #[arg(long)]
    device: DeviceId,
}

#[derive(Debug, clap::Args)]
struct Init {
    /// A new directory on the authority's own machine
    #[arg(long)]
    dir: PathBuf,
    /// Its name, unique in the deployment (id-ee, ...)
    #[arg(long)]
    name: String,
    /// Deployment id that the home gave out
    #[arg(long, value_name = "HEX")]
    deployment_id: DeploymentId,
    /// Jurisdiction, as a short code
    #[arg(long)]
    jurisdiction: String,
    /// The legal entity that runs it
    #[arg(long)]
    entity: String,
}

#[derive(Debug, clap::Args)]
struct Place {
    /// The authority's own directory, made by `identity init`
    #[arg(long)]
    dir: PathBuf,
}

#[derive(Debug, clap::Args)]
struct Rotate {
    #[command(flatten)]
    place: Place,
    /// The old key was stolen: it counts no longer where the new descriptor has arrived
    #[arg(long)]
    forget_old: bool,
}

fn failed(e: &dyn std::fmt::Display) -> Failure {
    Failure::new(
        Exit::Failed,
        "identity",
        e.to_string(),
        "nothing that existed was changed; correct it and repeat the command",
    )
}

/// Runs the command.
///
/// # Errors
/// [`Failure`]; nothing that exists is overwritten by `init`.
pub async fn run(args: Args, context: &Context) -> CommandResult {
    match &args.what {
        What::Enrol(args) => enrol(args, context).await,
        What::Revoke(args) => revoke(args, context).await,
        What::Attest(args) => attest(args, context),
        What::Card(args) => card(args, context).await,
        What::Init(args) => init(args, context),
        What::Show(place) => {
            let authority = open(&place.dir)?;
            let value = describe(&authority)?;
            let text = text(&authority.descriptor, &value);
            context.output.show(&value, || text)?;
            Ok(Exit::Ok)
        }
        What::Renew(place) => {
            let authority = open(&place.dir)?;
            authority.issue_authority().map_err(|e| failed(&e))?;
            let path = place.dir.join("authority.crt");
            context
                .output
                .show(&path, || format!("renewed {}", path.display()))?;
            Ok(Exit::Ok)
        }
        What::Rotate(args) => {
            let mut authority = open(&args.place.dir)?;
            let done = authority.rotate_statement_key(args.forget_old);
            done.map_err(|e| failed(&e))?;
            let value = describe(&authority)?;
            let text = format!(
                "{}\nEvery custodian and home needs the new descriptor.json (`quorate trust add`, same fingerprint);\nwhat the new key signs is refused until a custodian has it",
                text(&authority.descriptor, &value)
            );
            context.output.show(&value, || text)?;
            Ok(Exit::Ok)
        }
    }
}

impl Carrier {
    /// The custodians' registry planes, and whom to believe of them.
    fn registry(&self, context: &Context) -> Result<(Registry, Option<Known>), Failure> {
        let deployment = match self.registry.is_empty() {
            true => Some(context.deployment()?),
            false => context.deployment().ok(),
        };
        let trust = context.global.trust.as_deref();
        let known = match (&deployment, trust) {
            (Some(d), trust) => d.known(trust)?,
            (None, Some(dir)) => Some(Known::of_dir(dir)?),
            (None, None) => None,
        };
        if let (true, Some(d)) = (self.registry.is_empty(), &deployment) {
            let layout = d.layout()?.ok_or_else(|| {
                Failure::usage(
                    "no custodian's registry plane is known",
                    "give each as --registry NAME=HOST:PORT,HOST:PORT",
                )
            })?;
            return Ok((Registry::of_layout(&layout, &self.authority)?, known));
        }
        let mut addresses = BTreeMap::new();
        for text in &self.registry {
            let wrong = || {
                Failure::usage(
                    format!("--registry {text}: not NAME=HOST:PORT"),
                    "write it as ch=192.0.2.9:7446,192.0.2.10:7446",
                )
            };
            let (name, list) = text.split_once('=').ok_or_else(wrong)?;
            let name = CustodianId::new(name).map_err(|_| wrong())?;
            let list = list.split(',').map(|a| format!("https://{a}"));
            addresses.insert(name, list.collect::<Vec<_>>());
        }
        Ok((Registry::of(&self.authority, &addresses)?, known))
    }
}

async fn enrol(args: &Enrol, context: &Context) -> CommandResult {
    let authority = open(&args.carrier.authority)?;
    let mut request = Request::load(&args.request)?;
    let what = sign(&mut request, &authority, &args.device)?;
    let statement = request.statement();
    let chain = match request.account {
        None => account_id(&statement),
        Some(account) => account,
    };
    let (registry, known) = args.carrier.registry(context)?;
    let said = registry.tell(request.account.as_ref(), &statement).await;
    request.acks = said.acks.clone();
    let out = args.out.as_deref().unwrap_or(&args.request);
    request.save(out)?;
    let number = match request.payload()? {
        AccountPayload::Genesis(_) => 0,
        AccountPayload::Statement(s) => s.number,
    };
    let head = (number, StatementHash(statement.hash()));
    judge(known, chain, head, &said, what)?;
    let took: Vec<_> = said.acks.iter().map(|a| a.custodian.clone()).collect();
    let value = json!({"account": chain, "device": args.device, "change": what, "custodians": took, "answer": out});
    context.output.show(&value, || {
        format!(
            "signed {what} of account {chain}, device {}\ntaken by {}\nsend {} back to the person, for `quorate login --complete`",
            args.device,
            took.join(", "),
            out.display()
        )
    })?;
    Ok(Exit::Ok)
}

/// Signs a request about `device`, and about no other; what it asks for.
fn sign(
    request: &mut Request,
    authority: &Entity,
    named: &DeviceId,
) -> Result<&'static str, Failure> {
    if request.deployment != authority.descriptor.deployment {
        return Err(Failure::usage(
            format!("the request is for deployment {}", request.deployment),
            "ask the person for a request for this deployment",
        ));
    }
    let (what, device) = match request.payload()? {
        AccountPayload::Genesis(g) => ("genesis", Some(device_id(&g.device))),
        AccountPayload::Statement(s) => (s.change.name(), s.change.device()),
    };
    if device.is_some_and(|d| d != *named) {
        return Err(Failure::new(
            Exit::Conflict,
            "device",
            format!("the request is about another device than {named}"),
            "do not sign it; ask the person again, by a way nobody in between can change",
        ));
    }
    request.sign(&statement_key(authority)?);
    Ok(what)
}

fn attest(args: &Attest, context: &Context) -> CommandResult {
    let authority = open(&args.authority)?;
    let mut request = Request::load(&args.request)?;
    let recovers = matches!(request.payload()?, AccountPayload::Statement(s)
        if matches!(s.change, AccountChange::RecoverBegin { .. }));
    if !recovers {
        return Err(Failure::usage(
            "only a recovery takes the signatures of two authorities",
            "sign this one and bring it to the custodians with `quorate identity enrol`",
        ));
    }
    let what = sign(&mut request, &authority, &args.device)?;
    let out = args.out.as_deref().unwrap_or(&args.request);
    request.save(out)?;
    let value = json!({"account": request.account, "device": args.device, "change": what, "answer": out, "done": false});
    context.output.show(&value, || {
        format!(
            "signed {what}, device {}\nnobody was told of it yet: pass {} on to an authority of another entity, within the hour, for `quorate identity enrol`",
            args.device,
            out.display()
        )
    })?;
    Ok(Exit::Ok)
}

async fn card(args: &CardOf, context: &Context) -> CommandResult {
    let authority = open(&args.carrier.authority)?;
    let (registry, _) = args.carrier.registry(context)?;
    let seen = registry.account(&args.account).await?;
    let card = Card::of_registry(args.account, authority.descriptor.deployment, &seen)?;
    card.save(&args.out)?;
    let value = json!({"account": card.account, "number": card.number, "card": args.out});
    context.output.show(&value, || {
        format!(
            "wrote {}: account {} at statement {}\nNothing in it is secret; the person gives it to `quorate recover begin --card`",
            args.out.display(),
            card.account,
            card.number
        )
    })?;
    Ok(Exit::Ok)
}

/// Where nobody's keys are known here, that some took it is all that can be said.
fn judge(
    known: Option<Known>,
    account: AccountId,
    head: (u64, StatementHash),
    said: &StatementAcks,
    what: &str,
) -> Result<(), Failure> {
    if let Some(known) = known {
        let judged = known.judge(ChainId::Account(account), head, said);
        return judged.must_be_done(what, what != "revoke");
    }
    if !said.acks.is_empty() {
        return Ok(());
    }
    let none = Known::none().judge(ChainId::Account(account), head, said);
    none.must_be_done(what, false)
}

async fn revoke(args: &Revoke, context: &Context) -> CommandResult {
    let authority = open(&args.carrier.authority)?;
    let (registry, known) = args.carrier.registry(context)?;
    let (number, previous) = head_of(&registry.account(&args.account).await?)?;
    let statement = AccountPayload::Statement(AccountStatement {
        account: args.account,
        number: number + 1,
        previous,
        at_ms: now_ms(),
        change: AccountChange::Revoke {
            device: args.device,
        },
    });
    let (key, deployment) = (statement_key(&authority)?, authority.descriptor.deployment);
    let signed = Envelope::sign(SIGN_ACCOUNT, &deployment, &statement, &[&key]);
    let said = registry.tell(Some(&args.account), &signed).await;
    let head = (number + 1, StatementHash(signed.hash()));
    judge(known, args.account, head, &said, "revoke")?;
    let took: Vec<_> = said.acks.iter().map(|a| a.custodian.clone()).collect();
    let value = json!({"account": args.account, "device": args.device, "custodians": took});
    context.output.show(&value, || {
        format!(
            "device {} is out for ever: {} took it",
            args.device,
            took.join(", ")
        )
    })?;
    Ok(Exit::Ok)
}

fn init(args: &Init, context: &Context) -> CommandResult {
    quorate_engine::types::AuthorityId::new(&args.name)
        .map_err(|e| Failure::usage(format!("--name: {e}"), "choose a short lowercase name"))?;
    let spec = EntitySpec {
        deployment: args.deployment_id,
        key_provider: KeyProvider::KeyFile,
        role: ClusterRole::Authority,
        id: args.name.clone(),
        jurisdiction: args.jurisdiction.clone(),
        legal_entity: args.entity.clone(),
        provider: "undeclared".into(),
        network: "undeclared".into(),
        nodes: Vec::new(),
        store: StoreKind::default(),
        raft: RaftOptions::default(),
        home: None,
    };
    let authority = entity::init(&args.dir, &spec).map_err(|e: EntityError| failed(&e))?;
    let value = describe(&authority)?;
    let text = format!(
        "{}\n\
         Send the descriptor to every custodian and to the home; they run `quorate trust add` after comparing\n\
         the fingerprint with you by another way, a telephone call for instance.\n\
         Trust the custodians' descriptors here too, before the first person is enrolled.\n\
         Keep ca.key and identity.key off the machine that signs: it needs statement.key, authority.crt,\n\
         authority.key, descriptor.json and trust/ alone.",
        text(&authority.descriptor, &value)
    );
    context.output.show(&value, || text)?;
    Ok(Exit::Ok)
}

fn open(dir: &Path) -> Result<Entity, Failure> {
    let next = "name the authority's own directory, where ca.key and identity.key are";
    let entity = Entity::open(dir)
        .map_err(|e| Failure::new(Exit::Failed, "identity", e.to_string(), next))?;
    match entity.descriptor.role {
        ClusterRole::Authority => Ok(entity),
        role => Err(Failure::usage(
            format!("{} belongs to a {role}", dir.display()),
            next,
        )),
    }
}

fn describe(authority: &Entity) -> Result<Value, Failure> {
    authority.statement_key().map_err(|e| failed(&e))?;
    let d = &authority.descriptor;
    let certificate = authority.dir.join("authority.crt");
    let pem = files::read(&certificate).map_err(|e| failed(&e))?;
    let ends = ca::not_after(&String::from_utf8_lossy(&pem)).map_err(|e| failed(&e))?;
    let ends = ends.duration_since(std::time::UNIX_EPOCH);
    Ok(json!({
        "name": d.id, "deployment": d.deployment, "revision": d.revision,
        "jurisdiction": d.jurisdiction, "legal_entity": d.legal_entity,
        "descriptor": authority.dir.join("descriptor.json"), "fingerprint": d.fingerprint(),
        "statement_keys": d.statement_keys, "certificate_expires_s": ends.map_or(0, |d| d.as_secs()),
    }))
}

fn text(d: &Descriptor, shown: &Value) -> String {
    format!(
        "authority {} of deployment {}, revision {}\n{}, jurisdiction {}\ndescriptor {}\n  fingerprint {}\nstatement key version {}, ends at {} (Unix ms); client certificate ends at {} (Unix seconds)",
        d.id,
        d.deployment,
        d.revision,
        d.legal_entity,
        d.jurisdiction,
        shown["descriptor"].as_str().unwrap_or_default(),
        d.fingerprint(),
        d.statement_keys.last().map_or(0, |k| k.version),
        d.statement_keys.last().map_or(0, |k| k.not_after_ms),
        shown["certificate_expires_s"],
    )
}
