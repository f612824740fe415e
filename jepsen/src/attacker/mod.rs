//! A thief with disks, captures and core files. It looks for the texts of
//! canaries, takes every wrapped share that the stolen key files open, and
//! tries every combination of them, also such as the policy does not allow.
//!
//! ```text
//!  attack.json ─▶ files ─▶ canaries found
//!                   └────▶ vaults ─▶ wrapping keys ─▶ shares ─▶ combinations ─▶ data keys
//! ```
//!
//! What it is told (identifiers, policies, where key files lie) makes it
//! stronger than a real thief, never weaker. It is tested by what it *can*
//! open: a set of custodians that the policy allows must give the data key, or
//! its silence about other sets means nothing.
//!
//! Not tried: guessing passphrases, and shares sealed on their way under keys
//! that no stolen vault holds.

pub mod search;
mod shares;

use quorate_engine::crypto::subkeys::key_check;
use quorate_engine::sharing::combine;
use quorate_engine::types::{
    ChatId, CustodianId, DataKey, DeploymentId, KeyId, PolicyId, Secret, Share, Structure,
};
use search::Needles;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Largest file that is searched, in bytes.
pub const FILE_BYTES_MAX: u64 = 4 << 30;
/// Most custodians whose sets are all tried.
pub const CUSTODIANS_MAX: usize = 12;
/// Most dealings that are tried without being told of.
pub const DEALINGS_MAX: usize = 64;
/// Most combinations tried for one data key.
pub const COMBINATIONS_MAX: usize = 200_000;

/// `attack.json`. Paths are below the run's directory.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Attack {
    /// The deployment's id, in hex.
    pub deployment: DeploymentId,
    /// Texts that stand in messages and nowhere else, each at least 16 bytes.
    pub canaries: Vec<String>,
    /// Data keys that messages are sealed under, as far as the thief is told.
    #[serde(default)]
    pub targets: Vec<Target>,
    /// Trees of the deployment's policies, for shares of dealings that it is not told of.
    #[serde(default)]
    pub structures: Vec<Structure>,
    /// What is stolen.
    pub sites: Vec<Site>,
}

/// One dealing of one chat's key.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Target {
    /// The chat, in hex.
    pub chat: ChatId,
    /// The dealing, in hex.
    pub key_id: KeyId,
    /// The policy's id, in hex.
    pub policy: PolicyId,
    /// The policy's tree: `{"Gate": {"threshold": 2, "children": [{"Leaf": "ch"}, …]}}`.
    pub structure: Structure,
    /// The published `check` of the data key, in hex.
    pub check: String,
}

/// What one place holds.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Site {
    /// Its name, for the report.
    pub name: String,
    /// The custodian it belongs to; none for a home, an authority, a link.
    #[serde(default)]
    pub custodian: Option<CustodianId>,
    /// Images, captures, core files, logs.
    pub files: Vec<PathBuf>,
    /// Core files among them: also searched for data keys as they are.
    #[serde(default)]
    pub cores: Vec<PathBuf>,
    /// Vaults and the key files that open them.
    #[serde(default)]
    pub vaults: Vec<VaultFile>,
}

/// A node's `keys.vault`, taken out of its image.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VaultFile {
    /// The node's number in its cluster.
    pub node: u64,
    /// The vault.
    pub vault: PathBuf,
    /// The file with the unlock key in hex, if it was stolen, too.
    pub key_file: PathBuf,
}

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Loot {
    /// Bytes searched.
    pub bytes: u64,
    /// Canaries: site, file, byte, form, number of the canary.
    pub canaries: Vec<String>,
    /// Shares found, by custodian.
    pub shares: BTreeMap<String, usize>,
    /// Dealings that the thief was not told of and found shares of.
    pub dealings: usize,
    /// Data keys that came from sets the policy allows: number of the target (further ones: of a
    /// dealing that was found) and the set.
    pub allowed: Vec<(usize, Vec<String>)>,
    /// Data keys that came from anything else.
    pub breaches: Vec<String>,
    /// Combinations tried.
    pub combinations: usize,
}

impl Loot {
    /// Targets, and after them dealings that were found, that no allowed set opened: nothing is
    /// proven for them.
    pub fn without_control(&self, targets: usize) -> Vec<usize> {
        let opened: BTreeSet<usize> = self.allowed.iter().map(|(t, _)| *t).collect();
        let all = targets + self.dealings.min(DEALINGS_MAX);
        (0..all).filter(|t| !opened.contains(t)).collect()
    }
}

fn read(dir: &Path, path: &Path) -> Result<Vec<u8>, String> {
    let path = dir.join(path);
    let failed = |e: std::io::Error| format!("{}: {e}", path.display());
    let bytes = std::fs::metadata(&path).map_err(failed)?.len();
    if bytes > FILE_BYTES_MAX {
        return Err(format!(
            "{}: {bytes} bytes, at most {FILE_BYTES_MAX}",
            path.display()
        ));
    }
    std::fs::read(&path).map_err(failed)
}

