//! Which logs are believed, and whose cosignatures suffice (C2SP tlog-policy).
//!
//! Names in the file are bytes, not text: they are compared, never shown
//! unescaped, and need not be UTF-8.

use super::checkpoint::{Checkpoint, decimal};
use super::note::{Note, NoteError, SignatureKind, VerifierKey};
use std::collections::BTreeMap;

/// Longest policy file, in bytes.
pub const POLICY_BYTES_MAX: usize = 256 << 10;
/// Most lines that are not comments. The standard asks for 32 logs, witnesses and groups each.
pub const POLICY_LINES_MAX: usize = 512;

/// What is wrong with a policy file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line} of the log policy: {what}")]
pub struct PolicyError {
    /// Counted from 1; 0 for the file as a whole.
    pub line: usize,
    /// What, and what to write instead.
    pub what: String,
}

/// Why a checkpoint is not believed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TrustError {
    /// Not a note, or a signature that does not hold.
    #[error(transparent)]
    Note(#[from] NoteError),
    /// No log of the policy signed it under its own name.
    #[error("no log of the policy signed this checkpoint of {origin:?}")]
    Log {
        /// Whose it says it is.
        origin: String,
    },
    /// Too few cosignatures.
    #[error("the cosignatures do not meet the policy's quorum: {have} of its witnesses cosigned")]
    Quorum {
        /// How many did.
        have: usize,
    },
    /// A cosignature of a time to come.
    #[error("witness {witness} cosigned {ahead_s} s ahead of this clock; set the clock right")]
    Future {
        /// Which.
        witness: String,
        /// By how much.
        ahead_s: u64,
    },
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Member {
    /// Index into the witnesses.
    Witness(usize),
    Group {
        threshold: usize,
        members: Vec<usize>,
    },
}

/// A log policy, complete and without contradictions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlogPolicy {
    logs: Vec<VerifierKey>,
    witnesses: Vec<VerifierKey>,
    urls: BTreeMap<VerifierKey, Vec<u8>>,
    members: Vec<Member>,
    /// Index into the members; none is needed when absent.
    quorum: Option<usize>,
}

/// A checkpoint that a policy believes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrustedHead {
    /// Size and root.
    pub checkpoint: Checkpoint,
    /// Which log of the policy.
    pub log: VerifierKey,
    /// Who cosigned, and when, in Unix seconds.
    pub cosigned: Vec<(VerifierKey, u64)>,
}

struct Reader {
    out: TlogPolicy,
    names: BTreeMap<Vec<u8>, usize>,
    /// Members that stand in a group.
    taken: Vec<bool>,
    quorum_seen: bool,
}

impl Reader {
    fn key(&self, text: &[u8], kind: SignatureKind) -> Result<VerifierKey, String> {
        let text = std::str::from_utf8(text).map_err(|_| "the key is not text".to_owned())?;
        let key: VerifierKey = text.parse().map_err(|e: NoteError| e.to_string())?;
        if key.kind() != kind {
            return Err(match kind {
                SignatureKind::Ed25519 => "a log's key is of type 1 (Ed25519)",
                SignatureKind::CosignatureV1 => "a witness's key is of type 4 (cosignature/v1)",
            }
            .into());
        }
        Ok(key)
    }

    fn define(&mut self, name: &[u8], member: Member) -> Result<(), String> {
        if name == b"none" {
            return Err("the name none is taken: it means no quorum".into());
        }
        let shown = name.escape_ascii().to_string();
        let number = self.out.members.len();
        if self.names.insert(name.to_owned(), number).is_some() {
            return Err(format!("{shown} is defined twice"));
        }
        self.out.members.push(member);
        self.taken.push(false);
        Ok(())
    }

    fn known(&self, name: &[u8]) -> Result<usize, String> {
        let shown = name.escape_ascii();
        let at = self.names.get(name);
        at.copied()
            .ok_or_else(|| format!("{shown} is not defined on a line before this one"))
    }

    fn url(&mut self, key: &VerifierKey, url: Option<&[u8]>) {
        if let Some(url) = url {
            self.out.urls.insert(key.clone(), url.to_owned());
        }
    }

    fn line(&mut self, words: &[&[u8]]) -> Result<(), String> {
        let (first, rest) = words.split_first().ok_or("an empty line")?;
        match (*first, rest) {
            (b"log", [key, url @ ..]) if url.len() <= 1 => {
                let key = self.key(key, SignatureKind::Ed25519)?;
                if self.out.logs.iter().any(|k| k.public() == key.public()) {
                    return Err("another log has the same key".into());
                }
                self.url(&key, url.first().copied());
                self.out.logs.push(key);
            }
            (b"witness", [name, key, url @ ..]) if url.len() <= 1 => {
                let key = self.key(key, SignatureKind::CosignatureV1)?;
                let known = &self.out.witnesses;
                if known.iter().any(|k| k.public() == key.public()) {
                    return Err("another witness has the same key".into());
                }
                self.define(name, Member::Witness(known.len()))?;
                self.url(&key, url.first().copied());
                self.out.witnesses.push(key);
            }
            (b"group", [name, threshold, members @ ..]) if !members.is_empty() => {
                let threshold = match *threshold {
                    b"any" => 1,
                    b"all" => members.len(),
                    digits => std::str::from_utf8(digits)
                        .ok()
                        .and_then(decimal)
                        .and_then(|n| usize::try_from(n).ok())
                        .filter(|n| (1..=members.len()).contains(n))
                        .ok_or("a threshold is all, any, or 1 to the number of members")?,
                };
                let mut numbers = Vec::new();
                for member in members {
                    let at = self.known(member)?;
                    let shown = member.escape_ascii();
                    if std::mem::replace(&mut self.taken[at], true) {
                        return Err(format!("{shown} is a group's member already"));
                    }
                    numbers.push(at);
                }
                let members = numbers;
                self.define(name, Member::Group { threshold, members })?;
            }
            (b"quorum", [name]) => {
                if std::mem::replace(&mut self.quorum_seen, true) {
                    return Err("a second quorum line".into());
                }
                if *name != b"none" {
                    self.out.quorum = Some(self.known(name)?);
                }
            }
            (b"log" | b"witness" | b"group" | b"quorum", _) => {
                return Err(
                    "write: log VKEY [URL], witness NAME VKEY [URL], group NAME all|any|K NAME..., or quorum NAME"
                        .into(),
                );
            }
            (word, _) => {
                let shown = word.escape_ascii();
                return Err(format!("{shown} is not log, witness, group or quorum"));
            }
        }
        Ok(())
    }
}

