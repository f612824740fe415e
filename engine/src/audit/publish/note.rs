//! Signed notes: a text, an empty line, and signatures by named keys (C2SP signed-note v1).

use crate::crypto::sign::{self, SigningKey};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest, Sha256};
use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

/// Longest note, in bytes. The standard asks for 16 signatures at least; these leave room for large ones.
pub const NOTE_BYTES_MAX: usize = 256 << 10;
/// Most signatures on one note.
pub const NOTE_SIGNATURES_MAX: usize = 64;
/// Longest key name, in bytes.
pub const KEY_NAME_BYTES_MAX: usize = 255;

const SIGNATURE_LINE: &str = "\u{2014} ";
const COSIGNATURE_HEADER: &str = "cosignature/v1\n";

/// Why bytes are not a note, or a note is not to be believed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoteError {
    /// Not of the form of a note.
    #[error("not a signed note: {0}")]
    Form(&'static str),
    /// Not of the form of a key name.
    #[error("not a key name: {0}")]
    Name(&'static str),
    /// Not of the form of a verifier key.
    #[error("not a verifier key: {0}")]
    Key(&'static str),
    /// A key that is known by name and id did not make the signature that bears them.
    #[error("the signature of {0} does not hold: the note was changed, or is a forgery")]
    Signature(KeyName),
}

/// What a note's key is called: any text without spaces and without `+`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct KeyName(String);

impl KeyName {
    /// Checks a name.
    ///
    /// # Errors
    /// [`NoteError::Name`].
    pub fn new(text: &str) -> Result<Self, NoteError> {
        let why = if text.is_empty() {
            "empty"
        } else if text.len() > KEY_NAME_BYTES_MAX {
            "over 255 bytes"
        } else if text.contains(|c: char| c == '+' || c.is_whitespace() || c < ' ') {
            "a space, a control character or a plus sign in it"
        } else {
            return Ok(Self(text.to_owned()));
        };
        Err(NoteError::Name(why))
    }
    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for KeyName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
impl fmt::Debug for KeyName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The algorithms understood here. Others are unknown keys, whose signatures are passed over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum SignatureKind {
    /// 0x01: Ed25519 over the text. Logs sign so.
    Ed25519,
    /// 0x04: Ed25519 over a time and the text (`cosignature/v1`). Witnesses sign so.
    CosignatureV1,
}

impl SignatureKind {
    fn byte(self) -> u8 {
        match self {
            Self::Ed25519 => 0x01,
            Self::CosignatureV1 => 0x04,
        }
    }
}

/// A key that notes are verified with. Its text is `NAME+ID+KEY`, a *vkey*.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct VerifierKey {
    name: KeyName,
    kind: SignatureKind,
    public: [u8; 32],
}

impl VerifierKey {
    /// Of its parts.
    pub fn new(name: KeyName, kind: SignatureKind, public: [u8; 32]) -> Self {
        Self { name, kind, public }
    }
    /// Its name.
    pub fn name(&self) -> &KeyName {
        &self.name
    }
    /// Its algorithm.
    pub fn kind(&self) -> SignatureKind {
        self.kind
    }
    /// The public key.
    pub fn public(&self) -> &[u8; 32] {
        &self.public
    }
    /// What signature lines name it by besides its name. Short, hence no proof of anything.
    pub fn id(&self) -> [u8; 4] {
        let hash = Sha256::new()
            .chain_update(self.name.0.as_bytes())
            .chain_update([b'\n', self.kind.byte()])
            .chain_update(self.public)
            .finalize();
        [hash[0], hash[1], hash[2], hash[3]]
    }

    /// Checks one signature over `text`; a cosignature's time, in seconds, comes with it.
    fn check(&self, text: &str, signature: &[u8]) -> Result<Option<u64>, NoteError> {
        let bad = || NoteError::Signature(self.name.clone());
        match self.kind {
            SignatureKind::Ed25519 => {
                sign::verify(&self.public, text.as_bytes(), signature).map_err(|_| bad())?;
                Ok(None)
            }
            SignatureKind::CosignatureV1 => {
                let (time, signature) = signature.split_first_chunk::<8>().ok_or_else(bad)?;
                let time = u64::from_be_bytes(*time);
                if i64::try_from(time).is_err() {
                    return Err(bad());
                }
                sign::verify(&self.public, &cosigned(text, time), signature).map_err(|_| bad())?;
                Ok(Some(time))
            }
        }
    }
}

impl fmt::Display for VerifierKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut key = vec![self.kind.byte()];
        key.extend(self.public);
        let id = hex::encode(self.id());
        write!(f, "{}+{id}+{}", self.name, STANDARD.encode(key))
    }
}

