//! The event log of one run: hashed for reproduction, judged fact by fact.

use super::facts::Fact;
use super::invariants::{self, Invariant};
use std::collections::{BTreeMap, VecDeque};

/// Facts kept for the report of a failure.
const TAIL: usize = 60;

/// Judges facts and remembers the last ones.
pub struct Recorder {
    judges: Vec<Box<dyn Invariant>>,
    hasher: blake3::Hasher,
    tail: VecDeque<String>,
    secrets: BTreeMap<[u8; 8], ([u8; 32], String)>,
    /// Which first two bytes secrets have: nearly all places are passed by on them.
    begin: Vec<bool>,
    /// The first refusal: invariant and reason.
    pub broken: Option<(&'static str, String)>,
    /// How often each kind of fact was seen.
    pub counts: BTreeMap<String, u64>,
}

impl Default for Recorder {
    fn default() -> Self {
        Self {
            judges: invariants::all(),
            hasher: blake3::Hasher::new(),
            tail: VecDeque::new(),
            secrets: BTreeMap::new(),
            begin: vec![false; 1 << 16],
            broken: None,
            counts: BTreeMap::new(),
        }
    }
}

impl Recorder {
    /// Something happened.
    pub fn fact(&mut self, fact: Fact) {
        if self.broken.is_some() {
            return;
        }
        let line = format!("{fact:?}");
        self.hasher.update(line.as_bytes()).update(b"\n");
        let kind = line.split([' ', '{']).next().unwrap_or_default();
        *self.counts.entry(kind.to_owned()).or_default() += 1;
        self.tail.push_back(line);
        if self.tail.len() > TAIL {
            self.tail.pop_front();
        }
        for judge in &mut self.judges {
            if let Err(why) = judge.see(&fact) {
                self.broken = Some((judge.name(), why));
                return;
            }
        }
    }
    /// The scheduler did something.
    pub fn did(&mut self, what: impl Into<String>) {
        self.fact(Fact::Did {
            what: what.into(),
            policy: None,
        });
    }
    /// These bytes may never be found in the clear.
    pub fn keep_secret(&mut self, bytes: &[u8; 32], what: String) {
        let mut first = [0; 8];
        first.copy_from_slice(&bytes[..8]);
        self.begin[usize::from(u16::from_be_bytes([first[0], first[1]]))] = true;
        self.secrets.insert(first, (*bytes, what));
    }
    /// Some secret, for a planted bug.
    pub fn any_secret(&self) -> Option<[u8; 32]> {
        self.secrets.values().next().map(|(bytes, _)| *bytes)
    }
    /// A secret that stands in `bytes`.
    pub fn secret_in(&self, bytes: &[u8]) -> Option<String> {
        bytes.windows(32).find_map(|w| {
            if !self.begin[usize::from(u16::from_be_bytes([w[0], w[1]]))] {
                return None;
            }
            let (whole, what) = self.secrets.get(&w[..8])?;
            (whole == w).then(|| what.clone())
        })
    }
    /// Hash of all facts so far.
    pub fn hash(&self) -> String {
        self.hasher.finalize().to_hex().to_string()
    }
    /// The last facts.
    pub fn tail(&self) -> Vec<String> {
        self.tail.iter().cloned().collect()
    }
}
