//! `quorate policy explain|lint FILE`.
//!
//! A policy is judged in a world: who runs which custodian, under whose law.
//! That comes from descriptors, or from a topology file that has both, or is
//! assumed (everyone independent), and then said so.

use super::Context;
use crate::deployment::read_limited;
use crate::exit::{CommandResult, Exit, Failure};
use crate::output::remark;
use quorate_engine::policy::{
    Chance, CustodianFacts, Facts, LoadError, PolicyFile, Report, analyse, load,
};
use quorate_engine::types::CustodianId;
use quorate_node::config::ClusterRole;
use quorate_node::embedded::topology::{EntitySpec, Topology};
use quorate_node::pki::descriptor::Descriptor;
use serde_json::json;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// Most descriptor files read.
const DESCRIPTORS_MAX: usize = 1024;

/// Explain and check policies
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    action: Action,
}

/// Where policies and the facts about custodians come from.
#[derive(Debug, clap::Args)]
pub(super) struct Input {
    /// TOML file with [policy.NAME] and [bloc], or a whole topology
    file: PathBuf,
    /// Directory with the descriptors of home and custodians (*.json, or one directory for each)
    #[arg(long, value_name = "DIR")]
    descriptors: Option<PathBuf>,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// Say what a policy means: who suffices, who can block, what each loss leaves
    Explain {
        #[command(flatten)]
        input: Input,
        /// Only this policy of the file
        #[arg(long, value_name = "NAME")]
        policy: Option<String>,
        /// Chance that a custodian answers, to estimate availability (0.99)
        #[arg(long, value_name = "P")]
        availability: Option<f64>,
    },
    /// Check policies; says what is wrong and the way out
    Lint {
        #[command(flatten)]
        input: Input,
        /// Warnings fail too
        #[arg(long)]
        strict: bool,
    },
}

/// Runs the command.
///
/// # Errors
/// [`Failure`]; a policy that is refused is one.
pub fn run(args: &Args, context: &Context) -> CommandResult {
    match &args.action {
        Action::Explain {
            input,
            policy,
            availability,
        } => explain(input, policy.as_deref(), *availability, context),
        Action::Lint { input, strict } => lint(input, *strict, context),
    }
}

fn explain(
    input: &Input,
    only: Option<&str>,
    availability: Option<f64>,
    context: &Context,
) -> CommandResult {
    let chance = match availability.map(Chance::new) {
        Some(None) => {
            return Err(Failure::usage(
                "--availability must be between 0 and 1",
                "give a chance such as 0.99",
            ));
        }
        chance => chance.flatten(),
    };
    let (file, facts) = read(input)?;
    let mut reports = reports(&file, &facts, chance);
    if let Some(only) = only {
        reports.retain(|r| r.name == only);
        if reports.is_empty() {
            let names: Vec<_> = file.policies.keys().map(String::as_str).collect();
            let what = format!("{} has no policy {only:?}", input.file.display());
            return Err(Failure::new(
                Exit::Conflict,
                "no_such_policy",
                what,
                format!("it has: {}", names.join(", ")),
            ));
        }
    }
    for report in &reports {
        context.output.show(report, || report.to_string())?;
    }
    Ok(Exit::Ok)
}

fn lint(input: &Input, strict: bool, context: &Context) -> CommandResult {
    let (file, facts) = read(input)?;
    let mut warnings = 0;
    for report in reports(&file, &facts, None) {
        warnings += report.warnings.len();
        let found = json!({"policy": report.name, "id": report.id, "text": report.text, "warnings": report.warnings});
        context.output.show(&found, || {
            let heading = format!("{}: ok: {}", report.name, report.text);
            report
                .warnings
                .iter()
                .fold(heading, |all, w| format!("{all}\n  warning: {w}"))
        })?;
    }
    if strict && warnings > 0 {
        return Err(Failure::new(
            Exit::Failed,
            "policy_warnings",
            format!("{warnings} warnings, and --strict"),
            "follow them, or leave --strict out",
        ));
    }
    Ok(Exit::Ok)
}

fn reports(file: &PolicyFile, facts: &Facts, chance: Option<Chance>) -> Vec<Report> {
    let each = file.policies.values();
    each.map(|named| analyse(named, &file.blocs, facts, chance))
        .collect()
}

pub(super) fn read(input: &Input) -> Result<(PolicyFile, Facts), Failure> {
    let bytes = read_limited(&input.file).map_err(|e| Failure::file("read", &input.file, &e))?;
    let text = String::from_utf8(bytes).map_err(|_| {
        Failure::usage(
            format!("{} is not text", input.file.display()),
            "give a TOML file",
        )
    })?;
    let (text, facts) = match &input.descriptors {
        Some(dir) => (text, from_descriptors(dir)?),
        None => match Topology::parse(&input.file.display().to_string(), &text) {
            Ok(topology) => (topology.policy_toml.clone(), from_topology(&topology)?),
            Err(_) => {
                remark(
                    &"note: no descriptors given, so every custodian is taken to be independent; ids differ from a deployment's. Give --descriptors DIR",
                );
                let facts = assumed(&text);
                (text, facts)
            }
        },
    };
    match load(&text, &facts) {
        Ok(file) if file.policies.is_empty() => Err(Failure::usage(
            format!("{} has no policy", input.file.display()),
            "write a table [policy.default] with threshold and members",
        )),
        Ok(file) => Ok((file, facts)),
        Err(e) => Err(refused(&input.file, &e)),
    }
}

