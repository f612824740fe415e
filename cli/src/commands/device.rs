//! `quorate device list|fetch|card|request|add|renew|revoke`, and how a statement about an account gets to the custodians.

use super::{Context, key_sources};
use crate::deployment::Deployment;
use crate::exit::{CommandResult, Exit, Failure};
use crate::output::{remark, time};
use crate::people::account::{self, Hands, Request, head_of, record_ends_ms};
use crate::people::{Card, Judged, Wallet, place};
use quorate_engine::api::StatementAcks;
use quorate_engine::authz::chain::ChainId;
use quorate_engine::authz::envelope::Envelope;
use quorate_engine::authz::identity::{AccountChange, AccountPayload, device_id};
use quorate_engine::crypto::sign::SigningKey;
use quorate_engine::types::{DeviceId, PublicKey, StatementHash};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

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
    /// Take in what other devices changed about the account
    Fetch,
    /// Let another device in: one that made its own key, or with --to one whose wallet is made here
    Add(Add),
    /// Write what another machine needs to know of the account before it can ask to be let in
    Card {
        /// Where to write it
        #[arg(long, short, value_name = "FILE")]
        out: PathBuf,
    },
    /// On a new device: make its key, and ask to be let into the account of a card
    Request(Ask),
    /// Begin this device's record anew; it ends within 30 days
    Renew,
    /// Take a device out for ever
    Revoke {
        /// The device
        device: DeviceId,
    },
}

#[derive(Debug, clap::Args)]
struct Add {
    /// A new directory for the other device's wallet; move it there, and keep no copy
    #[arg(long, value_name = "DIR", required_unless_present = "request")]
    to: Option<PathBuf>,
    /// The file that `quorate device request` wrote on the other device
    #[arg(long, value_name = "FILE", conflicts_with = "to", requires = "device")]
    request: Option<PathBuf>,
    /// The other device's id, as it showed it there
    #[arg(long, value_name = "HEX")]
    device: Option<DeviceId>,
}

#[derive(Debug, clap::Args)]
struct Ask {
    /// The file that `quorate device card` wrote on a device of the account
    #[arg(long, value_name = "FILE")]
    card: PathBuf,
    /// What you are called here
    #[arg(long)]
    name: String,
    /// Seal the device's key under a passphrase, typed or from --wallet-passphrase-fd
    #[arg(long)]
    passphrase: bool,
    /// Where to write the request [default: request.json in the wallet]
    #[arg(long, short, value_name = "FILE")]
    out: Option<PathBuf>,
}

