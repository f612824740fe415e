//! The command tree: one file per command, one variant per file.
//!
//! A new command is a file with an `Args` (clap derive) and
//! `async fn run(args, &Context) -> CommandResult`, one variant of [`Command`]
//! and one arm in [`Command::run`].

pub mod approve;
pub mod audit;
pub mod bench;
pub mod chat;
pub mod cluster;
pub mod completions;
pub mod custodian;
pub mod demo;
pub mod deploy;
pub mod dev;
pub mod device;
pub mod entity;
pub mod export;
pub mod freeze;
pub mod home;
pub mod identity;
pub mod import;
mod key_sources;
pub mod keys;
pub mod log;
pub mod login;
pub mod members;
pub mod message;
pub mod officer;
mod officer_papers;
pub mod order;
mod order_result;
pub mod policy;
pub mod recover;
pub mod services;
pub mod status;
pub mod trust;

use crate::client::Client;
use crate::deployment::Deployment;
use crate::exit::{CommandResult, EXIT_CODES_HELP, Failure};
use crate::output::Output;
use crate::people::Wallet;
use crate::people::person::GRANT_LIFE_S;
use crate::people::place::{self, Asked};
use clap::{Args, Parser, Subcommand};
use quorate_engine::api::Content;
use std::path::{Path, PathBuf};

/// Cloud chats in one place, their keys in several others.
#[derive(Debug, Parser)]
#[command(name = "quorate", version, after_help = EXIT_CODES_HELP, propagate_version = true, disable_help_subcommand = true)]
pub struct Cli {
    /// Options of every command.
    #[command(flatten)]
    pub global: Global,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Options of every command.
#[derive(Clone, Debug, Args)]
pub struct Global {
    /// Directory of the deployment (it holds client.toml) [default: where `quorate dev` keeps it]
    #[arg(
        long,
        global = true,
        env = "QUORATE_DEPLOYMENT",
        value_name = "DIR",
        hide_env_values = true
    )]
    pub deployment: Option<PathBuf>,
    /// Directory of the wallet to act with
    #[arg(
        long,
        global = true,
        env = "QUORATE_WALLET",
        value_name = "DIR",
        hide_env_values = true
    )]
    pub wallet: Option<PathBuf>,
    /// Who acts, where several are logged in to an embedded deployment
    #[arg(
        long = "as",
        global = true,
        value_name = "NAME",
        conflicts_with = "wallet"
    )]
    pub who: Option<String>,
    /// Read the wallet's passphrase from this file descriptor instead of the terminal
    #[arg(long, global = true, value_name = "FD")]
    pub wallet_passphrase_fd: Option<u32>,
    /// Seconds that a grant holds from when it is signed; long work signs more as it goes on
    #[arg(long, global = true, value_name = "SECONDS", default_value_t = GRANT_LIFE_S,
        value_parser = clap::value_parser!(u64).range(2..=GRANT_LIFE_S))]
    pub grant_life: u64,
    /// Directory with descriptors and policy.toml, to verify what custodians sign
    #[arg(long, global = true, value_name = "DIR")]
    pub trust: Option<PathBuf>,
    /// Print JSON, one value a line; errors too, on standard error
    #[arg(long, global = true)]
    pub json: bool,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Show the main job on an embedded deployment: exits 0 only if every claim held
    Demo(demo::Args),
    /// Run a whole deployment in the foreground; other commands in another terminal find it
    Dev(dev::Args),
    /// Make a wallet and an account, and have it enrolled
    Login(login::Args),
    /// List, add, renew and revoke your account's devices
    Device(device::Args),
    /// Get back into an account whose devices are lost
    Recover(recover::Args),
    /// Create, list and show chats, and manage their members
    Chat(chat::Args),
    /// Send, edit and read messages
    Message(message::Args),
    /// Bring chats in from elsewhere
    Import(import::Args),
    /// Take chats out again
    Export(export::Args),
    /// Show the deployment's clusters, margins and warnings
    Status(status::Args),
    /// Set up and operate a custodian
    Custodian(custodian::Args),
    /// Measure how long after a freeze something can still be read
    Freeze(freeze::Args),
    /// A custodian's officers, and what they decide together
    Officer(officer::Args),
    /// Decide on a proposal that `officer list` shows
    Approve(approve::Args),
    /// Disclosure orders: what a court asks for, and what officers say to it
    Order(order::Args),
    /// Read and check the logs that custodians publish
    Log(log::Args),
    /// Audit custodians, as somebody who believes none of them
    Audit(audit::Args),
    /// Set up a home
    Home(home::Args),
    /// Set up an identity authority
    Identity(identity::Args),
    /// Trust other entities
    Trust(trust::Args),
    /// Change a cluster's nodes and leaders
    Cluster(cluster::Args),
    /// Make whole deployments, for tests and trying out
    Deploy(deploy::Args),
    /// Explain and check policies
    Policy(policy::Args),
    /// Measure a deployment
    Bench(bench::Args),
    /// Print completions for a shell
    Completions(completions::Args),
}

