//! What a policy means in practice: `quorate policy explain` and `lint`.

use super::file::{Facts, NamedPolicy, normal};
use super::render::set_in_words;
use super::sets::{self, Set};
use crate::types::{CustodianId, PolicyId};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// Most custodians for which the chance of a full write margin is computed: it
/// walks every subset.
const SUBSET_WALK_CUSTODIANS_MAX: usize = 16;
/// Most sets of each kind that [`Report`]'s text shows; its fields have all.
const SETS_SHOWN_MAX: usize = 40;

/// Everything the analyser finds about one policy.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// Its name in the file.
    pub name: String,
    /// Its id.
    pub id: PolicyId,
    /// In words.
    pub text: String,
    /// How many custodians it has.
    pub custodians: usize,
    /// How many custodians, whichever they are, may be lost with all of them at hand.
    pub tolerates_any: usize,
    /// Margin asked for at a write.
    pub write_margin: u8,
    /// Whether opening is refused without it.
    pub require_margin: bool,
    /// Smallest first.
    pub minimal_authorised: Vec<BTreeSet<CustodianId>>,
    /// Smallest first.
    pub minimal_blocking: Vec<BTreeSet<CustodianId>>,
    /// What each custodian, bloc, owner, jurisdiction, provider and network can do and what its loss leaves.
    pub groups: Vec<Group>,
    /// When a per-custodian availability was given.
    pub availability: Option<Availability>,
    /// What a careful reader would object to.
    pub warnings: Vec<String>,
}

/// Why custodians may act or fail together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum GroupKind {
    /// One custodian on its own.
    Custodian,
    /// A bloc, nested or declared.
    Bloc,
    /// One legal entity.
    Entity,
    /// One jurisdiction.
    Jurisdiction,
    /// One provider of machines.
    Provider,
    /// One network.
    Network,
}

/// Custodians that may act or fail together, and what follows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Group {
    /// Why they belong together.
    pub kind: GroupKind,
    /// Its name.
    pub name: String,
    /// Those of this policy.
    pub members: BTreeSet<CustodianId>,
    /// Fewest further custodians that would have to join them to open; 0: they open alone.
    pub further_needed: usize,
    /// Margin that their loss leaves; `None`: without them nothing opens.
    pub margin_without: Option<usize>,
}

/// A chance between 0 and 1.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(transparent)]
pub struct Chance(f64);

impl Chance {
    /// `None` outside 0 to 1.
    pub fn new(p: f64) -> Option<Self> {
        (0.0..=1.0).contains(&p).then_some(Self(p))
    }
    /// The number.
    pub fn get(self) -> f64 {
        self.0
    }
}

/// How likely the policy can be used at a given moment, if custodians fail
/// independently (they do not quite: see the groups).
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Availability {
    /// Assumed for each custodian.
    pub per_custodian: Chance,
    /// An authorised set answers: keys can be read.
    pub opens: Chance,
    /// A set answers that satisfies with the write margin to spare; `None` for
    /// policies too large to walk.
    pub opens_with_margin: Option<Chance>,
}

/// Analyses one policy in its world.
pub fn analyse(
    named: &NamedPolicy,
    declared_blocs: &BTreeMap<String, BTreeSet<CustodianId>>,
    facts: &Facts,
    per_custodian: Option<Chance>,
) -> Report {
    let policy = &named.policy;
    let everyone = policy.custodians();
    let groups = groups(named, declared_blocs, facts, &everyone);
    let tolerates_any = policy.margin_of(&everyone).unwrap_or(0);
    Report {
        name: named.name.clone(),
        id: policy.id(),
        text: named.in_words(),
        custodians: everyone.len(),
        tolerates_any,
        write_margin: named.margins.write_margin,
        require_margin: named.margins.require_margin,
        minimal_authorised: policy.minimal_authorised_sets(),
        minimal_blocking: policy.minimal_blocking_sets(),
        warnings: warnings(&groups, tolerates_any, named),
        groups,
        availability: per_custodian.map(|p| availability(named, &everyone, p)),
    }
}

fn groups(
    named: &NamedPolicy,
    declared_blocs: &BTreeMap<String, Set>,
    facts: &Facts,
    everyone: &Set,
) -> Vec<Group> {
    let mut found: BTreeMap<(GroupKind, String), Set> = BTreeMap::new();
    let mut put = |kind, name: String, id: &CustodianId| {
        found.entry((kind, name)).or_default().insert(id.clone());
    };
    for (name, members) in declared_blocs.iter().chain(&named.inner_blocs) {
        for id in members.intersection(everyone) {
            put(GroupKind::Bloc, name.clone(), id);
        }
    }
    for id in everyone {
        put(GroupKind::Custodian, id.to_string(), id);
        if let Some(f) = facts.custodians.get(id) {
            put(GroupKind::Entity, normal(&f.entity), id);
            put(GroupKind::Jurisdiction, normal(&f.jurisdiction), id);
            if let Some(provider) = &f.provider {
                put(GroupKind::Provider, normal(provider), id);
            }
            if let Some(network) = &f.network {
                put(GroupKind::Network, normal(network), id);
            }
        }
    }
    found
        .into_iter()
        .filter(|((kind, _), members)| {
            // An owner of one custodian is that custodian; it stands there already.
            members.len() > 1 || matches!(kind, GroupKind::Custodian | GroupKind::Bloc)
        })
        .map(|((kind, name), members)| Group {
            kind,
            name,
            further_needed: sets::cost_to_satisfy(named.policy.structure(), &members),
            margin_without: named
                .policy
                .margin_of(&everyone.difference(&members).cloned().collect()),
            members,
        })
        .collect()
}

