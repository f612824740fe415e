//! Secrets on their way in: passphrases and share files, never from the command line.

use crate::exit::Failure;
use crate::private_file;
use quorate_engine::custody::keys::{
    HeldShare, PASSPHRASE_BYTES_MAX, PASSPHRASE_BYTES_MIN, Passphrase,
};
use std::io::Read;
use std::path::{Path, PathBuf};
use zeroize::Zeroizing;

/// What opens a slot: a share, the node's own provider, else a passphrase.
#[derive(Debug, clap::Args)]
pub struct Source {
    /// A holder's share file; the holders come one after the other
    #[arg(long, value_name = "FILE", group = "source")]
    pub(super) share: Option<PathBuf>,
    /// Read the passphrase from standard input instead of the terminal
    #[arg(long, group = "source")]
    pub(super) passphrase_stdin: bool,
    /// Read the passphrase from this file descriptor
    #[arg(long, value_name = "FD", group = "source")]
    pub(super) passphrase_fd: Option<u32>,
    /// Ask the provider in the node's configuration (key file, token)
    #[arg(long, group = "source")]
    pub(super) own: bool,
}

pub(super) fn wrong(e: impl std::fmt::Display) -> Failure {
    Failure::usage(e.to_string(), "see `quorate custodian keys show`")
}

/// Reads a passphrase, twice when it is a new one that is typed.
pub(super) fn passphrase(source: &Source, new: bool) -> Result<Passphrase, Failure> {
    let from = |path: &str| {
        let path = Path::new(path);
        let mut text = Zeroizing::new(Vec::with_capacity(PASSPHRASE_BYTES_MAX + 2));
        let file = std::fs::File::open(path).map_err(|e| Failure::file("read", path, &e))?;
        file.take(PASSPHRASE_BYTES_MAX as u64 + 2)
            .read_to_end(&mut text)
            .map_err(|e| Failure::file("read", path, &e))?;
        let len = text.trim_ascii_end().len();
        text.truncate(len);
        Ok::<_, Failure>(text)
    };
    let ask = |prompt: &str| {
        let typed = rpassword::prompt_password(prompt);
        let typed = typed.map_err(|e| {
            wrong(format!(
                "no passphrase could be read from the terminal ({e}); use --passphrase-stdin or --passphrase-fd"
            ))
        })?;
        Ok::<_, Failure>(Zeroizing::new(typed.into_bytes()))
    };
    let text = match (source.passphrase_stdin, source.passphrase_fd) {
        (true, _) => from("/dev/stdin")?,
        (false, Some(fd)) => from(&format!("/dev/fd/{fd}"))?,
        (false, None) => {
            let first = ask("Passphrase: ")?;
            if new && *ask("Once more: ")? != *first {
                return Err(wrong("the two passphrases differ"));
            }
            first
        }
    };
    let len = text.len();
    if (new && len < PASSPHRASE_BYTES_MIN) || len == 0 || len > PASSPHRASE_BYTES_MAX {
        return Err(Failure::usage(
            format!("the passphrase has {len} bytes"),
            format!(
                "choose {PASSPHRASE_BYTES_MIN} to {PASSPHRASE_BYTES_MAX} bytes; six random words are good"
            ),
        ));
    }
    Ok(Passphrase(text))
}

/// Reads a wallet's passphrase, twice when it is a new one that is typed.
pub(super) fn wallet_passphrase(fd: Option<u32>, new: bool) -> Result<Passphrase, Failure> {
    let source = Source {
        share: None,
        passphrase_stdin: false,
        passphrase_fd: fd,
        own: false,
    };
    passphrase(&source, new)
}

pub(super) fn read_share(path: &Path) -> Result<HeldShare, Failure> {
    let bytes = private_file::read(path, "read the share file")?;
    let text = std::str::from_utf8(&bytes).map_err(|_| wrong("the share file is not text"))?;
    HeldShare::parse(text).map_err(|e| wrong(format!("{}: {e}", path.display())))
}
