//! `quorate trust add|show`: other entities' descriptors, and their fingerprints.

use super::Context;
use crate::exit::{CommandResult, Exit, Failure};
use quorate_node::pki::Descriptor;
use quorate_node::pki::entity::Entity;
use serde_json::json;
use std::path::PathBuf;

/// Trust other entities
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// Trust an entity whose fingerprint was compared with its owner by another way
    Add(Add),
    /// Show what a descriptor says, and its fingerprint
    Show {
        /// descriptor.json
        descriptor: PathBuf,
    },
}

#[derive(Debug, clap::Args)]
struct Add {
    /// This entity's own directory, made by `custodian init`, `home init` or `identity init`
    dir: PathBuf,
    /// The other entity's descriptor.json
    descriptor: PathBuf,
    /// Its fingerprint, as its owner read it to you
    #[arg(long, value_name = "TEXT")]
    fingerprint: String,
}

/// Runs the command.
///
/// # Errors
/// [`Failure`]; a fingerprint that differs changes nothing.
pub fn run(args: &Args, context: &Context) -> CommandResult {
    match &args.what {
        What::Show { descriptor } => show(&load(descriptor)?, context),
        What::Add(add) => {
            let other = load(&add.descriptor)?;
            let is = other.fingerprint();
            if squash(&is) != squash(&add.fingerprint) {
                return Err(Failure::new(
                    Exit::Conflict,
                    "fingerprint",
                    format!(
                        "the descriptor's fingerprint is {is}, not {}",
                        add.fingerprint
                    ),
                    "do not trust it; ask its owner again, by a way nobody in between can change",
                ));
            }
            let failed = |e: &dyn std::fmt::Display| {
                Failure::new(
                    Exit::Failed,
                    "trust",
                    e.to_string(),
                    "nothing was trusted on this node; correct it and run it again",
                )
            };
            let own = Entity::open(&add.dir).map_err(|e| failed(&e))?;
            own.trust(&other).map_err(|e| failed(&e))?;
            let text = format!(
                "{} now trusts {} ({is}); running nodes take it within seconds",
                own.descriptor.id, other.id
            );
            context
                .output
                .show(&json!({"trusts": other.id, "fingerprint": is}), || text)?;
            Ok(Exit::Ok)
        }
    }
}

fn load(path: &std::path::Path) -> Result<Descriptor, Failure> {
    Descriptor::load(path).map_err(|e| {
        Failure::new(
            Exit::Usage,
            "descriptor",
            e.to_string(),
            "ask its owner for a fresh copy",
        )
    })
}

fn squash(text: &str) -> String {
    text.chars()
        .filter(char::is_ascii_alphanumeric)
        .map(|c| c.to_ascii_lowercase())
        .collect()
}

fn show(d: &Descriptor, context: &Context) -> CommandResult {
    let value = json!({
        "id": d.id, "role": d.role, "deployment": d.deployment, "revision": d.revision,
        "jurisdiction": d.jurisdiction, "legal_entity": d.legal_entity, "provider": d.provider,
        "network": d.network, "endpoints": d.endpoints, "fingerprint": d.fingerprint(),
    });
    context.output.show(&value, || {
        format!(
            "{} {} of deployment {}, revision {}\n{}, jurisdiction {}, provider {}, network {}\nfingerprint {}",
            d.role, d.id, d.deployment, d.revision, d.legal_entity, d.jurisdiction, d.provider, d.network, d.fingerprint()
        )
    })?;
    Ok(Exit::Ok)
}
