//! `quorate device list|add|renew|revoke`, and how a statement about an account gets to the custodians.

use super::Context;
use crate::deployment::Deployment;
use crate::exit::{CommandResult, Exit, Failure};
use crate::output::time;
use crate::people::account::{self, Hands, Request, head_of, record_ends_ms};
use crate::people::{Judged, Wallet};
use quorate_engine::authz::chain::ChainId;
use quorate_engine::authz::envelope::Envelope;
use quorate_engine::authz::identity::AccountChange;
use quorate_engine::crypto::sign::SigningKey;
use quorate_engine::types::{DeviceId, PublicKey, StatementHash};
use serde_json::{Value, json};
use std::path::PathBuf;

/// List, add, renew and revoke your account's devices
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// List the account's devices
    List,
    /// Make a wallet for another device; move its directory there, and keep no copy
    Add {
        /// A new directory for the other device's wallet
        #[arg(long, value_name = "DIR")]
        to: PathBuf,
    },
    /// Begin this device's record anew; it ends within 30 days
    Renew,
    /// Take a device out for ever
    Revoke {
        /// The device
        device: DeviceId,
    },
}

/// Runs the command.
///
/// # Errors
/// [`Failure`]; a change is *done* only when enough custodians signed that they know it.
pub async fn run(args: Args, context: &Context) -> CommandResult {
    let deployment = context.deployment()?;
    let mut wallet = context.wallet(&deployment)?;
    match args.what {
        What::List => list(&wallet, &deployment, context).await,
        What::Add { to } => add(&mut wallet, to, &deployment, context).await,
        What::Renew => {
            let change = AccountChange::Renew {
                device: wallet.device()?,
                expires_ms: record_ends_ms(),
            };
            let key = SigningKey::from_seed(&wallet.key()?.seed());
            let sent = carry(&mut wallet, change, &[&key], 1, &deployment, context).await?;
            told(&sent, "this device's record begins anew", context)
        }
        What::Revoke { device } => {
            let change = AccountChange::Revoke { device };
            let key = SigningKey::from_seed(&wallet.key()?.seed());
            let sent = carry(&mut wallet, change, &[&key], 0, &deployment, context).await?;
            told(&sent, &format!("device {device} is out for ever"), context)
        }
    }
}

/// What became of a statement.
pub(super) enum Sent {
    /// The custodians know it.
    Done(Judged),
    /// An identity authority has to sign and bring it.
    Asked(PathBuf),
}

/// Signs `change` as the next statement of the wallet's account and brings it to the custodians:
/// with `authorities` signatures of identity authorities past the home, without any through the home.
pub(super) async fn carry(
    wallet: &mut Wallet,
    change: AccountChange,
    keys: &[&SigningKey],
    authorities: usize,
    deployment: &Deployment,
    context: &Context,
) -> Result<Sent, Failure> {
    let name = change.name();
    let lets_in = !matches!(change, AccountChange::Revoke { .. } | AccountChange::Veto);
    let hands = deployment.layout()?.map(|l| Hands::of(&l)).transpose()?;
    let at = match &hands {
        Some(hands) => head_of(&hands.registry.account(&wallet.account).await?)?,
        None => wallet.head,
    };
    let mut statement = account::statement(wallet, at, change, keys);
    let said = match (&hands, authorities) {
        (_, 0) => {
            let client = deployment.client(Some(deployment.person(wallet)?))?;
            client
                .account_statement(&wallet.account, &statement)
                .await?
        }
        (Some(hands), count) => {
            hands.sign(&mut statement, &wallet.authorities, count)?;
            hands.registry.tell(Some(&wallet.account), &statement).await
        }
        (None, _) => return ask(wallet, at.0 + 1, &statement),
    };
    let new = (at.0 + 1, StatementHash(statement.hash()));
    let Some(known) = deployment.known(context.global.trust.as_deref())? else {
        return Err(Failure::new(
            Exit::Unavailable,
            "unverified",
            format!(
                "{name} was passed on, and the custodians' signatures could not be verified here"
            ),
            "run it again with --trust DIR, a directory with the custodians' descriptors and policy.toml",
        ));
    };
    let judged = known.judge(ChainId::Account(wallet.account), new, &said);
    judged.must_be_done(name, lets_in)?;
    wallet.keep(new.0, &statement);
    wallet.save()?;
    Ok(Sent::Done(judged))
}