impl FromStr for VerifierKey {
    type Err = NoteError;
    fn from_str(text: &str) -> Result<Self, NoteError> {
        let parts = "it has no three parts joined by plus signs";
        // The last part may hold plus signs of its own.
        let (name, rest) = text.split_once('+').ok_or(NoteError::Key(parts))?;
        let (id, key) = rest.split_once('+').ok_or(NoteError::Key(parts))?;
        let name = KeyName::new(name)?;
        let key = STANDARD
            .decode(key)
            .map_err(|_| NoteError::Key("the key is not base64"))?;
        let kind = match key.first() {
            Some(0x01) => SignatureKind::Ed25519,
            Some(0x04) => SignatureKind::CosignatureV1,
            _ => {
                return Err(NoteError::Key(
                    "its algorithm is neither Ed25519 (1) nor cosignature/v1 (4)",
                ));
            }
        };
        let public = <[u8; 32]>::try_from(&key[1..])
            .map_err(|_| NoteError::Key("the key has not 32 bytes"))?;
        let out = Self { name, kind, public };
        if hex::encode(out.id()) != id {
            return Err(NoteError::Key("the id is not this key's: mistyped"));
        }
        Ok(out)
    }
}

fn cosigned(text: &str, time_s: u64) -> Vec<u8> {
    format!("{COSIGNATURE_HEADER}time {time_s}\n{text}").into_bytes()
}

/// One signature, not yet verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignatureLine {
    name: KeyName,
    /// Key id, then what the algorithm makes; 5 bytes at least.
    blob: Vec<u8>,
}

impl SignatureLine {
    /// Who claims to have signed.
    pub fn name(&self) -> &KeyName {
        &self.name
    }
    fn is_of(&self, key: &VerifierKey) -> bool {
        self.name == key.name && self.blob[..4] == key.id()
    }
}

impl fmt::Display for SignatureLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let blob = STANDARD.encode(&self.blob);
        writeln!(f, "{SIGNATURE_LINE}{} {blob}", self.name)
    }
}

/// A signature that holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signed {
    /// Which of the keys asked about.
    pub key: usize,
    /// When, as the signer says, in Unix seconds; cosignatures only.
    pub time_s: Option<u64>,
}

/// A text with signatures. Nothing in it is believed before [`Note::verify`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    text: String,
    signatures: Vec<SignatureLine>,
}

impl Note {
    /// A text that nobody signed yet. It ends in a newline.
    ///
    /// # Errors
    /// [`NoteError::Form`].
    pub fn unsigned(text: String) -> Result<Self, NoteError> {
        plain(&text)?;
        if !text.ends_with('\n') {
            return Err(NoteError::Form("the text does not end in a newline"));
        }
        let signatures = Vec::new();
        Ok(Self { text, signatures })
    }

    /// Reads a note.
    ///
    /// # Errors
    /// [`NoteError::Form`], also for one over a limit.
    pub fn parse(bytes: &[u8]) -> Result<Self, NoteError> {
        if bytes.len() > NOTE_BYTES_MAX {
            return Err(NoteError::Form("over 256 KiB"));
        }
        let all = std::str::from_utf8(bytes).map_err(|_| NoteError::Form("not UTF-8"))?;
        plain(all)?;
        let at = all
            .rfind("\n\n")
            .ok_or(NoteError::Form("no empty line before the signatures"))?;
        let (text, lines) = (&all[..=at], &all[at + 2..]);
        let signatures = signature_lines(lines)?;
        if signatures.is_empty() {
            return Err(NoteError::Form("no signature"));
        }
        let text = text.to_owned();
        Ok(Self { text, signatures })
    }