fn warnings(groups: &[Group], tolerates_any: usize, named: &NamedPolicy) -> Vec<String> {
    let mut out = Vec::new();
    if tolerates_any == 0 {
        out.push("the loss of a single custodian can block every opening".to_owned());
    }
    if !named.margins.require_margin && named.margins.write_margin == 0 {
        out.push("epochs open without any margin: a custodian lost right after a write may take the keys with it".to_owned());
    }
    for group in groups.iter().filter(|g| g.kind != GroupKind::Custodian) {
        let who = format!(
            "{} {} ({})",
            group.kind,
            group.name,
            set_in_words(&group.members)
        );
        if group.further_needed == 0 {
            out.push(format!(
                "{who} can open alone; nest it as one member or raise the threshold"
            ));
        }
        if group.margin_without.is_none() {
            out.push(format!(
                "{who} can block every opening; add members outside it"
            ));
        }
    }
    out
}

fn availability(named: &NamedPolicy, everyone: &Set, p: Chance) -> Availability {
    let policy = &named.policy;
    let margin = usize::from(named.margins.write_margin);
    let walkable = everyone.len() <= SUBSET_WALK_CUSTODIANS_MAX;
    let with_margin = walkable.then(|| {
        let ids: Vec<&CustodianId> = everyone.iter().collect();
        let mut sum = 0.0;
        for mask in 0u32..1 << ids.len() {
            let up: Set = (0..ids.len())
                .filter(|i| mask >> i & 1 == 1)
                .map(|i| ids[i].clone())
                .collect();
            if policy.margin_of(&up).is_some_and(|m| m >= margin) {
                let down = ids.len() - up.len();
                sum += p.0.powi(to_i32(up.len())) * (1.0 - p.0).powi(to_i32(down));
            }
        }
        Chance(sum.clamp(0.0, 1.0))
    });
    let opens = sets::probability(policy.structure(), &|_| p.0);
    Availability {
        per_custodian: p,
        opens: Chance(opens.clamp(0.0, 1.0)),
        opens_with_margin: with_margin,
    }
}

fn to_i32(n: usize) -> i32 {
    i32::try_from(n).expect("a policy has at most POLICY_CUSTODIANS_MAX custodians")
}

impl fmt::Display for GroupKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            GroupKind::Custodian => "custodian",
            GroupKind::Bloc => "bloc",
            GroupKind::Entity => "entity",
            GroupKind::Jurisdiction => "jurisdiction",
            GroupKind::Provider => "provider",
            GroupKind::Network => "network",
        })
    }
}

impl fmt::Display for Group {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self.kind {
            GroupKind::Custodian => format!("custodian {}", self.name),
            kind => format!("{kind} {} ({})", self.name, set_in_words(&self.members)),
        };
        write!(f, "{name}: ")?;
        match self.further_needed {
            0 => write!(f, "opens alone")?,
            n => write!(f, "needs {n} more to open")?,
        }
        match self.margin_without {
            None => write!(f, "; without it nothing opens"),
            Some(0) => write!(f, "; without it no further loss is tolerated"),
            Some(n) => write!(f, "; without it {n} more may be lost"),
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "policy {}: {}", self.name, self.text)?;
        writeln!(f, "id {}", self.id)?;
        let required = if self.require_margin {
            "required"
        } else {
            "wished"
        };
        writeln!(
            f,
            "{} custodians; any {} may be lost; write margin {} ({required})",
            self.custodians, self.tolerates_any, self.write_margin
        )?;
        for (title, sets) in [
            ("opens with", &self.minimal_authorised),
            ("blocked by", &self.minimal_blocking),
        ] {
            writeln!(f, "{title} ({} minimal sets):", sets.len())?;
            for set in sets.iter().take(SETS_SHOWN_MAX) {
                writeln!(f, "  {}", set_in_words(set))?;
            }
            if sets.len() > SETS_SHOWN_MAX {
                writeln!(f, "  and {} more", sets.len() - SETS_SHOWN_MAX)?;
            }
        }
        writeln!(f, "alone and together:")?;
        for group in &self.groups {
            writeln!(f, "  {group}")?;
        }
        if let Some(a) = &self.availability {
            write!(
                f,
                "if each answers with {}: opens with {:.6}",
                a.per_custodian.0, a.opens.0
            )?;
            match a.opens_with_margin {
                Some(p) => writeln!(f, ", with the write margin {:.6}", p.0)?,
                None => writeln!(f)?,
            }
        }
        for warning in &self.warnings {
            writeln!(f, "warning: {warning}")?;
        }
        Ok(())
    }
}
