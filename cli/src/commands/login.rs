//! `quorate login --name NAME`, `quorate login --complete FILE`.

use super::{Context, key_sources};
use crate::deployment::Deployment;
use crate::exit::{CommandResult, Exit, Failure};
use crate::people::account::{self, Request};
use crate::people::wallet::Wallet;
use crate::people::{Judged, place};
use quorate_engine::authz::chain::ChainId;
use quorate_engine::crypto::sign::SigningKey;
use quorate_engine::types::{AuthorityId, DeploymentId, StatementHash};
use serde_json::json;
use std::path::{Path, PathBuf};

/// Make a wallet and an account, and have it enrolled
///
/// In a deployment that one hand laid out (`dev`, `deploy init`) the account is enrolled at
/// once. Elsewhere this writes a request, which an identity authority signs and brings to the
/// custodians with `quorate identity enrol`, and `--complete` finishes with what it sent back.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// What you are called here: 1 to 32 characters of a-z, 0-9 and '-'
    #[arg(long, required_unless_present = "complete")]
    name: Option<String>,
    /// Seal the device's key under a passphrase, typed or from --wallet-passphrase-fd
    #[arg(long)]
    passphrase: bool,
    /// An identity authority that attests you; give it once for each [default: all of an embedded deployment]
    #[arg(long, value_name = "NAME")]
    authority: Vec<AuthorityId>,
    /// Deployment id, where client.toml does not say it
    #[arg(long, value_name = "HEX")]
    deployment_id: Option<DeploymentId>,
    /// Where to write the request [default: request.json in the wallet]
    #[arg(long, value_name = "FILE")]
    request: Option<PathBuf>,
    /// Finish with the file that the identity authority sent back
    #[arg(long, value_name = "FILE", conflicts_with_all = ["passphrase", "authority", "request"])]
    complete: Option<PathBuf>,
}

/// Runs the command.
///
/// # Errors
/// [`Failure`]; a wallet that exists is never overwritten.
pub async fn run(args: Args, context: &Context) -> CommandResult {
    let deployment = match context.deployment() {
        Ok(deployment) => Some(deployment),
        Err(e) if context.global.deployment.is_some() => return Err(e),
        Err(_) => None,
    };
    if let Some(file) = &args.complete {
        return complete(file, &args, deployment.as_ref(), context);
    }
    let name = args.name.clone().unwrap_or_default();
    let dir = place::of_name(&context.asked(), deployment.as_ref(), &name)?;
    let layout = deployment.as_ref().map(Deployment::layout).transpose()?;
    let Some(layout) = layout.flatten() else {
        return request(&name, &dir, &args, deployment.as_ref(), context);
    };
    if !args.authority.is_empty() || args.request.is_some() {
        return Err(Failure::usage(
            "an embedded deployment has its identity authorities at hand",
            "leave --authority and --request out",
        ));
    }
    let sealed = Wallet::exists(&dir) && Wallet::load(&dir)?.is_sealed();
    let passphrase = match args.passphrase || sealed {
        true => {
            let fd = context.global.wallet_passphrase_fd;
            Some(key_sources::wallet_passphrase(fd, !sealed)?)
        }
        false => None,
    };
    let (wallet, judged) = account::log_in(&layout, &dir, &name, passphrase.as_ref()).await?;
    done(&wallet, Some(&judged), context)
}

fn done(wallet: &Wallet, judged: Option<&Judged>, context: &Context) -> CommandResult {
    let device = wallet.device().ok();
    let value = json!({
        "name": wallet.name, "account": wallet.account, "device": device,
        "deployment": wallet.deployment, "wallet": wallet.dir, "enrolled": wallet.enrolled,
        "custodians": judged.map(|j| &j.believed),
    });
    context.output.show(&value, || {
        let by = match judged {
            Some(j) => format!("verified: {} have signed that they know it", j.believed.join(", ")),
            None => "nobody's signatures were verified: no --trust directory was given".to_owned(),
        };
        let device = device.map_or_else(String::new, |d| format!("device  {d}\n"));
        format!(
            "logged in as {}\naccount {}\n{device}wallet  {}\n{by}\nThe device's record ends within 30 days; `quorate device renew` begins it anew.",
            wallet.name,
            wallet.account,
            wallet.dir.display()
        )
    })?;
    Ok(Exit::Ok)
}

