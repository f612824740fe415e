//! What the harness asks of the machine: tools, namespaces, disks, processes.
//!
//! Everything a run makes lives in namespaces of its own (network, mount,
//! process), so the kernel takes it all back when the run ends, however it ends.

pub mod image;
pub mod inside;
pub mod process;

use anyhow::{Context, ensure};
use std::process::{Command, Output};

/// Runs a program; what it printed is part of the error.
///
/// # Errors
/// When it cannot be started or does not succeed.
pub fn run(program: &str, args: &[&str]) -> anyhow::Result<Output> {
    let out = Command::new(program)
        .args(args)
        .output()
        .with_context(|| format!("start {program}; is it installed?"))?;
    ensure!(
        out.status.success(),
        "{program} {}: {}\n{}{}",
        args.join(" "),
        out.status,
        String::from_utf8_lossy(&out.stdout),
        String::from_utf8_lossy(&out.stderr)
    );
    Ok(out)
}

/// A path as text, for arguments of programs.
///
/// # Errors
/// When it is not UTF-8.
pub fn text(path: &std::path::Path) -> anyhow::Result<&str> {
    path.to_str()
        .with_context(|| format!("{} is not UTF-8", path.display()))
}
