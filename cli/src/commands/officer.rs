//! `quorate officer init-key|bootstrap|list|propose|sign|submit`: who a
//! custodian's officers are, and what they put before each other.

use super::officer_papers::{
    agreed, custodian_id, deployment_id, find_officer, hand_in_and_show, load, make_key, name_of,
    now_ms, officer_of, officers, read_key, save, sign, unsigned, words, wrong,
};
use super::{Context, policy};
use crate::exit::{CommandResult, Exit, Failure};
use crate::output::{plain, time};
use quorate_engine::api::officers::OfficersView;
use quorate_engine::authz::auditor::Auditor;
use quorate_engine::authz::envelope::Envelope;
use quorate_engine::authz::officers::{
    Act, Bootstrap, Dependence, Floor, Officer, OfficerKey, Proposal, ShredKey, Statement,
    ThawScope, Waits,
};
use quorate_engine::types::{ChatId, PublicKey};
use serde_json::json;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::PathBuf;

const DAY_MS: u64 = 24 * 60 * 60 * 1000;

/// A custodian's officers, and what they decide together
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// Draw an officer's key and keep it in a new file that only its owner may read
    InitKey(InitKey),
    /// Write down a custodian's first officers; all of them sign before it is handed in
    Bootstrap(First),
    /// Show a custodian's officers, its floor, and what is open before them
    List(Named),
    /// Put something before the officers; proposing is approving
    Propose(Box<Propose>),
    /// Add your signature to a paper in a file
    Sign(Sign),
    /// Hand a signed paper in: first officers, a proposal, a decision or an order
    Submit(Submit),
}

#[derive(Debug, clap::Args)]
struct InitKey {
    /// Where the key goes; a new file, mode 0600
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

#[derive(Debug, clap::Args)]
struct Named {
    /// The custodian
    custodian: String,
}

#[derive(Debug, clap::Args)]
struct First {
    /// The custodian
    custodian: String,
    /// An officer, as NAME=KEY (the public key that `init-key` showed, hex); repeat for each
    #[arg(long = "officer", value_name = "NAME=KEY", required = true, value_parser = officer)]
    officers: Vec<Officer>,
    /// How many must agree
    #[arg(long, value_name = "N")]
    quorum: u8,
    #[command(flatten)]
    waits: WaitsArgs,
    /// A stricter floor of policies from the beginning, as CUSTODIANS,ENTITIES,GROUPS
    #[arg(long, value_name = "N,N,N", value_parser = floor)]
    floor: Option<Floor>,
    /// Where the paper goes, for each officer's `officer sign`
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

#[derive(Debug, clap::Args)]
struct WaitsArgs {
    /// Hours that an approved order waits before its first release, 1 to 720
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=720))]
    cool_off_hours: Option<u64>,
    /// Days that a recovery of an account waits before it can be finished, 3 to 30
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(3..=30))]
    recovery_days: Option<u64>,
}

impl WaitsArgs {
    fn waits(&self) -> Option<Waits> {
        const HOUR_MS: u64 = 60 * 60 * 1000;
        let waits = Waits {
            cool_off_ms: self.cool_off_hours.map(|h| h * HOUR_MS),
            recovery_ms: self.recovery_days.map(|d| d * 24 * HOUR_MS),
        };
        (waits != Waits::default()).then_some(waits)
    }
}

fn floor(text: &str) -> Result<Floor, String> {
    let numbers: Vec<u8> = text.split(',').filter_map(|n| n.parse().ok()).collect();
    let [threshold, entities, blocs] = numbers[..] else {
        return Err("three numbers with commas between: custodians, entities, groups".into());
    };
    let floor = Floor {
        threshold,
        entities,
        blocs,
    };
    floor.check().map(|()| floor).map_err(|e| e.to_string())
}

#[derive(Debug, clap::Args)]
struct Sign {
    /// The paper
    paper: PathBuf,
    /// Your key file
    #[arg(long, value_name = "FILE")]
    key: PathBuf,
    /// Sign what was shown
    #[arg(long)]
    yes: bool,
}

#[derive(Debug, clap::Args)]
struct Submit {
    /// The custodian
    custodian: String,
    /// The paper
    paper: PathBuf,
}