/// Makes the wallet and the request, for an authority that is elsewhere.
fn request(
    name: &str,
    dir: &Path,
    args: &Args,
    deployment: Option<&Deployment>,
    context: &Context,
) -> CommandResult {
    if Wallet::exists(dir) {
        return Err(Failure::new(
            Exit::Conflict,
            "already_logged_in",
            format!("a wallet is in {} already", dir.display()),
            "finish its login with --complete FILE, or name another directory with --wallet DIR",
        ));
    }
    let written = deployment.and_then(|d| d.file.deployment.parse().ok());
    let id = args.deployment_id.or(written).ok_or_else(|| {
        Failure::usage(
            "the deployment's id is not known here",
            "give it with --deployment-id HEX, or a deployment directory whose client.toml has it",
        )
    })?;
    let key = SigningKey::generate(&mut rand::rng());
    let genesis = account::found(&id, args.authority.iter().cloned().collect(), &key)?;
    let mut wallet = Wallet::new(dir, name, genesis.clone(), key)?;
    if args.passphrase {
        let fd = context.global.wallet_passphrase_fd;
        wallet.seal(&key_sources::wallet_passphrase(fd, true)?)?;
    }
    wallet.save()?;
    let request = Request::new(name, id, None, &genesis);
    let path = args.request.clone();
    let path = path.unwrap_or_else(|| dir.join("request.json"));
    request.save(&path)?;
    let value = json!({
        "name": name, "account": wallet.account, "device": wallet.device()?,
        "wallet": dir, "request": path, "enrolled": false,
    });
    let device = wallet.device()?;
    context.output.show(&value, || {
        format!(
            "wrote the request {}\naccount {}\ndevice  {device}\n\
             Bring it to an identity authority within the hour and tell its people the device's id by another way;\n\
             they run `quorate identity enrol`, and you `quorate login --complete FILE` with what they send back.",
            path.display(),
            wallet.account
        )
    })?;
    Ok(Exit::Ok)
}

fn complete(
    file: &Path,
    args: &Args,
    deployment: Option<&Deployment>,
    context: &Context,
) -> CommandResult {
    let request = Request::load(file)?;
    let dir = match &args.name {
        Some(name) => place::of_name(&context.asked(), deployment, name)?,
        None => place::find(&context.asked(), deployment)?,
    };
    let mut wallet = Wallet::load(&dir)?;
    let statement = request.statement();
    let hash = StatementHash(statement.hash());
    let ours = match request.account {
        None => wallet
            .genesis()
            .is_some_and(|g| statement.payload == g.payload),
        Some(account) => account == wallet.account && wallet.awaits() == Some(hash),
    };
    if !ours {
        return Err(Failure::usage(
            format!(
                "{} answers another request than this wallet's",
                file.display()
            ),
            "name the wallet that made the request with --wallet DIR",
        ));
    }
    let number = wallet.awaited_number();
    let known = match (&context.global.trust, deployment) {
        (trust, Some(d)) => d.known(trust.as_deref())?,
        (Some(dir), None) => Some(crate::people::Known::of_dir(dir)?),
        (None, None) => None,
    };
    let judged = known.map(|k| {
        k.judge(
            ChainId::Account(wallet.account),
            (number, hash),
            &request.said(),
        )
    });
    match &judged {
        Some(judged) => judged.must_be_done("the enrolment", true)?,
        None if request.acks.is_empty() => {
            return Err(Failure::new(
                Exit::Unavailable,
                "statement_not_done",
                "no custodian has taken it yet",
                "ask the identity authority to bring it to the custodians (`quorate identity enrol --registry …`)",
            ));
        }
        None => {}
    }
    wallet.finish(&statement);
    wallet.save()?;
    done(&wallet, judged.as_ref(), context)
}