/// Runs the command.
///
/// # Errors
/// [`Failure`]; a change is *done* only when enough custodians signed that they know it.
pub async fn run(args: Args, context: &Context) -> CommandResult {
    if let What::Request(args) = args.what {
        return request(&args, context);
    }
    let deployment = context.deployment()?;
    let mut wallet = context.wallet(&deployment)?;
    match args.what {
        What::Request(_) => unreachable!("it has no wallet yet"),
        What::List => list(&wallet, &deployment, context).await,
        What::Add(args) => match (args.request, args.device, args.to) {
            (Some(file), Some(device), _) => {
                let_in(&mut wallet, &file, device, &deployment, context).await
            }
            (_, _, Some(to)) => add(&mut wallet, to, &deployment, context).await,
            _ => Err(Failure::usage(
                "nothing says which device",
                "give --request FILE --device HEX, or --to DIR",
            )),
        },
        What::Fetch => {
            let (news, judged) = fetch(&mut wallet, &deployment, context).await?;
            let (number, account) = (wallet.head.0, wallet.account);
            let value = json!({"account": account, "number": number, "new": news, "custodians": judged.believed});
            context.output.show(&value, || {
                format!(
                    "account {account} is at statement {number}; {news} of them were new here\nverified: {} have signed that it ends there",
                    judged.believed.join(", ")
                )
            })?;
            Ok(Exit::Ok)
        }
        What::Card { out } => card(&wallet, &out, &deployment, context).await,
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

/// Takes in statements of the wallet's account that others made, through the home: how many, and
/// who vouches for the end. Nothing is believed that a blocking set did not sign.
async fn fetch(
    wallet: &mut Wallet,
    deployment: &Deployment,
    context: &Context,
) -> Result<(usize, Judged), Failure> {
    let known = deployment.known(context.global.trust.as_deref())?.ok_or_else(|| {
        Failure::new(
            Exit::Unavailable,
            "unverified",
            "the custodians' signatures could not be verified here",
            "run it again with --trust DIR, a directory with the custodians' descriptors and policy.toml",
        )
    })?;
    let client = deployment.client(Some(deployment.person(wallet)?))?;
    let mut found: Vec<Envelope> = Vec::new();
    let mut head = wallet.head;
    // Each answer ends further on, or is the last.
    loop {
        let told = client.account_chain(&wallet.account, head.0 + 1).await?;
        let more: Vec<Envelope> = told.statements.iter().map(Envelope::from).collect();
        let before = head;
        for statement in more {
            head = account::follows(wallet, head, &statement)?;
            found.push(statement);
        }
        let hash = told
            .hash
            .parse::<StatementHash>()
            .map_err(|e| account::not_linked(format!("{e}")))?;
        let end: (u64, StatementHash) = (told.number, hash);
        if end.0 > head.0 && head != before {
            continue;
        }
        if end != head {
            let what = format!(
                "the home shows statements up to {}, and an end at {}",
                head.0, end.0
            );
            return Err(account::not_linked(what));
        }
        let said = StatementAcks {
            acks: told.acks,
            refused: Vec::new(),
            unreachable: told.unreachable,
        };
        let judged = known.judge(ChainId::Account(wallet.account), head, &said);
        judged.must_be_done("the account's newest statement", false)?;
        for (statement, number) in found.iter().zip(wallet.head.0 + 1..) {
            wallet.keep(number, statement);
        }
        wallet.save()?;
        return Ok((found.len(), judged));
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
    if hands.is_none() && wallet.enrolled {
        // Another device may have changed the account since; if not, nothing is lost.
        if let Err(e) = fetch(wallet, deployment, context).await {
            remark(&format!(
                "newer statements of the account could not be looked for: {}",
                e.what
            ));
        }
    }
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
    ask_at(wallet, number, statement, &path)
}

/// Writes a request for an identity authority, and remembers what is to come back.
pub(super) fn ask_at(
    wallet: &mut Wallet,
    number: u64,
    statement: &Envelope,
    path: &Path,
) -> Result<Sent, Failure> {
    let request = Request::new(
        &wallet.name,
        wallet.deployment,
        Some(wallet.account),
        statement,
    );
    request.save(path)?;
    wallet.await_back(number, statement);
    wallet.save()?;
    Ok(Sent::Asked(path.to_owned()))
}

async fn card(
    wallet: &Wallet,
    out: &Path,
    deployment: &Deployment,
    context: &Context,
) -> CommandResult {
    let card = match deployment.layout()? {
        Some(layout) => {
            let seen = Hands::of(&layout)?
                .registry
                .account(&wallet.account)
                .await?;
            Card::of_registry(wallet.account, wallet.deployment, &seen)?
        }
        None => Card::of_wallet(wallet),
    };
    card.save(out)?;
    let value = json!({"account": card.account, "number": card.number, "card": out});
    context.output.show(&value, || {
        format!(
            "wrote {}: account {} at statement {}\nNothing in it is secret. On the new device: `quorate device request --card {} --name NAME`",
            out.display(),
            card.account,
            card.number,
            out.display()
        )
    })?;
    Ok(Exit::Ok)
}

/// On the new device.
fn request(args: &Ask, context: &Context) -> CommandResult {
    let card = Card::load(&args.card)?;
    let deployment = context.deployment().ok();
    let dir = place::of_name(&context.asked(), deployment.as_ref(), &args.name)?;
    if Wallet::exists(&dir) {
        return Err(Failure::new(
            Exit::Conflict,
            "already_logged_in",
            format!("a wallet is in {} already", dir.display()),
            "choose another --name, or name another directory with --wallet DIR",
        ));
    }
    let key = SigningKey::generate(&mut rand::rng());
    let own = SigningKey::from_seed(&key.seed());
    let mut wallet = Wallet::asking(&dir, &args.name, &card, key);
    if args.passphrase {
        let fd = context.global.wallet_passphrase_fd;
        wallet.seal(&key_sources::wallet_passphrase(fd, true)?)?;
    }
    wallet.save()?;
    let change = AccountChange::AddDevice {
        public: PublicKey(own.public()),
        expires_ms: record_ends_ms(),
    };
    let statement = account::statement(&wallet, card.head(), change, &[&own]);
    let path = args.out.clone().unwrap_or_else(|| dir.join("request.json"));
    ask_at(&mut wallet, card.number + 1, &statement, &path)?;
    let device = wallet.device()?;
    let value = json!({"account": card.account, "device": device, "wallet": dir, "request": path, "done": false});
    context.output.show(&value, || {
        format!(
            "wrote the request {}\naccount {}\ndevice  {device}\n\
             Within the hour, on a device of the account: `quorate device add --request FILE --device {device}`.\n\
             Then run `quorate login --complete FILE` here, with what comes back.",
            path.display(),
            card.account
        )
    })?;
    Ok(Exit::Ok)
}

/// Signs for a device that made its own key on another machine.
async fn let_in(
    wallet: &mut Wallet,
    file: &Path,
    device: DeviceId,
    deployment: &Deployment,
    context: &Context,
) -> CommandResult {
    let mut request = Request::load(file)?;
    let not = |what: String, next: &str| Err(Failure::new(Exit::Conflict, "device", what, next));
    let payload = request.payload()?;
    let (s, public) = match &payload {
        AccountPayload::Statement(s) => match &s.change {
            AccountChange::AddDevice { public, .. } => (s, *public),
            other => {
                let what = format!("the request asks for {}", other.name());
                return not(what, "ask for the file that `quorate device request` wrote");
            }
        },
        AccountPayload::Genesis(_) => {
            let what = "the request founds an account".to_owned();
            return not(
                what,
                "an identity authority signs it (`quorate identity enrol`)",
            );
        }
    };
    if (request.deployment, s.account) != (wallet.deployment, wallet.account) {
        let what = format!("the request is about account {}", s.account);
        return not(
            what,
            "make it from this account's own card (`quorate device card`)",
        );
    }
    if device_id(&public) != device {
        let what = format!("the request is about another device than {device}");
        return not(
            what,
            "do not sign it; look again at what the new device showed",
        );
    }
    let signed = request.statement().signatures;
    if signed.iter().all(|one| one.key != public.to_string()) {
        let what = "the new device did not sign its request".to_owned();
        return not(what, "make it anew with `quorate device request`");
    }
    let hands = deployment.layout()?.map(|l| Hands::of(&l)).transpose()?;
    let at = match &hands {
        Some(hands) => head_of(&hands.registry.account(&wallet.account).await?)?,
        None => wallet.head,
    };
    if (s.number, s.previous) != (at.0 + 1, at.1) {
        let what = format!(
            "the request follows statement {}, the account is at {}",
            s.number.saturating_sub(1),
            at.0
        );
        return not(
            what,
            "write a fresh card (`quorate device card`), and make the request anew from it",
        );
    }
    request.sign(wallet.key()?);
    let mut statement = request.statement();
    let Some(hands) = hands else {
        request.save(file)?;
        wallet.await_back(at.0 + 1, &statement);
        wallet.save()?;
        return told(&Sent::Asked(file.to_owned()), "", context);
    };
    hands.sign(&mut statement, &wallet.authorities, 1)?;
    let said = hands.registry.tell(Some(&wallet.account), &statement).await;
    request.answered(&statement, said.acks.clone());
    request.save(file)?;
    let new = (at.0 + 1, StatementHash(statement.hash()));
    let judged = hands
        .known
        .judge(ChainId::Account(wallet.account), new, &said);
    judged.must_be_done("add_device", true)?;
    wallet.keep(new.0, &statement);
    wallet.save()?;
    let text = format!(
        "device {device} is let in; bring {} back to it, for `quorate login --complete`",
        file.display()
    );
    told(&Sent::Done(judged), &text, context)
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