    /// What is signed, with its last newline.
    pub fn text(&self) -> &str {
        &self.text
    }
    /// The signatures, verified or not.
    pub fn signatures(&self) -> &[SignatureLine] {
        &self.signatures
    }

    /// Adds a signature line, unless that very line is there.
    ///
    /// # Errors
    /// [`NoteError::Form`] above [`NOTE_SIGNATURES_MAX`].
    pub fn add(&mut self, line: SignatureLine) -> Result<(), NoteError> {
        if self.signatures.contains(&line) {
            return Ok(());
        }
        if self.signatures.len() >= NOTE_SIGNATURES_MAX {
            return Err(NoteError::Form("over 64 signatures"));
        }
        self.signatures.push(line);
        Ok(())
    }

    /// An Ed25519 signature over this text, as logs make it.
    pub fn sign(&self, name: &KeyName, key: &SigningKey) -> SignatureLine {
        let signature = key.sign(self.text.as_bytes());
        let of = VerifierKey::new(name.clone(), SignatureKind::Ed25519, key.public());
        line(&of, &[], &signature)
    }

    /// A cosignature over this text at `time_s`, as witnesses make it. The key signs nothing but cosignatures.
    pub fn cosign(&self, name: &KeyName, key: &SigningKey, time_s: u64) -> SignatureLine {
        let signature = key.sign(&cosigned(&self.text, time_s));
        let of = VerifierKey::new(name.clone(), SignatureKind::CosignatureV1, key.public());
        line(&of, &time_s.to_be_bytes(), &signature)
    }

    /// Which of `keys` signed, each once and with its latest time. Lines of other keys are passed over.
    ///
    /// # Errors
    /// [`NoteError::Signature`] when one of these keys is named by a line that it did not sign.
    pub fn verify(&self, keys: &[VerifierKey]) -> Result<Vec<Signed>, NoteError> {
        let mut out: Vec<Signed> = Vec::new();
        for line in &self.signatures {
            for (at, key) in keys.iter().enumerate() {
                if !line.is_of(key) {
                    continue;
                }
                let time_s = key.check(&self.text, &line.blob[4..])?;
                match out.iter_mut().find(|s| s.key == at) {
                    Some(known) => known.time_s = known.time_s.max(time_s),
                    None => out.push(Signed { key: at, time_s }),
                }
            }
        }
        Ok(out)
    }
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.text)?;
        self.signatures.iter().try_for_each(|s| write!(f, "{s}"))
    }
}

fn line(key: &VerifierKey, before: &[u8], signature: &[u8]) -> SignatureLine {
    let mut blob = key.id().to_vec();
    blob.extend(before);
    blob.extend(signature);
    let name = key.name.clone();
    SignatureLine { name, blob }
}

fn plain(text: &str) -> Result<(), NoteError> {
    if text.bytes().any(|b| b < b' ' && b != b'\n') {
        return Err(NoteError::Form("a control character in it"));
    }
    Ok(())
}

/// Signature lines and nothing else, as a witness answers.
///
/// # Errors
/// [`NoteError`].
pub fn signature_lines(text: &str) -> Result<Vec<SignatureLine>, NoteError> {
    let mut out = Vec::new();
    let mut seen = BTreeSet::new();
    let mut rest = text;
    while !rest.is_empty() {
        let (line, after) = rest
            .split_once('\n')
            .ok_or(NoteError::Form("its last line does not end"))?;
        rest = after;
        let wrong = NoteError::Form("a signature line is not a dash, a name and base64");
        let line = line.strip_prefix(SIGNATURE_LINE).ok_or(wrong.clone())?;
        let (name, blob) = line.split_once(' ').ok_or(wrong.clone())?;
        let blob = STANDARD.decode(blob).map_err(|_| wrong)?;
        if blob.len() < 5 {
            return Err(NoteError::Form("a signature of under 5 bytes"));
        }
        if out.len() >= NOTE_SIGNATURES_MAX {
            return Err(NoteError::Form("over 64 signatures"));
        }
        let name = KeyName::new(name)?;
        if seen.insert((name.clone(), blob.clone())) {
            out.push(SignatureLine { name, blob });
        }
    }
    Ok(out)
}
