//! Checkpoints: the size and root of a log, as a signed note (C2SP tlog-checkpoint).

use super::note::{KeyName, Note, NoteError, SignatureKind, VerifierKey};
use crate::audit::merkle::{Hash, empty_root};
use crate::types::{CustodianId, DeploymentId};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use std::fmt;

/// Longest checkpoint without its signatures, in bytes.
pub const CHECKPOINT_BYTES_MAX: usize = 4 << 10;

/// What a custodian's log calls itself: its origin line and the name of its key.
///
/// Signed statements of the same key begin with a label `quorate/…`, so that no
/// checkpoint is one of them.
pub fn log_name(deployment: &DeploymentId, custodian: &CustodianId) -> KeyName {
    named("quorate.log", deployment, custodian)
}

/// What a custodian calls itself as a witness of other logs.
pub fn witness_name(deployment: &DeploymentId, custodian: &CustodianId) -> KeyName {
    named("quorate.witness", deployment, custodian)
}

fn named(what: &str, deployment: &DeploymentId, custodian: &CustodianId) -> KeyName {
    KeyName::new(&format!("{what}/{deployment}/{custodian}"))
        .expect("hex and a custodian's name have neither spaces nor plus signs")
}

/// The key that verifies a custodian's own checkpoints.
pub fn log_vkey(
    deployment: &DeploymentId,
    custodian: &CustodianId,
    public: [u8; 32],
) -> VerifierKey {
    let name = log_name(deployment, custodian);
    VerifierKey::new(name, SignatureKind::Ed25519, public)
}

/// The key that verifies a custodian's cosignatures of others' checkpoints.
pub fn witness_vkey(
    deployment: &DeploymentId,
    custodian: &CustodianId,
    public: [u8; 32],
) -> VerifierKey {
    let name = witness_name(deployment, custodian);
    VerifierKey::new(name, SignatureKind::CosignatureV1, public)
}

/// A log's size and root.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    /// Which log.
    pub origin: String,
    /// How many entries.
    pub size: u64,
    /// RFC 6962 root over them.
    pub root: Hash,
    /// Further lines. Ours have none; others' are signed and otherwise passed over.
    pub extensions: Vec<String>,
}

impl Checkpoint {
    /// One of ours.
    pub fn new(origin: &KeyName, size: u64, root: Hash) -> Self {
        Self {
            origin: origin.to_string(),
            size,
            root,
            extensions: Vec::new(),
        }
    }

    /// Reads the text of a note.
    ///
    /// # Errors
    /// [`NoteError::Form`] saying what is wrong.
    pub fn parse(text: &str) -> Result<Self, NoteError> {
        let form = NoteError::Form;
        if text.len() > CHECKPOINT_BYTES_MAX {
            return Err(form("a checkpoint over 4 KiB"));
        }
        let body = text
            .strip_suffix('\n')
            .ok_or(form("a checkpoint's last line does not end"))?;
        let mut lines = body.split('\n');
        let mut next = |what| match lines.next() {
            None | Some("") => Err(form(what)),
            Some(line) => Ok(line),
        };
        let origin = next("a checkpoint without an origin")?.to_owned();
        let size = decimal(next("a checkpoint without a size")?)
            .ok_or(form("a checkpoint's size is not a plain decimal number"))?;
        let root = hash_line(next("a checkpoint without a root")?)
            .ok_or(form("a checkpoint's root is not 32 bytes in base64"))?;
        let extensions: Vec<String> = lines.map(str::to_owned).collect();
        if extensions.iter().any(String::is_empty) {
            return Err(form("an empty line in a checkpoint"));
        }
        if size == 0 && root != empty_root() {
            return Err(form("a checkpoint of no entries has another root"));
        }
        Ok(Self {
            origin,
            size,
            root,
            extensions,
        })
    }

    /// As a note that nobody signed yet.
    ///
    /// # Errors
    /// [`NoteError::Form`] when the origin or an extension cannot stand in a note.
    pub fn to_note(&self) -> Result<Note, NoteError> {
        let text = self.to_string();
        let note = Note::unsigned(text)?;
        match Self::parse(note.text()) {
            Ok(again) if again == *self => Ok(note),
            Ok(_) => Err(NoteError::Form("a line break within a line")),
            Err(e) => Err(e),
        }
    }
}

impl fmt::Display for Checkpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let root = STANDARD.encode(self.root);
        writeln!(f, "{}\n{}\n{root}", self.origin, self.size)?;
        self.extensions.iter().try_for_each(|e| writeln!(f, "{e}"))
    }
}

/// A number in decimal without leading zeros.
pub(super) fn decimal(text: &str) -> Option<u64> {
    let plain = text == "0" || !text.starts_with('0');
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    (plain && digits).then(|| text.parse().ok()).flatten()
}

/// A hash in base64, as checkpoints and proofs have it.
pub(super) fn hash_line(text: &str) -> Option<Hash> {
    let bytes = STANDARD.decode(text).ok()?;
    Hash::try_from(bytes.as_slice()).ok()
}