#[derive(Debug, clap::Args)]
struct Propose {
    /// The custodian
    custodian: String,
    /// Your key file
    #[arg(long, value_name = "FILE")]
    key: PathBuf,
    /// Why; stands in the custodian's log
    #[arg(long)]
    reason: String,
    /// Days until it can no longer be decided, 30 at most
    #[arg(long, value_name = "N", default_value_t = 7)]
    days: u64,
    /// Another key file on this machine that signs too: an officer's who agrees, or the new one's
    #[arg(long, value_name = "FILE")]
    also: Vec<PathBuf>,
    /// Write the paper to a file instead of handing it in, for more signatures
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    #[command(subcommand)]
    act: Asked,
}

#[derive(Debug, clap::Subcommand)]
enum Asked {
    /// One officer more; the new key signs as well
    AddOfficer {
        /// The officer, as NAME=KEY
        #[arg(value_name = "NAME=KEY", value_parser = officer)]
        officer: Officer,
    },
    /// One officer fewer
    RemoveOfficer {
        /// Name or id
        officer: String,
    },
    /// Put a new key in the place of a lost or stolen one; the new key signs as well
    ReplaceKey {
        /// Name or id
        officer: String,
        /// The new public key, hex
        #[arg(long, value_name = "KEY")]
        public: OfficerKey,
    },
    /// Another number of officers must agree
    SetQuorum {
        /// How many
        quorum: u8,
    },
    /// Ask more of policies from now on; there is no way down
    RaiseFloor {
        /// Custodians that must take part
        #[arg(long, value_name = "N", default_value_t = 2)]
        threshold: u8,
        /// Legal entities among them
        #[arg(long, value_name = "N", default_value_t = 2)]
        entities: u8,
        /// Independent groups among them
        #[arg(long, value_name = "N", default_value_t = 2)]
        blocs: u8,
    },
    /// Let approved orders, or recoveries of accounts that begin from now on, wait longer or shorter
    SetWaits {
        #[command(flatten)]
        waits: WaitsArgs,
    },
    /// Deal under a policy of a file; entities come from the descriptors, blocs from the file
    ApprovePolicy {
        #[command(flatten)]
        input: policy::Input,
        /// Which policy of the file
        #[arg(long, value_name = "NAME", default_value = "default")]
        policy: String,
    },
    /// End a freeze
    Thaw {
        /// A chat's id; the freeze of everything when not given
        #[arg(long, value_name = "ID")]
        chat: Option<ChatId>,
    },
    /// Let an auditor read the log's entries and who they are about
    AdmitAuditor {
        /// The auditor, as NAME=KEY (the public key that `audit init-key` showed, hex)
        #[arg(value_name = "NAME=KEY", value_parser = auditor)]
        auditor: (String, PublicKey),
        /// Days the admission holds, 400 at most
        #[arg(long = "for-days", value_name = "N", default_value_t = 90, value_parser = clap::value_parser!(u64).range(1..=400))]
        for_days: u64,
    },
    /// An auditor reads the log no more
    DismissAuditor {
        /// Its id, or the name that `officer list` shows
        auditor: String,
    },
    /// Destroy shares, for ever
    Shred {
        /// A dealing, as CHAT:KEY (both hex); repeat for more
        #[arg(long = "share", value_name = "CHAT:KEY", required = true, value_parser = share)]
        shares: Vec<ShredKey>,
    },
}

fn officer(text: &str) -> Result<Officer, String> {
    let (name, public) = text
        .split_once('=')
        .ok_or_else(|| "write NAME=KEY, the key in hex".to_owned())?;
    let name = name.to_owned();
    let public = public.parse()?;
    Ok(Officer { name, public })
}

fn auditor(text: &str) -> Result<(String, PublicKey), String> {
    let parse = || {
        let (name, public) = text.split_once('=')?;
        Some((name.to_owned(), public.parse().ok()?))
    };
    parse().ok_or_else(|| "write NAME=KEY, the key in hex".to_owned())
}

