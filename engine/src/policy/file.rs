//! Policy files: TOML to validated policies, or every reason why not.
//!
//! Reading is strict: unknown and duplicate keys are refused, a threshold has no
//! default (approvals that counted as given when omitted opened secrets
//! elsewhere, openbao#3666), and all problems are reported at once, each with
//! the way out.

use super::raw::{RawBloc, RawFile, RawMember, RawPolicy};
use super::render::{GateNames, in_words, set_in_words};
use super::sets::Set;
use super::{Margins, Policy, PolicyError};
use crate::sharing::{ThresholdError, ValidThreshold};
use crate::types::ids::IdError;
use crate::types::{CustodianId, Structure};
use std::collections::{BTreeMap, BTreeSet};

/// Longest policy file, in bytes.
pub const POLICY_FILE_BYTES_MAX: usize = 256 << 10;
/// Most policies in one file.
pub const POLICIES_MAX: usize = 64;
/// Acknowledged custodians that may be lost right after a write, where a policy
/// does not say: one, or none when the policy tolerates none.
const WRITE_MARGIN_DEFAULT: usize = 1;

/// What a custodian's descriptor says about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CustodianFacts {
    /// Whose law it is under (`ch`).
    pub jurisdiction: String,
    /// The legal entity that runs it.
    pub entity: String,
    /// Hash of its identity key; part of the canonical form.
    pub identity: [u8; 32],
    /// Whose machines it runs on.
    pub provider: Option<String>,
    /// Whose network it is reached by.
    pub network: Option<String>,
}

/// What the descriptors imported here say: the world a policy is judged in.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Facts {
    /// The home's jurisdiction.
    pub home_jurisdiction: String,
    /// The home's legal entity.
    pub home_entity: String,
    /// Every custodian whose descriptor was imported.
    pub custodians: BTreeMap<CustodianId, CustodianFacts>,
}

/// A policy as its file has it: named, with margins and names of inner blocs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedPolicy {
    /// NAME in `[policy.NAME]`.
    pub name: String,
    /// The policy.
    pub policy: Policy,
    /// Its margins.
    pub margins: Margins,
    /// The custodians of each inner bloc, by its name.
    pub inner_blocs: BTreeMap<String, BTreeSet<CustodianId>>,
}

impl NamedPolicy {
    /// In words: `any 3 of br, ch, eu(any 1 of de, nl), is, sg`.
    pub fn in_words(&self) -> String {
        let names: GateNames = self
            .inner_blocs
            .iter()
            .map(|(name, members)| (members.clone(), name.clone()))
            .collect();
        in_words(self.policy.structure(), &names)
    }
}

/// A whole policy file.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct PolicyFile {
    /// The policies by name.
    pub policies: BTreeMap<String, NamedPolicy>,
    /// Declared dependence; may overlap.
    pub blocs: BTreeMap<String, BTreeSet<CustodianId>>,
}

/// Why a policy file is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LoadError {
    /// Over [`POLICY_FILE_BYTES_MAX`].
    #[error("the policy file has {0} bytes; at most {POLICY_FILE_BYTES_MAX} are read")]
    TooLong(usize),
    /// Not TOML, or not of this shape: an unknown or duplicate key, a wrong type.
    #[error("the policy file cannot be read: {0}")]
    Toml(String),
    /// Well-formed, but not to be used.
    #[error("the policy file is refused:\n{}", .0.iter().map(|p| format!("- {p}")).collect::<Vec<_>>().join("\n"))]
    Refused(Vec<Problem>),
}