fn refused(path: &Path, e: &LoadError) -> Failure {
    let next = match e {
        LoadError::Refused(_) => "each line says the way out",
        LoadError::Toml(_) => "correct the file",
        LoadError::TooLong(_) => "a policy file is small; is this the right one?",
    };
    Failure::new(
        Exit::Failed,
        "policy_refused",
        format!("{}: {e}", path.display()),
        next,
    )
}

fn custodian_id(name: &str) -> Result<CustodianId, Failure> {
    CustodianId::new(name).map_err(|e| Failure::usage(e.to_string(), "correct the name"))
}

fn from_topology(t: &Topology) -> Result<Facts, Failure> {
    let filled = |s: &str| Some(s.to_owned()).filter(|s| !s.is_empty());
    let one = |c: &EntitySpec| {
        let facts = CustodianFacts {
            jurisdiction: c.jurisdiction.clone(),
            entity: c.entity.clone(),
            identity: *blake3::hash(c.name.as_bytes()).as_bytes(),
            provider: filled(&c.provider),
            network: filled(&c.network),
        };
        Ok((custodian_id(&c.name)?, facts))
    };
    Ok(Facts {
        home_jurisdiction: t.home.jurisdiction.clone(),
        home_entity: t.home.entity.clone(),
        custodians: t
            .custodians
            .iter()
            .map(one)
            .collect::<Result<_, Failure>>()?,
    })
}

/// Everyone independent of everyone: what a policy means on paper.
fn assumed(text: &str) -> Facts {
    let mut names = BTreeSet::new();
    if let Ok(table) = text.parse::<toml::Table>() {
        table
            .get("policy")
            .into_iter()
            .for_each(|p| members(p, &mut names));
    }
    let one = |name: &String| {
        let facts = CustodianFacts {
            jurisdiction: format!("jurisdiction of {name}"),
            entity: format!("entity of {name}"),
            identity: *blake3::hash(name.as_bytes()).as_bytes(),
            provider: None,
            network: None,
        };
        Some((CustodianId::new(name).ok()?, facts))
    };
    Facts {
        home_jurisdiction: "jurisdiction of the home".into(),
        home_entity: "entity of the home".into(),
        custodians: names.iter().filter_map(one).collect(),
    }
}

fn members(value: &toml::Value, names: &mut BTreeSet<String>) {
    match value {
        toml::Value::Table(table) => {
            if let Some(toml::Value::Array(list)) = table.get("members") {
                names.extend(
                    list.iter()
                        .filter_map(toml::Value::as_str)
                        .map(str::to_owned),
                );
            }
            table.values().for_each(|v| members(v, names));
        }
        toml::Value::Array(list) => list.iter().for_each(|v| members(v, names)),
        _ => {}
    }
}

fn from_descriptors(dir: &Path) -> Result<Facts, Failure> {
    let mut facts = Facts::default();
    for path in descriptor_files(dir)? {
        let d = Descriptor::load(&path).map_err(|e| {
            Failure::usage(
                e.to_string(),
                "ask its owner for a good descriptor, or move the file away",
            )
        })?;
        if d.role == ClusterRole::Home {
            facts.home_jurisdiction.clone_from(&d.jurisdiction);
            facts.home_entity.clone_from(&d.legal_entity);
            continue;
        }
        let filled = |s: &str| Some(s.to_owned()).filter(|s| !s.is_empty());
        let one = CustodianFacts {
            jurisdiction: d.jurisdiction.clone(),
            entity: d.legal_entity.clone(),
            identity: d.identity_hash(),
            provider: filled(&d.provider),
            network: filled(&d.network),
        };
        facts.custodians.insert(custodian_id(&d.id)?, one);
    }
    Ok(facts)
}

/// `DIR/*.json` and `DIR/*/descriptor.json`.
fn descriptor_files(dir: &Path) -> Result<Vec<PathBuf>, Failure> {
    let entries = std::fs::read_dir(dir).map_err(|e| Failure::file("read", dir, &e))?;
    let mut out = Vec::new();
    for entry in entries.flatten().take(DESCRIPTORS_MAX) {
        let path = entry.path();
        let inside = path.join("descriptor.json");
        if inside.is_file() {
            out.push(inside);
        } else if path.extension().is_some_and(|e| e == "json") {
            out.push(path);
        }
    }
    out.sort();
    Ok(out)
}
