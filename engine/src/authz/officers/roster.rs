//! The roster: who a custodian's officers are and how many must agree.

use super::{Act, Context, Floor, OfficerKey, OfficerRefusal, Statement, line};
use crate::authz::envelope::Envelope;
use crate::authz::identity::RECOVERY_WAIT_MS_MIN;
use crate::authz::orders::COOL_OFF_MS_MIN;
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
    /// A stricter floor from the beginning.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub floor: Option<Floor>,
    /// Other waits from the beginning.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waits: Option<Waits>,
}

/// Longest wait that can be set, in milliseconds: what waits longer than a month is forgotten.
pub const WAIT_MS_MAX: u64 = 30 * 24 * 60 * 60 * 1000;

/// How long things wait at a custodian. What is absent stays as it was.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Waits {
    /// An approved order, before its first release: [`COOL_OFF_MS_MIN`] to [`WAIT_MS_MAX`].
    #[serde(default)]
    pub cool_off_ms: Option<u64>,
    /// A recovery, before it can be finished: [`RECOVERY_WAIT_MS_MIN`] to [`WAIT_MS_MAX`]. One that
    /// began before keeps the wait it began with.
    #[serde(default)]
    pub recovery_ms: Option<u64>,
}

impl Waits {
    fn check(&self) -> Result<(), OfficerRefusal> {
        let each = [
            ("the cool-off of orders", self.cool_off_ms, COOL_OFF_MS_MIN),
            (
                "the wait of recoveries",
                self.recovery_ms,
                RECOVERY_WAIT_MS_MIN,
            ),
        ];
        for (what, wait, min) in each {
            if wait.is_some_and(|ms| !(min..=WAIT_MS_MAX).contains(&ms)) {
                return Err(OfficerRefusal::Act(format!(
                    "{what} must be {min} to {WAIT_MS_MAX} ms"
                )));
            }
        }
        if *self == Self::default() {
            return Err(OfficerRefusal::Act("it sets no wait".into()));
        }
        Ok(())
    }
}

/// A custodian's officers. Exists only if valid.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Roster {
    officers: BTreeMap<OfficerId, Officer>,
    quorum: u8,
    retired: BTreeSet<OfficerId>,
    floor: Option<Floor>,
    waits: Waits,
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
            waits: Waits::default(),
        };
        if let Some(floor) = &b.floor {
            floor.check()?;
            out.floor = Some(*floor);
        }
        if let Some(waits) = b.waits {
            out = out.waiting(waits)?;
        }
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
    /// How long things wait here, where officers said so.
    pub fn waits(&self) -> Waits {
        self.waits
    }

    fn waiting(mut self, waits: Waits) -> Result<Self, OfficerRefusal> {
        waits.check()?;
        self.waits.cool_off_ms = waits.cool_off_ms.or(self.waits.cool_off_ms);
        self.waits.recovery_ms = waits.recovery_ms.or(self.waits.recovery_ms);
        Ok(self)
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
            Act::SetWaits { waits } => next = next.waiting(*waits)?,
            Act::ApprovePolicy { .. }
            | Act::Thaw { .. }
            | Act::Shred { .. }
            | Act::AdmitAuditor { .. }
            | Act::DismissAuditor { .. } => return Ok(None),
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