/// One reason to refuse a policy file. `at` names the policy or bloc.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)] // The messages are the documentation; fields are what they name.
pub enum Problem {
    #[error("{at}: no threshold; say how many members are needed, there is no default")]
    ThresholdOmitted { at: String },
    #[error("{at}: a threshold of {threshold} is not a number of members; give 1 to 255")]
    ThresholdRange { at: String, threshold: i64 },
    #[error("{at}: {error}")]
    Threshold { at: String, error: ThresholdError },
    #[error("{at}: no members; name the custodians")]
    NoMembers { at: String },
    #[error("{at}: {error}")]
    Name { at: String, error: IdError },
    #[error("{at}: the name {name:?} is used twice; one name, one thing")]
    NameTwice { at: String, name: String },
    #[error(
        "{at}: bloc {name} has other members here than under [bloc]; make them equal or rename one"
    )]
    BlocDiffers { at: String, name: String },
    #[error(
        "{at}: no descriptor of custodian {custodian} is imported; import it or correct the name"
    )]
    NoDescriptor { at: String, custodian: CustodianId },
    #[error("{at}: the descriptor of {custodian} names no {what}; ask for a complete one")]
    IncompleteDescriptor {
        at: String,
        custodian: CustodianId,
        what: &'static str,
    },
    #[error("{at}: {error}")]
    Structure { at: String, error: PolicyError },
    #[error(
        "{at}: {first} and {second} are both run by {entity:?} and would count twice; \
         put them into one bloc"
    )]
    SameEntity {
        at: String,
        first: CustodianId,
        second: CustodianId,
        entity: String,
    },
    #[error(
        "{at}: {custodian} is in the home's jurisdiction {jurisdiction:?}; choose one elsewhere"
    )]
    HomeJurisdiction {
        at: String,
        custodian: CustodianId,
        jurisdiction: String,
    },
    #[error(
        "{at}: {custodian} is run by the home's own entity {entity:?}; choose an independent one"
    )]
    HomeEntity {
        at: String,
        custodian: CustodianId,
        entity: String,
    },
    #[error(
        "{at}: bloc {bloc} ({members}) could open alone; raise the threshold, or nest it as one member"
    )]
    BlocOpensAlone {
        at: String,
        bloc: String,
        members: String,
    },
    #[error(
        "{at}: losing {custodians} alone would block every opening; add members or lower the \
         threshold, or set accept_no_tolerance = true if that is meant"
    )]
    NoTolerance { at: String, custodians: String },
    #[error(
        "{at}: write_margin = {margin} can never be met; with all custodians the margin is {possible}"
    )]
    Margin {
        at: String,
        margin: i64,
        possible: usize,
    },
    #[error("the home's own {what} is not known; without it nothing can be told apart from it")]
    HomeUnknown { what: &'static str },
    #[error("{count} policies; a file has at most {POLICIES_MAX}")]
    TooManyPolicies { count: usize },
}

/// Reads, validates and names the policies of a file.
///
/// # Errors
/// [`LoadError`]; when refused, with every reason found.
pub fn load(text: &str, facts: &Facts) -> Result<PolicyFile, LoadError> {
    if text.len() > POLICY_FILE_BYTES_MAX {
        return Err(LoadError::TooLong(text.len()));
    }
    let raw: RawFile =
        toml::from_str(text).map_err(|e| LoadError::Toml(e.to_string().trim_end().to_owned()))?;
    let mut loader = Loader {
        facts,
        blocs: BTreeMap::new(),
        problems: Vec::new(),
    };
    if raw.policy.len() > POLICIES_MAX {
        let count = raw.policy.len();
        return Err(LoadError::Refused(vec![Problem::TooManyPolicies { count }]));
    }
    for (what, value) in [
        ("jurisdiction", &facts.home_jurisdiction),
        ("legal entity", &facts.home_entity),
    ] {
        if normal(value).is_empty() {
            loader.problems.push(Problem::HomeUnknown { what });
        }
    }
    for (name, members) in &raw.bloc {
        loader.declared_bloc(name, members);
    }
    let mut policies = BTreeMap::new();
    for (name, raw) in &raw.policy {
        if let Some(policy) = loader.policy(name, raw) {
            policies.insert(name.clone(), policy);
        }
    }
    if loader.problems.is_empty() {
        Ok(PolicyFile {
            policies,
            blocs: loader.blocs,
        })
    } else {
        Err(LoadError::Refused(loader.problems))
    }
}

/// What entities and jurisdictions are compared by: case and spacing do not
/// make two of one.
pub(super) fn normal(name: &str) -> String {
    let words: Vec<String> = name.split_whitespace().map(str::to_lowercase).collect();
    words.join(" ")
}

struct Loader<'a> {
    facts: &'a Facts,
    blocs: BTreeMap<String, Set>,
    problems: Vec<Problem>,
}

