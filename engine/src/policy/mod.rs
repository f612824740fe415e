//! Policies: which sets of custodians may open, and what that implies.
//!
//! ```text
//! TOML + descriptors' facts ──load──▶ PolicyFile { NamedPolicy { Policy, Margins, names } }
//!                                                     │ canonical bytes ─▶ PolicyId
//!                                                     ├ structure ─▶ sharing::split
//!                                                     └ analyse ─▶ Report (explain, lint)
//! ```
//!
//! A [`Policy`] exists only if it is valid: thresholds that can be met, at least
//! two custodians needed, each custodian once, and few enough minimal sets to be
//! enumerated. What needs the world's facts (owners, jurisdictions, declared
//! blocs) is checked once, when a policy file is loaded; the rule itself is in
//! the algebra of `sharing`, never in an `if` here. The worst bugs of comparable
//! systems were an AND gate whose child got the whole secret, and approvals that
//! counted as given when omitted: hence the subset walk in
//! `engine/tests/secrecy.rs` and thresholds that have no default.
//!
//! Deliberately not here: who approved a policy (officers), placement of shares.

mod analyse;
mod canonical;
mod file;
mod raw;
mod render;
mod sets;

pub use analyse::{Availability, Chance, Group, GroupKind, Report, analyse};
pub use canonical::{
    POLICY_BYTES_MAX, POLICY_CUSTODIANS_MAX, POLICY_GATES_DEPTH_MAX, POLICY_SETS_MAX, PolicyError,
};
pub use file::{
    CustodianFacts, Facts, LoadError, NamedPolicy, POLICIES_MAX, POLICY_FILE_BYTES_MAX, PolicyFile,
    Problem, load,
};

use crate::types::{CustodianId, PolicyId, Structure};
use std::collections::{BTreeMap, BTreeSet};

/// A validated access structure with its id. Exists only if valid.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    structure: Structure,
    identities: BTreeMap<CustodianId, [u8; 32]>,
    id: PolicyId,
}

/// Margins travel beside a policy; they are not part of its id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Margins {
    /// Acknowledged custodians that may be lost right after a write.
    pub write_margin: u8,
    /// Refuse to open an epoch without it.
    pub require_margin: bool,
}

impl Policy {
    /// Puts a tree into canonical order (each gate's children by the smallest
    /// custodian below them), checks it and names it. `identities` gives the hash
    /// of every custodian's identity key, of exactly those in the tree.
    ///
    /// # Errors
    /// [`PolicyError`] with the reason and the way out.
    pub fn new(
        structure: Structure,
        identities: BTreeMap<CustodianId, [u8; 32]>,
    ) -> Result<Self, PolicyError> {
        let structure = canonical::sorted(structure)?;
        canonical::check(&structure, &identities)?;
        let id = canonical::id_of(&canonical::encode(&structure, &identities));
        Ok(Self {
            structure,
            identities,
            id,
        })
    }
    /// Canonical bytes: what is hashed to the id, stored and sent.
    pub fn canonical(&self) -> Vec<u8> {
        canonical::encode(&self.structure, &self.identities)
    }
    /// Parses and validates canonical bytes (structural rules only; declared blocs and entities are checked when a policy file is loaded).
    ///
    /// # Errors
    /// [`PolicyError`]; bytes that are not exactly what [`Policy::canonical`]
    /// gives for some valid policy are refused.
    pub fn from_canonical(bytes: &[u8]) -> Result<Self, PolicyError> {
        let (structure, identities) = canonical::decode(bytes)?;
        let policy = Self::new(structure, identities)?;
        if policy.canonical() != bytes {
            return Err(PolicyError::NotCanonical);
        }
        Ok(policy)
    }
    /// Its id.
    pub fn id(&self) -> PolicyId {
        self.id
    }
    /// Its tree.
    pub fn structure(&self) -> &Structure {
        &self.structure
    }
    /// Hash of each custodian's identity key.
    pub fn identities(&self) -> &BTreeMap<CustodianId, [u8; 32]> {
        &self.identities
    }
    /// All its custodians.
    pub fn custodians(&self) -> BTreeSet<CustodianId> {
        self.identities.keys().cloned().collect()
    }
    /// Whether this set of custodians may open.
    pub fn satisfied_by(&self, set: &BTreeSet<CustodianId>) -> bool {
        sets::satisfied(&self.structure, set)
    }
    /// How many more branches of the root must be satisfied before `have` may open. A branch is
    /// one legal system or bloc, whoever is below it.
    pub fn missing_branches(&self, have: &BTreeSet<CustodianId>) -> usize {
        match &self.structure {
            Structure::Leaf(id) => usize::from(!have.contains(id)),
            Structure::Gate {
                threshold,
                children,
            } => {
                let met = children.iter().filter(|c| sets::satisfied(c, have));
                usize::from(*threshold).saturating_sub(met.count())
            }
        }
    }
    /// How many members of `set`, whichever they are, may be lost before the rest no longer satisfies; `None` when `set` itself does not.
    pub fn margin_of(&self, set: &BTreeSet<CustodianId>) -> Option<usize> {
        sets::cost_to_break(&self.structure, set).checked_sub(1)
    }
    /// All minimal authorised sets, smallest first.
    pub fn minimal_authorised_sets(&self) -> Vec<BTreeSet<CustodianId>> {
        self.what_would_suffice(&BTreeSet::new(), &BTreeSet::new())
    }
    /// All minimal sets whose absence blocks every opening.
    pub fn minimal_blocking_sets(&self) -> Vec<BTreeSet<CustodianId>> {
        sets::smallest_first(sets::minimal_blocking(&self.structure))
    }
    /// Minimal additions to `have` (out of custodians not in `excluded`) that would satisfy; empty when none can.
    ///
    /// When `have` satisfies already, the one addition is the empty set. A
    /// custodian both in `have` and `excluded` counts as had.
    pub fn what_would_suffice(
        &self,
        have: &BTreeSet<CustodianId>,
        excluded: &BTreeSet<CustodianId>,
    ) -> Vec<BTreeSet<CustodianId>> {
        sets::smallest_first(sets::minimal_additions(&self.structure, have, excluded))
    }
}

#[cfg(test)]
mod tests;
