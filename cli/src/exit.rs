//! Exit codes and the one error type a person sees.
//!
//! Scripts live on exit codes, so they are a table that never changes meaning
//! (`docs/cli.md`). A [`Failure`] always says what happened, to what, and what
//! to do next; nothing prints a backtrace.

use serde_json::{Value, json};
use std::fmt;

/// How the program ends. The numbers are part of the interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// Done.
    Ok = 0,
    /// Failed for a reason of its own; nothing more can be said by number.
    Failed = 1,
    /// The command line, a file given on it, or the configuration is wrong.
    Usage = 2,
    /// Nobody could be reached, or the outcome is unknown. Repeating is safe.
    Unavailable = 3,
    /// Too few custodians answered to open a key.
    NoQuorum = 4,
    /// Not found, or in conflict with what is there.
    Conflict = 5,
    /// Done, except for parts of the input that could not be read; they are named.
    Partial = 6,
    /// Who asks may not: the grant, the device or the membership does not reach so far.
    Denied = 7,
}

/// The table for `--help`.
pub const EXIT_CODES_HELP: &str = "Exit codes:\n  \
    0  done\n  \
    1  failed\n  \
    2  wrong usage, file or configuration\n  \
    3  unavailable, or outcome unknown (repeating the command is safe)\n  \
    4  no quorum of custodians\n  \
    5  not found, or in conflict with what is there\n  \
    6  done, but parts of the input could not be read (they are named)\n  \
    7  who asks may not: grant, device or membership was refused";

/// Why a command did not do its job.
#[derive(Clone, Debug)]
pub struct Failure {
    /// Exit code.
    pub exit: Exit,
    /// Stable code for programs.
    pub code: String,
    /// What happened, to what.
    pub what: String,
    /// What to do next.
    pub next: String,
}

impl Failure {
    /// A failure with its exit code, stable code, what happened and what to do next.
    pub fn new(exit: Exit, code: &str, what: impl Into<String>, next: impl Into<String>) -> Self {
        Self {
            exit,
            code: code.to_owned(),
            what: what.into(),
            next: next.into(),
        }
    }
    /// Wrong command line, file or configuration.
    pub fn usage(what: impl Into<String>, next: impl Into<String>) -> Self {
        Self::new(Exit::Usage, "usage", what, next)
    }
    /// A local file could not be used.
    pub fn file(doing: &str, path: &std::path::Path, error: &std::io::Error) -> Self {
        let next = match error.kind() {
            std::io::ErrorKind::NotFound => "check the path",
            std::io::ErrorKind::PermissionDenied => "check who may use this file",
            std::io::ErrorKind::StorageFull => "make room on that disk and run the command again",
            _ => "check the file and the disk it is on",
        };
        let what = format!("cannot {doing} {}: {error}", path.display());
        Self::new(Exit::Failed, "file", what, next)
    }
    /// As a JSON object, for `--json`.
    pub fn to_json(&self) -> Value {
        json!({"error": {
            "code": self.code,
            "exit": self.exit as u8,
            "detail": self.what,
            "next_step": self.next,
        }})
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "error: {}", self.what)?;
        if !self.next.is_empty() {
            write!(f, "\n  next: {}", self.next)?;
        }
        Ok(())
    }
}

impl std::error::Error for Failure {}

/// What a command returns.
pub type CommandResult = Result<Exit, Failure>;