/// Carries an attack out on the files below `dir`.
///
/// # Errors
/// When a file cannot be read or the attack is none: then nothing is proven.
pub fn attack(dir: &Path, attack: &Attack) -> Result<Loot, String> {
    let mut loot = Loot::default();
    let needles = Needles::new(&attack.canaries)?;
    let chats: Vec<[u8; 32]> = attack.targets.iter().map(|t| t.chat.0).collect();
    let places = Needles::raw(&chats)?;
    let checks = attack.targets.iter().map(|t| {
        let mut out = [0; 32];
        hex::decode_to_slice(&t.check, &mut out)
            .map(|()| out)
            .map_err(|e| format!("check {:?}: {e}", t.check))
    });
    let checks = checks.collect::<Result<Vec<[u8; 32]>, String>>()?;
    let mut found: Vec<BTreeMap<CustodianId, Vec<Share>>> = Vec::new();
    found.resize_with(attack.targets.len(), BTreeMap::new);
    let mut strays: BTreeMap<shares::Dealing, BTreeMap<CustodianId, Vec<Share>>> = BTreeMap::new();
    for site in &attack.sites {
        let keys = match &site.custodian {
            Some(custodian) => {
                let vaults = site.vaults.iter();
                let opened =
                    vaults.map(|v| shares::wrapping_keys(dir, attack.deployment, custodian, v));
                opened
                    .collect::<Result<Vec<_>, String>>()?
                    .into_iter()
                    .flatten()
                    .collect()
            }
            None => Vec::new(),
        };
        for file in &site.files {
            let bytes = read(dir, file)?;
            loot.bytes += bytes.len() as u64;
            for hit in needles.find(&bytes) {
                let (file, at) = (file.display(), hit.at);
                let what = format!(
                    "{}: {file}: byte {at}: canary {} in {}",
                    site.name, hit.text, hit.form
                );
                loot.canaries.push(what);
            }
            if let Some(custodian) = &site.custodian {
                for (key, share) in shares::discover(&bytes, attack.deployment, custodian, &keys) {
                    let of = strays
                        .entry(key)
                        .or_default()
                        .entry(custodian.clone())
                        .or_default();
                    if !of.iter().any(|s: &Share| s.expose() == share.expose()) {
                        of.push(share);
                    }
                }
                for hit in places.find(&bytes) {
                    let target = &attack.targets[hit.text];
                    let into = found[hit.text].entry(custodian.clone()).or_default();
                    shares::around(
                        &bytes,
                        hit.at,
                        attack.deployment,
                        custodian,
                        target,
                        &keys,
                        into,
                    );
                }
            }
        }
        for core in &site.cores {
            let bytes = read(dir, core)?;
            for (at, target) in plain_keys(&bytes, &checks) {
                let what = format!(
                    "{}: {}: byte {at}: the data key of target {target} lies open",
                    site.name,
                    core.display()
                );
                loot.breaches.push(what);
            }
        }
    }
    for (number, (target, shares)) in attack.targets.iter().zip(&found).enumerate() {
        let all = candidates(&target.structure, shares, &mut loot.combinations)?;
        let real = all.iter().filter(|c| c.check == checks[number]);
        opened(&format!("target {number}"), number, real, &mut loot);
    }
    let known = |key: &shares::Dealing| attack.targets.iter().any(|t| t.key_id == key.key_id);
    strays.retain(|key, _| !known(key));
    loot.dealings = strays.len();
    for (custodian, shares) in found.iter().chain(strays.values()).flatten() {
        *loot.shares.entry(custodian.to_string()).or_default() += shares.len();
    }
    untold(dir, attack, &strays, &mut loot)?;
    Ok(loot)
}

/// Data keys of dealings that nobody told the thief about. Whether a
/// combination is one shows in its `check`, which a home keeps in the clear:
/// it lies in one of the stolen files.
fn untold(
    dir: &Path,
    attack: &Attack,
    strays: &BTreeMap<shares::Dealing, BTreeMap<CustodianId, Vec<Share>>>,
    loot: &mut Loot,
) -> Result<(), String> {
    let mut all: Vec<(usize, Candidate)> = Vec::new();
    for (place, shares) in strays.values().take(DEALINGS_MAX).enumerate() {
        for structure in &attack.structures {
            let of = candidates(structure, shares, &mut loot.combinations)?;
            all.extend(of.into_iter().map(|c| (place, c)));
        }
    }
    if all.is_empty() {
        return Ok(());
    }
    let checks: Vec<[u8; 32]> = all.iter().map(|(_, c)| c.check).collect();
    let needles = Needles::raw(&checks)?;
    let mut real = BTreeSet::new();
    for file in attack.sites.iter().flat_map(|site| &site.files) {
        real.extend(
            needles
                .find(&read(dir, file)?)
                .into_iter()
                .map(|hit| checks[hit.text]),
        );
    }
    for (place, key) in strays.keys().take(DEALINGS_MAX).enumerate() {
        let of = all
            .iter()
            .filter(|(p, c)| *p == place && real.contains(&c.check));
        let what = format!("dealing {}", key.key_id);
        opened(
            &what,
            attack.targets.len() + place,
            of.map(|(_, c)| c),
            loot,
        );
    }
    Ok(())
}

