//! `quorate recover begin|veto|finish`: back into an account whose devices are lost.

use super::device::{carry, told};
use super::{Context, key_sources};
use crate::exit::{CommandResult, Exit, Failure};
use crate::people::account::{Hands, record_ends_ms};
use crate::people::{Wallet, place};
use quorate_engine::authz::identity::AccountChange;
use quorate_engine::crypto::sign::SigningKey;
use quorate_engine::types::{AccountId, PublicKey};

/// Get back into an account whose devices are lost
///
/// Two identity authorities of different entities have to sign, and for seven days any device
/// of the account may veto.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// Make a new device's wallet and begin the wait
    Begin {
        /// What you are called here
        #[arg(long)]
        name: String,
        /// The account to get back into
        #[arg(long, value_name = "ACCOUNT")]
        account: AccountId,
        /// Seal the device's key under a passphrase, typed or from --wallet-passphrase-fd
        #[arg(long)]
        passphrase: bool,
    },
    /// End a recovery that you did not begin, with a device that you have
    Veto,
    /// Finish after the wait, with the wallet that `begin` made
    Finish,
}

/// Runs the command.
///
/// # Errors
/// [`Failure`]; what the wait still needs is in the custodians' reasons.
pub async fn run(args: Args, context: &Context) -> CommandResult {
    let deployment = context.deployment()?;
    match args.what {
        What::Begin {
            name,
            account,
            passphrase,
        } => {
            let Some(layout) = deployment.layout()? else {
                return Err(Failure::usage(
                    "two identity authorities have to sign a recovery, and none is at hand here",
                    "ask both of them; this command works where one hand laid the deployment out",
                ));
            };
            let dir = place::of_name(&context.asked(), Some(&deployment), &name)?;
            if Wallet::exists(&dir) {
                return Err(Failure::new(
                    Exit::Conflict,
                    "already_logged_in",
                    format!("a wallet is in {} already", dir.display()),
                    "choose another --name, or move that wallet away",
                ));
            }
            let seen = Hands::of(&layout)?.registry.account(&account).await?;
            let key = SigningKey::generate(&mut rand::rng());
            let own = SigningKey::from_seed(&key.seed());
            let public = PublicKey(key.public());
            let mut wallet =
                Wallet::recovering(&dir, &name, &seen, account, layout.deployment, key)?;
            if passphrase {
                let fd = context.global.wallet_passphrase_fd;
                wallet.seal(&key_sources::wallet_passphrase(fd, true)?)?;
            }
            wallet.save()?;
            let change = AccountChange::RecoverBegin { public };
            let sent = carry(&mut wallet, change, &[&own], 2, &deployment, context).await?;
            let text =
                "the recovery waits seven days; finish it then with `quorate recover finish`";
            told(&sent, text, context)
        }
        What::Veto => {
            let mut wallet = context.wallet(&deployment)?;
            let own = SigningKey::from_seed(&wallet.key()?.seed());
            let change = AccountChange::Veto;
            let sent = carry(&mut wallet, change, &[&own], 0, &deployment, context).await?;
            told(&sent, "the recovery is ended", context)
        }
        What::Finish => {
            let mut wallet = context.wallet(&deployment)?;
            let own = SigningKey::from_seed(&wallet.key()?.seed());
            let change = AccountChange::RecoverFinish {
                public: PublicKey(own.public()),
                expires_ms: record_ends_ms(),
            };
            let sent = carry(&mut wallet, change, &[&own], 1, &deployment, context).await?;
            wallet.enrolled = true;
            wallet.save()?;
            told(&sent, "this device is the account's again", context)
        }
    }
}