fn share(text: &str) -> Result<ShredKey, String> {
    let parse = || {
        let (chat, key) = text.split_once(':')?;
        let (chat, key) = (chat.parse().ok()?, key.parse().ok()?);
        Some(ShredKey { chat, key })
    };
    parse().ok_or_else(|| "write CHAT:KEY, both in hex".to_owned())
}

/// Runs the command.
///
/// # Errors
/// [`Failure`].
pub async fn run(args: Args, context: &Context) -> CommandResult {
    match args.what {
        What::InitKey(args) => init_key(&args, context),
        What::Bootstrap(args) => bootstrap(args, context),
        What::List(args) => list(&args.custodian, context).await,
        What::Propose(args) => propose(*args, context).await,
        What::Sign(args) => {
            let mut paper = load(&args.paper)?;
            let deployment = deployment_id(context)?;
            let key = read_key(&args.key)?;
            agreed(&words(&paper, None)?, args.yes)?;
            sign(&mut paper, &deployment, &key)?;
            save(&paper, &args.paper)?;
            written(&paper, &args.paper, context)
        }
        What::Submit(args) => {
            let paper = load(&args.paper)?;
            hand_in_and_show(context, &args.custodian, &paper).await
        }
    }
}

fn written(paper: &Envelope, path: &std::path::Path, context: &Context) -> CommandResult {
    let value = json!({"paper": path, "hash": hex::encode(paper.hash()), "signatures": paper.signatures.len()});
    context.output.show(&value, || {
        format!(
            "{}: {} signatures, hash {}",
            path.display(),
            paper.signatures.len(),
            hex::encode(paper.hash())
        )
    })?;
    Ok(Exit::Ok)
}

fn init_key(args: &InitKey, context: &Context) -> CommandResult {
    let key = make_key(&args.out)?;
    let (id, public) = (officer_of(&key), hex::encode(key.public()));
    let value = json!({"officer": id.to_string(), "public": public, "file": args.out});
    context.output.show(&value, || {
        format!(
            "officer {id}\n  public key {public}\n  in {}, for its owner only; keep a copy in a safe",
            args.out.display()
        )
    })?;
    Ok(Exit::Ok)
}

fn bootstrap(args: First, context: &Context) -> CommandResult {
    let deployment = deployment_id(context)?;
    let statement = Statement::Bootstrap(Bootstrap {
        custodian: custodian_id(&args.custodian)?,
        officers: args.officers,
        quorum: args.quorum,
        floor: args.floor,
        waits: args.waits.waits(),
    });
    let paper = unsigned(&statement, &deployment);
    save(&paper, &args.out)?;
    written(&paper, &args.out, context)
}

async fn list(custodian: &str, context: &Context) -> CommandResult {
    let view = officers(context, custodian).await?;
    let mut text = match &view.roster {
        None => format!(
            "{} has no officers: its operators thaw, shred and approve policies alone",
            plain(&view.custodian)
        ),
        Some(r) => {
            let mut out = format!(
                "{}: {} of {} officers must agree",
                plain(&view.custodian),
                r.quorum,
                r.officers.len()
            );
            for o in &r.officers {
                let _ = write!(out, "\n  {} {}", plain(&o.id), plain(&o.name));
            }
            out
        }
    };
    let f = view.floor;
    let _ = write!(
        text,
        "\nfloor of policies: {} custodians, {} entities, {} independent groups\ncool-off of orders: {} minutes\nwait of recoveries: {} hours",
        f.threshold,
        f.entities,
        f.blocs,
        view.cool_off_ms / 60_000,
        view.recovery_wait_ms / 3_600_000
    );
    for a in &view.auditors {
        let _ = write!(
            text,
            "\nauditor {} {} until {}",
            plain(&a.id),
            plain(&a.name),
            time(a.expires_ms)
        );
    }
    for p in &view.proposals {
        let names = |ids: &[String]| {
            let all: Vec<_> = ids.iter().map(|id| name_of(&view, id)).collect();
            all.join(", ")
        };
        let _ = write!(
            text,
            "\n\nproposal {}\n{}\n  for it: {}",
            plain(&p.id),
            words(&Envelope::from(&p.statement), Some(&view))?,
            names(&p.approvals)
        );
        if !p.rejections.is_empty() {
            let _ = write!(text, "\n  against it: {}", names(&p.rejections));
        }
    }
    context.output.show(&view, || text)?;
    Ok(Exit::Ok)
}

