//! `quorate recover begin|veto|finish|set-secret`: back into an account whose devices are lost.

use super::device::{Sent, ask_at, carry, told};
use super::{Context, key_sources};
use crate::deployment::Deployment;
use crate::exit::{CommandResult, Exit, Failure};
use crate::people::account::{self, Hands, record_ends_ms};
use crate::people::{Card, Wallet, place};
use quorate_engine::authz::identity::AccountChange;
use quorate_engine::crypto::account_secret;
use quorate_engine::crypto::sign::SigningKey;
use quorate_engine::types::{AccountId, PublicKey};
use serde_json::json;
use std::path::{Path, PathBuf};

/// Get back into an account whose devices are lost
///
/// Two identity authorities of different entities have to sign, and for seven days any device
/// of the account may veto. Where an account secret is set, it has to sign as well.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// Make a new device's wallet and begin the wait
    Begin(Begin),
    /// End a recovery that you did not begin, with a device that you have
    Veto,
    /// Finish after the wait, with the wallet that `begin` made
    Finish {
        /// Where the account stands now, as an authority wrote it (`quorate identity card`), if that changed
        #[arg(long, value_name = "FILE")]
        card: Option<PathBuf>,
    },
    /// Set, change or remove the passphrase that must sign a recovery of this account, too
    SetSecret {
        /// Remove it
        #[arg(long, conflicts_with = "secret_fd")]
        remove: bool,
        /// Read the new secret from this file descriptor instead of the terminal
        #[arg(long, value_name = "FD")]
        secret_fd: Option<u32>,
        /// Read the old secret from this file descriptor
        #[arg(long, value_name = "FD")]
        old_secret_fd: Option<u32>,
    },
}

#[derive(Debug, clap::Args)]
struct Begin {
    /// What you are called here
    #[arg(long)]
    name: String,
    /// The account to get back into
    #[arg(long, value_name = "ACCOUNT", required_unless_present = "card")]
    account: Option<AccountId>,
    /// Where the account stands, as an authority wrote it (`quorate identity card`); writes a request for two authorities
    #[arg(long, value_name = "FILE", conflicts_with = "account")]
    card: Option<PathBuf>,
    /// Where to write the request [default: request.json in the wallet]
    #[arg(long, value_name = "FILE", requires = "card")]
    out: Option<PathBuf>,
    /// Read the account secret from this file descriptor instead of the terminal
    #[arg(long, value_name = "FD")]
    secret_fd: Option<u32>,
    /// Seal the device's key under a passphrase, typed or from --wallet-passphrase-fd
    #[arg(long)]
    passphrase: bool,
}

/// Runs the command.
///
/// # Errors
/// [`Failure`]; what the wait still needs is in the custodians' reasons.
pub async fn run(args: Args, context: &Context) -> CommandResult {
    match args.what {
        What::Begin(args) => match &args.card {
            Some(card) => begin_elsewhere(&args, &Card::load(card)?, context),
            None => begin(&args, context).await,
        },
        What::Veto => {
            let deployment = context.deployment()?;
            let mut wallet = context.wallet(&deployment)?;
            let own = SigningKey::from_seed(&wallet.key()?.seed());
            let change = AccountChange::Veto;
            let sent = carry(&mut wallet, change, &[&own], 0, &deployment, context).await?;
            told(&sent, "the recovery is ended", context)
        }
        What::Finish { card } => {
            let deployment = context.deployment()?;
            let mut wallet = context.wallet(&deployment)?;
            if let Some(path) = &card {
                let card = Card::load(path)?;
                same_account(&card, wallet.account, path)?;
                wallet.follow(&card);
            }
            let own = SigningKey::from_seed(&wallet.key()?.seed());
            let change = AccountChange::RecoverFinish {
                public: PublicKey(own.public()),
                expires_ms: record_ends_ms(),
            };
            let sent = carry(&mut wallet, change, &[&own], 1, &deployment, context).await?;
            if matches!(sent, Sent::Done(_)) {
                wallet.enrolled = true;
                wallet.save()?;
            }
            told(&sent, "this device is the account's again", context)
        }
        What::SetSecret {
            remove,
            secret_fd,
            old_secret_fd,
        } => set_secret(remove, secret_fd, old_secret_fd, context).await,
    }
}

fn same_account(card: &Card, account: AccountId, path: &Path) -> Result<(), Failure> {
    if card.account == account {
        return Ok(());
    }
    Err(Failure::usage(
        format!("{} is about account {}", path.display(), card.account),
        format!("ask for the card of account {account}"),
    ))
}

fn secret_key(account: &AccountId, fd: Option<u32>, new: bool) -> Result<SigningKey, Failure> {
    let passphrase = key_sources::account_secret(fd, new)?;
    account_secret::derive(account, &passphrase.0).map_err(|e| {
        Failure::new(
            Exit::Failed,
            "account_secret",
            e.to_string(),
            "it takes 64 MiB of memory; make room and run the command again",
        )
    })
}

