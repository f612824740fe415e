//! The roster: who a custodian's officers are and how many must agree.

use super::{Act, Context, Floor, OfficerKey, OfficerRefusal, Statement, line};
use crate::authz::envelope::Envelope;
use crate::types::{CustodianId, OfficerId};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// Fewest officers of a custodian.
pub const OFFICERS_MIN: usize = 2;
/// Most officers of a custodian.
pub const OFFICERS_MAX: usize = 16;
/// Longest name of an officer, in bytes.
pub const NAME_BYTES_MAX: usize = 64;
/// Most keys a roster remembers as used up.
pub const RETIRED_MAX: usize = 1024;

/// One officer: a key and whose it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Officer {
    /// For people; 1 to [`NAME_BYTES_MAX`] bytes, unique in the roster.
    pub name: String,
    /// Ed25519 public key.
    pub public: OfficerKey,
}

/// The first roster. Every officer in it signs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bootstrap {
    /// Whose officers.
    pub custodian: CustodianId,
    /// [`OFFICERS_MIN`] to [`OFFICERS_MAX`].
    pub officers: Vec<Officer>,
    /// How many must agree; 2 to [`quorum_max`].
    pub quorum: u8,
}

/// A custodian's officers. Exists only if valid.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Roster {
    officers: BTreeMap<OfficerId, Officer>,
    quorum: u8,
    retired: BTreeSet<OfficerId>,
    floor: Option<Floor>,
}

/// The highest quorum of `officers`: one fewer than all, from three on. One
/// lost key then never locks the others out. Two officers must both agree.
pub fn quorum_max(officers: usize) -> usize {
    officers.saturating_sub(1).max(OFFICERS_MIN)
}

impl Roster {
    /// The roster of a `Bootstrap`, signed by all its officers and nobody else.
    ///
    /// # Errors
    /// [`OfficerRefusal`]; the caller refuses when a roster exists.
    pub fn bootstrap(envelope: &Envelope, at: &Context<'_>) -> Result<Self, OfficerRefusal> {
        let Statement::Bootstrap(b) = Statement::read(envelope)? else {
            return Err(OfficerRefusal::Type("bootstrap of officers"));
        };
        at.meant(&b.custodian)?;
        let mut out = Self {
            officers: BTreeMap::new(),
            quorum: b.quorum,
            retired: BTreeSet::new(),
            floor: None,
        };
        for officer in b.officers {
            out.admit(officer)?;
        }
        let signed: BTreeSet<_> = at.signers(envelope)?.iter().map(OfficerKey::id).collect();
        if let Some(missing) = out.officers.keys().find(|id| !signed.contains(id)) {
            return Err(OfficerRefusal::Possession(*missing));
        }
        if let Some(stranger) = signed.iter().find(|id| !out.officers.contains_key(id)) {
            return Err(OfficerRefusal::NotAnOfficer(*stranger));
        }
        out.valid()
    }

    /// The officers.
    pub fn officers(&self) -> &BTreeMap<OfficerId, Officer> {
        &self.officers
    }
    /// How many must agree.
    pub fn quorum(&self) -> usize {
        usize::from(self.quorum)
    }
    /// Whether `id` is an officer now.
    pub fn has(&self, id: &OfficerId) -> bool {
        self.officers.contains_key(id)
    }
    /// The floor that officers raised, beside the one the custodian was built with.
    pub fn floor(&self) -> Option<Floor> {
        self.floor
    }
    /// How many of `who` are officers now and not `except`.
    pub fn count<'a>(
        &self,
        who: impl IntoIterator<Item = &'a OfficerId>,
        except: Option<&OfficerId>,
    ) -> usize {
        who.into_iter()
            .filter(|id| self.has(id) && Some(*id) != except)
            .count()
    }

    /// The roster after `act`; `None` when `act` does not concern the roster.
    /// Who agreed and who showed possession was checked before.
    ///
    /// # Errors
    /// [`OfficerRefusal`] when the roster would not be valid.
    pub fn after(&self, act: &Act) -> Result<Option<Self>, OfficerRefusal> {
        let mut next = self.clone();
        match act {
            Act::AddOfficer { officer } => next.admit(officer.clone())?,
            Act::RemoveOfficer { officer } => {
                next.retire(officer)?;
            }
            Act::ReplaceKey { officer, public } => {
                let old = next.retire(officer)?;
                next.admit(Officer {
                    name: old.name,
                    public: *public,
                })?;
            }
            Act::SetQuorum { quorum } => next.quorum = *quorum,
            Act::RaiseFloor { floor } => {
                floor.check()?;
                next.floor = Some(self.floor.map_or(*floor, |old| old.higher(floor)));
            }
            Act::ApprovePolicy { .. } | Act::Thaw { .. } | Act::Shred { .. } => return Ok(None),
        }
        next.valid().map(Some)
    }

    fn admit(&mut self, officer: Officer) -> Result<(), OfficerRefusal> {
        let taken = self.officers.values().any(|o| o.name == officer.name);
        if taken || !line(&officer.name, NAME_BYTES_MAX) {
            return Err(OfficerRefusal::Name(officer.name));
        }
        let id = officer.public.id();
        if self.has(&id) || self.retired.contains(&id) {
            return Err(OfficerRefusal::KeyUsed(id));
        }
        self.officers.insert(id, officer);
        Ok(())
    }

    fn retire(&mut self, id: &OfficerId) -> Result<Officer, OfficerRefusal> {
        let gone = self.officers.remove(id);
        let gone = gone.ok_or(OfficerRefusal::NotAnOfficer(*id))?;
        if self.retired.len() == RETIRED_MAX {
            return Err(OfficerRefusal::Act(format!(
                "{RETIRED_MAX} keys were used up here; no more can be remembered"
            )));
        }
        self.retired.insert(*id);
        Ok(gone)
    }

    fn valid(self) -> Result<Self, OfficerRefusal> {
        let officers = self.officers.len();
        if !(OFFICERS_MIN..=OFFICERS_MAX).contains(&officers) {
            return Err(OfficerRefusal::OfficerCount(officers));
        }
        let max = quorum_max(officers);
        if !(OFFICERS_MIN..=max).contains(&self.quorum()) {
            return Err(OfficerRefusal::Quorum {
                quorum: self.quorum,
                officers,
                max,
            });
        }
        Ok(self)
    }
}