async fn propose(args: Propose, context: &Context) -> CommandResult {
    let deployment = deployment_id(context)?;
    let key = read_key(&args.key)?;
    let view = officers(context, &args.custodian).await?;
    let now_ms = now_ms();
    let proposal = Proposal {
        custodian: custodian_id(&args.custodian)?,
        // Every program's JSON can carry 53 bits.
        number: rand::random::<u64>() >> 11,
        act: act(args.act, &view)?,
        reason: args.reason,
        by: officer_of(&key),
        expires_ms: now_ms.saturating_add(args.days.saturating_mul(DAY_MS)),
    };
    let mut paper = unsigned(&Statement::Proposal(proposal), &deployment);
    sign(&mut paper, &deployment, &key)?;
    for more in &args.also {
        sign(&mut paper, &deployment, &read_key(more)?)?;
    }
    match &args.out {
        Some(path) => {
            save(&paper, path)?;
            written(&paper, path, context)
        }
        None => hand_in_and_show(context, &args.custodian, &paper).await,
    }
}

fn act(asked: Asked, view: &OfficersView) -> Result<Act, Failure> {
    Ok(match asked {
        Asked::AddOfficer { officer } => Act::AddOfficer { officer },
        Asked::RemoveOfficer { officer } => Act::RemoveOfficer {
            officer: find_officer(view, &officer)?,
        },
        Asked::ReplaceKey { officer, public } => Act::ReplaceKey {
            officer: find_officer(view, &officer)?,
            public,
        },
        Asked::SetQuorum { quorum } => Act::SetQuorum { quorum },
        Asked::SetWaits { waits } => Act::SetWaits {
            waits: waits.waits().ok_or_else(|| {
                Failure::usage(
                    "no wait was named",
                    "give --cool-off-hours, --recovery-days, or both",
                )
            })?,
        },
        Asked::RaiseFloor {
            threshold,
            entities,
            blocs,
        } => Act::RaiseFloor {
            floor: Floor {
                threshold,
                entities,
                blocs,
            },
        },
        Asked::ApprovePolicy { input, policy } => approve_policy(&input, &policy)?,
        Asked::Thaw { chat } => Act::Thaw {
            scope: chat.map_or(ThawScope::All, ThawScope::Chat),
        },
        Asked::Shred { shares } => Act::Shred { keys: shares },
        Asked::AdmitAuditor {
            auditor: (name, public),
            for_days,
        } => Act::AdmitAuditor {
            auditor: Auditor {
                name,
                public,
                expires_ms: now_ms().saturating_add(for_days.saturating_mul(DAY_MS)),
            },
        },
        Asked::DismissAuditor { auditor } => {
            let known = view.auditors.iter();
            let mut known = known.filter(|a| a.id == auditor || a.name == auditor);
            let id = known.next().and_then(|a| a.id.parse().ok());
            Act::DismissAuditor {
                auditor: id.ok_or_else(|| wrong(format!("no auditor {auditor:?} is admitted")))?,
            }
        }
    })
}

fn approve_policy(input: &policy::Input, name: &str) -> Result<Act, Failure> {
    let (file, facts) = policy::read(input)?;
    let named = file
        .policies
        .get(name)
        .ok_or_else(|| wrong(format!("the file has no policy {name:?}")))?;
    let mut members = BTreeMap::new();
    for id in named.policy.custodians() {
        let facts = facts
            .custodians
            .get(&id)
            .ok_or_else(|| wrong(format!("no descriptor of {id} was given")))?;
        let declared = file.blocs.iter().filter(|(_, m)| m.contains(&id));
        let dependence = Dependence {
            entity: facts.entity.clone(),
            blocs: declared.map(|(bloc, _)| bloc.clone()).collect(),
        };
        members.insert(id, dependence);
    }
    Ok(Act::ApprovePolicy {
        canonical: hex::encode(named.policy.canonical()),
        members,
    })
}