impl Loader<'_> {
    fn custodian(&mut self, at: &str, name: &str) -> Option<CustodianId> {
        match CustodianId::new(name) {
            Ok(id) => {
                if !self.facts.custodians.contains_key(&id) {
                    self.problems.push(Problem::NoDescriptor {
                        at: at.into(),
                        custodian: id.clone(),
                    });
                }
                Some(id)
            }
            Err(error) => {
                self.problems.push(Problem::Name {
                    at: at.into(),
                    error,
                });
                None
            }
        }
    }

    /// Names of policies and blocs follow the rule of custodians' names, and a
    /// bloc may not be called like a custodian.
    fn checked_name(&mut self, at: &str, name: &str, bloc: bool) {
        match CustodianId::new(name) {
            Err(error) => self.problems.push(Problem::Name {
                at: at.into(),
                error,
            }),
            Ok(id) if bloc && self.facts.custodians.contains_key(&id) => {
                self.problems.push(Problem::NameTwice {
                    at: at.into(),
                    name: name.into(),
                });
            }
            Ok(_) => {}
        }
    }

    fn declared_bloc(&mut self, name: &str, members: &[String]) {
        let at = format!("bloc.{name}");
        self.checked_name(&at, name, true);
        if members.is_empty() {
            self.problems.push(Problem::NoMembers { at: at.clone() });
        }
        let mut set = Set::new();
        for member in members {
            if let Some(id) = self.custodian(&at, member)
                && !set.insert(id)
            {
                self.problems.push(Problem::NameTwice {
                    at: at.clone(),
                    name: member.clone(),
                });
            }
        }
        self.blocs.insert(name.into(), set);
    }

    fn policy(&mut self, name: &str, raw: &RawPolicy) -> Option<NamedPolicy> {
        let at = format!("policy.{name}");
        let before = self.problems.len();
        self.checked_name(&at, name, false);
        let mut inner_blocs = BTreeMap::new();
        let structure = self.gate(&at, raw.threshold, raw.members.as_deref(), &mut inner_blocs)?;
        if self.problems.len() > before {
            return None;
        }
        let identities = structure
            .leaves()
            .into_iter()
            .filter_map(|id| Some((id.clone(), self.facts.custodians.get(id)?.identity)))
            .collect();
        let policy = match Policy::new(structure, identities) {
            Ok(policy) => policy,
            Err(error) => {
                self.problems.push(Problem::Structure { at, error });
                return None;
            }
        };
        self.check_owners(&at, &policy);
        self.check_blocs(&at, &policy, &inner_blocs);
        let margins = self.check_margins(&at, &policy, raw);
        (self.problems.len() == before).then(|| NamedPolicy {
            name: name.into(),
            policy,
            margins,
            inner_blocs,
        })
    }

    fn gate(
        &mut self,
        at: &str,
        threshold: Option<i64>,
        members: Option<&[RawMember]>,
        inner_blocs: &mut BTreeMap<String, Set>,
    ) -> Option<Structure> {
        let at_owned = || at.to_owned();
        let members = members.unwrap_or_default();
        if members.is_empty() {
            self.problems.push(Problem::NoMembers { at: at_owned() });
        }
        let children: Vec<Structure> = members
            .iter()
            .filter_map(|member| match member {
                RawMember::Custodian(name) => self.custodian(at, name).map(Structure::Leaf),
                RawMember::Bloc(raw) => self.inner_bloc(at, raw, inner_blocs),
            })
            .collect();
        let Some(threshold) = threshold else {
            self.problems
                .push(Problem::ThresholdOmitted { at: at_owned() });
            return None;
        };
        let Ok(wide) = usize::try_from(threshold) else {
            self.problems.push(Problem::ThresholdRange {
                at: at_owned(),
                threshold,
            });
            return None;
        };
        match ValidThreshold::new(wide, members.len()) {
            Ok(valid) => Some(Structure::Gate {
                threshold: valid.threshold(),
                children,
            }),
            Err(ThresholdError::NoShares) => None,
            Err(error) => {
                self.problems.push(Problem::Threshold {
                    at: at_owned(),
                    error,
                });
                None
            }
        }
    }

    fn inner_bloc(
        &mut self,
        at: &str,
        raw: &RawBloc,
        inner_blocs: &mut BTreeMap<String, Set>,
    ) -> Option<Structure> {
        let name = raw.bloc.as_str();
        let at = format!("{at}, bloc {name}");
        self.checked_name(&at, name, true);
        let node = self.gate(&at, raw.threshold, raw.members.as_deref(), inner_blocs)?;
        let below: Set = node.leaves().into_iter().cloned().collect();
        if self
            .blocs
            .get(name)
            .is_some_and(|declared| *declared != below)
        {
            self.problems.push(Problem::BlocDiffers {
                at: at.clone(),
                name: name.into(),
            });
        }
        if inner_blocs.insert(name.into(), below).is_some() {
            self.problems.push(Problem::NameTwice {
                at,
                name: name.into(),
            });
        }
        Some(node)
    }

    fn check_owners(&mut self, at: &str, policy: &Policy) {
        let at = || at.to_owned();
        // A custodian's place: which child of the root it stands below, and whether alone there.
        let children: &[Structure] = match policy.structure() {
            Structure::Gate { children, .. } => children,
            Structure::Leaf(_) => &[],
        };
        let mut owners: BTreeMap<String, (usize, CustodianId)> = BTreeMap::new();
        for (place, child) in children.iter().enumerate() {
            for id in child.leaves() {
                let Some(facts) = self.facts.custodians.get(id) else {
                    continue;
                };
                for (what, value) in [
                    ("jurisdiction", &facts.jurisdiction),
                    ("legal entity", &facts.entity),
                ] {
                    if normal(value).is_empty() {
                        self.problems.push(Problem::IncompleteDescriptor {
                            at: at(),
                            custodian: id.clone(),
                            what,
                        });
                    }
                }
                if normal(&facts.jurisdiction) == normal(&self.facts.home_jurisdiction) {
                    self.problems.push(Problem::HomeJurisdiction {
                        at: at(),
                        custodian: id.clone(),
                        jurisdiction: facts.jurisdiction.clone(),
                    });
                }
                let entity = normal(&facts.entity);
                if entity == normal(&self.facts.home_entity) {
                    self.problems.push(Problem::HomeEntity {
                        at: at(),
                        custodian: id.clone(),
                        entity: facts.entity.clone(),
                    });
                }
                match owners.get(&entity) {
                    Some((other_place, first)) if *other_place != place => {
                        self.problems.push(Problem::SameEntity {
                            at: at(),
                            first: first.clone(),
                            second: id.clone(),
                            entity: facts.entity.clone(),
                        });
                    }
                    Some(_) => {}
                    None => {
                        owners.insert(entity, (place, id.clone()));
                    }
                }
            }
        }
    }

    fn check_blocs(&mut self, at: &str, policy: &Policy, inner_blocs: &BTreeMap<String, Set>) {
        let mut opening = BTreeMap::new();
        for (name, members) in self.blocs.iter().chain(inner_blocs) {
            if policy.satisfied_by(members) {
                opening.insert(name.clone(), set_in_words(members));
            }
        }
        for (bloc, members) in opening {
            self.problems.push(Problem::BlocOpensAlone {
                at: at.into(),
                bloc,
                members,
            });
        }
    }

    fn check_margins(&mut self, at: &str, policy: &Policy, raw: &RawPolicy) -> Margins {
        let possible = policy.margin_of(&policy.custodians()).unwrap_or(0);
        if possible == 0 && !raw.accept_no_tolerance {
            let single: Set = policy
                .minimal_blocking_sets()
                .into_iter()
                .filter(|set| set.len() == 1)
                .flatten()
                .collect();
            self.problems.push(Problem::NoTolerance {
                at: at.into(),
                custodians: single
                    .iter()
                    .map(CustodianId::as_str)
                    .collect::<Vec<_>>()
                    .join(" or "),
            });
        }
        let margin = match raw.write_margin {
            None => WRITE_MARGIN_DEFAULT.min(possible),
            Some(margin) => match usize::try_from(margin) {
                Ok(fits) if fits <= possible => fits,
                _ => {
                    self.problems.push(Problem::Margin {
                        at: at.into(),
                        margin,
                        possible,
                    });
                    0
                }
            },
        };
        Margins {
            write_margin: u8::try_from(margin).expect("at most POLICY_CUSTODIANS_MAX"),
            require_margin: raw.require_margin,
        }
    }
}
