//! `quorate identity init|show|renew|rotate`: an identity authority's keys, on
//! its own machine. It runs no node; it signs statements about people and brings
//! them to each custodian's registry plane itself.

use super::Context;
use crate::exit::{CommandResult, Exit, Failure};
use quorate_engine::types::DeploymentId;
use quorate_node::config::{ClusterRole, KeyProvider, RaftOptions, StoreKind};
use quorate_node::pki::entity::{self, Entity, EntityError, EntitySpec};
use quorate_node::pki::{Descriptor, ca, files};
use serde_json::{Value, json};
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
pub fn run(args: &Args, context: &Context) -> CommandResult {
    match &args.what {
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
