//! The local floor: what no approval passes under.

use crate::types::CustodianId;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// Highest number a floor may ask for. Checking one costs the number of ways
/// to choose one fewer out of a policy's members, inside `apply`.
pub const FLOOR_MAX: u8 = 4;

/// What a policy must at least ask for before this custodian deals under it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Floor {
    /// Custodians whose shares are needed.
    pub threshold: u8,
    /// Legal entities among them.
    pub entities: u8,
    /// Independent groups among them: custodians that share an entity or a
    /// declared bloc, directly or over others, are one group.
    pub blocs: u8,
}

impl Default for Floor {
    /// Two of each: nobody alone, no owner alone, no bloc alone.
    fn default() -> Self {
        Self {
            threshold: 2,
            entities: 2,
            blocs: 2,
        }
    }
}

/// What officers state a custodian depends on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Dependence {
    /// The legal entity that runs it.
    pub entity: String,
    /// Blocs it is in; may overlap.
    #[serde(default)]
    pub blocs: BTreeSet<String>,
}

/// Why a policy or a floor is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FloorRefusal {
    /// Some smaller set suffices.
    #[error(
        "{names} would suffice: {have} {what}, this custodian's floor is {floor}; deal under a stricter policy"
    )]
    Under {
        /// Custodians, entities or groups.
        what: &'static str,
        /// What suffices.
        names: String,
        /// How many that is.
        have: usize,
        /// The floor.
        floor: u8,
    },
    /// Not every custodian of the policy is described, or others are.
    #[error(
        "the approval must state entity and blocs of exactly the policy's custodians; {0} does not fit"
    )]
    Members(CustodianId),
    /// A floor of 0, or higher than can be checked.
    #[error("a floor of {0}; 1 to 4 are allowed")]
    Value(u8),
}

impl Floor {
    /// Whether the numbers are ones that can be held.
    ///
    /// # Errors
    /// [`FloorRefusal::Value`] when a number is 0 or above [`FLOOR_MAX`].
    pub fn check(&self) -> Result<(), FloorRefusal> {
        let bad = |n: &u8| !(1..=FLOOR_MAX).contains(n);
        let found = [self.threshold, self.entities, self.blocs];
        found
            .into_iter()
            .find(bad)
            .map_or(Ok(()), |n| Err(FloorRefusal::Value(n)))
    }

    /// The stricter of both, number by number.
    pub fn higher(&self, other: &Floor) -> Floor {
        Floor {
            threshold: self.threshold.max(other.threshold),
            entities: self.entities.max(other.entities),
            blocs: self.blocs.max(other.blocs),
        }
    }

    /// Whether every sufficient set has enough custodians; all that can be
    /// said before officers stated entities and blocs.
    ///
    /// # Errors
    /// [`FloorRefusal::Under`].
    pub fn admits_threshold(
        &self,
        custodians: &BTreeSet<CustodianId>,
        satisfied: &dyn Fn(&BTreeSet<CustodianId>) -> bool,
    ) -> Result<(), FloorRefusal> {
        let alone = |c: &CustodianId| (c.to_string(), BTreeSet::from([c.clone()]));
        let singles: Vec<_> = custodians.iter().map(alone).collect();
        enough("custodians", self.threshold, &singles, satisfied)
    }

    /// Whether every sufficient set meets the floor.
    ///
    /// # Errors
    /// [`FloorRefusal`].
    pub fn admits(
        &self,
        custodians: &BTreeSet<CustodianId>,
        members: &BTreeMap<CustodianId, Dependence>,
        satisfied: &dyn Fn(&BTreeSet<CustodianId>) -> bool,
    ) -> Result<(), FloorRefusal> {
        let described: BTreeSet<_> = members.keys().cloned().collect();
        if let Some(odd) = described.symmetric_difference(custodians).next() {
            return Err(FloorRefusal::Members(odd.clone()));
        }
        if let Some((id, _)) = members.iter().find(|(_, d)| d.entity.trim().is_empty()) {
            return Err(FloorRefusal::Members(id.clone()));
        }
        self.admits_threshold(custodians, satisfied)?;
        let mut entities: BTreeMap<&str, BTreeSet<CustodianId>> = BTreeMap::new();
        for (id, d) in members {
            entities.entry(&d.entity).or_default().insert(id.clone());
        }
        let named = |(e, c): (&str, BTreeSet<CustodianId>)| (e.to_owned(), c);
        let entities: Vec<_> = entities.into_iter().map(named).collect();
        enough("entities", self.entities, &entities, satisfied)?;
        enough(
            "independent groups",
            self.blocs,
            &groups(members),
            satisfied,
        )
    }
}

type Group = (String, BTreeSet<CustodianId>);

/// Custodians joined by what they share.
fn groups(members: &BTreeMap<CustodianId, Dependence>) -> Vec<Group> {
    let mut out: Vec<(BTreeSet<String>, BTreeSet<CustodianId>)> = Vec::new();
    for (id, d) in members {
        let mut ties: BTreeSet<String> = d.blocs.iter().map(|b| format!("bloc {b}")).collect();
        ties.insert(format!("entity {}", d.entity));
        let mut all = BTreeSet::from([id.clone()]);
        let (joined, apart) = out.into_iter().partition(|(t, _)| !t.is_disjoint(&ties));
        out = apart;
        let joined: Vec<(BTreeSet<String>, BTreeSet<CustodianId>)> = joined;
        for (t, c) in joined {
            ties.extend(t);
            all.extend(c);
        }
        out.push((ties, all));
    }
    let name = |c: &BTreeSet<CustodianId>| {
        let names: Vec<_> = c.iter().map(ToString::to_string).collect();
        names.join("+")
    };
    out.into_iter().map(|(_, c)| (name(&c), c)).collect()
}

/// That no `floor - 1` of `parts` together satisfy.
fn enough(
    what: &'static str,
    floor: u8,
    parts: &[Group],
    satisfied: &dyn Fn(&BTreeSet<CustodianId>) -> bool,
) -> Result<(), FloorRefusal> {
    let most = usize::from(floor.clamp(1, FLOOR_MAX)) - 1;
    let mut chosen = Vec::new();
    match smaller(parts, most.min(parts.len()), satisfied, &mut chosen) {
        None => Ok(()),
        Some(names) => Err(FloorRefusal::Under {
            what,
            have: names.len(),
            names: names.join(", "),
            floor,
        }),
    }
}

fn smaller<'a>(
    parts: &'a [Group],
    left: usize,
    satisfied: &dyn Fn(&BTreeSet<CustodianId>) -> bool,
    chosen: &mut Vec<&'a Group>,
) -> Option<Vec<String>> {
    let union: BTreeSet<_> = chosen.iter().flat_map(|(_, c)| c.iter().cloned()).collect();
    if satisfied(&union) {
        return Some(chosen.iter().map(|(n, _)| n.clone()).collect());
    }
    if left == 0 {
        return None;
    }
    for (n, part) in parts.iter().enumerate() {
        chosen.push(part);
        let found = smaller(&parts[n + 1..], left - 1, satisfied, chosen);
        chosen.pop();
        if found.is_some() {
            return found;
        }
    }
    None
}