impl TlogPolicy {
    /// Reads a policy file.
    ///
    /// # Errors
    /// [`PolicyError`] naming the line.
    pub fn parse(bytes: &[u8]) -> Result<Self, PolicyError> {
        let whole = |what: &str| PolicyError {
            line: 0,
            what: what.into(),
        };
        if bytes.len() > POLICY_BYTES_MAX {
            return Err(whole("over 256 KiB"));
        }
        let allowed = |b: &u8| matches!(b, b'\t' | b'\n' | 0x20..=0x7e | 0x80..=0xff);
        if let Some(at) = bytes.iter().position(|b| !allowed(b)) {
            let line = 1 + bytes[..at].iter().filter(|b| **b == b'\n').count();
            let what = "a control character; only tab and newline may stand in it".into();
            return Err(PolicyError { line, what });
        }
        // A file that was cut off could end in a weaker rule.
        let body = bytes
            .strip_suffix(b"\n")
            .ok_or_else(|| whole("the last line does not end in a newline: cut off?"))?;
        let mut reader = Reader {
            out: Self {
                logs: Vec::new(),
                witnesses: Vec::new(),
                urls: BTreeMap::new(),
                members: Vec::new(),
                quorum: None,
            },
            names: BTreeMap::new(),
            taken: Vec::new(),
            quorum_seen: false,
        };
        let mut lines = 0;
        for (n, line) in body.split(|b| *b == b'\n').enumerate() {
            let words: Vec<&[u8]> = line
                .split(|b| matches!(b, b' ' | b'\t'))
                .filter(|w| !w.is_empty())
                .collect();
            if words.first().is_none_or(|w| w.starts_with(b"#")) {
                continue;
            }
            lines += 1;
            if lines > POLICY_LINES_MAX {
                return Err(whole("over 512 lines"));
            }
            reader
                .line(&words)
                .map_err(|what| PolicyError { line: n + 1, what })?;
        }
        if !reader.quorum_seen {
            return Err(whole("no quorum line; `quorum none` asks for nobody"));
        }
        Ok(reader.out)
    }

    /// The logs that are believed.
    pub fn logs(&self) -> &[VerifierKey] {
        &self.logs
    }
    /// The witnesses that may count.
    pub fn witnesses(&self) -> &[VerifierKey] {
        &self.witnesses
    }
    /// The address that stands beside a log or witness.
    pub fn url(&self, key: &VerifierKey) -> Option<&str> {
        let bytes = self.urls.get(key)?;
        std::str::from_utf8(bytes).ok()
    }

    /// Whether cosignatures of these witnesses (indices into [`TlogPolicy::witnesses`]) suffice.
    pub fn suffices(&self, cosigned: &[usize]) -> bool {
        let mut met = Vec::with_capacity(self.members.len());
        for member in &self.members {
            // Members stand before the groups that name them.
            met.push(match member {
                Member::Witness(at) => cosigned.contains(at),
                Member::Group { threshold, members } => {
                    members.iter().filter(|m| met[**m]).count() >= *threshold
                }
            });
        }
        self.quorum.is_none_or(|at| met[at])
    }

    /// Believes a checkpoint that one of the logs signed under its own name and that enough witnesses
    /// cosigned. `now_s` refuses cosignatures over `ahead_s_max` ahead of it.
    ///
    /// # Errors
    /// [`TrustError`].
    pub fn verify(&self, note: &Note, now: Option<(u64, u64)>) -> Result<TrustedHead, TrustError> {
        let checkpoint = Checkpoint::parse(note.text())?;
        let ours = |k: &&VerifierKey| k.name().as_str() == checkpoint.origin;
        let logs: Vec<VerifierKey> = self.logs.iter().filter(ours).cloned().collect();
        let log = note.verify(&logs)?.first().map(|s| logs[s.key].clone());
        let Some(log) = log else {
            let origin = checkpoint.origin;
            return Err(TrustError::Log { origin });
        };
        let cosigned = note.verify(&self.witnesses)?;
        let indices: Vec<usize> = cosigned.iter().map(|s| s.key).collect();
        let cosigned: Vec<(VerifierKey, u64)> = cosigned
            .iter()
            .map(|s| (self.witnesses[s.key].clone(), s.time_s.unwrap_or(0)))
            .collect();
        if let Some((now_s, ahead_s_max)) = now {
            let limit = now_s.saturating_add(ahead_s_max);
            if let Some((key, time_s)) = cosigned.iter().find(|(_, t)| *t > limit) {
                return Err(TrustError::Future {
                    witness: key.name().to_string(),
                    ahead_s: time_s - now_s,
                });
            }
        }
        if !self.suffices(&indices) {
            let have = indices.len();
            return Err(TrustError::Quorum { have });
        }
        Ok(TrustedHead {
            checkpoint,
            log,
            cosigned,
        })
    }
}
