//! `quorate-node`: one node of a home or a custodian, for servers.

use clap::{Parser, Subcommand};
use quorate_node::config::Config;
use quorate_node::dump;
use quorate_node::server::{self, Node};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

const EXIT_FAILED: u8 = 1;
const EXIT_CONFIG: u8 = 2;

const AFTER_HELP: &str = "Exit codes:\n  \
    0   stopped in order\n  \
    1   failed\n  \
    2   wrong usage or configuration\n  \
    70  the disk failed: a durable write or an fsync did not succeed\n\n\
    SIGTERM and SIGINT stop it in order: requests end, leaders are handed over.\n\
    Log level: QUORATE_LOG (for example info, or quorate_node=debug).";

/// A node of a Quorate home or custodian
#[derive(Debug, Parser)]
#[command(name = "quorate-node", version, after_help = AFTER_HELP, args_conflicts_with_subcommands = true)]
struct Cli {
    /// The node's configuration
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Check the configuration and end
    #[arg(long, requires = "config")]
    check: bool,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Show the structure of a stopped node's data directory, never a value
    Dump {
        /// The data directory
        dir: PathBuf,
        /// Show every record of the log
        #[arg(long)]
        records: bool,
        /// Print JSON, one value a line
        #[arg(long)]
        json: bool,
    },
    /// Go on alone after a majority of the cluster is lost for good: what the others acknowledged
    /// without this node is lost. The node must be stopped
    Recover {
        /// The node's configuration
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
        /// Say that you mean it
        #[arg(long)]
        i_accept_losing_acknowledged_writes: bool,
    },
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    #[cfg(feature = "failpoints")]
    quorate_node::failpoints::set_up();
    let filter = tracing_subscriber::EnvFilter::try_from_env("QUORATE_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info,openraft=warn"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .init();
    if !quorate_node::leave_no_core() {
        tracing::warn!("the kernel may write core files of this process, with messages in them");
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(e) => return fail(EXIT_FAILED, &format!("cannot start: {e}")),
    };
    let code = runtime.block_on(run(cli));
    runtime.shutdown_background();
    code
}

fn fail(code: u8, what: &str) -> ExitCode {
    // Nothing is left to do when stderr itself is gone.
    let _ = writeln!(std::io::stderr(), "quorate-node: {what}");
    ExitCode::from(code)
}

async fn run(cli: Cli) -> ExitCode {
    match (cli.command, cli.config) {
        (Some(Command::Dump { dir, records, json }), _) => {
            let mut out = std::io::stdout().lock();
            match dump::write(&dir, records, json, &mut out) {
                Ok(()) => ExitCode::SUCCESS,
                Err(e) => fail(EXIT_FAILED, &e.to_string()),
            }
        }
        (
            Some(Command::Recover {
                config,
                i_accept_losing_acknowledged_writes: accepted,
            }),
            _,
        ) => recover_node(&config, accepted).await,
        (None, Some(config)) => serve(&config, cli.check).await,
        (None, None) => fail(
            EXIT_CONFIG,
            "no configuration is given; pass --config FILE, or see --help",
        ),
    }
}

async fn serve(path: &Path, check_only: bool) -> ExitCode {
    let config = match Config::load(path) {
        Ok(config) => config,
        Err(e) => return fail(EXIT_CONFIG, &e.to_string()),
    };
    if check_only {
        return ExitCode::SUCCESS;
    }
    let signals = (signal(true), signal(false));
    let (mut term, mut int) = match signals {
        (Ok(term), Ok(int)) => (term, int),
        (Err(e), _) | (_, Err(e)) => {
            return fail(EXIT_FAILED, &format!("cannot follow signals: {e}"));
        }
    };
    let node = match Node::start(config).await {
        Ok(node) => node,
        Err(e) => return fail(EXIT_FAILED, &e.to_string()),
    };
    tokio::select! {
        _ = term.recv() => {}
        _ = int.recv() => {}
    }
    tracing::info!("stopping");
    match node.shutdown().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => fail(EXIT_FAILED, &format!("not closed cleanly: {e}")),
    }
}

fn signal(term: bool) -> std::io::Result<tokio::signal::unix::Signal> {
    use tokio::signal::unix::SignalKind;
    tokio::signal::unix::signal(if term {
        SignalKind::terminate()
    } else {
        SignalKind::interrupt()
    })
}

async fn recover_node(path: &Path, accepted: bool) -> ExitCode {
    let config = match Config::load(path) {
        Ok(config) => config,
        Err(e) => return fail(EXIT_CONFIG, &e.to_string()),
    };
    if !accepted {
        return fail(
            EXIT_CONFIG,
            "this node would go on alone, and what the lost majority acknowledged without it is gone; \
             if that is meant, repeat with --i-accept-losing-acknowledged-writes",
        );
    }
    match server::recover_alone(&config).await {
        Ok(done) => {
            let text = format!(
                "node {} goes on alone; given up: {:?}. Start it, then add new nodes under new ids.",
                config.node, done.given_up
            );
            let _ = writeln!(std::io::stdout(), "{text}");
            ExitCode::SUCCESS
        }
        Err(e) => fail(EXIT_FAILED, &e.to_string()),
    }
}