/// Makes the wallet of the new device. Nothing is there before.
fn new_wallet(
    args: &Begin,
    card: &Card,
    deployment: Option<&Deployment>,
    key: SigningKey,
    context: &Context,
) -> Result<Wallet, Failure> {
    let dir = place::of_name(&context.asked(), deployment, &args.name)?;
    if Wallet::exists(&dir) {
        return Err(Failure::new(
            Exit::Conflict,
            "already_logged_in",
            format!("a wallet is in {} already", dir.display()),
            "choose another --name, or move that wallet away",
        ));
    }
    let mut wallet = Wallet::asking(&dir, &args.name, card, key);
    if args.passphrase {
        let fd = context.global.wallet_passphrase_fd;
        wallet.seal(&key_sources::wallet_passphrase(fd, true)?)?;
    }
    Ok(wallet)
}

/// Where both authorities are at hand.
async fn begin(args: &Begin, context: &Context) -> CommandResult {
    let deployment = context.deployment()?;
    let (Some(layout), Some(account)) = (deployment.layout()?, args.account) else {
        return Err(Failure::usage(
            "two identity authorities have to sign a recovery, and none is at hand here",
            "have one of the account's authorities write its card (`quorate identity card`), and give it as --card FILE",
        ));
    };
    let seen = Hands::of(&layout)?.registry.account(&account).await?;
    let card = Card::of_registry(account, layout.deployment, &seen)?;
    let secret = match card.secret {
        true => Some(secret_key(&account, args.secret_fd, false)?),
        false => None,
    };
    let key = SigningKey::generate(&mut rand::rng());
    let own = SigningKey::from_seed(&key.seed());
    let mut wallet = new_wallet(args, &card, Some(&deployment), key, context)?;
    wallet.save()?;
    let change = AccountChange::RecoverBegin {
        public: PublicKey(own.public()),
    };
    let keys: Vec<_> = std::iter::once(&own).chain(&secret).collect();
    let sent = carry(&mut wallet, change, &keys, 2, &deployment, context).await?;
    let text = "the recovery waits; `quorate officer list` shows how long, seven days unless officers set another wait. Finish it then with `quorate recover finish`";
    told(&sent, text, context)
}

/// Where each authority signs on its own machine.
fn begin_elsewhere(args: &Begin, card: &Card, context: &Context) -> CommandResult {
    let secret = match card.secret {
        true => Some(secret_key(&card.account, args.secret_fd, false)?),
        false => None,
    };
    let key = SigningKey::generate(&mut rand::rng());
    let own = SigningKey::from_seed(&key.seed());
    let deployment = context.deployment().ok();
    let mut wallet = new_wallet(args, card, deployment.as_ref(), key, context)?;
    let change = AccountChange::RecoverBegin {
        public: PublicKey(own.public()),
    };
    let keys: Vec<_> = std::iter::once(&own).chain(&secret).collect();
    let statement = account::statement(&wallet, wallet.head, change, &keys);
    let path = args.out.clone();
    let path = path.unwrap_or_else(|| wallet.dir.join("request.json"));
    wallet.save()?;
    ask_at(&mut wallet, card.number + 1, &statement, &path)?;
    let device = wallet.device()?;
    let value = json!({"account": card.account, "device": device, "wallet": wallet.dir, "request": path, "done": false});
    context.output.show(&value, || {
        format!(
            "wrote the request {}\naccount {}\ndevice  {device}\n\
             Within the hour, have one identity authority of the account sign it (`quorate identity attest`) and another, of another\n\
             entity, sign it and bring it to the custodians (`quorate identity enrol`); tell both the device's id by another way.\n\
             Then run `quorate login --complete FILE` with what comes back, wait, and run `quorate recover finish`.",
            path.display(),
            card.account
        )
    })?;
    Ok(Exit::Ok)
}

async fn set_secret(
    remove: bool,
    secret_fd: Option<u32>,
    old_secret_fd: Option<u32>,
    context: &Context,
) -> CommandResult {
    let deployment = context.deployment()?;
    let mut wallet = context.wallet(&deployment)?;
    let is_set = match deployment.layout()? {
        Some(layout) => {
            let registry = Hands::of(&layout)?.registry;
            registry.account(&wallet.account).await?.secret
        }
        None => wallet.has_secret() || old_secret_fd.is_some(),
    };
    let old = match is_set {
        true => Some(secret_key(&wallet.account, old_secret_fd, false)?),
        false => None,
    };
    let new = match remove {
        true => None,
        false => Some(secret_key(&wallet.account, secret_fd, true)?),
    };
    let own = SigningKey::from_seed(&wallet.key()?.seed());
    let change = AccountChange::SetSecret {
        public: new.as_ref().map(|key| PublicKey(key.public())),
    };
    let mut keys: Vec<_> = std::iter::once(&own).chain(&old).collect();
    // The same again signs once.
    keys.extend(
        new.iter()
            .filter(|n| old.as_ref().is_none_or(|o| o.public() != n.public())),
    );
    let sent = carry(&mut wallet, change, &keys, 1, &deployment, context).await?;
    let text = match remove {
        true => "a recovery of this account takes no secret any more",
        false => {
            "a recovery of this account takes the secret, too; without it and without a device there is no way back"
        }
    };
    told(&sent, text, context)
}