impl Command {
    /// Runs it.
    ///
    /// # Errors
    /// [`Failure`], with the exit code it means.
    pub async fn run(self, context: &Context) -> CommandResult {
        match self {
            Self::Demo(args) => demo::run(args, context).await,
            Self::Dev(args) => dev::run(args, context).await,
            Self::Login(args) => login::run(args, context).await,
            Self::Device(args) => device::run(args, context).await,
            Self::Recover(args) => recover::run(args, context).await,
            Self::Chat(args) => chat::run(args, context).await,
            Self::Message(args) => message::run(args, context).await,
            Self::Import(args) => import::run(args, context).await,
            Self::Export(args) => export::run(args, context).await,
            Self::Status(args) => status::run(args, context).await,
            Self::Custodian(args) => custodian::run(args, context).await,
            Self::Freeze(args) => freeze::run(args, context).await,
            Self::Officer(args) => officer::run(args, context).await,
            Self::Approve(args) => approve::run(args, context).await,
            Self::Order(args) => order::run(args, context).await,
            Self::Log(args) => log::run(args, context).await,
            Self::Audit(args) => audit::run(&args, context),
            Self::Home(args) => home::run(args, context).await,
            Self::Identity(args) => identity::run(args, context).await,
            Self::Trust(args) => trust::run(&args, context),
            Self::Cluster(args) => cluster::run(args, context).await,
            Self::Deploy(args) => deploy::run(&args, context),
            Self::Policy(args) => policy::run(&args, context),
            Self::Bench(args) => bench::run(args, context).await,
            Self::Completions(args) => completions::run(&args),
        }
    }
}

/// What every command is given.
#[derive(Clone, Debug)]
pub struct Context {
    /// Options of every command.
    pub global: Global,
    /// Where results go.
    pub output: Output,
}

impl Context {
    /// From the options.
    pub fn new(global: Global) -> Self {
        let output = Output { json: global.json };
        Self { global, output }
    }

    /// The deployment that is meant.
    ///
    /// # Errors
    /// When there is none.
    pub fn deployment(&self) -> Result<Deployment, Failure> {
        let found = Deployment::find(self.global.deployment.as_deref())?;
        Ok(found.with_grant_life(self.global.grant_life))
    }

    /// What was said of the wallet.
    pub fn asked(&self) -> Asked {
        Asked {
            dir: self.global.wallet.clone(),
            name: self.global.who.clone(),
        }
    }

    /// The wallet that is meant, with its key opened.
    ///
    /// # Errors
    /// When there is none, or its passphrase is not given.
    pub fn wallet(&self, deployment: &Deployment) -> Result<Wallet, Failure> {
        let dir = place::find(&self.asked(), Some(deployment))?;
        self.open(Wallet::load(&dir)?)
    }

    /// Asks for the wallet's passphrase where it has one.
    ///
    /// # Errors
    /// When it is not the one.
    pub fn open(&self, mut wallet: Wallet) -> Result<Wallet, Failure> {
        if wallet.is_sealed() {
            let given = key_sources::wallet_passphrase(self.global.wallet_passphrase_fd, false)?;
            wallet.open(&given)?;
        }
        Ok(wallet)
    }

    /// A client of the home, which acts for whoever the wallet is.
    ///
    /// # Errors
    /// When there is no deployment or no wallet.
    pub fn client(&self) -> Result<Client, Failure> {
        let deployment = self.deployment()?;
        let wallet = self.wallet(&deployment)?;
        deployment.client(Some(deployment.person(&wallet)?))
    }
}

/// A fresh idempotency key, unless one was given.
pub fn idempotency_key(given: Option<String>) -> String {
    given.unwrap_or_else(|| hex::encode(rand::random::<[u8; 16]>()))
}

/// Content given on the command line: JSON itself, `@FILE`, or `-` for standard input.
///
/// # Errors
/// When it cannot be read or is no JSON object.
pub fn content(given: &str) -> Result<Content, Failure> {
    let text = match given.strip_prefix('@') {
        Some(path) => read(std::fs::File::open(path), Path::new(path))?,
        None if given == "-" => read(Ok(std::io::stdin()), Path::new("standard input"))?,
        None => given.as_bytes().to_vec(),
    };
    serde_json::from_slice(&text).map_err(|e| {
        Failure::usage(
            format!("the content is not a JSON object: {e}"),
            "give an object such as '{\"text\": \"hello\"}', @FILE, or - for standard input",
        )
    })
}

fn read<R: std::io::Read>(source: std::io::Result<R>, path: &Path) -> Result<Vec<u8>, Failure> {
    let limit = quorate_engine::api::CONTENT_BYTES_MAX as u64;
    let mut out = Vec::new();
    let got = source.and_then(|s| std::io::Read::take(s, limit + 1).read_to_end(&mut out));
    got.map_err(|e| Failure::file("read", path, &e))?;
    if out.len() as u64 > limit {
        return Err(Failure::usage(
            format!(
                "{} is over the limit of 1 MiB for one message",
                path.display()
            ),
            "split it over several messages",
        ));
    }
    Ok(out)
}

use std::io::Read as _;

/// Refuses what cannot be a chat's id before anything is sent.
///
/// # Errors
/// [`Failure`] with how an id looks.
pub fn check_chat(text: &str) -> Result<(), Failure> {
    match text.parse::<quorate_engine::types::ChatId>() {
        Ok(_) => Ok(()),
        Err(_) => Err(Failure::usage(
            format!(
                "{:?} is not a chat's id",
                text.chars().take(80).collect::<String>()
            ),
            "give the 64 hex characters that `quorate chat list` or an import shows",
        )),
    }
}