/// Data keys as they are, at places where allocators put things.
fn plain_keys(bytes: &[u8], checks: &[[u8; 32]]) -> Vec<(usize, usize)> {
    let mut out = Vec::new();
    for at in (0..bytes.len().saturating_sub(31)).step_by(8) {
        let window = &bytes[at..at + 32];
        // Text, zeros and pointers have repeated bytes; random keys have few.
        let distinct: BTreeSet<&u8> = window.iter().collect();
        if distinct.len() < 20 {
            continue;
        }
        if let Some(secret) = Secret::from_slice(window) {
            let check = key_check(&DataKey(secret));
            let target = checks.iter().position(|c| *c == check);
            out.extend(target.map(|t| (at, t)));
        }
    }
    out
}

/// Whether these custodians together may have the key.
pub fn allows(structure: &Structure, have: &BTreeSet<&CustodianId>) -> bool {
    match structure {
        Structure::Leaf(id) => have.contains(id),
        Structure::Gate {
            threshold,
            children,
        } => {
            let open = children.iter().filter(|c| allows(c, have)).count();
            open >= usize::from(*threshold)
        }
    }
}

/// The tree as if at each gate what is there were enough. `None` where nothing is.
fn lowered(structure: &Structure, have: &BTreeSet<&CustodianId>) -> Option<Structure> {
    match structure {
        Structure::Leaf(id) => have.contains(id).then(|| structure.clone()),
        Structure::Gate {
            threshold,
            children,
        } => {
            let there: Vec<Option<Structure>> = children.iter().map(|c| lowered(c, have)).collect();
            let count = there.iter().flatten().count();
            if count == 0 {
                return None;
            }
            // Children stay where they are: their place is their x.
            let children = there.into_iter().zip(children);
            Some(Structure::Gate {
                threshold: (*threshold).min(count.try_into().unwrap_or(u8::MAX)),
                children: children
                    .map(|(l, c)| l.unwrap_or_else(|| c.clone()))
                    .collect(),
            })
        }
    }
}

/// What one set of custodians came to.
struct Candidate {
    names: Vec<String>,
    allowed: bool,
    /// The `check` that the key would have if it is one.
    check: [u8; 32],
}

/// All sets of custodians, for each all choices among the shares found there,
/// and for each the tree as it is and as if what is there were enough.
fn candidates(
    structure: &Structure,
    shares: &BTreeMap<CustodianId, Vec<Share>>,
    tried: &mut usize,
) -> Result<Vec<Candidate>, String> {
    let there: Vec<(&CustodianId, &Vec<Share>)> =
        shares.iter().filter(|(_, s)| !s.is_empty()).collect();
    if there.len() > CUSTODIANS_MAX {
        return Err(format!(
            "{} custodians, at most {CUSTODIANS_MAX}",
            there.len()
        ));
    }
    let (mut out, before) = (Vec::new(), *tried);
    for set in 1_u32..1 << there.len() {
        let chosen = there.iter().enumerate().filter(|(i, _)| set >> i & 1 == 1);
        let chosen: Vec<_> = chosen.map(|(_, c)| *c).collect();
        let have: BTreeSet<&CustodianId> = chosen.iter().map(|(id, _)| *id).collect();
        let Some(lowered) = lowered(structure, &have) else {
            continue;
        };
        let allowed = allows(structure, &have);
        let choices: usize = chosen.iter().map(|(_, s)| s.len()).product();
        for choice in 0..choices {
            *tried += 1;
            if *tried - before > COMBINATIONS_MAX {
                return Err(format!(
                    "more than {COMBINATIONS_MAX} combinations for one data key"
                ));
            }
            let mut rest = choice;
            let mut given: Vec<(CustodianId, &Share)> = Vec::new();
            for (id, all) in &chosen {
                given.push(((*id).clone(), &all[rest % all.len()]));
                rest /= all.len();
            }
            for tree in [structure, &lowered] {
                if let Ok(key) = combine(tree, &given) {
                    out.push(Candidate {
                        names: have.iter().map(|id| id.to_string()).collect(),
                        allowed,
                        check: key_check(&key),
                    });
                }
            }
        }
    }
    Ok(out)
}

/// Notes sets whose key is real, each once.
fn opened<'a>(
    what: &str,
    number: usize,
    real: impl Iterator<Item = &'a Candidate>,
    loot: &mut Loot,
) {
    let mut told = BTreeSet::new();
    for candidate in real.filter(|c| told.insert(c.names.clone())) {
        if candidate.allowed {
            loot.allowed.push((number, candidate.names.clone()));
        } else {
            let names = candidate.names.join(", ");
            loot.breaches
                .push(format!("{what}: {names} gave the data key"));
        }
    }
}

#[cfg(test)]
pub(crate) mod fixture;
#[cfg(test)]
mod tests;