fn ask(wallet: &mut Wallet, number: u64, statement: &Envelope) -> Result<Sent, Failure> {
    let path = wallet.dir.join("request.json");
    let request = Request::new(
        &wallet.name,
        wallet.deployment,
        Some(wallet.account),
        statement,
    );
    request.save(&path)?;
    wallet.await_back(number, statement);
    wallet.save()?;
    Ok(Sent::Asked(path))
}

pub(super) fn told(sent: &Sent, text: &str, context: &Context) -> CommandResult {
    match sent {
        Sent::Done(judged) => {
            let value = json!({"done": true, "custodians": judged.believed});
            context.output.show(&value, || {
                format!(
                    "done: {text}\nverified: {} have signed that they know it",
                    judged.believed.join(", ")
                )
            })?;
        }
        Sent::Asked(path) => {
            let value = json!({"done": false, "request": path});
            context.output.show(&value, || {
                format!(
                    "wrote the request {}\nBring it to an identity authority of the account within the hour (`quorate identity enrol`),\n\
                     and run `quorate login --complete FILE` with what comes back.",
                    path.display()
                )
            })?;
        }
    }
    Ok(Exit::Ok)
}

async fn list(wallet: &Wallet, deployment: &Deployment, context: &Context) -> CommandResult {
    let own = wallet.device()?.to_string();
    let row = |id: &str, expires_ms: u64, revoked: bool| json!({"id": id, "expires_ms": expires_ms, "revoked": revoked, "this": id == own});
    let rows: Vec<Value> = match deployment.layout()? {
        Some(layout) => {
            let seen = Hands::of(&layout)?
                .registry
                .account(&wallet.account)
                .await?;
            let devices = seen.devices.iter();
            devices
                .map(|d| row(&d.id, d.expires_ms, d.revoked_ms.is_some()))
                .collect()
        }
        None => {
            let devices = wallet.devices();
            devices
                .iter()
                .map(|d| row(&d.id.to_string(), d.expires_ms, d.revoked))
                .collect()
        }
    };
    let value = json!({"account": wallet.account, "devices": rows});
    context.output.show(&value, || {
        let mut table = comfy_table::Table::new();
        table.load_style(comfy_table::presets::UTF8_NO_BORDERS);
        table.set_header(["device", "ends", ""]);
        for r in &rows {
            let state = match (r["revoked"] == true, r["this"] == true) {
                (true, _) => "revoked",
                (false, true) => "this one",
                (false, false) => "",
            };
            let ends = time(r["expires_ms"].as_u64().unwrap_or(0));
            table.add_row([r["id"].as_str().unwrap_or_default(), &ends, state]);
        }
        format!("account {}\n{table}", wallet.account)
    })?;
    Ok(Exit::Ok)
}

async fn add(
    wallet: &mut Wallet,
    to: PathBuf,
    deployment: &Deployment,
    context: &Context,
) -> CommandResult {
    if Wallet::exists(&to) {
        return Err(Failure::usage(
            format!("a wallet is in {} already", to.display()),
            "name a new directory",
        ));
    }
    let key = SigningKey::generate(&mut rand::rng());
    let change = AccountChange::AddDevice {
        public: PublicKey(key.public()),
        expires_ms: record_ends_ms(),
    };
    let mut other = Wallet::beside(wallet, &to, SigningKey::from_seed(&key.seed()));
    // Before anybody is told: a device whose key was lost again would only take up room.
    other.save()?;
    let own = SigningKey::from_seed(&wallet.key()?.seed());
    let sent = carry(wallet, change, &[&own, &key], 1, deployment, context).await?;
    let device = other.device()?;
    match &sent {
        Sent::Done(_) => {
            other = Wallet::beside(wallet, &to, key);
            other.enrolled = true;
        }
        Sent::Asked(_) => {
            if let Some(hash) = wallet.awaits() {
                other.awaited_like(wallet.awaited_number(), hash);
            }
        }
    }
    other.save()?;
    let text = format!(
        "device {device} is added; its wallet is in {}: move it there, and keep no copy here",
        to.display()
    );
    told(&sent, &text, context)
}
