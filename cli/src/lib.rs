//! `quorate`: the command line of a deployment.
//!
//! ```text
//!  args ─▶ commands::Cli ─▶ commands/<one file per command>
//!             │                    │
//!          Context             client ─HTTPS/JSON─▶ home nodes
//!     (deployment, output)     people: wallets, grants, who is believed
//!                              audit: published logs, read and checked
//!                              telegram: files in, files out
//! ```
//!
//! What is deliberately not here: any decision about keys, shares or policies
//! (that is `quorate-engine`), and any server (that is `quorate-node`). A
//! command returns an [`exit::Exit`] or an [`exit::Failure`]; only [`main`]
//! prints failures and ends the process.

pub mod audit;
pub mod bench;
pub mod client;
pub mod commands;
pub mod demo;
pub mod deployment;
pub mod drill;
pub mod exit;
pub mod output;
pub mod people;
pub mod private_file;
pub mod progress;
pub mod sample;
pub mod telegram;

use clap::Parser;
use commands::{Cli, Context};
use std::io::Write;
use std::process::ExitCode;

/// Runs the program on its own command line.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let filter = tracing_subscriber::EnvFilter::try_from_env("QUORATE_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("error,openraft=off"));
    // A second subscriber (in tests) is no reason to stop.
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .try_init();
    let json = cli.global.json;
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(e) => {
            let _ = writeln!(std::io::stderr(), "error: cannot start: {e}");
            return ExitCode::from(exit::Exit::Failed as u8);
        }
    };
    let result = runtime.block_on(cli.command.run(&Context::new(cli.global)));
    runtime.shutdown_background();
    match result {
        Ok(exit) => ExitCode::from(exit as u8),
        Err(failure) => {
            let mut stderr = std::io::stderr().lock();
            // Nothing is left to do when stderr itself is gone.
            let _ = match json {
                true => writeln!(stderr, "{}", failure.to_json()),
                false => writeln!(stderr, "{failure}"),
            };
            ExitCode::from(failure.exit as u8)
        }
    }
}
