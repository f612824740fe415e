//! Policies (contract stub; bodies follow).
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

/// Why a policy is refused (placeholder).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("stub")]
pub struct PolicyError;

impl Policy {
    /// Canonical bytes: what is hashed to the id, stored and sent.
    pub fn canonical(&self) -> Vec<u8> {
        todo!()
    }
    /// Parses and validates canonical bytes (structural rules only; declared blocs and entities are checked when a policy file is loaded).
    pub fn from_canonical(_bytes: &[u8]) -> Result<Self, PolicyError> {
        todo!()
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
    /// Whether this set of custodians may open.
    pub fn satisfied_by(&self, _set: &BTreeSet<CustodianId>) -> bool {
        todo!()
    }
    /// How many members of `set`, whichever they are, may be lost before the rest no longer satisfies; `None` when `set` itself does not.
    pub fn margin_of(&self, _set: &BTreeSet<CustodianId>) -> Option<usize> {
        todo!()
    }
    /// All minimal authorised sets, smallest first.
    pub fn minimal_authorised_sets(&self) -> Vec<BTreeSet<CustodianId>> {
        todo!()
    }
    /// All minimal sets whose absence blocks every opening.
    pub fn minimal_blocking_sets(&self) -> Vec<BTreeSet<CustodianId>> {
        todo!()
    }
    /// Minimal additions to `have` (out of custodians not in `excluded`) that would satisfy; empty when none can.
    pub fn what_would_suffice(
        &self,
        _have: &BTreeSet<CustodianId>,
        _excluded: &BTreeSet<CustodianId>,
    ) -> Vec<BTreeSet<CustodianId>> {
        todo!()
    }
}
